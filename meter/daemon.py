"""The meter daemon: everybody meets here. `build(config, ports)` composes; ports decide whether the world is real."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dlms_cosem.enumerations import ActionResultStatus

from meter.association import Association, Clients, Level
from meter.config import MeterConfig
from meter.core import (
    Event,
    Forget,
    Household,
    HouseholdAsked,
    HouseholdCapped,
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
from meter.cosem_door import Answer, CosemDoor
from meter.cosem_server import CosemServer
from meter.gate import Gate, Heard, LinkIs, Transmit
from meter.gate import Output as GateOutput
from meter.home import HomeDoor
from meter.relay import RelayPort
from meter.status import snapshot
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
from shared.cosem_security import ClockWritten, KeysSent, encode_action_answer
from shared.daemon import Progress, Signals, Supervisor, resident_kib
from shared.em330 import Em330Reader
from shared.errors import DecodeError, Fault
from shared.ids import parse_eui48
from shared.keys import MeterKeys
from shared.log import event, get_logger
from shared.machine import Inbox, drive
from shared.messages import RelayState, Report
from shared.modbus import RegisterPort
from shared.notify import Notify, no_notify
from shared.session import End, InvocationCounter, Own, Refusal

TICK_S: Final = 0.5
"""[s] The control tick: the relay's contact is looked at, and the core is asked for a sign of life, this often."""

CONTROL_S_MAX: Final = 2.0
"""[s] Without a turn of the core for so long the daemon ends. The coil has fallen before that: every control tick tells
the relay when the core took its last turn (`RelayPort.beat`, reliability rule 9)."""

ACTUATION_S: Final = 0.04
"""[s] After a command the contact is looked at again, before the report about it leaves."""

INBOX_MAX: Final = 256
PAPERS_MAX: Final = 64
"""Records and reports waiting for the disk; more means that it does not keep up."""

STALL_S: Final = 30.0
"""[s] Without progress for so long a worker counts as hung."""

CORE_STALL_S: Final = 5.0
"""[s] The same for the core and the control tick, on which the relay hangs."""

KEYS_S: Final = 10.0
"""[s] So often the session and the reserve of counters are looked at, or up to twice as often: meters that have started
together shall not introduce themselves together."""

CLOCK_NEWS_S: Final = 2.0
"""[s] A clock that was set by less is no news."""

TRANSFERS_MAX: Final = 4
"""Keys waiting for the disk."""

_LOG: Final = get_logger("meter")


class VaultPort(Protocol):
    """Keys, and how far counters are reserved; each call is done when it is durable, and raises when it is not."""

    @property
    def keys(self) -> MeterKeys:
        """Of this meter, at its start."""

    @property
    def counter(self) -> InvocationCounter:
        """Of this start, its first block reserved."""

    async def reserve(self, end: int) -> None: ...

    async def save(self, keys: MeterKeys) -> None: ...


class StorePort(Protocol):
    """The outbox on disk; each call is done when it is durable, and raises when it is not."""

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
    vault: VaultPort
    home_door: HomeDoor | None = None
    cosem_door: CosemDoor | None = None
    notify: Notify = no_notify
    signals: Signals = Signals.LEFT_ALONE


@dataclass(slots=True)
class Counters:
    """What was thrown away."""

    undecodable: int = 0
    not_delivered: int = 0
    inbox_full: int = 0


class ControlLostError(Exception):
    """The core has not taken a turn in time; the relay was taken back and the daemon has to start again."""


class Secretary:
    """Keeps records and sends what stands behind them, in order, so that the core never waits for a disk.

    After the first error the store is never touched again: what it holds is unknown, and reports go out unrecorded.
    """

    def __init__(self, store: StorePort, send: Callable[[SendUp], None], failed: Callable[[str], object]) -> None:
        self._store = store
        self._send = send
        self._failed = failed
        self._papers: Inbox[Persist | Forget | SendUp] = Inbox("papers", PAPERS_MAX)
        self._trusted = True

    def take(self, paper: Persist | Forget | SendUp) -> None:
        """Leave a record, or a report that must not leave before the records ahead of it."""
        if not self._papers.put(paper):
            self._distrust("the disk does not keep up")

    async def run(self, clock: Clock, progress: Progress) -> None:
        """Work for ever."""
        while True:
            await self._papers.wait(clock, clock.monotonic() + STALL_S / 3)
            while (paper := self._papers.take()) is not None:
                if isinstance(paper, SendUp):
                    self._send(paper)
                elif self._trusted:
                    await self._keep(paper)
            progress()

    async def _keep(self, paper: Persist | Forget) -> None:
        try:
            if isinstance(paper, Persist):
                await self._store.put(paper.report)
            else:
                await self._store.forget(list(paper.seqs))
        except Exception as error:
            # Whatever the storage says, it is lost: no increase until a restart, but limiting and reporting go on.
            self._distrust(str(error) or type(error).__name__)

    def _distrust(self, reason: str) -> None:
        if self._trusted:
            self._trusted = False
            self._failed(reason)


