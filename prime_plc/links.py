"""Link quality of each neighbour and the modulation chosen from it.

A neighbour is whoever shares a hop with this node: the switch above, or a child by its LNID. What is measured is the
signal of its frames; what the other side measures of ours comes by PRM. A scheme is entered a hysteresis above the
level at which it is left, and losses push it down for a while whatever the signal says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prime_plc.phy import Scheme
from prime_plc.settings import MacSettings

PARENT: Final = -1
"""Key of the switch (or base) above; children have their LNID."""

GIVE_UP_DB: Final = {
    Scheme.ROBUST_DBPSK: 1.0,
    Scheme.ROBUST_DQPSK: 2.25,
    Scheme.DBPSK_C: 3.0,
    Scheme.DQPSK_C: 5.25,
    Scheme.D8PSK_C: 9.0,
    Scheme.DBPSK: 9.0,
    Scheme.DQPSK: 12.5,
    Scheme.D8PSK: 19.0,
}
"""[dB] Average signal-to-noise ratio below which a vendor's stack gives a scheme up in white noise (the upper end
where it names a range; uncoded DBPSK is not in it and stands where its error rate is about 1e-3)."""

HOP_COST: Final = {
    Scheme.D8PSK: 0,
    Scheme.DQPSK: 1,
    Scheme.DBPSK: 2,
    Scheme.D8PSK_C: 1,
    Scheme.DQPSK_C: 2,
    Scheme.DBPSK_C: 4,
    Scheme.ROBUST_DQPSK: 8,
    Scheme.ROBUST_DBPSK: 16,
}
"""Cost of one hop in UPCOST and DNCOST (recalled; 4 for DBPSK_C is captured, those of the robust schemes are ours)."""

COST_MAX: Final = 255
STEP_DB: Final = 3.0
"""[dB] One step of the SNR index 0 to 7."""

INDEX_MAX: Final = 7


def quality_index(snr_db: float) -> int:
    """SNR index of PRIME, 0 to 7, as the vendor derives it from the modem's CINR."""
    whole = min(21, int(snr_db))
    return 0 if whole <= 0 else min(INDEX_MAX, whole // 3 + 1)


def index_snr_db(index: int) -> float:
    """[dB] Best signal that an index can mean."""
    return float("inf") if index >= INDEX_MAX else STEP_DB * index


@dataclass(slots=True)
class Link:
    """What is known of the hop to one neighbour.

    Attributes:
        snr_db: smoothed signal of its frames here [dB].
        told_db: upper bound of our signal there, as it said by PRM [dB].
        step: place in the ladder of schemes that the signal allows.
        penalty: steps below it because of losses.
    """

    snr_db: float
    heard_s: float
    told_db: float = float("inf")
    told_until_s: float = 0.0
    step: int = 0
    penalty: int = 0
    lost: int = 0
    good: int = 0
    frames: int = 0
    losses: int = 0


class Links:
    """All neighbours of one node."""

    def __init__(self, settings: MacSettings) -> None:
        self._settings = settings
        self._links: dict[int, Link] = {}
        self._weight = 1.0 / 2**settings.ema_smoothing
        ladder = settings.schemes
        self._leave = tuple(GIVE_UP_DB[scheme] + settings.scheme_margin_db for scheme in ladder)
        self._enter = tuple(level + settings.scheme_hysteresis_db for level in self._leave)

    def __len__(self) -> int:
        return len(self._links)

    def items(self) -> list[tuple[int, Link]]:
        """Every neighbour by key."""
        return list(self._links.items())

    def get(self, key: int) -> Link | None:
        """What is known of a neighbour."""
        return self._links.get(key)

    def clear(self) -> None:
        """Forget all neighbours."""
        self._links.clear()

    def forget(self, key: int) -> None:
        """The neighbour is gone, or its key means another one now."""
        self._links.pop(key, None)

    def heard(self, key: int, snr_db: float, now: float) -> None:
        """A frame of the neighbour came in."""
        link = self._links.get(key)
        if link is None:
            if len(self._links) >= self._settings.nodes_max:
                del self._links[min(self._links, key=lambda one: self._links[one].heard_s)]
            link = self._links[key] = Link(snr_db, now)
        else:
            link.snr_db += self._weight * (snr_db - link.snr_db)
            link.heard_s = now
        link.frames += 1
        self._settle(link, now)

    def told(self, key: int, index: int, now: float) -> bool:
        """The neighbour says how well it hears us (PRM); False if it is no neighbour."""
        link = self._links.get(key)
        if link is None:
            return False
        link.told_db = index_snr_db(index)
        link.told_until_s = now + self._settings.robustness_hold_s
        self._settle(link, now)
        return True

    def _settle(self, link: Link, now: float) -> None:
        usable_db = link.snr_db if now >= link.told_until_s else min(link.snr_db, link.told_db)
        step, top = link.step, len(self._leave) - 1
        while step > 0 and usable_db < self._leave[step]:
            step -= 1
        while step < top and usable_db >= self._enter[step + 1]:
            step += 1
        link.step = step

    def lost(self, key: int) -> None:
        """A frame to the neighbour was not taken; a few in a row make the next ones more robust."""
        link = self._links.get(key)
        if link is None:
            return
        link.losses += 1
        link.lost += 1
        link.good = 0
        if link.lost >= self._settings.losses_to_fall:
            link.lost = 0
            link.penalty = min(link.penalty + 1, link.step, self._settings.penalty_max)

    def delivered(self, key: int) -> None:
        """A frame to the neighbour was taken; many in a row forgive one step."""
        link = self._links.get(key)
        if link is None:
            return
        link.lost = 0
        link.good += 1
        if link.good >= self._settings.deliveries_to_rise:
            link.good = 0
            link.penalty = max(0, link.penalty - 1)

    def scheme(self, key: int | None) -> Scheme:
        """Modulation for the next frame to a neighbour; the most robust one to everybody and to strangers."""
        link = None if key is None else self._links.get(key)
        if link is None:
            return self._settings.scheme
        return self._settings.schemes[max(0, link.step - link.penalty)]

    def allowed(self, snr_db: float) -> Scheme:
        """Modulation that a signal allows, without history."""
        step = 0
        while step < len(self._enter) - 1 and snr_db >= self._enter[step + 1]:
            step += 1
        return self._settings.schemes[step]

    def hop_cost(self, snr_db: float) -> int:
        """Cost of a hop of this signal."""
        return HOP_COST[self.allowed(snr_db)]
