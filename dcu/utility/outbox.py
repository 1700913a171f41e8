"""What waits for the utility, and what it has commanded: one SQLite file, every commit on the medium.

Cards wear by the page and by the commit, so a decision, which the ledger has already, waits in memory (`recent`) with
what the broker acknowledges, and both are written with whatever is written next: something that is nowhere else and
must be durable at once, or `flush`. The cursor says how much of the ledger the file has; the rest is read there.

An item waits until the broker has acknowledged the message that carried it, and stops waiting in no other way but its
class's quota. A broker that is killed loses what it has acknowledged and neither written nor passed on; so the newest
of what was acknowledged stays as its class's *tail*, and each session offers again what earlier ones had acknowledged.
Commands are kept beside it, because a command and its first answer must become durable together.

Where the file has no room, tails make some. Where that is not enough, the call keeps nothing, and memory goes on
knowing what it knew, as much as it may hold: what was acknowledged does not leave again, the file is told no further
than memory can cross out, and what it has no room for is in the ledger from the cursor on.

Lanes: what was there when the link came up is *backlog*, what came since is *live*, tails are *again*. Each lane keeps
its order within a class. Everything here waits for the disk: it is called in a thread of its own, or by tests directly.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from dcu.store.database import Aside, Connect, asides
from dcu.utility.commands import Command, Order, Refused, order_entry, parse_order
from dcu.utility.documents import KEPT, MESSAGE_BYTES, Class, answer, encode, encode_text, with_id
from dcu.utility.outbox_file import Lane, OutboxFile, OutboxFull
from dcu.utility.recent import Recent, Told
from shared.errors import DecodeError

COMMAND: Final = "command"
"""Kind of the ledger's entry about an accepted command."""

COMMANDS_KEPT: Final = 1000

Draw = Callable[[int], bytes]
"""So many random bytes."""
ResultT = TypeVar("ResultT")

BATCH_ITEMS_MAX: Final = 256
ITEM_BYTES_MAX: Final = 1 << 19
"""A forecast for two hundred customers is the longest item."""

QUOTA: Final[Mapping[Class, int]] = {
    Class.ALARM: 10_000,
    Class.AVAILABLE: 1,
    Class.STATISTICS: 20_000,
    Class.REPORT: 50_000,
}
"""Items that may wait; the oldest go first, counted. A newer forecast replaces the one that waits. Reports are one a
minute and hundred meters, so this is a month of a hundred meters, or 72 h of a thousand."""

assert set(QUOTA) | KEPT == set(Class), "every class has a quota or is kept"

TAIL: Final[Mapping[Class, int]] = {
    Class.ANSWER: 1_000,
    Class.ALARM: 1_000,
    Class.DECISION: 5_000,
    Class.CHECKPOINT: 100,
    Class.STATISTICS: 1_000,
}
"""Items that a session may have had acknowledged and the next one offers again; the oldest go first. So many decisions
are an hour of a hundred meters, twenty of them with grants: twice as long as mosquitto keeps things to itself where
nobody tells it to write (autosave_interval, 1800 s). Reports and forecasts are left out: newer ones follow."""
TAIL_SLACK: Final = 256
"""More than its tail that a class may have, so that old rows are deleted many at a time: cards are worn by the page."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to tell. ``name`` where the same thing could be put twice; else the outbox gives it one."""

    kind: Class
    content: Mapping[str, Any]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one class, in order, encoded with their ids."""

    kind: Class
    lane: Lane
    rows: tuple[int, ...]
    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """All entries below ``position`` of the ledger's log number ``log`` have been put."""

    log: int
    position: int


@dataclass(frozen=True, slots=True)
class Span:
    """Entries from ``first`` to below ``end`` of a log."""

    log: int
    first: int
    end: int


