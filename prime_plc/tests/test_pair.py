"""Base and service nodes over a small seeded wire; conversations as text, compared with goldens.

`HEADROOM_WRITE_GOLDENS=1 pytest prime_plc/tests/test_pair.py` writes the goldens anew; read the difference before
keeping it.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from prime_plc.base_node import BaseNode
from prime_plc.control import Capabilities, Con, ControlType, Direct, Pro, PromotionRequest, Reg
from prime_plc.llc import LlcLink, LlcState
from prime_plc.modem_host import (
    FrameReceived,
    ModemLost,
    ModemReady,
    ModemSettings,
    TransmitConfirmed,
    TransmitFrame,
    TypeAFraming,
)
from prime_plc.modem_messages import TransmitResult
from prime_plc.pdu import LNID_BROADCAST, GenericPdu, Packet, decode_pdu
from prime_plc.sap import DataConfirmed, DataReceived, DataResult, Happened, LinkDown, LinkUp, SendData
from prime_plc.service_node import ServiceNode, State
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.telling import Teller
from prime_plc.trace import Format, read_capture
from shared.ids import Eui48

GOLDENS = Path(__file__).parent / "goldens"
BASE = Eui48(bytes.fromhex("40402201C79A"))
NODE = Eui48(bytes.fromhex("AABBCCDDEE01"))
MODEM = ModemSettings(TypeAFraming.TRANSPARENT)
MAC = MacSettings(control_repeat_s=2.0)

Lose = Callable[[int, str, bytes], bool]
"""Whether to lose the n-th frame, by sender and bytes."""


class Wire:
    """Carries frames between nodes; time goes from event to event."""

    def __init__(self, lose: Lose = lambda _n, _sender, _pdu: False, settings: MacSettings = MAC) -> None:
        draw = random.Random(5)
        self.now = 0.0
        self.lose = lose
        self.nodes: dict[str, BaseNode | ServiceNode] = {
            "base": BaseNode(settings, MODEM, BASE, draw),
            "node": ServiceNode(settings, MODEM, NODE, b"meter-1", draw),
        }
        self.upward: dict[str, list[object]] = {"base": [], "node": []}
        self.talk: list[str] = []
        self._teller = Teller(BASE)
        self._events: list[tuple[float, int, str, object]] = []
        self._count = 0
        self._frames = 0
        for name in self.nodes:
            self.put(name, ModemReady("ATPL230", "23.00.01.02"))

    def put(self, name: str, item: object) -> None:
        self._perform(name, self.nodes[name].handle(item, self.now))  # type: ignore[arg-type]

    def _at(self, time: float, name: str, item: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, name, item))

    def _perform(self, name: str, outputs: list[object]) -> None:
        for output in outputs:
            if isinstance(output, TransmitFrame):
                self._emit(name, output)
            else:
                self.upward[name].append(output)

    def _emit(self, name: str, frame: TransmitFrame) -> None:
        start_s = self.now if frame.start_s is None else frame.start_s
        duration_s = MODEM.airtime_s(len(frame.pdu), frame.scheme)
        self._frames += 1
        lost = self.lose(self._frames, name, frame.pdu)
        if frame.pdu[0] >> 4 != 2:
            (raw,) = read_capture(frame.pdu.hex().encode(), Format.HEX)
            told = self._teller.tell(raw)
            assert told.fault is None, told.fault
            self.talk.append(f"{start_s:7.3f} {name:4}{' (lost)' if lost else ''} {told.words}")
        self._at(start_s + duration_s, name, TransmitConfirmed(frame.buffer, TransmitResult.SUCCESS))
        for other in self.nodes:
            if other != name and not lost:
                received = FrameReceived(frame.pdu, frame.scheme, 0, start_s, duration_s, 20.0, 84, precise=True)
                self._at(start_s + duration_s, other, received)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            wakes = [(at, name) for name, node in self.nodes.items() if (at := node.wake_at) is not None]
            wake = min(wakes, default=(until + 1, ""))
            event_s = self._events[0][0] if self._events else until + 1
            if min(wake[0], event_s) > until:
                break
            if event_s <= wake[0]:
                self.now, _, name, item = heapq.heappop(self._events)
                self.put(name, item)
            else:
                self.now = max(self.now, wake[0])
                self._perform(wake[1], list(self.nodes[wake[1]].wake(self.now)))
        self.now = until

    def of(self, name: str, kind: type) -> list[object]:
        return [output for output in self.upward[name] if isinstance(output, kind)]


def compare(name: str, talk: list[str]) -> None:
    """The conversation against its golden."""
    path = GOLDENS / f"{name}.txt"
    text = "\n".join(talk) + "\n"
    if os.environ.get("HEADROOM_WRITE_GOLDENS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_from_power_up_to_an_open_connection() -> None:
    """Registration and connection take the published exchanges: REQ, RSP, ACK, then CON_REQ_S and CON_REQ_B."""
    wire = Wire()
    wire.run(6.0)
    (up,) = wire.of("base", LinkUp)
    assert up == LinkUp(NODE, b"meter-1", 2)
    compare("power_up", wire.talk)


def test_request_and_answer_ride_on_each_other() -> None:
    """The answer carries the acknowledgement of the question; only the answer's own costs a frame."""
    wire = Wire()
    wire.run(6.0)
    del wire.talk[:]
    wire.put("base", SendData(NODE, 1, 2, bytes.fromhex("C001C100070000150005FF0200"), token=1))
    wire.run(0.1)
    wire.put("node", SendData(None, 2, 1, bytes.fromhex("C401C10104"), token=2))
    wire.run(5.0)
    assert wire.of("node", DataReceived) == [DataReceived(BASE, 1, 2, bytes.fromhex("C001C100070000150005FF0200"))]
    assert wire.of("base", DataConfirmed) == [DataConfirmed(1, NODE, DataResult.ACKNOWLEDGED)]
    assert wire.of("node", DataConfirmed) == [DataConfirmed(2, BASE, DataResult.ACKNOWLEDGED)]
    compare("question_and_answer", wire.talk)


