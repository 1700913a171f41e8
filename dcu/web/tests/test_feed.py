"""What the page says while a DCU answers, falls silent, and says nonsense."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dcu.web.feed import Feed
from dcu.web.models import Street
from dcu.web.quality import READINGS_MIN, SPAN_S, WEEK, QualityBook
from dcu.web.street import DECISIONS_MAX, Decisions
from dcu.web.tests.world import UTC_S, World, snapshot
from dcu.web.traces import SAMPLES, Trace


def feed_of(world: World) -> Feed:
    return Feed(world.ask, 1.0, lambda: world.now, lambda: UTC_S + world.now)


async def test_a_look_tells_everything_in_words() -> None:
    """Limits, reasons and totals come out as the models say."""
    feed = feed_of(World())
    await feed.look()
    street = Street.model_validate(feed.street)
    assert street.state == "live"
    assert street.granted == 1
    assert street.increase_w == 800.0
    assert street.export_w == pytest.approx(2403.0)
    first, second, _ = street.customers
    assert first.why_not_more == "the voltage at meter-2 L2 would rise too high"
    assert second.why_not_more == "the voltage at meter-2 was too high (243.2 V)"
    assert street.news[1].words == (
        "2.00 kW of 2.40 kW asked; not more, because the voltage at meter-2 L2 would rise too high"
    )
    assert [alarm.what for alarm in street.alarms if alarm.who == "meter-3"] == ["voltage above 241.5 V"]


async def test_a_medium_that_fills_up_is_an_alarm_and_a_dcu_that_says_nothing_of_it_none() -> None:
    """It comes with the snapshot, before the ledger has no room."""
    world = World()
    feed = feed_of(world)
    await feed.look()
    before = {alarm["what"] for alarm in feed.street["alarms"]}
    world.told = snapshot() | {"short_of_room": True}
    await feed.look()
    (new,) = [alarm for alarm in feed.street["alarms"] if alarm["what"] not in before]
    assert (new["level"], new["who"]) == ("alarm", "DCU")
    assert "nearly full" in new["what"]


async def test_a_silent_dcu_is_stale_and_then_down_and_what_was_heard_stays() -> None:
    """The last values are shown as the last, never as present ones."""
    world = World()
    feed = feed_of(world)
    await feed.look()
    world.told = ConnectionRefusedError(111, "Connection refused")
    world.now = 3.0
    await feed.look()
    assert feed.street["state"] == "stale"
    world.now = 6.0
    await feed.look()
    street = Street.model_validate(feed.street)
    assert street.state == "down"
    assert street.why == "the DCU does not answer (Connection refused)"
    assert street.heard_utc_s == UTC_S
    assert len(street.customers) == 3
    assert street.alarms[0].level == "alarm"
    traces = feed.traces.of("meter-1")
    assert traces is not None
    assert traces["u_v"] == [236.0, None, None]
    street_traces = feed.traces.of(None)
    assert street_traces is not None
    assert street_traces["export_w"] == [2403.0, None, None], "what was heard last is no curve"


NONSENSE: list[dict[str, Any]] = [
    {},
    {"meters": 1},
    {"meters": [{}]},
    snapshot() | {"band_v": None},
    snapshot() | {"news": [{"kind": "grant"}]},
    snapshot() | {"news": 7},
    snapshot() | {"epoch": float("inf")},
]


@pytest.mark.parametrize("told", NONSENSE)
async def test_nonsense_of_a_dcu_is_named_and_harms_nothing(told: dict[str, Any]) -> None:
    """A DCU of another version, or something else on its socket."""
    world = World()
    feed = feed_of(world)
    await feed.look()
    before = feed.street["customers"]
    world.told = told
    await feed.look()
    assert feed.street["state"] == "stale"
    assert feed.street["why"] == "the DCU answers something that this version cannot read"
    assert feed.street["customers"] == before


async def test_whatever_goes_wrong_with_a_look_the_next_one_is_made_and_nothing_old_is_called_live(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of our own in the middle of a look; the looks go on, and say so until one is right."""
    world = World()
    feed = Feed(world.ask, 0.0, lambda: world.now, lambda: UTC_S + world.now)
    broken = asyncio.Event()

    def add(*_: object) -> None:
        broken.set()
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(feed.quality, "add", add)
        looking = asyncio.create_task(feed.run())
        await broken.wait()
        await feed.next_event(feed._number)
        assert feed.street["state"] == "stale"
        assert "its log has the reason" in feed.street["why"]
        world.now = 6.0
        await feed.next_event(feed._number + 2)
    while feed.street["why"] is not None:
        await feed.next_event(feed._number)
    assert feed.street["state"] == "live"
    assert not looking.done()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert "ZeroDivisionError" in caplog.text


