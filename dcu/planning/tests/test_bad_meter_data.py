"""Meter data that somebody got wrong as a whole: clocks, gaps, units, registers, sizes; what a study makes of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcu.planning.history import history
from dcu.planning.meter_data import BYTES_MAX, COLUMNS, MeterTable, read_meter_data
from dcu.planning.reading import read_study
from dcu.planning.reference import reference
from dcu.planning.tests.stand_in import FOLDER, study
from shared.errors import ConfigError

HEAD = ",".join(COLUMNS)
AUTUMN = datetime(2026, 10, 22, tzinfo=UTC)
"""Three days before the clocks of Europe/Brussels show 02:00 to 03:00 twice."""
SPRING = datetime(2026, 3, 26, tzinfo=UTC)
"""The same before they skip it."""


def _wh(k: int) -> float:
    return k * 67 % 400 + 0.5


def _rows(first: datetime, count: int, customer: str = "a") -> list[str]:
    return [f"{customer},{first + timedelta(minutes=15 * k):%Y-%m-%dT%H:%M:%S}Z,{_wh(k)},0,,230" for k in range(count)]


def _csv(folder: Path, rows: list[str], name: str = "meters.csv") -> Path:
    (folder / name).write_text("\n".join([HEAD, *rows]) + "\n", encoding="utf-8")
    return folder / name


def _week(first: datetime, folder: Path) -> MeterTable:
    return read_meter_data([_csv(folder, _rows(first, 96 * 8))])


# ---- clocks ----------------------------------------------------------------------------------------------------------


def test_an_hour_that_comes_twice_is_two_hours_in_utc(tmp_path: Path) -> None:
    """In UTC nothing repeats: all intervals are there, and the local hour that comes twice is the mean of both."""
    table = _week(AUTUMN, tmp_path)
    assert np.isfinite(table.import_wh).all()
    past = history(table, "Europe/Brussels")
    at = int((datetime(2026, 10, 25, tzinfo=UTC) - AUTUMN).total_seconds()) // 900  # 02:00 summer time
    day = int(np.flatnonzero(past.day == datetime(2026, 10, 25, tzinfo=UTC).timestamp() // 86_400)[0])
    assert past.load_w[0, day, 8:12].tolist() == pytest.approx(
        [4 * (_wh(at + k) + _wh(at + k + 4)) / 2 for k in range(4)]
    )
    assert past.load_w[0, day, 12] == pytest.approx(4 * _wh(at + 8))


def test_an_hour_that_the_clocks_skip_stays_unknown(tmp_path: Path) -> None:
    """It never was; its neighbours are where they belong."""
    past = history(_week(SPRING, tmp_path), "Europe/Brussels")
    day = int(np.flatnonzero(past.day == datetime(2026, 3, 29, tzinfo=UTC).timestamp() // 86_400)[0])
    assert np.isnan(past.load_w[0, day, 8:12]).all()
    at = int((datetime(2026, 3, 29, 1, tzinfo=UTC) - SPRING).total_seconds()) // 900
    assert past.load_w[0, day, 12] == pytest.approx(4 * _wh(at))


@pytest.mark.parametrize(("count", "refused"), [(1, False), (30, True)])
def test_a_stamp_of_the_future_is_a_bad_row(tmp_path: Path, count: int, refused: bool) -> None:
    """Named with its reason and left out, so that it makes no gap of decades; many refuse the data."""
    rows = _rows(AUTUMN, 96 * 8)
    now_s = (AUTUMN + timedelta(days=7)).timestamp()  # the last row is a quarter-hour short of a day ahead
    path = _csv(tmp_path, [*rows, *_rows(datetime(2060, 1, 1, tzinfo=UTC), count)])
    if refused:
        with pytest.raises(ConfigError, match="30 of 798 rows are bad"):
            read_meter_data([path], now_s)
        return
    table = read_meter_data([path], now_s)
    assert np.isfinite(table.import_wh).all()
    assert table.import_wh.shape == (1, 96 * 8)
    assert table.notes[1] == (
        "meters.csv: rows: seen a at 2060-01-01T00:00:00Z, expected at most a day after now, 2026-10-29T00:00:00Z"
    )
    assert len(read_meter_data([path]).start_s) > 1_000_000, "without a time of reading any stamp may be"


def test_data_of_the_future_alone_are_refused_for_that(tmp_path: Path) -> None:
    """A clock that is not set, the reader's or the recorder's, is named; nothing is made of no rows."""
    with pytest.raises(ConfigError, match="expected at most a day after now, 1970-01-01T00:00:00Z"):
        read_meter_data([_csv(tmp_path, _rows(AUTUMN, 96 * 8))], 0.0)


def test_a_week_is_counted_in_recordings_and_not_in_dates(tmp_path: Path) -> None:
    """Six days of UTC touch seven local dates and are six days; a local week in spring lacks an hour and is one."""
    six = read_meter_data([_csv(tmp_path, _rows(AUTUMN - timedelta(days=30), 96 * 6))])
    with pytest.raises(ConfigError, match="recordings of 6 days, expected at least 7 days"):
        history(six, "Europe/Brussels")
    monday = datetime(2026, 3, 22, 23, tzinfo=UTC)
    assert history(read_meter_data([_csv(tmp_path, _rows(monday, 4 * 167))]), "Europe/Brussels").days == 7
    with pytest.raises(ConfigError, match=r"recordings of 6\.95 days"):
        history(read_meter_data([_csv(tmp_path, _rows(monday, 4 * 167 - 1))]), "Europe/Brussels")


def test_a_reference_has_a_week_of_its_own(tmp_path: Path) -> None:
    """What other units recorded makes its days no longer."""
    starts = [AUTUMN + timedelta(minutes=15 * k) for k in range(96 * 8)]
    roofs = [
        f"{name},{at:%Y-%m-%dT%H:%M:%SZ},,,{abs(48 - k % 96)}," for name in ("a", "b") for k, at in enumerate(starts)
    ]
    table = read_meter_data([_csv(tmp_path, [r for k, r in enumerate(roofs) if k < 768 or k % 96 >= 48])])
    assert reference(table, "a", 1000.0, "UTC", elsewhere=True).units.days == 8
    with pytest.raises(ConfigError, match="customer b, generation: seen recordings of 4 days, expected at least 7"):
        reference(table, "b", 1000.0, "UTC", elsewhere=True)


@pytest.mark.parametrize("stamp", ["2026-10-25T02:15:00", "2026-10-25T02:15:00+02:00", "25.10.2026 02:15"])
def test_local_time_is_refused_and_never_guessed(tmp_path: Path, stamp: str) -> None:
    """Without a zone, with another one, in another form: all rows are bad, the file is refused with row and reason."""
    path = _csv(tmp_path, [f"a,{stamp},{_wh(k)},0,,230" for k in range(100)])
    with pytest.raises(ConfigError) as refused:
        read_meter_data([path])
    assert "meters.csv" in str(refused.value)
    assert str(refused.value.faults[0]) == "file: seen 100 of 100 rows are bad, expected at most 1%"
    assert str(refused.value.faults[1]).startswith(f"row 2: seen start_utc '{stamp}', expected an instant in UTC")


def test_local_time_that_says_it_is_utc_is_found_out_by_its_double_hour(tmp_path: Path) -> None:
    """A clock change under a false Z doubles four rows of each customer: in a day and a half they refuse the file, in a
    week they are named and the first of them counts."""
    for days, refused in ((1.5, True), (7.0, False)):
        rows = _rows(AUTUMN + timedelta(days=2), int(96 * days))
        twice = [row for row in rows if "T02:" in row and "2026-10-25" in row]
        assert len(twice) == 4
        path = _csv(tmp_path, [*rows, *(row.replace(",0,,", ",1,,") for row in twice)])
        if refused:
            with pytest.raises(ConfigError, match="a at 2026-10-25T02:00:00Z again"):
                read_meter_data([path])
        else:
            table = read_meter_data([path])
            assert sum("again" in note for note in table.notes) == 4
            assert np.nansum(table.export_wh) == 0.0


# ---- gaps, duplicates, rows ------------------------------------------------------------------------------------------


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    """A day without rows is unknown in energies and powers; nothing is filled in, and the customer is named."""
    rows = _rows(AUTUMN, 96 * 9)
    table = read_meter_data([_csv(tmp_path, rows[:200] + rows[296:])])
    assert np.flatnonzero(np.isnan(table.import_wh[0])).tolist() == list(range(200, 296))
    assert table.notes == ("a: 96 of 864 intervals are missing and stay unknown",)
    assert np.isnan(history(table, "UTC").load_w).sum() == 96


def test_rows_are_counted_as_the_editor_counts_them(tmp_path: Path) -> None:
    """Ragged and empty lines come before a bad cell: its number is that of its line all the same."""
    rows = _rows(AUTUMN, 900)
    rows[10], rows[300] = "a,b,c", rows[300] + ",7"
    rows[40] = ""  # no fault
    rows[500] = rows[500].replace(f"{_wh(500)}", "x")
    table = read_meter_data([_csv(tmp_path, rows)])
    told = [note.split("row ")[1].split(":")[0] for note in table.notes if "row " in note]
    assert told == ["12", "302", "502"]


@pytest.mark.parametrize(("count", "refused"), [(9, False), (10, True)])
def test_one_percent_is_the_limit(tmp_path: Path, count: int, refused: bool) -> None:
    """Nine bad rows of nine hundred are left out and named, a tenth refuses file and study."""
    rows = _rows(AUTUMN, 900)
    for k in range(count):
        rows[50 * k] = rows[50 * k].replace(",0,,", ",-1,,")
    path = _csv(tmp_path, rows)
    if refused:
        with pytest.raises(ConfigError, match=r"10 of 900 rows are bad.*row 2: .*export_wh '-1'") as error:
            read_meter_data([path])
        assert str(path) == error.value.file
    else:
        assert f"meters.csv: row {2 + 50 * 8}: " in " ".join(read_meter_data([path]).notes)


# ---- units and registers ---------------------------------------------------------------------------------------------


def test_a_register_is_refused_even_if_each_value_could_be_an_energy(tmp_path: Path) -> None:
    """Counts of a meter, small enough for energies, that roll over once: named by customer."""
    total = np.cumsum([_wh(k) / 10 for k in range(700)]) % 9_999.0
    rows = [re.sub(r"Z,[0-9.]+,", f"Z,{w:.1f},", r) for r, w in zip(_rows(AUTUMN, 700), total, strict=True)]
    assert (np.diff(total) < 0).sum() == 1
    with pytest.raises(
        ConfigError, match=r"customer a: seen import_wh that rises 6\d\d times and falls 1 times"
    ) as error:
        read_meter_data([_csv(tmp_path, rows)])
    assert "not a register" in str(error.value)


def test_a_register_of_generation_is_refused_too(tmp_path: Path) -> None:
    """What an inverter counts rises by day and stands still at night."""
    total = np.cumsum([_wh(k) / 10 if 24 <= k % 96 < 72 else 0.0 for k in range(96 * 8)])
    rows = [f"{r.split(',')[0]},{r.split(',')[1]},,,{w:.1f}," for r, w in zip(_rows(AUTUMN, 768), total, strict=True)]
    with pytest.raises(ConfigError, match=r"customer a: seen pv_wh that rises 3\d\d times and falls 0 times"):
        read_meter_data([_csv(tmp_path, rows)])


def test_a_register_of_a_real_meter_is_refused_row_by_row(tmp_path: Path) -> None:
    """Megawatt-hours in a quarter of an hour: too many bad rows, and the reason says what they look like."""
    rows = [re.sub(r"Z,[0-9.]+,", f"Z,{12_345_678 + 300 * k},", r) for k, r in enumerate(_rows(AUTUMN, 300))]
    with pytest.raises(ConfigError, match="energy of the interval, not a register"):
        read_meter_data([_csv(tmp_path, rows)])


def test_a_register_that_rolls_over_makes_a_bad_row_and_no_huge_load(tmp_path: Path) -> None:
    """Whoever subtracts registers gets one negative difference, or one of a whole range: that row alone is left out."""
    for wrong in ("-99999800", "99999800"):
        rows = _rows(AUTUMN, 700)
        rows[300] = rows[300].replace(f",{_wh(300)},", f",{wrong},")
        table = read_meter_data([_csv(tmp_path, rows)])
        assert np.isnan(table.import_wh[0, 300])
        assert np.nanmax(table.import_wh) < 500.0
        assert "row 302" in " ".join(table.notes)


def test_kilowatt_hours_in_the_column_of_watt_hours_are_refused(tmp_path: Path) -> None:
    """No customer ever drew 50 W: that is a unit, and no street."""
    rows = [re.sub(r"Z,[0-9.]+,", f"Z,{_wh(k) / 1000:.4f},", r) for k, r in enumerate(_rows(AUTUMN, 700))]
    with pytest.raises(ConfigError, match=r"import_wh: seen at most 1\.598 W .* expected .* Wh, not kWh"):
        read_meter_data([_csv(tmp_path, rows)])


@pytest.mark.parametrize("change", [lambda r: r.replace(",", ";"), lambda r: re.sub(r"([0-9])\.5,", r"\1,5,", r)])
def test_another_delimiter_or_decimal_sign_is_refused(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    """Cells are miscounted in every row: refused with the first rows' numbers."""
    with pytest.raises(ConfigError, match=r"row 2: seen \d+ cells, expected 6"):
        read_meter_data([_csv(tmp_path, [change(r) for r in _rows(AUTUMN, 700)])])


