"""An event loop whose time jumps: when nothing is ready it goes straight to the next timer.

Everything that asks the loop for time lives in virtual seconds: `asyncio.sleep`, timeouts, `shared.clock.LoopClock`.
Two runs of the same world are the same to the event. Timers of one instant fire in the order in which they were armed,
so that one more in the world, which does nothing, leaves the order of the others. There are no threads and no sockets
in such a run: work outside the loop would not advance its time, so the default executor is refused.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final, TypeVar

ResultT = TypeVar("ResultT")

UTC_AT_START_S: Final = 1_790_000_000.0
"""[s] Unix time that a virtual world starts at; only a label."""


class DeadlockError(RuntimeError):
    """Nothing is ready and nothing is scheduled: the world can never go on."""


class _Timer(asyncio.TimerHandle):
    """The standard one, made without the questions that debugging asks; of one instant, the one armed first is less."""

    __slots__ = ("_order",)
    _when: float
    _order: int

    def __init__(self, when: float, callback: Any, args: Any, loop: Any, context: Any) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._source_traceback = self._repr = None
        self._scheduled = True
        self._order = loop.armed

    def __lt__(self, other: Any) -> bool:
        his_when: float = other._when
        his_order: int = other._order
        return self._order < his_order if self._when == his_when else self._when < his_when


class VirtualLoop(asyncio.SelectorEventLoop):
    """Selector loop on virtual time."""

    # Of the standard loop, used by `_run_once`.
    _scheduled: list[Any]
    _ready: deque[Any]
    _stopping: bool
    _clock_resolution: float
    _timer_cancelled_count: int

    def __init__(self) -> None:
        self._now = 0.0
        self.armed = 0
        """Timers that were ever armed."""
        super().__init__()

    def time(self) -> float:
        return self._now

    def utc_s(self) -> float:
        """Wall-clock label of the present virtual instant [s]."""
        return UTC_AT_START_S + self._now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        """Arm a timer; the standard one without its checks for debugging."""
        self.armed += 1
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        """The same, counted from now."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """One turn of the loop without a selector: due timers, else a jump to the next one, then everything ready.

        The standard turn asks the operating system for sockets each time; a world without sockets has none to ask for.
        """
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not ready and not self._stopping:
            self.jump(scheduled[0]._when - self._now if scheduled else None)
        until = self._now + self._clock_resolution
        while scheduled and scheduled[0]._when < until:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refuse: threads would not advance this loop's time."""
        raise AssertionError(f"threads do not exist in virtual time: {executor!r} {func!r} {args!r}")

    def jump(self, duration_s: float | None) -> None:
        """Advance the clock, as nothing is ready."""
        if duration_s is None:
            raise DeadlockError(f"at {self._now:g} s virtual: nothing is ready and nothing is scheduled")
        self._now += max(0.0, duration_s)


def run_virtual(main: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run a coroutine in a virtual world of its own and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        # Not `runner.run`: at its end it looks up the signal handler it has set, and that writes out the whole result
        # of the world in words (an enumeration complains about a value that is none of its own).
        return runner.get_loop().run_until_complete(main())
