"""power-grid-model's input JSON, read by its own deserialiser. Three-phase buses, loads from phase to earth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

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
from shared.errors import ConfigError, Fault, HeadroomError

FREQUENCY_HZ: Final = 50.0
"""The format carries none; this is power-grid-model's own default."""
_WINDINGS: Final = {0: "y", 1: "yn", 2: "d"}
_ZIP: Final = {0: Zip(), 1: Zip(1.0, 0.0, 0.0), 2: Zip(0.0, 1.0, 0.0)}
_LOADS: Final = {"sym_load": 1.0, "asym_load": 1.0, "sym_gen": -1.0, "asym_gen": -1.0}
_READ: Final = frozenset({"node", "line", "link", "transformer", "source", "shunt", *_LOADS})


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
    except (PowerGridError, ValueError, KeyError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(str(path), [Fault("file", text, "power-grid-model input data")]) from error
    return _Reader(str(path), data).imported()


class _Reader:
    def __init__(self, file: str, data: dict[str, Any]) -> None:
        self._file, self._data = file, data
        self._account = Account()
        self._faults: list[Fault] = []
        self._u_rated = {int(n["id"]): float(n["u_rated"]) for n in self._rows("node")}
        self._stars: dict[str, int] = {}

    def _rows(self, kind: str) -> Iterable[Any]:
        found = self._data.get(kind, ())
        rows: Iterable[Any] = found if getattr(found, "ndim", 1) == 1 else found.reshape(-1)
        return rows

    def imported(self) -> Imported:
        for kind, rows in self._data.items():
            if kind not in _READ and len(rows):
                self._account.left_out.append(f"{len(rows)} {kind}")
                if kind in ("three_winding_transformer", "generic_branch", "asym_line"):
                    self._faults.append(
                        Fault(kind, f"{len(rows)} elements", "lines, links and two-winding transformers")
                    )
        sources = [s for s in self._rows("source") if int(s["status"])]
        if len(sources) != 1:
            self._faults.append(Fault("source", f"{len(sources)} in service", "one"))
        lines = [b for row in self._rows("line") if (b := self._line(row)) is not None]
        transformers = [t for row in self._rows("transformer") if (t := self._transformer(row)) is not None]
        points = [p for kind, sign in _LOADS.items() for row in self._rows(kind) if (p := self._load(kind, row, sign))]
        if self._faults:
            raise ConfigError(self._file, self._faults)
        network = Network(
            name=Path(self._file).stem,
            description="imported from power-grid-model",
            source=self._source(sources[0]),
            buses=tuple(
                Bus(str(n), FOUR_WIRE if str(n) in self._stars else PHASES, u / math.sqrt(3))
                for n, u in self._u_rated.items()
            ),
            branches=tuple(lines),
            transformers=tuple(transformers),
            switches=tuple(
                Switch(
                    str(row["id"]),
                    str(row["from_node"]),
                    str(row["to_node"]),
                    PHASES,
                    closed=bool(row["from_status"] and row["to_status"]),
                )
                for row in self._rows("link")
            ),
            shunts=tuple(self._shunt(row) for row in self._rows("shunt") if int(row["status"])),
            connection_points=tuple(points),
        )
        for kind in ("buses", "branches", "transformers", "switches", "shunts"):
            self._account.take(kind, len(getattr(network, kind)))
        self._account.take("connection points", len(points))
        return finished(self._file, network, self._account)

    def _source(self, row: Any) -> Source:
        u_rated = self._u_rated[int(row["node"])]
        z = u_rated**2 / _value(row, "sk", 1e10)
        rx = _value(row, "rx_ratio", 0.1)
        z1 = z * complex(rx, 1.0) / math.hypot(rx, 1.0)
        z0 = z1 * _value(row, "z01_ratio", 1.0)
        angle = math.degrees(_value(row, "u_ref_angle", 0.0))
        self._account.take("source")
        return balanced_source(
            str(row["node"]), float(row["u_ref"]) * u_rated / math.sqrt(3), sequence_matrix(z1, z0), angle
        )

    def _line(self, row: Any) -> Branch | None:
        name = str(row["id"])
        if not (int(row["from_status"]) and int(row["to_status"])):
            self._account.left_out.append(f"line {name}: open")
            return None
        omega = 2 * math.pi * FREQUENCY_HZ
        z1 = complex(row["r1"], row["x1"])
        z0 = complex(_value(row, "r0", z1.real), _value(row, "x0", z1.imag))
        if math.isnan(float(row["r0"])):
            self._account.approximated.append(f"line {name}: no zero-sequence data, phases decoupled")
        c1, c0 = _value(row, "c1", 0.0), _value(row, "c0", 0.0)
        y1 = omega * c1 * complex(_value(row, "tan1", 0.0), 1.0)
        y0 = omega * c0 * complex(_value(row, "tan0", 0.0), 1.0)
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
        steps = int(row["tap_pos"]) - (_integer(row, "tap_nom") or 0)
        if (_integer(row, "tap_max") or 0) < (_integer(row, "tap_min") or 0):
            steps = -steps
        side, size = int(row["tap_side"]), _value(row, "tap_size", 0.0)
        rated = [float(row["u1"]), float(row["u2"])]
        taps = [1.0, 1.0]
        taps[side] = (rated[side] + steps * size) / rated[side]
        s = float(row["sn"])
        if steps and not math.isnan(float(row["uk_min"])):
            self._account.approximated.append(f"transformer {name}: short-circuit voltage of the nominal tap")
        r, size_z = float(row["pk"]) / s, float(row["uk"])
        z = complex(r, math.sqrt(max(size_z**2 - r**2, 0.0)))
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

    def _shunt(self, row: Any) -> Shunt:
        y1 = complex(_value(row, "g1", 0.0), _value(row, "b1", 0.0))
        y0 = complex(_value(row, "g0", 0.0), _value(row, "b0", 0.0))
        return Shunt(str(row["id"]), str(row["node"]), PHASES, sequence_matrix(y1, y0))

    def _load(self, kind: str, row: Any, sign: float) -> ConnectionPoint | None:
        if not int(row["status"]):
            return None
        p, q = np.nan_to_num(np.atleast_1d(row["p_specified"])), np.nan_to_num(np.atleast_1d(row["q_specified"]))
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


def _value(row: Any, key: str, default: float) -> float:
    value = float(row[key])
    return default if math.isnan(value) else value


def _integer(row: Any, key: str) -> int | None:
    value = int(row[key])
    return None if value in (-128, -(2**31)) else value
