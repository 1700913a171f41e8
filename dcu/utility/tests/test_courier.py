"""The courier: live goes first but not alone, messages fit the line, and what fails waits longer each time."""

from __future__ import annotations

import random

from dcu.utility.courier import (
    ASIDE_AFTER,
    BACK_OFF_S_MAX,
    BACK_OFF_S_MIN,
    BYTES_MAX,
    BYTES_MIN,
    LIVE_IN_A_ROW,
    PARDON_S,
    SUSPECT_AFTER,
    SUSPECTS_MAX,
    Courier,
)
from dcu.utility.documents import Class
from dcu.utility.outbox import Batch
from dcu.utility.outbox_file import Lane


def batch(lane: Lane = Lane.LIVE, row: int = 1, items: int = 3) -> Batch:
    return Batch(Class.REPORT, lane, tuple(range(row, row + items)), (b"{}",) * items)


def courier() -> Courier:
    return Courier(random.Random(1), 0.0)


def test_the_backlog_gets_a_quarter_while_live_items_keep_coming() -> None:
    """A thousand messages of an endless live lane and an endless backlog."""
    subject, backlog = courier(), 0
    for _ in range(1000):
        lane = next(lane for lane in subject.ask().lanes if lane is not Lane.AGAIN)
        backlog += lane is Lane.BACKLOG
        subject.sent(batch(lane), 0.5, 1000)
    assert backlog == 1000 // (LIVE_IN_A_ROW + 1)


def test_backlog_and_what_is_offered_again_take_turns() -> None:
    """Eight hundred messages with all three lanes endless: an eighth each, what is offered again first."""
    subject, lanes = courier(), list[Lane]()
    for _ in range(800):
        lanes.append(subject.ask().lanes[0])
        subject.sent(batch(lanes[-1]), 0.5, 1000)
    assert [lane for lane in lanes if lane is not Lane.LIVE] == [Lane.AGAIN, Lane.BACKLOG] * 100
    assert set(subject.ask().lanes) == set(Lane)


def test_who_is_back_is_offered_everything_again_at_most_once_an_hour() -> None:
    """At once the first time; then not before the hour is over, and not while nobody is there. Another session, which
    begins with all of it, needs nothing more."""
    subject = courier()
    subject.heard(Class.DECISION, heard=True)
    assert not subject.offers(1.0)

    def come_and_go(kind: Class) -> None:
        subject.heard(kind, heard=False)
        subject.heard(kind, heard=True)

    come_and_go(Class.DECISION)
    assert subject.offers(2.0)
    assert not subject.offers(2.0)
    come_and_go(Class.ALARM)
    assert not subject.offers(1.0 + PARDON_S)
    subject.heard(Class.ALARM, heard=False)
    assert not subject.offers(2.0 + PARDON_S)
    subject.heard(Class.REPORT, heard=True)
    assert subject.offers(3.0 + PARDON_S)
    subject.heard(Class.ALARM, heard=True)
    subject.connected()
    assert not subject.offers(9.0 * PARDON_S)


def test_messages_grow_on_a_fast_line_and_shrink_on_a_slow_one() -> None:
    """Within their bounds; small messages say nothing about a fast line."""
    subject = courier()
    start = subject.bytes_max
    subject.sent(batch(), 0.01, 10)
    assert subject.bytes_max == start
    for _ in range(20):
        subject.sent(batch(), 0.01, subject.bytes_max)
    assert subject.bytes_max == BYTES_MAX
    for _ in range(20):
        subject.sent(batch(), 5.0, 100)
    assert subject.bytes_max == BYTES_MIN


def test_attempts_back_off_with_jitter_until_something_is_acknowledged() -> None:
    """From a second to a minute, never the same; an acknowledgement starts anew."""
    subject = courier()
    pauses = [subject.pause_s() for _ in range(12)]
    assert BACK_OFF_S_MIN / 2 <= pauses[0] <= BACK_OFF_S_MIN
    assert all(BACK_OFF_S_MAX / 2 <= pause <= BACK_OFF_S_MAX for pause in pauses[7:])
    assert len(set(pauses)) == len(pauses)
    assert [Courier(random.Random(2), 0.0).pause_s() for _ in range(2)] != [courier().pause_s() for _ in range(2)]
    subject.sent(batch(), 0.1, 10)
    assert subject.pause_s() <= BACK_OFF_S_MIN


def test_a_suspect_travels_alone_and_stands_aside_at_last() -> None:
    """Others that get through between its failures do not clear it; its own success does."""
    subject = courier()
    for number in range(1, ASIDE_AFTER + 1):
        alone = subject.wary(batch())
        assert len(alone.rows) == (1 if number > SUSPECT_AFTER else 3)
        assert subject.failed(alone) == (number == ASIDE_AFTER)
        subject.sent(batch(row=100), 0.1, 10)
    for _ in range(SUSPECT_AFTER):
        subject.failed(batch())
    subject.sent(subject.wary(batch()), 0.1, 10)
    assert len(subject.wary(batch()).rows) == 3


def test_suspects_are_a_bounded_list() -> None:
    """A link that fails for a year remembers the last few."""
    subject = courier()
    for row in range(10 * SUSPECTS_MAX):
        subject.failed(batch(row=row))
    assert len(subject._failures) == SUSPECTS_MAX


def test_pardons_come_once_an_hour() -> None:
    """Not at the start, and not twice."""
    subject = courier()
    assert [subject.pardons(at) for at in (0.0, PARDON_S - 1, PARDON_S, PARDON_S + 1, 2 * PARDON_S)] == [
        False, False, True, False, True,
    ]  # fmt: skip
