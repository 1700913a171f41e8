"""The link in virtual time: nothing lost, nothing doubled, live before old, and no message or command stops it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dcu.store import database
from dcu.utility import link as module
from dcu.utility.commands import BYTES_MAX, Command, Judge, Order, Refusal, Refused
from dcu.utility.courier import ASIDE_AFTER, BACK_OFF_S_MAX, PARDON_S
from dcu.utility.documents import Class, decision
from dcu.utility.link import DEAF_S, REFUSALS_RECORDED_MAX, STRANGER_S, Arrival, UtilityLink
from dcu.utility.outbox import COMMAND, Cursor, Item, Outbox
from dcu.utility.outbox_file import OutboxFull
from dcu.utility.recent import ITEMS_MAX
from dcu.utility.tests.no_room import NoRoom
from dcu.utility_real import catch_up
from hil_tests import utility_outage
from hil_tests.utility_bench import UTC_S, Commander, DirectOutbox, kill_outbox
from hil_tests.utility_outage import Outage
from hil_tests.virtual.broker import MemoryBroker, MemoryUtility
from hil_tests.virtual.loop import VirtualLoop, run_virtual
from shared.clock import LoopClock

DCU = "dcu-1"


class Desk:
    """`dcu.utility.link.Site` that writes down what it is told; its ledger is a list."""

    def __init__(self) -> None:
        self.link: UtilityLink | None = None
        self.done: list[int] = []
        self.refusals: list[tuple[Refusal, int]] = []
        self.stalls = False
        self.position = 0

    async def objection(self, order: Order) -> tuple[Refusal, str] | None:
        if order.kind == "load_model":
            raise ZeroDivisionError("a model that nobody thought of")
        return (Refusal.NOT_HERE, "no policy") if order.kind == "set_policy" else None

    def settings(self, order: Order) -> dict[str, Any]:
        return {"seen": order.kind}

    async def carry_out(self, command: Command) -> Item | None:
        if self.stalls:
            await asyncio.Event().wait()
        assert self.link is not None
        self.done.append(command.number)
        told = {"kind": COMMAND, **command.as_entry(), "outcome": "done", "detail": ""}
        self.link.recorded(self.position, told)
        self.position += 1
        return None

    async def refused(self, refused: Refused, unrecorded: int) -> None:
        self.refusals.append((refused.why, unrecorded))


class Bench:
    """One link with everything around it."""

    def __init__(self, directory: Path, broker: MemoryBroker, commander: Commander, desk: Desk) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), loop
        self.broker, self.commander, self.desk = broker, commander, desk
        self.outbox = Outbox(directory, DCU, draw=random.Random(1).randbytes)
        judge, clock = Judge(DCU, (commander.public,)), LoopClock(loop, loop.utc_s)
        self.link = UtilityLink(DCU, 1, DirectOutbox(self.outbox), broker, judge, clock, random.Random(1))
        desk.link = self.link
        works = (self.link.run_outbox, self.link.run_sender, lambda progress: self.link.run_desk(desk, progress))
        self._tasks = [asyncio.ensure_future(work(lambda: None)) for work in works]

    async def kill(self) -> None:
        """As SIGKILL does: what is on the disk stays."""
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
        kill_outbox(self.outbox)

    def order(self, order: dict[str, Any], *, retained: bool = False, **other: Any) -> bytes:
        """Give a command; its bytes."""
        payload = self.commander.command(order, UTC_S, **other)
        self.broker.command(payload, retained=retained)
        return payload


def bench(directory: Path, play: Callable[[Bench], Awaitable[None]]) -> Bench:
    """Play with a link until the play ends."""

    async def main() -> Bench:
        subject = Bench(directory, MemoryBroker(MemoryUtility()), Commander(DCU), Desk())
        await asyncio.sleep(1.0)
        await play(subject)
        await subject.kill()
        return subject

    return run_virtual(main)


def answers(subject: Bench) -> list[tuple[int | None, str]]:
    return [(a["number"], a.get("reason", a["outcome"])) for a in subject.broker.utility.of("answer")]


# ---- upwards ---------------------------------------------------------------------------------------------------------


def test_after_two_hours_without_a_broker_nothing_is_missing_and_live_decisions_pass_the_backlog(
    tmp_path: Path,
) -> None:
    """A hundred meters, a line of 1 Mbit/s and 150 ms; `benchmarks/utility.py` plays 72 hours of it."""
    found = utility_outage.play(Outage(hours=2.0), tmp_path)
    assert found.waiting > 9000
    assert (found.lost, found.doubled, found.out_of_order, found.dropped) == (0, 0, 0, {})
    assert found.drained_s < 120.0
    assert found.live_s[2] < 5.0


def test_lost_acknowledgements_repeat_items_under_the_same_id(tmp_path: Path) -> None:
    """The broker takes messages and dies before it says so, again and again."""

    async def play(subject: Bench) -> None:
        for n in range(200):
            subject.broker.lose_acknowledgements = 1 if n % 7 == 0 else 0
            subject.link.tell(Item(Class.ALARM, {"n": n}))
            await asyncio.sleep(0.5)
        subject.broker.lose_acknowledgements = 0
        await asyncio.sleep(200.0)

    subject = bench(tmp_path, play)
    assert sorted(item["n"] for item in subject.broker.utility.of("alarm")) == list(range(200))
    assert subject.broker.utility.doubled > 5


def test_a_broker_that_dies_with_what_it_has_acknowledged_loses_nothing(tmp_path: Path) -> None:
    """It keeps back up to twenty messages, and is killed at random twelve times within bursts; the DCU is, too, now and
    then. What its utility gets it gets once, and nothing is missing: decisions, alarms, heads."""

    async def play(subject: Bench) -> None:
        draw, position = random.Random(5), 0
        for kill in range(12):
            subject.broker.keeps_back = draw.randrange(21)
            for n in range(20):
                subject.outbox.batch_items_max = draw.randrange(1, 8)
                subject.link.recorded(position, {"kind": "grant", "seq": position})
                if n < 15:  # the last decisions are in memory only when the DCU is killed
                    subject.link.tell(Item(Class.ALARM, {"n": position}))
                    subject.link.tell(Item(Class.CHECKPOINT, {"n": position}))
                position += 1
                await asyncio.sleep(draw.uniform(0.0, 0.5))
            subject.broker.go()
            if kill % 4 == 3:
                await asyncio.sleep(0.0)  # what was told is on its way into the outbox
                await subject.kill()
                again = Bench(tmp_path, subject.broker, subject.commander, Desk())
                subject.link, subject.outbox, subject._tasks = again.link, again.outbox, again._tasks
                found = subject.outbox.cursor
                assert found is not None
                assert found.position < position  # the rest was in memory, and is in the ledger
                ledger = [{"kind": "grant", "seq": n} for n in range(found.position, position)]
                catch_up(subject.outbox, DCU, found, position, iter(ledger))
            await asyncio.sleep(draw.uniform(0.0, 5.0))
            subject.broker.up = True
            await asyncio.sleep(BACK_OFF_S_MAX)
        subject.broker.keeps_back = 0
        subject.link.tell(Item(Class.REPORT, {"n": 0}))  # with which everything is passed on
        await asyncio.sleep(BACK_OFF_S_MAX)
        assert subject.outbox.waiting == {}

    found = bench(tmp_path, play).broker.utility
    assert sorted(item["position"] for item in found.of("decision")) == list(range(240))
    rest = [n for n in range(240) if n % 20 < 15]
    assert [sorted(item["n"] for item in found.of(word)) for word in ("alarm", "checkpoint")] == [rest] * 2
    assert found.doubled > 240


def test_what_was_told_to_nobody_is_told_once_somebody_is_back(tmp_path: Path) -> None:
    """The broker has lost its subscriptions and says so; an hour later the utility comes, the session still the same.
    What it did hear before, it knows; nothing leaves a third time."""

    async def play(subject: Bench) -> None:
        for n in range(300):
            subject.broker.subscribed = not 100 <= n < 200
            subject.link.recorded(n, {"kind": "grant", "seq": n})
            await asyncio.sleep(36.0)
        assert subject.outbox.waiting == {}
        assert subject.link.counters["items sent to nobody"] == 100
        assert subject.link.counters["items sent again"] == 201

    subject = bench(tmp_path, play)
    assert subject.broker.connects == 1
    assert {item["position"] for item in subject.broker.utility.of("decision")} == set(range(300))


def test_who_comes_and_goes_gets_everything_again_once_an_hour(tmp_path: Path) -> None:
    """A subscriber that is there every second minute, for five hours, with a decision in each: what a tail has leaves
    once an hour and not a hundred and fifty times, and nothing is missing in the end."""

    async def play(subject: Bench) -> None:
        for n in range(300):
            subject.broker.subscribed = n % 2 == 0
            subject.link.recorded(n, {"kind": "grant", "seq": n})
            await asyncio.sleep(60.0)
        subject.broker.subscribed = True
        await asyncio.sleep(PARDON_S)
        subject.link.recorded(300, {"kind": "grant", "seq": 300})
        await asyncio.sleep(60.0)
        assert subject.outbox.waiting == {}
        assert subject.link.counters["items sent to nobody"] >= 150
        assert 300 <= subject.link.counters["items sent again"] <= 6 * 300

    subject = bench(tmp_path, play)
    assert subject.broker.connects == 1
    assert {item["position"] for item in subject.broker.utility.of("decision")} == set(range(301))


def test_a_message_that_kills_the_link_stands_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A poisoned decision between good ones; it is kept, tried again an hour later, and gets through once it may."""

    async def play(subject: Bench) -> None:
        subject.broker.kills = b"poison"
        for n in range(20):
            subject.link.recorded(n, {"kind": "grant", "text": "poison" if n == 7 else "good"})
        await asyncio.sleep(ASIDE_AFTER * BACK_OFF_S_MAX + 60.0)
        positions = {item["position"] for item in subject.broker.utility.of("decision")}
        assert positions == set(range(20)) - {7}
        assert subject.outbox.waiting == {"decision": 1}
        tries = subject.broker.connects
        await asyncio.sleep(600.0)
        assert subject.broker.connects == tries
        subject.broker.kills = None
        await asyncio.sleep(3600.0)

    subject = bench(tmp_path, play)
    assert len(subject.broker.utility.of("decision")) == 20
    assert subject.outbox.dropped == {}


