"""COSEM form of what secures a connection: introductions, wrapped keys, the clock.

==================  =====================  ============  =================================================
OBIS                object                 service       value
==================  =====================  ============  =================================================
0-0:128.8.0.255     session (class 1)      push, SET     challenge, echo or null, known
0-0:43.0.0.255      security setup (64)    ACTION 2      array of key id and wrapped key (global_key_transfer): a
                                                         meter's pair, or its street's group keys
0-0:1.0.0.255       clock (8)              SET 2         date-time in UTC
==================  =====================  ============  =================================================

A session is introduced by a push where a meter speaks and by an unconfirmed SET where a DCU speaks. The numbers of
classes, methods and keys are recalled from the Blue Book and not checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dlms_cosem import cosem, dlms_data, enumerations
from dlms_cosem.protocol.xdlms.action import ActionRequestNormal, ActionResponseNormal
from dlms_cosem.protocol.xdlms.data_notification import DataNotification, LongInvokeIdAndPriority
from dlms_cosem.protocol.xdlms.invoke_id_and_priority import InvokeIdAndPriority
from dlms_cosem.protocol.xdlms.set import SetRequestNormal

from shared.axdr import Boolean, expect_length, null, obis_bytes, octets, parse, structure, to_obis, u64
from shared.errors import DecodeError

OBIS_SESSION: Final = "0-0:128.8.0.255"
OBIS_SECURITY_SETUP: Final = "0-0:43.0.0.255"
OBIS_CLOCK: Final = "0-0:1.0.0.255"

CLASS_CLOCK: Final = 8
CLASS_SECURITY_SETUP: Final = 64
TRANSFER_METHOD: Final = 2
TIME_ATTRIBUTE: Final = 2
WRAPPED_KEYS_MAX: Final = 3

KEY_ENCRYPTION: Final = 0
KEY_BROADCAST: Final = 1
KEY_AUTHENTICATION: Final = 2

KEY_BROADCAST_AUTHENTICATION: Final = 128
"""Ours: DLMS knows one authentication key for everything, a street's group has one of its own."""

CLOCK_STATUS_UNKNOWN: Final = 0xFF
"""Nobody vouches for a wall clock here; nothing is decided by one."""

YEARS: Final = (2020, 2105)
"""A date-time outside these years is a mistake."""


@dataclass(frozen=True, slots=True)
class Hello:
    """How one end introduces itself after it has started.

    Attributes:
        challenge: drawn by the sender; who echoes it is alive now. 64 bit.
        echo: the receiver's own challenge, if the sender has seen one.
        known: whether the sender takes the receiver for fresh already.
    """

    challenge: int
    echo: int | None
    known: bool


