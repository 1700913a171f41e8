"""Power flow must be right: published solutions, a plain Newton solution of the whole network, and each engine by the
other. The feeders hold what breaks power flows: near-zero impedances, neutrals earthed nowhere, once and everywhere,
delta sides, rings, capacitance, switches, voltage-dependent draws, states up to the nose and beyond."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.grid.feeder import Feeder, solve
from dcu.grid.flow_result import RESULTS, Status
from dcu.grid.helm import helm
from dcu.grid.injections import (
    Curve,
    Damper,
    Draw,
    Injections,
    Inverter,
    base_injections,
    prepare,
    q_of_u_cei_0_21,
    q_of_u_vde_4105,
)
from dcu.grid.oracle import solve_in_full
from dcu.grid.sweep import available, sweep
from dcu.grid.tests.golden import EULV_CASES, MADE_UP, RADIAL, day, feeder, golden
from shared.errors import ConfigError, HeadroomError

ALL_RESULTS = tuple(RESULTS)
PUBLISHED = [("eulv", case) for case in EULV_CASES] + [("ieee13", "base"), ("ieee13", "noload")]


@pytest.mark.parametrize(("name", "case"), PUBLISHED)
@pytest.mark.parametrize("engine", ["port", "sweep"])
def test_published_voltages_are_reproduced(name: str, case: str, engine: str) -> None:
    whole, wanted = feeder(name), golden(name, case)
    result = solve(whole, wanted.injections, engine, results=("bus_u_v",))  # type: ignore[arg-type]
    u = result["bus_u_v"][0] / whole.model.node_nominal_v
    off = [abs(x - wanted.u_pu[n.bus, n.conductor]) for n, x in zip(whole.model.nodes, u, strict=True)]
    assert len(off) == len(wanted.u_pu)
    assert max(off) < 1e-8


@pytest.mark.parametrize("engine", ["port", "sweep"])
def test_a_published_day_is_reproduced_in_one_call(engine: str) -> None:
    p, q, v = day()
    result = solve(feeder("eulv"), Injections.of(p, q), engine)  # type: ignore[arg-type]
    assert result.converged.all()
    assert np.abs(result["port_u_v"] / (416 / 3**0.5) - v).max() < 1e-8


@pytest.mark.parametrize("name", [*MADE_UP, "ieee13", "eulv"])
def test_voltages_currents_and_losses_are_those_of_the_whole_network(name: str) -> None:
    whole = feeder(name)
    base = golden("eulv", "minute566").injections if name == "eulv" else base_injections(whole.model)
    full = solve_in_full(whole.network, base.p_w[0], base.q_var[0])
    result = solve(whole, base, results=ALL_RESULTS)
    assert np.abs(result["port_u_v"][0] - full.port_u_v).max() < 1e-8 * np.abs(full.port_u_v).max()
    assert result["loss_w"][0] == pytest.approx(full.loss_w, rel=1e-7)
    for k, current in enumerate(whole.model.currents):
        if current.kind == "source":
            at = whole.network.source.conductors.index(current.conductor)
            assert abs(result["current_a"][0, k] - full.source_i_a[at]) < 1e-6 * np.abs(full.source_i_a).max()
    for branch in whole.network.branches:
        if branch.y_s is None:
            series = full.series_i_a[f"branch {branch.id}"]
            rows = [k for k, c in enumerate(whole.model.currents) if (c.kind, c.id) == ("branch", branch.id)]
            assert np.abs(result["current_a"][0, rows] - series).max() <= 1e-7 * max(np.abs(series).max(), 1.0)


@pytest.mark.parametrize("name", RADIAL)
def test_both_engines_agree_on_everything(name: str) -> None:
    whole = feeder(name)
    base = golden("eulv", "minute566").injections if name == "eulv" else base_injections(whole.model)
    scale = np.linspace(-0.5, 1.5, 23)[:, None]
    batch = Injections.of(base.p_w * scale, base.q_var * scale, base.elements)
    one, two = (solve(whole, batch, engine, results=ALL_RESULTS) for engine in ("port", "sweep"))
    assert one.converged.all()
    assert two.converged.all()
    assert (np.abs(one["port_u_v"] - two["port_u_v"]) / whole.model.u_nominal_v).max() < 1e-9
    for key in RESULTS:
        if one[key].size:
            assert np.abs(one[key] - two[key]).max() <= 1e-8 * max(np.abs(one[key]).max(), 1.0), key


def _mixed() -> Injections:
    """Draws of three kinds and inverters with every rule, at different loads."""
    p, q, _ = day()
    steps = slice(0, 1440, 60)
    draws = [Draw(k, *((0.2, 0.3, 0.5) if k % 3 else (0, 0, 1))) for k in range(55)]
    inverters = [
        *(Inverter(k, 5e3, q_of_u=q_of_u_cei_0_21(), lock_in=0.2, s_max_va=5e3) for k in range(12)),
        *(Inverter(k, 4e3, q_of_u=q_of_u_vde_4105()) for k in range(12, 20)),
        *(Inverter(k, 4e3, p_of_u=Curve((1.06, 1.10), (1.0, 0.0))) for k in range(20, 30)),
        *(Inverter(k, 4e3, cos_phi_of_p=Curve((0.5, 1.0), (1.0, 0.9))) for k in range(30, 40)),
    ]
    sun = np.linspace(0.0, 1.0, 24)[:, None] * np.array([e.s_rated_va for e in inverters])
    p_all = np.concatenate([p[steps], -sun], axis=1)
    return Injections.of(p_all, np.concatenate([q[steps], 0 * sun], axis=1), [*draws, *inverters])


def test_both_engines_agree_on_inverter_rules() -> None:
    one, two = (solve(feeder("eulv"), _mixed(), engine) for engine in ("port", "sweep"))
    assert one.converged.all()
    assert np.abs(one["port_u_v"] - two["port_u_v"]).max() / 230 < 1e-9


def test_every_rule_holds_at_the_solution() -> None:
    batch = _mixed()
    assert batch.elements is not None
    result = solve(feeder("eulv"), batch, results=("port_u_v", "port_i_a"))
    u, i = result["port_u_v"], result["port_i_a"]
    drawn = -u * np.conj(i)
    nominal = feeder("eulv").model.u_nominal_v
    for port in range(40):
        x = np.abs(u[:, port]) / nominal[port]
        want = np.zeros(len(x), dtype=complex)
        for k, e in enumerate(batch.elements):
            if isinstance(e, Draw) and e.port == port:
                want += (batch.p_w[:, k] + 1j * batch.q_var[:, k]) * (e.z * x * x + e.i * x + e.p)
            elif isinstance(e, Inverter) and e.port == port:
                p = batch.p_w[:, k] * (e.p_of_u.at(x) if e.p_of_u else 1.0)
                q = np.zeros(len(x))
                if e.q_of_u:
                    active = np.abs(batch.p_w[:, k]) >= e.lock_in * e.s_rated_va
                    room = np.sqrt(np.maximum((e.s_max_va or np.inf) ** 2 - p**2, 0.0))
                    q = np.clip(e.q_of_u.at(x) * e.s_rated_va * active, -room, room)
                if e.cos_phi_of_p:
                    q = np.abs(p) * np.tan(np.arccos(e.cos_phi_of_p.at(np.abs(p) / e.s_rated_va)))
                want += p + 1j * q
        assert np.abs(drawn[:, port] - want).max() < 1e-3


@pytest.mark.parametrize("zero", [True, False])
def test_damping_control_damps_what_is_not_positive_sequence(zero: bool) -> None:
    whole = feeder("four wires")
    at = tuple(whole.model.ports.index(f"p3.{phase}") for phase in ("L1", "L2", "L3"))
    draws = [Draw(k) for k in range(len(whole.model.ports))]
    p = np.concatenate([whole.model.base_p_w, [-9e3]])
    batch = Injections.of(p, 0.0, [*draws, Damper(at, 20e3, damping=3.0, zero=zero)])  # type: ignore[arg-type]
    plain = Injections.of(p, 0.0, [*draws, Damper(at, 20e3, damping=0.0)])  # type: ignore[arg-type]
    names = ("vuf", "port_u_v", "port_i_a")
    one, two = (solve(whole, batch, engine, results=names) for engine in ("port", "sweep"))
    assert np.abs(one["port_u_v"] - two["port_u_v"]).max() / 230 < 1e-9
    without = solve(whole, plain, results=names)
    bus = [name for name, _, _ in whole.model.three_phase_buses()].index("b")
    assert one["vuf"][0, bus] < without["vuf"][0, bus]
    # The law itself, from the solution: I = g1 U1 - gd (U - U1).
    u = one["port_u_v"][0, list(at)]
    turn = np.exp(2j * np.pi / 3 * np.arange(3))
    u1 = (u * turn).sum() / 3 / turn
    rest = u - u1 - (0 if zero else u.sum() / 3)
    law = 9e3 / (3 * np.conj(u1)) - 3.0 * 20e3 / (3 * whole.model.u_nominal_v[at[0]] ** 2) * rest
    others = -np.conj(whole.model.base_p_w[list(at)] / u)
    assert np.abs(one["port_i_a"][0, list(at)] - others - law).max() < 1e-6


def test_an_inverter_above_its_cut_off_goes_off_and_the_furthest_first() -> None:
    whole = feeder("eulv")
    p, q, _ = day()
    elements = [Draw(k) for k in range(55)] + [Inverter(k, 6e3, cut_off=1.10) for k in range(55)]
    powers = np.concatenate([p[720:722], np.full((2, 55), -6e3)], axis=1)
    batch = Injections.of(powers, np.concatenate([q[720:722], np.zeros((2, 55))], axis=1), elements)
    results = {engine: solve(whole, batch, engine, results=("port_u_v", "cut_off")) for engine in ("port", "sweep")}
    one, two = results["port"], results["sweep"]
    assert (one["cut_off"] == two["cut_off"]).all()
    off = one["cut_off"][0, 55:]
    assert 0 < off.sum() < 55
    u = np.abs(one["port_u_v"][0]) / whole.model.u_nominal_v
    assert (u[~off] <= 1.10 + 1e-9).all()
    # The last to go was above its limit while it was on.
    again = powers.copy()
    again[:, 55:][one["cut_off"][:, 55:]] = 0.0
    check = solve(whole, Injections.of(again, batch.q_var, [Draw(e.port) for e in elements]))
    assert np.abs(check["port_u_v"] - one["port_u_v"]).max() < 1e-6


@pytest.mark.parametrize("engine", ["port", "sweep"])
def test_newton_finishes_close_to_the_nose_and_beyond_it_there_is_no_number(engine: str) -> None:
    whole = feeder("eulv")
    base = golden("eulv", "minute566").injections
    nose = 10 * float(helm(whole.model, Injections.of(10 * base.p_w, 10 * base.q_var)).nose_share[0])
    share = np.array([[1.0], [0.99 * nose], [0.9999 * nose], [1.01 * nose], [40.0]])
    result = solve(whole, Injections.of(base.p_w * share, base.q_var * share), engine, results=("port_u_v", "u_min_pu"))  # type: ignore[arg-type]
    assert result.status.tolist() == [Status.CONVERGED] * 3 + [Status.NO_SOLUTION] * 2
    assert np.isfinite(result["port_u_v"][:3]).all()
    assert np.isnan(result["port_u_v"][3:]).all()
    assert np.isnan(result["u_min_pu"][3:]).all()
    assert result.contraction[1] > result.contraction[0]


@pytest.mark.parametrize("engine", ["port", "sweep"])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_the_error_estimate_keeps_its_word(engine: str, tolerance: float) -> None:
    """Random states from light load to 90 % of the nose; the exact solution is that of a far tighter tolerance."""
    random = np.random.default_rng(7)
    base = golden("eulv", "minute566").injections
    share = random.uniform(-3, 3, (200, 55)) + random.uniform(0, 2, (200, 1))
    batch = Injections.of(base.p_w * share, base.q_var * share)
    rough = solve(feeder("eulv"), batch, engine, tolerance_pu=tolerance)  # type: ignore[arg-type]
    exact = solve(feeder("eulv"), batch, "port", tolerance_pu=1e-13)
    error = (np.abs(rough["port_u_v"] - exact["port_u_v"]) / 230).max(axis=1)
    assert rough.converged.all()
    assert (error <= tolerance).all()
    assert error.max() > tolerance / 1e4


def test_results_do_not_depend_on_threads_and_every_instruction_set_agrees() -> None:
    p, q, _ = day()
    batch = Injections.of(np.tile(p, (3, 1)), np.tile(q, (3, 1)))
    whole = feeder("eulv")
    one = solve(whole, batch, "sweep", threads=1)["port_u_v"]
    for threads in (2, 3, 7):
        assert solve(whole, batch, "sweep", threads=threads)["port_u_v"].tobytes() == one.tobytes()
    prepared = prepare(batch, whole.model.u_nominal_v)
    for kernels in available():
        other = sweep(whole.tree, prepared, 1e-10, kernels=kernels).u_v
        assert other is not None
        assert np.abs(other - one).max() / 230 < 1e-9


@pytest.mark.parametrize("kernels", available())
def test_single_precision_is_good_for_a_millionth(kernels: str) -> None:
    random = np.random.default_rng(3)
    base = golden("eulv", "minute566").injections
    share = random.uniform(-2, 3, (500, 55))
    prepared = prepare(Injections.of(base.p_w * share, base.q_var * share), feeder("eulv").model.u_nominal_v)
    rough = sweep(feeder("eulv").tree, prepared, 1e-6, single=True, kernels=kernels)
    exact = sweep(feeder("eulv").tree, prepared, 1e-12)
    assert rough.u_v is not None
    assert exact.u_v is not None
    assert np.abs(rough.u_v - exact.u_v).max() / 230 < 1e-6


def test_minima_and_maxima_are_those_of_the_ports() -> None:
    p, q, _ = day()
    whole = feeder("eulv")
    found = solve(whole, Injections.of(p[:100], q[:100]), "sweep", results=("u_min_pu", "u_max_pu"))
    u = np.abs(solve(whole, Injections.of(p[:100], q[:100]), "port")["port_u_v"]) / 230
    assert np.abs(found["u_min_pu"] - u.min(axis=1)).max() < 1e-9
    assert np.abs(found["u_max_pu"] - u.max(axis=1)).max() < 1e-9


def test_the_meshed_feeder_goes_to_the_port_engine_and_says_so() -> None:
    whole = feeder("meshed")
    result = solve(whole, base_injections(whole.model))
    assert result.engine == "port"
    assert "tree" in result.notes[0]
    with pytest.raises(HeadroomError, match="engine sweep"):
        solve(whole, base_injections(whole.model), "sweep")


def test_an_empty_batch_gives_an_empty_result() -> None:
    for engine in ("port", "sweep"):
        result = solve(feeder("eulv"), Injections.of(np.zeros((0, 55))), engine)
        assert len(result.status) == 0


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        (np.zeros((2, 54)), 0.0, "54 columns, expected 55"),
        (np.zeros((2, 55)), np.zeros((3, 55)), r"shape \(3, 55\)"),
        (np.full((2, 55), np.nan), 0.0, "a finite number"),
    ],
)
def test_injections_that_do_not_fit_are_refused(p: object, q: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        solve(feeder("eulv"), Injections.of(p, q))  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    whole = feeder("eulv")
    batch = Injections.of(np.zeros((1, 55)))
    with pytest.raises(ConfigError, match="expected port_u_v"):
        solve(whole, batch, results=("volts",))
    with pytest.raises(ConfigError, match="auto, port or sweep"):
        solve(whole, batch, "magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="port 55"):
        solve(whole, Injections.of([[1.0]], 0.0, [Draw(55)]))
    with pytest.raises(ConfigError, match="above 0"):
        solve(whole, batch, tolerance_pu=0.0)


def test_a_network_keeps_what_was_compiled_from_it() -> None:
    network = MADE_UP["switched"]()
    solve(network, Injections.of(np.zeros((1, 3))))
    first = network.memo["feeder"]
    assert isinstance(first, Feeder)
    solve(network, Injections.of(np.zeros((1, 3))))
    assert network.memo["feeder"] is first
