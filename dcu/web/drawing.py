"""The feeder as the page draws it: lines, and where each customer stands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from dcu.grid.network_file import load_network
from dcu.grid.picture import Plan, feeder_plan

ROW_STEP: Final = 90.0
ROW_Y: Final = 60.0
MARGIN: Final = 30.0
EDGES_MAX: Final = 20_000


class Drawing:
    """A network's plan, or nothing, to which the DCU's customers are added once they are known."""

    def __init__(self, network: Path | None) -> None:
        """Reads the network's file.

        Raises:
            ConfigError: it cannot be used, with every fault in it.
        """
        self._name: str | None = None
        self._plan: Plan | None = None
        if network is not None:
            found = load_network(network)
            self._name, self._plan = found.name, feeder_plan(found)

    def of(self, customers: list[tuple[str, str]]) -> dict[str, Any]:
        """With customers (meter, bus); who stands on a bus that the network does not have stands nowhere."""
        plan = self._plan
        if plan is None:
            return self._row(customers)
        places, at_bus = [], dict.fromkeys(plan.places, 0)
        for meter, bus in customers:
            if bus in plan.places:
                x, y = plan.places[bus]
                shift = at_bus[bus] * plan.row
                at_bus[bus] += 1
                places.append(_Spot(meter, bus, x, y + shift, plan.ohms.get(bus)))
        drawn = plan.edges[:EDGES_MAX]
        ends = [plan.places[bus] for parent, bus, _ in drawn] + [plan.places[parent] for parent, _, _ in drawn]
        points = [*ends, plan.places[plan.root], *((place.x, place.y) for place in places)]
        left, top = min(x for x, _ in points) - MARGIN, min(y for _, y in points) - MARGIN

        def at(point: tuple[float, float]) -> tuple[float, float]:
            return round(point[0] - left, 1), round(point[1] - top, 1)

        buses = {bus for _, bus, _ in drawn} | {plan.root}
        return {
            "name": self._name,
            "kind": "map" if plan.is_map else "tree",
            "width": round(max(x for x, _ in points) - left + MARGIN, 1),
            "height": round(max(y for _, y in points) - top + MARGIN, 1),
            "edges": [_edge(at(plan.places[parent]), at(plan.places[bus]), wires) for parent, bus, wires in drawn],
            "places": [place.as_api(at((place.x, place.y))) for place in places],
            "source": at(plan.places[plan.root]),
            "bus_ohm": {bus: round(ohm, 5) for bus, ohm in plan.ohms.items() if bus in buses},
        }

    def _row(self, customers: list[tuple[str, str]]) -> dict[str, Any]:
        """Nobody told us the network: one line with everybody on it, in the order of the DCU's configuration."""
        spots = [_Spot(meter, bus, MARGIN + ROW_STEP * (k + 1), ROW_Y, None) for k, (meter, bus) in enumerate(customers)]
        points = [(MARGIN, ROW_Y), *((spot.x, spot.y) for spot in spots)]
        return {
            "name": None,
            "kind": "row",
            "width": 2 * MARGIN + ROW_STEP * max(1, len(spots)),
            "height": 2 * ROW_Y,
            "edges": [_edge(a, b, 3) for a, b in pairwise(points)],
            "places": [spot.as_api((spot.x, spot.y)) for spot in spots],
            "source": (MARGIN, ROW_Y),
            "bus_ohm": {},
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
