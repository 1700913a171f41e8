"""The small parts of the MAC, each by itself: times, slots, tables, calls, promotion, custody, channel access."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime_plc.agenda import Agenda
from prime_plc.calls import CallsHeard
from prime_plc.channel import BYTE_S, MESSAGE_BYTES, POLL_S, ChannelAccess, Given, Keep, Outgoing
from prime_plc.control import Capabilities, Con, ControlType, Mul, Prm, Pro, Reg
from prime_plc.custody import HOP_WAIT_S_MAX, Custody, sign
from prime_plc.downlink import Downlink
from prime_plc.frame_clock import FrameClock
from prime_plc.groups import Groups
from prime_plc.links import BAD_HOP_COST, HOP_COST, Links
from prime_plc.modem_host import FrameReceived, TransmitConfirmed, TransmitFrame
from prime_plc.modem_messages import TransmitResult
from prime_plc.pdu import LNID_BROADCAST, LNID_MULTICAST, Beacon, GenericPdu, Packet, decode_pdu
from prime_plc.phy import PDU_BYTES_MAX, SYMBOL_S, Scheme
from prime_plc.promotion import BETTER_S, Asked, PromotionDesk
from prime_plc.registry import Node, Registry
from prime_plc.search import BeaconsHeard
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.slots import Slot, SlotTable
from prime_plc.subheader import ArqHeader
from prime_plc.switch_table import MEMBERS_MAX, SwitchTable
from prime_plc.tests.captured_frames import SNA
from prime_plc.tests.ether import MODEM, eui
from prime_plc.timers import Deadlines
from prime_plc.transmitter import Transmitter
from shared.errors import DecodeError

SETTINGS = MacSettings()


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 50)), max_size=60))
def test_deadlines_come_in_order_and_only_the_last_word_counts(changes: list[tuple[int, int | None]]) -> None:
    """Against a plain dictionary: set, moved to and fro, taken away."""
    deadlines: Deadlines[int] = Deadlines()
    plain: dict[int, float] = {}
    for key, at in changes:
        deadlines.set(key, at)
        if at is None:
            plain.pop(key, None)
        else:
            plain[key] = at
        assert deadlines.next_at == min(plain.values(), default=None)
    due = deadlines.due(25)
    assert sorted(due) == sorted(key for key, at in plain.items() if at <= 25)
    assert [plain[key] for key in due] == sorted(plain[key] for key in due)
    assert len(deadlines) == len(plain) - len(due)


@given(st.integers(0, 31), st.integers(0, 5), st.integers(1, 4), st.floats(0.0, 60.0))
def test_the_next_slot_is_of_the_right_frame(seq: int, frequency: int, slot: int, after_s: float) -> None:
    """After any instant: the first frame whose number fits, the slot's place in it, not earlier."""
    clock = FrameClock(5)
    clock.beacon(10.0, 0, 2, 0, 7)
    start_s, number = clock.next_slot(10.0 + after_s, slot, seq, frequency)
    frames = (start_s - 10.0 - slot * 5 * SYMBOL_S) / FRAME_S
    assert frames == pytest.approx(round(frames), abs=1e-6)
    assert number == (7 + round(frames)) % 32
    assert (number - seq) % 2**frequency == 0
    assert 0 < start_s - (10.0 + after_s) <= FRAME_S * 2**frequency + 1e-9


def test_an_announced_structure_holds_from_its_frame_on() -> None:
    """FRA for frame 9: until then two slots, then three; a contention-free period ends the contention."""
    clock = FrameClock(5)
    clock.beacon(0.0, 0, 2, 0, 7)
    clock.announce(9, 3, 200, 0.1)
    assert clock.contention(1.9 * FRAME_S)[0] == pytest.approx(FRAME_S + 10 * SYMBOL_S)
    assert clock.contention(2.5 * FRAME_S) == pytest.approx((2 * FRAME_S + 15 * SYMBOL_S, 2 * FRAME_S + 200 * SYMBOL_S))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 5)), max_size=80))
def test_slots_never_meet(steps: list[tuple[bool, int, int]]) -> None:
    """Whatever is given and taken back, no two switches beacon at once, and none in the base's slot."""
    table = SlotTable(5)
    given_: dict[int, Slot] = {}
    for take, sid, frequency in steps:
        if take and sid not in given_:
            slot = table.give(sid, frequency)
            if slot is not None:
                given_[sid] = slot
        elif not take:
            table.take_back(sid)
            given_.pop(sid, None)
        slots = list(given_.values())
        assert not any(one.meets(other) for index, one in enumerate(slots) for other in slots[:index])
        assert all(0 < slot.number < table.count <= 5 for slot in slots)


def test_slots_run_out_at_128() -> None:
    """Four slots, each shared by 32 switches; the next one gets none."""
    table = SlotTable(5)
    assert all(table.give(sid, 5) is not None for sid in range(128))
    assert table.give(200, 0) is None


