"""What the meters say beyond the model: the residual of each port, measured minus model, followed as time passes.

Meters report one after the other, and a house that switches between two reports makes a model fed with newest readings
wrong by volts for a while. A reading is therefore judged late: when every meter has reported since, each draw at the
instant of the reading lies between the reports before and after it. The model gets the middle of the two, which is half
of the change away from either at most. Grants are lowered together and clouds shade everybody, so what moves a voltage
the same way is added up as it is, not by squares: the reading's *swing*. Where meters report a change by more than so
many watts within seconds (`report_change_w`), no more than these can have changed before the last seconds of an
interval; a report that was lost counts as not called for, and is another one each time.

Each port's residual is filtered as a constant that drifts slowly. A reading `r` is off by noise and by its swing, which
are other ones each time: the instants of clouds and grants have nothing to do with whose turn it is to report. But some
houses may always switch right after their reports and make each reading of a neighbour wrong the same way, however many
there are: of each reading, what the three can have done that move it most is in *doubt* for good. The mean `m` has a
variance `P` of what averages out, and a doubt `B` that does not: the weighted mean of the doubts that it was learnt
with (as standard deviations: a third of what they are at most),

    m += K (r - m),   P = (1 - K)^2 P + K^2 (noise^2 + swing^2) + Q dt,   B = (1 - K) B + K doubt

(a filter that considers the doubt, and takes it as the same in all readings). `K` is what makes `sqrt(P) + B` smallest:
Kalman's gain where doubt is alike, less where a reading is in more doubt than the mean, nothing at all where it would
only make it less sure. A fresh port knows nothing and believes its first clear residual whole. A residual that
surprises moves nothing by itself but widens `P` until the margin reaches it; the next one, if it says the same, is then
believed, and if not, `P` narrows again. The noise of a
reading (last digits, flicker between the meter's moment and the busbar's) is what clear readings scatter by, one figure
for the street; it begins with what the site declares. What a house does between two reports that show the same draw is
not seen here; only meters with `report_change_w` tell it.

A model whose impedances are wrong by a share is wrong by that share of how far it holds the voltage from that of the
idle feeder. The residual contains that error as it was when it was learnt; `anchor_v` keeps, with the same gains, the
lift (voltage above the idle feeder's) that it was learnt at, so that a lift of now can be compared.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.one_state import solve_one
from dcu.grid.port_model import PortModel
from dcu.hosting.headroom import FLOW_TOLERANCE_PU
from dcu.hosting.moves import rise

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]

FIRST: Final = 0.02
"""[nominal] Standard deviation of a residual of which nothing is known."""
DRIFT: Final = 0.00015
"""[nominal] By which a residual drifts within `DRIFT_S`: a meter's error follows its temperature, an EM330's by at most
0.02 % a kelvin. The mean lags behind a steady change by some minutes; with this the margin covers that lag up to some
6 K an hour. What a wrong model does as the load changes is not drift: see `anchor_v`."""
DRIFT_S: Final = 3600.0
SURPRISE: Final = 3.0
"""Standard deviations beyond which a residual is not the constant that it was."""
NOISE_SHARE: Final = 0.005
"""Weight of one clear reading in what noise readings have; some two hundred count."""
NOISE_MIN_V: Final = 0.04
"""[V] Last digits of 0.1 V on a port's meter and the busbar's; less is believed of nobody."""
IN_STEP: Final = 3
"""Ports whose draws may always change right after a report, so that no number of readings averages them out."""
TOLD_S, TOLD_GAP_S = 3.0, 5.0
"""[s] From a change of draw to the reading that a meter reports for it, and the least it leaves between two reports."""
LINEAR: Final = 0.15
"""Share by which what draws change is wrong to first order about no load."""
KEPT: Final = 16
"""Reports of each port that are remembered: a busy meter says more in one interval than a quiet one in five."""
BUSBARS_MAX: Final = 256
WAIT_S: Final = 180.0
"""[s] A reading that could not be judged for so long teaches nothing."""
BATCH: Final = 64
"""Instants judged at a time."""
UNSEEN_W: Final = 1000.0
"""[W] What a port may have drawn before its first report, and what its draw may have changed by since its newest."""
DOUBT_MAX: Final = 0.02
"""[nominal] Most that doubt may excuse beyond what a meter is allowed: a neighbour that swings hides nobody's fault."""
NEW_S: Final = 1e-3
"""[s] A reading is new if it was taken later than the last one by more than rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Newest readings by port (n): draws [W, var], voltage [V] (NaN without a meter), when taken [s]."""

    p_w: Reals
    q_var: Reals
    u_v: Reals
    taken_s: Reals


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Readings of some ports, each once, at one instant, judged: measured minus model; how far unreported draws may
    have moved it, all together and who may be in step with reports; the lift that the model had there [V]."""

    ports: Rows
    residual_v: Reals
    swing_v: Reals
    in_step_v: Reals
    lift_v: Reals

    def where(self, chosen: NDArray[np.bool_]) -> _Found:
        """Some of them."""
        if chosen.all():
            return self
        return _Found(
            self.ports[chosen],
            *(values[chosen] for values in (self.residual_v, self.swing_v, self.in_step_v, self.lift_v)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Now:
    """How far newest readings surprise (n) [V], 0 where they do not; which contradict the level of now."""

    off_v: Reals
    contradicts: NDArray[np.bool_]


class Residuals:
    """Mean by port (n) [V], its variance [V2] and the doubt in it that does not average out [V], the lift they were
    learnt at; ports whose readings contradict the model, or could not be judged for too long."""

    def __init__(
        self, metered: NDArray[np.bool_], nominal_v: Reals, noise_v: float, told_w: float | None = None
    ) -> None:
        """Nothing known.

        Args:
            metered: which ports have a meter (n).
            nominal_v: (n) [V].
            noise_v: of a reading [V], to begin with: its last digit, its flicker.
            told_w: meters report a draw that has changed by more within `TOLD_S` [W]; None where not all do.
        """
        n = len(metered)
        self._told_w = np.inf if told_w is None else told_w
        self._metered, self._nominal_v, self._noise = metered, nominal_v, noise_v**2
        self._all_metered = bool(metered.all())
        self.mean_v = np.zeros(n)
        self.variance = np.where(metered, (FIRST * nominal_v) ** 2, 0.0)
        self.doubt_v = np.zeros(n)
        self.anchor_v = np.zeros(n)
        self.contradicts = np.zeros(n, dtype=bool)
        self._unjudged_s = np.full(n, np.inf)
        self.unjudged = np.zeros(n, dtype=bool)
        self._kept = np.zeros((3, n, KEPT))
        self._kept[0] = -np.inf
        self._t, self._p, self._q = self._kept
        self._waiting: Reals = np.zeros((0, 3))
        self._busbar: deque[tuple[float, float]] = deque(maxlen=BUSBARS_MAX)
        self._aged_s: float | None = None

    @property
    def noise_v(self) -> float:
        """Standard deviation of a clear reading [V]."""
        return float(self._noise**0.5)

    @property
    def spread_v(self) -> Reals:
        """How unsure each mean is, as a standard deviation (n) [V]: what averages out, and what does not."""
        return np.asarray(np.sqrt(self.variance) + self.doubt_v)

    @property
    def _ready_s(self) -> float:
        """Until when everybody has reported [s]."""
        newest_s = self._t[:, -1]
        if not self._all_metered:
            newest_s = newest_s[self._metered]
        return float(newest_s.min()) if len(newest_s) else -np.inf

    def hear(self, seen: Seen, busbar_v: float | None, busbar_s: float) -> None:
        """Newest readings of those who are known, the busbar's mean voltage [V], if it is, and when it was read [s]."""
        new = self._metered & (seen.taken_s > self._t[:, -1] + NEW_S)
        fresh = np.flatnonzero(new)
        if len(fresh) == len(new):  # all in one move: what it takes over from the next port is overwritten below
            flat = self._kept.reshape(-1)
            flat[:-1] = flat[1:]
        else:
            self._kept[:, fresh, :-1] = self._kept[:, fresh, 1:]
        for table, values in zip(self._kept, (seen.taken_s, seen.p_w, seen.q_var), strict=True):
            table[fresh, -1] = values[fresh]
        readings = np.array([seen.taken_s[fresh], fresh, seen.u_v[fresh]]).T
        self._waiting = np.concatenate([self._waiting, readings])
        self._unjudged_s[fresh] = np.minimum(self._unjudged_s[fresh], seen.taken_s[fresh])
        if busbar_v is not None and (not self._busbar or busbar_s > self._busbar[-1][0] + NEW_S):
            self._busbar.append((busbar_s, busbar_v))

    def judge(
        self,
        model: PortModel,
        busbar: list[int],
        allowed: float,
        unmetered: tuple[Reals, Reals],
        solved: tuple[Complexes, Complexes] | None = None,
    ) -> None:
        """Learn from the readings that everybody has reported after.

        Args:
            model: the feeder, its source about where it is.
            busbar: rows of the balancing bus among its nodes; empty if it is not observed.
            allowed: a residual beyond this share of nominal contradicts.
            unmetered: draws [W, var] (n) to be taken at ports without a meter.
            solved: port voltages [V] and currents [A] (n) at those draws, if they are known.
        """
        ready_s = self._ready_s
        newest_s = float(self._t[:, -1].max(initial=-np.inf))
        taken_s = self._waiting[:, 0]
        ready = self._waiting[taken_s <= ready_s]
        self._waiting = self._waiting[(taken_s > ready_s) & (taken_s > newest_s - WAIT_S)]
        ready = ready[np.lexsort((ready[:, 1], ready[:, 0]))]
        another = np.ones(len(ready), dtype=bool)
        another[1:] = ready[1:, 0] != ready[:-1, 0]
        instants = ready[another, 0]
        for first in range(0, len(instants), BATCH):
            at_s = instants[first : first + BATCH]
            mine = ready[(ready[:, 0] >= at_s[0]) & (ready[:, 0] <= at_s[-1])]
            self._judge(mine, at_s, model, busbar, allowed, unmetered, solved)
        if len(self._waiting):
            np.minimum.at(self._unjudged_s, self._waiting[:, 1].astype(np.int64), self._waiting[:, 0])
        self.unjudged = newest_s > self._unjudged_s + WAIT_S

    def now(self, seen: Seen, model: PortModel, level_v: Reals, busbar_v: float, bus_seen: bool, allowed: float) -> Now:
        """What the newest readings say that are too new to be judged, against the level of now (n) [V].

        Each is brought to its own instant by the draws that have been reported about it, to first order, and by the
        busbar. Whoever has not reported since may draw something else: that excuses a reading, as far as doubt may.
        """
        ready_s = self._ready_s
        at = np.flatnonzero(self._metered & (seen.taken_s > ready_s) & np.isfinite(seen.u_v))
        found = Now(np.zeros(len(level_v)), np.zeros(len(level_v), dtype=bool))
        if not len(at):
            return found
        at_s, which = np.unique(seen.taken_s[at], return_inverse=True)
        ((p, half_w),) = self._then(at_s, self._p)
        reach = _reach(model)[at]
        shift_v = (reach * np.where(self._metered, p - seen.p_w, 0.0)[which]).sum(axis=1)
        if bus_seen:
            times, volts = zip(*self._busbar, strict=True)
            shift_v += (np.interp(seen.taken_s[at], times, volts) / busbar_v - 1) * level_v[at]
        known_v = np.hypot(_swing(reach * half_w[which]), LINEAR * shift_v)
        silent = self._metered & (self._t[:, -1] < seen.taken_s[at, None] - NEW_S)
        unknown_v = np.abs(reach * np.where(silent, UNSEEN_W, 0.0)).sum(axis=1)
        off_v = seen.u_v[at] - level_v[at] - shift_v
        usual_v = np.sqrt(self.variance[at] + self._noise) + self.doubt_v[at]
        excused_v = np.minimum(SURPRISE * np.hypot(known_v, unknown_v), DOUBT_MAX * self._nominal_v[at])
        surprise = np.abs(off_v) > SURPRISE * usual_v + excused_v
        found.off_v[at] = np.where(surprise, off_v, 0.0)
        found.contradicts[at] = np.abs(off_v) > allowed * self._nominal_v[at] + excused_v
        return found

    def _judge(
        self,
        readings: Reals,
        at_s: Reals,
        model: PortModel,
        busbar: list[int],
        allowed: float,
        unmetered: tuple[Reals, Reals],
        solved: tuple[Complexes, Complexes] | None,
    ) -> None:
        """Readings (when, port, voltage) of some instants."""
        (p, half_w), (q, _) = self._then(at_s, self._p, self._q)
        p, q = np.where(self._metered, p, unmetered[0]), np.where(self._metered, q, unmetered[1])
        flows: list[tuple[Complexes, Complexes]] = []
        near_u_v = None if solved is None else solved[0]
        for draw, reactive in zip(p, q, strict=True):
            if solved is not None and (draw == unmetered[0]).all() and (reactive == unmetered[1]).all():
                flows.append(solved)
            else:
                flows.append(solve_one(model, draw, reactive, FLOW_TOLERANCE_PU, near_u_v))
            near_u_v = flows[-1][0] if np.isfinite(flows[-1][0]).all() else None
        level = np.abs(np.array([u for u, _ in flows]))
        factor = np.ones((len(at_s), 1))
        if busbar:
            times, volts = zip(*self._busbar, strict=True)
            i = np.array([i for _, i in flows])
            modelled = np.abs(model.node_open_v[busbar] + i @ model.node_h_ohm[busbar].T).mean(axis=1)
            factor = (np.interp(at_s, times, volts) / modelled)[:, None]
        lift = (level - np.abs(model.u_open_v)) * factor
        level = level * factor
        reach = _reach(model)
        for k, taken_s in enumerate(at_s):
            mine = readings[readings[:, 0] == taken_s]
            ports = mine[:, 1].astype(np.int64)
            unsure = np.flatnonzero(half_w[k])
            swing_v = in_step_v = np.zeros(len(ports))
            if len(unsure):
                moved_v = reach[ports[:, None], unsure] * half_w[k, unsure]
                swing_v, in_step_v = _swing(moved_v), _furthest(moved_v) / SURPRISE
            found = _Found(ports, mine[:, 2] - level[k, ports], swing_v, in_step_v, lift[k, ports])
            self._learn(float(taken_s), found.where(np.isfinite(found.residual_v)), allowed)

    def _then(self, at_s: Reals, *tables: Reals) -> list[tuple[Reals, Reals]]:
        """The middle of the reports around some instants (k, n) for every port by each table, and half of the change
        between them."""
        before = np.add.reduce(self._t <= at_s[:, None, None] + NEW_S, axis=2, dtype=np.int64)
        ports = np.arange(len(self._t))
        lower, upper = np.maximum(before - 1, 0), np.minimum(before, KEPT - 1)
        first_s, ended_s = self._t[ports, lower], self._t[ports, upper]
        unseen = (before == 0) | ~np.isfinite(first_s)
        first_s, ended_s = np.where(unseen, 0.0, first_s), np.where(unseen, 0.0, ended_s)
        between = ~unseen & (upper != lower) & (at_s[:, None] > first_s + NEW_S)
        told = between & (ended_s - at_s[:, None] > TOLD_S) & (ended_s - first_s > TOLD_GAP_S + TOLD_S)
        unknown = unseen & self._metered
        found = []
        for table in tables:
            first, last = table[ports, lower], table[ports, upper]
            half = np.where(between, (last - first) / 2, 0.0)
            if self._told_w < np.inf:
                half = np.where(told, np.clip(half, -self._told_w / 2, self._told_w / 2), half)
            found.append((np.where(unseen, last, first + half), np.where(unknown, SURPRISE * UNSEEN_W, half)))
        return found

    def _learn(self, taken_s: float, found: _Found, allowed: float) -> None:
        if self._aged_s is not None and taken_s > self._aged_s:
            drift = (DRIFT * self._nominal_v) ** 2 / DRIFT_S
            self.variance = self.variance + np.where(self._metered, drift * (taken_s - self._aged_s), 0.0)
        self._aged_s = taken_s if self._aged_s is None else max(self._aged_s, taken_s)
        found = self._odd_out(found, allowed)
        ports, doubt = found.ports, found.in_step_v
        known, shared, off = self.variance[ports], self.doubt_v[ports], found.residual_v - self.mean_v[ports]
        noise = self._noise + found.swing_v**2
        surprise = np.abs(off) > SURPRISE * (np.sqrt(known + noise) + shared)
        # A draw that came and went unseen, or something that has changed for good: the next reading tells. Until then
        # the margin covers both.
        reached = np.maximum(np.abs(off) / SURPRISE - shared, 0.0) ** 2
        gain = np.where(surprise, 0.0, _gain(known, noise, shared - doubt))
        self.mean_v[ports] += gain * off
        self.anchor_v[ports] += gain * (found.lift_v - self.anchor_v[ports])
        self.doubt_v[ports] = (1 - gain) * shared + gain * doubt
        averaged = (1 - gain) ** 2 * known + gain**2 * noise
        self.variance[ports] = np.where(surprise, np.maximum(known, reached), averaged)
        clear = ~surprise & (np.maximum(known, np.maximum(shared, found.swing_v) ** 2) < self._noise)
        usual, least = self._noise, NOISE_MIN_V**2
        for scatter in (off**2 - known - found.swing_v**2)[clear].tolist():
            usual += NOISE_SHARE * (scatter - usual)
            usual = usual if usual > least else least
        self._noise = usual

    def _odd_out(self, found: _Found, allowed: float) -> _Found:
        """Without those that contradict the model, which are noted."""
        excused_v = np.minimum(SURPRISE * found.swing_v, DOUBT_MAX * self._nominal_v[found.ports])
        odd = np.abs(found.residual_v) > allowed * self._nominal_v[found.ports] + excused_v
        self.contradicts[found.ports] = odd
        self._unjudged_s[found.ports] = np.inf
        return found.where(~odd)


