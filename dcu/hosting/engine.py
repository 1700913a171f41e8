"""The hosting engine: reports, requests and the busbar's voltage in; records and messages out.

Everything a decision does to the books happens inside one call, before any output leaves: check and reserve are one
synchronous step. Outputs stand in the order in which they must be performed, a record before the message it is about.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from dcu.hosting.decide import RULE, Band, Binding, obstacles, violations
from dcu.hosting.grants import GrantBook, LiveGrant, reserved_for_s
from dcu.hosting.measurements import MeasurementSet, Substation, measure
from dcu.hosting.predict import predict
from dcu.meters import Acceptance, MeterEntry, MeterState, MeterTable
from shared.ids import Epoch, MeterId, RequestId
from shared.messages import (
    LEASE_S_MAX,
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

REQUEST_S_MAX: Final = 20.0
"""[s] A request that could not be decided for so long (quarantine) is dropped; its meter repeats it with a fresh
nonce."""

RECENT: Final = 8
"""Decisions kept in words, for people."""

DENIALS_MAX: Final = 1024
"""Denials remembered, so that the same question gets the same answer."""

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
    """

    nominal_voltage_v: float = 230.0
    band_pct: float = 5.0
    persistence_s: float = 10.0
    lease_s: float = LEASE_S_MAX
    renew_interval_s: float = 15.0
    decision_window_s: float = 1.0
    reading_age_s_max: float = 40.0
    reservations_max: int = 200

    def __post_init__(self) -> None:
        assert 0 < self.lease_s <= LEASE_S_MAX, self.lease_s

    @property
    def band(self) -> Band:
        """Voltages allowed for decisions."""
        return Band.around(self.nominal_voltage_v, self.band_pct)


# ---- inputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportArrived:
    """A meter reports."""

    meter: MeterId
    report: Report


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A meter asks."""

    meter: MeterId
    request: Request


@dataclass(frozen=True, slots=True)
class ReleaseArrived:
    """A meter gives back."""

    meter: MeterId
    release: Release


@dataclass(frozen=True, slots=True)
class SubstationRead:
    """The balancing meter was read (None: it gave no valid reading)."""

    reading: Reading | None


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A meter's connection opened or closed."""

    meter: MeterId
    up: bool


@dataclass(frozen=True, slots=True)
class StorageFailed:
    """The ledger cannot be written; nothing is granted any more until a restart."""

    reason: str


Input = ReportArrived | RequestArrived | ReleaseArrived | SubstationRead | LinkChanged | StorageFailed


# ---- outputs ---------------------------------------------------------------------------------------------------------


class Wait(Enum):
    """How long the message after a record waits for the disk."""

    DURABLE = "until it is durable"
    BRIEFLY = "a quarter of a second at most"


@dataclass(frozen=True, slots=True)
class Record:
    """Write an entry to the ledger."""

    entry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendDown:
    """Send a message to a meter, after the record before it."""

    meter: MeterId
    message: Downward
    wait: Wait = Wait.DURABLE


@dataclass(frozen=True, slots=True)
class Event:
    """A transition worth a line in the log."""

    what: str
    fields: dict[str, object]


