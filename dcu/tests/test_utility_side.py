"""The utility in a DCU's configuration and at its start: what was ordered holds, and only within the configuration."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import shutil
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dcu import utility_real as module
from dcu.available import CUSTOMERS_MAX
from dcu.cli import main
from dcu.config import DcuConfig
from dcu.hosting.forecast import STEPS
from dcu.ledger.forget import forget
from dcu.ledger.layout import LedgerError, Place, current
from dcu.ledger.seal import Part, pack_part_file, pack_parts, unpack_part_file
from dcu.ledger.store import Ledger
from dcu.ledger.tiles import ENTRIES, WIDTH, tile_path
from dcu.store.database import WAL_KEPT_BYTES, Database
from dcu.store.retention import STORE_BYTES_MAX
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.tests.test_config import EXAMPLE
from dcu.utility.certificates import issue, new_authority
from dcu.utility.documents import Class, available
from dcu.utility.outbox import Cursor, Item, Outbox, Span
from dcu.utility.outbox_file import UTILITY, Lane, OutboxFull
from dcu.utility_real import (
    RECOVER_MAX,
    DiskFiles,
    ThreadedOutbox,
    catch_up,
    entries_of,
    finished_weeks,
    missed_from,
    open_outbox,
    recall,
    refill,
    remembered,
    rule_of,
    settings_of,
    tell_again,
    utility_ports,
)
from dcu.utility_side import HOLD, ToldAgain, ordered_config
from shared.config import check_config
from shared.errors import ConfigError

KEY = base64.b64encode(bytes(range(32))).decode()


def content(**utility: Any) -> dict[str, Any]:
    found = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    found["utility"] = {"url": "mqtt://127.0.0.1:1883", "command_keys": [KEY], **utility}
    return found


def config(tmp_path: Path, **utility: Any) -> DcuConfig:
    found = content(**utility)
    found["dcu"]["state_directory"] = str(tmp_path)
    return check_config("dcu.toml", found, DcuConfig)


TLS = {"ca_file": "ca.crt", "certificate_file": "me.crt", "key_file": "me.key"}


@pytest.mark.parametrize(
    ("utility", "words"),
    [
        ({"url": "http://broker"}, ["utility.url", "mqtts://"]),
        ({"url": "mqtt://broker.example:1883"}, ["utility.url", "mqtts://"]),
        ({"url": "mqtt://127.0.0.1"}, ["utility.url"]),
        ({"url": "mqtts://broker.example:99999"}, ["utility.url"]),
        ({"url": "mqtts://user@broker.example"}, ["utility.url"]),
        ({"url": "mqtts://broker.example"}, ["utility", "ca_file"]),
        ({"url": "mqtts://broker.example", "ca_file": "ca.crt"}, ["utility", "seen 1"]),
        (TLS, ["utility", "none for mqtt"]),
        ({"command_keys": ["no key"]}, ["utility.command_keys.0", "Ed25519"]),
        ({"command_keys": [KEY] * 5}, ["utility.command_keys"]),
        ({"report_interval_s": 0.1}, ["utility.report_interval_s"]),
        ({"band_max_pct": 11.0}, ["utility.band_max_pct"]),
        ({"insecure": True}, ["utility.insecure", "no such key"]),
    ],
)
def test_a_link_that_is_configured_wrongly_is_refused(utility: dict[str, Any], words: list[str]) -> None:
    """Without TLS only on the own machine; every fault names its key."""
    with pytest.raises(ConfigError) as caught:
        check_config("dcu.toml", content(**utility), DcuConfig)
    for word in words:
        assert word in str(caught.value)


def test_check_config_looks_at_certificates_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, of somebody else, no certificate at all: one line; then all is good."""
    now = datetime.datetime.now(datetime.UTC)
    authority = new_authority("ca", now)
    mine, other = issue(authority, "substation-1", now), issue(authority, "substation-2", now)
    lines = ['url = "mqtts://broker.example"', *(f'{key} = "{file}"' for key, file in TLS.items())]
    file = tmp_path / "dcu.toml"
    file.write_text(
        EXAMPLE.read_text(encoding="utf-8").replace("[status]", "\n".join(["[utility]", *lines, "[status]"]))
    )
    for name, data, word in (
        ("ca.crt", None, "No such file"),
        ("ca.crt", b"no certificate", "PEM"),
        ("ca.crt", authority.certificate, "utility.certificate_file"),
        ("me.crt", mine.certificate, "utility.certificate_file"),
        ("me.key", other.key, "utility.certificate_file"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        assert main(["check-config", str(file)]) == 2
        assert word in capsys.readouterr().err
    (tmp_path / "me.key").write_bytes(mine.key)
    assert main(["check-config", str(file)]) == 0


def test_what_commands_have_set_holds_only_within_the_configuration(tmp_path: Path) -> None:
    """A configuration that was tightened since wins; meters that are gone are ignored."""
    base = config(tmp_path)
    settings = {
        "nominal_limit_w": {"meter-1": 700.0, "meter-2": 99_999.0, "gone": 1.0},
        "band_pct": 9.0,
        "policy": "proportional",
    }
    found = ordered_config(base, settings)
    assert [meter.nominal_limit_w for meter in found.meters] == [700.0, 1200.0]
    assert found.site.band_pct == base.site.band_pct == 5.0
    assert found.decision.policy == "proportional"
    assert ordered_config(config(tmp_path, band_max_pct=8.0), settings).site.band_pct == 8.0
    assert ordered_config(base, {}) == base


def test_a_model_is_loaded_by_its_hash_and_only_where_there_is_one(tmp_path: Path) -> None:
    """No [model]; no directory; no such file; a file that is another one than its name says."""
    with pytest.raises(ConfigError, match=r"site with \[model\]"):
        rule_of(config(tmp_path), "0" * 64)
    found = content(model_directory=str(tmp_path))
    found["model"] = {"file": "feeder.npz"}
    found["balancing"]["bus"] = "1"
    with_model = check_config("dcu.toml", found, DcuConfig)
    with pytest.raises(ConfigError, match="No such file"):
        rule_of(with_model, "0" * 64)
    (tmp_path / f"{'0' * 64}.npz").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="sha256"):
        rule_of(with_model, "0" * 64)


# ---- the start -------------------------------------------------------------------------------------------------------


def start(epoch: int) -> dict[str, Any]:
    limits_w = {"meter-1": 1.0, "meter-2": 1.0}
    return {"kind": "start", "epoch": epoch, "seq": 0, "rule": "r", "facts": {}, "nominal_limit_w": limits_w}


def grant(seq: int) -> dict[str, Any]:
    return {"kind": "grant", "epoch": 1, "seq": seq, "meter": "meter-1", "limit_w": 2000.0}


def command(number: int, order: dict[str, Any], outcome: str = "done") -> dict[str, Any]:
    about = {"number": number, "sha256": f"{number:064x}", "key": "k", "order": order, "outcome": outcome, "detail": ""}
    return {"kind": "command", "epoch": 1, "seq": None, **about}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path, "substation-1")
    found.append(start(1))
    yield found
    found.close()


