"""Opening a file of the store: what is good is kept, what is bad is set aside, what is newer is refused."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dcu.store.database import (
    ASIDE_MAX,
    PAGE_BYTES,
    Database,
    Durability,
    FileKind,
    NewerError,
    StoreError,
    asides,
    open_reader,
)

ROWS = ("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT",)
MORE = ("ALTER TABLE rows ADD COLUMN more INTEGER", "CREATE INDEX by_more ON rows (more)")
KIND = FileKind("things", 0x48520001, Durability.EVERY_COMMIT, (ROWS,), 16 << 20)
NEXT = replace(KIND, steps=(ROWS, MORE))


@contextmanager
def opened(directory: Path, kind: FileKind = KIND, dcu: str = "dcu-1") -> Iterator[Database]:
    database = Database(directory, kind, dcu)
    try:
        yield database
    finally:
        database.close()


def fill(directory: Path, count: int = 200) -> None:
    with opened(directory) as database, database.transaction() as connection:
        connection.executemany("INSERT INTO rows VALUES (?, ?)", [(n, f"text {n} " * 20) for n in range(count)])


def numbers(directory: Path) -> list[int]:
    with closing(open_reader(directory, KIND)) as reader:
        return [row[0] for row in reader.execute("SELECT number FROM rows ORDER BY number")]


def reason(database: Database) -> str:
    assert database.aside is not None
    return database.aside.reason


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    """Closed and opened: the same rows, nothing set aside."""
    fill(tmp_path)
    with opened(tmp_path) as database:
        assert database.aside is None
        assert not database.fresh
    assert numbers(tmp_path) == list(range(200))


def test_the_file_is_what_its_kind_says(tmp_path: Path) -> None:
    """Log, durability, vacuum, the cap: each asked of SQLite itself; rights whatever the umask says."""
    before = os.umask(0o077)
    with opened(tmp_path) as database:

        def asked(pragma: str) -> object:
            return database.connection.execute(f"PRAGMA {pragma}").fetchone()[0]

        assert asked("journal_mode") == "wal"
        assert asked("synchronous") == 2
        assert asked("auto_vacuum") == 2
        assert asked("application_id") == KIND.application_id
        assert asked("user_version") == 1
        assert asked("max_page_count") == KIND.bytes_max // PAGE_BYTES
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("things.sqlite*")}
    os.umask(before)
    assert modes.pop("things.sqlite.lock") == 0o600
    assert modes == dict.fromkeys(("things.sqlite", "things.sqlite-wal", "things.sqlite-shm"), 0o640)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Two rows, the second of which cannot be: neither is there."""
    with opened(tmp_path) as database:
        with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
            connection.executemany("INSERT INTO rows VALUES (?, 'twice')", [(1,), (1,)])
        assert database.connection.execute("SELECT count(*) FROM rows").fetchone() == (0,)


def test_there_is_one_writer(tmp_path: Path) -> None:
    """A second one, in this process or another, is refused; after the first has closed it is welcome."""
    with opened(tmp_path):
        with pytest.raises(StoreError, match="another process writes it"):
            Database(tmp_path, KIND, "dcu-1")
        code = f"""
from dcu.store.tests.test_database import *
try:
    Database(Path({str(tmp_path)!r}), KIND, "dcu-1")
except StoreError:
    print("refused")
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "refused"
    with opened(tmp_path) as database:
        assert database.aside is None


def test_an_older_file_is_brought_forward(tmp_path: Path) -> None:
    """Version 1 with rows becomes version 2 with the same rows."""
    fill(tmp_path)
    with opened(tmp_path, NEXT) as database:
        assert database.aside is None
        assert database.connection.execute("SELECT count(*), count(more) FROM rows").fetchone() == (200, 0)
    with opened(tmp_path, NEXT) as database:
        assert database.connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_kill_within_a_migration_leaves_one_version_or_the_next(tmp_path: Path) -> None:
    """A second statement that fails: the first is undone, the number is the old one, and the file is good."""
    fill(tmp_path)
    broken = replace(KIND, steps=(ROWS, ("CREATE TABLE more (x INTEGER) STRICT", "INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(StoreError, match="nowhere"):
        Database(tmp_path, broken, "dcu-1")
    with opened(tmp_path) as database:
        assert database.aside is None
    assert numbers(tmp_path) == list(range(200))


def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Byte for byte, by writer and reader."""
    with opened(tmp_path, NEXT):
        pass
    path = KIND.path(tmp_path)
    before = path.read_bytes()
    with pytest.raises(NewerError, match="version 2 of a newer program, expected 1"):
        Database(tmp_path, KIND, "dcu-1")
    with pytest.raises(NewerError, match="version 2, expected 1"):
        open_reader(tmp_path, KIND)
    assert path.read_bytes() == before
    assert asides(path) == []


