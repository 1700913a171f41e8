"""The DCU daemon: everybody meets here. `build(config, ports)` composes; ports decide whether the world is real."""

from __future__ import annotations

import asyncio
import logging
import random
from asyncio import Future
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dcu.config import DcuConfig
from dcu.hosting.decide import Rule
from dcu.hosting.engine import HostingEngine
from dcu.hosting.exchange import (
    Event,
    Input,
    LinkChanged,
    Output,
    Record,
    ReleaseArrived,
    ReportArrived,
    RequestArrived,
    SendDown,
    StorageFailed,
    SubstationRead,
    Wait,
)
from dcu.status import snapshot
from prime_plc import sap
from prime_plc.link import OpenPlc, StackRunner
from prime_plc.stack import base_stack
from shared.clock import Clock
from shared.cosem import CLIENT_SAP, SERVER_SAP, Pushed, decode_apdu, encode_down
from shared.daemon import Progress, Signals, Supervisor, resident_kib
from shared.em330 import Em330Reader
from shared.errors import DecodeError
from shared.ids import Epoch, Eui48, MeterId, format_eui48, parse_eui48
from shared.log import event, get_logger
from shared.machine import Inbox, drive
from shared.messages import Reading, Release, Report, Request
from shared.modbus import RegisterPort
from shared.notify import Notify, no_notify

REVOKE_WAIT_S: Final = 0.25
"""[s] A revoke waits for the disk no longer."""

INBOX_MAX: Final = 1024
UNSENT_MAX: Final = 1024
"""Messages waiting for their record."""

STALL_S: Final = 30.0
"""[s] Without progress for so long a worker counts as hung."""

_LOG: Final = get_logger("dcu")


class LedgerPort(Protocol):
    """The ledger, written by somebody who may take time."""

    @property
    def position(self) -> int:
        """Number of entries."""

    @property
    def head(self) -> bytes:
        """Chain hash after the last entry."""

    def append(self, entry: dict[str, Any]) -> Future[int]:
        """Write entries in the order of the calls; the future is done when the entry is durable, or fails."""


StatusDoor = Callable[[Callable[[], dict[str, Any]], Progress], Awaitable[None]]
"""Serves status snapshots for ever."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything of the world a DCU touches."""

    clock: Clock
    draw: random.Random
    open_plc: OpenPlc
    registers: RegisterPort
    ledger: LedgerPort
    epoch: Epoch
    status_door: StatusDoor | None = None
    notify: Notify = no_notify
    signals: Signals = Signals.LEFT_ALONE


@dataclass(slots=True)
class Counters:
    """What was thrown away."""

    strangers: int = 0
    undecodable: int = 0
    not_delivered: int = 0
    inbox_full: int = 0


@dataclass(slots=True)
class _Waiting:
    """A record, and the message about it that must not leave before."""

    record: Future[int]
    output: SendDown | None


class Scribe:
    """Performs the engine's outputs: records in order, and no message before its record is durable.

    Revokes have a lane of their own in which the disk may take `REVOKE_WAIT_S` and no more, so that neither a slow disk
    nor a stalled grant holds one up.
    """

    def __init__(self, ledger: LedgerPort, send: Callable[[SendDown], None], done: Future[int]) -> None:
        self._ledger = ledger
        self._send = send
        self._newest = done
        self._orderly: Inbox[_Waiting] = Inbox("unsent", UNSENT_MAX)
        self._urgent: Inbox[_Waiting] = Inbox("unsent revokes", UNSENT_MAX)

    def record(self, output: Record) -> Future[int]:
        """Hand an entry to the writer."""
        self._newest = self._ledger.append(output.entry)
        self._orderly.put(_Waiting(self._newest, None))
        return self._newest

    def send(self, output: SendDown) -> None:
        """Send when its record, the newest one, is durable."""
        lane = self._urgent if output.wait is Wait.BRIEFLY else self._orderly
        lane.put(_Waiting(self._newest, output))

    async def run_orderly(self, clock: Clock, progress: Progress) -> None:
        """Wait for records and send what stands behind them, in order; a failing record ends the daemon."""
        while True:
            await self._orderly.wait(clock, clock.monotonic() + STALL_S / 3)
            while (waiting := self._orderly.take()) is not None:
                await waiting.record
                if waiting.output is not None:
                    self._send(waiting.output)
            progress()

    async def run_urgent(self, clock: Clock, progress: Progress) -> None:
        """Send revokes, the disk permitting or not."""
        while True:
            await self._urgent.wait(clock, clock.monotonic() + STALL_S / 3)
            while (waiting := self._urgent.take()) is not None:
                if not waiting.record.done():
                    await asyncio.wait([waiting.record], timeout=REVOKE_WAIT_S)
                if waiting.output is not None:
                    self._send(waiting.output)
            progress()


