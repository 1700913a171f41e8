"""From a network to its port model: one sparse factorisation, then one solution for each port (SciPy; offline)."""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import SuperLU

from dcu.grid.network import Conductor, Network, Node, Transformer
from dcu.grid.network_file import network_json
from dcu.grid.port_model import Complexes, CurrentName, Lines, NodeName, PortModel, agrees
from dcu.grid.tableau import Tableau, branch_key, build_tableau, port_pairs, reference_elements, transformer_key
from dcu.grid.tree import NotRadialError, reduce_tree
from dcu.grid.tree_model import TreeModel
from dcu.grid.zones import EARTH, Joined, bus_links
from shared.errors import ConfigError, Fault

PORTS_MAX: Final = 20_000
OBSERVED_BYTES_MAX: Final = 512 << 20
"""Observing every node and branch of a large feeder would take more than the solution itself."""
LINES_FROM_PORTS: Final = 300
"""Below this a dense Z is faster than its structure (benchmarks: `python -m benchmarks.grid structure`)."""
_PORTS_AT_ONCE: Final = 256


def network_sha256(network: Network) -> str:
    """The network's identity: the digest of its file."""
    found = network.memo.get("sha256")
    if found is None:
        found = network.memo["sha256"] = hashlib.sha256(network_json(network).encode()).hexdigest()
    return str(found)


def compile_network(network: Network, *, observe: bool | None = None, by_lines: bool | None = None) -> PortModel:
    """Reduce the network exactly to its ports.

    Args:
        network: a checked network with at least one port.
        observe: keep voltages of all nodes and currents of all branches observable; None: unless they take more than
            `OBSERVED_BYTES_MAX`.
        by_lines: store Z by outgoing lines; None: where a feeder has many ports and falls into lines.

    Raises:
        ConfigError: no port, or more than `PORTS_MAX`.
        HeadroomError: the network does not determine its voltages.
    """
    ports = network.ports()
    if not 0 < len(ports) <= PORTS_MAX:
        raise ConfigError(network.name, [Fault("connection_points", f"{len(ports)} ports", f"1 .. {PORTS_MAX}")])
    grid = build_tableau(network)
    factor = grid.factor()
    view = _Observables(network, grid)
    size = 16 * len(ports) * (len(view.nodes) + len(view.currents))
    observed = size <= OBSERVED_BYTES_MAX if observe is None else observe
    open_ = factor.solve(grid.drive)
    notes = [
        f"nothing joins the zone of bus {e.nodes[0].bus} to earth: its mean voltage is taken as 0"
        for e in reference_elements(network)
    ]
    if not observed:
        notes.append("voltages of nodes and currents of branches are not observed")
        view.drop()
    z, rows = _responses(network, grid, factor, view)
    groups = _lines(network) if by_lines or (by_lines is None and len(ports) >= LINES_FROM_PORTS) else None
    return PortModel(
        name=network.name,
        network_sha256=network_sha256(network),
        ports=tuple(p.name for p in ports),
        port_buses=tuple(p.bus for p in ports),
        port_labels=tuple(p.connection.label for p in ports),
        port_meters=tuple(point.meter for point in network.connection_points for _ in point.connections),
        u_nominal_v=network.port_nominal_v(),
        u_open_v=np.asarray(grid.incidence(port_pairs(network)).T @ open_),
        z=z if groups is None else _by_lines(network, grid, factor, z, groups),
        base_p_w=np.array([p.connection.p_w for p in ports]),
        base_q_var=np.array([p.connection.q_var for p in ports]),
        base_zip=np.array([p.connection.zip_share for p in ports], dtype=float),
        nodes=tuple(view.nodes),
        node_nominal_v=np.array([network.bus(n.bus).u_nominal_v for n in view.nodes]),
        node_open_v=view.of_nodes(open_),
        node_h_ohm=rows[0],
        currents=tuple(view.currents),
        rating_a=np.array(view.ratings),
        current_open_a=view.of_currents(open_),
        current_h=rows[1],
        source_u_open_v=view.of_source(open_)[0],
        source_h_ohm=rows[2],
        source_i_open_a=view.of_source(open_)[1],
        source_h=rows[3],
        notes=tuple(notes),
        tree=_tree(network, z),
    )


