"""Captures as pcap files, which analysers of others open.

The classic libpcap file (version 2.4, microseconds), link type 147 (DLT_USER0, free for private use). One packet is one
frame: four bytes of ours, then the PDU as on air with its checksums (without the three bytes of stock firmware):

    0   version of this header, 1
    1   frame type (`prime_plc.phy.PhyMode`)
    2   modulation (`prime_plc.phy.Scheme`)
    3   bits 0 and 1: way (0 unknown, 1 sent, 2 received, 3 sniffed); bit 2: the time is made up

Wireshark shows them under its protocol DLT_USER with a header size of 4. A frame without a time gets the one before it,
as pcap knows no other; clock times count from midnight.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple

from shared.errors import DecodeError

LINK_TYPE: Final = 147
HEADER_BYTES: Final = 4
PACKET_BYTES_MAX: Final = 65_535
PDU_BYTES_MAX: Final = PACKET_BYTES_MAX - HEADER_BYTES

_VERSION: Final = 1
_TIME_MADE_UP: Final = 4
_WAYS: Final = ("", "sent", "received", "sniffed")
_FILE: Final = "IHHiIII"
_PACKET: Final = "IIII"
_FILE_BYTES: Final = 24
_PACKET_BYTES: Final = 16
_MICROSECONDS: Final = 0xA1B2C3D4
_NANOSECONDS: Final = 0xA1B23C4D
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_SECONDS_END: Final = 2**32


class Captured(NamedTuple):
    """One frame of a file.

    Attributes:
        time: decimal seconds; empty if it was made up.
        mode, scheme: codes as they stand there, unchecked.
        way: as in `prime_plc.trace.Raw`.
    """

    time: str
    mode: int
    scheme: int
    way: str
    pdu: bytes


def looks_like_pcap(data: bytes) -> bool:
    """Whether these bytes begin a pcap file, or one of its newer kind (which `read_pcap` refuses by name)."""
    head = data[:4]
    return head == _PCAPNG or any(head == struct.pack(order + "I", magic) for order, magic in _ORDERS)


_ORDERS: Final = tuple((order, magic) for order in "<>" for magic in (_MICROSECONDS, _NANOSECONDS))


def write_pcap(frames: Iterable[Captured]) -> bytes:
    """The file of these frames."""
    out = [struct.pack("<" + _FILE, _MICROSECONDS, 2, 4, 0, 0, PACKET_BYTES_MAX, LINK_TYPE)]
    last_us = 0
    for frame in frames:
        time_us = microseconds(frame.time)
        last_us = last_us if time_us is None else time_us
        flags = (_WAYS.index(frame.way) if frame.way in _WAYS else 0) | (_TIME_MADE_UP if time_us is None else 0)
        length = HEADER_BYTES + len(frame.pdu)
        assert length <= PACKET_BYTES_MAX, length
        out.append(struct.pack("<" + _PACKET, *divmod(last_us, 1_000_000), length, length))
        out.append(bytes((_VERSION, frame.mode, frame.scheme, flags)) + frame.pdu)
    return b"".join(out)


def microseconds(time: str) -> int | None:
    """A capture's time, decimal seconds or ``hours:minutes:seconds``, as a number; None if it is none."""
    try:
        parts = [Decimal(part) for part in time.split(":")]
    except InvalidOperation:
        return None
    if len(parts) not in {1, 3} or not all(part.is_finite() and 0 <= part < _SECONDS_END for part in parts):
        return None
    seconds = parts[-1] if len(parts) == 1 else 3600 * parts[0] + 60 * parts[1] + parts[2]
    return int(seconds * 1_000_000) if seconds < _SECONDS_END else None


def read_pcap(data: bytes) -> list[Captured]:
    """The frames of a file, from either byte order, with microseconds or nanoseconds.

    Raises:
        DecodeError: no pcap file, another link type, cut short, or a packet that is not ours.
    """
    if data[:4] == _PCAPNG:
        raise DecodeError("pcap: seen a pcapng file, expected classic pcap (editcap -F pcap makes it one)")
    order, fraction = _file_header(data)
    frames: list[Captured] = []
    at = _FILE_BYTES
    while at < len(data):
        if at + _PACKET_BYTES > len(data):
            raise DecodeError(f"pcap packet {len(frames) + 1}: seen {len(data) - at} bytes, expected its header")
        seconds, rest, length, original = struct.unpack_from(order + _PACKET, data, at)
        at += _PACKET_BYTES
        packet = data[at : at + length]
        if len(packet) != length or length > PACKET_BYTES_MAX or length != original or rest >= 10**fraction:
            raise DecodeError(
                f"pcap packet {len(frames) + 1}: seen {len(packet)} bytes of {length} of {original}, expected all of it"
            )
        frames.append(_frame(packet, f"{seconds}.{rest:0{fraction}}", len(frames) + 1))
        at += length
    return frames


def _file_header(data: bytes) -> tuple[str, int]:
    """Byte order and digits of a fraction of a second."""
    if len(data) < _FILE_BYTES:
        raise DecodeError(f"pcap: seen {len(data)} bytes, expected a file header of {_FILE_BYTES}")
    for order, known in _ORDERS:
        magic, major, minor, _, _, _, link_type = struct.unpack_from(order + _FILE, data)
        if magic == known:
            break
    else:
        raise DecodeError(f"pcap: seen first bytes {data[:4].hex()}, expected a pcap file")
    if (major, minor) != (2, 4):
        raise DecodeError(f"pcap: seen version {major}.{minor}, expected 2.4")
    if link_type != LINK_TYPE:
        raise DecodeError(f"pcap: seen link type {link_type}, expected {LINK_TYPE}")
    return order, 6 if known == _MICROSECONDS else 9


def _frame(packet: bytes, time: str, number: int) -> Captured:
    if len(packet) < HEADER_BYTES or packet[0] != _VERSION or packet[3] & ~(_TIME_MADE_UP | 3):
        raise DecodeError(
            f"pcap packet {number}: seen {packet[:HEADER_BYTES].hex(' ')}, expected a header of {HEADER_BYTES} bytes"
        )
    made_up = bool(packet[3] & _TIME_MADE_UP)
    return Captured("" if made_up else time, packet[1], packet[2], _WAYS[packet[3] & 3], packet[HEADER_BYTES:])
