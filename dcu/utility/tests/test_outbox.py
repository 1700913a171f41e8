"""The outbox: what is kept is never dropped, what is dropped is counted, and what was durable is there after a crash.

The crash is a second process's: the file is copied as it lies on the medium between two calls, and opened anew.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dcu.store.database import Database
from dcu.utility import outbox as module
from dcu.utility.commands import Command, Judge, Refusal, Refused, sign
from dcu.utility.documents import Class, decision
from dcu.utility.outbox import ITEM_BYTES_MAX, QUOTA, Cursor, Item, Outbox, Span
from dcu.utility.outbox_file import UTILITY, Lane, OutboxFull, packed
from dcu.utility.recent import ITEMS_MAX
from dcu.utility.tests.no_room import NoRoom

NOW = 1_790_000_000
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
MANY = 1 << 20


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path, "dcu-1")


def report(number: int) -> Item:
    return Item(Class.REPORT, {"n": number})


def entry(position: int, **more: Any) -> Item:
    told = decision(1, position, {"kind": "grant", "epoch": 1, "seq": position, **more})
    return Item(Class.DECISION, told, f"dcu-1/decision/1/{position}")


def command(number: int = 1, **order: Any) -> Command:
    order = order or {"kind": "revoke_all"}
    content = {
        "version": 1, "dcu": "dcu-1", "number": number, "issued_utc_s": NOW, "expires_utc_s": NOW + 60, "order": order,
    }  # fmt: skip
    public = KEY.public_key().public_bytes_raw()
    found = Judge("dcu-1", (public,)).judge(sign(content, KEY), retained=False, last=0, utc_s=NOW)
    assert isinstance(found, Command)
    return found


def settle_next(outbox: Outbox, *lanes: Lane) -> None:
    """A batch of each lane leaves and is acknowledged."""
    for lane in lanes:
        batch = outbox.next(lane, MANY)
        assert batch is not None
        outbox.settle(batch)


def drain(outbox: Outbox, lane: Lane = Lane.LIVE) -> list[dict[str, Any]]:
    """Everything of a lane, in the order in which it leaves."""
    found = []
    while (batch := outbox.next(lane, MANY)) is not None:
        found += [json.loads(item) for item in batch.items]
        outbox.settle(batch)
    return found


def reopened(tmp_path: Path, number: int) -> Outbox:
    """What another process finds that opens the files as they are now."""
    copy = tmp_path / f"copy-{number}"
    copy.mkdir()
    for file in tmp_path.glob("utility.sqlite*"):
        shutil.copy(file, copy / file.name)
    return Outbox(copy, "dcu-1")


def test_items_leave_by_class_and_in_order_and_go_only_when_acknowledged(outbox: Outbox) -> None:
    """A batch that is not settled is given again, the same ids and all."""
    outbox.put([report(1), entry(0), report(2), entry(1)])
    first = outbox.next(Lane.LIVE, MANY)
    again = outbox.next(Lane.LIVE, MANY)
    assert first is not None
    assert first == again
    assert [json.loads(item)["id"] for item in first.items] == ["dcu-1/decision/1/0", "dcu-1/decision/1/1"]
    outbox.settle(first)
    assert [item["n"] for item in drain(outbox)] == [1, 2]
    assert outbox.waiting == {}


def test_ids_are_stable_and_never_used_twice(tmp_path: Path) -> None:
    """Over a restart, and after everything has left; a lost file begins under another name."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([report(1)])
    before = outbox.next(Lane.LIVE, MANY)
    outbox.close()
    outbox = Outbox(tmp_path, "dcu-1")
    assert before is not None
    after = outbox.next(Lane.BACKLOG, MANY)
    assert after is not None
    assert after.items == before.items
    outbox.settle(after)
    outbox.put([report(2)])
    outbox.close()
    ids = {json.loads(before.items[0])["id"]}
    outbox = Outbox(tmp_path, "dcu-1")
    ids |= {item["id"] for item in drain(outbox, Lane.BACKLOG)}
    assert len(ids) == 2
    outbox.close()
    (tmp_path / "utility.sqlite").write_bytes(b"no database any more" * 100)
    outbox = Outbox(tmp_path, "dcu-1")
    assert outbox.aside is not None
    outbox.put([report(1)])
    assert not {item["id"] for item in drain(outbox)} & ids