def _tree(network: Network, z: Complexes) -> TreeModel | None:
    """The same feeder as a tree; None where it is none."""
    try:
        tree = reduce_tree(network, network.port_nominal_v())
    except NotRadialError:
        return None
    return tree if agrees(tree, z) else None


class _Observables:
    """Reads voltages and currents out of solutions of the tableau."""

    def __init__(self, network: Network, grid: Tableau) -> None:
        self._network, self._grid = network, grid
        self.nodes = [NodeName(bus.id, str(c)) for bus in network.buses for c in bus.conductors]
        self._node_rows = np.array([grid.index[Node(n.bus, Conductor(n.conductor))] for n in self.nodes])
        self.currents: list[CurrentName] = []
        self.ratings: list[float] = []
        # Each current is a row of coefficients over the unknowns, as (current, unknown, value) triplets.
        self._terms: list[tuple[int, int, complex]] = []
        self._branches()
        for transformer in network.transformers:
            self._transformer(transformer)
        where = grid.slots["source"]
        for conductor, slot in zip(network.source.conductors, range(where.start, where.stop), strict=True):
            self._current(CurrentName("source", "source", "to", str(conductor)), math.inf, [(slot, 1.0)])

    def drop(self) -> None:
        """Observe nothing but ports and source."""
        keep = [k for k, c in enumerate(self.currents) if c.kind == "source"]
        new = {old: k for k, old in enumerate(keep)}
        self._terms = [(new[k], at, value) for k, at, value in self._terms if k in new]
        self.currents = [self.currents[k] for k in keep]
        self.ratings = [self.ratings[k] for k in keep]
        self.nodes, self._node_rows = [], self._node_rows[:0]

    def _current(self, name: CurrentName, rating_a: float, terms: list[tuple[int, complex]]) -> None:
        self._terms += [(len(self.currents), at, value) for at, value in terms if at != EARTH]
        self.currents.append(name)
        self.ratings.append(rating_a)

    def _branches(self) -> None:
        for b in self._network.branches:
            start = self._grid.slots[branch_key(b.id)].start
            ends = [("from", b.from_end, 0.5)] + ([] if b.y_s is None else [("to", b.to_end, -0.5)])
            for end, at, half in ends:
                rows = [self._grid.index[n] for n in at.nodes()]
                for k, conductor in enumerate(at.conductors):
                    rating = b.rating_a[k] if b.rating_a else math.inf
                    terms: list[tuple[int, complex]] = [(start + k, 1.0)]
                    if b.y_s is not None:
                        terms += [(row, half * y) for row, y in zip(rows, b.y_s[k], strict=True)]
                    self._current(CurrentName("branch", b.id, end, str(conductor)), rating, terms)

    def _transformer(self, t: Transformer) -> None:
        start = self._grid.slots[transformer_key(t.id)].start
        for side, bus, sign in (("primary", t.primary_bus, 1.0), ("secondary", t.secondary_bus, -1.0)):
            into: dict[Conductor, list[tuple[int, complex]]] = {}
            for k, coil in enumerate(t.coils):
                end = coil.primary if side == "primary" else coil.secondary
                ratio = coil.secondary.turns_v / coil.primary.turns_v if side == "primary" else 1.0
                y = coil.shunt_pu[side == "secondary"] * t.coil_s_va / end.u_rated_v**2
                pos, neg = (self._grid.row(n) for n in end.nodes())
                for conductor, turn in ((end.pos, 1.0), (end.neg, -1.0)):
                    if conductor is not Conductor.E:
                        terms = into.setdefault(conductor, [])
                        terms += [(start + k, turn * ratio), (pos, sign * turn * y), (neg, -sign * turn * y)]
            for conductor, terms in into.items():
                self._current(
                    CurrentName("transformer", t.id, side, str(conductor)),
                    _rating(self._network, t, bus, conductor),
                    terms,
                )

    def of_nodes(self, x: Complexes) -> Complexes:
        """Voltages of the observed nodes [V]."""
        padded = np.concatenate([x[: self._grid.node_count], np.zeros((1, *x.shape[1:]), dtype=complex)])
        return np.asarray(padded[self._node_rows])  # EARTH is -1, the zero at the end

    def of_currents(self, x: Complexes) -> Complexes:
        """The observed currents [A]."""
        found = np.zeros((len(self.currents), *x.shape[1:]), dtype=complex)
        if self._terms:
            at, rows, values = (np.array(column) for column in zip(*self._terms, strict=True))
            np.add.at(found, at, (values * x[rows].T).T)
        return found

    def of_source(self, x: Complexes) -> tuple[Complexes, Complexes]:
        """Voltage at the source's terminals [V] and current out of them [A]."""
        rows = [self._grid.row(n) for n in self._network.source.nodes()]
        u = np.stack([x[row] if row != EARTH else np.zeros(x.shape[1:], dtype=complex) for row in rows])
        return u, x[self._grid.slots["source"]]


