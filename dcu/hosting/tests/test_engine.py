"""The engine: decisions, their order, leases and reservations, restart and storage failure."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcu.hosting import engine
from dcu.hosting.airtime import PACE_S, Airtime, Pace
from dcu.hosting.engine import QUARANTINE_S, HostingEngine
from dcu.hosting.exchange import (
    Input,
    LinkChanged,
    Output,
    Record,
    ReleaseArrived,
    ReportArrived,
    RequestArrived,
    SendAll,
    SendDown,
    StorageFailed,
    SubstationRead,
    Wait,
)
from dcu.hosting.grants import reserved_for_s
from dcu.hosting.questions import REQUESTS_MAX
from dcu.hosting.site_settings import SiteSettings
from dcu.ledger.store import canonical
from dcu.meters import MeterEntry
from shared.ids import BusId, Epoch, Eui48, MeterId, Nonce, Phase, RequestId
from shared.messages import (
    Acknowledgement,
    Alarm,
    DecisionId,
    Denial,
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

ONE, TWO = MeterId("client1"), MeterId("client2")
METERS = tuple(
    MeterEntry(name, Eui48(bytes((2, 0, 0, 0, 0, number))), BusId("bus"), (Phase.L1,), 1200.0, 2400.0)
    for number, name in enumerate((ONE, TWO), 1)
)
SITE = SiteSettings(nominal_voltage_v=240.0, lease_s=20.0, renew_interval_s=5.0, reading_age_s_max=6.0)
EPOCH = Epoch(3)


def reading(u_v: float) -> Reading:
    return Reading((u_v, None, None), (-5.0, None, None), (-1200.0, None, None), (0.0, None, None), 50.0, 0, 0)


class Street:
    """Drives an engine: two meters that report, a busbar, and every output it gave."""

    def __init__(self, site: SiteSettings = SITE, quarantine: bool = False) -> None:
        self.now = 100.0
        self.engine = HostingEngine(site, METERS, EPOCH, self.now)
        self.outputs: list[Output] = list(self.engine.start())
        self.u_v: dict[MeterId, float | None] = {ONE: 240.5, TWO: 241.0}
        self.busbar_v: float | None = 240.0
        self.seq = 0
        self.lease_left_s = 18.0
        self.applied: dict[MeterId, DecisionId | None] = {ONE: None, TWO: None}
        self.source: dict[MeterId, LimitSource] = {ONE: LimitSource.BOOT, TWO: LimitSource.BOOT}
        if not quarantine:
            self.measure()

    def put(self, item: Input) -> list[Output]:
        new = list(self.engine.handle(item, self.now))
        self.outputs += new
        return new

    def pass_time(self, seconds: float) -> list[Output]:
        """Let time pass, waking the engine whenever it asks."""
        until, new = self.now + seconds, []
        while (at := self.engine.wake_at) is not None and at <= until:
            self.now = max(self.now, at)
            new += self.engine.wake(self.now)
        self.now = until
        self.outputs += new
        return new

    def report(self, meter: MeterId, nonce: int = 1, epoch: Epoch = EPOCH) -> list[Output]:
        self.seq += 1
        u_v = self.u_v[meter]
        lease_left_s = self.lease_left_s if self.source[meter] is LimitSource.GRANT else 0.0
        report = Report(
            7, self.seq, Nonce(nonce), epoch, None if u_v is None else reading(u_v), 0.1, 1200.0, self.source[meter],
            RelayState.NOMINAL, lease_left_s, self.applied[meter], Alarm.NONE,
        )  # fmt: skip
        return self.put(ReportArrived(meter, report))

    def measure(self) -> list[Output]:
        new = self.put(SubstationRead(None if self.busbar_v is None else reading(self.busbar_v)))
        return new + self.report(ONE) + self.report(TWO)

    def ask(self, request_id: int = 1, nonce: int = 11, limit_w: float = 2400.0, meter: MeterId = ONE) -> list[Output]:
        """Ask and wait for the end of the window."""
        new = self.put(RequestArrived(meter, Request(RequestId(request_id), Nonce(nonce), EPOCH, limit_w, limit_w)))
        return new + self.pass_time(1.0)

    def take(self, outputs: list[Output]) -> None:
        """The meters do as they were told."""
        for output in outputs:
            if isinstance(output, SendDown) and isinstance(output.message, Grant | Revoke):
                self.applied[output.meter] = output.message.decision
                granted = isinstance(output.message, Grant)
                self.source[output.meter] = LimitSource.GRANT if granted else LimitSource.REVOKED


def sent(outputs: list[Output], kind: type) -> list[SendDown]:
    return [output for output in outputs if isinstance(output, SendDown) and isinstance(output.message, kind)]


def kinds(outputs: list[Output]) -> list[str]:
    return [output.entry["kind"] for output in outputs if isinstance(output, Record)]


def test_inside_the_band_a_request_is_granted_and_recorded_before_it_is_sent() -> None:
    """The window and the record stand before the grant; the grant answers the request's nonce with the site's lease."""
    street = Street()
    new = street.ask()
    window, record, send = new[:3]
    assert isinstance(window, Record)
    assert isinstance(record, Record)
    assert isinstance(send, SendDown)
    assert send.message == Grant(DecisionId(EPOCH, 1), RequestId(1), Nonce(11), 2400.0, 20.0)
    assert record.entry["seq"] == 1
    assert record.entry["window"] == window.entry["window"] == 1
    assert window.entry["view"]["points"][2]["u_v"] == [241.0]
    assert street.engine.book.reserved_w() == {ONE: 2400.0}


@pytest.mark.parametrize(
    ("where", "u_v", "reason", "binding"),
    [
        (TWO, 258.0, Reason.OVERVOLTAGE, TWO),
        (TWO, 227.9, Reason.UNDERVOLTAGE, TWO),
        (ONE, 252.1, Reason.OVERVOLTAGE, ONE),
        (TWO, None, Reason.READING_INVALID, TWO),
        (TWO, math.nan, Reason.READING_INVALID, TWO),
        ("busbar", 252.5, Reason.OVERVOLTAGE, "substation"),
        ("busbar", None, Reason.SUBSTATION_UNKNOWN, "substation"),
    ],
)
def test_outside_or_unknown_is_no_and_names_the_point(
    where: MeterId, u_v: float | None, reason: Reason, binding: MeterId
) -> None:
    """A neighbour, the asker itself or the busbar outside the band, NaN, or no reading: denied, with who bound it."""
    street = Street()
    if where == "busbar":
        street.busbar_v = u_v
    else:
        street.u_v[where] = u_v
    street.measure()
    (denial,) = sent(street.ask(), Denial)
    assert isinstance(denial.message, Denial)
    assert (denial.message.reason, denial.message.binding) == (reason, binding)
    assert street.engine.book.reservations == ()


@pytest.mark.parametrize("age_s", [math.nan, math.inf, -math.inf, -30.0])
def test_a_reading_of_an_impossible_age_is_none(age_s: float) -> None:
    """Nobody can tell when it was taken: invalid now and when the age that was claimed has passed, and what is recorded
    can be written."""
    street = Street()
    state = street.engine.table[TWO]
    street.put(SubstationRead(reading(240.0)))
    late = Report(
        7,
        900,
        Nonce(9),
        EPOCH,
        reading(241.0),
        age_s,
        1200.0,
        LimitSource.BOOT,
        RelayState.NOMINAL,
        0.0,
        None,
        Alarm.NONE,
    )
    street.put(ReportArrived(TWO, late))
    assert state.reading is None
    denials = sent(street.ask(), Denial)
    street.pass_time(3.0)
    street.put(SubstationRead(reading(240.0)))
    street.report(ONE)
    denials += sent(street.ask(request_id=2, nonce=12), Denial)
    told = [down.message for down in denials if isinstance(down.message, Denial)]
    assert [(denial.reason, denial.binding) for denial in told] == [(Reason.READING_INVALID, TWO)] * 2
    for output in street.outputs:
        canonical(output.entry if isinstance(output, Record) else {})


def test_a_reading_that_is_too_old_is_no() -> None:
    """Nobody reports for longer than the limit: stale, and last-known never says yes."""
    street = Street()
    street.pass_time(7.0)
    street.put(SubstationRead(reading(240.0)))
    street.report(ONE)
    (denial,) = sent(street.ask(), Denial)
    assert isinstance(denial.message, Denial)
    assert (denial.message.reason, denial.message.binding) == (Reason.READING_STALE, TWO)


@pytest.mark.parametrize(
    ("limit_w", "minimum_w", "reason"),
    [
        (2400.1, 0.0, Reason.ABOVE_CONTRACT),
        (1e9, 1200.0, Reason.ABOVE_CONTRACT),
        (1200.0, 0.0, Reason.BAD_REQUEST),
        (800.0, 800.0, Reason.BAD_REQUEST),
        (-1.0, -2.0, Reason.BAD_REQUEST),
        (2400.0, -1.0, Reason.BAD_REQUEST),
        (2000.0, 2400.0, Reason.BAD_REQUEST),
        (math.nan, 0.0, Reason.BAD_REQUEST),
        (2400.0, math.nan, Reason.BAD_REQUEST),
        (math.inf, 0.0, Reason.BAD_REQUEST),
    ],
)
def test_a_request_that_makes_no_sense_is_denied_with_its_reason(
    limit_w: float, minimum_w: float, reason: Reason
) -> None:
    """Above the contract, below nominal, negative, NaN, endless: each denied at once, recorded, nothing reserved."""
    street = Street()
    new = street.put(RequestArrived(ONE, Request(RequestId(5), Nonce(5), EPOCH, limit_w, minimum_w)))
    (denial,) = sent(new, Denial)
    assert isinstance(denial.message, Denial)
    assert denial.message.reason is reason
    assert kinds(new) == ["denial"]
    canonical(new[0].entry if isinstance(new[0], Record) else {})
    assert street.engine.book.reservations == ()


def test_ten_thousand_requests_in_a_second_cost_a_few_answers() -> None:
    """A meter that floods gets sixty questions taken, one refusal and silence; its neighbour is served as ever."""
    street = Street()
    new: list[Output] = []
    for k in range(10_000):
        new += street.put(RequestArrived(ONE, Request(RequestId(100 + k), Nonce(k), EPOCH, 2400.0, 0.0)))
    (refusal,) = sent(new, Denial)
    assert isinstance(refusal.message, Denial)
    assert refusal.message.reason is Reason.TOO_MANY_REQUESTS
    assert street.engine.flooded == 10_000 - REQUESTS_MAX - 1
    assert len(kinds(new)) == 1
    assert [grant.meter for grant in sent(street.ask(meter=TWO), Grant)] == [ONE, TWO]


def test_the_same_question_gets_the_same_answer() -> None:
    """A repeated denied request gets the same denial without another entry; a repeated granted one a fresh decision."""
    street = Street()
    street.u_v[TWO] = 258.0
    street.measure()
    (first,) = sent(street.ask(), Denial)
    again = street.ask(nonce=12)
    assert (sent(again, Denial)[0].message, kinds(again)) == (first.message, [])
    street.u_v[TWO] = 241.0
    street.measure()
    (one,) = sent(street.ask(request_id=2, nonce=21), Grant)
    assert not sent(street.ask(request_id=2, nonce=23), Grant), "its grant is still on its way"
    street.pass_time(1.0)
    street.measure()
    (two,) = sent(street.ask(request_id=2, nonce=22), Grant)
    assert isinstance(one.message, Grant)
    assert isinstance(two.message, Grant)
    assert (one.message.decision.seq, two.message.decision.seq) == (2, 3)
    assert two.message.nonce == Nonce(22)


def test_a_renewal_is_a_full_decision_in_answer_to_a_report() -> None:
    """After the renew interval a report brings a new decision with its own nonce; before it, none."""
    street = Street()
    street.take(street.ask())
    assert not sent(street.report(ONE, nonce=31), Grant)
    street.pass_time(5.0)
    street.put(SubstationRead(reading(240.0)))
    street.report(TWO)
    street.report(ONE, nonce=32)
    (renewal,) = sent(street.pass_time(1.0), Grant)
    assert isinstance(renewal.message, Grant)
    assert (renewal.message.nonce, renewal.message.decision.seq) == (Nonce(32), 2)


@pytest.mark.parametrize(("left_s", "renewed"), [(15.0, False), (14.9, True)])
def test_a_lease_that_began_with_an_old_nonce_is_renewed_by_the_report_that_confirms_it(
    left_s: float, renewed: bool
) -> None:
    """The site's lease is 20 s and its renew interval 5 s."""
    street = Street()
    street.take(street.ask())
    street.lease_left_s = left_s
    street.put(SubstationRead(reading(240.0)))
    street.report(ONE, nonce=31)
    assert len(sent(street.pass_time(1.0), Grant)) == renewed


