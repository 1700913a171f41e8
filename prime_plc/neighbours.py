"""A service node and its neighbours tell each other by PRM how well they hear (`robustness.py` says when)."""

from __future__ import annotations

from typing import Final

from prime_plc.channel import PRIORITY_CONTROL, Keep
from prime_plc.control import ControlType, Prm
from prime_plc.custody import sign
from prime_plc.links import PARENT, quality_index
from prime_plc.modem_host import FrameReceived
from prime_plc.pdu import Packet, glance
from prime_plc.robustness import RobustnessWatch
from prime_plc.settings import MacSettings
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink

DEAF_INDEX_MAX: Final = 2
"""SNR index at which the switch above says that it hears us, up to which another one is looked for; 2 is below 6 dB."""


class Neighbours:
    """Part of a service node: its parent, and as a switch its children."""

    def __init__(self, settings: MacSettings, transmitter: Transmitter, uplink: Uplink, switching: Switching) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._uplink = uplink
        self._switching = switching
        self._watch = RobustnessWatch(settings, transmitter.links)

    def clear(self) -> None:
        """Forget all of them."""
        self._watch.clear()

    def left_parent(self) -> None:
        """The switch above is another one."""
        self._watch.forget(PARENT)

    def received(self, key: int, item: FrameReceived, now: float) -> None:
        """A frame of a neighbour for us: tell it when its modulation does not fit."""
        index = self._watch.observe(key, item.scheme, item.snr_db, now, control=glance(item.pdu).control >= 0)
        if index is None:
            return
        self._tell(key, Prm(False, False, index), now)

    def has_it(self, key: int, snr_db: float, packets: list[Packet], now: float) -> None:
        """A neighbour repeats what we have passed on already: say so, and of what."""
        signs = tuple(sign(packet.encode()) for packet in packets) if self._settings.hop_signs else ()
        self._tell(key, Prm(True, False, quality_index(snr_db), signs), now)

    def _tell(self, key: int, prm: Prm, now: float) -> None:
        if key == PARENT:
            self._uplink.control(ControlType.PRM, prm.encode(), now, keep=Keep.NO)
        else:
            self._tell_child(key, prm, now)

    def told_by_parent(self, prm: Prm, now: float) -> bool:
        """The switch above says how it hears us; whether that is too badly to stay."""
        if prm.response:
            self._watch.answered(PARENT)
            self._transmitter.taken(PARENT, prm.signs, now)
            return False
        known = self._transmitter.links.told(PARENT, prm.snr, now)
        self._uplink.control(ControlType.PRM, Prm(True, not known, prm.snr).encode(), now, keep=Keep.NO)
        return prm.snr <= DEAF_INDEX_MAX

    def told_by_child(self, packet: Packet, now: float) -> None:
        """A child says how it hears us.

        Raises:
            DecodeError: it says nothing that makes sense.
        """
        prm = Prm.decode(packet.payload)
        if prm.response:
            self._watch.answered(packet.lnid)
            self._transmitter.taken(packet.lnid, prm.signs, now)
            return
        known = self._transmitter.links.told(packet.lnid, prm.snr, now)
        self._tell_child(packet.lnid, Prm(True, not known, prm.snr), now)

    def _tell_child(self, lnid: int, prm: Prm, now: float) -> None:
        assert self._switching.lsid is not None
        lsid, level = self._switching.lsid, self._switching.level
        packet = Packet(False, PRIORITY_CONTROL, True, ControlType.PRM, lsid, lnid, prm.encode())
        self._transmitter.send([packet], lnid, now, downlink=True, level=level, keep=Keep.NO)
