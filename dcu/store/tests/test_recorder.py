"""The store as the daemon sees it: nothing is delayed, decisions are never lost, the rest is counted."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.store import Ledger
from dcu.store import recorder as module
from dcu.store.database import open_reader
from dcu.store.derive import Deriving, next_means, next_week
from dcu.store.entries import LedgerFacts, Source, ledger_source, logs
from dcu.store.queries import events, present_week, trace, weeks
from dcu.store.recorder import Recorder, Settings
from dcu.store.retention import Keeping, sweep_telemetry
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.store.tests.test_writer import Broken, connect
from dcu.store.writer import Inline, State
from shared.clock import Timer
from shared.ids import Epoch, MeterId, Nonce
from shared.messages import Alarm, LimitSource, Reading, RelayState, Report

METER = MeterId("meter-1")
MONDAY_S = 1_795_392_000.0  # 2026-11-23 00:00 UTC
SETTINGS = Settings(Deriving(30.0, 100.0, 230.0), free_bytes_min=0)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now, self.offset_s = 0.0, MONDAY_S

    def monotonic(self) -> float:
        return self.now

    def utc_s(self) -> float:
        return self.now + self.offset_s

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        raise NotImplementedError


def report(seq: int, **changes: Any) -> Report:
    reading = Reading((230.0, None, None), (1.0, None, None), (-230.0, None, None), (0.0, None, None), 50.0, 1000, 500)
    plain = Report(
        1,
        seq,
        Nonce(seq + 1),
        Epoch(1),
        reading,
        0.0,
        5000.0,
        LimitSource.NOMINAL,
        RelayState.NOMINAL,
        0.0,
        None,
        Alarm(0),
    )
    return replace(plain, **changes)


def start(epoch: int) -> dict[str, Any]:
    return {"kind": "start", "epoch": epoch, "seq": 0, "rule": "r", "facts": {}, "nominal_limit_w": {METER: 5000.0}}


def grant(seq: int) -> dict[str, Any]:
    return {
        "kind": "grant",
        "epoch": 1,
        "seq": seq,
        "meter": METER,
        "limit_w": 100.0 * seq,
        "reason": "GRANTED",
        "utc_s": MONDAY_S,
    }


WINDOW: dict[str, Any] = {
    "kind": "window",
    "epoch": 1,
    "seq": None,
    "window": 1,
    "view": {},
    "question": {},
    "answer": {},
}


class Street:
    """A recorder on a directory, with a ledger beside it."""

    def __init__(self, directory: Path, settings: Settings = SETTINGS) -> None:
        self.directory, self.settings = directory, settings
        self.clock = Clock()
        self.ledger = Ledger(directory, "dcu-1")
        self.open()

    def open(self) -> None:
        facts = LedgerFacts(logs(self.directory), self.ledger.position, self.ledger.vkey, ledger_source(self.directory))
        where = self.directory / "store"
        self.recorder = Recorder(where, "dcu-1", self.clock, lambda _: Inline(), facts, self.settings, connect)

    async def record(self, entry: Mapping[str, Any]) -> None:
        self.recorder.decided(self.ledger.append(dict(entry)), entry)

    async def turn(self, seconds: float = 10.0) -> None:
        self.clock.now += seconds
        await self.recorder.turn()
        for _ in range(5):
            await asyncio.sleep(0)

    def restart(self) -> None:
        self.recorder.close()
        self.ledger.close()
        self.ledger = Ledger(self.directory, "dcu-1")
        self.open()

    def close(self) -> None:
        self.recorder.close()
        self.ledger.close()

    def seqs(self) -> list[int]:
        """Of the grants that the events file has."""
        with closing(open_reader(self.directory / "store", EVENTS)) as reader:
            rows = reader.execute("SELECT seq FROM events WHERE kind = 'grant' ORDER BY log, position")
            return [row[0] for row in rows]

    def kinds(self) -> list[str]:
        with closing(open_reader(self.directory / "store", EVENTS)) as reader:
            return [row[0] for row in reader.execute("SELECT kind FROM events ORDER BY id")]

    def counted(self, table: str) -> int:
        with closing(open_reader(self.directory / "store", TELEMETRY)) as reader:
            return int(reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.fixture
async def street(tmp_path: Path) -> Any:
    made = Street(tmp_path)
    yield made
    Broken.at = ""
    made.close()


# ---- decisions -------------------------------------------------------------------------------------------------------


async def test_decisions_become_events_and_windows_do_not(street: Street) -> None:
    """Each once, with its place in the ledger, from the present start on."""
    for entry in (start(1), WINDOW, grant(1), WINDOW, grant(2)):
        await street.record(entry)
    await street.turn()
    await street.turn()
    assert street.kinds() == ["start", "grant", "grant"]
    with closing(open_reader(street.directory / "store", EVENTS)) as reader:
        newest = events(reader)[0]
        assert (newest["kind"], newest["meter"], newest["epoch"], newest["seq"]) == ("grant", METER, 1, 2)
        assert (newest["log"], newest["position"], newest["at_ms"]) == (1, 4, MONDAY_S * 1000)
        assert newest["body"] == {"limit_w": 200.0, "reason": "GRANTED"}
        assert [one["seq"] for one in events(reader, before=newest["id"], kind="grant")] == [1]


async def test_a_lost_events_file_is_made_again_from_the_ledger(street: Street) -> None:
    """Bytes of another world in its place: set aside, told, and every decision is there again, each once."""
    for entry in (start(1), *map(grant, range(1, 300)), WINDOW):
        await street.record(entry)
    await street.turn()
    street.recorder.close()
    path = EVENTS.path(street.directory / "store")
    path.write_bytes(b"garbage" * 1000)
    street.ledger.close()
    street.ledger = Ledger(street.directory, "dcu-1")
    street.open()
    await street.record(grant(300))
    await street.turn()
    await street.turn()
    assert street.seqs() == list(range(1, 301))
    assert street.recorder.counters.set_aside == 1
    assert "store file set aside" in street.kinds()
    await street.turn()
    street.restart()
    await street.turn()
    assert street.seqs() == list(range(1, 301)), "once more changes nothing"
    assert street.recorder.counters.entries_taken_over == 0, "it knows how far it was"


async def test_what_a_kill_took_is_taken_over(street: Street) -> None:
    """The DCU dies with decisions in the ledger and not in the events: the next start fetches those, and only those."""
    await street.record(start(1))
    for seq in range(1, 50):
        await street.record(grant(seq))
    await street.turn()
    for seq in range(50, 80):
        await street.record(grant(seq))
    street.recorder._events.clear()  # killed before they were handed over
    street.restart()
    await street.turn()
    assert street.seqs() == list(range(1, 80))
    assert street.recorder.counters.entries_taken_over == 30


async def test_the_ledger_is_the_truth(street: Street) -> None:
    """The events have decisions that the ledger does not have (its medium lied): they go. Another ledger: all go."""
    await street.record(start(1))
    for seq in range(1, 10):
        await street.record(grant(seq))
    await street.turn()
    street.recorder.decided(10, grant(10))
    street.recorder.decided(11, grant(11))
    await street.turn()
    assert street.seqs() == list(range(1, 12))
    street.restart()
    await street.turn()
    assert street.seqs() == list(range(1, 10))
    facts = LedgerFacts(1, 2, "another key", lambda _, first: islice(enumerate([start(1), grant(7)]), first, None))
    street.recorder.close()
    where = street.directory / "store"
    street.recorder = Recorder(where, "dcu-1", street.clock, lambda _: Inline(), facts, SETTINGS)
    await street.turn()
    assert street.seqs() == [7]


@pytest.mark.parametrize("at", ["INSERT", "COMMIT", "BEGIN", "SAVEPOINT"])
async def test_a_failing_events_file_loses_no_decision(street: Street, at: str) -> None:
    """The medium refuses at any statement, twice, while decisions go on: after the reopening each is there, once."""
    await street.record(start(1))
    await street.turn()
    seq = 0
    for _ in range(2):
        Broken.at = at
        for _ in range(20):
            seq += 1
            await street.record(grant(seq))
        await street.turn()
        assert street.recorder.status()["files"]["events"] == State.FAILED.value
        seq += 1
        await street.record(grant(seq))
        await street.turn()
        street.recorder.events._reopen()
        await street.turn()
        await street.turn()
        assert street.recorder.status()["files"]["events"] == State.GOOD.value
    assert street.seqs() == list(range(1, seq + 1))
    assert street.recorder.counters.failures == 2


async def test_too_many_decisions_at_once_are_taken_over(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fit in memory between two turns: they come from the ledger."""
    monkeypatch.setattr(module, "EVENTS_MAX", 10)
    await street.record(start(1))
    await street.turn()
    for seq in range(1, 100):
        await street.record(grant(seq))
    await street.turn()
    await street.turn()
    assert street.seqs() == list(range(1, 100))


