"""Captures in words: reads hex lines, pcap files or the modem's serial byte stream and tells what each frame says.

The subnetwork address, which seeds the checksums, is learned from the capture's beacons unless it is given.
"""

from __future__ import annotations

import dataclasses
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, IntFlag
from typing import Any, Final

from prime_plc.control import ControlType, decode_control
from prime_plc.lpdu import Lpdu
from prime_plc.modem_host import SENTINEL
from prime_plc.modem_messages import Receive, Send, decode_answer, decode_command
from prime_plc.pcap import PDU_BYTES_MAX, Captured, looks_like_pcap, read_pcap, write_pcap
from prime_plc.pdu import BEACON_BYTES, HT_BEACON, SID_NONE, Beacon, GenericPdu, Packet, PromotionNeeded, decode_pdu
from prime_plc.pdu14 import Beacon14, Pdu14, decode_pdu14
from prime_plc.phy import PhyMode, Scheme, frame_duration_s
from prime_plc.subheader import ArqHeader, SarHeader, SarType
from prime_plc.usi import PROTOCOL_PHY, PROTOCOL_SNIFFER, Fault, UsiDecoder, UsiFrame
from shared.cosem import Pushed, Written, decode_apdu
from shared.errors import DecodeError
from shared.ids import format_eui48

SNIFFER_HEADER_BYTES: Final = 33
"""Bytes of a sniffer message before the PDU: type to channel (8), eleven zeros, two times, five more, length (2)."""

CAPTURE_BYTES_MAX: Final = 64 << 20


class Format(Enum):
    """How a capture is written."""

    AUTO = "auto"
    HEX = "hex"
    SERIAL = "serial"
    PCAP = "pcap"


@dataclass(frozen=True, slots=True)
class Raw:
    """One frame of a capture, not decoded yet.

    Attributes:
        where: line or byte of the capture.
        time: as written in the capture, empty if unknown.
        way: direction on the serial port, empty if unknown.
        mode: frame type; Type B frames are of PRIME 1.4.
        fault: why there is no PDU, or None.
    """

    where: str
    pdu: bytes
    scheme: Scheme
    time: str = ""
    way: str = ""
    fault: str | None = None
    mode: PhyMode = PhyMode.TYPE_A


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


def looks_like_text(data: bytes) -> bool:
    """Whether a capture is hex lines rather than serial bytes."""
    return all(byte in _TEXT for byte in data[:4096])


_TEXT: Final = frozenset(string.printable.encode())


def read_capture(data: bytes, kind: Format, mode: PhyMode = PhyMode.TYPE_A) -> Iterator[Raw]:
    """The frames of a capture in order; what cannot be read comes as a `Raw` with a fault.

    Args:
        data: the capture.
        kind: how it is written.
        mode: frame type of hex lines, which do not say it.

    Raises:
        DecodeError: a pcap file that is damaged or not ours.
    """
    if kind is Format.AUTO:
        kind = Format.HEX if looks_like_text(data) else Format.SERIAL
        kind = Format.PCAP if looks_like_pcap(data) else kind
    if kind is Format.PCAP:
        return _read_pcap(data)
    return _read_hex(data.decode("ascii", "replace"), mode) if kind is Format.HEX else _read_serial(data)


def as_pcap(raws: Iterable[Raw]) -> tuple[bytes, int]:
    """A capture as a pcap file, and how many frames are in it; what has no PDU is left out."""
    whole = [raw for raw in raws if raw.fault is None and len(raw.pdu) <= PDU_BYTES_MAX]
    frames = [Captured(raw.time, raw.mode, raw.scheme, raw.way, raw.pdu) for raw in whole]
    return write_pcap(frames), len(whole)


def _read_pcap(data: bytes) -> Iterator[Raw]:
    for number, frame in enumerate(read_pcap(data), 1):
        where = f"packet {number}"
        fault = _unknown(frame.mode, frame.scheme)
        if fault is not None:
            yield Raw(where, frame.pdu, Scheme.DBPSK_C, frame.time, frame.way, fault)
        else:
            yield Raw(where, frame.pdu, Scheme(frame.scheme), frame.time, frame.way, mode=PhyMode(frame.mode))


def _unknown(mode: int, scheme: int) -> str | None:
    """What is wrong with codes of a frame; robust modulations exist in Type B only."""
    if mode not in set(PhyMode):
        return f"seen frame type {mode}, expected Type A (v1.3.6), B or BC (v1.4)"
    if scheme not in set(Scheme) or (Scheme(scheme).robust and mode == PhyMode.TYPE_A):
        return f"seen modulation {scheme} in a frame of {PhyMode(mode).name}"
    return None


