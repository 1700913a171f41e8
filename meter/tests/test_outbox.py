"""Reports that wait: none is lost but by the stated quota, none is sent twice in a hurry, and numbers rise."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meter.outbox import RESEND_S, MemoryStore, Outbox, OutboxStore, SqliteStore
from shared.errors import DeviceError
from shared.ids import Epoch, Nonce
from shared.messages import Alarm, LimitSource, Reading, RelayState, Report

READING = Reading((240.0, None, None), (-5.0, None, None), (-1200.0, None, None), (0.0, None, None), 50.0, 10, 20)
REPORT = Report(
    1, 0, Nonce(9), Epoch(2), READING, 0.5, 1200.0, LimitSource.BOOT, RelayState.NOMINAL, 0.0, None, Alarm.NONE
)


def report(seq: int) -> Report:
    return replace(REPORT, seq=seq)


def test_what_waited_can_raise_nothing() -> None:
    """A report of the backlog has lost its nonce."""
    outbox = Outbox()
    outbox.put(report(0), None)
    waiting = outbox.backlog(0.0)
    assert waiting == replace(report(0), nonce=None)


def test_a_live_report_is_offered_again_only_when_nobody_has_acknowledged_it() -> None:
    """Sent at 0, it waits for its acknowledgement until `RESEND_S`."""
    outbox = Outbox()
    outbox.put(report(0), 0.0)
    assert outbox.backlog(RESEND_S - 0.1) is None
    assert outbox.backlog(RESEND_S) is not None
    assert outbox.backlog(RESEND_S) is None


def test_an_unsent_report_is_offered_at_once() -> None:
    """What was written while the link was down goes first when it is up."""
    outbox = Outbox()
    outbox.put(report(0), None)
    outbox.put(report(1), None)
    assert [outbox.backlog(1.0), outbox.backlog(1.0), outbox.backlog(1.0)] == [
        replace(report(0), nonce=None),
        replace(report(1), nonce=None),
        None,
    ]


def test_a_newer_acknowledgement_does_not_settle_what_waits() -> None:
    """Live reports overtake the backlog, so each one is settled by its own number."""
    outbox = Outbox([report(0), report(1)])
    assert outbox.settle(1)
    assert not outbox.settle(1)
    assert len(outbox) == 1


def test_the_quota_drops_the_oldest_and_counts() -> None:
    """Beyond the quota the oldest go, from the store at start as well."""
    outbox = Outbox([report(0), report(1), report(2)], quota=2)
    assert (len(outbox), outbox.dropped) == (2, 1)
    assert outbox.put(report(3), 0.0) == [1]
    assert (len(outbox), outbox.dropped, outbox.next_seq) == (2, 2, 4)


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], OutboxStore]:
    """Opens the same store again, as a restart does."""
    memory = MemoryStore()
    return (lambda: memory) if request.param == "memory" else (lambda: SqliteStore(tmp_path / "outbox.sqlite"))


def test_a_store_survives_a_restart(reopen: Callable[[], OutboxStore]) -> None:
    """Reports come back in order and without nonces; forgotten ones do not; numbers go on rising."""
    store = reopen()
    assert store.load() == ([], 0)
    for seq in range(3):
        store.put(report(seq))
    store.forget([1])
    store.close()
    store = reopen()
    assert store.load() == ([replace(report(0), nonce=None), replace(report(2), nonce=None)], 3)
    store.forget([0, 2])
    store.close()
    store = reopen()
    assert store.load() == ([], 3)
    store.close()


def test_the_store_commits_each_report_to_the_disk(tmp_path: Path) -> None:
    """Write-ahead log with full synchronisation: a commit is durable when `put` returns."""
    store = SqliteStore(tmp_path / "outbox.sqlite")
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
    store.put(report(0))
    reader = sqlite3.connect(tmp_path / "outbox.sqlite")
    assert reader.execute("SELECT count(*) FROM report").fetchone() == (1,)
    reader.close()
    store.close()


def test_a_damaged_file_is_put_aside_not_repaired(tmp_path: Path) -> None:
    """The meter starts with an empty outbox and keeps the damaged bytes for somebody to look at."""
    path = tmp_path / "outbox.sqlite"
    for number in range(2):
        path.write_bytes(b"no database at all " * 400)
        store = SqliteStore(path)
        assert store.load() == ([], 0)
        store.put(report(0))
        store.close()
        assert (tmp_path / f"outbox.damaged{number}").read_bytes().startswith(b"no database")


def test_a_row_of_another_layout_is_skipped(tmp_path: Path) -> None:
    """An older version's row costs its reading, not the start."""
    store = SqliteStore(tmp_path / "outbox.sqlite")
    store.put(report(0))
    store._database.execute("INSERT INTO report VALUES (5, x'0102')")
    assert store.load() == ([replace(report(0), nonce=None)], 1)
    store.close()


def test_an_outbox_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    """A directory in its place, or a file where its directory should be."""
    (tmp_path / "outbox.sqlite").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match=r"outbox .*outbox\.sqlite"):
        SqliteStore(tmp_path / "outbox.sqlite")
    with pytest.raises(DeviceError, match="outbox"):
        SqliteStore(tmp_path / "file" / "outbox.sqlite")


def test_a_locked_file_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    """Somebody else's lock is an error of the start; the file stays where it is."""
    path = tmp_path / "outbox.sqlite"
    SqliteStore(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("INSERT OR REPLACE INTO next VALUES (0, 4)")
    with pytest.raises(DeviceError, match="locked"):
        SqliteStore(path)
    other.close()
    assert list(tmp_path.glob("*.damaged*")) == []
