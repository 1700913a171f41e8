"""Commands of the utility: what one may say, and whether one is to be believed. Pure.

A command is a JSON object that is signed (Ed25519 over its RFC 8785 form), addressed, numbered and expiring. It acts at
most once: a number is spent by the first authentic command that carries it, whatever comes of it. Nothing that is
refused here has changed anything.

Wall time decides one thing in this house, and this is it: whether a command has expired. With a clock that was never
set every command is refused; nothing else depends on it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, TypeAdapter, ValidationError

from dcu.ledger.canonical import WHOLE_MAX, canonical
from shared.config import Section
from shared.errors import DecodeError

VERSION: Final = 1
BYTES_MAX: Final = 1 << 16
"""Of a command with its signature; two thousand limits fit."""
DEPTH_MAX: Final = 8
METERS_MAX: Final = 2000

CONTEXT: Final = b"headroom-command/1\n"
"""Stands before the canonical bytes when they are signed, so that a signature can mean nothing else."""
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

VALID_S_MAX: Final = 86_400
"""[s] From issue to expiry."""
AHEAD_S_MAX: Final = 300
"""[s] By which the utility's clock may be ahead of ours."""
CLOCK_SET_UTC_S: Final = 1_767_225_600
"""[s, Unix] 1 January 2026. A clock before it was never set."""

HOLD_S_MAX: Final = 3600.0


_BRACKETS: Final = re.compile(rb"[\[\]{}]")


class Refusal(StrEnum):
    """Why a command does nothing."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    DOUBLE_KEY = "double_key"
    BAD_NUMBER = "bad_number"
    BAD_FORM = "bad_form"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    RETAINED = "retained"
    UNKNOWN_VERSION = "unknown_version"
    OTHER_DCU = "other_dcu"
    OLD_NUMBER = "old_number"
    UNKNOWN_ORDER = "unknown_order"
    CLOCK_UNSET = "clock_unset"
    NOT_YET = "not_yet"
    EXPIRED = "expired"
    UNKNOWN_METER = "unknown_meter"
    ABOVE_CONFIGURED = "above_configured"
    NOT_HERE = "not_here"
    """The order makes no sense at this site: no model, no such file, no such entry."""
    OTHER_FEEDER = "other_feeder"


# ---- what can be ordered ---------------------------------------------------------------------------------------------

MeterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")]
Watts = Annotated[float, Field(ge=0.0, le=1e7)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Whole = Annotated[int, Field(ge=0, le=WHOLE_MAX)]


class SetNominalLimits(Section):
    """Other nominal limits (OpenADR: EXPORT_CAPACITY_SUBSCRIPTION) [W], never above those that are configured."""

    kind: Literal["set_nominal_limits"]
    limits: Annotated[dict[MeterName, Watts], Field(min_length=1, max_length=METERS_MAX)]


class SetPolicy(Section):
    """How capacity is shared."""

    kind: Literal["set_policy"]
    policy: Literal["equal", "proportional", "first_come", "max_total"]


class SetBand(Section):
    """The band for decisions [% of nominal]."""

    kind: Literal["set_band"]
    band_pct: Annotated[float, Field(gt=0.0, le=10.0)]


class LoadModel(Section):
    """The compiled feeder to decide with, by the SHA-256 of its file in the model directory."""

    kind: Literal["load_model"]
    sha256: Sha256


class RevokeAll(Section):
    """Every grant ends at once; for ``hold_s`` nothing is granted."""

    kind: Literal["revoke_all"]
    hold_s: Annotated[float, Field(ge=0.0, le=HOLD_S_MAX)] = 0.0


class GiveReceipt(Section):
    """The proof that the ledger has an entry; with a customer's values if one is named."""

    kind: Literal["give_receipt"]
    position: Whole
    meter: MeterName | None = None


TELL_AGAIN_MAX: Final = 1000
"""Entries of the ledger that one command has looked at."""


class TellAgain(Section):
    """The decisions among some entries of the ledger are told once more, under their names."""

    kind: Literal["tell_again"]
    position: Whole
    count: Annotated[int, Field(ge=1, le=TELL_AGAIN_MAX)]


Order = SetNominalLimits | SetPolicy | SetBand | LoadModel | RevokeAll | GiveReceipt | TellAgain
_ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
KINDS: Final = frozenset(
    {"set_nominal_limits", "set_policy", "set_band", "load_model", "revoke_all", "give_receipt", "tell_again"}
)


