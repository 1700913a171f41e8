"""A DCU's gate and meters' gates, real on both sides: new group keys over a line that stops and ends that die."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from dlms_cosem.enumerations import ActionResultStatus

from dcu import gate as dcu_gate
from dcu.keys import KeyRing, new_ring
from meter import gate as meter_gate
from shared.cosem import decode_apdu, encode_down
from shared.cosem_security import ActionAnswered, KeysSent, encode_action_answer
from shared.ids import Epoch, Eui48, MeterId, parse_eui48
from shared.keys import MeterKeys
from shared.messages import DecisionId, Reason, Revoke
from shared.session import BLOCK, End, InvocationCounter, Own

DCU = parse_eui48("02:48:44:52:00:01")
ONE, TWO = parse_eui48("02:48:44:52:01:01"), parse_eui48("02:48:44:52:01:02")
FIRST, SECOND = MeterId("meter-1"), MeterId("meter-2")
REVOKE = encode_down(Revoke(DecisionId(Epoch(3), 7), Reason.OVERVOLTAGE, None, None), 1)
LATER_S = 1e9
"""[s] No introduction of a meter is held back here."""


class Disk:
    """A meter: what is on its disk, and the daemon that runs on it, which may die."""

    def __init__(self, keys: MeterKeys, draw: random.Random) -> None:
        self.keys = keys
        self.draw = draw
        self.start()

    def start(self) -> None:
        """A daemon starts on what the disk says."""
        own = Own.start(End.METER, InvocationCounter(0, BLOCK), self.draw)
        self.gate = meter_gate.Gate(self.keys, own, self.draw, lambda *_: None)

    def hear(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        """What goes back, and which broadcasts were believed."""
        back: list[bytes] = []
        believed: list[bytes] = []
        for output in self.gate.receive(DCU, data, LATER_S):
            match output:
                case meter_gate.Transmit():
                    back.append(output.data)
                case meter_gate.Heard():
                    apdu = decode_apdu(output.plain)
                    if isinstance(apdu, KeysSent):
                        back.append(self.take(apdu))
                    else:
                        believed.append(output.plain)
        return back, believed

    def take(self, sent: KeysSent) -> bytes:
        """On the disk, answered, used: in the daemon's order."""
        keys = self.gate.unwrapped(sent)
        assert keys is not None
        self.keys = keys
        answer = self.gate.protect(encode_action_answer(sent.invoke_id, ActionResultStatus.SUCCESS))
        self.gate.rekey(keys, LATER_S)
        assert answer is not None
        return answer


class Line:
    """A DCU's gate and meters' gates, real on both sides; each end can die between any two frames."""

    def __init__(self) -> None:
        self.draw = random.Random(3)
        self.now = 0.0
        made = new_ring(DCU, self.draw.randbytes).made({FIRST: ONE, SECOND: TWO}, self.draw.randbytes)
        self.ring: KeyRing = made
        self.meters = {ONE: Disk(made.exported(FIRST), self.draw), TWO: Disk(made.exported(SECOND), self.draw)}
        self.frames_left = 10_000
        self.held: list[dcu_gate.Output] | None = None
        self.start()

    def start(self) -> None:
        own = Own.start(End.DCU, InvocationCounter(0, BLOCK), self.draw)
        self.gate = dcu_gate.Gate(self.ring, own, self.draw, lambda *_: None)

    def meet(self) -> None:
        for peer, meter in self.meters.items():
            self.now += 60.0
            self.gate.link(peer, True)
            self.play([output for output in self.gate.tick(self.now) if _sent(output, peer)])
            for output in meter.gate.link(True, self.now):
                if isinstance(output, meter_gate.Transmit):
                    self.up(peer, output.data)

    def play(self, outputs: list[dcu_gate.Output]) -> None:
        """Carry frames until nobody has one, or until the line falls silent."""
        for output in outputs:
            if isinstance(output, dcu_gate.Transmit) and self.held is not None:
                self.held.append(output)
            elif isinstance(output, dcu_gate.Transmit) and self._carried():
                for data in self.meters[output.peer].hear(output.data)[0]:
                    self.up(output.peer, data)
            elif isinstance(output, dcu_gate.Heard):
                apdu = decode_apdu(output.plain)
                assert isinstance(apdu, ActionAnswered)
                self.gate.answered(output.meter, apdu)

    def up(self, peer: Eui48, data: bytes) -> None:
        if self._carried():
            self.play(self.gate.receive(peer, data, self.now))

    def _carried(self) -> bool:
        self.frames_left -= 1
        return self.frames_left >= 0

    def tick(self) -> None:
        self.now += 60.0
        self.play(self.gate.tick(self.now))

    def believed(self) -> dict[Eui48, int]:
        """How often each meter believes one message to all."""
        frames = self.gate.protect_all(REVOKE, self.now)
        return {peer: sum(len(meter.hear(data)[1]) for data in frames) for peer, meter in self.meters.items()}


def _sent(output: dcu_gate.Output, peer: Eui48) -> bool:
    return isinstance(output, dcu_gate.Transmit) and output.peer == peer


