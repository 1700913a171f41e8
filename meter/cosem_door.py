"""The reading tools' door: COSEM in the TCP wrapper of IEC 62056-47, on the loopback interface, for tests and service.

A wrapper is eight bytes: version 1, source and destination port, length of the APDU. One connection is one client; what
it may do is told by `meter.association`. There is no door unless the configuration asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from shared.cosem import SERVER_SAP
from shared.daemon import Progress, show
from shared.errors import DeviceError

VERSION: Final = 1
HEADER_BYTES: Final = 8
APDU_BYTES_MAX: Final = 1021
CONNECTIONS_MAX: Final = 4

IDLE_S_MAX: Final = 60.0
"""[s] A client that says nothing for so long, or cannot finish one APDU in it, is cut off."""

Answer = Callable[[int, bytes], bytes]
"""The answer to an APDU from a client's address, on one connection."""

CosemDoor = Callable[[Callable[[], Answer], Progress], Awaitable[None]]
"""Serves clients for ever; asks for a new `Answer` for each connection."""


def listen(host: str, port: int) -> socket.socket:
    """The listening socket of a door, before anybody is served.

    Raises:
        DeviceError: the port is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise DeviceError(f"cosem door {host}:{port}: {error.strerror or error}") from error


def cosem_door(listening: socket.socket) -> CosemDoor:
    """The door as a worker of the daemon; it owns the socket from its first turn on."""

    async def serve(associate: Callable[[], Answer], progress: Progress) -> None:
        serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving[task] = writer
            try:
                # Slow, gone, or no client of this protocol: there is nobody to be told.
                with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    if len(serving) <= CONNECTIONS_MAX:
                        await _serve(reader, writer, associate())
            finally:
                del serving[task]
                writer.close()

        server = await asyncio.start_server(client, sock=listening)
        try:
            await show(progress)
        finally:
            server.close()
            for writer in serving.values():
                writer.transport.abort()
            await asyncio.gather(*serving, return_exceptions=True)

    return serve


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """One client until it leaves, or says what is no wrapper."""
    while True:
        async with asyncio.timeout(IDLE_S_MAX):
            header = await reader.readexactly(HEADER_BYTES)
            version, source, destination, length = (int.from_bytes(header[at : at + 2], "big") for at in (0, 2, 4, 6))
            if (version, destination) != (VERSION, SERVER_SAP) or not 0 < length <= APDU_BYTES_MAX:
                return
            apdu = answer(source, await reader.readexactly(length))
            writer.write(b"".join(part.to_bytes(2, "big") for part in (VERSION, SERVER_SAP, source, len(apdu))) + apdu)
            await writer.drain()
