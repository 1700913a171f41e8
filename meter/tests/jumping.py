"""A loop for these tests whose time jumps to the next timer when nothing is ready; no test waits for a clock."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Selector loop that lets its own clock jump."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_NeverWaiting(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float | None) -> None:
        """Go forward; None means that nothing will ever happen again."""
        assert seconds is not None, "nothing is ready and nothing is scheduled"
        self._now += max(0.0, seconds)


class _NeverWaiting(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0:
            self._loop.jump(timeout)
        return []


def run_jumping(main: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run a coroutine on a jumping loop of its own and return its result."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main())
