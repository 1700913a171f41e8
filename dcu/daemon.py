"""The DCU daemon: everybody meets here. `build(config, ports)` composes; ports decide whether the world is real."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from asyncio import Future
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol

from dcu.accusations import Accusation, Numbers
from dcu.available import Forecaster
from dcu.config import DcuConfig
from dcu.doors import PageDoor, StatusDoor
from dcu.garbage import TIDY_S
from dcu.gate import AlarmAcknowledged, Gate, Heard, IdentityAlarm, KeysDiffer, LinkIs, Transmit
from dcu.gate import Output as GateOutput
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
    SendAll,
    SendDown,
    StorageFailed,
    SubstationRead,
    Wait,
)
from dcu.hosting.measurements import SUBSTATION
from dcu.keys import METERS_MAX, KeyRing
from dcu.page_facts import Recent, page_facts
from dcu.pings import Pings
from dcu.status import snapshot
from dcu.utility_side import UtilityPorts, UtilitySide
from prime_plc import sap
from prime_plc.link import OpenPlc, StackRunner
from prime_plc.stack import base_stack
from prime_plc.tap import Tap
from shared.clock import Clock
from shared.cosem import CLIENT_SAP, SERVER_SAP, Pushed, decode_apdu, encode_down
from shared.cosem_security import ActionAnswered, encode_clock
from shared.daemon import Progress, Signals, Supervisor, resident_kib
from shared.em330 import Em330Reader
from shared.errors import DecodeError
from shared.ids import Epoch, Eui48, MeterId, format_eui48, parse_eui48
from shared.log import event, get_logger
from shared.machine import Inbox, drive
from shared.messages import Reading, Release, Report, Request
from shared.modbus import RegisterPort
from shared.notify import Notify, no_notify
from shared.session import End, InvocationCounter, Own, Refusal
from shared.status_socket import PIB, PING, STATUS, TRACE

REVOKE_WAIT_S: Final = 0.25
"""[s] A revoke waits for the disk no longer."""

INBOX_MAX: Final = 1024
UNSENT_MAX: Final = 1024
"""Messages waiting for their record."""

PAUSE_S: Final = 0.05
"""[s] Between two steps of a forecast, so that decisions come in between."""

KEYS_S: Final = 10.0
"""[s] So often the file of keys, the sessions and the reserve of counters are looked at."""

REMEDY: Final = "put the newest file of keys back; if there is none: headroom-keys revoke, make, export"

STALL_S: Final = 30.0
"""[s] Without progress for so long a worker counts as hung."""

KEPT_EVENTS: Final = frozenset({"meter silent", "meter linked", "storage failed"})
"""Transitions of the engine that the store keeps; decisions it has from the ledger."""

_LOG: Final = get_logger("dcu")


class VaultPort(Protocol):
    """Keys of the street, and how far counters are reserved."""

    @property
    def ring(self) -> KeyRing:
        """The keys at the start."""

    @property
    def counter(self) -> InvocationCounter:
        """Of this start, its first block reserved."""

    def changed(self) -> KeyRing | None:
        """The keys, if they have changed since they were last given."""

    @property
    def alarms(self) -> Mapping[MeterId, Accusation]:
        """The alarms of meters' identities that stood when the daemon before us ended."""

    @property
    def numbers(self) -> Numbers:
        """What it knew to be acknowledged."""

    async def reserve(self, end: int) -> None:
        """Done when counters below ``end`` are durably reserved; raises when they are not."""

    async def accuse(self, alarms: Mapping[MeterId, Accusation], numbers: Mapping[MeterId, tuple[int, ...]]) -> None:
        """Done when these alarms, and no others, are on disk, and then what was acknowledged; raises when they are
        not."""


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