def test_without_fresh_data_there_is_no_renewal() -> None:
    """Client 2 falls silent: the lease of client 1 runs out by itself, and the record says so."""
    street = Street()
    street.take(street.ask())
    for _ in range(8):
        street.pass_time(3.0)
        street.put(SubstationRead(reading(240.0)))
        street.report(ONE)
        assert street.now < 112.0 or not sent(street.pass_time(1.0), Grant)
    street.pass_time(10.0)
    assert "expired" in kinds(street.outputs)
    assert street.engine.book.live == ()


def test_a_violation_that_persists_revokes_and_one_that_does_not_does_not() -> None:
    """Nine seconds outside and back: nothing. Ten seconds: revoked at once, by time alone, briefly waiting for the
    disk."""
    street = Street()
    street.take(street.ask())
    for u_v, seconds in ((258.0, 3), (258.0, 3), (258.0, 3), (241.0, 3)):
        street.u_v[TWO] = u_v
        street.measure()
        assert not sent(street.pass_time(seconds), Revoke)
    street.u_v[TWO] = 258.0
    new: list[Output] = []
    for _ in range(4):
        street.measure()
        new += street.pass_time(2.6)
    (revoke,) = sent(new, Revoke)
    assert isinstance(revoke.message, Revoke)
    assert (revoke.message.reason, revoke.message.binding, revoke.wait) == (Reason.OVERVOLTAGE, TWO, Wait.BRIEFLY)
    assert kinds(new)[-1] == "revoke"


