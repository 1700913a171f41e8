"""Sensitivities learnt from the meters' own history, where no network model exists: how every voltage follows every
power, and how well that is known.

A voltage follows currents, `d|u_i| = sum_j R_ij da_j + X_ij dr_j`, `a = p / |u|` and `r = q / |u|` [A], far better than
powers: a customer of constant power draws less current where the voltage rises. They are learnt by recursive least
squares (`regression`) in two parts, because what the medium voltage does moves all meters alike and must not be taken
for the customers' work:

    u_i - u_busbar      by the currents of all ports and the busbar's voltages: departures from their own recent means
    u_busbar            by the sums of the currents in each phase: steps from set to set, as the medium voltage wanders

Departures from a recent mean are a difference too, and the same one on both sides, but a customer's step stays in it
for `Learning.window_s` and not for one set: it is seen many times against the meters' noise, and a switching that falls
between the readings of two meters spoils one set of many.

**What makes it identifiable.** Households switch one by one, which teaches single R_ij; PV moves all together, which
teaches their sum; and q of a household is nearly a fixed share of its p, so that of R and X only one combination shows.
The rest is physics, put in as the prior: a port j whose phase leads by phi changes |u_i| by
`-Re(Z_ij (a - j r) exp(j phi))`, and the paths Z_ij = R + j X of one phase pair are alike (a common part with a wide
spread) and differ each from the other (a part of its own). Drawing lowers the own phase and, through the neutral,
mostly raises the others. How far paths differ from each other is itself learnt (`fit_prior`).

**The bound.** SIGMAS standard deviations of the estimate in the direction asked, noise and prior in one, and what the
law's curvature may hide (`CURVATURE_OWN`, `CURVATURE_OTHER`). It is worth something where it rests on readings: what is
assumed beforehand fits many streets and not all. So a port counts as `learnt` only when readings have left little of
the assumed doubt about its own current, and not before half a day of sets; until then the answer is no.

**Limits.** Ports from phase to neutral, positive rotation L1 L2 L3. Only complete sets teach: every power is an input.
Where the readings of a set lie further apart than some seconds, `Learning.asynchrony` puts a share of every change on
top of the bound. What no meter measures is noise and widens the bound, unless it moves with what is measured: PV
without a meter is credited to the PV with one, whose effect is then overestimated, beyond the bound.

Nomenclature: n ports; p_w, q_var import positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.headroom import Situation
from dcu.hosting.regression import Regression

Reals = NDArray[np.float64]

PHASES: Final = ("L1", "L2", "L3")
ROTATION_RAD: Final = np.radians([0.0, -120.0, 120.0])
SIGMAS: Final = 3.0
"""Width of the bound; the noise behind a standard deviation is already taken at its worst (`regression.COLOUR_MIN`)."""
CURVATURE_OWN, CURVATURE_OTHER = 0.15, 0.6
"""What a law linear in currents may miss of what the own and other phases contribute to a voltage, for each unit by
which the most moved voltage of the feeder moves: currents turn with the voltages they hang on, which tells most across
phases. Measured on the European feeder with up to 33 customers at 9 kW, where 0.11 and 0.55 suffice."""
FLOW_STEPS: Final = 4
"""Voltages and currents follow each other; each step gains a factor of ten, and the first error is some per cent."""
SPREADS: Final = (1.0, 0.7, 0.5, 0.35)
"""How much less than assumed the paths may turn out to differ."""
SPREAD_SAFETY: Final = 1.4
"""The likeliest spread is taken one size larger."""
SETS_MIN: Final = 720
"""Fewer sets (half a day of minutes) teach neither a spread nor enough to grant by."""
LEARNT: Final = 0.25
"""A port is learnt when so much is left of the assumed standard deviation of what its own ampere does to its voltage:
readings then weigh fifteen times as much as assumptions. On the European feeder a morning reaches 0.11 wherever there
is PV, a night does not; a house where nothing is switched on never gets there."""
NEAR: Final = 0.004
"""[nominal] While no voltage has been moved by more in magnitude, steps go by the bounds of every port alone."""


@dataclass(frozen=True, slots=True)
class Path:
    """What is assumed of the paths Z that pairs of ports share, each as (R, X) [ohm]: expectation, and standard
    deviations of the part that all pairs have in common and of what each pair differs."""

    mean_ohm: tuple[float, float]
    shared_ohm: tuple[float, float]
    each_ohm: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Learning:
    """What is assumed before anything is learnt, and how it is forgotten.

    Attributes:
        own, other: paths from the busbar between ports of one phase, and of two; some hundred metres of cable.
        busbar_own, busbar_other: the same for the transformer; what each differs is not used.
        follow: standard deviation of how far a port's voltage follows the busbar's more or less than one to one.
        interval_s: least time between two sets that teach [s].
        window_s: time constant of the recent mean [s].
        gap_s: longest time between two sets [s]; after a longer one the recent mean begins anew.
        memory_s: time after which a set counts 1/e [s].
        asynchrony: share of a change of voltage that readings at different instants may hide.
        noise_v: error of the difference between a meter and the busbar [V] to start with, and its least: a resolution
            of 0.1 V alone gives 0.04 V.
        refresh_sets: sets between two new estimates.
    """

    own: Path = Path((0.1, 0.03), (0.1, 0.03), (0.08, 0.015))
    other: Path = Path((0.03, 0.03), (0.05, 0.05), (0.03, 0.015))
    busbar_own: Path = Path((0.005, 0.015), (0.01, 0.02), (0.0, 0.0))
    busbar_other: Path = Path((0.0, 0.0), (0.005, 0.01), (0.0, 0.0))
    follow: float = 0.05
    interval_s: float = 10.0
    window_s: float = 900.0
    gap_s: float = 900.0
    memory_s: float = 14 * 86_400.0
    asynchrony: float = 0.0
    noise_v: tuple[float, float] = (0.2, 0.04)
    refresh_sets: int = 15


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Expected change of voltage [V] (n_state, n), and how far it may be wrong [V]."""

    du_v: Reals
    bound_v: Reals


