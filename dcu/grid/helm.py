"""Holomorphic embedding load flow on the port equation: a power series instead of an iteration.

Trias 2012, in the form of Rao et al. 2022 (eq. 10) reduced to the ports. With the load multiplied by a and
`W = 1 / u`,

    u(a) = u_open - Z (a conj(s) W*(a)),      W*(a) = conj(W(conj(a)))

so the solution without load is the germ and the wanted one stands at a = 1. Around any germ a0 with the step
t = a - a0 the coefficients follow, order by order, from one real linear system per germ (none at a0 = 0):

    U[n] - a0 Z conj(s) conj(W[0]^2 U[n]) = -Z conj(s) conj(W[n-1] - a0 W[0] sum_{0<k<n} W[k] U[n-k])
    W[n] = -W[0] sum_{0<=k<n} W[k] U[n-k]

Steps
  1. Coefficients around a0, at first 0.
  2. Their value at a = 1 by Wynn's epsilon algorithm (diagonal Pade approximants by a recursion, no linear system).
  3. Newton's correction there tells the error. Small enough: done.
  4. Else go on to `a0 + STRIDE rho`, rho being the distance of the nearest singularity, where the approximant has
     nearly all its digits; correct the germ until its residual is rounding; back to 1. So the accuracy does not fade at
     the nose, as that of a single Pade approximant does.
  5. At the nose rho goes to zero. If the germ cannot pass a point short of 1, there is no solution, and that point is
     the load share of the nose.

Only constant power is holomorphic in this form; other draws and inverters are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.flow_result import Status
from dcu.grid.injections import Injections, prepare
from dcu.grid.port_model import PortModel
from shared.errors import ConfigError, Fault

ORDERS: Final = 25
"""Coefficients used; an odd number gives a diagonal approximant."""
STRIDE: Final = 0.75
"""Of the distance to the nearest singularity: a square-root branch point leaves 3^-25 = 1e-12 there."""
RESTARTS_MAX: Final = 60
NOSE_DISTANCE: Final = 1e-9
"""A germ this close to its singularity stands at it."""
TOLERANCE_PU: Final = 1e-11

Complexes = NDArray[np.complex128]


@dataclass(frozen=True, slots=True, eq=False)
class HelmResult:
    """Voltages `u_v` (n_state, n_port) [V], NaN without solution; `error_pu` (n_state) reported accuracy; `restarts`;
    `nose_share` (n_state): where there is no solution, the share of the load that has one, else NaN."""

    u_v: Complexes
    status: NDArray[np.int8]
    error_pu: NDArray[np.float64]
    restarts: NDArray[np.int32]
    nose_share: NDArray[np.float64]


def helm(model: PortModel, injections: Injections, tolerance_pu: float = TOLERANCE_PU) -> HelmResult:
    """Solve a batch of constant-power states.

    Raises:
        ConfigError: another injection model than constant power.
    """
    prepared = prepare(injections, model.u_nominal_v)
    law = prepared.law
    if len(law.inverter_ports) or len(law.damper_ports) or law.draw_zip[:2].any() or (law.draw_zip[2] != 1).any():
        raise ConfigError("helm", [Fault("elements", "draws that depend on voltage", "constant power")])
    s = np.zeros((len(prepared.p_w), len(model.ports)), dtype=complex)
    np.add.at(s.T, law.draw_ports, (prepared.p_w + 1j * prepared.q_var).T[law.draw_columns])
    states = len(s)
    out = HelmResult(
        np.full(s.shape, np.nan, dtype=complex),
        np.full(states, Status.NO_SOLUTION, dtype=np.int8),
        np.full(states, np.nan),
        np.zeros(states, dtype=np.int32),
        np.full(states, np.nan),
    )
    first = at_no_load(model, s)
    for state in range(states):
        _follow(model, s[state], first[state], state, tolerance_pu, out)
    return out


def at_no_load(model: PortModel, s: Complexes) -> Complexes:
    """Coefficients around a = 0 for all states at once (n_state, ORDERS, n_port)."""
    u = np.empty((ORDERS, *s.shape), dtype=complex)
    w = np.empty_like(u)
    u[0] = model.u_open_v
    w[0] = 1 / u[0]
    load = np.conj(s)
    z = model.z_ohm.T
    for n in range(1, ORDERS):
        u[n] = -(load * np.conj(w[n - 1])) @ z
        w[n] = -w[0] * sum(w[k] * u[n - k] for k in range(n))
    return np.ascontiguousarray(u.transpose(1, 0, 2))


@dataclass(slots=True, eq=False)
class _Germ:
    """A solved point of one state: load share `a`, voltages, the real inverse of the system there."""

    share: float
    u: Complexes
    inverse: NDArray[Any]


def _follow(
    model: PortModel, s: Complexes, series: Complexes, state: int, tolerance_pu: float, out: HelmResult
) -> None:
    share = 0.0
    for restart in range(RESTARTS_MAX):
        out.restarts[state] = restart
        value = pade(series, 1.0 - share)
        error = _error(model, s, 1.0, value)
        if error <= tolerance_pu:
            out.u_v[state], out.error_pu[state], out.status[state] = value, error, Status.CONVERGED
            return
        rho = _radius(series)
        if not np.isfinite(rho) or rho < NOSE_DISTANCE or (rho < 1e-4 and share + 4 * rho < 1.0):
            out.nose_share[state] = share + (rho if np.isfinite(rho) else 0.0)
            return
        germ = None
        step = min(STRIDE * rho, 1.0 - share)
        while germ is None and step > NOSE_DISTANCE / 4:
            germ = _germ(model, s, share + step, pade(series, step))
            step /= 2
        if germ is None:
            out.nose_share[state] = share
            return
        if germ.share >= 1.0:
            out.u_v[state], out.status[state] = germ.u, Status.CONVERGED
            out.error_pu[state] = _error(model, s, 1.0, germ.u)
            return
        share = germ.share
        series = _coefficients(model, s, germ)
    out.nose_share[state] = share


def _system(model: PortModel, s: Complexes, share: float, u: Complexes) -> NDArray[np.float64]:
    """Real form of `x -> x - a Z conj(s) conj(x / u^2)` (2n, 2n)."""
    m = share * model.z_ohm * (np.conj(s) / np.conj(u) ** 2)
    return np.asarray(np.eye(2 * len(u)) - np.block([[m.real, m.imag], [m.imag, -m.real]]))


def _residual(model: PortModel, s: Complexes, share: float, u: Complexes) -> NDArray[np.float64]:
    r = u - model.u_open_v + model.z_ohm @ (share * np.conj(s / u))
    return np.concatenate([r.real, r.imag])


def _error(model: PortModel, s: Complexes, share: float, u: Complexes) -> float:
    """Newton's correction at `u` [pu]: the distance to the solution, near it."""
    if not np.isfinite(u).all() or (u == 0).any():
        return np.inf
    try:
        dx = np.linalg.solve(_system(model, s, share, u), _residual(model, s, share, u))
    except np.linalg.LinAlgError:
        return np.inf
    n = len(u)
    return float((np.hypot(dx[:n], dx[n:]) / model.u_nominal_v).max())


