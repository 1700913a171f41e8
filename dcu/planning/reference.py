"""What a PV unit of 1 W gives: recordings of one unit or more, on the feeder itself or elsewhere.

Klonari, Toubeau, Lobry, Vallée (SMARTGREENS 2016), eq. 2: each unit's recordings are divided by its energy and pooled;
a new unit follows the pool, scaled to the full-load hours of the reference unit. A DCU meters connection points and no
PV by itself; with its data the reference comes from a unit that somebody else measures, and the generation of a
customer's unit may be estimated from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dcu.planning.history import History, Reals, generation, too_short
from dcu.planning.meter_data import MeterTable
from shared.errors import ConfigError, Fault

HOURS_A_YEAR: Final = 8_760.0
PEAK_SHARE: Final = (0.1, 1.5)
"""Largest recorded power over the rating: a dark week stays above, modules larger than their inverter below; W or kWh
that are taken for Wh do not."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Recordings of PV units; `customer` is the one whose yield new units have, `rated_w` its rating [W]. `units` has
    their days; `elsewhere` if they stand on another feeder and have days of their own."""

    customer: str
    rated_w: float
    units: History
    elsewhere: bool

    def during(self, past: History) -> Reference:
        """What was known when only the days of `past` were; units elsewhere keep theirs."""
        if self.elsewhere:
            return self
        return replace(self, units=self.units.only(np.isin(self.units.day, past.day)))

    def of_month(self, month: int) -> Reference:
        """Days of one month, 1..12."""
        return replace(self, units=self.units.only(self.units.month == month))

    def per_w(self) -> Reals:
        """Power of a unit of 1 W after each unit's recordings [W/W] (n_unit, n_day, n_slot)."""
        means, scale = self._scaling()
        return np.asarray(self.units.pv_w / means[:, None, None] * scale)

    def on_days_of(self, past: History) -> Reals:
        """Mean of `per_w` over the units on the days of `past` [W/W] (n_day, n_slot); NaN where one was not
        recorded."""
        found = np.full((past.days, past.slots), np.nan)
        _, there, here = np.intersect1d(past.day, self.units.day, return_indices=True)
        found[there] = self.per_w()[:, here].mean(axis=0)
        return found

    def yield_wh(self) -> float:
        """Energy a year of a unit of 1 W [Wh/W], as far as the recorded days say."""
        return float(self._scaling()[1] * HOURS_A_YEAR)

    def at(self, recordings: MeterTable, wanted: MeterTable) -> Reals:
        """Power of a unit of 1 W in the intervals of `wanted`, recorded in the very same ones [W/W] (n_interval).

        Args:
            recordings: the table that this reference was made from.
            wanted: another one.

        Raises:
            ConfigError: intervals of another length.
        """
        if recordings.interval_s != wanted.interval_s:
            seen = f"intervals of {recordings.interval_s} s"
            raise ConfigError(recordings.source, [Fault("reference", seen, f"{wanted.interval_s} s as the meter data")])
        rows = [recordings.customers.index(name) for name in self.units.pv_customers]
        hours = recordings.interval_s / 3600
        means, scale = self._scaling()
        power = (recordings.pv_wh[rows] / hours / means[:, None] * scale).mean(axis=0)
        found = np.full(len(wanted.start_s), np.nan)
        _, here, there = np.intersect1d(recordings.start_s, wanted.start_s, return_indices=True)
        found[there] = power[here]
        return found

    def _scaling(self) -> tuple[Reals, float]:
        """Mean power of each unit [W] (n_unit), and that of the reference unit over its rating [W/W]."""
        means = mean_w(self.units.pv_w)
        return means, float(means[self.units.pv_customers.index(self.customer)] / self.rated_w)


def mean_w(power_w: Reals) -> Reals:
    """Mean power of each series (n_series, n_day, n_slot) [W]: every interval of the day counts the same however often
    it was recorded, so that a gap makes no unit look smaller."""
    recorded = np.isfinite(power_w)
    total = np.where(recorded, power_w, 0.0).sum(axis=1)
    count = recorded.sum(axis=1)
    by_slot = total / np.maximum(count, 1)
    return np.asarray(by_slot.sum(axis=1) / np.maximum((count > 0).sum(axis=1), 1))


def rating_faults(table: MeterTable, rated_w: dict[str, float]) -> list[Fault]:
    """Units whose recordings cannot be Wh of a unit of that rating.

    Args:
        table: recordings; a unit without measured PV in it is not judged.
        rated_w: rating of each unit [W], by customer.
    """
    low, high = PEAK_SHARE
    faults = []
    for name, own in zip(table.customers, table.pv_wh, strict=True):
        if name not in rated_w or not np.isfinite(own).any():
            continue
        peak_w, rated = float(np.nanmax(own)) * 3600 / table.interval_s, rated_w[name]
        if not low * rated <= peak_w <= high * rated:
            seen = f"a largest pv_wh of {peak_w:g} W, {peak_w / rated:.3g} times its rated {rated:g} W"
            expected = f"{low:g} .. {high:g} times: Wh of each interval, neither W nor kWh, and the unit's own rating"
            faults.append(Fault(f"customer {name}", seen, expected))
    return faults


def reference(recordings: MeterTable, customer: str, rated_w: float, timezone: str, *, elsewhere: bool) -> Reference:
    """The reference of a study.

    Args:
        recordings: of the units; those of customers without measured PV do not matter.
        customer: the unit whose yield new units have.
        rated_w: its rating [W].
        timezone: the local clock that quarter-hours are counted by.
        elsewhere: whether the units stand on another feeder than the study's.

    Raises:
        ConfigError: no such unit, one that never gave power or cannot be of that rating, or less than a week.
    """
    units = tuple(
        name for name, own in zip(recordings.customers, recordings.pv_wh, strict=True) if np.isfinite(own).any()
    )
    if customer not in units:
        expected = f"one with measured PV: {', '.join(units) or 'none'}"
        raise ConfigError(recordings.source, [Fault("reference.customer", repr(customer), expected)])
    found = generation(recordings, timezone)
    dark = [name for name, power in zip(units, found.pv_w, strict=True) if not np.nanmax(power) > 0]
    if dark:
        faults = [Fault(f"customer {name}", "a PV unit that never gave power", "recorded generation") for name in dark]
        raise ConfigError(recordings.source, faults)
    own = np.isfinite(recordings.pv_wh[recordings.customers.index(customer)])
    faults = too_short(f"customer {customer}, generation", own, recordings.interval_s)
    faults += rating_faults(recordings, {customer: rated_w})
    if faults:
        raise ConfigError(recordings.source, faults)
    return Reference(customer, rated_w, found, elsewhere)