def positions(outbox: Outbox) -> list[int]:
    found = []
    while (batch := outbox.next(Lane.BACKLOG, 1 << 20)) is not None:
        found += [int(item.split(b'"')[3].rpartition(b"/")[2]) for item in batch.items if batch.kind is Class.DECISION]
        outbox.settle(batch)
    return found


def test_what_a_crash_kept_from_the_outbox_is_told_at_the_next_start(tmp_path: Path, ledger: Ledger) -> None:
    """A new link tells nothing old; then five entries that only the ledger has, one of them no decision."""
    outbox = open_outbox(config(tmp_path), ledger)
    assert outbox.outbox.cursor == Cursor(1, 1)
    outbox.close()
    ledger.append_all([grant(1), {"kind": "view", "epoch": 1, "seq": None}, grant(2), grant(3), grant(4)])
    outbox = open_outbox(config(tmp_path), ledger)
    assert outbox.outbox.cursor == Cursor(1, 6)
    outbox.outbox.connected()
    assert positions(outbox.outbox) == [1, 3, 4, 5]
    outbox.close()
    outbox = open_outbox(config(tmp_path), ledger)
    assert outbox.outbox.waiting == {}
    outbox.close()


def test_an_outbox_that_was_lost_lets_no_command_act_twice(tmp_path: Path, ledger: Ledger) -> None:
    """Numbers and settings come from the ledger; the decisions are told again."""
    open_outbox(config(tmp_path), ledger).close()
    ledger.append_all(
        [
            command(5, {"kind": "set_nominal_limits", "limits": {"meter-1": 700.0}}),
            command(6, {"kind": "set_nominal_limits", "limits": {"meter-2": 800.0}}),
            command(7, {"kind": "set_policy", "policy": "first_come"}),
            command(8, {"kind": "load_model", "sha256": "0" * 64}, outcome="failed"),
            {"kind": "command refused", "epoch": 1, "seq": None, "number": 12, "refused": "expired"},
            {"kind": "command refused", "epoch": 1, "seq": None, "number": 99, "refused": "retained"},
            {"kind": "command refused", "epoch": 1, "seq": None, "number": 3, "refused": "old_number"},
            grant(1),
        ]
    )
    file = config(tmp_path).store_directory / "utility.sqlite"
    file.write_bytes(b"not a database" * 1000)
    outbox = open_outbox(config(tmp_path), ledger)
    assert outbox.outbox.aside is not None
    assert outbox.outbox.last_number == 12
    assert settings_of(outbox.outbox) == {
        "nominal_limit_w": {"meter-1": 700.0, "meter-2": 800.0}, "policy": "first_come",
    }  # fmt: skip
    outbox.outbox.connected()
    assert positions(outbox.outbox) == [0, 1, 2, 3, 4, 8]
    outbox.close()


