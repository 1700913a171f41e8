"""Serial framing and the modem's messages against worked vectors, and against garbage."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime_plc.modem_messages import (
    BitOperation,
    BitReply,
    GetList,
    GetListReply,
    GetParameter,
    GetReply,
    HostMessage,
    ModemMessage,
    NoiseReply,
    NoiseRequest,
    Receive,
    Reset,
    Send,
    SendConfirm,
    SetParameter,
    SetReply,
    decode_answer,
    decode_command,
)
from prime_plc.usi import FRAME_BYTES_MAX, Fault, UsiDecoder, UsiFrame, encode_usi
from shared.errors import DecodeError

REG_REQ = bytes.fromhex("000074160100FFFC080238AABBCCDDEE0161A220E4")

WORKED: list[tuple[HostMessage | ModemMessage, str]] = [
    (GetParameter(0x010C, 4), "7E 01 22 00 01 0C 04 82 37 7E"),
    (GetReply(0x010C, bytes.fromhex("23000102")), "7E 02 22 01 01 0C 04 23 00 01 02 AF 07 7E"),
    (GetParameter(0x0100, 10), "7E 01 22 00 01 00 0A 8E 39 7E"),
    (GetReply(0x0100, b"ATPL230   "), "7E 03 A2 01 01 00 0A 41 54 50 4C 32 33 30 20 20 20 87 2F 7E"),
    (SetParameter(0x0112, b"\x01"), "7E 01 62 02 01 12 01 01 70 C8 7E"),
    (SetReply(0x0112, 0), "7E 01 22 03 01 12 00 C9 60 7E"),
    (SetParameter(0x011A, b"\x01"), "7E 01 62 02 01 1A 01 01 F1 C0 7E"),
    (GetParameter(0xFE47, 4), "7E 01 22 00 FE 47 04 D7 C7 7E"),
    (GetReply(0xFE47, bytes.fromhex("0012D687")), "7E 02 22 01 FE 47 04 00 12 D6 87 33 68 7E"),
    (GetParameter(0xFE2A, 1), "7E 01 22 00 FE 2A 01 BA C2 7E"),
    (GetReply(0xFE2A, b"\x40"), "7E 01 62 01 FE 2A 01 40 9D 7D 5D 7E"),
    (SetParameter(0x0420, b"\x7e\x7d"), "7E 01 A2 02 04 20 02 7D 5E 7D 5D 42 36 7E"),
    (SetParameter(0xFE62, bytes.fromhex("40402201C79A")), "7E 02 A2 02 FE 62 06 40 40 22 01 C7 9A 4F C6 7E"),
    (GetList(((0x010C, 4), (0x0415, 1))), "7E 02 22 0B 02 01 0C 04 04 15 01 9C 06 7E"),
    (
        GetListReply(((0x010C, bytes.fromhex("23000102")), (0x0415, b"\x01"))),
        "7E 03 62 0C 02 01 0C 04 23 00 01 02 04 15 01 01 00 D3 7E",
    ),
    (BitOperation(0xFE68, 3, 1), "7E 01 62 04 FE 68 03 01 1C 4A 7E"),
    (BitReply(0xFE68, 3, 0), "7E 01 62 05 FE 68 03 00 2B 7B 7E"),
    (Reset(True), "7E 00 A2 0D 01 98 A9 7E"),
    (NoiseRequest(1, 0), "7E 01 A2 09 01 00 00 00 00 EF 00 7E"),
    (SendConfirm(1, 1, 140), "7E 01 62 07 01 01 00 8C B8 E7 7E"),
    (SendConfirm(1, 3, 0), "7E 01 62 07 01 03 00 00 98 29 7E"),
    (
        Send(1, 0, 0, 4, 1, 0, False, REG_REQ),
        f"7E 08 A2 06 01 00 00 04 01 00 00 00 00 00 00 15 {REG_REQ.hex()} DA DB 7E",
    ),
    (
        Receive(0, 0, 4, 2, 90, 0x60, 16, 20, 500, 800, REG_REQ),
        f"7E 0A A2 08 00 00 04 02 5A 60 00 10 00 14 00 00 01 F4 00 00 03 20 00 15 {REG_REQ.hex()} 37 5E 7E",
    ),
]


@pytest.mark.parametrize(("message", "wire"), WORKED, ids=lambda value: type(value).__name__)
def test_worked_frames_both_ways(message: HostMessage | ModemMessage, wire: str) -> None:
    """Each published frame is what we send, and means what we say."""
    data = bytes.fromhex(wire)
    assert encode_usi(0x22, message.encode()) == data
    (frame,) = UsiDecoder().feed(data)
    decode = decode_command if isinstance(message, HostMessage) else decode_answer
    assert (frame.protocol, decode(frame.payload)) == (0x22, message)


@pytest.mark.parametrize(
    ("protocol", "payload", "wire"),
    [
        (0x00, "002000", "7E 00 C0 00 20 00 57 56 9B 6E 7E"),
        (0x18, "190020", "7E 00 D8 19 00 20 E1 7E"),
        (0x3F, "00", "7E 00 7F 00 7F 7E"),
        (0x1F, REG_REQ.hex(), "7E 05 5F " + REG_REQ.hex(" ") + " 18 29 7E"),
    ],
)
def test_the_protocol_decides_the_checksum(protocol: int, payload: str, wire: str) -> None:
    """32-bit CRC, XOR, and the odd 16-bit remainder, each where it belongs."""
    assert encode_usi(protocol, bytes.fromhex(payload)) == bytes.fromhex(wire)
    assert UsiDecoder().feed(bytes.fromhex(wire)) == [UsiFrame(protocol, bytes.fromhex(payload))]


@given(
    st.lists(st.tuples(st.sampled_from((0x22, 0x13, 0x00, 0x18)), st.binary(min_size=1, max_size=60)), max_size=6),
    st.data(),
)
def test_a_stream_cut_anywhere_gives_the_same_frames(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """However the bytes arrive, every frame arrives once and in order."""
    stream = b"".join(encode_usi(protocol, payload) for protocol, payload in messages)
    decoder = UsiDecoder()
    frames: list[UsiFrame] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        frames += decoder.feed(stream[:cut])
        stream = stream[cut:]
    assert frames == [UsiFrame(protocol, payload) for protocol, payload in messages]
    assert not decoder.faults


@given(st.binary(max_size=300))
def test_after_garbage_the_second_good_frame_is_found(garbage: bytes) -> None:
    """Noise may swallow one frame (a stray mark looks like a beginning), never two."""
    decoder = UsiDecoder()
    decoder.feed(garbage)
    good = encode_usi(0x22, b"\x00\x01\x0c\x04")
    assert UsiFrame(0x22, b"\x00\x01\x0c\x04") in decoder.feed(good + good + good)


def test_damage_is_counted_by_kind() -> None:
    """Bad escape, length, checksum, endless frame and bytes between frames each have a counter."""
    decoder = UsiDecoder()
    decoder.feed(b"hello\x7e\x01\x22\x7d\x00\x7e")
    decoder.feed(bytes.fromhex("7E 01 22 00 01 0C 82 37 7E") + bytes.fromhex("7E 01 22 00 01 0C 04 82 38 7E"))
    decoder.feed(b"\x7e" + b"\x00" * (FRAME_BYTES_MAX + 1))
    assert {fault: decoder.faults[fault] for fault in Fault} == {
        Fault.GARBAGE: 5,
        Fault.ESCAPE: 1,
        Fault.LENGTH: 1,
        Fault.CHECKSUM: 1,
        Fault.OVERSIZE: 1,
    }


def test_endless_bytes_keep_the_buffer_small() -> None:
    """A megabyte without a mark costs no memory."""
    decoder = UsiDecoder()
    decoder.feed(b"\x7e")
    for _ in range(1024):
        assert decoder.feed(b"\x00" * 1024) == []
    assert len(decoder._buffer) <= FRAME_BYTES_MAX


@given(st.binary(max_size=60))
def test_garbage_messages_raise_decode_errors_only(payload: bytes) -> None:
    """Both decoders, any bytes; what decodes encodes to them again (lengths a host must not ask for aside)."""
    for decode in (decode_command, decode_answer):
        with contextlib.suppress(DecodeError):
            message = decode(payload)
            if not isinstance(message, GetParameter | SetParameter):
                assert message.encode() == payload


@pytest.mark.parametrize("message", [Send(1, 0, 0, 4, 0, 1000, True, b"pdu"), Reset(soft=True)])
def test_a_flag_that_is_neither_yes_nor_no_is_refused(message: Send | Reset) -> None:
    """Of a byte that is 1 every other value but 0."""
    payload = message.encode()
    at = 10 if isinstance(message, Send) else 1
    assert payload[at] == 1
    for value in range(256):
        changed = payload[:at] + bytes((value,)) + payload[at + 1 :]
        if value < 2:
            assert decode_command(changed).encode() == changed
        else:
            with pytest.raises(DecodeError, match=f"seen (disable_rx|reset) {value}, expected 0 or 1"):
                decode_command(changed)


def test_a_refused_noise_capture_is_two_bytes() -> None:
    """More than eight symbols: only result 7 comes back."""
    assert decode_answer(b"\x0a\x07") == NoiseReply(7, None)
    assert decode_answer(NoiseReply(3, b"\x01\x02").encode()) == NoiseReply(3, b"\x01\x02")


def test_a_flood_of_marks_takes_no_memory() -> None:
    """A megabyte of nothing but 7Eh in one call: once it took eight; and a frame behind it is found."""
    decoder, data = UsiDecoder(), b"\x7e" * (1 << 20) + encode_usi(0x22, b"abc")
    tracemalloc.start()
    try:
        frames = decoder.feed(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
    assert frames == [UsiFrame(0x22, b"abc")]
