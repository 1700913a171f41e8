"""A machine that refuses: no room, nothing may be written, no memory, no randomness, no names, no time.

Whole streets in virtual time. Where the ledger cannot record, everybody falls to the nominal limit and comes back by
itself once it can; what is not the ledger's business stops no grant.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dcu.hosting.engine import QUARANTINE_S
from dcu.ledger.journal import journals
from dcu.ledger.layout import current, ended
from dcu.ledger.store import CONTINUED, LedgerError, read
from dcu.utility.outbox import Outbox
from dcu.utility.tests.no_room import NoRoom
from hil_tests import utility_bench
from hil_tests.jump import JumpStreet, NoSync, Utility
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import Ask, load_scenario
from hil_tests.utility_bench import Commander
from hil_tests.verdict import judge
from hil_tests.virtual.broker import MemoryBroker, MemoryUtility
from hil_tests.virtual.em330 import MemoryPort
from hil_tests.virtual.loop import UTC_AT_START_S, VirtualLoop, run_virtual
from hil_tests.virtual.modem import VirtualModem, open_memory_port
from hil_tests.world import DCU, SUBSTATION
from prime_plc.link import BACKOFF_S_MAX
from shared.messages import DecisionId, Grant
from shared.modbus import ModbusSilence

LEASE_S = 20.0 + 2.0
"""[s] Of scenario I; nothing is applied for longer after the last message."""
POLL_S = 1.0
"""A meter is read so often in scenario I."""
Doing = tuple[float, Callable[[JumpStreet], Awaitable[None] | None]]


class Medium(NoSync):
    """A disk that refuses for a while."""

    refuses: int | None = None

    def _ask(self) -> None:
        if self.refuses is not None:
            raise OSError(self.refuses, os.strerror(self.refuses))

    def create(self, path: Path) -> int:
        self._ask()
        return super().create(path)

    def append(self, file: int, data: bytes) -> None:
        self._ask()
        super().append(file, data)

    def open(self, path: Path) -> int:
        if self.refuses == errno.EROFS:
            self._ask()
        return super().open(path)


def play_with(
    tmp_path: Path, doings: list[Doing], duration_s: float, unless: str = "", **street_has: Any
) -> tuple[Observation, JumpStreet]:
    """Scenario I for so long; client 1 asks at the fifth second, and things are done at others. What holds on every
    street holds, but for the one thing named ``unless``."""
    base = load_scenario("granted")
    ask = Ask(do="ask", at_s=5.0, client="client1", limit_w=base.site.contract_limit_w)
    scenario = base.model_copy(update={"duration_s": duration_s, "expect": [], "action": [ask]})
    streets: list[JumpStreet] = []

    async def main() -> Observation:
        ear = Ear(asyncio.get_running_loop())
        streets.append(JumpStreet(scenario, ear, tmp_path, 1, utility=street_has.pop("utility", None)))
        for name, value in street_has.items():
            setattr(streets[0], name, value)
        waiting, tasks = sorted(doings, key=lambda doing: doing[0]), set[asyncio.Future[None]]()

        def arm(seen: Observation) -> None:
            while waiting and len(seen.samples) > 10 * waiting[0][0]:
                result = waiting.pop(0)[1](streets[0])
                if result is not None:
                    tasks.add(asyncio.ensure_future(result))

        seen = await play(scenario, streets[0], ear, arm)
        await asyncio.gather(*tasks)
        return seen

    seen = run_virtual(main)
    missed = [verdict.expected for verdict in judge(scenario, seen) if not verdict.passed]
    assert missed == ([unless] if unless else [])
    return seen, streets[0]


def grants_s(seen: Observation) -> list[float]:
    """When grants and renewals first left for client 1 [s]; what nobody has acknowledged is said again."""
    first: dict[DecisionId, float] = {}
    for frame in seen.frames:
        if frame.client == "client1" and isinstance(frame.message, Grant):
            first.setdefault(frame.message.decision, frame.start_s)
    return list(first.values())


def raised_s(seen: Observation) -> list[float]:
    """Samples at which client 1's relay was raised [s]."""
    return [sample.t_s for sample in seen.samples if sample.raised[0]]


def starting(ends: list[int | None]) -> Callable[[JumpStreet], Awaitable[None]]:
    """What systemd does with a DCU that has ended; what it ended with, and 2 for a start that came to nothing."""

    async def start(street: JumpStreet) -> None:
        ends.append(street.ended(DCU))
        await street.kill(DCU)
        try:
            await street.launch(DCU)
        except (OSError, LedgerError):
            ends.append(2)

    return start


