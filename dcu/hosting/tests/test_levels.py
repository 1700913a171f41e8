"""Readings that came one after the other must say what the voltages are now: the exact flow judges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dcu.grid.tests.golden import feeder
from dcu.hosting.learned import LearnedSensitivity
from dcu.hosting.levels import TRUST_S, WAIT_S, Level, Levels, Readings
from dcu.hosting.tests.pv_street import PORTS, flow, seen_by_meters, street

Reals = NDArray[np.float64]

MODEL = feeder("eulv").model
DAYS = 2
DIGIT_V = 0.05
"""Half the last digit: what even an exact meter may be off by, beside the doubt of a level."""


@pytest.fixture(scope="module")
def taught() -> LearnedSensitivity:
    sensitivity = LearnedSensitivity(MODEL.ports, MODEL.port_labels)
    seen = seen_by_meters(street(DAYS, seed=1), seed=2)
    for k in range(len(seen.time_s)):
        sensitivity.update(seen.time_s[k], seen.u_v[k], seen.p_w[k], seen.q_var[k], seen.busbar_v[k])
    sensitivity.fit_prior()
    return sensitivity


class _Street:
    """True draws and voltages, and what was last reported of them."""

    def __init__(self, sensitivity: LearnedSensitivity) -> None:
        day = street(1, seed=7)
        self.levels, self.wander_v = Levels(sensitivity), 0.0
        self.p_w, self.q_var = day.p_w[720].copy(), day.q_var[720]
        self.pv = np.flatnonzero(day.has_pv)
        self.read_s = np.linspace(-20.0, 0.0, PORTS)
        self.read_p_w, self.read_v = self.p_w.copy(), np.zeros(PORTS)
        self.solve()
        self.read_v = self.u_v.round(1)

    def solve(self) -> None:
        u, busbar = flow(self.p_w[None, :], self.q_var[None, :])
        self.u_v, self.busbar_v = u[0] + self.wander_v, busbar[0] + self.wander_v

    def export(self, port: int, watts: float) -> None:
        self.p_w[port] = -watts
        self.solve()

    def report(self, ports: Reals | list[int], at_s: float) -> None:
        self.read_s[ports] = at_s
        self.read_p_w[ports], self.read_v[ports] = self.p_w[ports], self.u_v[ports].round(1)

    def look(self, now: float) -> Level:
        readings = Readings(
            self.read_p_w.copy(), self.q_var, self.read_v.copy(), self.read_s.copy(), self.busbar_v.round(1), now
        )
        return self.levels.take(readings, now)

    def beyond(self, level: Level) -> Reals:
        """By how much each level is off beyond its doubt [V]."""
        return np.asarray(np.abs(self.u_v - level.u_v) - level.margin_v - DIGIT_V)


def test_a_neighbours_export_moves_a_level_before_the_meter_itself_reports(taught: LearnedSensitivity) -> None:
    s = _Street(taught)
    s.look(0.0)
    raised = int(s.pv[0])
    s.export(raised, 9000.0)
    s.report([raised], 11.0)
    others = np.arange(PORTS) != raised
    assert np.abs(s.u_v - s.read_v)[others].max() > 0.7, "the old readings are far off"
    level = s.look(12.0)
    assert np.abs(s.u_v - level.u_v).max() < 0.4
    assert s.beyond(level).max() <= 0


def test_a_change_that_is_reported_late_is_not_counted_twice(taught: LearnedSensitivity) -> None:
    """The neighbours' meters have seen it, and say so, before its own meter does."""
    s = _Street(taught)
    s.look(0.0)
    raised = int(s.pv[0])
    s.export(raised, 9000.0)
    s.report([k for k in range(PORTS) if k != raised], 31.0)
    s.look(31.0)
    s.report([raised], 36.0)
    for now in (36.0, 31.0 + WAIT_S, 46.0):
        assert s.beyond(s.look(now)).max() <= 0, now


