"""IEC 61334-4-32 convergence: data LPDUs, and what opens the connection they travel on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import DecodeError

CONTROL: Final = 0x90
"""Control byte of a data LPDU."""

DATA_BYTES_MAX: Final = 1021
IDENTIFIER_BYTES_MAX: Final = 16
ADDRESS_BASE: Final = 0
ADDRESS_FIRST: Final = 2
"""First address a base hands out (the vendor's base does so too)."""

ADDRESS_BROADCAST: Final = 0xFFF


@dataclass(frozen=True, slots=True)
class Lpdu:
    """Data between two link service access points."""

    dsap: int
    ssap: int
    data: bytes

    def encode(self) -> bytes:
        assert len(self.data) <= DATA_BYTES_MAX, len(self.data)
        return bytes((CONTROL, self.dsap, self.ssap)) + self.data

    @classmethod
    def decode(cls, data: bytes) -> Lpdu:
        """The LPDU in these bytes.

        Raises:
            DecodeError: too short, too long, or not a data LPDU.
        """
        if not 3 <= len(data) <= DATA_BYTES_MAX + 3:
            raise DecodeError(f"LPDU: seen {len(data)} bytes, expected 3 to {DATA_BYTES_MAX + 3}")
        if data[0] != CONTROL:
            raise DecodeError(f"LPDU: seen control byte {data[0]:#04x}, expected {CONTROL:#04x}")
        return cls(data[1], data[2], bytes(data[3:]))


@dataclass(frozen=True, slots=True)
class AddressPair:
    """What a base answers when it accepts a connection: the node's address and its own, 12 bits each."""

    node: int
    base: int

    def encode(self) -> bytes:
        return (self.node << 16 | self.base).to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes) -> AddressPair:
        """The addresses in CON data.

        Raises:
            DecodeError: not four bytes, or reserved bits set.
        """
        if len(data) != 4 or data[0] & 0xF0 or data[2] & 0xF0:
            raise DecodeError(f"4-32 addresses: seen {data.hex(' ')}, expected four bytes with two 12-bit addresses")
        value = int.from_bytes(data, "big")
        return cls(value >> 16, value & 0xFFF)
