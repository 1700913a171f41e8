"""The outbox's file: its tables, its cap, how an item lies in it, and what can be asked of it and done to it.

It decides nothing: which session it is, what a class may have, what is told and when its owner says (`outbox`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterator
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, Final

from dcu.store.database import Connect, Database, Durability, FileKind
from dcu.utility.documents import Class
from shared.errors import HeadroomError

TABLES: Final = (
    # What waits. `name` is the item's stable id; NULL where the row's own number makes it. `aside`: set aside because
    # nothing that carried it was ever acknowledged.
    """CREATE TABLE items (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        class INTEGER NOT NULL,
        name TEXT UNIQUE,
        aside INTEGER NOT NULL DEFAULT 0,
        body BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX items_by_class ON items (class, aside, id)",
    # Authentic commands, by number; the newest `COMMANDS_KEPT`. `done` is NULL until the effect is recorded.
    """CREATE TABLE commands (
        number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, done INTEGER
    ) STRICT""",
    # As JSON: `birth`, `last` number that is spent, `dropped`, `cursor` in the ledger, and what commands have set.
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)
LAST_ANSWERS: Final = ("ALTER TABLE commands ADD COLUMN answer TEXT",)
"""The last answer to a command as JSON, for who sends it again; NULL in files of before."""
TAILS: Final = (
    # 0 while an item waits; then the number of the session in which the broker acknowledged it.
    "ALTER TABLE items ADD COLUMN session INTEGER NOT NULL DEFAULT 0",
    "DROP INDEX items_by_class",
    "CREATE INDEX items_by_class ON items (class, aside, session, id)",
)

UTILITY: Final = FileKind("utility", 0x4852554F, Durability.EVERY_COMMIT, (TABLES, LAST_ANSWERS, TAILS), 192 << 20)
"""72 h at a hundred meters, twenty of them with grants that are renewed every 15 s, take half of it."""

WORDS: Final = (
    b'"SUBSTATION_UNKNOWN""READING_INVALID""NO_CAPACITY""OVERVOLTAGE""quarantine ended","why":"expired""denial"'
    b'{"log":1,"position":,"entry":{"kind":"renewal","epoch":1,"seq":,"meter":"meter-1","window":,"request":{"id":,'
    b'"nonce":"0123456789abcdef","limit_w":2400.0,"minimum_limit_w":2400.0},"limit_w":2400.0,"lease_s":60.0,'
    b'"reason":"GRANTED","kept_by":{"reason":"OVERVOLTAGE","binding":"meter-1","value":null}}}'
)
"""What bodies mostly say (the dictionary of RFC 1950). Never edited: bodies on disk need it; another one would take
another column."""


def packed(body: bytes) -> bytes:
    """As it lies on the disk: a decision takes a third, a report a tenth."""
    packer = zlib.compressobj(6, zdict=WORDS)
    return packer.compress(body) + packer.flush()


def unpacked(body: bytes) -> bytes:
    return zlib.decompressobj(zdict=WORDS).decompress(body)


class OutboxFull(HeadroomError):
    """The file has reached its cap, or the medium has no room; nothing of the call was kept."""


class Lane(Enum):
    """Which part of the outbox a batch is from."""

    LIVE = "live"
    BACKLOG = "backlog"
    AGAIN = "again"


_ROWS: Final = {
    Lane.LIVE: "session = 0 AND id > :live_after",
    Lane.BACKLOG: "session = 0 AND id <= :live_after",
    Lane.AGAIN: "session > 0 AND session < :session",
}


