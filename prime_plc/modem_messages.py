"""Messages of protocol 22h between a host and an ATPL230A with the tester firmware.

The first payload byte is the command; integers are big-endian; times are ticks of 10 us. Values are bytes: up to four
are a number, longer ones text or an address.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from shared.errors import DecodeError

VALUE_BYTES_MAX: Final = 10
"""[byte] The firmware's scratch buffer is no longer and it does not check; never ask for more."""

ATTENUATION_DB_MAX: Final = 21
"""[dB] Higher values index beyond the firmware's table."""

BUFFERS: Final = 4
BUFFER_BEACON: Final = 0
BUFFER_DATA: Final = 1
"""Transmit buffers by the vendor's convention: one for beacons, one for everything else."""

DATA_BYTES_MAX: Final = 512


class Command(IntEnum):
    """First payload byte."""

    GET = 0
    GET_REPLY = 1
    SET = 2
    SET_REPLY = 3
    BIT = 4
    BIT_REPLY = 5
    SEND = 6
    SEND_CONFIRM = 7
    RECEIVE = 8
    NOISE = 9
    NOISE_REPLY = 10
    GET_LIST = 11
    GET_LIST_REPLY = 12
    RESET = 13


class Parameter(IntEnum):
    """Ids of the parameters and registers we use; `WIDTH` has their bytes."""

    PRODUCT = 0x0100
    VERSION = 0x010C
    LAST_RECEIVE_BUFFER = 0x0111
    RECEIVE_QUALITY = 0x0112
    TRANSMIT_QUALITY = 0x011A
    FRAMES_SENT = 0x012C
    CHANNEL_BUSY = 0x013C
    FRAMES_RECEIVED = 0x014C
    CHANNEL = 0x0415
    STATUS = 0xFE2A
    TIMER = 0xFE47
    SNA = 0xFE62
    RECEIVE_TIME = 0xFD83


WIDTH: Final = {
    Parameter.PRODUCT: 10,
    Parameter.VERSION: 4,
    Parameter.LAST_RECEIVE_BUFFER: 1,
    Parameter.RECEIVE_QUALITY: 1,
    Parameter.TRANSMIT_QUALITY: 1,
    Parameter.FRAMES_SENT: 4,
    Parameter.CHANNEL_BUSY: 4,
    Parameter.FRAMES_RECEIVED: 4,
    Parameter.CHANNEL: 1,
    Parameter.STATUS: 1,
    Parameter.TIMER: 4,
    Parameter.SNA: 6,
    Parameter.RECEIVE_TIME: 4,
}

CARRIER_BIT: Final = 0x40
"""In `Parameter.STATUS`: a carrier is on the line now."""


class SetResult(IntEnum):
    """Answer to a SET or a bit operation."""

    OK = 0
    INVALID = 1
    READ_ONLY = 2
    INVALID_CHANNEL = 3
    NO_AES = 4


class BitOperator(IntEnum):
    """Operation on an 8-bit register."""

    AND = 2
    OR = 3
    XOR = 4


class TimeMode(IntEnum):
    """Meaning of a SEND's delay; zero is "at once" in both."""

    ABSOLUTE = 0
    RELATIVE = 1


class TransmitResult(IntEnum):
    """What became of a SEND."""

    IN_PROCESS = 0
    SUCCESS = 1
    WRONG_LENGTH = 2
    CHANNEL_BUSY = 3
    PREVIOUS_PENDING = 4
    RECEIVING = 5
    INVALID_SCHEME = 6
    TIMEOUT = 7
    INVALID_BUFFER = 8
    INVALID_MODE = 9

    @property
    def busy(self) -> bool:
        """The line was taken: a new backoff."""
        return self in {TransmitResult.CHANNEL_BUSY, TransmitResult.RECEIVING}


@dataclass(frozen=True, slots=True)
class GetParameter:
    """Ask for a value."""

    id: int
    length: int

    def encode(self) -> bytes:
        assert 0 < self.length <= VALUE_BYTES_MAX, self
        return struct.pack(">BHB", Command.GET, self.id, self.length)


@dataclass(frozen=True, slots=True)
class GetReply:
    """A value."""

    id: int
    value: bytes

    def encode(self) -> bytes:
        return struct.pack(">BHB", Command.GET_REPLY, self.id, len(self.value)) + self.value


@dataclass(frozen=True, slots=True)
class SetParameter:
    """Set a value."""

    id: int
    value: bytes

    def encode(self) -> bytes:
        assert 0 < len(self.value) <= VALUE_BYTES_MAX, self
        return struct.pack(">BHB", Command.SET, self.id, len(self.value)) + self.value


