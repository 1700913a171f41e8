"""The meter daemon: everybody meets here. `build(config, ports)` composes; ports decide whether the world is real."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from meter.config import MeterConfig
from meter.core import (
    Event,
    Forget,
    HouseholdAsked,
    HouseholdReleased,
    Input,
    LinkChanged,
    MessageArrived,
    MeterCore,
    Output,
    Persist,
    ReadingTaken,
    RelayObserved,
    SendUp,
    SetRelay,
    StoreFailed,
)
from meter.cosem_server import CosemServer
from meter.home import HomeDoor
from meter.relay import RelayPort
from prime_plc import sap
from prime_plc.link import OpenPlc, StackRunner
from prime_plc.stack import service_stack
from shared.clock import Clock
from shared.cosem import (
    CLIENT_SAP,
    SERVER_SAP,
    AccessResult,
    ReadRequest,
    Written,
    decode_apdu,
    encode_up,
    encode_write_answer,
)
from shared.daemon import Progress, Signals, Supervisor, resident_kib
from shared.em330 import Em330Reader
from shared.errors import DecodeError
from shared.ids import parse_eui48
from shared.log import event, get_logger
from shared.machine import Inbox, drive
from shared.messages import RelayState, Report
from shared.modbus import RegisterPort
from shared.notify import Notify, no_notify

TICK_S: Final = 0.5
"""[s] The relay's contact is looked at this often."""

INBOX_MAX: Final = 256
STALL_S: Final = 30.0
"""[s] Without progress for so long a worker counts as hung."""

CORE_STALL_S: Final = 5.0
"""[s] The same for the core and the control tick, on which the relay hangs."""

_LOG: Final = get_logger("meter")


class StorePort(Protocol):
    """The outbox on disk; each call is done when it is durable, and raises OSError or sqlite3.Error when it is not."""

    async def put(self, report: Report) -> None: ...

    async def forget(self, seqs: list[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything of the world a meter touches."""

    clock: Clock
    draw: random.Random
    open_plc: OpenPlc
    registers: RegisterPort
    relay: RelayPort
    store: StorePort
    stored: tuple[list[Report], int]
    home_door: HomeDoor | None = None
    notify: Notify = no_notify
    signals: Signals = Signals.LEFT_ALONE


class MeterDaemon:
    """A composed meter."""

    def __init__(self, config: MeterConfig, ports: Ports) -> None:
        self._config = config
        self._ports = ports
        self._inbox: Inbox[Input] = Inbox("meter", INBOX_MAX)
        self._core = MeterCore(config.meter_settings, ports.draw, ports.stored)
        self._server = CosemServer(self._core, f"HDR{config.meter.id}", ports.clock.utc_s)
        self._reader = Em330Reader(ports.registers, config.em330_settings, ports.clock)
        identifier = config.meter.id.encode()
        stack = service_stack(config.stack_settings, parse_eui48(config.meter.eui48), identifier, ports.draw)
        self._runner = StackRunner(stack, ports.open_plc, ports.clock, self._heard, config.plc.url)
        self._invoke_id = 0
        self.undecodable = 0

    async def run(self) -> int:
        """Run until stopped (0), or until a part fails (1); the relay is nominal afterwards."""
        supervisor = Supervisor(self._ports.clock, self._ports.notify, self._ports.signals)
        supervisor.worker("core", self._think, CORE_STALL_S)
        supervisor.worker("relay", self._watch_relay, CORE_STALL_S)
        supervisor.worker("em330", self._poll, STALL_S)
        supervisor.worker("plc", self._runner.run, STALL_S)
        door = self._ports.home_door
        if door is not None:
            supervisor.worker("home", lambda progress: door(self.put, self.status, progress), STALL_S)
        event(_LOG, logging.INFO, "ready", rss_kib=resident_kib())
        try:
            return await supervisor.run()
        finally:
            self._ports.relay.close()
            await self._reader.close()

    def put(self, item: HouseholdAsked | HouseholdReleased) -> bool:
        """The household asks or releases; False if the meter does not keep up."""
        return self._inbox.put(item)

    def status(self) -> dict[str, Any]:
        """Who limits me now, and why."""
        return self._core.status(self._ports.clock.monotonic())

    # ---- workers -----------------------------------------------------------------------------------------------------

    async def _think(self, progress: Progress) -> None:
        await drive(self._core, self._inbox, self._perform, self._ports.clock, progress)

    async def _watch_relay(self, progress: Progress) -> None:
        seen: RelayState | None = None
        while True:
            state = self._ports.relay.read_back()
            if state is not seen:
                seen = state
                self._inbox.put(RelayObserved(state))
            progress()
            await asyncio.sleep(TICK_S)

    async def _poll(self, progress: Progress) -> None:
        clock = self._ports.clock
        while True:
            began_s = clock.monotonic()
            result = await self._reader.read()
            self._inbox.put(ReadingTaken(result, began_s))
            progress()
            next_s = max(began_s + self._config.em330.poll_s, self._reader.next_try_s(clock.monotonic()))
            await asyncio.sleep(max(0.0, next_s - clock.monotonic()))

    # ---- wire to core ------------------------------------------------------------------------------------------------

    def _heard(self, output: sap.Output) -> None:
        match output:
            case sap.DataReceived():
                self._apdu(output)
            case sap.LinkUp() | sap.LinkDown():
                self._inbox.put(LinkChanged(isinstance(output, sap.LinkUp)))
            case sap.Happened():
                event(_LOG, logging.INFO, output.what, detail=output.detail)

    def _apdu(self, received: sap.DataReceived) -> None:
        try:
            apdu = decode_apdu(received.data)
        except DecodeError:
            self.undecodable += 1
            return
        if isinstance(apdu, Written):
            self._inbox.put(MessageArrived(apdu.message))
            if apdu.confirmed:
                self._send_apdu(encode_write_answer(apdu.invoke_id, AccessResult.SUCCESS), received.ssap)
        elif isinstance(apdu, ReadRequest):
            self._send_apdu(self._server.answer(apdu, self._ports.clock.monotonic()), received.ssap)

    # ---- core to world -----------------------------------------------------------------------------------------------

    def _perform(self, output: Output) -> Awaitable[None] | None:
        match output:
            case SetRelay():
                self._move(output.state)
            case SendUp():
                self._invoke_id += 1
                self._send_apdu(encode_up(output.message, self._invoke_id), CLIENT_SAP)
            case Persist():
                return self._kept(self._ports.store.put(output.report))
            case Forget():
                return self._kept(self._ports.store.forget(list(output.seqs)))
            case Event():
                event(_LOG, output.level, output.what, **output.fields)
        return None

    def _move(self, state: RelayState) -> None:
        """A relay that does not obey ends the daemon: its state is unknown, and the pins fall back when we are gone."""
        if state is RelayState.RAISED:
            self._ports.relay.raise_export()
        else:
            self._ports.relay.to_nominal()
        event(_LOG, logging.INFO, "relay", state=state.name)
        self._inbox.put(RelayObserved(self._ports.relay.read_back()))

    async def _kept(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            # Whatever the storage says, it is lost: no increase until a restart, but limiting goes on.
            self._inbox.put(StoreFailed(str(error)))

    def _send_apdu(self, data: bytes, dsap: int) -> None:
        self._runner.send(sap.SendData(None, dsap, SERVER_SAP, data))


def build(config: MeterConfig, ports: Ports) -> MeterDaemon:
    """Compose a meter; to be called inside the loop it will run in."""
    return MeterDaemon(config, ports)
