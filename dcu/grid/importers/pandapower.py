"""pandapower nets: with zero-sequence data as they are, without it as the decoupled phases a balanced study assumes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from dcu.grid.importers.imported import Account, Imported, finished
from dcu.grid.network import (
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

STIFF_MVA: Final = 1e5
"""Short-circuit power where the net states none."""
MAG0_PERCENT_FREE: Final = 1e5
"""A zero-sequence magnetising impedance above this share of the short-circuit one changes less than 1e-3 of it."""
_REFUSED: Final = ("trafo3w", "impedance", "dcline", "gen", "xward", "tcsc", "svc", "ssc", "vsc")
_LEFT: Final = ("ward", "storage", "motor")


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
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("_class") != "pandapowerNet":
            raise ConfigError(str(path), [Fault("file", "JSON that is no net", "a file of pandapower.to_json")])
        net = pandapower.from_json_string(text)
    except OSError as error:
        raise ConfigError(str(path), [Fault("file", error.strerror or str(error), "a readable file")]) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(str(path), [Fault("file", str(error)[:200], "a file of pandapower.to_json")]) from error
    return _Reader(str(path), net).imported()


class _Reader:
    def __init__(self, file: str, net: Any) -> None:
        self._file, self._net = file, net
        self._account = Account()
        self._faults: list[Fault] = []
        names = [None if name is None or name != name else str(name) for name in net.bus["name"]]  # noqa: PLR0124 NaN
        unique = None not in names and len(set(names)) == len(names) and all(names)
        self._bus = {i: str(name) if unique else f"bus {i}" for i, name in zip(net.bus.index, names, strict=True)}
        self._live = {i for i in net.bus.index if bool(net.bus.at[i, "in_service"])}

    def _rows(self, kind: str) -> list[Any]:
        table = getattr(self._net, kind, None)
        if table is None or not len(table):
            return []
        live = table[table["in_service"].astype(bool)] if "in_service" in table else table
        if len(live) < len(table):
            self._account.left_out.append(f"{len(table) - len(live)} {kind} out of service")
        return [row for _, row in live.iterrows()]

    def imported(self) -> Imported:
        for kind in _REFUSED:
            if rows := self._rows(kind):
                self._faults.append(
                    Fault(kind, f"{len(rows)} in service", "lines, two-winding transformers, loads, one ext_grid")
                )
        for kind in _LEFT:
            if rows := self._rows(kind):
                self._account.left_out.append(f"{len(rows)} {kind}")
        grids = self._rows("ext_grid")
        if len(grids) != 1:
            self._faults.append(Fault("ext_grid", f"{len(grids)} in service", "one"))
        open_at = self._open_elements()
        branches = tuple(self._line(row) for row in self._rows("line") if ("l", row.name) not in open_at)
        found = [self._trafo(row) for row in self._rows("trafo") if ("t", row.name) not in open_at]
        points = self._points()
        if self._faults:
            raise ConfigError(self._file, self._faults)
        network = Network(
            name=str(self._net.name or Path(self._file).stem),
            description="imported from pandapower",
            frequency_hz=float(self._net.f_hz),
            source=self._source(grids[0]),
            buses=tuple(self._bus_of(i) for i in self._net.bus.index if i in self._live),
            branches=branches,
            transformers=tuple(t for t in found if t is not None),
            switches=tuple(self._switches()),
            shunts=tuple(self._shunt(row) for row in self._rows("shunt")),
            connection_points=tuple(points),
        )
        for kind in ("buses", "branches", "transformers", "switches", "shunts"):
            self._account.take(kind, len(getattr(network, kind)))
        self._account.take("connection points", len(points))
        return finished(self._file, network, self._account)

    def _bus_of(self, i: int) -> Bus:
        place = None
        geo = self._net.bus["geo"].get(i) if "geo" in self._net.bus else None
        if isinstance(geo, str) and geo:
            x, y = json.loads(geo)["coordinates"][:2]
            place = (float(x), float(y))
        return Bus(self._bus[i], PHASES, self._u(i) / math.sqrt(3), place)

    def _u(self, i: int) -> float:
        return 1e3 * float(self._net.bus.at[i, "vn_kv"])

    def _source(self, row: Any) -> Source:
        u = self._u(int(row["bus"]))
        power = _number(row, "s_sc_max_mva")
        if math.isnan(power):
            power = STIFF_MVA
            self._account.approximated.append(f"ext_grid: no short-circuit data, {STIFF_MVA:g} MVA assumed")
        rx = _number(row, "rx_max", 0.1)
        z1 = u**2 / (power * 1e6) * complex(rx, 1.0) / math.hypot(rx, 1.0)
        x0 = z1.imag * _number(row, "x0x_max", 1.0)
        z0 = complex(x0 * _number(row, "r0x0_max", rx), x0)
        self._account.take("ext_grid")
        volts = float(row["vm_pu"]) * u / math.sqrt(3)
        return balanced_source(self._bus[int(row["bus"])], volts, sequence_matrix(z1, z0), float(row["va_degree"]))

    def _line(self, row: Any) -> Branch:
        name = f"line {row.name}"
        scale = float(row["length_km"]) / float(row.get("parallel", 1))
        z1 = complex(row["r_ohm_per_km"], row["x_ohm_per_km"])
        r0, x0 = _number(row, "r0_ohm_per_km"), _number(row, "x0_ohm_per_km")
        z0 = z1
        if math.isnan(r0) or math.isnan(x0):
            self._note("lines without zero-sequence data: phases decoupled, exact for balanced states only")
        else:
            z0 = complex(r0, x0)
        parallel = float(row.get("parallel", 1))
        omega = 2 * math.pi * float(self._net.f_hz) * 1e-9
        y1 = complex(1e-6 * _number(row, "g_us_per_km", 0.0), omega * _number(row, "c_nf_per_km", 0.0))
        y0 = complex(1e-6 * _number(row, "g0_us_per_km", 0.0), omega * _number(row, "c0_nf_per_km", y1.imag / omega))
        long = float(row["length_km"]) * parallel
        rating = 1e3 * _number(row, "max_i_ka", math.nan) * _number(row, "df", 1.0) * parallel
        return Branch(
            name,
            BranchEnd(self._bus[int(row["from_bus"])], PHASES),
            BranchEnd(self._bus[int(row["to_bus"])], PHASES),
            sequence_matrix(z1 * scale, z0 * scale),
            sequence_matrix(y1 * long, y0 * long) if y1 or y0 else None,
            (rating,) * 3 if math.isfinite(rating) and 0 < rating < 1e5 else (),
        )

    def _note(self, text: str) -> None:
        if text not in self._account.approximated:
            self._account.approximated.append(text)

    def _trafo(self, row: Any) -> Transformer | None:
        name = f"trafo {row.name}"
        parallel = float(row.get("parallel", 1))
        s = 1e6 * float(row["sn_mva"]) * parallel
        group = row.get("vector_group")
        clock = round(float(row["shift_degree"]) / 30) % 12
        if not isinstance(group, str) or not group:
            group = "YNyn" if clock % 2 == 0 else "Dyn"
            self._note(f"transformers without vector group: {group}")
        group = group.rstrip("0123456789") + str(clock)
        rated = [1e3 * float(row["vn_hv_kv"]), 1e3 * float(row["vn_lv_kv"])]
        taps = [1.0, 1.0]
        steps = _number(row, "tap_pos", 0.0) - _number(row, "tap_neutral", 0.0)
        if row.get("tap_side") in ("hv", "lv") and steps:
            taps[0 if row["tap_side"] == "hv" else 1] += steps * _number(row, "tap_step_percent", 0.0) / 100
        z1 = _short_circuit(_number(row, "vk_percent"), _number(row, "vkr_percent"))
        vk0 = _number(row, "vk0_percent")
        z0 = z1 if math.isnan(vk0) or vk0 == 0 else _short_circuit(vk0, _number(row, "vkr0_percent", 0.0))
        if _number(row, "mag0_percent", math.inf) < MAG0_PERCENT_FREE:
            self._note("transformers' zero-sequence magnetising branch (mag0_percent) is not taken")
        g = 1e3 * _number(row, "pfe_kw", 0.0) * parallel / s
        size = _number(row, "i0_percent", 0.0) / 100
        y = complex(g, -math.sqrt(max(size**2 - g**2, 0.0))) / 2
        if y:
            self._note("transformers' no-load branch: half at each side")
        try:
            coils = three_phase_coils(
                group,
                (self._bus[int(row["hv_bus"])], rated[0]),
                (self._bus[int(row["lv_bus"])], rated[1]),
                (taps[0], taps[1]),
                shunt_pu=(y, y),
            )
        except ValueError as error:
            self._faults.append(Fault(name, str(error), "a vector group of y and d windings"))
            return None
        return Transformer(name, coils, s / 3, sequence_matrix(z1, z0), group, s)

    def _open_elements(self) -> set[tuple[str, Any]]:
        found = set()
        for _, row in self._net.switch.iterrows():
            if row["et"] != "b" and not bool(row["closed"]):
                found.add((str(row["et"]), row["element"]))
                self._account.left_out.append(
                    f"{'line' if row['et'] == 'l' else 'trafo'} {row['element']}: switched off"
                )
        return found

    def _switches(self) -> list[Switch]:
        return [
            Switch(
                f"switch {i}",
                self._bus[int(row["bus"])],
                self._bus[int(row["element"])],
                PHASES,
                closed=bool(row["closed"]),
            )
            for i, row in self._net.switch.iterrows()
            if row["et"] == "b" and {int(row["bus"]), int(row["element"])} <= self._live
        ]

    def _shunt(self, row: Any) -> Shunt:
        u = 1e3 * _number(row, "vn_kv", self._u(int(row["bus"])) / 1e3)
        y = 1e6 * complex(row["p_mw"], -row["q_mvar"]) * float(row["step"]) / u**2
        return Shunt(f"shunt {row.name}", self._bus[int(row["bus"])], PHASES, matrix(np.eye(3) * y))

    def _points(self) -> list[ConnectionPoint]:
        found = []
        for kind, sign in (("load", 1.0), ("sgen", -1.0)):
            for row in self._rows(kind):
                s = 1e6 * sign * float(row["scaling"]) * complex(row["p_mw"], row["q_mvar"]) / 3
                found.append(self._point(kind, row, [s, s, s], _shares(row) if kind == "load" else Zip()))
        for kind, sign in (("asymmetric_load", 1.0), ("asymmetric_sgen", -1.0)):
            for row in self._rows(kind):
                scale = 1e6 * sign * float(row["scaling"])
                parts = [scale * complex(row[f"p_{x}_mw"], row[f"q_{x}_mvar"]) for x in "abc"]
                found.append(self._point(kind, row, parts, Zip()))
        return found

    def _point(self, kind: str, row: Any, parts: list[complex], share: Zip) -> ConnectionPoint:
        bus = int(row["bus"])
        delta = str(row.get("type", "wye")) == "delta"
        u = self._u(bus) / (1.0 if delta else math.sqrt(3))
        any_power = any(parts)
        connections = []
        for k, s in enumerate(parts):
            if s or not any_power:
                neg = PHASES[(k + 1) % 3] if delta else Conductor.E
                connections.append(Connection(PHASES[k], neg, s.real, s.imag, u, share))
        return ConnectionPoint(f"{kind} {row.name}", self._bus[bus], tuple(connections))


def _shares(row: Any) -> Zip:
    z = _number(row, "const_z_p_percent", _number(row, "const_z_percent", 0.0)) / 100
    i = _number(row, "const_i_p_percent", _number(row, "const_i_percent", 0.0)) / 100
    return Zip(z, i, 1.0 - z - i)


def _short_circuit(vk_percent: float, vkr_percent: float) -> complex:
    r, z = vkr_percent / 100, vk_percent / 100
    return complex(r, math.sqrt(max(z**2 - r**2, 0.0)))


def _number(row: Any, key: str, default: float = math.nan) -> float:
    value = row.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return default if math.isnan(number) else number
