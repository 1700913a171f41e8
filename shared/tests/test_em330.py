"""The analyzer's registers as readings: every gate, the memory behind them, and the reader over a scripted port."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import Timer
from shared.em330 import (
    IDENTITY_AGE_S_MAX,
    READ_S_MAX,
    Em330Reader,
    Em330Settings,
    Identity,
    Invalid,
    InvalidKind,
    MeasuringSystem,
    ReadingJudge,
    decode_reading,
    int16,
    int32,
    serial_text,
)
from shared.em330_map import BLOCK_1, BLOCK_2, MODELS, REGISTERS
from shared.ids import Phase
from shared.messages import Alarm, Reading
from shared.modbus import ModbusRefused, ModbusShort, ModbusSilence

SETTINGS = Em330Settings(nominal_v=240.0)
WORDS = BLOCK_1[1] + BLOCK_2[1]


def put(words: list[int], name: str, raw: int) -> None:
    """Write a raw value where the map has it."""
    register = REGISTERS[name]
    words[register.address] = raw & 0xFFFF
    if register.count == 2:
        words[register.address + 1] = raw >> 16 & 0xFFFF


def good(**raw: int) -> list[int]:
    """Both blocks of a single-phase customer at 240.1 V exporting 5 A; keywords overwrite raw values."""
    words = [0] * WORDS
    values = {
        "u_l1": 2401, "i_l1": 5000, "p_l1": -12005, "q_l1": 100, "p_total": -12005, "pf_l1": -999, "pf_l2": 1000,
        "pf_l3": 1000, "pf_total": -999, "frequency": 500, "import_energy": 12, "export_energy": 345,
    }  # fmt: skip
    for name, value in {**values, **raw}.items():
        put(words, name, value)
    return words


def invalid(words: list[int], settings: Em330Settings = SETTINGS) -> str:
    """The detail of an implausible reading."""
    result = decode_reading(words, settings)
    assert isinstance(result, Invalid), result
    assert result.kind is InvalidKind.IMPLAUSIBLE
    return result.detail


def test_a_reading_is_import_positive_and_in_si() -> None:
    """Export: power and current negative; energies in Wh; phases without voltage are absent."""
    assert decode_reading(good(), SETTINGS) == Reading(
        u_v=(240.1, None, None),
        i_a=(-5.0, None, None),
        p_w=(-1200.5, None, None),
        q_var=(10.0, None, None),
        frequency_hz=50.0,
        import_energy_wh=1200,
        export_energy_wh=34500,
    )


@pytest.mark.parametrize("raw_current", [5000, -5000])
@pytest.mark.parametrize(("raw_power", "expected_a"), [(-12005, -5.0), (12005, 5.0)])
def test_the_sign_of_a_current_is_that_of_its_power(raw_current: int, raw_power: int, expected_a: float) -> None:
    """Whatever sign the meter gives it: some firmware gives none."""
    result = decode_reading(good(i_l1=raw_current, p_l1=raw_power, p_total=raw_power), SETTINGS)
    assert isinstance(result, Reading)
    assert result.i_a[0] == expected_a


GATES = [
    ({"u_l1": 1199}, "L1 voltage"),
    ({"u_l1": 3601}, "L1 voltage"),
    ({"u_l1": -2401}, "L1 voltage"),
    ({"u_l1": 0, "i_l1": 0, "p_l1": 0, "q_l1": 0, "p_total": 0}, "connected here but reads 0 V"),
    ({"u_l2": 1}, "L2 voltage"),
    ({"i_l2": 1}, "L2 reads 0 V but"),
    ({"p_l3": 1}, "L3 reads 0 V but"),
    ({"p_total": -12005 + 221}, "total power"),
    ({"p_total": 12005}, "total power"),
    ({"p_total": 0x7FFFFFFF}, "total power"),
    ({"frequency": 449}, "frequency"),
    ({"frequency": 651}, "frequency"),
    ({"frequency": 0}, "frequency"),
    ({"frequency": 0xFFFF}, "frequency"),
    ({"pf_l1": 1001}, "L1 power factor"),
    ({"pf_l1": -1001}, "L1 power factor"),
    ({"pf_l2": 0x7FFF}, "L2 power factor"),
    ({"pf_total": 0x7FFF}, "total power factor"),
    ({"u_l1": 0x7FFFFFFF}, "L1 shows an overflow"),
    ({"i_l1": 0x7FFFFFFF}, "L1 shows an overflow"),
    ({"p_l1": 0x7FFFFFFF}, "L1 shows an overflow"),
    ({"q_l3": 0x7FFFFFFF}, "L3 shows an overflow"),
    ({"import_energy": -1}, "import energy"),
    ({"export_energy": 0x7FFFFFFF}, "export energy"),
]


@pytest.mark.parametrize(("raw", "detail"), GATES)
def test_one_wrong_value_refuses_the_whole_reading(raw: dict[str, int], detail: str) -> None:
    """Just outside each gate: nothing is clipped, nothing is left out."""
    assert detail in invalid(good(**raw))


@pytest.mark.parametrize(
    "raw",
    [
        {"u_l1": 1200},
        {"u_l1": 3600},
        {"frequency": 450},
        {"frequency": 650},
        {"pf_l1": 1000},
        {"p_total": -12005 + 220},
    ],
)
def test_the_edge_of_a_gate_is_inside(raw: dict[str, int]) -> None:
    """Just inside each gate."""
    assert isinstance(decode_reading(good(**raw), SETTINGS), Reading)


def test_swapped_words_are_never_a_reading() -> None:
    """High word first makes 240 V into fifteen million."""
    words = good()
    swapped = [words[index ^ 1] for index in range(46)] + words[46:]
    assert "L1 voltage" in invalid(swapped)


@given(st.lists(st.integers(0, 0xFFFF), min_size=WORDS, max_size=WORDS))
def test_random_registers_give_a_reading_within_the_gates_or_none(words: list[int]) -> None:
    """Whatever the registers hold, nothing raises, and what passes is inside every gate."""
    result = decode_reading(words, SETTINGS)
    if isinstance(result, Reading):
        assert all(120 <= u <= 360 for u in result.u_v if u is not None)


@given(st.integers(-(2**31), 2**31 - 1))
def test_two_words_hold_a_signed_value_low_word_first(value: int) -> None:
    """Over the whole range."""
    assert int32([value & 0xFFFF, value >> 16 & 0xFFFF], 0) == value


@given(st.integers(-(2**15), 2**15 - 1))
def test_one_word_holds_a_signed_value(value: int) -> None:
    """Over the whole range."""
    assert int16(value & 0xFFFF) == value


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_meter_that_repeats_itself_is_frozen_after_its_time() -> None:
    """Exactly 10 s is still a quiet grid; longer is not; one digit anywhere thaws it."""
    judge = ReadingJudge(SETTINGS)
    assert all(isinstance(judge.judge(good(), float(second)), Reading) for second in range(11))
    result = judge.judge(good(), 10.1)
    assert isinstance(result, Invalid)
    assert result.kind is InvalidKind.FROZEN
    assert result.alarm is Alarm.METER_FROZEN
    assert isinstance(judge.judge(good(u_l1=2402), 11.0), Reading)


def test_without_load_a_voltage_digit_or_a_frequency_digit_keeps_a_meter_alive() -> None:
    """Currents and powers all zero for a minute, and only the grid moves."""
    judge = ReadingJudge(SETTINGS)
    idle = {"i_l1": 0, "p_l1": 0, "q_l1": 0, "p_total": 0, "pf_l1": 1000, "pf_total": 1000}
    for second in range(60):
        words = good(**idle, frequency=500 + second % 2)
        assert isinstance(judge.judge(words, float(second)), Reading)


def test_counting_energy_does_not_make_frozen_values_fresh() -> None:
    """The counters run, the instantaneous values stand: frozen."""
    judge = ReadingJudge(SETTINGS)
    results = [judge.judge(good(export_energy=345 + second), float(second)) for second in range(13)]
    assert isinstance(results[10], Reading)
    assert isinstance(results[11], Invalid)


@pytest.mark.parametrize("counter", ["import_energy", "export_energy"])
def test_a_counter_that_falls_is_refused_once_and_then_believed(counter: str) -> None:
    """A reset, or another meter: one event, then a new start."""
    judge = ReadingJudge(SETTINGS)
    assert isinstance(judge.judge(good(), 0.0), Reading)
    fallen = judge.judge(good(**{counter: 3}), 1.0)
    assert isinstance(fallen, Invalid)
    assert "counters reset or another meter" in fallen.detail
    assert isinstance(judge.judge(good(**{counter: 3}), 2.0), Reading)


# ---- identity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([0x4B58, 0x3030, 0x3132, 0, 0, 0, 0], "KX0012"),
        ([0x004B, 0x0058, 0x0031, 0, 0, 0, 0], "KX1"),
        ([0x004B, 0, 0, 0, 0, 0, 0], ""),
        ([0] * 7, ""),
        ([0xFFFF] * 7, ""),
    ],
)
def test_a_serial_number_comes_in_either_packing(words: list[int], text: str) -> None:
    """Two characters per word or one in the low byte; a single character is a failed read."""
    assert serial_text(words) == text


@dataclass
class ManualClock:
    """A clock that stands still until told."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def utc_s(self) -> float:
        return 0.0

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        raise AssertionError("the reader arms no timers")


