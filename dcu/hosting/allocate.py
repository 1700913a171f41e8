"""Who gets the watts: claims in, export limits out, by a named policy. Serves grant, renewal and shedding alike.

Method. The limits grow from the nominal ones by a policy: all claims alike (`equal`), each in proportion to its nominal
limit (`proportional`), one after the other (`first_come`), or for the largest sum (`max_total`). Successive linear
steps: the excess of every constraint is measured by an exact power flow, followed linearly to where the policy wants
to be, and measured again, until what binds has nothing left to give; the second step goes by the chord that the first
one found. What comes out was solved and found good; if linear steps do not get there, the way back towards the nominal
limits is halved until an exact flow says yes.

A constraint that the nominal limits alone exceed lets those who push it have more only if what others on other phases
are given brings it within its limit, all used; else they stay at the nominal limit, and it is theirs no longer to say
what the others may. What the contract promises is not this function's to take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.compiled import share
from dcu.hosting.fill import FREE, PUSH_MIN, Filled, Wishes, fill_in_order, fill_most, fill_together
from dcu.hosting.headroom import Constraint, Prospect
from dcu.hosting.measurements import SUBSTATION
from dcu.hosting.spread import Claim, Spread, worst_case

Reals = NDArray[np.float64]
Rows = NDArray[np.int64]

RESOLUTION_W: Final = 1.0
"""Steps end when no limit moves by more."""
FLOWS_MAX: Final = 12
"""Linear steps before the way back is halved; each is one exact power flow."""
WIDENING_FLOWS_MAX: Final = 6
"""The same where doubt grows with the distance from now: the next window goes on from where this one led."""
BACK_TO: Final = (1.0, 0.95, 0.85, 0.7, 0.5, 0.25)
"""Shares of what is exported now beyond the nominal limits that are tried as a start."""
CHORD: Final = 2
"""The flow after which the slopes at the nominal limits are bent to what it found, instead of made anew."""
BEND_MAX: Final = 1.25
"""By which a chord may differ from a slope."""
PLAIN_SHARE: Final = 0.2
"""[of what the claims move it by, taken alike] A constraint that others relieve nearly as much says nothing by its
chord."""
HALVINGS_MAX: Final = 20
GUESS_SHARE: Final = 0.2
"""Part by which a guessed change may be wrong before a constraint is overlooked at first; exact flows find it later."""
ROUGH: Final = 5e-4
"""[limit] What a guess may break: the linear steps are no better, and the exact flows find it."""
PUSH_SHARE: Final = 0.5
"""[of the strongest push] Who may push a measured excess by more does push it, however his export looks from afar."""
ROWS_EACH: Final = 24
"""Constraints taken into the linear steps at a time, the worst first."""
DUST: Final = 5e-9
"""[limit] Two power flows of one state differ by their tolerance."""
NO_FLOW: Final = Constraint("power_flow", SUBSTATION)
"""Exceeded where not even the nominal limits have a power-flow solution."""
EITHER_WAY: Final = frozenset({"current", "unbalance"})
"""Kinds of constraints that may be too much one way, and the other."""
SLACK: Final = 1e-6
"""[limit] Linear steps aim this far inside, so that they end inside: 0.2 mV, a fraction of a watt."""
SPARE: Final = 4e-6
"""[limit] What is not worth another step: 1 mV."""


class Policy(StrEnum):
    """How capacity is shared."""

    EQUAL = "equal"
    PROPORTIONAL = "proportional"
    FIRST_COME = "first_come"
    MAX_TOTAL = "max_total"


_FILL: Final[dict[Policy, Callable[[Reals, Reals, Wishes], Filled]]] = {
    Policy.EQUAL: fill_together,
    Policy.PROPORTIONAL: fill_together,
    Policy.FIRST_COME: fill_in_order,
    Policy.MAX_TOTAL: fill_most,
}


_KIND: Final = {Policy.EQUAL: 0, Policy.PROPORTIONAL: 0, Policy.FIRST_COME: 1, Policy.MAX_TOTAL: 2}
"""How the compiled loops fill: together, in order, for the largest sum."""
NO_STATE, TOO_LITTLE = -2, -2
"""Among the constraints of the compiled loops: what is exceeded without a flow; what binds below a claim's minimum."""


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Export limit of each claim [W]; what kept each from more (None: it has what it wanted); Jain's fairness index of
    the increases; the constraint that the nominal limits alone exceed most, if one; how far each constraint may go (0
    less what was missing, or, where nobody can mend it, what the nominal limits exceed it by, but no more than the
    present draws do where doubt grows with the distance from now); power flows it took."""

    limits_w: Reals
    binding: tuple[Constraint | None, ...]
    fairness: float
    exceeded: Constraint | None
    floor: Reals
    flows: int


def allocate(
    prospect: Prospect,
    claims: tuple[Claim, ...],
    policy: Policy,
    others_p_w: Reals | None = None,
    missing: Reals | None = None,
    *,
    rough: bool = False,
) -> Allocation:
    """Limits for all claims, in their order (the order of arrival for `first_come`).

    A claim that would get an increase below its minimum gets none, and what it would have taken goes to the others.

    Args:
        prospect: the grid as it is now.
        claims: who wants what.
        policy: how to share.
        others_p_w: draws [W] (n) at the ports that no claim holds, or in each case (`Spread`) (n_case, n); None for the
            measured ones.
        missing: by how much each constraint must stay below its limit (n_constraint), or in each case (n_case,
            n_constraint); None for 0.
        rough: whether the first limits that an exact flow finds good will do, a few per cent of an increase short.
    """
    others = prospect.now.p_w if others_p_w is None else others_p_w
    if share is not None and claims and not prospect.widens:
        return _compiled(share, prospect, claims, policy, np.atleast_2d(others), missing, rough=rough)
    return _Sharing(prospect, claims, policy, others, missing, rough).run()


def _compiled(
    loops: ModuleType,
    prospect: Prospect,
    claims: tuple[Claim, ...],
    policy: Policy,
    others_p_w: Reals,
    missing: Reals | None,
    *,
    rough: bool,
) -> Allocation:
    """The same as one call, which asks the prospect for flows and slopes."""
    places, ports, *watts, phases, exports_w = zip(*claims, strict=True)
    nominal, wanted, minimum, least = np.array((*watts, exports_w), dtype=float)
    spread = Spread.at(ports, phases)
    by_case = None if missing is None else np.ascontiguousarray(np.atleast_2d(missing))
    asked = _Asked(prospect, spread, max(spread.cases, len(others_p_w)), 1 if by_case is None else len(by_case))
    limits, binding = np.empty(len(claims)), np.empty(len(claims), dtype=np.int64)
    floor = np.empty(len(prospect.names))
    exceeded, flows = loops.Sharing(
        *(nominal, wanted, minimum, least, _weight(policy, nominal), *spread.onto, spread.through),
        *(np.ascontiguousarray(others_p_w), prospect.now.p_w, by_case, *asked.seen),
    ).run(*asked.answers, _KIND[policy], rough, limits, binding, floor)
    if exceeded == NO_STATE:
        return Allocation(nominal, (NO_FLOW,) * len(claims), 1.0, NO_FLOW, floor, flows)
    names, rows = prospect.names, binding.tolist()
    why = {row: names[row] for row in set(rows) if row >= 0} | {FREE: None, TOO_LITTLE: None}
    named = [why[row] for row in rows]
    if TOO_LITTLE in rows:
        named = [Constraint("minimum", places[k]) if row == TOO_LITTLE else named[k] for k, row in enumerate(rows)]
    over = None if exceeded == FREE else names[exceeded]
    return Allocation(limits, tuple(named), jain(limits - nominal), over, floor, flows)


class _Asked:
    """What the compiled loops ask of a prospect: flows and guesses of states, slopes at a state, by arrays that both
    see."""

    def __init__(self, prospect: Prospect, spread: Spread, cases: int, enough: int) -> None:
        self._prospect, self._onto = prospect, spread.onto
        c = len(prospect.names)
        self._states, self._at = np.empty((2, cases, len(prospect.now.p_w)))
        self._enough = np.empty((enough, c))
        self._rows, self._cases = np.empty((2, c), dtype=np.int64)

    @property
    def seen(self) -> tuple[Reals, Reals, Reals, Rows, Rows]:
        """States (n_case, n) that are asked for, and the one of the slopes; what is small enough (1 or n_case, c); some
        constraints and the case of each (c)."""
        return self._states, self._at, self._enough, self._rows, self._cases

    @property
    def answers(self) -> tuple[Callable[..., object], ...]:
        """Functions of what is seen: excess, guess, slopes of the first few rows, whether a row works either way."""
        return self._excess, self._guess, self._slopes, self._either_way

    def _excess(self) -> Reals:
        return self._prospect.excess(self._states)

    def _guess(self) -> Reals:
        return self._prospect.guess(self._states, self._enough)

    def _slopes(self, count: int) -> Reals:
        return self._prospect.slopes_by_limit(self._at, self._rows[:count], self._cases[:count], self._onto)

    def _either_way(self, row: int) -> bool:
        return self._prospect.names[row].kind in EITHER_WAY


def _weight(policy: Policy, nominal_w: Reals) -> Reals:
    """How fast each claim grows."""
    if policy is Policy.PROPORTIONAL:
        return np.where(nominal_w > 0, nominal_w, 1.0)
    return np.ones(len(nominal_w))


def jain(gained_w: Reals) -> float:
    """Jain's index: 1 when all gained alike, 1/m when one gained all; 1 if nobody gained."""
    square = float((gained_w**2).sum())
    return float(gained_w.sum() ** 2 / (len(gained_w) * square)) if square else 1.0


