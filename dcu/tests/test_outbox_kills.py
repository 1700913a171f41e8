"""The outbox and the ledger of a process that is killed at any step: nothing is missing, and nothing has two names.

Decisions and acknowledgements are in memory for a while. Whatever the last session had acknowledged must be offered
again (the broker may have died with it), and whatever else was told must still be there, or in the ledger.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.layout import current
from dcu.ledger.store import read
from dcu.store.database import Connect
from dcu.utility import recent
from dcu.utility.documents import DECISIONS, Class, decision, decision_name
from dcu.utility.outbox import Cursor, Item, Outbox, Span
from dcu.utility.outbox_file import Lane, OutboxFull
from dcu.utility.tests.test_outbox import command
from dcu.utility_real import catch_up, entries_of

DCU = "dcu-1"
STEPS = 60


class Killed(BaseException):
    """The end of the process."""


class Mortal(sqlite3.Connection):
    """Dies at a statement: before it is executed, or after."""

    left = sys.maxsize

    def execute(self, *args: Any) -> sqlite3.Cursor:
        Mortal.left -= 1
        if Mortal.left == 1:
            raise Killed
        if args[0].startswith("PRAGMA synchronous"):  # a kill is no power cut: what was written is there
            args = ("PRAGMA synchronous = OFF",)
        done = super().execute(*args)
        if Mortal.left == 0:
            raise Killed
        return done


def connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, factory=Mortal)


class World:
    """One DCU: a ledger that is a list, what its utility heard, and what was durable on return."""

    def __init__(self, directory: Path, seed: int, connect: Connect = connect) -> None:
        self.outbox = Outbox(directory, DCU, connect, draw=random.Random(seed).randbytes)
        self.outbox.rebuild(0, {})
        self.outbox.put([], Cursor(1, 0))
        self.draw = random.Random(seed)
        self.ledger: list[dict[str, Any]] = []
        self.heard: dict[str, dict[str, Any]] = {}
        self.session: set[str] = set()
        self.promised: set[tuple[str, int]] = set()
        self.accepted = 0

    def step(self) -> None:
        """Something that may happen, as the link does it."""
        steps: list[tuple[Callable[[], None], int]] = [
            (self.decide, 6), (self.send, 6), (self.alarm, 2), (self.order, 1), (self.outbox.flush, 1),
            (self.connect, 1),
        ]  # fmt: skip
        works, weights = zip(*steps, strict=True)
        self.draw.choices(works, weights)[0]()

    def decide(self, *more: dict[str, Any]) -> None:
        """Some entries, of which one may be none that is told."""
        first = len(self.ledger)
        kinds = self.draw.choices(("grant", "renewal", "window"), k=self.draw.randrange(1, 4))
        self.ledger += [{"kind": kind, "epoch": 1, "seq": first + n} for n, kind in enumerate(kinds)]
        self.ledger += more
        told = list(enumerate(self.ledger))[first:]
        items = [
            Item(Class.DECISION, decision(1, n, entry), decision_name(DCU, 1, n))
            for n, entry in told
            if entry["kind"] in DECISIONS
        ]
        self.keep(items, first)

    def keep(self, items: list[Item], first: int) -> None:
        """What the ledger has from an entry on."""
        assert self.outbox.keep(items, Span(1, first, len(self.ledger)))

    def alarm(self) -> None:
        """And a report: both are nowhere else."""
        n = self.draw.randrange(1 << 30)
        self.outbox.keep([Item(Class.ALARM, {"n": n}), Item(Class.REPORT, {"n": n})])
        self.promised |= {("alarm", n), ("report", n)}

    def order(self) -> None:
        """A command is accepted, acknowledged, and its effect recorded."""
        self.accepted += 1
        order = command(self.accepted)
        number = self.accepted
        self.accepted -= 1
        self.outbox.accept(order, {})
        self.accepted = number
        about = {**order.as_entry(), "outcome": "done", "detail": ""}
        self.decide({"kind": "command", "epoch": 1, "seq": None, **about})

    def send(self) -> None:
        """A message, of whatever lane has one; the broker takes it and says so."""
        self.outbox.batch_items_max = self.draw.randrange(1, 6)
        for lane in self.draw.sample(tuple(Lane), len(Lane)):
            if (batch := self.outbox.next(lane, 1 << 20)) is not None:
                self.hear([json.loads(item) for item in batch.items])
                self.outbox.settle(batch)
                return

    def connect(self) -> None:
        """Another session."""
        self.session = set()
        if self.draw.random() < 0.5:  # else the same connection, whose subscriber is back
            self.outbox.connected()
        self.outbox.offer_again()

    def hear(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            self.session.add(item["id"])
            before = self.heard.setdefault(item["id"], item)
            assert {**before, "recovered": True} == {**item, "recovered": True}, "a name means one thing"


def drained(outbox: Outbox) -> list[dict[str, Any]]:
    """All that a new session is offered."""
    outbox.connected()
    outbox.offer_again()
    found = []
    for lane in Lane:
        while (batch := outbox.next(lane, 1 << 20)) is not None:
            found += [json.loads(item) for item in batch.items]
            outbox.settle(batch)
    assert outbox.waiting == {}
    return found


def check_after_kill(world: World, directory: Path) -> None:
    """Another process opens what lies there, asks the ledger for the rest, and connects."""
    outbox = Outbox(directory, DCU, connect)
    with closing(outbox):
        cursor = outbox.cursor or Cursor(1, 0)
        catch_up(outbox, DCU, cursor, len(world.ledger), iter(world.ledger[cursor.position :]))
        assert outbox.cursor == Cursor(1, len(world.ledger))
        recorded = {entry["number"] for entry in world.ledger if entry["kind"] == "command"}
        unfinished = {one.number for one in outbox.unfinished()}
        assert unfinished.isdisjoint(recorded)
        assert unfinished | recorded >= set(range(1, world.accepted + 1))
        session = set(world.session)
        offered = drained(outbox)
        assert len({item["id"] for item in offered}) == len(offered)
        world.hear(offered)
    again = {item["id"] for item in offered}
    assert {name for name in session if "/report/" not in name} <= again
    told = {n for n, entry in enumerate(world.ledger) if entry["kind"] in DECISIONS}
    assert {item["position"] for item in world.heard.values() if "entry" in item} == told
    rest = {(name.split("/")[1], item["n"]) for name, item in world.heard.items() if "n" in item}
    assert rest >= world.promised
    answered = {(item["number"], item["outcome"]) for item in world.heard.values() if "outcome" in item}
    assert answered >= {(number, outcome) for number in recorded for outcome in ("accepted", "done")}


def killed_at(directory: Path, statement: int, seed: int) -> bool:
    """Play until a statement; whether it came to that."""
    lives, dies = directory / "lives", directory / "dies"
    world = World(lives, seed)
    Mortal.left = statement
    try:
        for _ in range(STEPS):
            world.step()
    except Killed:
        killed = True
    else:
        killed = False
    finally:
        Mortal.left = sys.maxsize
    dies.mkdir()
    for file in lives.glob("utility.sqlite*"):
        shutil.copy(file, dies / file.name)
    world.outbox.close()
    check_after_kill(world, dies)
    return killed


def test_a_kill_at_any_statement_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Sixty steps of a day in small, killed before and after each statement that any of them makes; the files as they
    lie then are opened by another process."""
    statement = 1
    while killed_at(tmp_path / str(statement), statement, seed=4):
        shutil.rmtree(tmp_path / str(statement))
        statement += 1
    assert statement > 200