def test_a_message_that_is_refused_does_not_take_the_link_with_it(tmp_path: Path) -> None:
    """A report that the broker says no to: dropped after its tries, counted; commands go on being heard."""

    async def play(subject: Bench) -> None:
        subject.broker.refuses = b"poison"
        subject.link.tell(Item(Class.REPORT, {"text": "poison"}))
        await asyncio.sleep(ASIDE_AFTER * BACK_OFF_S_MAX)
        subject.link.tell(Item(Class.REPORT, {"text": "good"}))
        await asyncio.sleep(10.0)

    subject = bench(tmp_path, play)
    assert [item["text"] for item in subject.broker.utility.of("report")] == ["good"]
    assert subject.broker.connects == 1
    assert subject.outbox.dropped == {"report": 1}


def test_a_broker_that_refuses_is_asked_ever_less_often(tmp_path: Path) -> None:
    """An hour away: some seventy attempts, not thousands."""

    async def play(subject: Bench) -> None:
        subject.broker.go()
        before = subject.broker.attempts
        await asyncio.sleep(3600.0)
        assert 60 <= subject.broker.attempts - before <= 130
        subject.broker.up = True
        await asyncio.sleep(BACK_OFF_S_MAX + 5.0)

    subject = bench(tmp_path, play)
    assert subject.broker.utility.states[-1]["online"]
    assert subject.broker.connects == 2


