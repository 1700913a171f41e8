"""The unix sockets of a DCU: the operator's page looks in at one, `headroom-dcu status` asks at the other.

They are two because two users read them. The page's says how things are and listens to nothing: whoever breaks into the
page finds nothing there that could be told to do something. The other one, where a ping can be asked for, is for the
DCU's own user (and root) alone: the page's user is in the DCU's group, because the store's files are for that.

Neither can hold up decisions: so many connections at a time, so long for an answer, and a snapshot that is made anew no
more often than `SNAPSHOT_S`, however many ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from shared.daemon import Progress, show
from shared.errors import ConfigError, Fault
from shared.status_socket import QUESTION_BYTES_MAX, QUESTION_S, STATUS

PageDoor = Callable[[Callable[[], dict[str, Any]], Progress], Awaitable[None]]
"""Serves snapshots for ever."""

Answer = Callable[[str], Awaitable[dict[str, Any]]]
"""What is to be said to a question of the status socket."""

StatusDoor = Callable[[Answer, Progress], Awaitable[None]]
"""Answers questions for ever."""

ANSWER_S_MAX: Final = 5.0
"""[s] Who does not read the answer within this is cut off."""
SNAPSHOT_S: Final = 0.2
"""[s] Who asks again within this gets the same snapshot: making one takes time from decisions."""
CONNECTIONS_MAX: Final = 8

_Talk = Callable[[asyncio.StreamReader], Awaitable[bytes]]


def group_number(name: str, file: str) -> int:
    """The number of a group.

    Raises:
        ConfigError: no such group here.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(file, [Fault("status.page_group", name, "a group of this machine")]) from None


def page_door(path: Path, group: int | None) -> PageDoor:
    """Answers each connection with one JSON snapshot; this user may connect, and members of the group."""

    async def serve(snapshot: Callable[[], dict[str, Any]], progress: Progress) -> None:
        fresh = _Fresh(snapshot)

        async def talk(_reader: asyncio.StreamReader) -> bytes:
            return fresh.encoded()

        await _serve(path, group, talk, progress)

    return serve


def status_door(path: Path) -> StatusDoor:
    """Answers each connection's question with one JSON object; this user alone may connect."""

    async def serve(answer: Answer, progress: Progress) -> None:
        async def talk(reader: asyncio.StreamReader) -> bytes:
            return json.dumps(await answer(await _question(reader))).encode()

        await _serve(path, None, talk, progress)

    return serve


class _Fresh:
    """A snapshot that is at most `SNAPSHOT_S` old."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._snapshot = snapshot
        self._made_s, self._data = float("-inf"), b""

    def encoded(self) -> bytes:
        now = asyncio.get_running_loop().time()
        if now - self._made_s >= SNAPSHOT_S:
            self._data = json.dumps(self._snapshot(), separators=(",", ":")).encode()
            self._made_s = now
        return self._data


async def _question(reader: asyncio.StreamReader) -> str:
    """The line that is asked; nothing from who says nothing for a while, or too much."""
    try:
        async with asyncio.timeout(QUESTION_S):
            line = await reader.readline()
    except (TimeoutError, ValueError):
        return STATUS
    return line.decode("ascii", "replace")


async def _serve(path: Path, group: int | None, talk: _Talk, progress: Progress) -> None:
    """Answer connections to a socket for ever; who finds too many others there is hung up on."""
    open_now = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= CONNECTIONS_MAX:
                writer.write(await talk(reader))
                async with asyncio.timeout(ANSWER_S_MAX):
                    await writer.drain()
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            open_now -= 1
            writer.close()

    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # the ledger's lock says that no other instance serves it
    path.parent.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_unix_server(connected, str(path), backlog=CONNECTIONS_MAX, limit=QUESTION_BYTES_MAX)
    if group is None:
        path.chmod(0o600)
    else:
        os.chown(path, -1, group)
        path.chmod(0o660)
    try:
        await show(progress)
    finally:
        server.close()
        path.unlink(missing_ok=True)
