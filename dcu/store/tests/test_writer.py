"""The edge: what it promises when it is fast, slow, full and broken."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dcu.store import writer as module
from dcu.store.database import Database, FileKind, StoreError, open_reader
from dcu.store.tests.test_database import KIND
from dcu.store.writer import JOBS_MAX, REOPEN_S, Edge, Inline, Job, Opening, State, StoreBusyError, Threaded, Writer


@dataclass
class Notes:
    """A watcher that remembers."""

    openings: list[Opening] = field(default_factory=list)
    failures: list[tuple[str, float]] = field(default_factory=list)

    def opened(self, opening: Opening) -> None:
        self.openings.append(opening)

    def failed(self, kind: FileKind, error: StoreError, again_s: float) -> None:
        self.failures.append((str(error), again_s))


class Broken(sqlite3.Connection):
    """A medium that refuses once: at the statement that begins with `at`."""

    at = ""
    code = sqlite3.SQLITE_IOERR_FSYNC

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if Broken.at and sql.startswith(Broken.at):
            Broken.at = ""
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = Broken.code
            raise error
        return super().execute(sql, *parameters)


def connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=Broken)


def put(number: int, text: str = "text") -> Job[int]:
    def job(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO rows VALUES (?, ?)", (number, text))
        return number

    return job


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0])


@asynccontextmanager
async def writing(
    directory: Path, edge: Callable[[], Edge], kind: FileKind = KIND
) -> AsyncIterator[tuple[Writer, Notes]]:
    notes = Notes()
    writer = Writer(directory, kind, "dcu-1", edge(), notes, connect)
    try:
        yield writer, notes
    finally:
        writer.close()


def threaded() -> Edge:
    return Threaded("test")


EDGES = pytest.mark.parametrize("edge", [threaded, Inline], ids=["threaded", "inline"])


@EDGES
async def test_a_jobs_value_comes_when_it_is_committed(tmp_path: Path, edge: Callable[[], Edge]) -> None:
    """Jobs given before the file is even open are done in order, and a reader finds them when the futures are done."""
    async with writing(tmp_path, edge) as (writer, notes):
        given = [writer.submit(put(number)) for number in range(1000)]
        assert await asyncio.gather(*given) == list(range(1000))
        with closing(open_reader(tmp_path, KIND)) as reader:
            assert count(reader) == 1000
        assert writer.state is State.GOOD
        assert [opening.fresh for opening in notes.openings] == [True]


@EDGES
async def test_a_bad_job_is_undone_alone(tmp_path: Path, edge: Callable[[], Edge]) -> None:
    """Between two good ones in the same transaction: a double, an error of Python, a half-done job."""

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO rows VALUES (7, 'half')")
        raise KeyError("half")

    async with writing(tmp_path, edge) as (writer, notes):
        given: list[Future[Any]] = [writer.submit(job) for job in (put(1), put(1), half, put(2))]
        found = await asyncio.gather(*given, return_exceptions=True)
        assert (found[0], found[3]) == (1, 2)
        assert isinstance(found[1], sqlite3.IntegrityError)
        assert isinstance(found[2], KeyError)
        assert await writer.submit(count) == 2
        assert notes.failures == []


@EDGES
async def test_closing_finishes_what_was_begun(tmp_path: Path, edge: Callable[[], Edge]) -> None:
    """A thousand jobs and a close in the same breath: all are in the file, and the log is empty."""
    async with writing(tmp_path, edge) as (writer, _):
        for number in range(1000):
            writer.submit(put(number))
    with closing(open_reader(tmp_path, KIND)) as reader:
        assert count(reader) == 1000
    with pytest.raises(StoreError, match="closed"):
        writer.submit(put(1))


async def test_what_comes_while_the_disk_is_busy_shares_a_commit(tmp_path: Path) -> None:
    """The disk stands still under the first job; what waits is done in few transactions."""
    gate = threading.Event()
    async with writing(tmp_path, threaded) as (writer, _):
        await writer.submit(count)
        first = writer.submit(lambda _: gate.wait(10))
        rest = [writer.submit(put(number)) for number in range(500)]
        before = await asyncio.to_thread(lambda: 0)
        gate.set()
        await asyncio.gather(first, *rest)
        changes = await writer.submit(lambda connection: connection.total_changes)
        assert (before, changes) == (0, 500 + 1)


async def test_a_full_queue_refuses_and_goes_on(tmp_path: Path) -> None:
    """One more than fits is refused at once; those that were taken are done."""
    gate = threading.Event()
    async with writing(tmp_path, threaded) as (writer, _):
        await writer.submit(count)
        holding = threading.Event()

        def hold(_: sqlite3.Connection) -> None:
            holding.set()
            gate.wait(10)

        held = writer.submit(hold)
        await asyncio.to_thread(holding.wait, 10)
        given = [writer.submit(put(number)) for number in range(JOBS_MAX)]
        with pytest.raises(StoreBusyError):
            writer.submit(put(-1))
        gate.set()
        await asyncio.gather(held, *given)
        assert await writer.submit(count) == JOBS_MAX


@EDGES
@pytest.mark.parametrize("at", ["INSERT", "COMMIT", "BEGIN"])
async def test_an_error_of_the_medium_ends_this_opening(tmp_path: Path, edge: Callable[[], Edge], at: str) -> None:
    """Whatever waits gets the error, nothing of the transaction stays, nothing more is taken; later the file is opened
    anew and is good."""
    async with writing(tmp_path, edge) as (writer, notes):
        await writer.submit(put(1))
        Broken.at = at
        given = [writer.submit(put(number)) for number in range(2, 10)]
        found = await asyncio.gather(*given, return_exceptions=True)
        assert all(isinstance(one, StoreError) for one in found)
        assert writer.state is State.FAILED
        assert notes.failures == [(f"{KIND.path(tmp_path)}: disk I/O error", REOPEN_S)]
        with pytest.raises(StoreError, match=r"failed .*disk I/O error"):
            writer.submit(put(10))
        writer._reopen()
        assert await writer.submit(put(11)) == 11
        assert await writer.submit(count) == 2
        assert [opening.aside for opening in notes.openings] == [None, None]


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM],
)
async def test_whatever_the_medium_says_no_file_is_set_aside(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full, read-only, gone, forbidden, no memory: none of it speaks of the file, and with the next opening all is
    there."""
    monkeypatch.setattr(Broken, "code", code)
    async with writing(tmp_path, Inline) as (writer, notes):
        await writer.submit(put(1))
        Broken.at = "COMMIT"
        found = await asyncio.gather(writer.submit(put(2)), return_exceptions=True)
        assert isinstance(found[0], StoreError)
        Broken.at = "PRAGMA user_version"
        writer._reopen()
        await asyncio.sleep(0)
        assert writer.state is State.FAILED
        writer._reopen()
        assert await writer.submit(count) == 1
        assert [opening.aside for opening in notes.openings] == [None, None]
        assert len(notes.failures) == 2


