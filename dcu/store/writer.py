"""The edge of a file of the store: jobs in, futures out, one transaction for all that wait (group commit).

A job is a function of the connection. Its future is done when the transaction it was part of is committed, which for
a file of `Durability.EVERY_COMMIT` means that a power cut no longer takes it. A job that fails by itself (a constraint)
is undone alone, and its future alone gets the error.

What the caller has to know:

* **Full**: at most `JOBS_MAX` jobs wait, and a log that a reader's endless transaction keeps from being moved grows to
  `LOG_BYTES_MAX`. What comes then is refused at once with `StoreBusyError`: a caller who may lose something counts it,
  one who may not keeps it where it is (decisions are in the ledger).
* **Failed**: the first error of the medium or of the file ends this opening of it. Everything that waits gets
  `StoreError`, nothing is tried again on the same connection; after a pause that doubles the file is opened anew, with
  all checks. Until then every job is refused at once.
* **Order**: jobs are done in the order in which they came.

`Threaded` does the work in one thread, so that the loop never waits for the disk; `Inline` does it in the loop, for
virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from asyncio import Future
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from dcu.store.database import Aside, Connect, Database, FileKind, StoreError, primary

JOBS_MAX: Final = 4096
"""Jobs that may wait."""

LOG_BYTES_MAX: Final = 64 << 20
"""[byte] Of a write-ahead log that cannot be moved into its file because somebody reads and reads."""

BATCH_MAX: Final = 256
"""Jobs of one transaction."""

REOPEN_S: Final = 10.0
"""[s] After the first failure; doubles with each further one."""

REOPEN_S_MAX: Final = 600.0
"""[s] The longest pause."""

OWN_FAULTS: Final = frozenset(
    {
        0,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_RANGE,
    }
)
"""Primary result codes that speak of the job, not of the file or its medium."""

ValueT = TypeVar("ValueT")

Job = Callable[[sqlite3.Connection], ValueT]
"""What is to be done within a transaction; begins and ends none itself."""


class StoreBusyError(StoreError):
    """Too much waits already; this job was not taken."""


class State(Enum):
    """Of a file."""

    OPENING = "opening"
    GOOD = "good"
    FAILED = "failed"
    CLOSED = "closed"


class Edge(Protocol):
    """Where the waiting for the disk is done."""

    def run(self, work: Callable[[], None]) -> None:
        """Do this soon, after everything that was given before."""

    def back(self, work: Callable[[], None]) -> None:
        """From within `run`: do this in the loop."""

    def close(self) -> None:
        """Return when everything that was given is done."""


class Threaded:
    """One thread."""

    def __init__(self, name: str) -> None:
        """To be made inside the loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def run(self, work: Callable[[], None]) -> None:
        self._thread.submit(work)

    def back(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits for an answer
            self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        self._thread.shutdown(wait=True)


class Inline:
    """The loop itself, one turn later, so that what comes within one turn shares a transaction."""

    def __init__(self) -> None:
        """To be made inside the loop."""
        self._loop = asyncio.get_running_loop()
        self._works: deque[Callable[[], None]] = deque()

    def run(self, work: Callable[[], None]) -> None:
        self._works.append(work)
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._works:
            self._works.popleft()()

    def back(self, work: Callable[[], None]) -> None:
        work()

    def close(self) -> None:
        while self._works:
            self._turn()


@dataclass(slots=True)
class _Waiting:
    job: Job[Any]
    done: Future[Any]


@dataclass(frozen=True, slots=True)
class Opening:
    """A file was opened: ``fresh`` if it was made just now, ``aside`` if a bad one had to make room."""

    kind: FileKind
    fresh: bool
    aside: Aside | None


class Watcher(Protocol):
    """Who is told what becomes of a file; called in the loop."""

    def opened(self, opening: Opening) -> None:
        """It is good now."""

    def failed(self, kind: FileKind, error: StoreError, again_s: float) -> None:
        """It cannot be used; it is opened again in ``again_s`` [s]."""


class Writer:
    """A file whose writing is done at an edge."""

    def __init__(
        self,
        directory: Path,
        kind: FileKind,
        dcu: str,
        edge: Edge,
        watcher: Watcher,
        connect: Connect | None = None,
    ) -> None:
        """Starts to open; jobs are taken from now on. To be made inside the loop.

        Args:
            directory: of the store.
            kind: which file.
            dcu: whose it is.
            edge: where the disk is waited for; closed with this writer.
            watcher: is told of openings and failures.
            connect: opens SQLite URIs, for tests.
        """
        self.kind = kind
        self.state = State.OPENING
        self._where = (directory, kind, dcu, connect)
        self._edge, self._watcher = edge, watcher
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._database: Database | None = None
        self._why = ""
        self._log_bytes = 0
        self._pause_s = REOPEN_S
        self._again: asyncio.TimerHandle | None = None
        edge.run(self._open)

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def submit(self, job: Job[ValueT]) -> Future[ValueT]:
        """Do a job in the next transaction; the future is done with the job's value when that is committed.

        Raises:
            StoreBusyError: too much waits.
            StoreError: the file has failed, or is closed.
        """
        if self.state in {State.FAILED, State.CLOSED}:
            raise StoreError(f"{self.kind.name}: {self.state.value} {self._why}".rstrip())
        if len(self._waiting) >= JOBS_MAX:
            raise StoreBusyError(f"{self.kind.name}: {JOBS_MAX} jobs wait")
        if self._log_bytes > LOG_BYTES_MAX:
            self._edge.run(self._relieve)
            raise StoreBusyError(f"{self.kind.name}: a reader keeps a log of {self._log_bytes} bytes from being moved")
        done: Future[ValueT] = self._loop.create_future()
        self._waiting.append(_Waiting(job, done))
        self._edge.run(self._flush)
        return done

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        if self._again is not None:
            self._again.cancel()
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._edge.run(self._shut)
            self._edge.close()
            self._failed([], StoreError(f"{self.kind.name}: closed"))

    # ---- at the edge -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        directory, kind, dcu, connect = self._where
        try:
            self._database = Database(directory, kind, dcu, connect)
        except StoreError as error:
            self._fail([], error)
            return
        opening = Opening(kind, self._database.fresh, self._database.aside)
        self._edge.back(lambda: self._opened(opening))

    def _flush(self) -> None:
        """Whatever waits, in one transaction; nothing does if the call before took it."""
        database = self._database
        if database is None:
            return  # failed: whoever waits is told in the loop
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
        if not batch:
            return
        try:
            with database.transaction() as connection:
                results = [(waiting, *_attempt(waiting.job, connection)) for waiting in batch]
        except sqlite3.Error as error:
            self._fail(batch, StoreError(f"{database.path}: {error}"))
        else:
            self._log_bytes = database.wal_bytes
            self._edge.back(lambda: _settle(results))

    def _relieve(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                self._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._log_bytes = self._database.wal_bytes

    def _fail(self, batch: list[_Waiting], error: StoreError) -> None:
        """Never the same connection again: what a failed sync has left behind nobody knows."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close(checkpoint=False)
            self._database = None
        self._edge.back(lambda: self._failed(batch, error))

    def _shut(self) -> None:
        while self._waiting and self._database is not None:
            self._flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    # ---- in the loop -------------------------------------------------------------------------------------------------

    def _opened(self, opening: Opening) -> None:
        if self.state is not State.CLOSED:
            self.state, self._pause_s = State.GOOD, REOPEN_S
        self._watcher.opened(opening)

    def _failed(self, batch: list[_Waiting], error: StoreError) -> None:
        everybody = [*batch, *self._waiting]
        self._waiting.clear()
        for waiting in everybody:
            if not waiting.done.done():
                waiting.done.set_exception(error)
                waiting.done.exception()  # nobody has to look
        if self.state in {State.FAILED, State.CLOSED}:
            return
        self.state, self._why = State.FAILED, str(error)
        again_s, self._pause_s = self._pause_s, min(REOPEN_S_MAX, 2 * self._pause_s)
        self._watcher.failed(self.kind, error, again_s)
        self._again = self._loop.call_later(again_s, self._reopen)

    def _reopen(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self.state, self._again = State.OPENING, None
        self._edge.run(self._open)


def _attempt(job: Job[Any], connection: sqlite3.Connection) -> tuple[Any, Exception | None]:
    """A job's value or its own error, undone alone; an error of the file or the medium is raised."""
    connection.execute("SAVEPOINT job")
    try:
        value = job(connection)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and primary(error) not in OWN_FAULTS:
            raise
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return None, error
    connection.execute("RELEASE job")
    return value, None


def _settle(results: list[tuple[_Waiting, Any, Exception | None]]) -> None:
    for waiting, value, error in results:
        if waiting.done.done():
            continue
        if error is None:
            waiting.done.set_result(value)
        else:
            waiting.done.set_exception(error)
