"""The hosting engine: reports, requests and the busbar's voltage in; records and messages out.

Everything a decision does to the books happens inside one call, before any output leaves: check and reserve are one
synchronous step. Outputs stand in the order in which they must be performed, a record before the message it is about.

Time runs in decision windows. What arrives within one (questions, reports that let a grant be renewed, measurements
while grants live) is answered at its end, together, by the site's rule; the window's inputs and verdicts are recorded
once, and every decision of it refers to that record.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Final

from dcu.hosting.airtime import Airtime
from dcu.hosting.decide import Act, Band, Binding, Question, Rule, Standing, Verdict, View, Wish, outside
from dcu.hosting.exchange import (
    Event,
    Input,
    LinkChanged,
    Output,
    Record,
    ReleaseArrived,
    ReportArrived,
    RequestArrived,
    SendDown,
    StorageFailed,
    SubstationRead,
    Wait,
)
from dcu.hosting.grants import GrantBook, LiveGrant, reserved_for_s
from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Substation, measure, measure_one
from dcu.hosting.present import PresentVoltages
from dcu.hosting.raises import Raises
from dcu.meters import Acceptance, MeterEntry, MeterState, MeterTable
from shared.ids import Epoch, MeterId, RequestId
from shared.messages import (
    LEASE_S_MAX,
    Acknowledgement,
    Alarm,
    DecisionId,
    Denial,
    Grant,
    NominalLimit,
    Reason,
    Release,
    Report,
    Request,
    Revoke,
)

QUARANTINE_S: Final = reserved_for_s(LEASE_S_MAX) + 1.0
"""[s] After a start; outlasts every lease an earlier DCU can have given (63 s)."""

REPEAT_S: Final = 2.0
"""[s] A nominal limit or a revoke the meter has not taken is sent again at most this often."""

ACKNOWLEDGE_S: Final = 15.0
"""[s] A report is acknowledged within this; several share one frame, as air time is dear."""

ACKNOWLEDGED_MAX: Final = 8
"""Reports in one acknowledgement."""

REQUEST_S_MAX: Final = 40.0
"""[s] A request that could not be decided for so long (quarantine) is dropped; its meter repeats it with a fresh
nonce. One that waited for others to let go is denied."""

RAISE: Final = 1.02
"""A limit that grows by less is as good as the same."""
USE_S: Final = 10.0
"""[s] After its limit was raised, a customer's export may be taken for what it makes of it."""

FORESIGHT_PCT: Final = 0.5
"""[% of nominal] A measured voltage may be beyond the band by this before a rule that foresees is believed no more."""

LEARN_S: Final = 15.0
"""[s] A rule with a memory sees the measurements at least this often, whether anybody asks or not."""

RECENT: Final = 8
"""Decisions kept in words, for people."""

DENIALS_MAX: Final = 1024
"""Denials remembered, so that the same question gets the same answer."""

REQUESTS_MAX: Final = 60
"""New questions of one meter within `REQUESTS_S`; the next one is refused, what follows is left without an answer."""
REQUESTS_S: Final = 60.0

