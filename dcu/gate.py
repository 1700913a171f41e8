"""The DCU's gate to the power line: one session for each meter, and what its keys say about who speaks. Pure.

Identity is the key. The address a frame comes from only says which key to try; a frame that opens under the key of
another meter, or comes from an address nobody was enrolled with, is refused and counted. It may be a recording, of an
earlier start of its owner too: so whoever is there is challenged, and only who answers latches an alarm, which stands
until the operator acknowledges it. Under a meter's previous keys nothing is believed: whoever still has them is sent
the newest, wrapped. New group keys go to whom the newest pair is open with (`dcu.handover`), and to nobody else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from dcu.accusations import Accusation, Numbers
from dcu.handover import PAIR_INVOKE_ID, Handover
from dcu.keys import KeyRing
from shared.cosem_security import (
    KEY_AUTHENTICATION,
    KEY_BROADCAST,
    KEY_BROADCAST_AUTHENTICATION,
    KEY_ENCRYPTION,
    ActionAnswered,
    encode_keys,
)
from shared.errors import DecodeError
from shared.ids import Eui48, MeterId, format_eui48
from shared.protection import PairKeys, find, is_protected, parse, protect_group, wrap
from shared.session import End, Own, Pace, Refusal, Refusals, Session

INTRODUCTIONS_MAX: Final = 8
"""Meters to whom we introduce ourselves at a time: a street that comes back as a whole introduces itself, and has the
line for that. Eight hellos are half a second of air."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send these bytes to a meter."""

    peer: Eui48
    data: bytes


@dataclass(frozen=True, slots=True)
class LinkIs:
    """Whether the meter that holds these keys is there."""

    meter: MeterId
    up: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """An APDU of a meter that may be believed."""

    meter: MeterId
    plain: bytes


@dataclass(frozen=True, slots=True)
class IdentityAlarm:
    """A meter's keys are used from another address; told once for each meter until it is acknowledged."""

    meter: MeterId
    eui48: Eui48


@dataclass(frozen=True, slots=True)
class AlarmAcknowledged:
    """The operator has acknowledged that alarm."""

    meter: MeterId
    eui48: Eui48


@dataclass(frozen=True, slots=True)
class KeysDiffer:
    """Somebody introduces himself at a meter's address under keys that the file has not: if it is that meter, an older
    file was restored, here or there. Told once until its session begins."""

    meter: MeterId


Output = Transmit | LinkIs | Heard | IdentityAlarm | AlarmAcknowledged | KeysDiffer


@dataclass(slots=True)
class _Door:
    """One meter: its session under the newest keys, those under earlier ones to carry them, and one in which nothing is
    believed for whoever uses the newest keys elsewhere."""

    eui48: Eui48
    session: Session | None
    earlier: tuple[Session, ...]
    elsewhere: Session | None
    carrying: Pace
    line: bool = False
    turn: int = 0
    differs: bool = False

    @property
    def open(self) -> bool:
        return self.line and self.session is not None and self.session.open

    def next_earlier(self) -> Session | None:
        """One of the earlier keys' sessions after the other: the line is not for introductions."""
        if not self.earlier:
            return None
        self.turn += 1
        return self.earlier[self.turn % len(self.earlier)]


