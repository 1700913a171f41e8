"""The base's own beacons, once a frame, and the number of beacon slots that they announce."""

from __future__ import annotations

from typing import Final

from prime_plc.channel import PRIORITY_CONTROL
from prime_plc.control import ControlType, Fra
from prime_plc.modem_host import TransmitFrame
from prime_plc.modem_messages import BUFFER_BEACON
from prime_plc.pdu import LNID_BROADCAST, SID_BASE, Beacon, Packet
from prime_plc.phy import Scheme
from prime_plc.settings import FRAME_S, SUPERFRAME_FRAMES, MacSettings
from prime_plc.transmitter import Transmitter

LEVEL: Final = 0
FIRST_BEACON_S: Final = 0.3
"""[s] From a ready modem to the first beacon."""


class Beaconing:
    """Part of a base node.

    Attributes:
        sent: beacons so far.
        slot_s: when the next one starts [s].
        count: beacon slots in a frame.
    """

    def __init__(self, settings: MacSettings, transmitter: Transmitter, sna: bytes) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._sna = sna
        self._seq = 0
        self._next_count = (0.0, 1)
        self.slot_s = 0.0
        self.count = 1
        self.sent = 0

    @property
    def wake_at(self) -> float:
        """When the next beacon is to be handed over [s]."""
        return self.slot_s - self._settings.beacon_lead_s

    def begin(self, now: float) -> None:
        """The modem is ready."""
        self.slot_s = now + FIRST_BEACON_S
        self._transmitter.clock.beacon(self.slot_s, 0, self.count, 0, self._seq)

    def beacon(self, now: float) -> TransmitFrame:
        """The next beacon."""
        while self.slot_s <= now:  # a host that stood still skips slots, it does not send them late
            self.slot_s += FRAME_S
            self._seq = (self._seq + 1) % SUPERFRAME_FRAMES
        if self._next_count[1] != self.count and self.slot_s >= self._next_count[0]:
            self.count = self._next_count[1]
        beacon = Beacon(7, SID_BASE, self.count, 0, 0, LEVEL, self._seq, 0, self._sna, 0, 0)
        slot_s = self.slot_s
        self._transmitter.clock.beacon(slot_s, 0, self.count, 0, self._seq)
        self._seq = (self._seq + 1) % SUPERFRAME_FRAMES
        self.slot_s = slot_s + FRAME_S
        self.sent += 1
        return TransmitFrame(beacon.encode(), Scheme.DBPSK_C, slot_s, BUFFER_BEACON, exclusive=True)

    def lengthen(self, count: int, now: float) -> Packet | None:
        """What announces a frame with more beacon slots (FRA), None if there are enough; fewer are never needed soon
        enough to be worth it."""
        if count <= max(self.count, self._next_count[1]):
            return None
        ahead = self._settings.frame_change_frames
        seq = (self._seq + ahead) % SUPERFRAME_FRAMES
        self._next_count = (self.slot_s + (ahead - 0.5) * FRAME_S, count)
        self._transmitter.clock.announce(seq, count, None, now)
        fra = Fra(0, 0, seq, count)
        return Packet(False, PRIORITY_CONTROL, True, ControlType.FRA, SID_BASE, LNID_BROADCAST, fra.encode())
