"""A feeder with its existing and its future PV units, ready for power flow: which number goes to which port."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import numpy as np

from dcu.grid.feeder import Feeder
from dcu.grid.injections import COS_PHI_CEI, LOCK_IN_SHARE, Damper, Draw, Element, Injections, Inverter, q_of_u_cei_0_21
from dcu.grid.network import PHASES, Conductor, Connection, ConnectionPoint, Network
from dcu.planning.draws import Draws
from dcu.planning.history import Reals
from shared.errors import ConfigError, Fault

THREE_PHASE: Final = "L1L2L3"


class Control(StrEnum):
    """What new units do when the voltage rises."""

    ON_OFF = "on-off"
    """Feed in what the sun gives; the protection's trips are what the probability of overvoltage counts."""
    DAMPING = "damping"
    """Three-phase damping control (Meersman et al. 2011)."""
    Q_OF_U = "q-of-u"
    """Reactive power over voltage, CEI 0-21."""


class Generation(StrEnum):
    """Where the generation of a unit that stands already is known from."""

    MEASURED = "measured"
    """From the meter data."""
    ESTIMATED = "estimated"
    """From the reference unit's recordings, scaled to the unit's rating."""
    NET = "net"
    """Not at all: what its customer draws and feeds in, taken together, counts as load."""
    EXCLUDED = "excluded"
    """Not at all: its customer is left out, with load and PV."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A place for PV: bus and phases; `weight` is its share of a step, `cap_w` the rating it never exceeds."""

    bus: str
    phases: tuple[Conductor, ...]
    weight: float = 1.0
    cap_w: float = math.inf

    @property
    def name(self) -> str:
        """As tables and figures call it."""
        return f"{self.bus}.{''.join(self.phases)}"


@dataclass(frozen=True, slots=True)
class Existing:
    """A PV unit that stands already: whose it is, where, what it is rated and what is known of it."""

    customer: str
    bus: str
    phases: tuple[Conductor, ...]
    rated_w: float
    generation: Generation = Generation.MEASURED

    @property
    def known(self) -> bool:
        """Whether its generation is a series of its own."""
        return self.generation in (Generation.MEASURED, Generation.ESTIMATED)


@dataclass(frozen=True, slots=True, eq=False)
class FeederCase:
    """A network with a port for every unit. `load_share` (n_customer, n_port) and `existing_share` (n_unit, n_port)
    spread powers over ports; a unit's ports are in the order of its phases. `existing_ports` are those at which what
    stands already feeds in."""

    feeder: Feeder
    units: tuple[Unit, ...]
    control: Control
    load_share: Reals
    existing_share: Reals
    existing_w: float
    existing_ports: tuple[int, ...]
    unit_ports: tuple[tuple[int, ...], ...]
    elements: dict[float, tuple[Element, ...]] = field(default_factory=dict, repr=False)

    def rated_w(self, level_w: float) -> Reals:
        """Rating of each new unit when every weight-1 unit has `level_w` (n_unit) [W]."""
        return np.array([min(level_w * u.weight, u.cap_w) for u in self.units])

    def base_w(self, draws: Draws) -> Reals:
        """Power drawn at each port without new units (n_state, n_port) [W]."""
        return np.asarray(draws.load_w @ self.load_share - draws.pv_w @ self.existing_share)

    def injections(self, base_w: Reals, per_w: Reals, level_w: float) -> Injections:
        """The batch with new units of that level.

        Args:
            base_w: as `base_w` gives it.
            per_w: power of a 1 W unit (n_state).
            level_w: rating of a unit of weight 1 [W].
        """
        rated = self.rated_w(level_w)
        if self.control is Control.ON_OFF or not rated.any():
            p = base_w.copy()
            for w, ports in zip(rated, self.unit_ports, strict=True):
                for port in ports:
                    p[:, port] -= per_w * (w / len(ports))
            return Injections(p, _zeros(p.shape))
        columns = [-per_w * w / self._parts(k) for k, w in enumerate(rated) for _ in range(self._parts(k))]
        p = np.concatenate([base_w, np.stack(columns, axis=1)], axis=1)
        return Injections(p, _zeros(p.shape), self._elements(level_w))

    def _parts(self, unit: int) -> int:
        """Elements a unit has: a damper is one for its three phases, an inverter one for each phase."""
        return 1 if self.control is Control.DAMPING else len(self.unit_ports[unit])

    def _elements(self, level_w: float) -> tuple[Element, ...]:
        if level_w not in self.elements:
            found: list[Element] = [Draw(k) for k in range(self.load_share.shape[1])]
            for w, ports in zip(self.rated_w(level_w), self.unit_ports, strict=True):
                if self.control is Control.DAMPING:
                    found.append(Damper((ports[0], ports[1], ports[2]), max(w, 1e-3)))
                else:
                    found += [_q_of_u(port, max(w, 1e-3) / len(ports)) for port in ports]
            self.elements[level_w] = tuple(found)
        return self.elements[level_w]


def _zeros(shape: tuple[int, ...]) -> Reals:
    """A read-only array of zeros that takes no memory bandwidth until the engine copies it."""
    return np.zeros(shape)


