"""What the DCU's store knows beyond this process: decisions before it began, weeks of voltages, a day of readings.

The store's files are opened anew for each question, read-only, and closed again; a store that is not there, busy or of
another version leaves the page with what it has seen itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from dcu.decision_rows import row_of
from dcu.store.database import FileKind, StoreError, open_reader
from dcu.store.queries import events, present_week, trace
from dcu.store.schema import EVENTS, TELEMETRY

KEPT_S: Final = 60.0
"""[s] Statistics of a week are made anew no more often."""
EVENTS_MAX: Final = 2000
SKIPPED: Final = frozenset({"renewal"})
FoundT = TypeVar("FoundT")


class History:
    """Questions to one DCU's store; every answer is None where the store has none."""

    def __init__(self, directory: Path | None, now: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._now = directory, now
        self._weeks: tuple[float, dict[str, Any] | None] | None = None

    def _ask(self, kind: FileKind, question: Callable[[sqlite3.Connection], FoundT]) -> FoundT | None:
        if self._directory is None:
            return None
        try:
            with closing(open_reader(self._directory, kind)) as connection:
                return question(connection)
        except (StoreError, sqlite3.Error, OSError, ValueError, KeyError):
            return None

    def decisions(self) -> list[dict[str, Any]]:
        """The newest decisions, newest last."""
        rows = self._ask(EVENTS, lambda connection: events(connection, count=EVENTS_MAX)) or []
        found = []
        for row in reversed(rows):
            if row["log"] is None or row["kind"] in SKIPPED:
                continue  # not from the ledger, or every few seconds
            entry = {
                **row["body"],
                "kind": row["kind"],
                "meter": row["meter"],
                "epoch": row["epoch"],
                "seq": row["seq"],
            }
            found.append(row_of(entry, row["at_ms"] / 1000) | {"position": row["position"]})
        return found

    def readings(self, meter: str, last_utc_s: float, span_s: float) -> list[dict[str, Any]] | None:
        """Readings of a customer in the span that ends then, oldest first."""
        return self._ask(TELEMETRY, lambda connection: trace(connection, meter, last_utc_s - span_s, last_utc_s))

    def quality(self, utc_s: float, nominal_v: float, phases: dict[str, list[str]]) -> dict[str, Any] | None:
        """EN 50160 figures of the week that runs, as `dcu.web.models.Qualities`."""
        if self._weeks is None or self._now() - self._weeks[0] > KEPT_S:
            found = self._ask(TELEMETRY, lambda connection: present_week(connection, utc_s, nominal_v))
            self._weeks = self._now(), None if not found else _told(found, nominal_v, phases)
        return self._weeks[1]


def _told(found: dict[str, dict[str, Any]], nominal_v: float, phases: dict[str, list[str]]) -> dict[str, Any]:
    rows = []
    for meter, one in sorted(found.items()):
        for phase, seen in one["phases"].items():
            if phase not in phases.get(meter, [phase]):
                continue
            unbalance = one["unbalance_95_pct"]
            rows.append(
                {
                    "meter": meter,
                    "phase": phase,
                    "intervals": seen["count"],
                    "missing": one["incomplete"],
                    "inside": seen["within_10_pct"],
                    "u_min_v": seen["lowest_v"],
                    "u_p95_v": seen["p97_5_v"],
                    "u_max_v": seen["highest_v"],
                    "unbalance_p95": None if unbalance is None else unbalance / 100,
                }
            )
    since = min(one["start_s"] for one in found.values())
    source = "the DCU's store, the week that runs (Monday 00:00 UTC)"
    return {"source": source, "since_utc_s": float(since), "nominal_v": nominal_v, "rows": rows}
