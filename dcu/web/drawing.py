"""The feeder as the page draws it: lines, and where each customer stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from dcu.grid.network_file import load_network
from dcu.grid.picture import Plan, feeder_plan

STEP: Final = 15.0
MARGIN: Final = 30.0
EDGES_MAX: Final = 20_000


class Drawing:
    """A network's tree, and its map if it has one; to them the DCU's customers are added once they are known."""

    def __init__(self, network: Path | None) -> None:
        """Reads the network's file.

        Raises:
            ConfigError: it cannot be used, with every fault in it.
        """
        self._name: str | None = None
        self._tree: Plan | None = None
        self._map: Plan | None = None
        if network is not None:
            found = load_network(network)
            plan = feeder_plan(found)
            self._name, self._map = found.name, plan if plan.is_map else None
            self._tree = feeder_plan(found, as_tree=True) if plan.is_map else plan

    def of(self, customers: list[tuple[str, str]]) -> dict[str, Any]:
        """With customers (meter, bus); who stands on a bus that the network does not have stands nowhere."""
        drawn_map = None if self._map is None else _drawn(self._map, customers)
        tree = _unknown(customers) if self._tree is None else _drawn(_dense(self._tree, customers), customers)
        longest = max(self._tree.ohms.values(), default=0.0) if self._tree is not None else None
        return {"name": self._name, "longest_ohm": longest, "tree": tree, "map": drawn_map}


def _drawn(plan: Plan, customers: list[tuple[str, str]]) -> dict[str, Any]:
    spots, at_bus = [], dict.fromkeys(plan.places, 0)
    for meter, bus in customers:
        if bus in plan.places:
            x, y = plan.places[bus]
            spots.append(_Spot(meter, bus, x, y + at_bus[bus] * plan.row, plan.ohms.get(bus)))
            at_bus[bus] += 1
    edges = plan.edges[:EDGES_MAX]
    ends = [plan.places[bus] for parent, bus, _ in edges] + [plan.places[parent] for parent, _, _ in edges]
    points = [*ends, plan.places[plan.root], *((spot.x, spot.y) for spot in spots)]
    left, top = min(x for x, _ in points) - MARGIN, min(y for _, y in points) - MARGIN

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return round(point[0] - left, 1), round(point[1] - top, 1)

    return {
        "width": round(max(x for x, _ in points) - left + MARGIN, 1),
        "height": round(max(y for _, y in points) - top + MARGIN, 1),
        "edges": [_edge(at(plan.places[parent]), at(plan.places[bus]), wires) for parent, bus, wires in edges],
        "places": [spot.as_api(at((spot.x, spot.y))) for spot in spots],
        "source": at(plan.places[plan.root]),
    }


def _dense(plan: Plan, customers: list[tuple[str, str]]) -> Plan:
    """A tree with a row for each customer and none for ends where nobody is."""
    own: dict[str, int] = {}
    for _, bus in customers:
        own[bus] = own.get(bus, 0) + 1
    children: dict[str, list[str]] = {}
    parents = {bus: parent for parent, bus, _ in plan.edges}
    wanted = set(own) & plan.places.keys()
    for bus in tuple(wanted):
        at = bus
        while (above := parents.get(at)) is not None and above not in wanted:
            wanted.add(above)
            at = above
    edges = tuple(edge for edge in plan.edges if edge[1] in wanted)
    for parent, bus, _ in edges:
        children.setdefault(parent, []).append(bus)
    rows: dict[str, float] = {}
    row, stack = 0, [(plan.root, False)]
    while stack:  # children first, so that a parent stands in the middle of them
        bus, ready = stack.pop()
        below = sorted(children.get(bus, ()), key=lambda child: plan.places[child][1])
        if not ready:
            stack.append((bus, True))
            stack += [(child, False) for child in reversed(below)]
        elif below and bus not in own:
            rows[bus] = (rows[below[0]] + rows[below[-1]]) / 2
        else:
            rows[bus] = row
            row += max(1, own.get(bus, 0))
    places = {bus: (plan.places[bus][0], plan.row * at) for bus, at in rows.items()}
    return replace(plan, places=places, edges=edges)


def _unknown(customers: list[tuple[str, str]]) -> dict[str, Any]:
    """Nobody told us the network: everybody hangs on the substation, in the order of the DCU's configuration."""
    spots = [_Spot(meter, bus, MARGIN + STEP, MARGIN + k * STEP, None) for k, (meter, bus) in enumerate(customers)]
    source = (MARGIN, MARGIN)
    return {
        "width": 2 * MARGIN + STEP,
        "height": 2 * MARGIN + STEP * max(0, len(spots) - 1),
        "edges": [_edge(source, (spot.x, spot.y), 3) for spot in spots],
        "places": [spot.as_api((spot.x, spot.y)) for spot in spots],
        "source": source,
    }


class _Spot(NamedTuple):
    """Where a customer stands."""

    meter: str
    bus: str
    x: float
    y: float
    ohm: float | None

    def as_api(self, at: tuple[float, float]) -> dict[str, Any]:
        return {"meter": self.meter, "bus": self.bus, "x": at[0], "y": at[1], "ohm": self.ohm}


def _edge(a: tuple[float, float], b: tuple[float, float], wires: int) -> dict[str, Any]:
    return {"x0": a[0], "y0": a[1], "x1": b[0], "y1": b[1], "wires": wires}
