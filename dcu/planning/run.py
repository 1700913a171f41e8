"""One probabilistic study from its file to its folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from dcu.grid.network import Network
from dcu.grid.network_file import load_network
from dcu.planning import adapters
from dcu.planning.capacity import Capacity, Level, Rule, Steps, capacities
from dcu.planning.deterministic import WorstCase, deterministic
from dcu.planning.dynamic import Dynamic, dynamic
from dcu.planning.evaluate import Tally
from dcu.planning.locate import (
    LOAD_MODELS,
    Asked,
    PlaceCapacity,
    Variant,
    data_window,
    load_model,
    place_capacities,
    rebalanced,
    windows,
)
from dcu.planning.losses import Losses, losses
from dcu.planning.meter_data import MeterTable
from dcu.planning.probabilistic import Effort, Run, detail, grow_scenario
from dcu.planning.profiles import DAYS_ENOUGH, history, profiles
from dcu.planning.rare import RareResult, rare_overvoltage
from dcu.planning.settings import ProbabilisticStudy, Scenario
from dcu.planning.study.outcome import file_sha256, versions
from dcu.planning.study.partial import Partial
from dcu.planning.study.workers import Driver, Progress, Task, Workers, drive
from dcu.planning.world import Inputs, Plan, World, build
from shared.errors import ConfigError, Fault, HeadroomError

PLACE_DAYS: Final = 50
VARIANT_DAYS: Final = 400
GRANT_DAYS: Final = 100
REBALANCED: Final = " re-balanced"
ALL_GROUPS: Final = ("voltage", "current", "unbalance")


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A study with its inputs."""

    study: ProbabilisticStudy
    folder: Path
    inputs: Inputs
    world: World
    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All results of a study."""

    logs: dict[str, list[Level]]
    capacities: dict[str, list[Capacity]]
    details: dict[str, Tally]
    deterministic: dict[str, dict[str, list[Capacity]]]
    losses: Losses | None
    places: list[PlaceCapacity]
    rebalanced: tuple[str, ...]
    load_models: list[Variant]
    data_length: list[tuple[int, int, Variant]]
    dynamic: Dynamic | None
    nominal: Dynamic | None
    rare: RareResult | None
    untold: tuple[str, ...]
    effort: Effort


def read_study(study: ProbabilisticStudy, folder: Path) -> Read:
    """Everything a study names, read and checked.

    Raises:
        ConfigError: a file that is refused, or a study that does not fit its feeder.
    """
    study = _with_files(study, folder)
    network_path = folder / study.network.file
    data_paths = [folder / name for name in study.meter_data.files]
    if study.meter_data.mapping:
        data_paths.append(folder / study.meter_data.mapping)
    files = (network_path, *data_paths)
    _check_hashes(study, files)
    network = load_network(network_path)
    table = _by_point(adapters.read(study.meter_data, folder), network)
    try:
        past = history(table, study.meter_data.timezone)
    except (KeyError, ValueError, OSError) as error:
        seen = repr(study.meter_data.timezone)
        raise ConfigError("study", [Fault("meter_data.timezone", seen, "a time zone as Europe/Brussels")]) from error
    known = profiles(past, study.sampling.pool, study.reference.customer, study.reference_rated_w, table.source)
    existing = study.existing_units({p.id: p.bus for p in network.connection_points})
    plans = [Plan(s.name, study.units(s), study.control(s)) for s in study.scenarios]
    inputs = Inputs(
        network, past, known, existing, tuple(plans), study.criteria, study.draw_model, study.seed, study.sampling.pool
    )
    world = build(inputs)
    if study.extras.rebalance:
        own = next(p for p in plans if p.name == study.extras.rebalance)
        more = Plan(own.name + REBALANCED, rebalanced(world, own.name), own.control)
        inputs = replace(inputs, plans=(*plans, more))
        world = build(inputs)
    return Read(study, folder, inputs, world, files, (*_notes(table, past.days), *_sequential_note(study)))


def _with_files(study: ProbabilisticStudy, folder: Path) -> ProbabilisticStudy:
    """Patterns such as `export/meter-data-*.parquet` replaced by the files they stand for.

    Raises:
        ConfigError: a pattern that no file fits.
    """
    names: list[str] = []
    for k, name in enumerate(study.meter_data.files):
        found = [name] if "*" not in name else _fitting(name, folder)
        if not found:
            raise ConfigError("study", [Fault(f"meter_data.files[{k}]", repr(name), "files that fit the pattern")])
        names += found
    return study.model_copy(update={"meter_data": study.meter_data.model_copy(update={"files": names})})


def _fitting(pattern: str, folder: Path) -> list[str]:
    whole = Path(pattern)
    if whole.is_absolute():
        return sorted(str(p) for p in Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))
    return sorted(str(p.relative_to(folder)) for p in folder.glob(pattern))


def _by_point(table: MeterTable, network: Network) -> MeterTable:
    """Customers that the data call by their meter, called as the network calls their connection point."""
    points = {p.id for p in network.connection_points}
    of_meter = {p.meter: p.id for p in network.connection_points if p.meter}
    return replace(table, customers=tuple(c if c in points else of_meter.get(c, c) for c in table.customers))


def _check_hashes(study: ProbabilisticStudy, files: tuple[Path, ...]) -> None:
    recorded = {i.file: i.sha256 for i in study.provenance.inputs}
    if not recorded:
        return
    faults = []
    names = [study.network.file, *study.meter_data.files, study.meter_data.mapping or ""]
    for name, path in zip(names, files, strict=False):
        if name in recorded and (seen := file_sha256(path)) != recorded[name]:
            faults.append(Fault(f"provenance {name}", f"sha256 {seen[:16]}...", f"{recorded[name][:16]}..., as it was"))
    if faults:
        raise ConfigError("study", faults)


def _sequential_note(study: ProbabilisticStudy) -> tuple[str, ...]:
    if study.sampling.stop == "fixed" or study.growth.until == "all":
        return ()
    text = (
        f"levels end when the verdict by {study.growth.until} is certain: what other criteria say comes from the same, "
        "sometimes few, states, and a largest current of few states is too small"
    )
    return (text,)


def _notes(table: MeterTable, days: int) -> tuple[str, ...]:
    notes = list(table.notes)
    if days < DAYS_ENOUGH:
        notes.append(
            f"only {days} days of meter data: seasons are missing, capacities may be far off (see data length)"
        )
    unknown = np.isfinite(table.export_wh).any(axis=1) & (np.nan_to_num(table.export_wh).sum(axis=1) > 0)
    unknown &= ~np.isfinite(table.pv_wh).any(axis=1)
    notes += [
        f"{table.customers[k]} exports and its PV is not measured: its net power is taken as its load"
        for k in np.flatnonzero(unknown)
    ]
    return tuple(notes)


def run(read: Read, out: Path | None, workers: int, progress: Progress) -> Findings:
    """All of a study, spread over workers.

    Args:
        read: the study.
        out: folder in which unfinished work is kept, so that an interrupted study goes on; None keeps nothing.
        workers: processes; 0 does all in this one. Results are the same.
        progress: is told what is done.
    """
    study, world = read.study, read.world
    partial = None if out is None else Partial(out, fingerprint(read))
    expected = _expected_levels(read) if progress.live else 0
    common = Run(world, study.sampling.days, study.sampling.stop == "sequential", partial, progress, Effort(), expected)
    rules = {p.name: _rule(study, p.name) for p in read.inputs.plans}
    steps = _steps(study)
    pool = Workers(workers, build, read.inputs)
    try:
        logs = drive(pool, {p.name: grow_scenario(common, p, rules[p.name], steps) for p in read.inputs.plans})
        found = {name: capacities(log, world.cases[name].existing_w) for name, log in logs.items()}
        details = drive(
            pool, {p.name: detail(common, p, _hosted(found[p.name]) * study.growth.step_w) for p in read.inputs.plans}
        )
        more = drive(pool, dict(_extras(read, found, rules)))
    finally:
        pool.close()
        progress.end()
    if partial is not None:
        partial.end()
    answers = iter(more.get("deterministic", []))
    cases: dict[str, dict[str, list[Capacity]]] = {}
    for p in read.inputs.plans if study.extras.deterministic else ():
        three = {str(case): next(answers) for case in WorstCase}
        if not any(isinstance(answer, Untold) for answer in three.values()):
            cases[p.name] = three
    spans = windows(read.inputs.past.days) if study.extras.data_length else []
    return Findings(
        logs,
        found,
        details,
        cases,
        _one(more, "losses"),
        [c for some in more.get("places", []) if not isinstance(some, Untold) for c in some],
        tuple(u.name for u in world.inputs.plans[-1].units) if study.extras.rebalance else (),
        [v for v in more.get("load_models", []) if isinstance(v, Variant)],
        [
            (first, count, v)
            for (first, count), v in zip(spans, more.get("data_length", []), strict=True)
            if isinstance(v, Variant)
        ],
        _one(more, "dynamic"),
        _one(more, "nominal"),
        _one(more, "rare"),
        _untold(more),
        common.effort,
    )


def _one(more: dict[str, list[Any]], name: str) -> Any:
    return None if name not in more or isinstance(more[name][0], Untold) else more[name][0]


def fingerprint(read: Read) -> str:
    """What an unfinished study is known by: settings, contents of its files, versions."""
    text = read.study.model_dump_json(exclude={"provenance"})
    hashes = "".join(file_sha256(p) for p in read.files)
    return hashlib.sha256((text + hashes + repr(sorted(versions().items()))).encode()).hexdigest()


def _rule(study: ProbabilisticStudy, plan: str) -> Rule:
    scenario = scenario_of(study, plan)
    return Rule(study.percentile(scenario), study.limits.current_quantile)


def scenario_of(study: ProbabilisticStudy, plan: str) -> Scenario:
    """The scenario behind a plan; a re-balanced one is its original's."""
    return next(s for s in study.scenarios if s.name == plan.removesuffix(REBALANCED))


