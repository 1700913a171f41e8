"""Real frames decode, encode to the same bytes, and refuse every flipped bit."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime_plc.control import Alv, Bsi, Capabilities, Con, Fra, Pro, PromotionRequest, Reg, decode_control
from prime_plc.lpdu import AddressPair, Lpdu
from prime_plc.pdu import Beacon, GenericPdu, Packet, PromotionNeeded, decode_pdu
from prime_plc.subheader import ArqHeader, SarHeader, SarType
from prime_plc.tests.captured_frames import ALL, COMPUTED, SNA
from shared.errors import DecodeError


def encoded(pdu: Beacon | PromotionNeeded | GenericPdu) -> bytes:
    return pdu.encode(SNA) if isinstance(pdu, GenericPdu) else pdu.encode()


def packet_of(name: str) -> tuple[GenericPdu, Packet]:
    pdu = decode_pdu(bytes.fromhex(ALL[name]), SNA)
    assert isinstance(pdu, GenericPdu)
    (packet,) = pdu.packets
    return pdu, packet


@pytest.mark.parametrize("name", ALL)
def test_a_real_frame_encodes_to_the_same_bytes(name: str) -> None:
    """Decoding loses nothing, down to control payload, ARQ, SAR and LPDU."""
    data = bytes.fromhex(ALL[name])
    pdu = decode_pdu(data, SNA)
    assert encoded(pdu) == data
    if isinstance(pdu, GenericPdu):
        for packet in pdu.packets:
            if packet.control:
                assert decode_control(packet.lcid, packet.payload).encode() == packet.payload
            else:
                arq, used = ArqHeader.decode(packet.payload)
                sar = SarHeader.decode(packet.payload[used : used + 1])
                lpdu = Lpdu.decode(packet.payload[used + 1 :])
                assert arq.encode() + sar.encode() + lpdu.encode() == packet.payload


@pytest.mark.parametrize("name", ALL)
def test_any_flipped_bit_is_refused(name: str) -> None:
    """Header or payload, checksum or data: no single wrong bit goes unnoticed."""
    data = bytes.fromhex(ALL[name])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(DecodeError):
            decode_pdu(bytes(damaged), SNA)


def test_the_captured_beacon_says_what_was_published() -> None:
    """Field by field: quality 7, three slots, first slot, frame 19, no cost."""
    assert decode_pdu(bytes.fromhex(ALL["beacon 19"]), None) == Beacon(7, 0, 3, 0, 0, 0, 19, 0, SNA, 0, 0)
    assert decode_pdu(bytes.fromhex(ALL["switch beacon"]), None) == Beacon(6, 0x69, 3, 2, 0, 1, 8, 3, SNA, 4, 4)


def test_captured_control_packets_say_what_was_published() -> None:
    """Registration, promotion, beacon slot, connection and keep-alive fields."""
    eui = bytes.fromhex("AABBCCDDEE01")
    far = bytes.fromhex("D8DA5200000D")
    capabilities = Capabilities.SWITCH | Capabilities.MULTICAST | Capabilities.ROBUSTNESS | Capabilities.ARQ
    expected = {
        "REG_REQ": Reg(False, False, 0, capabilities, 0, eui),
        "REG_REJ": Reg(True, False, 0, capabilities, 0, eui),
        "PRO_REQ_S": Pro(False, 2, 0, 0xFF, PromotionRequest(far, 4, 4, 7)),
        "PRO_REQ_B": Pro(False, 0, 0, 0x69),
        "PRO_DEM_B": Pro(True, 0, 0, 0x51),
        "BSI_IND": Bsi(3, 2, 0),
        "CON_REQ_S": Con(False, True, 256, 3, b"APAS100040016261"),
        "CON_REQ_B": Con(False, True, 256, 3, AddressPair(0x082, 0).encode()),
        "CON_CLS_B": Con(True, False, 256, 3),
        "ALV_B": Alv(2, 3, 0, 0xFF),
        "ALV_S": Alv(4, 2, 0, 0xFF),
        "FRA": Fra(0, 0, 8, 3),
    }
    for name, control in expected.items():
        _, packet = packet_of(name)
        assert decode_control(packet.lcid, packet.payload) == control


def test_captured_addresses_say_what_was_published() -> None:
    """Direction, level, node and priority of a registration and of data below a switch."""
    pdu, packet = packet_of("REG_RSP below a switch")
    assert (pdu.downlink, pdu.level, packet.sid, packet.lnid, packet.nad, packet.priority) == (
        True,
        0,
        0x69,
        0x2075,
        False,
        1,
    )
    pdu, packet = packet_of("data up")
    assert (pdu.downlink, pdu.level, packet.lcid, packet.priority, packet.nad) == (False, 1, 256, 2, True)
    arq, used = ArqHeader.decode(packet.payload)
    assert arq == ArqHeader(1, True, 4, (), 2)
    assert SarHeader.decode(packet.payload[used : used + 1]) == SarHeader(SarType.FIRST, 0)
    assert Lpdu.decode(packet.payload[used + 1 :]) == Lpdu(2, 1, bytes.fromhex("C401C10104"))


def test_a_frame_of_the_next_version_is_refused_by_name() -> None:
    """The two top bits tell version 1.4; the message says so."""
    data = bytearray(bytes.fromhex(COMPUTED["ALV_B"]))
    data[0] |= 0x40
    with pytest.raises(DecodeError, match=r"v1\.4"):
        decode_pdu(bytes(data), SNA)


def test_without_a_subnetwork_a_generic_frame_cannot_be_verified() -> None:
    """Before the first beacon the seeds of the checksums are unknown."""
    with pytest.raises(DecodeError, match="subnetwork address"):
        decode_pdu(bytes.fromhex(ALL["REG_REQ"]), None)


bits = st.integers
packets = st.builds(
    Packet,
    st.booleans(),
    bits(0, 3),
    st.booleans(),
    bits(0, 511),
    bits(0, 255),
    bits(0, 0x3FFF),
    st.binary(max_size=64),
    st.booleans(),
)
pdus = st.one_of(
    st.builds(
        Beacon, bits(0, 7), bits(0, 255), bits(0, 7), bits(0, 7), bits(0, 1023), bits(0, 63), bits(0, 31), bits(0, 7),
        st.just(SNA), bits(0, 255), bits(0, 255),
    ),
    st.builds(PromotionNeeded, st.binary(min_size=6, max_size=6), st.binary(min_size=6, max_size=6)),
    st.builds(GenericPdu, st.booleans(), bits(0, 63), st.lists(packets, min_size=1, max_size=4).map(tuple)),
)  # fmt: skip


@given(pdus)
def test_every_pdu_survives_the_wire(pdu: Beacon | PromotionNeeded | GenericPdu) -> None:
    """decode(encode(x)) == x at the ends of every field."""
    assert decode_pdu(encoded(pdu), SNA) == pdu


@given(
    st.builds(
        ArqHeader,
        bits(0, 63),
        st.booleans(),
        st.none() | bits(0, 31),
        st.lists(bits(0, 63), max_size=8).map(tuple),
        bits(0, 63),
    ),
    st.binary(max_size=4),
)
def test_every_arq_header_survives_the_wire(header: ArqHeader, rest: bytes) -> None:
    """The header ends where it says, whatever follows."""
    data = header.encode()
    assert ArqHeader.decode(data + rest) == (header, len(data))


@given(st.integers(0, 12), st.binary(max_size=48))
def test_garbage_is_refused_or_encodes_to_itself(ctype: int, data: bytes) -> None:
    """A payload either decodes to something that encodes to the same bytes, or is a DecodeError."""
    with contextlib.suppress(DecodeError):
        assert decode_control(ctype, data).encode() == data
    with contextlib.suppress(DecodeError):
        header, used = ArqHeader.decode(data)
        assert header.encode() == data[:used]
    for decoder in (Lpdu.decode, AddressPair.decode):
        with contextlib.suppress(DecodeError):
            assert decoder(data).encode() == data
    with contextlib.suppress(DecodeError):
        decode_pdu(data, SNA)
