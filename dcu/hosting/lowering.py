"""Who is lowered when the limits that have been told are too much: as few as can bring enough, and those by more.

A word takes as much air for three watts as for three kilowatts, and a renewal, which comes anyway, brings everybody to
his share. So what cannot wait for the renewals is taken from those whose export presses hardest on what is too much,
and a little more than needed, so that the next second does not ask again.

1. Whoever is renewed in this window comes down to his share: that takes no word of its own.
2. Then those who relieve most, each down to half of his increase, one after the other until it is enough (`allocate`
   in turn, the others first).
3. Where that is not enough, the policy shares out what is left among all (`window`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.allocate import Policy, allocate
from dcu.hosting.headroom import Prospect
from dcu.hosting.spread import Claim, Spread, worst_case

Reals = NDArray[np.float64]

LEFT: Final = 0.5
"""Share of an increase, or of the part of it that its owner should have, that a lowering leaves him at least, until his
renewal brings his share. On the European feeder before noon 0.8 took a third more words, 0 lost a point of the
increase."""
SPARE_GUARDS: Final = 3.0
"""[guard] So much more than needed is taken at once. On the European feeder before noon 10 and 30 took twice and
three times the words, because more is given back then; 1 took as many."""
ROWS_MAX: Final = 24
"""Constraints by which relief is told, the worst first: neighbours say much the same."""

TOGETHER: Final = (Policy.EQUAL, Policy.PROPORTIONAL)
"""Policies by which every change of the grid moves everybody's share. The others move few at a time as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Claims that want no more than they have been told; what their owners should have by the policy, and the least
    that is of use to them [W] (n_claim); draws of all others, as `allocate` takes them; and how far each constraint is
    exceeded whatever is granted (n_constraint)."""

    claims: tuple[Claim, ...]
    share_w: Reals
    useful_w: Reals
    others_p_w: Reals
    floor: Reals


def lower_few(prospect: Prospect, told: Told, guard: float) -> Reals:
    """Limits of the claims in their order [W], most of them as they are.

    Args:
        prospect: the grid as it is now, as it is judged whether what has been told is too much.
        told: who may do what.
        guard: share of a limit.
    """
    claims = told.claims
    held_w = np.array([c.wanted_w for c in claims])
    nominal_w = np.array([c.nominal_w for c in claims])
    least_w = nominal_w + LEFT * np.maximum(np.minimum(held_w, told.share_w) - nominal_w, 0.0)
    least_w = np.minimum(np.maximum(least_w, told.useful_w), held_w)
    order = np.argsort(_relief(prospect, told, held_w) * (held_w - least_w), kind="stable").tolist()
    ordered = tuple(claims[k]._replace(nominal_w=float(least_w[k]), minimum_w=0.0) for k in order)
    missing = np.where(told.floor > 0, -told.floor, SPARE_GUARDS * guard)
    found = allocate(prospect, ordered, Policy.FIRST_COME, told.others_p_w, missing)
    limits_w = np.empty(len(claims))
    limits_w[order] = found.limits_w
    return limits_w


def _relief(prospect: Prospect, told: Told, held_w: Reals) -> Reals:
    """How much each claim (n_claim) relieves what is too much, or nearest to it [1/W]."""
    spread = Spread.of(told.claims)
    p_w = spread.powers(held_w, told.others_p_w, prospect.now.p_w)
    excess, case = worst_case(prospect.excess(p_w))
    worst = np.argsort(-excess, kind="stable")[:ROWS_MAX]
    rows = np.append(worst[:1], worst[1:][excess[worst[1:]] > 0])
    slopes = prospect.slopes_by_limit(p_w, rows, case[rows], spread.onto)
    return np.asarray(np.maximum(slopes, 0.0).sum(axis=0))
