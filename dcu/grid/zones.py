"""Which nodes hang together: one potential, one zone with a conducting way between its nodes, one island."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from dcu.grid.network import ComplexMatrix, Conductor, Network, Node

EARTH: Final = -1
"""Number of the reference among the potentials."""
EARTH_NODE: Final = Node("", Conductor.E)


class Joined:
    """Union-find over anything hashable."""

    def __init__(self) -> None:
        self._up: dict[object, object] = {}

    def root(self, item: object) -> object:
        """The name of the item's set."""
        up = self._up
        top = item
        while (above := up.get(top, top)) != top:
            top = above
        while (above := up.get(item, item)) != item:
            up[item] = top
            item = above
        return top

    def join(self, a: object, b: object) -> bool:
        """Make one set of two; False if they were one already."""
        root_a, root_b = self.root(a), self.root(b)
        self._up[root_b] = root_a
        return root_a != root_b


def bus_links(network: Network) -> Iterator[tuple[str, str, str]]:
    """What joins two buses: where, from, to. The coils of one transformer are one link, an open switch is none."""
    seen: set[frozenset[str]] = set()
    for branch in network.branches:
        yield f"branches[{branch.id}]", branch.from_end.bus, branch.to_end.bus
    for t in network.transformers:
        pair = frozenset((t.primary_bus, t.secondary_bus))
        if pair not in seen:  # single-phase units of one bank stand side by side
            yield f"transformers[{t.id}]", t.primary_bus, t.secondary_bus
        seen.add(pair)
    for switch in network.switches:
        if switch.closed:
            yield f"switches[{switch.id}]", switch.from_bus, switch.to_bus


def node_index(network: Network) -> tuple[dict[Node, int], int]:
    """A number for each node's potential and how many there are: equal for nodes joined by closed switches, `EARTH` for
    solidly earthed ones."""
    joined = Joined()
    for switch in network.switches:
        if switch.closed:
            for c in switch.conductors:
                joined.join(Node(switch.from_bus, c), Node(switch.to_bus, c))
    for e in network.earthings:
        if e.z_ohm == 0:
            joined.join(EARTH_NODE, Node(e.bus, e.conductor))
    numbers: dict[object, int] = {joined.root(EARTH_NODE): EARTH}
    index = {}
    for bus in network.buses:
        for conductor in bus.conductors:
            node = Node(bus.id, conductor)
            index[node] = numbers.setdefault(joined.root(node), len(numbers) - 1)
    return index, len(numbers) - 1


def unearthed_zones(network: Network) -> list[list[Node]]:
    """Zones that nothing joins to earth, behind delta windings and unearthed stars, each in the file's order."""
    zones = Joined()
    for a, b in _galvanic(network):
        zones.join(a, b)
    fixed = zones.root(EARTH_NODE)
    loose: dict[object, list[Node]] = {}
    for bus in network.buses:
        for node in (Node(bus.id, c) for c in bus.conductors):
            if zones.root(node) != fixed:
                loose.setdefault(zones.root(node), []).append(node)
    return list(loose.values())


def _galvanic(network: Network) -> Iterator[tuple[Node, Node]]:
    """Pairs of nodes with a conducting way between them; the two windings of a coil have none."""
    for branch in network.branches:
        yield from zip(branch.from_end.nodes(), branch.to_end.nodes(), strict=True)
        if branch.y_s is not None:
            yield from _to_earth(branch.from_end.nodes(), branch.y_s)
    for transformer in network.transformers:
        for coil in transformer.coils:
            for end in (coil.primary, coil.secondary):
                a, b = (EARTH_NODE if n.conductor is Conductor.E else n for n in end.nodes())
                yield a, b
    for switch in network.switches:
        if switch.closed:
            yield from ((Node(switch.from_bus, c), Node(switch.to_bus, c)) for c in switch.conductors)
    for shunt in network.shunts:
        yield from _to_earth(shunt.nodes(), shunt.y_s)
    for e in network.earthings:
        yield Node(e.bus, e.conductor), EARTH_NODE
    for node in network.source.nodes():
        yield node, EARTH_NODE


def _to_earth(nodes: Sequence[Node], y: ComplexMatrix) -> Iterator[tuple[Node, Node]]:
    for node, row in zip(nodes, y, strict=True):
        if abs(row.sum()) > 1e-6 * np.abs(row).max():
            yield node, EARTH_NODE
