"""PDUs and control packets of PRIME 1.4 as far as one source establishes them; decoded and encoded, not spoken.

They come in Type B frames, which the modem and its driver carry like any other, so the frame type tells the version.
A subnetwork runs one version: base and service node count such frames and leave them alone. Established are beacon,
packet header, REG without keys, PRO and the round-trip form of ALV; the CRC-8 of the promotion-needed PDU is taken to
be that of 1.3.6. Not established, and refused: security profiles 1 and 2, the other form of ALV. Nor is the header of
a generic PDU: it is read as that of 1.3.6, and only where both checksums, which the subnetwork address seeds, say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prime_plc.control import ControlType
from prime_plc.crc import crc8, crc32, sna_seeds
from prime_plc.pdu import CRC32_BYTES, GENERIC_HEADER_BYTES, HT_BEACON, HT_GENERIC, HT_PROMOTION
from shared.errors import DecodeError

BEACON_BYTES: Final = 18
PROMOTION_BYTES: Final = 14
PACKET_HEADER_BYTES: Final = 7
FRAME_SYMBOLS: Final = (276, 552, 828, 1104)
"""Length of a frame by FRA_LEN (recalled; the largest is confirmed)."""

CRC_TAIL: Final = bytes((0, 1, 4, 0))
"""Runs into a beacon's CRC-32 behind its bytes, and is not sent."""


def _pack(*fields: tuple[int, int]) -> bytes:
    """Bit fields as (value, width), most significant first."""
    value = bits = 0
    for field, width in fields:
        assert 0 <= field < 1 << width, (field, width)
        value = value << width | field
        bits += width
    return value.to_bytes(bits // 8, "big")


def _unpack(data: bytes, *widths: int) -> list[int]:
    value, left = int.from_bytes(data, "big"), 8 * len(data)
    fields = []
    for width in widths:
        left -= width
        fields.append(value >> left & (1 << width) - 1)
    return fields


def _need(data: bytes, length: int, what: str) -> None:
    if len(data) != length:
        raise DecodeError(f"{what}: seen {len(data)} bytes, expected {length}")


def _zero(value: int, what: str) -> None:
    if value:
        raise DecodeError(f"{what}: seen reserved bits {value:#x}, expected zeros")


@dataclass(frozen=True, slots=True)
class Beacon14:
    """Beacon of a base or switch.

    Attributes:
        quality: 0 to 15.
        cfp: start of the contention-free period [symbols].
        csma: bit of the channel access rules.
        position: of this beacon, seven bits.
        frame_length: code, see `FRAME_SYMBOLS`.
        phy_compatible, mac_compatible: the subnetwork takes nodes of 1.3.6.
        cost: of the path to the base.
    """

    quality: int
    sid: int
    level: int
    cfp: int
    csma: bool
    position: int
    frame_length: int
    phy_compatible: bool
    mac_compatible: bool
    seq: int
    frequency: int
    sna: bytes
    cost: int

    def encode(self) -> bytes:
        head = _pack(
            (HT_BEACON, 4), (self.quality, 4), (self.sid, 8), (self.level, 6), (self.cfp, 10), (self.csma, 1),
            (self.position, 7), (self.frame_length, 2), (self.phy_compatible, 1), (self.mac_compatible, 1), (0, 4),
            (self.seq, 5), (self.frequency, 3),
        )  # fmt: skip
        body = head + self.sna + bytes((self.cost,))
        return body + crc32(body + CRC_TAIL).to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes) -> Beacon14:
        """Raises DecodeError if it is none."""
        _need(data, BEACON_BYTES, "1.4 beacon")
        seen, expected = int.from_bytes(data[14:], "big"), crc32(data[:14] + CRC_TAIL)
        if seen != expected:
            raise DecodeError(f"1.4 beacon CRC-32: seen {seen:#x}, expected {expected:#x}")
        kind, quality, sid, level, cfp, csma, position, length, phy, mac, reserved, seq, frequency = _unpack(
            data[:7], 4, 4, 8, 6, 10, 1, 7, 2, 1, 1, 4, 5, 3
        )
        if kind != HT_BEACON:
            raise DecodeError(f"1.4 beacon: seen header type {kind}, expected {HT_BEACON}")
        _zero(reserved, "1.4 beacon")
        sna = bytes(data[7:13])
        return cls(
            quality, sid, level, cfp, bool(csma), position, length, bool(phy), bool(mac), seq, frequency, sna, data[13]
        )


@dataclass(frozen=True, slots=True)
class PromotionNeeded14:
    """A node that needs a switch; its version, and whether it can robust modes and compatibility."""

    version: int
    robust: bool
    compatible: bool
    sna: bytes
    pna: bytes

    def encode(self) -> bytes:
        head = _pack((HT_PROMOTION, 4), (self.version, 2), (self.robust, 1), (self.compatible, 1))
        body = head + self.sna + self.pna
        return body + bytes((crc8(body),))

    @classmethod
    def decode(cls, data: bytes) -> PromotionNeeded14:
        """Raises DecodeError if it is none."""
        _need(data, PROMOTION_BYTES, "1.4 promotion needed")
        if data[13] != crc8(data[:13]):
            raise DecodeError(f"1.4 promotion needed CRC-8: seen {data[13]:#x}, expected {crc8(data[:13]):#x}")
        kind, version, robust, compatible = _unpack(data[:1], 4, 2, 1, 1)
        if kind != HT_PROMOTION:
            raise DecodeError(f"1.4 promotion needed: seen header type {kind}, expected {HT_PROMOTION}")
        return cls(version, bool(robust), bool(compatible), bytes(data[1:7]), bytes(data[7:13]))


