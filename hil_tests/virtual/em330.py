"""Virtual EM330: the registers, manners and ill manners of the analyzer, on a real Modbus TCP server or in memory.

Written from the manufacturer's description, with its own addresses and its own packing; it shares no line with what
the product makes of the registers. Both doors (`serve` and `port`) stand before the same `VirtualEm330.answer`.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from pymodbus.constants import ExcCodes
from pymodbus.pdu import ModbusPDU
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from shared.modbus import ModbusRefused, ModbusShort, ModbusSilence

Values = tuple[float | None, float | None, float | None]
"""One value per phase; None for a phase that is not wired."""

MODE_A: Final = 0
MODE_B: Final = 1
"""Register 1103h: easy connection (everything positive), and bidirectional."""

READ_FUNCTIONS: Final = frozenset({3, 4})
"""The meter answers both alike; this one can be written by nobody."""

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
DEVICE_FAILURE: Final = 4

LOOPBACK: Final = "127.0.0.1"
"""A virtual meter is nobody's business outside this machine."""


class MeterFault(Enum):
    """What the meter does wrong, one thing at a time."""

    NONE = "none"
    SILENT = "answers nothing"
    SHORT = "answers one register too few"
    EXCEPTION = "answers exception 04"
    SWAPPED = "high word first"
    FROZEN = "its registers no longer change"
    OVERFLOW = "shows EEE for every current and power"
    GARBAGE_RATIOS = "power factors and frequency without a value"


@dataclass(frozen=True, slots=True)
class Nameplate:
    """What the meter says about itself when asked."""

    code: int = 332
    firmware: int = 1
    revision: int = 4
    serial: str = "KX0000000001Z"
    system: int = 0
    ct_ratio: float = 1.0
    vt_ratio: float = 1.0
    mode: int = MODE_B


@dataclass(frozen=True, slots=True)
class Measured:
    """Truth at the terminals, import positive; energies as the meter has counted them by direction."""

    u_v: Values = (230.0, 230.0, 230.0)
    p_w: Values = (0.0, 0.0, 0.0)
    q_var: Values = (0.0, 0.0, 0.0)
    i_a: Values = (0.0, 0.0, 0.0)
    frequency_hz: float = 50.0
    import_wh: float = 0.0
    export_wh: float = 0.0


_MEASUREMENTS: Final = range(0x005C)
_AREAS: Final = (
    _MEASUREMENTS,
    range(0x0302, 0x0304),
    range(0x1002, 0x1007),
    range(0x1103, 0x1104),
    range(0x1105, 0x1106),
    range(0x2000, 0x2006),
    range(0x5000, 0x5007),
)
"""Registers this meter has; a request that leaves its area gets exception 02 as a whole."""


_REST: Final = (0,) * 0x24
"""Voltages, currents and powers of nothing."""


