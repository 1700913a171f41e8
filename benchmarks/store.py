"""What the store costs: rows a second, bytes written in a day, what the loop notices of it, memory, and real kills.

`python -m benchmarks.store [--hours H] [--kills N] [--out DIR] [--where DIR]` prints the figures and writes
`store.json`. Bytes are what went through write calls (`wchar`), the upper bound of what reaches a card: the kernel may
still join writes to the same page. Rates are of the wall clock on the disk of ``--where``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.ledger import START, decision, window
from dcu.ledger.store import Ledger
from dcu.store.database import Database, open_reader
from dcu.store.derive import Deriving
from dcu.store.entries import LedgerFacts, ledger_source
from dcu.store.export import day
from dcu.store.intervals import QUARTER_S
from dcu.store.readings import PUT
from dcu.store.recorder import Recorder, Settings
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.store.tests.test_kills import recorder_kills
from dcu.store.tests.test_recorder import MONDAY_S, Clock
from dcu.store.tests.test_writer import kills
from dcu.store.writer import Inline, Threaded
from shared.clock import LoopClock
from shared.daemon import resident_kib
from shared.ids import Epoch, MeterId, Nonce
from shared.messages import Alarm, LimitSource, Reading, RelayState, Report

CLASSES: Final = {"S": (20, 15.0), "M": (100, 60.0), "L": (1000, 300.0)}
"""Meters and report interval [s]."""

DECISIONS_A_DAY: Final = 17_300
"""Grants, denials and lowerings of the measured day with 33 plants; renewals are no events."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=6.0, help="of each class, in virtual time")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--where", type=Path, help="directory on the disk to measure")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rss_mib_before": round(resident_kib() / 1024, 1)}
    with tempfile.TemporaryDirectory(dir=options.where) as name:
        for letter in CLASSES:
            figures |= asyncio.run(a_day(Path(name) / letter, letter, options.hours))
        figures["rss_mib_after_classes"] = round(resident_kib() / 1024, 1)
        figures |= rates(Path(name) / "rates")
        figures |= asyncio.run(lag(Path(name) / "lag", 20.0))
        figures |= checking(Path(name) / "big")
        kills(Path(name) / "kills", options.kills, seed=7)
        figures["kills_without_loss"] = options.kills
        recorder_kills(Path(name) / "kills of both", options.kills, seed=8)
        figures["kills_with_events_as_the_ledger"] = options.kills
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "store.json").write_text(json.dumps(figures, indent=1) + "\n")
    for key, value in figures.items():
        print(f"{key:40} {value}")


