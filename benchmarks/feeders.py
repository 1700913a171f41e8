"""Feeders to measure on: the published one, the same with its chains merged, and made-up trees of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from dcu.grid.network import (
    PHASES,
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Earthing,
    Network,
    balanced_source,
    matrix,
    sequence_matrix,
    three_phase_coils,
)
from dcu.grid.network import Transformer as Trafo

CABLE_OHM_PER_M: Final = (complex(0.00032, 0.000075), complex(0.0011, 0.0002))
"""Positive- and zero-sequence impedance of a 95 mm2 aluminium cable, rounded."""
SERVICE_OHM_PER_M: Final = (complex(0.0018, 0.00008), complex(0.0072, 0.0003))
"""The same of a 16 mm2 copper-equivalent service line."""


def tree_feeder(buses: int, ports_at: str, seed: int = 1, stretch: float = 1.0) -> Network:
    """A made-up feeder: 400 kVA Dyn11, a random tree of 20-60 m cables.

    Args:
        buses: number of buses below the transformer.
        ports_at: "each" one single-phase customer at every bus, phases in turn; "three" a three-phase one; "service"
            one single-phase customer for every bus, at the end of a service line of its own.
        seed: of the tree.
        stretch: of all cables.
    """
    random = np.random.default_rng(seed)
    z = sequence_matrix(complex(0.05, 0.5), complex(0.05, 0.5))
    names = ["hv", "lv", *(f"b{k}" for k in range(1, buses))]
    lines, points = [], []
    for k in range(1, buses):
        parent = int(random.integers(max(0, k - 6), k))
        length = stretch * float(random.uniform(20, 60)) * min(1.0, 40 / buses)
        ends = (BranchEnd(names[1 + parent], PHASES), BranchEnd(names[1 + k], PHASES))
        lines.append(Branch(f"l{k}", *ends, matrix(length * sequence_matrix(*CABLE_OHM_PER_M))))
    for k in range(buses if ports_at == "service" else 0):
        length = float(random.uniform(8, 25))
        names.append(f"h{k}")
        ends = (BranchEnd(names[1 + k], PHASES), BranchEnd(f"h{k}", PHASES))
        lines.append(Branch(f"s{k}", *ends, matrix(length * sequence_matrix(*SERVICE_OHM_PER_M))))
    first = len(names) - buses
    for k in range(buses):
        phases = PHASES if ports_at == "three" else (PHASES[k % 3],)
        points.append(
            ConnectionPoint(f"c{k}", names[first + k], tuple(Connection(phase, Conductor.E) for phase in phases))
        )
    coils = three_phase_coils("Dyn11", ("hv", 10_000.0), ("lv", 400.0))
    return Network(
        name=f"tree of {buses}",
        source=balanced_source("hv", 10_000 / 3**0.5, z),
        buses=tuple(Bus(n, PHASES, 10_000 / 3**0.5 if n == "hv" else 400 / 3**0.5) for n in names),
        branches=tuple(lines),
        transformers=(Trafo("t", coils, 400e3 / 3, matrix(np.eye(3) * complex(0.01, 0.039)), "Dyn11", 400e3),),
        connection_points=tuple(points),
    )


def four_wire_feeder(seed: int, rating_a: float) -> Network:
    """Twenty-five customers on open wires with a neutral that is earthed at the transformer: one in five of them on
    three phases, conductors rated about alike."""
    random = np.random.default_rng(seed)
    wires, z_m = (*PHASES, Conductor.N), np.full((4, 4), complex(0.00005, 0.0004))
    np.fill_diagonal(z_m, complex(0.00035, 0.0007))
    lv = ["lv", *(f"b{k}" for k in range(1, 26))]
    lines, points = [], []
    for k in range(1, 26):
        ends = (BranchEnd(lv[int(random.integers(max(0, k - 6), k))], wires), BranchEnd(lv[k], wires))
        rated = tuple(float(rating_a * share) for share in random.uniform(0.7, 1.5, 4))
        lines.append(Branch(f"l{k}", *ends, matrix(random.uniform(20, 60) * z_m), rating_a=rated))
        phases = PHASES if random.random() < 0.2 else (PHASES[int(random.integers(3))],)
        points.append(ConnectionPoint(f"c{k}", lv[k], tuple(Connection(phase, Conductor.N) for phase in phases)))
    coils = three_phase_coils("Dyn11", ("hv", 10_000.0), ("lv", 400.0), stars=(Conductor.E, Conductor.N))
    return Network(
        name="open wires",
        source=balanced_source("hv", 10_000 / 3**0.5, sequence_matrix(complex(0.05, 0.5), complex(0.05, 0.5))),
        buses=(Bus("hv", PHASES, 10_000 / 3**0.5), *(Bus(name, wires, 400 / 3**0.5) for name in lv)),
        branches=tuple(lines),
        transformers=(Trafo("t", coils, 100e3 / 3, matrix(np.eye(3) * complex(0.01, 0.039)), "Dyn11", 100e3),),
        earthings=(Earthing("lv", Conductor.N, complex(0.5, 0.0)),),
        connection_points=tuple(points),
    )


def merged(network: Network) -> Network:
    """The same feeder with every chain of unloaded buses made one line and every dead end cut off: what any user of a
    power flow can do by hand. Three-phase lines without shunts only."""
    lines = {b.id: b for b in network.branches}
    fixed = {p.bus for p in network.connection_points} | {network.source.bus}
    fixed |= {bus for t in network.transformers for bus in (t.primary_bus, t.secondary_bus)}
    at: dict[str, set[str]] = {}
    for b in lines.values():
        at.setdefault(b.from_end.bus, set()).add(b.id)
        at.setdefault(b.to_end.bus, set()).add(b.id)
    todo = [bus for bus in at if bus not in fixed]
    while todo:
        bus = todo.pop()
        around = at.get(bus, set())
        if bus in fixed or not 1 <= len(around) <= 2:
            continue
        ends = [_other(lines[name], bus) for name in around]
        z = sum(lines[name].z_ohm for name in around)
        for name, other in zip(list(around), ends, strict=True):
            at[other].discard(name)
            del lines[name]
        del at[bus]
        if len(ends) == 2:
            name = f"{ends[0]}-{ends[1]}"
            lines[name] = Branch(name, BranchEnd(ends[0], PHASES), BranchEnd(ends[1], PHASES), matrix(z))
            for other in ends:
                at[other].add(name)
        todo += [other for other in ends if other not in fixed]
    used = set(at) | fixed
    buses = tuple(bus for bus in network.buses if bus.id in used)
    return replace(network, name=f"{network.name}, chains merged", buses=buses, branches=tuple(lines.values()), memo={})


def _other(branch: Branch, bus: str) -> str:
    return branch.to_end.bus if branch.from_end.bus == bus else branch.from_end.bus
