"""MAC PDUs of PRIME 1.3.6: generic, beacon, promotion needed.

Bit fields stand most significant first, numbers big-endian. Reserved bits must be zero: a PDU with others is refused,
so that what decodes encodes to the same bytes again. PDUs of 1.4 are told apart by the top bits of their first byte
and refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from prime_plc.crc import crc8, crc32, sna_seeds
from shared.errors import DecodeError

HT_GENERIC: Final = 0
HT_PROMOTION: Final = 1
HT_BEACON: Final = 2

BEACON_BYTES: Final = 18
PROMOTION_BYTES: Final = 14
GENERIC_HEADER_BYTES: Final = 3
PACKET_HEADER_BYTES: Final = 6
CRC32_BYTES: Final = 4
GENERIC_BYTES_MIN: Final = GENERIC_HEADER_BYTES + PACKET_HEADER_BYTES + CRC32_BYTES
"""[byte] A generic PDU with one empty packet."""

PAYLOAD_BYTES_MAX: Final = 511
"""[byte] What the 9-bit LEN of a packet header can say."""

LNID_BASE: Final = 0
LNID_MULTICAST: Final = 0x3FFE
LNID_BROADCAST: Final = 0x3FFF
"""Also the LNID of a node that is not registered."""

SID_BASE: Final = 0
SID_NONE: Final = 0xFF
SNA_ANY: Final = b"\xff" * 6


@dataclass(frozen=True, slots=True)
class Beacon:
    """What a base node or switch sends in its slot.

    Attributes:
        quality: of the path to the base, 7 best.
        sid: switch that sends it; 0 for the base.
        count: beacon slots in this frame.
        position: slot in which this one is sent.
        cfp: start of the contention-free period [symbols from frame start]; 0 without one.
        level: depth of the sender, base 0.
        seq: number of the frame in the superframe, 0 to 31.
        frequency: this switch beacons every 2**frequency frames.
        sna: subnetwork address, six bytes.
        up_cost, down_cost: accumulated path cost.
    """

    quality: int
    sid: int
    count: int
    position: int
    cfp: int
    level: int
    seq: int
    frequency: int
    sna: bytes
    up_cost: int
    down_cost: int

    def encode(self) -> bytes:
        """The 18 bytes on air; its CRC-32 starts from 0 because the address is inside."""
        head = bytes(
            (
                HT_BEACON << 4 | self.quality,
                self.sid,
                self.count << 5 | self.position << 2 | self.cfp >> 8,
                self.cfp & 0xFF,
                self.level,
                self.seq << 3 | self.frequency,
            )
        )
        body = head + self.sna + bytes((self.up_cost, self.down_cost))
        return body + crc32(body).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class PromotionNeeded:
    """A node that hears no beacon asks for a switch.

    Attributes:
        sna: subnetwork wanted, `SNA_ANY` for any.
        pna: EUI-48 of the node that asks.
    """

    sna: bytes
    pna: bytes

    def encode(self) -> bytes:
        """The 14 bytes on air; its CRC-8 starts from 0."""
        body = bytes((HT_PROMOTION << 4,)) + self.sna + self.pna
        return body + bytes((crc8(body),))


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet inside a generic PDU.

    Attributes:
        nad: no aggregation at destination.
        priority: 0 highest to 3.
        control: control packet; then ``lcid`` is the control type.
        lcid: connection, or control type.
        sid, lnid: the service node of the exchange (destination downlink, source uplink).
        payload: at most `PAYLOAD_BYTES_MAX` bytes.
        spad: padding flag of the security profiles; 0 when unencrypted.
    """

    nad: bool
    priority: int
    control: bool
    lcid: int
    sid: int
    lnid: int
    payload: bytes
    spad: bool = False

    def encode(self) -> bytes:
        """Header and payload."""
        length = len(self.payload)
        assert length <= PAYLOAD_BYTES_MAX, length
        header = (
            self.nad << 44
            | self.priority << 42
            | self.control << 41
            | self.lcid << 32
            | self.sid << 24
            | self.lnid << 10
            | self.spad << 9
            | length
        )
        return header.to_bytes(PACKET_HEADER_BYTES, "big") + self.payload


@dataclass(frozen=True, slots=True)
class GenericPdu:
    """One or more packets for the same next hop.

    Attributes:
        downlink: away from the base.
        level: hop, counted from the base.
        packets: at least one.
    """

    downlink: bool
    level: int
    packets: tuple[Packet, ...]

    def encode(self, sna: bytes) -> bytes:
        """The bytes on air in the subnetwork ``sna``."""
        seed8, seed32 = sna_seeds(sna)
        head = bytes((HT_GENERIC << 4, self.downlink << 6 | self.level))
        body = head + bytes((crc8(head, seed8),)) + b"".join(packet.encode() for packet in self.packets)
        return body + crc32(body, seed32).to_bytes(4, "big")


Pdu = Beacon | PromotionNeeded | GenericPdu


class Glance(NamedTuple):
    """What can be seen of a generic PDU without checking it.

    Attributes:
        sid, lnid: of the first packet.
        control: control type of the first packet, -1 for data.
        alone: no other packet follows.
    """

    sid: int
    lnid: int
    control: int
    alone: bool


