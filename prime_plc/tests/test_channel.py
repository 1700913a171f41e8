"""When a frame goes: streams that ask for their acknowledgement, frames that follow each other."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from prime_plc.channel import (
    ANSWER_BYTES,
    ANSWER_SPAN_S,
    ANSWER_SPREAD_S,
    BYTE_S,
    GAP_S,
    MESSAGE_BYTES,
    ChannelAccess,
    Outgoing,
)
from prime_plc.frame_clock import FrameClock
from prime_plc.links import Links
from prime_plc.modem_messages import TransmitResult
from prime_plc.pdu import Packet
from prime_plc.phy import PDU_BYTES_MAX, SYMBOL_S, Scheme
from prime_plc.settings import CONTENTION_SYMBOLS_MIN, FRAME_S, MacSettings
from prime_plc.tests.captured_frames import SNA
from prime_plc.tests.ether import MODEM

SLOT_S = 5 * SYMBOL_S
BACKOFF_SYMBOLS_MAX = 5
"""Of data at its first attempt."""


def channel(settings: MacSettings, seed: int = 3, cfp: int = 0) -> ChannelAccess:
    """A queue in a frame that begins at 0 s and has one beacon slot; contention ends at symbol ``cfp`` if given."""
    clock = FrameClock(5)
    clock.beacon(0.0, 0, 1, cfp, 0)
    access = ChannelAccess(settings, MODEM, clock, Links(settings), random.Random(seed))
    access.sna = SNA
    return access


def data(number: int, length: int, lcid: int = 256) -> Packet:
    """A data packet of a length [byte]."""
    return Packet(False, 2, False, lcid, 0, 9, bytes((number,)) * length)


FAST = MacSettings(scheme=Scheme.D8PSK, schemes=(Scheme.D8PSK,))
"""A stream's frames are about as long as the serial port takes for one."""

SEGMENT_BYTES = 256
AIR_S = MODEM.airtime_s(SEGMENT_BYTES + 13, Scheme.D8PSK)
PORT_S = (SEGMENT_BYTES + 13 + ANSWER_BYTES + 2 * MESSAGE_BYTES) * BYTE_S
"""[s] From the end of a frame that asks to the earliest answer."""


def stream(seed: int, count: int, asking: int) -> list[tuple[float, float]]:
    """Carry so many frames of one stream, of which one asks; begin and end of each on air."""
    access = channel(FAST, seed)
    spans: list[tuple[float, float]] = []
    pending: list[tuple[float, int]] = []
    put, now = 0, 0.05
    while len(spans) < count:
        while len(access) < 2 and put < count:
            access.put(Outgoing(2, True, 0, 5, [data(put, SEGMENT_BYTES)], asks=put == asking), now)
            put += 1
        ended_s = pending[0][0] if pending else math.inf
        due_s = math.inf if access.wake_at is None else access.wake_at
        now = max(now, min(ended_s, due_s))
        if ended_s <= due_s:
            access.confirmed(pending.pop(0)[1], TransmitResult.SUCCESS, now)
        elif (frame := access.wake(now)) is not None:
            begin_s = now + (len(frame.pdu) + MESSAGE_BYTES) * BYTE_S if frame.start_s is None else frame.start_s
            spans.append((begin_s, begin_s + AIR_S))
            pending.append((begin_s + AIR_S, frame.buffer))
    return spans


@pytest.mark.parametrize("seed", range(40))
def test_a_frame_that_asks_in_a_stream_leaves_the_line_free_for_the_answer(seed: int) -> None:
    """Whatever is drawn, nothing of ours is on air from soon after the earliest answer to the end of most of them. One
    frame may go before; and none comes later than the longest backoff after that."""
    spans = stream(seed, 8, asking=3)
    from_s = spans[3][1] + PORT_S + ANSWER_SPREAD_S
    to_s = spans[3][1] + PORT_S + ANSWER_SPAN_S
    assert all(end_s <= from_s or begin_s >= to_s - 1e-9 for begin_s, end_s in spans)
    assert sum(spans[3][1] < end_s <= from_s for _, end_s in spans) <= 1
    assert min(begin_s for begin_s, _ in spans if begin_s >= to_s - 1e-9) <= to_s + BACKOFF_SYMBOLS_MAX * SYMBOL_S


