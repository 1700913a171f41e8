"""Bench relays, in memory and through gpiozero over the bench's socket; a dead process lets every coil go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from gpiozero import Device

from hil_tests.virtual.gpio import (
    BOUNCES,
    COIL_S,
    LINE_BYTES_MAX,
    SLOW_S,
    SOCKET_VARIABLE,
    BenchFactory,
    BenchRelay,
    BoardLine,
    RelayBoard,
    RelayFault,
    VirtualRelay,
    Wiring,
)
from hil_tests.virtual.loop import run_virtual
from meter.deadman import FACTORY_VARIABLE
from meter.pins import GpioRelay, default_factory
from meter.relay import Level, RelayPort, RelaySettings
from shared.clock import LoopClock
from shared.errors import DeviceError
from shared.messages import RelayState

WIRED = RelaySettings(pin=5, read_back_pin=6)

# ---- in memory -------------------------------------------------------------------------------------------------------


def play(fault: RelayFault, wait_s: float = 0.1) -> tuple[list[bool], RelayState, RelayState, int]:
    """Raise and release a relay with a fault: contact after each, read-back after each, moves of the contact."""

    async def story() -> tuple[list[bool], RelayState, RelayState, int]:
        relay = BenchRelay("meter", LoopClock())
        relay.fault = fault
        port: RelayPort = VirtualRelay(relay)
        port.raise_export()
        await asyncio.sleep(wait_s)
        raised, read_back = relay.raised, port.read_back()
        port.to_nominal()
        await asyncio.sleep(wait_s)
        return [raised, relay.raised], read_back, port.read_back(), relay.moves

    return run_virtual(story)


NOMINAL, RAISED = RelayState.NOMINAL, RelayState.RAISED


@pytest.mark.parametrize(
    ("fault", "contact", "read_back", "moves"),
    [
        (RelayFault.NONE, [True, False], (RAISED, NOMINAL), 2),
        (RelayFault.STUCK_OPEN, [False, False], (NOMINAL, NOMINAL), 0),
        (RelayFault.STUCK_CLOSED, [True, True], (RAISED, RAISED), 1),
        (RelayFault.SLOW, [False, False], (NOMINAL, NOMINAL), 0),
        (RelayFault.BOUNCE, [True, False], (RAISED, NOMINAL), 2 + 4 * BOUNCES),
        (RelayFault.READ_BACK_OPEN, [True, False], (NOMINAL, NOMINAL), 2),
        (RelayFault.READ_BACK_CLOSED, [True, False], (RAISED, RAISED), 2),
    ],
)
def test_a_relay_does_what_its_fault_says(
    fault: RelayFault, contact: list[bool], read_back: tuple[RelayState, RelayState], moves: int
) -> None:
    """Contact, read-back and the number of moves for one raise and one release."""
    assert play(fault) == (contact, *read_back, moves)


def test_a_slow_relay_follows_in_the_end() -> None:
    """And a command withdrawn meanwhile moves nothing."""
    assert play(RelayFault.SLOW, SLOW_S + 0.1)[0] == [True, False]


def test_the_contact_takes_its_time_and_tells() -> None:
    """The world hears of a move when the contact has moved, not when the coil was told."""

    async def story() -> list[tuple[float, bool]]:
        loop = asyncio.get_running_loop()
        moves: list[tuple[float, bool]] = []
        relay = BenchRelay("meter", LoopClock(), lambda relay: moves.append((loop.time(), relay.raised)))
        port = VirtualRelay(relay)
        port.raise_export()
        assert (port.commanded, port.read_back(), relay.energised) == (RAISED, NOMINAL, True)
        await asyncio.sleep(1.0)
        port.close()
        assert (port.commanded, port.read_back(), relay.energised) == (NOMINAL, RAISED, False)
        await asyncio.sleep(1.0)
        return moves

    assert run_virtual(story) == [(COIL_S, True), (1.0 + COIL_S, False)]


def test_a_fault_that_ends_lets_the_contact_follow_its_coil() -> None:
    """Stuck closed over a release, then free."""

    async def story() -> list[bool]:
        relay = BenchRelay("meter", LoopClock())
        relay.energise()
        await asyncio.sleep(1.0)
        relay.fault = RelayFault.STUCK_CLOSED
        relay.release()
        await asyncio.sleep(1.0)
        seen = [relay.raised]
        relay.fault = RelayFault.NONE
        await asyncio.sleep(1.0)
        return [*seen, relay.raised]

    assert run_virtual(story) == [True, False]


# ---- over the socket -------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RelayBoard]:
    """One relay on GPIO 5, its auxiliary contact on GPIO 6; the environment points gpiozero at it."""
    board = RelayBoard(tmp_path / "gpio", [Wiring(BenchRelay("meter", LoopClock(), coil_s=0.0), 5, read_back_pin=6)])
    await board.open()
    monkeypatch.setenv(FACTORY_VARIABLE, "headroom-bench")
    monkeypatch.setenv(SOCKET_VARIABLE, str(board.path))
    monkeypatch.setattr(Device, "pin_factory", None)
    yield board
    await board.close()


async def test_the_products_relay_works_on_the_bench(board: RelayBoard) -> None:
    """The same class as on a Raspberry Pi; only the environment differs."""
    bench_relay = board.wirings[0].relay

    def session() -> list[tuple[RelayState, RelayState, bool]]:
        relay = GpioRelay(WIRED)
        assert isinstance(Device.pin_factory, BenchFactory)
        seen = [(relay.commanded, relay.read_back(), bench_relay.energised)]
        for command in (relay.raise_export, relay.to_nominal, relay.raise_export):
            command()
            seen.append((relay.commanded, relay.read_back(), bench_relay.energised))
        relay.close()
        Device.pin_factory.close()
        return seen

    nominal, raised = (NOMINAL, NOMINAL, False), (RAISED, RAISED, True)
    assert await asyncio.to_thread(session) == [nominal, raised, nominal, raised]
    await board.released()
    assert not bench_relay.energised
    assert bench_relay.moves == 4


async def test_polarity_is_a_matter_of_wiring(
    board: RelayBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An active-high board with a contact to 3.3 V, set up to match."""
    relay = BenchRelay("meter", LoopClock(), coil_s=0.0)
    other = RelayBoard(tmp_path / "other", [Wiring(relay, 17, Level.HIGH, 27, Level.HIGH)])
    await other.open()
    monkeypatch.setenv(SOCKET_VARIABLE, str(other.path))

    def session() -> list[RelayState]:
        port = GpioRelay(RelaySettings(17, Level.HIGH, 27, Level.HIGH))
        seen = [port.read_back()]
        port.raise_export()
        seen.append(port.read_back())
        port.close()
        default_factory().close()
        return seen

    assert await asyncio.to_thread(session) == [NOMINAL, RAISED]
    await other.close()


