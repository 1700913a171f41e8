"""OpenDSS scripts, read by the OpenDSS engine itself: what it made of the script is taken, not the text.

Lines, capacitors and reactors come from the engine's primitive admittance matrices, whatever they were described by
(linecode, geometry, sequence values). Transformers become coils by OpenDSS's own convention, fitted to the engine's
matrix and checked against it. Loads and generators become connection points, their shapes profiles.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dcu.grid.check import IMPEDANCE_OHM, UNIT_RATIO_MAX
from dcu.grid.importers.imported import Account, Imported, Profiles, finished
from dcu.grid.importers.opendss_shapes import Draws, Shape
from dcu.grid.importers.opendss_windings import NOISE, Element, Winding, fit_coils, to_neutral_v, vector_group_of
from dcu.grid.network import (
    BUSES_MAX,
    CONSTANT_POWER,
    FOUR_WIRE,
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
BASE_RATIO_MAX: Final = 1.2
"""A bus's voltage base is believed if it is that near to what source and transformers give."""
DEFAULT_RATING_A: Final = 400.0
"""OpenDSS gives this rating to lines that have none."""

T = TypeVar("T")

_WIRES: Final = {0: Conductor.E, 1: Conductor.L1, 2: Conductor.L2, 3: Conductor.L3, 4: Conductor.N}
_LOAD_MODELS: Final = {1: CONSTANT_POWER, 2: Zip(1.0, 0.0, 0.0), 5: Zip(0.0, 1.0, 0.0)}
_GENERATOR_MODELS: Final = {1: CONSTANT_POWER, 2: Zip(1.0, 0.0, 0.0)}
_OPEN: Final = 1
"""Of the engine's actions of a switch."""
_CONTROLS_OFF: Final = -1
"""Of the engine's control modes."""
_CONTROLS: Final = {
    "regcontrol": "regulators are frozen at their present taps",
    "capcontrol": "capacitors are frozen at their present steps",
    "swtcontrol": "switches stay as they are told to be at the start",
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
    account = Account()
    engine = _compiled(path, account)
    reader = _Reader(engine, account)
    network = reader.network(path)
    if reader.faults:
        raise ConfigError(str(path), limited(reader.faults))
    return finished(str(path), network, account, reader.profiles(network))


def _compiled(path: Path, account: Account) -> Any:
    """A context of the engine that has read the script, with the primitive matrix of every element built."""
    try:
        from dss import DSS, DSSException  # noqa: PLC0415  (an extra; the other importers do without)
    except ImportError as error:
        raise HeadroomError("OpenDSS: the engine is not installed; install the extra headroom[opendss]") from error
    if not path.is_file():
        raise ConfigError(str(path), [Fault("file", "no such file", "a readable OpenDSS script")])
    if '"' in str(path.resolve()):
        raise ConfigError(str(path), [Fault("file", "a quotation mark in its path", "a path that OpenDSS can read")])
    engine = DSS.NewContext()
    engine.AllowChangeDir = False
    engine.AllowForms = False
    engine.AllowEditor = False
    try:
        engine.Text.Command = f'compile "{path.resolve()}"'
        if engine.NumCircuits == 0:
            raise ConfigError(str(path), [Fault("file", "no circuit", "a script with `new circuit`")])
        _drop_artificial_shunts(engine.ActiveCircuit, account)
        _open_switches(engine.ActiveCircuit)
        engine.ActiveCircuit.Solution.BuildYMatrix(2, 0)
    except DSSException as error:
        raise ConfigError(str(path), [_engine_fault(error)]) from error
    return engine


def _drop_artificial_shunts(circuit: Any, account: Account) -> None:
    """OpenDSS holds floating windings by a small reactance to earth at every transformer; nothing is there in truth."""
    dropped = 0
    for full_name in circuit.AllElementNames:
        if full_name.lower().startswith("transformer."):
            circuit.SetActiveElement(full_name)
            shunt = circuit.ActiveCktElement.Properties("ppm_antifloat")
            if float(shunt.Val) != 0:
                shunt.Val = "0"
                dropped += 1
    if dropped:
        account.left_out.append(f"OpenDSS's artificial shunts (ppm_antifloat) at {dropped} transformers")


def _open_switches(circuit: Any) -> None:
    """Do what a SwtControl is told and would do at the first solution, which the script need not have asked for."""
    controls = circuit.SwtControls
    orders = []
    more = controls.First if circuit.Solution.ControlMode != _CONTROLS_OFF else 0
    while more:
        if controls.Action == _OPEN and not controls.IsLocked:
            orders.append((str(controls.SwitchedObj), int(controls.SwitchedTerm)))
        more = controls.Next
    for switch, terminal in orders:
        circuit.SetActiveElement(switch)
        circuit.ActiveCktElement.Open(terminal, 0)


def _engine_fault(error: Exception) -> Fault:
    message = str(error.args[-1])
    place = re.search(r'\[file: "([^"]*)", line: (\d+)\]', message)
    where = f"{Path(place[1]).name}, line {place[2]}" if place else "file"
    text = " ".join(message.split("[file:", maxsplit=1)[0].split())
    return Fault(where, f"OpenDSS's error {text!r}", "a script that OpenDSS accepts")


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
        self._draws: dict[str, Draws] = {}
        self._shapes: dict[str, Shape] = {}
        self._explicit: set[str] = set()
        """Buses with a node 4."""
        self._ended: set[str] = set()
        """Buses where a line's neutral ends at node 0."""
        self._source_v = 0.0
        """Nominal voltage of the source, phase to neutral [V]."""
        self._limited = 0
        self._on_dead_buses: Counter[str] = Counter()

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

    def _elements(self) -> list[Element]:
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

    def _element(self, kind: str, name: str, handle: Any) -> Element:
        terminals, conductors = int(handle.NumTerminals), int(handle.NumConductors)
        order = [int(n) for n in handle.NodeOrder]
        raw = np.asarray(handle.Yprim)
        flat = raw if np.iscomplexobj(raw) else raw.view(np.complex128)
        size = terminals * conductors
        y = flat.reshape(size, size).T if flat.size == size * size else np.zeros((size, size))
        return Element(
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

    def _ask(self, element: Element, key: str) -> str:
        self._circuit.SetActiveElement(element.where)
        return str(self._circuit.ActiveCktElement.Properties(key).Val)

    def _number(self, element: Element, key: str) -> float:
        return float(self._ask(element, key))

    def _name(self, family: str, element: Element) -> str:
        """The element's own name, with its class where another class has used it."""
        name = element.name if (family, element.name) not in self._ids else element.where
        self._ids.add((family, name))
        return name

    def _wire(self, element: Element, bus: str, node: int) -> Conductor:
        if node not in _WIRES:
            seen = f"node {node} of bus {bus!r}"
            self.faults.append(Fault(element.where, seen, "nodes 1, 2, 3 (phases), 4 (neutral) or 0 (earth)"))
            return Conductor.E
        if node == 4:
            self._explicit.add(bus)
        return _WIRES[node]

    def _wires(self, element: Element, terminal: int) -> list[Conductor]:
        return [self._wire(element, element.buses[terminal], n) for n in element.nodes[terminal]]

    # Source

    def _source(self, elements: list[Element]) -> Source | None:
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
        self._source_v = self._number(element, "basekv") * 1e3 / math.sqrt(3)
        u = self._source_v * self._number(element, "pu")
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

    def _two_ended(self, element: Element) -> None:
        ends = [self._wires(element, t) for t in range(len(element.nodes))]
        used = {bus for bus, wires in zip(element.buses, ends, strict=True) if any(w is not Conductor.E for w in wires)}
        if len(used) < 2:
            self._shunt(element, ends)
        elif element.fully_open:
            self._open(element, ends)
        else:
            self._branch(element, ends)

    def _open(self, element: Element, ends: list[list[Conductor]]) -> None:
        if ends[0] == ends[1] and Conductor.E not in ends[0]:
            name = self._name("switches", element)
            self._switches.append(Switch(name, element.buses[0], element.buses[1], tuple(ends[0]), closed=False))
        else:
            self._account.left_out.append(f"{element.where}: it is open")
        if element.kind == "line" and self._ask(element, "switch")[:1].lower() not in ("t", "y"):
            self._account.left_out.append(f"{element.where}: the charging of an open line")

    def _branch(self, element: Element, ends: list[list[Conductor]]) -> None:
        n = len(ends[0])
        keep = [k for k in range(n) if (ends[0][k], ends[1][k]) != (Conductor.E, Conductor.E)]
        if element.partly_open:
            keep = [k for k in keep if not any(end[k] for end in element.open_ends)]
            text = f"{element.where}: open in some phases; these and its charging are left out"
            self._account.approximated.append(text)
        for k in keep:
            self._ground(element, ends, k)
        wires = [tuple(end[k] for k in keep) for end in ends]
        if any(len(set(w)) < len(w) for w in wires):
            self.faults.append(Fault(element.where, "conductors joined at one end", "each at a node of its own"))
            return
        own, across = element.y[np.ix_(keep, keep)], element.y[np.ix_(keep, [n + k for k in keep])]
        if np.linalg.matrix_rank(across) < len(keep):
            self.faults.append(Fault(element.where, "a singular matrix", "an impedance in every conductor"))
            return
        z = _symmetric(-np.linalg.inv(across))
        if wires[0] == wires[1] and bool((np.abs(np.diag(z)) < IMPEDANCE_OHM[0]).any()):
            name = self._name("switches", element)
            self._switches.append(Switch(name, element.buses[0], element.buses[1], wires[0], closed=True))
            return
        shunt: NDArray[Any] = 2 * (own + across)
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

    def _ground(self, element: Element, ends: list[list[Conductor]], k: int) -> None:
        """A neutral that is earthed solidly at one end: that end gets the conductor, and an earthing."""
        for near, far in ((0, 1), (1, 0)):
            if ends[near][k] is Conductor.E:
                if ends[far][k] is not Conductor.N:
                    seen = f"node {element.nodes[near][k]} of bus {element.buses[near]!r}"
                    self.faults.append(Fault(element.where, seen, "only a neutral ends at earth"))
                ends[near][k] = Conductor.N
                self._ended.add(element.buses[near])
                self._earth(Node(element.buses[near], Conductor.N), 0j)

    def _shunt(self, element: Element, ends: list[list[Conductor]]) -> None:
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

    def _earth(self, node: Node, z_ohm: complex) -> None:
        """One more way to earth, in parallel to those that are there."""
        before = self._earthings.get(node)
        if before is None:
            self._earthings[node] = z_ohm
        else:
            self._earthings[node] = 0j if 0 in (before, z_ohm) else 1 / (1 / before + 1 / z_ohm)

    def _check_neutrals(self) -> None:
        for bus in sorted(self._ended & self._explicit):
            seen = "a neutral that ends at node 0 beside a node 4"
            self.faults.append(Fault(f"bus {bus!r}", seen, "one or the other"))

    # Transformers

    def _transformer(self, element: Element) -> None:
        if len(element.nodes) != 2:
            seen = f"{len(element.nodes)} windings ({', '.join(element.buses)})"
            self.faults.append(Fault(element.where, seen, "two windings"))
            return
        if element.partly_open:
            self.faults.append(Fault(element.where, "an open terminal", "closed terminals, or a disabled element"))
            return
        windings = [self._winding(element, t) for t in (0, 1)]
        wires = [self._wires(element, t) for t in (0, 1)]
        fits = [fit_coils(element, windings, turn) for turn in ((1, -1) if any(w.delta for w in windings) else (1,))]
        fit = min(fits, key=lambda f: f.mismatch)
        if fit.mismatch > COIL_MISMATCH_MAX:
            text = f"{element.where}: coils and the engine's matrix differ by {fit.mismatch:.2g} of its largest entry"
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
            Transformer(name, tuple(coils), s, z, vector_group_of(coils, windings), windings[0].s_va)
        )

    def _winding(self, element: Element, terminal: int) -> Winding:
        handle = self._circuit.Transformers
        handle.Name = element.name
        handle.Wdg = terminal + 1
        delta = bool(handle.IsDelta)
        r, x = float(handle.Rneut), float(handle.Xneut)
        rated = float(handle.kV) * 1e3
        if element.phases > 1 and not delta:
            rated /= math.sqrt(3)
        neutral = None if r < 0 else complex(r, x)
        return Winding(delta, rated, float(handle.Tap), float(handle.kVA) * 1e3, neutral)

    # Voltages

    def _nominal(self, source: Source) -> dict[str, float]:
        """Voltage phase to neutral of every bus that the source reaches [V]: the script's, or the transformers'."""
        reach: dict[str, list[tuple[str, float | None]]] = {}
        for a, b in self._plain_links():
            reach.setdefault(a, []).append((b, None))
            reach.setdefault(b, []).append((a, None))
        for t in self._transformers:
            first, second = t.coils[0].primary, t.coils[0].secondary
            reach.setdefault(first.bus, []).append((second.bus, to_neutral_v(second)))
            reach.setdefault(second.bus, []).append((first.bus, to_neutral_v(first)))
        bases = {}
        for name in self._circuit.AllBusNames:
            self._circuit.SetActiveBus(name)
            bases[name.lower()] = 1e3 * float(self._circuit.ActiveBus.kVBase)
        found = {source.bus: self._source_v}
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

    # Loads and generators

    def _point(self, element: Element, nominal: dict[str, float]) -> None:
        bus = element.buses[0]
        if bus not in nominal or element.fully_open:
            self._on_dead_buses[f"{element.kind}s"] += 1
            return
        if element.partly_open:
            self.faults.append(Fault(element.where, "some phases open", "all open or all closed"))
            return
        delta = self._ask(element, "conn")[:1].lower() in ("d", "l")
        rated = self._number(element, "kv") * 1e3
        if element.phases in (2, 3) and not delta:
            rated /= math.sqrt(3)
        wires = self._wires(element, 0)
        last = len(wires) - 1
        pairs = [(k, (k + 1) % len(wires) if delta else last) for k in range(element.phases)]
        share = self._law(element)
        draw = self._draw(element)
        connections = []
        for a, b in pairs:
            pos, neg = (wires[a], wires[b]) if wires[a] is not Conductor.E else (wires[b], wires[a])
            wanted = nominal[bus] * (1.0 if neg in (Conductor.E, Conductor.N) or pos is Conductor.N else math.sqrt(3))
            u: float | None = rated
            if max(rated, wanted) > UNIT_RATIO_MAX * min(rated, wanted) and share == CONSTANT_POWER:
                u = None
                text = f"{element.where}: its {rated:g} V do not fit {wanted:g} V of its bus; the bus's are taken"
                self._account.approximated.append(text)
            p, q = (draw.factor * v / element.phases for v in (draw.p_w, draw.q_var))
            connections.append(Connection(pos, neg, p, q, u, share))
        if wires[last] is Conductor.N and not delta and element.kind == "load" and self._number(element, "rneut") >= 0:
            # The engine puts it into its matrix and takes its current out again as compensation.
            self._account.left_out.append(f"{element.where}: rneut, which has no effect in OpenDSS's solution either")
        name = self._name("connection_points", element)
        self._points.append(ConnectionPoint(name, bus, tuple(connections)))
        self._draws[name] = draw
        self._account.take(f"{element.kind}s")

    def _law(self, element: Element) -> Zip:
        model = int(self._number(element, "model"))
        known = _LOAD_MODELS if element.kind == "load" else _GENERATOR_MODELS
        self._limited += model != 2
        if element.kind == "load" and model == 8:
            z, i, p, z_q, i_q, p_q = _numbers(self._ask(element, "zipv"))[:6]
            alike = np.allclose((z, i, p), (z_q, i_q, p_q), atol=1e-9) or self._number(element, "kvar") == 0
            if alike and math.isclose(z + i + p, 1.0, abs_tol=1e-6):
                return Zip(z, i, p)
            text = f"{element.where}: unequal ZIP shares of P and Q; constant power is taken"
            self._account.approximated.append(text)
        elif model not in known:
            self._account.approximated.append(f"{element.where}: model {model}; constant power is taken")
        return known.get(model, CONSTANT_POWER)

    def _draw(self, element: Element) -> Draws:
        load = element.kind == "load"
        sign = 1.0 if load else -1.0
        solution = self._circuit.Solution
        status = self._ask(element, "status")[:1].lower()
        factor = 1.0 if status in ("f", "e") else float(solution.LoadMult if load else solution.GenMult)
        shape = None if status == "f" else self._shape(self._ask(element, "daily") or self._ask(element, "yearly"))
        p, q = (sign * 1e3 * self._number(element, key) for key in ("kw", "kvar"))
        return Draws(p, q, factor, sign, shape)

    def _shape(self, name: str) -> Shape | None:
        if not name or name.lower() == "none":
            return None
        if name not in self._shapes:
            handle = self._circuit.LoadShapes
            handle.Name = name
            p, q = (np.array(values, dtype=np.float64) for values in (handle.Pmult, handle.Qmult))
            interval = float(handle.HrInterval)
            hours = interval if interval > 0 else np.array(handle.TimeArray, dtype=np.float64)
            self._shapes[name] = Shape(hours, p, q if len(q) == len(p) else None, bool(handle.UseActual))
        return self._shapes[name]

    def profiles(self, network: Network) -> Profiles | None:
        """Every port over the time of the longest shape, at the step of the finest; None without shapes."""
        shapes = {id(d.shape): d.shape for d in self._draws.values() if d.shape is not None}.values()
        if not shapes:
            return None
        step_h = min(shape.step_h for shape in shapes)
        count = round(max(shape.end_h for shape in shapes) / step_h)
        ports = network.ports()
        if count * len(ports) > PROFILE_VALUES_MAX:
            text = f"load shapes: {count} steps of {len(ports)} connections are more than {PROFILE_VALUES_MAX} values"
            self._account.left_out.append(text)
            return None
        hours = np.arange(1.0, count + 1.0) * step_h
        p_w, q_var = np.empty((count, len(ports))), np.empty((count, len(ports)))
        at = 0
        for point in network.connection_points:
            p, q = self._draws[point.id].over(hours)
            n = len(point.connections)
            p_w[:, at : at + n], q_var[:, at : at + n] = p[:, None] / n, q[:, None] / n
            at += n
        self._account.take("load shapes", len(shapes))
        return Profiles(tuple(port.name for port in ports), 3600 * step_h, p_w, q_var)

    # The whole

    def _say_what_was_left(self) -> None:
        account, skipped = self._account, self._skipped
        for kind, what in _CONTROLS.items():
            if skipped[kind]:
                account.approximated.append(f"{skipped[kind]} {kind}: {what}")
        if self._limited:
            text = f"voltage limits vminpu and vmaxpu of {self._limited} loads and generators are not taken"
            account.approximated.append(text)
        default = sum(b.rating_a[:1] == (DEFAULT_RATING_A,) for b in self._branches)
        if default:
            text = f"{default} lines have a rating of {DEFAULT_RATING_A:g} A, which OpenDSS gives to lines without one"
            account.approximated.append(text)
        for kind, count in skipped.items():
            if kind in _OBSERVERS:
                account.left_out.append(f"{count} {kind}: it only observes")
            elif kind == "disabled":
                account.left_out.append(f"{count} disabled elements")
            elif kind not in _CONTROLS:
                account.left_out.append(f"{count} {kind}: this class has no counterpart here")
        for kind, count in self._on_dead_buses.items():
            account.left_out.append(f"{count} {kind} that are open or have no way to the source")

    def _assembled(self, source: Source, nominal: dict[str, float], path: Path) -> Network:
        branches = self._alive("branches", nominal, self._branches, lambda b: (b.from_end.bus, b.to_end.bus))
        transformers = self._alive(
            "transformers", nominal, self._transformers, lambda t: (t.primary_bus, t.secondary_bus)
        )
        switches = self._alive("switches", nominal, self._switches, lambda s: (s.from_bus, s.to_bus))
        shunts = self._alive("shunts", nominal, self._shunts, lambda s: (s.bus,))
        earthings = tuple(Earthing(n.bus, n.conductor, z) for n, z in self._earthings.items() if n.bus in nominal)
        shunts = _without_loose_stars(shunts, _nodes(branches, transformers, switches, self._points, earthings))
        used = _nodes(branches, transformers, switches, self._points, earthings)
        used |= set(source.nodes()) | {node for shunt in shunts for node in shunt.nodes()}
        dead = sum(name.lower() not in nominal for name in self._circuit.AllBusNames)
        if dead:
            self._account.left_out.append(f"{dead} buses without a way to the source")
        buses = []
        for bus, u in nominal.items():
            self._circuit.SetActiveBus(bus)
            handle = self._circuit.ActiveBus
            place = (float(handle.x), float(handle.y)) if handle.Coorddefined else None
            buses.append(Bus(bus, tuple(c for c in FOUR_WIRE if Node(bus, c) in used), u, place))
        for kind, count in (
            ("buses", len(buses)),
            ("lines and series elements", len(branches)),
            ("switches", len(switches)),
            ("transformers", len(transformers)),
            ("shunts", len(shunts)),
            ("earthings", len(earthings)),
        ):
            self._account.take(kind, count)
        return Network(
            name=str(self._circuit.Name) or path.stem,
            source=source,
            buses=tuple(buses),
            branches=branches,
            transformers=transformers,
            switches=switches,
            earthings=earthings,
            shunts=shunts,
            connection_points=tuple(self._points),
            description=f"from {path.name} by OpenDSS",
            frequency_hz=float(self._circuit.Solution.Frequency),
        )

    def _alive(
        self, kind: str, nominal: dict[str, float], elements: list[T], buses: Callable[[T], tuple[str, ...]]
    ) -> tuple[T, ...]:
        kept = tuple(e for e in elements if all(bus in nominal for bus in buses(e)))
        if len(kept) < len(elements):
            self._account.left_out.append(f"{len(elements) - len(kept)} {kind} without a way to the source")
        return kept


def _symmetric(y: NDArray[Any]) -> ComplexMatrix:
    return matrix((y + y.T) / 2)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in re.split(r"[\s,]+", text.strip("[]() ")) if part]


