"""Nonces that may raise a grant early, and the air time it takes."""

from __future__ import annotations

import pytest

from dcu.hosting.airtime import Airtime
from dcu.hosting.raises import SAVED_MAX, YOUNG, Raises
from shared.ids import Epoch, MeterId, Nonce, RequestId
from shared.messages import Request

A, B = MeterId("a"), MeterId("b")
LINE = Airtime(renewal_s=0.25, share_max=0.5)
LEASE_S = 40.0
YOUNG_S = YOUNG * LEASE_S


def question(nonce: int) -> Request:
    return Request(RequestId(1), Nonce(nonce), Epoch(1), 5000.0, 0.0)


def test_air_time_that_is_left_is_saved_and_spent() -> None:
    """A quarter of the channel is one raise a second."""
    raises = Raises(LINE, LEASE_S, 0.0)
    raises.keep(question(1), A, 0.0)
    raises.keep(question(2), B, 0.5)
    assert raises.possible(0.25, 0.5) == (frozenset({A, B}), 0)
    assert raises.possible(0.25, 1.0) == (frozenset({A, B}), 1)
    assert raises.possible(0.25, 2.0) == (frozenset({A, B}), 2)
    assert raises.spend(A) == question(1)
    assert raises.possible(0.25, 2.0) == (frozenset({B}), 1)


def test_what_was_saved_is_not_spent_on_a_line_that_has_become_full() -> None:
    """Ten raises are saved up on an empty line; then it is fuller than allowed, and empties again."""
    raises = Raises(LINE, LEASE_S, 0.0)
    raises.possible(0.1, 100.0)
    for k in range(12):
        raises.keep(question(k), MeterId(f"m{k}"), 100.0)
    assert raises.possible(0.9, 100.1) == (frozenset(), 0)
    assert raises.possible(0.1, 100.2)[1] == SAVED_MAX


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_full_line_raises_nobody_early(share: float) -> None:
    raises = Raises(LINE, LEASE_S, 0.0)
    raises.keep(question(1), A, 99.0)
    assert raises.possible(share, 100.0) == (frozenset(), 0)


def test_no_more_is_saved_than_a_burst() -> None:
    raises = Raises(LINE, LEASE_S, 0.0)
    for k in range(30):
        raises.keep(question(k), MeterId(f"m{k}"), 1e6)
    everybody, count = raises.possible(0.0, 1e6)
    assert (len(everybody), count) == (30, SAVED_MAX)


def test_a_nonce_is_used_young_or_not_at_all_and_the_newest_counts() -> None:
    raises = Raises(LINE, LEASE_S, 0.0)
    raises.keep(question(1), A, 10.0)
    assert raises.possible(0.0, 10.0 + YOUNG_S)[0] == {A}
    raises.keep(question(2), A, 20.0)
    assert raises.possible(0.0, 20.0 + YOUNG_S)[0] == {A}
    assert raises.spend(A) == question(2)
    raises.keep(question(3), A, 40.0)
    assert raises.possible(0.0, 40.1 + YOUNG_S)[0] == frozenset()


def test_a_grant_that_was_lowered_or_has_ended_is_not_raised_by_an_older_nonce() -> None:
    raises = Raises(LINE, LEASE_S, 0.0)
    raises.keep(question(1), A, 10.0)
    raises.drop(A)
    assert raises.possible(0.0, 10.0)[0] == frozenset()


def test_a_lowering_takes_air_time_from_raises_and_owes_no_more_than_a_burst() -> None:
    """A raise a second; ten are saved. Three lowerings leave seven; a hundred owe ten seconds, not a hundred."""
    raises = Raises(LINE, LEASE_S, 0.0)
    raises.keep(question(1), A, 100.0)
    raises.possible(0.25, 100.0)
    for _ in range(3):
        raises.take()
    assert raises.possible(0.25, 100.0)[1] == 7
    for _ in range(100):
        raises.take()
    assert raises.possible(0.25, 105.0)[1] == 0
    assert raises.possible(0.25, 112.0)[1] == 2
