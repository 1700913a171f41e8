"""What the utility link stands: days without a broker, a broker that is killed, and what an item and a command cost.

`python -m benchmarks.utility [--hours N] [--wear-hours N] [--kills N] [--out DIR]` prints the figures and writes
`utility.json`. The outage is played in virtual time on a line of 1 Mbit/s and 150 ms; `--hours 0` leaves it out. So are
the hours with the link up in which the outbox's writes are counted (`wchar`: its log and its file, the upper bound of
what reaches a card). The kills are SIGKILLs of a real mosquitto on loopback with mutual TLS (left out where it is not
installed), each message with one item; with `--pause-s` the utility takes one message each so long, and the broker dies
with what it keeps for it. A process with ledger and outbox is killed too (`--process-kills`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.store import written_bytes
from dcu.tests.test_outbox_kills import outbox_kills
from dcu.utility.broker import Address
from dcu.utility.commands import Judge
from dcu.utility.documents import Class
from dcu.utility.link import UtilityLink
from dcu.utility.mqtt import MqttBroker
from dcu.utility.outbox import Item, Outbox
from dcu.utility.outbox_file import Lane
from dcu.utility_real import ThreadedOutbox
from hil_tests.mosquitto import HOST, Mosquitto, find_mosquitto
from hil_tests.utility_bench import UTC_S, Commander
from hil_tests.utility_consumer import Consumer
from hil_tests.utility_outage import Outage, play, wear
from shared.clock import LoopClock

DCU = "dcu-1"
SPACING_S = 0.002
DRAIN_S = 300.0


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=72.0, help="without a broker")
    parser.add_argument("--wear-hours", type=float, default=2.0, help="with a broker, for the bytes of a day")
    parser.add_argument("--meters", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20, help="of a real broker")
    parser.add_argument("--process-kills", type=int, default=50, help="of a process with ledger and outbox")
    parser.add_argument("--messages", type=int, default=10_000, help="during them")
    parser.add_argument("--pause-s", type=float, default=0.0, help="from message to message at the utility")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        figures |= costs(Path(name))
    if options.wear_hours:
        figures["wear"] = worn(options.wear_hours, options.meters)
    if options.hours:
        figures["outage"] = outage(options.hours, options.meters)
    if options.process_kills:
        with tempfile.TemporaryDirectory() as name:
            outbox_kills(Path(name), options.process_kills, seed=5)
        figures["process_kills_without_loss"] = options.process_kills
    if find_mosquitto() is not None and options.kills:
        with tempfile.TemporaryDirectory() as name:
            figures["kills"] = asyncio.run(kills(Path(name), options.kills, options.messages, options.pause_s))
    figures["rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "utility.json").write_text(json.dumps(figures, indent=1) + "\n")
    for key, value in figures.items():
        print(f"{key:32} {value}")


def outage(hours: float, meters: int) -> dict[str, Any]:
    """Days without a broker, and what they cost of the processor."""
    with tempfile.TemporaryDirectory() as name:
        began_s = time.process_time()
        found = play(Outage(hours=hours, meters=meters), Path(name))
        return found.as_json() | {"process_s": round(time.process_time() - began_s, 1)}


def worn(hours: float, meters: int) -> dict[str, Any]:
    """What a day with the link up writes: bytes of write calls (the outbox's log and file), taken to a day."""
    with tempfile.TemporaryDirectory() as name:
        began_s = time.process_time()
        found = wear(Outage(hours=hours, meters=meters), Path(name), written_bytes)
        return {
            "hours": hours,
            "decisions": found.decisions,
            "lost": found.lost,
            "mb_a_day": round(found.written_bytes * 24 / hours / 1e6, 1),
            "bytes_a_decision": round(found.written_bytes / found.decisions),
            "process_s": round(time.process_time() - began_s, 1),
        }


def costs(directory: Path) -> dict[str, Any]:
    """Of the processor: to judge a command and bytes that are none; to keep and to settle an item."""
    commander = Commander(DCU)
    judge = Judge(DCU, (commander.public,))
    good = commander.command(
        {"kind": "set_nominal_limits", "limits": {f"meter-{n}": 1000.0 for n in range(100)}}, UTC_S
    )
    outbox = Outbox(directory, DCU)
    items = [Item(Class.DECISION, {"entry": {"kind": "grant"}, "text": "x" * 300}) for _ in range(1000)]

    def through() -> None:
        outbox.put(items)
        while (batch := outbox.next(Lane.LIVE, 1 << 16)) is not None:
            outbox.settle(batch)

    def judged(payload: bytes) -> None:
        judge.judge(payload, retained=False, last=0, utc_s=UTC_S)

    figures = {
        "command_of_100_limits_us": 1e6 * _seconds(lambda: judged(good), 200),
        "nonsense_64_kib_us": 1e6 * _seconds(lambda: judged(b"[" * (1 << 16)), 20),
        "item_put_and_settled_us": 1e6 * _seconds(through, 5) / 1000,
    }
    outbox.close()
    return {name: round(value, 1) for name, value in figures.items()}


def _seconds(work: Any, times: int) -> float:
    """Of processor time each, the least of five."""
    found = []
    for _ in range(5):
        began_s = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - began_s) / times)
    return min(found)


async def kills(directory: Path, number: int, messages: int, pause_s: float) -> dict[str, Any]:
    """Decisions, one to a message, while the broker is killed and started again; what is sent again is not counted."""
    broker = Mosquitto(directory / "mosquitto")
    broker.start()
    outbox = ThreadedOutbox(Outbox(directory, DCU))
    outbox.outbox.batch_items_max = 1
    port = MqttBroker(DCU, Address(HOST, broker.port, tls=True), broker.files(DCU).context())
    link = UtilityLink(DCU, 1, outbox, port, Judge(DCU, ()), LoopClock(), random.Random(1))
    consumer = Consumer(HOST, broker.port, broker.files("utility"), pause_s)
    works = (link.run_outbox, link.run_sender)
    tasks = [asyncio.ensure_future(work(lambda: None)) for work in works] + [asyncio.ensure_future(consumer.run())]
    await consumer.ready.wait()
    draw, began_s = random.Random(2), time.monotonic()
    moments = sorted(draw.sample(range(messages // 20, messages - messages // 20), number))  # before all have left
    for n in range(messages):
        while moments and link.counters["items sent"] >= moments[0]:  # never while the link is down anyway
            moments.pop(0)
            broker.kill()
            broker.start()
        link.recorded(n, {"kind": "grant", "seq": n})
        await asyncio.sleep(SPACING_S)
    until_s = time.monotonic() + DRAIN_S
    while outbox.outbox.waiting and time.monotonic() < until_s:
        while moments and link.counters["items sent"] >= moments[0]:
            moments.pop(0)
            broker.kill()
            broker.start()
        await asyncio.sleep(SPACING_S)
    heard = -1
    while heard < (heard := len(consumer.utility.items) + consumer.utility.doubled):  # noqa: ASYNC110  # until it is quiet
        await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    left = sum(outbox.outbox.waiting.values())
    outbox.close()
    broker.kill()
    found = consumer.utility
    positions = [item["position"] for item in found.of("decision")]
    return {
        "pause_s": pause_s,
        "killed": number - len(moments),
        "messages": link.counters["items sent"],
        "sent_again": link.counters["items sent again"],
        "failed": link.counters["messages failed"],
        "lost": messages - len(set(positions)),
        "doubled": len(positions) - len(set(positions)),
        "repeated": found.doubled,
        "left": left,
        "sessions": link.counters["connected"],
        "took_s": round(time.monotonic() - began_s, 1),
    }


if __name__ == "__main__":
    main()
