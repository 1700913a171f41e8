"""When to tell a neighbour, by PRM, that its modulation does not fit what we receive from it.

A sender chooses by the signal it receives; where noise differs between the ends that is the wrong measure. The receiver
sees both the modulation and the signal of each frame, and says how well it hears when the two do not fit for some
frames in a row. The meaning of the packet is recalled; when to send it is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from prime_plc.links import GIVE_UP_DB, Links, quality_index
from prime_plc.phy import Scheme
from prime_plc.settings import MacSettings

TOO_SLOW_STEPS = 2
"""Steps of the ladder that a modulation may stay below what the signal allows."""


@dataclass(slots=True)
class _Seen:
    misfits: int = 0
    snr_db: float = 0.0
    quiet_until_s: float = 0.0


class RobustnessWatch:
    """Modulations and signals of the neighbours' frames."""

    def __init__(self, settings: MacSettings, links: Links) -> None:
        self._settings = settings
        self._links = links
        self._seen: dict[int, _Seen] = {}

    def clear(self) -> None:
        """Forget all neighbours."""
        self._seen.clear()

    def observe(self, key: int, scheme: Scheme, snr_db: float, now: float, *, control: bool = False) -> int | None:
        """A frame for us came in; the SNR index to tell its sender, if it should be told now. The modulation of a
        control packet is no choice, but a signal that is too weak for it is worth a word early."""
        fits = self._bears(scheme, snr_db) if control else self._fits(scheme, snr_db)
        seen = self._seen.get(key)
        if fits:
            if seen is not None:
                seen.misfits = 0
            return None
        if seen is None:
            if len(self._seen) >= self._settings.nodes_max:
                self._seen.clear()
            seen = self._seen[key] = _Seen()
        seen.misfits += 1
        seen.snr_db = snr_db
        if seen.misfits < self._settings.robustness_frames or now < seen.quiet_until_s:
            return None
        seen.misfits = 0
        seen.quiet_until_s = now + self._settings.robustness_interval_s
        return quality_index(snr_db)

    def _fits(self, scheme: Scheme, snr_db: float) -> bool:
        ladder = self._settings.schemes
        if scheme not in ladder or len(ladder) == 1:
            return True
        used = ladder.index(scheme)
        if not self._bears(scheme, snr_db):
            return False  # of the most robust one too: the other may know a better way
        return used + TOO_SLOW_STEPS > ladder.index(self._links.allowed(snr_db))

    def _bears(self, scheme: Scheme, snr_db: float) -> bool:
        return scheme not in GIVE_UP_DB or snr_db >= GIVE_UP_DB[scheme] + self._settings.scheme_margin_db / 2
