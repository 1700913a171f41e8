"""The base's table of nodes: addresses, the tree they form, and the numbers given to switches."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from prime_plc.connection import Connection
from prime_plc.control import Capabilities, ControlType
from prime_plc.pdu import LNID_MULTICAST, SID_BASE
from shared.ids import Eui48

SID_LAST: Final = 254
"""255 means none."""


Address = tuple[int, int]
"""SID and LNID."""


@dataclass(slots=True)
class Pending:
    """A control packet that waits for its answer."""

    payload: bytes
    at: float
    repeats: int = 0


@dataclass(slots=True)
class Node:
    """One node of the subnetwork.

    Attributes:
        sid, lnid: its address: the switch it is registered through, and its number there.
        hops: to the base, 1 for a child of the base.
        lsid: its own number as a switch, None for a terminal.
        switching: whether it beacons (it has acknowledged its slot).
        childless_since_s: when the last node below it went [s].
        offered: its address behind another switch, to which it wants to move; until it speaks from there it has both.
        former: its address before the last move, under which packets may still be on their way.
        begun_anew: whether it has registered again since its connection was opened.
        acknowledged: whether it has confirmed its registration.
        alive_by: when it is removed without a sign of life [s].
        round_trips, answers: keep-alives sent and answered.
        lost_down: keep-alives that the node had not heard when it answered last, of the last eight.
        pinged_s: when a keep-alive was asked for whose answer somebody waits for [s].
    """

    eui48: Eui48
    sid: int
    lnid: int
    hops: int
    capabilities: Capabilities
    time: int
    alive_by: float
    alive_at: float
    registered_s: float
    lsid: int | None = None
    switching: bool = False
    children: int = 0
    childless_since_s: float = 0.0
    cost: int = 0
    acknowledged: bool = False
    pending: dict[ControlType, Pending] = field(default_factory=dict)
    sent_alive: int = 0
    received_alive: int = 0
    asked_alive_s: float = 0.0
    pinged_s: float | None = None
    round_trips: int = 0
    answers: int = 0
    lost_down: int = 0
    lcid: int = 0
    accept: bytes = b""
    address: int = 0
    connection: Connection | None = None
    offered: Address | None = None
    former: Address | None = None
    begun_anew: bool = False
    serial: bytes = b""
    last_heard_s: float = 0.0

    @property
    def due_at(self) -> float:
        """When time alone demands something [s]."""
        at = min(self.alive_by, self.alive_at)
        for pending in self.pending.values():
            at = min(at, pending.at)
        if self.connection is not None:
            wake_at = self.connection.wake_at
            if wake_at is not None:
                at = min(at, wake_at)
        return at


LNID_STEP: Final = 65
"""From one number to the next: the upper eight bits travel in the frame's robust header, and tell nodes apart whose
frames are damaged (ours)."""


class Registry:
    """All nodes by each of their addresses."""

    def __init__(self, draw: random.Random, sid_rest_s: float) -> None:
        self.nodes: dict[Eui48, Node] = {}
        self._by_address: dict[tuple[int, int], Node] = {}
        self._by_lsid: dict[int, Node] = {}
        self._next_lnid = draw.randrange(1, LNID_MULTICAST)
        self._next_sid = draw.randrange(1, SID_LAST + 1)
        self._rests: dict[int, float] = {}
        self._sid_rest_s = sid_rest_s

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def switches(self) -> list[Node]:
        """Nodes with a switch number."""
        return list(self._by_lsid.values())

    def at(self, sid: int, lnid: int) -> Node | None:
        """The node with this address, be it one that it moves to or has just left."""
        return self._by_address.get((sid, lnid))

    def switch(self, lsid: int) -> Node | None:
        """The switch of this number."""
        return self._by_lsid.get(lsid)

    def top_of(self, sid: int, lnid: int) -> int | None:
        """The base's child on the path to an address, by its LNID; None if there is no such path."""
        if sid == SID_BASE:
            return lnid if (sid, lnid) in self._by_address else None
        node = self._by_lsid.get(sid)
        for _ in range(SID_LAST):
            if node is None or node.sid == SID_BASE:
                return None if node is None else node.lnid
            node = self._by_lsid.get(node.sid)
        return None

    def add(self, node: Node) -> None:
        """A node has registered."""
        assert node.eui48 not in self.nodes, node.eui48
        self.nodes[node.eui48] = node
        self._by_address[node.sid, node.lnid] = node
        parent = self._by_lsid.get(node.sid)
        if parent is not None:
            parent.children += 1

    def remove(self, node: Node, now: float) -> None:
        """A node has gone."""
        del self.nodes[node.eui48]
        del self._by_address[node.sid, node.lnid]
        self.withdraw(node)
        self._forget_former(node)
        self.demote(node, now)
        parent = self._by_lsid.get(node.sid)
        if parent is not None:
            parent.children -= 1
            parent.childless_since_s = now

    def offer(self, node: Node, sid: int) -> Address:
        """Give a node a second address, behind the switch that it wants to move to."""
        self.withdraw(node)
        node.offered = (sid, self.new_lnid(sid))
        self._by_address[node.offered] = node
        return node.offered

    def withdraw(self, node: Node) -> None:
        """It has not moved."""
        if node.offered is not None:
            del self._by_address[node.offered]
            node.offered = None

    def _forget_former(self, node: Node) -> None:
        if node.former is not None:
            del self._by_address[node.former]
            node.former = None

    def settle(self, node: Node, now: float) -> None:
        """It has: from now on it is where it was offered to be, and what is still on its way from the old place is
        its own."""
        assert node.offered is not None, node.eui48
        offered, node.offered = node.offered, None
        self._forget_former(node)
        node.former = (node.sid, node.lnid)
        self._hang(node, offered, now)

    def move(self, node: Node, sid: int, now: float) -> None:
        """A node hangs on another switch now; whoever is below it keeps its address and comes along."""
        self.withdraw(node)
        del self._by_address[node.sid, node.lnid]
        self._hang(node, (sid, self.new_lnid(sid)), now)

    def _hang(self, node: Node, address: Address, now: float) -> None:
        sid = address[0]
        before, after = self._by_lsid.get(node.sid), self._by_lsid.get(sid)
        if before is not None:
            before.children -= 1
            before.childless_since_s = now
        if after is not None:
            after.children += 1
        node.sid, node.lnid = address
        self._by_address[address] = node
        node.hops = 1 if after is None else after.hops + 1
        for switch in [node, *self.switches_below(node)]:
            for below in self.below(switch.lsid):
                below.hops = switch.hops + 1

    def switches_below(self, node: Node) -> list[Node]:
        """All switches that are reached through a node, each after the one it hangs on."""
        found = [] if node.lsid is None else [one for one in self.below(node.lsid) if one.lsid is not None]
        for switch in found:
            found += [one for one in self.below(switch.lsid) if one.lsid is not None]
        return found

    def hangs_on(self, sid: int, node: Node) -> bool:
        """Whether a switch's way to the base leads through a node."""
        for _ in range(SID_LAST):
            switch = self._by_lsid.get(sid)
            if switch is None or switch is node:
                return switch is node
            sid = switch.sid
        return True

    def new_lnid(self, sid: int) -> int:
        """A number for a new node below a switch: 1 to 3FFDh, each used again as late as possible."""
        while (sid, self._next_lnid) in self._by_address:
            self._next_lnid = self._next_lnid % (LNID_MULTICAST - 1) + 1
        lnid = self._next_lnid
        self._next_lnid = (lnid + LNID_STEP - 1) % (LNID_MULTICAST - 1) + 1
        return lnid

    def promote(self, node: Node, now: float) -> int | None:
        """Give a node a switch number; None if all are taken or rest."""
        for _ in range(SID_LAST):
            sid = self._next_sid
            self._next_sid = sid % SID_LAST + 1
            if sid not in self._by_lsid and self._rests.get(sid, 0.0) <= now:
                node.lsid = sid
                node.children = 0
                node.childless_since_s = now
                self._by_lsid[sid] = node
                return sid
        return None

    def demote(self, node: Node, now: float) -> None:
        """The node is no switch any more."""
        if node.lsid is not None:
            del self._by_lsid[node.lsid]
            self._rests[node.lsid] = now + self._sid_rest_s
            node.lsid = None
            node.switching = False

    def rest(self, sid: int, until_s: float) -> None:
        """A number that somebody uses whom we do not know (we have restarted) is left alone for a while."""
        self._rests[sid] = until_s

    def below(self, lsid: int | None) -> list[Node]:
        """Nodes registered through a switch, directly."""
        return [node for node in self.nodes.values() if node.sid == lsid]
