"""The last bytes that crossed a serial port, both ways, kept for people who ask: a trace of a running node.

Nothing of it is secret on the line, and nothing changes by being kept: what is oldest goes when there is too much.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from prime_plc.link import OpenPlc
from shared.clock import Clock

BYTES_MAX: Final = 256 << 10
"""Kept of a port: some minutes of a busy line."""

CHUNKS_MAX: Final = 8192
"""Kept pieces, however small."""

SENT: Final = "sent"
RECEIVED: Final = "received"

Chunk = tuple[float, str, bytes]
"""Unix time [s], for people; way; bytes as they were read or written."""


class Tap:
    """What a port has carried lately."""

    def __init__(self, clock: Clock) -> None:
        """A tap with nothing in it; ``clock`` labels what it hears."""
        self._clock = clock
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0

    def note(self, way: str, data: bytes) -> None:
        """Keep these bytes, and let go of the oldest."""
        data = bytes(data[-BYTES_MAX:])
        self._chunks.append((self._clock.utc_s(), way, data))
        self._bytes += len(data)
        while self._bytes > BYTES_MAX or len(self._chunks) > CHUNKS_MAX:
            self._bytes -= len(self._chunks.popleft()[2])

    def told(self) -> list[list[object]]:
        """What is kept, oldest first, as JSON types."""
        return [[round(utc_s, 6), way, data.hex()] for utc_s, way, data in self._chunks]

    def on(self, open_plc: OpenPlc) -> OpenPlc:
        """The same port, listened to."""

        async def connect(factory: Callable[[], asyncio.Protocol]) -> tuple[Any, Any]:
            transport, protocol = await open_plc(lambda: _Heard(factory(), self))
            return _Said(transport, self), protocol

        return connect


class _Heard(asyncio.Protocol):
    """Hands everything on."""

    def __init__(self, protocol: asyncio.Protocol, tap: Tap) -> None:
        self._protocol = protocol
        self._tap = tap

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._tap.note(RECEIVED, data)
        self._protocol.data_received(data)


class _Said:
    """A transport as far as a stack uses one."""

    def __init__(self, transport: Any, tap: Tap) -> None:
        self._transport = transport
        self._tap = tap

    def write(self, data: bytes) -> None:
        self._tap.note(SENT, data)
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()
