"""Ledger and store in a process that is killed again and again: the events are the ledger's decisions, each once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from dcu.ledger.store import Ledger, read
from dcu.store.database import open_reader
from dcu.store.schema import EVENTS

RUN = """
import asyncio, sys
from dataclasses import replace
from dcu.store.tests.test_recorder import *
from dcu.store.writer import Threaded
from shared.clock import LoopClock

async def main():
    directory = Path(sys.argv[1])
    ledger = Ledger(directory, "dcu-1")
    facts = LedgerFacts(logs(directory), ledger.position, ledger.vkey, ledger_source(directory))
    settings = replace(SETTINGS, batch_s=0.0)
    recorder = Recorder(directory / "store", "dcu-1", LoopClock(), Threaded, facts, settings)
    epoch, seq, wanted = ledger.epoch + 1, 0, int(sys.argv[2])
    entry = start(epoch)
    while True:
        entry["utc_s"] = recorder._clock.utc_s()
        recorder.decided(ledger.append(entry), entry)
        if recorder.status()["files"]["events"] == "good":
            await recorder.turn()
        seq += 1
        entry = grant(seq) | {"epoch": epoch}
        print(ledger.position, flush=True)
        if seq > wanted > 0 and not recorder.status()["behind_ledger"]:
            break
        await asyncio.sleep(0.001)
    recorder.close()
    ledger.close()

asyncio.run(main())
"""


def start_process(directory: Path, entries: int = 0) -> subprocess.Popen[str]:
    """Runs until it is killed, or for some entries."""
    command = [sys.executable, "-c", RUN, str(directory), str(entries)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)


def recorder_kills(directory: Path, rounds: int, seed: int) -> None:
    """Kill at random moments, let it end well once, and compare events with ledger."""
    draw = random.Random(seed)
    for _ in range(rounds):
        process = start_process(directory)
        assert process.stdout is not None
        for _ in range(draw.randrange(1, 80)):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    process = start_process(directory, entries=3)
    process.communicate(timeout=100)
    assert process.returncode == 0
    decided = [(entry["epoch"], entry["seq"]) for entry in read(directory)]
    with closing(open_reader(directory / "store", EVENTS)) as reader:
        kept = reader.execute("SELECT epoch, seq FROM events WHERE log IS NOT NULL ORDER BY log, position").fetchall()
    Ledger(directory, "dcu-1").close()
    assert len(decided) > rounds
    assert kept == decided


def test_kills_leave_the_events_as_the_ledger_says(tmp_path: Path) -> None:
    """A few real ones at every run of the tests; fifty by `python -m benchmarks.store`."""
    recorder_kills(tmp_path, 4, seed=3)
