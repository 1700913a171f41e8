"""What a switch has seen acknowledged of the connections below it, to say so again in the base's place (ours).

An acknowledgement that is lost below would make the node repeat over all hops what the base has. The switch answers
such a repetition itself, but only for packets that it has passed on, recognised by number and content, and whose
acknowledgement it saw come by then. Numbers alone do not do: they are six bits, and an acknowledgement kept from before
a tree hung elsewhere for half an hour seems to cover what comes after, for ever, as nothing of it reaches the base.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import Final

from prime_plc.custody import acknowledges, covers
from prime_plc.pdu import Packet
from prime_plc.subheader import ArqHeader
from shared.errors import DecodeError

CONNECTIONS_MAX: Final = 256
"""Connections below that are remembered; the one that was silent longest goes first."""


@dataclass(slots=True)
class _Passed:
    """One connection: checksums of packets passed on by number, before and after their acknowledgement, and that."""

    open: dict[int, int] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)
    answer: Packet | None = None


class Acknowledged:
    """Connections below one switch, by address and connection number."""

    __slots__ = ("_connections",)

    def __init__(self) -> None:
        self._connections: dict[tuple[int, int, int], _Passed] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def clear(self) -> None:
        """Forget everything."""
        self._connections.clear()

    def forget(self, sid: int, lnid: int) -> None:
        """A registration or a connection of this node begins or ends, so numbers start again."""
        for key in [key for key in self._connections if key[:2] == (sid, lnid)]:
            del self._connections[key]

    def passed_on(self, packet: Packet) -> None:
        """A data packet of somebody below goes up through us."""
        named = _named(packet)
        if named is None:
            return
        number, checksum = named
        passed = self._connection(packet)
        passed.done.pop(number, None)
        passed.open[number] = checksum

    def came_by(self, answer: Packet) -> bool:
        """A data packet for somebody below comes down through us; whether it acknowledges something that it did not
        before. An acknowledgement whose newest packet we have not passed on, or saw acknowledged, is old."""
        passed = self._connections.get((answer.sid, answer.lnid, answer.lcid))
        if passed is None:
            return False
        try:
            header, _ = ArqHeader.decode(answer.payload)
        except DecodeError:
            return False
        ack = header.ack
        if ack is None or (ack - 1) % 64 not in passed.open:
            return False
        alone = ArqHeader(header.packet_id, False, header.window, (), ack)  # what it carried besides is not said again
        passed.answer = replace(answer, payload=alone.encode())
        for number in [number for number in passed.open if covers(ack, number)]:
            passed.done[number] = passed.open.pop(number)
        return True

    def answer_to(self, packet: Packet) -> Packet | None:
        """The acknowledgement to say again, if a packet that comes from below has been acknowledged before."""
        passed = self._connections.get((packet.sid, packet.lnid, packet.lcid))
        if passed is None or passed.answer is None:
            return None
        named = _named(packet)
        if named is None or passed.done.get(named[0]) != named[1] or not acknowledges(passed.answer, packet):
            return None
        return passed.answer

    def _connection(self, packet: Packet) -> _Passed:
        key = (packet.sid, packet.lnid, packet.lcid)
        passed = self._connections.pop(key, None) or _Passed()
        self._connections[key] = passed  # the latest last
        if len(self._connections) > CONNECTIONS_MAX:
            del self._connections[next(iter(self._connections))]
        return passed


def _named(packet: Packet) -> tuple[int, int] | None:
    """Number and checksum of a packet that carries something; a repetition differs in what it acknowledges."""
    try:
        header, used = ArqHeader.decode(packet.payload)
    except DecodeError:
        return None
    body = packet.payload[used:]
    return (header.packet_id, zlib.crc32(body)) if body else None
