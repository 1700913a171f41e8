"""How claims lie on the ports: draws from export limits, and the worst of the cases in which customers on several
phases may use what they are given."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, repeat
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.compiled import share
from dcu.hosting.headroom import Onto

Reals = NDArray[np.float64]
Rows = NDArray[np.int64]

SPREADS_KEPT: Final = 8
PHASES: Final = 3


class Claim(NamedTuple):
    """A customer's wish: ports it exports through, nominal and wanted limit [W], least it would take [W]; the phase of
    each port, if all of an increase may flow through any one of them (else it does so evenly); what it is measured to
    export although it may not, and is not expected to fall below [W]."""

    name: str
    ports: tuple[int, ...]
    nominal_w: float
    wanted_w: float
    minimum_w: float = 0.0
    phases: tuple[int, ...] = ()
    exports_w: float = -np.inf


class Spread:
    """How claims lie on the ports: draws from limits, and slopes by claim from slopes by port.

    A customer on several phases may use all of an increase on any one of them. There are as many *cases* as phases
    then: in each, all of them use theirs on the same phase, which is the worst for what is measured on that phase.
    """

    def __init__(self, ports: tuple[tuple[int, ...], ...], phases: tuple[tuple[int, ...], ...]) -> None:
        counts = np.fromiter(map(len, ports), dtype=np.int64)
        assert all(ports), "everybody is connected"
        self.ports = np.fromiter(chain.from_iterable(ports), dtype=np.int64)
        """Of all claims, one after the other."""
        self._owner = np.repeat(np.arange(len(ports)), counts)
        self._minus_share = -1 / counts[self._owner]
        self._starts = np.cumsum(counts) - counts
        self._alike = int(counts[0]) if len(counts) and (counts == counts[0]).all() else 0
        self._free = np.fromiter(map(bool, phases), dtype=bool)
        self.onto = Onto(self.ports, self._starts, self._minus_share, self._free)
        self.cases = PHASES if self._free.any() else 1
        through = chain.from_iterable(map(_through, map(len, ports), phases, repeat(self.cases)))
        self.through = np.fromiter(through, dtype=np.int64).reshape(-1, self.cases).T.copy()
        """Which of its ports each claim uses in each case (n_case, n_claim)."""

    @staticmethod
    def of(claims: tuple[Claim, ...]) -> Spread:
        """Of some claims; the same street wishes window after window."""
        return _spread(tuple(c.ports for c in claims), tuple(c.phases for c in claims))

    @staticmethod
    def at(ports: tuple[tuple[int, ...], ...], phases: tuple[tuple[int, ...], ...]) -> Spread:
        """Of claims at some ports, of some phases."""
        return _spread(ports, phases)

    def exports_w(self, p_w: Reals) -> Reals:
        """What each claim exports with some draws (n) [W], below 0 if it draws."""
        return np.asarray(np.bincount(self._owner, -p_w[self.ports], len(self._starts)), dtype=float)

    def powers(self, limits_w: Reals, others_p_w: Reals, now_w: Reals) -> Reals:
        """Draws at the ports [W] with each claim's limit (n_claim) fully used: (n_case, n); or of several states,
        (n_state, n_claim): (n_state, n_case, n).

        Args:
            limits_w: [W].
            others_p_w: draws (n) where there is no claim, or in each case (n_case, n).
            now_w: what is measured (n): what each phase of a customer carries to begin with.
        """
        cases = max(self.cases, 1 if others_p_w.ndim == 1 else len(others_p_w))
        p = np.empty((*limits_w.shape[:-1], cases, len(now_w)))
        if share is not None:
            limits = limits_w if limits_w.ndim > 1 else limits_w[None]
            others = np.ascontiguousarray(others_p_w if others_p_w.ndim > 1 else others_p_w[None])
            found = p if p.ndim > 2 else p[None]
            share.powers(limits, others, now_w, *self.onto, self.through, found)
            return p
        p[...] = others_p_w
        if self._alike == 1:
            p.T[self.ports] = -limits_w.T[:, None]
            return p
        more = limits_w - self.exports_w(now_w)
        for k in range(cases):
            p[..., k, self.ports] = now_w[self.ports] - self._by_port(more, now_w, min(k, self.cases - 1))
        return p

    def _by_port(self, more_w: Reals, now_w: Reals, case: int) -> Reals:
        """How much more each port exports when each claim does (..., n_claim): (..., n_port_of_claims). Where a claim
        exports less, others of its phases fall first."""
        of_owner = more_w[..., self._owner]
        even = -of_owner * self._minus_share
        if not self._free.any():
            return np.asarray(even)
        first = self._starts + self.through[case]
        through = np.zeros(len(self.ports), dtype=bool)
        through[first] = True
        elsewhere = np.where(through, 0.0, np.maximum(-now_w[self.ports], 0.0))
        there = np.bincount(self._owner, elsewhere, len(self._starts))
        fall = np.minimum(np.maximum(-more_w, 0.0), there)
        share = np.divide(fall, there, out=np.zeros(fall.shape), where=there > 0)
        found = np.where(through, of_owner + fall[..., self._owner], -share[..., self._owner] * elsewhere)
        return np.where(self._free[self._owner], found, even)


@lru_cache
def _through(count: int, phases: tuple[int, ...], cases: int) -> tuple[int, ...]:
    """Which of a claim's ports is the one on each phase, or one of them if there is none."""
    return tuple(phases.index(case) if case in phases else case % count for case in range(cases))


@lru_cache(maxsize=SPREADS_KEPT)
def _spread(ports: tuple[tuple[int, ...], ...], phases: tuple[tuple[int, ...], ...]) -> Spread:
    return Spread(ports, phases)


def worst_case(found: Reals, extra: Reals | None = None) -> tuple[Reals, Rows]:
    """The worst of some cases (n_case, c), each with something of its own added; and which it is (c)."""
    if share is not None:
        worst, case = np.empty(found.shape[1]), np.empty(found.shape[1], dtype=np.int64)
        share.worst_case(found, extra, worst, case)
        return worst, case
    found = found if extra is None else found + extra
    return np.asarray(found.max(axis=0)), np.asarray(found.argmax(axis=0))