def _gain(known: Reals, noise: Reals, better: Reals) -> Reals:
    """The weight K of readings (m) that makes the square root of `(1 - K)^2 known + K^2 noise`, less K times by how
    much less they are in doubt than the means [V] (m), smallest."""
    total = known + noise
    left = total - better**2
    some = left > 0
    step = better * np.sqrt(known * noise / np.where(some, left, 1.0)) / total
    return np.where(some, np.minimum(np.maximum(known / total + step, 0.0), 1.0), np.where(better > 0, 1.0, 0.0))


def _swing(moved_v: Reals) -> Reals:
    """How far draws may move voltages by to first order (m, n) [V] together, all those up or all those down: (m)."""
    up, total = np.maximum(moved_v, 0.0).sum(axis=1), moved_v.sum(axis=1)
    return np.asarray((1 + LINEAR) * np.maximum(up, up - total))


def _furthest(moved_v: Reals) -> Reals:
    """The same of the `IN_STEP` draws that move each voltage furthest (m)."""
    left, rows = np.abs(moved_v), np.arange(len(moved_v))
    found = np.zeros(len(moved_v))
    for _ in range(min(IN_STEP, left.shape[1])):
        most = left.argmax(axis=1)
        found += left[rows, most]
        left[rows, most] = 0.0
    return (1 + LINEAR) * found


def _reach(model: PortModel) -> Reals:
    """Each port's voltage change by each draw (n, n) [V/W]; kept with the model."""
    if "reach" not in model.memo:
        model.memo["reach"] = rise(model) * model.u_nominal_v[:, None]
    found: Reals = model.memo["reach"]
    return found
