"""The model of a feeder held against readings: what the two say about every meter's voltage relative to the busbar, and
how far they would agree if a single thing were otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections
from dcu.grid.network import PHASES, Connection, ConnectionPoint, Network
from dcu.grid.readings import Readings
from dcu.grid.sections import sections
from dcu.grid.zones import bus_links
from shared.errors import ConfigError, Fault

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]

SETS_MIN: Final = 200
"""Some hours: fewer sets hold too few switchings to tell one customer from another."""
SETS_MAX: Final = 1440
"""More are thinned out evenly."""
PORTS_MAX: Final = 1000
EXCHANGED_MAX: Final = 60
"""Meters that disagree most, each tried in everybody's place."""


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What is held for true of each meter: the port it sits at (n), that port's phase (n), the sign of its power (n);
    and the factors of sections."""

    port: NDArray[np.int64]
    phase: NDArray[np.int64]
    sign: Reals
    scale: dict[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Disagreement of every meter [V] (n_set, n), its mean taken out; at every port and phase the model's voltage
    relative to the busbar [V] (n_set, n, 3); the currents there [A]; the sections' drops [V] (n_set, n_section, 3)."""

    apart: Reals
    mean_v: Reals
    model: Reals
    i_a: Complexes
    u_v: Complexes
    drop: Reals

    @property
    def squares(self) -> Reals:
        """Summed squares of each meter's disagreement (n)."""
        return np.asarray((self.apart**2).sum(axis=0))


