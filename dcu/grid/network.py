"""A feeder as it stands in the ground: buses, branches, transformers, switches, earthings, one source, customers.

The model is frozen. Everything in it is linear except what customers draw, so that `dcu.grid.compiler` can reduce it
exactly to a multiport. Quantities are SI; a matrix is complex, square over the conductors named beside it, read-only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

ComplexMatrix = NDArray[np.complex128]

BUSES_MAX: Final = 100_000
"""A low-voltage network of one substation has thousands of buses; a file with more is not one."""


class Conductor(StrEnum):
    """What a wire of a bus carries; `E` is the earth, the reference of all voltages, and never a wire."""

    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    N = "N"
    E = "E"


PHASES: Final = (Conductor.L1, Conductor.L2, Conductor.L3)
FOUR_WIRE: Final = (*PHASES, Conductor.N)
ROTATION: Final = {Conductor.L1: 0.0, Conductor.L2: -120.0, Conductor.L3: 120.0}
"""Angle of each phase in the positive sequence [degree]."""


class Node(NamedTuple):
    """One conductor of one bus."""

    bus: str
    conductor: Conductor

    def __str__(self) -> str:
        return f"{self.bus}.{self.conductor}"


@dataclass(frozen=True, slots=True)
class Bus:
    """A place with conductors; `u_nominal_v` is phase to neutral [V], `position` in any plane coordinates."""

    id: str
    conductors: tuple[Conductor, ...]
    u_nominal_v: float
    position: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class BranchEnd:
    """Where a branch meets a bus: one bus conductor for each conductor of the branch, in its order."""

    bus: str
    conductors: tuple[Conductor, ...]

    def nodes(self) -> tuple[Node, ...]:
        """The bus's nodes, in the branch's order."""
        return tuple(Node(self.bus, c) for c in self.conductors)


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A line or cable: series impedance `z_ohm` (n, n) [ohm] of the whole length; shunt admittance `y_s` (n, n) [S] of
    the whole length, half of it at each end; `rating_a` (n) [A], infinite where not known."""

    id: str
    from_end: BranchEnd
    to_end: BranchEnd
    z_ohm: ComplexMatrix
    y_s: ComplexMatrix | None = None
    rating_a: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CoilEnd:
    """One winding of a coil between two conductors of a bus; `tap` multiplies the rated voltage [V]."""

    bus: str
    pos: Conductor
    neg: Conductor
    u_rated_v: float
    tap: float = 1.0

    @property
    def turns_v(self) -> float:
        """Voltage that stands for the number of turns [V]."""
        return self.u_rated_v * self.tap

    def nodes(self) -> tuple[Node, Node]:
        """The two nodes; `E` is no node of the network and is left to the reader."""
        return Node(self.bus, self.pos), Node(self.bus, self.neg)


@dataclass(frozen=True, slots=True)
class Coil:
    """Two windings on one core; the shunts [pu of the coil] stand across primary and secondary (magnetising current
    as negative susceptance, no-load loss as conductance)."""

    primary: CoilEnd
    secondary: CoilEnd
    shunt_pu: tuple[complex, complex] = (0j, 0j)


@dataclass(frozen=True, slots=True, eq=False)
class Transformer:
    """Two-winding coils between two buses. `z_pu` (n_coil, n_coil) on the base `coil_s_va` [VA] and each coil's own
    voltages is diagonal unless the zero-sequence impedance differs. `rating_va` is the nameplate of the whole [VA]."""

    id: str
    coils: tuple[Coil, ...]
    coil_s_va: float
    z_pu: ComplexMatrix
    vector_group: str = ""
    rating_va: float = math.inf

    @property
    def primary_bus(self) -> str:
        """The bus on the primary side."""
        return self.coils[0].primary.bus

    @property
    def secondary_bus(self) -> str:
        """The bus on the secondary side."""
        return self.coils[0].secondary.bus


@dataclass(frozen=True, slots=True)
class Switch:
    """Joins equal conductors of two buses without impedance while it is closed."""

    id: str
    from_bus: str
    to_bus: str
    conductors: tuple[Conductor, ...]
    closed: bool


@dataclass(frozen=True, slots=True)
class Earthing:
    """Joins a conductor to earth; `z_ohm` 0 means solidly."""

    bus: str
    conductor: Conductor
    z_ohm: complex


