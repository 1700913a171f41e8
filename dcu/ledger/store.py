"""The DCU's memory of its decisions: an append-only, length-framed, checksummed, hash-chained file.

Layout: a header line naming format, version and DCU; then records of ``length (4) | CRC-32 (4) | chain hash (32) |
payload``. The payload is canonical JSON (sorted keys, no blanks, no NaN); the chain hash is SHA-256 over the hash
before it and the payload. A record is whole or it is the end: opening keeps the longest valid prefix and moves what
follows aside, never deletes it.

Durability is part of the interface: `Ledger.append` returns after fsync. The first failing write or fsync poisons the
ledger for good; whoever holds it has to stop, start again and recover.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from shared.errors import DeviceError, HeadroomError

FILE: Final = "decisions.ledger"
LOCK: Final = "ledger.lock"
VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 1 << 20
HEAD: Final = 4 + 4 + 32
HEADER_BYTES_MAX: Final = 256


class LedgerError(HeadroomError):
    """The ledger cannot be written any more, or is not ours to open."""


class Files(Protocol):
    """The few file operations durability rests on; a test can fail or cut each one."""

    def append(self, file: int, data: bytes) -> None:
        """Write all of ``data`` at the end."""

    def sync(self, file: int) -> None:
        """Return when everything written is on the medium."""


class RealFiles:
    """The operating system's."""

    def append(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def sync(self, file: int) -> None:
        os.fsync(file)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file holds.

    Attributes:
        entries: payloads in order.
        head: chain hash after the last one.
        valid_bytes: length of the valid prefix.
        faults: what is wrong behind it, with offsets; empty if nothing is.
    """

    dcu: str
    entries: list[dict[str, Any]] = field(default_factory=list)
    head: bytes = b""
    valid_bytes: int = 0
    faults: list[str] = field(default_factory=list)


def _header(dcu: str) -> bytes:
    return f"HEADROOM LEDGER {VERSION} {dcu}\n".encode()


def canonical(entry: dict[str, Any]) -> bytes:
    """The bytes of an entry: sorted keys, no blanks, UTF-8; NaN and infinities are refused (ValueError)."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def _chain(head: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(head + payload).digest()


class Walk:
    """The entries of a ledger file one by one, each verified before it is given.

    Attributes:
        dcu: whose ledger it is.
        count: entries so far.
        head: chain hash after the last of them.
        valid_bytes: where it ends.
        faults: what is wrong behind it, with offset; known when the walk is over.
    """

    def __init__(self, path: Path) -> None:
        """A walk that begins at the first entry.

        Raises:
            LedgerError: the file is missing, or no ledger of this format.
        """
        self._path = path
        try:
            with path.open("rb") as file:
                header = file.readline(HEADER_BYTES_MAX)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}") from error
        words = header.decode("utf-8", "replace").split()
        if len(words) != 4 or words[:2] != ["HEADROOM", "LEDGER"] or not header.endswith(b"\n"):
            raise LedgerError(f"{path}: seen {header[:32]!r}, expected a ledger's header line")
        if words[2] != str(VERSION):
            raise LedgerError(f"{path}: seen format version {words[2]}, expected {VERSION}")
        self.dcu = words[3]
        self.count = 0
        self.head = hashlib.sha256(header).digest()
        self.valid_bytes = len(header)
        self.faults: list[str] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self.valid_bytes)
            while record := file.read(HEAD):
                length = int.from_bytes(record[:4], "big")
                payload = file.read(min(length, ENTRY_BYTES_MAX))
                fault = _fault(record, payload, length, self.head)
                if fault is not None:
                    self.faults.append(f"offset {self.valid_bytes}, entry {self.count}: {fault}")
                    return
                self.head = record[8:]
                self.valid_bytes += HEAD + length
                self.count += 1
                yield json.loads(payload)


def scan(path: Path) -> Scan:
    """Read a ledger file whole and verify every record.

    Raises:
        LedgerError: the file is missing, or no ledger of this format.
    """
    walk = Walk(path)
    entries = list(walk)
    return Scan(walk.dcu, entries, walk.head, walk.valid_bytes, walk.faults)


