"""What keeps a tree together on a bad line: switches that move, slots that stay, patience that is measured."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest

from prime_plc.acknowledged import CONNECTIONS_MAX, Acknowledged
from prime_plc.calls import CallsHeard
from prime_plc.channel import Keep, Outgoing
from prime_plc.connection import Connection
from prime_plc.control import ControlType, Prm, Pro, Reg
from prime_plc.custody import HOP_WAIT_S_MAX, Custody, expects_answer
from prime_plc.ear import Ear
from prime_plc.enrolment import CAPABILITIES
from prime_plc.links import PARENT, quality_index
from prime_plc.modem_host import FrameReceived, ModemClock, ModemSettings, TransmitConfirmed
from prime_plc.modem_messages import TransmitResult
from prime_plc.pdu import LNID_BROADCAST, Beacon, GenericPdu, Packet, PromotionNeeded, decode_pdu
from prime_plc.phy import TICK_S, Scheme
from prime_plc.sap import Action, DataReceived, LinkDown, Manage, SendData
from prime_plc.search import BeaconsHeard
from prime_plc.service_node import State
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.slots import SlotTable
from prime_plc.subheader import ArqHeader
from prime_plc.switching import Switching
from prime_plc.tests.ether import BASE, Ether, Fork, eui
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink

SETTINGS = MacSettings()


@pytest.mark.parametrize("elsewhere", ["the other switch", "the base itself"])
def test_a_switch_that_loses_its_own_switch_takes_along_what_is_below_it(elsewhere: str) -> None:
    """Its parent is gone from one instant to the next. It keeps number and slot, the node below keeps its connection
    even if the level changes, and data flow again in both directions."""
    fork = Fork()
    ether = fork.ether
    before = (ether.node(3).switching.lsid, ether.node(3).switching.slot)
    assert before[0] is not None
    old = fork.parent
    fork.set(f"n{old}", "n3", None)
    if elsewhere == "the base itself":
        fork.set("n1", "n3", None)
        fork.set("n2", "n3", None)
        fork.set("base", "n3", 25.0)
    ether.run(60.0)
    assert ether.node(3).state is State.SWITCH
    assert (ether.node(3).switching.lsid, ether.node(3).switching.slot) == before
    assert ether.node(4).level == ether.node(3).level + 1 == (1 if elsewhere == "the base itself" else 2)
    assert ether.of("n4", LinkDown) == []
    ether.put("n4", SendData(None, 1, 1, b"up", 1))
    ether.put("base", SendData(eui(4), 1, 1, b"down", 2))
    ether.run(60.0)
    assert [item.data for item in ether.of("base", DataReceived)] == [b"up"]
    assert [item.data for item in ether.of("n4", DataReceived)] == [b"down"]


def test_a_switch_without_a_way_says_so_and_ends_in_time() -> None:
    """No other switch is heard: it goes on beaconing with quality 0, takes nobody, and stops when its time is over."""
    fork = Fork()
    ether = fork.ether
    for number in (1, 2):
        fork.set(f"n{number}", "n3", None)
    ether.run(50.0)
    heard = next(one for one in ether.node(4).beacons.items() if one.pdu[1] == ether.node(3).switching.lsid)
    assert not heard.reachable
    assert ether.node(4).beacons.best(ether.now, 0.0) is None
    ether.run(SETTINGS.switch_hold_s + SETTINGS.switch_silence_s_min)
    assert ether.node(3).switching.lsid is None


def test_a_node_goes_from_a_weak_switch_to_a_stronger_one() -> None:
    """Its signal fades to where frames are lost, another one is clear: it does not wait for silence."""
    fork = Fork()
    old = fork.parent
    for _ in range(3):
        fork.set(f"n{old}", "n3", SETTINGS.tree_weak_db - 0.5)
        fork.ether.run(60.0)
    assert fork.parent != old
    assert fork.ether.of("n4", LinkDown) == []


def test_a_switch_with_a_way_that_hardly_works_takes_one_that_bears() -> None:
    """No other is clear; one that is heard well enough for the slowest modulation is better than what there is."""
    fork = Fork()
    old = fork.parent
    fork.set(f"n{3 - old}", "n3", SETTINGS.weak_snr_db + 1.0)
    fork.ether.run(60.0)
    assert fork.parent == old
    for _ in range(3):
        fork.set(f"n{old}", "n3", SETTINGS.tree_weak_db - 0.5)
        fork.ether.run(60.0)
    assert fork.parent != old
    assert fork.ether.of("n4", LinkDown) == []


@pytest.mark.parametrize("snr_db", [25.0, SETTINGS.tree_weak_db - 0.5])
def test_nobody_leaves_his_network_for_the_base_of_another_one(snr_db: float) -> None:
    """The next street's base is nearer than ours over two hops, or clear where our way hardly works: neither is a way
    to our base, and who goes there loses connection and place."""
    snr = {frozenset(pair): 25.0 for pair in (("base", "n1"), ("n1", "n2"), ("n2", "n3"))}
    ether = Ether(lambda one, other: snr.get(frozenset((one, other))))
    ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    ether.run_until(ether.connected, 600.0)
    snr[frozenset(("n2", "n3"))] = snr_db
    ether.retune()
    next_street(ether, "n3", 200)
    assert ether.said("n3", "disconnected") == []
    assert (ether.node(3).sna, ether.node(3).level) == (BASE, 2)


@pytest.mark.parametrize("snr_db", [25.0, 8.0])
def test_who_knows_his_base_waits_for_it(snr_db: float) -> None:
    """Only the next street's base is heard, ours is down: nobody registers there, and with ours back it is joined, over
    a weak signal too."""
    ether = Ether(lambda *_: snr_db)
    ether.add_node(1, base=BASE)
    ether.add_node(2)
    for name in ("n1", "n2"):
        next_street(ether, name, 100)
    assert ether.node(1).state is State.SEARCHING
    assert len(ether.said("n2", "registering")) > 0
    assert ether.said("n1", "registering") == []
    ether.dead.add("n2")
    ether.add_base()
    ether.run_until(lambda: "n1" in ether.registered(), 300.0)
    assert ether.node(1).sna == BASE


def test_no_deadline_is_missed_by_what_a_beacon_leaves_as_it_was() -> None:
    """A beacon that changes nothing does not reckon the node's deadlines again: what was reckoned before is never too
    late, also where patience has become shorter since."""
    fork = Fork()
    nodes = [fork.ether.node(number) for number in range(1, 5)]
    for second in range(60):
        if second % 20 == 0:
            for node in nodes:
                node._place.following.wait(fork.ether.now)
                node._refresh_wake()
            fork.ether.put("n4", SendData(None, 1, 1, b"report", second))
        fork.ether.run(1.0)
        for node in nodes:
            reckoned_s = node.wake_at
            node._refresh_wake()
            assert reckoned_s is not None
            assert node.wake_at is not None
            assert reckoned_s <= node.wake_at


def next_street(ether: Ether, name: str, seconds: int) -> None:
    """A node hears a beacon of another subnetwork's base each second."""
    for seq in range(seconds):
        beacon = Beacon(7, 0, 0, 1, 0, 0, 0, seq % 32, b"\x02HDR\x07\x00", 0, 0)
        heard = FrameReceived(beacon.encode(), Scheme.DBPSK_C, 0, ether.now, 0.011, 20.0, 80, precise=True)
        ether._at(ether.now + 0.3, name, heard)
        ether.run(1.0)


