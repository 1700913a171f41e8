"""Results by name from port voltages and currents: linear and quadratic functions, on any array namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dcu.grid.laws import Array
from dcu.grid.port_model import PortModel
from shared.errors import ConfigError, Fault


def observed(model: PortModel, u: Array, i: Array, names: tuple[str, ...], xp: Any = np) -> dict[str, Array]:
    """The named results for port voltages `u` and injected currents `i` (n_state, n_port).

    Raises:
        ConfigError: a model compiled without the observables that a name needs.
    """
    return {name: _KNOWN[name](model, u, i, xp) for name in names}


def node_voltages(model: PortModel, i: Array, xp: Any = np) -> Array:
    """Voltage to earth of every observed node [V] (n_state, n_node)."""
    _need(model, "bus_u_v")
    return xp.asarray(model.node_open_v) + i @ xp.asarray(model.node_h_ohm).T


def _need(model: PortModel, name: str) -> None:
    if not model.nodes:
        seen = "a model compiled without observables"
        raise ConfigError(model.name, [Fault(f"results {name}", seen, "headroom-grid compile --observe all")])


def _currents(model: PortModel, _: Array, i: Array, xp: Any) -> Array:
    _need(model, "current_a")
    return xp.asarray(model.current_open_a) + i @ xp.asarray(model.current_h).T


def _share(model: PortModel, u: Array, xp: Any) -> Array:
    return xp.abs(u) / xp.asarray(model.u_nominal_v)


def unbalance(u_l1: Array, u_l2: Array, u_l3: Array, xp: Any = np) -> Array:
    """`|U2| / |U1|`: negative- over positive-sequence voltage (EN 50160, IEC 61000-4-30)."""
    a = xp.exp(xp.asarray(2j * np.pi / 3))
    forward = xp.abs(u_l1 + a * u_l2 + a * a * u_l3)
    backward = xp.abs(u_l1 + a * a * u_l2 + a * u_l3)
    return backward / forward


def _vuf(model: PortModel, _: Array, i: Array, xp: Any) -> Array:
    nodes = node_voltages(model, i, xp)
    buses = model.three_phase_buses()
    phases = [nodes[:, [rows[k] for _, rows, _ in buses]] for k in range(3)]
    # A voltage common to the phases, such as the neutral's, is in the zero sequence only: it changes neither U1 nor U2.
    return unbalance(phases[0], phases[1], phases[2], xp)


def _source_power(model: PortModel, i: Array, xp: Any) -> Array:
    u = xp.asarray(model.source_u_open_v) + i @ xp.asarray(model.source_h_ohm).T
    out = xp.asarray(model.source_i_open_a) + i @ xp.asarray(model.source_h).T
    return (u * xp.conj(out)).sum(axis=1)


def _loss(model: PortModel, u: Array, i: Array, xp: Any) -> Array:
    return _source_power(model, i, xp).real + (u * xp.conj(i)).sum(axis=1).real


_KNOWN: Final[dict[str, Callable[[PortModel, Array, Array, Any], Array]]] = {
    "port_u_v": lambda _m, u, _i, _xp: u,
    "port_u_magnitude_v": lambda _m, u, _i, xp: xp.abs(u),
    "port_i_a": lambda _m, _u, i, _xp: i,
    "u_min_pu": lambda m, u, _i, xp: _share(m, u, xp).min(axis=1),
    "u_max_pu": lambda m, u, _i, xp: _share(m, u, xp).max(axis=1),
    "bus_u_v": lambda m, _u, i, xp: node_voltages(m, i, xp),
    "vuf": _vuf,
    "current_a": _currents,
    "source_s_va": lambda m, _u, i, xp: _source_power(m, i, xp),
    "loss_w": _loss,
    "cut_off": lambda _m, u, _i, xp: xp.zeros((len(u), 0), dtype=bool),
}
