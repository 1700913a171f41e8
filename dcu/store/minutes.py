"""Readings as `headroom-grid calibrate` wants them: a CSV of means over whole steps, by meter and phase.

Columns: ``time_utc_s`` (start of the step), ``meter``, ``phase``, ``u_v``, ``p_w``, ``q_var`` (import positive). A mean
is that of the readings which came within the step; a meter that said nothing then has no row: nothing is filled in.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from dcu.store.database import StoreError, open_reader
from dcu.store.schema import TELEMETRY

STEP_S_MAX: Final = 3600
CHUNK_S: Final = 3600
"""[s] Read at a time, so that readers hold up nobody: the writer's log can go after each."""
_HEAD: Final = "time_utc_s,meter,phase,u_v,p_w,q_var\n"
_MEANS: Final = (
    "SELECT at_ms / :step_ms, name, avg(u1), avg(p1), avg(q1), avg(u2), avg(p2), avg(q2), avg(u3), avg(p3), avg(q3)"
    " FROM readings JOIN meters ON meter = number WHERE at_ms >= :first_ms AND at_ms < :end_ms"
    " GROUP BY 1, 2 ORDER BY 1, 2"
)


@dataclass(frozen=True, slots=True)
class Minutes:
    """What was written."""

    file: Path
    rows: int
    steps: int

    def as_text(self) -> str:
        """For a person."""
        return f"{self.file}: {self.rows} rows of {self.steps} steps"


def write_minutes(
    directory: Path, meters: Sequence[str], days: tuple[date | None, date | None], step_s: int, out: Path
) -> Minutes:
    """Means of these meters from one day to another (UTC; the oldest and the newest if left out).

    Raises:
        StoreError: no store there, or a step or days that cannot be.
        OSError: ``out`` cannot be written.
    """
    first, last = days
    if not (0 < step_s <= STEP_S_MAX and CHUNK_S % step_s == 0):
        raise StoreError(f"--step {step_s}: expected seconds that an hour is a multiple of")
    if first is not None and last is not None and last < first:
        raise StoreError(f"--to {last}: expected a day from --from {first} on")
    rows, steps = 0, 0
    fresh = out.with_name(out.name + ".new")
    with closing(open_reader(directory, TELEMETRY)) as reader, fresh.open("w", encoding="ascii") as file:
        file.write(_HEAD)
        seen = -1
        for step, line in _lines(reader, frozenset(meters), _span(reader, first, last), step_s):
            file.write(line)
            rows, steps, seen = rows + 1, steps + (step != seen), step
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(out)
    return Minutes(out, rows, steps)


def _span(reader: sqlite3.Connection, first: date | None, last: date | None) -> range:
    """Starts [s, Unix] of the hours that are asked for and not empty before or behind."""
    oldest_ms, newest_ms = reader.execute("SELECT min(at_ms), max(at_ms) FROM readings").fetchone()
    if oldest_ms is None:
        return range(0)
    begin_s, end_s = oldest_ms // 1000, newest_ms // 1000 + 1
    if first is not None:
        begin_s = max(begin_s, _start_s(first))
    if last is not None:
        end_s = min(end_s, _start_s(last + timedelta(days=1)))
    return range(begin_s // CHUNK_S * CHUNK_S, end_s, CHUNK_S)


def _lines(reader: sqlite3.Connection, meters: frozenset[str], hours: range, step_s: int) -> Iterator[tuple[int, str]]:
    """Number of the step and line of each mean, in the order of time."""
    for hour_s in hours:
        span = {"step_ms": 1000 * step_s, "first_ms": 1000 * hour_s, "end_ms": 1000 * (hour_s + CHUNK_S)}
        for step, name, *means in reader.execute(_MEANS, span).fetchall():
            if name not in meters:
                continue
            for k, phase in enumerate(("L1", "L2", "L3")):
                u, p, q = means[3 * k : 3 * k + 3]
                if u is not None and p is not None and q is not None:
                    yield step, f"{step * step_s},{name},{phase},{u / 100:.3f},{p:.1f},{q:.1f}\n"


def _start_s(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
