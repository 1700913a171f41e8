"""The judge of reservations: who may have more where something is too much anyway."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.hosting.allocate import Policy
from dcu.hosting.headroom import Constraint, Onto, Rows, Situation, slopes_by_limit
from dcu.hosting.judge import CHORDS_MAX, ROWS_MAX, Judge, Reals
from dcu.hosting.relief import Sober
from dcu.hosting.spread import Claim
from shared.ids import MeterId

BROKEN = CHORDS_MAX * ROWS_MAX + 1
"""More than are looked at when a step is cut short."""
ALONE = MeterId("alone")
PUSH = 1e-6
"""[1/W]"""


class Branches:
    """As many branches as customers, each with one; all but the last one's are beyond their limits whatever anybody
    does, by a bound that is too careful for anybody's raise to show."""

    widens = False

    def __init__(self, echo: float) -> None:
        """With what the last customer does to the branches of all others, as a share of what they do themselves."""
        n = BROKEN + 1
        self.now = Situation(np.zeros(n), np.zeros(n), np.full(n, 230.0), np.zeros(n))
        self.names = tuple(Constraint("overvoltage", f"{k}") for k in range(n))
        self.floor = np.append(np.full(BROKEN, 0.02), -1.0)
        self._by_draw = -PUSH * np.eye(n)
        self._by_draw[:-1, -1] = -PUSH * echo

    def excess(self, p_w: Reals) -> Reals:
        return np.tile(self.floor, (len(np.atleast_2d(p_w)), 1))

    def guess(self, p_w: Reals, enough: Reals | None = None) -> Reals:
        del enough
        return self.excess(p_w)

    def relief(self, unused_w: Reals) -> Reals:
        return np.zeros((len(unused_w), len(self.names)))

    def at_worst(self, p_w: Reals, rows: Rows) -> Reals:
        del p_w
        return np.full(len(rows), np.inf)

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        del p_w
        return self._by_draw[rows]

    def slopes_by_limit(self, p_w: Reals, rows: Rows, at: Rows, onto: Onto) -> Reals:
        return slopes_by_limit(self, p_w, rows, at, onto)


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("echo", [0.0, 1e-12])
def test_who_pushes_nothing_is_raised_beside_any_number_who_do(policy: Policy, echo: float) -> None:
    """Nor does it count as a push what only rounding says."""
    grid = Branches(echo)
    names = [*(MeterId(f"m{k}") for k in range(BROKEN)), ALONE]
    claims = tuple(Claim(name, (k,), 100.0, 1_000.0) for k, name in enumerate(names))
    judge = Judge(Sober(grid, None, 0.0), claims, grid.now.p_w[None, :], np.maximum(grid.floor, 0.0))
    assert not judge.bears(dict.fromkeys(names, 1_000.0), {}, 1e-5)
    assert not judge.bears({names[0]: 200.0}, {names[0]: 199.0}, 1e-5)
    assert judge.bears(dict.fromkeys(names, 1_000.0), dict.fromkeys(names[:-1], 1_000.0), 1e-5)
    raised = judge.raised(claims, {}, 1e-5, policy)
    assert raised == dict.fromkeys(names[:-1], 100.0) | {ALONE: 1_000.0}
