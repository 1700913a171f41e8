"""Two ends and an attacker: what was recorded, turned round, cut or copied is never let in."""

from __future__ import annotations

import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cosem import encode_down, encode_up
from shared.cosem_security import Hello, encode_introduction
from shared.errors import DeviceError
from shared.ids import Epoch, Nonce, RequestId
from shared.messages import DecisionId, Grant, NominalLimit, Reason, Release, Revoke
from shared.protection import COUNTER_MAX, PairKeys, parse, protect, protect_group
from shared.secret_files import CounterFile, DiskFiles
from shared.session import (
    BLOCK,
    HELLO_S,
    HELLOS_MAX,
    WINDOW,
    Arrival,
    End,
    InvocationCounter,
    Own,
    Refusal,
    Refusals,
    ReplayWindow,
    Session,
)

KEYS = PairKeys(bytes(range(16)), bytes(range(16, 32)))
WRONG = PairKeys(bytes(16), bytes(range(16, 32)))
GROUP = PairKeys(bytes(range(32, 48)), bytes(range(48, 64)))
UP = encode_up(Release(RequestId(7), Epoch(3), None), 1)
DOWN = encode_down(Grant(DecisionId(Epoch(3), 1), RequestId(7), Nonce(9), 2400.0, 60.0), 1)
REVOKE = encode_down(Revoke(DecisionId(Epoch(3), 2), Reason.OVERVOLTAGE, None, None), 1)


def started(end: End, draw: random.Random, keys: PairKeys = KEYS, first: int = 0) -> Session:
    """One end that has just started."""
    own = Own.start(end, InvocationCounter(first, first + BLOCK), draw)
    return Session(own, keys, draw, GROUP)


