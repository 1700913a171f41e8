"""Line losses of a month's days at one level, against the worst state lasting all the time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dcu.grid.feeder import solve
from dcu.planning.deterministic import WorstCase, worst_state
from dcu.planning.draws import Sampling, draw, stream
from dcu.planning.evaluate import TOLERANCE_PU
from dcu.planning.feeder_case import FeederCase
from dcu.planning.history import Reals
from dcu.planning.profiles import profiles
from dcu.planning.world import World, blocks
from shared.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Energy lost in the lines between two hours of a day [Wh]: of each simulated day, sorted, with one PV
    probability a state and with one a day; and with the worst state from the first hour to the last."""

    hours: tuple[float, float]
    by_state_wh: Reals
    by_day_wh: Reals
    worst_wh: float


def losses(world: World, scenario: str, level_w: float, month: int, hours: tuple[float, float], days: int) -> Losses:
    """Losses at a level.

    Raises:
        ConfigError: no recording of that month.
    """
    inputs, case = world.inputs, world.cases[scenario]
    own = inputs.past.only(inputs.past.month == month)
    if own.days < 1:
        raise ConfigError("meter data", [Fault("extras.losses_month", f"no day of month {month}", "recorded days")])
    by_customer = {e.customer: e.rated_w for e in inputs.existing}
    there = profiles(own, "year", inputs.reference.of_month(month), "meter data")
    slots = there.slots
    inside = (np.arange(slots) >= hours[0] * slots / 24 - 1e-9) & (np.arange(slots) < hours[1] * slots / 24 - 1e-9)
    interval_h = 24 / slots
    found = []
    for scope in ("state", "day"):
        sums = []
        for block, count in enumerate(blocks(days)):
            rng = stream(inputs.seed, world.feeder_name, "losses", block)
            d = draw(there, Sampling("independent", "day" if scope == "day" else "state"), rng, count)
            pick = np.tile(inside, count)
            loss = _loss_w(case, case.base_w(d)[pick], d.per_w[pick], level_w)
            sums.append(loss.reshape(count, -1).sum(axis=1) * interval_h)
        found.append(np.sort(np.concatenate(sums)))
    rated = np.array([by_customer[c] for c in inputs.past.pv_customers])
    worst = worst_state(WorstCase.I, inputs.past, rated, 0.8, inputs.profiles.reference_days[0])
    base = worst.load_w[None] @ case.load_share - worst.pv_w[None] @ case.existing_share
    worst_w = float(_loss_w(case, base, np.array([worst.per_w]), level_w)[0])
    return Losses(hours, found[0], found[1], worst_w * (hours[1] - hours[0]))


def _loss_w(case: FeederCase, base_w: Reals, per_w: Reals, level_w: float) -> Reals:
    batch = case.injections(base_w, per_w, level_w)
    flow = solve(case.feeder, batch, results=("loss_w",), tolerance_pu=TOLERANCE_PU, threads=1)
    return np.asarray(flow["loss_w"])