def test_what_a_raise_makes_doubtful_the_next_readings_settle(taught: LearnedSensitivity) -> None:
    s = _Street(taught)
    before = s.look(0.0)
    for k, port in enumerate(s.pv):
        s.export(int(port), 4000.0)
        s.report([int(port)], 20.0 + 0.1 * k)
    raised = s.look(26.0)
    s.report(list(range(PORTS)), 40.0)
    s.look(40.0)
    settled = s.look(40.0 + WAIT_S)
    assert raised.margin_v.mean() > 1.5 * before.margin_v.mean()
    assert settled.margin_v.mean() < 0.8 * raised.margin_v.mean()
    assert s.beyond(raised).max() <= 0
    assert s.beyond(settled).max() <= 0


def test_the_busbar_moves_every_level_at_once(taught: LearnedSensitivity) -> None:
    s = _Street(taught)
    before = s.look(0.0)
    s.wander_v = -3.0
    s.solve()
    after = s.look(2.0)
    assert after.u_v - before.u_v == pytest.approx(-3.0, abs=0.2)
    assert s.beyond(after).max() <= 0


def test_a_street_that_changes_all_the_time_stays_within_its_doubt(taught: LearnedSensitivity) -> None:
    """A raise or a fall of kilowatts every five seconds, reported within five; regular reports every half minute."""
    s, random = _Street(taught), np.random.default_rng(1)
    beyond, raw = [], []
    for now in range(600):
        if now > 30 and now % 5 == 0:
            s.export(int(random.choice(s.pv)), float(random.uniform(1500.0, 6000.0)))
        late = now - s.read_s
        changed = (np.abs(s.p_w - s.read_p_w) > 1.0) & (late >= 5) & (now % 2 == 0)
        s.report(np.flatnonzero(changed | (late >= 27)).tolist(), float(now))
        level = s.look(float(now))
        if np.array_equal(s.p_w, s.read_p_w):
            beyond.append(s.beyond(level))
            raw.append(np.abs(s.u_v - s.read_v).max())
    assert len(beyond) > 100
    assert np.median(raw) > 1.0
    assert np.mean(np.array(beyond) <= 0) >= 0.999


@pytest.mark.parametrize("shown_v", [150.0, 240.0])
def test_a_reading_that_no_accuracy_explains_contradicts_however_often_it_is_repeated(
    taught: LearnedSensitivity, shown_v: float
) -> None:
    """252 V in truth, and a number that any grid could have; then the truth again."""
    s = _Street(taught)
    port = int(s.pv[0])
    s.look(0.0)
    assert s.u_v[port] > 251.0
    for now in 20.0 * np.arange(1, 10):
        s.report(list(range(PORTS)), now)
        s.read_v[port] = shown_v
        s.look(now)
        level = s.look(now + WAIT_S)
        assert np.flatnonzero(level.contradicts).tolist() == [port]
    s.report(list(range(PORTS)), 300.0)
    s.look(300.0)
    level = s.look(300.0 + WAIT_S)
    assert not level.contradicts.any()
    assert s.beyond(level).max() <= 0


def test_a_first_reading_is_judged_by_the_busbar_and_the_currents(taught: LearnedSensitivity) -> None:
    s = _Street(taught)
    port = int(s.pv[0])
    s.read_v[port] = 240.0
    assert np.flatnonzero(s.look(0.0).contradicts).tolist() == [port]


@pytest.mark.parametrize("follows", [True, False])
def test_a_level_that_has_jumped_is_trusted_when_it_has_followed_for_long(
    taught: LearnedSensitivity, *, follows: bool
) -> None:
    """An export comes and goes by 11 kW. A meter 12 V off that follows it is believed after half an hour; a
    number that stands still never is."""
    s = _Street(taught)
    port, jumped_v = int(s.pv[0]), float(s.u_v[s.pv[0]]) - 12.0
    s.look(0.0)
    for k in range(1, 100):
        now = 30.0 * k
        s.export(port, 1000.0 + 11_000.0 * (k % 2))
        s.report(list(range(PORTS)), now)
        s.read_v[port] = round(s.u_v[port] - 12.0, 1) if follows else jumped_v
        s.look(now)
        level = s.look(now + WAIT_S)
        if now < TRUST_S:
            assert level.contradicts[port]
    assert level.contradicts[port] != follows
