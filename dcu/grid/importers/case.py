"""The neutral form of the reference cases, `three-phase-feeder/1`: SI units, nodes 1 2 3 4, transformers as coils."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from dcu.grid.importers.imported import Account, Imported, finished
from dcu.grid.network import (
    BUSES_MAX,
    Branch,
    BranchEnd,
    Bus,
    Coil,
    CoilEnd,
    ComplexMatrix,
    Conductor,
    Connection,
    ConnectionPoint,
    Network,
    Shunt,
    Transformer,
    Zip,
    balanced_source,
    matrix,
)
from dcu.grid.network_file import limited, read_json
from shared.config import Section
from shared.errors import ConfigError, Fault

_NODES: Final = {
    0: Conductor.E,
    1: Conductor.L1,
    2: Conductor.L2,
    3: Conductor.L3,
    4: Conductor.N,
}
_ZIP: Final = {"P": Zip(), "I": Zip(0.0, 1.0, 0.0), "Z": Zip(1.0, 0.0, 0.0)}

NodeNumber = Literal[1, 2, 3, 4]
Nodes = Annotated[list[NodeNumber], Field(min_length=1, max_length=4)]
EndNode = Literal[0, 1, 2, 3, 4]
Real = list[list[float]]


class _Loose(Section):
    """Keys that repeat name-plate data may be there; they are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class _Source(_Loose):
    bus: str
    v_ll_kv: float
    v_pu: float
    angle_deg: float
    r_ohm: Real
    x_ohm: Real


class _Bus(_Loose):
    id: str
    nodes: Nodes
    v_base_ln_v: float
    x: float | None = None
    y: float | None = None


class _Line(_Loose):
    id: str
    from_: Annotated[str, Field(alias="from")]
    from_nodes: Nodes
    to: str
    to_nodes: Nodes
    r_ohm: Real
    x_ohm: Real
    b_s: Real | None = None
    g_s: Real | None = None
    rating_a: float | None = None


class _Winding(_Loose):
    bus: str
    pos: EndNode
    neg: EndNode
    v_rated_v: float
    tap: float


class _Unit(_Loose):
    w1: _Winding
    w2: _Winding
    s_rated_va: Annotated[float, Field(gt=0)]
    r_pu: float
    x_pu: float


class _Transformer(_Loose):
    id: str
    vector_group: str | None = ""
    kva: float | None = None
    units: Annotated[list[_Unit], Field(min_length=1, max_length=3)]


class _Shunt(_Loose):
    id: str
    bus: str
    nodes: Nodes
    g_s: Real
    b_s: Real


class _Load(_Loose):
    id: str
    bus: str
    pos: EndNode
    neg: EndNode
    model: Literal["P", "I", "Z"] | None = None
    zip: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    p_w: float
    q_var: float
    v_nom_v: float


class _Case(_Loose):
    schema_: Annotated[Literal["three-phase-feeder/1"], Field(alias="schema")]
    name: str
    description: str = ""
    frequency_hz: float = 50.0
    source: _Source
    buses: Annotated[list[_Bus], Field(min_length=1, max_length=BUSES_MAX)]
    lines: list[_Line] = []
    transformers: list[_Transformer] = []
    shunts: list[_Shunt] = []
    loads: list[_Load] = []


def import_case(path: Path) -> Imported:
    """Read a `three-phase-feeder/1` file. Nothing is approximated: every element has its exact counterpart here.

    Raises:
        ConfigError: no such file, or wrong anywhere.
    """
    content = read_json(path)
    try:
        case = _Case.model_validate(content)
    except ValidationError as error:
        faults = [
            Fault(".".join(map(str, d["loc"])) or "file", repr(d["input"])[:60], d["msg"])
            for d in error.errors(include_url=False)
        ]
        raise ConfigError(str(path), limited(faults)) from error
    account = Account()
    _say_unknown(content, case, account)
    reader = _Reader(str(path))
    network = reader.network(case)
    if reader.faults:
        raise ConfigError(str(path), limited(reader.faults))
    account.take("source")
    for kind in ("buses", "lines", "transformers", "shunts", "loads"):
        account.take(kind, len(getattr(case, kind)))
    return finished(str(path), network, account)


_NAME_PLATE: Final = frozenset(
    {"phases", "connection", "vector_group", "kv", "kva", "r_percent", "x_percent", "taps", "leadlag", "length_km"}
)
"""Keys that repeat or describe what the others say electrically."""


