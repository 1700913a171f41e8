"""How a street's new group keys come to its meters. Pure.

Each meter is offered them, wrapped under its own master key, in its own session, a few meters at a time, until it has
answered that they are on its disk. Until every meter that is there has, the DCU says to all what it says to all twice,
under the new keys and under those before: a meter has one or the other and needs no second ear, and who has taken the
new ones is deaf at once for whoever still has the old ones.

Nothing of this is on a disk. A DCU that starts again asks every meter again; so does it when a meter's session begins
anew, for that meter may have come back as an older image of itself. Nor does it matter whether the file of keys says
that they were ever changed: it may be an older one that was restored.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from dcu.keys import GroupKeys
from shared.ids import MeterId
from shared.protection import PairKeys

OFFERS_MAX: Final = 4
"""Meters that are offered keys at a time, so that an hour brings them to 1400 and no report has to wait for it."""

OFFER_S: Final = 20.0
"""[s] Without an answer a meter is offered them again after so long, then after twice as long, and so on."""

OFFER_S_MAX: Final = 3600.0
"""[s] Longest pause between two offers; a meter of an earlier version never takes them."""

BOTH_S_MAX: Final = 6 * 3600.0
"""[s] After so long nothing is said under the keys before, whoever has not taken the new ones. Ours: four times what
the largest street takes on a line without losses."""

PAIR_INVOKE_ID: Final = 0
"""What the answer to the transfer of a pair is known by."""

NAMES_MAX: Final = 8
"""Meters that a status names."""


@dataclass(slots=True)
class _Offer:
    """How far one meter is; ``due_s`` and ``offered_s`` are -inf before its first offer."""

    due_s: float = float("-inf")
    offered_s: float = float("-inf")
    pause_s: float = OFFER_S
    taken: bool = False


class Handover:
    """Who has taken the newest group keys."""

    def __init__(self, group: GroupKeys, before: Handover | None = None) -> None:
        """Nobody has taken them; ``before`` are those of this start that were offered last."""
        self.group = group
        number = group.generation if before is None else before.invoke_id
        self.invoke_id: Final[int] = number % 15 + 1
        """What an answer is known by; the offers before had another. Not the generation alone: after an older file of
        keys was restored the next ones have one that others had."""
        self._offers: dict[MeterId, _Offer] = {}
        self._until_s: float | None = None

    def began(self, meter: MeterId) -> None:
        """A meter's session has begun, with whatever keys that meter has now."""
        self._offers[meter] = _Offer()

    def due(self, there: Iterable[MeterId], now: float) -> list[MeterId]:
        """Whom of those that are there to offer the keys to now [s]; it counts as done."""
        self._until_s = now + BOTH_S_MAX if self._until_s is None else self._until_s
        waiting = [meter for meter in there if not (offer := self._of(meter)).taken and offer.due_s <= now]
        chosen = heapq.nsmallest(OFFERS_MAX, waiting, key=lambda meter: self._of(meter).due_s)
        for meter in chosen:
            offer = self._of(meter)
            offer.offered_s = now
            offer.due_s, offer.pause_s = now + offer.pause_s, min(2 * offer.pause_s, OFFER_S_MAX)
        return chosen

    def answered(self, meter: MeterId, invoke_id: int, result: int) -> None:
        """A meter has answered a transfer of keys; 0 says that they are on its disk. Who has taken an offer of earlier
        ones has those now, for all we know, and is offered the newest at once, after those who have waited longer."""
        if result != 0 or invoke_id == PAIR_INVOKE_ID:
            return
        if invoke_id == self.invoke_id:
            self._of(meter).taken = True
        else:
            self._offers[meter] = _Offer(self._of(meter).offered_s)

    def speaking(self, there: Iterable[MeterId], now: float) -> tuple[PairKeys, ...]:
        """The keys that everybody who is there understands between them at ``now`` [s], newest first."""
        earlier = self.group.earlier
        over = self._until_s is not None and now >= self._until_s
        if earlier is None or over or all(self._of(meter).taken for meter in there):
            return (self.group.newest,)
        return (self.group.newest, earlier)

    def summary(self, there: Iterable[MeterId]) -> dict[str, Any]:
        """For people."""
        waiting = [meter for meter in there if not self._of(meter).taken]
        return {"generation": self.group.generation, "waiting": len(waiting), "waiting_for": waiting[:NAMES_MAX]}

    def _of(self, meter: MeterId) -> _Offer:
        return self._offers.setdefault(meter, _Offer())