def _drop(arrival: Arrival) -> None:
    del arrival


# ---- downwards -------------------------------------------------------------------------------------------------------


def test_a_command_acts_once_however_often_it_comes(tmp_path: Path) -> None:
    """Delivered five times, over three sessions: one effect, and each time the same answer."""

    async def play(subject: Bench) -> None:
        payload = subject.order({"kind": "revoke_all"})
        await asyncio.sleep(5.0)
        for n in range(4):
            if n % 2:
                subject.broker.go()
                subject.broker.up = True
                await asyncio.sleep(BACK_OFF_S_MAX)
            subject.broker.command(payload)
            await asyncio.sleep(5.0)

    subject = bench(tmp_path, play)
    assert subject.desk.done == [1]
    assert answers(subject) == [(1, "accepted"), (1, "done")]
    assert subject.broker.queued == []
    assert subject.link.counters["commands repeated"] == 4


def test_an_old_number_never_acts_even_signed(tmp_path: Path) -> None:
    """Numbers 1, 2, 3; then another command with number 2."""

    async def play(subject: Bench) -> None:
        for _ in range(3):
            subject.order({"kind": "revoke_all"})
        subject.order({"kind": "revoke_all", "hold_s": 9.0}, number=2)
        await asyncio.sleep(5.0)

    subject = bench(tmp_path, play)
    assert subject.desk.done == [1, 2, 3]
    assert (2, "old_number") in answers(subject)


