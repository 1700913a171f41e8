"""The two files of the store, and every step their tables have taken. Steps are only ever added, never edited.

Two files, because they promise different things: what is in `EVENTS` is on the medium when its future is done (a
command that was acknowledged, a message the utility waits for), what is in `TELEMETRY` is a flood of which a power cut
may take the newest seconds. One file would sync for every reading, or for none.
"""

from __future__ import annotations

from typing import Final

from dcu.store.database import Durability, FileKind

MIB: Final = 1 << 20

EVENT_TABLES: Final = (
    # What happened. `log` and `position` name the ledger's entry, so that none is kept twice; both NULL if it is not
    # from there. `body` is JSON.
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        meter TEXT,
        epoch INTEGER,
        seq INTEGER,
        log INTEGER,
        position INTEGER,
        body TEXT NOT NULL,
        UNIQUE (log, position)
    ) STRICT""",
    "CREATE INDEX events_by_time ON events (at_ms)",
    # How far the ledger has been taken over: all entries below `position` of log `log`, whose key is `vkey`.
    "CREATE TABLE taken (log INTEGER PRIMARY KEY, vkey TEXT NOT NULL, position INTEGER NOT NULL) STRICT",
)

TELEMETRY_TABLES: Final = (
    "CREATE TABLE meters (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    # One reading of one meter; in the order of time, so that it is appended and cut off, never scattered. NULL where a
    # phase is not connected or its value unknown. [0.01 V, 0.01 A, W, var, Wh]; powers import-positive.
    """CREATE TABLE readings (
        at_ms INTEGER NOT NULL, meter INTEGER NOT NULL,
        u1 INTEGER, u2 INTEGER, u3 INTEGER, i1 INTEGER, i2 INTEGER, i3 INTEGER,
        p1 INTEGER, p2 INTEGER, p3 INTEGER, q1 INTEGER, q2 INTEGER, q3 INTEGER,
        import_wh INTEGER NOT NULL, export_wh INTEGER NOT NULL, limit_w INTEGER,
        PRIMARY KEY (at_ms, meter)
    ) STRICT, WITHOUT ROWID""",
    # Ten-minute means from `start_s` [s, Unix, a multiple of 600]: root-mean-square voltage per phase [0.01 V], voltage
    # unbalance [0.001 %], and the share of the interval that each value stands for [%]; incomplete below 90.
    """CREATE TABLE means (
        start_s INTEGER NOT NULL, meter INTEGER NOT NULL,
        u1 INTEGER, u2 INTEGER, u3 INTEGER, unbalance INTEGER, covered INTEGER NOT NULL,
        PRIMARY KEY (start_s, meter)
    ) STRICT, WITHOUT ROWID""",
    # Quarter-hours from `start_s` [s, Unix, a multiple of 900]: energies [0.1 Wh] and the mean voltage [0.01 V], NULL
    # if incomplete; and the registers at the end, finer than the meter shows them [0.1 Wh], where the next one goes on.
    """CREATE TABLE quarters (
        start_s INTEGER NOT NULL, meter INTEGER NOT NULL,
        import_dwh INTEGER, export_dwh INTEGER, u_mean INTEGER,
        import_end_dwh INTEGER, export_end_dwh INTEGER,
        PRIMARY KEY (start_s, meter)
    ) STRICT, WITHOUT ROWID""",
    # EN 50160 figures of a week from `start_s` [s, Unix, a Monday 00:00 UTC]; JSON.
    """CREATE TABLE weeks (
        start_s INTEGER NOT NULL, meter INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (start_s, meter)
    ) STRICT, WITHOUT ROWID""",
    # Up to where [s, Unix] means, quarters and weeks have been made.
    "CREATE TABLE made (what TEXT PRIMARY KEY, until_s INTEGER NOT NULL) STRICT",
)

EVENTS: Final = FileKind("events", 0x48524556, Durability.EVERY_COMMIT, (EVENT_TABLES,), 256 * MIB)
"""Events, and what the utility link must not lose: every commit is on the medium."""

TELEMETRY: Final = FileKind("telemetry", 0x48525445, Durability.NOT_THE_NEWEST, (TELEMETRY_TABLES,), 640 * MIB)
"""Readings and what is made of them: the newest seconds may go."""