# ---- size ------------------------------------------------------------------------------------------------------------

READ = """
import resource, sys
from pathlib import Path
from dcu.planning.meter_data import read_meter_data
from shared.errors import ConfigError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    table = read_meter_data([Path(sys.argv[1])])
    seen = f"{len(table.customers)} customers"
except ConfigError as error:
    seen = str(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, seen)
"""


def _peak_mib(path: Path) -> tuple[float, str]:
    """What reading a file adds to a process's memory, and what it saw."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    )
    kib, _, seen = done.stdout.partition(" ")
    return int(kib) / 1024, seen


def test_a_file_of_ten_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    """By its size, before a row is read; the hole on the disk takes no space."""
    path = _csv(tmp_path, _rows(AUTUMN, 10))
    os.truncate(path, 10 << 30)
    assert path.stat().st_size > BYTES_MAX
    mib, seen = _peak_mib(path)
    assert "10737418240 bytes, expected at most" in seen
    assert mib < 32


def test_text_is_read_as_a_stream(tmp_path: Path) -> None:
    """400 MiB of a CSV with a long column that nobody asked for: memory grows by some blocks and not by the file."""
    path = tmp_path / "long.csv"
    remark = "x" * 16_384
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{HEAD},remark\n")
        for customer in range(32):
            file.writelines(f"{row},{remark}\n" for row in _rows(AUTUMN, 800, f"c{customer}"))
    assert path.stat().st_size > 400 << 20
    mib, seen = _peak_mib(path)
    path.unlink()
    assert seen.strip() == "32 customers"
    assert mib < 200


def test_memory_grows_with_rows_by_a_known_amount(tmp_path: Path) -> None:
    """A million rows, in CSV and in Parquet, add at most 300 bytes each."""
    count, customers = 10_000, 100
    start = np.tile(int(AUTUMN.timestamp()) + 900 * np.arange(count), customers)
    energy = (np.arange(len(start)) * 67 % 400) + 0.5
    table = pa.table(
        {
            "customer": pa.array(np.repeat([f"c{k}" for k in range(customers)], count)),
            "start_utc": pa.array(start, pa.timestamp("s", "UTC")),
            "import_wh": energy,
            "export_wh": np.zeros(len(start)),
            "pv_wh": pa.nulls(len(start), pa.float64()),
            "u_mean_v": np.full(len(start), 230.0),
        }
    )
    pq.write_table(table, tmp_path / "many.parquet")
    mib, seen = _peak_mib(tmp_path / "many.parquet")
    assert seen.strip() == "100 customers"
    assert mib < 300 * len(start) / 2**20


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    """Gigabytes of rows in some kilobytes of Parquet: more rows than the limit, refused by the file's own footer."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000_000, dtype=np.int32)), pa.array(["a"]))
    zero = pa.array(np.zeros(4_000_000))
    start = pa.array(np.full(4_000_000, int(AUTUMN.timestamp())), pa.timestamp("s", "UTC"))
    rows = pa.table([names, start, zero, zero, zero, zero], names=list(COLUMNS))
    path = tmp_path / "bomb.parquet"
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for _ in range(16):
            writer.write_table(rows)
    assert path.stat().st_size < 2 << 20
    mib, seen = _peak_mib(path)
    assert "64000000 rows, expected at most 60000000" in seen
    assert mib < 100


