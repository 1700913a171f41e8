"""What lies between the stations of a street: cables, house taps, branchings, phases; from a feeder, or made up.

The band is CENELEC A, 42 to 89 kHz, taken as a whole. A signal on its way loses with every metre of cable, more at its
high end than at its low one; at every service line it passes; where the cable branches; and where it has to couple from
one phase to another. Noise is louder at the low end. What the slopes of both cost the demodulator beyond the ratio of
the sums is the link's colour loss, from the exponential mean of the carriers' ratios (that of DBPSK).

Origin of the numbers: the noise spectrum and 40 to 100 dB/km are those of residential networks in O. Hooijen's
measurements (IEEE, 1998), *recalled and not checked*; losses of taps, branchings and phases are *ours*, of the order of
a matched joint and of a service line's own impedance.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import numpy as np

from dcu.grid.network import Network
from hil_tests.virtual.channel import Reals

CARRIERS_HZ: Final = (np.arange(86, 183) * 488.28125).astype(np.float64)
"""[Hz] The 97 carriers of channel 1."""

CENTRE_HZ: Final = float(CARRIERS_HZ[48])
NOISE_DECADES_PER_HZ: Final = -3.95e-5
"""Slope of the background noise's power density (recalled)."""

CABLE_EXPONENT: Final = 0.7
"""Attenuation of a cable grows with frequency to this power; between skin effect (0.5) and dielectric loss (1)."""

REACTANCE_OHM_PER_M: Final = 0.075e-3
"""Low-voltage cables hardly differ in it (0.07 to 0.1 ohm/km), so it tells their length where a network has none."""

WORKING_DB: Final = 4.5
"""Where colour loss is taken: what DBPSK_C needs in practice."""

BASE: Final = "base"
PHASES: Final = ("L1", "L2", "L3")


@dataclass(frozen=True, slots=True)
class PathSettings:
    """What a signal loses, and how much stations differ.

    Attributes:
        cable_db_per_m: at the band's centre.
        tap_db: at every service line it passes.
        branch_db: at every branching of the cable it passes: a third cable takes its share of a matched joint.
        phase_db: from one phase to another, once.
        noise_spread_db: standard deviation of the noise floor from station to station.
    """

    cable_db_per_m: float = 0.06
    tap_db: float = 0.7
    branch_db: float = 3.5
    phase_db: float = 10.0
    noise_spread_db: float = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a station stands; ``phase`` None means all of them (a DCU)."""

    bus: str
    phase: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A street on paper: cables between buses with their lengths [m], and who stands where."""

    cables: tuple[tuple[str, str, float], ...]
    places: Mapping[str, Place]


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """What a line has to know: attenuation and colour loss between any two, each station's own noise.

    Attributes:
        names: stations.
        path_db, colour_db: (n, n) [dB].
        noise_db: difference to the line's noise floor (n) [dB].
    """

    names: tuple[str, ...]
    path_db: Reals
    colour_db: Reals
    noise_db: Reals
    index: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {name: at for at, name in enumerate(self.names)})


def plan_of(network: Network, base: str = BASE) -> Plan:
    """The cables of a feeder: the DCU at its transformer's busbar, one station for each customer."""
    cables = [
        (branch.from_end.bus, branch.to_end.bus, _length_m(complex(branch.z_ohm[0, 0]), complex(branch.z_ohm[0, -1])))
        for branch in network.branches
    ]
    cables += [(switch.from_bus, switch.to_bus, 0.0) for switch in network.switches if switch.closed]
    busbar = network.transformers[0].secondary_bus if network.transformers else network.source.bus
    places = {base: Place(busbar, None)}
    for point in network.connection_points:
        phases = {str(connection.pos) for connection in point.connections}
        places[point.id] = Place(point.bus, phases.pop() if len(phases) == 1 else None)
    return Plan(tuple(cables), places)


def _length_m(own: complex, mutual: complex) -> float:
    """Length [m] by the reactance of the positive sequence."""
    reactance = own.imag - (mutual.imag if mutual != own else 0.0)
    return max(reactance, 0.0) / REACTANCE_OHM_PER_M


