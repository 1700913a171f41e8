"""The power line's table of a configuration: what may be another in a foreign network is set, within its range."""

from __future__ import annotations

import random

import pytest

from prime_plc.channel import Keep
from prime_plc.config import Mac, Plc
from prime_plc.control import ControlType
from prime_plc.llc import LlcState
from prime_plc.modem_host import ModemSettings, TransmitFrame
from prime_plc.pdu import LNID_BROADCAST, GenericPdu, Packet
from prime_plc.pib import read_attribute
from prime_plc.sap import DataReceived, SendData
from prime_plc.settings import MacSettings
from prime_plc.tests.ether import Ether, chain
from prime_plc.transmitter import Transmitter
from shared.config import check_config
from shared.errors import ConfigError

EDGES: dict[str, tuple[float, float]] = {
    "beacon_slot_symbols": (6, 7),
    "beacon_slots_max": (1, 5),
    "search_s": (16.0, 32.0),
    "promotions_max": (1, 4),
    "promotion_period_s": (2.0, 8.0),
    "promotion_ignore_max": (0, 15),
    "missed_beacons_max": (2, 20),
    "control_repeats_max": (3, 5),
    "transmit_attempts_max": (2, 5),
    "ema_smoothing": (0, 7),
    "keep_alive_code": (0, 7),
    "window_start": (1, 31),
    "hop_repeats_max": (0, 5),
    "hop_signs": (False, True),
    "retransmit_hop_s": (0.0, 8.0),
    "switch_hold_s": (0.0, 120.0),
    "broadcasts": (1, 3),
}
OURS = ("hop_repeats_max", "hop_signs", "retransmit_hop_s", "switch_hold_s", "broadcasts")
"""Our additions; the lower edge of each is the specification's way."""

TO_ALL = Packet(False, 2, False, 2, 0, LNID_BROADCAST, b"x")
ATTRIBUTES = {
    0x0010: "search_s",
    0x0011: "promotions_max",
    0x0012: "promotion_period_s",
    0x0013: "beacon_slots_max",
    0x0014: "transmit_attempts_max",
    0x0015: "control_repeat_s",
    0x0018: "control_repeats_max",
    0x0019: "ema_smoothing",
}


def settings(**mac: float) -> MacSettings:
    return check_config("dcu.toml", {"url": "/dev/plc0", "mac": mac}, Plc).stack_settings.mac


def test_every_key_has_its_setting_and_its_edges() -> None:
    """Both edges arrive where they are used; a step beyond is refused with the key; what is left out is as it was."""
    assert EDGES.keys() == Mac.model_fields.keys()
    assert settings() == MacSettings()
    for key, edges in EDGES.items():
        assert {getattr(settings(**{key: edge}), key) for edge in edges} == set(edges)
        for beyond in (edges[0] - 1, edges[1] + 1):
            with pytest.raises(ConfigError, match=key):
                settings(**{key: beyond})


def test_a_slot_holds_the_beacon_of_its_firmware() -> None:
    """Five symbols do without stock firmware's three bytes only."""
    transparent: dict[str, object] = {"url": "/dev/plc0", "framing": "transparent", "mac": {"beacon_slot_symbols": 5}}
    assert check_config("dcu.toml", transparent, Plc).stack_settings.mac.beacon_slot_symbols == 5
    with pytest.raises(ConfigError, match="beacon_slot_symbols of at least 6"):
        check_config("dcu.toml", transparent | {"framing": "stock"}, Plc)


def test_a_firmware_is_taken_when_it_is_named() -> None:
    """One version unless others are named; four bytes in hexadecimal, one of them at least."""
    table: dict[str, object] = {"url": "/dev/plc0"}
    assert check_config("dcu.toml", table, Plc).stack_settings.modem.firmware == ("23.00.01.02",)
    named = table | {"firmware": ["23.00.01.02", "23.00.02.0A"]}
    assert check_config("dcu.toml", named, Plc).stack_settings.modem.firmware == ("23.00.01.02", "23.00.02.0A")
    for wrong in ([], ["23.0.1.2"], ["any"], ["23.00.01.02.03"], "23.00.01.02", ["23.00.01.02"] * 9):
        with pytest.raises(ConfigError, match="firmware"):
            check_config("dcu.toml", table | {"firmware": wrong}, Plc)


def test_what_is_configured_is_what_the_attributes_say() -> None:
    """Each read-write attribute is settable, and fits its byte at both edges."""
    for edge in (0, 1):
        chosen = settings(**{key: edges[edge] for key, edges in EDGES.items()})
        base = Ether(chain(), settings=chosen).add_base()
        for number, key in ATTRIBUTES.items():
            assert read_attribute(base, number) == bytes((round(getattr(chosen, key)),))


