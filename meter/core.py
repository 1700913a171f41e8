"""The meter's core: readings, messages and wishes in; relay commands, records and reports out. Pure.

It puts the parts together: limiter (may we export more, until when), limits (what lowers that), dialogue (what the
household wishes), outbox (what the DCU does not have yet) and local rules (what sends us back to nominal without any
DCU). Outputs stand in the order in which they must be performed: the relay first, then the record, then the message
about it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from meter.dialogue import Dialogue, DialogueSettings, Happening
from meter.limiter import EPOCH_NONE, Answer, ExportLimiter, Lowering
from meter.limits import Ceilings, Limit, Limiter, strictest
from meter.outbox import Outbox
from meter.rules import FallBack, LocalRules
from shared.em330 import Invalid
from shared.errors import Fault
from shared.ids import Epoch, MeterId, Phase
from shared.messages import (
    LEASE_S_MAX,
    Acknowledgement,
    Alarm,
    DecisionId,
    Denial,
    Downward,
    Grant,
    NominalLimit,
    Reading,
    RelayState,
    Release,
    Report,
    Request,
    Revoke,
    Upward,
)

REPORT_GAP_S: Final = 5.0
"""[s] Between a report and one that only a changed draw calls for."""

REPORT_SOON_S: Final = 0.05
"""[s] A report that acknowledges a decision follows it at once, but lets one acknowledgement carry several."""


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """What the core is told about its customer.

    Attributes:
        nominal_limit_w: export limit without a grant.
        contract_limit_w: no grant may go beyond it.
        overvoltage_v: local threshold of the ten-second rule.
        report_interval_s: between two reports.
        report_change_w: a phase's draw that has changed by more since the last report is reported at once, not sooner
            than `REPORT_GAP_S` after it; None for never.
        raised_limit_w: what the inverter may export at its raised set-point; a grant of less cannot move the relay.
            None for the limit of the contract.
        lease_s_max: longest lease accepted, `LEASE_S_MAX` at most.
        dialogue: how insistently to ask.
        installation_limit_w: what the installation stands, below the contract or below nominal; None for no such limit.
    """

    id: MeterId
    phases: tuple[Phase, ...]
    nominal_limit_w: float
    contract_limit_w: float
    overvoltage_v: float
    report_interval_s: float
    raised_limit_w: float | None = None
    lease_s_max: float = LEASE_S_MAX
    dialogue: DialogueSettings = DialogueSettings()
    installation_limit_w: float | None = None
    report_change_w: float | None = None


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
    """The DCU says something; to all, it is a revoke that may not be for us."""

    message: Downward
    to_all: bool = False


@dataclass(frozen=True, slots=True)
class HouseholdAsked:
    """The household, or its energy manager, wants a higher limit [W]."""

    limit_w: float
    minimum_limit_w: float


@dataclass(frozen=True, slots=True)
class HouseholdReleased:
    """The household wants it no longer."""


@dataclass(frozen=True, slots=True)
class HouseholdCapped:
    """The household limits itself to so much [W], or, with None, no longer."""

    limit_w: float | None


@dataclass(frozen=True, slots=True)
class RelayObserved:
    """What the read-back says now."""

    state: RelayState


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The outbox cannot be written."""

    reason: str


Household = HouseholdAsked | HouseholdReleased | HouseholdCapped
"""What comes through the household's door."""

