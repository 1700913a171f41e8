"""What the feeder would look like if every grant were fully used, and how far that is from what the grid bears.

The model gives differences, the meters give the level: a predicted voltage is the measured one plus the exact power-
flow difference between "every grant fully used" and "now", and a margin for what neither knows. Pure; NumPy and the
port model. Nothing in the engine uses it yet; `predict` is the seam where it goes in.

Nomenclature: n ports, k observed currents; `p_w` import positive; an export limit is a magnitude >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dcu.grid.injections import Injections, prepare
from dcu.grid.port_engine import solve_ports
from dcu.grid.port_model import PortModel

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]

FLOW_TOLERANCE_PU: Final = 1e-7
"""Of a power flow behind a decision: 0.02 mV, far below any meter."""


@dataclass(frozen=True, slots=True, eq=False)
class GridLimits:
    """What the grid bears: voltage across each port [V] (n), magnitude of each observed current [A] (k, infinite where
    not rated), unbalance |U2|/|U1| at three-phase buses (infinite: not looked at)."""

    u_low_v: Reals
    u_high_v: Reals
    i_max_a: Reals
    vuf_max: float = np.inf

    @staticmethod
    def of(model: PortModel, band_pct: float, loading_max: float = 1.0, vuf_max: float = np.inf) -> GridLimits:
        """A band around the nominal voltages, and a share of every rating."""
        u = model.u_nominal_v
        return GridLimits(u * (1 - band_pct / 100), u * (1 + band_pct / 100), loading_max * model.rating_a, vuf_max)


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """What is measured now at every port (n): draw [W, var], voltage [V], the margin [V] that its accuracy, its age and
    the model's residual call for; and the share by which a predicted change of voltage may be wrong."""

    p_w: Reals
    q_var: Reals
    u_v: Reals
    margin_v: Reals
    model_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Constraint:
    """One limit of the grid: `kind` overvoltage, undervoltage, current, unbalance or power_flow; `place` in words."""

    kind: str
    place: str


class Prospect(Protocol):
    """What an allocation asks about the grid; answered by a network model, by learned sensitivities, or by both.

    All constraints are numbers that must not be above 0, in units of their own limit: how far a voltage is above its
    limit [share of nominal], a current above its rating [share of it], an unbalance above its limit.
    """

    @property
    def names(self) -> tuple[Constraint, ...]:
        """What each number is about."""

    @property
    def now(self) -> Situation:
        """What is measured."""

    @property
    def widens(self) -> bool:
        """Whether doubt grows with the distance from now so much that it decides; else it is a share of the change."""

    def excess(self, p_w: Reals) -> Reals:
        """How far each constraint is exceeded with these draws (n_state, n) [W]: (n_state, n_constraint), above 0 is
        too far. A state without a power-flow solution exceeds everything."""

    def guess(self, p_w: Reals) -> Reals:
        """About the excess at one state (n): (n_constraint), without a power flow. Says where to look."""

    def relief(self, unused_w: Reals) -> Reals:
        """What would be missing if exports (n) [W] did not happen that pull a constraint back, those on other phases:
        (n_constraint), not below 0, to be added to an excess that counted on them."""

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """About how the excess of some constraints follows each draw at one state (n): (n_row, n) [1/W]. Steps are
        chosen by it, never confirmed."""


