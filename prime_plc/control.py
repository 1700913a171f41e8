"""Control packets of PRIME 1.3.6, one dataclass each; switching ones included.

A decoder refuses any payload it could not encode to the same bytes again. Fields whose meaning or layout is recalled
and was not checked against the specification are marked; the SEC packet is not established and stays raw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from shared.errors import DecodeError


class ControlType(IntEnum):
    """CTYPE of a control packet."""

    REG = 1
    CON = 2
    PRO = 3
    BSI = 4
    FRA = 5
    CFP = 6
    ALV = 7
    MUL = 8
    PRM = 9
    SEC = 10


class Capabilities(IntFlag):
    """What a node says it can, as in REG (seven bits)."""

    NONE = 0
    ARQ = 1
    ROBUSTNESS = 2
    MULTICAST = 4
    DIRECT = 8
    CFP = 16
    AGGREGATION = 32
    SWITCH = 64


class ConnectionType(IntEnum):
    """What a MAC connection carries."""

    IPV4_RESOLUTION = 1
    IPV4 = 2
    LLC_4_32 = 3
    MANAGEMENT = 4
    IPV6_RESOLUTION = 5
    IPV6 = 6


TIME_S: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""[s] Keep-alive period by TIME code (recalled)."""

KEY_BYTES: Final = 16


def _need(data: bytes, length: int, what: str) -> None:
    if len(data) != length:
        raise DecodeError(f"{what}: seen {len(data)} bytes, expected {length}")


def _zero(bits: int, what: str) -> None:
    if bits:
        raise DecodeError(f"{what}: seen reserved bits {bits:#x}, expected zeros")


@dataclass(frozen=True, slots=True)
class Reg:
    """Registration and unregistration: request, response, acknowledgement, rejection by direction and ``negative``.

    Attributes:
        negative: N bit; rejection downlink at LNID 3FFFh, else unregistration.
        roaming: R bit; the node is registered and moves (use recalled).
        profile: security profile 0 to 3.
        capabilities: of the node.
        time: code of the keep-alive period, see `TIME_S`.
        eui48: of the node.
        snk, auk: keys in a response of a profile above 0; empty otherwise.
    """

    negative: bool
    roaming: bool
    profile: int
    capabilities: Capabilities
    time: int
    eui48: bytes
    snk: bytes = b""
    auk: bytes = b""

    def encode(self) -> bytes:
        switch_and_aggregation = self.capabilities >> 5
        head = bytes(
            (
                self.negative << 7 | self.roaming << 6 | self.profile << 4 | switch_and_aggregation,
                (self.capabilities & 0x1F) << 3 | self.time,
            )
        )
        return head + self.eui48 + self.snk + self.auk

    @classmethod
    def decode(cls, data: bytes) -> Reg:
        if len(data) not in {8, 8 + 2 * KEY_BYTES}:
            raise DecodeError(f"REG: seen {len(data)} bytes, expected 8, or 40 with keys")
        profile = data[0] >> 4 & 3
        if len(data) > 8 and not profile:
            raise DecodeError("REG: seen keys with security profile 0, expected none")
        _zero(data[0] & 0x0C, "REG")
        return cls(
            negative=bool(data[0] & 0x80),
            roaming=bool(data[0] & 0x40),
            profile=profile,
            capabilities=Capabilities((data[0] & 3) << 5 | data[1] >> 3),
            time=data[1] & 7,
            eui48=bytes(data[2:8]),
            snk=bytes(data[8:24]),
            auk=bytes(data[24:40]),
        )


@dataclass(frozen=True, slots=True)
class Direct:
    """Addresses of a direct connection; the order of the two switch ids is not certain, this one is our choice."""

    dclcid: int
    dcnad: bool
    dclnid: int
    dssid: int
    dcsid: int

    def encode(self) -> bytes:
        value = self.dclcid << 32 | self.dcnad << 31 | self.dclnid << 16 | self.dssid << 8 | self.dcsid
        return value.to_bytes(6, "big")

    @classmethod
    def decode(cls, data: bytes) -> Direct:
        _need(data, 6, "CON direct connection")
        value = int.from_bytes(data, "big")
        _zero(value >> 41 | (value >> 30 & 1), "CON direct connection")
        return cls(value >> 32 & 0x1FF, bool(value >> 31 & 1), value >> 16 & 0x3FFF, value >> 8 & 0xFF, value & 0xFF)


