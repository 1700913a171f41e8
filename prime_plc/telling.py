"""Frames of a capture in words.

The subnetwork address, which seeds the checksums, is learned from the capture's beacons unless it is given; what its
connections carry from its CON packets (`prime_plc.connections_seen`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import Any, Final

from prime_plc.connections_seen import ConnectionsSeen, Reading
from prime_plc.control import ConnectionType, ControlType, decode_control
from prime_plc.lpdu import Lpdu
from prime_plc.modem_host import SENTINEL
from prime_plc.pdu import (
    HT_BEACON,
    LNID_BROADCAST,
    LNID_MULTICAST,
    SID_NONE,
    Beacon,
    GenericPdu,
    Packet,
    PromotionNeeded,
    decode_pdu,
)
from prime_plc.pdu14 import (
    Beacon14,
    Packet14,
    PacketHeader14,
    Pdu14,
    PromotionNeeded14,
    decode_control14,
    decode_pdu14,
)
from prime_plc.phy import PhyMode, frame_duration_s
from prime_plc.subheader import ArqHeader, SarHeader, SarType
from prime_plc.trace import Raw
from shared.cosem import Pushed, Written, decode_apdu
from shared.errors import DecodeError
from shared.ids import format_eui48

SAR_LAST_WITH_CRC: Final = 3
"""The type of segment that 1.3.6 does not have."""

Words = tuple[str, dict[str, Any]]
"""What is told to people, and to machines."""


@dataclass(frozen=True, slots=True)
class Told:
    """One frame in words, or what is wrong with it."""

    raw: Raw
    words: str
    fields: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        known = {"where": self.raw.where, "time": self.raw.time, "way": self.raw.way, "pdu": self.raw.pdu.hex()}
        base = {key: value for key, value in known.items() if value}
        return base | (self.fields if self.fault is None else {"fault": self.fault})


def tell(raws: Iterable[Raw], sna: bytes | None) -> Iterator[Told]:
    """Each frame in words; beacons teach the subnetwork address, also for the frames before them."""
    frames = list(raws)
    teller = Teller(sna)
    if sna is None:
        teller.sna = next((found for raw in frames if (found := _sna_of(raw)) is not None), None)
    for raw in frames:
        if sna is None:
            teller.sna = _sna_of(raw) or teller.sna
        yield teller.tell(raw)


def _sna_of(raw: Raw) -> bytes | None:
    """The subnetwork of a good beacon of either version."""
    if not raw.pdu or raw.pdu[0] >> 4 & 3 != HT_BEACON:
        return None
    try:
        pdu = decode_pdu(raw.pdu, None) if raw.mode is PhyMode.TYPE_A else decode_pdu14(raw.pdu, None)
    except DecodeError:
        return None
    return pdu.sna if isinstance(pdu, Beacon | Beacon14) else None


class Teller:
    """Tells frames in the order in which they were on the line, and keeps in mind what they say of later ones."""

    def __init__(self, sna: bytes | None) -> None:
        self.sna = sna
        self._connections = ConnectionsSeen()

    def tell(self, raw: Raw) -> Told:
        """One frame."""
        if raw.fault is not None:
            return Told(raw, raw.fault, fault=raw.fault)
        old = raw.mode is PhyMode.TYPE_A
        try:
            words, fields = self._pdu(raw.pdu) if old else _words14(decode_pdu14(raw.pdu, self.sna), raw.mode)
        except DecodeError as error:
            return Told(raw, str(error), fault=str(error))
        airtime_ms = 1000 * frame_duration_s(len(raw.pdu), raw.scheme, raw.mode)
        fields |= {"bytes": len(raw.pdu), "scheme": raw.scheme.name, "airtime_ms": round(airtime_ms, 3)}
        if old:  # stock firmware leaves frames of Type B alone
            stock_ms = 1000 * frame_duration_s(len(raw.pdu) + len(SENTINEL), raw.scheme)
            fields |= {"airtime_stock_firmware_ms": round(stock_ms, 3)}
        return Told(raw, f"{words}  [{len(raw.pdu)} bytes, {raw.scheme.name} {airtime_ms:.2f} ms]", fields)

    def _pdu(self, data: bytes) -> Words:
        pdu = decode_pdu(data, self.sna)
        if isinstance(pdu, Beacon):
            name = "base" if pdu.sid == 0 else f"switch {pdu.sid}"
            return f"beacon of {name}: {_listed(pdu)}", {"kind": "beacon", **_plain(pdu)}
        if isinstance(pdu, PromotionNeeded):
            words = f"promotion needed by {format_eui48(pdu.pna)}"
            return words, {"kind": "promotion needed", **_plain(pdu)}
        told = [self._packet(packet, pdu) for packet in pdu.packets]
        way = "down" if pdu.downlink else "up"
        words = f"{way} level {pdu.level}: " + "; ".join(words for words, _ in told)
        fields = {"kind": "generic", "downlink": pdu.downlink, "level": pdu.level}
        return words, fields | {"packets": [one for _, one in told]}

    def _packet(self, packet: Packet, pdu: GenericPdu) -> Words:
        fields: dict[str, Any] = {"sid": packet.sid, "lnid": packet.lnid, "priority": packet.priority}
        node = f"node {packet.sid}/{packet.lnid:#06x}"
        if packet.control:
            control = decode_control(packet.lcid, packet.payload)
            self._connections.note(packet, control, downlink=pdu.downlink)
            name = _control_name(packet, control, downlink=pdu.downlink)
            return f"{name} {node} {_listed(control)}", fields | {"control": name, **_plain(control)}
        node = {LNID_BROADCAST: "to all", LNID_MULTICAST: "to a group"}.get(packet.lnid, node)
        words, content = _data(packet.payload, self._connections.reading(packet))
        return f"data {node} connection {packet.lcid}: {words}", fields | {"connection": packet.lcid, **content}


def _words14(pdu: Pdu14, mode: PhyMode) -> Words:
    """What is established of 1.4; other PDUs are refused by name before."""
    fields: dict[str, Any] = {"prime": "1.4", "frame_type": mode.name}
    if isinstance(pdu, Beacon14):
        name = "base" if pdu.sid == 0 else f"switch {pdu.sid}"
        return f"1.4 beacon of {name}: {_listed(pdu)}", fields | {"kind": "beacon", **_plain(pdu)}
    if isinstance(pdu, PromotionNeeded14):
        words = f"1.4 promotion needed by {format_eui48(pdu.pna)}"
        return words, fields | {"kind": "promotion needed", **_plain(pdu)}
    told = [_packet14(packet, downlink=pdu.downlink) for packet in pdu.packets]
    way = "down" if pdu.downlink else "up"
    words = f"1.4 {way} level {pdu.level}: " + "; ".join(words for words, _ in told)
    fields |= {"kind": "generic", "downlink": pdu.downlink, "level": pdu.level}
    return words, fields | {"packets": [one for _, one in told]}


def _packet14(packet: Packet14, *, downlink: bool) -> Words:
    header = packet.header
    fields: dict[str, Any] = {"sid": header.sid, "lnid": header.lnid, "priority": header.priority}
    node = f"node {header.sid}/{header.lnid:#06x}"
    if not header.control:
        # Whether there is ARQ stands in the header; what a connection carries stands in CON, which is not established.
        words, content = _data(packet.payload, Reading(arq=header.arq, assumed=("4-32",), newer=True))
        return f"data {node} connection {header.lcid}: {words}", fields | {"connection": header.lcid, **content}
    control = decode_control14(header.lcid, packet.payload)
    if control is None:
        name = ControlType(header.lcid).name if header.lcid in set(ControlType) else f"control type {header.lcid}"
        words = f"{name} {node}, not established, {len(packet.payload)} bytes {packet.payload.hex()}"
        return words, fields | {"control": name, "data": packet.payload.hex()}
    name = _control_name(header, control, downlink=downlink)
    return f"{name} {node} {_listed(control)}", fields | {"control": name, **_plain(control)}


def _control_name(packet: Packet | PacketHeader14, control: Any, *, downlink: bool) -> str:
    """A control packet by what it is for: that follows from its type, its direction and what it says."""
    name = ControlType(packet.lcid).name
    role = _ROLES.get(name)
    return name if role is None else f"{name}_{role(control, 'B' if downlink else 'S', packet.lnid)}"


def _reg(reg: Any, end: str, lnid: int) -> str:
    stranger = lnid == LNID_BROADCAST
    if reg.negative:
        return "REJ" if end == "B" and stranger else f"UNR_{end}"
    return "RSP" if end == "B" else "REQ" if stranger else "ACK"


def _pro(pro: Any, end: str, _lnid: int) -> str:
    if pro.negative:
        return "REJ" if end == "B" and pro.nsid == SID_NONE else f"DEM_{end}"
    return f"REQ_{end}" if end == "B" or pro.request else "ACK"


def _prm(prm: Any, _end: str, _lnid: int) -> str:
    return "REJ" if prm.negative else "ACK" if prm.response else "REQ"


_ROLES: Final[dict[str, Callable[[Any, str, int], str]]] = {
    "REG": _reg,
    "CON": lambda con, end, _lnid: f"{'CLS' if con.negative else 'REQ'}_{end}",
    "PRO": _pro,
    "BSI": lambda _bsi, end, _lnid: "IND" if end == "B" else "ACK",
    "ALV": lambda _alv, end, _lnid: end,
    "MUL": lambda mul, end, _lnid: f"{'LEAVE' if mul.negative else 'JOIN'}_{end}",
    "PRM": _prm,
}
"""What follows the type's name, by the packet, the end that sends it (base or service node) and the LNID."""