async def test_a_file_that_goes_bad_is_set_aside_at_the_next_opening(tmp_path: Path) -> None:
    """SQLite calls the file malformed while we write; after the pause there is a fresh one, and the old one is kept."""
    async with writing(tmp_path, Inline) as (writer, notes):
        await writer.submit(put(1))
        Broken.at, Broken.code = "COMMIT", sqlite3.SQLITE_CORRUPT
        found = await asyncio.gather(writer.submit(put(2)), return_exceptions=True)
        Broken.code = sqlite3.SQLITE_IOERR_FSYNC
        assert isinstance(found[0], StoreError)
        path = KIND.path(tmp_path)
        path.write_bytes(path.read_bytes()[:4096])
        writer._reopen()
        assert await writer.submit(count) == 0
        assert notes.openings[-1].fresh
        assert notes.openings[-1].aside is not None


async def test_a_directory_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    """A file where the directory should be: refused, told once, jobs refused; when it is gone all is well."""
    (tmp_path / "store").write_text("in the way")
    async with writing(tmp_path / "store", Inline) as (writer, notes):
        with pytest.raises(StoreError):
            await writer.submit(put(1))
        assert writer.state is State.FAILED
        assert len(notes.failures) == 1
        (tmp_path / "store").unlink()
        writer._reopen()
        assert await writer.submit(put(1)) == 1


