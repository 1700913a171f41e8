"""A street with PV as its meters see it: the published European feeder, more days made of its one, seeded clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.grid.tests.golden import day, feeder

Reals = NDArray[np.float64]

PORTS: Final = 55
DAY_S: Final = 86_400
SUNRISE_S, SUNSET_S = 6 * 3600, 20 * 3600
WANDER_S: Final = 1800.0
"""Time in which the medium voltage forgets."""
BUSBAR: Final = ("1", ("L1", "L2", "L3"))
"""The transformer's low-voltage side."""


@dataclass(frozen=True, slots=True, eq=False)
class Street:
    """True states of a street, one row a set: time [s] (n_set), draws [W, var] and voltages [V] (n_set, 55), voltages
    of the busbar [V] (n_set, 3), which ports have PV (55)."""

    time_s: Reals
    p_w: Reals
    q_var: Reals
    u_v: Reals
    busbar_v: Reals
    has_pv: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Weather:
    """How the street is made: share of customers with PV, peak of each [W] (lowest, highest), export limit of each [W],
    standard deviation of what the medium voltage does
    [V], seconds between sets,
    whether every day's loads go to other customers, and by how much they shift in time [minutes]."""

    pv_share: float = 0.6
    peak_w: tuple[float, float] = (3000.0, 6000.0)
    limit_w: float = 1500.0
    wander_v: float = 1.0
    step_s: int = 60
    shuffled: bool = True
    shift_minutes: int = 30


def flow(p_w: Reals, q_var: Reals) -> tuple[Reals, Reals]:
    """Exact voltages at the ports (n, 55) and the busbar (n, 3) [V]."""
    found = solve(feeder("eulv"), Injections.of(p_w, q_var), results=("port_u_v", "bus_u_v"))
    assert found.converged.all()
    nodes = feeder("eulv").model.nodes
    rows = [nodes.index((BUSBAR[0], phase)) for phase in BUSBAR[1]]
    return np.abs(found["port_u_v"]), np.abs(found["bus_u_v"][:, rows])


def street(days: int, seed: int, weather: Weather | None = None) -> Street:
    """Days of a street. Loads of later days are the published ones, given to other customers and shifted in time."""
    made = Weather() if weather is None else weather
    random = np.random.default_rng(seed)
    has_pv = np.zeros(PORTS, dtype=bool)
    has_pv[random.permutation(PORTS)[: round(made.pv_share * PORTS)]] = True
    peak_w = np.where(has_pv, random.uniform(*made.peak_w, PORTS), 0.0)
    p_day, q_day, _ = day()
    per_day = DAY_S // made.step_s
    at_s: Reals = np.arange(per_day, dtype=np.float64) * made.step_s
    minute = (at_s // 60).astype(np.int64)
    p_all, q_all = [], []
    for k in range(days):
        who = random.permutation(PORTS) if made.shuffled and k else np.arange(PORTS)
        shift = (
            np.zeros(PORTS, dtype=int)
            if k == 0
            else random.integers(-made.shift_minutes, made.shift_minutes + 1, PORTS)
        )
        rows = (minute[:, None] + shift) % 1440
        p_all.append(p_day[rows, who] - _sun(random, at_s, made) * peak_w)
        q_all.append(q_day[rows, who])
    p = np.maximum(np.concatenate(p_all), -made.limit_w)
    q = np.concatenate(q_all)
    u, busbar = flow(p, q)
    wander = made.wander_v * _slow_noise(random, len(p), 3, np.exp(-made.step_s / WANDER_S))
    phase = np.array([int(label[1]) - 1 for label in feeder("eulv").model.port_labels])
    time_s: Reals = np.arange(len(p), dtype=np.float64) * made.step_s
    return Street(time_s, p, q, u + wander[:, phase], busbar + wander, has_pv)


def _sun(random: np.random.Generator, at_s: Reals, made: Weather) -> Reals:
    """Share of its peak that each PV gives (n, 55): a clear half-sine, clouds common to all, a little of each."""
    clear = np.clip(np.sin(np.pi * (at_s - SUNRISE_S) / (SUNSET_S - SUNRISE_S)), 0.0, None) ** 1.3
    keep = np.exp(-made.step_s / 900.0)
    common = _slow_noise(random, len(at_s), 1, keep)
    own = _slow_noise(random, len(at_s), PORTS, np.exp(-made.step_s / 300.0))
    cloudy = random.uniform(-0.5, 2.0)
    through = 1 / (1 + np.exp(-(2.0 * common + cloudy)))
    return np.asarray(clear[:, None] * np.clip(0.15 + 0.85 * through + 0.04 * own, 0.05, 1.0))


def _slow_noise(random: np.random.Generator, n: int, columns: int, keep: float) -> Reals:
    steps = random.normal(0.0, np.sqrt(1 - keep**2), (n, columns))
    found = np.zeros((n, columns))
    for k in range(1, n):
        found[k] = keep * found[k - 1] + steps[k]
    return found


def seen_by_meters(true: Street, seed: int, resolution_v: float = 0.1, noise_v: float = 0.03) -> Street:
    """What the meters report: voltages with noise and resolution, powers to the watt."""
    random = np.random.default_rng(seed)

    def metered(u_v: Reals) -> Reals:
        return np.asarray(np.round((u_v + random.normal(0.0, noise_v, u_v.shape)) / resolution_v) * resolution_v)

    u, busbar = metered(true.u_v), metered(true.busbar_v)
    return Street(true.time_s, np.round(true.p_w), np.round(true.q_var), u, busbar, true.has_pv)
