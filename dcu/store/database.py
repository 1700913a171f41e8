"""One SQLite file of the store: opened, checked, brought to the present version, and set aside if it is bad.

A `Database` is the one writing connection of a file; it also makes the checkpoints, which is our defence against the
WAL-reset race of SQLite before 3.51.3. Everybody else, in whatever process, reads through `open_reader`.

What is in these files is derived (from the ledger) or telemetry: a file that cannot be trusted is renamed aside with
its log and the reason, and a fresh one takes its place. A file that a *newer* program wrote is left alone and refused.
What a medium refuses (full, read-only, I/O error) sets nothing aside: that says nothing about the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from shared.errors import DeviceError
from shared.secret_files import sync_directory

PAGE_BYTES: Final = 4096
"""[byte] A page; also what an SD card likes to be given."""

WAL_PAGES: Final = 1000
"""Pages in the write-ahead log after which a commit also moves them into the file."""

WAL_KEPT_BYTES: Final = 4 << 20
"""[byte] What is left of the log's file after it has been moved."""

CACHE_KIB: Final = 1024
"""[KiB] Pages a connection keeps in memory."""

MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750
"""The group may read, others may not: customers' readings are in it."""

BUSY_MS: Final = 5000
"""[ms] How long to wait for somebody else's lock. Nobody but a person with a shell ever holds one."""

FAULTS_MAX: Final = 10
"""Lines of an integrity check that are kept as the reason."""

ASIDE_MAX: Final = 3
"""Bad files kept of each kind; the oldest goes first."""

HEADER_BYTES: Final = 100
MAGIC: Final = b"SQLite format 3\x00"
"""How every SQLite file begins (SQLite file format, 1.3)."""

CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
"""Primary result codes that speak of the file, not of the medium."""

Connect = Callable[[str], sqlite3.Connection]
"""Opens a SQLite URI; a test's own may fail where it likes."""


class StoreError(DeviceError):
    """A file of the store cannot be used now; nothing of the failed call was kept."""


class NewerError(StoreError):
    """A newer program's file."""


