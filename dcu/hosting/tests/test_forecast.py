"""The interval must hold what comes in four of five cases, on a day that was never seen, and the expectation must beat
"as now". A street with PV, seven days known, clouds and loads of the eighth new; exact allocations judge."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from dcu.grid.tests.golden import feeder
from dcu.hosting.allocate import Policy, allocate
from dcu.hosting.forecast import DAYS_MAX, SLOT_S, SLOTS_A_DAY, STEPS, Available, History, _headroom, forecast
from dcu.hosting.headroom import GridLimits, Outlook, Situation
from dcu.hosting.spread import Claim
from dcu.hosting.tests.pv_street import PORTS, Street, Weather, street

Reals = NDArray[np.float64]

MODEL = feeder("eulv").model
LIMITS = GridLimits.of(MODEL, 12.0)  # the published feeder stands at 1.05 pu without load
DAYS = 7
START_UTC_S = 86_400.0 * 19_000
NOMINAL_W, WANTED_W = 1500.0, 12_000.0


def _outlook(of: Street, k: int) -> Outlook:
    return Outlook(MODEL, LIMITS, Situation(of.p_w[k], of.q_var[k], of.u_v[k], np.full(PORTS, 0.3)))


def _claims(of: Street, every: int) -> tuple[Claim, ...]:
    return tuple(Claim(f"c{k}", (int(k),), NOMINAL_W, WANTED_W) for k in np.flatnonzero(of.has_pv)[::every])


def _learn(history: History, of: Street, sets: range) -> None:
    for k in sets:
        history.add(START_UTC_S + of.time_s[k], of.p_w[k], float(of.busbar_v[k].mean()))


def _exact(of: Street, k: int, claims: tuple[Claim, ...]) -> Reals:
    outlook = _outlook(of, k)
    return np.array([allocate(outlook, (claim,), Policy.EQUAL).limits_w[0] for claim in claims])


def _forecast(of: Street, history: History, claims: tuple[Claim, ...], k: int) -> tuple[Available, ...]:
    utc_s, busbar_v = START_UTC_S + float(of.time_s[k]), float(of.busbar_v[k].mean())
    return forecast(_outlook(of, k), history, claims, utc_s, busbar_v)


@pytest.fixture(scope="module")
def week() -> Street:
    return street(DAYS + 1, 2, Weather(shuffled=False, shift_minutes=60))


@pytest.fixture(scope="module")
def known(week: Street) -> History:
    history = History(PORTS)
    _learn(history, week, range(DAYS * 1440))
    return history


def test_the_interval_holds_and_the_expectation_beats_persistence(week: Street) -> None:
    """Six such days, every half-hour (seeds 1 to 6): 81 % inside; the expectation is off by 1.87 kW in the mean, "as
    now" by 2.21 kW; a quarter ahead they are equal, four hours ahead 1.95 and 2.87 kW. One day of them here."""
    history, claims = History(PORTS), _claims(week, 5)
    _learn(history, week, range(DAYS * 1440))
    inside, off, as_now = [], [], []
    last = DAYS * 1440
    for k in range(DAYS * 1440, (DAYS + 1) * 1440 - 240, 45):
        _learn(history, week, range(last, k))
        last = k
        found = _forecast(week, history, claims, k)
        present = _exact(week, k, claims)
        for h in (2, 8, 16):
            came = _exact(week, k + 15 * h, claims)
            for claim, here, there in zip(claims, present, came, strict=True):
                (one,) = (a for a in found if a.meter == claim.name and a.start_s_from_now == h * SLOT_S)
                assert NOMINAL_W <= one.low_w <= one.expected_w <= one.high_w <= WANTED_W
                inside.append(one.low_w - 1 <= there <= one.high_w + 1)
                off.append(abs(one.expected_w - there))
                as_now.append(abs(here - there))
    assert 0.75 < np.mean(inside) < 0.92
    assert np.mean(off) < 0.95 * np.mean(as_now)