@dataclass
class ScriptedPort:
    """Registers from a table; one error to raise, one delay to add, and a memory of what was asked."""

    clock: ManualClock
    bank: dict[int, int] = field(default_factory=dict)
    error: Exception | None = None
    no_connection: bool = False
    answer_s: float = 0.0
    short: bool = False
    connected: bool = False
    asked: list[tuple[int, int]] = field(default_factory=list)
    opened: int = 0
    missing: set[int] = field(default_factory=set)

    async def reopen(self) -> None:
        if self.no_connection:
            raise ModbusSilence("no connection")
        self.opened += 1
        self.connected = True

    async def close(self) -> None:
        self.connected = False

    async def read(self, address: int, count: int) -> list[int]:
        assert self.connected
        self.asked.append((address, count))
        self.clock.now += self.answer_s
        if self.error is not None:
            raise self.error
        if address in self.missing:
            raise ModbusRefused(2, f"{address:04X}h")
        if address == 0x000B:
            return [self.bank[-1]]
        return [self.bank.get(at, 0) for at in range(address, address + count - self.short)]


@dataclass
class Bench:
    """A reader, its port and its clock."""

    settings: Em330Settings = SETTINGS
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.port = ScriptedPort(self.clock)
        self.port.bank = dict(enumerate(good()))
        self.port.bank |= {-1: 332, 0x0302: 1, 0x0303: 4, 0x1003: 10, 0x1005: 10, 0x1103: 1, 0x5000: 0x4B58}
        self.reader = Em330Reader(self.port, self.settings, self.clock)

    async def kind(self) -> InvalidKind:
        result = await self.reader.read()
        assert isinstance(result, Invalid), result
        return result.kind


