"""What `headroom-dcu status` shows: a snapshot of meters, grants and reasons, and its plain table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcu.config import DcuConfig
from dcu.hosting.engine import HostingEngine
from dcu.hosting.measurements import SUBSTATION
from shared.ids import format_eui48

if TYPE_CHECKING:
    from dcu.daemon import LedgerPort


def snapshot(
    engine: HostingEngine, ledger: LedgerPort, now: float, plc: dict[str, object], config: DcuConfig
) -> dict[str, Any]:
    """Everything a person asks a DCU, as JSON types."""
    measurements = {point.name: point for point in engine.measurements(now).points}
    reserved_w = engine.book.reserved_w()
    meters = []
    for state in engine.table.states():
        name = state.entry.id
        grant = engine.book.grant_of(name)
        point = measurements[name]
        meters.append(
            {
                "id": name,
                "eui48": format_eui48(state.entry.eui48),
                "bus": state.entry.bus,
                "phases": [phase.name for phase in state.entry.phases],
                "nominal_limit_w": state.entry.nominal_limit_w,
                "contract_limit_w": state.entry.contract_limit_w,
                "linked": state.linked,
                "epoch": state.epoch,
                "quality": point.quality.value,
                "u_v": list(point.u_v),
                "age_s": point.age_s,
                "export_w": point.export_w,
                "limit_w": state.limit_w,
                "source": state.source.name,
                "relay": state.relay.name,
                "alarms": state.alarms.names,
                "granted_w": None if grant is None else grant.limit_w,
                "lease_left_s": None if grant is None else max(0.0, grant.decided_at_s + engine.lease_s - now),
                "reserved_w": reserved_w.get(name, 0.0),
            }
        )
    busbar = measurements[SUBSTATION]
    return {
        "dcu": config.dcu.id,
        "epoch": engine.epoch,
        "quarantine": engine.quarantined,
        "band_v": [engine.band.low_v, engine.band.high_v],
        "rule": engine.rule.name,
        "rule_facts": dict(engine.rule.facts()),
        "substation": {"quality": busbar.quality.value, "u_v": list(busbar.u_v), "age_s": busbar.age_s},
        "meters": meters,
        "line": {"reports_per_s": round(engine.reports_per_s(now), 3), "grants_max": engine.renewable(now)},
        "decisions": list(engine.recent),
        "ledger": {"position": ledger.position, "head": ledger.head.hex()},
        "plc": plc,
    }


def table(status: dict[str, Any]) -> str:
    """The snapshot as aligned plain text."""
    low_v, high_v = status["band_v"]
    busbar = status["substation"]
    head = [
        (
            f"DCU {status['dcu']}, epoch {status['epoch']}, {'QUARANTINE' if status['quarantine'] else 'deciding'};"
            f" ledger: {status['ledger']['position']} entries, head {status['ledger']['head'][:16]}"
        ),
        f"substation {_volts(busbar['u_v'])} ({busbar['quality']}), band {low_v:g} to {high_v:g} V",
        *_decides(status.get("rule"), status.get("rule_facts", {})),
        *_protection(status.get("protection", {})),
        *_utility(status.get("utility", {})),
        *_store(status.get("store", {})),
        "",
    ]
    rows = [
        ["meter", "bus", "link", "voltage", "quality", "age", "export", "limit", "why", "granted", "lease", "reserved"]
    ]
    rows += [_row(meter) for meter in status["meters"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    decisions = ["", "newest decisions:"] + [f"  {line}" for line in status["decisions"] or ["none yet"]]
    return "\n".join(head + lines + decisions)


def _decides(rule: str | None, facts: dict[str, Any]) -> list[str]:
    """The rule, its policy and model, and why it grants nothing if it cannot; nothing from an older daemon."""
    if rule is None:
        return []
    words = [f"rule {rule}"]
    if facts.get("policy"):
        words.append(f"policy {facts['policy']}")
    if facts.get("network_sha256"):
        words.append(f"model {facts['model']} of network {facts['network_sha256'][:16]}")
    unusable = [f"ALARM model: {facts['why']}; nothing is granted"] if facts.get("why") else []
    return [", ".join(words), *unusable]


def _protection(found: dict[str, Any]) -> list[str]:
    """Sessions, what was refused on the power line, and alarms; nothing from an older daemon."""
    if not found:
        return []
    refused = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in found["refused"].items()) or "none"
    alarms = [f"ALARM {meter}: {what}" for meter, what in found["alarms"].items()]
    return [f"{found['sessions']} meters in a protected session; frames refused: {refused}", *alarms]


def _utility(found: dict[str, Any]) -> list[str]:
    """The link to the utility; nothing where there is none."""
    if not found:
        return []
    waiting = ", ".join(f"{number} {kind}" for kind, number in found["waiting"].items()) or "nothing"
    return [f"utility {'online' if found['online'] else 'NOT REACHED'}; waiting: {waiting}"]


def _store(found: dict[str, Any]) -> list[str]:
    """What the store keeps and loses; nothing from a daemon without one."""
    if not found:
        return []
    files = ", ".join(f"{name} {state}" for name, state in found["files"].items())
    lost = f"{found['readings_dropped']} readings and {found['events_dropped']} events lost"
    low = ["ALARM store: the medium is nearly full, no telemetry is written"] if found["low_space"] else []
    if found.get("short_space") and not low:
        low = [f"ALARM store: the medium is nearly full, {found['free_bytes'] >> 20} MiB are left to the ledger"]
    aside = [f"ALARM store: {found['set_aside']} bad files set aside"] if found["set_aside"] else []
    return [f"store: {files}; {found['readings']} readings kept, {lost}", *low, *aside]


def _row(meter: dict[str, Any]) -> list[str]:
    return [
        meter["id"],
        f"{meter['bus']} {'/'.join(meter['phases'])}",
        "up" if meter["linked"] else "down",
        _volts(meter["u_v"]),
        meter["quality"],
        _number(meter["age_s"], "s", 1),
        _number(meter["export_w"], "W", 0),
        _number(meter["limit_w"], "W", 0),
        ", ".join([meter["source"], *meter["alarms"]]),
        _number(meter["granted_w"], "W", 0),
        _number(meter["lease_left_s"], "s", 0),
        _number(meter["reserved_w"], "W", 0),
    ]


def _volts(values: list[float | None]) -> str:
    return " ".join("?" if value is None else f"{value:.1f}" for value in values) + " V" if values else "-"


def _number(value: float | None, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f} {unit}"
