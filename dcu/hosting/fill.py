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

from dcu.hosting.compiled import share

Reals = NDArray[np.float64]

PUSH_MIN: Final = 1e-9
"""[1/W] A claim that moves a constraint by less does not push it: one share of a billion for each watt."""
ROUNDS_MAX: Final = 6
WORTH_W: Final = 25.0
"""A round of filling that gave all together less than this was the last."""
WORTH_SHARE: Final = 3e-4
"""Or less than this share of what they had."""
LP_TOLERANCE_W: Final = 0.01
"""A claim within this of its wish has it."""
TIGHT_W: Final = 1e-4
"""A constraint or bound broken by less [W of the claim that pushes it most] is kept."""
TIE: Final = 1e-6
PIVOT_MIN: Final = 1e-9
PIVOTS_MAX: Final = 500
AHEAD, FURTHER = 32, 2
"""Claims looked at at a time, on the way to the next constraint that binds; and how many times more, if none does."""
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
    if share is not None:
        return _compiled(a, b, wishes, in_order=False)
    filling = _Filling(a, b, wishes)
    for _ in range(ROUNDS_MAX):
        before = filling.x.sum()
        filling.round()
        if filling.stuck() or filling.x.sum() - before < max(WORTH_W, WORTH_SHARE * before):
            break
    return Filled(filling.x, np.where(filling.x < wishes.wanted_w, filling.binding, FREE))


def fill_in_order(a: Reals, b: Reals, wishes: Wishes) -> Filled:
    """One after the other, each as far as it goes."""
    if share is not None:
        return _compiled(a, b, wishes, in_order=True)
    x, binding = wishes.start_w.copy(), np.full(len(wishes.start_w), FREE)
    slack = b - a @ x
    by_claim = np.ascontiguousarray(a.T)
    for _ in range(ROUNDS_MAX):
        before = x.sum()
        slack = _in_order(by_claim, slack, x, wishes.wanted_w, binding)
        if x.sum() - before < max(WORTH_W, WORTH_SHARE * before):
            break
    return Filled(x, binding)


def _compiled(a: Reals, b: Reals, wishes: Wishes, *, in_order: bool) -> Filled:
    x, binding = wishes.start_w.copy(), np.full(len(wishes.start_w), FREE)
    assert share is not None
    share.fill(np.ascontiguousarray(a), b, wishes.wanted_w, wishes.weight, in_order, x, binding)
    return Filled(x, binding)


def _in_order(by_claim: Reals, slack: Reals, x: Reals, wanted_w: Reals, binding: NDArray[np.int64]) -> Reals:
    """One round; `x` and `binding` in place, the slack that is left."""
    todo = np.flatnonzero(x < wanted_w)
    binding[todo] = FREE
    reach_ahead = AHEAD
    while len(todo):
        # Up to the first claim that a constraint keeps from its wish, all have theirs.
        ahead = todo[:reach_ahead]
        columns = by_claim[ahead]
        left = slack - np.cumsum(columns * (wanted_w[ahead] - x[ahead])[:, None], axis=0)
        kept = ((left < 0) & (columns > 0)).any(axis=1)
        count = int(kept.argmax()) if kept.any() else len(ahead)
        x[ahead[:count]] = wanted_w[ahead[:count]]
        slack = left[count - 1] if count else slack
        todo = todo[count:]
        if count == len(ahead):
            reach_ahead *= FURTHER
            continue
        reach_ahead = AHEAD
        column = columns[count]
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(column > 0, np.maximum(slack, 0.0) / column, np.inf)
        row = int(reach.argmin())
        x[todo[0]] += reach[row]
        slack = slack - reach[row] * column
        stopped = by_claim[todo, row] > PUSH_MIN
        stopped[0] = True
        binding[todo[stopped]] = row
        todo = todo[~stopped]
    return slack


def fill_most(a: Reals, b: Reals, wishes: Wishes) -> Filled:
    """The largest sum: a linear programme.

    Degenerate optima are settled in favour of earlier claims by a millionth of a watt for each watt.
    """
    low, high = wishes.start_w, wishes.wanted_w
    if share is not None:
        x, binding = np.empty(len(low)), np.empty(len(low), dtype=np.int64)
        share.fill_most(np.ascontiguousarray(a), np.ascontiguousarray(b), low, high, x, binding)
        return Filled(x, binding)
    may = np.flatnonzero(a @ low + np.maximum(a, 0.0) @ (high - low) >= b)  # the others have room for all wishes
    if not len(may):
        return Filled(high.copy(), np.full(len(low), FREE))
    filled = _fill_most(a[may], b[may], low, high)
    return Filled(filled.limits_w, np.where(filled.binding >= 0, may[filled.binding], FREE))