class _Heading(Section):
    """Everything of a command but its order."""

    version: Literal[1]
    dcu: Annotated[str, Field(max_length=64)]
    number: Annotated[int, Field(ge=1, le=WHOLE_MAX)]
    issued_utc_s: Whole
    expires_utc_s: Whole
    order: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """An authentic command for this DCU, in time and for the first time."""

    number: int
    sha256: str
    key: str
    order: Order

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        told = order_entry(self.order)
        return {"number": self.number, "sha256": self.sha256, "key": self.key, "order": told}


@dataclass(frozen=True, slots=True)
class Refused:
    """Bytes that do nothing.

    Attributes:
        why: in a word; detail: in some more.
        sha256: of the bytes.
        authentic: whether one of our keys has signed it: only then it is answered, and spends its number.
        number: of an authentic one, if it has a sensible number for us.
    """

    why: Refusal
    detail: str
    sha256: str
    authentic: bool = False
    number: int | None = None
    key: str | None = None

    def as_entry(self) -> dict[str, Any]:
        """For the ledger."""
        told = {"number": self.number, "sha256": self.sha256, "key": self.key}
        return {**told, "refused": self.why.value, "detail": self.detail}


def order_entry(order: Order) -> dict[str, Any]:
    """An order as JSON."""
    return order.model_dump()


def parse_order(content: Any) -> Order:
    """An order from JSON.

    Raises:
        DecodeError: not one.
    """
    try:
        return _ORDER.validate_python(content)
    except ValidationError as error:
        raise DecodeError(f"order: {_first(error)}") from error


# ---- keys ------------------------------------------------------------------------------------------------------------


def key_id(public: bytes) -> str:
    """What a public key is called: eight digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:8]


def parse_public(text: str) -> bytes:
    """A public key from base64.

    Raises:
        DecodeError: not 32 bytes in base64.
    """
    try:
        public = base64.b64decode(text, validate=True)
    except binascii.Error:
        public = b""
    if len(public) != PUBLIC_BYTES:
        raise DecodeError(f"key: seen {text[:60]!r}, expected an Ed25519 public key in base64 (44 characters)")
    return public


def sign(command: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A command with its signature, as it is sent.

    Raises:
        ValueError, TypeError: what JSON cannot keep.
    """
    public = key.public_key().public_bytes_raw()
    signature = key.sign(CONTEXT + canonical(command))
    return canonical(
        {"command": dict(command), "key": key_id(public), "signature": base64.b64encode(signature).decode()}
    )


# ---- judging ---------------------------------------------------------------------------------------------------------


class Judge:
    """Whether a command is to be believed, by the keys of a configuration."""

    def __init__(self, dcu: str, keys: tuple[bytes, ...]) -> None:
        """For one DCU, and the public keys whose holders may command it."""
        self._dcu = dcu
        self._keys = {key_id(public): Ed25519PublicKey.from_public_bytes(public) for public in keys}

    def judge(self, payload: bytes, *, retained: bool, last: int, utc_s: float) -> Command | Refused:
        """A command, or why it is none.

        Args:
            payload: as it came.
            retained: whether the broker had kept it.
            last: highest number that is spent.
            utc_s: [s, Unix].
        """
        found = hashlib.sha256(payload).hexdigest()
        try:
            content, key = self._authentic(payload)
        except _No as no:
            return Refused(no.why, no.detail, found)
        number = _number_of(content) if content.get("dcu") == self._dcu else None
        try:
            _new(number, last, retained=retained)
            heading = self._heading(content)
            order = _order(heading)
            _in_time(heading, utc_s)
        except _No as no:
            spent = None if no.why is Refusal.RETAINED else number
            return Refused(no.why, no.detail, found, authentic=True, number=spent, key=key)
        return Command(heading.number, found, key, order)

    def _authentic(self, payload: bytes) -> tuple[dict[str, Any], str]:
        """The signed object, once its signature holds, and whose it is."""
        match parse_strictly(payload):
            case {"command": dict(content), "key": str(key), "signature": str(text), **rest} if not rest:
                public = self._keys.get(key)
            case _:
                raise _No(Refusal.BAD_FORM, "expected command, key and signature")
        if public is None:
            raise _No(Refusal.UNKNOWN_KEY, f"seen {key[:16]!r}")
        try:
            public.verify(base64.b64decode(text, validate=True), CONTEXT + canonical(content))
        except (InvalidSignature, ValueError, TypeError):
            raise _No(Refusal.BAD_SIGNATURE, f"of key {key}") from None
        return content, key

    def _heading(self, content: dict[str, Any]) -> _Heading:
        if content.get("version") != VERSION:
            raise _No(Refusal.UNKNOWN_VERSION, f"seen {str(content.get('version'))[:20]}, expected {VERSION}")
        try:
            heading = _Heading.model_validate(content)
        except ValidationError as error:
            raise _No(Refusal.BAD_FORM, _first(error)) from None
        if heading.dcu != self._dcu:
            raise _No(Refusal.OTHER_DCU, f"seen {heading.dcu!r}, expected {self._dcu!r}")
        return heading


