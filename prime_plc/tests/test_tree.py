"""Subnetworks of many nodes over a light line in virtual time: switching, failures, data through several hops."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prime_plc import admission
from prime_plc.base_node import BaseNode
from prime_plc.control import Bsi, Capabilities, ControlType, Pro, Reg
from prime_plc.modem_host import ModemLost, TransmitFrame
from prime_plc.pdu import HT_BEACON, HT_GENERIC, SID_BASE, Beacon, GenericPdu, Packet, decode_pdu
from prime_plc.registry import Node
from prime_plc.sap import (
    Action,
    ChangeGroup,
    DataConfirmed,
    DataReceived,
    DataResult,
    GroupChanged,
    LinkDown,
    LinkUp,
    Manage,
    Pinged,
    SendBroadcast,
    SendData,
    Want,
    Wish,
)
from prime_plc.service_node import ServiceNode, State
from prime_plc.settings import MacSettings
from prime_plc.slots import Slot
from prime_plc.telling import Teller
from prime_plc.tests.ether import BASE, MODEM, Ether, chain, eui
from prime_plc.trace import Format, read_capture
from shared.ids import Eui48

GOLDENS = Path(__file__).parent / "goldens"


def up(ether: Ether, nodes: int, limit_s: float = 300.0) -> float:
    """Start a base and nodes, and wait until all have their connection."""
    ether.add_base()
    for number in range(1, nodes + 1):
        ether.add_node(number)
    return ether.run_until(ether.connected, limit_s)


def street(seed: int, *, length: float = 2.6) -> Callable[[str, str], float | None]:
    """Thirty nodes along a feeder; the signal falls with the distance and a little by chance."""
    draw = random.Random(seed)
    ripple = {(one, other): draw.uniform(0.0, 6.0) for one in range(31) for other in range(one)}

    def place(name: str) -> int:
        return 0 if name == "base" else int(name[1:])

    def snr_db(one: str, other: str) -> float | None:
        far, near = max(place(one), place(other)), min(place(one), place(other))
        level = 36.0 - 26.0 * (far - near) / 30 * length - ripple[far, near]
        return level if level > 1.0 else None

    return snr_db


def tell_all(ether: Ether) -> list[str]:
    """From now on write down every frame but beacons, as text."""
    talk: list[str] = []
    teller = Teller(BASE)

    def listen(start_s: float, sender: str, frame: TransmitFrame) -> None:
        if frame.pdu[0] >> 4 != HT_BEACON:
            (raw,) = read_capture(frame.pdu.hex().encode(), Format.HEX)
            told = teller.tell(raw)
            talk.append(f"{start_s:7.3f} {sender:4} {frame.scheme.name:7} {told.words.partition('  [')[0]}")

    ether.listen = listen
    return talk


def compare(name: str, talk: list[str]) -> None:
    """The conversation against its golden; `HEADROOM_WRITE_GOLDENS=1` writes it anew."""
    path = GOLDENS / f"{name}.txt"
    text = "\n".join(talk) + "\n"
    if os.environ.get("HEADROOM_WRITE_GOLDENS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_far_node_gets_a_switch_and_registers_through_it() -> None:
    """Call, promotion, slot, registration and connection take the published exchanges, relayed with another LEVEL. The
    transcript, with its times and numbers, is that of this seed; the rest is not."""
    ether = Ether(chain())
    talk = tell_all(ether)
    assert up(ether, 2) < 60.0
    compare("promotion", talk)
    assert ether.node(1).state is State.SWITCH
    assert ether.node(2).state is State.TERMINAL
    assert ether.node(2).sid == ether.node(1).switching.lsid


def test_a_chain_of_four_switches_carries_data_both_ways() -> None:
    """Five hops: every node registers within minutes, and data arrive at both ends, once and in order."""
    ether = Ether(chain())
    assert up(ether, 5) < 200.0
    assert [ether.node(number).level for number in range(1, 6)] == [0, 1, 2, 3, 4]
    for number in range(5):
        ether.put("n5", SendData(None, 1, 1, bytes((number,)) * 200, number))
        ether.put("base", SendData(eui(5), 1, 1, bytes((100 + number,)) * 200, 100 + number))
        ether.run(10.0)
    ether.run(60.0)
    assert [item.data for item in ether.of("base", DataReceived)] == [bytes((number,)) * 200 for number in range(5)]
    assert [item.data for item in ether.of("n5", DataReceived)] == [bytes((100 + n,)) * 200 for n in range(5)]
    results = [item.result for name in ("base", "n5") for item in ether.of(name, DataConfirmed)]
    assert results == [DataResult.ACKNOWLEDGED] * 10


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
def test_switches_join_packets_only_where_node_and_base_have_agreed(
    monkeypatch: pytest.MonkeyPatch, *, confirmed: bool, allowed: bool
) -> None:
    """Without the base's word that it aggregates, or by its own settings, a node says NAD as captured ones do, and
    switches send its packets alone. Its own data leave in one frame all the same."""
    answer = admission._reg

    def without(node: Node, *, negative: bool = False, roaming: bool = False) -> bytes:
        said = Reg.decode(answer(node, negative=negative, roaming=roaming))
        return replace(said, capabilities=said.capabilities & ~Capabilities.AGGREGATION).encode()

    if not confirmed:
        monkeypatch.setattr(admission, "_reg", without)
    ether = Ether(chain(), settings=MacSettings(control_repeat_s=4.0, uplink_aggregation=allowed))
    assert up(ether, 2) < 300.0
    joined: dict[str, list[int]] = {"n1": [], "n2": []}

    def listen(_start_s: float, sender: str, frame: TransmitFrame) -> None:
        if sender in joined and frame.pdu[0] >> 4 == HT_GENERIC:
            pdu = decode_pdu(frame.pdu, BASE)
            assert isinstance(pdu, GenericPdu)
            data = [packet for packet in pdu.packets if not packet.control and len(packet.payload) > 90]
            assert {packet.nad for packet in data} <= {not (confirmed and allowed)}
            joined[sender] += [len(data)] if data else []

    ether.listen = listen
    for number in range(4):
        ether.put("n2", SendData(None, 1, 1, b"%d" % number * 100, number))
    ether.run(30.0)
    assert [item.data[:1] for item in ether.of("base", DataReceived)] == [b"0", b"1", b"2", b"3"]
    assert joined["n2"][:2] == [2, 2]
    if confirmed and allowed:
        assert joined["n1"] == [2, 2]
    else:
        assert len(joined["n1"]) >= 4
        assert set(joined["n1"]) == {1}


def test_who_forgets_what_is_below_it_is_told_again() -> None:
    """A late word that a tree had left, say: packets from below that switch are dropped without a word, by all above
    as strangers' are. Whoever passes them on to no avail says who is below it, and nobody loses a connection."""
    ether = Ether(chain())
    assert up(ether, 4) < 300.0
    trunk, lost = ether.node(1).switching.table, ether.node(3).switching.lsid
    assert lost in trunk.entries
    trunk.remove(lost)
    for number in range(3):
        ether.put("n4", SendData(None, 1, 1, b"%d" % number, number))
        ether.run(20.0)
    ether.run(60.0)
    assert lost in trunk.entries
    assert [item.data for item in ether.of("base", DataReceived)] == [b"0", b"1", b"2"]
    assert not ether.of("base", LinkDown)


