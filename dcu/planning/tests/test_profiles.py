"""Quantile functions and draws: what is drawn is what was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.planning.draws import Sampling, draw, stream
from dcu.planning.evaluate import lit
from dcu.planning.history import history
from dcu.planning.meter_data import MeterTable
from dcu.planning.profiles import Profiles, pool_of_days, profiles, quantiles
from dcu.planning.reference import reference
from dcu.planning.tests.stand_in import read
from shared.errors import ConfigError


def _table(load: np.ndarray, start_s: int = 1_356_998_400, interval_s: int = 900) -> MeterTable:
    """Customers a, b, ... that draw `load` (n_customer, n_interval) [Wh]; the last one has PV."""
    count, wide = load.shape
    pv = np.full(load.shape, np.nan)
    pv[-1] = np.tile(np.maximum(0, np.sin(np.linspace(0, 2 * np.pi, 96))), wide // 96 + 1)[:wide] * 100
    names = tuple("abcdefgh"[:count])
    starts = start_s + interval_s * np.arange(wide)
    exported = np.maximum(np.nan_to_num(pv) - load, 0)
    imported = load - np.nan_to_num(pv) + exported
    return MeterTable("made up", names, starts, interval_s, imported, exported, pv, np.full(load.shape, np.nan))


def _profiles(table: MeterTable) -> Profiles:
    """Of a table whose customer b has a PV unit of 1 kW, the reference."""
    own = reference(table, "b", 1000.0, "UTC", elsewhere=False)
    return profiles(history(table, "UTC"), "year", own, "made up")


def test_order_statistics_are_the_published_quantile_function() -> None:
    """F^-1(y) is the ceil(y N)-th of the sorted recordings, also at both ends."""
    series = np.array([[[30.0], [10.0], [20.0], [40.0]]])
    q = quantiles(series, np.zeros(4, dtype=np.int64), ("a",), "made up")
    y = np.array([[0.0], [0.24], [0.26], [0.5], [0.76], [1 - 1e-16]])
    zero = np.zeros(len(y), dtype=np.int64)
    assert q.at(zero, zero, y)[:, 0].tolist() == [10.0, 10.0, 20.0, 30.0, 40.0, 40.0]


def test_draws_have_the_mean_and_the_quantile_of_the_recordings() -> None:
    """The mean of every customer within 1 %, the 95 % quantile of every quarter-hour within 2 % of its scale."""
    some = read()
    known = some.inputs.profiles
    d = draw(known, Sampling(), stream(5, "test"), 2000)
    recorded = np.nanmean(known.load_days, axis=(1, 2))
    assert np.abs(d.load_w.mean(axis=0) / recorded - 1).max() < 0.01
    own = d.load_w.reshape(2000, 96, -1)
    drawn_q = np.quantile(own, 0.95, axis=0).T
    recorded_q = np.quantile(known.load_days, 0.95, axis=1)
    scale = recorded_q.mean(axis=1)[:, None]
    assert np.median(np.abs(drawn_q - recorded_q) / scale) < 0.02


def test_all_pv_units_share_one_probability() -> None:
    """The four units are fully correlated in the recordings, so one probability gives them equal shares."""
    some = read()
    d = draw(some.inputs.profiles, Sampling(), stream(5, "test"), 20)
    rated = np.array([5000.0, 10_000.0, 2630.0, 5000.0])
    share = d.pv_w / rated
    sunny = share.max(axis=1) > 0.2
    assert sunny.sum() > 100
    assert np.abs(share[sunny] - share[sunny].mean(axis=1, keepdims=True)).max() < 0.02
    assert np.abs(d.per_w[sunny] - share[sunny].mean(axis=1)).max() < 0.03


def test_a_day_scope_draws_one_probability_a_day() -> None:
    """Where the PV of the whole day follows one probability, days keep their order in every quarter-hour."""
    known = read().inputs.profiles
    d = draw(known, Sampling("independent", "day"), stream(5, "test"), 30)
    by_day = d.per_w.reshape(30, 96)
    assert (np.argsort(by_day[:, 48], kind="stable") == np.argsort(by_day[:, 50], kind="stable")).mean() > 0.9


def test_streams_depend_on_names_alone() -> None:
    """The same names give the same numbers, other names others; no order of work changes a block."""
    a, b = stream(1, "states", 3).random(4), stream(1, "states", 3).random(4)
    assert (a == b).all()
    others = [stream(2, "states", 3), stream(1, "states", 4), stream(1, "places", 3)]
    assert not any((a == other.random(4)).any() for other in others)


@pytest.mark.parametrize("loads", ["own_days", "common_days"])
def test_correlated_modes_take_whole_recorded_days(loads: str) -> None:
    """Every drawn day of a customer is one of its recorded days, quarter-hour by quarter-hour."""
    known = read().inputs.profiles
    d = draw(known, Sampling(loads, "day"), stream(5, "test"), 6)  # type: ignore[arg-type]
    drawn = d.load_w.reshape(6, 96, -1)
    for customer in (0, 7, 18):
        days = {tuple(day) for day in known.load_days[customer]}
        assert all(tuple(drawn[k, :, customer]) in days for k in range(6))
    if loads == "common_days":
        picked = [np.flatnonzero((known.load_days[0] == drawn[k, :, 0]).all(axis=1))[0] for k in range(6)]
        assert all((known.load_days[9][day] == drawn[k, :, 9]).all() for k, day in enumerate(picked))


def test_dark_states_have_no_pv_at_all() -> None:
    """States that are solved once for all levels give no power, whatever is installed."""
    d = draw(read().inputs.profiles, Sampling(), stream(5, "test"), 10)
    dark = ~lit(d)
    assert 0.3 < dark.mean() < 0.9
    assert not d.per_w[dark].any()
    assert not d.pv_w[dark].any()


def test_local_days_follow_the_clock_over_its_change() -> None:
    """On 31 March 2013 Brussels' clocks skip an hour: that local day has 92 quarter-hours, and nothing is invented."""
    load = np.random.default_rng(1).uniform(10, 20, (1, 96 * 12))
    start = 1_364_076_000  # 2013-03-23T22:00Z
    past = history(_table(load, start), "Europe/Brussels")
    per_day = np.isfinite(past.load_w[0]).sum(axis=1)
    assert sorted(per_day)[1] == 92
    assert (np.sort(per_day)[2:-1] == 96).all()