# ---- the ledger's medium ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_without_a_record_nobody_is_granted_anything_until_the_medium_takes_again(
    tmp_path: Path, refusal: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No room, read-only, broken, from the twelfth second to the fortieth. The DCU says so and ends; starts in between
    come to nothing; the lease runs out. The start after it goes on in the same log, and grants after its quarantine."""
    caplog.set_level(logging.INFO, "headroom")
    medium, ends = Medium(), list[int | None]()

    def refuse(_: JumpStreet) -> None:
        medium.refuses = refusal

    def take(_: JumpStreet) -> None:
        medium.refuses = None

    bad_s, back_s = 12.0, 40.0
    start = starting(ends)
    doings: list[Doing] = [(bad_s, refuse), (20.0, start), (30.0, start), (back_s, take), (back_s, start)]
    seen, street = play_with(tmp_path, doings, back_s + QUARANTINE_S + 20.0, medium=medium)
    assert ends[0] == 1
    assert {1, 2} >= {end for end in ends if end is not None}
    assert len([end for end in ends if end is not None]) == 3  # once by itself, twice at a start
    assert "worker failed worker=records error=LedgerError" in caplog.text
    assert not [at_s for at_s in grants_s(seen) if bad_s < at_s < back_s]
    assert [at_s for at_s in grants_s(seen) if at_s > back_s]  # the household's wish still stands
    assert min(raised_s(seen)) < bad_s
    assert not [at_s for at_s in raised_s(seen) if bad_s + LEASE_S + 1.0 < at_s < back_s]
    assert seen.ledger_faults == []
    assert max(entry["epoch"] for entry in seen.ledger) == 2
    assert street.ended(DCU) is None


def test_a_damaged_ledger_ends_and_nothing_is_granted_before_the_next_one_s_quarantine_is_over(tmp_path: Path) -> None:
    """A DCU with a live grant is killed, and what it had published is gone from its journal. The next start keeps the
    log aside as ended, begins another that says where the first one ended, in an epoch that nobody has used, and is
    quiet until its quarantine is over: here for all of its time, as one meter is away."""
    before: list[dict[str, Any]] = []

    async def damage(street: JumpStreet) -> None:
        await street.kill(DCU)
        await street.kill("client2")
        place = current(tmp_path / "state" / DCU)
        before.extend(entry for entry in read(tmp_path / "state" / DCU))
        (journal,) = journals(place.private)
        journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 3])

    async def start(street: JumpStreet) -> None:
        await street.launch(DCU)

    async def complete(street: JumpStreet) -> None:
        await street.launch("client2")

    at_s = 15.0
    quiet_s = at_s + QUARANTINE_S
    doings: list[Doing] = [(12.0, damage), (at_s, start), (quiet_s - 3.0, complete)]
    lost = "every decision in the ledger, once, and the ledger verifies"
    seen, _ = play_with(tmp_path, doings, quiet_s + 40.0, unless=lost)
    directory = tmp_path / "state" / DCU
    assert [place.base.name for place in ended(directory)] == ["ended-1"]
    granted = grants_s(seen)
    assert [one for one in granted if one < 12.0]
    assert not [one for one in granted if 12.0 < one < quiet_s]
    assert [one for one in granted if one > quiet_s]
    assert not [one for one in raised_s(seen) if 12.0 + LEASE_S + 1.0 < one < quiet_s]
    after = list(read(directory))[-1]
    assert after["epoch"] > max(entry["epoch"] for entry in before)
    continued = next(entry for entry in read(directory) if entry["kind"] == CONTINUED)
    assert continued["after"]["published"] > continued["after"]["entries"]


# ---- what is not the ledger's ----------------------------------------------------------------------------------------


def test_an_outbox_without_room_stops_no_grant_and_misses_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full from the tenth second to the fortieth, with grants that are renewed; then the utility hears what the ledger
    has, each decision once."""

    def connect(uri: str) -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, factory=NoRoom)

    monkeypatch.setattr(utility_bench, "Outbox", partial(Outbox, connect=connect))
    utility = Utility(MemoryBroker(MemoryUtility()), Commander(DCU))

    def fill(_: JumpStreet) -> None:
        NoRoom.full = True

    def empty(_: JumpStreet) -> None:
        NoRoom.full = False

    seen, _ = play_with(tmp_path, [(10.0, fill), (40.0, empty)], 120.0, utility=utility)
    assert [at_s for at_s in grants_s(seen) if 12.0 < at_s < 40.0]
    told = [item["entry"] for item in utility.broker.utility.of("decision")]
    decided = [(one["epoch"], one["seq"]) for one in seen.ledger if one["kind"] in {"grant", "renewal", "denial"}]
    names = [(one["epoch"], one["seq"]) for one in told]
    assert set(names) >= set(decided[:-3])  # the last may still be on their way
    assert len(decided) > 15
    assert len(names) == len(set(names))
    assert utility.broker.utility.doubled == 0