class Comparison:
    """The model of a feeder made ready to be held against readings."""

    def __init__(self, network: Network, readings: Readings, busbar: str) -> None:
        n = len(network.ports())
        if n > PORTS_MAX:
            raise ConfigError(network.name, [Fault("connection points", f"{n} ports", f"at most {PORTS_MAX}")])
        if len(readings.time_utc_s) < SETS_MIN:
            left = f", {readings.incomplete_sets} were incomplete" if readings.incomplete_sets else ""
            seen = f"{len(readings.time_utc_s)} complete sets{left}"
            raise ConfigError("readings", [Fault("sets", seen, f"at least {SETS_MIN} with every meter")])
        keep = np.unique(np.linspace(0, len(readings.time_utc_s) - 1, SETS_MAX).round().astype(np.int64))
        self._u, self._p, self._q = readings.u_v[keep], readings.p_w[keep], readings.q_var[keep]
        self._busbar_v = readings.busbar_v[keep]
        self.network, self.n = network, n
        self.labels = [port.connection.label for port in network.ports()]
        odd = [label for label in self.labels if label not in PHASES]
        if odd:
            raise ConfigError(network.name, [Fault("connection points", f"one at {odd[0]}", "phase to neutral only")])
        self.meters = [point.meter or point.id for point in network.connection_points for _ in point.connections]
        self.movable = np.array([len(p.connections) == 1 for p in network.connection_points for _ in p.connections])
        self.sections = sections(network, busbar)
        kept = network.memo.get("with other phases")
        self._feeder = kept if isinstance(kept, Feeder) else Feeder(_with_other_phases(network))
        network.memo["with other phases"] = self._feeder
        names = {port.name: k for k, port in enumerate(self._feeder.network.ports())}
        own = [port.name for port in network.ports()]
        self._at = np.array([[names.get(f"{name}#{f}", names[name]) for f in PHASES] for name in own])
        self._own = np.array([PHASES.index(label) for label in self.labels])
        nodes = {tuple(node): k for k, node in enumerate(self._feeder.model.nodes)}
        self._bus_rows = np.array([nodes[busbar, f] for f in PHASES])
        wires = [(bus, f) for s in self.sections for bus in (s.top, s.end) for f in (*PHASES, "N")]
        self._end_rows = np.array(sorted({nodes[w] for w in wires if w in nodes}), dtype=np.int64)
        place = {int(row): k for k, row in enumerate(self._end_rows)}
        at = np.array([place[nodes[w]] if w in nodes else len(place) for w in wires], dtype=np.int64)
        at = at.reshape(-1, 2, 4)
        self._ends, self._neutral = at[:, :, :3], at[:, :, 3]

    def nominal_v(self) -> Reals:
        """Nominal voltage of every port [V] (n)."""
        return self.network.port_nominal_v()

    def belief(self) -> Belief:
        """The network file's word for everything."""
        return Belief(np.arange(self.n), self._own.copy(), np.ones(self.n), {})

    def view(self, belief: Belief, *, whole: bool = False) -> View:
        """Exact flow of every set with the meters as believed; `whole` adds what only screening needs."""
        model = self._feeder.model
        count = len(model.ports)
        p, q = np.zeros((len(self._p), count)), np.zeros((len(self._p), count))
        seat = self._at[belief.port, belief.phase]
        p[:, seat], q[:, seat] = self._p * belief.sign, self._q * belief.sign
        solved = solve(self._feeder, Injections.of(p, q), tolerance_pu=1e-7)
        if not solved.converged.all():
            raise ConfigError("readings", [Fault("power flow", "a set without solution", "powers the feeder can bear")])
        u = solved["port_u_v"]
        i = -np.conj((p + 1j * q) / u)
        busbar = np.abs(model.node_open_v[self._bus_rows] + i @ model.node_h_ohm[self._bus_rows].T)
        relative = np.abs(u)[:, self._at] - busbar[:, None, :]
        drop = self._drops(i, seat) if whole or belief.scale else np.zeros((len(p), 0, 3))
        for s, factor in belief.scale.items():
            for k in self.sections[s].ports:
                relative[:, k, :] += (factor - 1) * drop[:, s, :]
        measured = self._u - self._busbar_v[:, belief.phase]
        apart = measured - relative[:, belief.port, belief.phase]
        mean = apart.mean(axis=0)
        return View(apart - mean, mean, relative, i, u, drop)

    def _drops(self, i: Complexes, seat: NDArray[np.int64]) -> Reals:
        """Rise of voltage over each section (n_set, n_section, 3) [V], phase to neutral where there is one."""
        if not self.sections:
            return np.zeros((len(i), 0, 3))
        model, rows = self._feeder.model, self._end_rows
        u = model.node_open_v[rows] + i[:, seat] @ model.node_h_ohm[np.ix_(rows, seat)].T
        u = np.concatenate([u, np.zeros((len(u), 1))], axis=1)  # a conductor that is not there, at the last place
        size = np.abs(u[:, self._ends] - u[:, self._neutral][..., None])
        there = (self._ends < len(rows)).all(axis=1)
        return np.asarray(np.where(there, size[:, :, 1] - size[:, :, 0], 0.0))

    def other_phase(self, belief: Belief, view: View) -> Reals:
        """Squares (n, 3) of every meter's disagreement if it followed each phase at its place."""
        measured = self._u[:, :, None] - self._busbar_v[:, None, :]
        apart = measured - view.model[:, belief.port, :]
        return np.asarray(((apart - apart.mean(axis=0)) ** 2).sum(axis=0))

    def exchanged(self, belief: Belief, view: View) -> Reals:
        """Squares (n, n) of two meters' disagreement together if they changed places, their powers included to first
        order; infinite where neither of the two is among those that disagree most."""
        seat = self._at[belief.port, belief.phase]
        place = view.model[:, belief.port, belief.phase]
        unit = view.u_v[:, seat] / np.abs(view.u_v[:, seat])
        own = view.i_a[:, seat] / unit  # as if in phase with its voltage
        z, k = self._seen_from_busbar(belief, seat), np.arange(self.n)
        squares = np.full((self.n, self.n), np.inf)
        for j in np.argsort(-view.squares, kind="stable")[:EXCHANGED_MAX]:
            there, here = (own[:, [j]] - own) * unit, (own - own[:, [j]]) * unit[:, [j]]
            at_other = place + (np.conj(unit) * (z[k, k] * there + z[k, j] * here)).real
            at_own = place[:, [j]] + (np.conj(unit[:, [j]]) * (z[j, j] * here + z[j, k] * there)).real
            gone = self._u[:, [j]] - self._busbar_v[:, belief.phase] - at_other
            come = self._u - self._busbar_v[:, [belief.phase[j]]] - at_own
            squares[j] = squares[:, j] = len(place) * (gone.var(axis=0) + come.var(axis=0))
        return squares

    def _seen_from_busbar(self, belief: Belief, seat: NDArray[np.int64]) -> Complexes:
        """Impedances between the meters' seats, the busbar's own part taken off (n, n) [ohm]."""
        model, rows = self._feeder.model, self._bus_rows[belief.phase]
        return np.asarray(model.z_ohm[np.ix_(seat, seat)] - model.node_h_ohm[np.ix_(rows, seat)])

    def less_by_reversing(self, belief: Belief, view: View) -> Reals:
        """How many squares go away (n) if a meter's power had the other sign: to first order."""
        seat = self._at[belief.port, belief.phase]
        turn = np.conj(view.u_v[:, seat]) / np.abs(view.u_v[:, seat])
        z = self._seen_from_busbar(belief, seat)
        less = np.empty(self.n)
        for k in range(self.n):
            moved = -2 * (turn * z[:, k] * view.i_a[:, seat[k], None]).real
            moved -= moved.mean(axis=0)
            less[k] = (view.apart**2).sum() - ((view.apart - moved) ** 2).sum()
        return less

    def scale(self, belief: Belief, view: View) -> tuple[Reals, Reals, Reals]:
        """Of each section: how far its factor is from now on off, squares that go away with it, summed squares of its
        drop (n_section)."""
        off, less, size = (np.zeros(len(self.sections)) for _ in range(3))
        for s, section in enumerate(self.sections):
            meters = np.flatnonzero(np.isin(belief.port, section.ports))
            drop = view.drop[:, s, belief.phase[meters]]
            drop = drop - drop.mean(axis=0)
            product, size[s] = float((drop * view.apart[:, meters]).sum()), float((drop**2).sum())
            if size[s] > 0:
                off[s], less[s] = product / size[s], product**2 / size[s]
        return off, less, size


def _with_other_phases(network: Network) -> Network:
    """The network with empty connections at the phases where a customer could be by mistake: at its own bus, or at the
    nearest one towards the source that has all phases."""
    near: dict[str, list[str]] = {}
    for _, a, b in bus_links(network):
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    up, order = {network.source.bus: network.source.bus}, [network.source.bus]
    for bus in order:
        for other in near.get(bus, ()):
            if other not in up:
                up[other] = bus
                order.append(other)
    conductors = {bus.id: set(bus.conductors) for bus in network.buses}
    added = []
    for point in network.connection_points:
        if len(point.connections) > 1:
            continue
        (own,) = point.connections
        bus = point.bus
        while not set(PHASES) | ({own.neg} & {"N"}) <= conductors[bus] and up[bus] != bus:
            bus = up[bus]
        for phase in PHASES:
            if phase is not own.pos and phase in conductors[bus]:
                empty = (Connection(phase, own.neg, u_nominal_v=own.u_nominal_v),)
                added.append(ConnectionPoint(f"{point.id}#{phase}", bus, empty))
    return replace(network, connection_points=(*network.connection_points, *added), memo={})
