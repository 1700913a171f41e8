"""Everything a base says to its nodes: to one through the child it hangs on, or to all, twice."""

from __future__ import annotations

import random
from collections import deque
from typing import Final

from prime_plc.agenda import Agenda
from prime_plc.channel import PRIORITY_CONTROL, PRIORITY_DATA, Keep
from prime_plc.control import ControlType
from prime_plc.pdu import SID_BASE, Packet
from prime_plc.registry import Node, Pending, Registry
from prime_plc.settings import MacSettings
from prime_plc.transmitter import Transmitter

LEVEL: Final = 0
BROADCAST_GAP_S: Final = 1.0
"""[s] Between a broadcast and its repetition, so that one burst of noise does not take both."""


class Downlink:
    """Part of a base node; what it is given goes into the channel's queue.

    Attributes:
        sent: packets by kind.
    """

    def __init__(
        self, settings: MacSettings, transmitter: Transmitter, registry: Registry, agenda: Agenda, draw: random.Random
    ) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._registry = registry
        self._agenda = agenda
        self._draw = draw
        self._broadcasts: deque[tuple[float, Packet]] = deque()
        self.sent = {"data": 0, "control": 0}

    # ---- to one ------------------------------------------------------------------------------------------------------

    def control(self, node: Node, ctype: ControlType, payload: bytes, now: float) -> None:
        """Queue a control packet; one of registration goes where the node wants to be."""
        moves = ctype is ControlType.REG and node.offered is not None
        sid, lnid = node.offered if moves and node.offered is not None else (node.sid, node.lnid)
        self.control_to(sid, lnid, ctype, payload, now)

    def control_to(self, sid: int, lnid: int, ctype: ControlType, payload: bytes, now: float) -> None:
        """The same for whoever has this address."""
        self.sent["control"] += 1
        self._send(Packet(False, PRIORITY_CONTROL, True, ctype, sid, lnid, payload), now)

    def data(self, node: Node, payload: bytes, now: float, *, asks: bool = False) -> None:
        """Queue a data packet on the node's connection; one that ``asks`` is to be answered while more follow."""
        self.sent["data"] += 1
        self._send(Packet(False, PRIORITY_DATA, False, node.lcid, node.sid, node.lnid, payload), now, asks=asks)

    def first_hop_cost(self, node: Node) -> int:
        """Cost of the last hop of its packets, as they are heard here: it may not know of it (ours)."""
        top = self._registry.top_of(node.sid, node.lnid)
        return 0 if top is None else self._transmitter.links.ear_cost(top)

    def expect_after(self, seconds: float, node: Node, ctype: ControlType, payload: bytes, now: float) -> None:
        """The same as `expect` some time later, unless the answer has come by then."""
        node.pending[ctype] = Pending(payload, now + seconds, repeats=-1)
        self._agenda.schedule(node)

    def expect(self, node: Node, ctype: ControlType, payload: bytes, now: float) -> None:
        """Queue a control packet that `again` repeats until its answer comes."""
        node.pending[ctype] = Pending(payload, now + self._repeat_s(node))
        self._agenda.schedule(node)
        self.control(node, ctype, payload, now)

    def again(self, node: Node, now: float) -> ControlType | None:
        """Repeat what waits for an answer for too long; the kind of one that was repeated often enough in vain."""
        for ctype, pending in list(node.pending.items()):
            if now >= pending.at:
                pending.repeats += 1
                if pending.repeats > self._repeats_max(node, ctype):
                    del node.pending[ctype]
                    return ctype
                pending.at = now + self._repeat_s(node)
                self.control(node, ctype, pending.payload, now)
        return None

    def _repeats_max(self, node: Node, ctype: ControlType) -> int:
        """More where a tree hangs on the answer: giving up would end it."""
        tree = bool(node.children) and ctype in {ControlType.PRO, ControlType.BSI}
        return self._settings.tree_repeats_max if tree else self._settings.control_repeats_max

    def _repeat_s(self, node: Node) -> float:
        return self._settings.control_repeat_s * (0.75 + 0.25 * node.hops) * self._draw.uniform(0.9, 1.1)

    def _send(self, packet: Packet, now: float, *, asks: bool = False) -> None:
        """Queue a packet towards the child of ours that it goes through; to a stranger as to everybody."""
        top = self._registry.top_of(packet.sid, packet.lnid)
        onward = packet.sid != SID_BASE and top is not None
        keep = Keep.ONWARD if onward else Keep.NO if top is None else Keep.LAST
        self._transmitter.send([packet], top, now, downlink=True, level=LEVEL, keep=keep, asks=asks)

    # ---- to all ------------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        """When the next repetition for everybody is due [s]."""
        return self._broadcasts[0][0] if self._broadcasts else None

    def wake(self, now: float) -> None:
        """Repetitions due now."""
        while self._broadcasts and now >= self._broadcasts[0][0]:
            packet = self._broadcasts.popleft()[1]
            self.sent["control" if packet.control else "data"] += 1
            self._transmitter.send([packet], None, now, downlink=True, level=LEVEL, keep=Keep.NO)

    def everybody(self, packet: Packet, now: float) -> None:
        """Queue a packet for everybody, and its repetitions."""
        for number in range(self._settings.broadcasts):
            self._broadcasts.append((now + number * (self._settings.hop_memory_s + BROADCAST_GAP_S), packet))
        self._broadcasts = deque(sorted(self._broadcasts, key=lambda one: one[0]))
        self.wake(now)

    def clear(self) -> None:
        """The modem is gone."""
        self._broadcasts.clear()
