"""The compiled loops do what NumPy does, and the same to the last bit on every processor; without them nothing changes
but the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.feeders import tree_feeder
from dcu.grid import sweep
from dcu.grid.compiler import compile_network
from dcu.grid.port_model import PortModel
from dcu.hosting import allocate as allocate_module
from dcu.hosting import fill, headroom, judge, moves, spread
from dcu.hosting.allocate import NO_FLOW, Allocation, Policy, allocate
from dcu.hosting.compiled import share
from dcu.hosting.fill import Filled, Wishes, fill_in_order, fill_most, fill_together
from dcu.hosting.headroom import GridLimits, Outlook, Situation
from dcu.hosting.judge import Rise
from dcu.hosting.moves import choices
from dcu.hosting.relief import Sober
from dcu.hosting.spread import PHASES, Claim, Spread, worst_case
from dcu.hosting.tests.test_fill import problem

Reals = NDArray[np.float64]
MODEL = compile_network(tree_feeder(20, "three"))
N = len(MODEL.ports)
CASES = 3

pytestmark = pytest.mark.skipif(share is None, reason="built without the extension")


def use(monkeypatch: pytest.MonkeyPatch, loops: ModuleType | None) -> None:
    for module in (allocate_module, fill, headroom, judge, moves, spread):
        monkeypatch.setattr(module, "share", loops)


@pytest.mark.parametrize("share_out", [fill_together, fill_in_order, fill_most])
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
        filled, most = fill_together(a, b, wishes), fill_most(a, b, wishes)
        claims, others, missing = street(5)
        shared = [allocate(outlook(), claims, policy, others, missing).limits_w for policy in Policy]
        seen.append(
            (
                *shared,
                most.limits_w,
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
        share.fill_most(np.zeros((3, 2)), three, two, three, two, binding)
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


def street(seed: int) -> tuple[tuple[Claim, ...], Reals, Reals]:
    """Claims of one phase, of three and of three alike, some of them shy; what others draw, and what each constraint
    must stay below its limit, in each case."""
    random, prospect = np.random.default_rng(seed), outlook()
    claims = []
    for k, ports in enumerate(np.arange(N).reshape(-1, PHASES).tolist()):
        nominal = float(random.choice([0.0, 300.0, 2e3]))
        wanted = nominal + float(random.uniform(0.0, 3e4) * (seed % 4 + 1) / 4)
        kind = k % 4
        used = tuple(ports[: 1 if kind == 0 else PHASES])
        phases = tuple(range(PHASES)) if kind in {1, 2} else ()
        exports_w = 1e3 if kind == 2 else -np.inf
        claims.append(Claim(f"c{k}", used, nominal, wanted, wanted / 3 if k % 5 == 0 else 0.0, phases, exports_w))
    others = prospect.now.p_w + random.uniform(-300.0, 300.0, (CASES, N))
    return tuple(claims), others, random.uniform(0.0, 2e-3, (CASES, len(prospect.names)))


def loose(margin_v: float, current_a: float) -> Outlook:
    """Of the same street, with room to spare at the nominal limits or without, by margin and ratings."""
    model = replace(MODEL, rating_a=np.full(len(MODEL.currents), current_a), memo={})
    random = np.random.default_rng(7)  # no two constraints alike: of a tie rounding says which one binds
    p_w, u_v = random.uniform(0.0, 100.0, N), random.uniform(232.0, 234.0, N)
    now = Situation(p_w, np.zeros(N), u_v, np.full(N, margin_v), 0.02, 0.01)
    return Outlook(model, GridLimits.of(model, 6.0, vuf_max=0.02), now)


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("prospect_of", [outlook, partial(loose, 0.5, 400.0), partial(loose, 11.0, 60.0)])
@pytest.mark.parametrize("seed", range(8))
def test_allocations_are_the_same(
    policy: Policy, prospect_of: Callable[[], Outlook], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the nominal limits exceed already; with everything given and without. Where fillings are those of NumPy
    too, one of them may be repeated once more: a round is made for what it is worth, which rounding decides."""
    claims, others, missing = street(seed)
    lacking = (None, missing[0], missing)[seed % 3]
    rough = seed % 4 == 3
    found = allocate(prospect_of(), claims, policy, others, lacking, rough=rough)
    wanted = allocate_module._Sharing(prospect_of(), claims, policy, others, lacking, rough).run()
    assert found.limits_w == pytest.approx(wanted.limits_w, abs=1e-5)
    assert found.floor == pytest.approx(wanted.floor, abs=1e-12)
    assert (found.binding, found.exceeded, found.flows) == (wanted.binding, wanted.exceeded, wanted.flows)
    assert found.fairness == pytest.approx(wanted.fairness)
    assert any(why is not None for why in found.binding)
    use(monkeypatch, None)
    plain = allocate(prospect_of(), claims, policy, others, lacking, rough=rough)
    assert found.limits_w == pytest.approx(plain.limits_w, abs=fill.WORTH_W)
    assert found.floor == pytest.approx(plain.floor, abs=1e-9)
    assert (found.exceeded, found.flows) == (plain.exceeded, plain.flows)