@pytest.mark.parametrize("seed", range(10))
def test_a_stream_that_does_not_ask_makes_no_pause(seed: int) -> None:
    """Frames follow each other within the longest backoff, and the modem's gap."""
    pauses = [after[0] - before[1] for before, after in itertools.pairwise(stream(seed, 8, asking=99))]
    assert max(pauses[1:]) <= BACKOFF_SYMBOLS_MAX * SYMBOL_S + 1e-9
    assert min(pauses) >= GAP_S - 1e-9


FLUSH = 0x40
"""Bit of a packet's first byte: the last of its burst."""


@pytest.mark.parametrize(("first", "lcid", "stays"), [(0, 256, True), (FLUSH, 256, False), (0, 257, False)])
def test_the_end_of_a_frame_leaves_the_next_one_of_its_stream_where_it_was(
    *, first: int, lcid: int, stays: bool
) -> None:
    """A backoff that is drawn is not drawn again when the modem confirms the frame before. After the end of a burst,
    and for another connection, it is, so that neighbours have a gap to answer in."""
    access = channel(MacSettings())
    access.put(Outgoing(2, True, 0, 5, [data(first, 300)]), 0.1)
    access.put(Outgoing(2, True, 0, 6, [data(1, 300, lcid)]), 0.1)
    assert access.wake_at is not None
    frame = access.wake(access.wake_at)
    assert frame is not None
    planned_s = access.wake_at
    assert planned_s is not None
    access.confirmed(frame.buffer, TransmitResult.SUCCESS, planned_s - 0.001)
    assert (access.wake_at == planned_s) is stays


@pytest.mark.parametrize("same", [True, False])
def test_a_stream_that_waits_for_the_next_frame_is_with_the_modem_when_that_begins(*, same: bool) -> None:
    """Too late for this contention period: the serial port's time is not lost once more after the beacon. What is no
    stream takes its backoff then, as all do who have waited for it."""
    access, now = channel(MacSettings()), FRAME_S - 0.19
    access.put(Outgoing(2, True, 0, 5, [data(1, 300)]), now)
    assert access.wake_at is not None
    first = access.wake(access.wake_at)
    assert first is not None
    access.confirmed(first.buffer, TransmitResult.SUCCESS, FRAME_S - 0.06)
    access.put(Outgoing(2, True, 0, 6, [data(2, 300, 256 if same else 257)]), FRAME_S - 0.06)
    assert access.wake_at is not None
    assert (access.wake_at < FRAME_S + SLOT_S) is same
    frame = access.wake(access.wake_at)
    assert frame is not None
    assert (frame.start_s is not None) is same
    start_s = frame.start_s or FRAME_S + SLOT_S
    assert FRAME_S + SLOT_S <= start_s <= FRAME_S + SLOT_S + BACKOFF_SYMBOLS_MAX * SYMBOL_S


def test_a_frame_that_no_contention_period_holds_is_given_up() -> None:
    """In the shortest structure that is followed the longest PDU in the most robust modulation does not fit: it is
    dropped, counted and named, and what waits behind it goes."""
    access = channel(MacSettings(), cfp=CONTENTION_SYMBOLS_MIN + 5)
    longest = Outgoing(2, True, 0, 5, [data(1, PDU_BYTES_MAX - 13)])
    access.put(longest, 0.1)
    access.put(Outgoing(2, True, 0, 6, [data(2, 100)]), 0.1)
    assert (access.dropped, access.too_long) == (1, [longest])
    assert access.wake_at is not None
    frame = access.wake(access.wake_at)
    assert frame is not None
    assert len(frame.pdu) == 113
