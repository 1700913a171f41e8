"""Reports that the DCU has not acknowledged: kept in memory by the core, and on disk behind a port."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from shared.cosem import Pushed, decode_apdu, encode_up
from shared.errors import DecodeError
from shared.messages import Report

QUOTA: Final = 10_000
"""Reports kept; beyond it the oldest are dropped and counted (41 hours at one report in 15 s)."""

RESEND_S: Final = 60.0
"""[s] A report from the backlog that is not acknowledged is offered again after this."""


class Outbox:
    """Unacknowledged reports by number, oldest first. Pure."""

    def __init__(self, stored: Iterable[Report] = ()) -> None:
        self._reports = {report.seq: report for report in stored}
        self._offered: dict[int, float] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._reports)

    @property
    def next_seq(self) -> int:
        """Number after the newest one kept."""
        return max(self._reports, default=-1) + 1

    def put(self, report: Report, now: float) -> list[int]:
        """Keep a report that is sent live now; numbers dropped for it."""
        self._reports[report.seq] = replace(report, nonce=None)
        self._offered[report.seq] = now
        dropped = []
        while len(self._reports) > QUOTA:
            oldest = next(iter(self._reports))
            del self._reports[oldest]
            self._offered.pop(oldest, None)
            self.dropped += 1
            dropped.append(oldest)
        return dropped

    def settle(self, seq: int) -> bool:
        """The DCU has a report; whether it was still kept."""
        self._offered.pop(seq, None)
        return self._reports.pop(seq, None) is not None

    def backlog(self, now: float) -> Report | None:
        """The oldest report that nobody is being asked to acknowledge, to be sent now."""
        for seq, report in self._reports.items():
            if now >= self._offered.get(seq, -RESEND_S) + RESEND_S:
                self._offered[seq] = now
                return report
        return None


class OutboxStore(Protocol):
    """Where reports survive a power cut; every call returns when it is durable."""

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
    """SQLite in WAL mode with full synchronisation; used by one thread. A damaged file is put aside, not repaired."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError:
            number = 0
            while (aside := path.with_suffix(f".damaged{number}")).exists():
                number += 1
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._open()

    def _open(self) -> None:
        self._database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "journal_size_limit=1048576"):
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