@pytest.mark.parametrize("beacons", [True, False])
def test_the_word_of_another_teaches_a_way_and_takes_no_number(*, beacons: bool) -> None:
    """A switch that passes packets on says who is below it. Who is still to take a number has to say so himself, or it
    would never get its slot; and that a number is none stays to be said."""
    ether = Ether(chain())
    assert up(ether, 3) < 300.0
    base = ether.base()
    above, below = (base.nodes[eui(number)] for number in (1, 2))
    assert above.lsid is not None
    assert below.lsid is not None
    below.switching = beacons
    for negative, nsid in ((False, below.lsid), (True, 77)):
        base._downlink.expect(below, ControlType.PRO, Pro(negative, 0, 2, nsid).encode(), ether.now)
        base._switches.control(above, Pro(False, 0, 2, below.lsid), ether.now)
        assert (ControlType.PRO in below.pending) is (negative or not beacons)
        below.pending.clear()


def test_every_beacon_says_where_it_stands() -> None:
    """Level, cost and frame number of relayed beacons: one level and one hop's cost more each, the base's count."""
    ether = Ether(chain())
    seen: dict[str, list[tuple[float, Beacon]]] = {}

    def listen(start_s: float, sender: str, frame: TransmitFrame) -> None:
        pdu = ether.decode(frame.pdu)
        if isinstance(pdu, Beacon):
            seen.setdefault(sender, []).append((start_s, pdu))

    ether.listen = listen
    up(ether, 3)
    ether.run(30.0)
    slot_s = MacSettings().slot_symbols(stock=False) * 2240e-6
    reference_s, reference = seen["base"][0]
    for sender, level in (("base", 0), ("n1", 1), ("n2", 2)):
        assert {beacon.level for _, beacon in seen[sender]} == {level}
        for start_s, beacon in seen[sender]:
            frames = (start_s - beacon.position * slot_s - reference_s) / (276 * 2240e-6)
            assert frames == pytest.approx(round(frames), abs=1e-3)
            assert beacon.seq == (reference.seq + round(frames)) % 32
            assert beacon.position < beacon.count