def _say_unknown(content: object, case: _Case, account: Account) -> None:
    """List what stands in the file and is not read: whoever wrote it meant something by it."""
    seen: dict[str, int] = {}

    def look(where: str, raw: object, model: object) -> None:
        if isinstance(raw, dict) and isinstance(model, Section):
            fields = {(info.alias or name): name for name, info in type(model).model_fields.items()}
            for key, value in raw.items():
                if key in fields:
                    look(f"{where}.{key}".lstrip("."), value, getattr(model, fields[key]))
                elif key not in _NAME_PLATE and value not in (None, [], {}, 0, 0.0, False, ""):
                    name = f"{where}.{key}".lstrip(".")
                    seen[name] = seen.get(name, 0) + (len(value) if isinstance(value, list) else 1)
        elif isinstance(raw, list) and isinstance(model, list):
            for one, other in zip(raw, model, strict=False):
                look(where, one, other)

    look("", content, case)
    account.left_out += [f"key {name}, {count} times: not known here" for name, count in seen.items()]


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []

    def network(self, case: _Case) -> Network:
        s = case.source
        u = s.v_ll_kv * 1e3 / math.sqrt(3) * s.v_pu
        z = self._complex("source", s.r_ohm, s.x_ohm, 3)
        return Network(
            name=case.name,
            description=case.description,
            frequency_hz=case.frequency_hz,
            source=balanced_source(s.bus, u, z, s.angle_deg),
            buses=tuple(
                Bus(b.id, _wires(b.nodes), b.v_base_ln_v, (b.x, b.y) if b.x is not None and b.y is not None else None)
                for b in case.buses
            ),
            branches=tuple(self._line(line) for line in case.lines),
            transformers=tuple(self._transformer(t) for t in case.transformers),
            shunts=tuple(
                Shunt(x.id, x.bus, _wires(x.nodes), self._complex(f"shunts[{x.id}]", x.g_s, x.b_s, len(x.nodes)))
                for x in case.shunts
            ),
            connection_points=tuple(self._load(load) for load in case.loads),
        )

    def _line(self, line: _Line) -> Branch:
        where, count = f"lines[{line.id}]", len(line.from_nodes)
        if len(line.to_nodes) != count:
            self.faults.append(Fault(f"{where}.to_nodes", f"{len(line.to_nodes)} nodes", f"{count}"))
        zero = [[0.0] * count for _ in range(count)]
        shunt = None
        if line.b_s is not None or line.g_s is not None:
            shunt = self._complex(where, line.g_s or zero, line.b_s or zero, count)
        return Branch(
            line.id,
            BranchEnd(line.from_, _wires(line.from_nodes)),
            BranchEnd(line.to, _wires(line.to_nodes)),
            self._complex(where, line.r_ohm, line.x_ohm, count),
            shunt,
            () if line.rating_a is None else (line.rating_a,) * count,
        )

    def _transformer(self, t: _Transformer) -> Transformer:
        base = t.units[0].s_rated_va
        coils = tuple(Coil(_end(unit.w1), _end(unit.w2)) for unit in t.units)
        z = [complex(unit.r_pu, unit.x_pu) * base / unit.s_rated_va for unit in t.units]
        rating = math.inf if t.kva is None else 1e3 * t.kva
        return Transformer(t.id, coils, base, matrix(np.diag(z)), t.vector_group or "", rating)

    def _load(self, load: _Load) -> ConnectionPoint:
        share = Zip(*load.zip) if load.zip is not None else _ZIP[load.model or "P"]
        pos, neg = _NODES[load.pos], _NODES[load.neg]
        if pos is Conductor.E:  # the same load the other way round
            pos, neg = neg, pos
        return ConnectionPoint(load.id, load.bus, (Connection(pos, neg, load.p_w, load.q_var, load.v_nom_v, share),))

    def _complex(self, where: str, re: Real, im: Real, count: int) -> ComplexMatrix:
        for rows in (re, im):
            if len(rows) != count or any(len(row) != count for row in rows):
                shape = f"{len(rows)} rows of {sorted({len(row) for row in rows})} values"
                self.faults.append(Fault(where, shape, f"a {count} x {count} matrix"))
                return matrix(np.eye(count))
        return matrix(np.array(re, dtype=float) + 1j * np.array(im, dtype=float))


def _wires(nodes: list[Any]) -> tuple[Conductor, ...]:
    return tuple(_NODES[n] for n in nodes)


def _end(w: _Winding) -> CoilEnd:
    return CoilEnd(w.bus, _NODES[w.pos], _NODES[w.neg], w.v_rated_v, w.tap)
