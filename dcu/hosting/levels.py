"""The voltage at every port now, from readings that came one after the other, by what was learnt.

Meters report at different instants. A voltage read half a minute ago and a draw read just now do not belong together:
a neighbour may have been raised or switched off in between. Each reading is therefore followed: by how far draws and
the busbar have moved since (both are measured), times the learned sensitivity, whose doubt goes with it. A filter for
each port holds the level, and how well it is known:

    level += theta dx,   P += dx' C dx,        then with a reading y of some instant, at the draws of that instant
    level += K (y - level),   P = (1 - K) P,   K = P / (P + noise^2 + doubt^2)

So a raise makes the level doubtful by what the raise does, the next reading settles it, and what is settled costs no
doubt at the next raise. `doubt` is what changes close to a reading may do: nobody knows whether the meter saw them. A
change is reported some seconds after it happened, so a reading waits so long before it is believed.

A reading that no accuracy explains contradicts: it is far from its level, or, where there is none yet, from the busbar
less what all currents are learnt to drop on the way. It teaches nothing and its port is unknown, until readings come
back to the level, or have followed draws and busbar from where they are for `TRUST_S`: a number that stands still
follows nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.learned import LearnedSensitivity

Reals = NDArray[np.float64]

CHANGE_S: Final = 8.0
"""[s] A draw that has changed by much is reported within this: the least gap between two reports, and a reading."""
JITTER_S: Final = 2.0
"""[s] What the line takes to bring a report, more or less: by so much may readings be in another order."""
WAIT_S: Final = CHANGE_S + JITTER_S
"""[s] A reading is believed when all changes before it must have been reported."""
NEW_S: Final = 1e-3
"""[s] A reading is new if it was taken later than the last one by more than rounding."""
SURPRISE: Final = 3.0
"""Standard deviations beyond which either the level or the reading is not what it was thought to be: half way between
them then, in doubt by as much, until the next reading settles it."""
DRIFT_V2_S: Final = 0.1**2 / 3600.0
"""[V2/s] What nobody measures moves a level by a tenth of a volt in an hour."""
SPREADS: Final = 3.0
"""Standard deviations in a margin."""
BUSBAR_NOISE_V: Final = 0.03
"""[V] Of one reading of the busbar: a last digit of 0.1 V."""
BUSBARS_MAX: Final = 256
ALLOWED: Final = 0.025
"""[voltage] Beyond this share, and the doubt, a reading contradicts: the class of a meter and 2 %."""
TRUST_S, TRUST_V = 1800.0, 1.0
"""[s], [V] Contradicting readings are a new level when they have followed for so long, through changes of so much."""
KEPT_S: Final = 600.0
"""[s] A reading older than this is followed no more; the next one begins anew."""


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """Newest readings by port (n): draws [W, var], voltage [V], when taken [s]; the busbar's L1 L2 L3 [V], and when."""

    p_w: Reals
    q_var: Reals
    u_v: Reals
    taken_s: Reals
    busbar_v: Reals
    busbar_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Voltage of every port now (n) [V]; its doubt (n) [V]; every newest reading on its own, followed until now; and
    whose readings contradict (n), so that their level is of no use."""

    u_v: Reals
    margin_v: Reals
    followed_v: Reals
    contradicts: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Step:
    """A draw that was read to be other than before [A]: port, when it was read, since when it may have been so."""

    port: int
    read_s: float
    since_s: float
    active_a: float
    reactive_a: float


class Levels:
    """Follows every port; `take` with all newest readings whenever something is looked at."""

    def __init__(self, sensitivity: LearnedSensitivity, allowed: float = ALLOWED) -> None:
        """Nothing known; `allowed` as `ALLOWED`."""
        self._sensitivity, self._allowed = sensitivity, allowed
        n = len(sensitivity.ports)
        self._taken_s = np.full(n, -np.inf)
        self._active, self._reactive = np.zeros(n), np.zeros(n)
        self._level, self._variance = np.full(n, np.nan), np.zeros(n)
        self._at = np.zeros((n, 2 * n + 3))
        """Currents and busbar at which each port has its level."""
        self._read, self._read_at = np.zeros(n), np.zeros((n, 2 * n + 3))
        """Newest reading of each port above the busbar, and the currents at its instant."""
        self.contradicts = np.zeros(n, dtype=bool)
        self._odd, self._odd_at = np.full(n, np.nan), np.zeros((n, 2 * n + 3))
        self._odd_s, self._odd_moved_v = np.zeros(n), np.zeros(n)
        """Where each contradicting port's readings began to follow, when, and the largest change since."""
        self._steps: list[_Step] = []
        self._waiting: list[tuple[float, int, float]] = []
        """Readings that are not yet believed: when taken, port, voltage."""
        self._busbar: deque[tuple[float, Reals]] = deque(maxlen=BUSBARS_MAX)
        self._looked_s = -np.inf

    def take(self, seen: Readings, now: float) -> Level:
        """The level at ``now`` [s]. Readings are of points that may be used."""
        assert (seen.u_v > 0).all()
        assert all(np.isfinite(values).all() for values in (seen.p_w, seen.q_var, seen.u_v, seen.busbar_v))
        if not self._busbar or seen.busbar_s > self._busbar[-1][0] + NEW_S:
            self._busbar.append((seen.busbar_s, seen.busbar_v))
        new = seen.taken_s > self._taken_s + NEW_S
        self._note(seen, new)
        present = np.concatenate([self._active, self._reactive, seen.busbar_v])
        self._drift(now)
        self._believe(present, now)
        moved = present - self._at
        variance = self._variance + self._sensitivity.doubts(moved) + BUSBAR_NOISE_V**2
        busbar = seen.busbar_v[self._sensitivity.phase]
        followed = self._read + self._sensitivity.follows(present - self._read_at)
        level = self._level + self._sensitivity.follows(moved)
        return Level(level + busbar, SPREADS * np.sqrt(variance), followed + busbar, self.contradicts.copy())

    def _note(self, seen: Readings, new: NDArray[np.bool_]) -> None:
        """What has been read to be other than before, and forget what no reading needs any more."""
        active, reactive = seen.p_w / seen.u_v, seen.q_var / seen.u_v
        for k in np.flatnonzero(new):
            step = float(active[k] - self._active[k]), float(reactive[k] - self._reactive[k])
            if np.isfinite(self._taken_s[k]) and any(step):
                read_s = float(seen.taken_s[k])
                since_s = max(float(self._taken_s[k]), min(read_s, self._looked_s) - CHANGE_S)
                self._steps.append(_Step(int(k), read_s, since_s, *step))
            self._waiting.append((float(seen.taken_s[k]), int(k), float(seen.u_v[k])))
        self._taken_s[new], self._active[new], self._reactive[new] = seen.taken_s[new], active[new], reactive[new]

    def _drift(self, now: float) -> None:
        if np.isfinite(self._looked_s):
            passed_s = max(0.0, now - self._looked_s)
            self._variance += DRIFT_V2_S * passed_s
            if passed_s > KEPT_S:
                self._level[:] = np.nan
        self._looked_s = now

    def _believe(self, present: Reals, now: float) -> None:
        """Take the readings into the levels that have waited long enough, or that are the first of their port."""
        ready, self._waiting = self._waiting, []
        while ready:
            batch, later = {}, []
            for item in ready:
                if item[0] > now - WAIT_S and not np.isnan(self._level[item[1]]):
                    self._waiting.append(item)
                elif item[1] in batch:
                    later.append(item)
                else:
                    batch[item[1]] = item
            if batch:
                taken_s, ports, u_v = (np.array(column) for column in zip(*batch.values(), strict=True))
                self._learn(taken_s, ports, u_v, present)
            ready = later
        oldest_s = min((item[0] for item in self._waiting), default=now)
        self._steps = [step for step in self._steps if step.read_s + JITTER_S > oldest_s - WAIT_S]

    def _learn(self, taken_s: Reals, ports: NDArray[np.int64], u_v: Reals, present: Reals) -> None:
        at, doubt = self._then(taken_s, ports, present)
        above = u_v - at[np.arange(len(ports)), -3 + self._sensitivity.phase[ports]]
        noise = self._sensitivity.noise[ports] + doubt**2
        fresh = np.isnan(self._level[ports])
        unloaded = at.copy()
        unloaded[:, :-3] = 0.0
        moved = at - np.where(fresh[:, None], unloaded, self._at[ports])
        level = np.where(fresh, 0.0, self._level[ports]) + self._sensitivity.follows(moved, ports)
        known = np.where(fresh, 0.0, self._variance[ports]) + self._sensitivity.doubts(moved, ports)
        off = above - level
        odd = np.abs(off) > self._allowed * u_v + SURPRISE * np.sqrt(known + noise)
        self._odd[ports[~odd]] = np.nan
        for k in np.flatnonzero(odd):
            fresh[k] = self._has_followed(int(ports[k]), taken_s[k], above[k], at[k], noise[k])
            odd[k] = not fresh[k]
        self.contradicts[ports] = odd
        off = np.where(fresh, 0.0, off)
        surprise = np.where(off**2 > SURPRISE**2 * (known + noise), off**2, 0.0)
        known, noise = known + surprise, noise + surprise
        gain = np.where(fresh, 1.0, known / (known + noise))
        level = np.where(fresh, above, level + gain * off)
        variance = np.where(fresh, noise, (1 - gain) * known)
        good = ports[~odd]
        self._level[good], self._variance[good], self._at[good] = level[~odd], variance[~odd], at[~odd]
        self._read[good], self._read_at[good] = above[~odd], at[~odd]

    def _has_followed(self, port: int, taken_s: float, above: float, at: Reals, noise: float) -> bool:
        """Whether contradicting readings have followed long enough to be a level of their own."""
        one = np.array([port])
        moved = (at - self._odd_at[port])[None, :]
        change = float(self._sensitivity.follows(moved, one)[0])
        doubt = 2 * noise + float(self._sensitivity.doubts(moved, one)[0])
        if not abs(above - self._odd[port] - change) <= SURPRISE * doubt**0.5:  # also the first one
            self._odd[port], self._odd_at[port] = above, at
            self._odd_s[port], self._odd_moved_v[port] = taken_s, 0.0
            return False
        self._odd_moved_v[port] = max(self._odd_moved_v[port], abs(change))
        return bool(taken_s - self._odd_s[port] >= TRUST_S and self._odd_moved_v[port] >= TRUST_V)

    def _then(self, taken_s: Reals, ports: NDArray[np.int64], present: Reals) -> tuple[Reals, Reals]:
        """Currents and busbar at the instant of each of these readings (m, 2n + 3), and what changes close to it may
        do to the voltage (m) [V]."""
        n = len(self._taken_s)
        at = np.repeat(present[None, :], len(ports), axis=0)
        doubt = np.zeros(len(ports))
        if self._steps:
            port = np.array([step.port for step in self._steps])
            size = np.array([(step.active_a, step.reactive_a) for step in self._steps])
            read_s = np.array([step.read_s for step in self._steps])
            since_s = np.array([step.since_s for step in self._steps])
            own = ports[:, None] == port
            after = taken_s[:, None] < np.where(own, read_s - NEW_S, read_s + JITTER_S)
            unsure = after & ~own & (taken_s[:, None] > since_s - JITTER_S)
            undone = after - 0.5 * unsure
            for k, column in enumerate(size.T):
                np.add.at(at.T, k * n + port, -(undone * column).T)
            by_a, by_r = self._sensitivity.by_currents(ports, port)
            doubt = 0.5 * (unsure * np.abs(by_a * size[:, 0] + by_r * size[:, 1])).sum(axis=1)
        times = np.array([time for time, _ in self._busbar])
        volts = np.array([v for _, v in self._busbar])
        for f in range(3):
            at[:, 2 * n + f] = np.interp(taken_s, times, volts[:, f])
        return at, doubt