def test_a_switch_with_a_weak_way_does_not_look_for_a_better_one_below_itself() -> None:
    """The only strong signal it hears is that of a switch that hangs on it: it stays where it is."""
    fork = Fork()
    fork.ether.put("base", Manage(Action.PROMOTE, eui(4)))
    fork.ether.run(30.0)
    assert fork.ether.node(4).switching.slot is not None
    for number in (1, 2):
        fork.set(f"n{number}", "n3", SETTINGS.tree_weak_db - 0.5)
    fork.ether.run(120.0)
    assert fork.ether.node(3).transmitter.links.get(PARENT).snr_db < SETTINGS.tree_weak_db  # type: ignore[union-attr]
    assert fork.ether.of("n3", LinkDown) == []


@pytest.mark.parametrize(("word", "stays"), [(2, False), (7, True)])
def test_a_terminal_leaves_a_switch_that_says_it_hears_it_badly(word: int, *, stays: bool) -> None:
    """It hears the switch well itself, so only the switch can know; and it does not come back for long. The
    other one is a shorter way as well, which is not looked for here."""
    fork = Fork(settings=MacSettings(control_repeat_s=4.0, detour_s=3600.0))
    fork.set("n1", "n4", 25.0)
    fork.ether.run(10.0)
    node = fork.ether.node(4)
    old = node.sid
    hear_prm(fork.ether, 4, word)
    fork.ether.run(SETTINGS.beacon_age_s_max)
    assert (node.sid == old) == stays
    assert bool(fork.ether.said("n4", "moved")) != stays
    assert fork.ether.of("n4", LinkDown) == []


def hear_prm(ether: Ether, number: int, index: int) -> None:
    """The switch above says how well it hears a node."""
    node = ether.node(number)
    prm = Packet(False, 1, True, ControlType.PRM, node.sid, node.lnid, Prm(False, False, index).encode())
    frame = GenericPdu(downlink=True, level=node.level, packets=(prm,)).encode(BASE)
    ether.put(f"n{number}", FrameReceived(frame, Scheme.DBPSK_C, 0, ether.now - 0.02, 0.02, 25.0, 80, precise=True))


def test_a_node_that_calls_although_its_reports_come_gets_a_switch() -> None:
    """It has been registered for long, so it does not call by an old habit: it looks for a better way."""
    ether = Ether(lambda _one, _other: 25.0)
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    ether.run_until(ether.connected, 300.0)
    ether.run(30.0)
    for second in range(20):
        node = ether.node(2)
        if second % 4 == 0:
            node.transmitter.call(PromotionNeeded(node.sna, eui(2)).encode(), ether.now)
        ether.put("n2", SendData(None, 1, 1, b"report", second))
        ether.run(1.0)
    assert len(ether.of("base", DataReceived)) > 15
    assert ether.node(1).state is State.SWITCH


