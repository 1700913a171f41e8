"""What goes when: by age, number and size, a little at a time, so that no commit is long. Jobs for the writers."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dcu.store.database import PAGE_BYTES, aside_bytes, asides, remove_aside, set_aside_there
from dcu.store.schema import EVENTS, TELEMETRY

ROWS: Final = 5000
"""Rows that one sweep of a table deletes at most; a clock that lies cannot empty a file before somebody looks."""

EVENT_ROWS_MAX: Final = 300_000
"""Events kept; at about 300 bytes each half of the events file."""

FREE_SHARE: Final = 0.25
"""Share of a file that may be free pages before some are given back to the file system."""

VACUUM_PAGES: Final = 256
"""Pages given back at a time."""

STORE_BYTES_MAX: Final = 1 << 30
"""[byte] All of the store, the utility's outbox and bad files that were set aside included; those go first. The caps of
the three files leave 64 MiB for their logs."""

DAY_S: Final = 86400
READINGS_MS_MIN: Final = 2 * DAY_S * 1000
"""[ms] Readings of this time go last when telemetry has to make room."""

FAR: Final = 1 << 62
"""Beyond every time."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """For how long [day], and in how many bytes."""

    events_days: float = 400.0
    readings_days: float = 14.0
    intervals_days: float = 400.0
    telemetry_bytes: int = 512 << 20


def sweep_events(connection: sqlite3.Connection, now_s: float | None, keeping: Keeping) -> int:
    """Delete some events that are too old or too many; how many. ``now_s`` [s, Unix] None: do not believe the clock."""
    gone = 0
    if now_s is not None:
        old_ms = round(1000 * (now_s - keeping.events_days * DAY_S))
        oldest = "SELECT id FROM events WHERE at_ms < ? ORDER BY at_ms LIMIT ?"
        gone += connection.execute(f"DELETE FROM events WHERE id IN ({oldest})", (old_ms, ROWS)).rowcount  # noqa: S608
    low, high = connection.execute("SELECT min(id), max(id) FROM events").fetchone()
    if low is not None and high - low >= EVENT_ROWS_MAX:
        first = min(high - EVENT_ROWS_MAX, low + ROWS)
        gone += connection.execute("DELETE FROM events WHERE id <= ?", (first,)).rowcount
    _give_back(connection)
    return gone


def sweep_telemetry(connection: sqlite3.Connection, now_s: float | None, keeping: Keeping) -> int:
    """The same for readings, means and quarter-hours; those from a future that a clock once claimed go as well."""
    gone = 0
    if now_s is not None:
        gone += _delete(connection, "readings", "at_ms", round(1000 * (now_s - keeping.readings_days * DAY_S)))
        future = "SELECT at_ms, meter FROM readings WHERE at_ms > ? LIMIT ?"
        gone += connection.execute(
            f"DELETE FROM readings WHERE (at_ms, meter) IN ({future})",  # noqa: S608  # our own text
            (round(1000 * (now_s + DAY_S)), ROWS),
        ).rowcount
        for table in ("means", "quarters"):
            gone += _delete(connection, table, "start_s", round(now_s - keeping.intervals_days * DAY_S))
    if used_bytes(connection) > keeping.telemetry_bytes:
        gone += _make_room(connection)
    _give_back(connection)
    return gone


def _make_room(connection: sqlite3.Connection) -> int:
    """Delete what is missed least: readings before the newest two days, then the oldest intervals, then readings."""
    newest_ms = connection.execute("SELECT max(at_ms) FROM readings").fetchone()[0]
    if newest_ms is not None and (gone := _delete(connection, "readings", "at_ms", newest_ms - READINGS_MS_MIN)):
        return gone
    oldest = {
        table: found
        for table in ("means", "quarters")
        if (found := connection.execute(f"SELECT min(start_s) FROM {table}").fetchone()[0]) is not None  # noqa: S608
    }
    if oldest:
        return _delete(connection, min(oldest, key=oldest.__getitem__), "start_s", FAR)
    return _delete(connection, "readings", "at_ms", FAR)


def used_bytes(connection: sqlite3.Connection) -> int:
    """[byte] Of a file's pages that hold something."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return int(PAGE_BYTES * (pages - connection.execute("PRAGMA freelist_count").fetchone()[0]))


def free_bytes(directory: Path) -> int:
    """[byte] Room on the medium for us."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def drop_asides(directory: Path, limit: int = STORE_BYTES_MAX) -> int:
    """Delete bad files that were set aside, oldest first, until the store fits; how many."""
    total = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    gone = 0
    others = (path.with_name(path.name.rpartition(".bad-")[0] + ".sqlite") for path in set_aside_there(directory))
    for path in dict.fromkeys((TELEMETRY.path(directory), EVENTS.path(directory), *others)):
        gone += _drop(path, total - limit)
        total = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    return gone


def _drop(path: Path, excess: int) -> int:
    gone = 0
    for number in asides(path):
        if excess <= 0:
            break
        excess -= aside_bytes(path, number)
        remove_aside(path, number)
        gone += 1
    return gone


def _delete(connection: sqlite3.Connection, table: str, column: str, below: int) -> int:
    """The oldest rows of a table that is in the order of time."""
    edge = f"SELECT {column} FROM {table} WHERE {column} < ? ORDER BY {column} LIMIT 1 OFFSET ?"  # noqa: S608
    found = connection.execute(edge, (below, ROWS)).fetchone()
    return connection.execute(
        f"DELETE FROM {table} WHERE {column} < ?",  # noqa: S608  # our own names
        (below if found is None else found[0] + 1,),
    ).rowcount


def _give_back(connection: sqlite3.Connection) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if free > VACUUM_PAGES and free > FREE_SHARE * pages:
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
