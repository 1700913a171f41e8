"""One window's answer by the network model: hand-over, shedding, and a grid that bears nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dcu.grid.tests.golden import feeder
from dcu.hosting.allocate import Policy
from dcu.hosting.decide import Act, Answer, Binding, Question, Standing, View, Wish
from dcu.hosting.estimate import Accuracy
from dcu.hosting.site_settings import SiteSettings
from dcu.hosting.tests.neighbourhood import NOMINAL_W, Neighbourhood
from dcu.hosting.view import GridView
from dcu.hosting.window import GridSettings
from shared.ids import MeterId
from shared.messages import Reason

GRID = GridSettings(nominal_voltage_v=240.0, band_pct=8.0, balancing_bus="1", accuracy=Accuracy(0.0, 0.0))
OLD, NEW = MeterId("m40"), MeterId("m52")
"""Two neighbours on one phase: what one exports, the other cannot."""
OTHER_PHASE = MeterId("m27")
FAR = MeterId("m0")
ALL_W = 20_000.0


@pytest.fixture(scope="module")
def world() -> Neighbourhood:
    found = Neighbourhood(feeder("eulv"), GRID, SiteSettings(nominal_voltage_v=240.0, band_pct=8.0), "1")
    found.pass_time(60.0)
    return found


def view(world: Neighbourhood) -> View:
    assert world.rule is not None
    return world.rule.view(world.engine.measurements(world.now), world.now)


def answer(world: Neighbourhood, *wishes: Wish, seen: View | None = None) -> Answer:
    """The rule's answer when everybody holds what it was granted."""
    assert world.rule is not None
    reserved = {w.meter: w.granted_w for w in wishes if w.granted_w is not None}
    return world.rule.answer(view(world) if seen is None else seen, Question(wishes, reserved, 40))


def asks(meter: MeterId, minimum_w: float = 0.0, granted_w: float | None = None) -> Wish:
    return Wish(meter, Standing.ASKS, NOMINAL_W, ALL_W, minimum_w, granted_w)


def holds(meter: MeterId, granted_w: float) -> Wish:
    return Wish(meter, Standing.HOLDS, NOMINAL_W, ALL_W, 0.0, granted_w)


def acts(found: Answer) -> dict[MeterId, list[Act]]:
    return {v.meter: [w.act for w in found.verdicts if w.meter == v.meter] for v in found.verdicts}


def test_a_question_that_replaces_a_grant_waits_for_its_own_minimum(world: Neighbourhood) -> None:
    """The neighbour holds all there is. A live grant is asked anew: with a minimum that only its share reaches, nothing
    below it is granted; it waits and the neighbour is lowered. Without a minimum it keeps what it has."""
    (alone,) = answer(world, asks(OLD)).verdicts
    full = holds(OLD, alone.limit_w)
    (shy,) = (v for v in answer(world, full, asks(NEW, 0.0, 600.0)).verdicts if v.meter == NEW)
    assert (shy.act, shy.limit_w) == (Act.GRANT, 600.0)
    found = answer(world, full, asks(NEW, 3_000.0, 600.0))
    assert acts(found) == {NEW: [Act.WAIT], OLD: [Act.LOWER]}
    lowered = next(v.limit_w for v in found.verdicts if v.meter == OLD)
    (got,) = (v for v in answer(world, holds(OLD, lowered), asks(NEW, 3_000.0, 600.0)).verdicts if v.meter == NEW)
    assert got.act is Act.GRANT
    assert got.limit_w >= 3_000.0


def test_a_question_that_waits_does_not_shield_its_grant_from_being_lowered(world: Neighbourhood) -> None:
    """A grant that lived on a neighbour's export on another phase is too much without it. Its owner asks for another
    limit, with a minimum that only that neighbour's return would make possible: it waits, and is lowered meanwhile."""
    (alone,) = answer(world, asks(NEW)).verdicts
    found = answer(world, asks(NEW, alone.limit_w + 300.0, alone.limit_w + 1_000.0), asks(OTHER_PHASE))
    assert acts(found)[NEW] == [Act.WAIT, Act.LOWER]
    lowered = next(v.limit_w for v in found.verdicts if v.act is Act.LOWER)
    assert NOMINAL_W < lowered <= alone.limit_w + 50.0


