"""The most that could have been exported with perfect foresight: optimal power flow, minute by minute.

    maximise    sum g                           what plants generate [W]
    subject to  u_low <= |u_k| <= u_high        at every port, phase to neutral
                |i_j| <= rating_j               where a rating is known
                own use <= g <= potential       a plant always serves its own house; an export is never negative

with the exact, unbalanced power flow `u = u_open + Z i(u, p, q)`. Where the nominal limits alone already leave the
band, the band is widened to what they give: that much is the customers' by contract.

Two readings of the band. Over one minute: every 1-minute value holds it; the reference. Over ten minutes: only the
means of clock-aligned ten minutes hold it, so that a minute may borrow from its neighbours; the looser bound.

Method: successive linear programming. Sensitivities are exact, the programme is solved by HiGHS inside a trust region,
a step is taken if the exact flow confirms it. |u| is concave in the powers to a good approximation, so that linear
steps err to the safe side and no more than a few are needed. The end is feasible by the exact flow. How far it can be
from the best is bounded by `hil_tests.bound`; minutes in which nothing binds cost one power flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections, prepare
from dcu.grid.sensitivities import Sensitivity, magnitude_slope, sensitivities
from dcu.hosting.headroom import GridLimits
from hil_tests.bound import Vertex, gap_bound
from hil_tests.day import Day
from shared.errors import HeadroomError

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]

FLOW_TOLERANCE_PU: Final = 1e-12
FEASIBLE: Final = 1e-8
"""Share of nominal or of a rating by which a row may exceed its limit on the way (2 uV)."""
INSIDE: Final = 2e-9
"""Limits are drawn in by this, so that the end is feasible in spite of rounding."""
STEP_W: Final = 0.01
"""A step that promises less than this in all is the last."""
STEPS_MAX: Final = 40
TRUST_MIN_W: Final = 1e-3
PENALTY: Final = 2.0
"""Times the duals' sum is what a step is charged for an excess: enough that infeasible gains are none, not so much that
a good step fails for its curvature."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """`generated_w` (t, n_plant), proven gap to the best possible [W] (t; infinite where none is proven, as for means),
    voltages (t, n_port) [V]; steps taken and minutes in which something bound."""

    generated_w: Reals
    gap_w: Reals
    u_v: Reals
    steps: int
    bound_minutes: int

    @property
    def gap_share(self) -> float:
        """Proven gap over all generation; infinite where none is proven."""
        return float(self.gap_w.sum() / max(1.0, self.generated_w.sum()))


def optimise(
    feeder: Feeder, day: Day, limits: GridLimits, nominal_w: float, over: int = 1, least_w: float = 0.0
) -> Optimum:
    """The optimum of a day, with the band kept by means over `over` minutes (1 or 10).

    Args:
        feeder: the exact network.
        day: draws and potentials.
        limits: the band at every port, ratings.
        nominal_w: export limit that nobody can be denied.
        over: minutes of a mean; windows are aligned to the clock.
        least_w: export that nobody may be kept below: 0 for the best of all, the nominal limit for the best within
            the contracts, which is all that raising limits can reach.
    """
    problem = _Problem(feeder, day, limits, nominal_w, least_w)
    generated, gap = day.pv_w.copy(), np.zeros(len(day.minute))
    steps = bound = 0
    last: Reals | None = None
    for at in _windows(day.minute, over):
        if problem.excess(problem.full, at) <= 0:
            continue
        window = _Window(problem, at, generated[at.start - 1] if last is None and at.start else last)
        window.run()
        generated[at], gap[at] = window.best.g_w, window.gap_w / (at.stop - at.start)
        last, steps, bound = window.best.g_w[-1], steps + window.steps, bound + (at.stop - at.start)
    u = np.abs(problem.voltages(slice(None), generated))
    return Optimum(generated, gap, u, steps, bound)


def _windows(minute: NDArray[np.int64], over: int) -> list[slice]:
    """Stretches of the clock's `over` minutes; those at the ends may be shorter."""
    edges = [0, *(np.flatnonzero(np.diff(minute // over)) + 1), len(minute)]
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


@dataclass(frozen=True, slots=True, eq=False)
class _Flows:
    """Solved states: voltages (t, n) and magnitudes of the rated currents (t, k)."""

    g_w: Reals
    u_v: Complexes
    i_a: Complexes

    @property
    def volts(self) -> Reals:
        return np.abs(self.u_v)

    @property
    def amps(self) -> Reals:
        return np.abs(self.i_a)


class _Problem:
    """What all windows share."""

    def __init__(self, feeder: Feeder, day: Day, limits: GridLimits, nominal_w: float, least_w: float) -> None:
        self.feeder, self.day, self.model = feeder, day, feeder.model
        self.spread = day.spread
        self.port = np.array([plant.port for plant in day.plants])
        self.rated = np.flatnonzero(np.isfinite(limits.i_max_a))
        self.low_w = day.generated_w(least_w)
        self.nominal = self.flows(slice(None), day.generated_w(nominal_w))
        self.full = self.flows(slice(None), day.pv_w)
        self.u_high_v = np.maximum(limits.u_high_v, self.nominal.volts)
        self.u_low_v = np.minimum(limits.u_low_v, self.nominal.volts)
        self.i_max_a = np.maximum(limits.i_max_a[self.rated], self.nominal.amps)

    def injections(self, at: slice, g_w: Reals) -> Injections:
        return Injections(self.day.p_w[at] - g_w @ self.spread, self.day.q_var[at])

    def voltages(self, at: slice, g_w: Reals) -> Complexes:
        found = solve(self.feeder, self.injections(at, g_w), tolerance_pu=FLOW_TOLERANCE_PU)
        if not found.converged.all():
            raise HeadroomError("optimum: a state of this day has no power-flow solution; fewer or smaller plants")
        return np.asarray(found["port_u_v"])

    def flows(self, at: slice, g_w: Reals) -> _Flows:
        u = self.voltages(at, g_w)
        now = self.injections(at, g_w)
        port_i = -np.conj((now.p_w + 1j * now.q_var) / u)
        i = self.model.current_open_a[self.rated] + port_i @ self.model.current_h[self.rated].T
        return _Flows(g_w, u, i)

    def excess(self, flows: _Flows, at: slice) -> float:
        """The furthest that a row of the window is beyond its limit [share]; of `flows` the whole day or the window."""
        own = len(flows.g_w) == at.stop - at.start
        rows = slice(None) if own else at
        u, n = flows.volts[rows].mean(axis=0), self.model.u_nominal_v
        parts = [(u - self.u_high_v[at].mean(axis=0)) / n, (self.u_low_v[at].mean(axis=0) - u) / n]
        if len(self.rated):
            parts.append((flows.amps[rows] / self.i_max_a[at] - 1).ravel())
        return float(max(part.max() for part in parts))


class _Window:
    """One window's search."""

    def __init__(self, problem: _Problem, at: slice, start: Reals | None) -> None:
        self._problem, self._at = problem, at
        day = problem.day
        self.low, self.high = problem.low_w[at], day.pv_w[at]
        self._safe = np.maximum(problem.nominal.g_w[at], self.low)
        guess = self._safe if start is None else np.clip(np.broadcast_to(start, self.low.shape), self.low, self.high)
        self.best = problem.flows(at, guess)
        self.gap_w = np.inf
        self.steps = 0
        self._duals = np.zeros(0)
        self._charge_w = 0.0
        """[W] for an excess of 1, the whole of a limit."""

    def run(self) -> None:
        """Steps until none is worth it; then feasible, and bounded."""
        trust_w = np.inf
        slopes = self._slopes(self.best)
        while self.steps < STEPS_MAX:
            self.steps += 1
            step = self._programme(slopes, trust_w)
            if step is None:
                self.best, trust_w = self._feasible(), np.inf
                slopes = self._slopes(self.best)
                continue
            there = self._problem.flows(self._at, np.clip(self.best.g_w + step, self.low, self.high))
            gain = self._merit(there) - self._merit(self.best)
            if gain > 0:
                self.best, trust_w = there, max(trust_w, 2 * float(np.abs(step).max()))
                slopes = self._slopes(self.best)
            elif (trust_w := float(np.abs(step).max()) / 2) < TRUST_MIN_W:
                break
            small = abs(float(step.sum())) < STEP_W and float(np.abs(step).max()) < 100 * STEP_W
            if (small or gain <= STEP_W * 1e-3) and self._excess(self.best) <= FEASIBLE and trust_w == np.inf:
                break
        if self._excess(self.best) > 0:
            self.best = self._feasible()
            slopes = self._slopes(self.best)
        self._bound(slopes)

    def _excess(self, flows: _Flows) -> float:
        return self._problem.excess(flows, self._at)

    def _merit(self, flows: _Flows) -> float:
        return float(flows.g_w.sum()) - self._charge_w * max(0.0, self._excess(flows) - FEASIBLE)

    def _feasible(self) -> _Flows:
        """Back towards the nominal limits, as little as possible."""
        good, bad = self._safe, self.best.g_w
        found = self._problem.flows(self._at, good)
        for _ in range(60):
            middle = (good + bad) / 2
            there = self._problem.flows(self._at, middle)
            if self._excess(there) <= 0:
                good, found = middle, there
            else:
                bad = middle
            if float(np.abs(good - bad).max()) < STEP_W / 10:
                break
        return found

    def _slopes(self, flows: _Flows) -> list[Sensitivity]:
        problem = self._problem
        prepared = prepare(problem.injections(self._at, flows.g_w), problem.model.u_nominal_v)
        return sensitivities(problem.model, prepared, flows.u_v)

    def _rows(self, slopes: list[Sensitivity]) -> tuple[sparse.csr_matrix, Reals, Reals]:
        """All rows of the programme `J d <= room` [V, A; W], and how much each moves at most."""
        problem, at, n = self._problem, self._at, len(self._problem.model.ports)
        width, plants = self.low.shape
        by_volt = [-s.magnitude()[:, :n] @ problem.spread.T for s in slopes]
        mean = np.concatenate(by_volt, axis=1) / width
        u = self.best.volts.mean(axis=0)
        inside = INSIDE * problem.model.u_nominal_v
        room = [problem.u_high_v[at].mean(axis=0) - inside - u, u - problem.u_low_v[at].mean(axis=0) - inside]
        parts = [sparse.csr_matrix(mean), sparse.csr_matrix(-mean)]
        if len(problem.rated):
            own = []
            for t, s in enumerate(slopes):
                di = problem.model.current_h[problem.rated] @ s.di[:, :n]
                own.append(-magnitude_slope(self.best.i_a[t], di) @ problem.spread.T)
            parts.append(sparse.block_diag(own, format="csr"))
            room.append(((problem.i_max_a[at] * (1 - INSIDE)) - self.best.amps).ravel())
        jacobian = sparse.vstack(parts, format="csr")
        assert jacobian.shape[1] == width * plants
        up, down = (self.high - self.best.g_w).ravel(), (self.best.g_w - self.low).ravel()
        reach = jacobian.maximum(0) @ up + (-jacobian).maximum(0) @ down
        return jacobian, np.concatenate(room), np.asarray(reach)

    def _programme(self, slopes: list[Sensitivity], trust_w: float) -> Reals | None:
        """The best step of the linearised problem, None if there is none; remembers the duals."""
        jacobian, room, reach = self._rows(slopes)
        near = np.flatnonzero(reach > room)
        low = np.maximum(self.low - self.best.g_w, -trust_w).ravel()
        high = np.minimum(self.high - self.best.g_w, trust_w).ravel()
        self._duals = np.zeros(len(room))
        if not len(near):
            return high.reshape(self.low.shape)
        found = linprog(
            -np.ones(len(low)),
            A_ub=1e3 * jacobian[near],
            b_ub=room[near],
            bounds=np.stack([low, np.maximum(low, high)], axis=1) / 1e3,
            method="highs",
        )
        if found.status != 0:
            return None
        self._duals[near] = np.maximum(0.0, -found.ineqlin.marginals) * 1e3
        self._charge_w = max(self._charge_w, PENALTY * float(self._duals @ self._limits()))
        return np.asarray(1e3 * found.x.reshape(self.low.shape))

    def _limits(self) -> Reals:
        """What an excess of 1 is in each row [V, A]."""
        nominal, at = self._problem.model.u_nominal_v, self._at
        return np.concatenate([nominal, nominal, self._problem.i_max_a[at].ravel()])

    def _bound(self, slopes: list[Sensitivity]) -> None:
        """The proven gap of a single minute, with the duals of the linear programme at the end."""
        problem, at = self._problem, self._at
        if self.low.shape[0] > 1:
            return
        self._programme(slopes, np.inf)
        n, slope, best = len(problem.model.ports), slopes[0], self.best
        volts, amps = self._duals[:n], self._duals[2 * n :]
        rows = [-slope.magnitude()[volts > 0]]
        room = [(problem.u_high_v[at] - best.volts)[0, volts > 0]]
        if len(amps):
            di = problem.model.current_h[problem.rated] @ slope.di
            rows.append(-magnitude_slope(best.i_a[0], di)[amps > 0])
            room.append((problem.i_max_a[at] - best.amps)[0, amps > 0])
        now = problem.injections(at, best.g_w)
        vertex = Vertex(
            u_v=slope.u_v,
            du=-slope.du,
            rows=np.concatenate(rows),
            price=np.concatenate([volts[volts > 0], amps[amps > 0]]),
            room=np.concatenate(room),
            s_va=-(now.p_w[0] + 1j * now.q_var[0]),
            port=problem.port,
            down_w=(best.g_w - self.low)[0],
            up_w=(self.high - best.g_w)[0],
            u_low_v=problem.u_low_v[at][0],
            u_high_v=problem.u_high_v[at][0],
        )
        self.gap_w = gap_bound(vertex)
