"""What the household sees: who limits my export now, and why. Pure."""

from __future__ import annotations

from typing import Any, Final

from meter.core import MeterCore
from meter.dialogue import Happening, State
from meter.rules import alarm_names
from shared.messages import Denial, LimitSource, Reason, RelayState

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
}


def snapshot(core: MeterCore, now: float) -> dict[str, Any]:
    """Everything the household asks a meter, as JSON types; the sentence is in ``why``."""
    limiter, wish, rules = core.limiter, core.dialogue, core.rules
    reading = rules.reading
    return {
        "meter": core.settings.id,
        "limit_w": limiter.limit_w,
        "nominal_limit_w": limiter.nominal_limit_w,
        "contract_limit_w": core.settings.contract_limit_w,
        "limited_by": "grant" if limiter.live else "meter" if limiter.source is LimitSource.LOCAL_FAULT else "nominal",
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
        "alarms": alarm_names(rules.alarms),
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
    limiter, wish = core.limiter, core.dialogue
    if limiter.live:
        return _granted(core, now)
    if wish.state is State.DENIED and core.denied is not None:
        words = f"Your request was denied: {_denial(core.denied)}."
    elif wish.state is State.ASKING:
        words = "Your request waits for an answer" + ("." if core.linked else ": there is no link to the substation.")
    elif limiter.source is LimitSource.LOCAL_FAULT or wish.outcome is Happening.FELL_BACK:
        words = f"This meter has fallen back to nominal by itself: {core.fell_back}."
    elif wish.outcome is Happening.GAVE_UP:
        words = "The substation did not answer your request."
    else:
        words = _WHY[limiter.source]
    return f"{words} The limit is your nominal {limiter.nominal_limit_w:g} W."


def _granted(core: MeterCore, now: float) -> str:
    limiter = core.limiter
    left_s = limiter.lease_left_s(now)
    words = f"The substation has granted {limiter.limit_w:g} W; unless renewed it ends in {left_s:.0f} s."
    if core.rules.commanded is RelayState.RAISED:
        return words
    return f"{words} That is less than the inverter's raised set-point, which therefore stays nominal."


def _denial(denial: Denial) -> str:
    where = "" if denial.binding is None else f" at {denial.binding}"
    value = "" if denial.value is None else f" ({denial.value:g} V)"
    return _REASONS.get(denial.reason, "the substation says no") + where + value
