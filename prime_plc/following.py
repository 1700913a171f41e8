"""The switch above, as a node of the network sees it: its beacons, the clock they set, patience with its silence."""

from __future__ import annotations

from prime_plc.links import PARENT
from prime_plc.modem_host import FrameReceived
from prime_plc.pdu import Beacon
from prime_plc.search import Heard
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter


class Following:
    """Part of a service node, at work while it has a parent.

    Attributes:
        parent: the newest beacon of the switch above, None without one.
        by_s: when its silence has lasted too long [s].
    """

    def __init__(self, settings: MacSettings, transmitter: Transmitter, switching: Switching) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._switching = switching
        self.end()

    def end(self) -> None:
        """No parent any more."""
        self.parent: Beacon | None = None
        self.by_s = 0.0
        self._silence_s = 0.0

    def begin(self, chosen: Heard, beacon: Beacon, now: float) -> None:
        """This one is followed from now on."""
        self._transmitter.links.heard(PARENT, chosen.snr_db, now)
        self._transmitter.clock.beacon(chosen.start_s, beacon.position, beacon.count, beacon.cfp, beacon.seq)
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
        silence_s = (self._settings.missed_beacons_max + 0.5) * period_s
        self._silence_s = max(self._settings.switch_silence_s_min, silence_s)
        self._lives(now)

    def _lives(self, now: float) -> None:
        patience = self._settings.switch_patience if self._switching.lsid is not None else 1.0
        self.by_s = now + self._silence_s * patience
