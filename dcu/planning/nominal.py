"""A study's nominal export limits as configuration of the DCU: planning hands over to real time."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dcu.grid.network import ConnectionPoint
from dcu.planning.dynamic import Dynamic
from dcu.planning.feeder_case import Generation, Unit
from dcu.planning.reading import Read


def nominal_limits(read: Read, nominal: Dynamic) -> str:
    """The study's nominal export limits as the `[[meters]]` of a DCU's configuration; addresses and keys are the
    site's."""
    name = read.study.extras.headroom
    assert name is not None
    plan = next(p for p in read.inputs.plans if p.name == name)
    level_w = nominal.level_w
    own = {e.customer: e.rated_w for e in read.inputs.existing}
    left_out = {e.customer for e in read.inputs.existing if e.generation is Generation.EXCLUDED}
    points = [p for p in read.inputs.network.connection_points if p.id not in left_out]
    contracts = {p.id: own.get(p.id, 0.0) for p in points}
    for unit, w in zip(plan.units, read.world.cases[name].rated_w(level_w), strict=True):
        owner = _owner(unit, points)
        if owner is not None:
            contracts[owner.id] += float(w)
    sharing = Counter((point.bus, c.pos) for point in points for c in point.connections if contracts[point.id] > 0)
    lines = [
        f"# Nominal export limits of {read.study.study.name!r}, scenario {name} at {level_w:g} W a unit:",
        f"# the largest common limit that violates nothing in any of {nominal.states:,} states with sun; who",
        "# shares a bus and phase shares the limit. Headroom grants what lies between it and contract_limit_w.",
        "# Add eui48 of each meter, and put the tables into the DCU's configuration.",
        *(f"# {name} was left out of the study: no limit was found for it." for name in sorted(left_out)),
    ]
    for point in points:
        contract = contracts[point.id]
        share_w = nominal.static_limit_w / max([sharing[point.bus, c.pos] for c in point.connections] + [1])
        phases = ", ".join(f'"{c.pos}"' for c in point.connections)
        lines += [
            "",
            "[[meters]]",
            f'id = "{point.meter or point.id}"',
            f'bus = "{point.bus}"',
            f"phases = [{phases}]",
            f"nominal_limit_w = {float(np.floor(min(share_w, contract)))!r}",
            f"contract_limit_w = {float(contract)!r}",
        ]
    return "\n".join(lines) + "\n"


def _owner(unit: Unit, points: list[ConnectionPoint]) -> ConnectionPoint | None:
    """Whose new unit it is: of the customers at its bus the one with most of its phases; None where nobody lives."""
    there = [p for p in points if p.bus == unit.bus]
    phases = set(unit.phases)
    return max(there, key=lambda p: len(phases & {c.pos for c in p.connections}), default=None)