def _fill_most(a: Reals, b: Reals, low: Reals, high: Reals) -> Filled:
    # A constraint broken at the start binds only if relief from others can mend it; else those who push it stay.
    at_low = a @ low
    lost = at_low > b
    if lost.any():
        lost &= (at_low + np.minimum(a, 0.0) @ (high - low)) > b
        high = np.where((a[lost] > PUSH_MIN).any(axis=0), low, high)
    scale = np.maximum(np.abs(a).max(axis=1, initial=0.0), 1e-30)
    a, room = a / scale[:, None], np.where(lost, np.inf, b) / scale  # [W] of the claim that pushes most
    solved = largest_sum(a, room, low, high)
    if solved is None:
        return fill_together(a, room, Wishes(low, high, np.ones(len(low))))
    x, rows, price = solved
    binding = np.full(len(x), FREE)
    if len(rows):
        cost = price[:, None] * np.maximum(a[rows], 0.0)
        short = (x < high - LP_TOLERANCE_W) & (cost.max(axis=0) > 0)
        binding[short] = rows[cost.argmax(axis=0)][short]
    return Filled(x, binding)


def largest_sum(a: Reals, b: Reals, low: Reals, high: Reals) -> tuple[Reals, NDArray[np.int64], Reals] | None:
    """Maximise the sum of x under `a x <= b`, `low <= x <= high`: the dual simplex method with bound flipping.

    All claims begin at their wish. As long as something is violated, a constraint or the bound of a basic claim, its
    price is raised until enough claims have been moved to their other bound, cheapest first; the last of them becomes
    basic: it takes what makes the violated one just hold. A programme of many claims and few constraints that bind, as
    streets are, takes a few pivots.

    Returns:
        x, the rows that are tight, and their prices; None if there is no solution, or rounding hides it.
    """
    simplex = _Simplex(a, b, low, high)
    for _ in range(PIVOTS_MAX):
        if not simplex.solve():
            return None
        broken = simplex.most_broken()
        if broken is None:
            return np.clip(simplex.x, low, high), np.array(simplex.tight, dtype=np.int64), simplex.price
        if not simplex.mend(broken):
            return None
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Broken:
    """What is violated most: a row or, as if it were one, the bound of a basic claim (`leaves`, else `FREE`); its
    slopes (m); by how much."""

    row: int
    leaves: int
    slopes: Reals
    gap: float


class _Simplex:
    """One programme on its way: tight rows, the basic claims that keep them tight, everybody else at a bound."""

    def __init__(self, a: Reals, b: Reals, low: Reals, high: Reals) -> None:
        self._a, self._b, self._low, self._high = a, b, low, high
        self._gain = 1 - TIE * np.arange(len(low)) / len(low)
        self.x = high.copy()
        self.tight: list[int] = []
        self._basic: list[int] = []
        self.price: Reals = np.zeros(0)
        self._of_tight = a[self.tight]
        self._inverse: Reals = np.zeros((0, 0))

    def solve(self) -> bool:
        """Basic claims from the tight rows, and the rows' prices; False if rounding hides them."""
        self._of_tight, basic = self._a[self.tight], self._basic
        try:
            self._inverse = np.asarray(np.linalg.inv(self._of_tight[:, basic]))
        except np.linalg.LinAlgError:
            return False
        self.x[basic] = 0.0
        self.x[basic] = self._inverse @ (self._b[self.tight] - self._of_tight @ self.x)
        self.price = self._gain[basic] @ self._inverse
        return True

    def most_broken(self) -> _Broken | None:
        """None if nothing is."""
        x, low, high, basic = self.x, self._low, self._high, self._basic
        over = self._a @ x - self._b
        over[self.tight] = -np.inf
        outside = np.maximum(low[basic] - x[basic], x[basic] - high[basic])
        row, column = int(over.argmax()) if len(over) else 0, int(outside.argmax()) if basic else 0
        by_row, by_column = over[row] if len(over) else -np.inf, outside[column] if basic else -np.inf
        gap = float(max(by_row, by_column))
        if gap <= TIGHT_W:
            return None
        if by_column <= by_row:
            return _Broken(row, FREE, self._a[row], gap)
        leaves = basic[column]
        slopes = np.zeros(len(x))
        slopes[leaves] = 1.0 if x[leaves] > high[leaves] else -1.0
        return _Broken(row, leaves, slopes, gap)

    def mend(self, broken: _Broken) -> bool:
        """Move the cheapest claims to their other bound until what was broken just holds; False if all of them are not
        enough."""
        low, high, x = self._low, self._high, self.x
        weights = broken.slopes[self._basic] @ self._inverse
        moved = broken.slopes - weights @ self._of_tight  # by which a claim moves it, basic claims following
        moved[self._basic] = 0.0
        at_high = x >= high
        candidates = np.flatnonzero((np.where(at_high, moved, -moved) > PIVOT_MIN) & (high > low))
        loose = np.flatnonzero(weights > PIVOT_MIN)
        order, last = self._cheapest(candidates, loose, moved, weights, broken.gap)
        if last == len(order):
            return False
        if broken.leaves != FREE:
            x[broken.leaves] = (high if broken.slopes[broken.leaves] > 0 else low)[broken.leaves]
            self._basic.remove(broken.leaves)
        else:
            self.tight.append(broken.row)
        flipped = candidates[order[:last]]
        x[flipped] = np.where(at_high[flipped], low[flipped], high[flipped])
        if order[last] < len(candidates):
            self._basic.append(int(candidates[order[last]]))
        else:
            self.tight.remove(self.tight[int(loose[order[last] - len(candidates)])])
        return True

    def _cheapest(
        self, candidates: NDArray[np.int64], loose: NDArray[np.int64], moved: Reals, weights: Reals, gap: float
    ) -> tuple[NDArray[np.int64], int]:
        """Candidates, and behind them rows that may become loose, in the order of the price at which they move; the
        place of the one that closes the gap."""
        left = self._gain - self.price @ self._of_tight
        of_claims, of_rows = left[candidates] / moved[candidates], self.price[loose] / weights[loose]
        when = np.concatenate([np.maximum(of_claims, 0.0), of_rows])
        width = np.abs(moved[candidates]) * (self._high - self._low)[candidates]
        room = np.concatenate([width, np.full(len(loose), np.inf)])
        order = np.argsort(when, kind="stable")
        return order, int(np.searchsorted(np.cumsum(room[order]), gap))