def test_capacity_stays_reserved_until_the_newest_decision_is_acknowledged() -> None:
    """After a revoke the capacity is held; a late acknowledgement of the grant frees nothing, that of the revoke
    does."""
    street = Street()
    street.take(street.ask())
    grant = street.applied[ONE]
    street.u_v[TWO] = 258.0
    while street.applied[ONE] == grant:
        street.measure()
        street.take(street.pass_time(2.6))
    revoke = street.applied[ONE]
    street.applied[ONE] = grant
    street.report(ONE)
    assert street.engine.book.reserved_w() == {ONE: 2400.0}
    street.applied[ONE] = revoke
    street.report(ONE)
    assert street.engine.book.reserved_w() == {}


def test_a_revoke_that_was_lost_is_sent_again() -> None:
    """The meter still says it lives on the grant: the same revoke goes out again, not too often."""
    street = Street()
    street.take(street.ask())
    street.u_v[TWO] = 258.0
    new: list[Output] = []
    for _ in range(5):
        street.measure()
        new += street.pass_time(2.6)
    (first,) = sent(new, Revoke)
    (second,) = sent(street.report(ONE), Revoke)
    assert second.message == first.message
    assert not sent(street.report(ONE), Revoke)


def test_a_release_frees_what_it_names() -> None:
    """A release that names the newest decision frees it; renewals end either way."""
    street = Street()
    street.take(street.ask())
    street.put(ReleaseArrived(ONE, Release(RequestId(1), EPOCH, street.applied[ONE])))
    assert street.engine.book.reserved_w() == {}
    street = Street()
    street.take(street.ask())
    street.put(ReleaseArrived(ONE, Release(RequestId(1), EPOCH, None)))
    assert street.engine.book.reserved_w() == {ONE: 2400.0}
    assert street.engine.book.live == ()


