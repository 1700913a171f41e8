"""One state at a time: the same solutions as the port engine, wherever it starts, and none where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.feeders import tree_feeder
from dcu.grid import sweep
from dcu.grid.compiler import compile_network
from dcu.grid.injections import Injections, prepare
from dcu.grid.one_state import solve_each, solve_from_idle, solve_one, step_few
from dcu.grid.port_engine import solve_ports
from dcu.grid.port_model import Lines, PortModel

TOLERANCE_PU = 1e-9


@pytest.fixture(
    scope="module",
    params=[(4, True), (100, True), (4, False), (100, False)],
    ids=["small tree", "tree", "dense", "lines"],
)
def model(request: pytest.FixtureRequest) -> PortModel:
    buses, kept = request.param
    found = compile_network(tree_feeder(buses, "three"))
    assert found.tree is not None
    return found if kept else replace(found, tree=None)


def draws(model: PortModel, seed: int, total_w: float = 150e3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    n = len(model.ports)
    return random.uniform(-1, 0.5, n) * total_w / n, random.uniform(0, 0.2, n) * total_w / n


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_the_port_engine_finds(model: PortModel, seed: int) -> None:
    p, q = draws(model, seed)
    wanted = solve_ports(model, prepare(Injections(p[None], q[None]), model.u_nominal_v), 1e-12).u_v[0]
    elsewhere, _ = solve_one(model, 0.3 * p, q, TOLERANCE_PU)
    for near in (None, elsewhere, wanted):
        u, i = solve_one(model, p, q, TOLERANCE_PU, near)
        assert np.abs(u - wanted).max() < 1e-8 * model.u_nominal_v.max()
        assert u == pytest.approx(model.u_open_v + model.z_ohm @ i, rel=1e-12)


def test_a_step_is_right_to_first_order(model: PortModel) -> None:
    p, q = draws(model, 1)
    here, _ = solve_one(model, p, q, TOLERANCE_PU)
    there, _ = solve_one(model, 1.2 * p, q, TOLERANCE_PU)
    guessed = step_few(model, (1.2 * p)[None, :], q, here)[0][0]
    assert np.abs(guessed - there).max() < 0.2 * np.abs(here - there).max()


def test_each_of_some_states_is_as_if_it_were_the_only_one(model: PortModel) -> None:
    """To the last bit, though states that need few steps stand beside one that needs many and one without solution."""
    p, q = draws(model, 3)
    near, _ = solve_one(model, p, q, TOLERANCE_PU)
    states = np.array([1.0, 1.0001, 1.7, 1.2, 300.0, 0.0])[:, None] * p
    found = solve_each(model, states, q, TOLERANCE_PU, near)
    alone = [solve_one(model, state, q, TOLERANCE_PU, near) for state in states]
    for k, wanted in enumerate(zip(*alone, strict=True)):
        assert np.array_equal(found[k], np.array(wanted), equal_nan=True)
    assert np.isnan(found[0]).any(axis=1).tolist() == [False, False, False, False, True, False]


@pytest.mark.skipif("avx2_plain" not in sweep.available(), reason="one width of registers on this processor")
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_wider_registers_find_the_same_to_the_last_bit(count: int, alone: bool) -> None:
    """Two neighbours go on while one of them needs steps, however many a register has room for; one has no solution."""
    model = compile_network(tree_feeder(100, "three"))
    assert model.tree is not None
    p, q = draws(model, count)
    near, _ = solve_one(model, p, q, TOLERANCE_PU)
    states = np.array([1.7, 1.0001, 1.3, 0.0, 300.0, 1.0, 1.1])[:count, None] * p
    wide, narrow = sweep.Walker(model.tree), sweep.Walker(model.tree)
    narrow.several = sweep.ALONE
    assert wide.several != narrow.several
    for start, steps_max in ((near, sweep.STEPS_MAX), (None, sweep.STEPS_MAX), (near, 1), (near, 3)):
        found, wanted = (w.walk(states, q, TOLERANCE_PU, start, steps_max, alone=alone) for w in (wide, narrow))
        for one, other in zip(found, wanted, strict=True):
            assert np.array_equal(one, other, equal_nan=True)


def test_beyond_the_nose_there_is_nothing(model: PortModel) -> None:
    p, q = draws(model, 1, total_w=50e6)
    u, i = solve_one(model, np.abs(p), q, TOLERANCE_PU)
    assert np.isnan(u).all()
    assert np.isnan(i).all()


def test_a_large_feeder_is_by_lines() -> None:
    assert isinstance(compile_network(tree_feeder(100, "three")).z, Lines)


def test_what_is_kept_is_asked_again_by_its_draws_alone() -> None:
    model = compile_network(tree_feeder(4, "three"))
    n = len(model.ports)
    q = np.zeros(n)
    one, other = np.full(n, 300.0), np.full(n, -300.0)
    first = solve_from_idle(model, one, q, TOLERANCE_PU)
    assert solve_from_idle(model, one.copy(), q, TOLERANCE_PU) is first
    asked = other.copy()
    for p, vars_ in ((asked, q), (other, q + 100.0), (one, q)):
        u, i = solve_from_idle(model, p, vars_, TOLERANCE_PU)
        again, currents = solve_one(model, p.copy(), vars_, TOLERANCE_PU)
        assert np.array_equal(u, again)
        assert np.array_equal(i, currents)
    kept = one.copy()
    before = solve_from_idle(model, kept, q, TOLERANCE_PU)
    kept += 1.0  # a caller's array may change
    assert solve_from_idle(model, kept, q, TOLERANCE_PU) is not before
