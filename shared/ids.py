"""Identifiers: each is a type of its own, so that one cannot be passed for another."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NewType

from shared.errors import DecodeError

MeterId = NewType("MeterId", str)
"""Name of a meter in configuration, messages to people and the ledger, e.g. ``meter-1``."""

BusId = NewType("BusId", str)
"""Name of a grid point of the feeder."""

RequestId = NewType("RequestId", int)
"""What a meter calls one request of its household; 32 bit, repeated when the request is repeated."""

Nonce = NewType("Nonce", int)
"""64 bit drawn by a meter for one report or request; a grant answers exactly one."""

Epoch = NewType("Epoch", int)
"""Number of a DCU's start; rises with every start, 32 bit."""

Eui48 = NewType("Eui48", bytes)
"""Hardware address of a PRIME node, six bytes."""


class Phase(IntEnum):
    """Phase of the feeder; the value is the index into every per-phase tuple."""

    L1 = 0
    L2 = 1
    L3 = 2


_EUI48: Final = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


def parse_eui48(text: str) -> Eui48:
    """Six bytes from ``AA:BB:CC:DD:EE:01`` (or with ``-``).

    Raises:
        DecodeError: the text is not six pairs of hexadecimal digits.
    """
    if not _EUI48.fullmatch(text):
        seen = text if len(text) < 40 else f"{text[:40]}..."
        raise DecodeError(f"EUI-48: seen {seen!r}, expected six pairs of hexadecimal digits such as AA:BB:CC:DD:EE:01")
    return Eui48(bytes.fromhex(text.replace("-", "").replace(":", "")))


def is_device(eui48: bytes) -> bool:
    """Whether this is one device's address: of no group, and not zero."""
    return not eui48[0] & 1 and any(eui48)


def parse_device(text: str) -> Eui48:
    """One device's address.

    Raises:
        DecodeError: it is none, or a group's, or zero.
    """
    eui48 = parse_eui48(text)
    if not is_device(eui48):
        raise DecodeError(f"EUI-48: seen {text!r}, expected a device's address, of no group and not zero")
    return eui48


def format_eui48(eui48: bytes) -> str:
    """``AA:BB:CC:DD:EE:01`` from six bytes."""
    assert len(eui48) == 6, eui48
    return ":".join(f"{byte:02X}" for byte in eui48)