@dataclass
class DcuDaemon:
    """A composed DCU."""

    config: DcuConfig
    ports: Ports
    engine: HostingEngine
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        config, ports = self.config, self.ports
        self._inbox: Inbox[Input] = Inbox("dcu", INBOX_MAX)
        self._stack = base_stack(config.plc.stack_settings, parse_eui48(config.dcu.eui48), ports.draw)
        self._runner = StackRunner(self._stack, ports.open_plc, ports.clock, self._heard, config.plc.url)
        self._reader = Em330Reader(ports.registers, config.em330_settings, ports.clock)
        self._addresses = {entry.id: entry.eui48 for entry in config.entries}
        self._invoke_id = 0
        self._substation = ""
        started: Future[int] = asyncio.get_running_loop().create_future()
        started.set_result(0)
        self._scribe = Scribe(ports.ledger, self._send, started)

    async def run(self) -> int:
        """Run until stopped (0), or until a part fails (1)."""
        for output in self.engine.start():
            assert isinstance(output, Record), output
            await self.ports.ledger.append(output.entry)  # the epoch is durable before the modem is even opened
        supervisor = Supervisor(self.ports.clock, self.ports.notify, self.ports.signals)
        supervisor.worker("engine", self._decide, STALL_S)
        supervisor.worker("plc", self._runner.run, STALL_S)
        supervisor.worker("balancing", self._poll, STALL_S)
        supervisor.worker("records", lambda progress: self._scribe.run_orderly(self.ports.clock, progress), STALL_S)
        supervisor.worker("revokes", lambda progress: self._scribe.run_urgent(self.ports.clock, progress), STALL_S)
        door = self.ports.status_door
        if door is not None:
            supervisor.worker("status", lambda progress: door(self.status, progress), STALL_S)
        event(_LOG, logging.INFO, "ready", epoch=self.engine.epoch, rss_kib=resident_kib())
        try:
            return await supervisor.run()
        finally:
            await self._reader.close()

    def status(self) -> dict[str, Any]:
        """What people ask for."""
        plc = self._stack.summary() | {"inbox_refused": self._inbox.refused}
        return snapshot(self.engine, self.ports.ledger, self.ports.clock.monotonic(), plc, self.config)

    # ---- workers -----------------------------------------------------------------------------------------------------

    async def _decide(self, progress: Progress) -> None:
        await drive(self.engine, self._inbox, self._perform, self.ports.clock, progress)

    async def _poll(self, progress: Progress) -> None:
        clock = self.ports.clock
        while True:
            began_s = clock.monotonic()
            result = await self._reader.read()
            reading = result if isinstance(result, Reading) else None
            self._note_substation("good" if reading is not None else str(result))
            self._put(SubstationRead(reading))
            progress()
            next_s = max(began_s + self.config.balancing.poll_s, self._reader.next_try_s(clock.monotonic()))
            await asyncio.sleep(max(0.0, next_s - clock.monotonic()))

    def _note_substation(self, words: str) -> None:
        """Log the balancing meter's transitions, once each."""
        kind = words.partition(" ")[0]
        if kind != self._substation:
            self._substation = kind
            event(_LOG, logging.INFO if words == "good" else logging.WARNING, "balancing meter", state=words)

    # ---- wire to engine ----------------------------------------------------------------------------------------------

    def _heard(self, output: sap.Output) -> None:
        match output:
            case sap.DataReceived():
                self._apdu(output.peer, output.data)
            case sap.LinkUp() | sap.LinkDown():
                meter = self._meter(output.peer)
                if meter is not None:
                    self._put(LinkChanged(meter, isinstance(output, sap.LinkUp)))
            case sap.DataConfirmed():
                self.counters.not_delivered += output.result is not sap.DataResult.ACKNOWLEDGED
            case sap.Happened():
                event(_LOG, logging.INFO, output.what, detail=output.detail)

    def _meter(self, eui48: Eui48) -> MeterId | None:
        meter = self.engine.table.of(eui48)
        if meter is None:
            self.counters.strangers += 1
            event(_LOG, logging.WARNING, "unknown meter", eui48=format_eui48(eui48))
        return meter

    def _apdu(self, peer: Eui48, data: bytes) -> None:
        meter = self.engine.table.of(peer)
        if meter is None:
            return
        try:
            apdu = decode_apdu(data)
        except DecodeError:
            self.counters.undecodable += 1
            return
        if not isinstance(apdu, Pushed):
            return  # answers to our SETs: what a meter has applied it says in its reports
        match apdu.message:
            case Report():
                self._put(ReportArrived(meter, apdu.message))
            case Request():
                self._put(RequestArrived(meter, apdu.message))
            case Release():
                self._put(ReleaseArrived(meter, apdu.message))

    def _put(self, item: Input) -> None:
        if not self._inbox.put(item):
            self.counters.inbox_full += 1

    # ---- engine to world ---------------------------------------------------------------------------------------------

    def _perform(self, output: Output) -> None:
        match output:
            case Record():
                self._scribe.record(output).add_done_callback(self._recorded)
            case SendDown():
                self._scribe.send(output)
            case Event():
                event(_LOG, logging.INFO, output.what, **output.fields)

    def _recorded(self, record: Future[int]) -> None:
        """A record that fails stops all granting at once; the daemon then ends, and recovers by starting again."""
        error = None if record.cancelled() else record.exception()
        if error is not None:
            self._put(StorageFailed(str(error)))

    def _send(self, output: SendDown) -> None:
        self._invoke_id = (self._invoke_id + 1) % 16
        data = encode_down(output.message, self._invoke_id)
        item = sap.SendData(self._addresses[output.meter], SERVER_SAP, CLIENT_SAP, data)
        if not self._runner.send(item):
            self.counters.inbox_full += 1


def build(config: DcuConfig, ports: Ports, rule: Rule | None = None) -> DcuDaemon:
    """Compose a DCU; to be called inside the loop it will run in. ``rule`` as for `HostingEngine`."""
    engine = HostingEngine(config.site_settings, config.entries, ports.epoch, ports.clock.monotonic(), rule)
    return DcuDaemon(config, ports, engine)
