"""Clock port: the only way a daemon learns the time.

`monotonic` decides; `utc_s` only labels. A clock also arms timers, because a bench may run one daemon's clock faster
than another's: the deadline is given in this clock's own seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """An armed timer."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic seconds, wall-clock labels and timers."""

    def monotonic(self) -> float:
        """Seconds [s] that never go back; their zero is arbitrary."""
        ...

    def utc_s(self) -> float:
        """Unix seconds [s]; a label, never a reason."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back once when `monotonic` has reached ``when``."""
        ...


class LoopClock:
    """The running event loop's clock; with the bench's jumping loop it is virtual time."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, utc: Callable[[], float] = time.time) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._utc = utc

    def monotonic(self) -> float:
        return self._loop.time()

    def utc_s(self) -> float:
        return self._utc()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_at(when, callback)