async def test_everybody_gets_the_same_bytes_and_who_is_late_the_newest() -> None:
    """One encoding for all; nobody's queue grows."""
    world = World()
    feed = feed_of(world)
    waiting = [asyncio.create_task(feed.next_event(0)) for _ in range(3)]
    await asyncio.sleep(0)
    await feed.look()
    first = [await task for task in waiting]
    assert len({id(event) for _, event in first}) == 1
    for _ in range(5):
        await feed.look()
    number, event = await feed.next_event(first[0][0])
    assert number == first[0][0] + 5
    data = json.loads(event.split(b"data: ")[1])
    assert data["number"] == number
    assert [row["kind"] for row in data["news"]] == ["start", "grant", "denial"]


def test_decisions_are_bounded_and_a_position_replaces_none() -> None:
    """The row that becomes durable is the row that was there."""
    book = Decisions()
    row = {"kind": "grant", "meter": "m", "utc_s": 1.0, "position": None, "asked_w": 1.0, "least_w": None}
    row |= {"limit_w": 1.0, "reason": None, "binding": None, "value": None, "why": None}
    assert len(book.take([row | {"decision": "1.1"}])) == 1
    assert len(book.take([row | {"decision": "1.1"}])) == 0
    assert book.take([row | {"decision": "1.1", "position": 7}])[0]["position"] == 7
    book.take([row | {"decision": f"1.{k}"} for k in range(DECISIONS_MAX + 50)])
    assert len(book.newest(10 * DECISIONS_MAX, None)) == DECISIONS_MAX


def test_a_trace_keeps_its_length() -> None:
    """Rings, not lists."""
    trace = Trace(SAMPLES)
    for k in range(SAMPLES + 10):
        trace.add(float(k), None, 0.0, 0.0)
    u_v, u_low_v, *_ = trace.rows()
    assert len(u_v) == SAMPLES
    assert u_v[-1] == SAMPLES + 9
    assert set(u_low_v) == {None}


def test_ten_minutes_count_when_they_are_full_and_a_week_is_kept() -> None:
    """Too few readings are counted as missing; 95 % is what the share is held against."""
    book = QualityBook()
    street = {"state": "live", "band_v": (218.5, 241.5), "customers": []}

    def span(at: int, volts: float, looks: int) -> None:
        customer = {"id": "m", "quality": "good", "phases": ["L1"], "u_v": [volts]}
        for k in range(looks):
            book.add(street | {"customers": [customer]}, at * SPAN_S + k)

    for at in range(19):
        span(at, 230.0, READINGS_MIN)
    span(19, 254.0, READINGS_MIN)
    span(20, 230.0, 1)
    span(21, 230.0, 1)
    (row,) = book.as_api()["rows"]
    assert (row["intervals"], row["missing"], row["inside"], row["u_max_v"]) == (20, 1, 0.95, 254.0)
    for at in range(22, 22 + WEEK + 30):
        span(at, 231.0, READINGS_MIN)
    (row,) = book.as_api()["rows"]
    assert (row["intervals"], row["u_min_v"]) == (WEEK, 231.0)
