"""Meter readings out of a CSV file: every bad row with its reason, whole sets only, nothing filled in.

Columns, in any order, separated by commas, decimals with a point:

    time_utc_s   Unix time of the reading [s]
    meter        the network file's `meter` of the connection point, else the connection point's id; `substation` for
                 the busbar's meter
    phase        L1, L2, L3 (L1L2 between phases)
    u_v          voltage [V], mean or instant
    p_w, q_var   power drawn [W, var], import positive; may be empty for `substation`

Readings within one step belong to one set; a set counts where no port and no phase of the busbar is missing in it.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, Fault

Reals = NDArray[np.float64]

SUBSTATION: Final = "substation"
COLUMNS: Final = ("time_utc_s", "meter", "phase", "u_v", "p_w", "q_var")
FILE_BYTES_MAX: Final = 4 << 30
ROWS_MAX: Final = 20_000_000
CELL_CHARACTERS_MAX: Final = 200
NUMBERS_MAX: Final = 30_000_000
"""Of voltages and powers held at once: 240 MB."""
BAD_SHARE_MAX: Final = 0.01
BAD_REPORTED_MAX: Final = 200
TIME_UTC_S: Final = (1e9, 4.1e9)
"""2001 to 2099: a clock that was never set says 1970."""
U_PU: Final = (0.5, 1.5)
POWER_W_MAX: Final = 1e6
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")

Place = tuple[str, str]
"""Meter and phase."""


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """Whole sets: start of the step [s] (n_set), voltages [V] and draws [W, var] (n_set, n_port), voltages of the
    busbar [V] (n_set, n_phase); rows read, faults of the bad ones (the first of them) and how many there were, sets
    left out because something was missing in them."""

    time_utc_s: Reals
    u_v: Reals
    p_w: Reals
    q_var: Reals
    busbar_v: Reals
    rows: int
    faults: tuple[Fault, ...]
    bad_rows: int
    incomplete_sets: int


def read_readings(
    path: Path, ports: Mapping[Place, int], nominal_v: Reals, busbar: Mapping[str, int], step_s: float
) -> Readings:
    """The readings of a file.

    Args:
        path: the file.
        ports: number of the port that each meter measures in each phase.
        nominal_v: [V] (n_port).
        busbar: number of each phase that the busbar's meter measures.
        step_s: length of a set [s].

    Raises:
        ConfigError: unreadable, wrong columns, too large, or more than one row of a hundred is bad.
    """
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ConfigError(str(path), [Fault("file", f"{path.stat().st_size} bytes", f"at most {FILE_BYTES_MAX}")])
    sink = _Sets(ports, nominal_v, busbar, step_s)
    rows, bad, faults = 0, 0, list[Fault]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, reason in sink.take(_lines(csv.reader(file), path)):
                rows += 1
                if rows > ROWS_MAX:
                    raise ConfigError(str(path), [Fault(f"row {line}", "one row more", f"at most {ROWS_MAX}")])
                if reason is not None:
                    bad += 1
                    if len(faults) < BAD_REPORTED_MAX:
                        faults.append(Fault(f"row {line}", *reason))
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Fault(f"byte {error.start}", "no UTF-8", "text in UTF-8")]) from error
    except csv.Error as error:
        raise ConfigError(str(path), [Fault("file", str(error), "comma-separated values")]) from error
    if bad > BAD_SHARE_MAX * rows:
        total = Fault("file", f"{bad} bad rows of {rows}", f"at most {BAD_SHARE_MAX:.0%} of them")
        raise ConfigError(str(path), [total, *faults])
    return sink.whole(rows, tuple(faults), bad)


def _lines(rows: Iterator[list[str]], path: Path) -> Iterator[tuple[int, dict[str, str] | int]]:
    """Number and cells of each row, or how many cells it has where it has the wrong number of them."""
    head = next(rows, [])
    if sorted(head) != sorted(COLUMNS):
        seen = ", ".join(head)[:CELL_CHARACTERS_MAX] or "nothing"
        raise ConfigError(str(path), [Fault("row 1", seen, ", ".join(COLUMNS) + ", separated by commas, each once")])
    for line, cells in enumerate(rows, 2):
        yield line, dict(zip(head, cells, strict=True)) if len(cells) == len(head) else len(cells)


class _Sets:
    """Sets under construction: one array a set, NaN where nothing was read yet."""

    def __init__(self, ports: Mapping[Place, int], nominal_v: Reals, busbar: Mapping[str, int], step_s: float) -> None:
        self._ports, self._nominal, self._busbar, self._step_s = ports, nominal_v, busbar, step_s
        self._n = len(nominal_v)
        self._meters = {meter for meter, _ in ports}
        self._sets: dict[int, Reals] = {}

    def take(self, lines: Iterator[tuple[int, dict[str, str] | int]]) -> Iterator[tuple[int, tuple[str, str] | None]]:
        """Every row's number, with what was seen and expected if it is bad."""
        for line, cells in lines:
            if isinstance(cells, int):
                yield line, (f"{cells} cells", f"{len(COLUMNS)}; decimals have a point")
            else:
                yield line, self._take(cells)

    def _take(self, cells: dict[str, str]) -> tuple[str, str] | None:
        """Put one reading into its set, or say what is wrong with it."""
        meter, phase = cells["meter"], cells["phase"]
        at_busbar = meter == SUBSTATION
        place = self._busbar.get(phase) if at_busbar else self._ports.get((meter, phase))
        if place is None:
            if at_busbar or meter in self._meters:
                return f"phase {phase[:20]!r} of {meter!r}", "a phase at which this feeder has it"
            return f"meter {meter[:40]!r}", "a meter or connection point of this feeder"
        values = []
        for name in ("time_utc_s", "u_v", "p_w", "q_var"):
            text = cells[name].strip()
            if at_busbar and not text and name in ("p_w", "q_var"):
                values.append(0.0)
                continue
            value = float(text) if len(text) <= CELL_CHARACTERS_MAX and _NUMBER.fullmatch(text) else math.nan
            if not math.isfinite(value):
                return f"{name} {text[:40]!r}", "a number, with a decimal point and no unit"
            values.append(value)
        time_s, u, p, q = values
        nominal = float(self._nominal[0] if at_busbar else self._nominal[place])
        for name, value, low, high in (
            ("time_utc_s", time_s, *TIME_UTC_S),
            ("u_v", u, U_PU[0] * nominal, U_PU[1] * nominal),
            ("p_w", p, -POWER_W_MAX, POWER_W_MAX),
            ("q_var", q, -POWER_W_MAX, POWER_W_MAX),
        ):
            if not low <= value <= high:
                return f"{name} {value:g}", f"{low:g} .. {high:g}"
        return self._put(int(time_s // self._step_s), 3 * self._n + place if at_busbar else place, (u, p, q))

    def _put(self, key: int, at: int, values: tuple[float, float, float]) -> tuple[str, str] | None:
        row = self._sets.get(key)
        if row is None:
            width = 3 * self._n + len(self._busbar)
            if (len(self._sets) + 1) * width > NUMBERS_MAX:
                return "one set more", f"at most {NUMBERS_MAX // width} sets with this number of meters"
            row = self._sets[key] = np.full(width, np.nan)
        if not math.isnan(row[at]):
            return "a second reading of this meter and phase", f"one in {self._step_s:g} s"
        if at >= 3 * self._n:
            row[at] = values[0]
        else:
            row[at], row[self._n + at], row[2 * self._n + at] = values
        return None

    def whole(self, rows: int, faults: tuple[Fault, ...], bad: int) -> Readings:
        """The complete sets in order of time."""
        n = self._n
        keys = [key for key in sorted(self._sets) if np.isfinite(self._sets[key]).all()]
        table = np.array([self._sets[key] for key in keys]).reshape(len(keys), 3 * n + len(self._busbar))
        u, p, q, busbar = table[:, :n], table[:, n : 2 * n], table[:, 2 * n : 3 * n], table[:, 3 * n :]
        time_s: Reals = np.array(keys, dtype=np.float64) * self._step_s
        return Readings(time_s, u, p, q, busbar, rows, faults, bad, len(self._sets) - len(keys))
