"""Exact reduction of a radial network to the small tree that the compiled sweep walks.

Nomenclature: node = a bus, or several joined by closed switches; `u` voltages of its coordinates; `J` current injected
at the node and below it, after what its subtree's shunts take. For every node with parent p, exactly,

    u = B u_p + C J,    J_p += B^T J                     (open-circuit part and deviation alike)

Steps
  1. From the leaves to the root, each edge's little system (shunts below, series elements) gives B and C. A line
     without shunts below gives B = selection and C = its impedance, without any arithmetic.
  2. A node where nothing is connected and nothing branches is composed away: B = B B_p, C = C + B C_p B^T. So chains of
     cable pieces, the transformer and the source become one edge each, and dead ends vanish.
  3. Coordinates that nothing below uses are dropped. Where everything below hangs between phases and the same neutral,
     and nothing earths it there, the coordinates become phase-to-neutral voltages: three instead of four.
  4. A leaf of one coordinate and one port is an impedance of that port, no node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcu.grid.network import Network, Node
from dcu.grid.tableau import Series, port_pairs, series_elements, shunt_elements
from dcu.grid.tree_model import COORDINATES_MAX, KIND_MAX, TreeModel
from dcu.grid.zones import EARTH, Joined, node_index, unearthed_zones
from shared.errors import ConfigError, Fault, HeadroomError


class NotRadialError(HeadroomError):
    """The network has a loop (or a node too wide): the sweep cannot walk it, the port engine can."""


@dataclass(slots=True)
class _Vertex:
    """A node of the tree while it is being reduced."""

    rows: list[int]
    parent: int = -1
    children: list[int] = field(default_factory=list)
    elements: list[Series] = field(default_factory=list)
    y_s: NDArray[np.complex128] = field(default_factory=lambda: np.zeros((0, 0), dtype=complex))
    ports: list[int] = field(default_factory=list)
    b: NDArray[np.complex128] = field(default_factory=lambda: np.zeros((0, 0), dtype=complex))
    c_ohm: NDArray[np.complex128] = field(default_factory=lambda: np.zeros((0, 0), dtype=complex))
    u_open_v: NDArray[np.complex128] = field(default_factory=lambda: np.zeros(0, dtype=complex))
    basis: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))


def reduce_tree(network: Network, u_nominal_v: NDArray[np.float64]) -> TreeModel:
    """Reduce a checked radial network.

    Args:
        network: with at least one port.
        u_nominal_v: nominal voltage across each port [V].

    Raises:
        NotRadialError: a loop, or a node with more than `COORDINATES_MAX` coordinates.
    """
    if not network.ports():
        raise ConfigError(network.name, [Fault("connection_points", "0 ports", "at least one")])
    index, _ = node_index(network)
    vertices, order = _tree(network, index)
    pairs = [tuple(index.get(n, EARTH) for n in pair) for pair in port_pairs(network)]
    for at in reversed(order):
        _edge(vertices, at, index, network.source.phasors_v)
    for at in order:
        v = vertices[at]
        if v.parent >= 0:
            v.u_open_v = v.b @ vertices[v.parent].u_open_v
    root = _shorten(vertices, order)
    return _flatten(network, vertices, root, pairs, u_nominal_v)


def _tree(network: Network, index: dict[Node, int]) -> tuple[list[_Vertex], list[int]]:
    """Vertices with parents, children, elements and own shunts; and their order from the root on."""
    joined = Joined()
    for switch in network.switches:
        if switch.closed:
            joined.join(switch.from_bus, switch.to_bus)
    number: dict[object, int] = {}
    vertex_of = {bus.id: number.setdefault(joined.root(bus.id), len(number)) for bus in network.buses}
    rows: list[dict[int, None]] = [{} for _ in number]
    for bus in network.buses:
        for c in bus.conductors:
            if (row := index[Node(bus.id, c)]) != EARTH:
                rows[vertex_of[bus.id]][row] = None
    vertices = [_Vertex(list(r)) for r in rows]
    links: dict[tuple[int, int], list[Series]] = {}
    around: list[set[int]] = [set() for _ in vertices]
    elements = series_elements(network)
    root = vertex_of[network.source.bus]
    vertices[root].elements.append(next(elements))
    for element in elements:
        touched = sorted({vertex_of[node.bus] for ends in element.ends for node, _ in ends})
        if len(touched) != 2:
            raise NotRadialError(f"{element.where}: seen both ends joined by switches, expected a radial feeder")
        a, b = touched
        links.setdefault((a, b), []).append(element)
        around[a].add(b)
        around[b].add(a)
    if len(links) != len(vertices) - 1:
        raise NotRadialError(f"{network.name}: seen {len(links)} edges between {len(vertices)} nodes, expected a tree")
    order = [root]
    for at in order:
        for other in sorted(around[at]):
            if other != vertices[at].parent:
                vertices[other].parent = at
                vertices[other].elements = links[min(at, other), max(at, other)]
                vertices[at].children.append(other)
                order.append(other)
    for v in vertices:
        v.y_s = np.zeros((len(v.rows), len(v.rows)), dtype=complex)
    for shunt in shunt_elements(network):
        v = vertices[vertex_of[shunt.nodes[0].bus]]
        at_rows = [v.rows.index(index[n]) if index.get(n, EARTH) != EARTH else EARTH for n in shunt.nodes]
        for (r, c), y in np.ndenumerate(shunt.y_s):
            if EARTH not in (at_rows[r], at_rows[c]):
                v.y_s[at_rows[r], at_rows[c]] += y
    for k, port in enumerate(network.ports()):
        vertices[vertex_of[port.bus]].ports.append(k)
    return vertices, order


def _edge(vertices: list[_Vertex], at: int, index: dict[Node, int], emf_v: NDArray[np.complex128]) -> None:
    """B and C of the edge into a vertex, and what its subtree's shunts are at the parent."""
    v = vertices[at]
    own = _incidence(v, v.elements, index)
    z = _block_diagonal([e.z_ohm for e in v.elements])
    # Each conductor here ends exactly one series element, and nothing below takes current: j is the injection itself.
    plain = not v.y_s.any() and own.shape[0] == own.shape[1] and (np.abs(own) @ np.ones(len(z)) == 1).all()
    plain = plain and (np.abs(own).sum(axis=0) == 1).all()
    above = np.zeros((0, len(z))) if v.parent < 0 else _incidence(vertices[v.parent], v.elements, index)
    if plain:
        v.b, v.c_ohm = (-own @ above.T).astype(complex), own @ z @ own.T
        v.u_open_v = -own @ emf_v if v.parent < 0 else v.u_open_v
        return
    inverse = _inverse(v.y_s, own, z)
    rows = len(v.rows)
    v.c_ohm = inverse[:rows, :rows]
    v.b = -inverse[:rows, rows:] @ above.T
    if v.parent < 0:
        v.u_open_v = -inverse[:rows, rows:] @ emf_v
    elif v.y_s.any() or np.linalg.matrix_rank(own) < len(z):  # else no current can flow with nothing connected below
        p = vertices[v.parent]
        p.y_s = p.y_s - above @ inverse[rows:, rows:] @ above.T