def street_plan(houses: int, seed: int, spacing_m: float = 20.0, cables: int = 2, base: str = BASE) -> Plan:
    """A made-up street: cables from the substation, a house every few metres, now and then a side street.

    Houses stand on the phases in turn, each at the end of a service line of 8 to 25 m; stations are ``n001`` and so on.
    """
    chance = np.random.default_rng([seed, 1])
    lines: list[tuple[str, str, float]] = []
    places = {base: Place("busbar", None)}
    ends = ["busbar"] * cables
    aside: list[str | None] = [None] * cables
    left = [0] * cables
    for number in range(1, houses + 1):
        k = number % cables
        if left[k] == 0 and chance.random() < 0.06:
            aside[k], left[k] = ends[k], int(chance.integers(2, 6))
        start = aside[k] if left[k] else ends[k]
        assert start is not None
        joint, house = f"j{number:03}", f"h{number:03}"
        lines.append((start, joint, spacing_m * float(chance.uniform(0.6, 1.4))))
        lines.append((joint, house, float(chance.uniform(8.0, 25.0))))
        places[f"n{number:03}"] = Place(house, PHASES[int(chance.integers(3))])
        if left[k]:
            left[k] -= 1
            aside[k] = joint
        else:
            ends[k] = joint
    return Plan(tuple(lines), places)


def topology_of(plan: Plan, settings: PathSettings, seed: int) -> Topology:
    """Losses between all stations of a plan along the cheapest way."""
    names = tuple(plan.places)
    graph = _Graph(plan, settings)
    count = len(names)
    cable_db, other_db = np.zeros((count, count)), np.zeros((count, count))
    places = [plan.places[name] for name in names]
    for at, place in enumerate(places):
        reached = graph.from_bus(place.bus)
        for k, other in enumerate(places):
            cable_db[at, k], other_db[at, k] = reached[other.bus]
            if place.phase and other.phase and place.phase != other.phase:
                other_db[at, k] += settings.phase_db
    band_db, colour_db = cable_band(cable_db)
    noise_db = settings.noise_spread_db * np.random.default_rng([seed, 2]).standard_normal(count)
    path_db = band_db + other_db
    np.fill_diagonal(path_db, 0.0)
    return Topology(names, path_db, colour_db, noise_db)


class _Graph:
    """Cables as a graph whose buses cost something to pass."""

    def __init__(self, plan: Plan, settings: PathSettings) -> None:
        self._settings = settings
        self._around: dict[str, list[tuple[str, float]]] = {}
        for a, b, length_m in plan.cables:
            self._around.setdefault(a, []).append((b, length_m * settings.cable_db_per_m))
            self._around.setdefault(b, []).append((a, length_m * settings.cable_db_per_m))
        self._houses: dict[str, int] = {}
        for place in plan.places.values():
            self._around.setdefault(place.bus, [])
            self._houses[place.bus] = self._houses.get(place.bus, 0) + 1
        self._passed: dict[tuple[str, str], list[tuple[str, float, float]]] = {}

    def _passing(self, bus: str, before: str) -> list[tuple[str, float, float]]:
        """To all around, for who comes from ``before``: where to, what passing takes, and the cable there [dB]."""
        sides_db = self._settings.tap_db * self._houses.get(bus, 0)
        sides_db += sum(self._side_db(side) for side, _ in self._around[bus] if side != before)
        return [(other, sides_db - self._side_db(other), metres_db) for other, metres_db in self._around[bus]]

    def _side_db(self, bus: str) -> float:
        """What a bus beside the way takes: the end of a service line a tap, a cable its share of a joint."""
        service = len(self._around[bus]) == 1 and bus in self._houses
        return self._settings.tap_db if service else self._settings.branch_db

    def from_bus(self, start: str) -> dict[str, tuple[float, float]]:
        """To every bus: what the cable costs and what else there is on the way [dB]."""
        found: dict[str, tuple[float, float]] = {}
        queue = [(0.0, start, "", 0.0)]
        while queue:
            total_db, bus, before, cable_db = heapq.heappop(queue)
            if bus in found:
                continue
            found[bus] = cable_db, total_db - cable_db
            passing = self._passed.get((bus, before))
            if passing is None:  # the same from wherever the way began
                passing = self._passed[bus, before] = self._passing(bus, before)
            for other, side_db, metres_db in passing:
                if other not in found:
                    passing_db = 0.0 if bus == start else side_db
                    heapq.heappush(queue, (total_db + passing_db + metres_db, other, bus, cable_db + metres_db))
        return found


