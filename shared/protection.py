"""Protection of APDUs: DLMS security suite 0, authenticated encryption by AES-GCM-128, a tag of 12 bytes. Pure.

What is known here is the envelope: which bytes go round an APDU, what is encrypted and what only authenticated. Who has
which keys, whether a counter may be used or accepted, and who is fresh is `shared.session`'s business.

An envelope is one of two (tags recalled from the Green Book; the library carries general-glo-ciphering only):

* the service's own ciphered APDU, glo-get-request to glo-action-response, for GET, SET and ACTION;
* general-glo-ciphering for a DataNotification, and for everything that has to name its sender. Its system title is
  empty where the receiver knows it already, which saves eight bytes of airtime.

A reading tool that has brought a dedicated key into its association uses the same two, under tags of their own
(ded-get-request to ded-action-response, general-ded-ciphering): `as_global` and `as_dedicated` are all there is to it.

Both carry the security control byte, the invocation counter (4 bytes), the encrypted APDU and the tag. The
initialisation vector is the sender's system title and the counter; additionally authenticated are the control byte and
the authentication key. Nothing authenticates the tag of the envelope itself: an envelope that does not fit the APDU in
it is refused (`Spliced`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import keywrap
from dlms_cosem import exceptions, security

from shared.errors import DecodeError

KEY_BYTES: Final = 16
TITLE_BYTES: Final = 8
TAG_BYTES: Final = security.TAG_LENGTH
COUNTER_MAX: Final = 0xFFFFFFFF
"""Invocation counters have 32 bits; nothing is sent under a key beyond this."""

WRAPPED_BYTES: Final = KEY_BYTES + 8
"""A key wrapped by RFC 3394."""

GENERAL_GLO: Final = 0xDB
SERVICES: Final = {0xC0: 0xC8, 0xC1: 0xC9, 0xC3: 0xCB, 0xC4: 0xCC, 0xC5: 0xCD, 0xC7: 0xCF}
"""Tag of an APDU -> tag of its own ciphered form."""

DEDICATED: Final = {GENERAL_GLO: 0xDC, 0xC8: 0xD0, 0xC9: 0xD1, 0xCB: 0xD3, 0xCC: 0xD4, 0xCD: 0xD5, 0xCF: 0xD7}
"""Tag of an envelope under a global key -> the tag it has under a dedicated one."""

_PLAIN_OF: Final = {glo: plain for plain, glo in SERVICES.items()}
_GLOBAL_OF: Final = {dedicated: glo for glo, dedicated in DEDICATED.items()}
_PAIRWISE: Final = security.SecurityControlField(0, authenticated=True, encrypted=True)
_GROUP: Final = security.SecurityControlField(0, authenticated=True, encrypted=True, broadcast_key=True)
_CONTROLS: Final = {0x30: _PAIRWISE, 0x70: _GROUP}
_CONTROL_BYTES: Final = {False: b"\x30", True: b"\x70"}
_HEADER_BYTES: Final = 5
_ENVELOPE_BYTES_MAX: Final = 1021


@dataclass(frozen=True, slots=True)
class PairKeys:
    """Encryption key and authentication key, 16 bytes each; never printed."""

    encryption: bytes = field(repr=False)
    authentication: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.encryption) == KEY_BYTES, len(self.encryption)
        assert len(self.authentication) == KEY_BYTES, len(self.authentication)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A protected APDU, not opened yet.

    Attributes:
        tag: of the envelope.
        title: the sender's system title as the envelope names it; empty where it does not.
        group: whether the broadcast key was used.
        counter: invocation counter.
        content: encrypted APDU and tag.
    """

    tag: int
    title: bytes
    group: bool
    counter: int
    content: bytes


class Spliced(DecodeError):
    """An envelope round an APDU that does not belong into it."""


def is_protected(data: bytes) -> bool:
    """Whether these bytes claim to be an envelope under a global key."""
    return bool(data) and (data[0] == GENERAL_GLO or data[0] in _PLAIN_OF)


def as_global(data: bytes) -> bytes | None:
    """An envelope under a dedicated key, with the tag that it would have under a global one; None if it is no such."""
    tag = _GLOBAL_OF.get(data[0]) if data else None
    return None if tag is None else bytes((tag,)) + data[1:]


def as_dedicated(envelope: bytes) -> bytes:
    """The other way round: what `protect` has made, for a receiver with whom a dedicated key is used."""
    return bytes((DEDICATED[envelope[0]],)) + envelope[1:]


def protect(plain: bytes, keys: PairKeys, title: bytes, counter: int, *, named: bool = False) -> bytes:
    """The envelope of an APDU.

    Args:
        plain: the APDU.
        keys: of the pair.
        title: the sender's system title.
        counter: a number never used with these keys and this title before, nor after.
        named: whether the envelope names the title.
    """
    content = _seal(_PAIRWISE, plain, keys, title, counter)
    own_tag = SERVICES.get(plain[0])
    if own_tag is None or named:
        name = title if named else b""
        return bytes((GENERAL_GLO, len(name))) + name + _length(len(content)) + content
    return bytes((own_tag,)) + _length(len(content)) + content


