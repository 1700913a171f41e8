"""The power analyzer at the connection point: Carlo Gavazzi EM330 and its relatives with the same register map.

A reading is accepted whole or not at all. What cannot be vouched for is an `Invalid` with a kind and one sentence,
never a clipped or a remembered value. The meter must be one that measures export: in its measurement mode A it shows
every power as positive, and export would be invisible, so anything but mode B is refused.

The register map is data and stands in `shared.em330_map`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from shared.clock import Clock
from shared.em330_map import (
    BLOCK_1,
    BLOCK_2,
    INT32_OVERFLOW,
    MODE_BIDIRECTIONAL,
    MODELS,
    REGISTERS,
    SAMPLES,
    SERIAL_BLOCK,
    Model,
    phase_name,
)
from shared.ids import Phase
from shared.messages import Alarm, PerPhase, Reading
from shared.modbus import ModbusError, ModbusRefused, ModbusShort, ModbusSilence, RegisterPort

# ---- what comes out --------------------------------------------------------------------------------------------------


class InvalidKind(Enum):
    """Why there is no reading."""

    SILENT = "silent"
    SHORT = "short"
    REFUSED = "refused"
    IMPLAUSIBLE = "implausible"
    FROZEN = "frozen"
    WRONG_DEVICE = "wrong device"
    EXPORT_NOT_MEASURABLE = "export not measurable"

    @property
    def alarm(self) -> Alarm:
        """The alarm a meter raises while this lasts."""
        return _ALARMS[self]


_ALARMS: Final = {
    InvalidKind.SILENT: Alarm.METER_SILENT,
    InvalidKind.SHORT: Alarm.METER_IMPLAUSIBLE,
    InvalidKind.REFUSED: Alarm.METER_SILENT,
    InvalidKind.IMPLAUSIBLE: Alarm.METER_IMPLAUSIBLE,
    InvalidKind.FROZEN: Alarm.METER_FROZEN,
    InvalidKind.WRONG_DEVICE: Alarm.WRONG_DEVICE,
    InvalidKind.EXPORT_NOT_MEASURABLE: Alarm.EXPORT_NOT_MEASURABLE,
}


@dataclass(frozen=True, slots=True)
class Invalid:
    """No reading, with the kind and one sentence for a person."""

    kind: InvalidKind
    detail: str

    @property
    def alarm(self) -> Alarm:
        """The alarm a meter raises while this lasts."""
        return self.kind.alarm

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}"


class MeasuringSystem(IntEnum):
    """Wiring the meter is set to."""

    THREE_PHASE_NEUTRAL = 0
    THREE_PHASE = 1
    TWO_PHASE = 2
    ONE_PHASE = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """Which meter answers, and how it is set.

    Attributes:
        code: identification code.
        model: name of the model.
        firmware: version letter and revision, e.g. ``B.4``; empty if the meter does not tell.
        serial: serial number; empty if the meter does not tell.
        system: wiring it is set to.
        ct_ratio: current transformer ratio it multiplies with; 1 for a directly connected model.
        vt_ratio: voltage transformer ratio it multiplies with.
    """

    code: int
    model: str
    firmware: str
    serial: str
    system: MeasuringSystem
    ct_ratio: float
    vt_ratio: float


@dataclass(frozen=True, slots=True)
class Em330Settings:
    """What the site says about its meter, and the gates of a reading.

    Attributes:
        nominal_v: nominal phase-to-neutral voltage [V].
        phases: phases that must carry voltage; any other may also be connected, or read exactly 0 V.
        ct_ratio: current transformer ratio installed; a wrong one in the meter has no other sign.
        vt_ratio: voltage transformer ratio installed.
        serial: serial number expected, None to accept any.
        frozen_s: [s] how long every instantaneous register may repeat. A live meter changes a last digit of a voltage,
            a current or a power almost every second; without load only voltages and frequency are left to do so, which
            is why they count. A laboratory source that holds its voltage to better than 0.1 V without load needs more.
        retry_s_max: [s] longest pause between two attempts at a meter that does not answer, at most 60.
    """

    nominal_v: float = 230.0
    phases: tuple[Phase, ...] = (Phase.L1,)
    ct_ratio: float = 1.0
    vt_ratio: float = 1.0
    serial: str | None = None
    frozen_s: float = 10.0
    retry_s_max: float = 10.0

    def __post_init__(self) -> None:
        assert self.nominal_v > 0, self.nominal_v
        assert self.phases, "a meter has at least one phase"
        assert self.ct_ratio > 0, self.ct_ratio
        assert self.vt_ratio > 0, self.vt_ratio
        assert self.frozen_s > 0, self.frozen_s
        assert RETRY_S_MIN <= self.retry_s_max <= RETRY_S_CAP, self.retry_s_max


READ_S_MAX: Final = 2.0
"""[s] From the first request to the last answer: an accepted reading is one the device held within this time."""

RETRY_S_MIN: Final = 1.0
"""[s] First pause after a silence; it doubles from there."""

RETRY_S_CAP: Final = 60.0
"""[s] Nobody may configure a longer pause."""

IDENTITY_AGE_S_MAX: Final = 86_400.0
"""[s] Identity and settings are read again once a day."""

VOLTAGE_MIN_PU: Final = 0.5
VOLTAGE_MAX_PU: Final = 1.5
"""[nominal] A connected phase is inside these, or the reading is no reading."""

FREQUENCY_MIN_DHZ: Final = 450
FREQUENCY_MAX_DHZ: Final = 650
"""[0.1 Hz] Gate of the frequency."""

PF_MAX_RAW: Final = 1000
"""|PF| <= 1 in thousandths."""

SUM_ABSOLUTE_W: Final = 10.0
SUM_RELATIVE: Final = 0.01
"""[W] and share of the phases' magnitudes by which their sum may miss the meter's own total."""


# ---- decoding (hot path: plain integer arithmetic) -------------------------------------------------------------------


def int32(words: Sequence[int], at: int) -> int:
    """Signed two-word value at an index, low word first."""
    value = words[at] | words[at + 1] << 16
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


def int16(word: int) -> int:
    """Signed one-word value."""
    return word - 0x1_0000 if word & 0x8000 else word


@dataclass(frozen=True, slots=True)
class _Offsets:
    """Indices of one phase's values in the joined blocks."""

    phase: Phase
    u: int
    i: int
    p: int
    q: int
    pf: int