def test_who_beacons_often_has_half_a_slot_to_give_and_no_other_part_of_it_is_freed() -> None:
    """Half of what it has beacons in every second of its frames, nowhere else; down to every 16 frames."""
    table = SlotTable(2)
    assert [table.give(sid, 2) for sid in range(3)] == [Slot(1, seq, 2) for seq in range(3)]
    scarce = [table.scarce]
    table.give(3, 3)
    assert [*scarce, table.scarce] == [False, True]
    assert table.half(9) is None
    half = table.half(0)
    assert half == Slot(1, 0, 3)
    table.narrow(0, Slot(1, 1, 3))
    table.narrow(0, Slot(1, 0, 2))
    assert table.give(4, 3) == Slot(1, 7, 3)
    assert table.full
    table.narrow(0, half)
    assert table.give(5, 3) == Slot(1, 4, 3)
    quarter = table.half(0)
    assert quarter == Slot(1, 0, 4)
    table.narrow(0, quarter)
    assert table.half(0) is None


def test_a_switch_learns_who_is_below_from_what_passes() -> None:
    """A promotion below is entered with the child it came through; demotion of that child forgets all behind it."""
    table = SwitchTable(100.0)
    table.promotion(Packet(False, 1, True, 3, 20, 5, b""), Pro(False, 0, 0, 30), 20, 0.0, downlink=True)
    table.promotion(Packet(True, 1, True, 3, 30, 9, b""), Pro(False, 0, 0, 40), 20, 1.0, downlink=False)
    assert table.entries == {30: 5, 40: 5}
    assert [table.child_of(sid, 9, 20) for sid in (20, 40, 50)] == [9, 5, None]
    table.promotion(Packet(False, 1, True, 3, 20, 5, b""), Pro(True, 0, 0, 30), 20, 90.0, downlink=True)
    assert table.entries == {}
    table.membership(Packet(False, 1, True, 8, 20, 5, b""), Mul(False, 7, 1))
    assert table.groups == [7]


def test_numbers_below_a_switch_age() -> None:
    """What has been silent for the entry time goes when another one comes."""
    table = SwitchTable(100.0)
    table.promotion(Packet(False, 1, True, 3, 20, 5, b""), Pro(False, 0, 0, 30), 20, 0.0, downlink=True)
    table.promotion(Packet(False, 1, True, 3, 20, 6, b""), Pro(False, 0, 0, 31), 20, 200.0, downlink=True)
    assert table.entries == {31: 6}


def test_a_terminal_asks_sooner_the_more_callers_it_hears() -> None:
    """One caller: up to the whole wait; ten: a part of it; hushed: later; the best heard is named."""
    few, many = CallsHeard(SETTINGS, random.Random(1)), CallsHeard(SETTINGS, random.Random(1))
    few.hear(eui(1), 20.0, 0.0)
    for number in range(10):
        many.hear(eui(number), 15.0 + number, 0.0)
    assert many.ask_at is not None
    assert few.ask_at is not None
    assert many.ask_at < few.ask_at
    assert many.due(many.ask_at) == (eui(9), 7)
    few.hush(1.0)
    assert few.due(100.0) is None
    few.hear(eui(1), 20.0, 2.0)
    assert few.ask_at > 1.0 + SETTINGS.promotion_hush_s


def test_a_terminal_with_a_bad_way_leaves_others_more_time_to_offer_themselves() -> None:
    """The same call, the same draw: who has a cheap hop asks before one with the dearest has waited its least."""
    good, bad = CallsHeard(SETTINGS, random.Random(1)), CallsHeard(SETTINGS, random.Random(1))
    good.hear(eui(1), 20.0, 0.0, HOP_COST[Scheme.D8PSK_C])
    bad.hear(eui(1), 20.0, 0.0, BAD_HOP_COST)
    assert good.ask_at is not None
    assert bad.ask_at is not None
    assert bad.ask_at > good.ask_at + SETTINGS.promotion_window_s


def heard(sid: int, snr_db: float, level: int = 1, cost: int = 4) -> FrameReceived:
    beacon = Beacon(7, sid, 2, 1, 0, level, 0, 3, SNA, cost, cost)
    return FrameReceived(beacon.encode(), Scheme.DBPSK_C, 0, 0.0, 0.011, snr_db, 80, precise=True)


def test_of_switches_the_one_is_taken_that_hears_us_too() -> None:
    """The strongest has said that it hardly hears us: it is chosen only for want of another one, and never said to be
    better; what it has said is forgotten in time, and those of the own tree do not count."""
    beacons = BeaconsHeard(SETTINGS, Links(SETTINGS))
    for sid, snr_db in ((20, 30.0), (30, 15.0)):
        beacons.hear(heard(sid, snr_db), 0.0)

    def best(*own: int) -> int | None:
        found = beacons.best(0.0, SETTINGS.join_snr_db, own)
        return None if found is None else found.beacon.sid

    assert best() == 20
    assert beacons.stronger(0.0, SNA, {30}, 63)
    beacons.ear(SNA, 20, SETTINGS.weak_ear_db - 0.5, SETTINGS.ear_memory_s)
    assert best() == 30
    assert best(30) == 20
    assert best(20, 30) is None
    assert not beacons.stronger(0.0, SNA, {30}, 63)
    assert not beacons.other_ear(0.0, SNA, {30}, 63)
    beacons.hear(heard(20, 30.0), SETTINGS.ear_memory_s)
    assert beacons.stronger(SETTINGS.ear_memory_s, SNA, {30}, 63)


