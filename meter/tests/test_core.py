"""The meter's core: the relay first, then the record, then the message; and nominal whenever in doubt."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from meter.core import (
    REPORT_SOON_S,
    Event,
    Forget,
    HouseholdAsked,
    HouseholdCapped,
    HouseholdReleased,
    Input,
    LinkChanged,
    MessageArrived,
    MeterCore,
    MeterSettings,
    Output,
    Persist,
    ReadingTaken,
    RelayObserved,
    SendUp,
    SetRelay,
    StoreFailed,
)
from meter.dialogue import DialogueSettings, State
from meter.limits import Limit, Limiter
from meter.outbox import QUOTA, Outbox
from meter.rules import ABOVE_LIMIT_S, FOLLOW_S, OVERVOLTAGE_S, READING_S_MAX, RELAY_S_MAX
from meter.status import snapshot
from shared.cosem import Written, decode_apdu, encode_down
from shared.em330 import Invalid, InvalidKind
from shared.ids import Epoch, MeterId, Nonce, Phase, RequestId
from shared.messages import (
    Acknowledgement,
    Alarm,
    DecisionId,
    Denial,
    Downward,
    Grant,
    LimitSource,
    NominalLimit,
    Reading,
    Reason,
    RelayState,
    Release,
    Report,
    Request,
    Revoke,
)

PROMPT = DialogueSettings(return_spread_s=0.0)
SETTINGS = MeterSettings(MeterId("client1"), (Phase.L1,), 1200.0, 2400.0, 264.0, 15.0, dialogue=PROMPT)
GOOD = Reading((240.0, None, None), (-5.0, None, None), (-1200.0, None, None), (0.0, None, None), 50.0, 10, 20)
SILENT = Invalid(InvalidKind.SILENT, "no answer")
OutputT = TypeVar("OutputT")


def exporting(p_w: float, u_v: float = 240.0) -> Reading:
    return replace(GOOD, p_w=(-p_w, None, None), u_v=(u_v, None, None))


class Bench:
    """A core, a clock, a relay that follows, an EM330 that answers each second, and everything that came out.

    Attributes:
        reading: what the EM330 shows; None when nobody polls it.
        contact: what the auxiliary contact says; None for one that follows the command.
    """

    def __init__(self, settings: MeterSettings = SETTINGS, stored: tuple[Sequence[Report], int] = ((), 0)) -> None:
        self.core = MeterCore(settings, random.Random(3), stored)
        self.now = 1000.0
        self.reading: Reading | Invalid | None = GOOD
        self.contact: RelayState | None = None
        self.commanded = RelayState.NOMINAL
        self.outputs: list[Output] = []

    def give(self, item: Input) -> list[Output]:
        return self._perform(self.core.handle(item, self.now))

    def hear(self, message: Downward) -> list[Output]:
        return self.give(MessageArrived(message))

    def _perform(self, outputs: list[Output]) -> list[Output]:
        for output in outputs:
            if isinstance(output, SetRelay):
                self.commanded = output.state
        self.outputs += outputs
        return outputs

    def relay(self) -> RelayState:
        """What was last commanded."""
        return self.commanded

    def wish(self) -> State:
        """Where the household's wish stands."""
        return self.core.dialogue.state

    def tick(self) -> None:
        self.give(RelayObserved(self.commanded if self.contact is None else self.contact))
        if self.reading is not None:
            self.give(ReadingTaken(self.reading, self.now))

    def run(self, seconds: float) -> list[Output]:
        """Let time pass: wake when asked, tick every half second; what came out."""
        start, end = len(self.outputs), self.now + seconds
        next_tick = self.now + 0.5
        while True:
            wake_at = self.core.wake_at
            due = min(next_tick, math.inf if wake_at is None else wake_at)
            if due > end:
                self.now = end
                return self.outputs[start:]
            self.now = max(self.now, due)
            if wake_at is not None and wake_at <= self.now:
                self._perform(self.core.wake(self.now))
                assert self.core.wake_at is None or self.core.wake_at > self.now, "a machine that wakes for ever"
            if self.now >= next_tick:
                next_tick += 0.5
                self.tick()

    # ---- the DCU's side ----

    def up(self, epoch: int = 3) -> None:
        self.tick()
        self.give(LinkChanged(up=True))
        self.hear(NominalLimit(DecisionId(Epoch(epoch), 0), 1200.0))
        self.run(0.1)

    def ask(self, limit_w: float = 2400.0) -> Request:
        return only(self.give(HouseholdAsked(limit_w, limit_w)), Request)

    def grant(self, to: Request | Report, seq: int = 1, lease_s: float = 60.0, limit_w: float = 2400.0) -> list[Output]:
        assert to.nonce is not None
        number = self.core.dialogue.request_id
        return self.hear(Grant(DecisionId(to.epoch, seq), number, to.nonce, limit_w, lease_s))

    def granted(self) -> Request:
        self.up()
        request = self.ask()
        self.grant(request)
        assert self.relay() is RelayState.RAISED
        return request


def sent(outputs: list[Output]) -> list[object]:
    return [output.message for output in outputs if isinstance(output, SendUp)]


def only(outputs: list[Output], kind: type[OutputT]) -> OutputT:
    (found,) = [message for message in sent(outputs) if isinstance(message, kind)]
    return found


def newest_report(outputs: list[Output]) -> Report:
    reports = [message for message in sent(outputs) if isinstance(message, Report) and message.nonce is not None]
    return reports[-1]


def events(outputs: list[Output]) -> list[str]:
    return [output.what for output in outputs if isinstance(output, Event)]


def revoke(seq: int, epoch: int = 3, limit_w: float = 0.0) -> Revoke:
    return Revoke(DecisionId(Epoch(epoch), seq), Reason.OVERVOLTAGE, MeterId("client2"), 258.0, limit_w)


# ---- grant, renewal, end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_w", "reports"), [((-1200.0, 0.0, 500.0), 0), ((-1100.0, -100.0, 500.0), 0), ((-900.0, -300.0, 500.0), 1)]
)
def test_a_draw_that_moves_from_phase_to_phase_is_told_at_once(p_w: tuple[float, float, float], reports: int) -> None:
    """The sum stays the same; a phase that has changed by more than 200 W is news, and each report says all phases."""
    settings = replace(SETTINGS, phases=(Phase.L1, Phase.L2, Phase.L3), report_interval_s=600.0, report_change_w=200.0)
    bench = Bench(settings)
    three = replace(GOOD, u_v=(240.0,) * 3, i_a=(5.0,) * 3, p_w=(-1200.0, 0.0, 500.0), q_var=(0.0,) * 3)
    bench.reading = three
    bench.up()
    bench.run(30.0)
    bench.reading = replace(three, p_w=p_w)
    told = [message for message in sent(bench.run(30.0)) if isinstance(message, Report)]
    assert len(told) == reports


def test_the_first_thing_a_meter_does_is_to_go_to_nominal() -> None:
    """Before any reading, any link and any message (I6)."""
    bench = Bench()
    assert bench.give(RelayObserved(RelayState.UNKNOWN))[0] == SetRelay(RelayState.NOMINAL)


