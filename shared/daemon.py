"""The life of a daemon: its workers, its end, and the watchdog that believes progress only.

A worker is a coroutine that runs for ever and calls its `Progress` when a turn is done. If one ends, for whatever
reason, the daemon ends: systemd restarts it, and start-up recovery is the same code as normal work. ``WATCHDOG=1``
leaves only while *every* worker has shown progress within its own limit, so that one hung worker is enough to be
restarted.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from shared.clock import Clock
from shared.log import event, get_logger
from shared.notify import Notify, no_notify

SHOW_S: Final = 5.0
WATCHDOG_CHECK_S: Final = 1.0
"""[s] How often progress is looked at; WatchdogSec of the units is at least three times this."""

_LOG: Final = get_logger("daemon")

Progress = Callable[[], None]
"""Called by a worker when a turn is done."""

Work = Callable[[Progress], Awaitable[None]]
"""A worker: runs for ever, given its progress call."""


async def show(progress: Progress) -> None:
    """The turns of a worker that waits for others only, such as a server: for ever, as long as the loop turns."""
    while True:
        progress()
        await asyncio.sleep(SHOW_S)


class Signals(Enum):
    """Whether SIGTERM and SIGINT end this supervisor (a process of its own) or not (one of many in a bench)."""

    HANDLED = "handled"
    LEFT_ALONE = "left alone"


@dataclass
class _Worker:
    name: str
    work: Work
    progress_s_max: float
    seen_s: float
    stalled: bool = False


class Supervisor:
    """Starts the workers, watches them, and ends them together."""

    def __init__(self, clock: Clock, notify: Notify = no_notify, signals: Signals = Signals.HANDLED) -> None:
        self._clock = clock
        self._notify = notify
        self._signals = signals
        self._workers: list[_Worker] = []
        self._stop: asyncio.Event | None = None
        self._stop_asked = False

    def worker(self, name: str, work: Work, progress_s_max: float) -> None:
        """Add a worker that shows progress at least every ``progress_s_max`` seconds."""
        assert progress_s_max > 0, progress_s_max
        self._workers.append(_Worker(name, work, progress_s_max, self._clock.monotonic()))

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop_asked = True
        if self._stop is not None:
            self._stop.set()

    @property
    def stalled(self) -> tuple[str, ...]:
        """Names of the workers without progress for too long."""
        now = self._clock.monotonic()
        return tuple(worker.name for worker in self._workers if now - worker.seen_s > worker.progress_s_max)

    async def run(self) -> int:
        """Run until asked to stop (0) or a worker ends or fails (1)."""
        self._stop = asyncio.Event()
        if self._stop_asked:
            self._stop.set()
        loop = asyncio.get_running_loop()
        if self._signals is Signals.HANDLED:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
        tasks: dict[asyncio.Future[None], str] = {
            asyncio.ensure_future(self._guard(worker)): worker.name for worker in self._workers
        }
        tasks[asyncio.ensure_future(self._watch())] = "watchdog"
        stopping = asyncio.ensure_future(self._stop.wait())
        self._notify("READY=1")
        try:
            everything: list[asyncio.Future[Any]] = [*tasks, stopping]
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                event(_LOG, 20, "stopping")
                return 0
            for task, name in tasks.items():
                if task.done():
                    _log_end(name, task)
            return 1
        finally:
            self._notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            stopping.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def _guard(self, worker: _Worker) -> None:
        def progress() -> None:
            worker.seen_s = self._clock.monotonic()

        progress()
        await worker.work(progress)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCHDOG_CHECK_S)
            stalled = set(self.stalled)
            for worker in self._workers:
                if (worker.name in stalled) != worker.stalled:
                    worker.stalled = worker.name in stalled
                    event(_LOG, 30, "worker stalled" if worker.stalled else "worker moves again", worker=worker.name)
            if not stalled:
                self._notify("WATCHDOG=1")


def _log_end(name: str, task: asyncio.Future[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is None:
        event(_LOG, 40, "worker ended", worker=name)
    else:
        _LOG.error("worker failed worker=%s error=%r", name, error, exc_info=error)


def resident_kib() -> int:
    """Resident memory of this process [KiB]; 0 where the kernel does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) if sizes else 0
