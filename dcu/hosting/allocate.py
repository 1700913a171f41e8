"""Who gets the watts: claims in, export limits out, by a named policy. Serves grant, renewal and shedding alike.

Method. Every policy grows the limits from the nominal ones along a direction: all claims alike (`equal`), each in
proportion to its nominal limit (`proportional`), or one after the other (`first_come`). The largest step to which every
constraint of the outlook still holds is found with exact power flows: secant steps towards the first constraint that
binds, inside a bracket, ending on a point that was solved and found good. Then the claims that push the binding
constraint further stop, and the others go on, until nobody can move. For `equal` that is progressive filling: the
max-min fair allocation.

Starting above a limit (a grid that no longer bears the nominal limits) gives everybody the nominal limit and says what
is exceeded: what the contract promises is not this function's to take.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.headroom import Constraint, Outlook

Reals = NDArray[np.float64]

RESOLUTION_W: Final = 1.0
"""Steps end when they are known this well."""
ROUNDS_MAX: Final = 6
WORTH_W: Final = 25.0
"""A round of filling that gave all together less than this was the last."""
FLOWS_MAX: Final = 24
"""Power flows for one step; the bracket halves at worst."""
PUSH_MIN: Final = 1e-9
"""[1/W] A claim that moves a constraint by less does not push it: one share of a billion for each watt."""


class Policy(StrEnum):
    """How capacity is shared."""

    EQUAL = "equal"
    PROPORTIONAL = "proportional"
    FIRST_COME = "first_come"


@dataclass(frozen=True, slots=True)
class Claim:
    """A customer's wish: ports it exports through (evenly), nominal and wanted limit [W], least it would take [W]."""

    name: str
    ports: tuple[int, ...]
    nominal_w: float
    wanted_w: float
    minimum_w: float = 0.0

    def __post_init__(self) -> None:
        assert self.ports, self.name
        assert 0 <= self.nominal_w <= self.wanted_w < np.inf, self.name
        assert self.minimum_w <= self.wanted_w, self.name


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Export limit of each claim [W]; what kept each from more (None: it has what it wanted); Jain's fairness index of
    the increases; whether the nominal limits alone are too much, and the constraint that says so."""

    limits_w: Reals
    binding: tuple[Constraint | None, ...]
    fairness: float
    exceeded: Constraint | None
    flows: int


def allocate(outlook: Outlook, claims: tuple[Claim, ...], policy: Policy) -> Allocation:
    """Limits for all claims, in their order (the order of arrival for `first_come`).

    A claim that would get an increase below its minimum gets none, and what it would have taken goes to the others.
    """
    out = set[int]()
    while True:
        fill = _Filling(outlook, claims, out)
        found = fill.run(policy)
        short = [k for k, c in enumerate(claims) if k not in out and c.nominal_w < found.limits_w[k] < c.minimum_w]
        if not short:
            return found
        out.add(max(short, key=lambda k: claims[k].minimum_w - found.limits_w[k]))


class _Filling:
    """One run: present limits, who still moves, what stopped whom."""

    def __init__(self, outlook: Outlook, claims: tuple[Claim, ...], out: set[int]) -> None:
        self._outlook, self._claims = outlook, claims
        self._x = np.array([c.nominal_w for c in claims], dtype=float)
        self._wanted = np.array([c.nominal_w if k in out else c.wanted_w for k, c in enumerate(claims)], dtype=float)
        self._binding: list[Constraint | None] = [None] * len(claims)
        self._out = out
        self._flows = 0

    def powers(self, limits_w: Reals) -> Reals:
        """Draws at the ports (n_state, n) with each claim's limit (n_state, n_claim) fully used and all else as now."""
        p = np.repeat(self._outlook.now.p_w[None, :], len(limits_w), axis=0)
        for k, claim in enumerate(self._claims):
            p[:, claim.ports] = -limits_w[:, k : k + 1] / len(claim.ports)
        return p

    def _excess(self, limits_w: Reals) -> Reals:
        self._flows += 1
        return self._outlook.excess(self.powers(np.atleast_2d(limits_w)))

    def run(self, policy: Policy) -> Allocation:
        here = self._excess(self._x)[0]
        exceeded = None
        if len(here) and here.max() > 0:
            exceeded = self._outlook.names[int(here.argmax())]
            self._binding = [exceeded] * len(self._claims)
        else:
            weights = np.array([c.nominal_w if policy is Policy.PROPORTIONAL else 1.0 for c in self._claims])
            weights = np.where(weights > 0, weights, 1.0)
            # A customer on another phase can pull down the voltage that stopped somebody: look again while it pays.
            for _ in range(ROUNDS_MAX):
                before = self._x.sum()
                self._binding = [None] * len(self._claims)
                movers = [k for k in range(len(self._claims)) if self._wanted[k] > self._x[k]]
                if policy is Policy.FIRST_COME:
                    for k in movers:
                        here = self._grow([k], np.ones(1), here)
                else:
                    here = self._grow_together(movers, weights, here)
                if self._x.sum() - before < WORTH_W:
                    break
        for k in self._out:
            self._binding[k] = self._binding[k] or Constraint("minimum", self._claims[k].name)
        gained = self._x - np.array([c.nominal_w for c in self._claims])
        square = float((gained**2).sum())
        fairness = float(gained.sum() ** 2 / (len(gained) * square)) if square else 1.0
        return Allocation(self._x, tuple(self._binding), fairness, exceeded, self._flows)

    def _grow_together(self, movers: list[int], weights: Reals, here: Reals) -> Reals:
        while movers:
            here = self._grow(movers, weights[movers], here)
            movers = [k for k in movers if self._binding[k] is None and self._x[k] < self._wanted[k]]
        return here

    def _grow(self, movers: list[int], weights: Reals, here: Reals) -> Reals:
        """One step of the movers; stops those that the binding constraint stops, returns the excess there."""
        direction = np.zeros(len(self._x))
        direction[movers] = weights
        room = (self._wanted[movers] - self._x[movers]) / weights
        longest = float(room.min())
        length, there, binding = self._longest_step(direction, longest, here)
        self._x = self._x + length * direction
        full = [k for k in movers if self._wanted[k] - self._x[k] <= 1e-9 * max(1.0, self._wanted[k])]
        self._x[full] = self._wanted[full]
        if binding is not None:
            for k in self._pushing(binding, movers, there):
                self._binding[k] = self._outlook.names[binding]
        return there

    def _longest_step(self, direction: Reals, longest: float, here: Reals) -> tuple[float, Reals, int | None]:
        """Largest good length, the excess there, and the constraint that keeps it from more."""
        there = self._excess(self._x + longest * direction)[0]
        if there.max() <= 0:
            return longest, there, None
        good, bad = 0.0, longest
        at_good, at_bad = here, there
        binding = int(at_bad.argmax())
        scale = float(direction.max())
        for _ in range(FLOWS_MAX):
            if (bad - good) * scale <= RESOLUTION_W:
                break
            with np.errstate(all="ignore"):
                crossing = good + (bad - good) * (0 - at_good) / (at_bad - at_good)
            crossing = np.where(at_bad > 0, crossing, np.inf)
            nearest = float(np.nanmin(crossing)) if np.isfinite(crossing).any() else (good + bad) / 2
            # A little short of the crossing, so that the point is good; never closer to an end than a twentieth.
            trial = min(
                max(nearest - 0.3 * RESOLUTION_W / scale, good + 0.05 * (bad - good)), bad - 0.05 * (bad - good)
            )
            there = self._excess(self._x + trial * direction)[0]
            if there.max() <= 0:
                good, at_good = trial, there
            else:
                bad, at_bad, binding = trial, there, int(there.argmax())
        return good, at_good, binding

    def _pushing(self, binding: int, movers: list[int], here: Reals) -> list[int]:
        """The movers that push the binding constraint further; all of them if none does on its own."""
        step = 100.0
        trial = np.repeat(self._x[None, :], len(movers), axis=0)
        trial[range(len(movers)), movers] += step
        push = (self._excess(trial)[:, binding] - here[binding]) / step
        found = [k for k, slope in zip(movers, push, strict=True) if slope > PUSH_MIN]
        return found or movers
