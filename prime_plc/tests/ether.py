"""A light power line in memory for tests of many nodes: who hears whom, collisions, carrier sense, loss; virtual time.

Nodes are driven at the level of modem messages (`TransmitFrame` in, `FrameReceived` out), without serial ports. A frame
is lost at a receiver that hears another one at the same time, that is sending itself, whose signal is too weak for its
modulation, or by chance. Everything follows from one seed.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from prime_plc.base_node import BaseNode
from prime_plc.links import GIVE_UP_DB
from prime_plc.modem_host import (
    FrameReceived,
    ModemLost,
    ModemReady,
    ModemSettings,
    TransmitConfirmed,
    TransmitFrame,
    TypeAFraming,
)
from prime_plc.modem_messages import TransmitResult
from prime_plc.pdu import Beacon, GenericPdu, Pdu, decode_pdu
from prime_plc.phy import PREAMBLE_S
from prime_plc.sap import Action, DataConfirmed, DataReceived, Happened, LinkDown, LinkUp, Manage, SendData
from prime_plc.service_node import ServiceNode, State
from prime_plc.settings import MacSettings
from shared.ids import Eui48

BASE = Eui48(bytes.fromhex("40402201C79A"))
MODEM = ModemSettings(TypeAFraming.TRANSPARENT)
READY = ModemReady("ATPL230", "23.00.01.02")
REAL_LOSS_DB = 1.5
"""[dB] A modulation works from here above the level at which it is given up."""

TURNS_MAX = 5000
"""Events at one instant; a machine that asks to be woken at once for ever is caught by it."""

HEADER_DB = 4.0
"""[dB] Below it not even the header of a frame is read; above it a payload that is too fast arrives damaged."""

OutputT = TypeVar("OutputT")


def eui(number: int) -> Eui48:
    """Address of node ``number``."""
    return Eui48(bytes.fromhex("AABBCC00") + number.to_bytes(2, "big"))


@dataclass(eq=False, slots=True)
class Air:
    """One emission."""

    sender: str
    frame: TransmitFrame
    start_s: float
    end_s: float
    spoilt: set[str] = field(default_factory=set)


class Ether:
    """Nodes and the line between them.

    Args:
        snr_db: signal of the first at the second [dB]; None if it is not heard at all.
        loss: probability that a frame is lost on a hop, by sender and receiver.
        latency_s: from the host's hand-over to the emission, and from its end to the host.
    """

    def __init__(
        self,
        snr_db: Callable[[str, str], float | None],
        seed: int = 1,
        settings: MacSettings | None = None,
        loss: float = 0.0,
        latency_s: float = 0.002,
    ) -> None:
        self.draw = random.Random(seed)
        self.settings = settings or MacSettings(control_repeat_s=4.0)
        self.snr_db = snr_db
        self.loss = loss
        self.lose: Callable[[str, str, bytes], bool] = lambda _sender, _receiver, _pdu: False
        self.latency_s = latency_s
        self.now = 0.0
        self.nodes: dict[str, BaseNode | ServiceNode] = {}
        self.upward: dict[str, list[tuple[float, object]]] = {}
        self.dead: set[str] = set()
        self.frames: Counter[str] = Counter()
        self.airtime_s: dict[str, float] = {}
        self.collisions = 0
        self.talk: list[str] = []
        self.listen: Callable[[float, str, TransmitFrame], None] = lambda _start_s, _sender, _frame: None
        self._air: list[Air] = []
        self._events: list[tuple[float, int, str, object]] = []
        self._wakes: dict[str, float] = {}
        self._audible: dict[str, list[tuple[str, float]]] | None = None
        self._count = 0
        self._turns = 0

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def add_base(self, settings: MacSettings | None = None) -> BaseNode:
        base = BaseNode(settings or self.settings, MODEM, BASE, self.draw)
        self._add("base", base)
        return base

    def add_node(
        self, number: int, at_s: float = 0.0, settings: MacSettings | None = None, base: Eui48 | None = None
    ) -> ServiceNode:
        name = f"n{number}"
        identifier = b"meter-%d" % number
        node = ServiceNode(settings or self.settings, MODEM, eui(number), identifier, self.draw, base)
        self.nodes[name] = node
        self.upward.setdefault(name, [])
        self._at(at_s, name, READY)
        self._audible = None
        return node

    def _add(self, name: str, node: BaseNode | ServiceNode) -> None:
        self.nodes[name] = node
        self.upward.setdefault(name, [])
        self._at(self.now, name, READY)
        self._audible = None

    def kill(self, name: str) -> None:
        """The node loses power at once."""
        self.dead.add(name)

    def revive(self, name: str, node: BaseNode | ServiceNode) -> None:
        """The node comes back without memory."""
        self.dead.discard(name)
        self._events = [event for event in self._events if event[2] != name]
        heapq.heapify(self._events)
        self._add(name, node)

    def base(self) -> BaseNode:
        base = self.nodes["base"]
        assert isinstance(base, BaseNode)
        return base

    def node(self, number: int) -> ServiceNode:
        node = self.nodes[f"n{number}"]
        assert isinstance(node, ServiceNode)
        return node

    # ---- time --------------------------------------------------------------------------------------------------------

    def put(self, name: str, item: object) -> None:
        """An input from the node's owner, now."""
        self._perform(name, self.nodes[name].handle(item, self.now))  # type: ignore[arg-type]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            at, _, name, item = heapq.heappop(self._events)
            self._turns = 0 if at > self.now else self._turns + 1
            assert self._turns < TURNS_MAX, f"{name} spins at {at}: {item}"
            self.now = max(self.now, at)
            if name in self.dead:
                continue
            if isinstance(item, Air):
                self._ended(item)
            elif isinstance(item, TransmitFrame):
                self._emit(name, item)
            elif item is None:
                if self._wakes.get(name) == at:
                    del self._wakes[name]
                    self._perform(name, self.nodes[name].wake(self.now))
            else:
                self.put(name, item)
        self.now = until

    def run_until(self, done: Callable[[], bool], limit_s: float, step_s: float = 1.0) -> float:
        """Let time pass until something is true; the time it took, infinity if it never was."""
        started = self.now
        while not done():
            if self.now - started > limit_s:
                return math.inf
            self.run(step_s)
        return self.now - started

    def _at(self, time: float, name: str, item: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, name, item))

    def _perform(self, name: str, outputs: Iterable[object]) -> None:
        for output in outputs:
            if isinstance(output, TransmitFrame):
                at = self.now + self.latency_s if output.start_s is None else max(self.now, output.start_s)
                self._at(at, name, output)
            else:
                self.upward[name].append((self.now, output))
        at_s = self.nodes[name].wake_at
        if at_s is not None and self._wakes.get(name) != at_s:
            self._wakes[name] = at_s
            self._at(max(at_s, self.now), name, None)
            self._wakes[name] = max(at_s, self.now)

    # ---- the line ----------------------------------------------------------------------------------------------------

    def _listeners(self, sender: str) -> list[tuple[str, float]]:
        if self._audible is None:
            self._audible = {}
        if sender not in self._audible:
            heard = [(other, self.snr_db(sender, other)) for other in self.nodes if other != sender]
            self._audible[sender] = [(other, snr) for other, snr in heard if snr is not None]
        return self._audible[sender]

    def retune(self) -> None:
        """The topology has changed."""
        self._audible = None

    def _emit(self, name: str, frame: TransmitFrame) -> None:
        self._air = [air for air in self._air if air.end_s > self.now]
        sending = any(air.sender == name for air in self._air)
        heard = any(
            air.start_s + PREAMBLE_S <= self.now and any(other == name for other, _ in self._listeners(air.sender))
            for air in self._air
        )
        if sending or (heard and not frame.exclusive):
            result = TransmitResult.PREVIOUS_PENDING if sending else TransmitResult.CHANNEL_BUSY
            self._at(self.now + self.latency_s, name, TransmitConfirmed(frame.buffer, result))
            return
        duration_s = MODEM.airtime_s(len(frame.pdu), frame.scheme)
        air = Air(name, frame, self.now, self.now + duration_s)
        mine = {other for other, _ in self._listeners(name)}
        for other in self._air:
            theirs = {one for one, _ in self._listeners(other.sender)}
            both = mine & theirs
            if both:
                self.collisions += 1
            air.spoilt |= both | {other.sender}
            other.spoilt |= both | {name}
        self._air.append(air)
        self.frames[name] += 1
        self.airtime_s[name] = self.airtime_s.get(name, 0.0) + duration_s
        self.listen(self.now, name, frame)
        self._at(air.end_s, name, air)

    def _ended(self, air: Air) -> None:
        frame = air.frame
        duration_s = air.end_s - air.start_s
        self._at(self.now + self.latency_s, air.sender, TransmitConfirmed(frame.buffer, TransmitResult.SUCCESS))
        for other, snr in self._listeners(air.sender):
            if other in air.spoilt or other in self.dead or snr < HEADER_DB:
                continue
            if (self.loss and self.draw.random() < self.loss) or self.lose(air.sender, other, frame.pdu):
                continue
            good = snr >= GIVE_UP_DB[frame.scheme] + REAL_LOSS_DB
            pdu = frame.pdu if good else frame.pdu[:-3] + bytes(byte ^ 0x55 for byte in frame.pdu[-3:])
            received = FrameReceived(pdu, frame.scheme, 0, air.start_s, duration_s, snr, 80, precise=True)
            self._at(self.now + self.latency_s, other, received)

    # ---- what came out -----------------------------------------------------------------------------------------------

    def of(self, name: str, kind: type[OutputT]) -> list[OutputT]:
        return [output for _, output in self.upward[name] if isinstance(output, kind)]

    def said(self, name: str, what: str) -> list[float]:
        """When a node reported something."""
        return [at for at, output in self.upward[name] if isinstance(output, Happened) and output.what == what]

    def registered(self) -> list[str]:
        states = (State.TERMINAL, State.SWITCH)
        return [
            name
            for name, node in self.nodes.items()
            if isinstance(node, ServiceNode) and name not in self.dead and node.state in states
        ]

    def connected(self) -> bool:
        """Whether every living node has its connection, at both ends."""
        nodes = [node for name, node in self.nodes.items() if isinstance(node, ServiceNode) and name not in self.dead]
        if any(node.llc.connection is None for node in nodes):
            return False
        known = self.base().nodes
        return all(node.eui48 in known and known[node.eui48].connection is not None for node in nodes)

    def decode(self, pdu: bytes) -> Pdu:
        return decode_pdu(pdu, BASE)


