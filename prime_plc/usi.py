"""USI: the framing of every message on the modem's serial port.

``7E | stuffed(header, payload, checksum) | 7E``; each frame has marks of its own. The header's two bytes hold the
payload's length (10 bits) and the protocol (6 bits); the protocol decides the checksum. There are no sequence numbers,
no negative acknowledgements and no retransmission here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prime_plc.crc import crc32, usi_crc16, usi_xor8

MARK: Final = 0x7E
FRAME_BYTES_MAX: Final = 2 * 1100
"""[byte] Collected without a closing mark; beyond it the frame is dropped. Any byte of a message may be escaped."""

FRAME_BYTES_MIN: Final = 4
PAYLOAD_BYTES_MAX: Final = 1023

PROTOCOL_SNIFFER: Final = 0x13
PROTOCOL_PHY: Final = 0x22
"""ATPL230 PHY: the protocol of the tester firmware, for a MAC on the host."""

PROTOCOL_INTERNAL: Final = 0x3F
"""USI's own lock and unlock; taken silently, never sent."""

_CRC16_PROTOCOLS: Final = frozenset((0x13, 0x1D, 0x1F, 0x22, 0x23, 0x24, 0x25, 0x26, 0x28, 0x3E))
_ESCAPE: Final = re.compile(b"\x7d([\x5d\x5e])")
_BAD_ESCAPE: Final = re.compile(b"\x7d(?![\x5d\x5e])")


class Fault(Enum):
    """Why bytes were thrown away."""

    GARBAGE = "bytes outside a frame"
    ESCAPE = "bad escape"
    LENGTH = "wrong length"
    CHECKSUM = "wrong checksum"
    OVERSIZE = "frame without end"


@dataclass(frozen=True, slots=True)
class UsiFrame:
    """One good frame."""

    protocol: int
    payload: bytes


def _checksum(protocol: int, data: bytes) -> bytes:
    if protocol in _CRC16_PROTOCOLS:
        return usi_crc16(data).to_bytes(2, "big")
    if protocol <= 0x07:
        return crc32(data).to_bytes(4, "big")
    return bytes((usi_xor8(data),))


def _checksum_bytes(protocol: int) -> int:
    if protocol in _CRC16_PROTOCOLS:
        return 2
    return 4 if protocol <= 0x07 else 1


def encode_usi(protocol: int, payload: bytes) -> bytes:
    """The bytes on the serial line for one message."""
    length = len(payload)
    assert length <= PAYLOAD_BYTES_MAX, length
    body = bytes((length >> 2, (length & 3) << 6 | protocol)) + payload
    body += _checksum(protocol, body)
    return b"\x7e" + body.replace(b"\x7d", b"\x7d\x5d").replace(b"\x7e", b"\x7d\x5e") + b"\x7e"


class UsiDecoder:
    """Finds frames in a byte stream cut anywhere; what is no frame is counted and dropped."""

    def __init__(self) -> None:
        self.faults: Counter[Fault] = Counter()
        self._buffer = bytearray()
        self._in_frame = False

    def feed(self, data: bytes) -> list[UsiFrame]:
        """The frames that end in ``data``."""
        frames: list[UsiFrame] = []
        start = 0
        while (mark := data.find(0x7E, start)) >= 0:  # one at a time: there may be as many marks as bytes
            self._collect(data[start:mark])
            self._mark(frames)
            start = mark + 1
        self._collect(data[start:])
        return frames

    def _collect(self, part: bytes) -> None:
        if not part:
            return
        if not self._in_frame:
            self.faults[Fault.GARBAGE] += len(part)
        elif len(self._buffer) + len(part) > FRAME_BYTES_MAX:
            self.faults[Fault.OVERSIZE] += 1
            self._buffer.clear()
            self._in_frame = False
        else:
            self._buffer += part

    def _mark(self, frames: list[UsiFrame]) -> None:
        if not self._in_frame or not self._buffer:  # an opening mark, or two in a row
            self._in_frame = True
            return
        data = bytes(self._buffer)
        self._buffer.clear()
        if data[-1] == 0x7D:  # an escape cut by a mark: the mark opens the next frame
            self.faults[Fault.ESCAPE] += 1
            return
        self._in_frame = False
        if 0x7D in data:
            if _BAD_ESCAPE.search(data):
                self.faults[Fault.ESCAPE] += 1
                return
            data = _ESCAPE.sub(lambda found: bytes((found.group(1)[0] ^ 0x20,)), data)
        self._check(data, frames)

    def _check(self, data: bytes, frames: list[UsiFrame]) -> None:
        if len(data) < FRAME_BYTES_MIN - 1:
            self.faults[Fault.LENGTH] += 1
            return
        protocol = data[1] & 0x3F
        length = data[0] << 2 | data[1] >> 6
        end = 2 + length
        if len(data) != end + _checksum_bytes(protocol):
            self.faults[Fault.LENGTH] += 1
        elif _checksum(protocol, data[:end]) != data[end:]:
            self.faults[Fault.CHECKSUM] += 1
        else:
            frames.append(UsiFrame(protocol, data[2:end]))