def test_a_lost_segment_is_asked_for_and_sent_again() -> None:
    """Three segments, the middle one lost once: the SDU arrives whole, the others are not repeated."""
    lost: list[int] = []

    def lose(_number: int, sender: str, pdu: bytes) -> bool:
        middle = sender == "node" and len(pdu) > 140 and b"\x01" * 100 in pdu
        if middle and not lost:
            lost.append(1)
            return True
        return False

    wire = Wire(lose)
    wire.run(6.0)
    del wire.talk[:]
    sdu = b"\x00" * 125 + b"\x01" * 128 + b"\x02" * 60
    wire.put("node", SendData(None, 1, 1, sdu, token=3))
    wire.run(8.0)
    assert lost
    (received,) = wire.of("base", DataReceived)
    assert isinstance(received, DataReceived)
    assert received.data == sdu
    compare("lost_segment", wire.talk)


def test_a_base_that_restarts_finds_its_node_again() -> None:
    """A new base on the same address: the node's data is answered by an unregistration, and it registers anew."""
    wire = Wire()
    wire.run(6.0)
    del wire.talk[:]
    wire.nodes["base"] = BaseNode(MAC, MODEM, BASE, random.Random(6))
    wire.put("base", ModemReady("ATPL230", ""))
    wire.run(1.0)
    wire.put("node", SendData(None, 1, 1, b"hello", token=4))
    wire.run(8.0)
    assert [down.reason for down in wire.of("node", LinkDown)] == ["unregistered by the base"]  # type: ignore[attr-defined]
    assert len(wire.of("node", LinkUp)) == 2
    compare("base_restart", wire.talk)


def test_every_first_answer_lost_costs_a_repetition_each() -> None:
    """The first response and the first acceptance are lost: the requests are repeated and nothing happens twice."""
    seen: set[str] = set()

    def lose(_number: int, sender: str, pdu: bytes) -> bool:
        decoded = decode_pdu(pdu, BASE)
        if sender != "base" or not isinstance(decoded, GenericPdu) or not decoded.packets[0].control:
            return False
        kind = str(decoded.packets[0].lcid)
        fresh = kind not in seen
        seen.add(kind)
        return fresh

    wire = Wire(lose)
    wire.run(16.0)
    assert len(wire.of("base", LinkUp)) == len(wire.of("node", LinkUp)) == 1
    compare("lost_answers", wire.talk)


def test_keep_alive_keeps_and_its_absence_removes() -> None:
    """Both ends stay for an hour on keep-alives; when the node's answers are lost the base lets go within one
    period."""
    deaf = [False]
    wire = Wire(lambda _n, sender, _pdu: deaf[0] and sender == "node")
    wire.run(3600.0)
    assert wire.of("base", LinkDown) == wire.of("node", LinkDown) == []
    deaf[0] = True
    wire.run(140.0)
    assert len(wire.of("base", LinkDown)) == 1