def _steps(study: ProbabilisticStudy) -> Steps:
    until = ALL_GROUPS if study.growth.until == "all" else (study.growth.until,)
    return Steps(study.growth.step_w, study.growth.levels_max, until, study.growth.beyond)


def _hosted(found: list[Capacity]) -> int:
    """Last feasible level by voltage; 0 where not even today's feeder is."""
    return next(c for c in found if c.group == "voltage").last_feasible or 0


def _expected_levels(read: Read) -> int:
    """About how many levels there will be, from a few days; for the time left alone."""
    study = read.study
    quick = Run(read.world, 4, False, None, Progress(silent=True), Effort())
    steps = _steps(study)
    logs = drive(
        Workers(0, lambda _: read.world, None),
        {p.name: grow_scenario(quick, p, _rule(study, p.name), steps) for p in read.inputs.plans},
    )
    return sum(len(log) for log in logs.values())


def _extras(read: Read, found: dict[str, list[Capacity]], rules: dict[str, Rule]) -> Iterator[tuple[str, Driver]]:
    study, e, step_w = read.study, read.study.extras, read.study.growth.step_w
    if e.deterministic:
        steps = replace(_steps(study), until=("voltage", "current"), beyond=0)
        yield (
            "deterministic",
            _all(
                [
                    (deterministic, (p.name, c, e.pv_hours_threshold, steps))
                    for p in read.inputs.plans
                    for c in WorstCase
                ]
            ),
        )
    if e.losses:
        level_w = _hosted(found[e.losses]) * step_w
        hours = (e.losses_from_h, e.losses_to_h)
        yield "losses", _all([(losses, (e.losses, level_w, e.losses_month, hours, study.sampling.days))])
    rule = Rule(study.limits.percentile, study.limits.current_quantile)
    if e.planner_map:
        buses = dict.fromkeys(b for b, _ in next(iter(read.world.observers.values())).points)
        yield "places", _all([(place_capacities, (b, rule, step_w, PLACE_DAYS)) for b in buses])
    if e.load_models:
        shared_w = (_hosted(found[e.load_models]) + 1) * step_w
        asked = Asked(rules[e.load_models], step_w, shared_w, VARIANT_DAYS)
        yield "load_models", _all([(load_model, (e.load_models, k, asked)) for k in range(len(LOAD_MODELS))])
    if e.data_length:
        shared_w = (_hosted(found[e.data_length]) + 1) * step_w
        asked = Asked(rules[e.data_length], step_w, shared_w, PLACE_DAYS)
        spans = windows(read.inputs.past.days)
        yield "data_length", _all([(data_window, (e.data_length, f, n, asked)) for f, n in spans])
    if e.headroom:
        hosted_w = max(_hosted(found[e.headroom]), 1) * step_w
        yield "nominal", _all([(dynamic, (e.headroom, hosted_w, GRANT_DAYS))])
        yield (
            "dynamic",
            _all([(dynamic, (e.headroom, round(hosted_w * e.headroom_factor / step_w) * step_w, GRANT_DAYS))]),
        )
    if e.rare:
        yield "rare", _all([(rare_overvoltage, (e.rare.scenario, e.rare.level * step_w, e.rare.states))])


def _all(calls: list[tuple[Any, tuple[Any, ...]]]) -> Driver:
    names = [(f.__name__, *(repr(a) for a in arguments)) for f, arguments in calls]
    results = yield [Task(name, _tried, call) for name, call in zip(names, calls, strict=True)]
    return results


@dataclass(frozen=True, slots=True)
class Untold:
    """Why a part of the study beside its capacities has no answer; the others keep theirs."""

    reason: str


def _tried(world: World, function: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return function(world, *arguments)
    except HeadroomError as error:
        return Untold(str(error))


def _untold(more: dict[str, list[Any]]) -> tuple[str, ...]:
    """One sentence for each part with missing answers."""
    found = []
    for name, results in more.items():
        missing = [r.reason for r in results if isinstance(r, Untold)]
        if missing:
            found.append(f"{name.replace('_', ' ')}: {len(missing)} of {len(results)} have no answer: {missing[0]}")
    return tuple(found)


def workers_by_default() -> int:
    """As many as the process may use."""
    return len(os.sched_getaffinity(0))
