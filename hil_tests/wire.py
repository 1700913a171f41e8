"""Reads the frames on the line as a bystander would: decodes, names, and tells which meter they concern."""

from __future__ import annotations

from dcu.keys import KeyRing
from hil_tests.enrolment import Eavesdropper
from hil_tests.observation import WireFrame
from prime_plc.control import Control, ControlType, Reg, decode_control
from prime_plc.lpdu import Lpdu
from prime_plc.pdu import HT_BEACON, LNID_MULTICAST, GenericPdu, Packet, decode_pdu
from prime_plc.subheader import ArqHeader, SarHeader, SarType
from shared.cosem import Pushed, Written, decode_apdu
from shared.errors import HeadroomError
from shared.ids import Eui48
from shared.messages import Downward, Upward

_Told = tuple[str, str, Upward | Downward | None]
"""Which meter it concerns, what kind it is, and the message in it."""


class WireReader:
    """Decodes what crosses one line; learns the nodes' addresses from their registrations."""

    def __init__(self, sna: Eui48, clients: dict[Eui48, str], ring: KeyRing) -> None:
        self._sna = sna
        self._clients = clients
        self.keys = Eavesdropper(ring)
        self._nodes: dict[tuple[int, int], str] = {}
        self._pieces: dict[tuple[str, bool], dict[int, bytes]] = {}

    def read(self, start_s: float, duration_s: float, sender: str, pdu: bytes, delivered: bool) -> list[WireFrame]:
        """One frame in words: once for each of its packets."""
        return [
            WireFrame(start_s, start_s + duration_s, sender, client, kind, delivered, message)
            for client, kind, message in self._interpret(pdu)
        ]

    def _interpret(self, pdu: bytes) -> list[_Told]:
        if pdu[0] >> 4 == HT_BEACON:
            return [("", "beacon", None)]
        try:
            decoded = decode_pdu(pdu, self._sna)
        except HeadroomError:
            return [("", "unreadable", None)]
        if not isinstance(decoded, GenericPdu):
            return [("", "promotion needed", None)]
        return [self._packet(packet, decoded.downlink) for packet in decoded.packets]

    def _packet(self, packet: Packet, downlink: bool) -> _Told:
        try:
            return self._control(packet, downlink) if packet.control else self._data(packet, downlink)
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

    def _data(self, packet: Packet, down: bool) -> tuple[str, str, Upward | Downward | None]:
        client = self._nodes.get((packet.sid, packet.lnid), "")
        if packet.lnid >= LNID_MULTICAST:
            return self._to_all(packet.payload)
        _, used = ArqHeader.decode(packet.payload)
        rest = packet.payload[used:]
        if not rest:
            return client, "acknowledgement", None
        sdu = self._assembled(client, down, SarHeader.decode(rest[:1]), rest[1:])
        if sdu is None:
            return client, "segment", None
        plain = self.keys.open(client, down, Lpdu.decode(sdu).data)
        if plain is None:
            return client, "protected", None
        apdu = decode_apdu(plain)
        if isinstance(apdu, Pushed | Written):
            return client, type(apdu.message).__name__.lower(), apdu.message
        return client, type(apdu).__name__.lower(), None

    def _to_all(self, payload: bytes) -> tuple[str, str, Upward | Downward | None]:
        """A broadcast has no ARQ and concerns no single client."""
        plain = self.keys.open_to_all(Lpdu.decode(payload[1:]).data)
        apdu = None if plain is None else decode_apdu(plain)
        if not isinstance(apdu, Written):
            return "", "broadcast", None
        return "", f"{type(apdu.message).__name__.lower()} for all", apdu.message

    def _assembled(self, client: str, down: bool, header: SarHeader, part: bytes) -> bytes | None:
        """The whole of which this was the last missing piece; a new first piece begins a new whole."""
        pieces = self._pieces.setdefault((client, down), {})
        if header.type is SarType.FIRST:
            pieces.clear()
            pieces[-1] = bytes(header.value + 1)
        pieces[0 if header.type is SarType.FIRST else header.value] = part
        if -1 not in pieces or len(pieces) <= len(pieces[-1]):
            return None
        return b"".join(pieces[number] for number in sorted(pieces) if number >= 0)
