"""One end of a protected connection: which counters may be used, which are accepted, and who is alive. Pure.

Each end draws, when it starts, a system title of its own: three letters that say which end it is, and five random
bytes. Counters are reserved on disk ahead of their use, so that no pair of key and counter is used twice; should the
disk lie about that, or come back as an older image of itself, the title is another one all the same, and with it the
initialisation vector.

A receiver believes nothing under a title it has not met, however authentic: it may be a recording from before a
restart. Each end sends a challenge, and takes the other's title for fresh when that challenge comes back under it. A
challenge is good for once. So nothing has to be kept on a receiver's disk, and a receiver that was restored from an
old image has forgotten nothing that matters: whatever it starts from, it asks anew.

    meter                                       DCU
      | -- hello(challenge m) ------------------> |   title unknown: answered, nothing believed
      | <- hello(challenge d, echo m) ----------- |   the meter believes the DCU
      | -- hello(challenge m', echo d, known) --> |   the DCU believes the meter
      | <----------- everything else -----------> |   titles are not sent any more

Within a session counters rise; a window lets what the line has reordered pass once, but for keys, which pass in the
order they were sent in. Under the group key of a street
only what lowers is let through.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.cosem import Apdu, Written, decode_apdu
from shared.cosem_security import Hello, Introduced, KeysSent, encode_introduction
from shared.errors import DecodeError
from shared.messages import Revoke
from shared.protection import (
    COUNTER_MAX,
    Envelope,
    PairKeys,
    Spliced,
    find,
    is_protected,
    parse,
    protect,
    reveal,
)

WINDOW: Final = 64
"""Counters behind the highest one that are still accepted, once each."""

BLOCK: Final = 4096
"""Counters reserved at a time; a restart skips what was left of a block. The 32 bits last for a million starts."""

HELLO_S: Final = 2.0
"""[s] Introductions leave one in so long on average, however many bad frames ask for one."""

HELLOS_MAX: Final = 4
"""Introductions that may leave at once after a pause."""


class End(Enum):
    """Which end of a connection: the first three letters of its system title."""

    METER = b"HDM"
    DCU = b"HDC"

    @property
    def other(self) -> End:
        """The end it talks to."""
        return End.DCU if self is End.METER else End.METER


class Refusal(Enum):
    """Why a frame was not let in; counted by kind, and a frame that is refused changes nothing else."""

    NOT_PROTECTED = "not protected"
    MALFORMED = "malformed envelope"
    NO_KEY = "no key for this peer"
    NOT_AUTHENTIC = "not authentic: wrong key, or changed on the way"
    REFLECTED = "our own message, or one of our own kind"
    SPLICED = "envelope and content do not belong together"
    REPLAYED = "counter used before, or too old"
    NOT_FRESH = "from a start of the sender that we have not met"
    OLD_KEY = "under a key that was replaced"
    WRONG_DEVICE = "right key, wrong device"
    GROUP_RAISES = "under the group key, and not lowering"


def draw_title(end: End, draw: random.Random) -> bytes:
    """A system title for one start of one end."""
    return end.value + draw.getrandbits(40).to_bytes(5, "big")


class InvocationCounter:
    """Numbers that were reserved on disk before they are given out."""

    def __init__(self, first: int, end: int) -> None:
        """Numbers from ``first`` up to, but not including, ``end``, all durably reserved."""
        assert 0 <= first <= end, (first, end)
        self._next = first
        self._end = min(end, COUNTER_MAX)

    @property
    def left(self) -> int:
        """Numbers that may be given out."""
        return self._end - self._next

    @property
    def next(self) -> int:
        """The number that would be given out next."""
        return self._next

    @property
    def end(self) -> int:
        """The first number that is not reserved."""
        return self._end

    @property
    def wanted(self) -> int | None:
        """Reserve up to here when less than half a block is left; None while there is enough."""
        return None if self.left >= BLOCK // 2 or self._end >= COUNTER_MAX else self._end + BLOCK

    def extend(self, end: int) -> None:
        """Numbers up to ``end`` are durably reserved now."""
        assert end >= self._end, (end, self._end)
        self._end = min(end, COUNTER_MAX)

    def take(self) -> int | None:
        """A number nobody had before, or None: then nothing may be sent."""
        if self._next >= self._end:
            return None
        self._next += 1
        return self._next - 1


class ReplayWindow:
    """Which counters of one title have been seen."""

    def __init__(self, first: int) -> None:
        """Nothing up to and including ``first`` is accepted any more."""
        self._highest = first
        self._seen = (1 << WINDOW) - 1

    @property
    def highest(self) -> int:
        """The highest counter that was accepted."""
        return self._highest

    def accept(self, counter: int) -> bool:
        """Whether this counter is new; it is not the next time."""
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self._highest = counter
            return True
        if self.used(counter):
            return False
        self._seen |= 1 << -ahead
        return True

    def used(self, counter: int) -> bool:
        """Whether this counter was accepted before, or is too old to say."""
        behind = self._highest - counter
        return behind >= WINDOW or (behind >= 0 and bool(self._seen >> behind & 1))


class Pace:
    """How many introductions may leave."""

    def __init__(self) -> None:
        self._left = float(HELLOS_MAX)
        self._at_s: float | None = None

    def allows(self, now: float) -> bool:
        """Whether one may leave now [s]; it counts."""
        passed_s = 0.0 if self._at_s is None else max(0.0, now - self._at_s)
        self._left, self._at_s = min(HELLOS_MAX, self._left + passed_s / HELLO_S), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a frame came to.

    Attributes:
        plain: the APDU, if it may be believed and is not the session's own business.
        refusal: why not, if not.
        answers: envelopes to send back at once.
        began: whether the session began, or began anew, with this frame.
        group: whether the group key was used.
    """

    plain: bytes | None = None
    refusal: Refusal | None = None
    answers: tuple[bytes, ...] = ()
    began: bool = False
    group: bool = False