def test_five_missed_beacons_are_a_lost_network() -> None:
    """The base falls silent: after fifteen seconds (five frames and a half would be less) the node searches again. Its
    connection waits for another way; when that has taken too long it reports what was not delivered."""
    silent = [False]
    wire = Wire(lambda _n, sender, _pdu: silent[0] and sender == "base")
    wire.run(6.0)
    silent[0] = True
    wire.put("node", SendData(None, 1, 1, b"lost", token=9))
    wire.run(7 * FRAME_S)
    assert wire.of("node", LinkDown) == []
    wire.run(20 * FRAME_S)
    node = wire.nodes["node"]
    assert isinstance(node, ServiceNode)
    assert node.state is State.SEARCHING
    assert wire.of("node", LinkDown) == wire.of("node", DataConfirmed) == []
    wire.run(MAC.switch_hold_s)
    assert wire.of("node", DataConfirmed)[-1] == DataConfirmed(9, BASE, DataResult.LOST)
    assert wire.of("node", LinkDown) == [LinkDown(BASE, "no way to the base")]


def test_a_node_that_hears_nobody_calls_for_a_switch() -> None:
    """After the search time promotion-needed PDUs go out, at most two in five seconds, fewer while nobody answers."""
    wire = Wire(lambda _n, sender, _pdu: sender == "base")
    wire.run(124.0)
    calls = [line for line in wire.talk if "promotion needed" in line]
    assert 10 <= len(calls) <= 40
    assert sum(float(line[:7]) < 74.0 for line in calls) > len(calls) / 2


def uplink(ctype: ControlType, payload: bytes, lnid: int) -> FrameReceived:
    packet = Packet(True, 1, True, ctype, 0, lnid, payload)
    pdu = GenericPdu(False, 0, (packet,)).encode(BASE)
    return FrameReceived(pdu, MAC.scheme, 0, 0.0, 0.013, 20.0, 84, precise=False)


def sent_control(outputs: list[str], name: str) -> bool:
    return any(name in line for line in outputs)


def test_a_base_refuses_what_it_does_not_do() -> None:
    """Promotion is rejected where no switches are wanted, a connection of another type closed; a damaged frame changes
    nothing but a counter."""
    wire = Wire(settings=MacSettings(control_repeat_s=2.0, switches_max=0))
    wire.run(6.0)
    base = wire.nodes["base"]
    assert isinstance(base, BaseNode)
    (node,) = base.nodes.values()
    del wire.talk[:]
    ask = Pro(False, 4, 0, 0xFF, PromotionRequest(NODE, 4, 4, 0))
    wire.put("base", uplink(ControlType.PRO, ask.encode(), node.lnid))
    wire.put("base", uplink(ControlType.CON, Con(False, False, 300, 2, b"x").encode(), node.lnid))
    wire.run(2.0)
    assert sent_control(wire.talk, "PRO_REJ")
    assert sent_control(wire.talk, "CON_CLS_B")
    before = base.summary()
    wire.put("base", FrameReceived(b"\x00\x00garbage", MAC.scheme, 0, 0.0, 0.01, 3.0, 60, precise=False))
    assert base.summary() == before
    assert base.undecodable == 1


def opened(wire: Wire) -> int:
    """LNID of the node, whose connection is open; what has been said until then is forgotten."""
    wire.run(6.0)
    base = wire.nodes["base"]
    assert isinstance(base, BaseNode)
    (node,) = base.nodes.values()
    assert node.connection is not None
    del wire.talk[:]
    return node.lnid


@pytest.mark.parametrize(
    "con",
    [
        Con(False, True, 300, 3, b"other", direct=Direct(300, False, 9, 0, 0)),
        Con(False, True, 300, 3, b"other", eui48=bytes.fromhex("AABBCCDDEE09")),
        Con(False, True, 300, 3, b"other", eui48=bytes.fromhex("AABBCCDDEE09"), direct=Direct(300, True, 9, 1, 2)),
        Con(False, False, 300, 3, b"other"),
        Con(False, True, 5, 3, b"other"),
        Con(False, True, 300, 250, b"other"),
    ],
)
def test_a_base_opens_connections_to_itself_with_arq_alone(con: Con) -> None:
    """Direct ones, to another node, without ARQ, of another type or number: closed, and the node keeps its own."""
    wire = Wire(settings=MacSettings(control_repeat_s=2.0))
    lnid = opened(wire)
    before = len(wire.of("base", LinkUp))
    wire.put("base", uplink(ControlType.CON, con.encode(), lnid))
    wire.run(2.0)
    assert [f"lcid {con.lcid}, type {con.type}" in line for line in wire.talk if "CON_CLS_B" in line] == [True]
    assert not sent_control(wire.talk, "CON_REQ_B")
    assert (len(wire.of("base", LinkUp)), wire.of("base", LinkDown)) == (before, [])


