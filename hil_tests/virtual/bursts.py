"""Bursts of noise: sources that are quiet or loud, two states each with exponential stays, and who hears them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hil_tests.virtual.channel import Reals


class Reach(Enum):
    """Where bursts come from.

    LINE: one source, heard everywhere alike. LOCATION: a source at every station, heard by the others through the
    same attenuation as a signal: an appliance. RECEIVER: one at every station that nobody else hears, so that losses
    of neighbours are independent.
    """

    LINE = "line"
    LOCATION = "location"
    RECEIVER = "receiver"


class Heard(Protocol):
    """What of the links is needed here."""

    noise: Reals
    path_db: Reals


class Bursts:
    """Every source's latest burst, as time goes on."""

    def __init__(self, reach: Reach, rate_hz: float, mean_s: float, chance: np.random.Generator, now: float) -> None:
        self._reach = reach
        self._rate_hz = rate_hz
        self._mean_s = mean_s
        self._chance = chance
        self._begun = now
        self._quiet_s = -np.inf  # every burst so far has ended by then
        self._next: list[tuple[float, int]] = []
        self._on_s = np.zeros(0)
        self._off_s = np.zeros(0)

    def grow(self, stations: int) -> None:
        """So many stations are on the line."""
        sources = 1 if self._reach is Reach.LINE else stations
        while self._rate_hz and len(self._on_s) < sources:
            heapq.heappush(self._next, (self._begun + self._chance.exponential(1 / self._rate_hz), len(self._on_s)))
            self._on_s = np.append(self._on_s, -np.inf)
            self._off_s = np.append(self._off_s, -np.inf)

    def quiet(self, start_s: float, end_s: float) -> bool:
        """Whether no burst touches a span of time that ends now."""
        self._advance(end_s)
        return start_s >= self._quiet_s

    def during(
        self, start_s: float, end_s: float, links: Heard, readers: NDArray[np.intp], lift: float
    ) -> Iterator[tuple[float | Reals, float | Reals, Reals]]:
        """Bursts that touch a span of time that ends now: begin and end [s], and their power at the readers.

        Args:
            start_s, end_s: the span.
            links: noise and attenuation.
            readers: stations that matter.
            lift: power of a burst at its source, in units of the noise there.
        """
        if self.quiet(start_s, end_s):
            return
        if self._reach is Reach.RECEIVER:
            on_s, off_s = self._on_s[readers], self._off_s[readers]
            if ((on_s < end_s) & (off_s > start_s)).any():
                yield on_s, off_s, links.noise[readers] * lift
            return
        for source in np.flatnonzero((self._on_s < end_s) & (self._off_s > start_s)).tolist():
            if self._reach is Reach.LOCATION:
                power = lift * links.noise[source] * 10 ** (-links.path_db[source][readers] / 10)
            else:
                power = lift * links.noise[readers]
            yield float(self._on_s[source]), float(self._off_s[source]), power

    def _advance(self, until: float) -> None:
        while self._next and self._next[0][0] <= until:
            at_s, source = heapq.heappop(self._next)
            self._on_s[source] = at_s
            off_s = self._off_s[source] = at_s + self._chance.exponential(self._mean_s)
            self._quiet_s = max(self._quiet_s, off_s)
            heapq.heappush(self._next, (off_s + self._chance.exponential(1 / self._rate_hz), source))
