"""`headroom-plc trace`: captures in words, whatever their form, and bad ones named."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from prime_plc.cli import main
from prime_plc.connections_seen import ConnectionsSeen
from prime_plc.control import Capabilities, Con, ControlType, Mul, Reg
from prime_plc.lpdu import Lpdu
from prime_plc.modem_messages import Receive, Send
from prime_plc.pdu import LNID_BROADCAST, LNID_MULTICAST, GenericPdu, Packet
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
)
from prime_plc.phy import PhyMode, Scheme, frame_duration_s
from prime_plc.subheader import ArqHeader
from prime_plc.telling import Teller, Told, tell
from prime_plc.tests.captured_frames import ALL, CAPTURED, SNA
from prime_plc.trace import Raw
from prime_plc.usi import encode_usi
from shared.ids import Eui48


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    code = main(["trace", *arguments])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


APDU = bytes.fromhex("C001C100070000150005FF0200")
LPDU = Lpdu(1, 2, APDU).encode()
WHOLE = b"\x00" + LPDU
"""An SDU in one piece behind its SAR byte."""


class Capture:
    """Packets told one by one, as from one file."""

    def __init__(self) -> None:
        self._teller = Teller(SNA)

    def packet(self, packet: Packet, *, downlink: bool = True) -> Told:
        pdu = GenericPdu(downlink, 0, (packet,)).encode(SNA)
        told = self._teller.tell(Raw("line 1", pdu, Scheme.DBPSK_C))
        assert told.fault is None
        return told

    def control(self, control: Con | Reg | Mul, lnid: int, *, downlink: bool) -> None:
        kind = ControlType[type(control).__name__.upper()]
        self.packet(Packet(False, 1, True, kind, 0, lnid, control.encode()), downlink=downlink)

    def data(self, lcid: int, payload: bytes, lnid: int = 7) -> str:
        return self.packet(Packet(False, 2, False, lcid, 0, lnid, payload)).words


def test_a_broadcast_has_no_arq() -> None:
    """What our own base sends to all: whole SDUs behind the SAR byte alone."""
    told = Capture().packet(Packet(False, 2, False, 2, 0, LNID_BROADCAST, WHOLE))
    assert "data to all connection 2: without ARQ, SAP 2 to 1: GET request" in told.words
    assert "assumed" not in told.words
    (packet,) = told.fields["packets"]
    assert (packet["arq"], packet["lpdu"]["data"]) == (None, APDU.hex())


def test_a_group_is_what_its_members_have_joined() -> None:
    """Without ARQ whatever the capture says; its type by MUL, and assumed where there is none."""
    capture = Capture()
    assert "without ARQ, SAP 2 to 1: GET request" in (words := capture.data(5, WHOLE, LNID_MULTICAST))
    assert "(4-32 assumed)" in words
    capture.control(Mul(False, 5, 250, b"group"), 7, downlink=True)
    assert "without ARQ, SDU of connection type 250, 16 bytes" in (words := capture.data(5, WHOLE, LNID_MULTICAST))
    assert "assumed" not in words


@pytest.mark.parametrize("arq", [True, False])
def test_a_connection_has_arq_if_its_opening_says_so(arq: bool) -> None:
    """For its node and its number alone; before it, the usual is assumed and said to be."""
    capture = Capture()
    numbered = ArqHeader(3, flush=True, ack=1).encode() + WHOLE
    assert "packet 3 flush ack 1, SAP 2 to 1: GET request" in (words := capture.data(256, numbered))
    assert "(ARQ and 4-32 assumed)" in words
    capture.control(Con(False, arq, 256, 3, b"meter"), 7, downlink=False)
    capture.control(Con(False, arq, 256, 3, bytes(4)), 7, downlink=True)
    words = capture.data(256, numbered if arq else WHOLE)
    assert ("packet 3 flush ack 1, " if arq else "connection 256: without ARQ, ") + "SAP 2 to 1" in words
    assert "assumed" not in words
    assert "assumed" in capture.data(256, numbered, lnid=8)
    assert "assumed" in capture.data(257, numbered)


def test_arq_needs_both_sides() -> None:
    """A node that asks for it, and a base that has none."""
    capture = Capture()
    capture.control(Con(False, True, 256, 3, b"meter"), 7, downlink=False)
    capture.control(Con(False, False, 256, 3, bytes(4)), 7, downlink=True)
    assert "without ARQ" in capture.data(256, WHOLE)


def test_what_nothing_says_is_not_guessed() -> None:
    """A connection of the base whose opening is not in the capture, and one that is not as assumed."""
    assert "which says what they are, is not in the capture" in Capture().data(5, WHOLE)
    other = b"\x00\xc1" + LPDU
    assert f"{other.hex()}, not as assumed" in Capture().data(256, other)


def test_null_sdus_and_empty_packets_are_no_faults() -> None:
    """A connection of type 250 carries whatever it likes, also nothing."""
    capture = Capture()
    capture.control(Con(False, False, 5, 250), 7, downlink=True)
    capture.control(Con(False, False, 5, 250), 7, downlink=False)
    assert "without ARQ, SDU of connection type 250, 3 bytes 010203" in capture.data(5, b"\x00\x01\x02\x03")
    assert "without ARQ, empty SDU" in capture.data(5, b"\x00")
    for lcid in (5, 6, 256):
        assert f"connection {lcid}: empty packet" in capture.data(lcid, b"")


def test_a_connection_moves_with_its_node() -> None:
    """To the place that an answer with R = 1 gives it; a number given to another node means nothing old."""
    capture = Capture()
    one, other = b"\xaa" * 6, b"\xbb" * 6
    capture.control(Reg(False, False, 0, Capabilities.NONE, 2, one), 7, downlink=True)
    capture.control(Con(False, False, 256, 250), 7, downlink=False)
    capture.control(Reg(False, True, 0, Capabilities.NONE, 2, one), 9, downlink=True)
    assert "connection type 250" in capture.data(256, b"\x00\x01", lnid=9)
    capture.control(Reg(False, False, 0, Capabilities.NONE, 2, other), 7, downlink=True)
    assert "(ARQ and 4-32 assumed)" in capture.data(256, b"\x00\x01", lnid=7)
    assert "connection type 250" in capture.data(256, b"\x00\x01", lnid=9)


def test_every_published_frame_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole published capture decodes; frames before the first beacon too."""
    capture = tmp_path / "capture.hex"
    frames = [f"{name}" for name in ALL if not name.startswith("beacon")] + ["beacon 19"]
    capture.write_text("\n".join(f"12.5 {ALL[name]}  # {name}" for name in frames))
    code, lines, err = run(capsys, str(capture))
    assert (code, len(lines)) == (0, len(frames))
    assert f"{len(frames)} frames decoded, 0 not" in err
    text = "\n".join(lines)
    for words in (
        "eui48 AA:BB:CC:DD:EE:01",
        "CON_REQ_S",
        "GET request class id 7",
        "beacon of base",
        "promotion needed by",
    ):
        assert words in text


