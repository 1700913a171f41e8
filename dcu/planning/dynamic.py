"""What Headroom adds: the same PV with a static export limit that is always safe, and with grants that follow the grid.

The static limit is the largest common export that violates nothing in any drawn state. With grants the limit of each
phase rises in every state as far as voltages and currents allow, equally for all exporters that reach what binds
(policy `equal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.planning.draws import draw, stream
from dcu.planning.evaluate import STATES_AT_ONCE, TOLERANCE_PU, Limits, Observer, lit
from dcu.planning.feeder_case import FeederCase
from dcu.planning.history import Reals
from dcu.planning.world import World
from shared.errors import HeadroomError

HALVINGS: Final = 12
ROUNDS: Final = 3
"""Constraints that are told apart in a state before all that is left is limited together."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """One place with PV: how often it is limited while the sun shines, and what share of its export it loses."""

    place: str
    static_probability: float
    headroom_probability: float
    static_energy: float
    headroom_energy: float
    free_export_w: float
    """Mean export without any limit, in states with PV [W]."""


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The comparison at one level. `static_limit_w` of every exporter; shares of the states with a violation
    with PV, without limits and with grants."""

    level_w: float
    static_limit_w: float
    free_violation: float
    headroom_violation: float
    states: int
    exporters: tuple[Exporter, ...]


def dynamic(world: World, scenario: str, level_w: float, days: int) -> Dynamic:
    """Static limit against grants at a level.

    Raises:
        HeadroomError: the feeder violates its limits without any export.
    """
    inputs, case, observer = world.inputs, world.cases[scenario], world.observers[scenario]
    draws = draw(inputs.profiles, inputs.sampling, stream(inputs.seed, world.feeder_name, "dynamic"), days)
    some = lit(draws)
    free = _free(case, case.base_w(draws)[some], draws.per_w[some], level_w)
    ports = np.unique([*(p for ports in case.unit_ports for p in ports), *case.existing_ports])
    phases = _phase_of(case)
    limits = inputs.limits
    violated = violations(case, observer, free, limits)
    static_w = _static(case, observer, free, ports, limits)
    granted = _filled(case, observer, free, ports, limits, static_w)
    after = violations(case, observer, granted, limits)
    left = after.any(axis=1)  # where one phase still disturbs another, the whole state goes back to the static limit
    granted[left] = _limited(free[left], np.full((int(left.sum()), 3), static_w), ports, phases)
    after = violations(case, observer, granted, limits)
    fixed = _limited(free, np.full((len(free), 3), static_w), ports, phases)
    names = _names(case)
    return Dynamic(
        level_w,
        static_w,
        float(violated.any(axis=1).mean()),
        float(after.any(axis=1).mean()),
        len(free),
        tuple(_exporter(names[p], free[:, p], fixed[:, p], granted[:, p]) for p in ports),
    )


def _filled(
    case: FeederCase, observer: Observer, free: Reals, ports: NDArray[np.int64], limits: Limits, static_w: float
) -> Reals:
    """Port powers under max-min fair limits: all limits of a phase rise together until something binds; who reaches
    that constraint stays there, the others go on rising."""
    phases = _phase_of(case)
    power = free.copy()
    frozen = np.zeros(free.shape, dtype=bool)
    mine = np.zeros(free.shape[1], dtype=bool)
    mine[ports] = True
    bad = np.flatnonzero(violations(case, observer, free, limits).any(axis=1))
    for last in (False,) * ROUNDS + (True,):
        if not len(bad):
            break
        hurt = violations(case, observer, power[bad], limits)
        low = np.where(hurt, static_w, np.inf)
        high = np.where(hurt, max(float(-free.min()), static_w), np.inf)
        own, fixed = power[bad], frozen[bad]
        for _ in range(HALVINGS):
            middle = np.where(hurt, (low + high) / 2, np.inf)
            still = violations(case, observer, _rising(own, fixed, middle, mine, phases), limits) & hurt
            high, low = np.where(still, middle, high), np.where(still, low, middle)
        at_low = _rising(own, fixed, low, mine, phases)
        reached = mine & hurt[:, phases]
        if not last:
            reached &= _reached(case, observer, _rising(own, fixed, high, mine, phases), limits)
        stop = reached & ~fixed
        power[bad] = np.where(stop, at_low, own)
        frozen[bad] |= stop
        bad = bad[violations(case, observer, power[bad], limits).any(axis=1)]
    return power