def test_a_granted_request_raises_the_relay_and_is_acknowledged_at_once() -> None:
    """The relay moves with the grant; the report that names the decision follows within 50 ms."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    assert (request.limit_w, request.minimum_limit_w, request.epoch) == (2400.0, 2400.0, 3)
    assert SetRelay(RelayState.RAISED) in bench.grant(request, seq=4)
    report = newest_report(bench.run(REPORT_SOON_S))
    assert (report.applied, report.limit_w, report.source) == (DecisionId(Epoch(3), 4), 2400.0, LimitSource.GRANT)


def test_a_grant_ends_at_the_meter_without_any_message() -> None:
    """Silence is revocation: 60 s after the question the relay is back, and the wish is asked anew."""
    bench = Bench()
    request = bench.granted()
    asked_s = bench.now
    bench.run(59.99 - (bench.now - asked_s))
    assert bench.relay() is RelayState.RAISED
    outputs = bench.run(0.01)
    assert bench.relay() is RelayState.NOMINAL
    assert only(outputs, Request).request_id != request.request_id
    assert newest_report(bench.run(1.0)).source is LimitSource.LEASE_ENDED


def test_a_lease_that_is_over_ends_before_a_late_message_is_heard() -> None:
    """A pump that comes round late does not let a renewal revive what has ended."""
    bench = Bench()
    bench.granted()
    report = newest_report(bench.run(20.0))
    bench.now += 60.0
    assert bench.grant(report, seq=2)[0] == Event("lease ended", fields={"limit_w": 1200.0})
    assert bench.relay() is RelayState.NOMINAL


def test_a_renewal_extends_from_its_own_report() -> None:
    """The relay stays, and the end is 60 s after the report was made."""
    bench = Bench()
    bench.granted()
    bench.run(14.0)
    bench.outputs.clear()
    report = newest_report(bench.run(2.0))
    made_s = bench.core._report_at
    assert made_s is not None
    outputs = bench.grant(report, seq=2)
    assert not [output for output in outputs if isinstance(output, SetRelay)]
    assert bench.core.limiter.wake_at == pytest.approx(made_s - 15.0 + 60.0)


def test_a_grant_nobody_wishes_raises_nothing() -> None:
    """After a release its request is over, even if the grant was on its way."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    bench.give(HouseholdReleased())
    number, nonce = request.request_id, bench.core.limiter.draw_nonce(bench.now)
    outputs = bench.hear(Grant(DecisionId(Epoch(3), 1), number, nonce, 2400.0, 60.0))
    assert "grant refused" in events(outputs)
    assert bench.relay() is RelayState.NOMINAL


def test_a_grant_below_the_raised_set_point_does_not_move_the_relay() -> None:
    """The inverter knows two set-points; at the raised one it would exceed a partial grant. The household is told."""
    bench = Bench()
    bench.up()
    bench.grant(bench.ask(), limit_w=2000.0)
    assert bench.relay() is RelayState.NOMINAL
    assert "less than the inverter's raised set-point" in snapshot(bench.core, bench.now)["why"]


def test_a_raised_set_point_below_the_contract_needs_no_more_than_itself() -> None:
    """With 2000 W configured a grant of 2000 W is enough."""
    bench = Bench(replace(SETTINGS, raised_limit_w=2000.0))
    bench.up()
    bench.grant(bench.ask(2000.0), limit_w=2000.0)
    assert bench.relay() is RelayState.RAISED


# ---- revoke, denial, epoch -------------------------------------------------------------------------------------------


def test_a_revoke_lowers_at_once_and_clears_the_wish() -> None:
    """The relay falls with the message; nothing is asked again; the report names the revoke."""
    bench = Bench()
    bench.granted()
    assert SetRelay(RelayState.NOMINAL) in bench.hear(revoke(2))
    outputs = bench.run(300.0)
    assert not [message for message in sent(outputs) if isinstance(message, Request)]
    report = newest_report(outputs)
    assert (report.applied, report.source) == (DecisionId(Epoch(3), 2), LimitSource.REVOKED)
    why = snapshot(bench.core, bench.now)["why"]
    assert "withdrawn the last grant. The reason: the voltage is too high at client2 (258 V)." in why


def test_what_is_said_to_all_acknowledges_nothing() -> None:
    """It carries the number of a revoke of ours that was lost, and leaves more than that did: we obey it, but only our
    own, said again, is named as heard."""
    bench = Bench(replace(SETTINGS, raised_limit_w=1250.0))
    bench.granted()
    for limit_w, left_w in ((2400.0, 2400.0), (2000.0, 2000.0)):
        bench.give(MessageArrived(revoke(3, limit_w=limit_w), to_all=True))
        bench.run(1.0)
        assert (bench.core.limiter.applied, bench.core.limiter.limit_w) == (DecisionId(Epoch(3), 1), left_w)
    bench.hear(revoke(2, limit_w=1500.0))
    report = newest_report(bench.run(REPORT_SOON_S))
    assert (report.applied, report.limit_w) == (DecisionId(Epoch(3), 2), 1500.0)


@pytest.mark.parametrize("epoch", [Epoch(2), Epoch(4)])
def test_what_is_said_to_all_moves_no_epoch_whatever_it_says(epoch: Epoch) -> None:
    """Every neighbour has the group key: he can lower us, and must not make us deaf for the DCU that we obey."""
    bench = Bench()
    bench.granted()
    said = replace(revoke(0), decision=DecisionId(epoch, 0))
    bench.give(MessageArrived(said, to_all=True))
    assert bench.relay() is RelayState.NOMINAL
    assert bench.core.limiter.epoch == 3
    assert bench.core.limiter.applied == DecisionId(Epoch(3), 1)


def test_a_denial_ends_the_wish_and_says_where_it_bound() -> None:
    """The household reads who was in the way, and with how many volts."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    number = request.request_id
    bench.hear(Denial(DecisionId(Epoch(3), 1), RequestId(number + 1), Reason.OVERVOLTAGE, None, None))
    assert bench.wish() is State.ASKING
    bench.hear(Denial(DecisionId(Epoch(3), 1), number, Reason.OVERVOLTAGE, MeterId("client2"), 258.0))
    assert bench.wish() is State.DENIED
    why = snapshot(bench.core, bench.now)["why"]
    assert why == (
        "Your request was denied: the voltage is too high at client2 (258 V). The limit is your nominal 1200 W."
    )


def over_the_wire(message: Downward) -> Downward:
    """As the meter decodes it."""
    apdu = decode_apdu(encode_down(message, 1))
    assert isinstance(apdu, Written)
    return apdu.message


def test_a_denial_for_a_reason_of_a_newer_dcu_is_a_denial() -> None:
    """The code means nothing here: the wish ends as with any denial, the household reads the number, and may ask
    again."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    denial = Denial(DecisionId(Epoch(3), 1), request.request_id, Reason(200), MeterId("client2"), 1.5)
    outputs = bench.hear(over_the_wire(denial))
    assert bench.wish() is State.DENIED
    assert [output.fields["reason"] for output in outputs if isinstance(output, Event)] == ["UNKNOWN_200"]
    why = snapshot(bench.core, bench.now)["why"]
    assert "a reason that this meter does not know (number 200) at client2 (1.5)" in why
    bench.run(10.0)
    assert bench.ask().request_id != request.request_id