def test_where_the_best_switch_is_too_deep_the_next_one_is_moved_to() -> None:
    """The deeper one has the better signal and a better way of its own, and so costs less."""
    beacons = BeaconsHeard(SETTINGS, Links(SETTINGS))
    for sid, snr_db, level, cost in ((20, 40.0, 2, 1), (30, 11.0, 1, 4)):
        beacons.hear(heard(sid, snr_db, level, cost), 0.0)
    best, other = beacons.best(0.0, SETTINGS.join_snr_db), beacons.other_ear(0.0, SNA, (), 1)
    assert best is not None
    assert other is not None
    assert (best.beacon.sid, other.beacon.sid) == (20, 30)
    assert beacons.other_ear(0.0, SNA, (), 0) is None


def test_a_switch_that_takes_nobody_in_leaves_room_for_the_next_best() -> None:
    """Each request that comes to nothing is repeated after twice the time, so others are tried meanwhile; whoever has
    no way any more asks it sooner, and in time it is as good as any."""
    beacons = BeaconsHeard(SETTINGS, Links(SETTINGS))
    now = 0.0

    def other() -> int | None:
        for sid, snr_db in ((20, 30.0), (30, 15.0)):
            beacons.hear(heard(sid, snr_db), now)
        found = beacons.other_ear(now, SNA, (), 63)
        return None if found is None else found.beacon.sid

    waits = []
    for _ in range(8):
        assert other() == 20
        beacons.not_moved(SNA, 20, now)
        since_s = now
        while other() == 30:
            now += 1.0
            if now - since_s == SETTINGS.avoid_s:
                best = beacons.best(now, SETTINGS.join_snr_db)
                assert best is not None
                assert best.beacon.sid == 20
        waits.append(now - since_s)
    assert waits == [90.0, 180.0, 360.0, 720.0, 1440.0, 1800.0, 1800.0, 1800.0]
    for _ in range(2000):  # a month of it
        beacons.not_moved(SNA, 20, now)
        now += SETTINGS.ear_memory_s
    assert other() == 20
    now += SETTINGS.ear_memory_s + 1.0
    assert other() == 20
    beacons.not_moved(SNA, 20, now)
    now += 90.0
    assert other() == 20


def test_weak_calls_are_ignored_at_first() -> None:
    """A call that is hardly heard is answered only when it comes again and again."""
    calls = CallsHeard(SETTINGS, random.Random(1))
    for count in range(SETTINGS.promotion_ignore_max):
        calls.hear(eui(1), 4.0, float(count))
        assert calls.ask_at is None
    calls.hear(eui(1), 4.0, 10.0)
    assert calls.ask_at is not None


def test_the_base_takes_the_cheapest_path_that_hears_well() -> None:
    """Of three offers for one caller: not the weak one, not the long one; and none again while it settles."""
    desk = PromotionDesk(SETTINGS)
    for number, quality, cost in ((1, 1, 0), (2, 6, 12), (3, 6, 2)):
        assert desk.ask(Asked(eui(number), eui(9), quality, cost), 0.0)
    assert desk.due(1.0) == []
    (chosen,) = desk.due(SETTINGS.promotion_window_s)
    assert (chosen.winner, set(chosen.losers)) == (eui(3), {eui(1), eui(2)})
    assert not desk.ask(Asked(eui(2), eui(9), 6, 1), 10.0)
    assert desk.ask(Asked(eui(2), eui(9), 6, 1), 2.0 + SETTINGS.promotion_settle_s)


def test_the_base_waits_for_a_better_way_while_only_poor_ones_are_offered() -> None:
    """One that comes meanwhile wins, and soon; else the poor one, after some seconds. It may repeat its offer."""
    poor, good = Asked(eui(1), eui(9), 7, 17, poor=True), Asked(eui(2), eui(9), 6, 3)
    longest_s = SETTINGS.promotion_window_s + BETTER_S
    desk = PromotionDesk(SETTINGS)
    assert desk.ask(poor, 0.0)
    assert desk.ask(poor, 5.0)
    assert desk.due(longest_s - 0.1) == []
    (alone,) = desk.due(longest_s)
    assert (alone.winner, alone.losers) == (eui(1), ())
    desk = PromotionDesk(SETTINGS)
    assert desk.ask(poor, 0.0)
    assert desk.ask(good, 6.0)
    assert desk.due(6.0 + SETTINGS.promotion_window_s - 0.1) == []
    (chosen,) = desk.due(6.0 + SETTINGS.promotion_window_s)
    assert (chosen.winner, chosen.losers) == (eui(2), (eui(1),))


def test_groups_have_a_limit_and_free_their_numbers() -> None:
    """A group goes with its last member; one too many is refused."""
    groups = Groups(2)
    first = groups.join(3, b"a", eui(1))
    assert first is not None
    assert groups.join(3, b"a", eui(2)) is first
    assert groups.join(3, b"b", eui(1)) is not None
    assert groups.join(3, b"c", eui(1)) is None
    groups.leave(first.lcid, eui(1))
    assert [group.lcid for group in groups.gone(eui(2))] == [first.lcid]
    assert groups.join(3, b"c", eui(1)) is not None