@dataclass(frozen=True, slots=True)
class Con:
    """Opening and closing a MAC connection, by direction and ``negative`` (close or reject)."""

    negative: bool
    arq: bool
    lcid: int
    type: int
    data: bytes = b""
    eui48: bytes | None = None
    direct: Direct | None = None

    def encode(self) -> bytes:
        flags = self.negative << 15 | (self.direct is not None) << 14 | self.arq << 13 | (self.eui48 is not None) << 12
        head = (flags | self.lcid).to_bytes(2, "big") + (self.eui48 or b"")
        if self.direct is not None:
            head += self.direct.encode()
        return head + bytes((self.type, len(self.data))) + self.data

    @classmethod
    def decode(cls, data: bytes) -> Con:
        if len(data) < 4:
            raise DecodeError(f"CON: seen {len(data)} bytes, expected at least 4")
        flags = int.from_bytes(data[:2], "big")
        _zero(flags >> 9 & 7, "CON")
        has_eui, has_direct = bool(flags & 0x1000), bool(flags & 0x4000)
        at = 2 + 6 * has_eui
        eui48 = bytes(data[2:at]) if has_eui else None
        direct = Direct.decode(data[at : at + 6]) if has_direct else None
        at += 6 * has_direct
        if len(data) < at + 2 or len(data) != at + 2 + data[at + 1]:
            raise DecodeError(f"CON: seen {len(data)} bytes, expected as many as its fields and DLEN say")
        return cls(
            negative=bool(flags & 0x8000),
            arq=bool(flags & 0x2000),
            lcid=flags & 0x1FF,
            type=data[at],
            data=bytes(data[at + 2 :]),
            eui48=eui48,
            direct=direct,
        )


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """The part of PRO that only a node's request has.

    Attributes:
        pna: EUI-48 of the node that needs a switch.
        up_cost, down_cost: path cost of the node that would be promoted.
        switching: direct connections 8, multicast 4, robustness 2, ARQ 1.
    """

    pna: bytes
    up_cost: int
    down_cost: int
    switching: int


@dataclass(frozen=True, slots=True)
class Pro:
    """Promotion and demotion, by direction and ``negative``.

    Attributes:
        quality: reception quality (SNR index) of the promotion-needed PDU.
        time: keep-alive code.
        nsid: new, own or removed switch id; FFh in a request and a rejection.
        request: only in a node's request.
    """

    negative: bool
    quality: int
    time: int
    nsid: int
    request: PromotionRequest | None = None

    def encode(self) -> bytes:
        head = bytes((self.negative << 7 | self.quality << 3 | self.time, self.nsid))
        if self.request is None:
            return head
        tail = bytes((self.request.up_cost, self.request.down_cost, self.request.switching))
        return head + self.request.pna + tail

    @classmethod
    def decode(cls, data: bytes) -> Pro:
        if len(data) not in {2, 11}:
            raise DecodeError(f"PRO: seen {len(data)} bytes, expected 2, or 11 in a request")
        _zero(data[0] & 0x40, "PRO")
        request = None
        if len(data) == 11:
            _zero(data[10] & 0xF0, "PRO request")
            request = PromotionRequest(bytes(data[2:8]), data[8], data[9], data[10])
        return cls(bool(data[0] & 0x80), data[0] >> 3 & 7, data[0] & 7, data[1], request)


@dataclass(frozen=True, slots=True)
class Bsi:
    """Beacon slot of a switch: from frame ``seq`` on, in ``slot``, every 2**frequency frames."""

    frequency: int
    slot: int
    seq: int

    def encode(self) -> bytes:
        return bytes((self.frequency, self.slot << 5 | self.seq))

    @classmethod
    def decode(cls, data: bytes) -> Bsi:
        _need(data, 2, "BSI")
        _zero(data[0] & 0xF8, "BSI")
        return cls(data[0] & 7, data[1] >> 5, data[1] & 0x1F)


@dataclass(frozen=True, slots=True)
class Fra:
    """Frame structure from frame ``seq`` on (layout and codes recalled: 0 beacon count, 1 contention-free period)."""

    type: int
    cfp: int
    seq: int
    beacons: int

    def encode(self) -> bytes:
        return (self.type << 22 | self.cfp << 8 | self.seq << 3 | self.beacons).to_bytes(3, "big")

    @classmethod
    def decode(cls, data: bytes) -> Fra:
        _need(data, 3, "FRA")
        value = int.from_bytes(data, "big")
        _zero(value >> 18 & 0xF, "FRA")
        return cls(value >> 22, value >> 8 & 0x3FF, value >> 3 & 0x1F, value & 7)


