"""What a reader asks of the store's files, through a connection of `open_reader`. Each is one short read."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from dcu.store.derive import means_between
from dcu.store.power_quality import WEEK_S, week, week_of

ROWS_MAX: Final = 2000
"""Rows that one answer has at most."""


def events(
    connection: sqlite3.Connection, before: int | None = None, count: int = 100, kind: str | None = None
) -> list[dict[str, Any]]:
    """The newest events (of a kind), newest first; ``before`` is the id where the page before ended."""
    rows = connection.execute(
        "SELECT id, at_ms, kind, meter, epoch, seq, log, position, body FROM events"
        " WHERE id < coalesce(?, id + 1) AND kind = coalesce(?, kind) ORDER BY id DESC LIMIT ?",
        (before, kind, min(count, ROWS_MAX)),
    )
    names = ("id", "at_ms", "kind", "meter", "epoch", "seq", "log", "position")
    return [dict(zip(names, row[:8], strict=True)) | {"body": json.loads(row[8])} for row in rows]


def trace(connection: sqlite3.Connection, meter: str, first_s: float, last_s: float) -> list[dict[str, Any]]:
    """Readings of a meter between two instants [s, Unix], oldest first; the newest `ROWS_MAX` of them."""
    rows = connection.execute(
        "SELECT at_ms, u1, u2, u3, p1, p2, p3, limit_w FROM readings JOIN meters ON meter = number"
        " WHERE name = ? AND at_ms >= ? AND at_ms <= ? ORDER BY at_ms DESC LIMIT ?",
        (meter, round(1000 * first_s), round(1000 * last_s), ROWS_MAX),
    ).fetchall()
    return [
        {
            "at_s": row[0] / 1000,
            "u_v": [None if u is None else u / 100 for u in row[1:4]],
            "p_w": list(row[4:7]),
            "limit_w": row[7],
        }
        for row in reversed(rows)
    ]


def weeks(connection: sqlite3.Connection, meter: str) -> list[dict[str, Any]]:
    """EN 50160 figures of a customer's finished weeks, oldest first."""
    rows = connection.execute(
        "SELECT start_s, body FROM weeks JOIN meters ON meter = number WHERE name = ? ORDER BY start_s", (meter,)
    )
    return [{"start_s": start_s} | json.loads(body) for start_s, body in rows]


def present_week(connection: sqlite3.Connection, now_s: float, nominal_v: float) -> dict[str, dict[str, Any]]:
    """The same for every meter and the week that runs, as far as it has come."""
    start_s = week_of(now_s)
    names = {int(number): str(name) for number, name in connection.execute("SELECT number, name FROM meters")}
    means = means_between(connection, start_s, start_s + WEEK_S)
    return {names[meter]: {"start_s": start_s} | week(found, nominal_v).as_json() for meter, found in means.items()}
