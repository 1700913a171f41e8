"""The one shape of everything with a memory and a protocol, and the one pump that runs it.

A machine reads no clock, never sleeps, logs nothing and opens nothing. It is called with an input or with the time it
asked for, and answers with frozen outputs in the order in which they must be performed::

    handle(input, now) -> list[Output]     something arrived
    wake(now)          -> list[Output]     the time you asked for has come; harmless if early
    wake_at: float | None                  [s] monotonic

The order of outputs is a contract: *record* stands before *send*, and the pump performs one after the other.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from shared.clock import Clock, Timer

InputT = TypeVar("InputT")
InputT_contra = TypeVar("InputT_contra", contravariant=True)
OutputT = TypeVar("OutputT")
OutputT_co = TypeVar("OutputT_co", covariant=True)

BATCH_MAX = 64
"""Inputs handled in a row before other tasks get their turn."""


class Machine(Protocol[InputT_contra, OutputT_co]):
    """Sans-IO state machine."""

    @property
    def wake_at(self) -> float | None:
        """Monotonic time [s] at which `wake` wants to be called, or None."""
        ...

    def handle(self, item: InputT_contra, now: float) -> Sequence[OutputT_co]:
        """Take one input."""
        ...

    def wake(self, now: float) -> Sequence[OutputT_co]:
        """Do what time alone demands; harmless if early."""
        ...


class Inbox(Generic[InputT]):
    """Mailbox in front of a machine, with a named limit; what does not fit is refused and counted."""

    def __init__(self, name: str, limit: int) -> None:
        assert limit > 0, limit
        self.name = name
        self.limit = limit
        self.refused = 0
        self._items: deque[InputT] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: Timer | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: InputT) -> bool:
        """Leave an input; False (and counted) if the mailbox is full."""
        if len(self._items) >= self.limit:
            self.refused += 1
            return False
        self._items.append(item)
        self._release()
        return True

    def take(self) -> InputT | None:
        """The oldest input, or None."""
        return self._items.popleft() if self._items else None

    async def wait(self, clock: Clock, deadline: float | None) -> None:
        """Return when there is an input or the deadline [s] has come; early now and then, which is harmless.

        A timer that is armed for an earlier deadline is left alone: most deadlines only move away, and arming one for
        each turn is what an idle machine would spend its time on.
        """
        if self._items:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        if deadline is not None and deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = clock.call_at(deadline, self._expired)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _expired(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._release()

    def _release(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Perform = Callable[[OutputT], Awaitable[None] | None]
"""Carries out one output; awaited when it answers with an awaitable, so that nothing later starts before it is done."""


async def drive(
    machine: Machine[InputT, OutputT],
    inbox: Inbox[InputT],
    perform: Perform[OutputT],
    clock: Clock,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Run a machine for ever: take an input or the deadline, call, perform in order, repeat.

    Args:
        machine: the machine; only this pump may call it.
        inbox: where inputs arrive, from any task of the same loop.
        perform: carries out one output.
        clock: whose seconds ``now`` and ``wake_at`` are.
        progress: called after every turn; the supervisor's watchdog listens.

    Everything `perform` raises ends the pump: the supervisor decides what that means.
    """
    turns = 0
    while True:
        now = clock.monotonic()
        wake_at = machine.wake_at
        if wake_at is not None and wake_at <= now:
            outputs = machine.wake(now)
        elif (item := inbox.take()) is not None:
            outputs = machine.handle(item, now)
        else:
            await inbox.wait(clock, wake_at)
            turns = 0
            progress()
            continue
        for output in outputs:
            pending = perform(output)
            if pending is not None:
                await pending
        turns += 1
        if turns >= BATCH_MAX:
            turns = 0
            progress()
            await asyncio.sleep(0)
