"""I7 with real processes: whoever hangs or dies, the relay is nominal within two seconds of the last good turn."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from hil_tests.dead_man import FALL_S_MAX, Hurt, anonymous_kib, measure
from hil_tests.player import READY_S_MAX, Ear
from hil_tests.scenario import load_scenario
from hil_tests.wall import WallStreet
from meter.deadman import FACTORY_VARIABLE
from meter.guard import GuardedRelay, KeeperProcess
from meter.relay import RelaySettings
from shared.messages import RelayState


@pytest.mark.street
@pytest.mark.parametrize("hurt", list(Hurt), ids=lambda hurt: hurt.value)
def test_the_relay_falls_within_two_seconds_whoever_hangs_or_dies(hurt: Hurt) -> None:
    """Ten meters of each kind, hurt at random moments of their control ticks; silence is worked for, not waited out."""
    result = measure(10, seed=1, kinds=(hurt,))
    row = result["kinds"][hurt.value]
    assert row["runs"] == 10
    assert row["max_s"] <= FALL_S_MAX, row
    # A kill is noticed by the kernel; a hang only by patience, and much less of it would fall at every hiccup.
    killed = hurt in {Hurt.KILL_METER, Hurt.KILL_DEAD_MAN}
    assert row["median_s"] < 0.2 if killed else row["median_s"] > 0.5, row


_LGPIO = """
SET_PULL_UP, SET_PULL_DOWN = 32, 64
levels = {}
class error(Exception): pass
def gpiochip_open(chip): return chip
def gpiochip_close(chip): pass
def gpio_claim_output(chip, pin, level): levels[pin] = level
def gpio_claim_input(chip, pin, pull): pass
def gpio_write(chip, pin, level): levels[pin] = level
def gpio_read(chip, pin): return levels[5]
"""


@pytest.mark.street
def test_on_a_device_the_dead_man_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for lgpio, as a device loads it: neither gpiozero nor asyncio, 16 MiB in all and 8 of its own; it
    raises, reads back and ends with its meter."""
    (tmp_path / "lgpio.py").write_text(_LGPIO, encoding="ascii")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(FACTORY_VARIABLE, raising=False)
    settings = RelaySettings(pin=5, read_back_pin=6)
    keepers: list[KeeperProcess] = []

    def start(settings: RelaySettings) -> KeeperProcess:
        keepers.append(KeeperProcess(settings))
        return keepers[0]

    relay = GuardedRelay(settings, start)
    own_kib = anonymous_kib(keepers[0].pid)
    relay.raise_export()
    began_s = time.monotonic()
    while (seen := relay.read_back()) is not RelayState.RAISED:
        assert time.monotonic() - began_s < 1.0, seen
        time.sleep(0.005)
    relay.close()
    assert 0 < relay.rss_kib <= 16 * 1024
    assert 0 < own_kib <= 8 * 1024
    assert not Path(f"/proc/{keepers[0].pid}").exists()


@pytest.mark.street
async def test_the_wall_street_has_a_dead_man_too(tmp_path: Path) -> None:
    """A meter of scenario I, granted by the real DCU, is stopped; its inverter is back at nominal in two seconds."""
    ear = Ear(asyncio.get_running_loop())
    street = WallStreet(load_scenario("granted"), ear, tmp_path, seed=1)
    relay = street.world.relays["client1"]

    async def until(raised: bool, limit_s: float) -> None:
        async with asyncio.timeout(limit_s):
            while relay.raised is not raised:  # noqa: ASYNC110  # another process moves it
                await asyncio.sleep(0.005)

    try:
        await street.start()
        async with asyncio.timeout(READY_S_MAX):
            while not await street.ready():  # noqa: ASYNC110  # asks other processes
                await asyncio.sleep(0.2)
        await street.ask("client1", 2400.0)
        await until(raised=True, limit_s=10.0)
        pid = street.pid("client1")
        os.kill(pid, signal.SIGSTOP)
        began_s = time.monotonic()
        await until(raised=False, limit_s=5.0)
        assert time.monotonic() - began_s <= FALL_S_MAX
        os.kill(pid, signal.SIGKILL)
    finally:
        await street.stop()
