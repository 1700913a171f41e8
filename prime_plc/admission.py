"""The base's side of registration and keep-alive: who is taken, for how long one is believed to be there, who goes."""

from __future__ import annotations

import random
from typing import Final

from prime_plc.agenda import Agenda
from prime_plc.control import TIME_S, Alv, Capabilities, ControlType, Reg
from prime_plc.downlink import Downlink
from prime_plc.pdu import LNID_BROADCAST, LNID_MULTICAST, SID_BASE, SID_NONE, Packet
from prime_plc.registry import Node, Registry
from prime_plc.sap import Happened, MacOutput, Pinged
from prime_plc.settings import MacSettings
from prime_plc.switches import Switches
from prime_plc.tree import Tree
from shared.ids import Eui48, format_eui48

ALIVE_PER_PERIOD: Final = 2
"""Keep-alives sent in one period."""

ALIVE_PER_PERIOD_ASKING: Final = 12
"""The same while the last one has brought no sign of life, so that the node survives seven lost ones."""

UNKNOWN_ANSWER_S: Final = 2.0
"""[s] At most one "I do not know you" to the same number in this time."""

TWICE_S: Final = 8.0
"""[s] A registration request this soon after its acknowledgement is a late copy of the same one."""

STRANGER_SID_REST_S: Final = 900.0
"""[s] A switch number that packets name and we did not give is not given."""


