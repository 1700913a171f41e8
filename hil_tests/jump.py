"""The street in one process and virtual time: the real daemons on memory ports, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from asyncio import Future
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dcu.daemon
import meter.daemon
from dcu.config import DcuConfig
from dcu.hosting.engine import HostingEngine
from dcu.ledger.store import Files, Ledger, LedgerError, RealFiles, verify
from dcu.store.recorder import Recorder
from dcu.utility.outbox import Outbox
from dcu.utility_side import ordered_config
from hil_tests.enrolment import DcuVault, MeterVault
from hil_tests.observation import Observation
from hil_tests.player import Ear
from hil_tests.scenario import CLIENTS, Scenario
from hil_tests.utility_bench import Commander, DirectOutbox, kill_outbox, memory_ports
from hil_tests.virtual.broker import MemoryBroker
from hil_tests.virtual.feeder import Feeder
from hil_tests.virtual.gpio import VirtualRelay
from hil_tests.virtual.line import LineSettings
from hil_tests.virtual.loop import VirtualLoop
from hil_tests.virtual.modem import open_memory_port
from hil_tests.world import DCU, SUBSTATION, World, dcu_config, meter_config
from meter.config import MeterConfig
from meter.core import HouseholdAsked, HouseholdReleased
from meter.outbox import MemoryStore
from shared.clock import LoopClock
from shared.config import check_config
from shared.ids import Epoch, MeterId
from shared.messages import Report

NOWHERE: Final = "tcp://127.0.0.1:502?unit=1"
"""Configurations need an address; in memory nobody opens it."""


MakeStore = Callable[[LoopClock, DcuConfig, Ledger], Recorder]
"""Makes the store of a DCU that has none otherwise: its files are no part of a play's physics."""


class NoSync(RealFiles):
    """A disk that is always fast; virtual time does not lose power."""

    def sync(self, file: int) -> None:
        del file


class DirectLedger:
    """`dcu.daemon.LedgerPort` without a thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def position(self) -> int:
        return self._ledger.position

    @property
    def head(self) -> bytes:
        return self._ledger.head

    def append(self, entry: dict[str, Any]) -> Future[int]:
        done: Future[int] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(self._ledger.append(entry))
        except LedgerError as error:
            done.set_exception(error)
        return done


class DirectStore:
    """`meter.daemon.StorePort` without a thread."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def put(self, report: Report) -> None:
        self._store.put(report)

    async def forget(self, seqs: list[int]) -> None:
        self._store.forget(seqs)


@dataclass(frozen=True, slots=True)
class Utility:
    """Who the DCU of a street is linked to."""

    broker: MemoryBroker
    commander: Commander


