"""Deleting a customer leaves nothing of him in the files, and everything of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.store.database import Database, StoreError
from dcu.store.forget import forget
from dcu.store.schema import EVENTS, TELEMETRY

BODY = '{"kept_by":{"binding":"%s","reason":"OVERVOLTAGE"}}'


def filled(directory: Path) -> None:
    """Two customers whose names are alike; one is what bound the other."""
    events = Database(directory, EVENTS, "dcu-1")
    with events.transaction() as connection:
        for meter, bound in (("meter_1", "x"), ("meter-1", "x"), ("x", "meter_1"), ("x", "meter-1"), ("x", "meter_11")):
            row = (meter, BODY % bound)
            connection.execute("INSERT INTO events (at_ms, kind, meter, body) VALUES (1, 'grant', ?, ?)", row)
    events.close()
    telemetry = Database(directory, TELEMETRY, "dcu-1")
    with telemetry.transaction() as connection:
        connection.execute("INSERT INTO meters VALUES (1, 'meter_1'), (2, 'meter-1')")
        for at in (1, 2):
            connection.execute("INSERT INTO quarters VALUES (900, ?, 1, 1, 1, 1, 1)", (at,))
            connection.execute("INSERT INTO means VALUES (600, ?, 1, 1, 1, 1, 1)", (at,))
            connection.execute("INSERT INTO weeks VALUES (600, ?, '{}')", (at,))
            connection.execute("INSERT INTO readings (at_ms, meter, import_wh, export_wh) VALUES (1, ?, 0, 0)", (at,))
    telemetry.close()


def test_a_customer_is_gone_and_the_others_are_not(tmp_path: Path) -> None:
    """His name is in no byte of the files; a name that only looks alike keeps its rows."""
    filled(tmp_path)
    assert forget(tmp_path, "dcu-1", "meter_1") == 2 + 4
    for kind in (EVENTS, TELEMETRY):
        assert b"meter_1" not in kind.path(tmp_path).read_bytes().replace(b"meter_11", b"")
    database = Database(tmp_path, EVENTS, "dcu-1")
    assert database.connection.execute("SELECT count(*) FROM events").fetchone() == (3,)
    database.close()
    database = Database(tmp_path, TELEMETRY, "dcu-1")
    for table in ("readings", "means", "quarters", "weeks"):
        assert database.connection.execute(f"SELECT meter FROM {table}").fetchall() == [(2,)]
    database.close()


def test_while_the_dcu_runs_nothing_is_deleted(tmp_path: Path) -> None:
    """Its files have one writer."""
    filled(tmp_path)
    running = Database(tmp_path, EVENTS, "dcu-1")
    with pytest.raises(StoreError, match="another process writes it"):
        forget(tmp_path, "dcu-1", "meter_1")
    running.close()
    with pytest.raises(StoreError, match="no store there"):
        forget(tmp_path / "nowhere", "dcu-1", "meter_1")
