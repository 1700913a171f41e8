"""The switch above, as a node of the network sees it: its beacons, the clock they set, patience with its silence."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from prime_plc.links import PARENT
from prime_plc.modem_host import FrameReceived
from prime_plc.pdu import Beacon
from prime_plc.search import Heard
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.switching import QUALITY_LOST, Switching
from prime_plc.transmitter import Transmitter

SILENT_CHANCE: Final = 1e-6
UNEASY_CHANCE: Final = 1e-4
"""That so many beacons are missed in a row by chance: then the switch is gone, or another one is better (ours)."""

MISSED_MEMORY: Final = 16
"""Beacons over which the share missed is reckoned."""

MISSED_FIRST: Final = 0.2
MISSED_MIN: Final = 0.05
MISSED_MAX: Final = 0.6


class Following:
    """Part of a service node, at work while it has a parent.

    Attributes:
        parent: the newest beacon of the switch above, None without one.
        by_s: when its silence has lasted too long [s].
        since_s: when it was chosen, or another one was tried in vain [s].
        doubted_s: since when it says that it has no way to the base [s]; None if it does not.
        calls: for a better one, before offering ourselves as a switch, since it was chosen.
    """

    def __init__(self, settings: MacSettings, transmitter: Transmitter, switching: Switching) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._switching = switching
        self._missed = MISSED_FIRST
        self._stay_s = settings.weak_stay_s
        self._begun_s = -math.inf
        self.end()

    def end(self) -> None:
        """No parent any more."""
        self.parent: Beacon | None = None
        self.by_s = 0.0
        self.doubted_s: float | None = None
        self.since_s = 0.0
        self.calls = 0
        self._beacon_s = 0.0
        self._silence_s = 0.0
        self._silent_s = 0.0
        self._uneasy_s = math.inf

    def begin(self, chosen: Heard, beacon: Beacon, now: float) -> None:
        """This one is followed from now on."""
        self._transmitter.links.heard(PARENT, chosen.snr_db, now)
        # Who moves keeps the frame until a beacon is timed: the slots of others are near.
        clock = self._transmitter.clock
        moves = self.parent is not None or self._switching.slot is not None
        follow = clock.rough_beacon if moves else clock.beacon
        follow(chosen.start_s, beacon.position, beacon.count, beacon.cfp, beacon.seq)
        self._switching.plan(now)
        settings = self._settings
        often = now - self._begun_s < settings.weak_stay_s_max
        self._stay_s = min(settings.weak_stay_s_max, 2 * self._stay_s) if often else settings.weak_stay_s
        self._begun_s = self.since_s = self._beacon_s = now
        self.calls = 0
        self._expect(beacon, now)

    def beacon(self, item: FrameReceived, beacon: Beacon, now: float) -> None:
        """Its next beacon."""
        follow = self._transmitter.clock.beacon if item.precise else self._transmitter.clock.rough_beacon
        follow(item.start_s, beacon.position, beacon.count, beacon.cfp, beacon.seq)
        self._transmitter.links.heard(PARENT, item.snr_db, now)
        self._expect(beacon, now)
        self._switching.plan(now)

    def heard(self, snr_db: float, now: float) -> None:
        """Any other frame of it, which ends its silence as well."""
        self._transmitter.links.heard(PARENT, snr_db, now)
        self._lives(now)

    def _expect(self, beacon: Beacon, now: float) -> None:
        self.parent = beacon
        period_s = FRAME_S * 2**beacon.frequency
        self._count((now - self._beacon_s) / period_s)
        self._beacon_s = now
        settings = self._settings
        silence_s = (max(settings.missed_beacons_max, _row(SILENT_CHANCE, self._missed)) + 0.5) * period_s
        self._silence_s = max(settings.switch_silence_s_min, silence_s)
        uneasy_s = (_row(UNEASY_CHANCE, self._missed) + 0.5) * period_s
        self._uneasy_s = now + max(settings.switch_silence_s_min / 2, uneasy_s)
        if beacon.quality != QUALITY_LOST:
            self.doubted_s = None
        elif self.doubted_s is None:
            self.doubted_s = now
        self._lives(now)

    def silent(self, now: float) -> bool:
        """Whether it has not been heard for so long that it must be gone."""
        return now >= self._silent_s

    def weak(self, now: float) -> bool:
        """Whether its signal here, or ours there, is hardly enough, and has had some time to become better, or another
        one was called for and none tried in vain."""
        terminal = self._switching.lsid is None
        called = terminal and self.calls > 0 and self.since_s <= self._begun_s
        if now - self.since_s <= self._stay_s and not called:
            return False
        settings = self._settings
        return self._below(settings.weak_snr_db, settings.weak_ear_db, now) if terminal else self.hardly(now)

    def poor(self, now: float) -> bool:
        """Whether no tree should hang on it, though it may do for a terminal."""
        return self._below(self._settings.join_snr_db, self._settings.trunk_ear_db, now)

    def hardly(self, now: float) -> bool:
        """Whether it is so weak that a longer way is better."""
        return self._below(self._settings.tree_weak_db, self._settings.tree_weak_db, now)

    def _below(self, least_db: float, least_ear_db: float, now: float) -> bool:
        link = self._transmitter.links.get(PARENT)
        if link is None:
            return False
        return link.snr_db < least_db or (now < link.told_until_s and link.told_db < least_ear_db)

    def wait(self, now: float) -> None:
        """Give it some more time, for want of another one."""
        self._uneasy_s = math.inf
        if self.doubted_s is not None:
            self.doubted_s = now
        self._plan()

    def _count(self, periods: float) -> None:
        """A beacon has come so many periods after the last one."""
        expected = max(1, round(periods))
        weight = min(1.0, expected / MISSED_MEMORY)
        self._missed += weight * ((expected - 1) / expected - self._missed)
        self._missed = min(MISSED_MAX, max(MISSED_MIN, self._missed))

    def _lives(self, now: float) -> None:
        patience = self._settings.switch_patience if self._switching.lsid is not None else 1.0
        self._silent_s = now + self._silence_s * patience
        self._plan()

    def _plan(self) -> None:
        self.by_s = min(self._silent_s, self._uneasy_s)
        if self.doubted_s is not None:
            self.by_s = min(self.by_s, self.doubted_s + self._settings.switch_doubt_s)


@lru_cache(maxsize=1024)
def _row(chance: float, missed: float) -> int:
    """Beacons missed in a row that a link that misses such a share has with this chance only."""
    return math.ceil(math.log(chance) / math.log(missed))
