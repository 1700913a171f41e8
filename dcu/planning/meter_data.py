"""Meter data in the house's one layout: read strictly, every bad row with its file, number and reason.

One row for each customer and interval:

    customer    text            as the network calls the connection point
    start_utc   timestamp, UTC  start of the interval
    import_wh   number >= 0     drawn from the grid in the interval [Wh]
    export_wh   number >= 0     fed into it [Wh]
    pv_wh       number or null  generated behind the meter, where that is measured [Wh]; may stand alone
    u_mean_v    number or null  mean phase-to-neutral voltage [V]

Nothing is filled in: an interval without a row, or with no energy in it, stays unknown. More than 1 %
bad rows refuse the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcu.planning.bad_rows import BAD_SHARE_MAX, NAMED_MAX, BadRows
from shared.errors import ConfigError, Fault

COLUMNS: Final = ("customer", "start_utc", "import_wh", "export_wh", "pv_wh", "u_mean_v")
MAY_BE_NULL: Final = ("pv_wh", "u_mean_v")
ROWS_MAX: Final = 60_000_000
BYTES_MAX: Final = 8 << 30
"""Of a text file; what fits the limit of rows is smaller."""
CELLS_MAX: Final = 1 << 28
"""Customers times intervals that are held at once."""
CUSTOMERS_MAX: Final = 20_000
BATCH_ROWS: Final = 1 << 17
BLOCK_BYTES: Final = 1 << 20
"""Of text read at once; the parser reads some thirty ahead."""
ROW_BYTES_MAX: Final = 4_096
"""Of a batch on average when unpacked: a small file may unpack to a large one."""
START_S: Final = (946_684_800, 4_102_444_800)
"""2000-01-01 .. 2100-01-01: what is outside is a clock that was never set."""
AHEAD_S_MAX: Final = 86_400
"""A recorder's clock may be a zone's offset ahead of the one that reads; a later start is a wrong stamp."""
POWER_W_MAX: Final = 1e6
"""No low-voltage customer draws or gives more; a register that rolled over does."""
U_V: Final = (50.0, 1_000.0)
RISES_MIN: Final = 100
"""What a register does for each time that it rolls over or is replaced; no customer draws more so often in a row."""
LARGEST_W_MIN: Final = 50.0
"""[W] One kettle is forty times that; kWh that are taken for Wh stay below."""
INTERVALS_S: Final = (60, 300, 600, 900, 1_800, 3_600)
_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_INSTANT: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.0+)?)?(Z|[+-]00:?00)$"
_CUSTOMER: Final = r"^[^\x00-\x1f\x7f]{1,64}$"

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MeterTable:
    """Recordings on one grid of intervals: energies (n_customer, n_interval) [Wh], NaN where nothing was recorded.

    `start_s` (n_interval) [s since 1970, UTC]; `notes` say what was left out and what is missing.
    """

    source: str
    customers: tuple[str, ...]
    start_s: NDArray[np.int64]
    interval_s: int
    import_wh: Reals
    export_wh: Reals
    pv_wh: Reals
    u_mean_v: Reals
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A batch of good rows: what adapters hand over. `values` (n_row, 4) in the order of the columns."""

    customer: NDArray[np.object_]
    start_s: NDArray[np.int64]
    values: Reals


def read_meter_data(paths: list[Path], now_s: float | None = None) -> MeterTable:
    """Every file of one data set, in the house's layout.

    Args:
        paths: the files.
        now_s: the time of reading [s since 1970], which nothing was recorded more than a day after; None does not ask.

    Raises:
        ConfigError: a file that cannot be read, of another layout, empty, too large, or with more than 1 % bad rows.
    """
    told: list[str] = []
    source = ", ".join(p.name for p in paths)
    return assemble(source, (rows for path in paths for rows in _file(path, told)), told, now_s)


def _file(path: Path, told: list[str]) -> Iterator[Rows]:
    bad = BadRows(path, told=told)
    reader = _parquet(path) if path.suffix == ".parquet" else csv_batches(path, COLUMNS, bad)
    for first, batch in reader:
        yield _checked(batch, first, bad)
    bad.judge()


