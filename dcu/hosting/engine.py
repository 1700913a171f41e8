"""The hosting engine: reports, requests and the busbar's voltage in; records and messages out.

Everything a decision does to the books happens inside one call, before any output leaves: check and reserve are one
synchronous step. Outputs stand in the order in which they must be performed, a record before the message it is about.

Time runs in decision windows. What arrives within one (questions, reports that let a grant be renewed, measurements
while grants live) is answered at its end, together, by the site's rule; the window's inputs and verdicts are recorded
once, and every decision of it refers to that record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dcu.hosting.airtime import Pace
from dcu.hosting.correspondence import Correspondence
from dcu.hosting.decide import Act, Band, Binding, Rule, Standing, Verdict, View
from dcu.hosting.exchange import (
    Event,
    Input,
    LinkChanged,
    Output,
    ReleaseArrived,
    ReportArrived,
    RequestArrived,
    SendAll,
    SendDown,
    StorageFailed,
    SubstationRead,
)
from dcu.hosting.grants import GrantBook, LiveGrant, reserved_for_s
from dcu.hosting.journal import Inputs, Journal
from dcu.hosting.measurements import SUBSTATION, Credible, MeasurementSet, Substation, measure, measure_one
from dcu.hosting.orders import AllRevoked, AnotherRule, BandWidth, NominalLimits, Nothing, Ordered, Sharing
from dcu.hosting.present import PresentVoltages
from dcu.hosting.questions import Pending, Questions
from dcu.hosting.raises import Raises
from dcu.hosting.site_settings import SiteSettings
from dcu.hosting.violations import Violations
from dcu.hosting.wishes import gather, in_use
from dcu.meters import Acceptance, MeterEntry, MeterState, MeterTable
from shared.ids import Epoch, MeterId
from shared.messages import (
    LEASE_S_MAX,
    DecisionId,
    Denial,
    Grant,
    Reason,
    Release,
    Report,
    Request,
    Revoke,
)

QUARANTINE_S: Final = reserved_for_s(LEASE_S_MAX) + 1.0
"""[s] After a start; outlasts every lease an earlier DCU can have given (63 s)."""

RAISE: Final = 1.02
"""A limit that grows by less is as good as the same."""
GROUP_REVOKES_MIN: Final = 4
"""So many grants ended at once are also told to the whole street: by then that is less air than the repetitions of lost
messages to each, and who does not hear his own message may hear that one."""

INSTANT_S: Final = 1e-3
"""[s] Readings that are less apart are of one instant."""
LEARN_S: Final = 15.0
"""[s] A rule with a memory sees the measurements at least this often, whether anybody asks or not."""


class HostingEngine:
    """Machine that decides; knows nothing of files, wires or clocks."""

    def __init__(
        self,
        settings: SiteSettings,
        meters: tuple[MeterEntry, ...],
        epoch: Epoch,
        now: float,
        rule: Rule | None = None,
    ) -> None:
        """An engine in quarantine.

        Args:
            settings: of the site.
            meters: every customer.
            epoch: number of this start.
            now: [s].
            rule: how to decide; None for `PresentVoltages`.
        """
        self._settings = settings
        self._rule: Rule = PresentVoltages(settings.band) if rule is None else rule
        self._epoch = epoch
        self._started_s = now
        self._decided_s = -math.inf
        self._viewed_s = now
        self.newest_view: View | None = None
        """What the rule made of the measurements last: every 15 s at least, if it foresees."""
        self.table = MeterTable(meters)
        self.book = GrantBook(settings.reservations_max)
        self._substation = Substation()
        self._credible = Credible.of(meters, settings.reading_age_s_max, settings.nominal_voltage_v)
        self._journal = Journal(epoch, settings.lease_s)
        self._questions = Questions()
        self._correspondence = Correspondence(epoch)
        self._renewable: dict[MeterId, Pending] = {}
        self._raises = Raises(settings.airtime, settings.lease_s, now)
        self._changed_since: float | None = None
        self._violations = Violations(settings.revocation_band(self._rule.foresees), settings.persistence_s)
        self._withheld: set[MeterId] = set()
        self._reports = Pace(now)
        self._quarantined = True
        self._storage_failed = False
        self._held_until_s = -math.inf

    # ---- the machine -------------------------------------------------------------------------------------------------

    def start(self) -> list[Output]:
        """The first entry of this epoch: decision number 0, the nominal limits; to be durable before anything is
        sent."""
        self._rule.begin()
        limits = {state.entry.id: state.entry.nominal_limit_w for state in self.table.states()}
        return [self._journal.start(self._rule, limits)]

    @property
    def epoch(self) -> Epoch:
        """Number of this start."""
        return self._epoch

    @property
    def lease_s(self) -> float:
        """Lease of every grant [s]."""
        return self._settings.lease_s

    @property
    def band(self) -> Band:
        """Voltages allowed for decisions."""
        return self._settings.band

    @property
    def rule(self) -> Rule:
        """How this site decides."""
        return self._rule

    def measurements(self, now: float) -> MeasurementSet:
        """What is known of the feeder at ``now`` [s]."""
        return measure(self.table.states(), self._substation, self._credible, now)

    def renewable(self, now: float) -> int:
        """How many grants the power line lets us renew in time, beside the reports of all that are linked."""
        meters = sum(state.linked for state in self.table.states())
        settings = self._settings
        return settings.airtime.grants_max(meters, settings.renew_interval_s, self._reports.per_s(now))

    def reports_per_s(self, now: float) -> float:
        """Reports that came lately [1/s], without those that confirm a decision."""
        return self._reports.per_s(now)

    @property
    def recent(self) -> Sequence[str]:
        """The newest decisions in words."""
        return tuple(self._journal.recent)

    @property
    def flooded(self) -> int:
        """Questions that were left without an answer because there were too many."""
        return self._questions.flooded

    @property
    def quarantined(self) -> bool:
        """Whether nothing may be granted yet."""
        return self._quarantined

    def held(self, now: float) -> bool:
        """Whether the utility has ordered that nobody gets anything."""
        return now < self._held_until_s

    @property
    def wake_at(self) -> float | None:
        deadlines = [self.book.wake_at, self._window_at, self._correspondence.wake_at, self._questions.wake_at]
        if self._quarantined:
            deadlines.append(self._started_s + QUARANTINE_S)
        if self._rule.foresees and not self._storage_failed:
            deadlines.append(self._viewed_s + LEARN_S)
        if self.book.live and not self._rule.foresees:
            deadlines.append(self._violations.persist_at)
        return min((at for at in deadlines if at is not None), default=None)

    @property
    def _window_at(self) -> float | None:
        """When the present window ends [s]; None with nothing to decide. Windows are counted from the start."""
        if self._quarantined or self._storage_failed:
            return None
        since = [pending.since_s for pending in (*self._questions.pending.values(), *self._renewable.values())]
        if self._rule.foresees and self._changed_since is not None and self.book.live:
            since.append(self._changed_since)
        if not since:
            return None
        window_s = self._settings.decision_window_s
        at = self._started_s + (math.floor((min(since) - self._started_s) / window_s) + 1) * window_s
        while at <= self._decided_s:  # a question that waits for others looks again in every window
            at += window_s
        return at

    def handle(self, item: Input, now: float) -> list[Output]:
        match item:
            case ReportArrived():
                return self._report(item.meter, item.report, now)
            case RequestArrived():
                return self._request(item.meter, item.request, now)
            case ReleaseArrived():
                return self._release(item.meter, item.release, now)
            case SubstationRead():
                if item.reading is not None or self._substation.taken_at_s is not None:
                    self._substation = Substation(item.reading, now)
                self._watch(SUBSTATION, now)
                return self._revoke_if_persistent(now) if self._rule.foresees else []
            case LinkChanged():
                return self._link(item, now)
            case StorageFailed():
                self._storage_failed = True
                self._questions.pending.clear()
                self._renewable.clear()
                self._raises.clear()
                return [Event("storage failed", {"reason": item.reason})]
            case Ordered():
                return self._order(item, now)

    def wake(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for grant in self.book.expire(now):
            self._renewable.pop(grant.meter, None)
            self._raises.drop(grant.meter)
            fields = {"meter": grant.meter, "limit_w": grant.limit_w, "decision": str(grant.decision)}
            outputs += [self._journal.note("expired", fields), Event("grant expired", {"meter": grant.meter})]
        if self._quarantined and now >= self._started_s + QUARANTINE_S:
            outputs += self._end_quarantine("time")
        outputs += self._revoke_if_persistent(now)
        outputs += self._correspondence.wake(now)
        if self._storage_failed:  # nothing is decided or learnt any more
            return outputs
        window_at = self._window_at
        if window_at is not None and now >= window_at:
            outputs += self._decide(now)
        if self._rule.foresees and now >= self._viewed_s + LEARN_S:
            outputs += self._view(now)[1]
        for meter, request in self._questions.overdue(now):
            if not self._quarantined:
                outputs += self._deny(meter, request, Binding(Reason.SHARED, meter), {})
        return outputs

    # ---- links and reports -------------------------------------------------------------------------------------------

    def _link(self, item: LinkChanged, now: float) -> list[Output]:
        state = self.table[item.meter]
        if state.linked == item.up:
            return []
        state.linked = item.up
        if not item.up:
            self._correspondence.unlinked(item.meter)
            return [Event("meter silent", {"meter": item.meter})]
        return [Event("meter linked", {"meter": item.meter}), *self._correspondence.greet(state.entry, now)]

    def _report(self, meter: MeterId, report: Report, now: float) -> list[Output]:
        state = self.table[meter]
        if report.applied == state.applied:  # one that confirms a decision is counted with its grant
            self._reports.count(now)
        outputs = self._view_before(state, report, now)
        acceptance = self.table.accept(meter, report, now)
        outputs += self._correspondence.reported(meter, report.seq, acceptance, now)
        if acceptance is not Acceptance.LIVE:
            return outputs
        if report.epoch != self._epoch:
            return [*outputs, *self._correspondence.greet(state.entry, now)]
        if self._quarantined and all(state.epoch == self._epoch for state in self.table.states()):
            outputs += self._end_quarantine("every meter has adopted the epoch")
        self.book.acknowledged(meter, report.applied, now)
        self._watch(meter, now)
        if self._rule.foresees:
            outputs += self._revoke_if_persistent(now)
        outputs += self._correspondence.remind(state.entry, report, now)
        outputs += self._follow_up(meter, report, now)
        return outputs

    def _follow_up(self, meter: MeterId, report: Report, now: float) -> list[Output]:
        """Note that a live grant can be renewed, or repeat a revoke that the meter has not taken."""
        held = report.applied is not None and report.applied == self.book.newest_held(meter)
        revoke = self._correspondence.insist(meter, report, now, held=held and meter not in self._questions.pending)
        if revoke is not None:
            return [*revoke]
        grant = self.book.grant_of(meter)
        if grant is None or report.nonce is None:
            return []
        if report.lease_left_s <= 0:
            # Our grant may still be on its way to the meter; if it is not, it ended there.
            if report.applied == grant.decision:
                self.book.end(meter)
                self._renewable.pop(meter, None)
                self._raises.drop(meter)
            return []
        request = Request(grant.request_id, report.nonce, report.epoch, grant.wanted_w, grant.minimum_w)
        confirms = report.applied == grant.decision
        interval_s = self._settings.renew_interval_s
        short = confirms and report.lease_left_s < self._settings.lease_s - interval_s  # an old nonce raised it
        if now < grant.decided_at_s + interval_s and not short:
            self._raises.drop(meter)
            if confirms and self._rule.foresees and not self._storage_failed and in_use(self.table[meter], grant):
                self._raises.keep(request, meter, now)
            return []
        self._raises.drop(meter)
        since = self._renewable.get(meter)
        self._renewable[meter] = Pending(request, now if since is None else since.since_s)
        return []

    def _end_quarantine(self, why: str) -> list[Output]:
        self._quarantined = False
        return [self._journal.note("quarantine ended", {"why": why}), Event("quarantine ended", {"why": why})]

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _request(self, meter: MeterId, request: Request, now: float) -> list[Output]:
        state = self.table[meter]
        if request.epoch != self._epoch:
            return [*self._correspondence.greet(state.entry, now)]
        if self._storage_failed:
            return [Event("request unanswered", {"meter": meter, "reason": Reason.STORAGE_FAILED.name})]
        match self._questions.take(state.entry, request, self.book.grant_of(meter), now):
            case Denial() as told:
                return [SendDown(meter, told)]
            case Reason() as objection:
                return self._deny(meter, request, Binding(objection, meter), {})
            case None if self.held(now) and meter in self._questions.pending:
                return self._deny(meter, self._questions.answered(meter), Binding(Reason.OPERATOR, meter), {})
            case None:
                return []

    def _release(self, meter: MeterId, release: Release, now: float) -> list[Output]:
        self._questions.withdrawn(meter, release.request_id)
        if release.epoch != self._epoch:
            return []
        grant = self.book.grant_of(meter)
        if grant is None or grant.request_id != release.request_id:
            # A question taken back while an older grant lives on says nothing about that grant.
            if grant is None:
                self.book.released(meter, release.applied, now)
            return []
        self._renewable.pop(meter, None)
        self._raises.drop(meter)
        self.book.released(meter, release.applied, now)
        fields = {"meter": meter, "released": str(grant.decision)}
        return [self._journal.note("release", fields), Event("released", {"meter": meter})]

    # ---- the window --------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> list[Output]:
        """Answer everything that waits, on one view of the newest measurements."""
        self._decided_s = now
        self._changed_since = None
        rising, raises = self._may_rise(now)
        standings = dict.fromkeys(rising, Standing.MAY_RISE) | dict.fromkeys(self._renewable, Standing.DUE)
        question = gather(self.table, self.book, self._questions.pending, standings, self.renewable(now), raises, now)
        if not question.wishes:
            self._renewable.clear()
            return []
        view, outputs = self._view(now)
        answer = self._rule.answer(view, question)
        inputs: Inputs = {}
        if any(verdict.act in {Act.GRANT, Act.RENEW, Act.DENY, Act.LOWER} for verdict in answer.verdicts):
            record, inputs = self._journal.window(self._rule.name, view, question, answer)
            outputs.append(record)
        for verdict in answer.verdicts:
            outputs += self._carry_out(verdict, inputs, now)
        return outputs + self._to_all(outputs)

    def _view(self, now: float) -> tuple[View, list[Output]]:
        """The rule's view of now, and what of it must be recorded because later views or answers depend on it."""
        self._viewed_s = now
        measurements = self.measurements(now)
        outputs: list[Output] = []
        if self._rule.remembers:
            outputs += self._journal.saw(measurements, now)
        view = self.newest_view = self._rule.view(measurements, now)
        if self._rule.learns and "taught" in (entry := view.as_entry()):
            outputs.append(self._journal.lesson(entry))
        return view, outputs

    def _view_before(self, state: MeterState, report: Report, now: float) -> list[Output]:
        """Show a rule that remembers what a meter said before, if no view has had it yet: else a draw that went and
        came back would look as if it had never changed."""
        if not self._rule.remembers or self._storage_failed or report.nonce is None:
            return []
        if state.reported_at_s is None or state.reading_at_s is None or state.reported_at_s < self._viewed_s:
            return []
        if now - report.reading_age_s <= state.reading_at_s + INSTANT_S:
            return []
        return self._view(now)[1]

    def _may_rise(self, now: float) -> tuple[frozenset[MeterId], int]:
        """Whose grants could be raised before they are due, a nonce being there, and how many there is air time for."""
        settings = self._settings
        meters = sum(state.linked for state in self.table.states())
        share = settings.airtime.share(meters, len(self.book.live), settings.renew_interval_s, self._reports.per_s(now))
        return self._raises.possible(share, now)

    def _carry_out(self, verdict: Verdict, inputs: Inputs, now: float) -> list[Output]:
        meter = verdict.meter
        binding = verdict.binding or Binding(Reason.GRANTED, meter)
        match verdict.act:
            case Act.GRANT:
                return self._grant("grant", self._questions.answered(meter), verdict, inputs, now)
            case Act.RENEW:
                self._withheld.discard(meter)
                due = self._renewable.pop(meter, None)
                request = self._raises.spend(meter) if due is None else due.request
                return self._grant("renewal", request, verdict, inputs, now)
            case Act.DENY:
                return self._deny(meter, self._questions.answered(meter), binding, inputs)
            case Act.LOWER:
                return self._lower(meter, verdict.limit_w, binding, inputs, now)
            case Act.WAIT:
                return []
            case Act.WITHHOLD:
                self._renewable.pop(meter, None)
                if meter in self._withheld:
                    return []
                self._withheld.add(meter)
                fields: dict[str, object] = {"meter": meter, "reason": binding.reason.name, "binding": binding.point}
                return [Event("renewal withheld", fields)]

    def _grant(self, kind: str, request: Request, verdict: Verdict, inputs: Inputs, now: float) -> list[Output]:
        meter, limit_w, lease_s = verdict.meter, verdict.limit_w, self._settings.lease_s
        decision = self._journal.next_decision()
        before = self.book.grant_of(meter)
        live = LiveGrant(
            meter=meter,
            request_id=request.request_id,
            decision=decision,
            limit_w=limit_w,
            decided_at_s=now,
            expires_s=now + reserved_for_s(lease_s),
            wanted_w=request.limit_w,
            minimum_w=request.minimum_limit_w,
            since_s=now if before is None else before.since_s,
            raised_s=now if before is None or self._is_news(before, limit_w) else before.raised_s,
        )
        self.book.reserve(live, lease_s)
        self._renewable.pop(meter, None)
        self._raises.drop(meter)
        self._correspondence.granted(meter)
        record = self._journal.granted(kind, decision, request, verdict, inputs)
        message = Grant(decision, request.request_id, request.nonce, limit_w, lease_s)
        outputs: list[Output] = [record, SendDown(meter, message)]
        if kind == "grant":
            outputs.append(Event("granted", {"meter": meter, "limit_w": limit_w, "decision": str(decision)}))
        return outputs

    def _is_news(self, before: LiveGrant, limit_w: float) -> bool:
        """Whether a limit [W] is a rise whose use only later readings can tell."""
        return limit_w > RAISE * before.limit_w and in_use(self.table[before.meter], before)

    def _deny(self, meter: MeterId, request: Request, binding: Binding, inputs: Inputs) -> list[Output]:
        decision = self._journal.next_decision()
        message = Denial(decision, request.request_id, binding.reason, binding.point, binding.value)
        self._questions.denied(meter, message)
        return [
            self._journal.denied(decision, meter, request, binding, inputs),
            SendDown(meter, message),
            Event("denied", {"meter": meter, **binding.as_entry(), "decision": str(decision)}),
        ]

    # ---- orders of the utility ---------------------------------------------------------------------------------------

    def _order(self, item: Ordered, now: float) -> list[Output]:
        """Record an order, then carry it out."""
        outputs: list[Output] = [self._journal.note(item.kind, dict(item.about))]
        match item.change:
            case NominalLimits(limits_w):
                for meter, limit_w in limits_w.items():
                    entry = self.table.set_nominal(meter, limit_w)
                    outputs += self._correspondence.renamed(entry, now) if self.table[meter].linked else []
            case Sharing(policy):
                self._rule.adjust(policy=policy)
            case BandWidth(band_pct):
                self._settings = replace(self._settings, band_pct=band_pct)
                self._rule.adjust(band_pct=band_pct)
                self._violations.band = self._settings.revocation_band(self._rule.foresees)
            case AnotherRule(rule):
                self._rule = rule
                self._rule.begin()
                self._violations.band = self._settings.revocation_band(rule.foresees)
            case AllRevoked(hold_s):
                self._held_until_s = max(self._held_until_s, now + hold_s)
                outputs += self._revoke_all(now)
            case Nothing():
                pass
        return outputs

    def _revoke_all(self, now: float) -> list[Output]:
        """Nobody keeps anything, and who has asked hears no."""
        denied: list[Output] = []
        for meter in list(self._questions.pending):
            request = self._questions.answered(meter)
            denied += self._deny(meter, request, Binding(Reason.OPERATOR, meter), {})
        outputs: list[Output] = []
        for grant in self.book.live:
            outputs += self._lower(grant.meter, 0.0, Binding(Reason.OPERATOR, grant.meter), {}, now)
        return outputs + self._to_all(outputs) + denied

    # ---- revocation --------------------------------------------------------------------------------------------------

    def _watch(self, name: MeterId, now: float) -> None:
        """Note since when a point is outside the band, as it reports; one that is back, or unknown, starts anew."""
        if self._changed_since is None:
            self._changed_since = now
        if not self.book.live:
            self._violations.clear()
            return
        state = None if name == SUBSTATION else self.table[name]
        point = measure_one(state, self._substation, self._credible, now)
        self._violations.note(point, now)

    def _revoke_if_persistent(self, now: float) -> list[Output]:
        due = self._violations.lasting(lambda point: self._known_s(point, now)) if self.book.live else []
        if not due:
            return []
        view, outputs = self._view(now)
        for point in due:  # of one that nobody knows any more there is nothing: that is for the lease to settle
            found = [binding for binding in view.outside if binding.point == point]
            inputs: Inputs = {"persistence_s": self._settings.persistence_s, "view": view.as_entry()}
            for grant in self.book.live:
                blamed = (binding for binding in found if self._rule.blames(view, binding, grant.meter))
                binding = next(blamed, None)
                if binding is not None:
                    outputs += self._lower(grant.meter, 0.0, binding, inputs, now)
        return outputs + self._to_all(outputs)

    def _to_all(self, outputs: list[Output]) -> list[Output]:
        """After many revokes one for the whole street, which takes nothing from whose grant goes on.

        It names no customer, for everybody reads it, and no decision about any of them, for it may leave one more than
        his own revoke does: its number is 0, the nominal limits, which acknowledges nothing. It voids all nonces, so it
        is not sent in a window that also grants.
        """
        messages = [output.message for output in outputs if isinstance(output, SendDown)]
        ended = [message for message in messages if isinstance(message, Revoke) and not message.limit_w]
        if len(ended) < GROUP_REVOKES_MIN or any(isinstance(message, Grant) for message in messages):
            return []
        limit_w = max((grant.limit_w for grant in self.book.live), default=0.0)
        message = Revoke(DecisionId(self._epoch, 0), ended[-1].reason, None, None, limit_w)
        return [SendAll(message), Event("revoked for all", {"grants": len(ended), "limit_w": limit_w})]

    def _known_s(self, point: MeterId, now: float) -> float:
        """Until when a point is known to be outside: a rule that foresees has lowered grants meanwhile, and waits for a
        reading that shows what came of it."""
        if not self._rule.foresees:
            return now
        taken_s = self._substation.taken_at_s if point == SUBSTATION else self.table[point].reading_at_s
        return -math.inf if taken_s is None else taken_s

    def _lower(self, meter: MeterId, limit_w: float, binding: Binding, inputs: Inputs, now: float) -> list[Output]:
        """Less of a grant at once, or nothing of it."""
        grant = self.book.grant_of(meter)
        if grant is None:
            return []
        decision = self._journal.next_decision()
        part_w = limit_w if limit_w > self.table[meter].entry.nominal_limit_w else 0.0
        if part_w:
            self.book.lower(meter, decision, part_w, now)
        else:
            self.book.revoke(meter, decision, now)
        self._renewable.pop(meter, None)
        self._raises.drop(meter)
        self._raises.take()
        self._questions.voided(meter)
        message = Revoke(decision, binding.reason, binding.point, binding.value, part_w)
        told = {"meter": meter, **binding.as_entry(), "limit_w": part_w, "decision": str(decision)}
        return [
            self._journal.lowered(decision, grant, part_w, binding, inputs),
            *self._correspondence.revoked(meter, message, now),
            Event("lowered" if part_w else "revoked", told),
        ]
