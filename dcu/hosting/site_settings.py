"""What the engine is told about a site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dcu.hosting.airtime import Airtime
from dcu.hosting.decide import Band
from shared.messages import LEASE_S_MAX

FORESIGHT_PCT: Final = 0.5
"""[% of nominal] A measured voltage may be beyond the band by this before a rule that foresees is believed no more."""


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """The rules of a site.

    Attributes:
        nominal_voltage_v, band_pct: the band for decisions.
        persistence_s: a violation must last this long before grants are revoked.
        lease_s: of every grant, at most `LEASE_S_MAX`.
        renew_interval_s: between two decisions of one grant.
        decision_window_s: requests that arrive within it are decided together.
        reading_age_s_max: older is stale.
        reservations_max: grants and renewals that may hold capacity at a time.
        airtime: what reports and renewals cost on the power line.
    """

    nominal_voltage_v: float = 230.0
    band_pct: float = 5.0
    persistence_s: float = 10.0
    lease_s: float = LEASE_S_MAX
    renew_interval_s: float = 15.0
    decision_window_s: float = 1.0
    reading_age_s_max: float = 40.0
    reservations_max: int = 200
    airtime: Airtime = Airtime()

    def __post_init__(self) -> None:
        assert 0 < self.lease_s <= LEASE_S_MAX, self.lease_s

    @property
    def band(self) -> Band:
        """Voltages allowed for decisions."""
        return Band.around(self.nominal_voltage_v, self.band_pct)

    def revocation_band(self, foresees: bool) -> Band:
        """Voltages beyond which grants are revoked; a rule that foresees shares out the last tenth of a volt, and
        lowers before it revokes."""
        return Band.around(self.nominal_voltage_v, self.band_pct + (FORESIGHT_PCT if foresees else 0.0))
