"""An entry's two forms: as the house says it, and as the log keeps it (schema ``headroom-entry/1``).

The log keeps canonical JSON with two members more: ``schema``, and ``sealed`` if personal values were taken out. Who is
a customer the log learns from the entries themselves: a ``start`` names all of them in ``nominal_limit_w``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dcu.ledger.canonical import canonical, parse_canonical
from dcu.ledger.seal import NOBODY, Part, Pieces, Salt, join, matches, seal, split, summary
from dcu.ledger.tiles import ENTRY_BYTES_MAX
from shared.errors import DecodeError

SCHEMA: Final = "headroom-entry/1"
START: Final = "start"
CUSTOMERS: Final = "nominal_limit_w"
SHORT: Final = frozenset({"kind", "epoch", "seq", "window", "reason"})
"""Members that stay in an entry however long the rest is."""

FORGOTTEN: Final = "forgotten"


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry as the log keeps it: the bytes that are hashed, and the parts beside them."""

    leaf: bytes
    parts: list[Part]
    epoch: int = 0


class EntryWriter:
    """Turns entries into what is kept; remembers who the customers are."""

    def __init__(self, salt: Salt, customers: frozenset[str] = frozenset()) -> None:
        self._salt = salt
        self.customers = customers

    def keep(self, entry: Mapping[str, Any]) -> Kept:
        """The kept form of an entry.

        Raises:
            ValueError, TypeError: what JSON cannot keep.
        """
        assert not {"schema", "sealed", FORGOTTEN} & entry.keys(), "members that the log itself writes"
        self.customers = customers_of(entry) or self.customers
        public, pieces = split(entry, self.customers)
        public["schema"] = SCHEMA
        while True:
            parts = seal(pieces, self._salt) if pieces else []
            if parts:
                public["sealed"] = summary(parts)
            leaf = canonical(public)
            if len(leaf) <= ENTRY_BYTES_MAX:
                return Kept(leaf, parts, epoch_of(entry))
            _move_longest(public, pieces)


def epoch_of(entry: Mapping[str, Any]) -> int:
    """An entry's epoch; 0 if it has none."""
    epoch = entry.get("epoch")
    return epoch if isinstance(epoch, int) else 0


def customers_of(entry: Mapping[str, Any]) -> frozenset[str]:
    """The customers a start names; nobody in other entries."""
    named = entry.get(CUSTOMERS) if entry.get("kind") == START else None
    return frozenset(named) if isinstance(named, dict) else frozenset()


def _move_longest(public: dict[str, Any], pieces: Pieces) -> None:
    movable = [key for key in public if key not in SHORT and key not in {"schema", "sealed"}]
    longest = max(movable, key=lambda key: len(canonical(public[key])))
    pieces.setdefault(NOBODY, []).append(([longest], public.pop(longest)))


def parse_leaf(leaf: bytes) -> dict[str, Any]:
    """The members of a kept entry.

    Raises:
        DecodeError: not canonical, or of another schema.
    """
    public = parse_canonical(leaf)
    if not isinstance(public, dict) or public.get("schema") != SCHEMA:
        seen = public.get("schema") if isinstance(public, dict) else public
        raise DecodeError(f"entry: seen schema {str(seen)[:40]!r}, expected {SCHEMA}")
    return public


def restore(leaf: bytes, parts: list[Part]) -> dict[str, Any]:
    """The entry as it was said, with what is known of its parts; `FORGOTTEN` counts those that are not.

    Raises:
        DecodeError: entry or parts are not what they claim.
    """
    public = parse_leaf(leaf)
    del public["schema"]
    sealed = public.pop("sealed", None)
    if not matches(parts, sealed):
        raise DecodeError(f"entry: its {len(parts)} parts do not match {sealed}")
    missing = join(public, parts)
    if missing:
        public[FORGOTTEN] = missing
    return public


def restore_public(leaf: bytes) -> dict[str, Any]:
    """The same for somebody who has the log and nothing beside it.

    Raises:
        DecodeError: not an entry.
    """
    public = parse_leaf(leaf)
    del public["schema"]
    sealed = public.pop("sealed", None)
    if isinstance(sealed, dict):
        public[FORGOTTEN] = sealed.get("parts", 0)
    return public
