"""Where in the frame we are: set by each beacon, good for some frames after the last one.

A frame is 276 symbols: beacon slots, the shared contention period, and a contention-free period if there is one. 32
frames are a superframe. A change of the structure is announced by FRA for the frame with a given number, and said
again by every beacon from then on.
"""

from __future__ import annotations

import math
from typing import Final

from prime_plc.phy import SYMBOL_S
from prime_plc.settings import CONTENTION_SYMBOLS_MIN, FRAME_S, FRAME_SYMBOLS, SUPERFRAME_FRAMES

JUMP_S: Final = 0.02
"""[s] A beacon that is this far from where it should be, by its arrival alone, means that the frame has moved."""


def leaves_contention(count: int, cfp: int, slot_symbols: int) -> bool:
    """Whether a frame with so many beacon slots and a contention-free period from ``cfp`` on (0 without one) leaves
    room for our frames."""
    end = cfp or FRAME_SYMBOLS
    return max(count, 1) * slot_symbols + CONTENTION_SYMBOLS_MIN <= end <= FRAME_SYMBOLS


class FrameClock:
    """Start, number and structure of the frames."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = ("_change", "_seq", "_start_s", "cfp", "count", "slot_s")

    def __init__(self, slot_symbols: int) -> None:
        self.slot_s = slot_symbols * SYMBOL_S
        self.count = 1
        self.cfp = 0
        self._start_s = 0.0
        self._seq = 0
        self._change: tuple[float, int, int] | None = None

    def beacon(self, slot_start_s: float, position: int, count: int, cfp: int, seq: int = 0) -> None:
        """A beacon of frame ``seq`` began at ``slot_start_s`` [s] in slot ``position`` of ``count``; ``cfp`` symbols
        end the contention."""
        self._start_s = slot_start_s - position * self.slot_s
        self._seq = seq
        self.count = max(count, 1)
        self.cfp = cfp

    def rough_beacon(self, slot_start_s: float, position: int, count: int, cfp: int, seq: int) -> None:
        """The same known by its arrival alone: keeps the old frame start unless it is plainly wrong."""
        start_s = slot_start_s - position * self.slot_s
        frames = round((start_s - self._start_s) / FRAME_S)
        expected_s = self._start_s + frames * FRAME_S
        if abs(start_s - expected_s) > JUMP_S:
            expected_s = start_s
        self.beacon(expected_s + position * self.slot_s, position, count, cfp, seq)

    def announce(self, seq: int, count: int | None, cfp: int | None, now: float) -> None:
        """From the next frame ``seq`` on the structure is another one (FRA); one without room for us is not taken."""
        count, cfp = self.count if count is None else max(count, 1), self.cfp if cfp is None else cfp
        if not leaves_contention(count, cfp, round(self.slot_s / SYMBOL_S)):
            return
        frames = self._frame(now)
        ahead = (seq - self._seq - frames) % SUPERFRAME_FRAMES
        at_s = self._start_s + (frames + ahead) * FRAME_S
        self._change = (at_s, count, cfp)

    def contention(self, now: float, ahead: int = 0) -> tuple[float, float]:
        """Start and end [s] of the contention period of the present frame, or of one ``ahead``."""
        start_s = self._start_s + (self._frame(now) + ahead) * FRAME_S
        count, cfp = self.count, self.cfp
        if self._change is not None:
            at_s, new_count, new_cfp = self._change
            if start_s >= at_s - FRAME_S / 2:
                count, cfp = new_count, new_cfp
                if now >= at_s:
                    self.count, self.cfp, self._change = count, cfp, None
        return start_s + count * self.slot_s, start_s + (cfp or FRAME_SYMBOLS) * SYMBOL_S

    def seq(self, now: float) -> int:
        """Number of the frame at ``now`` in the superframe."""
        return (self._seq + self._frame(now)) % SUPERFRAME_FRAMES

    def next_slot(self, after_s: float, slot: int, seq: int, frequency: int) -> tuple[float, int]:
        """Start [s] and frame number of the first beacon slot after ``after_s`` of a switch that beacons in ``slot``
        every 2**``frequency`` frames, frame ``seq`` among them."""
        frame = self._frame(after_s)
        if self._start_s + frame * FRAME_S + slot * self.slot_s <= after_s:
            frame += 1
        frame += (seq - self._seq - frame) % (1 << frequency)
        return self._start_s + frame * FRAME_S + slot * self.slot_s, (self._seq + frame) % SUPERFRAME_FRAMES

    def _frame(self, now: float) -> int:
        """Frames since the one that the last beacon told."""
        return math.floor((now - self._start_s) / FRAME_S)
