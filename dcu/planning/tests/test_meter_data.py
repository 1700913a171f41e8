"""Meter data: every bad row is named with file, row and reason; nothing is filled in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcu.planning import meter_data
from dcu.planning.meter_data import COLUMNS, read_meter_data
from shared.errors import ConfigError

HEAD = ",".join(COLUMNS)


def _wh(k: int) -> float:
    """Energy of row k; rises and falls, as households do, and never comes twice in 200 rows."""
    return k * 67 % 200 + 0.5


def _rows(count: int = 200, customer: str = "a", first: int = 0) -> list[str]:
    return [
        f"{customer},2026-03-{1 + k // 96:02d}T{k % 96 // 4:02d}:{k % 4 * 15:02d}:00Z,{_wh(k)},0,,{230 + k % 3}"
        for k in range(first, first + count)
    ]


def _csv(folder: Path, rows: list[str], head: str = HEAD) -> Path:
    path = folder / "meters.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_clean_file_is_read_in_any_order(tmp_path: Path) -> None:
    """Rows may be shuffled and columns stand anywhere; energies end up in their interval."""
    rows = _rows() + _rows(customer="b")
    order = np.random.default_rng(3).permutation(len(rows))
    table = read_meter_data([_csv(tmp_path, [rows[k] for k in order])])
    assert table.customers == ("a", "b")
    assert table.interval_s == 900
    assert table.import_wh[1].tolist() == [_wh(k) for k in range(200)]
    assert np.isnan(table.pv_wh).all()
    assert table.u_mean_v[0, :3].tolist() == [230.0, 231.0, 232.0]
    assert table.notes == ()


def test_parquet_and_csv_say_the_same(tmp_path: Path) -> None:
    """The two forms of one layout give one table."""
    table = read_meter_data([_csv(tmp_path, _rows())])
    path = tmp_path / "meters.parquet"
    columns = {
        "customer": pa.array(["a"] * 200).dictionary_encode(),
        "start_utc": pa.array(table.start_s, pa.timestamp("s", "UTC")),
        "import_wh": table.import_wh[0],
        "export_wh": table.export_wh[0],
        "pv_wh": pa.nulls(200, pa.float64()),
        "u_mean_v": table.u_mean_v[0].astype(np.float32),
    }
    pq.write_table(pa.table(columns), path)
    other = read_meter_data([path])
    assert (other.import_wh == table.import_wh).all()
    assert (other.start_s == table.start_s).all()


@pytest.mark.parametrize(
    ("cell", "value", "says"),
    [
        ("customer", "", "name of 1 .. 64"),
        ("customer", "x" * 65, "name of 1 .. 64"),
        ("start_utc", "2026-03-01T00:15:00", "an instant in UTC"),
        ("start_utc", "2026-10-25T02:15:00+02:00", "an instant in UTC"),
        ("start_utc", "2026-02-30T00:15:00Z", "an instant in UTC"),
        ("start_utc", "1970-01-01T00:15:00Z", "2000 .. 2099"),
        ("start_utc", "2126-01-01T00:15:00Z", "2000 .. 2099"),
        ("import_wh", "1e308", "energy of the interval"),
        ("import_wh", "-7", "not a register"),
        ("import_wh", "NaN", "a finite number"),
        ("import_wh", "inf", "a finite number"),
        ("import_wh", "3 kWh", "a finite number"),
        ("import_wh", "1.234,5", "6 cells|7 cells|expected 6"),
        ("import_wh", "=1+1", "a finite number"),
        ("export_wh", "", "a finite number"),
        ("pv_wh", "sunny", "a finite number or nothing"),
        ("u_mean_v", "0", "50 .. 1000"),
        ("u_mean_v", "23000", "50 .. 1000"),
    ],
)
def test_a_bad_cell_is_named_and_the_rest_is_kept(tmp_path: Path, cell: str, value: str, says: str) -> None:
    """One bad row in two hundred is left out with its row number and reason; the interval stays unknown."""
    rows = _rows()
    cells = rows[100].split(",")
    cells[COLUMNS.index(cell)] = value
    table = read_meter_data([_csv(tmp_path, [*rows[:100], ",".join(cells), *rows[101:]])])
    assert np.isnan(table.import_wh[0, 100])
    assert np.isfinite(np.delete(table.import_wh[0], 100)).all()
    assert re.search(says, " ".join(table.notes)), table.notes
    assert "row 102" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: [x.replace("Z,", ",") for x in r], "an instant in UTC"),
        (lambda r: [x.replace(",0,,", ",-1,,") for x in r], "not a register"),
        (lambda r: [x + ",7" for x in r], "cells"),
        (lambda r: [*r, *r[:10]], "a at 2026-03-01T00:00:00Z again"),
        (lambda r: [r[0]], "one interval"),
        (lambda _: [], "no rows|nothing|empty|Empty"),
        (lambda r: r[::7], "expected one of"),
        (lambda r: [x.replace(",", ";") for x in r], "bad|cells"),
    ],
)
def test_more_than_one_percent_bad_rows_refuse_the_file(tmp_path: Path, change, says: str) -> None:  # type: ignore[no-untyped-def]
    """The refusal names the file, the first rows and how many there are."""
    with pytest.raises(ConfigError, match=says) as refused:
        read_meter_data([_csv(tmp_path, change(_rows()))])
    assert len(refused.value.faults) <= 21


def test_the_refusal_names_file_row_and_reason(tmp_path: Path) -> None:
    """Row numbers count lines of the file, the header being the first."""
    rows = _rows()
    for k in (10, 11, 12):
        rows[k] = rows[k].replace(f"{_wh(k)}", "x")
    with pytest.raises(ConfigError) as refused:
        read_meter_data([_csv(tmp_path, rows)])
    assert "meters.csv" in refused.value.file
    assert str(refused.value.faults[0]) == "file: seen 3 of 200 rows are bad, expected at most 1%"
    assert str(refused.value.faults[1]) == "row 12: seen import_wh 'x', expected a finite number"


def test_a_wrong_header_is_refused_before_any_row(tmp_path: Path) -> None:
    """Other columns are another layout."""
    with pytest.raises(ConfigError, match="start_utc"):
        read_meter_data([_csv(tmp_path, _rows(), HEAD.replace("start_utc", "time"))])


def test_a_row_that_says_nothing_is_a_gap_and_no_fault(tmp_path: Path) -> None:
    """An exporter may write intervals without data; they count as missing."""
    rows = _rows()
    for k in range(50, 100):
        rows[k] = rows[k].replace(f"{_wh(k)},0,", ",,")
    table = read_meter_data([_csv(tmp_path, rows)])
    assert np.isnan(table.import_wh[0, 50:100]).all()
    assert table.notes == ("a: 50 of 200 intervals are missing and stay unknown",)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff\xfe\x00", b"PAR1" + bytes(200) + b"PAR1"])
def test_a_damaged_file_is_refused_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    """Truncated, empty or of another kind: one clear fault."""
    for name in ("x.parquet", "x.csv"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError):
            read_meter_data([tmp_path / name])


def test_parquet_columns_must_have_their_types(tmp_path: Path) -> None:
    """A stamp without zone and numbers as text are refused by the schema."""
    columns = {name: pa.array(["1"]) for name in COLUMNS}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="time zone UTC"):
        read_meter_data([tmp_path / "x.parquet"])


def test_one_stamp_that_is_off_condemns_no_other_row(tmp_path: Path) -> None:
    """The first row of the file and of the time is three seconds late: it alone is left out, by name and instant."""
    rows = _rows()
    rows[0] = rows[0].replace("00:00:00Z", "00:00:03Z")
    table = read_meter_data([_csv(tmp_path, rows)])
    assert table.import_wh[0].tolist() == [_wh(k) for k in range(1, 200)]
    assert "a at 2026-03-01T00:00:03Z" in " ".join(table.notes)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_meter_data([tmp_path / "none.csv"])


@pytest.mark.parametrize(("limit", "value"), [("ROWS_MAX", 100), ("CELLS_MAX", 100), ("CUSTOMERS_MAX", 1)])
def test_every_size_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """A file beyond a limit is refused with the limit, in either form."""
    path = _csv(tmp_path, _rows() + _rows(customer="b"))
    table = read_meter_data([path])
    columns = {
        "customer": pa.array(np.repeat(["a", "b"], 200)),
        "start_utc": pa.array(np.tile(table.start_s, 2) * 1_000_000, pa.timestamp("us", "UTC")),
        "import_wh": table.import_wh.ravel(),
        "export_wh": table.export_wh.ravel(),
        "pv_wh": pa.nulls(400),
        "u_mean_v": pa.nulls(400),
    }
    pq.write_table(pa.table(columns), tmp_path / "meters.parquet")
    monkeypatch.setattr(meter_data, limit, value)
    for file in (path, tmp_path / "meters.parquet"):
        with pytest.raises(ConfigError, match=f"at most {value}"):
            read_meter_data([file])


def test_rows_that_unpack_to_documents_are_refused(tmp_path: Path) -> None:
    """A small Parquet file whose names unpack to megabytes is no meter data."""
    count = 100
    columns = {
        "customer": pa.array(["x" * 100_000] * count),
        "start_utc": pa.array(np.arange(count) * 900 + 1_772_323_200, pa.timestamp("s", "UTC")),
        **{name: np.zeros(count) for name in COLUMNS[2:]},
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 200_000
    with pytest.raises(ConfigError, match="rows, not documents"):
        read_meter_data([tmp_path / "x.parquet"])
