"""The compiled loops do what NumPy does, and the same to the last bit on every processor; without them nothing changes
but the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.feeders import tree_feeder
from dcu.grid import sweep
from dcu.grid.compiler import compile_network
from dcu.grid.port_model import PortModel
from dcu.hosting import allocate, fill, headroom, judge, moves
from dcu.hosting.allocate import Claim, Policy, Spread, worst_case
from dcu.hosting.compiled import share
from dcu.hosting.fill import Filled, Wishes, fill_in_order, fill_together
from dcu.hosting.headroom import GridLimits, Outlook, Situation
from dcu.hosting.judge import Rise
from dcu.hosting.moves import choices
from dcu.hosting.relief import Sober
from dcu.hosting.tests.test_fill import problem

Reals = NDArray[np.float64]
MODEL = compile_network(tree_feeder(20, "three"))
N = len(MODEL.ports)
CASES = 3

pytestmark = pytest.mark.skipif(share is None, reason="built without the extension")


def use(monkeypatch: pytest.MonkeyPatch, loops: ModuleType | None) -> None:
    for module in (allocate, fill, headroom, judge, moves):
        monkeypatch.setattr(module, "share", loops)


@pytest.mark.parametrize("share_out", [fill_together, fill_in_order])
@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_shares_are_the_same(
    share_out: Callable[[Reals, Reals, Wishes], Filled], *, hot: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, wishes = problem(seed, hot=hot)
    weight = np.random.default_rng(seed).uniform(0.5, 2.0, len(wishes.start_w))
    asked = Wishes(wishes.start_w, wishes.wanted_w, weight)
    found = share_out(a, b, asked)
    use(monkeypatch, None)
    wanted = share_out(a, b, asked)
    assert found.limits_w == pytest.approx(wanted.limits_w, abs=1e-6)
    assert (found.limits_w > asked.start_w).any() or hot
    assert (found.binding == wanted.binding).all()


def outlook(model: PortModel = MODEL, vuf_max: float = 0.02) -> Outlook:
    """Of a street with every current rated, some of them nearly used up."""
    random = np.random.default_rng(1)
    rated = replace(model, rating_a=random.uniform(20.0, 150.0, len(model.currents)), memo={})
    now = Situation(random.uniform(-2e3, 1e3, N), np.zeros(N), np.full(N, 240.0), np.ones(N), 0.05, 0.01)
    return Outlook(rated, GridLimits.of(rated, 8.0, vuf_max=vuf_max), now)


def states(prospect: Outlook, seed: int) -> Reals:
    """In each, exports that are not measured, on one phase more than on the others; some export less than now."""
    random = np.random.default_rng(seed)
    more = random.uniform(-500.0, 3e3, (CASES, N)) * np.where(np.arange(N) % CASES == np.arange(CASES)[:, None], 1, 0.2)
    return np.asarray(prospect.now.p_w - more)


@pytest.mark.parametrize("vuf_max", [0.02, np.inf])
@pytest.mark.parametrize("seed", range(5))
def test_excess_is_the_same_in_the_worst_use(seed: int, vuf_max: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voltages, currents and unbalance: the same choices of exports, the same bounds."""
    prospect = outlook(vuf_max=vuf_max)
    p_w = states(prospect, seed)
    found = prospect.excess(p_w)
    use(monkeypatch, None)
    plain = outlook(vuf_max=vuf_max)
    wanted = plain.excess(p_w)
    assert (wanted[:, 2 * N :] > 0).any()
    assert (wanted[:, 2 * N :] < -0.5).any()
    assert found == pytest.approx(wanted, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_a_guess_is_exact_where_a_bound_is_not_enough(seed: int) -> None:
    prospect = outlook()
    p_w = states(prospect, seed)
    prospect.excess(p_w)
    exact = prospect.guess(p_w)
    enough = np.random.default_rng(seed).uniform(-0.5, 0.5, exact.shape)
    bounds = prospect.guess(p_w, enough)
    assert (bounds != exact).any()
    assert (bounds >= exact).all()
    assert (bounds == exact)[bounds > enough].all()


@pytest.mark.parametrize("share_of_ports", [0.02, 0.3, 1.0])
def test_relief_is_the_same_for_a_few_and_for_all(share_of_ports: float, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    unused_w = random.uniform(100.0, 5e3, (CASES, N)) * (random.random((CASES, N)) < share_of_ports)
    unused_w[0, 0] = 1e3
    prospect = outlook()
    found = prospect.relief(unused_w)
    use(monkeypatch, None)
    assert found.max() > 0
    assert found == pytest.approx(prospect.relief(unused_w), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_what_may_not_come_is_the_same_at_worst(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same exports are taken to come, for upper and lower limits, so that several choices are needed."""
    found = []
    for loops in (share, None):
        use(monkeypatch, loops)
        prospect = outlook()
        p_w = states(prospect, seed)[0]
        rows = np.random.default_rng(seed).permutation(2 * N)[:N]
        unseen_w = np.maximum(prospect.now.p_w - p_w, 0.0)
        by_all = prospect.relief(unseen_w[None, :])[0][: 2 * N]
        found.append((*choices(prospect.model, unseen_w, rows, np.ones(N), by_all), prospect.at_worst(p_w, rows)))
    (pushes, otherwise, worst), (same_pushes, wanted, same_worst) = found
    assert np.array_equal(pushes, same_pushes)
    assert len(pushes) > CASES
    assert otherwise == pytest.approx(wanted, rel=1e-5, abs=1e-8)  # differences of single precision
    assert worst == pytest.approx(same_worst, rel=1e-6, abs=1e-8)


SPREAD = Spread(((3,), (7, 8), (0, 1, 2), (20, 21, 22), (24, 25, 26)), ((), (), (0, 1, 2), (), (0, 1, 2)))


@pytest.mark.parametrize("sober", [False, True])
def test_slopes_are_the_same(*, sober: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prospect = outlook()
    p_w, rows = states(prospect, 4), np.arange(0, len(prospect.names), 3)
    at = rows % CASES
    found = (Sober(prospect, None, 0.0) if sober else prospect).slopes_by_limit(p_w, rows, at, SPREAD.onto)
    by_port = prospect.slopes(p_w[1], rows)
    use(monkeypatch, None)
    plain = outlook()
    wanted = (Sober(plain, None, 0.0) if sober else plain).slopes_by_limit(p_w, rows, at, SPREAD.onto)
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    assert (wanted[rows >= 2 * N] != 0).any()
    assert np.abs(found - wanted).max() <= 1e-11 * largest.max()
    assert np.abs(by_port - plain.slopes(p_w[1], rows)).max() <= 1e-11 * largest.max()


@pytest.mark.parametrize("limits_w", [np.full(5, 2e3), np.array([[0.0, 50.0, 3e3, 1e3, 10.0], [9e3, 0, 0, 0, 4e3]])])
def test_limits_are_used_in_the_same_ways(limits_w: Reals, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    now_w, others_w = random.uniform(-3e3, 1e3, N), random.uniform(-1e3, 1e3, (CASES, N))
    found = SPREAD.powers(limits_w, others_w, now_w)
    use(monkeypatch, None)
    assert found == pytest.approx(SPREAD.powers(limits_w, others_w, now_w), rel=1e-12, abs=1e-9)


def test_the_worst_case_is_the_first_of_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    excess, extra = random.integers(0, 4, (2, CASES, 50)).astype(float)
    for more in (None, extra, extra[:1]):
        found = worst_case(excess, more)
        with monkeypatch.context() as context:
            use(context, None)
            assert all((one == two).all() for one, two in zip(found, worst_case(excess, more), strict=True))


@pytest.mark.parametrize("policy", [Policy.EQUAL, Policy.PROPORTIONAL, Policy.MAX_TOTAL])
def test_limits_rise_to_the_same_level(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, with starts alike, somebody who is there already and constraints that few push."""
    random = np.random.default_rng(6)
    start = np.repeat(random.uniform(0.0, 2e3, 20), 2)
    claims = tuple(Claim(f"m{k}", (k,), 500.0, w) for k, w in enumerate((start + random.uniform(0, 4e3, 40)).tolist()))
    start[:3] = [c.wanted_w for c in claims[:3]]
    slopes, share_moved = random.uniform(0.0, 1e-5, (5, 40)), random.random(5)
    slopes[random.random(slopes.shape) < 0.3] = 0.0
    found = []
    for loops in (share, None):
        use(monkeypatch, loops)
        rise = Rise.of(claims, start, policy)
        far = rise.limits_w
        rise.cut(slopes, share_moved)
        assert (rise.limits_w >= start).all()
        assert (rise.limits_w < far).any()
        found.append(rise.limits_w)
    assert np.array_equal(found[0], found[1])


@pytest.mark.skipif("avx2" not in sweep.available(), reason="one build for this processor")
def test_wider_registers_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: a decision made here is made again elsewhere."""
    seen = []
    for name in ("_share", "_share_avx2"):
        use(monkeypatch, import_module(f"dcu.hosting.{name}"))
        prospect = outlook()
        p_w, rows = states(prospect, 5), np.arange(len(prospect.names))
        a, b, wishes = problem(1, hot=False)
        filled = fill_together(a, b, wishes)
        seen.append(
            (
                prospect.excess(p_w),
                prospect.slopes_by_limit(p_w, rows, rows % CASES, SPREAD.onto),
                prospect.relief(np.maximum(prospect.now.p_w - p_w, 0.0)),
                prospect.at_worst(p_w[0], rows),
                SPREAD.powers(np.full(5, 2e3), p_w, prospect.now.p_w),
                filled.limits_w,
                filled.binding,
            )
        )
    assert all(np.array_equal(one, two) for one, two in zip(*seen, strict=True))


def test_arrays_that_do_not_fit_are_refused() -> None:
    assert share is not None
    two, three = np.zeros(2), np.zeros(3)
    binding, order = np.zeros(2, dtype=np.int64), np.arange(3)
    with pytest.raises(ValueError, match="do not fit"):
        share.fill(np.zeros((3, 2)), two, two, two, False, two, binding)
    with pytest.raises(ValueError, match="do not fit"):
        share.fill_near(np.zeros((1, 2)), binding + 1, binding == 0, two, 0.0, two, two, two, True, two, binding)
    with pytest.raises(ValueError, match="do not fit"):
        share.relief(np.zeros((3, 3), dtype=np.float32), order + 1, np.zeros((1, 3)), np.zeros((1, 6)))
    with pytest.raises(ValueError, match="do not fit"):
        share.choices(
            *(np.zeros((3, 3)), np.zeros((3, 3), dtype=np.float32), order, three, order + 4, three, np.zeros(6)),
            *(1, 1.0, 0.0, np.zeros((1, 3), dtype=bool), np.zeros((1, 3))),
        )
    with pytest.raises(ValueError, match="do not fit"):
        share.by_limit(np.zeros((1, 2)), np.array([0, 2]), np.array([0, 1]), two, binding > 0, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="do not fit"):
        share.level(np.zeros((1, 2)), np.zeros(1), two, np.zeros(4), np.arange(1, 5), two)
    at = order[:2], order[:1], two, np.ones(1, dtype=bool)  # one claim of two ports
    with pytest.raises(ValueError, match="do not fit"):
        share.powers(np.zeros((1, 1)), three[None], three, *at, np.array([[5]]), np.zeros((1, 1, 3)))


def test_an_array_of_another_kind_is_not_copied() -> None:
    """What a loop writes would be lost in the copy."""
    assert share is not None
    with pytest.raises(TypeError):
        share.worst_case(np.zeros((1, 3)), None, np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.int64))


def test_a_model_may_lie_in_memory_by_columns() -> None:
    """As a file or a solver may leave it."""
    current_h, node_h_ohm, z = map(np.asfortranarray, (MODEL.current_h, MODEL.node_h_ohm, MODEL.z_ohm))
    model = replace(MODEL, z=z, current_h=current_h, node_h_ohm=node_h_ohm, memo={})
    plain, turned = outlook(), outlook(model)
    p_w, rows = states(plain, 6), np.arange(2 * N)
    assert turned.excess(p_w) == pytest.approx(plain.excess(p_w), rel=1e-11, abs=1e-11)
    assert turned.slopes(p_w[0], rows) == pytest.approx(plain.slopes(p_w[0], rows), rel=1e-9, abs=1e-15)
