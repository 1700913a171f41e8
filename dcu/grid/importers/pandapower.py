"""pandapower nets: with zero-sequence data as they are, without it as the decoupled phases a balanced study assumes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
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
    Coil,
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
from dcu.grid.network_file import FILE_BYTES_MAX, limited
from shared.errors import ConfigError, Fault, HeadroomError

STIFF_MVA: Final = 1e5
"""Short-circuit power where the net states none."""
VOLTAGE_FACTOR: Final = 1.1
"""c_max of IEC 60909, which pandapower's three-phase power flow puts into the impedance of the external grid."""
SWITCH_R_TO_X: Final = 2.0
"""Of a bus-bus switch with an impedance; pandapower's default."""
MAG0_PERCENT: Final = 100.0
"""Zero-sequence magnetising impedance over the short-circuit one where none is given but one is needed (Yyn)."""
HV_SHARE: Final = 0.9
"""Share of the zero-sequence short-circuit impedance on the high-voltage side where none is given."""
_REFUSED: Final = ("trafo3w", "impedance", "dcline", "gen", "xward", "tcsc", "svc", "ssc", "vsc")
_LEFT: Final = ("ward", "storage", "motor")
_GROUP: Final = re.compile(r"(yn|y|d)(yn|y|d)(\d*)")

T = TypeVar("T")


def import_pandapower(path: Path) -> Imported:
    """Read a net saved with `pandapower.to_json`.

    Raises:
        HeadroomError: pandapower is not installed.
        ConfigError: no such file, not a net, or elements this model cannot hold.
    """
    try:
        import pandapower  # noqa: PLC0415 an optional extra, slow to import
    except ImportError as error:
        raise HeadroomError("pandapower: seen nothing, expected the extra headroom[pandapower]") from error
    expected = "a file of pandapower.to_json"
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise ConfigError(str(path), [Fault("file", f"{size} bytes", f"at most {FILE_BYTES_MAX}")])
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("_class") != "pandapowerNet":
            raise ConfigError(str(path), [Fault("file", "JSON that is no net", expected)])
        net = pandapower.from_json_string(text)
        if not {"bus", "ext_grid", "switch"} <= set(net):
            raise ConfigError(str(path), [Fault("file", "a net without its tables", expected)])
    except OSError as error:
        raise ConfigError(str(path), [Fault("file", error.strerror or str(error), "a readable file")]) from error
    except (ValueError, LookupError, TypeError, AttributeError, ImportError, RecursionError, UserWarning) as error:
        raise ConfigError(str(path), [Fault("file", str(error)[:200], expected)]) from error
    return _Reader(str(path), net).imported()


class _CellError(Exception):
    """A cell that cannot be used; carries its fault."""

    def __init__(self, where: str, seen: object, expected: str) -> None:
        super().__init__(where)
        self.fault = Fault(where, str(seen), expected)


