"""Ten-minute means and quarter-hour energies from readings; pure.

**What a reading stands for.** A meter reports an instant now and then. A reading stands from its instant until the next
one, at most for ``hold_s``; what nobody stands for is not covered. An interval of which less than `COVERED_MIN` is
covered is incomplete: it is flagged, kept out of statistics, and never filled.

That is less than the standards ask: IEC 61000-4-30 (class A) takes every 200 ms window of the ten minutes, we take the
root of the mean square of instants. What happens between two reports is not seen.

**Energies** come from the meter's registers, which move in steps (0.1 kWh on an EM330, as much as a quarter-hour may
bring). Within a step the measured power decides: the register is carried on by the power and held within what the
meter shows, so that it never strays by more than a step, however many quarter-hours are added up.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

TEN_MINUTES_S: Final = 600
QUARTER_S: Final = 900
COVERED_MIN: Final = 0.9
"""Share of an interval that readings stand for; with less it is incomplete. Our own bound."""

POWER_W_MAX: Final = 250e3
"""[W] No customer of a low-voltage feeder draws or feeds more; a register that says so is another register."""

ROLL_OVERS_WH: Final = (10**8 * 1000, 2**31 * 100, 2**32)
"""[Wh] After which a register may begin again: nine digits of 0.1 kWh on a display, 31 bit of 0.1 kWh, 32 bit of 1 Wh.
Not established which of them an EM330 does."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What intervals are made of.

    Attributes:
        at_s: [s, Unix] when it was measured.
        u_v: [V] L1, L2, L3; None where unknown or not connected.
        p_w: [W] all phases together, import-positive; None if unknown.
        import_wh, export_wh: registers [Wh].
    """

    at_s: float
    u_v: tuple[float | None, float | None, float | None]
    p_w: float | None
    import_wh: int
    export_wh: int


@dataclass(frozen=True, slots=True)
class Means:
    """Of ten minutes.

    Attributes:
        u_v: root-mean-square voltages [V].
        unbalance_pct: negative over positive sequence [%]; None without three phases.
        covered: share of the interval that readings stand for, of the phase with least.
    """

    u_v: tuple[float | None, float | None, float | None]
    unbalance_pct: float | None
    covered: float

    @property
    def complete(self) -> bool:
        """Whether statistics may use it."""
        return self.covered >= COVERED_MIN


@dataclass(frozen=True, slots=True)
class Fine:
    """Registers [Wh] between their steps."""

    import_wh: float
    export_wh: float


@dataclass(frozen=True, slots=True)
class Quarter:
    """A quarter-hour's energies [Wh] and mean voltage [V], None where it is incomplete; at ``end`` the next goes on."""

    import_wh: float | None
    export_wh: float | None
    u_mean_v: float | None
    end: Fine | None


NOTHING: Final = Quarter(None, None, None, None)


def weights(samples: Sequence[Sample], start_s: float, length_s: float, hold_s: float) -> list[float]:
    """How long [s] within an interval each of the samples stands; they are in the order of time."""
    found = []
    end_s = start_s + length_s
    for at, sample in enumerate(samples):
        following_s = samples[at + 1].at_s if at + 1 < len(samples) else math.inf
        until_s = min(following_s, sample.at_s + hold_s, end_s)
        found.append(max(0.0, until_s - max(start_s, sample.at_s)))
    return found


def ten_minutes(samples: Sequence[Sample], start_s: float, hold_s: float) -> Means | None:
    """The means of the ten minutes from ``start_s``; None if nothing was measured in them."""
    stands = weights(samples, start_s, TEN_MINUTES_S, hold_s)
    voltages: list[float | None] = []
    covered = []
    for phase in range(3):
        seen = [(w, u) for w, sample in zip(stands, samples, strict=True) if w and (u := sample.u_v[phase]) is not None]
        total_s = math.fsum(w for w, _ in seen)
        voltages.append(math.sqrt(math.fsum(w * u * u for w, u in seen) / total_s) if total_s else None)
        if total_s:
            covered.append(total_s / TEN_MINUTES_S)
    if not covered:
        return None
    unbalances = [(w, v) for w, s in zip(stands, samples, strict=True) if w and (v := unbalance_pct(s.u_v)) is not None]
    total_s = math.fsum(w for w, _ in unbalances)
    unbalance = math.sqrt(math.fsum(w * v * v for w, v in unbalances) / total_s) if total_s else None
    return Means((voltages[0], voltages[1], voltages[2]), unbalance, min(covered))