def test_switch_numbers_rest_before_they_are_used_again() -> None:
    """254 numbers, none twice within the rest, none that a stranger uses."""
    registry = Registry(random.Random(1), 100.0)
    registry.rest(77, 50.0)
    seen = set()
    for number in range(253):
        node = _node(number)
        registry.add(node)
        sid = registry.promote(node, 0.0)
        assert sid is not None
        seen.add(sid)
        registry.demote(node, 0.0)
    assert len(seen) == 253
    assert 77 not in seen
    assert registry.promote(_node(900), 10.0) is None
    assert registry.promote(_node(900), 60.0) == 77


@pytest.mark.parametrize(("children", "more"), [(0, False), (5, True)])
def test_a_switch_with_a_tree_is_asked_longer_before_it_is_given_up(children: int, *, more: bool) -> None:
    """Its number is promised again after it has moved: giving that up would end everybody below. A question that
    concerns it alone is given up as ever."""
    registry = Registry(random.Random(1), 100.0)
    transmitter = Transmitter(SETTINGS, MODEM, random.Random(1))
    transmitter.clock.beacon(0.0, 0, 1, 0, 0)
    downlink = Downlink(SETTINGS, transmitter, registry, Agenda(registry), random.Random(1))
    node = _node(5)
    registry.add(node)
    node.children = children

    def asked(ctype: ControlType, payload: bytes) -> int:
        before = downlink.sent["control"]
        downlink.expect(node, ctype, payload, 0.0)
        at_s = 0.0
        while downlink.again(node, at_s) is None:
            at_s += 1.0
        return downlink.sent["control"] - before

    assert asked(ControlType.CON, b"x") == 1 + SETTINGS.control_repeats_max
    promised = asked(ControlType.PRO, Pro(False, 0, 2, 30).encode())
    assert promised == 1 + (SETTINGS.tree_repeats_max if more else SETTINGS.control_repeats_max)


def _node(number: int) -> Node:
    return Node(eui(number), 0, number + 1, 1, Capabilities.NONE, 2, 0.0, 0.0, 0.0)


def data(number: int, *, ack: int = 0, sid: int = 9, body: bytes = b"\x00x", nad: bool = False) -> Packet:
    payload = ArqHeader(number, True, 16, (), ack).encode() + body
    return Packet(nad, 2, False, 256, sid, 5, payload)


def test_custody_ends_when_the_relay_is_overheard_or_the_acknowledgement_passes() -> None:
    """Onward: the same packet with another level; at the last hop: the answer that acknowledges it; else repeated."""
    custody = Custody(SETTINGS, random.Random(1))
    onward = Outgoing(2, False, 2, -1, [data(1)], keep=Keep.ONWARD)
    custody.sent(onward, 0.02, 0.0)
    assert custody.overheard(GenericPdu(False, 1, (data(2),)), 0.1) == []
    assert custody.overheard(GenericPdu(False, 1, (data(1),)), 0.1) == [-1]
    custody.sent(Outgoing(2, False, 0, -1, [data(3)], keep=Keep.LAST), 0.02, 1.0)
    assert custody.answered(data(0, ack=3, body=b""), 1.1, downlink=True) == []
    assert custody.answered(data(0, ack=4, body=b""), 1.1, downlink=True) == [-1]
    custody.sent(onward, 0.02, 2.0)
    (again,), over, _ = custody.due(4.0, crowded=False)
    assert (again.packets, again.tries, over) == ([data(1)], 1, [])
    for tries in range(2, SETTINGS.hop_repeats_max + 1):
        custody.sent(again, 0.02, 20.0 * tries)
        (again,), over, _ = custody.due(20.0 * tries + 15.0, crowded=False)
        assert (again.packets, again.tries, over) == ([data(1)], tries, [])
    custody.sent(again, 0.02, 100.0)
    assert custody.due(115.0, crowded=False) == ([], [(False, data(1).encode())], [-1])
    assert len(custody) == 0


def test_what_is_passed_on_outweighs_what_was_given_up() -> None:
    """Three packets from below one switch that were repeated in vain, and the next hop may have forgotten that switch,
    unless as many were passed on, however late. Losses downward, at the last hop, behind another switch and of what was
    never repeated say nothing of that. It is said once."""
    custody = Custody(SETTINGS, random.Random(1))
    now = 0.0

    def send(passed: str, *, downlink: bool = False, keep: Keep = Keep.ONWARD, sid: int = 9) -> None:
        nonlocal now
        now += 100.0
        packet = data(int(now / 100.0) % 64, sid=sid)
        custody.sent(Outgoing(2, downlink, 2, -1, [packet], keep=keep), 0.02, now)
        if passed == "at once":
            assert custody.overheard(GenericPdu(downlink, 1, (packet,)), now + 0.1) == [-1]
        (again,) = custody.due(now + 20.0, crowded=passed == "crowd")[0] or (None,)
        if passed == "late":
            assert custody.overheard(GenericPdu(downlink, 1, (packet,)), now + 20.1) == [-1]
        elif again is not None:
            custody.sent(again, 0.02, now + 20.1)
            custody.due(now + 60.0, crowded=True)

    for passed in ("no", "no", "at once", "no", "late", "no"):
        send(passed)
    for _ in range(3):
        send("crowd")
        send("no", downlink=True)
        send("no", keep=Keep.LAST)
    send("no", sid=8)
    assert custody.take_forgotten() == []
    send("no")
    assert custody.take_forgotten() == [9]
    assert custody.take_forgotten() == []
    for forget in (custody.clear, lambda: custody.shift(0, (9, 5))):
        send("no")
        send("no")
        forget()
        send("no")
        assert custody.take_forgotten() == []
        custody.clear()