class MeterDaemon:
    """A composed meter."""

    def __init__(self, config: MeterConfig, ports: Ports) -> None:
        self._config = config
        self._ports = ports
        self.counters = Counters()
        self._inbox: Inbox[Input] = Inbox("meter", INBOX_MAX)
        self._core = MeterCore(config.meter_settings, ports.draw, ports.stored)
        eui48 = parse_eui48(config.meter.eui48)
        own = Own.start(End.METER, ports.vault.counter, ports.draw)
        self._gate = Gate(ports.vault.keys, own, ports.draw, _tell_refusal)
        self._transfers: Inbox[tuple[KeysSent, bytes]] = Inbox("keys", TRANSFERS_MAX)
        self._clock_offset_s = 0.0
        self._server = CosemServer(self._core, f"HDR{eui48.hex()}", self.utc_s)
        self._clients = Clients(self._server, ports.vault.keys.client, own, ports.draw, self._set_clock)
        self._public = Association(self._clients, frozenset({Level.PUBLIC}))
        self._reader = Em330Reader(ports.registers, config.em330_settings, ports.clock)
        name, base = config.meter.id.encode("ascii"), ports.vault.keys.dcu_eui48
        self._stack = service_stack(config.plc.stack_settings, eui48, name, ports.draw, base)
        self._runner = StackRunner(self._stack, ports.open_plc, ports.clock, self._heard, config.plc.url)
        self._secretary = Secretary(ports.store, self._send_up, lambda reason: self._put(StoreFailed(reason)))
        self._invoke_id = 0
        self._turn_s = ports.clock.monotonic()

    async def run(self) -> int:
        """Run until stopped (0), or until a part fails (1); the relay is nominal afterwards."""
        clock = self._ports.clock
        supervisor = Supervisor(clock, self._ports.notify, self._ports.signals)
        supervisor.worker("core", self._think, CORE_STALL_S)
        supervisor.worker("control", self._control, CORE_STALL_S)
        supervisor.worker("em330", self._poll, STALL_S)
        supervisor.worker("plc", self._runner.run, STALL_S)
        supervisor.worker("outbox", lambda progress: self._secretary.run(clock, progress), STALL_S)
        supervisor.worker("keys", self._keep_keys, STALL_S)
        door = self._ports.home_door
        if door is not None:
            supervisor.worker("home", lambda progress: door(self, progress), STALL_S)
        cosem = self._ports.cosem_door
        if cosem is not None:
            supervisor.worker("cosem", lambda progress: cosem(self._associate, progress), STALL_S)
        event(_LOG, logging.INFO, "ready", meter=self._config.meter.id, rss_kib=resident_kib())
        self._turn_s = clock.monotonic()
        try:
            return await supervisor.run()
        finally:
            self._ports.relay.close()
            await self._reader.close()

    # ---- the household -----------------------------------------------------------------------------------------------

    def put(self, item: Household) -> bool:
        """What the household says; False if the meter does not keep up."""
        return self._put(item)

    def ask(self, wish: HouseholdAsked) -> Fault | None:
        """Ask for more; why not even asking makes sense, or None."""
        return self._core.objection(wish, self._ports.clock.monotonic()) or self._taken(wish)

    def release(self) -> Fault | None:
        """Give back; why that could not be taken, or None."""
        return self._taken(HouseholdReleased())

    def cap(self, cap: HouseholdCapped) -> Fault | None:
        """Limit oneself, or no longer; why that could not be taken, or None."""
        return self._taken(cap)

    def status(self) -> dict[str, Any]:
        """Who limits me now, and why."""
        counters = self.counters
        return snapshot(self._core, self._ports.clock.monotonic()) | {
            "plc": self._stack.summary()
            | {
                "undecodable": counters.undecodable,
                "not_delivered": counters.not_delivered,
                "inbox_full": counters.inbox_full,
                "old_epoch": self._core.ignored,
            },
            "protection": self._gate.summary()
            | {"clock_offset_s": round(self._clock_offset_s, 2), "clients_refused": dict(self._clients.refused)},
        }

    def utc_s(self) -> float:
        """The wall clock as the DCU has set it [s]; a label, never a reason."""
        return self._ports.clock.utc_s() + self._clock_offset_s

    def _taken(self, item: Household) -> Fault | None:
        return None if self._put(item) else Fault("meter", "too many requests", "one after the other")

    # ---- workers -----------------------------------------------------------------------------------------------------

    async def _think(self, progress: Progress) -> None:
        def turned() -> None:
            self._turn_s = self._ports.clock.monotonic()
            progress()

        await drive(self._core, self._inbox, self._perform, self._ports.clock, turned)

    async def _control(self, progress: Progress) -> None:
        """The control tick: read the contact back, and let the relay know when the core took its last turn."""
        clock = self._ports.clock
        while True:
            self._look()
            self._ports.relay.beat(self._turn_s)
            silent_s = clock.monotonic() - self._turn_s
            if silent_s > CONTROL_S_MAX:
                self._ports.relay.to_nominal()
                raise ControlLostError(f"the core has taken no turn for {silent_s:.1f} s")
            progress()
            await asyncio.sleep(TICK_S)

    async def _poll(self, progress: Progress) -> None:
        clock = self._ports.clock
        while True:
            began_s = clock.monotonic()
            result = await self._reader.read()
            self._put(ReadingTaken(result, began_s))
            progress()
            next_s = max(began_s + self._config.em330.poll_s, self._reader.next_try_s(clock.monotonic()))
            await asyncio.sleep(max(0.0, next_s - clock.monotonic()))

    async def _keep_keys(self, progress: Progress) -> None:
        """Counters are reserved before they are needed, new keys are on disk before they are used."""
        clock, vault, counter = self._ports.clock, self._ports.vault, self._ports.vault.counter
        trusted = True
        while True:
            await self._transfers.wait(clock, clock.monotonic() + KEYS_S * self._ports.draw.uniform(0.5, 1.0))
            try:
                while (transfer := self._transfers.take()) is not None:
                    await self._transfer(*transfer, trusted=trusted)
                if trusted and (wanted := counter.wanted) is not None:
                    await vault.reserve(wanted)
                    counter.extend(wanted)
            except Exception as error:
                # Never a second try on a disk that has failed; what is reserved lasts for a while, then we are silent.
                trusted = False
                self._put(StoreFailed(str(error) or type(error).__name__))
            self._gated(self._gate.tick(clock.monotonic()))
            progress()

    async def _transfer(self, sent: KeysSent, sender: bytes, *, trusted: bool) -> None:
        def answer(result: ActionResultStatus) -> None:
            if self._gate.peer == sender:  # a DCU that has started again knows other keys by the same number
                self._answer(encode_action_answer(sent.invoke_id, result))

        keys = self._gate.unwrapped(sent) if trusted else None
        if keys is None:
            answer(ActionResultStatus.TEMPORARY_FAILURE)
            return
        if keys is self._gate.keys:  # said again, because our answer was lost: we have them
            answer(ActionResultStatus.SUCCESS)
            return
        await self._ports.vault.save(keys)
        answer(ActionResultStatus.SUCCESS)
        what = "new group keys" if keys.pair == self._gate.keys.pair else "new keys"
        self._gated(self._gate.rekey(keys, self._ports.clock.monotonic()))
        event(_LOG, logging.INFO, what, generation=keys.generation)

    # ---- world to core -----------------------------------------------------------------------------------------------

    def _put(self, item: Input) -> bool:
        taken = self._inbox.put(item)
        self.counters.inbox_full += not taken
        return taken

    def _look(self) -> None:
        self._put(RelayObserved(self._ports.relay.read_back()))

    def _heard(self, output: sap.Output) -> None:
        now = self._ports.clock.monotonic()
        match output:
            case sap.DataReceived() if output.ssap == Level.PUBLIC.value:
                self._read_publicly(output, now)
            case sap.DataReceived():
                self._gated(self._gate.receive(output.peer, output.data, now))
            case sap.LinkUp() | sap.LinkDown():
                self._gated(self._gate.link(isinstance(output, sap.LinkUp), now))
            case sap.DataConfirmed():
                self.counters.not_delivered += output.result is not sap.DataResult.ACKNOWLEDGED
            case sap.Happened():
                event(_LOG, logging.INFO, output.what, detail=output.detail)

    def _gated(self, outputs: list[GateOutput]) -> None:
        for output in outputs:
            match output:
                case Transmit():
                    self._transmit(output.data)
                case LinkIs():
                    self._put(LinkChanged(output.up))
                case Heard():
                    self._believed(output)

    def _believed(self, heard: Heard) -> None:
        """An APDU of the DCU, or, lowering, of whoever has the street's group key."""
        try:
            apdu = decode_apdu(heard.plain)
        except DecodeError:
            self.counters.undecodable += 1
            return
        match apdu:
            case Written():
                taken = self._put(MessageArrived(apdu.message, to_all=heard.group))
                if apdu.confirmed and not heard.group:
                    # "Success" says that it arrived; whether it was obeyed is what the next report says.
                    result = AccessResult.SUCCESS if taken else AccessResult.TEMPORARY_FAILURE
                    self._answer(encode_write_answer(apdu.invoke_id, result))
            case ReadRequest():
                self._answer(self._server.answer(apdu, self._ports.clock.monotonic()))
            case ClockWritten():
                self._set_clock(apdu.utc_s)
                if apdu.confirmed:
                    self._answer(encode_write_answer(apdu.invoke_id, AccessResult.SUCCESS))
            case KeysSent():
                self._transfers.put((apdu, self._gate.peer))

    def _set_clock(self, utc_s: float) -> None:
        offset_s = utc_s - self._ports.clock.utc_s()
        if abs(offset_s - self._clock_offset_s) > CLOCK_NEWS_S:
            event(_LOG, logging.INFO, "clock set", before_s=self._clock_offset_s, after_s=offset_s)
        self._clock_offset_s = offset_s

    # ---- reading tools -----------------------------------------------------------------------------------------------

    def _associate(self) -> Answer:
        """A reading tool has connected."""
        association = Association(self._clients)
        return lambda sap, apdu: association.handle(sap, apdu, self._ports.clock.monotonic())

    def _read_publicly(self, received: sap.DataReceived, now: float) -> None:
        """Over the power line a stranger may read what is public; it is told to anybody, and unprotected."""
        answer = self._public.handle(Level.PUBLIC.value, received.data, now)
        item = sap.SendData(None, Level.PUBLIC.value, SERVER_SAP, answer)
        self.counters.not_delivered += not self._runner.send(item)

    # ---- core to world -----------------------------------------------------------------------------------------------

    def _perform(self, output: Output) -> None:
        match output:
            case SetRelay():
                self._move(output.state)
            case SendUp() if not isinstance(output.message, Report):
                self._send_up(output)
            case SendUp() | Persist() | Forget():
                self._secretary.take(output)
            case Event():
                event(_LOG, output.level, output.what, **output.fields)

    def _move(self, state: RelayState) -> None:
        """A relay that does not obey ends the daemon: its state is unknown, and the pins fall back when we are gone."""
        if state is RelayState.RAISED:
            self._ports.relay.raise_export()
        else:
            self._ports.relay.to_nominal()
        clock = self._ports.clock
        clock.call_at(clock.monotonic() + ACTUATION_S, self._look)
        event(_LOG, logging.INFO, "relay", state=state.name)

    def _send_up(self, output: SendUp) -> None:
        self._invoke_id = (self._invoke_id + 1) & 0xFFFFFF
        self._answer(encode_up(output.message, self._invoke_id))

    def _answer(self, apdu: bytes) -> None:
        data = self._gate.protect(apdu)
        if data is None:
            self.counters.not_delivered += 1
        else:
            self._transmit(data)

    def _transmit(self, data: bytes) -> None:
        self.counters.not_delivered += not self._runner.send(sap.SendData(None, CLIENT_SAP, SERVER_SAP, data))


def _tell_refusal(refusal: Refusal, number: int) -> None:
    event(_LOG, logging.WARNING, "frame refused", why=refusal.value, number=number)


def build(config: MeterConfig, ports: Ports) -> MeterDaemon:
    """Compose a meter; to be called inside the loop it will run in."""
    return MeterDaemon(config, ports)
