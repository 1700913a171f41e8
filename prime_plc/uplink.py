"""A service node's place in the network and the way from there to the base: everything it says to its parent."""

from __future__ import annotations

from prime_plc.channel import PRIORITY_CONTROL, PRIORITY_DATA, Keep
from prime_plc.control import ControlType
from prime_plc.links import PARENT
from prime_plc.llc import LlcLink
from prime_plc.pdu import LNID_BROADCAST, SID_NONE, Beacon, GenericPdu, Packet
from prime_plc.sap import MacOutput
from prime_plc.settings import MacSettings
from prime_plc.transmitter import Transmitter


class Uplink:
    """Part of a service node; what it is given goes into the channel's queue.

    Attributes:
        sna: subnetwork, empty while there is none.
        sid, level: the switch above: its number and its level.
        lnid: our number there.
        aggregates: whether the base has confirmed packet aggregation (CAP_PA) at registration.
        sent: packets by kind.
    """

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = ("_settings", "_transmitter", "aggregates", "level", "lnid", "sent", "sid", "sna")

    def __init__(self, settings: MacSettings, transmitter: Transmitter) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self.sent = {"data": 0, "control": 0}
        self.leave()

    def leave(self) -> None:
        """No network any more."""
        self.sna = b""
        self.sid = SID_NONE
        self.level = 0
        self.lnid = LNID_BROADCAST
        self.aggregates = False

    def join(self, beacon: Beacon) -> None:
        """The network and the switch of this beacon; our number comes with the registration."""
        self.sna, self.sid, self.level = beacon.sna, beacon.sid, beacon.level
        self.aggregates = False
        self._transmitter.channel.sna = beacon.sna

    def shift(self, level: int) -> None:
        """The switch above has this level now."""
        self._transmitter.shift(level - self.level)
        self.level = level

    def move(self, beacon: Beacon, lnid: int) -> None:
        """Another switch of the network, and our number there; what waits for the old one goes to it."""
        self._transmitter.shift(beacon.level - self.level, (self.sid, self.lnid))
        self.join(beacon)
        self.lnid = lnid

    def control(self, ctype: ControlType, payload: bytes, now: float, keep: Keep | None = None) -> None:
        """Queue a control packet."""
        self.sent["control"] += 1
        nad = self._nad
        packet = Packet(nad, PRIORITY_CONTROL, True, ctype, self.sid, self.lnid, payload)
        self._send(packet, now, keep, alone=nad)

    def through(self, beacon: Beacon, ctype: ControlType, payload: bytes, now: float) -> None:
        """Queue a control packet to a switch that is not ours, from a node without a number there."""
        self.sent["control"] += 1
        packet = Packet(True, PRIORITY_CONTROL, True, ctype, beacon.sid, LNID_BROADCAST, payload)
        self._transmitter.send([packet], None, now, downlink=False, level=beacon.level, keep=Keep.NO)

    def controls(self, payloads: list[tuple[ControlType, bytes]], now: float) -> None:
        """Queue several control packets that leave in one PDU."""
        self.sent["control"] += len(payloads)
        nad = self._nad
        packets = [Packet(nad, PRIORITY_CONTROL, True, ctype, self.sid, self.lnid, body) for ctype, body in payloads]
        keep = Keep.LAST if self.level == 0 else Keep.ONWARD
        self._transmitter.send(packets, PARENT, now, downlink=False, level=self.level, keep=keep, alone=nad)

    def goodbye(self, payload: bytes) -> bytes:
        """A last REG as a whole PDU, to be sent when the network is forgotten already."""
        packet = Packet(True, PRIORITY_CONTROL, True, ControlType.REG, self.sid, self.lnid, payload)
        return GenericPdu(downlink=False, level=self.level, packets=(packet,)).encode(self.sna)

    def feed(self, llc: LlcLink, now: float) -> list[MacOutput]:
        """Hand data to the channel as long as it has room."""
        connection = llc.connection
        outputs: list[MacOutput] = []
        if connection is None or connection.idle:
            return outputs
        while self._transmitter.room and connection is not None:
            payloads, more = llc.packets(now, self._settings.data_ahead)
            outputs += more
            for payload in payloads:
                self.sent["data"] += 1
                packet = Packet(self._nad, PRIORITY_DATA, False, llc.lcid, self.sid, self.lnid, payload)
                self._send(packet, now, None, asks=connection.asks and payload is payloads[-1])
            if not payloads:
                break
        return outputs

    @property
    def _nad(self) -> bool:
        """Whether switches are forbidden to join a packet of ours with others."""
        return not (self.aggregates and self._settings.uplink_aggregation)

    def _send(self, packet: Packet, now: float, keep: Keep | None, *, asks: bool = False, alone: bool = False) -> None:
        if keep is None:
            keep = Keep.LAST if self.level == 0 else Keep.ONWARD
        self._transmitter.send(
            [packet], PARENT, now, downlink=False, level=self.level, keep=keep, asks=asks, alone=alone
        )
