"""The export limiter: a grant raises once, for at most its lease, and everything else is nominal."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter.limiter import NONCES_MAX, Answer, ExportLimiter, Lowering
from shared.ids import Epoch, Nonce, RequestId
from shared.messages import DecisionId, Grant, LimitSource, Reason, Revoke

NOMINAL_W = 1200.0
CONTRACT_W = 2400.0


def limiter(lease_s_max: float = 60.0) -> ExportLimiter:
    made = ExportLimiter(NOMINAL_W, CONTRACT_W, random.Random(1), lease_s_max)
    made.adopt(Epoch(3))
    return made


def grant(nonce: Nonce, seq: int = 1, limit_w: float = 2400.0, lease_s: float = 60.0, epoch: int = 3) -> Grant:
    return Grant(DecisionId(Epoch(epoch), seq), RequestId(7), nonce, limit_w, lease_s)


def revoke(seq: int, epoch: int = 3, limit_w: float = 0.0) -> Revoke:
    return Revoke(DecisionId(Epoch(epoch), seq), Reason.OVERVOLTAGE, None, None, limit_w)


def state(of: ExportLimiter) -> tuple[object, ...]:
    return of.limit_w, of.source, of.applied, of.wake_at, of.epoch, dict(of._nonces)


def test_a_meter_boots_at_nominal() -> None:
    """Nothing is raised before the first grant of this boot (I6)."""
    fresh = ExportLimiter(NOMINAL_W, CONTRACT_W, random.Random(1))
    assert (fresh.limit_w, fresh.raised, fresh.live, fresh.wake_at) == (NOMINAL_W, False, False, None)
    assert fresh.source is LimitSource.BOOT


def test_a_lease_counts_from_the_instant_the_nonce_was_drawn() -> None:
    """A grant delayed by 20 s is 20 s shorter, never longer."""
    tested = limiter()
    nonce = tested.draw_nonce(100.0)
    assert tested.accept(grant(nonce), 120.0) is Answer.APPLIED
    assert tested.wake_at == 160.0
    assert tested.lease_left_s(120.0) == 40.0
    assert not tested.wake(159.99)
    assert tested.limit_w == 2400.0
    assert tested.wake(160.0)
    assert (tested.limit_w, tested.source) == (NOMINAL_W, LimitSource.LEASE_ENDED)


def test_a_nonce_raises_once() -> None:
    """A used nonce is void, even under a higher decision number (I3)."""
    tested = limiter()
    nonce = tested.draw_nonce(0.0)
    assert tested.accept(grant(nonce, 1), 1.0) is Answer.APPLIED
    assert tested.accept(grant(nonce, 2), 2.0) is Answer.UNKNOWN_NONCE


def test_older_nonces_are_void_with_the_used_one() -> None:
    """A renewal that answers the newer nonce leaves nothing for one that answers the older."""
    tested = limiter()
    older, newer = tested.draw_nonce(0.0), tested.draw_nonce(1.0)
    assert tested.accept(grant(newer, 2), 2.0) is Answer.APPLIED
    assert tested.accept(grant(older, 3), 2.0) is Answer.UNKNOWN_NONCE


@pytest.mark.parametrize(
    ("change", "now", "answer"),
    [
        ({"nonce": Nonce(42)}, 1.0, Answer.UNKNOWN_NONCE),
        ({"decision": DecisionId(Epoch(2), 9)}, 1.0, Answer.OTHER_EPOCH),
        ({"decision": DecisionId(Epoch(4), 9)}, 1.0, Answer.OTHER_EPOCH),
        ({"decision": DecisionId(Epoch(3), 5)}, 1.0, Answer.OLD_DECISION),
        ({"decision": DecisionId(Epoch(3), 4)}, 1.0, Answer.OLD_DECISION),
        ({"lease_s": 60.01}, 1.0, Answer.BAD_LEASE),
        ({"lease_s": 0.0}, 1.0, Answer.BAD_LEASE),
        ({"lease_s": -1.0}, 1.0, Answer.BAD_LEASE),
        ({"lease_s": math.nan}, 1.0, Answer.BAD_LEASE),
        ({"lease_s": math.inf}, 1.0, Answer.BAD_LEASE),
        ({"limit_w": 2400.1}, 1.0, Answer.ABOVE_CONTRACT),
        ({"limit_w": -0.1}, 1.0, Answer.ABOVE_CONTRACT),
        ({"limit_w": math.nan}, 1.0, Answer.ABOVE_CONTRACT),
        ({"limit_w": math.inf}, 1.0, Answer.ABOVE_CONTRACT),
        ({"lease_s": 10.0}, 10.0, Answer.LEASE_OVER),
        ({}, 60.01, Answer.STALE_NONCE),
        ({}, 60.0, Answer.LEASE_OVER),
        ({}, math.nan, Answer.STALE_NONCE),
    ],
)
def test_a_refused_grant_changes_nothing(change: dict[str, object], now: float, answer: Answer) -> None:
    """Every way to be wrong is named, and the state after the refusal is the state before."""
    tested = limiter()
    first = tested.draw_nonce(-1.0)
    assert tested.accept(grant(first, 5, lease_s=0.5), -0.9) is Answer.APPLIED
    tested.wake(0.0)
    nonce = tested.draw_nonce(0.0)
    before = state(tested)
    assert tested.accept(replace(grant(nonce, 6), **change), now) is answer  # type: ignore[arg-type]
    assert state(tested) == before


def test_a_meter_without_epoch_obeys_no_grant() -> None:
    """Epoch 0 means that no DCU has spoken yet; a grant that claims it is refused."""
    tested = ExportLimiter(NOMINAL_W, CONTRACT_W, random.Random(1))
    nonce = tested.draw_nonce(0.0)
    assert tested.accept(grant(nonce, epoch=0), 1.0) is Answer.OTHER_EPOCH


def test_a_site_may_accept_shorter_leases_only() -> None:
    """With 20 s configured, 20 s pass and more does not."""
    tested = limiter(lease_s_max=20.0)
    nonce = tested.draw_nonce(0.0)
    assert tested.accept(grant(nonce, lease_s=20.01), 1.0) is Answer.BAD_LEASE
    assert tested.accept(grant(nonce, lease_s=20.0), 1.0) is Answer.APPLIED


def test_revoke_ends_the_grant_and_voids_every_nonce() -> None:
    """What was asked before the revoke can raise nothing after it."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1), 1.0)
    outstanding = tested.draw_nonce(2.0)
    assert tested.revoke(revoke(2)) is Lowering.WHOLE
    assert (tested.limit_w, tested.source, tested.applied) == (NOMINAL_W, LimitSource.REVOKED, DecisionId(Epoch(3), 2))
    assert tested.accept(grant(outstanding, 3), 3.0) is Answer.UNKNOWN_NONCE