def nothing(_log: int, _first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """A ledger without entries."""
    yield from ()


def report(seq: int, draw: random.Random) -> Report:
    """A three-phase report with all there is."""
    volts = (draw.gauss(235, 3), draw.gauss(235, 3), draw.gauss(235, 3))
    powers = (draw.gauss(-500, 700), draw.gauss(-500, 700), draw.gauss(-500, 700))
    currents = (powers[0] / 230, powers[1] / 230, powers[2] / 230)
    reading = Reading(volts, currents, powers, (10.0, 20.0, 30.0), 50.0, 1_000_000 + 10 * seq, 500_000 + 10 * seq)
    return Report(
        1,
        seq,
        Nonce(seq + 1),
        Epoch(1),
        reading,
        draw.random(),
        5000.0,
        LimitSource.GRANT,
        RelayState.RAISED,
        0.0,
        None,
        Alarm(0),
    )


def written_bytes() -> int:
    """Through write calls of this process."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


async def a_day(directory: Path, letter: str, hours: float) -> dict[str, Any]:
    """Some hours of a class in virtual time, a day's figures."""
    meters, interval_s = CLASSES[letter]
    clock, draw = Clock(), random.Random(1)
    names = [MeterId(f"meter-{n}") for n in range(meters)]
    settings = Settings(Deriving(2 * interval_s, 100.0, 230.0), free_bytes_min=0)
    recorder = Recorder(directory, "bench", clock, lambda _: Inline(), LedgerFacts(1, 0, "key", nothing), settings)
    await asyncio.sleep(0)
    await recorder.turn()
    substation = report(0, draw).reading
    assert substation is not None
    began, before, due, position = time.process_time(), written_bytes(), 0.0, 0
    for second in range(int(3600 * hours)):
        clock.now = float(second)
        due += meters / interval_s
        while due >= 1.0:
            due -= 1.0
            number = recorder.counters.readings_undated + position + second
            meter = names[int(second * meters / interval_s - due) % meters]
            recorder.reported(meter, report(number * 10 + int(due), draw))
        recorder.substation_read("substation", substation)
        while position < second * DECISIONS_A_DAY / 86400:
            fields = {"reason": "GRANTED", "window": position, "kept_by": {"reason": "OVERVOLTAGE", "value": 252.25}}
            asked = {"id": position, "nonce": "0123456789abcdef", "limit_w": 9000.0, "minimum_limit_w": 500.0}
            meter = names[position % meters]
            entry = {"kind": "grant", "epoch": 1, "seq": position, "meter": meter, "limit_w": 8123.5, "lease_s": 60.0}
            recorder.decided(position, entry | {"request": asked} | fields)
            position += 1
        await recorder.turn()
        await asyncio.sleep(0)
    recorder.close()
    share = 24 / hours
    counters = recorder.counters
    sizes = {kind.name: kind.path(directory).stat().st_size for kind in (EVENTS, TELEMETRY)}
    return {
        f"{letter}_readings_a_day": round(counters.readings * share),
        f"{letter}_dropped": counters.readings_dropped + counters.events_dropped,
        f"{letter}_written_mb_a_day": round((written_bytes() - before) * share / 1e6, 1),
        f"{letter}_telemetry_mb_a_day": round(sizes["telemetry"] * share / 1e6, 2),
        f"{letter}_events_mb_a_day": round(sizes["events"] * share / 1e6, 2),
        f"{letter}_bytes_an_event": round(sizes["events"] / max(1, counters.events)),
        f"{letter}_cpu_s_a_day": round((time.process_time() - began) * share, 1),
    }


def rates(directory: Path) -> dict[str, Any]:
    """Rows and commits a second; medians of three."""

    def timed(count: int, work: Callable[[], None]) -> int:
        began = time.perf_counter()
        work()
        return round(count / (time.perf_counter() - began))

    telemetry, events = Database(directory, TELEMETRY, "bench"), Database(directory, EVENTS, "bench")
    row = (23512, 23498, 23601, 120, 130, 140, -500, -600, -700, 10, 20, 30, 1_000_000, 500_000, 5000)
    found: dict[str, list[int]] = {"readings_s_batches_of_1000": [], "events_s_one_commit_each": []}
    for run in range(3):

        def put(run: int = run) -> None:
            for batch in range(100):
                at_ms = 1000 * (run * 100 + batch)
                with telemetry.transaction() as connection:
                    connection.executemany(PUT, [(at_ms + n, n % 100, *row) for n in range(1000)])

        def tell() -> None:
            for _ in range(500):
                with events.transaction() as connection:
                    connection.execute(
                        "INSERT INTO events (at_ms, kind, body) VALUES (1, 'alarm', '{\"alarm\":\"METER_SILENT\"}')"
                    )

        found["readings_s_batches_of_1000"].append(timed(100_000, put))
        found["events_s_one_commit_each"].append(timed(500, tell))
    telemetry.close()
    events.close()
    return {name: round(statistics.median(values)) for name, values in found.items()}


async def lag(directory: Path, seconds: float) -> dict[str, Any]:
    """How late a timer of the loop is while 200 readings a second are written by the store's threads, without, and
    while a lost events file is made again from a ledger beside that."""
    draw = random.Random(2)
    settings = Settings(Deriving(30.0, 100.0, 230.0), batch_s=1.0, free_bytes_min=0)
    figures: dict[str, Any] = {}
    ledger = Ledger(directory / "ledger", "bench")
    ledger.append(START)
    for number in range(0, 20_000, 100):
        ledger.append_all([window(number), *(decision(number + n) for n in range(99))])
    whole = LedgerFacts(1, ledger.position, ledger.vkey, ledger_source(directory / "ledger"))
    ledger.close()
    empty = LedgerFacts(1, 0, "key", nothing)
    for name, rate, facts in (("without", 0, empty), ("with", 200, empty), ("rebuilding", 200, whole)):
        recorder = Recorder(directory / name, "bench", LoopClock(), Threaded, facts, settings)
        working = asyncio.ensure_future(recorder.run(lambda: None))
        made = [report(number, draw) for number in range(int(rate * seconds))]
        loop, sent = asyncio.get_running_loop(), 0
        late: list[float] = []
        began = loop.time()
        while (due := began + 0.005 * (len(late) + 1)) < began + seconds:
            await asyncio.sleep(max(0.0, due - loop.time()))
            late.append(loop.time() - due)
            while sent < rate * (due - began):
                recorder.reported(MeterId(f"meter-{sent % 1000}"), made[sent])
                sent += 1
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        if facts is whole:
            figures["rebuilt_entries"] = recorder.counters.entries_taken_over
        recorder.close()
        late.sort()
        figures[f"loop_late_ms_p99_9_{name}"] = round(1e3 * late[int(0.999 * len(late))], 2)
        figures[f"loop_late_ms_max_{name}"] = round(1e3 * late[-1], 2)
        figures[f"lag_kept_{name}"] = recorder.counters.readings
    return figures


def checking(directory: Path) -> dict[str, Any]:
    """Opening a telemetry file of its full size, all pages checked; and one day's quarter-hours of a hundred meters."""
    database = Database(directory, TELEMETRY, "bench")
    draw, at_ms = random.Random(3), round(1000 * MONDAY_S)
    while database.size_bytes < 512 << 20:
        rows = [
            (at_ms + n, n % 100, *(draw.randrange(22000, 25000) for _ in range(12)), at_ms + n, at_ms, 5000)
            for n in range(50_000)
        ]
        at_ms += 50_000
        with database.transaction() as connection:
            connection.executemany(PUT, rows)
    names = [f"meter-{n}" for n in range(100)]
    with database.transaction() as connection:
        connection.executemany("INSERT INTO meters (name) VALUES (?)", [(name,) for name in names])
        for number in range(96):
            rows_of = [(int(MONDAY_S) + QUARTER_S * number, n + 1, 100, 200, 23000, 1, 1) for n in range(100)]
            connection.executemany("INSERT INTO quarters VALUES (?, ?, ?, ?, ?, ?, ?)", rows_of)
    database.close()
    began = time.perf_counter()
    Database(directory, TELEMETRY, "bench").close()
    opened_s = time.perf_counter() - began
    with closing(open_reader(directory, TELEMETRY)) as reader:
        began = time.process_time()
        found = day(reader, names, int(MONDAY_S), None)
        exported_s = time.process_time() - began
    assert len(found) == 9600
    return {"open_512_mib_s": round(opened_s, 2), "export_day_of_100_s": round(exported_s, 3)}


if __name__ == "__main__":
    main()