class _Filling:
    """Present limits and slack, and what stopped whom."""

    def __init__(self, a: Reals, b: Reals, wishes: Wishes) -> None:
        self._by_claim, self._wishes = np.ascontiguousarray(a.T), wishes
        self.x = wishes.start_w.copy()
        self._slack = b - a @ self.x
        self.binding = np.full(len(self.x), FREE)

    def stuck(self) -> bool:
        """Whether whoever wants more pushes a constraint that has nothing left."""
        wanting = np.flatnonzero(self.x < self._wishes.wanted_w)
        spent = np.flatnonzero(self._slack <= 0)
        return bool((self._by_claim[wanting[:, None], spent] > PUSH_MIN).any(axis=1).all())

    def _together(self, claims: NDArray[np.int64]) -> Reals:
        """How fast some claims use up each constraint (c) [1/weight]."""
        weight = np.zeros(len(self.x))
        weight[claims] = self._wishes.weight[claims]
        return np.asarray(weight @ self._by_claim)

    def round(self) -> None:
        """Grow everybody until nobody moves: from one binding constraint to the next, those who get their wish on the
        way leave."""
        x, weight = self.x, self._wishes.weight
        moving = np.flatnonzero(x < self._wishes.wanted_w)
        room = (self._wishes.wanted_w[moving] - x[moving]) / weight[moving]
        order = np.argsort(room, kind="stable")
        moving, room = moving[order], room[order]  # [weights] to go, ascending
        self.binding[moving] = FREE
        rate = self._together(moving)
        ahead = AHEAD
        while len(moving):
            # How much each constraint is used when each of the next claims has its wish, and how fast on the way there.
            goal = room[:ahead]
            columns = self._by_claim[moving[:ahead]]
            columns *= weight[moving[:ahead], None]
            left = rate - np.cumsum(columns, axis=0)
            speed = left + columns
            used = np.cumsum(columns * goal[:, None], axis=0)
            used += left * goal[:, None]
            kept = ((used > self._slack) & (speed > 0)).any(axis=1)
            count = int(kept.argmax()) if kept.any() else len(goal)
            there = moving[:count]
            x[there] = self._wishes.wanted_w[there]
            grown = float(goal[count - 1]) if count else 0.0
            self._slack = self._slack - used[count - 1] if count else self._slack
            moving, room = moving[count:], room[count:]
            row = FREE
            if count == len(goal):
                rate, ahead = left[-1], FURTHER * ahead
            else:
                rate, ahead = speed[count], AHEAD
                with np.errstate(divide="ignore", invalid="ignore"):
                    reach = np.where(rate > 0, np.maximum(self._slack, 0.0) / rate, np.inf)
                row = int(reach.argmin())
                step = min(float(reach[row]), float(room[0]) - grown)
                self._slack = self._slack - step * rate
                grown += step
            x[moving] += grown * weight[moving]
            room = room - grown
            if row != FREE:
                pushes = self._by_claim[moving, row]
                pushing = pushes > PUSH_MIN
                if not pushing.any():
                    pushing = pushes > 0
                if not pushing.any():
                    pushing[:] = True  # rounding alone: nobody is left who could move
                stopped = moving[pushing]
                self.binding[stopped] = row
                rate = rate - self._together(stopped)
                moving, room = moving[~pushing], room[~pushing]