class Outlook:
    """`Prospect` by the network model: exact power flow, first-order slopes."""

    widens = False

    def __init__(self, model: PortModel, limits: GridLimits, now: Situation) -> None:
        self.model, self.limits, self.now = model, limits, now
        self._rated = (
            np.flatnonzero(np.isfinite(limits.i_max_a)) if len(model.currents) else np.zeros(0, dtype=np.int64)
        )
        self._buses = _sequences(model) if np.isfinite(limits.vuf_max) else None
        self.names = self._names()
        self._last: tuple[Reals, Complexes, Complexes] | None = None
        u, i = self._solve(now.p_w[None, :])
        self._u_model = np.abs(u[0])
        self._excess_now = self._exceed(u, i)[0]

    def _names(self) -> tuple[Constraint, ...]:
        """Kept with the model: there may be thousands."""
        key = f"constraints {len(self._rated)} {self._buses is not None}"
        if key not in self.model.memo:
            ports = self.model.ports
            currents = [self.model.currents[k] for k in self._rated]
            self.model.memo[key] = (
                *(Constraint("overvoltage", port) for port in ports),
                *(Constraint("undervoltage", port) for port in ports),
                *(Constraint("current", f"{c.kind} {c.id} {c.conductor}") for c in currents),
                *(Constraint("unbalance", bus) for bus in (self._buses.names if self._buses is not None else ())),
            )
        names: tuple[Constraint, ...] = self.model.memo[key]
        return names

    def _solve(self, p_w: Reals) -> tuple[Complexes, Complexes]:
        q = np.broadcast_to(self.now.q_var, p_w.shape)
        batch = prepare(Injections(p_w, q), self.model.u_nominal_v)
        near = None if self._last is None or not np.isfinite(self._last[1]).all() else self._last[1]
        # Without Newton: so near the nose nobody gets more anyway.
        solved = solve_ports(self.model, batch, FLOW_TOLERANCE_PU, newton=False, near_u_v=near)
        self._last = (p_w[-1], solved.u_v[-1], solved.i_a[-1])
        return solved.u_v, solved.i_a

    def excess(self, p_w: Reals) -> Reals:
        u, i = self._solve(np.atleast_2d(p_w))
        return self._exceed(u, i)

    def _at(self, p_w: Reals) -> tuple[Complexes, Complexes]:
        """Port voltages and currents of one state; usually the one that was solved last."""
        if self._last is None or not np.array_equal(self._last[0], p_w):
            u, i = self._solve(p_w[None, :])
            return u[0], i[0]
        return self._last[1], self._last[2]

    def _exceed(self, u: Complexes, i: Complexes) -> Reals:
        nominal = self.model.u_nominal_v
        change = np.abs(u) - self._u_model
        expected = self.now.u_v + change
        margin = self.now.margin_v + self.now.model_error * np.abs(change)
        parts = [
            (expected + margin - self.limits.u_high_v) / nominal,
            (self.limits.u_low_v - expected + margin) / nominal,
        ]
        if len(self._rated):
            amps = np.abs(self._amps(i))
            parts.append(amps / self.limits.i_max_a[self._rated] - 1)
        if self._buses is not None:
            forward, backward = self._buses.of(i)
            parts.append(np.abs(backward) / np.abs(forward) / self.limits.vuf_max - 1)
        found = np.concatenate(parts, axis=1)
        found[np.isnan(found).any(axis=1)] = np.inf
        return found

    def _amps(self, i: Complexes) -> Complexes:
        return np.asarray(self.model.current_open_a[self._rated] + i @ self.model.current_h[self._rated].T)

    def guess(self, p_w: Reals) -> Reals:
        """Voltages by first order about no load; currents and unbalance as they are now."""
        change = rise(self.model) @ (p_w - self.now.p_w)
        found: Reals = self._excess_now.copy()
        n = len(change)
        error = self.now.model_error * np.abs(change)
        found[:n] += change + error
        found[n : 2 * n] += error - change
        return found

    def relief(self, unused_w: Reals) -> Reals:
        """Voltages only; a current on a neutral that other phases would balance is not looked at."""
        found = np.zeros(len(self.names))
        n = len(unused_w)
        by_draw = rise(self.model)
        found[:n] = np.maximum(by_draw, 0.0) @ unused_w  # drawing raises the voltage: exporting lowers it
        found[n : 2 * n] = np.maximum(-by_draw, 0.0) @ unused_w
        return found

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """First term of the implicit derivative: the current of a port follows its power, and its own voltage not."""
        u, i = self._at(p_w)
        n = len(u)
        di: Complexes = np.asarray(-1 / np.conj(u))
        found = np.zeros((len(rows), n))
        sign: Reals = np.where(rows < n, 1.0, -1.0)
        volts = np.flatnonzero(rows < 2 * n)
        port = rows[volts] % n
        error: Reals = self.now.model_error * np.sign(np.abs(u[port]) - self._u_model[port])
        turned: Reals = _along(u[port], self.model.z_ohm[port], di) / self.model.u_nominal_v[port][:, None]
        found[volts] = turned * (sign[volts] + error)[:, None]
        k = len(self._rated)
        amps = np.flatnonzero((rows >= 2 * n) & (rows < 2 * n + k))
        if len(amps):
            at = self._rated[rows[amps] - 2 * n]
            value = self.model.current_open_a[at] + self.model.current_h[at] @ i
            found[amps] = _along(value, self.model.current_h[at], di) / self.limits.i_max_a[at][:, None]
        rest = np.flatnonzero(rows >= 2 * n + k)
        if len(rest) and self._buses is not None:
            forward, backward = self._buses.of(i)
            at = rows[rest] - 2 * n - k
            scale = np.abs(forward[at]) * self.limits.vuf_max
            found[rest] = _along(backward[at], self._buses.backward_h[at], di) / scale[:, None]
        return np.asarray(np.nan_to_num(found))


