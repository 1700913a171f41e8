"""Checksums of PRIME and of the modem's serial framing; all table-driven, most significant bit first, no reflection.

PRIME PDUs: CRC-8 (x^8+x^2+x+1) and CRC-32 (0x04C11DB7) without final inversion, started from the same CRC run over the
six bytes of the subnetwork address, which is the same as putting the address in front of the data.
Serial framing (USI): a 16-bit remainder of polynomial 0x1021 *without* the usual sixteen appended zero bits, an
ordinary CRC-32, or a plain XOR, by protocol.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final


def _table(polynomial: int, width: int) -> tuple[int, ...]:
    top = 1 << (width - 1)
    mask = (1 << width) - 1
    entries = []
    for byte in range(256):
        register = byte << (width - 8)
        for _ in range(8):
            register = ((register << 1) ^ polynomial if register & top else register << 1) & mask
        entries.append(register)
    return tuple(entries)


_CRC8: Final = _table(0x07, 8)
_CRC16: Final = _table(0x1021, 16)
_CRC32: Final = _table(0x04C11DB7, 32)


def crc8(data: bytes, seed: int = 0) -> int:
    """CRC-8 of polynomial 0x07, continued from ``seed``."""
    register = seed
    for byte in data:
        register = _CRC8[register ^ byte]
    return register


def crc32(data: bytes, seed: int = 0) -> int:
    """CRC-32 of polynomial 0x04C11DB7 without reflection or inversion, continued from ``seed``."""
    register = seed
    for byte in data:
        register = ((register << 8) & 0xFFFFFFFF) ^ _CRC32[(register >> 24) ^ byte]
    return register


@lru_cache(maxsize=64)
def sna_seeds(sna: bytes) -> tuple[int, int]:
    """CRC-8 and CRC-32 registers after the six bytes of a subnetwork address."""
    assert len(sna) == 6, sna
    return crc8(sna), crc32(sna)


def usi_crc16(data: bytes) -> int:
    """Remainder of the message polynomial by 0x1021: every byte enters at the bottom of the register."""
    register = 0
    for byte in data:
        register = _CRC16[register >> 8] ^ ((register << 8) & 0xFFFF) ^ byte
    return register


def usi_xor8(data: bytes) -> int:
    """XOR of all bytes."""
    register = 0
    for byte in data:
        register ^= byte
    return register
