"""New group keys reach every meter that is not revoked, a few at a time, and nobody is deaf meanwhile."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from dlms_cosem.enumerations import ActionResultStatus

from dcu import gate as dcu_gate
from dcu.handover import BOTH_S_MAX, OFFER_S, OFFER_S_MAX, OFFERS_MAX, Handover
from dcu.keys import GroupKeys
from dcu.tests.test_gate import FIRST, ONE, REVOKE, SECOND, TWO, Street
from shared.cosem import decode_apdu
from shared.cosem_security import ActionAnswered, KeysSent
from shared.ids import MeterId
from shared.protection import PairKeys, protect_group, unwrap
from shared.session import BLOCK, End, InvocationCounter, Own, Refusal, Session

DONE = int(ActionResultStatus.SUCCESS)
OLD, NEW, NEWER = (PairKeys(bytes([number]) * 16, bytes([number + 8]) * 16) for number in range(3))
METERS = [MeterId(f"meter-{number}") for number in range(20)]


def test_keys_that_were_never_changed_are_offered_too() -> None:
    """To the file they may be the first, to a meter not: an older file was restored. Nothing is said twice for that."""
    handover = Handover(GroupKeys(1, OLD))
    assert handover.due([FIRST], 0.0) == [FIRST]
    assert handover.speaking([FIRST], 0.0) == (OLD,)
    handover.answered(FIRST, handover.invoke_id, DONE)
    assert handover.due([FIRST], 1e6) == []


def test_a_few_meters_are_offered_keys_at_a_time_and_each_its_turn() -> None:
    """Twenty meters, a look every ten seconds: each is asked once before anybody is asked again, and who answers is
    not asked again at all."""
    handover = Handover(GroupKeys(2, NEW, OLD))
    rounds = [handover.due(METERS, 10.0 * turn) for turn in range(5)]
    assert all(len(some) == OFFERS_MAX for some in rounds)
    assert sorted(meter for some in rounds for meter in some) == sorted(METERS)
    for meter in METERS[1:]:
        handover.answered(meter, handover.invoke_id, DONE)
    later = [handover.due(METERS, 50.0 + 10.0 * turn) for turn in range(30)]
    assert {meter for some in later for meter in some} == {METERS[0]}
    assert handover.summary(METERS) == {"generation": 2, "waiting": 1, "waiting_for": [METERS[0]]}


def test_who_never_answers_is_asked_less_and_less_often() -> None:
    """A meter of an earlier version: at pauses that double up to an hour, for ever."""
    handover = Handover(GroupKeys(2, NEW, OLD))
    asked = [10.0 * turn for turn in range(5000) if handover.due([FIRST], 10.0 * turn)]
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[:3] == [OFFER_S, 2 * OFFER_S, 4 * OFFER_S]
    assert max(pauses) == pauses[-1] == OFFER_S_MAX


@pytest.mark.parametrize("answer", [(2, DONE), (0, DONE), (3, 1), (3, 2)])
def test_only_success_for_these_very_keys_counts(answer: tuple[int, int]) -> None:
    """Not the answer to an offer before them, not a pair's, not a disk that refused."""
    handover = Handover(GroupKeys(2, NEW, OLD))
    assert handover.invoke_id == 3
    handover.answered(FIRST, *answer)
    assert handover.speaking([FIRST], 0.0) == (NEW, OLD)
    handover.answered(FIRST, 3, DONE)
    assert handover.speaking([FIRST], 0.0) == (NEW,)


def test_who_has_taken_earlier_keys_is_offered_the_newest_at_once() -> None:
    """An answer to an offer before this one, late, or of a meter that an old offer has set back: it counts as one that
    has them not, and is asked at the next look; the answer about a pair says nothing of the group's."""
    handover = Handover(GroupKeys(3, NEWER, NEW))
    assert handover.due([FIRST], 0.0) == [FIRST]
    handover.answered(FIRST, 4, DONE)
    assert handover.speaking([FIRST], 1.0) == (NEWER,)
    handover.answered(FIRST, 0, DONE)
    handover.answered(FIRST, 3, 1)
    assert handover.due([FIRST], 5.0) == []
    handover.answered(FIRST, 3, DONE)
    assert handover.speaking([FIRST], 5.0) == (NEWER, NEW)
    assert handover.due([FIRST], 5.0) == [FIRST]
    handover.answered(FIRST, 4, DONE)
    assert handover.speaking([FIRST], 6.0) == (NEWER,)


def test_who_always_answers_for_earlier_keys_keeps_nobody_from_the_newest() -> None:
    """Four meters in the wrong hands: each of the others has its turn, and again without an answer."""
    handover = Handover(GroupKeys(3, NEWER, NEW))
    offered: Counter[MeterId] = Counter()
    for turn in range(60):
        for meter in handover.due(METERS, 10.0 * turn):
            offered[meter] += 1
            if meter in METERS[:4]:
                handover.answered(meter, 3, DONE)
    assert min(offered[meter] for meter in METERS) >= 4


def test_the_keys_before_are_used_until_all_that_are_there_have_the_new_ones_or_the_deadline() -> None:
    """A meter that is away counts when it comes, and again when its session begins anew; after the deadline nobody
    does."""
    handover = Handover(GroupKeys(2, NEW, OLD))
    handover.due([], 100.0)
    handover.answered(FIRST, handover.invoke_id, DONE)
    assert handover.speaking([FIRST], 200.0) == (NEW,)
    assert handover.speaking([FIRST, SECOND], 200.0) == (NEW, OLD)
    handover.began(FIRST)
    assert handover.speaking([FIRST], 200.0) == (NEW, OLD)
    assert handover.speaking([FIRST], 100.0 + BOTH_S_MAX - 1.0) == (NEW, OLD)
    assert handover.speaking([FIRST], 100.0 + BOTH_S_MAX) == (NEW,)
    assert handover.due([FIRST], 200.0 + BOTH_S_MAX) == [FIRST]