class Admission:
    """Part of a base node."""

    def __init__(
        self,
        settings: MacSettings,
        registry: Registry,
        agenda: Agenda,
        downlink: Downlink,
        tree: Tree,
        switches: Switches,
        draw: random.Random,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._agenda = agenda
        self._downlink = downlink
        self._tree = tree
        self._switches = switches
        self._draw = draw
        self._unknown: dict[tuple[int, int], float] = {}

    # ---- registration ------------------------------------------------------------------------------------------------

    def control(self, reg: Reg, packet: Packet, now: float) -> list[MacOutput]:
        """A REG packet from anybody."""
        eui48 = Eui48(reg.eui48)
        node = self._registry.nodes.get(eui48)
        if reg.negative:
            return self._leaves(node, packet, now)
        if packet.lnid != LNID_BROADCAST:  # the acknowledgement of a response
            if node is None or self._registry.at(packet.sid, packet.lnid) is not node:
                return []
            moved = self.settle(node, packet, now)
            self.seen(node, now)
            return moved
        if reg.roaming and node is not None and node.acknowledged:
            return self._wants_to_move(node, packet.sid, now)
        outputs: list[MacOutput] = []
        if node is not None and node.sid != packet.sid:
            if self._may_move(node, packet.sid):
                outputs += self._switches.move(node, packet.sid, now)
                self._renew(node, reg, now)
            else:
                outputs += self._tree.remove(node, "registers elsewhere", now)
                node = None
        elif node is not None and node.acknowledged:
            # A node that has started again, or a late copy of an old request; the same answer serves both. Its
            # connection is closed when it opens another one.
            if now - node.registered_s < TWICE_S:
                return []
            self._switches.suspend(node)
            self._renew(node, reg, now)
        if node is None:
            refusal = self._refusal(packet.sid)
            if refusal is not None:
                self._reject(eui48, packet.sid, reg.capabilities, now)
                return [*outputs, Happened("registration rejected", f"{format_eui48(eui48)}: {refusal}")]
            node = self._admit(reg, packet.sid, now)
            outputs.append(Happened("node registered", f"{format_eui48(eui48)} as {node.sid}/{node.lnid:#06x}"))
        self._registry.withdraw(node)
        self._downlink.expect(node, ControlType.REG, _reg(node), now)
        return outputs

    def _wants_to_move(self, node: Node, sid: int, now: float) -> list[MacOutput]:
        """A node that is registered looks for another way: it gets an address there and keeps what it has until it
        speaks from there."""
        if node.sid != sid and (node.offered is None or node.offered[0] != sid):
            if now - node.registered_s < TWICE_S:
                return []
            elsewhere = self._refusal(sid) or ("below itself" if self._registry.hangs_on(sid, node) else None)
            if elsewhere is not None:
                self._reject(node.eui48, sid, node.capabilities, now)
                return [Happened("move rejected", f"{format_eui48(node.eui48)}: {elsewhere}")]
            self._tree.offer(node, sid)
        elif node.sid == sid:
            self._registry.withdraw(node)
        self._downlink.expect(node, ControlType.REG, _reg(node, roaming=True), now)
        return []

    def settle(self, node: Node, packet: Packet, now: float) -> list[MacOutput]:
        """A packet of a node: if it comes from where the node wanted to be, that is where it is."""
        if node.offered != (packet.sid, packet.lnid):
            return []
        node.registered_s = now
        return self._switches.settle(node, now)

    def _may_move(self, node: Node, sid: int) -> bool:
        """Whether a switch may take along what is below it: not below itself."""
        known = sid == SID_BASE or self._registry.switch(sid) is not None
        return node.lsid is not None and known and not self._registry.hangs_on(sid, node)

    def _reject(self, eui48: Eui48, sid: int, capabilities: Capabilities, now: float) -> None:
        reject = Reg(True, False, 0, capabilities, self._settings.keep_alive_code, eui48)
        self._downlink.control_to(sid, LNID_BROADCAST, ControlType.REG, reject.encode(), now)

    def _renew(self, node: Node, reg: Reg, now: float) -> None:
        """A known node begins anew."""
        node.capabilities = reg.capabilities
        node.acknowledged = False
        node.begun_anew = True
        node.alive_by = now + TIME_S[node.time]
        node.registered_s = node.last_heard_s = now

    def _leaves(self, node: Node | None, packet: Packet, now: float) -> list[MacOutput]:
        if node is None or (node.sid, node.lnid) != (packet.sid, packet.lnid):
            return []
        if ControlType.REG not in node.pending:  # it asks; otherwise it answers us
            self._downlink.control(node, ControlType.REG, _reg(node, negative=True), now)
        return self._tree.remove(node, "unregistered", now)

    def _refusal(self, sid: int) -> str | None:
        """Why nobody can be taken below a switch."""
        if sid != SID_BASE and self._registry.switch(sid) is None:
            return f"no switch {sid}"
        return "subnetwork full" if len(self._registry) >= self._settings.nodes_max else None

    def _admit(self, reg: Reg, sid: int, now: float) -> Node:
        """A new node below a switch."""
        switch = self._registry.switch(sid)
        code = self._time_code()
        node = Node(
            eui48=Eui48(reg.eui48),
            sid=sid,
            lnid=self._registry.new_lnid(sid),
            hops=1 if switch is None else switch.hops + 1,
            capabilities=reg.capabilities,
            time=code,
            alive_by=now + TIME_S[code],
            alive_at=self._next_alive(code, now),
            registered_s=now,
            last_heard_s=now,
        )
        self._tree.add(node)
        self._switches.registered(node.eui48)
        return node

    def send_away(self, node: Node, now: float) -> None:
        """Unregister a node, as told."""
        self._registry.withdraw(node)
        self._downlink.expect(node, ControlType.REG, _reg(node, negative=True), now)

    def unknown(self, packet: Packet, now: float) -> None:
        """Tell a node we have forgotten (a restart) so, instead of letting it find out by its keep-alive (our
        choice)."""
        address = (packet.sid, packet.lnid)
        if packet.lnid >= LNID_MULTICAST or now < self._unknown.get(address, 0.0):
            return
        if packet.sid != SID_BASE and self._registry.switch(packet.sid) is None:
            self._registry.rest(packet.sid, now + STRANGER_SID_REST_S)
        if len(self._unknown) >= self._settings.nodes_max:
            self._unknown.clear()
        self._unknown[address] = now + UNKNOWN_ANSWER_S
        goodbye = Reg(True, False, 0, Capabilities.NONE, self._settings.keep_alive_code, bytes(6))
        self._downlink.control_to(packet.sid, packet.lnid, ControlType.REG, goodbye.encode(), now)

    # ---- signs of life -----------------------------------------------------------------------------------------------

    def seen(self, node: Node, now: float) -> None:
        """Anything came from the node."""
        again = not node.acknowledged
        if node.offered is None:
            node.pending.pop(ControlType.REG, None)
        if again:
            node.acknowledged = True
            node.registered_s = now
            self._switches.resume(node, now)
        node.alive_by = now + TIME_S[node.time]
        node.last_heard_s = now
        self._agenda.schedule(node)

    def answered(self, node: Node, alv: Alv, now: float) -> list[MacOutput]:
        """The answer to a keep-alive; from now on both go by the period that was told."""
        if alv.time > node.time:
            node.time = alv.time
            node.alive_by = now + TIME_S[node.time]
            node.alive_at = self._next_alive(node.time, now)
        node.received_alive = (node.received_alive + 1) % 8
        node.answers += 1
        if alv.ssid not in {SID_NONE, node.lsid}:
            self._switches.disown(node, alv.ssid, now)
        node.lost_down = (node.sent_alive - alv.rx_count) % 8
        asked_s, node.pinged_s = node.pinged_s, None
        return [] if asked_s is None else [Pinged(node.eui48, now - asked_s)]

    def ping(self, node: Node, now: float) -> None:
        """Send a keep-alive now, whose answer is told."""
        node.pinged_s = now
        self._ask_alive(node, now)
        self._agenda.schedule(node)

    def tend(self, node: Node, now: float) -> list[MacOutput]:
        """What time alone demands of one node: repeat, keep alive, remove, send again."""
        if now >= node.alive_by:
            self._registry.withdraw(node)
            self._downlink.control(node, ControlType.REG, _reg(node, negative=True), now)
            return self._tree.remove(node, "no sign of life", now)
        hopeless = self._downlink.again(node, now)
        if hopeless is not None:
            return self._never_answered(node, hopeless, now)
        if now >= node.alive_at:
            self._ask_alive(node, now)
        self._agenda.wants_to_send(node)
        return []

    def _ask_alive(self, node: Node, now: float) -> None:
        code = max(node.time, self._time_code())
        answered = node.last_heard_s >= node.asked_alive_s
        node.alive_at = self._next_alive(node.time, now, answered=answered)
        node.asked_alive_s = now
        node.alive_by = max(node.alive_by, node.last_heard_s + TIME_S[node.time])
        alv = Alv(node.received_alive, node.sent_alive, code, SID_NONE)
        node.sent_alive = (node.sent_alive + 1) % 8
        node.round_trips += 1
        self._downlink.control(node, ControlType.ALV, alv.encode(), now)

    def _never_answered(self, node: Node, ctype: ControlType, now: float) -> list[MacOutput]:
        if ctype is ControlType.REG and node.offered is not None:  # it may be there already, and hardly heard
            self._agenda.schedule(node)
            return []
        if ctype is ControlType.REG:
            return self._tree.remove(node, "registration never acknowledged", now)
        self._agenda.schedule(node)
        if ctype in {ControlType.PRO, ControlType.BSI} and not node.switching:
            return self._switches.demote(node, "promotion never acknowledged", now)  # it may beacon all the same
        return []

    def _time_code(self) -> int:
        """Keep-alive period by the number of nodes: their airtime is what limits it."""
        code = self._settings.keep_alive_code
        for count, more in self._settings.keep_alive_steps:
            if len(self._registry) > count:
                code = max(code, more)
        return code

    def _next_alive(self, code: int, now: float, *, answered: bool = True) -> float:
        """Half a period later, and sooner when the last one was lost."""
        per_period = ALIVE_PER_PERIOD if answered else ALIVE_PER_PERIOD_ASKING
        return now + TIME_S[code] / per_period * self._draw.uniform(0.8, 1.0)


def _reg(node: Node, *, negative: bool = False, roaming: bool = False) -> bytes:
    return Reg(negative, roaming, 0, node.capabilities, node.time, node.eui48).encode()
