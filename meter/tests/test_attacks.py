"""Every way to bring a meter a grant that the DCU has not given it now: refused, counted by kind, nothing raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from meter import daemon
from meter.core import HouseholdAsked
from meter.tests.far_end import DCU, KEYS, far_end
from meter.tests.jumping import run_jumping
from meter.tests.test_daemon import FakeRunner, House
from prime_plc import sap
from shared.cosem import encode_down
from shared.ids import Epoch, Eui48, parse_eui48
from shared.messages import DecisionId, Grant, RelayState, Request
from shared.protection import PairKeys, protect, protect_group
from shared.session import Refusal

CLONE = parse_eui48("02:48:44:52:00:99")


@dataclass
class Scene:
    """A meter that was granted once, is back at nominal, and asks again; and who would like to answer.

    Attributes:
        grant: the right answer to the open question, not protected.
        recorded: every frame the meter has heard from the DCU.
        said: every frame the meter has sent.
    """

    house: House
    grant: bytes
    recorded: list[bytes]
    said: list[bytes]


@pytest.fixture(autouse=True)
def _fake_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "StackRunner", FakeRunner)


async def scene(seed: int = 5) -> Scene:
    """The scene, with a tap on the line from the start."""
    house = House(seed)
    recorded, said = list[bytes](), list[bytes]()
    heard, send = house.line.heard, house.line.send

    def hear(output: sap.Output) -> None:
        if isinstance(output, sap.DataReceived):
            recorded.append(output.data)
        heard(output)

    def take(item: sap.SendData) -> bool:
        said.append(item.data)
        return send(item)

    house.line.heard = hear
    house.line.send = take  # type: ignore[method-assign]
    await house.granted()
    await asyncio.sleep(70.0)
    assert house.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
    await asyncio.sleep(0.1)
    request = next(item for item in reversed(house.line.messages()) if isinstance(item, Request))
    grant = Grant(DecisionId(Epoch(3), 50), request.request_id, request.nonce, 2400.0, 60.0)
    house.line.heard = heard
    return Scene(house, encode_down(grant, 3), recorded, said)


Attack = Callable[[Scene], list[tuple[Eui48, bytes]]]


def sealed(at: Scene) -> bytes:
    """The grant as the DCU would send it; who holds it back delivers it instead of the DCU."""
    data = at.house.line.dcu.protect(at.grant)
    assert data is not None
    return data


def other_tag(data: bytes) -> bytes:
    """glo-set-request made glo-get-request."""
    return b"\xc8" + data[1:]


ATTACKS: dict[str, tuple[Attack, Refusal]] = {
    "plain": (lambda at: [(DCU, at.grant)], Refusal.NOT_PROTECTED),
    "half an envelope": (lambda at: [(DCU, sealed(at)[:14])], Refusal.MALFORMED),
    "replay": (lambda at: [(DCU, data) for data in at.recorded[-3:]], Refusal.REPLAYED),
    "reflection": (lambda at: [(DCU, data) for data in at.said[-3:]], Refusal.REFLECTED),
    "splice": (lambda at: [(DCU, other_tag(sealed(at)))], Refusal.SPLICED),
    "cut tag": (lambda at: [(DCU, b"\xc9" + bytes((sealed(at)[1] - 1,)) + sealed(at)[2:-1])], Refusal.NOT_AUTHENTIC),
    "wrong encryption key": (
        lambda at: [
            (DCU, protect(at.grant, PairKeys(bytes(16), KEYS.pair.authentication), at.house.line.dcu.title, 500))
        ],
        Refusal.NOT_AUTHENTIC,
    ),
    "wrong authentication key": (
        lambda at: [(DCU, protect(at.grant, PairKeys(KEYS.pair.encryption, bytes(16)), at.house.line.dcu.title, 500))],
        Refusal.NOT_AUTHENTIC,
    ),
    "old counter": (
        lambda at: [(DCU, protect(at.grant, KEYS.pair, at.house.line.dcu.title, 0))],
        Refusal.REPLAYED,
    ),
    "a start that nobody has met": (
        lambda at: [(DCU, protect(at.grant, KEYS.pair, far_end(seed=9).title, 9000, named=True))],
        Refusal.NOT_FRESH,
    ),
    "group key": (
        lambda at: [(DCU, protect_group(at.grant, KEYS.group, at.house.line.dcu.title, 9000))],
        Refusal.GROUP_RAISES,
    ),
    "cloned EUI": (lambda at: [(CLONE, sealed(at))], Refusal.WRONG_DEVICE),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_counted_and_raises_nothing(name: str) -> None:
    """The household's question is open, so that a grant that was believed would move the relay at once."""
    attack, refusal = ATTACKS[name]

    async def world() -> None:
        at = await scene()
        house, frames = at.house, attack(at)
        before = dict(house.meter.status()["protection"]["refused"])
        decision = house.meter.status()["decision"]
        for peer, data in frames:
            house.line.heard(sap.DataReceived(peer, 1, 1, data))
        await asyncio.sleep(1.0)
        status = house.meter.status()
        assert house.relay.commanded is RelayState.NOMINAL
        assert (status["limit_w"], status["decision"]) == (1200.0, decision)
        counted = {kind: number - before.get(kind, 0) for kind, number in status["protection"]["refused"].items()}
        assert {kind: number for kind, number in counted.items() if number} == {refusal.name.lower(): len(frames)}
        await house.end()

    run_jumping(world)


def test_the_same_grant_from_the_dcu_itself_raises() -> None:
    """So the attacks above fail for what they are, not for the grant they carry."""

    async def world() -> None:
        at = await scene()
        at.house.line.inject(sealed(at))
        await asyncio.sleep(1.0)
        assert at.house.relay.commanded is RelayState.RAISED
        await at.house.end()

    run_jumping(world)


def test_every_kind_of_refusal_has_its_attack() -> None:
    """But for those that a meter cannot meet: it has its own key always, and no previous ones."""
    assert {refusal for _, refusal in ATTACKS.values()} == set(Refusal) - {Refusal.NO_KEY, Refusal.OLD_KEY}


@pytest.mark.parametrize("linked", [False, True])
def test_a_meter_restored_from_an_old_image_believes_no_recording(linked: bool) -> None:  # a parameter
    """Its counters begin where they began in the life that was recorded, and it forgets whom it has met; every frame of
    that life, its grant too, comes again, before the DCU has spoken to it and after."""

    async def world() -> None:
        at = await scene()
        await at.house.end()
        again = House(seed=6)
        assert again.vault.counter.next == 0
        if linked:
            await again.link()
            assert again.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
        await asyncio.sleep(1.0)
        before = sum(again.meter.status()["protection"]["refused"].values())
        for data in [*at.recorded, *at.said]:
            again.line.inject(data)
        await asyncio.sleep(1.0)
        status = again.meter.status()
        assert again.relay.commanded is not RelayState.RAISED
        assert (status["limit_w"], status["decision"]) == (1200.0, None if not linked else status["decision"])
        refused = status["protection"]["refused"]
        # Introductions are answered, not counted, and lead nowhere without our challenge.
        assert sum(refused.values()) - before >= len(at.recorded) + len(at.said) - 4
        assert set(refused) <= {"not_fresh", "not_authentic", "reflected"}
        await again.end()

    run_jumping(world)