@dataclass(frozen=True, slots=True)
class Own:
    """What all sessions of one daemon share: its end, the title of this start, and its counter."""

    end: End
    title: bytes
    counter: InvocationCounter

    @classmethod
    def start(cls, end: End, counter: InvocationCounter, draw: random.Random) -> Own:
        """For a daemon that starts now."""
        return cls(end, draw_title(end, draw), counter)


class Session:
    """One end of a connection that is protected with one pair of keys."""

    def __init__(self, own: Own, keys: PairKeys, draw: random.Random, group: PairKeys | None = None) -> None:
        """A session nobody has introduced himself in.

        Args:
            own: this daemon.
            keys: of the pair.
            draw: source of challenges; unpredictable in the field.
            group: of the street; what they protect may only lower.
        """
        self.keys = keys
        self._own = own
        self._group = group
        self._draw = draw
        self._challenge = draw.getrandbits(64)
        self._peer: bytes | None = None
        self._window = ReplayWindow(0)
        self._group_window = ReplayWindow(0)
        self._keys_at = 0
        self._pace = Pace()

    @property
    def open(self) -> bool:
        """Whether the other end has shown to be alive."""
        return self._peer is not None

    @property
    def title(self) -> bytes:
        """This end's system title."""
        return self._own.title

    @property
    def peer(self) -> bytes:
        """The other end's system title; empty before it has shown to be alive."""
        return self._peer or b""

    def regroup(self, group: PairKeys) -> None:
        """Other group keys have come in this session, and those before count no more.

        Nor does what somebody has done to the window under those: it starts anew, behind everything the other end had
        said when they came, for pair and group share its counter.
        """
        self._group = group
        self._group_window = ReplayWindow(self._window.highest)

    def repeats(self, envelope: Envelope) -> bool:
        """Whether the other end's present start has said this before, if it is authentic: then it is a recording."""
        return self._peer is not None and envelope.title in {b"", self._peer} and self._window.used(envelope.counter)

    def protect(self, plain: bytes) -> bytes | None:
        """An APDU in its envelope; None without a counter."""
        counter = self._own.counter.take()
        return None if counter is None else protect(plain, self.keys, self._own.title, counter)

    def hello(self, now: float, echo: int | None = None, *, known: bool = False) -> tuple[bytes, ...]:
        """An introduction to send at ``now`` [s]; nothing if too many have left, or without a counter."""
        return self._introduction(echo, known=known) if self._pace.allows(now) else ()

    def _introduction(self, echo: int | None, *, known: bool) -> tuple[bytes, ...]:
        counter = self._own.counter.take()
        if counter is None:
            return ()
        plain = encode_introduction(Hello(self._challenge, echo, known), down=self._own.end is End.DCU)
        return (protect(plain, self.keys, self._own.title, counter, named=True),)

    def receive(self, data: bytes, now: float) -> Arrival:
        """What a frame of the other end comes to at ``now`` [s]."""
        if not is_protected(data):
            return Arrival(refusal=Refusal.NOT_PROTECTED)
        try:
            envelope = parse(data)
        except DecodeError:
            return Arrival(refusal=Refusal.MALFORMED)
        title = envelope.title or self._peer
        if title is None:
            return Arrival(refusal=Refusal.NOT_FRESH, answers=self.hello(now))
        if title[:3] != self._own.end.other.value:
            return Arrival(refusal=Refusal.REFLECTED)
        return self._group_message(envelope, title) if envelope.group else self._pairwise(envelope, title, now)

    def _pairwise(self, envelope: Envelope, title: bytes, now: float) -> Arrival:
        try:
            plain = reveal(envelope, self.keys, title)
        except Spliced:
            return Arrival(refusal=Refusal.SPLICED)
        if plain is None:
            return self._not_authentic(envelope, now)
        apdu = _read(plain)
        hello = apdu.hello if isinstance(apdu, Introduced) else None
        if title == self._peer:
            if not self._window.accept(envelope.counter):
                return Arrival(refusal=Refusal.REPLAYED)
            if isinstance(apdu, KeysSent) and not self._newest_keys(envelope.counter):
                return Arrival(refusal=Refusal.REPLAYED)
            return Arrival(plain) if hello is None else Arrival(answers=self._answer(hello, title, now))
        if hello is None:
            return Arrival(refusal=Refusal.NOT_FRESH, answers=self.hello(now))
        began = hello.echo == self._challenge
        if began:
            self._believe(title, envelope.counter)
        return Arrival(answers=self._answer(hello, title, now), began=began)

    def _newest_keys(self, counter: int) -> bool:
        """Whether no keys have come that were sent after these: the order of other messages does not matter here, but
        keys that were held back on their way would bring earlier ones back."""
        newest, self._keys_at = counter > self._keys_at, max(counter, self._keys_at)
        return newest

    def _not_authentic(self, envelope: Envelope, now: float) -> Arrival:
        """Perhaps the other end has started again and its introduction was lost: let it hear us. An introduction under
        keys that are not ours gets none of ours: two ends whose keys differ would answer each other for ever."""
        if envelope.title:
            return Arrival(refusal=Refusal.NOT_AUTHENTIC)
        if find(envelope, [("ours", self.keys, self._own.title)]) is not None:
            return Arrival(refusal=Refusal.REFLECTED)
        return Arrival(refusal=Refusal.NOT_AUTHENTIC, answers=self.hello(now))

    def _believe(self, title: bytes, counter: int) -> None:
        """The other end has echoed our challenge under this title; the challenge is used up."""
        self._peer = title
        self._window, self._group_window = ReplayWindow(counter), ReplayWindow(counter)
        self._keys_at = counter
        self._challenge = self._draw.getrandbits(64)

    def _answer(self, hello: Hello, title: bytes, now: float) -> tuple[bytes, ...]:
        """Who is alive is answered always, and keeps a pace himself: otherwise recordings that use ours up would keep
        two ends apart. A stranger's hello may be a recording."""
        if hello.known:
            return ()
        if title == self._peer:
            return self._introduction(hello.challenge, known=True)
        return self.hello(now, hello.challenge)

    def _group_message(self, envelope: Envelope, title: bytes) -> Arrival:
        """Only from the DCU we talk to, only once, and only a revoke."""
        if self._group is None:
            return Arrival(refusal=Refusal.NO_KEY)
        if title != self._peer:
            return Arrival(refusal=Refusal.NOT_FRESH)
        try:
            plain = reveal(envelope, self._group, title)
        except Spliced:
            return Arrival(refusal=Refusal.SPLICED)
        if plain is None:
            return Arrival(refusal=Refusal.NOT_AUTHENTIC)
        if not _lowers(plain):
            return Arrival(refusal=Refusal.GROUP_RAISES)
        if not self._group_window.accept(envelope.counter):
            return Arrival(refusal=Refusal.REPLAYED)
        return Arrival(plain, group=True)


def _read(plain: bytes) -> Apdu | None:
    try:
        return decode_apdu(plain)
    except DecodeError:
        return None


def _lowers(plain: bytes) -> bool:
    apdu = _read(plain)
    return isinstance(apdu, Written) and isinstance(apdu.message, Revoke)


class Refusals:
    """Refused frames by kind, and which of them are news."""

    def __init__(self, tell: Callable[[Refusal, int], None]) -> None:
        """``tell`` is called for the first of a kind and then when their number has doubled."""
        self.counts: Counter[Refusal] = Counter()
        self._tell = tell

    def count(self, refusal: Refusal) -> None:
        """One more."""
        self.counts[refusal] += 1
        number = self.counts[refusal]
        if number & (number - 1) == 0:
            self._tell(refusal, number)

    def summary(self) -> dict[str, int]:
        """For people: how many of each kind there were."""
        return {refusal.name.lower(): self.counts[refusal] for refusal in Refusal if self.counts[refusal]}
