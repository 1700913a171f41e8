"""From drawn states to counts: power flow of a block, and what of it violates what.

The power flow gives port currents; voltages of all watched buses and phases, negative-sequence voltages and branch
currents are linear in them (`y = y_open + H i`) and come from one product in single precision, whose error is below
1e-6 pu.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import solve
from dcu.grid.network import PHASES, Conductor
from dcu.grid.port_model import PortModel
from dcu.planning.draws import Draws
from dcu.planning.feeder_case import FeederCase
from dcu.planning.history import Reals

TOLERANCE_PU: Final = 1e-7
"""Of the power flow; an order below what the study promises."""
STATES_AT_ONCE: Final = 1_200
"""A block of observed values that stays in a core's cache."""
U_BINS: Final = (0.85, 1.20, 140)
I_BINS: Final = (0.0, 2.0, 100)
VUF_BINS: Final = (0.0, 0.08, 80)
Singles = NDArray[np.float32]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Limits:
    """EN 50160 and the conductors: highest and lowest voltage [pu], unbalance [share], loading [share of rating]."""

    u_max_pu: float = 1.10
    u_min_pu: float = 0.90
    vuf_max: float = 0.02
    loading_max: float = 1.0


@dataclass(slots=True, eq=False)
class Tally:
    """Counts of a batch; the sum of two batches is the same in any order.

    Over `points` (bus and phase): `over`, `under`, largest and smallest voltage [pu]; over `buses`: `unbalanced`,
    largest unbalance; over `wires` (branch and phase): `overloaded`, largest loading [share of rating]. Histograms
    only with `detail`. The `_squares` are sums over days of squared counts, where days matter.
    """

    states: int
    solved: int
    unsolved: int
    over: Counts
    under: Counts
    unbalanced: Counts
    overloaded: Counts
    u_max_pu: Reals
    u_min_pu: Reals
    vuf_max: Reals
    loading_max: Reals
    u_histogram: Counts
    vuf_histogram: Counts
    loading_histogram: Counts
    over_squares: Reals
    under_squares: Reals
    unbalanced_squares: Reals
    overloaded_squares: Reals
    days: int = 0
    """Simulated days, where the states of a day hang together; 0 where every state is drawn by itself."""
    flow_s: float = 0.0
    """Processor time of the power flow with its observed values [s]; no result."""
    other_s: float = 0.0

    def join(self, other: Tally) -> None:
        """Take other states of the same days in. How the two halves of a day hang together is not known: squares are
        the largest they can be (triangle inequality)."""
        days = max(self.days, other.days)
        squares = {
            name: (np.sqrt(getattr(self, name)) + np.sqrt(getattr(other, name))) ** 2
            for name in (f.name for f in fields(self))
            if name.endswith("_squares")
        }
        self.add(other)
        self.days = days
        for name, value in squares.items():
            setattr(self, name, value)

    def add(self, other: Tally) -> None:
        """Take another batch in, of other days."""
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name in ("u_max_pu", "vuf_max", "loading_max"):
                np.maximum(mine, theirs, out=mine)
            elif f.name == "u_min_pu":
                np.minimum(mine, theirs, out=mine)
            elif f.name.endswith("_histogram") and mine.shape != theirs.shape:
                setattr(self, f.name, mine[:, :0])  # only one of the two was looked at in detail
            else:
                setattr(self, f.name, mine + theirs)


