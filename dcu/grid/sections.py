"""A feeder as its meters see it: where the busbar is, which port each meter measures, which cables lie in a row."""

from __future__ import annotations

from dataclasses import dataclass

from dcu.grid.network import Network
from dcu.grid.readings import Place
from dcu.grid.zones import bus_links
from shared.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class Section:
    """Cables in a row with the same customers behind them."""

    name: str
    top: str
    end: str
    ports: tuple[int, ...]


def places(network: Network) -> dict[Place, int]:
    """The port that each meter measures in each phase; a point without a meter goes by its own id."""
    found: dict[Place, int] = {}
    k = 0
    for point in network.connection_points:
        for connection in point.connections:
            found[point.meter or point.id, connection.label] = k
            k += 1
    return found


def busbar_of(network: Network) -> str:
    """The bus of the busbar's meter: low-voltage side of the one transformer, or where the source stands.

    Raises:
        ConfigError: several transformers.
    """
    ends = {t.secondary_bus for t in network.transformers}
    if len(ends) > 1:
        raise ConfigError(network.name, [Fault("busbar", ", ".join(sorted(ends)), "--busbar with one of them")])
    return ends.pop() if ends else network.source.bus


def sections(network: Network, busbar: str) -> tuple[Section, ...]:
    """Every section below the busbar; none where the feeder has a loop, as no cable then carries a known current."""
    near: dict[str, list[str]] = {}
    for _, a, b in bus_links(network):
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    order, above = [busbar], {busbar: ""}
    for bus in order:
        for other in near.get(bus, ()):
            if other not in above:
                above[other] = bus
                order.append(other)
            elif other != above[bus]:
                return ()
    behind: dict[str, set[int]] = {bus: set() for bus in order}
    for k, port in enumerate(network.ports()):
        if port.bus in behind:
            behind[port.bus].add(k)
    for bus in reversed(order[1:]):
        behind[above[bus]] |= behind[bus]
    names = [point.meter or point.id for point in network.connection_points for _ in point.connections]
    found: dict[tuple[int, ...], tuple[str, str]] = {}
    for bus in order[1:]:
        ports = tuple(sorted(behind[bus]))
        if ports:
            found[ports] = (found.get(ports, (above[bus], ""))[0], bus)
    return tuple(Section(_section_name(names, ports, *ends), *ends, ports) for ports, ends in found.items())


def _section_name(names: list[str], ports: tuple[int, ...], top: str, end: str) -> str:
    served = sorted({names[k] for k in ports})
    if len(served) == 1:
        return f"service of {served[0]} (from bus {top} to {end})"
    return f"cables from bus {top} to {end} ({len(served)} customers behind)"
