"""A registered node hears calls for a switch and decides when to ask the base to become one.

Calls (promotion-needed PDUs) reach many terminals at once, and the base needs one request, best of the terminal that
reaches the most callers. So each waits, the shorter the more callers it hears and the better it hears them, and keeps
quiet for a while when another one asks first, or when a new switch has begun to beacon: the callers may be served then.
All of this is our choice; the specification only lets a terminal ignore a few calls.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from prime_plc.links import quality_index
from prime_plc.settings import MacSettings

CALLERS_MAX: Final = 64
CALLER_S: Final = 30.0
"""[s] A caller not heard for this long has found its switch."""

HOP_COST_S: Final = 0.5
"""[s] Waited for each unit that our own hop costs."""

FIRST_PART: Final = 0.3
"""Of the wait, that is never shortened: it spreads the terminals."""


@dataclass(slots=True)
class _Caller:
    snr_db: float
    last_s: float
    ignored: int


class CallsHeard:
    """Callers around one terminal.

    Attributes:
        callers: by their EUI-48.
    """

    def __init__(self, settings: MacSettings, draw: random.Random) -> None:
        self._settings = settings
        self._draw = draw
        self.callers: dict[bytes, _Caller] = {}
        self._quiet_until_s = 0.0
        self.ask_at: float | None = None

    def clear(self) -> None:
        """Forget all."""
        self.callers.clear()
        self.ask_at = None

    def hear(self, pna: bytes, snr_db: float, now: float, hop_cost: int = 0) -> None:
        """A call came in; who has a bad way itself leaves others more time to answer it."""
        caller = self.callers.get(pna)
        if caller is None or now - caller.last_s > CALLER_S:
            if len(self.callers) >= CALLERS_MAX:
                self._expire(now)
                if len(self.callers) >= CALLERS_MAX:
                    return
            caller = self.callers[pna] = _Caller(snr_db, now, 0)
        caller.snr_db = snr_db
        caller.last_s = now
        if quality_index(snr_db) < self._settings.promotion_quality_min:
            caller.ignored += 1
            if caller.ignored <= self._settings.promotion_ignore_max:
                return
        wait_s = self._settings.promotion_wait_s * (FIRST_PART + self._draw.uniform(0.0, 1.0) / len(self.callers))
        at_s = max(now, self._quiet_until_s) + wait_s + HOP_COST_S * hop_cost
        if self.ask_at is None or at_s < self.ask_at:
            self.ask_at = at_s

    def hush(self, now: float) -> None:
        """Another terminal asks, was promoted, or begins to beacon."""
        self._quiet_until_s = now + self._settings.promotion_hush_s
        self.clear()

    def is_due(self, now: float) -> bool:
        """Whether somebody has waited long enough."""
        return self.ask_at is not None and now >= self.ask_at

    def wait(self, now: float) -> None:
        """Ask later, when somebody calls again; those that have called are kept in mind."""
        self._quiet_until_s = now + self._settings.promotion_hush_s
        self.ask_at = None

    def due(self, now: float) -> tuple[bytes, int] | None:
        """The caller to ask for now, with the quality of its call; the best heard stands for all."""
        if not self.is_due(now):
            return None
        self.ask_at = None
        self._expire(now)
        if not self.callers:
            return None
        pna = max(self.callers, key=lambda one: (self.callers[one].snr_db, one))
        quality = quality_index(self.callers[pna].snr_db)
        self._quiet_until_s = now + self._settings.promotion_hush_s
        self.callers.clear()
        return pna, quality

    def _expire(self, now: float) -> None:
        self.callers = {pna: one for pna, one in self.callers.items() if now - one.last_s <= CALLER_S}
