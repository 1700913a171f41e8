"""ARQ and SAR: everything once and in order, whatever the line loses, doubles or delays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime_plc.connection import ASKED_S_MAX, COPY_S, Connection
from prime_plc.settings import MacSettings
from prime_plc.subheader import ArqHeader, SarHeader, SarType
from shared.errors import DecodeError

SETTINGS = MacSettings(segment_bytes=16)


def exchange(
    sdus: list[bytes], seed: int, loss: float, doubling: float, seconds: float
) -> tuple[list[bytes], list[int], Connection]:
    """Carry SDUs from one end to the other over a line that loses and doubles; what arrived, what was confirmed."""
    draw = random.Random(seed)
    ends = (Connection(SETTINGS), Connection(SETTINGS))
    line: list[tuple[float, int, int, bytes]] = []
    for token, sdu in enumerate(sdus):
        assert ends[0].send(sdu, token)
    arrived: list[bytes] = []
    confirmed: list[int] = []
    now, order = 0.0, 0
    while now < seconds and not ends[0].failed:
        for side in (0, 1):
            for payload in ends[side].packets(now):
                for _ in range(2 if draw.random() < doubling else 1):
                    if draw.random() >= loss:
                        order += 1
                        line.append((now + 0.05 + 0.2 * draw.random() * doubling, order, 1 - side, payload))
        times = [entry[0] for entry in line] + [at for end in ends if (at := end.wake_at) is not None]
        if not times:
            break
        now = max(now, min(times))
        for entry in sorted(entry for entry in line if entry[0] <= now):
            line.remove(entry)
            got, tokens = ends[entry[2]].receive(entry[3], now)
            arrived += got
            confirmed += tokens
    return arrived, confirmed, ends[0]


def test_a_perfect_line_carries_everything() -> None:
    """Short, segmented and empty SDUs arrive whole, in order, once, and are confirmed."""
    sdus = [b"a", b"", bytes(range(200)), b"end"]
    arrived, confirmed, _ = exchange(sdus, 1, 0.0, 0.0, 60.0)
    assert (arrived, confirmed) == (sdus, [0, 1, 2, 3])


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=8), st.integers(0, 2**32), st.sampled_from((0.1, 0.3)))
def test_a_bad_line_loses_and_doubles_nothing(sdus: list[bytes], seed: int, loss: float) -> None:
    """With 10 or 30 % loss, duplicates and reordering the receiver sees a prefix of what was sent; all of it unless
    given up."""
    arrived, confirmed, sender = exchange(sdus, seed, loss, 0.2, 600.0)
    assert arrived == sdus[: len(arrived)]
    assert confirmed == list(range(len(confirmed)))
    assert sender.failed or arrived == sdus


@pytest.mark.parametrize("seed", [60, 5, 321])
def test_a_segment_that_comes_late_loses_no_sdu(seed: int) -> None:
    """Seed 60 repeats the second segment for more than half a minute; the first was acknowledged and does not come
    again."""
    sdus = [b"", b"", bytes(17)]
    arrived, confirmed, _ = exchange(sdus, seed, 0.3, 0.2, 600.0)
    assert (arrived, confirmed) == (sdus, [0, 1, 2])


def test_a_dead_line_is_given_up_after_five_transmissions() -> None:
    """Each packet goes out ARQMaxTxCount times, then the connection fails; nothing is confirmed."""
    arrived, confirmed, sender = exchange([b"lost"], 1, 1.0, 0.0, 120.0)
    assert (arrived, confirmed, sender.failed, sender.pending_tokens) == ([], [], True, [0])


def test_an_acknowledgement_rides_on_the_answer() -> None:
    """Data that is ready within the hold time carries the acknowledgement; no frame of its own goes out."""
    near, far = Connection(SETTINGS), Connection(SETTINGS)
    near.send(b"question", 1)
    (payload,) = near.packets(0.0)
    assert far.receive(payload, 0.1) == ([b"question"], [])
    assert far.packets(0.11) == []
    far.send(b"answer", 2)
    (answer,) = far.packets(0.12)
    assert near.receive(answer, 0.2) == ([b"answer"], [1])
    assert far.wake_at is not None


def test_the_sender_keeps_to_the_window_it_was_told() -> None:
    """Before the peer speaks four packets are under way, never more."""
    sender = Connection(SETTINGS)
    for token in range(10):
        sender.send(b"x", token)
    assert len(sender.packets(0.0)) == 4
    assert sender.packets(0.1) == []
    sender.receive(ArqHeader(0, False, 2, (), 3).encode(), 0.2)
    assert len(sender.packets(0.2)) == 1


def stream(hops: int) -> Connection:
    """A sender whose peer has opened its largest window, and who has more to say than fits into it."""
    sender = Connection(MacSettings(segment_bytes=2), hops)
    sender.receive(ArqHeader(0, False, 31, (), 0).encode(), 0.0)
    for token in range(2):
        assert sender.send(bytes(100), token)
    return sender


def take(sender: Connection, count: int, now: float) -> list[ArqHeader]:
    """Headers of the next packets, given one at a time."""
    return [ArqHeader.decode(payload)[0] for _ in range(count) for payload in sender.packets(now, 1)]


def test_a_stream_asks_before_its_window_is_full_and_goes_on() -> None:
    """Of 31 packets the 25th asks; those after it do not, and the last is kept back for the answer. With that the
    stream goes on and asks again a window later."""
    sender = stream(hops=1)
    first = take(sender, 25, 0.0)
    assert ([header.flush for header in first], sender.asks) == ([False] * 24 + [True], True)
    rest = take(sender, 10, 0.1)
    assert ([header.flush for header in rest], sender.asks) == ([False] * 5, False)
    sender.receive(ArqHeader(0, False, 31, (), 25).encode(), 0.2)
    assert [header.flush for header in take(sender, 20, 0.2)] == [False] * 19 + [True]


def test_an_answer_that_does_not_come_is_asked_for_by_the_packet_kept_back() -> None:
    """The acknowledgement is lost: nothing is repeated, the window's last packet asks for another one."""
    sender = stream(hops=1)
    take(sender, 31, 0.0)
    assert sender.packets(0.39) == []
    assert sender.wake_at == pytest.approx(ASKED_S_MAX)
    (last,) = take(sender, 2, ASKED_S_MAX)
    assert (last.packet_id, last.flush) == (30, True)
    assert sender.packets(ASKED_S_MAX) == []


