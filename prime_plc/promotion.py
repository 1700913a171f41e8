"""The base's choice of switches: which terminal is promoted for a node that calls (our policy).

Requests for one caller are gathered for a moment, for longer while all have a poor way; the terminal with the cheapest
path to the caller wins, one that hears it too weakly only if there is no other. A caller that was given a switch is not
given another one for a while: it needs some seconds to hear the new beacon.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from prime_plc.links import HOP_COST, Links, index_snr_db
from prime_plc.settings import MacSettings
from shared.ids import Eui48

CALLERS_MAX: Final = 256
WEAK_COST: Final = 1000
BETTER_S: Final = 12.0
"""[s] Longer waited for a better one while only terminals with a poor way have offered themselves: whole trees will
hang on it. Others nearby were silent as one had spoken, and speak within this when the caller calls again (ours)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One terminal offers itself for one caller.

    Attributes:
        quality: SNR index of the call there.
        cost: of the terminal's own path to the base, hops included.
        poor: whether that is much for so many hops.
    """

    eui48: Eui48
    pna: bytes
    quality: int
    cost: int
    poor: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The base's choice for one caller."""

    winner: Eui48
    losers: tuple[Eui48, ...]


@dataclass(slots=True)
class _Caller:
    decide_at: float | None
    asked: list[Asked] = field(default_factory=list)
    settled_until_s: float = 0.0


class PromotionDesk:
    """Requests for promotion under consideration."""

    def __init__(self, settings: MacSettings) -> None:
        self._settings = settings
        self._links = Links(settings)
        self._callers: dict[bytes, _Caller] = {}
        self.wake_at: float | None = None

    def ask(self, asked: Asked, now: float) -> bool:
        """Take a request; False if its caller is looked after already, or too many call."""
        caller = self._callers.get(asked.pna)
        if caller is not None and now < caller.settled_until_s:
            return False
        if caller is None or caller.decide_at is None:
            if len(self._callers) >= CALLERS_MAX:
                self._expire(now)
                if len(self._callers) >= CALLERS_MAX:
                    return False
            caller = self._callers[asked.pna] = _Caller(now + self._settings.promotion_window_s + BETTER_S)
        if not asked.poor and caller.decide_at is not None:
            caller.decide_at = min(caller.decide_at, now + self._settings.promotion_window_s)
        caller.asked = [one for one in caller.asked if one.eui48 != asked.eui48]
        caller.asked.append(asked)
        self._plan()
        return True

    def due(self, now: float) -> list[Chosen]:
        """Choices whose time has come."""
        chosen = []
        for caller in self._callers.values():
            if caller.decide_at is None or now < caller.decide_at:
                continue
            caller.decide_at = None
            caller.settled_until_s = now + self._settings.promotion_settle_s
            best = min(caller.asked, key=self._cost)
            chosen.append(Chosen(best.eui48, tuple(one.eui48 for one in caller.asked if one is not best)))
            caller.asked = []
        self._plan()
        return chosen

    def registered(self, eui48: Eui48) -> None:
        """The caller has found its way."""
        if self._callers.pop(eui48, None) is not None:
            self._plan()

    def _cost(self, asked: Asked) -> tuple[int, int]:
        weak = WEAK_COST if asked.quality < self._settings.promotion_quality_min else 0
        hop = HOP_COST[self._links.allowed(min(index_snr_db(asked.quality), 60.0))]
        return weak + asked.cost + 2 * hop, -asked.quality

    def _plan(self) -> None:
        times = [one.decide_at for one in self._callers.values() if one.decide_at is not None]
        self.wake_at = min(times, default=None)

    def _expire(self, now: float) -> None:
        self._callers = {
            pna: one for pna, one in self._callers.items() if one.decide_at is not None or one.settled_until_s > now
        }
