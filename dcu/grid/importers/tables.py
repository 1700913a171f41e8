"""The form a planner can type: a folder of CSV tables with units in the column names.

Buses with the conductors L1 L2 L3 are three-wire: a cable's zero-sequence impedance holds its neutral and earth return.
Buses with L1 L2 L3 N are four-wire: every conductor has the impedance of the cable type, the neutral its own (`rn`,
`xn`, else the phases'), without mutual terms, and the neutral is earthed where `earthings.csv` says (at the
transformers, or at the source where that is four-wire itself, if that table is missing).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
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
from dcu.grid.network_file import limited
from shared.errors import ConfigError, Fault

FILE_BYTES_MAX: Final = 64 << 20

TABLES: Final = {
    "buses": (("bus", "u_nominal_v"), ("conductors", "x", "y")),
    "cables": (
        ("cable", "r_ohm_per_km", "x_ohm_per_km"),
        ("r0_ohm_per_km", "x0_ohm_per_km", "rn_ohm_per_km", "xn_ohm_per_km", "rating_a"),
    ),
    "lines": (("line", "from_bus", "to_bus", "cable", "length_m"), ("conductors",)),
    "source": (("bus", "sk_va"), ("u_v", "u_pu", "rx_ratio", "z0_ratio", "angle_deg")),
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
P_K_SHARE: Final = 0.012
"""Load losses over rating where the table is silent."""
Z0_RATIO: Final = 4.0
"""Zero- over positive-sequence impedance of a cable where the table is silent: a full-size neutral returns the sum."""
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+", re.ASCII)

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
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            hint = text.replace(",", ".") + ", with a decimal point" if _DECIMAL_COMMA.fullmatch(text) else ""
            self.fault(key, repr(text) if text else "nothing", hint or "a number, with a decimal point and no unit")
            return 1.0
        return value

    def above_0(self, key: str, default: float | None = None) -> float:
        """The same for what must be above 0."""
        value = self.number(key, default)
        if not value > 0:
            self.fault(key, self.text(key), "a number above 0")
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
            reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
            lines = [(reader.line_num, cells) for cells in reader]
        except OSError as error:
            self.faults.append(Fault(path.name, error.strerror or str(error), "a readable file"))
            return []
        except UnicodeDecodeError as error:
            self.faults.append(Fault(f"{path.name} byte {error.start}", "no UTF-8", "text in UTF-8"))
            return []
        except csv.Error as error:
            self.faults.append(Fault(path.name, str(error), "comma-separated values"))
            return []
        header = [c.strip() for c in lines[0][1]] if lines else []
        if len(header) == 1 and ";" in header[0]:
            self.faults.append(
                Fault(f"{path.name} line 1", "semicolons", "commas between cells, decimal points in them")
            )
            return []
        for twice in [c for c, count in Counter(header).items() if count > 1]:
            self.faults.append(Fault(f"{path.name} line 1", f"column {twice!r} twice", "every column once"))
        for missing in [c for c in required if c not in header]:
            self.faults.append(Fault(f"{path.name} line 1", ", ".join(header) or "nothing", f"a column {missing}"))
        for unknown in [c for c in header if c not in (*required, *optional)]:
            self.faults.append(Fault(f"{path.name} line 1", f"column {unknown!r}", ", ".join((*required, *optional))))
        if not set(required) <= set(header):
            return []
        found = []
        for number, cells in lines[1:]:
            if not any(c.strip() for c in cells):
                continue
            if len(cells) != len(header):
                comma = ", as in its header; a decimal comma is no decimal point" if len(cells) > len(header) else ""
                self.faults.append(Fault(f"{path.name} line {number}", f"{len(cells)} cells", f"{len(header)}{comma}"))
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
    z0_assumed: bool


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
    account = Account()
    for stray in sorted(p.name for p in folder.glob("*.csv") if p.stem not in TABLES):
        tables.faults.append(Fault(stray, "a table of no known name", ", ".join(f"{t}.csv" for t in TABLES)))
    buses = tables.read("buses", _bus)
    if not buses and not tables.faults:
        tables.faults.append(Fault("buses.csv", "no rows", "one row for each bus"))
    wires = {bus.id: bus.conductors for bus in buses}
    nominal = {bus.id: bus.u_nominal_v for bus in buses}
    cables: dict[str, _Cable] = {}
    tables.read("cables", lambda row: _cable(row, cables))
    lines = tables.read("lines", lambda row: _line(row, wires, cables))
    assumed = {cable for cable, kind in cables.items() if kind.z0_assumed}
    account.approximated += [f"cable {c}: no r0, x0; {Z0_RATIO:g} times r, x assumed" for c in sorted(assumed)]
    transformers = tables.read("transformers", lambda row: _transformer(row, wires, account))
    switches = tables.read("switches", lambda row: _switch(row, wires))
    earthings = tables.read("earthings", lambda row: _earthing(row, wires))
    sources = tables.read("source", lambda row: _source(row, nominal))
    points = tables.read("customers", lambda row: _customer(row, wires))
    if len(sources) != 1 and not tables.faults:
        tables.faults.append(Fault("source.csv", f"{len(sources)} rows", "one"))
    if tables.faults:
        raise ConfigError(str(folder), limited(tables.faults))
    if not (folder / "earthings.csv").is_file():
        # Without a table, the star points of four-wire buses are solidly earthed at the transformers.
        stars = {bus for bus in (t.secondary_bus for t in transformers) if Conductor.N in wires[bus]}
        stars |= {s.bus for s in sources if Conductor.N in wires[s.bus]}
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
    for kind in ("buses", "branches", "transformers", "switches", "earthings"):
        account.take(kind, len(getattr(network, kind)))
    account.take("connection points", len(points))
    return finished(str(folder), network, account)


def _bus(row: _Row) -> Bus:
    place = (row.number("x"), row.number("y")) if row.text("x") or row.text("y") else None
    return Bus(row.name("bus"), row.conductors("conductors", PHASES), row.above_0("u_nominal_v"), place)


def _cable(row: _Row, cables: dict[str, _Cable]) -> None:
    """Put the row's cable among the others."""
    name = row.name("cable")
    if name in cables:
        row.fault("cable", f"{name!r} again", "every cable once")
    z1 = complex(row.number("r_ohm_per_km"), row.number("x_ohm_per_km"))
    z0 = complex(row.number("r0_ohm_per_km", Z0_RATIO * z1.real), row.number("x0_ohm_per_km", Z0_RATIO * z1.imag))
    zn = complex(row.number("rn_ohm_per_km", z1.real), row.number("xn_ohm_per_km", z1.imag))
    rating = row.above_0("rating_a") if row.text("rating_a") else math.inf
    cables[name] = _Cable(z1, z0, zn, rating, not (row.text("r0_ohm_per_km") and row.text("x0_ohm_per_km")))


