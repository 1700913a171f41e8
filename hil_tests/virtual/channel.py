"""Error rates of the PRIME physical layer in white noise, as tables over the signal-to-noise ratio.

Origin: Monte-Carlo of the whole modulation chain (frequency-differential modulation, non-coherent detection,
soft-decision Viterbi, perfect synchronisation). An entry is the error probability of one payload symbol, defined
through the frame error rate of a 20-symbol payload; it agrees with the vendor's own thresholds for giving a scheme up,
which fall where the bit error rate is about 1e-3. Between entries log10 is interpolated linearly. Real receivers lose
another 1 to 3 dB: `IMPLEMENTATION_LOSS_DB`.
"""

from __future__ import annotations

import bisect
import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from prime_plc.phy import Scheme

IMPLEMENTATION_LOSS_DB: Final = 1.5
"""[dB] Default distance between this table and a real receiver."""

ERROR_MIN: Final = 1e-7
"""Below it a table says nothing."""

CERTAIN: Final = 1 - 1e-12
"""An error that is certain, short of the logarithm of nothing."""

Reals = NDArray[np.float64]

Table = tuple[tuple[float, float], ...]

_SYMBOL: Final[dict[Scheme, Table]] = {
    Scheme.ROBUST_DBPSK: (
        (-3.0, 1), (-2.5, 1.8e-1), (-2.0, 5.5e-2), (-1.5, 1.3e-2), (-1.0, 2.3e-3), (-0.5, 3.4e-4), (0.0, 4.5e-5),
    ),
    Scheme.ROBUST_DQPSK: (
        (-0.5, 1), (0.0, 1.4e-1), (0.5, 4.0e-2), (1.0, 9.9e-3), (1.5, 1.7e-3), (2.0, 2.1e-4), (2.5, 1.5e-5),
    ),
    Scheme.DBPSK_C: (
        (1.0, 1), (1.5, 1.7e-1), (2.0, 6.9e-2), (2.5, 2.4e-2), (3.0, 6.2e-3), (3.5, 1.4e-3), (4.0, 2.7e-4),
        (4.5, 3.4e-5), (5.0, 5e-6),
    ),
    Scheme.DQPSK_C: (
        (4.0, 1), (4.5, 2.0e-1), (5.0, 8.3e-2), (5.5, 2.8e-2), (6.0, 7.1e-3), (6.5, 1.6e-3), (7.0, 3.3e-4),
        (7.5, 5.8e-5), (8.0, 5e-6),
    ),
    Scheme.D8PSK_C: (
        (7.5, 1), (8.0, 2.1e-1), (8.5, 8.8e-2), (9.0, 4.1e-2), (9.5, 1.5e-2), (10.0, 6.2e-3), (10.5, 2.3e-3),
        (11.0, 6.9e-4), (11.5, 2.0e-4), (12.0, 5.8e-5),
    ),
    Scheme.DBPSK: ((6, 1), (7, 2.5e-1), (8, 6.7e-2), (9, 1.5e-2), (10, 1.9e-3), (11, 1.2e-4)),
    Scheme.DQPSK: ((11, 1), (12, 2.2e-1), (13, 6.1e-2), (14, 1.3e-2), (15, 1.7e-3)),
    Scheme.D8PSK: ((17, 1), (18, 1.9e-1), (19, 4.3e-2), (20, 9.6e-3)),
}  # fmt: skip

_HEADER: Final[Table] = (
    (-2, 1), (-1, 0.98), (0, 0.86), (1, 0.39), (2, 0.094), (3, 7.7e-3), (4, 3.1e-4), (5, 1e-5),
)  # fmt: skip
"""Failure of the two-symbol header as a whole."""