async def test_a_second_process_is_turned_away(board: RelayBoard) -> None:
    """One line, and the first keeps its relay."""

    def session() -> RelayState:
        first = GpioRelay(WIRED)
        first.raise_export()
        factory, Device.pin_factory = Device.pin_factory, None
        with pytest.raises(DeviceError, match="already in use"):
            GpioRelay(WIRED)
        until = time.monotonic() + 5.0  # the coil takes its time, and a busy machine takes more
        while (state := first.read_back()) is not RAISED and time.monotonic() < until:
            time.sleep(0.01)
        first.close()
        factory.close()
        return state

    assert await asyncio.to_thread(session) is RAISED
    assert board.refused == 1


@pytest.mark.parametrize("path", ["", "/nonexistent/gpio"])
async def test_no_bench_is_one_clear_line(board: RelayBoard, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """The variable is not set, or nobody is there."""
    monkeypatch.setenv(SOCKET_VARIABLE, path)
    with pytest.raises(DeviceError, match="no GPIO chip found"):
        GpioRelay(WIRED)


async def test_when_the_bench_goes_the_relay_is_unknown(board: RelayBoard) -> None:
    """Commands fail, the read-back says unknown, closing is still harmless."""

    def begin() -> GpioRelay:
        relay = GpioRelay(WIRED)
        assert relay.read_back() is NOMINAL
        return relay

    def after(relay: GpioRelay) -> None:
        assert relay.read_back() is RelayState.UNKNOWN
        with pytest.raises(DeviceError, match="relay pin GPIO5"):
            relay.raise_export()
        relay.close()
        Device.pin_factory.close()

    relay = await asyncio.to_thread(begin)
    await board.close()
    await board.released()
    await asyncio.to_thread(after, relay)


PROCESS = """
import sys
from meter.pins import GpioRelay
from meter.relay import RelaySettings
relay = GpioRelay(RelaySettings(pin=5, read_back_pin=6))
relay.raise_export()
print(relay.read_back().name, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
async def test_a_dead_process_lets_the_coil_go(board: RelayBoard, end: str) -> None:
    """SIGKILL while raised, or a normal end without `close`: the pin is released, and the next process may claim it."""
    relay = board.wirings[0].relay
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=dict(os.environ),
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"RAISED\n"
        assert relay.energised
        if end == "kill":
            process.send_signal(signal.SIGKILL)
        process.stdin.close()
        _, errors = await process.communicate()
        assert errors == b""
        await board.released()
        assert not relay.energised


@pytest.mark.parametrize(
    "garbage", [b"jump 5\n", b"out 5\n", b"out five low\n", b"out 5 middle\n", b"\xff\n", b"x" * 4 * LINE_BYTES_MAX]
)
async def test_a_line_that_makes_no_sense_ends_the_connection(board: RelayBoard, garbage: bytes) -> None:
    """And releases what it held."""
    reader, writer = await asyncio.open_unix_connection(board.path)
    writer.write(b"hello test\nout 5 low\n" + garbage)
    assert await reader.read() == b"welcome\n"
    writer.close()
    await board.released()
    assert board.refused == 1
    assert not board.wirings[0].relay.energised


async def test_a_pin_that_answers_late_is_unknown_and_the_late_answer_is_not_believed(tmp_path: Path) -> None:
    """The bench holds an answer back: that read fails, and the next one gets its own answer."""
    path = tmp_path / "gpio"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        session = asyncio.create_task(asyncio.to_thread(_late_session, str(path)))
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        connection, _ = await loop.sock_accept(listener)
        reader, writer = await asyncio.open_connection(sock=connection)
        await reader.readline()
        writer.write(b"welcome\n")
        assert await reader.readline() == b"get 1 6\n"
        assert await reader.readline() == b"get 2 6\n"
        writer.write(b"level 1 low\nlevel 2 high\n")
        assert await session == ["late", "high"]
        writer.close()


def _late_session(path: str) -> list[str]:

    line = BoardLine(path)
    seen = []
    for _ in range(2):
        try:
            seen.append(line.level(6).value)
        except TimeoutError:
            seen.append("late")
    line.close()
    return seen


async def test_a_leftover_socket_is_replaced(tmp_path: Path) -> None:
    """A killed bench leaves its socket file behind."""
    board = RelayBoard(tmp_path / "gpio", [])
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(board.path))
    await board.open()
    await board.close()
    assert not board.path.exists()