def test_what_has_been_told_is_not_told_again_until_it_should_have_been_heard(world: Neighbourhood) -> None:
    """A customer was lowered to what the grid bears and has not said that he heard: what he may still use stays
    reserved, so that nobody rises, but neither he nor his neighbour is lowered (by the reservation alone they would
    be). Once he should long have been heard the neighbour makes room instead."""
    (alone,) = answer(world, asks(OLD)).verdicts
    told, beside = holds(OLD, alone.limit_w / 2), holds(NEW, alone.limit_w / 4)
    may_rise = Wish(NEW, Standing.MAY_RISE, NOMINAL_W, ALL_W, 0.0, beside.granted_w)
    reserved = {OLD: alone.limit_w, NEW: alone.limit_w / 4}
    seen = view(world)
    assert world.rule is not None
    assert world.rule.answer(seen, Question((told, may_rise), reserved, 10)).verdicts == ()
    risen = world.rule.answer(seen, Question((told, may_rise), {**reserved, OLD: alone.limit_w / 2}, 10))
    assert [(v.meter, v.act) for v in risen.verdicts] == [(NEW, Act.RENEW)]
    unheard = Question((told, may_rise), reserved, 10, unheard=frozenset({OLD}))
    (verdict,) = world.rule.answer(seen, unheard).verdicts
    assert (verdict.meter, verdict.act) == (NEW, Act.LOWER)
    assert unheard == Question.from_entry(json.loads(json.dumps(unheard.as_entry())))


def test_who_was_told_that_his_grant_is_over_costs_nobody_else_his(world: Neighbourhood) -> None:
    """He has not said yet that he heard, so that what he held stays reserved and nobody rises; but his neighbour, due
    for renewal or not, keeps what he has, also when the other one asks anew. Once the acknowledgement is late the
    neighbour makes room."""
    (alone,) = answer(world, asks(OLD)).verdicts
    reserved, seen = {OLD: alone.limit_w, NEW: round(0.7 * alone.limit_w, 1)}, view(world)
    wishes = {s: Wish(NEW, s, NOMINAL_W, ALL_W, 0.0, reserved[NEW]) for s in (Standing.MAY_RISE, Standing.DUE)}
    again = Wish(OLD, Standing.ASKS, NOMINAL_W, 0.2 * alone.limit_w, 0.0)
    assert world.rule is not None
    leaving = Question((wishes[Standing.MAY_RISE],), reserved, 10, leaving=frozenset({OLD}))
    assert world.rule.answer(seen, leaving).verdicts == ()
    renewed = world.rule.answer(seen, replace(leaving, wishes=(wishes[Standing.DUE],))).verdicts
    assert [(v.act, v.limit_w) for v in renewed] == [(Act.RENEW, reserved[NEW])]
    asked = world.rule.answer(seen, replace(leaving, wishes=(wishes[Standing.MAY_RISE], again))).verdicts
    assert [v.meter for v in asked] == [OLD]
    (late,) = world.rule.answer(seen, replace(leaving, leaving=frozenset())).verdicts
    assert (late.meter, late.act) == (NEW, Act.LOWER)
    assert leaving == Question.from_entry(json.loads(json.dumps(leaving.as_entry())))


@pytest.mark.parametrize("policy", list(Policy))
def test_who_cannot_be_renewed_for_want_of_a_place_is_not_taken_to_come_down_by_it(policy: Policy) -> None:
    """Two hold too much, both are due, and there is a place for none, one or both: what is held afterwards is borne."""
    world = Neighbourhood(feeder("eulv"), replace(GRID, policy=policy), SiteSettings(240.0, band_pct=8.0), "1")
    world.pass_time(60.0)
    assert world.rule is not None
    (alone,) = answer(world, asks(OLD)).verdicts
    held_w = dict.fromkeys((OLD, NEW), 0.8 * alone.limit_w)
    wishes = tuple(Wish(m, Standing.DUE, NOMINAL_W, ALL_W, 0.0, w) for m, w in held_w.items())
    for places in range(3):
        found = world.rule.answer(view(world), Question(wishes, held_w, places)).verdicts
        assert [v.act for v in found].count(Act.RENEW) == places
        left_w = held_w | {v.meter: v.limit_w for v in found if v.act in {Act.RENEW, Act.LOWER}}
        p = world.draws()
        for m, w in left_w.items():
            p[int(m[1:])] = -w
        assert world.voltages(p).max() <= 240.0 * 1.08 + 1e-3, places


