"""Who is below a switch, and through which child; learned from what passes by (the rule is recalled).

Below a switch are its own children, addressed by its LSID, and switches further down with the numbers that the base
gave them. A number is learned when the base promotes a node below us, and forgotten when it is demoted or has been
silent for long. Multicast groups are learned from joins that pass by.
"""

from __future__ import annotations

import math
from typing import Final

from prime_plc.control import Mul, Pro
from prime_plc.pdu import Packet

ENTRIES_MAX: Final = 254
MEMBERS_MAX: Final = 2048
"""Memberships in groups that are remembered; more are not relayed to."""


JUST_TAUGHT_S: Final = 60.0
"""[s] A demotion so soon after a promotion was sent before it and has taken longer (ours)."""


class SwitchTable:
    """Switch numbers below one switch, each with the LNID of the child it is reached through."""

    def __init__(self, entry_s: float) -> None:
        self._entry_s = entry_s
        self._via: dict[int, int] = {}
        self._heard: dict[int, float] = {}
        self._taught: dict[int, float] = {}
        self._children: dict[int, int] = {}  # numbers of our own children, as far as the base has said them
        self._groups: dict[int, set[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self._via)

    @property
    def entries(self) -> dict[int, int]:
        """LNID of the child by switch number."""
        return self._via

    @property
    def groups(self) -> list[int]:
        """Connection numbers of the multicast groups below."""
        return sorted(self._groups)

    def clear(self) -> None:
        """Nothing is below."""
        self._via.clear()
        self._heard.clear()
        self._taught.clear()
        self._children.clear()
        self._groups.clear()

    def child_of(self, sid: int, lnid: int, lsid: int) -> int | None:
        """LNID of the child through which a node is reached; None if it is not below."""
        return lnid if sid == lsid else self._via.get(sid)

    def heard(self, sid: int, now: float) -> None:
        """A packet from or for a number below passed."""
        self._heard[sid] = now

    def promotion(self, packet: Packet, pro: Pro, lsid: int, now: float, *, downlink: bool) -> None:
        """A promotion or demotion of somebody below passes by."""
        child = self.child_of(packet.sid, packet.lnid, lsid)
        if child is None or pro.nsid in {0, 0xFF, lsid}:
            return
        if pro.negative and not downlink:
            return  # only the base says who is where; who gives up by itself is answered
        if pro.negative:
            ends = self._children.get(pro.nsid) == child
            if self.gone(pro.nsid, now) and ends:  # a child stops switching: whoever was behind it is gone too
                for sid in [sid for sid, via in self._via.items() if via == child]:
                    self.remove(sid)
        elif downlink or pro.request is None:
            self._expire(now)
            if len(self._via) < ENTRIES_MAX:
                self._via[pro.nsid] = child
                self._heard[pro.nsid] = self._taught[pro.nsid] = now
                if downlink and packet.sid == lsid:
                    self._children[pro.nsid] = child

    def gone(self, sid: int, now: float) -> bool:
        """Somebody says that the number is no switch below us any more; whether that is believed."""
        if now - self._taught.get(sid, -math.inf) < JUST_TAUGHT_S:
            return False
        self.remove(sid)
        return True

    def remove(self, sid: int) -> None:
        """The number is no switch below us any more."""
        self._via.pop(sid, None)
        self._heard.pop(sid, None)
        self._taught.pop(sid, None)
        self._children.pop(sid, None)

    def membership(self, packet: Packet, mul: Mul) -> None:
        """The base's answer to a join or leave passes by."""
        member = (packet.sid, packet.lnid)
        if not mul.negative:
            if sum(map(len, self._groups.values())) < MEMBERS_MAX:
                self._groups.setdefault(mul.lcid, set()).add(member)
        elif mul.lcid in self._groups:
            self._groups[mul.lcid].discard(member)
            if not self._groups[mul.lcid]:
                del self._groups[mul.lcid]

    def _expire(self, now: float) -> None:
        for sid in [sid for sid, heard_s in self._heard.items() if now - heard_s > self._entry_s]:
            self.remove(sid)