@pytest.mark.parametrize("limit_w", [0.0, 1800.0])
def test_a_revoke_for_a_reason_of_a_newer_dcu_is_obeyed(limit_w: float) -> None:
    """Lowering never depends on being understood."""
    bench = Bench()
    bench.granted()
    message = Revoke(DecisionId(Epoch(3), 2), Reason(255), None, None, limit_w)
    assert SetRelay(RelayState.NOMINAL) in bench.hear(over_the_wire(message))
    assert bench.core.limit(bench.now).limit_w == max(1200.0, limit_w)
    assert "number 255" in snapshot(bench.core, bench.now)["why"]


@pytest.mark.parametrize(
    "message",
    [
        NominalLimit(DecisionId(Epoch(4), 0), 1200.0),
        Acknowledgement(Epoch(4), 0),
        Denial(DecisionId(Epoch(4), 1), RequestId(1), Reason.OVERVOLTAGE, None, None),
        Grant(DecisionId(Epoch(4), 1), RequestId(1), Nonce(1), 2400.0, 60.0),
    ],
)
def test_any_message_of_a_newer_epoch_ends_the_old_grant(message: Downward) -> None:
    """A DCU that started again may speak first in any way; the wish is asked anew in its epoch."""
    bench = Bench()
    old = bench.granted()
    outputs = bench.hear(message)
    assert SetRelay(RelayState.NOMINAL) in outputs
    request = only(outputs, Request)
    assert (request.epoch, request.request_id != old.request_id) == (4, True)


@pytest.mark.parametrize(
    "message",
    [
        NominalLimit(DecisionId(Epoch(2), 0), 0.0),
        Acknowledgement(Epoch(2), 0),
        revoke(9, epoch=2),
        Denial(DecisionId(Epoch(2), 1), RequestId(1), Reason.OVERVOLTAGE, None, None),
    ],
)
def test_a_message_of_an_older_epoch_changes_nothing(message: Downward) -> None:
    """A predecessor's words, arriving late, are counted and not obeyed (I18)."""
    bench = Bench()
    bench.granted()
    before = snapshot(bench.core, bench.now)
    assert bench.hear(message) == []
    assert snapshot(bench.core, bench.now) == before
    assert bench.core.ignored == 1


def test_a_new_epoch_while_asking_makes_the_question_fresh() -> None:
    """The nonces are void, so it is asked at once with a new one, in the new epoch."""
    bench = Bench()
    bench.up()
    first = bench.ask()
    second = only(bench.hear(NominalLimit(DecisionId(Epoch(4), 0), 1200.0)), Request)
    assert (second.epoch, second.nonce != first.nonce) == (4, True)


def test_the_dcu_may_lower_the_nominal_limit_and_not_raise_it() -> None:
    """Up to the configured one, and nonsense is ignored."""
    bench = Bench()
    bench.up()
    for limit_w, expected_w in ((800.0, 800.0), (5000.0, 1200.0), (math.nan, 1200.0), (-1.0, 1200.0)):
        bench.hear(NominalLimit(DecisionId(Epoch(3), 0), limit_w))
        assert bench.core.limiter.limit_w == expected_w


# ---- a part taken back -----------------------------------------------------------------------------------------------


def test_a_partial_revoke_lowers_at_once_and_leaves_the_rest() -> None:
    """The limit falls, the relay with it if the inverter would exceed it, the report follows; nothing is asked anew and
    the next renewal goes on from there."""
    bench = Bench()
    bench.granted()
    asked_s = bench.now
    outputs = bench.hear(revoke(2, limit_w=1800.0))
    assert SetRelay(RelayState.NOMINAL) in outputs
    assert events(outputs) == ["lowered"]
    outputs = bench.run(REPORT_SOON_S)
    report = newest_report(outputs)
    assert (report.limit_w, report.source, report.applied) == (1800.0, LimitSource.GRANT, DecisionId(Epoch(3), 2))
    assert bench.wish() is State.GRANTED
    assert bench.core.limiter.wake_at == pytest.approx(asked_s + 60.0)
    assert (
        "taken a part of it back: the voltage is too high at client2 (258 V)" in snapshot(bench.core, bench.now)["why"]
    )
    bench.grant(report, seq=3, limit_w=1800.0)
    assert "taken a part of it back" in snapshot(bench.core, bench.now)["why"]
    report = newest_report(bench.run(16.0))
    bench.grant(report, seq=4, limit_w=2400.0)
    assert bench.relay() is RelayState.RAISED
    assert "taken" not in snapshot(bench.core, bench.now)["why"]
    assert not [message for message in sent(bench.run(30.0)) if isinstance(message, Request)]


def test_a_partial_revoke_keeps_the_relay_where_the_inverter_stays_within_it() -> None:
    """A raised set-point of 1500 W fits into 1800 W."""
    bench = Bench(replace(SETTINGS, raised_limit_w=1500.0))
    bench.granted()
    assert SetRelay(RelayState.NOMINAL) not in bench.hear(revoke(2, limit_w=1800.0))
    assert bench.core.limit(bench.now) == Limit(Limiter.GRANT, 1800.0)


def test_a_nonce_drawn_before_a_partial_revoke_raises_nothing_after_it() -> None:
    """A renewal that was on its way is void."""
    bench = Bench(replace(SETTINGS, raised_limit_w=1500.0))
    bench.granted()
    report = newest_report(bench.run(16.0))
    bench.hear(revoke(2, limit_w=1800.0))
    assert "grant refused" in events(bench.grant(report, seq=3))
    assert bench.core.limit(bench.now).limit_w == 1800.0


def test_a_partial_revoke_while_asking_makes_the_question_fresh() -> None:
    """Its nonce is void; the next one leaves at once under the same number."""
    bench = Bench()
    bench.up()
    first = bench.ask()
    second = only(bench.hear(revoke(1, limit_w=1800.0)), Request)
    assert (second.request_id, second.nonce != first.nonce) == (first.request_id, True)


def test_every_reason_has_words() -> None:
    """The household never reads a bare no."""
    bench = Bench()
    bench.granted()
    for number, reason in enumerate(reason for reason in Reason if reason is not Reason.GRANTED):
        bench.hear(Revoke(DecisionId(Epoch(3), 2 + number), reason, None, None, 1800.0))
        assert "says no" not in snapshot(bench.core, bench.now)["why"]


# ---- from one limit to another ---------------------------------------------------------------------------------------


def changing() -> tuple[Bench, Request, Request]:
    """A bench with a live grant of 2000 W whose household asks for 2400 W; both questions."""
    bench = Bench(replace(SETTINGS, raised_limit_w=2000.0))
    bench.up()
    old = bench.ask(2000.0)
    bench.grant(old, limit_w=2000.0)
    bench.run(20.0)
    return bench, old, bench.ask(2400.0)


def answer(to: Request, nonce: Nonce | None, seq: int, limit_w: float) -> Grant:
    assert nonce is not None
    return Grant(DecisionId(Epoch(3), seq), to.request_id, nonce, limit_w, 60.0)