def _germ(model: PortModel, s: Complexes, share: float, u: Complexes) -> _Germ | None:
    """The solved point near `u`; None if `u` is not close enough to one to be trusted as the same branch."""
    if not np.isfinite(u).all() or (u == 0).any():
        return None
    n = len(u)
    largest = 1e-5
    try:
        for _ in range(4):
            inverse = np.linalg.inv(_system(model, s, share, u))
            dx = inverse @ _residual(model, s, share, u)
            step = float((np.hypot(dx[:n], dx[n:]) / model.u_nominal_v).max())
            if not step <= largest:
                return None
            u = u - (dx[:n] + 1j * dx[n:])
            largest = max(step / 10, 1e-12)
            if step < 1e-13:
                break
        return _Germ(share, u, np.linalg.inv(_system(model, s, share, u)))
    except np.linalg.LinAlgError:
        return None


def _coefficients(model: PortModel, s: Complexes, germ: _Germ) -> Complexes:
    """Coefficients around a germ (ORDERS, n_port)."""
    n_port = len(s)
    u = np.empty((ORDERS, n_port), dtype=complex)
    w = np.empty_like(u)
    u[0], w[0] = germ.u, 1 / germ.u
    for n in range(1, ORDERS):
        known = sum((w[k] * u[n - k] for k in range(1, n)), np.zeros(n_port, dtype=complex))
        r = -model.z_ohm @ (np.conj(s) * np.conj(w[n - 1] - germ.share * w[0] * known))
        x = germ.inverse @ np.concatenate([r.real, r.imag])
        u[n] = x[:n_port] + 1j * x[n_port:]
        w[n] = -w[0] * (known + w[0] * u[n])
    return u


def _radius(series: Complexes) -> float:
    """Distance of the nearest singularity, taken for a square-root branch point (the nose is one).

    The ratio of coefficients of `(1 - t/rho)^(1/2)` is `(1 - 1.5/n) / rho`; the largest port decides.
    """
    size = np.abs(series).max(axis=1)
    last = len(series) - 1
    orders = np.arange(last - 5, last + 1)
    with np.errstate(all="ignore"):
        ratio = size[orders] / size[orders - 1]
        rho = (1 - 1.5 / orders) / ratio
    return float(np.median(rho)) if (size[orders] > 0).all() else float("inf")


def pade(series: Complexes, step: float) -> Complexes:
    """Value of the series (n_order, n_port) at `step` by Wynn's epsilon algorithm, for each port the entry of the even
    columns that moved least."""
    scaled = series * step ** np.arange(len(series))[:, None]
    odd, even = np.zeros((len(series) + 1, series.shape[1]), dtype=complex), np.cumsum(scaled, axis=0)
    best, moved = even[-1].copy(), np.abs(scaled[-1])
    with np.errstate(all="ignore"):
        while len(even) > 2:
            odd = odd[1:-1] + 1 / np.diff(even, axis=0)
            following = even[1:-1] + 1 / np.diff(odd, axis=0)
            change = np.abs(following[-1] - even[-1])
            better = change < moved
            best[better], moved[better] = following[-1][better], change[better]
            even = following
    return np.asarray(best)
