"""Checksums of PRIME and of the modem's serial framing; most significant bit first, no reflection.

PRIME PDUs: CRC-8 (x^8+x^2+x+1) and CRC-32 (0x04C11DB7) without final inversion, started from the same CRC run over the
six bytes of the subnetwork address, which is the same as putting the address in front of the data.
Serial framing (USI): a 16-bit remainder of polynomial 0x1021 *without* the usual sixteen appended zero bits, an
ordinary CRC-32, or a plain XOR, by protocol.
"""

from __future__ import annotations

import binascii
import zlib
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
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES: Final = 0xFFFFFFFF


def _reverse32(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")


def crc8(data: bytes, seed: int = 0) -> int:
    """CRC-8 of polynomial 0x07, continued from ``seed``."""
    register = seed
    for byte in data:
        register = _CRC8[register ^ byte]
    return register


def crc32(data: bytes, seed: int = 0) -> int:
    """CRC-32 of polynomial 0x04C11DB7 without reflection or inversion, continued from ``seed``."""
    # zlib's CRC-32 is the same polynomial with every bit order reversed and both ends inverted; it runs in C.
    register = zlib.crc32(data.translate(_REVERSED), _reverse32(seed) ^ _ONES) ^ _ONES
    return _reverse32(register)


@lru_cache(maxsize=64)
def sna_seeds(sna: bytes) -> tuple[int, int]:
    """CRC-8 and CRC-32 registers after the six bytes of a subnetwork address."""
    assert len(sna) == 6, sna
    return crc8(sna), crc32(sna)


def usi_crc16(data: bytes) -> int:
    """Remainder of the message polynomial by 0x1021: every byte enters at the bottom of the register."""
    # The ordinary CRC (XMODEM) appends sixteen zero bits; here the last two bytes stand in their place.
    if len(data) < 2:
        return int.from_bytes(data, "big")
    return binascii.crc_hqx(data[:-2], 0) ^ int.from_bytes(data[-2:], "big")


def usi_xor8(data: bytes) -> int:
    """XOR of all bytes."""
    register = 0
    for byte in data:
        register ^= byte
    return register