def cable_band(cable_db: Reals) -> tuple[Reals, Reals]:
    """Of a cable's attenuation at the centre [dB]: that of the band as a whole, and the colour loss [dB]."""
    grid, band_db, colour_db = _band_table()
    return np.interp(cable_db, grid, band_db), np.interp(cable_db, grid, colour_db)


@lru_cache(maxsize=1)
def _band_table() -> tuple[Reals, Reals, Reals]:
    grid = np.arange(0.0, 201.0)
    attenuation_db = grid[:, None] * (CARRIERS_HZ / CENTRE_HZ) ** CABLE_EXPONENT
    noise = 10 ** (NOISE_DECADES_PER_HZ * (CARRIERS_HZ - CENTRE_HZ))
    signal = 10 ** (-attenuation_db / 10)
    ratio = signal / noise
    whole_db = 10 * np.log10(signal.mean(axis=1) / noise.mean())
    # Lift every link to where the effective ratio is the working one, and compare it with that of the sums.
    low, high = np.full(len(grid), -50.0), np.full(len(grid), 400.0)
    for _ in range(60):
        middle = (low + high) / 2
        lifted = ratio * 10 ** (middle / 10)[:, None]
        effective = -np.log(np.maximum(np.exp(-lifted).mean(axis=1), np.finfo(float).tiny))
        above = effective > 10 ** (WORKING_DB / 10)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return grid, -10 * np.log10(signal.mean(axis=1)), whole_db + (low + high) / 2 - WORKING_DB


def depths(topology: Topology, reach_db: float, base: str = BASE) -> Reals:
    """Hops [1] from the base to every station if both ways of a hop may cost ``reach_db`` against the line's noise
    floor; infinite where there is none."""
    worst_db = topology.path_db + topology.colour_db + np.maximum(topology.noise_db[:, None], topology.noise_db)
    heard = worst_db <= reach_db
    hops = np.full(len(topology.names), math.inf)
    front = np.zeros(len(hops), dtype=bool)
    front[topology.index[base]] = True
    hop = 0
    while front.any():
        hops[front] = hop
        front = heard[front].any(axis=0) & np.isinf(hops)
        hop += 1
    return hops


def street(houses: int, levels: int, seed: int, reach_db: float, settings: PathSettings) -> tuple[Plan, Topology]:
    """A made-up street as long as it takes for a tenth of its houses to be ``levels`` hops or more from the base.

    One of a single level is as long as it may be. Fewer levels take more cables from the substation: fifty houses on
    one cable are more than a hop by their taps alone.

    Args:
        houses, levels, seed: of the street.
        reach_db: what a hop may cost against the line's noise floor.
        settings: losses.
    """
    plan = street_plan(houses, seed, spacing_m=1.0, cables=max(2, -(-houses // (15 * levels))))
    low_m, high_m = 1.0, 200.0
    for _ in range(12):
        middle_m = (low_m + high_m) / 2
        hops = depths(topology_of(_spaced(plan, middle_m), settings, seed), reach_db)
        far = hops.max() > 1 if levels == 1 else np.quantile(hops, 0.9, method="lower") >= levels
        low_m, high_m = (low_m, middle_m) if far else (middle_m, high_m)
    plan = _spaced(plan, low_m if levels == 1 else high_m)
    return plan, topology_of(plan, settings, seed)


def _spaced(plan: Plan, spacing_m: float) -> Plan:
    """Joints so far apart; service lines keep their length."""
    cables = tuple((a, b, m if b.startswith("h") else spacing_m * m) for a, b, m in plan.cables)
    return replace(plan, cables=cables)