class Observer:
    """What is watched of a feeder: voltages at `points`, unbalance at `buses`, currents of `wires`.

    Scenarios of one study watch the same: `watched` buses, and the `wires` that `rated_wires` finds.
    """

    def __init__(
        self, case: FeederCase, watched: tuple[str, ...] = (), wires: tuple[tuple[str, str], ...] | None = None
    ) -> None:
        model = case.feeder.model
        rows: dict[tuple[str, str], int] = {(n.bus, n.conductor): k for k, n in enumerate(model.nodes)}
        watched = watched or tuple(dict.fromkeys(p.bus for p in case.feeder.network.connection_points))
        self.points = tuple((b, str(c)) for b in watched for c in PHASES if (b, c) in rows)
        self.buses = tuple(b for b in watched if all((b, c) in rows for c in PHASES))
        self.wires = rated_wires(model) if wires is None else wires
        place = {(c.id, c.conductor): k for k, c in enumerate(model.currents) if c.kind == "branch" and c.end == "from"}
        self.wires_at = [place[w] for w in self.wires]
        u_open, h = model.node_open_v, model.node_h_ohm
        points = np.array([rows[p] for p in self.points])
        neutral = np.array([rows.get((b, "N"), -1) for b, _ in self.points])
        earth = np.where(neutral < 0, 0.0, 1.0)
        nominal = model.node_nominal_v[points]
        open_pn = u_open[points] - earth * u_open[neutral]
        a = np.exp(2j * np.pi / 3)
        turn = np.array([a ** PHASES.index(Conductor(c)) for _, c in self.points]) / nominal
        three = [[rows[b, c] for c in PHASES] for b in self.buses]
        factors = np.array([1, a * a, a]) / 3
        per = np.array([model.node_nominal_v[r[0]] for r in three])
        negative_h = np.array([factors @ h[r] for r in three]).reshape(len(three), -1) / per[:, None]
        negative_open = np.array([factors @ u_open[r] for r in three]) / per
        rating = model.rating_a[self.wires_at]
        rise = h[points] - earth[:, None] * h[neutral]
        self.reach_points = _reaching(np.abs(rise))
        self.reach_wires = np.abs(model.current_h[self.wires_at]) > 0.5
        self._matrix = _real_rows(
            np.concatenate(
                [
                    rise * turn[:, None],
                    negative_h,
                    model.current_h[self.wires_at] / rating[:, None],
                ]
            )
        )
        constant = np.concatenate([open_pn * turn, negative_open, model.current_open_a[self.wires_at] / rating])
        self._constant = np.concatenate([constant.real, constant.imag])[:, None].astype(np.float32)
        turned = {point: k for k, point in enumerate(self.points)}
        self._positive_of = np.array([[turned[b, str(c)] for c in PHASES] for b in self.buses]).reshape(-1, 3)
        self.nominal_v = nominal

    def observe(self, i_a: NDArray[np.complex128]) -> tuple[Singles, Singles, Singles]:
        """Squared voltages [pu^2] (n_point, n_state), squared unbalance (n_bus, n_state), squared loading
        (n_wire, ...)."""
        pairs = i_a.view(np.float64).astype(np.float32)
        y = self._matrix @ pairs.T
        y += self._constant
        half = len(y) // 2
        n_point, n_bus = len(self.points), len(self.buses)
        # Phases stand turned by 1, a, a^2: their mean is the positive sequence.
        one = sum(y[self._positive_of[:, k]] for k in range(3)) / np.float32(3)
        one_im = sum(y[half + self._positive_of[:, k]] for k in range(3)) / np.float32(3)
        positive = one * one + one_im * one_im
        y *= y
        squared = y[:half] + y[half:]
        squared[n_point : n_point + n_bus] /= positive
        return squared[:n_point], squared[n_point : n_point + n_bus], squared[n_point + n_bus :]


def rated_wires(model: PortModel) -> tuple[tuple[str, str], ...]:
    """Rated branch currents of phases; of those that are always equal, such as along a chain of buses, the one of the
    smallest rating, and none that never flows."""
    strictest: dict[bytes, int] = {}
    for k, (name, rating) in enumerate(zip(model.currents, model.rating_a, strict=True)):
        row = np.append(model.current_h[k], model.current_open_a[k])
        if (
            name.kind != "branch"
            or name.end != "from"
            or name.conductor not in PHASES
            or not np.isfinite(rating)
            or np.abs(row).max() < 1e-9
        ):
            continue
        key = (np.round(row, 9) + 0.0).tobytes()  # no negative zeros
        if key not in strictest or rating < model.rating_a[strictest[key]]:
            strictest[key] = k
    return tuple((model.currents[k].id, model.currents[k].conductor) for k in sorted(strictest.values()))


REACH: Final = 0.3
"""A port that moves a voltage by less than this share of what the strongest port does is not called to help it."""


def _reaching(rise: Reals) -> NDArray[np.bool_]:
    return np.asarray(rise >= REACH * rise.max(axis=1, keepdims=True))


def _real_rows(h: NDArray[np.complex128]) -> Singles:
    """The complex matrix over pairs (re, im) of the currents: rows of real parts, then of imaginary ones."""
    re = np.stack([h.real, -h.imag], axis=-1).reshape(len(h), -1)
    im = np.stack([h.imag, h.real], axis=-1).reshape(len(h), -1)
    return np.ascontiguousarray(np.concatenate([re, im]), dtype=np.float32)


def currents(case: FeederCase, base_w: Reals, per_w: Reals, level_w: float) -> tuple[NDArray[np.complex128], Counts]:
    """Port currents (n_state, n_port) [A] of a batch, and the states without a solution."""
    batch = case.injections(base_w, per_w, level_w)
    flow = solve(case.feeder, batch, results=("port_i_a",), tolerance_pu=TOLERANCE_PU, threads=1)
    return flow["port_i_a"], np.flatnonzero(~flow.converged)


def empty(observer: Observer, *, detail: bool = False) -> Tally:
    """No states yet."""
    points, buses, wires = len(observer.points), len(observer.buses), len(observer.wires)

    def zero(*shape: int) -> Counts:
        return np.zeros(shape, dtype=np.int64)

    return Tally(
        0,
        0,
        0,
        zero(points),
        zero(points),
        zero(buses),
        zero(wires),
        np.zeros(points),
        np.full(points, np.inf),
        np.zeros(buses),
        np.zeros(wires),
        zero(points, U_BINS[2] * detail),
        zero(buses, VUF_BINS[2] * detail),
        zero(wires, I_BINS[2] * detail),
        np.zeros(points),
        np.zeros(points),
        np.zeros(buses),
        np.zeros(wires),
    )


