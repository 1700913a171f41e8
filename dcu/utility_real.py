"""The utility link of a real DCU: its outbox on this machine's disk, the ledger's files, a broker over the network."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from dcu.config import DcuConfig
from dcu.grid.port_model import load_model
from dcu.hosting.decide import Rule
from dcu.ledger.audit import key_of, read_kept
from dcu.ledger.entry import FORGOTTEN, START, restore
from dcu.ledger.journal import journals, scan
from dcu.ledger.layout import LedgerError, Place, current, ended
from dcu.ledger.note import Verifier, open_checkpoint
from dcu.ledger.receipt import make_receipt
from dcu.ledger.store import Ledger
from dcu.ledger.tiles import WIDTH
from dcu.site import predicted_rule
from dcu.store.database import StoreError, open_reader
from dcu.store.queries import weeks
from dcu.store.schema import TELEMETRY
from dcu.utility.broker import parse_broker
from dcu.utility.commands import Refusal
from dcu.utility.documents import DECISIONS, Class, alarm, decision, decision_name
from dcu.utility.mqtt import MqttBroker
from dcu.utility.outbox import COMMAND, Cursor, Item, Outbox, Span
from dcu.utility.outbox_file import OutboxFull
from dcu.utility_side import HOLD, REFUSED, ToldAgain, UtilityPorts
from shared.errors import ConfigError, DecodeError, Fault
from shared.log import event, get_logger

ResultT = TypeVar("ResultT")
UtcS = Callable[[], float]
"""The time that labels what is told [s, Unix]."""

RECOVER_MAX: Final = 100_000
"""Entries told again after the outbox was lost; nobody knows which of them had arrived. Consumers know them by id."""
CATCH_UP: Final = 500
"""Decisions of one transaction."""
LOOKED_AT: Final = 5000
"""Entries looked at in one go while the DCU runs: about a second."""
LOOK_AGAIN_S: Final = 5.0
"""[s] Until an entry that cannot be read is looked at for the last time."""
HEAD_BYTES_MAX: Final = 1 << 16

_LOG: Final = get_logger("dcu")


class ThreadedOutbox:
    """`dcu.utility.link.OutboxPort` with a thread that waits for the disk."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")

    async def call(self, work: Callable[[Outbox], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self.outbox)

    async def elsewhere(self, work: Callable[[], ResultT]) -> ResultT:
        """The same for other work that waits for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Finish what was begun and give the file back."""
        self._thread.shutdown(wait=True)
        self.outbox.close()


class DiskFiles:
    """`dcu.utility_side.SiteFiles` on this machine's disk."""

    def __init__(self, config: DcuConfig, ledger: Ledger, outbox: ThreadedOutbox, utc_s: UtcS = time.time) -> None:
        """Of this ledger, of which only files are read; waits in the outbox's thread."""
        self._config, self._outbox, self._ledger, self._utc_s = config, outbox, ledger, utc_s
        self._place = current(config.state_directory)
        self._key = Verifier.parse(ledger.vkey)

    async def checkpoint(self) -> str | None:
        return await self._outbox.elsewhere(lambda: published_head(self._place))

    async def receipt(self, position: int, meter: str | None) -> str:
        return await self._outbox.elsewhere(lambda: receipt_text(self._place, position, self._key, meter))

    async def weeks(self, after_s: int) -> list[dict[str, Any]]:
        return await self._outbox.elsewhere(lambda: finished_weeks(self._config, after_s))

    async def refill(self) -> bool:
        outbox, config, end = self._outbox.outbox, self._config, self._ledger.position

        def work() -> tuple[bool, bool]:
            before = outbox.cursor
            more = refill(outbox, config, end, LOOKED_AT, self._utc_s)
            return more, more and outbox.cursor == before

        more, stuck = await self._outbox.elsewhere(work)
        if stuck:  # it may be on its way from the journal into a bundle
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._outbox.elsewhere(lambda: pass_unreadable(outbox, config, end, self._utc_s))
        return more

    async def tell_again(self, position: int, count: int) -> ToldAgain:
        outbox, config, end = self._outbox.outbox, self._config, self._ledger.position
        return await self._outbox.elsewhere(lambda: tell_again(outbox, config, end, position, count))

    async def rule(self, sha256: str) -> Rule:
        return await self._outbox.elsewhere(lambda: rule_of(self._config, sha256))


def published_head(place: Place) -> str | None:
    """The newest published head; None before the first."""
    try:
        data = place.checkpoint.read_bytes()[: HEAD_BYTES_MAX + 1]
    except FileNotFoundError:
        return None
    return data.decode(errors="replace") if len(data) <= HEAD_BYTES_MAX else None


def finished_weeks(config: DcuConfig, after_s: int) -> list[dict[str, Any]]:
    """EN 50160 figures of the store; none while it cannot be read."""
    try:
        with closing(open_reader(config.store_directory, TELEMETRY)) as connection:
            return [
                {"meter": meter.id, **one}
                for meter in config.meters
                for one in weeks(connection, meter.id)
                if one["start_s"] > after_s
            ]
    except (StoreError, sqlite3.Error) as error:
        event(_LOG, logging.WARNING, "no statistics for the utility", why=str(error))
        return []


def receipt_text(place: Place, position: int, key: Verifier, meter: str | None) -> str:
    """A receipt as text.

    Raises:
        HeadroomError: no such entry, or no head over it yet.
    """
    return make_receipt(place, position, key, meter).decode()


def rule_of(config: DcuConfig, sha256: str) -> Rule:
    """The rule of a site with another model file.

    Raises:
        ConfigError: this site decides without a model, or the file is missing, another one, or does not fit.
    """
    if config.model is None or config.utility is None or config.utility.model_directory is None:
        expected = "a site with [model] and utility.model_directory"
        raise ConfigError("load_model", [Fault("model", "none", expected)])
    path = config.utility.model_file(sha256)
    try:
        with path.open("rb") as file:
            seen = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(path.name, [Fault("file", error.strerror or str(error), "a model file")]) from error
    if seen != sha256:
        raise ConfigError(path.name, [Fault("sha256", seen[:16], sha256[:16])])
    return predicted_rule(config, load_model(path))


# ---- start -----------------------------------------------------------------------------------------------------------


def open_outbox(config: DcuConfig, ledger: Ledger, utc_s: UtcS = time.time) -> ThreadedOutbox:
    """The outbox of a DCU, with whatever the ledger has and it has not.

    Raises:
        DeviceError: it cannot be used.
        LedgerError: the ledger cannot be read.
    """
    outbox = Outbox(config.store_directory, config.dcu.id)
    try:
        if outbox.aside is not None:
            event(_LOG, logging.ERROR, "outbox set aside", why=outbox.aside.reason, kept=str(outbox.aside.path))
        if outbox.fresh:
            recall(outbox, remembered(config.state_directory))
        with contextlib.suppress(OutboxFull):  # the link sends what is there, and comes back for the rest
            refill(outbox, config, ledger.position, utc_s=utc_s)
    except BaseException:
        outbox.close()
        raise
    return ThreadedOutbox(outbox)


def log_number(directory: Path) -> int:
    """Which log of a ledger is written; damage may have ended earlier ones."""
    return 1 + len(ended(directory))


def entries_of(place: Place, first: int = 0) -> Iterator[dict[str, Any]]:
    """Entries of a log in order, from ``first``."""
    for leaf, parts in read_kept(place, first):
        try:
            yield restore(leaf, parts)
        except DecodeError:
            return


REMEMBERED: Final = tuple(f'"kind":"{kind}"'.encode() for kind in (START, COMMAND, REFUSED, HOLD))


def remembered(directory: Path) -> Iterator[dict[str, Any]]:
    """Of all logs of a ledger the entries that `recall` needs; the others, nearly all, are not even parsed."""
    for place in (*ended(directory), current(directory)):
        for leaf, parts in read_kept(place):
            if any(words in leaf for words in REMEMBERED):
                with contextlib.suppress(DecodeError):
                    yield restore(leaf, parts)


def recall(outbox: Outbox, entries: Iterable[dict[str, Any]]) -> None:
    """Numbers that are spent and what commands have set, from the ledger: an outbox that was lost must let no command
    act twice. A hold that the newest start has seen begins anew."""
    last, settings = 0, dict[str, Any]()
    for entry in entries:
        if entry.get("kind") in {COMMAND, REFUSED} and entry.get("refused") != Refusal.RETAINED:
            number = entry.get("number")
            last = max(last, number) if isinstance(number, int) else last
        if entry.get("kind") == START:
            settings.pop("hold_s", None)  # one that went on was ordered again
        elif entry.get("kind") == HOLD:
            settings["hold_s"] = entry.get("hold_s")
        elif entry.get("kind") == COMMAND and entry.get("outcome") == "done":
            _remember(settings, entry.get("order"))
    outbox.rebuild(last, settings)


def _remember(settings: dict[str, Any], order: Any) -> None:
    match order:
        case {"kind": "set_nominal_limits", "limits": dict(limits)}:
            settings["nominal_limit_w"] = {**settings.get("nominal_limit_w", {}), **limits}
        case {"kind": "set_policy", "policy": str(policy)}:
            settings["policy"] = policy
        case {"kind": "set_band", "band_pct": int() | float() as band_pct}:
            settings["band_pct"] = band_pct
        case {"kind": "load_model", "sha256": str(sha256)}:
            settings["model"] = sha256
        case {"kind": "revoke_all", "hold_s": int() | float() as hold_s} if hold_s:
            settings["hold_s"] = max(hold_s, settings.get("hold_s", 0.0))


def refill(outbox: Outbox, config: DcuConfig, end: int, most: int | None = None, utc_s: UtcS = time.time) -> bool:
    """Put entries below ``end`` that the outbox has missed, those of logs that damage has ended since before them;
    whether there are more than the ``most`` looked at. Where all are looked at, those that cannot be read are passed.

    Raises:
        OutboxFull: no room for all of them.
    """
    while True:
        place, first, last = _missed(outbox, config, end)
        until = last if most is None else min(last, first.position + most)
        told = catch_up(outbox, config.dcu.id, first, until, entries_of(place, first.position))
        if told:
            event(_LOG, logging.INFO, "decisions found again for the utility", log=first.log, entries=told)
        cursor = outbox.cursor
        assert cursor is not None, "whoever catches up says how far"
        if cursor.position >= last:
            if cursor.log == log_number(config.state_directory):
                return False
            unknown = _signed_size(place) is None
            what = f"entries from {cursor.position} on of log {cursor.log}, if there are any, cannot be read"
            items = [_unreadable(config, cursor, what, utc_s)] if unknown else []
            outbox.put(items, Cursor(cursor.log + 1, 0))
        elif most is None:
            pass_unreadable(outbox, config, end, utc_s)
        if most is not None:
            return True


def _missed(outbox: Outbox, config: DcuConfig, end: int) -> tuple[Place, Cursor, int]:
    """The oldest log of which the outbox may have missed something, from where, and how many entries the log has."""
    logs = (*ended(config.state_directory), current(config.state_directory))
    cursor = outbox.cursor
    if cursor is None and outbox.follows_a_lost_one:
        cursor = _so_many_before(logs, end)
    if cursor is not None and cursor.log < len(logs):
        place = logs[cursor.log - 1]
        return place, cursor, max(cursor.position, _signed_size(place) or 0)
    return logs[-1], Cursor(len(logs), missed_from(outbox, len(logs), end)), end


def _so_many_before(logs: Sequence[Place], end: int) -> Cursor:
    """`RECOVER_MAX` entries before the ``end`` of the newest log, or where the oldest begins."""
    log, size, left = len(logs), end, RECOVER_MAX
    while size < left and log > 1:
        log, left = log - 1, left - size
        size = _signed_size(logs[log - 1]) or 0
    return Cursor(log, max(0, size - left))


def _signed_size(place: Place) -> int | None:
    """How many entries a log had, as far as something signed says so; None where nobody can know."""
    found: int | None = None
    with contextlib.suppress(LedgerError, DecodeError, OSError):
        key = key_of(place)
        for path in journals(place.private):
            with contextlib.suppress(DecodeError):
                tail = scan(path, key, None)
                found = max(found or 0, tail.heading.first + len(tail.kept))
        found = max(found or 0, open_checkpoint(place.checkpoint.read_bytes(), key)[0].size)
    return found


def pass_unreadable(outbox: Outbox, config: DcuConfig, end: int, utc_s: UtcS = time.time) -> None:
    """If the next entry that the outbox has missed cannot be read, say so and go on behind it.

    Raises:
        OutboxFull: no room to say so.
    """
    place, first, last = _missed(outbox, config, end)
    until = readable_from(place, first.position, min(last, first.position + LOOKED_AT))
    if until == first.position:
        return
    what = f"entries {first.position} to {until - 1} of log {first.log} cannot be read"
    outbox.put([_unreadable(config, first, what, utc_s)], Cursor(first.log, until))


def _unreadable(config: DcuConfig, first: Cursor, what: str, utc_s: UtcS) -> Item:
    event(_LOG, logging.ERROR, "not told to the utility", why=what)
    name = f"{config.dcu.id}/alarm/unreadable/{first.log}/{first.position}"
    return Item(Class.ALARM, alarm(utc_s(), "ledger", what, raised=True), name)


def readable_from(place: Place, first: int, end: int) -> int:
    """The first entry from ``first`` to ``end`` that can be read; ``end`` if none can."""
    while first < end:
        for leaf, parts in islice(read_kept(place, first), end - first):
            with contextlib.suppress(DecodeError):
                restore(leaf, parts)
                return first
            first += 1
        first = min(end, (first // WIDTH + 1) * WIDTH)  # a bundle that cannot be read
    return first


def missed_from(outbox: Outbox, log: int, end: int) -> int:
    """The first entry of a log that the outbox may have missed."""
    cursor = outbox.cursor
    if cursor is None:  # a link that is new tells nothing old; one that lost its outbox tells a lot again
        return max(0, end - RECOVER_MAX) if outbox.follows_a_lost_one else end
    return min(end, cursor.position) if cursor.log == log else 0


def catch_up(outbox: Outbox, dcu: str, first: Cursor, end: int, entries: Iterator[dict[str, Any]]) -> int:
    """Put decisions among the entries from ``first``, which comes first, to ``end``; how many they were. Those that are
    not readable yet, because they are being written, are left to whoever tells of them then."""
    log, items, told, reached = first.log, list[Item](), 0, first.position
    for position, entry in enumerate(islice(entries, end - first.position), first.position):
        reached = position + 1
        if not _is_told(entry):
            continue
        items.append(_found_again(dcu, log, position, entry))
        told += 1
        if len(items) >= CATCH_UP:
            outbox.put(items, Cursor(log, reached))
            items = []
    if items or outbox.cursor != Cursor(log, reached):
        outbox.put(items, Cursor(log, reached))
    return told


def _is_told(entry: dict[str, Any]) -> bool:
    """Whether the utility may have an entry as it is: not without its values, which a customer who left has taken with
    him; but a command even so, as it is what ends it."""
    kind = entry.get("kind")
    return kind in DECISIONS and (not entry.get(FORGOTTEN) or kind == COMMAND)


def _found_again(dcu: str, log: int, position: int, entry: dict[str, Any]) -> Item:
    return Item(Class.DECISION, decision(log, position, entry, recovered=True), decision_name(dcu, log, position))


def tell_again(outbox: Outbox, config: DcuConfig, end: int, position: int, count: int) -> ToldAgain:
    """Put what was told of ``count`` entries from ``position`` on (below ``end``) again, as far as they can be read.

    Raises:
        LedgerError: the log has no such entry.
        OutboxFull: no room; nothing is told.
    """
    log, place = log_number(config.state_directory), current(config.state_directory)
    until = min(end, position + count)
    if position >= until:
        raise LedgerError(f"position {position}: no such entry in the log")
    items, unread = list[Item](), list[Span]()
    while position < until:
        for entry in islice(entries_of(place, position), until - position):
            if _is_told(entry):
                items.append(_found_again(config.dcu.id, log, position, entry))
            position += 1
        first, position = position, readable_from(place, position, until)
        if position > first:
            unread.append(Span(log, first, position))
    outbox.put_again(items)
    return ToldAgain(len(items), tuple(unread))


SETTINGS: Final = ("nominal_limit_w", "policy", "band_pct", "model", "hold_s")


def utility_ports(config: DcuConfig, ledger: Ledger, outbox: ThreadedOutbox, utc_s: UtcS = time.time) -> UtilityPorts:
    """The link's ports.

    Raises:
        ConfigError: certificates or keys that cannot be used.
    """
    assert config.utility is not None, "the caller has a utility"
    files = config.utility.tls_files
    address = parse_broker(config.utility.url)
    broker = MqttBroker(config.dcu.id, address, None if files is None else files.context())
    log = log_number(config.state_directory)
    disk = DiskFiles(config, ledger, outbox, utc_s)
    behind = missed_from(outbox.outbox, log, ledger.position) < ledger.position
    return UtilityPorts(outbox, broker, disk, log, config, settings_of(outbox.outbox), behind)


def settings_of(outbox: Outbox) -> dict[str, Any]:
    """What commands have set."""
    found = {name: outbox.setting(name) for name in SETTINGS}
    return {name: value for name, value in found.items() if value is not None}


def check_utility(config: DcuConfig) -> None:
    """Whether the files of a configuration's link can be used.

    Raises:
        ConfigError: they cannot.
    """
    if config.utility is not None and config.utility.tls_files is not None:
        config.utility.tls_files.context()