def unbalance_pct(u_v: tuple[float | None, float | None, float | None]) -> float | None:
    """Negative- over positive-sequence voltage [%] with angles of 120 degrees, because a report has magnitudes only.

    An estimate: with an unbalance of angles, or a displaced neutral, the true figure is another one.
    """
    one, two, three = u_v
    if one is None or two is None or three is None or min(one, two, three) <= 0:
        return None
    a = cmath.exp(2j * math.pi / 3)
    phasors = (one, two * a * a, three * a)
    negative = abs(phasors[0] + a * a * phasors[1] + a * phasors[2])
    positive = abs(phasors[0] + a * phasors[1] + a * a * phasors[2])
    return 100.0 * negative / positive


def quarter(samples: Sequence[Sample], start_s: float, hold_s: float, before: Fine | None, step_wh: float) -> Quarter:
    """The quarter-hour from ``start_s``.

    Args:
        samples: in the order of time, with those of the last ``hold_s`` before it.
        start_s: [s, Unix].
        hold_s: [s] a reading stands for no longer.
        before: where the quarter-hour before it ended; None if that is not known.
        step_wh: [Wh] in which the registers move.
    """
    end_s = start_s + QUARTER_S
    known = [sample for sample in samples if start_s - hold_s <= sample.at_s <= end_s]
    first = max((at for at, sample in enumerate(known) if sample.at_s <= start_s), default=None)
    if first is None or end_s - known[-1].at_s > hold_s:
        return NOTHING
    known = known[first:]
    stands = weights(known, start_s, QUARTER_S, hold_s)
    powers = [(w, sample.p_w) for w, sample in zip(stands, known, strict=True) if w and sample.p_w is not None]
    total_s = math.fsum(w for w, _ in powers)
    if total_s < COVERED_MIN * QUARTER_S:
        return NOTHING
    hours = QUARTER_S / 3600.0
    drawn_wh = hours * math.fsum(w * max(0.0, p) for w, p in powers) / total_s
    fed_wh = hours * math.fsum(w * max(0.0, -p) for w, p in powers) / total_s
    taken = _carried(
        [(s.at_s, s.import_wh) for s in known], None if before is None else before.import_wh, drawn_wh, step_wh
    )
    given = _carried(
        [(s.at_s, s.export_wh) for s in known], None if before is None else before.export_wh, fed_wh, step_wh
    )
    if taken is None or given is None:
        return NOTHING
    return Quarter(taken[0], given[0], _mean_voltage(known, stands), Fine(taken[1], given[1]))


def _carried(
    registers: list[tuple[float, int]], before_wh: float | None, energy_wh: float, step_wh: float
) -> tuple[float, float] | None:
    """Energy of an interval and the register at its end [Wh]; None if the register is not one that only counts.

    What was counted since the last sample before a boundary is less than a step, or it would be seen in the next one;
    so the boundary's register lies within a step above the one shown, and a little above that if power is high.
    """
    shown = [registers[0][1]]
    rolled = 0
    for (before_s, old), (at_s, new) in pairwise(registers):
        allowed_wh = POWER_W_MAX * (at_s - before_s) / 3600.0 + step_wh
        if new < old:
            rolls = [roll for roll in ROLL_OVERS_WH if 0 <= new + roll - old <= allowed_wh]
            if not rolls or rolled:
                return None
            rolled = rolls[0]
        elif new - old > allowed_wh:
            return None
        shown.append(new + rolled)
    slack_wh = step_wh + energy_wh  # of a boundary that lies after its sample
    begin_wh = before_wh
    if begin_wh is None or not shown[0] <= begin_wh <= shown[0] + slack_wh:
        begin_wh = shown[0] + step_wh / 2
    end_wh = max(float(shown[-1]), min(begin_wh + energy_wh, shown[-1] + step_wh), begin_wh)
    return end_wh - begin_wh, end_wh - rolled


def _mean_voltage(samples: Sequence[Sample], stands: Sequence[float]) -> float | None:
    """[V] Over the connected phases."""
    means = []
    for phase in range(3):
        seen = [(w, u) for w, sample in zip(stands, samples, strict=True) if w and (u := sample.u_v[phase]) is not None]
        total_s = math.fsum(w for w, _ in seen)
        if total_s >= COVERED_MIN * QUARTER_S:
            means.append(math.fsum(w * u for w, u in seen) / total_s)
    return math.fsum(means) / len(means) if means else None
