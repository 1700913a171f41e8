"""Server-sent events: one encoded text for all viewers, no queue behind any of them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dcu.web.feed import Feed

STALL_S: Final = 10.0
"""[s] A viewer that takes nothing for so long is cut off."""
STREAM_S_MAX: Final = 3600.0
"""[s] Then the browser asks anew, and shows again that it may."""


class Viewers:
    """How many streams are open, and how many may be."""

    def __init__(self, most: int) -> None:
        self.open, self.most = 0, most


class StreetStream(Response):
    """`street` events for as long as somebody listens."""

    def __init__(self, feed: Feed, viewers: Viewers) -> None:
        super().__init__(media_type="text/event-stream")
        self._feed, self._viewers = feed, viewers

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        self._viewers.open += 1
        gone = asyncio.create_task(_until_gone(receive))
        telling = asyncio.create_task(self._tell(send, headers))
        try:
            await asyncio.wait({gone, telling}, return_when=asyncio.FIRST_COMPLETED, timeout=STREAM_S_MAX)
        finally:
            self._viewers.open -= 1
            for task in (gone, telling):
                task.cancel()
            await asyncio.gather(gone, telling, return_exceptions=True)

    async def _tell(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        number, event = 0, b"retry: 2000\n\n"
        while True:
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": event, "more_body": True})
            number, event = await self._feed.next_event(number)


async def _until_gone(receive: Receive) -> None:
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = dict(await receive())
