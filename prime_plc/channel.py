"""Channel access in the shared contention period (CSMA/CA): a queue, a backoff, one frame on air.

Backoff of a frame of priority P at its n-th attempt: uniform in 0 .. min(2**(P+n) + 1, half the contention period)
symbols (recalled from PRIME 1.3.6); of acknowledgements less (`ANSWER_GROWTH_MAX`, ours). Carrier sensing is the
modem's: it looks at the line when it begins to emit, and answers "busy", which costs one attempt. The several senses
3 ms apart of the specification (their number is not established) would cost a round trip on the serial port each and
are left out. A frame is handed over when its backoff has ended, for emission at once: absolute scheduling needs more
lead than the backoff is long. While a frame of ours is on air, and when the next chance is in the next frame, it is
handed over ahead for its instant, so that the serial port is no bottleneck.

A stream (frames of one connection, one after the other) keeps the line as busy as the rules allow: the backoff of each
counts from the end of the one before, is not drawn again when that is confirmed, and what has to wait for the next
contention period is handed over before that begins. Single frames leave more of a gap, in which neighbours answer. A
frame in the middle of a stream that asks a neighbour for its acknowledgement leaves the line free for that: what does
not end before the earliest answer waits until most answers have ended (ours; one may always wait longer). The next
frame is with the modem by then, so that neither question nor answer costs the stream a round over two serial ports.

Packets that wait for the same next hop and may be aggregated leave in one PDU.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from prime_plc.frame_clock import FrameClock
from prime_plc.links import Links
from prime_plc.modem_host import ModemSettings, TransmitFrame
from prime_plc.modem_messages import BUFFER_DATA, TransmitResult
from prime_plc.pdu import CRC32_BYTES, GENERIC_HEADER_BYTES, PACKET_HEADER_BYTES, GenericPdu, Packet
from prime_plc.phy import PDU_BYTES_MAX, SYMBOL_S, Scheme
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.subheader import ArqHeader
from shared.errors import DecodeError

PRIORITY_CONTROL: Final = 1
PRIORITY_DATA: Final = 2

ANSWER_GROWTH_MAX: Final = 2
"""Attempts by which the backoff of an acknowledgement grows (ours). The base hears nearly everybody, so in a crowded
street it finds the line taken at most attempts. By the rule of others it would be silent ever longer, all who wait for
its word would say theirs again, and the line would be taken the more: streets collapsed by that."""

ANSWER_ROUNDS: Final = 3
"""Times the rows of attempts that others have; whatever else waits goes after it, so two seconds later at most."""

REST: Final = (0.3, 1.0)
ANSWER_REST: Final = (0.05, 0.15)
"""[frames] Between rows of attempts, of others and of an acknowledgement."""

BUFFERS_AHEAD: Final = (BUFFER_DATA, 2, 3)
"""Transmit buffers: one for the frame on air, the others for those that wait for its end."""

BYTE_S: Final = 86.8e-6
"""[s] One byte on the serial port at 115200 baud."""

MESSAGE_BYTES: Final = 20
"""[byte] Around a PDU on the serial port, some stuffing included."""

POLL_S: Final = 0.012
"""[s] Until the firmware looks at its port, and to spare."""

GAP_S: Final = 0.001
"""[s] Between two frames of ours, for the clock map's error."""

LEAD_S: Final = 0.001
"""[s] To spare when a frame is handed over for an instant."""

ANSWER_BYTES: Final = 18
"""[byte] A PDU that only acknowledges; it and the frame that asks for it pass the neighbour's serial port."""

ANSWER_SPREAD_S: Final = 0.006
"""[s] After the earliest instant of an answer that a frame of ours may still end: its backoff and its modem's poll
make most answers later."""

ANSWER_SPAN_S: Final = 0.028
"""[s] From the earliest instant of an answer to the end of most of them; who comes later finds the line taken."""

ANSWER_FIRST_S: Final = 0.018
"""[s] From the start of a contention period to the end of most answers that had to wait for it."""

ABSOLUTE_S_MIN: Final = 0.05
"""[s] A frame that may go this much later than the serial port needs is handed over for its instant."""

_EMPTY_PDU_BYTES: Final = GENERIC_HEADER_BYTES + CRC32_BYTES


class Keep(Enum):
    """Whether a packet is kept after it was sent, until its next hop has shown that it came."""

    NO = "not kept"
    ONWARD = "until it is overheard passing it on"
    LAST = "until its acknowledgement or answer passes by; what expects none is not kept"


class Given(Enum):
    """How a frame left the queue."""

    SENT = "sent"
    BUSY = "channel busy"
    FAILED = "modem failed"


