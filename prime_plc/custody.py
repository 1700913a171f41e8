"""Packets that a next hop has to pass on, until it is overheard doing so (our addition to PRIME 1.3.6).

The specification repeats a packet end to end only. Over four hops with a few percent of loss each that is slow, with
bursts it is hopeless; and the sign that a hop has worked is on the line anyway: the next hop sends the same packet with
another LEVEL, or, at the last hop, the acknowledgement of its connection comes back through us. So whoever sends a
packet that will be relayed keeps it until it hears one of the two, and repeats it a few times. The same holds for a
question (REG, CON, PRO, BSI, ALV) and its answer. A receiver cannot tell a repetition from the first copy: ARQ drops
it, and our switches remember what they have passed on. They answer a repetition of it by a PRM response that nobody has
asked for: "I hear you so well", which is short and ends the repeating.

A relay that came in damaged counts when its header (which travels in the robust part of the frame), its length and
most of its bytes fit: the reports of two nodes of one switch have the same header so far.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from operator import ne

from prime_plc.channel import Keep, Outgoing
from prime_plc.control import ControlType
from prime_plc.pdu import CRC32_BYTES, GENERIC_HEADER_BYTES, LNID_BROADCAST, SID_BASE, SID_NONE, GenericPdu, Packet
from prime_plc.settings import MacSettings
from prime_plc.subheader import ArqHeader
from prime_plc.timers import Deadlines
from shared.errors import DecodeError

HOP_WAIT_S_MAX = 2.0
REPETITION_WAIT_S_MAX = 5.0
SAID_MAX = 256
"""Acknowledgements remembered that a neighbour has passed on."""

SIGN_MEMORY = 16
"""Data packets over which the share whose sign came too late, or never, is reckoned."""

MISSED_USUAL = 0.2
PATIENCE = 8.0
"""What is missed beyond the usual share makes waits so much longer, times that excess. Bursts take the sign as often as
the packet, and who waits sees another one: a repetition of the relay, or the acknowledgement on its way down."""

FORGOTTEN_MIN = 3
"""Packets from below one switch, repeated upward and given up, less those that were passed on: the next hop may have
forgotten that this switch is below it. It drops them without a word then, as it does those of others."""

REG_EUI48 = slice(2, 8)
"""[byte] Where a REG packet names its node."""

NEGATIVE = 0x80
"""First bit of the first byte of a REG or CON packet."""

LCID_MASK = 0x1FF
"""Last bits of the first two bytes of a CON packet."""

TAKEN_S_MAX = 1.0
"""[s] From a repetition to the neighbour's word that it has it."""

DAMAGE_MAX = 0.5
"""Share of the bytes of a damaged relay that may be wrong; those of another report are nearly all different."""

DAMAGE_ALONE_MAX = 0.85
"""The same where nothing else that waits has its header: another node's report has more than nine tenths wrong, and
what is modulated for the hop beyond comes more damaged than half."""

HEADER_SEEN_BYTES = 7
"""[byte] Of a PDU that travel in the frame's robust header."""


Key = tuple[bool, bytes]
"""Direction (downlink) and bytes of a packet: who answers by the same words (PRO, BSI, ALV) says the same bytes back,
unless exactly one of the two bears NAD."""


@dataclass(slots=True)
class _Kept:
    outgoing: Outgoing
    packet: Packet
    sent_s: float


