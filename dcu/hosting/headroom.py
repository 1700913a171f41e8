"""What the feeder would look like if every grant were fully used, and how far that is from what the grid bears.

The model gives differences, the meters give the level: a predicted voltage is the measured one plus the exact power-
flow difference between "every grant fully used" and "now", and a margin for what neither knows. Pure; NumPy and the
port model. Each flow starts at the voltages of the one before: two to five products with Z.

Nomenclature: n ports, k observed currents; `p_w` import positive; an export limit is a magnitude >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dcu.grid.one_state import one_step, solve_from_idle, solve_one
from dcu.grid.port_model import PortModel
from dcu.hosting.flows import Flows, Linear, Measured

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]

FLOW_TOLERANCE_PU: Final = 1e-9
"""Of a power flow behind a decision: far below any meter, so that two of them may be compared."""


CURVED: Final = 0.1
"""Share by which relief may be more than it is to first order about no load: voltages move by a tenth."""
SAG_MIN: Final = 0.5
"""[nominal] Where a voltage is at its lower limit, what relieves it flows at about that voltage, with more current than
about no load; a limit below this is none."""
FEW: Final = 0.1
"""Share of the ports up to which a product with only their columns is the faster one."""


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
    the model's residual call for; the shares by which a predicted change of voltage, and a measured draw, may be
    wrong."""

    p_w: Reals
    q_var: Reals
    u_v: Reals
    margin_v: Reals
    model_error: float = 0.0
    power_error: float = 0.0


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


@dataclass(frozen=True, slots=True, eq=False)
class _Observed:
    """What a model and its limits say before anything is measured: what is linear in the currents of the ports, and the
    name of every constraint."""

    limits: GridLimits
    linear: Linear
    names: tuple[Constraint, ...]

    @staticmethod
    def of(model: PortModel, limits: GridLimits) -> _Observed:
        """Kept with the model."""
        found: _Observed | None = model.memo.get("observed")
        if found is None or found.limits is not limits:
            found = model.memo["observed"] = _observed(model, limits)
        return found


def _observed(model: PortModel, limits: GridLimits) -> _Observed:
    rated = np.flatnonzero(np.isfinite(limits.i_max_a)) if len(model.currents) else np.zeros(0, dtype=np.int64)
    linear = Linear.of(model, limits.i_max_a, rated, limits.vuf_max)
    currents = [model.currents[k] for k in rated]
    names = (
        *(Constraint("overvoltage", port) for port in model.ports),
        *(Constraint("undervoltage", port) for port in model.ports),
        *(Constraint("current", f"{c.kind} {c.id} {c.conductor}") for c in currents),
        *(Constraint("unbalance", bus) for bus in (() if linear.buses is None else linear.buses.names)),
    )
    return _Observed(limits, linear, names)


