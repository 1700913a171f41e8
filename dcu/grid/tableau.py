"""All of Kirchhoff's and Ohm's laws of a network in one sparse symmetric system, for whoever compiles or checks it.

Nomenclature: `u` voltages of nodes to earth [V]; `j` currents through series elements (branch conductors, coils, source
conductors) [A]; `B` incidence of nodes and series elements; `Z` block-diagonal series impedances [ohm]; `Y` shunt
admittances to earth [S]; `E` the source's open-circuit voltages [V]; `i` currents injected at nodes [A].

    | Y    B | | u |   |  i |        currents that leave a node = current injected
    | B^T -Z | | j | = | -E |        voltage across an element = Z j  (E in the source's rows, else 0)

Nothing is divided by an impedance, so that a switch of a micro-ohm beside a kilometre of line costs no digits (a nodal
admittance matrix loses as many digits as their ratio has), and every branch current is an unknown of its own.
Nodes joined by closed switches are one node, solidly earthed ones are none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from dcu.grid.network import Coil, ComplexMatrix, Conductor, Network, Node, Transformer, matrix
from dcu.grid.zones import EARTH, node_index, unearthed_zones
from shared.errors import HeadroomError

REFERENCE_S: Final = 1e-2
"""[S] A zone that nothing joins to earth is held by this admittance between the mean of one bus's conductors and earth.
Connections to earth are refused in such a zone, so that no current can flow there: its size changes rounding only."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Series elements that share an impedance matrix: `ends[k]` lists (node, factor) of element k's incidence."""

    where: str
    ends: tuple[tuple[tuple[Node, float], ...], ...]
    z_ohm: ComplexMatrix


@dataclass(frozen=True, slots=True, eq=False)
class ToEarth:
    """Admittance from nodes to earth."""

    nodes: tuple[Node, ...]
    y_s: ComplexMatrix


def series_elements(network: Network) -> Iterator[Series]:
    """The source first, then branches, then transformers, in the file's order."""
    source = network.source
    yield Series("source", tuple(((node, -1.0),) for node in source.nodes()), source.z_ohm)
    for b in network.branches:
        pairs = zip(b.from_end.nodes(), b.to_end.nodes(), strict=True)
        yield Series(b.id, tuple(((f, 1.0), (t, -1.0)) for f, t in pairs), b.z_ohm)
    for t in network.transformers:
        yield Series(t.id, tuple(_coil_ends(coil) for coil in t.coils), coil_z_ohm(t))


def _coil_ends(coil: Coil) -> tuple[tuple[Node, float], ...]:
    """Current of one ampere out of the secondary winding and its counterpart in the primary."""
    ratio = coil.secondary.turns_v / coil.primary.turns_v
    (p_pos, p_neg), (s_pos, s_neg) = coil.primary.nodes(), coil.secondary.nodes()
    return (p_pos, ratio), (p_neg, -ratio), (s_pos, -1.0), (s_neg, 1.0)


def coil_z_ohm(t: Transformer) -> ComplexMatrix:
    """Short-circuit impedance of the coils seen from their secondaries [ohm] (n_coil, n_coil)."""
    turns = np.array([coil.secondary.turns_v for coil in t.coils])
    return matrix(t.z_pu / t.coil_s_va * np.outer(turns, turns))


def shunt_elements(network: Network) -> Iterator[ToEarth]:
    """Everything that carries current to earth: half-shunts of branches, magnetising branches, shunts, earthings."""
    for b in network.branches:
        if b.y_s is not None:
            for end in (b.from_end, b.to_end):
                yield ToEarth(end.nodes(), matrix(b.y_s / 2))
    for t in network.transformers:
        for coil in t.coils:
            for winding, y_pu in zip((coil.primary, coil.secondary), coil.shunt_pu, strict=True):
                if y_pu:
                    y = y_pu * t.coil_s_va / winding.u_rated_v**2
                    yield ToEarth(winding.nodes(), matrix([[y, -y], [-y, y]]))
    for shunt in network.shunts:
        yield ToEarth(shunt.nodes(), shunt.y_s)
    for e in network.earthings:
        if e.z_ohm != 0:
            yield ToEarth((Node(e.bus, e.conductor),), matrix([[1 / e.z_ohm]]))
    yield from reference_elements(network)


