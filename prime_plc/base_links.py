"""The base's ends of its nodes' 4-32 connections: opening, closing, and the data on them."""

from __future__ import annotations

from typing import Final

from prime_plc.agenda import Agenda
from prime_plc.connection import Connection
from prime_plc.control import Con, ConnectionType, ControlType
from prime_plc.downlink import Downlink
from prime_plc.llc import LCID_FIRST, deliver
from prime_plc.lpdu import ADDRESS_BASE, ADDRESS_BROADCAST, ADDRESS_FIRST, IDENTIFIER_BYTES_MAX, AddressPair, Lpdu
from prime_plc.pdu import Packet
from prime_plc.registry import Node, Registry
from prime_plc.sap import DataConfirmed, DataResult, LinkDown, LinkUp, MacOutput, SendData
from prime_plc.settings import MacSettings
from prime_plc.transmitter import Transmitter

ADDRESSES_MAX: Final = ADDRESS_BROADCAST - ADDRESS_FIRST
"""4-32 addresses between the base's own and everybody's."""


class BaseLinks:
    """Part of a base node; an identifier keeps its 4-32 address until all are given and it is not connected."""

    def __init__(
        self, settings: MacSettings, transmitter: Transmitter, registry: Registry, agenda: Agenda, downlink: Downlink
    ) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._registry = registry
        self._agenda = agenda
        self._downlink = downlink
        self._addresses: dict[bytes, int] = {}

    def control(self, node: Node, con: Con, now: float) -> list[MacOutput]:
        """The node opens its connection or closes it.

        Refused is what is not a 4-32 connection to the base itself, with ARQ: without it a lost segment loses an SDU.
        """
        if con.negative:
            if node.connection is None or (con.lcid, con.type) != (node.lcid, ConnectionType.LLC_4_32):
                return []
            self._refuse(node, con.lcid, con.type, now)
            return self.close(node, "closed by the node")
        known = bool(con.data) and len(con.data) <= IDENTIFIER_BYTES_MAX
        elsewhere = con.direct is not None or con.eui48 is not None
        if con.type != ConnectionType.LLC_4_32 or elsewhere or not con.arq or not known or con.lcid < LCID_FIRST:
            self._refuse(node, con.lcid, con.type, now)
            return []
        if node.connection is not None and node.lcid == con.lcid and not node.begun_anew:
            # Our acceptance was lost, or this is a late copy: a node that begins anew registers first, and one that
            # only opens another connection gives it another number.
            self._downlink.control(node, ControlType.CON, node.accept, now)
            return []
        outputs = self.close(node, "opened anew")
        address = self._address(con.data)
        if address is None:
            self._refuse(node, con.lcid, con.type, now)
            return outputs
        node.address, node.lcid, node.serial = address, con.lcid, con.data
        pair = AddressPair(node.address, ADDRESS_BASE)
        node.accept = Con(False, True, con.lcid, ConnectionType.LLC_4_32, pair.encode()).encode()
        node.connection = Connection(self._settings, node.hops)
        node.begun_anew = False
        self._downlink.control(node, ControlType.CON, node.accept, now)
        return [*outputs, LinkUp(node.eui48, con.data, node.address)]

    def _address(self, identifier: bytes) -> int | None:
        """The same as last time, a new one, or one whose owner is not connected; None if there is none."""
        known = self._addresses.pop(identifier, None)  # put back as the youngest
        if known is None and len(self._addresses) < ADDRESSES_MAX:
            known = ADDRESS_FIRST + len(self._addresses)
        if known is None:
            used = {node.address for node in self._registry.nodes.values() if node.connection is not None}
            oldest = next((name for name, number in self._addresses.items() if number not in used), None)
            if oldest is None:
                return None
            known = self._addresses.pop(oldest)
        self._addresses[identifier] = known
        return known

    def close(self, node: Node, reason: str) -> list[MacOutput]:
        """Forget the node's connection, if it has one."""
        if node.connection is None:
            return []
        lost = [DataConfirmed(token, node.eui48, DataResult.LOST) for token in node.connection.pending_tokens]
        node.connection = None
        self._agenda.silent(node.eui48)
        return [*lost, LinkDown(node.eui48, reason)]

    def data(self, node: Node, packet: Packet, now: float) -> list[MacOutput]:
        """A data packet came in.

        Raises:
            DecodeError: it is none.
        """
        if node.connection is None or packet.lcid != node.lcid:
            self._refuse(node, packet.lcid, ConnectionType.LLC_4_32, now)
            return []
        sdus, tokens = node.connection.receive(packet.payload, now)
        outputs: list[MacOutput] = [DataConfirmed(token, node.eui48, DataResult.ACKNOWLEDGED) for token in tokens]
        if node.connection.sendable:
            self._agenda.wants_to_send(node)
        return outputs + deliver(sdus, node.eui48)

    def send(self, item: SendData) -> list[MacOutput]:
        """Queue one LPDU."""
        node = None if item.peer is None else self._registry.nodes.get(item.peer)
        if node is None or node.connection is None:
            return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
        if not node.connection.send(Lpdu(item.dsap, item.ssap, item.data).encode(), item.token):
            return [DataConfirmed(item.token, item.peer, DataResult.QUEUE_FULL)]
        self._agenda.wants_to_send(node)
        return []

    def feed(self, now: float) -> list[MacOutput]:
        """Hand data to the channel as long as it has room, the nodes in turn."""
        outputs: list[MacOutput] = []
        while self._transmitter.room:
            node = self._agenda.next_sender()
            if node is None:
                break
            if node.connection is not None:
                outputs += self._feed_from(node, node.connection, now)
                self._agenda.schedule(node)
        return outputs

    def _feed_from(self, node: Node, connection: Connection, now: float) -> list[MacOutput]:
        payloads = connection.packets(now, self._settings.data_ahead)
        for payload in payloads:
            self._downlink.data(node, payload, now, asks=connection.asks and payload is payloads[-1])
        if connection.failed:
            self._refuse(node, node.lcid, ConnectionType.LLC_4_32, now)
            return self.close(node, "no acknowledgement")
        if connection.sendable:
            self._agenda.wants_to_send(node)
        return []

    def _refuse(self, node: Node, lcid: int, type_: int, now: float) -> None:
        """Say that there is no such connection (any more)."""
        self._downlink.control(node, ControlType.CON, Con(True, False, lcid, type_).encode(), now)
