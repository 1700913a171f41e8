"""Reads the frames on the line as a bystander would: decodes, names, and tells which meter they concern."""

from __future__ import annotations

from hil_tests.observation import WireFrame
from prime_plc.control import Control, ControlType, Reg, decode_control
from prime_plc.lpdu import Lpdu
from prime_plc.pdu import HT_BEACON, GenericPdu, Packet, decode_pdu
from prime_plc.subheader import ArqHeader, SarHeader, SarType
from shared.cosem import Pushed, Written, decode_apdu
from shared.errors import HeadroomError
from shared.ids import Eui48
from shared.messages import Downward, Upward


class WireReader:
    """Decodes what crosses one line; learns the nodes' addresses from their registrations."""

    def __init__(self, sna: Eui48, clients: dict[Eui48, str]) -> None:
        self._sna = sna
        self._clients = clients
        self._nodes: dict[tuple[int, int], str] = {}

    def read(self, start_s: float, duration_s: float, sender: str, pdu: bytes, delivered: bool) -> WireFrame:
        """One frame in words."""
        client, kind, message = self._interpret(pdu)
        return WireFrame(start_s, start_s + duration_s, sender, client, kind, delivered, message)

    def _interpret(self, pdu: bytes) -> tuple[str, str, Upward | Downward | None]:
        if pdu[0] >> 4 == HT_BEACON:
            return "", "beacon", None
        try:
            decoded = decode_pdu(pdu, self._sna)
            if not isinstance(decoded, GenericPdu):
                return "", "promotion needed", None
            packet = decoded.packets[0]
            if packet.control:
                return self._control(packet, decoded.downlink)
            return self._data(packet)
        except HeadroomError:
            return "", "unreadable", None

    def _control(self, packet: Packet, downlink: bool) -> tuple[str, str, None]:
        control: Control = decode_control(packet.lcid, packet.payload)
        if isinstance(control, Reg):
            client = self._clients.get(Eui48(control.eui48), "")
            if downlink and not control.negative:
                self._nodes[packet.sid, packet.lnid] = client
            return client, ControlType(packet.lcid).name, None
        return self._nodes.get((packet.sid, packet.lnid), ""), ControlType(packet.lcid).name, None

    def _data(self, packet: Packet) -> tuple[str, str, Upward | Downward | None]:
        client = self._nodes.get((packet.sid, packet.lnid), "")
        _, used = ArqHeader.decode(packet.payload)
        rest = packet.payload[used:]
        if not rest:
            return client, "acknowledgement", None
        sar = SarHeader.decode(rest[:1])
        if sar.type is not SarType.FIRST or sar.value != 0:
            return client, "segment", None
        apdu = decode_apdu(Lpdu.decode(rest[1:]).data)
        if isinstance(apdu, Pushed | Written):
            return client, type(apdu.message).__name__.lower(), apdu.message
        return client, type(apdu).__name__, None