class JumpStreet:
    """`hil_tests.player.Street` in one process."""

    def __init__(
        self,
        scenario: Scenario,
        ear: Ear,
        directory: Path,
        seed: int,
        line: LineSettings | None = None,
        make_store: MakeStore | None = None,
        utility: Utility | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "virtual streets live on virtual loops"
        self._scenario = scenario
        self._ear = ear
        self._directory = directory
        self._draw = random.Random(seed + 1)
        self.salts: Callable[[int], bytes] = random.Random(seed + 2).randbytes
        self.medium: Files = NoSync()
        """Of the DCU's ledger; tests put others there, before a start."""
        self.open_line = open_memory_port
        """How a daemon opens its modem; the same."""
        self._clock = LoopClock(loop, loop.utc_s)
        self._world = World(scenario, ear, loop, self._clock, seed, line)
        self._stores = {name: MemoryStore() for name in CLIENTS}
        self.dcu_vault = DcuVault(self._world.ring)
        self.vaults = {name: MeterVault(self._world.ring.exported(MeterId(name))) for name in CLIENTS}
        self._meters: dict[str, meter.daemon.MeterDaemon] = {}
        self._dcu: dcu.daemon.DcuDaemon | None = None
        self._ledger: Ledger | None = None
        self._make_store = make_store
        self._store: Recorder | None = None
        self._tasks: dict[str, asyncio.Task[int]] = {}
        self._utility = utility
        self._outbox: Outbox | None = None

    @property
    def feeder(self) -> Feeder:
        return self._world.feeder

    @property
    def world(self) -> World:
        """The physical side, for tests that break things."""
        return self._world

    @property
    def engine(self) -> HostingEngine:
        """The DCU's, for tests that break it."""
        assert self._dcu is not None
        return self._dcu.engine

    async def start(self) -> None:
        for name in (DCU, *CLIENTS):
            await self.launch(name)

    async def launch(self, who: str) -> None:
        task = self._launch_dcu() if who == DCU else self._launch_meter(who)
        self._tasks[who] = asyncio.ensure_future(task)

    def _launch_dcu(self) -> Any:
        content = dcu_config(self._scenario, NOWHERE, DCU, str(self._directory / "state" / DCU), "none", "none")
        if self._utility is not None:
            key = base64.b64encode(self._utility.commander.public).decode()
            content["utility"] = {"url": "mqtt://127.0.0.1:1883", "command_keys": [key], "report_interval_s": 10.0}
        config = check_config(DCU, content, DcuConfig)
        self._ledger = Ledger(config.state_directory, config.dcu.id, self.medium, draw=self.salts)
        self.dcu_vault.start()
        utility = None
        if self._utility is not None:
            utility = memory_ports(config, self._ledger, self._utility.broker)
            config = ordered_config(config, utility.settings)
            assert isinstance(utility.outbox, DirectOutbox), utility
            self._outbox = utility.outbox.outbox
        if self._make_store is not None:
            self._store = self._make_store(self._clock, config, self._ledger)
        ports = dcu.daemon.Ports(
            clock=self._clock,
            draw=random.Random(self._draw.getrandbits(64)),
            open_plc=self.open_line(self._world.modems[DCU]),
            registers=self._world.meters[SUBSTATION].port(answer_s=0.0),
            ledger=DirectLedger(self._ledger),
            epoch=Epoch(self._ledger.epoch + 1),
            vault=self.dcu_vault,
            utility=utility,
            store=self._store,
        )
        self._dcu = dcu.daemon.build(config, ports)
        return self._dcu.run()

    def _launch_meter(self, name: str) -> Any:
        content = meter_config(self._scenario, name, NOWHERE, name, "none", (1, "none"), "none")
        config = check_config(name, content, MeterConfig)
        store = self._stores[name]
        self.vaults[name].start()
        ports = meter.daemon.Ports(
            clock=self._clock,
            draw=random.Random(self._draw.getrandbits(64)),
            open_plc=self.open_line(self._world.modems[name]),
            registers=self._world.meters[name].port(answer_s=0.0),
            relay=VirtualRelay(self._world.relays[name]),
            store=DirectStore(store),
            stored=store.load(),
            vault=self.vaults[name],
        )
        self._meters[name] = meter.daemon.build(config, ports)
        return self._meters[name].run()

    async def ready(self) -> bool:
        assert self._dcu is not None
        return street_ready(self._dcu.status())

    async def ask(self, client: str, limit_w: float) -> None:
        if client in self._meters:
            self._meters[client].put(HouseholdAsked(limit_w, limit_w))

    async def release(self, client: str) -> None:
        if client in self._meters:
            self._meters[client].put(HouseholdReleased())

    async def kill(self, who: str) -> None:
        task = self._tasks.pop(who, None)
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if who == DCU:
            assert self._ledger is not None
            self._ledger.close()
            if self._store is not None:
                self._store.close()
            self._ledger = self._dcu = self._store = None
            if self._outbox is not None:
                kill_outbox(self._outbox)
                self._outbox = None
        else:
            del self._meters[who]

    def ended(self, who: str) -> int | None:
        """What a daemon ended with by itself; None while it runs, and when it was killed."""
        task = self._tasks.get(who)
        return task.result() if task is not None and task.done() else None

    def set_line(self, alive: bool) -> None:
        self._world.line.dead = not alive

    async def status(self, client: str) -> dict[str, Any]:
        return self._meters[client].status() if client in self._meters else {}

    async def stop(self) -> None:
        for who in list(self._tasks):
            await self.kill(who)

    def gather(self, seen: Observation) -> None:
        found = verify(self._directory / "state" / DCU)
        seen.ledger, seen.ledger_faults = found.entries, found.faults


def street_ready(status: dict[str, Any]) -> bool:
    """Whether a DCU's status says that everything is linked, measured and out of quarantine."""
    points = [status["substation"], *status["meters"]]
    return not status["quarantine"] and all(point["quality"] == "good" for point in points)


def stopwatch() -> Callable[[], float]:
    """Seconds of real time since this call [s]."""
    started = time.perf_counter()
    return lambda: time.perf_counter() - started
