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
from dcu.ledger.store import Ledger
from dcu.site import rule_or_nothing
from prime_plc.link import open_serial
from shared.clock import LoopClock
from shared.daemon import Progress, Signals
from shared.ids import Epoch
from shared.log import event, get_logger, set_up_logging
from shared.modbus import ModbusAddress, PymodbusPort
from shared.notify import notify_from

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

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        self._thread.shutdown(wait=True)
        self._ledger.close()


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
    """
    set_up_logging()
    ledger = Ledger(config.state_directory, config.dcu.id)
    if ledger.recovered.faults:
        event(_LOG, logging.WARNING, "ledger tail put aside", faults="; ".join(ledger.recovered.faults))
    rule = rule_or_nothing(config)
    if isinstance(rule, NoModel):
        event(_LOG, logging.ERROR, "no grants: the feeder model cannot be used", why=str(rule.why))
    threaded = ThreadedLedger(ledger)
    ports = Ports(
        clock=LoopClock(),
        draw=random.SystemRandom(),
        open_plc=open_serial(config.plc.url),
        registers=PymodbusPort(ModbusAddress.parse(config.balancing.url)),
        ledger=threaded,
        epoch=Epoch(ledger.epoch + 1),
        status_door=status_door(Path(config.status.socket)),
        notify=notify_from(),
        signals=Signals.HANDLED,
    )
    try:
        return await build(config, ports, rule).run()
    finally:
        threaded.close()
