"""Decisions, limits and alarms as a person says them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dcu.ledger.page import REASONS

PLACED: Final = {
    "OVERVOLTAGE": "the voltage at {place} would rise too high",
    "UNDERVOLTAGE": "the voltage at {place} would fall too low",
    "CURRENT": "{place} would carry too much current",
    "UNBALANCE": "the phases at {place} would be too uneven",
    "READING_MISSING": "the meter {place} is silent",
    "READING_STALE": "the meter {place} has not reported for too long",
    "READING_INVALID": "a reading of {place} cannot be right",
    "READINGS_CONTRADICT": "the reading of {place} contradicts the others",
    "NOT_LEARNT": "the readings have not yet taught what an export at {place} does",
}
"""Reasons that have a place, as the end of a sentence that begins with "because"."""
MEASURED: Final = {
    "OVERVOLTAGE": "the voltage at {place} was too high",
    "UNDERVOLTAGE": "the voltage at {place} was too low",
    "CURRENT": "{place} carried too much current",
    "UNBALANCE": "the phases at {place} were too uneven",
}
"""The same where it was measured, which a value tells."""
OPERATOR: Final = {
    "ABOVE_CONTRACT": "the request was above what the contract allows",
    "QUARANTINE": "the DCU has just started and waits until no earlier grant can be in use",
    "STORAGE_FAILED": "the DCU cannot write its ledger, and grants nothing that it cannot record",
    "SUBSTATION_UNKNOWN": "the balancing meter at the transformer cannot be read",
    "TOO_MANY_GRANTS": "as many grants as the DCU can look after are in force",
    "LOCAL_ALARM": "the meter reports an alarm",
    "MODEL_UNUSABLE": "the DCU has no usable model of the feeder",
    "BELOW_MINIMUM": "what could be given is less than the least that was asked for",
    "SHARED": "the room is shared with others who ask",
    "NO_AIRTIME": "the power line has no time left to renew another grant",
}
"""Where the customer's words in the receipt would say "your"."""
KINDS: Final = {
    "grant": "Granted",
    "renewal": "Renewed",
    "denial": "Denied",
    "lowered": "Lowered",
    "revoke": "Revoked",
    "release": "Given back",
    "expired": "Ended",
    "start": "DCU started",
    "quarantine ended": "Quarantine ended",
    "ledger continued": "Ledger continued",
    "forgotten": "Values deleted",
}
SOURCES: Final = {
    "BOOT": "meter has started",
    "NOMINAL": "nominal",
    "GRANT": "grant",
    "LEASE_ENDED": "lease ended",
    "REVOKED": "revoked",
    "RELEASED": "given back",
    "NEW_EPOCH": "DCU restarted",
    "LOCAL_FAULT": "fault at the meter",
}
ALARMS: Final = {
    "EXPORT_NOT_MEASURABLE": "export cannot be measured",
    "METER_SILENT": "the analyser does not answer its meter",
    "METER_FROZEN": "readings do not move",
    "METER_IMPLAUSIBLE": "readings cannot be right",
    "WRONG_DEVICE": "another device answers",
    "RELAY_DISAGREES": "the relay is not where it was told to be",
    "EXPORT_ABOVE_LIMIT": "exports more than its limit",
    "STORAGE_FAILED": "the meter cannot write its memory",
    "OUTBOX_FULL": "the meter's outbox is full",
}


def power(watts: float | None) -> str:
    """In kilowatts from 1 kW on."""
    if watts is None:
        return "unknown"
    return f"{watts / 1000:.2f} kW" if abs(watts) >= 1000 else f"{watts:.0f} W"


def because(row: Mapping[str, Any]) -> str:
    """What decided, as the end of "because ..."; empty if nothing did."""
    reason, place = row.get("reason"), row.get("binding")
    if reason is None:
        return ""
    value = row.get("value")
    words = (None if value is None else MEASURED.get(reason)) or PLACED.get(reason)
    if words is None or not place:
        return OPERATOR.get(reason) or REASONS.get(reason) or str(reason).replace("_", " ").lower()
    text = words.format(place=place)
    unit = " V" if reason in {"OVERVOLTAGE", "UNDERVOLTAGE"} else ""
    return text if value is None or not unit else f"{text} ({value:.1f}{unit})"


def sentence(row: Mapping[str, Any]) -> str:
    """A decision in one sentence, without who it is about."""
    kind, limit_w, asked_w, why = row.get("kind"), row.get("limit_w"), row.get("asked_w"), because(row)
    of = "" if asked_w is None else f" of {power(asked_w)} asked"
    tail = f", because {why}" if why else ""
    match kind:
        case "grant" | "renewal":
            return f"{power(limit_w)}{of}" + (f"; not more, because {why}" if why else "")
        case "denial":
            return ("" if asked_w is None else f"{power(asked_w)} asked; ") + f"stays at nominal{tail}"
        case "lowered":
            return f"to {power(limit_w)}{tail}"
        case "revoke":
            return f"back to nominal{tail}"
        case "release":
            return "by the customer; back to nominal"
        case "expired":
            return "the lease ran out without renewal; back to nominal"
        case _:
            return str(row.get("why") or "")