async def test_the_first_reading_comes_after_the_identity() -> None:
    """Connection, identification code alone, settings, then the two blocks and nothing else."""
    bench = Bench()
    assert isinstance(await bench.reader.read(), Reading)
    assert bench.port.asked[0] == (0x000B, 1)
    assert bench.port.asked[-2:] == [BLOCK_1, BLOCK_2]
    assert bench.reader.identity == Identity(
        332, MODELS[332].name, "B.4", "KX", MeasuringSystem.THREE_PHASE_NEUTRAL, 1.0, 1.0
    )
    bench.port.asked.clear()
    assert isinstance(await bench.reader.read(), Reading)
    assert bench.port.asked == [BLOCK_1, BLOCK_2]


async def test_the_identity_is_read_again_once_a_day_and_after_every_loss_of_connection() -> None:
    """Somebody may have changed meter or mode meanwhile."""
    bench = Bench()
    await bench.reader.read()
    bench.clock.now += IDENTITY_AGE_S_MAX
    bench.port.bank[0x1103] = 0
    assert await bench.kind() is InvalidKind.EXPORT_NOT_MEASURABLE
    bench.port.bank |= {0x1103: 1, 0x0000: 2402}
    assert isinstance(await bench.reader.read(), Reading)
    bench.port.connected = False
    bench.port.bank[-1] = 71
    assert await bench.kind() is InvalidKind.WRONG_DEVICE
    assert bench.port.opened == 2


@pytest.mark.parametrize("code", sorted(MODELS))
async def test_models_with_the_same_map_are_accepted(code: int) -> None:
    """By their identification code."""
    bench = Bench()
    bench.port.bank[-1] = code
    assert isinstance(await bench.reader.identify(), Identity)


@pytest.mark.parametrize("code", [0, 71, 330, 338, 340, 348, 1744, 65535])
async def test_any_other_model_is_refused(code: int) -> None:
    """Samples with the other word order, the EM24 family, and what nobody knows; and no value is ever read."""
    bench = Bench()
    bench.port.bank[-1] = code
    result = await bench.reader.identify()
    assert isinstance(result, Invalid)
    assert result.alarm is Alarm.WRONG_DEVICE
    assert f"{code}" in result.detail
    assert await bench.kind() is InvalidKind.WRONG_DEVICE
    assert BLOCK_1 not in bench.port.asked


@pytest.mark.parametrize("mode", [0, 2, 65535])
async def test_a_meter_that_cannot_see_export_is_refused(mode: int) -> None:
    """Mode A shows every power as positive."""
    bench = Bench()
    bench.port.bank[0x1103] = mode
    result = await bench.reader.read()
    assert isinstance(result, Invalid)
    assert result.alarm is Alarm.EXPORT_NOT_MEASURABLE
    assert BLOCK_1 not in bench.port.asked


