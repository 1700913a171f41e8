"""The life of a daemon: workers end together, and the watchdog believes progress only."""

from __future__ import annotations

import asyncio

from shared import daemon
from shared.clock import LoopClock
from shared.daemon import Progress, Signals, Supervisor
from shared.notify import SystemdNotify, notify_from, watchdog_interval_s


class FakeClock(LoopClock):
    """The loop's clock, with hours added by the test."""

    added_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.added_s


async def forever(progress: Progress) -> None:
    while True:
        progress()
        await asyncio.sleep(0)


async def hang(_progress: Progress) -> None:
    await asyncio.Event().wait()


async def test_one_worker_that_fails_ends_the_daemon() -> None:
    """A dead worker is exit code 1 and takes the others along."""

    async def fail(progress: Progress) -> None:
        progress()
        raise RuntimeError("relay state unknown")

    supervisor = Supervisor(LoopClock(), signals=Signals.LEFT_ALONE)
    supervisor.worker("pump", forever, 1.0)
    supervisor.worker("relay", fail, 1.0)
    assert await supervisor.run() == 1


async def test_stop_is_an_orderly_end() -> None:
    """Asked to stop, the daemon ends with 0 and says so to systemd."""
    said: list[str] = []
    supervisor = Supervisor(LoopClock(), said.append, Signals.LEFT_ALONE)
    supervisor.worker("pump", forever, 1.0)
    asyncio.get_running_loop().call_soon(supervisor.stop)
    assert await supervisor.run() == 0
    assert said[0] == "READY=1"
    assert said[-1] == "STOPPING=1"


async def test_a_hung_worker_silences_the_watchdog() -> None:
    """While one worker shows no progress WATCHDOG=1 is withheld, however busy the others are."""
    clock = FakeClock()
    supervisor = Supervisor(clock, signals=Signals.LEFT_ALONE)
    supervisor.worker("pump", forever, 5.0)
    supervisor.worker("relay", hang, 5.0)
    run = asyncio.ensure_future(supervisor.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    before = supervisor.stalled
    clock.added_s = 6.0
    for _ in range(5):
        await asyncio.sleep(0)
    assert (before, supervisor.stalled) == ((), ("relay",))
    supervisor.stop()
    assert await run == 0


def test_systemd_is_told_only_where_it_listens() -> None:
    """Without NOTIFY_SOCKET nothing is sent; the watchdog interval comes in microseconds and for one process only."""
    notify_from({})("READY=1")
    notify = notify_from({"NOTIFY_SOCKET": "@headroom-test-nobody"})
    assert isinstance(notify, SystemdNotify)
    notify("READY=1")
    notify.close()
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 30.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "soon"}) is None


def test_resident_memory_is_read_from_the_kernel() -> None:
    """A Python process has more than a mebibyte."""
    assert daemon.resident_kib() > 1024