class NoRoom(sqlite3.Connection):
    """A medium that takes nothing while ``full``."""

    full = False

    def execute(self, *args: Any) -> sqlite3.Cursor:
        if NoRoom.full and args[0].startswith("BEGIN"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        if args[0].startswith("PRAGMA synchronous"):
            args = ("PRAGMA synchronous = OFF",)
        return super().execute(*args)


class FullWorld(World):
    """The same on a medium that is full now and then, with a link that asks the ledger for what there was no room for.
    What there is no room for is not promised, and what one session has heard it does not hear again."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory, seed, _on_a_full_medium)
        self.gap = False

    def step(self) -> None:
        if self.draw.random() < 0.05:
            NoRoom.full = not NoRoom.full
        try:
            if self.gap and self.draw.random() < 0.3:
                self.refill()
            else:
                super().step()
        except OutboxFull:
            self.gap = True

    def keep(self, items: list[Item], first: int) -> None:
        span = None if self.gap else Span(1, first, len(self.ledger))
        try:
            self.gap |= not self.outbox.keep(items, span)
        except OutboxFull:
            self.gap = True

    def refill(self) -> None:
        """As the link does: what is missed from now on opens another gap."""
        cursor = self.outbox.cursor
        assert cursor is not None
        catch_up(self.outbox, DCU, cursor, len(self.ledger), iter(self.ledger[cursor.position :]))
        self.gap = False

    def hear(self, items: list[dict[str, Any]]) -> None:
        names = [item["id"] for item in items]
        assert self.session.isdisjoint(names), "once in a session"
        super().hear(items)


def _on_a_full_medium(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, factory=NoRoom)


def test_a_medium_that_is_full_now_and_then_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times two hundred steps, and then a kill, with much or little that memory may hold."""
    for seed in range(20):
        monkeypatch.setattr(NoRoom, "full", False)
        monkeypatch.setattr(recent, "ITEMS_MAX", 4 + 12 * (seed % 3))
        world = FullWorld(tmp_path / str(seed) / "lives", seed)
        for _ in range(200):
            world.step()
        NoRoom.full = False
        dies = tmp_path / str(seed) / "dies"
        dies.mkdir()
        for file in (tmp_path / str(seed) / "lives").glob("utility.sqlite*"):
            shutil.copy(file, dies / file.name)
        world.outbox.close()
        world.session = set()  # tails give way on a full medium
        check_after_kill(world, dies)


RUN = """
import random, sys
from dcu.ledger.store import Ledger
from dcu.tests.test_outbox_kills import *

directory = Path(sys.argv[1])
draw = random.Random(int(sys.argv[2]))
ledger = Ledger(directory, DCU)
epoch = ledger.epoch + 1
outbox = Outbox(directory / "store", DCU)
cursor = outbox.cursor or Cursor(1, 0)
catch_up(outbox, DCU, cursor, ledger.position, entries_of(current(directory), cursor.position))
outbox.put([], Cursor(1, ledger.position))
outbox.connected()
outbox.offer_again()
seq = 0
while True:
    entry = {"kind": "start" if not seq else "grant", "epoch": epoch, "seq": seq, "utc_s": 0}
    position = ledger.append(entry)
    seq += 1
    item = Item(Class.DECISION, decision(1, position, entry), decision_name(DCU, 1, position))
    outbox.keep([item], Span(1, position, position + 1))
    if draw.random() < 0.02:
        outbox.keep([Item(Class.ALARM, {"n": position})])
        print("alarm", position, flush=True)
    if draw.random() < 0.5 and (batch := outbox.next(draw.choice(tuple(Lane)), 4096)) is not None:
        outbox.settle(batch)
        for item in batch.items:
            told = json.loads(item)
            print("heard", told.get("position", told.get("n")), flush=True)
    else:
        print("did", position, flush=True)
"""


def outbox_kills(directory: Path, rounds: int, seed: int) -> None:
    """A process with ledger and outbox is killed at random moments: all that the ledger has is heard, and so is every
    alarm that was durable."""
    draw = random.Random(seed)
    heard, alarms = set[int](), set[int]()
    for number in range(rounds):
        arguments = [sys.executable, "-c", RUN, str(directory), str(seed + number)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(draw.randrange(1, 300))]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        for word, said in (line.split() for line in lines if line.endswith("\n")):
            alarms |= {int(said)} if word == "alarm" else set()
            heard |= {int(said)} if word == "heard" else set()
    entries = list(read(directory))
    with closing(Outbox(directory / "store", DCU)) as outbox:
        assert outbox.aside is None
        cursor = outbox.cursor
        assert cursor is not None
        catch_up(outbox, DCU, cursor, len(entries), entries_of(current(directory), cursor.position))
        offered = drained(outbox)
    assert len({item["id"] for item in offered}) == len(offered)
    positions = {item["position"] for item in offered if "position" in item}
    assert len(entries) > rounds
    assert positions == set(range(len(entries))), "fewer than a tail: all of it is offered again"
    assert {item["n"] for item in offered if "n" in item} >= alarms
    assert heard <= positions


def test_real_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """A few at every run of the tests; fifty by `python -m benchmarks.utility`."""
    outbox_kills(tmp_path, 4, seed=3)
