"""A node that wants another switch keeps its old place until the new one is its own; what it has goes on there."""

from __future__ import annotations

import pytest

from prime_plc.control import Alv, Capabilities, ControlType, Pro, Reg
from prime_plc.pdu import HT_GENERIC, LNID_BROADCAST, GenericPdu, Packet, decode_pdu
from prime_plc.sap import ChangeGroup, DataReceived, GroupChanged, LinkDown, LinkUp, SendBroadcast, SendData
from prime_plc.service_node import State
from prime_plc.settings import MacSettings
from prime_plc.switch_table import JUST_TAUGHT_S, SwitchTable
from prime_plc.tests.ether import BASE, Ether, Fork, chain, eui

SETTINGS = MacSettings()


def weaken(fork: Fork) -> int:
    """The way of n3 fades to where a switch with a tree looks for another one; the switch it hangs on."""
    old = fork.parent
    fork.set(f"n{old}", "n3", SETTINGS.tree_weak_db - 0.5)
    return old


def requests(pdu: bytes) -> list[tuple[bool, Reg]]:
    """Registrations in a frame, with their direction."""
    if pdu[0] >> 4 != HT_GENERIC:
        return []
    frame = decode_pdu(pdu, BASE)
    assert isinstance(frame, GenericPdu)
    regs = [packet for packet in frame.packets if packet.control and packet.lcid == ControlType.REG]
    return [(frame.downlink, Reg.decode(packet.payload)) for packet in regs]


def lose_answers(sender: str, receiver: str, pdu: bytes) -> bool:
    """Nothing that the base says of a move comes through."""
    return receiver == "n3" and any(downlink and reg.roaming for downlink, reg in requests(pdu))


def reports(ether: Ether, name: str, count: int, every_s: float = 1.0) -> None:
    for number in range(count):
        ether.put(name, SendData(None, 1, 1, b"report %d" % number, number))
        ether.run(every_s)


def arrived(ether: Ether) -> list[bytes]:
    return [item.data for item in ether.of("base", DataReceived)]


def test_a_switch_moves_with_its_tree_and_nobody_notices() -> None:
    """Reports from below while its switch leaves a weak way: no connection ends on either side, all arrive in
    order, none waits for long, and switch number and address of whoever is below stay."""
    fork = Fork()
    ether = fork.ether
    before = (ether.node(3).switching.lsid, ether.node(3).switching.slot, ether.node(4).lnid)
    old = weaken(fork)
    came: list[float] = []
    for number in range(60):
        ether.put("n4", SendData(None, 1, 1, b"report %d" % number, number))
        ether.run(5.0)
        came.append(len(arrived(ether)))
    ether.run(60.0)
    assert fork.parent != old
    assert len(ether.said("n3", "moved")) == len(ether.said("base", "node moved")) == 1
    assert arrived(ether) == [b"report %d" % number for number in range(60)]
    assert max(number + 1 - count for number, count in enumerate(came)) <= 8
    assert [ether.of(name, LinkDown) for name in ether.nodes] == [[]] * 5
    assert (ether.node(3).switching.lsid, ether.node(3).switching.slot, ether.node(4).lnid) == before


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_place_that_is_not_given_costs_nothing(seed: int) -> None:
    """No answer comes through: it asks a few times, stays where it is, and all reports arrive meanwhile, although the
    way has faded by twenty decibels of a sudden."""
    fork = Fork(seed=seed)
    old = weaken(fork)
    fork.ether.lose = lose_answers
    reports(fork.ether, "n4", 20, 5.0)
    fork.ether.run(60.0)
    assert fork.ether.said("n3", "not moved") != []
    assert fork.parent == old
    assert len(arrived(fork.ether)) == 20
    assert fork.ether.of("n3", LinkDown) == fork.ether.of("n4", LinkDown) == []
    base = fork.ether.base()
    assert base.nodes[eui(3)].sid == fork.ether.node(3).sid


def test_a_place_that_is_not_given_is_asked_for_ever_less_often() -> None:
    """In eight minutes three times, not every minute: it costs frames of the one that hardly hears us."""
    fork = Fork()
    weaken(fork)
    fork.ether.lose = lose_answers
    fork.ether.run(480.0)
    first_s, second_s, third_s = fork.ether.said("n3", "moving")
    assert third_s - second_s > 1.5 * (second_s - first_s)


def test_the_base_believes_both_addresses_until_the_node_speaks_from_the_new_one() -> None:
    """A request alone moves nothing; the first packet from the new address does; late ones from the old one count."""
    ether = Ether(lambda _one, _other: 25.0)
    base = ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    ether.run_until(ether.connected, 300.0)
    registry, node = base.registry, base.nodes[eui(2)]
    assert registry.promote(base.nodes[eui(1)], ether.now) is not None
    sid = base.nodes[eui(1)].lsid
    assert sid is not None
    ether.run(10.0)
    first = (node.sid, node.lnid)

    def says(address: tuple[int, int], *, roaming: bool) -> None:
        reg = Reg(False, roaming, 0, Capabilities.SWITCH, 2, eui(2))
        packet = Packet(True, 1, True, ControlType.REG, *address, reg.encode())
        base._packet(packet, ether.now)

    says((sid, LNID_BROADCAST), roaming=True)
    assert (node.sid, node.lnid) == first
    offered = node.offered
    assert offered is not None
    assert offered[0] == sid
    assert registry.at(*first) is registry.at(*offered) is node
    connection = node.connection
    says(first, roaming=False)
    assert node.offered == offered, "it still speaks from the old one"
    says(offered, roaming=False)
    assert (node.sid, node.lnid, node.hops) == (*offered, 2)
    assert node.connection is connection is not None
    assert registry.at(*first) is node
    says((sid, LNID_BROADCAST), roaming=True)
    assert node.offered is None, "it is there already"


