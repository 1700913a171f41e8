"""Looks at the DCU once a second, whoever watches, and tells all viewers at once.

The DCU is asked as often with a hundred viewers as with none. What a viewer is sent was encoded once for all of them;
who reads slowly misses looks and gets the newest.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from dcu.web.quality import QualityBook
from dcu.web.street import Alarms, Decisions, street_of
from dcu.web.traces import Traces
from shared.log import get_logger

ANSWER_S_MAX: Final = 4.0
"""[s] A DCU that takes longer is not there."""
ANSWER_BYTES_MAX: Final = 16 << 20
STALE_S: Final = 5.0
"""[s] Without an answer for so long what is shown is no longer called live; then it is called down."""
NEWS_KEPT: Final = 10
"""Looks whose news each event carries, for viewers who missed some."""

_LOG: Final = get_logger("web")

Ask = Callable[[], Awaitable[dict[str, Any]]]
"""The DCU's page snapshot (OSError, TimeoutError, ValueError)."""


def ask_socket(path: Path) -> Ask:
    """Asks a DCU's page socket."""

    async def ask() -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_S_MAX):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
            try:
                data = bytearray()
                while more := await reader.read(1 << 16):
                    data += more
                    if len(data) > ANSWER_BYTES_MAX:
                        raise ValueError(f"more than {ANSWER_BYTES_MAX} bytes")
            finally:
                writer.close()
        found = json.loads(data)
        if not isinstance(found, dict):
            raise TypeError("no snapshot")
        return found

    return ask


class Feed:
    """The newest look, and what of earlier ones is kept."""

    def __init__(self, ask: Ask, poll_s: float, now: Callable[[], float], utc: Callable[[], float]) -> None:
        """Asks every ``poll_s`` [s]; ``now`` is monotonic, ``utc`` labels."""
        self._ask, self._poll_s, self._now, self._utc = ask, poll_s, now, utc
        self._alarms = Alarms()
        self.decisions = Decisions()
        self.traces = Traces(poll_s)
        self.quality = QualityBook()
        self.snapshot: dict[str, Any] = {}
        self._news: deque[list[dict[str, Any]]] = deque(maxlen=NEWS_KEPT)
        self._dcu: dict[str, Any] = {}
        self._heard_s: float | None = None
        self._heard_utc_s: float | None = None
        self._number = 0
        self.failures = 0
        self._changed = asyncio.Event()
        self.street: dict[str, Any] = self._look("not asked yet")
        self.event = b""

    async def run(self) -> None:
        """Look for ever."""
        due = self._now()
        while True:
            try:
                await self.look()
            except Exception:  # nobody else would notice that nobody looks: what is shown would stay "live" for ever
                _LOG.exception("a look that went wrong")
                self._failed("this page cannot show what the DCU answers; its log has the reason")
            due = max(due + self._poll_s, self._now())
            await asyncio.sleep(due - self._now())

    async def look(self) -> None:
        """Once; a DCU that does not answer is news too."""
        try:
            snapshot = await self._ask()
            told = street_of(snapshot)
            news = self.decisions.take(snapshot["news"])
        except (OSError, TimeoutError) as error:
            self._failed(_plain(error))
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
            self._failed("the DCU answers something that this version cannot read")
        else:
            self.snapshot, self._dcu = snapshot, told
            self._heard_s, self._heard_utc_s = self._now(), self._utc()
            self._news.append(news)
            self.street = self._look(None)
            self.quality.add(self.street, self._utc())
            self._publish()
        self.traces.add(self.street, self._utc())

    def _failed(self, why: str) -> None:
        """A look that has shown nothing."""
        self.failures += 1
        self._news.append([])
        self.street = self._look(why)
        self._publish()

    def _look(self, why: str | None) -> dict[str, Any]:
        self._number += 1
        state = "live"
        if why is not None:
            silent = self._heard_s is None or self._now() - self._heard_s > STALE_S
            state = "down" if silent else "stale"
        told = self._dcu or EMPTY
        found = [*told["alarms"]]
        if state == "down":
            found.insert(0, ("alarm", "DCU", "does not answer; what is shown is the last that was heard"))
        alarms = self._alarms.of(found, self._utc())
        head = {"number": self._number, "state": state, "why": why, "heard_utc_s": self._heard_utc_s}
        news = {row["key"]: row for rows in self._news for row in rows}
        return {**head, **told, "alarms": alarms, "news": list(news.values())}

    def _publish(self) -> None:
        text = json.dumps(self.street, separators=(",", ":"), ensure_ascii=True)
        self.event = f"event: street\nid: {self._number}\ndata: {text}\n\n".encode()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def next_event(self, after: int) -> tuple[int, bytes]:
        """The newest event with a number above ``after``, as soon as there is one."""
        while self._number <= after or not self.event:
            await self._changed.wait()
        return self._number, self.event


EMPTY: Final[dict[str, Any]] = {
    **dict.fromkeys(("utc_s", "dcu", "epoch", "rule", "policy", "band_v", "lease_s", "substation", "export_w")),
    **dict.fromkeys(("grants_max", "reports_per_s", "ledger_entries", "ledger_head")),
    "quarantine": False,
    "increase_w": 0.0,
    "granted": 0,
    "alarms": [],
    "customers": [],
}
"""Before the DCU has ever answered."""


def _plain(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.strerror:
        return f"the DCU does not answer within {ANSWER_S_MAX:g} s"
    detail = error.strerror if isinstance(error, OSError) and error.strerror else error.__class__.__name__
    return f"the DCU does not answer ({detail})"
