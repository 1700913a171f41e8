"""The network file: JSON `headroom-network/1`, its models (from which the JSON Schema is published) and its faults.

A file is taken whole or refused whole, with every fault in it: first what its keys and numbers are, then what
`dcu.grid.check` says of the feeder they describe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from dcu.grid.check import find_faults
from dcu.grid.files import write_whole
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
    Earthing,
    Network,
    Shunt,
    Source,
    Switch,
    Transformer,
    Zip,
    matrix,
)
from shared.config import Section
from shared.errors import ConfigError, Fault

FORMAT: Final = "headroom-network/1"
FILE_BYTES_MAX: Final = 256 << 20
FAULTS_MAX: Final = 200
"""More faults than this are counted, not listed."""

Name = Annotated[str, Field(min_length=1, max_length=128)]
Wire = Literal["L1", "L2", "L3", "N"]
Terminal = Literal["L1", "L2", "L3", "N", "E"]
Wires = Annotated[list[Wire], Field(min_length=1, max_length=4)]
Real = list[list[float]]


class BusModel(Section):
    """A bus: its conductors, nominal voltage phase to neutral [V], coordinates if known."""

    id: Name
    conductors: Wires
    u_nominal_v: float
    position: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


class BranchModel(Section):
    """A line or cable of given total series impedance [ohm] and shunt admittance [S]; matrices over its conductors."""

    id: Name
    from_bus: Name
    from_conductors: Wires
    to_bus: Name
    to_conductors: Wires
    r_ohm: Real
    x_ohm: Real
    g_s: Real | None = None
    b_s: Real | None = None
    rating_a: list[float] | None = None


class CoilEndModel(Section):
    """One winding of a coil: between two conductors of a bus (`E` is earth), rated voltage [V], tap ratio."""

    bus: Name
    pos: Terminal
    neg: Terminal
    u_rated_v: float
    tap: float = 1.0


class CoilModel(Section):
    """Two windings on one core; `g_pu` and `b_pu` stand across primary and secondary."""

    primary: CoilEndModel
    secondary: CoilEndModel
    g_pu: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.0, 0.0]
    b_pu: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.0, 0.0]


class TransformerModel(Section):
    """Coils with one short-circuit impedance matrix [pu of one coil's rating `coil_s_va`]."""

    id: Name
    vector_group: str = ""
    rating_va: float | None = None
    coil_s_va: float
    r_pu: Real
    x_pu: Real
    coils: Annotated[list[CoilModel], Field(min_length=1, max_length=3)]


class SwitchModel(Section):
    """Joins conductors of two buses while closed."""

    id: Name
    from_bus: Name
    to_bus: Name
    conductors: Wires
    closed: bool


class EarthingModel(Section):
    """Impedance [ohm] from a conductor to earth; 0 is solid."""

    bus: Name
    conductor: Wire
    r_ohm: float
    x_ohm: float = 0.0


class ShuntModel(Section):
    """Admittance [S] to earth."""

    id: Name
    bus: Name
    conductors: Wires
    g_s: Real
    b_s: Real


class SourceModel(Section):
    """Open-circuit voltage [V], angle [degree] and impedance [ohm] of the feeding network."""

    bus: Name
    conductors: Wires
    u_v: list[float]
    angle_deg: list[float]
    r_ohm: Real
    x_ohm: Real


class ConnectionModel(Section):
    """A port, with what it draws in the base case (import positive); `zip` are shares of constant Z, I, P."""

    pos: Wire
    neg: Terminal
    p_w: float = 0.0
    q_var: float = 0.0
    u_nominal_v: float | None = None
    zip: Annotated[list[float], Field(min_length=3, max_length=3)] = [0.0, 0.0, 1.0]


class ConnectionPointModel(Section):
    """A customer and the phases the customer is connected to."""

    id: Name
    bus: Name
    meter: Name | None = None
    connections: Annotated[list[ConnectionModel], Field(min_length=1, max_length=6)]


class NetworkModel(Section):
    """A feeder; SI units throughout, import positive."""

    format: Literal["headroom-network/1"]
    name: str
    description: str = ""
    frequency_hz: float = 50.0
    radial: bool = False
    source: SourceModel
    buses: Annotated[list[BusModel], Field(min_length=1)]
    branches: list[BranchModel] = []
    transformers: list[TransformerModel] = []
    switches: list[SwitchModel] = []
    earthings: list[EarthingModel] = []
    shunts: list[ShuntModel] = []
    connection_points: list[ConnectionPointModel] = []


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of the file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | NetworkModel.model_json_schema()


def load_network(path: Path, meters: frozenset[str] | None = None) -> Network:
    """The checked network in a file.

    Args:
        path: a `headroom-network/1` file.
        meters: ids of the meters that exist; a connection point that names another is a fault. None: not checked.

    Raises:
        ConfigError: missing, too large, no JSON, or wrong anywhere; names every fault.
    """
    return parse_network(str(path), read_json(path), meters)


def read_json(path: Path) -> object:
    """The content of a JSON file of bounded size.

    Raises:
        ConfigError: missing, too large, not UTF-8, no JSON, a key twice, NaN or infinity.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise ConfigError(str(path), [Fault("file", f"{size} bytes", f"at most {FILE_BYTES_MAX}")])
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [Fault("file", error.strerror or str(error), "a readable JSON file")]) from error
    except UnicodeDecodeError as error:
        if path.read_bytes()[:2] == b"PK":
            seen = "a compiled port model or another archive"
            raise ConfigError(str(path), [Fault("file", seen, "JSON; models end in .npz")]) from error
        raise ConfigError(str(path), [Fault(f"byte {error.start}", "no UTF-8", "JSON text in UTF-8")]) from error
    try:
        content: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if "\\ud" in text.lower():  # an escape may name half a character
            json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ConfigError(str(path), [Fault(where, error.msg, "valid JSON")]) from error
    except RecursionError as error:
        raise ConfigError(str(path), [Fault("file", "nesting without end", "at most a few levels")]) from error
    except UnicodeEncodeError as error:
        raise ConfigError(str(path), [Fault("file", "half a surrogate pair", "whole characters")]) from error
    except ValueError as error:
        raise ConfigError(str(path), [Fault("file", str(error), "finite numbers and every key once")]) from error
    return content


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"number {text}")


def parse_network(file: str, content: object, meters: frozenset[str] | None = None) -> Network:
    """The same for content that is already parsed; `file` only names it."""
    if isinstance(content, dict) and content.get("schema") == "three-phase-feeder/1":
        raise ConfigError(file, [Fault("file", "a three-phase-feeder/1 case", "headroom-grid import case first")])
    if isinstance(content, dict):
        buses = content.get("buses")
        if isinstance(buses, list) and len(buses) > BUSES_MAX:
            raise ConfigError(file, [Fault("buses", f"{len(buses)} buses", f"at most {BUSES_MAX}")])
    try:
        model = NetworkModel.model_validate(content)
    except ValidationError as error:
        raise ConfigError(file, limited([_key_fault(d) for d in error.errors(include_url=False)])) from error
    faults: list[Fault] = []
    network = _Reader(faults).network(model)
    faults += find_faults(network, meters)
    if faults:
        raise ConfigError(file, limited(faults))
    return network


def limited(faults: list[Fault]) -> list[Fault]:
    """At most `FAULTS_MAX` of them, and a last one that counts the rest."""
    if len(faults) <= FAULTS_MAX:
        return faults
    rest = len(faults) - FAULTS_MAX
    return [*faults[:FAULTS_MAX], Fault("file", f"{rest} more faults", "none")]


def _key_fault(detail: Any) -> Fault:
    where = ".".join(str(part) for part in detail["loc"]) or "file"
    seen = repr(detail["input"])
    if detail["type"] == "missing":
        return Fault(where, "nothing", "this key")
    if detail["type"] == "extra_forbidden":
        return Fault(where, "an unknown key", "one of the keys of headroom-grid schema")
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return Fault(where, seen if len(seen) <= 60 else seen[:57] + "...", expected)


class _Reader:
    """Turns the file's models into the network; a matrix that is none becomes a fault and zeros."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = faults

    def network(self, m: NetworkModel) -> Network:
        return Network(
            name=m.name,
            description=m.description,
            frequency_hz=m.frequency_hz,
            radial=m.radial,
            source=Source(
                m.source.bus,
                _wires(m.source.conductors),
                *self._phasors(m.source),
                self._complex("source", "r_ohm", m.source.r_ohm, "x_ohm", m.source.x_ohm, len(m.source.conductors)),
            ),
            buses=tuple(
                Bus(b.id, _wires(b.conductors), b.u_nominal_v, (b.position[0], b.position[1]) if b.position else None)
                for b in m.buses
            ),
            branches=tuple(self._branch(b) for b in m.branches),
            transformers=tuple(self._transformer(t) for t in m.transformers),
            switches=tuple(Switch(s.id, s.from_bus, s.to_bus, _wires(s.conductors), s.closed) for s in m.switches),
            earthings=tuple(Earthing(e.bus, Conductor(e.conductor), complex(e.r_ohm, e.x_ohm)) for e in m.earthings),
            shunts=tuple(
                Shunt(
                    s.id,
                    s.bus,
                    _wires(s.conductors),
                    self._complex(f"shunts[{s.id}]", "g_s", s.g_s, "b_s", s.b_s, len(s.conductors)),
                )
                for s in m.shunts
            ),
            connection_points=tuple(
                ConnectionPoint(
                    p.id,
                    p.bus,
                    tuple(
                        Connection(Conductor(c.pos), Conductor(c.neg), c.p_w, c.q_var, c.u_nominal_v, Zip(*c.zip))
                        for c in p.connections
                    ),
                    p.meter,
                )
                for p in m.connection_points
            ),
        )

    def _branch(self, b: BranchModel) -> Branch:
        where, count = f"branches[{b.id}]", len(b.from_conductors)
        if len(b.to_conductors) != count:
            self._fault(f"{where}.to_conductors", f"{len(b.to_conductors)} conductors", f"{count}, as at its other end")
        shunt = None
        if b.g_s is not None or b.b_s is not None:
            zero = [[0.0] * count for _ in range(count)]
            shunt = self._complex(where, "g_s", b.g_s or zero, "b_s", b.b_s or zero, count)
        if b.rating_a is not None and len(b.rating_a) != count:
            self._fault(f"{where}.rating_a", f"{len(b.rating_a)} values", f"{count}, one for each conductor")
        return Branch(
            b.id,
            BranchEnd(b.from_bus, _wires(b.from_conductors)),
            BranchEnd(b.to_bus, _wires(b.to_conductors)),
            self._complex(where, "r_ohm", b.r_ohm, "x_ohm", b.x_ohm, count),
            shunt,
            tuple(b.rating_a or ()),
        )

    def _transformer(self, t: TransformerModel) -> Transformer:
        coils = tuple(
            Coil(_end(c.primary), _end(c.secondary), (complex(c.g_pu[0], c.b_pu[0]), complex(c.g_pu[1], c.b_pu[1])))
            for c in t.coils
        )
        z = self._complex(f"transformers[{t.id}]", "r_pu", t.r_pu, "x_pu", t.x_pu, len(coils))
        rating = math.inf if t.rating_va is None else t.rating_va
        return Transformer(t.id, coils, t.coil_s_va, z, t.vector_group, rating)

    def _phasors(self, s: SourceModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
        count = len(s.conductors)
        for key, values in (("u_v", s.u_v), ("angle_deg", s.angle_deg)):
            if len(values) != count:
                self._fault(f"source.{key}", f"{len(values)} values", f"{count}, one for each conductor")
                return (1.0,) * count, (0.0,) * count
        return tuple(s.u_v), tuple(s.angle_deg)

    def _complex(self, where: str, re_key: str, re: Real, im_key: str, im: Real, count: int) -> ComplexMatrix:
        parts = []
        for key, rows in ((re_key, re), (im_key, im)):
            shape = f"{len(rows)} rows of {sorted({len(row) for row in rows})} values"
            if len(rows) != count or any(len(row) != count for row in rows):
                self._fault(f"{where}.{key}", shape, f"a {count} x {count} matrix, one row for each conductor")
                parts.append(np.eye(count))
            else:
                parts.append(np.array(rows, dtype=float))
        return matrix(parts[0] + 1j * parts[1])

    def _fault(self, where: str, seen: str, expected: str) -> None:
        self._faults.append(Fault(where, seen, expected))


def _wires(names: list[Wire]) -> tuple[Conductor, ...]:
    return tuple(Conductor(name) for name in names)


def _end(m: CoilEndModel) -> CoilEnd:
    return CoilEnd(m.bus, Conductor(m.pos), Conductor(m.neg), m.u_rated_v, m.tap)


def network_json(network: Network) -> str:
    """The network as the text of a file: one element a line, the same bytes for the same network."""
    head = {
        "format": FORMAT,
        "name": network.name,
        "description": network.description,
        "frequency_hz": network.frequency_hz,
        "radial": network.radial,
    }
    lines = [f"{json.dumps(key)}: {_compact(value)}" for key, value in head.items()]
    lines.append(f'"source": {_compact(_source(network.source))}')
    rows: list[tuple[str, Callable[[Any], dict[str, Any]], tuple[Any, ...]]] = [
        ("buses", _bus, network.buses),
        ("branches", _branch, network.branches),
        ("transformers", _transformer, network.transformers),
        ("switches", _switch, network.switches),
        ("earthings", _earthing, network.earthings),
        ("shunts", _shunt, network.shunts),
        ("connection_points", _point, network.connection_points),
    ]
    for key, form, items in rows:
        body = ",\n  ".join(_compact(form(item)) for item in items)
        lines.append(f'"{key}": [\n  {body}\n ]' if items else f'"{key}": []')
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def _names(conductors: tuple[Conductor, ...]) -> list[str]:
    return [str(c) for c in conductors]


def _bus(b: Bus) -> dict[str, Any]:
    found: dict[str, Any] = {"id": b.id, "conductors": _names(b.conductors), "u_nominal_v": b.u_nominal_v}
    return found | ({"position": list(b.position)} if b.position else {})


def _branch(b: Branch) -> dict[str, Any]:
    found = {
        "id": b.id,
        "from_bus": b.from_end.bus,
        "from_conductors": _names(b.from_end.conductors),
        "to_bus": b.to_end.bus,
        "to_conductors": _names(b.to_end.conductors),
        "r_ohm": b.z_ohm.real.tolist(),
        "x_ohm": b.z_ohm.imag.tolist(),
    }
    if b.y_s is not None:
        found |= {"g_s": b.y_s.real.tolist(), "b_s": b.y_s.imag.tolist()}
    if b.rating_a:
        found["rating_a"] = list(b.rating_a)
    return found


def _transformer(t: Transformer) -> dict[str, Any]:
    return {
        "id": t.id,
        "vector_group": t.vector_group,
        **({"rating_va": t.rating_va} if math.isfinite(t.rating_va) else {}),
        "coil_s_va": t.coil_s_va,
        "r_pu": t.z_pu.real.tolist(),
        "x_pu": t.z_pu.imag.tolist(),
        "coils": [
            {
                "primary": _coil_end(c.primary),
                "secondary": _coil_end(c.secondary),
                "g_pu": [y.real for y in c.shunt_pu],
                "b_pu": [y.imag for y in c.shunt_pu],
            }
            for c in t.coils
        ],
    }


def _coil_end(e: CoilEnd) -> dict[str, Any]:
    return {"bus": e.bus, "pos": str(e.pos), "neg": str(e.neg), "u_rated_v": e.u_rated_v, "tap": e.tap}


def _switch(s: Switch) -> dict[str, Any]:
    return {
        "id": s.id,
        "from_bus": s.from_bus,
        "to_bus": s.to_bus,
        "conductors": _names(s.conductors),
        "closed": s.closed,
    }


def _earthing(e: Earthing) -> dict[str, Any]:
    return {"bus": e.bus, "conductor": str(e.conductor), "r_ohm": e.z_ohm.real, "x_ohm": e.z_ohm.imag}


def _shunt(s: Shunt) -> dict[str, Any]:
    return {
        "id": s.id,
        "bus": s.bus,
        "conductors": _names(s.conductors),
        "g_s": s.y_s.real.tolist(),
        "b_s": s.y_s.imag.tolist(),
    }


def _source(s: Source) -> dict[str, Any]:
    return {
        "bus": s.bus,
        "conductors": _names(s.conductors),
        "u_v": list(s.u_v),
        "angle_deg": list(s.angle_deg),
        "r_ohm": s.z_ohm.real.tolist(),
        "x_ohm": s.z_ohm.imag.tolist(),
    }


def _point(p: ConnectionPoint) -> dict[str, Any]:
    connections = []
    for c in p.connections:
        found: dict[str, Any] = {"pos": str(c.pos), "neg": str(c.neg), "p_w": c.p_w, "q_var": c.q_var}
        if c.u_nominal_v is not None:
            found["u_nominal_v"] = c.u_nominal_v
        if c.zip_share != Zip():
            found["zip"] = list(c.zip_share)
        connections.append(found)
    meter = {"meter": p.meter} if p.meter else {}
    return {"id": p.id, "bus": p.bus, **meter, "connections": connections}


def save_network(network: Network, path: Path) -> None:
    """Write the file whole or not at all."""
    text = network_json(network).encode()
    write_whole(path, lambda file: file.write(text))
