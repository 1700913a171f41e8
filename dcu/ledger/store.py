"""The DCU's memory of its decisions: an append-only transparency log.

The door: `Ledger` writes, `read` and `verify` read without locking.

**Durability is part of the interface**: `Ledger.append` returns when the entry and a signed head over it are on the
medium (`dcu.ledger.log`).

**A log never takes back a head it has published.** If what a published head covers cannot be found again (a medium
that lied, rot), the log ends: its directory is kept as ``ended-K``, and a new log with an origin of its own begins with
an entry that says where the old one ended.

The first failing write or fsync poisons the ledger for good; whoever holds it has to stop, start again and recover.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dcu.ledger.audit import Scan, Walk, check_ended, claimed_size, read, read_kept, verify
from dcu.ledger.canonical import canonical
from dcu.ledger.entry import epoch_of, parse_leaf
from dcu.ledger.files import Files, RealFiles
from dcu.ledger.journal import Heading
from dcu.ledger.layout import FORMER, LOCK, ORIGIN, LedgerError, Place, current, ended, origin_of
from dcu.ledger.log import BUNDLES_MAX, Draw, Log
from dcu.ledger.recover import EndedError
from dcu.ledger.tiles import WIDTH
from shared.errors import DecodeError, DeviceError

__all__ = ["BATCH_MAX", "Files", "Ledger", "LedgerError", "RealFiles", "Scan", "Walk", "canonical", "read", "verify"]

BATCH_MAX: Final = BUNDLES_MAX * WIDTH
"""Entries of one commit."""

CONTINUED: Final = "ledger continued"
"""Kind of the entry that begins a log after another one has ended."""


@dataclass(slots=True)
class Recovery:
    """What opening had to put right; empty after a clean stop."""

    faults: list[str] = field(default_factory=list)


class Ledger:
    """The one writer of a ledger."""

    def __init__(
        self,
        directory: Path,
        dcu: str,
        files: Files | None = None,
        *,
        origin: str | None = None,
        draw: Draw = secrets.token_bytes,
    ) -> None:
        """Open or begin the ledger of a DCU; recovers its longest valid prefix.

        Args:
            directory: of the ledger.
            dcu: whose it is.
            files: operations on the medium, for tests.
            origin: the log's name in its heads; ``headroom/<dcu>`` if none is given.
            draw: random bytes, for the key and for salts.

        Raises:
            DeviceError: another process writes it.
            LedgerError: it belongs to another DCU or format.
            OSError: the directory cannot be written.
        """
        assert dcu.split() == [dcu], "a DCU's id is one word"
        self._files = files or RealFiles()
        self._directory, self._dcu, self._draw = directory, dcu, draw
        self._name = origin or f"{ORIGIN}/{dcu}"
        self._failed: str | None = None
        self._opened: list[Log] = []
        self.recovered = Recovery()
        self._files.make_directory(directory)
        self._lock = lock(directory)
        try:
            self._log = self._open()
        except BaseException:
            self._give_back()
            raise

    @property
    def position(self) -> int:
        """Number of entries."""
        return self._log.size

    @property
    def head(self) -> bytes:
        """Root of the Merkle tree over all entries."""
        return self._log.head

    @property
    def epoch(self) -> int:
        """Highest epoch recorded; 0 in a new ledger."""
        return self._log.epoch

    @property
    def published(self) -> int:
        """Number of entries under the published head."""
        return self._log.published

    @property
    def vkey(self) -> str:
        """The key that outsiders verify with."""
        return self._log.signer.verifier.vkey()

    def append(self, entry: dict[str, Any]) -> int:
        """Add an entry; its position, once it is durable.

        Raises:
            LedgerError: this or an earlier write failed; the ledger takes nothing more.
            ValueError: an entry that JSON cannot keep; nothing was written.
        """
        return self.append_all([entry])

    def append_all(self, entries: Sequence[dict[str, Any]]) -> int:
        """Add entries with one write and one fsync; the position of the first, once all are durable.

        Raises:
            LedgerError, ValueError: as `append`; none of the entries was acknowledged.
        """
        assert 0 < len(entries) <= BATCH_MAX, len(entries)
        log = self._log
        with self._poisoning():
            first = log.size
            log.commit([log.keep(entry) for entry in entries])
        return first

    def publish(self) -> None:
        """Let outsiders see every entry so far: unfinished tiles, then the signed head.

        Raises:
            LedgerError: this or an earlier write failed; the ledger takes nothing more.
        """
        with self._poisoning():
            if self._log.published != self._log.size:
                self._log.publish()

    def close(self) -> None:
        """Publish and give files and lock back."""
        try:
            if self._failed is None:
                self.publish()
        finally:
            self._give_back()

    @contextlib.contextmanager
    def _poisoning(self) -> Iterator[None]:
        if self._failed is not None:
            raise LedgerError(f"ledger poisoned: {self._failed}")
        try:
            yield
        except OSError as error:
            self._failed = str(error)
            raise LedgerError(f"ledger: {error}") from error

    def _give_back(self) -> None:
        for log in self._opened:
            log.close()
        os.close(self._lock)

    # ---- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> Log:
        former = self._directory / FORMER
        if former.exists():
            raise LedgerError(f"{former}: a ledger of format 1, expected format 2; move it away")
        log = self._log_of(1 + len(ended(self._directory)))
        try:
            log.open()
        except EndedError as end:
            self.recovered.faults += [*log.faults, f"{log.place.base}: {end}; another log begins"]
            log.close()
            number = 1 + len(ended(self._directory))
            self._files.replace(log.place.base, self._directory / f"ended-{number}")
            self._files.sync_directory(self._directory)
            log = self._log_of(number + 1)
            log.open()
        self.recovered.faults += log.faults
        before = ended(self._directory)
        if before and log.size == 0:
            log.commit([log.keep(_continuation(before[-1]))])
        return log

    def _log_of(self, generation: int) -> Log:
        whose = Heading(self._dcu, origin_of(self._name, generation), 0)
        self._opened.append(Log(current(self._directory), whose, self._files, self._draw))
        return self._opened[-1]


def _continuation(place: Place) -> dict[str, Any]:
    """The first entry of a log after another one: where that one ended."""
    done, claimed, epoch = check_ended(place), claimed_size(place.checkpoint), 0
    with contextlib.suppress(LedgerError, DecodeError):
        for leaf, _ in read_kept(place):
            epoch = max(epoch, epoch_of(parse_leaf(leaf)))
    root = base64.b64encode(done.root).decode()
    after = {"origin": done.origin, "entries": done.size, "root": root, "published": claimed}
    lost = max(0, claimed - done.size)  # each may have begun an epoch, and none may be used twice
    return {"kind": CONTINUED, "epoch": epoch + lost, "seq": None, "after": after}


def lock(directory: Path) -> int:
    """The handle that makes its holder the one writer of a ledger.

    Raises:
        DeviceError: somebody else is.
    """
    path = directory / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DeviceError(f"{path}: another process writes this ledger") from error
    return handle