@pytest.mark.parametrize("calls", [SETTINGS.promotion_calls_first, 0])
def test_who_is_hardly_heard_calls_for_a_switch_before_becoming_one(calls: int) -> None:
    """The base says that it hears it badly, and a third node calls that nobody else hears: first there is a switch for
    the one that may become the third node's."""
    settings = MacSettings(promotion_calls_first=calls)
    snr = {frozenset(pair): 25.0 for pair in (("base", "n1"), ("base", "n2"), ("n1", "n2"), ("n1", "n3"))}
    ether = Ether(lambda one, other: snr.get(frozenset((one, other))), settings=settings)
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    ether.run_until(ether.connected, 300.0)
    ether.run(20.0)  # who has just registered may have called before
    hear_prm(ether, 1, quality_index(SETTINGS.trunk_ear_db - 1.0))
    ether.add_node(3)
    ether.run_until(ether.connected, 300.0)
    begun_s = [(at, number) for number in (1, 2) for at in ether.said(f"n{number}", "promoted to switch")]
    assert [number for _, number in sorted(begun_s)] == ([2, 1] if calls else [1])
    assert ether.node(3).sid == ether.node(1).switching.lsid


def test_who_calls_for_a_switch_in_vain_becomes_one_all_the_same() -> None:
    """The only way of a third node, which it hears weakly itself, is over one that the base hears weakly: that one's
    three calls cost it a minute and no more, though weak calls are ignored at first."""
    snr = {frozenset(("base", "n1")): SETTINGS.trunk_ear_db - 3.0, frozenset(("n1", "n3")): 8.0}
    ether = Ether(lambda one, other: snr.get(frozenset((one, other))))
    ether.add_base()
    ether.add_node(1)
    ether.run_until(ether.connected, 300.0)
    ether.add_node(3)
    ether.run_until(ether.connected, 150.0)
    assert ether.node(3).sid == ether.node(1).switching.lsid


@pytest.mark.parametrize("calls", [0, 1])
def test_who_has_called_for_a_better_switch_goes_there_before_its_time(calls: int) -> None:
    """What hangs on a weak way has given it time to become better; who has called has not, and another one is there."""
    snr = {("base", "n1"): 25.0}
    ether = Ether(lambda one, other: snr.get((one, other), 25.0), settings=MacSettings(weak_stay_s=600.0))
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    ether.run_until(ether.connected, 300.0)
    ether.put("base", Manage(Action.PROMOTE, eui(2)))
    ether.run(20.0)
    node = ether.node(1)
    snr["base", "n1"] = SETTINGS.tree_weak_db - 0.5
    ether.retune()
    node._place.following.calls = calls
    ether.run(60.0)
    assert (node.sid == ether.node(2).switching.lsid) == bool(calls)
    assert node._place.following.calls == 0  # it would call anew where it is now


def test_a_slot_once_given_is_the_same_when_asked_for_again() -> None:
    """A switch that comes back beacons where it did, whatever it wants now."""
    table = SlotTable(5)
    slots = {sid: table.give(sid, 2) for sid in range(1, 6)}
    assert len(set(slots.values())) == 5
    assert {sid: table.give(sid, 3) for sid in range(1, 6)} == slots


def test_a_better_round_trip_does_not_move_slots_that_are_booked_by_a_beacon() -> None:
    """The map jumps by 4 ms; what is booked by the stamp of a beacon stays within 20 us of it, for slots leave 2 ms."""
    clock = ModemClock()
    clock.add(0.0, 0.010, 1000)
    start_s = clock.stamped(50_000)
    before = clock.ticks(start_s + FRAME_S)
    clock.add(1.0, 1.002, 1000 + round(0.992 / TICK_S))
    assert abs(clock.host_s(50_000) - start_s) > 0.003
    assert abs(clock.ticks(start_s + FRAME_S) - before) <= 2


def test_a_base_follows_its_clock_slowly() -> None:
    """The same for beacons booked one after the other: no two are more than 60 ppm from a frame apart, and in the end
    the map is reached again."""
    clock = ModemClock()
    clock.add(0.0, 0.010, 1000)
    booked = [clock.booked(1.0)]
    clock.add(1.0, 1.002, 1000 + round(0.992 / TICK_S))
    times = [1.0 + number * FRAME_S for number in range(1, 400)]
    booked += [clock.booked(at_s) for at_s in times]
    steps = [(later - earlier) * TICK_S for earlier, later in itertools.pairwise(booked)]
    assert max(abs(step - FRAME_S) for step in steps) < 60e-6 * FRAME_S + TICK_S
    assert clock.host_s(booked[-1]) == pytest.approx(times[-1], abs=1e-4)


