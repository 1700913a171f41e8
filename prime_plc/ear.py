"""What a node of the network makes of a frame that it hears: most concern somebody else and are dropped undecoded."""

from __future__ import annotations

from enum import Enum

from prime_plc.calls import CallsHeard
from prime_plc.control import ControlType
from prime_plc.enrolment import Enrolment
from prime_plc.following import Following
from prime_plc.links import PARENT
from prime_plc.modem_host import FrameReceived
from prime_plc.neighbours import Neighbours
from prime_plc.pdu import LNID_MULTICAST, SNA_ANY, GenericPdu, Glance, Packet, Pdu, PromotionNeeded, decode_pdu, glance
from prime_plc.search import BeaconsHeard, Heard
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink
from shared.errors import DecodeError


class Whence(Enum):
    """What a generic PDU is to a node of the network, by its direction and level."""

    ABOVE = "from the switch above"
    BELOW = "from below"
    ONWARD = "passed on by a next hop, while something waits for that"
    ELSEWHERE = "between others"


class Ear:
    """Part of a service node: link quality, relaying, custody and calls; what is for the node itself it hands back.

    Attributes:
        undecodable: frames and packets that made no sense.
        other_version: frames of the other version of PRIME.
    """

    def __init__(
        self, transmitter: Transmitter, uplink: Uplink, switching: Switching, beacons: BeaconsHeard, calls: CallsHeard
    ) -> None:
        self._transmitter = transmitter
        self._uplink = uplink
        self._switching = switching
        self._beacons = beacons
        self._calls = calls
        self.undecodable = 0
        self.other_version = 0

    def whence(self, data: bytes) -> Whence:
        """What a generic PDU is to us by its direction and level."""
        level, own = data[1] & 0x3F, self._uplink.level
        if data[1] & 0x40:
            if level == own:
                return Whence.ABOVE
            onward = own + 2
        else:
            if self._switching.is_from_below(level):
                return Whence.BELOW
            onward = own - 1
        return Whence.ONWARD if level == onward and len(self._transmitter.custody) else Whence.ELSEWHERE

    def beacon(self, item: FrameReceived, now: float) -> Heard | None:
        """Any beacon; None if it is damaged."""
        heard = self._beacons.hear(item, now)
        if heard is None:
            self.undecodable += 1
        elif heard.count == 1:
            self._calls.hush(now)  # a new switch: who called may be served now
        return heard

    def call(self, data: bytes) -> PromotionNeeded | None:
        """A call for a switch that we may answer."""
        pdu = self._decode(data)
        return pdu if isinstance(pdu, PromotionNeeded) and pdu.sna in {SNA_ANY, self._uplink.sna} else None

    def answer(self, data: bytes, enrolment: Enrolment) -> Packet | None:
        """The answer from where we want to move to, None if this is something else."""
        if not enrolment.awaits(data):
            return None
        pdu = self._decode(data)
        packets = pdu.packets if isinstance(pdu, GenericPdu) else ()
        return next((packet for packet in packets if enrolment.is_answer(packet)), None)

    def promotion(self, data: bytes, now: float) -> None:
        """Another terminal asks to become a switch, or is made one."""
        pdu = self._decode(data)
        if isinstance(pdu, GenericPdu) and any(packet.lcid == ControlType.PRO for packet in pdu.packets):
            self._calls.hush(now)

    def concerned_from_above(self, seen: Glance, *, registering: bool) -> bool:
        """Whether a frame with the level of the switch above is worth decoding: for us, for many, or for below."""
        mine = seen.sid == self._uplink.sid and (seen.lnid == self._uplink.lnid or registering)
        return mine or not seen.alone or seen.lnid >= LNID_MULTICAST or self._switching.below(seen.sid)

    def concerned_from_below(self, seen: Glance) -> bool:
        """Whether a frame with our own level as a switch is worth decoding."""
        return self._switching.below(seen.sid) or not seen.alone

    def above(
        self, item: FrameReceived, following: Following, neighbours: Neighbours, now: float, *, registering: bool
    ) -> GenericPdu | None:
        """A frame with the level of the switch above, passed on if it is for somebody below; None if not of ours."""
        if not self.concerned_from_above(glance(item.pdu), registering=registering):
            return None
        pdu = self._decode(item.pdu)
        if not isinstance(pdu, GenericPdu):
            return None
        sid = self._uplink.sid
        if any(packet.sid == sid or self._switching.below(packet.sid) for packet in pdu.packets):
            following.heard(item.snr_db, now)
        answer = self._transmitter.answered(pdu, now)
        self._switching.down(pdu, now)
        if self._switching.again and not answer:  # an answer comes again as we have asked again
            neighbours.has_it(PARENT, item.snr_db, self._switching.again, now)
        return pdu

    def below(self, item: FrameReceived, neighbours: Neighbours, now: float) -> bool:
        """A frame with our own level as a switch, passed on if it is from a child; whether it was of ours."""
        if not self.concerned_from_below(glance(item.pdu)):
            return False
        pdu = self._decode(item.pdu)
        if not isinstance(pdu, GenericPdu):
            return False
        child = self._switching.child(pdu)
        if child is not None:
            self._transmitter.links.heard(child, item.snr_db, now)
            neighbours.received(child, item, now)
        self._transmitter.answered(pdu, now)
        for packet in self._switching.up(pdu, now):
            try:
                neighbours.told_by_child(packet, now)
            except DecodeError:
                self.undecodable += 1
        if self._switching.again and child is not None:
            neighbours.has_it(child, item.snr_db, self._switching.again, now)
        return True

    def passed_on(self, data: bytes, now: float) -> None:
        """A next hop relays something: what we gave it?"""
        pdu = self._decode(data)
        if isinstance(pdu, GenericPdu):
            self._transmitter.overheard(pdu, now)
        elif pdu is None:
            self._transmitter.overheard_damaged(data, now)

    def _decode(self, data: bytes) -> Pdu | None:
        try:
            return decode_pdu(data, self._uplink.sna)
        except DecodeError:
            self.undecodable += 1
            return None
