"""The thin asyncio shell around a stack: opens the serial port, pumps bytes, opens it again when it is lost."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any, Final

import serialx

from prime_plc.sap import (
    BytesReceived,
    Happened,
    Input,
    MacInput,
    Output,
    PortClosed,
    PortOpened,
    ReopenPort,
    SendBytes,
)
from shared.clock import Clock
from shared.machine import Inbox, Machine, drive

BAUDRATE: Final = 115_200
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 5.0
INBOX_MAX: Final = 256
"""Inputs waiting for the stack; at 115200 baud bytes cannot fill it unless the host stands still."""

OpenPlc = Callable[[Callable[[], asyncio.Protocol]], Awaitable[tuple[Any, Any]]]
"""Opens the port: given a protocol factory, answers (transport, protocol) like ``loop.create_connection``."""


def open_serial(url: str, baudrate: int = BAUDRATE) -> OpenPlc:
    """The real port: a device path, or any URL that serialx knows (``socket://``, ``rfc2217://``)."""

    async def connect(factory: Callable[[], asyncio.Protocol]) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return await serialx.create_serial_connection(loop, factory, url, baudrate=baudrate)

    return connect


def port_error(url: str, error: OSError) -> str:
    """One clear line for a port that does not open."""
    if isinstance(error, FileNotFoundError):
        return f"{url}: no such device"
    if error.errno in {errno.EBUSY, errno.EAGAIN}:
        return f"{url}: the port is in use by another process"
    if isinstance(error, PermissionError):
        return f"{url}: no permission (is the user in the group dialout?)"
    return f"{url}: {error.strerror or error}"


class _Port(asyncio.Protocol):
    """Hands what arrives to the mailbox."""

    def __init__(self, inbox: Inbox[Input], lost: Callable[[str], None]) -> None:
        self._inbox = inbox
        self._lost = lost

    def data_received(self, data: bytes) -> None:
        self._inbox.put(BytesReceived(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(str(exc) if exc is not None else "closed")


class StackRunner:
    """Runs one stack on one serial port for ever."""

    def __init__(
        self,
        stack: Machine[Input, Output],
        open_plc: OpenPlc,
        clock: Clock,
        on_output: Callable[[Output], None],
        url: str = "plc",
    ) -> None:
        self._stack = stack
        self._open_plc = open_plc
        self._clock = clock
        self._on_output = on_output
        self._url = url
        self._inbox: Inbox[Input] = Inbox("plc", INBOX_MAX)
        self._transport: Any = None
        self._lost: asyncio.Event = asyncio.Event()
        self._reason = ""
        self._complaint = ""

    def send(self, item: MacInput) -> bool:
        """Leave data or a wish for the stack; False if it does not keep up."""
        return self._inbox.put(item)

    async def run(self, progress: Callable[[], None] = lambda: None) -> None:
        """Open the port, pump, and start over when it is lost."""
        pump = asyncio.ensure_future(drive(self._stack, self._inbox, self._perform, self._clock, progress))
        keeper = asyncio.ensure_future(self._keep_open())
        try:
            done, _ = await asyncio.wait([pump, keeper], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            pump.cancel()
            keeper.cancel()
            await asyncio.gather(pump, keeper, return_exceptions=True)
            self._close()

    async def _keep_open(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            if await self._open():
                backoff_s = BACKOFF_S_MIN
                await self._lost.wait()
                self._close()
                self._inbox.put(PortClosed(self._reason))
                self._complain(f"{self._url}: {self._reason}")
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _open(self) -> bool:
        self._lost.clear()
        try:
            self._transport, _ = await self._open_plc(lambda: _Port(self._inbox, self._note_lost))
        except OSError as error:
            self._complain(port_error(self._url, error))
            return False
        self._complaint = ""
        self._on_output(Happened("port open", self._url))
        self._inbox.put(PortOpened())
        return True

    def _complain(self, text: str) -> None:
        """Log a trouble once, until it changes."""
        if text != self._complaint:
            self._complaint = text
            self._on_output(Happened("port lost", text))

    def _note_lost(self, reason: str) -> None:
        self._reason = reason
        self._lost.set()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _perform(self, output: Output) -> None:
        if isinstance(output, SendBytes):
            if self._transport is not None:
                self._transport.write(output.data)
        elif isinstance(output, ReopenPort):
            self._note_lost(output.reason)
        else:
            self._on_output(output)