def test_packets_that_left_in_one_frame_move_with_their_node_once() -> None:
    """Moved by each of its packets, the frame's level would be wrong, and below the base's one a frame cannot be
    encoded."""
    custody = Custody(SETTINGS, random.Random(1))
    custody.sent(Outgoing(2, False, 2, -1, [data(1), data(2)], keep=Keep.ONWARD), 0.02, 0.0)
    custody.shift(-2)
    again, _, _ = custody.due(10.0, crowded=False)
    assert [(one.level, one.packets) for one in again] == [(0, [data(1)]), (0, [data(2)])]


def test_custody_keeps_no_control_packet_at_its_last_hop() -> None:
    """Nothing would show that it came; its own repetition is end to end."""
    custody = Custody(SETTINGS, random.Random(1))
    control = Packet(True, 1, True, 7, 0, 5, b"\0\0\xff")
    custody.sent(Outgoing(1, False, 0, -1, [control], keep=Keep.LAST), 0.02, 0.0)
    custody.sent(Outgoing(2, False, 0, -1, [data(0, body=b"")], keep=Keep.LAST), 0.02, 0.0)
    assert len(custody) == 0


@pytest.mark.parametrize("ctype", [ControlType.REG, ControlType.PRO, ControlType.BSI])
def test_what_ends_an_exchange_is_said_twice_at_its_last_hop(ctype: ControlType) -> None:
    """Where signs are missed; a third time never, and what is said downward once: the base's own repetition shows that
    it is needed."""
    custody = Custody(SETTINGS, random.Random(1))
    word = Packet(True, 1, True, ctype, 0, 5, b"\0\x07")
    custody.sent(Outgoing(1, False, 0, -1, [word], keep=Keep.LAST), 0.02, 0.0)
    assert len(custody) == 0
    for number in range(8):
        custody.sent(Outgoing(2, False, 0, -1, [data(number)], keep=Keep.LAST), 0.02, -100.0)
        custody.due(-50.0, crowded=True)
    custody.sent(Outgoing(1, False, 0, -1, [word], keep=Keep.LAST), 0.02, 0.0)
    (again,), over, _ = custody.due(3.0, crowded=False)
    assert (again.packets, over) == ([word], [])
    custody.sent(again, 0.02, 3.0)
    assert len(custody) == 0
    refusal = Packet(True, 1, True, ControlType.PRO, 0, 5, b"\x80\xff")
    custody.sent(Outgoing(1, True, 0, 5, [refusal], keep=Keep.LAST), 0.02, 4.0)
    assert len(custody) == 0


@pytest.mark.parametrize("downlink", [True, False])
def test_what_nobody_answers_is_said_once_at_its_last_hop(*, downlink: bool) -> None:
    """A base that knows no such node wants no answer, and gives none to the end of a connection; a node that is sent
    away by its address answers, and so does a base that is asked for a connection."""
    custody = Custody(SETTINGS, random.Random(1))
    stranger, known = (Reg(True, False, 0, Capabilities.NONE, 2, eui48).encode() for eui48 in (bytes(6), eui(1)))
    ended, asked = (Con(negative, True, 256, 3, b"x").encode() for negative in (True, False))
    ctype = ControlType.REG if downlink else ControlType.CON
    for payload, kept in ((stranger, 0), (known, 1)) if downlink else ((ended, 0), (asked, 1)):
        packet = Packet(True, 1, True, ctype, 9, 5, payload)
        custody.sent(Outgoing(1, downlink, 1, 5, [packet], keep=Keep.LAST), 0.02, 0.0)
        assert len(custody) == kept


def test_a_refusal_ends_what_it_refuses_and_nothing_else() -> None:
    """The base knows a node no more: nothing of it is said to the base again. It knows the connection no more: no data
    on that. Other nodes and connections, what goes down, and a refusal for whoever has no number are not concerned."""
    gone = Reg(True, False, 0, Capabilities.NONE, 2, bytes(6)).encode()
    closed = Con(True, False, 256, 3).encode()
    onward = [
        Packet(False, 2, False, lcid, 9, lnid, b"\xc1\x90\x00\x00x") for lcid, lnid in ((256, 5), (256, 6), (257, 5))
    ]
    question = Packet(True, 1, True, ControlType.MUL, 9, 5, b"\0\0")
    down = Packet(False, 2, False, 256, 9, 5, b"\xc1\x90\x00\x00y")

    def left(ctype: ControlType, payload: bytes, lnid: int = 5, *, downlink: bool = True) -> list[Packet]:
        custody = Custody(SETTINGS, random.Random(1))
        for packet in (*onward, question):
            custody.sent(Outgoing(2, False, 2, -1, [packet], keep=Keep.ONWARD), 0.02, 0.0)
        custody.sent(Outgoing(2, True, 2, 5, [down], keep=Keep.ONWARD), 0.02, 0.0)
        custody.answered(Packet(False, 1, True, ctype, 9, lnid, payload), 0.1, downlink=downlink)
        again = [packet for one in custody.due(100.0, crowded=False)[0] for packet in one.packets]
        return [packet for packet in everything if packet in again]

    everything = [*onward, question, down]
    assert left(ControlType.REG, gone) == [onward[1], down]
    assert left(ControlType.CON, closed) == [onward[1], onward[2], question, down]
    assert left(ControlType.REG, gone, LNID_BROADCAST) == everything
    assert left(ControlType.REG, gone, downlink=False) == everything
    accepted = Reg(False, False, 0, Capabilities.NONE, 2, eui(1)).encode()
    assert left(ControlType.REG, accepted) == everything


