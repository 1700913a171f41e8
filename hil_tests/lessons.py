"""What a street without a network model learns before the day that is evaluated: days at nominal limits, as meters see
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.hosting.headroom import Situation
from dcu.hosting.view import Taught
from hil_tests.day import Day
from hil_tests.street_flow import StreetFlow

Reals = NDArray[np.float64]

WANDER_V: Final = 1.0
"""Standard deviation of what the medium voltage does to the busbar [V]."""
WANDER_MINUTES: Final = 30.0
FLICKER_V: Final = 0.03
LAST_DIGIT_V: Final = 0.1
SHIFT_MINUTES: Final = 30
"""Every day households live up to so much earlier or later, and each lives another's day."""


def teach(
    pupil: Callable[[Taught], object], flow: StreetFlow, day: Day, nominal_w: float, days: int, seed: int
) -> None:
    """Days of minutes that end where the street begins.

    Args:
        pupil: takes a lesson; numbers the ports customer by customer.
        flow: the feeder.
        day: a whole day of 24 hours with the street's own plants.
        nominal_w: export limit of every customer.
        days: how many.
        seed: of who lives whose day, clouds apart.
    """
    random = np.random.default_rng([seed, 9])
    order = np.array([port for ports in flow.ports for port in ports])
    for k in range(days):
        who = random.permutation(day.p_w.shape[1])
        shift = int(random.integers(-SHIFT_MINUTES, SHIFT_MINUTES + 1))
        own, reactive = (np.roll(x[:, who], shift, axis=0) for x in (day.p_w, day.q_var))
        dark = np.clip(random.normal(1.0, 0.15, len(own)), 0.1, 1.0)[:, None]
        exports = np.minimum(day.pv_w * dark @ day.spread, np.maximum(0.0, own) + nominal_w * day.spread.any(axis=0))
        p = own - exports
        found = solve(flow.feeder, Injections(p, reactive), results=("port_u_v", "bus_u_v"))
        lift = 1 + _wander(len(p), random)[:, None] / 230.0
        u = np.abs(found["port_u_v"]) * lift
        busbar = flow.busbar_rows
        at_busbar = np.abs(found["bus_u_v"][:, busbar]) * lift
        seen, seen_busbar = (_shown(x + random.normal(0, FLICKER_V, x.shape)) for x in (u, at_busbar))
        for minute in range(len(p)):
            now = -60.0 * ((days - k) * len(p) - minute)
            s = Situation(
                np.round(p[minute, order], 1), np.round(reactive[minute, order], 1), seen[minute, order], 0 * order
            )
            pupil(Taught(now, seen_busbar[minute], s))


def _shown(volts: Reals) -> Reals:
    return np.asarray(np.round(volts / LAST_DIGIT_V) * LAST_DIGIT_V)


def _wander(minutes: int, random: np.random.Generator) -> Reals:
    keep = float(np.exp(-1 / WANDER_MINUTES))
    found = np.zeros(minutes)
    for k in range(1, minutes):
        found[k] = keep * found[k - 1] + random.normal(0, WANDER_V * (1 - keep**2) ** 0.5)
    return found
