"""Other people's layouts become the house's rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcu.planning.adapters import read, utc_of_local
from dcu.planning.settings import MeterData
from shared.errors import ConfigError


def _read(tmp_path: Path, layout: str, content: str, **more: str):  # type: ignore[no-untyped-def]
    (tmp_path / "data.csv").write_text(content, "utf-8")
    return read(MeterData.model_validate({"files": ["data.csv"], "layout": layout} | more), tmp_path)


def test_low_carbon_london(tmp_path: Path) -> None:
    """Half-hours in kWh; the Null that the set is known for is left out and named."""
    stamps = [f"2012-10-{12 + k // 48:02d} {k % 48 // 2:02d}:{k % 2 * 30:02d}:00.0000000" for k in range(300)]
    rows = [f"MAC000002,Std,{stamp}, 0.{k % 9} " for k, stamp in enumerate(stamps)]
    rows[7] = rows[7].replace("0.7", "Null")
    head = "LCLid,stdorToU,DateTime,KWH/hh (per half hour) "
    table = _read(tmp_path, "low-carbon-london", "\n".join([head, *rows]) + "\n")
    assert table.interval_s == 1800
    assert table.import_wh[0, 3] == 300.0
    assert np.isnan(table.import_wh[0, 7])
    assert "Null" in " ".join(table.notes)


def test_cer(tmp_path: Path) -> None:
    """Day 1 is 1 January 2009 in Dublin; in summer local time is an hour ahead of UTC."""
    lines = [f"1392 {day:03d}{half:02d} 0.{half:02d}" for day in (195, 196, 197) for half in range(1, 49)]
    table = _read(tmp_path, "cer", "\n".join(lines) + "\n")
    assert table.start_s[0] == 1_247_529_600 - 3600  # 14 July 2009, 00:00 local
    assert table.import_wh[0, 5] == pytest.approx(60.0)


def test_cer_keeps_its_meters_apart_where_clocks_change(tmp_path: Path) -> None:
    """On 29 March 2009 (day 88) 01:00 and 01:30 do not exist and are named; on 25 October (day 298) both come twice,
    and the one row that each meter has is summer time, whoever stands before it in the file."""
    lines = [
        f"{m} {day:03d}{half:02d} 0.5"
        for m in (1, 2)
        for day in (*range(82, 92), *range(294, 302))
        for half in range(1, 49)
    ]
    table = _read(tmp_path, "cer", "\n".join(lines) + "\n")
    assert np.array_equal(np.isfinite(table.import_wh[0]), np.isfinite(table.import_wh[1]))
    told = " ".join(table.notes)
    assert "4 bad rows" in told
    assert "08803" in told


def test_pecan_street(tmp_path: Path) -> None:
    """Grid is import minus export [kW]; solar behind the meter is kept beside it, and absent where it is empty."""
    stamps = [f"2018-06-{1 + k // 96:02d} {k % 96 // 4:02d}:{k % 4 * 15:02d}:00-05" for k in range(200)]
    rows = [f"26,{stamp},{-2.0 if k % 2 else 1.0},3.0" for k, stamp in enumerate(stamps)]
    rows += [f"27,2018-06-01 {k // 4:02d}:{k % 4 * 15:02d}:00-05,0.4," for k in range(96)]
    table = _read(tmp_path, "pecan-street", "dataid,local_15min,grid,solar\n" + "\n".join(rows) + "\n")
    assert table.customers == ("26", "27")
    assert table.import_wh[0, :2].tolist() == [250.0, 0.0]
    assert table.export_wh[0, :2].tolist() == [0.0, 500.0]
    assert table.pv_wh[0, 0] == 750.0
    assert np.isnan(table.pv_wh[1]).all()
    assert table.start_s[0] % 86_400 == 5 * 3600


def test_simbench(tmp_path: Path) -> None:
    """Relative profiles times the peaks of a mapping; PV is netted and kept."""
    lines = [f"01.01.2016 {k // 4:02d}:{k % 4 * 15:02d};0.5;0.{k % 10}" for k in range(96)]
    (tmp_path / "map.csv").write_text(
        "customer,load_profile,load_peak_w,pv_profile,pv_peak_w\nhouse,H0-A,4000,PV1,8000\nflat,H0-A,2000,,\n", "utf-8"
    )
    table = _read(tmp_path, "simbench", "time;H0-A_pload;PV1\n" + "\n".join(lines) + "\n", mapping="map.csv")
    house, flat = table.customers.index("house"), table.customers.index("flat")
    assert table.import_wh[flat, 0] == 250.0
    assert table.import_wh[house, 0] == 500.0
    assert table.export_wh[house, 9] == pytest.approx(0.9 * 2000 - 500)
    assert table.pv_wh[house, 9] == pytest.approx(1800.0)


def test_clock_changes() -> None:
    """In Brussels 02:30 of 31 March 2013 does not exist, 02:30 of 27 October comes twice: summer time first."""
    spring, autumn = 1_364_697_000, 1_382_841_000  # 02:30 local, as if it were UTC
    start, exists = utc_of_local(np.array([spring, autumn, autumn]), "Europe/Brussels")
    assert exists.tolist() == [False, True, True]
    assert start[1:].tolist() == [autumn - 7200, autumn - 3600]


@pytest.mark.parametrize("layout", ["low-carbon-london", "pecan-street", "simbench"])
def test_another_header_is_refused(tmp_path: Path, layout: str) -> None:
    """A file of one layout is not read as another."""
    (tmp_path / "map.csv").write_text("customer,load_profile,load_peak_w,pv_profile,pv_peak_w\na,H0-A,1,,\n", "utf-8")
    with pytest.raises(ConfigError):
        _read(tmp_path, layout, "a,b\n1,2\n", mapping="map.csv")


@pytest.mark.parametrize(
    ("profiles", "peak", "says"),
    [
        (None, "1", "readable CSV"),
        (b"\xff\xfe\x00", "1", "readable CSV"),
        (b"time;H0-A_pload\n01.01.2016 00:00;0.5\n", "1", "at least a week"),
        (b"time;H0-A_pload\n", "nan", "peaks nan"),
        (b"time;H0-A_pload\n", "-3", "peaks -3"),
        (b"time;H0-A_pload\n", "1e308", "peaks 1e"),
    ],
)
def test_bad_simbench_input_is_one_clear_fault(tmp_path: Path, profiles: bytes | None, peak: str, says: str) -> None:
    """No file, no text, one row, and peaks that are no powers."""
    if profiles is not None:
        (tmp_path / "data.csv").write_bytes(profiles)
    (tmp_path / "map.csv").write_text(
        f"customer,load_profile,load_peak_w,pv_profile,pv_peak_w\na,H0-A,{peak},,\n", "utf-8"
    )
    settings = MeterData.model_validate({"files": ["data.csv"], "layout": "simbench", "mapping": "map.csv"})
    with pytest.raises(ConfigError, match=says):
        read(settings, tmp_path)


@pytest.mark.parametrize(("at", "grid"), [("2018-06-01 01:00:00-05", "1e308"), ("1970-01-02 01:00:00-05", "1.0")])
def test_impossible_pecan_street_rows_are_named(tmp_path: Path, at: str, grid: str) -> None:
    """A power that no line carries and a clock that was never set are left out with their row."""
    stamps = [f"2018-06-{1 + k // 96:02d} {k % 96 // 4:02d}:{k % 4 * 15:02d}:00-05" for k in range(200)]
    rows = [f"26,{stamp},1.0," for stamp in stamps]
    rows[4] = f"26,{at},{grid},"
    table = _read(tmp_path, "pecan-street", "dataid,local_15min,grid,solar\n" + "\n".join(rows) + "\n")
    assert np.isnan(table.import_wh[0, 4])
    assert np.isfinite(np.delete(table.import_wh[0], 4)).all()
    assert "row 6" in " ".join(table.notes)


def test_simbench_needs_its_mapping(tmp_path: Path) -> None:
    """Without a mapping nobody knows whose profile is whose."""
    with pytest.raises(ConfigError, match="mapping"):
        _read(tmp_path, "simbench", "time;H0-A_pload\n")
