"""What was before the page was started comes from the DCU's store, which it opens for reading only."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from dcu.store.database import Database, open_reader
from dcu.store.entries import PUT, row_of
from dcu.store.power_quality import week_of
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.web import models
from dcu.web.history import History
from dcu.web.street import Decisions
from dcu.web.tests.world import ENTRIES, UTC_S


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    events = Database(tmp_path, EVENTS, "dcu-1")
    renewal = {**ENTRIES[1], "kind": "renewal", "seq": 9}
    for position, entry in enumerate([*ENTRIES, renewal]):
        row = row_of(1, position, entry, UTC_S + position)
        if row is not None:  # the store leaves renewals out, or we do
            events.connection.execute(PUT, row)
    events.connection.commit()
    telemetry = Database(tmp_path, TELEMETRY, "dcu-1")
    telemetry.connection.execute("INSERT INTO meters VALUES (1, 'meter-1')")
    start_s = week_of(UTC_S)
    for k in range(20):
        volts = 25_500 if k == 7 else 23_000 + k
        mean = (start_s + 600 * k, 1, volts, None, None, None, 100)
        telemetry.connection.execute("INSERT INTO means VALUES (?, ?, ?, ?, ?, ?, ?)", mean)
    reading = (round(1000 * UTC_S), 1, 23_050, *[None] * 5, -1500, *[None] * 5, 0, 0, 2000)
    telemetry.connection.execute(f"INSERT INTO readings VALUES ({', '.join('?' * len(reading))})", reading)
    telemetry.connection.commit()
    events.close()
    telemetry.close()
    return tmp_path


def test_decisions_from_before_are_there_with_their_reasons(directory: Path) -> None:
    """In the order in which they were made; renewals, which come every few seconds, are left out."""
    book = Decisions()
    rows = [models.Decision.model_validate(row) for row in book.take(History(directory).decisions())]
    assert [row.kind for row in rows] == ["start", "grant", "denial"]
    assert [row.position for row in rows] == [0, 1, 2]
    assert rows[1].words.startswith("2.00 kW of 2.40 kW asked; not more, because the voltage at meter-2 L2")


def test_the_week_that_runs_is_told_by_phase(directory: Path) -> None:
    """One of twenty means is beyond ten per cent."""
    told = History(directory).quality(UTC_S, 230.0, {"meter-1": ["L1"]})
    found = models.Qualities.model_validate(told)
    assert [(row.meter, row.phase, row.intervals, row.inside) for row in found.rows] == [("meter-1", "L1", 20, 0.95)]
    assert found.rows[0].u_max_v == 255.0


def test_readings_are_those_of_the_span(directory: Path) -> None:
    """Import positive, as everywhere in the house."""
    history = History(directory)
    (one,) = history.readings("meter-1", UTC_S + 60, 3600) or []
    assert models.Reading.model_validate(one).u_v == [230.5, None, None]
    assert one["p_w"][0] == -1500
    assert history.readings("meter-1", UTC_S - 7200, 3600) == []
    assert history.readings("nobody", UTC_S, 3600) == []


def test_a_store_that_is_not_there_or_damaged_leaves_the_page_as_it_is(tmp_path: Path) -> None:
    """Nothing is known from before, and nothing is written."""
    for directory in (None, tmp_path / "none"):
        history = History(directory)
        assert history.decisions() == []
        assert history.quality(UTC_S, 230.0, {}) is None
    EVENTS.path(tmp_path).write_bytes(b"no database" * 1000)
    assert History(tmp_path).decisions() == []
    assert [path.name for path in tmp_path.iterdir()] == [EVENTS.path(tmp_path).name]


def test_the_page_s_connection_cannot_write(directory: Path) -> None:
    """Not by a mistake of ours either."""
    with closing(open_reader(directory, EVENTS)) as connection, pytest.raises(Exception, match=r"readonly|read-only"):
        connection.execute("DELETE FROM events")
