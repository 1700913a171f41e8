"""The seam where a network model will say what grants do to every voltage.

Today's prediction is the measurement: the testbed's rule looks at present voltages only. The model-based prediction
(every live and candidate grant fully used) takes this function's place behind the same signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcu.hosting.measurements import MeasurementSet, Quality
from shared.ids import MeterId


@dataclass(frozen=True, slots=True)
class PredictedPoint:
    """Voltages expected at one point [V]; usable only if the measurement behind them is good."""

    name: MeterId
    quality: Quality
    u_v: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Expected voltages, in the order of the measurement set."""

    points: tuple[PredictedPoint, ...]


def predict(measurements: MeasurementSet, limits_w: Mapping[MeterId, float]) -> Prediction:
    """Voltages with every limit [W] fully used.

    Args:
        measurements: what is known now.
        limits_w: reserved export of each meter with a live or candidate grant; without a model it changes nothing.
    """
    del limits_w
    return Prediction(tuple(PredictedPoint(p.name, p.quality, p.u_v) for p in measurements.points))
