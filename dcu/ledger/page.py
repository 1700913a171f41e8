"""A verified receipt for the customer: in words, and as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from dcu.ledger.receipt import Receipt
from dcu.ledger.seal import NOBODY

KINDS: Final = {
    "grant": "More export was granted",
    "renewal": "The grant was renewed",
    "denial": "More export was denied",
    "lowered": "The grant was lowered",
    "revoke": "The grant was revoked",
    "release": "The grant was given back",
    "expired": "The grant ended",
}
"""Kind of entry, as a headline for its customer."""

REASONS: Final = {
    "GRANTED": "the grid has room for it",
    "OVERVOLTAGE": "the voltage would be, or was, too high",
    "UNDERVOLTAGE": "the voltage would be, or was, too low",
    "READING_MISSING": "a meter that has to be known was silent",
    "READING_STALE": "a meter that has to be known had not reported for too long",
    "READING_INVALID": "a meter's reading could not be right",
    "SUBSTATION_UNKNOWN": "the meter at the substation could not be read",
    "QUARANTINE": "the control unit had just started and had to wait",
    "STORAGE_FAILED": "the control unit could not write its ledger, and does not grant what it cannot record",
    "ABOVE_CONTRACT": "the request was above what your contract allows",
    "NONCE_USED": "the same question had been answered before",
    "NO_CAPACITY": "the grid has no room left",
    "UNKNOWN_METER": "the meter is not known here",
    "LOCAL_ALARM": "your meter reported an alarm",
    "TOO_MANY_GRANTS": "as many grants as the control unit can look after are in force",
    "OPERATOR": "the grid operator asked for it",
    "CURRENT": "a line or the transformer would carry, or carried, too much current",
    "UNBALANCE": "the three phases would be too uneven",
    "NO_POWER_FLOW": "what would happen in the grid could not be computed",
    "MODEL_UNUSABLE": "the control unit has no usable model of the grid",
    "READINGS_CONTRADICT": "the meters contradict each other",
    "NO_AIRTIME": "the power line has no time left to renew another grant",
    "BAD_REQUEST": "the request made no sense",
    "TOO_MANY_REQUESTS": "there were too many requests in a short time",
    "BELOW_MINIMUM": "what could have been given was less than the least you asked for",
    "SHARED": "the room there is was shared with others who asked",
    "NOT_LEARNT": "the meters have not yet taught the control unit what your export does to the grid",
}
"""Reason of a decision, as the end of a sentence that begins with "because"."""

STYLE: Final = """
:root{color-scheme:light dark}
body{font:17px/1.55 system-ui,sans-serif;margin:0 auto;max-width:44rem;padding:1.25rem}
h1{font-size:1.5rem;line-height:1.25} h2{font-size:1.15rem;margin-top:2rem}
dl{display:grid;grid-template-columns:minmax(8rem,auto) 1fr;gap:.35rem 1rem} dt{opacity:.75} dd{margin:0}
pre{overflow-x:auto;border:1px solid;border-radius:6px;padding:.75rem;font-size:.8rem;line-height:1.35}
code{overflow-wrap:anywhere}
@media (max-width:30rem){dl{grid-template-columns:1fr} dd{margin:0 0 .5rem}}
"""


def words(receipt: Receipt) -> list[tuple[str, str]]:
    """What a receipt says, as pairs of a label and a sentence or value."""
    return [pair for pair in _words(receipt.entry, receipt) if pair[1]]


def headline(receipt: Receipt) -> str:
    """What the entry is, in a few words."""
    kind = str(receipt.entry.get("kind", "?"))
    return KINDS.get(kind, f"Entry of the kind \u201c{kind}\u201d")


def _words(entry: Mapping[str, Any], receipt: Receipt) -> Iterator[tuple[str, str]]:
    request = entry.get("request")
    if isinstance(request, dict):
        least = request.get("minimum_limit_w")
        more = f", of use from {least / 1000:,.3g} kW on" if isinstance(least, int | float) and least else ""
        yield "Asked for", _power(request.get("limit_w")) + more
    yield "Decided", _power(entry.get("limit_w"))
    lease = entry.get("lease_s")
    yield "Valid for", "" if lease is None else f"{_text(lease)} s, then renewed or over"
    reason = entry.get("reason")
    yield "Because", REASONS.get(str(reason), "" if reason is None else _text(reason))
    yield from _binding(entry, receipt, "Decided by")
    kept_by = entry.get("kept_by")
    if isinstance(kept_by, dict):
        yield "Not more because", REASONS.get(str(kept_by.get("reason")), _text(kept_by.get("reason")))
        yield from _binding(kept_by, receipt, "Limited by")
    yield "When", _time(entry.get("utc_s"))
    if entry.get("seq") is not None:
        yield "Decision", f"{_text(entry.get('epoch'))}.{_text(entry.get('seq'))}"
    yield "Meter", "" if receipt.customer in {None, NOBODY} else str(receipt.customer)
    head = receipt.trusted.head
    yield "Entry", f"number {receipt.position} of {head.size} in the log {head.origin}"
    signed = receipt.trusted.cosigned_utc_s
    yield "Witnesses", ", ".join(f"{name} on {_time(at)}" for name, at in signed.items()) or "none was asked for"
    yield "Not shown", f"what belongs to others ({receipt.closed} sealed)" if receipt.closed else ""


def _binding(entry: Mapping[str, Any], receipt: Receipt, label: str) -> Iterator[tuple[str, str]]:
    if "binding" not in entry:
        return
    place, value = entry["binding"], entry.get("value")
    if place is None:
        where = "the connection of another customer, who is not named here"
    else:
        where = "your connection" if place == receipt.customer else str(place)
    unit = " V" if "VOLTAGE" in str(entry.get("reason")) else ""
    yield label, where if value is None else f"{where} ({_text(value)}{unit})"


def _power(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value / 1000:,.3g} kW of export" if value else "no export"
    return "" if value is None else str(value)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _time(utc_s: Any) -> str:
    if not isinstance(utc_s, int | float) or not 0 <= utc_s < 1e11:
        return ""
    return datetime.fromtimestamp(utc_s, UTC).strftime("%-d %B %Y, %H:%M:%S UTC")


def html(receipt: Receipt, data: bytes, policy_text: str) -> str:
    """The page: what was decided, how sure that is, the receipt itself, and how to check it without us."""
    rows = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in words(receipt))
    title = escape(headline(receipt))
    witnesses = len(receipt.trusted.cosigned_utc_s)
    sure = (
        f"{witnesses} independent witnesses have signed that this log only grows"
        if witnesses > 1
        else "only the log's own signature vouches for it: whoever holds its key could show others another ledger"
    )
    encoded = base64.b64encode(data).decode()
    name = f"receipt-{receipt.position}.tlog-proof"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Receipt: {title}</title><style>{STYLE}</style></head><body><main>
<h1>{title}</h1>
<dl>{rows}</dl>
<h2>What this is worth</h2>
<p>The decision above stands in a ledger that cannot be changed without those noticing who have kept one of its heads.
When this page was made, the proof was complete, and {escape(sure)}. What belongs to your neighbours is in the ledger as
sealed hashes only, and yours is sealed for them.</p>
<h2>Check it yourself</h2>
<p>Save the <a download="{escape(name)}" href="data:text/plain;base64,{encoded}">receipt</a> and the keys below, then
run <code>headroom-ledger check-receipt {escape(name)} --policy policy.txt</code>. The receipt is a C2SP tlog-proof: any
tool for that format checks it too, without the internet and without us.</p>
<details><summary>Keys that this page trusted</summary><pre>{escape(policy_text)}</pre></details>
<details><summary>The receipt</summary><pre>{escape(data.decode("utf-8", "replace"))}</pre></details>
</main></body></html>
"""