class Custody:
    """Packets under way whose next hop is not done."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = (
        "_again",
        "_deadlines",
        "_delay_s",
        "_draw",
        "_given_up_from",
        "_kept",
        "_missed",
        "_said",
        "_settings",
        "_spread_s",
        "given_up",
        "repeated",
    )

    def __init__(self, settings: MacSettings, draw: random.Random) -> None:
        self._settings = settings
        self._draw = draw
        self._kept: dict[Key, _Kept] = {}
        self._again: dict[Key, _Kept] = {}  # repetitions that wait for the channel
        self._deadlines: Deadlines[Key] = Deadlines()
        self._delay_s = settings.hop_wait_s / 2
        self._spread_s = settings.hop_wait_s / 8
        self._missed = 0.0
        self._said: dict[tuple[int | None, Key], float] = {}  # what a neighbour has passed on, known until [s]
        self._given_up_from: dict[int, int] = {}  # packets given up upward less those passed on, by SID
        self.repeated = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._again)

    @property
    def wake_at(self) -> float | None:
        """When a packet has waited long enough [s]."""
        return self._deadlines.next_at if self._kept else None

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._again.clear()
        self._said.clear()
        self._given_up_from.clear()
        self._deadlines.clear()

    def sent(self, outgoing: Outgoing, airtime_s: float, now: float) -> None:
        """Packets left the modem; wait for their relaying."""
        if self._settings.hop_repeats_max == 0:
            return
        usual_s = max(self._settings.hop_wait_s, self._delay_s + 4 * self._spread_s)
        if not outgoing.packets[0].control:  # questions are short, and much hangs on them
            usual_s *= 1 + PATIENCE * max(0.0, self._missed - MISSED_USUAL)
        usual_s = min(HOP_WAIT_S_MAX, usual_s)
        longer_s = min(REPETITION_WAIT_S_MAX, usual_s * 2**outgoing.tries)
        wait_s = airtime_s + longer_s * self._draw.uniform(0.9, 1.3)
        for packet in outgoing.packets:
            key = outgoing.downlink, packet.encode()
            self._again.pop(key, None)
            if not outgoing.tries and is_acknowledgement(packet):
                self._drop_older(outgoing, packet)
            if outgoing.needless or not self._is_kept(outgoing, packet):  # its sign came when the modem had it already
                continue
            if now < self._said.get((outgoing.neighbour, key), -math.inf):  # its sender missed it, and would ask again
                continue
            self._kept[key] = _Kept(outgoing, packet, now)
            self._deadlines.set(key, now + wait_s)

    def _is_kept(self, outgoing: Outgoing, packet: Packet) -> bool:
        """Whether a packet that was sent is worth waiting for a sign of, or, where much is missed, saying again."""
        if outgoing.keep is not Keep.LAST or expects_answer(packet, downlink=outgoing.downlink):
            return True
        twice = self._missed > MISSED_USUAL and not outgoing.tries
        once_more = twice and is_last_word(packet, downlink=outgoing.downlink)
        return once_more or expects_acknowledgement(packet, at_once=True)

    def unsent(self, outgoing: Outgoing) -> None:
        """The channel has not taken a repetition."""
        for packet in outgoing.packets:
            self._again.pop((outgoing.downlink, packet.encode()), None)

    def overheard(self, pdu: GenericPdu, now: float) -> list[int]:
        """The next hop has passed these on; keys of the neighbours that did."""
        keys = dict.fromkeys((pdu.downlink, packet.encode()) for packet in pdu.packets)
        return self._release([key for key in keys if key in self._kept or key in self._again], now)

    def overheard_damaged(self, data: bytes, now: float) -> list[int]:
        """The same of a PDU whose payload is damaged."""
        seen = data[GENERIC_HEADER_BYTES:-CRC32_BYTES]
        robust = HEADER_SEEN_BYTES - GENERIC_HEADER_BYTES
        downlink = bool(data[1] & 0x40)
        wrong = {
            (side, body): sum(map(ne, body, seen))
            for side, body in (*self._kept, *self._again)
            if side == downlink and len(body) == len(seen) and body[:robust] == seen[:robust]
        }
        likest = min(wrong, key=wrong.__getitem__, default=None)
        if likest is None or wrong[likest] > (DAMAGE_MAX if len(wrong) > 1 else DAMAGE_ALONE_MAX) * len(seen):
            return []
        return self._release([likest], now)

    def answered(self, packet: Packet, now: float, *, downlink: bool) -> list[int]:
        """A packet travels the other way; it confirms those that it acknowledges or answers."""
        if not len(self):
            return []
        confirms = answers if packet.control else acknowledges
        refusal = downlink and is_refusal(packet)
        done = []
        for key, kept in (*self._kept.items(), *self._again.items()):
            mine = kept.packet
            if kept.outgoing.downlink == downlink:
                continue
            same = (mine.sid, mine.lcid, mine.control) == (packet.sid, packet.lcid, packet.control)
            if (same and confirms(packet, mine)) or (refusal and refuses(packet, mine)):
                done.append(key)
        return self._release(done, now)

    def signed(self, signs: tuple[int, ...], now: float) -> list[int]:
        """A neighbour says that it has these; keys of the neighbours that have them."""
        return self._release([key for key in {**self._kept, **self._again} if sign(key[1]) in signs], now)

    def taken(self, neighbour: int, now: float) -> bool:
        """The neighbour has answered a repetition; whether it is clear which one, and still in our keeping."""
        late = [
            key
            for key, one in self._kept.items()
            if one.outgoing.neighbour == neighbour and one.outgoing.tries and now - one.sent_s < TAKEN_S_MAX
        ]
        return len(late) == 1 and bool(self._release(late, now))

    def _release(self, keys: list[Key], now: float) -> list[int]:
        neighbours = []
        for key in keys:
            queued = self._again.pop(key, None)
            if queued is not None:
                queued.outgoing.needless = True
                neighbours += [] if queued.outgoing.neighbour is None else [queued.outgoing.neighbour]
            kept = self._kept.pop(key, None)
            released = kept or queued
            if released is not None:
                self._note_passed(released, passed=True)
            if kept is None:
                continue
            self._count(kept.packet, missed=False)
            if kept.outgoing.downlink and is_acknowledgement(kept.packet):
                self._note_said((kept.outgoing.neighbour, key), now)
            if kept.outgoing.tries == 0:  # as for round trips: a repetition's sign may belong to the first copy
                error_s = now - kept.sent_s - self._delay_s
                self._delay_s += error_s / 8
                self._spread_s += (abs(error_s) - self._spread_s) / 4
            self._deadlines.set(key, None)
            if kept.outgoing.neighbour is not None:
                neighbours.append(kept.outgoing.neighbour)
        return neighbours

    def _note_said(self, key: tuple[int | None, Key], now: float) -> None:
        """This neighbour has passed on this acknowledgement; the oldest are forgotten first."""
        self._said.pop(key, None)
        self._said[key] = now + self._settings.data_memory_s
        if len(self._said) > SAID_MAX:
            del self._said[next(iter(self._said))]

    def _drop_older(self, outgoing: Outgoing, packet: Packet) -> None:
        """A newer acknowledgement of a connection says all that an older one did. Said again after half a window, the
        older one would seem to cover what nobody has received, as its number has six bits."""

        def older(one: _Kept) -> bool:
            mine = one.packet
            same = (mine.sid, mine.lnid, mine.lcid) == (packet.sid, packet.lnid, packet.lcid)
            same = same and one.outgoing.downlink == outgoing.downlink and is_acknowledgement(mine)
            return same and mine != packet and not is_newer(mine, packet)

        for key in [key for key, one in self._kept.items() if older(one)]:
            del self._kept[key]
            self._deadlines.set(key, None)
        for key in [key for key, one in self._again.items() if older(one)]:
            self._again.pop(key).outgoing.needless = True

    def _count(self, packet: Packet, *, missed: bool) -> None:
        if not packet.control:
            self._missed += (missed - self._missed) / SIGN_MEMORY

    def _note_passed(self, kept: _Kept, *, passed: bool) -> None:
        if kept.outgoing.downlink or kept.outgoing.keep is not Keep.ONWARD:
            return
        sid = kept.packet.sid
        count = self._given_up_from.get(sid, 0) + (-1 if passed else 1)
        if count > 0:
            self._given_up_from[sid] = count
        else:
            self._given_up_from.pop(sid, None)

    def take_forgotten(self) -> list[int]:
        """Numbers of switches whose packets the next hop upward seems not to take for its own; said once."""
        sids = [sid for sid, count in self._given_up_from.items() if count >= FORGOTTEN_MIN]
        for sid in sids:
            del self._given_up_from[sid]
        return sids

    def due(self, now: float, *, crowded: bool) -> tuple[list[Outgoing], list[Key], list[int]]:
        """Packets to repeat now, those given up (all when the channel is crowded), and for each the neighbour that has
        not taken it. Packets of one frame count one by one, taken or not: frames counted once, a street with a report
        every 48 s delivered less (measured)."""
        again: list[Outgoing] = []
        over: list[Key] = []
        lost: list[int] = []
        for key in self._deadlines.due(now):
            kept = self._kept.pop(key)
            old = kept.outgoing
            if not (old.keep is Keep.LAST and is_last_word(kept.packet, downlink=old.downlink)):
                self._count(kept.packet, missed=True)
                lost += [] if old.neighbour is None else [old.neighbour]
            elif crowded:  # said once, as where no sign is missed: that gives nothing up
                continue
            if crowded or old.tries >= self._settings.hop_repeats_max:
                self.given_up += 1
                if old.tries:  # in a crowd nothing is repeated, and one frame may have had many
                    self._note_passed(kept, passed=False)
                over.append(key)
                continue
            self.repeated += 1
            repetition = Outgoing(
                kept.packet.priority, old.downlink, old.level, old.neighbour, [kept.packet], keep=old.keep
            )
            repetition.tries = old.tries + 1
            repetition.answers = only_acknowledges(kept.packet)
            self._again[key] = _Kept(repetition, kept.packet, now)
            again.append(repetition)
        return again, over, lost

    def shift(self, levels: int, left: tuple[int, int] | None = None) -> None:
        """We hang so many levels deeper now; what is from an address that we have left is dropped."""
        if left is not None:
            self._given_up_from.clear()
        for outgoing in {id(kept.outgoing): kept.outgoing for kept in self._kept.values()}.values():  # one for several
            outgoing.level += levels
        for packets in (self._kept, self._again):
            for key in [key for key, kept in packets.items() if (kept.packet.sid, kept.packet.lnid) == left]:
                del packets[key]
                self._deadlines.set(key, None)

    def forget(self, neighbour: int) -> None:
        """The neighbour is gone; what it had to pass on is lost."""
        for key in [key for key, kept in self._kept.items() if kept.outgoing.neighbour == neighbour]:
            del self._kept[key]
            self._deadlines.set(key, None)
        for key in [key for key, queued in self._again.items() if queued.outgoing.neighbour == neighbour]:
            self._again.pop(key).outgoing.needless = True
        for said in [said for said in self._said if said[0] == neighbour]:
            del self._said[said]


def sign(body: bytes) -> int:
    """By which a neighbour names a packet that it has: the lower half of the ordinary CRC-32 of its bytes (ours)."""
    return zlib.crc32(body) & 0xFFFF


def _arq(packet: Packet) -> tuple[ArqHeader, bool] | None:
    """ARQ header of a data packet, and whether something follows it; None if it has none."""
    if packet.control:
        return None
    try:
        header, used = ArqHeader.decode(packet.payload)
    except DecodeError:
        return None
    return header, len(packet.payload) > used


def expects_acknowledgement(packet: Packet, *, at_once: bool = False) -> bool:
    """Whether an ARQ data packet carries something that will be acknowledged, and not an acknowledgement only; in the
    middle of a burst not at once."""
    arq = _arq(packet)
    return arq is not None and arq[1] and (arq[0].flush or not at_once)


def is_acknowledgement(packet: Packet) -> bool:
    """Whether a packet carries nothing that would be acknowledged; with ARQ that is an acknowledgement."""
    return not packet.control and not expects_acknowledgement(packet)


def only_acknowledges(packet: Packet) -> bool:
    """Whether a packet is an ARQ acknowledgement and nothing else."""
    arq = _arq(packet)
    return arq is not None and not arq[1] and arq[0].ack is not None


def is_newer(one: Packet, other: Packet) -> bool:
    """Whether an acknowledgement covers more than another one of its connection."""
    mine, its = _arq(one), _arq(other)
    if mine is None or its is None or mine[0].ack is None or its[0].ack is None:
        return False
    return covers(mine[0].ack, its[0].ack)


def acknowledges(answer: Packet, packet: Packet) -> bool:
    """Whether an ARQ packet acknowledges one of the other direction that carries something."""
    said, mine = _arq(answer), _arq(packet)
    if said is None or mine is None or not mine[1]:
        return False
    return said[0].ack is not None and answer.lnid == packet.lnid and covers(said[0].ack, mine[0].packet_id)


def covers(ack: int, number: int) -> bool:
    """Whether an acknowledgement, which names the next packet expected, covers one of a window behind it."""
    return 0 < (ack - number) % 64 <= 32


def expects_answer(packet: Packet, *, downlink: bool) -> bool:
    """Whether a control packet is a question, and not an answer or the acknowledgement of one. To be told by a base
    that it knows nobody of that number (no address, ours) is none, nor is the end of a connection."""
    if not packet.control:
        return False
    if packet.lcid == ControlType.REG:
        return downlink == (packet.lnid != LNID_BROADCAST) and any(packet.payload[REG_EUI48])
    if packet.lcid == ControlType.PRO:
        return downlink and packet.payload[1:2] != bytes((SID_NONE,))
    if downlink:
        return packet.lcid in {ControlType.BSI, ControlType.ALV}
    return packet.lcid == ControlType.MUL or (packet.lcid == ControlType.CON and not is_negative(packet))


def is_last_word(packet: Packet, *, downlink: bool) -> bool:
    """Whether a packet ends an exchange: nothing shows that it came, and the other end would begin again after seconds,
    over all hops, so its last hop says it twice where signs are missed (ours). Upward the last word of a registration
    or a promotion, downward an acknowledgement below a switch."""
    if not packet.control:
        return downlink and packet.sid != SID_BASE and is_acknowledgement(packet)
    return not downlink and packet.lcid in {ControlType.REG, ControlType.PRO, ControlType.BSI}


def is_negative(packet: Packet) -> bool:
    """Of a REG or CON packet: whether it refuses or ends something."""
    return bool(packet.payload) and packet.payload[0] >= NEGATIVE


def is_refusal(packet: Packet) -> bool:
    """Whether the base ends the registration or the connection of one node by this."""
    kind = packet.control and packet.lcid in {ControlType.REG, ControlType.CON}
    return kind and packet.lnid != LNID_BROADCAST and is_negative(packet)


def refuses(refusal: Packet, packet: Packet) -> bool:
    """Whether a refusal is all that a packet will get: it came, and nobody at the base knows its sender any more, or
    its connection."""
    if (refusal.sid, refusal.lnid) != (packet.sid, packet.lnid):
        return False
    if refusal.lcid == ControlType.REG:
        return True
    return not packet.control and int.from_bytes(refusal.payload[:2], "big") & LCID_MASK == packet.lcid


def answers(answer: Packet, packet: Packet) -> bool:
    """Whether a control packet of the other direction answers a question of the same kind."""
    if packet.lcid == ControlType.REG and packet.lnid == LNID_BROADCAST:  # the number comes with the answer
        return answer.payload[REG_EUI48] == packet.payload[REG_EUI48]
    return answer.lnid == packet.lnid
