"""The power line's tree for the page, from the base node's summary."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prime_plc.survey import Survey
from shared.errors import DecodeError

NOTHING: dict[str, Any] = {"known": False, "headline": "", "sna": "", "running_s": 0.0, "airtime": {}, "nodes": []}


def line_of(snapshot: dict[str, Any]) -> dict[str, Any]:
    """For the API; a DCU without a power line, or of another version, has no tree."""
    try:
        survey = Survey.of(snapshot.get("plc") or {})
    except DecodeError:
        return NOTHING
    meters = {meter["eui48"]: meter["id"] for meter in snapshot.get("meters", ())}
    above: dict[int, str] = {node.lsid: node.eui48 for node in survey.nodes if node.lsid is not None}
    nodes = []
    for depth, node in survey.walk():
        link = None if node.link is None else asdict(node.link) | {"loss": node.link.loss}
        nodes.append(
            {
                "eui48": node.eui48,
                "meter": meters.get(node.eui48),
                "depth": depth,
                "hops": node.hops,
                "parent": above.get(node.sid),
                "switch": node.lsid is not None,
                "connected": node.connected,
                "alive_asked": node.alive_asked,
                "alive_answered": node.alive_answered,
                "link": link,
            }
        )
    head = {"known": True, "headline": survey.headline(), "sna": survey.sna, "running_s": survey.running_s}
    return {**head, "airtime": survey.airtime, "nodes": nodes}
