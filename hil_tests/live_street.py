"""A street of cores in wall-clock time, for people to look at: a feeder's day with a DCU that a page can ask.

The machines of all meters and of the DCU are the real ones (`hil_tests.cores`); the DCU's page socket is the real door,
served from the same loop that decides, so that what a page costs a DCU can be measured here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from dcu.available import Forecaster
from dcu.doors import PageDoor, page_door
from dcu.grid.feeder import Feeder
from dcu.grid.network_file import save_network
from dcu.hosting.headroom import GridLimits
from dcu.page_facts import Recent, page_facts
from dcu.status import snapshot
from hil_tests.cores import WARM_UP_S, Street
from hil_tests.day import at_no_load_pu, make_day, open_feeder
from hil_tests.evaluate import nominal_limit_w
from hil_tests.jump import DirectLedger
from hil_tests.kept import LEDGER, Keeper
from hil_tests.page import start_page
from hil_tests.street_dcu import StreetSettings, report_interval_s
from hil_tests.street_flow import StreetFlow
from shared.clock import LoopClock

NETWORK: Final = "network.json"
SOCKET: Final = "page.sock"
LOOK_S: Final = 10.0
PUBLISH_S: Final = 20
BAND_PCT: Final = 8.0
NO_LOAD_PU: Final = 1.05


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What is played.

    Attributes:
        feeder: a network file, or `eulv`.
        day: `clear`, `broken`, `overcast`, or a CSV file.
        first_minute: of the day.
        minutes: how long.
        speed: seconds of the street in a second.
    """

    feeder: str = "eulv"
    day: str = "broken"
    pv_share: float = 0.5
    policy: str = "equal"
    seed: int = 1
    first_minute: int = 660
    minutes: int = 480
    speed: float = 1.0


@dataclass(slots=True)
class Lag:
    """What the loop of decisions did: seconds each step took, of the clock and of the processor, and by how much each
    began late. A step is one second of a whole street: all meters, the power flow, and the DCU."""

    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)

    def below_ms(self, share: float) -> dict[str, float]:
        """Such a share is not longer [ms]."""
        rows = {"step": self.step_s, "step_cpu": self.cpu_s, "late": self.late_s}
        return {name: round(1000 * float(np.quantile(values, share)), 2) for name, values in rows.items() if values}


class LiveStreet:
    """A street, its DCU's ledger in a directory, and its page socket."""

    def __init__(self, settings: LiveSettings, directory: Path, socket: Path) -> None:
        """Compiles the feeder and draws the day; takes some seconds on a large one."""
        self._settings, self._directory, self.socket = settings, directory, socket
        network = open_feeder(settings.feeder)
        feeder = Feeder(network)
        network = at_no_load_pu(network, np.abs(feeder.model.u_open_v), feeder.u_nominal_v, NO_LOAD_PU)
        feeder = Feeder(network)
        last = settings.first_minute + settings.minutes
        day = make_day(network, settings.day, settings.pv_share, settings.seed, (settings.first_minute, last))
        limits = GridLimits.of(feeder.model, BAND_PCT)
        nominal_w = nominal_limit_w(feeder, day, limits)
        rated = np.flatnonzero(np.isfinite(limits.i_max_a))
        street_settings = StreetSettings(
            nominal_w,
            float(np.median(feeder.model.u_nominal_v)),
            BAND_PCT,
            settings.policy,
            seed=settings.seed,
            report_s=report_interval_s(len(network.connection_points)),
        )
        self._keeper = Keeper(directory)
        self._ledger = DirectLedger(self._keeper.ledger)
        self._recent = Recent()
        self._clock = LoopClock()
        self._street = Street(StreetFlow(feeder, rated), day, street_settings, self._keep)
        self._forecaster = Forecaster(self._street.engine)
        self._second = 0.0
        self.lag = Lag()
        self.network_file = directory / NETWORK
        save_network(network, self.network_file)

    @property
    def ledger(self) -> Path:
        """The state directory of its DCU."""
        return self._directory / LEDGER

    def _keep(self, entry: dict[str, Any]) -> None:
        utc_s = round(self._clock.utc_s(), 3)
        self._recent.note(entry, utc_s, self._ledger.append({**entry, "utc_s": utc_s}))

    def page(self) -> dict[str, Any]:
        """What the page is told."""
        engine = self._street.engine
        told = snapshot(engine, self._ledger, self._second, {}, self._street.dcu.config)
        return told | page_facts(engine, self._recent, self._forecaster, self._clock.utc_s())

    async def run(self) -> None:
        """Warm up as fast as it goes, then play in step with the clock; ends with the day."""
        steps = self.warm_up()
        door = page_door(self.socket, None)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(_serve(door, self.page))
            looking = group.create_task(self._look())
            try:
                await self._play(steps)
            finally:
                serving.cancel()
                looking.cancel()

    def warm_up(self) -> Iterator[int]:
        """The minutes before anybody looks: links, quarantine, first wishes; gives the seconds that follow."""
        steps = self._street.seconds()
        self._second = float(next(second for second in steps if second >= WARM_UP_S))
        self._keeper.ledger.publish()
        return steps

    def look(self) -> Iterator[None]:
        """What everybody could have now, a customer at a time."""
        return self._forecaster.look()

    async def _play(self, steps: Iterator[int]) -> None:
        clock = self._clock
        due = clock.monotonic()
        while True:
            began_s, began_cpu_s = clock.monotonic(), time.thread_time()
            second = next(steps, None)
            if second is None:
                return
            self.lag.step_s.append(clock.monotonic() - began_s)
            self.lag.cpu_s.append(time.thread_time() - began_cpu_s)
            self._second = float(second)
            if second % PUBLISH_S == 0:
                self._keeper.ledger.publish()
            due += 1.0 / self._settings.speed
            await asyncio.sleep(max(0.0, due - clock.monotonic()))
            self.lag.late_s.append(max(0.0, clock.monotonic() - due))

    async def _look(self) -> None:
        """What everybody could have now, a customer at a time, as the daemon does it."""
        while True:
            for _ in self._forecaster.look():
                await asyncio.sleep(0.05)
            await asyncio.sleep(LOOK_S)


async def _serve(door: PageDoor, page: Callable[[], dict[str, Any]]) -> None:
    await door(page, lambda: None)


async def show(settings: LiveSettings, directory: Path, port: int) -> None:
    """Play a street and serve its page until its day is over or somebody interrupts.

    Raises:
        DeviceError: the page did not come up.
    """
    street = LiveStreet(settings, directory, directory / SOCKET)
    playing = asyncio.create_task(street.run())
    page = await start_page(directory, street.socket, street.ledger, street.network_file, port=port)
    print(
        f"page: {page.link}\n(logs in once; later {page.address} with the token {page.token}; Ctrl-C ends)", flush=True
    )
    try:
        await playing
    finally:
        await page.stop()
