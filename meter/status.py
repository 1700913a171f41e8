"""What the household sees: who limits my export now, and why. Pure."""

from __future__ import annotations

from typing import Any, Final

from meter.core import MeterCore
from meter.dialogue import Happening, State
from meter.limits import Limit, Limiter
from shared.messages import Denial, LimitSource, Reason, RelayState, Revoke

_WHY: Final = {
    LimitSource.BOOT: "No increase has been granted since this meter started.",
    LimitSource.NOMINAL: "No increase is granted.",
    LimitSource.LEASE_ENDED: "The last grant ended because it was not renewed.",
    LimitSource.REVOKED: "The substation has withdrawn the last grant.",
    LimitSource.RELEASED: "The last grant was given back.",
    LimitSource.NEW_EPOCH: "The substation has started anew, which ends all grants.",
}

_REASONS: Final = {
    Reason.OVERVOLTAGE: "the voltage is too high",
    Reason.UNDERVOLTAGE: "the voltage is too low",
    Reason.READING_MISSING: "there is no reading",
    Reason.READING_STALE: "the newest reading is too old",
    Reason.READING_INVALID: "the reading is not valid",
    Reason.SUBSTATION_UNKNOWN: "the voltage is not known",
    Reason.QUARANTINE: "the substation has just started",
    Reason.STORAGE_FAILED: "the substation cannot record decisions",
    Reason.ABOVE_CONTRACT: "the limit is above the contract",
    Reason.NONCE_USED: "the question was already answered",
    Reason.NO_CAPACITY: "there is no capacity left",
    Reason.UNKNOWN_METER: "the substation does not know this meter",
    Reason.LOCAL_ALARM: "a meter has an alarm",
    Reason.TOO_MANY_GRANTS: "too many grants are in force",
    Reason.OPERATOR: "the operator says so",
    Reason.CURRENT: "a line or the transformer is fully used",
    Reason.UNBALANCE: "the phases are too unequally loaded",
    Reason.NO_POWER_FLOW: "the substation could not compute the effect",
    Reason.MODEL_UNUSABLE: "the substation has no usable model of the grid",
    Reason.READINGS_CONTRADICT: "the readings contradict each other",
    Reason.NO_AIRTIME: "the power line has no time left for renewals",
    Reason.BAD_REQUEST: "the question makes no sense to the substation",
    Reason.TOO_MANY_REQUESTS: "too many questions in a short time",
    Reason.BELOW_MINIMUM: "what is left is less than you asked for at least",
    Reason.SHARED: "the capacity is shared with others who ask too",
    Reason.NOT_LEARNT: "the substation has not yet learnt what your export does",
}

_UNITS: Final = {
    Reason.OVERVOLTAGE: " V",
    Reason.UNDERVOLTAGE: " V",
    Reason.CURRENT: " A",
    Reason.UNBALANCE: " %",
}
"""Of a decision's value; other values are told bare."""

_LOWER: Final = {
    Limiter.OVERVOLTAGE: "The local voltage is too high, which keeps it at {:g} W.",
    Limiter.CONTRACT: "Your contract keeps it at {:g} W.",
    Limiter.INSTALLATION: "Your installation keeps it at {:g} W.",
    Limiter.HOUSEHOLD: "You have capped it at {:g} W yourself.",
}


