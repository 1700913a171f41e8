"""The real world for a meter: serial port, Modbus TCP, GPIO, an outbox thread, the household's door."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from meter.config import MeterConfig
from meter.cosem_door import cosem_door
from meter.cosem_door import listen as cosem_listen
from meter.daemon import Ports, build
from meter.guard import GuardedRelay
from meter.home import home_door, listen
from meter.outbox import OutboxStore, SqliteStore
from prime_plc.link import open_serial
from shared.clock import LoopClock
from shared.daemon import Signals
from shared.errors import DeviceError
from shared.keys import MeterKeys, meter_content
from shared.log import event, get_logger, set_up_logging
from shared.messages import Report
from shared.modbus import ModbusAddress, PymodbusPort
from shared.notify import notify_from
from shared.secret_files import COUNTERS, CounterFile, save_secret

LOCK: Final = "meter.lock"
OUTBOX: Final = "outbox.sqlite"

_LOG: Final = get_logger("meter")


class ThreadedStore:
    """`meter.daemon.StorePort` with the one thread of this process: it waits for the disk so that the loop need
    not."""

    def __init__(self, store: OutboxStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")

    async def put(self, report: Report) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.put, report)

    async def forget(self, seqs: list[int]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.forget, seqs)

    @property
    def thread(self) -> ThreadPoolExecutor:
        """For others who wait for the disk."""
        return self._thread

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        self._thread.shutdown(wait=True)
        self._store.close()


class DiskVault:
    """`meter.daemon.VaultPort` on this machine's disk; it waits in the thread that the outbox has anyway."""

    def __init__(self, keys: MeterKeys, key_file: Path, counters: CounterFile, thread: ThreadPoolExecutor) -> None:
        """Reserves the first block of counters (DeviceError if that is not possible)."""
        self.keys = keys
        self.counter = counters.start()
        self._key_file = key_file
        self._counters = counters
        self._thread = thread

    async def reserve(self, end: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._counters.reserve, end)

    async def save(self, keys: MeterKeys) -> None:
        content = meter_content(keys)
        await asyncio.get_running_loop().run_in_executor(self._thread, save_secret, self._key_file, content)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """This meter's state and devices are ours alone meanwhile; the kernel gives them back if we die.

    Raises:
        DeviceError: another process has this meter, or the directory is not ours to write.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DeviceError(f"state directory {directory}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DeviceError(f"state directory {directory}: another headroom-meter has this meter") from error
        yield
    finally:
        os.close(lock)


def warn_of_open_token(path: Path) -> None:
    """Say so if anybody on this machine can read the household's token."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o004:
        event(_LOG, logging.WARNING, "token readable by everybody", file=str(path), mode=f"{mode:o}", expected="600")


async def run_daemon(config: MeterConfig, file: str) -> int:
    """Run a meter on this machine's ports; ``file`` names the configuration.

    Raises:
        DeviceError: a second instance, a port or a pin in use, no GPIO, an outbox that cannot be written.
        ConfigError: the token or the keys are missing.
    """
    set_up_logging()
    home = config.home_settings(file)
    keys = config.load_keys()
    warn_of_open_token(Path(config.home.token_file))
    with ExitStack() as stack:
        stack.enter_context(held(config.state_directory))
        listening = stack.enter_context(listen(home))
        cosem = None
        if config.cosem is not None:
            cosem = cosem_door(stack.enter_context(cosem_listen(config.cosem.host, config.cosem.port)))
        store = SqliteStore(config.state_directory / OUTBOX)
        threaded = ThreadedStore(store)
        stack.callback(threaded.close)
        counters = CounterFile(config.state_directory / COUNTERS)
        vault = DiskVault(keys, Path(config.protection.key_file), counters, threaded.thread)
        relay = GuardedRelay(config.relay_settings)
        stack.callback(relay.close)
        event(_LOG, logging.INFO, "dead man holds the relay", guard_kib=relay.rss_kib)
        ports = Ports(
            clock=LoopClock(),
            draw=random.SystemRandom(),
            open_plc=open_serial(config.plc.url),
            registers=PymodbusPort(ModbusAddress.parse(config.em330.url)),
            relay=relay,
            store=threaded,
            stored=store.load(),
            vault=vault,
            home_door=home_door(listening, home.token),
            cosem_door=cosem,
            notify=notify_from(),
            signals=Signals.HANDLED,
        )
        return await build(config, ports).run()
