"""Recorded readings must give back the sets that were seen, bit for bit, and whoever touches them must be noticed."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Point, Quality
from dcu.hosting.readings import PENDING_MAX, SetReader, SetWriter
from dcu.hosting.replay import Replay, replay
from dcu.hosting.tests.test_predicted import ask_all, street
from dcu.ledger.canonical import canonical, parse_canonical
from shared.errors import DecodeError
from shared.ids import MeterId


def as_read(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they come out of a ledger: whole numbers lose their point."""
    return [parse_canonical(canonical(entry)) for entry in entries]


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    """The records of a minute of questions and renewals, and of a busbar that rises."""
    world = street()
    ask_all(world)
    world.pass_time(60.0)
    world.source = 1.004
    world.pass_time(20.0)
    return as_read(world.records)


def again(entries: list[dict[str, Any]]) -> Replay:
    """By a fresh rule."""
    fresh = street().rule
    assert fresh is not None
    return replay(fresh, entries)


def windows(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["kind"] == "window"]


def test_every_view_is_made_again_from_the_readings(entries: list[dict[str, Any]]) -> None:
    """All windows, and none of them only nearly."""
    found = again(entries)
    assert found.differences == []
    assert found.views == found.windows == len(windows(entries)) >= 5
    assert (found.unseen, found.near) == (0, 0)


def test_a_view_that_does_not_follow_from_its_readings_is_a_difference(entries: list[dict[str, Any]]) -> None:
    """Levels and answer of a window fit together, so that the decision alone reproduces; the readings say otherwise."""
    forged = copy.deepcopy(entries)
    for one in windows(forged):
        one["view"]["situation"]["margin_v"][7] += 0.001
    found = again(forged)
    assert found.views == len(windows(entries))
    assert sum("margin_v[7]" in text for text in found.differences) == found.views


def test_a_reading_that_was_changed_left_out_or_deleted_is_noticed(entries: list[dict[str, Any]]) -> None:
    """The chain of hashes tells of each change, however small; what is deleted is counted, and guessed by nobody."""
    touched = copy.deepcopy(entries)
    windows(touched)[1]["readings"]["sets"][-1][1][0][3][0] += 1e-9
    assert any("hash" in text for text in again(touched).differences)
    cut = copy.deepcopy(entries)
    del windows(cut)[1]["readings"]["sets"][0]
    assert any("expected" in text for text in again(cut).differences)
    strange = copy.deepcopy(entries)
    windows(strange)[1]["readings"]["sets"][0][1] = [["m1", 1.0, "excellent", [1.0], [1.0], [1.0]], 7]
    assert any("expected a set" in text for text in again(strange).differences)
    gone = copy.deepcopy(entries)
    del windows(gone)[1]["readings"]
    found = again(gone)
    assert (found.views, found.unseen) == (1, len(windows(entries)) - 1)
    assert found.differences == []


def test_sets_come_back_to_the_bit() -> None:
    """Random doubles, whole numbers, a missing, an invalid and a stale point, a phase that is not known, minus zero;
    what has not changed is not written again."""
    random = np.random.default_rng(1)
    writer, reader = SetWriter(), SetReader()
    at_s = dict.fromkeys(range(6), 0.0)
    written = 0
    for k in range(40):
        now = 100_000.0 + k * math.pi
        points = [Point(SUBSTATION, Quality.GOOD, (230.1, 231.0, 229.9), None, 0.0, (1.0,) * 3, (0.0,) * 3, now)]
        for n in at_s:
            if random.random() < 0.3:
                at_s[n] = now - random.random()
                draws = np.random.default_rng([k, n]).normal(0, 1000, 2)
            quality = (*Quality, Quality.GOOD, Quality.GOOD)[n]
            if quality is Quality.MISSING or not at_s[n]:
                points.append(Point(MeterId(f"m{n}"), Quality.MISSING, (), None, None))
                continue
            draws = np.random.default_rng([int(at_s[n] * 1e3), n]).normal(0, 1000, 2)
            u_v = (float(230 + draws[0] / 1e3), None) if n == 4 else (230.0,)
            age_s = now - at_s[n]
            points.append(Point(MeterId(f"m{n}"), quality, u_v, None, age_s, (float(draws[1]),), (-0.0,), at_s[n]))
        measured = MeasurementSet(tuple(points))
        writer.saw(measured, now)
        if k % 3 == 2:
            entry = parse_canonical(canonical(writer.entry()))
            written += sum(len(changes) for _, changes in entry["sets"])
            *_, (found, when) = reader.sets(entry)
            assert (found, when) == (measured, now)
    assert reader.count == 39
    assert written < 39 * 7 * 0.6


def test_sets_that_nobody_decides_on_do_not_pile_up() -> None:
    """A street in which nobody asks: they ask for an entry of their own in time."""
    writer = SetWriter()
    points = [Point(MeterId(f"m{k}"), Quality.GOOD, (230.0,), None, 0.0, (0.0,), (0.0,), 0.0) for k in range(50)]
    for k in range(100):
        fresh = tuple(Point(p.name, p.quality, p.u_v, None, 0.0, p.p_w, p.q_var, float(k)) for p in points)
        writer.saw(MeasurementSet(fresh), float(k))
        if writer.full:
            break
    entry = writer.entry()
    assert sum(len(changes) for _, changes in entry["sets"]) == PENDING_MAX
    assert len(json.dumps(entry)) < 200_000
    assert writer.entry()["sets"] == []
    with pytest.raises(DecodeError):
        list(SetReader(count=1).sets(entry))
