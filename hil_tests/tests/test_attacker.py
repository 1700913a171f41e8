"""An attacker on the whole line, against the real daemons in virtual time: whatever he delivers is counted and does
nothing.

The judges of every street go on judging: no export above nominal without a live grant on the wire, every decision
recorded once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from dcu.accusations import Accusation
from dcu.gate import Transmit
from dcu.keys import KeyRing
from hil_tests.attacker import Attacker, Trick
from hil_tests.jump import JumpStreet
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import Action, Ask, Expectation, Process, Release, Scenario, load_scenario
from hil_tests.verdict import judge
from hil_tests.virtual.loop import run_virtual
from hil_tests.world import DCU, EUI48
from shared.cosem import encode_down
from shared.ids import Epoch, MeterId, format_eui48, parse_eui48
from shared.messages import DecisionId, Grant, Reason, Revoke
from shared.protection import PairKeys, protect_group
from shared.session import BLOCK, End, InvocationCounter, Own, Session

LIMIT_W = 2400.0


class TappedStreet(JumpStreet):
    """A street with an attacker; a daemon starts again on the disk it had, or on an older image of it."""

    attacker: Attacker
    old_images = False

    async def launch(self, who: str) -> None:
        if self.old_images:
            vault = self.dcu_vault if who == DCU else self.vaults[who]
            vault.reserved = 0
        await super().launch(who)
        self.attacker.tap(who, self.daemon(who))

    def daemon(self, who: str) -> Any:
        """A running daemon."""
        return self._dcu if who == DCU else self._meters[who]


Strike = Callable[[TappedStreet], None]


def attacked(
    tmp_path: Path,
    actions: list[Action],
    strikes: dict[float, Strike],
    final_a: float,
    *,
    old_images: bool = False,
    duration_s: float = 40.0,
) -> tuple[Observation, TappedStreet]:
    """A play of forty seconds, or of ``duration_s``, with strikes at these times [s]."""
    base = load_scenario("granted")
    expect = [Expectation(what="export", client="client1", at_s=duration_s, current_a=final_a)]
    scenario: Scenario = base.model_copy(update={"duration_s": duration_s, "expect": expect, "action": actions})
    streets: list[TappedStreet] = []

    async def main() -> Observation:
        ear = Ear(asyncio.get_running_loop())
        street = TappedStreet(scenario, ear, tmp_path, 1)
        street.attacker = Attacker(street, 1)
        street.old_images = old_images
        streets.append(street)

        due = sorted(strikes)

        def strike(seen: Observation) -> None:
            while due and not failures and len(seen.samples) > round(10 * due[0]):
                try:
                    strikes[due.pop(0)](street)
                except Exception as exc:  # the play would wait for its recorder for ever
                    failures.append(exc)

        return await play(scenario, street, ear, strike)

    failures: list[Exception] = []
    seen = run_virtual(main)
    if failures:
        raise failures[0]
    assert [verdict for verdict in judge(scenario, seen) if not verdict.passed] == []
    return seen, streets[0]


ASK = Ask(do="ask", at_s=5.0, client="client1", limit_w=LIMIT_W)
RELEASE = Release(do="release", at_s=15.0, client="client1")


def refusals(street: TappedStreet, who: str) -> dict[str, int]:
    """What a daemon's status says it has refused."""
    found: dict[str, int] = street.daemon(who).status()["protection"]["refused"]
    return dict(found)


def state(street: TappedStreet) -> dict[str, Any]:
    """What an attacker would like to change."""
    dcu, meter = street.daemon(DCU), street.daemon("client1")
    table = [(item.seq, item.reported_at_s, item.applied, item.limit_w) for item in dcu.engine.table.states()]
    keys = ("limit_w", "source", "decision", "epoch", "relay", "nominal_limit_w")
    return {"table": table, "queue": len(dcu._inbox._items), **{key: meter.status()[key] for key in keys}}


