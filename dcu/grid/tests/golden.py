"""The reference cases of `cases/`, and made-up feeders that hold what they do not."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import Feeder
from dcu.grid.importers.case import import_case
from dcu.grid.injections import Injections, base_injections
from dcu.grid.network import (
    CONSTANT_POWER,
    FOUR_WIRE,
    PHASES,
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Earthing,
    Network,
    Shunt,
    Switch,
    Transformer,
    Zip,
    balanced_source,
    matrix,
    sequence_matrix,
    three_phase_coils,
)

CASES: Final = Path(__file__).parent / "cases"
EULV_CASES: Final = ("noload", "minute1", "minute566", "minute1440", "export")
L1, L2, L3, N, E = Conductor.L1, Conductor.L2, Conductor.L3, Conductor.N, Conductor.E


@dataclass(frozen=True, slots=True)
class Golden:
    """A solved state: its injections, and the voltage of each node in pu of its bus."""

    injections: Injections
    u_pu: dict[tuple[str, str], complex]


@lru_cache
def feeder(name: str) -> Feeder:
    """`eulv`, `ieee13`, or one of `MADE_UP`."""
    if name in MADE_UP:
        return Feeder(MADE_UP[name]())
    return Feeder(import_case(CASES / name / "feeder.json").network)


def golden(name: str, case: str) -> Golden:
    """A case of a published feeder."""
    whole = feeder(name)
    base = base_injections(whole.model)
    loads = CASES / name / f"{case}_loads.csv"
    if loads.exists():
        rows = {row["load"]: row for row in csv.DictReader(loads.read_text(encoding="utf-8").splitlines())}
        p = [float(rows[port]["p_w"]) for port in whole.model.ports]
        q = [float(rows[port]["q_var"]) for port in whole.model.ports]
        base = Injections.of(p, q, base.elements)
    elif case == "noload":
        base = Injections.of(0 * base.p_w, 0 * base.q_var, base.elements)
    wires = {"1": "L1", "2": "L2", "3": "L3", "4": "N"}
    with (CASES / name / f"{case}_voltages.csv").open(encoding="utf-8") as file:
        u = {
            (row["bus"], wires[row["node"]]): complex(float(row["v_re_pu"]), float(row["v_im_pu"]))
            for row in csv.DictReader(file)
        }
    return Golden(base, u)


def day() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.complex128]]:
    """The European feeder's day: p_w, q_var, and v_pu in pu of the bus (1440, 55)."""
    with np.load(CASES / "eulv" / "day.npz") as file:
        return file["p_w"], file["q_var"], file["v_pu"]


def _base(
    name: str,
    wires: tuple[Conductor, ...],
    group: str,
    lines: list[Branch],
    points: list[ConnectionPoint],
    *,
    earthings: tuple[Earthing, ...] = (),
    shunts: tuple[Shunt, ...] = (),
    switches: tuple[Switch, ...] = (),
) -> Network:
    """A source, a 250 kVA transformer from `hv` to `lv`, and what the lines join to it."""
    star = N if N in wires else E
    coils = three_phase_coils(group, ("hv", 10_000.0), ("lv", 400.0), (1.025, 1.0), (E, star), (0.001 - 0.004j, 0j))
    used: dict[str, set[Conductor]] = {"lv": set(wires)}
    for bus, conductors in (
        *((end.bus, end.conductors) for line in lines for end in (line.from_end, line.to_end)),
        *((bus, s.conductors) for s in switches for bus in (s.from_bus, s.to_bus)),
    ):
        used.setdefault(bus, set()).update(conductors)
    return Network(
        name=name,
        source=balanced_source("hv", 10_200 / 3**0.5, sequence_matrix(0.1 + 1.0j, 0.3 + 1.5j), 7.0),
        buses=(
            Bus("hv", PHASES, 10_000 / 3**0.5),
            *(Bus(b, tuple(c for c in FOUR_WIRE if c in has), 400 / 3**0.5) for b, has in used.items()),
        ),
        branches=tuple(lines),
        transformers=(Transformer("t", coils, 250e3 / 3, matrix(np.eye(3) * (0.013 + 0.038j)), group, 250e3),),
        switches=switches,
        earthings=earthings,
        shunts=shunts,
        connection_points=tuple(points),
    )


def _line(name: str, a: str, b: str, wires: tuple[Conductor, ...], km: float, *, shunt: bool = False) -> Branch:
    n = len(wires)
    z = km * (np.full((n, n), 0.05 + 0.2j) + np.eye(n) * (0.3 + 0.1j))
    y = km * 1e-4j * (np.eye(n) * 1.2 - 0.2 * np.ones((n, n))) if shunt else None
    return Branch(
        name, BranchEnd(a, wires), BranchEnd(b, wires), matrix(z), None if y is None else matrix(y), (200.0,) * n
    )


