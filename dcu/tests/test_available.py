"""The forecast beside the decisions must not touch them: what a rule sees, the ledger must keep."""

from __future__ import annotations

import pytest

from dcu.available import Forecaster
from dcu.hosting.measurements import MeasurementSet
from dcu.hosting.predicted import Predicted
from dcu.hosting.tests.test_predicted import ask_all, street


def test_a_forecast_is_made_without_showing_the_rule_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a street that has been looked at it is made of the newest view; with none it waits."""
    world = street(pv=10)
    assert isinstance(world.rule, Predicted)
    forecaster = Forecaster(world.engine)
    assert list(forecaster.work(world.now, 1e9)) == []
    assert forecaster.as_status()["made_utc_s"] is None
    ask_all(world)
    world.pass_time(20.0)
    view = world.engine.newest_view

    def look(measurements: MeasurementSet, now: float) -> None:
        raise AssertionError(f"shown {len(measurements.points)} points at {now}")

    monkeypatch.setattr(world.rule._estimator, "take", look)
    for _ in forecaster.work(world.now, 1e9):
        pass
    assert forecaster.made_utc_s == 1e9  # the history of a single quarter of an hour foretells nothing yet
    assert world.engine.newest_view is view
