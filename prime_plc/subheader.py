"""What stands in front of the data on a connection: the ARQ sub-header, if the connection has ARQ, and the SAR byte."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from shared.errors import DecodeError

NACKS_MAX: Final = 32
"""Longest list of missing packets accepted; no window is larger."""


@dataclass(frozen=True, slots=True)
class ArqHeader:
    """Numbering and acknowledgement of one packet.

    Attributes:
        packet_id: modulo 64.
        flush: acknowledge at once.
        window: packets the sender of this header accepts, None if it does not say.
        nacks: missing packet ids.
        ack: next packet id expected (cumulative), None if it does not say.
    """

    packet_id: int
    flush: bool
    window: int | None = None
    nacks: tuple[int, ...] = ()
    ack: int | None = None

    def encode(self) -> bytes:
        """One byte, and one for each piece of information; ACK is always last.

        The M bit ("more follows") is set in every byte but the last. A header that names a window or missing packets
        without an acknowledgement does not exist.
        """
        assert self.ack is not None or (self.window is None and not self.nacks), self
        first = self.flush << 6 | self.packet_id
        if self.ack is None:
            return bytes((first,))
        out = [0x80 | first]
        if self.window is not None:
            out.append(0x80 | self.window)
        out += [0xC0 | nack for nack in self.nacks]
        out.append(self.ack)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> tuple[ArqHeader, int]:
        """The header at the start of ``data`` and its length in bytes.

        Raises:
            DecodeError: it is cut short, unordered, or none.
        """
        if not data:
            raise DecodeError("ARQ sub-header: seen no byte, expected at least one")
        window: int | None = None
        nacks: list[int] = []
        ack: int | None = None
        at, more = 1, bool(data[0] & 0x80)
        while more:
            if at >= len(data) or len(nacks) > NACKS_MAX:
                raise DecodeError(f"ARQ sub-header: seen no end within {at} bytes, expected an ACK as the last one")
            byte = data[at]
            more = bool(byte & 0x80)
            if not more:
                if byte & 0x40:
                    raise DecodeError(f"ARQ sub-header: seen {byte:#04x} as last byte, expected an ACK")
                ack = byte
            elif byte & 0x40:
                nacks.append(byte & 0x3F)
            elif window is None and not nacks and not byte & 0x20:
                window = byte & 0x1F
            else:
                raise DecodeError(f"ARQ sub-header: seen {byte:#04x} at byte {at}, expected one WIN first, then NACKs")
            at += 1
        return cls(data[0] & 0x3F, bool(data[0] & 0x40), window, tuple(nacks), ack), at


class SarType(IntEnum):
    """Which part of an SDU a packet carries; 3 is reserved (1.4: last with CRC)."""

    FIRST = 0
    INTERMEDIATE = 1
    LAST = 2


@dataclass(frozen=True, slots=True)
class SarHeader:
    """Segmentation byte: ``value`` is segments - 1 in a first segment, a sequence number in the others."""

    type: SarType
    value: int

    def encode(self) -> bytes:
        return bytes((self.type << 6 | self.value,))

    @classmethod
    def decode(cls, data: bytes) -> SarHeader:
        """The SAR byte.

        Raises:
            DecodeError: not one byte, or the reserved type.
        """
        if len(data) != 1:
            raise DecodeError(f"SAR byte: seen {len(data)} bytes, expected 1")
        kind = data[0] >> 6
        if kind == 3:
            raise DecodeError("SAR byte: seen type 3, expected first, intermediate or last (v1.4 is not supported)")
        return cls(SarType(kind), data[0] & 0x3F)