@dataclass(slots=True)
class Outgoing:
    """Packets for one next hop that leave in one PDU, or a finished PDU.

    Attributes:
        neighbour: key of the next hop in `Links`; None means everybody.
        finished: bytes of a PDU that is not generic (a call for a switch).
        keep: what shows that the next hop has it.
        tries: repetitions of the hop so far.
        needless: the next hop has shown meanwhile that it has the packet; whoever finds this at the head drops it.
        asks: for an acknowledgement while more of its stream follows: the line is left free for that.
        alone: nothing joins it: it is passed on for somebody who forbids that (NAD), or is a node's own control packet.
        answers: acknowledgements alone, for which somebody waits, and data that have joined them: before all else, with
            a backoff that hardly grows, and short rests.
    """

    priority: int
    downlink: bool = False
    level: int = 0
    neighbour: int | None = None
    packets: list[Packet] = field(default_factory=list)
    finished: bytes = b""
    keep: Keep = Keep.NO
    tries: int = 0
    order: int = 0
    attempts: int = 0
    rounds: int = 0
    not_before_s: float = 0.0
    needless: bool = False
    asks: bool = False
    alone: bool = False
    answers: bool = False

    def __lt__(self, other: Outgoing) -> bool:
        return (not self.answers, self.priority, self.order) < (not other.answers, other.priority, other.order)

    @property
    def backoff_symbols(self) -> int:
        """The longest backoff of the next attempt."""
        if self.answers:
            return (1 << min(self.attempts, ANSWER_GROWTH_MAX)) + 1
        return (1 << self.priority + self.attempts + min(self.tries, 2)) + 1

    @property
    def stream(self) -> tuple[int, int, int] | None:
        """Whose data these are for the first time; None for anything else."""
        if self.finished or self.tries or self.packets[0].control:
            return None
        packet = self.packets[0]
        return packet.lcid, packet.sid, packet.lnid

    @property
    def goes_on(self) -> bool:
        """Whether more of its stream follows: its last packet carries something and is not the last of a burst."""
        if self.asks or self.stream is None:
            return self.asks
        payload = self.packets[-1].payload
        try:
            header, used = ArqHeader.decode(payload)
        except DecodeError:
            return False
        return not header.flush and len(payload) > used

    @property
    def length(self) -> int:
        """Bytes of the PDU."""
        if self.finished:
            return len(self.finished)
        return _EMPTY_PDU_BYTES + sum(PACKET_HEADER_BYTES + len(packet.payload) for packet in self.packets)

    def encode(self, sna: bytes) -> bytes:
        """The PDU."""
        if self.finished:
            return self.finished
        return GenericPdu(self.downlink, self.level, tuple(self.packets)).encode(sna)

    def may_join(self, other: Outgoing) -> bool:
        """Whether the other's packets may leave in the same PDU."""
        return (
            self.neighbour is not None
            and other.neighbour == self.neighbour
            and (other.downlink, other.level) == (self.downlink, self.level)
            and other.keep is self.keep
            and other.packets[0].control == self.packets[0].control
            and not (self.tries or other.tries)
            and not (self.alone or other.alone)
        )


