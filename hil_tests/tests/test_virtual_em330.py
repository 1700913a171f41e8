"""The virtual analyzer read by the product, through both of its doors; each ill manner gives its own refusal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio
from pymodbus.client import AsyncModbusTcpClient

from hil_tests.virtual.em330 import MODE_A, MODE_B, Em330Server, Measured, MeterFault, Nameplate, VirtualEm330
from hil_tests.virtual.loop import run_virtual
from shared.clock import LoopClock
from shared.em330 import Em330Reader, Em330Settings, Identity, Invalid, InvalidKind
from shared.ids import Phase
from shared.messages import Reading
from shared.modbus import ModbusAddress, ModbusRefused, PymodbusPort, RegisterPort

SETTINGS = Em330Settings(nominal_v=240.0)
EXPORT = Measured(
    u_v=(240.3, None, None), i_a=(5.0, None, None), p_w=(-1201.5, None, None), q_var=(12.3, None, None),
    import_wh=1234.0, export_wh=98_765.0,
)  # fmt: skip


@dataclass
class Bench:
    """A virtual meter and the product's reader before one of its doors."""

    meter: VirtualEm330
    reader: Em330Reader
    port: RegisterPort

    async def kind(self) -> InvalidKind:
        result = await self.reader.read()
        assert isinstance(result, Invalid), result
        return result.kind

    async def reading(self) -> Reading:
        result = await self.reader.read()
        assert isinstance(result, Reading), result
        return result


