"""A proof that an entry is in a log, as one text that verifies offline (C2SP tlog-proof)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from dcu.ledger.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from dcu.ledger.note import Checkpoint
from shared.errors import DecodeError

MAGIC: Final = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX: Final = 1 << 24
PATH_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class Proof:
    """An entry's place in the tree of a head.

    Attributes:
        index: the entry's position.
        path: hashes from the leaf's sibling upwards.
        note: the signed head, verbatim.
        extra: what the application adds; nothing vouches for it.
    """

    index: int
    path: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """The proof's text."""
        lines = [MAGIC]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(hashed).decode() for hashed in self.path]
        return ("\n".join(lines) + "\n\n").encode() + self.note

    def proves(self, leaf: bytes, head: Checkpoint) -> bool:
        """Whether an entry's bytes stand at this position under a head."""
        return verify_inclusion(leaf_hash(leaf), self.index, head.size, self.path, head.root)


def parse_proof(data: bytes) -> Proof:
    """A proof's parts; nothing is verified yet.

    Raises:
        DecodeError: not a proof.
    """
    if len(data) > PROOF_BYTES_MAX:
        raise DecodeError(f"proof: seen {len(data)} bytes, expected at most {PROOF_BYTES_MAX}")
    front, mark, note = data.partition(b"\n\n")
    try:
        lines = front.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise DecodeError("proof: characters beyond ASCII before the head") from error
    if not mark or lines[0] != MAGIC:
        raise DecodeError(f"proof: seen {lines[0][:40]!r}, expected {MAGIC}")
    at, extra = 1, None
    if len(lines) > 1 and lines[1].startswith("extra "):
        extra, at = _base64(lines[1][6:]), 2
    if len(lines) <= at or not re.fullmatch(r"index (0|[1-9][0-9]{0,18})", lines[at]):
        raise DecodeError("proof: no index")
    path = tuple(_base64(line) for line in lines[at + 1 :])
    if len(path) > PATH_MAX or any(len(hashed) != HASH_BYTES for hashed in path):
        raise DecodeError(f"proof: seen {len(path)} lines, expected at most {PATH_MAX} hashes")
    return Proof(int(lines[at][6:]), path, note, extra)


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DecodeError(f"proof: seen {text[:40]!r}, expected base64") from error
    if base64.b64encode(data).decode() != text:
        raise DecodeError(f"proof: seen {text[:40]!r}, expected base64 in its one form")
    return data
