"""A street of real stacks on the virtual line, in virtual time."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hil_tests.cli import main
from hil_tests.plc_command import LineFile, _pings
from hil_tests.plc_street import (
    CPU_S_MIN,
    STREET,
    PlcStreet,
    PlcStreetSettings,
    frame_kind,
    run_street,
    with_burst_loss,
)
from hil_tests.virtual.bursts import Reach
from hil_tests.virtual.line import LineSettings
from prime_plc.modem_host import Port, TypeAFraming
from prime_plc.modem_messages import Receive
from prime_plc.phy import PhyMode
from prime_plc.stack import Stack
from prime_plc.tests.captured_frames import CAPTURED
from shared.cli import EXIT_OK

SMALL = PlcStreetSettings(nodes=8, levels=1, seed=3, report_interval_s=10.0)


def played(settings: PlcStreetSettings, seconds: float = 120.0) -> PlcStreet:
    """A street after its start and some time of reports."""
    street = PlcStreet(settings)
    street.power_on()
    street.begin_reports()
    street.run_until(seconds)
    return street


@pytest.mark.parametrize("framing", list(TypeAFraming))
def test_messages_as_values_make_the_same_street_as_bytes(framing: TypeAFraming) -> None:
    """The fast path is the same machine with the serial framing left away: the same frames at the same instants, the
    same receptions, the same reports, on a line that also damages some."""
    streets = [played(replace(SMALL, framing=framing, port=port)) for port in Port]
    assert streets[0].line.counters.frames > 300
    assert streets[0].line.counters.damaged > 0
    assert streets[0].trace() == streets[1].trace()
    assert streets[0].listener.arrived == streets[1].listener.arrived != {}


def test_nothing_would_have_come_of_what_a_stack_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels, cold start and reports: the same street when every frame is read to its end, which is most of it
    more."""
    settings = replace(SMALL, nodes=20, levels=2)
    fast = played(settings)
    ignored = []

    def read_anyway(stack: Stack, mode: PhyMode, pdu: bytes, now: float) -> bool:
        ignored.append(ignores(stack, mode, pdu, now))
        return False

    ignores = Stack.ignores
    monkeypatch.setattr(Stack, "ignores", read_anyway)
    slow = played(settings)
    assert sum(ignored) > len(ignored) / 3 > 1000
    assert slow.trace() == fast.trace()
    assert slow.listener.arrived == fast.listener.arrived != {}
    states = [[meter.pump.stack.summary() for meter in one.meters if meter.pump] for one in (slow, fast)]
    assert states[0] == states[1]


def test_beacons_that_are_only_remembered_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same street when they take the whole way through the stack as all others do."""
    settings = replace(SMALL, nodes=20, levels=2)
    fast = played(settings)
    seen: list[Receive] = []
    monkeypatch.setattr(Stack, "overhears", lambda _stack, receive, _now: seen.append(receive))
    slow = played(settings)
    assert len(seen) > 1000
    assert slow.trace() == fast.trace()
    assert slow.listener.arrived == fast.listener.arrived != {}
    stacks = [[meter.pump.stack for meter in one.meters if meter.pump] for one in (slow, fast)]
    states = [[(stack.summary(), stack.links(), stack.pib()) for stack in one] for one in stacks]
    assert states[0] == states[1]


def test_one_seed_is_one_street() -> None:
    """Every frame, every reception and every report again from the same seed; another seed is another street."""
    one, again, other = (played(replace(SMALL, seed=seed), 60.0) for seed in (1, 1, 2))
    assert one.trace() == again.trace() != other.trace()


def test_the_stations_run_on_a_loop_of_asyncio_too() -> None:
    """What virtual time does from event to event, a loop does in wall-clock time: a base is up in half a second."""

    async def world() -> int:
        loop = asyncio.get_running_loop()
        street = PlcStreet(replace(SMALL, nodes=2, line=LineSettings()), loop=loop)
        street.power_on()
        done: asyncio.Future[None] = loop.create_future()

        def frame(_kind: str) -> None:
            if not done.done():
                done.set_result(None)

        street.on_frame = frame
        async with asyncio.timeout(10.0):
            await done
        return street.frames["beacon"]

    assert asyncio.run(world()) == 1


def test_a_small_street_connects_and_reports() -> None:
    """Eight meters one hop away, the default noise: everybody within two minutes, every report arrives."""
    street = PlcStreet(SMALL)
    started = street.start(limit_s=300.0)
    assert started.all_s is not None
    assert started.all_s < 120.0
    street.begin_reports()
    reported = street.report_for(300.0)
    assert reported.due >= 8 * 29
    assert reported.delivered == reported.due
    assert sum(street.levels().values()) == 8


def test_burst_loss_is_the_share_of_the_time_a_receiver_is_deaf() -> None:
    """Mean stay in a burst over mean cycle is the share that was asked for."""
    line = with_burst_loss(STREET, 0.3, 0.3)
    assert line.burst_reach is Reach.RECEIVER
    assert line.burst_s / (line.burst_s + 1 / line.burst_rate_hz) == pytest.approx(0.3)


def test_frames_are_told_apart_by_what_they_are_for() -> None:
    """Captured frames by kind, for the account of airtime."""
    kinds = {name: frame_kind(bytes.fromhex(frame)) for name, frame in CAPTURED.items()}
    assert kinds["beacon 19"] == "beacon"
    assert kinds["REG_REQ"] == "REG"
    assert set(kinds.values()) >= {"beacon", "REG", "CON", "PRO", "BSI", "data"}


def test_a_file_changes_the_physics_and_a_wrong_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys of a table override the default street; unknown keys and words are named with what was expected."""
    file = tmp_path / "street.toml"
    file.write_text('[line]\nnoise_dbuv = 60\nburst_reach = "line"\n[path]\ntap_db = 1.5\n')
    assert main(["plc", "--nodes", "2", "--levels", "1", "--minutes", "1", "--line", str(file), "--json"]) == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert found["reported"]["delivered"] == found["reported"]["due"] == 2
    for text, word in (("[line]\nnoise = 1\n", "noise"), ('[line]\nburst_reach = "far"\n', "burst_reach one of")):
        file.write_text(text)
        assert main(["plc", "--line", str(file)]) != EXIT_OK
        assert word in capsys.readouterr().err
    assert main(["plc", "--nodes", "0", "--burst-loss", "2"]) != EXIT_OK
    errors = capsys.readouterr().err
    assert "--nodes" in errors
    assert "--burst-loss" in errors
    assert LineFile().line == {}


