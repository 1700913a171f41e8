"""The rule `predicted/6`: what a grant would do to every neighbour, by the network model and the meters together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.port_model import PortModel
from dcu.hosting.decide import (
    Answer,
    Band,
    Binding,
    Question,
    View,
    outside,
)
from dcu.hosting.estimate import Estimate, Estimator, PortMap
from dcu.hosting.headroom import GridLimits, Outlook, Prospect
from dcu.hosting.learned_outlook import MixedOutlook
from dcu.hosting.learned_rule import Pupil
from dcu.hosting.measurements import SUBSTATION, MeasurementSet
from dcu.hosting.view import GridView
from dcu.hosting.window import GridSettings, Site, answer_window, refusals
from dcu.meters import MeterEntry
from shared.errors import ConfigError
from shared.ids import MeterId
from shared.messages import Reason

Reals = NDArray[np.float64]
NAME: Final = "predicted/6"


class Predicted:
    """`dcu.hosting.decide.Rule` by the network model."""

    name = NAME
    foresees = True
    remembers = True

    def __init__(
        self,
        model: PortModel,
        entries: tuple[MeterEntry, ...],
        settings: GridSettings,
        *,
        mixed: bool = False,
    ) -> None:
        """A rule for the meters of a site.

        Args:
            model: the compiled feeder.
            entries: every customer.
            settings: how the model is used.
            mixed: whether what the meters teach must agree: of the two bounds the larger counts, and one that nothing
                is learnt for has no end.

        Raises:
            ConfigError: meters that the model does not know, or a balancing bus that it does not observe.
        """
        self._settings, self._model = settings, model
        self._ports = PortMap.of(model, entries)
        meter_at = {model.ports[port]: meter for meter, at in self._ports.of_meter.items() for port in at}
        self._site = Site(self._ports, meter_at, settings)
        nominal_v = settings.nominal_v(model)
        self._estimator = Estimator(model, self._ports, nominal_v, settings.accuracy, settings.balancing_bus)
        self._pupil = Pupil(self._ports, model.ports, model.port_labels, settings) if mixed else None
        self.newest: Estimate | None = None
        """What the last view rested on, for those who only look."""
        self.learns = mixed
        self._limits = GridLimits(
            *settings.limits_v(nominal_v),
            i_max_a=settings.loading_max * model.rating_a,
            vuf_max=np.inf if settings.vuf_max_pct is None else settings.vuf_max_pct / 100,
        )

    def facts(self) -> dict[str, Any]:
        settings, accuracy = self._settings, self._settings.accuracy
        return {
            "model": self._model.name,
            "network_sha256": self._model.network_sha256,
            "policy": settings.policy.value,
            "nominal_voltage_v": settings.nominal_voltage_v,
            "balancing_bus": settings.balancing_bus,
            "band_pct": settings.band_pct,
            "guard_pct": settings.guard_pct,
            "loading_max": settings.loading_max,
            "vuf_max_pct": settings.vuf_max_pct,
            "mixed": self.learns,
            "asynchrony": None if self._pupil is None else self._pupil.sensitivity.learning.asynchrony,
            "voltage_class_pct": accuracy.voltage_class_pct,
            "power_class_pct": accuracy.power_class_pct,
            "model_error_pct": accuracy.model_error_pct,
        }

    @property
    def pupil(self) -> Pupil:
        """What learns in a mixed rule."""
        assert self._pupil is not None, "not mixed"
        return self._pupil

    @property
    def port_count(self) -> int:
        """Ports of the model."""
        return len(self._model.ports)

    def ports_of(self, meter: MeterId) -> tuple[int, ...]:
        """Where a customer is connected."""
        return self._ports.of_meter[meter]

    def estimate(self, measurements: MeasurementSet, now: float) -> Estimate:
        """The situation at ``now`` [s]."""
        return self._estimator.take(measurements, now)

    def view(self, measurements: MeasurementSet, now: float) -> GridView:
        view = self.look(measurements, now)
        if self._pupil is not None and view.taught is not None:
            self._pupil.teach(view.taught)
        return view

    def look(self, measurements: MeasurementSet, now: float) -> GridView:
        estimate = self.newest = self._estimator.take(measurements, now)
        lesson = None if self._pupil is None else self._pupil.lesson(measurements, now)
        return GridView(estimate, outside(measurements.points, self._settings.band), lesson)

    def begin(self) -> None:
        self._estimator.forget()
        if self._pupil is not None:
            self._pupil.begin()

    def recall(self, entry: Mapping[str, Any]) -> GridView:
        view = GridView.from_entry(entry)
        if self._pupil is not None and view.taught is not None:
            self._pupil.teach(view.taught)
        return view

    def answer(self, view: View, question: Question) -> Answer:
        assert isinstance(view, GridView), view
        prospect = None if view.estimate.situation is None else self.prospect(view.estimate)
        if self._pupil is not None and prospect is not None:
            question = self._pupil.examined(question)
        return answer_window(prospect, view.estimate, question, self._site, view.outside)

    def blames(self, view: View, binding: Binding, meter: MeterId) -> bool:
        assert isinstance(view, GridView), view
        ports = self._ports.at(binding)
        if not ports or view.estimate.situation is None:
            return True  # the busbar itself, or nothing known: everybody's export counts
        rows = np.array(ports, dtype=np.int64)
        if binding.reason is Reason.UNDERVOLTAGE:
            rows += len(self._model.ports)
        prospect = self.prospect(view.estimate)
        slopes = prospect.slopes(prospect.now.p_w, rows)[:, list(self._ports.of_meter[meter])]
        pushed = slopes.min(axis=1) if meter in self._ports.phases else slopes.sum(axis=1)
        return bool((pushed < 0).any())

    def adjust(self, *, policy: str | None = None, band_pct: float | None = None) -> None:
        self._settings = settings = self._settings.adjusted(policy, band_pct)
        self._site = replace(self._site, settings=settings)
        self.limit_voltages(*settings.limits_v(settings.nominal_v(self._model)))
        if self._pupil is not None:
            self._pupil.adjust(settings)

    def limit_voltages(self, u_low_v: Reals, u_high_v: Reals) -> None:
        """Other limits than the band's, port by port [V] (n)."""
        self._limits = replace(self._limits, u_low_v=u_low_v, u_high_v=u_high_v)

    def prospect(self, estimate: Estimate) -> Prospect:
        """The grid as an allocation sees it."""
        assert estimate.situation is not None
        by_model = Outlook(self._estimator.model_at(estimate.source), self._limits, estimate.situation)
        if self._pupil is None:
            return by_model
        return MixedOutlook(by_model, self._pupil.outlook(estimate.situation))