@dataclass(frozen=True, slots=True)
class Cfp:
    """Contention-free period request (widths recalled; the codes of ``type`` are not established)."""

    negative: bool
    direction: bool
    seq: int
    lcid: int
    length: int
    position: int
    type: int
    lnid: int

    def encode(self) -> bytes:
        value = (
            self.negative << 47
            | self.direction << 46
            | self.seq << 41
            | self.lcid << 32
            | self.length << 25
            | self.position << 16
            | self.type << 14
            | self.lnid
        )
        return value.to_bytes(6, "big")

    @classmethod
    def decode(cls, data: bytes) -> Cfp:
        _need(data, 6, "CFP")
        value = int.from_bytes(data, "big")
        return cls(
            bool(value >> 47),
            bool(value >> 46 & 1),
            value >> 41 & 0x1F,
            value >> 32 & 0x1FF,
            value >> 25 & 0x7F,
            value >> 16 & 0x1FF,
            value >> 14 & 3,
            value & 0x3FFF,
        )


@dataclass(frozen=True, slots=True)
class Alv:
    """Keep-alive; counters modulo 8 show loss in each direction. ``ssid`` is FFh for a terminal (recalled)."""

    rx_count: int
    tx_count: int
    time: int
    ssid: int

    def encode(self) -> bytes:
        return (self.rx_count << 21 | self.tx_count << 18 | self.time << 8 | self.ssid).to_bytes(3, "big")

    @classmethod
    def decode(cls, data: bytes) -> Alv:
        _need(data, 3, "ALV")
        value = int.from_bytes(data, "big")
        _zero(value >> 11 & 0x7F, "ALV")
        return cls(value >> 21, value >> 18 & 7, value >> 8 & 7, value & 0xFF)


@dataclass(frozen=True, slots=True)
class Mul:
    """Joining and leaving a multicast group (layout recalled)."""

    negative: bool
    lcid: int
    type: int
    data: bytes = b""

    def encode(self) -> bytes:
        return (self.negative << 15 | self.lcid).to_bytes(2, "big") + bytes((self.type, len(self.data))) + self.data

    @classmethod
    def decode(cls, data: bytes) -> Mul:
        if len(data) < 4 or len(data) != 4 + data[3]:
            raise DecodeError(f"MUL: seen {len(data)} bytes, expected as many as DLEN says")
        flags = int.from_bytes(data[:2], "big")
        _zero(flags >> 9 & 0x3F, "MUL")
        return cls(bool(flags & 0x8000), flags & 0x1FF, data[2], bytes(data[4:]))


PRM_ACKNOWLEDGED: Final = 0b10
"""R and N of a PRM acknowledgement."""


@dataclass(frozen=True, slots=True)
class Prm:
    """Robustness management of the next hop: request, acknowledgement (``response``), rejection (both).

    Attributes:
        signs: of packets that have come twice (`custody.sign`), two bytes each behind an acknowledgement (ours).
    """

    response: bool
    negative: bool
    snr: int
    signs: tuple[int, ...] = ()

    def encode(self) -> bytes:
        head = bytes((self.response << 7 | self.negative << 6 | self.snr,))
        return head + b"".join(sign.to_bytes(2, "big") for sign in self.signs)

    @classmethod
    def decode(cls, data: bytes) -> Prm:
        if not data or len(data) % 2 == 0 or (len(data) > 1 and data[0] >> 6 != PRM_ACKNOWLEDGED):
            raise DecodeError(f"PRM: {len(data)} bytes, expected 1, or 1 and two for each sign of an acknowledgement")
        _zero(data[0] & 0x38, "PRM")
        signs = tuple(int.from_bytes(data[at : at + 2], "big") for at in range(1, len(data), 2))
        return cls(bool(data[0] & 0x80), bool(data[0] & 0x40), data[0] & 7, signs)


@dataclass(frozen=True, slots=True)
class Sec:
    """Security information; its layout is not established."""

    raw: bytes

    def encode(self) -> bytes:
        return self.raw

    @classmethod
    def decode(cls, data: bytes) -> Sec:
        return cls(bytes(data))


Control = Reg | Con | Pro | Bsi | Fra | Cfp | Alv | Mul | Prm | Sec

_DECODERS: Final[dict[ControlType, Callable[[bytes], Control]]] = {
    ControlType.REG: Reg.decode,
    ControlType.CON: Con.decode,
    ControlType.PRO: Pro.decode,
    ControlType.BSI: Bsi.decode,
    ControlType.FRA: Fra.decode,
    ControlType.CFP: Cfp.decode,
    ControlType.ALV: Alv.decode,
    ControlType.MUL: Mul.decode,
    ControlType.PRM: Prm.decode,
    ControlType.SEC: Sec.decode,
}


def decode_control(ctype: int, payload: bytes) -> Control:
    """The control packet of type ``ctype``.

    Raises:
        DecodeError: unknown type, or a payload that cannot be right.
    """
    try:
        decoder = _DECODERS[ControlType(ctype)]
    except ValueError as error:
        raise DecodeError(f"control packet: seen type {ctype}, expected 1 to 10") from error
    return decoder(payload)
