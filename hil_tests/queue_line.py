"""A power line as a queue: air time by bytes, one frame at a time, losses from the seed, repetitions, counters.

The short form of `hil_tests.virtual.line` and the MAC on both of its ends, for days with tens of meters. What it keeps:
every byte costs its air time, everybody waits for everybody, the base node goes first, a lost frame
is repeated and a message lost too often is gone. What it leaves out: collisions, beacons, switches, and who hears whom.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import asdict, dataclass
from typing import Final, Generic, TypeVar

from prime_plc.pdu import CRC32_BYTES, GENERIC_HEADER_BYTES, PACKET_HEADER_BYTES
from prime_plc.phy import PhyMode, Scheme, frame_duration_s

LINK_BYTES: Final = 3 + 4
"""LPDU header, and the subheader with its sequence numbers (segmentation, repetition)."""
OVERHEAD_BYTES: Final = GENERIC_HEADER_BYTES + PACKET_HEADER_BYTES + CRC32_BYTES + LINK_BYTES
ANSWER_BYTES: Final = GENERIC_HEADER_BYTES + PACKET_HEADER_BYTES + CRC32_BYTES + 2
"""The frame that acknowledges another."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class LineSettings:
    """The line and how it is used.

    Attributes:
        scheme: modulation of every frame. The default is the most robust of PRIME 1.3.6; the four-fold repetition of
            1.4 (ROBUST_*) takes two to four times the air time, more than 55 meters with a report every 30 s have.
        access_s: between two frames on the line, for carrier sense and backoff.
        loss: probability that a frame, or its acknowledgement, is lost.
        attempts_max: transmissions of one message.
        queue_max: messages waiting; more are dropped and counted.
    """

    scheme: Scheme = Scheme.DBPSK_C
    access_s: float = 0.015
    loss: float = 0.02
    attempts_max: int = 4
    queue_max: int = 256


@dataclass(slots=True)
class LineCounters:
    """What happened on the line."""

    messages: int = 0
    frames: int = 0
    bytes: int = 0
    airtime_s: float = 0.0
    frames_lost: int = 0
    messages_lost: int = 0
    messages_dropped: int = 0
    queue_most: int = 0
    waiting_s: float = 0.0
    """Of all messages together, from offer to delivery."""

    def as_json(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


class QueueLine(Generic[Item]):
    """One transmission at a time; `wake` delivers what has arrived."""

    def __init__(self, settings: LineSettings, draw: random.Random) -> None:
        self._settings = settings
        self._draw = draw
        self._down: deque[tuple[Item, int, float]] = deque()
        self._up: deque[tuple[Item, int, float]] = deque()
        self._now: tuple[Item | None, float, float] | None = None
        """On the line: the message (None if it will be lost), when it was offered, when it ends."""
        self.counters = LineCounters()

    @property
    def wake_at(self) -> float | None:
        """When the present transmission ends [s]."""
        return None if self._now is None else self._now[2]

    def offer(self, item: Item, length: int, now: float, *, from_base: bool) -> None:
        """A message of so many bytes wants to go."""
        waiting = len(self._up) + len(self._down)
        if waiting >= self._settings.queue_max:
            self.counters.messages_dropped += 1
            return
        self.counters.queue_most = max(self.counters.queue_most, waiting + 1)
        (self._down if from_base else self._up).append((item, length, now))
        if self._now is None:
            self._start(now)

    def wake(self, now: float) -> list[Item]:
        """Everything that has arrived by now, in order."""
        arrived = []
        while self._now is not None and now >= self._now[2]:
            item, offered_s, ended_s = self._now
            if item is not None:
                arrived.append(item)
                self.counters.waiting_s += ended_s - offered_s
            self._now = None
            self._start(ended_s)
        return arrived

    def _start(self, now: float) -> None:
        """The next message, with all its repetitions at once: nobody else gets in between."""
        queue = self._down or self._up
        if not queue:
            return
        item, length, offered_s = queue.popleft()
        settings, counters = self._settings, self.counters
        mode = PhyMode.TYPE_B if settings.scheme.robust else PhyMode.TYPE_A
        there_s = frame_duration_s(length + OVERHEAD_BYTES, settings.scheme, mode)
        back_s = frame_duration_s(ANSWER_BYTES, settings.scheme, mode)
        took_s, heard, answered = 0.0, False, False
        for _ in range(settings.attempts_max):
            took_s += settings.access_s + there_s
            counters.frames += 1
            counters.bytes += length + OVERHEAD_BYTES
            counters.airtime_s += there_s
            if self._draw.random() < settings.loss:
                counters.frames_lost += 1
                took_s += back_s  # the sender waits as long for nothing
                continue
            heard = True
            counters.frames += 1
            counters.bytes += ANSWER_BYTES
            counters.airtime_s += back_s
            took_s += back_s
            answered = self._draw.random() >= settings.loss
            if answered:
                break
            counters.frames_lost += 1
        counters.messages += 1
        counters.messages_lost += not heard
        self._now = (item if heard else None, offered_s, now + took_s)