def test_the_old_grant_is_renewed_while_another_limit_is_asked_for() -> None:
    """Two minutes without an answer to the new question: the relay never moves."""
    bench, old, new = changing()
    assert "until then the old grant stays" in snapshot(bench.core, bench.now)["why"]
    moves = len([output for output in bench.outputs if isinstance(output, SetRelay)])
    for seq in range(2, 8):
        report = newest_report(bench.run(16.0))
        bench.hear(answer(old, report.nonce, seq, 2000.0))
        assert bench.wish() is State.CHANGING
    assert len([output for output in bench.outputs if isinstance(output, SetRelay)]) == moves
    question = [message for message in sent(bench.run(45.0)) if isinstance(message, Request)][-1]
    assert question.request_id == new.request_id
    report = newest_report(bench.outputs)
    bench.hear(answer(old, report.nonce, 8, 2000.0))
    bench.hear(answer(new, bench.core.limiter.draw_nonce(bench.now), 9, 2400.0))
    assert (bench.core.limit(bench.now).limit_w, bench.wish()) == (2400.0, State.GRANTED)
    assert len([output for output in bench.outputs if isinstance(output, SetRelay)]) == moves


def test_a_better_renewal_of_the_old_grant_is_no_answer_to_the_new_question() -> None:
    """The DCU gives 2200 W to the old number: applied, and the question for 2400 W stays open."""
    bench, old, new = changing()
    report = newest_report(bench.run(16.0))
    bench.hear(answer(old, report.nonce, 2, 2200.0))
    assert (bench.core.limit(bench.now).limit_w, bench.wish()) == (2200.0, State.CHANGING)
    assert bench.core.dialogue.request_id == new.request_id


def test_after_the_hand_over_the_old_question_is_answered_no_more() -> None:
    """Not with an old nonce, and not with a fresh one."""
    bench, old, new = changing()
    bench.hear(answer(new, new.nonce, 2, 2400.0))
    late = answer(old, bench.core.limiter.draw_nonce(bench.now), 3, 2000.0)
    assert "grant refused" in events(bench.hear(late))
    assert bench.core.limit(bench.now).limit_w == 2400.0


def test_the_limiter_judges_a_renewal_during_a_change_as_ever() -> None:
    """Decision numbers rise, nonces count once."""
    bench, old, _ = changing()
    report = newest_report(bench.run(16.0))
    for late in (answer(old, report.nonce, 1, 2000.0), answer(old, old.nonce, 5, 2000.0)):
        before = bench.core.limiter.wake_at
        assert "grant refused" in events(bench.hear(late))
        assert bench.core.limiter.wake_at == before


def test_a_denial_of_the_new_limit_leaves_the_old_grant() -> None:
    """It goes on being renewed, the household is told both, and after its end by silence it is asked anew."""
    bench, old, new = changing()
    denied = Denial(DecisionId(Epoch(3), 2), new.request_id, Reason.CURRENT, MeterId("client2"), 63.0)
    bench.hear(denied)
    assert (bench.wish(), bench.relay()) == (State.GRANTED, RelayState.RAISED)
    report = newest_report(bench.run(16.0))
    bench.hear(answer(old, report.nonce, 3, 2000.0))
    why = snapshot(bench.core, bench.now)["why"]
    assert "has granted 2000 W" in why
    assert "denied: a line or the transformer is fully used at client2 (63 A). The old grant stays." in why
    again, *_ = [message for message in sent(bench.run(60.0)) if isinstance(message, Request)]
    assert (again.limit_w, again.request_id != old.request_id) == (2000.0, True)


def test_a_release_during_a_change_gives_back_both() -> None:
    """Nominal first; a grant of either question raises nothing afterwards."""
    bench, old, new = changing()
    assert SetRelay(RelayState.NOMINAL) in bench.give(HouseholdReleased())
    for seq, question in enumerate((old, new), 2):
        bench.hear(answer(question, bench.core.limiter.draw_nonce(bench.now), seq, 2400.0))
    assert bench.relay() is RelayState.NOMINAL


# ---- after an outage -------------------------------------------------------------------------------------------------


def test_after_an_outage_a_standing_wish_waits_its_random_while() -> None:
    """The relay was back at the end of the lease, long before; a fresh wish does not wait."""
    bench = Bench(replace(SETTINGS, dialogue=DialogueSettings(return_spread_s=30.0)))
    bench.granted()
    bench.give(LinkChanged(up=False))
    bench.run(300.0)
    assert bench.relay() is RelayState.NOMINAL
    assert not [message for message in sent(bench.give(LinkChanged(up=True))) if isinstance(message, Request)]
    back_s = bench.now
    while not [message for message in sent(bench.run(0.5)) if isinstance(message, Request)]:
        assert bench.now <= back_s + 31.0
    assert bench.now > back_s + 0.5
    bench.give(HouseholdReleased())
    assert bench.ask(2400.0).limit_w == 2400.0


def test_a_dcu_that_started_again_is_not_asked_by_everybody_at_once() -> None:
    """Ten meters with grants hear the new epoch in the same instant."""
    asked_s = []
    for seed in range(10):
        bench = Bench(replace(SETTINGS, dialogue=DialogueSettings(return_spread_s=30.0)))
        bench.core.dialogue._draw = random.Random(seed)
        bench.granted()
        assert SetRelay(RelayState.NOMINAL) in bench.hear(NominalLimit(DecisionId(Epoch(4), 0), 1200.0))
        began_s = bench.now
        while not [message for message in sent(bench.run(0.5)) if isinstance(message, Request)]:
            assert bench.now <= began_s + 31.0
        asked_s.append(bench.now - began_s)
    assert len({int(second) for second in asked_s}) >= 7


# ---- limits of others ------------------------------------------------------------------------------------------------


def test_a_household_cap_below_nominal_does_what_it_says() -> None:
    """The limit in force, in the next report and in words; lifting it raises nothing beyond what it had lowered."""
    bench = Bench()
    bench.up()
    bench.reading = exporting(700.0)
    outputs = bench.give(HouseholdCapped(800.0)) + bench.run(REPORT_SOON_S)
    assert newest_report(outputs).limit_w == 800.0
    shown = snapshot(bench.core, bench.now)
    assert (shown["limit_w"], shown["limited_by"], shown["limits"]["household"]) == (800.0, "household", 800.0)
    assert "You have capped it at 800 W yourself." in shown["why"]
    bench.run(30.0)
    assert bench.core.rules.alarms is Alarm.NONE
    bench.give(HouseholdCapped(None))
    assert bench.core.limit(bench.now) == Limit(Limiter.NOMINAL, 1200.0)


def test_export_above_the_household_cap_is_above_the_limit() -> None:
    """Below nominal the relay cannot help; whoever caps and exports all the same gets the alarm, as with any limit."""
    bench = Bench()
    bench.up()
    bench.reading = exporting(901.0)
    bench.give(HouseholdCapped(800.0))
    bench.run(FOLLOW_S + ABOVE_LIMIT_S + 1.0)  # a cap falls like any limit: a plant gets 2 s to follow; I8 allows 10 s
    assert bench.core.rules.alarms == Alarm.EXPORT_ABOVE_LIMIT


