"""The serial shell on a real pseudo-terminal: garbage, loss, return, a port in use, a port that is not there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from prime_plc.link import StackRunner, open_serial, port_error
from prime_plc.sap import BytesReceived, Happened, Input, Output, PortClosed, PortOpened, SendBytes
from shared.clock import LoopClock


class Echo:
    """A stack that notes everything and answers bytes with the same bytes."""

    wake_at = None

    def __init__(self) -> None:
        self.heard: list[Input] = []

    def handle(self, item: Input, now: float) -> list[Output]:
        self.heard.append(item)
        return [SendBytes(item.data)] if isinstance(item, BytesReceived) else []

    def wake(self, now: float) -> list[Output]:
        return []

    @property
    def data(self) -> bytes:
        return b"".join(item.data for item in self.heard if isinstance(item, BytesReceived))


class Terminal:
    """A serial device with a stable path that can vanish and come back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plug()

    def plug(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self.slave))

    def unplug(self) -> None:
        os.close(self.slave)
        os.close(self.master)
        self.path.unlink()


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path / "plc0")


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Echo, list[Output]]]:
    stack, outputs = Echo(), list[Output]()
    runner = StackRunner(stack, open_serial(str(path)), LoopClock(), outputs.append, str(path))
    task = asyncio.ensure_future(runner.run())
    try:
        async with asyncio.timeout(20):
            yield stack, outputs
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # the kernel's terminal has no event to wait for
        await asyncio.sleep(0.005)


def opened(stack: Echo) -> int:
    return sum(isinstance(item, PortOpened) for item in stack.heard)


async def test_bytes_cross_both_ways(terminal: Terminal) -> None:
    """What the modem says reaches the stack, what the stack answers reaches the modem, cut or not."""
    async with running(terminal.path) as (stack, _):
        await until(lambda: opened(stack))
        pieces = (b"\x7e\x00half", b" a frame\x7e", bytes(range(256)))
        for piece in pieces:
            os.write(terminal.master, piece)
        await until(lambda: len(stack.data) == sum(map(len, pieces)))
        echoed = b""
        while len(echoed) < len(stack.data):
            echoed += await asyncio.to_thread(os.read, terminal.master, 4096)
        assert echoed == stack.data
    terminal.unplug()


async def test_an_unplugged_port_is_opened_again_when_it_is_back(terminal: Terminal) -> None:
    """The stack learns of the loss once and of the return; the log says each once."""
    async with running(terminal.path) as (stack, outputs):
        await until(lambda: opened(stack))
        terminal.unplug()
        await until(lambda: any(isinstance(item, PortClosed) for item in stack.heard))
        terminal.plug()
        await until(lambda: opened(stack) == 2)
        assert [item.what for item in outputs if isinstance(item, Happened)].count("port open") == 2
    terminal.unplug()


async def test_a_missing_device_is_named_once_and_waited_for(tmp_path: Path) -> None:
    """One clear line however often it is tried; when the device appears it is opened."""
    path = tmp_path / "plc0"
    async with running(path) as (stack, outputs):
        await until(lambda: outputs)
        await asyncio.sleep(0.4)
        assert outputs == [Happened("port lost", f"{path}: no such device")]
        terminal = Terminal(path)
        await until(lambda: opened(stack))
    terminal.unplug()


async def test_a_port_in_use_is_refused(terminal: Terminal) -> None:
    """Two processes never share bytes: the second gets a clear line."""
    async with running(terminal.path) as (first, _):
        await until(lambda: opened(first))
        async with running(terminal.path) as (_, outputs):
            await until(lambda: outputs)
            assert outputs == [Happened("port lost", f"{terminal.path}: the port is in use by another process")]
    terminal.unplug()


def test_every_kind_of_trouble_has_its_words() -> None:
    """Permission and anything else name the port and the reason."""
    assert "dialout" in port_error("/dev/plc0", PermissionError(13, "Permission denied"))
    assert port_error("/dev/plc0", OSError(5, "Input/output error")) == "/dev/plc0: Input/output error"