@dataclass(frozen=True, slots=True, eq=False)
class Shunt:
    """Admittance `y_s` (n, n) [S] from conductors of a bus to earth: capacitors, reactors."""

    id: str
    bus: str
    conductors: tuple[Conductor, ...]
    y_s: ComplexMatrix

    def nodes(self) -> tuple[Node, ...]:
        """Its nodes, in the order of the matrix."""
        return tuple(Node(self.bus, c) for c in self.conductors)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Thévenin source: open-circuit voltage to earth `u_v` (n) [V] at `angle_deg` (n) behind `z_ohm` (n, n) [ohm]."""

    bus: str
    conductors: tuple[Conductor, ...]
    u_v: tuple[float, ...]
    angle_deg: tuple[float, ...]
    z_ohm: ComplexMatrix

    @property
    def phasors_v(self) -> NDArray[np.complex128]:
        """Open-circuit voltages [V] (n)."""
        return matrix(np.array(self.u_v) * np.exp(1j * np.deg2rad(self.angle_deg)))

    def nodes(self) -> tuple[Node, ...]:
        """Its nodes, in the order of the matrix."""
        return tuple(Node(self.bus, c) for c in self.conductors)


class Zip(NamedTuple):
    """Shares of constant impedance, current and power at nominal voltage; they add up to 1."""

    z: float = 0.0
    i: float = 0.0
    p: float = 1.0


CONSTANT_POWER: Final = Zip()


@dataclass(frozen=True, slots=True)
class Connection:
    """A port: where a customer's phase is connected, and what is drawn there in the base case (import positive)."""

    pos: Conductor
    neg: Conductor
    p_w: float = 0.0
    q_var: float = 0.0
    u_nominal_v: float | None = None
    zip_share: Zip = CONSTANT_POWER

    @property
    def label(self) -> str:
        """`L1` for phase to neutral or earth, `L1L2` between phases."""
        return str(self.pos) if self.neg in (Conductor.N, Conductor.E) else f"{self.pos}{self.neg}"


@dataclass(frozen=True, slots=True)
class ConnectionPoint:
    """A customer: the bus, one connection for each phase, and the meter that measures it if there is one."""

    id: str
    bus: str
    connections: tuple[Connection, ...]
    meter: str | None = None


