"""An entry of the ledger as a row of the operator's page, which knows nothing else of what entries look like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def row_of(entry: Mapping[str, Any], utc_s: float) -> dict[str, Any]:
    """One decision, as far as people are told of it; ``utc_s`` [s, Unix] is when."""
    asked = entry.get("request") or {}
    bound = entry if entry.get("reason") not in {None, "GRANTED"} else entry.get("kept_by") or {}
    seq = entry.get("seq")
    return {
        "kind": entry["kind"],
        "meter": entry.get("meter"),
        "utc_s": round(utc_s, 3),
        "decision": None if seq is None else f"{entry['epoch']}.{seq}",
        "position": None,
        "asked_w": _number(asked.get("limit_w")),
        "least_w": _number(asked.get("minimum_limit_w")),
        "limit_w": _number(entry.get("limit_w")),
        "reason": bound.get("reason"),
        "binding": bound.get("binding"),
        "value": _number(bound.get("value")),
        "why": entry.get("why"),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