def test_a_new_packet_does_not_put_off_the_repetition_of_an_old_one() -> None:
    """One report a minute, each within the patience of the one before: the first is repeated all the same."""
    connection = Connection(SETTINGS, hops=4)
    sent = []
    for minute in range(3):
        assert connection.send(bytes(10), minute)
        for second in range(60):
            sent += [(minute * 60 + second, len(payload)) for payload in connection.packets(60.0 * minute + second)]
    assert len(sent) > 4


def test_a_way_that_is_open_again_is_used_at_once() -> None:
    """What would have waited for half a minute goes out when told to."""
    connection = Connection(SETTINGS, hops=4)
    assert connection.send(bytes(10), 1)
    assert len(connection.packets(0.0)) == 1
    assert connection.packets(1.0) == []
    connection.hurry(3.0)
    assert connection.packets(2.9) == []
    assert len(connection.packets(3.0)) == 1


def control(ctype: ControlType, lnid: int, payload: bytes) -> Packet:
    return Packet(False, 1, True, ctype, 9, lnid, payload)


def test_questions_are_repeated_and_answers_are_not() -> None:
    """By direction: a registration asked for, up, and answered, down, but not acknowledged; a promotion down but
    not its refusal."""
    reg = Reg(False, False, 0, CAPABILITIES, 2, eui(1)).encode()
    promotion, refusal = (Pro(negative, 0, 2, nsid).encode() for negative, nsid in ((False, 7), (True, 0xFF)))
    asked = {
        (expects_answer(control(ControlType.REG, LNID_BROADCAST, reg), downlink=False), True),
        (expects_answer(control(ControlType.REG, 5, reg), downlink=True), True),
        (expects_answer(control(ControlType.REG, 5, reg), downlink=False), False),
        (expects_answer(control(ControlType.PRO, 5, promotion), downlink=True), True),
        (expects_answer(control(ControlType.PRO, 5, refusal), downlink=True), False),
    }
    assert {(one, one) for one, _ in asked} == asked


def test_a_registration_at_the_last_hop_is_over_when_its_answer_passes() -> None:
    """The number comes with the answer, so the node is known by its EUI-48; another node's answer ends nothing."""
    custody = Custody(SETTINGS, random.Random(1))
    request = control(ControlType.REG, LNID_BROADCAST, Reg(False, False, 0, CAPABILITIES, 2, eui(1)).encode())
    custody.sent(Outgoing(1, False, 0, -1, [request], keep=Keep.LAST), 0.02, 0.0)
    theirs = control(ControlType.REG, 7, Reg(False, False, 0, CAPABILITIES, 2, eui(2)).encode())
    mine = control(ControlType.REG, 8, Reg(False, False, 0, CAPABILITIES, 2, eui(1)).encode())
    assert custody.answered(theirs, 0.1, downlink=True) == []
    assert custody.answered(mine, 0.2, downlink=True) == [-1]


def test_a_neighbours_word_ends_a_repetition_and_nothing_else() -> None:
    """A first copy is not concerned; what was repeated is, only for a moment, and only if it was one packet."""
    custody = Custody(SETTINGS, random.Random(1))
    packet = Packet(False, 2, False, 256, 9, 5, b"\xc1\x90\x00\x00x")
    first = Outgoing(2, False, 2, -1, [packet], keep=Keep.ONWARD)
    custody.sent(first, 0.02, 0.0)
    assert not custody.taken(-1, 0.1)
    (again,), _, _ = custody.due(5.0, crowded=False)
    custody.sent(again, 0.02, 5.0)
    assert not custody.taken(3, 5.1)
    assert not custody.taken(-1, 9.0)
    for number in (7, 8):
        again = _onward(number)
        again.tries = 1
        custody.sent(again, 0.02, 5.0)
    assert not custody.taken(-1, 5.1)
    assert custody.overheard(GenericPdu(False, 1, tuple(_onward(7).packets)), 5.2) == [-1]
    assert custody.overheard(GenericPdu(False, 1, tuple(_onward(8).packets)), 5.2) == [-1]
    assert custody.taken(-1, 5.3)
    assert len(custody) == 0


def waits(missed: int, *, question: bool = False) -> float:
    """How long a packet waits for its sign when so much data before it has seen none."""
    custody = Custody(SETTINGS, random.Random(1))
    now = 0.0
    for number in range(missed):
        custody.sent(_onward(number), 0.02, now)
        now += 100.0
        custody.due(now, crowded=True)
    custody.sent(_question() if question else _onward(missed), 0.02, now)
    assert custody.wake_at is not None
    return custody.wake_at - now


def _question() -> Outgoing:
    request = Reg(False, False, 0, CAPABILITIES, 2, eui(1)).encode()
    return Outgoing(1, False, 2, -1, [control(ControlType.REG, LNID_BROADCAST, request)], keep=Keep.ONWARD)


def _onward(number: int) -> Outgoing:
    packet = Packet(False, 2, False, 256, 9, 5, b"\xc1\x90\x00\x00" + bytes((number,)))
    return Outgoing(2, False, 2, -1, [packet], keep=Keep.ONWARD)