def test_after_a_start_nothing_is_granted_until_every_meter_obeys() -> None:
    """Quarantine: a request waits; the second meter's first report under the new epoch ends it."""
    street = Street(quarantine=True)
    street.put(SubstationRead(reading(240.0)))
    street.report(ONE)
    assert not sent(street.ask(), Grant)
    street.report(TWO, epoch=Epoch(2))
    assert not sent(street.pass_time(2.0), Grant)
    street.report(TWO)
    new = street.pass_time(1.0)
    assert kinds(street.outputs)[-3:] == ["quarantine ended", "window", "grant"]
    assert sent(new, Grant)


def test_a_meter_that_stays_away_costs_63_seconds() -> None:
    """Without the second meter the quarantine ends by time, longer than any lease of the past can last."""
    street = Street(quarantine=True)
    street.pass_time(QUARANTINE_S - 0.1)
    before = street.engine.quarantined
    street.pass_time(0.2)
    assert (before, street.engine.quarantined) == (True, False)
    assert reserved_for_s(60.0) < QUARANTINE_S < 64.0


def test_a_meter_that_comes_up_is_greeted_with_epoch_and_limit() -> None:
    """Link up brings the nominal limit; a report with an old epoch brings it again, at most every two seconds."""
    street = Street(quarantine=True)
    (greeting,) = sent(street.put(LinkChanged(ONE, True)), NominalLimit)
    assert greeting.message == NominalLimit(DecisionId(EPOCH, 0), 1200.0)
    assert not sent(street.report(ONE, epoch=Epoch(2)), NominalLimit)
    street.pass_time(2.0)
    assert sent(street.report(ONE, epoch=Epoch(2)), NominalLimit)