class _No(Exception):
    """A refusal on its way."""

    def __init__(self, why: Refusal, detail: str) -> None:
        super().__init__(why)
        self.why, self.detail = why, detail[:200]


def _number_of(content: Mapping[str, Any]) -> int | None:
    number = content.get("number")
    return number if type(number) is int and 1 <= number <= WHOLE_MAX else None


def _new(number: int | None, last: int, *, retained: bool) -> None:
    """Looked at before what a command says, because one that is old spends nothing and can come again and again."""
    if retained:
        raise _No(Refusal.RETAINED, "the broker had kept it")
    if number is not None and number <= last:
        raise _No(Refusal.OLD_NUMBER, f"seen {number}, expected more than {last}")


def _order(heading: _Heading) -> Order:
    if heading.order.get("kind") not in KINDS:
        raise _No(Refusal.UNKNOWN_ORDER, f"seen {str(heading.order.get('kind'))[:40]!r}")
    try:
        return parse_order(heading.order)
    except DecodeError as error:
        raise _No(Refusal.BAD_FORM, str(error)) from None


def _in_time(heading: _Heading, utc_s: float) -> None:
    if not utc_s >= CLOCK_SET_UTC_S:
        raise _No(Refusal.CLOCK_UNSET, "the DCU's clock is not set")
    if not heading.issued_utc_s < heading.expires_utc_s <= heading.issued_utc_s + VALID_S_MAX:
        raise _No(Refusal.BAD_FORM, f"expected to expire within {VALID_S_MAX} s of its issue")
    if heading.issued_utc_s > utc_s + AHEAD_S_MAX:
        raise _No(Refusal.NOT_YET, f"issued {heading.issued_utc_s - utc_s:.0f} s from now by the DCU's clock")
    if utc_s > heading.expires_utc_s:
        raise _No(Refusal.EXPIRED, f"{utc_s - heading.expires_utc_s:.0f} s ago by the DCU's clock")


# ---- JSON from a stranger --------------------------------------------------------------------------------------------


def parse_strictly(payload: bytes) -> Any:
    """The value of JSON bytes that are small, shallow, without doubled keys and without numbers that a double loses."""
    if len(payload) > BYTES_MAX:
        raise _No(Refusal.TOO_LARGE, f"{len(payload)} bytes, expected at most {BYTES_MAX}")
    if _too_deep(payload):
        raise _No(Refusal.TOO_DEEP, f"expected at most {DEPTH_MAX} levels")
    try:
        return json.loads(
            payload.decode(),
            object_pairs_hook=_each_once,
            parse_int=_whole,
            parse_float=_real,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise _No(Refusal.NOT_JSON, str(error)) from None


def _too_deep(payload: bytes) -> bool:
    """Levels of brackets are counted; those in texts too, which only makes it stricter."""
    depth = 0
    for bracket in _BRACKETS.finditer(payload):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > DEPTH_MAX:
            return True
    return False


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _No(Refusal.DOUBLE_KEY, "a key twice")
    return found


def _whole(text: str) -> int:
    if len(text) > 17 or abs(value := int(text)) > WHOLE_MAX:
        raise _No(Refusal.BAD_NUMBER, f"seen {text[:24]}, expected a whole number within 2**53")
    return value


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _No(Refusal.BAD_NUMBER, f"seen {text[:24]}")
    return value


def _no_constant(text: str) -> float:
    raise _No(Refusal.BAD_NUMBER, f"seen {text}")


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc'])[:80]}: {detail['msg']}"
