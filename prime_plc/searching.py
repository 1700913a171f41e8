"""A node without a network: which switch to register through, when, and when to call for one.

A base heard well some times is joined at once. Else the node listens for a while and takes the best; if there is none
it calls, at random instants, and takes a weak one only when nothing better has come for long. Who knows his base looks
for its subnetwork alone.
"""

from __future__ import annotations

import random

from prime_plc.pdu import SNA_ANY, PromotionNeeded
from prime_plc.search import BeaconsHeard, Heard
from prime_plc.settings import MacSettings
from prime_plc.transmitter import Transmitter
from shared.ids import Eui48


class Searching:
    """Part of a service node, at work between `begin` and `end`.

    Attributes:
        listened: whether the first long listening is over; from then on what is known is joined at once.
    """

    def __init__(
        self,
        settings: MacSettings,
        transmitter: Transmitter,
        beacons: BeaconsHeard,
        eui48: Eui48,
        draw: random.Random,
        sna: bytes | None = None,
    ) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._beacons = beacons
        self._eui48 = eui48
        self._draw = draw
        self._sna = sna
        self.listened = False
        self.end()

    def end(self) -> None:
        """A switch was chosen, or the modem is gone."""
        self._until_s = 0.0
        self._decide_at: float | None = None
        self._weak_until_s = 0.0
        self._call_at: float | None = None
        self._call_period_s = self._settings.promotion_period_s

    def begin(self, now: float) -> Heard | None:
        """Look for a switch; one that is known already is given at once."""
        if self.listened:
            known = self._beacons.best(now, self._settings.join_snr_db, sna=self._sna)
            if known is not None:
                return known
        self._until_s = now + self._settings.search_s
        self._weak_until_s = now + self._settings.weak_search_s
        self._call_at = now + self._draw.uniform(0.0, self._call_period_s) if self.listened else None
        return None

    def hear(self, heard: Heard, now: float) -> Heard | None:
        """A beacon came in; it is given back if it is to be joined at once."""
        if self._sna not in {None, heard.pdu[6:12]}:
            return None
        good = heard.snr_db >= self._settings.join_snr_db and heard.avoid_until_s <= now and heard.reachable
        from_base = heard.pdu[1] == 0 and heard.pdu[0] & 7 == 7
        if good and from_base and heard.count >= self._settings.search_base_beacons:
            return heard
        if good and self.listened and self._decide_at is None:
            self._decide_at = now + self._settings.search_more_s * self._draw.uniform(0.7, 1.3)
        return None

    def times(self) -> list[float | None]:
        """Deadlines [s]."""
        return [self._weak_until_s if self.listened else self._until_s, self._decide_at, self._call_at]

    def wake(self, now: float) -> Heard | None:
        """What time demands; a switch if one is to be joined now."""
        if self._decide_at is not None and now >= self._decide_at:
            self._decide_at = None
            best = self._beacons.best(now, self._settings.join_snr_db, sna=self._sna)
            if best is not None:
                return best
        if not self.listened and now >= self._until_s:
            self.listened = True
            best = self._beacons.best(now, self._settings.join_snr_db, sna=self._sna)
            if best is not None:
                return best
            self._call_at = now + self._draw.uniform(0.0, self._call_period_s)
        if now >= self._weak_until_s:
            self._weak_until_s = now + self._settings.weak_search_s
            best = self._beacons.best(now, float("-inf"), sna=self._sna)
            if best is not None:
                return best
        if self._call_at is not None and now >= self._call_at:
            self._call(now)
        return None

    def _call(self, now: float) -> None:
        """Nobody usable is heard: call for a switch, at random instants, less often while nobody answers."""
        period_s = self._call_period_s
        spread_s = period_s / self._settings.promotions_max
        self._call_at = now + spread_s * self._draw.uniform(0.5, 1.5)
        limit_s = self._settings.promotion_period_s * self._settings.promotion_backoff_max
        self._call_period_s = min(limit_s, period_s * 1.15)
        self._transmitter.call(PromotionNeeded(self._sna or SNA_ANY, self._eui48).encode(), now)
