"""The meter behind its gate: an attacker on the line can make it count, and nothing else."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from meter import daemon
from meter.core import HouseholdAsked
from meter.daemon import KEYS_S
from meter.gate import Gate, LinkIs
from meter.tests.far_end import DCU, KEYS, counters, far_end
from meter.tests.jumping import run_jumping
from meter.tests.test_daemon import FakeRunner, House
from prime_plc import sap
from shared.cosem import ReadAnswer, decode_apdu, encode_down, encode_read_request
from shared.cosem_security import (
    KEY_AUTHENTICATION,
    KEY_BROADCAST,
    KEY_BROADCAST_AUTHENTICATION,
    KEY_ENCRYPTION,
    ActionAnswered,
    encode_clock,
    encode_keys,
)
from shared.ids import Epoch, Nonce, RequestId, parse_eui48
from shared.keys import MeterKeys
from shared.messages import (
    DecisionId,
    Downward,
    Grant,
    NominalLimit,
    Reason,
    RelayState,
    Report,
    Request,
    Revoke,
    Upward,
)
from shared.protection import PairKeys, protect, protect_group, wrap
from shared.session import BLOCK, Arrival, End, Own, Refusal

GRANT = encode_down(Grant(DecisionId(Epoch(3), 9), RequestId(1), Nonce(1), 2400.0, 60.0), 1)
REVOKE = encode_down(Revoke(DecisionId(Epoch(0xFFFFFFFF), 9), Reason.OPERATOR, None, None), 1)
IMPOSTOR = parse_eui48("02:48:44:52:00:99")


@pytest.fixture(autouse=True)
def _fake_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "StackRunner", FakeRunner)


def refused(house: House) -> dict[str, int]:
    found: dict[str, int] = house.meter.status()["protection"]["refused"]
    return found


def test_without_a_fresh_session_nothing_is_heard_and_nothing_said() -> None:
    """Messages protected with the right keys, but before anybody has shown to be alive: no link, no word, nominal."""

    async def world() -> None:
        house = House()
        house.line.dcu.hello = lambda *_, **__: ()  # type: ignore[method-assign]
        await asyncio.sleep(2.0)
        house.line.heard(sap.LinkUp(DCU, b"meter-1", 5))
        house.line.say(encode_down(NominalLimit(DecisionId(Epoch(3), 0), 1200.0), 1))
        await asyncio.sleep(30.0)
        status = house.meter.status()
        assert (status["link"], status["epoch"], house.line.sent) == ("down", 0, [])
        assert refused(house) == {"not_fresh": 1}
        await house.end()

    run_jumping(world)


def test_meters_that_start_together_do_not_introduce_themselves_together() -> None:
    """After a power cut nobody answers: each asks again within ten seconds, at a time of its own."""

    async def world() -> None:
        times: list[list[float]] = []
        houses = [House(seed=seed) for seed in range(6)]
        for house in houses:
            own: list[float] = []
            times.append(own)
            house.line.dcu.receive = lambda _, now, own=own: own.append(now) or Arrival()  # type: ignore[method-assign,misc]
        await asyncio.sleep(2.0)
        for house in houses:
            house.line.heard(sap.LinkUp(DCU, b"meter-1", 5))
        await asyncio.sleep(60.0)
        for turn in range(1, 6):
            assert len({round(own[turn], 1) for own in times}) == len(houses)
        for own in times:
            assert all(after - before <= KEYS_S for before, after in pairwise(own))
            assert len(own) <= 2 + 60.0 / (KEYS_S / 2)
        for house in houses:
            await house.end()

    run_jumping(world)


def test_a_recorded_night_of_grants_raises_nothing_again() -> None:
    """Every frame that led to a grant, played back after it has ended: at once, and after the meter has restarted."""

    async def world() -> None:
        house = House()
        recorded: list[bytes] = []
        heard = house.line.heard

        def record(output: sap.Output) -> None:
            if isinstance(output, sap.DataReceived):
                recorded.append(output.data)
            heard(output)

        house.line.heard = record
        await house.granted()
        state: RelayState = house.relay.read_back()
        assert state is RelayState.RAISED
        await asyncio.sleep(70.0)
        assert house.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
        for data in recorded:
            heard(sap.DataReceived(DCU, 1, 1, data))
        await asyncio.sleep(1.0)
        assert house.relay.commanded is RelayState.NOMINAL
        assert refused(house)["replayed"] >= 2
        assert len(recorded) >= 3
        await house.end()
        again = House(seed=6)
        await again.link()
        assert again.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
        for data in recorded:
            again.line.inject(data)
        await asyncio.sleep(1.0)
        assert again.relay.commanded is RelayState.NOMINAL
        assert again.meter.status()["epoch"] == 3
        assert sum(refused(again).values()) >= 2
        await again.end()

    run_jumping(world)


def test_the_right_keys_from_another_address_latch_an_alarm() -> None:
    """A stranger's base node that carries the DCU's frames: no link through it, and a person is told."""

    async def world() -> None:
        house = House()
        house.line.peer = IMPOSTOR
        await asyncio.sleep(2.0)
        house.line.heard(sap.LinkUp(IMPOSTOR, b"meter-1", 5))
        await asyncio.sleep(30.0)
        status = house.meter.status()
        assert (status["link"], status["epoch"]) == ("down", 0)
        assert status["protection"]["session"] == "none"
        assert "02:48:44:52:00:99" in status["protection"]["alarm"]
        house.line.peer = DCU
        await house.link()
        await asyncio.sleep(30.0)
        status = house.meter.status()
        assert (status["link"], status["epoch"]) == ("up", 3)
        assert "02:48:44:52:00:99" in status["protection"]["alarm"]
        await house.end()

    run_jumping(world)


def test_the_group_key_lowers_and_cannot_raise() -> None:
    """A neighbour who has read it out of his own meter: grants and limits are refused; a revoke is obeyed, and its
    epoch and number are not."""

    async def world() -> None:
        house = House()
        await house.granted()
        title = house.line.dcu.title
        request = next(item for item in house.line.messages() if isinstance(item, Request))
        grant = Grant(DecisionId(Epoch(3), 50), request.request_id, newest_nonce(house.line.messages()), 2400.0, 60.0)
        raising: list[Downward] = [grant, NominalLimit(DecisionId(Epoch(9), 1), 1e6)]
        for number, message in enumerate(raising):
            house.line.inject(protect_group(encode_down(message, 1), KEYS.group, title, 1000 + number))
        house.line.inject(protect_group(encode_clock(4e9), KEYS.group, title, 1010))
        house.line.inject(protect_group(encode_keys(dict.fromkeys((0, 2), bytes(24)), 1), KEYS.group, title, 1011))
        await asyncio.sleep(0.5)
        assert refused(house) == {"group_raises": 4}
        assert house.meter.status()["decision"] == "3.1"
        house.line.inject(protect_group(REVOKE, KEYS.group, title, 1020))
        await asyncio.sleep(0.5)
        assert house.relay.commanded is RelayState.NOMINAL
        assert house.meter.status()["epoch"] == 3
        assert house.vault.saved == []
        await house.end()

    run_jumping(world)


def test_what_is_said_to_all_ends_grants_once_and_leaves_questions_alone() -> None:
    """A meter that only asks keeps asking, and one with a grant below what is left keeps it; a forged one and a
    repeated one are counted, and change nothing."""

    async def world() -> None:
        house = House()
        await house.link()
        assert house.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
        await asyncio.sleep(0.1)
        title = house.line.dcu.title
        house.line.inject(protect_group(REVOKE, KEYS.group, title, 1000))
        await asyncio.sleep(0.1)
        assert house.meter.status()["wish"]["state"] == "asking"
        assert house.relay.commanded is RelayState.NOMINAL
        await house.end()

        house = House(seed=6)
        await house.granted()
        await asyncio.sleep(1.0)  # the report that confirms the grant
        title = house.line.dcu.title
        reports = len(house.line.messages())
        partly = encode_down(Revoke(DecisionId(Epoch(3), 9), Reason.OVERVOLTAGE, None, None, 2400.0), 1)
        house.line.inject(protect_group(partly, KEYS.group, title, 1000))
        house.line.inject(protect_group(REVOKE, PairKeys(bytes(16), bytes(16)), title, 1001))
        await asyncio.sleep(0.1)
        assert refused(house) == {"not_authentic": 1}
        assert house.meter.status()["decision"] == "3.1"
        assert house.meter.status()["limit_w"] == 2400.0
        assert len(house.line.messages()) == reports  # nobody has anything new to say, and all would at once
        house.line.inject(protect_group(REVOKE, KEYS.group, title, 1002))
        await asyncio.sleep(0.1)
        assert house.meter.status()["source"] == "REVOKED"
        assert house.relay.commanded is RelayState.NOMINAL
        for _ in range(3):
            house.line.inject(protect_group(REVOKE, KEYS.group, title, 1002))
        assert refused(house)["replayed"] == 3
        await house.end()

    run_jumping(world)


def newest_nonce(messages: list[Upward]) -> Nonce:
    """What a grant would have to answer."""
    return [item.nonce for item in messages if isinstance(item, Report | Request) and item.nonce is not None][-1]


def test_a_bystander_who_overhears_a_nonce_grants_nothing() -> None:
    """The right nonce, epoch, request and number; only the keys are not his."""

    async def world() -> None:
        house = House()
        await house.link()
        assert house.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
        await asyncio.sleep(0.01)
        request = house.line.messages()[-1]
        assert isinstance(request, Request)
        forged = encode_down(Grant(DecisionId(Epoch(3), 1), request.request_id, request.nonce, 2400.0, 60.0), 2)
        wrong = PairKeys(KEYS.pair.encryption, bytes(16))
        for data in (
            forged,
            protect(forged, wrong, house.line.dcu.title, 500),
            protect(forged, KEYS.group, b"HDCx" * 2, 9),
        ):
            house.line.inject(data)
        mixed = bytearray(house.line.dcu.protect(forged) or b"")
        for at in range(len(mixed)):
            mixed[at] ^= 0x80
            house.line.inject(bytes(mixed))
            mixed[at] ^= 0x80
        await asyncio.sleep(0.5)
        assert house.relay.commanded is RelayState.NOMINAL
        assert sum(refused(house).values()) == 3 + len(mixed)
        house.line.inject(bytes(mixed))
        await asyncio.sleep(0.5)
        state: RelayState = house.relay.read_back()
        assert state is RelayState.RAISED
        await house.end()

    run_jumping(world)


def test_rotated_keys_are_on_disk_before_they_are_used() -> None:
    """The answer leaves under the old keys, then only the new ones count; and the link comes back under them."""

    async def world() -> None:
        house = House()
        await house.link()
        newest = PairKeys(bytes(range(128, 144)), bytes(range(144, 160)))
        wrapped = {
            KEY_ENCRYPTION: wrap(KEYS.master, newest.encryption),
            KEY_AUTHENTICATION: wrap(KEYS.master, newest.authentication),
        }
        old = house.line.dcu
        for bad in (
            wrapped | {KEY_ENCRYPTION: wrap(bytes(16), newest.encryption)},
            {KEY_ENCRYPTION: wrapped[KEY_ENCRYPTION]},
            wrapped | {KEY_BROADCAST: wrapped[KEY_ENCRYPTION]},
        ):
            house.line.say(encode_keys(bad, 5))
            await asyncio.sleep(0.1)
        assert house.vault.saved == []
        house.line.say(encode_keys(wrapped, 6))
        await asyncio.sleep(0.1)
        (saved,) = house.vault.saved
        assert (saved.pair, saved.generation, saved.master) == (newest, 2, KEYS.master)
        assert house.meter.status()["link"] == "down"
        late = old.protect(encode_down(NominalLimit(DecisionId(Epoch(9), 0), 0.0), 1))
        house.line.inject(late or b"")
        assert house.meter.status()["epoch"] == 3
        house.line.dcu = far_end(saved, seed=78)
        await asyncio.sleep(20.0)
        assert house.meter.status()["link"] == "up"
        assert house.meter.status()["protection"]["key_generation"] == 2
        await house.end()

    run_jumping(world)


GROUP = PairKeys(bytes(range(128, 144)), bytes(range(144, 160)))
OFFER = {
    KEY_BROADCAST: wrap(KEYS.master, GROUP.encryption),
    KEY_BROADCAST_AUTHENTICATION: wrap(KEYS.master, GROUP.authentication),
}


def test_new_group_keys_are_on_disk_before_they_are_used_and_the_grant_outlives_them() -> None:
    """Half of them, mixed ones and those of another master key are refused; the session goes on; said again they are
    answered and not written again. Under the old ones nothing is obeyed any more, under the new ones a revoke is, and
    nothing that raises."""

    async def world() -> None:
        house = House()
        await house.granted()
        bad = [
            {KEY_BROADCAST: OFFER[KEY_BROADCAST]},
            OFFER | {KEY_BROADCAST: wrap(bytes(16), GROUP.encryption)},
            {KEY_BROADCAST: OFFER[KEY_BROADCAST], KEY_AUTHENTICATION: OFFER[KEY_BROADCAST_AUTHENTICATION]},
            OFFER | {KEY_ENCRYPTION: wrap(KEYS.master, bytes(16))},
        ]
        for some in bad:
            house.line.say(encode_keys(some, 5))
            await asyncio.sleep(0.1)
        assert house.vault.saved == []
        for _ in range(2):
            house.line.say(encode_keys(OFFER, 6))
            await asyncio.sleep(0.1)
        (saved,) = house.vault.saved
        assert saved == replace(KEYS, group=GROUP)
        assert (house.meter.status()["link"], house.meter.status()["limit_w"]) == ("up", 2400.0)
        title = house.line.dcu.title
        house.line.inject(protect_group(REVOKE, KEYS.group, title, 1000))
        request = next(item for item in house.line.messages() if isinstance(item, Request))
        grant = Grant(DecisionId(Epoch(3), 50), request.request_id, newest_nonce(house.line.messages()), 2400.0, 60.0)
        house.line.inject(protect_group(encode_down(grant, 1), GROUP, title, 1001))
        await asyncio.sleep(0.1)
        assert refused(house) == {"not_authentic": 1, "group_raises": 1}
        raised: RelayState = house.relay.read_back()
        assert raised is RelayState.RAISED
        house.line.inject(protect_group(REVOKE, GROUP, title, 1002))
        await asyncio.sleep(0.1)
        assert house.relay.commanded is RelayState.NOMINAL
        await house.end()

    run_jumping(world)


def test_keys_that_were_offered_by_an_earlier_start_of_the_dcu_are_not_answered_to_a_later_one() -> None:
    """The disk takes five seconds, and the DCU starts again meanwhile, perhaps on an older file of keys: by the number
    of that offer it may know other keys. They are used, and answered when they are offered again."""

    async def world() -> None:
        house = House()
        await house.link()
        save = house.vault.save

        async def slowly(keys: MeterKeys) -> None:
            await asyncio.sleep(5.0)
            await save(keys)

        house.vault.save = slowly  # type: ignore[method-assign]

        def answered() -> list[ActionAnswered]:
            return [apdu for item in house.line.sent if isinstance(apdu := decode_apdu(item.data), ActionAnswered)]

        house.line.say(encode_keys(OFFER, 6))
        await asyncio.sleep(0.1)
        house.line.dcu = far_end(seed=990)
        for data in house.line.dcu.hello(0.0):
            house.line.inject(data)
        await asyncio.sleep(0.1)
        assert house.line.dcu.open
        await asyncio.sleep(10.0)
        assert [keys.group for keys in house.vault.saved] == [GROUP]
        assert answered() == []
        house.line.say(encode_keys(OFFER, 7))
        await asyncio.sleep(0.1)
        assert answered() == [ActionAnswered(7, 0)]
        await house.end()

    run_jumping(world)


def test_a_disk_that_refuses_group_keys_leaves_the_old_ones() -> None:
    """They go on to be heard, as those on the disk; nothing more is written, and the grant ends."""

    async def world() -> None:
        house = House()
        await house.granted()
        house.vault.error = OSError("No space left on device")
        house.line.say(encode_keys(OFFER, 6))
        await asyncio.sleep(1.0)
        assert house.relay.commanded is RelayState.NOMINAL
        house.line.inject(protect_group(REVOKE, KEYS.group, house.line.dcu.title, 1000))
        assert "not_authentic" not in refused(house)
        house.line.inject(protect_group(REVOKE, GROUP, house.line.dcu.title, 1001))
        assert refused(house)["not_authentic"] == 1
        await house.end()

    run_jumping(world)


def test_a_disk_that_refuses_new_keys_leaves_the_old_ones_and_ends_the_grant() -> None:
    """Nominal with an alarm; the session goes on under the keys that are on disk."""

    async def world() -> None:
        house = House()
        await house.granted()
        house.vault.error = OSError("No space left on device")
        wrapped = dict.fromkeys((KEY_ENCRYPTION, KEY_AUTHENTICATION), wrap(KEYS.master, bytes(16)))
        house.line.say(encode_keys(wrapped, 6))
        await asyncio.sleep(1.0)
        assert house.relay.commanded is RelayState.NOMINAL
        assert house.meter.status()["alarms"] == ["STORAGE_FAILED"]
        assert house.meter.status()["link"] == "up"
        assert house.meter.status()["protection"]["key_generation"] == 1
        await house.end()

    run_jumping(world)


def test_counters_are_reserved_before_they_run_out() -> None:
    """A day of reports on blocks that are renewed in time; with a disk that refuses, silence at their end."""

    async def world() -> None:
        house = House()
        await house.link()
        assert house.vault.reserved == []
        while house.vault.counter.left > BLOCK // 2:
            house.vault.counter.take()
        await asyncio.sleep(30.0)
        assert house.vault.reserved == [2 * BLOCK]
        assert house.vault.counter.left > BLOCK
        house.vault.error = OSError("Input/output error")
        while house.vault.counter.left > 3:
            house.vault.counter.take()
        await asyncio.sleep(200.0)
        assert house.vault.counter.left == 0
        before = len(house.line.sent)
        await asyncio.sleep(60.0)
        assert len(house.line.sent) == before
        assert house.meter.status()["plc"]["not_delivered"] > 0
        await house.end()

    run_jumping(world)


def test_the_clock_is_set_by_the_dcu_and_by_nobody_else() -> None:
    """Authenticated, it moves the label that people read; plain or under the group key it moves nothing."""

    async def world() -> None:
        house = House()
        await house.link()
        before = house.meter.utc_s()
        house.line.inject(encode_clock(before + 1000.0))
        house.line.inject(protect_group(encode_clock(before + 1000.0), KEYS.group, house.line.dcu.title, 900))
        assert house.meter.utc_s() == pytest.approx(before, abs=1.0)
        house.line.say(encode_clock(before + 500.0))
        assert house.meter.utc_s() == pytest.approx(before + 500.0, abs=1.0)
        house.line.say(encode_read_request(8, "0-0:1.0.0.255", 2, 3))
        answer = decode_apdu(house.line.sent[-1].data)
        assert isinstance(answer, ReadAnswer)
        assert isinstance(answer.value, bytes | bytearray)
        await house.end()

    run_jumping(world)


def test_refusals_of_a_flood_are_told_in_a_few_lines() -> None:
    """A thousand bad frames: ten lines."""
    draw = random.Random(1)
    told: list[tuple[Refusal, int]] = []
    gate = Gate(KEYS, Own.start(End.METER, counters(), draw), draw, lambda *news: told.append(news))
    assert gate.link(up=False, now=0.0) == [LinkIs(False)]
    for _ in range(1000):
        assert gate.receive(DCU, GRANT, 0.0) == []
    assert len(told) == 10
