"""Meter data for studies: whole days, every quarter-hour, nothing filled."""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from dcu.store.database import Database, StoreError
from dcu.store.export import Order, day, export, pseudonym
from dcu.store.schema import TELEMETRY

pq = pytest.importorskip("pyarrow.parquet")

DAY_S = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())


@pytest.fixture
def order(tmp_path: Path) -> Iterator[Order]:
    """Two days and a half of two customers; one of them has a hole on the first day."""
    where = tmp_path / "store"
    database = Database(where, TELEMETRY, "dcu-1")
    with database.transaction() as connection:
        connection.execute("INSERT INTO meters VALUES (1, 'meter-b'), (2, 'meter-a'), (3, 'substation')")
        for number in range(240):
            for meter in (1, 2, 3):
                energy = None if meter == 1 and 40 <= number < 44 else 10 * number + meter
                row = (DAY_S + 900 * number, meter, energy, 0, 23010, 1, 1)
                if not (meter == 2 and number < 8):
                    connection.execute("INSERT INTO quarters VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO made VALUES ('quarters', ?)", (DAY_S + 900 * 240,))
    yield Order(where, "dcu-1", ["meter-a", "meter-b"], salted=False)
    database.close()


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_whole_days_and_every_quarter(order: Order, tmp_path: Path) -> None:
    """Two files; each customer has 96 rows in order; what is not known is null, the half day stays at home."""
    done = export(order, None, None, tmp_path / "out")
    assert [path.name for path in done.files] == ["meter-data-2026-11-20.parquet", "meter-data-2026-11-21.parquet"]
    rows = read(done.files[0])
    assert [row["customer"] for row in rows] == ["meter-a"] * 96 + ["meter-b"] * 96
    starts = [datetime.fromtimestamp(DAY_S + 900 * n, UTC) for n in range(96)]
    assert [row["start_utc"] for row in rows] == starts * 2
    assert [row["import_wh"] for row in rows[:8]] == [None] * 8
    assert rows[8]["import_wh"] == 8.2
    assert [number for number, row in enumerate(rows[96:]) if row["import_wh"] is None] == [40, 41, 42, 43]
    assert all(row["pv_wh"] is None for row in rows)
    assert rows[100]["u_mean_v"] == 230.1
    assert (done.rows, done.complete) == (4 * 96, 4 * 96 - 12)


def test_the_layout_is_what_planning_reads(order: Order, tmp_path: Path) -> None:
    """Names, types, and who made it."""
    (path, *_) = export(order, None, None, tmp_path / "out").files
    schema = pq.read_schema(path)
    kinds = {field.name: str(field.type) for field in schema}
    numbers = dict.fromkeys(("import_wh", "export_wh", "pv_wh", "u_mean_v"), "double")
    assert kinds == {"customer": "string", "start_utc": "timestamp[ms, tz=UTC]", **numbers}
    about = json.loads(schema.metadata[b"headroom"])
    assert about == {"schema": "headroom-meter-data/1", "dcu": "dcu-1", "interval_s": 900, "ids": "plain"}


def test_days_that_are_there_are_left_alone(order: Order, tmp_path: Path) -> None:
    """The timer's second run writes nothing, and the same order gives the same bytes elsewhere."""
    first = export(order, None, None, tmp_path / "out")
    assert export(order, None, None, tmp_path / "out").files == ()
    again = export(order, date(2026, 11, 21), date(2026, 11, 21), tmp_path / "other")
    assert [path.read_bytes() for path in again.files] == [first.files[1].read_bytes()]
    assert export(order, date(2030, 1, 1), None, tmp_path / "later").files == ()


def test_names_are_salted(order: Order, tmp_path: Path) -> None:
    """The same customer has the same name in every file of this store, another in one with another salt."""
    salted = Order(order.directory, order.dcu, order.meters, salted=True)
    files = export(salted, None, None, tmp_path / "out").files
    salt = order.directory / "export-salt"
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    names = [{row["customer"] for row in read(path)} for path in files]
    assert names[0] == names[1]
    assert len(names[0]) == 2
    assert not names[0] & {"meter-a", "meter-b"}
    assert names[0] == {pseudonym(name, bytes.fromhex(salt.read_text())) for name in order.meters}
    salt.unlink()
    assert {row["customer"] for row in read(export(salted, None, None, tmp_path / "new").files[0])} != names[0]
    salt.write_text("short")
    with pytest.raises(StoreError, match="no salt"):
        export(salted, None, None, tmp_path / "bad")


def test_without_pyarrow_one_line_says_so(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is written."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(StoreError, match=r"pip install headroom\[planning\]"):
        export(order, None, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_days_in_the_wrong_order_are_refused(order: Order, tmp_path: Path) -> None:
    """Said before anything is read."""
    with pytest.raises(StoreError, match="expected a day from --from"):
        export(order, date(2026, 11, 21), date(2026, 11, 20), tmp_path)


def test_export_reads_while_the_dcu_writes(order: Order, tmp_path: Path) -> None:
    """The fixture's writer is open all the time; a reader has the rows and cannot write."""
    with closing(sqlite3.connect(f"file:{TELEMETRY.path(order.directory)}?mode=ro", uri=True)) as reader:
        assert len(day(reader, order.meters, DAY_S, None)) == 192
