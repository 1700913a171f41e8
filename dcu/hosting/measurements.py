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

from dcu.meters import MeterEntry, MeterState
from shared.ids import MeterId, Phase
from shared.messages import Reading

SUBSTATION: Final = MeterId("substation")
"""Name of the balancing meter's point in reasons and ledgers."""
VOLTAGE_SHARES: Final = (0.5, 1.5)
"""[nominal] No connected phase that feeds its meter shows less or more; a meter that says 0 V is not connected."""
FUSE_A: Final = 100.0
"""[A] The largest house connection: at 1.5 times nominal voltage it bounds what a phase may draw or feed (34.5 kW at
230 V), or twice the contract does if that is more."""
BLOCKED_PCT: Final = 100 * (250 / 230 - 1)
"""[% of nominal] Above it a one-minute mean blocks increases (invariant I15)."""
BUSBAR_W: Final = 1e6
"""[W, var] Of one phase: the largest distribution transformers have 2.5 MVA."""


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
        p_w = self.p_w
        return len(p_w) == len(self.u_v) and None not in p_w and None not in self.q_var

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


@dataclass(frozen=True, slots=True)
class Credible:
    """What a reading must be to be used.

    Attributes:
        age_s_max: older is stale [s].
        nominal_voltage_v: phase to neutral.
        busbar_phases: what the balancing meter must show at least: every phase that a customer is connected to.
    """

    age_s_max: float
    nominal_voltage_v: float
    busbar_phases: frozenset[Phase]

    @staticmethod
    def of(entries: Iterable[MeterEntry], age_s_max: float, nominal_voltage_v: float) -> Credible:
        """At a site with these customers."""
        return Credible(age_s_max, nominal_voltage_v, frozenset(phase for e in entries for phase in e.phases))

    def draw_w_max(self, entry: MeterEntry) -> float:
        """What a phase of a customer may draw or feed, also of reactive power [W, var]."""
        return max(VOLTAGE_SHARES[1] * self.nominal_voltage_v * FUSE_A, 2 * entry.contract_limit_w)

    def voltages(self, u_v: tuple[float | None, ...]) -> bool:
        """Whether connected phases may have these voltages; not so for what is no number."""
        low, high = (share * self.nominal_voltage_v for share in VOLTAGE_SHARES)
        return all(u is not None and low <= u <= high for u in u_v)


def measure(meters: Iterable[MeterState], substation: Substation, credible: Credible, now: float) -> MeasurementSet:
    """The measurement set at ``now`` [s]."""
    points = [measure_one(state, substation, credible, now) for state in (None, *meters)]
    return MeasurementSet(tuple(points))


def measure_one(state: MeterState | None, substation: Substation, credible: Credible, now: float) -> Point:
    """One meter's point, or the busbar's (None)."""
    if state is not None:
        entry = state.entry
        return _point(
            entry.id, (state.reading, state.reading_at_s), entry.phases, credible.draw_w_max(entry), credible, now
        )
    reading = substation.reading
    shown = () if reading is None else (phase for phase in Phase if reading.u_v[phase] is not None)
    phases = tuple(sorted(credible.busbar_phases.union(shown)))
    return _point(SUBSTATION, (reading, substation.taken_at_s), phases, BUSBAR_W, credible, now)


def _within(draws: tuple[float | None, ...], most: float) -> bool:
    return all(draw is None or abs(draw) <= most for draw in draws)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _point(
    name: MeterId,
    read: tuple[Reading | None, float | None],
    phases: tuple[Phase, ...],
    draw_w_max: float,
    credible: Credible,
    now: float,
) -> Point:
    reading, at_s = read
    if at_s is None:
        return Point(name, Quality.MISSING, (), None, None)
    age_s = now - at_s
    if reading is None:
        return Point(name, Quality.INVALID, (), None, age_s, taken_at_s=at_s)
    u_v, p_w, q_var = (
        tuple(_finite(values[phase]) for phase in phases) for values in (reading.u_v, reading.p_w, reading.q_var)
    )
    export_w = _finite(reading.export_w)
    quality = Quality.GOOD
    # What cannot be is that at any age: of an old reading the rules still believe what it says of its own instant.
    if not (u_v and credible.voltages(u_v) and _within((*p_w, *q_var), draw_w_max)) or age_s < 0:
        quality = Quality.INVALID
    elif not age_s <= credible.age_s_max:
        quality = Quality.STALE
    return Point(name, quality, u_v, export_w, age_s, p_w, q_var, at_s)
