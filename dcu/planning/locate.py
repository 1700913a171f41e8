"""Capacity found by halving, where the growth itself is of no interest: a place's own, other data, other load
models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dcu.grid.network import PHASES, Conductor
from dcu.planning.capacity import GROUPS, Criterion, Rule, interval_at, verdict
from dcu.planning.draws import Draws, LoadModel, PvScope, Sampling, draw, stream
from dcu.planning.evaluate import Observer, Tally, lit, tally
from dcu.planning.feeder_case import Control, FeederCase, Unit, feeder_case
from dcu.planning.history import Reals
from dcu.planning.profiles import Pool, Profiles, profiles
from dcu.planning.world import World

PLACE_W_MAX: Final = 100_000.0
"""A single place that hosts more is told as hosting this much [W]."""


def largest(feasible: Callable[[int], bool], top: int) -> int:
    """The largest step 0 .. top that is feasible, given that what is feasible stays so below; -1 if none is."""
    if not feasible(0):
        return -1
    low, high = 0, 1
    while high <= top and feasible(high):
        low, high = high, high * 2
    high = min(high, top + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if feasible(middle):
            low = middle
        else:
            high = middle
    return low


def judge(
    case: FeederCase, observer: Observer, world: World, draws: Draws, level_w: float, *, days_matter: bool = False
) -> Tally:
    """The tally of a set of draws at a level."""
    found = None
    sunny = lit(draws)
    base, limits = case.base_w(draws), world.inputs.limits
    for some, w in ((sunny, level_w), (~sunny, 0.0)):
        day = draws.day[some] if days_matter else None
        part = tally(case, observer, base[some], draws.per_w[some], w, limits, detail=False, day=day)
        if found is None:
            found = part
        else:
            found.join(part)
    assert found is not None, "there are two kinds of states"
    return found


@dataclass(frozen=True, slots=True)
class PlaceCapacity:
    """What one new unit alone can be rated at a bus and phase, by voltage and by voltage and current [W], and what then
    binds."""

    bus: str
    phase: str
    voltage_w: float
    current_w: float
    binding: str


def place_capacities(world: World, bus: str, rule: Rule, step_w: float, days: int) -> list[PlaceCapacity]:
    """Every phase of a bus, one unit at a time on today's feeder."""
    inputs = world.inputs
    wires = inputs.network.bus(bus).conductors
    units = tuple(Unit(bus, (p,)) for p in PHASES if p in wires)
    case = feeder_case(
        inputs.network, inputs.profiles.customers, inputs.existing, inputs.profiles.pv_customers, units, Control.ON_OFF
    )
    watched = next(iter(world.observers.values()))
    observer = Observer(case, tuple(dict.fromkeys(b for b, _ in watched.points)), watched.wires)
    draws = draw(inputs.profiles, inputs.sampling, stream(inputs.seed, world.feeder_name, "places"), days)
    some = lit(draws)
    base, per_w = case.base_w(draws)[some], draws.per_w[some]
    dark = tally(case, observer, case.base_w(draws)[~some], draws.per_w[~some], 0.0, inputs.limits, detail=False)
    found = []
    for unit, ports in zip(case.units, case.unit_ports, strict=True):
        alone = replace(case, units=(unit,), unit_ports=(ports,), elements={})
        seen: dict[int, tuple[Criterion, ...]] = {}
        names: dict[int, str] = {}

        def fails(
            step: int,
            alone: FeederCase = alone,
            seen: dict[int, tuple[Criterion, ...]] = seen,
            names: dict[int, str] = names,
        ) -> tuple[Criterion, ...]:
            if step not in seen:
                whole = tally(alone, observer, base, per_w, step * step_w, inputs.limits, detail=False)
                whole.add(dark)
                violations = verdict(whole, observer, rule)
                seen[step] = tuple(v.criterion for v in violations)
                names[step] = next(
                    (f"{v.criterion} at {v.place}" for v in violations if v.criterion is not Criterion.UNBALANCE), ""
                )
            return seen[step]

        top = int(PLACE_W_MAX / step_w)
        by_voltage = largest(lambda s: not set(fails(s)) & set(GROUPS["voltage"]), top)
        by_current = largest(lambda s: not set(fails(s)) & set(GROUPS["current"]), top)
        binding = names.get(by_current + 1, "") if by_current < top else ""
        found.append(
            PlaceCapacity(bus, str(unit.phases[0]), max(by_voltage, 0) * step_w, max(by_current, 0) * step_w, binding)
        )
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """What variants are asked: by which rule, in which steps [W], at which level they are compared [W], and from how
    many simulated days."""

    rule: Rule
    step_w: float
    shared_w: float
    days: int


@dataclass(frozen=True, slots=True)
class Variant:
    """Capacity of a scenario under another assumption: rating of a unit by voltage and by voltage and current [W], the
    last feasible step, and the probability of overvoltage at a level that all variants share with its 95 %
    interval."""

    name: str
    voltage_w: float
    current_w: float
    overvoltage: float
    low: float
    high: float


