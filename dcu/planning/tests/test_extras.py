"""Rare events, grants against static limits, places, data length, deterministic states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dcu.planning.capacity import Rule
from dcu.planning.deterministic import WorstCase, worst_state
from dcu.planning.draws import Sampling, draw, stream
from dcu.planning.dynamic import dynamic, violations
from dcu.planning.evaluate import Limits
from dcu.planning.locate import Asked, data_window, judge, load_model, place_capacities, windows
from dcu.planning.rare import _draw, _Proposal, rare_overvoltage
from dcu.planning.tests.stand_in import read
from dcu.planning.world import build

RULE = Rule(95.0, 1.0)
ASKED = Asked(RULE, 1000.0, 12_000.0, 300)


def test_importance_sampling_agrees_with_plain_sampling() -> None:
    """Where plain sampling still sees something, both agree within three of their common standard errors."""
    world = read(2, "A").world
    rare = rare_overvoltage(world, "A", 7000.0, 10_000)
    draws = draw(world.inputs.profiles, Sampling(), stream(9, "plain"), 600)
    plain = judge(world.cases["A"], world.observers["A"], world, draws, 7000.0)
    p = plain.over.max() / plain.states
    error = np.hypot(rare.error, np.sqrt(p * (1 - p) / plain.states))
    assert p > 1e-3
    assert abs(rare.probability - p) < 3 * error
    assert rare.brute_states > 50 * rare.states


def test_the_stated_error_is_the_spread_of_repetitions() -> None:
    """Eight studies with other seeds scatter as much as the error they state, within a factor of two."""
    some = read(2, "A")
    found = [rare_overvoltage(build(replace(some.inputs, seed=k)), "A", 7000.0, 4000) for k in range(8)]
    spread = np.std([r.probability for r in found], ddof=1)
    stated = np.mean([r.error for r in found])
    assert 0.4 < spread / stated < 2.2


def test_a_hopeless_event_is_reported_as_zero_with_the_highest_voltage() -> None:
    """At today's PV nothing is above 1.10 pu, and the result says how far it is."""
    rare = rare_overvoltage(read(2, "A").world, "A", 1000.0, 1000)
    assert rare.probability == 0.0
    assert rare.high == pytest.approx(0.03)
    assert 1.0 < rare.u_max_pu < 1.10


def test_weights_make_the_proposal_the_true_distribution_again() -> None:
    """Whatever the proposal, the weights' mean is one, none is above ten, and weighted means are the true ones: of the
    interval, of the PV probability and of each load's, within five standard errors."""
    skewed = np.arange(1.0, 97.0)
    states = _draw(stream(3, "weights"), _Proposal(skewed / skewed.sum(), 4.0, np.array([1.0, 2.0, 3.0])), 200_000)
    assert states.weight.max() <= 10.0
    ones, half = np.ones(len(states.weight)), 0.5
    drawn = [(ones, 1.0), (states.slot / 95.0, half), (states.y_pv, half), *((y, half) for y in states.y_load.T)]
    for values, expected in drawn:
        weighed = values * states.weight
        assert abs(weighed.mean() - expected) < 5 * weighed.std() / np.sqrt(len(weighed))


def test_grants_never_violate_and_never_take_from_the_static_limit() -> None:
    """With grants no state violates; nobody is limited more often or loses more than under the static limit."""
    found = dynamic(read(2, "A").world, "A", 16_000.0, 20)
    assert found.free_violation > 0.3
    assert found.headroom_violation == 0.0
    for e in found.exporters:
        assert e.headroom_probability <= e.static_probability + 1e-12, e.place
        assert e.headroom_energy <= e.static_energy + 1e-12, e.place
    lost = [sum(e.free_export_w * getattr(e, k) for e in found.exporters) for k in ("static_energy", "headroom_energy")]
    assert lost[1] < 0.7 * lost[0]


def test_the_static_limit_is_safe_and_nearly_the_largest() -> None:
    """At the limit no state violates, a tenth above some state does."""
    world = read(2, "A").world
    found = dynamic(world, "A", 16_000.0, 20)
    case, observer = world.cases["A"], world.observers["A"]
    worst = np.nanmin(world.inputs.past.load_w) * case.load_share.sum(axis=0) * 0
    ports = sorted({p for some in case.unit_ports for p in some} | set(np.flatnonzero(case.existing_share.any(axis=0))))
    worst[ports] = -found.static_limit_w * 1.1
    assert violations(case, observer, worst[None], Limits()).any()


def test_one_place_hosts_more_near_the_transformer() -> None:
    """Capacity by voltage falls along the feeder; behind the weak segment the current decides."""
    world = read(2, "A").world
    near, far = (place_capacities(world, bus, RULE, 1000.0, 20) for bus in ("5", "19"))
    assert [p.phase for p in near] == ["L1", "L2", "L3"]
    assert all(a.voltage_w > b.voltage_w for a, b in zip(near, far, strict=True))
    assert all(p.current_w <= p.voltage_w for p in near + far)
    assert all("6-7" in p.binding for p in far)


def test_more_data_settle_the_capacity() -> None:
    """Windows of a week scatter far more than windows of half a year."""
    world = read(2, "A").world
    spans = windows(365)
    assert (0, 365) in spans

    def spread(days: int) -> float:
        some = [data_window(world, "A", f, n, replace(ASKED, days=10)).voltage_w for f, n in spans if n == days]
        return float(np.std(some))

    assert spread(7) > 2 * spread(182)


def test_load_models_differ_little_where_pv_decides() -> None:
    """The same feeder with correlated loads: within three steps of the published model, and every variant named."""
    world = read(2, "A").world
    some = [load_model(world, "A", k, ASKED) for k in range(5)]
    assert len({v.name for v in some}) == 5
    assert all(abs(v.voltage_w - some[0].voltage_w) <= 3000.0 for v in some)
    width = [v.high - v.low for v in some]
    assert all(w > 2 * width[0] for w in width[1:]), "whole days tell less than independent states"


@pytest.mark.parametrize("case", list(WorstCase))
def test_worst_states_are_what_they_say(case: WorstCase) -> None:
    """I: ratings and smallest loads; II: the sunniest interval; III: the smallest load among sunny ones."""
    past = read(2, "A").inputs.past
    rated = np.array([5000.0, 10_000.0, 2630.0, 5000.0])
    state = worst_state(case, past, rated, 0.8, past.pv_w.mean(axis=0))
    total = past.pv_w.sum(axis=0)
    if case is WorstCase.I:
        assert (state.load_w <= past.load_w.min(axis=2).T).all()
        assert state.per_w == 1.0
    elif case is WorstCase.II:
        assert state.pv_w.sum() == total.max()
    else:
        assert state.pv_w.sum() >= 0.8 * total.max()
        sunny = total >= 0.8 * total.max()
        assert state.load_w.sum() == past.load_w.sum(axis=0)[sunny].min()
