"""Everything a worker of the probabilistic study needs, and the pieces of work it does."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.network import PHASES, Network
from dcu.grid.network_file import network_json
from dcu.planning.draws import DAYS_A_BLOCK, Draws, Sampling, draw, stream
from dcu.planning.evaluate import Limits, Observer, Tally, lit, rated_wires, tally
from dcu.planning.feeder_case import Control, Existing, FeederCase, Unit, feeder_case
from dcu.planning.history import History, Reals
from dcu.planning.profiles import Pool, Profiles
from dcu.planning.reference import Reference

CACHE_BYTES: Final = 192 << 20
"""Draws and port powers a worker keeps between levels."""
TODAY: Final = "today"
"""Name of every scenario's level 0."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario's places and control; `key` is equal where the power flow is."""

    name: str
    units: tuple[Unit, ...]
    control: Control

    @property
    def key(self) -> str:
        """The same for scenarios that differ in their criteria alone."""
        places = ";".join(f"{u.name}*{u.weight!r}<{u.cap_w!r}" for u in self.units)
        return f"{self.control} {places}"


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What was read, as it is handed to workers."""

    network: Network
    past: History
    profiles: Profiles
    reference: Reference
    existing: tuple[Existing, ...]
    plans: tuple[Plan, ...]
    limits: Limits
    sampling: Sampling
    seed: int
    pool: Pool = "year"


@dataclass(slots=True, eq=False)
class World:
    """Inputs with what is compiled from them and a cache of draws."""

    inputs: Inputs
    feeder_name: str
    cases: dict[str, FeederCase]
    observers: dict[str, Observer]
    _kept: OrderedDict[tuple[str, str, int, int], tuple[Reals, Reals]] = field(default_factory=OrderedDict)
    _draws: OrderedDict[tuple[int, int], Draws] = field(default_factory=OrderedDict)

    def draws(self, block: int, days: int) -> Draws:
        """The states of a block: the same for every scenario and level (common random numbers)."""
        key = (block, days)
        if key not in self._draws:
            rng = stream(self.inputs.seed, self.feeder_name, "states", block)
            self._draws[key] = draw(self.inputs.profiles, self.inputs.sampling, rng, days)
            while len(self._draws) > 1 and sum(_size(d) for d in self._draws.values()) > CACHE_BYTES:
                self._draws.popitem(last=False)
        return self._draws[key]

    def lit_states(self, scenario: str, block: int, days: int) -> tuple[Reals, Reals]:
        """Port powers without new units and power of a 1 W unit, in the states with PV."""
        key = (scenario, "lit", block, days)
        if key not in self._kept:
            d = self.draws(block, days)
            some = lit(d)
            self._kept[key] = self.cases[scenario].base_w(d)[some], d.per_w[some]
            while len(self._kept) > 1 and sum(a.nbytes + b.nbytes for a, b in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
        return self._kept[key]

    @property
    def days_matter(self) -> bool:
        """Whether the states of a simulated day hang together."""
        return self.inputs.sampling.days_matter(self.inputs.profiles)

    def lit_days(self, block: int, days: int) -> NDArray[np.int64] | None:
        """The day of each state with PV; None where every state is drawn by itself."""
        if not self.days_matter:
            return None
        d = self.draws(block, days)
        return d.day[lit(d)]


def _size(d: Draws) -> int:
    return d.load_w.nbytes + d.pv_w.nbytes + d.per_w.nbytes + d.slot.nbytes


def build(inputs: Inputs) -> World:
    """Compile every scenario's feeder."""
    cases = {
        p.name: feeder_case(
            inputs.network, inputs.profiles.customers, inputs.existing, inputs.profiles.pv_customers, p.units, p.control
        )
        for p in inputs.plans
    }
    watched = dict.fromkeys(
        [p.bus for p in inputs.network.connection_points] + [u.bus for p in inputs.plans for u in p.units]
    )
    bare = replace(
        inputs.network, buses=tuple(replace(b, position=None) for b in inputs.network.buses), description="", memo={}
    )  # a drawing changes no draw
    digest = hashlib.sha256(network_json(bare).encode()).hexdigest()
    wires = _wires(inputs, tuple(watched))
    return World(inputs, digest, cases, {name: Observer(case, tuple(watched), wires) for name, case in cases.items()})


def _wires(inputs: Inputs, watched: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The branch currents to watch, the same for every scenario: those that power at any watched bus makes."""
    conductors = {b.id: b.conductors for b in inputs.network.buses}
    every = tuple(Unit(b, (p,)) for b in watched for p in PHASES if p in conductors[b])
    names, with_pv = inputs.profiles.customers, inputs.profiles.pv_customers
    widest = feeder_case(inputs.network, names, inputs.existing, with_pv, every, Control.ON_OFF)
    return rated_wires(widest.feeder.model)


def blocks(days: int) -> list[int]:
    """Days of each block of a level."""
    whole, rest = divmod(days, DAYS_A_BLOCK)
    return [DAYS_A_BLOCK] * whole + [rest] * bool(rest)


def lit_tally(world: World, scenario: str, level_w: float, block: int, days: int, detail: int) -> Tally:
    """Counts of a block's states with PV at one level."""
    base, per_w = world.lit_states(scenario, block, days)
    case, observer = world.cases[scenario], world.observers[scenario]
    day = world.lit_days(block, days)
    return tally(case, observer, base, per_w, level_w, world.inputs.limits, detail=bool(detail), day=day)


def dark_tally(world: World, scenario: str, block: int, days: int) -> Tally:
    """Counts of a block's states without PV: the same at every level, because inverters sleep."""
    d = world.draws(block, days)
    case, observer = world.cases[scenario], world.observers[scenario]
    dark = np.flatnonzero(~lit(d))
    day = d.day[dark] if world.days_matter else None
    limits = world.inputs.limits
    return tally(case, observer, case.base_w(d)[dark], d.per_w[dark], 0.0, limits, detail=True, day=day)
