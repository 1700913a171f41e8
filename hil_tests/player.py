"""Plays a scenario on a street and watches it from outside; the same player for wall-clock and virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from hil_tests.observation import Note, Observation, RelayMove, Sample, WireFrame
from hil_tests.scenario import CLIENTS, Action, Ask, Line, Process, Release, Scenario
from hil_tests.virtual.feeder import Customer, Feeder, Plant, Trace
from shared.errors import HeadroomError

READY_S_MAX: Final = 60.0
"""[s] A street that is not up by then is broken."""

READY_POLL_S: Final = 0.5
SAMPLE_S: Final = 0.1
"""[s] Sampling of the physics; half the ramp's time constant would already do."""


class StreetError(HeadroomError):
    """The street did not come up, or fell over."""


class Street(Protocol):
    """What the player needs of a street; `hil_tests.wall` and `hil_tests.jump` build one each."""

    @property
    def feeder(self) -> Feeder: ...

    async def start(self) -> None:
        """Bring up line, devices and daemons."""

    async def ready(self) -> bool:
        """Whether every meter is linked and obeys the DCU's epoch."""

    async def ask(self, client: str, limit_w: float) -> None:
        """A household asks at its meter's local door."""

    async def release(self, client: str) -> None:
        """A household releases."""

    async def kill(self, who: str) -> None:
        """SIGKILL, or what it means in one process: memory and devices gone, files kept."""

    async def launch(self, who: str) -> None:
        """Start a daemon (again)."""

    def set_line(self, alive: bool) -> None:
        """The power line dies or lives."""

    async def status(self, client: str) -> dict[str, Any]:
        """What the meter's local door says; empty if it does not answer."""

    async def stop(self) -> None:
        """End everything that was started."""

    def gather(self, seen: Observation) -> None:
        """Read ledgers and daemon logs into the observation, after `stop`."""


class Ear:
    """Where a street reports what happens; knows the scenario's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._zero_s: float | None = None
        self.seen = Observation()

    def restart_clock(self) -> None:
        """The scenario begins now; what came before is forgotten but for its notes."""
        self._zero_s = self._loop.time()
        self.seen.frames.clear()
        self.seen.relay_moves.clear()
        self.seen.samples.clear()

    @property
    def now(self) -> float:
        """Scenario time [s]; it stands at 0 until the scenario begins."""
        return self.scenario_time(self._loop.time())

    def scenario_time(self, loop_time: float) -> float:
        """Scenario time [s] of a moment of the loop's clock."""
        return 0.0 if self._zero_s is None else loop_time - self._zero_s

    def frame(self, frame: WireFrame) -> None:
        self.seen.frames.append(frame)

    def relay(self, client: str, raised: bool) -> None:
        self.seen.relay_moves.append(RelayMove(self.now, client, raised))

    def note(self, what: str, detail: str = "") -> None:
        self.seen.notes.append(Note(self.now, what, detail))


def build_feeder(scenario: Scenario) -> Feeder:
    """The imposed feeder of a scenario."""
    traces = scenario.traces
    volts = (traces.client1_v, traces.client2_v)
    available = (traces.client1_available_a, traces.client2_available_a)
    customers = tuple(
        Customer(name, _trace(u), Plant(scenario.plant.nominal_a, scenario.plant.raised_a, _trace(a)))
        for name, u, a in zip(CLIENTS, volts, available, strict=True)
    )
    return Feeder(_trace(traces.busbar_v), customers)


def _trace(points: list[list[float]]) -> Trace:
    return Trace([(time, value) for time, value in points])


async def play(
    scenario: Scenario,
    street: Street,
    ear: Ear,
    on_sample: Callable[[Observation], None] = lambda _: None,
) -> Observation:
    """Play a scenario from the moment the street is ready to its last second, and return what was seen.

    Raises:
        StreetError: the street is not ready within `READY_S_MAX`.
    """
    try:
        await street.start()
        await _until_ready(street)
        ear.restart_clock()
        ear.note("ready")
        async with asyncio.TaskGroup() as group:
            group.create_task(_act(scenario, street, ear))
            await _sample(scenario, street, ear, on_sample)
        for client in CLIENTS:
            ear.seen.status[client] = await street.status(client)
    finally:
        await street.stop()
    street.gather(ear.seen)
    return ear.seen


async def _until_ready(street: Street) -> None:
    try:
        async with asyncio.timeout(READY_S_MAX):
            while not await street.ready():  # noqa: ASYNC110  # asks other processes
                await asyncio.sleep(READY_POLL_S)
    except TimeoutError as error:
        raise StreetError(f"street: seen no link to every meter, expected one within {READY_S_MAX:g} s") from error


async def _act(scenario: Scenario, street: Street, ear: Ear) -> None:
    for action in sorted(scenario.action, key=lambda action: action.at_s):
        await asyncio.sleep(max(0.0, action.at_s - ear.now))
        what, done = _what(action, street)
        ear.note(*what)
        await done


def _what(action: Action, street: Street) -> tuple[tuple[str, str], Awaitable[None]]:
    match action:
        case Ask():
            return ("ask", f"{action.client} {action.limit_w:g} W"), street.ask(action.client, action.limit_w)
        case Release():
            return ("release", action.client), street.release(action.client)
        case Line():
            return (action.do, ""), _set_line(street, action.do == "line lives")
        case Process(do="kill"):
            return (f"kill -9 {action.who}", ""), street.kill(action.who)
        case Process():
            return (f"start {action.who}", ""), street.launch(action.who)


async def _set_line(street: Street, alive: bool) -> None:
    street.set_line(alive)


async def _sample(scenario: Scenario, street: Street, ear: Ear, on_sample: Callable[[Observation], None]) -> None:
    """Sample the physics until the scenario ends; by timers, because a task would cost virtual time a third more."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    customers = street.feeder.customers
    count = round(scenario.duration_s / SAMPLE_S)

    def sample(index: int) -> None:
        now = ear.now
        ear.seen.samples.append(
            Sample(
                t_s=now,
                busbar_v=street.feeder.busbar.at(now),
                u_v=tuple([customer.u_v(now) for customer in customers]),
                export_a=tuple([customer.export_a(now) for customer in customers]),
                raised=tuple([customer.raised for customer in customers]),
            )
        )
        on_sample(ear.seen)
        if index == count:
            done.set_result(None)
        else:
            loop.call_later(max(0.0, (index + 1) * SAMPLE_S - ear.now), sample, index + 1)

    sample(0)
    await done