def _known(row: _Row, key: str, wires: dict[str, tuple[Conductor, ...]]) -> bool:
    """Whether the cell names a bus; where no bus could be read at all, that is said of their table only."""
    if wires and row.text(key) not in wires:
        row.fault(key, repr(row.text(key)), "a bus of buses.csv")
    return row.text(key) in wires


def _line(row: _Row, wires: dict[str, tuple[Conductor, ...]], cables: dict[str, _Cable]) -> Branch | None:
    start, end, cable = row.name("from_bus"), row.name("to_bus"), row.name("cable")
    length_km = row.number("length_m") / 1e3
    if cable not in cables:
        row.fault("cable", repr(cable), "a cable of cables.csv")
        return None
    if not length_km > 0:
        row.fault("length_m", row.text("length_m"), "a length above 0")
        return None
    if not (_known(row, "from_bus", wires) and _known(row, "to_bus", wires)):
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


def _transformer(row: _Row, wires: dict[str, tuple[Conductor, ...]], account: Account) -> Transformer | None:
    primary, secondary = row.name("primary_bus"), row.name("secondary_bus")
    s = row.above_0("s_rated_va")
    uk, pk = row.above_0("uk_percent", U_K_PERCENT) / 100, row.number("pk_w", P_K_SHARE * s) / s
    for key, value in (("uk_percent", f"{U_K_PERCENT:g} %"), ("pk_w", f"{100 * P_K_SHARE:g} % of the rating")):
        if not row.text(key):
            account.approximated.append(f"transformer {row.text('transformer')}: no {key}; {value} assumed")
    if not (_known(row, "primary_bus", wires) and _known(row, "secondary_bus", wires)):
        return None
    if row.number("s_rated_va") > 0 and not 0 <= pk <= uk:
        row.fault("pk_w", row.text("pk_w"), "load losses from 0 to uk times the rating")
        return None
    group = row.text("vector_group").lower()
    if any(letter == "y" and after != "n" for letter, after in zip(group, group[1:] + " ", strict=True)):
        expected = "yn where a star is earthed or has a neutral; an unearthed star needs the JSON form"
        row.fault("vector_group", repr(row.text("vector_group")), expected)
        return None
    star = Conductor.N if Conductor.N in wires.get(secondary, ()) else Conductor.E
    tap = 1 + row.number("tap_percent", 0.0) / 100
    try:
        coils = three_phase_coils(
            row.text("vector_group"),
            (primary, row.above_0("u_primary_v")),
            (secondary, row.above_0("u_secondary_v")),
            (tap, 1.0),
            (Conductor.E, star),
        )
    except ValueError:
        row.fault("vector_group", repr(row.text("vector_group")), "for example Dyn11, YNyn0")
        return None
    z = complex(pk, math.sqrt(max(uk**2 - pk**2, 0.0)))
    return Transformer(row.name("transformer"), coils, s / 3, matrix(np.eye(3) * z), row.text("vector_group"), s)