@dataclass
class Wire:
    """A meter and a DCU, and everything that was ever said between them."""

    draw: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.0
    heard: list[tuple[End, bytes]] = field(default_factory=list)
    vectors: list[tuple[bytes, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = {end: started(end, self.draw) for end in End}

    @property
    def meter(self) -> Session:
        return self.ends[End.METER]

    @property
    def dcu(self) -> Session:
        return self.ends[End.DCU]

    def restart(self, end: End, first: int = 0) -> None:
        """An end forgets everything but what its disk says."""
        self.ends[end] = started(end, self.draw, first=first)

    def carry(self, sender: End, data: bytes) -> Arrival:
        """One frame, and whatever it makes the ends say to each other."""
        self.heard.append((sender, data))
        self.vectors.append((self.ends[sender].title, parse(data).counter))
        found = self.ends[sender.other].receive(data, self.now)
        for answer in found.answers:
            self.carry(sender.other, answer)
        return found

    def meet(self, first: End = End.METER) -> None:
        """Whoever begins, both are fresh afterwards."""
        self.now += 60.0
        for data in self.ends[first].hello(self.now):
            self.carry(first, data)
        assert self.meter.open
        assert self.dcu.open

    def say(self, sender: End, plain: bytes) -> Arrival:
        data = self.ends[sender].protect(plain)
        assert data is not None
        return self.carry(sender, data)


@pytest.fixture
def wire() -> Wire:
    """Two ends that know each other."""
    met = Wire()
    met.meet()
    return met


@pytest.mark.parametrize("first", list(End))
def test_three_frames_make_a_session(first: End) -> None:
    """Whoever begins; afterwards both directions are open, and no title is sent."""
    wire = Wire()
    wire.meet(first)
    assert len(wire.heard) == 3
    assert wire.say(End.METER, UP).plain == UP
    assert wire.say(End.DCU, DOWN).plain == DOWN
    assert all(parse(data).title == b"" for _, data in wire.heard[3:])


def test_introductions_that_cross_end_in_one_session() -> None:
    """Both begin at once: it settles in a few frames, and does not go on for ever."""
    wire = Wire()
    both = [(end, data) for end in End for data in wire.ends[end].hello(0.0)]
    for end, data in both:
        wire.carry(end, data)
    assert wire.meter.open
    assert wire.dcu.open
    assert len(wire.heard) <= 8
    assert wire.say(End.DCU, DOWN).plain == DOWN


def test_nothing_is_believed_before_an_introduction() -> None:
    """An authentic message of a start that was never met is refused, and asked about."""
    wire = Wire()
    found = wire.say(End.METER, UP)
    assert (found.plain, found.refusal) == (None, Refusal.NOT_FRESH)
    assert wire.meter.open
    assert wire.say(End.METER, UP).plain == UP


def test_a_replay_is_refused_however_often_and_in_whatever_order(wire: Wire) -> None:
    """Every frame of a conversation, again and shuffled: nothing gets through."""
    for _ in range(100):
        assert wire.say(End.DCU, DOWN).plain == DOWN
    again = list(wire.heard) * 2
    random.Random(3).shuffle(again)
    for sender, data in again:
        found = wire.ends[sender.other].receive(data, wire.now)
        assert found.plain is None
        assert not found.began
        assert found.refusal in {Refusal.REPLAYED, None}
    assert wire.say(End.DCU, DOWN).plain == DOWN


def test_what_the_line_reorders_passes_once(wire: Wire) -> None:
    """Within the window, each once; behind it never."""
    sent = [data for _ in range(WINDOW + 10) if (data := wire.dcu.protect(DOWN)) is not None]
    assert wire.meter.receive(sent[-1], 0.0).plain == DOWN
    late = [wire.meter.receive(data, 0.0).refusal for data in sent[:-1]]
    assert late == [Refusal.REPLAYED] * 10 + [None] * (WINDOW - 1)
    assert all(wire.meter.receive(data, 0.0).refusal is Refusal.REPLAYED for data in sent)


def test_our_own_message_that_comes_back_is_refused(wire: Wire) -> None:
    """Reflection, of messages and of introductions."""
    mine = wire.meter.protect(UP)
    assert mine is not None
    assert wire.meter.receive(mine, 0.0).refusal is Refusal.REFLECTED
    for data in wire.meter.hello(100.0):
        assert wire.meter.receive(data, 100.0).refusal is Refusal.REFLECTED


def test_a_wrong_key_opens_no_session() -> None:
    """Not even an introduction; and what is said under it is not let in."""
    wire = Wire()
    wire.ends[End.DCU] = started(End.DCU, wire.draw, WRONG)
    for data in wire.meter.hello(0.0):
        assert wire.carry(End.METER, data).refusal is Refusal.NOT_AUTHENTIC
    assert not wire.meter.open
    assert not wire.dcu.open


def test_plain_messages_are_refused(wire: Wire) -> None:
    """As before there was protection."""
    assert wire.meter.receive(DOWN, 0.0).refusal is Refusal.NOT_PROTECTED
    assert wire.dcu.receive(UP, 0.0).refusal is Refusal.NOT_PROTECTED


def test_recordings_of_an_earlier_start_are_refused_after_both_have_restarted() -> None:
    """Whatever was said before, introductions included, to an end that remembers nothing of it."""
    wire = Wire()
    wire.meet()
    for _ in range(20):
        wire.say(End.METER, UP)
        wire.say(End.DCU, DOWN)
    recorded = list(wire.heard)
    for end in End:
        wire.restart(end, first=BLOCK)
        for sender, data in recorded:
            found = wire.ends[sender.other].receive(data, wire.now)
            assert found.plain is None
            assert not found.began
            wire.now += 1.0
    wire.meet()
    for sender, data in recorded:
        found = wire.ends[sender.other].receive(data, wire.now)
        assert found.plain is None
        assert not found.began
    assert wire.say(End.DCU, DOWN).plain == DOWN


@pytest.mark.parametrize("end", list(End))
def test_what_the_other_end_said_to_our_last_start_is_refused_by_this_one(end: End) -> None:
    """Only this end has restarted: the other one goes on under the same title and the same keys, and a recording of
    what it said before is authentic, known by its title, and was never seen by this start."""
    wire = Wire()
    wire.meet()
    for _ in range(WINDOW // 2):
        wire.say(end.other, DOWN)
    recorded = [data for sender, data in wire.heard if sender is end.other]
    wire.restart(end, first=BLOCK)
    wire.meet(end)
    for data in recorded:
        found = wire.ends[end].receive(data, wire.now)
        assert (found.plain, found.began, found.refusal) == (None, False, Refusal.REPLAYED)
    assert wire.say(end.other, DOWN).plain == DOWN


def named(data: bytes, title: bytes) -> bytes:
    """The same content in an envelope that names its sender: nothing authenticates an envelope's own header."""
    envelope = parse(data)
    content = b"\x30" + envelope.counter.to_bytes(4, "big") + envelope.content
    return b"\xdb\x08" + title + bytes((len(content),)) + content


def test_a_recording_with_its_old_title_written_on_it_is_refused() -> None:
    """Who heard an introduction knows the title, and can put it on every message that was said under it."""
    wire = Wire()
    wire.meet()
    titles = {end: session.title for end, session in wire.ends.items()}
    for sender, plain in ((End.METER, UP), (End.DCU, DOWN)):
        found = wire.say(sender, plain)
        assert found.plain == plain
    recorded = list(wire.heard[-2:])
    for sender, data in recorded:
        again = named(data, titles[sender])
        assert wire.ends[sender.other].receive(again, wire.now).refusal is Refusal.REPLAYED
        wire.restart(sender.other, first=BLOCK)
        assert wire.ends[sender.other].receive(again, wire.now).refusal is Refusal.NOT_FRESH
    for end in End:
        wire.restart(end, first=2 * BLOCK)
    wire.meet()
    for sender, data in recorded:
        found = wire.ends[sender.other].receive(named(data, titles[sender]), wire.now)
        assert (found.plain, found.refusal) == (None, Refusal.NOT_FRESH)


@pytest.mark.parametrize("end", list(End))
def test_an_old_disk_image_repeats_no_vector_and_raises_nothing(end: End) -> None:
    """The counters of an end roll back to what they were, again and again.

    Its peer refuses what comes until the end has introduced itself anew; no pair of title and counter returns; and
    recordings of the time that the image has forgotten stay recordings.
    """
    wire = Wire()
    for _ in range(5):
        wire.restart(end, first=0)
        plain = UP if end is End.METER else DOWN
        if wire.ends[end.other].open:
            assert wire.say(end, plain).plain is None
        wire.meet(end)
        assert wire.say(end, plain).plain == plain
    assert len(set(wire.vectors)) == len(wire.vectors) > 25
    recorded = list(wire.heard)
    wire.restart(end, first=0)
    wire.meet(end)
    for sender, data in recorded:
        assert wire.ends[sender.other].receive(data, wire.now).plain is None


def test_a_challenge_is_good_for_once(wire: Wire) -> None:
    """The confirmation that opened a session does not open it again after a later one."""
    old = list(wire.heard)
    wire.restart(End.METER, first=BLOCK)
    wire.meet()
    peer = wire.dcu.peer
    for sender, data in old:
        if sender is End.METER:
            assert not wire.dcu.receive(data, wire.now).began
    assert wire.dcu.peer == peer


def test_an_introduction_is_paced(wire: Wire) -> None:
    """However many bad frames come, introductions leave at their pace."""
    bad = bytearray(wire.dcu.protect(DOWN) or b"")
    bad[-1] ^= 1
    answers = sum(len(wire.meter.receive(bytes(bad), 1000.0).answers) for _ in range(1000))
    assert answers == HELLOS_MAX
    assert len(wire.meter.receive(bytes(bad), 1000.0 + HELLO_S).answers) == 1


@pytest.mark.parametrize("first", list(End))
def test_ends_with_different_keys_do_not_answer_each_other(first: End) -> None:
    """A hundred meters whose keys the DCU does not have, or no longer, would fill the line with introductions."""
    wire = Wire()
    wire.ends[End.DCU] = started(End.DCU, wire.draw, WRONG)
    for data in wire.ends[first].hello(0.0):
        wire.carry(first, data)
    assert len(wire.heard) == 1


@pytest.mark.parametrize("end", list(End))
def test_recordings_that_use_up_the_pace_keep_nobody_apart(end: End) -> None:
    """One end starts again, and before its introduction is answered somebody makes it say all that its pace allows, and
    then the other one: who has shown to be alive is answered all the same, and both are fresh."""
    wire = Wire()
    wire.meet()
    bad = {some: flipped(wire.ends[some.other].protect(DOWN)) for some in End}
    wire.restart(end, first=BLOCK)
    wire.now += 60.0
    (hello,) = wire.ends[end].hello(wire.now)
    (answer,) = wire.ends[end.other].receive(hello, wire.now).answers
    for some in End:
        while wire.ends[some].receive(bad[some], wire.now).answers:
            pass
        assert wire.ends[some].hello(wire.now) == ()
    last = wire.ends[end].receive(answer, wire.now)
    assert last.began
    for data in last.answers:
        wire.carry(end, data)
    for some in End:
        assert wire.say(some, UP).plain == UP


def flipped(data: bytes | None) -> bytes:
    """With one bit of its tag changed."""
    assert data is not None
    return data[:-1] + bytes((data[-1] ^ 1,))


def test_the_group_key_lowers_once_and_never_raises(wire: Wire) -> None:
    """A revoke passes; a grant, a nominal limit and an introduction do not; nor a revoke from elsewhere, or again."""
    title = wire.meter.peer
    counter = 500
    for plain in (
        DOWN,
        encode_down(NominalLimit(DecisionId(Epoch(9), 1), 9e6), 1),
        encode_introduction(Hello(1, None, True), down=True),
    ):
        counter += 1
        found = wire.meter.receive(protect_group(plain, GROUP, title, counter), 0.0)
        assert (found.plain, found.refusal) == (None, Refusal.GROUP_RAISES)
    revoke = protect_group(REVOKE, GROUP, title, 600)
    assert wire.meter.receive(revoke, 0.0) == Arrival(REVOKE, group=True)
    assert wire.meter.receive(revoke, 0.0).refusal is Refusal.REPLAYED
    assert wire.meter.receive(protect_group(REVOKE, WRONG, title, 601), 0.0).refusal is Refusal.NOT_AUTHENTIC
    other = protect_group(REVOKE, GROUP, b"HDCother", 602)
    assert wire.meter.receive(b"\xdb\x08HDCother" + other[2:], 0.0).refusal is Refusal.NOT_FRESH
    assert wire.meter.receive(protect(DOWN, GROUP, title, 603), 0.0).refusal is Refusal.NOT_AUTHENTIC


@given(st.lists(st.integers(0, 300), max_size=200))
def test_a_window_is_a_set_with_a_horizon(counters: list[int]) -> None:
    """Against the plainest model: accepted once, and only within the horizon."""
    window, seen, highest = ReplayWindow(10), set(range(11)), 10
    for counter in counters:
        expected = counter not in seen and counter > highest - WINDOW
        assert window.accept(counter) is expected
        seen.add(counter)
        highest = max(highest, counter) if expected else highest


def test_counters_end_and_nothing_is_sent_then() -> None:
    """A block that was not renewed, and the last of the 32 bits."""
    counter = InvocationCounter(0, 2)
    assert [counter.take(), counter.take(), counter.take()] == [0, 1, None]
    assert counter.wanted == 2 + BLOCK
    counter.extend(2 + BLOCK)
    assert counter.take() == 2
    last = InvocationCounter(COUNTER_MAX - 1, COUNTER_MAX + 5)
    assert [last.take(), last.take()] == [COUNTER_MAX - 1, None]
    assert last.wanted is None
    draw = random.Random(1)
    session = Session(Own.start(End.METER, InvocationCounter(0, 0), draw), KEYS, draw)
    assert session.protect(UP) is None
    assert session.hello(0.0) == ()


def test_refusals_are_counted_and_told_when_they_double() -> None:
    """A flood of a million is twenty lines."""
    told: list[int] = []
    refusals = Refusals(lambda _, number: told.append(number))
    for _ in range(1000):
        refusals.count(Refusal.REPLAYED)
    assert refusals.summary() == {"replayed": 1000}
    assert told == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


class FickleFiles:
    """A disk in memory that can forget, refuse, or come back as it was."""

    def __init__(self) -> None:
        self.content: dict[Path, bytes] = {}
        self.broken = False
        self.lies = False

    def read(self, path: Path) -> bytes:
        if path not in self.content:
            raise FileNotFoundError(path)
        return self.content[path]

    def replace(self, path: Path, data: bytes) -> None:
        if self.broken:
            raise OSError(5, "Input/output error")
        if not self.lies:
            self.content[path] = data


def test_a_restart_skips_what_was_reserved() -> None:
    """Used or not; and a reservation stands on disk before its first number is given out."""
    files = FickleFiles()
    given: list[int] = []
    for _ in range(4):
        counter = CounterFile(Path("c"), files).start()
        assert counter.next + BLOCK == int(files.content[Path("c")].split(b":")[1].strip(b" }\n"))
        given += [number for _ in range(3) if (number := counter.take()) is not None]
    assert given == [1 + start * BLOCK + number for start in range(4) for number in range(3)]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"reserved": -1}', b'{"reserved": true}', b"[" * 10000, b"\xff"])
def test_a_damaged_reservation_is_refused(content: bytes) -> None:
    """Nobody guesses a counter."""
    files = FickleFiles()
    files.content[Path("c")] = content
    with pytest.raises(DeviceError):
        CounterFile(Path("c"), files).start()


def test_a_secret_file_is_durable_before_it_is_put_in_its_place_and_that_is_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power cut tests: content, rename, directory."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synchronised(file: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "content")
        fsync(file)

    def renamed(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synchronised)
    monkeypatch.setattr(Path, "replace", renamed)
    DiskFiles().replace(tmp_path / "c", b"1")
    assert done == ["content", "rename", "directory"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_disk_that_refuses_stops_the_start() -> None:
    """No reservation, no counter."""
    files = FickleFiles()
    files.broken = True
    with pytest.raises(DeviceError):
        CounterFile(Path("c"), files).start()


def test_a_disk_that_lies_repeats_no_vector() -> None:
    """Reservations never reach the medium: the counters return, the titles do not."""
    files = FickleFiles()
    files.lies = True
    draw = random.Random(2)
    vectors = set()
    for _ in range(50):
        own = Own.start(End.METER, CounterFile(Path("c"), files).start(), draw)
        vectors |= {(own.title, own.counter.take()) for _ in range(3)}
    assert len(vectors) == 150
