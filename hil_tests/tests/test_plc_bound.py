"""The bound of a street's airtime, on streets small enough to reckon by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hil_tests.plc_bound import ACKNOWLEDGEMENT_BYTES, AROUND_REPORT_BYTES, least_airtime, report_airtime_s
from hil_tests.plc_street import STREET, with_burst_loss
from hil_tests.virtual.topology import BASE, Topology
from prime_plc.phy import Scheme, frame_duration_s

REPORT_BYTES = 113
UP_S = frame_duration_s(REPORT_BYTES + AROUND_REPORT_BYTES, Scheme.D8PSK)
DOWN_S = frame_duration_s(ACKNOWLEDGEMENT_BYTES, Scheme.DBPSK_C)


def row(*path_db: float) -> Topology:
    """Stations in a row behind the base, the steps between neighbours given; all attenuations add up."""
    place = np.cumsum((0.0, *path_db))
    names = (BASE, *(f"n{number}" for number in range(1, len(place))))
    between = np.abs(place[:, None] - place[None, :])
    return Topology(names, between, np.zeros_like(between), np.zeros(len(place)))


def test_on_a_clear_line_each_report_costs_its_fastest_frame_and_its_acknowledgement() -> None:
    """Two stations side by side at the base, a report a minute."""
    topology = row(5.0, 0.0)
    assert report_airtime_s(topology, STREET, REPORT_BYTES)[1:] == pytest.approx([UP_S + DOWN_S] * 2, rel=1e-3)
    assert least_airtime(topology, STREET, REPORT_BYTES, 60.0) == pytest.approx(2 * (UP_S + DOWN_S) / 60, rel=1e-3)


def test_who_is_too_far_goes_over_the_one_between() -> None:
    """Over both steps at once nothing comes through: the second costs two hops."""
    clear_db = 15.0
    airtimes_s = report_airtime_s(row(clear_db, 30.0), STREET, REPORT_BYTES)
    assert airtimes_s[2] > 2 * airtimes_s[1] > 0
    assert airtimes_s[2] < 1.0


def test_bursts_cost_what_a_deaf_receiver_loses() -> None:
    """Deaf for 30 % of the time in bursts of 0.3 s: each frame takes 1 / 0.7 tries and those for bursts that begin in
    it, whatever its modulation."""
    topology = row(5.0)
    clear = report_airtime_s(topology, STREET, REPORT_BYTES)[1]
    deaf = report_airtime_s(topology, with_burst_loss(STREET, 0.3, 0.3), REPORT_BYTES)[1]
    rate_hz = 0.3 / 0.7 / 0.3
    expected = sum(one_s * math.exp(rate_hz * one_s) / 0.7 for one_s in (UP_S, DOWN_S))
    assert clear == pytest.approx(UP_S + DOWN_S, rel=1e-3)
    assert deaf == pytest.approx(expected, rel=1e-3)
    slower = report_airtime_s(topology, replace(STREET, level_dbuv=STREET.noise_dbuv + 15.0), REPORT_BYTES)[1]
    assert slower > clear
