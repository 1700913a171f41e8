"""Ten-minute means and quarter-hours: worked by hand, and against a meter that knows the truth."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcu.store.intervals import (
    COVERED_MIN,
    QUARTER_S,
    ROLL_OVERS_WH,
    TEN_MINUTES_S,
    Fine,
    Quarter,
    Sample,
    quarter,
    ten_minutes,
    unbalance_pct,
    weights,
)

HOLD_S = 30.0
STEP_WH = 100.0


def steady(first_s: float, last_s: float, every_s: float = 15.0, u_v: float = 230.0) -> list[Sample]:
    """A customer who draws nothing."""
    count = int((last_s - first_s) / every_s) + 1
    return [Sample(first_s + n * every_s, (u_v, None, None), 0.0, 1000, 500) for n in range(count)]


def test_a_mean_is_the_root_of_the_mean_square() -> None:
    """Half the time 220 V, half 240 V."""
    samples = steady(0, 285, u_v=220.0) + steady(300, 585, u_v=240.0)
    means = ten_minutes(samples, 0, HOLD_S)
    assert means is not None
    assert means.u_v[0] == pytest.approx(math.sqrt((220**2 + 240**2) / 2))
    assert means.u_v[1:] == (None, None)
    assert means.complete
    assert means.covered == 1.0


def test_a_reading_stands_until_the_next_one() -> None:
    """Many reports while a customer changes his mind do not outweigh the quiet rest."""
    crowd = [Sample(300 + n / 10, (250.0, None, None), 0.0, 0, 0) for n in range(100)]
    samples = [*steady(0, 285), *crowd, *steady(310, 600)]
    means = ten_minutes(samples, 0, HOLD_S)
    assert means is not None
    assert means.u_v[0] == pytest.approx(math.sqrt((10 * 250**2 + 590 * 230**2) / 600), abs=0.02)


def test_a_gap_makes_an_interval_incomplete() -> None:
    """Two minutes without a report: 30 s of them are what the last one stands for, 90 s are not covered."""
    means = ten_minutes(steady(0, 285) + steady(405, 600), 0, HOLD_S)
    assert means is not None
    assert means.covered == pytest.approx(1 - 90 / 600, abs=0.01)
    assert not means.complete


def test_one_lost_report_is_bridged() -> None:
    """Reports every 15 s, one missing, a reading holds for 30 s: covered."""
    samples = [sample for sample in steady(0, 600) if sample.at_s != 150]
    means = ten_minutes(samples, 0, HOLD_S)
    assert means is not None
    assert means.covered == 1.0


def test_nothing_measured_is_nothing() -> None:
    """No reading, or none with a voltage."""
    assert ten_minutes([], 0, HOLD_S) is None
    assert ten_minutes([Sample(1, (None, None, None), 5.0, 0, 0)], 0, HOLD_S) is None


@given(st.lists(st.floats(-100, 800), max_size=40).map(sorted), st.floats(1, 100))
def test_weights_never_exceed_the_interval(instants: list[float], hold_s: float) -> None:
    """However reports come, their weights are not negative, each is at most what it holds, and all fit."""
    found = weights([Sample(at, (1.0, None, None), 0.0, 0, 0) for at in instants], 0, TEN_MINUTES_S, hold_s)
    assert all(0 <= weight <= hold_s * (1 + 1e-9) + 1e-9 for weight in found)
    assert math.fsum(found) <= TEN_MINUTES_S * (1 + 1e-9)


def test_unbalance_of_magnitudes() -> None:
    """Equal voltages have none; with 120 degrees |1 + a^2 x + a x| / |1 + 2x| is (1 - x) / (1 + 2x)."""
    assert unbalance_pct((230.0, 230.0, 230.0)) == pytest.approx(0.0, abs=1e-9)
    assert unbalance_pct((230.0, 230.0 * 0.97, 230.0 * 0.97)) == pytest.approx(100 * 0.03 / 2.94)
    assert unbalance_pct((230.0, None, 230.0)) is None
    assert unbalance_pct((230.0, 0.0, 230.0)) is None


# ---- energies --------------------------------------------------------------------------------------------------------


class Truth:
    """A customer whose power changes every minute, and a meter that counts in steps."""

    def __init__(self, seed: int, start_wh: int = 123_400) -> None:
        draw = random.Random(seed)
        self.powers_w = [draw.uniform(-3000, 3000) for _ in range(24 * 60)]
        self.start_wh = start_wh

    def energies(self, until_s: float) -> tuple[float, float]:
        """[Wh] Drawn and fed until then."""
        drawn = fed = 0.0
        for minute, power_w in enumerate(self.powers_w):
            part_s = min(60.0, max(0.0, until_s - 60 * minute))
            drawn += max(0.0, power_w) * part_s / 3600
            fed += max(0.0, -power_w) * part_s / 3600
        return drawn, fed

    def sample(self, at_s: float, roll_wh: int = 0) -> Sample:
        drawn, fed = self.energies(at_s)
        shown = [int((self.start_wh + energy) // STEP_WH * STEP_WH) for energy in (drawn, fed)]
        if roll_wh:
            shown = [value % roll_wh for value in shown]
        power_w = self.powers_w[min(int(at_s // 60), len(self.powers_w) - 1)]
        return Sample(at_s, (230.0, None, None), power_w, shown[0], shown[1])


def day_of(samples: list[Sample], count: int) -> list[Quarter]:
    """Consecutive quarter-hours, each going on where the one before ended."""
    found: list[Quarter] = []
    before: Fine | None = None
    for number in range(count):
        found.append(quarter(samples, number * QUARTER_S, HOLD_S, before, STEP_WH))
        before = found[-1].end
    return found


@pytest.mark.parametrize("seed", range(5))
def test_quarters_follow_the_truth_within_a_step(seed: int) -> None:
    """Six hours: no sum of quarter-hours strays by more than a step, and one quarter-hour is known far better than the
    register shows it."""
    truth = Truth(seed)
    samples = [truth.sample(15.0 * n + 3) for n in range(-1, 6 * 240 + 1)]
    found = day_of([Sample(-5, (230.0, None, None), 0.0, 123_400, 123_400), *samples[1:]], 24)
    drawn = [one.import_wh for one in found]
    assert None not in drawn
    errors = []
    total = 0.0
    for number, energy in enumerate(drawn):
        assert energy is not None
        total += energy
        true_wh = truth.energies((number + 1) * QUARTER_S)[0] - truth.energies(number * QUARTER_S)[0]
        errors.append(abs(energy - true_wh))
        assert abs(total - truth.energies((number + 1) * QUARTER_S)[0]) <= STEP_WH
    assert sorted(errors)[len(errors) // 2] < STEP_WH / 5


@pytest.mark.parametrize("roll_wh", ROLL_OVERS_WH)
def test_a_register_that_rolls_over_goes_on(roll_wh: int) -> None:
    """It begins again at zero in the middle: the same energies as without."""
    plain, rolling = Truth(1, start_wh=0), Truth(1, start_wh=roll_wh - 500)
    rolled = [rolling.sample(15.0 * n, roll_wh) for n in range(-1, 721)]
    expected = day_of([plain.sample(15.0 * n) for n in range(-1, 721)], 12)
    found = day_of(rolled, 12)
    assert min(sample.import_wh for sample in rolled) < 1000 < max(sample.import_wh for sample in rolled)
    for one, other in zip(found, expected, strict=True):
        assert one.import_wh is not None
        assert other.import_wh is not None
        assert one.import_wh == pytest.approx(other.import_wh, abs=STEP_WH)
    total, other_total = (math.fsum(one.import_wh or 0.0 for one in day) for day in (found, expected))
    assert total == pytest.approx(other_total, abs=STEP_WH)


@pytest.mark.parametrize("jump_wh", [-50_000, 100_000_000], ids=["back", "ahead"])
def test_another_register_is_no_energy(jump_wh: int) -> None:
    """A meter is exchanged within the second quarter-hour: that one is null, the first and the third are not."""
    samples = [
        Sample(15.0 * n, (230.0, None, None), 0.0, 1_000_000 + (jump_wh if n > 90 else 0), 7) for n in range(-1, 200)
    ]
    found = day_of(samples, 3)
    assert [one.import_wh for one in found] == [0.0, None, 0.0]
    assert [one.export_wh is None for one in found] == [False, True, False]


@pytest.mark.parametrize(("off_s", "back_s"), [(300, 500), (0, 60), (850, 1000)])
def test_a_gap_is_null_and_not_filled(off_s: int, back_s: int) -> None:
    """The DCU was off within, at the beginning, over the end: null; the quarter-hour after the gap is there again."""
    samples = [sample for sample in steady(-15, 3600) if not off_s - 30 < sample.at_s < back_s]
    first, second, third = day_of(samples, 3)
    assert first == Quarter(None, None, None, None)
    assert third.import_wh == 0.0
    assert (second.import_wh is None) == (back_s > QUARTER_S)


def test_without_power_there_is_no_quarter() -> None:
    """Registers alone do not tell within a step, and power that is unknown covers nothing."""
    samples = [Sample(15.0 * n, (230.0, None, None), None, 1000, 0) for n in range(-1, 70)]
    assert quarter(samples, 0, HOLD_S, None, STEP_WH).import_wh is None
    assert 0 < COVERED_MIN < 1
