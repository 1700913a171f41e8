"""Where everything of a ledger lies in its directory, and its key.

``ledger.lock``; ``ledger/public`` (tiles: may be served and copied), ``ledger/private`` (key, journal, parts: never);
``ended-K`` is the same for a log that could not go on.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dcu.ledger.files import PRIVATE
from dcu.ledger.note import SEED_BYTES, Signer, is_key_name
from dcu.ledger.tiles import CHECKPOINT, number_path
from shared.errors import DecodeError, HeadroomError

LOCK: Final = "ledger.lock"
FORMER: Final = "decisions.ledger"
"""A file of format 1; nothing here reads it, and nothing may overlook it: epochs would begin again."""

ORIGIN: Final = "headroom"
"""First part of the origin of a log whose configuration names none."""


class LedgerError(HeadroomError):
    """The ledger cannot be written any more, or is not ours to open."""


@dataclass(frozen=True, slots=True)
class Place:
    """One log's directories."""

    base: Path

    @property
    def public(self) -> Path:
        """What anybody may have."""
        return self.base / "public"

    @property
    def private(self) -> Path:
        """What nobody else may have."""
        return self.base / PRIVATE

    @property
    def key(self) -> Path:
        """The seed of the log's key."""
        return self.private / "key"

    @property
    def checkpoint(self) -> Path:
        """The newest published head."""
        return self.public / CHECKPOINT

    def parts(self, number: int) -> Path:
        """The parts of a full bundle's entries."""
        return self.private / "parts" / number_path(number)


@dataclass(frozen=True, slots=True)
class PublicCopy(Place):
    """What an outsider has: the public directory alone."""

    @property
    def public(self) -> Path:
        """All of it."""
        return self.base

    @property
    def private(self) -> Path:
        """Not here."""
        return self.base / PRIVATE


def current(directory: Path) -> Place:
    """The log that is written."""
    return Place(directory / "ledger")


def ended(directory: Path) -> list[Place]:
    """Logs that could not go on, oldest first."""
    found = [p for p in directory.glob("ended-*") if p.name[6:].isdigit()]
    return [Place(path) for path in sorted(found, key=lambda p: int(p.name[6:]))]


def origin_of(name: str, generation: int) -> str:
    """The origin of a DCU's first log, second log and so on: two logs never share one."""
    assert is_key_name(name), name
    return name if generation == 1 else f"{name}/{generation}"


def pack_key(seed: bytes) -> bytes:
    """A key file; the second word tells a damaged one."""
    return f"{base64.b64encode(seed).decode()} {hashlib.sha256(seed).hexdigest()[:16]}\n".encode()


def read_key(path: Path, origin: str) -> Signer:
    """The log's key.

    Raises:
        DecodeError: damaged.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        seed = base64.b64decode(data.split(b" ")[0], validate=True)
    except ValueError as error:
        raise DecodeError(f"{path}: no key") from error
    if len(seed) != SEED_BYTES or pack_key(seed) != data:
        raise DecodeError(f"{path}: the key is damaged")
    return Signer(origin, seed)
