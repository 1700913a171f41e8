"""Rows that cannot be right: counted, the first of them named, and a file with too many refused."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shared.errors import ConfigError, Fault

BAD_SHARE_MAX: Final = 0.01
NAMED_MAX: Final = 20


@dataclass(slots=True)
class BadRows:
    """The bad rows of one file. Row 1 is the first line of a text file and the first row of a Parquet file."""

    path: Path
    rows: int = 0
    count: int = 0
    named: list[Fault] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """Takes what is said when the file is kept all the same."""
    skipped: list[int] = field(default_factory=list)
    """Lines that the parser gave no row for, in their order."""

    def skip(self, line: int) -> None:
        """The parser gives no row for that line."""
        insort(self.skipped, line)

    def line(self, row: int) -> int:
        """Where a row stands in the file that would be number `row` if no line had been skipped."""
        for at in self.skipped:
            if at > row:
                break
            row += 1
        return row

    def add(self, row: int, seen: str, expected: str) -> None:
        """One bad row; 0 where its number is not known."""
        self.count += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(Fault(f"row {row}" if row else "rows", seen, expected))

    def unless(
        self,
        valid: NDArray[np.bool_],
        still: NDArray[np.bool_],
        first: int,
        cells: pa.Array,
        name: str,
        expected: str,
    ) -> NDArray[np.bool_]:
        """Note the rows that are not valid, of those `still` good; returns `valid`."""
        wrong = np.flatnonzero(~valid & still)
        for k in wrong[:NAMED_MAX]:
            self.add(self.line(first + int(k)), f"{name} {str(cells[int(k)].as_py())[:60]!r}", expected)
        self.count += max(len(wrong) - NAMED_MAX, 0)
        return valid

    def judge(self) -> None:
        """Refuse the file if more than 1 % of its rows are bad.

        Raises:
            ConfigError: with the first of them, and how many there are.
        """
        whole = max(self.rows, self.count, 1)
        if self.count > BAD_SHARE_MAX * whole:
            total = Fault("file", f"{self.count} of {whole} rows are bad", f"at most {BAD_SHARE_MAX:.0%}")
            raise ConfigError(str(self.path), [total, *self.named])
        if self.count:
            self.told.append(f"{self.path.name}: {self.count} bad rows left out")
            self.told += [f"{self.path.name}: {fault}" for fault in self.named]
