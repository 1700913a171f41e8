"""Fuzz targets of this room: every decoder between the serial port and the application, with a corpus that is kept.

    python -m prime_plc.tests.fuzz [TARGET ...] [--seconds 600 | --rate]

Checksums keep mutated bytes out, so whatever has one is tried as it is and again with the checksum put right. What
decodes must encode to the same bytes again, except where a target says otherwise. `shared.tests.fuzz` runs them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, Self
from xml.etree import ElementTree

from prime_plc.control import decode_control
from prime_plc.crc import crc8, crc32, sna_seeds
from prime_plc.lpdu import AddressPair, Lpdu
from prime_plc.modem_messages import decode_answer, decode_command
from prime_plc.pcap import Captured, microseconds, read_pcap, write_pcap
from prime_plc.pdu import GENERIC_BYTES_MIN, GenericPdu, decode_pdu, glance
from prime_plc.pdu14 import CRC_TAIL, Alv14, GenericPdu14, PacketHeader14, Pro14, Reg14, decode_pdu14
from prime_plc.subheader import ArqHeader, SarHeader
from prime_plc.survey import Survey
from prime_plc.telling import tell
from prime_plc.tests.captured_frames import SNA
from prime_plc.trace import Format, read_capture
from prime_plc.tree_picture import picture
from prime_plc.usi import PAYLOAD_BYTES_MAX, PROTOCOL_PHY, UsiDecoder, UsiFrame, encode_usi
from shared.errors import DecodeError
from shared.tests.fuzz import Fuzzing


class Codec(Protocol):
    """A value on the wire."""

    def encode(self) -> bytes:
        """Its bytes."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From its bytes, or DecodeError."""


def fuzz_usi(data: bytes) -> None:
    """Bytes of a serial port, cut anywhere; a good message after them gets through, at the second try at the latest."""
    whole, cut = UsiDecoder(), UsiDecoder()
    half = len(data) // 2
    frames = whole.feed(data)
    assert cut.feed(data[:half]) + cut.feed(data[half:]) == frames
    message = encode_usi(PROTOCOL_PHY, data[:PAYLOAD_BYTES_MAX])
    assert whole.feed(message + message)[-1] == UsiFrame(PROTOCOL_PHY, data[:PAYLOAD_BYTES_MAX])


def fuzz_answer(data: bytes) -> None:
    """Messages of a modem."""
    try:
        message = decode_answer(data)
    except DecodeError:
        return
    assert message.encode() == data


def fuzz_command(data: bytes) -> None:
    """Messages of a host; lengths that only a foreign host asks for decode and do not encode."""
    try:
        message = decode_command(data)
    except DecodeError:
        return
    try:
        again = message.encode()
    except AssertionError:
        return
    assert again == data


def fuzz_pdu(data: bytes) -> None:
    """PDUs of 1.3.6 and the control packets, sub-headers and LPDUs in them."""
    if len(data) >= GENERIC_BYTES_MIN:
        glance(data)
    for candidate in (data, sealed(data)):
        try:
            pdu = decode_pdu.__wrapped__(candidate, SNA)
        except DecodeError:
            continue
        assert (pdu.encode(SNA) if isinstance(pdu, GenericPdu) else pdu.encode()) == candidate
        for packet in pdu.packets if isinstance(pdu, GenericPdu) else ():
            fuzz_control(bytes((packet.lcid & 0xFF,)) + packet.payload)
            fuzz_data(packet.payload)


def sealed(data: bytes) -> bytes:
    """A PDU of 1.3.6 with its checksums put right."""
    kind = data[0] >> 4 if data else -1
    if kind == 1:
        return data[:-1] + bytes((crc8(data[:-1]),))
    if kind == 2:
        return data[:-4] + crc32(data[:-4]).to_bytes(4, "big")
    seed8, seed32 = sna_seeds(SNA)
    body = data[:2] + bytes((crc8(data[:2], seed8),)) + data[3:-4]
    return body + crc32(body, seed32).to_bytes(4, "big")


def fuzz_pdu14(data: bytes) -> None:
    """PDUs of 1.4, and what of its packets is established."""
    for candidate in (data, data[:-4] + crc32(data[:-4] + CRC_TAIL).to_bytes(4, "big"), sealed(data)):
        try:
            pdu = decode_pdu14(candidate, SNA)
        except DecodeError:
            continue
        assert (pdu.encode(SNA) if isinstance(pdu, GenericPdu14) else pdu.encode()) == candidate
    for kind in (PacketHeader14, Reg14, Pro14, Alv14):
        _same(kind, data)


def fuzz_control(data: bytes) -> None:
    """Control packets; the first byte is the type."""
    if not data:
        return
    try:
        control = decode_control(data[0], data[1:])
    except DecodeError:
        return
    assert control.encode() == data[1:]


def fuzz_data(data: bytes) -> None:
    """What is in a data packet: ARQ and SAR sub-headers, LPDU, addresses."""
    used = 0
    try:
        header, used = ArqHeader.decode(data)
        assert header.encode() == data[:used]
        SarHeader.decode(data[used : used + 1])
    except DecodeError:
        pass
    _same(Lpdu, data)
    _same(Lpdu, data[used + 1 :])
    _same(AddressPair, data[:4])


def _same(kind: type[Codec], data: bytes) -> None:
    try:
        value = kind.decode(data)
    except DecodeError:
        return
    assert value.encode() == data


def fuzz_trace(data: bytes) -> None:
    """Captures of any form: words and JSON for each frame, good or not."""
    try:
        for told in tell(read_capture(data, Format.AUTO), SNA):
            assert told.words
            assert json.dumps(told.as_json())
    except DecodeError:
        return  # the file itself


def fuzz_survey(data: bytes) -> None:
    """A base's status as a file; what is a survey can be shown in every form, whatever its names and numbers are."""
    try:
        summary = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        survey = Survey.of(summary)
    except DecodeError:
        return
    assert all(line.isprintable() for line in survey.table().split("\n"))
    assert json.dumps(survey.as_json(), allow_nan=False)
    ElementTree.fromstring(picture(survey))


def fuzz_pcap(data: bytes) -> None:
    """Captures of others; what can be read is written to the same frames again, of whatever byte order it was."""
    try:
        frames = read_pcap(data)
    except DecodeError:
        return
    again = read_pcap(write_pcap(frames))
    assert [_in_microseconds(frame) for frame in again] == [_in_microseconds(frame) for frame in frames]


def _in_microseconds(frame: Captured) -> tuple[int | None, Captured]:
    return microseconds(frame.time), frame._replace(time="")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "usi": fuzz_usi,
    "answer": fuzz_answer,
    "command": fuzz_command,
    "pdu": fuzz_pdu,
    "pdu14": fuzz_pdu14,
    "control": fuzz_control,
    "data": fuzz_data,
    "trace": fuzz_trace,
    "survey": fuzz_survey,
    "pcap": fuzz_pcap,
}
FUZZING: Final = Fuzzing("prime_plc.tests.fuzz", TARGETS, Path(__file__).parent / "corpus")

if __name__ == "__main__":
    sys.exit(FUZZING.main())
