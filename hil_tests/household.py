"""A household's energy manager: when to ask for more, when to ask anew, when to give back. It knows no future."""

from __future__ import annotations

from collections import deque
from typing import Final

from meter.core import HouseholdAsked, HouseholdReleased
from meter.dialogue import Dialogue

MARGIN: Final = 1.02
"""It asks for this times what its plant can export now, so that a small rise needs no new question."""
CHANGED: Final = 0.03
"""Share by which the wish must have changed to be asked anew."""
WORTH: Final = 1.02
"""Below this share of the nominal limit it does not ask."""
REMEMBERED: Final = 3
"""Minutes: a cloud or a kettle shorter than this lowers no wish."""
RETRY_S: Final = 120.0
"""[s] After a denial, a revoke or a fall-back it asks again."""


class Household:
    """One energy manager, looked at once a minute."""

    def __init__(self, nominal_w: float, contract_w: float) -> None:
        self._nominal_w, self._contract_w = nominal_w, contract_w
        self._seen: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._asked_s = -RETRY_S
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
        self._seen.append((pv_w, own_w))
        potential_w = max(pv for pv, _ in self._seen) - min(own for _, own in self._seen)
        wish_w = min(self._contract_w, MARGIN * potential_w)
        if not wish_w > WORTH * self._nominal_w:
            self.wish_w = 0.0
            return HouseholdReleased() if dialogue.wished else None
        self.wish_w = wish_w
        if dialogue.wished:
            if abs(wish_w - dialogue.limit_w) <= CHANGED * dialogue.limit_w:
                return None
        elif now < self._asked_s + RETRY_S:
            return None
        self._asked_s = now
        return HouseholdAsked(round(wish_w, 1), 0.0)