Output = Record | SendDown | Event


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

    def __init__(self, settings: SiteSettings, meters: tuple[MeterEntry, ...], epoch: Epoch, now: float) -> None:
        self._settings = settings
        self._epoch = epoch
        self._started_s = now
        self._seq = 0
        self.table = MeterTable(meters)
        self.book = GrantBook(settings.reservations_max)
        self._substation = Substation()
        self._pending: dict[MeterId, _Pending] = {}
        self._denied: dict[tuple[MeterId, RequestId], Denial] = {}
        self._violated_since: dict[MeterId, float] = {}
        self._greeted_s: dict[MeterId, float] = {}
        self._revoked: dict[MeterId, tuple[Revoke, float]] = {}
        self._due: dict[MeterId, _Due] = {}
        self._withheld: set[MeterId] = set()
        self._quarantined = True
        self._storage_failed = False
        self.recent: deque[str] = deque(maxlen=RECENT)

    # ---- the machine -------------------------------------------------------------------------------------------------

    def start(self) -> list[Output]:
        """The first entry of this epoch: decision number 0, the nominal limits; to be durable before anything is
        sent."""
        limits = {state.entry.id: state.entry.nominal_limit_w for state in self.table.states()}
        return [Record({"kind": "start", "epoch": self._epoch, "seq": 0, "rule": RULE, "nominal_limit_w": limits})]

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

    def measurements(self, now: float) -> MeasurementSet:
        """What is known of the feeder at ``now`` [s]."""
        return self._measure(now)

    @property
    def quarantined(self) -> bool:
        """Whether nothing may be granted yet."""
        return self._quarantined

    @property
    def wake_at(self) -> float | None:
        deadlines = [self.book.wake_at]
        if self._due:
            deadlines.append(min(due.since_s for due in self._due.values()) + ACKNOWLEDGE_S)
        if self._quarantined:
            deadlines.append(self._started_s + QUARANTINE_S)
        elif self._pending:
            deadlines.append(self._window_end(min(pending.since_s for pending in self._pending.values())))
        if self._pending:
            deadlines.append(min(pending.since_s for pending in self._pending.values()) + REQUEST_S_MAX)
        if self.book.live and self._violated_since:
            deadlines.append(min(self._violated_since.values()) + self._settings.persistence_s)
        return min((at for at in deadlines if at is not None), default=None)

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
                self._watch_band(now)
                return []
            case LinkChanged():
                return self._link(item, now)
            case StorageFailed():
                self._storage_failed = True
                self._pending.clear()
                return [Event("storage failed", {"reason": item.reason})]

    def wake(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for grant in self.book.expire(now):
            fields = {"meter": grant.meter, "limit_w": grant.limit_w, "decision": str(grant.decision)}
            outputs += [self._entry("expired", None, fields), Event("grant expired", {"meter": grant.meter})]
        if self._quarantined and now >= self._started_s + QUARANTINE_S:
            outputs += self._end_quarantine("time")
        self._watch_band(now)
        outputs += self._revoke_if_persistent(now)
        for meter in [meter for meter, due in self._due.items() if now >= due.since_s + ACKNOWLEDGE_S]:
            outputs += self._flush(meter)
        for meter, pending in list(self._pending.items()):
            if now >= pending.since_s + REQUEST_S_MAX:
                del self._pending[meter]
            elif not self._quarantined and now >= self._window_end(pending.since_s):
                del self._pending[meter]
                outputs += self._decide(meter, pending.request, now)
        return outputs

    def _window_end(self, since_s: float) -> float:
        """The edge of the window in which a request arrived; windows are counted from the start."""
        window_s = self._settings.decision_window_s
        return self._started_s + (int((since_s - self._started_s) / window_s) + 1) * window_s

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
        self._watch_band(now)
        outputs += self._follow_up(state, report, now)
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

    def _follow_up(self, state: MeterState, report: Report, now: float) -> list[Output]:
        """Renew a live grant, or repeat a revoke that the meter has not taken."""
        meter = state.entry.id
        revoked = self._revoked.get(meter)
        if revoked is not None:
            message, sent_s = revoked
            if report.applied == message.decision:
                del self._revoked[meter]
            elif report.source is LimitSource.GRANT and now >= sent_s + REPEAT_S:
                self._revoked[meter] = (message, now)
                return [SendDown(meter, message, Wait.BRIEFLY)]
            return []
        grant = self.book.grant_of(meter)
        if grant is None or report.nonce is None:
            return []
        if report.source is not LimitSource.GRANT:
            # Our grant may still be on its way to the meter; if it is not, it ended there.
            if report.applied == grant.decision:
                self.book.end(meter)
            return []
        if now < grant.decided_at_s + self._settings.renew_interval_s or self._quarantined or self._storage_failed:
            return []
        return self._renew(grant, report, now)

    def _renew(self, grant: LiveGrant, report: Report, now: float) -> list[Output]:
        """A full new decision on the newest measurements."""
        measurements = self._measure(now)
        binding = self._obstacle(self.table[grant.meter], grant.limit_w, measurements)
        if binding is not None:
            if grant.meter in self._withheld:
                return []
            self._withheld.add(grant.meter)
            fields: dict[str, object] = {"meter": grant.meter, "reason": binding.reason.name, "binding": binding.point}
            return [Event("renewal withheld", fields)]
        self._withheld.discard(grant.meter)
        assert report.nonce is not None
        request = Request(grant.request_id, report.nonce, report.epoch, grant.limit_w, grant.limit_w)
        return self._grant("renewal", grant.meter, request, grant.limit_w, measurements, now)

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
            return [SendDown(meter, denied)]
        waiting = self._pending.get(meter)
        since_s = now if waiting is None or waiting.request.request_id != request.request_id else waiting.since_s
        self._pending[meter] = _Pending(request, since_s)
        return []

    def _decide(self, meter: MeterId, request: Request, now: float) -> list[Output]:
        state = self.table[meter]
        limit_w = min(request.limit_w, state.entry.contract_limit_w)
        measurements = self._measure(now)
        if not 0 <= request.minimum_limit_w <= state.entry.contract_limit_w or not request.limit_w >= 0:
            return self._deny(meter, request, Binding(Reason.ABOVE_CONTRACT, meter, None), measurements)
        binding = self._obstacle(state, limit_w, measurements)
        if binding is not None:
            return self._deny(meter, request, binding, measurements)
        return self._grant("grant", meter, request, limit_w, measurements, now)

    def _obstacle(self, state: MeterState, limit_w: float, measurements: MeasurementSet) -> Binding | None:
        """Why not; None if nothing stands against it."""
        if state.alarms & BLOCKING_ALARMS:
            return Binding(Reason.LOCAL_ALARM, state.entry.id, None)
        if self.book.full:
            return Binding(Reason.TOO_MANY_GRANTS, state.entry.id, None)
        limits_w = {**self.book.reserved_w(), state.entry.id: limit_w}
        found = obstacles(predict(measurements, limits_w), self._settings.band)
        return found[0] if found else None

    def _measure(self, now: float) -> MeasurementSet:
        return measure(self.table.states(), self._substation, self._settings.reading_age_s_max, now)

    def _grant(
        self, kind: str, meter: MeterId, request: Request, limit_w: float, measurements: MeasurementSet, now: float
    ) -> list[Output]:
        decision = self._next_decision()
        lease_s = self._settings.lease_s
        expires_s = now + reserved_for_s(lease_s)
        live = LiveGrant(meter, request.request_id, decision, limit_w, now, expires_s)
        self.book.reserve(live, lease_s)
        self._revoked.pop(meter, None)
        fields = self._inputs(meter, request, measurements) | {
            "limit_w": limit_w,
            "lease_s": lease_s,
            "reason": Reason.GRANTED.name,
        }
        message = Grant(decision, request.request_id, request.nonce, limit_w, lease_s)
        outputs: list[Output] = [self._entry(kind, decision, fields), SendDown(meter, message)]
        if kind == "grant":
            outputs.append(Event("granted", {"meter": meter, "limit_w": limit_w, "decision": str(decision)}))
        return outputs

    def _deny(self, meter: MeterId, request: Request, binding: Binding, measurements: MeasurementSet) -> list[Output]:
        decision = self._next_decision()
        message = Denial(decision, request.request_id, binding.reason, binding.point, binding.value)
        while len(self._denied) >= DENIALS_MAX:
            del self._denied[next(iter(self._denied))]
        self._denied[meter, request.request_id] = message
        fields = self._inputs(meter, request, measurements) | _because(binding)
        return [
            self._entry("denial", decision, fields),
            SendDown(meter, message),
            Event("denied", {"meter": meter, **_because(binding), "decision": str(decision)}),
        ]

    def _inputs(self, meter: MeterId, request: Request, measurements: MeasurementSet) -> dict[str, Any]:
        """Everything the decision rests on."""
        band = self._settings.band
        return {
            "meter": meter,
            "rule": RULE,
            "request": {
                "id": request.request_id,
                "nonce": f"{request.nonce:016x}",
                "limit_w": request.limit_w,
                "minimum_limit_w": request.minimum_limit_w,
            },
            "band_v": [round(band.low_v, 6), round(band.high_v, 6)],
            "measurements": measurements.as_entry(),
            "reserved_w": dict(self.book.reserved_w()),
        }

    def _release(self, meter: MeterId, release: Release) -> list[Output]:
        if release.epoch != self._epoch:
            return []
        waiting = self._pending.get(meter)
        if waiting is not None and waiting.request.request_id == release.request_id:
            del self._pending[meter]
        if self.book.grant_of(meter) is None:
            return []
        self.book.released(meter, release.applied)
        fields = {"meter": meter, "request": {"id": release.request_id}}
        return [self._entry("release", None, fields), Event("released", {"meter": meter})]

    # ---- revocation --------------------------------------------------------------------------------------------------

    def _watch_band(self, now: float) -> None:
        """Note since when each point is outside the band; a point that is back, or unknown, starts anew."""
        if not self.book.live:
            self._violated_since.clear()
            return
        outside = {binding.point for binding in self._violations(now)}
        self._violated_since = {point: self._violated_since.get(point, now) for point in outside}

    def _violations(self, now: float) -> list[Binding]:
        return violations(predict(self._measure(now), self.book.reserved_w()), self._settings.band)

    def _revoke_if_persistent(self, now: float) -> list[Output]:
        due = [p for p, since_s in self._violated_since.items() if now >= since_s + self._settings.persistence_s]
        if not due:
            return []
        binding = next(binding for binding in self._violations(now) if binding.point in due)
        outputs: list[Output] = []
        for grant in self.book.live:
            decision = self._next_decision()
            self.book.revoke(grant.meter, decision)
            message = Revoke(decision, binding.reason, binding.point, binding.value)
            self._revoked[grant.meter] = (message, now)
            fields = {
                "meter": grant.meter,
                "rule": RULE,
                "revoked": str(grant.decision),
                "persistence_s": self._settings.persistence_s,
                "measurements": self._measure(now).as_entry(),
                **_because(binding),
            }
            outputs += [
                self._entry("revoke", decision, fields),
                SendDown(grant.meter, message, Wait.BRIEFLY),
                Event("revoked", {"meter": grant.meter, **_because(binding), "decision": str(decision)}),
            ]
        self._violated_since.clear()
        return outputs


def _because(binding: Binding) -> dict[str, Any]:
    return {"reason": binding.reason.name, "binding": binding.point, "value": binding.value}