def test_who_misses_signs_waits_longer_before_it_repeats() -> None:
    """Noise that takes packets takes signs as well; a few missed ones are usual, and the wait has an end."""
    usual_s = SETTINGS.hop_wait_s * 1.3 + 0.02
    assert waits(0) <= usual_s
    assert waits(2) <= usual_s
    assert waits(8) > usual_s
    assert waits(8, question=True) <= usual_s
    assert waits(40) <= 1.3 * HOP_WAIT_S_MAX + 0.02


def test_a_late_repetition_of_data_is_not_relayed_again_and_a_question_is() -> None:
    """All repetitions of one hop come within the memory for data, and who has not heard the acknowledgement of what
    it said upward asks for it by saying it again; a question asked again is a new one."""
    transmitter = Transmitter(SETTINGS, ModemSettings(), random.Random(1))
    data = Packet(False, 2, False, 256, 9, 5, b"\xc1\x90\x00\x00x")
    question = control(ControlType.REG, LNID_BROADCAST, Reg(False, False, 0, CAPABILITIES, 2, eui(1)).encode())

    def relay(packet: Packet, now: float, neighbour: int | None = -1) -> bool:
        return bool(transmitter.relay([packet], neighbour, now, downlink=False, level=0, keep=Keep.NO))

    late_s = SETTINGS.data_memory_s - 1.0
    for packet in (data, question):
        assert not relay(packet, 0.0)
    assert relay(data, late_s)
    assert not relay(question, late_s)
    assert not relay(data, SETTINGS.data_memory_s + 1.0)
    acknowledged = Packet(False, 2, False, 256, 9, 5, ArqHeader(0, False, 16, (), 5).encode())
    for now, passed_on in ((0.0, True), (late_s, False), (SETTINGS.data_memory_s + 1.0, True)):
        assert bool(transmitter.relay([acknowledged], 5, now, downlink=True, level=1, keep=Keep.NO)) is not passed_on
    to_all = Packet(False, 2, False, 2, 0, 0x3FFF, b"x")
    assert not relay(to_all, 0.0, None)
    assert not relay(to_all, SETTINGS.hop_memory_s + 1.0, None)


def test_an_answer_of_the_same_bytes_is_no_repetition_of_its_question() -> None:
    """Who takes a number or a slot says it back; where nothing forbids joining (NAD) on either way the bytes are the
    same, and only the direction tells question and answer."""
    transmitter = Transmitter(SETTINGS, ModemSettings(), random.Random(1))
    said = control(ControlType.PRO, 5, Pro(False, 0, 2, 30).encode())
    assert transmitter.relay([said], 5, 0.0, downlink=True, level=1, keep=Keep.ONWARD) == []
    assert transmitter.relay([said], -1, 0.1, downlink=False, level=0, keep=Keep.LAST) == []
    assert transmitter.relay([said], -1, 0.2, downlink=False, level=0, keep=Keep.LAST) == [said]

    custody = Custody(SETTINGS, random.Random(1))
    down, up = GenericPdu(True, 1, (said,)), GenericPdu(False, 1, (said,))
    damaged = bytearray(up.encode(eui(0)))
    damaged[-6] ^= 0xFF
    custody.sent(Outgoing(1, True, 0, 5, [said], keep=Keep.ONWARD), 0.02, 0.0)
    assert custody.overheard(up, 0.1) == []
    assert custody.overheard_damaged(bytes(damaged), 0.1) == []
    damaged[1] |= 0x40
    assert custody.overheard_damaged(bytes(damaged), 0.1) == [5]
    custody.sent(Outgoing(1, True, 0, 5, [said], keep=Keep.ONWARD), 0.02, 1.0)
    custody.sent(Outgoing(1, False, 0, -1, [said], keep=Keep.ONWARD), 0.02, 1.0)
    assert len(custody) == 2
    assert custody.overheard(down, 1.1) == [5]
    assert custody.overheard(up, 1.1) == [-1]


def test_who_joins_a_network_forbids_joining_until_its_base_has_confirmed_that() -> None:
    """Another base may answer than the one that did: requests for registration bear NAD as captured ones do."""
    transmitter = Transmitter(SETTINGS, ModemSettings(), random.Random(1))
    uplink = Uplink(SETTINGS, transmitter)
    beacon = Beacon(7, 0, 0, 1, 0, 0, 0, 0, b"\x02HDR\x07\x00", 0, 0)
    said: list[tuple[int, bool]] = []
    for confirmed in (False, True):
        uplink.join(beacon)
        uplink.control(ControlType.REG, bytes(8), 0.0)
        uplink.aggregates = confirmed
        uplink.control(ControlType.ALV, bytes(2), 0.0)
    uplink.join(beacon)
    uplink.control(ControlType.REG, bytes(8), 0.0)
    while transmitter.channel.wake_at is not None and len(said) < 9:
        (frame,) = transmitter.wake(transmitter.channel.wake_at)
        pdu = decode_pdu(frame.pdu, beacon.sna)
        assert isinstance(pdu, GenericPdu)
        said += [(packet.lcid, packet.nad) for packet in pdu.packets]
        transmitter.confirmed(TransmitConfirmed(frame.buffer, TransmitResult.SUCCESS), 1.0)
    reg, alv = ControlType.REG, ControlType.ALV
    assert said == [(reg, True), (alv, True), (reg, True), (alv, False), (reg, True)]