def _data(payload: bytes, reading: Reading) -> Words:
    """A data packet; what its connection has is known, or assumed and said to be, or told as bytes."""
    if not payload:
        return "empty packet", {}
    if reading.arq is None:
        words = f"{len(payload)} bytes {payload.hex()}, its opening, which says what they are, is not in the capture"
        return words, {"data": payload.hex()}
    try:
        words, fields = _sub_headers(payload, reading)
    except DecodeError as error:
        if not reading.assumed:
            raise
        return f"{len(payload)} bytes {payload.hex()}, not as assumed ({error})", {"data": payload.hex()}
    if reading.assumed:
        words += f" ({' and '.join(reading.assumed)} assumed)"
        fields["assumed"] = list(reading.assumed)
    return words, fields


def _sub_headers(payload: bytes, reading: Reading) -> Words:
    if not reading.arq:
        words, fields = _segment(payload, reading)
        return f"without ARQ, {words}", {"arq": None, **fields}
    arq, used = ArqHeader.decode(payload)
    fields = {"arq": _plain(arq)}
    words = f"packet {arq.packet_id}{' flush' if arq.flush else ''}"
    words += "" if arq.ack is None else f" ack {arq.ack}"
    words += f" missing {list(arq.nacks)}" if arq.nacks else ""
    if used == len(payload):
        return f"{words}, acknowledgement only", fields
    more, segment = _segment(payload[used:], reading)
    return f"{words}, {more}", fields | segment


