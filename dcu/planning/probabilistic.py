"""Probabilistic hosting capacity: drivers that grow PV scenario by scenario on the workers.

Method: Klonari, Toubeau, Lobry, Vallée, SMARTGREENS 2016. Every level is judged on the same drawn states (common random
numbers), so that levels and scenarios differ by their PV alone; states without PV are solved once for all of them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np

from dcu.planning.capacity import GROUPS, Level, Rule, Steps, certain, grow
from dcu.planning.evaluate import Tally
from dcu.planning.study.partial import Partial
from dcu.planning.study.workers import Driver, Progress, Task
from dcu.planning.world import TODAY, Plan, World, blocks, dark_tally, lit_tally

WAVE: Final = 4
"""Blocks that are begun together where a level may end early; a number of its own, so that workers change nothing."""


@dataclass(slots=True)
class Effort:
    """What a study cost: states judged, power flows solved, processor time of power flow and of the rest [s]."""

    states: int = 0
    solved: int = 0
    flow_s: float = 0.0
    other_s: float = 0.0
    levels: int = 0
    seen: set[str] = field(default_factory=set)

    def add(self, key: str, tally: Tally) -> None:
        """A level more; one that two scenarios share is counted once."""
        self.levels += 1
        if key in self.seen:
            return
        self.seen.add(key)
        self.states += tally.states
        self.solved += tally.solved
        self.flow_s += tally.flow_s
        self.other_s += tally.other_s


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run's common parts. `days` simulated days a level; `sequential` ends levels whose verdict is certain."""

    world: World
    days: int
    sequential: bool
    partial: Partial | None
    progress: Progress
    effort: Effort
    levels_expected: int = 0


def grow_scenario(run: Run, plan: Plan, rule: Rule, steps: Steps) -> Driver:
    """The log of levels of a scenario."""
    growth = grow(run.world.cases[plan.name], run.world.observers[plan.name], rule, steps)
    level_w = next(growth)
    while True:
        found = yield from _level(run, plan, rule, steps, level_w)
        try:
            level_w = growth.send(found)
        except StopIteration as end:
            log: list[Level] = end.value
            return log


def _level(run: Run, plan: Plan, rule: Rule, steps: Steps, level_w: float) -> Generator[list[Task], list[Any], Tally]:
    key = plan.key if level_w else TODAY
    days = blocks(run.days)
    kept = f"{key}|{level_w!r}|{run.days}" + (f"|{rule}|{steps.until}" if run.sequential else "")
    if run.partial is not None and (arrays := run.partial.get(kept)) is not None:
        return _from_arrays(arrays)
    whole: Tally | None = None
    width = WAVE if run.sequential else len(days)
    sure = False
    for at in range(0, len(days), width):
        wave = range(at, min(at + width, len(days)))
        tasks = [Task(("dark", k), dark_tally, (run.world.inputs.plans[0].name, k, days[k])) for k in wave]
        tasks += [Task((key, level_w, k), lit_tally, (plan.name, level_w, k, days[k], 0)) for k in wave]
        results = yield tasks
        for k in range(len(wave)):
            part = _copy(results[k])
            part.solved, part.flow_s, part.other_s = 0, 0.0, 0.0
            part.join(results[len(wave) + k])
            if whole is None:
                whole = part
            else:
                whole.add(part)
            sure = run.sequential and all(certain(whole, rule, g) for g in steps.until if g in GROUPS)
            if sure:
                break
        if sure:
            break
    assert whole is not None, "a level has at least one block"
    run.effort.add(kept, whole)
    if run.partial is not None:
        run.partial.put(kept, {f.name: np.asarray(getattr(whole, f.name)) for f in fields(whole)})
    share = min(run.effort.levels / run.levels_expected, 1.0) if run.levels_expected else None
    run.progress.add(whole.states, f"scenario {plan.name}, {level_w:g} W a unit", share)
    return whole


def _copy(tally: Tally) -> Tally:
    values: dict[str, Any] = {f.name: getattr(tally, f.name) for f in fields(tally)}
    copied: dict[str, Any] = {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in values.items()}
    return Tally(**copied)


def _from_arrays(arrays: dict[str, Any]) -> Tally:
    scalars = {"states": int, "solved": int, "unsolved": int, "days": int, "flow_s": float, "other_s": float}
    return Tally(**{name: scalars[name](value) if name in scalars else value for name, value in arrays.items()})


def detail(run: Run, plan: Plan, level_w: float) -> Driver:
    """The tally of one level with histograms of voltages, unbalance and currents."""
    days = blocks(run.days)
    numbers = range(len(days))
    tasks = [Task(("dark", k), dark_tally, (run.world.inputs.plans[0].name, k, days[k])) for k in numbers]
    tasks += [Task(("detail", plan.key, level_w, k), lit_tally, (plan.name, level_w, k, days[k], 1)) for k in numbers]
    results = yield tasks
    whole: Tally | None = None
    for k in numbers:
        part = _copy(results[k])
        part.join(results[len(days) + k])
        if whole is None:
            whole = part
        else:
            whole.add(part)
    assert whole is not None, "a level has at least one block"
    return whole
