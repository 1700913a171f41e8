"""Sharing under linear constraints: `a x <= b`, between the nominal and the wanted limits, by each policy.

The inner half of `allocate`: no power flow, no name of a constraint. Progressive filling gives the max-min fair point:
all movers grow along their weights until a constraint binds; those that push it stop, the others go on. A customer on
another phase can pull a binding constraint back down, so filling is repeated while it pays.

Nomenclature: c constraints, m claims; x limits [W] (m); a (c, m) [1/W], b (c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

PUSH_MIN: Final = 1e-9
"""[1/W] A claim that moves a constraint by less does not push it: one share of a billion for each watt."""
ROUNDS_MAX: Final = 6
WORTH_W: Final = 25.0
"""A round of filling that gave all together less than this was the last."""
LP_TOLERANCE_W: Final = 0.01
ROWS_EACH: Final = 64
"""Constraints added to the linear programme at a time, the most broken first."""
FREE: Final = -1
"""Nothing keeps this claim from more."""


@dataclass(frozen=True, slots=True, eq=False)
class Wishes:
    """From where to where each claim may move [W] (m), and its weight."""

    start_w: Reals
    wanted_w: Reals
    weight: Reals


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """Limits [W] (m), and the constraint that keeps each from more (`FREE` where none does)."""

    limits_w: Reals
    binding: NDArray[np.int64]


def fill_together(a: Reals, b: Reals, wishes: Wishes) -> Filled:
    """Max-min fair in units of the weights."""
    filling = _Filling(a, b, wishes)
    for _ in range(ROUNDS_MAX):
        before = filling.x.sum()
        filling.round()
        if filling.x.sum() - before < WORTH_W:
            break
    return Filled(filling.x, np.where(filling.x < wishes.wanted_w, filling.binding, FREE))


def fill_in_order(a: Reals, b: Reals, wishes: Wishes) -> Filled:
    """One after the other, each as far as it goes."""
    x, binding = wishes.start_w.copy(), np.full(len(wishes.start_w), FREE)
    slack = b - a @ x
    by_claim = np.ascontiguousarray(a.T)
    for _ in range(ROUNDS_MAX):
        before = x.sum()
        todo = np.flatnonzero(x < wishes.wanted_w)
        binding[todo] = FREE
        while len(todo):
            # Up to the first claim that a constraint keeps from its wish, all have theirs.
            steps = wishes.wanted_w[todo] - x[todo]
            columns = by_claim[todo]
            left = slack - np.cumsum(columns * steps[:, None], axis=0)
            kept = ((left < 0) & (columns > 0)).any(axis=1)
            count = int(kept.argmax()) if kept.any() else len(todo)
            x[todo[:count]] = wishes.wanted_w[todo[:count]]
            if count == len(todo):
                slack = left[-1]
                break
            if count:
                slack = left[count - 1]
            column = columns[count]
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = np.where(column > 0, np.maximum(slack, 0.0) / column, np.inf)
            row = int(reach.argmin())
            x[todo[count]] += reach[row]
            slack = slack - reach[row] * column
            stopped = columns[count:, row] > PUSH_MIN
            stopped[0] = True
            binding[todo[count:][stopped]] = row
            todo = todo[count:][~stopped]
        if x.sum() - before < WORTH_W:
            break
    return Filled(x, binding)


def fill_most(a: Reals, b: Reals, wishes: Wishes) -> Filled:
    """The largest sum: a linear programme, by HiGHS, with the constraints that matter added as they are broken.

    Degenerate optima are settled in favour of earlier claims by a millionth of a watt for each watt, so that the answer
    does not depend on the solver's mood.
    """
    low, high = wishes.start_w, wishes.wanted_w
    # A constraint broken at the start binds only if relief from others can mend it; else those who push it stay.
    over = a @ low > b
    mended = (a @ low + np.minimum(a, 0.0) @ (high - low)) <= b
    room = np.where(over & ~mended, np.inf, b)
    lost = over & ~mended
    high = np.where((a[lost] > PUSH_MIN).any(axis=0), low, high)
    x, binding = high.copy(), np.full(len(high), FREE)
    used = np.zeros(len(b), dtype=bool)
    scale = np.maximum(np.abs(a).max(axis=1, initial=0.0), 1e-30)
    while True:
        broken = (a @ x - room) / scale  # [W] of the claim that pushes most
        broken[used] = -np.inf
        if not len(broken) or broken.max() <= LP_TOLERANCE_W:
            return Filled(x, binding)
        used[np.argsort(-broken)[:ROWS_EACH]] |= np.sort(-broken)[:ROWS_EACH] < -LP_TOLERANCE_W
        rows = np.flatnonzero(used)
        solved = _most(a[rows] / scale[rows][:, None], room[rows] / scale[rows], low, high)
        if solved is None:
            return fill_together(a, b, wishes)
        x, price = solved
        short = x < high - LP_TOLERANCE_W
        binding = np.where(short & (price.max(axis=0) > 0), rows[price.argmax(axis=0)], FREE)


def _most(a: Reals, b: Reals, low: Reals, high: Reals) -> tuple[Reals, Reals] | None:
    """Solution (m) and what each row costs each claim (rows, m) of one linear programme; None without a solution."""
    import highspy  # noqa: PLC0415 only sites with this policy load the solver

    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(low), len(b)
    lp.col_cost_ = -(1 - 1e-6 * np.arange(len(low)) / len(low))
    lp.col_lower_, lp.col_upper_ = low, high
    lp.row_lower_, lp.row_upper_ = np.full(len(b), -highspy.kHighsInf), b
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.arange(len(b) + 1) * len(low)
    lp.a_matrix_.index_ = np.tile(np.arange(len(low)), len(b))
    lp.a_matrix_.value_ = a.ravel()
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(lp)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    solution = solver.getSolution()
    price = np.abs(np.array(solution.row_dual))[:, None] * np.maximum(a, 0)
    return np.clip(np.array(solution.col_value), low, high), price


class _Filling:
    """Present limits and slack, and what stopped whom."""

    def __init__(self, a: Reals, b: Reals, wishes: Wishes) -> None:
        self._by_claim, self._wishes = np.ascontiguousarray(a.T), wishes
        self.x = wishes.start_w.copy()
        self._slack = b - a @ self.x
        self.binding = np.full(len(self.x), FREE)

    def round(self) -> None:
        """Grow everybody until nobody moves: from one binding constraint to the next, those who get their wish on the
        way leave."""
        x, weight = self.x, self._wishes.weight
        moving = np.flatnonzero(x < self._wishes.wanted_w)
        room = (self._wishes.wanted_w[moving] - x[moving]) / weight[moving]
        order = np.argsort(room, kind="stable")
        moving, room = moving[order], room[order]  # [weights] to go, ascending
        self.binding[moving] = FREE
        while len(moving):
            columns = self._by_claim[moving] * weight[moving, None]
            passed = np.cumsum(columns, axis=0)
            rate = passed[-1] - passed + columns  # on the way to each wish
            used = np.cumsum(columns * room[:, None], axis=0) + (rate - columns) * room[:, None]
            kept = ((used > self._slack) & (rate > 0)).any(axis=1)
            count = int(kept.argmax()) if kept.any() else len(moving)
            there = moving[:count]
            x[there] = self._wishes.wanted_w[there]
            if count == len(moving):
                self._slack = self._slack - used[-1]
                return
            grown = room[count - 1] if count else 0.0
            if count:
                self._slack = self._slack - used[count - 1]
            speed = rate[count]
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = np.where(speed > 0, np.maximum(self._slack, 0.0) / speed, np.inf)
            row = int(reach.argmin())
            step = min(float(reach[row]), float(room[count] - grown))
            self._slack = self._slack - step * speed
            moving, room = moving[count:], room[count:] - grown - step
            x[moving] += (grown + step) * weight[moving]
            pushes = self._by_claim[moving, row]
            pushing = pushes > PUSH_MIN
            if not pushing.any():
                pushing = pushes > 0
            if not pushing.any():
                pushing[:] = True  # rounding alone: nobody is left who could move
            self.binding[moving[pushing]] = row
            moving, room = moving[~pushing], room[~pushing]