def _segment(data: bytes, reading: Reading) -> Words:
    """The SAR byte and what is behind it."""
    if reading.newer and data[0] >> 6 == SAR_LAST_WITH_CRC:
        fields = {"sar": {"type": "LAST_WITH_CRC", "value": data[0] & 0x3F}}
        return f"last segment {data[0] & 0x3F} with CRC, {len(data) - 1} bytes", fields
    sar = SarHeader.decode(data[:1])
    fields = {"sar": {"type": sar.type.name, "value": sar.value}}
    if sar.type is not SarType.FIRST or sar.value:
        return f"{sar.type.name.lower()} segment {sar.value}, {len(data) - 1} bytes", fields
    words, content = _sdu(data[1:], reading.type)
    return words, fields | content


def _sdu(sdu: bytes, type_: int) -> Words:
    """A whole SDU."""
    if not sdu:
        return "empty SDU", {}
    if type_ != ConnectionType.LLC_4_32:
        name = ConnectionType(type_).name if type_ in set(ConnectionType) else str(type_)
        return f"SDU of connection type {name}, {len(sdu)} bytes {sdu.hex()}", {"type": type_, "sdu": sdu.hex()}
    lpdu = Lpdu.decode(sdu)
    words, fields = _apdu(lpdu.data)
    head = {"lpdu": {"dsap": lpdu.dsap, "ssap": lpdu.ssap, "data": lpdu.data.hex()}}
    return f"SAP {lpdu.ssap} to {lpdu.dsap}: {words}", head | fields


_APDU_NAMES: Final = {
    0x0F: "DataNotification",
    0x60: "AARQ",
    0x61: "AARE",
    0x62: "release request",
    0x63: "release response",
    0xC0: "GET request",
    0xC1: "SET request",
    0xC3: "ACTION request",
    0xC4: "GET response",
    0xC5: "SET response",
    0xC7: "ACTION response",
    0xC8: "protected GET request",
    0xC9: "protected SET request",
    0xCB: "protected ACTION request",
    0xCC: "protected GET response",
    0xCD: "protected SET response",
    0xCF: "protected ACTION response",
    0xDB: "protected APDU",
}


def _apdu(data: bytes) -> tuple[str, dict[str, Any]]:
    name = _APDU_NAMES.get(data[0] if data else -1, "unknown APDU")
    try:
        apdu = decode_apdu(data)
    except DecodeError:
        return f"{name} {data.hex()}", {"apdu": name}
    if isinstance(apdu, Pushed | Written):
        message = apdu.message
        return f"{type(message).__name__.upper()} {_listed(message)}", {"apdu": name, "message": _plain(message)}
    return f"{name} {_listed(apdu)}", {"apdu": name, **_plain(apdu)}


def _plain(value: Any) -> Any:
    """A dataclass in JSON types: bytes as hex, enums as names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, IntFlag):
        return [flag.name for flag in type(value) if flag in value and flag]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _listed(value: Any) -> str:
    """A dataclass as ``name value`` pairs."""
    pairs = []
    for item in dataclasses.fields(value):
        content = getattr(value, item.name)
        if content is None or content is False or content == b"":
            continue
        if isinstance(content, bytes):
            text = format_eui48(content) if len(content) == 6 else content.hex()
        elif dataclasses.is_dataclass(content) and not isinstance(content, type):
            text = f"({_listed(content)})"
        else:
            plain = _plain(content)
            text = "+".join(plain) if isinstance(content, IntFlag) else str(plain)
        pairs.append(f"{item.name.replace('_', ' ')} {text}")
    return ", ".join(pairs)
