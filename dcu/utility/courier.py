"""Which batch leaves next, how large it is, and when to try again. Pure.

Live goes before what is older, and never takes more than `LIVE_IN_A_ROW` messages in a row while that waits, so that
both move. Backlog and what is offered again take turns: neither does a long outage keep the second back until the
broker dies once more, nor a link that dies every minute the first. A message is as large as the line carries in about
`MESSAGE_S`: a live decision waits for one message at most.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from dcu.utility.documents import Class
from dcu.utility.outbox import Batch
from dcu.utility.outbox_file import Lane

LIVE_IN_A_ROW: Final = 3
"""A quarter of the messages belongs to what is older while there is any."""

MESSAGE_S: Final = 1.0
"""[s] What one message may take of the line."""
BYTES_MIN: Final = 1 << 10
BYTES_MAX: Final = 1 << 16
BYTES_START: Final = 1 << 13

BACK_OFF_S_MIN: Final = 1.0
BACK_OFF_S_MAX: Final = 60.0

SUSPECT_AFTER: Final = 3
"""Failures of messages with the same first item: from then on it travels alone."""
ASIDE_AFTER: Final = 8
"""Failures of messages with the same first item: then it is set aside. The broker was reached each time."""
SUSPECTS_MAX: Final = 64
PARDON_S: Final = 3600.0
"""[s] What was set aside tries again so often; and at most so often a subscriber who is back has everything again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Which batch to take: lanes in the order to look, and how much of it."""

    lanes: tuple[Lane, ...]
    bytes_max: int


class Courier:
    """The manners of the link's one sender."""

    def __init__(self, draw: random.Random, now: float) -> None:
        """``draw`` spreads the attempts of many DCUs."""
        self._draw = draw
        self._live_run = 0
        self._older = (Lane.AGAIN, Lane.BACKLOG)
        self._bytes = BYTES_START
        self._attempts = 0
        self._failures: dict[int, int] = {}
        self._pardoned_s = now
        self._unheard: set[Class] = set()
        self._offered_s: float | None = None
        self._offer = self._present = False

    @property
    def bytes_max(self) -> int:
        """How large a message may be at present."""
        return self._bytes

    def ask(self) -> Ask:
        """What to take next."""
        lanes = (*self._older, Lane.LIVE) if self._live_run >= LIVE_IN_A_ROW else (Lane.LIVE, *self._older)
        return Ask(lanes, self._bytes)

    def wary(self, batch: Batch) -> Batch:
        """The same, or its first item alone if that has failed before."""
        if self._failures.get(batch.rows[0], 0) < SUSPECT_AFTER:
            return batch
        return replace(batch, rows=batch.rows[:1], items=batch.items[:1])

    def sent(self, batch: Batch, took_s: float, size: int) -> None:
        """A message was acknowledged after ``took_s``."""
        self._attempts = 0
        for row in batch.rows:
            self._failures.pop(row, None)
        if batch.lane is Lane.LIVE:
            self._live_run += 1
        else:
            self._live_run = 0
            self._older = (Lane.AGAIN, Lane.BACKLOG) if batch.lane is Lane.BACKLOG else (Lane.BACKLOG, Lane.AGAIN)
        if took_s > MESSAGE_S:
            self._bytes = max(BYTES_MIN, self._bytes // 2)
        elif took_s < MESSAGE_S / 4 and size > self._bytes // 2:
            self._bytes = min(BYTES_MAX, self._bytes * 2)

    def failed(self, batch: Batch) -> bool:
        """A message was refused, or the link went with it; whether its first item is to be set aside."""
        first = batch.rows[0]
        failures = self._failures.pop(first, 0) + 1
        if failures >= ASIDE_AFTER:
            return True
        while len(self._failures) >= SUSPECTS_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures[first] = failures
        return False

    def pause_s(self) -> float:
        """How long to wait before the next attempt to connect [s]; grows until something is acknowledged."""
        ceiling_s = min(BACK_OFF_S_MAX, BACK_OFF_S_MIN * float(1 << min(self._attempts, 10)))
        self._attempts += 1
        return ceiling_s * self._draw.uniform(0.5, 1.0)

    def connected(self) -> None:
        """Another session, which begins with everything that there is to offer again."""
        self._unheard.clear()
        self._offer = False

    def heard(self, kind: Class, *, heard: bool) -> None:
        """Whether the broker had anybody to give a message to. One that lost its subscriptions drops what it
        acknowledges: once somebody is back, that is to leave again."""
        self._present = heard
        if not heard:
            self._unheard.add(kind)
        elif kind in self._unheard:
            self._unheard.remove(kind)
            self._offer = True

    def offers(self, now: float) -> bool:
        """Whether it is time to offer again because somebody is back; who comes and goes has to wait."""
        if not (self._offer and self._present) or (self._offered_s is not None and now < self._offered_s + PARDON_S):
            return False
        self._offer, self._offered_s = False, now
        return True

    def pardons(self, now: float) -> bool:
        """Whether it is time for what was set aside to try again."""
        if now < self._pardoned_s + PARDON_S:
            return False
        self._pardoned_s = now
        return True