def _q_of_u(port: int, rated_w: float) -> Inverter:
    """An inverter as large as its PV: reactive power gives way where the rating is reached (cos phi 0.90 at most)."""
    assert 0 < COS_PHI_CEI < 1
    return Inverter(port, rated_w, q_of_u=q_of_u_cei_0_21(), lock_in=LOCK_IN_SHARE, s_max_va=rated_w)


def feeder_case(
    network: Network,
    customers: tuple[str, ...],
    existing: tuple[Existing, ...],
    pv_customers: tuple[str, ...],
    units: tuple[Unit, ...],
    control: Control,
) -> FeederCase:
    """Add ports where PV stands and none is, and say what belongs where.

    Args:
        network: the feeder.
        customers: those the meter data know, in their order.
        existing: PV units that stand already.
        pv_customers: customers whose generation is known, in the order of the meter data.
        units: places of new PV.
        control: of the new units.

    Raises:
        ConfigError: an unknown bus, a phase that is not there, a customer without data or data without a customer.
    """
    faults = _faults(network, customers, existing, pv_customers, units, control)
    if faults:
        raise ConfigError(network.name, faults)
    whole = _with_ports(network, (*((e.bus, e.phases) for e in existing), *((u.bus, u.phases) for u in units)))
    place: dict[tuple[str, Conductor], int] = {}
    own: dict[str, list[int]] = {}
    at = 0
    for point in whole.connection_points:
        for connection in point.connections:
            if connection.neg in (Conductor.N, Conductor.E):
                place.setdefault((point.bus, connection.pos), at)
            own.setdefault(point.id, []).append(at)
            at += 1
    load_share, existing_share = np.zeros((len(customers), at)), np.zeros((len(pv_customers), at))
    for k, customer in enumerate(customers):
        load_share[k, own[customer]] = 1 / len(own[customer])
    for e in existing:
        for phase in e.phases if e.known else ():
            existing_share[pv_customers.index(e.customer), place[e.bus, phase]] += 1 / len(e.phases)
    feeding = set(np.flatnonzero(existing_share.any(axis=0)).tolist())
    feeding.update(p for e in existing if e.generation is Generation.NET for p in own[e.customer])
    return FeederCase(
        Feeder(whole),
        units,
        control,
        load_share,
        existing_share,
        sum(e.rated_w for e in existing if e.generation is not Generation.EXCLUDED),
        tuple(sorted(feeding)),
        tuple(tuple(place[u.bus, phase] for phase in u.phases) for u in units),
    )


def _faults(
    network: Network,
    customers: tuple[str, ...],
    existing: tuple[Existing, ...],
    pv_customers: tuple[str, ...],
    units: tuple[Unit, ...],
    control: Control,
) -> list[Fault]:
    wires = {bus.id: bus.conductors for bus in network.buses}
    faults = []
    for key, places in (
        ("existing", [(e.bus, e.phases) for e in existing]),
        ("units", [(u.bus, u.phases) for u in units]),
    ):
        for k, (bus, phases) in enumerate(places):
            if bus not in wires:
                faults.append(Fault(f"{key}[{k}].bus", repr(bus), "a bus of the network"))
            elif missing := [p for p in phases if p not in wires[bus]]:
                seen = f"{missing[0]} at bus {bus}"
                faults.append(Fault(f"{key}[{k}].phase", seen, f"one of {' '.join(wires[bus])}"))
    if control is Control.DAMPING:
        faults += [
            Fault(f"units[{k}].phase", "".join(u.phases), f"{THREE_PHASE} for damping control")
            for k, u in enumerate(units)
            if u.phases != PHASES
        ]
    known = {p.id for p in network.connection_points}
    faults += [
        Fault("meter data", f"customer {c!r}", "a connection point of the network") for c in customers if c not in known
    ]
    faults += [
        Fault("network", f"customer {c!r} without meter data", "recordings of each")
        for c in sorted(known - set(customers) - {e.customer for e in existing if e.generation is Generation.EXCLUDED})
    ]
    faults += [
        Fault(f"existing[{k}].customer", repr(e.customer), "a customer with measured PV, or another generation")
        for k, e in enumerate(existing)
        if e.known and e.customer not in pv_customers
    ]
    named = {e.customer for e in existing if e.known}
    faults += [
        Fault("existing", f"nothing for {c!r}", "where its measured PV is connected")
        for c in pv_customers
        if c not in named
    ]
    return faults


def _with_ports(network: Network, places: tuple[tuple[str, tuple[Conductor, ...]], ...]) -> Network:
    """The network with one connection point more for each place and phase that has none."""
    wires = {bus.id: bus.conductors for bus in network.buses}
    there = {
        (point.bus, c.pos)
        for point in network.connection_points
        for c in point.connections
        if c.neg in (Conductor.N, Conductor.E)
    }
    more: dict[tuple[str, Conductor], None] = {}
    for bus, phases in places:
        for phase in phases:
            if (bus, phase) not in there:
                more[bus, phase] = None
    points = tuple(
        ConnectionPoint(
            f"pv {bus} {phase}", bus, (Connection(phase, Conductor.N if Conductor.N in wires[bus] else Conductor.E),)
        )
        for bus, phase in more
    )
    return replace(network, connection_points=(*network.connection_points, *points), memo={})
