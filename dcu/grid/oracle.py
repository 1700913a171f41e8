"""The straightforward solution of one state on the whole network: Newton's method, every node, sparse. Slow and plain.

It shares neither the reduction nor the iteration of the engines, and is the second opinion on both. Only constant power
and ZIP draws are known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from dcu.grid.network import Network, Node
from dcu.grid.tableau import build_tableau, port_pairs
from dcu.grid.zones import EARTH
from shared.errors import HeadroomError

STEPS_MAX: Final = 60


@dataclass(frozen=True, slots=True, eq=False)
class FullSolution:
    """Voltage to earth of every node [V]; current drawn from the source terminals [A]; losses without the source [W];
    currents of the series elements by their key in the tableau [A]."""

    u_v: dict[Node, complex]
    port_u_v: NDArray[np.complex128]
    source_i_a: NDArray[np.complex128]
    loss_w: float
    series_i_a: dict[str, NDArray[np.complex128]]


def solve_in_full(
    network: Network, p_w: NDArray[np.float64], q_var: NDArray[np.float64], tolerance_pu: float = 1e-11
) -> FullSolution:
    """One state.

    Args:
        network: a checked network.
        p_w, q_var: nominal draw of each port (n_port) [W, var], import positive; the port's ZIP shares apply.
        tolerance_pu: largest Newton step at the end, relative to the no-load voltage of the node.

    Raises:
        HeadroomError: no convergence in `STEPS_MAX` steps.
    """
    grid = build_tableau(network)
    ports = network.ports()
    across = grid.incidence(port_pairs(network))
    nominal = network.port_nominal_v()
    share = np.array([p.connection.zip_share for p in ports]).reshape(-1, 3)
    s = p_w + 1j * q_var
    x = grid.factor().solve(grid.drive)
    size = np.maximum(np.abs(x), 1.0)
    real = sparse.bmat([[grid.system.real, -grid.system.imag], [grid.system.imag, grid.system.real]])
    step = np.inf
    for _ in range(STEPS_MAX):
        u = across.T @ x
        m = np.abs(u)
        drawn, slope = _drawn(s, share, m, nominal)
        residual = grid.system @ x - grid.drive + across @ np.conj(drawn / u)
        # di = conj(slope) dm / conj(u) - conj(drawn) conj(du) / conj(u)^2, with dm = Re(conj(u) du) / m
        a, b = np.conj(slope) / np.conj(u), -np.conj(drawn) / np.conj(u) ** 2
        d_re, d_im = a * u.real / m + b, a * u.imag / m - 1j * b
        parts = [
            [across @ sparse.diags(d) @ across.T for d in row]
            for row in ((d_re.real, d_im.real), (d_re.imag, d_im.imag))
        ]
        dx = splu(sparse.csc_matrix(real + sparse.bmat(parts))).solve(-np.concatenate([residual.real, residual.imag]))
        change = dx[: len(x)] + 1j * dx[len(x) :]
        x = x + change
        step = float((np.abs(change) / size)[: grid.node_count].max(initial=0.0))
        if step < tolerance_pu:
            break
    else:
        raise HeadroomError(f"full solution: seen a step of {step:.3g} after {STEPS_MAX}, expected {tolerance_pu:g}")
    u = across.T @ x
    drawn, _ = _drawn(s, share, np.abs(u), nominal)
    voltages = {node: 0j if row == EARTH else complex(x[row]) for node, row in grid.index.items()}
    i_source = x[grid.slots["source"]]
    delivered = sum((voltages[n] * np.conj(i)).real for n, i in zip(network.source.nodes(), i_source, strict=True))
    currents = {key: x[where] for key, where in grid.slots.items()}
    return FullSolution(voltages, u, i_source, float(delivered - drawn.real.sum()), currents)


def _drawn(
    s: NDArray[np.complex128], share: NDArray[np.float64], m: NDArray[np.float64], nominal: NDArray[np.float64]
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Power drawn at voltage magnitude `m` [VA], and its slope [VA/V]."""
    x = m / nominal
    drawn = s * (share[:, 0] * x**2 + share[:, 1] * x + share[:, 2])
    return drawn, s * (2 * share[:, 0] * x + share[:, 1]) / nominal