def test_a_crash_between_acceptance_and_effect_is_made_good_once(tmp_path: Path) -> None:
    """The effect hangs, the process dies; the next one carries it out before anything else, and answers."""

    async def play(subject: Bench) -> None:
        subject.desk.stalls = True
        payload = subject.order({"kind": "revoke_all"})
        await asyncio.sleep(5.0)
        await subject.kill()
        again = Bench(tmp_path, subject.broker, subject.commander, Desk())
        subject.broker.command(payload)  # the utility, too, sends it once more
        await asyncio.sleep(5.0)
        assert again.desk.done == [1]
        await again.kill()
        third = Bench(tmp_path, subject.broker, subject.commander, Desk())
        await asyncio.sleep(5.0)
        assert third.desk.done == []
        subject.desk, subject.outbox, subject._tasks = third.desk, third.outbox, third._tasks

    subject = bench(tmp_path, play)
    assert answers(subject) == [(1, "accepted"), (1, "done")]


def test_a_command_that_was_not_made_durable_is_brought_again(tmp_path: Path) -> None:
    """The process dies with the command in its hands: the broker still has it."""

    async def play(subject: Bench) -> None:
        subject.link._arrive = _drop  # type: ignore[method-assign]  # died before it looked at it
        subject.broker.go()
        subject.broker.up = True
        await asyncio.sleep(BACK_OFF_S_MAX)
        subject.order({"kind": "revoke_all"})
        await asyncio.sleep(1.0)
        await subject.kill()
        assert len(subject.broker.queued) == 1
        again = Bench(tmp_path, subject.broker, subject.commander, Desk())
        await asyncio.sleep(5.0)
        assert again.desk.done == [1]
        subject.outbox, subject._tasks = again.outbox, again._tasks

    assert bench(tmp_path, play).broker.queued == []


def test_bad_commands_change_nothing_are_recorded_and_do_not_stop_the_link(tmp_path: Path) -> None:
    """The catalogue's row, all of it, between two good ones; afterwards everything is as before."""

    async def play(subject: Bench) -> None:
        stranger = Commander(DCU)
        bad = [
            b"not JSON", b"[" * 10_000, b" " * (10 << 20), b'{"command":{},"command":{}}',
            b'{"command":{"number":1e309}}', b'{"command":{"number":18446744073709551616}}', b'{"command":"\xff"}',
            stranger.command({"kind": "revoke_all"}, UTC_S),
        ]  # fmt: skip
        for payload in bad:
            subject.broker.command(payload)
        await asyncio.sleep(20.0)  # ten mebibytes are taken alone, in a session of their own
        subject.order({"kind": "revoke_all"}, retained=True)
        subject.order({"kind": "revoke_all"}, expires_utc_s=UTC_S + 1)
        subject.order({"kind": "revoke_all"}, dcu="dcu-2")
        subject.order({"kind": "revoke_all"}, version=2)
        subject.order({"kind": "set_policy", "policy": "equal"})
        await asyncio.sleep(1.0)
        assert subject.desk.done == []
        assert subject.outbox.setting("seen") is None
        subject.order({"kind": "revoke_all"})
        await asyncio.sleep(5.0)

    subject = bench(tmp_path, play)
    whys = [why.value for why, _ in subject.desk.refusals]
    assert whys == [
        "not_json", "too_deep", "too_large", "double_key", "bad_number", "bad_number", "not_json", "unknown_key",
        "retained", "expired", "other_dcu", "unknown_version", "not_here",
    ]  # fmt: skip
    assert subject.desk.done == [6]
    assert answers(subject) == [
        (None, "retained"), (2, "expired"), (None, "other_dcu"), (4, "unknown_version"), (5, "not_here"),
        (6, "accepted"), (6, "done"),
    ]  # fmt: skip


def test_an_order_that_breaks_whoever_looks_at_it_comes_only_once(tmp_path: Path) -> None:
    """Refused, acknowledged, answered; the next command is carried out."""

    async def play(subject: Bench) -> None:
        subject.order({"kind": "load_model", "sha256": "0" * 64})
        subject.order({"kind": "revoke_all"})
        await asyncio.sleep(5.0)

    subject = bench(tmp_path, play)
    assert subject.broker.queued == []
    assert (answers(subject)[0], subject.desk.done) == ((1, "not_here"), [2])


