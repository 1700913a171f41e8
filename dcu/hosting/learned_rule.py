"""The rule `learned/6`, for a street without a network model: what the meters' own history says a grant will do.

It answers windows as `predicted/6` does, with learned sensitivities in place of the power flow. Who asks before his own
effect is learnt is told so (`NOT_LEARNT`). Currents and unbalance are not foreseen: nobody without a model knows them.

What it knows depends on every set it was taught, so each of these goes to the ledger; answering them again in order
gives the same knowledge, and the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.balance import Balance
from dcu.hosting.decide import Answer, Binding, Question, View, Wish, outside
from dcu.hosting.estimate import DECIMALS_V, DECIMALS_W, Estimate, PortMap, free_phases
from dcu.hosting.headroom import GridLimits, Prospect, Situation
from dcu.hosting.learned import PHASES, LearnedSensitivity, Learning
from dcu.hosting.learned_outlook import LearnedOutlook
from dcu.hosting.levels import Levels, Readings
from dcu.hosting.measurements import SUBSTATION, MeasurementSet
from dcu.hosting.view import GridView, Taught
from dcu.hosting.window import GridSettings, Site, answer_window
from dcu.meters import MeterEntry
from shared.errors import ConfigError, Fault
from shared.ids import MeterId
from shared.messages import Reason

Reals = NDArray[np.float64]

NAME: Final = "learned/6"
LESSON_S: Final = 60.0
"""[s] Between two sets that teach."""
ASYNCHRONY: Final = 0.05
"""`Learning.asynchrony` of a site, where meters report one after the other."""
FIT_EVERY: Final = 1440
"""Sets between two looks at how much paths differ (`LearnedSensitivity.fit_prior`)."""


class Pupil:
    """Learns sensitivities from measurement sets, port by port of the meters."""

    def __init__(
        self,
        ports: PortMap,
        names: tuple[str, ...],
        labels: tuple[str, ...],
        settings: GridSettings,
        learning: Learning | None = None,
    ) -> None:
        """Nothing learnt yet.

        Raises:
            ConfigError: a port without a meter, or between phases.
        """
        odd = [k for k, label in enumerate(labels) if label not in PHASES or k in ports.unmetered]
        if odd:
            seen = f"{names[odd[0]]} on {labels[odd[0]]}, one of {len(odd)}"
            raise ConfigError("learning", [Fault("ports", seen, "every port metered, from phase to neutral")])
        self.ports, self.names = ports, names
        assumed = Learning(asynchrony=ASYNCHRONY) if learning is None else learning
        self.sensitivity = LearnedSensitivity(names, labels, assumed)
        accuracy = settings.accuracy
        self._allowed = (accuracy.voltage_class_pct + accuracy.contradiction_pct) / 100
        self._settings = settings
        self.begin()
        self.adjust(settings)
        self._fitted = 0
        self._taught_s = -np.inf

    @staticmethod
    def of_meters(entries: tuple[MeterEntry, ...], settings: GridSettings, learning: Learning | None = None) -> Pupil:
        """One that numbers the ports meter by meter."""
        names: list[str] = []
        labels: list[str] = []
        of_meter: dict[MeterId, tuple[int, ...]] = {}
        for entry in entries:
            of_meter[entry.id] = tuple(range(len(names), len(names) + len(entry.phases)))
            alone = len(entry.phases) == 1
            names += [entry.id if alone else f"{entry.id} {phase.name}" for phase in entry.phases]
            labels += [phase.name for phase in entry.phases]
        return Pupil(PortMap(of_meter, (), free_phases(entries)), tuple(names), tuple(labels), settings, learning)

    def begin(self) -> None:
        """Levels of nobody."""
        self._levels = Levels(self.sensitivity, self._allowed)
        accuracy, nominal_v = self._settings.accuracy, np.full(len(self.names), self._settings.nominal_voltage_v)
        wrong = accuracy.balance_w, accuracy.balance_pct
        self._balance = Balance(self.sensitivity.labels, (), nominal_v, wrong)

    def adjust(self, settings: GridSettings) -> None:
        """Another band; what was learnt stays."""
        nominal_v = np.full(len(self.names), settings.nominal_voltage_v)
        self._limits = GridLimits(*settings.limits_v(nominal_v), np.zeros(0))

    def look(
        self, measurements: MeasurementSet, now: float
    ) -> tuple[Situation | None, tuple[Binding, ...], Taught | None]:
        """The situation at ``now`` [s], or what is unknown; and a lesson, if it is time for one."""
        missing = self.ports.missing(measurements)
        busbar, *customers = measurements.points
        if not missing and len(busbar.u_v) != 3:
            missing = (Binding(Reason.SUBSTATION_UNKNOWN, SUBSTATION),)
        if missing:
            return None, missing, None
        p, q, u, taken_s = (np.zeros(len(self.names)) for _ in range(4))
        for point in customers:
            at = list(self.ports.of_meter[point.name])
            p[at], q[at], u[at], taken_s[at] = point.p_w, point.q_var, point.u_v, now - (point.age_s or 0.0)
        busbar_v = np.array(busbar.u_v, dtype=float)
        level = self._levels.take(Readings(p, q, u, taken_s, busbar_v, now - (busbar.age_s or 0.0)), now)
        odd = tuple(self.ports.contradicts(int(k), float(u[k])) for k in np.flatnonzero(level.contradicts))
        short = self._balance.take(busbar, p, q, u, now)
        if short is not None and (contradiction := self._balance.contradicts(short)) is not None:
            odd = (*odd, contradiction)
        if odd:
            return None, odd, None
        p, q = np.round(p, DECIMALS_W), np.round(q, DECIMALS_W)
        margin = self._settings.accuracy.voltage_class_pct / 100 * level.u_v + level.margin_v
        situation = Situation(p, q, np.round(level.u_v, DECIMALS_V), np.round(margin, DECIMALS_V))
        if 0 <= now - self._taught_s < LESSON_S:
            return situation, (), None
        return situation, (), Taught(now, busbar_v, Situation(p, q, np.round(level.followed_v, DECIMALS_V), 0.0 * p))

    def teach(self, taught: Taught) -> None:
        """One more set."""
        s, self._taught_s = taught.situation, taught.now
        self.sensitivity.update(taught.now, s.u_v, s.p_w, s.q_var, taught.busbar_v)
        if self.sensitivity.sets >= self._fitted + FIT_EVERY:
            self._fitted = self.sensitivity.sets
            self.sensitivity.fit_prior()

    def lesson(self, measurements: MeasurementSet, now: float) -> Taught | None:
        """The set of ``now`` [s], if it is complete and time for one."""
        return self.look(measurements, now)[2]

    def examined(self, question: Question) -> Question:
        """The question, with an objection to every wish whose effect no reading has taught."""
        learnt = self.sensitivity.learnt
        return replace(question, wishes=tuple(self._examined(wish, learnt) for wish in question.wishes))

    def _examined(self, wish: Wish, learnt: NDArray[np.bool_]) -> Wish:
        if wish.objection is not None or learnt[list(self.ports.of_meter[wish.meter])].all():
            return wish
        return replace(wish, objection=Reason.NOT_LEARNT)

    def pushes(self, situation: Situation, reason: Reason, ports: tuple[int, ...], meter: MeterId) -> bool:
        """Whether the export of a meter moves voltages at some ports further out; so does one of which nobody knows."""
        own = list(self.ports.of_meter[meter])
        if not self.sensitivity.learnt[own].all():
            return True
        by_draw, _ = self.sensitivity.slopes(situation, situation.p_w, np.array(ports, dtype=np.int64))
        lift = -by_draw[:, own].sum(axis=1)
        return bool((lift < 0).any() if reason is Reason.UNDERVOLTAGE else (lift > 0).any())

    def outlook(self, situation: Situation) -> LearnedOutlook:
        """What an allocation asks."""
        return LearnedOutlook(self.sensitivity, self._limits, situation)


class Learned:
    """`dcu.hosting.decide.Rule` by what the meters have taught."""

    name = NAME
    foresees = True
    learns = True
    remembers = True

    def __init__(
        self, entries: tuple[MeterEntry, ...], settings: GridSettings, learning: Learning | None = None
    ) -> None:
        """A rule for the meters of a site that knows nothing yet."""
        self._settings = settings
        self.pupil = Pupil.of_meters(entries, settings, learning)
        place = self.pupil.ports.of_meter
        meter_at = {self.pupil.names[port]: meter for meter, at in place.items() for port in at}
        self._site = Site(self.pupil.ports, meter_at, settings)

    def facts(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "policy": settings.policy.value,
            "nominal_voltage_v": settings.nominal_voltage_v,
            "band_pct": settings.band_pct,
            "guard_pct": settings.guard_pct,
            "voltage_class_pct": settings.accuracy.voltage_class_pct,
            "asynchrony": self.pupil.sensitivity.learning.asynchrony,
        }

    def view(self, measurements: MeasurementSet, now: float) -> GridView:
        view = self.look(measurements, now)
        if view.taught is not None:
            self.pupil.teach(view.taught)
        return view

    def begin(self) -> None:
        self.pupil.begin()

    def look(self, measurements: MeasurementSet, now: float) -> GridView:
        situation, missing, lesson = self.pupil.look(measurements, now)
        estimate = Estimate(1.0, situation, missing, ())
        return GridView(estimate, outside(measurements.points, self._settings.band), lesson)

    def recall(self, entry: Mapping[str, Any]) -> GridView:
        """The view of an entry, which also teaches what it taught then."""
        view = GridView.from_entry(entry)
        if view.taught is not None:
            self.pupil.teach(view.taught)
        return view

    def answer(self, view: View, question: Question) -> Answer:
        assert isinstance(view, GridView), view
        situation = view.estimate.situation
        prospect: Prospect | None = None
        if situation is not None:
            prospect, question = self.pupil.outlook(situation), self.pupil.examined(question)
        return answer_window(prospect, view.estimate, question, self._site, view.outside)

    def adjust(self, *, policy: str | None = None, band_pct: float | None = None) -> None:
        self._settings = settings = self._settings.adjusted(policy, band_pct)
        self._site = replace(self._site, settings=settings)
        self.pupil.adjust(settings)

    def blames(self, view: View, binding: Binding, meter: MeterId) -> bool:
        assert isinstance(view, GridView), view
        situation, ports = view.estimate.situation, self.pupil.ports.at(binding)
        if not ports:  # the busbar itself, which an export can only lift
            return binding.reason is not Reason.UNDERVOLTAGE
        return situation is None or self.pupil.pushes(situation, binding.reason, ports, meter)
