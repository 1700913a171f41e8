"""Whether what is reserved may be reserved, and how far some of it can grow now: by exact flows in the worst case."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.allocate import DUST, Policy, allocate
from dcu.hosting.compiled import share
from dcu.hosting.decide import STEP_W
from dcu.hosting.relief import Sober
from dcu.hosting.spread import Claim, Spread, worst_case
from shared.ids import MeterId

Reals = NDArray[np.float64]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]

HALVINGS_MAX: Final = 5
"""Of a raise that an exact flow says no to after rounding; then nobody is raised in this window."""
ROWS_MAX: Final = 64
"""Constraints looked at when a step is cut short; an exact flow looks at all."""
CHORDS_MAX: Final = 4
SHORT: Final = 0.98
"""A chord is as far off as the flow is not linear."""
TINY: Final = 1e-30


def down(limit_w: float) -> float:
    """To what the power line can carry."""
    return round(math.floor(limit_w / STEP_W + 1e-6) * STEP_W, 1)


def down_each(limits_w: Reals) -> Reals:
    """Each as `down`."""
    return np.asarray((np.floor(limits_w / STEP_W + 1e-6) * STEP_W).round(1))


def _names(claims: tuple[Claim, ...]) -> list[MeterId]:
    """Whose they are."""
    return cast(list[MeterId], [c.name for c in claims])


class Rise:
    """Limits on their way from a start to their targets, by levels: of the limits themselves where the policy is to
    have them alike, in proportion to the nominal ones where it is that, else of the share of each one's own way."""

    def __init__(self, start_w: Reals, low: Reals, high: Reals, gain_w: Reals) -> None:
        self._start_w, self._low, self._high, self._gain_w = start_w, low, high, gain_w

    @staticmethod
    def of(targets: tuple[Claim, ...], start_w: Reals, policy: Policy) -> Rise:
        """All the way."""
        way_w = np.maximum(np.array([c.wanted_w for c in targets]) - start_w, 0.0)
        if policy not in {Policy.EQUAL, Policy.PROPORTIONAL}:
            return Rise(start_w, np.zeros(len(way_w)), np.ones(len(way_w)), way_w)
        weight = np.array([c.nominal_w if policy is Policy.PROPORTIONAL and c.nominal_w else 1.0 for c in targets])
        return Rise(start_w, start_w / weight, (start_w + way_w) / weight, weight)

    @property
    def limits_w(self) -> Reals:
        """As far as they may go now."""
        return self._start_w + self._gain_w * (self._high - self._low)

    def stop(self, who: Flags) -> None:
        """Some (m) where they start."""
        self._high = np.where(who, self._low, self._high)

    def cut(self, slopes: Reals, share_moved: Reals) -> None:
        """Nobody above the level at which a constraint (r) that he pushes (r, m) has been moved by a share (r) of what
        all would move it by."""
        edges = np.concatenate([self._low, self._high])
        order = np.argsort(edges, kind="stable")
        level = _level(slopes, share_moved, self._gain_w, edges[order], order)
        self._high = np.clip(level, self._low, self._high)


def _level(slopes: Reals, share_moved: Reals, gain_w: Reals, edges: Reals, order: Rows) -> Reals:
    """How far each may go (m). Edges (2m) are the levels, in order, at which those named in ``order`` begin to move
    (the first m) and stop."""
    if share is not None:
        level = np.empty(len(gain_w))
        share.level(slopes, share_moved, gain_w, edges, order, level)
        return level
    rate = slopes * gain_w
    rates = np.cumsum(np.concatenate([rate, -rate], axis=1)[:, order], axis=1)
    moved = np.concatenate([np.zeros((len(rate), 1)), np.cumsum(rates[:, :-1] * np.diff(edges), axis=1)], axis=1)
    most, rows = share_moved * moved[:, -1], np.arange(len(rate))
    place = (moved <= most[:, None]).sum(axis=1) - 1
    more = (most - moved[rows, place]) / np.maximum(rates[rows, place], TINY)
    return np.asarray(np.where(slopes > 0, (edges[place] + more)[:, None], np.inf).min(axis=0, initial=np.inf))