def _inverse(y: NDArray[np.complex128], own: NDArray[np.float64], z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Inverse of `[[Y, own], [own^T, -Z]]`, the tableau of one edge over [u; j]."""
    try:
        return np.asarray(np.linalg.inv(np.block([[y, own.astype(complex)], [own.T.astype(complex), -z]])))
    except np.linalg.LinAlgError as error:
        raise HeadroomError("network: seen a singular edge, expected impedances that fix every voltage") from error


def _incidence(v: _Vertex, elements: list[Series], index: dict[Node, int]) -> NDArray[np.float64]:
    """Factors of the series elements at the vertex's rows (n_row, n_element)."""
    place = {row: k for k, row in enumerate(v.rows)}
    count = sum(len(e.ends) for e in elements)
    found = np.zeros((len(v.rows), count))
    column = 0
    for element in elements:
        for ends in element.ends:
            for node, factor in ends:
                if (k := place.get(index.get(node, EARTH), EARTH)) != EARTH:
                    found[k, column] += factor
            column += 1
    return found


def _block_diagonal(blocks: list[NDArray[np.complex128]]) -> NDArray[np.complex128]:
    size = sum(len(b) for b in blocks)
    found = np.zeros((size, size), dtype=complex)
    at = 0
    for block in blocks:
        found[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return found


def _shorten(vertices: list[_Vertex], order: list[int]) -> int:
    """Remove dead ends and chains; returns the root that is left."""
    for at in reversed(order):
        v = vertices[at]
        v.children = [c for c in v.children if vertices[c].ports or vertices[c].children]
    root = order[0]
    for at in order:
        v = vertices[at]
        if v.ports or len(v.children) != 1:
            continue
        k = vertices[v.children[0]]
        if at == root:
            k.c_ohm = k.c_ohm + k.b @ v.c_ohm @ k.b.T
            k.b, k.parent, root = np.zeros((len(k.rows), 0), dtype=complex), -1, v.children[0]
        else:
            k.c_ohm = k.c_ohm + k.b @ v.c_ohm @ k.b.T
            k.b = k.b @ v.b
            k.parent = v.parent
            above = vertices[v.parent].children
            above[above.index(at)] = v.children[0]
    return root


def _flatten(
    network: Network,
    vertices: list[_Vertex],
    root: int,
    pairs: list[tuple[int, ...]],
    u_nominal_v: NDArray[np.float64],
) -> TreeModel:
    order = _preorder(vertices, root)
    for at in reversed(order):
        v = vertices[at]
        t = _coordinates(v, [vertices[c] for c in v.children], pairs)
        if len(t) > COORDINATES_MAX:
            raise NotRadialError(f"{network.name}: seen a node of {len(t)} coordinates, expected {COORDINATES_MAX}")
        v.basis, v.b, v.c_ohm, v.u_open_v = t, t @ v.b, t @ v.c_ohm @ t.T, t @ v.u_open_v
    services: dict[int, complex] = {}
    for at in order:
        _take_services(vertices, at, services)
    order = [at for at in order if at not in services]
    nodes: list[list[int]] = []
    selects: list[int] = []
    coefficients: list[float] = []
    slot: dict[int, int] = {}
    slots = 0
    for at in order:
        v = vertices[at]
        slot[at] = slots
        entry = [slots, len(v.basis), -1, 0, -1, len(coefficients), 0]
        slots += len(v.basis)
        matrices = [v.c_ohm]
        if v.parent >= 0:
            b = _in_coordinates(v.b, vertices[v.parent].basis)
            entry[2:4] = slot[v.parent], b.shape[1]
            if _selects(b):
                continued = [slot[v.parent] + int(np.flatnonzero(row)[0]) for row in b]
                if len(b) <= KIND_MAX and continued == list(range(continued[0], continued[0] + len(b))):
                    entry[2], entry[6] = continued[0], len(b)
                else:
                    entry[4] = len(selects)
                    selects += continued
            else:
                matrices.append(b)
        for m in matrices:
            coefficients += np.stack([m.real, m.imag], axis=-1).ravel().tolist()
        nodes.append(entry)
    own = np.zeros(len(pairs), dtype=complex)
    pos = np.zeros(len(pairs), dtype=np.int32)
    neg = np.full(len(pairs), -1, dtype=np.int32)
    u_open = np.zeros(len(pairs), dtype=complex)
    for at, z in services.items():
        (port,) = vertices[at].ports
        parent = vertices[at].parent
        u_open[port], own[port] = vertices[at].u_open_v[0], z
        pos[port] = slot[parent] + int(np.flatnonzero(_in_coordinates(vertices[at].b, vertices[parent].basis)[0])[0])
    for at in order:
        v = vertices[at]
        for port in v.ports:
            across = _in_coordinates(_port_row(v, pairs[port])[None, :], v.basis)[0]
            u_open[port] = across @ v.u_open_v
            for k in np.flatnonzero(across):
                (pos if across[k] > 0 else neg)[port] = slot[at] + k
    return TreeModel(
        nodes=np.array(nodes, dtype=np.int32),
        selects=np.array(selects, dtype=np.int32),
        coefficients=np.array(coefficients),
        slots=slots,
        port_pos=pos,
        port_neg=neg,
        port_z_ohm=own,
        u_open_v=u_open,
        u_nominal_v=u_nominal_v,
        ports=tuple(p.name for p in network.ports()),
        floating=bool(unearthed_zones(network)),
    )


def _take_services(vertices: list[_Vertex], at: int, services: dict[int, complex]) -> None:
    """Note the children of a vertex that are nothing but the service line of one port."""
    v = vertices[at]
    for child in v.children:
        k = vertices[child]
        if len(k.ports) == 1 and not k.children and len(k.basis) == 1 and _selects(_in_coordinates(k.b, v.basis)):
            services[child] = complex(k.c_ohm[0, 0])


def _preorder(vertices: list[_Vertex], root: int) -> list[int]:
    """Parents first, each subtree in one piece: neighbours in the tree are neighbours in memory."""
    order, stack = [], [root]
    while stack:
        at = stack.pop()
        order.append(at)
        stack += reversed(vertices[at].children)
    return order


def _port_row(v: _Vertex, pair: tuple[int, ...]) -> NDArray[np.float64]:
    row = np.zeros(len(v.rows))
    for node, sign in zip(pair, (1.0, -1.0), strict=True):
        if node != EARTH:
            row[v.rows.index(node)] += sign
    return row


def _coordinates(v: _Vertex, children: list[_Vertex], pairs: list[tuple[int, ...]]) -> NDArray[np.float64]:
    """The new coordinates as rows over the vertex's conductors (n_coordinate, n_row); see step 3."""
    ports = np.array([_port_row(v, pairs[p]) for p in v.ports]).reshape(-1, len(v.rows))
    rows = np.concatenate([ports, *(child.b for child in children)])
    used = np.flatnonzero(np.abs(rows).max(axis=0) > 0)
    for neutral in used:
        others = [c for c in used if c != neutral]
        against = rows[:, neutral] == -rows[:, others].sum(axis=1)
        if others and against.all() and (ports[:, others] > 0).any(axis=1).all():
            found = np.zeros((len(others), len(v.rows)))
            found[range(len(others)), others] = 1.0
            found[:, neutral] = -1.0
            return found
    return np.eye(len(v.rows))[used]


def _in_coordinates(rows: NDArray[Any], t: NDArray[np.float64]) -> NDArray[Any]:
    """Rows over the conductors as rows over the coordinates `t`: each coordinate owns the conductor with its +1."""
    own = [int(np.flatnonzero(row > 0)[0]) for row in t]
    return np.asarray(rows[:, own])


def _selects(b: NDArray[np.complex128]) -> bool:
    return bool(((b == 1).sum(axis=1) == 1).all() and ((b != 0).sum(axis=1) == 1).all())