def test_no_two_beacons_meet() -> None:
    """Thirty nodes with their switches: no beacon is on the line while another one is."""
    ether = Ether(street(3))
    times: list[tuple[float, str]] = []

    def listen(start_s: float, sender: str, frame: TransmitFrame) -> None:
        if frame.pdu[0] >> 4 == HT_BEACON:
            times.append((start_s, sender))

    ether.listen = listen
    up(ether, 30)
    ether.run(60.0)
    assert len({sender for _, sender in times}) > 2
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(times)]
    assert min(gaps) > 0.011


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_street_of_thirty_registers_and_reports(seed: int) -> None:
    """Several levels grow by themselves within five minutes; each report of five minutes arrives."""
    ether = Ether(street(seed), seed=seed)
    assert up(ether, 30) < 300.0
    assert max(node.hops for node in ether.base().nodes.values()) >= 3
    token = 0
    for _ in range(5):
        for number in range(1, 31):
            ether.run(2.0)
            ether.put(f"n{number}", SendData(None, 1, 1, token.to_bytes(4, "big") * 25, token))
            token += 1
    ether.run(120.0)
    arrived = {int.from_bytes(item.data[:4], "big") for item in ether.of("base", DataReceived)}
    assert arrived == set(range(token))


def test_a_line_that_loses_a_tenth_still_carries_four_hops() -> None:
    """Each frame is lost at each receiver with 10 %: the chain comes up and everything arrives."""
    ether = Ether(chain(), seed=4, loss=0.1)
    assert up(ether, 4, 600.0) < 600.0
    for number in range(20):
        ether.put("n4", SendData(None, 1, 1, bytes((number,)) * 100, number))
        ether.run(15.0)
    ether.run(120.0)
    assert [item.data[0] for item in ether.of("base", DataReceived)] == list(range(20))


def diamond(one: str, other: str) -> float | None:
    """n1 and n2 both reach the base and n3; n3 does not reach the base."""
    pair = {one, other}
    return None if pair in ({"base", "n3"}, {"n1", "n2"}) else 25.0


def test_a_dead_switch_is_replaced() -> None:
    """The switch of a far node loses power: the node calls again, the other neighbour becomes its switch."""
    ether = Ether(diamond, seed=2)
    up(ether, 3)
    old = next(number for number in (1, 2) if ether.node(number).switching.lsid == ether.node(3).sid)
    other = ether.node(3 - old)
    ether.kill(f"n{old}")
    took = ether.run_until(lambda: ether.node(3).sid == other.switching.lsid and ether.connected(), 300.0)
    assert 10.0 < took < 120.0
    assert other.state is State.SWITCH


@pytest.mark.parametrize("seed", range(4))
def test_no_registration_is_lost_when_switches_die(seed: int) -> None:
    """Of a street one switch after the other loses power for a minute and comes back without memory: all nodes are
    connected again each time."""
    ether = Ether(street(seed), seed=seed)
    up(ether, 30)
    for _ in range(5):
        switches = [name for name, node in ether.nodes.items() if getattr(node, "state", None) is State.SWITCH]
        victim = ether.draw.choice(sorted(switches))
        number = int(victim[1:])
        ether.kill(victim)
        ether.run(60.0)
        ether.revive(victim, ServiceNode(ether.settings, MODEM, eui(number), b"meter-%d" % number, ether.draw))
        assert ether.run_until(ether.connected, 600.0) < 600.0


