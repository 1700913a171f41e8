"""OpenDSS scripts, read by the OpenDSS engine itself: what it made of the script is taken, not the text.

Lines, capacitors and reactors come from the engine's primitive admittance matrices, whatever they were described by
(linecode, geometry, sequence values). Transformers become coils by OpenDSS's own convention, fitted to the engine's
matrix and checked against it. Loads and generators become connection points, their shapes profiles.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.check import IMPEDANCE_OHM, UNIT_RATIO_MAX, Joined
from dcu.grid.importers.imported import Account, Imported, Profiles, finished
from dcu.grid.network import (
    BUSES_MAX,
    CONSTANT_POWER,
    FOUR_WIRE,
    ROTATION,
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
    Node,
    Shunt,
    Source,
    Switch,
    Transformer,
    Zip,
    matrix,
)
from dcu.grid.network_file import limited
from shared.errors import ConfigError, Fault, HeadroomError

PROFILE_VALUES_MAX: Final = 50_000_000
"""Steps times ports of the profiles; a year of minutes for a hundred customers is about that."""
COIL_MISMATCH_MAX: Final = 1e-6
"""Relative; the engine's transformer matrix and that of our coils agree to rounding, or the account says so."""
NOISE: Final = 1e-11
"""Relative to the series admittance; a smaller shunt is what rounding leaves of none."""
BASE_RATIO_MAX: Final = 1.2
"""A bus's voltage base is believed if it is that near to what source and transformers give."""
DEFAULT_RATING_A: Final = 400.0
"""OpenDSS gives this rating to lines that have none."""

_WIRES: Final = {0: Conductor.E, 1: Conductor.L1, 2: Conductor.L2, 3: Conductor.L3, 4: Conductor.N}
_LOAD_MODELS: Final = {1: CONSTANT_POWER, 2: Zip(1.0, 0.0, 0.0), 5: Zip(0.0, 1.0, 0.0)}
_GENERATOR_MODELS: Final = {1: CONSTANT_POWER, 2: Zip(1.0, 0.0, 0.0)}
_CONTROLS: Final = {
    "regcontrol": "regulators are frozen at their present taps",
    "capcontrol": "capacitors are frozen at their present steps",
    "swtcontrol": "switches stay as they are",
    "relay": "its breaker stays as it is",
    "recloser": "its breaker stays as it is",
    "fuse": "it never blows",
}
_OBSERVERS: Final = {"monitor", "energymeter", "sensor"}
_MADE_OF_OTHERS: Final = {"autotrans": "an autotransformer", "gictransformer": "a GIC transformer"}


def import_opendss(path: Path) -> Imported:
    """The feeder that the script describes, switched, tapped and loaded as the script leaves it.

    The script runs as OpenDSS scripts do, and may itself write files; it changes no directory and opens no window.

    Raises:
        HeadroomError: the engine is not installed.
        ConfigError: no such file, a script that the engine refuses, or a feeder that has no counterpart here.
    """
    engine = _compiled(path)
    account = Account()
    reader = _Reader(engine, account)
    network = reader.network(path)
    if reader.faults:
        raise ConfigError(str(path), limited(reader.faults))
    return finished(str(path), network, account, reader.profiles(network))


def _compiled(path: Path) -> Any:
    """A context of the engine that has read the script."""
    try:
        from dss import DSS, DSSException  # noqa: PLC0415  (an extra; the other importers do without)
    except ImportError as error:
        raise HeadroomError("OpenDSS: the engine is not installed; install the extra headroom[opendss]") from error
    if not path.is_file() or '"' in str(path):
        raise ConfigError(str(path), [Fault("file", "no such file", "a readable OpenDSS script")])
    engine = DSS.NewContext()
    engine.AllowChangeDir = False
    engine.AllowForms = False
    engine.AllowEditor = False
    try:
        engine.Text.Command = f'compile "{path.resolve()}"'
        if engine.NumCircuits == 0:
            raise ConfigError(str(path), [Fault("file", "no circuit", "a script with `new circuit`")])
        for name in engine.ActiveCircuit.Transformers.AllNames:
            if name.lower() != "none":
                engine.Text.Command = f'transformer."{name}".ppm_antifloat=0'
        engine.ActiveCircuit.Solution.BuildYMatrix(2, 0)
    except DSSException as error:
        raise ConfigError(str(path), [_engine_fault(error)]) from error
    return engine