@dataclass(frozen=True, slots=True)
class SetReply:
    """Whether a SET was done."""

    id: int
    result: int

    def encode(self) -> bytes:
        return struct.pack(">BHB", Command.SET_REPLY, self.id, self.result)


@dataclass(frozen=True, slots=True)
class BitOperation:
    """AND, OR or XOR a mask into an 8-bit register."""

    id: int
    operator: int
    mask: int

    def encode(self) -> bytes:
        return struct.pack(">BHBB", Command.BIT, self.id, self.operator, self.mask)


@dataclass(frozen=True, slots=True)
class BitReply:
    """Whether a bit operation was done."""

    id: int
    operator: int
    result: int

    def encode(self) -> bytes:
        return struct.pack(">BHBB", Command.BIT_REPLY, self.id, self.operator, self.result)


@dataclass(frozen=True, slots=True)
class Send:
    """Transmit a PDU.

    Attributes:
        buffer: 0 to 3; one outstanding SEND each.
        attenuation_db: 0 to 21.
        mode: frame type (`prime_plc.phy.PhyMode`).
        scheme: modulation (`prime_plc.phy.Scheme`).
        time_mode: of ``delay``.
        delay: ticks; 0 at once.
        disable_rx: ignore the carrier and stop receiving meanwhile.
        data: the PDU.
    """

    buffer: int
    attenuation_db: int
    mode: int
    scheme: int
    time_mode: int
    delay: int
    disable_rx: bool
    data: bytes

    def encode(self) -> bytes:
        head = (self.buffer, self.attenuation_db, self.mode, self.scheme, self.time_mode, self.delay, self.disable_rx)
        return struct.pack(">6BI?H", Command.SEND, *head, len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class SendConfirm:
    """A SEND has ended."""

    buffer: int
    result: int
    rms: int

    def encode(self) -> bytes:
        return struct.pack(">BBBH", Command.SEND_CONFIRM, self.buffer, self.result, self.rms)


CINR_STEPS_PER_DB: Final = 4
CINR_ZERO_DB: Final = 3.0
"""[dB] Signal to noise of which the modem says 0."""


class Receive(NamedTuple):
    """A PDU came in; a tuple, as most of all messages are these and a street makes hundreds in a second.

    Attributes:
        rssi: level [dBuV]; like the other qualities zero unless reports are on.
        cinr: quarter decibels, offset 3 dB.
    """

    buffer: int
    mode: int
    scheme: int
    header_type: int
    rssi: int
    cinr: int
    evm_header: int
    evm_payload: int
    evm_header_sum: int
    evm_payload_sum: int
    data: bytes

    def encode(self) -> bytes:
        head = (self.buffer, self.mode, self.scheme, self.header_type, self.rssi, self.cinr)
        evm = (self.evm_header, self.evm_payload, self.evm_header_sum, self.evm_payload_sum)
        return struct.pack(">7BHHIIH", Command.RECEIVE, *head, *evm, len(self.data)) + self.data

    @property
    def snr_db(self) -> float:
        """Signal to noise and interference [dB]."""
        return self.cinr / CINR_STEPS_PER_DB + CINR_ZERO_DB


@dataclass(frozen=True, slots=True)
class NoiseRequest:
    """Capture the noise of some symbols, ``delay`` ticks from now."""

    symbols: int
    delay: int

    def encode(self) -> bytes:
        return struct.pack(">BBI", Command.NOISE, self.symbols, self.delay)


@dataclass(frozen=True, slots=True)
class NoiseReply:
    """Captured noise, one byte for each sub-carrier and symbol; ``data`` None when the request was refused."""

    result: int
    data: bytes | None

    def encode(self) -> bytes:
        if self.data is None:
            return bytes((Command.NOISE_REPLY, self.result))
        return struct.pack(">BBH", Command.NOISE_REPLY, self.result, len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class GetList:
    """Ask for several values: pairs of id and length."""

    items: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        body = b"".join(struct.pack(">HB", *item) for item in self.items)
        return bytes((Command.GET_LIST, len(self.items))) + body


@dataclass(frozen=True, slots=True)
class GetListReply:
    """Several values: pairs of id and value."""

    items: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        body = b"".join(struct.pack(">HB", id_, len(value)) + value for id_, value in self.items)
        return bytes((Command.GET_LIST_REPLY, len(self.items))) + body


@dataclass(frozen=True, slots=True)
class Reset:
    """Restart the PHY, hard or soft; there is no reply."""

    soft: bool

    def encode(self) -> bytes:
        return bytes((Command.RESET, self.soft))


HostMessage = GetParameter | SetParameter | BitOperation | Send | NoiseRequest | GetList | Reset
ModemMessage = GetReply | SetReply | BitReply | SendConfirm | Receive | NoiseReply | GetListReply


def decode_command(payload: bytes) -> HostMessage:
    """What a host says.

    Raises:
        DecodeError: unknown command, or another length than it has.
    """
    try:
        return _decode_command(payload)
    except (struct.error, IndexError, ValueError) as error:
        raise DecodeError(f"modem command {payload[:1].hex()}: {error}") from error


def _decode_command(payload: bytes) -> HostMessage:
    match payload[0]:
        case Command.GET:
            _, id_, length = struct.unpack(">BHB", payload)
            return GetParameter(id_, length)
        case Command.SET:
            id_, value = _id_and_value(payload)
            return SetParameter(id_, value)
        case Command.BIT:
            return BitOperation(*struct.unpack(">HBB", payload[1:]))
        case Command.SEND:
            *head, disable_rx, length = struct.unpack_from(">5BIBH", payload, 1)
            return Send(*(*head, _flag(disable_rx, "disable_rx"), _rest(payload, 13, length)))
        case Command.NOISE:
            return NoiseRequest(*struct.unpack(">BI", payload[1:]))
        case Command.GET_LIST:
            pairs = [struct.unpack_from(">HB", payload, 2 + 3 * index) for index in range(payload[1])]
            _rest(payload, 2, 3 * payload[1])
            return GetList(tuple((id_, length) for id_, length in pairs))
        case Command.RESET:
            return Reset(_flag(_rest(payload, 1, 1)[0], "reset"))
    raise DecodeError(f"modem command: seen {payload[0]}, expected one that a host sends")


def decode_answer(payload: bytes) -> ModemMessage:
    """What a modem says.

    Raises:
        DecodeError: unknown command, or another length than it has.
    """
    try:
        return _decode_answer(payload)
    except (struct.error, IndexError, ValueError) as error:
        raise DecodeError(f"modem answer {payload[:1].hex()}: {error}") from error


_RECEIVE: Final = struct.Struct(">6BHHIIH")


def _decode_answer(payload: bytes) -> ModemMessage:
    match payload[0]:
        case Command.RECEIVE:
            *head, length = _RECEIVE.unpack_from(payload, 1)
            if head[0] >= BUFFERS:
                raise DecodeError(f"modem answer: seen receive buffer {head[0]}, expected 0 to {BUFFERS - 1}")
            return Receive(*(*head, _rest(payload, 21, length)))
        case Command.SEND_CONFIRM:
            return SendConfirm(*struct.unpack(">BBH", payload[1:]))
        case Command.GET_REPLY:
            id_, value = _id_and_value(payload)
            return GetReply(id_, value)
        case Command.SET_REPLY:
            return SetReply(*struct.unpack(">HB", payload[1:]))
        case Command.BIT_REPLY:
            return BitReply(*struct.unpack(">HBB", payload[1:]))
        case Command.NOISE_REPLY:
            if len(payload) == 2:
                return NoiseReply(payload[1], None)
            result, length = struct.unpack_from(">BH", payload, 1)
            return NoiseReply(result, _rest(payload, 4, length))
        case Command.GET_LIST_REPLY:
            return _decode_list_reply(payload)
    raise DecodeError(f"modem answer: seen {payload[0]}, expected one that a modem sends")


def _decode_list_reply(payload: bytes) -> GetListReply:
    items: list[tuple[int, bytes]] = []
    at = 2
    for _ in range(payload[1]):
        id_, length = struct.unpack_from(">HB", payload, at)
        value = payload[at + 3 : at + 3 + length]
        if len(value) != length:
            raise DecodeError(f"list reply: seen {len(value)} bytes for {id_:#06x}, expected {length}")
        items.append((id_, value))
        at += 3 + length
    _rest(payload, at, 0)
    return GetListReply(tuple(items))


def _id_and_value(payload: bytes) -> tuple[int, bytes]:
    id_, length = struct.unpack_from(">HB", payload, 1)
    return id_, _rest(payload, 4, length)


def _flag(value: int, what: str) -> bool:
    if value > 1:
        raise DecodeError(f"modem command: seen {what} {value}, expected 0 or 1")
    return bool(value)


def _rest(payload: bytes, at: int, length: int) -> bytes:
    rest = payload[at:]
    if len(rest) != length:
        raise DecodeError(f"modem message {payload[:1].hex()}: seen {len(rest)} bytes of data, expected {length}")
    return rest