def _read_hex(text: str, mode: PhyMode) -> Iterator[Raw]:
    """Lines of ``hex`` or ``time hex``; ``#`` begins a comment; blanks, colons and dashes between bytes are ignored."""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        where = f"line {number}"
        first, _, rest = content.partition(" ")
        time, digits = (first, rest) if _is_time(first) and rest.strip() else ("", content)
        compact = "".join(digits.replace(":", " ").replace("-", " ").split())
        try:
            pdu = bytes.fromhex(compact)
        except ValueError:
            yield Raw(where, b"", Scheme.DBPSK_C, time, fault=f"seen {content[:40]!r}, expected hexadecimal bytes")
            continue
        yield Raw(where, pdu, Scheme.DBPSK_C, time, mode=mode)


def _is_time(word: str) -> bool:
    """A decimal number with a point, or a clock time; bare digits are hex."""
    return ("." in word and word.replace(".", "", 1).isdigit()) or (word.count(":") == 2 and "." in word)


def _read_serial(data: bytes) -> Iterator[Raw]:
    decoder = UsiDecoder()
    for number, frame in enumerate(decoder.feed(data), 1):
        raw = _from_usi(f"message {number}", frame)
        if raw is not None:
            yield raw
    for fault, count in decoder.faults.items():
        yield Raw("stream", b"", Scheme.DBPSK_C, fault=f"seen {count} x {fault.value}, expected USI frames only")


def read_tap(chunks: Iterable[tuple[float, str, bytes]]) -> Iterator[Raw]:
    """The frames in what a running node has kept of its port: time, way, bytes. It may begin and end in a frame."""
    decoders: defaultdict[str, UsiDecoder] = defaultdict(UsiDecoder)
    number = 0
    for utc_s, way, data in chunks:
        for frame in decoders[way].feed(data):
            number += 1
            raw = _from_usi(f"message {number}", frame)
            if raw is not None:
                yield replace(raw, time=f"{utc_s:.6f}")
    for way, decoder in decoders.items():
        for fault, count in decoder.faults.items():
            if fault is not Fault.GARBAGE:
                yield Raw(way, b"", Scheme.DBPSK_C, fault=f"seen {count} x {fault.value}, expected USI frames only")


def _from_usi(where: str, frame: UsiFrame) -> Raw | None:
    """The PDU in a serial message, None for messages that carry none (parameters, confirms)."""
    if frame.protocol == PROTOCOL_SNIFFER:
        return _from_sniffer(where, frame.payload)
    if frame.protocol != PROTOCOL_PHY or not frame.payload:
        return None
    try:
        message = decode_command(frame.payload) if frame.payload[0] in _FROM_HOST else decode_answer(frame.payload)
    except DecodeError as error:
        return Raw(where, b"", Scheme.DBPSK_C, fault=str(error))
    if not isinstance(message, Send | Receive):
        return None
    fault = _unknown(message.mode, message.scheme)
    if fault is not None:
        return Raw(where, message.data, Scheme.DBPSK_C, fault=fault)
    way = "sent" if isinstance(message, Send) else "received"
    return Raw(where, message.data, Scheme(message.scheme), way=way, mode=PhyMode(message.mode))


_FROM_HOST: Final = frozenset((0, 2, 4, 6, 9, 11, 13))


def _from_sniffer(where: str, payload: bytes) -> Raw:
    length = int.from_bytes(payload[SNIFFER_HEADER_BYTES - 2 : SNIFFER_HEADER_BYTES], "big")
    pdu = payload[SNIFFER_HEADER_BYTES:]
    if len(payload) < SNIFFER_HEADER_BYTES or len(pdu) != length or payload[3] not in set(Scheme):
        return Raw(where, b"", Scheme.DBPSK_C, fault=f"seen {len(payload)} bytes, expected a sniffer message")
    ticks = int.from_bytes(payload[19:23], "big")
    return Raw(where, pdu, Scheme(payload[3]), time=f"{ticks / 100_000:.5f}", way="sniffed")


def tell(raws: Iterable[Raw], sna: bytes | None) -> Iterator[Told]:
    """Each frame in words; beacons teach the subnetwork address, also for the frames before them."""
    frames = list(raws)
    known = sna
    if known is None:
        known = next((found for raw in frames if (found := _sna_of(raw)) is not None), None)
    for raw in frames:
        known = sna or _sna_of(raw) or known
        yield _tell(raw, known)


def _sna_of(raw: Raw) -> bytes | None:
    pdu = raw.pdu
    if raw.mode is not PhyMode.TYPE_A or len(pdu) != BEACON_BYTES or pdu[0] >> 4 != HT_BEACON:
        return None
    try:
        beacon = decode_pdu(pdu, None)
    except DecodeError:
        return None
    return beacon.sna if isinstance(beacon, Beacon) else None