class Outlook:
    """`Prospect` by the network model: exact power flow, first-order slopes."""

    widens = False

    def __init__(self, model: PortModel, limits: GridLimits, now: Situation) -> None:
        self.model, self.limits, self.now = model, limits, now
        self._observed = _Observed.of(model, limits)
        self.names = self._observed.names
        self._over_v = now.u_v + now.margin_v - limits.u_high_v
        self._under_v = limits.u_low_v - now.u_v + now.margin_v
        self._sag = np.abs(model.u_open_v) / np.maximum(limits.u_low_v, SAG_MIN * model.u_nominal_v)
        solved = solve_from_idle(model, now.p_w, now.q_var, FLOW_TOLERANCE_PU)
        self._solved: dict[bytes, tuple[Complexes, Complexes]] = {now.p_w.tobytes(): solved}
        self._last = solved
        self._u_model = np.abs(solved[0])
        self._flows = self._linear_now(*solved)

    def _linear_now(self, u_v: Complexes, i_a: Complexes) -> Flows | None:
        """Currents and unbalance, seen from now; None where there is no limit to them."""
        now, model = self.now, self.model
        if not len(self._observed.linear.open):
            return None
        # Where the voltage may be lower than the model's, the same draw is more current.
        short = np.maximum(self._u_model / np.maximum(now.u_v - now.margin_v, SAG_MIN * model.u_nominal_v) - 1, 0.0)
        measured = Measured(now.p_w, u_v, i_a, short, now.power_error, now.model_error)
        return Flows(self._observed.linear, measured, lambda: rise(model), model.u_nominal_v)

    def excess(self, p_w: Reals) -> Reals:
        states = np.atleast_2d(p_w)
        found = np.empty((len(states), len(self.names)))
        for row, p in zip(found, states, strict=True):
            self._exceed(p, *self._at(p), row)
        return found

    def _at(self, p_w: Reals) -> tuple[Complexes, Complexes]:
        """Port voltages and currents of one state, sought from the one that was solved last."""
        key = p_w.tobytes()
        if key not in self._solved:
            near = None if np.isnan(self._last[0][0]) else self._last[0]
            self._solved[key] = solve_one(self.model, p_w, self.now.q_var, FLOW_TOLERANCE_PU, near)
        self._last = self._solved[key]
        return self._last

    def _exceed(self, p_w: Reals, u: Complexes, i: Complexes, found: Reals) -> Reals:
        if not np.isfinite(u).all():
            found.fill(np.inf)
            return found
        n = len(u)
        change = np.abs(u)
        change -= self._u_model
        over, under = found[: 2 * n].reshape(2, n)
        np.add(self._over_v, change, out=over)
        np.subtract(self._under_v, change, out=under)
        np.abs(change, out=change)
        change *= self.now.model_error
        over += change
        under += change
        over /= self.model.u_nominal_v
        under /= self.model.u_nominal_v
        if self._flows is not None:
            found[2 * n :] = self._flows.excess(p_w, u, i)
        return found

    def guess(self, p_w: Reals) -> Reals:
        """One step of the power flow from the state that was solved last."""
        u, i = one_step(self.model, p_w, self.now.q_var, self._last[0])
        return self._exceed(p_w, u, i, np.empty(len(self.names)))

    def relief(self, unused_w: Reals) -> Reals:
        """Of voltages only: an excess of a current or an unbalance counts on no export beyond what is measured."""
        found = np.zeros(len(self.names))
        by_export, n = _relieving(self.model), len(unused_w)
        where = np.flatnonzero(unused_w)
        if len(where) > FEW * n:
            found[: 2 * n] = by_export @ unused_w.astype(np.float32)
        elif len(where):
            found[: 2 * n] = by_export[:, where] @ unused_w[where].astype(np.float32)
        found *= 1 + CURVED
        found[n : 2 * n] *= self._sag
        return found

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """First term of the implicit derivative: the current of a port follows its power, and its own voltage not."""
        u, i = self._at(p_w)
        n = len(u)
        found = np.zeros((len(rows), n))
        if not len(rows) or not np.isfinite(u).all():
            return found
        di: Complexes = np.asarray(-1 / np.conj(u))
        volts = rows < 2 * n
        only_volts = bool(volts.all())
        port = (rows if only_volts else rows[volts]) % n
        change = np.abs(u[port]) - self._u_model[port]
        sign = np.where((rows if only_volts else rows[volts]) < n, 1.0, -1.0)
        factor: Reals = (sign + self.now.model_error * np.sign(change)) / self.model.u_nominal_v[port]
        by_volts = _along(u[port], self.model.z_ohm[port], di, factor)
        if only_volts:
            return by_volts
        found[volts] = by_volts
        if self._flows is not None:
            found[~volts] = self._flows.slopes(p_w, u, i, rows[~volts] - 2 * n)
        return found


def rise(model: PortModel) -> Reals:
    """Of all voltages by each draw, first order about no load (n, n) [share of nominal/W]; kept with the model."""
    if "rise" not in model.memo:
        u = model.u_open_v
        model.memo["rise"] = _along(u, model.z_ohm, np.asarray(-1 / np.conj(u)), 1 / model.u_nominal_v)
    found: Reals = model.memo["rise"]
    return found


def _relieving(model: PortModel) -> NDArray[np.float32]:
    """By how much the exports of all ports lower every voltage, and below that by how much they lift it (2n, n) [share
    of nominal/W]; kept with the model."""
    if "relieving" not in model.memo:
        by_draw = rise(model)  # drawing raises the voltage: exporting lowers it
        model.memo["relieving"] = np.concatenate([np.maximum(by_draw, 0.0), np.maximum(-by_draw, 0.0)]).astype("f4")
    found: NDArray[np.float32] = model.memo["relieving"]
    return found


def _along(value: Complexes, transfer: Complexes, di: Complexes, factor: Reals) -> Reals:
    """Derivative of `|value|` (m) by each draw (n), value being linear in the currents, times a factor (m): (m, n)."""
    turn = np.conj(value) * factor / np.maximum(np.abs(value), 1e-12)
    return np.asarray((transfer * (turn[:, None] * di)).real)