class Gate:
    """Every meter's door."""

    def __init__(
        self,
        ring: KeyRing,
        own: Own,
        draw: random.Random,
        tell: Callable[[Refusal, int], None],
        alarms: Mapping[MeterId, Accusation] = MappingProxyType({}),
        configured: Container[MeterId] | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        """A gate in front of a line on which nobody is connected yet.

        Args:
            ring: keys of the street.
            own: title and counters of this start.
            draw: source of challenges.
            tell: called when refusals of a kind are news.
            alarms: of earlier starts.
            configured: whom the DCU hears and speaks to; everybody with keys if None. The others' keys only tell who
                they are.
            numbers: what was acknowledged, as earlier starts knew it.
        """
        self.alarms = dict(alarms)
        self.numbers = Numbers() if numbers is None else numbers
        self._own = own
        self._draw = draw
        self._refusals = Refusals(tell)
        self._search = Pace()
        self._ring = ring
        self._configured = configured
        self._handover = Handover(ring.group)
        self._doors = {meter: self._new_door(meter) for meter in ring.meters}
        self._by_eui = _by_eui(ring)
        self._count()

    def link(self, peer: Eui48, up: bool) -> list[Output]:
        """A node's connection on the line has come or gone.

        A meter introduces itself; if both ends did, twice as many frames would cross.
        """
        meter = self._by_eui.get(peer)
        if meter is None:
            return []
        door = self._doors[meter]
        door.line = up
        return [LinkIs(meter, up)] if not up or door.open else []

    def tick(self, now: float) -> list[Output]:
        """Once in a while: introduce ourselves again where nobody has answered, and offer new keys again."""
        waiting = [door for door in self._doors.values() if door.line and not door.open]
        if len(waiting) > INTRODUCTIONS_MAX:
            waiting = self._draw.sample(waiting, INTRODUCTIONS_MAX)
        outputs = [output for door in waiting for output in (self._carry(door, now) or self._introduce(door, now))]
        return outputs + self._offer_group(now) + self._acknowledged()

    def protect(self, meter: MeterId, plain: bytes) -> bytes | None:
        """A message ready to leave; None while the meter is not there, or without a counter."""
        door = self._doors.get(meter)
        return door.session.protect(plain) if door is not None and door.session is not None and door.open else None

    def protect_all(self, plain: bytes, now: float) -> list[bytes]:
        """A message for everybody, under the street's group keys, which can only lower: one frame, two while group keys
        change; none without a counter, or without anybody who would know us by our title."""
        there = self._there()
        keys = self._handover.speaking(there, now) if there else ()
        own = self._own
        counted = [(pair, own.counter.take()) for pair in keys]
        return [protect_group(plain, pair, own.title, counter) for pair, counter in counted if counter is not None]

    def answered(self, meter: MeterId, answer: ActionAnswered) -> None:
        """A meter has answered a transfer of keys."""
        self._handover.answered(meter, answer.invoke_id, answer.result)

    def receive(self, peer: Eui48, data: bytes, now: float) -> list[Output]:
        """What a frame from this address comes to."""
        meter = self._by_eui.get(peer)
        door = None if meter is None else self._doors[meter]
        if meter is None or door is None or door.session is None:
            self._refusals.count(Refusal.NO_KEY)
            return self._whose(peer, data, now, but=None)
        arrival = door.session.receive(data, now)
        if arrival.refusal in {Refusal.NOT_AUTHENTIC, Refusal.NOT_FRESH}:
            for session in door.earlier:
                carried = self._receive_earlier(door, session, data, now)
                if carried is not None:
                    return carried
        outputs: list[Output] = [Transmit(peer, answer) for answer in arrival.answers]
        if arrival.refusal is not None:
            self._refusals.count(arrival.refusal)
        if arrival.refusal is Refusal.NOT_AUTHENTIC:
            outputs += self._whose(peer, data, now, but=meter)
        if arrival.began:
            door.line, door.differs = True, False
            self._handover.began(meter)
            outputs.append(LinkIs(meter, up=True))
        if arrival.plain is not None:
            outputs.append(Heard(meter, arrival.plain))
        return outputs

    def renew(self, ring: KeyRing, now: float) -> list[Output]:
        """The file of keys has changed; sessions whose keys are the same go on."""
        outputs: list[Output] = []
        before, self._ring = self._doors, ring
        self._count()
        if ring.group != self._handover.group:
            self._handover = Handover(ring.group, self._handover)
        self._by_eui = _by_eui(ring)
        self._doors = {}
        for meter in ring.meters:
            old, door = before.get(meter), self._new_door(meter)
            if old is not None and old.eui48 == door.eui48:
                door.line = old.line
                kept = [session for session in (old.session, *old.earlier) if session is not None]
                door.session = None if door.session is None else _same(kept, door.session)
                door.earlier = tuple(_same(kept, session) for session in door.earlier)
            self._doors[meter] = door
            if old is not None and old.open and not door.open:
                outputs += [LinkIs(meter, up=False), *self._carry(door, now)]
        outputs += [LinkIs(meter, up=False) for meter, old in before.items() if old.open and meter not in ring.meters]
        return outputs

    def summary(self) -> dict[str, Any]:
        """For people; shows no key."""
        return {
            "sessions": sum(door.open for door in self._doors.values()),
            "key_generations": {meter: entry.generation for meter, entry in self._ring.meters.items()},
            "keys_differ": [meter for meter, door in self._doors.items() if door.differs],
            "group": self._handover.summary(self._there()),
            "counters_left": self._own.counter.left,
            "refused": self._refusals.summary(),
            "alarms": {meter: f"keys used by {format_eui48(alarm.eui48)}" for meter, alarm in self.alarms.items()},
        }

    def _new_door(self, meter: MeterId) -> _Door:
        entry = self._ring.meters[meter]
        session, elsewhere = (None if entry.pair is None else self._new_session(entry.pair) for _ in range(2))
        return _Door(entry.eui48, session, tuple(map(self._new_session, entry.earlier)), elsewhere, Pace())

    def _new_session(self, keys: PairKeys) -> Session:
        return Session(self._own, keys, self._draw)

    def _introduce(self, door: _Door, now: float) -> list[Output]:
        sessions = [door.session, door.next_earlier()]
        waiting = [session for session in sessions if session is not None and not session.open]
        return [Transmit(door.eui48, data) for session in waiting for data in session.hello(now)]

    def _there(self) -> list[MeterId]:
        """Whom what is said to all, and group keys, are for."""
        wanted = self._ring.meters if self._configured is None else self._configured
        return [meter for meter, door in self._doors.items() if door.open and meter in wanted]

    # ---- group keys --------------------------------------------------------------------------------------------------

    def _offer_group(self, now: float) -> list[Output]:
        """The newest group keys, wrapped, to some of those that are there and have not taken them."""
        outputs: list[Output] = []
        for meter in self._handover.due(self._there(), now):
            entry, group = self._ring.meters[meter], self._ring.group.newest
            assert entry.master is not None, "a revoked meter has no open door"
            wrapped = {
                KEY_BROADCAST: wrap(entry.master, group.encryption),
                KEY_BROADCAST_AUTHENTICATION: wrap(entry.master, group.authentication),
            }
            data = self.protect(meter, encode_keys(wrapped, self._handover.invoke_id))
            outputs += [] if data is None else [Transmit(entry.eui48, data)]
        return outputs

    # ---- earlier keys ------------------------------------------------------------------------------------------------

    def _receive_earlier(self, door: _Door, session: Session, data: bytes, now: float) -> list[Output] | None:
        """A frame under earlier keys carries nothing but the wish for the newest; None if it is not one."""
        arrival = session.receive(data, now)
        if arrival.refusal is Refusal.NOT_AUTHENTIC:
            return None
        self._refusals.count(arrival.refusal or Refusal.OLD_KEY)
        answers: list[Output] = [Transmit(door.eui48, answer) for answer in arrival.answers]
        return answers + self._carry(door, now)

    def _carry(self, door: _Door, now: float) -> list[Output]:
        """The newest keys, wrapped, in an envelope of the earlier ones that the meter has."""
        entry = self._ring.meters[self._by_eui[door.eui48]]
        session = next((one for one in door.earlier if one.open), None)
        if entry.master is None or entry.pair is None or session is None:
            return []
        if not door.carrying.allows(now):
            return []
        wrapped = {
            KEY_ENCRYPTION: wrap(entry.master, entry.pair.encryption),
            KEY_AUTHENTICATION: wrap(entry.master, entry.pair.authentication),
        }
        data = session.protect(encode_keys(wrapped, PAIR_INVOKE_ID))
        return [] if data is None else [Transmit(door.eui48, data)]

    # ---- identity ----------------------------------------------------------------------------------------------------

    def _whose(self, peer: Eui48, data: bytes, now: float, but: MeterId | None) -> list[Output]:
        """Whether a frame that its sender's keys do not open opens under the keys of somebody else."""
        if not is_protected(data) or not self._search.allows(now):
            return []
        try:
            envelope = parse(data)
        except DecodeError:
            return []
        if envelope.title and envelope.title[:3] != End.METER.value:
            return []
        name = find(envelope, self._candidates(but))
        if name is None:
            return [] if but is None else self._differing(but)
        meter = MeterId(name)
        door = self._doors[meter]
        assert door.session is not None, "a candidate has keys"
        assert door.elsewhere is not None, "a candidate has keys"
        if door.session.repeats(envelope):
            self._refusals.count(Refusal.REPLAYED)  # a recording needs no key
            return []
        self._refusals.count(Refusal.WRONG_DEVICE)
        if meter in self.alarms:
            return []
        arrival = door.elsewhere.receive(data, now)
        if not arrival.began:
            return [Transmit(peer, answer) for answer in arrival.answers]
        door.elsewhere = self._new_session(door.session.keys)
        self.alarms[meter] = Accusation(peer, self._ring.meters[meter].acknowledged)
        return [IdentityAlarm(meter, peer)]

    def _differing(self, meter: MeterId) -> list[Output]:
        """Only where nobody speaks under the right keys: within a session anybody's noise is not authentic."""
        door = self._doors[meter]
        if door.differs or door.open:
            return []
        door.differs = True
        return [KeysDiffer(meter)]

    def _acknowledged(self) -> list[Output]:
        """The alarms that the operator has acknowledged since they were told; the next use of those keys is another. In
        an older file of keys the number may be lower than when one was told, and rises from there."""
        entries = self._ring.meters.items()
        numbers = {meter: entry.acknowledged for meter, entry in entries if meter in self.alarms}
        outputs: list[Output] = []
        for meter, number in numbers.items():
            alarm = self.alarms[meter]
            if number > alarm.after:
                outputs.append(AlarmAcknowledged(meter, self.alarms.pop(meter).eui48))
            else:
                self.alarms[meter] = replace(alarm, after=number)
        return outputs

    def _count(self) -> None:
        """Take over the numbers of a file of keys. One that an older one took the place of may be put back, with its
        higher numbers: that is no word of the operator."""
        for meter, entry in self._ring.meters.items():
            put_back = self.numbers.take(meter, entry.acknowledged)
            if put_back and meter in self.alarms:
                self.alarms[meter] = replace(self.alarms[meter], after=entry.acknowledged)

    def _candidates(self, but: MeterId | None) -> Iterator[tuple[str, PairKeys, bytes]]:
        for meter, door in self._doors.items():
            if meter != but and door.session is not None:
                yield meter, door.session.keys, door.session.peer or bytes(8)


def _by_eui(ring: KeyRing) -> dict[Eui48, MeterId]:
    """Whose address it is: of a device that has gone from one meter to another, the one that is not revoked."""
    revoked_first = sorted(ring.meters.items(), key=lambda item: not item[1].revoked)
    return {entry.eui48: meter for meter, entry in revoked_first}


def _same(kept: Iterable[Session], session: Session) -> Session:
    """The one of those kept that has its keys, else itself."""
    return next((one for one in kept if one.keys == session.keys), session)
