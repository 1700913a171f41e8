"""The scribe: nothing leaves before its record is durable, and a revoke is never held up by the disk."""

from __future__ import annotations

import asyncio
from asyncio import Future
from typing import Any

import pytest

from dcu.daemon import Scribe
from dcu.hosting.exchange import Record, SendAll, SendDown, Wait
from dcu.ledger.store import LedgerError
from shared.clock import LoopClock
from shared.ids import Epoch, MeterId
from shared.messages import Acknowledgement

METER = MeterId("client1")


class SlowLedger:
    """A writer whose disk answers when the test says so."""

    position = 0
    head = b""

    def __init__(self) -> None:
        self.waiting: list[Future[int]] = []

    def append(self, entry: dict[str, Any]) -> Future[int]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


def message(number: int, wait: Wait = Wait.DURABLE) -> SendDown:
    return SendDown(METER, Acknowledgement(Epoch(1), number), wait)


async def scribe(ledger: SlowLedger, sent: list[int]) -> tuple[Scribe, list[asyncio.Task[None]]]:
    done: Future[int] = asyncio.get_running_loop().create_future()
    done.set_result(0)

    def send(output: SendDown | SendAll) -> None:
        message = output.message
        sent.append(message.seq if isinstance(message, Acknowledgement) else message.decision.seq)

    writer = Scribe(ledger, send, done)
    clock = LoopClock()
    lanes = [writer.run_orderly(clock, lambda: None), writer.run_urgent(clock, lambda: None)]
    return writer, [asyncio.ensure_future(lane) for lane in lanes]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_message_waits_for_its_record() -> None:
    """While the disk is busy nothing leaves; then everything does, in order."""
    ledger, sent = SlowLedger(), list[int]()
    writer, lanes = await scribe(ledger, sent)
    for number in (1, 2):
        writer.record(Record({"seq": number}))
        writer.send(message(number))
    await settle()
    assert sent == []
    ledger.waiting[0].set_result(0)
    await settle()
    assert sent == [1]
    ledger.waiting[1].set_result(1)
    await settle()
    assert sent == [1, 2]
    for lane in lanes:
        lane.cancel()


async def test_a_revoke_waits_a_quarter_of_a_second_at_most() -> None:
    """The disk stands still: a grant stays back, the revoke behind it leaves."""
    ledger, sent = SlowLedger(), list[int]()
    writer, lanes = await scribe(ledger, sent)
    writer.record(Record({"seq": 1}))
    writer.send(message(1))
    writer.record(Record({"seq": 2}))
    writer.send(message(2, Wait.BRIEFLY))
    async with asyncio.timeout(5):
        while sent != [2]:  # noqa: ASYNC110  # the lane under test has a quarter of a second
            await asyncio.sleep(0.01)
    for lane in lanes:
        lane.cancel()


async def test_a_failing_record_ends_the_orderly_lane() -> None:
    """The message behind it never leaves, and the worker's end is the daemon's end."""
    ledger, sent = SlowLedger(), list[int]()
    writer, lanes = await scribe(ledger, sent)
    writer.record(Record({"seq": 1}))
    writer.send(message(1))
    ledger.waiting[0].set_exception(LedgerError("EIO"))
    with pytest.raises(LedgerError, match="EIO"):
        await lanes[0]
    assert sent == []
    lanes[1].cancel()