def test_a_cap_below_the_raised_set_point_takes_the_relay_back() -> None:
    """A grant of 2400 W lives, 2000 W are allowed by the household: the inverter would exceed them."""
    bench = Bench()
    bench.granted()
    assert SetRelay(RelayState.NOMINAL) in bench.give(HouseholdCapped(2000.0))
    assert bench.core.limit(bench.now) == Limit(Limiter.HOUSEHOLD, 2000.0)
    assert SetRelay(RelayState.RAISED) in bench.give(HouseholdCapped(None))


def test_a_cap_never_raises() -> None:
    """Ten megawatts of cap change nothing, and a cap without a number is refused."""
    bench = Bench()
    bench.up()
    bench.give(HouseholdCapped(1e7))
    for wild in (math.nan, math.inf, -1.0):
        assert events(bench.give(HouseholdCapped(wild))) == ["household refused"]
    assert bench.core.limit(bench.now) == Limit(Limiter.NOMINAL, 1200.0)
    assert bench.core.household_limit_w == 1e7


def test_an_installation_limit_holds_at_any_time() -> None:
    """Below nominal from boot on; no grant goes beyond it, and more cannot even be asked."""
    bench = Bench(replace(SETTINGS, installation_limit_w=1000.0))
    bench.up()
    assert bench.core.limit(bench.now) == Limit(Limiter.INSTALLATION, 1000.0)
    bench = Bench(replace(SETTINGS, installation_limit_w=2000.0))
    bench.up()
    objection = bench.core.objection(HouseholdAsked(2400.0, 2400.0), bench.now)
    assert objection is not None
    assert objection.expected == "more than 1200 and at most 2000 W (installation)"
    bench.grant(bench.ask(2000.0), limit_w=2400.0)
    assert bench.core.limit(bench.now) == Limit(Limiter.INSTALLATION, 2000.0)
    assert bench.relay() is RelayState.NOMINAL


# ---- the household ---------------------------------------------------------------------------------------------------


def test_a_release_lowers_first_and_says_so_then() -> None:
    """The relay moves before the message leaves, and the message names what was applied."""
    bench = Bench()
    request = bench.granted()
    outputs = bench.give(HouseholdReleased())
    kinds = [type(output) for output in outputs]
    assert kinds.index(SetRelay) < kinds.index(SendUp)
    release = only(outputs, Release)
    assert release == Release(request.request_id, Epoch(3), DecisionId(Epoch(3), 1))


def test_a_release_without_wish_and_grant_is_nothing() -> None:
    """Repeating it is safe."""
    bench = Bench()
    bench.granted()
    bench.give(HouseholdReleased())
    assert bench.give(HouseholdReleased()) == []


def test_a_release_also_gives_back_a_grant_whose_successor_was_denied() -> None:
    """A larger wish replaced the first and was denied; the first grant still lives, and can be given back."""
    bench = Bench(replace(SETTINGS, raised_limit_w=2000.0))
    bench.up()
    bench.grant(bench.ask(2000.0), limit_w=2000.0)
    larger = bench.ask(2400.0)
    bench.hear(Denial(DecisionId(Epoch(3), 2), larger.request_id, Reason.OVERVOLTAGE, None, None))
    assert bench.relay() is RelayState.RAISED
    assert SetRelay(RelayState.NOMINAL) in bench.give(HouseholdReleased())


@pytest.mark.parametrize(
    ("wish", "where"),
    [
        (HouseholdAsked(2400.1, 0.0), "limit_w"),
        (HouseholdAsked(1200.0, 0.0), "limit_w"),
        (HouseholdAsked(math.nan, 0.0), "limit_w"),
        (HouseholdAsked(math.inf, 0.0), "limit_w"),
        (HouseholdAsked(-1.0, 0.0), "limit_w"),
        (HouseholdAsked(2000.0, 2000.1), "minimum_limit_w"),
        (HouseholdAsked(2000.0, math.nan), "minimum_limit_w"),
        (HouseholdAsked(2000.0, -1.0), "minimum_limit_w"),
    ],
)
def test_a_wish_that_makes_no_sense_is_not_asked(wish: HouseholdAsked, where: str) -> None:
    """It is named, and nothing leaves the house."""
    bench = Bench()
    bench.up()
    objection = bench.core.objection(wish, bench.now)
    assert objection is not None
    assert objection.where == where
    assert events(bench.give(wish)) == ["household refused"]
    assert bench.wish() is State.IDLE


def test_a_wish_waits_for_the_link() -> None:
    """Asked in the dark, it leaves when the DCU is there."""
    bench = Bench()
    bench.tick()
    assert sent(bench.give(HouseholdAsked(2400.0, 2400.0))) == []
    assert "no link" in snapshot(bench.core, bench.now)["why"]
    bench.run(30.0)
    assert only(bench.give(LinkChanged(up=True)), Request).limit_w == 2400.0


def test_an_unanswered_wish_is_given_up_and_says_so() -> None:
    """Repeated with fresh nonces under one number, then told to the household."""
    bench = Bench()
    bench.up()
    first = bench.ask()
    repeats = [message for message in sent(bench.run(600.0)) if isinstance(message, Request)]
    assert {request.request_id for request in repeats} == {first.request_id}
    assert len({request.nonce for request in repeats} | {first.nonce}) == len(repeats) + 1 == 8
    assert "did not answer" in snapshot(bench.core, bench.now)["why"]


# ---- local rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [SILENT, None])
def test_three_seconds_without_a_valid_reading_end_a_grant(last: Invalid | None) -> None:
    """Whether the EM330 says so or nobody asks it any more."""
    bench = Bench()
    bench.granted()
    bench.run(2.0)
    seen_s = bench.core.rules.read_s
    assert seen_s is not None
    bench.reading = last
    bench.run(seen_s + READING_S_MAX - 0.01 - bench.now)
    assert bench.relay() is RelayState.RAISED
    outputs = bench.run(0.01)
    assert bench.relay() is RelayState.NOMINAL
    assert "fell back to nominal" in events(outputs)
    report = newest_report(bench.run(1.0))
    assert report.source is LimitSource.LOCAL_FAULT
    assert "no valid reading for 3 s" in snapshot(bench.core, bench.now)["why"]


def test_a_point_that_is_unknown_is_reported_as_unknown() -> None:
    """Never the last reading, and the alarm says which kind; the next valid reading clears it."""
    bench = Bench()
    bench.up()
    bench.reading = SILENT
    report = newest_report(bench.run(16.0))
    assert (report.reading, report.alarms) == (None, Alarm.METER_SILENT)
    bench.reading = GOOD
    outputs = bench.run(16.0)
    assert (newest_report(outputs).reading, newest_report(outputs).alarms) == (GOOD, Alarm.NONE)
    assert events(outputs) == ["reading again"]


def test_an_alarm_is_told_once_not_at_every_reading() -> None:
    """Transitions are logged, not states."""
    bench = Bench()
    bench.up()
    bench.reading = SILENT
    assert events(bench.run(60.0)).count("no reading") == 1


