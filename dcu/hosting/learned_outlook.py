"""What an allocation asks, answered by what was learnt; and by a model and what was learnt together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.headroom import Constraint, GridLimits, Onto, Prospect, Rows, Situation, slopes_by_limit
from dcu.hosting.learned import LearnedSensitivity

Reals = NDArray[np.float64]


class LearnedOutlook:
    """Predicts violations of the voltage limits from what was learnt; stands where `headroom.Outlook` does.

    All constraints are numbers that must not be above 0, in shares of nominal (the middle of the band).
    """

    widens = True

    def __init__(self, sensitivity: LearnedSensitivity, limits: GridLimits, now: Situation) -> None:
        self.sensitivity, self.limits, self.now = sensitivity, limits, now
        self._nominal = (limits.u_high_v + limits.u_low_v) / 2
        kinds = ("overvoltage", "undervoltage")
        self.names = tuple(Constraint(kind, port) for kind in kinds for port in sensitivity.ports)

    def excess(self, p_w: Reals) -> Reals:
        """How far each limit is exceeded with these draws (n_state, n) [W]: (n_state, 2n)."""
        found = self.sensitivity.change(self.now, np.atleast_2d(p_w))
        expected = self.now.u_v + found.du_v
        margin = self.now.margin_v + found.bound_v + self.now.model_error * np.abs(found.du_v)
        over, under = expected + margin - self.limits.u_high_v, self.limits.u_low_v - expected + margin
        return np.concatenate([over / self._nominal, under / self._nominal], axis=1)

    def guess(self, p_w: Reals, enough: Reals | None = None) -> Reals:
        """The excess itself: it needs no power flow."""
        del enough
        return self.excess(p_w)

    def relief(self, unused_w: Reals) -> Reals:
        """What exports (n_state, n) [W] that may not happen take off an excess (n_state, 2n), as it is learnt."""
        by_draw = self.slopes(self.now.p_w, np.arange(len(self.names)))
        return np.asarray(unused_w @ np.maximum(by_draw, 0.0).T)

    def at_worst(self, p_w: Reals, rows: Rows) -> Reals:
        """Nothing better than relief as it is learnt."""
        del p_w
        return np.full(len(rows), np.inf)

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """Derivative of some excesses by the draws at one state (n) [W]: (n_row, n) [1/W]."""
        n = len(self._nominal)
        ports, which = np.unique(rows % n, return_inverse=True)
        change, bound = self.sensitivity.slopes(self.now, p_w, ports)
        change, bound = change[which], bound[which]
        sign = np.where(rows < n, 1.0, -1.0)[:, None]
        if self.now.model_error:
            du = self.sensitivity.change(self.now, p_w[None, :]).du_v[0]
            bound = bound + self.now.model_error * np.sign(du[rows % n])[:, None] * change
        return np.asarray((sign * change + bound) / self._nominal[rows % n][:, None])

    def slopes_by_limit(self, p_w: Reals, rows: Rows, at: Rows, onto: Onto) -> Reals:
        """As `Prospect` has it."""
        return slopes_by_limit(self, p_w, rows, at, onto)


class MixedOutlook:
    """Two outlooks on one situation, of a model and of what was learnt; where both know a constraint the larger excess
    counts."""

    def __init__(self, first: Prospect, second: Prospect) -> None:
        assert np.array_equal(first.now.p_w, second.now.p_w), "two outlooks on one situation"
        self._first, self._second = first, second
        self.now = first.now
        self.widens = first.widens or second.widens
        place = {name: k for k, name in enumerate(first.names)}
        self.names = (*first.names, *(name for name in second.names if name not in place))
        place = {name: k for k, name in enumerate(self.names)}
        self._rows = np.array([place[name] for name in second.names], dtype=np.int64)

    def excess(self, p_w: Reals) -> Reals:
        """The larger excess of the two (n_state, n_constraint)."""
        return np.maximum(*self._both(np.atleast_2d(p_w)))

    def _both(self, p_w: Reals) -> tuple[Reals, Reals]:
        return self._side_by_side(self._first.excess(p_w), self._second.excess(p_w))

    def _side_by_side(self, first: Reals, second: Reals) -> tuple[Reals, Reals]:
        """What each says of all constraints (n_state, n_constraint)."""
        one = np.full((len(first), len(self.names)), -np.inf)
        two = one.copy()
        one[:, : first.shape[1]] = first
        two[:, self._rows] = second
        return one, two

    def guess(self, p_w: Reals, enough: Reals | None = None) -> Reals:
        """The larger guess of the two (n_state, n_constraint)."""
        of_first = None if enough is None else np.ascontiguousarray(enough[:, : len(self._first.names)])
        return np.maximum(*self._side_by_side(self._first.guess(p_w, of_first), self._second.guess(p_w)))

    def relief(self, unused_w: Reals) -> Reals:
        """The larger of the two (n_state, n_constraint)."""
        both = self._side_by_side(self._first.relief(unused_w), self._second.relief(unused_w))
        return np.maximum(np.maximum(*both), 0.0)

    def at_worst(self, p_w: Reals, rows: Rows) -> Reals:
        """Nothing better than the larger relief."""
        del p_w
        return np.full(len(rows), np.inf)

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """Derivatives of the larger one (n_row, n) [1/W]."""
        one, two = (both[0] for both in self._both(p_w[None, :]))
        found = np.zeros((len(rows), len(p_w)))
        of_second = two[rows] > one[rows]
        found[~of_second] = self._first.slopes(p_w, rows[~of_second])
        place = np.full(len(self.names), -1)
        place[self._rows] = np.arange(len(self._rows))
        if of_second.any():
            found[of_second] = self._second.slopes(p_w, place[rows[of_second]])
        return found

    def slopes_by_limit(self, p_w: Reals, rows: Rows, at: Rows, onto: Onto) -> Reals:
        """As `Prospect` has it."""
        return slopes_by_limit(self, p_w, rows, at, onto)
