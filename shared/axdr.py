"""A-XDR values: built within the bounds of their types, and parsed only after they were measured. Pure.

The values are the library's (`dlms_cosem.dlms_data`); what it decodes and cannot encode is completed here.
"""

from __future__ import annotations

from typing import Any, Final

from dlms_cosem import cosem, dlms_data

from shared.errors import DecodeError

DEPTH_MAX: Final = 4
"""Deepest nesting of structures accepted."""

CosemValue = dlms_data.AbstractDlmsData
"""A typed A-XDR value (`dlms_cosem.dlms_data`)."""


def expect_length(data: bytes, length: int, what: str) -> None:
    """Refuse bytes of another length (DecodeError)."""
    if len(data) != length:
        raise DecodeError(f"{what}: seen {len(data)} bytes, expected {length}")


def scaled(value: float, scale: int) -> int:
    """A value in the wire's unit; ValueError or OverflowError for NaN and infinities."""
    return round(value * scale)


def unscaled(raw: int | None, scale: int) -> float | None:
    """A value back from the wire's unit."""
    return None if raw is None else raw / scale


class Null(dlms_data.NullData):
    """null-data; the library decodes it and cannot encode it."""

    def value_to_bytes(self) -> bytes:
        return b""


class Boolean(dlms_data.BooleanData):
    """A boolean; the library decodes it and cannot encode it."""

    def value_to_bytes(self) -> bytes:
        return bytes((bool(self.value),))


def null() -> CosemValue:
    """null-data: unknown."""
    return Null(None)


def structure(*fields: CosemValue) -> CosemValue:
    """A structure of these."""
    return dlms_data.DataStructure(list(fields))


def octets(value: bytes) -> CosemValue:
    """An octet-string."""
    return dlms_data.OctetStringData(value)


def _fits(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"seen {value}, expected {low} to {high}")
    return int(value)


def u16(value: int) -> CosemValue:
    """A number of at most 16 bits, as the smallest unsigned type that holds it; ValueError if none does."""
    return _unsigned(_fits(value, 0, 0xFFFF))


def u32(value: int) -> CosemValue:
    """The same for at most 32 bits."""
    return _unsigned(_fits(value, 0, 0xFFFFFFFF))


def u64(value: int) -> CosemValue:
    """The same for at most 64 bits."""
    return _unsigned(_fits(value, 0, 0xFFFFFFFFFFFFFFFF))


def i32(value: int) -> CosemValue:
    """A number of at most 32 bits with its sign, as the smallest type that holds it; ValueError if none does."""
    value = _fits(value, -0x80000000, 0x7FFFFFFF)
    if -0x80 <= value <= 0x7F:
        return dlms_data.IntegerData(value)
    if -0x8000 <= value <= 0x7FFF:
        return dlms_data.LongData(value)
    return dlms_data.DoubleLongData(value)


def _unsigned(value: int) -> CosemValue:
    if value <= 0xFF:
        return dlms_data.UnsignedIntegerData(value)
    if value <= 0xFFFF:
        return dlms_data.UnsignedLongData(value)
    if value <= 0xFFFFFFFF:
        return dlms_data.DoubleLongUnsignedData(value)
    return dlms_data.UnsignedLong64Data(value)


def enum(value: int) -> CosemValue:
    """The value as an enum; ValueError if it does not fit."""
    return dlms_data.EnumData(_fits(value, 0, 0xFF))


def to_obis(text: str) -> cosem.Obis:
    """The library's form of an OBIS code."""
    return cosem.Obis(*obis_bytes(text))


def obis_bytes(text: str) -> bytes:
    """The six bytes of an OBIS code, which are a logical name."""
    parts = text.replace("-", ".").replace(":", ".").split(".")
    if len(parts) != 6:
        raise ValueError(f"OBIS code: seen {text!r}, expected six groups such as 1-0:1.8.0.255")
    return bytes(int(part) for part in parts)


def obis_text(name: bytes) -> str:
    """The OBIS code of a logical name."""
    a, b, c, d, e, f = name
    return f"{a}-{b}:{c}.{d}.{e}.{f}"


_FIXED_BYTES: Final = {0: 0, 3: 1, 5: 4, 6: 4, 15: 1, 16: 2, 17: 1, 18: 2, 20: 8, 21: 8, 22: 1}
_COUNTED: Final = frozenset((9, 10))
_NESTED: Final = frozenset((1, 2))


def _end_of(data: bytes, at: int, depth: int) -> int:
    """Where the value that starts at ``at`` ends; refuses what is cut short, too deep or of a type we never use.

    The library's parser takes an empty rest for an endless row of nulls; nothing may reach it unmeasured.
    """
    tag = data[at]
    if tag in _FIXED_BYTES:
        end = at + 1 + _FIXED_BYTES[tag]
    elif tag in _COUNTED:
        end = at + 2 + _short_count(data, at + 1)
    elif tag in _NESTED and depth < DEPTH_MAX:
        end = at + 2
        for _ in range(_short_count(data, at + 1)):
            end = _end_of(data, end, depth + 1)
    else:
        raise DecodeError(f"A-XDR: seen type {tag} at byte {at}, expected one of the types in use")
    if end > len(data):
        raise DecodeError(f"A-XDR: seen {len(data)} bytes, expected at least {end}")
    return end


def _short_count(data: bytes, at: int) -> int:
    count = data[at]
    if count > 0x7F:
        raise DecodeError(f"A-XDR: seen a length in long form at byte {at}, expected at most 127")
    return count


def parse(data: bytes) -> object:
    """The one value in these bytes, in Python's types (DecodeError)."""
    end = _end_of(data, 0, 0)
    expect_length(data, end, "A-XDR value")
    (value,) = dlms_data.DlmsDataParser().parse(data)
    return value.to_python()


def parse_structure(data: bytes) -> list[Any]:
    """The elements of the one structure in these bytes (DecodeError)."""
    value = parse(data)
    if data[0] != dlms_data.DataStructure.TAG or not isinstance(value, list):
        raise DecodeError(f"A-XDR: seen type {data[0]}, expected a structure")
    return value
