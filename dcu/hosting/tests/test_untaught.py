"""What nothing has taught grants nothing, however few the meters are: for a small street what is assumed beforehand is
no wide bound, and a street need not be as it is assumed."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.grid.tests.golden import feeder
from dcu.hosting.decide import Act, Question, Standing, Verdict, Wish
from dcu.hosting.learned import SETS_MIN
from dcu.hosting.learned_rule import Learned
from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Point, Quality
from dcu.hosting.predicted import Predicted
from dcu.hosting.site_settings import SiteSettings
from dcu.hosting.tests.neighbourhood import Neighbourhood
from dcu.hosting.window import GridSettings
from dcu.meters import MeterEntry
from shared.ids import BusId, Eui48, MeterId, Phase
from shared.messages import Reason

LOOP_OHM = 0.8
"""From the busbar to every customer, each on a line of its own: four times what is assumed of a street."""
BAND_PCT = 8.0
HIGH_V = 230.0 * (1 + BAND_PCT / 100)
NOMINAL_W = 500.0


def meters(count: int) -> tuple[MeterEntry, ...]:
    return tuple(
        MeterEntry(MeterId(f"m{k}"), Eui48(k.to_bytes(6, "big")), BusId(f"b{k}"), (Phase(k % 3),), NOMINAL_W, 9000.0)
        for k in range(count)
    )


def true_voltage(p_w: float) -> float:
    """At the end of the line [V], the busbar at 230 V: u = 230 - R p / u."""
    return float(115 + (115**2 - LOOP_OHM * p_w) ** 0.5)


def measured(entries: tuple[MeterEntry, ...], p_w: list[float], now: float) -> MeasurementSet:
    fed = [sum(p for e, p in zip(entries, p_w, strict=True) if e.phases == (phase,)) for phase in Phase]
    busbar = Point(SUBSTATION, Quality.GOOD, (230.0,) * 3, 0.0, 0.0, tuple(fed), (0.0,) * 3, now)
    points = [
        Point(e.id, Quality.GOOD, (round(true_voltage(p), 1),), max(0.0, -p), 0.0, (p,), (0.0,), now)
        for e, p in zip(entries, p_w, strict=True)
    ]
    return MeasurementSet((busbar, *points))


def ask(rule: Learned | Predicted, measurements: MeasurementSet, now: float, *names: str) -> tuple[Verdict, ...]:
    wishes = tuple(Wish(MeterId(name), Standing.ASKS, NOMINAL_W, 9000.0, 0.0) for name in names)
    return rule.answer(rule.view(measurements, now), Question(wishes, {}, len(wishes))).verdicts


def refused(verdicts: tuple[Verdict, ...]) -> bool:
    why = [v.binding.reason for v in verdicts if v.binding is not None]
    return [v.act for v in verdicts] == [Act.DENY] * len(verdicts) and why == [Reason.NOT_LEARNT] * len(verdicts)


@pytest.mark.parametrize("count", [1, 2, 6, 20, 55])
@pytest.mark.parametrize("band_pct", [5.0, BAND_PCT, 10.0])
def test_nothing_learnt_grants_nothing_in_a_street_of_any_size(count: int, band_pct: float) -> None:
    """One complete view, one wish and all wishes."""
    entries = meters(count)
    names = [e.id for e in entries]
    rule = Learned(entries, GridSettings(band_pct=band_pct))
    quiet = measured(entries, [100.0] * count, 100.0)
    assert refused(ask(rule, quiet, 100.0, names[0]))
    assert refused(ask(rule, quiet, 101.0, *names))


@pytest.mark.parametrize("count", [2, 6, 20])
def test_a_small_street_grants_when_it_has_learnt_and_stays_within_the_band(count: int) -> None:
    """Houses switch for half a day and more; then a grant is used to the full where 0.8 ohm are four times what was
    assumed. The last house never draws anything else: what it does is never learnt."""
    entries, random = meters(count), np.random.default_rng(count)
    rule, now = Learned(entries, GridSettings(band_pct=BAND_PCT)), 0.0
    answered_at = []
    p_w = np.full(count, 100.0)
    for k in range(SETS_MIN + 100):
        now += 60.0
        p_w[:-1] = np.where(random.random(count - 1) < 0.3, random.uniform(-NOMINAL_W, 2000.0, count - 1), p_w[:-1])
        if k % 20 and abs(k - SETS_MIN) > 20:
            rule.view(measured(entries, p_w.tolist(), now), now)
            continue
        verdicts = ask(rule, measured(entries, p_w.tolist(), now), now, "m0")
        answered_at += [k] if verdicts[0].act is Act.GRANT else []
        assert verdicts[0].act is Act.GRANT or k < SETS_MIN + 50
        assert true_voltage(-verdicts[0].limit_w) <= HIGH_V
    assert answered_at[0] >= SETS_MIN - 1
    assert verdicts[0].limit_w > 2000.0
    assert refused(ask(rule, measured(entries, p_w.tolist(), now), now, f"m{count - 1}"))


def test_of_two_bounds_one_that_nothing_has_taught_has_no_end() -> None:
    """A mixed rule with the right model and untaught meters: no, and for that reason."""
    model = feeder("eulv").model
    entries = tuple(
        MeterEntry(MeterId(f"m{k}"), Eui48(k.to_bytes(6, "big")), BusId(bus), (Phase[label],), NOMINAL_W, 9000.0)
        for k, (bus, label) in enumerate(zip(model.port_buses, model.port_labels, strict=True))
    )
    settings = GridSettings(nominal_voltage_v=240.0, band_pct=10.0)
    for mixed in (False, True):
        rule = Predicted(model, entries, settings, mixed=mixed)
        world = Neighbourhood(feeder("eulv"), settings, SiteSettings(), "1", rule=rule)
        verdicts = ask(rule, world.engine.measurements(world.now), world.now, "m0")
        assert refused(verdicts) == mixed
        assert mixed or verdicts[0].act is Act.GRANT
