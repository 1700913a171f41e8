"""The DCU's store in a whole street: it has what was decided, and whatever becomes of it, decisions are the same."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcu.config import DcuConfig
from dcu.ledger.store import Ledger
from dcu.store.database import open_reader
from dcu.store.entries import LedgerFacts, ledger_source, logs
from dcu.store.queries import events, trace
from dcu.store.recorder import Recorder
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.store.writer import Inline
from hil_tests.jump import JumpStreet
from hil_tests.observation import Observation
from hil_tests.player import Ear, play
from hil_tests.scenario import Known, load_scenario
from hil_tests.verdict import judge
from hil_tests.virtual.loop import UTC_AT_START_S, run_virtual
from shared.clock import LoopClock


class Bad(sqlite3.Connection):
    """A medium that refuses every commit but those of the making."""

    code = sqlite3.SQLITE_IOERR

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "SAVEPOINT job":
            error = sqlite3.OperationalError("refused")
            error.sqlite_errorcode = self.code
            raise error
        return super().execute(sql, *parameters)


def played(
    known: Known, directory: Path, factory: type[sqlite3.Connection] | None, seed: int = 1
) -> tuple[Observation, list[Recorder]]:
    """A play with a store on such connections, or without one."""
    made: list[Recorder] = []

    def connect(uri: str) -> sqlite3.Connection:
        assert factory is not None
        return sqlite3.connect(uri, uri=True, isolation_level=None, factory=factory)

    def make(clock: LoopClock, config: DcuConfig, ledger: Ledger) -> Recorder:
        source = ledger_source(config.state_directory)
        facts = LedgerFacts(logs(config.state_directory), ledger.position, ledger.vkey, source)
        where = config.store_directory
        made.append(Recorder(where, config.dcu.id, clock, lambda _: Inline(), facts, config.store_settings, connect))
        return made[-1]

    async def world() -> Observation:
        ear, scenario = Ear(asyncio.get_running_loop()), load_scenario(known.value)
        return await play(scenario, JumpStreet(scenario, ear, directory, seed, None, make if factory else None), ear)

    return run_virtual(world), made


def decisions(seen: Observation) -> list[tuple[Any, ...]]:
    """What was decided, without what was measured."""
    keys = ("kind", "epoch", "seq", "meter", "limit_w", "reason", "lease_s", "revoked")
    return [tuple(entry.get(key) for key in keys) for entry in seen.ledger if entry["seq"] is not None]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("known", [Known.RESTART, Known.REVOKED], ids=lambda known: known.value)
def test_the_store_has_what_was_decided_and_decides_nothing(known: Known, seed: int, tmp_path: Path) -> None:
    """Without a store, with one, with one whose medium refuses everything: the same decisions, and the same verdicts to
    the word. And the events of the good one are its ledger's decisions, restarts included. With seed 1 an offer of
    group keys and a grant leave in the same instant."""
    without, _ = played(known, tmp_path / "without", None, seed)
    good, recorders = played(known, tmp_path / "good", sqlite3.Connection, seed)
    bad, failing = played(known, tmp_path / "bad", Bad, seed)
    told, told_without = (judge(load_scenario(known.value), seen) for seen in (good, without))
    assert told == told_without
    assert decisions(without) == decisions(good) == decisions(bad)
    assert len(decisions(good)) > 1
    assert all(recorder.counters.failures > 0 for recorder in failing)
    assert all(recorder.counters.failures == 0 for recorder in recorders)
    where = next(tmp_path.glob("good/state/*/store"))
    with closing(open_reader(where, EVENTS)) as reader:
        kept = [(one["epoch"], one["seq"]) for one in reversed(events(reader)) if one["seq"] is not None]
        kinds = {one["kind"] for one in events(reader)}
    decided = [(one["epoch"], one["seq"]) for one in good.ledger if one["seq"] is not None and one["kind"] != "renewal"]
    assert sorted(kept) == sorted(decided)
    assert "meter linked" in kinds
    with closing(open_reader(where, TELEMETRY)) as reader:
        found = trace(reader, "client1", UTC_AT_START_S, UTC_AT_START_S + 3600)
    assert len(found) > 5
    assert all(200 < one["u_v"][0] < 260 for one in found)


class Full(Bad):
    """No room."""

    code = sqlite3.SQLITE_FULL


class ReadOnly(Bad):
    """Nothing may be written any more."""

    code = sqlite3.SQLITE_READONLY


class Starved(Bad):
    """No memory for SQLite."""

    code = sqlite3.SQLITE_NOMEM


def test_a_store_without_room_without_leave_or_without_memory_stops_no_grant(tmp_path: Path) -> None:
    """The same decisions as without a store; each failure is counted."""
    without, _ = played(Known.GRANTED, tmp_path / "without", None)
    for kind in (Full, ReadOnly, Starved):
        seen, recorders = played(Known.GRANTED, tmp_path / kind.__name__, kind)
        assert decisions(seen) == decisions(without)
        assert all(recorder.counters.failures > 0 for recorder in recorders)
    assert decisions(without)