def rise(model: PortModel) -> Reals:
    """Of all voltages by each draw, first order about no load (n, n) [share of nominal/W]; kept with the model."""
    if "rise" not in model.memo:
        u = model.u_open_v
        model.memo["rise"] = _along(u, model.z_ohm, np.asarray(-1 / np.conj(u))) / model.u_nominal_v[:, None]
    found: Reals = model.memo["rise"]
    return found


def _along(value: Complexes, transfer: Complexes, di: Complexes) -> Reals:
    """Derivative of `|value|` (m) by each draw (n), value being linear in the currents: (m, n)."""
    turn = np.conj(value) / np.maximum(np.abs(value), 1e-12)
    both = turn[:, None] * di
    return np.asarray(transfer.real * both.real - transfer.imag * both.imag)


@dataclass(frozen=True, slots=True, eq=False)
class _Sequences:
    """Positive- and negative-sequence voltage of each three-phase bus, linear in the port currents."""

    names: tuple[str, ...]
    forward_open_v: Complexes
    backward_open_v: Complexes
    forward_h: Complexes
    backward_h: Complexes

    def of(self, i: Complexes) -> tuple[Complexes, Complexes]:
        """Both [V] (n_state, n_bus), times 3."""
        return self.forward_open_v + i @ self.forward_h.T, self.backward_open_v + i @ self.backward_h.T


def _sequences(model: PortModel) -> _Sequences:
    """Kept with the model. A voltage common to the phases, such as the neutral's, is in neither sequence."""
    if "sequences" not in model.memo:
        buses = model.three_phase_buses()
        rows = np.array([at for _, at, _ in buses], dtype=np.int64).reshape(-1, 3).T
        a = np.exp(2j * np.pi / 3)
        h, open_v = model.node_h_ohm, model.node_open_v

        def sequence(turn: complex) -> tuple[Complexes, Complexes]:
            return (
                open_v[rows[0]] + turn * open_v[rows[1]] + turn**2 * open_v[rows[2]],
                h[rows[0]] + turn * h[rows[1]] + turn**2 * h[rows[2]],
            )

        (forward_open, forward_h), (backward_open, backward_h) = sequence(a), sequence(a * a)
        names = tuple(bus for bus, _, _ in buses)
        model.memo["sequences"] = _Sequences(names, forward_open, backward_open, forward_h, backward_h)
    found: _Sequences = model.memo["sequences"]
    return found
