"""Beacons heard, and the choice of a switch to register through.

Used while searching, and while registered as the list of alternatives for the day the switch falls silent. A beacon is
kept as bytes and decoded only when a choice is to be made: most are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from prime_plc.crc import crc32
from prime_plc.frame_clock import leaves_contention
from prime_plc.links import HOP_COST, Links
from prime_plc.modem_host import FrameReceived
from prime_plc.pdu import BEACON_BYTES, Beacon, decode_pdu
from prime_plc.settings import SLOT_SYMBOLS_MAX, MacSettings

HEARD_MAX: Final = 64
"""Switches remembered."""

SMOOTHING: Final = 0.25
REFUSALS_MAX: Final = 16
"""Requests to move that are counted; the time between them has reached its end by then."""

Key = tuple[bytes, int]
"""Subnetwork address and switch number."""


@dataclass(slots=True)
class Heard:
    """A switch or base whose beacon came in.

    Attributes:
        start_s: when its last precisely timed beacon began [s].
        avoid_until_s: not to be chosen before [s].
        refusals: requests to move to it, one after the other, that came to nothing.
        move_at_s: not to be moved to before, while there is a way [s].
        ear_db: how well it hears us, as it has said [dB]; that counts
        ear_until_s: until then [s].
    """

    pdu: bytes
    snr_db: float
    start_s: float
    last_s: float
    count: int
    avoid_until_s: float = 0.0
    refusals: int = 0
    move_at_s: float = 0.0
    ear_db: float = 0.0
    ear_until_s: float = -math.inf

    @property
    def reachable(self) -> bool:
        """Whether it has a way to the base, as far as it says."""
        return bool(self.pdu[0] & 7)

    @property
    def beacon(self) -> Beacon:
        """The last beacon."""
        beacon = decode_pdu(self.pdu, None)
        assert isinstance(beacon, Beacon), self.pdu
        return beacon


@lru_cache(maxsize=256)
def is_good_beacon(pdu: bytes, slot_symbols: int) -> bool:
    """Whether these bytes are an undamaged beacon of a frame that we can live in, its slots being so long; remembered,
    as many nodes of one process hear the same one."""
    whole = len(pdu) == BEACON_BYTES and crc32(pdu[:14]) == int.from_bytes(pdu[14:], "big")
    if not whole or pdu[0] & 0xC8 or pdu[4] & 0xC0:
        return False
    return leaves_contention(pdu[2] >> 5, (pdu[2] & 3) << 8 | pdu[3], slot_symbols)


class BeaconsHeard:
    """Switches around one node."""

    def __init__(self, settings: MacSettings, links: Links, slot_symbols: int = SLOT_SYMBOLS_MAX) -> None:
        self._settings = settings
        self._links = links
        self._slot_symbols = slot_symbols
        self._heard: dict[Key, Heard] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def items(self) -> list[Heard]:
        """All of them."""
        return list(self._heard.values())

    def clear(self) -> None:
        """Forget all."""
        self._heard.clear()

    def hear(self, item: FrameReceived, now: float) -> Heard | None:
        """A beacon came in; None if it is damaged."""
        pdu = item.pdu
        if not is_good_beacon(pdu, self._slot_symbols):
            return None
        key = (pdu[6:12], pdu[1])
        heard = self._heard.get(key)
        if heard is None:
            if len(self._heard) >= HEARD_MAX:
                del self._heard[min(self._heard, key=lambda one: self._heard[one].last_s)]
            heard = self._heard[key] = Heard(pdu, item.snr_db, item.start_s, now, 1)
            return heard
        heard.pdu = pdu
        heard.snr_db += SMOOTHING * (item.snr_db - heard.snr_db)
        heard.start_s = item.start_s
        heard.last_s = now
        heard.count += 1
        return heard

    def avoid(self, sna: bytes, sid: int, until_s: float) -> None:
        """Do not choose this one for a while."""
        heard = self._heard.get((sna, sid))
        if heard is not None:
            heard.avoid_until_s = until_s

    def not_moved(self, sna: bytes, sid: int, now: float) -> None:
        """A request to move to this one came to nothing. Who has a way leaves it in peace, each time twice as long, so
        that the next best one is tried."""
        heard = self._heard.get((sna, sid))
        if heard is None:
            return
        forgotten = now > heard.move_at_s + self._settings.ear_memory_s
        heard.refusals = 1 if forgotten else min(REFUSALS_MAX, heard.refusals + 1)
        heard.avoid_until_s = now + self._settings.avoid_s
        heard.move_at_s = now + min(self._settings.ear_memory_s, self._settings.avoid_s * 2**heard.refusals)

    def ear(self, sna: bytes, sid: int, snr_db: float, until_s: float) -> None:
        """It says how well it hears us; if that is badly, it is chosen only for want of a better one."""
        heard = self._heard.get((sna, sid))
        if heard is not None:
            heard.ear_db = snr_db
            heard.ear_until_s = until_s

    def other_ear(self, now: float, sna: bytes, except_sids: Collection[int], level_max: int) -> Heard | None:
        """The best other one of a subnetwork heard well, not too deep, that has not said that it hears us badly."""
        return self._hearing(now, self._settings.join_snr_db, sna, except_sids, level_max)

    def stronger(self, now: float, sna: bytes, except_sids: Collection[int], level_max: int) -> Heard | None:
        """The same, clearly above what is joined."""
        return self._hearing(now, self._settings.join_snr_db + self._settings.stronger_db, sna, except_sids, level_max)

    def bearable(self, now: float, sna: bytes, except_sids: Collection[int], level_max: int) -> Heard | None:
        """The same, heard well enough to be no worse than one that hardly works."""
        return self._hearing(now, self._settings.weak_snr_db, sna, except_sids, level_max)

    def shorter(
        self, now: float, sna: bytes, except_sids: Collection[int], level_max: int, cost_max: float
    ) -> Heard | None:
        """The best one with a way that costs so much at most, even if it hears us worse than we hear it; no deeper than
        that."""
        other = self._hearing(now, self._settings.join_snr_db, sna, except_sids, level_max)
        if other is None or other.beacon.quality < self._settings.promotion_quality_min:
            return None
        ear_db = other.ear_db if now < other.ear_until_s else other.snr_db - self._settings.asymmetry_db
        return other if ear_db >= self._settings.weak_ear_db and self.cost(other)[0] <= cost_max else None

    def _hearing(
        self, now: float, snr_db_min: float, sna: bytes, except_sids: Collection[int], level_max: int
    ) -> Heard | None:
        usable = self._usable(now, snr_db_min, except_sids, sna)
        hearing = [
            one for one in usable if not self._deaf(one, now) and one.move_at_s <= now and one.beacon.level <= level_max
        ]
        return min(hearing, key=self.cost, default=None)

    def _deaf(self, heard: Heard, now: float) -> bool:
        return now < heard.ear_until_s and heard.ear_db < self._settings.weak_ear_db

    def forget(self, sna: bytes, sid: int) -> None:
        """It has fallen silent."""
        self._heard.pop((sna, sid), None)

    def best(
        self, now: float, snr_db_min: float, except_sids: Collection[int] = (), sna: bytes | None = None
    ) -> Heard | None:
        """The best one heard lately and well enough, other than some; of one subnetwork, or of any."""
        return min(self._usable(now, snr_db_min, except_sids, sna), key=self.cost, default=None)

    def _usable(self, now: float, snr_db_min: float, except_sids: Collection[int], sna: bytes | None) -> list[Heard]:
        oldest_s = now - self._settings.beacon_age_s_max
        return [
            one
            for one in self._heard.values()
            if one.last_s >= oldest_s
            and one.avoid_until_s <= now
            and one.snr_db >= snr_db_min
            and one.pdu[1] not in except_sids
            and sna in {None, one.pdu[6:12]}
            and one.reachable
        ]

    def cost(self, heard: Heard) -> tuple[float, int, float]:
        """Lowest path cost, then quality, then signal; a weak signal is worse than any cost."""
        beacon = heard.beacon
        known = heard.last_s < heard.ear_until_s
        ear_db = heard.ear_db if known else heard.snr_db - self._settings.asymmetry_db / 2
        weak = heard.snr_db < self._settings.join_snr_db or (known and ear_db < self._settings.weak_ear_db)
        path = beacon.up_cost + beacon.down_cost + 2 * self._settings.hop_penalty * beacon.level
        hop = HOP_COST[self._links.allowed(heard.snr_db)] + HOP_COST[self._links.allowed(ear_db)]
        return (1000.0 if weak else 0.0) + path + hop, -beacon.quality, -heard.snr_db
