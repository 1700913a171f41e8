"""The base's switches: who asks, who becomes one (`promotion.py` chooses), slots, and who has to give it up."""

from __future__ import annotations

from typing import Final

from prime_plc.agenda import Agenda
from prime_plc.beaconing import Beaconing
from prime_plc.control import Bsi, Capabilities, ControlType, Pro
from prime_plc.downlink import Downlink
from prime_plc.pdu import SID_NONE
from prime_plc.promotion import Asked, PromotionDesk
from prime_plc.registry import Node, Registry
from prime_plc.sap import Happened, MacOutput
from prime_plc.settings import MacSettings
from prime_plc.slots import Slot
from prime_plc.tree import Tree
from shared.ids import Eui48, format_eui48

GOOD_HOP_COST: Final = 5
"""For each hop of a way, up and down, one for the hop, and twice what the base hears of the last one: a hop
to the base with DQPSK both ways has 5, with DQPSK_C 9 (ours)."""

FRESH_S: Final = 2.0
"""[s] A caller that we have heard ourselves within this time needs no switch."""

SETTLED_S: Final = 15.0
"""[s] One registered for longer does not call by an old habit: its switch hardly hears it."""

TAUGHT_S: Final = 1.5
"""[s] A node that has moved says at once who is below it; after this the base says it."""

IDLE_LOOK_S: Final = 30.0
"""[s] How often switches without nodes are looked for."""

IDLE_SCARCE_S: Final = 120.0
"""[s] How long one may have none while others wait for its beacon slot."""


