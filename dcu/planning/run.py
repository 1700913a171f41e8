"""One probabilistic study from its file to its folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

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
    windows,
)
from dcu.planning.losses import Losses, losses
from dcu.planning.probabilistic import Effort, Run, detail, grow_scenario
from dcu.planning.rare import RareResult, rare_overvoltage
from dcu.planning.reading import REBALANCED, Read
from dcu.planning.settings import ProbabilisticStudy, Scenario
from dcu.planning.study.outcome import file_sha256, versions
from dcu.planning.study.partial import Partial
from dcu.planning.study.workers import Driver, Progress, Task, Workers, drive
from dcu.planning.world import World, build
from shared.errors import HeadroomError

PLACE_DAYS: Final = 50
VARIANT_DAYS: Final = 400
GRANT_DAYS: Final = 100
ALL_GROUPS: Final = ("voltage", "current", "unbalance")


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
    hashes = "".join(file_sha256(p) for p in read.files.values())
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
