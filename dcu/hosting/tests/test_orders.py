"""Orders of the utility: recorded ahead of what they do, and no way to get more than the configuration gives."""

from __future__ import annotations

from typing import Any

import pytest

from dcu.hosting.decide import Band
from dcu.hosting.engine import QUARANTINE_S, HostingEngine
from dcu.hosting.exchange import (
    LinkChanged,
    Output,
    Record,
    ReportArrived,
    RequestArrived,
    SendAll,
    SendDown,
    SubstationRead,
)
from dcu.hosting.orders import AllRevoked, BandWidth, Change, NominalLimits, Nothing, Ordered, Sharing
from dcu.hosting.present import PresentVoltages
from dcu.hosting.site_settings import SiteSettings
from dcu.meters import MeterEntry
from shared.ids import BusId, Epoch, Eui48, MeterId, Nonce, Phase, RequestId
from shared.messages import (
    Alarm,
    DecisionId,
    Denial,
    Grant,
    LimitSource,
    NominalLimit,
    Reading,
    Reason,
    RelayState,
    Report,
    Request,
    Revoke,
)

EPOCH = Epoch(3)
M1, M2 = MeterId("m1"), MeterId("m2")


def entry(name: MeterId, number: int) -> MeterEntry:
    return MeterEntry(name, Eui48(bytes([2, 0, 0, 0, 0, number])), BusId(f"b{number}"), (Phase.L1,), 1200.0, 2400.0)


def reading(u_v: float = 235.0) -> Reading:
    return Reading((u_v, None, None), (-5.0, None, None), (-1200.0, None, None), (0.0, None, None), 50.0, 0, 0)


class Street:
    """An engine out of quarantine, two meters that report when they are told to."""

    def __init__(self, meters: int = 2) -> None:
        self.meters = [MeterId(f"m{n}") for n in range(1, meters + 1)]
        entries = tuple(entry(meter, n) for n, meter in enumerate(self.meters, 1))
        self.engine = HostingEngine(SiteSettings(), entries, EPOCH, 0.0)
        self.engine.start()
        self.now, self.seq, self.nonce = QUARANTINE_S + 1.0, 0, 100
        for meter in self.meters:
            self.engine.handle(LinkChanged(meter, True), 1.0)
        self.engine.wake(self.now)
        self.look()

    def look(self) -> None:
        self.engine.handle(SubstationRead(reading()), self.now)
        for meter in self.meters:
            self.report(meter)

    def report(self, meter: MeterId, limit_w: float = 1200.0, lease_left_s: float = 0.0) -> list[Output]:
        self.seq += 1
        self.nonce += 1
        report = Report(
            1, self.seq, Nonce(self.nonce), EPOCH, reading(), 0.0, limit_w, LimitSource.NOMINAL, RelayState.NOMINAL,
            lease_left_s, None, Alarm.NONE,
        )  # fmt: skip
        return list(self.engine.handle(ReportArrived(meter, report), self.now))

    def ask(self, meter: MeterId, request_id: int = 7) -> list[Output]:
        self.nonce += 1
        request = Request(RequestId(request_id), Nonce(self.nonce), EPOCH, 2400.0, 2400.0)
        outputs = list(self.engine.handle(RequestArrived(meter, request), self.now))
        self.now += 2.0
        return outputs + list(self.engine.wake(self.now))

    def order(self, change: Change, **about: Any) -> list[Output]:
        return list(self.engine.handle(Ordered(change, "command", about), self.now))


@pytest.fixture
def street() -> Street:
    return Street()


def sent(outputs: list[Output], kind: type) -> list[Any]:
    return [o.message for o in outputs if isinstance(o, SendDown) and isinstance(o.message, kind)]


def kinds(outputs: list[Output]) -> list[str]:
    return [o.entry["kind"] for o in outputs if isinstance(o, Record)]


def test_revoking_all_ends_every_grant_with_the_record_of_the_order_first(street: Street) -> None:
    """Both live on a grant, one has just asked for another."""
    for meter in (M1, M2):
        assert sent(street.ask(meter), Grant)
    outputs = street.order(AllRevoked(0.0), number=5)
    assert isinstance(outputs[0], Record)
    assert outputs[0].entry == {"kind": "command", "epoch": EPOCH, "seq": None, "number": 5}
    assert kinds(outputs) == ["command", "revoke", "revoke"]
    assert [revoke.reason for revoke in sent(outputs, Revoke)] == [Reason.OPERATOR] * 2
    assert street.engine.book.live == ()
    assert sent(street.ask(M1, 8), Grant)  # without a hold life goes on


def test_many_grants_are_revoked_for_the_whole_street_as_well() -> None:
    """One message that every meter hears, beside those that each gets."""
    street = Street(6)
    for meter in street.meters:
        assert sent(street.ask(meter), Grant)
    outputs = street.order(AllRevoked(0.0))
    to_all = [output.message for output in outputs if isinstance(output, SendAll)]
    assert [(message.reason, message.binding, message.limit_w) for message in to_all] == [(Reason.OPERATOR, None, 0.0)]
    assert len(sent(outputs, Revoke)) == 6