def protect_group(plain: bytes, keys: PairKeys, title: bytes, counter: int) -> bytes:
    """The same under a street's broadcast keys; whoever opens it may only lower."""
    content = _seal(_GROUP, plain, keys, title, counter)
    return bytes((GENERAL_GLO, 0)) + _length(len(content)) + content


def parse(data: bytes) -> Envelope:
    """The parts of an envelope.

    Raises:
        DecodeError: these bytes are none.
    """
    if not is_protected(data) or len(data) > _ENVELOPE_BYTES_MAX:
        raise DecodeError(f"envelope: seen {data[:1].hex()!r} and {len(data)} bytes, expected a ciphered APDU")
    at, title = 1, b""
    if data[0] == GENERAL_GLO:
        size = data[1] if len(data) > 1 else -1
        if size not in {0, TITLE_BYTES}:
            raise DecodeError(f"envelope: seen a system title of {size} bytes, expected {TITLE_BYTES} or none")
        at, title = 2 + size, data[2 : 2 + size]
    at, length = _parse_length(data, at)
    content = data[at:]
    if len(content) != length or length <= _HEADER_BYTES + TAG_BYTES:
        raise DecodeError(f"envelope: seen {len(content)} bytes, expected {length} and more than a header and a tag")
    control = _CONTROLS.get(content[0])
    if control is None:
        raise DecodeError(f"envelope: seen security control {content[0]:#04x}, expected suite 0, both protections")
    counter = int.from_bytes(content[1:_HEADER_BYTES], "big")
    return Envelope(data[0], title, control is _GROUP, counter, content[_HEADER_BYTES:])


def reveal(envelope: Envelope, keys: PairKeys, title: bytes) -> bytes | None:
    """The APDU in an envelope of the sender with this title; None if it is not authentic under these keys.

    Raises:
        Spliced: it is authentic, and belongs into another envelope.
    """
    try:
        plain = bytes(
            security.decrypt(
                _GROUP if envelope.group else _PAIRWISE,
                title,
                envelope.counter,
                keys.encryption,
                envelope.content,
                keys.authentication,
            )
        )
    except exceptions.DecryptionError:
        return None
    if envelope.tag != GENERAL_GLO and plain[0] != _PLAIN_OF[envelope.tag]:
        raise Spliced(f"envelope {envelope.tag:#04x}: seen APDU {plain[0]:#04x} in it")
    return plain


def wrap(master: bytes, key: bytes) -> bytes:
    """A key for transport (RFC 3394)."""
    return keywrap.aes_key_wrap(master, key)


def unwrap(master: bytes, wrapped: bytes) -> bytes | None:
    """The key in a wrapped one; None if it was not wrapped under this master key.

    The library's own function refuses every wrapped key (it expects 16 bytes where 24 come).
    """
    if len(wrapped) != WRAPPED_BYTES:
        return None
    try:
        return keywrap.aes_key_unwrap(master, wrapped)
    except keywrap.InvalidUnwrap:
        return None


def find(envelope: Envelope, candidates: Iterable[tuple[str, PairKeys, bytes]]) -> str | None:
    """Whose envelope it is: the first of (name, keys, title) that opens it."""
    for name, keys, title in candidates:
        try:
            if reveal(envelope, keys, envelope.title or title) is not None:
                return name
        except Spliced:
            return name
    return None


def _seal(control: security.SecurityControlField, plain: bytes, keys: PairKeys, title: bytes, counter: int) -> bytes:
    assert plain, "there is an APDU"
    assert 0 <= counter <= COUNTER_MAX, counter
    sealed = security.encrypt(control, title, counter, keys.encryption, plain, keys.authentication)
    return _CONTROL_BYTES[control is _GROUP] + counter.to_bytes(4, "big") + sealed


def _length(length: int) -> bytes:
    """A length as A-XDR has it."""
    if length < 0x80:
        return bytes((length,))
    if length <= 0xFF:
        return bytes((0x81, length))
    return b"\x82" + length.to_bytes(2, "big")


def _parse_length(data: bytes, at: int) -> tuple[int, int]:
    """Where the content begins, and its length; only the shortest form of a length is one."""
    if at >= len(data):
        raise DecodeError("envelope: seen its end, expected a length")
    extra = data[at] - 0x80 if data[at] in {0x81, 0x82} else 0
    raw = data[at + 1 : at + 1 + extra] if extra else data[at : at + 1]
    length = int.from_bytes(raw, "big")
    if data[at : at + 1 + extra] != _length(length):
        raise DecodeError(f"envelope: seen a length {data[at : at + 3].hex(' ')}, expected its shortest form")
    return at + 1 + extra, length
