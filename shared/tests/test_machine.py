"""The one pump: order, deadlines, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shared.clock import LoopClock
from shared.machine import Inbox, drive


class Doubler:
    """Answers each input twice and wakes once, at a time it was given."""

    def __init__(self, wake_at: float | None = None) -> None:
        self._wake_at = wake_at

    @property
    def wake_at(self) -> float | None:
        return self._wake_at

    def handle(self, item: str, now: float) -> Sequence[str]:
        return [f"{item}1", f"{item}2"]

    def wake(self, now: float) -> Sequence[str]:
        if self._wake_at is None or now < self._wake_at:
            return []
        self._wake_at = None
        return ["woken"]


async def until(done: list[str], count: int) -> None:
    async with asyncio.timeout(5):
        while len(done) < count:  # noqa: ASYNC110  # the list is filled by the pump under test
            await asyncio.sleep(0)


async def test_outputs_are_performed_in_order_and_one_after_the_other() -> None:
    """A slow first output (a record) ends before the second (a send) begins, and before the next input is taken."""
    inbox: Inbox[str] = Inbox("test", 8)
    done: list[str] = []

    async def record(output: str) -> None:
        done.append(f"begin {output}")
        await asyncio.sleep(0)
        done.append(f"end {output}")

    inbox.put("a")
    inbox.put("b")
    pump = asyncio.ensure_future(drive(Doubler(), inbox, record, LoopClock()))
    await until(done, 8)
    pump.cancel()
    assert done == [f"{edge} {name}" for name in ("a1", "a2", "b1", "b2") for edge in ("begin", "end")]


async def test_a_deadline_wakes_the_machine_without_any_input() -> None:
    """Safe by silence: time alone makes the machine act."""
    done: list[str] = []
    clock = LoopClock()
    pump = asyncio.ensure_future(drive(Doubler(clock.monotonic() + 0.01), Inbox("test", 1), done.append, clock))
    await until(done, 1)
    pump.cancel()
    assert done == ["woken"]


async def test_what_perform_raises_ends_the_pump() -> None:
    """The pump swallows nothing."""
    inbox: Inbox[str] = Inbox("test", 1)
    inbox.put("a")

    def fail(_output: str) -> None:
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        await drive(Doubler(), inbox, fail, LoopClock())


def test_a_full_inbox_refuses_and_counts() -> None:
    """At the limit an input is refused, nothing already there is lost."""
    inbox: Inbox[int] = Inbox("test", 2)
    assert [inbox.put(number) for number in range(4)] == [True, True, False, False]
    assert inbox.refused == 2
    assert [inbox.take(), inbox.take(), inbox.take()] == [0, 1, None]
