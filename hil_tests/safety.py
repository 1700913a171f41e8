"""Does an allocation keep the grid whole? Random states, grants decided on what meters say, judged by the exact flow.

For each state: draw powers and claims from the seed; let the meters measure with errors of their class and the
decision use a model that is wrong within the declared share; allocate; then solve the *true* network, with the other
engine, with every grant fully used. A voltage outside the band that was not outside before is an unsafe grant. Beside
it: how much of what was exactly feasible (the common level that an independent bisection on the true network finds) was
granted, and how often the linear prediction's bound covers the exact voltages.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.compiler import compile_network
from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections, prepare
from dcu.grid.network import Network, matrix
from dcu.grid.sensitivities import linear_step, sensitivity
from dcu.hosting.allocate import Claim, Policy, allocate
from dcu.hosting.headroom import GridLimits, Outlook, Situation

Reals = NDArray[np.float64]

NOMINAL_W: Final = 500.0
WANTED_W: Final = (2_000.0, 10_000.0)
CLAIMS_MAX: Final = 12
LEVELS: Final = 65
"""Candidates of one round of the bisection; three rounds resolve 10 kW to 0.04 W."""
BOUND_EVERY: Final = 10
"""The bound is looked at in each tenth state; its derivatives cost more than the decision."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What separates the decision from the truth: relative errors of voltage and power meters (uniform, within the
    class), and of every impedance of the model."""

    voltage: float = 0.0
    power: float = 0.0
    model: float = 0.0


EXACT: Final = Errors()
CLASS_1: Final = Errors(voltage=0.005, power=0.01, model=0.05)


@dataclass(frozen=True, slots=True)
class Safety:
    """Counts of a run; `granted_fraction` and `bound_coverage` are shares."""

    states: int
    unsafe: int
    granted_fraction: float
    bound_coverage: float
    claims: int
    limited_states: int
    """States in which the grid, not the wishes, set the level."""
    worst_excess_v: float
    """[V] how far the worst granted state is above its band (negative: below)."""

    def as_json(self) -> dict[str, float | int]:
        """By name."""
        return asdict(self)


def evaluate_safety(network: Network, states: int, seed: int, errors: Errors = EXACT, band_pct: float = 10.0) -> Safety:
    """Run `states` random states of a feeder; the same seed gives the same figures.

    The band lies around the open-circuit voltage of the feeder, so that any published feeder has headroom to share.
    """
    truth = _Truth(network, band_pct)
    random = np.random.default_rng(seed)
    model = (
        truth.feeder.model
        if not errors.model
        else compile_network(with_wrong_impedances(network, errors.model, random))
    )
    unsafe, covered, looked, claims_all, limited = 0, 0, 0, 0, 0
    granted = feasible = 0.0
    worst = -np.inf
    for state in range(states):
        p, q = truth.draw(random)
        claims = truth.claims(random)
        claims_all += len(claims)
        u = truth.voltages(p[None, :], q)[0]
        now = _measured(p, q, u, errors, random)
        found = allocate(Outlook(model, truth.limits, now), claims, Policy.EQUAL)
        after = truth.voltages(_used(p, claims, found.limits_w[None, :]), q)[0]
        above = float((after - np.maximum(truth.limits.u_high_v, u)).max())
        below = float((np.minimum(truth.limits.u_low_v, u) - after).max())
        worst = max(worst, above, below)
        unsafe += max(above, below) > 0
        level = truth.level(p, q, claims)
        limited += level < claims[0].wanted_w - 1.0
        gained = float(found.limits_w.min() - NOMINAL_W)
        granted += max(0.0, min(gained, level - NOMINAL_W))
        feasible += max(0.0, level - NOMINAL_W)
        if state % BOUND_EVERY == 0:
            looked += 1
            covered += _bound_holds(truth.feeder, p, q, _used(p, claims, found.limits_w[None, :])[0])
    return Safety(
        states,
        unsafe,
        granted / feasible if feasible else 1.0,
        covered / looked if looked else 1.0,
        claims_all,
        limited,
        worst,
    )


def with_wrong_impedances(network: Network, share: float, random: np.random.Generator) -> Network:
    """The network with every branch impedance off by up to `share`."""
    branches = tuple(replace(b, z_ohm=matrix(b.z_ohm * (1 + random.uniform(-share, share)))) for b in network.branches)
    return replace(network, branches=branches, memo={})


def _measured(p: Reals, q: Reals, u: Reals, errors: Errors, random: np.random.Generator) -> Situation:
    def read(values: Reals, share: float) -> Reals:
        return np.asarray(values * (1 + random.uniform(-share, share, len(values))))

    margin = errors.voltage * u
    return Situation(read(p, errors.power), read(q, errors.power), read(u, errors.voltage), margin, errors.model)


def _used(p: Reals, claims: tuple[Claim, ...], limits_w: Reals) -> Reals:
    """Draws with the limits (n_state, n_claim) fully used (n_state, n)."""
    after = np.repeat(p[None, :], len(limits_w), axis=0)
    for k, claim in enumerate(claims):
        after[:, claim.ports] = -limits_w[:, k : k + 1] / len(claim.ports)
    return after


class _Truth:
    """The real feeder, solved by the sweep where it is radial: not the engine that decides."""

    def __init__(self, network: Network, band_pct: float) -> None:
        self.feeder = Feeder(network)
        model = self.feeder.model
        u = np.abs(model.u_open_v)
        limits = GridLimits.of(model, band_pct)
        self.limits = replace(limits, u_low_v=u * (1 - band_pct / 100), u_high_v=u * (1 + band_pct / 300))
        self._n = len(model.ports)

    def draw(self, random: np.random.Generator) -> tuple[Reals, Reals]:
        """Evening to noon: log-normal draws, some houses already exporting up to their nominal limit."""
        p = random.lognormal(5.6, 1.0, self._n) * random.uniform(0.2, 2.0)
        sun = random.random(self._n) < random.uniform(0.0, 0.5)
        p = np.where(sun, -random.uniform(0, NOMINAL_W, self._n), np.minimum(p, 5e3))
        return p, 0.2 * np.abs(p)

    def claims(self, random: np.random.Generator) -> tuple[Claim, ...]:
        """One to a dozen customers who all want the same, so that fairness has one level."""
        count = int(random.integers(1, min(CLAIMS_MAX, self._n) + 1))
        ports = random.choice(self._n, count, replace=False)
        wanted = float(random.uniform(*WANTED_W))
        return tuple(Claim(f"c{k}", (int(k),), NOMINAL_W, wanted) for k in sorted(ports))

    def voltages(self, p: Reals, q: Reals) -> Reals:
        """Magnitudes at all ports (n_state, n) [V]."""
        batch = Injections(p, np.repeat(q[None, :], len(p), axis=0))
        return np.asarray(np.abs(solve(self.feeder, batch, tolerance_pu=1e-9)["port_u_v"]))

    def level(self, p: Reals, q: Reals, claims: tuple[Claim, ...]) -> float:
        """The highest common limit that the true network bears [W], by bisection."""
        low, high = NOMINAL_W, claims[0].wanted_w
        for _ in range(3):
            levels = np.linspace(low, high, LEVELS)
            u = self.voltages(_used(p, claims, np.repeat(levels[:, None], len(claims), axis=1)), q)
            inside = (u <= self.limits.u_high_v) & (u >= self.limits.u_low_v)
            good = np.asarray(inside.all(axis=1), dtype=bool)
            if not good[0]:
                return NOMINAL_W
            last = len(good) - 1 if good.all() else int(good.argmin()) - 1
            low, high = levels[last], levels[min(last + 1, len(levels) - 1)]
        return float(low)


def _bound_holds(feeder: Feeder, p: Reals, q: Reals, after: Reals) -> bool:
    model = feeder.model
    before = Injections.of(p, q)
    u = solve(feeder, before, tolerance_pu=1e-12)["port_u_v"][0]
    slope = sensitivity(model, prepare(before, model.u_nominal_v), 0, u)
    changed = Injections.of(after, q)
    step = linear_step(model, slope, prepare(changed, model.u_nominal_v), 0, np.concatenate([after - p, 0 * q]))
    exact = solve(feeder, changed, tolerance_pu=1e-12)["port_u_v"][0]
    return bool((np.abs(exact - step.u_v) <= step.bound_v).all())
