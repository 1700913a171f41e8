"""Whether the power line can carry one more grant: a lease that cannot be renewed in time must not be given.

Reports come at their interval and whenever a draw has changed, so the DCU counts those it gets: the line is taken for
as full as it has been seen to be, and never for emptier than its meters' intervals make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PACE_S: Final = 60.0
"""[s] Over which reports are counted: long against one cloud's edge, short against a lease that must be renewed."""


@dataclass(frozen=True, slots=True)
class Airtime:
    """What a street says on its one channel.

    Attributes:
        report_interval_s: between two reports of a meter.
        report_s: air time of a report and its share of an acknowledgement.
        renewal_s: air time of a renewal, its link-layer acknowledgement and the report that confirms it.
        share_max: part of the channel that reports and renewals may fill; the rest is for contention, repetitions,
            questions and revokes.
    """

    report_interval_s: float = 15.0
    report_s: float = 0.06
    renewal_s: float = 0.12
    share_max: float = 0.6

    def share(self, meters: int, grants: int, renew_interval_s: float, reports_per_s: float = 0.0) -> float:
        """Part of the channel that so many meters and grants fill; ``reports_per_s`` is what was counted."""
        reports = max(meters / self.report_interval_s, reports_per_s) * self.report_s
        return reports + grants * self.renewal_s / renew_interval_s

    def grants_max(self, meters: int, renew_interval_s: float, reports_per_s: float = 0.0) -> int:
        """How many grants can be renewed in time beside the reports of so many meters."""
        left = self.share_max - self.share(meters, 0, renew_interval_s, reports_per_s)
        return max(0, int(left * renew_interval_s / self.renewal_s + 1e-9))


class Pace:
    """How often something comes: in the last whole minute, or in the present one if that is more already."""

    def __init__(self, now: float) -> None:
        self._since_s = now
        self._last = self._present = 0

    def count(self, now: float) -> None:
        """One more at ``now`` [s]."""
        self._turn(now)
        self._present += 1

    def per_s(self, now: float) -> float:
        """Mean rate [1/s]."""
        self._turn(now)
        return max(self._last, self._present) / PACE_S

    def _turn(self, now: float) -> None:
        passed = int((now - self._since_s) // PACE_S)
        if passed > 0:
            self._last = self._present if passed == 1 else 0
            self._present = 0
            self._since_s += passed * PACE_S