def test_an_acknowledgement_is_said_twice_below_a_switch() -> None:
    """Where signs of data are missed: its own missing sign is none of those, and is nobody's loss. The base says its
    own once, as its neighbours ask again at once."""
    transmitter = Transmitter(SETTINGS, MODEM, random.Random(1))
    transmitter.clock.beacon(0.0, 0, 1, 0, 0)
    transmitter.channel.sna = SNA
    custody, links = transmitter.custody, transmitter.links
    links.heard(5, 20.0, 0.0)
    payload = ArqHeader(0, False, 16, (), 1).encode()
    below, ours = (Packet(False, 2, False, 256, sid, 5, payload) for sid in (9, 0))

    def sent(packet: Packet, now: float) -> int:
        custody.sent(Outgoing(2, True, 1, 5, [packet], keep=Keep.LAST), 0.02, now)
        return len(custody)

    assert sent(below, 0.0) == 0
    for number in range(6):
        custody.sent(Outgoing(2, False, 2, -1, [data(number)], keep=Keep.ONWARD), 0.02, -100.0)
        custody.due(-50.0, crowded=True)
    for start_s in range(0, 400, 10):
        assert sent(below, start_s) == 1
        transmitter.wake(start_s + 5.0)
        assert custody.repeated == start_s // 10 + 1
        transmitter.channel.clear()
        custody.clear()
    link = links.get(5)
    assert link is not None
    assert link.losses == 0
    custody.sent(Outgoing(2, False, 2, -1, [data(0)], keep=Keep.ONWARD), 0.02, 450.0)
    assert custody.wake_at is not None
    assert custody.wake_at < 450.0 + 0.8 * HOP_WAIT_S_MAX, "the share of data's signs that are missed is as it was"
    custody.clear()
    for _ in range(SETTINGS.crowded_queue + 1):
        transmitter.send([data(0)], 5, 460.0, downlink=True, level=1, keep=Keep.NO)
    given_up = custody.given_up
    for start_s in range(460, 500, 10):
        assert sent(below, start_s) == 1
        transmitter._repeat(start_s + 5.0)
        assert len(custody) == 0
    assert (link.losses, custody.given_up) == (0, given_up), "a crowded line says it once"
    transmitter.channel.clear()
    assert sent(below, 500.0) == 1
    (again,), over, _ = custody.due(505.0, crowded=False)
    assert (again.packets, over) == ([below], [])
    custody.sent(again, 0.02, 505.0)
    assert len(custody) == 0
    assert sent(ours, 510.0) == 0


def test_a_relay_that_came_damaged_counts_by_its_header_and_length() -> None:
    """The first seven bytes travel in the robust header; another length is another packet, and so is another report of
    the same switch, whose header is the same so far."""
    custody = Custody(SETTINGS, random.Random(1))
    custody.sent(Outgoing(2, False, 2, -1, [data(1)], keep=Keep.ONWARD), 0.02, 0.0)
    relayed = GenericPdu(False, 1, (data(1),)).encode(SNA)
    assert custody.overheard_damaged(relayed[:-6] + b"\0\0", 0.1) == []
    report = data(2, body=bytes(range(100)))
    other = data(2, body=bytes(range(100, 200)))
    custody.sent(Outgoing(2, False, 2, -1, [report], keep=Keep.ONWARD), 0.02, 0.0)
    assert custody.overheard_damaged(GenericPdu(False, 1, (other,)).encode(SNA)[:-4] + bytes(4), 0.1) == []
    torn = bytearray(GenericPdu(False, 1, (report,)).encode(SNA))
    torn[-44:] = bytes(44)
    assert custody.overheard_damaged(bytes(torn), 0.1) == [-1]
    assert custody.overheard_damaged(relayed[:-6] + bytes(6), 0.1) == [-1]


def test_a_relay_damaged_beyond_half_counts_where_no_other_has_its_header() -> None:
    """Four of five bytes wrong, as in a modulation made for the next hop: it is still nearer than another report would
    be; where two packets share the header it is not enough."""
    custody = Custody(SETTINGS, random.Random(1))
    first, second = (data(number, body=bytes((number,)) * 100) for number in (1, 2))
    torn = bytearray(GenericPdu(False, 1, (first,)).encode(SNA))
    torn[-84:-4] = bytes(80)
    custody.sent(Outgoing(2, False, 2, -1, [first], keep=Keep.ONWARD), 0.02, 0.0)
    custody.sent(Outgoing(2, False, 2, -1, [second], keep=Keep.ONWARD), 0.02, 0.0)
    assert custody.overheard_damaged(bytes(torn), 0.1) == []
    custody.overheard(GenericPdu(False, 1, (second,)), 0.1)
    assert custody.overheard_damaged(bytes(torn), 0.1) == [-1]


