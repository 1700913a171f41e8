"""The door to registers: its addresses, and its errors against a server of three registers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from shared.errors import DecodeError
from shared.modbus import ModbusAddress, ModbusRefused, ModbusSilence, PymodbusPort


async def _action(*request: object) -> ExcCodes | None:
    return ExcCodes.DEVICE_BUSY if request[2] == 11 else None


@pytest_asyncio.fixture
async def port() -> AsyncIterator[PymodbusPort]:
    """Connected to unit 7 with registers 10, 11 and 12."""
    data = SimData(10, values=[2401, 0, 65535], datatype=DataType.REGISTERS)
    server = ModbusTcpServer([SimDevice(7, simdata=[data], action=_action)], address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    tcp_port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    port = PymodbusPort(ModbusAddress("127.0.0.1", tcp_port, 7), timeout_s=1.0)
    await port.reopen()
    yield port
    await port.close()
    await server.shutdown()  # type: ignore[no-untyped-call]


async def test_registers_arrive_as_asked(port: PymodbusPort) -> None:
    """Sixteen bits each, from the address on the wire, by the unit in the address."""
    assert await port.read(10, 3) == [2401, 0, 65535]
    assert await port.read(12, 1) == [65535]


@pytest.mark.parametrize(("address", "code"), [(11, 6), (13, 2)])
async def test_an_exception_code_is_carried(port: PymodbusPort, address: int, code: int) -> None:
    """A busy device, and an address it does not have; the connection stays."""
    with pytest.raises(ModbusRefused, match=f"exception {code}") as caught:
        await port.read(address, 1)
    assert caught.value.code == code
    assert port.connected


async def test_nothing_is_read_without_a_connection(port: PymodbusPort) -> None:
    """Only `reopen` connects, so that a new connection is never overlooked; closing twice is harmless."""
    await port.close()
    await port.close()
    assert not port.connected
    with pytest.raises(ModbusSilence, match="not connected"):
        await port.read(10, 1)
    await port.reopen()
    assert await port.read(10, 1) == [2401]


async def test_a_closed_tcp_port_is_silence() -> None:
    """Nobody listens: one attempt, one error, still closed."""
    port = PymodbusPort(ModbusAddress("127.0.0.1", 1), timeout_s=1.0)
    with pytest.raises(ModbusSilence, match="no connection"):
        await port.reopen()
    assert not port.connected


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:5020?unit=7", ModbusAddress("127.0.0.1", 5020, 7)),
        ("tcp://meter.local", ModbusAddress("meter.local", 502, 1)),
        ("tcp://[::1]:502?unit=247", ModbusAddress("::1", 502, 247)),
        ("tcp://10.0.0.9:502/", ModbusAddress("10.0.0.9", 502, 1)),
    ],
)
def test_an_address_is_a_url(text: str, address: ModbusAddress) -> None:
    """Port and unit have defaults, and the text can be had back."""
    assert ModbusAddress.parse(text) == address
    assert ModbusAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "10.0.0.9", "10.0.0.9:502", "http://10.0.0.9", "tcp://", "tcp://:502", "tcp://a:b", "tcp://a:70000", "tcp://a:0",
        "tcp://a?unit=0", "tcp://a?unit=248", "tcp://a?unit=-1", "tcp://a?unit=x", "tcp://a?unit=", "tcp://a?unit=1&unit=2",
        "tcp://a?slave=1", "tcp://a?unit", "tcp://u@a", "tcp://a/path", "tcp://a#f", "tcp://[::1", "tcp://a?unit=1000000000000",
        "tcp://a?unit=²",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """One clear line with what was seen and what is expected."""
    with pytest.raises(DecodeError, match=r"expected tcp://HOST:PORT\?unit=N"):
        ModbusAddress.parse(text)