def _fault(record: bytes, payload: bytes, length: int, head: bytes) -> str | None:
    if len(record) < HEAD or len(payload) < length or length > ENTRY_BYTES_MAX:
        return f"seen {len(record) + len(payload)} bytes, expected {HEAD + length}"
    if int.from_bytes(record[4:8], "big") != zlib.crc32(record[8:] + payload):
        return "wrong checksum"
    if record[8:] != _chain(head, payload):
        return "does not follow from the entry before it"
    return None


class Ledger:
    """The one writer of a ledger."""

    def __init__(self, directory: Path, dcu: str, files: Files | None = None) -> None:
        """Open or begin the ledger of a DCU; recovers its longest valid prefix.

        Raises:
            DeviceError: another process writes it.
            LedgerError: it belongs to another DCU or format.
            OSError: the directory cannot be written.
        """
        assert dcu.split() == [dcu], "a DCU's id is one word"
        self._files = files or RealFiles()
        self._failed: str | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory / LOCK)
        path = directory / FILE
        try:
            self.recovered = self._recover(path, dcu)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except BaseException:
            os.close(self._lock)
            raise
        self._head = self.recovered.head
        self._count = len(self.recovered.entries)

    def _recover(self, path: Path, dcu: str) -> Scan:
        if not path.exists() or path.stat().st_size < len(_header(dcu)):
            _begin(path, dcu, self._files)
        found = scan(path)
        if found.dcu != dcu:
            raise LedgerError(f"{path}: seen the ledger of {found.dcu}, expected that of {dcu}")
        if found.faults:
            _put_aside(path, found.valid_bytes, self._files)
        return found

    @property
    def position(self) -> int:
        """Number of entries."""
        return self._count

    @property
    def head(self) -> bytes:
        """Chain hash after the last entry."""
        return self._head

    @property
    def epoch(self) -> int:
        """Highest epoch recorded; 0 in a new ledger."""
        return max((int(entry.get("epoch", 0)) for entry in self.recovered.entries), default=0)

    def append(self, entry: dict[str, Any]) -> int:
        """Add an entry; its position, once it is durable.

        Raises:
            LedgerError: this or an earlier write failed; the ledger takes nothing more.
        """
        if self._failed is not None:
            raise LedgerError(f"ledger poisoned: {self._failed}")
        payload = canonical(entry)
        assert len(payload) <= ENTRY_BYTES_MAX, len(payload)
        chain = _chain(self._head, payload)
        body = chain + payload
        record = len(payload).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body
        try:
            self._files.append(self._file, record)
            self._files.sync(self._file)  # a crash before this line loses the entry, and nothing has been sent
        except OSError as error:
            self._failed = str(error)
            raise LedgerError(f"ledger: {error}") from error
        self._head = chain
        self._count += 1
        return self._count - 1

    def close(self) -> None:
        """Give file and lock back."""
        os.close(self._file)
        os.close(self._lock)


def _lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DeviceError(f"{path}: another process writes this ledger") from error
    return lock


def _begin(path: Path, dcu: str, files: Files) -> None:
    """A new file appears with its whole header or not at all."""
    fresh = path.with_suffix(".new")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        files.append(file, _header(dcu))
        files.sync(file)
    finally:
        os.close(file)
    fresh.replace(path)
    _sync_directory(path.parent, files)


def _put_aside(path: Path, valid_bytes: int, files: Files) -> None:
    """Keep the bad tail in a file of its own, then cut it off."""
    tail = path.read_bytes()[valid_bytes:]
    number = 0
    while (aside := path.with_suffix(f".tail{number}")).exists():
        number += 1
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        files.append(file, tail)
        files.sync(file)
    finally:
        os.close(file)
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(file, valid_bytes)
        files.sync(file)
    finally:
        os.close(file)
    _sync_directory(path.parent, files)


def _sync_directory(directory: Path, files: Files) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.sync(handle)
    finally:
        os.close(handle)


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Entries of a ledger directory, without locking it.

    Raises:
        LedgerError: no ledger there.
    """
    yield from scan(directory / FILE).entries


def verify(directory: Path) -> Scan:
    """Everything a ledger directory holds, and what is wrong with it.

    Raises:
        LedgerError: no ledger there.
    """
    return scan(directory / FILE)
