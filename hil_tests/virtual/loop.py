"""An event loop whose time jumps: when nothing is ready it goes straight to the next timer.

Everything that asks the loop for time lives in virtual seconds: `asyncio.sleep`, timeouts, `shared.clock.LoopClock`.
Two runs of the same world are the same to the event. There are no threads and no sockets in such a run: work outside
the loop would not advance its time, so the default executor is refused.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

ResultT = TypeVar("ResultT")

UTC_AT_START_S: Final = 1_790_000_000.0
"""[s] Unix time that a virtual world starts at; only a label."""


class DeadlockError(RuntimeError):
    """Nothing is ready and nothing is scheduled: the world can never go on."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Selector loop on virtual time."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def utc_s(self) -> float:
        """Wall-clock label of the present virtual instant [s]."""
        return UTC_AT_START_S + self._now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refuse: threads would not advance this loop's time."""
        raise AssertionError(f"threads do not exist in virtual time: {executor!r} {func!r} {args!r}")

    def jump(self, duration_s: float | None) -> None:
        """Advance the clock; called by the selector when nothing is ready."""
        if duration_s is None:
            raise DeadlockError(f"at {self._now:g} s virtual: nothing is ready and nothing is scheduled")
        self._now += max(0.0, duration_s)


class _JumpingSelector(selectors.SelectSelector):
    """Selector that never waits: it lets the loop's clock jump instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0:
            self._loop.jump(timeout)
        return []


def run_virtual(main: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run a coroutine in a virtual world of its own and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
