"""The optimum must be feasible, as good as another solver finds, and its proven gap must cover what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections
from dcu.hosting.headroom import GridLimits
from hil_tests import optimum
from hil_tests.day import Day, at_no_load_pu, make_day, open_feeder
from hil_tests.optimum import optimise
from hil_tests.tests.lane import lane

Reals = NDArray[np.float64]
NOMINAL_W = 1500.0


def street(rating_a: float = 60.0, minutes: tuple[int, int] = (720, 723)) -> tuple[Feeder, Day, GridLimits]:
    network = lane(rating_a)
    first = Feeder(network)
    feeder = Feeder(at_no_load_pu(network, np.abs(first.model.u_open_v), first.u_nominal_v, 1.05))
    return feeder, make_day(feeder.network, "clear", 1.0, 1, minutes), GridLimits.of(feeder.model, 8.0)


def rows(feeder: Feeder, day: Day, limits: GridLimits, t: int, g: Reals) -> Reals:
    """How far inside its limits a state is [V, A], by its own power flow and observables."""
    draws = Injections.of(day.p_w[t] - g @ day.spread, day.q_var[t])
    found = solve(feeder, draws, engine="port", results=("port_u_v", "current_a"), tolerance_pu=1e-12)
    u, rated = np.abs(found["port_u_v"][0]), np.isfinite(limits.i_max_a)
    amps = np.abs(found["current_a"][0])[rated]
    return np.concatenate([limits.u_high_v - u, u - limits.u_low_v, limits.i_max_a[rated] - amps])


@pytest.mark.parametrize("rating_a", [60.0, 25.0])
def test_the_optimum_is_feasible_and_what_a_nonlinear_solver_finds(rating_a: float) -> None:
    """Judged by SciPy's SLSQP with derivatives by differences, from three starts; once the cable binds, once not."""
    feeder, day, limits = street(rating_a)
    found = optimise(feeder, day, limits, 0.0)
    low = day.generated_w(0.0)
    for t in range(len(day.minute)):
        assert rows(feeder, day, limits, t, found.generated_w[t]).min() > -1e-6
        best = 0.0
        for share in (0.1, 0.4, 0.7):
            start = low[t] + share * (day.pv_w[t] - low[t])
            other = minimize(
                lambda x: -float(x.sum()),
                start / 1e3,
                jac=lambda x: -np.ones(len(x)),
                bounds=list(zip(low[t] / 1e3, day.pv_w[t] / 1e3, strict=True)),
                constraints={"type": "ineq", "fun": lambda x, t=t: rows(feeder, day, limits, t, 1e3 * x)},
                method="SLSQP",
                options={"maxiter": 200, "ftol": 1e-9},
            )
            if rows(feeder, day, limits, t, 1e3 * other.x).min() > -1e-4:
                best = max(best, float(other.x.sum()) * 1e3)
        assert best > 0
        assert found.generated_w[t].sum() == pytest.approx(best, rel=2e-5)
        assert found.generated_w[t].sum() + found.gap_w[t] >= best - 0.1
        assert found.gap_w[t] < (1e-5 if rating_a == 60.0 else 0.05) * best, "a common cable confines less"
    bound = rows(feeder, day, limits, 0, found.generated_w[0])
    assert (bound[-3:].min() < 1e-3) == (rating_a == 25.0), "the cable binds where it is thin"


def test_the_gap_covers_what_a_search_that_was_broken_off_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step instead of as many as it takes, from a start that is far off: the bound must still hold."""
    feeder, day, limits = street()
    whole = optimise(feeder, day, limits, NOMINAL_W)
    monkeypatch.setattr(optimum, "STEPS_MAX", 1)
    broken = optimise(feeder, day, limits, NOMINAL_W)
    missing = whole.generated_w.sum(axis=1) - broken.generated_w.sum(axis=1)
    assert missing.max() > 5.0
    assert (broken.gap_w >= missing).all()


def test_no_feasible_state_drawn_at_random_is_better() -> None:
    feeder, day, limits = street(minutes=(720, 721))
    found = optimise(feeder, day, limits, 0.0)
    random = np.random.default_rng(5)
    low, best = day.generated_w(0.0)[0], found.generated_w[0]
    drawn = low + random.random((20_000, len(best))) ** 0.5 * (day.pv_w[0] - low)
    drawn[:10_000] = np.clip(best + random.normal(0, 200.0, (10_000, len(best))), low, day.pv_w[0])
    u = np.abs(solve(feeder, Injections.of(day.p_w[0] - drawn @ day.spread, day.q_var[0]))["port_u_v"])
    feasible = (u <= limits.u_high_v).all(axis=1)
    assert feasible.sum() > 500
    assert drawn[feasible].sum(axis=1).max() <= best.sum() + found.gap_w[0]


def test_ten_minute_means_allow_more_than_single_minutes_and_hold_as_means() -> None:
    network = open_feeder("eulv")
    first = Feeder(network)
    feeder = Feeder(at_no_load_pu(network, np.abs(first.model.u_open_v), first.u_nominal_v, 1.05))
    day = make_day(feeder.network, "broken", 0.5, 1, (720, 730))
    limits = GridLimits.of(feeder.model, 8.0)
    minutes, means = (optimise(feeder, day, limits, 1000.0, over) for over in (1, 10))
    assert means.generated_w.sum() > minutes.generated_w.sum() + 10.0
    assert minutes.u_v.max() <= limits.u_high_v.max() + 1e-6
    assert means.u_v.max() > limits.u_high_v.max() + 0.1
    assert means.u_v.mean(axis=0).max() <= limits.u_high_v.max() + 1e-6
    assert minutes.gap_share < 1e-3


def test_minutes_in_which_nothing_binds_cost_no_programme() -> None:
    feeder, day, limits = street(minutes=(300, 310))
    found = optimise(feeder, day, limits, NOMINAL_W)
    assert found.steps == found.bound_minutes == 0
    assert (found.generated_w == day.pv_w).all()
    assert found.gap_share == 0


def test_contracts_are_kept_even_where_they_alone_leave_the_band() -> None:
    """A nominal limit that the grid does not bear: the band is widened to it, and nobody is kept below it."""
    feeder, day, limits = street()
    tight = replace(limits, u_high_v=limits.u_high_v - 3.0)
    found = optimise(feeder, day, tight, NOMINAL_W, least_w=NOMINAL_W)
    assert (found.generated_w >= day.generated_w(NOMINAL_W) - 1e-6).all()
    free = optimise(feeder, day, tight, NOMINAL_W)
    assert free.generated_w.sum() >= found.generated_w.sum() - 1e-6
