"""Captures as pcap files: what was written comes back, the layout is the published one, damage is one clear line."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from prime_plc.cli import main
from prime_plc.modem_messages import Receive, Send
from prime_plc.pcap import Captured, microseconds, read_pcap, write_pcap
from prime_plc.pdu14 import Beacon14
from prime_plc.tests.captured_frames import ALL, CAPTURED
from prime_plc.usi import encode_usi
from shared.errors import DecodeError

BEACON14 = Beacon14(9, 0, 0, 0, False, 0, 0, False, False, 3, 0, bytes(range(6)), 0).encode()
PDU = bytes.fromhex(CAPTURED["beacon 19"])


def test_a_file_has_the_published_layout() -> None:
    """Byte by byte as libpcap's savefile format says, so that others open it."""
    data = write_pcap([Captured("12.5", 0, 4, "received", PDU)])
    assert data[:24].hex() == "d4c3b2a1020004000000000000000000ffff000093000000"
    assert struct.unpack_from("<4I", data, 24) == (12, 500_000, 4 + 18, 4 + 18)
    assert data[40:] == bytes((1, 0, 4, 2)) + PDU


@pytest.mark.parametrize("way", ["", "sent", "received", "sniffed"])
@pytest.mark.parametrize("time", ["", "0.000001", "4294967295.999999"])
def test_what_was_written_comes_back(way: str, time: str) -> None:
    """Every field, the edges of the time included; a frame without a time is still one without."""
    frames = [Captured("7.000000", 0, 0, "", b""), Captured(time, 0, 6, way, PDU)]
    assert read_pcap(write_pcap(frames)) == frames


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1.5", 1_500_000),
        ("01:00:00.25", 3_600_250_000),
        ("aa:bb:cc.dd", None),
        ("", None),
        ("4294967296.0", None),
        ("NaN", None),
        ("1:2", None),
        ("1e999999", None),
        ("4294967295:0:0.0", None),
    ],
)
def test_times_of_captures_are_numbers(time: str, expected: int | None) -> None:
    """Decimal seconds and clock times; what is neither, or does not fit, counts as unknown."""
    assert microseconds(time) == expected


def test_other_byte_order_and_nanoseconds_are_read() -> None:
    """Files that another tool has written anew."""
    head = struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 147)
    packet = bytes((1, 0, 4, 3)) + PDU
    data = head + struct.pack(">4I", 3, 1_000, len(packet), len(packet)) + packet
    assert read_pcap(data) == [Captured("3.000001000", 0, 4, "sniffed", PDU)]


def damaged() -> dict[str, bytes]:
    good = write_pcap([Captured("1.0", 0, 4, "", PDU)])
    return {
        "cut in the file header": good[:20],
        "cut in a packet header": good[:30],
        "cut in a packet": good[:-1],
        "another link type": good[:20] + b"\x01" + good[21:],
        "another version": good[:4] + b"\x03" + good[5:],
        "a huge length": good[:32] + b"\xff\xff\xff\xff" + good[36:],
        "a snapped packet": good[:36] + b"\xff" + good[37:],
        "a second with too many parts": good[:28] + b"\xff\xff\xff\x7f" + good[32:],
        "another header": good[:40] + b"\x02" + good[41:],
        "unknown flags": good[:43] + b"\x80" + good[44:],
        "pcapng": b"\x0a\x0d\x0d\x0a" + good,
    }


@pytest.mark.parametrize("what", damaged())
def test_a_damaged_file_is_one_clear_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong with the file as a file: exit code 2, one line that says it, nothing told."""
    data = damaged()[what]
    with pytest.raises(DecodeError):
        read_pcap(data)
    (tmp_path / "bad.pcap").write_bytes(data)
    code = main(["trace", str(tmp_path / "bad.pcap")])
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: pcap")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, object]]]:
    code = main(["trace", "--json", *arguments])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, [{key: value for key, value in line.items() if key not in {"where", "time"}} for line in lines]


def test_a_capture_says_the_same_through_pcap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every published frame, from text with times and without, and damaged ones too."""
    source, written = tmp_path / "capture.hex", tmp_path / "capture.pcap"
    lines = [f"{number}.25 {frame}" if number % 2 else frame for number, frame in enumerate(ALL.values())]
    source.write_text("\n".join([*lines, "beef00"]))
    first = told(capsys, str(source), "--pcap", str(written))
    assert first[0] == 1
    assert len(first[1]) == len(lines) + 1
    assert told(capsys, str(written)) == first


def test_way_modulation_and_frame_type_survive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the serial port, whose messages say all three; what is no frame of PRIME is left out."""
    sent = encode_usi(0x22, Send(0, 0, 0, 2, 0, 1000, True, PDU).encode())
    received = encode_usi(0x22, Receive(1, 0, 6, 0, 90, 96, 0, 0, 0, 0, PDU).encode())
    newer = encode_usi(0x22, Receive(1, 2, 12, 0, 90, 96, 0, 0, 0, 0, BEACON14).encode())
    other = encode_usi(0x22, Receive(1, 9, 6, 0, 90, 96, 0, 0, 0, 0, PDU).encode())
    source, written = tmp_path / "port.bin", tmp_path / "port.pcap"
    source.write_bytes(sent + other + newer + received)
    code, before = told(capsys, str(source), "--pcap", str(written))
    assert code == 1
    after = told(capsys, str(written))
    assert after == (0, [before[0], before[2], before[3]])
    assert [frame["way"] for frame in after[1]] == ["sent", "received", "received"]
    assert [frame["scheme"] for frame in after[1]] == ["D8PSK", "ROBUST_DBPSK", "D8PSK_C"]
    assert [frame.get("prime") for frame in after[1]] == [None, "1.4", None]


def test_a_frame_of_another_type_in_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good file with a frame that PRIME does not have: a fault of that frame, not of the file."""
    frames = [Captured("", 1, 4, "", PDU), Captured("", 0, 12, "", PDU), Captured("", 0, 4, "", PDU)]
    (tmp_path / "b.pcap").write_bytes(write_pcap(frames))
    code, found = told(capsys, str(tmp_path / "b.pcap"))
    assert code == 1
    assert found[0]["fault"] == "seen frame type 1, expected Type A (v1.3.6), B or BC (v1.4)"
    assert found[1]["fault"] == "seen modulation 12 in a frame of TYPE_A"
    assert found[2]["kind"] == "beacon"


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_a_foreign_analyser_reads_what_we_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wireshark's own reader: as many packets, link type USER 0, the same times and bytes, and it writes them back."""
    source, written, again = (tmp_path / name for name in ("capture.hex", "capture.pcap", "again.pcap"))
    source.write_text("\n".join(f"{number}.25 {frame}" for number, frame in enumerate(ALL.values())))
    first = told(capsys, str(source), "--pcap", str(written))
    shown = subprocess.run(
        ["tshark", "-r", written, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.protocols"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    rows = [line.split("\t") for line in shown]
    assert [float(row[0]) for row in rows] == [number + 0.25 for number in range(len(ALL))]
    assert [int(row[1]) for row in rows] == [4 + len(frame) // 2 for frame in ALL.values()]
    assert all("user_dlt" in row[2] for row in rows)
    subprocess.run(["tshark", "-r", written, "-F", "pcap", "-w", again], check=True, capture_output=True)
    assert again.read_bytes() == written.read_bytes() or told(capsys, str(again)) == first