_OFFSETS: Final = tuple(
    _Offsets(phase, *(REGISTERS[phase_name(name, phase)].address for name in ("u", "i", "p", "q", "pf")))
    for phase in Phase
)
_P_TOTAL: Final = REGISTERS["p_total"].address
_PF_TOTAL: Final = REGISTERS["pf_total"].address
_FREQUENCY: Final = REGISTERS["frequency"].address
_IMPORT: Final = REGISTERS["import_energy"].address
_EXPORT: Final = REGISTERS["export_energy"].address
_INSTANTANEOUS: Final = slice(0, _FREQUENCY + 1)
_WORDS: Final = BLOCK_1[1] + BLOCK_2[1]
_WH_PER_STEP: Final = 1000 // REGISTERS["import_energy"].divisor


class _ImplausibleError(Exception):
    """One gate of the reading did not hold."""


def decode_reading(words: Sequence[int], settings: Em330Settings) -> Reading | Invalid:
    """The reading in both blocks laid end to end, after every gate that needs no memory.

    Args:
        words: registers 0000h to 0051h.
        settings: the site's expectations.
    """
    assert len(words) == _WORDS, len(words)
    try:
        return _decode(words, settings)
    except _ImplausibleError as error:
        return Invalid(InvalidKind.IMPLAUSIBLE, str(error))


