"""What only memory knows of the outbox: decisions that the ledger has as well, and rows that the broker has taken.

Nothing here is lost with the process: a decision is told again from the ledger, whose entries from the outbox's cursor
on are looked at in every start, and a row that still waits on the disk leaves once more under its name. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ITEMS_MAX: Final = 512
"""So many decisions, and so many rows, may be in memory only; beyond it they are written."""
BYTES_MAX: Final = 1 << 20
"""[byte] Of the decisions' bodies."""


@dataclass(slots=True)
class Told:
    """A decision on its way; ``session`` is 0 while it waits, then the one in which the broker acknowledged it.
    ``place`` is its log and position in the ledger."""

    name: str
    body: bytes
    place: tuple[int, int]
    session: int = 0


@dataclass(slots=True)
class Recent:
    """Both of them.

    Attributes:
        told: decisions by the row that they will have, in order.
        settled: rows of the file that the broker has acknowledged, by class.
    """

    told: dict[int, Told] = field(default_factory=dict)
    settled: dict[int, set[int]] = field(default_factory=dict)
    _bytes: int = 0
    _rows: int = 0

    def __bool__(self) -> bool:
        return bool(self.told or self._rows)

    @property
    def full(self) -> bool:
        """Whether it is time to write decisions."""
        return len(self.told) >= ITEMS_MAX or self._bytes >= BYTES_MAX

    @property
    def settled_full(self) -> bool:
        """The same for rows."""
        return self._rows >= ITEMS_MAX

    def add(self, row: int, told: Told) -> None:
        """One more decision."""
        self.told[row] = told
        self._bytes += len(told.body)

    def settle(self, kind: int, rows: tuple[int, ...], session: int) -> int:
        """The broker has acknowledged these rows, in memory or in the file; how many it had not before."""
        new = 0
        for row in rows:
            if (told := self.told.get(row)) is not None:
                new += not told.session
                told.session = session
            elif row not in (of_kind := self.settled.setdefault(kind, set())):
                of_kind.add(row)
                self._rows += 1
                new += 1
        return new

    def waiting(self) -> Mapping[int, Told]:
        """Decisions that no broker has acknowledged, in order."""
        return {row: told for row, told in self.told.items() if not told.session}

    def unsettle(self) -> None:
        """What was acknowledged waits again."""
        self.cut_settled()
        for told in self.told.values():
            told.session = 0

    def cut_told(self, below: tuple[int, int]) -> int:
        """Let the decisions go that the broker has and nobody will look up in the ledger again; how many they were."""
        gone = [row for row, told in self.told.items() if told.session and told.place < below]
        for row in gone:
            self._bytes -= len(self.told.pop(row).body)
        return len(gone)

    def cut_settled(self) -> None:
        """The file has none of these rows any more."""
        self.settled.clear()
        self._rows = 0

    def clear(self) -> None:
        """All of it is on the disk."""
        self.told.clear()
        self.settled.clear()
        self._bytes = self._rows = 0
