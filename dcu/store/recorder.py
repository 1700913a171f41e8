"""The store as the daemon sees it: told of everything, asked for nothing, in nobody's way.

Nothing here decides, delays or refuses. What is told is kept in memory for some seconds and then handed to the files'
writers in one piece:

* **Readings** may be lost: beyond `READINGS_MAX` that wait, with a failed file or a full medium, they are counted in
  `Counters.readings_dropped` and forgotten.
* **Decisions** cannot be: they are in the ledger. When the events file has missed any (it was full, failed, set aside,
  or the DCU died before they were written), it takes them over from there, and it ends up with each exactly once.
* **Happenings** (links, alarms, openings) are counted when they are lost.

A failing store is no failing ledger: grants go on, because what a grant needs is its record, and that is the ledger's;
on a medium that fails for good the ledger's own next write fails too, and stops them. The store opens its file again
after a pause, with all checks, and says so each time.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from dcu.store.database import Connect, FileKind, StoreError
from dcu.store.derive import Deriving, next_means, next_quarters, next_week
from dcu.store.entries import PUT as PUT_EVENT
from dcu.store.entries import LedgerFacts, end_log, note_taken, own_row, row_of, settle
from dcu.store.entries import Row as EventRow
from dcu.store.readings import PUT as PUT_READING
from dcu.store.readings import numbers
from dcu.store.readings import row_of as reading_row
from dcu.store.retention import Keeping, drop_asides, free_bytes, sweep_events, sweep_telemetry
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.store.writer import Edge, Job, Opening, State, Writer
from shared.clock import Clock
from shared.ids import MeterId
from shared.log import event, get_logger
from shared.messages import Alarm, Reading, Report

READINGS_MAX: Final = 20_000
"""Readings that wait for the telemetry file."""

EVENTS_MAX: Final = 4096
"""Events that wait for theirs."""

TURN_S: Final = 1.0
"""[s] Between two looks at what there is to do."""

SWEEP_S: Final = 60.0
"""[s] Between two sweeps for what is too old."""

TAKE: Final = 64
"""Entries of the ledger taken over in one turn; the control loop comes in between."""

REBUILT_MAX: Final = 250_000
"""Entries of one log that are taken over at most, the newest ones."""

NOTED: Final = 4096
"""Entries without any event after which the place in the ledger is noted all the same."""

TRIES: Final = 3
"""A ledger that gives less than it has is read again so often: its writer moves files under us."""

CLOCK_S: Final = 3600.0
"""[s] Wall clock and monotonic clock may part by so much before age is no reason to delete any more."""

STEADY_S: Final = 2 * 86400.0
"""[s] They have to go together for so long again; a board without a battery jumps once after each start."""

UTC_S_MIN: Final = 1_600_000_000.0
"""[s, Unix] A clock before September 2020 is not set; readings without a time are of no use."""

_LOG: Final = get_logger("store")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the store works; what is kept for how long is in `keeping`.

    Attributes:
        batch_s: [s] readings and events wait in memory so long; as much of telemetry is lost with the power.
        substation_s: [s] between two readings of the balancing meter that are kept.
        free_bytes_min: [byte] with less room on the medium no telemetry is written: the ledger needs it.
    """

    deriving: Deriving
    keeping: Keeping = field(default_factory=Keeping)
    batch_s: float = 10.0
    substation_s: float = 10.0
    free_bytes_min: int = 256 << 20


@dataclass(slots=True)
class Counters:
    """What was kept and what was not."""

    readings: int = 0
    readings_dropped: int = 0
    readings_undated: int = 0
    events: int = 0
    events_dropped: int = 0
    entries_taken_over: int = 0
    failures: int = 0
    set_aside: int = 0


