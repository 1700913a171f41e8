"""The link: items into the outbox, batches out of it, commands in. Its three workers belong to the daemon's supervisor.

What the network does is never an error here: a broker that refuses, hangs or goes away is tried again later. What the
disk refuses is one, and ends the daemon, as everywhere in this house.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from dcu.utility.commands import Command, Judge, Order, Refusal, Refused
from dcu.utility.courier import Ask, Courier
from dcu.utility.documents import (
    DECISIONS,
    Class,
    decision,
    decision_name,
    encode,
    message,
    pack,
    state,
    state_topic,
    up,
)
from dcu.utility.outbox import Batch, Item, Outbox, Span
from dcu.utility.outbox_file import Lane, OutboxFull
from shared.clock import Clock
from shared.daemon import Progress
from shared.errors import HeadroomError
from shared.log import event, get_logger
from shared.machine import Inbox

ResultT = TypeVar("ResultT")

PENDING_MAX: Final = 8192
"""Items on their way to the outbox. Decisions beyond it are found again in the ledger at the next start."""
PUT_MAX: Final = 512
"""Items of one commit."""
FLUSH_S: Final = 90.0
"""[s] For so long a decision and what the broker acknowledges may be in memory only: after a crash the ledger tells
them, and what was acknowledged leaves once more. Reports and heads mostly come sooner, and take both with them."""
ARRIVED_MAX: Final = 1024
ARRIVED_BYTES_MAX: Final = 4 << 20
"""[byte] Commands that wait to be judged. A broker may bring at once all that it has kept for days, whatever we say of
how much we take (mosquitto 2.0 does)."""
DEAF_S: Final = 60.0
"""[s] From a command that the outbox had no room for to the session that brings it again: meanwhile it is emptied."""
IDLE_S: Final = 10.0
"""[s] A worker with nothing to do shows progress so often."""

REFUSALS_RECORDED_MAX: Final = 10
"""Refusals that can be had for nothing (no signature, or a repeated one) and are recorded at once; after that one in
`REFUSAL_S`. All are counted."""
REFUSAL_S: Final = 60.0
STRANGER_S: Final = 0.05
"""[s] Pause after a message that nobody with a key has signed: the broker waits for its acknowledgement, and a flood
costs little of the processor that decisions need."""
CHEAP: Final = frozenset({Refusal.OLD_NUMBER, Refusal.RETAINED, Refusal.OTHER_DCU})

_LOG: Final = get_logger("utility")


class LinkLost(HeadroomError):
    """The broker cannot be reached, or not any more."""


class MessageRefused(HeadroomError):
    """The broker does not take this message; the link is good."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message from the broker; it is acknowledged once what came of it is durable."""

    payload: bytes
    retained: bool
    acknowledge: Callable[[], None]


class Session(Protocol):
    """An open connection."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Returns once the broker has acknowledged (QoS 1): whether it has anybody to give this to, as far as it says.

        Raises:
            MessageRefused: it says no to this message.
            LinkLost: anything else.
        """

    async def close(self) -> None:
        """Leave; raises nothing."""


class BrokerPort(Protocol):
    """Where the utility is."""

    async def connect(self, arrived: Callable[[Arrival], None], lost: Callable[[str], None]) -> Session:
        """A session that is subscribed to our commands. ``lost`` is called at most once, when it ends by itself.

        Raises:
            LinkLost: not reached, not trusted, or not let in; says why.
        """


class OutboxPort(Protocol):
    """The outbox, where it may wait for the disk."""

    async def call(self, work: Callable[[Outbox], ResultT]) -> ResultT:
        """What ``work`` gives; calls are done one after the other, in order."""


