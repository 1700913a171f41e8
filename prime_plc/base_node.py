"""The PRIME base node: beacons, the tree of nodes and switches, keep-alive, and the 4-32 connections of its nodes.

What each state does with each input and each control packet stands in one table at the end. The parts do the work:
`beaconing.py`, `admission.py` (registration, keep-alive), `switches.py`, `tree.py` (what goes when something breaks
off), `base_links.py` (4-32), `groups.py`, `downlink.py` for everything that is said, and `agenda.py` for whom to look
at and when.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic

from prime_plc.admission import Admission
from prime_plc.agenda import Agenda
from prime_plc.base_links import BaseLinks
from prime_plc.beaconing import LEVEL, Beaconing
from prime_plc.channel import PRIORITY_DATA, Given
from prime_plc.control import Alv, Bsi, Cfp, Con, ControlType, Mul, Prm, Pro, Reg, decode_control
from prime_plc.downlink import Downlink
from prime_plc.groups import Groups
from prime_plc.lpdu import Lpdu
from prime_plc.modem_host import FrameReceived, ModemLost, ModemReady, ModemSettings, TransmitConfirmed
from prime_plc.modem_messages import BUFFER_BEACON
from prime_plc.pdu import (
    GENERIC_BYTES_MIN,
    HT_BEACON,
    HT_GENERIC,
    HT_PROMOTION,
    LNID_BROADCAST,
    LNID_MULTICAST,
    SID_BASE,
    GenericPdu,
    Packet,
    decode_pdu,
)
from prime_plc.phy import PhyMode
from prime_plc.registry import Node, Registry
from prime_plc.robustness import RobustnessWatch
from prime_plc.role import BROADCAST_LCID_4_32, ControlT, Input, Output, refused
from prime_plc.sap import Action, GroupChanged, Happened, Manage, Pinged, SendBroadcast, SendData
from prime_plc.settings import MacSettings
from prime_plc.slots import SlotTable
from prime_plc.subheader import SarHeader, SarType
from prime_plc.switches import Switches
from prime_plc.transmitter import Transmitter
from prime_plc.tree import Tree
from shared.errors import DecodeError
from shared.ids import Eui48, format_eui48


class State(Enum):
    """Whether the subnetwork runs."""

    __hash__ = object.__hash__  # that of enumerations is Python, and tables are looked into at every frame

    OFF = "no modem"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class _From(Generic[ControlT]):
    """A control packet and the node that sent it."""

    control: ControlT
    node: Node
    packet: Packet


class BaseNode:
    """Machine of the base node; its EUI-48 is the subnetwork's address."""

    def __init__(self, settings: MacSettings, modem: ModemSettings, eui48: Eui48, draw: random.Random) -> None:
        self.settings = settings
        self.sna: bytes = eui48
        self.transmitter = Transmitter(settings, modem, draw)
        self.registry = Registry(draw, settings.sid_rest_s)
        self.slots = SlotTable(settings.beacon_slots_max)
        self.groups = Groups(settings.groups_max)
        self._agenda = Agenda(self.registry)
        self._downlink = Downlink(settings, self.transmitter, self.registry, self._agenda, draw)
        self._links = BaseLinks(settings, self.transmitter, self.registry, self._agenda, self._downlink)
        self._tree = Tree(self.transmitter, self.registry, self._agenda, self._links, self.groups, self.slots)
        self._beaconing = Beaconing(settings, self.transmitter, self.sna)
        self._switches = Switches(settings, self.registry, self._agenda, self._downlink, self._beaconing, self._tree)
        self._admission = Admission(
            settings, self.registry, self._agenda, self._downlink, self._tree, self._switches, draw
        )
        self._robustness = RobustnessWatch(settings, self.transmitter.links)
        self.state = State.OFF
        self.undecodable = 0
        self.other_version = 0
        self.received = {"data": 0, "control": 0}
        self._heard_s = {"up": 0.0, "down": 0.0, "beacons and calls": 0.0}
        self._began_s = 0.0
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
        if now >= self._beaconing.wake_at:
            outputs.append(self._beaconing.beacon(now))
        for eui48 in self._agenda.due(now):
            node = self.nodes.get(eui48)
            if node is not None:
                outputs += self._admission.tend(node, now)
        outputs += self._switches.wake(now)
        self._downlink.wake(now)
        return outputs + self._transmit(now)

    @property
    def nodes(self) -> dict[Eui48, Node]:
        """Registered nodes."""
        return self.registry.nodes

    @property
    def sent(self) -> dict[str, int]:
        """Packets by kind."""
        return self._downlink.sent

    @property
    def beacons(self) -> int:
        """Beacons sent."""
        return self._beaconing.sent

    def summary(self) -> dict[str, object]:
        """State for people."""
        running = self.state is State.RUNNING
        return {
            "state": self.state.value,
            "nodes": {format_eui48(node.eui48): self._node_summary(node) for node in self.nodes.values()},
            "switches": len(self.slots),
            "beacon_slots": self._beaconing.count,
            "sna": format_eui48(self.sna),
            "running_s": round(self._beaconing.slot_s - self._began_s, 1) if running else 0.0,
            "heard_s": {kind: round(seconds, 3) for kind, seconds in self._heard_s.items()},
            "dropped": self.transmitter.channel.dropped,
            "hop_repeats": self.transmitter.custody.repeated,
            "hop_given_up": self.transmitter.custody.given_up,
            "aggregated": self.transmitter.channel.aggregated,
        }

    def _node_summary(self, node: Node) -> dict[str, object]:
        return {
            "sid": node.sid,
            "lnid": node.lnid,
            "hops": node.hops,
            "lsid": node.lsid,
            "open": node.connection is not None,
            "alive_asked": node.round_trips,
            "alive_answered": node.answers,
            "alive_lost_down": node.lost_down,
            "link": self.transmitter.links.summary(node.lnid) if node.sid == SID_BASE else None,
        }

    def _refresh_wake(self) -> None:
        if self.state is State.OFF:
            self.wake_at = None
            return
        at = self._beaconing.wake_at
        for time in (
            self.transmitter.wake_at,
            self._agenda.next_at,
            self._switches.wake_at,
            self._downlink.wake_at,
        ):
            if time is not None and time < at:
                at = time
        self.wake_at = at

    def _ready(self, _item: ModemReady, now: float) -> list[Output]:
        self.state = State.RUNNING
        self._began_s = now
        self._heard_s = dict.fromkeys(self._heard_s, 0.0)
        self._switches.begin(now)
        self.transmitter.channel.sna = self.sna
        self._beaconing.begin(now)
        return [Happened("subnetwork up", format_eui48(self.sna))]

    def _lost_modem(self, item: ModemLost, now: float) -> list[Output]:
        outputs: list[Output] = []
        for node in list(self.nodes.values()):
            if node.eui48 in self.nodes:
                outputs += self._tree.remove(node, item.reason, now)
        self.transmitter.clear()
        self._agenda.clear()
        self._downlink.clear()
        self.state = State.OFF
        return outputs

    # ---- frames in ---------------------------------------------------------------------------------------------------

    def ignores(self, _data: bytes) -> bool:
        """Nothing: airtime heard is counted."""
        return False

    def overhears(self, _item: FrameReceived, _now: float) -> bool:
        """Nothing either."""
        return False

    def _hear(self, item: FrameReceived, now: float) -> list[Output] | None:
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
        self.transmitter.links.heard(top, item.snr_db, now)
        index = self._robustness.observe(top, item.scheme, item.snr_db, now, control=packet.control)
        if index is not None:
            self._downlink.control_to(SID_BASE, top, ControlType.PRM, Prm(False, False, index).encode(), now)

    def _packet(self, packet: Packet, now: float) -> list[Output]:
        try:
            if packet.control and packet.lcid == ControlType.REG:
                self.received["control"] += 1
                return [*self._admission.control(Reg.decode(packet.payload), packet, now)]
            node = self.registry.at(packet.sid, packet.lnid)
            if node is None:
                self._admission.unknown(packet, now)
                return []
            self.received["control" if packet.control else "data"] += 1
            outputs: list[Output] = [*self._admission.settle(node, packet, now)]
            outputs += self._control(node, packet, now) if packet.control else self._links.data(node, packet, now)
        except DecodeError:
            self.undecodable += 1
            return []
        if node.eui48 in self.nodes:
            self._admission.seen(node, now)
        return outputs

    def _control(self, node: Node, packet: Packet, now: float) -> list[Output]:
        control = decode_control(packet.lcid, packet.payload)
        action = _TABLE.get((self.state, type(control)))
        return [] if action is None else action(self, _From(control, node, packet), now) or []

    # ---- control packets ---------------------------------------------------------------------------------------------

    def _alive(self, item: _From[Alv], now: float) -> list[Output]:
        return [*self._admission.answered(item.node, item.control, now)]

    def _promotion(self, item: _From[Pro], now: float) -> list[Output]:
        return [*self._switches.control(item.node, item.control, now)]

    def _slot_taken(self, item: _From[Bsi], now: float) -> list[Output]:
        return [*self._switches.slot_taken(item.node, item.control, now)]

    def _connecting(self, item: _From[Con], now: float) -> list[Output]:
        return [*self._links.control(item.node, item.control, now)]

    def _refuse_cfp(self, item: _From[Cfp], now: float) -> list[Output]:
        """Contention-free periods are not given: the codes of the request are not established."""
        cfp = item.control
        if not cfp.negative:
            no = Cfp(True, cfp.direction, cfp.seq, cfp.lcid, cfp.length, cfp.position, cfp.type, cfp.lnid)
            self._downlink.control(item.node, ControlType.CFP, no.encode(), now)
        return []

    def _robust(self, item: _From[Prm], now: float) -> list[Output]:
        prm, node = item.control, item.node
        if prm.response and node.sid == SID_BASE:
            self._robustness.answered(node.lnid)
            self.transmitter.taken(node.lnid, prm.signs, now)
        elif node.sid == SID_BASE:
            known = self.transmitter.links.told(node.lnid, prm.snr, now)
            self._downlink.control(node, ControlType.PRM, Prm(True, not known, prm.snr).encode(), now)
        return []

    def _membership(self, item: _From[Mul], now: float) -> list[Output]:
        mul, node = item.control, item.node
        if mul.negative:
            group = self.groups.leave(mul.lcid, node.eui48)
            self._downlink.control(node, ControlType.MUL, Mul(True, mul.lcid, mul.type).encode(), now)
            return [] if group is None else [GroupChanged(node.eui48, False, group.lcid, group.type, group.data)]
        group = self.groups.join(mul.type, mul.data, node.eui48)
        if group is None:
            self._downlink.control(node, ControlType.MUL, Mul(True, mul.lcid, mul.type).encode(), now)
            return []
        answer = Mul(False, group.lcid, group.type, group.data)
        self._downlink.control(node, ControlType.MUL, answer.encode(), now)
        return [GroupChanged(node.eui48, True, group.lcid, group.type, group.data)]

    # ---- what the owner wants ----------------------------------------------------------------------------------------

    def _manage(self, item: Manage, now: float) -> list[Output]:
        node = self.nodes.get(item.eui48)
        if item.action is Action.PING and node is None:
            return [Pinged(item.eui48, None)]
        if node is None:
            return [Happened(f"cannot {item.action.value}", f"{format_eui48(item.eui48)} is not registered")]
        if item.action is Action.PROMOTE:
            return [*self._switches.promote(node, now)] if node.lsid is None else []
        if item.action is Action.DEMOTE:
            return [*self._switches.demote(node, "as told", now)]
        if item.action is Action.PING:
            self._admission.ping(node, now)
        else:
            self._admission.send_away(node, now)
        return []

    def _broadcast(self, item: SendBroadcast, now: float) -> list[Output]:
        sdu = Lpdu(item.dsap, item.ssap, item.data).encode()
        if len(sdu) > self.settings.broadcast_bytes_max:
            return [Happened("broadcast refused", f"{len(sdu)} bytes, at most {self.settings.broadcast_bytes_max}")]
        if item.group is not None and self.groups.get(item.group) is None:
            return [Happened("broadcast refused", f"no group {item.group}")]
        lcid = BROADCAST_LCID_4_32 if item.group is None else item.group
        lnid = LNID_BROADCAST if item.group is None else LNID_MULTICAST
        payload = SarHeader(SarType.FIRST, 0).encode() + sdu
        self._downlink.everybody(Packet(False, PRIORITY_DATA, False, lcid, SID_BASE, lnid, payload), now)
        return []

    def _send_data(self, item: SendData, _now: float) -> list[Output]:
        return [*self._links.send(item)]

    # ---- towards the modem -------------------------------------------------------------------------------------------

    def _confirmed(self, item: TransmitConfirmed, now: float) -> list[Output] | None:
        if item.buffer == BUFFER_BEACON:
            return None
        if self.transmitter.confirmed(item, now) is Given.FAILED:
            return [Happened("frame given up", item.result.name)]
        return []

    def _transmit(self, now: float) -> list[Output]:
        outputs: list[Output] = [*self._links.feed(now)]
        frames = self.transmitter.wake(now)
        if frames:
            outputs += frames
            outputs += self._links.feed(now)
        self._refresh_wake()
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
REG is not: it comes from nodes that are none yet. Each key's type is that of its action's argument."""
