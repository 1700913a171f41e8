"""Sums that do not fit are seen phase by phase; classes, losses and readings that come one after the other never look
like it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dcu.hosting.balance import FIRST_W, FREE_EXPORT_W, PHASES, SINCE_S, Balance
from dcu.hosting.measurements import FUSE_A, SUBSTATION, Point, Quality
from shared.messages import Reason

Reals = NDArray[np.float64]

COUNT = 54
LABELS = PHASES * (COUNT // 3)
NOMINAL_V = np.full(COUNT, 230.0)
WRONG = 500.0, 4.0
LOOP_OHM = 0.2


def fed_by(p_w: Reals) -> tuple[Reals, Reals]:
    """Voltages at the ends of lines of their own [V], and what the busbar at 230 V feeds by phase [W]."""
    u_v = 115 + np.sqrt(115**2 - LOOP_OHM * p_w)
    taken = p_w * 230.0 / u_v
    return u_v, np.array([taken[n::3].sum() for n in range(3)])


def busbar(fed_w: Reals) -> Point:
    powers = tuple(map(float, fed_w))
    return Point(SUBSTATION, Quality.GOOD, (230.0,) * 3, 0.0, 0.0, powers, (0.0,) * 3)


def contradicts(balance: Balance, fed_w: Reals, p_w: Reals, u_v: Reals, now: float) -> bool:
    short = balance.take(busbar(fed_w), p_w, 0 * p_w, u_v, now)
    assert short is not None
    found = balance.contradicts(short)
    assert found is None or (found.reason, found.point) == (Reason.READINGS_CONTRADICT, SUBSTATION)
    return found is not None


@pytest.mark.parametrize("seed", range(5))
def test_readings_one_after_the_other_of_meters_within_their_class_never_contradict(seed: int) -> None:
    """Kilowatts switch every two seconds, plants rise and fall together, each house is read every 30 s; the balancing
    meter every second. Every meter is off by its class, the same way all the time."""
    random = np.random.default_rng(seed)
    balance = Balance(LABELS, (), NOMINAL_V, WRONG)
    gain, own_gain = 1 + random.uniform(-0.01, 0.01, COUNT), 1 + random.uniform(-0.01, 0.01, 3)
    volt_gain = 1 + random.uniform(-0.005, 0.005, COUNT)
    p_w = random.uniform(-3000.0, 3000.0, COUNT)
    read_w, read_v, short = p_w * gain, fed_by(p_w)[0] * volt_gain, 0.0
    for second in range(600):
        if second % 2 == 0:
            p_w[random.integers(COUNT)] = random.uniform(-9000.0, 5000.0)
        if second % 60 == 30:
            p_w = p_w - random.choice([-1500.0, 1500.0]) * (np.arange(COUNT) % 2)
            p_w = np.clip(p_w, -12_000.0, 8000.0)
        u_v, fed_w = fed_by(p_w)
        now_read = np.arange(COUNT) % 30 == second % 30
        read_w, read_v = np.where(now_read, p_w * gain, read_w), np.where(now_read, u_v * volt_gain, read_v)
        short = max(short, float(np.abs(fed_w - [read_w[n::3].sum() for n in range(3)]).max()))
        assert not contradicts(balance, fed_w * own_gain, read_w, read_v, float(second)), second
    assert short > 10_000.0


@pytest.mark.parametrize("unseen_w", [4000.0, -4000.0, 12_000.0])
def test_what_is_on_the_wrong_phase_contradicts_once_the_street_has_been_seen(unseen_w: float) -> None:
    """The whole adds up. In a quiet street 4 kW show, where a share of all that flows would hide them."""
    balance = Balance(LABELS, (), NOMINAL_V, WRONG)
    p_w = np.full(COUNT, -1000.0)
    u_v, fed_w = fed_by(p_w)
    swapped_w = fed_w + np.array([unseen_w, -unseen_w, 0.0])
    assert abs(unseen_w) <= FIRST_W + 0.2 * COUNT * 1000.0
    found = [contradicts(balance, swapped_w, p_w, u_v, float(second)) for second in range(100)]
    assert not any(found[: int(SINCE_S)])
    assert all(found[int(SINCE_S) + 1 :])
    assert not contradicts(Balance(LABELS, (), NOMINAL_V, WRONG), fed_w, p_w, u_v, 0.0)


def test_a_port_without_a_meter_takes_what_one_can_and_other_phases_nothing() -> None:
    """One free port on L1: what it may draw and feed; 30 kW on L2 have nobody."""
    free = (0,)
    p_w = np.full(COUNT, 300.0)
    p_w[0] = 0.0
    u_v, fed_w = fed_by(p_w)
    loose_w = FIRST_W + 0.2 * float(np.abs(p_w).sum())
    fuse_w = FUSE_A * 230.0
    for more, expected in (
        ((fuse_w, 0.0, 0.0), False),
        ((fuse_w + 1.1 * loose_w, 0.0, 0.0), True),
        ((-FREE_EXPORT_W, 0.0, 0.0), False),
        ((-FREE_EXPORT_W - 1.1 * loose_w, 0.0, 0.0), True),
        ((0.0, 30_000.0, 0.0), True),
        ((0.0, -15_000.0, 15_000.0), True),
    ):
        balance = Balance(LABELS, free, NOMINAL_V, WRONG)
        assert contradicts(balance, fed_w + np.array(more), p_w, u_v, 0.0) == expected, more


def test_where_nobody_can_say_nothing_is_said() -> None:
    """Ports between phases; a balancing meter without powers."""
    p_w = np.zeros(3)
    between = Balance(("L1", "L2", "L1L2"), (), NOMINAL_V[:3], WRONG)
    assert between.take(busbar(np.zeros(3)), p_w, p_w, NOMINAL_V[:3], 0.0) is None
    known = Balance(PHASES, (), NOMINAL_V[:3], WRONG)
    silent = Point(SUBSTATION, Quality.GOOD, (230.0,) * 3, None, 0.0, (None,) * 3, (None,) * 3)
    assert known.take(silent, p_w, p_w, NOMINAL_V[:3], 0.0) is None
