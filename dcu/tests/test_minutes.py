"""What a DCU has read becomes what `headroom-grid calibrate` reads."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from dcu.grid.readings import read_readings
from dcu.store.database import Database, StoreError
from dcu.store.minutes import write_minutes
from dcu.store.readings import PUT, row_of
from dcu.store.schema import TELEMETRY
from shared.messages import PerPhase, Reading

START_S = 1_795_392_000.0  # 2026-11-23 00:00 UTC
DAY = date(2026, 11, 23)


def reading(u_v: PerPhase, p_w: PerPhase) -> Reading:
    return Reading(u_v, (None,) * 3, p_w, tuple(None if p is None else p / 10 for p in p_w), 50.0, 1, 1)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three hours: a meter on L2 four times a minute, a stranger, and the busbar; the meter is silent in minute 7."""
    where = tmp_path / "store"
    database = Database(where, TELEMETRY, "dcu-1")
    with database.transaction() as connection:
        connection.execute("INSERT INTO meters VALUES (1, 'm1'), (2, 'substation'), (3, 'stranger')")
        for n in range(3 * 240):
            at_s = START_S + 15.0 * n + 2.0
            own = reading((None, 230.0 + n % 4, None), (None, -1000.0 - 4 * (n // 4), None))
            busbar = reading((231.0, 232.0, 233.0), (1.0, 2.0, 3.0))
            for number, said in ((1, own), (2, busbar), (3, own)):
                if number != 1 or n // 4 != 7:
                    connection.execute(PUT, row_of(at_s, number, said, None))
    database.close()
    return where


def test_means_of_whole_minutes_are_read_back_as_whole_sets(store: Path, tmp_path: Path) -> None:
    """Four readings a minute are one row of their mean, which the other end takes without a bad row; the silent minute
    has none, and strangers are left out."""
    out = tmp_path / "readings.csv"
    done = write_minutes(store, ["m1", "substation"], (None, None), 60, out)
    assert (done.rows, done.steps) == (179 + 3 * 180, 180)
    busbar = {"L1": 0, "L2": 1, "L3": 2}
    found = read_readings(out, {("m1", "L2"): 0}, np.array([230.0]), busbar, 60.0)
    assert (found.bad_rows, found.incomplete_sets, len(found.time_utc_s)) == (0, 1, 179)
    assert found.time_utc_s[7] - found.time_utc_s[6] == 120.0
    assert found.u_v[:, 0] == pytest.approx(231.5)
    assert found.p_w[:3, 0].tolist() == [-1000.0, -1004.0, -1008.0]
    assert found.q_var[0, 0] == -100.0
    assert found.busbar_v[5].tolist() == [231.0, 232.0, 233.0]


def test_days_and_steps_that_cannot_be_are_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "readings.csv"
    for step_s in (0, -60, 7, 7200):
        with pytest.raises(StoreError, match="--step"):
            write_minutes(store, ["m1"], (None, None), step_s, out)
    with pytest.raises(StoreError, match="--to"):
        write_minutes(store, ["m1"], (DAY, date(2026, 11, 22)), 60, out)
    with pytest.raises(StoreError, match="no such file"):
        write_minutes(tmp_path / "nowhere", ["m1"], (None, None), 60, out)
    assert not out.exists()
    assert write_minutes(store, ["m1"], (date(2026, 11, 24), None), 60, out).rows == 0
    assert write_minutes(store, ["m1"], (DAY, DAY), 60, out).rows == 179
