"""A service node's groups, and the broadcasts and group messages that it takes, each once."""

from __future__ import annotations

from typing import Final

from prime_plc.control import Mul
from prime_plc.pdu import LNID_MULTICAST, Packet
from prime_plc.role import BROADCAST_LCID_4_32, BROADCAST_LCID_IPV4
from prime_plc.sap import ChangeGroup, GroupChanged
from prime_plc.settings import MacSettings
from prime_plc.subheader import SarHeader, SarType
from shared.ids import Eui48

LCID_GROUP_UNKNOWN: Final = 0
"""In a request to join a group, whose number the base gives (not established)."""

BROADCAST_LCIDS: Final = frozenset((BROADCAST_LCID_IPV4, BROADCAST_LCID_4_32))
ECHO_S: Final = 5.0
"""[s] The same broadcast within this time is a repetition."""


class Memberships:
    """Part of a service node."""

    def __init__(self, settings: MacSettings) -> None:
        self._settings = settings
        self._groups: dict[int, tuple[int, bytes]] = {}
        self._echoes: dict[bytes, float] = {}

    def clear(self) -> None:
        """The registration is gone, and with it all memberships."""
        self._groups.clear()
        self._echoes.clear()

    def request(self, change: ChangeGroup) -> Mul:
        """What to ask of the base."""
        name = (change.type, change.data)
        lcid = next((lcid for lcid, known in self._groups.items() if known == name), LCID_GROUP_UNKNOWN)
        return Mul(not change.join, lcid, change.type, change.data if change.join else b"")

    def requests(self) -> list[Mul]:
        """To be taken into the same groups again: whoever passes that on learns that a member is here."""
        return [Mul(False, lcid, type_, data) for lcid, (type_, data) in self._groups.items()]

    def answered(self, mul: Mul, base: Eui48) -> GroupChanged | None:
        """The base has taken us into a group, or out of one."""
        if not mul.negative and self._groups.get(mul.lcid) == (mul.type, mul.data):
            return None
        if not mul.negative and len(self._groups) < self._settings.groups_max:
            self._groups[mul.lcid] = (mul.type, mul.data)
            return GroupChanged(base, True, mul.lcid, mul.type, mul.data)
        name = self._groups.pop(mul.lcid, None)
        return None if name is None else GroupChanged(base, False, mul.lcid, *name)

    def takes(self, packet: Packet, now: float) -> bool:
        """Whether a packet for many is for us too, and not a repetition."""
        many = self._groups if packet.lnid == LNID_MULTICAST else BROADCAST_LCIDS
        if packet.lcid not in many or now < self._echoes.get(packet.payload, 0.0):
            return False
        self._echoes = {body: until for body, until in self._echoes.items() if until > now}
        self._echoes[packet.payload] = now + ECHO_S
        return True


def broadcast_sdus(payload: bytes) -> list[bytes]:
    """The SDU of a packet for many: it comes in one piece or not at all.

    Raises:
        DecodeError: there is no SAR header.
    """
    return [payload[1:]] if SarHeader.decode(payload[:1]) == SarHeader(SarType.FIRST, 0) else []
