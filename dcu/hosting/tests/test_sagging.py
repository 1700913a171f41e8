"""A phase that sags hides none that is lifted: a broken neutral shows both at once, and grants must end as fast as if
only the lifted one were seen."""

from __future__ import annotations

import numpy as np
import pytest

from dcu.hosting.decide import Band, Binding, outside
from dcu.hosting.engine import HostingEngine
from dcu.hosting.estimate import Estimate
from dcu.hosting.exchange import Output, ReportArrived, RequestArrived, SendDown, SubstationRead
from dcu.hosting.headroom import Situation
from dcu.hosting.learned import SETS_MIN
from dcu.hosting.learned_rule import Learned
from dcu.hosting.measurements import Point, Quality
from dcu.hosting.present import PresentVoltages
from dcu.hosting.site_settings import SiteSettings
from dcu.hosting.tests.neighbourhood import _reading
from dcu.hosting.view import GridView, Taught
from dcu.hosting.window import GridSettings
from dcu.meters import MeterEntry
from shared.ids import BusId, Epoch, Eui48, MeterId, Nonce, Phase, RequestId
from shared.messages import Alarm, DecisionId, Grant, LimitSource, PerPhase, Reason, RelayState, Report, Request, Revoke

ENTRIES = tuple(
    MeterEntry(MeterId(f"m{k}"), Eui48(k.to_bytes(6, "big")), BusId(f"b{k}"), tuple(Phase), 500.0, 9000.0)
    for k in range(4)
)
BAND = Band.around(230.0, 5.0)
SPREAD_AT_S = 25


def taught() -> Learned:
    """A rule that has seen every phase of every customer on a line of 0.2 ohm of its own."""
    rule, random = Learned(ENTRIES, GridSettings()), np.random.default_rng(1)
    for k in range(SETS_MIN + 30):
        p_w = random.uniform(-500.0, 1500.0, 12)
        u_v = np.round(115 + np.sqrt(115**2 - 0.2 * p_w), 1)
        rule.pupil.teach(Taught(60.0 * k - 1e6, np.full(3, 230.0), Situation(p_w, 0 * p_w, u_v, 0 * p_w)))
    return rule


class Street:
    """Four customers of three phases at an engine, a report of each every second; meters obey at once."""

    def __init__(self, rule: Learned | PresentVoltages) -> None:
        self.engine = HostingEngine(SiteSettings(), ENTRIES, Epoch(1), 0.0, rule)
        self.engine.start()
        self.seq, self.granted, self.revoked_s = 0, dict[MeterId, DecisionId](), list[float]()

    def second(self, now: float, volts: PerPhase) -> None:
        self.take(self.engine.handle(SubstationRead(_reading((231.0,) * 3, (-1200.0,) * 3)), now), now)
        for entry in ENTRIES:
            self.seq += 1
            decision = self.granted.get(entry.id)
            report = Report(
                1, self.seq, Nonce(self.seq), Epoch(1), _reading(volts, (-300.0,) * 3), 0.0, 500.0, LimitSource.NOMINAL,
                RelayState.NOMINAL, 0.0 if decision is None else 50.0, decision, Alarm.NONE,
            )  # fmt: skip
            self.take(self.engine.handle(ReportArrived(entry.id, report), now), now)
        if now == 20.0:
            request = Request(RequestId(7), Nonce(10**6), Epoch(1), 2000.0, 0.0)
            self.take(self.engine.handle(RequestArrived(ENTRIES[0].id, request), now), now)
        self.take(self.engine.wake(now), now)

    def take(self, outputs: list[Output], now: float) -> None:
        for output in outputs:
            if isinstance(output, SendDown) and isinstance(output.message, Grant):
                self.granted[output.meter] = output.message.decision
            if isinstance(output, SendDown) and isinstance(output.message, Revoke):
                assert self.granted.pop(output.meter, None) is not None or self.revoked_s
                self.revoked_s.append(now)


@pytest.mark.parametrize("volts", [(230.0, 260.0, 230.0), (190.0, 260.0, 230.0), (260.0, 190.0, 230.0)])
@pytest.mark.parametrize("rule", ["present", "learned"])
def test_a_lifted_phase_ends_grants_whatever_the_others_do(rule: str, volts: PerPhase) -> None:
    street = Street(taught() if rule == "learned" else PresentVoltages(BAND))
    for second in range(SPREAD_AT_S):
        street.second(float(second), (230.0,) * 3)
    assert list(street.granted) == [ENTRIES[0].id]
    for second in range(SPREAD_AT_S, SPREAD_AT_S + 15):
        street.second(float(second), volts)
    assert street.revoked_s
    assert SPREAD_AT_S + 10 <= street.revoked_s[0] <= SPREAD_AT_S + 12


def test_every_phase_outside_is_named_the_lifted_ones_first() -> None:
    point = Point(MeterId("m1"), Quality.GOOD, (190.0, 260.0, 230.0), 0.0, 0.0)
    unknown = Point(MeterId("m2"), Quality.STALE, (260.0,), 0.0, 90.0)
    assert outside((unknown, point), BAND) == (
        Binding(Reason.OVERVOLTAGE, MeterId("m1"), 260.0, 1),
        Binding(Reason.UNDERVOLTAGE, MeterId("m1"), 190.0, 0),
    )


def test_an_export_is_blamed_for_the_phase_that_it_pushes_and_the_ledger_keeps_which() -> None:
    """Lines of their own: a customer lifts himself and nobody else; what is known is asked, what is not is blamed."""
    rule, zero = taught(), np.zeros(12)
    situation = Situation(zero, zero, np.full(12, 230.0), zero)
    over, under = (Binding(reason, MeterId("m1"), 1.0, 1) for reason in (Reason.OVERVOLTAGE, Reason.UNDERVOLTAGE))
    view = GridView.from_entry(GridView(Estimate(1.0, situation, (), ()), (over, under)).as_entry())
    assert view.outside == (over, under)
    assert rule.blames(view, over, MeterId("m1"))
    assert not rule.blames(view, under, MeterId("m1"))
    nothing_known = GridView(Estimate(1.0, None, (), ()), (over, under))
    assert rule.blames(nothing_known, under, MeterId("m2"))
    assert Learned(ENTRIES, GridSettings()).blames(view, under, MeterId("m1")), "untaught"