@pytest.mark.parametrize("who", ["dcu", "meter"])
@pytest.mark.parametrize("after", range(6))
def test_a_death_between_any_two_frames_loses_no_message_and_no_meter(who: str, after: int) -> None:
    """The line stops after so many frames, one end dies and starts on its disk. Before, between and afterwards what is
    said to all is believed exactly once by each meter that is there; at the end both have the new keys."""
    line = Line()
    line.meet()
    assert line.believed() == {ONE: 1, TWO: 1}
    old = line.ring.group.newest
    line.ring = line.ring.regrouped(line.draw.randbytes)
    line.play(line.gate.renew(line.ring, line.now))
    assert line.believed() == {ONE: 1, TWO: 1}
    line.frames_left = after
    line.tick()
    line.frames_left = 10_000
    assert line.believed() == {ONE: 1, TWO: 1}
    if who == "dcu":
        line.start()
    else:
        line.meters[ONE].start()
    line.meet()
    assert line.believed() == {ONE: 1, TWO: 1}
    for _ in range(4):
        line.tick()
    assert line.believed() == {ONE: 1, TWO: 1}
    assert [meter.keys.group for meter in line.meters.values()] == [line.ring.group.newest] * 2
    assert line.gate.summary()["group"] == {"generation": 2, "waiting": 0, "waiting_for": []}
    assert len(line.gate.protect_all(REVOKE, line.now)) == 1
    assert old != line.ring.group.newest


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_offers_that_overtake_each_other_leave_everybody_with_the_newest(order: tuple[int, int, int]) -> None:
    """Three rotations in a row, and the line delivers their offers in whatever order: no meter goes back to earlier
    keys, and the DCU knows who has the newest, in the same sessions."""
    line = Line()
    line.meet()
    offers: list[list[dcu_gate.Output]] = []
    for _ in order:
        line.held = []
        line.ring = line.ring.regrouped(line.draw.randbytes)
        line.play(line.gate.renew(line.ring, line.now))
        line.tick()
        offers.append(line.held)
        assert len(line.held) == 2
    line.held = None
    for which in order:
        line.play(offers[which])
        seen = [meter.keys.group for meter in line.meters.values()]
        assert which != 2 or seen == [line.ring.group.newest] * 2
    assert seen == [line.ring.group.newest] * 2
    line.tick()
    assert [meter.keys.group for meter in line.meters.values()] == [line.ring.group.newest] * 2
    assert line.gate.summary()["group"] == {"generation": 4, "waiting": 0, "waiting_for": []}
    assert line.believed() == {ONE: 1, TWO: 1}
    assert len(line.gate.protect_all(REVOKE, line.now)) == 1


@pytest.mark.parametrize("how", ["while it runs", "before a start"])
@pytest.mark.parametrize("rotations", [1, 3])
def test_an_older_file_of_keys_that_is_restored_brings_its_group_keys_back(how: str, rotations: int) -> None:
    """The street has the newest group keys, and the operator has only the file from the first day: everybody hears what
    is said to all again, and again after the next rotation."""
    line = Line()
    line.meet()
    first = line.ring
    for _ in range(rotations):
        line.ring = line.ring.regrouped(line.draw.randbytes)
    for ring in (line.ring, first, first.regrouped(line.draw.randbytes)):
        line.ring = ring
        if how == "before a start":
            line.start()
            line.meet()
        else:
            line.play(line.gate.renew(ring, line.now))
        line.tick()
        line.tick()
        assert [meter.keys.group for meter in line.meters.values()] == [ring.group.newest] * 2
        assert line.gate.summary()["group"]["waiting"] == 0
        assert line.believed() == {ONE: 1, TWO: 1}


def test_a_meter_that_was_away_gets_its_pair_first_and_then_the_newest_group_keys() -> None:
    """Its pair was rotated twice and the street's keys three times meanwhile; until it has its pair, it is sent no
    other keys."""
    line = Line()
    ring = line.ring.rotated(FIRST, line.draw.randbytes).rotated(FIRST, line.draw.randbytes)
    for _ in range(3):
        ring = ring.regrouped(line.draw.randbytes)
    line.ring = ring
    line.start()
    generations = []
    for _ in range(4):
        line.meet()
        line.tick()
        keys = line.meters[ONE].keys
        generations.append((keys.pair == ring.exported(FIRST).pair, keys.group == ring.group.newest))
    assert (False, True) not in generations
    assert generations[-1] == (True, True)
    assert line.believed() == {ONE: 1, TWO: 1}


def test_a_revoked_meter_is_sent_no_group_keys() -> None:
    """Neither when they change nor later, whatever it says; the other one has them, and cannot be lowered any more by
    who has the old ones."""
    line = Line()
    line.meet()
    before, thief = line.ring, line.meters[ONE]
    line.ring = line.ring.without([FIRST], line.draw.randbytes)
    sent = list(line.gate.renew(line.ring, line.now))
    for _ in range(5):
        line.now += 60.0
        sent += line.gate.tick(line.now)
        sent += line.gate.receive(ONE, thief.gate.protect(REVOKE) or b"", line.now)
        line.play([output for output in sent if _sent(output, TWO)])
    assert not [output for output in sent if _sent(output, ONE)]
    assert thief.keys.group == before.group.newest
    assert line.meters[TWO].keys.group == line.ring.group.newest