@pytest.mark.parametrize("minutes", [0, 1])
def test_airtime_is_told_where_it_was_measured(minutes: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Without reports there is no time over which it could be."""
    arguments = ["plc", "--nodes", "2", "--levels", "1", "--minutes", str(minutes)]
    assert main(arguments) == EXIT_OK
    lines = [line for line in capsys.readouterr().out.splitlines() if "airtime of all senders" in line]
    assert ["beacon" in line for line in lines] == [True] * minutes
    assert main([*arguments, "--json"]) == EXIT_OK
    assert bool(json.loads(capsys.readouterr().out)["airtime"]) == bool(minutes)


def test_a_street_done_sooner_than_the_clock_ticks_has_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two meters at one switch take a few milliseconds."""
    monkeypatch.setattr(time, "process_time", lambda: 5.0)
    found = run_street(PlcStreetSettings(nodes=2, levels=1), 0)
    assert found.speed == pytest.approx(found.virtual_s / CPU_S_MIN)
    assert found.as_json()["times_real_time"] > 0


def test_a_survey_shows_the_tree_with_both_ends_of_every_link(tmp_path: Path) -> None:
    """Every meter once, as many levels as its stacks say, the beacons' airtime (13.25 ms of 618.24 ms), and links that
    only the switches have measured."""
    settings = PlcStreetSettings(nodes=12, levels=3, seed=2)
    street = PlcStreet(settings)
    street.start()
    survey = street.survey()
    assert len(survey.nodes) == 12
    assert survey.levels == max(int(hop) for hop in street.levels())
    assert survey.levels >= 2
    assert all(node.link is not None and node.up is not None for node in survey.nodes)
    assert survey.airtime["sent beacons"] == pytest.approx(0.01325 / 0.61824, rel=0.03)
    drawn = tmp_path / "tree.svg"
    arguments = ["plc", "--nodes", "3", "--levels", "1", "--minutes", "0", "--svg", str(drawn)]
    assert main(arguments) == EXIT_OK
    assert drawn.read_text().startswith("<svg")


def test_a_ping_takes_as_long_as_its_way() -> None:
    """Every connected meter answers; one without power does not, and the others do not mind."""
    street = PlcStreet(PlcStreetSettings(nodes=6, levels=1, seed=2))
    street.start()
    street.meters[0].power_off()
    trips = street.ping(2)
    assert trips[1] == [None, None]
    rest = [trip for number, found in trips.items() if number != 1 for trip in found]
    assert len(rest) == 10
    assert all(trip is not None and 0.01 < trip < 10.0 for trip in rest)


def test_the_median_of_two_round_trips_lies_between_them() -> None:
    """And of those that came back only."""
    shown = _pings({1: [0.2, None, 0.4], 2: [None], 3: [0.5, 0.1, 0.3]}).splitlines()
    assert shown[0].endswith("2 of 3 came back; least / median / longest 0.2 / 0.3 / 0.4 s")
    assert shown[1].endswith("0 of 1 came back; least / median / longest -")
    assert shown[2].endswith("0.1 / 0.3 / 0.5 s")
