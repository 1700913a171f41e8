"""Signed notes, checkpoints and cosignatures (C2SP signed-note, tlog-checkpoint, tlog-cosignature v1 with Ed25519)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dcu.ledger.merkle import HASH_BYTES
from shared.errors import DecodeError

NOTE_BYTES_MAX: Final = 1 << 16
SIGNATURES_MAX: Final = 64
SIZE_MAX: Final = 2**63 - 1
SIGNATURE_BYTES: Final = 64
SEED_BYTES: Final = 32


class KeyKind(IntEnum):
    """The signature type's identifier byte (signed-note)."""

    LOG = 0x01
    WITNESS = 0x04


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: key name, key id and what the key made."""

    name: str
    key_id: bytes
    data: bytes

    def line(self) -> str:
        """As it stands in a note."""
        return f"\u2014 {self.name} {base64.b64encode(self.key_id + self.data).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    def with_signatures(self, more: tuple[Signature, ...]) -> Note:
        """The same text with further signatures; one of a key that already signed replaces the earlier."""
        known = {(s.name, s.key_id): s for s in (*self.signatures, *more)}
        return Note(self.text, tuple(known.values()))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head: how many entries, and the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key that somebody trusts, with the name it signs by."""

    name: str
    kind: KeyKind
    public: bytes

    @property
    def key_id(self) -> bytes:
        """First four bytes of SHA-256(name || 0x0A || kind || public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((self.kind,)) + self.public).digest()[:4]

    def vkey(self) -> str:
        """``name+id+key``, as policies and people hand it on (signed-note, verifier keys)."""
        key = base64.b64encode(bytes((self.kind,)) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    @staticmethod
    def parse(vkey: str) -> Verifier:
        """The key in a ``name+id+key``.

        Raises:
            DecodeError: malformed, of a kind that is not ours, or with an id that is not its own.
        """
        name, id_text, key_text = ([*vkey.split("+", 2), "", ""])[:3]
        key = _base64(key_text)
        if not is_key_name(name) or len(key) != 1 + SEED_BYTES or key[0] not in set(KeyKind):
            raise DecodeError(f"seen key {vkey[:80]!r}, expected name+id+key of an Ed25519 key")
        verifier = Verifier(name, KeyKind(key[0]), key[1:])
        if verifier.key_id.hex() != id_text:
            raise DecodeError(f"key {name}: seen id {id_text[:16]!r}, expected {verifier.key_id.hex()}")
        return verifier

    def signed(self, note: Note) -> int | None:
        """When this key cosigned a note [s, Unix]; 0 for a log's own signature; None if it did not sign.

        Raises:
            DecodeError: there is a signature by this key's name and id, and it is wrong.
        """
        for signature in note.signatures:
            if (signature.name, signature.key_id) == (self.name, self.key_id):
                return self._check(note.text, signature.data)
        return None

    def _check(self, text: str, data: bytes) -> int:
        stamped = self.kind is KeyKind.WITNESS
        at_utc_s = int.from_bytes(data[:8], "big") if stamped else 0
        signature = data[8:] if stamped else data
        message = _cosigned(text, at_utc_s) if stamped else text.encode()
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise DecodeError(f"wrong signature by {self.name}") from error
        return at_utc_s


class Signer:
    """A private key with the name it signs by."""

    def __init__(self, name: str, seed: bytes, kind: KeyKind = KeyKind.LOG) -> None:
        assert is_key_name(name), name
        assert len(seed) == SEED_BYTES, len(seed)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, kind, self._key.public_key().public_bytes_raw())
        self._id = self.verifier.key_id

    def sign(self, text: str) -> Note:
        """A note of this log."""
        assert self.verifier.kind is KeyKind.LOG, "witnesses cosign"
        return Note(text, (Signature(self.verifier.name, self._id, self._key.sign(text.encode())),))

    def cosign(self, text: str, at_utc_s: int) -> Signature:
        """A witness's signature over a checkpoint's text."""
        assert self.verifier.kind is KeyKind.WITNESS, "logs sign"
        data = at_utc_s.to_bytes(8, "big") + self._key.sign(_cosigned(text, at_utc_s))
        return Signature(self.verifier.name, self._id, data)


def _cosigned(text: str, at_utc_s: int) -> bytes:
    """tlog-cosignature, "Ed25519 signed message"."""
    return f"cosignature/v1\ntime {at_utc_s}\n{text}".encode()


def is_key_name(name: str) -> bool:
    """Whether a key or a log may be called that (signed-note: no blanks, no plus; not empty)."""
    return bool(name) and "+" not in name and not any(c.isspace() or ord(c) < 0x20 for c in name)


def parse_note(data: bytes) -> Note:
    """A note's parts; nothing is verified yet.

    Raises:
        DecodeError: not a note.
    """
    if len(data) > NOTE_BYTES_MAX:
        raise DecodeError(f"note: seen {len(data)} bytes, expected at most {NOTE_BYTES_MAX}")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"note: no UTF-8 ({error})") from error
    if any(ord(c) < 0x20 and c != "\n" for c in whole):
        raise DecodeError("note: control characters")
    text, mark, lines = whole.rpartition("\n\n")
    if not mark or not lines.endswith("\n"):
        raise DecodeError("note: seen no blank line before signatures that end in a newline")
    signatures = parse_signatures(lines)
    if not signatures:
        raise DecodeError("note: no signature")
    return Note(text + "\n", signatures)


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Signature lines.

    Raises:
        DecodeError: another line among them.
    """
    found = [_signature(line) for line in lines.split("\n")[:-1]]
    if len(found) > SIGNATURES_MAX or not lines.endswith("\n"):
        raise DecodeError(f"note: seen {len(found)} signatures, expected at most {SIGNATURES_MAX} lines")
    return tuple(found)


def _signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, text = rest.partition(" ")
    data = _base64(text)
    if dash != "\u2014" or not is_key_name(name) or len(data) <= 4:
        raise DecodeError(f"note: seen {line[:60]!r}, expected a signature line")
    return Signature(name, data[:4], data[4:])


def parse_checkpoint(text: str) -> Checkpoint:
    """The head in a note's text; extension lines are refused, no log of ours writes any.

    Raises:
        DecodeError: not a checkpoint.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise DecodeError(f"checkpoint: seen {text[:80]!r}, expected origin, size and root")
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]) or int(lines[1]) > SIZE_MAX:
        raise DecodeError(f"checkpoint: seen size {lines[1][:24]!r}, expected a decimal number")
    root = _base64(lines[2])
    if len(root) != HASH_BYTES:
        raise DecodeError(f"checkpoint: seen a root of {len(root)} bytes, expected {HASH_BYTES}")
    return Checkpoint(lines[0], int(lines[1]), root)


def open_checkpoint(data: bytes, log: Verifier) -> tuple[Checkpoint, Note]:
    """A checkpoint that a log has signed.

    Raises:
        DecodeError: malformed, not signed by this log, or of another origin.
    """
    note = parse_note(data)
    found = parse_checkpoint(note.text)
    if log.signed(note) is None:
        raise DecodeError(f"checkpoint of {found.origin}: not signed by {log.vkey()}")
    if found.origin != log.name:
        raise DecodeError(f"checkpoint: seen origin {found.origin}, expected {log.name}")
    return found, note


def _base64(text: str) -> bytes:
    """Bytes in their one form (RFC 4648 §3.5: no stray bits); nothing for what is none."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode() == text else b""
