"""Link quality of each neighbour and the modulation chosen from it.

A neighbour is whoever shares a hop with this node: the switch above, or a child by its LNID. What matters is how the
neighbour hears *us*; what is measured is how we hear *it*. The two differ by the noise at either end, 7 dB and more as
a matter of course. So the measurement only bounds the choice: a new neighbour gets what would fit if it heard us worse
by `MacSettings.asymmetry_db`, and nobody gets more than what would fit if it heard us a little better. In between
deliveries decide: some in a row try the next scheme, and if that fails at once the one before is taken again and the
next try comes later. A scheme that has proven itself is left only after several losses in a row: single ones are
collisions, against which slower frames help nobody. What the neighbour says of our signal (PRM) is believed at once.
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
    """[dB] Middle of what an index can mean; the lower end of the highest."""
    return STEP_DB * (index - 0.5) if index < INDEX_MAX else STEP_DB * (INDEX_MAX - 1)


@dataclass(slots=True)
class Link:
    """What is known of the hop to one neighbour.

    Attributes:
        snr_db: smoothed signal of its frames here [dB].
        told_db: our signal there, as it said by PRM [dB].
        step: place in the ladder of schemes.
        proven: deliveries since the step was taken.
        good, lost: deliveries and losses in a row; ``deliveries`` and ``losses`` are all of them.
        rise: deliveries in a row that try the next step; twice as many after each try that failed.
    """

    snr_db: float
    heard_s: float
    rise: int
    told_db: float = 0.0
    told_until_s: float = 0.0
    step: int = 0
    proven: int = 0
    good: int = 0
    lost: int = 0
    frames: int = 0
    losses: int = 0
    deliveries: int = 0


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

    def summary(self, key: int) -> dict[str, object] | None:
        """A neighbour for people: its signal here, our modulation to it, frames heard, deliveries and losses."""
        link = self._links.get(key)
        if link is None:
            return None
        return {
            "snr_db": round(link.snr_db, 1),
            "scheme": self.scheme(key).name,
            "heard": link.frames,
            "delivered": link.deliveries,
            "lost": link.losses,
        }

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
            link = self._links[key] = Link(snr_db, now, self._settings.deliveries_to_rise)
            link.step = self._fitting(snr_db - self._settings.asymmetry_db)
        else:
            link.snr_db += self._weight * (snr_db - link.snr_db)
            link.heard_s = now
        link.frames += 1
        while link.step > 0 and self._ear_db(link) < self._leave[link.step]:
            link.step -= 1

    def told(self, key: int, index: int, now: float) -> bool:
        """The neighbour says how well it hears us (PRM); False if it is no neighbour."""
        link = self._links.get(key)
        if link is None:
            return False
        link.told_db = index_snr_db(index)
        link.told_until_s = now + self._settings.robustness_hold_s
        link.step = self._fitting(link.told_db)
        link.lost = link.good = link.proven = 0
        return True

    def _ear_db(self, link: Link) -> float:
        """The best that the neighbour can be thought to hear of us [dB]."""
        if link.heard_s < link.told_until_s:
            return link.told_db + STEP_DB
        return link.snr_db + STEP_DB

    def _fitting(self, snr_db: float) -> int:
        step = 0
        while step < len(self._enter) - 1 and snr_db >= self._enter[step + 1]:
            step += 1
        return step

    def lost(self, key: int) -> None:
        """A frame to the neighbour was not taken."""
        link = self._links.get(key)
        if link is None:
            return
        link.losses += 1
        link.lost += 1
        link.good = 0
        settings = self._settings
        tried = link.proven < settings.deliveries_to_prove
        if link.step == 0 or link.lost < (settings.losses_to_fall if tried else settings.losses_to_doubt):
            return
        link.step -= 1
        link.lost = 0
        link.rise = min(2 * link.rise, settings.deliveries_to_rise_max) if tried else settings.deliveries_to_rise
        link.proven = 0 if tried and link.step else settings.deliveries_to_prove

    def delivered(self, key: int) -> None:
        """A frame to the neighbour was taken."""
        link = self._links.get(key)
        if link is None:
            return
        link.deliveries += 1
        link.lost = 0
        link.good += 1
        link.proven += 1
        top = len(self._enter) - 1
        if link.good >= link.rise and link.step < top and self._ear_db(link) >= self._enter[link.step + 1]:
            link.step += 1
            link.good = link.proven = 0

    def scheme(self, key: int | None, tries: int = 0) -> Scheme:
        """Modulation for the next data to a neighbour; the most robust one to everybody and to strangers.

        Args:
            key: the neighbour.
            tries: repetitions so far; from the second on each is a step more robust.
        """
        link = None if key is None else self._links.get(key)
        if link is None:
            return self._settings.scheme
        return self._settings.schemes[max(0, link.step - max(0, tries - 1))]

    def allowed(self, snr_db: float) -> Scheme:
        """Modulation that a signal allows, without history."""
        return self._settings.schemes[self._fitting(snr_db)]

    def hop_cost(self, snr_db: float) -> int:
        """Cost of a hop of this signal."""
        return HOP_COST[self.allowed(snr_db)]
