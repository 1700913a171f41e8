"""When things happen in a virtual world: what a line and its modems ask of a loop, and the fastest thing that gives it.

An asyncio loop is a `Scheduler`: the standard one for wall-clock time, `hil_tests.virtual.loop.VirtualLoop` where
daemons live in virtual time. `EventHeap` is one without tasks, for streets of hundreds of bare machines.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol


class Handle(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """Time, and calls at a time; every asyncio loop is one."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle: ...
    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle: ...


class _Event(list[Any]):
    """One call in the heap: when, which, what, with what. A list, because those compare and are made in C."""

    __slots__ = ()

    def cancel(self) -> None:
        self[2] = None


class EventHeap:
    """Virtual time from call to call; what is due at the same instant happens in the order it was asked for."""

    def __init__(self) -> None:
        self._now = 0.0
        self._count = 0
        self._heap: list[_Event] = []

    def time(self) -> float:
        """Now [s]."""
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Event:
        """Call at a time [s]; a time that is past means next."""
        self._count += 1
        event = _Event((when, self._count, callback, args))
        heapq.heappush(self._heap, event)
        return event

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Event:
        """The same, counted from now."""
        return self.call_at(self._now + delay, callback, *args)

    def run_until(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Everything up to a time [s], or until ``done`` says so after some call; then it is that time."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            when, _, callback, args = pop(heap)
            if callback is None:
                continue
            if when > self._now:  # noqa: PLR1730  # a comparison is cheaper than a call, and this is every event
                self._now = when
            callback(*args)
            if done is not None and done():
                return
        self._now = max(self._now, until)