class NoModel:
    """`dcu.hosting.decide.Rule` of a site whose model cannot be used: nothing is granted, and everybody is told why."""

    name = NAME
    foresees = False
    learns = False
    remembers = False

    def __init__(self, why: ConfigError, band: Band) -> None:
        self.why, self._band = why, band

    def facts(self) -> dict[str, Any]:
        return {"model": None, "why": str(self.why)[:400]}

    def view(self, measurements: MeasurementSet, now: float) -> GridView:
        del now
        estimate = Estimate(1.0, None, (Binding(Reason.MODEL_UNUSABLE, SUBSTATION),), ())
        return GridView(estimate, outside(measurements.points, self._band))

    def look(self, measurements: MeasurementSet, now: float) -> GridView:
        return self.view(measurements, now)

    def begin(self) -> None:
        pass

    def recall(self, entry: Mapping[str, Any]) -> GridView:
        return GridView.from_entry(entry)

    def answer(self, view: View, question: Question) -> Answer:
        assert isinstance(view, GridView), view
        return Answer(refusals(question, view.estimate.unknown[0]))

    def adjust(self, *, policy: str | None = None, band_pct: float | None = None) -> None:
        del policy
        if band_pct is not None:
            self._band = Band.around((self._band.low_v + self._band.high_v) / 2, band_pct)

    def blames(self, view: View, binding: Binding, meter: MeterId) -> bool:
        del view, binding, meter
        return True
