"""Deleting a customer: his readings, what was made of them, and events that name him."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dcu.store.database import Database, FileKind, StoreError, set_aside_there
from dcu.store.schema import EVENTS, TELEMETRY

TABLES: Final = ("readings", "means", "quarters", "weeks")


def forget(directory: Path, dcu: str, meter: str) -> int:
    """Delete everything of a meter from both files, overwritten on the medium as far as that obeys; how many rows.

    The ledger forgets by itself (`headroom-ledger forget`); files that were exported are wherever they were taken to.

    Raises:
        StoreError: the DCU runs, or there is no store; or, once all that can be deleted is, a bad file lies there.
    """
    if not EVENTS.path(directory).exists():
        raise StoreError(f"{directory}: no store there")
    gone = 0
    for kind in (EVENTS, TELEMETRY):
        database = Database(directory, kind, dcu)
        try:
            gone += _forget(database, kind, meter)
        finally:
            database.close()
    if bad := set_aside_there(directory):
        names = ", ".join(str(path) for path in bad)
        raise StoreError(f"deleted, but not in what was set aside as bad, which may name him: remove {names}")
    return gone


def _forget(database: Database, kind: FileKind, meter: str) -> int:
    database.connection.execute("PRAGMA secure_delete = ON")
    with database.transaction() as connection:
        if kind is EVENTS:
            named = (meter, f"%{_quoted(meter)}%")
            return connection.execute("DELETE FROM events WHERE meter = ? OR body LIKE ? ESCAPE '\\'", named).rowcount
        found = connection.execute("SELECT number FROM meters WHERE name = ?", (meter,)).fetchone()
        gone = 0
        for table in TABLES if found else ():
            gone += connection.execute(f"DELETE FROM {table} WHERE meter = ?", found).rowcount  # noqa: S608  # our names
        connection.execute("DELETE FROM meters WHERE name = ?", (meter,))
        return gone


def _quoted(meter: str) -> str:
    """As a whole JSON text within an event."""
    for special in ("\\", "%", "_"):
        meter = meter.replace(special, "\\" + special)
    return f'"{meter}"'
