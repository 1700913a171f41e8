"""What the meters say beyond the model: the residual of each port, measured minus model, followed as time passes.

Meters report one after the other, and a house that switches between two reports makes a model fed with newest readings
wrong by volts for a while. A reading is therefore judged late: when every meter has reported since, each draw at the
instant of the reading is known from the reports before and after it, to within what it changed between them. From that
doubt follows how much the residual may teach.

Each port's residual is filtered as a constant that drifts slowly: mean `m`, variance `P` of the mean,

    K = P / (P + R),   m += K (r - m),   P = (1 - K) P + Q dt,   R = noise^2 + doubt^2 / 3

(Kalman's filter of one state). A fresh port knows nothing and believes its first clear residual whole.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.one_state import solve_one
from dcu.grid.port_model import PortModel
from dcu.hosting.headroom import FLOW_TOLERANCE_PU, rise

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]

FIRST: Final = 0.02
"""[nominal] Standard deviation of a residual of which nothing is known."""
DRIFT: Final = 0.0005
"""[nominal] By which a residual drifts within `DRIFT_S`: temperature of meters, and of cables."""
DRIFT_S: Final = 3600.0
SURPRISE: Final = 3.0
"""Standard deviations beyond which a residual is not the constant that it was."""
KEPT: Final = 4
"""Reports of each port that are remembered."""
BUSBARS_MAX: Final = 256
WAIT_S: Final = 180.0
"""[s] A reading that could not be judged for so long teaches nothing."""
BATCH: Final = 64
"""Instants judged at a time."""
UNSEEN_W: Final = 1000.0
"""[W] What a port may have drawn before its first report."""
NEW_S: Final = 1e-3
"""[s] A reading is new if it was taken later than the last one by more than rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Newest readings by port (n): draws [W, var], voltage [V] (NaN without a meter), when taken [s]."""

    p_w: Reals
    q_var: Reals
    u_v: Reals
    taken_s: Reals


class Residuals:
    """Mean and variance by port (n) [V]; ports whose readings contradict the model."""

    def __init__(self, metered: NDArray[np.bool_], nominal_v: Reals, noise_v: float) -> None:
        """Nothing known.

        Args:
            metered: which ports have a meter (n).
            nominal_v: (n) [V].
            noise_v: of a reading [V]: its last digit, its flicker.
        """
        n = len(metered)
        self._metered, self._nominal_v, self._noise_v = metered, nominal_v, noise_v
        self.mean_v = np.zeros(n)
        self.variance = np.where(metered, (FIRST * nominal_v) ** 2, 0.0)
        self.contradicts = np.zeros(n, dtype=bool)
        self._t = np.full((n, KEPT), -np.inf)
        self._p, self._q = np.zeros((n, KEPT)), np.zeros((n, KEPT))
        self._waiting: Reals = np.zeros((0, 3))
        self._busbar: deque[tuple[float, float]] = deque(maxlen=BUSBARS_MAX)
        self._aged_s: float | None = None

    def hear(self, seen: Seen, busbar_v: float, busbar_s: float) -> None:
        """Newest readings of everybody, the busbar's mean voltage [V] and when it was read [s]."""
        new = self._metered & (seen.taken_s > self._t[:, -1] + NEW_S)
        for table, values in ((self._t, seen.taken_s), (self._p, seen.p_w), (self._q, seen.q_var)):
            table[new, :-1] = table[new, 1:]
            table[new, -1] = values[new]
        fresh = np.flatnonzero(new)
        readings = np.column_stack([seen.taken_s[fresh], fresh, seen.u_v[fresh]])
        self._waiting = np.concatenate([self._waiting, readings])
        if not self._busbar or busbar_s > self._busbar[-1][0] + NEW_S:
            self._busbar.append((busbar_s, busbar_v))

    def judge(
        self,
        model: PortModel,
        busbar: list[int],
        allowed: float,
        unmetered: tuple[Reals, Reals],
        near_u_v: Complexes | None = None,
    ) -> None:
        """Learn from the readings that everybody has reported after.

        Args:
            model: the feeder, its source about where it is.
            busbar: rows of the balancing bus among its nodes; empty if it is not observed.
            allowed: a residual beyond this share of nominal contradicts.
            unmetered: draws [W, var] (n) to be taken at ports without a meter.
            near_u_v: port voltages (n) [V] that power flows may start from.
        """
        ready_s = float(self._t[self._metered, -1].min()) if self._metered.any() else -np.inf
        newest_s = float(self._t[:, -1].max(initial=-np.inf))
        taken_s = self._waiting[:, 0]
        ready = self._waiting[taken_s <= ready_s]
        self._waiting = self._waiting[(taken_s > ready_s) & (taken_s > newest_s - WAIT_S)]
        ready = ready[np.lexsort((ready[:, 1], ready[:, 0]))]
        instants = np.unique(ready[:, 0])
        for first in range(0, len(instants), BATCH):
            at_s = instants[first : first + BATCH]
            mine = ready[(ready[:, 0] >= at_s[0]) & (ready[:, 0] <= at_s[-1])]
            self._judge(mine, at_s, model, busbar, allowed, unmetered, near_u_v)

    def _judge(
        self,
        readings: Reals,
        at_s: Reals,
        model: PortModel,
        busbar: list[int],
        allowed: float,
        unmetered: tuple[Reals, Reals],
        near_u_v: Complexes | None,
    ) -> None:
        """Readings (when, port, voltage) of some instants."""
        p, doubt_w = self._then(self._p, at_s)
        q, _ = self._then(self._q, at_s)
        p, q = np.where(self._metered, p, unmetered[0]), np.where(self._metered, q, unmetered[1])
        flows: list[tuple[Complexes, Complexes]] = []
        for draw, reactive in zip(p, q, strict=True):
            flows.append(solve_one(model, draw, reactive, FLOW_TOLERANCE_PU, near_u_v))
            near_u_v = flows[-1][0] if np.isfinite(flows[-1][0]).all() else None
        level = np.abs(np.array([u for u, _ in flows]))
        if busbar:
            times, volts = zip(*self._busbar, strict=True)
            i = np.array([i for _, i in flows])
            modelled = np.abs(model.node_open_v[busbar] + i @ model.node_h_ohm[busbar].T).mean(axis=1)
            level = level * (np.interp(at_s, times, volts) / modelled)[:, None]
        # Grants are lowered together, so changes between two reports add up rather than cancel.
        doubt_v = doubt_w @ _reach(model).T if doubt_w.any() else doubt_w
        for k, taken_s in enumerate(at_s):
            mine = readings[readings[:, 0] == taken_s]
            ports = mine[:, 1].astype(np.int64)
            residual_v = mine[:, 2] - level[k, ports]
            known = np.isfinite(residual_v)
            if known.any():
                self._learn(float(taken_s), ports[known], residual_v[known], doubt_v[k, ports[known]], allowed)

    def _then(self, table: Reals, at_s: Reals) -> tuple[Reals, Reals]:
        """Values of every port at some instants (k, n), and half of what each changed between its reports around
        them."""
        before = (self._t[None, :, :] <= at_s[:, None, None] + NEW_S).sum(axis=2)
        ports = np.arange(len(self._t))[None, :]
        lower, upper = np.maximum(before - 1, 0), np.minimum(before, KEPT - 1)
        first, last = table[ports, lower], table[ports, upper]
        exact = self._t[ports, lower] >= at_s[:, None] - NEW_S
        value = np.where(exact, first, (first + last) / 2)
        doubt = np.where(exact, 0.0, np.abs(last - first) / 2)
        unseen = (before == 0) | ~np.isfinite(self._t[ports, lower])
        return np.where(unseen, last, value), np.where(unseen & self._metered, UNSEEN_W, doubt)

    def _learn(self, taken_s: float, ports: Rows, residual_v: Reals, doubt_v: Reals, allowed: float) -> None:
        """What some ports, each once, showed at one instant."""
        if self._aged_s is not None and taken_s > self._aged_s:
            drift = (DRIFT * self._nominal_v) ** 2 / DRIFT_S
            self.variance = self.variance + np.where(self._metered, drift * (taken_s - self._aged_s), 0.0)
        self._aged_s = taken_s if self._aged_s is None else max(self._aged_s, taken_s)
        odd = np.abs(residual_v) > allowed * self._nominal_v[ports] + doubt_v
        self.contradicts[ports] = odd
        ports, residual_v, doubt_v = ports[~odd], residual_v[~odd], doubt_v[~odd]
        known = self.variance[ports]
        off = residual_v - self.mean_v[ports]
        noise = self._noise_v**2 + doubt_v**2 / 3
        # Something has changed for good, or nothing is known: the new reading counts.
        known = known + np.where(off**2 > SURPRISE**2 * (known + noise), off**2, 0.0)
        gain = known / (known + noise)
        self.mean_v[ports] += gain * off
        self.variance[ports] = (1 - gain) * known


def _reach(model: PortModel) -> Reals:
    """Size of each port's voltage change by each draw (n, n) [V/W]; kept with the model."""
    if "reach" not in model.memo:
        model.memo["reach"] = np.abs(rise(model)) * model.u_nominal_v[:, None]
    found: Reals = model.memo["reach"]
    return found
