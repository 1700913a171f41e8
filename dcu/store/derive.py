"""What is made of readings: ten-minute means, quarter-hours, weeks. Each is a job for the telemetry file's writer.

All of it can be made again as long as the readings last; `made` says up to where it has been. So a restart loses none
and makes none twice, and an interval in which the DCU was off has what was reported before and after, and is
incomplete.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Final

from dcu.store.intervals import QUARTER_S, TEN_MINUTES_S, Fine, Means, quarter, ten_minutes
from dcu.store.power_quality import WEEK_S, week, week_of
from dcu.store.readings import between

GRACE_S: Final = 120.0
"""[s] After an interval's end: reports may still be on their way, none is older than a minute when it comes."""


@dataclass(frozen=True, slots=True)
class Deriving:
    """How intervals are made.

    Attributes:
        hold_s: [s] a reading stands for no longer.
        step_wh: [Wh] in which the meters' registers move.
        nominal_v: [V] phase to neutral.
    """

    hold_s: float
    step_wh: float
    nominal_v: float


def next_means(connection: sqlite3.Connection, now_s: float, how: Deriving) -> bool:
    """Make the next ten-minute means before ``now_s`` [s, Unix]; False when there are none to make."""
    start_s = _next(connection, "means", TEN_MINUTES_S, now_s, how.hold_s)
    if start_s is None:
        return False
    rows = []
    for meter, samples in between(connection, start_s - how.hold_s, start_s + TEN_MINUTES_S).items():
        means = ten_minutes(samples, start_s, how.hold_s)
        if means is not None:
            volts = [None if u is None else round(100 * u) for u in means.u_v]
            unbalance = None if means.unbalance_pct is None else round(1000 * means.unbalance_pct)
            rows.append((start_s, meter, *volts, unbalance, int(100 * means.covered)))
    connection.executemany("INSERT OR REPLACE INTO means VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    _made(connection, "means", start_s + TEN_MINUTES_S)
    return True


def next_quarters(connection: sqlite3.Connection, now_s: float, how: Deriving) -> bool:
    """Make the next quarter-hours before ``now_s`` [s, Unix]; False when there are none to make."""
    start_s = _next(connection, "quarters", QUARTER_S, now_s, how.hold_s)
    if start_s is None:
        return False
    ends = connection.execute(
        "SELECT meter, import_end_dwh, export_end_dwh FROM quarters WHERE start_s = ?", (start_s - QUARTER_S,)
    )
    before = {meter: Fine(taken / 10, given / 10) for meter, taken, given in ends if taken is not None}
    rows = []
    for meter, samples in between(connection, start_s - how.hold_s, start_s + QUARTER_S).items():
        found = quarter(samples, start_s, how.hold_s, before.get(meter), how.step_wh)
        energies = [None if one is None else round(10 * one) for one in (found.import_wh, found.export_wh)]
        volts = None if found.u_mean_v is None else round(100 * found.u_mean_v)
        end = found.end and (round(10 * found.end.import_wh), round(10 * found.end.export_wh))
        rows.append((start_s, meter, *energies, volts, *(end or (None, None))))
    connection.executemany("INSERT OR REPLACE INTO quarters VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    _made(connection, "quarters", start_s + QUARTER_S)
    return True


def next_week(connection: sqlite3.Connection, now_s: float, how: Deriving) -> bool:
    """Make the figures of the next week whose means are made; False when there is none."""
    made = connection.execute("SELECT until_s FROM made WHERE what = 'means'").fetchone()
    first = connection.execute("SELECT min(start_s) FROM means").fetchone()[0]
    if made is None or first is None:
        return False
    done = connection.execute("SELECT until_s FROM made WHERE what = 'weeks'").fetchone()
    end_s = min(made[0], now_s)
    until_s = 0 if done is None else done[0]
    if until_s > end_s:  # the clock was put back: the week that is now may have been made too early
        until_s = week_of(end_s)
        _made(connection, "weeks", until_s)
    start_s = max(week_of(first), until_s)
    if start_s + WEEK_S > end_s:
        return False
    rows = [
        (start_s, meter, json.dumps(week(means, how.nominal_v).as_json()))
        for meter, means in means_between(connection, start_s, start_s + WEEK_S).items()
    ]
    connection.executemany("INSERT OR REPLACE INTO weeks VALUES (?, ?, ?)", rows)
    _made(connection, "weeks", start_s + WEEK_S)
    return True


def means_between(connection: sqlite3.Connection, first_s: int, end_s: int) -> dict[int, list[Means]]:
    """Means of each meter [s, Unix]; the end is not included."""
    found: dict[int, list[Means]] = {}
    columns = "meter, u1, u2, u3, unbalance, covered"
    rows = connection.execute(
        f"SELECT {columns} FROM means WHERE start_s >= ? AND start_s < ? ORDER BY start_s",  # noqa: S608  # our names
        (first_s, end_s),
    )
    for meter, u1, u2, u3, unbalance, covered in rows:
        volts = (None if u1 is None else u1 / 100, None if u2 is None else u2 / 100, None if u3 is None else u3 / 100)
        ratio = None if unbalance is None else unbalance / 1000
        found.setdefault(meter, []).append(Means(volts, ratio, covered / 100))
    return found


def _next(connection: sqlite3.Connection, what: str, length_s: int, now_s: float, hold_s: float) -> int | None:
    """The start [s, Unix] of the next interval of which anything was read and that is over; None if there is none."""
    end_s = int((now_s - GRACE_S) // length_s) * length_s
    done = connection.execute("SELECT until_s FROM made WHERE what = ?", (what,)).fetchone()
    from_s = 0 if done is None else int(done[0])
    if from_s > end_s:  # the clock was put back: go on from where it is now
        _made(connection, what, end_s)
        return None
    first = connection.execute(
        "SELECT at_ms FROM readings WHERE at_ms > ? ORDER BY at_ms LIMIT 1", (round(1000 * (from_s - hold_s)),)
    ).fetchone()
    if first is None:
        return None
    start_s = max(from_s, int(first[0] // (1000 * length_s)) * length_s)
    return start_s if start_s + length_s <= end_s else None


def _made(connection: sqlite3.Connection, what: str, until_s: int) -> None:
    connection.execute(
        "INSERT INTO made VALUES (?, ?) ON CONFLICT (what) DO UPDATE SET until_s = excluded.until_s", (what, until_s)
    )