def lit(draws: Draws) -> NDArray[np.bool_]:
    """States in which some PV gives power; in the others every level is today's feeder: inverters sleep."""
    return np.asarray((draws.per_w > 0) | (draws.pv_w > 0).any(axis=1))


def tally(
    case: FeederCase,
    observer: Observer,
    base_w: Reals,
    per_w: Reals,
    level_w: float,
    limits: Limits,
    *,
    detail: bool,
    day: NDArray[np.int64] | None = None,
) -> Tally:
    """Solve a batch of states at one level and count; `day` (n_state), counted from 0, where days matter."""
    began = time.thread_time()
    found = empty(observer, detail=detail)
    by_day = None if day is None else _ByDay(observer, int(day.max(initial=-1)) + 1)
    u_limits = (np.float32(limits.u_max_pu**2), np.float32(limits.u_min_pu**2))
    vuf_limit, i_limit = np.float32(limits.vuf_max**2), np.float32(limits.loading_max**2)
    flow_s = 0.0
    for at in range(0, len(per_w), 4 * STATES_AT_ONCE):
        batch = slice(at, at + 4 * STATES_AT_ONCE)
        t = time.thread_time()
        i_a, bad = currents(case, base_w[batch], per_w[batch], level_w)
        own_day = None if day is None else np.delete(day[batch], bad)
        flow_s += time.thread_time() - t
        if len(bad):
            found.unsolved += len(bad)
            i_a = np.delete(i_a, bad, axis=0)
        for part in range(0, len(i_a), STATES_AT_ONCE):
            t = time.thread_time()
            u, vuf, loading = observer.observe(i_a[part : part + STATES_AT_ONCE])
            flow_s += time.thread_time() - t
            _count(found.over, found.u_max_pu, u, u_limits[0])
            _count_below(found.under, found.u_min_pu, u, u_limits[1])
            _count(found.unbalanced, found.vuf_max, vuf, vuf_limit)
            _count(found.overloaded, found.loading_max, loading, i_limit)
            if by_day is not None and own_day is not None:
                its = own_day[part : part + STATES_AT_ONCE]
                by_day.add(its, (u > u_limits[0], u < u_limits[1], vuf > vuf_limit, loading > i_limit))
            if detail:
                found.u_histogram += _histogram(u, U_BINS)
                found.vuf_histogram += _histogram(vuf, VUF_BINS)
                found.loading_histogram += _histogram(loading, I_BINS)
    found.u_max_pu, found.u_min_pu = np.sqrt(found.u_max_pu), np.sqrt(found.u_min_pu)
    found.vuf_max, found.loading_max = np.sqrt(found.vuf_max), np.sqrt(found.loading_max)
    found.states = found.solved = len(per_w)
    if by_day is not None:
        by_day.settle(found)
    found.flow_s, found.other_s = flow_s, time.thread_time() - began - flow_s
    return found


class _ByDay:
    """Counts of each day, for the sums of their squares: overvoltage, undervoltage, unbalance, current."""

    def __init__(self, observer: Observer, days: int) -> None:
        self.days = days
        points, buses, wires = len(observer.points), len(observer.buses), len(observer.wires)
        self._counts = [np.zeros((n, days)) for n in (points, points, buses, wires)]

    def add(self, day: NDArray[np.int64], beyond: tuple[NDArray[np.bool_], ...]) -> None:
        for counts, some in zip(self._counts, beyond, strict=True):
            for k in np.flatnonzero(some.any(axis=1)):
                counts[k] += np.bincount(day[some[k]], minlength=self.days)

    def settle(self, found: Tally) -> None:
        found.days = self.days
        over, under, unbalanced, overloaded = ((c * c).sum(axis=1) for c in self._counts)
        found.over_squares, found.under_squares = over, under
        found.unbalanced_squares, found.overloaded_squares = unbalanced, overloaded


def _count(counts: Counts, most: Reals, values: Singles, limit: np.float32) -> None:
    if not values.size:
        return
    top = values.max(axis=1)
    np.maximum(most, top, out=most)
    for k in np.flatnonzero(top > limit):
        counts[k] += np.count_nonzero(values[k] > limit)


def _count_below(counts: Counts, least: Reals, values: Singles, limit: np.float32) -> None:
    if not values.size:
        return
    low = values.min(axis=1)
    np.minimum(least, low, out=least)
    for k in np.flatnonzero(low < limit):
        counts[k] += np.count_nonzero(values[k] < limit)


def _histogram(squared: Singles, bins: tuple[float, float, int]) -> Counts:
    """Counts of the roots in equal bins (n_row, n_bin); values outside are in the outermost."""
    low, high, count = bins
    place = ((np.sqrt(squared) - low) * (count / (high - low))).astype(np.int64)
    np.clip(place, 0, count - 1, out=place)
    place += np.arange(len(squared))[:, None] * count
    return np.bincount(place.ravel(), minlength=len(squared) * count).reshape(len(squared), count)