@dataclass(frozen=True, slots=True)
class PacketHeader14:
    """Header of one packet; ARQ is said here and not by the connection."""

    robust: int
    priority: int
    control: bool
    lcid: int
    sid: int
    lnid: int
    length: int
    nad: bool
    reference: bool
    arq: bool
    push: bool

    def encode(self) -> bytes:
        return _pack(
            (self.robust, 4), (self.priority, 2), (self.control, 1), (self.lcid, 9), (self.sid, 8), (self.lnid, 14),
            (0, 1), (self.length, 9), (self.nad, 1), (self.reference, 1), (self.arq, 1), (self.push, 1), (0, 4),
        )  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> PacketHeader14:
        """Raises DecodeError if it is none."""
        _need(data, PACKET_HEADER_BYTES, "1.4 packet header")
        robust, priority, control, lcid, sid, lnid, gap, length, nad, reference, arq, push, rest = _unpack(
            data, 4, 2, 1, 9, 8, 14, 1, 9, 1, 1, 1, 1, 4
        )
        _zero(gap << 4 | rest, "1.4 packet header")
        flags = (bool(nad), bool(reference), bool(arq), bool(push))
        return cls(robust, priority, bool(control), lcid, sid, lnid, length, *flags)


@dataclass(frozen=True, slots=True)
class Reg14:
    """Registration without keys.

    Attributes:
        capabilities: robust, compatible, switch, aggregation, CFP, direct, most significant first (six bits).
        alive: form of keep-alive.
    """

    negative: bool
    roaming: bool
    capabilities: int
    alive: bool
    arq: bool
    time: int
    eui48: bytes

    def encode(self) -> bytes:
        return _pack(
            (self.negative, 1), (self.roaming, 1), (0, 2), (self.capabilities, 6), (self.alive, 1), (0, 1),
            (self.arq, 1), (self.time, 3),
        ) + self.eui48  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Reg14:
        """Raises DecodeError if it is none, or of a security profile."""
        if len(data) > 8 and data[0] >> 4 & 3:
            raise DecodeError("1.4 REG: seen a security profile above 0, expected 0; its keys are not established")
        _need(data, 8, "1.4 REG")
        negative, roaming, profile, capabilities, alive, gap, arq, time = _unpack(data[:2], 1, 1, 2, 6, 1, 1, 1, 3)
        if profile:
            raise DecodeError(f"1.4 REG: seen security profile {profile}, expected 0")
        _zero(gap, "1.4 REG")
        return cls(bool(negative), bool(roaming), capabilities, bool(alive), bool(arq), time, bytes(data[2:8]))


@dataclass(frozen=True, slots=True)
class Pro14:
    """Promotion; position and frequency of the beacon are part of it.

    Attributes:
        request: what only a node's request has, raw (its flags' order is established, their number of bits is not).
    """

    negative: bool
    position: int
    nsid: int
    quality: int
    time: int
    seq: int
    frequency: int
    modulation: int
    acknowledge: bool
    direct: bool
    request: bytes = b""

    def encode(self) -> bytes:
        return _pack(
            (self.negative, 1), (self.position, 7), (self.nsid, 8), (self.quality, 3), (self.time, 3), (self.seq, 5),
            (self.frequency, 3), (self.modulation, 2), (self.acknowledge, 1), (self.direct, 1), (0, 6),
        ) + self.request  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Pro14:
        """Raises DecodeError if it is none."""
        if len(data) < 5:
            raise DecodeError(f"1.4 PRO: seen {len(data)} bytes, expected at least 5")
        negative, position, nsid, quality, time, seq, frequency, modulation, acknowledge, direct, rest = _unpack(
            data[:5], 1, 7, 8, 3, 3, 5, 3, 2, 1, 1, 6
        )
        _zero(rest, "1.4 PRO")
        flags = (bool(acknowledge), bool(direct))
        return cls(bool(negative), position, nsid, quality, time, seq, frequency, modulation, *flags, bytes(data[5:]))


@dataclass(frozen=True, slots=True)
class AliveHop:
    """One hop of a keep-alive's round trip: whether its value is valid, and repetitions, down and up."""

    down_valid: bool
    down_repeats: int
    up_valid: bool
    up_repeats: int