@pytest.mark.parametrize(
    ("register", "value", "detail"),
    [
        (0x1003, 400, "current transformer ratio seen 40, expected 1"),
        (0x1005, 20, "voltage transformer ratio seen 2, expected 1"),
        (0x1002, 1, "without neutral"),
        (0x1002, 9, "measuring system"),
    ],
)
async def test_settings_that_contradict_the_site_are_refused(register: int, value: int, detail: str) -> None:
    """A wrong ratio scales everything and shows in nothing else."""
    bench = Bench()
    bench.port.bank[register] = value
    result = await bench.reader.read()
    assert isinstance(result, Invalid)
    assert result.kind is InvalidKind.WRONG_DEVICE
    assert detail in result.detail


async def test_a_serial_number_that_is_expected_must_be_the_one() -> None:
    """And is only compared where the site names one."""
    bench = Bench(Em330Settings(nominal_v=240.0, serial="KX0000000001Z"))
    assert await bench.kind() is InvalidKind.WRONG_DEVICE


async def test_firmware_and_serial_may_be_missing() -> None:
    """They inform; they decide nothing."""
    bench = Bench()
    bench.port.missing = {0x0302, 0x5000}
    identity = await bench.reader.identify()
    assert isinstance(identity, Identity)
    assert (identity.firmware, identity.serial) == ("", "")


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "connected"),
    [
        (ModbusSilence("silence"), InvalidKind.SILENT, False),
        (ModbusShort("short"), InvalidKind.SHORT, False),
        (ModbusRefused(4, "device"), InvalidKind.REFUSED, True),
    ],
)
async def test_after_a_silence_the_connection_is_closed(error: Exception, kind: InvalidKind, connected: bool) -> None:
    """A refusal is an answer and keeps it; then a good line gives a reading again."""
    bench = Bench()
    await bench.reader.read()
    bench.port.error = error
    assert await bench.kind() is kind
    assert bench.port.connected is connected
    bench.port.error = None
    assert isinstance(await bench.reader.read(), Reading)


async def test_no_connection_is_silence_and_the_pause_doubles() -> None:
    """One second, two, four, up to the configured longest; and none once the meter answers."""
    bench = Bench()
    bench.port.no_connection = True
    pauses = []
    for _ in range(6):
        assert await bench.kind() is InvalidKind.SILENT
        pauses.append(bench.reader.next_try_s(bench.clock.now))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert bench.reader.next_try_s(bench.clock.now + 3.0) == 7.0
    bench.port.no_connection = False
    await bench.reader.read()
    assert bench.reader.next_try_s(bench.clock.now) == 0.0


async def test_answers_that_take_too_long_are_no_reading() -> None:
    """What the device held more than two seconds ago is not the present."""
    bench = Bench()
    await bench.reader.read()
    bench.port.answer_s = READ_S_MAX / 2 + 0.01
    assert await bench.kind() is InvalidKind.SILENT
    assert not bench.port.connected


async def test_a_port_that_gives_too_few_registers_is_caught_here_too() -> None:
    """Whatever door it is read through."""
    bench = Bench()
    await bench.reader.read()
    bench.port.short = True
    assert await bench.kind() is InvalidKind.SHORT


async def test_after_an_implausible_reading_the_meter_must_identify_itself() -> None:
    """Another meter may have taken its address."""
    bench = Bench()
    await bench.reader.read()
    bench.port.bank[0x33] = 0
    assert await bench.kind() is InvalidKind.IMPLAUSIBLE
    assert bench.reader.next_try_s(bench.clock.now) == 0.0
    bench.port.bank[0x33] = 500
    bench.port.bank[0x1103] = 0
    assert await bench.kind() is InvalidKind.EXPORT_NOT_MEASURABLE


async def test_closing_forgets_the_identity() -> None:
    """The next reading begins with it."""
    bench = Bench()
    await bench.reader.read()
    await bench.reader.close()
    assert bench.reader.identity is None
    assert not bench.port.connected


def test_every_kind_has_its_alarm() -> None:
    """And says itself in one line."""
    assert all(kind.alarm is not Alarm.NONE for kind in InvalidKind)
    assert str(Invalid(InvalidKind.FROZEN, "for 11 s")) == "frozen: for 11 s"


def test_three_phases_are_three_phases() -> None:
    """Each phase decodes from its own registers."""
    words = good(u_l2=2390, p_l2=100, i_l2=42, u_l3=2380, p_total=-11905, pf_l2=1000)
    result = decode_reading(words, Em330Settings(nominal_v=240.0, phases=tuple(Phase)))
    assert isinstance(result, Reading)
    assert result.u_v == (240.1, 239.0, 238.0)
    assert result.p_w == (-1200.5, 10.0, 0.0)
    assert result.i_a == (-5.0, 0.042, 0.0)