def test_a_request_of_another_epoch_decides_nothing() -> None:
    """Only a greeting answers it."""
    street = Street()
    street.put(RequestArrived(ONE, Request(RequestId(1), Nonce(1), Epoch(2), 2400.0, 2400.0)))
    assert not sent(street.pass_time(2.0), Grant)


def test_after_a_storage_error_nothing_is_granted_any_more() -> None:
    """Neither a request nor a renewal; only a restart helps."""
    street = Street()
    street.take(street.ask())
    street.put(StorageFailed("EIO"))
    street.pass_time(5.5)
    assert not sent(street.measure(), Grant)
    assert not sent(street.ask(request_id=9), Grant)


def test_reports_in_a_row_share_an_acknowledgement() -> None:
    """Eight of them, or whatever has come within fifteen seconds; nothing is acknowledged twice."""
    street = Street()
    street.pass_time(16.0)
    del street.outputs[:]
    for _ in range(8):
        street.report(ONE)
    assert [down.message for down in sent(street.outputs, Acknowledgement)] == [Acknowledgement(EPOCH, street.seq, 8)]
    street.report(ONE)
    new = street.pass_time(15.1)
    assert [down.message for down in sent(new, Acknowledgement)] == [Acknowledgement(EPOCH, street.seq, 1)]


def test_duplicates_and_backlog_are_acknowledged_at_once_and_change_nothing() -> None:
    """A report that comes again, or that waited in an outbox, never becomes the newest reading."""
    street = Street()
    report = Report(
        7,
        500,
        Nonce(1),
        EPOCH,
        reading(240.0),
        0.0,
        1200.0,
        LimitSource.BOOT,
        RelayState.NOMINAL,
        0.0,
        None,
        Alarm.NONE,
    )
    street.put(ReportArrived(ONE, report))
    backlog = replace(report, seq=3, nonce=None, reading=reading(300.0))
    for item in (report, backlog):
        (answer,) = street.put(ReportArrived(ONE, item))
        assert isinstance(answer, SendDown)
        assert answer.message == Acknowledgement(EPOCH, item.seq)
    assert street.engine.table[ONE].reading == reading(240.0)


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_reservations_cover_whatever_a_meter_can_apply(seed: int) -> None:
    """A meter counts from its nonce on a clock 500 ppm off; messages are lost, doubled and delayed at will.

    Invariant I2: at every instant at which some meter applies a grant, the DCU holds that capacity.
    """
    draw = random.Random(seed)
    street = Street()
    drift = {meter: 1 + draw.uniform(-500e-6, 500e-6) for meter in (ONE, TWO)}
    drawn: dict[int, tuple[MeterId, float]] = {}
    live: dict[MeterId, tuple[float, float]] = {}
    arriving: list[tuple[float, SendDown]] = []
    for step in range(80):
        nonce = step + 1000
        meter = draw.choice((ONE, TWO))
        drawn[nonce] = (meter, street.now)
        if draw.random() < 0.3:
            new = street.put(RequestArrived(meter, Request(RequestId(step), Nonce(nonce), EPOCH, 2400.0, 1200.0)))
        else:
            street.source[meter] = LimitSource.GRANT if meter in live else LimitSource.NOMINAL
            new = street.report(meter, nonce=nonce)
        street.put(SubstationRead(reading(240.0)))
        new += street.pass_time(draw.choice((0.1, 1.0, 3.0)))
        for message in (output for output in new if isinstance(output, SendDown)):
            arriving += [(street.now + draw.expovariate(0.3), message) for _ in range(draw.choice((0, 1, 1, 2)))]
        for at_s, message in sorted((item for item in arriving if item[0] <= street.now), key=lambda item: item[0]):
            arriving.remove((at_s, message))
            if isinstance(message.message, Grant) and message.message.nonce in drawn:
                owner, drawn_s = drawn.pop(message.message.nonce)
                ends_s = drawn_s + message.message.lease_s * drift[owner]
                if ends_s > street.now:
                    live[owner] = (ends_s, message.message.limit_w)
                    street.applied[owner] = message.message.decision
        live = {owner: grant for owner, grant in live.items() if grant[0] > street.now}
        held = street.engine.book.reserved_w()
        for owner, (_, limit_w) in live.items():
            assert held.get(owner, 0.0) >= limit_w


