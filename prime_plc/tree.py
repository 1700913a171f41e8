"""The base's tree of nodes as it changes: what goes with a node, and with a switch."""

from __future__ import annotations

from prime_plc.agenda import Agenda
from prime_plc.base_links import BaseLinks
from prime_plc.control import ControlType
from prime_plc.groups import Groups
from prime_plc.pdu import SID_BASE
from prime_plc.registry import Node, Registry
from prime_plc.sap import GroupChanged, Happened, MacOutput
from prime_plc.slots import SlotTable
from prime_plc.transmitter import Transmitter
from shared.ids import format_eui48


class Tree:
    """Part of a base node; takes nodes away from all the other parts.

    Attributes:
        slots: beacon slots of its switches.
    """

    def __init__(
        self,
        transmitter: Transmitter,
        registry: Registry,
        agenda: Agenda,
        links: BaseLinks,
        groups: Groups,
        slots: SlotTable,
    ) -> None:
        self._transmitter = transmitter
        self._registry = registry
        self._agenda = agenda
        self._links = links
        self._groups = groups
        self.slots = slots

    def add(self, node: Node) -> None:
        """A node has registered."""
        if node.sid == SID_BASE:
            self._transmitter.links.forget(node.lnid)
        self._registry.add(node)

    def offer(self, node: Node, sid: int) -> None:
        """It may move there."""
        _, lnid = self._registry.offer(node, sid)
        if sid == SID_BASE:
            self._transmitter.links.forget(lnid)

    def settle(self, node: Node, now: float) -> list[MacOutput]:
        """It has moved; its connection goes on."""
        left = node.lnid if node.sid == SID_BASE else None
        self._registry.settle(node, now)
        if left is not None:
            self._transmitter.custody.forget(left)
        node.begun_anew = True
        if node.connection is not None:
            node.connection.moved(node.hops)
        return [Happened("node moved", f"{format_eui48(node.eui48)} to {node.sid}/{node.lnid:#06x}")]

    def move(self, node: Node, sid: int, now: float) -> list[MacOutput]:
        """A switch has found another one to hang on: only its own connection is lost."""
        outputs = self._links.close(node, "registers elsewhere")
        if node.sid == SID_BASE:
            self._transmitter.custody.forget(node.lnid)
        self._registry.move(node, sid, now)
        if sid == SID_BASE:
            self._transmitter.links.forget(node.lnid)
        return [*outputs, Happened("switch moved", f"{format_eui48(node.eui48)} with what is below it, to {sid}")]

    def remove(self, node: Node, reason: str, now: float) -> list[MacOutput]:
        """Forget a node, and everybody who is registered through it."""
        outputs = self._links.close(node, reason)
        if node.lsid is not None:
            self.slots.take_back(node.lsid)
            for below in self._registry.below(node.lsid):
                outputs += self.remove(below, f"its switch {node.lsid} is gone", now)
        self._registry.remove(node, now)
        self._agenda.forget(node.eui48)
        if node.sid == SID_BASE:
            self._transmitter.custody.forget(node.lnid)
        for group in self._groups.gone(node.eui48):
            outputs.append(GroupChanged(node.eui48, False, group.lcid, group.type, group.data))
        return [*outputs, Happened("node removed", f"{format_eui48(node.eui48)}: {reason}")]

    def end_switching(self, node: Node, why: str, now: float) -> list[MacOutput]:
        """The node is a terminal again; who was registered through it is not any more."""
        lsid = node.lsid
        if lsid is None:
            return []
        outputs: list[MacOutput] = []
        self.slots.take_back(lsid)
        for below in self._registry.below(lsid):
            outputs += self.remove(below, f"switch {lsid} ended", now)
        self._registry.demote(node, now)
        node.pending.pop(ControlType.PRO, None)
        node.pending.pop(ControlType.BSI, None)
        return [*outputs, Happened("switch ended", f"{format_eui48(node.eui48)}: {why}")]