class Outbox:
    """The file."""

    def __init__(
        self, directory: Path, dcu: str, connect: Connect | None = None, draw: Draw = secrets.token_bytes
    ) -> None:
        """Open it; one that is bad is set aside and begun anew, under a new name for what is numbered in it (``draw``).

        Raises:
            StoreError: another process has it, the medium refuses, or a newer program wrote it.
            OutboxFull: no room for a new file's name.
        """
        self._dcu = dcu
        self.batch_items_max = BATCH_ITEMS_MAX
        self._file = OutboxFile(directory, dcu, connect)
        with contextlib.ExitStack() as failed:
            failed.callback(self._file.database.close)
            self._birth = str(self._file.fact("birth", ""))
            if not self._birth:
                self._birth = draw(4).hex()
                with self._file.transaction():
                    self._file.remember("birth", self._birth)
            self._dropped: Counter[str] = Counter(self._file.fact("dropped", {}))
            self._session = self._file.session
            self._recent = Recent()
            self._cursor = self._written_cursor()
            self._count = self._counted()
            self._settled: Counter[Class] = Counter()
            self._newest = self._live_after = self._file.newest
            failed.pop_all()

    @property
    def aside(self) -> Aside | None:
        """What opening had to set aside."""
        return self._file.database.aside

    @property
    def follows_a_lost_one(self) -> bool:
        """Whether a bad one was set aside, by this opening or by an earlier one that a crash ended."""
        return bool(asides(self._file.database.path))

    @property
    def fresh(self) -> bool:
        """Whether the ledger has not yet told what it remembers of commands; so, too, after a crash that came between
        making the file and being told."""
        return self._file.fact("last", None) is None

    @property
    def dropped(self) -> dict[str, int]:
        """Items that were dropped by quota, by class."""
        return dict(self._dropped)

    @property
    def waiting(self) -> dict[str, int]:
        """Items by class that wait, or are to be offered again in this session."""
        return {kind.word: number for kind, number in self._count.items() if number}

    @property
    def size_bytes(self) -> int:
        """[byte] On the medium."""
        return self._file.database.size_bytes

    def close(self) -> None:
        """Give the file back; where the medium refuses, the ledger knows what memory knew."""
        try:
            with contextlib.suppress(OutboxFull, sqlite3.Error):
                self.flush()
        finally:
            self._file.database.close()

    # ---- items -------------------------------------------------------------------------------------------------------

    def keep(self, items: Sequence[Item], span: Span | None = None) -> bool:
        """Keep what the DCU tells, and that this ``span`` of the ledger is in it; whether all entries before it are.
        What is there already stays as it is.

        Durable on return, but for decisions alone: those the ledger has, and until `flush` only the ledger.

        Raises:
            OutboxFull, sqlite3.Error, ValueError: as `put`.
        """
        follows = span is None or self._follows(span)
        cursor = Cursor(span.log, span.end) if span is not None and follows else None
        if cursor is not None and self._cursor is not None:
            cursor = max(cursor, self._cursor)
        items = [item for item in items if not self._passed(item)]
        if self._cursor is None or not all(_in_ledger_alone(item) for item in items):
            self.put(items, cursor)
            return follows
        decisions = [_told(item) for item in items]
        self._relieve()
        for told in decisions:
            self._recent.add(self._new_row(), told)
            self._count[Class.DECISION] += 1
        self._cursor = cursor or self._cursor
        with contextlib.suppress(OutboxFull):  # all of it is known; the next one may find no room
            self._relieve()
        return follows

    def _follows(self, span: Span) -> bool:
        """Whether all entries before a span have been put; where nothing is known of the ledger, there are none."""
        known = self._cursor
        return known is None or (known.log == span.log and span.first <= known.position)

    def _passed(self, item: Item) -> bool:
        """Whether an entry of the ledger is there already, put by who has looked it up meanwhile."""
        known = self._cursor
        if known is None or not _in_ledger(item) or Cursor(item.content["log"], item.content["position"]) >= known:
            return False
        return self._file.has(item.name)

    def put(self, items: Sequence[Item], cursor: Cursor | None = None) -> None:
        """Keep items, and how far the ledger has been taken; durable on return, and with it all that memory knew. One
        that was put before stays as it is, waiting or acknowledged.

        An item that is the ledger's entry about a command ends that command: it is answered in the same transaction,
        so that after any crash a command is unfinished exactly if the ledger does not have it.

        Raises:
            OutboxFull: there is no room, not even without the tails; nothing was kept.
            sqlite3.Error: the medium refuses; nothing was kept.
            ValueError: an item that JSON cannot keep or that is too long; nothing was kept.
        """

        def work() -> None:
            for item in items:
                self._keep(item)
            if cursor is not None:
                self._remember_cursor(cursor)

        self._change(work)
        self._cursor = cursor or self._cursor

    def put_again(self, items: Sequence[Item]) -> None:
        """Keep items; those that have names and were acknowledged in this session wait again.

        Raises:
            OutboxFull, sqlite3.Error, ValueError: as `put`.
        """

        def work() -> None:
            for item in items:
                self._keep_again(item)

        self._change(work)

    def flush(self) -> None:
        """Write what memory knows.

        Raises:
            OutboxFull, sqlite3.Error: as `put`.
        """
        if self._recent or self._cursor != self._written_cursor():
            self.put([])

    def _relieve(self) -> None:
        """Write what memory knows once it is much; what the broker has of it gives way where there is no room.

        Raises:
            OutboxFull: it is still too much.
            sqlite3.Error: as `put`.
        """
        if not self._recent.full:
            return
        try:
            self.flush()
        except OutboxFull:
            self._cut_told()
            if self._recent.full:
                raise

    def _cut_told(self) -> int:
        known = self._cursor
        return 0 if known is None else self._recent.cut_told((known.log, known.position))

    def _write_recent(self) -> None:
        for kind, rows in self._recent.settled.items():
            if Class(kind) in TAIL:
                self._file.acknowledge(rows, self._session)
            else:
                self._file.delete(rows)
        known = False
        for row, told in self._recent.told.items():
            if not self._file.insert(row, Class.DECISION, told.name, told.body, told.session):
                known = True  # taken from the ledger meanwhile: what we know of it is newer
                self._file.acknowledge_name(told.name, told.session)
        if known:
            self._count = self._file.waiting(self._session)
        if self._cursor is not None and self._cursor != self._written_cursor():
            self._remember_cursor(self._cursor)
        for kind, settled in self._settled.items():
            if settled > TAIL[kind] + TAIL_SLACK:
                self._file.shorten_tail(kind, self._session, TAIL[kind])
                self._settled[kind] = TAIL[kind]

    def _keep(self, item: Item) -> bool:
        """Keep an item and what it ends; whether it is new."""
        new = self._insert(item)
        if new and item.kind is Class.DECISION and item.content["entry"].get("kind") == COMMAND:
            self._finish(item.content["position"], item.content["entry"])
        return new

    def _keep_again(self, item: Item) -> None:
        if not self._keep(item):
            self._count[item.kind] += self._file.wake(item.name, self._session)

    def _new_row(self) -> int:
        """A number that no item has had, in the file or in memory, whatever became of it."""
        self._newest += 1
        return self._newest

    def _insert(self, item: Item) -> bool:
        new = self._file.insert(self._new_row(), item.kind, item.name, _encoded(item))
        self._count[item.kind] += new
        excess = self._count[item.kind] - QUOTA.get(item.kind, self._count[item.kind])
        if excess > 0:
            self._file.drop_oldest(item.kind, self._session, excess)
            self._count[item.kind] -= excess
            self._dropped[item.kind.word] += excess
            self._file.remember("dropped", dict(self._dropped))
        return new

    def connected(self) -> None:
        """From now on what is there is backlog."""
        with contextlib.suppress(OutboxFull):  # it leaves from memory
            self.flush()
        self._live_after = self._newest

    def offer_again(self) -> None:
        """Another session: what was acknowledged before is offered again, and so what only memory knows of that."""
        try:
            self.flush()
        except OutboxFull:
            self._recent.unsettle()
        self._session += 1
        self._settled.clear()

        def work() -> None:
            for kind, length in TAIL.items():
                self._file.shorten_tail(kind, 1, length)

        with contextlib.suppress(OutboxFull):
            self._change(work)
        self._count = self._counted()

    def pardon(self) -> int:
        """What was set aside may try again; how many items that are."""
        return self._change(self._file.pardon)

    def next(self, lane: Lane, bytes_max: int) -> Batch | None:
        """The next items of a lane that fit into a message, at least one; None if there are none. What lies in a file
        that takes nothing waits while memory can cross out no more of it, for it would only leave again."""
        if self._recent.settled_full:
            with contextlib.suppress(OutboxFull):
                self.flush()
        for kind in Class:
            if not self._count[kind]:
                continue
            if (lying := _batch(kind, lane, self._lying(kind, lane), bytes_max)) is not None:
                if self._recent.settled_full:
                    continue
                return lying
            if (told := _batch(kind, lane, self._told(kind, lane), bytes_max)) is not None:
                return told
        return None

    def _lying(self, kind: Class, lane: Lane) -> Iterator[tuple[int, bytes]]:
        """In the file."""
        settled = self._recent.settled.get(kind, frozenset[int]())
        most = self.batch_items_max
        for row, name, body in self._file.lying(kind, lane, self._live_after, self._session, settled, most):
            yield row, with_id(name or f"{self._dcu}/{kind.word}/{self._birth}/{row}", body)

    def _told(self, kind: Class, lane: Lane) -> Iterator[tuple[int, bytes]]:
        """In memory: newer than all in the file."""
        if kind is Class.DECISION and lane is not Lane.AGAIN:
            live = lane is Lane.LIVE
            waiting = ((row, told) for row, told in self._recent.waiting().items() if (row > self._live_after) == live)
            for row, told in islice(waiting, self.batch_items_max):
                yield row, with_id(told.name, told.body)

    def settle(self, batch: Batch) -> None:
        """The broker has acknowledged these: they become their class's tail, or leave if it has none. A crash before
        it is written lets them leave once more."""
        new = self._recent.settle(batch.kind, self._still_there(batch), self._session)
        self._count[batch.kind] -= new
        if batch.kind in TAIL:
            self._settled[batch.kind] += new

    def _still_there(self, batch: Batch) -> tuple[int, ...]:
        """Rows of a batch that are still there and wait: a quota, a full file or a second look into the ledger may have
        taken one away on its way."""
        here = self._file.present(batch.rows, self._session)
        return tuple(row for row in batch.rows if row in here or row in self._recent.told)

    def _cut_tails(self) -> bool:
        """Room for what is new: what was acknowledged goes; whether there was any."""
        with self._transaction():
            gone = self._file.cut_tails()
            gone += sum(self._file.delete(rows) for rows in self._recent.settled.values())
        self._recent.cut_settled()
        gone += self._cut_told()
        self._count = self._counted()
        return gone > 0

    def set_aside(self, batch: Batch) -> None:
        """Nothing that carried these was ever acknowledged: kept ones wait for a pardon, others are dropped."""

        def work() -> None:
            if batch.kind in KEPT:
                self._file.set_aside(batch.rows)
            else:
                gone = self._file.delete(batch.rows)
                self._count[batch.kind] -= gone
                self._dropped[batch.kind.word] += gone
                self._file.remember("dropped", dict(self._dropped))

        self._change(work)

    @property
    def cursor(self) -> Cursor | None:
        """How far the ledger has been taken, in the file and in memory; None if it never was."""
        return self._cursor

    def _written_cursor(self) -> Cursor | None:
        match self._file.fact("cursor", None):
            case [int(log), int(position)]:
                return Cursor(log, position)
        return None

    def _remember_cursor(self, cursor: Cursor) -> None:
        self._file.remember("cursor", [cursor.log, cursor.position])

    # ---- commands ----------------------------------------------------------------------------------------------------

    @property
    def last_number(self) -> int:
        """The highest number that is spent."""
        return int(self._file.fact("last", 0))

    def spend(self, number: int) -> None:
        """No command up to this number acts any more."""
        self._change(lambda: self._file.remember("last", max(number, self.last_number)))

    def accept(self, command: Command, settings: Mapping[str, Any]) -> None:
        """Keep a command and what it sets, spend its number, and answer that it is accepted: all or nothing."""

        def work() -> None:
            body = json.dumps(order_entry(command.order))
            self._file.add_command(command.number, command.sha256, command.key, body, COMMANDS_KEPT)
            for name, value in settings.items():
                self._file.remember(f"set {name}", value)
            self._file.remember("last", max(command.number, self.last_number))
            self._answer(command.number, command.sha256, "accepted", {})

        self._change(work)

    def refuse(self, refused: Refused) -> None:
        """Answer an authentic command that is refused; its number is spent."""
        assert refused.authentic, "nobody answers strangers"

        def work() -> None:
            if refused.number is not None:
                self._file.remember("last", max(refused.number, self.last_number))
            fields = {"reason": refused.why.value, "detail": refused.detail}
            self._answer(refused.number, refused.sha256, "refused", fields)

        self._change(work)

    def repeat(self, refused: Refused) -> None:
        """Answer an accepted command that came once more, as it was answered then: that it was accepted, and what
        became of it, if that is known."""

        def work() -> None:
            self._answer(refused.number, refused.sha256, "accepted", {})
            known = self._file.command(refused.number)
            if known is not None and known[2] is not None:
                last = json.loads(known[2])
                self._answer(refused.number, refused.sha256, last.pop("outcome"), last)

        self._change(work)

    def accepted(self, number: int) -> tuple[str, bool] | None:
        """The hash of an accepted command and whether it is done; None if there is none of this number."""
        known = self._file.command(number)
        return None if known is None else known[:2]

    def unfinished(self) -> list[Command]:
        """Accepted commands whose effect is not recorded, in order; one that only a newer program understands stays for
        that."""
        rows = self._file.unfinished_commands()
        found = ((number, sha256, key, _stored(body)) for number, sha256, key, body in rows)
        return [Command(number, sha256, key, order) for number, sha256, key, order in found if order is not None]

    def _finish(self, position: int, entry: Mapping[str, Any]) -> None:
        match entry:
            case {"number": int(number), "sha256": str(sha256), "outcome": str(outcome), "detail": detail}:
                fields = {"position": position, "detail": detail}
                last = json.dumps({"outcome": outcome, **fields})
                self._file.end_command(number, last)
                self._answer(number, sha256, outcome, fields)

    def rebuild(self, last: int, settings: Mapping[str, Any]) -> None:
        """In a fresh file: what the ledger remembers of commands."""

        def work() -> None:
            self._file.remember("last", max(last, self.last_number))
            for name, value in settings.items():
                self._file.remember(f"set {name}", value)

        self._change(work)

    def _answer(self, number: int | None, sha256: str, outcome: str, fields: Mapping[str, Any]) -> None:
        name = f"{self._dcu}/answer/{sha256[:16]}/{outcome}"
        self._keep_again(Item(Class.ANSWER, answer(number, sha256, outcome, **fields), name))

    # ---- a customer who leaves ---------------------------------------------------------------------------------------

    def forget(self, meter: str) -> int:
        """Take what names a customer out of what waits and out of commands that are done; how many items that were.

        A decision stays, by its place in the ledger and its kind alone; everything else goes. What was ordered for him
        holds as long as he is configured, so his nominal limit stays until he is not.
        """
        self._file.overwrite_what_goes()
        said = encode_text(meter)

        def work() -> int:
            named = [item for item in self._file.all_items() if said in item[3]]
            for row, kind, session, body in named:
                if kind is Class.DECISION:
                    self._file.replace(row, encode(_without_most(json.loads(body))))
                else:
                    self._file.delete((row,))
                    self._count[kind] -= session != self._session
            for number, order, last in self._file.finished_commands():
                if json.dumps(meter) in order or meter in (last or ""):
                    self._file.empty_command(number)
            return len(named)

        return self._change(work)

    # ---- facts -------------------------------------------------------------------------------------------------------

    def setting(self, name: str) -> Any:
        """What a command has set; None if none did."""
        return self._file.fact(f"set {name}", None)

    def keep_setting(self, name: str, value: Any) -> None:
        """Keep what a command has set."""
        self._change(lambda: self._file.remember(f"set {name}", value))

    # ---- the file ----------------------------------------------------------------------------------------------------

    def _change(self, work: Callable[[], ResultT]) -> ResultT:
        """Do it in one transaction; where there is no room for it, once more without the tails.

        Raises:
            OutboxFull, sqlite3.Error: nothing was kept, and memory knows what it knew.
        """
        try:
            return self._once(work)
        except OutboxFull:
            if not self._cut_tails():
                raise
            return self._once(work)

    def _once(self, work: Callable[[], ResultT]) -> ResultT:
        """In a transaction that writes what memory knew first, so that rows keep their order."""
        with self._transaction():
            self._write_recent()
            result = work()
        self._recent.clear()
        return result

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction; if it fails, what is counted in memory is as it was."""
        before = dict(self._count), Counter(self._dropped), Counter(self._settled)
        try:
            with self._file.transaction():
                yield
        except BaseException:
            self._count, self._dropped, self._settled = before
            raise

    def _counted(self) -> dict[Class, int]:
        """Items by class that no broker has acknowledged in this session."""
        found = self._file.waiting(self._session)
        found[Class.DECISION] += len(self._recent.waiting())
        return found


def _in_ledger(item: Item) -> bool:
    return item.kind is Class.DECISION and item.name is not None


def _in_ledger_alone(item: Item) -> bool:
    """Whether the ledger is enough to have this item again; not so where it ends a command: somebody waits for that."""
    return _in_ledger(item) and item.content["entry"].get("kind") != COMMAND


def _told(item: Item) -> Told:
    assert item.name is not None, "entries of the ledger have names"
    return Told(item.name, _encoded(item), (item.content["log"], item.content["position"]))


def _batch(kind: Class, lane: Lane, found: Iterable[tuple[int, bytes]], bytes_max: int) -> Batch | None:
    """As many of these as a message carries, at least one."""
    rows: list[int] = []
    items: list[bytes] = []
    size = MESSAGE_BYTES
    for row, item in found:
        size += len(item) + 1
        if rows and size > bytes_max:
            break
        rows.append(row)
        items.append(item)
    return Batch(kind, lane, tuple(rows), tuple(items)) if rows else None


def _encoded(item: Item) -> bytes:
    """An item's body (ValueError: none that can be kept)."""
    body = encode(item.content)
    if len(body) > ITEM_BYTES_MAX and item.kind is Class.DECISION:
        body = encode(_without_most(item.content))
    if not 2 < len(body) <= ITEM_BYTES_MAX:
        raise ValueError(f"{item.kind.word}: {len(body)} bytes, expected at most {ITEM_BYTES_MAX}")
    return body


def _without_most(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry that is too long: where it stands in the ledger, and what it is."""
    entry = {key: content["entry"].get(key) for key in ("kind", "epoch", "seq")}
    return {"log": content["log"], "position": content["position"], "entry": entry, "left_out": True}


def _stored(body: str) -> Order | None:
    try:
        return parse_order(json.loads(body))
    except DecodeError:
        return None
