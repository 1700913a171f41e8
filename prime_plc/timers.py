"""Deadlines of many things, the next of them at hand: one heap instead of a walk over all of them."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class Deadlines(Generic[KeyT]):
    """At most one deadline for each key.

    A deadline that moves away costs a dictionary entry only: its old place in the heap stays and is corrected when it
    comes up. That is what most deadlines do, as every sign of life moves one.
    """

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = ("_at", "_count", "_heap", "_queued")

    def __init__(self) -> None:
        self._at: dict[KeyT, float] = {}
        self._queued: dict[KeyT, float] = {}
        self._heap: list[tuple[float, int, KeyT]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: KeyT, at: float | None) -> None:
        """Give a key its deadline [s]; None takes it away."""
        if at is None:
            self._at.pop(key, None)
            return
        self._at[key] = at
        queued = self._queued.get(key)
        if queued is None or at < queued:
            self._push(key, at)

    def clear(self) -> None:
        """Forget everything."""
        self._at.clear()
        self._queued.clear()
        self._heap.clear()

    @property
    def next_at(self) -> float | None:
        """The earliest deadline [s]."""
        heap = self._heap
        while heap:
            at, _, key = heap[0]
            real = self._at.get(key)
            if real == at:
                return at
            heapq.heappop(heap)
            if self._queued.get(key) == at:
                del self._queued[key]
                if real is not None:
                    self._push(key, real)
        return None

    def due(self, now: float) -> list[KeyT]:
        """Keys whose deadline has come, earliest first; they have none afterwards."""
        keys: list[KeyT] = []
        while (at := self.next_at) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._at[key]
            if self._queued.get(key) == at:
                del self._queued[key]
            keys.append(key)
        return keys

    def _push(self, key: KeyT, at: float) -> None:
        self._count += 1
        self._queued[key] = at
        heapq.heappush(self._heap, (at, self._count, key))
