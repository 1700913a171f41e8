"""A PRIME service node: disconnected, terminal or switch, with its 4-32 connection to the base.

It searches beacons, registers, follows the beacons of its switch, answers keep-alives, becomes a switch when the base
promotes it, passes packets on then, and starts over when the network is lost. What each state does with each input and
each PDU stands in one table at the end. The state is held here; the parts do the work: `searching.py`, `place.py`,
`candidate.py`, `switching.py`, `neighbours.py`, `memberships.py`, `llc.py`, and `uplink.py` for everything that is said
upwards.

Most of what is heard concerns somebody else. It is recognised by a few bytes at fixed places and dropped before
anything is decoded.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic

from prime_plc.calls import CallsHeard
from prime_plc.candidate import Candidate
from prime_plc.channel import Given
from prime_plc.control import (
    Alv,
    Bsi,
    Con,
    ControlType,
    Fra,
    Mul,
    Prm,
    Pro,
    Reg,
    decode_control,
)
from prime_plc.ear import Ear, Whence
from prime_plc.enrolment import Enrolment
from prime_plc.leaving import LEVEL_MAX
from prime_plc.links import PARENT, index_snr_db
from prime_plc.llc import LlcLink, deliver
from prime_plc.memberships import Memberships, broadcast_sdus
from prime_plc.modem_host import FollowBeacons, FrameReceived, ModemLost, ModemReady, ModemSettings, TransmitConfirmed
from prime_plc.modem_messages import BUFFER_BEACON
from prime_plc.neighbours import Neighbours
from prime_plc.pdu import (
    GENERIC_BYTES_MIN,
    HT_BEACON,
    HT_GENERIC,
    HT_PROMOTION,
    LNID_BROADCAST,
    LNID_MULTICAST,
    SID_NONE,
    Beacon,
    Packet,
    PromotionNeeded,
    glance,
)
from prime_plc.phy import PhyMode
from prime_plc.place import SAME, Fate, Holdings, Place, Turn
from prime_plc.role import ControlT, Input, Output, refused
from prime_plc.sap import ChangeGroup, Happened, SendData, Want, Wish
from prime_plc.search import BeaconsHeard, Heard
from prime_plc.searching import Searching
from prime_plc.settings import MacSettings
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink
from shared.errors import DecodeError
from shared.ids import Eui48


class State(Enum):
    """Disconnected is the first four; the names of the last two are the specification's."""

    __hash__ = object.__hash__  # that of enumerations is Python, and tables are looked into at every frame

    OFF = "no modem"
    LEFT = "left"
    SEARCHING = "searching"
    REGISTERING = "registering"
    TERMINAL = "terminal"
    SWITCH = "switch"


# A name of the module costs a tenth of a look into the class, and these are asked for at every frame.
_TYPE_A: Final = PhyMode.TYPE_A
_SEARCHING: Final = State.SEARCHING
_REGISTERING: Final = State.REGISTERING
_ABOVE: Final = Whence.ABOVE
_BELOW: Final = Whence.BELOW
_ONWARD: Final = Whence.ONWARD
_ELSEWHERE: Final = Whence.ELSEWHERE


@dataclass(frozen=True, slots=True)
class _Came(Generic[ControlT]):
    """A control packet with where it came from."""

    control: ControlT
    packet: Packet