class VirtualEm330:
    """One meter.

    Attributes:
        fault: what it does wrong now.
        answered: requests answered or refused so far.
        refresh: called before the measurements are shown, so that a world can set them to the present instant.
    """

    def __init__(
        self,
        nameplate: Nameplate | None = None,
        jitter: random.Random | None = None,
        refresh: Callable[[VirtualEm330], None] | None = None,
    ) -> None:
        """A meter at rest.

        Args:
            nameplate: what it says about itself.
            jitter: source of the last digit's unrest; None for a meter that shows exactly what is set.
            refresh: see above.
        """
        self.fault = MeterFault.NONE
        self.answered = 0
        self.refresh = refresh
        self._jitter = jitter
        self._lift = 0
        self._plate = nameplate or Nameplate()
        self._measured = Measured()
        self._words: list[int] = [0] * len(_MEASUREMENTS)
        self._encode()

    @property
    def nameplate(self) -> Nameplate:
        """What it says about itself."""
        return self._plate

    @nameplate.setter
    def nameplate(self, nameplate: Nameplate) -> None:
        self._plate = nameplate
        self._encode()

    @property
    def measured(self) -> Measured:
        """Truth at the terminals as last set."""
        return self._measured

    def set_mode(self, mode: int) -> None:
        """Measurement mode A (0) or B (1), as somebody at its keys would."""
        self.nameplate = replace(self._plate, mode=mode)

    def set_reading(self, measured: Measured) -> None:
        """Show this from now on; a frozen meter does not care."""
        self._measured = measured
        if self.fault is not MeterFault.FROZEN:
            self._encode()

    def answer(self, function: int, address: int, count: int) -> list[int] | int:
        """The registers asked for, or the exception code instead of them."""
        self.answered += 1
        if self.fault is MeterFault.EXCEPTION:
            return DEVICE_FAILURE
        if function not in READ_FUNCTIONS:
            return ILLEGAL_FUNCTION
        if address == 0x000B and count == 1:
            return [self._plate.code]
        area = next((area for area in _AREAS if address in area and address + count <= area.stop), None)
        if area is None:
            return ILLEGAL_ADDRESS
        if area is not _MEASUREMENTS:
            return self._settings(address, count)
        if address == 0 and self.fault is not MeterFault.FROZEN:
            self._next_second()
        return self._shown(address, count)

    async def serve(self, host: str = LOOPBACK, port: int = 0, unit: int = 1) -> Em330Server:
        """Answer on a real Modbus TCP server; port 0 takes a free one."""
        assert host.startswith("127.") or host == "::1", f"{host}: a virtual meter serves on loopback only"
        server = Em330Server(self, host, port, unit)
        await server.open()
        return server

    def port(self, answer_s: float = 0.04, timeout_s: float = 1.5, retries: int = 1) -> MemoryPort:
        """An in-memory `shared.modbus.RegisterPort` to this meter, for worlds without sockets."""
        return MemoryPort(self, answer_s, timeout_s * (retries + 1))

    def _next_second(self) -> None:
        if self.refresh is not None:
            self.refresh(self)
        if self._jitter is None:
            return
        # Another last digit than before, always: a live meter never shows the same set twice for long.
        self._lift = self._jitter.choice([lift for lift in (-1, 0, 1) if lift != self._lift])
        for phase in range(3):
            if (u := self._measured.u_v[phase]) is not None:
                self._words[2 * phase : 2 * phase + 2] = _int32(u * 10 + self._lift)

    def _shown(self, address: int, count: int) -> list[int]:
        words = self._words[address : address + count]
        if self.fault is MeterFault.SWAPPED:
            words = [words[index ^ 1] if index ^ 1 < count else words[index] for index in range(count)]
        elif self.fault is MeterFault.OVERFLOW:
            for at in range(0x000C, 0x0024, 2):
                if address <= at and at + 2 <= address + count:
                    words[at - address : at - address + 2] = [0xFFFF, 0x7FFF]
        elif self.fault is MeterFault.GARBAGE_RATIOS:
            for at, word in [*((at, 0x7FFF) for at in range(0x002E, 0x0032)), (0x0033, 0xFFFF)]:
                if address <= at < address + count:
                    words[at - address] = word
        return words

    def _settings(self, address: int, count: int) -> list[int]:
        plate = self._plate
        bank = {0x0302: plate.firmware, 0x0303: plate.revision, 0x1002: plate.system, 0x1103: plate.mode}
        bank[0x1003], bank[0x1004] = _int32(plate.ct_ratio * 10)
        bank[0x1005], bank[0x1006] = _int32(plate.vt_ratio * 10)
        bank |= {0x2000: 1, 0x2001: 3, 0x2002: 1, 0x2003: 1, 0x2004: 50, 0x2005: 50}
        padded = plate.serial.encode("ascii")[:14].ljust(14, b"\0")
        bank |= {0x5000 + at: word for at, word in enumerate(struct.unpack(">7H", padded))}
        return [bank.get(at, 0) for at in range(address, address + count)]

    def _encode(self) -> None:
        """Pack the truth as the meter shows it in its mode."""
        truth, signed = self._measured, self._plate.mode == MODE_B
        words = self._words
        totals = [0.0, 0.0, 0.0]
        words[:0x24] = _REST
        for phase in range(3):
            if (voltage := truth.u_v[phase]) is None:
                words[0x2E + phase] = 0
                continue
            u, i, p, q = voltage, _of(truth.i_a[phase]), _of(truth.p_w[phase]), _of(truth.q_var[phase])
            i = abs(i) if not signed or p >= 0 else -abs(i)
            p = p if signed else abs(p)
            apparent = (p * p + q * q) ** 0.5
            for base, raw in ((0x00, u * 10), (0x0C, i * 1000), (0x12, p * 10), (0x18, apparent * 10), (0x1E, q * 10)):
                words[base + 2 * phase : base + 2 * phase + 2] = _int32(raw)
            words[0x2E + phase] = _int16(_power_factor(p, apparent) * 1000)
            for index, value in enumerate((round(p * 10) / 10, apparent, q)):
                totals[index] += value
        u_v = [_of(value) for value in truth.u_v if value is not None]
        mean = sum(u_v) / len(u_v) if u_v else 0.0
        if len(u_v) > 1:
            for phase in range(3):
                words[0x06 + 2 * phase : 0x08 + 2 * phase] = _int32(_line_to_line(truth.u_v, phase) * 10)
        for base, raw in (
            (0x24, mean * 10), (0x26, mean * 3**0.5 * 10 if len(u_v) > 1 else 0.0),
            (0x28, totals[0] * 10), (0x2A, totals[1] * 10), (0x2C, totals[2] * 10),
            (0x34, (truth.import_wh if signed else truth.import_wh + truth.export_wh) / 100),
            (0x4E, truth.export_wh / 100 if signed else 0.0),
        ):  # fmt: skip
            words[base : base + 2] = _int32(raw)
        words[0x31] = _int16(_power_factor(totals[0], totals[1]) * 1000)
        words[0x32] = 0
        words[0x33] = round(truth.frequency_hz * 10)


