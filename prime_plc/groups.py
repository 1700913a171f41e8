"""The base's multicast groups: a number for each name, and who is in it (layout and process recalled)."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.ids import Eui48

LCID_FIRST = 3
"""1 and 2 are the reserved broadcasts; the base's own numbers go to 255."""


@dataclass(slots=True)
class Group:
    """One group and its members."""

    lcid: int
    type: int
    data: bytes
    members: set[Eui48] = field(default_factory=set)


class Groups:
    """All groups of a subnetwork."""

    def __init__(self, groups_max: int) -> None:
        self._groups_max = groups_max
        self._groups: dict[int, Group] = {}

    def items(self) -> list[Group]:
        """Every group."""
        return list(self._groups.values())

    def get(self, lcid: int) -> Group | None:
        """The group of this number."""
        return self._groups.get(lcid)

    def join(self, type_: int, data: bytes, member: Eui48) -> Group | None:
        """Put a node into the group of this name; None if there are too many groups."""
        group = next((one for one in self._groups.values() if (one.type, one.data) == (type_, data)), None)
        if group is None:
            if len(self._groups) >= self._groups_max:
                return None
            lcid = next(number for number in range(LCID_FIRST, 256) if number not in self._groups)
            group = self._groups[lcid] = Group(lcid, type_, data)
        group.members.add(member)
        return group

    def leave(self, lcid: int, member: Eui48) -> Group | None:
        """Take a node out; None if it was in no such group. An empty group's number is free again."""
        group = self._groups.get(lcid)
        if group is None or member not in group.members:
            return None
        group.members.discard(member)
        if not group.members:
            del self._groups[lcid]
        return group

    def gone(self, member: Eui48) -> list[Group]:
        """The node is not registered any more."""
        return [group for lcid in list(self._groups) if (group := self.leave(lcid, member)) is not None]
