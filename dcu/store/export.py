"""Meter data for studies: a Parquet file for each day (UTC), in the layout that planning reads.

Columns: ``customer`` (text), ``start_utc`` (timestamp [ms, UTC], starts of quarter-hours), ``import_wh``,
``export_wh``, ``pv_wh`` [Wh], ``u_mean_v`` [V], the last four null where unknown. Every customer has all 96
quarter-hours of a day, ordered by customer and time; incomplete ones are null, never filled. ``pv_wh`` is always null:
nobody measures PV by itself.

`pyarrow` is not on a DCU; it comes with the extra ``planning`` and is imported here alone, in a process of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from dcu.store.database import StoreError, open_reader
from dcu.store.intervals import QUARTER_S
from dcu.store.schema import TELEMETRY

SCHEMA: Final = "headroom-meter-data/1"
DAY_S: Final = 86400
SALT: Final = "export-salt"
SALT_BYTES: Final = 32
PSEUDONYM_DIGITS: Final = 16
"""Hexadecimal; two of a million customers are confused with a probability of 3e-8."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is exported.

    Attributes:
        directory: of the store.
        dcu: whose data it is.
        meters: names of the customers.
        salted: whether names are replaced by salted hashes.
    """

    directory: Path
    dcu: str
    meters: Sequence[str]
    salted: bool


@dataclass(frozen=True, slots=True)
class Done:
    """What was written: files, and how many of their quarter-hours have energies."""

    files: tuple[Path, ...]
    rows: int
    complete: int

    def as_json(self) -> dict[str, Any]:
        """For a machine."""
        return {"files": [str(path) for path in self.files], "rows": self.rows, "complete": self.complete}

    def as_text(self) -> str:
        """For a person."""
        if not self.files:
            return "nothing to write: of the days asked for none is over (00:00 UTC), known here and not written yet"
        days = f"{len(self.files)} days, {self.files[0].name} to {self.files[-1].name}"
        return f"{days}; {self.complete} of {self.rows} quarter-hours complete"


@dataclass(frozen=True, slots=True)
class Row:
    """One quarter-hour of one customer."""

    customer: str
    start_s: int
    import_wh: float | None
    export_wh: float | None
    u_mean_v: float | None


def export(order: Order, first: date | None, last: date | None, out: Path) -> Done:
    """Write the days from ``first`` to ``last`` that are over and not in ``out`` yet.

    Raises:
        StoreError: no store there, no pyarrow, days that cannot be.
        OSError: ``out`` cannot be written.
    """
    if first is not None and last is not None and last < first:
        raise StoreError(f"--to {last}: expected a day from --from {first} on")
    _load_pyarrow()
    files, rows_count, complete = [], 0, 0
    with closing(open_reader(order.directory, TELEMETRY)) as reader:
        salt = _salt(order.directory) if order.salted else None
        for day_s in _days(reader, first, last):
            path = out / f"meter-data-{datetime.fromtimestamp(day_s, UTC):%Y-%m-%d}.parquet"
            if path.exists():
                continue
            rows = day(reader, order.meters, day_s, salt)
            out.mkdir(parents=True, exist_ok=True)
            _write(path, rows, order)
            files.append(path)
            rows_count += len(rows)
            complete += sum(row.import_wh is not None for row in rows)
    return Done(tuple(files), rows_count, complete)


def day(reader: sqlite3.Connection, meters: Sequence[str], day_s: int, salt: bytes | None) -> list[Row]:
    """All quarter-hours of the day from ``day_s`` [s, Unix], by customer and time."""
    found: dict[tuple[str, int], tuple[int | None, ...]] = {}
    columns = "name, start_s, import_dwh, export_dwh, u_mean"
    for name, start_s, *values in reader.execute(
        f"SELECT {columns} FROM quarters JOIN meters ON meter = number WHERE start_s >= ? AND start_s < ?",  # noqa: S608
        (day_s, day_s + DAY_S),
    ):
        found[name, start_s] = tuple(values)
    rows = []
    for customer, name in sorted((pseudonym(name, salt), name) for name in meters):
        for start_s in range(day_s, day_s + DAY_S, QUARTER_S):
            taken, given, volts = found.get((name, start_s), (None, None, None))
            rows.append(Row(customer, start_s, _over(taken, 10), _over(given, 10), _over(volts, 100)))
    return rows


def pseudonym(name: str, salt: bytes | None) -> str:
    """What a study calls a customer: the meter's name, or a hash that nobody without the salt can connect with it."""
    if salt is None:
        return name
    return hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_DIGITS]


def _over(value: int | None, divisor: int) -> float | None:
    return None if value is None else value / divisor


def _days(reader: sqlite3.Connection, first: date | None, last: date | None) -> range:
    """Starts [s, Unix] of the days that are over, and asked for."""
    oldest = reader.execute("SELECT min(start_s) FROM quarters").fetchone()[0]
    made = reader.execute("SELECT until_s FROM made WHERE what = 'quarters'").fetchone()
    if oldest is None or made is None:
        return range(0)
    begin_s = _start_s(first) if first is not None else oldest // DAY_S * DAY_S
    end_s = made[0] // DAY_S * DAY_S
    if last is not None:
        end_s = min(end_s, _start_s(last + timedelta(days=1)))
    return range(max(begin_s, oldest // DAY_S * DAY_S), end_s, DAY_S)


def _start_s(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _salt(directory: Path) -> bytes:
    """The salt of this store; made once. Deleting the file cuts the connection between names and hashes for good."""
    path = directory / SALT
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(SALT_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise StoreError(f"{path}: no salt of {SALT_BYTES} bytes; remove it to get a new one, and new names")
    return salt


def _load_pyarrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415  # 90 MB that no daemon loads
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise StoreError("pyarrow is missing; install it with: pip install headroom[planning]") from error
    return pyarrow


def _write(path: Path, rows: Sequence[Row], order: Order) -> None:
    """A file that appears whole or not at all."""
    pa = _load_pyarrow()
    about = {"schema": SCHEMA, "dcu": order.dcu, "interval_s": QUARTER_S, "ids": "salted" if order.salted else "plain"}
    fields = {
        "customer": (pa.string(), [row.customer for row in rows]),
        "start_utc": (pa.timestamp("ms", tz="UTC"), [1000 * row.start_s for row in rows]),
        "import_wh": (pa.float64(), [row.import_wh for row in rows]),
        "export_wh": (pa.float64(), [row.export_wh for row in rows]),
        "pv_wh": (pa.float64(), [None] * len(rows)),
        "u_mean_v": (pa.float64(), [row.u_mean_v for row in rows]),
    }
    schema = pa.schema([(name, kind) for name, (kind, _) in fields.items()], metadata={"headroom": json.dumps(about)})
    arrays = [pa.array(values, kind) for kind, values in fields.values()]
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        pa.parquet.write_table(pa.table(arrays, schema=schema), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())  # a name over nothing would be a day that is there already
    fresh.replace(path)