def test_another_dcus_file_is_set_aside(tmp_path: Path) -> None:
    """A card that was in another substation: its file is kept whole, ours begins empty."""
    fill(tmp_path)
    with opened(tmp_path, dcu="dcu-2") as database:
        assert reason(database) == "of DCU dcu-1, expected dcu-2"
        assert database.fresh
    assert numbers(tmp_path) == []
    with closing(sqlite3.connect(tmp_path / "things.bad-1.sqlite")) as kept:
        assert kept.execute("SELECT count(*) FROM rows").fetchone() == (200,)
    told = json.loads((tmp_path / "things.bad-1.reason").read_text())
    assert told == {"file": "things.sqlite", "reason": "of DCU dcu-1, expected dcu-2"}


@pytest.mark.parametrize("size", [1, 99, 100, 512, 4095, 4096, 5000, 3 * 4096, 20000])
def test_a_truncated_file_is_set_aside(tmp_path: Path, size: int) -> None:
    """Cut anywhere: opening never fails, and the bad bytes are kept."""
    fill(tmp_path)
    path = KIND.path(tmp_path)
    whole = path.read_bytes()
    assert size < len(whole)
    path.write_bytes(whole[:size])
    with opened(tmp_path) as database:
        assert database.aside is not None
        assert database.aside.path.read_bytes()[:size][100:] == whole[:size][100:]
        assert database.fresh
    assert numbers(tmp_path) == []


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """Made, and power went: nothing to set aside."""
    KIND.path(tmp_path).touch()
    with opened(tmp_path) as database:
        assert database.aside is None
        assert database.fresh


def test_flipped_bytes_never_stop_the_start(tmp_path: Path) -> None:
    """A byte of every hundred, each page's header and each cell pointer: the file is set aside, or every row it gives
    is one that may be there. Flips in the middle of a text are not seen by SQLite: it keeps no sums of its pages."""
    fill(tmp_path)
    path = KIND.path(tmp_path)
    whole = path.read_bytes()
    caught = 0
    places = sorted(
        {
            *range(100),
            *range(0, len(whole), 97),
            *(page + at for page in range(0, len(whole), PAGE_BYTES) for at in range(12)),
        }
    )
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            with opened(tmp_path) as database:
                caught += database.aside is not None
                database.connection.execute("SELECT count(*), sum(length(text)) FROM rows").fetchone()
        except NewerError:
            assert 60 <= place < 64, "only the version's own bytes say that"
            caught += 1
        for number in asides(path):
            (tmp_path / f"things.bad-{number}.reason").unlink()
    assert caught > len(places) / 10


