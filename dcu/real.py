"""The real world for a DCU: serial port, Modbus TCP, a ledger thread, the store's threads, a status socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from asyncio import Future
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dcu.accusations import ACCUSATIONS, Accusation, AccusationFile
from dcu.config import DcuConfig
from dcu.daemon import Ports, build
from dcu.doors import PageDoor, group_number, page_door, status_door
from dcu.garbage import Tidy
from dcu.hosting.predicted import NoModel
from dcu.keys import KeyRing
from dcu.ledger.store import BATCH_MAX, Ledger, read
from dcu.site import recall_lessons, rule_or_nothing
from dcu.store.entries import LedgerFacts, ledger_source, logs
from dcu.store.recorder import Recorder
from dcu.store.writer import Threaded
from dcu.utility_side import ordered_config
from prime_plc.link import open_serial
from shared.clock import LoopClock
from shared.daemon import Signals
from shared.errors import ConfigError
from shared.ids import Epoch, MeterId
from shared.log import event, get_logger, set_up_logging
from shared.modbus import ModbusAddress, PymodbusPort
from shared.notify import notify_from
from shared.secret_files import COUNTERS, CounterFile

PUBLISH_S: Final = 60.0
"""[s] An entry waits no longer for a head that outsiders see."""

_LOG: Final = get_logger("dcu")


class ThreadedLedger:
    """`dcu.daemon.LedgerPort` with a thread of its own: it waits for the disk so that the loop need not.

    Entries that arrive while the disk is busy are written with the next fsync, all of them. Outsiders see a head over
    everything `PUBLISH_S` after the first entry that they have not seen.
    """

    def __init__(self, ledger: Ledger, utc: Callable[[], float]) -> None:
        """Writes to ``ledger``; ``utc`` [s, Unix] labels entries for people."""
        self._ledger = ledger
        self._utc = utc
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsync")
        self._waiting: deque[tuple[dict[str, Any], Future[int]]] = deque()
        self._publishing: asyncio.TimerHandle | None = None

    @property
    def position(self) -> int:
        return self._ledger.position

    @property
    def head(self) -> bytes:
        return self._ledger.head

    def append(self, entry: dict[str, Any]) -> Future[int]:
        loop = asyncio.get_running_loop()
        done: Future[int] = loop.create_future()
        self._waiting.append(({**entry, "utc_s": round(self._utc(), 3)}, done))
        self._thread.submit(self._write, loop)
        if self._publishing is None:
            self._publishing = loop.call_later(PUBLISH_S, self._publish)
        return done

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: whatever waits; nothing does if the call before took it."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
        if not batch:
            return
        try:
            first = self._ledger.append_all([entry for entry, _ in batch])
        except Exception as error:  # every waiting future gets it
            loop.call_soon_threadsafe(_fail, [done for _, done in batch], error)
        else:
            loop.call_soon_threadsafe(_settle, [done for _, done in batch], first)

    def _publish(self) -> None:
        self._publishing = None
        self._thread.submit(self._ledger.publish)  # if it fails, the next entry says so

    @property
    def thread(self) -> ThreadPoolExecutor:
        """For others who wait for the disk."""
        return self._thread

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        if self._publishing is not None:
            self._publishing.cancel()
        self._thread.shutdown(wait=True)
        self._ledger.close()


def _settle(waiting: list[Future[int]], first: int) -> None:
    for at, done in enumerate(waiting):
        if not done.done():
            done.set_result(first + at)


def _fail(waiting: list[Future[int]], error: Exception) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)


class DiskVault:
    """`dcu.daemon.VaultPort` on this machine's disk; it waits in the thread that the ledger has anyway."""

    def __init__(
        self, config: DcuConfig, counters: CounterFile, accusations: AccusationFile, thread: ThreadPoolExecutor
    ) -> None:
        """Reserves the first block of counters.

        Raises:
            ConfigError: keys that are missing or not this street's.
            DeviceError: counters that cannot be reserved, alarms that cannot be read.
        """
        self._config = config
        self._path = Path(config.protection.key_file)
        self._seen = self._stamp()
        self.ring = config.load_keys()
        self.alarms = accusations.load()
        self.numbers = accusations.load_numbers()
        self.counter = counters.start()
        self._accusations = accusations
        self._counters = counters
        self._thread = thread

    def changed(self) -> KeyRing | None:
        """The keys, if the file is another one; keys that cannot be used are told and leave the last good ones."""
        seen = self._stamp()
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            return self._config.load_keys()
        except ConfigError as error:
            event(_LOG, logging.ERROR, "keys cannot be used, the last good ones stay", why=str(error))
            return None

    async def reserve(self, end: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._counters.reserve, end)

    async def accuse(self, alarms: Mapping[MeterId, Accusation], numbers: Mapping[MeterId, tuple[int, ...]]) -> None:
        def save() -> None:
            self._accusations.save(alarms)
            self._accusations.save_numbers(numbers)

        await asyncio.get_running_loop().run_in_executor(self._thread, save)

    def _stamp(self) -> tuple[int, int, int] | None:
        """Also of owner and mode: a file that could not be read may be given to us afterwards."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def door_of_page(config: DcuConfig) -> PageDoor | None:
    """Where the operator's page asks, if there is one."""
    status = config.status
    if status.page_socket is None:
        return None
    group = None if status.page_group is None else group_number(status.page_group, "status")
    return page_door(Path(status.page_socket), group)