def test_codes_of_a_newer_meter_do_not_silence_it_and_an_unknown_alarm_is_no() -> None:
    """A source and a relay state that nobody here knows: the reading counts and the neighbour gets its grant. An alarm
    that nobody here knows: its customer gets nothing."""
    street = Street()
    told = Report(
        7, 50, Nonce(50), EPOCH, reading(241.0), 0.1, 1200.0, LimitSource(99), RelayState(77), 0.0, None, Alarm(4096),
    )  # fmt: skip
    street.put(ReportArrived(TWO, told))
    assert sent(street.ask(), Grant)
    (denial,) = sent(street.ask(request_id=2, meter=TWO), Denial)
    assert isinstance(denial.message, Denial)
    assert (denial.message.reason, denial.message.binding) == (Reason.LOCAL_ALARM, TWO)


def test_reports_that_nobody_planned_take_their_part_of_the_line() -> None:
    """Half the line may be filled, and two meters at their interval leave room for a grant. One of them reports six
    times in ten seconds, as a changing draw makes it: no grant; two quiet minutes later there is one again."""
    street = Street(replace(SITE, airtime=Airtime(report_interval_s=15.0, report_s=1.0, renewal_s=1.5, share_max=0.5)))
    for meter in (ONE, TWO):
        street.put(LinkChanged(meter, True))
    calm = street.engine.renewable(street.now)
    for _ in range(12):
        street.pass_time(1.7)
        street.report(TWO)
    (denial,) = sent(street.ask(), Denial)
    assert isinstance(denial.message, Denial)
    assert (calm, street.engine.renewable(street.now), denial.message.reason) == (1, 0, Reason.NO_AIRTIME)
    street.pass_time(2 * PACE_S)
    street.measure()
    assert sent(street.ask(request_id=2), Grant)


def test_a_report_that_confirms_a_decision_is_counted_with_its_grant() -> None:
    """Its air time is in that of the renewal; the same report again is one on its own account."""
    street = Street()
    street.take(street.ask())
    before = street.engine.reports_per_s(street.now)
    street.report(ONE)
    confirmed = street.engine.reports_per_s(street.now)
    street.report(ONE)
    assert (confirmed, street.engine.reports_per_s(street.now)) == (before, before + 1 / PACE_S)


def test_a_pace_is_the_last_whole_minutes_until_the_present_one_has_more() -> None:
    """Three in the first minute; one in the second; nothing for two minutes: nothing."""
    pace = Pace(100.0)
    for now in (100.0, 110.0, 159.9):
        pace.count(now)
    pace.count(160.0)
    assert [pace.per_s(now) * PACE_S for now in (160.0, 219.9, 220.0, 280.0)] == [3, 3, 1, 0]


def violated(street: Street) -> list[Output]:
    """Client 2 leaves the band and stays out."""
    street.u_v[TWO] = 258.0
    new: list[Output] = []
    for _ in range(4):
        street.measure()
        new += street.pass_time(2.6)
    return new