class OutboxFile:
    """One file, open. What changes it is called within `transaction`."""

    def __init__(self, directory: Path, dcu: str, connect: Connect | None = None) -> None:
        """Open it; one that is bad is set aside and begun anew.

        Raises:
            StoreError: another process has it, the medium refuses, or a newer program wrote it.
        """
        self.database = Database(directory, UTILITY, dcu, connect)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing.

        Raises:
            OutboxFull: no room.
            sqlite3.Error: as SQLite says.
        """
        try:
            with self.database.transaction():
                yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            size_mib = self.database.size_bytes >> 20
            raise OutboxFull(f"{self.database.path.name}: {size_mib} MiB, and no room") from error

    # ---- facts -------------------------------------------------------------------------------------------------------

    def fact(self, name: str, default: Any) -> Any:
        """What is kept by a name."""
        row = self._ask("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return default if row is None else json.loads(row[0])

    def remember(self, name: str, value: Any) -> None:
        """Keep it."""
        self._ask(
            "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name,
            json.dumps(value),
        )

    # ---- items -------------------------------------------------------------------------------------------------------

    @property
    def newest(self) -> int:
        """The newest row that was ever written: numbers, and with them names, are never used twice."""
        return self.one("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'items'")

    @property
    def session(self) -> int:
        """The newest session in which something was acknowledged, at least the first."""
        return self.one("SELECT MAX(1, COALESCE(MAX(session), 1)) FROM items")

    def waiting(self, session: int) -> dict[Class, int]:
        """Items by class that were not acknowledged in a session."""
        rows = self._ask("SELECT class, COUNT(*) FROM items WHERE session != ? GROUP BY class", session)
        return dict.fromkeys(Class, 0) | {Class(kind): number for kind, number in rows}

    def lying(
        self, kind: Class, lane: Lane, live_after: int, session: int, without: Collection[int], most: int
    ) -> Iterator[tuple[int, str | None, bytes]]:
        """Row, name and body of so many items of a lane, in order, ``without`` some rows."""
        found = self.database.connection.execute(
            f"SELECT id, name, body FROM items WHERE class = :kind AND aside = 0 AND {_ROWS[lane]} "  # noqa: S608  # fixed texts
            "ORDER BY session, id LIMIT :most",
            {"kind": kind, "live_after": live_after, "session": session, "most": most + len(without)},
        )
        with contextlib.closing(found):
            for row, name, body in islice((one for one in found if one[0] not in without), most):
                yield row, name, unpacked(body)

    def all_items(self) -> list[tuple[int, Class, int, bytes]]:
        """Row, class, session and body of everything."""
        rows = self._ask("SELECT id, class, session, body FROM items").fetchall()
        return [(row, Class(kind), session, unpacked(body)) for row, kind, session, body in rows]

    def has(self, name: str | None) -> bool:
        """Whether there is an item of this name."""
        return self._ask("SELECT 1 FROM items WHERE name = ?", name).fetchone() is not None

    def present(self, rows: Collection[int], session: int) -> set[int]:
        """Those of some rows that are there and were not acknowledged in a session."""
        found = self._ask(f"SELECT id FROM items WHERE session != ? AND id IN ({_marks(rows)})", session, *rows)  # noqa: S608  # marks
        return {row for (row,) in found}

    def insert(self, row: int, kind: Class, name: str | None, body: bytes, session: int = 0) -> bool:
        """Keep an item; whether there was none of its name."""
        text = "INSERT INTO items (id, class, name, session, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"
        return self._ask(text, row, kind, name, session, packed(body)).rowcount > 0

    def replace(self, row: int, body: bytes) -> None:
        """Another body."""
        self._ask("UPDATE items SET body = ? WHERE id = ?", packed(body), row)

    def acknowledge(self, rows: Collection[int], session: int) -> None:
        """They were acknowledged in a session."""
        self._ask(f"UPDATE items SET session = ? WHERE id IN ({_marks(rows)})", session, *rows)  # noqa: S608  # marks

    def acknowledge_name(self, name: str, session: int) -> None:
        """The same for an item by its name; 0 changes nothing."""
        self._ask("UPDATE items SET session = max(session, ?) WHERE name = ?", session, name)

    def wake(self, name: str | None, session: int) -> bool:
        """Let an item wait again that was acknowledged in a session; whether it was."""
        return self._ask("UPDATE items SET session = 0 WHERE name = ? AND session = ?", name, session).rowcount > 0

    def set_aside(self, rows: Collection[int]) -> None:
        """They wait for a pardon."""
        self._ask(f"UPDATE items SET aside = 1, session = 0 WHERE id IN ({_marks(rows)})", *rows)  # noqa: S608  # marks

    def pardon(self) -> int:
        """All that stood aside wait again; how many they are."""
        return self._ask("UPDATE items SET aside = 0 WHERE aside = 1").rowcount

    def delete(self, rows: Collection[int]) -> int:
        """How many of them there were."""
        return self._ask(f"DELETE FROM items WHERE id IN ({_marks(rows)})", *rows).rowcount  # noqa: S608  # marks

    def drop_oldest(self, kind: Class, session: int, number: int) -> None:
        """So many of a class that were not acknowledged in a session go."""
        text = "SELECT id FROM items WHERE class = ? AND session != ? ORDER BY id LIMIT ?"
        self._ask(f"DELETE FROM items WHERE id IN ({text})", kind, session, number)  # noqa: S608  # a fixed text

    def shorten_tail(self, kind: Class, first_session: int, length: int) -> None:
        """Of what a class has had acknowledged from a session on, so many stay."""
        text = (
            "SELECT id FROM items WHERE class = ? AND aside = 0 AND session >= ? "
            "ORDER BY session DESC, id DESC LIMIT -1 OFFSET ?"
        )
        self._ask(f"DELETE FROM items WHERE id IN ({text})", kind, first_session, length)  # noqa: S608  # a fixed text

    def cut_tails(self) -> int:
        """All that was acknowledged goes; how many they were."""
        return self._ask("DELETE FROM items WHERE session > 0").rowcount

    # ---- commands ----------------------------------------------------------------------------------------------------

    def add_command(self, number: int, sha256: str, key: str, body: str, kept: int) -> None:
        """Keep one; of those that are done so many of the newest stay."""
        self._ask("INSERT INTO commands (number, sha256, key, body) VALUES (?, ?, ?, ?)", number, sha256, key, body)
        self._ask(
            "DELETE FROM commands WHERE done IS NOT NULL AND number NOT IN "
            "(SELECT number FROM commands ORDER BY number DESC LIMIT ?)",
            kept,
        )

    def command(self, number: int | None) -> tuple[str, bool, str | None] | None:
        """Hash of an accepted command, whether it is done, and its last answer; None if there is none."""
        row = self._ask("SELECT sha256, done, answer FROM commands WHERE number = ?", number).fetchone()
        return None if row is None else (row[0], row[1] is not None, row[2])

    def end_command(self, number: int, answer: str) -> None:
        """It is done, with its last answer."""
        self._ask("UPDATE commands SET done = 1, answer = ? WHERE number = ?", answer, number)

    def unfinished_commands(self) -> list[tuple[int, str, str, str]]:
        """Number, hash, key and body, in order."""
        return self._ask("SELECT number, sha256, key, body FROM commands WHERE done IS NULL ORDER BY number").fetchall()

    def finished_commands(self) -> list[tuple[int, str, str | None]]:
        """Number, body and last answer."""
        return self._ask("SELECT number, body, answer FROM commands WHERE done IS NOT NULL").fetchall()

    def empty_command(self, number: int) -> None:
        """What it said goes, that it was there stays."""
        self._ask("UPDATE commands SET body = '', answer = NULL WHERE number = ?", number)

    # ---- all of it ---------------------------------------------------------------------------------------------------

    def overwrite_what_goes(self) -> None:
        """From now on nothing of what is deleted stays in the file's free pages."""
        self._ask("PRAGMA secure_delete = ON")

    def one(self, question: str) -> int:
        """The number that answers a question."""
        return int(self._ask(question).fetchone()[0])

    def _ask(self, text: str, *values: Any) -> sqlite3.Cursor:
        return self.database.connection.execute(text, values)


def _marks(rows: Collection[int]) -> str:
    return ",".join("?" * len(rows))
