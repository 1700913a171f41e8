"""A study's nominal export limits as configuration of the DCU: planning hands over to real time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dcu.grid.network import ConnectionPoint
from dcu.planning.dynamic import Dynamic
from dcu.planning.feeder_case import Generation, Unit
from dcu.planning.reading import Read
from dcu.planning.world import Plan


@dataclass(frozen=True, slots=True)
class NominalLimit:
    """What the DCU is told of one customer."""

    meter: str
    bus: str
    phases: tuple[str, ...]
    nominal_limit_w: float
    contract_limit_w: float


def nominal_limits(read: Read, nominal: Dynamic) -> list[NominalLimit]:
    """The limits of every customer of the study: contracts have what stands and what the level adds."""
    plan = _plan(read)
    own = {e.customer: e.rated_w for e in read.inputs.existing}
    points = _points(read)
    contracts = {p.id: own.get(p.id, 0.0) for p in points}
    for unit, w in zip(plan.units, read.world.cases[plan.name].rated_w(nominal.level_w), strict=True):
        owner = _owner(unit, points)
        if owner is not None:
            contracts[owner.id] += float(w)
    sharing = Counter((point.bus, c.pos) for point in points for c in point.connections if contracts[point.id] > 0)
    found = []
    for point in points:
        share_w = nominal.static_limit_w / max([sharing[point.bus, c.pos] for c in point.connections] + [1])
        contract_w = float(contracts[point.id])
        nominal_w = float(np.floor(min(share_w, contract_w)))
        phases = tuple(str(c.pos) for c in point.connections)
        found.append(NominalLimit(point.meter or point.id, point.bus, phases, nominal_w, contract_w))
    return found


def nominal_toml(read: Read, nominal: Dynamic) -> str:
    """The same as the `[[meters]]` of a DCU's configuration; addresses and keys are the site's."""
    asked = f"scenario {read.study.extras.headroom} at {nominal.level_w:g} W a unit"
    lines = [
        f"# Nominal export limits of {read.study.study.name!r}, {asked}:",
        f"# the largest common limit that violates nothing in any of {nominal.states:,} states with sun; who",
        "# shares a bus and phase shares the limit. Headroom grants what lies between it and contract_limit_w.",
        "# Add eui48 of each meter, and put the tables into the DCU's configuration.",
        *(f"# {name} was left out of the study: no limit was found for it." for name in sorted(_left_out(read))),
        *(
            f"# {name}: a planned unit where no customer has these phases; in nobody's contract."
            for name in homeless(read)
        ),
    ]
    for one in nominal_limits(read, nominal):
        phases = ", ".join(f'"{p}"' for p in one.phases)
        lines += [
            "",
            "[[meters]]",
            f'id = "{one.meter}"',
            f'bus = "{one.bus}"',
            f"phases = [{phases}]",
            f"nominal_limit_w = {one.nominal_limit_w!r}",
            f"contract_limit_w = {one.contract_limit_w!r}",
        ]
    return "\n".join(lines) + "\n"


def homeless(read: Read) -> list[str]:
    """Planned units that no customer could have: nobody at their bus is connected to their phases."""
    points = _points(read)
    return sorted(unit.name for unit in _plan(read).units if _owner(unit, points) is None)


def _plan(read: Read) -> Plan:
    return next(p for p in read.inputs.plans if p.name == read.study.extras.headroom)


def _points(read: Read) -> list[ConnectionPoint]:
    left_out = _left_out(read)
    return [p for p in read.inputs.network.connection_points if p.id not in left_out]


def _left_out(read: Read) -> set[str]:
    return {e.customer for e in read.inputs.existing if e.generation is Generation.EXCLUDED}


def _owner(unit: Unit, points: list[ConnectionPoint]) -> ConnectionPoint | None:
    """Whose new unit it is: of the customers at its bus who are connected to its phases the one with fewest; None where
    there is none, for a meter on other phases would keep the limit of a place that it does not see."""
    there = [p for p in points if p.bus == unit.bus and set(unit.phases) <= {c.pos for c in p.connections}]
    return min(there, key=lambda p: len(p.connections), default=None)