def test_who_is_heard_late_from_its_new_place_is_believed() -> None:
    """The node asks once and is not heard from there: it is what it was, for as long as that lasts. Nothing that it
    says from either place is taken for a stranger's."""
    ether = Ether(chain())
    base = ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    ether.run_until(ether.connected, 300.0)
    ether.run(20.0)
    node = base.nodes[eui(2)]
    first = (node.sid, node.lnid)
    reg = Reg(False, True, 0, Capabilities.SWITCH, 2, eui(2))
    base._packet(Packet(True, 1, True, ControlType.REG, 0, LNID_BROADCAST, reg.encode()), ether.now)
    offered = node.offered
    assert offered is not None
    ether.run(120.0)
    assert ControlType.REG not in node.pending
    assert (node.sid, node.lnid) == first
    packet = Packet(True, 1, True, ControlType.ALV, *offered, Alv(1, 1, 2, 255).encode())
    base._packet(packet, ether.now)
    assert (node.sid, node.lnid) == offered
    assert ether.of("base", LinkDown) == ether.of("n2", LinkDown) == []


@pytest.mark.parametrize(("silent_s", "kept"), [(40.0, True), (SETTINGS.switch_hold_s + 60.0, False)])
def test_a_node_without_a_way_keeps_its_connection_for_a_while(silent_s: float, *, kept: bool) -> None:
    """Nobody is heard any more; who is back in time goes on with the same connection, and nothing is reported lost."""
    ether = Ether(chain())
    ether.add_base()
    ether.add_node(1)
    ether.run_until(ether.connected, 300.0)
    ether.lose = lambda _sender, _receiver, _pdu: True
    ether.put("n1", SendData(None, 1, 1, b"waits", 1))
    ether.run(silent_s)
    assert ether.node(1).state is State.SEARCHING
    assert bool(ether.of("n1", LinkDown)) != kept
    ether.lose = lambda _sender, _receiver, _pdu: False
    assert ether.run_until(ether.connected, 200.0) < 200.0
    ether.run(30.0)
    assert len(ether.of("n1", LinkUp)) == (1 if kept else 2)
    assert arrived(ether) == ([b"waits"] if kept else [])


def test_a_base_that_does_not_know_who_moves_takes_it_anew() -> None:
    """It has restarted: its answer says that there is nothing to go on with, so connection and switch begin again."""
    fork = Fork()
    ether = fork.ether
    node = ether.node(3)
    base = ether.base()
    for number in (3, 4):
        base._tree.remove(base.nodes[eui(number)], "test", ether.now) if eui(number) in base.nodes else None
    weaken(fork)
    ether.run(100.0)
    assert ether.of("n3", LinkDown) != []
    assert ether.run_until(ether.connected, 300.0) < 300.0
    reports(ether, "n4", 5)
    ether.run(30.0)
    assert len(arrived(ether)) == 5
    assert node.llc.connection is not None


def pro(table: SwitchTable, nsid: int, at_s: float, *, negative: bool = False, child: int = 5) -> None:
    packet = Packet(False, 1, True, ControlType.PRO, 20, child, b"")
    table.promotion(packet, Pro(negative, 0, 0, nsid), 20, at_s, downlink=True)


def test_a_demotion_that_was_overtaken_by_the_promotion_on_the_new_way_is_not_believed() -> None:
    """Both pass a switch that is on the old way and on the new one, and bursts change their order."""
    table = SwitchTable(1000.0)
    pro(table, 30, 0.0)
    pro(table, 30, 1.0, negative=True)
    assert table.entries == {30: 5}
    pro(table, 30, JUST_TAUGHT_S + 1.0, negative=True)
    assert table.entries == {}


def test_who_says_falsely_that_a_switch_is_below_it_is_put_right() -> None:
    """A node announces a switch that hangs elsewhere: the way to that one is taught again."""
    fork = Fork()
    ether = fork.ether
    base = ether.base()
    other = next(number for number in (1, 2) if number != fork.parent)
    liar, switch = base.nodes[eui(other)], base.nodes[eui(3)]
    assert switch.lsid is not None
    packet = Packet(True, 1, True, ControlType.PRO, liar.sid, liar.lnid, Pro(False, 0, 2, switch.lsid).encode())
    base._packet(packet, ether.now)
    assert ControlType.PRO in switch.pending
    ether.run(10.0)
    assert ControlType.PRO not in switch.pending
    assert switch.switching


def test_groups_are_served_on_the_new_way() -> None:
    """The switches on the way learn members from joins that pass, so who moves joins again, and says nothing of it."""
    fork = Fork()
    ether = fork.ether
    ether.put("n3", ChangeGroup(join=True, type=3, data=b"lamps"))
    ether.run(10.0)
    joined = ether.of("base", GroupChanged)[0]
    old = weaken(fork)
    assert ether.run_until(lambda: bool(ether.said("n3", "moved")), 200.0) < 200.0
    ether.run(20.0)
    fork.set(f"n{old}", "n3", None)  # both serve the group, and relay at the same instant
    assert len(ether.of("n3", GroupChanged)) == 1
    ether.put("base", SendBroadcast(1, 2, b"on", group=joined.lcid))
    ether.run(20.0)
    assert [item.data for item in ether.of("n3", DataReceived)] == [b"on"]