def test_a_sign_that_comes_while_the_repetition_waits_for_the_channel_takes_it_back() -> None:
    """It was not gone yet when its relay was overheard: it never goes, and one that the modem has is not kept."""
    transmitter = Transmitter(SETTINGS, ModemSettings(), random.Random(1))
    transmitter.clock.beacon(0.0, 0, 1, 0, 0)
    transmitter.channel.sna = eui(0)
    custody = transmitter.custody
    for where in ("waiting", "with the modem"):
        outgoing = _onward(7)
        custody.sent(outgoing, 0.02, 0.0)
        (again,), _, _ = custody.due(100.0, crowded=False)
        assert transmitter.channel.put(again, 100.0)
        assert len(custody) == 1
        relayed = GenericPdu(downlink=False, level=1, packets=tuple(outgoing.packets))
        assert custody.overheard(relayed, 100.0) == [-1]
        assert len(custody) == 0
        if where == "waiting":
            for _ in range(20):
                wake_at = transmitter.wake_at
                assert wake_at is None or transmitter.wake(wake_at) == []
            assert len(transmitter.channel) == 0
        else:
            custody.sent(again, 0.02, 101.0)
            assert len(custody) == 0


def switch_of_nine() -> tuple[Switching, Transmitter]:
    transmitter = Transmitter(SETTINGS, ModemSettings(), random.Random(1))
    transmitter.clock.beacon(0.0, 0, 1, 0, 0)
    switching = Switching(SETTINGS, transmitter)
    switching.lsid, switching.level = 9, 1
    return switching, transmitter


def data_of_five(number: int, ack: int, body: bytes) -> GenericPdu:
    """Up with a body, an acknowledgement down without."""
    payload = ArqHeader(number, True, 16, (), ack).encode() + body
    return GenericPdu(downlink=not body, level=1, packets=(Packet(False, 2, False, 256, 9, 5, payload),))


@pytest.mark.parametrize("anew", [ControlType.REG, ControlType.CON])
@pytest.mark.parametrize("downlink", [False, True])
def test_a_connection_that_begins_anew_is_not_answered_for_the_old_one(anew: ControlType, *, downlink: bool) -> None:
    """A switch answers for the base when a node repeats what was acknowledged. After a restart the numbers begin again:
    the first packet is then passed on, though the old connection had the same acknowledged."""
    switching, transmitter = switch_of_nine()
    switching.up(data_of_five(4, 0, b"\x00x"), 0.0)
    switching.down(data_of_five(0, 5, b""), 1.0)
    switching.up(data_of_five(4, 0, b"\x00x"), 2.0)
    assert switching.answered == 1
    again = Packet(False, 1, True, anew, 9, 5, Reg(False, False, 0, CAPABILITIES, 2, eui(5)).encode())
    (switching.down if downlink else switching.up)(GenericPdu(downlink, 1, (again,)), 3.0)
    relayed = transmitter.relayed
    switching.up(data_of_five(4, 0, b"\x00x"), 100.0)
    assert (switching.answered, transmitter.relayed) == (1, relayed + 1)


@pytest.mark.parametrize("elsewhere", [31, 32, 40, 63, 64])
def test_an_old_acknowledgement_answers_nothing_that_came_after_it(elsewhere: int) -> None:
    """A tree hung elsewhere for so many packets and came back: what the switch saw acknowledged before says nothing of
    what comes now, though by its number it may. The connection would stand still for ever."""
    switching, transmitter = switch_of_nine()
    switching.up(data_of_five(0, 0, b"\x00first"), 0.0)
    switching.down(data_of_five(0, 1, b""), 1.0)
    number = (1 + elsewhere) % 64
    for attempt in range(3):
        relayed = transmitter.relayed
        switching.up(data_of_five(number, 0, b"\x00later"), 2000.0 + 100 * attempt)
        assert (switching.answered, transmitter.relayed) == (0, relayed + 1)
    switching.down(data_of_five(0, number + 1, b""), 3000.0)
    switching.up(data_of_five(number, 0, b"\x00later"), 3001.0)
    assert switching.answered == 1


def test_an_acknowledgement_of_what_went_another_way_is_kept_for_nothing() -> None:
    """What somebody else has passed on may have been acknowledged; it is passed on, and the base says it again."""
    switching, transmitter = switch_of_nine()
    switching.down(data_of_five(0, 5, b""), 0.0)
    switching.up(data_of_five(4, 0, b"\x00x"), 1.0)
    assert (switching.answered, transmitter.relayed) == (0, 2)