@pytest.mark.parametrize("trick", list(Trick), ids=lambda trick: trick.name)
def test_a_trick_changes_counters_and_nothing_else(trick: Trick, tmp_path: Path) -> None:
    """Everything said so far, delivered again in this way, while a grant lives and after it was given back."""
    seen_counts: list[tuple[int, int]] = []

    def strike(street: TappedStreet) -> None:
        before, delivered = state(street), street.attacker.delivered
        refused = sum(sum(refusals(street, who).values()) for who in (DCU, "client1", "client2"))
        street.attacker.play([trick])
        assert state(street) == before
        after = sum(sum(refusals(street, who).values()) for who in (DCU, "client1", "client2"))
        seen_counts.append((street.attacker.delivered - delivered, after - refused))

    seen, _ = attacked(tmp_path, [ASK, RELEASE], {12.0: strike, 20.0: strike, 30.0: strike}, 5.0)
    assert any(isinstance(frame.message, Grant) for frame in seen.frames)
    assert all(delivered > 20 for delivered, _ in seen_counts)
    assert all(refused >= 0.8 * delivered for delivered, refused in seen_counts), seen_counts


@pytest.mark.parametrize("old_images", [False, True], ids=["disks as they were", "old disk images"])
@pytest.mark.parametrize("who", ["dcu", "client1"])
def test_recordings_outlive_a_restart_for_nothing(
    who: Literal["dcu", "client1"], old_images: bool, tmp_path: Path
) -> None:
    """A granted evening is recorded; DCU or meter starts again, perhaps from last week's image, and the recording is
    played to whoever has forgotten it: no limit rises, no report is believed, and the street heals by itself."""
    actions: list[Action] = [
        ASK,
        RELEASE,
        Process(do="kill", at_s=18.0, who=who),
        Process(do="start", at_s=19.0, who=who),
    ]

    def strike(street: TappedStreet) -> None:
        before = state(street)
        street.attacker.play([Trick.REPLAY, Trick.REFLECT])
        assert state(street) == before

    times = [19.2, 19.5, 20.0, 21.0, 22.0, 25.0, 30.0]
    seen, _ = attacked(tmp_path, actions, dict.fromkeys(times, strike), 5.0, old_images=old_images)
    raised = [move.t_s for move in seen.relay_moves if move.client == "client1" and move.raised]
    assert [at_s for at_s in raised if at_s > 16.0] == []
    assert seen.status["client1"]["link"] == "up"
    assert seen.status["client1"]["epoch"] == (2 if who == DCU else 1)
    assert seen.status["client1"]["protection"]["session"] == "open"


@pytest.mark.parametrize("who", ["dcu", "client1"])
def test_recordings_under_another_address_accuse_nobody(who: Literal["dcu", "client1"], tmp_path: Path) -> None:
    """Introductions of the start before, too, each played from the other meter's address when nobody searches for much
    else: an alarm that lasts until a person comes needs somebody who has the keys and answers with them."""
    deaths: list[Action] = [Process(do="kill", at_s=18.0, who=who), Process(do="start", at_s=19.0, who=who)]

    def strike(street: TappedStreet) -> None:
        everything = street.attacker.kept
        said = [kept for kept in everything if kept.receiver == DCU and kept.sender == EUI48["client1"]]
        street.attacker.kept = said[:4]
        street.attacker.play([Trick.CROSS])
        street.attacker.kept = everything

    found: list[tuple[dict[str, str], int]] = []

    def look(street: TappedStreet) -> None:
        found.append(
            (street.daemon(DCU).status()["protection"]["alarms"], refusals(street, DCU).get("wrong_device", 0))
        )

    strikes: dict[float, Strike] = {float(at_s): strike for at_s in range(20, 38, 3)}
    _, street = attacked(tmp_path, deaths, strikes | {39.0: look}, 5.0)
    assert street.dcu_vault.alarms == {}
    ((alarms, counted),) = found
    assert alarms == {}
    assert counted > 0


