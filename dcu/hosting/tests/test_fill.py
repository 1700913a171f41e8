"""Sharing under linear constraints: never beyond them, never beyond the wish, and each policy keeps its promise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from dcu.hosting.fill import FREE, Filled, Wishes, fill_in_order, fill_most, fill_together, largest_sum

Reals = NDArray[np.float64]
FILLS = (fill_together, fill_in_order, fill_most)


def problem(seed: int, *, hot: bool = False) -> tuple[Reals, Reals, Wishes]:
    """Some forty constraints of mostly positive slopes on a dozen claims; with `hot`, some are broken at the start."""
    random = np.random.default_rng(seed)
    claims, rows = int(random.integers(2, 14)), int(random.integers(1, 40))
    a = random.uniform(-0.2, 1.0, (rows, claims)) * 1e-5
    start = np.full(claims, 500.0)
    wanted = start + random.uniform(0, 9_000, claims)
    room = random.uniform(-0.005 if hot else 0.0, 0.03, rows)
    return a, a @ start + room, Wishes(start, wanted, np.ones(claims))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("seed", range(60))
def test_nobody_goes_beyond_a_constraint_or_a_wish(fill: Callable[[Reals, Reals, Wishes], Filled], seed: int) -> None:
    """And whoever has less than the wish is told which constraint it was: one that is tight, and that it pushes."""
    a, b, wishes = problem(seed)
    found = fill(a, b, wishes)
    x = found.limits_w
    assert (x >= wishes.start_w - 1e-6).all()
    assert (x <= wishes.wanted_w + 1e-6).all()
    assert (a @ x <= b + 1e-9).all()
    for k in np.flatnonzero(x < wishes.wanted_w - 1.0):
        row = found.binding[k]
        assert row != FREE
        assert a[row, k] > 0
    assert (found.binding[x >= wishes.wanted_w] == FREE).all()


@pytest.mark.parametrize("seed", range(60))
def test_the_most_is_the_most(seed: int) -> None:
    """Against SciPy's linear programme, constraint by constraint at once."""
    a, b, wishes = problem(seed)
    bounds = list(zip(wishes.start_w, wishes.wanted_w, strict=True))
    referee = linprog(-np.ones(a.shape[1]), A_ub=a * 1e5, b_ub=b * 1e5, bounds=bounds)
    assert fill_most(a, b, wishes).limits_w.sum() == pytest.approx(-referee.fun, abs=0.5)
    for fill in (fill_together, fill_in_order):
        assert fill(a, b, wishes).limits_w.sum() <= -referee.fun + 0.5


@pytest.mark.parametrize("seed", range(30))
def test_the_most_is_the_most_in_a_street(seed: int) -> None:
    """Three phases, many constraints that say nearly the same, phases that relieve each other; some broken at the
    start."""
    random = np.random.default_rng(seed)
    claims = int(random.integers(20, 300))
    place, phase = np.sort(random.uniform(0, 1, claims)), random.integers(0, 3, claims)
    a = np.array(
        [
            np.where(phase == n % 3, 1.0, -0.25) * np.minimum(place, at) * 1e-5 * random.uniform(0.99, 1.01, claims)
            for n, at in enumerate(random.uniform(0.5, 1.0, int(random.integers(3, 75))))
        ]
    )
    start = np.full(claims, 200.0)
    wanted = start + random.uniform(0, 9_000, claims)
    b = a @ start + random.uniform(-0.002 if seed % 3 == 0 else 0.0, 0.2) * random.uniform(0.9, 1.1, len(a))
    bounds = list(zip(start, wanted, strict=True))
    referee = linprog(-np.ones(claims), A_ub=a * 1e5, b_ub=b * 1e5, bounds=bounds)
    assert referee.status == 0
    found = largest_sum(a * 1e5, b * 1e5, start, wanted)
    assert found is not None
    assert found[0].sum() == pytest.approx(-referee.fun, abs=0.5)
    assert (a @ found[0] <= b + 1e-9).all()


def test_what_cannot_be_has_no_most() -> None:
    """A constraint broken at the start that nobody relieves."""
    assert largest_sum(np.ones((1, 2)), np.array([1.0]), np.ones(2), np.full(2, 5.0)) is None


@pytest.mark.parametrize("seed", range(60))
def test_all_alike_is_max_min(seed: int) -> None:
    """With positive slopes alone: nobody could have more without somebody having less who has no more than he."""
    a, b, wishes = problem(seed)
    a = np.abs(a)
    b = a @ wishes.start_w + np.abs(np.random.default_rng(seed).uniform(0.0, 0.03, len(b)))
    x = fill_together(a, b, wishes).limits_w
    tight = a @ x >= b - 1e-7
    for k in np.flatnonzero(x < wishes.wanted_w - 1.0):
        rows = tight & (a[:, k] > 1e-9)
        assert rows.any()
        assert any(x[k] >= x[a[row] > 1e-9].max() - 60.0 for row in np.flatnonzero(rows)), "within a round's worth"


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("seed", range(60))
def test_what_is_broken_at_the_start_is_not_pushed_further(
    fill: Callable[[Reals, Reals, Wishes], Filled], seed: int
) -> None:
    """A constraint broken at the start ends mended, or with everybody who pushes it where they began."""
    a, b, wishes = problem(seed, hot=True)
    x = fill(a, b, wishes).limits_w
    over = a @ x > b + 1e-9
    for row in np.flatnonzero(over):
        assert a[row] @ wishes.start_w > b[row]
        pushing = a[row] > 1e-9
        assert (x[pushing] <= wishes.start_w[pushing] + 0.02).all()