def test_a_neighbour_that_names_what_it_has_ends_that_and_nothing_else() -> None:
    """Two packets have been repeated, so its word alone would be ambiguous; a sign means one."""
    custody = Custody(SETTINGS, random.Random(1))
    packets = [data(number) for number in (1, 2)]
    for packet in packets:
        custody.sent(Outgoing(2, False, 2, -1, [packet], keep=Keep.ONWARD, tries=1), 0.02, 0.0)
    assert not custody.taken(-1, 0.1)
    assert custody.signed((sign(data(3).encode()),), 0.1) == []
    assert custody.signed((sign(packets[1].encode()),), 0.1) == [-1]
    (again,), _, _ = custody.due(60.0, crowded=False)
    assert again.packets == packets[:1]


def test_signs_stand_behind_an_acknowledgement_only() -> None:
    """Whole ones: a question with a tail, or half a sign, is no PRM."""
    for payload in (b"", b"\x03\0\1", b"\xc3\0\1", b"\x83\0", b"\x40\0\1"):
        with pytest.raises(DecodeError):
            Prm.decode(payload)


def test_numbers_given_one_after_the_other_differ_in_what_the_robust_header_carries() -> None:
    """Their upper eight bits; and none is given twice."""
    registry = Registry(random.Random(1), 900.0)
    numbers = [registry.new_lnid(0) for _ in range(3000)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < LNID_MULTICAST for number in numbers)
    assert all(len({number >> 6 for number in numbers[at : at + 200]}) == 200 for at in range(0, 3000, 200))


def channel(settings: MacSettings = SETTINGS) -> ChannelAccess:
    clock = FrameClock(5)
    clock.beacon(0.0, 0, 1, 0, 0)
    access = ChannelAccess(settings, MODEM, clock, Links(settings), random.Random(3))
    access.sna = SNA
    return access


def take(access: ChannelAccess, now: float) -> tuple[TransmitFrame, float]:
    """Wait for the next frame of a queue; it and the time."""
    for _ in range(20):
        assert access.wake_at is not None
        now = max(now, access.wake_at)
        frame = access.wake(now)
        if frame is not None:
            return frame, now
    raise AssertionError("no frame came")


def test_packets_for_one_hop_leave_in_one_pdu() -> None:
    """Three packets to the same neighbour, within the longest PDU; one passed on for somebody who forbids it and others
    travel alone."""
    access = channel()
    for number in range(3):
        access.put(Outgoing(2, True, 0, 5, [data(number, body=bytes(100))]), 0.1)
    access.put(Outgoing(2, True, 0, 6, [data(9)]), 0.1)
    access.put(Outgoing(2, True, 0, 5, [data(8, nad=True)], alone=True), 0.1)
    frame, now = take(access, 0.1)
    pdu = decode_pdu(frame.pdu, SNA)
    assert isinstance(pdu, GenericPdu)
    assert list(pdu.packets) == [data(number, body=bytes(100)) for number in range(3)]
    assert len(frame.pdu) <= PDU_BYTES_MAX
    assert len(access) == 2
    assert access.confirmed(frame.buffer, TransmitResult.SUCCESS, now + 0.2) is not None


def test_the_most_urgent_frame_goes_first() -> None:
    """Priority before order of arrival."""
    access = channel()
    access.put(Outgoing(3, finished=b"\x10late"), 0.1)
    access.put(Outgoing(1, finished=b"\x10urgent"), 0.1)
    assert take(access, 0.1)[0].pdu == b"\x10urgent"


@pytest.mark.parametrize(
    ("answers", "rows", "least_s", "most_s"), [(False, 4, 0.9, 4.0), (True, 12, 0.6, 1.8)], ids=["call", "ack"]
)
def test_a_line_that_is_always_busy_is_given_up_with_rests_between(
    rows: int, least_s: float, most_s: float, *, answers: bool
) -> None:
    """Rows of five attempts with a rest of part of a frame after each; then the frame is dropped and counted. An
    acknowledgement, for which somebody waits, tries three times as often in half of the time."""
    access = channel()
    access.put(Outgoing(1, finished=b"\x10call", answers=answers), 0.1)
    now, attempts, ended = 0.1, 0, None
    while ended is None:
        frame, now = take(access, now)
        attempts += 1
        ended = access.confirmed(frame.buffer, TransmitResult.CHANNEL_BUSY, now + 0.01)
    assert attempts == SETTINGS.transmit_attempts_max * rows
    assert least_s < now < most_s
    assert (access.dropped, access.busy, access.wake_at) == (1, attempts, None)


