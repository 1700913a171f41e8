"""Allocation must be safe (an independent engine solves the result), use what there is (nobody can be given more),
share as its policy says, and name what stopped whom."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.grid.tests.golden import day, feeder
from dcu.hosting.allocate import Policy, allocate
from dcu.hosting.headroom import GridLimits, Outlook, Situation
from dcu.hosting.spread import Claim

BAND_PCT = 12.0  # the published feeder stands at 1.05 pu without load


def _now(minute: int, margin_v: float = 0.0) -> Situation:
    p, q, _ = day()
    u = np.abs(solve(feeder("eulv"), Injections.of(p[minute], q[minute]))["port_u_v"][0])
    return Situation(p[minute], q[minute], u, np.full(55, margin_v))


def _outlook(minute: int, margin_v: float = 0.0) -> Outlook:
    model = feeder("eulv").model
    return Outlook(model, GridLimits.of(model, BAND_PCT), _now(minute, margin_v))


def _claims(ports: range, wanted_w: float, nominal_w: float = 500.0, minimum_w: float = 0.0) -> tuple[Claim, ...]:
    return tuple(Claim(f"c{k}", (k,), nominal_w, wanted_w, minimum_w) for k in ports)


def _highest(minute: int, claims: tuple[Claim, ...], limits_w: np.ndarray) -> float:
    """Highest voltage [share of nominal] with every limit fully used, by the other engine."""
    p, q, _ = day()
    after = p[minute].copy()
    for claim, limit in zip(claims, limits_w, strict=True):
        after[list(claim.ports)] = -limit / len(claim.ports)
    found = solve(feeder("eulv"), Injections.of(after, q[minute]), "sweep", results=("u_max_pu",))
    return float(found["u_max_pu"][0])


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("minute", [0, 566, 720, 1100])
def test_what_is_given_is_safe_and_nothing_is_left(policy: Policy, minute: int) -> None:
    claims = _claims(range(0, 55, 3), 9000.0)
    found = allocate(_outlook(minute), claims, policy)
    limit = 1 + BAND_PCT / 100
    assert _highest(minute, claims, found.limits_w) <= limit + 1e-6
    for k, claim in enumerate(claims):
        if found.limits_w[k] < claim.wanted_w:
            assert found.binding[k] is not None
            more = found.limits_w.copy()
            more[k] += 100.0
            assert _highest(minute, claims, more) > limit


def test_equal_raises_all_that_meet_the_same_limit_alike() -> None:
    claims = _claims(range(0, 55, 3), 9000.0)
    found = allocate(_outlook(720), claims, Policy.EQUAL)
    groups: dict[object, list[float]] = {}
    for limit, binding in zip(found.limits_w, found.binding, strict=True):
        if binding is not None:
            groups.setdefault(binding, []).append(limit)
    for limits in groups.values():
        assert max(limits) - min(limits) < 1.0


def test_proportional_gives_in_proportion_to_the_nominal_limit() -> None:
    """Two neighbours on one phase meet the same limit: twice the nominal limit, twice the increase."""
    claims = (Claim("a", (0,), 500.0, 90e3), Claim("b", (2,), 1000.0, 90e3))
    found = allocate(_outlook(720), claims, Policy.PROPORTIONAL)
    assert found.binding[0] is not None
    gain = found.limits_w - [500.0, 1000.0]
    assert gain[1] == pytest.approx(2 * gain[0], rel=0.02)


def test_first_come_gives_the_first_all_it_wants_if_the_grid_bears_it() -> None:
    claims = _claims(range(55), 4000.0)
    found = allocate(_outlook(720), claims, Policy.FIRST_COME)
    assert found.limits_w[0] == 4000.0
    assert found.limits_w[-1] < 4000.0
    equal = allocate(_outlook(720), claims, Policy.EQUAL)
    assert equal.fairness > found.fairness


def test_an_increase_below_the_minimum_is_not_given_and_goes_to_the_others() -> None:
    plain = allocate(_outlook(720), _claims(range(55), 9000.0), Policy.EQUAL)
    shy = tuple(
        Claim(f"c{k}", (k,), 500.0, 9000.0, 3000.0 if k == int(plain.limits_w.argmin()) else 0.0) for k in range(55)
    )
    found = allocate(_outlook(720), shy, Policy.EQUAL)
    at = int(plain.limits_w.argmin())
    assert found.limits_w[at] == 500.0
    assert found.binding[at] is not None
    assert found.limits_w.sum() - 500.0 >= plain.limits_w.sum() - plain.limits_w[at] - 1.0


def test_a_margin_takes_from_everybody() -> None:
    claims = _claims(range(0, 55, 5), 9000.0)
    exact, careful = (allocate(_outlook(720, margin), claims, Policy.EQUAL) for margin in (0.0, 1.0))
    assert careful.limits_w.sum() < exact.limits_w.sum()
    assert _highest(720, claims, careful.limits_w) < 1 + BAND_PCT / 100 - 0.9 / 230


def test_a_grid_that_does_not_bear_the_nominal_limits_gives_them_and_says_so() -> None:
    model = feeder("eulv").model
    outlook = Outlook(model, GridLimits.of(model, 9.0), _now(720))
    claims = _claims(range(55), 9000.0, nominal_w=1500.0)
    found = allocate(outlook, claims, Policy.EQUAL)
    assert (found.limits_w == 1500.0).all()
    assert found.exceeded is not None
    assert found.exceeded.kind == "overvoltage"


def test_a_rating_binds_before_the_voltage_does() -> None:
    model = feeder("eulv").model
    ratings = np.full(len(model.currents), np.inf)
    first = next(
        k for k, c in enumerate(model.currents) if (c.kind, c.id) == ("transformer", "tr1") and c.end == "secondary"
    )
    ratings[first : first + 3] = 70.0  # more than is drawn now
    limits = GridLimits.of(model, BAND_PCT)
    outlook = Outlook(model, GridLimits(limits.u_low_v, limits.u_high_v, ratings), _now(720))
    found = allocate(outlook, _claims(range(55), 9000.0, nominal_w=100.0), Policy.EQUAL)
    kinds = {b.kind for b in found.binding if b is not None}
    assert "current" in kinds


def test_unbalance_can_bind() -> None:
    model = feeder("eulv").model
    limits = GridLimits.of(model, BAND_PCT, vuf_max=0.002)
    outlook = Outlook(model, limits, _now(720))
    on_one_phase = [k for k, port in enumerate(feeder("eulv").network.ports()) if port.connection.label == "L1"]
    claims = tuple(Claim(f"c{k}", (k,), 100.0, 20e3) for k in on_one_phase)
    found = allocate(outlook, claims, Policy.EQUAL)
    assert any(b is not None and b.kind == "unbalance" for b in found.binding)


def test_the_same_question_has_the_same_answer() -> None:
    claims = _claims(range(0, 55, 2), 9000.0)
    one, two = (allocate(_outlook(300), claims, Policy.EQUAL) for _ in range(2))
    assert one.limits_w.tobytes() == two.limits_w.tobytes()
    assert one.binding == two.binding