def test_keys_are_rotated_under_way_and_the_grant_outlives_it(tmp_path: Path) -> None:
    """The operator changes the file of keys; the DCU finds it, brings the keys to the meter, and both go on."""

    def rotate(street: TappedStreet) -> None:
        vault = street.dcu_vault
        vault.ring = vault.ring.rotated(street.vaults["client1"].keys.meter, street._draw.randbytes)
        street.world.reader.keys.learn(vault.ring)

    seen, street = attacked(tmp_path, [ASK], {8.0: rotate}, 10.0)
    assert street.vaults["client1"].keys.generation == 2
    assert seen.status["client1"]["protection"]["key_generation"] == 2
    assert seen.status["client1"]["protection"]["session"] == "open"
    assert seen.status["client1"]["link"] == "up"
    falls = [move for move in seen.relay_moves if move.client == "client1" and not move.raised and move.t_s > 6.0]
    assert falls == []


def test_group_keys_are_rotated_under_way_and_the_old_ones_are_worth_nothing(tmp_path: Path) -> None:
    """They reach both meters within seconds, the grant outlives it, and who still has the old ones cannot lower it."""
    old: list[PairKeys] = []

    def rotate(street: TappedStreet) -> None:
        vault = street.dcu_vault
        old.append(vault.ring.group.newest)
        vault.ring = vault.ring.regrouped(street._draw.randbytes)
        street.world.reader.keys.learn(vault.ring)

    def forge(street: TappedStreet) -> None:
        before, refused = state(street), refusals(street, "client1").get("not_authentic", 0)
        title: bytes = street.daemon(DCU)._gate._own.title
        everything = Revoke(DecisionId(Epoch(1), 99), Reason.OPERATOR, None, None)
        data = protect_group(encode_down(everything, 1), old[0], title, 0xFFFFFFFF)
        street.attacker.say("client1", DCU, data)
        assert state(street) == before
        assert refusals(street, "client1")["not_authentic"] == refused + 1

    seen, street = attacked(tmp_path, [ASK], {8.0: rotate, 35.0: forge}, 10.0)
    assert {vault.keys.group for vault in street.vaults.values()} == {street.dcu_vault.ring.group.newest}
    assert seen.status["client1"]["protection"]["key_generation"] == 1
    falls = [move for move in seen.relay_moves if move.client == "client1" and not move.raised and move.t_s > 6.0]
    assert falls == []


def test_a_meter_with_keys_that_is_not_configured_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It introduces itself, and is let in by its keys; new group keys wait for the configured meters alone."""
    found: list[tuple[int, int, int]] = []
    spare, there = MeterId("spare"), parse_eui48("02:48:44:52:01:99")

    def enrol(street: TappedStreet) -> None:
        vault = street.dcu_vault
        vault.ring = vault.ring.made({spare: there}, street._draw.randbytes).regrouped(street._draw.randbytes)
        street.world.reader.keys.learn(vault.ring)

    def introduce(street: TappedStreet) -> None:
        draw, dcu = random.Random(9), street.daemon(DCU)._gate
        meter = Session(
            Own.start(End.METER, InvocationCounter(0, BLOCK), draw), street.dcu_vault.ring.exported(spare).pair, draw
        )
        frames = list(meter.hello(0.0))
        for data in frames:
            sent = [output.data for output in dcu.receive(there, data, 0.0) if isinstance(output, Transmit)]
            frames += [answer for one in sent for answer in meter.receive(one, 0.0).answers]
        assert meter.open

    def look(street: TappedStreet) -> None:
        gate = street.daemon(DCU)._gate
        summary = gate.summary()
        now = asyncio.get_running_loop().time()
        revoke = encode_down(Revoke(DecisionId(Epoch(1), 99), Reason.OPERATOR, None, None), 1)
        found.append((summary["sessions"], summary["group"]["waiting"], len(gate.protect_all(revoke, now))))

    attacked(tmp_path, [], {8.0: enrol, 20.5: introduce, 39.0: look}, 5.0)
    assert found == [(3, 0, 1)]


@pytest.mark.parametrize("who", ["dcu", "client1"])
def test_a_death_while_group_keys_change_leaves_them_changed(who: Literal["dcu", "client1"], tmp_path: Path) -> None:
    """One end dies just when the keys are on their way, and starts on the disk it had."""

    def rotate(street: TappedStreet) -> None:
        street.dcu_vault.ring = street.dcu_vault.ring.regrouped(street._draw.randbytes)
        street.world.reader.keys.learn(street.dcu_vault.ring)

    deaths: list[Action] = [Process(do="kill", at_s=10.4, who=who), Process(do="start", at_s=12.0, who=who)]
    seen, street = attacked(tmp_path, deaths, {8.0: rotate}, 5.0)
    assert {vault.keys.group for vault in street.vaults.values()} == {street.dcu_vault.ring.group.newest}
    assert seen.status["client1"]["link"] == "up"


def steal(street: TappedStreet) -> None:
    """Somebody with the keys of client1 speaks from the address of client2."""
    draw = random.Random(9)
    own = Own.start(End.METER, InvocationCounter(0, BLOCK), draw)
    street.attacker.pose("client2", Session(own, street.vaults["client1"].keys.pair, draw))


def test_an_identity_alarm_outlives_the_dcu_until_it_is_acknowledged(tmp_path: Path) -> None:
    """A thief with a meter's keys at another address; the DCU dies and starts again; the operator acknowledges."""
    found: list[dict[str, str]] = []

    def look(street: TappedStreet) -> None:
        found.append(street.daemon(DCU).status()["protection"]["alarms"])

    def acknowledge(street: TappedStreet) -> None:
        street.attacker.leave("client2")
        vault = street.dcu_vault
        vault.ring = vault.ring.acknowledged(street.vaults["client1"].keys.meter)

    actions: list[Action] = [Process(do="kill", at_s=15.0, who="dcu"), Process(do="start", at_s=16.0, who="dcu")]
    strikes: dict[float, Strike] = {13.0: steal, 14.0: look, 30.0: look, 31.0: acknowledge, 50.0: look}
    _, street = attacked(tmp_path, actions, strikes, 5.0, duration_s=60.0)
    assert found == [{"client1": f"keys used by {format_eui48(EUI48['client2'])}"}] * 2 + [{}]
    assert street.dcu_vault.alarms == {}


