"""A PRIME service node: disconnected, terminal or switch, with its 4-32 connection to the base.

It searches beacons, registers, follows the beacons of its switch, answers keep-alives, becomes a switch when the base
promotes it, passes packets on then, and starts over when the network is lost. What each state does with each input and
each PDU stands in one table at the end.

Most of what is heard concerns somebody else. It is recognised by a few bytes at fixed places and dropped before
anything is decoded.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from prime_plc.calls import CallsHeard
from prime_plc.channel import PRIORITY_CONTROL, PRIORITY_DATA, Given, Keep
from prime_plc.control import (
    TIME_S,
    Alv,
    Bsi,
    Capabilities,
    Con,
    Control,
    ControlType,
    Fra,
    Mul,
    Prm,
    Pro,
    PromotionRequest,
    Reg,
    decode_control,
)
from prime_plc.links import PARENT
from prime_plc.llc import LlcLink, deliver
from prime_plc.modem_host import (
    FollowBeacons,
    FrameReceived,
    ModemLost,
    ModemReady,
    ModemSettings,
    TransmitConfirmed,
    TransmitFrame,
)
from prime_plc.modem_messages import BUFFER_BEACON
from prime_plc.pdu import (
    GENERIC_BYTES_MIN,
    HT_BEACON,
    HT_GENERIC,
    HT_PROMOTION,
    LNID_BROADCAST,
    LNID_MULTICAST,
    SID_NONE,
    SNA_ANY,
    Beacon,
    GenericPdu,
    Packet,
    Pdu,
    PromotionNeeded,
    decode_pdu,
    glance,
)
from prime_plc.phy import PhyMode
from prime_plc.robustness import RobustnessWatch
from prime_plc.sap import (
    ChangeGroup,
    DataConfirmed,
    DataResult,
    GroupChanged,
    Happened,
    MacInput,
    MacOutput,
    SendData,
    Want,
    Wish,
)
from prime_plc.search import BeaconsHeard, Heard
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.subheader import SarHeader, SarType
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from shared.errors import DecodeError
from shared.ids import Eui48, format_eui48

CAPABILITIES: Final = (
    Capabilities.SWITCH | Capabilities.AGGREGATION | Capabilities.MULTICAST | Capabilities.ROBUSTNESS | Capabilities.ARQ
)

SWITCH_CAPABILITIES: Final = 0b0111
"""In a promotion request: multicast, robustness, ARQ (captured); no direct connections."""

LCID_GROUP_UNKNOWN: Final = 0
"""In a request to join a group, whose number the base gives (not established)."""

BROADCAST_LCIDS: Final = frozenset((1, 2))
"""Reserved: IPv4 and 4-32 broadcast."""

BROADCAST_LCID_4_32: Final = 2
ECHO_S: Final = 5.0
"""[s] The same broadcast within this time is a repetition."""

DEAF_INDEX_MAX: Final = 2
"""SNR index at which the switch above says that it hears us, up to which another one is looked for; 2 is below 6 dB."""

LEVEL_MAX: Final = 63
OWN_TREE_AVOID_S: Final = 120.0
"""[s] Switches below us go on beaconing for a while after we have lost the network; they lead nowhere."""

Input = ModemReady | ModemLost | FrameReceived | TransmitConfirmed | MacInput
Output = TransmitFrame | FollowBeacons | MacOutput


class State(Enum):
    """Disconnected is the first four; the names of the last two are the specification's."""

    __hash__ = object.__hash__  # that of enumerations is Python, and tables are looked into at every frame

    OFF = "no modem"
    LEFT = "left"
    SEARCHING = "searching"
    REGISTERING = "registering"
    TERMINAL = "terminal"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class _Came:
    """A control packet with where it came from."""

    control: Control
    packet: Packet


@dataclass(frozen=True, slots=True)
class _Call:
    """Somebody calls for a switch."""

    pna: bytes
    snr_db: float


