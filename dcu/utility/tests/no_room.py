"""A medium without room."""

from __future__ import annotations

import sqlite3
from typing import Any


class NoRoom(sqlite3.Connection):
    """A medium that takes nothing while ``full``."""

    full = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.full and sql.startswith("BEGIN"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *parameters)