# ---- through a study -------------------------------------------------------------------------------------------------


CONSTANT = [re.sub(r"Z,[0-9.]+,", "Z,100.0,", r) for r in _rows(AUTUMN, 96 * 8, "user_1")]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no rows"),
        (_rows(AUTUMN, 96 * 5, "user_1"), "recordings of 5 days, expected at least 7 days"),
        (
            [re.sub(r"Z,[0-9.]+,", "Z,100.0,", r) for r in _rows(AUTUMN, 96 * 8, "user_1")],
            "user_1: seen a constant 400 W",
        ),
    ],
    ids=["empty", "less than a week", "constant"],
)
def test_a_study_refuses_data_that_say_nothing(tmp_path: Path, rows: list[str], says: str) -> None:
    """Empty, too short, a customer whose meter stands still: one clear fault, and no result."""
    network = (FOLDER / "network.json").read_text("utf-8")
    (tmp_path / "network.json").write_text(network, "utf-8")
    others = [_rows(AUTUMN, len(rows), f"user_{k}") for k in range(2, 20)] if rows else []
    data = _csv(tmp_path, [*rows, *(row for own in others for row in own)])
    roof = [
        f"roof,{AUTUMN + timedelta(minutes=15 * k):%Y-%m-%dT%H:%M:%SZ},,,{abs(48 - k % 96)}," for k in range(96 * 8)
    ]
    elsewhere = {"customer": "roof", "files": [str(_csv(tmp_path, roof, "roof.csv"))], "rated_w": 1000.0}
    asked = study(2, "A", meter_data={"files": [str(data)]}, reference=elsewhere)
    asked = asked.model_copy(update={"existing": []})
    with pytest.raises(ConfigError, match=says):
        read_study(asked, tmp_path)


def test_a_connection_point_under_two_names_is_refused(tmp_path: Path) -> None:
    """Its own and its meter's: one customer would draw twice."""
    (tmp_path / "network.json").write_text((FOLDER / "network.json").read_text("utf-8"), "utf-8")
    names = ["m01", "m02", "user_1"]
    data = _csv(tmp_path, [row for name in names for row in _rows(AUTUMN, 96 * 8, name)])
    with pytest.raises(ConfigError) as refused:
        read_study(study(2, "A", meter_data={"files": [str(data)]}), tmp_path)
    expected = "customer user_1: seen recordings as m01 and as user_1, expected one name for each connection point"
    assert [str(fault) for fault in refused.value.faults] == [expected]
