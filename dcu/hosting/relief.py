"""Relief counted as it is measured: an export that nobody has seen holds nobody's voltage down.

In a feeder of three phases an export on one phase can lower the voltage of another. Who is granted more may use it at
once or not at all, and nobody knows before the next report. So every constraint is asked for its worst case: with all
exports that push it fully used, and those that relieve it only as far as they are measured now. Two who are raised in
one window, on two phases, do not count on each other; each may count on what the other is seen to export.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.headroom import Constraint, Onto, Outlook, Prospect, Rows, Situation, slopes_by_limit

Reals = NDArray[np.float64]
NEAR: Final = 2e-4
"""[limit] By which the bound to first order may be too small, where exports hardly move a voltage: 0.05 V."""
NO_ROWS: Final = np.zeros(0, dtype=np.int64)


class Sober:
    """`Prospect` of another one, less what exports beyond the measured ones would relieve; a little of it is believed
    as long as it is not seen to be missing. It is asked for all cases (`spread.Spread`) of a state together."""

    def __init__(self, prospect: Prospect, missing: Reals | None, believed: float) -> None:
        """Of a prospect.

        Args:
            prospect: where all exports are fully used.
            missing: what exports that are seen not to happen relieve (n_constraint), or in each case (n_case,
                n_constraint); None for nothing.
            believed: how much more may be counted on [share of a limit].
        """
        self._inner, self._believed = prospect, believed
        self._missing = np.zeros((1, len(prospect.names))) if missing is None else np.atleast_2d(missing)
        self._known: dict[bytes, Reals] = {}
        self._asked: dict[tuple[bytes, bytes], Reals] = {}
        self.now: Situation = prospect.now
        self.names: tuple[Constraint, ...] = prospect.names
        self.widens: bool = prospect.widens

    def excess(self, p_w: Reals, exact: Rows = NO_ROWS) -> Reals:
        """As `Prospect` has it. What relief may be missing is bounded to first order; of constraints that could be
        exceeded by that, and of those named ``exact``, flows without those exports say it."""
        states = np.atleast_2d(p_w)
        used = self._inner.excess(states)
        key = states.tobytes(), exact.tobytes()
        if key not in self._asked:
            self._asked[key] = self._worst(states, used, exact)
        return self._asked[key]

    def _worst(self, states: Reals, used: Reals, exact: Rows) -> Reals:
        """Of some states, by how far they exceed all used."""
        missing = self._missing
        if len(missing) > 1:  # of each case, whichever states there are
            missing = missing[np.arange(len(states)) % len(missing)]
        found = used + self._doubted(states, missing)
        ask = found > -NEAR
        if len(exact):
            ask[:, exact] = True
        ask &= found > used.max(axis=0)  # what is no worse in one case than this is worse in another
        ask &= np.isfinite(used)
        which, asked = ask.nonzero()
        for k, p in enumerate(states if len(asked) else ()):
            rows = asked[which == k]
            if not len(rows):
                continue
            rows = rows[np.argsort(-found[k].take(rows), kind="stable")]
            worst = self._inner.at_worst(p, rows)
            told = np.isfinite(worst)
            if not told.all():
                rows, worst = rows[told], worst[told]
            all_used = used[k].take(rows)
            relieved = np.maximum(worst - all_used, 0.0)
            seen_missing = missing[k % len(missing)].take(rows)
            doubted = np.maximum(relieved - self._believed, np.minimum(seen_missing, relieved))
            found[k, rows] = np.minimum(found[k].take(rows) + NEAR, all_used + doubted)
        return found

    def guess(self, p_w: Reals, enough: Reals | None = None) -> Reals:
        doubted = self._doubted(p_w, self._missing.max(axis=0))
        return self._inner.guess(p_w, None if enough is None else enough - doubted) + doubted

    def relief(self, unused_w: Reals) -> Reals:
        return self._inner.relief(unused_w)

    def at_worst(self, p_w: Reals, rows: Rows) -> Reals:
        return self._inner.at_worst(p_w, rows)

    def slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """Beyond what is measured an export relieves nothing."""
        found = self._inner.slopes(p_w, rows)
        return np.where((p_w < self.now.p_w)[None, :], np.minimum(found, 0.0), found)

    def slopes_by_limit(self, p_w: Reals, rows: Rows, at: Rows, onto: Onto) -> Reals:
        if isinstance(self._inner, Outlook) and self._inner.compiled:
            return self._inner.slopes_by_limit(p_w, rows, at, onto, seen=True)
        return slopes_by_limit(self, p_w, rows, at, onto)

    def _doubted(self, p_w: Reals, missing: Reals) -> Reals:
        """What unseen exports of some states (n_state, n) relieve beyond belief, or is missing, if that is more."""
        key = p_w.tobytes()
        if key not in self._known:
            self._known[key] = self._inner.relief(np.maximum(self.now.p_w - p_w, 0.0)) - self._believed
        return np.maximum(self._known[key], missing)
