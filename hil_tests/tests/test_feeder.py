"""The imposed feeder: ramps, limits and energy."""

from __future__ import annotations

import math

import pytest

from hil_tests.virtual.feeder import RAMP_TAU_S, Customer, Plant, Trace


def customer(available_a: float = 20.0) -> Customer:
    return Customer("client1", Trace([(0.0, 240.0)]), Plant(5.0, 10.0, Trace([(0.0, available_a)])))


def test_a_trace_is_linear_between_and_constant_outside() -> None:
    """Interpolation holds at the points, between them and beyond both ends."""
    trace = Trace([(10.0, 241.0), (14.0, 258.0)])
    assert [trace.at(time) for time in (0.0, 10.0, 12.0, 14.0, 99.0)] == [241.0, 241.0, 249.5, 258.0, 258.0]


def test_the_current_follows_the_relay_with_its_time_constant() -> None:
    """One time constant after the relay moved, 63 % of the step is done, however often somebody looked in between."""
    looked, unseen = customer(), customer()
    for one in (looked, unseen):
        one.set_raised(True, 10.0)
    for step in range(50):
        looked.advance(10.0 + RAMP_TAU_S * step / 50)
    expected = 10.0 - 5.0 * math.exp(-1.0)
    assert unseen.export_a(10.0 + RAMP_TAU_S) == pytest.approx(expected, rel=1e-12)
    assert looked.export_a(10.0 + RAMP_TAU_S) == pytest.approx(expected, rel=1e-12)


def test_no_relay_makes_more_sun() -> None:
    """The export never exceeds what the plant has available."""
    shaded = customer(available_a=3.0)
    shaded.set_raised(True, 0.0)
    assert shaded.export_a(60.0) == pytest.approx(3.0)


def test_energy_is_the_integral_of_the_power() -> None:
    """At constant 5 A and 240 V an hour gives 1.2 kWh."""
    one = customer()
    one.advance(3600.0)
    assert one.export_energy_ws / 3600.0 == pytest.approx(1200.0, rel=1e-9)