class Judge:
    """Whether reservations, fully used, stay within the limits, or at least make nothing worse that is too much
    anyway. Nobody is taken to export less than is measured; only where it is judged whether what is held is too much,
    who is above his limit by no more than readings may lag behind is believed to follow it."""

    def __init__(
        self, prospect: Sober, claims: tuple[Claim, ...], others_p_w: Reals, floor: Reals, *, lenient: bool = False
    ) -> None:
        self._prospect, self._others_p_w = prospect, others_p_w
        self._floor, self._looked = floor, False
        self._claims, self._lenient = claims, lenient
        self._spread = Spread.of(claims)
        self._exports_w = self._spread.exports_w(prospect.now.p_w)
        least_w = np.array([c.exports_w for c in claims]) if lenient else self._exports_w
        self._nominal_w = np.array([c.nominal_w for c in claims])
        self._least_w = np.maximum(self._nominal_w, least_w)
        self._names = _names(claims)
        self._known: dict[bytes, Reals] = {}
        self._present = np.full(len(floor), -np.inf)
        self._worst = np.full(len(floor), np.inf)
        if prospect.widens:  # what is measured to be too much may not be doubted into more
            at_now = np.asarray(prospect.excess(prospect.now.p_w[None, :])[0])
            self._worst = np.where(at_now > 0, at_now + DUST, np.inf)

    @property
    def prospect(self) -> Sober:
        """The grid as it is judged by."""
        return self._prospect

    def _held(self, reserved_w: Mapping[MeterId, float]) -> Reals:
        """What is reserved for each claim (n_claim)."""
        return np.array([reserved_w.get(name, 0.0) for name in self._names])

    def _powers(self, held_w: Reals) -> Reals:
        """In each case (n_case, n)."""
        limits_w = np.maximum(self._least_w, held_w)
        return self._spread.powers(limits_w, self._others_p_w, self._prospect.now.p_w)

    def _excess(self, reserved_w: Mapping[MeterId, float]) -> Reals:
        """In the worst case."""
        return self._at(self._powers(self._held(reserved_w)))

    def _at(self, p_w: Reals) -> Reals:
        key = p_w.tobytes()
        if key not in self._known:
            self._known[key], _ = worst_case(self._prospect.excess(p_w))
        return self._known[key]

    def too_much(self, reserved_w: Mapping[MeterId, float], tolerance: float) -> bool:
        """Whether what is held now exceeds a limit; from now on, nothing worse than this is borne."""
        if not reserved_w:
            self._present = np.full(len(self._floor), -np.inf)
            return False
        present = self._present = self._excess(reserved_w)
        if not np.isfinite(present).all():
            self._present = np.full(len(present), -np.inf)
            return True
        if bool((present <= self._tolerated(tolerance)).all()):
            return False
        if self._lenient or bool((self._least_w <= self._nominal_w).all()):
            return not self._within(present, lambda: self._tolerated(tolerance))
        lenient = Judge(self._prospect, self._claims, self._others_p_w, self._floor, lenient=True)
        return lenient.too_much(reserved_w, tolerance)

    def _within(self, excess: Reals, limit: Callable[[], Reals]) -> bool:
        """Whether limits are kept; where they are not, the nominal limits may be as far beyond them, with their exports
        too relieving only as far as they are measured."""
        if bool((excess <= limit()).all()):
            return True
        if self._looked:
            return False
        nominal = self._spread.powers(self._nominal_w, self._others_p_w, self._prospect.now.p_w)
        at_nominal, self._looked = self._at(nominal), True
        if np.isfinite(at_nominal).all():
            self._floor = np.maximum(self._floor, at_nominal)
        return bool((excess <= limit()).all())

    def _tolerated(self, tolerance: float) -> Reals:
        return np.asarray(self._floor + np.where(self._floor > 0, DUST, tolerance))

    def _limit(self, tolerance: float) -> Reals:
        borne = np.maximum(self._tolerated(tolerance), self._present + DUST)
        return np.asarray(np.minimum(borne, self._worst))

    def bears(self, reserved_w: Mapping[MeterId, float], before_w: Mapping[MeterId, float], tolerance: float) -> bool:
        """Whether that may be reserved where this was before; judged with a tolerance on every limit that the nominal
        limits keep."""
        held_w = self._held(reserved_w)
        p_w = self._powers(held_w)
        excess = self._at(p_w)
        if not np.isfinite(excess).all() or not self._within(excess, lambda: self._limit(tolerance)):
            return False
        beyond: Rows = np.flatnonzero(excess > max(tolerance, DUST))
        return not self._pushing(p_w, beyond, held_w, self._held(before_w)).any()

    def _pushing(self, p_w: Reals, beyond: Rows, held_w: Reals, before_w: Reals) -> Flags:
        """Who of those that get more pushes a constraint beyond its limit (n_claim). It is borne since something else
        exceeds it as far, but how far is a bound of either state, and two bounds differ by more than a small raise
        does."""
        more_w = np.maximum(np.maximum(self._least_w, held_w) - np.maximum(self._least_w, before_w), 0.0)
        if self._prospect.widens or not len(beyond) or not more_w.any():
            return np.zeros(len(more_w), dtype=bool)
        pushes = np.maximum(self._slopes(p_w, beyond), 0.0) * more_w
        pushes = pushes[pushes.sum(axis=1) > DUST]
        return np.asarray((pushes > DUST / len(more_w)).any(axis=0))

    def raised(
        self, targets: tuple[Claim, ...], reserved_w: Mapping[MeterId, float], tolerance: float, policy: Policy
    ) -> dict[MeterId, float]:
        """How far each of some claims, in their order, can grow now from what is reserved, with all of it held on to
        [W]; what comes out was solved."""
        if not targets:
            return {}
        held_w, names = self._held(reserved_w), _names(targets)
        places = dict(zip(self._names, range(len(self._names)), strict=True))
        place = np.array([places[name] for name in names])
        start_w = np.maximum(self._nominal_w, held_w)[place]
        found_w = self._part_way(targets, place, start_w, held_w, tolerance, policy)
        if found_w is not None:
            return dict(zip(names, found_w.tolist(), strict=True))
        start = dict(zip(names, start_w.tolist(), strict=True))
        exported = dict(zip(self._names, self._exports_w.tolist(), strict=True))
        rising = tuple(
            c._replace(nominal_w=start[name], exports_w=exported[name])
            for c, name in zip(targets, names, strict=True)
            if c.wanted_w > start[name]
        )
        if not rising:
            return start
        grown = allocate(
            self._prospect, rising, Policy.FIRST_COME, self._powers(held_w), -self._limit(tolerance), rough=True
        ).limits_w
        held_w = np.array([c.nominal_w for c in rising])
        for _ in range(HALVINGS_MAX):
            limits_w = zip(_names(rising), rising, grown.tolist(), strict=True)
            found = {name: max(c.nominal_w, down(x)) for name, c, x in limits_w}
            if self.bears({**reserved_w, **found}, reserved_w, tolerance):
                return start | found
            grown = (grown + held_w) / 2
        return start

    def _part_way(
        self, targets: tuple[Claim, ...], place: Rows, start_w: Reals, held_w: Reals, tolerance: float, policy: Policy
    ) -> Reals | None:
        """As `raised`, everybody up to the level that those constraints bear that he pushes, by the chord from what is
        held; None where that does not get there. Each target is in its place among the claims."""
        rise = Rise.of(targets, start_w, policy)
        held, all_w, limit = self._powers(held_w), held_w.copy(), self._limit(tolerance)
        for _ in range(CHORDS_MAX):
            found = all_w[place] = np.maximum(start_w, down_each(rise.limits_w))
            p_w = self._powers(all_w)
            there = self._at(p_w)
            if not np.isfinite(there).all():
                return None
            over = np.flatnonzero(there > limit)
            beyond = np.flatnonzero((there > max(tolerance, DUST)) & (there <= limit))
            pushing = self._pushing(p_w, beyond, all_w, held_w)[place]
            rise.stop(pushing)
            if not len(over):
                if not pushing.any():
                    return found
                continue
            here, _ = worst_case(self._prospect.excess(held, over))
            if not np.isfinite(here).all():
                return None
            room = np.clip((limit - here)[over] / np.maximum((there - here)[over], DUST), 0.0, 1.0)
            worst = np.argsort(room)[:ROWS_MAX]
            rise.cut(np.maximum(self._slopes(p_w, over[worst]).take(place, axis=1), 0.0), SHORT * room[worst])
        return None

    def _slopes(self, p_w: Reals, rows: Rows) -> Reals:
        """By limit, of the case that exceeds each constraint most (n_row, n_claim)."""
        _, case = worst_case(self._prospect.excess(p_w))
        return self._prospect.slopes_by_limit(p_w, rows, case[rows], self._spread.onto)
