"""The ledger behind the daemon's one thread: entries that wait together are written together."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from dcu.ledger.store import Ledger, LedgerError, read
from dcu.ledger.tests.test_store import Unsynced
from dcu.real import ThreadedLedger


class GatedFiles(Unsynced):
    """A medium whose syncs wait for a gate; counts them, and breaks when told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.syncs = 0
        self.broken = False

    def sync(self, file: int) -> None:
        self.busy.set()
        self.gate.wait(10)
        self.syncs += 1
        if self.broken:
            raise OSError(5, "Input/output error")


async def test_what_waits_for_the_disk_is_written_at_once_and_in_order(tmp_path: Path) -> None:
    """A hundred entries while the disk is busy with the first: two syncs, positions in the order of the calls, the
    label of the clock in each."""
    files = GatedFiles()
    ledger = Ledger(tmp_path, "dcu", files)
    threaded = ThreadedLedger(ledger, lambda: 1234.5678)
    files.gate.clear()
    files.busy.clear()
    before = files.syncs
    first = threaded.append({"n": 0})
    await asyncio.to_thread(files.busy.wait, 10)
    rest = [threaded.append({"n": n}) for n in range(1, 101)]
    assert not first.done()
    files.gate.set()
    assert await asyncio.gather(first, *rest) == list(range(101))
    assert files.syncs == before + 2
    threaded.close()
    assert list(read(tmp_path)) == [{"n": n, "utc_s": 1234.568} for n in range(101)]


async def test_a_failing_disk_fails_everything_that_waits(tmp_path: Path) -> None:
    """Each waiting entry gets the error, and so does every one after it."""
    files = GatedFiles()
    threaded = ThreadedLedger(Ledger(tmp_path, "dcu", files), lambda: 0.0)
    files.broken = True
    results = await asyncio.gather(*(threaded.append({"n": n}) for n in range(5)), return_exceptions=True)
    assert all(isinstance(result, LedgerError) for result in results)
    with pytest.raises(LedgerError, match="poisoned"):
        await threaded.append({"n": 9})
    threaded.close()
