"""What customers and PV do in a quarter of an hour, as recorded: quantile functions and whole days.

Klonari, Toubeau, Lobry, Vallée (SMARTGREENS 2016): for every customer and every quarter-hour of the day the recorded
energies, sorted, are a quantile function; a state takes from each the value at a random probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dcu.planning.history import History, Reals
from dcu.planning.reference import HOURS_A_YEAR, Reference, mean_w
from shared.errors import ConfigError, Fault

Pool = Literal["year", "month", "season_daytype"]
SEASONS: Final = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0)
"""Meteorological season of each month: winter, spring, summer, autumn."""


def pool_of_days(past: History, pool: Pool) -> NDArray[np.int64]:
    """The class of each recorded day (n_day): 0, the month, or a number of season and kind of day."""
    if pool == "year":
        return np.zeros(past.days, dtype=np.int64)
    if pool == "month":
        return past.month
    kind = np.where(past.weekday < 5, 0, past.weekday - 4)
    return np.asarray(np.array(SEASONS)[past.month - 1] * 3 + kind, dtype=np.int64)


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

    `reference` is the PV of a unit of 1 W rating [W/W], the pool of all units of a `Reference`. `load_days`, `pv_days`,
    `reference_days` hold whole recorded days for the correlated modes, the last NaN on days that no unit recorded.
    """

    customers: tuple[str, ...]
    pv_customers: tuple[str, ...]
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


def profiles(past: History, pool: Pool, reference: Reference, source: str) -> Profiles:
    """Quantile functions of a history.

    Args:
        past: recorded days.
        pool: which days share a quantile function.
        reference: what new units give.
        source: names the data in faults.

    Raises:
        ConfigError: a constant series, or an interval without data.
    """
    faults = []
    for name, own in zip(past.customers, past.load_w, strict=True):
        if np.nanmax(own) == np.nanmin(own):
            faults.append(Fault(f"customer {name}", f"a constant {np.nanmax(own):g} W", "a load that varies"))
    for name, own in zip(past.pv_customers, past.pv_w, strict=True):
        if not np.nanmax(own) > 0:
            faults.append(Fault(f"customer {name}", "a PV unit that never gave power", "recorded generation"))
    if faults:
        raise ConfigError(source, faults)
    units = reference.during(past)
    classes, kind = np.unique(pool_of_days(past, pool), return_inverse=True)
    pv_mean_w = mean_w(past.pv_w)
    return Profiles(
        past.customers,
        past.pv_customers,
        kind,
        np.bincount(kind) / len(kind),
        quantiles(past.load_w, kind, past.customers, source),
        quantiles(past.pv_w, kind, past.pv_customers, source),
        _pooled(units, pool, classes, source),
        past.load_w,
        past.pv_w,
        units.on_days_of(past)[None],
        past.interval_s,
        past.days,
        mean_w(past.load_w) * HOURS_A_YEAR,
        pv_mean_w * HOURS_A_YEAR,
    )


def _pooled(units: Reference, pool: Pool, classes: NDArray[np.int64], source: str) -> Quantiles:
    """One quantile function of all units together, for the classes of days that the loads have."""
    own = pool_of_days(units.units, pool)
    missing = np.setdiff1d(classes, own)
    if len(missing):
        seen = f"no day of class {missing[0]} of the pool {pool}"
        raise ConfigError(source, [Fault("reference", seen, "recordings of every class that the loads have")])
    known = np.isin(own, classes)
    normalised = units.per_w()[:, known]
    stacked = normalised.reshape(1, -1, normalised.shape[2])
    kind = np.tile(np.searchsorted(classes, own[known]), len(normalised))
    return quantiles(stacked, kind, ("of the reference unit",), source)
