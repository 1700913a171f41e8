"""power-grid-model's input JSON, read by its own deserialiser. Three-phase buses, loads from phase to earth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from dcu.grid.importers.imported import Account, Imported, finished
from dcu.grid.network import (
    FOUR_WIRE,
    PHASES,
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Network,
    Shunt,
    Source,
    Switch,
    Transformer,
    Zip,
    balanced_source,
    matrix,
    sequence_matrix,
    three_phase_coils,
)
from dcu.grid.network_file import limited
from shared.errors import ConfigError, Fault, HeadroomError

FREQUENCY_HZ: Final = 50.0
"""The format carries none; this is power-grid-model's own default."""
_WINDINGS: Final = {0: "y", 1: "yn", 2: "d"}
_ZIP: Final = {0: Zip(), 1: Zip(1.0, 0.0, 0.0), 2: Zip(0.0, 1.0, 0.0)}
_LOADS: Final = {"sym_load": 1.0, "asym_load": 1.0, "sym_gen": -1.0, "asym_gen": -1.0}
_READ: Final = frozenset({"node", "line", "link", "transformer", "source", "shunt", *_LOADS})
_REFUSED: Final = frozenset(
    {"three_winding_transformer", "generic_branch", "asym_line", "transformer_tap_regulator", "voltage_regulator"}
)
_BUS_KEYS: Final = ("node", "from_node", "to_node")

T = TypeVar("T")


