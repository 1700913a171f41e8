"""What the feeder would look like if every grant were fully used, and how far that is from what the grid bears.

The model gives differences, the meters give the level: a predicted voltage is the measured one plus the exact power-
flow difference between "every grant fully used" and "now", and a margin for what neither knows. Pure; NumPy and the
port model. Nothing in the engine uses it yet; `predict` is the seam where it goes in.

Nomenclature: n ports, k observed currents; `p_w` import positive; an export limit is a magnitude >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.injections import Injections, prepare
from dcu.grid.observe import unbalance
from dcu.grid.port_engine import solve_ports
from dcu.grid.port_model import PortModel

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]

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


class Outlook:
    """Predicts constraint violations for powers at the ports, from one situation.

    All constraints are numbers that must not be above 0, in units of their own limit: how far a voltage is above its
    limit [share of nominal], a current above its rating [share of it], an unbalance above its limit.
    """

    def __init__(self, model: PortModel, limits: GridLimits, now: Situation) -> None:
        self.model, self.limits, self.now = model, limits, now
        self._rated = (
            np.flatnonzero(np.isfinite(limits.i_max_a)) if len(model.currents) else np.zeros(0, dtype=np.int64)
        )
        self._buses = model.three_phase_buses() if np.isfinite(limits.vuf_max) else []
        self._u_model = np.abs(self._solve(now.p_w[None, :])[0][0])
        self.names = self._names()

    def _names(self) -> tuple[Constraint, ...]:
        ports = self.model.ports
        currents = [self.model.currents[k] for k in self._rated]
        return (
            *(Constraint("overvoltage", port) for port in ports),
            *(Constraint("undervoltage", port) for port in ports),
            *(Constraint("current", f"{c.kind} {c.id} {c.conductor}") for c in currents),
            *(Constraint("unbalance", bus) for bus, _, _ in self._buses),
        )

    def _solve(self, p_w: Reals) -> tuple[Complexes, Complexes]:
        q = np.broadcast_to(self.now.q_var, p_w.shape)
        solved = solve_ports(self.model, prepare(Injections(p_w, q), self.model.u_nominal_v), FLOW_TOLERANCE_PU)
        return solved.u_v, solved.i_a

    def excess(self, p_w: Reals) -> Reals:
        """How far each constraint is exceeded with these draws (n_state, n) [W]: (n_state, n_constraint), above 0 is
        too far. A state without a power-flow solution exceeds everything."""
        u, i = self._solve(np.atleast_2d(p_w))
        nominal = self.model.u_nominal_v
        change = np.abs(u) - self._u_model
        expected = self.now.u_v + change
        margin = self.now.margin_v + self.now.model_error * np.abs(change)
        parts = [
            (expected + margin - self.limits.u_high_v) / nominal,
            (self.limits.u_low_v - expected + margin) / nominal,
        ]
        if len(self._rated):
            amps = np.abs(self.model.current_open_a[self._rated] + i @ self.model.current_h[self._rated].T)
            parts.append(amps / self.limits.i_max_a[self._rated] - 1)
        if self._buses:
            rows = np.array([at for _, at, _ in self._buses]).T
            volts = [self.model.node_open_v[at] + i @ self.model.node_h_ohm[at].T for at in rows]
            parts.append((unbalance(*volts) - self.limits.vuf_max) / self.limits.vuf_max)
        found = np.concatenate(parts, axis=1)
        found[np.isnan(found).any(axis=1)] = np.inf
        return found