def test_a_serial_stream_is_told_with_both_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protocol 22h: what the host sent and what came in; parameter traffic and noise are no frames, noise is
    counted."""
    beacon, request = (bytes.fromhex(CAPTURED[name]) for name in ("beacon 19", "REG_REQ"))
    sent = encode_usi(0x22, Send(0, 0, 0, 4, 0, 1000, True, beacon).encode())
    received = encode_usi(0x22, Receive(1, 0, 4, 0, 90, 96, 0, 0, 0, 0, request).encode())
    capture = tmp_path / "port.bin"
    capture.write_bytes(b"\x00\x01" + sent + encode_usi(0x22, bytes.fromhex("0301120 0".replace(" ", ""))) + received)
    code, lines, _ = run(capsys, str(capture), "--json")
    told = [json.loads(line) for line in lines]
    assert code == 1  # two bytes of garbage are not silently dropped
    assert [item.get("way") for item in told] == ["sent", "received", None]
    assert told[0]["kind"] == "beacon"
    assert told[1]["packets"][0]["eui48"] == "aabbccddee01"
    assert "bytes outside a frame" in told[2]["fault"]


def sniffed(kind: int, scheme: int, pdu: bytes, seconds: float) -> bytes:
    """A message of protocol 13h, which carries start and end in ticks of 10 us."""
    start = 123456
    end = start + round(seconds * 1e5)
    head = bytes((kind, 0x14, 1, scheme, 2, 7, 20, 1)) + bytes(11) + start.to_bytes(4, "big") + end.to_bytes(4, "big")
    return encode_usi(0x13, head + bytes((0, 90, 0)) + len(pdu).to_bytes(2, "big") + pdu)


def test_a_sniffer_stream_is_told_with_its_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As from a sniffer of 1.3."""
    capture = tmp_path / "sniffer.bin"
    capture.write_bytes(sniffed(0x20, 4, bytes.fromhex(CAPTURED["beacon 20"]), 0.011008))
    code, lines, _ = run(capsys, str(capture), "--format", "serial")
    assert code == 0
    assert lines[0].startswith("message 1 1.23456 sniffed: beacon of base")


