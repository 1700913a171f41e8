"""What the operator's page shows beyond the status: newest decisions as in the ledger, what binds whom, room.

The page gets plain rows and knows no entry of the ledger (`dcu.decision_rows`).
"""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from dcu.available import Forecaster
from dcu.decision_rows import row_of
from dcu.hosting.engine import HostingEngine

NEWS_MAX: Final = 128
"""Decisions kept for people who open the page later; the ledger has them all."""
QUIET: Final = frozenset({"renewal", "window", "view"})
"""Kinds that come every few seconds; a renewal shows in its customer's row."""
ANSWERS: Final = frozenset({"grant", "renewal", "denial", "lowered", "revoke"})


class Recent:
    """The newest decisions, and the newest answer to each customer."""

    def __init__(self) -> None:
        self._news: deque[dict[str, Any]] = deque(maxlen=NEWS_MAX)
        self._answers: dict[str, dict[str, Any]] = {}

    def note(self, entry: Mapping[str, Any], utc_s: float, record: Future[int] | None = None) -> None:
        """An entry on its way into the ledger; its position is known once ``record`` is done."""
        kind, meter = str(entry["kind"]), entry.get("meter")
        if kind in QUIET and kind not in ANSWERS:
            return
        row = row_of(entry, utc_s)
        if record is not None:
            record.add_done_callback(lambda done: _place(row, done))
        if kind not in QUIET:
            self._news.append(row)
        if meter is not None and kind in ANSWERS:
            self._answers[str(meter)] = row
        elif meter is not None:
            self._answers.pop(str(meter), None)  # released or expired: nothing binds any more

    @property
    def news(self) -> list[dict[str, Any]]:
        """Newest last."""
        return list(self._news)

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """By customer: what it was answered last, and what kept it from more."""
        return dict(self._answers)


def _place(row: dict[str, Any], record: Future[int]) -> None:
    if not record.cancelled() and record.exception() is None:
        row["position"] = record.result()


def page_facts(engine: HostingEngine, recent: Recent, forecaster: Forecaster, utc_s: float) -> dict[str, Any]:
    """To be joined to a status."""
    return {
        "utc_s": round(utc_s, 3),
        "lease_s": engine.lease_s,
        "wanted_w": {str(grant.meter): grant.wanted_w for grant in engine.book.live},
        "headroom_w": forecaster.present_w,
        "news": recent.news,
        "answers": recent.answers,
    }