def _variant(
    world: World, scenario: str, name: str, known: Profiles, sampling: Sampling, asked: Asked, rng: np.random.Generator
) -> Variant:
    draws = draw(known, sampling, rng, asked.days)
    days_matter = sampling.days_matter(known)
    case, observer = world.cases[scenario], world.observers[scenario]
    seen: dict[int, Tally] = {}

    def at(step: int) -> Tally:
        if step not in seen:
            seen[step] = judge(case, observer, world, draws, step * asked.step_w, days_matter=days_matter)
        return seen[step]

    def feasible(step: int, group: str) -> bool:
        return not {v.criterion for v in verdict(at(step), observer, asked.rule)} & set(GROUPS[group])

    by_voltage = largest(lambda s: feasible(s, "voltage"), 200)
    by_current = largest(lambda s: feasible(s, "current"), 200)
    shared = at(round(asked.shared_w / asked.step_w))
    worst = int(np.argmax(shared.over))
    low, high = interval_at(shared, Criterion.OVERVOLTAGE, worst)
    hosted = [max(step, 0) * asked.step_w for step in (by_voltage, by_current)]
    return Variant(name, hosted[0], hosted[1], float(shared.over[worst] / shared.states), low, high)


@dataclass(frozen=True, slots=True)
class LoadAssumption:
    """How loads and PV are drawn in a comparison, and what it is called."""

    text: str
    loads: LoadModel
    scope: PvScope
    pool: Pool


LOAD_MODELS: Final = (
    LoadAssumption("independent quarter-hours (published)", "independent", "state", "year"),
    LoadAssumption("the same, one PV probability a day", "independent", "day", "year"),
    LoadAssumption("the same, by season and kind of day", "independent", "state", "season_daytype"),
    LoadAssumption("whole days of each customer", "own_days", "day", "year"),
    LoadAssumption("the same whole day for all", "common_days", "day", "year"),
)


def load_model(world: World, scenario: str, index: int, asked: Asked) -> Variant:
    """The scenario under one of `LOAD_MODELS`."""
    inputs, chosen = world.inputs, LOAD_MODELS[index]
    rng = stream(inputs.seed, world.feeder_name, "load model", index)
    known = inputs.profiles
    if chosen.pool != inputs.pool:
        known = profiles(inputs.past, chosen.pool, inputs.reference, "meter data")
    return _variant(world, scenario, chosen.text, known, Sampling(chosen.loads, chosen.scope), asked, rng)


def data_window(world: World, scenario: str, first: int, count: int, asked: Asked) -> Variant:
    """The scenario if only `count` recorded days from day `first` on were known.

    Raises:
        ConfigError: a customer has no recording in some interval of these days, or never changes its load in them.
    """
    inputs = world.inputs
    past = inputs.past.only(slice(first, first + count))
    known = profiles(past, inputs.pool, inputs.reference, "meter data")
    rng = stream(inputs.seed, world.feeder_name, "window", first, count)
    return _variant(world, scenario, f"{first}+{count}", known, inputs.sampling, asked, rng)


def windows(days: int) -> list[tuple[int, int]]:
    """First day and length of the windows that `data_window` is asked for: one week to all, up to eight of each."""
    found = []
    for weeks in (1, 2, 4, 8, 13, 26):
        count = weeks * 7
        if count < days:
            starts = np.linspace(0, days - count, 8).astype(int)
            found += [(int(s), count) for s in dict.fromkeys(starts.tolist())]
    return [*found, (0, days)]


def rebalanced(world: World, scenario: str) -> tuple[Unit, ...]:
    """The scenario's single-phase units, each put on the phase where it raises the highest voltage least.

    Linear in the units' power at open-circuit voltage; existing PV at its rating and mean loads are counted. Units are
    placed from the far end of the feeder on, where a wrong phase costs most.
    """
    inputs = world.inputs
    plan = next(p for p in inputs.plans if p.name == scenario)
    every = tuple(Unit(u.bus, (p,)) for u in plan.units for p in PHASES if p in inputs.network.bus(u.bus).conductors)
    case = feeder_case(
        inputs.network, inputs.profiles.customers, inputs.existing, inputs.profiles.pv_customers, every, Control.ON_OFF
    )
    model = case.feeder.model
    # Rise of each port's voltage for each watt fed in at each port [V/W].
    rise = np.real(
        model.z_ohm * np.exp(-1j * np.angle(model.u_open_v))[:, None] * np.exp(1j * np.angle(model.u_open_v))[None, :]
    )
    rise = rise / np.abs(model.u_open_v)[None, :]
    rated = np.array([next(e.rated_w for e in inputs.existing if e.customer == c) for c in inputs.past.pv_customers])
    fed = rated @ case.existing_share - np.nanmean(inputs.past.load_w, axis=(1, 2)) @ case.load_share
    voltage = np.abs(model.u_open_v) + rise @ fed
    port = {(u.bus, u.phases[0]): ports[0] for u, ports in zip(case.units, case.unit_ports, strict=True)}
    typical_w = 5_000.0
    far = sorted(
        range(len(plan.units)), key=lambda k: -rise[port[plan.units[k].bus, _first(world, plan.units[k].bus)]].max()
    )
    chosen: dict[int, Conductor] = {}
    for k in far:
        unit = plan.units[k]
        options = [p for p in PHASES if (unit.bus, p) in port]
        after = {p: voltage + rise[:, port[unit.bus, p]] * typical_w * unit.weight for p in options}
        best = min(options, key=lambda p: (float(_penalty(after[p])), p))
        chosen[k], voltage = best, after[best]
    return tuple(replace(u, phases=(chosen[k],)) for k, u in enumerate(plan.units))


def _penalty(voltage: Reals) -> float:
    """Large where any voltage is high; smooth, so that a unit far below the highest point still finds the better
    phase."""
    top = float(voltage.max())
    return top + float(np.log(np.exp((voltage - top) / 2.0).sum()) * 2.0)


def _first(world: World, bus: str) -> Conductor:
    return next(p for p in PHASES if p in world.inputs.network.bus(bus).conductors)
