"""What the feeder would look like if every grant were fully used, and how far that is from what the grid bears.

The model gives differences, the meters give the level: a predicted voltage is the measured one plus the exact power-
flow difference between "every grant fully used" and "now", and a margin for what neither knows. Pure; NumPy and the
port model. Each flow starts at the voltages of the one before, the cases of a state together. Loops are compiled
(`cpp/flows.cpp`); NumPy does the same where they were not built.

Nomenclature: n ports, k observed currents; `p_w` import positive; an export limit is a magnitude >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dcu.grid.one_state import solve_each, solve_few, solve_from_idle, step_few
from dcu.grid.port_model import PortModel
from dcu.hosting.compiled import share
from dcu.hosting.flows import Flows, Linear, Measured
from dcu.hosting.moves import along, choices, moved, relieved

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]

FLOW_TOLERANCE_PU: Final = 1e-9
"""Of a power flow behind a decision: far below any meter, so that two of them may be compared."""


SAG_MIN: Final = 0.5
"""[nominal] Where a voltage is at its lower limit, what relieves it flows at about that voltage, with more current than
about no load; a limit below this is none."""
BENT: Final = 5e-5
"""[limit] What an export pushes by a little, seen from no load, it may relieve by a little in the end: 12 mV."""


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

    def __post_init__(self) -> None:
        for name in ("p_w", "q_var", "u_v", "margin_v"):  # compiled loops take values that lie side by side
            values = getattr(self, name)
            if not values.flags.c_contiguous:
                object.__setattr__(self, name, np.ascontiguousarray(values))


@dataclass(frozen=True, slots=True)
class Constraint:
    """One limit of the grid: `kind` overvoltage, undervoltage, current, unbalance or power_flow; `place` in words."""

    kind: str
    place: str


class Onto(NamedTuple):
    """How claims lie on the ports: the ports of all, one claim's after the other; where each claim's begin; what each
    port exports of a watt of its claim, negative; whether a claim may use all of it on any of its ports."""

    ports: Rows
    starts: Rows
    minus_share: Reals
    free: NDArray[np.bool_]

    def by_limit(self, by_port: Reals) -> Reals:
        """Slopes by limits (rows, n_claim) of slopes by draws (rows, n), by the worst phase of each claim."""
        if share is not None:
            found = np.empty((len(by_port), len(self.starts)))
            share.by_limit(np.ascontiguousarray(by_port), *self, found)
            return found
        own: Reals = by_port[:, self.ports]
        found = np.add.reduceat(own * self.minus_share, self.starts, axis=1)
        if self.free.any():
            found = np.where(self.free, np.maximum.reduceat(-own, self.starts, axis=1), found)
        return np.asarray(found)


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

    def guess(self, p_w: Reals, enough: Reals | None = None) -> Reals:
        """About the excess at some states (n_state, n): (n_state, n_constraint), without a power flow. Says where to
        look. What is not above ``enough`` (n_state or 1, n_constraint) need be no more than a bound."""

    def relief(self, unused_w: Reals) -> Reals:
        """What would be missing if exports (n_state, n) [W] did not happen that pull a constraint back, those on other
        phases: (n_state, n_constraint), not below 0, to be added to an excess that counted on them."""

    def at_worst(self, p_w: Reals, rows: Rows) -> Reals:
        """How far some constraints (n_row) are exceeded at one state (n) where any of the exports beyond what is
        measured may not come; infinite where no more is known of that than `relief` says."""

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """About how the excess of some constraints follows each draw at one state (n): (n_row, n) [1/W]. Steps are
        chosen by it, never confirmed."""

    def slopes_by_limit(self, p_w: Reals, rows: Rows, at: Rows, onto: Onto) -> Reals:
        """The same by the limits of claims (n_row, n_claim), each row at its own one of some states (n_state, n)."""


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
        self._known: dict[bytes, Reals] = {}
        self._relieved: dict[bytes, Reals] = {}
        self._last = solved[0]
        self._u_model = np.abs(solved[0])
        self._flows = self._linear_now(*solved)
        self._compiled = None if share is None else self._as_compiled(share.Flows, *solved)

    def _linear_now(self, u_v: Complexes, i_a: Complexes) -> Flows | None:
        """Currents and unbalance, seen from now; None where there is no limit to them."""
        now, model = self.now, self.model
        if not len(self._observed.linear.open):
            return None
        # Where the voltage may be lower than the model's, the same draw is more current.
        short = np.maximum(self._u_model / np.maximum(now.u_v - now.margin_v, SAG_MIN * model.u_nominal_v) - 1, 0.0)
        measured = Measured(now.p_w, u_v, i_a, short, now.power_error, now.model_error)
        return Flows(self._observed.linear, measured, lambda: moved(model), model.u_nominal_v)

    def _as_compiled(self, kind: Any, u_v: Complexes, i_a: Complexes) -> Any:
        """The same as one object that does all loops."""
        linear, now, model = self._observed.linear, self.now, self.model
        return kind(
            self._over_v,
            self._under_v,
            self._u_model,
            model.u_nominal_v,
            now.model_error,
            _z_rows(model),
            linear.open,
            linear.h,
            linear.reach,
            linear.i_max_a,
            linear.vuf_max,
            *linear.forward,
            *(
                (np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0, dtype=np.int64))
                if self._flows is None
                else moved(model)
            ),
            now.p_w,
            u_v,
            i_a,
            np.zeros(0) if self._flows is None else self._flows.blur,
            0.0 if self._flows is None else self._flows.wrong,
        )

    def excess(self, p_w: Reals) -> Reals:
        states = np.atleast_2d(p_w)
        keys = [p.tobytes() for p in states]
        new = [k for k, key in enumerate(keys) if key not in self._known]
        if len(new) == len(keys):
            found = self._exceed(states, *self._at(states, keys))
            self._known.update(zip(keys, found, strict=True))
        elif new:
            some = [keys[k] for k in new]
            self._known.update(zip(some, self._exceed(states[new], *self._at(states[new], some)), strict=True))
        self._last = self._solved[keys[-1]][0]
        return found if len(new) == len(keys) else np.array([self._known[key] for key in keys])

    def _at(self, p_w: Reals, keys: list[bytes]) -> tuple[Complexes, Complexes]:
        """Port voltages and currents of some states (n_state, n), sought from the one that was solved last."""
        new = [k for k, key in enumerate(keys) if key not in self._solved]
        if new:
            near = None if np.isnan(self._last[0]) else self._last
            all_are = len(new) == len(keys)
            found = solve_few(self.model, p_w if all_are else p_w[new], self.now.q_var, FLOW_TOLERANCE_PU, near)
            self._solved.update(zip([keys[k] for k in new], zip(*found, strict=True), strict=True))
            if all_are:
                return found
        u, i = zip(*[self._solved[key] for key in keys], strict=True)
        return np.array(u), np.array(i)

    def _exceed(self, p_w: Reals, u_v: Complexes, i_a: Complexes, enough: Reals | None = None) -> Reals:
        """Of some states (n_state, n): (n_state, n_constraint)."""
        found = np.empty((len(p_w), len(self.names)))
        if self._compiled is not None:
            self._compiled.excess(np.ascontiguousarray(p_w), u_v, i_a, enough, found)
            return found
        for p, u, i, row in zip(p_w, u_v, i_a, found, strict=True):
            self._exceed_one(p, u, i, row)
        return found

    def _exceed_one(self, p_w: Reals, u: Complexes, i: Complexes, found: Reals) -> None:
        if not np.isfinite(u).all():
            found.fill(np.inf)
            return
        n = len(u)
        self._exceed_volts(u, found[: 2 * n])
        if self._flows is not None:
            found[2 * n :] = self._flows.excess(p_w, u, i)

    def _exceed_volts(self, u: Complexes, found: Reals) -> Reals:
        """Of the voltages alone, of one state (n): (2n), not a number where it has no solution."""
        change = np.abs(u)
        change -= self._u_model
        over, under = found.reshape(2, len(u))
        np.add(self._over_v, change, out=over)
        np.subtract(self._under_v, change, out=under)
        np.abs(change, out=change)
        change *= self.now.model_error
        over += change
        under += change
        over /= self.model.u_nominal_v
        under /= self.model.u_nominal_v
        return found

    def guess(self, p_w: Reals, enough: Reals | None = None) -> Reals:
        """One step of the power flow from the state that was solved last."""
        u, i = step_few(self.model, p_w, self.now.q_var, self._last)
        return self._exceed(p_w, u, i, enough)

    def relief(self, unused_w: Reals) -> Reals:
        """Of voltages only: an excess of a current or an unbalance counts on no export beyond what is measured."""
        found = np.zeros((len(unused_w), len(self.names)))
        found[:, : 2 * unused_w.shape[1]] = self._relief(unused_w)
        return found

    def _relief(self, unused_w: Reals) -> Reals:
        """Of voltages, of some states (n_state, n): (n_state, 2n)."""
        keys = [unused.tobytes() for unused in unused_w]
        new = [k for k, key in enumerate(keys) if key not in self._relieved]
        if new:
            all_are = len(new) == len(keys)
            found = relieved(self.model, unused_w if all_are else unused_w[new], self._sag)
            self._relieved.update(zip([keys[k] for k in new], found, strict=True))
            if all_are:
                return found
        return np.array([self._relieved[key] for key in keys])

    def at_worst(self, p_w: Reals, rows: Rows) -> Reals:
        """Flows with those exports only that push a constraint, seen from no load. What pushes one voltage pushes
        others of its phase: the flow made for one row holds for another too, with what the exports may do to it that
        come in one and not in the other, to first order. An excess of a current or an unbalance is that of its worst
        case already."""
        unseen_w = np.maximum(self.now.p_w - p_w, 0.0)
        volts = rows < 2 * len(p_w)
        if not unseen_w.any() or not volts.any():
            return np.full(len(rows), np.inf)
        if not volts.all():
            found = np.full(len(rows), np.inf)
            found[volts] = self._volts_at_worst(p_w, rows[volts], unseen_w)
            return found
        return self._volts_at_worst(p_w, rows, unseen_w)

    def _volts_at_worst(self, p_w: Reals, rows: Rows, unseen_w: Reals) -> Reals:
        """Of voltages' limits, where these exports (n) [W] may not come."""
        used = self.excess(p_w[None, :])[0].take(rows)
        (by_all,) = self._relief(unseen_w[None, :])
        pushes, otherwise = choices(self.model, unseen_w, rows, self._sag, by_all)
        u = self._each_at(p_w + np.where(pushes, 0.0, unseen_w))
        return self._worst(u, rows, otherwise, used)

    def _each_at(self, p_w: Reals) -> Complexes:
        """Port voltages of some states (n_state, n), each sought from the one that was solved last."""
        keys = [p.tobytes() for p in p_w]
        new = [k for k, key in enumerate(keys) if key not in self._solved]
        if new:
            near = None if np.isnan(self._last[0]) else self._last
            all_are = len(new) == len(keys)
            found = solve_each(self.model, p_w if all_are else p_w[new], self.now.q_var, FLOW_TOLERANCE_PU, near)
            self._solved.update(zip([keys[k] for k in new], zip(*found, strict=True), strict=True))
            if all_are:
                return found[0]
        return np.array([self._solved[key][0] for key in keys])

    def _worst(self, u_v: Complexes, rows: Rows, otherwise: Reals, used: Reals) -> Reals:
        """Of some voltages' limits (r), from the flows of some choices (k, n), what another choice may do (k, r), and
        the excess with all exports."""
        if self._compiled is not None:
            found = np.empty(len(rows))
            self._compiled.at_worst(u_v, rows, otherwise, used, BENT, found)
            return found
        flow = np.array([self._exceed_volts(u, np.empty(2 * len(u)))[rows] for u in u_v])
        if not np.isfinite(flow).all():
            return np.full(len(rows), np.inf)
        least, most = np.maximum(used, flow.max(axis=0)), (flow + otherwise).min(axis=0)
        return np.asarray(np.maximum(least, most + BENT))

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """First term of the implicit derivative: the current of a port follows its power, and its own voltage not."""
        n = len(p_w)
        found = np.zeros((len(rows), n))
        if not len(rows):
            return found
        us, currents = self._at(p_w[None, :], [p_w.tobytes()])
        if self._compiled is not None:
            self._compiled.slopes(p_w[None, :], us, currents, rows, np.zeros(len(rows), dtype=np.int64), found)
            return found
        u, i = us[0], currents[0]
        if not np.isfinite(u).all():
            return found
        di: Complexes = np.asarray(-1 / np.conj(u))
        volts = rows < 2 * n
        only_volts = bool(volts.all())
        port = (rows if only_volts else rows[volts]) % n
        change = np.abs(u[port]) - self._u_model[port]
        sign = np.where((rows if only_volts else rows[volts]) < n, 1.0, -1.0)
        factor: Reals = (sign + self.now.model_error * np.sign(change)) / self.model.u_nominal_v[port]
        by_volts = along(u[port], self.model.z_ohm[port], di, factor)
        if only_volts:
            return by_volts
        found[volts] = by_volts
        if self._flows is not None:
            found[~volts] = self._flows.slopes(p_w, u, i, rows[~volts] - 2 * n)
        return found

    def slopes_by_limit(self, p_w: Reals, rows: Rows, at: Rows, onto: Onto, *, seen: bool = False) -> Reals:
        """As `Prospect` has it; ``seen``: an export beyond what is measured relieves nothing."""
        assert self._compiled is not None or not seen, "a way of the compiled one"
        if self._compiled is None:
            return slopes_by_limit(self, p_w, rows, at, onto)
        found = np.empty((len(rows), len(onto.starts)))
        states = self._at(p_w, [p.tobytes() for p in p_w])
        self._compiled.slopes_by_limit(np.ascontiguousarray(p_w), *states, rows, at, seen, *onto, found)
        return found

    @property
    def compiled(self) -> bool:
        """Whether its loops are."""
        return self._compiled is not None


def slopes_by_limit(prospect: Prospect, p_w: Reals, rows: Rows, at: Rows, onto: Onto) -> Reals:
    """`Prospect.slopes_by_limit` by way of slopes by draws."""
    found = np.zeros((len(rows), p_w.shape[1]))
    for state in np.unique(at):
        found[at == state] = prospect.slopes(p_w[state], rows[at == state])
    return onto.by_limit(found)


def _z_rows(model: PortModel) -> Complexes:
    """Z [ohm] (n, n), row after row whichever way it was made; kept with the model."""
    if "z rows" not in model.memo:
        model.memo["z rows"] = np.ascontiguousarray(model.z_ohm)
    found: Complexes = model.memo["z rows"]
    return found