def test_what_somebody_asks_to_have_less_is_counted_before_others_lose(world: Neighbourhood) -> None:
    """Three hold more than the grid bears, and one of them asks for less, which is enough."""
    third = MeterId("m36")
    (alone,) = answer(world, asks(OLD)).verdicts
    less_w, more_w = 0.2 * alone.limit_w, 0.55 * alone.limit_w
    asked = Wish(OLD, Standing.ASKS, NOMINAL_W, less_w, 0.0, 0.6 * alone.limit_w)
    found = answer(world, asked, holds(NEW, more_w), holds(third, NOMINAL_W + 1.0)).verdicts
    assert [(v.meter, v.act) for v in found] == [(OLD, Act.GRANT)]


@pytest.mark.parametrize("policy", list(Policy))
def test_who_has_not_been_heard_is_lowered_where_nobody_else_can_make_room(policy: Policy) -> None:
    """A renewal whose acknowledgement is lost protects nobody from a lowering."""
    site = SiteSettings(nominal_voltage_v=240.0, band_pct=8.0)
    world = Neighbourhood(feeder("eulv"), replace(GRID, policy=policy), site, "1")
    world.pass_time(60.0)
    (alone,) = answer(world, asks(OLD)).verdicts
    held = holds(OLD, 1.3 * alone.limit_w)
    assert world.rule is not None
    question = Question((held,), {OLD: 1.3 * alone.limit_w}, 10, unheard=frozenset({OLD}))
    (verdict,) = world.rule.answer(view(world), question).verdicts
    assert (verdict.meter, verdict.act) == (OLD, Act.LOWER)
    assert verdict.limit_w <= alone.limit_w


@pytest.mark.parametrize("policy", [Policy.EQUAL, Policy.PROPORTIONAL])
def test_few_are_lowered_by_more_and_that_is_enough(policy: Policy) -> None:
    """Thirty customers hold one per cent more of an increase than the grid bears. Lowering all would be thirty words;
    a fifth of them do, nobody loses more than half of his increase, and with that the grid bears what is held."""
    site = SiteSettings(nominal_voltage_v=240.0, band_pct=8.0)
    world = Neighbourhood(feeder("eulv"), replace(GRID, policy=policy), site, "1")
    world.pass_time(60.0)
    names = tuple(MeterId(f"m{k}") for k in range(30))
    shares = {v.meter: v.limit_w for v in answer(world, *(asks(m) for m in names)).verdicts}
    held_w = {m: NOMINAL_W + 1.01 * (w - NOMINAL_W) for m, w in shares.items()}
    found = answer(world, *(holds(m, w) for m, w in held_w.items()))
    lowered = {v.meter: v.limit_w for v in found.verdicts}
    assert {v.act for v in found.verdicts} == {Act.LOWER}
    assert 0 < len(lowered) <= 6
    assert all(w >= NOMINAL_W + 0.5 * (shares[m] - NOMINAL_W) - 1.0 for m, w in lowered.items())
    assert answer(world, *(holds(m, w) for m, w in (held_w | lowered).items())).verdicts == ()
    p = world.draws()
    for m, w in (held_w | lowered).items():
        p[int(m[1:])] = -w
    assert world.voltages(p).max() <= 240.0 * 1.08


def test_who_needs_a_minimum_is_not_lowered_below_it_while_others_can_be(world: Neighbourhood) -> None:
    """The one who relieves most needs all he has; his neighbour does not."""
    (new,), (old,) = answer(world, asks(NEW)).verdicts, answer(world, asks(OLD)).verdicts
    holder, beside = holds(NEW, 0.6 * new.limit_w), holds(OLD, 0.5 * old.limit_w)
    assert acts(answer(world, holder, beside)) == {NEW: [Act.LOWER]}
    assert acts(answer(world, replace(holder, minimum_w=0.6 * new.limit_w), beside)) == {OLD: [Act.LOWER]}


