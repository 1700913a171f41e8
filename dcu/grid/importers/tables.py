"""The form a planner can type: a folder of CSV tables with units in the column names.

Buses with the conductors L1 L2 L3 are three-wire: a cable's zero-sequence impedance holds its neutral and earth return.
Buses with L1 L2 L3 N are four-wire: every conductor has the impedance of the cable type, the neutral its own (`rn`,
`xn`, else the phases'), without mutual terms, and the neutral is earthed where `earthings.csv` says (at the transformer
if that table is missing).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from dcu.grid.importers.imported import Account, Imported, finished
from dcu.grid.network import (
    FOUR_WIRE,
    PHASES,
    Branch,
    BranchEnd,
    Bus,
    ComplexMatrix,
    Conductor,
    Connection,
    ConnectionPoint,
    Earthing,
    Network,
    Source,
    Switch,
    Transformer,
    balanced_source,
    matrix,
    sequence_matrix,
    three_phase_coils,
)
from shared.errors import ConfigError, Fault

FILE_BYTES_MAX: Final = 64 << 20

TABLES: Final = {
    "buses": (("bus", "u_nominal_v"), ("conductors", "x", "y")),
    "cables": (
        ("cable", "r_ohm_per_km", "x_ohm_per_km"),
        ("r0_ohm_per_km", "x0_ohm_per_km", "rn_ohm_per_km", "xn_ohm_per_km", "rating_a"),
    ),
    "lines": (("line", "from_bus", "to_bus", "cable", "length_m"), ("conductors",)),
    "source": (("bus", "u_v", "sk_va"), ("rx_ratio", "z0_ratio", "angle_deg")),
    "customers": (("customer", "bus", "phases"), ("meter", "p_w", "q_var")),
    "transformers": (
        ("transformer", "primary_bus", "secondary_bus", "vector_group", "s_rated_va", "u_primary_v", "u_secondary_v"),
        ("uk_percent", "pk_w", "tap_percent"),
    ),
    "switches": (("switch", "from_bus", "to_bus", "closed"), ("conductors",)),
    "earthings": (("bus", "conductor", "r_ohm"), ("x_ohm",)),
}
"""Table: required and optional columns."""
OPTIONAL: Final = frozenset({"transformers", "switches", "earthings"})
U_K_PERCENT: Final = 4.0
"""Short-circuit voltage of a distribution transformer where the table is silent."""

T = TypeVar("T")


@dataclass(slots=True)
class _Row:
    """One line of a table; reading a wrong cell adds a fault and gives a stand-in."""

    where: str
    cells: dict[str, str]
    faults: list[Fault]

    def text(self, key: str, default: str = "") -> str:
        return self.cells.get(key, "").strip() or default

    def name(self, key: str) -> str:
        value = self.text(key)
        if not value:
            self.fault(key, "nothing", "a name")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        text = self.text(key)
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.fault(key, repr(text), "a number, with a decimal point and no unit")
            return 1.0
        return value

    def conductors(self, key: str, default: tuple[Conductor, ...]) -> tuple[Conductor, ...]:
        names = self.text(key).split()
        if not names:
            return default
        try:
            found = tuple(Conductor(n) for n in names)
        except ValueError:
            found = ()
        if not found or Conductor.E in found or len(set(found)) < len(found):
            self.fault(key, repr(self.text(key)), "some of L1 L2 L3 N, with spaces between")
            return default
        return found

    def fault(self, key: str, seen: str, expected: str) -> None:
        self.faults.append(Fault(f"{self.where} {key}", seen, expected))


@dataclass(slots=True)
class _Tables:
    folder: Path
    faults: list[Fault] = field(default_factory=list)

    def read(self, table: str, each: Callable[[_Row], T | None]) -> list[T]:
        """Every row of a table through `each`."""
        path = self.folder / f"{table}.csv"
        required, optional = TABLES[table]
        if not path.is_file():
            if table not in OPTIONAL:
                self.faults.append(Fault(path.name, "nothing", f"a table with {', '.join(required)}"))
            return []
        if path.stat().st_size > FILE_BYTES_MAX:
            self.faults.append(Fault(path.name, f"{path.stat().st_size} bytes", f"at most {FILE_BYTES_MAX}"))
            return []
        try:
            lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True))
        except UnicodeDecodeError as error:
            self.faults.append(Fault(f"{path.name} byte {error.start}", "no UTF-8", "text in UTF-8"))
            return []
        except csv.Error as error:
            self.faults.append(Fault(path.name, str(error), "comma-separated values"))
            return []
        header = [c.strip() for c in lines[0]] if lines else []
        for missing in [c for c in required if c not in header]:
            self.faults.append(Fault(f"{path.name} line 1", ", ".join(header) or "nothing", f"a column {missing}"))
        for unknown in [c for c in header if c not in (*required, *optional)]:
            self.faults.append(Fault(f"{path.name} line 1", f"column {unknown!r}", ", ".join((*required, *optional))))
        if self.faults and not set(required) <= set(header):
            return []
        found = []
        for number, cells in enumerate(lines[1:], 2):
            if not any(c.strip() for c in cells):
                continue
            if len(cells) != len(header):
                self.faults.append(Fault(f"{path.name} line {number}", f"{len(cells)} cells", f"{len(header)}"))
                continue
            item = each(_Row(f"{path.name} line {number}", dict(zip(header, cells, strict=True)), self.faults))
            if item is not None:
                found.append(item)
        return found


@dataclass(frozen=True, slots=True)
class _Cable:
    z1: complex
    z0: complex
    zn: complex
    rating_a: float


def import_tables(folder: Path) -> Imported:
    """Read a folder of tables.

    Raises:
        ConfigError: no such folder, or any wrong cell; names file, line and column of every one.
    """
    if not folder.is_dir():
        raise ConfigError(
            str(folder), [Fault("folder", "nothing", "a folder with " + ", ".join(f"{t}.csv" for t in TABLES))]
        )
    tables = _Tables(folder)
    buses = tables.read("buses", _bus)
    wires = {bus.id: bus.conductors for bus in buses}
    cables = dict(tables.read("cables", _cable))
    lines = tables.read("lines", lambda row: _line(row, wires, cables))
    transformers = tables.read("transformers", lambda row: _transformer(row, wires))
    switches = tables.read("switches", lambda row: _switch(row, wires))
    earthings = tables.read("earthings", _earthing)
    sources = tables.read("source", _source)
    points = tables.read("customers", lambda row: _customer(row, wires))
    if len(sources) != 1 and not tables.faults:
        tables.faults.append(Fault("source.csv", f"{len(sources)} rows", "one"))
    if tables.faults:
        raise ConfigError(str(folder), tables.faults[:200])
    account = Account()
    if not (folder / "earthings.csv").is_file():
        # Without a table, the star points of four-wire buses are solidly earthed at the transformers.
        stars = {t.secondary_bus for t in transformers if Conductor.N in wires.get(t.secondary_bus, ())}
        earthings = [Earthing(bus, Conductor.N, 0j) for bus in sorted(stars)]
        account.approximated += [f"neutral earthed solidly at {bus}" for bus in sorted(stars)]
    network = Network(
        name=folder.resolve().name,
        description="typed as tables",
        source=sources[0],
        buses=tuple(buses),
        branches=tuple(lines),
        transformers=tuple(transformers),
        switches=tuple(switches),
        earthings=tuple(earthings),
        connection_points=tuple(points),
    )
    for kind in ("buses", "branches", "transformers", "switches"):
        account.take(kind, len(getattr(network, kind)))
    account.take("connection points", len(points))
    return finished(str(folder), network, account)


def _bus(row: _Row) -> Bus:
    place = (row.number("x"), row.number("y")) if row.text("x") and row.text("y") else None
    return Bus(row.name("bus"), row.conductors("conductors", PHASES), row.number("u_nominal_v"), place)


def _cable(row: _Row) -> tuple[str, _Cable]:
    z1 = complex(row.number("r_ohm_per_km"), row.number("x_ohm_per_km"))
    z0 = complex(row.number("r0_ohm_per_km", 4 * z1.real), row.number("x0_ohm_per_km", 4 * z1.imag))
    zn = complex(row.number("rn_ohm_per_km", z1.real), row.number("xn_ohm_per_km", z1.imag))
    return row.name("cable"), _Cable(z1, z0, zn, row.number("rating_a", math.inf) if row.text("rating_a") else math.inf)


def _line(row: _Row, wires: dict[str, tuple[Conductor, ...]], cables: dict[str, _Cable]) -> Branch | None:
    start, end, cable = row.name("from_bus"), row.name("to_bus"), row.name("cable")
    length_km = row.number("length_m") / 1e3
    if cable not in cables:
        row.fault("cable", repr(cable), "a cable of cables.csv")
        return None
    if not length_km > 0:
        row.fault("length_m", row.text("length_m"), "a length above 0")
        return None
    if start not in wires or end not in wires:
        row.fault("from_bus, to_bus", f"{start!r}, {end!r}", "buses of buses.csv")
        return None
    shared = tuple(c for c in FOUR_WIRE if c in wires[start] and c in wires[end])
    used = row.conductors("conductors", shared)
    kind = cables[cable]
    rating = (kind.rating_a,) * len(used) if math.isfinite(kind.rating_a) else ()
    z = _z(kind, used) * length_km
    return Branch(row.name("line"), BranchEnd(start, used), BranchEnd(end, used), matrix(z), None, rating)


def _z(kind: _Cable, used: tuple[Conductor, ...]) -> ComplexMatrix:
    if Conductor.N in used:
        return matrix(np.diag([kind.zn if c is Conductor.N else kind.z1 for c in used]))
    return sequence_matrix(kind.z1, kind.z0, len(used)) if len(used) == len(PHASES) else _part(kind, len(used))


def _part(kind: _Cable, count: int) -> ComplexMatrix:
    return matrix(sequence_matrix(kind.z1, kind.z0)[:count, :count])


def _transformer(row: _Row, wires: dict[str, tuple[Conductor, ...]]) -> Transformer | None:
    primary, secondary = row.name("primary_bus"), row.name("secondary_bus")
    s = row.number("s_rated_va")
    uk, pk = row.number("uk_percent", U_K_PERCENT) / 100, row.number("pk_w", 0.012 * s) / s
    if pk > uk:
        row.fault("pk_w", row.text("pk_w"), "load losses below uk times the rating")
        return None
    star = Conductor.N if Conductor.N in wires.get(secondary, ()) else Conductor.E
    tap = 1 + row.number("tap_percent", 0.0) / 100
    try:
        coils = three_phase_coils(
            row.text("vector_group"),
            (primary, row.number("u_primary_v")),
            (secondary, row.number("u_secondary_v")),
            (tap, 1.0),
            (Conductor.E, star),
        )
    except ValueError:
        row.fault("vector_group", repr(row.text("vector_group")), "for example Dyn11, YNyn0")
        return None
    z = complex(pk, math.sqrt(uk**2 - pk**2))
    return Transformer(row.name("transformer"), coils, s / 3, matrix(np.eye(3) * z), row.text("vector_group"), s)


def _switch(row: _Row, wires: dict[str, tuple[Conductor, ...]]) -> Switch | None:
    start, end = row.name("from_bus"), row.name("to_bus")
    state = row.text("closed").lower()
    if state not in ("yes", "no", "1", "0", "true", "false"):
        row.fault("closed", repr(state), "yes or no")
        return None
    shared = tuple(c for c in FOUR_WIRE if c in wires.get(start, ()) and c in wires.get(end, ()))
    used = row.conductors("conductors", shared)
    return Switch(row.name("switch"), start, end, used, closed=state in ("yes", "1", "true"))


def _earthing(row: _Row) -> Earthing | None:
    found = row.conductors("conductor", (Conductor.N,))
    return Earthing(row.name("bus"), found[0], complex(row.number("r_ohm"), row.number("x_ohm", 0.0)))


def _source(row: _Row) -> Source:
    u, s, rx = row.number("u_v"), row.number("sk_va"), row.number("rx_ratio", 0.1)
    if not (u > 0 and s > 0):
        row.fault("u_v, sk_va", f"{u:g}, {s:g}", "numbers above 0")
        u, s = 1.0, 1.0
    z1 = (math.sqrt(3) * u) ** 2 / s * complex(rx, 1.0) / math.hypot(rx, 1.0)
    z = sequence_matrix(z1, z1 * row.number("z0_ratio", 1.0))
    return balanced_source(row.name("bus"), u, z, row.number("angle_deg", 0.0))


def _customer(row: _Row, wires: dict[str, tuple[Conductor, ...]]) -> ConnectionPoint | None:
    phases = row.conductors("phases", ())
    bus = row.name("bus")
    if not phases or Conductor.N in phases:
        row.fault("phases", repr(row.text("phases")), "some of L1 L2 L3")
        return None
    neg = Conductor.N if Conductor.N in wires.get(bus, ()) else Conductor.E
    p, q = row.number("p_w", 0.0) / len(phases), row.number("q_var", 0.0) / len(phases)
    connections = tuple(Connection(phase, neg, p, q) for phase in phases)
    return ConnectionPoint(row.name("customer"), bus, connections, row.text("meter") or None)