def test_a_flood_of_nonsense_is_counted_and_hardly_recorded(tmp_path: Path) -> None:
    """Two thousand messages in two hundred seconds: a dozen entries, no answers, and the number of the rest."""

    async def play(subject: Bench) -> None:
        for n in range(2000):
            subject.broker.command(b"nonsense %d" % n)
            await asyncio.sleep(0.1)
        await asyncio.sleep(120.0)
        subject.broker.command(b"x" * (BYTES_MAX + 1))
        await asyncio.sleep(1.0)

    subject = bench(tmp_path, play)
    assert subject.link.counters["refused not_json"] == 2000
    assert REFUSALS_RECORDED_MAX <= len(subject.desk.refusals) <= REFUSALS_RECORDED_MAX + 6
    assert sum(unrecorded for _, unrecorded in subject.desk.refusals) + len(subject.desk.refusals) == 2001
    assert answers(subject) == []


def test_a_bad_command_that_comes_again_and_again_is_hardly_recorded(tmp_path: Path) -> None:
    """Signed, of a bad form, and sent again by somebody who has heard it: it spends nothing, so it costs nothing."""

    async def play(subject: Bench) -> None:
        for number in (1, "one"):
            payload = subject.commander.command({"kind": "revoke_all"}, UTC_S, number=number, comment="hello")
            for _ in range(300):
                subject.broker.command(payload)
                await asyncio.sleep(0.1)

    subject = bench(tmp_path, play)
    assert subject.link.counters["refused bad_form"] == 301
    assert len(subject.desk.refusals) <= REFUSALS_RECORDED_MAX + 3
    assert subject.desk.done == []


def test_a_flood_neither_looks_like_a_hang_nor_takes_the_processor(tmp_path: Path) -> None:
    """Nonsense that never ends, faster than it is looked at: the desk shows progress, and takes its time."""
    shown: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        subject = UtilityLink(
            DCU,
            1,
            DirectOutbox(Outbox(tmp_path, DCU)),
            MemoryBroker(MemoryUtility()),
            Judge(DCU, ()),
            LoopClock(loop),
            random.Random(1),
        )
        desk = asyncio.ensure_future(subject.run_desk(Desk(), lambda: shown.append(loop.time())))
        until_s = loop.time() + 100.0
        while loop.time() < until_s:
            if subject._lost is not None:  # what was left to the broker comes with another session
                subject._lost = subject._deaf_until_s = None
            subject._arrive(Arrival(b"nonsense", retained=False, acknowledge=lambda: None))
            await asyncio.sleep(STRANGER_S / 5)
        desk.cancel()
        await asyncio.gather(desk, return_exceptions=True)
        assert 1800 < subject.counters["refused not_json"] <= 2001

    run_virtual(main)
    assert max(b - a for a, b in pairwise(shown)) < 1.0


def test_an_item_that_cannot_be_kept_takes_nothing_with_it(tmp_path: Path) -> None:
    """A number that is none, in the middle of what is put at once: the others arrive, decisions and all."""

    async def play(subject: Bench) -> None:
        subject.link.tell(Item(Class.ALARM, {"n": 1}))
        subject.link.tell(Item(Class.AVAILABLE, {"low_w": float("nan")}))
        subject.link.recorded(0, {"kind": "grant"})
        await asyncio.sleep(5.0)
        assert subject.outbox.cursor == Cursor(1, 1)

    subject = bench(tmp_path, play)
    assert [len(subject.broker.utility.of(word)) for word in ("alarm", "available", "decision")] == [1, 0, 1]
    assert subject.link.counters["not put"] == 1


def test_a_medium_without_room_for_crossing_out_ends_nothing(tmp_path: Path) -> None:
    """What has left cannot be settled: it leaves again under its name, and is settled once there is room."""

    async def play(subject: Bench) -> None:
        real, subject.outbox.settle = subject.outbox.settle, _full  # type: ignore[assignment, method-assign]
        subject.link.tell(Item(Class.ALARM, {"n": 1}))
        await asyncio.sleep(30.0)
        subject.outbox.settle = real  # type: ignore[method-assign]
        await asyncio.sleep(BACK_OFF_S_MAX + 5.0)
        assert subject.outbox.waiting == {}

    subject = bench(tmp_path, play)
    assert [item["n"] for item in subject.broker.utility.of("alarm")] == [1]
    assert subject.broker.utility.doubled > 1