def test_a_node_leaves_a_detour_for_a_short_way_and_not_for_a_doubtful_one() -> None:
    """n4 hangs on a chain of three and begins to hear the base; what it hears at 12 dB may not hear it at all."""
    ether = Ether(lambda one, other: snr_db.get(frozenset((one, other))))
    snr_db = {frozenset(pair): 12.0 for pair in (("base", "n1"), ("n1", "n2"), ("n2", "n3"), ("n3", "n4"))}
    ether.add_base()
    for number in (1, 2, 3, 4):
        ether.add_node(number)
    ether.run_until(ether.connected, 600.0)
    node = ether.node(4)
    assert node.level == 3
    for signal_db, level in ((12.0, 3), (25.0, 0)):
        snr_db[frozenset(("base", "n4"))] = signal_db
        ether.retune()
        ether.run(4 * SETTINGS.detour_s)
        assert node.level == level
    assert ether.of("n4", LinkDown) == []


def test_a_node_prefers_one_slower_hop_to_three_fast_ones() -> None:
    """Each hop takes airtime for a report, its acknowledgement and their repetitions, whatever its modulation."""
    ether = Ether(lambda one, other: snr_db.get(frozenset((one, other))))
    snr_db = {frozenset(pair): 30.0 for pair in (("base", "n1"), ("n1", "n2"), ("n2", "n3"))}
    ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    ether.run_until(ether.connected, 600.0)
    node = ether.node(3)
    assert node.level == 2
    snr_db[frozenset(("base", "n3"))] = 18.0
    ether.retune()
    ether.run(4 * SETTINGS.detour_s)
    assert node.level == 0
    assert ether.of("n3", LinkDown) == []


def test_an_acknowledgement_that_was_passed_on_is_said_again_once_and_not_kept() -> None:
    """Whoever gave us the data has missed it and will ask once more if need be. Kept, each copy would be repeated until
    it is passed on all the way again: such chains took a third of a crowded street."""
    custody = Custody(SETTINGS, random.Random(1))
    packet = data_of_five(0, 5, b"").packets[0]

    def say(now: float) -> int:
        custody.sent(Outgoing(2, True, 0, 3, [packet], keep=Keep.ONWARD), 0.02, now)
        return len(custody)

    assert say(0.0) == 1
    assert custody.overheard(GenericPdu(downlink=True, level=1, packets=(packet,)), 0.3) == [3]
    assert say(1.0) == 0
    assert say(SETTINGS.data_memory_s + 1.0) == 1


def test_what_was_asked_for_again_is_answered_with_care() -> None:
    """A switch that says an acknowledgement again to another switch keeps it until that one has passed it on."""
    switching, transmitter = switch_of_nine()
    switching.table.promotion(control(ControlType.PRO, 5, b""), Pro(False, 0, 2, 11), 9, 0.0, downlink=True)
    payload = ArqHeader(4, True, 16, (), 0).encode() + b"\x00x"
    report = Packet(False, 2, False, 256, 11, 7, payload)
    answer = Packet(False, 2, False, 256, 11, 7, ArqHeader(0, False, 16, (), 5).encode())
    switching.up(GenericPdu(downlink=False, level=1, packets=(report,)), 0.0)
    switching.down(GenericPdu(downlink=True, level=0, packets=(answer,)), 1.0)
    transmitter.channel.clear()
    switching.up(GenericPdu(downlink=False, level=1, packets=(report,)), 10.0)
    assert switching.answered == 1
    (said,) = transmitter.channel._queue
    assert (said.packets, said.keep, said.neighbour) == ([answer], Keep.ONWARD, 5)


def test_a_newer_acknowledgement_takes_the_place_of_an_older_one() -> None:
    """Older ones, said again 32 packets later, would seem to cover what nobody has."""
    custody = Custody(SETTINGS, random.Random(1))
    for number in (5, 6):
        custody.sent(Outgoing(2, True, 0, 3, list(data_of_five(0, number, b"").packets), keep=Keep.ONWARD), 0.02, 0.0)
    assert len(custody) == 1
    (again,), over, _ = custody.due(10.0, crowded=False)
    assert (tuple(again.packets), over) == (data_of_five(0, 6, b"").packets, [])
    custody.sent(Outgoing(2, True, 0, 3, list(data_of_five(0, 7, b"").packets), keep=Keep.ONWARD), 0.02, 10.0)
    assert again.needless


@pytest.mark.parametrize("behind", [2, 31, 32, 34, 63])
def test_an_old_acknowledgement_that_comes_late_covers_nothing(behind: int) -> None:
    """A window of packets has been passed on; what acknowledges none of the latest is from before."""
    switching, transmitter = switch_of_nine()
    switching.up(data_of_five(40, 0, b"\x00x"), 0.0)
    switching.down(data_of_five(0, (41 - behind) % 64, b""), 1.0)
    relayed = transmitter.relayed
    switching.up(data_of_five(40, 0, b"\x00x"), 100.0)
    assert (switching.answered, transmitter.relayed) == (0, relayed + 1)


