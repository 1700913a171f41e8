"""One MAC connection: SDUs cut into segments (SAR), numbered, acknowledged and repeated (ARQ).

Pure: payloads of data packets go in and come out, deadlines are asked for by `wake_at`.

Three points are not established by the sources we have and are handled so that either reading works: the value of the
first intermediate segment (only its rising by one is checked), the number of a packet that only acknowledges (the next
one, without using it up; on reception it is ignored when no SAR byte follows), and the retransmission time (four round
trips).
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from dataclasses import dataclass

from prime_plc.settings import MacSettings
from prime_plc.subheader import ArqHeader, SarHeader, SarType

MODULUS = 64
STREAM_PACKETS = 8
"""So many packets without an acknowledgement are a stream, whose sender waits for one (ours)."""

PATIENCE_GROWTH_MAX = 2
PATIENCE_FIRST_S_MAX = 30.0
"""[s] Four round trips count for so much at most (ours), as all hops together repeat a packet for some such time. An
acknowledgement that came after minutes would otherwise keep its node silent for many more, on a way that works."""

PATIENCE_S_MAX = 8.0
"""[s] A near node's patience grows to this at least, so that a way that is bad for a minute costs no connection."""

SEGMENTS_MAX = 64
ASK_AHEAD = 6
"""So many packets before its window is full a sender asks for the acknowledgement, and goes on (ours)."""

ASKED_S_MAX = 0.4
"""[s] Until an acknowledgement that was asked for is overdue; so long the window's last packet is kept back, which asks
for it again (ours)."""

COPY_S = 120.0
"""[s] A copy of a packet may come so late over several hops, each of which repeats it for half a minute at most. Then
34 to 63 newer ones may have come, and by its number it would be one that is still to come; one that is 64 late is not
told from the one that is expected. Early packets that are the same as those 64 before them have to be repeated
(ours)."""

BURSTS = 2
"""A packet sent within so many bursts of the last one is of the same burst."""


@dataclass(slots=True)
class _Packet:
    """A numbered packet that waits for its acknowledgement."""

    number: int
    body: bytes
    token: int | None
    sent_s: float = 0.0
    count: int = 0
    asked: bool = False


@dataclass(slots=True)
class _Assembly:
    """An SDU of which some segments have come."""

    segments: int
    parts: list[bytes]
    last_value: int | None
    until_s: float


def _ahead(number: int, base: int) -> int:
    return (number - base) % MODULUS


