"""The PRIME base node: beacons, registrations, keep-alive, and the 4-32 connections of its nodes.

Promotion to switch is refused for now, so every node is one hop away (level 0, SID 0).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from prime_plc.channel import PRIORITY_CONTROL, ChannelAccess, FrameClock, Given
from prime_plc.connection import Connection
from prime_plc.control import TIME_S, Alv, Capabilities, Con, ConnectionType, ControlType, Pro, Reg, decode_control
from prime_plc.lpdu import ADDRESS_BASE, ADDRESS_FIRST, IDENTIFIER_BYTES_MAX, AddressPair, Lpdu
from prime_plc.modem_host import FrameReceived, ModemLost, ModemReady, ModemSettings, TransmitConfirmed, TransmitFrame
from prime_plc.modem_messages import BUFFER_BEACON, BUFFER_DATA
from prime_plc.pdu import LNID_BROADCAST, LNID_MULTICAST, SID_NONE, Beacon, GenericPdu, Packet, decode_pdu
from prime_plc.phy import Scheme
from prime_plc.sap import DataConfirmed, DataResult, Happened, LinkDown, LinkUp, SendData
from prime_plc.service_node import Input, Output, _deliver, _refused
from prime_plc.settings import FRAME_S, SUPERFRAME_FRAMES, MacSettings
from shared.errors import DecodeError
from shared.ids import Eui48, format_eui48

SID: Final = 0
LEVEL: Final = 0
FIRST_BEACON_S: Final = 0.3
"""[s] From a ready modem to the first beacon."""

ALIVE_PER_PERIOD: Final = 3
"""Keep-alives sent in one period; the node survives two lost ones."""

UNKNOWN_ANSWER_S: Final = 2.0
"""[s] At most one "I do not know you" to the same number in this time."""


class State(Enum):
    """Whether the subnetwork runs."""

    OFF = "no modem"
    RUNNING = "running"


@dataclass(slots=True)
class Node:
    """One node of the subnetwork.

    Attributes:
        acknowledged: whether it has confirmed its registration.
        alive_by: when it is removed without a sign of life [s].
    """

    eui48: Eui48
    lnid: int
    capabilities: Capabilities
    time: int
    alive_by: float
    alive_at: float
    acknowledged: bool = False
    repeat_at: float | None = None
    repeats: int = 0
    sent_alive: int = 0
    received_alive: int = 0
    lcid: int = 0
    accept: bytes = b""
    connection: Connection | None = None
    talked: bool = field(default=False)


class BaseNode:
    """Machine of the base node; its EUI-48 is the subnetwork's address."""

    def __init__(self, settings: MacSettings, modem: ModemSettings, eui48: Eui48, draw: random.Random) -> None:
        self._settings = settings
        self._sna = eui48
        self._draw = draw
        self._clock = FrameClock(settings)
        self._channel = ChannelAccess(settings, modem, self._clock, draw)
        self._alive_s = float(TIME_S[settings.keep_alive_code])
        self._addresses: dict[bytes, int] = {}
        self._next_lnid = draw.randrange(1, LNID_MULTICAST)
        self.state = State.OFF
        self.undecodable = 0
        self.nodes: dict[Eui48, Node] = {}
        self._by_lnid: dict[int, Node] = {}
        self._unknown: dict[int, float] = {}
        self._seq = 0
        self._slot_s = 0.0

    # ---- the machine -------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        if self.state is State.OFF:
            return None
        deadlines = [self._slot_s - self._settings.beacon_lead_s, self._channel.wake_at]
        for node in self.nodes.values():
            deadlines += [node.alive_by, node.alive_at, node.repeat_at]
            if node.connection is not None:
                deadlines.append(node.connection.wake_at)
        return min(at for at in deadlines if at is not None)

    def handle(self, item: Input, now: float) -> list[Output]:
        action = _TABLE.get((self.state, type(item)))
        if action is None:
            return _refused(item)
        return action(self, item, now) + self._transmit(now)

    def wake(self, now: float) -> list[Output]:
        if self.state is State.OFF:
            return []
        outputs: list[Output] = []
        if now >= self._slot_s - self._settings.beacon_lead_s:
            outputs.append(self._beacon(now))
        for node in list(self.nodes.values()):
            outputs += self._tend(node, now)
        return outputs + self._transmit(now)

    @property
    def sna(self) -> bytes:
        """Address of the subnetwork."""
        return self._sna

    def summary(self) -> dict[str, object]:
        """State for people."""
        return {
            "state": self.state.value,
            "nodes": {
                format_eui48(node.eui48): {"lnid": node.lnid, "open": node.connection is not None}
                for node in self.nodes.values()
            },
        }

    # ---- beacons -----------------------------------------------------------------------------------------------------

    def _ready(self, _item: Input, now: float) -> list[Output]:
        self.state = State.RUNNING
        self._slot_s = now + FIRST_BEACON_S
        self._clock.beacon(self._slot_s, 0, 1, 0)
        return [Happened("subnetwork up", format_eui48(self._sna))]

    def _beacon(self, now: float) -> TransmitFrame:
        beacon = Beacon(7, SID, 1, 0, 0, LEVEL, self._seq, 0, self._sna, 0, 0)
        slot_s = self._slot_s
        self._clock.beacon(slot_s, 0, 1, 0)
        self._seq = (self._seq + 1) % SUPERFRAME_FRAMES
        while self._slot_s <= now:  # a host that stood still skips slots, it does not send them late
            self._slot_s += FRAME_S
            slot_s = self._slot_s
        self._slot_s = slot_s + FRAME_S
        return TransmitFrame(beacon.encode(), Scheme.DBPSK_C, slot_s, BUFFER_BEACON, exclusive=True)

    def _lost_modem(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, ModemLost)
        outputs: list[Output] = []
        for node in list(self.nodes.values()):
            outputs += self._remove(node, item.reason)
        self._channel.clear()
        self.state = State.OFF
        return outputs

    # ---- frames in ---------------------------------------------------------------------------------------------------

    def _hear(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, FrameReceived)
        try:
            pdu = decode_pdu(item.pdu, self._sna)
        except DecodeError:
            self.undecodable += 1
            return []
        outputs: list[Output] = []
        if isinstance(pdu, GenericPdu) and not pdu.downlink and pdu.level == LEVEL:
            for packet in pdu.packets:
                if packet.sid == SID:
                    outputs += self._packet(packet, now)
        return outputs

    def _packet(self, packet: Packet, now: float) -> list[Output]:
        try:
            if packet.control and packet.lcid == ControlType.REG:
                return self._registration(Reg.decode(packet.payload), packet.lnid, now)
            node = self._by_lnid.get(packet.lnid)
            if node is None:
                self._unknown_node(packet.lnid, now)
                return []
            self._seen(node, now)
            if packet.control:
                return self._control(node, decode_control(packet.lcid, packet.payload), now)
            return self._data(node, packet, now)
        except DecodeError:
            self.undecodable += 1
            return []

    def _unknown_node(self, lnid: int, now: float) -> None:
        """Tell a node we have forgotten (a restart) so, instead of letting it find out by its keep-alive (our
        choice)."""
        if lnid in {LNID_BROADCAST, LNID_MULTICAST} or now < self._unknown.get(lnid, 0.0):
            return
        if len(self._unknown) >= self._settings.nodes_max:
            self._unknown.clear()
        self._unknown[lnid] = now + UNKNOWN_ANSWER_S
        goodbye = Reg(True, False, 0, Capabilities.NONE, self._settings.keep_alive_code, bytes(6))
        self._send_control(lnid, ControlType.REG, goodbye.encode(), now)

    def _seen(self, node: Node, now: float) -> None:
        node.acknowledged = True
        node.repeat_at = None
        node.alive_by = now + self._alive_s

    def _control(self, node: Node, control: object, now: float) -> list[Output]:
        match control:
            case Con():
                return self._connecting(node, control, now)
            case Alv():
                node.received_alive = (node.received_alive + 1) % 8
            case Pro(request=request) if request is not None:
                self._send_control(node.lnid, ControlType.PRO, Pro(True, 0, 0, SID_NONE).encode(), now)
        return []

    # ---- registration ------------------------------------------------------------------------------------------------

    def _registration(self, reg: Reg, lnid: int, now: float) -> list[Output]:
        eui48 = Eui48(reg.eui48)
        node = self.nodes.get(eui48)
        if reg.negative:
            if node is None or node.lnid != lnid:
                return []
            self._send_control(lnid, ControlType.REG, self._reg(node, negative=True), now)
            return self._remove(node, "unregistered")
        if lnid != LNID_BROADCAST:  # the acknowledgement of a response
            if node is not None and node.lnid == lnid:
                self._seen(node, now)
            return []
        outputs: list[Output] = []
        if node is not None and node.acknowledged:
            outputs += self._remove(node, "registers again")
            node = None
        if node is None:
            if len(self.nodes) >= self._settings.nodes_max:
                reject = Reg(True, False, 0, reg.capabilities, reg.time, eui48)
                self._send_control(LNID_BROADCAST, ControlType.REG, reject.encode(), now)
                return [*outputs, Happened("registration rejected", f"{format_eui48(eui48)}: subnetwork full")]
            node = self._add(eui48, reg.capabilities, now)
            outputs.append(Happened("node registered", f"{format_eui48(eui48)} as {node.lnid:#06x}"))
        self._respond(node, now)
        return outputs

    def _add(self, eui48: Eui48, capabilities: Capabilities, now: float) -> Node:
        while self._next_lnid in self._by_lnid:
            self._advance_lnid()
        time = self._settings.keep_alive_code
        alive_at = now + self._alive_s / ALIVE_PER_PERIOD * self._draw.uniform(0.8, 1.0)
        node = Node(eui48, self._next_lnid, capabilities, time, now + self._alive_s, alive_at)
        self._advance_lnid()
        self.nodes[eui48] = node
        self._by_lnid[node.lnid] = node
        return node

    def _advance_lnid(self) -> None:
        self._next_lnid = self._next_lnid % (LNID_MULTICAST - 1) + 1

    def _respond(self, node: Node, now: float) -> None:
        node.repeat_at = now + self._settings.control_repeat_s
        self._send_control(node.lnid, ControlType.REG, self._reg(node, negative=False), now)

    def _reg(self, node: Node, *, negative: bool) -> bytes:
        return Reg(negative, False, 0, node.capabilities, node.time, node.eui48).encode()

    def _remove(self, node: Node, reason: str) -> list[Output]:
        outputs = self._close_link(node, reason)
        del self.nodes[node.eui48]
        del self._by_lnid[node.lnid]
        return [*outputs, Happened("node removed", f"{format_eui48(node.eui48)}: {reason}")]

    def _tend(self, node: Node, now: float) -> list[Output]:
        """What time alone demands of one node: repeat, keep alive, remove."""
        if now >= node.alive_by:
            self._send_control(node.lnid, ControlType.REG, self._reg(node, negative=True), now)
            return self._remove(node, "no sign of life")
        if node.repeat_at is not None and now >= node.repeat_at:
            node.repeats += 1
            if node.repeats > self._settings.control_repeats_max:
                return self._remove(node, "registration never acknowledged")
            self._respond(node, now)
        if now >= node.alive_at:
            node.alive_at = now + self._alive_s / ALIVE_PER_PERIOD * self._draw.uniform(0.8, 1.0)
            alv = Alv(node.received_alive, node.sent_alive, node.time, SID_NONE)
            node.sent_alive = (node.sent_alive + 1) % 8
            self._send_control(node.lnid, ControlType.ALV, alv.encode(), now)
        return []

    # ---- 4-32 connections --------------------------------------------------------------------------------------------

    def _connecting(self, node: Node, con: Con, now: float) -> list[Output]:
        if con.negative:
            if node.connection is None or con.lcid != node.lcid:
                return []
            close = Con(True, False, con.lcid, con.type)
            self._send_control(node.lnid, ControlType.CON, close.encode(), now)
            return self._close_link(node, "closed by the node")
        known = bool(con.data) and len(con.data) <= IDENTIFIER_BYTES_MAX
        if con.type != ConnectionType.LLC_4_32 or not con.arq or not known or con.lcid < 256:
            reject = Con(True, False, con.lcid, con.type)
            self._send_control(node.lnid, ControlType.CON, reject.encode(), now)
            return []
        if node.connection is not None and node.lcid == con.lcid and not node.talked:
            self._send_control(node.lnid, ControlType.CON, node.accept, now)  # our acceptance was lost
            return []
        outputs = self._close_link(node, "opened anew")
        address = self._addresses.setdefault(con.data, ADDRESS_FIRST + len(self._addresses))
        node.lcid = con.lcid
        node.accept = Con(
            False, True, con.lcid, ConnectionType.LLC_4_32, AddressPair(address, ADDRESS_BASE).encode()
        ).encode()
        node.connection = Connection(self._settings)
        node.talked = False
        self._send_control(node.lnid, ControlType.CON, node.accept, now)
        return [*outputs, LinkUp(node.eui48, con.data, address)]

    def _close_link(self, node: Node, reason: str) -> list[Output]:
        if node.connection is None:
            return []
        lost = [DataConfirmed(token, node.eui48, DataResult.LOST) for token in node.connection.pending_tokens]
        node.connection = None
        return [*lost, LinkDown(node.eui48, reason)]

    def _data(self, node: Node, packet: Packet, now: float) -> list[Output]:
        if node.connection is None or packet.lcid != node.lcid:
            close = Con(True, False, packet.lcid, ConnectionType.LLC_4_32)
            self._send_control(node.lnid, ControlType.CON, close.encode(), now)
            return []
        sdus, tokens = node.connection.receive(packet.payload, now)
        node.talked = True
        outputs: list[Output] = [DataConfirmed(token, node.eui48, DataResult.ACKNOWLEDGED) for token in tokens]
        return outputs + _deliver(sdus, node.eui48)

    def _send_data(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, SendData)
        node = None if item.peer is None else self.nodes.get(item.peer)
        if node is None or node.connection is None:
            return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
        if not node.connection.send(Lpdu(item.dsap, item.ssap, item.data).encode(), item.token):
            return [DataConfirmed(item.token, item.peer, DataResult.QUEUE_FULL)]
        return []

    # ---- towards the modem -------------------------------------------------------------------------------------------

    def _confirmed(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, TransmitConfirmed)
        if item.buffer == BUFFER_DATA and self._channel.confirmed(item.result, now) is Given.FAILED:
            return [Happened("frame given up", item.result.name)]
        return []

    def _send_control(self, lnid: int, ctype: ControlType, payload: bytes, now: float) -> None:
        self._send_packet(Packet(False, PRIORITY_CONTROL, True, ctype, SID, lnid, payload), now)

    def _send_packet(self, packet: Packet, now: float) -> None:
        pdu = GenericPdu(downlink=True, level=LEVEL, packets=(packet,))
        self._channel.put(pdu.encode(self._sna), packet.priority, now)

    def _transmit(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for node in self.nodes.values():
            connection = node.connection
            if connection is None:
                continue
            for payload in connection.packets(now):
                self._send_packet(Packet(False, 2, False, node.lcid, SID, node.lnid, payload), now)
            if connection.failed:
                close = Con(True, False, node.lcid, ConnectionType.LLC_4_32)
                self._send_control(node.lnid, ControlType.CON, close.encode(), now)
                outputs += self._close_link(node, "no acknowledgement")
        frame = self._channel.wake(now)
        return outputs if frame is None else [*outputs, frame]


_Action = Callable[[BaseNode, Input, float], list[Output]]

_TABLE: Final[dict[tuple[State, type], _Action]] = {
    (State.OFF, ModemReady): BaseNode._ready,
    (State.RUNNING, ModemLost): BaseNode._lost_modem,
    (State.RUNNING, FrameReceived): BaseNode._hear,
    (State.RUNNING, TransmitConfirmed): BaseNode._confirmed,
    (State.RUNNING, SendData): BaseNode._send_data,
}
"""Every input by state; what is not here is refused (data) or ignored."""
