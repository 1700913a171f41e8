"""What customers and PV do in a quarter of an hour, as recorded: quantile functions and whole days.

Klonari, Toubeau, Lobry, Vallée (SMARTGREENS 2016): for every customer and every quarter-hour of the day the recorded
energies, sorted, are a quantile function; a state takes from each the value at a random probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from dcu.planning.meter_data import MeterTable
from shared.errors import ConfigError, Fault

Pool = Literal["year", "month", "season_daytype"]
Reals = NDArray[np.float64]
DAY_S: Final = 86_400
HOURS_A_YEAR: Final = 8_760.0
DAYS_MIN: Final = 7
"""Less than a week holds no weekend or no working day."""
DAYS_ENOUGH: Final = 90
"""With less a study says so: a season is missing."""
SEASONS: Final = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0)
"""Meteorological season of each month: winter, spring, summer, autumn."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Recorded powers on a grid of local days.

    `load_w` (n_customer, n_day, n_slot) [W] what each draws without its PV, `pv_w` (n_unit, n_day, n_slot) [W] what
    each measured PV unit gives; NaN where nothing was recorded. `month` 1..12 and `weekday` 0..6 (n_day).
    """

    customers: tuple[str, ...]
    pv_customers: tuple[str, ...]
    load_w: Reals
    pv_w: Reals
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
            self.month[days],
            self.weekday[days],
            self.interval_s,
        )


def history(table: MeterTable, timezone: str) -> History:
    """Meter data as local days of powers; an hour that a clock change repeats is averaged, one it skips stays empty.

    Raises:
        ConfigError: less than a week, or an interval that does not divide a day.
    """
    if DAY_S % table.interval_s:
        raise ConfigError(table.source, [Fault("interval", f"{table.interval_s} s", "one that divides a day")])
    slots = DAY_S // table.interval_s
    local = _local_s(table.start_s, timezone)
    day, slot = local // DAY_S, (local % DAY_S) // table.interval_s
    first = int(day.min())
    n_day = int(day.max()) - first + 1
    cell = (day - first) * slots + slot
    with_pv = np.flatnonzero(np.isfinite(table.pv_wh).any(axis=1))
    pv = table.pv_wh[with_pv]
    # Where a customer's PV is measured, an interval in which it was not leaves the load unknown too: zero would be a
    # guess, and at noon one that turns all of the PV into negative load.
    load = table.import_wh - table.export_wh
    load[with_pv] += pv
    hours = table.interval_s / 3600
    shape = (-1, n_day, slots)
    load_w = _gathered(load, cell, n_day * slots).reshape(shape) / hours
    pv_w = _gathered(pv, cell, n_day * slots).reshape(shape) / hours
    dates = [datetime.fromtimestamp((first + k) * DAY_S, UTC) for k in range(n_day)]
    found = History(
        table.customers,
        tuple(table.customers[k] for k in with_pv),
        load_w,
        pv_w,
        np.array([d.month for d in dates]),
        np.array([d.weekday() for d in dates]),
        table.interval_s,
    )
    recorded = np.asarray(np.isfinite(load_w).any(axis=(0, 2)))
    if recorded.sum() < DAYS_MIN:
        raise ConfigError(table.source, [Fault("days", f"{int(recorded.sum())} days", f"at least {DAYS_MIN}")])
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


def pool_of_days(past: History, pool: Pool) -> NDArray[np.int64]:
    """The class of each recorded day (n_day), counted from 0 without gaps."""
    if pool == "year":
        raw = np.zeros(past.days, dtype=np.int64)
    elif pool == "month":
        raw = past.month
    else:
        kind = np.where(past.weekday < 5, 0, past.weekday - 4)
        raw = np.array(SEASONS)[past.month - 1] * 3 + kind
    return np.asarray(np.unique(raw, return_inverse=True)[1], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """Sorted recordings: `values` (n_class, n_slot, n_series, n_max) padded with the largest, `counts` without pads."""

    values: Reals
    counts: NDArray[np.int64]

    def at(self, kind: NDArray[np.int64], slot: NDArray[np.int64], y: Reals) -> Reals:
        """Value at probability `y` (n_state, n_series): order statistic `ceil(y N)`."""
        counts = self.counts[kind, slot]
        place = np.minimum((y * counts).astype(np.int64), counts - 1)
        _, n_slot, n_series, n_max = self.values.shape
        base = ((kind * n_slot + slot) * n_series)[:, None] + np.arange(n_series)
        return np.asarray(self.values.reshape(-1)[base * n_max + place])


def quantiles(series: Reals, kind: NDArray[np.int64], names: tuple[str, ...], source: str) -> Quantiles:
    """Quantile functions of `series` (n_series, n_day, n_slot), one for each class of days and slot.

    Raises:
        ConfigError: a series without a recording in some class and slot.
    """
    classes = int(kind.max()) + 1
    n_series, _, n_slot = series.shape
    most = int(np.bincount(kind).max())
    values = np.full((classes, n_slot, n_series, most), np.nan)
    for c in range(classes):
        own = series[:, kind == c]
        values[c, :, :, : own.shape[1]] = np.sort(own, axis=1).transpose(2, 0, 1)
    counts = np.isfinite(values).sum(axis=3)
    if (counts == 0).any():
        c, q, k = (int(x) for x in np.argwhere(counts == 0)[0])
        seen = f"no recording in interval {q} of a day" + (f" of class {c}" if classes > 1 else "")
        raise ConfigError(source, [Fault(f"customer {names[k]}", seen, "at least one")])
    largest = np.take_along_axis(values, counts[..., None] - 1, axis=3)
    return Quantiles(np.where(np.isfinite(values), values, largest), counts)


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Everything a draw needs, for one feeder.

    `reference` is the PV of a unit of 1 W rating [W/W]: the pooled yearly-normalised recordings of all units (eq. 2 of
    the paper) times the full-load hours of the reference unit. `load_days`, `pv_days`, `reference_days` hold whole
    recorded days for the correlated modes.
    """

    customers: tuple[str, ...]
    pv_customers: tuple[str, ...]
    reference_customer: str
    reference_rated_w: float
    kind: NDArray[np.int64]
    weights: Reals
    load: Quantiles
    pv: Quantiles
    reference: Quantiles
    load_days: Reals
    pv_days: Reals
    reference_days: Reals
    interval_s: int
    days: int
    energy_wh: Reals
    """Recorded load of each customer, scaled to a year [Wh] (n_customer)."""
    pv_energy_wh: Reals
    """The same of each PV unit [Wh] (n_unit)."""

    @property
    def slots(self) -> int:
        """Intervals of a day."""
        return int(self.load_days.shape[2])