def _decode(words: Sequence[int], settings: Em330Settings) -> Reading:
    u_v: list[float | None] = [None, None, None]
    i_a: list[float | None] = [None, None, None]
    p_w: list[float | None] = [None, None, None]
    q_var: list[float | None] = [None, None, None]
    p_sum = p_magnitude = 0.0
    u_min, u_max = VOLTAGE_MIN_PU * settings.nominal_v, VOLTAGE_MAX_PU * settings.nominal_v
    for at in _OFFSETS:
        phase = at.phase
        u, i, p, q = int32(words, at.u), int32(words, at.i), int32(words, at.p), int32(words, at.q)
        if INT32_OVERFLOW in (u, i, p, q):
            raise _ImplausibleError(f"{phase.name} shows an overflow")
        if abs(int16(words[at.pf])) > PF_MAX_RAW:
            raise _ImplausibleError(f"{phase.name} power factor seen {int16(words[at.pf]) / 1000:g}, expected -1 to 1")
        if u == 0:
            if phase in settings.phases:
                raise _ImplausibleError(f"{phase.name} is connected here but reads 0 V")
            if i or p or q:
                raise _ImplausibleError(f"{phase.name} reads 0 V but {i / 1000:g} A, {p / 10:g} W, {q / 10:g} var")
            continue
        volts, watts = u / 10, p / 10
        if not u_min <= volts <= u_max:
            raise _ImplausibleError(f"{phase.name} voltage seen {volts:g} V, expected {u_min:g} to {u_max:g} V")
        u_v[phase] = volts
        # Some firmware shows currents without a sign: the power of the same phase knows the direction.
        i_a[phase] = -abs(i) / 1000 if p < 0 else abs(i) / 1000
        p_w[phase] = watts
        q_var[phase] = q / 10
        p_sum += watts
        p_magnitude += abs(watts)
    total = int32(words, _P_TOTAL)
    if total == INT32_OVERFLOW or abs(total / 10 - p_sum) > SUM_ABSOLUTE_W + SUM_RELATIVE * p_magnitude:
        raise _ImplausibleError(f"total power seen {total / 10:g} W, expected the phases' sum {p_sum:g} W")
    if abs(int16(words[_PF_TOTAL])) > PF_MAX_RAW:
        raise _ImplausibleError(f"total power factor seen {int16(words[_PF_TOTAL]) / 1000:g}, expected -1 to 1")
    frequency = words[_FREQUENCY]
    if not FREQUENCY_MIN_DHZ <= frequency <= FREQUENCY_MAX_DHZ:
        raise _ImplausibleError(f"frequency seen {frequency / 10:g} Hz, expected 45 to 65 Hz")
    return Reading(
        _triple(u_v), _triple(i_a), _triple(p_w), _triple(q_var), frequency / 10,
        _energy_wh("import", int32(words, _IMPORT)), _energy_wh("export", int32(words, _EXPORT)),
    )  # fmt: skip


def _triple(values: list[float | None]) -> PerPhase:
    return (values[0], values[1], values[2])


def _energy_wh(name: str, raw: int) -> int:
    if raw < 0 or raw == INT32_OVERFLOW:
        raise _ImplausibleError(f"{name} energy seen {raw / 10:g} kWh, expected a counter from 0")
    return raw * _WH_PER_STEP


class ReadingJudge:
    """Turns blocks into readings and remembers what one block alone cannot tell: repetition and falling counters."""

    def __init__(self, settings: Em330Settings) -> None:
        self._settings = settings
        self._words: list[int] | None = None
        self._since_s = 0.0
        self._import_wh = 0
        self._export_wh = 0

    def judge(self, words: Sequence[int], now: float) -> Reading | Invalid:
        """The reading in both blocks laid end to end, or why it is none."""
        instantaneous = list(words[_INSTANTANEOUS])
        if instantaneous != self._words:
            self._words = instantaneous
            self._since_s = now
        result = decode_reading(words, self._settings)
        if isinstance(result, Invalid):
            return result
        if now - self._since_s > self._settings.frozen_s:
            age = now - self._since_s
            return Invalid(InvalidKind.FROZEN, f"every register has repeated for {age:.0f} s")
        return self._counters_rise(result)

    def _counters_rise(self, reading: Reading) -> Reading | Invalid:
        before = (self._import_wh, self._export_wh)
        after = (reading.import_energy_wh, reading.export_energy_wh)
        self._import_wh, self._export_wh = after
        if after[0] < before[0] or after[1] < before[1]:
            return Invalid(
                InvalidKind.IMPLAUSIBLE,
                f"energy fell from {before[0]} Wh import, {before[1]} Wh export to {after[0]}, {after[1]}: "
                "counters reset or another meter; the next reading starts anew",
            )
        return reading


