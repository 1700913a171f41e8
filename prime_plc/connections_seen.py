"""What a capture itself says of its connections: whether packets carry an ARQ sub-header, and what their SDUs are.

Data packets do not say it. CON packets do, for one node and LCID; packets for all or for a group never have ARQ. A
connection whose opening is not in the capture is taken for the usual one, which is marked as assumed, or for unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from prime_plc.control import Con, ConnectionType, Mul, Reg
from prime_plc.llc import LCID_FIRST
from prime_plc.pdu import LNID_BROADCAST, LNID_MULTICAST, Packet
from prime_plc.role import BROADCAST_LCID_4_32, BROADCAST_LCID_IPV4

RESERVED: Final[dict[int, int]] = {
    BROADCAST_LCID_IPV4: ConnectionType.IPV4,
    BROADCAST_LCID_4_32: ConnectionType.LLC_4_32,
}
"""LCIDs that mean a broadcast, and what it carries."""

Place = tuple[int, int]
"""SID and LNID of a node."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a data packet is to be read.

    Attributes:
        arq: None where nothing says it.
        type: of the connection (`ConnectionType`, 250 for tests).
        assumed: what of both is only the usual.
        newer: of PRIME 1.4.
    """

    arq: bool | None
    type: int = ConnectionType.LLC_4_32
    assumed: tuple[str, ...] = ()
    newer: bool = False


@dataclass(slots=True)
class _Opened:
    """Whoever has said ARQ or not, by direction; it is used if nobody has said no."""

    type: int
    arq: dict[bool, bool] = field(default_factory=dict)


class ConnectionsSeen:
    """Told of the control packets of a capture in their order, it knows how to read the data between them."""

    def __init__(self) -> None:
        self._opened: dict[Place, dict[int, _Opened]] = {}  # by LCID
        self._groups: dict[int, int] = {}
        self._nodes: dict[Place, bytes] = {}
        self._places: dict[bytes, Place] = {}

    def note(self, packet: Packet, control: object, *, downlink: bool) -> None:
        """A control packet came by."""
        place = (packet.sid, packet.lnid)
        if isinstance(control, Con) and not control.negative:
            self._open(place, control, downlink=downlink)
        elif isinstance(control, Mul) and not control.negative and downlink:
            self._groups[control.lcid] = control.type
        elif isinstance(control, Reg) and not control.negative and downlink and packet.lnid != LNID_BROADCAST:
            self._register(place, control)

    def _open(self, place: Place, con: Con, *, downlink: bool) -> None:
        opener = downlink == (con.lcid < LCID_FIRST)
        there = self._opened.setdefault(place, {})
        opened = there.get(con.lcid)
        if opened is None or (opener and opened.arq.get(downlink) is not con.arq):
            opened = there[con.lcid] = _Opened(con.type)
        opened.type = con.type
        opened.arq[downlink] = con.arq

    def _register(self, place: Place, reg: Reg) -> None:
        """A node has a place. With the R bit its connections go on there; a number that was another node's means
        others now."""
        owner = self._nodes.get(place, reg.eui48)
        if owner != reg.eui48:
            self._opened.pop(place, None)
            if self._places.get(owner) == place:
                del self._places[owner]
        before = self._places.get(reg.eui48, place)
        if reg.roaming and before != place and before in self._opened:
            self._opened[place] = self._opened.get(place, {}) | self._opened[before]
        self._nodes[place] = reg.eui48
        self._places[reg.eui48] = place

    def reading(self, packet: Packet) -> Reading:
        """How a data packet is to be read."""
        opened = self._opened.get((packet.sid, packet.lnid), {}).get(packet.lcid)
        if opened is not None:
            return Reading(all(opened.arq.values()), opened.type)
        if packet.lnid == LNID_MULTICAST and packet.lcid in self._groups:
            return Reading(arq=False, type=self._groups[packet.lcid])
        if packet.lnid != LNID_MULTICAST and packet.lcid in RESERVED:
            return Reading(arq=False, type=RESERVED[packet.lcid])
        if packet.lnid >= LNID_MULTICAST:
            return Reading(arq=False, assumed=("4-32",))
        if packet.lcid >= LCID_FIRST:
            return Reading(arq=True, assumed=("ARQ", "4-32"))
        return Reading(arq=None)
