"""Raising a grant before its renewal is due: each report carries a fresh nonce, and one that renews nothing may raise.

What the sun and the neighbours leave free changes within seconds, renewals come every half minute. Lowering is told at
once; raising may be, as long as the line has air time to spare: a raise costs what a renewal costs, and `share_max` is
kept. A nonce is used until half a lease has passed (the lease that it carries is counted from it); the report that
confirms the raise shows a lease that has become short, and is renewed.
"""

from __future__ import annotations

from typing import Final

from dcu.hosting.airtime import Airtime
from shared.ids import MeterId
from shared.messages import Request

YOUNG: Final = 0.5
"""[lease] A nonce that has waited longer raises nothing; the next renewal does."""
SAVED_MAX: Final = 10.0
"""Raises that unused air time may save up for."""


class Raises:
    """Nonces that may raise a live grant, and the air time left for it."""

    def __init__(self, airtime: Airtime, lease_s: float, now: float) -> None:
        self._airtime, self._young_s = airtime, YOUNG * lease_s
        self._kept: dict[MeterId, tuple[Request, float]] = {}
        self._saved, self._counted_s = 0.0, now

    def keep(self, request: Request, meter: MeterId, now: float) -> None:
        """A report of a meter whose grant lives and is not due; the newest counts."""
        self._kept[meter] = request, now

    def drop(self, meter: MeterId) -> None:
        """Its grant was renewed, lowered, given back or has ended: its nonces are void or spent."""
        self._kept.pop(meter, None)

    def clear(self) -> None:
        """Nobody is raised any more."""
        self._kept.clear()

    def possible(self, share: float, now: float) -> tuple[frozenset[MeterId], int]:
        """Who may be raised now, and how many of them there is air time for beside the share of the channel that
        reports and renewals fill."""
        rate = max(0.0, (self._airtime.share_max - share) / self._airtime.renewal_s)
        self._saved = min(SAVED_MAX, self._saved + rate * (now - self._counted_s))
        self._counted_s = now
        self._kept = {m: (r, at_s) for m, (r, at_s) in self._kept.items() if now <= at_s + self._young_s}
        if share >= self._airtime.share_max:  # what was saved is for a line that has room
            return frozenset(), 0
        return frozenset(self._kept), max(0, int(self._saved))

    def take(self) -> None:
        """A lowering takes as much air as a raise, and does not wait for it: raises do. What is owed is no more than
        may be saved."""
        self._saved = max(-SAVED_MAX, self._saved - 1.0)

    def spend(self, meter: MeterId) -> Request:
        """The question that a raise answers; its nonce is used with it."""
        self._saved -= 1.0
        return self._kept.pop(meter)[0]
