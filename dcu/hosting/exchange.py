"""What goes into the hosting engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from dcu.hosting.orders import Ordered
from shared.ids import MeterId
from shared.messages import Downward, Reading, Release, Report, Request, Revoke

# ---- inputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReportArrived:
    """A meter reports."""

    meter: MeterId
    report: Report


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A meter asks."""

    meter: MeterId
    request: Request


@dataclass(frozen=True, slots=True)
class ReleaseArrived:
    """A meter gives back."""

    meter: MeterId
    release: Release


@dataclass(frozen=True, slots=True)
class SubstationRead:
    """The balancing meter was read (None: it gave no valid reading)."""

    reading: Reading | None


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A meter's connection opened or closed."""

    meter: MeterId
    up: bool


@dataclass(frozen=True, slots=True)
class StorageFailed:
    """The ledger cannot be written; nothing is granted any more until a restart."""

    reason: str


Input = ReportArrived | RequestArrived | ReleaseArrived | SubstationRead | LinkChanged | StorageFailed | Ordered


# ---- outputs ---------------------------------------------------------------------------------------------------------


class Wait(Enum):
    """How long the message after a record waits for the disk."""

    DURABLE = "until it is durable"
    BRIEFLY = "a quarter of a second at most"


@dataclass(frozen=True, slots=True)
class Record:
    """Write an entry to the ledger."""

    entry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendDown:
    """Send a message to a meter, after the record before it."""

    meter: MeterId
    message: Downward
    wait: Wait = Wait.DURABLE


@dataclass(frozen=True, slots=True)
class SendAll:
    """Say to every meter of the street at once what revokes before it say to some of them; waits for the disk as they
    do."""

    message: Revoke


@dataclass(frozen=True, slots=True)
class Event:
    """A transition worth a line in the log."""

    what: str
    fields: dict[str, object]


Output = Record | SendDown | SendAll | Event