@pytest.mark.parametrize("mode", [PhyMode.TYPE_B, PhyMode.TYPE_BC])
def test_a_sniffer_says_the_version(mode: PhyMode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Messages of 1.4 are told as that, B and BC by how long the frame was, robust modulations too."""
    beacon = Beacon14(9, 0, 0, 0, False, 0, 0, False, False, 3, 0, SNA, 0).encode()
    call = PromotionNeeded14(1, True, False, b"\xff" * 6, b"\xaa" * 6).encode()
    capture = tmp_path / "sniffer.bin"
    messages = [(Scheme.DBPSK_C, beacon), (Scheme.ROBUST_DBPSK, call), (Scheme.DQPSK_C, beacon)]
    capture.write_bytes(
        b"".join(sniffed(0x21, scheme, pdu, frame_duration_s(len(pdu), scheme, mode)) for scheme, pdu in messages)
    )
    code, lines, _ = run(capsys, str(capture), "--json")
    told = [json.loads(line) for line in lines]
    assert (code, [one["prime"] for one in told]) == (0, ["1.4"] * 3)
    assert {one["frame_type"] for one in told} == {mode.name}
    assert [one["scheme"] for one in told] == [scheme.name for scheme, _ in messages]


def test_what_a_sniffer_cannot_have_heard_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown version, and modulations that Type A does not have, as in protocol 22h."""
    pdu = bytes.fromhex(CAPTURED["beacon 20"])
    capture = tmp_path / "sniffer.bin"
    capture.write_bytes(
        b"".join(sniffed(kind, scheme, pdu, 0.011) for kind, scheme in ((0x55, 4), (0x20, 12), (0x20, 3)))
    )
    code, lines, _ = run(capsys, str(capture), "--json", "--format", "serial")
    assert code == 1
    assert [json.loads(line)["fault"] for line in lines] == [
        "seen sniffer message 0x55, expected 0x20 (PRIME 1.3) or 0x21 (1.4)",
        "seen modulation 12 in a frame of TYPE_A",
        "seen modulation 3 in a frame of TYPE_A",
    ]


def test_a_damaged_frame_is_named_and_the_rest_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One wrong digit and one line of prose do not spoil their neighbours; the exit code says that something was
    bad."""
    capture = tmp_path / "capture.hex"
    good = CAPTURED["REG_REQ"]
    capture.write_text(f"{CAPTURED['beacon 19']}\n{good[:-1]}5\nhello\n{good}\n")
    code, lines, err = run(capsys, str(capture))
    assert code == 1
    assert [("BAD" in line) for line in lines] == [False, True, True, False]
    assert lines[1].startswith("line 2: BAD CRC-32: seen")
    assert "2 frames decoded, 2 not" in err


def test_standard_input_and_a_given_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a beacon the subnetwork can be named."""

    class Pipe:
        buffer = io.BytesIO(CAPTURED["REG_REQ"].encode())

    monkeypatch.setattr("sys.stdin", Pipe())
    code, lines, _ = run(capsys, "-", "--sna", "40:40:22:01:C7:9A")
    assert (code, len(lines)) == (0, 1)


def test_control_packets_are_named_by_what_they_are_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every published control packet by the name it was published with."""
    names = [name for name in ALL if not any(word in name for word in ("beacon", "data", "promotion needed"))]
    capture = tmp_path / "capture.hex"
    capture.write_text("\n".join(ALL[name] for name in names))
    code, lines, _ = run(capsys, str(capture), "--sna", "40:40:22:01:C7:9A", "--json")
    assert code == 0
    told = [json.loads(line)["packets"][0]["control"] for line in lines]
    assert told == ["REG_UNR_B" if name == "UNR_B" else name.split()[0] for name in names]


@pytest.mark.parametrize("time", ["12:00:00", "07:59:59.25", "12.5", "0.000001"])
@pytest.mark.parametrize("gap", [" ", "\t", "  "])
def test_a_line_may_begin_with_a_time(time: str, gap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a fraction of a second or without; bytes written with colons are no time."""
    capture = tmp_path / "capture.hex"
    pdu = bytes.fromhex(CAPTURED["beacon 19"])
    capture.write_text(f"{time}{gap}{pdu.hex()}\n{time}{gap}{pdu.hex(':')}\n{pdu.hex(':')}\n{pdu.hex(':', 3)}\n")
    code, lines, _ = run(capsys, str(capture), "--json")
    assert code == 0
    assert [json.loads(line).get("time") for line in lines] == [time, time, None, None]


@pytest.mark.parametrize("arguments", [["missing.hex"], ["."], ["--sna", "nonsense", "empty"], ["empty"]])
def test_bad_input_is_one_clear_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing file, directory, empty file, wrong address: exit code 2, one line, no traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_bytes(b"\n")
    code, lines, err = run(capsys, *arguments)
    assert (code, lines, len(err.splitlines())) == (2, [], 1)


REG14 = Reg14(False, False, 0b101000, True, True, 2, b"\xaa" * 6)
PRO14 = Pro14(False, 2, 9, 5, 2, 3, 1, 0, False, False)
ALV14 = Alv14(4, 2, 1, 3, (AliveHop(True, 1, True, 2),))


@pytest.mark.parametrize(
    ("downlink", "lnid", "ctype", "payload", "words"),
    [
        (False, LNID_BROADCAST, 1, REG14.encode(), "REG_REQ node 0/0x3fff capabilities 40, alive True, arq True"),
        (True, 7, 1, REG14.encode(), "REG_RSP node 0/0x0007"),
        (False, 7, 3, replace(PRO14, request=b"\xbb" * 9).encode(), "PRO_REQ_S node 0/0x0007 position 2, nsid 9"),
        (True, 7, 3, PRO14.encode(), "PRO_REQ_B node 0/0x0007 position 2, nsid 9"),
        (False, 7, 3, PRO14.encode(), "PRO_ACK node 0/0x0007"),
        (True, 7, 7, ALV14.encode(), "ALV_B node 0/0x0007 round trip left 4, time 2, level min 1, tx seq 3"),
        (True, 7, 2, b"\x01\x02", "CON node 0/0x0007, not established, 2 bytes 0102"),
    ],
)
def test_control_packets_of_the_newer_version_are_told(
    downlink: bool, lnid: int, ctype: int, payload: bytes, words: str
) -> None:
    """Behind a beacon, which says the subnetwork, in a generic PDU whose checksums are right."""
    header = PacketHeader14(0, 1, True, ctype, 0, lnid, len(payload), False, False, False, False)
    beacon = Beacon14(9, 0, 0, 0, False, 0, 0, False, False, 3, 0, SNA, 0).encode()
    pdu = GenericPdu14(downlink, 0, (Packet14(header, payload),)).encode(SNA)
    raws = [Raw("", data, Scheme.DBPSK_C, mode=PhyMode.TYPE_B) for data in (beacon, pdu)]
    _, told = tell(raws, None)
    assert told.fault is None
    assert words in told.words
    assert told.fields["packets"][0]["control"] == words.split(maxsplit=1)[0].rstrip(",")


@pytest.mark.parametrize("arq", [True, False])
def test_data_of_the_newer_version_says_itself_whether_it_has_arq(arq: bool) -> None:
    """In its header; what the connection carries is assumed, and a last segment may have a CRC."""
    head = ArqHeader(3, flush=True, ack=1).encode() if arq else b""
    says = "packet 3 flush ack 1, " if arq else "without ARQ, "
    for body, words in (
        (WHOLE, "SAP 2 to 1: GET request"),
        (b"\xc2\x01\x02", "last segment 2 with CRC, 2 bytes"),
    ):
        header = PacketHeader14(0, 2, False, 256, 0, 7, len(head + body), False, False, arq, False)
        pdu = GenericPdu14(True, 0, (Packet14(header, head + body),)).encode(SNA)
        told = Teller(SNA).tell(Raw("", pdu, Scheme.DBPSK_C, mode=PhyMode.TYPE_B))
        assert f"1.4 down level 0: data node 0/0x0007 connection 256: {says}{words}" in told.words


def test_frames_of_the_newer_version_are_told_as_far_as_they_are_established(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Type B from the serial port and from hex lines: beacon and call in words with their airtime; a generic PDU, whose
    header nobody has established, is refused by name and spoils nothing."""
    beacon = Beacon14(9, 7, 1, 0, False, 3, 0, False, True, 3, 5, bytes.fromhex("40402201C79A"), 4)
    call = PromotionNeeded14(1, False, True, b"\xff" * 6, bytes.fromhex("AABBCCDDEE01"))
    port, lines_file = tmp_path / "port.bin", tmp_path / "b.hex"
    pdus = [beacon.encode(), call.encode(), b"\x00" * 30]
    port.write_bytes(b"".join(encode_usi(0x22, Receive(1, 3, 4, 0, 90, 96, 0, 0, 0, 0, pdu).encode()) for pdu in pdus))
    code, lines, _ = run(capsys, str(port), "--json")
    told = [json.loads(line) for line in lines]
    assert code == 1
    assert [item.get("prime") for item in told] == ["1.4", "1.4", None]
    assert (told[0]["kind"], told[0]["sid"], told[0]["frame_type"]) == ("beacon", 7, "TYPE_BC")
    assert told[0]["airtime_ms"] == round(1000 * frame_duration_s(18, Scheme.DBPSK_C, PhyMode.TYPE_BC), 3)
    assert told[1]["pna"] == "aabbccddee01"
    assert "not established" in told[2]["fault"]
    lines_file.write_text("\n".join(pdu.hex() for pdu in pdus))
    code, lines, err = run(capsys, str(lines_file), "--frame-type", "B")
    assert (code, [line.split(": ")[1].startswith("1.4") or "BAD" in line for line in lines]) == (1, [True] * 3)
    assert "2 frames decoded, 1 not" in err
    code, _, err = run(capsys, str(lines_file))  # as Type A, none of them is one
    assert (code, err.split()[0]) == (1, "0")


def test_who_moves_takes_along_its_own_connections_and_not_those_of_who_has_its_number_since() -> None:
    """The number was given to another node, which has opened one without ARQ."""
    seen = ConnectionsSeen()

    def registers(lnid: int, eui48: int, *, roaming: bool) -> None:
        reg = Reg(False, roaming, 0, Capabilities.SWITCH, 2, Eui48(bytes([2, 0, 0, 0, 0, eui48])))
        packet = Packet(True, 1, True, ControlType.REG, 0, lnid, reg.encode())
        seen.note(packet, reg, downlink=True)

    def opens(lnid: int, *, arq: bool) -> None:
        con = Con(False, arq, 256, 3, b"meter")
        packet = Packet(True, 1, True, ControlType.CON, 0, lnid, con.encode())
        seen.note(packet, con, downlink=False)

    def arq(lnid: int) -> bool | None:
        return seen.reading(Packet(True, 2, False, 256, 0, lnid, b"")).arq

    registers(5, 1, roaming=False)
    registers(5, 2, roaming=False)
    opens(5, arq=False)
    registers(6, 1, roaming=True)
    assert (arq(5), arq(6)) == (False, True)
    registers(7, 2, roaming=True)
    assert arq(7) is False