class Recorder:
    """`dcu.daemon.StorePort`."""

    def __init__(
        self,
        directory: Path,
        dcu: str,
        clock: Clock,
        edge: Callable[[str], Edge],
        ledger: LedgerFacts,
        settings: Settings,
        connect: Connect | None = None,
    ) -> None:
        """Begins to open both files; to be made inside the loop.

        Args:
            directory: of the store.
            dcu: whose it is.
            clock: labels; its monotonic seconds pace the work.
            edge: makes the edge of a file of this name.
            ledger: as it was opened.
            settings: how to work.
            connect: opens SQLite URIs, for tests.
        """
        self._directory, self._clock, self._settings, self._ledger = directory, clock, settings, ledger
        self.counters = Counters()
        self._readings: deque[tuple[float, str, Reading, float | None]] = deque()
        self._events: deque[EventRow] = deque()
        self._newest: dict[MeterId, tuple[int, int]] = {}
        self._alarms: dict[MeterId, Alarm] = {}
        self._numbered: tuple[sqlite3.Connection | None, dict[str, int]] = (None, {})
        self._substation_at_s = -float("inf")
        self._position = ledger.position
        self._noted = 0
        self._flush_s = self._sweep_s = clock.monotonic()
        self._behind = True
        self._low = False
        self._apart_s = clock.utc_s() - clock.monotonic()
        self._believe_s = -float("inf")
        self.events = Writer(directory, EVENTS, dcu, edge("events"), self, connect)
        self.telemetry = Writer(directory, TELEMETRY, dcu, edge("telemetry"), self, connect)

    # ---- what the daemon tells ---------------------------------------------------------------------------------------

    def reported(self, meter: MeterId, report: Report) -> None:
        """A meter's report was believed. One that comes again is known by its number; one that waited in the meter's
        outbox does not say when it was, and is only counted."""
        self._note_alarms(meter, report.alarms)
        if report.nonce is None:
            self.counters.readings_undated += 1
            return
        boot_id, seq = self._newest.get(meter, (-1, -1))
        if report.boot_id == boot_id and report.seq <= seq:
            return
        self._newest[meter] = (report.boot_id, report.seq)
        if report.reading is not None:
            self._read(meter, report.reading, report.reading_age_s, report.limit_w)

    def substation_read(self, name: str, reading: Reading) -> None:
        """The balancing meter was read; some of its readings are kept."""
        now = self._clock.monotonic()
        if now >= self._substation_at_s + self._settings.substation_s:
            self._substation_at_s = now
            self._read(name, reading, 0.0, None)

    def decided(self, position: int, entry: Mapping[str, Any]) -> None:
        """An entry is durable in the ledger."""
        self._position = max(self._position, position + 1)
        row = row_of(self._ledger.log, position, entry, self._clock.utc_s())
        if row is None or self._behind:
            return  # no event, or about to be taken over with those before it
        if len(self._events) >= EVENTS_MAX:
            self._behind = True
        else:
            self._events.append(row)

    def happened(self, what: str, meter: str | None, fields: Mapping[str, object]) -> None:
        """Something that is not in the ledger: a link, an alarm, a fault."""
        if len(self._events) >= EVENTS_MAX:
            self.counters.events_dropped += 1
            return
        self._events.append(own_row(what, meter, fields, self._clock.utc_s()))

    def status(self) -> dict[str, Any]:
        """For `headroom-dcu status` and the page."""
        return {
            "files": {writer.kind.name: writer.state.value for writer in (self.events, self.telemetry)},
            "behind_ledger": self._behind,
            "waiting": len(self._readings) + len(self._events),
            "low_space": self._low,
            **asdict(self.counters),
        }

    def _read(self, name: str, reading: Reading, age_s: float, limit_w: float | None) -> None:
        at_s = self._clock.utc_s() - age_s
        if len(self._readings) >= READINGS_MAX or at_s < UTC_S_MIN:
            self.counters.readings_dropped += 1
        else:
            self._readings.append((at_s, name, reading, limit_w))

    def _note_alarms(self, meter: MeterId, alarms: Alarm) -> None:
        before = self._alarms.get(meter, Alarm.NONE)
        self._alarms[meter] = alarms
        for names, what in ((alarms & ~before, "alarm"), (before & ~alarms, "alarm over")):
            for name in names.names:
                self.happened(what, meter, {"alarm": name})

    # ---- a watcher of both files -------------------------------------------------------------------------------------

    def opened(self, opening: Opening) -> None:
        if opening.aside is not None:
            self.counters.set_aside += 1
            facts = {"file": str(opening.aside.path), "reason": opening.aside.reason}
            event(_LOG, logging.ERROR, "store file set aside", **facts)
            self.happened("store file set aside", None, facts)
        else:
            event(_LOG, logging.INFO, "store file opened", file=opening.kind.name, fresh=opening.fresh)

    def failed(self, kind: FileKind, error: StoreError, again_s: float) -> None:
        self.counters.failures += 1
        event(_LOG, logging.ERROR, "store file failed", file=kind.name, why=str(error), again_s=again_s)
        if kind is EVENTS:
            self._behind = True

    # ---- work --------------------------------------------------------------------------------------------------------

    async def run(self, progress: Callable[[], None]) -> None:
        """Write what waits, make intervals, sweep, and follow the ledger; for ever. Never fails for a failing file."""
        while True:
            await self.turn(progress)
            progress()
            await asyncio.sleep(TURN_S)

    async def turn(self, progress: Callable[[], None] = lambda: None) -> None:
        """Do whatever is due."""
        now = self._clock.monotonic()
        if now >= self._flush_s:
            self._flush_s = now + self._settings.batch_s
            self._flush()
            await self._derive(progress)
        if now >= self._sweep_s:
            self._sweep_s = now + SWEEP_S
            await self._sweep()
        if self._behind and self.events.state is State.GOOD:
            await self._follow(progress)

    def close(self) -> None:
        """Write what waits and give the files back."""
        self._flush()
        self.events.close()
        self.telemetry.close()

    def _flush(self) -> None:
        """Hand over what waits; what a writer does not take, or does not keep, is counted."""
        readings, self._readings = list(self._readings), deque()
        if readings:
            self._hand(self.telemetry, lambda connection: self._put_readings(connection, readings), len(readings))
        events, self._events = list(self._events), deque()
        if not events and (self._behind or self._position - self._noted < NOTED):
            return
        position = None if self._behind else self._position
        done = self._try(self.events, lambda connection: self._put_events(connection, events, position))
        if done is None:
            self._events_lost(events)
        else:
            done.add_done_callback(lambda found: self._events_put(found, events))

    def _hand(self, writer: Writer, job: Job[int], count: int) -> None:
        done = self._try(writer, job)
        if done is None:
            self.counters.readings_dropped += count
        else:
            done.add_done_callback(lambda found: self._readings_put(found, count))

    @staticmethod
    def _try(writer: Writer, job: Job[Any]) -> Future[Any] | None:
        try:
            return writer.submit(job)
        except StoreError:
            return None

    def _readings_put(self, found: Future[int], count: int) -> None:
        kept = 0 if found.cancelled() or found.exception() is not None else found.result()
        self.counters.readings += kept
        self.counters.readings_dropped += count - kept

    def _events_put(self, found: Future[int], events: Sequence[EventRow]) -> None:
        if found.cancelled() or found.exception() is not None:
            self._events_lost(events)
        else:
            self.counters.events += len(events)
            self._noted = max(self._noted, found.result())

    def _events_lost(self, events: Sequence[EventRow]) -> None:
        """Those of the ledger come again from there."""
        self._behind = True
        self.counters.events_dropped += sum(row[6] is None for row in events)

    # ---- at the edge -------------------------------------------------------------------------------------------------

    def _put_readings(
        self, connection: sqlite3.Connection, readings: Sequence[tuple[float, str, Reading, float | None]]
    ) -> int:
        self._low = free_bytes(self._directory) < self._settings.free_bytes_min
        if self._low:
            return 0
        connected, known = self._numbered
        if connected is not connection or {name for _, name, _, _ in readings} - known.keys():
            known = numbers(connection, sorted({name for _, name, _, _ in readings}))
        rows = [reading_row(at_s, known[name], reading, limit_w) for at_s, name, reading, limit_w in readings]
        connection.executemany(PUT_READING, rows)
        self._numbered = (connection, known)
        return len(rows)

    def _put_events(self, connection: sqlite3.Connection, events: Sequence[EventRow], position: int | None) -> int:
        connection.executemany(PUT_EVENT, events)
        if position is None:
            return -1
        note_taken(connection, self._ledger.log, self._ledger.vkey, position)
        return position

    # ---- intervals, sweeps, the ledger -------------------------------------------------------------------------------

    async def _derive(self, progress: Callable[[], None]) -> None:
        now_s, how = self._clock.utc_s(), self._settings.deriving
        for make in (next_means, next_quarters, next_week):
            while await self._done(self.telemetry, partial(make, now_s=now_s, how=how)):
                progress()

    async def _sweep(self) -> None:
        keeping, now = self._settings.keeping, self._clock.monotonic()
        apart_s = self._clock.utc_s() - now
        if abs(apart_s - self._apart_s) > CLOCK_S:
            event(_LOG, logging.WARNING, "clock jumped", seconds=apart_s - self._apart_s)
            self._apart_s, self._believe_s = apart_s, now + STEADY_S
        now_s = self._clock.utc_s() if now >= self._believe_s else None
        await self._done(self.events, lambda connection: sweep_events(connection, now_s, keeping))
        await self._done(self.telemetry, lambda connection: sweep_telemetry(connection, now_s, keeping))
        await self._done(self.events, lambda _: drop_asides(self._directory))

    async def _follow(self, progress: Callable[[], None]) -> None:
        """Take over from the ledger what the events file does not have."""
        facts = replace(self._ledger, position=self._position)
        found = await self._done(self.events, lambda connection: settle(connection, facts))
        if found is None:
            return
        for log in range(1, facts.log):
            if not await self._take(log, found.get(log, 0), None, progress):
                return
        position = found.get(facts.log, 0)
        while position < self._position:
            end = self._position
            if not await self._take(facts.log, max(position, end - REBUILT_MAX), end, progress):
                return
            position = end
        self._behind, self._noted = False, position  # no entry came since the comparison: there was no pause

    async def _take(self, log: int, first: int, end: int | None, progress: Callable[[], None]) -> bool:
        """Take over a log's entries from ``first`` to ``end`` (its own, if None); whether the file kept them."""
        at = first
        for _ in range(TRIES):
            entries = islice(self._ledger.source(log, at), None if end is None else end - at)
            while True:
                job = partial(self._take_some, log=log, entries=entries)
                got = await self._done(self.events, job)
                if got is None:
                    return False
                at += got
                self.counters.entries_taken_over += got
                progress()
                if got < TAKE:
                    break
                await asyncio.sleep(0)
            if end is None or at >= end:
                break
        else:
            event(_LOG, logging.ERROR, "ledger cannot be read to its end", log=log, read=at, expected=end)
        if end is None:
            return await self._done(self.events, partial(self._end_log, log=log, position=at)) is not None
        return await self._done(self.events, partial(self._put_events, events=(), position=end)) is not None

    def _take_some(
        self, connection: sqlite3.Connection, log: int, entries: Iterator[tuple[int, dict[str, Any]]]
    ) -> int:
        got = list(islice(entries, TAKE))
        now_s = self._clock.utc_s()  # for an entry that says no time; all of `dcu.real` do
        rows = [row for position, entry in got if (row := row_of(log, position, entry, now_s)) is not None]
        connection.executemany(PUT_EVENT, rows)
        if got:
            vkey = self._ledger.vkey if log == self._ledger.log else ""
            note_taken(connection, log, vkey, got[-1][0] + 1)
        return len(got)

    @staticmethod
    def _end_log(connection: sqlite3.Connection, log: int, position: int) -> int:
        end_log(connection, log, position)
        return position

    async def _done(self, writer: Writer, job: Job[Any]) -> Any:
        """A job's value; None if the file does not take it, or fails, or the job does."""
        given = self._try(writer, job)
        if given is None:
            return None
        try:
            return await given
        except StoreError:
            return None
        except Exception as error:  # what is derived may be wrong; it must not end the daemon
            self.counters.failures += 1
            event(_LOG, logging.ERROR, "store job failed", file=writer.kind.name, why=repr(error))
            return None
