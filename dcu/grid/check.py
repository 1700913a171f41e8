"""Everything that is wrong with a network, as one list of faults: names, numbers, units, connections.

The plausibility ranges are ours: wide enough for any low- or medium-voltage feeder, narrow enough to catch a mOhm taken
for an ohm or a kV for a V.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from dcu.grid.network import (
    BUSES_MAX,
    Branch,
    CoilEnd,
    ComplexMatrix,
    Conductor,
    Network,
    Node,
    Transformer,
)
from dcu.grid.zones import EARTH_NODE, Joined, bus_links, node_index, unearthed_zones
from shared.errors import Fault

U_NOMINAL_V: Final = (20.0, 400e3)
IMPEDANCE_OHM: Final = (1e-7, 1e4)
SHUNT_S_MAX: Final = 1e3
RATING_A_MAX: Final = 1e5
POWER_W_MAX: Final = 1e9
TAP: Final = (0.5, 1.5)
COIL_Z_PU: Final = (1e-7, 10.0)
ASYMMETRY_MAX: Final = 1e-6
"""Relative; passive elements have symmetric matrices, published ones are rounded."""
UNIT_RATIO_MAX: Final = 1.5
"""Nominal voltages that belong together agree within tolerance and tap; sqrt(3) and 1000 do not."""


def find_faults(network: Network, meters: frozenset[str] | None = None) -> list[Fault]:
    """All faults of the network; none means that it can be compiled.

    Args:
        network: what to look at.
        meters: ids of the meters that exist, if they are known.
    """
    if len(network.buses) > BUSES_MAX:
        return [Fault("buses", f"{len(network.buses)} buses", f"at most {BUSES_MAX}")]
    faults = [*_names(network), *_references(network)]
    numbers = [*_buses(network), *_source(network), *_elements(network), *_points(network, meters)]
    if faults:  # what hangs together can only be asked where every name is known
        return faults + numbers
    if numbers:  # and ratios only where the numbers are
        return [*numbers, *_topology(network)]
    return [*_units(network), *_topology(network), *_potentials(network), *_open_stars(network)]


def _names(network: Network) -> Iterator[Fault]:
    kinds: dict[str, Iterable[str]] = {
        "buses": (b.id for b in network.buses),
        "branches": (b.id for b in network.branches),
        "transformers": (t.id for t in network.transformers),
        "switches": (s.id for s in network.switches),
        "shunts": (s.id for s in network.shunts),
        "connection_points": (p.id for p in network.connection_points),
    }
    for kind, ids in kinds.items():
        for name, count in Counter(ids).items():
            if count > 1:
                yield Fault(f"{kind}[{name}]", f"this id {count} times", "every id once")
    for port, count in Counter(p.name for p in network.ports()).items():
        if count > 1:
            yield Fault(f"connection_points[{port}]", f"this connection {count} times", "every connection once")


def _references(network: Network) -> Iterator[Fault]:
    known = {bus.id: set(bus.conductors) for bus in network.buses}
    for where, bus, conductors in _uses(network):
        if bus not in known:
            yield Fault(where, f"bus {bus!r}", "a bus of this file")
        else:
            for conductor in conductors:
                if conductor not in known[bus] and conductor is not Conductor.E:
                    has = ", ".join(known[bus])
                    yield Fault(where, f"conductor {conductor} of bus {bus!r}", f"one that this bus has ({has})")
        if len(set(conductors)) != len(conductors):
            yield Fault(where, f"conductors {', '.join(conductors)}", "every conductor once")


def _uses(network: Network) -> Iterator[tuple[str, str, tuple[Conductor, ...]]]:
    yield "source", network.source.bus, network.source.conductors
    for bus in network.buses:
        yield f"buses[{bus.id}]", bus.id, bus.conductors
    for branch in network.branches:
        for end in (branch.from_end, branch.to_end):
            yield f"branches[{branch.id}]", end.bus, end.conductors
    for transformer in network.transformers:
        for k, coil in enumerate(transformer.coils):
            for side, winding in (("primary", coil.primary), ("secondary", coil.secondary)):
                yield f"transformers[{transformer.id}].coils[{k}].{side}", winding.bus, (winding.pos, winding.neg)
    for switch in network.switches:
        yield f"switches[{switch.id}].from_bus", switch.from_bus, switch.conductors
        yield f"switches[{switch.id}].to_bus", switch.to_bus, switch.conductors
    for earthing in network.earthings:
        yield f"earthings[{earthing.bus}.{earthing.conductor}]", earthing.bus, (earthing.conductor,)
    for shunt in network.shunts:
        yield f"shunts[{shunt.id}]", shunt.bus, shunt.conductors
    for point in network.connection_points:
        for connection in point.connections:
            yield f"connection_points[{point.id}]", point.bus, (connection.pos, connection.neg)


def _buses(network: Network) -> Iterator[Fault]:
    for bus in network.buses:
        yield from _within(f"buses[{bus.id}].u_nominal_v", bus.u_nominal_v, U_NOMINAL_V, "V")


def _source(network: Network) -> Iterator[Fault]:
    source = network.source
    yield from _passive("source.r_ohm, x_ohm", source.z_ohm)
    for conductor, u in zip(source.conductors, source.u_v, strict=True):
        if conductor is not Conductor.N:
            yield from _within(f"source.u_v[{conductor}]", u, U_NOMINAL_V, "V")


def _elements(network: Network) -> Iterator[Fault]:
    for branch in network.branches:
        yield from _branch(branch)
    for transformer in network.transformers:
        yield from _transformer(transformer)
    for earthing in network.earthings:
        z = earthing.z_ohm
        if not np.isfinite(z) or z.real < 0 or abs(z) > IMPEDANCE_OHM[1]:
            where = f"earthings[{earthing.bus}.{earthing.conductor}]"
            yield Fault(where, f"{z:g} ohm", f"a resistance >= 0, at most {IMPEDANCE_OHM[1]:g} ohm")
    for shunt in network.shunts:
        yield from _admittance(f"shunts[{shunt.id}]", shunt.y_s)


def _branch(branch: Branch) -> Iterator[Fault]:
    where = f"branches[{branch.id}]"
    if branch.from_end.bus == branch.to_end.bus:
        yield Fault(where, f"both ends at bus {branch.to_end.bus!r}", "two buses")
    yield from _passive(f"{where}.r_ohm, x_ohm", branch.z_ohm)
    if branch.y_s is not None:
        yield from _admittance(where, branch.y_s)
    for rating in branch.rating_a:
        if not 0 < rating <= RATING_A_MAX:
            yield Fault(f"{where}.rating_a", f"{rating:g} A", f"above 0, at most {RATING_A_MAX:g} A")


def _passive(where: str, z: ComplexMatrix) -> Iterator[Fault]:
    if not np.isfinite(z).all():
        yield Fault(where, "NaN or infinity", "finite numbers")
        return
    scale = float(np.abs(z).max())
    if np.abs(z - z.T).max() > ASYMMETRY_MAX * scale:
        row, column = np.unravel_index(int(np.abs(z - z.T).argmax()), z.shape)
        seen = f"[{row}][{column}] = {z[row, column]:g}, [{column}][{row}] = {z[column, row]:g}"
        yield Fault(where, seen, "a symmetric matrix")
    for k, own in enumerate(np.diag(z)):
        low, high = IMPEDANCE_OHM
        if own.real < 0 or not low <= abs(own) <= high:
            yield Fault(where, f"[{k}][{k}] = {own:g} ohm", f"resistance >= 0 and magnitude {low:g} .. {high:g} ohm")
            return
    if np.linalg.eigvalsh((z.real + z.real.T) / 2).min() < -1e-6 * scale:
        yield Fault(where, "a resistance matrix that makes power", "no negative eigenvalue")
    if np.linalg.cond(z) > 1e12:
        yield Fault(where, "a singular matrix", "one that can be inverted")


def _admittance(where: str, y: ComplexMatrix) -> Iterator[Fault]:
    if not np.isfinite(y).all():
        yield Fault(f"{where}.g_s, b_s", "NaN or infinity", "finite numbers")
        return
    scale = float(np.abs(y).max())
    if scale > SHUNT_S_MAX:
        yield Fault(f"{where}.g_s, b_s", f"{scale:g} S", f"at most {SHUNT_S_MAX:g} S")
    if np.abs(y - y.T).max() > ASYMMETRY_MAX * scale:
        yield Fault(f"{where}.g_s, b_s", "an asymmetric matrix", "a symmetric matrix")
    if np.linalg.eigvalsh((y.real + y.real.T) / 2).min() < -1e-6 * scale:
        yield Fault(f"{where}.g_s", "a conductance matrix that makes power", "no negative eigenvalue")


def _transformer(t: Transformer) -> Iterator[Fault]:
    where = f"transformers[{t.id}]"
    ends = {(c.primary.bus, c.secondary.bus) for c in t.coils}
    if len(ends) > 1 or t.primary_bus == t.secondary_bus:
        yield Fault(where, f"coils between {sorted(ends)}", "all coils between the same two buses")
    if not 0 < t.coil_s_va <= POWER_W_MAX:
        yield Fault(f"{where}.coil_s_va", f"{t.coil_s_va:g} VA", f"above 0, at most {POWER_W_MAX:g} VA")
    if not t.rating_va > 0:
        yield Fault(f"{where}.rating_va", f"{t.rating_va:g} VA", "above 0")
    if not np.isfinite(t.z_pu).all() or np.abs(t.z_pu - t.z_pu.T).max() > ASYMMETRY_MAX * np.abs(t.z_pu).max():
        yield Fault(f"{where}.r_pu, x_pu", "NaN or an asymmetric matrix", "a finite symmetric matrix")
    for k, own in enumerate(np.diag(t.z_pu)):
        if own.real < 0 or not COIL_Z_PU[0] <= abs(own) <= COIL_Z_PU[1]:
            expected = f"resistance >= 0 and magnitude {COIL_Z_PU[0]:g} .. {COIL_Z_PU[1]:g}"
            yield Fault(f"{where}.r_pu, x_pu", f"[{k}][{k}] = {own:g}", expected)
    for k, coil in enumerate(t.coils):
        for side, end in (("primary", coil.primary), ("secondary", coil.secondary)):
            yield from _coil_end(f"{where}.coils[{k}].{side}", end)
        for y in coil.shunt_pu:
            if not np.isfinite(y) or y.real < 0 or abs(y) > 1:
                yield Fault(f"{where}.coils[{k}].g_pu, b_pu", f"{y:g}", "conductance >= 0 and magnitude <= 1")


def _coil_end(where: str, end: CoilEnd) -> Iterator[Fault]:
    if end.pos == end.neg:
        yield Fault(where, f"both ends at {end.pos}", "two conductors, or one and E")
    yield from _within(f"{where}.u_rated_v", end.u_rated_v, U_NOMINAL_V, "V")
    yield from _within(f"{where}.tap", end.tap, TAP, "")


def _points(network: Network, meters: frozenset[str] | None) -> Iterator[Fault]:
    met: Counter[str] = Counter()
    for point in network.connection_points:
        where = f"connection_points[{point.id}]"
        if point.meter is not None:
            met[point.meter] += 1
            if meters is not None and point.meter not in meters:
                yield Fault(f"{where}.meter", f"meter {point.meter!r}", "a meter that exists")
        for c in point.connections:
            if c.pos == c.neg:
                yield Fault(where, f"both ends at {c.pos}", "two conductors, or one and E")
            if not (abs(c.p_w) <= POWER_W_MAX and abs(c.q_var) <= POWER_W_MAX):
                yield Fault(where, f"{c.p_w:g} W, {c.q_var:g} var", f"at most {POWER_W_MAX:g}")
            if not math.isclose(sum(c.zip_share), 1.0, abs_tol=1e-6):
                yield Fault(f"{where}.zip", f"shares with sum {sum(c.zip_share):g}", "shares with sum 1")
            if c.u_nominal_v is not None:
                yield from _within(f"{where}.u_nominal_v", c.u_nominal_v, U_NOMINAL_V, "V")
    for meter, count in met.items():
        if count > 1:
            yield Fault(f"connection_points: meter {meter!r}", f"at {count} points", "at one point")


def _within(where: str, value: float, limits: tuple[float, float], unit: str) -> Iterator[Fault]:
    if not limits[0] <= value <= limits[1]:
        yield Fault(where, f"{value:g} {unit}".rstrip(), f"{limits[0]:g} .. {limits[1]:g} {unit}".rstrip())


def _units(network: Network) -> Iterator[Fault]:
    nominal = {bus.id: bus.u_nominal_v for bus in network.buses}
    for branch in network.branches:
        a, b = nominal[branch.from_end.bus], nominal[branch.to_end.bus]
        if not _agree(a, b):
            hint = " (kV and V?)" if max(a, b) / min(a, b) > 100 else " (phase to phase and phase to neutral?)"
            yield Fault(f"branches[{branch.id}]", f"buses of {a:g} V and {b:g} V{hint}", "equal nominal voltages")
    for transformer in network.transformers:
        for k, coil in enumerate(transformer.coils):
            for side, end in (("primary", coil.primary), ("secondary", coil.secondary)):
                wanted = _between(nominal[end.bus], end.pos, end.neg)
                if not _agree(end.u_rated_v, wanted):
                    where = f"transformers[{transformer.id}].coils[{k}].{side}.u_rated_v"
                    yield Fault(where, f"{end.u_rated_v:g} V", f"near {wanted:g} V, as bus {end.bus!r} has there")
    for point in network.connection_points:
        for c in point.connections:
            wanted = _between(nominal[point.bus], c.pos, c.neg)
            if c.u_nominal_v is not None and not _agree(c.u_nominal_v, wanted):
                where = f"connection_points[{point.id}].u_nominal_v"
                yield Fault(where, f"{c.u_nominal_v:g} V", f"near {wanted:g} V, as bus {point.bus!r} has there")
    fed = nominal[network.source.bus]
    for conductor, u in zip(network.source.conductors, network.source.u_v, strict=True):
        if conductor is not Conductor.N and not _agree(u, fed):
            yield Fault(f"source.u_v[{conductor}]", f"{u:g} V", f"near {fed:g} V, the bus's nominal voltage")


def _between(u_nominal_v: float, pos: Conductor, neg: Conductor) -> float:
    return u_nominal_v if {pos, neg} & {Conductor.N, Conductor.E} else math.sqrt(3) * u_nominal_v


def _agree(a: float, b: float) -> bool:
    return a > 0 and b > 0 and max(a, b) / min(a, b) <= UNIT_RATIO_MAX


def _topology(network: Network) -> Iterator[Fault]:
    buses = Joined()
    nodes = Joined()
    for where, a, b in bus_links(network):
        if not buses.join(a, b) and network.radial:
            yield Fault(where, f"a loop between {a!r} and {b!r}", "a radial feeder (radial is true)")
    for group in _node_groups(network):
        for node in group[1:]:
            nodes.join(group[0], node)
    fed = buses.root(network.source.bus)
    lost = [bus.id for bus in network.buses if buses.root(bus.id) != fed]
    for bus in lost:
        yield Fault(f"buses[{bus}]", "an island", f"a way to the source at {network.source.bus!r}")
    cut = set(lost)
    wired = {nodes.root(node) for node in network.source.nodes()} | {nodes.root(EARTH_NODE)}
    for bus_ in network.buses:
        for conductor in bus_.conductors:
            if bus_.id not in cut and nodes.root(Node(bus_.id, conductor)) not in wired:
                yield Fault(f"buses[{bus_.id}]", f"conductor {conductor} joined to nothing", "a way to source or earth")


def _open_stars(network: Network) -> Iterator[Fault]:
    """Star-star transformers whose zero sequence has no way: an unearthed star at one side, no no-load branch, and an
    earthed star at the other whose zone nothing else joins to earth."""
    for t in network.transformers:
        if any(y for coil in t.coils for y in coil.shunt_pu) or len(t.coils) < 3:
            continue
        without = replace(network, transformers=tuple(x for x in network.transformers if x is not t), memo={})
        loose = {node for zone in unearthed_zones(without) for node in zone}
        sides = [[coil.primary for coil in t.coils], [coil.secondary for coil in t.coils]]
        for one, other in (sides, sides[::-1]):
            stars = {Node(end.bus, end.neg) for end in one}
            alone = len(stars) == 1 and next(iter(stars)).conductor is Conductor.N and not _other_uses(without, stars)
            fed = {Node(end.bus, end.pos) for end in other}
            if alone and fed <= loose and all(end.neg is Conductor.E for end in other):
                (star,) = stars
                seen = f"an unearthed star at {star.bus!r} and no no-load branch: zero-sequence current has no way"
                yield Fault(
                    f"transformers[{t.id}]", seen, "its no-load branch (g_pu, b_pu), or an earthing of the star"
                )


def _other_uses(network: Network, stars: set[Node]) -> bool:
    """Whether anything else is connected to a star point."""
    used = {n for b in network.branches for end in (b.from_end, b.to_end) for n in end.nodes()}
    used |= {n for t in network.transformers for c in t.coils for end in (c.primary, c.secondary) for n in end.nodes()}
    used |= {Node(e.bus, e.conductor) for e in network.earthings} | {n for s in network.shunts for n in s.nodes()}
    used |= {Node(bus, c) for s in network.switches for bus in (s.from_bus, s.to_bus) for c in s.conductors}
    return bool(stars & (used | set(network.source.nodes())))


def _potentials(network: Network) -> Iterator[Fault]:
    """Connections that no voltage, or an undefined one, stands across."""
    index, _ = node_index(network)
    loose = {node for zone in unearthed_zones(network) for node in zone}
    for port in network.ports():
        pos, neg = (Node(port.bus, c) for c in (port.connection.pos, port.connection.neg))
        where = f"connection_points[{port.name}]"
        if index.get(pos, -1) == index.get(neg, -1):
            yield Fault(
                where, f"{pos.conductor} and {neg.conductor} of {port.bus!r} at one potential", "two potentials"
            )
        elif neg.conductor is Conductor.E and pos in loose:
            seen = f"a connection to earth at {port.bus!r}, where nothing else is joined to earth"
            yield Fault(where, seen, "phase to phase, phase to N, or an earthing")


def _node_groups(network: Network) -> Iterator[tuple[Node, ...]]:
    """Nodes whose potentials depend on each other; through a transformer too, as its windings do."""
    for branch in network.branches:
        yield from zip(branch.from_end.nodes(), branch.to_end.nodes(), strict=False)
    for switch in network.switches:
        if switch.closed:
            for c in switch.conductors:
                yield Node(switch.from_bus, c), Node(switch.to_bus, c)
    for t in network.transformers:
        for coil in t.coils:
            ends = (*coil.primary.nodes(), *coil.secondary.nodes())
            yield tuple(EARTH_NODE if n.conductor is Conductor.E else n for n in ends)
    for earthing in network.earthings:
        yield EARTH_NODE, Node(earthing.bus, earthing.conductor)
