"""The door of the operator's page: a unix socket that says how things are and listens to nothing.

It is another socket than the one of `headroom-dcu status`, because another user reads it: whoever breaks into the page
finds nothing here that could be told to do something.
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

from shared.daemon import Progress
from shared.errors import ConfigError, Fault

PageDoor = Callable[[Callable[[], dict[str, Any]], Progress], Awaitable[None]]
"""Serves snapshots for ever."""

ANSWER_S_MAX: Final = 5.0
"""[s] Who does not read the answer within this is cut off."""
CONNECTIONS_MAX: Final = 8
PROGRESS_S: Final = 10.0


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
        open_now = 0

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal open_now
            open_now += 1
            try:
                if open_now <= CONNECTIONS_MAX:
                    writer.write(json.dumps(snapshot(), separators=(",", ":")).encode())
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
        server = await asyncio.start_unix_server(answer, str(path), backlog=CONNECTIONS_MAX)
        if group is None:
            path.chmod(0o600)
        else:
            os.chown(path, -1, group)
            path.chmod(0o660)
        try:
            while True:
                progress()
                await asyncio.sleep(PROGRESS_S)
        finally:
            server.close()
            path.unlink(missing_ok=True)

    return serve