def test_a_way_back_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where linear steps do not get there: an excess that jumps beyond every slope."""

    class Steep(Outlook):
        def excess(self, p_w: Reals) -> Reals:
            return super().excess(p_w) + np.where(p_w.sum(axis=1) < -30e3, 1.0, 0.0)[:, None]

    def answer() -> Allocation:
        model = replace(MODEL, memo={})
        now = Situation(np.full(N, 50.0), np.zeros(N), np.full(N, 233.0), np.zeros(N))
        prospect = Steep(model, GridLimits.of(model, 10.0), now)
        return allocate(prospect, tuple(Claim(f"c{k}", (k,), 10.0, 3e3) for k in range(N)), Policy.EQUAL)

    found = answer()
    use(monkeypatch, None)
    wanted = answer()
    assert found.flows == wanted.flows > 12
    assert found.limits_w == pytest.approx(wanted.limits_w, abs=1e-4)
    assert 29e3 < found.limits_w.sum() < 30e3


def test_no_flow_at_all_gives_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = tuple(Claim(f"c{k}", (k,), 1e6, 2e6) for k in range(N))
    found = allocate(outlook(), claims, Policy.EQUAL)
    assert (found.exceeded, found.binding) == (NO_FLOW, (NO_FLOW,) * N)
    use(monkeypatch, None)
    wanted = allocate(outlook(), claims, Policy.EQUAL)
    assert (found.limits_w == wanted.limits_w).all()
    assert (found.floor == wanted.floor).all()
    assert found.flows == wanted.flows == 1


def test_claims_and_answers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="not in order"):
        allocate(loose(0.5, 400.0), (Claim("c0", (0,), 2e3, 1e3),), Policy.EQUAL)
    with pytest.raises(ValueError, match="not in order"):
        allocate(loose(0.5, 400.0), (Claim("c0", (0,), 2e3, np.nan),), Policy.EQUAL)
    with pytest.raises(ValueError, match="do not fit"):
        allocate(loose(0.5, 400.0), (Claim("c0", (0,), 1e3, 2e3),), Policy.EQUAL, np.zeros((2, N - 1)))
    with pytest.raises(ValueError, match="do not fit"):
        allocate(loose(0.5, 400.0), (Claim("c0", (0,), 1e3, 2e3),), Policy.EQUAL, None, np.zeros((2, 4 * N)))

    class Short(Outlook):
        def excess(self, p_w: Reals) -> Reals:
            return super().excess(p_w)[:, 1:]

    prospect = Short(MODEL, GridLimits.of(MODEL, 6.0), loose(0.5, 400.0).now)
    with pytest.raises(ValueError, match="does not fit the question"):
        allocate(prospect, (Claim("c0", (0,), 1e3, 2e3),), Policy.EQUAL)


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
