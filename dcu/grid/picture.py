"""A feeder as a drawing: SVG with the tree, ratings, and customers coloured by phase.

With coordinates for every bus it is a map; else a tree, where across the page runs the impedance from the feeding
transformer and every customer has a line of his own. Chains of buses without customers are drawn as one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

import numpy as np

from dcu.grid.network import Branch, Conductor, ConnectionPoint, Network

COLOURS: Final = {"L1": "#d55e00", "L2": "#0072b2", "L3": "#009e73", "several": "#444444"}
"""Told apart with any colour vision; the letter stands beside the dot too."""
WIDTH: Final = 1100
ROW: Final = 15
TRANSFORMER: Final = 110
"""Width kept for each transformer on the way, with its name-plate."""
MARGIN: Final = 60
LABELS_MAX: Final = 90
"""With more customers the names would run into each other; they stay as tooltips."""


@dataclass(slots=True)
class _Spot:
    """A bus in the drawing tree."""

    bus: str
    parent: str | None
    distance_ohm: float
    edge: str = ""
    wires: int = 3
    transformers: int = 0
    rating: float = math.inf
    children: list[str] = field(default_factory=list)
    row: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything stands on the page: buses, edges `(parent, bus, wires)`, and the height kept for a customer.

    A tree's edges go down at the parent and then across; a map's go straight. Edges that lead to no customer are left
    out. y grows downwards.
    """

    places: dict[str, tuple[float, float]]
    edges: tuple[tuple[str, str, int], ...]
    root: str
    row: float
    is_map: bool
    ohms: dict[str, float] = field(default_factory=dict)
    """Positive-sequence impedance of the branches from the source to each bus."""


def feeder_plan(network: Network, *, as_tree: bool = False) -> Plan:
    """The drawing's geometry, for other pictures of the same feeder; ``as_tree`` also where there is a map."""
    customers: dict[str, list[ConnectionPoint]] = {}
    for point in network.connection_points:
        customers.setdefault(point.bus, []).append(point)
    spots = _spots(network)
    found = None if as_tree else _map(network, spots)
    places = found or _tree(spots, customers, network.source.bus)
    leading: set[str] = set()
    for bus in reversed(spots):  # children stand behind their parents
        if bus in customers or any(child in leading for child in spots[bus].children):
            leading.add(bus)
    edges = tuple((s.parent, bus, s.wires) for bus, s in spots.items() if s.parent is not None and bus in leading)
    return Plan(
        places,
        edges,
        network.source.bus,
        7.0 if found else float(ROW),
        found is not None,
        {bus: s.distance_ohm for bus, s in spots.items()},
    )


def feeder_svg(network: Network) -> str:
    """The drawing as the text of an SVG file."""
    customers: dict[str, list[ConnectionPoint]] = {}
    for point in network.connection_points:
        customers.setdefault(point.bus, []).append(point)
    spots = _spots(network)
    places = _map(network, spots) or _tree(spots, customers, network.source.bus)
    height = max(y for _, y in places.values()) + MARGIN
    body = [*_edges(network, spots, places, customers), *_dots(network, places, customers)]
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" role="img">',
        f"<title>{escape(network.name)}</title>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        *_legend(network, spots, is_map=_has_map(network)),
        *body,
        "</svg>",
    ]
    return "\n".join(text) + "\n"


def _has_map(network: Network) -> bool:
    places = {bus.position for bus in network.buses}
    return None not in places and len(places) > 2


def _spots(network: Network) -> dict[str, _Spot]:
    """A spanning tree from the source; its distance is the positive-sequence impedance seen along branches."""
    links: dict[str, list[tuple[str, str, float, int, float]]] = {}
    for b in network.branches:
        z = float(abs(np.trace(b.z_ohm) / len(b.z_ohm) - _mutual(b)))
        rating = min(b.rating_a, default=math.inf)
        _link(links, b.from_end.bus, b.to_end.bus, b.id, z, len(b.z_ohm), rating)
    for t in network.transformers:
        _link(links, t.primary_bus, t.secondary_bus, t.id, 0.0, 3, math.inf)
    for s in network.switches:
        if s.closed:
            _link(links, s.from_bus, s.to_bus, s.id, 0.0, len(s.conductors), math.inf)
    wound = {t.id for t in network.transformers}
    spots = {network.source.bus: _Spot(network.source.bus, None, 0.0)}
    order = [network.source.bus]
    for bus in order:
        for other, name, z, wires, rating in links.get(bus, ()):
            if other not in spots:
                passed = spots[bus].transformers + (name in wound)
                spots[other] = _Spot(other, bus, spots[bus].distance_ohm + z, name, wires, passed, rating)
                spots[bus].children.append(other)
                order.append(other)
    return spots


def _mutual(b: Branch) -> complex:
    n = len(b.z_ohm)
    return complex((b.z_ohm.sum() - np.trace(b.z_ohm)) / (n * (n - 1))) if n > 1 else 0j


def _link(
    links: dict[str, list[tuple[str, str, float, int, float]]],
    a: str,
    b: str,
    name: str,
    z: float,
    wires: int,
    rating: float,
) -> None:
    links.setdefault(a, []).append((b, name, z, wires, rating))
    links.setdefault(b, []).append((a, name, z, wires, rating))


def _map(network: Network, spots: dict[str, _Spot]) -> dict[str, tuple[float, float]] | None:
    if not _has_map(network):
        return None
    found = {bus.id: bus.position for bus in network.buses if bus.position is not None and bus.id in spots}
    xs, ys = zip(*found.values(), strict=True)
    span = max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
    scale = (WIDTH - 2 * MARGIN) / span
    return {bus: (MARGIN + (x - min(xs)) * scale, 2 * MARGIN + (max(ys) - y) * scale) for bus, (x, y) in found.items()}


