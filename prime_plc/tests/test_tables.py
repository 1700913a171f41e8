"""Each role's table: every state with every input and every control packet; what is not in it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prime_plc import base_node, service_node
from prime_plc.base_node import BaseNode
from prime_plc.control import (
    Alv,
    Bsi,
    Capabilities,
    Cfp,
    Con,
    Control,
    ControlType,
    Fra,
    Mul,
    Prm,
    Pro,
    PromotionRequest,
    Reg,
    Sec,
)
from prime_plc.modem_host import FrameReceived, ModemLost, TransmitConfirmed
from prime_plc.modem_messages import TransmitResult
from prime_plc.pdu import SNA_ANY, GenericPdu, Packet, PromotionNeeded
from prime_plc.phy import Scheme
from prime_plc.sap import (
    Action,
    ChangeGroup,
    DataConfirmed,
    DataResult,
    Manage,
    SendBroadcast,
    SendData,
    Want,
    Wish,
)
from prime_plc.service_node import ServiceNode, State
from prime_plc.tests.captured_frames import ALL
from prime_plc.tests.ether import BASE, READY, Ether, chain, eui

INPUTS: dict[str, Any] = {
    "ModemReady": READY,
    "ModemLost": ModemLost("test"),
    "TransmitConfirmed": TransmitConfirmed(3, TransmitResult.SUCCESS),
    "SendData": SendData(None, 1, 1, b"x", 7),
    "SendBroadcast": SendBroadcast(1, 1, b"x"),
    "Manage": Manage(Action.PROMOTE, eui(1)),
    "leave": Want(Wish.LEAVE),
    "return": Want(Wish.RETURN),
    "stop switching": Want(Wish.STOP_SWITCHING),
    "ChangeGroup": ChangeGroup(join=True, type=3, data=b"g"),
}

CONTROLS: dict[ControlType, list[Control]] = {
    ControlType.REG: [
        Reg(negative, False, 0, Capabilities.ARQ, 2, address)
        for negative in (False, True)
        for address in (eui(1), eui(9))
    ],
    ControlType.CON: [Con(negative, True, 256, 3, b"\0\x02\0\0") for negative in (False, True)],
    ControlType.PRO: [
        Pro(False, 0, 2, 99),
        Pro(True, 0, 2, 99),
        Pro(True, 0, 2, 0xFF),
        Pro(False, 4, 2, 0xFF, PromotionRequest(eui(8), 4, 4, 7)),
    ],
    ControlType.BSI: [Bsi(3, 2, 0)],
    ControlType.FRA: [Fra(0, 0, 9, 3), Fra(1, 200, 9, 1), Fra(2, 0, 0, 0)],
    ControlType.CFP: [Cfp(False, False, 1, 256, 10, 200, 0, 5)],
    ControlType.ALV: [Alv(1, 2, 2, 0xFF)],
    ControlType.MUL: [Mul(False, 7, 3, b"g"), Mul(True, 7, 3)],
    ControlType.PRM: [
        Prm(False, False, 3),
        Prm(True, False, 3),
        Prm(True, True, 3),
        Prm(True, False, 3, (0, 0xBEEF)),
    ],
    ControlType.SEC: [Sec(b"\x01\x02\x03")],
}


def network(state: State) -> tuple[Ether, ServiceNode]:
    """A node in this state, and what is around it."""
    ether = Ether(chain(), seed=1)
    if state is not State.SEARCHING:
        ether.add_base()
    node = ether.add_node(1, at_s=1000.0 if state is State.OFF else 0.0)
    if state is State.SWITCH:
        ether.add_node(2)
    if state is State.REGISTERING:
        ether.lose = lambda sender, _receiver, _pdu: sender == "n1"
    if state is State.LEFT:
        assert ether.run_until(ether.connected, 60.0) < 60.0
        ether.put("n1", Want(Wish.LEAVE))
    ether.run_until(lambda: node.state is state, 120.0, step_s=0.1)
    assert node.state is state
    return ether, node


def frame(pdu: bytes) -> FrameReceived:
    return FrameReceived(pdu, Scheme.DBPSK_C, 0, 0.0, 0.013, 20.0, 80, precise=False)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", INPUTS)
def test_a_service_node_takes_any_input_in_any_state(state: State, name: str) -> None:
    """Nothing raises; what the table does not know changes nothing, and data is refused with a reason."""
    ether, node = network(state)
    before = node.summary()
    item = INPUTS[name]
    outputs = node.handle(item, ether.now)
    node.wake(ether.now)
    if (state, type(item)) not in service_node._TABLE:
        assert node.summary() == before
        refusal = [DataConfirmed(7, None, DataResult.NOT_CONNECTED)] if name == "SendData" else []
        assert outputs == refusal


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("ctype", ControlType)
def test_a_service_node_takes_any_control_packet_in_any_state(state: State, ctype: ControlType) -> None:
    """Addressed to it by its switch; nothing raises, and what the table does not know changes nothing."""
    for control in CONTROLS[ctype]:
        ether, node = network(state)
        before = node.summary()
        packet = Packet(False, 1, True, ctype, node.sid, node.lnid, control.encode())
        node.handle(frame(GenericPdu(True, node.level, (packet,)).encode(BASE)), ether.now)
        node.wake(ether.now)
        if (state, type(control)) not in service_node._TABLE:
            assert node.summary() == before


@pytest.mark.parametrize("state", State)
def test_a_service_node_takes_any_frame_in_any_state(state: State) -> None:
    """Captured frames of both directions, calls, and every prefix of a frame."""
    ether, node = network(state)
    frames = [bytes.fromhex(one) for one in ALL.values()] + [PromotionNeeded(SNA_ANY, eui(8)).encode()]
    for pdu in frames:
        for end in (len(pdu), len(pdu) - 1, 12, 1, 0):
            node.handle(frame(pdu[:end]), ether.now)
            node.wake(ether.now)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_a_base_node_takes_any_input_in_any_state(running: bool, name: str) -> None:  # a parameter
    """The same for the base."""
    ether, base = _base(running=running)
    before = base.summary()
    item = INPUTS[name]
    known = (base.state, type(item)) in base_node._TABLE
    base.handle(item, ether.now)
    base.wake(ether.now)
    if not known:
        assert base.summary() == before


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("ctype", ControlType)
def test_a_base_node_takes_any_control_packet(running: bool, ctype: ControlType) -> None:  # a parameter
    """From a registered node, from a number nobody has, and from a switch nobody made."""
    for control in CONTROLS[ctype]:
        ether, base = _base(running=running)
        addresses: list[tuple[int, int]] = [(0, 5), (77, 5), (0, 0x3FFF)]
        addresses += [(node.sid, node.lnid) for node in base.nodes.values()]
        for sid, lnid in addresses:
            packet = Packet(True, 1, True, ctype, sid, lnid, control.encode())
            base.handle(frame(GenericPdu(False, 0, (packet,)).encode(BASE)), ether.now)
            base.wake(ether.now)


def _base(*, running: bool) -> tuple[Ether, BaseNode]:
    ether = Ether(chain(), seed=1)
    base = ether.add_base()
    if running:
        ether.add_node(1)
        assert ether.run_until(ether.connected, 60.0) < 60.0
    return ether, base


def test_every_action_of_a_table_belongs_to_its_role() -> None:
    """Keys are states and types, values methods of the class; nothing is listed twice under another name."""
    tables: list[tuple[dict[tuple[Any, type], Callable[..., Any]], type]] = [
        (service_node._TABLE, ServiceNode),
        (base_node._TABLE, BaseNode),
    ]
    for table, role in tables:
        for (state, kind), action in table.items():
            assert isinstance(kind, type), (state, kind)
            assert getattr(role, action.__name__) is action
