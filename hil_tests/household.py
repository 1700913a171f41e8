"""A household's energy manager: when to ask for more, when to ask anew, when to give back. It knows no future.

It looks every few seconds at what its plant could generate and its house draws. Room that it was given and does not use
is lost to the street, and what it could export and was not given is lost to itself; so it keeps its wish close: up at
once, down when the sun or a kettle has been on for a while.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from meter.core import HouseholdAsked, HouseholdReleased
from meter.dialogue import Dialogue

LOOK_S: Final = 5.0
"""[s] Between two looks."""
MARGIN: Final = 1.005
"""It asks for this times what its plant can export now, so that a small rise needs no new question."""
CHANGED: Final = 0.01
"""Share by which the wish must have changed to be asked anew."""
WORTH: Final = 1.005
"""Below this share of the nominal limit it does not ask."""
REMEMBERED_S: Final = 15.0
"""[s] A cloud or a kettle shorter than this lowers no wish."""
RETRY_S: Final = 60.0
"""[s] After a denial, a revoke or a fall-back it asks again."""


class Household:
    """One energy manager."""

    def __init__(self, nominal_w: float, contract_w: float) -> None:
        self._nominal_w, self._contract_w = nominal_w, contract_w
        self._seen: deque[tuple[float, float]] = deque()
        self._asked_s, self._asked_w = -RETRY_S, 0.0
        self.wish_w = 0.0
        """What it would like to be allowed to export [W]; 0 while the nominal limit does."""

    def look(
        self, pv_w: float, own_w: float, dialogue: Dialogue, now: float
    ) -> HouseholdAsked | HouseholdReleased | None:
        """What it says to its meter now.

        Args:
            pv_w: what the plant could generate.
            own_w: what the house draws.
            dialogue: where its wish stands.
            now: [s].
        """
        self._seen.append((now, pv_w - own_w))
        while self._seen[0][0] < now - REMEMBERED_S:
            self._seen.popleft()
        wish_w = min(self._contract_w, MARGIN * max(export_w for _, export_w in self._seen))
        if not wish_w > WORTH * self._nominal_w:
            self.wish_w = 0.0
            return HouseholdReleased() if dialogue.wished else None
        self.wish_w = wish_w
        if dialogue.wished and abs(wish_w - dialogue.limit_w) <= CHANGED * dialogue.limit_w:
            return None
        refused = not dialogue.wished or dialogue.limit_w != self._asked_w
        if refused and now < self._asked_s + RETRY_S:
            return None
        self._asked_s, self._asked_w = now, round(wish_w, 1)
        return HouseholdAsked(self._asked_w, 0.0)