@pytest.mark.parametrize("stuck", [RelayState.NOMINAL, RelayState.UNKNOWN])
def test_a_relay_that_does_not_follow_is_taken_back_for_good(stuck: RelayState) -> None:
    """One second after the command: nominal, a latched alarm, and no grant until a restart."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    bench.contact = stuck
    bench.grant(request)
    bench.run(RELAY_S_MAX)
    assert bench.relay() is RelayState.NOMINAL
    assert Alarm.RELAY_DISAGREES in bench.core.rules.alarms
    bench.contact = None
    bench.run(60.0)
    objection = bench.core.objection(HouseholdAsked(2400.0, 2400.0), bench.now)
    assert objection is not None
    assert objection.seen == "relay disagrees"


def test_a_contact_that_bounces_is_no_alarm() -> None:
    """Half a second of disagreement is within the second a relay has, even long after the command."""
    bench = Bench()
    bench.granted()
    bench.run(10.0)
    bench.give(RelayObserved(RelayState.NOMINAL))
    bench.run(5.0)
    assert bench.core.rules.alarms is Alarm.NONE
    assert bench.relay() is RelayState.RAISED


def test_a_contact_that_welds_is_an_alarm_at_any_time() -> None:
    """Commanded nominal, read back raised: the alarm comes although nothing was commanded lately."""
    bench = Bench()
    bench.up()
    bench.run(100.0)
    bench.contact = RelayState.RAISED
    bench.run(0.5 + RELAY_S_MAX)
    assert Alarm.RELAY_DISAGREES in bench.core.rules.alarms


def test_export_above_the_limit_is_a_latched_alarm() -> None:
    """5 % or 100 W, whichever is more, for five seconds (I8)."""
    bench = Bench()
    bench.granted()
    bench.reading = exporting(2520.0)
    bench.run(60.0 - 1.0)
    assert bench.core.rules.alarms is Alarm.NONE
    bench = Bench()
    bench.granted()
    bench.reading = exporting(2521.0)
    bench.run(ABOVE_LIMIT_S + 1.0)
    assert bench.core.rules.alarms == Alarm.EXPORT_ABOVE_LIMIT
    assert bench.relay() is RelayState.NOMINAL
    bench.reading = GOOD
    assert newest_report(bench.run(60.0)).alarms == Alarm.EXPORT_ABOVE_LIMIT


def test_the_alarm_of_export_watches_the_nominal_limit_too() -> None:
    """Without any grant 1301 W are too many at 1200 W."""
    bench = Bench()
    bench.up()
    bench.reading = exporting(1301.0)
    bench.run(ABOVE_LIMIT_S + 1.0)
    assert bench.core.rules.alarms == Alarm.EXPORT_ABOVE_LIMIT


def test_an_inverter_gets_its_time_to_follow_the_relay() -> None:
    """It still exports the raised power for four seconds after a revoke, and that is no alarm."""
    bench = Bench()
    bench.granted()
    bench.reading = exporting(2400.0)
    bench.run(20.0)
    bench.hear(revoke(2))
    bench.run(4.0)
    bench.reading = GOOD
    bench.run(20.0)
    assert bench.core.rules.alarms is Alarm.NONE


def test_a_limit_that_falls_again_and_again_gives_a_plant_its_time_each_time() -> None:
    """A tenth less every two seconds; the plant follows each time, a second after its meter has been read: no alarm,
    though the export read is always above the limit of that moment."""
    bench = Bench(replace(SETTINGS, raised_limit_w=1250.0))
    bench.granted()
    limit_w = 2400.0
    for seq in range(2, 8):
        bench.reading = exporting(limit_w)
        limit_w *= 0.9
        bench.hear(revoke(seq, limit_w=limit_w))
        bench.run(2.0)
    assert bench.core.rules.alarms is Alarm.NONE


def test_a_plant_that_follows_no_limit_is_an_alarm_within_ten_seconds_however_often_it_falls() -> None:
    """The same limits, and always the first export (I8)."""
    bench = Bench(replace(SETTINGS, raised_limit_w=1250.0))
    bench.granted()
    bench.reading = exporting(2400.0)
    limit_w = 2400.0
    for seq in range(2, 7):
        limit_w *= 0.9
        bench.hear(revoke(seq, limit_w=limit_w))
        bench.run(2.0)
    assert bench.core.rules.alarms == Alarm.EXPORT_ABOVE_LIMIT


def alarm_after_s(falls: Sequence[tuple[float, float]], poll_s: float, phase_s: float) -> float:
    """A plant that follows nothing, limits that fall [s, W], and polls of a phase: when the alarm came, after the first
    fall [s]."""
    bench = Bench(replace(SETTINGS, raised_limit_w=1250.0))
    bench.granted()
    bench.reading, start_s, waiting, number = None, bench.now, list(falls), 2
    poll_at_s = start_s - phase_s
    while Alarm.EXPORT_ABOVE_LIMIT not in bench.core.rules.alarms and bench.now < start_s + 20.0:
        if bench.now >= poll_at_s:
            bench.give(ReadingTaken(exporting(2400.0), poll_at_s))
            poll_at_s += poll_s
        while waiting and bench.now >= start_s + waiting[0][0]:
            bench.hear(revoke(number, limit_w=waiting.pop(0)[1]))
            number += 1
        bench.run(0.01)
    return bench.now - start_s


@pytest.mark.parametrize("phase_s", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("poll_s", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("falls", [[(0.0, 0.0)], [(0.0, 1300.0)]])
def test_an_export_above_a_limit_that_fell_is_an_alarm_in_eight_seconds(
    falls: list[tuple[float, float]], poll_s: float, phase_s: float
) -> None:
    """At each poll that may be configured, however it lies to the fall, with the relay moving or not: two seconds for
    the plant to follow, a poll, and five (I8 allows ten)."""
    alarm_s = alarm_after_s(falls, poll_s, phase_s * poll_s)
    assert FOLLOW_S + ABOVE_LIMIT_S <= alarm_s <= FOLLOW_S + poll_s + ABOVE_LIMIT_S + 0.05


def test_a_relay_that_moves_does_not_restart_the_count_of_an_export_above_the_limit() -> None:
    """Above a lowered limit for four seconds when the rest is taken back: the alarm does not begin anew."""
    assert alarm_after_s([(0.0, 1300.0), (6.5, 0.0)], 1.0, 0.5) <= 8.05


def test_a_reading_begun_before_a_limit_fell_is_judged_by_the_limit_of_its_time() -> None:
    """It took a second and a half to come; the plant had followed by the next one."""
    bench = Bench()
    bench.granted()
    bench.reading = None
    bench.hear(revoke(2))
    bench.run(2.5)
    bench.give(ReadingTaken(exporting(2400.0), bench.now - 1.5))
    assert bench.core.rules._above_since is None


def test_a_limit_that_rises_in_time_ends_the_count_of_an_export_above_it() -> None:
    """Four seconds above the household's cap, then no cap: no reading says otherwise before the five are over."""
    bench = Bench()
    bench.up()
    bench.reading = exporting(1200.0)
    bench.give(HouseholdCapped(800.0))
    bench.run(FOLLOW_S + ABOVE_LIMIT_S - 1.0)
    bench.reading = None
    bench.give(HouseholdCapped(None))
    bench.run(READING_S_MAX)
    assert bench.core.rules.alarms is Alarm.NONE