class Cupboard:
    """Devices of a machine that may not be there; how often somebody looked for one that was not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gone: object = None
        self.looked = 0
        reopen = MemoryPort.reopen

        async def connect(port: MemoryPort) -> None:
            self.look_for(port.meter)
            await reopen(port)

        monkeypatch.setattr(MemoryPort, "reopen", connect)

    def look_for(self, device: object) -> None:
        if device is self.gone:
            self.looked += 1
            raise ModbusSilence("virtual meter: no route to host")

    def line(self, modem: VirtualModem) -> Any:
        opened = open_memory_port(modem)

        async def connect(factory: Callable[[], asyncio.Protocol]) -> Any:
            if modem is self.gone:
                self.looked += 1
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            return await opened(factory)

        return connect


@pytest.mark.parametrize("whose", [DCU, "client1"])
@pytest.mark.parametrize("what", ["modem", "em330"])
def test_a_device_that_is_absent_at_the_start_is_looked_for_patiently_and_nothing_is_granted_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, what: str
) -> None:
    """A DCU or a meter is started without its modem or its EM330. It stays up and looks again, in the end no more often
    than every few seconds for a modem, and than it would read a meter; nothing is granted to the household meanwhile.
    Once the device is there, the household gets what it asks for."""
    cupboard, ends = Cupboard(monkeypatch), list[int | None]()
    off_s, on_s, back_s = 12.0, 15.0, 15.0 + QUARANTINE_S + 60.0

    async def stop(street: JumpStreet) -> None:
        await street.kill(whose)
        of = SUBSTATION if whose == DCU else whose
        cupboard.gone = street.world.modems[whose] if what == "modem" else street.world.meters[of]

    async def start(street: JumpStreet) -> None:
        await street.launch(whose)
        await street.ask("client1", 2400.0)

    def plug(street: JumpStreet) -> None:
        ends.append(street.ended(whose))
        cupboard.gone = None

    async def ask(street: JumpStreet) -> None:
        await street.ask("client1", 2400.0)

    doings: list[Doing] = [(off_s, stop), (on_s, start), (back_s - 20.0, ask), (back_s, plug), (back_s + 30.0, ask)]
    seen, street = play_with(tmp_path, doings, back_s + 60.0, open_line=cupboard.line)
    assert ends == [None]
    assert street.ended(whose) is None
    every_s = BACKOFF_S_MAX if what == "modem" else POLL_S
    assert 0.9 * (back_s - on_s) / every_s <= cupboard.looked <= 10 + (back_s - on_s) / every_s
    assert [at_s for at_s in grants_s(seen) if at_s < off_s]
    assert not [at_s for at_s in grants_s(seen) if on_s + 1.0 < at_s < back_s]
    assert not [at_s for at_s in raised_s(seen) if off_s + LEASE_S + 1.0 < at_s < back_s]
    assert [at_s for at_s in raised_s(seen) if at_s > back_s]


def test_no_memory_for_a_decision_ends_the_dcu_and_every_grant_with_it(tmp_path: Path) -> None:
    """MemoryError in the middle of a decision window. The process ends instead of going on with half of one; started
    again it grants after its quarantine."""
    ends = list[int | None]()

    def exhaust(street: JumpStreet) -> None:
        def refuse(*_: Any) -> Any:
            raise MemoryError

        engine = street.engine
        engine.handle = engine.wake = refuse  # type: ignore[method-assign,assignment]

    bad_s, back_s = 12.0, 40.0
    doings: list[Doing] = [(bad_s, exhaust), (back_s, starting(ends))]
    seen, _ = play_with(tmp_path, doings, back_s + QUARANTINE_S + 20.0)
    assert ends == [1]
    assert not [at_s for at_s in grants_s(seen) if bad_s < at_s < back_s]
    assert [at_s for at_s in grants_s(seen) if at_s > back_s]
    assert not [at_s for at_s in raised_s(seen) if bad_s + LEASE_S + 1.0 < at_s < back_s]


def test_without_randomness_nothing_is_recorded_and_so_nothing_granted(tmp_path: Path) -> None:
    """getrandom fails from the twelfth second on: no salt, no entry, no grant; the DCU ends and lets leases run out."""
    failing, ends = [False], list[int | None]()
    good = random.Random(3).randbytes

    def salts(number: int) -> bytes:
        if failing[0]:
            raise OSError(errno.ENOSYS, "Function not implemented")
        return good(number)

    def fail(_: JumpStreet) -> None:
        failing[0] = True

    def look(street: JumpStreet) -> None:
        ends.append(street.ended(DCU))

    seen, _ = play_with(tmp_path, [(12.0, fail), (20.0, look)], 60.0, salts=salts)
    assert ends == [1]
    assert [at_s for at_s in grants_s(seen) if at_s < 12.0]
    assert not [at_s for at_s in grants_s(seen) if at_s > 12.0]
    assert not [at_s for at_s in raised_s(seen) if at_s > 12.0 + LEASE_S + 1.0]
    assert seen.ledger_faults == []


def test_a_clock_that_is_not_set_at_the_start_and_jumps_later_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1970 at the start and 2026 later; and right from the start: the same decisions, to the watt."""

    def decisions(name: str) -> list[Any]:
        seen, _ = play_with(tmp_path / name, [], 40.0)
        assert seen.ledger_faults == []
        keys = ("kind", "epoch", "seq", "meter", "limit_w", "reason", "lease_s")
        return [[entry.get(key) for key in keys] for entry in seen.ledger if entry["seq"] is not None]

    right = decisions("right")

    def late(loop: VirtualLoop) -> float:
        return loop.time() + (UTC_AT_START_S if loop.time() > 20.0 else 0.0)

    monkeypatch.setattr(VirtualLoop, "utc_s", late)
    assert decisions("wrong") == right
    assert len(right) > 3
