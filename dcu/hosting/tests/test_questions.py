"""Questions on their way to an answer: what a lowering does to one that waits."""

from __future__ import annotations

from dcu.hosting.questions import Pending, Questions
from dcu.meters import MeterEntry
from shared.ids import BusId, Epoch, Eui48, MeterId, Nonce, Phase, RequestId
from shared.messages import Request

NAME = MeterId("client1")
METER = MeterEntry(NAME, Eui48(bytes(6)), BusId("bus"), (Phase.L1,), 1200.0, 2400.0)


def request(nonce: int, number: int = 1) -> Request:
    return Request(RequestId(number), Nonce(nonce), Epoch(1), 2000.0, 0.0)


def test_a_question_whose_nonce_is_void_is_not_answered_until_it_is_asked_again_and_keeps_its_place_in_time() -> None:
    """Its meter was lowered while it waited: a grant for the old nonce would be refused there."""
    questions = Questions()
    assert questions.take(METER, request(7), None, 10.0) is None
    questions.voided(NAME)
    assert questions.pending == {}
    assert questions.overdue(1000.0) == []
    assert questions.take(METER, request(8), None, 12.0) is None
    assert questions.pending == {NAME: Pending(request(8), 10.0)}


def test_another_question_counts_from_its_own_time() -> None:
    questions = Questions()
    questions.take(METER, request(7), None, 10.0)
    questions.voided(NAME)
    questions.take(METER, request(8, number=2), None, 12.0)
    assert questions.pending == {NAME: Pending(request(8, number=2), 12.0)}
    questions.voided(NAME)
    questions.withdrawn(NAME, RequestId(2))
    questions.take(METER, request(9, number=2), None, 20.0)
    assert questions.pending[NAME].since_s == 20.0, "what was withdrawn is forgotten"
