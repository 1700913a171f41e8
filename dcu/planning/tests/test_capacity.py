"""Growth, verdicts and intervals; properties that must hold whatever the feeder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dcu.planning.capacity import (
    GROUPS,
    Criterion,
    Rule,
    Steps,
    capacities,
    certain,
    grow,
    independent_states,
    interval,
    interval_at,
    risk,
    verdict,
)
from dcu.planning.draws import Draws, LoadModel, PvScope, Sampling, draw, stream
from dcu.planning.evaluate import Limits, Tally, empty, tally
from dcu.planning.locate import judge, largest, rebalanced
from dcu.planning.tests.stand_in import grown, read
from dcu.planning.world import World, build


def _tally(world: World, **changes: object) -> Tally:
    found = empty(next(iter(world.observers.values())))
    found.states = 1000
    for name, value in changes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(("count", "states"), [(0, 100), (5, 100), (100, 100), (1, 96_000)])
def test_the_interval_holds_the_estimate(count: int, states: int) -> None:
    """Wilson's interval contains the share seen, stays in 0 .. 1 and shrinks with the states."""
    low, high = interval(count, states)
    assert 0 <= low <= count / states <= high <= 1
    wide = interval(count * 4, states * 4)
    assert wide[1] - wide[0] < high - low


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 2,000 samples of a known probability, between 93 and 97 % of the intervals contain it."""
    rng = np.random.default_rng(1)
    hits = sum(low <= 0.05 <= high for low, high in (interval(int(c), 500) for c in rng.binomial(500, 0.05, 2000)))
    assert 0.93 <= hits / 2000 <= 0.97


@pytest.mark.parametrize(("loads", "scope"), [("independent", "day"), ("common_days", "day")])
def test_intervals_cover_where_days_hang_together(loads: LoadModel, scope: PvScope) -> None:
    """Of 60 studies of 50 days at least 85 % of the intervals hold the mean of all; with the states counted as
    independent ones less than two thirds would."""
    world = read(2, "A").world
    case, observer, known = world.cases["A"], world.observers["A"], world.inputs.profiles
    where = observer.points.index(("19", "L1"))
    tallies = []
    for k in range(60):
        draws = draw(known, Sampling(loads, scope), stream(4, loads, k), 50)
        tallies.append(judge(case, observer, world, draws, 12_000.0, days_matter=True))
    mean = sum(int(t.over[where]) for t in tallies) / sum(t.states for t in tallies)
    honest = [interval_at(t, Criterion.OVERVOLTAGE, where) for t in tallies]
    naive = [interval(int(t.over[where]), t.states) for t in tallies]
    assert sum(low <= mean <= high for low, high in honest) >= 51
    assert sum(low <= mean <= high for low, high in naive) < 40


def test_squares_of_days_are_those_of_their_counts() -> None:
    """Over batches, blocks and the two halves of a day: never less than the true sum of squares, equal where one half
    holds all of it; independent states are worth one each."""
    world = read(2, "A").world
    case, observer = world.cases["A"], world.observers["A"]
    draws = draw(world.inputs.profiles, Sampling("independent", "day"), stream(4, "squares"), 70)
    found = judge(case, observer, world, draws, 14_000.0, days_matter=True)
    one_by_one = np.zeros((70, len(observer.points)))
    for day in range(70):
        own = draws.day == day
        part = Draws(draws.slot[own], draws.load_w[own], draws.pv_w[own], draws.per_w[own])
        one_by_one[day] = judge(case, observer, world, part, 14_000.0).over
    assert found.days == 70
    assert found.over.tolist() == one_by_one.sum(axis=0).tolist()
    assert found.over_squares == pytest.approx((one_by_one**2).sum(axis=0))
    free = judge(case, observer, world, draws, 14_000.0)
    assert independent_states(free, Criterion.OVERVOLTAGE, 0) == free.states


def test_a_level_violates_above_its_percentile_and_not_at_it() -> None:
    """Fifty of a thousand states are 5 % and pass; fifty-one fail; with 100 % a single one fails."""
    world = read().world
    observer = next(iter(world.observers.values()))
    over = np.zeros(len(observer.points), dtype=np.int64)
    for count, percentile, fails in ((50, 95.0, False), (51, 95.0, True), (1, 100.0, True), (0, 100.0, False)):
        over[3] = count
        found = verdict(_tally(world, over=over), observer, Rule(percentile, 1.0))
        assert [v.criterion for v in found] == [Criterion.OVERVOLTAGE] * fails
        if fails:
            assert found[0].place == ".".join(observer.points[3])


def test_currents_follow_their_quantile() -> None:
    """The published rule looks at the largest current; with a quantile of 0.95 five in a hundred may exceed."""
    world = read().world
    observer = next(iter(world.observers.values()))
    overloaded = np.zeros(len(observer.wires), dtype=np.int64)
    overloaded[0] = 40
    found = _tally(world, overloaded=overloaded)
    assert verdict(found, observer, Rule(95.0, 1.0))[0].criterion is Criterion.CURRENT
    assert verdict(found, observer, Rule(95.0, 0.95)) == ()


def test_a_state_without_solution_is_a_violation() -> None:
    """It is counted and named, never passed over."""
    world = read().world
    found = verdict(_tally(world, unsolved=1), next(iter(world.observers.values())), Rule(95.0, 1.0))
    assert found[0].criterion is Criterion.NO_SOLUTION


def test_a_verdict_is_certain_only_away_from_the_limit() -> None:
    """Three standard errors decide; at 100 % only a violation that was seen does."""
    world = read().world
    over = np.zeros_like(_tally(world).over)
    for count, sure in ((10, True), (45, False), (55, False), (120, True)):
        over[0] = count
        assert certain(_tally(world, over=over), Rule(95.0, 1.0), "voltage") is sure
    assert not certain(_tally(world), Rule(100.0, 1.0), "voltage")


def test_both_levels_are_told() -> None:
    """Last feasible and first infeasible are neighbours, and their totals differ by one step of every unit."""
    logs = grown(read(days=4, scenarios="A"))
    voltage = next(c for c in capacities(logs["A"], 22_630.0) if c.group == "voltage")
    assert voltage.last_feasible is not None
    assert voltage.first_infeasible == voltage.last_feasible + 1
    assert voltage.first_infeasible_w is not None
    assert voltage.last_feasible_w is not None
    assert voltage.first_infeasible_w - voltage.last_feasible_w == 12_000.0


def test_a_feeder_that_violates_today_hosts_nothing() -> None:
    """There is no last feasible level then, and growth stops at once."""
    some = read(days=2, scenarios="A")
    world = some.world
    observer = world.observers["A"]
    growth = grow(world.cases["A"], observer, Rule(95.0, 1.0), Steps(1000.0, 5, ("voltage",)))
    next(growth)
    under = np.full(len(observer.points), 999)
    with pytest.raises(StopIteration) as end:
        growth.send(_tally(world, under=under))
    voltage = next(c for c in capacities(end.value.value, 0.0) if c.group == "voltage")
    assert (voltage.last_feasible, voltage.first_infeasible) == (None, 0)


def test_tightening_never_helps() -> None:
    """A lower voltage limit, a lower rating or a higher percentile never raises the capacity."""
    some = read(days=2, scenarios="A")
    world, case, observer = some.world, some.world.cases["A"], some.world.observers["A"]
    draws = world.draws(0, 4)

    def hosted(limits: Limits, rule: Rule, group: str) -> int:
        own = replace(world.inputs, limits=limits)
        seen = World(own, "", world.cases, world.observers)
        return largest(
            lambda k: (
                not {v.criterion for v in verdict(judge(case, observer, seen, draws, k * 1000.0), observer, rule)}
                & set(GROUPS[group])
            ),
            60,
        )

    free = hosted(Limits(), Rule(95.0, 1.0), "voltage")
    assert hosted(Limits(u_max_pu=1.08), Rule(95.0, 1.0), "voltage") < free
    assert hosted(Limits(), Rule(100.0, 1.0), "voltage") < free
    by_current = hosted(Limits(), Rule(95.0, 1.0), "current")
    assert hosted(Limits(loading_max=0.8), Rule(95.0, 1.0), "current") < by_current <= free


@pytest.mark.parametrize("answer", [-1, 0, 1, 5, 6, 7, 63, 64])
def test_halving_finds_what_a_scan_finds(answer: int) -> None:
    """For every monotone question the same step, also at both ends."""
    assert largest(lambda k: k <= answer, 64) == answer


def test_better_phases_host_more() -> None:
    """The suggestion keeps the places, moves phases only, and raises the capacity by voltage by at least a step."""
    some = read(days=4, scenarios="A")
    plan = some.inputs.plans[0]
    moved = rebalanced(some.world, "A")
    assert [u.bus for u in moved] == [u.bus for u in plan.units]
    assert {len(u.phases) for u in moved} == {1}
    counts = [sum(u.phases[0] == p for u in moved) for p in ("L1", "L2", "L3")]
    assert max(counts) - min(counts) <= 4


def test_a_batch_may_be_cut_anywhere() -> None:
    """Counts of a whole batch are the sum over its parts."""
    some = read(days=2, scenarios="AF")
    world, case, observer = some.world, some.world.cases["F"], some.world.observers["F"]
    base, per_w = world.lit_states("F", 0, 10)
    limits = Limits()
    whole = tally(case, observer, base, per_w, 17_000.0, limits, detail=True)
    parts = tally(case, observer, base[:100], per_w[:100], 17_000.0, limits, detail=True)
    parts.add(tally(case, observer, base[100:], per_w[100:], 17_000.0, limits, detail=True))
    for name in ("states", "over", "under", "unbalanced", "overloaded", "u_histogram", "loading_histogram"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name
    assert np.allclose(whole.u_max_pu, parts.u_max_pu, rtol=1e-6)


def test_places_grow_by_their_weight_and_stop_at_their_cap() -> None:
    """Weights 1, 0.5 and 3 with a cap of 10 kVA: at step 4 the units have 4, 2 and 10 kVA."""
    some = read(days=2, scenarios="A")
    case = some.world.cases["A"]
    units = tuple(
        replace(u, weight=w, cap_w=c) for u, w, c in zip(case.units, (1.0, 0.5, 3.0), (10e3,) * 3, strict=False)
    )
    own = replace(case, units=units, unit_ports=case.unit_ports[:3], elements={})
    assert own.rated_w(4000.0).tolist() == [4000.0, 2000.0, 10_000.0]
    drawn = own.injections(np.zeros((1, own.load_share.shape[1])), np.ones(1), 4000.0).p_w[0]
    assert [-drawn[ports[0]] for ports in own.unit_ports] == [4000.0, 2000.0, 10_000.0]


def test_controls_act_on_the_voltage_they_see() -> None:
    """At the same level damping and Q(U) leave a lower highest voltage than feeding in alone, in the worst state."""
    some = read(days=2, scenarios="AFG")
    highest = {}
    for name in "AFG":
        base, per_w = some.world.lit_states(name, 0, 4)
        case, observer = some.world.cases[name], some.world.observers[name]
        highest[name] = tally(case, observer, base, per_w, 14_000.0, Limits(), detail=False).u_max_pu.max()
    assert highest["F"] < highest["A"] - 0.01
    assert highest["G"] < highest["A"]


def test_a_drawing_changes_no_draw() -> None:
    """Streams are named after what is electrical of a feeder: moved buses give the same states."""
    some = read(days=2, scenarios="A")
    buses = tuple(replace(b, position=(1.0, 2.0)) for b in some.inputs.network.buses)
    moved = build(replace(some.inputs, network=replace(some.inputs.network, buses=buses, memo={})))
    assert np.array_equal(moved.draws(0, 2).load_w, some.world.draws(0, 2).load_w)
    assert moved.feeder_name == some.world.feeder_name


def test_two_scenarios_watch_the_same_places() -> None:
    """Counts of shared states can be added whatever ports a scenario has."""
    observers = list(read(days=2).world.observers.values())
    assert len(observers) == 7
    assert len(observers[0].wires) == 57
    assert all(
        (o.points, o.buses, o.wires) == (observers[0].points, observers[0].buses, observers[0].wires) for o in observers
    )


def test_a_risk_curve_passes_through_the_levels() -> None:
    """Between the last feasible and the first infeasible step it crosses 5 %, its interval around it; less accepted
    risk is less capacity; what no step reaches is not told."""
    log = grown(read(days=4, scenarios="A"))["A"]
    found = [risk(log, 22_630.0, p) for p in (0.001, 0.01, 0.05, 0.9)]
    totals = [r.total_w for r in found[:3]]
    assert None not in totals
    assert totals == sorted(totals)  # type: ignore[type-var]
    five = found[2]
    assert five.total_w is not None
    assert five.low_w is not None
    assert five.low_w < five.total_w
    assert 22_630 + log[-2].added_w <= five.total_w <= 22_630 + log[-1].added_w
    assert found[3].total_w is None
