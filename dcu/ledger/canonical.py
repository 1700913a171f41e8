"""RFC 8785 (JSON Canonicalization Scheme): one value, one sequence of bytes.

Keys in the order of their UTF-16 code units, no blanks, numbers as ECMAScript prints a double, UTF-8. What a double or
I-JSON cannot hold (NaN, infinities, whole numbers beyond 2**53, lone surrogates) is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from json.encoder import encode_basestring as quoted
from typing import Any, Final

from shared.errors import DecodeError

WHOLE_MAX: Final = 2**53
"""Beyond it two whole numbers may be the same double (RFC 8785 §3.2.2.3, RFC 7493 §2.2)."""

DEPTH_MAX: Final = 64


def canonical(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        ValueError: a number or text that JSON cannot keep exactly, or nesting beyond `DEPTH_MAX`.
        TypeError: a type that JSON does not have, or a key that is no text.
    """
    parts: list[str] = []
    _write(value, parts.append, DEPTH_MAX)
    return "".join(parts).encode()


def parse_canonical(data: bytes) -> Any:
    """The value of canonical bytes.

    Raises:
        DecodeError: bytes that are no JSON, or not in their one form.
    """
    try:
        value = _DECODER.decode(data.decode())
        if not _is_plain(value, data) and canonical(value) != data:
            raise DecodeError(f"seen {data[:40]!r}, expected canonical JSON (RFC 8785)")
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"seen {data[:40]!r}, expected JSON: {error}") from error
    return value


def _is_plain(value: Any, data: bytes) -> bool:
    """Whether the interpreter's own, faster encoder may judge these bytes, and gives them.

    It differs from ECMAScript in whole and in very large or small doubles, and in the order of keys beyond ASCII.
    """
    if b"e+" in data or b"e-" in data or not data.isascii():
        return False
    if b".0" in data and _WHOLE_DOUBLE.search(data) is not None:
        return False
    return _ENCODER.encode(value).encode() == data


def _parse_whole(text: str) -> int | float:
    """Whole numbers that only a double can have been become one."""
    value = int(text)
    return value if -WHOLE_MAX <= value <= WHOLE_MAX else float(text)


_WHOLE_DOUBLE: Final = re.compile(rb"\.0(?![0-9])")
_DECODER: Final = json.JSONDecoder(parse_int=_parse_whole)
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _write(value: Any, put: Callable[[str], None], depth: int) -> None:
    if isinstance(value, str):
        put(quoted(value))
    elif value is None:
        put("null")
    elif value is True:
        put("true")
    elif value is False:
        put("false")
    elif isinstance(value, int):
        put(_whole(value))
    elif isinstance(value, float):
        put(number(value))
    elif depth == 0:
        raise ValueError(f"seen nesting beyond {DEPTH_MAX}, expected less")
    elif isinstance(value, dict):
        _write_object(value, put, depth - 1)
    elif isinstance(value, list | tuple):
        mark = "["
        for item in value:
            put(mark)
            _write(item, put, depth - 1)
            mark = ","
        put("]" if value else "[]")
    else:
        raise TypeError(f"seen {type(value).__name__}, expected a JSON type")


def _write_object(value: dict[Any, Any], put: Callable[[str], None], depth: int) -> None:
    mark = "{"
    for key in ordered(value):
        put(mark)
        put(quoted(key))
        put(":")
        _write(value[key], put, depth)
        mark = ","
    put("}" if value else "{}")


def ordered(keys: Any) -> list[str]:
    """Keys as RFC 8785 §3.2.3 orders them."""
    if "".join(keys).isascii():
        return sorted(keys)
    return sorted(keys, key=lambda key: key.encode("utf-16-be"))


def _whole(value: int) -> str:
    if not -WHOLE_MAX <= value <= WHOLE_MAX:
        raise ValueError(f"seen {value}, expected a whole number within 2**53 (write longer ones as text)")
    return int.__repr__(value)


def number(value: float) -> str:
    """A double as ECMAScript's Number::toString prints it (RFC 8785 §3.2.2.3)."""
    if not math.isfinite(value):
        raise ValueError(f"seen {value}, which JSON does not have")
    if value == 0:
        return "0"
    if value.is_integer() and -WHOLE_MAX <= value <= WHOLE_MAX:
        return int.__repr__(int(value))
    text = float.__repr__(value)  # the shortest digits that read back as the same double, as ECMAScript's
    return _in_ecmascript_form(text) if "e" in text or text.endswith(".0") else text


def _in_ecmascript_form(text: str) -> str:
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).strip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len((whole + fraction).lstrip("0")))
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"