def test_a_hold_denies_whoever_asks_until_it_is_over(street: Street) -> None:
    """And whoever had asked before; a longer hold is not shortened by a later, shorter one."""
    request = Request(RequestId(7), Nonce(1), EPOCH, 2400.0, 2400.0)
    street.engine.handle(RequestArrived(M1, request), street.now)
    outputs = street.order(AllRevoked(30.0))
    assert [denial.reason for denial in sent(outputs, Denial)] == [Reason.OPERATOR]
    street.order(AllRevoked(1.0))
    assert street.engine.held(street.now + 29.0)
    asked = street.ask(M2)
    assert sent(asked, Grant) == []
    assert [denial.reason for denial in sent(asked, Denial)] == [Reason.OPERATOR]
    street.now += 30.0
    street.look()
    assert not street.engine.held(street.now)
    assert sent(street.ask(M2, 9), Grant)


def test_a_lowered_nominal_limit_is_told_until_the_meter_shows_it(street: Street) -> None:
    """The first telling is lost, the second too; then the report says 600 W."""
    outputs = street.order(NominalLimits({M1: 600.0}))
    assert [m.limit_w for m in sent(outputs, NominalLimit)] == [600.0]
    told = 0
    for _ in range(6):
        street.now += 5.0
        told += len(sent(street.report(M1, limit_w=1200.0), NominalLimit))
    assert told == 6
    street.now += 5.0
    assert sent(street.report(M1, limit_w=600.0), NominalLimit) == []
    assert sent(street.report(M2), NominalLimit) == []


def test_a_nominal_limit_that_rises_again_is_told_a_few_times(street: Street) -> None:
    """Nothing in a report shows whether it arrived: a household may cap itself."""
    street.order(NominalLimits({M1: 600.0}))
    for _ in range(5):
        street.now += 5.0
        street.report(M1, limit_w=600.0)
    street.order(NominalLimits({M1: 1200.0}))
    told = []
    for _ in range(5):
        street.now += 5.0
        told += sent(street.report(M1, limit_w=600.0), NominalLimit)
    assert [m.limit_w for m in told] == [1200.0, 1200.0]


def test_a_nominal_limit_never_exceeds_the_contract(street: Street) -> None:
    """Judged before; an engine that is told otherwise stops."""
    with pytest.raises(AssertionError):
        street.order(NominalLimits({M1: 2401.0}))
    with pytest.raises(AssertionError):
        street.order(NominalLimits({M1: -1.0}))
    assert street.engine.table[M1].entry.nominal_limit_w == 1200.0


def test_a_new_nominal_limit_is_what_questions_are_judged_by(street: Street) -> None:
    """1000 W is no increase at 1200 W nominal; at 600 W it is."""
    request = Request(RequestId(9), Nonce(9), EPOCH, 1000.0, 1000.0)
    assert sent(list(street.engine.handle(RequestArrived(M1, request), street.now)), Denial)
    street.order(NominalLimits({M1: 600.0}))
    request = Request(RequestId(10), Nonce(10), EPOCH, 1000.0, 1000.0)
    street.engine.handle(RequestArrived(M1, request), street.now)
    assert sent(list(street.engine.wake(street.now + 2.0)), Grant)


def test_a_narrower_band_decides_from_the_next_window_on(street: Street) -> None:
    """235 V is inside 5 % and outside 2 %."""
    assert sent(street.ask(M1), Grant)
    street.order(BandWidth(2.0))
    assert (street.engine.band.low_v, street.engine.band.high_v) == pytest.approx((225.4, 234.6))
    assert sent(street.ask(M2), Denial)


def test_orders_about_something_else_are_recorded_and_change_nothing(street: Street) -> None:
    """A refused command; a policy where nothing is shared."""
    before = (street.engine.band, street.engine.rule.facts())
    assert kinds(street.order(Nothing(), refused="expired")) == ["command"]
    assert kinds(street.order(Sharing("max_total"))) == ["command"]
    assert (street.engine.band, street.engine.rule.facts()) == before


def test_the_band_of_a_rule_keeps_its_centre() -> None:
    """Also where the nominal voltage is not 230 V."""
    rule = PresentVoltages(Band.around(120.0, 5.0))
    rule.adjust(band_pct=10.0)
    assert rule.facts()["band_v"] == [108.0, 132.0]


def test_decision_numbers_are_ours(street: Street) -> None:
    """Revokes by order take their numbers like all decisions, without a gap."""
    first = sent(street.ask(M1), Grant)[0].decision
    second = sent(street.order(AllRevoked(0.0)), Revoke)[0].decision
    assert second == DecisionId(EPOCH, first.seq + 1)


def test_a_limit_that_a_grant_explains_is_no_reason_to_tell_the_nominal_one(street: Street) -> None:
    """2400 W with a lease that runs; the same without one is."""
    street.ask(M1)
    street.now += 5.0
    assert sent(street.report(M1, limit_w=2400.0, lease_left_s=50.0), NominalLimit) == []
    street.now += 5.0
    assert sent(street.report(M1, limit_w=2400.0), NominalLimit) != []


def test_a_narrower_band_revokes_what_lasts_outside_it(street: Street) -> None:
    """235 V for eleven seconds, with a band of 2 %: the grant that lives ends."""
    street.ask(M1)
    street.order(BandWidth(2.0))
    found: list[Output] = []
    for _ in range(12):
        street.now += 1.0
        street.engine.handle(SubstationRead(reading()), street.now)
        found += street.report(M1, limit_w=2400.0, lease_left_s=50.0)
        found += street.engine.wake(street.now)
    assert [revoke.reason for revoke in sent(found, Revoke)] == [Reason.OVERVOLTAGE]
