"""The deterministic twin: the same growth judged by one worst state a level (cases I, II, III of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dcu.planning.capacity import Capacity, Rule, Steps, capacities, grow
from dcu.planning.evaluate import Limits, tally
from dcu.planning.history import History, Reals
from dcu.planning.world import World
from shared.errors import ConfigError, Fault


class WorstCase(StrEnum):
    """What is assumed to happen at once."""

    I = "I"  # noqa: E741 the paper's name
    """Every unit at its rating, every customer at its smallest recorded load."""
    II = "II"
    """The interval in which recorded PV was highest, with the loads of that interval."""
    III = "III"
    """The interval of smallest load among those with PV of at least a share of its maximum."""


@dataclass(frozen=True, slots=True, eq=False)
class WorstState:
    """One state: loads (n_customer) and existing PV (n_unit) [W], and power of a 1 W unit."""

    load_w: Reals
    pv_w: Reals
    per_w: float


def worst_state(case: WorstCase, past: History, rated_w: Reals, threshold: float, reference: Reals) -> WorstState:
    """The state of a case.

    Args:
        case: which.
        past: recordings.
        rated_w: rating of each PV unit, in the order of the recordings [W].
        threshold: share of the largest recorded PV from which an interval counts as one of injection (case III).
        reference: power of a unit of 1 W (n_day, n_slot) [W/W]; what the sun is judged by where no unit is recorded.

    Raises:
        ConfigError: no interval in which everybody, and the sun, was recorded.
    """
    if case is WorstCase.I:
        return WorstState(np.nanmin(past.load_w, axis=(1, 2)), rated_w, 1.0)
    load = past.load_w.reshape(len(past.load_w), -1)
    pv = past.pv_w.reshape(len(past.pv_w), load.shape[1])
    total_load = load.sum(axis=0)
    total_pv = pv.sum(axis=0) if len(pv) else reference.ravel()
    rating = rated_w.sum() if len(pv) else 1.0
    if not np.isfinite(total_load + total_pv).any():
        raise ConfigError(
            "meter data", [Fault("deterministic", "no interval with all loads and the sun recorded", "at least one")]
        )
    total_pv = np.where(np.isfinite(total_load), total_pv, np.nan)
    if case is WorstCase.II:
        at = int(np.nanargmax(total_pv))
    else:
        sunny = total_pv >= threshold * np.nanmax(total_pv)
        at = int(np.nanargmin(np.where(sunny, total_load, np.nan)))
    return WorstState(load[:, at], pv[:, at], float(total_pv[at] / rating))


def deterministic(world: World, scenario: str, case: WorstCase, threshold: float, steps: Steps) -> list[Capacity]:
    """Capacities of a scenario in one case."""
    inputs, feeder = world.inputs, world.cases[scenario]
    by_customer = {e.customer: e.rated_w for e in inputs.existing}
    rated = np.array([by_customer[c] for c in inputs.past.pv_customers])
    state = worst_state(case, inputs.past, rated, threshold, inputs.profiles.reference_days[0])
    base = state.load_w[None] @ feeder.load_share - state.pv_w[None] @ feeder.existing_share
    per_w = np.array([state.per_w])
    growth = grow(feeder, world.observers[scenario], Rule(100.0, 1.0), steps)
    level_w = next(growth)
    limits: Limits = inputs.limits
    while True:
        found = tally(feeder, world.observers[scenario], base, per_w, level_w, limits, detail=False)
        try:
            level_w = growth.send(found)
        except StopIteration as end:
            return capacities(end.value, feeder.existing_w)