async def run_daemon(config: DcuConfig) -> int:
    """Run a DCU on this machine's ports.

    Raises:
        DeviceError: a second instance, or a ledger that is not ours.
        ConfigError: keys that are missing or not this street's.
    """
    set_up_logging()
    config.load_keys()  # before anything else is touched
    ledger = Ledger(config.state_directory, config.dcu.id, origin=config.dcu.log_origin)
    if ledger.recovered.faults:
        event(_LOG, logging.WARNING, "ledger recovered", faults="; ".join(ledger.recovered.faults))
    with contextlib.ExitStack() as open_things:
        return await _run(config, ledger, open_things)


async def _run(configured: DcuConfig, ledger: Ledger, open_things: contextlib.ExitStack) -> int:
    clock = LoopClock()
    facts = LedgerFacts(
        logs(configured.state_directory), ledger.position, ledger.vkey, ledger_source(configured.state_directory)
    )
    store = Recorder(configured.store_directory, configured.dcu.id, clock, Threaded, facts, configured.store_settings)
    open_things.callback(store.close)  # closed after the ledger, whose last entries it takes
    threaded = ThreadedLedger(ledger, clock.utc_s)
    open_things.callback(threaded.close)
    config, utility = configured, None
    if configured.utility is not None:
        from dcu.utility_real import open_outbox, utility_ports  # noqa: PLC0415  # MQTT; only where there is a utility

        outbox = open_outbox(configured, ledger, clock.utc_s)
        open_things.callback(outbox.close)
        utility = utility_ports(configured, ledger, outbox, clock.utc_s)
        config = ordered_config(configured, utility.settings)
    rule = rule_or_nothing(config)
    if isinstance(rule, NoModel):
        event(_LOG, logging.ERROR, "no grants: the feeder model cannot be used", why=str(rule.why))
    lessons = recall_lessons(rule, read(config.state_directory))
    if lessons:
        event(_LOG, logging.INFO, "learnt from the ledger", sets=lessons)
    counters = CounterFile(config.state_directory / COUNTERS)
    vault = DiskVault(config, counters, AccusationFile(config.state_directory / ACCUSATIONS), threaded.thread)
    ports = Ports(
        clock=clock,
        draw=random.SystemRandom(),
        open_plc=open_serial(config.plc.url),
        registers=PymodbusPort(ModbusAddress.parse(config.balancing.url)),
        ledger=threaded,
        epoch=Epoch(ledger.epoch + 1),
        vault=vault,
        status_door=status_door(Path(config.status.socket)),
        page_door=door_of_page(config),
        store=store,
        notify=notify_from(),
        tidy=Tidy(),
        signals=Signals.HANDLED,
        utility=utility,
    )
    return await build(config, ports, rule).run()
