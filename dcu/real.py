"""The real world for a DCU: serial port, Modbus TCP, a ledger thread, a status socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from asyncio import Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dcu.config import DcuConfig
from dcu.daemon import STALL_S, Ports, StatusDoor, build
from dcu.hosting.predicted import NoModel
from dcu.keys import KeyRing
from dcu.ledger.store import Ledger
from dcu.site import recall_lessons, rule_or_nothing
from prime_plc.link import open_serial
from shared.clock import LoopClock
from shared.daemon import Progress, Signals
from shared.errors import ConfigError, HeadroomError
from shared.ids import Epoch
from shared.log import event, get_logger, set_up_logging
from shared.modbus import ModbusAddress, PymodbusPort
from shared.notify import notify_from
from shared.secret_files import COUNTERS, CounterFile

_LOG: Final = get_logger("dcu")


class ThreadedLedger:
    """`dcu.daemon.LedgerPort` with the one thread of this process: it waits for the disk so that the loop need not."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsync")

    @property
    def position(self) -> int:
        return self._ledger.position

    @property
    def head(self) -> bytes:
        return self._ledger.head

    def append(self, entry: dict[str, Any]) -> Future[int]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.append, entry)

    @property
    def thread(self) -> ThreadPoolExecutor:
        """For others who wait for the disk."""
        return self._thread

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        self._thread.shutdown(wait=True)
        self._ledger.close()


class DiskVault:
    """`dcu.daemon.VaultPort` on this machine's disk; it waits in the thread that the ledger has anyway."""

    def __init__(self, config: DcuConfig, counters: CounterFile, thread: ThreadPoolExecutor) -> None:
        """Reserves the first block of counters.

        Raises:
            ConfigError: keys that are missing or not this street's.
            DeviceError: counters that cannot be reserved.
        """
        self._config = config
        self._path = Path(config.protection.key_file)
        self._seen = self._stamp()
        self.ring = config.load_keys()
        self.counter = counters.start()
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

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def status_door(path: Path) -> StatusDoor:
    """A unix socket, readable by this user only, that answers every connection with one JSON snapshot."""

    async def serve(snapshot: Callable[[], dict[str, Any]], progress: Progress) -> None:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(json.dumps(snapshot()).encode())
                await writer.drain()
                writer.close()

        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # the ledger's lock says that no other instance serves it
        path.parent.mkdir(parents=True, exist_ok=True)
        server = await asyncio.start_unix_server(answer, str(path), backlog=8)
        path.chmod(0o600)
        try:
            while True:
                progress()
                await asyncio.sleep(STALL_S / 3)
        finally:
            server.close()
            path.unlink(missing_ok=True)

    return serve


async def run_daemon(config: DcuConfig) -> int:
    """Run a DCU on this machine's ports.

    Raises:
        DeviceError: a second instance, or a ledger that is not ours.
        ConfigError: keys that are missing or not this street's.
    """
    set_up_logging()
    config.load_keys()  # before anything else is touched
    ledger = Ledger(config.state_directory, config.dcu.id)
    if ledger.recovered.faults:
        event(_LOG, logging.WARNING, "ledger tail put aside", faults="; ".join(ledger.recovered.faults))
    rule = rule_or_nothing(config)
    if isinstance(rule, NoModel):
        event(_LOG, logging.ERROR, "no grants: the feeder model cannot be used", why=str(rule.why))
    lessons = recall_lessons(rule, ledger.recovered.entries)
    if lessons:
        event(_LOG, logging.INFO, "learnt from the ledger", sets=lessons)
    threaded = ThreadedLedger(ledger)
    try:
        vault = DiskVault(config, CounterFile(config.state_directory / COUNTERS), threaded.thread)
    except HeadroomError:
        threaded.close()
        raise
    ports = Ports(
        clock=LoopClock(),
        draw=random.SystemRandom(),
        open_plc=open_serial(config.plc.url),
        registers=PymodbusPort(ModbusAddress.parse(config.balancing.url)),
        ledger=threaded,
        epoch=Epoch(ledger.epoch + 1),
        vault=vault,
        status_door=status_door(Path(config.status.socket)),
        notify=notify_from(),
        signals=Signals.HANDLED,
    )
    try:
        return await build(config, ports, rule).run()
    finally:
        threaded.close()
