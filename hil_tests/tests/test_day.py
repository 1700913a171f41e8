"""Profiles must be what they say, whatever is asked of them, and a wrong file is refused with its row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcu.grid.tests.golden import day as published
from hil_tests.day import MINUTES, PEAK_W, clear_sky, make_day, open_feeder, read_shares
from hil_tests.tests.lane import lane
from shared.errors import ConfigError


def test_the_european_feeder_has_its_own_loads() -> None:
    p, q, _ = published()
    day = make_day(open_feeder("eulv"), "clear", 0.5, 1, (360, 1200))
    assert np.array_equal(day.p_w, p[360:1200])
    assert np.array_equal(day.q_var, q[360:1200])
    assert len(day.plants) == 28
    assert all(PEAK_W[0] <= plant.peak_w <= PEAK_W[1] for plant in day.plants)


def test_another_feeder_reaches_about_its_base_case_once_a_day() -> None:
    network = lane()
    many = replace(network, connection_points=network.connection_points, memo={})
    totals = [make_day(many, "clear", 1.0, seed).p_w.sum(axis=1).max() for seed in range(1, 9)]
    assert 2400 * 0.5 < np.mean(totals) < 2400 * 4
    assert make_day(many, "clear", 1.0, 3).p_w.tolist() == make_day(many, "clear", 1.0, 3).p_w.tolist()


def test_the_clear_sky_follows_haurwitz() -> None:
    sun = clear_sky()
    cos_z = np.cos(np.radians(50.0 - 23.45))
    assert sun.max() == pytest.approx(1.098 * cos_z * np.exp(-0.057 / cos_z), rel=1e-4)
    assert sun.argmax() in (719, 720)
    assert sun[:180].max() == 0
    assert sun[180:1260].min() >= 0


@pytest.mark.parametrize(("sky", "low", "high"), [("broken", 0.45, 0.95), ("overcast", 0.1, 0.36)])
def test_clouds_take_their_part_and_belong_to_the_seed(sky: str, low: float, high: float) -> None:
    network = lane()
    first, again, other = (make_day(network, sky, 1.0, seed).pv_share for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert low < first.sum() / clear_sky().sum() < high


def test_more_plants_are_the_same_plants_and_some() -> None:
    network = open_feeder("eulv")
    few, many = (make_day(network, "clear", share, 1).plants for share in (0.2, 0.6))
    assert set(few) < set(many)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("minute,pv_share\n0,0\n600,nan\n", "row 3"),
        ("minute,pv_share\n0,0\n600,one\n", "row 3"),
        ("minute,pv_share\n60,0\n30,0.5\n", "row 3"),
        ("minute,pv_share\n60,1.6\n", "row 2"),
        ("minute,pv_share\n60\n", "row 2"),
        ("minute,pv_share\n-5,0\n", "row 2"),
        ("time,sun\n1,1\n", "row 1"),
        ("minute,pv_share\n", "row 2"),
        ("", "row 1"),
    ],
)
def test_a_wrong_file_is_refused_with_its_row(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "sun.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_shares(path)
    assert refused.value.file == str(path)
    assert where in str(refused.value)


def test_a_file_is_interpolated_and_dark_outside(tmp_path: Path) -> None:
    path = tmp_path / "sun.csv"
    path.write_text("minute,pv_share\n600,0.2\n610,0.4\n", encoding="utf-8")
    shares = read_shares(path)
    assert len(shares) == MINUTES
    assert shares[605] == pytest.approx(0.3)
    assert shares[599] == shares[611] == 0


@pytest.mark.parametrize("share", [1.5, 0.0, -0.1, float("nan")])
def test_a_share_of_customers_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ConfigError, match="--pv-share"):
        make_day(lane(), "clear", share, 1)
