"""The rule `present-voltages/1`: yes only if substation and customers are all known to be inside the band.

It knows no network and looks at the present alone; what a grant will do shows when it is used. For benches that impose
their voltages, and for a street's first days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dcu.hosting.decide import Answer, Band, Binding, Question, Standing, Verdicts, View, outside, unknown
from dcu.hosting.measurements import MeasurementSet, Point, Quality
from shared.ids import MeterId

NAME: Final = "present-voltages/1"


@dataclass(frozen=True, slots=True)
class PresentView:
    """The measurement set itself."""

    measurements: MeasurementSet
    outside: tuple[Binding, ...]

    def as_entry(self) -> dict[str, Any]:
        return self.measurements.as_entry()


class PresentVoltages:
    """`dcu.hosting.decide.Rule` by the band alone."""

    name = NAME
    foresees = False
    learns = False
    remembers = False

    def __init__(self, band: Band) -> None:
        self._band = band

    def facts(self) -> dict[str, Any]:
        return {"band_v": [round(self._band.low_v, 6), round(self._band.high_v, 6)]}

    def view(self, measurements: MeasurementSet, now: float) -> PresentView:
        del now
        return PresentView(measurements, outside(measurements.points, self._band))

    def look(self, measurements: MeasurementSet, now: float) -> PresentView:
        return self.view(measurements, now)

    def begin(self) -> None:
        pass

    def recall(self, entry: Mapping[str, Any]) -> PresentView:
        points = tuple(
            Point(
                MeterId(p["name"]),
                Quality(p["quality"]),
                tuple(p["u_v"]),
                p["export_w"],
                p["age_s"],
                tuple(p["p_w"]),
                tuple(p["q_var"]),
            )
            for p in entry["points"]
        )
        return self.view(MeasurementSet(points), 0.0)

    def answer(self, view: View, question: Question) -> Answer:
        assert isinstance(view, PresentView), view
        obstacles = (*view.outside, *unknown(view.measurements.points))
        verdicts = Verdicts(question.places)
        for wish in question.wishes:
            if wish.objection is not None:
                verdicts.refuse(wish, Binding(wish.objection, wish.meter))
            elif obstacles:
                verdicts.refuse(wish, obstacles[0])
            elif wish.standing in {Standing.ASKS, Standing.DUE}:
                verdicts.accept(wish, wish.wanted_w)
        return Answer(tuple(verdicts.found))

    def adjust(self, *, policy: str | None = None, band_pct: float | None = None) -> None:
        del policy
        if band_pct is not None:
            self._band = Band.around((self._band.low_v + self._band.high_v) / 2, band_pct)

    def blames(self, view: View, binding: Binding, meter: MeterId) -> bool:
        del view, binding, meter
        return True