class Durability(Enum):
    """What a power cut may take; the values are SQLite's words."""

    EVERY_COMMIT = "FULL"
    NOT_THE_NEWEST = "NORMAL"


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Attributes:
        name: of the file, without suffix.
        application_id: 32 bit in its header, so that no other file is taken for it.
        durability: what its commits promise.
        steps: statements that lead from version n to n + 1; only ever added to.
        bytes_max: [byte] the file never grows beyond; retention keeps it well below.
    """

    name: str
    application_id: int
    durability: Durability
    steps: tuple[tuple[str, ...], ...]
    bytes_max: int

    @property
    def version(self) -> int:
        """The present version."""
        return len(self.steps)

    def path(self, directory: Path) -> Path:
        """Where it lies."""
        return directory / f"{self.name}.sqlite"


@dataclass(frozen=True, slots=True)
class Aside:
    """A file that was set aside."""

    path: Path
    reason: str


_OWNER: Final = "CREATE TABLE owner (dcu TEXT NOT NULL) STRICT"
"""Every file says whose it is."""


class Database:
    """The one writing connection of a file.

    Attributes:
        aside: what opening had to set aside, None if the file was good or new.
        fresh: whether this file was made just now.
    """

    def __init__(self, directory: Path, kind: FileKind, dcu: str, connect: Connect | None = None) -> None:
        """Open, check and migrate; what is bad is set aside. Takes the time of reading the whole file.

        Raises:
            StoreError: another process writes it, the medium refuses, or a newer program wrote it.
        """
        self.kind = kind
        self.path = kind.path(directory)
        self.aside: Aside | None = None
        self.fresh = False
        self._connect = connect or _connect
        with _as_store_error(self.path):
            _make_directory(directory)
            self._lock = _lock(self.path)
        try:
            with _as_store_error(self.path):
                self.connection = self._open(dcu)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, dcu: str) -> sqlite3.Connection:
        bad = _why_bad(self.path, self.kind, dcu, self._connect)
        if bad is not None:
            self.aside = set_aside(self.path, bad)
        self.fresh = not self.path.exists() or self.path.stat().st_size == 0
        if self.fresh:
            self.path.touch()
            self.path.chmod(MODE)  # whatever the umask says; its log gets the same rights
        connection = self._connect(_uri(self.path, "rw"))
        try:
            _tune(connection, self.kind)
            _migrate(connection, self.kind, dcu)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything done within is committed at the end, or nothing is.

        Raises:
            sqlite3.Error: as SQLite says; nothing was kept.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise

    @property
    def size_bytes(self) -> int:
        """[byte] On the medium, with the log."""
        return sum(_size(path) for path in (self.path, _beside(self.path, "-wal")))

    @property
    def wal_bytes(self) -> int:
        """[byte] Of the log alone; a reader that never ends its transaction lets it grow."""
        return _size(_beside(self.path, "-wal"))

    def close(self, *, checkpoint: bool = True) -> None:
        """Give the file back; with everything moved from the log into it unless the medium has already failed."""
        try:
            if checkpoint:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.connection.close()
        finally:
            os.close(self._lock)


def open_reader(directory: Path, kind: FileKind) -> sqlite3.Connection:
    """A connection that can only read, for another process or thread; keep its transactions short.

    The file stays with its writer: a reader sees the newest commit at each statement (or at each ``BEGIN``), and makes
    no checkpoint.

    Raises:
        StoreError: no file yet, not one of ours, or a newer program's.
    """
    path = kind.path(directory)
    if not path.exists():
        raise StoreError(f"{path}: no such file, expected one that a DCU has made")
    with _as_store_error(path):
        connection = _connect(_uri(path, "ro"))
        try:
            for pragma in ("query_only = ON", f"busy_timeout = {BUSY_MS}", f"cache_size = -{CACHE_KIB}"):
                connection.execute(f"PRAGMA {pragma}")
            application_id, version = _identity(connection)
        except BaseException:
            connection.close()
            raise
    if (application_id, version) == (kind.application_id, kind.version):
        return connection
    connection.close()
    if application_id != kind.application_id:
        raise StoreError(f"{path}: application id {application_id:#x}, expected {kind.application_id:#x}")
    raise NewerError(f"{path}: version {version}, expected {kind.version}")


def set_aside(path: Path, reason: str) -> Aside:
    """Rename a file, its log and its index to the next free name, and write the reason beside them.

    If power fails in between, the next start finds the bad file, or a log without its file, and goes on.
    """
    taken = asides(path)
    while len(taken) >= ASIDE_MAX:
        remove_aside(path, taken.pop(0))
    target = _aside_path(path, taken[-1] + 1 if taken else 1)
    target.with_suffix(".reason").write_text(json.dumps({"file": path.name, "reason": reason}) + "\n")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).replace(_beside(target, suffix))
    sync_directory(path.parent)
    return Aside(target, reason)


def asides(path: Path) -> list[int]:
    """Numbers of what was set aside of a file, oldest first."""
    found = path.parent.glob(f"{path.stem}.bad-*.reason")
    return sorted(int(name) for at in found if (name := at.stem.rpartition("-")[2]).isdecimal())


def set_aside_there(directory: Path) -> list[Path]:
    """Everything that was set aside, of whatever kind."""
    return sorted(path.with_suffix(".sqlite") for path in directory.glob("*.bad-*.reason"))


def aside_bytes(path: Path, number: int) -> int:
    """[byte] What one of them takes."""
    target = _aside_path(path, number)
    return sum(_size(_beside(target, suffix)) for suffix in ("", "-wal", "-shm"))


def remove_aside(path: Path, number: int) -> None:
    """Delete one of them."""
    target = _aside_path(path, number)
    for suffix in ("", "-wal", "-shm"):
        _beside(target, suffix).unlink(missing_ok=True)
    target.with_suffix(".reason").unlink(missing_ok=True)


# ---- parts of opening ------------------------------------------------------------------------------------------------


def _why_bad(path: Path, kind: FileKind, dcu: str, connect: Connect) -> str | None:
    """Why a file has to be set aside; None if it is good, or not there.

    Raises:
        NewerError: a newer program's; it is not ours to judge.
    """
    if not path.exists():
        return "a log without its file" if _beside(path, "-wal").exists() else None
    if path.stat().st_size == 0 and _size(_beside(path, "-wal")) == 0:
        return None  # made, and never written
    if (fault := _header_fault(path)) is not None:
        return fault
    try:
        connection = connect(_uri(path, "rw"))
        try:
            return _judge(connection, path, kind, dcu)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if primary(error) not in CORRUPT | {0, sqlite3.SQLITE_ERROR}:  # our questions are right: the file is not
            raise
        return str(error)
    except UnicodeDecodeError as error:  # a name, or SQLite's own complaint about one
        return str(error)


def _header_fault(path: Path) -> str | None:
    """What is wrong with a file's header that SQLite would take for an empty file, or for one that it may not write."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES and _size(_beside(path, "-wal")) == 0:
        return f"{len(header)} bytes, expected a header of {HEADER_BYTES}"
    formats = (header[18:19], header[19:20])
    if header and (not header.startswith(MAGIC) or any(one not in (b"\x01", b"\x02") for one in formats)):
        return f"header {header[:20].hex()}, expected a SQLite database"
    return None