def _rating(network: Network, t: Transformer, bus: str, conductor: Conductor) -> float:
    """Rated current of a terminal: a third of the nameplate at nominal phase voltage, or the single coil's."""
    if conductor is Conductor.N or not math.isfinite(t.rating_va):
        return math.inf
    if len(t.coils) == 1:
        end = t.coils[0].primary if bus == t.primary_bus else t.coils[0].secondary
        return t.rating_va / end.u_rated_v
    return t.rating_va / 3 / network.bus(bus).u_nominal_v


def _responses(
    network: Network, grid: Tableau, factor: SuperLU, view: _Observables
) -> tuple[Complexes, tuple[Complexes, Complexes, Complexes, Complexes]]:
    """Z, and what one ampere at each port does to the observables; a few ports at a time."""
    across = grid.incidence(port_pairs(network))
    z, rows = [], []
    for first in range(0, across.shape[1], _PORTS_AT_ONCE):
        x = factor.solve(across[:, first : first + _PORTS_AT_ONCE].toarray().astype(complex))
        z.append(across.T @ x)
        rows.append((view.of_nodes(x), view.of_currents(x), *view.of_source(x)))
    whole = np.ascontiguousarray(np.concatenate(z, axis=1))
    parts = [np.ascontiguousarray(np.concatenate(part, axis=1)) for part in zip(*rows, strict=True)]
    return (whole + whole.T) / 2, (parts[0], parts[1], parts[2], parts[3])


def _lines(network: Network) -> tuple[str, list[list[int]]] | None:
    """The bus that splits the ports into the cheapest lines, and the ports of each; None if it does not pay."""
    neighbours: dict[str, list[str]] = {}
    for _, a, b in bus_links(network):
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    ports: dict[str, list[int]] = {}
    for k, port in enumerate(network.ports()):
        ports.setdefault(port.bus, []).append(k)
    total = sum(map(len, ports.values()))
    best: tuple[int, str, list[list[int]]] | None = None
    for bus, around in neighbours.items():
        if len(set(around)) < 3:
            continue
        groups = _groups(network, bus, ports)
        cost = sum(len(g) ** 2 for g in groups)
        if best is None or cost < best[0]:
            best = cost, bus, groups
    if best is None or best[0] > 0.6 * total**2:
        return None
    return best[1], best[2]


def _groups(network: Network, without: str, ports: dict[str, list[int]]) -> list[list[int]]:
    joined = Joined()
    for _, a, b in bus_links(network):
        if without not in (a, b):
            joined.join(a, b)
    groups: dict[object, list[int]] = {}
    for bus, at in ports.items():
        groups.setdefault(joined.root(bus), []).extend(at)
    return [sorted(g) for g in groups.values()]


def _by_lines(
    network: Network, grid: Tableau, factor: SuperLU, z: Complexes, lines: tuple[str, list[list[int]]]
) -> Lines:
    """Split Z at a busbar b: between different lines it is `Z_ib Zb^-1 Z_bj`, by the cut set b."""
    busbar, groups = lines
    rows = sorted({grid.index[Node(busbar, c)] for c in network.bus(busbar).conductors} - {EARTH})
    unit = np.zeros((len(grid.drive), len(rows)), dtype=complex)
    unit[rows, range(len(rows))] = 1.0
    x = factor.solve(unit)
    z_busbar = x[rows]
    to_ports = grid.incidence(port_pairs(network)).T @ x
    transfer = np.linalg.solve(z_busbar.T, to_ports.T).T
    parts, at = [], []
    for group in groups:
        ports: NDArray[np.int64] = np.array(group)
        t = transfer[ports]
        parts.append(z[np.ix_(ports, ports)] - t @ z_busbar @ t.T)
        at.append(ports)
    return Lines(tuple(at), tuple(parts), transfer, z_busbar)
