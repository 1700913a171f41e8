"""The book of reservations holds exactly what every unacknowledged decision may still be worth, in a bounded number of
them, however often a grant is lowered."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.hosting.grants import HEARD_S, GrantBook, LiveGrant, Reservation, reserved_for_s
from shared.ids import Epoch, MeterId, RequestId
from shared.messages import DecisionId

METER = MeterId("m1")
LEASE_S = 60.0


def grant(seq: int, limit_w: float, now: float) -> LiveGrant:
    ends_s = now + reserved_for_s(LEASE_S)
    return LiveGrant(METER, RequestId(1), DecisionId(Epoch(1), seq), limit_w, now, ends_s, 9e3, 0.0, 0.0, 0.0)


def test_lowering_forty_times_unheard_holds_no_more_reservations_than_the_grants_and_one() -> None:
    book = GrantBook(200)
    book.reserve(grant(1, 5000.0, 0.0), LEASE_S)
    book.reserve(grant(2, 4900.0, 15.0), LEASE_S)
    for k in range(40):
        book.lower(METER, DecisionId(Epoch(1), 3 + k), 4800.0 - 10.0 * k, 15.0)
    assert [r.limit_w for r in book.reservations] == [5000.0, 4900.0, 4410.0]
    assert book.places == 197
    book.acknowledged(METER, DecisionId(Epoch(1), 42), 16.0)
    assert [(r.limit_w, r.until_s) for r in book.reservations] == [(4410.0, 15.0 + reserved_for_s(LEASE_S))]


def test_a_decision_is_believed_to_be_heard_for_ten_seconds_and_again_once_it_is_acknowledged() -> None:
    """Who has not heard a lowering is no more believed to hear the next one."""
    book, first, second = GrantBook(200), DecisionId(Epoch(1), 2), DecisionId(Epoch(1), 3)
    book.reserve(grant(1, 5000.0, 0.0), LEASE_S)
    book.acknowledged(METER, DecisionId(Epoch(1), 1), 1.0)
    assert book.unheard(60.0) == frozenset()
    book.lower(METER, first, 4000.0, 5.0)
    assert book.unheard(5.0 + HEARD_S - 0.1) == frozenset()
    book.lower(METER, second, 3000.0, 12.0)
    assert book.unheard(5.0 + HEARD_S) == {METER}
    book.acknowledged(METER, first, 16.0)
    assert book.unheard(16.0) == {METER}, "an old acknowledgement says nothing"
    book.acknowledged(METER, second, 17.0)
    assert book.unheard(60.0) == frozenset()
    book.lower(METER, DecisionId(Epoch(1), 4), 2000.0, 18.0)
    book.end(METER)
    assert book.unheard(60.0) == frozenset(), "nobody is left to be lowered"


def test_a_revoke_is_believed_to_be_heard_for_ten_seconds_too() -> None:
    """Counted from a lowering before it that was not heard; until acknowledged, granted anew, or the lease is over."""
    book, revoked = GrantBook(200), DecisionId(Epoch(1), 3)
    book.reserve(grant(1, 5000.0, 0.0), LEASE_S)
    book.acknowledged(METER, DecisionId(Epoch(1), 1), 1.0)
    assert book.leaving(1.0) == frozenset()
    book.lower(METER, DecisionId(Epoch(1), 2), 4000.0, 5.0)
    book.revoke(METER, revoked, 8.0)
    assert book.leaving(5.0 + HEARD_S - 0.1) == {METER}
    assert book.leaving(5.0 + HEARD_S) == book.unheard(5.0 + HEARD_S) == frozenset()
    book.acknowledged(METER, revoked, 9.0)
    assert (book.leaving(9.0), book.reservations) == (frozenset(), ())
    book.reserve(grant(4, 5000.0, 10.0), LEASE_S)
    book.revoke(METER, DecisionId(Epoch(1), 5), 71.0)
    assert book.leaving(71.0) == frozenset(), "the grant itself was never acknowledged"
    book.reserve(grant(6, 5000.0, 71.5), LEASE_S)
    assert book.leaving(71.5) == frozenset()
    book.revoke(METER, DecisionId(Epoch(1), 7), 72.0)
    assert book.leaving(72.0) == {METER}
    book.expire(71.5 + reserved_for_s(LEASE_S))
    assert not book._told_s


@pytest.mark.parametrize("seed", range(20))
def test_what_is_held_at_any_time_to_come_is_what_all_decisions_together_hold(seed: int) -> None:
    """Grants, renewals, lowerings and acknowledgements in any order, beside a book that forgets nothing."""
    random, book, all_held = np.random.default_rng(seed), GrantBook(200), list[Reservation]()
    now, limit_w = 0.0, 0.0
    for seq in range(1, 61):
        now += float(random.choice([0.0, 1.0, 15.0]))
        book.expire(now)
        all_held = [r for r in all_held if now < r.until_s]
        live = book.grant_of(METER) is not None
        decision = DecisionId(Epoch(1), seq)
        match random.integers(0, 4) if live else 0:
            case 0 | 1:
                limit_w = float(random.choice([1000.0, 2000.0, 3000.0]))
                book.reserve(grant(seq, limit_w, now), LEASE_S)
                all_held.append(Reservation(decision, METER, limit_w, now + reserved_for_s(LEASE_S)))
            case 2:
                limit_w = max(600.0, limit_w - 100.0 * random.integers(0, 5))
                until_s = max(r.until_s for r in all_held)
                book.lower(METER, decision, limit_w, now)
                all_held.append(Reservation(decision, METER, limit_w, until_s))
            case 3:
                named = book.newest(METER)
                book.acknowledged(METER, named, now)
                all_held = [r for r in all_held if r.decision == named]
        for at_s in np.arange(now, now + 65.0, 1.0):
            held, truth = (
                max((r.limit_w for r in some if at_s < r.until_s), default=0.0)
                for some in (book.reservations, all_held)
            )
            assert held == truth, (seq, at_s)
        assert len(book.reservations) <= len(all_held)
