"""The physical layer as the host sees it: schemes, symbols, airtime, limits (PRIME 1.3.6, with the frame types of
1.4)."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Final

SYMBOL_S: Final = 2240e-6
"""[s] One OFDM symbol with its cyclic prefix."""

TICK_S: Final = 10e-6
"""[s] One tick of the modem's timer."""

PREAMBLE_S: Final = 2048e-6
"""[s] Chirp in front of a Type A frame."""

HEADER_SYMBOLS: Final = 2
"""Symbols of a Type A header; the first seven bytes of the PDU ride in it."""

HEADER_PDU_BYTES: Final = 7

PDU_BYTES_MIN: Final = 9
"""[byte] Shortest PDU that receivers take."""

PDU_BYTES_MAX: Final = 364
"""[byte] Longest PDU we send; the limit of the vendor's own MAC library, within the hardware's for every scheme."""


class Scheme(IntEnum):
    """Modulation and coding; the code is the modem's."""

    __hash__ = int.__hash__  # that of enumerations hashes the name, in Python, at every look into a table

    DBPSK = 0
    DQPSK = 1
    D8PSK = 2
    DBPSK_C = 4
    DQPSK_C = 5
    D8PSK_C = 6
    ROBUST_DBPSK = 12
    ROBUST_DQPSK = 13

    @property
    def coded(self) -> bool:
        """Whether the convolutional code is on (one flush byte more)."""
        return bool(self & 4)

    @property
    def robust(self) -> bool:
        """Whether every symbol is sent four times (1.4 only)."""
        return bool(self & 8)


class PhyMode(IntEnum):
    """Frame type; the code is the modem's."""

    __hash__ = int.__hash__

    TYPE_A = 0
    TYPE_B = 2
    TYPE_BC = 3


BYTES_PER_SYMBOL: Final = {
    Scheme.DBPSK: 12,
    Scheme.DQPSK: 24,
    Scheme.D8PSK: 36,
    Scheme.DBPSK_C: 6,
    Scheme.DQPSK_C: 12,
    Scheme.D8PSK_C: 18,
    Scheme.ROBUST_DBPSK: 6,
    Scheme.ROBUST_DQPSK: 12,
}

_FIXED_S: Final = {PhyMode.TYPE_A: 6528e-6, PhyMode.TYPE_B: 17152e-6, PhyMode.TYPE_BC: 23680e-6}

SYMBOLS_MAX: Final = {
    Scheme.DBPSK: 39,
    Scheme.DBPSK_C: 63,
    Scheme.DQPSK: 18,
    Scheme.DQPSK_C: 39,
    Scheme.D8PSK: 11,
    Scheme.D8PSK_C: 25,
}
"""Longest Type A payload the modem accepts [symbols]."""


@lru_cache(maxsize=4096)
def payload_symbols(length: int, scheme: Scheme, mode: PhyMode = PhyMode.TYPE_A) -> int:
    """Payload symbols of a PDU of ``length`` bytes on air (including its checksums)."""
    flush = 1 if scheme.coded else 0
    if mode is PhyMode.TYPE_A:
        payload = max(0, length - HEADER_PDU_BYTES) + flush
        return -(-payload // BYTES_PER_SYMBOL[scheme])
    symbols = -(-(length + flush) // BYTES_PER_SYMBOL[scheme])
    return symbols * 4 if scheme.robust else symbols


@lru_cache(maxsize=4096)
def frame_duration_s(length: int, scheme: Scheme, mode: PhyMode = PhyMode.TYPE_A) -> float:
    """Airtime [s] of a PDU of ``length`` bytes on air, from the preamble's start to the last symbol's end."""
    return _FIXED_S[mode] + SYMBOL_S * payload_symbols(length, scheme, mode)
