"""What is established of 1.4 encodes and decodes; the rest is refused by name; frames of Type B pass the driver."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime_plc.crc import crc32
from prime_plc.modem_host import FrameReceived
from prime_plc.pdu14 import (
    AliveHop,
    Alv14,
    Beacon14,
    GenericPdu14,
    Packet14,
    PacketHeader14,
    Pro14,
    PromotionNeeded14,
    Reg14,
    decode_pdu14,
)
from prime_plc.phy import PhyMode, Scheme
from prime_plc.tests.captured_frames import SNA
from prime_plc.tests.ether import Ether, chain
from shared.errors import DecodeError

bits = st.integers
flag = st.booleans()
eui = st.binary(min_size=6, max_size=6)

THINGS = st.one_of(
    st.builds(
        Beacon14, bits(0, 15), bits(0, 255), bits(0, 63), bits(0, 1023), flag, bits(0, 127), bits(0, 3), flag, flag,
        bits(0, 31), bits(0, 7), eui, bits(0, 255),
    ),
    st.builds(PromotionNeeded14, bits(0, 3), flag, flag, eui, eui),
    st.builds(
        PacketHeader14, bits(0, 15), bits(0, 3), flag, bits(0, 511), bits(0, 255), bits(0, 0x3FFF), bits(0, 511),
        flag, flag, flag, flag,
    ),
    st.builds(Reg14, flag, flag, bits(0, 63), flag, flag, bits(0, 7), eui),
    st.builds(
        Pro14, flag, bits(0, 127), bits(0, 255), bits(0, 7), bits(0, 7), bits(0, 31), bits(0, 7), bits(0, 3), flag,
        flag, st.binary(max_size=9),
    ),
    st.builds(
        Alv14, bits(0, 15), bits(0, 7), bits(0, 63), bits(0, 7),
        st.lists(st.builds(AliveHop, flag, bits(0, 7), flag, bits(0, 7)), max_size=5).map(tuple),
    ),
)  # fmt: skip

DECODERS = (Beacon14.decode, PromotionNeeded14.decode, PacketHeader14.decode, Reg14.decode, Pro14.decode, Alv14.decode)


@given(THINGS)
def test_everything_established_survives_the_wire(thing: Beacon14 | Reg14) -> None:
    """decode(encode(x)) == x at the ends of every field."""
    assert type(thing).decode(thing.encode()) == thing


@given(st.binary(max_size=24))
def test_garbage_is_refused_or_encodes_to_itself(data: bytes) -> None:
    """Nothing but DecodeError comes out of any decoder."""
    for decode in DECODERS:
        with contextlib.suppress(DecodeError):
            assert decode(data).encode() == data
    with contextlib.suppress(DecodeError):
        decode_pdu14(data, SNA)


def test_the_checksum_of_a_beacon_runs_over_four_bytes_more() -> None:
    """Seed 0, then the PDU, then 00 01 04 00, which are not sent."""
    beacon = Beacon14(15, 0, 0, 0, True, 0, 0, False, False, 7, 0, SNA, 0).encode()
    assert len(beacon) == 18
    assert int.from_bytes(beacon[14:], "big") == crc32(beacon[:14] + bytes.fromhex("00010400"))


@pytest.mark.parametrize(
    ("decode", "data", "words"),
    [
        (Reg14.decode, bytes((0x10, 0)) + bytes(58), "not established"),
        (Alv14.decode, bytes(3), "not established"),
        (partial(decode_pdu14, sna=None), bytes(20), "not established"),
        (partial(decode_pdu14, sna=SNA), bytes(20), "not established"),
        (partial(decode_pdu14, sna=SNA), bytes(5), "not established"),
        (partial(decode_pdu14, sna=SNA), b"\x30" + bytes(20), "expected 0 generic"),
    ],
)
def test_what_is_not_established_is_refused_by_name(decode: object, data: bytes, words: str) -> None:
    """Security profiles, the other keep-alive, generic PDUs."""
    with pytest.raises(DecodeError, match=words):
        decode(data)  # type: ignore[operator]


PACKETS = (
    Packet14(
        PacketHeader14(0, 1, True, 1, 0, 0x3FFF, 8, False, False, False, False),
        Reg14(False, False, 0, False, True, 2, b"x" * 6).encode(),
    ),
    Packet14(PacketHeader14(0, 2, False, 256, 0, 7, 0, False, False, True, False), b""),
)


def test_a_generic_pdu_is_read_where_both_checksums_say_how() -> None:
    """Its header is not established; that of 1.3.6 is taken if 40 bits of checksums over it are right."""
    pdu = GenericPdu14(True, 3, PACKETS)
    data = pdu.encode(SNA)
    assert decode_pdu14(data, SNA) == pdu
    for bit in range(8 * len(data)):
        damaged = (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")
        with pytest.raises(DecodeError):
            decode_pdu14(damaged, SNA)
    with pytest.raises(DecodeError, match="not established"):
        decode_pdu14(data, bytes(6))


@pytest.mark.parametrize("length", [7, 9, 511])
def test_a_packet_that_does_not_fit_its_pdu_is_refused(length: int) -> None:
    """Too long for what is there, or leaving less than a header."""
    (first, _) = PACKETS
    pdu = GenericPdu14(True, 3, (Packet14(replace(first.header, length=length), first.payload),))
    with pytest.raises(DecodeError):
        decode_pdu14(pdu.encode(SNA), SNA)


def test_nodes_of_one_version_leave_frames_of_the_other_alone() -> None:
    """A Type B frame is counted and changes nothing, at the base and at a node in any state."""
    ether = Ether(chain())
    ether.add_base()
    ether.add_node(1)
    beacon = Beacon14(15, 0, 0, 0, True, 0, 0, False, False, 7, 0, SNA, 0).encode()
    frame = FrameReceived(beacon, Scheme.DBPSK_C, 2, 0.0, 0.026, 20.0, 80, precise=False, mode=PhyMode.TYPE_B)
    ether.run(0.5)
    ether.put("n1", frame)
    assert ether.run_until(ether.connected, 60.0) < 60.0
    before = ether.node(1).summary()
    ether.put("n1", frame)
    ether.put("base", frame)
    assert ether.node(1).summary() == before
    assert (ether.node(1).other_version, ether.base().other_version) == (2, 1)