def test_a_lost_outbox_is_not_taken_for_a_new_link_after_a_crash(tmp_path: Path, ledger: Ledger) -> None:
    """The bad file was set aside, and the process died before anything was told: the next start tells it."""
    subject = config(tmp_path)
    open_outbox(subject, ledger).close()
    ledger.append_all([grant(1), grant(2)])
    (subject.store_directory / "utility.sqlite").write_bytes(b"not a database" * 1000)
    Outbox(subject.store_directory, subject.dcu.id).close()
    outbox = open_outbox(subject, ledger)
    assert outbox.outbox.aside is None
    outbox.outbox.connected()
    assert positions(outbox.outbox) == [0, 1, 2]
    outbox.close()


def test_a_command_that_the_ledger_has_is_answered_and_not_carried_out_again(tmp_path: Path, ledger: Ledger) -> None:
    """The crash came after the record and before the outbox knew."""
    outbox = Outbox(tmp_path / "other", "substation-1")
    recall(outbox, remembered(tmp_path))
    ledger.append(command(3, {"kind": "revoke_all", "hold_s": 0.0}))
    outbox.put([], Cursor(1, 1))
    catch_up(outbox, "substation-1", Cursor(1, 1), ledger.position, entries_of(current(tmp_path), 1))
    assert outbox.waiting == {"answer": 1, "decision": 1}
    assert outbox.unfinished() == []
    outbox.close()


def test_after_another_log_has_begun_everything_of_it_is_told(tmp_path: Path, ledger: Ledger) -> None:
    """Damage had ended the log that the cursor was of."""
    outbox = Outbox(tmp_path / "other", "substation-1")
    outbox.put([], Cursor(1, 500))
    ledger.append_all([grant(1), grant(2)])
    assert missed_from(outbox, 2, ledger.position) == 0
    catch_up(outbox, "substation-1", Cursor(2, 0), ledger.position, entries_of(current(tmp_path)))
    assert outbox.waiting == {"decision": 3}
    assert outbox.cursor == Cursor(2, 3)
    assert RECOVER_MAX > 3
    outbox.close()


