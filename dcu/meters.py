"""The street's meters as the DCU knows them: who hangs where, what each said last, and how old that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from shared.ids import BusId, Epoch, Eui48, MeterId, Phase
from shared.messages import Alarm, DecisionId, LimitSource, Reading, RelayState, Report

SEEN_MAX: Final = 256
"""Numbers of reports remembered for each meter to recognise duplicates."""


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """One customer of the configuration; ``balanced`` where all that exports is declared to do so evenly on its
    phases."""

    id: MeterId
    eui48: Eui48
    bus: BusId
    phases: tuple[Phase, ...]
    nominal_limit_w: float
    contract_limit_w: float
    balanced: bool = False


class Acceptance(Enum):
    """What a report is."""

    LIVE = "live"
    BACKLOG = "backlog"
    DUPLICATE = "duplicate"


@dataclass(slots=True)
class MeterState:
    """What one meter said last.

    Attributes:
        reading: newest live reading, None if the meter itself does not know.
        reading_at_s: when it was taken, on our clock [s]; None before the first report.
        epoch: DCU epoch the meter obeys.
    """

    entry: MeterEntry
    linked: bool = False
    boot_id: int | None = None
    seq: int = -1
    reading: Reading | None = None
    reading_at_s: float | None = None
    reported_at_s: float | None = None
    epoch: Epoch = Epoch(0)
    limit_w: float = 0.0
    source: LimitSource = LimitSource.BOOT
    relay: RelayState = RelayState.UNKNOWN
    lease_left_s: float = 0.0
    applied: DecisionId | None = None
    alarms: Alarm = Alarm.NONE
    seen: dict[int, None] = field(default_factory=dict)


class MeterTable:
    """All configured meters; a meter that is not in the configuration does not exist."""

    def __init__(self, entries: tuple[MeterEntry, ...]) -> None:
        self._states = {entry.id: MeterState(entry) for entry in entries}
        self._by_eui = {entry.eui48: entry.id for entry in entries}

    def states(self) -> tuple[MeterState, ...]:
        """Every meter in the order of the configuration."""
        return tuple(self._states.values())

    def __getitem__(self, meter: MeterId) -> MeterState:
        return self._states[meter]

    def of(self, eui48: Eui48) -> MeterId | None:
        """The meter with this address, or None."""
        return self._by_eui.get(eui48)

    def set_nominal(self, meter: MeterId, nominal_limit_w: float) -> MeterEntry:
        """A customer with another nominal limit [W], at most the contract's."""
        state = self._states[meter]
        assert 0 <= nominal_limit_w <= state.entry.contract_limit_w, (meter, nominal_limit_w)
        state.entry = replace(state.entry, nominal_limit_w=nominal_limit_w)
        return state.entry

    def accept(self, meter: MeterId, report: Report, now: float) -> Acceptance:
        """Take a report; one without a nonce waited in an outbox and never becomes the newest."""
        state = self._states[meter]
        if state.boot_id is not None and report.boot_id != state.boot_id and report.nonce is not None:
            state.seen.clear()
        if report.seq in state.seen and (report.nonce is None or report.boot_id == state.boot_id):
            return Acceptance.DUPLICATE
        state.seen[report.seq] = None
        while len(state.seen) > SEEN_MAX:
            del state.seen[next(iter(state.seen))]
        if report.nonce is None or (report.boot_id == state.boot_id and report.seq < state.seq):
            return Acceptance.BACKLOG
        state.boot_id, state.seq = report.boot_id, report.seq
        possible = 0 <= report.reading_age_s < math.inf  # else nobody can tell when it was taken: there is none
        state.reading = report.reading if possible else None
        state.reading_at_s = now - report.reading_age_s if possible else now
        state.reported_at_s = now
        state.epoch, state.applied = report.epoch, report.applied
        state.limit_w, state.source, state.relay = report.limit_w, report.source, report.relay
        state.lease_left_s, state.alarms = report.lease_left_s, report.alarms
        return Acceptance.LIVE
