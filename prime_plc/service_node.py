"""A PRIME service node up to the terminal role, with its 4-32 connection to the base.

It searches beacons, registers, opens the connection, follows the beacons of its switch, answers keep-alives, and
starts over when the network is lost. Promotion to switch is not offered (CAP_SW is not set).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prime_plc.channel import PRIORITY_CONTROL, ChannelAccess, FrameClock, Given
from prime_plc.connection import Connection
from prime_plc.control import TIME_S, Alv, Capabilities, Con, ConnectionType, ControlType, Reg, decode_control
from prime_plc.lpdu import AddressPair, Lpdu
from prime_plc.modem_host import FrameReceived, ModemLost, ModemReady, ModemSettings, TransmitConfirmed, TransmitFrame
from prime_plc.modem_messages import BUFFER_DATA
from prime_plc.pdu import (
    HT_GENERIC,
    LNID_BROADCAST,
    SID_NONE,
    SNA_ANY,
    Beacon,
    GenericPdu,
    Packet,
    PromotionNeeded,
    decode_pdu,
    is_downlink,
)
from prime_plc.sap import DataConfirmed, DataReceived, DataResult, Happened, LinkDown, LinkUp, SendData
from prime_plc.settings import FRAME_S, MacSettings
from shared.errors import DecodeError
from shared.ids import Eui48, format_eui48

LCID_FIRST: Final = 256
"""Connections opened by nodes use 256 to 511."""

CAPABILITIES: Final = Capabilities.ARQ

Input = ModemReady | ModemLost | FrameReceived | TransmitConfirmed | SendData
Output = TransmitFrame | LinkUp | LinkDown | DataReceived | DataConfirmed | Happened


class State(Enum):
    """Disconnected (the first three) or terminal, with or without its 4-32 connection."""

    OFF = "no modem"
    SEARCHING = "searching"
    REGISTERING = "registering"
    OPENING = "opening"
    OPEN = "open"


@dataclass(slots=True)
class _Candidate:
    """A switch or base heard while searching."""

    beacon: Beacon
    snr_db: float
    start_s: float
    heard: int


class ServiceNode:
    """Machine of one service node."""

    def __init__(
        self, settings: MacSettings, modem: ModemSettings, eui48: Eui48, identifier: bytes, draw: random.Random
    ) -> None:
        assert 1 <= len(identifier) <= 16, identifier
        self._settings = settings
        self._eui48 = eui48
        self._identifier = identifier
        self._draw = draw
        self._clock = FrameClock(settings)
        self._channel = ChannelAccess(settings, modem, self._clock, draw)
        self.state = State.OFF
        self.undecodable = 0
        self._forget_network()

    def _forget_network(self) -> None:
        self._candidates: dict[tuple[bytes, int], _Candidate] = {}
        self._search_until = 0.0
        self._promotion_at: float | None = None
        self._sna = b""
        self._sid = SID_NONE
        self._level = 0
        self._lnid = LNID_BROADCAST
        self._beacon_period_s = FRAME_S
        self._beacon_by = 0.0
        self._alive_by: float | None = None
        self._alive_s = float(TIME_S[self._settings.keep_alive_code])
        self._received_alive = 0
        self._sent_alive = 0
        self._retry_at: float | None = None
        self._tries = 0
        self._lcid = LCID_FIRST
        self._connection: Connection | None = None
        self._channel.clear()

    # ---- the machine -------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float | None:
        deadlines = [self._channel.wake_at, self._retry_at]
        if self.state is State.SEARCHING:
            deadlines += [self._search_until, self._promotion_at]
        elif self.state is not State.OFF:
            deadlines += [self._beacon_by, self._alive_by]
        if self._connection is not None:
            deadlines.append(self._connection.wake_at)
        return min((at for at in deadlines if at is not None), default=None)

    def handle(self, item: Input, now: float) -> list[Output]:
        action = _TABLE.get((self.state, type(item)))
        if action is None:
            return _refused(item)
        return action(self, item, now) + self._transmit(now)

    def wake(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self.state is State.SEARCHING:
            outputs += self._wake_searching(now)
        elif self.state is not State.OFF:
            if now >= self._beacon_by:
                outputs += self._disconnect("no beacon for too long", now)
            elif self._alive_by is not None and now >= self._alive_by:
                outputs += self._disconnect("no keep-alive from the base", now)
        if self._retry_at is not None and now >= self._retry_at:
            outputs += self._retry(now)
        return outputs + self._transmit(now)

    @property
    def sna(self) -> bytes:
        """Subnetwork joined or being joined; empty while searching."""
        return self._sna

    def summary(self) -> dict[str, object]:
        """State for people."""
        return {"state": self.state.value, "sid": self._sid, "lnid": self._lnid, "level": self._level}

    # ---- searching ---------------------------------------------------------------------------------------------------

    def _ready(self, _item: Input, now: float) -> list[Output]:
        self._search(now)
        return []

    def _search(self, now: float) -> None:
        self._forget_network()
        self.state = State.SEARCHING
        self._search_until = now + self._settings.search_s

    def _lost_modem(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, ModemLost)
        outputs = self._close_link(item.reason)
        self._forget_network()
        self.state = State.OFF
        return outputs

    def _hear_searching(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, FrameReceived)
        beacon = self._decode(item, None)
        if not isinstance(beacon, Beacon):
            return []
        key = (beacon.sna, beacon.sid)
        seen = self._candidates.get(key)
        heard = 1 if seen is None else seen.heard + 1
        start_s = item.start_s if seen is None or item.precise else seen.start_s
        self._candidates[key] = _Candidate(beacon, item.snr_db, start_s, heard)
        from_base = beacon.sid == 0 and beacon.quality == 7
        if from_base and heard >= self._settings.search_base_beacons:
            return self._join(self._candidates[key], now)
        return []

    def _wake_searching(self, now: float) -> list[Output]:
        if self._candidates:
            self._promotion_at = None
            if now >= self._search_until:
                best = min(self._candidates.values(), key=_cost)
                return self._join(best, now)
            return []
        if now >= self._search_until:
            self._search_until = now + self._settings.search_s
            self._promotion_at = now
        if self._promotion_at is None or now < self._promotion_at:
            return []
        # Nobody is heard, so there is no frame to keep to: at random instants, a few in each period.
        spread_s = self._settings.promotion_period_s / self._settings.promotions_max
        self._promotion_at = now + spread_s * self._draw.uniform(0.5, 1.5)
        pdu = PromotionNeeded(SNA_ANY, self._eui48).encode()
        return [TransmitFrame(pdu, self._settings.scheme, None, BUFFER_DATA, exclusive=False)]

    def _join(self, chosen: _Candidate, now: float) -> list[Output]:
        beacon = chosen.beacon
        self._forget_network()
        self._sna, self._sid, self._level = beacon.sna, beacon.sid, beacon.level
        self._follow(beacon, chosen.start_s, now)
        self.state = State.REGISTERING
        self._tries = 0
        self._retry_at = now + self._draw.uniform(0.0, self._settings.register_spread_s)
        return [Happened("registering", f"with {format_eui48(beacon.sna)} through switch {beacon.sid}")]

    def _follow(self, beacon: Beacon, start_s: float | None, now: float) -> None:
        if start_s is not None:
            self._clock.beacon(start_s, beacon.position, beacon.count, beacon.cfp)
        self._beacon_period_s = FRAME_S * 2**beacon.frequency
        self._beacon_by = now + (self._settings.missed_beacons_max + 0.5) * self._beacon_period_s

    # ---- in the network ----------------------------------------------------------------------------------------------

    def _hear(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, FrameReceived)
        if item.pdu[0] >> 4 == HT_GENERIC and not is_downlink(item.pdu):
            return []  # other nodes talking to the base: most of what is heard
        pdu = self._decode(item, self._sna)
        if isinstance(pdu, Beacon):
            if (pdu.sna, pdu.sid) == (self._sna, self._sid):
                self._follow(pdu, item.start_s if item.precise else None, now)
            return []
        outputs: list[Output] = []
        if isinstance(pdu, GenericPdu) and pdu.downlink and pdu.level == self._level:
            for packet in pdu.packets:
                if packet.sid == self._sid:
                    outputs += self._packet(packet, now)
        return outputs

    def _decode(self, frame: FrameReceived, sna: bytes | None) -> object:
        try:
            return decode_pdu(frame.pdu, sna)
        except DecodeError:
            self.undecodable += 1
            return None

    def _packet(self, packet: Packet, now: float) -> list[Output]:
        mine = packet.lnid == self._lnid
        if not packet.control:
            return self._data(packet, now) if mine else []
        if not mine and packet.lcid != ControlType.REG:
            return []
        try:
            control = decode_control(packet.lcid, packet.payload)
        except DecodeError:
            self.undecodable += 1
            return []
        match control:
            case Reg():
                return self._registration(control, packet.lnid, now)
            case Con():
                return self._connecting(control, now)
            case Alv():
                return self._alive(control, now)
        return []

    def _registration(self, reg: Reg, lnid: int, now: float) -> list[Output]:
        if reg.eui48 != self._eui48 and not (reg.negative and lnid == self._lnid != LNID_BROADCAST):
            return []
        if not reg.negative:
            return self._registered(reg, lnid, now)
        if self.state is State.REGISTERING:
            self._search(now)
            return [Happened("registration rejected", format_eui48(self._sna or bytes(6)))]
        # Unregistered by the base, or told that it does not know us: answer, and register again.
        self._send_control(ControlType.REG, self._reg(negative=True).encode(), now)
        return self._disconnect("unregistered by the base", now)

    def _registered(self, reg: Reg, lnid: int, now: float) -> list[Output]:
        fresh = self.state is State.REGISTERING
        if not fresh and lnid != self._lnid:
            return []
        self._lnid = lnid
        self._send_control(ControlType.REG, self._reg(negative=False).encode(), now)
        if not fresh:
            return []
        self._alive_s = float(TIME_S[reg.time])
        self._alive_by = now + self._alive_s
        self.state = State.OPENING
        self._tries = 0
        self._retry_at = now
        return [Happened("registered", f"node {lnid:#06x}, keep-alive {self._alive_s:g} s"), *self._retry(now)]

    def _alive(self, alv: Alv, now: float) -> list[Output]:
        self._alive_by = now + self._alive_s
        self._received_alive = (self._received_alive + 1) % 8
        answer = Alv(self._received_alive, self._sent_alive, alv.time, SID_NONE)
        self._sent_alive = (self._sent_alive + 1) % 8
        self._send_control(ControlType.ALV, answer.encode(), now)
        return []

    def _disconnect(self, reason: str, now: float) -> list[Output]:
        outputs = self._close_link(reason)
        self._search(now)
        return [*outputs, Happened("disconnected", reason)]

    def _retry(self, now: float) -> list[Output]:
        """Repeat the control packet that waits for its answer, or give up."""
        self._retry_at = None
        if self.state is State.REGISTERING:
            if self._tries > self._settings.control_repeats_max:
                return self._disconnect("no answer to the registration", now)
            self._send_control(ControlType.REG, self._reg(negative=False).encode(), now, lnid=LNID_BROADCAST)
        elif self.state is State.OPENING:
            if self._tries > self._settings.control_repeats_max:
                return self._disconnect("no answer to the connection request", now)
            con = Con(False, True, self._lcid, ConnectionType.LLC_4_32, self._identifier)
            self._send_control(ControlType.CON, con.encode(), now)
        else:
            return []
        self._tries += 1
        self._retry_at = now + self._settings.control_repeat_s
        return []

    def _reg(self, *, negative: bool) -> Reg:
        return Reg(negative, False, 0, CAPABILITIES, self._settings.keep_alive_code, self._eui48)

    # ---- the 4-32 connection -----------------------------------------------------------------------------------------

    def _connecting(self, con: Con, now: float) -> list[Output]:
        if con.lcid != self._lcid or con.type != ConnectionType.LLC_4_32:
            return []
        if con.negative:
            return self._closed_by_base(now)
        if self.state is not State.OPENING:
            return []
        try:
            address = AddressPair.decode(con.data)
        except DecodeError:
            self.undecodable += 1
            return []
        self.state = State.OPEN
        self._retry_at = None
        self._connection = Connection(self._settings)
        return [LinkUp(Eui48(self._sna), self._identifier, address.node)]

    def _closed_by_base(self, now: float) -> list[Output]:
        if self.state is State.OPEN:
            close = Con(True, False, self._lcid, ConnectionType.LLC_4_32)
            self._send_control(ControlType.CON, close.encode(), now)
            return self._reopen("closed by the base", now)
        self._tries = 0
        wait_s = self._draw.uniform(self._settings.reopen_s_min, self._settings.reopen_s_max)
        self._retry_at = now + wait_s
        return [Happened("connection rejected", f"asking again in {wait_s:.0f} s")]

    def _reopen(self, reason: str, now: float) -> list[Output]:
        """The connection is gone, the registration is not: open another one."""
        outputs = self._close_link(reason)
        self.state = State.OPENING
        self._lcid = LCID_FIRST + (self._lcid - LCID_FIRST + 1) % 256
        self._tries = 0
        self._retry_at = now + self._draw.uniform(0.0, self._settings.register_spread_s)
        return outputs

    def _close_link(self, reason: str) -> list[Output]:
        if self._connection is None:
            return []
        base = Eui48(self._sna)
        lost = [DataConfirmed(token, base, DataResult.LOST) for token in self._connection.pending_tokens]
        self._connection = None
        return [*lost, LinkDown(base, reason)]

    def _data(self, packet: Packet, now: float) -> list[Output]:
        if self._connection is None or packet.lcid != self._lcid:
            return []
        base = Eui48(self._sna)
        try:
            sdus, tokens = self._connection.receive(packet.payload, now)
        except DecodeError:
            self.undecodable += 1
            return []
        outputs: list[Output] = [DataConfirmed(token, base, DataResult.ACKNOWLEDGED) for token in tokens]
        return outputs + _deliver(sdus, base)

    def _send_data(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, SendData)
        assert self._connection is not None
        if not self._connection.send(Lpdu(item.dsap, item.ssap, item.data).encode(), item.token):
            return [DataConfirmed(item.token, item.peer, DataResult.QUEUE_FULL)]
        return []

    # ---- towards the modem -------------------------------------------------------------------------------------------

    def _confirmed(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, TransmitConfirmed)
        if item.buffer == BUFFER_DATA and self._channel.confirmed(item.result, now) is Given.FAILED:
            return [Happened("frame given up", item.result.name)]
        return []

    def _send_control(self, ctype: ControlType, payload: bytes, now: float, lnid: int | None = None) -> None:
        packet = Packet(True, PRIORITY_CONTROL, True, ctype, self._sid, self._lnid if lnid is None else lnid, payload)
        self._send_packet(packet, now)

    def _send_packet(self, packet: Packet, now: float) -> None:
        pdu = GenericPdu(downlink=False, level=self._level, packets=(packet,))
        self._channel.put(pdu.encode(self._sna), packet.priority, now)

    def _transmit(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        connection = self._connection
        if connection is not None:
            for payload in connection.packets(now):
                self._send_packet(Packet(True, 2, False, self._lcid, self._sid, self._lnid, payload), now)
            if connection.failed:
                close = Con(True, False, self._lcid, ConnectionType.LLC_4_32)
                self._send_control(ControlType.CON, close.encode(), now)
                outputs += self._reopen("no acknowledgement", now)
        frame = self._channel.wake(now)
        return outputs if frame is None else [*outputs, frame]


def _cost(candidate: _Candidate) -> tuple[int, int, float]:
    """Best switch: lowest path cost, then quality, then signal (the specification's criterion is not established)."""
    beacon = candidate.beacon
    return beacon.up_cost + beacon.down_cost, -beacon.quality, -candidate.snr_db


def _deliver(sdus: list[bytes], peer: Eui48) -> list[Output]:
    outputs: list[Output] = []
    for sdu in sdus:
        try:
            lpdu = Lpdu.decode(sdu)
        except DecodeError:
            continue
        outputs.append(DataReceived(peer, lpdu.dsap, lpdu.ssap, lpdu.data))
    return outputs


def _refused(item: Input) -> list[Output]:
    if isinstance(item, SendData):
        return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
    return []


_Action = Callable[[ServiceNode, Input, float], list[Output]]

_JOINED: Final = (State.REGISTERING, State.OPENING, State.OPEN)

_TABLE: Final[dict[tuple[State, type], _Action]] = {
    (State.OFF, ModemReady): ServiceNode._ready,
    (State.SEARCHING, ModemLost): ServiceNode._lost_modem,
    (State.SEARCHING, FrameReceived): ServiceNode._hear_searching,
    (State.OPEN, SendData): ServiceNode._send_data,
    **{(state, ModemLost): ServiceNode._lost_modem for state in _JOINED},
    **{(state, FrameReceived): ServiceNode._hear for state in _JOINED},
    **{(state, TransmitConfirmed): ServiceNode._confirmed for state in _JOINED},
}
"""Every input by state; what is not here is refused (data) or ignored."""