def _point(
    name: str, bus: str, *connections: tuple[Conductor, Conductor, float, float], share: Zip = CONSTANT_POWER
) -> ConnectionPoint:
    made = tuple(Connection(pos, neg, p, q, None, share) for pos, neg, p, q in connections)
    return ConnectionPoint(name, bus, made)


def _four_wire() -> Network:
    """Neutral earthed at the transformer only: the sweep's phase-to-neutral coordinates apply."""
    lines = [
        _line("a", "lv", "a", FOUR_WIRE, 0.2),
        _line("b", "a", "b", FOUR_WIRE, 0.15),
        _line("c", "a", "c", (L2, N), 0.1),
    ]
    points = [
        _point("p1", "b", (L1, N, 9e3, 2e3)),
        _point("p2", "c", (L2, N, -4e3, 0.0)),
        _point("p3", "b", (L1, N, 2e3, 0.0), (L2, N, 3e3, 1e3), (L3, N, 1e3, 0.0)),
        _point("p4", "a", (L1, L2, 4e3, 1e3)),
    ]
    return _base("four wires", FOUR_WIRE, "Dyn5", lines, points, earthings=(Earthing("lv", N, 0j),))


def _multi_earthed() -> Network:
    """Neutral earthed along the line, with line capacitance: nothing of the sweep's shortcuts applies."""
    lines = [_line("a", "lv", "a", FOUR_WIRE, 0.2, shunt=True), _line("b", "a", "b", FOUR_WIRE, 0.15, shunt=True)]
    points = [_point("p1", "b", (L1, N, 9e3, 2e3), share=Zip(0.3, 0.3, 0.4)), _point("p2", "a", (L3, N, -4e3, 0.0))]
    earthings = (Earthing("lv", N, 2 + 0j), Earthing("a", N, 10 + 0j), Earthing("b", N, 8 + 1j))
    return _base("multi-earthed", FOUR_WIRE, "Dyn11", lines, points, earthings=earthings)


def _meshed() -> Network:
    """A ring: only the port engine can."""
    lines = [
        _line("a", "lv", "a", PHASES, 0.2),
        _line("b", "a", "b", PHASES, 0.15),
        _line("c", "lv", "b", PHASES, 0.3, shunt=True),
    ]
    points = [
        _point("p1", "b", (L1, E, 20e3, 4e3)),
        _point("p2", "a", (L1, L2, 9e3, 2e3), (L2, L3, 4e3, 0.0), (L3, L1, 0.0, 3e3), share=Zip(1.0, 0.0, 0.0)),
    ]
    return _base("meshed", PHASES, "YNyn0", lines, points)


def _delta_side() -> Network:
    """The low-voltage side hangs on delta windings and is earthed nowhere."""
    lines = [_line("a", "lv", "a", PHASES, 0.2)]
    points = [_point("p1", "a", (L1, L2, 9e3, 2e3)), _point("p2", "a", (L2, L3, 4e3, 0.0), (L3, L1, 2e3, 1e3))]
    return _base("delta side", PHASES, "Dd0", lines, points)


def _switched() -> Network:
    """Closed and open switches, a capacitor, an unloaded stub, two draws at one bus."""
    lines = [
        _line("a", "lv", "a", PHASES, 0.2),
        _line("b", "a2", "b", PHASES, 0.1),
        _line("stub", "a", "s", PHASES, 0.3, shunt=True),
    ]
    points = [
        _point("p1", "b", (L1, E, 8e3, 2e3)),
        _point("p2", "b", (L1, E, 1e3, 0.0)),
        _point("p3", "a2", (L3, E, -6e3, 0.0)),
    ]
    switches = (Switch("k1", "a", "a2", PHASES, closed=True), Switch("k2", "lv", "b", PHASES, closed=False))
    shunts = (Shunt("cap", "b", PHASES, matrix(np.eye(3) * 0.05j)),)
    return _base("switched", PHASES, "Dyn1", lines, points, switches=switches, shunts=shunts)


MADE_UP: Final = {
    "four wires": _four_wire,
    "multi-earthed": _multi_earthed,
    "meshed": _meshed,
    "delta side": _delta_side,
    "switched": _switched,
}
RADIAL: Final = ("eulv", "ieee13", "four wires", "multi-earthed", "delta side", "switched")
