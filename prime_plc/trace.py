"""Captures read: hex lines, pcap files or the modem's serial byte stream; `prime_plc.telling` says what is in them."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from prime_plc.modem_messages import Receive, Send, decode_answer, decode_command
from prime_plc.pcap import PDU_BYTES_MAX, Captured, looks_like_pcap, read_pcap, write_pcap
from prime_plc.phy import TICK_S, PhyMode, Scheme, frame_duration_s
from prime_plc.usi import PROTOCOL_PHY, PROTOCOL_SNIFFER, Fault, UsiDecoder, UsiFrame
from shared.errors import DecodeError

SNIFFER_HEADER_BYTES: Final = 32
"""Bytes of a sniffer message before the PDU: type to channel (8), eleven zeros, two times (8), zero, level, whether the
modem checks CRCs, length (2)."""

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
        first, *rest = content.split(None, 1)
        time, digits = (first, rest[0]) if rest and _TIME.fullmatch(first) else ("", content)
        compact = "".join(digits.replace(":", " ").replace("-", " ").split())
        try:
            pdu = bytes.fromhex(compact)
        except ValueError:
            yield Raw(where, b"", Scheme.DBPSK_C, time, fault=f"seen {content[:40]!r}, expected hexadecimal bytes")
            continue
        yield Raw(where, pdu, Scheme.DBPSK_C, time, mode=mode)


_TIME: Final = re.compile(r"\d*\.\d*|\d+:[0-5]\d:[0-5]\d(\.\d*)?", re.ASCII)
"""A decimal number with a point, or a clock time; bare digits are hex."""


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
    if len(payload) < SNIFFER_HEADER_BYTES or len(pdu) != length:
        return Raw(where, b"", Scheme.DBPSK_C, fault=f"seen {len(payload)} bytes, expected a sniffer message")
    kind, scheme = payload[0], payload[3]
    start, end = (int.from_bytes(payload[at : at + 4], "big") for at in (19, 23))
    time = f"{start * TICK_S:.5f}"
    mode = _SNIFFED.get(kind)
    if mode is None:
        wrong = f"seen sniffer message {kind:#04x}, expected 0x20 (PRIME 1.3) or 0x21 (1.4)"
        return Raw(where, pdu, Scheme.DBPSK_C, time, "sniffed", wrong)
    fault = _unknown(mode, scheme)
    if fault is not None:
        return Raw(where, pdu, Scheme.DBPSK_C, time, "sniffed", fault)
    if mode is PhyMode.TYPE_B:
        mode = _newer(length, Scheme(scheme), (end - start) % 2**32 * TICK_S)
    return Raw(where, pdu, Scheme(scheme), time, "sniffed", mode=mode)


_SNIFFED: Final = {0x20: PhyMode.TYPE_A, 0x21: PhyMode.TYPE_B}


def _newer(length: int, scheme: Scheme, seconds: float) -> PhyMode:
    """Type B or BC, which a sniffer tells apart only by how long the frame was."""
    return min(
        (PhyMode.TYPE_B, PhyMode.TYPE_BC), key=lambda mode: abs(frame_duration_s(length, scheme, mode) - seconds)
    )
