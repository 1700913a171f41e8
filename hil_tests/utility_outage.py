"""A DCU whose utility is away for days, in virtual time: the real link and outbox, a made-up street that decides.

Every item is told with the instant of its making, so that the consumer can say how late each decision was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from dcu.utility.commands import Judge
from dcu.utility.documents import Class, checkpoint, report
from dcu.utility.link import UtilityLink
from dcu.utility.outbox import Item, Outbox
from hil_tests.utility_bench import DirectOutbox
from hil_tests.virtual.broker import MemoryBroker, MemoryUtility
from hil_tests.virtual.loop import VirtualLoop, run_virtual
from shared.clock import LoopClock

DCU: Final = "dcu-1"
RENEW_S: Final = 15.0
REPORT_S: Final = 60.0
BEFORE_S: Final = 120.0
"""[s] With the link up, before it goes."""
FULL_TAIL_S: Final = 4200.0
"""[s] In which twenty grants fill the tail of decisions, and its slack."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What is played.

    Attributes:
        hours: without a broker.
        meters, grants: of the street; every grant is renewed each quarter of a minute.
        bytes_per_s, delay_s: of the line to the broker, once it is back.
        watch_s: how long after that is looked at, at most.
    """

    hours: float = 72.0
    meters: int = 100
    grants: int = 20
    bytes_per_s: float = 125_000.0
    delay_s: float = 0.15
    watch_s: float = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it.

    Attributes:
        decisions, reports, others: told in all.
        lost, doubled: at the consumer, which drops what it has seen.
        repeated: items that came more than once over the line.
        waiting: items in the outbox when the broker came back, and the size of its file [byte].
        connected_s: from the broker's return to the link's [s]: what is left of a pause.
        drained_s: from the link's return until the backlog was gone [s].
        live_s: lateness of decisions made meanwhile: median, 99 of 100, largest [s].
        dropped: by quota.
    """

    decisions: int
    reports: int
    others: int
    lost: int
    doubled: int
    repeated: int
    waiting: int
    file_bytes: int
    connected_s: float
    drained_s: float
    live_s: tuple[float, float, float]
    out_of_order: int
    dropped: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def play(outage: Outage, directory: Path, seed: int = 1) -> Found:
    """The outage from its first to its last second."""
    return run_virtual(lambda: _play(outage, directory, seed))


@dataclass(frozen=True, slots=True)
class Wear:
    """What a link that is up writes.

    Attributes:
        decisions: told while it was counted.
        written_bytes: through write calls meanwhile.
        lost: of all decisions, at the consumer.
    """

    decisions: int
    written_bytes: int
    lost: int


def wear(outage: Outage, directory: Path, written: Callable[[], int]) -> Wear:
    """A street and its utility for `Outage.hours`, counted once the tails are full.

    Args:
        outage: the street; its broker stays.
        directory: for the outbox.
        written: bytes so far that this process has written.
    """

    async def main() -> Wear:
        broker, outbox, street, tasks = _begin(outage, directory, 1)
        await asyncio.sleep(FULL_TAIL_S)
        written_before, told_before = written(), street.position
        await asyncio.sleep(3600.0 * outage.hours)
        found = written() - written_before, street.position - told_before
        street.stop = True
        await asyncio.sleep(60.0)
        await _end(tasks)
        outbox.close()
        lost = sum(_decision(n) not in broker.utility.items for n in range(street.position))
        return Wear(written_bytes=found[0], decisions=found[1], lost=lost)

    return run_virtual(main)


def _begin(
    outage: Outage, directory: Path, seed: int
) -> tuple[MemoryBroker, Outbox, _Street, list[asyncio.Future[None]]]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), loop
    clock = LoopClock(loop, loop.utc_s)
    broker = MemoryBroker(MemoryUtility(), outage.delay_s, outage.bytes_per_s)
    outbox = Outbox(directory, DCU, draw=random.Random(seed).randbytes)
    outbox._file.database.connection.execute("PRAGMA synchronous = OFF")  # no power fails in virtual time
    link = UtilityLink(DCU, 1, DirectOutbox(outbox), broker, Judge(DCU, ()), clock, random.Random(seed))
    street = _Street(link, outage, loop)
    works = (link.run_outbox(_ignore), link.run_sender(_ignore), street.renew(), street.report())
    return broker, outbox, street, [asyncio.ensure_future(work) for work in works]