class Site(Protocol):
    """What commands act on."""

    async def objection(self, order: Order) -> tuple[Refusal, str] | None:
        """Why an order cannot be carried out here."""

    def settings(self, order: Order) -> Mapping[str, Any]:
        """What of an order must hold after a restart, by name."""

    async def carry_out(self, command: Command) -> Item | None:
        """Do it, and record it (an entry of kind `outbox.COMMAND` with ``outcome`` and ``detail``); once more after a
        crash before the record. What there is to tell besides."""

    async def refused(self, refused: Refused, unrecorded: int) -> None:
        """Record a refusal, and how many before it were not."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """On its way into the outbox; ``position`` is the ledger's entry it tells of."""

    item: Item | None
    position: int | None = None


class UtilityLink:
    """One DCU's link."""

    def __init__(
        self,
        dcu: str,
        log: int,
        outbox: OutboxPort,
        broker: BrokerPort,
        judge: Judge,
        clock: Clock,
        draw: random.Random,
    ) -> None:
        """A link that is not connected yet; ``log`` is the number of the ledger's log that is written."""
        self._dcu, self._log = dcu, log
        self._outbox, self._broker, self._judge, self._clock = outbox, broker, judge, clock
        self._courier = Courier(draw, clock.monotonic())
        self._pending: deque[_Waiting] = deque()
        self._put_now: Inbox[None] = Inbox("utility outbox", 1)
        self._send_now: Inbox[None] = Inbox("utility sender", 1)
        self._arrived: Inbox[Arrival] = Inbox("utility commands", ARRIVED_MAX)
        self._arrived_bytes = 0
        self._deaf_until_s: float | None = None
        self._gap = self._full = False
        self._flush_s = clock.monotonic() + FLUSH_S
        self.refill: Callable[[], Awaitable[bool]] | None = None
        """Puts some of what the ledger has and the outbox missed; whether there is more (OutboxFull: there is no room).
        None where nobody can."""
        self._online: bool | None = None
        self._lost: str | None = None
        self.epoch = 0
        self.counters: Counter[str] = Counter()
        self._recordable, self._recordable_s, self._unrecorded = REFUSALS_RECORDED_MAX, 0.0, 0
        self._waiting: dict[str, int] = {}

    # ---- what the daemon tells ---------------------------------------------------------------------------------------

    def tell(self, item: Item) -> None:
        """Something for the utility."""
        self._enqueue(_Waiting(item))

    def recorded(self, position: int, entry: Mapping[str, Any]) -> None:
        """An entry of the ledger is durable; to be called for all of them, in order."""
        item = None
        if entry.get("kind") in DECISIONS:
            name = decision_name(self._dcu, self._log, position)
            item = Item(Class.DECISION, decision(self._log, position, entry), name)
        self._enqueue(_Waiting(item, position))

    def missed(self) -> None:
        """The ledger has entries that the outbox has not."""
        self._gap = True

    def _enqueue(self, waiting: _Waiting) -> None:
        if len(self._pending) >= PENDING_MAX:
            self.counters["not put"] += 1
            self._gap = self._gap or waiting.position is not None
            return
        self._pending.append(waiting)
        self._put_now.put(None)

    def status(self) -> dict[str, Any]:
        """For people."""
        return {
            "online": bool(self._online),
            "waiting": dict(self._waiting),
            "counters": {name: self.counters[name] for name in sorted(self.counters)},
        }

    # ---- into the outbox ---------------------------------------------------------------------------------------------

    async def run_outbox(self, progress: Progress) -> None:
        """Keep what the daemon tells, many items with one commit."""
        while True:
            await self._put_now.wait(self._clock, self._clock.monotonic() + IDLE_S)
            self._put_now.take()
            if self._clock.monotonic() >= self._flush_s:
                await self._flush()
            while self._pending:
                batch = [self._pending.popleft() for _ in range(min(PUT_MAX, len(self._pending)))]
                await self._keep(batch)
                self._send_now.put(None)
                progress()
            progress()

    async def _keep(self, batch: Sequence[_Waiting]) -> None:
        items = [waiting.item for waiting in batch if waiting.item is not None]
        positions = [waiting.position for waiting in batch if waiting.position is not None]
        whole = bool(positions) and positions[-1] - positions[0] < len(positions)  # else the queue was full in between
        span = Span(self._log, positions[0], positions[-1] + 1) if whole and not self._gap else None
        if any(waiting.position is None for waiting in batch):
            self._flush_s = self._clock.monotonic() + FLUSH_S  # not all is in the ledger: it is written now
        try:
            self._waiting, follows = await self._outbox.call(lambda outbox: _keep(outbox, items, span))
            self._gap = self._gap or not follows
        except OutboxFull as full:
            self.counters["not put"] += len(items)
            self._note_full(full)
        except ValueError as error:  # one item that cannot be kept takes neither the others nor the daemon with it
            if len(batch) > 1:
                for waiting in batch:
                    await self._keep([waiting])
            else:
                self.counters["not put"] += 1
                event(_LOG, logging.ERROR, "item cannot be kept", why=str(error))

    async def _flush(self) -> None:
        self._flush_s = self._clock.monotonic() + FLUSH_S
        try:
            await self._outbox.call(Outbox.flush)
        except OutboxFull as full:
            self._note_full(full)

    def _note_full(self, full: OutboxFull) -> None:
        """No room: the link goes on with what it has; decisions are in the ledger, and are put once there is room."""
        if not self._full:
            event(_LOG, logging.ERROR, "outbox full", why=str(full))
        self.counters["outbox full"] += 1
        self._full = self._gap = True

    # ---- to the broker -----------------------------------------------------------------------------------------------

    async def run_sender(self, progress: Progress) -> None:
        """Connect, send, and when the link goes, wait and connect again."""
        while True:
            self._lost = self._deaf_until_s = None
            session: Session | None = None
            try:
                session = await self._broker.connect(self._arrive, self._lose)
                progress()
                await self._serve(session, progress)
            except LinkLost as lost:
                self._note(online=False, why=str(lost))
            except OutboxFull as full:  # even what has left cannot be crossed out; it goes again under the same names
                self._note_full(full)
                self._note(online=False, why=str(full))
            finally:
                if session is not None:
                    await session.close()
            await self._pause(self._courier.pause_s(), progress)

    async def _serve(self, session: Session, progress: Progress) -> None:
        dropped = await self._outbox.call(_connected)
        self._courier.connected()
        now_utc_s = self._clock.utc_s()
        hello = encode(state(now_utc_s, online=True, epoch=self.epoch, dropped=dropped))
        await session.publish(state_topic(self._dcu), hello, retain=True)
        self._note(online=True, why="")
        while True:
            progress()
            if self._lost is not None:
                raise LinkLost(self._lost)
            if self._courier.pardons(self._clock.monotonic()):
                await self._outbox.call(Outbox.pardon)
            if self._courier.offers(self._clock.monotonic()):
                await self._outbox.call(Outbox.offer_again)
            ask = self._courier.ask()
            batch = await self._outbox.call(lambda outbox, ask=ask: _next(outbox, ask))  # type: ignore[misc]
            if batch is None and self._gap and self.refill is not None:
                self._gap = self._full = False  # first: what is missed from now on opens another gap
                await self._refill(self.refill, progress)
            elif batch is None:
                await self._send_now.wait(self._clock, self._clock.monotonic() + IDLE_S)
                self._send_now.take()
            else:
                await self._send(session, self._courier.wary(batch), progress)

    async def _refill(self, refill: Callable[[], Awaitable[bool]], progress: Progress) -> None:
        try:
            more = await refill()
        except OutboxFull as full:
            self._note_full(full)
            await self._pause(IDLE_S, progress)
        else:
            self._gap = self._gap or more

    async def _send(self, session: Session, batch: Batch, progress: Progress) -> None:
        payload = message(self._dcu, batch.kind, batch.items)
        began_s = self._clock.monotonic()
        try:
            heard = await session.publish(up(self._dcu, batch.kind), pack(payload))
        except (MessageRefused, LinkLost) as error:
            self.counters["messages failed"] += 1
            if self._courier.failed(batch):
                self.counters["items set aside"] += 1
                event(_LOG, logging.ERROR, "item set aside", kind=batch.kind.word, why=str(error))
                await self._outbox.call(lambda outbox: outbox.set_aside(batch))
            if isinstance(error, LinkLost):
                raise
            await self._pause(self._courier.pause_s(), progress)
        else:
            self._courier.sent(batch, self._clock.monotonic() - began_s, len(payload))
            self._waiting = await self._outbox.call(lambda outbox: _settle(outbox, batch))
            self.counters["items sent again" if batch.lane is Lane.AGAIN else "items sent"] += len(batch.rows)
            self._courier.heard(batch.kind, heard=heard)
            if not heard:
                self.counters["items sent to nobody"] += len(batch.rows)

    async def _pause(self, pause_s: float, progress: Progress) -> None:
        until_s = self._clock.monotonic() + pause_s
        while (left_s := until_s - self._clock.monotonic()) > 0:
            progress()
            await asyncio.sleep(min(IDLE_S, left_s))
        progress()

    def _note(self, *, online: bool, why: str) -> None:
        """Log transitions, and reasons that are new, once."""
        if online != self._online:
            self.counters["connected" if online else "lost"] += 1
            event(_LOG, logging.INFO if online else logging.WARNING, "utility link", online=online, why=why)
        self._online = online

    # ---- commands ----------------------------------------------------------------------------------------------------

    async def run_desk(self, site: Site, progress: Progress) -> None:
        """Take commands one after the other, those first that a crash has interrupted."""
        for command in await self._outbox.call(Outbox.unfinished):
            await self._carry_out(site, command)
            progress()
        while True:
            await self._arrived.wait(self._clock, self._clock.monotonic() + IDLE_S)
            while (arrival := self._arrived.take()) is not None:
                self._arrived_bytes -= len(arrival.payload)
                await self._take(site, arrival)
                progress()  # a flood must not look like a worker that hangs
            if self._deaf_until_s is not None and self._clock.monotonic() >= self._deaf_until_s:
                self._lose("commands wait at the broker")  # which brings them with the next session only
            progress()

    async def _take(self, site: Site, arrival: Arrival) -> None:
        last = await self._outbox.call(lambda outbox: outbox.last_number)
        retained, utc_s = arrival.retained, self._clock.utc_s()
        judged = self._judge.judge(arrival.payload, retained=retained, last=last, utc_s=utc_s)
        if isinstance(judged, Command) and (why := await self._objection(site, judged.order)) is not None:
            judged = Refused(*why, judged.sha256, authentic=True, number=judged.number, key=judged.key)
        if isinstance(judged, Command):
            command, settings = judged, site.settings(judged.order)
            try:
                await self._outbox.call(lambda outbox: outbox.accept(command, settings))
            except OutboxFull as full:
                self._leave_all(arrival, full)
                return
            arrival.acknowledge()  # not before it is durable: until then the broker keeps it for us
            self.counters["commands accepted"] += 1
            event(_LOG, logging.INFO, "command accepted", number=command.number, order=command.order.kind)
            await self._carry_out(site, command)
        else:
            try:
                await self._refuse(site, judged)
            except OutboxFull as full:
                self._leave_all(arrival, full)
                return
            if not judged.authentic:
                await asyncio.sleep(STRANGER_S)
            arrival.acknowledge()

    async def _objection(self, site: Site, order: Order) -> tuple[Refusal, str] | None:
        """Whatever goes wrong when an order is looked at refuses it: it must not come again with every session."""
        try:
            return await site.objection(order)
        except Exception as error:
            _LOG.exception("order cannot be judged kind=%s", order.kind)
            return Refusal.NOT_HERE, f"cannot be judged: {type(error).__name__}"

    async def _carry_out(self, site: Site, command: Command) -> None:
        item = await site.carry_out(command)
        if item is not None:
            self.tell(item)
        self._send_now.put(None)

    async def _refuse(self, site: Site, refused: Refused) -> None:
        """Answer and record (OutboxFull: no room for the number that this spends)."""
        cheap = refused.number is None or refused.why in CHEAP
        if refused.authentic:
            try:
                again = await self._outbox.call(lambda outbox: _refuse(outbox, refused))
            except OutboxFull as full:
                if not cheap:
                    raise
                again = False
                self._note_full(full)
            self.counters["commands repeated"] += again
            self._send_now.put(None)
        self.counters[f"refused {refused.why.value}"] += 1
        if cheap:  # it has spent no number: anybody can send it again
            now = self._clock.monotonic()
            self._recordable = min(
                REFUSALS_RECORDED_MAX, self._recordable + int((now - self._recordable_s) / REFUSAL_S)
            )
            if now - self._recordable_s >= REFUSAL_S:
                self._recordable_s = now
            if self._recordable == 0:
                self._unrecorded += 1
                return
            self._recordable -= 1
        await site.refused(refused, self._unrecorded)
        self._unrecorded = 0
        event(_LOG, logging.WARNING, "command refused", why=refused.why.value, detail=refused.detail)

    # ---- from the broker ---------------------------------------------------------------------------------------------

    def _leave_all(self, arrival: Arrival, full: OutboxFull) -> None:
        """No room to say that its number is spent: not acknowledged, so it comes again; and those behind it not before
        it."""
        self._note_full(full)
        self._leave(arrival, DEAF_S)
        while (behind := self._arrived.take()) is not None:
            self._arrived_bytes -= len(behind.payload)
            self._leave(behind, DEAF_S)

    def _arrive(self, arrival: Arrival) -> None:
        room = not self._arrived_bytes or self._arrived_bytes + len(arrival.payload) <= ARRIVED_BYTES_MAX
        if self._deaf_until_s is None and room and self._arrived.put(arrival):
            self._arrived_bytes += len(arrival.payload)
        else:
            self._leave(arrival, 0.0)

    def _leave(self, arrival: Arrival, deaf_s: float) -> None:
        """To the broker, not acknowledged: it comes with the next session. From here on nothing is taken in this one,
        as a command with a higher number would make it an old one; once what was taken is done, another one begins."""
        del arrival
        self.counters["commands not taken"] += 1
        if self._deaf_until_s is None:
            self._deaf_until_s = self._clock.monotonic() + deaf_s

    def _lose(self, why: str) -> None:
        self._lost = why
        self._send_now.put(None)


# ---- in the outbox's thread ------------------------------------------------------------------------------------------


def _keep(outbox: Outbox, items: Sequence[Item], span: Span | None) -> tuple[dict[str, int], bool]:
    follows = outbox.keep(items, span)
    return outbox.waiting, follows


def _settle(outbox: Outbox, batch: Batch) -> dict[str, int]:
    outbox.settle(batch)
    return outbox.waiting


def _connected(outbox: Outbox) -> dict[str, int]:
    outbox.connected()
    outbox.offer_again()
    return outbox.dropped


def _next(outbox: Outbox, ask: Ask) -> Batch | None:
    for lane in ask.lanes:
        batch = outbox.next(lane, ask.bytes_max)
        if batch is not None:
            return batch
    return None


def _refuse(outbox: Outbox, refused: Refused) -> bool:
    """Answer; whether it is an accepted command that came once more, which is answered as it was."""
    known = None if refused.number is None else outbox.accepted(refused.number)
    if refused.why is Refusal.OLD_NUMBER and known is not None and known[0] == refused.sha256:
        outbox.repeat(refused)
        return True
    outbox.refuse(refused)
    return False
