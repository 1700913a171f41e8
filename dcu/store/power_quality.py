"""A customer's week by EN 50160: how many ten-minute means lie within its bounds; pure.

Bounds as generally quoted, **recalled and not checked against the standard's text**, which is not in our hands: under
normal operating conditions 95 % of a week's ten-minute means within nominal +-10 %, all of them within +10 % and -15 %;
95 % of the ten-minute means of the voltage's unbalance within 0 to 2 % (this one our sources state).

How our means differ from the standard's is said in `dcu.store.intervals`. Incomplete intervals are counted, not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dcu.store.intervals import TEN_MINUTES_S, Means

WEEK_S: Final = 7 * 86400
WEEK_INTERVALS: Final = WEEK_S // TEN_MINUTES_S
"""1,008."""

MONDAY_S: Final = 4 * 86400
"""[s, Unix] The first Monday 00:00 UTC; weeks are counted from here."""

BAND_PCT: Final = 10.0
LOW_PCT: Final = 15.0
UNBALANCE_PCT: Final = 2.0
SHARE: Final = 0.95
ENOUGH: Final = 0.9
"""Share of a week's intervals that have to be complete for a verdict. Our own bound."""

VERSION: Final = "headroom-en50160/1"


@dataclass(frozen=True, slots=True)
class PhaseWeek:
    """One phase.

    Attributes:
        count: complete ten-minute means.
        share_within: of them within nominal +-10 %.
        share_all: of them within +10 % and -15 %.
        lowest_v, highest_v: the extreme means [V].
        low_v, high_v: 2.5 % of the means are below, 2.5 % above [V].
    """

    count: int
    share_within: float
    share_all: float
    lowest_v: float
    highest_v: float
    low_v: float
    high_v: float


@dataclass(frozen=True, slots=True)
class Week:
    """A customer's week.

    Attributes:
        phases: L1, L2, L3; None where nothing was measured.
        unbalance_95_pct: 95 % of the means are below [%]; None without three phases.
        complete, incomplete: ten-minute intervals with a usable mean, and with some readings but too few.
    """

    phases: tuple[PhaseWeek | None, PhaseWeek | None, PhaseWeek | None]
    unbalance_95_pct: float | None
    complete: int
    incomplete: int

    @property
    def enough(self) -> bool:
        """Whether there are means enough for a verdict."""
        return self.complete >= ENOUGH * WEEK_INTERVALS

    @property
    def voltage_kept(self) -> bool | None:
        """Whether every phase kept both bounds; None without means enough."""
        seen = [phase for phase in self.phases if phase is not None]
        if not self.enough or not seen:
            return None
        return all(phase.share_within >= SHARE and phase.share_all == 1.0 for phase in seen)

    @property
    def unbalance_kept(self) -> bool | None:
        """Whether the unbalance kept its bound; None without three phases or means enough."""
        if not self.enough or self.unbalance_95_pct is None:
            return None
        return self.unbalance_95_pct <= UNBALANCE_PCT

    def as_json(self) -> dict[str, Any]:
        """For the file and the page."""
        phases = {
            f"L{at + 1}": {
                "count": phase.count,
                "within_10_pct": round(phase.share_within, 5),
                "within_10_15_pct": round(phase.share_all, 5),
                "lowest_v": round(phase.lowest_v, 2),
                "highest_v": round(phase.highest_v, 2),
                "p2_5_v": round(phase.low_v, 2),
                "p97_5_v": round(phase.high_v, 2),
            }
            for at, phase in enumerate(self.phases)
            if phase is not None
        }
        unbalance = None if self.unbalance_95_pct is None else round(self.unbalance_95_pct, 3)
        return {
            "version": VERSION,
            "phases": phases,
            "unbalance_95_pct": unbalance,
            "intervals": WEEK_INTERVALS,
            "complete": self.complete,
            "incomplete": self.incomplete,
            "voltage_kept": self.voltage_kept,
            "unbalance_kept": self.unbalance_kept,
        }


def week_of(at_s: float) -> int:
    """[s, Unix] The Monday 00:00 UTC before."""
    return int((at_s - MONDAY_S) // WEEK_S) * WEEK_S + MONDAY_S


def week(means: Iterable[Means], nominal_v: float) -> Week:
    """The figures of a week's means; ``nominal_v`` [V] phase to neutral."""
    kept = list(means)
    complete = [one for one in kept if one.complete]
    phases = [_phase([u for one in complete if (u := one.u_v[phase]) is not None], nominal_v) for phase in range(3)]
    unbalances = sorted(one.unbalance_pct for one in complete if one.unbalance_pct is not None)
    highest = quantile(unbalances, SHARE) if unbalances else None
    return Week((phases[0], phases[1], phases[2]), highest, len(complete), len(kept) - len(complete))


def _phase(voltages: list[float], nominal_v: float) -> PhaseWeek | None:
    if not voltages:
        return None
    voltages.sort()
    high_v = nominal_v * (1 + BAND_PCT / 100)
    within = sum(nominal_v * (1 - BAND_PCT / 100) <= u <= high_v for u in voltages)
    everything = sum(nominal_v * (1 - LOW_PCT / 100) <= u <= high_v for u in voltages)
    count = len(voltages)
    low, high = (1 - SHARE) / 2, 1 - (1 - SHARE) / 2
    ends = (voltages[0], voltages[-1], quantile(voltages, low), quantile(voltages, high))
    return PhaseWeek(count, within / count, everything / count, *ends)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of these values that at least this share is not above."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