class Port(NamedTuple):
    """One connection of one connection point, as the power flow sees it."""

    name: str
    bus: str
    connection: Connection


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A whole feeder with one source. `radial` says that its author wants loops refused."""

    name: str
    source: Source
    buses: tuple[Bus, ...]
    branches: tuple[Branch, ...] = ()
    transformers: tuple[Transformer, ...] = ()
    switches: tuple[Switch, ...] = ()
    earthings: tuple[Earthing, ...] = ()
    shunts: tuple[Shunt, ...] = ()
    connection_points: tuple[ConnectionPoint, ...] = ()
    description: str = ""
    frequency_hz: float = 50.0
    radial: bool = False
    memo: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def ports(self) -> tuple[Port, ...]:
        """Every connection in file order; named by the customer, with the phase where there is more than one."""
        return tuple(self._each_port())

    def _each_port(self) -> Iterator[Port]:
        for point in self.connection_points:
            for connection in point.connections:
                name = point.id if len(point.connections) == 1 else f"{point.id}.{connection.label}"
                yield Port(name, point.bus, connection)

    def port_nominal_v(self) -> NDArray[np.float64]:
        """Nominal voltage across each port [V] (n_port)."""
        found = []
        for port in self.ports():
            c, u = port.connection, self.bus(port.bus).u_nominal_v
            found.append(c.u_nominal_v or (u if c.neg in (Conductor.N, Conductor.E) else math.sqrt(3) * u))
        return np.array(found)

    def bus(self, bus_id: str) -> Bus:
        """The bus of that id; KeyError if there is none."""
        found = self.memo.get("buses")
        if not isinstance(found, dict):
            found = self.memo["buses"] = {bus.id: bus for bus in self.buses}
        bus = found[bus_id]
        assert isinstance(bus, Bus)
        return bus


def matrix(values: ArrayLike) -> ComplexMatrix:
    """A read-only complex copy of `values`."""
    array = np.array(values, dtype=np.complex128)
    array.setflags(write=False)
    return array


def sequence_matrix(z1: complex, z0: complex, count: int = 3) -> ComplexMatrix:
    """Phase matrix (count, count) of a symmetrical element from its positive- and zero-sequence values."""
    own, mutual = (z0 + 2 * z1) / 3, (z0 - z1) / 3
    return matrix(np.full((count, count), mutual) + np.eye(count) * (own - mutual))


def balanced_source(bus: str, u_v: float, z_ohm: ArrayLike, angle_deg: float = 0.0) -> Source:
    """Three-phase source of the positive sequence; `u_v` is phase to earth [V]."""
    return Source(bus, PHASES, (u_v,) * 3, tuple(angle_deg + ROTATION[phase] for phase in PHASES), matrix(z_ohm))


_RING: Final = {Conductor.L1: Conductor.L2, Conductor.L2: Conductor.L3, Conductor.L3: Conductor.L1}


def _windings(kind: str, star: Conductor) -> list[tuple[Conductor, Conductor]]:
    """Ends of the three windings at clock 0; a delta winding k joins phase k to the phase after it."""
    return [(a, _RING[a]) if kind == "d" else (a, star) for a in PHASES]


def _rolled(ends: Sequence[tuple[Conductor, Conductor]], by: int) -> list[tuple[Conductor, Conductor]]:
    return [ends[(k + by) % 3] for k in range(3)]


def three_phase_coils(
    vector_group: str,
    primary: tuple[str, float],
    secondary: tuple[str, float],
    taps: tuple[float, float] = (1.0, 1.0),
    stars: tuple[Conductor, Conductor] = (Conductor.E, Conductor.E),
    shunt_pu: tuple[complex, complex] = (0j, 0j),
) -> tuple[Coil, Coil, Coil]:
    """The three coils of a bank by its vector group, for example `Dyn11`.

    Args:
        vector_group: high-voltage kind `Y` or `D`, low-voltage kind `y` or `d`, optional `N`/`n`, clock number 0..11.
        primary, secondary: bus and rated phase-to-phase voltage [V].
        taps: ratio of each side's present to its rated turns.
        stars: conductor that a star point is joined to: `N`, or `E` for a star point earthed without impedance.
        shunt_pu: admittance of one coil across primary and secondary [pu].

    Raises:
        ValueError: not such a group, or a clock number these windings cannot give.
    """
    kinds, clock = parse_vector_group(vector_group)
    ends = [_windings(kind, star) for kind, star in zip(kinds, stars, strict=True)]
    # The secondary lags by 30 degrees for each hour. Delta winding k joins L(k) to L(k+1): it leads star winding k by
    # 30 degrees. One third of a turn (4 hours) is a change of names; half a turn (6 hours) turns the winding round.
    base = {("y", "y"): 0, ("d", "d"): 0, ("y", "d"): 1, ("d", "y"): 11}[kinds]
    hours = (clock - base) % 12
    if hours % 2:
        raise ValueError(
            f"vector group {vector_group}: these windings give {'odd' if base else 'even'} clock numbers only"
        )
    if hours % 4:
        ends[1] = [(b, a) for a, b in ends[1]]
        hours = (hours + 6) % 12
    ends[1] = _rolled(ends[1], -(hours // 4))
    coils = []
    for (p_pos, p_neg), (s_pos, s_neg) in zip(*ends, strict=True):
        sides = []
        for kind, (bus, u_v), tap, pos, neg in zip(
            kinds, (primary, secondary), taps, (p_pos, s_pos), (p_neg, s_neg), strict=True
        ):
            sides.append(CoilEnd(bus, pos, neg, u_v if kind == "d" else u_v / math.sqrt(3), tap))
        coils.append(Coil(sides[0], sides[1], shunt_pu))
    return coils[0], coils[1], coils[2]


def parse_vector_group(vector_group: str) -> tuple[tuple[str, str], int]:
    """Winding kinds `("d", "y")` and clock number of a group like `Dyn11`.

    Raises:
        ValueError: anything but Y or D, with or without neutral, and a number 0..11.
    """
    text = vector_group.strip().lower()
    letters = text.rstrip("0123456789")
    digits = text[len(letters) :]
    kinds = letters.replace("n", "")
    if len(kinds) != 2 or set(kinds) - {"y", "d"} or letters not in _GROUP_LETTERS or not digits or int(digits) > 11:
        raise ValueError(f"vector group: seen {vector_group!r}, expected for example Dyn11, YNyn0, Yd1, Dd0")
    return (kinds[0], kinds[1]), int(digits)


_GROUP_LETTERS: Final = frozenset(a + b for a in ("y", "yn", "d") for b in ("y", "yn", "d"))