class ChannelAccess:
    """Frames that want the line, one after the other, most urgent first.

    Attributes:
        too_long: frames given up as the present frame structure has no room for them; whoever takes note clears it.
    """

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = (
        "_absolute",
        "_air_until_s",
        "_answer_s",
        "_clock",
        "_draw",
        "_last",
        "_last_until_s",
        "_links",
        "_modem",
        "_order",
        "_queue",
        "_sending",
        "_settings",
        "_start_s",
        "aggregated",
        "busy",
        "dropped",
        "failures",
        "sna",
        "too_long",
        "wake_at",
    )

    def __init__(
        self, settings: MacSettings, modem: ModemSettings, clock: FrameClock, links: Links, draw: random.Random
    ) -> None:
        self._settings = settings
        self._modem = modem
        self._clock = clock
        self._links = links
        self._draw = draw
        self._queue: list[Outgoing] = []
        self._order = 0
        self._sending: dict[int, Outgoing] = {}
        self._air_until_s = 0.0
        self._start_s = 0.0
        self._absolute = False
        self._answer_s = (0.0, 0.0)
        self._last: tuple[int, int, int] | None = None
        self._last_until_s = 0.0
        self.sna = b""
        self.wake_at: float | None = None
        self.dropped = 0
        self.busy = 0
        self.failures = 0
        self.aggregated = 0
        self.too_long: list[Outgoing] = []

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, outgoing: Outgoing, now: float) -> bool:
        """Queue packets; False (and counted) if the queue is full."""
        if len(self._queue) >= self._settings.queue_max:
            self.dropped += 1
            return False
        self._order += 1
        outgoing.order = self._order
        heapq.heappush(self._queue, outgoing)
        if self.wake_at is None or self._queue[0] is outgoing:
            self._plan(now)
        return True

    def shift(self, levels: int, left: tuple[int, int] | None = None) -> None:
        """We hang so many levels deeper now; what is from an address that we have left is dropped."""
        for outgoing in (*self._queue, *self._sending.values()):
            question = outgoing.neighbour is None and not outgoing.downlink  # to a switch that was not ours
            if outgoing.finished or question:
                outgoing.needless |= not outgoing.finished
                continue
            outgoing.level += levels
            outgoing.needless |= any((packet.sid, packet.lnid) == left for packet in outgoing.packets)

    def clear(self) -> None:
        """Forget everything (the modem or the network is gone)."""
        self._queue.clear()
        self._sending.clear()
        self._air_until_s = 0.0
        self.wake_at = None

    def wake(self, now: float) -> TransmitFrame | None:
        """The frame to hand to the modem now, if its backoff has ended."""
        if self.wake_at is None or now < self.wake_at or not self._queue:
            return None
        outgoing = self._queue[0]
        scheme = self.scheme(outgoing)
        ready_s = now + _serial_s(outgoing.length)
        start_s = self._start_s if self._absolute else ready_s
        first_s = start_s if self._absolute else now  # the modem may have it sooner than at the latest
        begin_s, end_s = self._clock.contention(first_s)
        too_late = start_s < ready_s or start_s + self._needed_s(outgoing, scheme) > end_s
        too_late = too_late or first_s < begin_s - SYMBOL_S / 2
        if too_late or outgoing.needless or outgoing.not_before_s > start_s:  # or another frame than the draw was for
            self._plan(now)
            return None
        heapq.heappop(self._queue)
        self._aggregate(outgoing, scheme, now, end_s)
        if not self._absolute:
            start_s = now + _serial_s(outgoing.length)
        pdu = outgoing.encode(self.sna)
        airtime_s = self._modem.airtime_s(len(pdu), scheme)
        self._air_until_s = self._last_until_s = start_s + airtime_s
        self._last = outgoing.stream if outgoing.goes_on else None
        if outgoing.asks:
            answer_s = self._air_until_s + (len(pdu) + ANSWER_BYTES + 2 * MESSAGE_BYTES) * BYTE_S
            self._answer_s = (answer_s, answer_s + ANSWER_SPAN_S)
        at_s = start_s if self._absolute else None
        buffer = next(one for one in BUFFERS_AHEAD if one not in self._sending)
        self._sending[buffer] = outgoing
        self._plan(now)
        return TransmitFrame(pdu, scheme, at_s, buffer, exclusive=False)

    def confirmed(self, buffer: int, result: TransmitResult, now: float) -> tuple[Outgoing, Given] | None:
        """What became of the frame with the modem; None while it will be tried again."""
        outgoing = self._sending.pop(buffer, None)
        if outgoing is None:
            return None
        if not self._sending:
            self._air_until_s = 0.0
        given: Given | None = Given.SENT
        if result is not TransmitResult.SUCCESS:
            given = self._again(outgoing, result, now)
        if given is not Given.SENT or self.wake_at is None or not self._streams(self._queue[0], now):
            self._plan(now)
        return None if given is None else (outgoing, given)

    def _again(self, outgoing: Outgoing, result: TransmitResult, now: float) -> Given | None:
        """Another attempt in this row, a rest until the next frame, or the end."""
        self.busy += result.busy
        outgoing.attempts += result is not TransmitResult.PREVIOUS_PENDING
        if outgoing.attempts >= self._settings.transmit_attempts_max:
            outgoing.attempts = 0
            outgoing.rounds += 1
            self._order += 1
            outgoing.order = self._order  # others of its priority go first while it rests
            self.failures += 1
            outgoing.not_before_s = now + FRAME_S * self._draw.uniform(*(ANSWER_REST if outgoing.answers else REST))
            if outgoing.rounds >= self._settings.access_rounds_max * (ANSWER_ROUNDS if outgoing.answers else 1):
                self.dropped += 1
                return Given.BUSY if result.busy else Given.FAILED
        heapq.heappush(self._queue, outgoing)
        return None

    def _aggregate(self, outgoing: Outgoing, scheme: Scheme, now: float, end_s: float) -> None:
        """Take along what waits for the same hop and still ends in this contention period; what goes at once also takes
        the longer to the modem, the longer it is."""
        if outgoing.finished or outgoing.neighbour is None or not self._queue:
            return
        length = outgoing.length
        joined = []
        for other in self._queue:
            extra = other.length - _EMPTY_PDU_BYTES
            start_s = self._start_s if self._absolute else now + _serial_s(length + extra)
            fits = length + extra <= PDU_BYTES_MAX and start_s + self._lasts_s(length + extra, scheme) <= end_s
            if fits and not other.finished and outgoing.may_join(other):
                length += extra
                joined.append(other)
        if not joined:
            return
        for other in sorted(joined):
            outgoing.packets += other.packets
            outgoing.asks |= other.asks
        self.aggregated += len(joined)
        self._queue = [other for other in self._queue if not any(other is one for one in joined)]
        heapq.heapify(self._queue)

    def scheme(self, outgoing: Outgoing) -> Scheme:
        """Modulation of a frame: control packets and whatever else is short always take the most robust one, as much
        hangs on them and little is to be gained."""
        if (
            outgoing.finished
            or outgoing.length <= self._settings.robust_bytes
            or all(packet.control for packet in outgoing.packets)
        ):
            return self._settings.scheme
        return self._links.scheme(outgoing.neighbour, outgoing.tries)

    def _streams(self, outgoing: Outgoing, now: float) -> bool:
        """Whether a frame goes on with what the last one of ours has begun."""
        return self._last is not None and outgoing.stream == self._last and now < self._last_until_s + FRAME_S

    def _needed_s(self, outgoing: Outgoing, scheme: Scheme) -> float:
        return self._lasts_s(outgoing.length, scheme)

    def _lasts_s(self, length: int, scheme: Scheme) -> float:
        return self._modem.airtime_s(length, scheme) + self._settings.access_margin_s

    def _plan(self, now: float) -> None:
        """Draw when the most urgent frame may go: in this contention period if it fits, else in the next."""
        while self._queue and self._queue[0].needless:
            heapq.heappop(self._queue)
        if not self._queue or len(self._sending) >= (len(BUFFERS_AHEAD) if self._settings.pipeline else 1):
            self.wake_at = None
            return
        outgoing = self._queue[0]
        length = outgoing.length
        serial_s = _serial_s(length)
        needed_s = self._lasts_s(length, self.scheme(outgoing))
        earliest_s = max(now, outgoing.not_before_s)
        streams = self._streams(outgoing, now)
        gap_s = 0.0 if streams else GAP_S
        if self._sending:
            earliest_s = max(earliest_s, self._air_until_s + gap_s, now + serial_s)
        answer_s, clear_s = self._answer_s
        for ahead in (0, 1, 2):
            start_s, end_s = self._clock.contention(earliest_s, ahead)
            if ahead and clear_s > earliest_s:  # the answer may have to wait for this period as well
                clear_s = max(clear_s, start_s + ANSWER_FIRST_S)
            half = int((end_s - start_s) / SYMBOL_S) // 2
            backoff_s = self._draw.randint(0, min(outgoing.backoff_symbols, half)) * SYMBOL_S
            at_s = max(max(earliest_s, start_s) + backoff_s, self._air_until_s + GAP_S)
            if at_s < clear_s and max(at_s, now + serial_s) + needed_s > answer_s + ANSWER_SPREAD_S:
                at_s = clear_s + backoff_s  # it would meet the answer that was asked for
            absolute = bool(self._sending) or at_s > now + serial_s + (LEAD_S if ahead and streams else ABSOLUTE_S_MIN)
            if at_s + (0.0 if absolute else serial_s) + needed_s <= end_s:
                break
        else:  # a short period, and the draws were late ones
            room = math.floor((end_s - start_s - needed_s) / SYMBOL_S)
            if room < 0:
                self._give_up(now)
                return
            at_s, absolute = start_s + self._draw.randint(0, room) * SYMBOL_S, True
        self._start_s, self._absolute = at_s, absolute
        self.wake_at = max(now, at_s - serial_s - LEAD_S) if absolute else at_s

    def _give_up(self, now: float) -> None:
        """The most urgent frame is longer than any contention period of the present structure."""
        self.dropped += 1
        self.too_long.append(heapq.heappop(self._queue))
        self._plan(now)


def _serial_s(length: int) -> float:
    """[s] From the hand-over of a PDU until the modem has it, at the latest."""
    return (length + MESSAGE_BYTES) * BYTE_S + POLL_S
