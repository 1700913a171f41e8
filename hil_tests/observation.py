"""What was seen from outside while a scenario played: physics, relays, the wire, ledgers and what the daemons say.

Nothing here comes from inside a daemon under test: currents and voltages are the feeder's own, relays are read at the
contact, messages are decoded from the frames on the line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.messages import Downward, Upward


@dataclass(frozen=True, slots=True)
class Sample:
    """The feeder at one instant.

    Attributes:
        t_s: scenario time [s].
        busbar_v: voltage of the substation's busbar [V].
        u_v: voltage at each customer [V].
        export_a: export current of each customer [A].
        raised: each customer's relay contact (true: energised).
    """

    t_s: float
    busbar_v: float
    u_v: tuple[float, ...]
    export_a: tuple[float, ...]
    raised: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class WireFrame:
    """One frame on the line.

    Attributes:
        start_s, end_s: emission [s] on the scenario's clock.
        sender: station that emitted it.
        client: the meter it comes from or goes to, empty for beacons and broadcasts.
        kind: beacon, a control packet's name, a message's name, acknowledgement, or unreadable.
        delivered: whether anybody received it undamaged.
        message: what it carries for meter or DCU, if it is one whole message.
    """

    start_s: float
    end_s: float
    sender: str
    client: str
    kind: str
    delivered: bool
    message: Upward | Downward | None

    @property
    def airtime_s(self) -> float:
        """How long it occupied the line [s]."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class RelayMove:
    """A relay contact moved."""

    t_s: float
    client: str
    raised: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Something the bench itself did or saw: an action played, a process started or gone."""

    t_s: float
    what: str
    detail: str


@dataclass(slots=True)
class Observation:
    """Everything seen during one scenario.

    Attributes:
        ledger: entries of the DCU's ledger in order, as read from disk after the end.
        ledger_faults: what its verification found; empty means it verifies.
        status: last answer of each meter's local door.
        rss_kib: resident memory of each daemon at its start [KiB]; empty in virtual time.
    """

    samples: list[Sample] = field(default_factory=list)
    frames: list[WireFrame] = field(default_factory=list)
    relay_moves: list[RelayMove] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    ledger_faults: list[str] = field(default_factory=list)
    status: dict[str, dict[str, Any]] = field(default_factory=dict)
    rss_kib: dict[str, int] = field(default_factory=dict)
