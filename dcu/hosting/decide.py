"""The rule: yes only if the substation's and every customer's voltage are known and inside the band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dcu.hosting.measurements import SUBSTATION, Quality
from dcu.hosting.predict import PredictedPoint, Prediction
from shared.ids import MeterId
from shared.messages import Reason

RULE: Final = "present-voltages/1"
"""Name and version of this rule, for the ledger."""


@dataclass(frozen=True, slots=True)
class Band:
    """Voltages allowed for decisions [V]."""

    low_v: float
    high_v: float

    @classmethod
    def around(cls, nominal_v: float, pct: float) -> Band:
        """Nominal plus and minus a percentage."""
        return cls(nominal_v * (1 - pct / 100), nominal_v * (1 + pct / 100))


@dataclass(frozen=True, slots=True)
class Binding:
    """What decided: the reason, the point, and the value that bound it [V]."""

    reason: Reason
    point: MeterId
    value: float | None


_UNKNOWN: Final = {
    Quality.MISSING: Reason.READING_MISSING,
    Quality.STALE: Reason.READING_STALE,
    Quality.INVALID: Reason.READING_INVALID,
}


def violations(prediction: Prediction, band: Band) -> list[Binding]:
    """Points that are known to be outside the band, in order."""
    found = [_outside(point, band) for point in prediction.points if point.quality is Quality.GOOD]
    return [binding for binding in found if binding is not None]


def obstacles(prediction: Prediction, band: Band) -> list[Binding]:
    """Everything that forbids an increase: points outside the band first, then points nobody knows."""
    unknown = [
        Binding(Reason.SUBSTATION_UNKNOWN if point.name == SUBSTATION else _UNKNOWN[point.quality], point.name, None)
        for point in prediction.points
        if point.quality is not Quality.GOOD
    ]
    return violations(prediction, band) + unknown


def _outside(point: PredictedPoint, band: Band) -> Binding | None:
    """Written so that a value that compares with nothing (NaN) is outside."""
    for value in point.u_v:
        if value is None or not value >= band.low_v:
            return Binding(Reason.UNDERVOLTAGE, point.name, value)
        if not value <= band.high_v:
            return Binding(Reason.OVERVOLTAGE, point.name, value)
    return None
