"""The meter's core: readings, messages and wishes in; relay commands, reports and records out. Pure.

It puts the parts together (limiter, dialogue, outbox) and keeps the local rules that need no DCU: without a valid
reading, with a relay that disagrees, with export above the limit or with too high a voltage, the limit is nominal.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from typing import Any, Final

from meter.dialogue import Dialogue, Happening
from meter.dialogue import State as WishState
from meter.limiter import Answer, ExportLimiter
from meter.outbox import Outbox
from shared.em330 import Invalid
from shared.ids import MeterId, Phase
from shared.messages import (
    Acknowledgement,
    Alarm,
    Denial,
    Downward,
    Grant,
    LimitSource,
    NominalLimit,
    Reading,
    RelayState,
    Release,
    Report,
    Request,
    Revoke,
    Upward,
)

READING_S_MAX: Final = 3.0
"""[s] Raised without a valid reading for so long: nominal (bad-input rule for Modbus)."""

RELAY_S_MAX: Final = 1.0
"""[s] The read-back has to follow the command within this."""

ABOVE_LIMIT_S: Final = 5.0
"""[s] Export above the limit for so long is an alarm (invariant I8)."""

ABOVE_LIMIT_SHARE: Final = 0.05
ABOVE_LIMIT_W: Final = 100.0
OVERVOLTAGE_S: Final = 10.0
"""[s] Voltage above the local threshold for so long: nominal (invariant I15)."""

REPORT_SOON_S: Final = 0.05
"""[s] A report that acknowledges a decision follows it at once, but lets one acknowledgement carry several."""

READING_ALARMS: Final = (
    Alarm.METER_SILENT | Alarm.METER_FROZEN | Alarm.METER_IMPLAUSIBLE | Alarm.WRONG_DEVICE | Alarm.EXPORT_NOT_MEASURABLE
)
"""Alarms that the next valid reading clears."""


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """What the core is told about its customer.

    Attributes:
        nominal_limit_w: export limit without a grant.
        contract_limit_w: no grant may go beyond it.
        overvoltage_v: local threshold of the ten-second rule.
        report_interval_s: between two reports.
    """

    id: MeterId
    phases: tuple[Phase, ...]
    nominal_limit_w: float
    contract_limit_w: float
    overvoltage_v: float
    report_interval_s: float


# ---- inputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadingTaken:
    """The EM330 was read; ``taken_s`` is when the reading began [s]."""

    result: Reading | Invalid
    taken_s: float


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The connection to the DCU opened or closed."""

    up: bool


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """The DCU says something."""

    message: Downward


@dataclass(frozen=True, slots=True)
class HouseholdAsked:
    """The household, or its energy manager, wants a higher limit [W]."""

    limit_w: float
    minimum_limit_w: float


@dataclass(frozen=True, slots=True)
class HouseholdReleased:
    """The household wants it no longer."""