def test_an_acknowledgement_does_not_stand_back_for_whoever_says_more() -> None:
    """Its backoff grows with two attempts alone, and not with repetitions; on air it bears the priority of data."""
    data_, answer = Outgoing(2, packets=[data(1)]), Outgoing(2, packets=[data(1, body=b"")], tries=2, answers=True)
    found = []
    for attempts in range(5):
        data_.attempts = answer.attempts = attempts
        found.append((data_.backoff_symbols, answer.backoff_symbols))
    assert found == [(5, 2), (9, 3), (17, 5), (33, 5), (65, 5)]
    urgent = Packet(False, 0, False, 256, 3, 5, b"no header that ARQ has")
    to_all = data(4, body=b"", sid=4)
    transmitter = street_end()
    for key, packet in ((1, data(1, sid=1)), (2, data(2, body=b"", sid=2)), (3, urgent), (None, to_all)):
        transmitter.send([packet], key, 0.1, downlink=True, level=0, keep=Keep.ONWARD)
    now, sent = 0.1, []
    for _ in range(4):
        frame, now = take(transmitter.channel, now)
        pdu = decode_pdu(frame.pdu, SNA)
        assert isinstance(pdu, GenericPdu)
        sent += [(packet.sid, packet.priority) for packet in pdu.packets]
        transmitter.channel.confirmed(frame.buffer, TransmitResult.SUCCESS, now + 0.1)
    assert sent == [(2, 2), (3, 0), (1, 2), (4, 2)]


def street_end() -> Transmitter:
    """Between a role and its modem, with a frame to send in."""
    transmitter = Transmitter(SETTINGS, MODEM, random.Random(1))
    transmitter.clock.beacon(0.0, 0, 1, 0, 0)
    transmitter.channel.sna = SNA
    return transmitter


def test_data_that_have_joined_an_acknowledgement_are_repeated_as_data() -> None:
    """Together they leave as the acknowledgement would; what is lost of them is said again as what it is."""
    transmitter = street_end()
    transmitter.links.heard(7, 20.0, 0.0)
    for packet in (data(1, body=b""), data(2), data(3)):
        transmitter.send([packet], 7, 0.1, downlink=True, level=0, keep=Keep.ONWARD)
    frame, now = take(transmitter.channel, 0.1)
    pdu = decode_pdu(frame.pdu, SNA)
    assert isinstance(pdu, GenericPdu)
    assert len(pdu.packets) == 3
    confirmed = TransmitConfirmed(frame.buffer, TransmitResult.SUCCESS)
    assert transmitter.confirmed(confirmed, now) is Given.SENT
    again, over, lost = transmitter.custody.due(now + 10.0, crowded=False)
    assert [(one.answers, one.backoff_symbols) for one in again] == [(True, 2), (False, 9), (False, 9)]
    assert (over, lost) == ([], [7, 7, 7])


def test_of_two_acknowledgements_in_one_frame_the_newer_one_counts() -> None:
    """One that has rested leaves behind a newer one: the older one is what is not repeated."""
    custody = Custody(SETTINGS, random.Random(1))
    older, newer = data(1, ack=5, body=b""), data(1, ack=9, body=b"")
    custody.sent(Outgoing(2, True, 0, 7, [newer, older], keep=Keep.ONWARD, answers=True), 0.02, 0.0)
    again, _, _ = custody.due(10.0, crowded=False)
    assert newer in [packet for one in again for packet in one.packets]


def test_memberships_below_a_switch_have_a_limit_and_leave_nothing_behind() -> None:
    """Whoever makes joins up fills no memory."""
    table = SwitchTable(100.0)
    for number in range(3 * MEMBERS_MAX):
        table.membership(data(1, sid=number % 200), Mul(False, number, 0))
    assert len(table.groups) == MEMBERS_MAX
    for number in range(3 * MEMBERS_MAX):
        table.membership(data(1, sid=number % 200), Mul(True, number, 0))
    assert table.groups == []


@pytest.mark.parametrize("seed", [4, 200, 209, 217])
def test_no_frame_reaches_into_the_next_beacon(seed: int) -> None:
    """A thousand frames of all lengths at random instants end within the contention period they began in, whether the
    modem has one that goes at once as soon as its bytes are through or as late as it may."""
    access, draw = channel(), random.Random(seed)
    now = 0.1
    for _ in range(1000):
        now += draw.uniform(0.0, 0.5)
        for _ in range(draw.choice([1, 3])):  # those for one neighbour join
            body = bytes(draw.randrange(1, 340 if len(access) == 0 else 120))
            access.put(Outgoing(2, True, 0, 7, [data(1, body=body)]), now)
        frame, now = take(access, now)
        at_once = frame.start_s is None
        soonest_s = now + len(frame.pdu) * BYTE_S if frame.start_s is None else frame.start_s
        latest_s = soonest_s + MESSAGE_BYTES * BYTE_S + POLL_S if at_once else soonest_s
        assert soonest_s % FRAME_S >= 5 * SYMBOL_S - 1e-6
        assert now % FRAME_S >= 4.5 * SYMBOL_S or not at_once, (
            "handed over at most half a symbol before it may be on air"
        )
        end_s = latest_s % FRAME_S + MODEM.airtime_s(len(frame.pdu), frame.scheme)
        assert end_s <= FRAME_S
        now += MODEM.airtime_s(len(frame.pdu), frame.scheme) + 0.05
        access.confirmed(frame.buffer, TransmitResult.SUCCESS, now)


def test_a_full_queue_refuses() -> None:
    """At the named limit a frame is refused and counted; those waiting stay."""
    access = channel()
    put = [access.put(Outgoing(2, finished=b"\x10x"), 0.1) for _ in range(SETTINGS.queue_max + 1)]
    assert put == [True] * SETTINGS.queue_max + [False]
    assert (len(access), access.dropped) == (SETTINGS.queue_max, 1)
