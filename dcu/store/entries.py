"""The ledger's decisions as rows of the events file. The ledger is the truth; rows can be made again at any time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dcu.ledger.audit import read_kept
from dcu.ledger.entry import restore
from dcu.ledger.layout import LedgerError, current, ended
from shared.errors import DecodeError

KINDS: Final = frozenset(
    {
        "start",
        "quarantine ended",
        "grant",
        "denial",
        "lowered",
        "revoke",
        "release",
        "expired",
        "ledger continued",
        "forgotten",
    }
)
"""Entries that become events. Windows and views, everybody's measurements, stay in the ledger alone, and so do
renewals: nine of ten decisions, and what they changed is in the limit that each reading carries."""

LEFT_OUT: Final = frozenset({"kind", "epoch", "seq", "meter", "utc_s", "schema", "sealed", "facts", "nominal_limit_w"})
"""Members that have a column of their own, or are of no use to a reader of events."""

PUT: Final = (
    "INSERT OR IGNORE INTO events (at_ms, kind, meter, epoch, seq, log, position, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

Row = tuple[int, str, str | None, int | None, int | None, int | None, int | None, str]
"""As `PUT` wants it."""

Source = Callable[[int, int], Iterator[tuple[int, dict[str, Any]]]]
"""Positions and entries of log ``log`` from a position on."""


def row_of(log: int, position: int, entry: Mapping[str, Any], utc_s: float) -> Row | None:
    """An entry of the ledger as an event, None if it is none; ``utc_s`` [s, Unix] where the entry has no time."""
    kind = entry.get("kind")
    if kind not in KINDS:
        return None
    at_s = entry.get("utc_s")
    meter, rest = entry.get("meter"), {key: value for key, value in entry.items() if key not in LEFT_OUT}
    return (
        round(1000 * float(at_s if isinstance(at_s, (int, float)) else utc_s)),
        str(kind),
        meter if isinstance(meter, str) else None,
        entry.get("epoch"),
        entry.get("seq"),
        log,
        position,
        _body(rest),
    )


def own_row(kind: str, meter: str | None, fields: Mapping[str, object], utc_s: float) -> Row:
    """Something that happened and is not in the ledger."""
    return round(1000 * utc_s), kind, meter, None, None, None, None, _body(fields)


def _body(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True, default=str)


def logs(directory: Path) -> int:
    """How many logs a ledger has had; the present one has this number."""
    return 1 + len(ended(directory))


def ledger_source(directory: Path) -> Source:
    """Entries of the ledger in a directory, read without locking it; a damaged one ends its log."""

    def entries(log: int, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
        before = ended(directory)
        place = before[log - 1] if log <= len(before) else current(directory)
        try:
            for position, (leaf, parts) in enumerate(read_kept(place, first), first):
                yield position, restore(leaf, parts)
        except (LedgerError, DecodeError, OSError):
            return

    return entries


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """The ledger as it was opened.

    Attributes:
        log: number of its present log.
        position: entries in that.
        vkey: its key.
        source: reads entries.
    """

    log: int
    position: int
    vkey: str
    source: Source


def settle(connection: sqlite3.Connection, facts: LedgerFacts) -> dict[int, int]:
    """Make the events agree with the ledger that was opened; up to where each log has been taken over.

    Rows that the ledger does not have (a medium that lied took its end, or it is another ledger) go: it is the truth.
    """
    found = {int(log): (str(vkey), int(at)) for log, vkey, at in connection.execute("SELECT * FROM taken")}
    if found.get(facts.log, (facts.vkey, 0))[0] != facts.vkey:
        connection.execute("DELETE FROM events WHERE log IS NOT NULL")
        connection.execute("DELETE FROM taken")
        found = {}
    beyond = "DELETE FROM events WHERE log > ? OR (log = ? AND position >= ?)"
    connection.execute(beyond, (facts.log, facts.log, facts.position))
    connection.execute("DELETE FROM taken WHERE log > ?", (facts.log,))
    connection.execute("UPDATE taken SET position = min(position, ?) WHERE log = ?", (facts.position, facts.log))
    return {log: min(at, facts.position) if log == facts.log else at for log, (_, at) in found.items()}


def note_taken(connection: sqlite3.Connection, log: int, vkey: str, position: int) -> None:
    """A log has been taken over up to here; never back."""
    connection.execute(
        "INSERT INTO taken VALUES (?, ?, ?)"
        " ON CONFLICT (log) DO UPDATE SET position = max(position, excluded.position)",
        (log, vkey, position),
    )


def end_log(connection: sqlite3.Connection, log: int, position: int) -> None:
    """An ended log holds no more than this."""
    connection.execute("DELETE FROM events WHERE log = ? AND position >= ?", (log, position))