class StorePort(Protocol):
    """Keeps what people and studies want to know later. Takes no time, refuses nothing, decides nothing."""

    def reported(self, meter: MeterId, report: Report) -> None:
        """A meter's report was believed."""

    def substation_read(self, name: str, reading: Reading) -> None:
        """The balancing meter was read."""

    def decided(self, position: int, entry: Mapping[str, Any]) -> None:
        """An entry is durable in the ledger."""

    def happened(self, what: str, meter: str | None, fields: Mapping[str, object]) -> None:
        """Something that is not in the ledger."""

    async def run(self, progress: Progress) -> None:
        """Work, for ever."""

    def status(self) -> dict[str, Any]:
        """For people."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything of the world a DCU touches."""

    clock: Clock
    draw: random.Random
    open_plc: OpenPlc
    registers: RegisterPort
    ledger: LedgerPort
    epoch: Epoch
    vault: VaultPort
    status_door: StatusDoor | None = None
    page_door: PageDoor | None = None
    store: StorePort | None = None
    notify: Notify = no_notify
    tidy: Callable[[], None] | None = None
    """Collects garbage; None where the interpreter does it by itself."""
    signals: Signals = Signals.LEFT_ALONE
    utility: UtilityPorts | None = None


@dataclass(slots=True)
class Counters:
    """What was thrown away."""

    strangers: int = 0
    undecodable: int = 0
    not_delivered: int = 0
    not_protected: int = 0
    inbox_full: int = 0


@dataclass(slots=True)
class _Waiting:
    """A record, and the message about it that must not leave before."""

    record: Future[int]
    output: SendDown | SendAll | None


