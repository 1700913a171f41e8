"""When things happen in a virtual world: what a line and its modems ask of a loop, and the fastest thing that gives it.

An asyncio loop is a `Scheduler`: the standard one for wall-clock time, `hil_tests.virtual.loop.VirtualLoop` where
daemons live in virtual time. `EventHeap` is one without tasks, for streets of hundreds of bare machines.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final, Protocol


class Handle(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """Time, and calls at a time; every asyncio loop is one."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle: ...
    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle: ...


class _Event(list[Any]):
    """One call in the heap: when, which, what, with what, and calls of the same instant that were asked for right
    after it. A list, because those compare and are made in C."""

    __slots__ = ()

    def cancel(self) -> None:
        self[2] = None


_NOTHING: Final = _Event((-math.inf, 0, None, (), []))


class EventHeap:
    """Virtual time from call to call; what is due at the same instant happens in the order it was asked for."""

    def __init__(self) -> None:
        self._now = 0.0
        self._count = 0
        self._heap: list[_Event] = []
        self._latest = _NOTHING

    def time(self) -> float:
        """Now [s]."""
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Event:
        """Call at a time [s]; a time that is past means next."""
        latest = self._latest
        if when == latest[0]:  # a frame ends at thirty stations at once
            event = _Event((when, 0, callback, args))
            latest[4].append(event)
            return event
        self._count += 1
        self._latest = event = _Event((when, self._count, callback, args, []))
        heapq.heappush(self._heap, event)
        return event

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Event:
        """The same, counted from now."""
        return self.call_at(self._now + delay, callback, *args)

    def run_until(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Everything up to a time [s], or until ``done`` says so after some call; then it is that time."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            event = pop(heap)
            when, _, callback, args, same = event
            if event is self._latest:
                self._latest = _NOTHING
            if when > self._now:  # noqa: PLR1730  # a comparison is cheaper than a call, and this is every event
                self._now = when
            if callback is not None:
                callback(*args)
                if done is not None and done():
                    self._put_back(when, same)
                    return
            for number, (_, _, callback, args) in enumerate(same, 1):
                if callback is not None:
                    callback(*args)
                    if done is not None and done():
                        self._put_back(when, same[number:])
                        return
        self._now = max(self._now, until)

    def _put_back(self, when: float, calls: list[_Event]) -> None:
        """Calls of an instant that was left in its middle come before whatever else is asked for at it."""
        if calls:
            first = _Event((when, -1, None, (), calls))
            heapq.heappush(self._heap, first)