Input = ReadingTaken | LinkChanged | MessageArrived | Household | RelayObserved | StoreFailed


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
    """Send a message to the DCU; a report not before the record of it that stands ahead is durable."""

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
        self, settings: MeterSettings, draw: random.Random, stored: tuple[Sequence[Report], int] = ((), 0)
    ) -> None:
        """A meter that has just started, at nominal.

        Args:
            settings: the customer.
            draw: source of nonces, of the boot id and of request ids; unpredictable in the field.
            stored: reports kept from earlier boots, oldest first, and the next number.
        """
        self.settings = settings
        self.limiter = ExportLimiter(
            settings.nominal_limit_w, settings.contract_limit_w, draw, lease_s_max=settings.lease_s_max
        )
        self.dialogue = Dialogue(draw, settings.dialogue)
        self.outbox = Outbox(stored[0])
        self.rules = LocalRules(settings.phases, settings.overvoltage_v)
        self.linked = False
        self.denied: Denial | None = None
        self.revoked: Revoke | None = None
        self.household_limit_w: float | None = None
        self.fell_back = ""
        self.ignored = 0
        self._raised_limit_w = settings.contract_limit_w if settings.raised_limit_w is None else settings.raised_limit_w
        self._boot_id = draw.getrandbits(32)
        self._seq = max(stored[1], self.outbox.next_seq)
        self._report_at: float | None = None
        self._said: tuple[float, Reading] | None = None

    # ---- the machine -------------------------------------------------------------------------------------------------

    def limits(self, now: float) -> list[Limit]:
        """Every limit in force, the base first."""
        settings = self.settings
        over_w = self.limiter.nominal_limit_w if self.rules.overvoltage(now) else None
        ceilings = Ceilings(settings.contract_limit_w, settings.installation_limit_w, self.household_limit_w, over_w)
        return [self.limiter.base, *ceilings.limits()]

    def limit(self, now: float) -> Limit:
        """The export limit in force and who sets it."""
        base, *others = self.limits(now)
        return strictest(base, others)

    @property
    def wake_at(self) -> float | None:
        deadlines = [self.limiter.wake_at, self._report_at, self.rules.wake_at(raised=self.limiter.live)]
        if self.linked:
            deadlines.append(self.dialogue.wake_at)
        return min((at for at in deadlines if at is not None), default=None)

    def handle(self, item: Input, now: float) -> list[Output]:
        # A lease that is over ends before anything else is looked at, however late the pump comes round.
        outputs = self._end_lease(now)
        match item:
            case ReadingTaken():
                outputs += self._take(item)
            case MessageArrived():
                outputs += self._message(item, now)
            case RelayObserved():
                self.rules.observe(item.state, now)
            case LinkChanged():
                outputs += self._link(item.up, now)
            case HouseholdAsked():
                outputs += self._asked(item, now)
            case HouseholdReleased():
                outputs += self._release(now)
            case HouseholdCapped():
                outputs += self._capped(item.limit_w, now)
            case StoreFailed():
                if Alarm.STORAGE_FAILED not in self.rules.alarms:
                    outputs += self._fall_back(FallBack(item.reason, Alarm.STORAGE_FAILED), now)
        return outputs + self._settle(now)

    def wake(self, now: float) -> list[Output]:
        return self._end_lease(now) + self._settle(now)

    def _settle(self, now: float) -> list[Output]:
        """What time and state demand after any input: local rules, the relay, then words."""
        outputs: list[Output] = []
        while (broken := self.rules.judge(now, raised=self.limiter.live)) is not None:
            outputs += self._fall_back(broken, now)
        outputs += self._move_relay(now)
        if self.linked and self.dialogue.ask_now(now):
            outputs += self._ask(now)
        if self._report_at is None or now >= self._report_at:
            outputs += self._report(now)
        return outputs

    def _end_lease(self, now: float) -> list[Output]:
        if not self.limiter.wake(now):
            return []
        self.dialogue.happens(Happening.ENDED, now)
        self._report_soon(now)
        return [Event("lease ended", fields={"limit_w": self.limit(now).limit_w})]

    def _move_relay(self, now: float) -> list[Output]:
        limit_w = self.limit(now).limit_w
        self.rules.limited(limit_w, now)
        enough = self.limiter.raised and limit_w >= self._raised_limit_w
        wanted = RelayState.RAISED if enough else RelayState.NOMINAL
        if wanted is self.rules.commanded:
            return []
        self.rules.command(wanted, now)
        return [SetRelay(wanted)]

    # ---- local rules -------------------------------------------------------------------------------------------------

    def _take(self, item: ReadingTaken) -> list[Output]:
        before = self.rules.alarms
        self.rules.take(item.result, item.taken_s)
        outputs: list[Output] = []
        if self.rules.alarms != before:
            if self.rules.reading is None:
                why = str(item.result) if isinstance(item.result, Invalid) else "a connected phase without a number"
                outputs.append(Event("no reading", logging.WARNING, {"why": why}))
            else:
                outputs.append(Event("reading again"))
        self._report_change()
        return outputs

    def _report_change(self) -> None:
        """A draw that has changed is news to those who predict with it."""
        change_w, reading, said = self.settings.report_change_w, self.rules.reading, self._said
        if change_w is None or reading is None or said is None or self._report_at is None:
            return
        at_s, last = said
        if any(abs((new or 0.0) - (old or 0.0)) > change_w for new, old in zip(reading.p_w, last.p_w, strict=True)):
            self._report_at = min(self._report_at, at_s + REPORT_GAP_S)

    def _fall_back(self, broken: FallBack, now: float) -> list[Output]:
        """Nominal for a reason of our own. The wish ends with it: the household sees why and may ask again."""
        self.rules.alarms |= broken.alarm
        self.fell_back = broken.why
        self.limiter.fault()
        self.dialogue.happens(Happening.FELL_BACK, now)
        self._report_soon(now)
        if broken.alarm:
            return [Event("alarm", logging.ERROR, {"alarm": broken.alarm.name, "why": broken.why})]
        return [Event("fell back to nominal", logging.WARNING, {"why": broken.why})]

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _message(self, item: MessageArrived, now: float) -> list[Output]:
        message = self._said_to_all(item.message) if item.to_all else item.message
        epoch = message.epoch if isinstance(message, Acknowledgement) else message.decision.epoch
        if epoch < self.limiter.epoch:
            self.ignored += 1
            return []
        outputs = self._adopt(epoch, now)
        match message:
            case Grant():
                outputs += self._granted(message, now)
            case Denial():
                outputs += self._was_denied(message, now)
            case Revoke():
                takes_nothing = not self.limiter.live or message.limit_w >= self.limiter.limit_w
                if item.to_all and takes_nothing:
                    self.limiter.revoke(message)  # nonces are void all the same; the wish goes on, and no report
                else:
                    outputs += self._revoked(message, now)
            case NominalLimit():
                outputs += self._greeted(message, now)
            case Acknowledgement():
                numbers = range(max(0, message.seq - message.count + 1), message.seq + 1)
                settled = tuple(seq for seq in numbers if self.outbox.settle(seq))
                outputs += [Forget(settled)] if settled else []
        return outputs

    def _said_to_all(self, message: Downward) -> Revoke:
        """Whoever has the street's group key can have said it, and it may take from others what is left here: it must
        not make us obey another epoch, and it acknowledges no decision about us."""
        assert isinstance(message, Revoke), "the gate lets nothing else through"
        return replace(message, decision=DecisionId(self.limiter.epoch, 0))

    def _adopt(self, epoch: Epoch, now: float) -> list[Output]:
        """A DCU that started again: its predecessor's grant is void, a wish is asked anew."""
        first = self.limiter.epoch == EPOCH_NONE
        if not self.limiter.adopt(epoch):
            return []
        self.dialogue.happens(Happening.ENDED, now)
        self.dialogue.happens(Happening.GREETED if first else Happening.LISTENED, now)
        self._report_soon(now)
        return [Event("epoch adopted", fields={"epoch": epoch})]

    def _granted(self, grant: Grant, now: float) -> list[Output]:
        renewal = self.limiter.request_id == grant.request_id
        before_w = self.limiter.limit_w
        answer, why = self._judge(grant, now)
        if answer is not Answer.APPLIED:
            return [Event("grant refused", logging.WARNING, {"decision": str(grant.decision), "why": why})]
        # A renewal that gives no more is no news: what was last denied or taken back stays to be told.
        if grant.request_id == self.dialogue.request_id and not (renewal and grant.limit_w <= before_w):
            self.dialogue.happens(Happening.GRANTED, now)
        self._report_soon(now)
        if renewal:
            return []
        lease_s = self.limiter.lease_left_s(now)
        fields: dict[str, object] = {"limit_w": grant.limit_w, "lease_s": lease_s, "decision": str(grant.decision)}
        return [Event("granted", fields=fields)]

    def _judge(self, grant: Grant, now: float) -> tuple[Answer, str]:
        """Besides the open question a household wishes the grant that lives while it asks for another limit."""
        if not self.dialogue.wishes(grant.request_id):
            return Answer.NOT_WISHED, Answer.NOT_WISHED.value
        objection = self.rules.objection(now)
        if objection is not None:
            return Answer.FAULT, f"{Answer.FAULT.value}: {objection}"
        answer = self.limiter.accept(grant, now)
        return answer, answer.value

    def _was_denied(self, denial: Denial, now: float) -> list[Output]:
        if denial.request_id != self.dialogue.request_id or not self.dialogue.happens(Happening.DENIED, now):
            return []
        self.denied = denial
        why: dict[str, object] = {"reason": denial.reason.name, "binding": denial.binding, "value": denial.value}
        return [Event("denied", fields=why)]

    def _revoked(self, revoke: Revoke, now: float) -> list[Output]:
        lowering = self.limiter.revoke(revoke)
        partial = lowering is Lowering.PARTIAL
        self.revoked = revoke
        self.dialogue.happens(Happening.LOWERED if partial else Happening.REVOKED, now)
        self._report_soon(now)
        fields: dict[str, object] = {"reason": revoke.reason.name, "binding": revoke.binding}
        return [
            Event("lowered", fields=fields | {"limit_w": revoke.limit_w})
            if partial
            else Event("revoked", fields=fields)
        ]

    def _greeted(self, greeting: NominalLimit, now: float) -> list[Output]:
        """A DCU names our nominal limit; lowering is always obeyed, raising only up to the configuration."""
        if not greeting.limit_w >= 0:
            return []
        self.limiter.nominal_limit_w = min(self.settings.nominal_limit_w, greeting.limit_w)
        self._report_soon(now)
        return []

    def _link(self, up: bool, now: float) -> list[Output]:
        if up == self.linked:
            return []
        self.linked = up
        if up:
            self.dialogue.happens(Happening.LISTENED, now)
            self._report_soon(now)
        return [Event("linked" if up else "link lost")]

    # ---- the household -----------------------------------------------------------------------------------------------

    def objection(self, item: HouseholdAsked, now: float) -> Fault | None:
        """Why a wish cannot even be asked, or None."""
        low_w = self.limiter.nominal_limit_w
        ceiling = strictest(Limit(Limiter.CONTRACT, self.settings.contract_limit_w), self._lasting())
        if not (math.isfinite(item.limit_w) and low_w < item.limit_w <= ceiling.limit_w):
            whose = f"at most {ceiling.limit_w:g} W ({ceiling.by.value})"
            return Fault("limit_w", f"{item.limit_w:g}", f"more than {low_w:g} and {whose}")
        if not (math.isfinite(item.minimum_limit_w) and 0 <= item.minimum_limit_w <= item.limit_w):
            return Fault("minimum_limit_w", f"{item.minimum_limit_w:g}", f"0 to {item.limit_w:g} W")
        local = self.rules.objection(now)
        if local is not None:
            return Fault("meter", local, "a meter that can raise its limit")
        return None

    def _asked(self, item: HouseholdAsked, now: float) -> list[Output]:
        objection = self.objection(item, now)
        if objection is not None:
            return [Event("household refused", logging.WARNING, {"why": str(objection)})]
        if not self.dialogue.wish(item.limit_w, item.minimum_limit_w, now):
            return []
        return [Event("household asks", fields={"limit_w": item.limit_w, "minimum_limit_w": item.minimum_limit_w})]

    def _lasting(self) -> list[Limit]:
        """Ceilings that do not go away by themselves; asking for more than these is in vain."""
        settings = self.settings
        return Ceilings(settings.contract_limit_w, settings.installation_limit_w, self.household_limit_w).limits()

    def _capped(self, limit_w: float | None, now: float) -> list[Output]:
        if limit_w is not None and not (math.isfinite(limit_w) and limit_w >= 0):
            return [Event("household refused", logging.WARNING, {"why": f"a cap of {limit_w:g} W"})]
        if limit_w == self.household_limit_w:
            return []
        self.household_limit_w = limit_w
        self._report_soon(now)
        return [Event("household caps", fields={"limit_w": limit_w})]

    def _release(self, now: float) -> list[Output]:
        wished = self.dialogue.wished
        request_id = self.dialogue.request_id if wished else self.limiter.request_id
        if request_id is None:
            return []
        self.dialogue.happens(Happening.RELEASED, now)
        applied = self.limiter.applied
        self.limiter.release()
        outputs: list[Output] = [Event("household releases"), *self._move_relay(now)]
        if self.linked:
            outputs.append(SendUp(Release(request_id, self.limiter.epoch, applied)))
        self._report_soon(now)
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
        """Record, then send, then one of the backlog; without a link only the record."""
        self._report_at = now + self.settings.report_interval_s
        self._said = None if self.rules.reading is None else (now, self.rules.reading)
        report = Report(
            boot_id=self._boot_id,
            seq=self._seq,
            nonce=self.limiter.draw_nonce(now) if self.linked else None,
            epoch=self.limiter.epoch,
            reading=self.rules.reading,
            reading_age_s=self.rules.reading_age_s(now),
            limit_w=self.limit(now).limit_w,
            source=self.limiter.source,
            relay=self.rules.relay,
            lease_left_s=self.limiter.lease_left_s(now),
            applied=self.limiter.applied,
            alarms=self.rules.alarms,
        )
        self._seq += 1
        backlog = self.outbox.backlog(now) if self.linked else None
        outputs: list[Output] = [] if Alarm.STORAGE_FAILED in self.rules.alarms else [Persist(report)]
        outputs += self._keep(report, now)
        if self.linked:
            outputs.append(SendUp(report))
            if backlog is not None:
                outputs.append(SendUp(backlog))
        return outputs

    def _keep(self, report: Report, now: float) -> list[Output]:
        """The outbox takes a report; what falls out at the other end is forgotten, and an alarm says so."""
        dropped = self.outbox.put(report, now if self.linked else None)
        if not dropped:
            self.rules.alarms &= ~Alarm.OUTBOX_FULL
            return []
        outputs: list[Output] = [Forget(tuple(dropped))]
        if Alarm.OUTBOX_FULL not in self.rules.alarms:
            self.rules.alarms |= Alarm.OUTBOX_FULL
            outputs.append(Event("outbox full", logging.WARNING, {"dropped": self.outbox.dropped}))
        return outputs