def _worst(over: Reals) -> NDArray[np.bool_]:
    """The constraints that are over, `ROWS_EACH` at most: neighbours say much the same."""
    found = over > 0
    if np.count_nonzero(found) > ROWS_EACH:
        found &= over >= np.partition(over, -ROWS_EACH)[-ROWS_EACH]
    return found


@dataclass(slots=True, eq=False)
class _Sharing:
    """One allocation on its way."""

    prospect: Prospect
    claims: tuple[Claim, ...]
    policy: Policy
    others_p_w: Reals
    missing: Reals | None
    rough: bool
    spread: Spread = field(init=False)
    least: Reals = field(init=False)
    """What is exported anyhow (n_claim)."""
    extra: Reals | None = None
    """What each case must stay further below the limits than the others (n_case, c)."""
    case: Rows = field(init=False)
    """In which each constraint was exceeded most (c)."""
    nominal: Reals = field(init=False)
    wanted: Reals = field(init=False)
    minimum: Reals = field(init=False)
    most: Reals = field(init=False)
    """What is wanted, or the nominal limit of who stays at it: out or frozen."""
    weight: Reals = field(init=False)
    """How fast each grows."""
    out: NDArray[np.bool_] = field(init=False)
    """Claims that got less than their minimum, and so nothing."""
    frozen: Rows = field(init=False)
    """The constraint that nobody can bring within its limit and that a claim pushes, or `FREE`."""
    limit: Reals = field(init=False)
    """How far each constraint may go (c); infinite where it has been given up."""
    hot: NDArray[np.bool_] = field(init=False)
    """Constraints that the nominal limits alone exceed (c)."""
    known: _Slopes = field(init=False)
    known_now: _Slopes | None = None
    """Slopes at the present draws, where doubt grows with the distance from now: far from now an export back towards it
    looks like relief, because it makes the doubt smaller."""
    at_now: Reals | None = None
    """The excess at the present draws (c), there."""
    cuts: list[tuple[Rows, Reals, Reals]] = field(default_factory=list)
    """Constraints, slopes and room of earlier steps, where doubt grows with the distance from now."""
    flows: int = 0

    def __post_init__(self) -> None:
        self.spread = Spread.of(self.claims)
        self.case = np.zeros(len(self.prospect.names), dtype=np.int64)
        if self.missing is not None and self.missing.ndim > 1:
            common = self.missing.min(axis=0)
            self.extra, self.missing = self.missing - common, common
        watts = [(c.nominal_w, c.wanted_w, c.minimum_w, c.exports_w) for c in self.claims]
        self.nominal, self.wanted, self.minimum, self.least = np.array(watts, dtype=float).reshape(-1, 4).T.copy()
        assert ((self.nominal >= 0) & (self.nominal <= self.wanted) & (self.wanted < np.inf)).all()
        assert (self.minimum <= self.wanted).all()
        self.most = self.wanted.copy()
        self.weight = _weight(self.policy, self.nominal)
        self.out = np.zeros(len(self.claims), dtype=bool)
        self.frozen = np.full(len(self.claims), FREE)

    def run(self) -> Allocation:
        nominal = self.nominal
        at_nominal = here = self._excess(nominal)
        exceeded = self.prospect.names[int(here.argmax())] if len(here) and here.max() > 0 else None
        if not np.isfinite(here).all():
            exceeded = NO_FLOW
        if exceeded is NO_FLOW or not self.claims:
            limit = np.maximum(here, 0.0)
            return Allocation(nominal, (exceeded,) * len(self.claims), 1.0, exceeded, limit, self.flows)
        self.limit = -(np.zeros(len(here)) if self.missing is None else self.missing)
        self.hot = here > self.limit
        start, here = self._start(here)
        at_start = here
        exceeded = exceeded if self.hot.any() else None
        near = self.hot.copy()
        self.known = self._slopes_at(start)
        x = best = start
        filled = self._first(near, start, here)
        while self.flows < (WIDENING_FLOWS_MAX if self.prospect.widens else FLOWS_MAX):
            x = filled.limits_w
            here = self._excess(x)
            if not np.isfinite(here).all():
                break
            near |= _worst(here - self.limit)
            if self.flows == CHORD and not self.prospect.widens:
                self.known.bend(x - nominal, here - at_nominal)
            else:
                self.known = self._slopes_at(x)
            lost = self._give_up(x, self.hot & (here > self.limit), at_nominal)
            good = self._good(here)
            best = x if good else best
            if good and not lost and (self.rough or self._full(filled, here)):
                break
            filled = self._fill(x, near, self.limit - here)
            if good and not lost and float(np.abs(filled.limits_w - x).max()) <= RESOLUTION_W:
                break
        if best is start and not self._good(at_start):
            best = nominal
        if best is not x:
            best = self._back(best, x)
        borne = np.maximum(at_nominal if self.at_now is None else np.minimum(at_nominal, self.at_now), 0.0)
        floor = np.where(np.isfinite(self.limit), self.limit, borne)
        named = self._named(filled, best)
        return Allocation(best, named, jain(best - nominal), exceeded, floor, self.flows)

    def _start(self, here: Reals) -> tuple[Reals, Reals]:
        """Limits from which the linear steps begin, and the excess there: the nominal ones; or, where doubt grows with
        the distance from now, what is exported now or as much less as a limit asks for. Seen from now the nominal
        limits may look like too much only for being far; what they really exceed is exceeded all the way."""
        if not self.prospect.widens:
            return self.nominal, here
        now_w = self.spread.exports_w(self.prospect.now.p_w)
        more = np.clip(now_w, self.nominal, self.wanted) - self.nominal
        tried = self.nominal + np.array(BACK_TO)[:, None] * more
        self.flows += 1
        states = self._powers(tried)
        present = self.prospect.now.p_w[None, :]
        found = self.prospect.excess(np.concatenate([states.reshape(-1, states.shape[-1]), present]))
        self.at_now, over = found[-1], self._by_case(found[:-1].reshape(*states.shape[:2], -1)) - self.limit
        self.known_now = _Slopes(self.prospect, self.spread, self.prospect.now.p_w[None, :], 0 * self.case)
        always = self.hot & (over > 0).all(axis=0)
        good = np.flatnonzero(((over <= 0) | always).all(axis=1))
        if not len(good):
            return self.nominal, here
        self.hot = always
        return tried[good[0]], over[good[0]] + self.limit

    def _give_up(self, at_w: Reals, rows: NDArray[np.bool_], borne: Reals) -> bool:
        """Constraints that nobody can bring within their limit: who pushes them stays at the nominal limit."""
        found = np.flatnonzero(rows)
        if not len(found):
            return False
        pushes = self.known.of(found) > PUSH_MIN
        if self.known_now is not None and self.at_now is not None:
            by_now = self.known_now.of(found)
            most = np.maximum(by_now.max(axis=1, keepdims=True), PUSH_MIN)
            pushes |= (by_now > PUSH_SHARE * most) & (self.at_now[found] > 0)[:, None]
        moved = at_w > self.nominal + RESOLUTION_W
        lost = ~(pushes & moved).any(axis=1)
        if not lost.any():
            return False
        pushers = pushes[lost].any(axis=0) & (self.frozen == FREE)
        if pushers.any():
            self.frozen[pushers] = found[lost][pushes[lost].argmax(axis=0)][pushers]
            self.most[pushers] = self.nominal[pushers]
        self.limit[found[lost]] = np.inf
        # A current that is too much one way, pushed by nobody, may become too much the other way.
        for row in found[lost & ~pushes.any(axis=1)].tolist():
            if self.prospect.names[row].kind in EITHER_WAY:
                self.limit[row] = borne[row]
        return True

    def _full(self, filled: Filled, here: Reals) -> bool:
        """Whether what keeps claims from more has nothing left to give: another step would not move them."""
        rows = filled.binding[filled.binding != FREE]
        return bool((here[rows] >= self.limit[rows] - SPARE).all())

    def _first(self, near: NDArray[np.bool_], start: Reals, here: Reals) -> Filled:
        """Where to begin: linear about a start, constraints taken in until the guess breaks no more."""
        filled = Filled(self.wanted, np.full(len(start), FREE))
        for k in range(FLOWS_MAX):
            states = self._powers(filled.limits_w)
            if k == 0:
                enough = np.minimum(self.limit, (self.limit + GUESS_SHARE * here) / (1 + GUESS_SHARE))
            else:
                enough = np.where(near, np.inf, self.limit)
            enough = enough[None, :] if self.extra is None else enough - self.extra
            rough, _ = worst_case(self.prospect.guess(states, enough), self.extra)
            over = rough - self.limit
            if k == 0:
                over += GUESS_SHARE * np.maximum(rough - here, 0.0)
            if k > 0:
                over[near] = -np.inf
            broken = _worst(over)
            if k > 0 and over[broken].max(initial=0.0) <= ROUGH:
                break
            near |= broken
            if not near.any():
                break
            filled = self._fill(start, near, self.limit - here)
        return filled

    def _powers(self, limits_w: Reals) -> Reals:
        """In each case (n_case, n), or of several states (n_state, n_case, n)."""
        return self.spread.powers(np.maximum(limits_w, self.least), self.others_p_w, self.prospect.now.p_w)

    def _by_case(self, found: Reals) -> Reals:
        """The worst of the cases (..., n_case, c): (..., c)."""
        return np.asarray((found if self.extra is None else found + self.extra).max(axis=-2))

    def _excess(self, limits_w: Reals) -> Reals:
        self.flows += 1
        found, self.case = worst_case(self.prospect.excess(self._powers(limits_w)), self.extra)
        return found

    def _slopes_at(self, limits_w: Reals) -> _Slopes:
        return _Slopes(self.prospect, self.spread, self._powers(limits_w), self.case)

    def _fill(self, at_w: Reals, near: NDArray[np.bool_], room: Reals) -> Filled:
        """The policy under the near constraints, linear about `at_w`, where `room` (c) is left; claims below their
        minimum leave, the neediest first."""
        fill = self._filling(at_w, near, room)
        while True:
            filled = fill(Wishes(self.nominal, self.most, self.weight))
            lack = self.minimum - filled.limits_w
            short = lack > RESOLUTION_W
            if short.any():
                short &= (self.most > self.nominal) & (self.nominal < self.minimum)
            if not short.any():
                return filled
            leaves = int(np.where(short, lack, -np.inf).argmax())
            self.out[leaves], self.most[leaves] = True, self.nominal[leaves]

    def _filling(self, at_w: Reals, near: NDArray[np.bool_], room: Reals) -> Callable[[Wishes], Filled]:
        """Fills between any limits under these constraints, which are named as they stand among all."""
        rows = np.flatnonzero(near & np.isfinite(self.limit))
        slope = self.known.of(rows)
        left = room[rows] - SLACK + slope @ at_w
        if self.prospect.widens:
            rows, slope, left = self._with_cuts(rows, slope, left)
        return partial(self._fill_rows, rows, slope, left)

    def _fill_rows(self, rows: Rows, slope: Reals, left: Reals, wishes: Wishes) -> Filled:
        filled = _FILL[self.policy](slope, left, wishes)
        named = np.where(filled.binding >= 0, rows[filled.binding] if len(rows) else FREE, FREE)
        return Filled(filled.limits_w, named)

    def _with_cuts(self, rows: Rows, slope: Reals, room: Reals) -> tuple[Rows, Reals, Reals]:
        """These constraints and those of earlier steps: a doubt that grows with the distance is convex, so that what
        ruled out one point rules out nothing good, and steps do not swing to and fro."""
        self.cuts.append((rows, slope, room))
        rows, slope, room = (np.concatenate([cut[k] for cut in self.cuts]) for k in range(3))
        kept = np.isfinite(self.limit[rows])
        return rows[kept], slope[kept], room[kept]

    def _good(self, here: Reals) -> bool:
        """Within the limits that are still anybody's business."""
        return bool((here <= self.limit).all())

    def _back(self, good: Reals, bad: Reals) -> Reals:
        """The furthest point found between a good and a bad one, by halving."""
        for _ in range(HALVINGS_MAX):
            if float(np.abs(bad - good).max()) <= RESOLUTION_W:
                break
            middle = (good + bad) / 2
            if self._good(self._excess(middle)):
                good = middle
            else:
                bad = middle
        return good

    def _named(self, filled: Filled, limits_w: Reals) -> tuple[Constraint | None, ...]:
        free = (limits_w >= self.wanted - RESOLUTION_W) | (filled.binding == FREE)
        rows = np.where(self.frozen != FREE, self.frozen, np.where(free, FREE, filled.binding))
        names = self.prospect.names
        found: list[Constraint | None] = [None if row == FREE else names[row] for row in rows.tolist()]
        for k in np.flatnonzero(self.out & (self.frozen == FREE)):
            found[k] = Constraint("minimum", self.claims[k].name)
        return tuple(found)


