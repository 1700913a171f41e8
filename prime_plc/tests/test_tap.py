"""What a port has carried lately: kept within bounds, told as frames, also from the middle of one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prime_plc.cli import main
from prime_plc.modem_messages import Receive, Send
from prime_plc.tap import BYTES_MAX, CHUNKS_MAX, RECEIVED, SENT, Tap
from prime_plc.telling import tell
from prime_plc.tests.captured_frames import CAPTURED
from prime_plc.trace import read_tap
from prime_plc.usi import PROTOCOL_PHY, encode_usi
from shared.status_socket import TRACE

PDUS = [bytes.fromhex(pdu) for pdu in CAPTURED.values()]


class Still:
    """A clock that stands."""

    now = 1_790_000_000.0

    def utc_s(self) -> float:
        return self.now


def tap() -> Tap:
    clock: Any = Still()
    return Tap(clock)


def heard(pdu: bytes) -> bytes:
    return encode_usi(PROTOCOL_PHY, Receive(0, 0, 4, 0, 90, 0x60, 16, 20, 500, 800, pdu).encode())


def said(pdu: bytes) -> bytes:
    return encode_usi(PROTOCOL_PHY, Send(1, 0, 0, 4, 0, 0, False, pdu).encode())


def chunks(of: Tap) -> list[tuple[float, str, bytes]]:
    return [(utc_s, way, bytes.fromhex(data)) for utc_s, way, data in json.loads(json.dumps(of.told()))]


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_frames_both_ways_come_back_in_order_with_their_times(piece: int) -> None:
    """However the port cuts them, and with the two directions between each other; the tap begins within a frame."""
    tested = tap()
    tested.note(RECEIVED, heard(PDUS[0])[9:])
    for pdu in PDUS:
        for up, down in zip(cut(heard(pdu), piece), cut(said(pdu), piece), strict=False):
            tested.note(RECEIVED, up)
            tested.note(SENT, down)
        for way, whole in ((RECEIVED, heard(pdu)), (SENT, said(pdu))):
            pieces = cut(whole, piece)
            for rest in pieces[min(len(cut(heard(pdu), piece)), len(cut(said(pdu), piece))) :]:
                tested.note(way, rest)
    raws = list(read_tap(chunks(tested)))
    assert [raw.pdu for raw in raws if raw.way == "received"] == PDUS
    assert [raw.pdu for raw in raws if raw.way == "sent"] == PDUS
    assert {raw.time for raw in raws} == {"1790000000.000000"}
    assert all(told.fault is None for told in tell(raws, None))


def cut(data: bytes, piece: int) -> list[bytes]:
    return [data[at : at + piece] for at in range(0, len(data), piece)]


def test_what_is_oldest_goes() -> None:
    """Neither many bytes nor many pieces fill the memory; the newest are there."""
    tested = tap()
    for _ in range(40):
        tested.note(RECEIVED, bytes(BYTES_MAX // 10))
        assert sum(len(data) for _, _, data in chunks(tested)) <= BYTES_MAX
    tested.note(RECEIVED, bytes(10 * BYTES_MAX))
    assert [len(data) for _, _, data in chunks(tested)] == [BYTES_MAX]
    for number in range(2 * CHUNKS_MAX):
        tested.note(SENT, number.to_bytes(4, "big"))
    assert len(tested.told()) == CHUNKS_MAX
    assert tested.told()[-1][2] == (2 * CHUNKS_MAX - 1).to_bytes(4, "big").hex()


def test_a_port_that_is_listened_to_is_the_same_port() -> None:
    """Bytes, loss and closing reach who they are for, and both ways are kept."""

    class Stack(asyncio.Protocol):
        def __init__(self) -> None:
            self.seen: list[object] = []

        def connection_made(self, transport: object) -> None:
            self.seen.append(transport)

        def data_received(self, data: bytes) -> None:
            self.seen.append(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.seen.append(exc)

    class Wire:
        def __init__(self) -> None:
            self.carried: list[bytes | None] = []

        def write(self, data: bytes) -> None:
            self.carried.append(data)

        def close(self) -> None:
            self.carried.append(None)

    tested, stack, wire = tap(), Stack(), Wire()

    async def opened(factory: Any) -> tuple[Any, Any]:
        return wire, factory()

    async def world() -> None:
        transport, protocol = await tested.on(opened)(lambda: stack)
        lost = OSError(5, "gone")
        protocol.connection_made(wire)
        protocol.data_received(b"up")
        transport.write(b"down")
        transport.close()
        protocol.connection_lost(lost)
        assert stack.seen == [wire, b"up", lost]
        assert wire.carried == [b"down", None]

    asyncio.run(world())
    assert [chunk[1:] for chunk in tested.told()] == [[RECEIVED, b"up".hex()], [SENT, b"down".hex()]]


@contextmanager
def answering(path: Path, answer: object) -> Iterator[list[bytes]]:
    """A status socket that says this, and what it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen(1)

        def serve() -> None:
            link, _ = door.accept()
            with link:
                asked.append(link.recv(100))
                link.sendall(json.dumps(answer).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join(10.0)


def test_a_running_dcu_is_traced_and_its_frames_are_written_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, and as a pcap file that says the same."""
    tested = tap()
    for pdu in PDUS:
        tested.note(RECEIVED, heard(pdu))
    with answering(tmp_path / "s", {"serial": tested.told()}) as asked:
        assert main(["trace", "--status-socket", str(tmp_path / "s"), "--pcap", str(tmp_path / "p")]) == 0
    assert asked == [TRACE.encode()]
    shown = capsys.readouterr()
    assert f"{len(PDUS)} frames decoded, 0 not" in shown.err
    assert main(["trace", str(tmp_path / "p")]) == 0
    again = capsys.readouterr().out
    assert [line.split(": ", 1)[1] for line in again.splitlines()] == [
        line.split(": ", 1)[1] for line in shown.out.splitlines()
    ]


@pytest.mark.parametrize(
    "answer", [{}, {"serial": []}, {"serial": [[1.0, "sent", "zz"]]}, {"serial": 5}, {"error": "?"}]
)
def test_another_answer_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: object) -> None:
    """An older DCU, none with a modem, garbage."""
    with answering(tmp_path / "s", answer):
        assert main(["trace", "--status-socket", str(tmp_path / "s")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["file", "--status-socket", "s"]])
def test_a_trace_has_one_source(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A file or a running DCU."""
    assert main(["trace", *arguments]) == 2
    assert "a file, or a running DCU" in capsys.readouterr().err