def test_kept_classes_are_never_dropped_others_by_quota_oldest_first_and_counted(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota of three; ten of everything."""
    monkeypatch.setattr(module, "QUOTA", {**dict.fromkeys(QUOTA, 3), Class.AVAILABLE: 1})
    for n in range(10):
        outbox.put([entry(n), report(n), Item(Class.AVAILABLE, {"n": n}), Item(Class.CHECKPOINT, {"n": n})])
    assert outbox.waiting == {"decision": 10, "checkpoint": 10, "available": 1, "report": 3}
    assert outbox.dropped == {"report": 7, "available": 9}
    found = drain(outbox)
    assert [item["n"] for item in found if item["id"].startswith("dcu-1/report")] == [7, 8, 9]
    assert [item["n"] for item in found if item["id"].startswith("dcu-1/available")] == [9]


def test_an_item_that_a_quota_takes_while_it_is_on_its_way_hides_no_later_one(outbox: Outbox) -> None:
    """A forecast is sent, a newer one takes its place, and only then the broker acknowledges the first."""
    for n in range(4):
        outbox.put([Item(Class.AVAILABLE, {"n": 2 * n})])
        batch = outbox.next(Lane.LIVE, MANY)
        outbox.put([Item(Class.AVAILABLE, {"n": 2 * n + 1})])
        assert batch is not None
        outbox.settle(batch)
        assert [item["n"] for item in drain(outbox)] == [2 * n + 1]


def test_what_is_dropped_is_known_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The utility hears how many reports are missing, however long ago."""
    monkeypatch.setattr(module, "QUOTA", dict.fromkeys(QUOTA, 2))
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([report(n) for n in range(5)])
    outbox.close()
    outbox = Outbox(tmp_path, "dcu-1")
    assert (outbox.dropped, outbox.waiting) == ({"report": 3}, {"report": 2})


def test_batches_keep_to_their_size_but_always_hold_something(outbox: Outbox) -> None:
    """Items of a kilobyte in messages of four; one longer than a message travels alone."""
    outbox.put([Item(Class.REPORT, {"text": "x" * 1000}) for _ in range(10)])
    batch = outbox.next(Lane.LIVE, 4096)
    assert batch is not None
    assert len(batch.rows) == 3
    alone = outbox.next(Lane.LIVE, 10)
    assert alone is not None
    assert len(alone.rows) == 1


def test_what_cannot_be_kept_changes_nothing(outbox: Outbox) -> None:
    """A value that JSON does not have, in the middle of a commit."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        outbox.put([report(1), Item(Class.REPORT, {"p_w": float("nan")}), report(2)], Cursor(1, 9))
    with pytest.raises(ValueError, match="at most"):
        outbox.put([report(1), Item(Class.REPORT, {"text": "x" * ITEM_BYTES_MAX})])
    assert (outbox.waiting, outbox.cursor, drain(outbox)) == ({}, None, [])


def test_an_order_of_a_newer_program_stays_for_it_and_ends_nothing(tmp_path: Path) -> None:
    """Accepted, then the program was put back: the others are carried out."""
    outbox = Outbox(tmp_path, "dcu-1")
    for number in (1, 2):
        outbox.accept(command(number), {})
    with outbox._file.database.transaction() as connection:
        connection.execute("UPDATE commands SET body = ? WHERE number = 1", ('{"kind": "of tomorrow"}',))
    assert [one.number for one in outbox.unfinished()] == [2]
    assert outbox.last_number == 2
    outbox.close()


def test_a_customer_who_leaves_is_in_no_byte_and_no_decision_is_missing(tmp_path: Path) -> None:
    """His decisions, one that names him as what bound another, a report, a receipt; others' and their order stay."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([entry(0, meter="meter_1"), entry(1, meter="other"), entry(2, meter="other", binding="meter_1")])
    outbox.put([entry(3, meter="meter_11"), Item(Class.REPORT, {"readings": [{"resource": "meter_1"}]}), report(7)])
    limits = command(1, kind="set_nominal_limits", limits={"meter_1": 5.0})
    outbox.accept(limits, {})
    outbox.put([done(limits, 4)])
    assert outbox.forget("meter_1") == 4
    assert outbox.forget("meter_1") == 0
    found = {item["id"]: item for item in drain(outbox)}
    decisions = [item for name, item in found.items() if "/decision/" in name]
    assert [item["position"] for item in decisions] == [0, 1, 2, 3, 4]
    assert [item.get("left_out", False) for item in decisions] == [True, False, True, False, True]
    assert [item["n"] for name, item in found.items() if "/report/" in name] == [7]
    outbox.close()
    assert b"meter_1" not in (tmp_path / "utility.sqlite").read_bytes().replace(b"meter_11", b"")


def test_a_customer_who_leaves_is_in_no_tail_either(tmp_path: Path) -> None:
    """What was told of him lies there for the next session: it gets the place of his decision, and no alarm."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([entry(0, meter="meter_1"), entry(1, meter="other"), Item(Class.ALARM, {"source": "meter_1"})])
    drain(outbox)
    outbox.put([Item(Class.ALARM, {"source": "meter_1"})])
    assert outbox.forget("meter_1") == 3
    assert outbox.waiting == {}
    outbox.offer_again()
    assert [item.get("left_out", False) for item in drain(outbox, Lane.AGAIN)] == [True, False]
    outbox.close()
    assert b"meter_1" not in (tmp_path / "utility.sqlite").read_bytes()


def done(ordered: Command, position: int) -> Item:
    """The ledger's entry about a command."""
    told = {"kind": "command", "epoch": 1, "seq": None, **ordered.as_entry(), "outcome": "done", "detail": ""}
    return Item(Class.DECISION, decision(1, position, told), f"dcu-1/decision/1/{position}")


def test_an_entry_that_is_too_long_is_told_by_its_place(outbox: Outbox) -> None:
    """A decision is never dropped; whoever needs all of it asks for a receipt."""
    outbox.put([entry(4, text="x" * (1 << 19))])
    assert drain(outbox) == [
        {
            "id": "dcu-1/decision/1/4",
            "log": 1,
            "position": 4,
            "entry": {"kind": "grant", "epoch": 1, "seq": 4},
            "left_out": True,
        }
    ]


def test_lanes_part_what_was_there_from_what_came_since(outbox: Outbox) -> None:
    """Each lane in order."""
    outbox.put([entry(0), entry(1)])
    outbox.connected()
    outbox.put([entry(2)])
    assert [item["position"] for item in drain(outbox, Lane.LIVE)] == [2]
    assert [item["position"] for item in drain(outbox, Lane.BACKLOG)] == [0, 1]


def test_what_never_gets_through_stands_aside_and_comes_back_by_pardon(outbox: Outbox) -> None:
    """A decision waits; a report goes, counted."""
    outbox.put([entry(0), report(1)])
    for _ in range(2):
        batch = outbox.next(Lane.LIVE, MANY)
        assert batch is not None
        outbox.set_aside(batch)
    assert outbox.next(Lane.LIVE, MANY) is None
    assert (outbox.waiting, outbox.dropped) == ({"decision": 1}, {"report": 1})
    assert outbox.pardon() == 1
    assert [item["position"] for item in drain(outbox)] == [0]


# ---- what only memory and the ledger know ----------------------------------------------------------------------------


def told(outbox: Outbox, first: int, end: int, **more: Any) -> bool:
    """Entries of the ledger, as the link tells of them."""
    return outbox.keep([entry(n, **more) for n in range(first, end)], Span(1, first, end))


def test_a_minute_of_decisions_that_leave_at_once_is_written_with_one_commit(tmp_path: Path) -> None:
    """Eighty, each kept, sent and acknowledged by itself, with a report: nothing of them is on the disk before the
    minute is over, and then it is some tens of pages; 2.8 MB if each were written twice. Another process finds them."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([], Cursor(1, 0))
    outbox.offer_again()
    before = outbox._file.database.wal_bytes
    for n in range(80):
        assert told(outbox, n, n + 1)
        assert places(outbox, Lane.LIVE) == [n]
    assert outbox._file.database.wal_bytes == before
    assert reopened(tmp_path, 1).cursor == Cursor(1, 0)
    outbox.keep([report(1)])
    drain(outbox)
    outbox.flush()
    assert outbox._file.database.wal_bytes - before < 160_000
    found = reopened(tmp_path, 2)
    assert found.cursor == outbox.cursor == Cursor(1, 80)
    found.offer_again()
    assert (places(found), found.waiting) == (list(range(80)), {})


def test_memory_takes_so_many_decisions_and_bytes_and_then_the_disk_does(tmp_path: Path) -> None:
    """One less than may be in memory, and one more; then long ones."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([], Cursor(1, 0))
    told(outbox, 0, ITEMS_MAX - 1)
    assert reopened(tmp_path, 1).cursor == Cursor(1, 0)
    told(outbox, ITEMS_MAX - 1, ITEMS_MAX)
    assert reopened(tmp_path, 2).cursor == Cursor(1, ITEMS_MAX)
    for n in range(3):
        told(outbox, ITEMS_MAX + n, ITEMS_MAX + n + 1, text="x" * 400_000)
    assert reopened(tmp_path, 3).cursor == Cursor(1, ITEMS_MAX + 3)
    assert outbox.waiting == {"decision": ITEMS_MAX + 3}
    outbox.connected()
    told(outbox, ITEMS_MAX + 3, ITEMS_MAX + 5)
    assert places(outbox, Lane.LIVE) == [ITEMS_MAX + 3, ITEMS_MAX + 4]
    assert places(outbox, Lane.BACKLOG) == list(range(ITEMS_MAX + 3))
    assert outbox.waiting == {}


def test_where_nothing_is_known_of_the_ledger_decisions_are_on_the_disk_at_once(tmp_path: Path) -> None:
    """Without a cursor no start would look for them."""
    outbox = Outbox(tmp_path, "dcu-1")
    told(outbox, 0, 2)
    assert reopened(tmp_path, 1).waiting == {"decision": 2}


def test_the_cursor_passes_no_entry_that_was_not_told(outbox: Outbox) -> None:
    """Entries 2 and 3 are missing: said, and looked for from there, until they come; those of before change nothing."""
    outbox.put([], Cursor(1, 0))
    assert told(outbox, 0, 2)
    assert not told(outbox, 4, 6)
    outbox.flush()
    assert outbox.cursor == Cursor(1, 2)
    outbox.put([entry(n) for n in range(2, 6)], Cursor(1, 6))
    assert told(outbox, 3, 5)
    outbox.keep([entry(5), report(1)], Span(1, 5, 6))
    assert outbox.cursor == Cursor(1, 6)
    outbox.keep([entry(3), report(1)], Span(1, 3, 4))
    assert outbox.cursor == Cursor(1, 6)
    assert told(outbox, 6, 7)
    assert outbox.cursor == Cursor(1, 7)
    assert not outbox.keep([], Span(2, 3, 4))
    assert not outbox.keep([], Span(2, 0, 4))  # who says that the first log had no more?
    outbox.put([], Cursor(2, 0))
    assert outbox.keep([], Span(2, 0, 4))
    assert outbox.cursor == Cursor(2, 4)
    assert sorted(places(outbox, Lane.LIVE)) == list(range(7))


def test_numbers_of_rows_in_memory_are_given_to_nothing_else(outbox: Outbox) -> None:
    """A command is accepted, refused, answered once more, and a setting kept, between decisions that wait in memory."""
    outbox.put([], Cursor(1, 0))
    outbox.connected()
    order = command(1)
    told(outbox, 0, 1)
    outbox.accept(order, {})
    told(outbox, 1, 2)
    outbox.refuse(Refused(Refusal.EXPIRED, "", "ab" * 32, authentic=True, number=8, key="k"))
    told(outbox, 2, 3)
    outbox.repeat(Refused(Refusal.OLD_NUMBER, "", order.sha256, authentic=True, number=1, key="k"))
    told(outbox, 3, 4)
    outbox.keep_setting("policy", "equal")
    found = drain(outbox)
    assert [item["number"] for item in found if "number" in item] == [1, 8]
    assert [item["position"] for item in found if "position" in item] == list(range(4))


def fill(outbox: Outbox, pages: int = 0) -> sqlite3.Connection:
    """So many pages more, and the file takes nothing new."""
    connection = outbox._file.database.connection
    used = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {used + pages}")
    return connection


def text(bytes_: int, seed: int = 1) -> str:
    """That no packing shortens much."""
    return random.Random(seed).randbytes(bytes_).hex()


def test_what_a_full_file_has_no_room_for_stays_known(tmp_path: Path) -> None:
    """Five decisions, two of which the broker has: they leave no more, the others do, and once there is room all are
    written. A report that there is no room for is not kept."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([report(1)], Cursor(1, 0))
    connection = fill(outbox)
    outbox.batch_items_max = 2
    told(outbox, 0, 5, text=text(9000))
    settle_next(outbox, Lane.LIVE)
    for _ in range(2):
        with pytest.raises(OutboxFull):
            outbox.keep([Item(Class.REPORT, {"text": text(9000)})])
        assert (outbox.waiting, outbox.cursor) == ({"decision": 3, "report": 1}, Cursor(1, 5))
    assert told(outbox, 5, 6)
    assert [item.get("position") for item in drain(outbox)] == [2, 3, 4, 5, None]
    connection.execute("PRAGMA max_page_count = 100000")
    outbox.flush()
    found = reopened(tmp_path, 1)
    found.offer_again()
    assert (found.cursor, places(found)) == (Cursor(1, 6), list(range(2, 6)))  # the first two gave way as tails do


def test_what_was_found_in_the_ledger_meanwhile_is_not_told_once_more(outbox: Outbox) -> None:
    """Three entries are on their way while they are looked up, told and acknowledged."""
    outbox.connected()
    outbox.put([entry(n) for n in range(3)], Cursor(1, 3))
    assert places(outbox, Lane.LIVE) == [0, 1, 2]
    assert told(outbox, 0, 4)
    assert (outbox.waiting, places(outbox, Lane.LIVE)) == ({"decision": 1}, [3])


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """An outbox whose medium takes nothing while `NoRoom.full`."""
    monkeypatch.setattr(NoRoom, "full", False)
    return Outbox(tmp_path, "dcu-1", _refusing)


def _refusing(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, factory=NoRoom)


def test_memory_has_a_bound_while_the_medium_takes_nothing_and_decisions_pass_it_while_the_broker_does(
    refusing: Outbox,
) -> None:
    """Without a broker: so many, and the next is said to be missing, each time. With one they all leave, once, and none
    under the number of another."""
    refusing.put([], Cursor(1, 0))
    refusing.connected()
    NoRoom.full = True
    told(refusing, 0, ITEMS_MAX)
    for n in range(3):
        with pytest.raises(OutboxFull):
            told(refusing, ITEMS_MAX + n, ITEMS_MAX + n + 1)
    assert (refusing.waiting, refusing.cursor) == ({"decision": ITEMS_MAX}, Cursor(1, ITEMS_MAX))
    items, rows = list[bytes](), list[int]()
    for n in range(ITEMS_MAX, 5 * ITEMS_MAX, 8):
        while (batch := refusing.next(Lane.LIVE, MANY)) is not None:
            items += batch.items
            rows += batch.rows
            refusing.settle(batch)
        assert told(refusing, n, n + 8)
        assert len(refusing._recent.told) <= ITEMS_MAX
    assert [json.loads(item)["position"] for item in items] == list(range(5 * ITEMS_MAX - 8))
    assert rows == sorted(set(rows))
    assert places(refusing, Lane.LIVE) == list(range(5 * ITEMS_MAX - 8, 5 * ITEMS_MAX))
    NoRoom.full = False
    refusing.flush()
    assert (refusing.waiting, places(refusing, Lane.LIVE)) == ({}, [])


def test_a_session_that_begins_while_the_medium_takes_nothing_offers_what_memory_knows(refusing: Outbox) -> None:
    """Two in the file and two in memory, one of each acknowledged: another session begins with all of them, each in one
    lane; with room again the one after it does, too."""
    refusing.put([entry(0), entry(1)], Cursor(1, 2))
    offer(refusing)
    NoRoom.full = True
    told(refusing, 2, 4)
    refusing.batch_items_max = 1
    settle_next(refusing, Lane.BACKLOG, Lane.LIVE)
    assert refusing.waiting == {"decision": 2}
    offer(refusing)
    assert refusing.waiting == {"decision": 4}
    told(refusing, 4, 5)
    assert [places(refusing, lane) for lane in Lane] == [[4], [0, 1, 2, 3], []]
    NoRoom.full = False
    offer(refusing)
    assert (refusing.waiting, sorted(places(refusing))) == ({"decision": 5}, list(range(5)))


def test_no_more_leaves_a_file_that_takes_nothing_than_can_be_crossed_out_and_nothing_twice(refusing: Outbox) -> None:
    """Three times as many in the file as memory can cross out: the rest waits for room and then leaves, each once in
    the session. What is new is kept in memory meanwhile, and leaves."""
    refusing.put([Item(Class.ALARM, {"n": n}) for n in range(3 * ITEMS_MAX)], Cursor(1, 0))
    offer(refusing)
    NoRoom.full = True
    refusing.batch_items_max = 100
    first = [item["n"] for item in drain(refusing, Lane.BACKLOG)]
    assert first == list(range(600))
    assert refusing.waiting == {"alarm": 3 * ITEMS_MAX - 600}
    for n in range(0, 3 * ITEMS_MAX, ITEMS_MAX // 2):
        assert told(refusing, n, n + ITEMS_MAX // 2)
        assert places(refusing, Lane.LIVE) == list(range(n, n + ITEMS_MAX // 2))
        assert [drain(refusing, lane) for lane in Lane] == [[], [], []]
    NoRoom.full = False
    assert [item["n"] for item in drain(refusing, Lane.BACKLOG)] == list(range(600, 3 * ITEMS_MAX))
    assert refusing.waiting == {}


def test_decisions_keep_their_order_behind_those_of_a_file_that_takes_nothing(refusing: Outbox) -> None:
    """Written in this session and not crossed out for want of room: what only memory has comes after them."""
    refusing.put([], Cursor(1, 0))
    offer(refusing)
    for n in range(0, 2 * ITEMS_MAX, 32):
        told(refusing, n, n + 32)
    refusing.flush()
    NoRoom.full = True
    assert told(refusing, 2 * ITEMS_MAX, 2 * ITEMS_MAX + 10)
    refusing.batch_items_max = 200
    assert places(refusing, Lane.LIVE) == list(range(600))
    NoRoom.full = False
    assert places(refusing, Lane.LIVE) == list(range(600, 2 * ITEMS_MAX + 10))


def test_a_number_is_given_once_whatever_becomes_of_who_had_it(outbox: Outbox) -> None:
    """One that memory has sent when the file is full; and one that the file turns out to have had before: what comes
    next is not taken for them when the broker acknowledges them."""
    outbox.put([], Cursor(1, 0))
    outbox.connected()
    told(outbox, 0, 1)
    first = outbox.next(Lane.LIVE, MANY)
    connection = fill(outbox)
    with pytest.raises(OutboxFull):
        outbox.put([Item(Class.REPORT, {"text": text(9000)})])
    connection.execute("PRAGMA max_page_count = 100000")
    outbox.keep([entry(1)], Span(1, 1, 2))
    assert first is not None
    outbox.settle(first)
    assert places(outbox, Lane.LIVE)[-1] == 1

    outbox.put([entry(5)])
    drain(outbox)
    outbox.keep([entry(5)])  # by who does not know
    second = outbox.next(Lane.LIVE, MANY)
    outbox.put([entry(9)])
    assert second is not None
    outbox.settle(second)
    assert places(outbox, Lane.LIVE) == [9]


# ---- tails -----------------------------------------------------------------------------------------------------------


def offer(outbox: Outbox) -> None:
    """A session begins."""
    outbox.connected()
    outbox.offer_again()


def places(outbox: Outbox, lane: Lane = Lane.AGAIN) -> list[int]:
    """Positions of the decisions that leave a lane, in order."""
    return [item["position"] for item in drain(outbox, lane) if "position" in item]


def test_what_a_session_had_acknowledged_is_offered_again_to_the_next_one_under_the_same_ids(tmp_path: Path) -> None:
    """Within a session it is gone. Then to each other session, also over a restart and however often, bytes and all;
    not a report, after which a newer one comes."""
    outbox = Outbox(tmp_path, "dcu-1")
    alarm, head = Item(Class.ALARM, {"n": 1}), Item(Class.CHECKPOINT, {"n": 2})
    offer(outbox)
    outbox.put([entry(0), alarm, head, report(3), Item(Class.AVAILABLE, {"n": 4}), Item(Class.STATISTICS, {"n": 5})])
    first = drain(outbox)
    for lane in Lane:
        assert (drain(outbox, lane), outbox.waiting) == ([], {})
    for restarts in (False, True, False):
        if restarts:
            outbox.close()
            outbox = Outbox(tmp_path, "dcu-1")
        offer(outbox)
        assert outbox.waiting == {"alarm": 1, "decision": 1, "checkpoint": 1, "statistics": 1}
        assert [drain(outbox, lane) for lane in (Lane.LIVE, Lane.BACKLOG)] == [[], []]
        again = drain(outbox, Lane.AGAIN)
        assert again == [item for item in first if "/report/" not in item["id"] and "/available/" not in item["id"]]
        assert outbox.waiting == {}
    outbox.close()


def test_a_session_that_ends_early_leaves_what_it_did_not_offer_to_the_next_one_first(outbox: Outbox) -> None:
    """Ten acknowledged; another session takes four of them and something new; the third begins with the other six."""
    offer(outbox)
    outbox.put([entry(n) for n in range(10)])
    drain(outbox)
    offer(outbox)
    outbox.batch_items_max = 4
    outbox.put([entry(10)])
    settle_next(outbox, Lane.AGAIN, Lane.LIVE)
    assert outbox.waiting == {"decision": 6}
    offer(outbox)
    assert places(outbox) == [*range(4, 10), *range(4), 10]


def test_a_tail_is_bounded_and_its_newest_stay(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five to offer again, and some slack so that rows go many at a time. Heads are not pushed out by decisions, and
    what waits never counts: neither one that no broker has had, nor one that stands aside."""
    monkeypatch.setattr(module, "TAIL", {**module.TAIL, Class.DECISION: 5})
    monkeypatch.setattr(module, "TAIL_SLACK", 3)
    offer(outbox)
    outbox.put([Item(Class.CHECKPOINT, {"n": 1}), entry(100)])
    waits = outbox.next(Lane.LIVE, MANY)
    assert waits is not None
    outbox.set_aside(waits)
    rows = []
    for n in range(50):
        outbox.put([entry(n)])
        drain(outbox)
        rows.append(outbox._file.one("SELECT COUNT(*) FROM items WHERE class = 3 AND session > 0"))
    assert (max(rows), rows[-1] >= 5) == (5 + 3, True)
    outbox.put([entry(200 + n) for n in range(7)])
    offer(outbox)
    assert outbox.waiting == {"decision": 1 + 5 + 7, "checkpoint": 1}
    assert len(drain(outbox, Lane.BACKLOG)) == 7
    again = drain(outbox, Lane.AGAIN)
    assert [item["position"] for item in again if "position" in item] == list(range(45, 50))
    assert [item["n"] for item in again if "n" in item] == [1]
    assert outbox.pardon() == 1


def test_sessions_that_end_at_once_let_no_tail_grow(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes three of a backlog and nothing that was had before; fifty times."""
    monkeypatch.setattr(module, "TAIL", {**module.TAIL, Class.DECISION: 5})
    outbox.batch_items_max = 3
    outbox.put([entry(n) for n in range(150)])
    for _ in range(50):
        offer(outbox)
        settle_next(outbox, Lane.BACKLOG)
        assert outbox._file.one("SELECT COUNT(*) FROM items WHERE session > 0") <= 5 + 3
    offer(outbox)
    assert (places(outbox), outbox.waiting) == (list(range(145, 150)), {})


def test_an_item_that_is_put_again_after_it_was_acknowledged_waits_again_once(outbox: Outbox) -> None:
    """In the same session it waits if somebody asks for it, and only then; where it is offered again anyway, and where
    it waits, nothing changes."""
    offer(outbox)
    outbox.put([entry(0), entry(1)])
    drain(outbox)
    outbox.put([entry(0)], Cursor(1, 1))
    assert outbox.waiting == {}
    for _ in range(2):
        outbox.put_again([entry(0)])
        assert outbox.waiting == {"decision": 1}
    assert places(outbox, Lane.LIVE) + places(outbox, Lane.BACKLOG) == [0]
    offer(outbox)
    outbox.put_again([entry(1)])
    assert (outbox.waiting, places(outbox), outbox.waiting) == ({"decision": 2}, [0, 1], {})


def test_a_tail_gives_way_to_what_is_new(outbox: Outbox) -> None:
    """The file is full of what was acknowledged: there is room for a decision, and then for no more."""
    long = text(3000)
    offer(outbox)
    outbox.put([entry(n, text=long + str(n)) for n in range(20)])
    drain(outbox)
    fill(outbox)
    outbox.put([entry(100 + n, text=long) for n in range(15)])
    assert outbox.waiting == {"decision": 15}
    with pytest.raises(OutboxFull):
        outbox.put([entry(200 + n, text=long) for n in range(15)])
    offer(outbox)
    assert (outbox.waiting, places(outbox)) == ({"decision": 15}, [])


@pytest.mark.parametrize("call", ["accept", "refuse", "repeat", "spend", "keep_setting", "rebuild"])
def test_a_tail_gives_way_to_whatever_must_be_kept(outbox: Outbox, call: str) -> None:
    """The file is full of what was acknowledged, some of it in memory alone; decisions wait there as well, so that each
    call needs room."""
    sha256, long = "ab" * 32, text(3000)
    calls: dict[str, Callable[[], None]] = {
        "accept": lambda: outbox.accept(command(7), {"policy": "equal"}),
        "refuse": lambda: outbox.refuse(Refused(Refusal.EXPIRED, "", sha256, authentic=True, number=7, key="k")),
        "repeat": lambda: outbox.repeat(Refused(Refusal.OLD_NUMBER, "", sha256, authentic=True, number=3, key="k")),
        "spend": lambda: outbox.spend(7),
        "keep_setting": lambda: outbox.keep_setting("policy", "equal"),
        "rebuild": lambda: outbox.rebuild(7, {"policy": "equal"}),
    }
    offer(outbox)
    outbox.put([entry(n, text=long + str(n)) for n in range(20)], Cursor(1, 20))
    drain(outbox)
    fill(outbox)
    told(outbox, 20, 25, text=long)
    calls[call]()
    assert outbox.waiting.get("decision") == 5
    assert outbox.last_number == (0 if call in {"repeat", "keep_setting"} else 7)
    assert outbox.setting("policy") == ("equal" if call in {"accept", "keep_setting", "rebuild"} else None)
    assert outbox.waiting.get("answer", 0) == (call in {"accept", "refuse", "repeat"})
    assert [place for place in places(outbox, Lane.LIVE) if place] == list(range(20, 25))


def test_what_fails_when_it_is_offered_again_stands_aside_and_is_not_lost(outbox: Outbox) -> None:
    """A decision waits for its pardon; an alarm goes, counted."""
    offer(outbox)
    outbox.put([entry(0), Item(Class.ALARM, {"n": 1})])
    drain(outbox)
    offer(outbox)
    for _ in range(2):
        batch = outbox.next(Lane.AGAIN, MANY)
        assert batch is not None
        outbox.set_aside(batch)
    assert (outbox.waiting, outbox.dropped, outbox.next(Lane.AGAIN, MANY)) == ({"decision": 1}, {"alarm": 1}, None)
    assert outbox.pardon() == 1
    assert places(outbox, Lane.BACKLOG) == [0]


def test_a_quota_counts_and_drops_only_what_waits(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alarms that were acknowledged are neither; a quota of three."""
    monkeypatch.setattr(module, "QUOTA", {**QUOTA, Class.ALARM: 3})
    offer(outbox)
    outbox.put([Item(Class.ALARM, {"n": n}) for n in range(3)])
    drain(outbox)
    outbox.put([Item(Class.ALARM, {"n": n}) for n in range(3, 7)])
    assert (outbox.waiting, outbox.dropped) == ({"alarm": 3}, {"alarm": 1})
    assert [item["n"] for item in drain(outbox)] == [4, 5, 6]


# ---- commands --------------------------------------------------------------------------------------------------------


def answers(outbox: Outbox) -> list[tuple[Any, ...]]:
    return [(item["number"], item["outcome"]) for item in drain(outbox)]


def test_a_command_and_its_answer_and_what_it_sets_become_durable_together(tmp_path: Path) -> None:
    """Before: nothing. After: all of it, in the file as another process finds it."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.accept(command(5), {"policy": "equal"})
    found = reopened(tmp_path, 1)
    assert (found.last_number, found.setting("policy")) == (5, "equal")
    assert [one.number for one in found.unfinished()] == [5]
    assert [item["outcome"] for item in drain(found, Lane.BACKLOG)] == ["accepted"]
    with pytest.raises(sqlite3.IntegrityError):
        outbox.accept(command(5), {"policy": "max_total"})
    assert outbox.setting("policy") == "equal"


def test_the_ledgers_entry_finishes_a_command_exactly_once(outbox: Outbox) -> None:
    """Put again after a crash, it answers under the same id."""
    order = command(5)
    outbox.accept(order, {})
    ended = entry(9, kind="command", number=5, sha256=order.sha256, outcome="done", detail="")
    outbox.put([ended], Cursor(1, 10))
    outbox.put([ended], Cursor(1, 10))
    assert outbox.unfinished() == []
    found = drain(outbox)
    assert [item.get("outcome") for item in found] == ["accepted", "done", None]
    assert len({item["id"] for item in found}) == 3
    assert outbox.cursor == Cursor(1, 10)


def test_an_entry_that_does_not_say_which_command_it_ends_ends_none(outbox: Outbox) -> None:
    """Of another program, or emptied: it is told, and stops nobody who tells of the next ones."""
    outbox.accept(command(5), {})
    outbox.put([entry(8, kind="command"), entry(9, kind="command", number=5, outcome="done")], Cursor(1, 10))
    assert [one.number for one in outbox.unfinished()] == [5]
    assert outbox.waiting == {"answer": 1, "decision": 2}


def test_a_command_that_comes_again_gets_every_answer_again_under_the_same_ids(tmp_path: Path) -> None:
    """What was answered has left, and the broker has lost it: after a restart too the last answer is still known. One
    that is not carried out yet has no last answer."""
    outbox = Outbox(tmp_path, "dcu-1")
    order, waits = command(5), command(6)
    outbox.accept(order, {})
    outbox.put([entry(9, kind="command", number=5, sha256=order.sha256, outcome="failed", detail="no such file")])
    outbox.accept(waits, {})
    first = [item for item in drain(outbox) if "outcome" in item]
    assert drain(outbox) == []
    outbox.close()
    outbox = Outbox(tmp_path, "dcu-1")
    for again in (order, waits):
        outbox.repeat(Refused(Refusal.OLD_NUMBER, "", again.sha256, authentic=True, number=again.number, key="k"))
    assert drain(outbox, Lane.BACKLOG) == first
    assert [(item["number"], item["outcome"]) for item in first] == [(5, "accepted"), (5, "failed"), (6, "accepted")]
    assert (first[1]["position"], first[1]["detail"]) == (9, "no such file")
    outbox.close()


def test_a_file_of_before_keeps_its_commands_and_what_waits(tmp_path: Path) -> None:
    """Version 1 knows no last answers and no tails: a command of then is answered that it was accepted."""
    order = command(5)
    older = Database(tmp_path, replace(UTILITY, steps=UTILITY.steps[:1]), "dcu-1")
    with older.transaction() as connection:
        values = (5, order.sha256, order.key, json.dumps({"kind": "revoke_all"}))
        connection.execute("INSERT INTO commands (number, sha256, key, body) VALUES (?, ?, ?, ?)", values)
        facts = [("birth", '"00"'), ("last", "5"), ("set policy", '"equal"')]
        connection.executemany("INSERT INTO facts VALUES (?, ?)", facts)
        connection.execute("INSERT INTO items (class, body) VALUES (?, ?)", (Class.REPORT, packed(b'{"n":7}')))
    older.close()
    outbox = Outbox(tmp_path, "dcu-1")
    assert (outbox.aside, outbox.last_number, outbox.setting("policy")) == (None, 5, "equal")
    assert [item["n"] for item in drain(outbox, Lane.BACKLOG)] == [7]
    outbox.repeat(Refused(Refusal.OLD_NUMBER, "", order.sha256, authentic=True, number=5, key="k"))
    assert answers(outbox) == [(5, "accepted")]
    outbox.close()


def test_a_refused_command_is_answered_and_its_number_is_spent(outbox: Outbox) -> None:
    """Numbers only rise; the same refusal twice is one answer."""
    refused = Refused(Refusal.EXPIRED, "", "ab" * 32, authentic=True, number=8, key="k")
    outbox.refuse(refused)
    outbox.refuse(refused)
    assert outbox.last_number == 8
    outbox.refuse(Refused(Refusal.OLD_NUMBER, "", "cd" * 32, authentic=True, number=3, key="k"))
    assert outbox.last_number == 8
    assert answers(outbox) == [(8, "refused"), (3, "refused")]


def test_finished_commands_are_forgotten_at_last_unfinished_ones_never(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are kept; the one whose effect is not recorded stays whatever comes."""
    monkeypatch.setattr(module, "COMMANDS_KEPT", 2)
    outbox.accept(command(1), {})
    for number in range(2, 9):
        order = command(number)
        outbox.accept(order, {})
        outbox.put([entry(number, kind="command", number=number, sha256=order.sha256, outcome="done", detail="")])
    assert outbox.accepted(1) is not None
    assert outbox.accepted(3) is None
    assert [one.number for one in outbox.unfinished()] == [1]


def test_a_medium_that_is_full_is_told_and_nothing_is_half_kept(tmp_path: Path) -> None:
    """SQLite says full in the middle; counters and file are as before."""
    outbox = Outbox(tmp_path, "dcu-1")
    outbox.put([report(1)])
    connection = outbox._file.database.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OutboxFull, match="no room"):
        outbox.put([Item(Class.DECISION, {"entry": {}, "text": random.Random(1).randbytes(50_000).hex()})])
    assert outbox.waiting == {"report": 1}
    assert [item["n"] for item in drain(outbox)] == [1]


def test_a_new_file_without_room_for_its_name_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables were written, and then nothing more."""
    Database(tmp_path, UTILITY, "dcu-1").close()
    monkeypatch.setattr(NoRoom, "full", True)
    with pytest.raises(OutboxFull, match="no room"):
        Outbox(tmp_path, "dcu-1", _refusing)
    NoRoom.full = False
    Outbox(tmp_path, "dcu-1", _refusing).close()  # the failed start has given the file back


def test_the_file_has_a_cap(tmp_path: Path) -> None:
    """It cannot fill the card."""
    outbox = Outbox(tmp_path, "dcu-1")
    pages = outbox._file.database.connection.execute("PRAGMA max_page_count").fetchone()[0]
    assert pages * 4096 == UTILITY.bytes_max
