"""Frames that somebody at the line makes up: whatever they say, every node lives on and the street finds together."""

from __future__ import annotations

import random

import pytest

from prime_plc.control import Bsi, Con, ConnectionType, ControlType, Fra, Pro
from prime_plc.crc import crc32
from prime_plc.lpdu import ADDRESS_BROADCAST, ADDRESS_FIRST
from prime_plc.modem_host import FrameReceived
from prime_plc.pdu import HT_BEACON, HT_GENERIC, LNID_BROADCAST, LNID_MULTICAST, Beacon, GenericPdu, Packet
from prime_plc.phy import Scheme
from prime_plc.sap import SendData
from prime_plc.service_node import ServiceNode, State
from prime_plc.settings import CONTENTION_SYMBOLS_MIN, FRAME_SYMBOLS
from prime_plc.tests.ether import BASE, Ether, chain, eui

SNA = bytes(BASE)


def street() -> tuple[Ether, ServiceNode]:
    """A base and a node that is connected."""
    ether = Ether(lambda _a, _b: 25.0, seed=3)
    ether.add_base()
    node = ether.add_node(1)
    ether.run(60)
    assert node.llc.connection is not None
    return ether, node


def beacon(cfp: int = 0, count: int = 1, level: int = 0) -> bytes:
    """The base's beacon by somebody else; of LEVEL only six bits are fields."""
    body = bytearray(Beacon(7, 0, count, 0, cfp, 0, 5, 0, SNA, 0, 0).encode()[:14])
    body[4] = level
    return bytes(body) + crc32(bytes(body)).to_bytes(4, "big")


def control(node: ServiceNode, kind: ControlType, payload: bytes) -> bytes:
    """A control packet of the base by somebody else."""
    return GenericPdu(True, 0, (Packet(False, 1, True, kind, node.sid, node.lnid, payload),)).encode(SNA)


def heard(ether: Ether, pdu: bytes, snr_db: float = 30.0) -> FrameReceived:
    return FrameReceived(pdu, Scheme.DBPSK_C, pdu[0] >> 4, ether.now - 0.012, 0.011, snr_db, 90, precise=False)


def lives_on(ether: Ether, node: ServiceNode) -> None:
    """It still sends and is still reached."""
    ether.put("n1", SendData(None, 1, 1, bytes(300), 7))
    before = ether.base().transmitter.channel.dropped
    ether.run(120)
    assert node.state is State.TERMINAL
    assert node.llc.connection is not None
    assert ether.base().transmitter.channel.dropped == before


@pytest.mark.parametrize(
    "cfp", [1, 4, 10, 40, CONTENTION_SYMBOLS_MIN, CONTENTION_SYMBOLS_MIN + 4, FRAME_SYMBOLS + 1, 1023]
)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_beacon_that_leaves_no_contention_is_no_beacon(cfp: int, count: int) -> None:
    """Not for a node of the network, and not for one that searches."""
    ether, node = street()
    for _ in range(3):
        ether.put("n1", heard(ether, beacon(cfp, count)))
        ether.run(0.618)
    assert node.transmitter.clock.cfp == 0
    lives_on(ether, node)
    alone = Ether(lambda _a, _b: 25.0, seed=3)
    seeker = alone.add_node(1)
    alone.run(1)
    alone.put("n1", heard(alone, beacon(cfp, count)))
    alone.run(60)
    assert seeker.state is State.SEARCHING


@pytest.mark.parametrize("cfp", [CONTENTION_SYMBOLS_MIN + 5, CONTENTION_SYMBOLS_MIN + 12, 150])
def test_the_longest_frame_leaves_in_the_shortest_contention_period(cfp: int) -> None:
    """For as long as the base says so: it did not mean it, and its own beacon ends it."""
    ether, node = street()
    ether.kill("base")
    for _ in range(40):
        ether.put("n1", heard(ether, beacon(cfp)))
        ether.put("n1", SendData(None, 1, 1, bytes(900), 7))
        ether.run(0.618)
    assert node.transmitter.clock.cfp == cfp


@pytest.mark.parametrize("kind", [0, 1])
def test_a_change_of_the_frame_that_leaves_no_contention_is_not_followed(kind: int) -> None:
    """Contention-free from symbol 3 on."""
    ether, node = street()
    seq = (node.transmitter.clock.seq(ether.now) + 1) % 32
    ether.put("n1", heard(ether, control(node, ControlType.FRA, Fra(kind, 3, seq, 7).encode())))
    lives_on(ether, node)