class Scribe:
    """Performs the engine's outputs: records in order, and no message before its record is durable.

    Revokes have a lane of their own in which the disk may take `REVOKE_WAIT_S` and no more, so that neither a slow disk
    nor a stalled grant holds one up.
    """

    def __init__(self, ledger: LedgerPort, send: Callable[[SendDown | SendAll], None], done: Future[int]) -> None:
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

    def send(self, output: SendDown | SendAll) -> None:
        """Send when its record, the newest one, is durable."""
        brief = isinstance(output, SendAll) or output.wait is Wait.BRIEFLY
        lane = self._urgent if brief else self._orderly
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
        self._tap = Tap(ports.clock)
        self._runner = StackRunner(self._stack, self._tap.on(ports.open_plc), ports.clock, self._heard, config.plc.url)
        self._reader = Em330Reader(ports.registers, config.em330_settings, ports.clock)
        self._addresses = {entry.id: entry.eui48 for entry in config.entries}
        own = Own.start(End.DCU, ports.vault.counter, ports.draw)
        vault = ports.vault
        self._gate = Gate(
            vault.ring, own, ports.draw, _tell_refusal, vault.alarms, self._addresses, Numbers(vault.numbers.rows)
        )
        self._accused: Inbox[IdentityAlarm | AlarmAcknowledged] = Inbox("identity alarms", METERS_MAX)
        self._pings = Pings(self._runner.send, ports.clock)
        self._invoke_id = 0
        self._substation = ""
        self._forecaster = Forecaster(self.engine)
        self._recent = Recent()
        started: Future[int] = asyncio.get_running_loop().create_future()
        started.set_result(0)
        self._scribe = Scribe(ports.ledger, self._send, started)
        self._utility: UtilitySide | None = None
        if ports.utility is not None:
            self._utility = UtilitySide(
                self.engine, ports.utility, ports.clock, ports.draw, self._put, self._own_alarms
            )
            self._utility.forecaster = self._forecaster

    async def run(self) -> int:
        """Run until stopped (0), or until a part fails (1)."""
        for output in self.engine.start():
            assert isinstance(output, Record), output
            record = self.ports.ledger.append(output.entry)
            position = await record  # the epoch is durable before the modem is even opened
            if self.ports.store is not None:
                self.ports.store.decided(position, output.entry)
            if self._utility is not None:
                self._utility.recorded(output.entry, record)
        supervisor = Supervisor(self.ports.clock, self.ports.notify, self.ports.signals)
        supervisor.worker("engine", self._decide, STALL_S)
        supervisor.worker("plc", self._runner.run, STALL_S)
        supervisor.worker("balancing", self._poll, STALL_S)
        supervisor.worker("records", lambda progress: self._scribe.run_orderly(self.ports.clock, progress), STALL_S)
        supervisor.worker("revokes", lambda progress: self._scribe.run_urgent(self.ports.clock, progress), STALL_S)
        supervisor.worker("forecast", self._forecast, STALL_S)
        supervisor.worker("keys", self._keep_keys, STALL_S)
        if self.ports.store is not None:
            supervisor.worker("store", self.ports.store.run, math.inf)  # however long a disk hangs: we decide on
        if self._utility is not None:
            self._utility.add_workers(supervisor)
        if self.ports.tidy is not None:
            supervisor.worker("garbage", self._tidy, STALL_S)
        door = self.ports.status_door
        if door is not None:
            supervisor.worker("status", lambda progress: door(self.answer, progress), STALL_S)
        page = self.ports.page_door
        if page is not None:
            supervisor.worker("page", lambda progress: page(self.page, progress), STALL_S)
        event(_LOG, logging.INFO, "ready", epoch=self.engine.epoch, rss_kib=resident_kib())
        try:
            return await supervisor.run()
        finally:
            await self._reader.close()

    def status(self) -> dict[str, Any]:
        """What people ask for."""
        plc = self._stack.summary() | {"inbox_refused": self._inbox.refused}
        found = snapshot(self.engine, self.ports.ledger, self.ports.clock.monotonic(), plc, self.config)
        stored = {} if self.ports.store is None else {"store": self.ports.store.status()}
        if self._utility is not None:
            stored["utility"] = self._utility.link.status()
        return found | {"available": self._forecaster.as_status(), "protection": self._gate.summary()} | stored

    def page(self) -> dict[str, Any]:
        """What the operator's page shows."""
        found = snapshot(
            self.engine, self.ports.ledger, self.ports.clock.monotonic(), self._stack.summary(), self.config
        )
        found |= {"counters": asdict(self.counters), "protection": self._gate.summary()}
        found["short_of_room"] = self._short_of_room
        return found | page_facts(self.engine, self._recent, self._forecaster, self.ports.clock.utc_s())

    async def answer(self, question: str) -> dict[str, Any]:
        """What a person asks on the status socket. Nothing that is asked there changes a limit, a configuration, a key
        or the ledger: who asks is not known."""
        word, _, rest = question.strip().partition(" ")
        if word == STATUS:
            return self.status()
        if word == PIB:
            return {"pib": self._stack.pib()}
        if word == TRACE:
            return {"serial": self._tap.told()}
        try:
            if word == PING:
                return await self._pings.ping(parse_eui48(rest))
        except DecodeError as error:
            return {"error": str(error)}
        return {"error": f"seen {word[:16]!r}, expected nothing, {PIB}, {TRACE}, or {PING} and an EUI-48"}

    # ---- workers -----------------------------------------------------------------------------------------------------

    async def _decide(self, progress: Progress) -> None:
        await drive(self.engine, self._inbox, self._perform, self.ports.clock, progress)

    async def _forecast(self, progress: Progress) -> None:
        """Keep the headroom of the next hours up to date, between decisions."""
        clock = self.ports.clock
        while True:
            for _ in chain(self._forecaster.work(clock.monotonic(), clock.utc_s()), self._forecaster.look()):
                progress()
                await asyncio.sleep(PAUSE_S)
            progress()
            await asyncio.sleep(STALL_S / 3)

    async def _tidy(self, progress: Progress) -> None:
        """Collect garbage between decisions."""
        assert self.ports.tidy is not None
        while True:
            self.ports.tidy()
            progress()
            await asyncio.sleep(TIDY_S)

    async def _poll(self, progress: Progress) -> None:
        clock = self.ports.clock
        while True:
            began_s = clock.monotonic()
            result = await self._reader.read()
            reading = result if isinstance(result, Reading) else None
            if reading is not None and self.ports.store is not None:
                self.ports.store.substation_read(SUBSTATION, reading)
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

    async def _keep_keys(self, progress: Progress) -> None:
        """Counters are reserved before they are needed (a disk that fails ends the daemon); changed keys count, and
        alarms of identities are kept."""
        clock, vault, counter = self.ports.clock, self.ports.vault, self.ports.vault.counter
        on_disk = dict(vault.alarms), dict(vault.numbers.rows)
        while True:
            if (wanted := counter.wanted) is not None:
                await vault.reserve(wanted)
                counter.extend(wanted)
            now = clock.monotonic()
            if (ring := vault.changed()) is not None:
                event(_LOG, logging.INFO, "keys changed", meters=len(ring.meters), group=ring.group.generation)
                self._gated(self._gate.renew(ring, now))
            self._gated(self._gate.tick(now))
            while self._accused.take() is not None:
                pass
            if (known := (dict(self._gate.alarms), dict(self._gate.numbers.rows))) != on_disk:
                await vault.accuse(*known)
                on_disk = known
            progress()
            await self._accused.wait(clock, clock.monotonic() + KEYS_S)

    # ---- wire to engine ----------------------------------------------------------------------------------------------

    def _heard(self, output: sap.Output) -> None:
        now = self.ports.clock.monotonic()
        match output:
            case sap.DataReceived():
                self._gated(self._gate.receive(output.peer, output.data, now))
            case sap.LinkUp() | sap.LinkDown():
                if self._known(output.peer):
                    self._gated(self._gate.link(output.peer, isinstance(output, sap.LinkUp)))
            case sap.DataConfirmed():
                self.counters.not_delivered += output.result is not sap.DataResult.ACKNOWLEDGED
            case sap.Pinged():
                self._pings.heard(output)
            case sap.Happened():
                event(_LOG, logging.INFO, output.what, detail=output.detail)

    def _known(self, eui48: Eui48) -> bool:
        known = self.engine.table.of(eui48) is not None
        if not known:
            self.counters.strangers += 1
            event(_LOG, logging.WARNING, "unknown meter", eui48=format_eui48(eui48))
        return known

    def _gated(self, outputs: list[GateOutput]) -> None:
        for output in outputs:
            match output:
                case Transmit():
                    self._transmit(output.peer, output.data)
                case LinkIs() if output.meter in self._addresses:
                    self._put(LinkChanged(output.meter, output.up))
                    if output.up:
                        self._send_apdu(output.meter, encode_clock(self.ports.clock.utc_s()))
                case Heard() if output.meter in self._addresses:
                    self._believed(output.meter, output.plain)
                case IdentityAlarm() | AlarmAcknowledged():
                    self._note_identity(output)
                case KeysDiffer() if output.meter in self._addresses:
                    event(_LOG, logging.ERROR, "keys of a meter differ from ours", meter=output.meter, remedy=REMEDY)

    def _note_identity(self, news: IdentityAlarm | AlarmAcknowledged) -> None:
        """Told and kept with the events first; a death before the alarm's own file is written tells it again."""
        told = isinstance(news, IdentityAlarm)
        what = "keys used by another device" if told else "identity alarm acknowledged"
        address = format_eui48(news.eui48)
        event(_LOG, logging.ERROR if told else logging.INFO, what, meter=news.meter, eui48=address)
        self._keep(what, news.meter, {"eui48": address})
        self._accused.put(news)

    def _believed(self, meter: MeterId, plain: bytes) -> None:
        try:
            apdu = decode_apdu(plain)
        except DecodeError:
            self.counters.undecodable += 1
            return
        if isinstance(apdu, ActionAnswered):
            self._gate.answered(meter, apdu)
        if not isinstance(apdu, Pushed):
            return  # answers to our SETs: what a meter has applied it says in its reports
        match apdu.message:
            case Report():
                self._put(ReportArrived(meter, apdu.message))
                if self.ports.store is not None:
                    self.ports.store.reported(meter, apdu.message)
            case Request():
                self._put(RequestArrived(meter, apdu.message))
            case Release():
                self._put(ReleaseArrived(meter, apdu.message))

    def _put(self, item: Input) -> bool:
        taken = self._inbox.put(item)
        self.counters.inbox_full += not taken
        return taken

    # ---- engine to world ---------------------------------------------------------------------------------------------

    def _perform(self, output: Output) -> None:
        match output:
            case Record():
                record = self._scribe.record(output)
                record.add_done_callback(partial(self._recorded, output.entry))
                if self._utility is not None:
                    record.add_done_callback(partial(self._utility.recorded, output.entry))
                self._recent.note(output.entry, self.ports.clock.utc_s(), record)
            case SendDown() | SendAll():
                self._scribe.send(output)
            case Event():
                event(_LOG, logging.INFO, output.what, **output.fields)
                if output.what in KEPT_EVENTS:
                    meter = output.fields.get("meter")
                    self._keep(output.what, None if meter is None else str(meter), {})

    def _recorded(self, entry: Mapping[str, Any], record: Future[int]) -> None:
        """A record that fails stops all granting at once; the daemon then ends, and recovers by starting again."""
        if record.cancelled():
            return
        error = record.exception()
        if error is not None:
            self._put(StorageFailed(str(error)))
        elif self.ports.store is not None:
            self.ports.store.decided(record.result(), entry)

    def _keep(self, what: str, meter: str | None, fields: Mapping[str, object]) -> None:
        if self.ports.store is not None:
            self.ports.store.happened(what, meter, fields)

    def _own_alarms(self) -> dict[str, str]:
        """Identity alarms of meters, the balancing meter's, and the medium's."""
        alarms: dict[str, str] = dict(self._gate.summary()["alarms"])
        if self._short_of_room:
            alarms["medium"] = "nearly full"
        if self._substation not in {"", "good"}:
            alarms["balancing meter"] = self._substation
        return alarms

    @property
    def _short_of_room(self) -> bool:
        return self.ports.store is not None and bool(self.ports.store.status().get("short_space"))

    def _send(self, output: SendDown | SendAll) -> None:
        self._invoke_id = (self._invoke_id + 1) % 16
        apdu = encode_down(output.message, self._invoke_id)
        if isinstance(output, SendAll):
            self._send_to_all(apdu)
        else:
            self._send_apdu(output.meter, apdu)

    def _send_to_all(self, apdu: bytes) -> None:
        frames = self._gate.protect_all(apdu, self.ports.clock.monotonic())
        self.counters.not_protected += not frames
        for data in frames:
            self.counters.inbox_full += not self._runner.send(sap.SendBroadcast(SERVER_SAP, CLIENT_SAP, data))

    def _send_apdu(self, meter: MeterId, apdu: bytes) -> None:
        data = self._gate.protect(meter, apdu)
        if data is None:
            self.counters.not_protected += 1  # nobody there who holds the keys, or no counter
        else:
            self._transmit(self._addresses[meter], data)

    def _transmit(self, peer: Eui48, data: bytes) -> None:
        if not self._runner.send(sap.SendData(peer, SERVER_SAP, CLIENT_SAP, data)):
            self.counters.inbox_full += 1


def _tell_refusal(refusal: Refusal, number: int) -> None:
    event(_LOG, logging.WARNING, "frame refused", why=refusal.value, number=number)


def build(config: DcuConfig, ports: Ports, rule: Rule | None = None) -> DcuDaemon:
    """Compose a DCU; to be called inside the loop it will run in. ``rule`` as for `HostingEngine`."""
    engine = HostingEngine(config.site_settings, config.entries, ports.epoch, ports.clock.monotonic(), rule)
    return DcuDaemon(config, ports, engine)