class Switches:
    """Part of a base node."""

    def __init__(
        self,
        settings: MacSettings,
        registry: Registry,
        agenda: Agenda,
        downlink: Downlink,
        beaconing: Beaconing,
        tree: Tree,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._agenda = agenda
        self._downlink = downlink
        self._beaconing = beaconing
        self._tree = tree
        self._desk = PromotionDesk(settings)
        self._idle_look_s = 0.0

    @property
    def wake_at(self) -> float:
        """Next deadline [s]."""
        at = self._desk.wake_at
        return self._idle_look_s if at is None else min(at, self._idle_look_s)

    def begin(self, now: float) -> None:
        """The modem is ready."""
        self._idle_look_s = now + IDLE_LOOK_S

    def wake(self, now: float) -> list[MacOutput]:
        """Choices whose time has come; switches that nobody needs, for they cost a beacon slot."""
        outputs: list[MacOutput] = []
        if self._desk.wake_at is not None and now >= self._desk.wake_at:
            outputs += self._choose(now)
        if now >= self._idle_look_s:
            self._idle_look_s = now + IDLE_LOOK_S
            idle_s = IDLE_SCARCE_S if self._tree.slots.full else self._settings.idle_switch_s
            for node in self._registry.switches:
                if node.switching and not node.children and now - node.childless_since_s > idle_s:
                    outputs += self.demote(node, "nobody registers through it", now)
            self._make_room(now)
        return outputs

    def registered(self, eui48: Eui48) -> None:
        """A caller has found its way."""
        self._desk.registered(eui48)

    # ---- control packets in ------------------------------------------------------------------------------------------

    def control(self, node: Node, pro: Pro, now: float) -> list[MacOutput]:
        """The node asks, takes what it was given, or gives up."""
        if pro.negative:
            if node.lsid is None:
                node.pending.pop(ControlType.PRO, None)
            if pro.nsid != node.lsid:  # it has heard that a tree has left it
                return []
            node.pending.pop(ControlType.PRO, None)
            if node.switching:
                answer = Pro(True, 0, node.time, pro.nsid)
                self._downlink.control(node, ControlType.PRO, answer.encode(), now)
            return self._tree.end_switching(node, "by itself", now)
        if pro.request is not None:
            self._asked(node, pro, now)
            return []
        if pro.nsid == node.lsid is not None:
            return self._taken(node, node.lsid, now)
        self._announced(node, pro.nsid, now)
        return []

    def _announced(self, node: Node, lsid: int, now: float) -> None:
        """A node that has moved says who is below it, so that its new way learns it. If that is not so any more, the
        way to that switch has to be taught anew."""
        switch = self._registry.switch(lsid)
        if switch is None:
            return
        if self._registry.hangs_on(lsid, node):
            if switch.switching and _promises(switch, lsid):  # who is to become one has to answer that himself
                del switch.pending[ControlType.PRO]
                self._agenda.schedule(switch)
        elif switch.switching:
            self._promise(switch, lsid, now)

    def slot_taken(self, node: Node, bsi: Bsi, now: float) -> list[MacOutput]:
        """The node has acknowledged a beacon slot. An earlier one is not what waits for its answer. If it is an old
        switch on a new way, whoever is on that way has to learn what is below it."""
        pending = node.pending.get(ControlType.BSI)
        if node.lsid is None or pending is None or pending.payload != bsi.encode():
            return []
        del node.pending[ControlType.BSI]
        if node.switching:
            self._tree.slots.narrow(node.lsid, Slot(bsi.slot, bsi.seq, bsi.frequency))
            self._make_room(now)
            return []
        node.switching = True
        for below in self._registry.switches_below(node):
            if below.switching and below.lsid is not None:
                self._promise(below, below.lsid, now)
        return [Happened("switch", f"{format_eui48(node.eui48)} beacons as {node.lsid}, hop {node.hops}")]

    # ---- switches that come back -------------------------------------------------------------------------------------

    def move(self, node: Node, sid: int, now: float) -> list[MacOutput]:
        """A switch registers elsewhere: it keeps its number, its slot and everybody below (our choice). The old way is
        told that it leads there no more; the new one learns by the promotions that `resume` says again."""
        self._leaves(node, [node, *self._registry.switches_below(node)], now)
        self.suspend(node)
        return self._tree.move(node, sid, now)

    def _leaves(self, node: Node, tree: list[Node], now: float) -> None:
        """The switch that a tree leaves, and all above it, are told that it is not there any more."""
        left = self._registry.switch(node.sid)
        for switch in tree if left is not None else ():
            if left is not None and switch.lsid is not None:
                gone = Pro(True, 0, left.time, switch.lsid)
                self._downlink.control(left, ControlType.PRO, gone.encode(), now)

    def settle(self, node: Node, now: float) -> list[MacOutput]:
        """A node speaks from where it wanted to be. What is said to it and its tree goes there from now on; who is on
        the old way forgets it, and who is on the new one learns it by promotions, unless the node says so itself."""
        tree = [node, *self._registry.switches_below(node)] if node.lsid is not None else []
        self._leaves(node, tree, now)
        outputs = self._tree.settle(node, now)
        for switch in tree:
            if switch.switching and switch.lsid is not None:
                payload = Pro(False, 0, switch.time, switch.lsid).encode()
                self._downlink.expect_after(TAUGHT_S, switch, ControlType.PRO, payload, now)
        return outputs

    def suspend(self, node: Node) -> None:
        """A switch registers again: what it knew may be gone, what is below it need not be."""
        node.switching = False
        node.pending.pop(ControlType.PRO, None)
        node.pending.pop(ControlType.BSI, None)

    def resume(self, node: Node, now: float) -> None:
        """It is back: promote it with its old number."""
        if node.lsid is not None and not node.switching and not node.pending:
            self._promise(node, node.lsid, now)

    def _promise(self, node: Node, lsid: int, now: float) -> None:
        self._downlink.expect(node, ControlType.PRO, Pro(False, 0, node.time, lsid).encode(), now)

    def _taken(self, node: Node, lsid: int, now: float) -> list[MacOutput]:
        """The node has acknowledged its number: give it a slot."""
        if _promises(node, lsid):
            del node.pending[ControlType.PRO]
        if node.switching or ControlType.BSI in node.pending:
            return []
        slot = self._tree.slots.give(lsid, self._settings.beacon_frequency + (node.hops > 1))
        if slot is None:
            return self.demote(node, "no beacon slot left", now)
        change = self._beaconing.lengthen(self._tree.slots.count, now)
        if change is not None:
            self._downlink.everybody(change, now)
        self._allot(node, slot, now)
        self._make_room(now)
        return []

    def _allot(self, node: Node, slot: Slot, now: float) -> None:
        self._downlink.expect(node, ControlType.BSI, Bsi(slot.frequency, slot.number, slot.seq).encode(), now)

    def _make_room(self, now: float) -> None:
        """Where slots are scarce, whoever beacons most often and has the fewest children is asked to beacon half as
        often; one after the other, and the other half is free when he has said so."""
        slots, switches = self._tree.slots, [node for node in self._registry.switches if node.switching]
        if not slots.scarce or any(ControlType.BSI in node.pending for node in switches):
            return
        halves = [(node, half) for node in switches if node.lsid is not None and (half := slots.half(node.lsid))]
        if halves:
            node, half = min(halves, key=lambda one: (one[1].frequency, one[0].children, one[1].number, one[1].seq))
            self._allot(node, half, now)

    def _asked(self, node: Node, pro: Pro, now: float) -> None:
        assert pro.request is not None
        known = self._registry.nodes.get(Eui48(pro.request.pna))
        cost = pro.request.up_cost + pro.request.down_cost + node.hops + 2 * self._downlink.first_hop_cost(node)
        asked = Asked(node.eui48, pro.request.pna, pro.quality, cost, cost > GOOD_HOP_COST * node.hops)
        able = node.lsid is None and Capabilities.SWITCH in node.capabilities
        able &= len(self._registry.switches) < self._settings.switches_max and not self._tree.slots.full
        fresh = known is None or now - known.last_heard_s > FRESH_S or now - known.registered_s > SETTLED_S
        if not (able and fresh and self._desk.ask(asked, now)):
            self._reject(node, now)

    def _reject(self, node: Node, now: float) -> None:
        self._downlink.control(node, ControlType.PRO, Pro(True, 0, node.time, SID_NONE).encode(), now)

    # ---- making and unmaking -----------------------------------------------------------------------------------------

    def _choose(self, now: float) -> list[MacOutput]:
        outputs: list[MacOutput] = []
        for chosen in self._desk.due(now):
            winner = self._registry.nodes.get(chosen.winner)
            if winner is not None and winner.lsid is None:
                outputs += self.promote(winner, now)
            for eui48 in chosen.losers:
                loser = self._registry.nodes.get(eui48)
                if loser is not None and loser.lsid is None:
                    self._reject(loser, now)
        return outputs

    def promote(self, node: Node, now: float) -> list[MacOutput]:
        """Offer a terminal a number."""
        sid = self._registry.promote(node, now)
        if sid is None:
            self._reject(node, now)
            return [Happened("promotion refused", f"{format_eui48(node.eui48)}: no switch number left")]
        self._downlink.expect(node, ControlType.PRO, Pro(False, 0, node.time, sid).encode(), now)
        return [Happened("promoting", f"{format_eui48(node.eui48)} as switch {sid}")]

    def disown(self, node: Node, lsid: int, now: float) -> None:
        """The node says that it is a switch of a number that is not its own: whoever registers there is lost."""
        if ControlType.PRO not in node.pending:
            self._downlink.expect(node, ControlType.PRO, Pro(True, 0, node.time, lsid).encode(), now)

    def demote(self, node: Node, why: str, now: float) -> list[MacOutput]:
        """Make a switch a terminal again."""
        if node.lsid is None:
            return []
        lsid = node.lsid
        outputs = self._tree.end_switching(node, why, now)
        self._downlink.expect(node, ControlType.PRO, Pro(True, 0, node.time, lsid).encode(), now)
        return outputs


def _promises(node: Node, lsid: int) -> bool:
    """Whether a node has yet to answer that this is its number."""
    pending = node.pending.get(ControlType.PRO)
    pro = None if pending is None else Pro.decode(pending.payload)
    return pro is not None and not pro.negative and pro.nsid == lsid
