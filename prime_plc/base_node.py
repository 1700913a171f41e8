"""The PRIME base node: beacons, the tree of nodes and switches, keep-alive, and the 4-32 connections of its nodes.

What each state does with each input and each control packet stands in one table at the end. Everything that waits for
a time waits in one heap, and only nodes with something to send are looked at, so that a subnetwork of a hundred nodes
costs no more at each frame than one of two.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prime_plc.channel import PRIORITY_CONTROL, PRIORITY_DATA, Given, Keep
from prime_plc.connection import Connection
from prime_plc.control import (
    TIME_S,
    Alv,
    Bsi,
    Capabilities,
    Cfp,
    Con,
    ConnectionType,
    Control,
    ControlType,
    Fra,
    Mul,
    Prm,
    Pro,
    Reg,
    decode_control,
)
from prime_plc.groups import Groups
from prime_plc.llc import LCID_FIRST, deliver
from prime_plc.lpdu import ADDRESS_BASE, ADDRESS_FIRST, IDENTIFIER_BYTES_MAX, AddressPair, Lpdu
from prime_plc.modem_host import FrameReceived, ModemLost, ModemReady, ModemSettings, TransmitConfirmed, TransmitFrame
from prime_plc.modem_messages import BUFFER_BEACON
from prime_plc.pdu import (
    GENERIC_BYTES_MIN,
    HT_BEACON,
    HT_GENERIC,
    HT_PROMOTION,
    LNID_BROADCAST,
    LNID_MULTICAST,
    SID_NONE,
    Beacon,
    GenericPdu,
    Packet,
    decode_pdu,
)
from prime_plc.phy import PhyMode, Scheme
from prime_plc.promotion import Asked, PromotionDesk
from prime_plc.registry import SID_BASE, Node, Pending, Registry
from prime_plc.robustness import RobustnessWatch
from prime_plc.role import BROADCAST_LCID_4_32, Input, Output, refused
from prime_plc.sap import (
    Action,
    DataConfirmed,
    DataResult,
    GroupChanged,
    Happened,
    LinkDown,
    LinkUp,
    Manage,
    SendBroadcast,
    SendData,
)
from prime_plc.settings import FRAME_S, SUPERFRAME_FRAMES, MacSettings
from prime_plc.slots import SlotTable
from prime_plc.subheader import SarHeader, SarType
from prime_plc.timers import Deadlines
from prime_plc.transmitter import Transmitter
from shared.errors import DecodeError
from shared.ids import Eui48, format_eui48

LEVEL: Final = 0
FIRST_BEACON_S: Final = 0.3
"""[s] From a ready modem to the first beacon."""

ALIVE_PER_PERIOD: Final = 3
"""Keep-alives sent in one period."""

ALIVE_PER_PERIOD_ASKING: Final = 12
"""The same while the last one has brought no sign of life, so that the node survives seven lost ones."""

UNKNOWN_ANSWER_S: Final = 2.0
"""[s] At most one "I do not know you" to the same number in this time."""

TWICE_S: Final = 2.0
"""[s] A registration request this soon after its acknowledgement is a late copy of the same one."""

STRANGER_SID_REST_S: Final = 900.0
"""[s] A switch number that packets name and we did not give is not given."""

IDLE_LOOK_S: Final = 30.0
"""[s] How often switches without nodes are looked for."""

BROADCAST_GAP_S: Final = 1.0
"""[s] Between a broadcast and its repetition, so that one burst of noise does not take both."""


class State(Enum):
    """Whether the subnetwork runs."""

    __hash__ = object.__hash__  # that of enumerations is Python, and tables are looked into at every frame

    OFF = "no modem"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class _From:
    """A control packet and the node that sent it."""

    control: Control
    node: Node
    packet: Packet


class BaseNode:
    """Machine of the base node; its EUI-48 is the subnetwork's address."""

    def __init__(self, settings: MacSettings, modem: ModemSettings, eui48: Eui48, draw: random.Random) -> None:
        self.settings = settings
        self.sna: bytes = eui48
        self._draw = draw
        self.transmitter = Transmitter(settings, modem, draw)
        self.registry = Registry(draw, settings.sid_rest_s)
        self.slots = SlotTable(settings.beacon_slots_max)
        self.groups = Groups(settings.groups_max)
        self._desk = PromotionDesk(settings)
        self._robustness = RobustnessWatch(settings, self.transmitter.links)
        self._addresses: dict[bytes, int] = {}
        self._deadlines: Deadlines[Eui48] = Deadlines()
        self._ready_to_send: deque[Node] = deque()
        self._sending: set[Eui48] = set()
        self._unknown: dict[tuple[int, int], float] = {}
        self._broadcasts: deque[tuple[float, Packet]] = deque()
        self.state = State.OFF
        self.undecodable = 0
        self.other_version = 0
        self.received = {"data": 0, "control": 0}
        self.sent = {"data": 0, "control": 0}
        self.beacons = 0
        self._heard_s = {"up": 0.0, "down": 0.0, "beacons and calls": 0.0}
        self._began_s = 0.0
        self._seq = 0
        self._slot_s = 0.0
        self._count = 1
        self._next_count = (0.0, 1)
        self._idle_look_s = 0.0
        self.wake_at: float | None = None

    # ---- the machine -------------------------------------------------------------------------------------------------

    def handle(self, item: Input, now: float) -> list[Output]:
        action = _TABLE.get((self.state, type(item)))
        if action is None:
            return refused(item)
        outputs = action(self, item, now)
        if outputs is None:  # nothing of ours
            return []
        return outputs + self._transmit(now)

    def wake(self, now: float) -> list[Output]:
        if self.state is State.OFF:
            return []
        outputs: list[Output] = []
        if now >= self._slot_s - self.settings.beacon_lead_s:
            outputs.append(self._beacon(now))
        for eui48 in self._deadlines.due(now):
            node = self.nodes.get(eui48)
            if node is not None:
                outputs += self._tend(node, now)
        if self._desk.wake_at is not None and now >= self._desk.wake_at:
            outputs += self._choose(now)
        if now >= self._idle_look_s:
            self._idle_look_s = now + IDLE_LOOK_S
            self._demote_idle(now)
        while self._broadcasts and now >= self._broadcasts[0][0]:
            self._to_everybody(self._broadcasts.popleft()[1], now)
        return outputs + self._transmit(now)

    @property
    def nodes(self) -> dict[Eui48, Node]:
        """Registered nodes."""
        return self.registry.nodes

    def summary(self) -> dict[str, object]:
        """State for people."""
        return {
            "state": self.state.value,
            "nodes": {
                format_eui48(node.eui48): {
                    "sid": node.sid,
                    "lnid": node.lnid,
                    "hops": node.hops,
                    "lsid": node.lsid,
                    "open": node.connection is not None,
                    "alive_asked": node.round_trips,
                    "alive_answered": node.answers,
                    "link": self.transmitter.links.summary(node.lnid) if node.sid == SID_BASE else None,
                }
                for node in self.nodes.values()
            },
            "switches": len(self.slots),
            "beacon_slots": self._count,
            "sna": format_eui48(self.sna),
            "running_s": round(self._slot_s - self._began_s, 1) if self.state is State.RUNNING else 0.0,
            "heard_s": {kind: round(seconds, 3) for kind, seconds in self._heard_s.items()},
            "dropped": self.transmitter.channel.dropped,
            "hop_repeats": self.transmitter.custody.repeated,
        }

    def _refresh_wake(self) -> None:
        if self.state is State.OFF:
            self.wake_at = None
            return
        at = self._slot_s - self.settings.beacon_lead_s
        for time in (self.transmitter.wake_at, self._deadlines.next_at, self._desk.wake_at, self._idle_look_s):
            if time is not None and time < at:
                at = time
        if self._broadcasts:
            at = min(at, self._broadcasts[0][0])
        self.wake_at = at

    # ---- beacons -----------------------------------------------------------------------------------------------------

    def _ready(self, _item: Input, now: float) -> list[Output]:
        self.state = State.RUNNING
        self._began_s = now
        self._heard_s = dict.fromkeys(self._heard_s, 0.0)
        self._slot_s = now + FIRST_BEACON_S
        self._idle_look_s = now + IDLE_LOOK_S
        self.transmitter.channel.sna = self.sna
        self.transmitter.clock.beacon(self._slot_s, 0, self._count, 0, self._seq)
        return [Happened("subnetwork up", format_eui48(self.sna))]

    def _beacon(self, now: float) -> TransmitFrame:
        while self._slot_s <= now:  # a host that stood still skips slots, it does not send them late
            self._slot_s += FRAME_S
            self._seq = (self._seq + 1) % SUPERFRAME_FRAMES
        if self._next_count[1] != self._count and self._slot_s >= self._next_count[0]:
            self._count = self._next_count[1]
        beacon = Beacon(7, SID_BASE, self._count, 0, 0, LEVEL, self._seq, 0, self.sna, 0, 0)
        slot_s = self._slot_s
        self.transmitter.clock.beacon(slot_s, 0, self._count, 0, self._seq)
        self._seq = (self._seq + 1) % SUPERFRAME_FRAMES
        self._slot_s = slot_s + FRAME_S
        self.beacons += 1
        return TransmitFrame(beacon.encode(), Scheme.DBPSK_C, slot_s, BUFFER_BEACON, exclusive=True)

    def _frame_for(self, count: int, now: float) -> None:
        """Announce a frame with more beacon slots (FRA); fewer are never needed soon enough to be worth it."""
        if count <= max(self._count, self._next_count[1]):
            return
        ahead = self.settings.frame_change_frames
        seq = (self._seq + ahead) % SUPERFRAME_FRAMES
        self._next_count = (self._slot_s + (ahead - 0.5) * FRAME_S, count)
        self.transmitter.clock.announce(seq, count, None, now)
        packet = Packet(
            False, PRIORITY_CONTROL, True, ControlType.FRA, SID_BASE, LNID_BROADCAST, Fra(0, 0, seq, count).encode()
        )
        self._repeatedly(packet, now)

    def _lost_modem(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, ModemLost)
        outputs: list[Output] = []
        for node in list(self.nodes.values()):
            if node.eui48 in self.nodes:
                outputs += self._remove(node, item.reason, now)
        self.transmitter.clear()
        self._ready_to_send.clear()
        self._sending.clear()
        self._broadcasts.clear()
        self._deadlines.clear()
        self.state = State.OFF
        return outputs

    # ---- frames in ---------------------------------------------------------------------------------------------------

    def _hear(self, item: Input, now: float) -> list[Output] | None:
        assert isinstance(item, FrameReceived)
        if item.mode is not PhyMode.TYPE_A:
            self.other_version += 1
            return None
        data = item.pdu
        kind = data[0] >> 4 if data else -1
        if kind in {HT_BEACON, HT_PROMOTION}:
            self._heard_s["beacons and calls"] += item.duration_s
            return None
        if kind != HT_GENERIC or len(data) < GENERIC_BYTES_MIN:
            self.undecodable += 1
            return None
        downlink, level = bool(data[1] & 0x40), data[1] & 0x3F
        self._heard_s["down" if downlink else "up"] += item.duration_s
        if downlink:
            if level == 1 and len(self.transmitter.custody):
                self._passed_on(data, now)
            return None
        if level != LEVEL:
            return None
        try:
            pdu = decode_pdu(data, self.sna)
        except DecodeError:
            self.undecodable += 1
            return None
        assert isinstance(pdu, GenericPdu)
        self._measure(pdu, item, now)
        self.transmitter.answered(pdu, now)
        outputs: list[Output] = []
        for packet in pdu.packets:
            outputs += self._packet(packet, now)
        return outputs

    def _passed_on(self, data: bytes, now: float) -> None:
        """A switch of ours relays something downward: what we gave it?"""
        try:
            pdu = decode_pdu(data, self.sna)
        except DecodeError:
            self.transmitter.overheard_damaged(data, now)
            return
        assert isinstance(pdu, GenericPdu)
        self.transmitter.overheard(pdu, now)

    def _measure(self, pdu: GenericPdu, item: FrameReceived, now: float) -> None:
        """Link quality of the child that sent or relayed this."""
        packet = pdu.packets[0]
        top = self.registry.top_of(packet.sid, packet.lnid)
        if top is None:
            return
        self.transmitter.links.heard(top.lnid, item.snr_db, now)
        if packet.control:  # always in the most robust modulation, which says nothing
            return
        index = self._robustness.observe(top.lnid, item.scheme, item.snr_db, now)
        if index is not None:
            self._send_control(top, ControlType.PRM, Prm(False, False, index).encode(), now)

    def _packet(self, packet: Packet, now: float) -> list[Output]:
        try:
            if packet.control and packet.lcid == ControlType.REG:
                self.received["control"] += 1
                return self._registration(Reg.decode(packet.payload), packet, now)
            node = self.registry.at(packet.sid, packet.lnid)
            if node is None:
                self._unknown_node(packet, now)
                return []
            if not packet.control:
                self.received["data"] += 1
                outputs = self._data(node, packet, now)
            else:
                self.received["control"] += 1
                came = _From(decode_control(packet.lcid, packet.payload), node, packet)
                action = _TABLE.get((self.state, type(came.control)))
                outputs = [] if action is None else action(self, came, now) or []
        except DecodeError:
            self.undecodable += 1
            return []
        if node.eui48 in self.nodes:
            self._seen(node, now)
        return outputs

    def _unknown_node(self, packet: Packet, now: float) -> None:
        """Tell a node we have forgotten (a restart) so, instead of letting it find out by its keep-alive (our
        choice)."""
        address = (packet.sid, packet.lnid)
        if packet.lnid >= LNID_MULTICAST or now < self._unknown.get(address, 0.0):
            return
        if packet.sid != SID_BASE and self.registry.switch(packet.sid) is None:
            self.registry.rest(packet.sid, now + STRANGER_SID_REST_S)
        if len(self._unknown) >= self.settings.nodes_max:
            self._unknown.clear()
        self._unknown[address] = now + UNKNOWN_ANSWER_S
        goodbye = Reg(True, False, 0, Capabilities.NONE, self.settings.keep_alive_code, bytes(6))
        self._send_to(packet.sid, packet.lnid, ControlType.REG, goodbye.encode(), now)

    def _seen(self, node: Node, now: float) -> None:
        if not node.acknowledged:
            node.acknowledged = True
            node.registered_s = now
        node.pending.pop(ControlType.REG, None)
        node.alive_by = now + TIME_S[node.time]
        node.last_heard_s = now
        self._schedule(node)

    def _schedule(self, node: Node) -> None:
        """Put the node's next deadline into the heap; one whose data waits for the channel is looked at anyway."""
        due_at = node.due_at
        if node.eui48 in self._sending:
            due_at = min(node.alive_by, node.alive_at, *(pending.at for pending in node.pending.values()))
        self._deadlines.set(node.eui48, due_at)

    # ---- registration ------------------------------------------------------------------------------------------------

    def _registration(self, reg: Reg, packet: Packet, now: float) -> list[Output]:
        eui48 = Eui48(reg.eui48)
        node = self.nodes.get(eui48)
        if reg.negative:
            if node is None or (node.sid, node.lnid) != (packet.sid, packet.lnid):
                return []
            if ControlType.REG not in node.pending:  # it asks; otherwise it answers us
                self._send_control(node, ControlType.REG, self._reg(node, negative=True), now)
            return self._remove(node, "unregistered", now)
        if packet.lnid != LNID_BROADCAST:  # the acknowledgement of a response
            if node is not None and (node.sid, node.lnid) == (packet.sid, packet.lnid):
                self._seen(node, now)
            return []
        outputs: list[Output] = []
        if node is not None and node.sid != packet.sid:
            outputs += self._remove(node, "registers elsewhere", now)
            node = None
        elif node is not None and node.acknowledged:
            # A node that has started again, or a late copy of an old request; the same answer serves both. Its
            # connection is closed when it opens another one.
            if now - node.registered_s < TWICE_S:
                return []
            outputs += self._end_switching(node, "registers again", now)
            node.talked = True
        if node is None:
            refusal = self._refusal(packet.sid)
            if refusal is not None:
                reject = Reg(True, False, 0, reg.capabilities, reg.time, eui48)
                self._send_to(packet.sid, LNID_BROADCAST, ControlType.REG, reject.encode(), now)
                return [*outputs, Happened("registration rejected", f"{format_eui48(eui48)}: {refusal}")]
            node = self._admit(reg, packet.sid, now)
            outputs.append(Happened("node registered", f"{format_eui48(eui48)} as {node.sid}/{node.lnid:#06x}"))
        self._expect(node, ControlType.REG, self._reg(node, negative=False), now)
        return outputs

    def _refusal(self, sid: int) -> str | None:
        """Why nobody can be taken below a switch."""
        if sid != SID_BASE and self.registry.switch(sid) is None:
            return f"no switch {sid}"
        return "subnetwork full" if len(self.registry) >= self.settings.nodes_max else None

    def _admit(self, reg: Reg, sid: int, now: float) -> Node:
        """A new node below a switch."""
        switch = self.registry.switch(sid)
        hops = 1 if switch is None else switch.hops + 1
        code = self._time_code()
        node = Node(
            eui48=Eui48(reg.eui48),
            sid=sid,
            lnid=self.registry.new_lnid(sid),
            hops=hops,
            capabilities=reg.capabilities,
            time=code,
            alive_by=now + TIME_S[code],
            alive_at=self._next_alive(code, now),
            registered_s=now,
            last_heard_s=now,
        )
        if sid == SID_BASE:
            self.transmitter.links.forget(node.lnid)
        self.registry.add(node)
        self._desk.registered(node.eui48)
        return node

    def _time_code(self) -> int:
        """Keep-alive period by the number of nodes: their airtime is what limits it."""
        code = self.settings.keep_alive_code
        for count, more in self.settings.keep_alive_steps:
            if len(self.registry) > count:
                code = max(code, more)
        return code

    def _next_alive(self, code: int, now: float, *, answered: bool = True) -> float:
        """A third of the period later, and sooner when the last one was lost."""
        per_period = ALIVE_PER_PERIOD if answered else ALIVE_PER_PERIOD_ASKING
        return now + TIME_S[code] / per_period * self._draw.uniform(0.8, 1.0)

    def _expect(self, node: Node, ctype: ControlType, payload: bytes, now: float) -> None:
        """Send a control packet and repeat it until its answer comes."""
        node.pending[ctype] = Pending(payload, now + self._repeat_s(node))
        self._schedule(node)
        self._send_control(node, ctype, payload, now)

    def _repeat_s(self, node: Node) -> float:
        return self.settings.control_repeat_s * (0.75 + 0.25 * node.hops) * self._draw.uniform(0.9, 1.1)

    def _reg(self, node: Node, *, negative: bool) -> bytes:
        return Reg(negative, False, 0, node.capabilities, node.time, node.eui48).encode()

    def _remove(self, node: Node, reason: str, now: float) -> list[Output]:
        """Forget a node, and everybody who is registered through it."""
        outputs = self._close_link(node, reason)
        if node.lsid is not None:
            self.slots.take_back(node.lsid)
            for below in self.registry.below(node.lsid):
                outputs += self._remove(below, f"its switch {node.lsid} is gone", now)
        self.registry.remove(node, now)
        self._deadlines.set(node.eui48, None)
        self._sending.discard(node.eui48)
        if node.sid == SID_BASE:
            self.transmitter.custody.forget(node.lnid)
        for group in self.groups.gone(node.eui48):
            outputs.append(GroupChanged(node.eui48, False, group.lcid, group.type, group.data))
        return [*outputs, Happened("node removed", f"{format_eui48(node.eui48)}: {reason}")]

    def _tend(self, node: Node, now: float) -> list[Output]:
        """What time alone demands of one node: repeat, keep alive, remove, send again."""
        if now >= node.alive_by:
            self._send_control(node, ControlType.REG, self._reg(node, negative=True), now)
            return self._remove(node, "no sign of life", now)
        for ctype, pending in list(node.pending.items()):
            if now >= pending.at:
                pending.repeats += 1
                if pending.repeats > self.settings.control_repeats_max:
                    return self._never_answered(node, ctype, now)
                pending.at = now + self._repeat_s(node)
                self._send_control(node, ctype, pending.payload, now)
        if now >= node.alive_at:
            node.time = max(node.time, self._time_code())
            answered = node.last_heard_s >= node.asked_alive_s
            node.alive_at = self._next_alive(node.time, now, answered=answered)
            node.asked_alive_s = now
            node.alive_by = max(node.alive_by, node.last_heard_s + TIME_S[node.time])
            alv = Alv(node.received_alive, node.sent_alive, node.time, SID_NONE)
            node.sent_alive = (node.sent_alive + 1) % 8
            node.round_trips += 1
            self._send_control(node, ControlType.ALV, alv.encode(), now)
        self._wants_to_send(node)
        return []

    def _never_answered(self, node: Node, ctype: ControlType, now: float) -> list[Output]:
        del node.pending[ctype]
        if ctype is ControlType.REG:
            return self._remove(node, "registration never acknowledged", now)
        self._schedule(node)
        if ctype in {ControlType.PRO, ControlType.BSI} and not node.switching:
            return self._end_switching(node, "promotion never acknowledged", now)
        return []

    def _alive(self, item: _From, _now: float) -> list[Output]:
        alv, node = item.control, item.node
        assert isinstance(alv, Alv)
        node.received_alive = (node.received_alive + 1) % 8
        node.answers += 1
        node.lost_down = (node.sent_alive - alv.rx_count) % 8
        return []

    # ---- switches ----------------------------------------------------------------------------------------------------

    def _promotion(self, item: _From, now: float) -> list[Output]:
        pro, node = item.control, item.node
        assert isinstance(pro, Pro)
        if pro.negative:
            node.pending.pop(ControlType.PRO, None)
            if node.lsid is None:
                return []
            if node.switching and pro.nsid == node.lsid:
                self._send_control(node, ControlType.PRO, Pro(True, 0, node.time, pro.nsid).encode(), now)
            return self._end_switching(node, "by itself", now)
        if pro.request is not None:
            return self._asked(node, pro, now)
        if pro.nsid == node.lsid:
            node.pending.pop(ControlType.PRO, None)
            if not node.switching and ControlType.BSI not in node.pending:
                slot = self.slots.give(node.lsid, self.settings.beacon_frequency + (node.hops > 1))
                if slot is None:
                    return self._end_switching(node, "no beacon slot left", now)
                self._frame_for(self.slots.count, now)
                self._expect(node, ControlType.BSI, Bsi(slot.frequency, slot.number, slot.seq).encode(), now)
        return []

    def _asked(self, node: Node, pro: Pro, now: float) -> list[Output]:
        assert pro.request is not None
        known = self.nodes.get(Eui48(pro.request.pna))
        asked = Asked(node.eui48, pro.request.pna, pro.quality, pro.request.up_cost + pro.request.down_cost + node.hops)
        able = node.lsid is None and Capabilities.SWITCH in node.capabilities
        able &= len(self.registry.switches) < self.settings.switches_max
        fresh = known is None or now - known.last_heard_s > UNKNOWN_ANSWER_S
        if not (able and fresh and self._desk.ask(asked, now)):
            self._reject_promotion(node, now)
        return []

    def _reject_promotion(self, node: Node, now: float) -> None:
        self._send_control(node, ControlType.PRO, Pro(True, 0, node.time, SID_NONE).encode(), now)

    def _choose(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for chosen in self._desk.due(now):
            winner = self.nodes.get(chosen.winner)
            if winner is not None and winner.lsid is None:
                outputs += self._promote(winner, now)
            for eui48 in chosen.losers:
                loser = self.nodes.get(eui48)
                if loser is not None and loser.lsid is None:
                    self._reject_promotion(loser, now)
        return outputs

    def _promote(self, node: Node, now: float) -> list[Output]:
        sid = self.registry.promote(node, now)
        if sid is None:
            self._reject_promotion(node, now)
            return [Happened("promotion refused", f"{format_eui48(node.eui48)}: no switch number left")]
        self._expect(node, ControlType.PRO, Pro(False, 0, node.time, sid).encode(), now)
        return [Happened("promoting", f"{format_eui48(node.eui48)} as switch {sid}")]

    def _slot_taken(self, item: _From, _now: float) -> list[Output]:
        node = item.node
        if node.lsid is None or node.pending.pop(ControlType.BSI, None) is None:
            return []
        node.switching = True
        return [Happened("switch", f"{format_eui48(node.eui48)} beacons as {node.lsid}, hop {node.hops}")]

    def _end_switching(self, node: Node, why: str, now: float) -> list[Output]:
        """The node is a terminal again; who was registered through it is not any more."""
        lsid = node.lsid
        if lsid is None:
            return []
        outputs: list[Output] = []
        self.slots.take_back(lsid)
        for below in self.registry.below(lsid):
            outputs += self._remove(below, f"switch {lsid} ended", now)
        self.registry.demote(node, now)
        node.pending.pop(ControlType.PRO, None)
        node.pending.pop(ControlType.BSI, None)
        return [*outputs, Happened("switch ended", f"{format_eui48(node.eui48)}: {why}")]

    def _demote(self, node: Node, why: str, now: float) -> list[Output]:
        if node.lsid is None:
            return []
        lsid = node.lsid
        outputs = self._end_switching(node, why, now)
        self._expect(node, ControlType.PRO, Pro(True, 0, node.time, lsid).encode(), now)
        return outputs

    def _demote_idle(self, now: float) -> None:
        """Switches that nobody needs cost a beacon slot."""
        for node in self.registry.switches:
            if node.switching and not node.children and now - node.childless_since_s > self.settings.idle_switch_s:
                self._demote(node, "nobody registers through it", now)

    def _manage(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, Manage)
        node = self.nodes.get(item.eui48)
        if node is None:
            return [Happened(f"cannot {item.action.value}", f"{format_eui48(item.eui48)} is not registered")]
        if item.action is Action.PROMOTE:
            return [] if node.lsid is not None else self._promote(node, now)
        if item.action is Action.DEMOTE:
            return self._demote(node, "as told", now)
        self._expect(node, ControlType.REG, self._reg(node, negative=True), now)
        return []

    def _refuse_cfp(self, item: _From, now: float) -> list[Output]:
        """Contention-free periods are not given: the codes of the request are not established."""
        cfp = item.control
        assert isinstance(cfp, Cfp)
        if not cfp.negative:
            no = Cfp(True, cfp.direction, cfp.seq, cfp.lcid, cfp.length, cfp.position, cfp.type, cfp.lnid)
            self._send_control(item.node, ControlType.CFP, no.encode(), now)
        return []

    def _robust(self, item: _From, now: float) -> list[Output]:
        prm, node = item.control, item.node
        assert isinstance(prm, Prm)
        if not prm.response and node.sid == SID_BASE:
            known = self.transmitter.links.told(node.lnid, prm.snr, now)
            self._send_control(node, ControlType.PRM, Prm(True, not known, prm.snr).encode(), now)
        return []

    # ---- groups and broadcasts ---------------------------------------------------------------------------------------

    def _membership(self, item: _From, now: float) -> list[Output]:
        mul, node = item.control, item.node
        assert isinstance(mul, Mul)
        if mul.negative:
            group = self.groups.leave(mul.lcid, node.eui48)
            self._send_control(node, ControlType.MUL, Mul(True, mul.lcid, mul.type).encode(), now)
            return [] if group is None else [GroupChanged(node.eui48, False, group.lcid, group.type, group.data)]
        group = self.groups.join(mul.type, mul.data, node.eui48)
        if group is None:
            self._send_control(node, ControlType.MUL, Mul(True, mul.lcid, mul.type).encode(), now)
            return []
        self._send_control(node, ControlType.MUL, Mul(False, group.lcid, group.type, group.data).encode(), now)
        return [GroupChanged(node.eui48, True, group.lcid, group.type, group.data)]

    def _broadcast(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, SendBroadcast)
        sdu = Lpdu(item.dsap, item.ssap, item.data).encode()
        if len(sdu) > self.settings.broadcast_bytes_max:
            return [Happened("broadcast refused", f"{len(sdu)} bytes, at most {self.settings.broadcast_bytes_max}")]
        if item.group is not None and self.groups.get(item.group) is None:
            return [Happened("broadcast refused", f"no group {item.group}")]
        lcid = BROADCAST_LCID_4_32 if item.group is None else item.group
        lnid = LNID_BROADCAST if item.group is None else LNID_MULTICAST
        payload = SarHeader(SarType.FIRST, 0).encode() + sdu
        self._repeatedly(Packet(False, PRIORITY_DATA, False, lcid, SID_BASE, lnid, payload), now)
        return []

    def _repeatedly(self, packet: Packet, now: float) -> None:
        for number in range(self.settings.broadcasts):
            self._broadcasts.append((now + number * (self.settings.hop_memory_s + BROADCAST_GAP_S), packet))
        self._broadcasts = deque(sorted(self._broadcasts, key=lambda one: one[0]))
        while self._broadcasts and now >= self._broadcasts[0][0]:
            self._to_everybody(self._broadcasts.popleft()[1], now)

    def _to_everybody(self, packet: Packet, now: float) -> None:
        self.sent["control" if packet.control else "data"] += 1
        self.transmitter.send([packet], None, now, downlink=True, level=LEVEL, keep=Keep.NO)

    # ---- 4-32 connections --------------------------------------------------------------------------------------------

    def _connecting(self, item: _From, now: float) -> list[Output]:
        con, node = item.control, item.node
        assert isinstance(con, Con)
        if con.negative:
            if node.connection is None or con.lcid != node.lcid:
                return []
            close = Con(True, False, con.lcid, con.type)
            self._send_control(node, ControlType.CON, close.encode(), now)
            return self._close_link(node, "closed by the node")
        known = bool(con.data) and len(con.data) <= IDENTIFIER_BYTES_MAX
        if con.type != ConnectionType.LLC_4_32 or not con.arq or not known or con.lcid < LCID_FIRST:
            reject = Con(True, False, con.lcid, con.type)
            self._send_control(node, ControlType.CON, reject.encode(), now)
            return []
        if node.connection is not None and node.lcid == con.lcid and not node.talked:
            self._send_control(node, ControlType.CON, node.accept, now)  # our acceptance was lost
            return []
        outputs = self._close_link(node, "opened anew")
        node.address = self._addresses.setdefault(con.data, ADDRESS_FIRST + len(self._addresses))
        node.lcid, node.serial = con.lcid, con.data
        pair = AddressPair(node.address, ADDRESS_BASE)
        node.accept = Con(False, True, con.lcid, ConnectionType.LLC_4_32, pair.encode()).encode()
        node.connection = Connection(self.settings, node.hops)
        node.talked = False
        self._send_control(node, ControlType.CON, node.accept, now)
        return [*outputs, LinkUp(node.eui48, con.data, node.address)]

    def _close_link(self, node: Node, reason: str) -> list[Output]:
        if node.connection is None:
            return []
        lost = [DataConfirmed(token, node.eui48, DataResult.LOST) for token in node.connection.pending_tokens]
        node.connection = None
        self._sending.discard(node.eui48)
        return [*lost, LinkDown(node.eui48, reason)]

    def _data(self, node: Node, packet: Packet, now: float) -> list[Output]:
        if node.connection is None or packet.lcid != node.lcid:
            close = Con(True, False, packet.lcid, ConnectionType.LLC_4_32)
            self._send_control(node, ControlType.CON, close.encode(), now)
            return []
        sdus, tokens = node.connection.receive(packet.payload, now)
        node.talked = True
        outputs: list[Output] = [DataConfirmed(token, node.eui48, DataResult.ACKNOWLEDGED) for token in tokens]
        if node.connection.sendable:
            self._wants_to_send(node)
        return [*outputs, *deliver(sdus, node.eui48)]

    def _send_data(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, SendData)
        node = None if item.peer is None else self.nodes.get(item.peer)
        if node is None or node.connection is None:
            return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
        if not node.connection.send(Lpdu(item.dsap, item.ssap, item.data).encode(), item.token):
            return [DataConfirmed(item.token, item.peer, DataResult.QUEUE_FULL)]
        self._wants_to_send(node)
        return []

    # ---- towards the modem -------------------------------------------------------------------------------------------

    def _confirmed(self, item: Input, now: float) -> list[Output] | None:
        assert isinstance(item, TransmitConfirmed)
        if item.buffer == BUFFER_BEACON:
            return None
        if self.transmitter.confirmed(item, now) is Given.FAILED:
            return [Happened("frame given up", item.result.name)]
        return []

    def _send_control(self, node: Node, ctype: ControlType, payload: bytes, now: float) -> None:
        self._send_to(node.sid, node.lnid, ctype, payload, now)

    def _send_to(self, sid: int, lnid: int, ctype: ControlType, payload: bytes, now: float) -> None:
        self.sent["control"] += 1
        self._send_packet(Packet(False, PRIORITY_CONTROL, True, ctype, sid, lnid, payload), now)

    def _send_packet(self, packet: Packet, now: float) -> None:
        """Queue a packet towards the child of ours that it goes through; to a stranger as to everybody."""
        top = self.registry.top_of(packet.sid, packet.lnid)
        onward = packet.sid != SID_BASE and top is not None
        neighbour = None if top is None else top.lnid
        keep = Keep.ONWARD if onward else Keep.NO
        self.transmitter.send([packet], neighbour, now, downlink=True, level=LEVEL, keep=keep)

    def _wants_to_send(self, node: Node) -> None:
        """The node's connection may have something to send."""
        if node.connection is not None and node.eui48 not in self._sending:
            self._sending.add(node.eui48)
            self._ready_to_send.append(node)
        self._schedule(node)

    def _transmit(self, now: float) -> list[Output]:
        outputs = self._feed(now)
        frames = self.transmitter.wake(now)
        if frames:
            outputs += frames
            outputs += self._feed(now)
        self._refresh_wake()
        return outputs

    def _feed(self, now: float) -> list[Output]:
        """Hand data to the channel as long as it has room, the nodes in turn."""
        outputs: list[Output] = []
        while self._ready_to_send and self.transmitter.room:
            node = self._ready_to_send.popleft()
            if node.eui48 not in self._sending or self.nodes.get(node.eui48) is not node:
                continue
            self._sending.discard(node.eui48)
            connection = node.connection
            if connection is None:
                continue
            before = connection.timeouts
            payloads = connection.packets(now, self.settings.data_ahead)
            if connection.timeouts > before and node.sid == SID_BASE:
                self.transmitter.links.lost(node.lnid)
            for payload in payloads:
                self.sent["data"] += 1
                self._send_packet(Packet(False, PRIORITY_DATA, False, node.lcid, node.sid, node.lnid, payload), now)
            if connection.failed:
                close = Con(True, False, node.lcid, ConnectionType.LLC_4_32)
                self._send_control(node, ControlType.CON, close.encode(), now)
                outputs += self._close_link(node, "no acknowledgement")
            elif connection.sendable:
                self._wants_to_send(node)
            self._schedule(node)
        return outputs


_Action = Callable[..., list[Output] | None]

_TABLE: Final[dict[tuple[State, type], _Action]] = {
    (State.OFF, ModemReady): BaseNode._ready,
    (State.RUNNING, ModemLost): BaseNode._lost_modem,
    (State.RUNNING, FrameReceived): BaseNode._hear,
    (State.RUNNING, TransmitConfirmed): BaseNode._confirmed,
    (State.RUNNING, SendData): BaseNode._send_data,
    (State.RUNNING, SendBroadcast): BaseNode._broadcast,
    (State.RUNNING, Manage): BaseNode._manage,
    (State.RUNNING, Con): BaseNode._connecting,
    (State.RUNNING, Pro): BaseNode._promotion,
    (State.RUNNING, Bsi): BaseNode._slot_taken,
    (State.RUNNING, Cfp): BaseNode._refuse_cfp,
    (State.RUNNING, Alv): BaseNode._alive,
    (State.RUNNING, Mul): BaseNode._membership,
    (State.RUNNING, Prm): BaseNode._robust,
}
"""Every input by state, and every control packet of a registered node; what is not here is refused (data) or ignored.
REG is not: it comes from nodes that are none yet."""
