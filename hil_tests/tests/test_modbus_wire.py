"""The product's door to registers against the virtual meter's server, over a wire that misbehaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from hil_tests.virtual.em330 import Em330Server, Measured, MeterFault, VirtualEm330
from hil_tests.virtual.tcp_proxy import HELD_MAX, TcpProxy, WireFault
from shared.modbus import ModbusAddress, ModbusRefused, ModbusShort, ModbusSilence, PymodbusPort

TIMEOUT_S = 0.05


@dataclass
class Bench:
    """A meter, its server, the wire, and the port under test."""

    meter: VirtualEm330
    server: Em330Server
    wire: TcpProxy
    port: PymodbusPort


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """Everything connected."""
    meter = VirtualEm330()
    server = await meter.serve()
    wire = TcpProxy(server.host, server.port)
    await wire.open()
    port = PymodbusPort(ModbusAddress("127.0.0.1", wire.port), timeout_s=TIMEOUT_S, retries=0)
    await port.reopen()
    yield Bench(meter, server, wire, port)
    await port.close()
    await wire.close()
    await server.close()


async def test_registers_arrive_as_asked(bench: Bench) -> None:
    """Fifty registers, the first two a voltage with its low word first."""
    bench.meter.set_reading(Measured(u_v=(240.1, None, None)))
    words = await bench.port.read(0, 50)
    assert len(words) == 50
    assert words[:2] == [2401, 0]


async def test_nothing_is_read_before_a_connection() -> None:
    """Only `reopen` connects, so that a new connection is never overlooked."""
    port = PymodbusPort(ModbusAddress("127.0.0.1", 1), timeout_s=TIMEOUT_S)
    assert not port.connected
    with pytest.raises(ModbusSilence, match="not connected"):
        await port.read(0, 2)


async def test_a_closed_port_is_silence() -> None:
    """Nobody listens: one attempt, one error, still closed."""
    port = PymodbusPort(ModbusAddress("127.0.0.1", 1), timeout_s=TIMEOUT_S)
    with pytest.raises(ModbusSilence, match="no connection"):
        await port.reopen()
    assert not port.connected
    await port.close()


async def test_an_exception_code_is_carried(bench: Bench) -> None:
    """A register outside the map is refused with 02."""
    with pytest.raises(ModbusRefused, match="illegal address") as caught:
        await bench.port.read(0x0060, 2)
    assert caught.value.code == 2


async def test_a_short_answer_is_no_answer(bench: Bench) -> None:
    """pymodbus takes one register too few for a success; the port does not."""
    bench.meter.fault = MeterFault.SHORT
    with pytest.raises(ModbusShort, match="seen 49 registers, expected 50"):
        await bench.port.read(0, 50)


@pytest.mark.parametrize("fault", [WireFault.DROP, WireFault.TRUNCATE, WireFault.GARBAGE, WireFault.HOLD])
async def test_an_answer_that_does_not_arrive_whole_is_silence(bench: Bench, fault: WireFault) -> None:
    """Lost, cut, spoilt or late: the port says so in its own time, and works again when the wire does."""
    bench.wire.fault = fault
    with pytest.raises(ModbusSilence, match="no answer"):
        await bench.port.read(0, 50)
    assert bench.wire.counts[fault] == 1
    bench.wire.fault = WireFault.NONE
    await bench.port.reopen()
    assert len(await bench.port.read(0, 50)) == 50


async def test_a_silent_meter_is_silence(bench: Bench) -> None:
    """The request is heard, the answer never sent."""
    bench.meter.fault = MeterFault.SILENT
    with pytest.raises(ModbusSilence):
        await bench.port.read(0, 50)
    assert bench.meter.answered == 1


async def test_a_reset_connection_is_noticed_without_the_timeout(bench: Bench) -> None:
    """A broken connection cannot answer any more: with a timeout of an hour the error must still come at once."""
    port = PymodbusPort(ModbusAddress("127.0.0.1", bench.wire.port), timeout_s=3600.0)
    await port.reopen()
    bench.wire.fault = WireFault.RESET
    with pytest.raises(ModbusSilence, match="connection lost"):
        await port.read(0, 50)
    assert not port.connected
    await port.close()


async def test_a_late_answer_is_never_taken_for_a_new_one(bench: Bench) -> None:
    """Same length, other registers: the answer to the first question arrives while the second waits."""
    bench.meter.set_reading(Measured(u_v=(240.0, 250.0, None)))
    bench.wire.fault = WireFault.HOLD
    with pytest.raises(ModbusSilence):
        await bench.port.read(0x0000, 2)
    waiting = asyncio.create_task(bench.port.read(0x0002, 2))
    bench.wire.fault = WireFault.NONE
    bench.wire.release()
    assert await waiting == [2500, 0]


async def test_a_doubled_answer_is_taken_once(bench: Bench) -> None:
    """The second copy finds nobody waiting and does not answer the next question."""
    bench.meter.set_reading(Measured(u_v=(240.0, 250.0, None)))
    bench.wire.fault = WireFault.DUPLICATE
    for _ in range(3):
        assert await bench.port.read(0x0000, 2) == [2400, 0]
        assert await bench.port.read(0x0002, 2) == [2500, 0]


async def test_a_split_answer_is_put_together(bench: Bench) -> None:
    """Byte by byte over the wire."""
    bench.wire.fault = WireFault.SPLIT
    assert len(await bench.port.read(0, 50)) == 50


async def test_a_cancelled_read_leaves_the_port_usable(bench: Bench) -> None:
    """The daemon stops waiting; the next question gets its own answer."""
    bench.wire.fault = WireFault.HOLD
    waiting = asyncio.create_task(bench.port.read(0x0000, 2))
    await bench.wire.held()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.wire.fault = WireFault.NONE
    bench.wire.release()
    assert len(await bench.port.read(0, 50)) == 50


async def test_closing_twice_is_harmless(bench: Bench) -> None:
    """And nothing can be read afterwards."""
    await bench.port.close()
    await bench.port.close()
    assert not bench.port.connected


async def test_the_wire_holds_no_more_than_its_limit() -> None:
    """One answer too many: the oldest is gone, the order of the others stays."""
    wire = TcpProxy("127.0.0.1", 1)
    wire.fault = WireFault.HOLD
    far_end, near_end = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=near_end)
    for number in range(HELD_MAX + 1):
        await wire._treat(bytes([number]), writer)
    wire.release()
    await writer.drain()
    assert far_end.recv(2 * HELD_MAX) == bytes(range(1, HELD_MAX + 1))
    writer.close()
    far_end.close()