_BIT: Final[dict[Scheme, Table]] = {
    Scheme.DBPSK_C: ((2, 1.2e-2), (2.5, 3.4e-3), (3, 7.3e-4), (3.5, 1.3e-4), (4, 2.3e-5)),
    Scheme.DQPSK_C: ((5, 8.0e-3), (5.5, 2.2e-3), (6, 5.0e-4), (6.5, 1.0e-4), (7, 1.7e-5)),
    Scheme.D8PSK_C: ((8.5, 3.8e-3), (9, 1.4e-3), (9.5, 4.4e-4), (10, 1.4e-4), (11, 1.4e-5)),
    Scheme.DBPSK: ((6, 9.1e-3), (8, 8.5e-4), (9, 1.8e-4), (10, 2.3e-5)),
    Scheme.DQPSK: ((11, 3.6e-3), (12, 1.3e-3), (13, 3.4e-4), (14, 6.6e-5)),
    Scheme.D8PSK: ((16, 4.8e-3), (17, 2.0e-3), (18, 6.6e-4), (19, 1.7e-4), (20, 3.4e-5)),
}
"""Bit error rates, for damaging payloads; the robust schemes were not counted and borrow DBPSK_C's at 5 dB more."""


def _interpolate(table: Table, snr_db: float) -> float:
    after = bisect.bisect_right(table, (snr_db, math.inf))
    if after == 0:
        return table[0][1]
    if after == len(table):  # go on with the last slope until it means nothing
        after -= 1
    (x0, p0), (x1, p1) = table[after - 1], table[after]
    slope = (math.log10(p1) - math.log10(p0)) / (x1 - x0)
    return float(min(1.0, max(ERROR_MIN, 10 ** (math.log10(p0) + slope * (snr_db - x0)))))


@lru_cache(maxsize=8192)
def symbol_error_rate(snr_db: float, scheme: Scheme) -> float:
    """Probability that one payload symbol spoils its frame; for robust schemes one symbol is four on air."""
    return _interpolate(_SYMBOL[scheme], snr_db)


@lru_cache(maxsize=8192)
def header_error_rate(snr_db: float) -> float:
    """Probability that the header of a Type A frame is not read, so that the frame is not detected."""
    return _interpolate(_HEADER, snr_db)


@lru_cache(maxsize=8192)
def payload_error_rate(snr_db: float, scheme: Scheme, symbols: int) -> float:
    """Probability that a payload of ``symbols`` symbols on air is damaged."""
    count = symbols / 4 if scheme.robust else symbols
    return 1.0 - (1.0 - min(symbol_error_rate(snr_db, scheme), 1.0)) ** count


@lru_cache(maxsize=16)
def _curve(scheme: Scheme | None) -> tuple[Reals, Reals]:
    """A table as points of log10, its last slope drawn out to where it means nothing; None is the header's."""
    table = _HEADER if scheme is None else _SYMBOL[scheme]
    (x0, p0), (x1, p1) = table[-2:]
    slope = (math.log10(p1) - math.log10(p0)) / (x1 - x0)
    end = (x1 + (math.log10(ERROR_MIN) - math.log10(p1)) / slope, ERROR_MIN)
    points = np.array([*table, end], dtype=np.float64)
    return points[:, 0], np.log10(points[:, 1])


def header_errors(snr_db: Reals) -> Reals:
    """`header_error_rate` of many."""
    return np.asarray(10.0 ** np.interp(snr_db, *_curve(None)))


def symbol_survival(snr_db: Reals, scheme: Scheme) -> Reals:
    """Natural logarithm of the probability that one symbol on air does not spoil its frame, of many."""
    errors = 10.0 ** np.interp(snr_db, *_curve(scheme))
    return np.asarray(np.log1p(-np.minimum(errors, CERTAIN)) / (4 if scheme.robust else 1))


@lru_cache(maxsize=8192)
def bit_error_rate(snr_db: float, scheme: Scheme) -> float:
    """Fraction of wrong bits in a damaged payload."""
    if scheme.robust:
        return _interpolate(_BIT[Scheme.DBPSK_C], snr_db + 5.0)
    return _interpolate(_BIT[scheme], snr_db)