@pytest.fixture
def street() -> Street:
    """Both meters have met the DCU."""
    met = Street()
    for peer in (ONE, TWO):
        met.meet(peer)
    return met


def test_new_group_keys_travel_wrapped_under_the_meters_own_master_key(street: Street) -> None:
    """Two keys of the group's numbers, in the meter's session; neither stands in the message, and no other meter's
    master key opens them."""
    ring = street.ring.regrouped(street.draw.randbytes)
    assert street.gate.renew(ring, street.now) == []
    offers = [output for output in street.gate.tick(street.now) if isinstance(output, dcu_gate.Transmit)]
    assert [offer.peer for offer in offers] == [ONE, TWO]
    for offer, mine, other in ((offers[0], FIRST, SECOND), (offers[1], SECOND, FIRST)):
        plain = street.meters[offer.peer].receive(offer.data, street.now).plain
        assert plain is not None
        sent = decode_apdu(plain)
        assert isinstance(sent, KeysSent)
        group = ring.group.newest
        assert group.encryption not in plain
        found = {number: unwrap(ring.exported(mine).master, key) for number, key in sent.keys}
        assert found == {1: group.encryption, 128: group.authentication}
        assert {unwrap(ring.exported(other).master, key) for _, key in sent.keys} == {None}


def offers(street: Street) -> dict[MeterId, KeysSent]:
    """What each meter is offered at the next look."""
    street.now += OFFER_S_MAX
    found: dict[MeterId, KeysSent] = {}
    for output in street.gate.tick(street.now):
        if isinstance(output, dcu_gate.Transmit):
            plain = street.meters[output.peer].receive(output.data, street.now).plain
            sent = None if plain is None else decode_apdu(plain)
            assert isinstance(sent, KeysSent)
            found[FIRST if output.peer == ONE else SECOND] = sent
    return found


def test_an_answer_from_before_an_older_file_was_restored_speaks_of_other_keys(street: Street) -> None:
    """Group keys are rotated, an older file is put back, and they are rotated again: the same number of rotations, and
    other keys. Who answers the first offer late has those, and goes on being offered the newest; the newest file put
    back after all begins anew, too."""
    draw = street.draw.randbytes
    lost, older = street.ring.regrouped(draw), street.ring
    street.gate.renew(lost, street.now)
    late = {meter: sent.invoke_id for meter, sent in offers(street).items()}
    for ring in (older, older.regrouped(draw), lost):
        street.gate.renew(ring, street.now)
        for meter, number in late.items():
            street.gate.answered(meter, ActionAnswered(number, DONE))
        assert street.gate.summary()["group"]["waiting"] == 2
        newest = offers(street)
        assert newest.keys() == {FIRST, SECOND}
        late = late if ring is older else {meter: sent.invoke_id for meter, sent in newest.items()}
    for meter, number in late.items():
        street.gate.answered(meter, ActionAnswered(number, DONE))
    assert street.gate.summary()["group"]["waiting"] == 0


def test_a_meter_that_is_not_configured_is_not_waited_for() -> None:
    """It has keys and a session, and what it says is not heard: no group keys for it, and nothing is said twice."""
    street = Street()
    own = Own.start(End.DCU, InvocationCounter(0, BLOCK), street.draw)
    street.gate = dcu_gate.Gate(street.ring, own, street.draw, lambda *_: None, configured={FIRST})
    for peer in (ONE, TWO):
        street.meet(peer)
    street.gate.renew(street.ring.regrouped(street.draw.randbytes), street.now)
    offers = [output for output in street.gate.tick(street.now) if isinstance(output, dcu_gate.Transmit)]
    assert [offer.peer for offer in offers] == [ONE]
    assert len(street.gate.protect_all(REVOKE, street.now)) == 2
    street.gate.answered(FIRST, ActionAnswered(3, DONE))
    assert len(street.gate.protect_all(REVOKE, street.now)) == 1
    assert street.gate.summary()["group"]["waiting"] == 0


def test_a_window_spoilt_under_the_old_keys_is_good_again_under_the_new_ones() -> None:
    """Who knows the old ones has made a meter deaf with the highest counter; after the change it hears, and neither the
    old keys nor what the DCU had said under the new ones before opens anything."""
    draw = random.Random(5)
    dcu = Own.start(End.DCU, InvocationCounter(0, BLOCK), draw)
    pair = PairKeys(bytes(16), bytes(16))
    meter = Session(Own.start(End.METER, InvocationCounter(0, BLOCK), draw), pair, draw, OLD)
    far = Session(dcu, pair, draw)
    frames = list(meter.hello(0.0))
    ends = [far, meter]
    for turn in range(3):
        frames = [answer for data in frames for answer in ends[turn % 2].receive(data, 0.0).answers]
    assert meter.open
    spoil = protect_group(REVOKE, OLD, dcu.title, 0xFFFFFFFF)
    assert meter.receive(spoil, 0.0).group
    recorded = protect_group(REVOKE, NEW, dcu.title, dcu.counter.take() or 0)
    carried = far.protect(REVOKE)
    assert meter.receive(carried or b"", 0.0).plain == REVOKE
    meter.regroup(NEW)
    assert meter.receive(recorded, 0.0).refusal is Refusal.REPLAYED
    assert meter.receive(spoil, 0.0).refusal is Refusal.NOT_AUTHENTIC
    fresh = protect_group(REVOKE, NEW, dcu.title, dcu.counter.take() or 0)
    assert meter.receive(fresh, 0.0).plain == REVOKE
    assert meter.receive(fresh, 0.0).refusal is Refusal.REPLAYED
