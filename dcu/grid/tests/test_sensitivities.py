"""Derivatives must be those of the solver (central differences are the judge), and a linear step must never be further
off than its bound says."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.grid.feeder import solve
from dcu.grid.injections import Damper, Draw, Element, Injections, Inverter, base_injections, prepare, q_of_u_vde_4105
from dcu.grid.sensitivities import linear_step, sensitivities, sensitivity
from dcu.grid.tests.golden import feeder, golden

NAMES = ("port_u_v", "current_a", "bus_u_v")


def _cases() -> dict[str, tuple[str, Injections]]:
    eulv = golden("eulv", "minute566").injections
    inverters: list[Element] = [Inverter(k, 5e3, q_of_u=q_of_u_vde_4105()) for k in range(20)]
    draws: list[Element] = [Draw(k, *((0.3, 0.3, 0.4) if k % 2 else (0, 0, 1))) for k in range(55)]
    p = np.concatenate([eulv.p_w[0], np.full(20, -3e3)])
    mixed = Injections.of(p, np.concatenate([eulv.q_var[0], np.zeros(20)]), [*draws, *inverters])
    four = feeder("four wires")
    at = tuple(four.model.ports.index(f"p3.{phase}") for phase in ("L1", "L2", "L3"))
    base = base_injections(four.model)
    damped = Injections.of(
        np.concatenate([base.p_w[0], [-6e3]]),
        np.concatenate([base.q_var[0], [0.0]]),
        [*(Draw(k) for k in range(len(four.model.ports))), Damper(at, 20e3, 2.0)],  # type: ignore[arg-type]
    )
    return {
        "constant power": ("eulv", eulv),
        "draws and inverters": ("eulv", mixed),
        "13 nodes, ZIP": ("ieee13", base_injections(feeder("ieee13").model)),
        "meshed": ("meshed", base_injections(feeder("meshed").model)),
        "damper": ("four wires", damped),
    }


@pytest.mark.parametrize("case", ["constant power", "draws and inverters", "13 nodes, ZIP", "meshed", "damper"])
def test_derivatives_are_the_solvers_own(case: str) -> None:
    name, batch = _cases()[case]
    whole = feeder(name)
    n = len(whole.model.ports)
    prepared = prepare(batch, whole.model.u_nominal_v)
    u = solve(whole, batch, "port", tolerance_pu=1e-14)["port_u_v"][0]
    found = sensitivity(whole.model, prepared, 0, u)
    currents, nodes = found.currents(whole.model), found.nodes(whole.model)
    elements = [*(batch.elements or [Draw(k) for k in range(n)]), *(Draw(k) for k in range(n))]
    watt = 1e-3 * float(np.abs(batch.p_w).max())
    for column in {0, n // 2, n - 1, n, n + n // 3, 2 * n - 1}:
        extra = np.zeros((2, 2 * n))
        extra[:, column] = watt, -watt
        both = Injections.of(
            np.concatenate([np.repeat(batch.p_w, 2, axis=0), extra[:, :n]], axis=1),
            np.concatenate([np.repeat(batch.q_var, 2, axis=0), extra[:, n:]], axis=1),
            elements,
        )
        around = solve(whole, both, "port", tolerance_pu=1e-15, results=NAMES)
        for key, slope in (("port_u_v", found.du), ("current_a", currents), ("bus_u_v", nodes)):
            difference = (around[key][0] - around[key][1]) / (2 * watt)
            assert np.abs(difference - slope[:, column]).max() < 1e-6 * np.abs(slope[:, column]).max(), (key, column)


def test_a_batch_gives_one_sensitivity_for_each_state() -> None:
    whole = feeder("eulv")
    base = golden("eulv", "minute566").injections
    batch = Injections.of(base.p_w * [[1.0], [2.0]], base.q_var * [[1.0], [2.0]])
    u = solve(whole, batch)["port_u_v"]
    one, two = sensitivities(whole.model, prepare(batch, whole.model.u_nominal_v), u)
    assert np.abs(one.du - two.du).max() > 0
    assert one.magnitude().shape == (55, 110)


def test_a_linear_step_is_within_its_bound_and_the_bound_within_reason() -> None:
    whole = feeder("eulv")
    base = golden("eulv", "minute566").injections
    at = solve(whole, base, tolerance_pu=1e-14)["port_u_v"][0]
    slope = sensitivity(whole.model, prepare(base, whole.model.u_nominal_v), 0, at)
    random = np.random.default_rng(11)
    given = 0
    for size in (100.0, 1e3, 3e3, 6e3):
        for _ in range(50):
            change = np.concatenate([random.uniform(-size, size, 55) * (random.random(55) < 0.3), np.zeros(55)])
            after = Injections.of(base.p_w + change[:55], base.q_var)
            step = linear_step(whole.model, slope, prepare(after, whole.model.u_nominal_v), 0, change)
            exact = solve(whole, after, "port", tolerance_pu=1e-14)["port_u_v"][0]
            off = np.abs(exact - step.u_v)
            assert (off <= step.bound_v).all()
            if np.isfinite(step.bound_v).all() and off.max() > 1e-6:
                given += 1
                assert step.bound_v.max() < 10 * off.max()
    assert given > 100


def test_where_no_bound_can_be_given_it_is_infinite() -> None:
    whole = feeder("eulv")
    base = golden("eulv", "minute566").injections
    at = solve(whole, base)["port_u_v"][0]
    slope = sensitivity(whole.model, prepare(base, whole.model.u_nominal_v), 0, at)
    change = np.concatenate([np.full(55, 60e3), np.zeros(55)])
    after = Injections.of(base.p_w + change[:55], base.q_var)
    step = linear_step(whole.model, slope, prepare(after, whole.model.u_nominal_v), 0, change)
    assert np.isinf(step.bound_v).all()