def _judge(connection: sqlite3.Connection, path: Path, kind: FileKind, dcu: str) -> str | None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    application_id, version = _identity(connection)
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if (application_id, version, tables) == (0, 0, 0):
        return None  # made, and killed before anything was in it
    if application_id != kind.application_id:
        return f"application id {application_id:#x}, expected {kind.application_id:#x}"
    if version > kind.version:
        raise NewerError(
            f"{path}: version {version} of a newer program, expected {kind.version}; update, or move it away"
        )
    faults = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({FAULTS_MAX})")]
    if faults != ["ok"]:
        return "; ".join(faults)
    if _schema(connection) != _schema_of(kind, version):
        return f"tables that are not those of version {version}"
    owners = [str(row[0]) for row in connection.execute("SELECT dcu FROM owner")]
    return None if owners == [dcu] else f"of DCU {', '.join(owners) or 'nobody'}, expected {dcu}"


def _tune(connection: sqlite3.Connection, kind: FileKind) -> None:
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "auto_vacuum = INCREMENTAL",  # has to stand before the first table
        f"busy_timeout = {BUSY_MS}",
        "journal_mode = WAL",
        f"synchronous = {kind.durability.value}",
        f"journal_size_limit = {WAL_KEPT_BYTES}",
        f"wal_autocheckpoint = {WAL_PAGES}",
        f"cache_size = -{CACHE_KIB}",
        f"max_page_count = {kind.bytes_max // PAGE_BYTES}",
        "mmap_size = 0",  # an I/O error shall be an error, not a signal
        "temp_store = MEMORY",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{kind.name}: journal mode {mode}, expected wal (a file system without shared memory?)")


def _migrate(connection: sqlite3.Connection, kind: FileKind, dcu: str) -> None:
    """Each step in a transaction of its own with the number it leads to: a kill leaves one version or the next."""
    application_id, version = _identity(connection)
    for number in range(version, kind.version):
        connection.execute("BEGIN IMMEDIATE")
        if application_id == 0:
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
            connection.execute(_OWNER)
            connection.execute("INSERT INTO owner VALUES (?)", (dcu,))
            application_id = kind.application_id
        for statement in kind.steps[number]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    """Application id and version."""
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    return application_id, connection.execute("PRAGMA user_version").fetchone()[0]


def _schema(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    names = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
    return connection.execute(names).fetchall()


def _schema_of(kind: FileKind, version: int) -> list[tuple[Any, ...]]:
    """What a file of this version must contain."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(_OWNER)
        for step in kind.steps[:version]:
            for statement in step:
                connection.execute(statement)
        return _schema(connection)


# ---- files -----------------------------------------------------------------------------------------------------------


def primary(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if it was Python's own objection."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error


def _connect(uri: str) -> sqlite3.Connection:
    """Used by one thread at a time, not always the one that opened it."""
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64)


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _aside_path(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.bad-{number}.sqlite")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)  # the other file's thread may be making it
        path.chmod(DIRECTORY_MODE)


def _lock(path: Path) -> int:
    """The handle that makes its holder the one writer; a file of its own, because SQLite's locks on the database end
    when any handle of it is closed."""
    handle = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(f"{path}: another process writes it") from error
    return handle
