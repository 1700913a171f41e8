"""Checksums and airtime against published figures."""

from __future__ import annotations

import pytest

from prime_plc.crc import crc8, crc32, sna_seeds, usi_crc16, usi_xor8
from prime_plc.phy import PhyMode, Scheme, frame_duration_s, payload_symbols
from prime_plc.tests.captured_frames import SNA

DIGITS = b"123456789"

COLUMNS = (Scheme.DBPSK_C, Scheme.DQPSK_C, Scheme.D8PSK_C, Scheme.DBPSK, Scheme.DQPSK, Scheme.D8PSK)
TABLE = {
    14: (2, 1, 1, 1, 1, 1),
    18: (2, 1, 1, 1, 1, 1),
    21: (3, 2, 1, 2, 1, 1),
    33: (5, 3, 2, 3, 2, 1),
    64: (10, 5, 4, 5, 3, 2),
    100: (16, 8, 6, 8, 4, 3),
    128: (21, 11, 7, 11, 6, 4),
    200: (33, 17, 11, 17, 9, 6),
    256: (42, 21, 14, 21, 11, 7),
    364: (60, 30, 20, 30, 15, 10),
}


def test_checksums_of_the_nine_digits() -> None:
    """The customary check values of all four sums."""
    assert (usi_crc16(DIGITS), usi_crc16(DIGITS + b"\0\0")) == (0xBEEF, 0x31C3)
    assert (crc32(DIGITS), crc8(DIGITS), usi_xor8(DIGITS)) == (0x89A1897F, 0xF4, 0x31)


def test_the_seeds_of_the_captured_subnetwork() -> None:
    """CRC-8 and CRC-32 over the address are the published 7E and 7FF6F5A5."""
    assert sna_seeds(SNA) == (0x7E, 0x7FF6F5A5)


@pytest.mark.parametrize("length", TABLE)
def test_symbols_and_airtime_of_type_a(length: int) -> None:
    """Every cell of the published table; 6528 us and 2240 us a symbol."""
    for scheme, symbols in zip(COLUMNS, TABLE[length], strict=True):
        assert payload_symbols(length, scheme) == symbols
        assert frame_duration_s(length, scheme) == pytest.approx(6528e-6 + 2240e-6 * symbols)


def test_airtime_of_a_beacon_in_the_frame_types_of_the_next_version() -> None:
    """18 bytes in Type B and BC, coded and robust."""
    expected = {
        (Scheme.DBPSK_C, PhyMode.TYPE_B): 26.112,
        (Scheme.DBPSK_C, PhyMode.TYPE_BC): 32.640,
        (Scheme.ROBUST_DBPSK, PhyMode.TYPE_B): 52.992,
        (Scheme.ROBUST_DBPSK, PhyMode.TYPE_BC): 59.520,
        (Scheme.ROBUST_DQPSK, PhyMode.TYPE_B): 35.072,
        (Scheme.ROBUST_DQPSK, PhyMode.TYPE_BC): 41.600,
    }
    for (scheme, mode), duration_ms in expected.items():
        assert 1000 * frame_duration_s(18, scheme, mode) == pytest.approx(duration_ms)