def ended(directory: Path) -> tuple[DcuConfig, Ledger]:
    """A DCU whose first log, with two grants that nobody was told of, was set aside, and which has begun a second."""
    subject = config(directory)
    first = Ledger(directory, "substation-1")
    first.append(start(1))
    outbox = open_outbox(subject, first)
    first.append_all([grant(1), grant(2)])
    outbox.close()
    first.close()
    (directory / "ledger").rename(directory / "ended-1")
    second = Ledger(directory, "substation-1")
    second.append(start(2))
    return subject, second


def test_the_end_of_a_log_that_damage_has_ended_is_told_too(tmp_path: Path) -> None:
    """What was in memory when the power went is read from the log as it was left; then all of the next one."""
    subject, second = ended(tmp_path)
    outbox = open_outbox(subject, second)
    assert outbox.outbox.cursor == Cursor(2, second.position)
    outbox.outbox.connected()
    assert positions(outbox.outbox) == [1, 2, second.position - 1]
    outbox.close()
    outbox = open_outbox(subject, second)
    assert outbox.outbox.waiting == {}
    outbox.close()
    second.close()


def test_an_outbox_that_is_lost_with_a_log_is_made_good_from_both_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A medium that damaged both: so many entries are told again, whichever log they are in."""
    subject = config(tmp_path)
    first = Ledger(tmp_path, "substation-1")
    first.append_all([start(1), *(grant(n) for n in range(1, 6))])
    first.close()
    (tmp_path / "ledger").rename(tmp_path / "ended-1")
    second = Ledger(tmp_path, "substation-1")
    second.append_all([start(2), grant(1)])
    for most, told in ((100_000, [0, 1, 2, 3, 4, 5, 1, 2]), (5, [4, 5, 1, 2]), (second.position, [1, 2])):
        monkeypatch.setattr(module, "RECOVER_MAX", most)
        UTILITY.path(subject.store_directory).parent.mkdir(exist_ok=True)
        UTILITY.path(subject.store_directory).write_bytes(b"not a database" * 1000)
        outbox = open_outbox(subject, second)
        assert outbox.outbox.cursor == Cursor(2, second.position)
        outbox.outbox.connected()
        assert positions(outbox.outbox) == told
        outbox.close()
    second.close()


def test_what_is_asked_for_again_is_told_without_what_a_customer_has_taken_back(tmp_path: Path) -> None:
    """Of a customer who left nothing, of entries that nobody is told nothing, of what does not exist an error."""
    subject, ledger = config(tmp_path), Ledger(tmp_path, "substation-1")
    ledger.append(start(1))
    outbox = open_outbox(subject, ledger)
    ledger.append_all([grant(1), {"kind": "view", "epoch": 1, "seq": None}, {**grant(2), "meter": "meter-2"}, grant(3)])
    ledger.close()
    forget(tmp_path, "substation-1", "meter-2")
    end = ledger.position
    assert tell_again(outbox.outbox, subject, end, 1, 3) == ToldAgain(1)
    assert tell_again(outbox.outbox, subject, end, 3, 1000) == ToldAgain(1)
    outbox.outbox.connected()
    assert positions(outbox.outbox) == [1, 4]
    with pytest.raises(LedgerError, match="position 6"):
        tell_again(outbox.outbox, subject, end, 6, 1)
    outbox.close()


def test_an_outbox_that_a_crash_left_before_it_was_told_of_spent_numbers_is_told_at_the_next_start(
    tmp_path: Path, ledger: Ledger
) -> None:
    """The file exists, and nothing is in it; a hold that the newest start took over goes on, an older one does not."""
    hold = {"kind": "revoke_all", "hold_s": 60.0}
    ledger.append_all([command(5, hold), {"kind": "start", "epoch": 2, "seq": 0, "facts": {}}])
    Outbox(config(tmp_path).store_directory, "substation-1").close()
    outbox = open_outbox(config(tmp_path), ledger)
    assert (outbox.outbox.last_number, settings_of(outbox.outbox)) == (5, {})
    outbox.close()
    again = Outbox(tmp_path / "other", "substation-1")
    ledger.append({"kind": HOLD, "epoch": 2, "seq": None, "hold_s": 60.0})
    recall(again, remembered(tmp_path))
    assert settings_of(again) == {"hold_s": 60.0}
    again.close()
    third = Outbox(tmp_path / "third", "substation-1")
    ledger.append_all([command(number, {"kind": "revoke_all", "hold_s": 90.0 - number}) for number in (6, 50)])
    recall(third, remembered(tmp_path))
    assert settings_of(third) == {"hold_s": 84.0}
    third.close()


def test_what_was_missed_comes_in_pieces_from_where_it_began(tmp_path: Path, ledger: Ledger) -> None:
    """Seven entries, three looked at in one go: three goes, each entry once, none before the gap."""
    subject = config(tmp_path)
    outbox = Outbox(subject.store_directory, "substation-1")
    outbox.put([], Cursor(1, 1))
    ledger.append_all([grant(n) for n in range(7)])
    assert [refill(outbox, subject, ledger.position, 3) for _ in range(3)] == [True, True, False]
    outbox.connected()
    assert positions(outbox) == list(range(1, 8))
    outbox.close()


def test_decisions_that_a_start_had_no_room_for_are_not_passed_over(tmp_path: Path, ledger: Ledger) -> None:
    """The outbox is full at a start: it says that it is behind, and where it was."""
    subject = config(tmp_path)
    open_outbox(subject, ledger).close()
    ledger.append_all([grant(n) for n in range(5)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outbox, "put", _no_room)
        outbox = open_outbox(subject, ledger)
    ports = utility_ports(subject, ledger, outbox)
    assert ports.behind
    assert outbox.outbox.cursor == Cursor(1, 1)
    outbox.close()
    outbox = open_outbox(subject, ledger)
    assert not utility_ports(subject, ledger, outbox).behind
    outbox.close()


def _no_room(*_: object) -> None:
    raise OutboxFull("no room")


def test_the_end_of_an_ended_log_that_a_start_had_no_room_for_is_told_once_there_is(tmp_path: Path) -> None:
    """Damage, and an outbox that is full at the start. What the new log gets meanwhile does not say that all was told;
    the first refill with room tells the rest of the old one, then the new one, by pieces or at once."""
    for most in (1, None):
        directory = tmp_path / str(most)
        subject, second = ended(directory)
        begin = second.position - 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Outbox, "put", _no_room)
            outbox = open_outbox(subject, second)
        assert utility_ports(subject, second, outbox).behind
        assert not outbox.outbox.keep([], Span(2, 0, second.position))
        rounds = 1
        while refill(outbox.outbox, subject, second.position, most):
            rounds += 1
        assert rounds == (2 + second.position if most else 1)
        assert outbox.outbox.cursor == Cursor(2, second.position)
        outbox.outbox.connected()
        assert positions(outbox.outbox) == [1, 2, begin]
        outbox.close()
        second.close()


# ---- a ledger that cannot be read ------------------------------------------------------------------------------------


def alarms(outbox: Outbox) -> list[str]:
    """What is said of the ledger, waiting or not."""
    items = [json.loads(body) for _, kind, _, body in outbox._file.all_items() if kind is Class.ALARM]
    return [item["alarm"] for item in items if item["source"] == "ledger" and item["raised"]]


@pytest.fixture
def damaged(tmp_path: Path, ledger: Ledger) -> Ledger:
    """Seven hundred entries, the second bundle of which cannot be read, and two of the first that have each other's
    parts."""
    ledger.append_all([grant(n) for n in range(1, 701)])
    place = current(tmp_path)
    (place.public / tile_path(ENTRIES, 1)).write_bytes(b"no bundle")
    parts = unpack_part_file(place.parts(0).read_bytes(), WIDTH)
    parts[20], parts[21] = parts[21], parts[20]
    place.parts(0).write_bytes(pack_part_file(pack_parts(one) for one in parts))
    return ledger


READABLE = [n for n in range(1, 701) if n not in {20, 21} and not 256 <= n < 512]
UNREADABLE = ["entries 20 to 21 of log 1 cannot be read", "entries 256 to 511 of log 1 cannot be read"]


async def test_what_cannot_be_read_is_passed_once_told_and_the_rest_comes(
    tmp_path: Path, damaged: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the DCU runs: some goes, with a pause before each thing is given up; nothing is written where nothing is
    new. An alarm for each."""
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)
    subject = config(tmp_path)
    outbox = Outbox(subject.store_directory, "substation-1")
    outbox.put([], Cursor(1, 1))
    threaded = ThreadedOutbox(outbox)
    files, rounds = DiskFiles(subject, damaged, threaded, lambda: 1.79e9), 0
    while await files.refill():
        rounds += 1
        assert rounds < 10
    assert outbox.cursor == Cursor(1, 701)
    assert alarms(outbox) == UNREADABLE
    outbox.connected()
    assert positions(outbox) == READABLE
    written = outbox._file.database.wal_bytes
    assert not await files.refill()
    assert (alarms(outbox), outbox._file.database.wal_bytes) == (UNREADABLE, written)
    threaded.close()


