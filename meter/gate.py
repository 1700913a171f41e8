"""The meter's gate to the power line: what of it may be believed, and what leaves protected. Pure.

A link counts as one when the DCU at its other end has shown to be alive and to hold our keys; before that the core
hears nothing and says nothing. Messages are refused as values; the only thing a bystander can do is make us count.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from shared.cosem_security import (
    KEY_AUTHENTICATION,
    KEY_BROADCAST,
    KEY_BROADCAST_AUTHENTICATION,
    KEY_ENCRYPTION,
    KeysSent,
)
from shared.ids import Eui48, format_eui48
from shared.keys import MeterKeys
from shared.protection import PairKeys, unwrap
from shared.session import Own, Refusal, Refusals, Session

PAIR: Final = (KEY_ENCRYPTION, KEY_AUTHENTICATION)
GROUP: Final = (KEY_BROADCAST, KEY_BROADCAST_AUTHENTICATION)
"""Keys that change together; pair and group come in messages of their own."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send these bytes to the DCU."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LinkIs:
    """Whether a DCU that holds our keys is there."""

    up: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """An APDU that may be believed; under the group key it is one that lowers."""

    plain: bytes
    group: bool


Output = Transmit | LinkIs | Heard


class Gate:
    """Session, keys and alarms of one meter."""

    def __init__(self, keys: MeterKeys, own: Own, draw: random.Random, tell: Callable[[Refusal, int], None]) -> None:
        """A gate in front of a line that is down.

        Args:
            keys: of this meter.
            own: title and counters of this start.
            draw: source of challenges.
            tell: called when refusals of a kind are news.
        """
        self.keys = keys
        self.alarm = ""
        self._own = own
        self._draw = draw
        self._refusals = Refusals(tell)
        self._line = False
        self._session = self._new_session()

    @property
    def open(self) -> bool:
        """Whether messages can be exchanged."""
        return self._line and self._session.open

    @property
    def peer(self) -> bytes:
        """The system title of the DCU's present start; empty before it has shown to be alive."""
        return self._session.peer

    def link(self, up: bool, now: float) -> list[Output]:
        """The line's own connection has come or gone."""
        self._line = up
        if not up or self._session.open:
            return [LinkIs(up)]
        return self._introduce(now)

    def tick(self, now: float) -> list[Output]:
        """Once in a while: introduce ourselves again if nobody has answered."""
        return self._introduce(now) if self._line and not self._session.open else []

    def protect(self, plain: bytes) -> bytes | None:
        """A message ready to leave; None while there is nobody to read it, or no counter."""
        return self._session.protect(plain) if self._session.open else None

    def receive(self, peer: Eui48, data: bytes, now: float) -> list[Output]:
        """What a frame from this address comes to."""
        arrival = self._session.receive(data, now)
        authentic = arrival.plain is not None or arrival.began
        if authentic and peer != self.keys.dcu_eui48:
            self._session = self._new_session()
            self._refusals.count(Refusal.WRONG_DEVICE)
            self.alarm = self.alarm or f"the DCU's keys are used by {format_eui48(peer)}"
            return [LinkIs(False)]
        outputs: list[Output] = [Transmit(answer) for answer in arrival.answers]
        if arrival.refusal is not None:
            self._refusals.count(arrival.refusal)
        if arrival.began and self._line:
            outputs.append(LinkIs(True))
        if arrival.plain is not None:
            outputs.append(Heard(arrival.plain, arrival.group))
        return outputs

    def unwrapped(self, sent: KeysSent) -> MeterKeys | None:
        """Our keys as they will be, ``self.keys`` if we have them; None if what was sent are not two keys for us."""
        found = {number: unwrap(self.keys.master, wrapped) for number, wrapped in sent.keys}
        numbers = next((some for some in (PAIR, GROUP) if found.keys() == set(some)), None)
        if numbers is None:
            return None
        encryption, authentication = (found[number] for number in numbers)
        if encryption is None or authentication is None:
            return None
        keys = PairKeys(encryption, authentication)
        if keys == (self.keys.pair if numbers == PAIR else self.keys.group):
            return self.keys
        if numbers == GROUP:
            return replace(self.keys, group=keys)
        return replace(self.keys, generation=self.keys.generation + 1, pair=keys)

    def rekey(self, keys: MeterKeys, now: float) -> list[Output]:
        """New keys are on disk: from now on only they count. Group keys leave the session open."""
        before, self.keys = self.keys, keys
        if keys.pair == before.pair:
            self._session.regroup(keys.group)
            return []
        self._session = self._new_session()
        return [LinkIs(False), *self.tick(now)]

    def summary(self) -> dict[str, Any]:
        """For people; shows no key."""
        return {
            "session": "open" if self._session.open else "none",
            "key_generation": self.keys.generation,
            "counters_left": self._own.counter.left,
            "refused": self._refusals.summary(),
            "alarm": self.alarm,
        }

    def _introduce(self, now: float) -> list[Output]:
        return [Transmit(data) for data in self._session.hello(now)]

    def _new_session(self) -> Session:
        return Session(self._own, self.keys.pair, self._draw, self.keys.group)