def test_what_a_full_medium_cannot_cross_out_does_not_leave_with_every_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More waits than memory can cross out: one session tells what it can, once, and goes on with what is new; the rest
    comes when there is room."""
    monkeypatch.setattr(NoRoom, "full", False)
    monkeypatch.setattr(
        database, "_connect", lambda uri: sqlite3.connect(uri, uri=True, isolation_level=None, factory=NoRoom)
    )
    seen: list[int] = []

    async def play(subject: Bench) -> None:
        subject.broker.go()
        subject.outbox.put([Item(Class.ALARM, {"n": n}) for n in range(2000)], Cursor(1, 0))
        NoRoom.full = True
        subject.broker.up = True
        await asyncio.sleep(300.0)
        assert ITEMS_MAX <= len(subject.broker.utility.of("alarm")) < 2000
        assert subject.broker.utility.doubled == 0
        subject.link.recorded(0, {"kind": "grant"})
        await asyncio.sleep(30.0)
        seen.append(len(subject.broker.utility.of("decision")))
        NoRoom.full = False
        await asyncio.sleep(60.0)

    subject = bench(tmp_path, play)
    assert seen == [1]
    assert [item["n"] for item in subject.broker.utility.of("alarm")] == list(range(2000))
    assert subject.broker.utility.doubled == 0
    assert subject.outbox.waiting == {}


def _full(*_: object) -> None:
    raise OutboxFull("no room")


def test_a_full_outbox_stops_nothing_and_misses_nothing(tmp_path: Path) -> None:
    """No room while the broker is away: commands are not accepted, decisions are found again in the ledger, once."""
    ledger: list[dict[str, Any]] = []

    async def play(subject: Bench) -> None:
        async def refill() -> bool:
            items = [Item(Class.DECISION, decision(1, n, e), f"{DCU}/decision/1/{n}") for n, e in enumerate(ledger)]
            subject.outbox.put(items)
            return False

        subject.link.refill = refill
        subject.broker.go()
        connection = subject.outbox._file.database.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
        for n in range(700):
            ledger.append({"kind": "grant", "text": random.Random(n).randbytes(1000).hex()})
            subject.link.recorded(n, ledger[-1])
            await asyncio.sleep(1.0)
        assert subject.link.counters["not put"] > 20
        connection.execute("PRAGMA max_page_count = 100000")
        subject.broker.up = True
        await asyncio.sleep(BACK_OFF_S_MAX + 30.0)

    subject = bench(tmp_path, play)
    assert [item["position"] for item in subject.broker.utility.of("decision")] == list(range(700))
    assert subject.broker.utility.doubled == 0
    assert subject.outbox.waiting == {}


def test_what_was_missed_is_found_in_pieces_while_new_decisions_come(tmp_path: Path) -> None:
    """A hundred missed, ten looked at in one go, each of which takes half a second: what comes meanwhile must not say
    that the rest was told. One entry that nobody told of is noticed by the next."""
    ledger: list[dict[str, Any]] = []

    async def play(subject: Bench) -> None:
        async def refill() -> bool:
            await asyncio.sleep(0.5)
            first = subject.outbox.cursor
            assert first is not None
            until = min(len(ledger), first.position + 10)
            catch_up(subject.outbox, DCU, first, until, iter(ledger[first.position :]))
            return until < len(ledger)

        subject.link.refill = refill
        ledger.extend({"kind": "grant", "seq": n} for n in range(101))
        subject.link.recorded(0, ledger[0])
        await asyncio.sleep(1.0)
        subject.link.missed()
        for n in range(101, 141):
            ledger.append({"kind": "grant", "seq": n})
            if n != 138:
                subject.link.recorded(n, ledger[n])
            await asyncio.sleep(0.3)
        await asyncio.sleep(60.0)
        assert subject.outbox.cursor == Cursor(1, 141)

    subject = bench(tmp_path, play)
    assert {item["position"] for item in subject.broker.utility.of("decision")} == set(range(141))
    assert subject.outbox.waiting == {}


def test_a_hole_in_what_is_kept_at_once_is_not_passed(tmp_path: Path) -> None:
    """Three entries in one go, the one between left out as a full queue does while a piece of the ledger is looked at:
    the cursor stays before it, and the next entry brings it."""
    ledger: list[dict[str, Any]] = [{"kind": "grant", "seq": n} for n in range(5)]

    async def play(subject: Bench) -> None:
        async def refill() -> bool:
            first = subject.outbox.cursor
            assert first is not None
            catch_up(subject.outbox, DCU, first, len(ledger), iter(ledger[first.position :]))
            return False

        subject.link.refill = refill
        subject.link.recorded(0, ledger[0])
        await asyncio.sleep(1.0)
        for n in (1, 3):
            subject.link.recorded(n, ledger[n])
        await asyncio.sleep(1.0)
        assert subject.outbox.cursor == Cursor(1, 1)
        subject.link.recorded(4, ledger[4])
        await asyncio.sleep(5.0)
        assert subject.outbox.cursor == Cursor(1, 5)

    subject = bench(tmp_path, play)
    assert {item["position"] for item in subject.broker.utility.of("decision")} == set(range(5))
    assert subject.broker.utility.doubled == 0


def test_a_command_that_there_is_no_room_for_stays_with_the_broker(tmp_path: Path) -> None:
    """Neither accepted nor acknowledged nor carried out; with room it comes again, and is."""

    async def play(subject: Bench) -> None:
        connection = subject.outbox._file.database.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        subject.broker.refuses = b"filler"
        connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        for n in range(30):
            subject.link.tell(Item(Class.ALARM, {"filler": random.Random(n).randbytes(500).hex()}))
            await asyncio.sleep(0.1)
        limits = {f"meter-{n}": 1000.0 for n in range(800)}
        subject.order({"kind": "set_nominal_limits", "limits": limits})
        await asyncio.sleep(5.0)
        assert subject.link.counters["commands not taken"] == 1
        assert (subject.desk.done, len(subject.broker.queued)) == ([], 1)
        connection.execute("PRAGMA max_page_count = 100000")
        subject.order({"kind": "revoke_all"})  # there would be room for it, and it would make an old one of the first
        await asyncio.sleep(5.0)
        assert (subject.desk.done, len(subject.broker.queued)) == ([], 2)
        subject.broker.refuses = None
        await asyncio.sleep(DEAF_S + BACK_OFF_S_MAX + 15.0)

    subject = bench(tmp_path, play)
    assert (subject.desk.done, subject.broker.queued) == ([1, 2], [])


def test_a_refusal_that_there_is_no_room_for_is_said_once_there_is(tmp_path: Path) -> None:
    """Its number would not be spent: with what is wrong put right, the same bytes could act after they were refused."""

    async def play(subject: Bench) -> None:
        real, subject.outbox.refuse = subject.outbox.refuse, _full  # type: ignore[assignment, method-assign]
        subject.order({"kind": "set_policy", "policy": "equal"})
        await asyncio.sleep(5.0)
        assert (subject.desk.refusals, len(subject.broker.queued), answers(subject)) == ([], 1, [])
        subject.outbox.refuse = real  # type: ignore[method-assign]
        await asyncio.sleep(DEAF_S + BACK_OFF_S_MAX + 15.0)

    subject = bench(tmp_path, play)
    assert (subject.desk.refusals, subject.broker.queued) == ([(Refusal.NOT_HERE, 0)], [])
    assert answers(subject) == [(1, "not_here")]


def test_more_commands_at_once_than_there_is_room_for_are_all_carried_out_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that has kept fifty brings them all at once, whatever room there is: for seven, or for two thousand
    bytes. None is left until a chance ends the session, and none becomes an old number."""

    async def play(subject: Bench) -> None:
        subject.broker.go()
        for _ in range(50):
            subject.order({"kind": "revoke_all"})
        subject.broker.up = True
        await asyncio.sleep(BACK_OFF_S_MAX + 120.0)
        subject.order({"kind": "revoke_all"})
        await asyncio.sleep(30.0)

    for name, most in (("ARRIVED_MAX", 7), ("ARRIVED_BYTES_MAX", 2000)):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, most)
            subject = bench(tmp_path / name, play)
        assert subject.desk.done == list(range(1, 52))
        assert subject.broker.queued == []
        assert subject.link.counters["commands not taken"] > 50
        assert not any(key.startswith("refused") for key in subject.link.counters)