@pytest.mark.parametrize("content", [b"\x00" * 8192, b"no database at all", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_something_else_is_set_aside(tmp_path: Path, content: bytes) -> None:
    """Zeros, text, a header with nothing behind it."""
    KIND.path(tmp_path).write_bytes(content)
    with opened(tmp_path) as database:
        assert database.aside is not None
    assert numbers(tmp_path) == []


def test_a_foreign_database_is_set_aside(tmp_path: Path) -> None:
    """A good SQLite file of somebody else, and one with our number and other tables."""
    with closing(sqlite3.connect(KIND.path(tmp_path))) as other:
        other.execute("CREATE TABLE theirs (x)")
    with opened(tmp_path) as database:
        assert reason(database) == "application id 0x0, expected 0x48520001"
        database.connection.execute("CREATE TABLE theirs (x)")
    with opened(tmp_path) as database:
        assert reason(database) == "tables that are not those of version 1"


def test_a_log_without_its_file_is_set_aside(tmp_path: Path) -> None:
    """Power went while a bad file was being set aside: its log never meets the new file."""
    log = tmp_path / "things.sqlite-wal"
    log.write_bytes(b"whatever")
    with opened(tmp_path) as database:
        assert reason(database) == "a log without its file"
    assert (tmp_path / "things.bad-1.sqlite-wal").read_bytes() == b"whatever"


def torn(directory: Path) -> tuple[bytes, bytes]:
    """File and log as a killed writer leaves them: 100 rows in the file, 100 in the log."""
    fill(directory, 100)
    database = Database(directory, KIND, "dcu-1")
    for number in range(100, 200):
        with database.transaction() as connection:
            connection.execute("INSERT INTO rows VALUES (?, 'later')", (number,))
    kept = database.path.read_bytes(), database.path.with_name("things.sqlite-wal").read_bytes()
    database.close()
    return kept


@pytest.mark.parametrize("log_share", [0.0, 0.3, 0.7, 1.0])
def test_of_a_cut_log_the_whole_commits_are_kept(tmp_path: Path, log_share: float) -> None:
    """A log that is missing or cut: the file is good, and holds the first rows without a hole."""
    file, log = torn(tmp_path / "a")
    directory = tmp_path / "b"
    directory.mkdir()
    KIND.path(directory).write_bytes(file)
    if log_share:
        (directory / "things.sqlite-wal").write_bytes(log[: int(len(log) * log_share)])
    with opened(directory) as database:
        assert database.aside is None
    found = numbers(directory)
    assert found == list(range(len(found)))
    assert len(found) == 200 if log_share == 1 else 100 <= len(found) < 200


def test_a_flipped_byte_of_the_log_takes_what_is_behind_it(tmp_path: Path) -> None:
    """The log has sums: what is before the flip is kept, nothing false is read."""
    file, log = torn(tmp_path / "a")
    for at, place in enumerate(range(40, len(log), len(log) // 20)):
        directory = tmp_path / f"b{at}"
        directory.mkdir()
        KIND.path(directory).write_bytes(file)
        (directory / "things.sqlite-wal").write_bytes(log[:place] + bytes([log[place] ^ 1]) + log[place + 1 :])
        with opened(directory) as database:
            assert database.aside is None
        found = numbers(directory)
        assert found == list(range(len(found)))
        assert len(found) >= 100


def test_no_more_than_a_few_bad_files_are_kept(tmp_path: Path) -> None:
    """The oldest goes first, numbers go on."""
    path = KIND.path(tmp_path)
    for _ in range(ASIDE_MAX + 2):
        path.write_bytes(b"bad")
        with opened(tmp_path):
            pass
    assert asides(path) == [3, 4, 5]
    assert len(list(tmp_path.glob("things.bad-*"))) == 2 * ASIDE_MAX


def test_a_reader_reads_while_the_writer_writes(tmp_path: Path) -> None:
    """It sees what is committed, nothing else, and cannot write."""
    with opened(tmp_path) as database, closing(open_reader(tmp_path, KIND)) as reader:
        with database.transaction() as connection:
            connection.execute("INSERT INTO rows VALUES (1, 'one')")
            assert reader.execute("SELECT count(*) FROM rows").fetchone() == (0,)
        assert reader.execute("SELECT count(*) FROM rows").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM rows")


READS: str = """
import os, sys
from dcu.store.tests.test_database import *
os.setgid(12345); os.setgroups([]); os.setuid(54321)
reader = open_reader(Path(sys.argv[1]), KIND)
print(reader.execute("SELECT count(*) FROM rows").fetchone()[0])
try:
    open(KIND.path(Path(sys.argv[1])), "ab")
except PermissionError:
    print("cannot write")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_of_the_group_reads_what_it_cannot_write(tmp_path: Path) -> None:
    """The page runs as a user of its own: a member of the group, without any right to write, sees the newest commit."""
    directory = tmp_path / "store"
    with opened(directory) as database:
        with database.transaction() as connection:
            connection.execute("INSERT INTO rows VALUES (1, 'one')")
        for path in (directory, *directory.iterdir()):
            os.chown(path, 0, 12345)
        for above in directory.parents[:-2]:
            above.chmod(0o755)
        command = [sys.executable, "-c", READS, str(directory)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout.split("\n")[:2], done.stderr) == (["1", "cannot write"], "")


REFUSED: str = """
import os, sys
from dcu.store.tests.test_database import *
os.setgid(12345); os.setgroups([]); os.setuid(54321)
try:
    Database(Path(sys.argv[1]), KIND, "dcu-1")
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    """One line, nothing set aside, the file as it was."""
    directory = tmp_path / "store"
    fill(directory)
    before = KIND.path(directory).read_bytes()
    for above in directory.parents[:-2]:
        above.chmod(0o755)
    directory.chmod(0o755)
    command = [sys.executable, "-c", REFUSED, str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Permission denied" in done.stdout
    assert done.stderr == ""
    assert KIND.path(directory).read_bytes() == before
    assert asides(KIND.path(directory)) == []


def test_a_reader_of_nothing_says_so(tmp_path: Path) -> None:
    """One line with the path."""
    with pytest.raises(StoreError, match="no such file"):
        open_reader(tmp_path, KIND)


def test_the_cap_is_the_files(tmp_path: Path) -> None:
    """Full: the transaction fails as a whole, what was there stays."""
    small = replace(KIND, bytes_max=32 * PAGE_BYTES)
    with opened(tmp_path, small) as database:
        with database.transaction() as connection:
            connection.execute("INSERT INTO rows VALUES (1, 'one')")
        with pytest.raises(sqlite3.OperationalError, match="full"), database.transaction() as connection:
            connection.execute("INSERT INTO rows VALUES (2, ?)", ("x" * 40 * PAGE_BYTES,))
        assert database.connection.execute("SELECT count(*) FROM rows").fetchone() == (1,)