# ---- the reader ------------------------------------------------------------------------------------------------------


class Em330Reader:
    """Reads one meter: identity first, again after every new connection and once a day, then readings.

    It never waits on its own: the caller sleeps at least `next_try_s` between two reads. A reading is as old as the
    moment *before* `read` was called; the caller stamps it so.
    """

    def __init__(self, port: RegisterPort, settings: Em330Settings, clock: Clock) -> None:
        self._port = port
        self._settings = settings
        self._clock = clock
        self._judge = ReadingJudge(settings)
        self._identity: Identity | None = None
        self._identified_s = 0.0
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def identity(self) -> Identity | None:
        """The meter as it last identified itself on the present connection; None before that."""
        return self._identity

    def next_try_s(self, now: float) -> float:
        """Pause [s] from now before the next read makes sense: 0 while the meter answers, then 1 s doubling."""
        return max(0.0, self._retry_at_s - now) if self._failures else 0.0

    async def read(self) -> Reading | Invalid:
        """One reading, or why there is none; opens the connection and checks the identity when that is due."""
        try:
            result = await self._read()
        except ModbusError as error:
            result = await self._failed(error)
        self._note(result)
        return result

    async def identify(self) -> Identity | Invalid:
        """Which meter answers and how it is set, checked against the site; opens the connection if there is none."""
        try:
            result = await self._identify()
        except ModbusError as error:
            result = await self._failed(error)
        self._note(result)
        return result

    async def close(self) -> None:
        """Drop the connection."""
        self._identity = None
        await self._port.close()

    async def _read(self) -> Reading | Invalid:
        identified = self._identity is not None and self._clock.monotonic() - self._identified_s < IDENTITY_AGE_S_MAX
        if not (identified and self._port.connected):
            identity = await self._identify()
            if isinstance(identity, Invalid):
                return identity
        started = self._clock.monotonic()
        words = await self._block(*BLOCK_1)
        words += await self._block(*BLOCK_2)
        now = self._clock.monotonic()
        if now - started > READ_S_MAX:
            raise ModbusSilence(f"answers took {now - started:.1f} s, expected at most {READ_S_MAX:g} s")
        result = self._judge.judge(words, now)
        if isinstance(result, Invalid) and result.kind is InvalidKind.IMPLAUSIBLE:
            # Another meter may have taken the address: it has to say who it is before anything is believed.
            self._identity = None
        return result

    async def _identify(self) -> Identity | Invalid:
        self._identity = None
        if not self._port.connected:
            await self._port.reopen()
        code = (await self._value("identity"))[0]
        model = MODELS.get(code)
        if model is None:
            seen = f"{code} ({SAMPLES[code]}, high word first)" if code in SAMPLES else f"{code}"
            expected = ", ".join(f"{known}" for known in MODELS)
            return Invalid(InvalidKind.WRONG_DEVICE, f"identification code seen {seen}, expected one of {expected}")
        if (mode := (await self._value("mode"))[0]) != MODE_BIDIRECTIONAL:
            return Invalid(
                InvalidKind.EXPORT_NOT_MEASURABLE,
                f"{model.name} measurement mode (register 1103h) seen {mode}, expected {MODE_BIDIRECTIONAL} "
                "(mode B): set it at the meter, in mode A export is counted as import",
            )
        identity = await self._settings_of(code, model)
        fault = check_identity(identity, self._settings) if isinstance(identity, Identity) else identity
        if fault is not None:
            return fault
        assert isinstance(identity, Identity), identity
        self._identity = identity
        self._identified_s = self._clock.monotonic()
        return identity

    async def _settings_of(self, code: int, model: Model) -> Identity | Invalid:
        system = (await self._value("system"))[0]
        if system not in tuple(MeasuringSystem):
            return Invalid(
                InvalidKind.WRONG_DEVICE, f"measuring system (register 1002h) seen {system}, expected 0 to 3"
            )
        ratios = (1.0, 1.0)
        if model.has_transformers:
            ct, vt = REGISTERS["ct_ratio"], REGISTERS["vt_ratio"]
            ratios = (
                int32(await self._value("ct_ratio"), 0) / ct.divisor,
                int32(await self._value("vt_ratio"), 0) / vt.divisor,
            )
        return Identity(
            code, model.name, await self._firmware(), await self._serial(), MeasuringSystem(system), *ratios
        )

    async def _firmware(self) -> str:
        try:
            version, revision = (await self._value("firmware"))[0], (await self._value("revision"))[0]
        except ModbusRefused:
            return ""
        return f"{chr(ord('A') + version)}.{revision}" if version < 26 else f"{version}.{revision}"

    async def _serial(self) -> str:
        try:
            return serial_text(await self._block(*SERIAL_BLOCK))
        except ModbusRefused:
            return ""

    async def _value(self, name: str) -> list[int]:
        register = REGISTERS[name]
        return await self._block(register.address, register.count)

    async def _block(self, address: int, count: int) -> list[int]:
        words = await self._port.read(address, count)
        if len(words) != count:
            raise ModbusShort(f"register {address:04X}h: seen {len(words)} registers, expected {count}")
        return words

    async def _failed(self, error: ModbusError) -> Invalid:
        if isinstance(error, ModbusRefused):
            return Invalid(InvalidKind.REFUSED, str(error))
        # Whatever the meter still sends belongs to a question we have given up: it must find nobody listening.
        self._identity = None
        await self._port.close()
        return Invalid(InvalidKind.SHORT if isinstance(error, ModbusShort) else InvalidKind.SILENT, str(error))

    def _note(self, result: Reading | Identity | Invalid) -> None:
        if not isinstance(result, Invalid) or result.kind in {InvalidKind.IMPLAUSIBLE, InvalidKind.FROZEN}:
            self._failures = 0
            return
        pause = min(self._settings.retry_s_max, RETRY_S_MIN * 2.0 ** min(self._failures, 6))
        self._failures += 1
        self._retry_at_s = self._clock.monotonic() + pause


