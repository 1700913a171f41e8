"""The measurement sets that a rule has seen, as the ledger keeps them: each as what has changed since the one before.

A rule that remembers makes its view of all sets since its start, whether they were followed by a decision or not. They
are therefore all kept, once, in order, and numbered; what the street looked like at any of them can be put together
again from an epoch's first on, to the bit. `sha256` is a chain: each set's changes are hashed together with the hash
before them, so that a decision's entry names everything its view rests on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dcu.hosting.measurements import MeasurementSet, Point, Quality
from shared.errors import DecodeError
from shared.ids import MeterId

PENDING_MAX: Final = 2000
"""Changed points that may wait for a decision to be recorded with: about 200 kB."""
FIRST_SHA256: Final = "0" * 64
"""What the chain begins with."""

Changes = list[list[Any]]


@dataclass(slots=True)
class SetWriter:
    """One epoch's sets on their way into entries."""

    count: int = 0
    _sha256: str = FIRST_SHA256
    _known: dict[MeterId, Point] = field(default_factory=dict)
    _waiting: list[list[Any]] = field(default_factory=list)
    _changed: int = 0

    def saw(self, measurements: MeasurementSet, now: float) -> None:
        """One more set, of ``now`` [s]."""
        known = self._known
        changes: Changes = []
        for point in measurements.points:
            before = known.get(point.name)
            if before is None or not _same(before, point):
                changes.append(_packed(point))
                known[point.name] = point
        one = [now, changes]
        self._sha256 = _chained(self._sha256, one)
        self._waiting.append(one)
        self._changed += len(changes)
        self.count += 1

    @property
    def full(self) -> bool:
        """Whether those that wait must be recorded now, decision or not."""
        return self._changed >= PENDING_MAX

    def entry(self) -> dict[str, Any]:
        """Those that wait, for the next entry; they wait no more."""
        sets, self._waiting, self._changed = self._waiting, [], 0
        return {"first": self.count - len(sets), "sets": sets, "sha256": self._sha256}


@dataclass(slots=True)
class SetReader:
    """Puts an epoch's sets together again."""

    count: int = 0
    _sha256: str = FIRST_SHA256
    _known: dict[MeterId, Point] = field(default_factory=dict)

    def sets(self, entry: Mapping[str, Any]) -> Iterator[tuple[MeasurementSet, float]]:
        """The sets that an entry keeps, with their instants [s].

        Raises:
            DecodeError: sets are missing before them, or are not those that were hashed.
        """
        if entry["first"] != self.count:
            raise DecodeError(f"readings: seen set {entry['first']}, expected {self.count}")
        for one in entry["sets"]:
            now, changed = _parsed(one)
            self._known |= {point.name: point for point in changed}
            self._sha256 = _chained(self._sha256, [now, [_packed(point) for point in changed]])
            self.count += 1
            yield MeasurementSet(tuple(_aged(point, now) for point in self._known.values())), now
        if entry["sha256"] != self._sha256:
            raise DecodeError(f"readings: seen hash {self._sha256[:16]}, expected {str(entry['sha256'])[:16]}")


def _same(a: Point, b: Point) -> bool:
    return (a.taken_at_s, a.quality, a.u_v, a.p_w, a.q_var) == (b.taken_at_s, b.quality, b.u_v, b.p_w, b.q_var)


def _packed(point: Point) -> list[Any]:
    """Name, instant, quality, and the phases' voltages, draws and reactive draws as they were received."""
    phases = [[_real(v) for v in values] for values in (point.u_v, point.p_w, point.q_var)]
    return [str(point.name), _real(point.taken_at_s), point.quality.value, *phases]


def _parsed(one: Any) -> tuple[float, list[Point]]:
    """When a set was seen, and what had changed.

    Raises:
        DecodeError: it says something else.
    """
    try:
        at_s, changes = one
        return float(at_s), [_point(change) for change in changes]
    except (TypeError, ValueError) as error:
        raise DecodeError(f"readings: seen {str(one)[:80]}, expected a set ({error})") from error


def _point(change: list[Any]) -> Point:
    name, taken_at_s, quality, *phases = change
    u, p, q = (tuple(map(_real, values)) for values in phases)
    return Point(MeterId(name), Quality(quality), u, None, None, p, q, _real(taken_at_s))


def _aged(point: Point, now: float) -> Point:
    return replace(point, age_s=None if point.taken_at_s is None else now - point.taken_at_s)


def _real(value: float | None) -> float | None:
    """A number as it was: the ledger's JSON writes 2400.0 as 2400, and -0.0 as 0."""
    return None if value is None else float(value) + 0.0


def _chained(before: str, one: list[Any]) -> str:
    """The next hash of the chain."""
    text = json.dumps([before, one], separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
