"""The least airtime that a street's reports need, whatever its stations do: a bound, and no plan.

Every report goes up the cheapest path to the base and its acknowledgement comes down, each hop with the modulation that
delivers most in its airtime (acknowledgements in DBPSK_C), repeated until it has come. Nobody collides, nobody waits
for the channel, everybody knows at once what has come, and there are no beacons, keep-alives or registrations. Bursts
are those that each receiver has for itself: it is deaf for a share of the time, so a frame is lost with a little more
than that share, whatever its modulation.
"""

from __future__ import annotations

import heapq
import math
from typing import Final

import numpy as np

from hil_tests.virtual.bursts import Reach
from hil_tests.virtual.channel import Reals, header_errors, symbol_survival
from hil_tests.virtual.line import LineSettings
from hil_tests.virtual.topology import Topology
from prime_plc.phy import PhyMode, Scheme, frame_duration_s, payload_symbols
from prime_plc.settings import LADDER

AROUND_REPORT_BYTES: Final = 23
"""Around a report on air: three bytes of the firmware, header, packet header, ARQ, SAR, LPDU and checksum."""

ACKNOWLEDGEMENT_BYTES: Final = 19
TAKEN_MIN: Final = 1e-6
"""Chance of a hop that does not exist."""


def report_airtime_s(topology: Topology, line: LineSettings, report_bytes: int) -> Reals:
    """Least airtime [s] on the whole way of one report of each station and its acknowledgement; the base is first."""
    noise_dbuv = line.noise_dbuv + topology.noise_db
    snr_db = line.level_dbuv - topology.path_db - topology.colour_db - noise_dbuv[None, :]
    up = _hop_s(snr_db, report_bytes + AROUND_REPORT_BYTES, LADDER, line)
    down = _hop_s(snr_db, ACKNOWLEDGEMENT_BYTES, (Scheme.DBPSK_C,), line)
    return _paths(up + down.T)


def least_airtime(topology: Topology, line: LineSettings, report_bytes: int, interval_s: float) -> float:
    """Share of the time that the reports of all stations take at least."""
    return float(report_airtime_s(topology, line, report_bytes).sum() / interval_s)


def _hop_s(snr_db: Reals, length: int, schemes: tuple[Scheme, ...], line: LineSettings) -> Reals:
    """Airtime until a frame has come over each hop [s]; rows send."""
    margin_db = snr_db - line.implementation_loss_db
    best = np.full(snr_db.shape, np.inf)
    for scheme in schemes:
        airtime_s = frame_duration_s(length, scheme)
        lost = payload_symbols(length, scheme, PhyMode.TYPE_A) * symbol_survival(margin_db, scheme)
        taken = (1 - header_errors(margin_db)) * np.exp(lost) * _not_deaf(airtime_s, line)
        best = np.minimum(best, airtime_s / np.maximum(taken, TAKEN_MIN))
    return np.asarray(best)


def _not_deaf(airtime_s: float, line: LineSettings) -> float:
    """Chance that a receiver's bursts leave a frame alone."""
    if not line.burst_rate_hz or line.burst_reach is not Reach.RECEIVER:
        return 1.0
    quiet = 1 / (1 + line.burst_rate_hz * line.burst_s)
    return quiet * math.exp(-line.burst_rate_hz * airtime_s)


def _paths(hop_s: Reals) -> Reals:
    """Cheapest sum of hops from each station to the first one."""
    total = np.full(len(hop_s), np.inf)
    total[0] = 0.0
    heap = [(0.0, 0)]
    while heap:
        so_far, at = heapq.heappop(heap)
        if so_far > total[at]:
            continue
        through = so_far + hop_s[:, at]
        for station in np.flatnonzero(through < total).tolist():
            total[station] = through[station]
            heapq.heappush(heap, (float(through[station]), station))
    return total
