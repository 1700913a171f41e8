"""Door to the registers of a Modbus TCP device: read-only, one request in flight, one connection at a time.

True Modbus TCP only: the transaction number of its header is the one defence against an answer that comes late. After
a silence whoever reads closes the connection, so that nothing late can ever be taken for something new. Nothing here
can write a register.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import parse_qs, urlsplit

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse

from shared.errors import DecodeError, DeviceError

TIMEOUT_S: Final = 1.5
"""[s] Wait for one answer; longer than a gateway's own wait for the meter (0.6-1 s)."""

RETRIES: Final = 1
"""Repetitions of one request, under the same transaction number, before it counts as silence."""

WORDS_MAX: Final = 125
"""Registers one request may ask for (Modbus application protocol, function 04)."""

TCP_PORT: Final = 502
"""Modbus TCP's registered port."""

EXCEPTION_TEXT: Final = {
    1: "illegal function",
    2: "illegal address",
    3: "illegal value",
    4: "device failure",
    5: "acknowledged, still working",
    6: "device busy",
    8: "memory parity",
    10: "gateway has no path to the device",
    11: "gateway got no answer from the device",
}
"""Modbus exception codes in words."""


class ModbusError(DeviceError):
    """Registers could not be read."""


class ModbusSilence(ModbusError):
    """No connection, no answer in time, or the connection broke while waiting."""


class ModbusRefused(ModbusError):
    """The device, or the gateway for it, answered with an exception."""

    def __init__(self, code: int, where: str) -> None:
        self.code = code
        super().__init__(f"{where}: exception {code} ({EXCEPTION_TEXT.get(code, 'unknown code')})")


class ModbusShort(ModbusError):
    """The answer holds another number of registers than asked for."""


class RegisterPort(Protocol):
    """Registers of one device; reading needs an open connection, and only `reopen` makes one."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; false at first and after `close` or a loss."""
        ...

    async def reopen(self) -> None:
        """Drop any connection and make a fresh one; tries once.

        Raises:
            ModbusSilence: nobody accepts the connection.
        """
        ...

    async def read(self, address: int, count: int) -> list[int]:
        """``count`` registers from ``address`` (0-based, as on the wire) by function 04, 16 bit each.

        Raises:
            ModbusSilence: no connection or no answer.
            ModbusRefused: an exception code came back.
            ModbusShort: the number of registers is wrong.
        """
        ...

    async def close(self) -> None:
        """Drop the connection; harmless without one."""
        ...


@dataclass(frozen=True, slots=True)
class ModbusAddress:
    """Where a device answers: host, TCP port and unit (the device's address behind a gateway)."""

    host: str
    port: int = TCP_PORT
    unit: int = 1

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}?unit={self.unit}"

    @classmethod
    def parse(cls, text: str) -> ModbusAddress:
        """The address in ``tcp://host:port?unit=1``; port 502 and unit 1 may be left out.

        Raises:
            DecodeError: anything else; says what was seen and expected.
        """
        try:
            url = urlsplit(text)
            port = url.port
            query = parse_qs(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        except ValueError as error:
            raise _address_error(text, str(error)) from error
        if url.scheme != "tcp":
            raise _address_error(text, f"scheme {url.scheme!r}")
        if not url.hostname:
            raise _address_error(text, "no host")
        if url.username is not None or url.path not in {"", "/"} or url.fragment:
            raise _address_error(text, "more than host, port and unit")
        if port == 0:
            raise _address_error(text, "port 0")
        units = query.pop("unit", ["1"])
        if query:
            raise _address_error(text, f"key {next(iter(query))!r}")
        if len(units) != 1 or not (units[0].isascii() and units[0].isdigit()) or not 1 <= int(units[0][:4]) <= 247:
            raise _address_error(text, f"unit {','.join(units)!r}")
        return cls(url.hostname, TCP_PORT if port is None else port, int(units[0]))


def _address_error(text: str, seen: str) -> DecodeError:
    return DecodeError(
        f"Modbus address: seen {text!r} ({seen}), expected tcp://HOST:PORT?unit=N with port 1-65535 and unit 1-247"
    )


class PymodbusPort:
    """`RegisterPort` over TCP by pymodbus.

    pymodbus never reconnects here by itself: whoever reads must know about every new connection, because another
    device may answer on it.
    """

    def __init__(self, address: ModbusAddress, timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> None:
        assert timeout_s > 0, timeout_s
        assert retries >= 0, retries
        self.address = address
        self._timeout_s = timeout_s
        self._retries = retries
        self._client: AsyncModbusTcpClient | None = None
        self._waiting: asyncio.Timeout | None = None

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.connected

    async def reopen(self) -> None:
        await self.close()
        client = AsyncModbusTcpClient(
            self.address.host,
            port=self.address.port,
            timeout=self._timeout_s,
            retries=self._retries,
            reconnect_delay=0,
            trace_connect=self._connection_changed,
        )
        if not await client.connect():
            client.close()
            raise ModbusSilence(f"{self.address}: no connection")
        self._client = client

    async def read(self, address: int, count: int) -> list[int]:
        assert 0 <= address <= 0xFFFF, address
        assert 1 <= count <= WORDS_MAX, count
        assert self._waiting is None, "one request in flight"
        where = f"{self.address} register {address:04X}h x {count}"
        client = self._client
        if client is None or not client.connected:
            raise ModbusSilence(f"{where}: not connected")
        try:
            # The limit has no time of its own: a lost connection ends it, instead of leaving us to wait for an answer
            # that can no longer come.
            async with asyncio.timeout(None) as self._waiting:
                answer = await client.read_input_registers(address, count=count, device_id=self.address.unit)
        except TimeoutError as error:
            raise ModbusSilence(f"{where}: connection lost") from error
        except ModbusException as error:
            raise ModbusSilence(f"{where}: no answer in {self._retries + 1} x {self._timeout_s:g} s") from error
        finally:
            self._waiting = None
        if isinstance(answer, ExceptionResponse):
            raise ModbusRefused(answer.exception_code, where)
        if len(answer.registers) != count:
            raise ModbusShort(f"{where}: seen {len(answer.registers)} registers, expected {count}")
        return list(answer.registers)

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connection_changed(self, connected: bool) -> None:
        if not connected and self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())