async def test_a_ledger_that_gives_less_for_a_moment_is_read_again(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer moves files while we read: the first reading ends early."""
    real: Source = ledger_source(street.directory)
    readings = []

    def torn(log: int, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
        readings.append(first)
        return islice(real(log, first), 3 if len(readings) == 1 else None)

    for entry in (start(1), *map(grant, range(1, 9))):
        await street.record(entry)
    street.recorder._ledger = replace(street.recorder._ledger, source=torn)
    await street.turn()
    assert street.seqs() == list(range(1, 9))
    assert readings == [0, 3]


# ---- happenings ------------------------------------------------------------------------------------------------------


async def test_alarms_are_told_when_they_come_and_go(street: Street) -> None:
    """Not with every report."""
    for seq, alarms in enumerate((Alarm(0), Alarm.METER_SILENT, Alarm.METER_SILENT, Alarm.OUTBOX_FULL)):
        street.recorder.reported(METER, report(seq, alarms=alarms))
    street.recorder.happened("meter silent", METER, {})
    await street.turn()
    with closing(open_reader(street.directory / "store", EVENTS)) as reader:
        told = [(one["kind"], one["body"].get("alarm")) for one in reversed(events(reader))]
    expected = [("alarm", "METER_SILENT"), ("alarm", "OUTBOX_FULL"), ("alarm over", "METER_SILENT")]
    assert told == [*expected, ("meter silent", None)]


# ---- readings --------------------------------------------------------------------------------------------------------


async def test_a_reading_is_kept_once_and_at_its_time(street: Street) -> None:
    """A report that comes twice, an older one, one from the outbox, one without a reading."""
    street.clock.now = 100.0
    street.recorder.reported(METER, report(5, reading_age_s=2.5))
    street.clock.now = 103.0
    street.recorder.reported(METER, report(5, reading_age_s=2.5))
    street.recorder.reported(METER, report(4))
    street.recorder.reported(METER, report(3, nonce=None))
    street.recorder.reported(METER, report(6, reading=None))
    await street.turn()
    assert street.recorder.counters.readings == 1
    assert street.recorder.counters.readings_undated == 1
    with closing(open_reader(street.directory / "store", TELEMETRY)) as reader:
        found = trace(reader, METER, MONDAY_S, MONDAY_S + 1000)
    expected = {"at_s": MONDAY_S + 97.5, "u_v": [230.0, None, None], "p_w": [-230, None, None], "limit_w": 5000}
    assert found == [expected]


async def test_a_failing_telemetry_file_counts_what_it_lost(street: Street) -> None:
    """The medium refuses; readings go, the daemon does not notice, and afterwards readings are kept again."""
    await street.turn()
    street.recorder.reported(METER, report(1))
    Broken.at = "COMMIT"
    await street.turn()
    street.recorder.reported(METER, report(2))
    await street.turn()
    assert street.recorder.counters.readings_dropped == 2
    street.recorder.telemetry._reopen()
    street.recorder.reported(METER, report(3))
    await street.turn()
    await street.turn()
    assert (street.recorder.counters.readings, street.recorder.counters.readings_dropped) == (1, 2)
    assert street.counted("readings") == 1


async def test_a_full_medium_is_left_to_the_ledger(tmp_path: Path) -> None:
    """With less room than asked for no telemetry is written; decisions are."""
    street = Street(tmp_path, replace(SETTINGS, free_bytes_min=1 << 60))
    await street.turn()
    street.recorder.reported(METER, report(1))
    await street.record(start(1))
    await street.record(grant(1))
    await street.turn()
    await street.turn()
    assert street.recorder.counters.readings_dropped == 1
    assert street.recorder.status()["low_space"] is True
    assert street.recorder.status()["short_space"] is True
    assert street.seqs() == [1]
    street.close()


async def test_little_room_is_told_before_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times what is left to the ledger: telemetry goes on, and there is an alarm; with five times it is over."""
    street = Street(tmp_path, replace(SETTINGS, free_bytes_min=1000))
    await street.turn()
    found = []
    for seq, room in enumerate((5000, 3000, 5000), 1):
        monkeypatch.setattr(module, "free_bytes", lambda _, room=room: room)
        street.recorder.reported(METER, report(seq))
        street.clock.now += SETTINGS.batch_s
        await street.turn()
        await street.turn()
        status = street.recorder.status()
        found.append((status["short_space"], status["low_space"], status["free_bytes"], status["readings_dropped"]))
    assert found == [(False, False, 5000, 0), (True, False, 3000, 0), (False, False, 5000, 0)]
    street.close()


async def test_a_clock_that_is_not_set_dates_nothing(street: Street) -> None:
    """1970: counted, not kept."""
    street.clock.offset_s = 0.0
    street.recorder.reported(METER, report(1))
    assert street.recorder.counters.readings_dropped == 1


async def test_waiting_readings_are_capped(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond is counted."""
    monkeypatch.setattr(module, "READINGS_MAX", 5)
    for seq in range(8):
        street.recorder.reported(METER, report(seq))
    assert street.recorder.counters.readings_dropped == 3


async def test_the_balancing_meter_is_thinned(street: Street) -> None:
    """Read every second, kept every ten."""
    reading = report(1).reading
    assert reading is not None
    for _ in range(60):
        street.clock.now += 1
        street.recorder.substation_read("substation", reading)
    await street.turn()
    assert street.counted("readings") == 6


# ---- what is made of them --------------------------------------------------------------------------------------------


async def hours(street: Street, count: float, first: int = 0) -> None:
    """Reports every 15 s."""
    for number in range(first, first + int(count * 240)):
        street.clock.now += 15.0
        street.recorder.reported(METER, report(number))
        if number % 40 == 0:
            await street.turn(0.0)
    await street.turn(200.0)
    await street.turn(10.0)


async def test_means_and_quarters_are_made_as_time_goes(street: Street) -> None:
    """Three hours: the first interval has no reading at its very start, all others are complete."""
    await hours(street, 3)
    with closing(open_reader(street.directory / "store", TELEMETRY)) as reader:
        means = reader.execute("SELECT start_s, u1, covered FROM means ORDER BY start_s").fetchall()
        quarters = reader.execute(
            "SELECT start_s, import_dwh, export_dwh, u_mean FROM quarters ORDER BY start_s"
        ).fetchall()
    assert [row[0] - MONDAY_S for row in means[:18]] == [600.0 * n for n in range(18)]
    assert all(row[1] == 23000 for row in means)
    assert all(row[2] == 100 for row in means[1:18])
    assert [row[0] - MONDAY_S for row in quarters[:12]] == [900.0 * n for n in range(12)]
    assert quarters[0][1] is None
    assert all(row[1] is not None and row[3] == 23000 for row in quarters[1:12])


async def test_a_restart_makes_each_interval_once(street: Street) -> None:
    """Stopped and started within an interval: the same rows as without."""
    await hours(street, 1.1)
    street.restart()
    await hours(street, 1.0, first=264)
    with closing(open_reader(street.directory / "store", TELEMETRY)) as reader:
        starts = [row[0] - MONDAY_S for row in reader.execute("SELECT start_s FROM means ORDER BY start_s")]
    assert starts[:12] == [600.0 * n for n in range(12)]


async def test_a_clock_that_is_put_back_does_not_stop_the_making(street: Street) -> None:
    """Ten days ahead for an hour, then right again: intervals of the right time are made."""
    street.clock.offset_s += 864_000
    await hours(street, 1)
    street.clock.offset_s -= 864_000
    await hours(street, 1, first=240)
    with closing(open_reader(street.directory / "store", TELEMETRY)) as reader:
        starts = [row[0] - MONDAY_S for row in reader.execute("SELECT start_s FROM means ORDER BY start_s")]
    assert any(3600 <= start < 8000 for start in starts)


async def test_a_week_is_judged_when_it_is_over(street: Street) -> None:
    """Means of a week put in place: one row for each customer, and the page's query gives it."""
    await hours(street, 0.5)
    with closing(sqlite3.connect(TELEMETRY.path(street.directory / "store"))) as direct:
        direct.executemany(
            "INSERT OR REPLACE INTO means VALUES (?, 1, 23000, NULL, NULL, NULL, 100)",
            [(int(MONDAY_S) + 600 * n,) for n in range(1008)],
        )
        direct.execute("UPDATE made SET until_s = ? WHERE what = 'means'", (int(MONDAY_S) + 604_800,))
        direct.commit()
    street.clock.now = 604_800.0 + 300.0
    await street.turn()
    with closing(open_reader(street.directory / "store", TELEMETRY)) as reader:
        (found,) = weeks(reader, METER)
        assert found["start_s"] == MONDAY_S
        assert found["voltage_kept"] is True
        assert found["complete"] == 1008
        assert present_week(reader, MONDAY_S + 1000, 230.0)[METER]["complete"] == 1008


# ---- retention -------------------------------------------------------------------------------------------------------


async def test_what_is_too_old_goes(tmp_path: Path) -> None:
    """Readings after a day, events after seven."""
    street = Street(tmp_path, replace(SETTINGS, keeping=Keeping(events_days=7, readings_days=1)))
    await street.turn()
    street.recorder.reported(METER, report(1))
    street.recorder.happened("meter silent", METER, {})
    await street.turn()
    assert (street.counted("readings"), len(street.kinds())) == (1, 1)
    await street.turn(86_400.0)
    await street.turn()
    assert (street.counted("readings"), len(street.kinds())) == (0, 1)
    await street.turn(6 * 86_400.0)
    await street.turn()
    assert len(street.kinds()) == 0
    street.close()


async def test_a_clock_that_jumps_deletes_nothing(street: Street) -> None:
    """2038 at noon: age is no reason any more, until the clock has been steady for two days."""
    street.recorder.reported(METER, report(1))
    street.recorder.happened("meter silent", METER, {})
    await street.turn()
    street.clock.offset_s = 2_200_000_000.0
    await street.turn(100.0)
    await street.turn(module.STEADY_S - 100.0)
    assert (street.counted("readings"), len(street.kinds())) == (1, 1)
    await street.turn(200.0)
    await street.turn(0.0)
    assert (street.counted("readings"), len(street.kinds())) == (0, 0)


async def test_telemetry_keeps_its_size(tmp_path: Path) -> None:
    """More readings than fit: the oldest go, the file stays below its limit and the newest are there."""
    limit = 1 << 20
    street = Street(tmp_path, replace(SETTINGS, keeping=Keeping(telemetry_bytes=limit)))
    await street.turn()
    for number in range(40_000):
        street.clock.now += 1.0
        street.recorder.reported(METER, report(number))
        if number % 2000 == 1999:
            await street.turn(60.0)
    for _ in range(5):
        await street.turn(60.0)
    found = TELEMETRY.path(tmp_path / "store").stat().st_size
    assert found < 2 * limit
    assert 1000 < street.counted("readings") < 40_000
    with closing(open_reader(tmp_path / "store", TELEMETRY)) as reader:
        newest = reader.execute("SELECT max(at_ms) FROM readings").fetchone()[0]
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert newest / 1000 > MONDAY_S + 40_000
    street.close()


async def test_readings_of_the_last_days_outlive_old_intervals(street: Street) -> None:
    """No room at all: readings before two days go first, then intervals, then the rest."""
    await hours(street, 1)
    with closing(sqlite3.connect(TELEMETRY.path(street.directory / "store"))) as direct:
        direct.execute("INSERT INTO readings (at_ms, meter, import_wh, export_wh) VALUES (1000, 1, 0, 0)")
        direct.commit()
    keeping = replace(SETTINGS.keeping, telemetry_bytes=0, readings_days=1e6)
    found = [(street.counted("readings"), street.counted("means") + street.counted("quarters"))]
    while sum(found[-1]):
        await street.recorder.telemetry.submit(lambda connection: sweep_telemetry(connection, None, keeping))
        found.append((street.counted("readings"), street.counted("means") + street.counted("quarters")))
    readings, intervals = found[0]
    assert found[1] == (readings - 1, intervals)
    assert found[-2] == (readings - 1, 0)
    assert found[-1] == (0, 0)


async def test_bad_files_make_room_when_it_is_needed(street: Street) -> None:
    """They are kept while the store fits, and go oldest first."""
    from dcu.store.retention import drop_asides  # noqa: PLC0415

    where = street.directory / "store"
    for number in (1, 2):
        (where / f"telemetry.bad-{number}.sqlite").write_bytes(b"x" * 100_000)
        (where / f"telemetry.bad-{number}.reason").write_text(json.dumps({}))
    assert drop_asides(where, 10_000_000) == 0
    assert drop_asides(where, sum(path.stat().st_size for path in where.iterdir()) - 1) == 1
    assert not (where / "telemetry.bad-1.sqlite").exists()
    assert (where / "telemetry.bad-2.sqlite").exists()
    (where / "utility.bad-1.sqlite").write_bytes(b"x" * 100_000)
    (where / "utility.bad-1.reason").write_text(json.dumps({}))
    assert drop_asides(where, sum(path.stat().st_size for path in where.iterdir()) - 150_000) == 2
    assert list(where.glob("*.bad-*")) == []


def test_a_clock_that_was_ahead_for_an_hour_costs_no_week() -> None:
    """On a Wednesday ten years ahead for an hour, with readings: weeks are made up to then, the present one from three
    days. Set right again, the present week is made anew when it is over, and so is the next."""
    how = Deriving(700.0, 100.0, 230.0)
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in TELEMETRY.steps[0]:
            connection.execute(statement)

        def live(from_s: float, hours: int) -> None:
            rows = ((int(1000 * (from_s + 600 * n + 300)), 23000) for n in range(6 * hours))
            values = "VALUES (?, 1, ?, NULL, NULL, 1, NULL, NULL, 0, NULL, NULL, 0, NULL, NULL, 0, 0, NULL)"
            connection.executemany(f"INSERT INTO readings {values}", rows)
            for make in (next_means, next_week):
                while make(connection, from_s + 3600 * hours + 200, how):
                    pass

        live(MONDAY_S, 72)
        live(MONDAY_S + 520 * 604_800, 1)
        early = connection.execute("SELECT body FROM weeks WHERE start_s = ?", (MONDAY_S,)).fetchone()
        live(MONDAY_S + 72 * 3600, 1)
        live(MONDAY_S + 73 * 3600, 4 * 24 - 1)
        live(MONDAY_S + 604_800, 7 * 24)
        made = dict(connection.execute("SELECT start_s, body FROM weeks ORDER BY start_s").fetchall())
    assert list(made) == [MONDAY_S, MONDAY_S + 604_800]
    assert json.loads(early[0])["phases"]["L1"]["count"] < 500
    assert json.loads(made[MONDAY_S])["phases"]["L1"]["count"] > 990