class ServiceNode:
    """Machine of one service node."""

    def __init__(
        self,
        settings: MacSettings,
        modem: ModemSettings,
        eui48: Eui48,
        identifier: bytes,
        draw: random.Random,
        base: Eui48 | None = None,
    ) -> None:
        self.settings = settings
        self.eui48 = eui48
        self.transmitter = Transmitter(settings, modem, draw)
        self._uplink = Uplink(settings, self.transmitter)
        self.switching = Switching(settings, self.transmitter)
        self.beacons = BeaconsHeard(settings, self.transmitter.links, settings.slot_symbols(stock=modem.stock))
        self._searching = Searching(settings, self.transmitter, self.beacons, eui48, draw, base)
        self._enrolment = Enrolment(settings, self._uplink, eui48, draw)
        self._calls = CallsHeard(settings, draw)
        self._ear = Ear(self.transmitter, self._uplink, self.switching, self.beacons, self._calls)
        self._candidate = Candidate(settings, self.transmitter, self._uplink, self.switching, self._calls)
        self._neighbours = Neighbours(settings, self.transmitter, self._uplink, self.switching)
        self._memberships = Memberships(settings)
        self.llc = LlcLink(settings, identifier, draw, self._send_con)
        holdings = Holdings(self.llc, self._memberships, self.switching)
        self._place = Place(settings, self.transmitter, self._uplink, self._enrolment, self.beacons, holdings)
        self.state = State.OFF
        self.received = {"data": 0, "control": 0}
        self.wake_at: float | None = None
        self._forget_network()

    def _forget_network(self) -> None:
        self._searching.end()
        self._place.end()
        self._calls.clear()
        self._neighbours.clear()
        self.transmitter.clear()
        self.transmitter.channel.sna = b""

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
        outputs: list[Output] = []
        if self.state is _SEARCHING:
            chosen = self._searching.wake(now)
            outputs += [] if chosen is None else self._join(chosen, now)
        elif self.state not in _RESTING:
            outputs += self._wake_joined(now)
        outputs += self._turn(self._place.retry(now), now)
        outputs += self._place.lapse(now)
        outputs += self._wake_switch(now)
        return outputs + self._transmit(now)

    def _wake_joined(self, now: float) -> list[Output]:
        turn = self._place.review(now)
        if turn is not None:
            return self._turn(turn, now)
        if self.state is State.REGISTERING:
            return []
        self._candidate.lapse(now)
        if self._calls.is_due(now):
            self._offer(now)
        outputs: list[Output] = []
        more, hopeless = self.llc.wake(now)
        outputs += more
        if hopeless:
            outputs += self._turn(self._place.over("no answer to the connection request", now), now)
        return outputs

    def _wake_switch(self, now: float) -> list[Output]:
        """Its beacons, which go on for a while when it has lost its place."""
        switching = self.switching
        until_s, beacon_at = switching.suspended_until_s, switching.wake_at
        if until_s is not None and now >= until_s:
            return self._stop_switching("lost its place")
        if beacon_at is None or now < beacon_at or self.state in _RESTING:
            return []
        if switching.serving:
            forgotten = [sid for sid in self.transmitter.custody.take_forgotten() if switching.below(sid)]
            if forgotten:
                self._enrolment.announce(forgotten, now)
        frame = switching.beacon(self.parent, now)
        return [] if frame is None else [frame]

    @property
    def sna(self) -> bytes:
        """Subnetwork; empty while there is none."""
        return self._uplink.sna

    @property
    def sid(self) -> int:
        """Number of the switch above."""
        return self._uplink.sid

    @property
    def lnid(self) -> int:
        """Our number there."""
        return self._uplink.lnid

    @property
    def level(self) -> int:
        """Level of the switch above."""
        return self._uplink.level

    @property
    def sent(self) -> dict[str, int]:
        """Packets by kind."""
        return self._uplink.sent

    @property
    def parent(self) -> Beacon | None:
        """The newest beacon of the switch above."""
        return self._place.following.parent

    @property
    def undecodable(self) -> int:
        """Frames and packets that made no sense."""
        return self._ear.undecodable

    @property
    def other_version(self) -> int:
        """Frames of the other version of PRIME."""
        return self._ear.other_version

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
            "hop_given_up": custody.given_up,
            "aggregated": channel.aggregated,
        }

    def links(self) -> dict[int, dict[str, object]]:
        """Neighbours for people: `PARENT` and the children by their LNID."""
        links = self.transmitter.links
        return {key: seen for key, _ in links.items() if (seen := links.summary(key)) is not None}

    def _refresh_wake(self) -> None:
        at = self.transmitter.wake_at
        switching, llc, state = self.switching, self.llc, self.state
        times = self._place.times()
        times += (switching.suspended_until_s, switching.wake_at)
        if state is _SEARCHING:
            times += self._searching.times()
        elif state in _REGISTERED:
            times += (self._calls.ask_at, self._candidate.wake_at, llc.retry_at)
            if llc.connection is not None and not llc.connection.idle and self.transmitter.room:
                times.append(llc.data_at)
        for time in times:
            if time is not None and (at is None or time < at):
                at = time
        self.wake_at = at

    # ---- without a network -------------------------------------------------------------------------------------------

    def _ready(self, _item: ModemReady, now: float) -> list[Output]:
        self.beacons.clear()
        self.switching.end()
        self._searching.listened = False
        return self._search(now)

    def _search(self, now: float) -> list[Output]:
        """Look for a switch: one that is known already, or listen."""
        self._forget_network()
        self.state = State.SEARCHING
        known = self._searching.begin(now)
        return [FollowBeacons(b"", 0)] if known is None else self._join(known, now)

    def _lost_modem(self, item: ModemLost, _now: float) -> list[Output]:
        outputs = self._place.unknown(item.reason)
        self.switching.end()
        self._forget_network()
        self.state = State.OFF
        return outputs

    def _hear_searching(self, item: FrameReceived, now: float) -> list[Output] | None:
        if item.mode is not PhyMode.TYPE_A:
            self._ear.other_version += 1
            return None
        if not item.pdu or item.pdu[0] >> 4 != HT_BEACON:
            return None
        heard = self.beacons.hear(item, now)
        if heard is None:
            self._ear.undecodable += 1
            return None
        chosen = self._searching.hear(heard, now)
        return [] if chosen is None else self._join(chosen, now)

    def _join(self, chosen: Heard, now: float) -> list[Output]:
        if self.switching.sna not in {b"", chosen.beacon.sna}:
            self.switching.end()
        late = self._searching.listened
        self._searching.listened = True
        self._forget_network()
        self.state = State.REGISTERING
        return self._place.join(chosen, self.settings.late_spread_s if late else self.settings.register_spread_s, now)

    # ---- in the network: what is heard -------------------------------------------------------------------------------

    def ignores(self, data: bytes) -> bool:
        """Whether the first bytes of a frame say that nothing would come of hearing it."""
        if len(data) < GENERIC_BYTES_MIN or data[0] >> 4 != HT_GENERIC:
            return False
        state = self.state
        if state not in _JOINED:
            return True
        if self._enrolment.awaits(data):
            return False
        whence = self._ear.whence(data)
        if whence is _ELSEWHERE:
            return not self._calls.callers or glance(data).control != ControlType.PRO
        if whence is _ABOVE:
            return not self._ear.concerned_from_above(glance(data), registering=state is _REGISTERING)
        return whence is _BELOW and not self._ear.concerned_from_below(glance(data))

    def overhears(self, item: FrameReceived, now: float) -> bool:
        """Remember a beacon of another switch than the one above; False for all else, which may change more."""
        pdu, uplink = item.pdu, self._uplink
        if self.state not in _JOINED or (pdu[1] == uplink.sid and pdu[6:12] == uplink.sna):
            return False
        self._ear.beacon(item, now)
        return True

    def _hear(self, item: FrameReceived, now: float) -> list[Output] | None:
        """One frame; None if it is nothing of ours."""
        ear = self._ear
        if item.mode is not _TYPE_A:
            ear.other_version += 1
            return None
        data = item.pdu
        kind = data[0] >> 4 if data else -1
        if kind == HT_BEACON:
            return self._hear_beacon(item, now)
        if kind == HT_PROMOTION:
            return self._hear_call(item, now)
        if kind != HT_GENERIC or len(data) < GENERIC_BYTES_MIN:
            ear.undecodable += 1
            return None
        answer = ear.answer(data, self._enrolment)
        if answer is not None:
            return self._placed(answer, now)
        whence = ear.whence(data)
        if whence is _ABOVE:
            return self._from_above(item, now)
        if whence is _BELOW:
            return [] if ear.below(item, self._neighbours, now) else None
        if whence is _ONWARD:
            ear.passed_on(data, now)
            return []
        if self._calls.callers and glance(data).control == ControlType.PRO:
            ear.promotion(data, now)
        return None

    def _hear_beacon(self, item: FrameReceived, now: float) -> list[Output] | None:
        heard = self._ear.beacon(item, now)
        uplink = self._uplink
        if heard is None or item.pdu[1] != uplink.sid or item.pdu[6:12] != uplink.sna:
            return None
        by_s = self._place.following.by_s
        turn = self._place.beacon(item, heard.beacon, now)
        if turn is SAME and self._place.following.by_s >= by_s and self._idle:
            return None  # as most often
        return self._turn(turn, now)

    @property
    def _idle(self) -> bool:
        """Whether a beacon finds nothing to send here, and moves no instant of ours: a terminal with empty queues."""
        connection = self.llc.connection
        waiting = self.switching.lsid is not None or self.transmitter.wake_at is not None
        return not waiting and (connection is None or connection.idle)

    def _hear_call(self, item: FrameReceived, now: float) -> list[Output] | None:
        call = self._ear.call(item.pdu)
        action = None if call is None else _TABLE.get((self.state, PromotionNeeded))
        return None if action is None else action(self, call, item.snr_db, now)

    def _called(self, call: PromotionNeeded, snr_db: float, now: float) -> list[Output]:
        self._calls.hear(call.pna, snr_db, now, self.transmitter.links.hop_cost(PARENT))
        return []

    def _from_above(self, item: FrameReceived, now: float) -> list[Output] | None:
        registering = self.state is _REGISTERING
        pdu = self._ear.above(item, self._place.following, self._neighbours, now, registering=registering)
        if pdu is None:
            return None
        outputs: list[Output] = []
        for packet in pdu.packets:
            if packet.sid == self.sid and packet.lnid == self.lnid != LNID_BROADCAST:
                self._neighbours.received(PARENT, item, now)
                outputs += self._packet(packet, now)
            elif packet.lnid >= LNID_MULTICAST or (packet.control and packet.lcid == ControlType.REG):
                outputs += self._packet_to_many(packet, now)
        return outputs

    # ---- packets -----------------------------------------------------------------------------------------------------

    def _packet(self, packet: Packet, now: float) -> list[Output]:
        """A packet for us alone."""
        self._place.heard(now)
        if packet.control:
            return self._control(packet, now)
        self.received["data"] += 1
        try:
            return [*self.llc.data(packet.lcid, packet.payload, now)]
        except DecodeError:
            self._ear.undecodable += 1
            return []

    def _control(self, packet: Packet, now: float) -> list[Output]:
        self.received["control"] += 1
        try:
            control = decode_control(packet.lcid, packet.payload)
        except DecodeError:
            self._ear.undecodable += 1
            return []
        action = _TABLE.get((self.state, type(control)))
        return [] if action is None else action(self, _Came(control, packet), now) or []

    def _packet_to_many(self, packet: Packet, now: float) -> list[Output]:
        """Something for everybody, for a group, or a registration answer whose node is named by its EUI-48."""
        if packet.control:
            own = packet.lcid == ControlType.REG and packet.payload[2:8] == self.eui48 and packet.sid == self.sid
            return self._control(packet, now) if own or packet.lcid == ControlType.FRA else []
        if self.state is State.REGISTERING or not self._memberships.takes(packet, now):
            return []
        self.received["data"] += 1
        try:
            sdus = broadcast_sdus(packet.payload)
        except DecodeError:
            self._ear.undecodable += 1
            return []
        return [*deliver(sdus, Eui48(self.sna), broadcast=True)]

    # ---- its place ---------------------------------------------------------------------------------------------------

    def _turn(self, turn: Turn, now: float) -> list[Output]:
        """What has become of our place is our state."""
        if turn.fate is Fate.SAME:
            return [*turn.said]
        if turn.fate is Fate.PLACED:
            self.state = State.SWITCH if self.switching.serving else State.TERMINAL
            return [*turn.said]
        if turn.fate is Fate.LEFT:
            self._forget_network()
            self.state = State.LEFT
            return [*turn.said]
        outputs = [*turn.said, *self._search(now)]
        if turn.goodbye:
            self.transmitter.call(turn.goodbye, now)
        return outputs

    def _answered(self, item: _Came[Reg], now: float) -> list[Output]:
        return self._turn(self._place.answered(item.control, item.packet.lnid, now), now)

    def _registration(self, item: _Came[Reg], now: float) -> list[Output]:
        reg = item.control
        hear = self._place.unregistered if reg.negative else self._place.again
        return self._turn(hear(reg, item.packet.lnid, now), now)

    def _placed(self, packet: Packet, now: float) -> list[Output]:
        """The answer from where we want to be."""
        try:
            turn = self._place.moved(packet, now)
        except DecodeError:
            self._ear.undecodable += 1
            return []
        if turn.fate is Fate.PLACED:
            self._neighbours.left_parent()
        return self._turn(turn, now)

    def _want(self, item: Want, now: float) -> list[Output]:
        if item.wish is Wish.LEAVE:
            return self._turn(self._place.leave(now), now)
        if item.wish is Wish.STOP_SWITCHING and self.state is State.SWITCH:
            self._candidate.resign(now)
            return self._stop_switching("by itself")
        return []

    def _return(self, item: Want, now: float) -> list[Output]:
        return self._search(now) if item.wish is Wish.RETURN else []

    # ---- keep-alive, frame structure, robustness, groups -------------------------------------------------------------

    def _alive(self, item: _Came[Alv], now: float) -> list[Output]:
        self._place.alive(item.control, now)
        return []

    def _frame_change(self, item: _Came[Fra], now: float) -> list[Output]:
        fra = item.control
        if fra.type == 0:
            self.transmitter.clock.announce(fra.seq, fra.beacons, None, now)
        elif fra.type == 1:
            self.transmitter.clock.announce(fra.seq, None, fra.cfp, now)
        return []

    def _robust(self, item: _Came[Prm], now: float) -> list[Output]:
        deaf = self._neighbours.told_by_parent(item.control, now)
        if not item.control.response:
            snr_db = index_snr_db(item.control.snr)
            self.beacons.ear(self.sna, self.sid, snr_db, now + self.settings.ear_memory_s)
        return self._turn(self._place.unheard(now), now) if deaf else []

    def _change_group(self, item: ChangeGroup, now: float) -> list[Output]:
        self._uplink.control(ControlType.MUL, self._memberships.request(item).encode(), now)
        return []

    def _group(self, item: _Came[Mul], _now: float) -> list[Output]:
        changed = self._memberships.answered(item.control, Eui48(self.sna))
        return [] if changed is None else [changed]

    # ---- promotion ---------------------------------------------------------------------------------------------------

    def _offer(self, now: float) -> None:
        """Somebody calls: ask the base to become a switch, after calling for a better one ourselves."""
        may_ask = self.state is State.TERMINAL and self.switching.lsid is None
        if may_ask and self._place.wants_better(now):
            self._place.call_first(now)
            self._calls.wait(now)
            return
        asked = self._calls.due(now)
        if asked is not None and self.parent is not None and may_ask:
            self._candidate.ask(self.parent, *asked, now)

    def _promotion(self, item: _Came[Pro], now: float) -> list[Output]:
        pro = item.control
        if pro.negative:
            self.switching.table.gone(pro.nsid, now)
            return self._stop_switching("by the base") if self._candidate.refused(pro, now) else []
        if pro.nsid in {0, SID_NONE}:
            return []
        outputs = self._stop_switching("another number") if self.switching.lsid not in {None, pro.nsid} else []
        self._candidate.accept(pro, now)
        return outputs

    def _slot(self, item: _Came[Bsi], now: float) -> list[Output]:
        bsi = item.control
        fresh = self.state is not State.SWITCH
        if bsi.slot >= self.settings.beacon_slots_max or self.level >= LEVEL_MAX:
            return []
        if not self._candidate.begin(bsi, now):
            return []
        self.state = State.SWITCH
        words = f"number {self.switching.lsid}, slot {bsi.slot} from frame {bsi.seq} every {2**bsi.frequency}"
        return [Happened("promoted to switch", words)] if fresh else []

    def _stop_switching(self, why: str) -> list[Output]:
        said = self.switching.stop(why)
        if self.state is State.SWITCH:
            self.state = State.TERMINAL
        return [*said]

    # ---- data and sending --------------------------------------------------------------------------------------------

    def _send_data(self, item: SendData, _now: float) -> list[Output]:
        return [*self.llc.send(item)]

    def _connecting(self, item: _Came[Con], now: float) -> list[Output]:
        return [*self.llc.control(item.control, now)]

    def _send_con(self, payload: bytes, now: float) -> None:
        self._uplink.control(ControlType.CON, payload, now)

    def _confirmed(self, item: TransmitConfirmed, now: float) -> list[Output] | None:
        if item.buffer == BUFFER_BEACON:
            return None
        if self.transmitter.confirmed(item, now) is Given.FAILED:
            return [Happened("frame given up", item.result.name)]
        return []

    def _transmit(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        connection = self.llc.connection
        if connection is not None and not connection.idle and self.state in _REGISTERED:
            outputs += self._uplink.feed(self.llc, now)
        outputs += self.transmitter.wake(now)
        self._refresh_wake()
        return outputs


_Action = Callable[..., list[Output] | None]
_RESTING: Final = (State.OFF, State.LEFT)
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
    **{(state, SendData): ServiceNode._send_data for state in (State.SEARCHING, *_JOINED)},
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
ignored. Each key's type is that of its action's argument."""
