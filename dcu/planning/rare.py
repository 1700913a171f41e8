"""Rare overvoltage by importance sampling: where to look is learnt (cross-entropy), what is found is weighed back.

A state is an interval of the day, one probability for PV and one for each customer's load. States are drawn where
overvoltage happens: intervals around noon, PV probabilities near 1 (density `a y^(a-1)`), load probabilities near 0
(density `b (1-y)^(b-1)`), mixed with a tenth from the true distribution, so that no weight exceeds ten. The weighted
mean is unbiased; its standard error is told with it. Cross-entropy: Rubinstein and Kroese, The Cross-Entropy Method,
2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.planning.capacity import Z_95
from dcu.planning.draws import stream
from dcu.planning.evaluate import STATES_AT_ONCE, Observer, currents
from dcu.planning.feeder_case import FeederCase
from dcu.planning.history import Reals
from dcu.planning.profiles import Profiles
from dcu.planning.world import World

TRUE_SHARE: Final = 0.1
ELITE: Final = 0.1
ROUNDS_MAX: Final = 8
PARAMETER_MAX: Final = 60.0
RULE_OF_THREE: Final = 3.0
"""Minus the logarithm of 5 %: none of n means less than 3 / n, 95 times of 100."""


@dataclass(frozen=True, slots=True)
class RareResult:
    """Probability that the worst point exceeds the voltage limit in a state, with its standard error and an upper
    bound (95 %), and what it cost.

    `brute_states` plain Monte Carlo would need for the same error; `place` is the point that exceeded most often while
    the proposal was learnt, so that choosing it does not bias the estimate.
    """

    place: str
    probability: float
    error: float
    high: float
    states: int
    learning_states: int
    brute_states: float
    u_max_pu: float


@dataclass(frozen=True, slots=True, eq=False)
class _Proposal:
    slots: Reals
    a: float
    b: Reals


@dataclass(frozen=True, slots=True, eq=False)
class _States:
    slot: NDArray[np.int64]
    y_pv: Reals
    y_load: Reals
    weight: Reals


def rare_overvoltage(world: World, scenario: str, level_w: float, states: int) -> RareResult:
    """The probability of scenario and level."""
    inputs = world.inputs
    case, observer, known = world.cases[scenario], world.observers[scenario], inputs.profiles
    limit = inputs.limits.u_max_pu
    rng = stream(inputs.seed, world.feeder_name, "rare", scenario, repr(level_w))
    lit = known.reference.values[:, :, 0, -1].max(axis=0) > 0
    proposal = _Proposal(lit / lit.sum(), 1.0, np.ones(len(known.customers)))
    learning = max(states // 8, 500)
    used, k = 0, 0
    for _ in range(ROUNDS_MAX):
        drawn = _draw(rng, proposal, learning)
        everywhere = _voltages(case, observer, known, drawn, level_w)
        k = _worst(everywhere, drawn.weight, limit)
        u = everywhere.max(axis=0)
        used += learning
        goal = min(float(np.quantile(u, 1 - ELITE)), limit)
        proposal = _fit(drawn, u >= goal, proposal)
        if goal >= limit:
            break
    drawn = _draw(rng, proposal, states)
    u = _voltages(case, observer, known, drawn, level_w)
    hits = (u[k] > limit) * drawn.weight
    p, error = float(hits.mean()), float(hits.std(ddof=1) / np.sqrt(states))
    brute = p * (1 - p) / error**2 if error > 0 else 0.0
    # A state that exceeds is drawn with at least a tenth of its true probability: rule of three where none was seen.
    high = p + Z_95 * error if hits.any() else min(RULE_OF_THREE / (TRUE_SHARE * states), 1.0)
    seen = float(u[np.isfinite(u)].max())
    return RareResult(".".join(observer.points[k]), p, error, high, states, used, brute, seen)


def _worst(u: Reals, weight: Reals, limit: float) -> int:
    """The point that exceeds most often; the highest where none does."""
    means = ((u > limit) * weight).mean(axis=1)
    return int(np.argmax(means)) if means.any() else int(np.argmax(u.max(axis=1)))


def _draw(rng: np.random.Generator, g: _Proposal, count: int) -> _States:
    """States from the mixture, with the ratio of true to proposal density."""
    true = rng.random(count) < TRUE_SHARE
    n_slot = len(g.slots)
    slot = np.where(true, rng.integers(n_slot, size=count), rng.choice(n_slot, size=count, p=g.slots))
    v_pv, v_load = rng.random(count), rng.random((count, len(g.b)))
    y_pv = np.where(true, v_pv, v_pv ** (1 / g.a))
    y_load = np.where(true[:, None], v_load, 1 - (1 - v_load) ** (1 / g.b))
    ratio = g.slots[slot] * n_slot * g.a * y_pv ** (g.a - 1)
    ratio = ratio * np.exp((np.log(g.b) + (g.b - 1) * np.log1p(-np.minimum(y_load, 1 - 1e-15))).sum(axis=1))
    return _States(slot, y_pv, y_load, 1 / (TRUE_SHARE + (1 - TRUE_SHARE) * ratio))


def _fit(drawn: _States, elite: NDArray[np.bool_], before: _Proposal) -> _Proposal:
    """The densities most like the weighted elite; a floor keeps every interval that had a chance."""
    w = drawn.weight * elite
    total = w.sum()
    if not total > 0:
        return before
    slots = np.bincount(drawn.slot, weights=w, minlength=len(before.slots)) / total
    slots = 0.95 * slots + 0.05 * (before.slots > 0) / (before.slots > 0).sum()
    a = total / max(-(w * np.log(np.maximum(drawn.y_pv, 1e-12))).sum(), 1e-12)
    b = total / np.maximum(-(w @ np.log1p(-np.minimum(drawn.y_load, 1 - 1e-12))), 1e-12)
    return _Proposal(slots, float(np.clip(a, 1.0, PARAMETER_MAX)), np.clip(b, 1.0, PARAMETER_MAX))


def _voltages(case: FeederCase, observer: Observer, known: Profiles, drawn: _States, level_w: float) -> Reals:
    """Voltage of every point in every state [pu] (n_point, n_state); infinite in a state without a solution."""
    count = len(drawn.slot)
    kind = np.zeros(count, dtype=np.int64)
    load = known.load.at(kind, drawn.slot, drawn.y_load)
    pv = known.pv.at(kind, drawn.slot, np.repeat(drawn.y_pv[:, None], len(known.pv_customers), axis=1))
    per_w = known.reference.at(kind, drawn.slot, drawn.y_pv[:, None])[:, 0]
    base = load @ case.load_share - pv @ case.existing_share
    i_a, unsolved = currents(case, base, per_w, level_w)
    found = [np.sqrt(observer.observe(i_a[at : at + STATES_AT_ONCE])[0]) for at in range(0, count, STATES_AT_ONCE)]
    u = np.concatenate(found, axis=1).astype(float)
    u[:, unsolved] = np.inf
    return u
