"""Exact derivatives of the power flow at a solved state, and linear steps with a guaranteed error.

Implicit differentiation of `u = u_open + Z i(u, p, q)`: with `D = di/du` (real, 2x2 blocks),

    (1 - Z D) du = Z (di/dp dp + di/dq dq)

The columns are powers drawn at each port (import positive), whatever else is connected there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcu.grid.injections import Prepared
from dcu.grid.laws import derivative, explicit_derivative
from dcu.grid.port_engine import current_of
from dcu.grid.port_model import PortModel

Complexes = NDArray[np.complex128]
Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """Derivatives at one state, complex, by p (columns 0 .. n-1) [per W] and q (n .. 2n-1) [per var] of each port."""

    u_v: Complexes
    """[V] (n) the state itself."""
    du: Complexes
    """[V/W, V/var] (n, 2n) of the port voltages."""
    di: Complexes
    """[A/W, A/var] (n, 2n) of the injected port currents, voltages following."""

    def magnitude(self) -> Reals:
        """Derivative of the voltage magnitudes (n, 2n) [V/W, V/var]."""
        return magnitude_slope(self.u_v, self.du)

    def currents(self, model: PortModel) -> Complexes:
        """Derivative of the observed currents (k, 2n) [A/W, A/var]."""
        return model.current_h @ self.di

    def nodes(self, model: PortModel) -> Complexes:
        """Derivative of the observed nodes' voltages (m, 2n) [V/W, V/var]."""
        return model.node_h_ohm @ self.di


def magnitude_slope(value: Complexes, slope: Complexes) -> Reals:
    """Derivative of `|value|` (n) along the complex derivatives `slope` (n, columns)."""
    return np.asarray((np.conj(value)[:, None] * slope).real / np.abs(value)[:, None])


def sensitivity(model: PortModel, prepared: Prepared, state: int, u_v: Complexes) -> Sensitivity:
    """Derivatives at one solved state.

    Args:
        model: the compiled feeder.
        prepared: the batch the state belongs to.
        state: its row.
        u_v: its port voltages (n) [V].
    """
    n = len(u_v)
    z = model.z_ohm
    real = np.block([[z.real, -z.imag], [z.imag, z.real]])
    own = derivative(prepared, state, u_v)
    by_power = explicit_derivative(u_v)
    # Z D, using that D is made of diagonals where no element couples ports.
    if _diagonal(prepared):
        d = [np.diag(own[r : r + n, c : c + n]) for r in (0, n) for c in (0, n)]
        coupled = np.block(
            [
                [z.real * d[0] - z.imag * d[2], z.real * d[1] - z.imag * d[3]],
                [z.imag * d[0] + z.real * d[2], z.imag * d[1] + z.real * d[3]],
            ]
        )
    else:
        coupled = real @ own
    drive = np.concatenate([z * by_power, z * (-1j * by_power)], axis=1)
    dx = np.linalg.solve(np.eye(2 * n) - coupled, np.concatenate([drive.real, drive.imag]))
    du = dx[:n] + 1j * dx[n:]
    di = own @ dx
    injected = di[:n] + 1j * di[n:]
    injected[range(n), range(n)] += by_power
    injected[range(n), range(n, 2 * n)] += -1j * by_power
    return Sensitivity(u_v, du, injected)


def _diagonal(prepared: Prepared) -> bool:
    return len(prepared.law.damper_ports) == 0


def sensitivities(model: PortModel, prepared: Prepared, u_v: Complexes) -> list[Sensitivity]:
    """The same for every state of a batch; `u_v` (n_state, n)."""
    return [sensitivity(model, prepared, state, u_v[state]) for state in range(len(u_v))]


@dataclass(frozen=True, slots=True, eq=False)
class LinearStep:
    """Predicted port voltages (n) [V] and a bound (n) [V] on their distance from the exact ones; infinite where the
    bound cannot be given."""

    u_v: Complexes
    bound_v: Reals


def linear_step(model: PortModel, at: Sensitivity, prepared: Prepared, state: int, change: Reals) -> LinearStep:
    """Voltages after a change of power (2n) [W, var], without solving again.

    The bound is Banach's: if the map contracts with q on a ball around the prediction that holds `r / (1 - q)`, r being
    how far the map moves the prediction, the solution lies within `r / (1 - q)`, port by port. For constant power
    `q = max_i sum_j |Z_ij| |s_j| / (|u_j| - radius)^2`; it holds exactly, and needs one product with Z.

    Args:
        model: the compiled feeder.
        at: derivatives at the state before.
        prepared: the batch with the powers *after* the change; constant-power draws only.
        state: its row.
        change: powers added since `at` (2n): p of every port, then q.
    """
    u = at.u_v + at.du @ change
    i = current_of(prepared.rows(slice(state, state + 1)), u)
    moved = np.abs(model.u_open_v + model.z_ohm @ i - u)
    s = np.abs(i) * np.abs(u)
    law = prepared.law
    if not law.plain or not np.isfinite(moved).all():
        return LinearStep(u, np.full(len(u), np.inf))
    size = np.abs(model.z_ohm)
    r = float(moved.max())
    radius = 2 * r
    lowest = np.abs(u) - radius
    if not (lowest > 0).all():
        return LinearStep(u, np.full(len(u), np.inf))
    q = float((size @ (s / lowest**2)).max())
    if not q < 1 or r / (1 - q) > radius:
        return LinearStep(u, np.full(len(u), np.inf))
    # Port by port: |e_i| <= moved_i + sum_j |Z_ij| |s_j| / lowest_j^2 * max|e|.
    bound = moved + (size @ (s / lowest**2)) * (r / (1 - q))
    return LinearStep(u, bound + 4 * np.finfo(float).eps * np.abs(u))