def import_power_grid_model(path: Path) -> Imported:
    """Read an input data set.

    Raises:
        HeadroomError: power-grid-model is not installed.
        ConfigError: no such file, not its format, or elements this model cannot hold.
    """
    try:
        from power_grid_model.errors import PowerGridError  # noqa: PLC0415 an optional extra
        from power_grid_model.utils import json_deserialize_from_file  # noqa: PLC0415
    except ImportError as error:
        raise HeadroomError("power-grid-model: seen nothing, expected the extra headroom[powergridmodel]") from error
    if not path.is_file():
        raise ConfigError(str(path), [Fault("file", "nothing", "a power-grid-model input file")])
    try:
        data = json_deserialize_from_file(path)
    except (PowerGridError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(str(path), [Fault("file", text, "power-grid-model input data")]) from error
    nodes = data.get("node") if isinstance(data, dict) else None
    if getattr(nodes, "ndim", 1) != 1 or "u_rated" not in _columns(nodes):
        raise ConfigError(
            str(path), [Fault("file", "no input nodes", "one input data set: no batch, update or output")]
        )
    return _Reader(str(path), data).imported()


class _CellError(Exception):
    """A cell that cannot be used; carries its fault."""

    def __init__(self, where: str, seen: object, expected: str) -> None:
        super().__init__(where)
        self.fault = Fault(where, str(seen), expected)


class _Reader:
    def __init__(self, file: str, data: dict[str, Any]) -> None:
        self._file, self._data = file, data
        self._account = Account()
        self._faults: list[Fault] = []
        self._u_rated = {int(n["id"]): float(n["u_rated"]) for n in self._rows("node")}
        self._stars: dict[str, int] = {}
        self._shunts: list[Shunt] = []

    def _rows(self, kind: str) -> Iterable[Any]:
        rows: Iterable[Any] = self._data.get(kind, ())
        return rows

    def _each(self, kind: str, make: Callable[[Any], T | None]) -> list[T]:
        """Every row made into its counterpart, if it has one; a row with an unusable cell becomes a fault."""
        found = []
        for row in self._rows(kind):
            try:
                for key in _BUS_KEYS:
                    if key in row.dtype.names and int(row[key]) not in self._u_rated:
                        raise _CellError(f"{kind} {row['id']} {key}", row[key], "a node of the file")  # noqa: TRY301
                item = make(row)
            except _CellError as error:
                self._faults.append(error.fault)
            else:
                if item is not None:
                    found.append(item)
        return found

    def imported(self) -> Imported:
        for kind, rows in self._data.items():
            name = str(getattr(kind, "value", kind))
            if name not in _READ and len(rows):
                self._account.left_out.append(f"{len(rows)} {name}")
                if name in _REFUSED:
                    expected = "lines, links and two-winding transformers, without regulators"
                    self._faults.append(Fault(name, f"{len(rows)} elements", expected))
        for node, count in Counter(int(n["id"]) for n in self._rows("node")).items():
            if count > 1:
                self._faults.append(Fault(f"node {node}", f"this id {count} times", "every id once"))
        for node, u in self._u_rated.items():
            if not u > 0:
                self._faults.append(Fault(f"node {node} u_rated", f"{u:g}", "a number above 0"))
        sources = self._each("source", self._source)
        if len(sources) != 1 and not self._faults:
            self._faults.append(Fault("source", f"{len(sources)} in service", "one"))
        lines = self._each("line", self._line)
        transformers = self._each("transformer", self._transformer)
        links = self._each("link", _link)
        self._shunts += self._each("shunt", self._shunt)
        points: list[ConnectionPoint] = []
        for kind, sign in _LOADS.items():

            def make(row: Any, kind: str = kind, sign: float = sign) -> ConnectionPoint | None:
                return self._load(kind, row, sign)

            points += self._each(kind, make)
        if self._faults:
            raise ConfigError(self._file, limited(self._faults))
        network = Network(
            name=Path(self._file).stem,
            description="imported from power-grid-model",
            source=sources[0],
            buses=tuple(
                Bus(str(n), FOUR_WIRE if str(n) in self._stars else PHASES, u / math.sqrt(3))
                for n, u in self._u_rated.items()
            ),
            branches=tuple(lines),
            transformers=tuple(transformers),
            switches=tuple(links),
            shunts=tuple(self._shunts),
            connection_points=tuple(points),
        )
        self._account.take("source")
        for kind in ("buses", "branches", "transformers", "switches", "shunts"):
            self._account.take(kind, len(getattr(network, kind)))
        self._account.take("connection points", len(points))
        return finished(self._file, network, self._account)

    def _source(self, row: Any) -> Source | None:
        if not int(row["status"]):
            self._account.left_out.append(f"source {row['id']}: out of service")
            return None
        u_rated = self._u_rated[int(row["node"])]
        z = u_rated**2 / _above_0(row, "source", "sk", 1e10)
        rx = _value(row, "rx_ratio", 0.1)
        z1 = z * complex(rx, 1.0) / math.hypot(rx, 1.0)
        z0 = z1 * _value(row, "z01_ratio", 1.0)
        angle = math.degrees(_value(row, "u_ref_angle", 0.0))
        return balanced_source(
            str(row["node"]), _above_0(row, "source", "u_ref") * u_rated / math.sqrt(3), sequence_matrix(z1, z0), angle
        )

    def _line(self, row: Any) -> Branch | None:
        name = str(row["id"])
        on = [bool(int(row[key])) for key in ("from_status", "to_status")]
        omega = 2 * math.pi * FREQUENCY_HZ
        z1 = complex(row["r1"], row["x1"])
        z0 = complex(_value(row, "r0", z1.real), _value(row, "x0", z1.imag))
        if any(on) and (math.isnan(float(row["r0"])) or math.isnan(float(row["x0"]))):
            self._account.approximated.append(f"line {name}: no zero-sequence data, phases decoupled")
        c1, c0 = _value(row, "c1", 0.0), _value(row, "c0", 0.0)
        y1 = omega * c1 * complex(_value(row, "tan1", 0.0), 1.0)
        y0 = omega * c0 * complex(_value(row, "tan0", 0.0), 1.0)
        if not all(on):
            self._account.left_out.append(f"line {name}: open")
            seen = [_open_line(z, y) for z, y in ((z1, y1), (z0, y0))]
            if any(on) and any(seen):
                fed = str(row["from_node" if on[0] else "to_node"])
                self._shunts.append(Shunt(f"line {name} open", fed, PHASES, sequence_matrix(seen[0], seen[1])))
            return None
        rating = _value(row, "i_n", math.inf)
        return Branch(
            name,
            BranchEnd(str(row["from_node"]), PHASES),
            BranchEnd(str(row["to_node"]), PHASES),
            sequence_matrix(z1, z0),
            sequence_matrix(y1, y0) if y1 or y0 else None,
            (rating,) * 3 if math.isfinite(rating) and rating > 0 else (),
        )

    def _transformer(self, row: Any) -> Transformer | None:
        name = str(row["id"])
        if not (int(row["from_status"]) and int(row["to_status"])):
            self._account.left_out.append(f"transformer {name}: open")
            return None
        kinds = [_WINDINGS.get(int(row[key])) for key in ("winding_from", "winding_to")]
        buses = [str(row["from_node"]), str(row["to_node"])]
        if not -12 <= int(row["clock"]) <= 12:
            raise _CellError(f"transformer {name} clock", row["clock"], "a clock number")
        clock = int(row["clock"]) % 12
        grounding = [
            _value(row, key, 0.0)
            for key in ("r_grounding_from", "x_grounding_from", "r_grounding_to", "x_grounding_to")
        ]
        if None in kinds or any(grounding):
            self._faults.append(
                Fault(f"transformer {name}", "a zigzag winding or an earthing impedance", "y, yn, d solidly earthed")
            )
            return None
        low, high, middle = (_integer(row, key) or 0 for key in ("tap_min", "tap_max", "tap_nom"))
        asked = _integer(row, "tap_pos")
        at = min(max(middle if asked is None else asked, min(low, high)), max(low, high))
        if asked not in (None, at):
            self._account.approximated.append(f"transformer {name}: tap_pos {asked} beyond its range, {at} taken")
        steps = (at - middle) * (-1 if high < low else 1)
        side, size = _integer(row, "tap_side"), _value(row, "tap_size", 0.0)
        if side not in (0, 1):
            raise _CellError(f"transformer {name} tap_side", row["tap_side"], "0 or 1")
        rated = [_above_0(row, "transformer", "u1"), _above_0(row, "transformer", "u2")]
        taps = [1.0, 1.0]
        taps[side] = (rated[side] + steps * size) / rated[side]
        s = _above_0(row, "transformer", "sn")
        # uk and pk run linearly from the nominal tap to their values at either end of the range.
        end, limit = ("min", low) if (at < middle) == (low < high) else ("max", high)
        share = (at - middle) / (limit - middle) if limit != middle else 0.0
        uk, pk = _value(row, "uk", 0.0), _value(row, "pk", 0.0)
        size_z = uk + share * (_value(row, f"uk_{end}", uk) - uk)
        r = (pk + share * (_value(row, f"pk_{end}", pk) - pk)) / s
        if not 0 <= r <= size_z:
            raise _CellError(f"transformer {name} uk, pk", f"{size_z:g}, {r * s:g} W", "0 <= pk <= uk times sn")
        z = complex(r, math.sqrt(size_z**2 - r**2))
        g, size_y = _value(row, "p0", 0.0) / s, _value(row, "i0", 0.0)
        y = complex(g, -math.sqrt(max(size_y**2 - g**2, 0.0))) / 2
        group = f"{(kinds[0] or '').upper()}{kinds[1]}{clock}"
        stars = tuple(self._star(bus, kind or "") for bus, kind in zip(buses, kinds, strict=True))
        try:
            coils = three_phase_coils(
                group,
                (buses[0], rated[0]),
                (buses[1], rated[1]),
                (taps[0], taps[1]),
                (stars[0], stars[1]),
                (y / taps[0] ** 2, y / taps[1] ** 2),
            )
        except ValueError as error:
            self._faults.append(Fault(f"transformer {name}", str(error), "a clock number of these windings"))
            return None
        return Transformer(name, coils, s / 3, matrix(np.eye(3) * z), group, s)

    def _star(self, bus: str, kind: str) -> Conductor:
        """An unearthed star point becomes the bus's N conductor, which nothing else is joined to."""
        if kind != "y":
            return Conductor.E
        self._stars[bus] = self._stars.get(bus, 0) + 1
        if self._stars[bus] > 1:
            self._faults.append(Fault(f"node {bus}", "several unearthed star points", "one at a bus"))
        return Conductor.N

    def _shunt(self, row: Any) -> Shunt | None:
        if not int(row["status"]):
            self._account.left_out.append(f"shunt {row['id']}: out of service")
            return None
        y1 = complex(_value(row, "g1", 0.0), _value(row, "b1", 0.0))
        y0 = complex(_value(row, "g0", 0.0), _value(row, "b0", 0.0))
        return Shunt(str(row["id"]), str(row["node"]), PHASES, sequence_matrix(y1, y0))

    def _load(self, kind: str, row: Any, sign: float) -> ConnectionPoint | None:
        if not int(row["status"]):
            self._account.left_out.append(f"{kind} {row['id']}: out of service")
            return None
        if int(row["type"]) not in _ZIP:
            raise _CellError(f"{kind} {row['id']} type", row["type"], "0, 1 or 2")
        p, q = np.atleast_1d(row["p_specified"]), np.atleast_1d(row["q_specified"])
        if not (np.isfinite(p).all() and np.isfinite(q).all()):
            raise _CellError(f"{kind} {row['id']} p_specified, q_specified", "nothing", "a number for each phase")
        if len(p) == 1:
            p, q = np.repeat(p, 3) / 3, np.repeat(q, 3) / 3
        u = self._u_rated[int(row["node"])] / math.sqrt(3)
        share = _ZIP[int(row["type"])]
        connections = tuple(
            Connection(phase, Conductor.E, sign * float(p[k]), sign * float(q[k]), u, share)
            for k, phase in enumerate(PHASES)
            if kind.startswith("sym") or p[k] or q[k] or not (p.any() or q.any())
        )
        return ConnectionPoint(str(row["id"]), str(row["node"]), connections)


def _columns(rows: Any) -> tuple[str, ...]:
    """Names of the columns of a structured array; none of anything else."""
    return getattr(getattr(rows, "dtype", None), "names", None) or ()


def _link(row: Any) -> Switch:
    closed = bool(row["from_status"] and row["to_status"])
    return Switch(str(row["id"]), str(row["from_node"]), str(row["to_node"]), PHASES, closed=closed)


def _open_line(z: complex, y: complex) -> complex:
    """What one end sees of a line of series impedance `z` [ohm] and shunt admittance `y` [S], open at its other [S]."""
    return y / 2 + (1 / (z + 2 / y) if y else 0)


def _above_0(row: Any, kind: str, key: str, default: float = math.nan) -> float:
    value = _value(row, key, default)
    if not (value > 0 and math.isfinite(value)):
        raise _CellError(f"{kind} {row['id']} {key}", f"{value:g}", "a number above 0")
    return value


def _value(row: Any, key: str, default: float) -> float:
    value = float(row[key])
    return default if math.isnan(value) else value


def _integer(row: Any, key: str) -> int | None:
    value = int(row[key])
    return None if value in (-128, -(2**31)) else value