@pytest.mark.parametrize(("repeats", "times"), [(0, 2), (5, 1)])
def test_without_our_additions_a_switch_passes_on_all_that_comes_for_one(repeats: int, times: int) -> None:
    """Hops repeat nothing, so a sender that repeats end to end is the only help: its second copy is not kept back as
    one that was passed on, nor told of. What is for everybody goes on once all the same."""
    transmitter = Transmitter(settings(hop_repeats_max=repeats), ModemSettings(), random.Random(1))
    report = Packet(False, 2, False, 256, 9, 5, b"\xc1\x90\x00\x00x")
    for packet, neighbour, relayed in ((report, -1, times), (report, 5, times), (TO_ALL, None, 1)):
        transmitter.clear()
        before = transmitter.relayed
        for at_s in (10.0, 12.0):
            again = transmitter.relay([packet], neighbour, at_s, downlink=False, level=0, keep=Keep.ONWARD)
        assert transmitter.relayed == before + relayed
        assert again == [packet] * (2 - relayed)


def plain_chain() -> Ether:
    """Three nodes in a row, in a network without our additions."""
    ether = Ether(chain(), settings=settings(**{key: EDGES[key][0] for key in OURS}))
    ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    assert ether.run_until(ether.connected, 300.0) < 300.0
    return ether


@pytest.mark.parametrize("receiver", ["n2", "n1", "base"])
def test_without_our_additions_the_ends_alone_repeat(receiver: str) -> None:
    """The first copy of a report is lost at each hop in turn: that of its sender, seconds later, goes all the way, and
    no switch has repeated anything or said what nobody asked it."""
    ether = plain_chain()
    lost: list[float] = []

    def lose(_sender: str, other: str, pdu: bytes) -> bool:
        mine = other == receiver and not lost and b"report" in pdu
        lost.extend([ether.now] if mine else [])
        return mine

    ether.lose = lose
    told: list[Packet] = []
    ether.listen = lambda _at, _sender, frame: told.extend(
        packet for packet in packets(ether, frame) if packet.lcid == ControlType.PRM and packet.control
    )
    ether.put("n3", SendData(None, 1, 1, b"report", 1))
    assert ether.run_until(lambda: ether.of("base", DataReceived) != [], 8.0) < 8.0
    assert len(lost) == 1
    assert told == []
    assert [ether.node(number).transmitter.custody.repeated for number in (1, 2, 3)] == [0, 0, 0]


def packets(ether: Ether, frame: TransmitFrame) -> list[Packet]:
    """What a frame carries, empty for a beacon."""
    pdu = ether.decode(frame.pdu)
    return [*pdu.packets] if isinstance(pdu, GenericPdu) else []


@pytest.mark.parametrize(("signs", "length"), [(True, 3), (False, 1)])
def test_a_switch_names_what_it_has_where_that_is_understood(signs: bool, length: int) -> None:  # a parameter
    """A node that hears neither its report passed on nor its answer repeats it, and is told that its switch has it."""
    ether = Ether(chain(), settings=settings(hop_signs=signs))
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    assert ether.run_until(ether.connected, 300.0) < 300.0
    told: list[Packet] = []
    ether.listen = lambda _at, sender, frame: told.extend(
        one for one in packets(ether, frame) if sender == "n1" and one.control and one.lcid == ControlType.PRM
    )
    ether.lose = lambda sender, other, pdu: sender == "base" or (sender == "n1" and other == "n2" and b"report" in pdu)
    ether.put("n2", SendData(None, 1, 1, b"report", 1))
    ether.run(3.0)
    assert {len(one.payload) for one in told} == {length}


def test_without_our_additions_a_lost_place_is_lost_at_once() -> None:
    """The first switch dies: who finds that out keeps neither its connection nor its tree for a better day."""
    ether = plain_chain()
    ether.kill("n1")
    assert ether.run_until(lambda: ether.said("n2", "disconnected") != [], 120.0, step_s=0.1) < 120.0
    node = ether.node(2)
    assert node.llc.state is LlcState.CLOSED
    assert node.switching.lsid is None


@pytest.mark.parametrize("edge", [0, 1])
def test_a_network_grows_at_the_edges_too(edge: int) -> None:
    """A switch and a node behind it; with one beacon slot there is no switch, so that edge has two."""
    chosen = settings(**{key: edges[edge] for key, edges in EDGES.items()} | ({} if edge else {"beacon_slots_max": 2}))
    ether = Ether(chain(), settings=chosen)
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    assert ether.run_until(ether.connected, 300.0) < 300.0