class _Slopes:
    """Slopes by claim at one state, each constraint's worked out once, in the case that exceeds it most."""

    def __init__(self, prospect: Prospect, spread: Spread, p_w: Reals, case: Rows) -> None:
        self._prospect, self._spread, self._p_w, self._case = prospect, spread, p_w, case
        self._place = np.full(len(case), FREE)
        self._rows, self._found = np.zeros(0, dtype=np.int64), np.zeros((0, len(spread.onto.starts)))

    def of(self, rows: Rows) -> Reals:
        """Of some constraints (rows, n_claim) [1/W]."""
        self._know(rows[self._place[rows] == FREE])
        return np.asarray(self._found.take(self._place[rows], axis=0))

    def _know(self, new: Rows) -> None:
        if len(new):
            more = self._prospect.slopes_by_limit(self._p_w, new, self._case[new], self._spread.onto)
            self._place[new] = np.arange(len(new)) + len(self._found)
            self._rows = np.concatenate([self._rows, new])
            self._found = np.concatenate([self._found, more]) if len(self._found) else more

    def bend(self, moved_w: Reals, change: Reals) -> None:
        """Make the slopes that are known those of the chord: claims have moved (n_claim), constraints changed (c)."""
        expected = self._found @ moved_w
        plain = np.abs(expected) > PLAIN_SHARE * (np.abs(self._found) @ np.abs(moved_w))
        bent = np.divide(change[self._rows], expected, out=np.ones(len(expected)), where=plain)
        self._found *= np.clip(bent, 1 / BEND_MAX, BEND_MAX)[:, None]