@lru_cache(maxsize=64)
def glance(data: bytes) -> Glance:
    """Look at the first packet of a generic PDU of at least 13 bytes; nothing is verified. Remembered, as many nodes of
    one process hear the same frame."""
    length = (data[7] & 1) << 8 | data[8]
    control = (data[3] & 1) << 8 | data[4] if data[3] & 2 else -1
    alone = len(data) <= GENERIC_HEADER_BYTES + PACKET_HEADER_BYTES + CRC32_BYTES + length
    return Glance(data[5], data[6] << 6 | data[7] >> 2, control, alone)


@lru_cache(maxsize=256)
def decode_pdu(data: bytes, sna: bytes | None) -> Pdu:
    """The PDU in these bytes, its checksums verified; remembered, as many nodes of one process hear the same frame.

    Args:
        data: bytes as on air.
        sna: subnetwork address; needed for generic PDUs only.

    Raises:
        DecodeError: anything is wrong; nothing else is ever raised.
    """
    if len(data) < GENERIC_HEADER_BYTES:
        raise DecodeError(f"PDU: seen {len(data)} bytes, expected at least {GENERIC_HEADER_BYTES}")
    if data[0] & 0xC0:
        raise DecodeError(f"PDU: seen first byte {data[0]:#04x}, expected a v1.3.6 PDU; v1.4 PDUs are not supported")
    kind = data[0] >> 4
    if kind == HT_BEACON:
        return _decode_beacon(data)
    if kind == HT_GENERIC:
        return _decode_generic(data, sna)
    if kind == HT_PROMOTION:
        return _decode_promotion(data)
    raise DecodeError("PDU: seen header type 3, expected 0 generic, 1 promotion needed or 2 beacon")


def _decode_beacon(data: bytes) -> Beacon:
    _expect(len(data), BEACON_BYTES, "beacon length")
    _expect_crc(int.from_bytes(data[14:], "big"), crc32(data[:14]), "beacon CRC-32")
    if data[0] & 0x08 or data[4] & 0xC0:
        raise DecodeError(f"beacon: seen reserved bits in {data[:6].hex(' ')}, expected zeros")
    return Beacon(
        quality=data[0] & 7,
        sid=data[1],
        count=data[2] >> 5,
        position=(data[2] >> 2) & 7,
        cfp=(data[2] & 3) << 8 | data[3],
        level=data[4],
        seq=data[5] >> 3,
        frequency=data[5] & 7,
        sna=bytes(data[6:12]),
        up_cost=data[12],
        down_cost=data[13],
    )


def _decode_promotion(data: bytes) -> PromotionNeeded:
    _expect(len(data), PROMOTION_BYTES, "promotion-needed length")
    _expect_crc(data[13], crc8(data[:13]), "promotion-needed CRC-8")
    if data[0] & 0x0F:
        raise DecodeError(f"promotion needed: seen reserved bits {data[0] & 0x0F:#x}, expected zeros")
    return PromotionNeeded(bytes(data[1:7]), bytes(data[7:13]))


def _decode_generic(data: bytes, sna: bytes | None) -> GenericPdu:
    if sna is None:
        raise DecodeError("generic PDU: seen before any beacon, expected a known subnetwork address to verify it with")
    if len(data) < GENERIC_BYTES_MIN:
        raise DecodeError(f"generic PDU: seen {len(data)} bytes, expected at least {GENERIC_BYTES_MIN}")
    seed8, seed32 = sna_seeds(sna)
    _expect_crc(data[2], crc8(data[:2], seed8), "header CRC-8")
    _expect_crc(int.from_bytes(data[-4:], "big"), crc32(data[:-4], seed32), "CRC-32")
    if data[0] & 0x0F or data[1] & 0x80:
        raise DecodeError(f"generic PDU: seen reserved bits in {data[:2].hex(' ')}, expected zeros")
    return GenericPdu(bool(data[1] & 0x40), data[1] & 0x3F, _decode_packets(data[GENERIC_HEADER_BYTES:-CRC32_BYTES]))


def _decode_packets(data: bytes) -> tuple[Packet, ...]:
    packets: list[Packet] = []
    at = 0
    while at < len(data):
        header = int.from_bytes(data[at : at + PACKET_HEADER_BYTES], "big")
        end = at + PACKET_HEADER_BYTES + (header & 0x1FF)
        if at + PACKET_HEADER_BYTES > len(data) or end > len(data):
            raise DecodeError(
                f"packet {len(packets)}: seen {len(data) - at} bytes left, expected its header and payload"
            )
        if header >> 45:
            raise DecodeError(f"packet {len(packets)}: seen reserved bits {header >> 45:#x}, expected zeros")
        packets.append(
            Packet(
                nad=bool(header >> 44 & 1),
                priority=header >> 42 & 3,
                control=bool(header >> 41 & 1),
                lcid=header >> 32 & 0x1FF,
                sid=header >> 24 & 0xFF,
                lnid=header >> 10 & 0x3FFF,
                payload=bytes(data[at + PACKET_HEADER_BYTES : end]),
                spad=bool(header >> 9 & 1),
            )
        )
        at = end
    return tuple(packets)


def _expect(seen: int, expected: int, what: str) -> None:
    if seen != expected:
        raise DecodeError(f"{what}: seen {seen}, expected {expected}")


def _expect_crc(seen: int, expected: int, what: str) -> None:
    if seen != expected:
        raise DecodeError(f"{what}: seen {seen:#x}, expected {expected:#x}")
