"""Meter data as local days of powers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from dcu.planning.meter_data import MeterTable
from shared.errors import ConfigError, Fault

Reals = NDArray[np.float64]
DAY_S: Final = 86_400
DAYS_MIN: Final = 7
"""Less than a week holds no weekend or no working day."""
DAYS_ENOUGH: Final = 90
"""With less a study says so: a season is missing."""
CLOCK_CHANGE_S: Final = 3_600
"""What a week of a local clock lacks in spring."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Recorded powers on a grid of local days.

    `load_w` (n_customer, n_day, n_slot) [W] what each draws without its PV, `pv_w` (n_unit, n_day, n_slot) [W] what
    each PV unit gives whose generation is known; NaN where nothing was recorded. `day` (n_day) counted from 1970,
    `month` 1..12 and `weekday` 0..6 (n_day).
    """

    customers: tuple[str, ...]
    pv_customers: tuple[str, ...]
    load_w: Reals
    pv_w: Reals
    day: NDArray[np.int64]
    month: NDArray[np.int64]
    weekday: NDArray[np.int64]
    interval_s: int

    @property
    def slots(self) -> int:
        """Intervals of a day."""
        return int(self.load_w.shape[2])

    @property
    def days(self) -> int:
        """Days recorded."""
        return int(self.load_w.shape[1])

    def only(self, days: NDArray[np.bool_] | slice) -> History:
        """Some of the days."""
        return History(
            self.customers,
            self.pv_customers,
            self.load_w[:, days],
            self.pv_w[:, days],
            self.day[days],
            self.month[days],
            self.weekday[days],
            self.interval_s,
        )


def too_short(where: str, recorded: NDArray[np.bool_], interval_s: int) -> list[Fault]:
    """A fault if what was recorded is less than a week, a local week in spring included.

    Args:
        where: what the fault is about.
        recorded: whether each interval was (n_interval).
        interval_s: its length [s].
    """
    whole_s = int(recorded.sum()) * interval_s
    if whole_s >= DAYS_MIN * DAY_S - CLOCK_CHANGE_S:
        return []
    return [Fault(where, f"recordings of {whole_s / DAY_S:.3g} days", f"at least {DAYS_MIN} days")]


def history(table: MeterTable, timezone: str) -> History:
    """Meter data as local days of powers; an hour that a clock change repeats is averaged, one it skips stays empty.

    Raises:
        ConfigError: less than a week, or an interval that does not divide a day.
    """
    with_pv = np.flatnonzero(np.isfinite(table.pv_wh).any(axis=1))
    pv = table.pv_wh[with_pv]
    # Where a customer's PV is measured, an interval in which it was not leaves the load unknown too: zero would be a
    # guess, and at noon one that turns all of the PV into negative load.
    load = table.import_wh - table.export_wh
    load[with_pv] += pv
    names = table.customers, tuple(table.customers[k] for k in with_pv)
    return _on_days(table, timezone, names, load, pv, of_load=True)


def generation(table: MeterTable, timezone: str) -> History:
    """The same of PV units alone, whatever else their meters recorded: no customers, days with generation.

    Raises:
        ConfigError: as `history`.
    """
    with_pv = np.flatnonzero(np.isfinite(table.pv_wh).any(axis=1))
    names = (), tuple(table.customers[k] for k in with_pv)
    return _on_days(table, timezone, names, np.zeros((0, len(table.start_s))), table.pv_wh[with_pv], of_load=False)


def _on_days(
    table: MeterTable,
    timezone: str,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    load: Reals,
    pv: Reals,
    *,
    of_load: bool,
) -> History:
    if DAY_S % table.interval_s:
        raise ConfigError(table.source, [Fault("interval", f"{table.interval_s} s", "one that divides a day")])
    if faults := too_short("days", np.atleast_1d(np.isfinite(load if of_load else pv).any(axis=0)), table.interval_s):
        raise ConfigError(table.source, faults)
    slots = DAY_S // table.interval_s
    local = _local_s(table.start_s, timezone)
    day, slot = local // DAY_S, (local % DAY_S) // table.interval_s
    first = int(day.min())
    n_day = int(day.max()) - first + 1
    cell = (day - first) * slots + slot
    hours = table.interval_s / 3600
    load_w, pv_w = (_gathered(e, cell, n_day * slots).reshape(len(e), n_day, slots) / hours for e in (load, pv))
    dates = [datetime.fromtimestamp((first + k) * DAY_S, UTC) for k in range(n_day)]
    found = History(
        *names,
        load_w,
        pv_w,
        first + np.arange(n_day),
        np.array([d.month for d in dates]),
        np.array([d.weekday() for d in dates]),
        table.interval_s,
    )
    recorded = np.asarray(np.isfinite(load_w if of_load else pv_w).any(axis=(0, 2)))
    return found.only(recorded)


def _local_s(start_s: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """Seconds of the local clock; the offset of a zone changes on full quarter-hours only."""
    if timezone == "UTC":
        return start_s
    zone = ZoneInfo(timezone)
    hours, place = np.unique(start_s // 900, return_inverse=True)
    offsets = [datetime.fromtimestamp(int(h) * 900, zone).utcoffset() for h in hours]
    return np.asarray(start_s + np.array([int(o.total_seconds()) if o else 0 for o in offsets])[place])


def _gathered(values: Reals, cell: NDArray[np.int64], cells: int) -> Reals:
    found = np.full((len(values), cells), np.nan)
    for row, own in zip(found, values, strict=True):
        ok = np.isfinite(own)
        count = np.bincount(cell[ok], minlength=cells)
        total = np.bincount(cell[ok], weights=own[ok], minlength=cells)
        row[count > 0] = total[count > 0] / count[count > 0]
    return found
