"""EN 50160 statistics from the readings that this process has seen: 10-minute means of each phase, one week of them.

The standard counts means of an instrument that samples without gaps; meters report every quarter of a minute, so these
are means of reports. What is older than the start of this process is not in them: that is what the store is for.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Final

SPAN_S: Final = 600.0
WEEK: Final = 1008
"""10-minute means of a week."""
READINGS_MIN: Final = 10
"""Distinct looks with a good reading that a mean needs."""
INSIDE: Final = 0.10
"""EN 50160 4.2.2: nominal plus and minus this, for 95 % of a week's means."""
POINTS_MAX: Final = 3000
"""Phases that are followed: 12 MB."""


@dataclass(slots=True)
class _Point:
    """One phase of one customer."""

    sum_v: float = 0.0
    count: int = 0
    means: array[float] = field(default_factory=lambda: array("f"))
    missing: int = 0

    def close(self) -> None:
        """The span is over."""
        if self.count >= READINGS_MIN:
            self.means.append(self.sum_v / self.count)
            if len(self.means) > WEEK:
                del self.means[0]
        else:
            self.missing += 1
        self.sum_v, self.count = 0.0, 0


class QualityBook:
    """All phases."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], _Point] = {}
        self._span = -1
        self._since_utc_s: float | None = None
        self._nominal_v: float | None = None

    def add(self, street: dict[str, Any], utc_s: float) -> None:
        """One look at the street: a reading weighs as long as it stands."""
        if street["state"] != "live" or street["band_v"] is None:
            return
        self._nominal_v = sum(street["band_v"]) / 2
        span = int(utc_s // SPAN_S)
        if span != self._span and self._span >= 0:
            for point in self._points.values():
                point.close()
        if self._since_utc_s is None:
            self._since_utc_s = utc_s
        self._span = span
        for customer in street["customers"]:
            if customer["quality"] != "good":
                continue
            for phase, volts in zip(customer["phases"], customer["u_v"], strict=False):
                self._take((customer["id"], phase), volts)

    def _take(self, name: tuple[str, str], volts: float | None) -> None:
        if name not in self._points and len(self._points) >= POINTS_MAX:
            return
        point = self._points.setdefault(name, _Point())
        if volts is not None:
            point.sum_v += volts
            point.count += 1

    def as_api(self) -> dict[str, Any]:
        """For the API: every phase with what is known of it."""
        rows = [self._row(meter, phase, point) for (meter, phase), point in sorted(self._points.items())]
        source = "readings seen by this page since it was started; at most one week"
        return {"source": source, "since_utc_s": self._since_utc_s, "nominal_v": self._nominal_v, "rows": rows}

    def _row(self, meter: str, phase: str, point: _Point) -> dict[str, Any]:
        means = sorted(point.means)
        row: dict[str, Any] = {"meter": meter, "phase": phase, "intervals": len(means), "missing": point.missing}
        if not means or self._nominal_v is None:
            nothing = dict.fromkeys(("inside", "u_min_v", "u_p95_v", "u_max_v", "unbalance_p95"))
            return row | nothing
        low, high = self._nominal_v * (1 - INSIDE), self._nominal_v * (1 + INSIDE)
        inside = sum(low <= mean <= high for mean in means) / len(means)
        high = means[min(len(means) - 1, int(0.975 * len(means)))]
        ends = {"u_min_v": round(means[0], 2), "u_p95_v": round(high, 2), "u_max_v": round(means[-1], 2)}
        return row | {"inside": round(inside, 4), **ends, "unbalance_p95": None}
