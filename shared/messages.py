"""What meter and DCU say to each other; `shared.cosem` alone knows the bytes.

Signs and units: active power is import-positive; every ``limit_w`` is an export magnitude >= 0. A quantity the meter
cannot vouch for is absent (None), never zero and never the last one known.

The three rules of a lease live in these fields: a `Grant` answers the ``nonce`` of one report or request, it ends
``lease_s`` after the meter *drew* that nonce, and it comes from one DCU ``epoch`` with a decision number that only
rises.

Two ends may differ by a version: a code that is not known here keeps its number and never makes a message unreadable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, Self

from shared.ids import Epoch, MeterId, Nonce, RequestId

LEASE_S_MAX = 60.0
"""[s] Longest lease anybody may give or accept (reliability rule 1)."""

NONCE_AGE_S_MAX = 60.0
"""[s] A nonce older than this raises nothing (invariant I3)."""

CODE_MAX: Final = 0xFF
"""Largest number of a code on the wire."""

PerPhase = tuple[float | None, float | None, float | None]
"""One value for each of L1, L2, L3; None where the phase is not connected or the value is unknown."""


@dataclass(frozen=True, slots=True)
class DecisionId:
    """Number of one decision of a DCU: ``(epoch, seq)`` rises strictly, without gap, over the life of its ledger."""

    epoch: Epoch
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


class Code(IntEnum):
    """A number with a name. One that only a newer version knows is called `UNKNOWN_<number>`, and means no more than
    the safest of what its place can mean."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int) or not 0 <= value <= CODE_MAX:
            return None
        unknown = int.__new__(cls, value)
        unknown._name_, unknown._value_ = f"UNKNOWN_{value}", value
        return unknown


class Alarm(IntFlag):
    """What the meter wants a person to know; stays set while it lasts."""

    NONE = 0
    EXPORT_NOT_MEASURABLE = 1
    METER_SILENT = 2
    METER_FROZEN = 4
    METER_IMPLAUSIBLE = 8
    WRONG_DEVICE = 16
    RELAY_DISAGREES = 32
    EXPORT_ABOVE_LIMIT = 64
    STORAGE_FAILED = 128
    OUTBOX_FULL = 256

    @property
    def names(self) -> list[str]:
        """Of all that are set; one that only a newer version knows is called by its number."""
        bits = [1 << k for k in range(int(self).bit_length()) if self & (1 << k)]
        names = {int(alarm): str(alarm.name) for alarm in Alarm}
        return [names.get(bit, f"UNKNOWN_{bit}") for bit in bits]


class RelayState(Code):
    """What the read-back contact says, not what was commanded."""

    UNKNOWN = 0
    NOMINAL = 1
    RAISED = 2


class LimitSource(Code):
    """Why the applied limit is what it is."""

    BOOT = 0
    NOMINAL = 1
    GRANT = 2
    LEASE_ENDED = 3
    REVOKED = 4
    RELEASED = 5
    NEW_EPOCH = 6
    LOCAL_FAULT = 7


class Reason(Code):
    """Why a DCU decided as it did; goes over the wire, into the ledger and to the household.

    The voltage, current and unbalance reasons name a constraint of the grid; SHARED is a share given up to others,
    BELOW_MINIMUM an increase too small to be of use, NO_AIRTIME a lease that could not be renewed in time, NOT_LEARNT
    an effect on the grid that no reading has taught yet.
    """

    GRANTED = 0
    OVERVOLTAGE = 1
    UNDERVOLTAGE = 2
    READING_MISSING = 3
    READING_STALE = 4
    READING_INVALID = 5
    SUBSTATION_UNKNOWN = 6
    QUARANTINE = 7
    STORAGE_FAILED = 8
    ABOVE_CONTRACT = 9
    NONCE_USED = 10
    NO_CAPACITY = 11
    UNKNOWN_METER = 12
    LOCAL_ALARM = 13
    TOO_MANY_GRANTS = 14
    OPERATOR = 15
    CURRENT = 16
    UNBALANCE = 17
    NO_POWER_FLOW = 18
    MODEL_UNUSABLE = 19
    READINGS_CONTRADICT = 20
    NO_AIRTIME = 21
    BAD_REQUEST = 22
    TOO_MANY_REQUESTS = 23
    BELOW_MINIMUM = 24
    SHARED = 25
    NOT_LEARNT = 26