class _Reader:
    def __init__(self, file: str, net: Any) -> None:
        self._file, self._net = file, net
        self._account = Account()
        self._faults: list[Fault] = []
        names = [None if name is None or name != name else str(name) for name in net.bus["name"]]  # noqa: PLR0124 NaN
        unique = None not in names and len(set(names)) == len(names) and all(names)
        self._bus = {i: str(name) if unique else f"bus {i}" for i, name in zip(net.bus.index, names, strict=True)}
        self._live = {i for i in net.bus.index if bool(net.bus.at[i, "in_service"])}
        self._volts = {i: 1e3 * float(v) for i, v in net.bus["vn_kv"].items()}
        self._stars: dict[str, int] = {}
        self._shunts: list[Shunt] = []
        self._frequency_hz = float(net.f_hz)

    def _rows(self, kind: str) -> list[Any]:
        """Rows in service. Those at a bus out of service, which pandapower does not feed either, are left out."""
        table = getattr(self._net, kind, None)
        if table is None or not len(table):
            return []
        live = table[table["in_service"].astype(bool)] if "in_service" in table else table
        if len(live) < len(table):
            self._account.left_out.append(f"{len(table) - len(live)} {kind} out of service")
        rows = []
        dead = set(self._bus) - self._live
        keys = [key for key in ("bus", "from_bus", "to_bus", "hv_bus", "lv_bus") if key in table]
        for _, row in live.iterrows():
            if any(row[key] in dead for key in keys):
                self._account.left_out.append(f"{kind} {row.name}: at a bus out of service")
            else:
                rows.append(row)
        return rows

    def _each(self, kind: str, make: Callable[[Any], T]) -> list[T]:
        """Every live row made into its counterpart; a row with an unusable cell becomes a fault."""
        return self._made(self._rows(kind), make)

    def _made(self, rows: list[Any], make: Callable[[Any], T]) -> list[T]:
        found = []
        for row in rows:
            try:
                found.append(make(row))
            except _CellError as error:
                self._faults.append(error.fault)
        return found

    def imported(self) -> Imported:
        for kind in _REFUSED:
            if rows := self._rows(kind):
                self._faults.append(
                    Fault(kind, f"{len(rows)} in service", "lines, two-winding transformers, loads, one ext_grid")
                )
        for kind in _LEFT:
            if rows := self._rows(kind):
                self._account.left_out.append(f"{len(rows)} {kind}")
        if not 1 <= self._frequency_hz <= 1000:
            raise ConfigError(self._file, [Fault("f_hz", f"{self._frequency_hz:g}", "1 .. 1000 Hz")])
        sources = self._each("ext_grid", self._source)
        if len(sources) != 1 and not self._faults:
            self._faults.append(Fault("ext_grid", f"{len(sources)} in service", "one"))
        open_ends = self._open_ends()
        lines = self._made([row for row in self._rows("line") if not self._opened(row, open_ends)], self._line)
        trafos = self._made([row for row in self._rows("trafo") if not open_ends.get(("t", row.name))], self._trafo)
        switches, joints = self._switches()
        self._shunts += self._each("shunt", self._shunt)
        points = self._points()
        if self._faults:
            raise ConfigError(self._file, limited(self._faults))
        network = Network(
            name=str(self._net.name or Path(self._file).stem),
            description="imported from pandapower",
            frequency_hz=self._frequency_hz,
            source=sources[0],
            buses=tuple(self._bus_of(i) for i in self._net.bus.index if i in self._live),
            branches=(*lines, *joints),
            transformers=tuple(trafos),
            switches=tuple(switches),
            shunts=tuple(self._shunts),
            connection_points=tuple(points),
        )
        self._account.take("ext_grid")
        for kind in ("buses", "branches", "transformers", "switches", "shunts"):
            self._account.take(kind, len(getattr(network, kind)))
        self._account.take("connection points", len(points))
        return finished(self._file, network, self._account)

    def _bus_of(self, i: int) -> Bus:
        name = self._bus[i]
        geo = self._net.bus["geo"].get(i) if "geo" in self._net.bus else None
        place = None
        if isinstance(geo, str) and geo:
            try:
                x, y = json.loads(geo)["coordinates"][:2]
                place = (float(x), float(y))
            except (ValueError, LookupError, TypeError):
                self._account.left_out.append(f"bus {i}: geo is no GeoJSON point")
        return Bus(name, FOUR_WIRE if name in self._stars else PHASES, self._volts[i] / math.sqrt(3), place)

    def _at(self, row: Any, kind: str, key: str = "bus") -> int:
        """The index of the bus that a row names."""
        if row[key] not in self._bus:
            raise _CellError(f"{kind} {row.name} {key}", row[key], "a bus of the net")
        return int(row[key])

    def _note(self, text: str) -> None:
        if text not in self._account.approximated:
            self._account.approximated.append(text)

    def _source(self, row: Any) -> Source:
        bus = self._at(row, "ext_grid")
        u = self._volts[bus]
        power = _number(row, "s_sc_max_mva")
        lines = self._net.line
        balanced = len(lines) > 0 and ("r0_ohm_per_km" not in lines or lines["r0_ohm_per_km"].isna().all())
        if balanced and not math.isnan(power):
            power = STIFF_MVA
            self._note("ext_grid: stiff, as pandapower's balanced power flow has it; short-circuit data not taken")
        elif math.isnan(power):
            power = STIFF_MVA
            self._note(f"ext_grid: no short-circuit data, {STIFF_MVA:g} MVA assumed")
        else:
            self._note(
                "ext_grid: vm_pu stands behind the short-circuit impedance, where pandapower holds it at the bus"
            )
        if not power > 0:
            raise _CellError(f"ext_grid {row.name} s_sc_max_mva", f"{power:g}", "above 0")
        rx = _number(row, "rx_max", 0.1)
        z1 = VOLTAGE_FACTOR * u**2 / (power * 1e6) * complex(rx, 1.0) / math.hypot(rx, 1.0)
        x0 = z1.imag * _number(row, "x0x_max", 1.0)
        z0 = complex(x0 * _number(row, "r0x0_max", rx), x0)
        volts = _must(row, "ext_grid", "vm_pu") * u / math.sqrt(3)
        return balanced_source(self._bus[bus], volts, sequence_matrix(z1, z0), _number(row, "va_degree", 0.0))

    def _line_data(self, row: Any) -> tuple[tuple[complex, complex], tuple[complex, complex]]:
        """Series impedance [ohm] and shunt admittance [S] of the whole line, each positive and zero sequence."""
        parallel = _must(row, "line", "parallel", 1.0)
        scale = _must(row, "line", "length_km") / parallel
        z1 = complex(_must(row, "line", "r_ohm_per_km", low=0.0), _must(row, "line", "x_ohm_per_km", low=None))
        z0 = complex(_number(row, "r0_ohm_per_km"), _number(row, "x0_ohm_per_km"))
        if math.isnan(z0.real) or math.isnan(z0.imag):
            self._note("lines without zero-sequence data: phases decoupled, exact for balanced states only")
            z0 = z1
        omega = 2 * math.pi * self._frequency_hz * 1e-9
        c1 = _number(row, "c_nf_per_km", 0.0)
        y1 = complex(1e-6 * _number(row, "g_us_per_km", 0.0), omega * c1)
        y0 = complex(1e-6 * _number(row, "g0_us_per_km", 0.0), omega * _number(row, "c0_nf_per_km", c1))
        long = scale * parallel**2
        return (z1 * scale, z0 * scale), (y1 * long, y0 * long)

    def _line(self, row: Any) -> Branch:
        (z1, z0), (y1, y0) = self._line_data(row)
        rating = 1e3 * _number(row, "max_i_ka") * _number(row, "df", 1.0) * _number(row, "parallel", 1.0)
        return Branch(
            f"line {row.name}",
            BranchEnd(self._bus[self._at(row, "line", "from_bus")], PHASES),
            BranchEnd(self._bus[self._at(row, "line", "to_bus")], PHASES),
            sequence_matrix(z1, z0),
            sequence_matrix(y1, y0) if y1 or y0 else None,
            (rating,) * 3 if math.isfinite(rating) and 0 < rating < 1e5 else (),
        )

    def _open_ends(self) -> dict[tuple[str, Any], set[Any]]:
        """Buses at which an open switch cuts a line or transformer off."""
        found: dict[tuple[str, Any], set[Any]] = {}
        for _, row in self._net.switch.iterrows():
            if row["et"] in ("l", "t") and not bool(row["closed"]):
                found.setdefault((str(row["et"]), row["element"]), set()).add(row["bus"])
        for kind, element in found:
            self._account.left_out.append(f"{'line' if kind == 'l' else 'trafo'} {element}: switched off")
        return found

    def _opened(self, row: Any, open_ends: dict[tuple[str, Any], set[Any]]) -> bool:
        """Whether the line is switched off; what one still fed end sees of its capacitance stays as a shunt."""
        cut = open_ends.get(("l", row.name))
        if not cut:
            return False
        ends = [key for key in ("from_bus", "to_bus") if row[key] not in cut]
        if len(ends) == 1:
            try:
                z, y = self._line_data(row)
                bus = self._bus[self._at(row, "line", ends[0])]
            except _CellError as error:
                self._faults.append(error.fault)
                return True
            seen = [_open_line(z_s, y_s) for z_s, y_s in zip(z, y, strict=True)]
            if any(seen):
                self._shunts.append(Shunt(f"line {row.name} open", bus, PHASES, sequence_matrix(seen[0], seen[1])))
        return True

    def _trafo(self, row: Any) -> Transformer:
        name = f"trafo {row.name}"
        s = 1e6 * _must(row, "trafo", "sn_mva") * _must(row, "trafo", "parallel", 1.0)
        buses = (self._bus[self._at(row, "trafo", "hv_bus")], self._bus[self._at(row, "trafo", "lv_bus")])
        taps = self._taps(row)
        rated = (1e3 * _must(row, "trafo", "vn_hv_kv"), 1e3 * _must(row, "trafo", "vn_lv_kv"))
        windings, clock = self._group(row)
        g = 1e3 * _number(row, "pfe_kw", 0.0) * _number(row, "parallel", 1.0) / s
        y = complex(g, -math.sqrt(max((_number(row, "i0_percent", 0.0) / 100) ** 2 - g**2, 0.0))) / 2
        if y:
            self._note("transformers' no-load branch: half at each side")
        z1 = _short_circuit(row, "vk_percent", "vkr_percent")
        z0, y0 = self._zero_sequence(row, windings, z1)
        stars = tuple(self._star(bus, kind) for bus, kind in zip(buses, windings, strict=True))
        shunt_pu = (y / taps[0] ** 2, y / taps[1] ** 2)
        coils: tuple[Coil, ...] = three_phase_coils(
            f"{''.join(windings)}{clock}",
            (buses[0], rated[0]),
            (buses[1], rated[1]),
            taps,
            (stars[0], stars[1]),
            shunt_pu,
        )
        for side, y_pu in enumerate(y0):
            if y_pu:
                y_s = y_pu * s / (rated[side] * taps[side]) ** 2
                label = f"{name} zero sequence {'hv' if side == 0 else 'lv'}"
                self._shunts.append(Shunt(label, buses[side], PHASES, sequence_matrix(0j, y_s)))
        return Transformer(name, coils, s / 3, sequence_matrix(z1, z0), f"{windings[0].upper()}{windings[1]}{clock}", s)

    def _group(self, row: Any) -> tuple[tuple[str, str], int]:
        """Kinds of the windings, for example `("d", "yn")`, and a clock number that they can give."""
        where = f"trafo {row.name}"
        shift = _must(row, "trafo", "shift_degree", 0.0, low=None)
        clock = round(shift / 30) % 12
        text = row.get("vector_group")
        if not isinstance(text, str) or not text:
            text = "YNyn" if clock % 2 == 0 else "Dyn"
            self._note(f"transformers without vector group: {text}")
        match = _GROUP.fullmatch(text.strip().lower())
        if match is None:
            raise _CellError(f"{where} vector_group", repr(text), "windings Y, YN or D and y, yn or d")
        windings = (match[1], match[2])
        if clock % 2 != (windings[0] == "d") ^ (windings[1] == "d"):
            digits = int(match[3] or -1)
            clock = digits if digits >= 0 and digits % 2 != clock % 2 else (clock - 1) % 12
        if not math.isclose((shift - 30 * clock + 180) % 360, 180, abs_tol=1e-6):
            self._note(
                f"{where}: shift_degree {shift:g} is not one of {text} windings, {30 * clock} taken: angles turn"
            )
        return windings, clock % 12

    def _taps(self, row: Any) -> tuple[float, float]:
        """Present over rated turns of each side. A tap changer of no type is ignored, as pandapower does."""
        taps = [1.0, 1.0]
        for changer in ("tap", "tap2"):
            steps = _number(row, f"{changer}_pos", 0.0) - _number(row, f"{changer}_neutral", 0.0)
            side = row.get(f"{changer}_side")
            if not steps or side not in ("hv", "lv"):
                continue
            where = f"trafo {row.name} {changer}"
            if f"{changer}_changer_type" in row and row[f"{changer}_changer_type"] not in (
                "Ratio",
                "Symmetrical",
                "Ideal",
            ):
                self._note(f"{where}: no tap_changer_type, so that its position counts for nothing, as in pandapower")
                continue
            if _number(row, f"{changer}_step_degree", 0.0) or row.get(f"{changer}_changer_type") == "Ideal":
                raise _CellError(where, f"a phase shifter off its neutral position by {steps:g} steps", "a ratio only")
            if (
                bool(row.get("tap_dependency_table", False))
                and row["tap_dependency_table"] == row["tap_dependency_table"]
            ):
                self._note(f"{where}: the table of tap-dependent values is not read")
            taps[0 if side == "hv" else 1] *= 1 + steps * _number(row, f"{changer}_step_percent", 0.0) / 100
        return taps[0], taps[1]

    def _zero_sequence(
        self, row: Any, windings: tuple[str, str], z1: complex
    ) -> tuple[complex, tuple[complex, complex]]:
        """Zero-sequence series impedance of the coils and shunts at their two buses [pu], from the T of short-circuit
        impedance and magnetising branch; a delta winding closes its side of the T, an unearthed star opens it."""
        vk0 = _number(row, "vk0_percent", 0.0)
        if vk0:
            z0 = _short_circuit(
                row, "vk0_percent", "vkr0_percent" if _number(row, "vkr0_percent", 0.0) else "vkr_percent"
            )
        else:
            self._note("transformers without vk0_percent: zero-sequence impedance as the positive one")
            z0 = z1
        percent = _number(row, "mag0_percent", 0.0)
        unearthed = {windings} & {("y", "yn"), ("yn", "y")}
        if not percent and not unearthed:
            return z0, (0j, 0j)
        if not percent:
            self._note(f"transformers Yyn without mag0_percent: {MAG0_PERCENT:g} assumed")
        rx = _number(row, "mag0_rx", 0.0)
        z3 = abs(z0) * (percent or MAG0_PERCENT) / 100 * complex(rx, 1.0) / math.hypot(rx, 1.0)
        share = _number(row, "si0_hv_partial", HV_SHARE)
        hv, lv = share * z0, (1 - share) * z0
        total = hv * lv + lv * z3 + hv * z3
        if windings == ("yn", "yn"):
            return total / z3, (lv / total, hv / total)
        if windings == ("d", "yn"):
            return total / (hv + z3), (0j, 0j)
        if windings == ("yn", "d"):
            return total / (lv + z3), (0j, 0j)
        return z0, (1 / (hv + z3) if windings == ("yn", "y") else 0j, 1 / (lv + z3) if windings == ("y", "yn") else 0j)

    def _star(self, bus: str, kind: str) -> Conductor:
        """An unearthed star point becomes the bus's N conductor, which nothing else is joined to."""
        if kind != "y":
            return Conductor.E
        self._stars[bus] = self._stars.get(bus, 0) + 1
        if self._stars[bus] > 1:
            self._note(f"{bus}: its unearthed star points are taken as one")
        return Conductor.N

    def _switches(self) -> tuple[list[Switch], list[Branch]]:
        """Bus-bus switches; a closed one with an impedance is a branch."""
        switches, joints = [], []
        for i, row in self._net.switch.iterrows():
            if row["et"] != "b":
                continue
            if not {row["bus"], row["element"]} <= self._live:
                self._account.left_out.append(f"switch {i}: at a bus that is none or out of service")
                continue
            name, ends = f"switch {i}", (self._bus[row["bus"]], self._bus[row["element"]])
            size = _number(row, "z_ohm", 0.0)
            if bool(row["closed"]) and size > 0:
                z = size * complex(SWITCH_R_TO_X, 1.0) / math.hypot(SWITCH_R_TO_X, 1.0)
                self._note(f"switches with z_ohm: branches of R/X {SWITCH_R_TO_X:g}")
                joints.append(
                    Branch(name, BranchEnd(ends[0], PHASES), BranchEnd(ends[1], PHASES), sequence_matrix(z, z))
                )
            else:
                switches.append(Switch(name, *ends, PHASES, closed=bool(row["closed"])))
        return switches, joints

    def _shunt(self, row: Any) -> Shunt:
        bus = self._at(row, "shunt")
        u = 1e3 * _must(row, "shunt", "vn_kv", self._volts[bus] / 1e3)
        y = 1e6 * complex(_number(row, "p_mw", 0.0), -_number(row, "q_mvar", 0.0)) * _number(row, "step", 1.0) / u**2
        return Shunt(f"shunt {row.name}", self._bus[bus], PHASES, matrix(np.eye(3) * y))

    def _points(self) -> list[ConnectionPoint]:
        found = []
        for kind, sign in (("load", 1.0), ("sgen", -1.0), ("asymmetric_load", 1.0), ("asymmetric_sgen", -1.0)):

            def make(row: Any, kind: str = kind, sign: float = sign) -> ConnectionPoint:
                return self._point(kind, row, sign)

            found += self._each(kind, make)
        return found

    def _point(self, kind: str, row: Any, sign: float) -> ConnectionPoint:
        bus = self._at(row, kind)
        scale = 1e6 * sign * _must(row, kind, "scaling", 1.0, low=0.0)
        if kind.startswith("asymmetric"):
            parts = [scale * complex(_number(row, f"p_{x}_mw", 0.0), _number(row, f"q_{x}_mvar", 0.0)) for x in "abc"]
        else:
            parts = [scale * complex(_must(row, kind, "p_mw", low=None), _number(row, "q_mvar", 0.0)) / 3] * 3
        share = self._shares(row) if kind == "load" else Zip()
        delta = str(row.get("type", "wye")) == "delta"
        u = self._volts[bus] / (1.0 if delta else math.sqrt(3))
        any_power = any(parts)
        connections = []
        for k, s in enumerate(parts):
            if s or not any_power:
                neg = PHASES[(k + 1) % 3] if delta else Conductor.E
                connections.append(Connection(PHASES[k], neg, s.real, s.imag, u, share))
        return ConnectionPoint(f"{kind} {row.name}", self._bus[bus], tuple(connections))

    def _shares(self, row: Any) -> Zip:
        """Shares of a load; files older than pandapower 3 have one for active and reactive power."""
        z, i = (_number(row, f"const_{x}_p_percent", _number(row, f"const_{x}_percent", 0.0)) / 100 for x in "zi")
        z_q, i_q = (_number(row, f"const_{x}_q_percent", 100 * own) / 100 for x, own in (("z", z), ("i", i)))
        if (z, i) != (z_q, i_q) and _number(row, "q_mvar", 0.0):
            self._note(f"load {row.name}: reactive power has the ZIP shares of the active power")
        return Zip(z, i, 1.0 - z - i)


def _open_line(z: complex, y: complex) -> complex:
    """What one end sees of a line of series impedance `z` [ohm] and shunt admittance `y` [S], open at its other [S]."""
    return y / 2 + (1 / (z + 2 / y) if y else 0)


def _short_circuit(row: Any, key: str, key_r: str) -> complex:
    r, z = _number(row, key_r, 0.0) / 100, _must(row, "trafo", key) / 100
    if r > z:
        raise _CellError(f"trafo {row.name} {key_r}", f"{100 * r:g}", f"at most {key}, {100 * z:g}")
    return complex(r, math.sqrt(z**2 - r**2))


def _number(row: Any, key: str, default: float = math.nan) -> float:
    value = row.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return default if math.isnan(number) else number


def _must(row: Any, kind: str, key: str, default: float = math.nan, low: float | None = math.ulp(0.0)) -> float:
    """The finite number in a cell, at least `low`: above 0 unless told otherwise."""
    number = _number(row, key) if key in row else default
    if not math.isfinite(number) or (low is not None and number < low):
        expected = "a number" if low is None else "a number from 0" if low == 0 else "a number above 0"
        raise _CellError(f"{kind} {row.name} {key}", row.get(key, "nothing"), expected)
    return number