async def _end(tasks: list[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _play(outage: Outage, directory: Path, seed: int) -> Found:
    loop = asyncio.get_running_loop()
    broker, outbox, street, tasks = _begin(outage, directory, seed)
    try:
        await asyncio.sleep(BEFORE_S)
        broker.go()
        await asyncio.sleep(3600.0 * outage.hours)
        waiting, file_bytes, told_before = sum(outbox.waiting.values()), outbox.size_bytes, street.position
        broker.up = True
        back_s = loop.time()
        while loop.time() < back_s + outage.watch_s:
            await asyncio.sleep(1.0)
            if all(_decision(n) in broker.utility.items for n in (street.first_away, told_before - 1)) and (
                sum(outbox.waiting.values()) <= 2 * outage.grants
            ):
                break
        drained_s, connected_s = loop.time() - broker.connected_s, broker.connected_s - back_s
        street.stop = True
        await asyncio.sleep(120.0)
    finally:
        await _end(tasks)
    left = sum(outbox.waiting.values())
    dropped = outbox.dropped
    outbox.close()
    items = broker.utility.items
    decisions = {n: items.get(_decision(n)) for n in range(street.position)}
    late = sorted(
        found.at_s - street.made_s[n]
        for n, found in decisions.items()
        if found is not None and back_s + connected_s <= street.made_s[n] <= back_s + connected_s + drained_s
    )
    arrived = [int(name.rpartition("/")[2]) for name, taken in items.items() if taken.topic.endswith("decision")]
    old = [n for n in arrived if n < told_before]
    reports = sum(taken.topic.endswith("report") for taken in items.values())
    others = sum(taken.topic.endswith("checkpoint") for taken in items.values())
    lost = sum(found is None for found in decisions.values())
    lost += street.reports - reports + street.checkpoints - others - left
    return Found(
        decisions=street.position,
        reports=street.reports,
        others=street.checkpoints,
        lost=lost,
        doubled=len(arrived) - len(set(arrived)),
        repeated=broker.utility.doubled,
        waiting=waiting,
        file_bytes=file_bytes,
        connected_s=connected_s,
        drained_s=drained_s,
        live_s=(late[len(late) // 2], late[int(0.99 * len(late))], late[-1]) if late else (0.0, 0.0, 0.0),
        out_of_order=sum(a > b for a, b in pairwise(old)),
        dropped=dropped,
    )


def _decision(position: int) -> str:
    return f"{DCU}/decision/1/{position}"


def _ignore() -> None:
    """Nobody watches."""


class _Street:
    """Tells what a street of this size would."""

    def __init__(self, link: UtilityLink, outage: Outage, loop: VirtualLoop) -> None:
        self._link, self._outage, self._loop = link, outage, loop
        self._draw = random.Random(3)
        self.position = self.reports = self.checkpoints = 0
        self.first_away = 0
        self.made_s: list[float] = []
        self.stop = False

    async def renew(self) -> None:
        """Renewals spread over the quarter of a minute."""
        step_s = RENEW_S / self._outage.grants
        while not self.stop:
            meter = f"meter-{self.position % self._outage.grants + 1}"
            nonce = f"{self._draw.getrandbits(64):016x}"
            entry = {
                "kind": "renewal", "epoch": 3, "seq": self.position, "meter": meter, "window": self.position,
                "request": {"id": 3_141_592_653, "nonce": nonce, "limit_w": 2400.0, "minimum_w": 0.0},
                "limit_w": round(self._draw.uniform(1200, 2400), 1), "lease_s": 60.0, "reason": "GRANTED",
                "kept_by": {"reason": "OVERVOLTAGE", "binding": meter, "value": None},
            }  # fmt: skip
            self.made_s.append(self._loop.time())
            self._link.recorded(self.position, entry)
            self.position += 1
            await asyncio.sleep(step_s)

    async def report(self) -> None:
        """Every meter's newest reading once a minute, and the ledger's head."""
        while not self.stop:
            utc_s = self._loop.utc_s()
            readings = [_reading(f"meter-{n}", utc_s, self._draw) for n in range(self._outage.meters)]
            for first in range(0, len(readings), 100):
                self._link.tell(Item(Class.REPORT, report(utc_s, readings[first : first + 100])))
                self.reports += 1
            self._link.tell(Item(Class.CHECKPOINT, checkpoint(f"headroom/dcu-1\n{self.position}\n{'A' * 180}\n")))
            self.checkpoints += 1
            await asyncio.sleep(REPORT_S)


def _reading(meter: str, utc_s: float, draw: random.Random) -> dict[str, Any]:
    """Three phases that differ from meter to meter and minute to minute, as far as a meter resolves."""
    u_v = [round(draw.gauss(238.0, 1.5), 1) for _ in range(3)]
    p_w = [round(draw.gauss(-800.0, 300.0), 1) for _ in range(3)]
    return {
        "resource": meter, "taken_utc_s": round(utc_s - draw.uniform(0.0, 15.0), 3), "quality": "good", "u_v": u_v,
        "p_w": p_w, "q_var": [round(draw.gauss(10.0, 20.0), 1) for _ in range(3)],
        "i_a": [round(p / u, 3) for p, u in zip(p_w, u_v, strict=True)],
        "import_energy_wh": draw.randrange(10**7), "export_energy_wh": draw.randrange(10**7),
        "EXPORT_CAPACITY_SUBSCRIPTION": 1200.0, "EXPORT_CAPACITY_RESERVATION": round(draw.uniform(1200, 2400), 1),
        "EXPORT_CAPACITY_LIMIT": round(draw.uniform(1200, 2400), 1), "source": "GRANT",
    }  # fmt: skip