@dataclass(frozen=True, slots=True)
class Introduced:
    """An introduction arrived."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class KeysSent:
    """An ACTION that carries wrapped keys, each behind its number."""

    keys: tuple[tuple[int, bytes], ...]
    invoke_id: int


@dataclass(frozen=True, slots=True)
class ActionAnswered:
    """The answer to an ACTION; ``result`` 0 is success."""

    invoke_id: int
    result: int


@dataclass(frozen=True, slots=True)
class ClockWritten:
    """A SET of the clock [s]."""

    utc_s: float
    invoke_id: int
    confirmed: bool


def encode_introduction(hello: Hello, *, down: bool) -> bytes:
    """The APDU of an introduction, as a DCU sends it (``down``) or as a meter does."""
    fields = [
        u64(hello.challenge),
        null() if hello.echo is None else u64(hello.echo),
        Boolean(hello.known),
    ]
    if down:
        descriptor = cosem.CosemAttribute(enumerations.CosemInterface.DATA, to_obis(OBIS_SESSION), 2)
        invoke = InvokeIdAndPriority(0, confirmed=False)
        apdu: bytes = SetRequestNormal(
            descriptor, structure(*fields).to_bytes(), invoke_id_and_priority=invoke
        ).to_bytes()
        return apdu
    body = structure(octets(obis_bytes(OBIS_SESSION)), *fields).to_bytes()
    return _bytes(DataNotification(LongInvokeIdAndPriority(0), None, body))


def decode_introduction(fields: list[object]) -> Introduced:
    """An introduction from its fields.

    Raises:
        DecodeError: they are none.
    """
    if len(fields) != 3:
        raise DecodeError(f"introduction: seen {len(fields)} fields, expected 3")
    challenge, echo, known = fields
    if not isinstance(challenge, int) or not isinstance(echo, int | None) or not isinstance(known, bool):
        raise DecodeError("introduction: seen other types, expected challenge, echo or null, boolean")
    return Introduced(Hello(challenge, echo, known))


def encode_keys(wrapped: dict[int, bytes], invoke_id: int) -> bytes:
    """The ACTION that carries wrapped keys."""
    method = cosem.CosemMethod(
        enumerations.CosemInterface.SECURITY_SETUP, to_obis(OBIS_SECURITY_SETUP), TRANSFER_METHOD
    )
    data = [structure(dlms_data.EnumData(number), octets(key)) for number, key in sorted(wrapped.items())]
    invoke = InvokeIdAndPriority(invoke_id & 0xF)
    return _bytes(ActionRequestNormal(method, dlms_data.DataArray(data).to_bytes(), invoke))


def decode_action(data: bytes) -> KeysSent:
    """The wrapped keys of an ACTION.

    Raises:
        DecodeError: another method, or no such data.
    """
    if len(data) < 14 or data[1] != 1 or data[12] != 1:
        raise DecodeError(f"ACTION: seen {data[:13].hex(' ')}, expected a normal request with data")
    request = ActionRequestNormal.from_bytes(data)
    method = request.cosem_method
    seen = (int(method.interface), method.instance.to_string(), method.method)
    if seen != (CLASS_SECURITY_SETUP, OBIS_SECURITY_SETUP, TRANSFER_METHOD):
        raise DecodeError(f"ACTION: seen class {seen[0]} {seen[1]} method {seen[2]}, expected the transfer of keys")
    content = parse(bytes(data[13:]))
    if not isinstance(content, list) or not 0 < len(content) <= WRAPPED_KEYS_MAX:
        raise DecodeError("ACTION: seen no array of one to three keys")
    keys: dict[int, bytes] = {}
    for item in content:
        number, key = item
        if not isinstance(number, int) or not isinstance(key, bytes | bytearray) or number in keys:
            raise DecodeError("ACTION: seen other types or a number twice, expected key ids and wrapped keys")
        keys[number] = bytes(key)
    return KeysSent(tuple(keys.items()), request.invoke_id_and_priority.invoke_id)


def encode_action_answer(invoke_id: int, result: enumerations.ActionResultStatus) -> bytes:
    """The answer to an ACTION without data."""
    return _bytes(ActionResponseNormal(result, InvokeIdAndPriority(invoke_id & 0xF)))


def decode_action_answer(data: bytes) -> ActionAnswered:
    """The answer to an ACTION, without data.

    Raises:
        DecodeError: it is none, or it carries data.
    """
    expect_length(data, 5, "ACTION answer")
    answer = ActionResponseNormal.from_bytes(data)
    return ActionAnswered(answer.invoke_id_and_priority.invoke_id, int(answer.status))


def encode_clock(utc_s: float) -> bytes:
    """The unconfirmed SET of a clock."""
    descriptor = cosem.CosemAttribute(enumerations.CosemInterface.CLOCK, to_obis(OBIS_CLOCK), TIME_ATTRIBUTE)
    value = octets(date_time(utc_s)).to_bytes()
    return _bytes(SetRequestNormal(descriptor, value, invoke_id_and_priority=InvokeIdAndPriority(0, confirmed=False)))


def decode_clock(request: SetRequestNormal) -> ClockWritten:
    """The time in a SET of the clock.

    Raises:
        DecodeError: another class or attribute, or no date-time.
    """
    attribute = request.cosem_attribute
    seen = (int(attribute.interface), attribute.attribute)
    if seen != (CLASS_CLOCK, TIME_ATTRIBUTE):
        raise DecodeError(f"SET of the clock: seen class {seen[0]} attribute {seen[1]}, expected 8 and 2")
    value = parse(bytes(request.data))
    if not isinstance(value, bytes | bytearray):
        raise DecodeError("SET of the clock: seen no octet-string, expected a date-time")
    invoke = request.invoke_id_and_priority
    return ClockWritten(parse_date_time(bytes(value)), invoke.invoke_id, invoke.confirmed)


def date_time(utc_s: float) -> bytes:
    """COSEM date-time in UTC: year, month, day, weekday, hour to hundredths, deviation 0, clock status unknown."""
    at = datetime.fromtimestamp(utc_s, UTC)
    date = at.year.to_bytes(2, "big") + bytes((at.month, at.day, at.isoweekday()))
    return date + bytes((at.hour, at.minute, at.second, at.microsecond // 10_000, 0, 0, CLOCK_STATUS_UNKNOWN))


def parse_date_time(data: bytes) -> float:
    """Unix seconds [s] of a date-time in UTC.

    Raises:
        DecodeError: unknown fields, no such date, or another zone than UTC.
    """
    expect_length(data, 12, "date-time")
    year = int.from_bytes(data[:2], "big")
    if not YEARS[0] <= year <= YEARS[1] or data[9:11] != b"\x00\x00" or data[8] > 99:
        raise DecodeError(f"date-time: seen {data.hex(' ')}, expected {YEARS[0]} to {YEARS[1]}, UTC")
    try:
        at = datetime(year, data[2], data[3], data[5], data[6], data[7], data[8] * 10_000, UTC)
    except ValueError as error:
        raise DecodeError(f"date-time: seen {data.hex(' ')}, expected a date and a time") from error
    return at.timestamp()


def _bytes(apdu: Any) -> bytes:
    data: bytes = apdu.to_bytes()
    return data