def test_one_reading_above_the_limit_is_no_alarm_while_the_next_one_does_not_come() -> None:
    """A load has switched off, and the EM330 answers six seconds late: who is still above then has been for long."""
    bench = Bench()
    bench.up()
    bench.reading = None
    bench.give(ReadingTaken(exporting(bench.core.limit(bench.now).limit_w + 500.0), bench.now))
    for _ in range(60):
        bench.run(0.1)
        assert bench.core.wake_at is None or bench.core.wake_at > bench.now, "nothing waits for what has passed"
    assert not bench.core.rules.alarms
    bench.give(ReadingTaken(exporting(bench.core.limit(bench.now).limit_w + 500.0), bench.now))
    assert bench.core.rules.alarms == Alarm.EXPORT_ABOVE_LIMIT


def test_limits_that_come_and_go_fill_no_memory() -> None:
    """A household's cap, two thousand times in two seconds; the highest limit still counts for two seconds."""
    bench = Bench()
    bench.up()
    bench.reading = exporting(1200.0)
    for k in range(2000):
        bench.give(HouseholdCapped(None if k % 2 else 800.0 - k / 10))
        bench.run(0.001)
    assert len(bench.core.rules._limits_before) <= 2
    bench.give(HouseholdCapped(500.0))
    bench.run(FOLLOW_S - 0.1)
    assert bench.core.rules._above_since is None
    bench.run(1.1)
    assert bench.core.rules._above_since is not None


def test_gaps_in_the_readings_do_not_excuse_an_export_above_the_limit() -> None:
    """Every other reading invalid: the alarm comes all the same."""
    bench = Bench()
    bench.up()
    for _ in range(5):
        bench.reading = exporting(1500.0)
        bench.run(1.0)
        bench.reading = SILENT
        bench.run(1.0)
    assert Alarm.EXPORT_ABOVE_LIMIT in bench.core.rules.alarms


@pytest.mark.parametrize("above", ["export", "voltage"])
def test_a_rule_counts_from_its_threshold(above: str) -> None:
    """Exactly the limit and its tolerance are allowed, and the tenth of a volt below the threshold; not a bit more."""
    for quantum, acts in ((0.0, above == "voltage"), (-0.1, False), (0.1, True)):
        bench = Bench(replace(SETTINGS, overvoltage_v=252.0))
        bench.granted()
        volts = 252.0 + quantum if above == "voltage" else 240.0
        bench.reading = exporting(2520.0 + quantum if above == "export" else 2400.0, u_v=volts)
        bench.run(OVERVOLTAGE_S + 1.0)
        assert (bench.relay() is RelayState.NOMINAL) is acts, (above, quantum)


def test_overvoltage_ends_a_grant_at_its_second_without_a_further_reading() -> None:
    """Ten seconds after the first reading at the threshold, by the clock alone; the last reading is not 3 s old."""
    bench = Bench()
    bench.granted()
    bench.give(RelayObserved(RelayState.RAISED))
    began_s = bench.now
    while bench.now < began_s + 9.0:
        bench.give(ReadingTaken(exporting(2400.0, u_v=264.0), bench.now))
        bench.now += 1.1
    assert bench.core.rules.wake_at(raised=True) == began_s + OVERVOLTAGE_S
    assert bench.core.rules.wake_at(raised=False) is None
    bench.now = began_s + OVERVOLTAGE_S
    assert SetRelay(RelayState.NOMINAL) in bench.core.wake(bench.now)


def test_while_the_voltage_is_too_high_it_is_named_as_the_limit() -> None:
    """Although nominal is as low: it is what stands in the way."""
    bench = Bench()
    bench.up()
    bench.reading = exporting(0.0, u_v=264.0)
    bench.run(OVERVOLTAGE_S + 1.0)
    assert bench.core.limit(bench.now) == Limit(Limiter.OVERVOLTAGE, 1200.0)
    bench.reading = GOOD
    bench.run(1.0)
    assert bench.core.limit(bench.now) == Limit(Limiter.NOMINAL, 1200.0)


def test_gaps_do_not_excuse_an_overvoltage() -> None:
    """Every other second without a valid reading: the ten seconds run on."""
    bench = Bench()
    bench.granted()
    for _ in range(6):
        bench.reading = exporting(2400.0, u_v=264.0)
        bench.run(1.0)
        bench.reading = SILENT
        bench.run(1.0)
    assert bench.relay() is RelayState.NOMINAL
    assert "voltage at 264 V or above" in bench.core.fell_back


@pytest.mark.parametrize(
    "wild",
    [
        exporting(math.nan),
        exporting(-math.inf),
        exporting(1200.0, u_v=math.nan),
        exporting(1200.0, u_v=math.inf),
        replace(GOOD, u_v=(None, None, None)),
        replace(GOOD, p_w=(None, None, None)),
        replace(GOOD, p_w=(-1200.0, math.nan, None)),
    ],
)
def test_a_reading_without_a_number_is_no_reading(wild: Reading) -> None:
    """NaN would pass every comparison; it is implausible, unknown to the DCU, and ends a grant after three seconds."""
    bench = Bench()
    bench.granted()
    bench.reading = wild
    bench.run(READING_S_MAX + 1.0)
    assert bench.relay() is RelayState.NOMINAL
    report = newest_report(bench.outputs)
    assert (report.reading, report.alarms) == (None, Alarm.METER_IMPLAUSIBLE)


@pytest.mark.parametrize(
    ("reading", "contact", "alarm", "within_s"),
    [
        (exporting(2600.0), None, Alarm.EXPORT_ABOVE_LIMIT, 10.0),
        (exporting(2400.0, u_v=264.0), None, Alarm.NONE, 11.0),
        (SILENT, None, Alarm.METER_SILENT, READING_S_MAX + 1.0),
        (None, None, Alarm.NONE, READING_S_MAX + 1.0),
        (GOOD, RelayState.NOMINAL, Alarm.RELAY_DISAGREES, RELAY_S_MAX + 1.0),
    ],
)
def test_every_local_rule_acts_without_a_dcu(
    reading: Reading | Invalid | None, contact: RelayState | None, alarm: Alarm, within_s: float
) -> None:
    """The line dies with the grant still live: each rule takes the relay back in its own time, long before the lease
    ends (I8, I15)."""
    bench = Bench()
    bench.granted()
    bench.run(2.0)
    bench.give(LinkChanged(up=False))
    bench.reading, bench.contact = reading, contact
    bench.run(within_s)
    assert bench.relay() is RelayState.NOMINAL
    assert bench.core.rules.alarms == alarm
    assert bench.core.limiter.source is LimitSource.LOCAL_FAULT
    assert bench.core.objection(HouseholdAsked(2400.0, 2400.0), bench.now) is not None