def _tree(
    spots: dict[str, _Spot], customers: dict[str, list[ConnectionPoint]], root: str
) -> dict[str, tuple[float, float]]:
    row = 0.0
    stack = [(root, False)]
    while stack:  # children first, so that a parent stands in the middle of them
        bus, ready = stack.pop()
        spot = spots[bus]
        if not ready:
            stack.append((bus, True))
            stack += [(child, False) for child in reversed(spot.children)]
            continue
        below = [spots[child].row for child in spot.children]
        own = len(customers.get(bus, ()))
        if below and not own:
            spot.row = (min(below) + max(below)) / 2
        else:
            spot.row = row
            row += max(1, own)
    steps = max(spot.transformers for spot in spots.values())
    longest = max(spot.distance_ohm for spot in spots.values()) or 1.0
    usable = WIDTH - 3 * MARGIN - TRANSFORMER * steps
    return {
        bus: (
            MARGIN + TRANSFORMER * spot.transformers + usable * spot.distance_ohm / longest,
            2 * MARGIN + ROW * spot.row,
        )
        for bus, spot in spots.items()
    }


def _edges(
    network: Network,
    spots: dict[str, _Spot],
    places: dict[str, tuple[float, float]],
    customers: dict[str, list[ConnectionPoint]],
) -> Iterator[str]:
    transformers = {t.id: t for t in network.transformers}
    straight = _has_map(network)
    for bus, spot in spots.items():
        if spot.parent is None:
            continue
        (x0, y0), (x1, y1) = places[spot.parent], places[bus]
        rating = f", {spot.rating:.0f} A" if math.isfinite(spot.rating) else ""
        tip = f"<title>{escape(spot.edge)}: {escape(spot.parent)} to {escape(bus)}{rating}</title>"
        path = f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" if straight else f"M{x0:.1f} {y0:.1f}V{y1:.1f}H{x1:.1f}"
        wide = 0.7 + 0.5 * spot.wires
        yield f'<path d="{path}" fill="none" stroke="#777" stroke-width="{wide:.1f}">{tip}</path>'
        if spot.edge in transformers:
            t = transformers[spot.edge]
            x, y = (x0 + x1) / 2, y1
            yield f'<circle cx="{x - 5:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="#333" stroke-width="1.6"/>'
            yield f'<circle cx="{x + 5:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="#333" stroke-width="1.6"/>'
            rated = f" {t.rating_va / 1e3:.0f} kVA" if math.isfinite(t.rating_va) else ""
            name = escape(t.vector_group or t.id)
            yield f'<text x="{x:.1f}" y="{y + 21:.1f}" text-anchor="middle">{name}{rated}</text>'
        elif math.isfinite(spot.rating) and abs(x1 - x0) > 60 and (spot.children or not customers.get(bus)):
            middle = (x0 + x1) / 2
            text = f"{spot.rating:.0f} A"
            yield f'<text x="{middle:.1f}" y="{y1 - 3:.1f}" text-anchor="middle" fill="#666">{text}</text>'
    x, y = places[network.source.bus]
    yield f'<rect x="{x - 7:.1f}" y="{y - 7:.1f}" width="14" height="14" fill="#333"><title>source</title></rect>'


def _dots(
    network: Network, places: dict[str, tuple[float, float]], customers: dict[str, list[ConnectionPoint]]
) -> Iterator[str]:
    named = len(network.connection_points) <= LABELS_MAX
    for bus, points in customers.items():
        if bus not in places:
            continue
        x, y = places[bus]
        for k, point in enumerate(points):
            phases = _phases(point)
            colour = COLOURS.get(phases, COLOURS["several"])
            at_y = y + k * (ROW if not _has_map(network) else 7)
            power = sum(c.p_w for c in point.connections)
            tip = f"<title>{escape(point.id)} at {escape(bus)}, {phases}, {power:.0f} W</title>"
            yield f'<circle cx="{x:.1f}" cy="{at_y:.1f}" r="4.5" fill="{colour}">{tip}</circle>'
            if named:
                label = f"{escape(point.id)} {phases}"
                yield f'<text x="{x + 8:.1f}" y="{at_y + 3.5:.1f}" font-size="10">{label}</text>'


def _phases(point: ConnectionPoint) -> str:
    """`L1`, or `L1 L2 L3` for one on several phases."""
    used = {c for k in point.connections for c in (k.pos, k.neg) if c not in (Conductor.N, Conductor.E)}
    return " ".join(sorted(used))


def _legend(network: Network, spots: dict[str, _Spot], *, is_map: bool) -> Iterator[str]:
    counts = dict.fromkeys(COLOURS, 0)
    for point in network.connection_points:
        phases = _phases(point)
        counts[phases if phases in counts else "several"] += 1
    yield f'<text x="{MARGIN}" y="26" font-size="16" font-weight="bold">{escape(network.name)}</text>'
    what = f"{len(network.buses)} buses, {len(network.branches)} branches, {len(network.connection_points)} customers"
    yield f'<text x="{MARGIN}" y="44" fill="#555">{what}</text>'
    x = float(MARGIN)
    for name, colour in COLOURS.items():
        if counts[name]:
            yield f'<circle cx="{x + 5:.0f}" cy="62" r="4.5" fill="{colour}"/>'
            yield f'<text x="{x + 14:.0f}" y="66">{name}: {counts[name]}</text>'
            x += 90
    if not is_map:
        longest = max(spot.distance_ohm for spot in spots.values())
        text = f"across: impedance from the transformer, 0 .. {1e3 * longest:.0f} mOhm"
        yield f'<text x="{x + 20:.0f}" y="66" fill="#555">{text}</text>'
