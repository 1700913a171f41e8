"""What the balancing meter sees against what the customers' meters say, phase by phase: who is on another phase than he
is thought to be, and who draws without a meter.

    short_n = fed_n - sum over the ports k of phase n of p_k - what the lines take, p_k (|u_busbar,n| / |u_k| - 1)

Three things may make it differ from 0 in a street where all is well. Meters err by their class (`balance_pct` of what
flows, both ways), and by some watts (`balance_w`). And readings come one after the other: what is not yet reported has
moved the balancing meter, and what is reported has moved a reading, so that all of it lies within what either of them
has moved by lately (`SINCE_S`). For so long after a start only a loose bound is used.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.decide import Binding
from dcu.hosting.measurements import FUSE_A, SUBSTATION, Point
from shared.messages import Reason

Reals = NDArray[np.float64]

PHASES: Final = ("L1", "L2", "L3")
SINCE_S: Final = 90.0
"""[s] Twice the age at which a reading is stale: every meter has been read twice."""
KEEP_EVERY_S: Final = 1.0
"""[s] Sets closer together are kept once; what they have moved stays in the next."""
FIRST_W, FIRST_PCT = 2000.0, 20.0
"""[W], share of all that flows [%]: bound for a street that has not been seen for `SINCE_S`."""
FREE_EXPORT_W: Final = 4600.0
"""[W] What a port without a meter may feed at most: a plant on one phase (VDE-AR-N 4105, 4.6 kVA; recalled, not looked
up). It can have no grant."""


@dataclass(frozen=True, slots=True, eq=False)
class Short:
    """What no meter accounts for [W, var] (3), and how much of its active part may be meters' own errors [W] in each
    phase (3), and in all together."""

    p_w: Reals
    q_var: Reals
    each_w: Reals
    all_w: float


class Balance:
    """Remembers what has moved; judges a set."""

    def __init__(
        self, labels: tuple[str, ...], free: tuple[int, ...], nominal_v: Reals, wrong: tuple[float, float]
    ) -> None:
        """Nothing seen.

        Args:
            labels: phase of every port.
            free: ports without a meter.
            nominal_v: of every port (n) [V].
            wrong: how far meters may be wrong [W], and by which share of what flows [%].
        """
        at = [np.array([k for k, label in enumerate(labels) if label == phase], dtype=np.int64) for phase in PHASES]
        self._at, (self._wrong_w, self._wrong_pct) = at, wrong
        self.whole = sum(map(len, at)) == len(labels)
        """Whether every port is from phase to neutral: else a sum by phase says nothing."""
        self.free = [np.intersect1d(ports, np.array(free, dtype=np.int64)) for ports in at]
        """Of each phase: ports without a meter."""
        self._most_w = np.array([FUSE_A * nominal_v[ports].sum() for ports in self.free])
        self._least_w = np.array([-FREE_EXPORT_W * len(ports) for ports in self.free])
        self._seen: deque[tuple[float, Reals]] = deque()
        self._began_s = 0.0

    def take(self, busbar: Point, p_w: Reals, q_var: Reals, u_v: Reals, now: float) -> Short | None:
        """What is short at ``now`` [s] with these draws and voltages (n); None where nobody can say."""
        if not self.whole or not busbar.powers_known or len(busbar.p_w) != len(PHASES):
            return None
        fed, reactive, volts = (np.array(x, dtype=float) for x in (busbar.p_w, busbar.q_var, busbar.u_v))
        moved_w = self._moved(np.concatenate([fed, p_w]), now)
        sum_w, sum_var, flow_w, taken_w = (np.zeros(len(PHASES)) for _ in range(4))
        for n, ports in enumerate(self._at):
            p = p_w[ports]
            sum_w[n], sum_var[n], flow_w[n] = p.sum(), q_var[ports].sum(), np.abs(p).sum()
            taken_w[n] = (p * (volts[n] / u_v[ports] - 1)).sum()
        moves_w = moved_w[: len(PHASES)] + np.array([moved_w[len(PHASES) + ports].sum() for ports in self._at])
        wrong_w = self._wrong_w + self._wrong_pct / 100 * np.maximum(flow_w, np.abs(fed)) + np.abs(taken_w)
        first_w = 0.0 if now >= self._began_s + SINCE_S else FIRST_W + FIRST_PCT / 100 * float(flow_w.sum())
        each_w = np.maximum(wrong_w, first_w) + moves_w
        all_w = max(float(wrong_w.sum()), first_w) + float(moves_w.sum())
        return Short(fed - sum_w - taken_w, reactive - sum_var, each_w, all_w)

    def contradicts(self, short: Short) -> Binding | None:
        """Whether somebody must be wrong: a phase, or the whole street, is short of more than is allowed and than its
        ports without a meter may draw or feed."""
        allowed_w = np.append(short.each_w, short.all_w)
        short_w, most_w, least_w = (np.append(x, x.sum()) for x in (short.p_w, self._most_w, self._least_w))
        beyond_w = np.maximum(short_w - most_w, least_w - short_w) - allowed_w
        worst = int(beyond_w.argmax())
        if not beyond_w[worst] > 0:
            return None
        return Binding(Reason.READINGS_CONTRADICT, SUBSTATION, round(float(short_w[worst]), 1))

    def _moved(self, powers_w: Reals, now: float) -> Reals:
        """How far each power has been seen to move lately [W]."""
        seen = self._seen
        if seen and now < seen[-1][0]:
            seen.clear()
        while seen and seen[0][0] < now - SINCE_S:
            seen.popleft()
        if not seen:
            self._began_s = now
        rows = np.array([*(row for _, row in seen), powers_w])
        if not seen or now >= seen[-1][0] + KEEP_EVERY_S:
            seen.append((now, powers_w.copy()))
        return np.asarray(np.ptp(rows, axis=0))