def test_a_step_that_must_be_short_is_about_as_long_as_the_grid_bears(world: Neighbourhood) -> None:
    """The neighbour holds much more than its share: who asks gets what that leaves, to 250 W, and a
    customer far away gets at once what it would get without them."""
    (alone,) = answer(world, asks(OLD)).verdicts
    held = holds(OLD, alone.limit_w - 2_000.0)
    found = answer(world, held, asks(NEW), Wish(FAR, Standing.ASKS, NOMINAL_W, 700.0, 0.0))
    got_w = {v.meter: v.limit_w for v in found.verdicts if v.act is Act.GRANT}
    assert got_w[FAR] == 700.0
    p = world.draws()
    p[[int(OLD[1:]), int(FAR[1:])]] = -held.granted_w, -700.0  # type: ignore[operator]
    for watts, inside in ((0.0, True), (250.0, False)):
        p[int(NEW[1:])] = -(got_w[NEW] + watts)
        assert (world.voltages(p).max() <= 240.0 * 1.08) == inside


@pytest.mark.parametrize("kind", [Reason.OVERVOLTAGE, Reason.UNDERVOLTAGE])
def test_who_pushes_a_point_that_is_outside_is_told_which(world: Neighbourhood, kind: Reason) -> None:
    """A neighbour's reading beyond the band, as it was read: the denial names it with its value. Nobody's export pushes
    a voltage down on its own phase, so that a low one denies nothing there."""
    plain = view(world)
    assert isinstance(plain, GridView)
    beyond = Binding(kind, OLD, 261.5)
    (verdict,) = answer(world, asks(NEW), seen=replace(plain, outside=(beyond,))).verdicts
    if kind is Reason.OVERVOLTAGE:
        assert (verdict.act, verdict.binding) == (Act.DENY, beyond)
    else:
        assert verdict.act is Act.GRANT


def test_who_pushes_a_port_that_has_been_high_for_long_is_told_which(world: Neighbourhood) -> None:
    """A live grant goes on as it is, and says why it does not grow; a question is denied."""
    plain = view(world)
    assert isinstance(plain, GridView)
    assert world.rule is not None
    port = int(OLD[1:])
    seen = replace(plain, estimate=replace(plain.estimate, blocked=(port,)))
    due = Wish(NEW, Standing.DUE, NOMINAL_W, ALL_W, 0.0, 700.0)
    (denied,) = answer(world, asks(NEW), seen=seen).verdicts
    (renewed,) = answer(world, due, seen=seen).verdicts
    assert (denied.act, denied.binding) == (Act.DENY, Binding(Reason.OVERVOLTAGE, OLD))
    assert (renewed.act, renewed.limit_w, renewed.binding) == (Act.RENEW, 700.0, Binding(Reason.OVERVOLTAGE, OLD))


@pytest.mark.parametrize("standing", [Standing.DUE, Standing.HOLDS, Standing.ASKS])
def test_where_the_nominal_limits_have_no_power_flow_nothing_is_borne(world: Neighbourhood, standing: Standing) -> None:
    """A neighbour's nominal limit of 5 MW: measured all is well, but with everybody at nominal the flow has no
    solution. A grant kept alive by a watt ends, a question is denied, and the reason is named."""
    giant = Wish(OLD, Standing.ASKS, 5e6, 6e6, 0.0)
    alive = Wish(NEW, standing, NOMINAL_W, ALL_W, 0.0, NOMINAL_W + 1.0)
    found = answer(world, giant, alive)
    own = [Act.DENY, Act.LOWER] if standing is Standing.ASKS else [Act.LOWER]
    assert acts(found) == {OLD: [Act.DENY], NEW: own}
    assert {v.limit_w for v in found.verdicts if v.act is Act.LOWER} == {NOMINAL_W}
    assert {v.binding.reason for v in found.verdicts if v.binding is not None} == {Reason.NO_POWER_FLOW}
    assert all(v.binding is not None for v in found.verdicts)


@pytest.mark.parametrize(("raises", "risen"), [(None, {NEW, FAR}), (2, {NEW, FAR}), (1, {FAR}), (0, set())])
def test_where_air_time_is_short_those_are_raised_who_gain_most(
    world: Neighbourhood, raises: int | None, risen: set[MeterId]
) -> None:
    """One could have a kilowatt more, the other two."""
    near, far = (Wish(m, Standing.MAY_RISE, NOMINAL_W, w, 0.0, 600.0) for m, w in ((NEW, 1.6e3), (FAR, 2.6e3)))
    assert world.rule is not None
    found = world.rule.answer(view(world), Question((near, far), {NEW: 600.0, FAR: 600.0}, 10, raises=raises))
    assert {v.meter for v in found.verdicts if v.act is Act.RENEW and v.limit_w > 600.0} == risen