class ServiceNode:
    """Machine of one service node."""

    def __init__(
        self, settings: MacSettings, modem: ModemSettings, eui48: Eui48, identifier: bytes, draw: random.Random
    ) -> None:
        self.settings = settings
        self.eui48 = eui48
        self._draw = draw
        self.transmitter = Transmitter(settings, modem, draw)
        self.switching = Switching(settings, self.transmitter)
        self.beacons = BeaconsHeard(settings, self.transmitter.links)
        self.llc = LlcLink(settings, identifier, draw, self._send_con)
        self._calls = CallsHeard(settings, draw)
        self._robustness = RobustnessWatch(settings, self.transmitter.links)
        self.state = State.OFF
        self.undecodable = 0
        self.other_version = 0
        self.received = {"data": 0, "control": 0}
        self.sent = {"data": 0, "control": 0}
        self.wake_at: float | None = None
        self._searched = False
        self._forget_network()

    def _forget_network(self) -> None:
        self._search_until = 0.0
        self._decide_at: float | None = None
        self._weak_until = 0.0
        self._call_at: float | None = None
        self._call_period_s = self.settings.promotion_period_s
        self.sna = b""
        self.sid = SID_NONE
        self.level = 0
        self.lnid = LNID_BROADCAST
        self.parent: Beacon | None = None
        self._beacon_by = 0.0
        self._silence_s = 0.0
        self._alive_by: float | None = None
        self._alive_s = float(TIME_S[self.settings.keep_alive_code])
        self._received_alive = 0
        self._sent_alive = 0
        self._retry_at: float | None = None
        self._tries = 0
        self._leaving = False
        self._groups: dict[int, tuple[int, bytes]] = {}
        self._group_wishes: dict[tuple[int, bytes], bool] = {}
        self._echoes: dict[bytes, float] = {}
        self.switching.end()
        self._calls.clear()
        self._robustness.clear()
        self.transmitter.clear()
        self.transmitter.channel.sna = b""

    # ---- the machine -------------------------------------------------------------------------------------------------

    def handle(self, item: Input, now: float) -> list[Output]:
        action = _TABLE.get((self.state, type(item)))
        if action is None:
            return _refused(item)
        outputs = action(self, item, now)
        if outputs is None:  # nothing of ours
            return []
        return outputs + self._transmit(now)

    def wake(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self.state is State.SEARCHING:
            outputs += self._wake_searching(now)
        elif self.state not in {State.OFF, State.LEFT}:
            outputs += self._wake_joined(now)
        if self._retry_at is not None and now >= self._retry_at:
            outputs += self._retry(now)
        return outputs + self._transmit(now)

    def summary(self) -> dict[str, object]:
        """State for people."""
        channel, custody = self.transmitter.channel, self.transmitter.custody
        return {
            "state": self.state.value,
            "connection": self.llc.state.value,
            "sid": self.sid,
            "lnid": self.lnid,
            "level": self.level,
            "lsid": self.switching.lsid,
            "scheme": self.transmitter.links.scheme(PARENT).name,
            "relayed": self.transmitter.relayed,
            "dropped": channel.dropped,
            "hop_repeats": custody.repeated,
        }

    def links(self) -> dict[int, dict[str, object]]:
        """Neighbours for people: `PARENT` and the children by their LNID."""
        links = self.transmitter.links
        return {key: seen for key, _ in links.items() if (seen := links.summary(key)) is not None}

    def _refresh_wake(self) -> None:
        at = self.transmitter.wake_at
        times = [self._retry_at]
        if self.state is State.SEARCHING:
            times += [self._search_until if not self._searched else self._weak_until, self._decide_at, self._call_at]
        elif self.state not in {State.OFF, State.LEFT}:
            times += [self._beacon_by, self._alive_by, self._calls.ask_at, self.switching.wake_at, self.llc.retry_at]
            if self.transmitter.room:
                times.append(self.llc.data_at)
        for time in times:
            if time is not None and (at is None or time < at):
                at = time
        self.wake_at = at

    # ---- searching ---------------------------------------------------------------------------------------------------

    def _ready(self, _item: Input, now: float) -> list[Output]:
        self.beacons.clear()
        self._searched = False
        return self._search(now)

    def _search(self, now: float) -> list[Output]:
        """Look for a switch: one that is known already, or listen."""
        self._forget_network()
        self.state = State.SEARCHING
        if self._searched:
            known = self.beacons.best(now, self.settings.join_snr_db)
            if known is not None:
                return self._join(known, now)
        self._search_until = now + self.settings.search_s
        self._weak_until = now + self.settings.weak_search_s
        self._call_at = now + self._draw.uniform(0.0, self._call_period_s) if self._searched else None
        return [FollowBeacons(b"", 0)]

    def _lost_modem(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, ModemLost)
        outputs = self.llc.close(item.reason)
        self._forget_network()
        self.state = State.OFF
        return [*outputs]

    def _hear_searching(self, item: Input, now: float) -> list[Output] | None:
        assert isinstance(item, FrameReceived)
        if item.mode is not PhyMode.TYPE_A:
            self.other_version += 1
            return None
        if not item.pdu or item.pdu[0] >> 4 != HT_BEACON:
            return None
        heard = self.beacons.hear(item, now)
        if heard is None:
            self.undecodable += 1
            return None
        good = heard.snr_db >= self.settings.join_snr_db and heard.avoid_until_s <= now
        from_base = item.pdu[1] == 0 and item.pdu[0] & 7 == 7
        if good and from_base and heard.count >= self.settings.search_base_beacons:
            return self._join(heard, now)
        if good and self._searched and self._decide_at is None:
            self._decide_at = now + self.settings.search_more_s * self._draw.uniform(0.7, 1.3)
        return []

    def _wake_searching(self, now: float) -> list[Output]:
        if self._decide_at is not None and now >= self._decide_at:
            self._decide_at = None
            best = self.beacons.best(now, self.settings.join_snr_db)
            if best is not None:
                return self._join(best, now)
        if not self._searched and now >= self._search_until:
            self._searched = True
            best = self.beacons.best(now, self.settings.join_snr_db)
            if best is not None:
                return self._join(best, now)
            self._call_at = now + self._draw.uniform(0.0, self._call_period_s)
        if now >= self._weak_until:
            self._weak_until = now + self.settings.weak_search_s
            best = self.beacons.best(now, float("-inf"))
            if best is not None:
                return self._join(best, now)
        if self._call_at is not None and now >= self._call_at:
            self._call(now)
        return []

    def _call(self, now: float) -> None:
        """Nobody usable is heard: call for a switch, at random instants, less often while nobody answers."""
        period_s = self._call_period_s
        spread_s = period_s / self.settings.promotions_max
        self._call_at = now + spread_s * self._draw.uniform(0.5, 1.5)
        limit_s = self.settings.promotion_period_s * self.settings.promotion_backoff_max
        self._call_period_s = min(limit_s, period_s * 1.15)
        self.transmitter.call(PromotionNeeded(SNA_ANY, self.eui48).encode(), now)

    def _join(self, chosen: Heard, now: float) -> list[Output]:
        beacon = chosen.beacon
        spread_s = self.settings.late_spread_s if self._searched else self.settings.register_spread_s
        self._searched = True
        self._forget_network()
        self.sna, self.sid, self.level = beacon.sna, beacon.sid, beacon.level
        self.transmitter.channel.sna = beacon.sna
        self.transmitter.links.heard(PARENT, chosen.snr_db, now)
        self.transmitter.clock.beacon(chosen.start_s, beacon.position, beacon.count, beacon.cfp, beacon.seq)
        self._follow(beacon, now)
        self.state = State.REGISTERING
        self._tries = 0
        self._retry_at = now + self._draw.uniform(0.0, spread_s)
        said = Happened("registering", f"with {format_eui48(beacon.sna)} through switch {beacon.sid}")
        return [FollowBeacons(beacon.sna, beacon.sid), said]

    def _follow(self, beacon: Beacon, now: float) -> None:
        self.parent = beacon
        period_s = FRAME_S * 2**beacon.frequency
        silence_s = (self.settings.missed_beacons_max + 0.5) * period_s
        self._silence_s = max(self.settings.switch_silence_s_min, silence_s)
        self._parent_lives(now)

    def _parent_lives(self, now: float) -> None:
        patience = self.settings.switch_patience if self.switching.lsid is not None else 1.0
        self._beacon_by = now + self._silence_s * patience

    # ---- in the network: what is heard -------------------------------------------------------------------------------

    def _hear(self, item: Input, now: float) -> list[Output] | None:
        """One frame; None if it is nothing of ours."""
        assert isinstance(item, FrameReceived)
        if item.mode is not PhyMode.TYPE_A:
            self.other_version += 1
            return None
        data = item.pdu
        kind = data[0] >> 4 if data else -1
        if kind == HT_BEACON:
            return self._hear_beacon(item, now)
        if kind == HT_PROMOTION:
            return self._hear_call(item, now)
        if kind != HT_GENERIC or len(data) < GENERIC_BYTES_MIN:
            self.undecodable += 1
            return None
        downlink, level = bool(data[1] & 0x40), data[1] & 0x3F
        switch_level = self.level + 1 if self.switching.lsid is not None else -1
        if downlink and level == self.level:
            return self._from_above(item, now)
        if not downlink and level == switch_level:
            return self._from_below(item, now)
        if len(self.transmitter.custody) and level == (self.level + 2 if downlink else self.level - 1):
            return self._relayed_by_next(item, now)
        if len(self._calls) and glance(data).control == ControlType.PRO:
            self._others_promotion(item, now)
        return None

    def _hear_beacon(self, item: FrameReceived, now: float) -> list[Output] | None:
        heard = self.beacons.hear(item, now)
        if heard is None:
            self.undecodable += 1
            return None
        if heard.count == 1:
            self._calls.hush(now)  # a new switch: who called may be served now
        data = item.pdu
        if data[1] != self.sid or data[6:12] != self.sna:
            return None
        beacon = heard.beacon
        if beacon.level != self.level:
            return self._disconnect("the switch has moved", now)
        follow = self.transmitter.clock.beacon if item.precise else self.transmitter.clock.rough_beacon
        follow(item.start_s, beacon.position, beacon.count, beacon.cfp, beacon.seq)
        self.transmitter.links.heard(PARENT, item.snr_db, now)
        self._follow(beacon, now)
        self.switching.plan(now)
        return []

    def _hear_call(self, item: FrameReceived, now: float) -> list[Output] | None:
        pdu = self._decode(item.pdu)
        if not isinstance(pdu, PromotionNeeded) or pdu.sna not in {SNA_ANY, self.sna}:
            return None
        action = _TABLE.get((self.state, PromotionNeeded))
        return None if action is None else action(self, _Call(pdu.pna, item.snr_db), now)

    def _called(self, item: _Call, now: float) -> list[Output]:
        self._calls.hear(item.pna, item.snr_db, now)
        return []

    def _others_promotion(self, item: FrameReceived, now: float) -> None:
        pdu = self._decode(item.pdu)
        if isinstance(pdu, GenericPdu) and any(packet.lcid == ControlType.PRO for packet in pdu.packets):
            self._calls.hush(now)

    def _from_above(self, item: FrameReceived, now: float) -> list[Output] | None:
        seen = glance(item.pdu)
        mine = seen.sid == self.sid and seen.lnid == self.lnid
        answer = seen.sid == self.sid and self.state is State.REGISTERING
        ours = mine or answer or seen.lnid >= LNID_MULTICAST or self.switching.below(seen.sid)
        if seen.alone and not ours:
            return None
        pdu = self._decode(item.pdu)
        if not isinstance(pdu, GenericPdu):
            return None
        from_parent = any(packet.sid == self.sid or self.switching.below(packet.sid) for packet in pdu.packets)
        if from_parent:
            self.transmitter.links.heard(PARENT, item.snr_db, now)
            self._parent_lives(now)
        self.transmitter.answered(pdu, now)
        self.switching.down(pdu, now)
        outputs: list[Output] = []
        for packet in pdu.packets:
            if packet.sid == self.sid and packet.lnid == self.lnid != LNID_BROADCAST:
                self._fit(PARENT, item, now)
                outputs += self._packet(packet, now)
            elif packet.lnid >= LNID_MULTICAST or (packet.control and packet.lcid == ControlType.REG):
                outputs += self._packet_to_many(packet, now)
        return outputs

    def _from_below(self, item: FrameReceived, now: float) -> list[Output] | None:
        if not self.switching.below(glance(item.pdu).sid) and glance(item.pdu).alone:
            return None
        pdu = self._decode(item.pdu)
        if not isinstance(pdu, GenericPdu):
            return None
        child = self.switching.child(pdu)
        if child is not None:
            self.transmitter.links.heard(child, item.snr_db, now)
            self._fit(child, item, now)
        self.transmitter.answered(pdu, now)
        for packet in self.switching.up(pdu, now):
            self._told_by_child(packet, now)
        return []

    def _relayed_by_next(self, item: FrameReceived, now: float) -> list[Output] | None:
        pdu = self._decode(item.pdu)
        if isinstance(pdu, GenericPdu):
            self.transmitter.overheard(pdu, now)
        elif pdu is None:
            self.transmitter.overheard_damaged(item.pdu, now)
        return []

    def _decode(self, data: bytes) -> Pdu | None:
        try:
            return decode_pdu(data, self.sna)
        except DecodeError:
            self.undecodable += 1
            return None

    # ---- packets -----------------------------------------------------------------------------------------------------

    def _packet(self, packet: Packet, now: float) -> list[Output]:
        """A packet for us alone."""
        if self._alive_by is not None:
            self._alive_by = now + self._alive_s
        if packet.control:
            return self._control(packet, now)
        self.received["data"] += 1
        try:
            return [*self.llc.data(packet.lcid, packet.payload, now)]
        except DecodeError:
            self.undecodable += 1
            return []

    def _control(self, packet: Packet, now: float) -> list[Output]:
        self.received["control"] += 1
        try:
            control = decode_control(packet.lcid, packet.payload)
        except DecodeError:
            self.undecodable += 1
            return []
        action = _TABLE.get((self.state, type(control)))
        return [] if action is None else action(self, _Came(control, packet), now) or []

    def _packet_to_many(self, packet: Packet, now: float) -> list[Output]:
        """Something for everybody, for a group, or a registration answer whose node is named by its EUI-48."""
        if packet.control:
            own = packet.lcid == ControlType.REG and packet.payload[2:8] == self.eui48 and packet.sid == self.sid
            return self._control(packet, now) if own or packet.lcid == ControlType.FRA else []
        group = packet.lcid in self._groups if packet.lnid == LNID_MULTICAST else packet.lcid in BROADCAST_LCIDS
        if not group or self.state is State.REGISTERING:
            return []
        if now < self._echoes.get(packet.payload, 0.0):
            return []
        self._echoes = {body: until for body, until in self._echoes.items() if until > now}
        self._echoes[packet.payload] = now + ECHO_S
        self.received["data"] += 1
        try:
            sar = SarHeader.decode(packet.payload[:1])
        except DecodeError:
            self.undecodable += 1
            return []
        if sar != SarHeader(SarType.FIRST, 0):
            return []
        return [*deliver([packet.payload[1:]], Eui48(self.sna), broadcast=True)]

    # ---- registration ------------------------------------------------------------------------------------------------

    def _answered(self, item: _Came, now: float) -> list[Output]:
        reg, packet = item.control, item.packet
        assert isinstance(reg, Reg)
        if reg.eui48 != self.eui48:
            return []
        if reg.negative:
            self.beacons.avoid(self.sna, self.sid, now + self.settings.avoid_s)
            said = [Happened("registration rejected", format_eui48(self.sna))]
            return [*said, *self._search(now)]
        self.lnid = packet.lnid
        self.state = State.TERMINAL
        self._alive_s = float(TIME_S[reg.time])
        self._alive_by = now + self._alive_s
        self._retry_at = None
        self._send_control(ControlType.REG, self._reg(negative=False), now)
        self.llc.open(Eui48(self.sna), self.level + 1, now)
        return [Happened("registered", f"node {self.lnid:#06x}, keep-alive {self._alive_s:g} s")]

    def _registration(self, item: _Came, now: float) -> list[Output]:
        reg, packet = item.control, item.packet
        assert isinstance(reg, Reg)
        if not reg.negative:
            return self._registered_again(reg, packet.lnid, now)
        if packet.lnid != self.lnid:
            return []
        if self._leaving:
            return self._left(now)
        goodbye = Packet(True, PRIORITY_CONTROL, True, ControlType.REG, self.sid, self.lnid, self._reg(negative=True))
        pdu = GenericPdu(downlink=False, level=self.level, packets=(goodbye,)).encode(self.sna)
        outputs = self._disconnect("unregistered by the base", now)
        if reg.eui48 == self.eui48:  # a base that does not know us sends zeros and wants no answer
            self.transmitter.call(pdu, now)
        return outputs

    def _registered_again(self, reg: Reg, lnid: int, now: float) -> list[Output]:
        """Our acknowledgement was lost, or the base has made a new entry for us and means that from now on."""
        if reg.eui48 != self.eui48:
            return []
        outputs: list[Output] = []
        if lnid != self.lnid:
            outputs += self._stop_switching("registered anew")
            outputs += self.llc.close("registered anew")
            self.lnid = lnid
            self.llc.open(Eui48(self.sna), self.level + 1, now)
        self._send_control(ControlType.REG, self._reg(negative=False), now)
        return outputs

    def _disconnect(self, reason: str, now: float) -> list[Output]:
        outputs: list[Output] = [*self.llc.close(reason)]
        until_s = now + OWN_TREE_AVOID_S
        for sid in [self.switching.lsid, *self.switching.table.entries]:
            if sid is not None:
                self.beacons.avoid(self.sna, sid, until_s)
        said = Happened("disconnected", reason)
        return [*outputs, said, *self._search(now)]

    def _wake_joined(self, now: float) -> list[Output]:
        if now >= self._beacon_by:
            self.beacons.forget(self.sna, self.sid)
            return self._disconnect("no beacon for too long", now)
        if self._alive_by is not None and now >= self._alive_by:
            return self._disconnect("no keep-alive from the base", now)
        outputs: list[Output] = []
        asked = self._calls.due(now)
        if asked is not None:
            self._ask_promotion(*asked, now)
        at = self.switching.wake_at
        if at is not None and now >= at and self.parent is not None:
            outputs.append(self.switching.beacon(self.parent, now))
        more, hopeless = self.llc.wake(now)
        outputs += more
        if hopeless:
            outputs += self._disconnect("no answer to the connection request", now)
        return outputs

    def _retry(self, now: float) -> list[Output]:
        """Repeat what waits for its answer, or give up."""
        self._retry_at = None
        if self._leaving:
            return self._left(now) if self._tries > self.settings.control_repeats_max else self._ask_leave(now)
        if self.state is not State.REGISTERING:
            return []
        others = self.beacons.best(now, self.settings.join_snr_db, except_sid=self.sid)
        limit = self.settings.control_repeats_max if others is None else self.settings.elsewhere_repeats_max
        if self._tries > limit:
            self.beacons.avoid(self.sna, self.sid, now + self.settings.avoid_s)
            return self._disconnect("no answer to the registration", now)
        spread_s = self.settings.register_spread_s * 2 ** (self._tries + 1)
        self._tries += 1
        self._retry_at = (
            now + self.settings.control_repeat_s * self._draw.uniform(0.8, 1.0) + self._draw.uniform(0.0, spread_s)
        )
        self._send_control(ControlType.REG, self._reg(negative=False), now)
        return []

    def _reg(self, *, negative: bool) -> bytes:
        return Reg(negative, False, 0, CAPABILITIES, self.settings.keep_alive_code, self.eui48).encode()

    # ---- leaving -----------------------------------------------------------------------------------------------------

    def _want(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, Want)
        if item.wish is Wish.LEAVE:
            if self.state not in {State.TERMINAL, State.SWITCH}:
                return self._left(now)
            self._leaving = True
            self._tries = 0
            return self._ask_leave(now)
        if item.wish is Wish.STOP_SWITCHING and self.state is State.SWITCH:
            demote = Pro(True, 0, 0, self.switching.lsid or 0)
            self._send_control(ControlType.PRO, demote.encode(), now)
            return self._stop_switching("by itself")
        return []

    def _return(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, Want)
        return self._search(now) if item.wish is Wish.RETURN else []

    def _ask_leave(self, now: float) -> list[Output]:
        self._tries += 1
        self._retry_at = now + self.settings.control_repeat_s
        self._send_control(ControlType.REG, self._reg(negative=True), now)
        return []

    def _left(self, _now: float) -> list[Output]:
        outputs: list[Output] = [*self.llc.close("left the network")]
        self._forget_network()
        self.state = State.LEFT
        return [*outputs, Happened("left", "unregistered by itself")]

    # ---- keep-alive, frame structure, robustness, groups -------------------------------------------------------------

    def _alive(self, item: _Came, now: float) -> list[Output]:
        alv = item.control
        assert isinstance(alv, Alv)
        self._alive_s = float(TIME_S[alv.time])
        self._alive_by = now + self._alive_s
        self._received_alive = (self._received_alive + 1) % 8
        ssid = SID_NONE if self.state is not State.SWITCH else self.switching.lsid
        answer = Alv(self._received_alive, self._sent_alive, alv.time, SID_NONE if ssid is None else ssid)
        self._sent_alive = (self._sent_alive + 1) % 8
        self._send_control(ControlType.ALV, answer.encode(), now)
        return []

    def _frame_change(self, item: _Came, now: float) -> list[Output]:
        fra = item.control
        assert isinstance(fra, Fra)
        if fra.type == 0:
            self.transmitter.clock.announce(fra.seq, fra.beacons, None, now)
        elif fra.type == 1:
            self.transmitter.clock.announce(fra.seq, None, fra.cfp, now)
        return []

    def _robust(self, item: _Came, now: float) -> list[Output]:
        prm = item.control
        assert isinstance(prm, Prm)
        if not prm.response:
            known = self.transmitter.links.told(PARENT, prm.snr, now)
            self._send_control(ControlType.PRM, Prm(True, not known, prm.snr).encode(), now, keep=Keep.NO)
            if prm.snr <= DEAF_INDEX_MAX:
                return self._leave_deaf_switch(now)
        return []

    def _leave_deaf_switch(self, now: float) -> list[Output]:
        """The switch above hears us too badly: go to another one that is not below us, or call for one (ours)."""
        self.beacons.deaf(self.sna, self.sid, now + self.settings.robustness_hold_s)
        level_max = LEVEL_MAX if self.switching.lsid is None else self.level
        if self.beacons.other_ear(now, self.sid, level_max):
            return self._disconnect("the switch hardly hears us", now)
        self.transmitter.call(PromotionNeeded(self.sna, self.eui48).encode(), now)
        return []

    def _told_by_child(self, packet: Packet, now: float) -> None:
        try:
            prm = Prm.decode(packet.payload)
        except DecodeError:
            self.undecodable += 1
            return
        if not prm.response:
            known = self.transmitter.links.told(packet.lnid, prm.snr, now)
            self._tell_child(packet.lnid, Prm(True, not known, prm.snr), now)

    def _tell_child(self, lnid: int, prm: Prm, now: float) -> None:
        assert self.switching.lsid is not None
        lsid, level = self.switching.lsid, self.switching.level
        packet = Packet(False, PRIORITY_CONTROL, True, ControlType.PRM, lsid, lnid, prm.encode())
        self.transmitter.send([packet], lnid, now, downlink=True, level=level, keep=Keep.NO)

    def _fit(self, key: int, item: FrameReceived, now: float) -> None:
        """Tell a neighbour when its modulation does not fit; that of control packets says nothing."""
        if glance(item.pdu).control >= 0:
            return
        index = self._robustness.observe(key, item.scheme, item.snr_db, now)
        if index is None:
            return
        prm = Prm(False, False, index)
        if key == PARENT:
            self._send_control(ControlType.PRM, prm.encode(), now, keep=Keep.NO)
        else:
            self._tell_child(key, prm, now)

    def _change_group(self, item: Input, now: float) -> list[Output]:
        assert isinstance(item, ChangeGroup)
        lcid = next((lcid for lcid, name in self._groups.items() if name == (item.type, item.data)), LCID_GROUP_UNKNOWN)
        mul = Mul(not item.join, lcid, item.type, item.data if item.join else b"")
        self._send_control(ControlType.MUL, mul.encode(), now)
        return []

    def _group(self, item: _Came, _now: float) -> list[Output]:
        mul = item.control
        assert isinstance(mul, Mul)
        if not mul.negative and len(self._groups) < self.settings.groups_max:
            self._groups[mul.lcid] = (mul.type, mul.data)
            return [GroupChanged(Eui48(self.sna), True, mul.lcid, mul.type, mul.data)]
        name = self._groups.pop(mul.lcid, None)
        return [] if name is None else [GroupChanged(Eui48(self.sna), False, mul.lcid, *name)]

    # ---- promotion ---------------------------------------------------------------------------------------------------

    def _ask_promotion(self, pna: bytes, quality: int, now: float) -> None:
        if self.state is not State.TERMINAL or self.switching.lsid is not None or self.parent is None:
            return
        hop = self.transmitter.links.hop_cost(self._parent_snr_db)
        request = PromotionRequest(
            pna, min(255, self.parent.up_cost + hop), min(255, self.parent.down_cost + hop), SWITCH_CAPABILITIES
        )
        code = self.settings.keep_alive_code
        self._send_control(ControlType.PRO, Pro(False, quality, code, SID_NONE, request).encode(), now)

    @property
    def _parent_snr_db(self) -> float:
        link = self.transmitter.links.get(PARENT)
        return 0.0 if link is None else link.snr_db

    def _promotion(self, item: _Came, now: float) -> list[Output]:
        pro = item.control
        assert isinstance(pro, Pro)
        if pro.negative:
            return self._demotion(pro, now)
        if pro.nsid in {0, SID_NONE}:
            return []
        outputs: list[Output] = []
        if self.switching.lsid not in {None, pro.nsid}:
            outputs += self._stop_switching("another number")
        self.switching.lsid = pro.nsid
        self.switching.level = self.level + 1
        self._send_control(ControlType.PRO, Pro(False, pro.quality, pro.time, pro.nsid).encode(), now)
        return outputs

    def _demotion(self, pro: Pro, now: float) -> list[Output]:
        if pro.nsid == SID_NONE:
            self._calls.hush(now)  # rejected
            return []
        self._send_control(ControlType.PRO, Pro(True, 0, pro.time, pro.nsid).encode(), now)
        return self._stop_switching("by the base") if pro.nsid == self.switching.lsid else []

    def _slot(self, item: _Came, now: float) -> list[Output]:
        bsi = item.control
        assert isinstance(bsi, Bsi)
        if self.switching.lsid is None:
            return []
        fresh = self.state is not State.SWITCH
        self.switching.begin(bsi, self.level + 1, now)
        self.state = State.SWITCH
        self._calls.clear()
        self._send_control(ControlType.BSI, bsi.encode(), now)
        words = f"number {self.switching.lsid}, slot {bsi.slot} from frame {bsi.seq} every {2**bsi.frequency}"
        return [Happened("promoted to switch", words)] if fresh else []

    def _stop_switching(self, why: str) -> list[Output]:
        lsid = self.switching.lsid
        self.switching.end()
        if self.state is not State.SWITCH:
            return []
        self.state = State.TERMINAL
        return [Happened("switching ended", f"number {lsid}, {why}")]

    # ---- data and sending --------------------------------------------------------------------------------------------

    def _send_data(self, item: Input, _now: float) -> list[Output]:
        assert isinstance(item, SendData)
        return [*self.llc.send(item)]

    def _connecting(self, item: _Came, now: float) -> list[Output]:
        assert isinstance(item.control, Con)
        return [*self.llc.control(item.control, now)]

    def _confirmed(self, item: Input, now: float) -> list[Output] | None:
        assert isinstance(item, TransmitConfirmed)
        if item.buffer == BUFFER_BEACON:
            return None
        if self.transmitter.confirmed(item, now) is Given.FAILED:
            return [Happened("frame given up", item.result.name)]
        return []

    def _send_con(self, payload: bytes, now: float) -> None:
        self._send_control(ControlType.CON, payload, now)

    def _send_control(self, ctype: ControlType, payload: bytes, now: float, keep: Keep | None = None) -> None:
        self.sent["control"] += 1
        nad = not self.settings.uplink_aggregation
        self._send_up(Packet(nad, PRIORITY_CONTROL, True, ctype, self.sid, self.lnid, payload), now, keep)

    def _send_up(self, packet: Packet, now: float, keep: Keep | None = None) -> None:
        if keep is None:
            keep = Keep.NO if self.level == 0 else Keep.ONWARD
        self.transmitter.send([packet], PARENT, now, downlink=False, level=self.level, keep=keep)

    def _transmit(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        if self.llc.connection is not None:
            outputs += self._feed(now)
        outputs += self.transmitter.wake(now)
        self._refresh_wake()
        return outputs

    def _feed(self, now: float) -> list[Output]:
        """Hand data to the channel as long as it has room."""
        connection = self.llc.connection
        outputs: list[Output] = []
        while self.transmitter.room and connection is not None:
            before = connection.timeouts
            payloads, more = self.llc.packets(now, self.settings.data_ahead)
            outputs += more
            if connection.timeouts > before and self.level == 0:
                self.transmitter.links.lost(PARENT)
            for payload in payloads:
                self.sent["data"] += 1
                nad = not self.settings.uplink_aggregation
                self._send_up(Packet(nad, PRIORITY_DATA, False, self.llc.lcid, self.sid, self.lnid, payload), now)
            if not payloads:
                break
        return outputs


def _refused(item: Input) -> list[Output]:
    if isinstance(item, SendData):
        return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
    return []


_Action = Callable[..., list[Output] | None]
_JOINED: Final = (State.REGISTERING, State.TERMINAL, State.SWITCH)
_REGISTERED: Final = (State.TERMINAL, State.SWITCH)

_TABLE: Final[dict[tuple[State, type], _Action]] = {
    (State.OFF, ModemReady): ServiceNode._ready,
    (State.LEFT, Want): ServiceNode._return,
    (State.SEARCHING, FrameReceived): ServiceNode._hear_searching,
    **{(state, ModemLost): ServiceNode._lost_modem for state in (State.LEFT, State.SEARCHING, *_JOINED)},
    **{(state, Want): ServiceNode._want for state in (State.SEARCHING, *_JOINED)},
    **{(state, TransmitConfirmed): ServiceNode._confirmed for state in (State.SEARCHING, *_JOINED)},
    **{(state, FrameReceived): ServiceNode._hear for state in _JOINED},
    (State.REGISTERING, Reg): ServiceNode._answered,
    (State.TERMINAL, PromotionNeeded): ServiceNode._called,
    **{(state, SendData): ServiceNode._send_data for state in _REGISTERED},
    **{(state, ChangeGroup): ServiceNode._change_group for state in _REGISTERED},
    **{(state, Reg): ServiceNode._registration for state in _REGISTERED},
    **{(state, Con): ServiceNode._connecting for state in _REGISTERED},
    **{(state, Pro): ServiceNode._promotion for state in _REGISTERED},
    **{(state, Bsi): ServiceNode._slot for state in _REGISTERED},
    **{(state, Alv): ServiceNode._alive for state in _REGISTERED},
    **{(state, Mul): ServiceNode._group for state in _REGISTERED},
    **{(state, Prm): ServiceNode._robust for state in _REGISTERED},
    **{(state, Fra): ServiceNode._frame_change for state in _JOINED},
}
"""Every input by state, and every PDU and control packet that a frame can bring; what is not here is refused (data) or
ignored."""
