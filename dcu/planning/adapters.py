"""Other people's meter data as the house's rows: SimBench profiles, Low Carbon London, CER, Pecan Street.

The column layouts of the last three are recalled from their public descriptions, not checked against the data, which
need registration; a file of another layout is refused by its header. Local times are turned into UTC by the zone of the
study; an hour that does not exist is a bad row, of an hour that comes twice the first pass is summer time.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from dcu.planning.bad_rows import BadRows
from dcu.planning.meter_data import (
    POWER_W_MAX,
    START_S,
    MeterTable,
    Reals,
    Rows,
    assemble,
    csv_batches,
    csv_header,
    instants,
    numbers,
    read_meter_data,
)
from dcu.planning.settings import MeterData
from shared.errors import ConfigError, Fault

LCL: Final = ("LCLid", "DateTime", "KWH/hh (per half hour) ")
CER_DAY_ONE: Final = datetime(2009, 1, 1, tzinfo=UTC).timestamp()
CER_ZONE: Final = "Europe/Dublin"
PECAN: Final = ("dataid", "local_15min", "grid", "solar")
MAPPING: Final = ("customer", "load_profile", "load_peak_w", "pv_profile", "pv_peak_w")


def read(settings: MeterData, folder: Path, now_s: float | None = None) -> MeterTable:
    """The meter data that a study names; `now_s` is as in `read_meter_data`.

    Raises:
        ConfigError: as `read_meter_data`.
    """
    paths = [folder / name for name in settings.files]
    if settings.layout == "headroom":
        return read_meter_data(paths, now_s)
    source = ", ".join(p.name for p in paths)
    told: list[str] = []
    if settings.layout == "simbench":
        if settings.mapping is None:
            raise ConfigError("study", [Fault("meter_data.mapping", "nothing", f"a CSV with {', '.join(MAPPING)}")])
        return assemble(source, _simbench(paths, folder / settings.mapping, settings.timezone, told), told, now_s)
    one = {"low-carbon-london": low_carbon_london, "cer": cer, "pecan-street": pecan_street}[settings.layout]
    return assemble(source, (rows for path in paths for rows in one(path, told)), told, now_s)


def low_carbon_london(path: Path, told: list[str]) -> Iterator[Rows]:
    """Half-hourly import, stamped at its start in UTC (recalled)."""
    bad = BadRows(path, told=told)
    for first, batch in csv_batches(path, LCL, bad):
        text = pc.replace_substring_regex(batch.column(LCL[1]), r"(\.0+)?$", "Z")
        start, ok = instants(text)
        bad.unless(ok, np.ones_like(ok), first, batch.column(LCL[1]), "DateTime", "as 2012-10-12 00:30:00")
        kwh, valid = numbers(pc.utf8_trim_whitespace(batch.column(LCL[2])), null=False)
        bad.unless(valid, ok, first, batch.column(LCL[2]), "KWH/hh", "a finite number")
        yield _import_rows(bad, first, batch.column(LCL[0]), start, kwh * 1000, ok & valid)
    bad.judge()


def cer(path: Path, told: list[str]) -> Iterator[Rows]:
    """Half-hourly import: meter, five digits of day (1 is 1 January 2009) and half-hour (1 .. 50), kWh (recalled)."""
    bad = BadRows(path, told=told)
    reading = pa_csv.ReadOptions(use_threads=False, column_names=["meter", "code", "kwh"])
    text = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(("meter", "code", "kwh"), pa.string()), strings_can_be_null=False
    )
    first = 1
    try:
        with pa_csv.open_csv(path, reading, pa_csv.ParseOptions(delimiter=" "), text) as stream:
            for batch in stream:
                ok = np.asarray(
                    pc.match_substring_regex(batch.column("code"), "^[0-9]{5}$").to_numpy(zero_copy_only=False),
                    dtype=bool,
                )
                bad.unless(ok, np.ones_like(ok), first, batch.column("code"), "day code", "five digits")
                code = np.array(
                    [int(c) if good else 101 for c, good in zip(batch.column("code").to_pylist(), ok, strict=True)]
                )
                half = code % 100
                inside = (half >= 1) & (half <= 48) & (code >= 100)
                bad.unless(
                    inside,
                    ok,
                    first,
                    batch.column("code"),
                    "half-hour",
                    "1 .. 48 (49 and 50 of a long day are left out)",
                )
                local = (CER_DAY_ONE + (code // 100 - 1) * 86_400 + (half - 1) * 1800).astype(np.int64)
                meters = np.array(batch.column("meter").to_pylist(), dtype=object)
                start, exists = utc_of_local(local, CER_ZONE, meters)
                bad.unless(exists, ok & inside, first, batch.column("code"), "half-hour", "a time the clocks show")
                kwh, valid = numbers(batch.column("kwh"), null=False)
                bad.unless(valid, ok & inside & exists, first, batch.column("kwh"), "kWh", "a finite number")
                yield _import_rows(bad, first, batch.column("meter"), start, kwh * 1000, ok & inside & exists & valid)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            str(path), [Fault("file", str(error).splitlines()[0][:120], "lines of meter, code, kWh")]
        ) from error
    bad.judge()


def pecan_street(path: Path, told: list[str]) -> Iterator[Rows]:
    """Quarter-hourly mean powers [kW]: `grid` is import minus export, `solar` generation, empty where none
    (recalled)."""
    bad = BadRows(path, told=told)
    for first, batch in csv_batches(path, PECAN, bad):
        stamps = batch.column("local_15min").to_pylist()
        start = np.zeros(len(stamps), dtype=np.int64)
        ok = np.zeros(len(stamps), dtype=bool)
        for k, stamp in enumerate(stamps):
            try:
                at = datetime.fromisoformat(stamp)
            except ValueError:
                continue
            if at.tzinfo is not None:
                start[k], ok[k] = int(at.timestamp()), True
        bad.unless(
            ok, np.ones_like(ok), first, batch.column("local_15min"), "local_15min", "an instant with its UTC offset"
        )
        grid, valid = numbers(batch.column("grid"), null=False)
        bad.unless(valid, ok, first, batch.column("grid"), "grid", "a finite number")
        solar, sound = numbers(batch.column("solar"), null=True)
        bad.unless(sound, ok & valid, first, batch.column("solar"), "solar", "a finite number or nothing")
        ok &= valid & sound
        known = (start >= START_S[0]) & (start < START_S[1])
        bad.unless(known, ok, first, batch.column("local_15min"), "local_15min", "2000 .. 2099")
        wh = 250.0
        usual = np.maximum(np.abs(grid), np.nan_to_num(solar)) <= POWER_W_MAX / wh
        bad.unless(usual, ok & known, first, batch.column("grid"), "grid or solar", f"at most {POWER_W_MAX / wh:g} kW")
        ok &= known & usual
        grid, solar = np.where(ok, grid, 0.0), np.where(ok, solar, np.nan)
        values = np.full((len(ok), 4), np.nan)
        values[:, 0], values[:, 1] = np.maximum(grid, 0) * wh, np.maximum(-grid, 0) * wh
        values[:, 2] = np.maximum(solar, 0.0) * wh  # meters show a few watts of consumption at night
        bad.rows += len(ok)
        names = np.array(batch.column("dataid").to_pylist(), dtype=object)
        yield Rows(names[ok], start[ok], values[ok])
    bad.judge()


def _import_rows(
    bad: BadRows, first: int, names: pa.Array, start: NDArray[np.int64], wh: Reals, ok: NDArray[np.bool_]
) -> Rows:
    sound = ok & (wh >= 0) & (wh <= POWER_W_MAX) & (start >= START_S[0]) & (start < START_S[1])
    bad.unless(sound, ok, first, names, "row of", f"2000 .. 2099 and 0 .. {POWER_W_MAX:g} Wh")
    bad.rows += len(ok)
    values = np.full((int(sound.sum()), 4), np.nan)
    values[:, 0], values[:, 1] = wh[sound], 0.0
    return Rows(np.array(names.to_pylist(), dtype=object)[sound], start[sound], values)


def utc_of_local(
    local_s: NDArray[np.int64], timezone: str, whose: NDArray[np.object_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """UTC seconds of local clock times (given as if they were UTC), and whether such a time exists.

    Of a time that comes twice the first occurrence is summer time, the second standard time, for each of `whose`
    (n_row) by itself where the rows are several customers'.
    """
    zone = ZoneInfo(timezone)
    found, exists = np.empty_like(local_s), np.ones(len(local_s), dtype=bool)
    kept: dict[int, tuple[int, int, bool]] = {}
    hours, place = np.unique(local_s // 900, return_inverse=True)
    for h in hours.tolist():
        naive = datetime.fromtimestamp(h * 900, UTC).replace(tzinfo=zone)
        offsets = [int(naive.replace(fold=f).utcoffset().total_seconds()) for f in (0, 1)]  # type: ignore[union-attr]
        back = datetime.fromtimestamp(h * 900 - offsets[0], UTC).astimezone(zone).replace(tzinfo=UTC).timestamp()
        kept[h] = offsets[0], offsets[1], int(back) == h * 900
    first, second, real = (np.array([kept[h][k] for h in hours.tolist()])[place] for k in range(3))
    again = np.zeros(len(local_s), dtype=bool)
    met: set[tuple[object, int]] = set()
    for k in np.flatnonzero(first != second):
        key = (None if whose is None else whose[k], int(local_s[k]))
        again[k] = key in met
        met.add(key)
    found = local_s - np.where(again, second, first)
    exists &= real.astype(bool)
    return found, exists


@dataclass(frozen=True, slots=True)
class _Mapped:
    customer: str
    load_profile: str
    load_peak_w: float
    pv_profile: str
    pv_peak_w: float


def _simbench(paths: list[Path], mapping: Path, timezone: str, told: list[str]) -> Iterator[Rows]:
    """Customers from relative profiles: `<load_profile>_pload` times the peak, `<pv_profile>` times the rating [W]."""
    customers = _mapping(mapping)
    series: dict[str, Reals] = {}
    start: NDArray[np.int64] | None = None
    for path in paths:
        own, columns = _profile_file(
            path, {n for c in customers for n in (f"{c.load_profile}_pload", c.pv_profile) if n}, timezone, told
        )
        if start is not None and not np.array_equal(start, own):
            raise ConfigError(str(path), [Fault("time", "other instants than the first file", "the same instants")])
        start, series = own, series | columns
    assert start is not None, "the settings ask for one file at least"
    if len(start) < 2:
        raise ConfigError(", ".join(p.name for p in paths), [Fault("time", f"{len(start)} rows", "at least a week")])
    hours = float(np.median(np.diff(start))) / 3600
    for c in customers:
        missing = [n for n in (f"{c.load_profile}_pload", c.pv_profile) if n and n not in series]
        if missing:
            raise ConfigError(
                str(mapping), [Fault(f"customer {c.customer}", missing[0], "a column of the profile files")]
            )
        load = series[f"{c.load_profile}_pload"] * c.load_peak_w * hours
        pv = series[c.pv_profile] * c.pv_peak_w * hours if c.pv_profile else np.full(len(start), np.nan)
        net = load - np.nan_to_num(pv)
        values = np.stack([np.maximum(net, 0), np.maximum(-net, 0), pv, np.full(len(start), np.nan)], axis=1)
        ok = np.isfinite(load) & (np.isfinite(pv) | (not c.pv_profile))
        yield Rows(np.full(int(ok.sum()), c.customer, dtype=object), start[ok], values[ok])


def _mapping(path: Path) -> list[_Mapped]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault("file", str(error), "a readable CSV")]) from error
    found, faults = [], []
    for line, row in enumerate(rows, start=2):
        try:
            pv = row["pv_profile"] or ""
            peaks = float(row["load_peak_w"]), float(row["pv_peak_w"] or 0)
            found.append(_Mapped(row["customer"], row["load_profile"], peaks[0], pv, peaks[1]))
            if not all(0 <= peak <= POWER_W_MAX for peak in peaks):
                seen = f"peaks {peaks[0]:g} and {peaks[1]:g} W"
                faults.append(Fault(f"row {line}", seen, f"0 .. {POWER_W_MAX:g} W"))
        except (KeyError, TypeError, ValueError) as error:
            faults.append(Fault(f"row {line}", str(error), f"{', '.join(MAPPING)}"))
    if faults or not found:
        raise ConfigError(str(path), faults or [Fault("file", "no rows", "a row for each customer")])
    return found


def _profile_file(
    path: Path, wanted: set[str], timezone: str, told: list[str]
) -> tuple[NDArray[np.int64], dict[str, Reals]]:
    bad = BadRows(path, told=told)
    try:
        names = csv_header(path, ";")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault("file", str(error), "a readable CSV in UTF-8")]) from error
    own = [n for n in names if n in wanted]
    starts, columns = [], {name: [] for name in own}  # type: ignore[var-annotated]
    for first, batch in csv_batches(path, ("time", *own), bad, ";"):
        stamps = pc.strptime(batch.column("time"), format="%d.%m.%Y %H:%M", unit="s", error_is_null=True)
        ok = np.asarray(stamps.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
        bad.unless(ok, np.ones_like(ok), first, batch.column("time"), "time", "as 01.01.2016 00:15")
        local = np.asarray(pc.fill_null(pc.cast(stamps, pa.int64()), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
        values = {}
        for name in own:
            values[name], valid = numbers(batch.column(name), null=False)
            bad.unless(valid, ok, first, batch.column(name), name, "a finite number")
            ok &= valid
        bad.rows += len(ok)
        starts.append(local[ok])
        for name in own:
            columns[name].append(values[name][ok])
    bad.judge()
    local = np.concatenate(starts) if starts else np.zeros(0, dtype=np.int64)
    start, exists = utc_of_local(local, timezone) if timezone != "UTC" else (local, np.ones(len(local), dtype=bool))
    if not exists.all():
        told.append(f"{path.name}: {int((~exists).sum())} rows left out: times that the clocks of {timezone} skip")
    return start[exists], {name: np.concatenate(parts)[exists] for name, parts in columns.items()}
