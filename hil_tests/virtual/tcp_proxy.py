"""A wire between a TCP client and its server that holds, drops, doubles, cuts or resets the answers.

Nothing here waits for a time of its own: held answers leave when they are told to, so a test decides what is late.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from enum import Enum
from typing import Final

CHUNK_BYTES: Final = 4096
"""[byte] Read at once; a Modbus answer is at most 260."""

HELD_MAX: Final = 64
"""Answers held at most; the oldest goes first."""

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing sends a reset."""


class WireFault(Enum):
    """What becomes of an answer."""

    NONE = "passes"
    HOLD = "held until released"
    DROP = "lost"
    DUPLICATE = "arrives twice"
    TRUNCATE = "loses its last two bytes"
    SPLIT = "arrives byte by byte"
    GARBAGE = "every byte inverted"
    RESET = "the connection is reset instead"


class TcpProxy:
    """The wire: clients connect to `port`, their bytes go on to the server.

    Attributes:
        fault: what becomes of answers now.
        counts: answers by what became of them.
    """

    def __init__(self, server_host: str, server_port: int) -> None:
        self.fault = WireFault.NONE
        self.counts = dict.fromkeys(WireFault, 0)
        self.port = 0
        self._server_address = (server_host, server_port)
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._changed = asyncio.Event()
        self._serving: set[asyncio.Task[None] | None] = set()

    async def open(self) -> None:
        """Listen on a free port of the loopback."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut every connection and stop listening."""
        if self._listener is not None:
            self._listener.close()
        for writer in list(self._writers):
            writer.close()
        await asyncio.gather(*(task for task in self._serving if task is not None), return_exceptions=True)

    async def held(self) -> None:
        """Return when at least one answer is held."""
        while not self._held:
            self._changed.clear()
            await self._changed.wait()

    def release(self) -> None:
        """Let the held answers go, oldest first."""
        for writer, data in self._held:
            writer.write(data)
        self._held.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        server_reader, server_writer = await asyncio.open_connection(*self._server_address)
        self._writers |= {writer, server_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, server_writer))
                group.create_task(self._answer(server_reader, writer))
        finally:
            self._writers -= {writer, server_writer}
            self._serving.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                self.counts[self.fault] += 1
                await self._treat(data, writer)
        writer.close()

    async def _treat(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        match self.fault:
            case WireFault.NONE:
                writer.write(data)
            case WireFault.HOLD:
                self._held = [*self._held, (writer, data)][-HELD_MAX:]
                self._changed.set()
            case WireFault.DROP:
                pass
            case WireFault.DUPLICATE:
                writer.write(data + data)
            case WireFault.TRUNCATE:
                writer.write(data[:-2])
            case WireFault.SPLIT:
                for byte in data:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
            case WireFault.GARBAGE:
                writer.write(bytes(byte ^ 0xFF for byte in data))
            case WireFault.RESET:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