def _switch(row: _Row, wires: dict[str, tuple[Conductor, ...]]) -> Switch | None:
    start, end = row.name("from_bus"), row.name("to_bus")
    state = row.text("closed").lower()
    if state not in ("yes", "no", "1", "0", "true", "false"):
        row.fault("closed", repr(state), "yes or no")
        return None
    if not (_known(row, "from_bus", wires) and _known(row, "to_bus", wires)):
        return None
    shared = tuple(c for c in FOUR_WIRE if c in wires[start] and c in wires[end])
    used = row.conductors("conductors", shared)
    return Switch(row.name("switch"), start, end, used, closed=state in ("yes", "1", "true"))


def _earthing(row: _Row, wires: dict[str, tuple[Conductor, ...]]) -> Earthing | None:
    if not _known(row, "bus", wires):
        return None
    found = row.conductors("conductor", (Conductor.N,))
    if len(found) > 1:
        row.fault("conductor", repr(row.text("conductor")), "one conductor in a row")
    return Earthing(row.name("bus"), found[0], complex(row.number("r_ohm"), row.number("x_ohm", 0.0)))


def _source(row: _Row, nominal: dict[str, float]) -> Source | None:
    """The feeding network; its voltage as `u_v`, phase to neutral [V], or as `u_pu` of the bus's nominal voltage."""
    if not _known(row, "bus", dict.fromkeys(nominal, PHASES)):
        return None
    if bool(row.text("u_v")) == bool(row.text("u_pu")):
        row.fault("u_v, u_pu", "both" if row.text("u_v") else "neither", "one of them")
        return None
    u = row.above_0("u_v") if row.text("u_v") else row.above_0("u_pu") * nominal[row.text("bus")]
    s, rx = row.above_0("sk_va"), row.number("rx_ratio", 0.1)
    z1 = (math.sqrt(3) * u) ** 2 / s * complex(rx, 1.0) / math.hypot(rx, 1.0)
    z = sequence_matrix(z1, z1 * row.number("z0_ratio", 1.0))
    return balanced_source(row.name("bus"), u, z, row.number("angle_deg", 0.0))


def _customer(row: _Row, wires: dict[str, tuple[Conductor, ...]]) -> ConnectionPoint | None:
    names, bus = row.text("phases").split(), row.name("bus")
    phases = tuple(phase for name in names for phase in PHASES if phase == name)
    p, q = row.number("p_w", 0.0), row.number("q_var", 0.0)
    if not phases or len(set(phases)) < len(names):
        row.fault("phases", repr(row.text("phases")), "some of L1 L2 L3, with spaces between")
        return None
    if not _known(row, "bus", wires):
        return None
    if missing := [phase for phase in phases if phase not in wires[bus]]:
        row.fault("phases", ", ".join(missing), f"phases that bus {bus!r} has ({', '.join(wires[bus])})")
        return None
    neg = Conductor.N if Conductor.N in wires[bus] else Conductor.E
    connections = tuple(Connection(phase, neg, p / len(phases), q / len(phases)) for phase in phases)
    return ConnectionPoint(row.name("customer"), bus, connections, row.text("meter") or None)