@pytest.mark.parametrize("level", [0x40, 0x80, 0xFF])
def test_a_beacon_with_reserved_bits_is_no_beacon(level: int) -> None:
    """It is kept as bytes, and would be decoded at the next choice."""
    ether, node = street()
    ether.put("n1", heard(ether, beacon(level=level)))
    assert node.beacons.items() != []
    lives_on(ether, node)


@pytest.mark.parametrize("slot", [5, 7])
def test_a_beacon_slot_that_no_frame_has_makes_no_switch(slot: int) -> None:
    """Though a number was given before: that is given back in time, whatever else there is to wake for."""
    ether, node = street()
    ether.put("n1", heard(ether, control(node, ControlType.PRO, Pro(False, 0, 2, 77).encode())))
    ether.put("n1", heard(ether, control(node, ControlType.BSI, Bsi(0, slot, 0).encode())))
    ether.run(10)
    assert (node.state, node.switching.lsid) == (State.TERMINAL, 77)
    ether.run(20)
    assert node.switching.lsid is None  # else it would never ask for a number again


def test_addresses_go_round_and_a_connected_meter_keeps_its_own() -> None:
    """One node opens under more identifiers than there are addresses; the other stays what it is."""
    ether = Ether(lambda _a, _b: 25.0, seed=3)
    base = ether.add_base()
    ether.add_node(1)
    ether.add_node(2)
    ether.run(120)
    forger, other = (base.nodes[eui(number)] for number in (1, 2))
    for number in range(ADDRESS_BROADCAST + 500):
        con = Con(False, True, 256 + number % 256, ConnectionType.LLC_4_32, b"x%d" % number)
        base._links.control(forger, con, ether.now)
        base.transmitter.channel.clear()
        assert ADDRESS_FIRST <= forger.address < ADDRESS_BROADCAST
        assert forger.address != other.address
    assert other.connection is not None


@pytest.mark.parametrize("seed", range(24))
def test_no_frame_ends_a_node(seed: int) -> None:
    """Made-up packets of every control type, data and beacons, into a street of four at any time."""
    draw = random.Random(seed)
    ether = Ether(chain(), seed=seed)
    base = ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    ether.run(draw.choice([5, 60, 200]))
    for _ in range(150):
        places = [(node.sid, node.lnid) for node in base.nodes.values()]
        places += [(node.lsid, LNID_BROADCAST) for node in base.nodes.values() if node.lsid]
        places += [(0, LNID_BROADCAST), (0, LNID_MULTICAST), (draw.randrange(256), draw.randrange(1 << 14))]
        packets = tuple(made_up(draw, draw.choice(places)) for _ in range(draw.choice([1, 1, 3])))
        pdu = GenericPdu(draw.random() < 0.5, draw.choice([0, 0, 1, 2, 3, 63]), packets).encode(SNA)
        if draw.random() < 0.2:
            body = bytes((HT_BEACON << 4 | draw.randrange(8),)) + draw.randbytes(5) + SNA + draw.randbytes(2)
            pdu = body + crc32(body).to_bytes(4, "big")
        assert pdu[0] >> 4 in {HT_BEACON, HT_GENERIC}
        ether.put(draw.choice(list(ether.nodes)), heard(ether, pdu, draw.choice([3.0, 12.0, 30.0])))
        ether.run(draw.choice([0.0, 0.01, 0.1, 0.6, 3.0]))
    ether.run(1200)
    assert ether.connected()


def made_up(draw: random.Random, place: tuple[int, int]) -> Packet:
    """A packet that may be a control packet that means something, or be nothing."""
    kind = draw.choice(list(ControlType))
    names = [bytes(eui(draw.randrange(1, 5))), SNA, bytes(6), draw.randbytes(6)]
    forms = [draw.randbytes(draw.randrange(12)), draw.randbytes(2), draw.randbytes(2) + draw.choice(names)]
    forms += [
        draw.randbytes(1) + draw.choice(names) + draw.randbytes(3),
        bytes((draw.randrange(8), draw.randrange(256))),
    ]
    lcid = int(kind) if draw.random() < 0.8 else draw.choice([256, 257, 2, 5])
    return Packet(draw.random() < 0.3, draw.randrange(4), lcid == kind, lcid, *place, draw.choice(forms))