BLOCKING_ALARMS: Final = (
    Alarm.EXPORT_ABOVE_LIMIT | Alarm.RELAY_DISAGREES | Alarm.EXPORT_NOT_MEASURABLE | Alarm.WRONG_DEVICE
)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What the engine is told about a site.

    Attributes:
        nominal_voltage_v, band_pct: the band for decisions.
        persistence_s: a violation must last this long before grants are revoked.
        lease_s: of every grant, at most `LEASE_S_MAX`.
        renew_interval_s: between two decisions of one grant.
        decision_window_s: requests that arrive within it are decided together.
        reading_age_s_max: older is stale.
        reservations_max: grants and renewals that may hold capacity at a time.
        airtime: what reports and renewals cost on the power line.
    """

    nominal_voltage_v: float = 230.0
    band_pct: float = 5.0
    persistence_s: float = 10.0
    lease_s: float = LEASE_S_MAX
    renew_interval_s: float = 15.0
    decision_window_s: float = 1.0
    reading_age_s_max: float = 40.0
    reservations_max: int = 200
    airtime: Airtime = Airtime()

    def __post_init__(self) -> None:
        assert 0 < self.lease_s <= LEASE_S_MAX, self.lease_s

    @property
    def band(self) -> Band:
        """Voltages allowed for decisions."""
        return Band.around(self.nominal_voltage_v, self.band_pct)

    def revocation_band(self, foresees: bool) -> Band:
        """Voltages beyond which grants are revoked; a rule that foresees shares out the last tenth of a volt, and
        lowers before it revokes."""
        return Band.around(self.nominal_voltage_v, self.band_pct + (FORESIGHT_PCT if foresees else 0.0))


@dataclass(frozen=True, slots=True)
class _Pending:
    request: Request
    since_s: float


@dataclass(frozen=True, slots=True)
class _Due:
    """Reports in a row that are not acknowledged yet."""

    seq: int
    count: int
    since_s: float


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
        self._seq = 0
        self._window = 0
        self._decided_s = -math.inf
        self._viewed_s = now
        self.table = MeterTable(meters)
        self.book = GrantBook(settings.reservations_max)
        self._substation = Substation()
        self._pending: dict[MeterId, _Pending] = {}
        self._renewable: dict[MeterId, _Pending] = {}
        self._raises = Raises(settings.airtime, settings.renew_interval_s, now)
        self._changed_since: float | None = None
        self._denied: dict[tuple[MeterId, RequestId], Denial] = {}
        self._asked: dict[MeterId, deque[float]] = {}
        self._told_s: dict[MeterId, float] = {}
        self._violated_since: dict[MeterId, float] = {}
        self._greeted_s: dict[MeterId, float] = {}
        self._revoked: dict[MeterId, tuple[Revoke, float]] = {}
        self._due: dict[MeterId, _Due] = {}
        self._withheld: set[MeterId] = set()
        self._quarantined = True
        self._storage_failed = False
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.flooded = 0
        """Questions beyond `REQUESTS_MAX` that were left without an answer."""

    # ---- the machine -------------------------------------------------------------------------------------------------

    def start(self) -> list[Output]:
        """The first entry of this epoch: decision number 0, the nominal limits; to be durable before anything is
        sent."""
        limits = {state.entry.id: state.entry.nominal_limit_w for state in self.table.states()}
        rule = {"rule": self._rule.name, "facts": self._rule.facts()}
        return [Record({"kind": "start", "epoch": self._epoch, "seq": 0, **rule, "nominal_limit_w": limits})]

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
        return measure(self.table.states(), self._substation, self._settings.reading_age_s_max, now)

    @property
    def quarantined(self) -> bool:
        """Whether nothing may be granted yet."""
        return self._quarantined

    @property
    def wake_at(self) -> float | None:
        deadlines = [self.book.wake_at, self._window_at]
        if self._due:
            deadlines.append(min(due.since_s for due in self._due.values()) + ACKNOWLEDGE_S)
        if self._quarantined:
            deadlines.append(self._started_s + QUARANTINE_S)
        if self._rule.foresees:
            deadlines.append(self._viewed_s + LEARN_S)
        if self._pending:
            deadlines.append(min(pending.since_s for pending in self._pending.values()) + REQUEST_S_MAX)
        if self.book.live and self._violated_since and not self._rule.foresees:
            deadlines.append(min(self._violated_since.values()) + self._settings.persistence_s)
        return min((at for at in deadlines if at is not None), default=None)

    @property
    def _window_at(self) -> float | None:
        """When the present window ends [s]; None with nothing to decide. Windows are counted from the start."""
        if self._quarantined or self._storage_failed:
            return None
        since = [pending.since_s for pending in (*self._pending.values(), *self._renewable.values())]
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
                return self._release(item.meter, item.release)
            case SubstationRead():
                if item.reading is not None or self._substation.taken_at_s is not None:
                    self._substation = Substation(item.reading, now)
                self._watch(SUBSTATION, now)
                return self._revoke_if_persistent(now) if self._rule.foresees else []
            case LinkChanged():
                return self._link(item, now)
            case StorageFailed():
                self._storage_failed = True
                self._pending.clear()
                self._renewable.clear()
                return [Event("storage failed", {"reason": item.reason})]

    def wake(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for grant in self.book.expire(now):
            self._renewable.pop(grant.meter, None)
            self._raises.drop(grant.meter)
            fields = {"meter": grant.meter, "limit_w": grant.limit_w, "decision": str(grant.decision)}
            outputs += [self._entry("expired", None, fields), Event("grant expired", {"meter": grant.meter})]
        if self._quarantined and now >= self._started_s + QUARANTINE_S:
            outputs += self._end_quarantine("time")
        outputs += self._revoke_if_persistent(now)
        for meter in [meter for meter, due in self._due.items() if now >= due.since_s + ACKNOWLEDGE_S]:
            outputs += self._flush(meter)
        window_at = self._window_at
        if window_at is not None and now >= window_at:
            outputs += self._decide(now)
        if self._rule.foresees and now >= self._viewed_s + LEARN_S:
            outputs += self._view(now)[1]
        for meter, pending in list(self._pending.items()):
            if now >= pending.since_s + REQUEST_S_MAX:
                del self._pending[meter]
                if not self._quarantined:
                    outputs += self._deny(meter, pending.request, Binding(Reason.SHARED, meter), {})
        return outputs

    def _next_decision(self) -> DecisionId:
        self._seq += 1
        return DecisionId(self._epoch, self._seq)

    def _entry(self, kind: str, decision: DecisionId | None, fields: dict[str, Any]) -> Record:
        seq = None if decision is None else decision.seq
        if decision is not None:
            why = " ".join(str(fields[key]) for key in ("reason", "binding", "value") if fields.get(key) is not None)
            self.recent.append(f"{decision} {kind} {fields['meter']}: {why}")
        return Record({"kind": kind, "epoch": self._epoch, "seq": seq, **fields})

    # ---- links and reports -------------------------------------------------------------------------------------------

    def _link(self, item: LinkChanged, now: float) -> list[Output]:
        state = self.table[item.meter]
        if state.linked == item.up:
            return []
        state.linked = item.up
        if not item.up:
            self._due.pop(item.meter, None)
            return [Event("meter silent", {"meter": item.meter})]
        return [Event("meter linked", {"meter": item.meter}), *self._greet(state, now)]

    def _greet(self, state: MeterState, now: float) -> list[Output]:
        """Tell a meter our epoch and its nominal limit, not too often."""
        if now < self._greeted_s.get(state.entry.id, -REPEAT_S) + REPEAT_S:
            return []
        self._greeted_s[state.entry.id] = now
        greeting = NominalLimit(DecisionId(self._epoch, 0), state.entry.nominal_limit_w)
        return [SendDown(state.entry.id, greeting)]

    def _report(self, meter: MeterId, report: Report, now: float) -> list[Output]:
        state = self.table[meter]
        acceptance = self.table.accept(meter, report, now)
        outputs = self._acknowledge(meter, report.seq, acceptance, now)
        if acceptance is not Acceptance.LIVE:
            return outputs
        if report.epoch != self._epoch:
            return outputs + self._greet(state, now)
        if self._quarantined and all(state.epoch == self._epoch for state in self.table.states()):
            outputs += self._end_quarantine("every meter has adopted the epoch")
        self.book.acknowledged(meter, report.applied)
        self._watch(meter, now)
        if self._rule.foresees:
            outputs += self._revoke_if_persistent(now)
        outputs += self._follow_up(meter, report, now)
        return outputs

    def _acknowledge(self, meter: MeterId, seq: int, acceptance: Acceptance, now: float) -> list[Output]:
        """Gather live reports in a row into one acknowledgement; whatever else comes is acknowledged at once."""
        due = self._due.get(meter)
        if acceptance is not Acceptance.LIVE:
            return [SendDown(meter, Acknowledgement(self._epoch, seq))]
        if due is not None and seq == due.seq + 1:
            self._due[meter] = due = _Due(seq, due.count + 1, due.since_s)
            return self._flush(meter) if due.count >= ACKNOWLEDGED_MAX else []
        outputs = self._flush(meter)
        self._due[meter] = _Due(seq, 1, now)
        return outputs

    def _flush(self, meter: MeterId) -> list[Output]:
        due = self._due.pop(meter, None)
        return [] if due is None else [SendDown(meter, Acknowledgement(self._epoch, due.seq, due.count))]

    def _follow_up(self, meter: MeterId, report: Report, now: float) -> list[Output]:
        """Note that a live grant can be renewed, or repeat a revoke that the meter has not taken."""
        lives = report.lease_left_s > 0
        revoked = self._revoked.get(meter)
        if revoked is not None:
            message, sent_s = revoked
            if report.applied == message.decision or not lives:
                del self._revoked[meter]
            elif now >= sent_s + REPEAT_S:
                self._revoked[meter] = (message, now)
                return [SendDown(meter, message, Wait.BRIEFLY)]
            else:
                return []
        grant = self.book.grant_of(meter)
        if grant is None or report.nonce is None:
            return []
        if not lives:
            # Our grant may still be on its way to the meter; if it is not, it ended there.
            if report.applied == grant.decision:
                self.book.end(meter)
                self._renewable.pop(meter, None)
                self._raises.drop(meter)
            return []
        request = Request(grant.request_id, report.nonce, report.epoch, grant.wanted_w, grant.minimum_w)
        if now < grant.decided_at_s + self._settings.renew_interval_s:
            if self._rule.foresees and report.applied == grant.decision:
                self._raises.keep(request, meter, now)
            return []
        self._raises.drop(meter)
        since = self._renewable.get(meter)
        self._renewable[meter] = _Pending(request, now if since is None else since.since_s)
        return []

    def _end_quarantine(self, why: str) -> list[Output]:
        self._quarantined = False
        return [self._entry("quarantine ended", None, {"why": why}), Event("quarantine ended", {"why": why})]

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _request(self, meter: MeterId, request: Request, now: float) -> list[Output]:
        state = self.table[meter]
        if request.epoch != self._epoch:
            return self._greet(state, now)
        if self._storage_failed:
            return [Event("request unanswered", {"meter": meter, "reason": Reason.STORAGE_FAILED.name})]
        denied = self._denied.get((meter, request.request_id))
        if denied is not None:
            told_s = self._told_s.get(meter, -math.inf)
            if now < told_s + REPEAT_S:
                return []
            self._told_s[meter] = now
            return [SendDown(meter, denied)]
        waiting = self._pending.get(meter)
        if waiting is not None and waiting.request.request_id == request.request_id:
            self._pending[meter] = _Pending(request, waiting.since_s)
            return []
        flooded = self._floods(meter, request, now)
        if flooded is not None:
            return flooded
        objection = _objection(request, state.entry)
        if objection is not None:
            return self._deny(meter, request, Binding(objection, meter), {})
        self._pending[meter] = _Pending(request, now)
        return []

    def _floods(self, meter: MeterId, request: Request, now: float) -> list[Output] | None:
        """Refuse a meter that asks something new too often: once with an answer, then in silence. None: it does not."""
        asked = self._asked.setdefault(meter, deque(maxlen=REQUESTS_MAX + 1))
        grant = self.book.grant_of(meter)
        if grant is not None and grant.request_id == request.request_id:
            # The same question again: its grant got lost on the way, unless it is still on it.
            return [] if now < grant.decided_at_s + REPEAT_S else None
        while asked and asked[0] <= now - REQUESTS_S:
            asked.popleft()
        if len(asked) > REQUESTS_MAX:
            self.flooded += 1
            return []
        asked.append(now)
        if len(asked) <= REQUESTS_MAX:
            return None
        return self._deny(meter, request, Binding(Reason.TOO_MANY_REQUESTS, meter), {})

    def _release(self, meter: MeterId, release: Release) -> list[Output]:
        pending = self._pending.get(meter)
        if pending is not None and pending.request.request_id == release.request_id:
            del self._pending[meter]
        if release.epoch != self._epoch:
            return []
        grant = self.book.grant_of(meter)
        if grant is None or grant.request_id != release.request_id:
            # A question taken back while an older grant lives on says nothing about that grant.
            if grant is None:
                self.book.released(meter, release.applied)
            return []
        self._renewable.pop(meter, None)
        self._raises.drop(meter)
        self.book.released(meter, release.applied)
        fields = {"meter": meter, "released": str(grant.decision)}
        return [self._entry("release", None, fields), Event("released", {"meter": meter})]

    # ---- the window --------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> list[Output]:
        """Answer everything that waits, on one view of the newest measurements."""
        self._decided_s = now
        self._changed_since = None
        question = self._question(now)
        if not question.wishes:
            self._renewable.clear()
            return []
        view, outputs = self._view(now)
        answer = self._rule.answer(view, question)
        inputs: dict[str, Any] = {}
        if any(verdict.act in {Act.GRANT, Act.RENEW, Act.DENY, Act.LOWER} for verdict in answer.verdicts):
            self._window += 1
            inputs = {"window": self._window}
            entry = {"rule": self._rule.name, "view": view.as_entry(), "question": question.as_entry()}
            outputs.append(self._entry("window", None, {**inputs, **entry, "answer": answer.as_entry()}))
        for verdict in answer.verdicts:
            outputs += self._carry_out(verdict, inputs, now)
        return outputs

    def _view(self, now: float) -> tuple[View, list[Output]]:
        """The rule's view of now, and its record if later answers depend on it."""
        self._viewed_s = now
        view = self._rule.view(self.measurements(now), now)
        if not self._rule.learns or "taught" not in (entry := view.as_entry()):
            return view, []
        return view, [self._entry("view", None, {"view": entry})]

    def _question(self, now: float) -> Question:
        """Everybody's wish, grants in the order they began, then questions in the order they came."""
        wishes: list[Wish] = []
        meters = sum(state.linked for state in self.table.states())
        free = self._settings.airtime.grants_max(meters, self._settings.renew_interval_s) - len(self.book.live)
        raisable = self._raises.possible(meters, len(self.book.live), now)
        for grant in sorted(self.book.live, key=lambda g: g.since_s):
            if grant.meter not in self._pending:
                standing = Standing.MAY_RISE if grant.meter in raisable else Standing.HOLDS
                standing = Standing.DUE if grant.meter in self._renewable else standing
                wishes.append(self._wish(grant.meter, standing, grant.wanted_w, grant.minimum_w))
        for meter, pending in sorted(self._pending.items(), key=lambda item: item[1].since_s):
            request = pending.request
            wish = self._wish(meter, Standing.ASKS, request.limit_w, request.minimum_limit_w)
            if wish.granted_w is None and wish.objection is None:
                free -= 1
                wish = wish if free >= 0 else replace(wish, objection=Reason.NO_AIRTIME)
            wishes.append(wish)
        return Question(tuple(wishes), self.book.reserved_w(), self.book.places)

    def _wish(self, meter: MeterId, standing: Standing, wanted_w: float, minimum_w: float) -> Wish:
        state, grant = self.table[meter], self.book.grant_of(meter)
        objection = Reason.LOCAL_ALARM if state.alarms & BLOCKING_ALARMS else None
        nominal_w = state.entry.nominal_limit_w
        granted_w, used_w = None if grant is None else grant.limit_w, None
        if grant is not None and state.reading is not None and state.reading_at_s is not None:
            export_w = -sum(p_w for p_w in state.reading.p_w if p_w is not None)
            if state.reading_at_s > grant.raised_s + USE_S and math.isfinite(export_w):
                used_w = round(export_w, 1)
        return Wish(meter, standing, nominal_w, wanted_w, minimum_w, granted_w, objection, used_w)

    def _carry_out(self, verdict: Verdict, inputs: dict[str, Any], now: float) -> list[Output]:
        meter = verdict.meter
        binding = verdict.binding or Binding(Reason.GRANTED, meter)
        match verdict.act:
            case Act.GRANT:
                return self._grant("grant", self._pending.pop(meter).request, verdict, inputs, now)
            case Act.RENEW:
                self._withheld.discard(meter)
                due = self._renewable.pop(meter, None)
                request = self._raises.spend(meter) if due is None else due.request
                return self._grant("renewal", request, verdict, inputs, now)
            case Act.DENY:
                return self._deny(meter, self._pending.pop(meter).request, binding, inputs)
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

    def _grant(self, kind: str, request: Request, verdict: Verdict, inputs: dict[str, Any], now: float) -> list[Output]:
        meter, limit_w, lease_s = verdict.meter, verdict.limit_w, self._settings.lease_s
        decision = self._next_decision()
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
            raised_s=now if before is None or limit_w > RAISE * before.limit_w else before.raised_s,
        )
        self.book.reserve(live, lease_s)
        self._renewable.pop(meter, None)
        self._raises.drop(meter)
        self._revoked.pop(meter, None)
        why = {} if verdict.binding is None else {"kept_by": verdict.binding.as_entry()}
        fields = {
            "meter": meter,
            **inputs,
            "request": _asked(request),
            "limit_w": limit_w,
            "lease_s": lease_s,
            "reason": Reason.GRANTED.name,
            **why,
        }
        message = Grant(decision, request.request_id, request.nonce, limit_w, lease_s)
        outputs: list[Output] = [self._entry(kind, decision, fields), SendDown(meter, message)]
        if kind == "grant":
            outputs.append(Event("granted", {"meter": meter, "limit_w": limit_w, "decision": str(decision)}))
        return outputs

    def _deny(self, meter: MeterId, request: Request, binding: Binding, inputs: dict[str, Any]) -> list[Output]:
        decision = self._next_decision()
        message = Denial(decision, request.request_id, binding.reason, binding.point, binding.value)
        while len(self._denied) >= DENIALS_MAX:
            del self._denied[next(iter(self._denied))]
        self._denied[meter, request.request_id] = message
        fields = {"meter": meter, **inputs, "request": _asked(request), **binding.as_entry()}
        return [
            self._entry("denial", decision, fields),
            SendDown(meter, message),
            Event("denied", {"meter": meter, **binding.as_entry(), "decision": str(decision)}),
        ]

    # ---- revocation --------------------------------------------------------------------------------------------------

    def _watch(self, name: MeterId, now: float) -> None:
        """Note since when a point is outside the band, as it reports; one that is back, or unknown, starts anew."""
        if self._changed_since is None:
            self._changed_since = now
        if not self.book.live:
            self._violated_since.clear()
            return
        state = None if name == SUBSTATION else self.table[name]
        point = measure_one(state, self._substation, self._settings.reading_age_s_max, now)
        if outside((point,), self._settings.revocation_band(self._rule.foresees)):
            self._violated_since.setdefault(name, now)
        else:
            self._violated_since.pop(name, None)

    def _revoke_if_persistent(self, now: float) -> list[Output]:
        persistence_s = self._settings.persistence_s
        due = [p for p, since_s in self._violated_since.items() if self._known_s(p, now) >= since_s + persistence_s]
        if not due or not self.book.live:
            return []
        view, outputs = self._view(now)
        found = {binding.point: binding for binding in view.outside}
        for point in due:
            binding = found.get(point)
            self._violated_since.pop(point)
            if binding is None:
                continue  # nobody knows any more; that is for the lease to settle
            blamed = [g.meter for g in self.book.live if self._rule.blames(view, binding, g.meter)]
            inputs: dict[str, Any] = {"persistence_s": self._settings.persistence_s, "view": view.as_entry()}
            for meter in blamed:
                outputs += self._lower(meter, 0.0, binding, inputs, now)
        return outputs

    def _known_s(self, point: MeterId, now: float) -> float:
        """Until when a point is known to be outside: a rule that foresees has lowered grants meanwhile, and waits for a
        reading that shows what came of it."""
        if not self._rule.foresees:
            return now
        taken_s = self._substation.taken_at_s if point == SUBSTATION else self.table[point].reading_at_s
        return -math.inf if taken_s is None else taken_s

    def _lower(
        self, meter: MeterId, limit_w: float, binding: Binding, inputs: dict[str, Any], now: float
    ) -> list[Output]:
        """Less of a grant at once, or nothing of it."""
        grant = self.book.grant_of(meter)
        if grant is None:
            return []
        decision = self._next_decision()
        part_w = limit_w if limit_w > self.table[meter].entry.nominal_limit_w else 0.0
        if part_w:
            self.book.lower(meter, decision, part_w)
        else:
            self.book.revoke(meter, decision)
        self._renewable.pop(meter, None)
        self._raises.drop(meter)
        message = Revoke(decision, binding.reason, binding.point, binding.value, part_w)
        self._revoked[meter] = (message, now)
        kind, what = ("lowered", "lowered") if part_w else ("revoke", "revoked")
        fields = {"meter": meter, **inputs, "revoked": str(grant.decision), "limit_w": part_w, **binding.as_entry()}
        return [
            self._entry(kind, decision, fields),
            SendDown(meter, message, Wait.BRIEFLY),
            Event(what, {"meter": meter, **binding.as_entry(), "limit_w": part_w, "decision": str(decision)}),
        ]


def _asked(request: Request) -> dict[str, Any]:
    """A request for the ledger; a number that is none is kept as a word."""

    def number(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    return {
        "id": request.request_id,
        "nonce": f"{request.nonce:016x}",
        "limit_w": number(request.limit_w),
        "minimum_limit_w": number(request.minimum_limit_w),
    }


def _objection(request: Request, entry: MeterEntry) -> Reason | None:
    """Why a question makes no sense whatever the grid bears."""
    if not (math.isfinite(request.limit_w) and math.isfinite(request.minimum_limit_w)):
        return Reason.BAD_REQUEST
    if not 0 <= request.minimum_limit_w <= request.limit_w or request.limit_w <= entry.nominal_limit_w:
        return Reason.BAD_REQUEST
    return Reason.ABOVE_CONTRACT if request.limit_w > entry.contract_limit_w else None