def test_a_relay_without_keys_can_raise_an_alarm_and_moves_no_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody between a meter and its DCU hands challenge and answer on from another address, for a whole play: that
    is an alarm, as that of a thief is, who can look the same. It is told once, and again after the operator's word;
    every decision and every move of a relay is that of the play without him, and no session ends."""
    caplog.set_level("INFO", "dcu")
    found: list[dict[str, str]] = []

    def relay(street: TappedStreet) -> None:
        street.attacker.hand_on("client1", "client2")

    def look(street: TappedStreet) -> None:
        found.append(street.daemon(DCU).status()["protection"]["alarms"])

    def acknowledge(street: TappedStreet) -> None:
        street.dcu_vault.ring = street.dcu_vault.ring.acknowledged(MeterId("client1"))

    actions: list[Action] = [ASK, Release(do="release", at_s=32.0, client="client1")]
    strikes: dict[float, Strike] = {3.0: relay, 15.0: look, 16.0: acknowledge, 45.0: look}
    seen, street = attacked(tmp_path / "relay", actions, strikes, 5.0, duration_s=50.0)
    alone, _ = attacked(tmp_path / "alone", actions, {}, 5.0, duration_s=50.0)
    alarm = {"client1": f"keys used by {format_eui48(EUI48['client2'])}"}
    assert found == [alarm, alarm]
    assert street.dcu_vault.alarms == {MeterId("client1"): Accusation(EUI48["client2"], 1)}
    keys = ("kind", "epoch", "seq", "meter", "limit_w", "reason")
    decided, as_alone = ([tuple(e.get(k) for k in keys) for e in one.ledger if e["seq"]] for one in (seen, alone))
    assert decided == as_alone
    assert len(decided) > 3
    moves, moves_alone = ([(move.client, move.raised) for move in one.relay_moves] for one in (seen, alone))
    assert moves == moves_alone
    assert ("client1", True) in moves
    said = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("meter linked") for line in said) == 4  # two plays, two meters
    assert not [line for line in said if line.startswith("meter silent")]


def test_an_alarm_is_counted_on_from_an_older_file_of_keys_over_a_restart(tmp_path: Path) -> None:
    """The alarm was told under a file that had been acknowledged twice; the file of before is restored, the DCU starts
    again, and the operator acknowledges once."""

    found: list[Accusation] = []

    def restore(street: TappedStreet) -> None:
        meter = street.vaults["client1"].keys.meter
        street.dcu_vault.alarms = {meter: Accusation(EUI48["client2"], 2)}
        street.dcu_vault.ring = street.dcu_vault.ring.acknowledged(meter)

    def acknowledge(street: TappedStreet) -> None:
        meter = street.vaults["client1"].keys.meter
        found.append(street.dcu_vault.alarms[meter])
        street.dcu_vault.ring = street.dcu_vault.ring.acknowledged(meter)

    actions: list[Action] = [
        Process(do="kill", at_s=8.0, who="dcu"),
        Process(do="start", at_s=10.0, who="dcu"),
        Process(do="kill", at_s=15.0, who="dcu"),
        Process(do="start", at_s=20.0, who="dcu"),
    ]
    _, street = attacked(tmp_path, actions, {9.0: restore, 17.0: acknowledge}, 5.0)
    assert found == [Accusation(EUI48["client2"], 1)]
    assert street.dcu_vault.alarms == {}


@pytest.mark.parametrize("alarmed_at_s", [7.0, 13.0])
def test_a_restart_between_two_files_of_keys_ends_no_alarm(alarmed_at_s: float, tmp_path: Path) -> None:
    """An older file of keys is restored, the DCU dies and starts again on it, and the newest file is put back, with its
    higher number of acknowledgements: the alarm, told before or meanwhile, stands, and one word of the operator ends
    it."""
    found: list[dict[str, Any]] = []
    rings: list[KeyRing] = []

    def acknowledge(street: TappedStreet) -> None:
        rings.append(street.dcu_vault.ring)
        street.dcu_vault.ring = street.dcu_vault.ring.acknowledged(MeterId("client1"))

    def swap(street: TappedStreet) -> None:
        rings.append(street.dcu_vault.ring)
        street.dcu_vault.ring = rings[-2]

    def look(street: TappedStreet) -> None:
        found.append(street.daemon(DCU).status()["protection"]["alarms"])
        if "client2" in street.attacker._stolen:
            street.attacker.leave("client2")

    actions: list[Action] = [Process(do="kill", at_s=22.0, who="dcu"), Process(do="start", at_s=23.0, who="dcu")]
    strikes: dict[float, Strike] = {
        1.0: acknowledge,
        alarmed_at_s: steal,
        12.0 - 0.1 * (alarmed_at_s > 12.0): swap,
        21.5: look,
        35.0: swap,
        50.0: look,
        51.0: acknowledge,
        65.0: look,
    }
    _, street = attacked(tmp_path, actions, strikes, 5.0, duration_s=70.0)
    alarm = {"client1": f"keys used by {format_eui48(EUI48['client2'])}"}
    assert found == [alarm, alarm, {}]
    assert street.dcu_vault.alarms == {}


def test_a_revoked_meter_loses_its_grant_by_silence(tmp_path: Path) -> None:
    """Its keys are withdrawn: nothing reaches it any more, and the lease ends at the meter by itself."""

    def revoke(street: TappedStreet) -> None:
        vault = street.dcu_vault
        vault.ring = vault.ring.without([street.vaults["client1"].keys.meter], street._draw.randbytes)
        street.world.reader.keys.learn(vault.ring)

    refused: list[dict[str, int]] = []
    strikes: dict[float, Strike] = {12.0: revoke, 39.0: lambda street: refused.append(refusals(street, DCU))}
    seen, street = attacked(tmp_path, [ASK], strikes, 5.0)
    assert any(isinstance(frame.message, Grant) for frame in seen.frames)
    assert seen.status["client1"]["source"] == "LEASE_ENDED"
    assert refused[0]["no_key"] > 0
    newest = street.dcu_vault.ring.group.newest
    assert [street.vaults[name].keys.group == newest for name in ("client1", "client2")] == [False, True]
