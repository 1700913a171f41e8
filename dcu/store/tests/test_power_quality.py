"""A week by EN 50160, counted by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from dcu.store.intervals import Means
from dcu.store.power_quality import WEEK_INTERVALS, WEEK_S, quantile, week, week_of


def means(u_v: float, count: int, *, covered: float = 1.0, unbalance_pct: float | None = None) -> list[Means]:
    return [Means((u_v, None, None), unbalance_pct, covered)] * count


def test_a_week_within_the_band_is_kept() -> None:
    """All of 1,008 means at 230 V."""
    found = week(means(230.0, WEEK_INTERVALS), 230.0)
    assert found.voltage_kept is True
    assert found.unbalance_kept is None
    assert found.phases[0] is not None
    assert found.phases[0].share_within == 1.0
    assert found.phases[1] is None


@pytest.mark.parametrize(("high", "kept"), [(50, True), (51, False)])
def test_five_percent_may_be_low(high: int, kept: bool) -> None:
    """200 V is below -10 % and above -15 %: 50 of 1,008 are below 5 %, 51 are above."""
    found = week(means(230.0, WEEK_INTERVALS - high) + means(200.0, high), 230.0)
    assert found.voltage_kept is kept
    assert found.phases[0] is not None
    assert found.phases[0].share_all == 1.0


@pytest.mark.parametrize("u_v", [253.01, 195.4])
def test_none_may_be_beyond_the_outer_bounds(u_v: float) -> None:
    """One mean above +10 % or below -15 % is one too many."""
    found = week(means(230.0, WEEK_INTERVALS - 1) + means(u_v, 1), 230.0)
    assert found.voltage_kept is False
    assert found.phases[0] is not None
    assert found.phases[0].share_within > 0.99


def test_incomplete_means_are_counted_and_not_used() -> None:
    """A hundred of 300 V with a tenth of their readings change nothing but the count."""
    found = week(means(230.0, WEEK_INTERVALS - 100) + means(300.0, 100, covered=0.89), 230.0)
    assert (found.complete, found.incomplete) == (WEEK_INTERVALS - 100, 100)
    assert found.voltage_kept is True
    assert week(means(230.0, 906), 230.0).voltage_kept is None, "too few for a verdict"
    assert week(means(230.0, 908), 230.0).voltage_kept is True


def test_unbalance_is_judged_by_its_95_percent() -> None:
    """40 of 1,008 high ones are below 5 %, 60 above."""
    for high, kept in ((40, True), (60, False)):
        rest = means(230.0, WEEK_INTERVALS - high, unbalance_pct=0.5)
        assert week(rest + means(230.0, high, unbalance_pct=2.5), 230.0).unbalance_kept is kept


def test_weeks_begin_on_monday() -> None:
    """Midnight UTC; a second before is the week before."""
    monday = datetime(2026, 11, 16, tzinfo=UTC)
    assert monday.weekday() == 0
    assert week_of(monday.timestamp()) == monday.timestamp()
    assert week_of(monday.timestamp() - 1) == monday.timestamp() - WEEK_S
    assert week_of(monday.timestamp() + WEEK_S - 1) == monday.timestamp()


def test_a_quantile_is_one_of_the_values() -> None:
    """95 % of 1..100 are not above 95."""
    assert quantile(range(1, 101), 0.95) == 95
    assert quantile([7.0], 0.025) == 7.0


def test_the_figures_are_json() -> None:
    """What the page gets."""
    found = json.loads(json.dumps(week(means(230.0, 3), 230.0).as_json()))
    assert found["voltage_kept"] is None
    assert found["phases"]["L1"]["count"] == 3