def _engine_fault(error: Exception) -> Fault:
    message = str(error.args[-1])
    place = re.search(r'\[file: "([^"]*)", line: (\d+)\]', message)
    where = f"{Path(place[1]).name}, line {place[2]}" if place else "file"
    text = " ".join(message.split("[file:", maxsplit=1)[0].split())
    return Fault(where, f"OpenDSS's error {text!r}", "a script that OpenDSS accepts")


@dataclass(frozen=True, slots=True, eq=False)
class _Element:
    """A circuit element as the engine holds it: node numbers of each terminal, primitive admittance matrix [S]."""

    kind: str
    name: str
    buses: tuple[str, ...]
    nodes: tuple[tuple[int, ...], ...]
    phases: int
    y: ComplexMatrix
    open_ends: tuple[tuple[bool, ...], ...]
    rating_a: float

    @property
    def where(self) -> str:
        return f"{self.kind}.{self.name}"

    @property
    def fully_open(self) -> bool:
        """Whether one terminal is open in all phases, so that no current flows through."""
        return any(all(end[: self.phases]) for end in self.open_ends)

    @property
    def partly_open(self) -> bool:
        return any(any(end[: self.phases]) for end in self.open_ends)


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """Multipliers over time; `hours` is the interval, or the times where they are uneven [h]."""

    hours: float | NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64] | None
    actual: bool

    @property
    def step_h(self) -> float:
        return self.hours if isinstance(self.hours, float) else float(np.diff(self.hours).min(initial=1.0))

    @property
    def end_h(self) -> float:
        return self.hours * len(self.p) if isinstance(self.hours, float) else float(self.hours[-1])

    def at(self, values: NDArray[np.float64], hours: NDArray[np.float64]) -> NDArray[np.float64]:
        """As the engine looks it up: the nearest point of an even shape, repeated; the line through an uneven one."""
        if not isinstance(self.hours, float):
            return np.interp(hours, self.hours, values)
        return values[(np.rint(hours / self.hours).astype(np.int64) - 1) % len(values)]


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """What one customer draws in all phases [W, var], and the shape that it follows; `factor` is the global one."""

    p_w: float
    q_var: float
    factor: float
    sign: float
    shape: _Shape | None

    def over(self, hours: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Power at each of the hours [W, var]."""
        shape, one = self.shape, np.ones_like(hours)
        if shape is None:
            return self.factor * self.p_w * one, self.factor * self.q_var * one
        p = shape.at(shape.p, hours)
        q = p if shape.q is None else shape.at(shape.q, hours)
        if not shape.actual:
            return self.factor * self.p_w * p, self.factor * self.q_var * q
        if shape.q is None:
            q = p * (self.q_var / self.p_w if self.p_w else 0.0)
        return 1e3 * self.sign * p, 1e3 * (q if shape.q is None else self.sign * q) * (
            self.sign if shape.q is None else 1.0
        )


class _Reader:
    def __init__(self, engine: Any, account: Account) -> None:
        self.faults: list[Fault] = []
        self._engine, self._circuit, self._account = engine, engine.ActiveCircuit, account
        self._ids: set[tuple[str, str]] = set()
        self._skipped: Counter[str] = Counter()
        self._branches: list[Branch] = []
        self._switches: list[Switch] = []
        self._transformers: list[Transformer] = []
        self._shunts: list[Shunt] = []
        self._earthings: dict[Node, complex] = {}
        self._points: list[ConnectionPoint] = []
        self._draws: dict[str, _Draw] = {}
        self._shapes: dict[str, _Shape] = {}
        self._explicit: set[str] = set()
        self._base_v: dict[str, float] = {}
        self._limits: list[tuple[float, float]] = []

    def network(self, path: Path) -> Network:
        """Everything that is in the circuit and has a way to the source."""
        if len(self._circuit.AllBusNames) > BUSES_MAX:
            raise ConfigError(str(path), [Fault("file", f"{len(self._circuit.AllBusNames)} buses", f"{BUSES_MAX}")])
        elements = self._elements()
        source = self._source([e for e in elements if e.kind == "vsource"])
        if source is None:
            raise ConfigError(str(path), limited(self.faults))
        readers = {"line": self._two_ended, "reactor": self._two_ended, "capacitor": self._two_ended}
        for element in elements:
            if element.kind in readers:
                readers[element.kind](element)
            elif element.kind == "transformer":
                self._transformer(element)
        self._check_neutrals()
        nominal = self._nominal(source)
        for element in elements:
            if element.kind in ("load", "generator"):
                self._point(element, nominal)
        self._say_what_was_left()
        return self._assembled(source, nominal, path)

    # What is there

    def _elements(self) -> list[_Element]:
        found = []
        for full_name in self._circuit.AllElementNames:
            kind, _, name = full_name.partition(".")
            kind = kind.lower()
            self._circuit.SetActiveElement(full_name)
            handle = self._circuit.ActiveCktElement
            if not handle.Enabled:
                self._skipped["disabled"] += 1
            elif kind in _MADE_OF_OTHERS:
                self.faults.append(Fault(full_name, _MADE_OF_OTHERS[kind], "two-winding transformers"))
            elif kind in ("vsource", "line", "reactor", "capacitor", "transformer", "load", "generator"):
                found.append(self._element(kind, name, handle))
            else:
                self._skipped[kind] += 1
        return found

    def _element(self, kind: str, name: str, handle: Any) -> _Element:
        terminals, conductors = int(handle.NumTerminals), int(handle.NumConductors)
        order = [int(n) for n in handle.NodeOrder]
        raw = np.asarray(handle.Yprim)
        flat = raw if np.iscomplexobj(raw) else raw.view(np.complex128)
        size = terminals * conductors
        y = flat.reshape(size, size).T if flat.size == size * size else np.zeros((size, size))
        return _Element(
            kind=kind,
            name=name,
            buses=tuple(bus.partition(".")[0].lower() for bus in handle.BusNames),
            nodes=tuple(tuple(order[t * conductors : (t + 1) * conductors]) for t in range(terminals)),
            phases=int(handle.NumPhases),
            y=matrix(y),
            open_ends=tuple(
                tuple(bool(handle.IsOpen(t + 1, c + 1)) for c in range(conductors)) for t in range(terminals)
            ),
            rating_a=float(handle.NormalAmps) if kind == "line" else 0.0,
        )

    def _ask(self, element: _Element, key: str) -> str:
        self._engine.Text.Command = f'? {element.kind}."{element.name}".{key}'
        return str(self._engine.Text.Result)

    def _number(self, element: _Element, key: str) -> float:
        return float(self._ask(element, key))

    def _name(self, family: str, element: _Element) -> str:
        """The element's own name, with its class where another class has used it."""
        name = element.name if (family, element.name) not in self._ids else element.where
        self._ids.add((family, name))
        return name

    def _wire(self, element: _Element, bus: str, node: int) -> Conductor:
        if node not in _WIRES:
            seen = f"node {node} of bus {bus!r}"
            self.faults.append(Fault(element.where, seen, "nodes 1, 2, 3 (phases), 4 (neutral) or 0 (earth)"))
            return Conductor.E
        if node == 4:
            self._explicit.add(bus)
        return _WIRES[node]

    def _wires(self, element: _Element, terminal: int) -> list[Conductor]:
        return [self._wire(element, element.buses[terminal], n) for n in element.nodes[terminal]]

    # Source

    def _source(self, elements: list[_Element]) -> Source | None:
        if len(elements) != 1:
            names = ", ".join(e.where for e in elements) or "none"
            self.faults.append(Fault("vsource", f"{len(elements)} enabled ({names})", "one voltage source"))
            return None
        element = elements[0]
        conductors = self._wires(element, 0)
        if element.phases != 3 or any(element.nodes[1]) or Conductor.E in conductors or element.partly_open:
            seen = f"{element.phases} phases between {element.nodes[0]} and {element.nodes[1]}"
            self.faults.append(Fault(element.where, seen, "three closed phases to earth"))
            return None
        u = self._number(element, "basekv") * 1e3 / math.sqrt(3) * self._number(element, "pu")
        turn = {"n": 120.0, "z": 0.0}.get(self._ask(element, "sequence")[:1].lower(), -120.0)
        angle = self._number(element, "angle")
        self._account.take("source")
        return Source(
            element.buses[0],
            tuple(conductors),
            (u,) * 3,
            tuple(angle + turn * k for k in range(3)),
            _symmetric(np.linalg.inv(element.y[:3, :3])),
        )

    # Lines, capacitors, reactors

    def _two_ended(self, element: _Element) -> None:
        ends = [self._wires(element, t) for t in range(len(element.nodes))]
        used = {bus for bus, wires in zip(element.buses, ends, strict=True) if any(w is not Conductor.E for w in wires)}
        if len(used) < 2:
            self._shunt(element, ends)
        elif element.fully_open:
            self._open(element, ends)
        else:
            self._branch(element, ends)

    def _open(self, element: _Element, ends: list[list[Conductor]]) -> None:
        if ends[0] == ends[1] and Conductor.E not in ends[0]:
            name = self._name("switches", element)
            self._switches.append(Switch(name, element.buses[0], element.buses[1], tuple(ends[0]), closed=False))
            self._account.take("open switches")
        else:
            self._account.left_out.append(f"{element.where}: it is open")
        if element.kind == "line" and self._ask(element, "switch")[:1].lower() not in ("t", "y"):
            self._account.left_out.append(f"{element.where}: the charging of an open line")

    def _branch(self, element: _Element, ends: list[list[Conductor]]) -> None:
        n = len(ends[0])
        keep = [k for k in range(n) if (ends[0][k], ends[1][k]) != (Conductor.E, Conductor.E)]
        if element.partly_open:
            keep = [k for k in keep if not any(end[k] for end in element.open_ends)]
            self._account.approximated.append(f"{element.where}: open in some phases; these are left out of it")
        for k in keep:
            self._ground(element, ends, k)
        wires = [tuple(end[k] for k in keep) for end in ends]
        if any(len(set(w)) < len(w) for w in wires):
            self.faults.append(Fault(element.where, "conductors joined at one end", "each at a node of its own"))
            return
        own, across = element.y[np.ix_(keep, keep)], element.y[np.ix_(keep, [n + k for k in keep])]
        z = _symmetric(-np.linalg.inv(across))
        if wires[0] == wires[1] and bool((np.abs(np.diag(z)) < IMPEDANCE_OHM[0]).any()):
            name = self._name("switches", element)
            self._switches.append(Switch(name, element.buses[0], element.buses[1], wires[0], closed=True))
            self._account.take("closed switches")
            return
        shunt = 2 * (own + across)
        if element.kind == "line":  # lines have no conductance to earth; what is there is rounding
            shunt = 1j * shunt.imag
        shunt = np.where(np.abs(shunt) > NOISE * np.abs(own).max(), shunt, 0.0)
        if element.partly_open:
            shunt = np.zeros_like(shunt)
        rating = (element.rating_a,) * len(keep) if element.rating_a > 0 else ()
        self._branches.append(
            Branch(
                self._name("branches", element),
                BranchEnd(element.buses[0], wires[0]),
                BranchEnd(element.buses[1], wires[1]),
                z,
                _symmetric(shunt) if shunt.any() else None,
                rating,
            )
        )
        self._account.take(f"{element.kind}s")

    def _ground(self, element: _Element, ends: list[list[Conductor]], k: int) -> None:
        """A neutral that is earthed solidly at one end: that end gets the conductor, and an earthing."""
        for near, far in ((0, 1), (1, 0)):
            if ends[near][k] is Conductor.E:
                if ends[far][k] is not Conductor.N:
                    seen = f"node {element.nodes[near][k]} of bus {element.buses[near]!r}"
                    self.faults.append(Fault(element.where, seen, "only a neutral ends at earth"))
                ends[near][k] = Conductor.N
                self._earthings[Node(element.buses[near], Conductor.N)] = 0j

    def _shunt(self, element: _Element, ends: list[list[Conductor]]) -> None:
        flat = [wire for end in ends for wire in end]
        bus = next((b for b, end in zip(element.buses, ends, strict=True) if set(end) != {Conductor.E}), "")
        wires = tuple(w for w in FOUR_WIRE if w in flat)
        fold = np.array([[float(wire is w) for w in wires] for wire in flat]).reshape(len(flat), len(wires))
        y = fold.T @ element.y @ fold
        if not wires or element.fully_open or not np.abs(y).max() > 1e-11:
            self._account.left_out.append(f"{element.where}: it carries no current")
            return
        if wires == (Conductor.N,):
            self._earth(Node(bus, Conductor.N), 1 / complex(y[0, 0]))
        else:
            self._shunts.append(Shunt(self._name("shunts", element), bus, wires, _symmetric(y)))
        self._account.take(f"{element.kind}s")

    def _earth(self, node: Node, z_ohm: complex) -> None:
        """One more way to earth, in parallel to those that are there."""
        before = self._earthings.get(node)
        if before is None:
            self._earthings[node] = z_ohm
        else:
            self._earthings[node] = 0j if 0 in (before, z_ohm) else 1 / (1 / before + 1 / z_ohm)

    def _check_neutrals(self) -> None:
        for node, z_ohm in self._earthings.items():
            if z_ohm == 0 and node.bus in self._explicit and node.bus in self._ended_at_earth():
                seen = "a neutral that ends at earth beside a node 4"
                self.faults.append(Fault(f"bus {node.bus!r}", seen, "one or the other"))

    def _ended_at_earth(self) -> set[str]:
        return set()

    # Transformers

    def _transformer(self, element: _Element) -> None:
        if len(element.nodes) != 2:
            seen = f"{len(element.nodes)} windings ({', '.join(element.buses)})"
            self.faults.append(Fault(element.where, seen, "two windings"))
            return
        if element.partly_open:
            self.faults.append(Fault(element.where, "an open terminal", "all terminals closed, or the element disabled"))
            return
        windings = [self._winding(element, t) for t in (0, 1)]
        wires = [self._wires(element, t) for t in (0, 1)]
        fits = [_fit(element, windings, turn) for turn in ((1, -1) if any(w.delta for w in windings) else (1,))]
        fit = min(fits, key=lambda f: f.mismatch)
        if fit.mismatch > COIL_MISMATCH_MAX:
            text = f"{element.where}: its coils differ from the engine's matrix by {fit.mismatch:.2g} of the largest entry"
            self._account.approximated.append(text)
        coils = []
        for pairs in fit.pairs:
            sides = [
                CoilEnd(element.buses[t], wires[t][a], wires[t][b], w.rated_v, w.tap)
                for t, (w, (a, b)) in enumerate(zip(windings, pairs, strict=True))
            ]
            coils.append(Coil(sides[0], sides[1], (0j, fit.shunt_pu)))
        for t, w in enumerate(windings):
            star = element.nodes[t][-1]
            if not w.delta and star == 4 and w.neutral_ohm is not None:
                self._earth(Node(element.buses[t], Conductor.N), w.neutral_ohm)
        s = windings[0].s_va / element.phases
        z = matrix(np.eye(len(coils)) * fit.z_pu)
        name = self._name("transformers", element)
        self._transformers.append(
            Transformer(name, tuple(coils), s, z, _group(coils, windings), windings[0].s_va)
        )
        self._account.take("transformers")

    def _winding(self, element: _Element, terminal: int) -> _Winding:
        handle = self._circuit.Transformers
        handle.Name = element.name
        handle.Wdg = terminal + 1
        delta = bool(handle.IsDelta)
        r, x = float(handle.Rneut), float(handle.Xneut)
        rated = float(handle.kV) * 1e3
        if element.phases > 1 and not delta:
            rated /= math.sqrt(3)
        neutral = None if r < 0 else complex(r, x)
        return _Winding(delta, rated, float(handle.Tap), float(handle.kVA) * 1e3, neutral)

    # Voltages

    def _nominal(self, source: Source) -> dict[str, float]:
        """Voltage phase to neutral of every bus that the source reaches [V]: the script's, or the transformers'."""
        reach: dict[str, list[tuple[str, float | None]]] = {}
        for a, b in self._plain_links():
            reach.setdefault(a, []).append((b, None))
            reach.setdefault(b, []).append((a, None))
        for t in self._transformers:
            first, second = t.coils[0].primary, t.coils[0].secondary
            reach.setdefault(first.bus, []).append((second.bus, _to_neutral(second)))
            reach.setdefault(second.bus, []).append((first.bus, _to_neutral(first)))
        bases = {}
        for name in self._circuit.AllBusNames:
            self._circuit.SetActiveBus(name)
            bases[name.lower()] = 1e3 * float(self._circuit.ActiveBus.kVBase)
        element_kv = self._engine.ActiveCircuit.Vsources
        element_kv.First
        found = {source.bus: 1e3 * float(element_kv.BasekV) / math.sqrt(3)}
        rejected = 0
        for bus in (queue := [source.bus]):
            own = bases.get(bus, 0.0)
            if own > 0 and max(own, found[bus]) / min(own, found[bus]) <= BASE_RATIO_MAX:
                found[bus] = own
            else:
                rejected += own > 0
            for other, u in reach.get(bus, []):
                if other not in found:
                    found[other] = found[bus] if u is None else u
                    queue.append(other)
        if rejected:
            text = f"voltage bases of {rejected} buses do not fit their transformers; the transformers' are taken"
            self._account.approximated.append(text)
        return found

    def _plain_links(self) -> Iterable[tuple[str, str]]:
        yield from ((b.from_end.bus, b.to_end.bus) for b in self._branches)
        yield from ((s.from_bus, s.to_bus) for s in self._switches if s.closed)
