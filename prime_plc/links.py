"""Link quality of each neighbour and the modulation chosen from it.

A neighbour is whoever shares a hop with this node: the switch above, or a child by its LNID. What matters is how the
neighbour hears *us*; what is measured is how we hear *it*. The two differ by the noise at either end, 7 dB and more as
a matter of course. So the measurement only bounds the choice: a new neighbour gets what would fit if it heard us worse
by `MacSettings.asymmetry_db`, and nobody gets more than what would fit if it heard us a little better. In between the
airtime of a delivery decides: of each scheme the share of frames taken is known, a few deliveries try the next one, and
the one before is taken again when it delivers more in the same time; then the next try comes later. Collisions and
bursts take fast and slow frames alike (slow ones more often), so where the signal is good beyond doubt only many losses
in a row count. What the neighbour says of our signal (PRM) is believed at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from prime_plc.phy import Scheme, frame_duration_s
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

BAD_HOP_COST: Final = HOP_COST[Scheme.ROBUST_DBPSK]
USUAL_SHARE: Final = 0.6
"""Of frames seen to be taken in the long run, below which a hop costs more, by the tries that it needs. Bursts that
take a third of everything leave 0.45 to 0.55 on a hop that is as good as any (ours)."""

COST_MAX: Final = 255
STEP_DB: Final = 3.0
"""[dB] One step of the SNR index 0 to 7."""

INDEX_MAX: Final = 7
USUAL_BYTES: Final = 140
"""Of a data frame, by which schemes are compared: a report of one phase."""

ACCESS_S: Final = 0.02
"""[s] That a try costs beside its airtime: backoff, and the gaps around a frame."""

WORTH: Final = 1.1
"""How much more than the present scheme another one must deliver in the same time."""

ROBUST_TRIES: Final = 3
"""Repetitions of one hop from which on a frame takes the next more robust scheme."""

LONG_MEMORY: Final = 64
"""Frames over which the share taken in the long run is reckoned."""

DEAF_CHANCE: Final = 1e-5
UNANSWERED_TIMES_MAX: Final = 4
"""That a link as it was has so many losses in a row by chance; but not more than so many times the usual limit."""

FALLING: Final = 0.4
"""Weight of a frame that came weaker than those before it, against one that came stronger: bursts and collisions weaken
single frames, and what is left between them is the signal."""

WEAKER_MAX: Final = 5
"""Weaker frames in a row that may be disturbed; more are a signal that fades."""

FALL_DB: Final = 6.0
"""[dB] By which frames are far weaker; of a row of them longer than bursts make it the best is the signal."""

LOST_FIRST: Final = 4
"""Losses in a row that end a step of which nothing has been taken yet."""

BELOW_MAX: Final = 1
"""Steps that losses lead below what the neighbour has said to be right. What is lost there is lost to collisions, and
slower frames make more of them: in a crowded street ways of 20 to 40 dB went to the slowest modulation, whose losses
then made trunks leave the base, and it collapsed (ours)."""

DOUBTS: Final = 2
"""What a share of frames taken starts from counts like so many of them."""


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
        shares, counts: of the frames sent with each step, how many of the latest were taken, and of how many.
        good: deliveries since the step was taken.
        lost: losses in a row.
        unanswered: losses since the neighbour last took something; ``deliveries`` and ``losses`` are all of them.
        rise: deliveries that try the next step again; twice as many after each try that failed.
        taken, sent: share of all frames taken in the long run, and of how many.
        weaker: frames in a row that came weaker than those before.
        fallen_db: frames in a row that came far weaker [dB].
        unanswered_max: losses in a row that such a link does not have by chance.
    """

    snr_db: float
    heard_s: float
    rise: int
    shares: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    told_db: float = 0.0
    told_until_s: float = 0.0
    step: int = 0
    good: int = 0
    lost: int = 0
    unanswered: int = 0
    frames: int = 0
    losses: int = 0
    deliveries: int = 0
    taken: float = 1.0
    sent: int = 0
    unanswered_max: int = 0
    weaker: int = 0
    fallen_db: list[float] = field(default_factory=list)

    def hear(self, snr_db: float, weight: float) -> None:
        """Smooth the signal by a frame's, or see that it has fallen."""
        self.weaker = 0 if snr_db > self.snr_db else self.weaker + 1
        if snr_db <= self.snr_db - FALL_DB:
            self.fallen_db.append(snr_db)
        elif self.fallen_db:
            self.fallen_db.clear()
        if len(self.fallen_db) > WEAKER_MAX:
            self.snr_db = max(self.fallen_db)
            self.fallen_db.clear()
        else:
            disturbed = 0 < self.weaker <= WEAKER_MAX
            self.snr_db += weight * (snr_db - self.snr_db) * (FALLING if disturbed else 1.0)

    def forget(self, steps: int) -> None:
        """Nothing is known of any scheme."""
        self.shares, self.counts = [1.0] * steps, [0] * steps
        self.good = self.lost = 0

    def note(self, taken: float, memory: int) -> None:
        """A frame with the present scheme was taken (1) or not (0)."""
        self.counts[self.step] = count = min(self.counts[self.step] + 1, memory)
        self.shares[self.step] += (taken - self.shares[self.step]) / (count + DOUBTS)
        self.sent = min(self.sent + 1, LONG_MEMORY)
        self.taken += (taken - self.taken) / (self.sent + DOUBTS)