@pytest_asyncio.fixture(params=["memory", "tcp"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Both doors must behave alike."""
    meter = VirtualEm330(jitter=random.Random(1))
    meter.set_reading(EXPORT)
    server: Em330Server | None = None
    port: RegisterPort
    if request.param == "tcp":
        server = await meter.serve()
        port = PymodbusPort(ModbusAddress.parse(server.url), timeout_s=0.1, retries=0)
    else:
        port = meter.port(answer_s=0.0, timeout_s=0.0, retries=0)
    yield Bench(meter, Em330Reader(port, SETTINGS, LoopClock()), port)
    await port.close()
    if server is not None:
        await server.close()


async def test_what_is_set_in_engineering_units_is_what_is_read(bench: Bench) -> None:
    """Import positive, the last digit of the voltage alive, energies in their steps of 0.1 kWh."""
    reading = await bench.reading()
    assert reading.u_v[0] == pytest.approx(240.3, abs=0.1001)
    assert reading.u_v[1:] == (None, None)
    assert reading.i_a[0] == -5.0
    assert reading.p_w[0] == -1201.5
    assert reading.q_var[0] == 12.3
    assert reading.frequency_hz == 50.0
    assert (reading.import_energy_wh, reading.export_energy_wh) == (1200, 98_800)


async def test_three_phases_arrive_in_their_places(bench: Bench) -> None:
    """Different values everywhere."""
    bench.meter.set_reading(
        Measured(
            u_v=(230.0, 235.0, 240.0), i_a=(1.0, 2.0, 3.0), p_w=(230.0, -470.0, 0.0), q_var=(1.0, -2.0, 3.0),
            frequency_hz=49.9,
        )
    )  # fmt: skip
    reading = await bench.reading()
    assert reading.u_v == pytest.approx((230.0, 235.0, 240.0), abs=0.1001)
    assert reading.i_a == (1.0, -2.0, 3.0)
    assert reading.p_w == (230.0, -470.0, 0.0)
    assert reading.q_var == (1.0, -2.0, 3.0)
    assert reading.frequency_hz == 49.9


async def test_the_nameplate_is_the_identity(bench: Bench) -> None:
    """Code 000Bh alone is the identification; inside the block it is part of a voltage."""
    identity = await bench.reader.identify()
    assert isinstance(identity, Identity)
    assert (identity.code, identity.firmware, identity.serial) == (332, "B.4", "KX0000000001Z")
    assert (await bench.port.read(0x000A, 2))[1] == 0
    assert await bench.port.read(0x000B, 1) == [332]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (MeterFault.SILENT, InvalidKind.SILENT),
        (MeterFault.SHORT, InvalidKind.SHORT),
        (MeterFault.EXCEPTION, InvalidKind.REFUSED),
        (MeterFault.SWAPPED, InvalidKind.IMPLAUSIBLE),
        (MeterFault.OVERFLOW, InvalidKind.IMPLAUSIBLE),
        (MeterFault.GARBAGE_RATIOS, InvalidKind.IMPLAUSIBLE),
    ],
)
async def test_each_fault_has_its_refusal_and_passes(bench: Bench, fault: MeterFault, kind: InvalidKind) -> None:
    """No reading while it lasts, however often one asks; a reading when it is over."""
    await bench.reading()
    bench.meter.fault = fault
    assert [await bench.kind() for _ in range(3)] == [kind] * 3
    bench.meter.fault = MeterFault.NONE
    await bench.reading()


async def test_a_fault_at_the_first_contact_is_a_refusal_too(bench: Bench) -> None:
    """Before anything is known about the meter."""
    bench.meter.fault = MeterFault.SILENT
    assert await bench.kind() is InvalidKind.SILENT
    bench.meter.fault = MeterFault.NONE
    await bench.reading()


async def test_mode_a_hides_export_and_is_refused(bench: Bench) -> None:
    """The registers then show import only; the product must not even look."""
    bench.meter.set_mode(MODE_A)
    assert await bench.kind() is InvalidKind.EXPORT_NOT_MEASURABLE
    words = await bench.port.read(0x0012, 2)
    assert words[0] | words[1] << 16 == 12015
    bench.meter.set_mode(MODE_B)
    await bench.reading()


@pytest.mark.parametrize(
    "plate", [Nameplate(code=330), Nameplate(code=72), Nameplate(ct_ratio=40.0), Nameplate(system=1)]
)
async def test_another_meter_than_expected_is_refused(bench: Bench, plate: Nameplate) -> None:
    """Sample, other family, other transformer, other wiring."""
    bench.meter.nameplate = plate
    assert await bench.kind() is InvalidKind.WRONG_DEVICE


async def test_a_lost_phase_is_refused(bench: Bench) -> None:
    """The site says L1 is connected."""
    bench.meter.set_reading(replace(EXPORT, u_v=(None, 240.0, None)))
    assert await bench.kind() is InvalidKind.IMPLAUSIBLE


async def test_the_meter_answers_both_reading_functions_and_refuses_writing() -> None:
    """Functions 03 and 04 alike; a write gets an exception and changes nothing."""
    meter = VirtualEm330()
    meter.set_reading(EXPORT)
    server = await meter.serve()
    client = AsyncModbusTcpClient(server.host, port=server.port, timeout=1.0, retries=0, reconnect_delay=0)
    assert await client.connect()
    assert (await client.read_holding_registers(0, count=2)).registers == [2403, 0]
    assert (await client.read_input_registers(0, count=2)).registers == [2403, 0]
    assert (await client.write_register(0x1103, 0)).isError()
    assert (await client.write_register(0x4001, 1)).isError()
    assert meter.nameplate.mode == MODE_B
    client.close()
    await server.close()


@pytest.mark.parametrize(("address", "count"), [(0x005B, 2), (0x0060, 2), (0x0304, 1), (0x1007, 1), (0x5001, 7)])
async def test_a_request_that_leaves_the_map_is_refused_as_a_whole(bench: Bench, address: int, count: int) -> None:
    """Exception 02, and not half an answer."""
    await bench.port.reopen()
    with pytest.raises(ModbusRefused) as caught:
        await bench.port.read(address, count)
    assert caught.value.code == 2


async def test_a_virtual_meter_serves_on_loopback_only() -> None:
    """Nobody outside this machine can mistake it for a meter."""
    with pytest.raises(AssertionError, match="loopback only"):
        await VirtualEm330().serve("0.0.0.0")


def test_jitter_never_repeats_and_never_strays() -> None:
    """A live meter for a virtual hour: another last digit each second, never more than one digit away."""

    async def hour() -> None:
        meter = VirtualEm330(jitter=random.Random(7))
        meter.set_reading(EXPORT)
        reader = Em330Reader(meter.port(), SETTINGS, LoopClock())
        before = 0.0
        for _ in range(3600):
            result = await reader.read()
            assert isinstance(result, Reading), result
            voltage = result.u_v[0]
            assert voltage is not None
            assert voltage != before
            assert abs(voltage - 240.3) < 0.11
            before = voltage
            await asyncio.sleep(0.92)

    run_virtual(hour)


@pytest.mark.parametrize("how", ["frozen", "no jitter"])
def test_a_frozen_meter_is_refused_after_its_time(how: str) -> None:
    """The world moves on, the registers do not."""

    async def story() -> list[Reading | Invalid]:
        meter = VirtualEm330(jitter=None if how == "no jitter" else random.Random(7))
        meter.set_reading(EXPORT)
        reader = Em330Reader(meter.port(answer_s=0.0), SETTINGS, LoopClock())
        await reader.read()
        if how == "frozen":
            meter.fault = MeterFault.FROZEN
            meter.set_reading(replace(EXPORT, u_v=(260.0, None, None)))
        results = []
        for _ in range(15):
            results.append(await reader.read())
            await asyncio.sleep(1.0)
        return results

    results = run_virtual(story)
    kinds = [result.kind if isinstance(result, Invalid) else None for result in results]
    assert kinds == [None] * 11 + [InvalidKind.FROZEN] * 4


def test_the_world_is_asked_just_before_the_meter_shows_it() -> None:
    """Once per set of blocks, so that a world needs no timer to keep its meters up to date."""

    async def story() -> tuple[int, Reading | Invalid]:
        calls = 0

        def refresh(meter: VirtualEm330) -> None:
            nonlocal calls
            calls += 1
            meter.set_reading(replace(EXPORT, u_v=(240.0 + calls, None, None)))

        reader = Em330Reader(VirtualEm330(refresh=refresh).port(), SETTINGS, LoopClock())
        await reader.read()
        return calls, await reader.read()

    calls, reading = run_virtual(story)
    assert calls == 1
    assert isinstance(reading, Reading)
    assert reading.u_v[0] == 242.0


def test_silence_takes_its_time_in_a_virtual_world() -> None:
    """Timeout times attempts, on the loop's clock."""

    async def story() -> float:
        meter = VirtualEm330()
        meter.fault = MeterFault.SILENT
        reader = Em330Reader(meter.port(), SETTINGS, LoopClock())
        await reader.read()
        return asyncio.get_running_loop().time()

    assert run_virtual(story) == 3.0


def test_all_three_phases_may_be_demanded() -> None:
    """A three-phase site with a single-phase meter is refused."""

    async def story() -> Reading | Invalid:
        meter = VirtualEm330()
        meter.set_reading(EXPORT)
        settings = Em330Settings(nominal_v=240.0, phases=tuple(Phase))
        return await Em330Reader(meter.port(), settings, LoopClock()).read()

    result = run_virtual(story)
    assert isinstance(result, Invalid)
    assert "L2" in result.detail
