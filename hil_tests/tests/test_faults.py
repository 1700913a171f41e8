"""Faults of devices and line on the whole street, in virtual time: unknown is no, and silence ends what was granted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from hil_tests.jump import JumpStreet
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import Ask, Expectation, Scenario, load_scenario
from hil_tests.verdict import judge
from hil_tests.virtual.em330 import MeterFault
from hil_tests.virtual.gpio import RelayFault
from hil_tests.virtual.line import LineSettings
from hil_tests.virtual.loop import run_virtual
from shared.messages import Denial, Grant, Reason

Break = Callable[[JumpStreet], None]


def play_with(
    tmp_path: Path,
    at_s: float,
    break_it: Break,
    duration_s: float = 30.0,
    line: LineSettings | None = None,
    ask_s: float = 5.0,
) -> tuple[Scenario, Observation]:
    """Scenario I, with something broken at a moment of it; what holds on every street is checked."""
    base = load_scenario("granted")
    expect = [Expectation(what="export", client="client2", at_s=duration_s, current_a=5.0)]
    ask = Ask(do="ask", at_s=ask_s, client="client1", limit_w=base.site.contract_limit_w)
    scenario = base.model_copy(update={"duration_s": duration_s, "expect": expect, "action": [ask]})

    async def main() -> Observation:
        loop = asyncio.get_running_loop()
        ear = Ear(loop)
        street = JumpStreet(scenario, ear, tmp_path, 1, line)

        def arm(seen: Observation) -> None:
            if len(seen.samples) == round(10 * at_s) + 1:
                break_it(street)

        return await play(scenario, street, ear, arm)

    seen = run_virtual(main)
    assert [verdict for verdict in judge(scenario, seen) if not verdict.passed] == []
    return scenario, seen


def messages(seen: Observation, kind: type) -> list[object]:
    return [frame.message for frame in seen.frames if frame.client == "client1" and isinstance(frame.message, kind)]


FAULTS = [fault for fault in MeterFault if fault is not MeterFault.NONE]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_neighbour_whose_meter_fails_means_no(fault: MeterFault, tmp_path: Path) -> None:
    """Silence, short answers, exceptions, swapped words, overflow, frozen registers: unknown, and the request is
    denied.

    The question comes 16 s later: frozen registers take ten to be noticed, and the last good reading is fresh for nine.
    """

    def break_it(street: JumpStreet) -> None:
        street.world.meters["client2"].fault = fault

    _, seen = play_with(tmp_path, 0.0, break_it, ask_s=16.0)
    assert messages(seen, Grant) == []
    (denial,) = messages(seen, Denial)
    assert isinstance(denial, Denial)
    assert (denial.reason, denial.binding) == (Reason.READING_INVALID, "client2")


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name != "FROZEN"], ids=lambda fault: fault.name)
def test_a_meter_that_loses_its_own_reading_goes_back_by_itself(fault: MeterFault, tmp_path: Path) -> None:
    """Raised and without a valid reading: nominal within seconds, without any message."""

    def break_it(street: JumpStreet) -> None:
        street.world.meters["client1"].fault = fault

    _, seen = play_with(tmp_path, 12.0, break_it)
    falls = [move.t_s for move in seen.relay_moves if move.client == "client1" and not move.raised]
    assert 12.0 <= falls[0] <= 18.0
    assert seen.status["client1"]["source"] == "LOCAL_FAULT"


def test_an_unknown_busbar_means_no(tmp_path: Path) -> None:
    """The balancing meter is silent: denied, and the reason says where."""

    def break_it(street: JumpStreet) -> None:
        street.world.meters["substation"].fault = MeterFault.SILENT

    _, seen = play_with(tmp_path, 0.0, break_it)
    (denial,) = messages(seen, Denial)
    assert isinstance(denial, Denial)
    assert (denial.reason, denial.binding) == (Reason.SUBSTATION_UNKNOWN, "substation")


def test_a_relay_that_sticks_is_an_alarm(tmp_path: Path) -> None:
    """The contact does not follow the coil: latched alarm, nominal, and nothing is raised any more."""

    def break_it(street: JumpStreet) -> None:
        street.world.relays["client1"].fault = next(fault for fault in RelayFault if "OPEN" in fault.name)

    _, seen = play_with(tmp_path, 0.0, break_it)
    assert "RELAY_DISAGREES" in seen.status["client1"]["alarms"]
    assert seen.status["client1"]["limit_w"] == 1200.0


def test_a_silent_meter_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a minute of silence is one line when it falls silent, not one for each poll."""

    def break_it(street: JumpStreet) -> None:
        street.world.meters["client2"].fault = MeterFault.SILENT

    with caplog.at_level(logging.INFO):
        play_with(tmp_path, 5.0, break_it)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("meter")]
    assert sum("silent" in line.lower() or "no reading" in line for line in lines) == 1


def test_a_noisy_line_is_slow_but_safe(tmp_path: Path) -> None:
    """Noise bursts that drown every frame, three in ten seconds: whatever happens stays within leases and ledger."""
    line = LineSettings(burst_rate_hz=0.3, burst_s=0.4, burst_db=60.0)
    play_with(tmp_path, 0.0, lambda _street: None, duration_s=60.0, line=line)


def test_a_modem_that_is_unplugged_and_comes_back_is_used_again(tmp_path: Path) -> None:
    """The meter's port vanishes for a moment: the lease runs out or is renewed, nothing else."""

    def break_it(street: JumpStreet) -> None:
        street.world.modems["client1"].unplug()

    play_with(tmp_path, 10.0, break_it, duration_s=60.0)