@dataclass(frozen=True, slots=True)
class Alv14:
    """Keep-alive in its round-trip form (R = 1).

    Attributes:
        round_trip_left: RTL.
        tx_seq: number of the message.
    """

    round_trip_left: int
    time: int
    level_min: int
    tx_seq: int
    hops: tuple[AliveHop, ...] = ()

    def encode(self) -> bytes:
        head = _pack(
            (1, 1), (self.round_trip_left, 4), (self.time, 3), (self.level_min, 6), (0, 2), (self.tx_seq, 3), (0, 5)
        )
        return head + b"".join(
            _pack((hop.down_valid, 1), (hop.down_repeats, 3), (hop.up_valid, 1), (hop.up_repeats, 3))
            for hop in self.hops
        )

    @classmethod
    def decode(cls, data: bytes) -> Alv14:
        """Raises DecodeError if it is none, or of the other form."""
        if len(data) < 3:
            raise DecodeError(f"1.4 ALV: seen {len(data)} bytes, expected at least 3")
        form, left, time, level_min, gap, tx_seq, rest = _unpack(data[:3], 1, 4, 3, 6, 2, 3, 5)
        if not form:
            raise DecodeError("1.4 ALV: seen R = 0, expected 1; the other form's layout is not established")
        _zero(gap << 5 | rest, "1.4 ALV")
        hops = []
        for byte in data[3:]:
            down_valid, down_repeats, up_valid, up_repeats = _unpack(bytes((byte,)), 1, 3, 1, 3)
            hops.append(AliveHop(bool(down_valid), down_repeats, bool(up_valid), up_repeats))
        return cls(left, time, level_min, tx_seq, tuple(hops))


@dataclass(frozen=True, slots=True)
class Packet14:
    """One packet inside a generic PDU; ``header.length`` is that of its payload."""

    header: PacketHeader14
    payload: bytes


@dataclass(frozen=True, slots=True)
class GenericPdu14:
    """One or more packets for the same next hop."""

    downlink: bool
    level: int
    packets: tuple[Packet14, ...]

    def encode(self, sna: bytes) -> bytes:
        seed8, seed32 = sna_seeds(sna)
        head = bytes((HT_GENERIC << 4, self.downlink << 6 | self.level))
        packets = b"".join(packet.header.encode() + packet.payload for packet in self.packets)
        body = head + bytes((crc8(head, seed8),)) + packets
        return body + crc32(body, seed32).to_bytes(CRC32_BYTES, "big")

    @classmethod
    def decode(cls, data: bytes, sna: bytes) -> GenericPdu14:
        """Raises DecodeError if it is none, or has another header than 1.3.6."""
        seed8, seed32 = sna_seeds(sna)
        at, end = GENERIC_HEADER_BYTES, len(data) - CRC32_BYTES
        if end < at + PACKET_HEADER_BYTES:
            raise DecodeError(f"1.4 generic PDU: seen {len(data)} bytes, expected more; its header is not established")
        if data[2] != crc8(data[:2], seed8) or int.from_bytes(data[end:], "big") != crc32(data[:end], seed32):
            raise DecodeError("1.4 generic PDU: seen other checksums than of 1.3.6; its header is not established")
        _zero(data[0] << 1 | data[1] >> 7, "1.4 generic PDU")
        packets: list[Packet14] = []
        while at < end:
            header = PacketHeader14.decode(data[at : min(end, at + PACKET_HEADER_BYTES)])
            payload = bytes(data[at + PACKET_HEADER_BYTES : min(end, at + PACKET_HEADER_BYTES + header.length)])
            _need(payload, header.length, f"payload of 1.4 packet {len(packets)}")
            packets.append(Packet14(header, payload))
            at += PACKET_HEADER_BYTES + header.length
        return cls(bool(data[1] & 0x40), data[1] & 0x3F, tuple(packets))


Control14 = Reg14 | Pro14 | Alv14


def decode_control14(ctype: int, payload: bytes) -> Control14 | None:
    """The control packet of type ``ctype`` (as in 1.3.6), None if the layout of its kind is not established.

    Raises:
        DecodeError: a payload that cannot be right, or of a form that is not established.
    """
    if ctype == ControlType.REG:
        return Reg14.decode(payload)
    if ctype == ControlType.PRO:
        return Pro14.decode(payload)
    return Alv14.decode(payload) if ctype == ControlType.ALV else None


Pdu14 = Beacon14 | PromotionNeeded14 | GenericPdu14


def decode_pdu14(data: bytes, sna: bytes | None) -> Pdu14:
    """The PDU of a Type B frame.

    Args:
        data: bytes as on air.
        sna: subnetwork address; needed for generic PDUs only.

    Raises:
        DecodeError: damaged, or a generic PDU that is not read (see the module).
    """
    kind = data[0] >> 4 & 3 if data else -1
    if kind == HT_BEACON:
        return Beacon14.decode(data)
    if kind == HT_PROMOTION:
        return PromotionNeeded14.decode(data)
    if kind != HT_GENERIC:
        raise DecodeError(f"1.4 PDU: seen header type {kind}, expected 0 generic, 1 promotion needed or 2 beacon")
    if sna is None:
        raise DecodeError(
            "1.4 generic PDU: seen before any beacon, expected a known subnetwork address; its header is "
            "not established without"
        )
    return GenericPdu14.decode(data, sna)
