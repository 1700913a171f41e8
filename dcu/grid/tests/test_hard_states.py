"""Where power flows go wrong quietly: the low-voltage branch near the nose, error estimates that are lucky once, zones
without earth in single precision, batches that do not fit. A two-bus line has a closed form; a plain nodal matrix,
stamped here from the definition of the elements, is the third opinion on the tableau."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dcu.grid.check import find_faults
from dcu.grid.compiler import compile_network
from dcu.grid.feeder import Feeder, solve
from dcu.grid.flow_result import Status
from dcu.grid.helm import helm
from dcu.grid.injections import Damper, Draw, Injections, Inverter, base_injections
from dcu.grid.network import (
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Network,
    Node,
    Source,
    matrix,
)
from dcu.grid.oracle import solve_in_full
from dcu.grid.tests.golden import MADE_UP, feeder
from shared.errors import ConfigError

Z_OHM, U0_V = 0.3 + 0.3j, 240.0


def _two_bus(z: complex = Z_OHM, u: float = U0_V) -> Feeder:
    one, tiny = (Conductor.L1,), 1e-6
    network = Network(
        name="two buses",
        source=Source("a", one, (u,), (0.0,), matrix([[tiny]])),
        buses=(Bus("a", one, u), Bus("b", one, u)),
        branches=(Branch("l", BranchEnd("a", one), BranchEnd("b", one), matrix([[z - tiny]])),),
        connection_points=(ConnectionPoint("c", "b", (Connection(Conductor.L1, Conductor.E),)),),
    )
    return Feeder(network)


def _closed_form(s: complex) -> complex:
    sigma = -Z_OHM * s.conjugate() / U0_V**2
    return U0_V * (0.5 + math.sqrt(0.25 + sigma.real - sigma.imag**2) + 1j * sigma.imag)


def _nose_va(angle_deg: float) -> float:
    """Power at the nose in that direction [VA]; infinite in none, as |S| grows sigma.imag wins."""
    sigma = -Z_OHM * np.exp(-1j * np.deg2rad(angle_deg)) / U0_V**2
    a, b = sigma.imag**2, sigma.real
    return float((b + math.sqrt(b * b + a)) / (2 * a)) if a > 1e-18 else -1 / (4 * b) if b < 0 else math.inf


@pytest.mark.parametrize("engine", ["port", "sweep"])
@pytest.mark.parametrize("share", [0.5, 0.85, 0.95, 0.999])
def test_the_solution_is_the_one_reached_from_no_load_at_every_angle(engine: str, share: float) -> None:
    """Beyond it lies a second, low-voltage solution that satisfies the same equations."""
    whole = _two_bus()
    for angle in range(0, 360, 10):
        nose = _nose_va(angle)
        if nose > 5e6:
            continue  # power that the line would have to carry at several times its voltage
        s = share * nose * complex(np.exp(1j * np.deg2rad(angle)))
        found = solve(whole, Injections.of(s.real, s.imag), engine)  # type: ignore[arg-type]
        if found.status[0] == Status.CONVERGED:
            assert abs(found["port_u_v"][0, 0] - _closed_form(s)) < 1e-5 * U0_V, angle
        else:
            assert share > 0.99, angle


@pytest.mark.parametrize("angle", [0, 60, 150, 210, 300])
def test_beyond_the_nose_no_engine_has_a_number(angle: int) -> None:
    whole = _two_bus()
    s = 1.01 * _nose_va(angle) * complex(np.exp(1j * np.deg2rad(angle)))
    batch = Injections.of(s.real, s.imag)
    for engine in ("port", "sweep"):
        assert solve(whole, batch, engine).status[0] == Status.NO_SOLUTION
    assert helm(whole.model, batch).status[0] == Status.NO_SOLUTION


@pytest.mark.parametrize("engine", ["port", "sweep"])
def test_the_estimate_holds_where_the_first_ratio_is_lucky(engine: str) -> None:
    """Draws of mixed kind turn the direction of the steps, so that one of them can be small by chance."""
    random = np.random.default_rng(5)
    for _ in range(60):
        z = complex(random.uniform(0.02, 0.3), random.uniform(0.01, 0.3))
        whole = _two_bus(z, 235.0)
        share = random.dirichlet([1, 1, 1])
        s = random.uniform(-25e3, 25e3, (40, 2))
        batch = Injections.of(s[:, :1], s[:, 1:], [Draw(0, *share)])
        rough = solve(whole, batch, engine, tolerance_pu=1e-8)  # type: ignore[arg-type]
        exact = solve(whole, batch, engine, tolerance_pu=1e-13)  # type: ignore[arg-type]
        both = rough.converged & exact.converged
        error = np.abs(rough["port_u_v"] - exact["port_u_v"])[both] / 235.0
        assert error.max(initial=0.0) < 1e-8


def test_a_states_figures_do_not_depend_on_its_neighbours() -> None:
    whole = _two_bus()
    alone = solve(whole, Injections.of([[500.0]]), "sweep")
    beside = solve(whole, Injections.of([[500.0], [30e3], [500.0], [40e3]]), "sweep")
    for figure in ("contraction", "error_pu", "iterations"):
        assert getattr(beside, figure)[0] == getattr(alone, figure)[0]
    assert beside.contraction.max() < 1


def test_single_precision_is_not_used_where_a_zone_has_no_earth() -> None:
    whole = feeder("delta side")
    random = np.random.default_rng(2)
    batch = Injections.of(random.uniform(-20e3, 20e3, (50, 3)), random.uniform(-5e3, 5e3, (50, 3)))
    rough, exact = (solve(whole, batch, "sweep", precision=p) for p in ("single", "double"))
    assert np.abs(rough["port_u_v"] - exact["port_u_v"]).max() / 400 < 1e-9


def test_connections_without_a_defined_voltage_are_faults() -> None:
    delta = MADE_UP["delta side"]()
    to_earth = ConnectionPoint("x", "a", (Connection(Conductor.L1, Conductor.E),))
    assert any("nothing else is joined to earth" in str(f) for f in find_faults(_with(delta, to_earth)))
    four = MADE_UP["four wires"]()
    nothing = ConnectionPoint("x", "lv", (Connection(Conductor.N, Conductor.E),))
    assert any("at one potential" in str(f) for f in find_faults(_with(four, nothing)))


def test_a_star_star_transformer_without_a_way_for_zero_sequence_is_a_fault() -> None:
    network = MADE_UP["meshed"]()  # YNyn0: its primary star is earthed
    network = replace(network, branches=tuple(replace(b, y_s=None) for b in network.branches), memo={})
    (t,) = network.transformers
    unearthed = tuple(
        replace(coil, primary=replace(coil.primary, neg=Conductor.N), shunt_pu=(0j, 0j)) for coil in t.coils
    )
    buses = tuple(replace(b, conductors=(*b.conductors, Conductor.N)) if b.id == "hv" else b for b in network.buses)
    wrong = replace(network, transformers=(replace(t, coils=unearthed),), buses=buses, memo={})
    assert ["unearthed star" in str(f) for f in find_faults(wrong)] == [True]
    magnetised = tuple(replace(coil, shunt_pu=(0.002 - 0.01j, 0j)) for coil in unearthed)
    right = replace(wrong, transformers=(replace(t, coils=magnetised),), memo={})
    assert find_faults(right) == []
    base = base_injections(compile_network(right))
    little = replace(base, p_w=0.02 * base.p_w, q_var=0.02 * base.q_var)  # such a transformer bears little unbalance
    full = solve_in_full(right, little.p_w[0], little.q_var[0])
    assert np.abs(solve(right, little)["port_u_v"][0] - full.port_u_v).max() < 1e-6


def _with(network: Network, point: ConnectionPoint) -> Network:
    return replace(network, connection_points=(*network.connection_points, point), memo={})


def test_batches_that_do_not_fit_are_refused_before_any_engine_sees_them() -> None:
    p = np.zeros((5, 1))
    for wrong in (
        lambda: Injections(p, p, (Draw(0), Draw(0))),
        lambda: Injections(np.zeros((5, 2)), np.zeros((1, 2))),
        lambda: Injections(np.zeros((2, 2, 2)), np.zeros((2, 2, 2))),
        lambda: Injections.of(np.zeros((2, 2, 2))),
        lambda: Inverter(0, 5e3, s_max_va=0.0),
        lambda: Inverter(0, math.nan),
        lambda: Damper((0, 1, 2), 1e3, math.nan),
        lambda: Draw(0, math.nan),
        lambda: Draw(0, u_nominal_v=0.0),
        lambda: solve(_two_bus(), Injections.of([[1.0]]), precision="half"),  # type: ignore[arg-type]
        lambda: solve(_two_bus(), Injections.of([[1.0]]), threads=-1),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_an_idle_state_beside_a_broken_one_is_still_solved() -> None:
    whole = feeder("switched")
    batch = Injections(np.array([[0.0, 0, 0], [np.nan, 0, 0]]), np.zeros((2, 3)))
    for engine in ("port", "sweep"):
        assert solve(whole, batch, engine).status.tolist() == [0, 1]


def test_an_empty_batch_has_results_of_its_shape() -> None:
    for engine in ("port", "sweep"):
        found = solve(_two_bus(), Injections.of(np.zeros((0, 1))), engine)
        assert found["port_u_v"].shape == (0, 1)


def test_a_network_without_customers_is_refused_by_every_engine() -> None:
    network = replace(_two_bus().network, connection_points=(), memo={})
    for engine in ("port", "sweep", "auto"):
        with pytest.raises(ConfigError, match="0 ports"):
            solve(network, Injections.of(np.zeros((1, 0))), engine)


def _plain_matrix(network: Network) -> tuple[np.ndarray, dict[Node, int], np.ndarray]:
    """Nodal admittances from the definition of each element, dense; switches as 1e9 S, solid earthings as 1e9 S."""
    index = {Node(b.id, c): k for k, (b, c) in enumerate((b, c) for b in network.buses for c in b.conductors)}
    y = np.zeros((len(index), len(index)), dtype=complex)
    drive = np.zeros(len(index), dtype=complex)

    def stamp(nodes: list[Node], block: np.ndarray) -> None:
        for a, row in zip(nodes, block, strict=True):
            for b, value in zip(nodes, row, strict=True):
                if Conductor.E not in (a.conductor, b.conductor):
                    y[index[a], index[b]] += value

    source = [index[n] for n in network.source.nodes()]
    y[np.ix_(source, source)] += np.linalg.inv(network.source.z_ohm)
    drive[source] = np.linalg.inv(network.source.z_ohm) @ network.source.phasors_v
    for b in network.branches:
        series, half = np.linalg.inv(b.z_ohm), 0 if b.y_s is None else b.y_s / 2
        stamp([*b.from_end.nodes(), *b.to_end.nodes()], np.block([[series + half, -series], [-series, series + half]]))
    for t in network.transformers:
        for k, coil in enumerate(t.coils):
            y1 = t.coil_s_va / t.z_pu[k, k]  # of one coil at one volt; these feeders have no coupling between coils
            a, b_ = coil.primary.u_rated_v * coil.primary.tap, coil.secondary.u_rated_v * coil.secondary.tap
            turns = np.array([1 / a, -1 / a, -1 / b_, 1 / b_])
            stamp([*coil.primary.nodes(), *coil.secondary.nodes()], y1 * np.outer(turns, turns))
            for end, y_pu in zip((coil.primary, coil.secondary), coil.shunt_pu, strict=True):
                own = y_pu * t.coil_s_va / end.u_rated_v**2
                stamp([*end.nodes()], own * np.array([[1, -1], [-1, 1]]))
    for shunt in network.shunts:
        stamp([*shunt.nodes()], shunt.y_s)
    for e in network.earthings:
        stamp([Node(e.bus, e.conductor)], np.array([[1 / e.z_ohm if e.z_ohm else 1e9]]))
    for s in network.switches:
        if s.closed:
            for c in s.conductors:
                stamp([Node(s.from_bus, c), Node(s.to_bus, c)], 1e9 * np.array([[1, -1], [-1, 1]]))
    return y, index, drive


@pytest.mark.parametrize("name", ["four wires", "multi-earthed", "meshed", "switched", "ieee13"])
def test_a_plain_nodal_matrix_has_the_same_solution(name: str) -> None:
    network = feeder(name).network
    base = base_injections(compile_network(network))
    full = solve_in_full(network, base.p_w[0], base.q_var[0])
    y, index, drive = _plain_matrix(network)
    u = np.array([full.u_v[node] for node in index])
    injected = np.zeros(len(index), dtype=complex)
    for port, across, nominal, p, q in zip(
        network.ports(), full.port_u_v, network.port_nominal_v(), base.p_w[0], base.q_var[0], strict=True
    ):
        x = abs(across) / nominal
        z, i, c = port.connection.zip_share
        current = -np.conj((p + 1j * q) * (z * x * x + i * x + c) / across)
        for conductor, sign in ((port.connection.pos, 1), (port.connection.neg, -1)):
            if conductor is not Conductor.E:
                injected[index[Node(port.bus, conductor)]] += sign * current
    off = np.linalg.solve(y, drive + injected) - u
    assert np.abs(off / np.maximum(np.abs(u), 1.0)).max() < 1e-6
