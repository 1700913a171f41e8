"""Whether the power line can carry one more grant: a lease that cannot be renewed in time must not be given."""

from __future__ import annotations

from dataclasses import dataclass


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

    def share(self, meters: int, grants: int, renew_interval_s: float) -> float:
        """Part of the channel that so many meters and grants fill."""
        return meters * self.report_s / self.report_interval_s + grants * self.renewal_s / renew_interval_s

    def grants_max(self, meters: int, renew_interval_s: float) -> int:
        """How many grants can be renewed in time beside the reports of so many meters."""
        left = self.share_max - self.share(meters, 0, renew_interval_s)
        return max(0, int(left * renew_interval_s / self.renewal_s + 1e-9))
