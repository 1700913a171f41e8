"""Pings of single nodes, for people: one at a time, one a second, and an answer in any case.

A ping is a keep-alive that the base sends now instead of later. It crosses every switch on the way and changes nothing
at the node or here, whoever asks for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

from prime_plc.sap import Action, Manage, Pinged
from shared.clock import Clock
from shared.ids import Eui48, format_eui48

PING_GAP_S: Final = 1.0
"""[s] From the start of a ping to that of the next one; a keep-alive and its answer take 30 ms of air on each hop."""

PING_S_MAX: Final = 10.0
"""[s] An answer that takes longer is none."""


class Pings:
    """Who waits for which node."""

    def __init__(self, send: Callable[[Manage], bool], clock: Clock) -> None:
        """``send`` hands the question to the stack; False if the stack does not keep up."""
        self._send = send
        self._clock = clock
        self._waiting: tuple[Eui48, asyncio.Future[dict[str, Any]]] | None = None
        self._last_s = -math.inf

    async def ping(self, eui48: Eui48) -> dict[str, Any]:
        """What became of one ping, as JSON types."""
        now = self._clock.monotonic()
        if self._waiting is not None or now < self._last_s + PING_GAP_S:
            return _told(eui48, "one ping at a time, and one a second", refused=True)
        if not self._send(Manage(Action.PING, eui48)):
            return _told(eui48, "the power line's queue is full", refused=True)
        self._last_s = now
        ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting = (eui48, ended)
        timer = self._clock.call_at(now + PING_S_MAX, lambda: self._end(_told(eui48, "no answer")))
        try:
            return await ended
        finally:
            timer.cancel()
            self._waiting = None

    def heard(self, pinged: Pinged) -> None:
        """The stack says what came of it; an answer that nobody waits for any more is dropped."""
        if self._waiting is None or self._waiting[0] != pinged.peer:
            return
        trip_s = pinged.round_trip_s
        self._end(_told(pinged.peer, "not registered" if trip_s is None else "answered", trip_s))

    def _end(self, told: dict[str, Any]) -> None:
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_result(told)


def _told(eui48: Eui48, result: str, round_trip_s: float | None = None, *, refused: bool = False) -> dict[str, Any]:
    trip_s = None if round_trip_s is None else round(round_trip_s, 4)
    return {"ping": format_eui48(eui48), "result": result, "refused": refused, "round_trip_s": trip_s}
