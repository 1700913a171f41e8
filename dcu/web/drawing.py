"""The feeder as the page draws it: lines, and where each customer stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

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
        edges = [_edge(plan.places[parent], plan.places[bus], wires, parent, bus) for parent, bus, wires in plan.edges][
            :EDGES_MAX
        ]
        places, at_bus = [], dict.fromkeys(plan.places, 0)
        for meter, bus in customers:
            if bus in plan.places:
                x, y = plan.places[bus]
                shift = at_bus[bus] * plan.row
                at_bus[bus] += 1
                places.append({"meter": meter, "bus": bus, "x": x, "y": y + shift, "ohm": plan.ohms.get(bus)})
        xs = [x for x, _ in plan.places.values()]
        ys = [y for _, y in plan.places.values()] + [place["y"] for place in places]
        left, top = min(xs) - MARGIN, min(ys) - MARGIN
        for place in places:
            place["x"], place["y"] = round(place["x"] - left, 1), round(place["y"] - top, 1)
        for edge in edges:
            for key, by in (("x0", left), ("x1", left), ("y0", top), ("y1", top)):
                edge[key] = round(edge[key] - by, 1)
        x, y = plan.places[plan.root]
        drawn = {edge["bus"] for edge in edges} | {plan.root}
        return {
            "name": self._name,
            "kind": "map" if plan.is_map else "tree",
            "width": round(max(xs) - left + MARGIN, 1),
            "height": round(max(ys) - top + MARGIN, 1),
            "edges": edges,
            "places": places,
            "source": (round(x - left, 1), round(y - top, 1)),
            "bus_ohm": {bus: round(ohm, 5) for bus, ohm in plan.ohms.items() if bus in drawn},
        }

    def _row(self, customers: list[tuple[str, str]]) -> dict[str, Any]:
        """Nobody told us the network: one line with everybody on it, in the order of the DCU's configuration."""
        places = [
            {"meter": meter, "bus": bus, "x": MARGIN + ROW_STEP * (k + 1), "y": ROW_Y, "ohm": None}
            for k, (meter, bus) in enumerate(customers)
        ]
        points = [(MARGIN, ROW_Y), *((float(p["x"]), ROW_Y) for p in places)]  # type: ignore[arg-type]
        edges = [
            _edge(points[k], points[k + 1], 3, "substation" if k == 0 else customers[k - 1][1], customers[k][1])
            for k in range(len(places))
        ]
        width = 2 * MARGIN + ROW_STEP * max(1, len(places))
        rest = {"height": 2 * ROW_Y, "edges": edges, "places": places, "source": (MARGIN, ROW_Y), "bus_ohm": {}}
        return {"name": None, "kind": "row", "width": width, **rest}


def _edge(a: tuple[float, float], b: tuple[float, float], wires: int, parent: str, bus: str) -> dict[str, Any]:
    return {"x0": a[0], "y0": a[1], "x1": b[0], "y1": b[1], "wires": wires, "parent": parent, "bus": bus}