def test_the_linear_headroom_is_close_to_the_exact_one(week: Street) -> None:
    claims = _claims(week, 3)
    for k in range(DAYS * 1440 + 300, (DAYS + 1) * 1440, 240):
        outlook = _outlook(week, k)
        found = _headroom(outlook, claims, outlook.now.p_w[None, :], np.zeros(1), {})[0]
        assert found == pytest.approx(_exact(week, k, claims), rel=0.03, abs=60.0)


def test_it_is_the_same_every_time_and_speaks_json(week: Street, known: History) -> None:
    claims, k = _claims(week, 10), DAYS * 1440 + 600
    one, two = (_forecast(week, known, claims, k) for _ in range(2))
    assert one == two
    assert len(one) == STEPS * len(claims)
    assert [a.start_s_from_now for a in one[:STEPS]] == [900.0 * h for h in range(1, STEPS + 1)]
    entry = json.loads(json.dumps(one[0].as_entry()))
    assert set(entry) == {"meter", "start_s_from_now", "low_w", "expected_w", "high_w"}


def test_nothing_is_forecast_before_a_day_is_known(week: Street) -> None:
    history, claims = History(PORTS), _claims(week, 10)
    _learn(history, week, range(600))
    assert _forecast(week, history, claims, 600) == ()
    _learn(history, week, range(600, 1440 + 300))
    assert len(_forecast(week, history, claims, 1440 + 300)) == STEPS * len(claims)


def test_what_others_hold_is_not_available(week: Street, known: History) -> None:
    """Neighbours on one phase: the grant of one takes from the other, and not from itself."""
    at = [k for k in range(PORTS) if MODEL.port_labels[k] == "L1"][-2:]
    claims = tuple(Claim(f"c{k}", (k,), NOMINAL_W, WANTED_W) for k in at)
    k = DAYS * 1440 + 480
    args = _outlook(week, k), known, claims, START_UTC_S + float(week.time_s[k]), float(week.busbar_v[k].mean())
    free, held = forecast(*args), forecast(*args, granted_w={claims[0].name: 9000.0})
    of_first = slice(0, STEPS)
    assert [a.expected_w for a in held[of_first]] == pytest.approx([a.expected_w for a in free[of_first]], rel=0.1)
    assert sum(a.expected_w for a in held[STEPS:]) < 0.8 * sum(a.expected_w for a in free[STEPS:])


def test_days_that_are_all_alike_leave_no_doubt(week: Street) -> None:
    """Constant draws: what is forecast is what there is, at every step."""
    k = 60
    history = History(PORTS)
    for slot in range(3 * SLOTS_A_DAY):
        history.add(START_UTC_S + slot * SLOT_S, week.p_w[k], 240.0)
    claims = _claims(week, 8)
    exact = _exact(week, k, claims)
    found = forecast(_outlook(week, k), history, claims, START_UTC_S + 3 * 86_400.0, 240.0)
    for n, one in enumerate(found):
        assert one.low_w == pytest.approx(one.high_w, abs=1.0)
        assert one.expected_w == pytest.approx(exact[n // STEPS], rel=0.03, abs=60.0)


def test_a_history_keeps_one_good_set_a_quarter_and_no_more_than_its_days() -> None:
    history = History(2)
    assert not history.add(0.0, np.array([1.0, np.nan]), 240.0)
    assert not history.add(0.0, np.array([1.0, 2.0]), np.inf)
    assert not history.add(0.0, np.array([1.0, 2.0, 3.0]), 240.0)
    assert history.add(0.0, np.array([1.0, 2.0]), 240.0)
    assert not history.add(10.0, np.array([3.0, 4.0]), 240.0)
    for slot in range(2 * DAYS_MAX * SLOTS_A_DAY):
        history.add(slot * SLOT_S, np.zeros(2), 240.0)
    assert history.days(10**9) == DAYS_MAX
    history.add(1e12, np.zeros(2), 240.0)  # a clock that jumps leaves no table of a thousand years
    assert history.days(10**12) == 1 / SLOTS_A_DAY
