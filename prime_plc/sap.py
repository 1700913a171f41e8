"""The door of this room: what goes into and comes out of a stack.

A stack (`prime_plc.stack.BaseStack` or `ServiceStack`) is one machine: modem driver, MAC and 4-32 convergence
together. Its owner pumps bytes between it and the serial port and otherwise sees only connections and data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from prime_plc.modem_messages import HostMessage, ModemMessage
from shared.ids import Eui48

# ---- inputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortOpened:
    """The serial port is open; the modem must be set up from the beginning."""


@dataclass(frozen=True, slots=True)
class PortClosed:
    """The serial port is gone (unplugged, refused)."""

    reason: str


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Bytes came from the serial port, cut anywhere."""

    data: bytes


class MessageReceived(NamedTuple):
    """A message of the modem came as a value (`Port.MESSAGES`)."""

    message: ModemMessage


@dataclass(frozen=True, slots=True)
class SendData:
    """Send one LPDU on the 4-32 connection of a peer.

    Attributes:
        peer: EUI-48 of the node (at a base) or of the base (at a node; None means "the base").
        dsap, ssap: link service access points.
        data: one xDLMS APDU, at most `LPDU_DATA_BYTES_MAX` bytes.
        token: comes back in `DataConfirmed`.
        priority: MAC priority, 0 highest to 3.
    """

    peer: Eui48 | None
    dsap: int
    ssap: int
    data: bytes
    token: int = 0
    priority: int = 2


@dataclass(frozen=True, slots=True)
class SendBroadcast:
    """Send one LPDU to every node (base only), or to a multicast group; nobody acknowledges it.

    Attributes:
        group: connection number of a group (`GroupChanged`), None for everybody.
    """

    dsap: int
    ssap: int
    data: bytes
    group: int | None = None


class Action(Enum):
    """What a base can be told to do with a node."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    UNREGISTER = "unregister"
    PING = "ping"


@dataclass(frozen=True, slots=True)
class Manage:
    """Base only: make a node a switch, make it a terminal again, send it away, or ask it for a sign of life."""

    action: Action
    eui48: Eui48


class Wish(Enum):
    """What a service node can be told to do with itself."""

    LEAVE = "unregister and stay away"
    RETURN = "search the network again"
    STOP_SWITCHING = "give up being a switch"


@dataclass(frozen=True, slots=True)
class Want:
    """Service node only."""

    wish: Wish


@dataclass(frozen=True, slots=True)
class ChangeGroup:
    """Service node only: join or leave a multicast group, named by its type and data."""

    join: bool
    type: int
    data: bytes


MacInput = SendData | SendBroadcast | Manage | Want | ChangeGroup
"""What the owner of a stack asks of its MAC."""

Input = PortOpened | PortClosed | BytesReceived | MessageReceived | MacInput

# ---- outputs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendBytes:
    """Write these bytes to the serial port."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Hand this message to the modem as a value (`Port.MESSAGES`)."""

    message: HostMessage


@dataclass(frozen=True, slots=True)
class ReopenPort:
    """The modem does not answer; close the port and open it again."""

    reason: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The 4-32 connection is open.

    Attributes:
        peer: EUI-48 of the other end.
        serial: identifier the node gave when it opened the connection.
        address: 12-bit 4-32 address of the node.
    """

    peer: Eui48
    serial: bytes
    address: int


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The 4-32 connection is gone."""

    peer: Eui48
    reason: str


@dataclass(frozen=True, slots=True)
class DataReceived:
    """One LPDU came in, whole and once.

    Attributes:
        broadcast: it was for everybody, or for a group; such data may be lost unnoticed.
    """

    peer: Eui48
    dsap: int
    ssap: int
    data: bytes
    broadcast: bool = False


class DataResult(Enum):
    """What became of a `SendData`."""

    ACKNOWLEDGED = "acknowledged"
    NOT_CONNECTED = "not connected"
    TOO_LONG = "too long"
    QUEUE_FULL = "queue full"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class DataConfirmed:
    """A `SendData` has ended, well or not."""

    token: int
    peer: Eui48 | None
    result: DataResult


@dataclass(frozen=True, slots=True)
class Happened:
    """A transition worth one line in the log: registered, switch lost, modem reset."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """A node has joined or left a multicast group; seen at the base, and at the node itself.

    Attributes:
        lcid: connection number of the group, for `SendBroadcast`.
    """

    peer: Eui48
    joined: bool
    lcid: int
    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Pinged:
    """A node has answered a ping (base only).

    Attributes:
        round_trip_s: from the question in the base's queue to the answer, over all hops [s]; None if no such node is
            registered, and nothing was sent.
    """

    peer: Eui48
    round_trip_s: float | None


class Direction(Enum):
    """Which way a frame crossed the line, seen from this node."""

    SENT = "sent"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True)
class FrameSeen:
    """A frame crossed the line; for traces and airtime accounts.

    Attributes:
        pdu: MAC PDU bytes as on air (without the three bytes of stock firmware).
        scheme: modulation code (`prime_plc.phy.Scheme`).
        start_s: start of emission on this host's monotonic clock [s].
        duration_s: airtime [s].
        snr_db: None for frames of our own.
    """

    direction: Direction
    pdu: bytes
    scheme: int
    start_s: float
    duration_s: float
    snr_db: float | None


MacOutput = LinkUp | LinkDown | DataReceived | DataConfirmed | GroupChanged | Pinged | Happened
"""What a MAC tells the owner of its stack."""

Output = SendBytes | SendMessage | ReopenPort | MacOutput | FrameSeen

LPDU_DATA_BYTES_MAX = 1021
"""Longest data of one 4-32 LPDU (fact: 1024-byte SDU less three bytes of header)."""