def test_days_pool_by_month_and_by_season_and_kind() -> None:
    """A year has 12 classes by month, 12 by season and kind of day, 1 as published."""
    past = read().inputs.past
    assert [len(set(pool_of_days(past, p).tolist())) for p in ("year", "month", "season_daytype")] == [1, 12, 12]


def test_a_gap_stays_unknown() -> None:
    """A missing interval is in nobody's quantile function: its slot has one recording less."""
    load = np.random.default_rng(1).uniform(10, 20, (2, 96 * 8))
    table = _table(load)
    table.import_wh[0, 5] = np.nan
    table.export_wh[0, 5] = np.nan
    known = _profiles(table)
    assert known.load.counts[0, 5].tolist() == [7, 8]


def test_pv_that_was_not_measured_is_not_taken_for_none() -> None:
    """The PV meter of a customer who exports fails at noon of one day: the load of that interval is unknown, not the
    negative of what was exported; who has no PV is not touched."""
    load = np.random.default_rng(1).uniform(10, 20, (2, 96 * 8))
    table = _table(load)
    noon = 24
    assert table.export_wh[1, noon] > 50
    table.pv_wh[1, noon] = np.nan
    past = history(table, "UTC")
    assert np.isnan(past.load_w[1, 0, noon])
    assert np.nanmin(past.load_w) >= 40.0
    assert np.isfinite(past.load_w[0]).all()


def test_a_gap_in_its_record_makes_no_unit_look_smaller() -> None:
    """Half of one unit's days are lost at the daytime: yearly energies and the yield of new units stay as they were."""
    load = np.random.default_rng(1).uniform(10, 20, (2, 96 * 8))
    table = _table(load)
    table.pv_wh[0] = table.pv_wh[1] * 3
    table.import_wh[0] = load[0]
    table.export_wh[0] = table.pv_wh[0]
    whole = _profiles(table)
    for day in range(4):
        table.pv_wh[0, 96 * day + 10 : 96 * day + 40] = np.nan
    torn = _profiles(table)
    assert torn.pv_energy_wh == pytest.approx(whole.pv_energy_wh)
    assert torn.reference.values.max() == pytest.approx(whole.reference.values.max())
    assert torn.energy_wh == pytest.approx(whole.energy_wh, rel=0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda load: load[:, : 96 * 6], "at least 7"),
        (lambda load: np.full_like(load, 3.0), "a load that varies"),
    ],
)
def test_too_little_or_constant_data_are_refused(change, says) -> None:  # type: ignore[no-untyped-def]
    """Less than a week, or a profile that never changes, is no statistic."""
    load = change(np.random.default_rng(1).uniform(10, 20, (1, 96 * 8)))
    load = np.concatenate([load, np.random.default_rng(2).uniform(10, 20, load.shape)])
    with pytest.raises(ConfigError, match=says):
        _profiles(_table(load))
