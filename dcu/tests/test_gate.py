"""The DCU's gate: who speaks is told by the key, and previous keys carry nothing but the newest."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from dlms_cosem.enumerations import ActionResultStatus

from dcu import gate as dcu_gate
from dcu.accusations import Accusation, Numbers
from dcu.gate import INTRODUCTIONS_MAX, AlarmAcknowledged, Gate, Heard, IdentityAlarm, KeysDiffer, LinkIs
from dcu.keys import EARLIER_MAX, KeyRing, new_ring
from shared.cosem import decode_apdu, encode_down, encode_up
from shared.cosem_security import KeysSent, encode_action_answer
from shared.ids import Epoch, Eui48, MeterId, RequestId, parse_eui48
from shared.keys import MeterKeys
from shared.messages import DecisionId, Reason, Release, Revoke
from shared.protection import PairKeys, protect, unwrap
from shared.session import BLOCK, HELLOS_MAX, End, InvocationCounter, Own, Refusal, Session

DCU = parse_eui48("02:48:44:52:00:01")
ONE, TWO = parse_eui48("02:48:44:52:01:01"), parse_eui48("02:48:44:52:01:02")
STRANGER = parse_eui48("02:48:44:52:09:09")
FIRST, SECOND = MeterId("meter-1"), MeterId("meter-2")
UP = encode_up(Release(RequestId(7), Epoch(3), None), 1)
REVOKE = encode_down(Revoke(DecisionId(Epoch(3), 7), Reason.OVERVOLTAGE, None, None), 1)


@dataclass
class Street:
    """A gate, and the meters' ends of its sessions."""

    draw: random.Random = field(default_factory=lambda: random.Random(2))
    now: float = 0.0
    told: list[Refusal] = field(default_factory=list)
    outputs: list[dcu_gate.Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ring: KeyRing = new_ring(DCU, self.draw.randbytes).made({FIRST: ONE, SECOND: TWO}, self.draw.randbytes)
        own = Own.start(End.DCU, InvocationCounter(0, BLOCK), self.draw)
        self.gate = Gate(self.ring, own, self.draw, lambda refusal, _: self.told.append(refusal))
        self.meters = {ONE: self.end(self.ring.exported(FIRST)), TWO: self.end(self.ring.exported(SECOND))}

    def end(self, keys: MeterKeys) -> Session:
        return Session(Own.start(End.METER, InvocationCounter(0, BLOCK), self.draw), keys.pair, self.draw)

    def play(self, peer: Eui48, frames: tuple[bytes, ...], speaker: Session | None = None) -> list[dcu_gate.Output]:
        """Frames from an address, and everything that follows from them."""
        seen: list[dcu_gate.Output] = []
        todo = deque((peer, data) for data in frames)
        while todo:
            at, data = todo.popleft()
            for output in self.gate.receive(at, data, self.now):
                seen.append(output)
                if isinstance(output, dcu_gate.Transmit):
                    session = speaker if output.peer == peer and speaker is not None else self.meters[output.peer]
                    todo.extend((output.peer, answer) for answer in session.receive(output.data, self.now).answers)
        self.outputs += seen
        return seen

    def meet(self, peer: Eui48) -> list[dcu_gate.Output]:
        self.now += 60.0
        self.gate.link(peer, True)
        self.now += 60.0
        return self.play(peer, self.meters[peer].hello(self.now))

    def refused(self) -> dict[str, int]:
        found: dict[str, int] = self.gate.summary()["refused"]
        return found


@pytest.fixture
def street() -> Street:
    """Both meters have met the DCU."""
    met = Street()
    for peer in (ONE, TWO):
        assert LinkIs(met.gate._by_eui[peer], up=True) in met.meet(peer)
    return met


def test_a_meter_is_linked_when_it_has_shown_its_key(street: Street) -> None:
    """Not by its address: until then it is not there, and afterwards what it says is its own."""
    assert street.gate.protect(FIRST, UP) is not None
    data = street.meters[ONE].protect(UP)
    assert data is not None
    assert street.gate.receive(ONE, data, street.now) == [Heard(FIRST, UP)]
    fresh = Street()
    assert fresh.gate.link(ONE, True) == []
    assert [type(output) for output in fresh.gate.tick(0.0)] == [dcu_gate.Transmit]
    assert fresh.gate.protect(FIRST, UP) is None


def test_a_street_that_comes_back_as_a_whole_is_not_called_at_once() -> None:
    """A hundred meters on the line and none introduced: a few calls at a time, to others each time, and all get one."""
    draw = random.Random(4)
    addresses = {MeterId(f"m{number}"): parse_eui48(f"02:48:44:52:02:{number:02x}") for number in range(100)}
    ring = new_ring(DCU, draw.randbytes).made(addresses, draw.randbytes)
    gate = Gate(ring, Own.start(End.DCU, InvocationCounter(0, BLOCK), draw), draw, lambda *_: None)
    for eui48 in addresses.values():
        gate.link(eui48, True)
    called: set[Eui48] = set()
    for turn in range(100):
        sent = [output for output in gate.tick(10.0 * turn) if isinstance(output, dcu_gate.Transmit)]
        assert len(sent) == INTRODUCTIONS_MAX == len({output.peer for output in sent})
        called |= {output.peer for output in sent}
    assert called == set(addresses.values())


def test_a_cloned_address_opens_nothing(street: Street) -> None:
    """Another device under the address of a meter, without its key: nothing is heard, nobody is alarmed."""
    clone = Session(
        Own.start(End.METER, InvocationCounter(0, BLOCK), street.draw), PairKeys(bytes(16), bytes(16)), street.draw
    )
    street.now += 60.0
    seen = street.play(ONE, clone.hello(street.now), clone)
    assert not [output for output in seen if isinstance(output, Heard | LinkIs | IdentityAlarm)]
    assert street.refused().keys() == {"not_authentic"}
    assert street.gate.alarms == {}


@pytest.mark.parametrize("address", [TWO, STRANGER])
def test_the_right_key_from_another_address_latches_an_alarm(street: Street, address: Eui48) -> None:
    """A copied key in another device, introduced or in the middle of a session: refused, and told once."""
    thief = street.end(street.ring.exported(FIRST))
    street.now += 60.0
    seen = street.play(address, thief.hello(street.now), thief)
    assert IdentityAlarm(FIRST, address) in seen
    assert not [output for output in seen if isinstance(output, Heard | LinkIs)]
    moved = street.meters[ONE].protect(UP)
    assert moved is not None
    street.now += 60.0
    again = street.gate.receive(address, moved, street.now)
    assert not [output for output in again if isinstance(output, Heard | IdentityAlarm)]
    assert street.gate.alarms == {FIRST: Accusation(address, 0)}
    assert street.refused()["wrong_device"] >= 2
    assert not [output for output in street.outputs if isinstance(output, Heard)]


def test_an_alarm_stands_over_restarts_until_it_is_acknowledged(street: Street) -> None:
    """By its own meter's acknowledgement and no other's; what was acknowledged before it was told does not count; the
    next use of the keys is a new alarm."""
    ring = street.ring.acknowledged(FIRST)
    street.gate.renew(ring, street.now)
    thief = street.end(ring.exported(FIRST))
    street.now += 60.0
    assert IdentityAlarm(FIRST, STRANGER) in street.play(STRANGER, thief.hello(street.now), thief)
    assert street.gate.alarms == {FIRST: Accusation(STRANGER, 1)}
    own = Own.start(End.DCU, InvocationCounter(BLOCK, 2 * BLOCK), street.draw)
    street.gate = Gate(ring, own, street.draw, lambda *_: None, street.gate.alarms)
    street.gate.renew(ring.acknowledged(SECOND), street.now)
    assert street.gate.tick(street.now) == []
    assert "02:48:44:52:09:09" in street.gate.summary()["alarms"][FIRST]
    street.gate.renew(ring.acknowledged(FIRST), street.now)
    assert street.gate.tick(street.now) == [AlarmAcknowledged(FIRST, STRANGER)]
    assert street.gate.tick(street.now) == []
    assert street.gate.alarms == {}
    street.now += 60.0
    assert IdentityAlarm(FIRST, STRANGER) in street.play(STRANGER, thief.hello(street.now), thief)


def test_one_acknowledgement_ends_an_alarm_that_has_seen_a_newer_file_of_keys(street: Street) -> None:
    """The file was acknowledged three times, and is restored from a time when it was once: that ends no alarm, and the
    next acknowledgement does."""
    ring = street.ring.acknowledged(FIRST)
    newer = ring.acknowledged(FIRST).acknowledged(FIRST)
    street.gate.renew(newer, street.now)
    thief = street.end(newer.exported(FIRST))
    street.now += 60.0
    street.play(STRANGER, thief.hello(street.now), thief)
    street.gate.renew(ring, street.now)
    assert AlarmAcknowledged(FIRST, STRANGER) not in street.gate.tick(street.now)
    assert street.gate.alarms == {FIRST: Accusation(STRANGER, 1)}
    street.gate.renew(ring.acknowledged(FIRST), street.now)
    assert AlarmAcknowledged(FIRST, STRANGER) in street.gate.tick(street.now)
    assert street.gate.alarms == {}


@pytest.mark.parametrize("during", ["newest", "older"])
def test_the_newest_file_of_keys_put_back_acknowledges_nothing(street: Street, during: str) -> None:
    """An older one was restored by mistake: the alarm, told before or meanwhile, stands with either, and the operator's
    word ends it."""
    older = street.ring.acknowledged(FIRST)
    newest = older.acknowledged(FIRST).regrouped(street.draw.randbytes)
    for ring in (newest, older) if during == "older" else (newest,):
        street.gate.renew(ring, street.now)
    thief = street.end(newest.exported(FIRST))
    street.now += 60.0
    street.play(STRANGER, thief.hello(street.now), thief)
    for ring in (older, newest, older, newest):
        street.gate.renew(ring, street.now)
        assert AlarmAcknowledged(FIRST, STRANGER) not in street.gate.tick(street.now)
        assert street.gate.alarms.keys() == {FIRST}
    street.gate.renew(newest.acknowledged(FIRST), street.now)
    assert AlarmAcknowledged(FIRST, STRANGER) in street.gate.tick(street.now)


@pytest.mark.parametrize("alarmed", ["newest", "older", "older again"])
@pytest.mark.parametrize("steps", [1, 2])
def test_nor_does_it_after_a_restart_in_between(street: Street, alarmed: str, steps: int) -> None:
    """Older files in the place of newer ones, one or two; the DCU starts again on each, whether the alarm was told
    before or after; keys are rotated in the newest before it is back. The operator's word ends it, his word of before
    too, if it is said once more."""
    older = street.ring.acknowledged(FIRST)
    newest = older.acknowledged(FIRST).acknowledged(FIRST)
    files = {"newest": newest, "older": older.acknowledged(FIRST) if steps == 2 else older, "older again": older}
    thief = street.end(newest.exported(FIRST))
    for at, ring in files.items():
        street.gate.renew(ring, street.now)
        street.gate.tick(street.now)
        if at == alarmed:
            street.now += 60.0
            assert IdentityAlarm(FIRST, STRANGER) in street.play(STRANGER, thief.hello(street.now), thief)
        own = Own.start(End.DCU, InvocationCounter(BLOCK, 2 * BLOCK), street.draw)
        kept = Numbers(street.gate.numbers.rows)
        street.gate = Gate(ring, own, street.draw, lambda *_: None, street.gate.alarms, numbers=kept)
    for ring in (newest.regrouped(street.draw.randbytes), newest.rotated(FIRST, street.draw.randbytes)):
        street.gate.renew(ring, street.now)
        assert AlarmAcknowledged(FIRST, STRANGER) not in street.gate.tick(street.now)
        assert street.gate.alarms.keys() == {FIRST}
    street.gate.renew(older, street.now)
    street.gate.renew(older.acknowledged(FIRST).acknowledged(FIRST), street.now)  # the number of the newest, once more
    street.gate.tick(street.now)
    assert street.gate.alarms.keys() == {FIRST}
    street.gate.renew(newest.acknowledged(FIRST), street.now)
    assert AlarmAcknowledged(FIRST, STRANGER) in street.gate.tick(street.now)
    assert street.gate.numbers.rows == {FIRST: (4,)}


@pytest.mark.parametrize("address", [TWO, STRANGER])
def test_a_recording_from_another_address_accuses_nobody(street: Street, address: Eui48) -> None:
    """What the meter itself has said in this start, played from elsewhere: no key was needed for that. An alarm is told
    once, and a bystander shall not use it up before a thief comes."""
    heard = said(street.meters[ONE])
    assert street.gate.receive(ONE, heard, street.now) == [Heard(FIRST, UP)]
    street.now += 60.0
    again = street.gate.receive(address, heard, street.now)
    assert not [output for output in again if isinstance(output, Heard | IdentityAlarm)]
    assert street.gate.alarms == {}
    assert street.refused()["replayed"] == 1
    street.now += 60.0
    fresh = street.play(address, (said(street.meters[ONE]),), street.meters[ONE])
    assert IdentityAlarm(FIRST, address) in fresh


@pytest.mark.parametrize("address", [TWO, STRANGER])
@pytest.mark.parametrize("who", ["meter", "dcu", "both"])
def test_a_recording_of_an_earlier_start_accuses_nobody(street: Street, address: Eui48, who: str) -> None:
    """A meter's introductions and messages of before, from elsewhere: counted, and whoever is there is challenged,
    unless they are of the meter's present start. He has no key and cannot answer."""
    recorded = [*street.meters[ONE].hello(street.now + 60.0), said(street.meters[ONE])]
    if who != "dcu":
        street.meters[ONE] = street.end(street.ring.exported(FIRST))
    if who != "meter":
        own = Own.start(End.DCU, InvocationCounter(BLOCK, 2 * BLOCK), street.draw)
        street.gate = Gate(street.ring, own, street.draw, lambda *_: None)
    street.meet(ONE)
    answers: list[dcu_gate.Output] = []
    for _ in range(5):
        for data in recorded:
            street.now += 60.0
            answers += street.gate.receive(address, data, street.now)
    assert street.gate.alarms == {}
    assert street.refused()["replayed" if who == "dcu" else "wrong_device"] > 0
    assert {type(output) for output in answers} <= {dcu_gate.Transmit}
    thief = street.end(street.ring.exported(FIRST))
    street.now += 60.0
    assert IdentityAlarm(FIRST, address) in street.play(address, thief.hello(street.now), thief)


def test_a_revoked_meter_is_shut_out_at_once(street: Street) -> None:
    """Its session ends with its keys; the other meter's goes on."""
    ring = street.ring.without([FIRST], street.draw.randbytes)
    assert street.gate.renew(ring, street.now) == [LinkIs(FIRST, up=False)]
    data, other = street.meters[ONE].protect(UP), street.meters[TWO].protect(UP)
    assert data is not None
    assert other is not None
    assert street.gate.receive(ONE, data, street.now) == []
    assert street.refused() == {"no_key": 1}
    assert street.gate.receive(TWO, other, street.now) == [Heard(SECOND, UP)]
    assert street.gate.protect(FIRST, UP) is None


def test_rotated_keys_reach_the_meter_wrapped_and_the_old_ones_end(street: Street) -> None:
    """The transfer leaves at once, is asked for by whatever comes under the old keys, and ends them."""
    ring = street.ring.rotated(FIRST, street.draw.randbytes)
    seen = street.gate.renew(ring, street.now)
    assert seen[0] == LinkIs(FIRST, up=False)
    meter, newest = street.meters[ONE], ring.exported(FIRST)
    (offer,) = [output for output in seen if isinstance(output, dcu_gate.Transmit)]
    for again in range(2):
        arrival = meter.receive(offer.data, street.now)
        assert arrival.plain is not None
        sent = decode_apdu(arrival.plain)
        assert isinstance(sent, KeysSent)
        assert [unwrap(newest.master, wrapped) for _, wrapped in sent.keys] == [
            newest.pair.encryption,
            newest.pair.authentication,
        ]
        assert newest.pair.encryption not in arrival.plain
        data = meter.protect(UP)
        assert data is not None
        answers = street.gate.receive(ONE, data, street.now)
        assert not [output for output in answers if isinstance(output, Heard)]
        assert street.refused()["old_key"] == again + 1
        (offer,) = [output for output in answers if isinstance(output, dcu_gate.Transmit)][-1:]
    answered = meter.protect(encode_action_answer(0, ActionResultStatus.SUCCESS))
    assert answered is not None
    street.gate.receive(ONE, answered, street.now)
    street.meters[ONE] = street.end(newest)
    assert LinkIs(FIRST, up=True) in street.meet(ONE)
    late = meter.protect(UP)
    assert late is not None
    assert not [output for output in street.gate.receive(ONE, late, street.now) if isinstance(output, Heard)]


def test_a_meter_whose_keys_an_older_file_has_not_is_named_until_it_has_its_keys(street: Street) -> None:
    """The DCU starts on a file from before a rotation: the meter is refused, told once and named in the status, and
    the line stays quiet; with the newest file back it is heard again. Noise in a session tells nothing."""
    newest = street.ring.rotated(FIRST, street.draw.randbytes)
    street.meters[ONE] = street.end(newest.exported(FIRST))
    own = Own.start(End.DCU, InvocationCounter(BLOCK, 2 * BLOCK), street.draw)
    street.gate = Gate(street.ring, own, street.draw, lambda *_: None)
    assert street.meet(ONE) == [KeysDiffer(FIRST)]
    assert street.meet(ONE) == []
    assert street.gate.summary()["keys_differ"] == [FIRST]
    assert LinkIs(SECOND, up=True) in street.meet(TWO)
    street.gate.renew(newest, street.now)
    assert LinkIs(FIRST, up=True) in street.meet(ONE)
    assert street.gate.summary()["keys_differ"] == []
    noise = protect(UP, PairKeys(bytes(16), bytes(16)), street.meters[ONE].title, 90, named=True)
    assert KeysDiffer(FIRST) not in street.gate.receive(ONE, noise, street.now)


def test_a_flood_under_earlier_keys_calls_for_few_transfers(street: Street) -> None:
    """Whoever has them makes us send the newest, wrapped; not as often as he likes."""
    street.gate.renew(street.ring.rotated(FIRST, street.draw.randbytes), street.now)
    sent = [output for _ in range(50) for output in street.gate.receive(ONE, said(street.meters[ONE]), street.now)]
    assert 0 < len(sent) < HELLOS_MAX
    assert street.refused()["old_key"] == 50


def said(session: Session) -> bytes:
    data = session.protect(UP)
    assert data is not None
    return data


@pytest.mark.parametrize("missed", [1, 2, EARLIER_MAX])
def test_a_meter_that_missed_rotations_over_a_restart_is_healed(missed: int) -> None:
    """The DCU starts with newest and earlier keys; the meter has the oldest of them only."""
    street = Street()
    ring = street.ring
    for _ in range(missed):
        ring = ring.rotated(FIRST, street.draw.randbytes)
    own = Own.start(End.DCU, InvocationCounter(0, BLOCK), street.draw)
    street.gate = Gate(ring, own, street.draw, lambda *_: None)
    street.gate.link(ONE, True)
    seen = street.meet(ONE)
    assert not [output for output in seen if isinstance(output, Heard | LinkIs)]
    offers = [output.data for output in seen if isinstance(output, dcu_gate.Transmit)]
    plains = [street.meters[ONE].receive(data, street.now).refusal for data in offers[-1:]]
    assert plains == [Refusal.REPLAYED]  # it was delivered while they met
    assert [session.open for session in street.gate._doors[FIRST].earlier] == [False] * (missed - 1) + [True]


def test_rotations_while_a_meter_is_connected_but_deaf_are_carried_by_its_open_session() -> None:
    """Two new generations, and the session of the first is still the one that carries."""
    street = Street()
    street.gate.link(ONE, True)
    street.meet(ONE)
    ring = street.ring
    for _ in range(2):
        ring = ring.rotated(FIRST, street.draw.randbytes)
        street.gate.renew(ring, street.now)
    street.now += 60.0
    offers = [output.data for output in street.gate.tick(street.now) if isinstance(output, dcu_gate.Transmit)]
    arrivals = [street.meters[ONE].receive(data, street.now) for data in offers]
    assert [arrival for arrival in arrivals if arrival.plain]


def test_a_meter_that_comes_back_on_another_device_closes_the_old_session(street: Street) -> None:
    """Revoked, made again elsewhere, and the file read anew: the old device is a stranger."""
    street.gate.link(ONE, True)
    street.meet(ONE)
    moved = street.ring.without([FIRST], street.draw.randbytes).made({FIRST: STRANGER}, street.draw.randbytes)
    assert LinkIs(FIRST, up=False) in street.gate.renew(moved, street.now)
    data = street.meters[ONE].protect(UP)
    assert data is not None
    assert not [output for output in street.gate.receive(ONE, data, street.now) if isinstance(output, Heard)]
    assert street.refused()["no_key"] == 1


def test_garbage_and_plain_messages_are_counted(street: Street) -> None:
    """They change counters and nothing else; a flood costs no search each."""
    for data in (b"", b"\x00", UP, b"\xdb", b"\xdb\x00\x05abcde", b"\xc9" + bytes(40)):
        assert not [output for output in street.gate.receive(ONE, data, street.now) if not _answer(output)]
    assert street.refused() == {"not_protected": 3, "malformed": 3}
    before = street.gate._search._left
    for _ in range(100):
        street.gate.receive(STRANGER, street.meters[ONE].protect(UP) or b"", street.now)
    assert before - street.gate._search._left <= HELLOS_MAX


def _answer(output: dcu_gate.Output) -> bool:
    return isinstance(output, dcu_gate.Transmit)


def test_a_message_to_all_opens_with_every_meter_and_costs_a_counter(street: Street) -> None:
    """Under the group keys and the DCU's title; to nobody while nobody is there; never twice the same bytes."""
    revoke = REVOKE
    for peer, meter in ((ONE, FIRST), (TWO, SECOND)):
        end = Session(
            Own.start(End.METER, InvocationCounter(0, BLOCK), street.draw),
            street.ring.exported(meter).pair, street.draw, street.ring.group.newest,
        )  # fmt: skip
        street.meters[peer] = end
        street.meet(peer)
    left = street.gate.summary()["counters_left"]
    (first,), (second,) = (street.gate.protect_all(revoke, street.now) for _ in range(2))
    assert first != second
    assert street.gate.summary()["counters_left"] == left - 2
    for end in street.meters.values():
        arrival = end.receive(first, street.now)
        assert (arrival.plain, arrival.group) == (revoke, True)
        assert end.receive(first, street.now).refusal is Refusal.REPLAYED
        assert end.receive(second, street.now).plain == revoke
    for peer in (ONE, TWO):
        street.gate.link(peer, False)
    assert street.gate.protect_all(revoke, street.now) == []


def attacks(street: Street) -> dict[Refusal, tuple[Eui48, bytes]]:
    """A meter's release, brought in every way but the right one."""
    pair, title = street.ring.exported(FIRST).pair, street.meters[ONE].title
    good = street.meters[ONE].protect(UP)
    ours = street.gate.protect(FIRST, REVOKE)
    assert good is not None
    assert ours is not None
    assert street.gate.receive(ONE, good, street.now) == [Heard(FIRST, UP)]
    stranger = Own.start(End.METER, InvocationCounter(0, BLOCK), street.draw).title
    return {
        Refusal.NOT_PROTECTED: (ONE, UP),
        Refusal.MALFORMED: (ONE, good[:9]),
        Refusal.REPLAYED: (ONE, good),
        Refusal.REFLECTED: (ONE, ours),
        Refusal.SPLICED: (ONE, b"\xcc" + good[2:]),
        Refusal.NOT_AUTHENTIC: (ONE, protect(UP, PairKeys(pair.encryption, bytes(16)), title, 90)),
        Refusal.NOT_FRESH: (ONE, protect(UP, pair, stranger, 90, named=True)),
        Refusal.WRONG_DEVICE: (STRANGER, protect(UP, pair, title, 91)),
        Refusal.NO_KEY: (STRANGER, UP),
    }


@pytest.mark.parametrize("refusal", [one for one in Refusal if one not in {Refusal.OLD_KEY, Refusal.GROUP_RAISES}])
def test_an_attack_on_the_dcu_is_counted_and_heard_by_nobody(street: Street, refusal: Refusal) -> None:
    """By its own kind; the old keys have a test of their own, and a DCU has no ear for the group key."""
    peer, data = attacks(street)[refusal]
    before = street.refused()
    street.now += 60.0
    outputs = street.gate.receive(peer, data, street.now)
    assert not [output for output in outputs if isinstance(output, Heard | LinkIs)]
    counted = {kind: number - before.get(kind, 0) for kind, number in street.refused().items()}
    assert counted[refusal.name.lower()] == 1
    assert sum(counted.values()) == 1 + (refusal is Refusal.WRONG_DEVICE)  # which has no key of its own either
    again = street.meters[ONE].protect(UP)
    assert again is not None
    assert street.gate.receive(ONE, again, street.now) == [Heard(FIRST, UP)]


def test_an_old_counter_is_refused_even_for_new_words(street: Street) -> None:
    """Whoever has the key and a number from before, used or not; a whole window later all of them are too old."""
    meter = street.meters[ONE]
    pair, title = street.ring.exported(FIRST).pair, meter.title
    for _ in range(100):
        data = meter.protect(UP)
        assert data is not None
        street.gate.receive(ONE, data, street.now)
    before = street.refused().get("replayed", 0)
    for counter in range(40):
        assert street.gate.receive(ONE, protect(UP, pair, title, counter), street.now) == []
    assert street.refused()["replayed"] - before == 40