def test_over_two_hops_a_stream_waits_for_its_acknowledgement() -> None:
    """A relay's acknowledgement would meet the stream: after a burst the sender asks and is silent."""
    sender = stream(hops=2)
    assert not any(header.flush for header in take(sender, 10, 0.0))
    (asking,) = take(sender, 2, 2.1)
    assert (asking.flush, sender.asks, sender.packets(2.2)) == (True, False, [])
    sender.receive(ArqHeader(0, False, 31, (), 11).encode(), 2.3)
    assert len(take(sender, 5, 2.3)) == 5


def test_while_a_way_is_broken_one_packet_asks_whether_it_is_open() -> None:
    """Of four packets none is acknowledged: the oldest alone is repeated, nothing new goes. Once it is acknowledged the
    others follow."""
    sender = Connection(SETTINGS)
    for token in range(4):
        sender.send(bytes((token,)), token)
    assert len(sender.packets(0.0)) == 4
    sent = []
    for second in range(1, 30):
        if second == 10:
            sender.send(b"new", 4)
        sent += [ArqHeader.decode(payload)[0].packet_id for payload in sender.packets(float(second))]
    assert set(sent[4:]) == {0}
    assert len(sent) >= 4
    sender.receive(ArqHeader(0, False, 16, (), 1).encode(), 30.0)
    assert {ArqHeader.decode(payload)[0].packet_id for payload in sender.packets(60.0)} == {1, 2, 3, 4}


@pytest.mark.parametrize("hops", [1, 4])
def test_acknowledgements_that_took_minutes_do_not_silence_a_node(hops: int) -> None:
    """Each came to a first transmission, and so is a round trip; what is lost after them is said again in half a
    minute, and then each minute."""
    sender = Connection(SETTINGS, hops)
    now = 0.0
    for number in range(6):
        sender.send(b"%d" % number, number)
        assert len(take(sender, 1, now)) == 1
        now += 900.0
        sender.receive(ArqHeader(0, False, 16, (), number + 1).encode(), now)
    sender.send(b"lost", 9)
    assert len(take(sender, 1, now)) == 1
    for longest_s in (30.0, 60.0, 60.0):
        assert sender.wake_at is not None
        assert sender.wake_at - now == longest_s
        now = sender.wake_at
        assert len(take(sender, 1, now)) == 1


def test_a_gap_is_named_and_only_the_gap_is_repeated() -> None:
    """The receiver that has 0 and 2 asks for 1."""
    sender, receiver = Connection(SETTINGS), Connection(SETTINGS)
    for token in range(3):
        sender.send(bytes((token,)), token)
    first, _, third = sender.packets(0.0)
    receiver.receive(first, 0.1)
    receiver.receive(third, 0.1)
    (complaint,) = receiver.packets(1.0)
    header, _ = ArqHeader.decode(complaint)
    assert (header.nacks, header.ack) == ((1,), 1)
    sender.receive(complaint, 1.0)
    (repeated,) = sender.packets(1.0)
    assert receiver.receive(repeated, 1.1)[0] == [b"\x01", b"\x02"]