@dataclass(frozen=True, slots=True)
class Reading:
    """One measured set at one instant.

    Attributes:
        u_v: phase-to-neutral voltages [V].
        i_a: currents [A], signed like the active power of their phase.
        p_w: active powers [W], import-positive.
        q_var: reactive powers [var].
        frequency_hz: [Hz], None if not measured.
        import_energy_wh: meter register +A [Wh].
        export_energy_wh: meter register -A [Wh].
    """

    u_v: PerPhase
    i_a: PerPhase
    p_w: PerPhase
    q_var: PerPhase
    frequency_hz: float | None
    import_energy_wh: int
    export_energy_wh: int

    @property
    def export_w(self) -> float:
        """Active power towards the grid [W], >= 0, summed over the phases."""
        return max(0.0, -sum(value for value in self.p_w if value is not None))


# ---- meter to DCU ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """Periodic word of a meter.

    Attributes:
        boot_id: drawn at each start of the meter daemon, 32 bit.
        seq: number of the report, rises over restarts, 32 bit.
        nonce: fresh for a live report; None for one that waited in the outbox and may raise nothing.
        epoch: DCU epoch this meter obeys; 0 before the first.
        reading: None when the point is unknown.
        reading_age_s: age of the reading when the report was made [s].
        limit_w: export limit applied now [W].
        source: why that limit.
        relay: what the read-back says.
        lease_left_s: rest of the live grant's lease [s], 0 without one.
        applied: newest decision of this epoch the meter has carried out; the acknowledgement that frees a reservation.
        alarms: what lasts now.
    """

    boot_id: int
    seq: int
    nonce: Nonce | None
    epoch: Epoch
    reading: Reading | None
    reading_age_s: float
    limit_w: float
    source: LimitSource
    relay: RelayState
    lease_left_s: float
    applied: DecisionId | None
    alarms: Alarm


@dataclass(frozen=True, slots=True)
class Request:
    """The household asks for a higher export limit; repeated with the same ``request_id`` and a fresh nonce."""

    request_id: RequestId
    nonce: Nonce
    epoch: Epoch
    limit_w: float
    minimum_limit_w: float


@dataclass(frozen=True, slots=True)
class Release:
    """The household needs the increase no longer; the meter is already back at nominal and has voided its nonces."""

    request_id: RequestId
    epoch: Epoch
    applied: DecisionId | None


# ---- DCU to meter ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to export up to ``limit_w`` until ``lease_s`` after the meter drew ``nonce``; a renewal is another."""

    decision: DecisionId
    request_id: RequestId
    nonce: Nonce
    limit_w: float
    lease_s: float


@dataclass(frozen=True, slots=True)
class Denial:
    """No; with the reason and the point that bound."""

    decision: DecisionId
    request_id: RequestId
    reason: Reason
    binding: MeterId | None
    value: float | None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Less at once; voids every outstanding nonce.

    ``limit_w`` is what is left of the grant until its lease ends; at the nominal limit or below nothing is left, and
    the request ends too.
    """

    decision: DecisionId
    reason: Reason
    binding: MeterId | None
    value: float | None
    limit_w: float = 0.0


@dataclass(frozen=True, slots=True)
class NominalLimit:
    """Greeting of a DCU to a meter that came up: its epoch, and the limit of the contract."""

    decision: DecisionId
    limit_w: float


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The ``count`` reports up to number ``seq`` are safe with the DCU; the outbox may forget them."""

    epoch: Epoch
    seq: int
    count: int = 1


Upward = Report | Request | Release
"""What a meter sends."""

Downward = Grant | Denial | Revoke | NominalLimit | Acknowledgement
"""What a DCU sends."""
