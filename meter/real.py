"""The real world for a meter: serial port, Modbus TCP, GPIO, an outbox thread, the household's door."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from meter.config import MeterConfig
from meter.daemon import Ports, build
from meter.home import home_door
from meter.outbox import SqliteStore
from meter.relay import GpioRelay
from prime_plc.link import open_serial
from shared.clock import LoopClock
from shared.daemon import Signals
from shared.errors import DeviceError
from shared.log import set_up_logging
from shared.messages import Report
from shared.modbus import ModbusAddress, PymodbusPort
from shared.notify import notify_from

LOCK: Final = "meter.lock"
OUTBOX: Final = "outbox.sqlite"


class ThreadedStore:
    """`meter.daemon.StorePort` with the one thread of this process: it waits for the disk so that the relay need
    not."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")

    async def put(self, report: Report) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.put, report)

    async def forget(self, seqs: list[int]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.forget, seqs)

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        self._thread.shutdown(wait=True)
        self._store.close()


def only_instance(directory: Path) -> int:
    """A lock held while this process lives.

    Raises:
        DeviceError: another meter daemon holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DeviceError(f"{directory}: another meter daemon runs here") from error
    return lock


async def run_daemon(config: MeterConfig, file: str) -> int:
    """Run a meter on this machine's ports.

    Raises:
        DeviceError: a second instance, a pin in use, no GPIO.
        ConfigError: the token is missing.
    """
    set_up_logging()
    home = config.home_settings(file)
    lock = only_instance(config.state_directory)
    try:
        store = SqliteStore(config.state_directory / OUTBOX)
    except sqlite3.Error as error:
        raise DeviceError(f"{config.state_directory / OUTBOX}: {error}") from error
    threaded = ThreadedStore(store)
    try:
        ports = Ports(
            clock=LoopClock(),
            draw=random.SystemRandom(),
            open_plc=open_serial(config.plc.url),
            registers=PymodbusPort(ModbusAddress.parse(config.em330.url)),
            relay=GpioRelay(config.relay_settings),
            store=threaded,
            stored=store.load(),
            home_door=home_door(home),
            notify=notify_from(),
            signals=Signals.HANDLED,
        )
        return await build(config, ports).run()
    finally:
        threaded.close()
        os.close(lock)