def chain(*, snr_db: float = 25.0) -> Callable[[str, str], float | None]:
    """Nodes in a row, base first: each hears its neighbours only."""

    def place(name: str) -> int:
        return 0 if name == "base" else int(name[1:])

    return lambda one, other: snr_db if abs(place(one) - place(other)) == 1 else None


class Fork:
    """n4 hangs on n3, which hears n1 and n2; both hear the base."""

    def __init__(self, seed: int = 1, settings: MacSettings | None = None) -> None:
        self.snr_db: dict[frozenset[str], float] = {
            frozenset(pair): 25.0 for pair in (("base", "n1"), ("base", "n2"), ("n1", "n3"), ("n2", "n3"), ("n3", "n4"))
        }
        self.ether = Ether(lambda one, other: self.snr_db.get(frozenset((one, other))), seed, settings)
        self.ether.add_base()
        for number in range(1, 5):
            self.ether.add_node(number)
        self.ether.run_until(self.ether.connected, 300.0)
        for number in (1, 2):  # one of them was made a switch already
            self.ether.put("base", Manage(Action.PROMOTE, eui(number)))
        self.ether.run(60.0)

    def set(self, one: str, other: str, snr_db: float | None) -> None:
        pair = frozenset((one, other))
        self.snr_db.pop(pair, None)
        if snr_db is not None:
            self.snr_db[pair] = snr_db
        self.ether.retune()

    @property
    def parent(self) -> int:
        """Which of the two n3 hangs on."""
        return next(one for one in (1, 2) if self.ether.node(one).switching.lsid == self.ether.node(3).sid)


__all__ = [
    "BASE",
    "MODEM",
    "READY",
    "Beacon",
    "DataConfirmed",
    "DataReceived",
    "Ether",
    "Fork",
    "GenericPdu",
    "LinkDown",
    "LinkUp",
    "ModemLost",
    "SendData",
    "chain",
    "eui",
]
