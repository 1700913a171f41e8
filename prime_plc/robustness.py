"""When to tell a neighbour, by PRM, that its modulation does not fit what we receive from it.

A sender chooses by the signal it receives; where noise differs between the ends that is the wrong measure. The receiver
sees both the modulation and the signal of each frame, and says how well it hears when the two do not fit for some
frames in a row. A signal so weak that a tree should not hang on it is told with the first frame, and again while it
stays so: who hears a switch well may be hardly heard by it, and nobody else can tell. The meaning of the packet is
recalled; when to send it is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prime_plc.links import GIVE_UP_DB, INDEX_MAX, Links, quality_index
from prime_plc.phy import Scheme
from prime_plc.settings import MacSettings

TOO_SLOW_STEPS = 2
"""Steps of the ladder that a modulation may stay below what the signal allows."""


WEAK_INDEX_MAX = 4
"""SNR index up to which a signal is told in any case; 4 is below 12 dB."""

NEWS_STEPS = 2
"""Steps of the index by which a signal must have fallen to be told before its time; a weak one that has risen is told
in any case, as its sender is slower than it need be."""


ANSWER_S = 8.0
"""[s] A word without an answer was lost perhaps; it is said again after this, and twice as long each time."""

FRAMES_KNOWN = 2
"""Frames of a neighbour before its signal is known well enough to say a word about it."""

TRIES_MAX = 8
"""Doublings; who never answers has the longest time between two words by then."""


@dataclass(slots=True)
class _Seen:
    tries: int = 0
    told: int = INDEX_MAX
    told_s: float = -math.inf
    misfits: int = 0
    quiet_until_s: float = 0.0


class RobustnessWatch:
    """Modulations and signals of the neighbours' frames."""

    def __init__(self, settings: MacSettings, links: Links) -> None:
        self._settings = settings
        self._links = links
        self._seen: dict[int, _Seen] = {}

    def clear(self) -> None:
        """Forget all neighbours."""
        self._seen.clear()

    def forget(self, key: int) -> None:
        """This neighbour is another one now."""
        self._seen.pop(key, None)

    def observe(self, key: int, scheme: Scheme, snr_db: float, now: float, *, control: bool = False) -> int | None:
        """A frame for us came in; the SNR index to tell its sender, if it should be told now. The modulation of a
        control packet is no choice, but a signal that is too weak for it is worth a word early."""
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= self._settings.nodes_max:
                self._seen.clear()
            seen = self._seen[key] = _Seen()
        link = self._links.get(key)
        if link is not None:  # what disturbs one frame says nothing of the signal
            snr_db = max(snr_db, link.snr_db)
        bears = self._bears(scheme, snr_db)
        if not (bears and control):
            seen.misfits = 0 if bears and self._fits(scheme, snr_db) else seen.misfits + 1
        index = quality_index(snr_db)
        fallen = seen.told - index >= NEWS_STEPS and now >= seen.told_s + ANSWER_S
        if now < seen.quiet_until_s and not fallen:
            return None
        # Of frames that are too fast most are lost, so that each that comes stands for some.
        frames = self._settings.robustness_frames if bears else self._settings.robustness_frames / 2
        if seen.misfits < frames and not self._news(key, seen, now):
            return None
        if link is not None and link.frames < FRAMES_KNOWN:
            return None
        seen.misfits = 0
        seen.told, seen.told_s = index, now
        seen.quiet_until_s = now + min(self._settings.robustness_interval_s, ANSWER_S * 2**seen.tries)
        seen.tries = min(seen.tries + 1, TRIES_MAX)
        return index

    def answered(self, key: int) -> None:
        """The neighbour has answered our word."""
        seen = self._seen.get(key)
        if seen is not None and seen.tries:
            seen.tries = 0
            seen.quiet_until_s = seen.told_s + self._settings.robustness_interval_s

    def _news(self, key: int, seen: _Seen, now: float) -> bool:
        """Whether a signal is, or was, too weak for a tree to hang on, and its sender should know how it is now."""
        link = self._links.get(key)
        if link is None:
            return False
        index = quality_index(link.snr_db)
        if min(index, seen.told) > WEAK_INDEX_MAX:
            return False
        old = now - seen.told_s > self._settings.robustness_hold_s / 2
        return old or seen.tries > 0 or index > seen.told or seen.told - index >= NEWS_STEPS

    def _fits(self, scheme: Scheme, snr_db: float) -> bool:
        ladder = self._settings.schemes
        if scheme not in ladder or len(ladder) == 1:
            return True
        used = ladder.index(scheme)
        return used + TOO_SLOW_STEPS > ladder.index(self._links.allowed(snr_db))

    def _bears(self, scheme: Scheme, snr_db: float) -> bool:
        return scheme not in GIVE_UP_DB or snr_db >= GIVE_UP_DB[scheme] + self._settings.scheme_margin_db
