"""A study's nominal export limits as configuration of the DCU: planning hands over to real time."""

from __future__ import annotations

import numpy as np

from dcu.planning.run import Findings, Read


def nominal_limits(read: Read, found: Findings) -> str:
    """The study's nominal export limits as the `[[meters]]` of a DCU's configuration; addresses and keys are the
    site's."""
    assert found.nominal is not None
    name = read.study.extras.headroom
    assert name is not None
    plan = next(p for p in read.inputs.plans if p.name == name)
    level_w = found.nominal.level_w
    rated: dict[str, float] = {}
    for unit, w in zip(plan.units, read.world.cases[name].rated_w(level_w), strict=True):
        rated[unit.bus] = rated.get(unit.bus, 0.0) + float(w)
    own = {e.customer: e.rated_w for e in read.inputs.existing}
    served: set[str] = set()
    lines = [
        f"# Nominal export limits of {read.study.study.name!r}, scenario {name} at {level_w:g} W a unit:",
        "# the largest common limit that violates nothing in any drawn state. Headroom grants what lies between it and",
        "# contract_limit_w.",
        "# Add eui48 of each meter, and put the tables into the DCU's configuration.",
    ]
    for point in read.inputs.network.connection_points:
        contract = own.get(point.id, 0.0) + (rated.get(point.bus, 0.0) if point.bus not in served else 0.0)
        served.add(point.bus)
        phases = ", ".join(f'"{c.pos}"' for c in point.connections)
        lines += [
            "",
            "[[meters]]",
            f'id = "{point.meter or point.id}"',
            f'bus = "{point.bus}"',
            f"phases = [{phases}]",
            f"nominal_limit_w = {float(np.floor(min(found.nominal.static_limit_w, contract)))!r}",
            f"contract_limit_w = {float(contract)!r}",
        ]
    return "\n".join(lines) + "\n"
