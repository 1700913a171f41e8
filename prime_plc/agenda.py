"""Which nodes the base has to look at, and when: deadlines in one heap, and a queue of those with data to send.

Only nodes that are due or have something to say are looked at, so that a hundred cost no more at each frame than two.
"""

from __future__ import annotations

from collections import deque

from prime_plc.registry import Node, Registry
from prime_plc.timers import Deadlines
from shared.ids import Eui48


class Agenda:
    """Part of a base node."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._deadlines: Deadlines[Eui48] = Deadlines()
        self._queue: deque[Node] = deque()
        self._queued: set[Eui48] = set()

    @property
    def next_at(self) -> float | None:
        """Next deadline [s]."""
        return self._deadlines.next_at

    def due(self, now: float) -> list[Eui48]:
        """Nodes whose time has come."""
        return self._deadlines.due(now)

    def clear(self) -> None:
        """Forget everything."""
        self._deadlines.clear()
        self._queue.clear()
        self._queued.clear()

    def forget(self, eui48: Eui48) -> None:
        """The node is gone."""
        self._deadlines.set(eui48, None)
        self._queued.discard(eui48)

    def schedule(self, node: Node) -> None:
        """Note when time demands something of the node; one whose data waits for the channel is looked at anyway."""
        due_at = node.due_at
        if node.eui48 in self._queued:
            due_at = min(node.alive_by, node.alive_at, *(pending.at for pending in node.pending.values()))
        self._deadlines.set(node.eui48, due_at)

    def wants_to_send(self, node: Node) -> None:
        """The node's connection may have something to send."""
        if node.connection is not None and node.eui48 not in self._queued:
            self._queued.add(node.eui48)
            self._queue.append(node)
        self.schedule(node)

    def silent(self, eui48: Eui48) -> None:
        """The node's connection is gone."""
        self._queued.discard(eui48)

    def next_sender(self) -> Node | None:
        """The next node in turn; None if there is none."""
        while self._queue:
            node = self._queue.popleft()
            if node.eui48 in self._queued and self._registry.nodes.get(node.eui48) is node:
                self._queued.discard(node.eui48)
                return node
        return None
