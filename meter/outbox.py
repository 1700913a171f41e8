"""Reports that the DCU has not acknowledged: kept in memory by the core, and on disk behind a port.

The DCU acknowledges each report by its number, so that a live report may overtake the backlog without settling it.
What waited carries no nonce and can raise nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from shared.cosem import Pushed, decode_apdu, encode_up
from shared.errors import DecodeError, DeviceError
from shared.messages import Report

QUOTA: Final = 10_000
"""Reports kept; beyond it the oldest are dropped and counted (41 hours at one report in 15 s)."""

RESEND_S: Final = 60.0
"""[s] A report from the backlog that is not acknowledged is offered again after this."""


BUSY_S: Final = 0.25
"""[s] Nobody else writes this file; who holds it for longer is a mistake to be told at once."""


class Outbox:
    """Unacknowledged reports by number, oldest first. Pure."""

    def __init__(self, stored: Iterable[Report] = (), quota: int = QUOTA) -> None:
        assert quota > 0, quota
        self._quota = quota
        self._reports = {report.seq: replace(report, nonce=None) for report in stored}
        self._offered: dict[int, float] = {}
        self.dropped = 0
        self._drop()

    def __len__(self) -> int:
        return len(self._reports)

    @property
    def next_seq(self) -> int:
        """Number after the newest one kept."""
        return max(self._reports, default=-1) + 1

    def put(self, report: Report, sent_s: float | None) -> list[int]:
        """Keep a report that is sent live at ``sent_s`` [s], or not at all (None); numbers dropped for it."""
        self._reports[report.seq] = replace(report, nonce=None)
        if sent_s is not None:
            self._offered[report.seq] = sent_s
        return self._drop()

    def settle(self, seq: int) -> bool:
        """The DCU has a report; whether it was still kept."""
        self._offered.pop(seq, None)
        return self._reports.pop(seq, None) is not None

    def backlog(self, now: float) -> Report | None:
        """The oldest report that nobody is being asked to acknowledge, to be sent now."""
        for seq, report in self._reports.items():
            if now >= self._offered.get(seq, now - RESEND_S) + RESEND_S:
                self._offered[seq] = now
                return report
        return None

    def _drop(self) -> list[int]:
        dropped = []
        while len(self._reports) > self._quota:
            oldest = next(iter(self._reports))
            del self._reports[oldest]
            self._offered.pop(oldest, None)
            self.dropped += 1
            dropped.append(oldest)
        return dropped


class OutboxStore(Protocol):
    """Where reports survive a power cut; every call returns when it is durable, and may block."""

    def load(self) -> tuple[list[Report], int]:
        """Reports kept, oldest first, and the next number."""

    def put(self, report: Report) -> None:
        """Keep a report."""

    def forget(self, seqs: list[int]) -> None:
        """Drop reports."""

    def close(self) -> None:
        """Give the file back."""


class MemoryStore:
    """A store for virtual time: survives the daemon, not the world."""

    def __init__(self) -> None:
        self._reports: dict[int, Report] = {}
        self._next_seq = 0

    def load(self) -> tuple[list[Report], int]:
        return list(self._reports.values()), self._next_seq

    def put(self, report: Report) -> None:
        self._reports[report.seq] = replace(report, nonce=None)
        self._next_seq = report.seq + 1

    def forget(self, seqs: list[int]) -> None:
        for seq in seqs:
            self._reports.pop(seq, None)

    def close(self) -> None:
        """Nothing to give back."""


class SqliteStore:
    """SQLite in WAL mode with full synchronisation; one connection, used by one thread.

    A damaged file is put aside for somebody to look at, not repaired; the numbers then start anew, which the boot id
    tells the DCU. Every method but `load` at start raises sqlite3.Error or OSError when the medium does not obey.
    """

    def __init__(self, path: Path) -> None:
        """Open, or make, the file.

        Raises:
            DeviceError: it cannot be opened or written.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open_or_put_aside()
        except (sqlite3.Error, OSError) as error:
            opened: sqlite3.Connection | None = getattr(self, "_database", None)
            if opened is not None:
                opened.close()
            raise DeviceError(f"outbox {path}: {error}") from error

    def _open_or_put_aside(self) -> None:
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, full, not permitted: the file itself is not to blame
            self._put_aside()
            self._open()

    def _put_aside(self) -> None:
        self._database.close()
        number = 0
        while (aside := self._path.with_suffix(f".damaged{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            file = Path(f"{self._path}{suffix}")
            if file.exists():
                file.replace(f"{aside}{suffix}")

    def _open(self) -> None:
        self._database = sqlite3.connect(self._path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=1048576"):
            self._database.execute(f"PRAGMA {pragma}")
        checked = self._database.execute("PRAGMA quick_check").fetchone()
        if checked != ("ok",):
            raise sqlite3.DatabaseError(f"{self._path}: {checked}")
        self._database.execute("CREATE TABLE IF NOT EXISTS report (seq INTEGER PRIMARY KEY, apdu BLOB NOT NULL) STRICT")
        self._database.execute("CREATE TABLE IF NOT EXISTS next (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT")
        self._database.execute("INSERT OR IGNORE INTO next VALUES (0, 0)")

    def load(self) -> tuple[list[Report], int]:
        reports: list[Report] = []
        for (apdu,) in self._database.execute("SELECT apdu FROM report ORDER BY seq"):
            try:
                decoded = decode_apdu(apdu)
            except DecodeError:
                continue  # an older layout; its reading is lost, its number is not used again
            if isinstance(decoded, Pushed) and isinstance(decoded.message, Report):
                reports.append(decoded.message)
        (next_seq,) = self._database.execute("SELECT seq FROM next").fetchone()
        return reports, next_seq

    def put(self, report: Report) -> None:
        apdu = encode_up(replace(report, nonce=None), report.seq)
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("INSERT OR REPLACE INTO report VALUES (?, ?)", (report.seq, apdu))
        self._database.execute("UPDATE next SET seq = ?", (report.seq + 1,))
        self._database.execute("COMMIT")

    def forget(self, seqs: list[int]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("DELETE FROM report WHERE seq = ?", [(seq,) for seq in seqs])
        self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()