def _rising(
    own: Reals, fixed: NDArray[np.bool_], limit_w: Reals, mine: NDArray[np.bool_], phases: NDArray[np.int64]
) -> Reals:
    return np.where(mine & ~fixed, np.maximum(own, -limit_w[:, phases]), own)


def _reached(case: FeederCase, observer: Observer, p_w: Reals, limits: Limits) -> NDArray[np.bool_]:
    """Ports that reach a violated voltage or current (n_state, n_port)."""
    i_a = _flow(case, p_w)[0]
    found = np.zeros(p_w.shape, dtype=bool)
    for at in range(0, len(p_w), STATES_AT_ONCE):
        u, _, loading = observer.observe(i_a[at : at + STATES_AT_ONCE])
        by_voltage = (u > limits.u_max_pu**2).T.astype(np.float32) @ observer.reach_points.astype(np.float32)
        by_current = (loading > limits.loading_max**2).T.astype(np.float32) @ observer.reach_wires.astype(np.float32)
        found[at : at + STATES_AT_ONCE] = (by_voltage + by_current) > 0
    return found


def _exporter(name: str, free: Reals, fixed: Reals, granted: Reals) -> Exporter:
    export = np.maximum(-free, 0.0)
    whole = max(float(export.sum()), 1e-9)
    lost = [np.maximum(export - np.maximum(-other, 0.0), 0.0) for other in (fixed, granted)]
    return Exporter(
        name,
        float((lost[0] > 1.0).mean()),
        float((lost[1] > 1.0).mean()),
        float(lost[0].sum() / whole),
        float(lost[1].sum() / whole),
        float(export.mean()),
    )


def _free(case: FeederCase, base_w: Reals, per_w: Reals, level_w: float) -> Reals:
    """Port powers with all PV, as constant powers (n_state, n_port) [W]."""
    p = base_w.copy()
    for w, ports in zip(case.rated_w(level_w), case.unit_ports, strict=True):
        for port in ports:
            p[:, port] -= per_w * (w / len(ports))
    return p


def _limited(free: Reals, limit_w: Reals, ports: NDArray[np.int64], phases: NDArray[np.int64]) -> Reals:
    p = free.copy()
    p[:, ports] = np.maximum(p[:, ports], -limit_w[:, phases[ports]])
    return p


def violations(case: FeederCase, observer: Observer, p_w: Reals, limits: Limits) -> NDArray[np.bool_]:
    """Whether a voltage or a current of each phase is above its limit (n_state, 3)."""
    i_a, converged = _flow(case, p_w)
    of_point = np.array([("L1", "L2", "L3").index(c) for _, c in observer.points])
    of_wire = np.array([("L1", "L2", "L3").index(c) for _, c in observer.wires], dtype=np.int64)
    found = np.zeros((len(p_w), 3), dtype=bool)
    found[~converged] = True
    for at in range(0, len(p_w), STATES_AT_ONCE):
        u, _, loading = observer.observe(i_a[at : at + STATES_AT_ONCE])
        for phase in range(3):
            over = (u[of_point == phase] > limits.u_max_pu**2).any(axis=0)
            over |= (loading[of_wire == phase] > limits.loading_max**2).any(axis=0)
            found[at : at + STATES_AT_ONCE, phase] |= over
    return found


def _flow(case: FeederCase, p_w: Reals) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    batch = Injections(p_w, np.zeros_like(p_w))
    flow = solve(case.feeder, batch, results=("port_i_a",), tolerance_pu=TOLERANCE_PU, threads=1)
    return flow["port_i_a"], flow.converged


def _static(case: FeederCase, observer: Observer, free: Reals, ports: NDArray[np.int64], limits: Limits) -> float:
    """The largest common export limit [W] that violates nothing in any state."""
    phases = _phase_of(case)

    def safe(limit_w: float) -> bool:
        p = _limited(free, np.full((len(free), 3), limit_w), ports, phases)
        return not violations(case, observer, p, limits).any()

    low, high = 0.0, max(float(-free.min()), 0.0)
    if safe(high):
        return high
    if not safe(low):
        raise HeadroomError("dynamic: seen violations without any export, expected a feeder that bears its loads")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if safe(middle) else (low, middle)
    return low


def _phase_of(case: FeederCase) -> NDArray[np.int64]:
    labels = [p.connection.pos for p in case.feeder.network.ports()]
    return np.array([("L1", "L2", "L3").index(str(c)) for c in labels])


def _names(case: FeederCase) -> list[str]:
    return [f"{p.bus}.{p.connection.pos}" for p in case.feeder.network.ports()]