def test_a_revoke_may_leave_a_part_until_the_end_of_the_lease() -> None:
    """Capped at once, the end stays, every nonce is void, and the decision is the newest applied."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1), 1.0)
    outstanding = tested.draw_nonce(2.0)
    assert tested.revoke(revoke(2, limit_w=1800.0)) is Lowering.PARTIAL
    assert (tested.limit_w, tested.source, tested.applied) == (1800.0, LimitSource.GRANT, DecisionId(Epoch(3), 2))
    assert tested.wake_at == 60.0
    assert tested.accept(grant(outstanding, 3), 3.0) is Answer.UNKNOWN_NONCE
    assert tested.wake(60.0)
    assert tested.limit_w == NOMINAL_W


@pytest.mark.parametrize("seq", [1, 2, 9])
@pytest.mark.parametrize("left_w", [1200.1, 2000.0, 2400.0, 9000.0, math.inf])
def test_a_lowering_never_raises_however_late_or_often(seq: int, left_w: float) -> None:
    """Old, doubled or new, above or below what is granted: the limit is the least that was ever said."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 5, limit_w=2000.0), 1.0)
    for _ in range(2):
        assert tested.revoke(revoke(seq, limit_w=left_w)) is Lowering.PARTIAL
        assert tested.limit_w == min(2000.0, left_w)
        assert tested.applied == DecisionId(Epoch(3), max(5, seq))
    tested.revoke(revoke(3, limit_w=1500.0))
    tested.revoke(revoke(3, limit_w=1700.0))
    assert tested.limit_w == min(1500.0, left_w)


@pytest.mark.parametrize("left_w", [0.0, 600.0, NOMINAL_W, -1.0, math.nan])
def test_a_revoke_that_leaves_no_more_than_nominal_leaves_nothing(left_w: float) -> None:
    """At the nominal limit, below it, or no number at all: the grant ends."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1), 1.0)
    assert tested.revoke(revoke(2, limit_w=left_w)) is Lowering.WHOLE
    assert (tested.live, tested.source) == (False, LimitSource.REVOKED)


def test_a_partial_revoke_without_a_grant_raises_nothing() -> None:
    """The grant it would lower was lost on the line; the nonces are void all the same."""
    tested = limiter()
    nonce = tested.draw_nonce(0.0)
    assert tested.revoke(revoke(2, limit_w=1800.0)) is Lowering.PARTIAL
    assert (tested.live, tested.limit_w, tested.source) == (False, NOMINAL_W, LimitSource.BOOT)
    assert tested.accept(grant(nonce, 3), 1.0) is Answer.UNKNOWN_NONCE


def test_lowering_may_come_late_and_twice() -> None:
    """An old revoke lowers all the same, but the newest applied decision stays the newest."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 5), 1.0)
    assert tested.revoke(revoke(4)) is Lowering.WHOLE
    assert tested.revoke(revoke(4)) is Lowering.WHOLE
    assert (tested.limit_w, tested.applied) == (NOMINAL_W, DecisionId(Epoch(3), 5))