def _of(value: float | None) -> float:
    return 0.0 if value is None else value


def _line_to_line(u_v: Sequence[float | None], phase: int) -> float:
    one, other = u_v[phase], u_v[(phase + 1) % 3]
    return 0.0 if one is None or other is None else (one * one + other * other + one * other) ** 0.5


def _power_factor(active: float, apparent: float) -> float:
    return active / apparent if apparent else 1.0


def _int32(raw: float) -> tuple[int, int]:
    value = round(raw)
    assert -0x8000_0000 <= value < 0x8000_0000, raw
    return value & 0xFFFF, value >> 16 & 0xFFFF


def _int16(raw: float) -> int:
    return round(raw) & 0xFFFF


class Em330Server:
    """A virtual meter on a real Modbus TCP server.

    Faults of the answer itself (silence, one register too few) are made where the frame leaves: an answer that the
    simulated device delays would go out under the number of a newer request.
    """

    def __init__(self, meter: VirtualEm330, host: str, port: int, unit: int) -> None:
        self.host = host
        self.port = port
        self.unit = unit
        self._meter = meter
        device = SimDevice(unit, simdata=[_area(area) for area in _AREAS], action=self._action)
        self._server = ModbusTcpServer([device], address=(host, port), trace_packet=self._packet, trace_pdu=self._pdu)

    @property
    def url(self) -> str:
        """Where to read it."""
        return f"tcp://{self.host}:{self.port}?unit={self.unit}"

    async def open(self) -> None:
        """Listen; afterwards `port` is the real one.

        Raises:
            RuntimeError: somebody else has the port.
        """
        await self._server.serve_forever(background=True)
        self.port = self._server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        await self._server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it untyped

    async def _action(self, *request: Any) -> ExcCodes | None:
        function, start, address, count, registers, _values = request
        answer = self._meter.answer(function, address, count)
        if isinstance(answer, int):
            return ExcCodes(answer)
        registers[address - start : address - start + count] = answer
        return None

    def _pdu(self, sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        if sending and self._meter.fault is MeterFault.SHORT and pdu.registers:
            pdu.registers = pdu.registers[:-1]
        return pdu

    def _packet(self, sending: bool, data: bytes) -> bytes:
        return b"" if sending and self._meter.fault is MeterFault.SILENT else data


def _area(area: range) -> SimData:
    return SimData(area.start, values=[0] * len(area), datatype=DataType.REGISTERS, readonly=True)


class MemoryPort:
    """`RegisterPort` without a socket: the loop's time passes as it would on the bus."""

    def __init__(self, meter: VirtualEm330, answer_s: float, silence_s: float) -> None:
        self._meter = meter
        self._answer_s = answer_s
        self._silence_s = silence_s
        self._open = False

    @property
    def connected(self) -> bool:
        return self._open

    @property
    def meter(self) -> VirtualEm330:
        """At its other end."""
        return self._meter

    async def reopen(self) -> None:
        self._open = True

    async def read(self, address: int, count: int) -> list[int]:
        where = f"virtual meter register {address:04X}h x {count}"
        if not self._open:
            raise ModbusSilence(f"{where}: not connected")
        if self._meter.fault is MeterFault.SILENT:
            await asyncio.sleep(self._silence_s)
            raise ModbusSilence(f"{where}: no answer in {self._silence_s:g} s")
        await asyncio.sleep(self._answer_s)
        answer = self._meter.answer(4, address, count)
        if isinstance(answer, int):
            raise ModbusRefused(answer, where)
        if self._meter.fault is MeterFault.SHORT:
            raise ModbusShort(f"{where}: seen {count - 1} registers, expected {count}")
        return answer

    async def close(self) -> None:
        self._open = False
