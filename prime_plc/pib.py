"""The MAC's management information base: attributes by their numbers, as bytes most significant first.

Numbers and widths are confirmed in several vendors' sources; a default that is recalled is marked in `settings.py`.
Lists come as rows joined one after the other, in the layout of the vendor's management protocol; a field that we do not
know (transmit power) is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from prime_plc.base_node import BaseNode
from prime_plc.control import ConnectionType
from prime_plc.enrolment import CAPABILITIES
from prime_plc.links import PARENT, Link, quality_index
from prime_plc.pdu import SID_NONE
from prime_plc.service_node import ServiceNode, State
from prime_plc.settings import FRAME_SYMBOLS, MacSettings

Node = BaseNode | ServiceNode

GUARD_SYMBOLS: Final = 3
"""Guard time between portions of the frame (recalled)."""


class MacState(IntEnum):
    """Attribute 0x0024."""

    DISCONNECTED = 0
    TERMINAL = 1
    SWITCH = 2
    BASE = 3


_STATES: Final = {State.TERMINAL: MacState.TERMINAL, State.SWITCH: MacState.SWITCH}


def read_attribute(node: Node, number: int) -> bytes | None:
    """The value of an attribute; None if there is no such attribute here."""
    setting = _SETTINGS.get(number)
    if setting is not None:
        return setting(node.settings).to_bytes(1, "big")
    entry = _VALUES.get(number)
    if entry is not None:
        width, value = entry
        found = value(node)
        return None if found is None else found.to_bytes(width, "big")
    if number == SNA:
        return node.sna if node.sna else bytes(6)
    rows = _LISTS.get(number)
    return None if rows is None else b"".join(rows(node))


SNA: Final = 0x0023

_SETTINGS: Final[dict[int, Callable[[MacSettings], int]]] = {
    0x0010: lambda settings: round(settings.search_s),
    0x0011: lambda settings: settings.promotions_max,
    0x0012: lambda settings: round(settings.promotion_period_s),
    0x0013: lambda settings: settings.beacon_slots_max,
    0x0014: lambda settings: settings.transmit_attempts_max,
    0x0015: lambda settings: round(settings.control_repeat_s),
    0x0018: lambda settings: settings.control_repeats_max,
    0x0019: lambda settings: settings.ema_smoothing,
}
"""Read-write attributes, one byte each; here they are set by configuration only."""


def _of_service(value: Callable[[ServiceNode], int], at_base: int | None) -> Callable[[Node], int | None]:
    return lambda node: value(node) if isinstance(node, ServiceNode) else at_base


def _state(node: Node) -> int:
    return MacState.BASE if isinstance(node, BaseNode) else _STATES.get(node.state, MacState.DISCONNECTED)


def _contention_symbols(node: Node) -> int:
    clock = node.transmitter.clock
    slots = round(clock.count * clock.slot_s / 2240e-6)
    return (clock.cfp or FRAME_SYMBOLS) - slots


def _own_slot(node: Node) -> int:
    if isinstance(node, BaseNode) or node.switching.slot is None:
        return 0
    return node.switching.slot.slot


def _own_frequency(node: Node) -> int:
    if isinstance(node, BaseNode) or node.switching.slot is None:
        return 0
    return node.switching.slot.frequency


_VALUES: Final[dict[int, tuple[int, Callable[[Node], int | None]]]] = {
    0x0020: (2, _of_service(lambda node: node.lnid, 0)),
    0x0021: (1, _of_service(lambda node: SID_NONE if node.switching.lsid is None else node.switching.lsid, 0)),
    0x0022: (1, _of_service(lambda node: node.sid, 0)),
    0x0024: (1, _state),
    0x0025: (2, _contention_symbols),
    0x0026: (1, _of_service(lambda node: node.level + 1, 0)),
    0x0027: (1, lambda node: node.transmitter.clock.count),
    0x0028: (1, _of_service(lambda node: 0 if node.parent is None else node.parent.position, 0)),
    0x0029: (1, _own_slot),
    0x002A: (1, _of_service(lambda node: 0 if node.parent is None else node.parent.frequency, 0)),
    0x002B: (1, _own_frequency),
    0x002C: (2, lambda _node: int(CAPABILITIES)),
    0x002D: (2, lambda _node: FRAME_SYMBOLS),
    0x002E: (2, lambda node: FRAME_SYMBOLS - node.transmitter.clock.cfp if node.transmitter.clock.cfp else 0),
    0x002F: (2, lambda _node: GUARD_SYMBOLS),
    0x0040: (4, lambda node: node.sent["data"]),
    0x0041: (4, lambda node: node.received["data"]),
    0x0042: (4, lambda node: node.sent["control"]),
    0x0043: (4, lambda node: node.received["control"]),
    0x0044: (4, lambda node: node.transmitter.channel.failures),
    0x0045: (4, lambda node: node.transmitter.channel.busy),
    0x00A1: (4, lambda node: node.undecodable),
    0x00A2: (4, lambda node: node.transmitter.channel.dropped),
}
"""Width and value of each functional attribute and counter. 0x002C carries the bits of REG (seven, v1.3.6)."""


def _words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in numbers)


def _registered(node: Node) -> list[bytes]:
    """0x0050: EUI, state, level, terminal and switch capabilities, LNID, LSID, SID."""
    if not isinstance(node, BaseNode):
        return []
    return [
        one.eui48
        + bytes((MacState.TERMINAL if one.lsid is None else MacState.SWITCH, one.hops, int(one.capabilities), 0))
        + b"".join(
            number.to_bytes(2, "big") for number in (one.lnid, SID_NONE if one.lsid is None else one.lsid, one.sid)
        )
        for one in node.nodes.values()
    ]


def _connections(node: Node) -> list[bytes]:
    """0x0058: EUI, SID, LNID, LCID, type."""
    if isinstance(node, BaseNode):
        rows = [(one.eui48, one.sid, one.lnid, one.lcid) for one in node.nodes.values() if one.connection is not None]
    else:
        rows = [] if node.llc.connection is None else [(node.eui48, node.sid, node.lnid, node.llc.lcid)]
    kind = bytes((ConnectionType.LLC_4_32,))
    return [
        eui48 + b"".join(one.to_bytes(2, "big") for one in (sid, lnid, lcid)) + kind for eui48, sid, lnid, lcid in rows
    ]


def _short_connections(node: Node) -> list[bytes]:
    """0x0051: EUI, SID, LNID, and the low byte of the LCID."""
    return [row[:10] + row[11:12] for row in _connections(node)]


def _groups(node: Node) -> list[bytes]:
    """0x0052: members of a group, and the low byte of its LCID."""
    if isinstance(node, BaseNode):
        return [bytes((min(len(one.members), 255), one.lcid & 0xFF)) for one in node.groups.items()]
    return [bytes((0, lcid & 0xFF)) for lcid in node.switching.table.groups]


def _switch_table(node: Node) -> list[bytes]:
    """0x0053: switch numbers below."""
    if isinstance(node, BaseNode):
        numbers = [one.lsid for one in node.registry.switches if one.lsid is not None]
    else:
        numbers = list(node.switching.table.entries)
    return [number.to_bytes(2, "big") for number in sorted(numbers)]


def _available(node: Node) -> list[bytes]:
    """0x0056: switches heard: SNA, SID, level, received level (unknown), SNR index."""
    if isinstance(node, BaseNode):
        return []
    return [
        one.beacon.sna + one.beacon.sid.to_bytes(2, "big") + bytes((one.beacon.level, 0, quality_index(one.snr_db)))
        for one in node.beacons.items()
    ]


def _communication(node: Node) -> list[bytes]:
    """0x0057: for each neighbour EUI, power, transmit and receive coding, received level, SNR index, and again."""
    rows = []
    for key, link in node.transmitter.links.items():
        eui48 = _eui_of(node, key)
        if eui48 is not None:
            rows.append(eui48 + _link_row(node, key, link))
    return rows


def _eui_of(node: Node, key: int) -> bytes | None:
    if isinstance(node, ServiceNode):
        return node.sna if key == PARENT and node.sid == 0 else None
    child = node.registry.at(0, key)
    return None if child is None else child.eui48


def _link_row(node: Node, key: int, link: Link) -> bytes:
    coding = node.transmitter.links.scheme(key)
    return bytes((0, coding, 0, 0, quality_index(link.snr_db), 0, coding, 0))


_LISTS: Final[dict[int, Callable[[Node], list[bytes]]]] = {
    0x0050: _registered,
    0x0051: _short_connections,
    0x0052: _groups,
    0x0053: _switch_table,
    0x0056: _available,
    0x0057: _communication,
    0x0058: _connections,
}

ATTRIBUTES: Final = tuple(sorted({*_SETTINGS, *_VALUES, SNA, *_LISTS}))
"""Numbers of all attributes that can be read."""