def test_a_base_that_restarts_gathers_its_tree_again() -> None:
    """A new base on the same address: who talks to it is told that it is unknown, and all levels come back."""
    ether = Ether(chain(), seed=3)
    up(ether, 3)
    ether.kill("base")
    ether.run(2.0)
    ether.revive("base", BaseNode(ether.settings, MODEM, BASE, random.Random(8)))
    ether.run(5.0)
    for number in (1, 2, 3):
        if ether.node(number).llc.connection is not None:
            ether.put(f"n{number}", SendData(None, 1, 1, b"report", number))
    assert ether.run_until(ether.connected, 400.0) < 400.0
    assert all(len(ether.of(f"n{number}", LinkUp)) >= 2 for number in (1, 2, 3))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_node_that_the_base_has_forgotten_is_told_so_once_by_each_hop(seed: int) -> None:
    """On a clear line: its report is not said to the base again by the switches between, and nothing waits for an
    answer that nobody gives; the node is back with its connection."""
    ether = Ether(chain(), seed=seed)
    up(ether, 3)
    ether.run(20.0)
    reports: list[str] = []
    goodbyes: list[str] = []

    def listen(_at: float, sender: str, frame: TransmitFrame) -> None:
        pdu = ether.decode(frame.pdu)
        if b"report" in frame.pdu:
            reports.append(sender)
        elif isinstance(pdu, GenericPdu) and pdu.downlink and pdu.packets[0].lcid == ControlType.REG:
            goodbyes.extend([sender] if Reg.decode(pdu.packets[0].payload).negative else [])

    ether.listen = listen
    base = ether.base()
    base._tree.remove(base.nodes[eui(3)], "forgotten", ether.now)
    ether.put("n3", SendData(None, 1, 1, b"report", 1))
    ether.run(60.0)
    assert ether.connected()
    assert (reports, goodbyes) == (["n3", "n2", "n1"], ["base", "n1", "n2"])


def test_a_base_whose_modem_is_lost_closes_everything() -> None:
    """Every node of the tree is reported down, once."""
    ether = Ether(chain(), seed=3)
    up(ether, 3)
    ether.put("base", ModemLost("unplugged"))
    assert len(ether.of("base", LinkDown)) == 3
    assert (ether.base().nodes, ether.base().wake_at) == ({}, None)


def test_demotion_by_the_base_and_by_the_node() -> None:
    """Either side can end switching: the exchange of captured frames, the node stays as terminal, who was below comes
    back through a new promotion. The transcript is that of this seed; the rest is not."""
    ether = Ether(chain(), seed=5)
    up(ether, 2)
    talk = tell_all(ether)
    ether.put("base", Manage(Action.DEMOTE, eui(1)))
    ether.run(2.0)
    compare("demotion", [line for line in talk if " PRO" in line])
    assert ether.node(1).state is State.TERMINAL
    assert eui(2) not in ether.base().nodes
    assert ether.run_until(ether.connected, 200.0) < 200.0
    ether.put("n1", Want(Wish.STOP_SWITCHING))
    ether.run(2.0)
    assert ether.node(1).state is State.TERMINAL
    assert len(ether.base().slots) == 0


def test_a_switch_without_nodes_is_demoted() -> None:
    """A switch that was made by hand and serves nobody loses its slot."""
    ether = Ether(chain(), seed=6, settings=MacSettings(idle_switch_s=60.0))
    up(ether, 1)
    ether.put("base", Manage(Action.PROMOTE, eui(1)))
    ether.run(10.0)
    assert ether.node(1).state is State.SWITCH
    ether.run(120.0)
    assert ether.node(1).state is State.TERMINAL


def test_where_slots_run_short_whoever_beacons_most_often_gives_half_of_its_beacons_away() -> None:
    """Six switches in one slot: the first one beacons every fourth frame until the others need that, no tree is lost
    for it, and no two are of different mind. A word that is not answered changes nothing."""
    ether = Ether(chain(), seed=6, settings=MacSettings(beacon_slots_max=2))
    ether.lose = lambda _sender, _receiver, pdu: halves_its_beacons(pdu)
    up(ether, 7)

    def frequencies() -> list[tuple[int, int]]:
        found = []
        for number in range(1, 7):
            switching = ether.node(number).switching
            assert switching.lsid is not None
            assert switching.slot is not None
            half = ether.base().slots.half(switching.lsid)
            assert half is not None
            found.append((half.frequency - 1, switching.slot.frequency))
        return found

    ether.run(10.0)
    assert frequencies()[0] == (2, 3), "not answered, so what is not used is not given to anybody else"
    ether.lose = lambda _sender, _receiver, _pdu: False
    ether.run(120.0)
    assert frequencies() == [(3, 3)] * 6
    assert [ether.of(f"n{number}", LinkDown) for number in range(1, 8)] == [[]] * 7
    assert len(ether.said("base", "switch ended")) == 0