def test_a_meter_that_never_met_a_dcu_keeps_its_rules() -> None:
    """Never linked, never granted: export above nominal and a welded contact are alarms all the same."""
    bench = Bench()
    bench.reading = exporting(1301.0)
    bench.contact = RelayState.RAISED
    bench.run(10.0)
    assert bench.core.rules.alarms == Alarm.EXPORT_ABOVE_LIMIT | Alarm.RELAY_DISAGREES


def test_local_overvoltage_ends_a_grant_after_ten_seconds() -> None:
    """Without the DCU (I15); a dip below the threshold starts the ten seconds anew."""
    bench = Bench()
    bench.granted()
    bench.reading = exporting(2400.0, u_v=264.0)
    bench.run(OVERVOLTAGE_S - 1.0)
    bench.reading = exporting(2400.0, u_v=263.9)
    bench.run(1.0)
    bench.reading = exporting(2400.0, u_v=264.0)
    bench.run(OVERVOLTAGE_S - 1.0)
    assert bench.relay() is RelayState.RAISED
    outputs = bench.run(2.0)
    assert bench.relay() is RelayState.NOMINAL
    assert "fell back to nominal" in events(outputs)
    assert bench.wish() is State.IDLE


def test_while_the_voltage_is_too_high_nothing_is_raised() -> None:
    """A grant that arrives then is refused, and the household cannot even ask."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    bench.reading = exporting(0.0, u_v=265.0)
    bench.run(OVERVOLTAGE_S + 1.0)
    assert "grant refused" in events(bench.grant(request))
    assert bench.relay() is RelayState.NOMINAL


def test_a_grant_without_a_valid_reading_is_refused() -> None:
    """Unknown is no, here as at the DCU."""
    bench = Bench()
    bench.up()
    request = bench.ask()
    bench.give(ReadingTaken(SILENT, bench.now))
    assert "grant refused" in events(bench.grant(request))
    assert bench.core.limiter.limit_w == 1200.0


# ---- records and reports ---------------------------------------------------------------------------------------------


def test_a_report_is_recorded_before_it_is_sent() -> None:
    """In every batch of outputs the record stands before the message, with its nonce gone from the backlog."""
    bench = Bench()
    bench.up()
    outputs = bench.run(120.0)
    recorded: set[int] = set()
    for output in outputs:
        if isinstance(output, Persist):
            recorded.add(output.report.seq)
        if isinstance(output, SendUp) and isinstance(output.message, Report) and output.message.nonce is not None:
            assert output.message.seq in recorded
    assert len(recorded) == 8


def test_numbers_rise_over_restarts() -> None:
    """The next report takes the number after everything that was ever stored."""
    first = Bench()
    first.up()
    kept = [output.report for output in first.outputs if isinstance(output, Persist)]
    second = Bench(stored=(kept[:1], kept[-1].seq + 1))
    second.up()
    numbers = [output.report.seq for output in second.outputs if isinstance(output, Persist)]
    assert min(numbers) == kept[-1].seq + 1
    assert second.core._boot_id == first.core._boot_id  # the same seed; in the field it is the system's randomness


def test_the_backlog_follows_live_reports_one_by_one_and_settles() -> None:
    """What was written in the dark leaves slowly: behind a live report, one each time, until acknowledged."""
    bench = Bench()
    bench.tick()
    bench.run(150.0)
    waiting = len(bench.core.outbox)
    assert waiting == 11
    bench.up()
    backlog = 0
    for _ in range(15):
        reports = [message for message in sent(bench.run(15.0)) if isinstance(message, Report)]
        assert [report.nonce is not None for report in reports] in ([True], [True, False]), "live first, then one more"
        backlog += len(reports) - 1
        for report in reports:
            bench.hear(Acknowledgement(Epoch(3), report.seq))
    assert backlog >= waiting
    for report in [message for message in sent(bench.outputs) if isinstance(message, Report)]:
        bench.hear(Acknowledgement(Epoch(3), report.seq))
    assert len(bench.core.outbox) == 0


def test_an_acknowledged_report_is_forgotten_once() -> None:
    """A second acknowledgement of it is nothing."""
    bench = Bench()
    bench.up()
    seq = newest_report(bench.outputs).seq
    assert bench.hear(Acknowledgement(Epoch(3), seq)) == [Forget((seq,))]
    assert bench.hear(Acknowledgement(Epoch(3), seq)) == []


def test_reports_without_a_link_carry_no_nonce() -> None:
    """Nobody can answer them, so nothing is kept open for them."""
    bench = Bench()
    bench.tick()
    bench.run(60.0)
    assert all(output.report.nonce is None for output in bench.outputs if isinstance(output, Persist))
    assert bench.core.limiter._nonces == {}


def test_a_full_outbox_drops_the_oldest_says_so_and_still_raises() -> None:
    """The alarm concerns evidence, not safety."""
    bench = Bench()
    bench.core.outbox = Outbox((), quota=3)
    bench.up()
    outputs = bench.run(61.0)
    assert [output for output in outputs if isinstance(output, Forget)]
    assert events(outputs).count("outbox full") == 1
    assert newest_report(bench.run(15.0)).alarms == Alarm.OUTBOX_FULL
    bench.grant(bench.ask())
    assert bench.relay() is RelayState.RAISED
    bench.run(1.0)
    for seq in range(100):
        bench.hear(Acknowledgement(Epoch(3), seq))
    assert newest_report(bench.run(31.0)).alarms == Alarm.NONE
    assert QUOTA >= 72 * 3600 / 30


def test_after_a_storage_error_nothing_is_raised_and_the_meter_goes_on() -> None:
    """Nominal at once, the store is not touched again, reports still go out and carry the alarm (I11)."""
    bench = Bench()
    bench.granted()
    outputs = bench.give(StoreFailed("disk full")) + bench.run(60.0)
    assert bench.relay() is RelayState.NOMINAL
    assert not [output for output in outputs if isinstance(output, Persist)]
    assert newest_report(outputs).alarms == Alarm.STORAGE_FAILED
    assert events(bench.give(HouseholdAsked(2400.0, 2400.0))) == ["household refused"]
    assert bench.give(StoreFailed("disk full")) == []


def test_waking_early_is_harmless() -> None:
    """Whenever it is woken, nothing happens before its time."""
    bench = Bench()
    bench.granted()
    bench.run(1.0)
    for _ in range(5):
        wake_at = bench.core.wake_at
        assert wake_at is not None
        early = (bench.now + wake_at) / 2
        if early < wake_at:
            assert bench.core.wake(early) == []
        bench.run(1.0)


def test_the_status_is_plain_json_in_every_state() -> None:
    """What the home door shows can always be shown."""
    import json  # noqa: PLC0415 - only here

    bench = Bench()
    fresh = MeterCore(SETTINGS, random.Random(1))
    assert "since this meter started" in snapshot(fresh, 0.0)["why"]
    bench.granted()
    shown = json.loads(json.dumps(snapshot(bench.core, bench.now), allow_nan=False))
    assert shown["limited_by"] == "grant"
    assert shown["why"] == "The substation has granted 2400 W; unless renewed it ends in 60 s."
    assert shown["decision"] == "3.1"
    assert shown["reading"]["u_v"] == [240.0, None, None]
    bench.give(HouseholdReleased())
    assert "given back" in snapshot(bench.core, bench.now)["why"]
