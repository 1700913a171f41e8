"""The outbox's file: its tables, its cap, and how an item lies in it."""

from __future__ import annotations

import zlib
from typing import Final

from dcu.store.database import Durability, FileKind

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
