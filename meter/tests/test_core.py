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
from meter.dialogue import State
from meter.outbox import QUOTA, Outbox
from meter.rules import ABOVE_LIMIT_S, OVERVOLTAGE_S, READING_S_MAX, RELAY_S_MAX
from meter.status import snapshot
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

SETTINGS = MeterSettings(MeterId("client1"), (Phase.L1,), 1200.0, 2400.0, 264.0, 15.0)
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


def revoke(seq: int, epoch: int = 3) -> Revoke:
    return Revoke(DecisionId(Epoch(epoch), seq), Reason.OVERVOLTAGE, MeterId("client2"), 258.0)


# ---- grant, renewal, end ---------------------------------------------------------------------------------------------


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
    assert "withdrawn" in snapshot(bench.core, bench.now)["why"]


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
