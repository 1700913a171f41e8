"""Channel access in the shared contention period (CSMA/CA): a queue, a backoff, one frame with the modem at a time.

Backoff of a frame of priority P at its n-th attempt: uniform in 0 .. min(2**(P+n) + 1, half the contention period)
symbols (recalled from PRIME 1.3.6). Carrier sensing is the modem's: it looks at the line when it begins to emit, and
answers "busy", which costs one attempt. The several senses 3 ms apart of the specification (their number is not
established) would cost a round trip on the serial port each and are left out. Frames are handed over when their
backoff has ended, for emission at once: absolute scheduling needs more lead than the backoff is long.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prime_plc.modem_host import ModemSettings, TransmitFrame
from prime_plc.modem_messages import BUFFER_DATA, TransmitResult
from prime_plc.phy import SYMBOL_S
from prime_plc.settings import FRAME_S, FRAME_SYMBOLS, MacSettings

PRIORITY_CONTROL: Final = 1


class FrameClock:
    """Where in the frame we are: set by each beacon, good for some frames after the last one."""

    def __init__(self, settings: MacSettings) -> None:
        self._slot_symbols = settings.beacon_slot_symbols
        self._start_s = 0.0
        self._first_symbol = settings.beacon_slot_symbols
        self._end_symbol = FRAME_SYMBOLS

    def beacon(self, slot_start_s: float, position: int, count: int, cfp: int) -> None:
        """A beacon began at ``slot_start_s`` [s] in slot ``position`` of ``count``; ``cfp`` symbols end the
        contention."""
        self._start_s = slot_start_s - position * self._slot_symbols * SYMBOL_S
        self._first_symbol = max(count, 1) * self._slot_symbols
        self._end_symbol = cfp or FRAME_SYMBOLS

    def contention(self, now: float, ahead: int = 0) -> tuple[float, float]:
        """Start and end [s] of the contention period of the present frame, or of one ``ahead``."""
        frame = math.floor((now - self._start_s) / FRAME_S) + ahead
        start_s = self._start_s + frame * FRAME_S
        return start_s + self._first_symbol * SYMBOL_S, start_s + self._end_symbol * SYMBOL_S


class Given(Enum):
    """How a frame left the queue."""

    SENT = "sent"
    BUSY = "channel busy"
    FAILED = "modem failed"


@dataclass(slots=True)
class _Waiting:
    priority: int
    order: int
    pdu: bytes
    attempts: int = 0

    def __lt__(self, other: _Waiting) -> bool:
        return (self.priority, self.order) < (other.priority, other.order)


class ChannelAccess:
    """Frames that want the line, one after the other, most urgent first."""

    def __init__(self, settings: MacSettings, modem: ModemSettings, clock: FrameClock, draw: random.Random) -> None:
        self._settings = settings
        self._modem = modem
        self._clock = clock
        self._draw = draw
        self._queue: list[_Waiting] = []
        self._order = 0
        self._sending: _Waiting | None = None
        self.wake_at: float | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, pdu: bytes, priority: int, now: float) -> bool:
        """Queue a frame; False (and counted) if the queue is full."""
        if len(self._queue) >= self._settings.queue_max:
            self.dropped += 1
            return False
        self._order += 1
        heapq.heappush(self._queue, _Waiting(priority, self._order, pdu))
        if self._sending is None and self.wake_at is None:
            self._back_off(now)
        return True

    def clear(self) -> None:
        """Forget everything (the modem or the network is gone)."""
        self._queue.clear()
        self._sending = None
        self.wake_at = None

    def wake(self, now: float) -> TransmitFrame | None:
        """The frame to hand to the modem now, if its backoff has ended."""
        if self.wake_at is None or now < self.wake_at or self._sending is not None or not self._queue:
            return None
        _, end_s = self._clock.contention(now)
        if now + self._needed_s(self._queue[0]) > end_s:  # woken late: the rest of the period has become too short
            self._back_off(now)
            return None
        self.wake_at = None
        self._sending = heapq.heappop(self._queue)
        return TransmitFrame(self._sending.pdu, self._settings.scheme, None, BUFFER_DATA, exclusive=False)

    def confirmed(self, result: TransmitResult, now: float) -> Given | None:
        """What became of the frame with the modem; None while it will be tried again."""
        sending, self._sending = self._sending, None
        given: Given | None = Given.SENT
        if sending is None:
            return None
        if result is not TransmitResult.SUCCESS:
            sending.attempts += 1
            given = Given.BUSY if result.busy else Given.FAILED
            if sending.attempts < self._settings.transmit_attempts_max:
                heapq.heappush(self._queue, sending)
                given = None
            else:
                self.dropped += 1
        if self._queue:
            self._back_off(now)
        return given

    def _needed_s(self, waiting: _Waiting) -> float:
        return self._modem.airtime_s(len(waiting.pdu), self._settings.scheme) + self._settings.access_margin_s

    def _back_off(self, now: float) -> None:
        """Draw when the most urgent frame may go: in this contention period if it fits, else in the next."""
        waiting = self._queue[0]
        for ahead in (0, 1, 2):
            start_s, end_s = self._clock.contention(now, ahead)
            half = int((end_s - start_s) / SYMBOL_S) // 2
            symbols = self._draw.randint(0, min(2 ** (waiting.priority + waiting.attempts) + 1, half))
            at_s = max(now, start_s) + symbols * SYMBOL_S
            if at_s + self._needed_s(waiting) <= end_s:
                self.wake_at = at_s
                return
        raise AssertionError(f"a frame of {len(waiting.pdu)} bytes fits no contention period")
