"""Readings as rows of the telemetry file, and the samples that intervals are made of."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from typing import Final

from dcu.store.intervals import Sample
from shared.messages import Reading

PUT: Final = f"INSERT OR IGNORE INTO readings VALUES ({', '.join('?' * 17)})"  # noqa: S608  # question marks
GET: Final = (
    "SELECT meter, at_ms, u1, u2, u3, p1, p2, p3, import_wh, export_wh FROM readings"
    " WHERE at_ms >= ? AND at_ms <= ? ORDER BY at_ms"
)

WHOLE_MAX: Final = 2**62
"""No quantity is larger; SQLite's integers end at 2**63."""

Row = tuple[int | None, ...]
"""As `PUT` wants it."""


def row_of(at_s: float, meter: int, reading: Reading, limit_w: float | None) -> Row:
    """A reading of meter ``meter`` at ``at_s`` [s, Unix]; ``limit_w`` is the export limit it applied [W]."""
    return (
        round(1000 * at_s),
        meter,
        *(_whole(value, 100) for value in reading.u_v),
        *(_whole(value, 100) for value in reading.i_a),
        *(_whole(value, 1) for value in reading.p_w),
        *(_whole(value, 1) for value in reading.q_var),
        min(reading.import_energy_wh, WHOLE_MAX),
        min(reading.export_energy_wh, WHOLE_MAX),
        _whole(limit_w, 1),
    )


def _whole(value: float | None, factor: int) -> int | None:
    if value is None or not math.isfinite(value):
        return None
    return round(max(-WHOLE_MAX, min(WHOLE_MAX, value * factor)))


def samples_of(rows: Iterable[tuple[int | None, ...]]) -> dict[int, list[Sample]]:
    """Samples of each meter, in the order of time, from rows of `GET`."""
    found: dict[int, list[Sample]] = {}
    for meter, at_ms, u1, u2, u3, p1, p2, p3, import_wh, export_wh in rows:
        assert meter is not None
        assert at_ms is not None
        assert import_wh is not None
        assert export_wh is not None
        powers = [p for p in (p1, p2, p3) if p is not None]
        volts = (None if u1 is None else u1 / 100, None if u2 is None else u2 / 100, None if u3 is None else u3 / 100)
        sample = Sample(at_ms / 1000, volts, float(sum(powers)) if powers else None, import_wh, export_wh)
        found.setdefault(meter, []).append(sample)
    return found


def between(connection: sqlite3.Connection, first_s: float, last_s: float) -> dict[int, list[Sample]]:
    """Samples of each meter between two instants [s, Unix]."""
    return samples_of(connection.execute(GET, (round(1000 * first_s), round(1000 * last_s))))


def numbers(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, int]:
    """The number of each meter in this file; new ones get one."""
    connection.executemany("INSERT OR IGNORE INTO meters (name) VALUES (?)", [(name,) for name in names])
    return {str(name): int(number) for number, name in connection.execute("SELECT number, name FROM meters")}