def test_many_revokes_are_also_said_to_everybody_after_their_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the messages to each, never instead; behind the last record; without anybody's name; and once."""
    monkeypatch.setattr(engine, "GROUP_REVOKES_MIN", 1)
    street = Street()
    street.take(street.ask())
    new = violated(street)
    (revoke,), (to_all,) = sent(new, Revoke), [output for output in new if isinstance(output, SendAll)]
    assert isinstance(revoke.message, Revoke)
    assert to_all.message == Revoke(DecisionId(EPOCH, 0), revoke.message.reason, None, None, 0.0)
    order = [type(output) for output in new if isinstance(output, Record | SendDown | SendAll)]
    assert order.index(SendAll) > max(at for at, kind in enumerate(order[: order.index(SendAll)]) if kind is Record)
    assert new.index(to_all) > new.index(revoke)


def test_a_report_from_before_the_grant_does_not_end_the_repetition_of_its_revoke() -> None:
    """The grant is slow, its revoke is lost, and meanwhile the meter says that it has no lease."""
    street = Street()
    granted = street.ask()
    assert sent(violated(street), Revoke)
    street.measure()
    street.take(granted)
    street.pass_time(3.0)
    (again,) = sent(street.report(ONE), Revoke)
    street.take([again])
    street.pass_time(3.0)
    assert not sent(street.report(ONE), Revoke)


def test_few_revokes_are_said_to_those_they_concern() -> None:
    """A broadcast is air on every hop and voids the nonces of all."""
    street = Street()
    street.take(street.ask())
    new = violated(street)
    assert sent(new, Revoke)
    assert not [output for output in new if isinstance(output, SendAll)]


def test_what_is_said_to_all_takes_nothing_from_a_grant_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another customer's grant stays in the book: the message to all leaves as much as it has."""
    monkeypatch.setattr(engine, "GROUP_REVOKES_MIN", 1)
    street = Street()
    street.take(street.ask())
    street.take(street.ask(request_id=2, nonce=12, meter=TWO, limit_w=2000.0))
    monkeypatch.setattr(street.engine._rule, "blames", lambda _view, _binding, meter: meter == ONE, raising=False)
    new = violated(street)
    (to_all,) = [output.message for output in new if isinstance(output, SendAll)]
    assert [output.meter for output in sent(new, Revoke)] == [ONE]
    assert to_all.limit_w == 2000.0
    street.applied[ONE] = to_all.decision  # deaf to its own revoke, and left 2000 W by this one
    street.measure()
    assert street.engine.book.reserved_w()[ONE] == 2400.0


def test_who_has_heard_a_revoke_only_as_it_was_said_to_all_is_asked_to_acknowledge_his_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """His report names the grant and shows no lease: his own revoke is said again, at its pace, and frees the capacity
    when he names it, long before the lease would have ended. Until then nothing is freed."""
    monkeypatch.setattr(engine, "GROUP_REVOKES_MIN", 1)
    street = Street()
    street.take(street.ask())
    street.report(ONE)
    (lost,) = sent(violated(street), Revoke)
    lease_end_s = max(held.until_s for held in street.engine.book.reservations)
    street.source[ONE] = LimitSource.REVOKED
    street.pass_time(2.0)
    (again,) = sent(street.report(ONE), Revoke)
    assert again.message == lost.message
    assert not sent(street.report(ONE), Revoke)
    assert street.engine.book.reserved_w() == {ONE: 2400.0}
    street.take([again])
    assert not sent(street.report(ONE), Revoke)
    assert street.engine.book.reserved_w() == {}
    assert street.now < lease_end_s - 5.0


def test_a_revoke_is_not_said_again_to_who_holds_nothing_or_asks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would void the nonce of a new question; and when the capacity is free by time nobody needs it."""
    monkeypatch.setattr(engine, "GROUP_REVOKES_MIN", 1)
    street = Street()
    street.take(street.ask())
    street.report(ONE)
    assert sent(violated(street), Revoke)
    street.source[ONE] = LimitSource.REVOKED
    street.pass_time(2.0)
    question = Request(RequestId(2), Nonce(23), EPOCH, 2400.0, 2400.0)
    street.put(RequestArrived(ONE, question))
    assert not sent(street.report(ONE), Revoke)
    assert sent(street.pass_time(1.0), Denial)
    assert sent(street.report(ONE), Revoke)
    street.pass_time(30.0)
    assert street.engine.book.reserved_w() == {}
    assert not sent(street.report(ONE), Revoke)