def test_an_acknowledgement_upward_that_is_asked_for_again_is_passed_on_again() -> None:
    """No switch answers in the node's place for what came down."""
    transmitter = Transmitter(SETTINGS, ModemSettings(), random.Random(1))
    said = Packet(False, 2, False, 256, 9, 5, ArqHeader(0, False, 16, (), 5).encode())

    def relay(now: float) -> bool:
        return bool(transmitter.relay([said], -1, now, downlink=False, level=0, keep=Keep.NO))

    assert not relay(0.0)
    assert not relay(SETTINGS.hop_memory_s + 1.0)


def test_an_acknowledgement_that_rode_on_data_is_said_again_alone() -> None:
    """Nor are the packets that were missing then asked for again."""
    switching, transmitter = switch_of_nine()
    switching.up(data_of_five(4, 0, b"\x00x"), 0.0)
    payload = ArqHeader(7, True, 16, (6,), 5).encode() + b"\x00down"
    down = GenericPdu(downlink=True, level=0, packets=(Packet(False, 2, False, 256, 9, 5, payload),))
    switching.down(down, 1.0)
    transmitter.channel.clear()
    switching.up(data_of_five(4, 0, b"\x00x"), 2.0)
    (said,) = transmitter.channel._queue
    assert said.packets[0].payload == ArqHeader(7, False, 16, (), 5).encode()


def test_a_switch_that_has_lost_its_place_answers_for_nobody() -> None:
    """What was acknowledged is to be asked for again where it hangs then."""
    switching, transmitter = switch_of_nine()
    switching.up(data_of_five(4, 0, b"\x00x"), 0.0)
    switching.down(data_of_five(0, 5, b""), 1.0)
    switching.suspend(2.0)
    switching.lsid, relayed = 9, transmitter.relayed
    switching.up(data_of_five(4, 0, b"\x00x"), 100.0)
    assert (switching.answered, transmitter.relayed) == (0, relayed + 1)


def test_what_was_acknowledged_is_remembered_of_so_many_connections() -> None:
    """The one that was silent for longest goes first."""
    known = Acknowledged()

    def packet(lnid: int, body: bytes, ack: int = 0) -> Packet:
        return Packet(False, 2, False, 256, 9, lnid, ArqHeader(0, False, 16, (), ack).encode() + body)

    for lnid in (*range(CONNECTIONS_MAX), 0, CONNECTIONS_MAX):
        known.passed_on(packet(lnid, b"\x00x"))
    assert len(known) == CONNECTIONS_MAX
    assert [known.came_by(packet(lnid, b"", 1)) for lnid in (0, 1, 2, CONNECTIONS_MAX)] == [True, False, True, True]


def test_a_neighbour_that_is_gone_has_passed_on_nothing() -> None:
    """Its number may be another one's, and the way of a tree another hop."""
    custody = Custody(SETTINGS, random.Random(1))
    packet = data_of_five(0, 5, b"").packets[0]

    def say(neighbour: int, now: float) -> int:
        custody.sent(Outgoing(2, True, 0, neighbour, [packet], keep=Keep.ONWARD), 0.02, now)
        return len(custody)

    assert say(3, 0.0) == 1
    custody.overheard(GenericPdu(downlink=True, level=1, packets=(packet,)), 0.3)
    assert (say(3, 1.0), say(4, 1.0)) == (0, 1)
    custody.forget(4)
    custody.forget(3)
    assert say(3, 2.0) == 1


@pytest.mark.parametrize("waited_for", [True, False])
def test_an_acknowledgement_that_we_have_asked_for_again_needs_no_word_of_ours(*, waited_for: bool) -> None:
    """It comes again as our report was said again, and not because the base has missed our relay."""
    switching, transmitter = switch_of_nine()
    uplink = Uplink(SETTINGS, transmitter)
    uplink.sna, uplink.sid, uplink.level, uplink.lnid = bytes(6), 0, 0, 77
    ear = Ear(
        transmitter,
        uplink,
        switching,
        BeaconsHeard(SETTINGS, transmitter.links),
        CallsHeard(SETTINGS, random.Random(1)),
    )
    words: list[list[Packet]] = []
    neighbours: Any = SimpleNamespace(has_it=lambda _key, _snr_db, packets, _now: words.append(packets))
    following: Any = SimpleNamespace(heard=lambda _snr_db, _now: None)
    report = data_of_five(4, 0, b"\x00x").packets[0]
    acknowledgement = GenericPdu(downlink=True, level=0, packets=data_of_five(0, 5, b"").packets)
    frame = FrameReceived(acknowledgement.encode(bytes(6)), Scheme.DBPSK_C, 0, 0.0, 0.02, 20.0, 60, True)
    switching.up(GenericPdu(downlink=False, level=1, packets=(report,)), 0.0)
    assert ear.above(frame, following, neighbours, 1.0, registering=False)
    if waited_for:
        transmitter.custody.sent(Outgoing(2, False, 0, -1, [report], keep=Keep.LAST), 0.02, 1.5)
    assert ear.above(frame, following, neighbours, 2.0, registering=False)
    assert len(words) == (not waited_for)