def test_an_acknowledgement_of_the_slot_before_frees_nothing() -> None:
    """It is said twice where signs are missed, and the base repeats its word: what comes late is of the whole slot."""
    ether = Ether(chain(), seed=6, settings=MacSettings(beacon_slots_max=2))
    up(ether, 2)
    base, node = ether.base(), ether.base().nodes[eui(1)]
    assert node.lsid is not None
    half = base.slots.half(node.lsid)
    before = ether.node(1).switching.slot
    assert half is not None
    assert before is not None
    base._switches._allot(node, half, ether.now)
    packet = Packet(False, 1, True, ControlType.BSI, node.sid, node.lnid, before.encode())
    base._packet(packet, ether.now)
    assert base.slots.half(node.lsid) == half
    assert ControlType.BSI in node.pending
    packet = Packet(False, 1, True, ControlType.BSI, node.sid, node.lnid, Bsi(3, half.number, half.seq).encode())
    base._packet(packet, ether.now)
    assert base.slots.half(node.lsid) == Slot(half.number, half.seq, 4)
    assert ControlType.BSI not in node.pending


def halves_its_beacons(pdu: bytes) -> bool:
    """Whether a node next to the base acknowledges by this frame that it beacons every eighth frame."""
    if pdu[0] >> 4 != HT_GENERIC:
        return False
    frame = decode_pdu(pdu, BASE)
    assert isinstance(frame, GenericPdu)
    said = [one for one in frame.packets if one.control and one.lcid == ControlType.BSI and one.sid == SID_BASE]
    return not frame.downlink and any(Bsi.decode(one.payload).frequency == 3 for one in said)


def test_who_gets_no_beacon_slot_is_told_and_an_idle_switch_makes_room() -> None:
    """Slots are full while a promotion is under way: the node is a terminal again and free for the next one. Nobody
    else is made a switch until a slot is free, which those without nodes give up after two minutes."""
    ether = Ether(chain(), seed=6)
    up(ether, 1)
    slots = ether.base().slots
    ether.put("base", Manage(Action.PROMOTE, eui(1)))
    for sid in range(1000, 1128):
        slots.give(sid, 5)
    ether.run(10.0)
    assert len(ether.said("base", "switch ended")) == 1
    assert ether.node(1).state is State.TERMINAL
    assert ether.node(1).switching.lsid is None
    assert ether.base().nodes[eui(1)].lsid is None
    ether.add_node(2)
    ether.run(60.0)
    assert len(ether.said("base", "promoting")) == 1, "by hand"
    slots.take_back(1000)
    assert ether.run_until(ether.connected, 300.0) < 300.0
    assert ether.node(1).state is State.SWITCH
    assert slots.full
    ether.put("n2", Want(Wish.LEAVE))
    ether.run(180.0)
    assert ether.node(1).state is State.TERMINAL
    assert not slots.full


def test_unregistration_from_either_side() -> None:
    """A node that leaves stays away until it is told to return; one that the base sends away comes back by itself."""
    ether = Ether(chain(), seed=7)
    up(ether, 2)
    ether.put("n2", Want(Wish.LEAVE))
    ether.run(100.0)
    assert ether.node(2).state is State.LEFT
    assert eui(2) not in ether.base().nodes
    ether.put("n2", Want(Wish.RETURN))
    assert ether.run_until(ether.connected, 200.0) < 200.0
    ether.put("base", Manage(Action.UNREGISTER, eui(2)))
    ether.run(1.0)
    assert ether.of("n2", LinkDown)[-1].reason == "unregistered by the base"
    assert ether.run_until(ether.connected, 200.0) < 200.0


def test_a_broadcast_reaches_every_level_once() -> None:
    """Sent twice against loss, relayed by each switch, delivered once."""
    ether = Ether(chain(), seed=8)
    up(ether, 4)
    ether.put("base", SendBroadcast(1, 2, b"everybody"))
    ether.run(20.0)
    for number in range(1, 5):
        assert ether.of(f"n{number}", DataReceived) == [DataReceived(BASE, 1, 2, b"everybody", broadcast=True)]