def _nodes(
    branches: Iterable[Branch],
    transformers: Iterable[Transformer],
    switches: Iterable[Switch],
    points: Iterable[ConnectionPoint],
    earthings: Iterable[Earthing],
) -> set[Node]:
    """Every node that one of them uses."""
    used = {node for b in branches for end in (b.from_end, b.to_end) for node in end.nodes()}
    used |= {n for t in transformers for c in t.coils for end in (c.primary, c.secondary) for n in end.nodes()}
    used |= {Node(bus, c) for s in switches for bus in (s.from_bus, s.to_bus) for c in s.conductors}
    used |= {Node(point.bus, end) for point in points for c in point.connections for end in (c.pos, c.neg)}
    return used | {Node(e.bus, e.conductor) for e in earthings}


def _without_loose_stars(shunts: Sequence[Shunt], used: set[Node]) -> tuple[Shunt, ...]:
    """The same shunts without star points that nothing else is joined to: their current is zero, so they drop out."""
    stars = Counter(Node(s.bus, Conductor.N) for s in shunts if Conductor.N in s.conductors)
    kept = []
    for shunt in shunts:
        star = Node(shunt.bus, Conductor.N)
        if Conductor.N in shunt.conductors and star not in used and stars[star] == 1:
            at = shunt.conductors.index(Conductor.N)
            y = shunt.y_s - np.outer(shunt.y_s[:, at], shunt.y_s[at]) / shunt.y_s[at, at]
            rest = [k for k in range(len(shunt.conductors)) if k != at]
            wires = tuple(shunt.conductors[k] for k in rest)
            kept.append(replace(shunt, conductors=wires, y_s=_symmetric(y[np.ix_(rest, rest)])))
        else:
            kept.append(shunt)
    return tuple(kept)