@dataclass(frozen=True, slots=True)
class RelayObserved:
    """What the read-back says now."""

    state: RelayState


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The outbox cannot be written."""

    reason: str


Input = ReadingTaken | LinkChanged | MessageArrived | HouseholdAsked | HouseholdReleased | RelayObserved | StoreFailed


# ---- outputs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetRelay:
    """Move the relay."""

    state: RelayState


@dataclass(frozen=True, slots=True)
class Persist:
    """Keep a report on disk."""

    report: Report


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop reports from disk."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SendUp:
    """Send a message to the DCU, after the record before it."""

    message: Upward


@dataclass(frozen=True, slots=True)
class Event:
    """A transition worth a line in the log."""

    what: str
    level: int = logging.INFO
    fields: dict[str, object] = field(default_factory=dict)


Output = SetRelay | Persist | Forget | SendUp | Event


class MeterCore:
    """Machine of one meter."""

    def __init__(
        self,
        settings: MeterSettings,
        draw: random.Random,
        stored: tuple[list[Report], int] = ((), 0),  # type: ignore[assignment]
    ) -> None:
        self._settings = settings
        self.limiter = ExportLimiter(settings.nominal_limit_w, settings.contract_limit_w, draw)
        self.dialogue = Dialogue(draw)
        self.outbox = Outbox(stored[0])
        self._boot_id = draw.getrandbits(32)
        self._seq = max(stored[1], self.outbox.next_seq)
        self._linked = False
        self.reading: Reading | None = None
        self._read_s: float | None = None
        self.alarms = Alarm.NONE
        self.relay = RelayState.UNKNOWN
        self._commanded = RelayState.NOMINAL
        self._commanded_s: float | None = None
        self._above_since: float | None = None
        self._high_since: float | None = None
        self._report_at: float | None = None
        self._denied: Denial | None = None

    # ---- the machine -------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        deadlines = [self.limiter.wake_at, self._report_at]
        if self._linked:
            deadlines.append(self.dialogue.wake_at)
        if self.limiter.raised:
            deadlines.append(None if self._read_s is None else self._read_s + READING_S_MAX)
        deadlines += [since + limit for since, limit in self._watched() if since is not None]
        return min((at for at in deadlines if at is not None), default=None)

    def handle(self, item: Input, now: float) -> list[Output]:
        if self._report_at is None:
            self._report_at = now
        match item:
            case ReadingTaken():
                outputs = self._take(item, now)
            case MessageArrived():
                outputs = self._message(item.message, now)
            case RelayObserved():
                self.relay = item.state
                outputs = []
            case LinkChanged():
                outputs = self._link(item.up, now)
            case HouseholdAsked():
                self.dialogue.wish(item.limit_w, item.minimum_limit_w, now)
                outputs = [Event("household asks", fields={"limit_w": item.limit_w})]
            case HouseholdReleased():
                outputs = self._release(now)
            case StoreFailed():
                outputs = self._fail(Alarm.STORAGE_FAILED, item.reason)
        return outputs + self._settle(now)

    def wake(self, now: float) -> list[Output]:
        return self._settle(now)

    def _settle(self, now: float) -> list[Output]:
        """What time and state demand after any input: local rules, the relay, then words."""
        outputs: list[Output] = []
        if self.limiter.wake(now):
            outputs.append(Event("lease ended", fields={"limit_w": self.limiter.limit_w}))
            self.dialogue.happens(Happening.ENDED, now)
            self._report_soon(now)
        outputs += self._local_rules(now)
        outputs += self._move_relay(now)
        if self._linked and self.dialogue.ask_now(now):
            outputs += self._ask(now)
        if self._report_at is not None and now >= self._report_at:
            outputs += self._report(now)
        return outputs

    # ---- local rules -------------------------------------------------------------------------------------------------

    def _take(self, item: ReadingTaken, now: float) -> list[Output]:
        before = self.alarms
        if isinstance(item.result, Invalid):
            self.reading = None
            self.alarms = (self.alarms & ~READING_ALARMS) | item.result.alarm
            if self.alarms == before:
                return []
            return [Event("no reading", logging.WARNING, {"why": str(item.result)})]
        self.reading, self._read_s = item.result, item.taken_s
        self.alarms &= ~READING_ALARMS
        self._above_since = self._since(self._above_since, self._exports_too_much(), now)
        self._high_since = self._since(self._high_since, self._voltage_too_high(), now)
        return [Event("reading again")] if self.alarms != before else []

    @staticmethod
    def _since(since: float | None, lasts: bool, now: float) -> float | None:
        if not lasts:
            return None
        return now if since is None else since

    def _exports_too_much(self) -> bool:
        assert self.reading is not None
        limit_w = self.limiter.limit_w
        return self.reading.export_w > limit_w + max(ABOVE_LIMIT_SHARE * limit_w, ABOVE_LIMIT_W)

    def _voltage_too_high(self) -> bool:
        assert self.reading is not None
        values = [self.reading.u_v[phase] for phase in self._settings.phases]
        return any(value is not None and value >= self._settings.overvoltage_v for value in values)

    def _watched(self) -> list[tuple[float | None, float]]:
        disagrees = self._commanded_s if self.relay is not self._commanded else None
        latched = bool(self.alarms & Alarm.RELAY_DISAGREES)
        above = None if self.alarms & Alarm.EXPORT_ABOVE_LIMIT else self._above_since
        high = self._high_since if self.limiter.raised else None
        return [(None if latched else disagrees, RELAY_S_MAX), (above, ABOVE_LIMIT_S), (high, OVERVOLTAGE_S)]

    def _local_rules(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self.limiter.raised and (self._read_s is None or now >= self._read_s + READING_S_MAX):
            self._drop(now)
            outputs.append(Event("nominal: no valid reading", logging.WARNING))
        disagrees, above, high = (since is not None and now >= since + limit for since, limit in self._watched())
        if disagrees:
            outputs += self._fail(Alarm.RELAY_DISAGREES, f"commanded {self._commanded.name}, read {self.relay.name}")
        if above:
            outputs += self._fail(Alarm.EXPORT_ABOVE_LIMIT, f"limit {self.limiter.limit_w:g} W")
        if high:
            self._drop(now)
            outputs.append(Event("nominal: local over-voltage", logging.WARNING))
        return outputs

    def _drop(self, now: float) -> None:
        """Nominal for a reason of our own; the wish ends, the household may ask again."""
        self.limiter.fault()
        self.dialogue.happens(Happening.REVOKED, now)
        self._report_soon(now)

    def _fail(self, alarm: Alarm, why: str) -> list[Output]:
        """Latch an alarm: nominal until somebody looks and restarts the meter."""
        if alarm in self.alarms:
            return []
        self.alarms |= alarm
        self.limiter.fault()
        return [Event("alarm", logging.ERROR, {"alarm": alarm.name, "why": why})]

    def _move_relay(self, now: float) -> list[Output]:
        wanted = RelayState.RAISED if self.limiter.raised else RelayState.NOMINAL
        if wanted is self._commanded and self._commanded_s is not None:
            return []
        self._commanded, self._commanded_s = wanted, now
        self._above_since = None  # the inverter gets its time to follow
        return [SetRelay(wanted)]

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _message(self, message: Downward, now: float) -> list[Output]:
        match message:
            case Grant():
                return self._granted(message, now)
            case Denial():
                return self._was_denied(message, now)
            case Revoke():
                if not self.limiter.revoke(message):
                    return []
                self.dialogue.happens(Happening.REVOKED, now)
                self._report_soon(now)
                fields: dict[str, object] = {"reason": message.reason.name, "binding": message.binding}
                return [Event("revoked", fields=fields)]
            case NominalLimit():
                return self._greeted(message, now)
            case Acknowledgement():
                return [Forget((message.seq,))] if self.outbox.settle(message.seq) else []

    def _granted(self, grant: Grant, now: float) -> list[Output]:
        renewal = self.limiter.request_id == grant.request_id
        wished = self.dialogue.state is not WishState.IDLE and grant.request_id == self.dialogue.request_id
        answer = self._answer(grant, now) if wished else Answer.UNKNOWN_NONCE
        if answer is not Answer.APPLIED:
            return [Event("grant refused", logging.WARNING, {"decision": str(grant.decision), "why": answer.value})]
        self.dialogue.happens(Happening.GRANTED, now)
        self._report_soon(now)
        if renewal:
            return []
        lease_s = self.limiter.lease_left_s(now)
        return [
            Event("granted", fields={"limit_w": grant.limit_w, "lease_s": lease_s, "decision": str(grant.decision)})
        ]

    def _answer(self, grant: Grant, now: float) -> Answer:
        if self.alarms & ~Alarm.OUTBOX_FULL or self.reading is None:
            return Answer.FAULT
        return self.limiter.accept(grant, now)

    def _was_denied(self, denial: Denial, now: float) -> list[Output]:
        asked = denial.request_id == self.dialogue.request_id and denial.decision.epoch == self.limiter.epoch
        if not asked or not self.dialogue.happens(Happening.DENIED, now):
            return []
        self._denied = denial
        return [
            Event("denied", fields={"reason": denial.reason.name, "binding": denial.binding, "value": denial.value})
        ]

    def _greeted(self, greeting: NominalLimit, now: float) -> list[Output]:
        """A DCU names its epoch and our nominal limit; lowering is always obeyed, raising only up to the
        configuration."""
        if greeting.decision.epoch < self.limiter.epoch or not greeting.limit_w >= 0:
            return []
        outputs: list[Output] = []
        if self.limiter.adopt(greeting.decision.epoch):
            outputs.append(Event("epoch adopted", fields={"epoch": greeting.decision.epoch}))
            self.dialogue.happens(Happening.ENDED, now)
            self.dialogue.listened(now)
        self.limiter.nominal_limit_w = min(self._settings.nominal_limit_w, greeting.limit_w)
        self._report_soon(now)
        return outputs

    def _link(self, up: bool, now: float) -> list[Output]:
        if up == self._linked:
            return []
        self._linked = up
        if up:
            self.dialogue.listened(now)
            self._report_soon(now)
        return [Event("linked" if up else "link lost")]

    def _release(self, now: float) -> list[Output]:
        applied = self.limiter.applied
        request_id = self.dialogue.request_id
        if not self.dialogue.happens(Happening.RELEASED, now):
            return []
        self.limiter.release()
        outputs: list[Output] = [Event("household releases"), *self._move_relay(now)]
        if self._linked:
            outputs.append(SendUp(Release(request_id, self.limiter.epoch, applied)))
        return outputs

    def _ask(self, now: float) -> list[Output]:
        wish = self.dialogue
        nonce = self.limiter.draw_nonce(now)
        return [SendUp(Request(wish.request_id, nonce, self.limiter.epoch, wish.limit_w, wish.minimum_limit_w))]

    # ---- reports -----------------------------------------------------------------------------------------------------

    def _report_soon(self, now: float) -> None:
        soon = now + REPORT_SOON_S
        self._report_at = soon if self._report_at is None else min(soon, self._report_at)

    def _report(self, now: float) -> list[Output]:
        self._report_at = now + self._settings.report_interval_s
        report = Report(
            boot_id=self._boot_id,
            seq=self._seq,
            nonce=self.limiter.draw_nonce(now),
            epoch=self.limiter.epoch,
            reading=self.reading,
            reading_age_s=0.0 if self._read_s is None or self.reading is None else max(0.0, now - self._read_s),
            limit_w=self.limiter.limit_w,
            source=self.limiter.source,
            relay=self.relay,
            lease_left_s=self.limiter.lease_left_s(now),
            applied=self.limiter.applied,
            alarms=self.alarms,
        )
        self._seq += 1
        backlog = self.outbox.backlog(now) if self._linked else None
        dropped = self.outbox.put(report, now)
        outputs: list[Output] = [] if Alarm.STORAGE_FAILED in self.alarms else [Persist(report)]
        if dropped:
            outputs.append(Forget(tuple(dropped)))
            if Alarm.OUTBOX_FULL not in self.alarms:
                self.alarms |= Alarm.OUTBOX_FULL
                outputs.append(Event("outbox full", logging.WARNING, {"dropped": self.outbox.dropped}))
        elif Alarm.OUTBOX_FULL in self.alarms:
            self.alarms &= ~Alarm.OUTBOX_FULL
        if self._linked:
            outputs.append(SendUp(report))
            if backlog is not None:
                outputs.append(SendUp(backlog))
        return outputs

    # ---- for people --------------------------------------------------------------------------------------------------

    def status(self, now: float) -> dict[str, Any]:
        """Who limits me now, and why."""
        reading = self.reading
        return {
            "meter": self._settings.id,
            "limit_w": self.limiter.limit_w,
            "nominal_limit_w": self.limiter.nominal_limit_w,
            "contract_limit_w": self._settings.contract_limit_w,
            "source": self.limiter.source.name,
            "why": self._why(now),
            "lease_left_s": round(self.limiter.lease_left_s(now), 3),
            "wish": {
                "state": self.dialogue.state.value,
                "limit_w": self.dialogue.limit_w,
                "outcome": self.dialogue.outcome,
            },
            "link": "up" if self._linked else "down",
            "epoch": self.limiter.epoch,
            "relay": self.relay.name,
            "alarms": [alarm.name for alarm in Alarm if alarm and alarm in self.alarms],
            "reading": None
            if reading is None
            else {
                "u_v": reading.u_v,
                "i_a": reading.i_a,
                "p_w": reading.p_w,
                "export_w": reading.export_w,
                "age_s": None if self._read_s is None else round(now - self._read_s, 3),
            },
            "outbox": len(self.outbox),
        }

    def _why(self, now: float) -> str:
        source = self.limiter.source
        if source is LimitSource.GRANT:
            left_s = self.limiter.lease_left_s(now)
            return f"The substation has granted {self.limiter.limit_w:g} W; without renewal it ends in {left_s:.0f} s."
        words = _WHY[source]
        if self.dialogue.outcome == Happening.DENIED.value and self._denied is not None:
            value = "" if self._denied.value is None else f" ({self._denied.value:g} V)"
            reason = self._denied.reason.name.lower().replace("_", " ")
            words = f"Your request was denied: {reason} at {self._denied.binding}{value}."
        return f"{words} The limit is your nominal {self.limiter.nominal_limit_w:g} W."


_WHY: Final = {
    LimitSource.BOOT: "No increase has been granted since this meter started.",
    LimitSource.NOMINAL: "No increase is granted.",
    LimitSource.LEASE_ENDED: "The last grant ended because it was not renewed.",
    LimitSource.REVOKED: "The substation has withdrawn the last grant.",
    LimitSource.RELEASED: "The last grant was given back.",
    LimitSource.NEW_EPOCH: "The substation has started anew, which ends all grants.",
    LimitSource.LOCAL_FAULT: "This meter has fallen back to nominal by itself; see its alarms.",
}