def numbered(number: int, text: str = "") -> bytes:
    """A whole SDU in the packet of a number."""
    return segment(number % 64, SarType.FIRST, 0, (text or str(number)).encode())


@pytest.mark.parametrize("late", [34, 50, 63])
@pytest.mark.parametrize("hops", [2, 1])
def test_a_copy_from_a_turn_of_the_numbers_ago_is_not_early(late: int, hops: int) -> None:
    """It is not delivered when its number's turn comes, and the true packet is, also where the way has become shorter
    meanwhile; SDUs that are all the same go on."""
    end = Connection(SETTINGS, hops=2)
    for number in range(late):
        assert end.receive(numbered(number), number)[0] == [b"%d" % number]
    end.moved(hops)
    assert end.receive(numbered(0), late)[0] == []
    for number in range(late, 100):
        assert end.receive(numbered(number), number)[0] == [b"%d" % number]
    same = [end.receive(numbered(number, "same"), 101.0)[0] for number in range(100, 300)]
    assert same == [[b"same"]] * 200


@pytest.mark.parametrize(
    ("hops", "text", "wait_s", "kept"),
    [(2, "", 0.0, True), (2, "same", 0.0, False), (2, "same", COPY_S, True), (1, "same", 0.0, True)],
    ids=["another", "copy", "after its time", "near"],
)
def test_what_is_early_and_no_copy_is_kept(hops: int, text: str, wait_s: float, *, kept: bool) -> None:
    """A packet with other content, one that comes when no copy can be under way any more, and any over one hop, where
    nobody else repeats."""
    end = Connection(SETTINGS, hops)
    for number in range(64):
        assert end.receive(numbered(number, text), 0.0)[0] != []
    assert end.receive(numbered(65, text), wait_s)[0] == []
    assert len(end.receive(numbered(64, text), wait_s)[0]) == 1 + kept


@given(st.integers(0, 2**32))
def test_copies_and_disorder_change_nothing(seed: int) -> None:
    """Early packets and copies up to 63 late, as they come."""
    draw, end, out, now = random.Random(seed), Connection(SETTINGS, hops=2), list[bytes](), 0.0
    while len(out) < 200:
        now += 0.05
        next_ = len(out)
        copies = [next_ - draw.randrange(1, 64)] if next_ > 64 else []
        early = [next_ + draw.randrange(30) for _ in range(2)]
        out += end.receive(numbered(draw.choice([next_, *early, *copies])), now)[0]
    assert out == [b"%d" % number for number in range(len(out))]


def test_garbage_changes_nothing() -> None:
    """After an undecodable payload the connection goes on as if it had not come."""
    receiver = Connection(SETTINGS)
    with pytest.raises(DecodeError):
        receiver.receive(b"", 0.0)
    with pytest.raises(DecodeError):
        receiver.receive(b"\x00\xff", 0.0)
    assert (receiver.wake_at, receiver.packets(1.0)) == (None, [])


def test_a_full_queue_refuses() -> None:
    """At the named limit another SDU is refused, and the waiting ones stay."""
    sender = Connection(SETTINGS)
    assert [sender.send(b"x", token) for token in range(SETTINGS.sdus_max + 1)] == [True] * SETTINGS.sdus_max + [False]


def segment(number: int, kind: SarType, value: int, part: bytes) -> bytes:
    """A packet with one segment of an SDU."""
    return ArqHeader(number, False).encode() + SarHeader(kind, value).encode() + part


@pytest.mark.parametrize(("values", "whole"), [((1, 2), [b"abc"]), ((0, 1), [b"abc"]), ((1, 3), []), ((1, 1), [])])
def test_segments_that_do_not_follow_each_other_are_no_sdu(values: tuple[int, int], whole: list[bytes]) -> None:
    """Whether the second has 0 or 1 is not established; that values rise by one is asked of either."""
    end = Connection(SETTINGS)
    end.receive(segment(0, SarType.FIRST, 2, b"a"), 0.0)
    end.receive(segment(1, SarType.INTERMEDIATE, values[0], b"b"), 0.1)
    assert end.receive(segment(2, SarType.LAST, values[1], b"c"), 0.2)[0] == whole


def test_an_sdu_that_never_ends_is_forgotten() -> None:
    """Segments that come after its time are no end of it."""
    end = Connection(SETTINGS)
    end.receive(segment(0, SarType.FIRST, 1, b"a"), 0.0)
    end.packets(SETTINGS.reassembly_s_max)
    assert end.receive(segment(1, SarType.LAST, 1, b"b"), SETTINGS.reassembly_s_max + 0.1)[0] == []
    assert end.receive(segment(2, SarType.FIRST, 0, b"c"), SETTINGS.reassembly_s_max + 0.2)[0] == [b"c"]