def _tell(raw: Raw, sna: bytes | None) -> Told:
    if raw.fault is not None:
        return Told(raw, raw.fault, fault=raw.fault)
    old = raw.mode is PhyMode.TYPE_A
    try:
        words, fields = _words(decode_pdu(raw.pdu, sna)) if old else _words14(decode_pdu14(raw.pdu), raw.mode)
    except DecodeError as error:
        return Told(raw, str(error), fault=str(error))
    airtime_ms = 1000 * frame_duration_s(len(raw.pdu), raw.scheme, raw.mode)
    fields |= {"bytes": len(raw.pdu), "scheme": raw.scheme.name, "airtime_ms": round(airtime_ms, 3)}
    if old:  # stock firmware leaves frames of Type B alone
        stock_ms = 1000 * frame_duration_s(len(raw.pdu) + len(SENTINEL), raw.scheme)
        fields |= {"airtime_stock_firmware_ms": round(stock_ms, 3)}
    return Told(raw, f"{words}  [{len(raw.pdu)} bytes, {raw.scheme.name} {airtime_ms:.2f} ms]", fields)


def _words(pdu: Beacon | PromotionNeeded | GenericPdu) -> tuple[str, dict[str, Any]]:
    if isinstance(pdu, Beacon):
        name = "base" if pdu.sid == 0 else f"switch {pdu.sid}"
        return f"beacon of {name}: {_listed(pdu)}", {"kind": "beacon", **_plain(pdu)}
    if isinstance(pdu, PromotionNeeded):
        words = f"promotion needed by {format_eui48(pdu.pna)}"
        return words, {"kind": "promotion needed", **_plain(pdu)}
    told = [_packet(packet, pdu.downlink) for packet in pdu.packets]
    way = "down" if pdu.downlink else "up"
    words = f"{way} level {pdu.level}: " + "; ".join(words for words, _ in told)
    return words, {"kind": "generic", "downlink": pdu.downlink, "level": pdu.level, "packets": [one for _, one in told]}


def _words14(pdu: Pdu14, mode: PhyMode) -> tuple[str, dict[str, Any]]:
    """The PDUs of 1.4 that are established; the others are refused by name before."""
    fields = {"prime": "1.4", "frame_type": mode.name, **_plain(pdu)}
    if isinstance(pdu, Beacon14):
        name = "base" if pdu.sid == 0 else f"switch {pdu.sid}"
        return f"1.4 beacon of {name}: {_listed(pdu)}", {"kind": "beacon", **fields}
    return f"1.4 promotion needed by {format_eui48(pdu.pna)}", {"kind": "promotion needed", **fields}


def _packet(packet: Packet, downlink: bool) -> tuple[str, dict[str, Any]]:
    fields: dict[str, Any] = {"sid": packet.sid, "lnid": packet.lnid, "priority": packet.priority}
    node = f"node {packet.sid}/{packet.lnid:#06x}"
    if packet.control:
        name = ControlType(packet.lcid).name if packet.lcid in set(ControlType) else str(packet.lcid)
        control = decode_control(packet.lcid, packet.payload)
        name = _control_name(name, control, downlink)
        return f"{name} {node} {_listed(control)}", fields | {"control": name, **_plain(control)}
    words, content = _data(packet.payload)
    return f"data {node} connection {packet.lcid}: {words}", fields | {"connection": packet.lcid, **content}


def _control_name(name: str, control: Any, downlink: bool) -> str:
    """REG and CON by what they are for."""
    negative = getattr(control, "negative", False)
    if name == "CON":
        return f"CON_{'CLS' if negative else 'REQ'}_{'B' if downlink else 'S'}"
    if name == "ALV":
        return "ALV_B" if downlink else "ALV_S"
    if name == "PRO":
        return _promotion_name(control, downlink)
    return f"{name}{' negative' if negative else ''}"


def _promotion_name(pro: Any, downlink: bool) -> str:
    if pro.negative:
        return "PRO_REJ" if downlink and pro.nsid == SID_NONE else f"PRO_DEM_{'B' if downlink else 'S'}"
    if downlink:
        return "PRO_REQ_B"
    return "PRO_ACK" if pro.request is None else "PRO_REQ_S"


def _data(payload: bytes) -> tuple[str, dict[str, Any]]:
    arq, used = ArqHeader.decode(payload)
    fields: dict[str, Any] = {"arq": _plain(arq)}
    words = f"packet {arq.packet_id}{' flush' if arq.flush else ''}"
    words += "" if arq.ack is None else f" ack {arq.ack}"
    words += f" missing {list(arq.nacks)}" if arq.nacks else ""
    rest = payload[used:]
    if not rest:
        return f"{words}, acknowledgement only", fields
    sar = SarHeader.decode(rest[:1])
    fields["sar"] = {"type": sar.type.name, "value": sar.value}
    if sar.type is not SarType.FIRST or sar.value:
        return f"{words}, {sar.type.name.lower()} segment {sar.value}, {len(rest) - 1} bytes", fields
    lpdu = Lpdu.decode(rest[1:])
    fields["lpdu"] = {"dsap": lpdu.dsap, "ssap": lpdu.ssap, "data": lpdu.data.hex()}
    apdu_words, apdu_fields = _apdu(lpdu.data)
    return f"{words}, SAP {lpdu.ssap} to {lpdu.dsap}: {apdu_words}", fields | apdu_fields


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