class LearnedSensitivity:
    """Learns as sets arrive; says what a change of powers does to every voltage."""

    def __init__(self, ports: tuple[str, ...], labels: tuple[str, ...], learning: Learning | None = None) -> None:
        """Name and phase (`L1`, `L2`, `L3`) of every port."""
        assert ports
        assert len(ports) == len(labels)
        assert set(labels) <= set(PHASES), "ports from phase to neutral only"
        self.ports, self.labels = ports, labels
        self.learning = Learning() if learning is None else learning
        self._phase = np.array([PHASES.index(label) for label in labels])
        self._of_phase = (self._phase[:, None] == np.arange(3)).astype(float)
        self._at = [np.flatnonzero(self._phase == f) for f in range(3)]
        self.spread = [(1.0, 1.0)] * 3
        """Of each phase: how much its paths differ, to its own and to other phases, against what was assumed."""
        noise, least = self.learning.noise_v
        self._parts = [
            Regression(self._mean(f), self._covariance(f, (1.0, 1.0)), np.full(len(at), noise**2), least**2)
            for f, at in enumerate(self._at)
        ]
        # Transformer and medium voltage are alike in all phases: four numbers, R and X of the own phase and of others.
        own, other = self.learning.busbar_own, self.learning.busbar_other
        expected = -np.array([*own.mean_ohm, *other.mean_ohm])[:, None]
        sizes = np.array([*own.shared_ohm, *other.shared_ohm])
        self._busbar = Regression(expected, np.diag(sizes**2), np.full(1, noise**2), least**2)
        self._last = self._recent = np.zeros(0)
        self._last_s, self._fresh = 0.0, 0
        self._learnt: NDArray[np.bool_] | None = None
        n = len(labels)
        self._place = np.zeros(n, dtype=np.int64)
        """Of each port: its place among those of its phase."""
        for at in self._at:
            self._place[at] = np.arange(len(at))
        self._probes = self._busbar_inputs(np.eye(n), np.zeros((n, n)))
        self._settle()
        self._assumed_ohm = self._own_doubts()

    def _path(self, phase: int, of: int) -> tuple[Path, Reals]:
        """The path between two phases, and the matrix that turns its (R, X) into what a and r do."""
        angle = ROTATION_RAD[of] - ROTATION_RAD[phase]
        turn = np.array([[-np.cos(angle), np.sin(angle)], [-np.sin(angle), -np.cos(angle)]])
        return self.learning.own if of == phase else self.learning.other, turn

    def _mean(self, phase: int) -> Reals:
        """Expected parameters (2n + 3, ports of the phase): by a, by r, by the busbar's changes."""
        n = len(self.labels)
        mean = np.zeros((2 * n + 3, len(self._at[phase])))
        for f, ports in enumerate(self._at):
            path, turn = self._path(phase, f)
            mean[ports], mean[n + ports] = turn @ np.array(path.mean_ohm)
        return mean

    def _covariance(self, phase: int, spread: tuple[float, float]) -> Reals:
        """Of the parameters of one output of this phase (2n + 3, 2n + 3) [ohm2]."""
        n = len(self.labels)
        found = np.zeros((2 * n + 3, 2 * n + 3))
        for f, ports in enumerate(self._at):
            path, turn = self._path(phase, f)
            shared = turn @ np.diag(np.square(path.shared_ohm)) @ turn.T
            each = turn @ np.diag(np.square(path.each_ohm)) @ turn.T * spread[f != phase] ** 2
            for k, m in np.ndindex(2, 2):
                block = np.full((len(ports), len(ports)), shared[k, m]) + each[k, m] * np.eye(len(ports))
                found[np.ix_(k * n + ports, m * n + ports)] = block
        found[range(2 * n, 2 * n + 3), range(2 * n, 2 * n + 3)] = self.learning.follow**2
        return found

    @property
    def sets(self) -> int:
        """Differences learnt from."""
        return min(part.sets for part in self._parts)

    @property
    def learnt(self) -> NDArray[np.bool_]:
        """Which ports (n) readings have taught so well that their bound rests on readings."""
        if self._learnt is None:
            self._learnt = self._enough & (self._own_doubts() <= LEARNT * self._assumed_ohm)
        return self._learnt

    def _own_doubts(self) -> Reals:
        """Standard deviation of what an active ampere of each port does to its own voltage (n) [ohm]."""
        n = len(self.labels)
        return np.sqrt(self.doubts(np.eye(n, 2 * n + 3)))

    def update(self, time_s: float, u_v: Reals, p_w: Reals, q_var: Reals, busbar_v: Reals) -> bool:
        """One measurement set: time [s], voltages [V], draws [W, var] (n), the busbar's voltages L1 L2 L3 [V].

        Returns:
            Whether it was learnt from. Not so: a number missing, too early, the first after a gap, beyond the gate.
        """
        if not all(np.isfinite(v).all() for v in (u_v, p_w, q_var, busbar_v)) or min(u_v.min(), busbar_v.min()) <= 0:
            return False
        new = np.concatenate([p_w / u_v, q_var / u_v, busbar_v, u_v - busbar_v[self._phase]])
        elapsed_s = time_s - self._last_s
        if not len(self._last) or not 0 <= elapsed_s <= self.learning.gap_s:
            self._last, self._recent, self._last_s = new, new.copy(), time_s
            return False
        if elapsed_s < self.learning.interval_s:
            return False
        learnt = self._learn(new, elapsed_s)
        self._last, self._last_s = new, time_s
        self._fresh += 1
        if self._fresh >= self.learning.refresh_sets:
            self.refresh()
        return learnt

    def _learn(self, new: Reals, elapsed_s: float) -> bool:
        n = len(self.labels)
        keep = float(np.exp(-elapsed_s / self.learning.memory_s))
        step = new - self._last
        for f, x in enumerate(self._busbar_inputs(step[None, :n], step[None, n : 2 * n])[0]):
            self._busbar.learn(x, step[2 * n + f : 2 * n + f + 1], keep if f == 0 else 1.0)
        apart = new - self._recent
        self._recent = new - apart * np.exp(-elapsed_s / self.learning.window_s)
        x, above = apart[: 2 * n + 3], apart[2 * n + 3 :]
        learnt = [part.learn(x, above[at], keep) for part, at in zip(self._parts, self._at, strict=True)]
        return all(learnt)

    def _busbar_inputs(self, active_a: Reals, reactive_a: Reals) -> Reals:
        """Inputs of the busbar's law in each phase (n_state, 3, 4) from the ports' currents (n_state, n) [A]."""
        drawn = (active_a - 1j * reactive_a) @ self._of_phase
        turned = drawn[:, None, :] * np.exp(1j * (ROTATION_RAD[None, :] - ROTATION_RAD[:, None]))
        own = turned[:, range(3), range(3)]
        other = turned.sum(axis=2) - own
        return np.stack([own.real, -own.imag, other.real, -other.imag], axis=2)

    def refresh(self) -> None:
        """Take everything learnt so far into the estimate."""
        for part in (*self._parts, self._busbar):
            part.refresh()
        self._settle()
        self._fresh = 0

    def _settle(self) -> None:
        """The estimate as one law of all ports."""
        n = len(self.labels)
        self._theta = np.zeros((2 * n + 3, n))
        for part, at in zip(self._parts, self._at, strict=True):
            self._theta[:, at] = part.theta
        # What an ampere at each port does to the busbar's phases (n, 3).
        self._of_busbar = (self._probes @ self._busbar.theta)[:, :, 0]
        self._alone: Reals | None = None
        self._enough = self.sets >= SETS_MIN
        self._learnt = None

    def fit_prior(self) -> None:
        """Learn from the data how far paths differ from each other: the likeliest spread, one size larger.

        For the hours when nobody waits: it costs some thirty refreshes.
        """
        if self.sets < SETS_MIN:
            return
        for f, part in enumerate(self._parts):
            own = max(SPREADS, key=lambda s: self._evidence(f, part, (s, 1.0)))
            other = max(SPREADS, key=lambda s: self._evidence(f, part, (own, s)))
            self.spread[f] = (SPREAD_SAFETY * own, SPREAD_SAFETY * other)
            part.expect(self._covariance(f, self.spread[f]))
        self._settle()

    def _evidence(self, phase: int, part: Regression, spread: tuple[float, float]) -> float:
        part.expect(self._covariance(phase, spread))
        return part.evidence()

    def change(self, now: Situation, p_w: Reals) -> Change:
        """What draws (n_state, n) [W] instead of the present ones do to the voltages, q staying as it is."""
        x, above, du = self._step(now, p_w)
        doubt = np.sqrt(self._busbar.variance(above.reshape(-1, 4))).reshape(-1, 3)[:, self._phase]
        for part, at in zip(self._parts, self._at, strict=True):
            doubt[:, at] += np.sqrt(part.variance(x))
        own, other = self._moved(np.abs(self._by_phase(x)), np.abs(x[:, 2 * len(self.labels) :]))
        largest = ((own + other) / now.u_v).max(axis=1, keepdims=True)
        curved = largest * (CURVATURE_OWN * own + CURVATURE_OTHER * other)
        return Change(du, SIGMAS * doubt + curved + self.learning.asynchrony * (own + other))

    def _step(self, now: Situation, p_w: Reals) -> tuple[Reals, Reals, Reals]:
        """Inputs of the ports' laws (n_state, 2n + 3) and of the busbar's (n_state, 3, 4), changes of voltage (n_state,
        n) [V]."""
        u = np.broadcast_to(now.u_v, p_w.shape)
        for _ in range(FLOW_STEPS):
            active, reactive = p_w / u - now.p_w / now.u_v, now.q_var / u - now.q_var / now.u_v
            above = self._busbar_inputs(active, reactive)
            busbar = (above @ self._busbar.theta)[:, :, 0]
            x = np.concatenate([active, reactive, busbar], axis=1)
            du = busbar[:, self._phase] + x @ self._theta
            # A guess that leaves all bounds of sense (nothing learnt yet) must not divide by nothing.
            u = np.clip(now.u_v + du, 0.5 * now.u_v, 1.5 * now.u_v)
        return x, above, du

    def _by_phase(self, x: Reals, ports: NDArray[np.int64] | None = None) -> Reals:
        """What the currents of each phase's ports do to each voltage (3, n_state, n) [V]."""
        n, rows = len(self.labels), slice(None) if ports is None else ports
        columns = [np.concatenate([at, n + at]) for at in self._at]
        return np.stack([x[:, own] @ self._theta[own][:, rows] for own in columns])

    def _moved(self, by_phase: Reals, busbar: Reals) -> tuple[Reals, Reals]:
        """What the own phase and the others do to each voltage, in magnitudes, so that nothing cancels (n_state, n)
        [V]."""
        own = by_phase[self._phase, :, np.arange(len(self.labels))].T
        return own + busbar[:, self._phase], by_phase.sum(axis=0) - own

    def slopes(self, now: Situation, p_w: Reals, ports: NDArray[np.int64]) -> tuple[Reals, Reals]:
        """Derivatives by each draw, about: of the changes of some voltages, and of their bounds (ports, n) [V/W].

        Near the present state, where the bound has its kink, that of every port's export on its own: together they
        are more than the bound of all, so that steps chosen by them stay short, and inside.
        """
        n, phase = len(self.labels), self._phase[ports]
        x, above, du = self._step(now, p_w[None, :])
        u = np.clip(now.u_v + du[0], 0.5 * now.u_v, 1.5 * now.u_v)
        by_busbar = self._of_busbar.T
        by_current = self._theta[:n].T + self._theta[2 * n :].T @ by_busbar + by_busbar[self._phase]
        change = (by_current[ports] - (by_current[ports] * (p_w / u**2)) @ by_current) / u

        by_phase = self._by_phase(x)
        own, other = (found[0] for found in self._moved(np.abs(by_phase), np.abs(x[:, 2 * n :])))
        widest = int(((own + other) / now.u_v).argmax())
        largest = (own + other)[widest] / now.u_v[widest]
        if largest < NEAR:
            return change, -self._each_alone()[ports] / u

        doubt = np.zeros((len(ports), n))
        for f, part in enumerate(self._parts):
            rows = np.flatnonzero(phase == f)
            if len(rows):
                by_x = part.deviation_slopes(x[0], self._place[ports[rows]])
                doubt[rows] = by_x[:, :n] + by_x[:, 2 * n :] @ by_busbar
                of_busbar = self._busbar.deviation_slopes(above[0, f], np.zeros(1, dtype=np.int64))[0]
                doubt[rows] += self._probes[:, f] @ of_busbar

        rows = np.append(ports, widest)
        towards = np.sign(by_phase[self._phase[:, None], 0, rows]) * self._theta[:n, rows]  # (n, rows)
        of_own = self._phase[:, None] == self._phase[rows]
        own_by = (towards * of_own).T + np.sign(x[0, 2 * n + self._phase[rows]])[:, None] * by_busbar[self._phase[rows]]
        other_by = (towards * ~of_own).T
        largest_by = (own_by[-1] + other_by[-1]) / now.u_v[widest]
        own_by, other_by = own_by[:-1], other_by[:-1]
        curved = largest * (CURVATURE_OWN * own_by + CURVATURE_OTHER * other_by)
        curved += (CURVATURE_OWN * own + CURVATURE_OTHER * other)[ports, None] * largest_by
        return change, (SIGMAS * doubt + curved + self.learning.asynchrony * (own_by + other_by)) / u

    def _each_alone(self) -> Reals:
        """Bound of what one ampere of each port does to each voltage (n, n) [V], curvature apart."""
        if self._alone is None:
            n = len(self.labels)
            x = np.concatenate([np.eye(n), np.zeros((n, n)), self._of_busbar], axis=1)
            doubt = np.sqrt(self._busbar.variance(self._probes.reshape(-1, 4))).reshape(-1, 3)[:, self._phase]
            for part, at in zip(self._parts, self._at, strict=True):
                doubt[:, at] += np.sqrt(part.variance(x))
            moved = np.abs(self._by_phase(x)).sum(axis=0) + np.abs(self._of_busbar)[:, self._phase]
            self._alone = (SIGMAS * doubt + self.learning.asynchrony * moved).T
        return self._alone

    # ---- one law for each port ---------------------------------------------------------------------------------------

    @property
    def phase(self) -> NDArray[np.int64]:
        """Of each port (n): 0 to 2."""
        return self._phase

    @property
    def noise(self) -> Reals:
        """Variance of each port's reading above the busbar (n) [V2]."""
        found = np.zeros(len(self.labels))
        for part, at in zip(self._parts, self._at, strict=True):
            found[at] = part.noise
        return found

    def follows(self, x: Reals, ports: NDArray[np.int64] | None = None) -> Reals:
        """What changes of currents and busbar, each port's own (m, 2n + 3), do to its voltage above the busbar (m) [V]
        ."""
        rows = np.arange(len(self.labels)) if ports is None else ports
        return np.asarray(np.einsum("mk,km->m", x, self._theta[:, rows]))

    def doubts(self, x: Reals, ports: NDArray[np.int64] | None = None) -> Reals:
        """Variance of `follows` (m) [V2]."""
        rows = np.arange(len(self.labels)) if ports is None else ports
        found = np.zeros(len(rows))
        for f, part in enumerate(self._parts):
            own = np.flatnonzero(self._phase[rows] == f)
            if len(own):
                found[own] = part.variance_each(x[own], self._place[rows[own]])
        return found

    def by_currents(self, ports: NDArray[np.int64], of: NDArray[np.int64]) -> tuple[Reals, Reals]:
        """What an ampere (active, reactive) of some ports does to others: (ports, of) [V]."""
        return self._theta[np.ix_(of, ports)].T, self._theta[np.ix_(len(self.labels) + of, ports)].T