def downlink(con: Con, lnid: int) -> FrameReceived:
    packet = Packet(False, 1, True, ControlType.CON, 0, lnid, con.encode())
    pdu = GenericPdu(True, 0, (packet,)).encode(BASE)
    return FrameReceived(pdu, MAC.scheme, 0, 0.0, 0.013, 20.0, 84, precise=False)


@pytest.mark.parametrize("con", [Con(False, False, 5, 250), Con(False, True, 5, 3), Con(False, False, 256, 250)])
def test_a_node_refuses_connections_that_the_base_opens(con: Con) -> None:
    """By CON_CLS_S with the same number and type; its own stays open."""
    wire = Wire(settings=MacSettings(control_repeat_s=2.0))
    wire.put("node", downlink(con, opened(wire)))
    wire.run(2.0)
    assert {f"lcid {con.lcid}, type {con.type}" in line for line in wire.talk if "CON_CLS_S" in line} == {True}
    assert wire.of("node", LinkDown) == wire.of("base", LinkDown) == []
    node = wire.nodes["node"]
    assert isinstance(node, ServiceNode)
    assert node.llc.state is LlcState.OPEN


@pytest.mark.parametrize("con", [Con(False, False, 256, 3, bytes(4)), Con(False, True, 256, 3, bytes(4), eui48=NODE)])
def test_a_node_takes_no_connection_that_it_has_not_asked_for(con: Con) -> None:
    """An answer without ARQ, or to another node: closed, and asked for again later."""
    sent: list[Con] = []
    link = LlcLink(MAC, b"meter-1", random.Random(1), lambda payload, _now: sent.append(Con.decode(payload)))
    link.open(BASE, 1, 0.0)
    (said,) = link.control(con, 1.0)
    assert isinstance(said, Happened)
    assert (link.state, link.connection, sent[1:]) == (LlcState.OPENING, None, [Con(True, False, 256, 3)])
    assert link.retry_at is not None
    link.wake(link.retry_at)
    assert sent[2] == Con(False, True, 256, 3, b"meter-1")
    assert [type(output) for output in link.control(Con(False, True, 256, 3, bytes((0, 2, 0, 0))), 99.0)] == [LinkUp]


def test_a_full_base_rejects() -> None:
    """At the named limit of nodes a registration is rejected, and those registered stay."""
    wire = Wire(settings=MacSettings(control_repeat_s=2.0, nodes_max=1))
    wire.run(6.0)
    reg = Reg(False, False, 0, Capabilities.ARQ, 2, bytes.fromhex("AABBCCDDEE02"))
    wire.put("base", uplink(ControlType.REG, reg.encode(), LNID_BROADCAST))
    wire.run(1.0)
    assert sent_control(wire.talk, "REG_REJ")
    base = wire.nodes["base"]
    assert isinstance(base, BaseNode)
    assert set(base.nodes) == {NODE}


def test_data_without_a_connection_is_refused_at_once() -> None:
    """Before registration, to a stranger, and after the modem is lost: confirmed as not connected."""
    wire = Wire()
    wire.put("node", SendData(None, 1, 1, b"early", token=1))
    wire.put("base", SendData(Eui48(bytes(6)), 1, 1, b"stranger", token=2))
    wire.run(6.0)
    wire.put("base", ModemLost("unplugged"))
    wire.put("base", SendData(NODE, 1, 1, b"late", token=3))
    refused = [*wire.of("node", DataConfirmed), *wire.of("base", DataConfirmed)]
    assert [item.result for item in refused] == [DataResult.NOT_CONNECTED] * 3  # type: ignore[attr-defined]
    assert len(wire.of("base", LinkDown)) == 1


@pytest.mark.parametrize("seed", range(10))
def test_any_line_that_sometimes_works_connects_in_the_end(seed: int) -> None:
    """Half of all frames lost at random, beacons too: the connection opens within minutes."""
    draw = random.Random(seed)
    wire = Wire(lambda _n, _sender, _pdu: draw.random() < 0.5)
    for _ in range(60):
        wire.run(10.0)
        if wire.of("node", LinkUp):
            break
    assert wire.of("node", LinkUp)
