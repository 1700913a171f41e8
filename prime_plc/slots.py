"""Beacon slots: which switch beacons in which slot, how often, and in which frames of the superframe.

Slot 0 of every frame is the base's. A switch that beacons every 2**f frames leaves its slot free in the others, so
eight switches can share one at f = 3. Slots are filled one after the other, so that a frame has as few as possible
and its contention period stays long. A place is a slot of one frame in 32. When few are left, who beacons most often
gives half of his away (`half`, `narrow`), so that a deep or a long street has a beacon for all its switches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FREQUENCY_MAX: Final = 5
"""Every 32 frames, once in a superframe."""

RESERVE: Final = 8
"""One place of so many should be free: sixteen with five slots, for four switches of a deep street."""

FREQUENCY_KEPT: Final = 4
"""Nobody is asked to beacon less often than every 16 frames; four slots have that for 64 switches."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a switch beacons: slot ``number`` of frames ``seq``, ``seq`` + 2**``frequency``, ..."""

    number: int
    seq: int
    frequency: int

    def meets(self, other: Slot) -> bool:
        """Whether both would beacon at once in some frame."""
        step = 1 << min(self.frequency, other.frequency)
        return self.number == other.number and (self.seq - other.seq) % step == 0


class SlotTable:
    """Slots given away in one subnetwork."""

    def __init__(self, slots_max: int) -> None:
        assert 1 <= slots_max <= 7, slots_max
        self._slots_max = slots_max
        self._given: dict[int, Slot] = {}

    def __len__(self) -> int:
        return len(self._given)

    @property
    def count(self) -> int:
        """Beacon slots that a frame needs, the base's included."""
        return 1 + max((slot.number for slot in self._given.values()), default=0)

    def give(self, sid: int, wanted: int) -> Slot | None:
        """A slot for a switch, every 2**``wanted`` frames or less often, its old one if it has one; None if there is
        none left."""
        if sid in self._given:
            return self._given[sid]
        for frequency in range(wanted, FREQUENCY_MAX + 1):
            for number in range(1, self._slots_max):
                for seq in range(1 << frequency):
                    slot = Slot(number, seq, frequency)
                    if not any(slot.meets(other) for other in self._given.values()):
                        self._given[sid] = slot
                        return slot
        return None

    @property
    def full(self) -> bool:
        """Whether another switch would get none."""
        return not self._free

    @property
    def scarce(self) -> bool:
        """Whether those who beacon often should give something away."""
        return RESERVE * self._free <= self._places

    def half(self, sid: int) -> Slot | None:
        """Half of what a switch has; None if it has none, or needs all of it."""
        slot = self._given.get(sid)
        if slot is None or slot.frequency >= FREQUENCY_KEPT:
            return None
        return Slot(slot.number, slot.seq, slot.frequency + 1)

    def narrow(self, sid: int, slot: Slot) -> None:
        """The switch uses this part of its slot from now on; the rest is free."""
        if self.half(sid) == slot:
            self._given[sid] = slot

    @property
    def _places(self) -> int:
        return self._slots_max - 1 << FREQUENCY_MAX

    @property
    def _free(self) -> int:
        return self._places - sum(1 << FREQUENCY_MAX - slot.frequency for slot in self._given.values())

    def take_back(self, sid: int) -> None:
        """The switch is none any more."""
        self._given.pop(sid, None)
