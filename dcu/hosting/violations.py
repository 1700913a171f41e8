"""Points that are outside the band, and for how long: one that is back, or unknown, starts anew."""

from __future__ import annotations

from collections.abc import Callable

from dcu.hosting.decide import Band, outside
from dcu.hosting.measurements import Point
from shared.ids import MeterId


class Violations:
    """Since when which point is outside."""

    def __init__(self, band: Band, persistence_s: float) -> None:
        """Voltages beyond ``band`` that last for ``persistence_s`` [s] count."""
        self.band, self._persistence_s = band, persistence_s
        self._since_s: dict[MeterId, float] = {}

    @property
    def persist_at(self) -> float | None:
        """When the first of them has lasted long enough [s]."""
        return min((since_s + self._persistence_s for since_s in self._since_s.values()), default=None)

    def note(self, point: Point, now: float) -> None:
        """What a point is measured to be."""
        if outside((point,), self.band):
            self._since_s.setdefault(point.name, now)
        else:
            self._since_s.pop(point.name, None)

    def clear(self) -> None:
        """Nobody lives on a grant: nothing to hold against anybody."""
        self._since_s.clear()

    def lasting(self, known_s: Callable[[MeterId], float]) -> list[MeterId]:
        """Points that have been outside for long enough, which are counted anew; ``known_s`` tells until when each is
        known to be [s]."""
        found = [point for point, since_s in self._since_s.items() if known_s(point) >= since_s + self._persistence_s]
        for point in found:
            del self._since_s[point]
        return found