async def test_pauses_double_up_to_a_limit(tmp_path: Path) -> None:
    """A medium that stays bad is asked ever more seldom."""
    (tmp_path / "store").write_text("in the way")
    async with writing(tmp_path / "store", Inline) as (writer, notes):
        for _ in range(8):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert writer._again is not None
            writer._again.cancel()
            writer._reopen()
        await asyncio.sleep(0)
        assert [pause for _, pause in notes.failures] == [10, 20, 40, 80, 160, 320, 600, 600, 600]


async def test_a_reader_that_never_ends_cannot_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transaction keeps the log from being moved; at the cap jobs are refused, and taken again when it is gone."""
    monkeypatch.setattr(module, "LOG_BYTES_MAX", 1 << 18)
    async with writing(tmp_path, Inline) as (writer, notes):
        await writer.submit(put(0))
        with closing(open_reader(tmp_path, KIND)) as reader:
            reader.execute("BEGIN")
            count(reader)
            writer_connection = writer._database.connection if writer._database else None
            assert writer_connection is not None
            writer_connection.execute("PRAGMA busy_timeout = 1")
            refused = 0
            for number in range(1, 1000):
                try:
                    await writer.submit(put(number, "x" * 4000))
                except StoreBusyError:
                    refused += 1
                    await asyncio.sleep(0)
            assert refused > 500
            assert KIND.path(tmp_path).with_name("things.sqlite-wal").stat().st_size < 1 << 19
        with pytest.raises(StoreBusyError):
            writer.submit(put(5000))
        await asyncio.sleep(0)
        assert await writer.submit(put(5000)) == 5000
        assert notes.failures == []


# ---- a full disk, and kills, by real processes -----------------------------------------------------------------------

FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from dcu.store.database import StoreError
from dcu.store.tests.test_writer import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    directory = Path(sys.argv[1])
    notes = Notes()
    writer = Writer(directory, KIND, "dcu-1", Threaded("t"), notes)
    await writer.submit(put(0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    kept = 0
    for number in range(1, 500):
        try:
            await writer.submit(put(number, "x" * 4000))
            kept = number
        except StoreError:
            break
    print(kept, writer.state.value, len(notes.failures), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer._reopen()
    await writer.submit(put(1000))
    print(await writer.submit(count), notes.openings[-1].aside, flush=True)
    writer.close()

asyncio.run(main())
"""


def test_a_full_disk_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """The kernel refuses to let files grow: the job fails, the file is good, and with room again it goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = done.stdout.splitlines()
    kept, state, failures = first.split()
    assert 0 < int(kept) < 499
    assert (state, failures) == ("failed", "1")
    assert second.split() == [str(int(kept) + 2), "None"]


KILLED = """
import asyncio, sys
from pathlib import Path
from dcu.store.tests.test_writer import *

async def main():
    writer = Writer(Path(sys.argv[1]), KIND, "dcu-1", Threaded("t"), Notes())
    number = await writer.submit(lambda c: c.execute("SELECT coalesce(max(number), 0) FROM rows").fetchone()[0])
    while True:
        batch = [writer.submit(put(number + k + 1, "x" * 500)) for k in range(8)]
        number = (await asyncio.gather(*batch))[-1]
        print(number, flush=True)

asyncio.run(main())
"""


def kills(directory: Path, rounds: int, seed: int) -> None:
    """Kill the writer at random moments; nothing it acknowledged is missing, and no row comes without those before."""
    draw = random.Random(seed)
    for _ in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(directory)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdout is not None
        for _ in range(draw.randrange(1, 60)):
            line = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = [int(text) for text in [line, *process.stdout.read().splitlines()] if text.strip()]
        process.stdout.close()
        process.wait()
        writer = Database(directory, KIND, "dcu-1")
        assert writer.aside is None
        found = [row[0] for row in writer.connection.execute("SELECT number FROM rows ORDER BY number")]
        writer.close()
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged[-1]


def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A few real SIGKILLs at every run of the tests; fifty and more by `python -m benchmarks.store --kills`."""
    kills(tmp_path, 5, seed=1)


def test_two_kinds_do_not_share_a_file(tmp_path: Path) -> None:
    """Names and numbers of the store's files differ."""
    from dcu.store.schema import EVENTS, TELEMETRY  # noqa: PLC0415

    assert EVENTS.path(tmp_path) != TELEMETRY.path(tmp_path)
    assert EVENTS.application_id != TELEMETRY.application_id
    assert replace(EVENTS, steps=()).version == 0