def reference_elements(network: Network) -> list[ToEarth]:
    """References for the zones that nothing joins to earth: the mean of one bus of each is at 0 V."""
    found = []
    for zone in unearthed_zones(network):
        nodes = tuple(n for n in zone if n.bus == zone[0].bus)
        found.append(ToEarth(nodes, matrix(np.full((len(nodes), len(nodes)), REFERENCE_S / len(nodes) ** 2))))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Tableau:
    """The system of a network: `system` (n, n), `drive` (n) for no injections; `slots` locates each series element's
    currents among the unknowns; the first `node_count` unknowns are voltages."""

    index: dict[Node, int]
    node_count: int
    system: sparse.csc_matrix
    drive: NDArray[np.complex128]
    slots: dict[str, slice]

    def factor(self) -> SuperLU:
        """The one sparse factorisation.

        Raises:
            HeadroomError: the network does not determine its voltages.
        """
        try:
            return splu(self.system)
        except RuntimeError as error:
            raise HeadroomError(
                "network: seen a singular system, expected impedances that fix every voltage"
            ) from error

    def incidence(self, pairs: Sequence[tuple[Node, Node]]) -> sparse.csc_matrix:
        """Matrix (n, n_pair) with +1 at the first and -1 at the second node of each pair."""
        rows, columns, values = [], [], []
        for k, pair in enumerate(pairs):
            for node, sign in zip(pair, (1.0, -1.0), strict=True):
                if (row := self.row(node)) != EARTH:
                    rows.append(row)
                    columns.append(k)
                    values.append(sign)
        return sparse.csc_matrix((values, (rows, columns)), shape=(len(self.drive), len(pairs)))

    def row(self, node: Node) -> int:
        """The unknown that is the node's voltage, or `EARTH`."""
        return EARTH if node.conductor is Conductor.E else self.index[node]


def build_tableau(network: Network) -> Tableau:
    """Stamp the whole network; it must have no faults (`dcu.grid.check`)."""
    index, node_count = node_index(network)
    entries: list[tuple[int, int, complex]] = []
    slots: dict[str, slice] = {}
    at = node_count
    for kind, element in _keyed(network):
        slots[kind] = slice(at, at + len(element.ends))
        for k, ends in enumerate(element.ends):
            for node, factor in ends:
                row = EARTH if node.conductor is Conductor.E else index[node]
                if row != EARTH:
                    entries += [(row, at + k, factor), (at + k, row, factor)]
        entries += [(at + r, at + c, -z) for (r, c), z in np.ndenumerate(element.z_ohm)]
        at += len(element.ends)
    for shunt in shunt_elements(network):
        rows = [EARTH if n.conductor is Conductor.E else index[n] for n in shunt.nodes]
        entries += [(rows[r], rows[c], y) for (r, c), y in np.ndenumerate(shunt.y_s) if EARTH not in (rows[r], rows[c])]
    rows_, columns, values = zip(*entries, strict=True)
    drive = np.zeros(at, dtype=complex)
    drive[slots["source"]] = -network.source.phasors_v
    return Tableau(index, node_count, sparse.csc_matrix((values, (rows_, columns)), (at, at)), drive, slots)


def _keyed(network: Network) -> Iterator[tuple[str, Series]]:
    kinds = ["source", *(branch_key(b.id) for b in network.branches)]
    kinds += [transformer_key(t.id) for t in network.transformers]
    yield from zip(kinds, series_elements(network), strict=True)


def branch_key(name: str) -> str:
    """Name of a branch among the slots."""
    return f"branch {name}"


def transformer_key(name: str) -> str:
    """Name of a transformer among the slots."""
    return f"transformer {name}"


def port_pairs(network: Network) -> list[tuple[Node, Node]]:
    """The two nodes of each port."""
    return [(Node(p.bus, p.connection.pos), Node(p.bus, p.connection.neg)) for p in network.ports()]
