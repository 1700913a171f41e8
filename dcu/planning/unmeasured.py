"""PV whose generation nobody measures: estimated, taken with the load, or left out, as the study says.

A DCU measures what a customer draws and feeds in, and not what the roof gives. `estimated` takes the reference unit's
power in the same interval times the declared rating, and at least what the customer fed in, which it must have
generated; the load is what it drew, less what it fed in, plus that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.planning.feeder_case import Existing, Generation
from dcu.planning.history import DAYS_MIN
from dcu.planning.meter_data import MeterTable
from dcu.planning.reference import Reference, rating_faults
from shared.errors import ConfigError, Fault

DAY_S: Final = 86_400


def settled(
    table: MeterTable, existing: tuple[Existing, ...], reference: Reference, recordings: MeterTable
) -> tuple[MeterTable, tuple[str, ...]]:
    """Meter data in which every PV unit's generation is known or declared unknown, and sentences about the latter.

    Args:
        table: as it was read.
        existing: the units of the study.
        reference: what new units give.
        recordings: the table that the reference was made from.

    Raises:
        ConfigError: a customer feeds in, its PV is not measured and nobody says what to make of it; recordings that
            cannot be of a unit of the declared rating; or a reference without a week of intervals in common with the
            data, where one is needed.
    """
    faults = _faults(table, existing)
    if faults:
        raise ConfigError(table.source, faults)
    told = []
    pv = table.pv_wh.copy()
    for e in existing:
        if e.generation is Generation.ESTIMATED:
            k = table.customers.index(e.customer)
            pv[k], sentence = _estimated(table, k, e, reference, recordings)
            told.append(sentence)
        elif e.generation is Generation.NET:
            told.append(
                f"{e.customer}: generation unknown, what it draws and feeds in together counts as load and is drawn "
                "by itself, not with the sun of other units"
            )
        elif e.generation is Generation.EXCLUDED:
            told.append(f"{e.customer}: left out with load and PV; capacities are without what it feeds in")
    left_out = {e.customer for e in existing if e.generation is Generation.EXCLUDED}
    kept = np.array([name not in left_out for name in table.customers])
    return _only(replace(table, pv_wh=pv), kept), tuple(told)


def exporters(table: MeterTable) -> tuple[str, ...]:
    """Customers that fed in and whose PV is not measured."""
    gave = np.nan_to_num(table.export_wh).sum(axis=1) > 0
    unknown = gave & ~np.isfinite(table.pv_wh).any(axis=1)
    return tuple(name for name, one in zip(table.customers, unknown.tolist(), strict=True) if one)


def _faults(table: MeterTable, existing: tuple[Existing, ...]) -> list[Fault]:
    declared = {e.customer: e.generation for e in existing}
    choices = 'existing with generation = "estimated", "net" or "excluded"'
    faults = [
        Fault(f"customer {name}", "an export, and no measured PV", choices)
        for name in exporters(table)
        if declared.get(name, Generation.MEASURED) is Generation.MEASURED
    ]
    there = {name: bool(np.isfinite(own).any()) for name, own in zip(table.customers, table.pv_wh, strict=True)}
    for e in existing:
        if e.generation in (Generation.ESTIMATED, Generation.NET):
            if e.customer not in there:
                faults.append(Fault(f"existing {e.customer}", "no meter data", "recordings, or another generation"))
            elif there[e.customer]:
                faults.append(Fault(f"existing {e.customer}", f"{e.generation}, with measured PV", '"measured"'))
    measured = {e.customer: e.rated_w for e in existing if e.generation is Generation.MEASURED}
    return faults + rating_faults(table, measured)


def _estimated(
    table: MeterTable, k: int, unit: Existing, reference: Reference, recordings: MeterTable
) -> tuple[NDArray[np.float64], str]:
    """Generation of customer `k` [Wh] (n_interval), and what is to be said of it."""
    by_sun = reference.at(recordings, table) * unit.rated_w * table.interval_s / 3600
    given = table.export_wh[k]
    known = np.isfinite(by_sun) & np.isfinite(given)
    if known.sum() * table.interval_s < DAYS_MIN * DAY_S:
        seen = f"{int(known.sum())} intervals in common with {reference.customer}"
        raise ConfigError(
            table.source, [Fault(f"existing {unit.customer}, estimated", seen, f"at least {DAYS_MIN} days of them")]
        )
    more = known & (given > np.nan_to_num(by_sun))
    share = float(more.sum() / max(int((known & (given > 0)).sum()), 1))
    sentence = (
        f"{unit.customer}: generation estimated from {reference.customer} at {unit.rated_w:g} W; in {share:.0%} of the "
        "intervals with export it fed in more than that, and is taken to have generated so much"
    )
    return np.where(known, np.maximum(np.nan_to_num(by_sun), np.nan_to_num(given)), np.nan), sentence


def _only(table: MeterTable, kept: NDArray[np.bool_]) -> MeterTable:
    names = tuple(name for name, one in zip(table.customers, kept, strict=True) if one)
    return replace(
        table,
        customers=names,
        import_wh=table.import_wh[kept],
        export_wh=table.export_wh[kept],
        pv_wh=table.pv_wh[kept],
        u_mean_v=table.u_mean_v[kept],
    )
