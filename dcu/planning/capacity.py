"""Growth of PV step by step, and what a level's counts say about it (Klonari et al. 2016, equations 1.a-1.c, 3
and 5)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from dcu.planning.evaluate import Counts, Observer, Tally
from dcu.planning.feeder_case import FeederCase
from dcu.planning.history import Reals

Z_95: Final = 1.959963984540054
SURE: Final = 3.0
"""Standard errors between an estimate and its limit at which a verdict is certain."""


class Criterion(StrEnum):
    """What may be violated."""

    OVERVOLTAGE = "overvoltage"
    UNDERVOLTAGE = "undervoltage"
    UNBALANCE = "unbalance"
    CURRENT = "current"
    NO_SOLUTION = "no solution"


GROUPS: Final[dict[str, tuple[Criterion, ...]]] = {
    "voltage": (Criterion.OVERVOLTAGE, Criterion.UNDERVOLTAGE, Criterion.NO_SOLUTION),
    "current": (Criterion.CURRENT, Criterion.OVERVOLTAGE, Criterion.UNDERVOLTAGE, Criterion.NO_SOLUTION),
    "unbalance": (Criterion.UNBALANCE,),
}
"""Capacities that are told: by voltage; by voltage and current; by unbalance alone."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A criterion that fails: at which bus and phase or branch and phase, how probable (with its 95 % interval), the
    largest value seen (pu, share of rating, or share)."""

    criterion: Criterion
    place: str
    probability: float
    low: float
    high: float
    extreme: float


@dataclass(frozen=True, slots=True)
class Rule:
    """How often a limit may be exceeded: `percentile` of the states keep voltage and unbalance, `current_quantile` the
    rating."""

    percentile: float
    current_quantile: float

    def allowed(self, criterion: Criterion) -> float:
        """Share of the states that may exceed it."""
        if criterion is Criterion.NO_SOLUTION:
            return 0.0
        if criterion is Criterion.CURRENT:
            return 1 - self.current_quantile
        return 1 - self.percentile / 100


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One step: rating of a weight-1 unit, all new units together [W], the counts and what they violate."""

    number: int
    level_w: float
    added_w: float
    tally: Tally
    violations: tuple[Violation, ...]

    def violates(self, group: str) -> tuple[Violation, ...]:
        """What fails of a group."""
        return tuple(v for v in self.violations if v.criterion in GROUPS[group])