def _parquet(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    try:
        with pq.ParquetFile(path) as file:
            _check_parquet(path, file)
            first = 1
            for batch in file.iter_batches(BATCH_ROWS, columns=list(COLUMNS), use_threads=False):
                if batch.nbytes > ROW_BYTES_MAX * max(batch.num_rows, 1):
                    raise ConfigError(
                        str(path), [Fault(f"row {first}", f"{batch.nbytes} bytes", "rows, not documents")]
                    )
                yield first, batch
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(str(path), [Fault("file", _first_line(error), "a readable Parquet file")]) from error


def _check_parquet(path: Path, file: pq.ParquetFile) -> None:
    schema = file.schema_arrow
    faults = [Fault(f"column {c}", "nothing", "this column") for c in COLUMNS if c not in schema.names]
    faults += [Fault(f"column {c}", "an unknown column", ", ".join(COLUMNS)) for c in schema.names if c not in COLUMNS]
    wanted = {"customer": _is_text, "start_utc": _is_instant} | dict.fromkeys(COLUMNS[2:], _is_number)
    for field in schema:
        if field.name in wanted and not wanted[field.name](field.type):
            expected = {"customer": "text", "start_utc": "a timestamp with the time zone UTC"}.get(
                field.name, "a number"
            )
            faults.append(Fault(f"column {field.name}", str(field.type), expected))
    if file.metadata.num_rows > ROWS_MAX:
        faults.append(Fault("file", f"{file.metadata.num_rows} rows", f"at most {ROWS_MAX}"))
    if faults:
        raise ConfigError(str(path), faults)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.tz in ("UTC", "+00:00", "Etc/UTC"))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def csv_batches(
    path: Path, columns: Iterable[str], bad: BadRows, delimiter: str = ","
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of a CSV as text, with the number of the first of each batch; ragged rows are bad rows."""
    wanted = tuple(columns)

    def ragged(row: pa_csv.InvalidRow) -> str:
        bad.skip(row.number)  # known, because one thread reads
        bad.add(row.number, f"{row.actual_columns} cells", f"{row.expected_columns}")
        return "skip"

    try:
        if path.stat().st_size > BYTES_MAX:
            seen = f"{path.stat().st_size} bytes"
            raise ConfigError(str(path), [Fault("file", seen, f"at most {BYTES_MAX}; a file a month, or Parquet")])
        header = pa_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=ragged, ignore_empty_lines=False)
        reading = pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        names = csv_header(path, delimiter)
        missing = [c for c in wanted if c not in names]
        if missing:
            raise ConfigError(str(path), [Fault(f"column {c}", "nothing", "this column") for c in missing])
        if len(set(names)) != len(names):
            raise ConfigError(str(path), [Fault("header", "a column twice", "each once")])
        text = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=list(wanted), strings_can_be_null=False
        )
        with pa_csv.open_csv(path, reading, header, text) as stream:
            first = 2
            for read in stream:
                batch = _without_empty(read, first, bad)
                yield first, batch
                first += batch.num_rows
                if first > ROWS_MAX:
                    raise ConfigError(str(path), [Fault("file", f"more than {ROWS_MAX} rows", f"at most {ROWS_MAX}")])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault("file", _first_line(error), "a readable CSV in UTF-8")]) from error


def _without_empty(batch: pa.RecordBatch, first: int, bad: BadRows) -> pa.RecordBatch:
    """The rows of lines with something in them."""
    empty = np.ones(batch.num_rows, dtype=bool)
    for column in batch.columns:
        empty &= _blank(column)
    if not empty.any():
        return batch
    for before, k in enumerate(np.flatnonzero(empty).tolist()):
        bad.skip(bad.line(first + k - before))
    return batch.filter(pa.array(~empty))


def csv_header(path: Path, delimiter: str) -> list[str]:
    """Names of a CSV's columns."""
    with path.open("rb") as file:
        line = file.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n")
    if not line:
        raise ConfigError(str(path), [Fault("file", "nothing", "a header and rows")])
    return [name.strip('"') for name in line.split(delimiter)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _checked(batch: pa.RecordBatch, first: int, bad: BadRows) -> Rows:
    """The good rows of a batch; the others are named."""
    column = {name: batch.column(name) for name in COLUMNS}
    ok = np.ones(batch.num_rows, dtype=bool)
    customer = column["customer"]
    if pa.types.is_dictionary(customer.type):
        customer = customer.dictionary_decode()
    ok &= bad.unless(
        _true(pc.match_substring_regex(customer, _CUSTOMER)),
        ok,
        first,
        customer,
        "customer",
        "a name of 1 .. 64 characters",
    )
    start, valid = instants(column["start_utc"])
    ok &= bad.unless(valid, ok, first, column["start_utc"], "start_utc", "an instant in UTC, as 2026-03-01T12:15:00Z")
    inside = (start >= START_S[0]) & (start < START_S[1])
    ok &= bad.unless(inside, ok, first, column["start_utc"], "start_utc", "2000 .. 2099")
    values = np.empty((batch.num_rows, 4))
    pv_alone = _blank(column["import_wh"]) & _blank(column["export_wh"])
    ok &= ~(pv_alone & _blank(column["pv_wh"]))  # a row that says nothing is as good as none
    for k, name in enumerate(COLUMNS[2:]):
        values[:, k], valid = numbers(column[name], null=name in MAY_BE_NULL)
        valid |= pv_alone & (name not in MAY_BE_NULL)
        ok &= bad.unless(
            valid, ok, first, column[name], name, "a finite number" + (" or nothing" * (name in MAY_BE_NULL))
        )
        low, high = (0.0, POWER_W_MAX) if name != "u_mean_v" else U_V
        sound = ~((values[:, k] < low) | (values[:, k] > high))
        reason = f"{low:g} .. {high:g}" + (" (energy of the interval, not a register)" if name != "u_mean_v" else "")
        ok &= bad.unless(sound, ok, first, column[name], name, reason)
    bad.rows += batch.num_rows
    names = np.asarray(customer.to_numpy(zero_copy_only=False), dtype=object)
    return Rows(names[ok], start[ok], values[ok])


def _true(values: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def _blank(column: pa.Array) -> NDArray[np.bool_]:
    if pa.types.is_string(column.type):
        return _true(pc.equal(column, ""))
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)


def numbers(column: pa.Array, *, null: bool) -> tuple[Reals, NDArray[np.bool_]]:
    """Numbers of a column (NaN where there is none) and whether each cell is one, or rightly empty."""
    if pa.types.is_string(column.type):
        matches = pc.match_substring_regex(column, _NUMBER)
        blank = _blank(column)
        column = pc.cast(pc.if_else(matches, column, pa.scalar(None, pa.string())), pa.float64())
    else:
        blank = _blank(column)
        column = pc.cast(column, pa.float64())
    found = np.array(column.to_numpy(zero_copy_only=False), dtype=float)
    ok = np.isfinite(found)
    return np.where(ok, found, np.nan), (ok | blank) if null else ok


def instants(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Seconds since 1970 of UTC instants, and whether each cell is one."""
    if pa.types.is_string(column.type):
        matches = pc.match_substring_regex(column, _INSTANT)
        bare = pc.replace_substring_regex(column, r"(\.0+)?(Z|[+-]00:?00)$", "")
        bare = pc.replace_substring_regex(bare, "T", " ")
        text = pc.if_else(matches, bare, pa.scalar(None, pa.string()))
        long, short = "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"
        column = pc.coalesce(*(pc.strptime(text, format=f, unit="s", error_is_null=True) for f in (long, short)))
        # strptime makes 2 March of 30 February: what does not read back as it was is no date.
        day = pc.equal(pc.strftime(column, format="%Y-%m-%d"), pc.utf8_slice_codeunits(text, 0, 10))
        column = pc.if_else(pc.fill_null(day, False), column, pa.scalar(None, column.type))
    ok = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    seconds = pc.cast(pc.cast(column, pa.timestamp("s", column.type.tz), safe=False), pa.int64())
    return np.asarray(pc.fill_null(seconds, 0).to_numpy(zero_copy_only=False), dtype=np.int64), ok


def assemble(source: str, batches: Iterable[Rows], told: list[str], now_s: float | None = None) -> MeterTable:
    """Rows of any order on one grid of intervals; `told` holds what the batches' readers said, `now_s` is as in
    `read_meter_data`.

    Raises:
        ConfigError: no rows, no common interval, or more than 1 % duplicates, of the future, or off the grid.
    """
    count, number = 0, dict[str, int]()
    parts: list[tuple[NDArray[np.int32], NDArray[np.int64], Reals]] = []
    for rows in batches:
        names, place = np.unique(rows.customer.astype(str), return_inverse=True)
        codes = np.array([number.setdefault(str(n), len(number)) for n in names], dtype=np.int32)
        parts.append((codes[place] if len(names) else np.zeros(0, dtype=np.int32), rows.start_s, rows.values))
        count += len(rows.start_s)
        if count > ROWS_MAX:
            raise ConfigError(source, [Fault("meter data", f"more than {ROWS_MAX} rows", f"at most {ROWS_MAX}")])
    if not any(len(p[1]) for p in parts):
        raise ConfigError(source, [Fault("meter data", "no rows", "recordings of at least a week")])
    code, start, values = (np.concatenate([p[k] for p in parts]) for k in range(3))
    parts.clear()  # rows are many: what was joined is not kept twice
    if len(number) > CUSTOMERS_MAX:
        raise ConfigError(source, [Fault("meter data", f"{len(number)} customers", f"at most {CUSTOMERS_MAX}")])
    called = list(number)
    bad = BadRows(Path(source), told=told)
    bad.rows = len(start)
    ahead = np.zeros(len(start), dtype=bool) if now_s is None else start > now_s + AHEAD_S_MAX
    if ahead.any():
        _name_ahead(bad, [called[c] for c in code[ahead][:NAMED_MAX]], start[ahead], now_s or 0.0)
        code, start, values = code[~ahead], start[~ahead], values[~ahead]
    interval = _interval(source, code, start)
    phases, often = np.unique(start % interval, return_counts=True)
    phase = int(phases[np.argmax(often)])  # what most rows keep: one stamp that is off condemns no other
    on_grid = start % interval == phase
    first = int(start[on_grid].min())
    slot = (start - first) // interval
    for k in np.flatnonzero(~on_grid)[:NAMED_MAX]:
        bad.add(0, f"{called[code[k]]} at {_stamp(start[k])}", f"every {interval} s, {phase} s past the full interval")
    bad.count += max(int((~on_grid).sum()) - NAMED_MAX, 0)
    wide = int(slot[on_grid].max()) + 1
    if wide * len(number) > CELLS_MAX:
        seen = f"{wide} intervals of {len(number)} customers"
        raise ConfigError(source, [Fault("meter data", seen, f"at most {CELLS_MAX} cells")])
    cell = code.astype(np.int64) * wide + slot
    if not on_grid.all():
        code, cell, values = code[on_grid], cell[on_grid], values[on_grid]
    del slot, start
    _, kept = np.unique(cell, return_index=True)
    again = np.ones(len(cell), dtype=bool)
    again[kept] = False
    doubled = np.flatnonzero(again)
    for k in doubled[:NAMED_MAX]:
        seen = f"{called[code[k]]} at {_stamp(first + interval * (int(cell[k]) % wide))} again"
        bad.add(0, seen, "each interval once; the first row counts")
    bad.count += max(len(doubled) - NAMED_MAX, 0)
    bad.judge()
    table = np.full((4, len(number) * wide), np.nan)
    for k, row in enumerate(table):
        row[cell[kept]] = values[kept, k]
    del values
    order = sorted(number, key=_natural)
    rows_of = [number[name] for name in order]
    import_wh, export_wh, pv_wh, u_mean_v = (t.reshape(len(number), wide)[rows_of] for t in table)
    starts = first + interval * np.arange(wide, dtype=np.int64)
    faults = _implausible(order, import_wh, export_wh, pv_wh, interval)
    if faults:
        raise ConfigError(source, faults)
    notes = (*told, *_gaps(order, import_wh, pv_wh))
    return MeterTable(source, tuple(order), starts, interval, import_wh, export_wh, pv_wh, u_mean_v, notes)


def _name_ahead(bad: BadRows, whose: list[str], start: NDArray[np.int64], now_s: float) -> None:
    # Rows of the future; alone they refuse the data, before anything is made of what is left.
    for name, at in zip(whose, start, strict=False):
        bad.add(0, f"{name} at {_stamp(at)}", f"at most a day after now, {_stamp(int(now_s))}")
    bad.count += max(len(start) - NAMED_MAX, 0)
    if bad.count > BAD_SHARE_MAX * bad.rows:
        bad.judge()


def _implausible(names: list[str], import_wh: Reals, export_wh: Reals, pv_wh: Reals, interval_s: int) -> list[Fault]:
    """Whole series that cannot be energies of intervals in Wh, though each of their rows could."""
    faults = []
    for column, values in (("import_wh", import_wh), ("export_wh", export_wh), ("pv_wh", pv_wh)):
        for name, own in zip(names, values, strict=True):
            steps = np.diff(own[np.isfinite(own)])
            rises, falls = int((steps > 0).sum()), int((steps < 0).sum())
            if rises >= RISES_MIN and falls * RISES_MIN <= rises:
                seen = f"{column} that rises {rises} times and falls {falls} times"
                faults.append(Fault(f"customer {name}", seen, "energy of each interval, not a register"))
    largest_w = float(np.nanmax(np.fmax(import_wh, export_wh), initial=0.0)) * 3600 / interval_s
    if np.isfinite(import_wh).any() and 0 < largest_w < LARGEST_W_MIN:
        seen = f"at most {largest_w:g} W of any customer in any interval"
        faults.append(Fault("import_wh", seen, f"more than {LARGEST_W_MIN:g} W once: Wh, not kWh"))
    return faults[:NAMED_MAX]


def _stamp(at_s: int) -> str:
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _natural(name: str) -> tuple[str, int, str]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0), name


def _interval(source: str, code: NDArray[np.int32], start: NDArray[np.int64]) -> int:
    order = np.lexsort((start, code))
    steps = np.diff(start[order])[np.diff(code[order]) == 0]
    steps = steps[steps > 0]
    if not len(steps):
        raise ConfigError(
            source, [Fault("meter data", "one interval of each customer", "recordings of at least a week")]
        )
    usual = Counter(steps.tolist()).most_common(1)[0][0]
    if usual not in INTERVALS_S:
        known = ", ".join(str(s) for s in INTERVALS_S)
        raise ConfigError(source, [Fault("interval", f"{usual} s between rows", f"one of {known} s")])
    return int(usual)


def _gaps(names: list[str], import_wh: Reals, pv_wh: Reals) -> list[str]:
    """One sentence for each customer with missing intervals, the worst first; at most ten and a count. Of who has PV
    and nothing else that is what may be missing."""
    unknown = np.isnan(import_wh)
    pv_alone = unknown.all(axis=1)
    unknown[pv_alone] = np.isnan(pv_wh[pv_alone])
    missing = unknown.sum(axis=1)
    order = np.argsort(-missing, kind="stable")
    found = [
        f"{names[k]}: {missing[k]} of {import_wh.shape[1]} intervals are missing and stay unknown"
        for k in order
        if missing[k]
    ]
    return found if len(found) <= 10 else [*found[:10], f"{len(found) - 10} more customers have gaps"]
