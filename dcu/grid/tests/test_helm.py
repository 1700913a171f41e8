"""The series must find what the iteration finds, match the closed form of a two-bus line up to the nose, and say that
there is nothing beyond it: the independent solver that shares nothing with the others but Z."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcu.grid.compiler import compile_network
from dcu.grid.feeder import solve
from dcu.grid.flow_result import Status
from dcu.grid.helm import at_no_load, helm, pade
from dcu.grid.injections import Draw, Injections
from dcu.grid.network import (
    PHASES,
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Network,
    Source,
    matrix,
)
from dcu.grid.port_model import PortModel
from dcu.grid.tests.golden import feeder, golden
from shared.errors import ConfigError

Z_OHM, U0_V, S_VA = 0.2 + 0.1j, 230.0, 40e3 + 10e3j


def _two_bus() -> PortModel:
    one = (Conductor.L1,)
    tiny = 1e-7
    network = Network(
        name="two buses",
        source=Source("a", one, (U0_V,), (0.0,), matrix([[tiny]])),
        buses=(Bus("a", one, U0_V), Bus("b", one, U0_V)),
        branches=(Branch("l", BranchEnd("a", one), BranchEnd("b", one), matrix([[Z_OHM - tiny]])),),
        connection_points=(ConnectionPoint("c", "b", (Connection(PHASES[0], Conductor.E),)),),
    )
    return compile_network(network)


def _closed_form(s: complex) -> complex | None:
    """V0 (1/2 + sqrt(1/4 + sR - sI^2) + j sI) with sigma = -Z conj(S) / V0^2."""
    sigma = -Z_OHM * s.conjugate() / U0_V**2
    inside = 0.25 + sigma.real - sigma.imag**2
    return U0_V * (0.5 + math.sqrt(inside) + 1j * sigma.imag) if inside >= 0 else None


def _nose() -> float:
    """Largest share of S_VA with a solution: 1/4 + k sR - k^2 sI^2 = 0."""
    sigma = -Z_OHM * S_VA.conjugate() / U0_V**2
    a, b = sigma.imag**2, sigma.real
    return (b + math.sqrt(b * b + a)) / (2 * a)


def test_the_published_two_bus_value_is_met() -> None:
    found = helm(_two_bus(), Injections.of(S_VA.real, S_VA.imag))
    assert abs(found.u_v[0, 0] - (179.415725 - 8.695652j)) < 1e-6


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.999999])
def test_it_matches_the_closed_form_to_its_reported_accuracy_up_to_the_nose(share: float) -> None:
    s = S_VA * _nose() * share
    found = helm(_two_bus(), Injections.of(s.real, s.imag))
    wanted = _closed_form(s)
    assert wanted is not None
    assert found.status[0] == Status.CONVERGED
    error = abs(found.u_v[0, 0] - wanted) / U0_V
    assert error <= max(10 * found.error_pu[0], 1e-12 / math.sqrt(1 - share))
    assert error < 1e-9


@pytest.mark.parametrize("share", [1.000001, 1.001, 1.1, 3.0, 100.0])
def test_beyond_the_nose_it_says_none_and_where_the_nose_is(share: float) -> None:
    s = S_VA * _nose() * share
    found = helm(_two_bus(), Injections.of(s.real, s.imag))
    assert found.status[0] == Status.NO_SOLUTION
    assert np.isnan(found.u_v).all()
    assert found.nose_share[0] * share == pytest.approx(1.0, rel=1e-4)


def test_the_coefficients_of_the_normalised_line_are_catalan_numbers() -> None:
    """U[n] = (-1)^(n+1) C(n-1) sigma^n for real sigma = -Z conj(S) / V0^2."""
    sigma = 0.05
    s = np.array([[np.conj(-sigma * U0_V**2 / Z_OHM)]])
    series = at_no_load(_two_bus(), s)[0, :, 0] / U0_V
    for n, catalan in enumerate([1, 1, 2, 5, 14, 42], 1):
        assert series[n] == pytest.approx((-1) ** (n + 1) * catalan * sigma**n, rel=1e-9)


@pytest.mark.parametrize("name", ["eulv", "four wires", "multi-earthed", "meshed", "delta side", "switched"])
def test_it_agrees_with_the_fixed_point_to_ninety_percent_of_the_nose(name: str) -> None:
    whole = feeder(name)
    base = golden("eulv", "minute566").injections if name == "eulv" else None
    p = whole.model.base_p_w if base is None else base.p_w[0]
    q = whole.model.base_q_var if base is None else base.q_var[0]
    p, q = np.abs(p) + 1.0, np.abs(q)  # load only: the nose is finite
    nose = 1e3 * float(helm(whole.model, Injections.of(1e3 * p, 1e3 * q)).nose_share[0])
    assert math.isfinite(nose)
    share = nose * np.array([[0.1], [0.5], [0.8], [0.9]])
    batch = Injections.of(p * share, q * share)
    one, two = helm(whole.model, batch), solve(whole, batch, "port")
    assert (one.status == Status.CONVERGED).all()
    assert (np.abs(one.u_v - two["port_u_v"]) / whole.model.u_nominal_v).max() < 1e-9


def test_a_feeder_that_exports_needs_no_restart() -> None:
    base = golden("eulv", "export").injections
    found = helm(feeder("eulv").model, base)
    assert found.status[0] == Status.CONVERGED
    u = solve(feeder("eulv"), base, "port")["port_u_v"]
    assert np.abs(found.u_v - u).max() / 230 < 1e-9


def test_pade_continues_a_series_beyond_its_radius() -> None:
    """log(1 + t) has radius 1; at t = 4 its Taylor sums are useless, the diagonal approximant has nine digits."""
    coefficients = np.array([0.0] + [(-1) ** (n + 1) / n for n in range(1, 25)])[:, None].astype(complex)
    assert pade(coefficients, 4.0)[0] == pytest.approx(math.log(5), rel=1e-8)


def test_what_is_not_holomorphic_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected constant power"):
        helm(feeder("eulv").model, Injections.of([[1.0]], 0.0, [Draw(0, 1.0, 0.0, 0.0)]))