class Connection:
    """Both directions of one connection with ARQ."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = (
        "_acknowledge_at",
        "_asked_s",
        "_assembly",
        "_burst_s",
        "_copies",
        "_delivered",
        "_early",
        "_expected",
        "_floor_s",
        "_last_sent_s",
        "_near",
        "_next_number",
        "_pausing",
        "_peer_window",
        "_probing",
        "_round_trip_s",
        "_settings",
        "_unacknowledged",
        "_unanswered",
        "_waiting",
        "_waiting_sdus",
        "asks",
        "failed",
    )

    def __init__(self, settings: MacSettings, hops: int = 1) -> None:
        self._settings = settings
        self._copies = False  # whether other hops may still have some, from the way that was before this one too
        self.moved(hops)
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._waiting_sdus = 0
        self._unacknowledged: deque[_Packet] = deque()
        self._next_number = 0
        self._peer_window = settings.window_start
        self._round_trip_s = self._floor_s / 4
        self._burst_s: float | None = None
        self._last_sent_s = 0.0
        self._pausing = False
        self._probing = False  # the oldest has timed out, and nothing has been acknowledged since
        self._expected = 0
        self._early: dict[int, bytes] = {}
        self._delivered: dict[int, tuple[int, float]] = {}  # checksum and time of the last packet of each number
        self._acknowledge_at: float | None = None
        self._unanswered = 0
        self._assembly: _Assembly | None = None
        self._asked_s: float | None = None  # for an acknowledgement in mid-stream, and none has come since
        self.asks = False
        """Whether the last of the packets just given asks in the middle of a stream: the line is to be left free."""
        self.failed = False

    def moved(self, hops: int) -> None:
        """The way to the other end has so many hops."""
        self._near = hops == 1
        self._copies |= hops > 1
        self._floor_s = self._settings.retransmit_s_min + self._settings.retransmit_hop_s * (hops - 1)

    # ---- sending -----------------------------------------------------------------------------------------------------

    def send(self, sdu: bytes, token: int) -> bool:
        """Queue an SDU; False if too many wait already. Its token comes out of `receive` when all of it is
        acknowledged."""
        if self._waiting_sdus >= self._settings.sdus_max:
            return False
        size = self._settings.segment_bytes
        parts = [sdu[at : at + size] for at in range(0, len(sdu), size)] or [b""]
        assert len(parts) <= SEGMENTS_MAX, len(parts)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if index == 0:
                header = SarHeader(SarType.FIRST, len(parts) - 1)
            else:
                header = SarHeader(SarType.LAST if last else SarType.INTERMEDIATE, index)
            self._waiting.append((header.encode() + part, token if last else None))
        self._waiting_sdus += 1
        return True

    @property
    def pending_tokens(self) -> list[int]:
        """Tokens of the SDUs not acknowledged yet."""
        sent = [packet.token for packet in self._unacknowledged if packet.token is not None]
        return sent + [token for _, token in self._waiting if token is not None]

    @property
    def idle(self) -> bool:
        """Whether `packets` has nothing to do, at whatever time."""
        return not (
            self._unacknowledged or self._waiting or self._acknowledge_at is not None or self._assembly is not None
        )

    @property
    def wake_at(self) -> float | None:
        """When `packets` has something to say without any input [s]."""
        if self.idle:
            return None
        deadlines = [self._due_s(packet) for packet in self._candidates()]
        if self._acknowledge_at is not None:
            deadlines.append(self._acknowledge_at)
        if self._assembly is not None:
            deadlines.append(self._assembly.until_s)
        if self._asked_s is not None and self._waiting:
            deadlines.append(self._asked_s + ASKED_S_MAX)
        return min(deadlines, default=None)

    @property
    def sendable(self) -> bool:
        """Whether a new packet may go now: something waits, the window is open, no answer is awaited. Nor
        while the oldest one is repeated: the way is broken or crowded."""
        wait = self._pausing or self._probing
        window = self._peer_window - (self._asked_s is not None)
        return bool(self._waiting) and not wait and len(self._unacknowledged) < window

    def _patience_s(self, packet: _Packet) -> float:
        """Grows with each repetition: what is lost often is lost to something that lasts."""
        patience_s = max(self._floor_s, min(PATIENCE_FIRST_S_MAX, 4 * self._round_trip_s))
        longest_s = max(PATIENCE_S_MAX, patience_s * PATIENCE_GROWTH_MAX)
        return float(min(longest_s, patience_s * 2 ** max(0, packet.count - 1)))

    def _due_s(self, packet: _Packet) -> float:
        """When a packet is sent again [s]: counted from the last one of its burst, as that is what is acknowledged."""
        same_burst = not packet.asked and self._last_sent_s - packet.sent_s < BURSTS * self._settings.burst_s
        from_s = max(packet.sent_s, self._last_sent_s) if same_burst else packet.sent_s
        return from_s + self._patience_s(packet)

    def _candidates(self) -> list[_Packet]:
        """What may be repeated: while the way is doubted the oldest alone, as a question whether it is open (ours),
        and what is asked for."""
        if not self._probing:
            return list(self._unacknowledged)
        oldest = self._unacknowledged[0]
        return [packet for packet in self._unacknowledged if packet is oldest or packet.asked]

    def hurry(self, at_s: float) -> None:
        """The way is open again: repeat what waits for its acknowledgement not later than at an instant [s]."""
        for packet in self._unacknowledged:
            if self._due_s(packet) > at_s:
                packet.asked = True
                packet.sent_s = at_s - self._patience_s(packet)

    def packets(self, now: float, limit: int = MODULUS) -> list[bytes]:
        """Payloads to send now, at most ``limit``: repetitions, new packets within the window, or an acknowledgement
        that is due."""
        bodies: list[_Packet] = []
        if self._unacknowledged:
            oldest = self._unacknowledged[0]
            self._probing |= not oldest.asked and now >= self._due_s(oldest)
        if self._asked_s is not None and now >= self._asked_s + ASKED_S_MAX:
            self._asked_s = None
        for packet in self._candidates():
            if len(bodies) < limit and now >= self._due_s(packet):
                if packet.count >= self._settings.transmissions_max:
                    self.failed = True
                    return []
                if not packet.asked:
                    self._pausing = False
                packet.asked = False
                bodies.append(packet)
        while self.sendable and len(bodies) < limit:
            body, token = self._waiting.popleft()
            packet = _Packet(self._next_number, body, token)
            self._next_number = (self._next_number + 1) % MODULUS
            self._unacknowledged.append(packet)
            bodies.append(packet)
        if self._assembly is not None and now >= self._assembly.until_s:
            self._assembly = None
        payloads = []
        self.asks = False
        for index, packet in enumerate(bodies):
            packet.sent_s = now
            packet.count += 1
            flush = index == len(bodies) - 1 and self._ends_burst(now)
            payloads.append(self._header(packet.number, flush=flush) + packet.body)
        if not payloads and self._acknowledge_at is not None and now >= self._acknowledge_at:
            payloads.append(self._header(self._next_number, flush=False))
        if payloads:
            self._acknowledge_at = None
            self._unanswered = 0
        if bodies:
            self._last_sent_s = now
        return payloads

    def _ends_burst(self, now: float) -> bool:
        """Whether an acknowledgement is due. A sender that goes on and on leaves no gap for it on the line, so after
        a while, and before its window is full, it asks for one: of a neighbour, whose answer comes at once, it leaves
        the line free for it and goes on meanwhile (`asks`); over several hops it waits."""
        asked = self._asked_s is not None
        if not self.sendable:
            self._burst_s = None
            return not (asked and self._waiting and not self._probing)
        if self._burst_s is None:
            self._burst_s = now
        left = self._peer_window - len(self._unacknowledged)
        soon_full = left <= ASK_AHEAD < self._peer_window // 2 and self._near and not asked
        if not soon_full and now - self._burst_s < self._settings.burst_s:
            return False
        self._burst_s = None
        self.asks = self._near
        self._pausing = not self._near
        if self._near:
            self._asked_s = now
        return True

    def _header(self, number: int, *, flush: bool) -> bytes:
        furthest = max((_ahead(early, self._expected) for early in self._early), default=0)
        missing = [(self._expected + step) % MODULUS for step in range(furthest)]
        nacks = tuple(number for number in missing if number not in self._early)
        return ArqHeader(number, flush, self._settings.window, nacks, self._expected).encode()

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, payload: bytes, now: float) -> tuple[list[bytes], list[int]]:
        """SDUs complete now, in order and once, and tokens of our SDUs that are acknowledged now.

        Raises:
            DecodeError: the payload is no ARQ packet; nothing has changed then.
        """
        header, used = ArqHeader.decode(payload)
        body = payload[used:]
        if body:
            SarHeader.decode(body[:1])
        tokens = self._acknowledged(header, now)
        if not body:
            return [], tokens
        self._unanswered += 1
        ahead = _ahead(header.packet_id, self._expected)
        copy = ahead > 0 and self._copies and self._is_late(header.packet_id, body, now)
        if ahead < self._settings.window and not copy:
            self._early.setdefault(header.packet_id, body)
        sdus = []
        while (ready := self._early.pop(self._expected, None)) is not None:
            self._delivered[self._expected] = zlib.crc32(ready), now
            self._expected = (self._expected + 1) % MODULUS
            if (sdu := self._assemble(ready, now)) is not None:
                sdus.append(sdu)
        self._hold(now, flush=header.flush)
        return sdus, tokens

    def _is_late(self, number: int, body: bytes, now: float) -> bool:
        """Whether a packet that seems to be early is a copy of the last one of its number, which another hop has still
        repeated. One that is expected is taken anyway, so that SDUs that are all the same go on."""
        checksum, taken_s = self._delivered.get(number, (0, -math.inf))
        return now < taken_s + COPY_S and zlib.crc32(body) == checksum

    def _hold(self, now: float, *, flush: bool) -> None:
        """Acknowledge at once if asked in the middle of an SDU or after many packets, as somebody waits then; else wait
        a little for an answer to ride on."""
        hold_s = self._settings.acknowledge_hold_s
        if flush:
            stream = self._assembly is not None or self._unanswered >= STREAM_PACKETS
            hold_s = 0.0 if stream else self._settings.flush_hold_s
        due_s = now + hold_s
        self._acknowledge_at = due_s if self._acknowledge_at is None else min(due_s, self._acknowledge_at)

    def _acknowledged(self, header: ArqHeader, now: float) -> list[int]:
        if header.window is not None:
            self._peer_window = max(1, header.window)
        tokens: list[int] = []
        self._pausing = False
        if header.ack is not None and self._unacknowledged:
            done = _ahead(header.ack, self._unacknowledged[0].number)
            if done <= len(self._unacknowledged):
                if done:
                    self._asked_s = None
                was_probing, self._probing = self._probing, self._probing and not done
                for _ in range(done):
                    packet = self._unacknowledged.popleft()
                    if packet.count == 1:
                        self._round_trip_s += 0.25 * (now - packet.sent_s - self._round_trip_s)
                    if packet.token is not None:
                        tokens.append(packet.token)
                        self._waiting_sdus -= 1
                if was_probing and not self._probing:  # what was held back was not confirmed with it, so it is lost
                    for packet in self._unacknowledged:
                        packet.asked |= now >= self._due_s(packet)
        for packet in self._unacknowledged:
            # A first transmission that is missed is lost, as a later one has come; a repetition may be on its way.
            again = packet.count == 1 or now - packet.sent_s > self._round_trip_s
            if packet.number in header.nacks and again:
                packet.asked = True
                packet.sent_s = now - self._patience_s(packet)  # due at once
        return tokens

    def _assemble(self, body: bytes, now: float) -> bytes | None:
        header = SarHeader.decode(body[:1])
        part = body[1:]
        if header.type is SarType.FIRST:
            if header.value == 0:
                self._assembly = None
                return part
            self._assembly = _Assembly(header.value + 1, [part], None, now + self._settings.reassembly_s_max)
            return None
        assembly = self._assembly
        if assembly is None:
            return None
        rises = assembly.last_value is None or header.value == (assembly.last_value + 1) % 64
        assembly.parts.append(part)
        assembly.last_value = header.value
        complete = len(assembly.parts) == assembly.segments
        if not rises or complete != (header.type is SarType.LAST):
            self._assembly = None
            return None
        if not complete:
            return None
        self._assembly = None
        return b"".join(assembly.parts)
