"""A broker and a utility in memory: `dcu.utility.link.BrokerPort` with a line between, and all that goes wrong there.

The utility behind it does what every consumer must: it remembers ids and drops what it has seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dcu.utility.documents import unpack
from dcu.utility.link import Arrival, LinkLost, MessageRefused, Session


@dataclass(slots=True)
class Taken:
    """One item as the consumer first got it."""

    topic: str
    at_s: float
    item: dict[str, Any]


@dataclass
class MemoryUtility:
    """The consumer: each id once, in the order of arrival."""

    items: dict[str, Taken] = field(default_factory=dict)
    doubled: int = 0
    states: list[dict[str, Any]] = field(default_factory=list)
    keep_items: bool = True

    def take(self, topic: str, payload: bytes, at_s: float) -> None:
        """A message."""
        content = json.loads(unpack(payload))
        if topic.endswith("/state"):
            self.states.append(content)
            return
        for item in content.get("items", []):
            if item["id"] in self.items:
                self.doubled += 1
            else:
                self.items[item["id"]] = Taken(topic, at_s, item if self.keep_items else {})

    def of(self, word: str) -> list[dict[str, Any]]:
        """Items of one class, in the order of arrival."""
        return [taken.item for taken in self.items.values() if taken.topic.endswith(f"/up/{word}")]


@dataclass
class MemoryBroker:
    """The broker and the line to it.

    Attributes:
        delay_s: of a round trip [s].
        bytes_per_s: what the line carries upwards.
        up: whether it is reached at all.
        lose_acknowledgements: of so many messages to come, it takes them and dies before it says so.
        lose_messages: of so many messages to come, it dies before it takes them.
        refuses: says no to messages that hold these bytes.
        kills: dies by messages that hold these bytes.
        keeps_back: so many messages it has acknowledged and not yet passed on; they die with it.
        subscribed: whether the utility has; else what comes is acknowledged and dropped, and the broker says so.
    """

    utility: MemoryUtility
    delay_s: float = 0.1
    bytes_per_s: float = 125_000.0
    up: bool = True
    lose_acknowledgements: int = 0
    lose_messages: int = 0
    refuses: bytes | None = None
    kills: bytes | None = None
    keeps_back: int = 0
    subscribed: bool = True
    attempts: int = 0
    connects: int = 0
    connected_s: float = 0.0
    messages: int = 0
    queued: list[tuple[bytes, bool]] = field(default_factory=list)
    """Commands that no session has acknowledged."""
    kept_back: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._session: _MemorySession | None = None

    async def connect(self, arrived: Callable[[Arrival], None], lost: Callable[[str], None]) -> Session:
        self.attempts += 1
        await asyncio.sleep(self.delay_s)
        if not self.up:
            raise LinkLost("refused")
        self.connects += 1
        self.connected_s = asyncio.get_running_loop().time()
        if self._session is not None:
            self._session.die("another session")
        self._session = _MemorySession(self, arrived, lost)
        for payload, retained in list(self.queued):
            self._session.deliver(payload, retained=retained)
        return self._session

    def go(self) -> None:
        """Away, at once."""
        self.up = False
        self.kept_back.clear()
        if self._session is not None:
            self._session.die("gone")

    def pass_on(self, topic: str, payload: bytes) -> None:
        """To the utility, as soon as there is more than it keeps back."""
        self.kept_back.append((topic, payload))
        while len(self.kept_back) > self.keeps_back:
            self.utility.take(*self.kept_back.pop(0), asyncio.get_running_loop().time())

    def command(self, payload: bytes, *, retained: bool = False) -> None:
        """The utility says something; kept until it is acknowledged."""
        self.queued.append((payload, retained))
        if self._session is not None and self._session.alive:
            self._session.deliver(payload, retained=retained)


class _MemorySession:
    def __init__(self, broker: MemoryBroker, arrived: Callable[[Arrival], None], lost: Callable[[str], None]) -> None:
        self._broker, self._arrived, self._lost = broker, arrived, lost
        self.alive = True

    def die(self, why: str) -> None:
        if self.alive:
            self.alive = False
            self._lost(why)

    def deliver(self, payload: bytes, *, retained: bool) -> None:
        def acknowledge() -> None:
            if self.alive and (payload, retained) in self._broker.queued and not retained:
                self._broker.queued.remove((payload, retained))

        self._arrived(Arrival(payload, retained, acknowledge))

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        del retain
        broker = self._broker
        await asyncio.sleep(broker.delay_s + len(payload) / broker.bytes_per_s)
        if not self.alive:
            raise LinkLost("gone")
        broker.messages += 1
        plain = unpack(payload)
        if broker.refuses is not None and broker.refuses in plain:
            raise MessageRefused("not this")
        if broker.lose_messages > 0 or (broker.kills is not None and broker.kills in plain):
            broker.lose_messages -= 1
            self.die("lost")
            raise LinkLost("before it was taken")
        if broker.subscribed:
            broker.pass_on(topic, payload)
        if broker.lose_acknowledgements > 0 and not topic.endswith("/state"):
            broker.lose_acknowledgements -= 1
            self.die("lost")
            raise LinkLost("before it was acknowledged")
        return broker.subscribed

    async def close(self) -> None:
        self.alive = False