def interval(count: int, states: int, independent: float | None = None) -> tuple[float, float]:
    """95 % interval of a probability of which `count` of `states` were seen (Wilson), where they tell as much as so
    many `independent` ones; all of them unless said otherwise."""
    if not states:
        return 0.0, 1.0
    n = states if independent is None else independent
    p, z2 = count / states, Z_95 * Z_95
    middle = p + z2 / (2 * n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    whole = 1 + z2 / n
    return max((middle - half) / whole, 0.0) if count else 0.0, min((middle + half) / whole, 1.0)


def independent_states(tally: Tally, criterion: Criterion, place: int) -> float:
    """How many independent states would estimate a probability as well.

    Where the states of a day hang together the mean's variance is that of the days' counts; a day is never worth less
    than one state, nor more than all of its own.
    """
    if not tally.days:
        return float(tally.states)
    count, squares = float(_counts(tally, criterion)[place]), float(_squares(tally, criterion)[place])
    days = tally.days
    if not count or days < 2:
        return float(days)
    p = count / tally.states
    variance = max(squares - count * count / days, 0.0) / (days - 1) * days / tally.states**2
    enough = p * (1 - p) / variance if variance > 0 else math.inf
    return min(max(enough, float(days)), float(tally.states))


def interval_at(tally: Tally, criterion: Criterion, place: int) -> tuple[float, float]:
    """95 % interval of how probable a criterion's violation at a place is."""
    count = int(_counts(tally, criterion)[place])
    return interval(count, tally.states, independent_states(tally, criterion, place))


def verdict(tally: Tally, observer: Observer, rule: Rule) -> tuple[Violation, ...]:
    """Everything a level violates, the most probable place first within each criterion."""
    points = [".".join(p) for p in observer.points]
    wires = [" ".join(w) for w in observer.wires]
    sides = (
        (Criterion.OVERVOLTAGE, points, tally.over, tally.u_max_pu),
        (Criterion.UNDERVOLTAGE, points, tally.under, tally.u_min_pu),
        (Criterion.UNBALANCE, list(observer.buses), tally.unbalanced, tally.vuf_max),
        (Criterion.CURRENT, wires, tally.overloaded, tally.loading_max),
    )
    found = []
    for criterion, places, counts, extremes in sides:
        allowed = rule.allowed(criterion)
        worst = sorted(range(len(places)), key=lambda k, c=counts, e=extremes: (-c[k], -e[k]))  # type: ignore[misc]
        for k in worst:
            if counts[k] <= allowed * tally.states:
                break
            low, high = interval_at(tally, criterion, k)
            share = float(counts[k] / tally.states)
            found.append(Violation(criterion, places[k], share, low, high, float(extremes[k])))
    if tally.unsolved:
        low, high = interval(tally.unsolved, tally.states)
        share = tally.unsolved / tally.states
        found.append(Violation(Criterion.NO_SOLUTION, "feeder", share, low, high, math.nan))
    return tuple(found)


def certain(tally: Tally, rule: Rule, group: str) -> bool:
    """Whether more states would hardly change the verdict on a group."""
    for criterion in GROUPS[group]:
        if criterion is Criterion.NO_SOLUTION:
            continue
        counts = _counts(tally, criterion)
        place = int(np.argmax(counts)) if len(counts) else -1
        count = int(counts[place]) if len(counts) else 0
        p, allowed = count / tally.states, rule.allowed(criterion)
        if allowed <= 0.0:
            if not count:
                return False
            continue
        n = independent_states(tally, criterion, place) if len(counts) else tally.states
        error = math.sqrt(max(p * (1 - p), allowed * (1 - allowed) / 4) / n)
        if abs(p - allowed) <= SURE * error:
            return False
    return True


def _counts(tally: Tally, criterion: Criterion) -> Counts:
    return {
        Criterion.OVERVOLTAGE: tally.over,
        Criterion.UNDERVOLTAGE: tally.under,
        Criterion.UNBALANCE: tally.unbalanced,
        Criterion.CURRENT: tally.overloaded,
    }[criterion]


def _squares(tally: Tally, criterion: Criterion) -> Reals:
    return {
        Criterion.OVERVOLTAGE: tally.over_squares,
        Criterion.UNDERVOLTAGE: tally.under_squares,
        Criterion.UNBALANCE: tally.unbalanced_squares,
        Criterion.CURRENT: tally.overloaded_squares,
    }[criterion]


@dataclass(frozen=True, slots=True)
class Steps:
    """Growth: `step_w` a level, at most `levels_max`, until every group of `until` is violated and `beyond`
    levels more."""

    step_w: float
    levels_max: int
    until: tuple[str, ...]
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """Hosting capacity by a group of criteria. Totals hold existing and new PV [W]; None where a level was not reached.

    The papers differ in which of the two they print, so both are here.
    """

    group: str
    last_feasible: int | None
    first_infeasible: int | None
    last_feasible_w: float | None
    first_infeasible_w: float | None
    violations: tuple[Violation, ...]


def grow(case: FeederCase, observer: Observer, rule: Rule, steps: Steps) -> Generator[float, Tally, list[Level]]:
    """Asks for the tally of one level after the other, by its rating [W]; returns the log."""
    log: list[Level] = []
    open_groups, more = set(steps.until), steps.beyond
    for number in range(steps.levels_max + 1):
        level_w = number * steps.step_w
        tally = yield level_w
        level = Level(number, level_w, float(case.rated_w(level_w).sum()), tally, verdict(tally, observer, rule))
        log.append(level)
        open_groups = {g for g in open_groups if not level.violates(g)}
        if not open_groups:
            if number == 0 or more == 0:
                break
            more -= 1
    return log


def capacities(log: list[Level], existing_w: float) -> list[Capacity]:
    """Capacity of each group from one log."""
    found = []
    for group in GROUPS:
        first = next((level for level in log if level.violates(group)), None)
        last = log[-1] if first is None else (log[first.number - 1] if first.number else None)
        found.append(
            Capacity(
                group,
                None if last is None else last.number,
                None if first is None else first.number,
                None if last is None else existing_w + last.added_w,
                None if first is None else existing_w + first.added_w,
                () if first is None else first.violates(group),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Risk:
    """The total [W] at which overvoltage at the worst place reaches a probability, between steps; and the totals where
    the ends of its 95 % interval do. None where the study's steps do not reach it."""

    probability: float
    total_w: float | None
    low_w: float | None
    high_w: float | None


def risk(log: list[Level], existing_w: float, probability: float) -> Risk:
    """Capacity for another accepted probability of overvoltage, from one log."""
    totals = [existing_w + level.added_w for level in log]
    counts = [int(level.tally.over.max(initial=0)) for level in log]
    states = [level.tally.states for level in log]
    ends = [interval_at(level.tally, Criterion.OVERVOLTAGE, int(np.argmax(level.tally.over))) for level in log]
    shares = [c / n for c, n in zip(counts, states, strict=True)]
    upper, lower = [high for _, high in ends], [low for low, _ in ends]
    return Risk(probability, *(_crossing(totals, p, probability) for p in (shares, upper, lower)))


def _crossing(totals: list[float], shares: list[float], probability: float) -> float | None:
    """Where a broken line first reaches a probability; None where it never does."""
    for k in range(1, len(totals)):
        a, b = shares[k - 1], shares[k]
        if a < probability <= b:
            return totals[k - 1] + (totals[k] - totals[k - 1]) * (probability - a) / (b - a)
    return None