def snapshot(core: MeterCore, now: float) -> dict[str, Any]:
    """Everything the household asks a meter, as JSON types; the sentence is in ``why``."""
    limiter, wish, rules = core.limiter, core.dialogue, core.rules
    limit = core.limit(now)
    reading = rules.reading
    return {
        "meter": core.settings.id,
        "limit_w": limit.limit_w,
        "nominal_limit_w": limiter.nominal_limit_w,
        "contract_limit_w": core.settings.contract_limit_w,
        "limited_by": _limited_by(core, limit),
        "limits": {limit.by.value: limit.limit_w for limit in core.limits(now)},
        "source": limiter.source.name,
        "why": why(core, now),
        "decision": None if limiter.decision is None else str(limiter.decision),
        "lease_left_s": round(limiter.lease_left_s(now), 3),
        "wish": {
            "state": wish.state.value,
            "limit_w": wish.limit_w,
            "minimum_limit_w": wish.minimum_limit_w,
            "outcome": None if wish.outcome is None else wish.outcome.value,
        },
        "link": "up" if core.linked else "down",
        "epoch": limiter.epoch,
        "relay": rules.relay.name,
        "alarms": rules.alarms.names,
        "reading": None
        if reading is None
        else {
            "u_v": reading.u_v,
            "i_a": reading.i_a,
            "p_w": reading.p_w,
            "export_w": reading.export_w,
            "age_s": round(rules.reading_age_s(now), 3),
        },
        "outbox": {"waiting": len(core.outbox), "dropped": core.outbox.dropped},
    }


def why(core: MeterCore, now: float) -> str:
    """Who limits the export now, and why, in words."""
    words = _granted(core, now) if core.limiter.live else f"{_nominal(core)} {_your_nominal(core)}"
    limit = core.limit(now)
    lower = _LOWER.get(limit.by)
    return words if lower is None else f"{words} {lower.format(limit.limit_w)}"


def _limited_by(core: MeterCore, limit: Limit) -> str:
    """One word; a live grant is the limit even where it permits no more than nominal."""
    if limit.by in {Limiter.NOMINAL, Limiter.GRANT} and core.limiter.live:
        return Limiter.GRANT.value
    by_fault = limit.by is Limiter.NOMINAL and core.limiter.source is LimitSource.LOCAL_FAULT
    return "meter" if by_fault else limit.by.value


def _your_nominal(core: MeterCore) -> str:
    return f"The limit is your nominal {core.limiter.nominal_limit_w:g} W."


def _nominal(core: MeterCore) -> str:
    limiter, wish = core.limiter, core.dialogue
    if wish.state is State.DENIED and core.denied is not None:
        return f"Your request was denied: {_because(core.denied)}."
    if wish.state is State.ASKING:
        return "Your request waits for an answer" + ("." if core.linked else ": there is no link to the substation.")
    if limiter.source is LimitSource.LOCAL_FAULT or wish.outcome is Happening.FELL_BACK:
        return f"This meter has fallen back to nominal by itself: {core.fell_back}."
    if wish.outcome is Happening.GAVE_UP:
        return "The substation did not answer your request."
    if limiter.source is LimitSource.REVOKED and core.revoked is not None:
        return f"{_WHY[limiter.source]} The reason: {_because(core.revoked)}."
    return _WHY[limiter.source]


def _granted(core: MeterCore, now: float) -> str:
    limiter, wish = core.limiter, core.dialogue
    left_s = limiter.lease_left_s(now)
    words = [f"The substation has granted {limiter.limit_w:g} W; unless renewed it ends in {left_s:.0f} s."]
    if wish.state is State.CHANGING:
        words.append(f"Your request for {wish.limit_w:g} W waits for an answer; until then the old grant stays.")
    elif wish.outcome is Happening.DENIED and core.denied is not None:
        words.append(f"Your request for another limit was denied: {_because(core.denied)}. The old grant stays.")
    elif wish.outcome is Happening.GAVE_UP:
        words.append("The substation did not answer your request for another limit. The old grant stays.")
    elif wish.outcome is Happening.LOWERED and core.revoked is not None:
        words.append(f"It has taken a part of it back: {_because(core.revoked)}.")
    if core.rules.commanded is not RelayState.RAISED:
        words.append("That is less than the inverter's raised set-point, which therefore stays nominal.")
    return " ".join(words)


def _because(decision: Denial | Revoke) -> str:
    where = "" if decision.binding is None else f" at {decision.binding}"
    unit = _UNITS.get(decision.reason, "")
    value = "" if decision.value is None else f" ({decision.value:g}{unit})"
    unknown = f"the substation says no, for a reason that this meter does not know (number {decision.reason.value})"
    return _REASONS.get(decision.reason, unknown) + where + value