def test_a_lower_epoch_is_never_obeyed() -> None:
    """Neither its revokes nor its greeting (I18)."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1), 1.0)
    before = state(tested)
    assert tested.revoke(revoke(9, epoch=2)) is Lowering.REFUSED
    assert not tested.adopt(Epoch(2))
    assert not tested.adopt(Epoch(3))
    assert state(tested) == before


def test_a_newer_epoch_ends_the_grant_and_voids_every_nonce() -> None:
    """Grants of a DCU that is gone do not survive it here."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1), 1.0)
    outstanding = tested.draw_nonce(2.0)
    assert tested.adopt(Epoch(4))
    assert (tested.limit_w, tested.source, tested.applied) == (NOMINAL_W, LimitSource.NEW_EPOCH, None)
    assert tested.accept(grant(outstanding, 1, epoch=4), 3.0) is Answer.UNKNOWN_NONCE


@pytest.mark.parametrize(
    ("end", "source"),
    [(ExportLimiter.release, LimitSource.RELEASED), (ExportLimiter.fault, LimitSource.LOCAL_FAULT)],
)
def test_release_and_fault_void_every_nonce(end: object, source: LimitSource) -> None:
    """Whoever gives back cannot be raised by an answer that is still on its way."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1), 1.0)
    outstanding = tested.draw_nonce(2.0)
    end(tested)  # type: ignore[operator]
    assert (tested.limit_w, tested.source) == (NOMINAL_W, source)
    assert tested.accept(grant(outstanding, 2), 3.0) is Answer.UNKNOWN_NONCE


def test_the_strictest_limit_wins_but_never_below_nominal() -> None:
    """A grant of less than nominal raises nothing; a lowered nominal limit applies at once."""
    tested = limiter()
    tested.accept(grant(tested.draw_nonce(0.0), 1, limit_w=600.0), 1.0)
    assert (tested.limit_w, tested.raised, tested.live) == (NOMINAL_W, False, True)
    tested.nominal_limit_w = 500.0
    assert tested.limit_w == 600.0
    tested.fault()
    assert tested.limit_w == 500.0


def test_outstanding_nonces_are_limited() -> None:
    """The oldest falls out; the newest `NONCES_MAX` still count."""
    tested = limiter()
    nonces = [tested.draw_nonce(float(second)) for second in range(NONCES_MAX + 1)]
    assert tested.accept(grant(nonces[0], 1), 33.0) is Answer.UNKNOWN_NONCE
    assert tested.accept(grant(nonces[1], 1), 33.0) is Answer.APPLIED


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["draw", "grant", "revoke", "release", "fault", "epoch", "wait"]),
        st.integers(0, 40),
        st.floats(allow_nan=True, allow_infinity=True),
        st.floats(0.0, 30.0),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(_STEPS)
def test_nothing_ever_raises_beyond_sixty_seconds_after_a_drawn_nonce(
    steps: list[tuple[str, int, float, float]],
) -> None:
    """Whatever arrives in whatever order: raised means a nonce of this boot at most 60 s old, and the contract holds
    (I1, I3)."""
    tested = limiter()
    drawn: dict[Nonce, float] = {}
    used: set[Nonce] = set()
    now = 0.0
    for what, number, wild, wait_s in steps:
        now += wait_s if what == "wait" else 0.0
        tested.wake(now)
        nonces = list(drawn)
        if what == "draw":
            drawn[tested.draw_nonce(now)] = now
        elif what == "grant" and nonces:
            nonce = nonces[number % len(nonces)]
            offered = grant(nonce, number, limit_w=wild if number % 3 == 0 else 2000.0, lease_s=60.0)
            if tested.accept(offered, now) is Answer.APPLIED:
                assert nonce not in used
                assert now < drawn[nonce] + 60.0
                used.add(nonce)
        elif what == "revoke":
            before_w = tested.limit_w
            tested.revoke(revoke(number, limit_w=wild))
            assert tested.limit_w <= before_w
        elif what == "release":
            tested.release()
        elif what == "fault":
            tested.fault()
        elif what == "epoch":
            tested.adopt(Epoch(number))
        assert NOMINAL_W <= tested.limit_w <= CONTRACT_W
        if tested.raised:
            assert any(at_s <= now < at_s + 60.0 for nonce, at_s in drawn.items() if nonce in used)