def profiles(past: History, pool: Pool, reference: str, reference_rated_w: float, source: str) -> Profiles:
    """Quantile functions of a history.

    Args:
        past: recorded days.
        pool: which days share a quantile function.
        reference: the PV customer whose yield new units have.
        reference_rated_w: rating of that unit [W].
        source: names the data in faults.

    Raises:
        ConfigError: no PV recorded, a constant series, or an interval without data.
    """
    faults = []
    if reference not in past.pv_customers:
        names = ", ".join(past.pv_customers) or "none"
        faults.append(Fault("reference.customer", repr(reference), f"one with measured PV: {names}"))
    for name, own in zip(past.customers, past.load_w, strict=True):
        if np.nanmax(own) == np.nanmin(own):
            faults.append(Fault(f"customer {name}", f"a constant {np.nanmax(own):g} W", "a load that varies"))
    for name, own in zip(past.pv_customers, past.pv_w, strict=True):
        if not np.nanmax(own) > 0:
            faults.append(Fault(f"customer {name}", "a PV unit that never gave power", "recorded generation"))
    if faults:
        raise ConfigError(source, faults)
    kind = pool_of_days(past, pool)
    pv_mean_w = _mean_w(past.pv_w)
    own = past.pv_customers.index(reference)
    normalised = past.pv_w / pv_mean_w[:, None, None] * (pv_mean_w[own] / reference_rated_w)
    pooled = _pooled(normalised, kind, source)
    with np.errstate(all="ignore"):
        days = normalised.mean(axis=0)[None]
    return Profiles(
        past.customers,
        past.pv_customers,
        reference,
        reference_rated_w,
        kind,
        np.bincount(kind) / len(kind),
        quantiles(past.load_w, kind, past.customers, source),
        quantiles(past.pv_w, kind, past.pv_customers, source),
        pooled,
        past.load_w,
        past.pv_w,
        days,
        past.interval_s,
        past.days,
        _mean_w(past.load_w) * HOURS_A_YEAR,
        pv_mean_w * HOURS_A_YEAR,
    )


def _mean_w(power_w: Reals) -> Reals:
    """Mean power of each series (n_series, n_day, n_slot) [W]: every interval of the day counts the same however often
    it was recorded, so that a gap makes no unit look smaller."""
    recorded = np.isfinite(power_w)
    total = np.where(recorded, power_w, 0.0).sum(axis=1)
    count = recorded.sum(axis=1)
    by_slot = total / np.maximum(count, 1)
    return np.asarray(by_slot.sum(axis=1) / np.maximum((count > 0).sum(axis=1), 1))


def _pooled(normalised: Reals, kind: NDArray[np.int64], source: str) -> Quantiles:
    """One quantile function of all units together."""
    units, _, slots = normalised.shape
    stacked = normalised.reshape(1, -1, slots)
    return quantiles(stacked, np.tile(kind, units), ("of the reference unit",), source)