async def test_what_is_readable_when_it_is_looked_at_again_is_told(
    tmp_path: Path, damaged: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on its way from the journal into a bundle; here it is the first one's once more, with its faults."""
    subject, place = config(tmp_path), current(tmp_path)
    outbox = Outbox(subject.store_directory, "substation-1")
    outbox.put([], Cursor(1, 30))
    bundle = place.public / tile_path(ENTRIES, 1)
    good = place.public / tile_path(ENTRIES, 0)

    async def mend(_s: float) -> None:
        bundle.write_bytes(good.read_bytes())
        place.parts(1).write_bytes(pack_part_file(pack_parts(one) for one in _parts(place, 0)))

    monkeypatch.setattr(asyncio, "sleep", mend)
    threaded = ThreadedOutbox(outbox)
    files = DiskFiles(subject, damaged, threaded)
    while await files.refill():
        pass
    assert alarms(outbox) == ["entries 276 to 277 of log 1 cannot be read"]
    outbox.connected()
    assert positions(outbox) == [n for n in range(30, 701) if n not in {276, 277}]
    threaded.close()


def _parts(place: Place, number: int) -> list[list[Part]]:
    return unpack_part_file(place.parts(number).read_bytes(), WIDTH)


def test_a_start_passes_what_cannot_be_read_and_tells_the_rest(tmp_path: Path, damaged: Ledger) -> None:
    """Of a log that is written and of one that has ended; it says so once, however often there is a start."""
    subject = config(tmp_path)
    outbox = Outbox(subject.store_directory, "substation-1")
    outbox.put([], Cursor(1, 1))
    outbox.close()
    damaged.publish()
    shutil.copytree(tmp_path / "ledger", tmp_path / "ended-1")
    again = open_outbox(subject, damaged)
    assert alarms(again.outbox) == UNREADABLE + [text.replace("log 1", "log 2") for text in UNREADABLE]
    again.outbox.connected()
    assert positions(again.outbox) == [*READABLE, 0, *READABLE]
    again.close()
    again = open_outbox(subject, damaged)
    assert len(alarms(again.outbox)) == 4
    again.close()


def test_a_log_that_lost_its_key_is_not_passed_without_a_word(tmp_path: Path) -> None:
    """Nothing signed says how many entries it had: that some may be missing is told, once."""
    subject = config(tmp_path)
    first = Ledger(tmp_path, "substation-1")
    first.append(start(1))
    open_outbox(subject, first).close()
    first.append_all([grant(1), grant(2)])
    first.close()
    current(tmp_path).key.write_bytes(b"no key")
    second = Ledger(tmp_path, "substation-1")
    for _ in range(2):
        outbox = open_outbox(subject, second)
        assert outbox.outbox.cursor == Cursor(2, second.position)
        assert alarms(outbox.outbox) == ["entries from 1 on of log 1, if there are any, cannot be read"]
        outbox.close()
    second.close()


def test_what_is_asked_for_again_and_cannot_be_read_is_named(tmp_path: Path, damaged: Ledger) -> None:
    """A range with all of it, one within it, one without it, and beyond the end."""
    subject = config(tmp_path)
    outbox = Outbox(subject.store_directory, "substation-1")
    ask = partial(tell_again, outbox, subject, damaged.position)
    assert ask(1, 1000) == ToldAgain(len(READABLE), (Span(1, 20, 22), Span(1, 256, 512)))
    assert ask(300, 10) == ToldAgain(0, (Span(1, 300, 310),))
    assert ask(600, 1000) == ToldAgain(101)
    with pytest.raises(LedgerError, match="position 701"):
        ask(701, 1)
    outbox.connected()
    assert positions(outbox) == READABLE
    outbox.close()


def test_the_longest_forecast_is_kept(tmp_path: Path) -> None:
    """As many customers as are forecast for, names and numbers as long as they may be, all quarters of an hour."""
    one = {"meter": "m" * 16, "low_w": -1e7, "expected_w": 12345678.9, "high_w": 12345678.9}
    intervals = [one | {"start_s_from_now": 900.0 * n} for n in range(STEPS) for _ in range(CUSTOMERS_MAX)]
    outbox = Outbox(tmp_path, "substation-1")
    outbox.put([Item(Class.AVAILABLE, available(1_790_000_000.123, intervals))])
    assert outbox.waiting == {"available": 1}
    outbox.close()


def test_the_files_of_the_store_fit_their_gigabyte_together() -> None:
    """At their caps, with what SQLite keeps of their logs; telemetry makes room well before its cap."""
    kinds = (EVENTS, TELEMETRY, UTILITY)
    assert sum(kind.bytes_max for kind in kinds) + 3 * 2 * WAL_KEPT_BYTES <= STORE_BYTES_MAX
    most = check_config("dcu.toml", content() | {"store": {"telemetry_mib": 512}}, DcuConfig)
    assert most.store_settings.keeping.telemetry_bytes + (64 << 20) <= TELEMETRY.bytes_max
    with pytest.raises(ConfigError, match="telemetry_mib"):
        check_config("dcu.toml", content() | {"store": {"telemetry_mib": 513}}, DcuConfig)


def test_weeks_that_have_ended_come_from_the_store_and_only_new_ones(tmp_path: Path) -> None:
    """No store yet: none. Then two weeks of one customer and one of somebody who is no customer any more."""
    subject = config(tmp_path)
    assert finished_weeks(subject, 0) == []
    store = Database(subject.store_directory, TELEMETRY, subject.dcu.id)
    with store.transaction() as connection:
        connection.executemany("INSERT INTO meters VALUES (?, ?)", [(1, "meter-1"), (2, "gone")])
        rows = [(604_800, 1, '{"a": 1}'), (1_209_600, 1, '{"a": 2}'), (604_800, 2, "{}")]
        connection.executemany("INSERT INTO weeks VALUES (?, ?, ?)", rows)
    store.close()
    both = [{"meter": "meter-1", "start_s": 604_800, "a": 1}, {"meter": "meter-1", "start_s": 1_209_600, "a": 2}]
    assert finished_weeks(subject, 0) == both
    assert finished_weeks(subject, 604_800) == both[1:]