RATIO_TOLERANCE: Final = 0.05
"""Ratios are kept in tenths; half a step apart is equal."""


def check_identity(identity: Identity, settings: Em330Settings) -> Invalid | None:
    """What about a meter contradicts the site, or None."""
    expectations = [
        ("current transformer ratio", identity.ct_ratio, settings.ct_ratio),
        ("voltage transformer ratio", identity.vt_ratio, settings.vt_ratio),
    ]
    for what, seen, expected in expectations:
        if abs(seen - expected) > RATIO_TOLERANCE:
            return Invalid(InvalidKind.WRONG_DEVICE, f"{what} seen {seen:g}, expected {expected:g}")
    if identity.system is MeasuringSystem.THREE_PHASE:
        return Invalid(InvalidKind.WRONG_DEVICE, "measuring system seen 3 phases without neutral, expected a neutral")
    if settings.serial is not None and identity.serial != settings.serial:
        return Invalid(
            InvalidKind.WRONG_DEVICE, f"serial number seen {identity.serial!r}, expected {settings.serial!r}"
        )
    return None


def serial_text(words: Sequence[int]) -> str:
    """Serial number in its seven registers; empty when they hold none.

    Some meters put one character into the low byte of a register, others two. A single character is what a failed
    read inside the meter looks like, and counts as none.
    """
    data = b"".join(word.to_bytes(2, "big") for word in words).replace(b"\0", b"")
    text = "".join(chr(byte) for byte in data if 0x20 < byte < 0x7F)
    return text if len(text) > 1 else ""
