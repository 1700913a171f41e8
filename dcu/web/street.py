"""A DCU's page snapshot as the API tells it: totals, customers in words, alarms, decisions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dcu.web.words import ALARMS, KINDS, SOURCES, because, sentence

DECISIONS_MAX: Final = 2000
"""Kept by this process; the ledger has them all."""
NAME_MAX: Final = 64


class Decisions:
    """The newest decisions by their key; a row that comes again with its position replaces the earlier."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def take(self, news: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What of this is new or has changed."""
        fresh = []
        for told in news:
            row = _decision(told)
            if self._rows.get(row["key"]) != row:
                self._rows[row["key"]] = row
                fresh.append(row)
        while len(self._rows) > DECISIONS_MAX:
            self._rows.popitem(last=False)
        return fresh

    def newest(self, count: int, meter: str | None) -> list[dict[str, Any]]:
        """Newest last."""
        rows = [row for row in self._rows.values() if meter is None or row["meter"] == meter]
        return rows[-count:]


def _decision(told: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: told[name] for name in ("kind", "meter", "utc_s", "decision", "position", "asked_w", "least_w")}
    row |= {name: told[name] for name in ("limit_w", "reason", "binding", "value")}
    key = f"{told['kind']} {told['decision'] or round(told['utc_s'])} {told['meter'] or ''}".strip()
    kind = str(told["kind"])
    return {"key": key, **row, "headline": KINDS.get(kind, kind.capitalize()), "words": sentence(told)}


class Alarms:
    """What is wrong, and since when we know."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}

    def of(self, found: list[tuple[str, str, str]], utc_s: float) -> list[dict[str, Any]]:
        """From level, who and what; the gravest first, then the newest."""
        self._since = {(who, what): self._since.get((who, what), utc_s) for _, who, what in found}
        rank = {"alarm": 0, "warning": 1, "note": 2}
        rows = [
            {"level": level, "who": who, "what": what, "since_utc_s": self._since[who, what]}
            for level, who, what in found
        ]
        return sorted(rows, key=lambda row: (rank[str(row["level"])], -float(str(row["since_utc_s"]))))


def street_of(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of `dcu.web.models.Street` that comes from the DCU; alarms are still `(level, who, what)`.

    Raises:
        KeyError, TypeError, ValueError: an answer of another version.
    """
    customers = [_customer(meter, snapshot) for meter in snapshot["meters"]]
    exports = [c["export_w"] for c in customers if c["export_w"] is not None and c["quality"] == "good"]
    granted = [c for c in customers if c["granted_w"] is not None]
    low_v, high_v = (float(v) for v in snapshot["band_v"])
    facts = snapshot["rule_facts"]
    busbar = snapshot["substation"]
    return {
        "utc_s": float(snapshot["utc_s"]),
        "dcu": str(snapshot["dcu"]),
        "epoch": int(snapshot["epoch"]),
        "quarantine": bool(snapshot["quarantine"]),
        "rule": str(snapshot["rule"]),
        "policy": facts.get("policy"),
        "band_v": (low_v, high_v),
        "lease_s": float(snapshot["lease_s"]),
        "substation": {
            "quality": busbar["quality"],
            "u_v": [_rounded(u, 2) for u in busbar["u_v"]],
            "age_s": _rounded(busbar["age_s"], 1),
        },
        "export_w": round(sum(exports), 1) if exports else None,
        "increase_w": round(sum(max(0.0, c["granted_w"] - c["nominal_w"]) for c in granted), 1),
        "granted": len(granted),
        "grants_max": snapshot["line"]["grants_max"],
        "reports_per_s": snapshot["line"]["reports_per_s"],
        "ledger_entries": int(snapshot["ledger"]["position"]),
        "ledger_head": str(snapshot["ledger"]["head"]),
        "alarms": list(_alarms(snapshot, customers, low_v, high_v)),
        "customers": customers,
    }


def _customer(meter: Mapping[str, Any], snapshot: Mapping[str, Any]) -> dict[str, Any]:
    name = str(meter["id"])
    answer = snapshot["answers"].get(name)
    binds = answer is not None and (answer["kind"] == "denial" or meter["granted_w"] is not None)
    headroom_w = snapshot["headroom_w"].get(name)
    granted_w = meter["granted_w"]
    if headroom_w is not None and granted_w is not None:
        headroom_w = max(headroom_w, granted_w)
    return {
        "id": name,
        "eui48": meter["eui48"],
        "bus": str(meter["bus"])[:NAME_MAX],
        "phases": list(meter["phases"]),
        "linked": bool(meter["linked"]),
        "quality": meter["quality"],
        "u_v": [_rounded(u, 2) for u in meter["u_v"]],
        "age_s": _rounded(meter["age_s"], 1),
        "export_w": _rounded(meter["export_w"], 1),
        "limit_w": float(meter["limit_w"]),
        "nominal_w": float(meter["nominal_limit_w"]),
        "contract_w": float(meter["contract_limit_w"]),
        "granted_w": granted_w,
        "wanted_w": snapshot["wanted_w"].get(name),
        "headroom_w": _rounded(headroom_w, 0),
        "lease_left_s": _rounded(meter["lease_left_s"], 1),
        "reserved_w": round(float(meter["reserved_w"]), 1),
        "source": SOURCES.get(meter["source"], str(meter["source"]).lower()),
        "relay": str(meter["relay"]).lower(),
        "alarms": [ALARMS.get(alarm, alarm) for alarm in meter["alarms"]],
        "why_not_more": (because(answer) or None) if binds else None,
        "binding": answer["binding"] if binds else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def _alarms(
    snapshot: Mapping[str, Any], customers: list[dict[str, Any]], low_v: float, high_v: float
) -> Iterable[tuple[str, str, str]]:
    if snapshot["quarantine"]:
        yield "note", "DCU", "has just started; nothing is granted until no earlier grant can be in use"
    if snapshot["substation"]["quality"] != "good":
        yield "alarm", "substation", f"the balancing meter's reading is {snapshot['substation']['quality']}"
    for meter, what in snapshot.get("protection", {}).get("alarms", {}).items():
        yield "alarm", str(meter), str(what)
    for customer in customers:
        for alarm in customer["alarms"]:
            yield "alarm", customer["id"], alarm
        if not customer["linked"]:
            yield "warning", customer["id"], "no session over the power line"
        elif customer["quality"] != "good":
            yield "warning", customer["id"], f"its reading is {customer['quality']}"
        volts = [u for u in customer["u_v"] if u is not None] if customer["quality"] == "good" else []
        if any(u > high_v for u in volts):
            yield "warning", customer["id"], f"voltage above {high_v:.1f} V"
        if any(u < low_v for u in volts):
            yield "warning", customer["id"], f"voltage below {low_v:.1f} V"