def test_a_group_is_joined_through_switches_and_served() -> None:
    """Only members hear what is sent to their group; who leaves does not any more."""
    ether = Ether(chain(), seed=9)
    up(ether, 3)
    for number in (1, 3):
        ether.put(f"n{number}", ChangeGroup(join=True, type=3, data=b"lamps"))
        ether.run(5.0)
    joined = ether.of("base", GroupChanged)
    assert [(one.peer, one.joined) for one in joined] == [(eui(1), True), (eui(3), True)]
    (group,) = {one.lcid for one in joined}
    ether.put("base", SendBroadcast(1, 2, b"on", group=group))
    ether.run(20.0)
    assert [len(ether.of(f"n{number}", DataReceived)) for number in (1, 2, 3)] == [1, 0, 1]
    ether.put("n3", ChangeGroup(join=False, type=3, data=b"lamps"))
    ether.run(5.0)
    ether.put("base", SendBroadcast(1, 2, b"off", group=group))
    ether.run(20.0)
    assert [len(ether.of(f"n{number}", DataReceived)) for number in (1, 2, 3)] == [2, 0, 1]


def test_an_hour_of_keep_alives_keeps_a_chain() -> None:
    """Nothing but keep-alives for an hour: no node is lost, and they cost under one percent of the line."""
    ether = Ether(chain(), seed=10)
    up(ether, 3)
    before = sum(ether.airtime_s.values())
    beacons = sum(getattr(node, "beacons", 0) if name == "base" else 0 for name, node in ether.nodes.items())
    ether.run(3600.0)
    downs = [name for name in ether.nodes if ether.of(name, LinkDown)]
    assert downs == []
    sent = ether.base().beacons - beacons
    switches = sum(ether.node(number).switching.beacons for number in (1, 2)) * 0.011008
    assert (sum(ether.airtime_s.values()) - before - sent * 0.011008 - switches) / 3600 < 0.01


def test_a_street_is_the_same_from_the_same_seed() -> None:
    """Two runs of one seed send the same frames."""

    def run() -> tuple[dict[str, int], float]:
        ether = Ether(street(1), seed=1, loss=0.05)
        took = up(ether, 30, 600.0)
        return dict(ether.frames), took

    first = run()
    assert first == run()
    assert first[1] < math.inf


def test_a_ping_comes_back_over_every_hop() -> None:
    """A keep-alive now: the farther the node, the longer, but for the random waits before each frame; a node that is
    not registered is told at once, a dead one never; and the registration goes on as if nobody had asked."""
    ether = Ether(chain())
    base = ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    ether.run_until(ether.connected, 300.0)
    for number in (1, 2, 3) * 8:
        ether.put("base", Manage(Action.PING, eui(number)))
        ether.run(10.0)
    trips_s: dict[Eui48, list[float]] = {}
    for one in ether.of("base", Pinged):
        assert one.round_trip_s is not None
        assert 0.02 < one.round_trip_s < 5.0
        trips_s.setdefault(one.peer, []).append(one.round_trip_s)
    assert [len(trips_s[eui(number)]) for number in (1, 2, 3)] == [8, 8, 8]
    least_s = [min(trips_s[eui(number)]) for number in (1, 2, 3)]
    assert least_s == sorted(least_s)
    ether.put("base", Manage(Action.PING, eui(9)))
    assert ether.of("base", Pinged)[-1] == Pinged(eui(9), None)
    ether.kill("n3")
    ether.put("base", Manage(Action.PING, eui(3)))
    ether.run(20.0)
    assert len(ether.of("base", Pinged)) == 25
    assert eui(3) in base.nodes
    assert ether.said("base", "node removed") == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_confirmed_has_come(seed: int) -> None:
    """A stream up three hops, each frame lost with a tenth: acknowledgements that were repeated for long once covered
    packets of the next window, so that SDUs were confirmed that the base never had."""
    ether = Ether(chain(), seed)
    ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    ether.run_until(ether.connected, 600.0)
    ether.run(20.0)
    ether.loss = 0.1
    until, token = ether.now + 400.0, 0
    while ether.now < until:
        connection = ether.node(3).llc.connection
        while connection is not None and len(connection.pending_tokens) < 20:
            ether.put("n3", SendData(None, 1, 1, token.to_bytes(64, "big"), token))
            token += 1
        ether.run(1.0)
    come = {output.data for output in ether.of("base", DataReceived)}
    confirmed = [one.token for one in ether.of("n3", DataConfirmed) if one.result is DataResult.ACKNOWLEDGED]
    assert len(confirmed) > 200
    assert [token for token in confirmed if token.to_bytes(64, "big") not in come] == []
