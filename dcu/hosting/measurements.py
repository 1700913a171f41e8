"""What is known of the feeder now: voltage and power of every customer and the busbar, with their age, or why there is
nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from dcu.meters import MeterState
from shared.ids import MeterId, Phase
from shared.messages import Reading

SUBSTATION: Final = MeterId("substation")
"""Name of the balancing meter's point in reasons and ledgers."""


class Quality(Enum):
    """Whether a point may be used; only GOOD may."""

    GOOD = "good"
    MISSING = "missing"
    STALE = "stale"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point.

    Attributes:
        u_v: voltages of the connected phases [V], None where unknown.
        p_w, q_var: draws of the connected phases, import positive, None where unknown.
        age_s: of the reading [s], None without one.
        taken_at_s: when it was taken [s], None without one.
    """

    name: MeterId
    quality: Quality
    u_v: tuple[float | None, ...]
    export_w: float | None
    age_s: float | None
    p_w: tuple[float | None, ...] = ()
    q_var: tuple[float | None, ...] = ()
    taken_at_s: float | None = None

    @property
    def powers_known(self) -> bool:
        """Whether every connected phase has both powers."""
        return len(self.p_w) == len(self.u_v) and None not in self.p_w and None not in self.q_var

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        age_s = None if self.age_s is None else round(self.age_s, 3)
        return {
            "name": self.name,
            "quality": self.quality.value,
            "u_v": list(self.u_v),
            "export_w": self.export_w,
            "p_w": list(self.p_w),
            "q_var": list(self.q_var),
            "age_s": age_s,
        }


@dataclass(frozen=True, slots=True)
class MeasurementSet:
    """The busbar first, then every customer in the order of the configuration."""

    points: tuple[Point, ...]

    def as_entry(self) -> dict[str, Any]:
        """For the ledger, with a hash over the content."""
        points = [point.as_entry() for point in self.points]
        text = json.dumps(points, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return {"points": points, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@dataclass(frozen=True, slots=True)
class Substation:
    """What the balancing meter said last; ``taken_at_s`` None before the first reading."""

    reading: Reading | None = None
    taken_at_s: float | None = None


def measure(meters: Iterable[MeterState], substation: Substation, age_s_max: float, now: float) -> MeasurementSet:
    """The measurement set at ``now`` [s]; older than ``age_s_max`` [s] is stale."""
    points = [measure_one(state, substation, age_s_max, now) for state in (None, *meters)]
    return MeasurementSet(tuple(points))


def measure_one(state: MeterState | None, substation: Substation, age_s_max: float, now: float) -> Point:
    """One meter's point, or the busbar's (None)."""
    if state is None:
        return _point(SUBSTATION, substation.reading, substation.taken_at_s, tuple(Phase), age_s_max, now)
    return _point(state.entry.id, state.reading, state.reading_at_s, state.entry.phases, age_s_max, now)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _point(
    name: MeterId, reading: Reading | None, at_s: float | None, phases: tuple[Phase, ...], age_s_max: float, now: float
) -> Point:
    if at_s is None:
        return Point(name, Quality.MISSING, (), None, None)
    age_s = now - at_s
    if reading is None:
        return Point(name, Quality.INVALID, (), None, age_s, taken_at_s=at_s)
    if name == SUBSTATION:  # the busbar is measured on the phases its meter is connected to, at least one
        phases = tuple(phase for phase in phases if reading.u_v[phase] is not None)
    u_v, p_w, q_var = (
        tuple(_finite(values[phase]) for phase in phases) for values in (reading.u_v, reading.p_w, reading.q_var)
    )
    export_w = _finite(reading.export_w)
    quality = Quality.GOOD
    if not age_s <= age_s_max:
        quality = Quality.STALE
    elif not u_v or None in u_v or not age_s >= 0:
        quality = Quality.INVALID
    return Point(name, quality, u_v, export_w, age_s, p_w, q_var, at_s)