class Links:
    """All neighbours of one node."""

    def __init__(self, settings: MacSettings) -> None:
        self._settings = settings
        self._links: dict[int, Link] = {}
        self._weight = 1.0 / 2**settings.ema_smoothing
        ladder = settings.schemes
        self._leave = tuple(GIVE_UP_DB[scheme] + settings.scheme_margin_db for scheme in ladder)
        self._enter = tuple(level + settings.scheme_hysteresis_db for level in self._leave)
        self._speed = tuple(1.0 / (frame_duration_s(USUAL_BYTES, scheme) + ACCESS_S) for scheme in ladder)

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
            link.forget(len(self._enter))
            link.step = self._fitting(snr_db - self._settings.asymmetry_db)
        else:
            link.hear(snr_db, self._weight)
            link.heard_s = now
        link.frames += 1
        while link.step > 0 and self._ear_db(link) < self._leave[link.step]:
            link.step -= 1

    def told(self, key: int, index: int, now: float) -> bool:
        """The neighbour says how well it hears us (PRM); False if it is no neighbour."""
        link = self._links.get(key)
        if link is None:
            return False
        told_db = index_snr_db(index)
        known = now < link.told_until_s and told_db == link.told_db
        link.told_db = told_db
        link.told_until_s = now + self._settings.robustness_hold_s
        if known:  # it says so again, as it is not what we do
            link.step = min(link.step, self._fitting(told_db))
            return True
        link.step = self._fitting(link.told_db)
        link.forget(len(self._enter))
        return True

    def deaf(self, key: int) -> bool:
        """Whether the neighbour takes hardly anything, in the most robust scheme too; said once for what is known.

        Bursts and collisions take a large share of everything for a while; a link that was no better before is not
        worse than others for it.
        """
        link = self._links.get(key)
        if link is None:
            return False
        settings = self._settings
        known = link.step == 0 and link.counts[0] >= settings.share_memory
        weak = self._ear_db(link) < settings.weak_ear_db  # a burst takes frames, and not from the signal of the others
        least = settings.weak_share_min if weak else settings.share_min
        poor = known and max(link.shares[0], link.taken) < least
        found = poor or link.unanswered >= max(settings.unanswered_max, link.unanswered_max)
        if found:
            link.forget(len(self._enter))
            link.unanswered = link.sent = 0
            link.taken, link.unanswered_max = 1.0, 0
        return found

    def _ear_db(self, link: Link) -> float:
        """The best that the neighbour can be thought to hear of us [dB]."""
        if link.heard_s < link.told_until_s:
            return link.told_db + STEP_DB / 2
        return link.snr_db + STEP_DB

    def _surely_db(self, link: Link) -> float:
        """The least that the neighbour can be thought to hear of us [dB]."""
        if link.heard_s < link.told_until_s:
            return link.told_db
        return link.snr_db - self._settings.asymmetry_db

    def _worth(self, link: Link, step: int) -> float:
        """Frames taken in a second of airtime with a scheme."""
        return link.shares[step] ** 2 * self._speed[step]

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
        link.unanswered += 1
        settings = self._settings
        link.note(0.0, settings.share_memory)
        told = link.heard_s < link.told_until_s
        right = self._fitting(link.told_db) if told else 0
        if link.step <= max(0, right - BELOW_MAX):
            return
        if link.good == 0 and link.lost >= LOST_FIRST:
            self._step_down(link)
            return
        if told and link.step <= right:
            # It has said that this is right, so bursts and collisions take them, and slow ones more often.
            if link.lost >= 2 * settings.losses_to_doubt:
                self._step_down(link)
            return
        better = link.step > self._fitting(self._surely_db(link)) and (
            self._worth(link, link.step - 1) > WORTH * self._worth(link, link.step)
        )
        if better or link.lost >= settings.losses_to_doubt:
            self._step_down(link)

    def _step_down(self, link: Link) -> None:
        settings = self._settings
        failed = link.counts[link.step] < settings.share_memory
        link.rise = min(2 * link.rise, settings.deliveries_to_rise_max) if failed else settings.deliveries_to_rise
        link.step -= 1
        link.good = link.lost = link.unanswered = 0

    def delivered(self, key: int) -> None:
        """A frame to the neighbour was taken."""
        link = self._links.get(key)
        if link is None:
            return
        link.deliveries += 1
        link.lost = link.unanswered = 0
        link.good += 1
        link.note(1.0, self._settings.share_memory)
        link.unanswered_max = self._unanswered_max(link)
        above = link.step + 1
        if above == len(self._enter) or self._ear_db(link) < self._enter[above]:
            return
        if link.good >= link.rise:  # whatever became of the last try
            link.shares[above], link.counts[above] = 1.0, 0
        elif not link.counts[above] or self._worth(link, above) < WORTH * self._worth(link, link.step):
            return
        link.step = above
        link.good = 0

    def _unanswered_max(self, link: Link) -> int:
        if link.taken >= 1.0:
            return 0
        row = math.ceil(math.log(DEAF_CHANCE) / math.log(1.0 - link.taken))
        return min(row, UNANSWERED_TIMES_MAX * self._settings.unanswered_max)

    def scheme(self, key: int | None, tries: int = 0) -> Scheme:
        """Modulation for the next data to a neighbour; the most robust one to everybody and to strangers.

        Args:
            key: the neighbour.
            tries: repetitions so far; the last ones are a step more robust.
        """
        link = None if key is None else self._links.get(key)
        if link is None:
            return self._settings.scheme
        return self._settings.schemes[max(0, link.step - (tries >= ROBUST_TRIES))]

    def allowed(self, snr_db: float) -> Scheme:
        """Modulation that a signal allows, without history."""
        return self._settings.schemes[self._fitting(snr_db)]

    def ear_cost(self, key: int) -> int:
        """Cost of the hop from a neighbour to us, by its signal here; 0 if it is not known."""
        link = self._links.get(key)
        if link is None:
            return 0
        weak = link.snr_db < self._settings.weak_ear_db
        return BAD_HOP_COST if weak else HOP_COST[self.allowed(link.snr_db)]

    def hop_cost(self, key: int) -> int:
        """Cost of the hop to a neighbour; one that hears us badly, or takes few of our frames, costs most."""
        link = self._links.get(key)
        if link is None:
            return HOP_COST[self._settings.scheme]
        if link.heard_s < link.told_until_s and link.told_db < self._enter[0]:
            return BAD_HOP_COST
        cost = HOP_COST[self._settings.schemes[link.step]]
        if link.sent < self._settings.share_memory or link.taken >= USUAL_SHARE:
            return cost
        return min(BAD_HOP_COST, round((1 + cost) * USUAL_SHARE / link.taken) - 1)
