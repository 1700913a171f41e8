"""Personal values of an entry: they stay beside the log, the log keeps salted hashes of them.

What belongs to one customer in an entry is one *part*: ``[salt, owner, [[path, value], ...]]`` in canonical JSON. The
parts of an entry are the leaves of a Merkle tree of their own (RFC 6962 hashes) whose root stands in the entry, so a
customer's receipt opens his part and nobody else's, and a part can be deleted while the entry still verifies.

Whose is what:

* an object that names a customer by ``meter`` or ``name``, wherever it stands inside an entry;
* a member of an object whose key is a customer;
* a text that is a customer, or begins with one and a blank (a port);
* beside the ``meter`` of a decision, its ``request``;
* a ``view`` that does not name its points, the hash over one that does, and ``readings``: `EVERYBODY`'s, because each
  customer's values are in it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from dcu.ledger.canonical import canonical, ordered, parse_canonical
from dcu.ledger.merkle import HASH_BYTES, inclusion_proof, leaf_hash, root_of
from dcu.ledger.tiles import pyramid
from shared.errors import DecodeError

EVERYBODY: Final = "*"
NOBODY: Final = ""
"""Owner of what is no person's, and only too long for an entry."""

SALT_BYTES: Final = 16
PART_BYTES_MAX: Final = 1 << 20
PARTS_MAX: Final = 1 << 16
SQUEEZED: Final = b"\x01"
"""First byte of a bundle's file that is compressed; one that is not begins with a count, and so with 0."""
FILE_BYTES_MAX: Final = 1 << 28
"""Of a bundle's parts, unpacked."""

WORDS: Final = frozenset({"kind", "reason", "rule", "act", "standing", "quality", "objection", "source"})
"""Members whose texts are words of the schema, whatever customers are called."""

Path = list[str | int]
Pieces = dict[str, list[tuple[Path, Any]]]
Salt = Callable[[int], bytes]
"""So many random bytes."""


class Part(NamedTuple):
    """What one owner has in an entry: the bytes that were hashed, or only their hash once they are forgotten."""

    hash: bytes
    data: bytes | None

    @staticmethod
    def of(data: bytes) -> Part:
        """From its bytes."""
        return Part(leaf_hash(data), data)

    def opened(self) -> tuple[str, list[tuple[Path, Any]]]:
        """Owner and values.

        Raises:
            DecodeError: forgotten, or not a part.
        """
        if self.data is None:
            raise DecodeError("part: forgotten")
        match parse_canonical(self.data):
            case [str(), str(owner), [*pieces]] if all(_is_piece(piece) for piece in pieces):
                return owner, [(piece[0], piece[1]) for piece in pieces]
        raise DecodeError(f"part: seen {self.data[:40]!r}, expected [salt, owner, pieces]")


def _is_piece(piece: Any) -> bool:
    return isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], list)


# ---- taking apart ----------------------------------------------------------------------------------------------------


def split(entry: Mapping[str, Any], customers: frozenset[str]) -> tuple[dict[str, Any], Pieces]:
    """An entry without what is personal, and what is, by owner."""
    if not customers:
        return dict(entry), {}
    pieces: Pieces = {}
    walk = _Splitter(customers, pieces)
    public: dict[str, Any] = {}
    owner = entry.get("meter")
    for key, value in entry.items():
        if key == "request" and owner in customers:
            walk.take(str(owner), [key], value)
        elif key == "readings" or (key == "view" and not (isinstance(value, dict) and "points" in value)):
            walk.take(EVERYBODY, [key], value)
        elif key == "view" and "sha256" in value:
            walk.take(EVERYBODY, [key, "sha256"], value["sha256"])
            public[key] = walk.visit({name: value[name] for name in value if name != "sha256"}, [key])
        else:
            public[key] = value if key in WORDS else walk.visit(value, [key])
    return public, pieces


class _Splitter:
    """Walks an entry; every personal value moves to its owner's pieces."""

    def __init__(self, customers: frozenset[str], pieces: Pieces) -> None:
        self._customers = customers
        self._pieces = pieces

    def take(self, owner: str, path: Path, value: Any) -> None:
        self._pieces.setdefault(owner, []).append((path, value))

    def visit(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return self._visit_object(value, path)
        if isinstance(value, list | tuple):
            if all(isinstance(item, float) for item in value):
                return value  # rows of numbers belong to the object they stand in
            return [self.visit(item, [*path, at]) for at, item in enumerate(value)]
        if isinstance(value, str):
            owner = value if value in self._customers else value.partition(" ")[0]
            if owner in self._customers:
                self.take(owner, path, value)
                return None
        return value

    def _visit_object(self, value: dict[str, Any], path: Path) -> Any:
        owner = value.get("meter") or value.get("name")
        if isinstance(owner, str) and owner in self._customers:
            self.take(owner, path, value)
            return None
        public = {}
        for key, item in value.items():
            if key in self._customers:
                self.take(key, [*path, key], item)
            else:
                public[key] = item if key in WORDS else self.visit(item, [*path, key])
        return public


def seal(pieces: Pieces, salt: Salt) -> list[Part]:
    """The parts of an entry, in the order of their owners."""
    salts = salt(SALT_BYTES * len(pieces))
    parts = []
    for at, owner in enumerate(sorted(pieces)):
        text = base64.b64encode(salts[SALT_BYTES * at : SALT_BYTES * (at + 1)]).decode()
        data = canonical([text, owner, pieces[owner]])
        assert len(data) <= PART_BYTES_MAX, len(data)
        parts.append(Part.of(data))
    return parts


def summary(parts: Iterable[Part]) -> dict[str, Any]:
    """What an entry says of its parts."""
    hashes = [part.hash for part in parts]
    return {"parts": len(hashes), "root": base64.b64encode(root_of(hashes)).decode()}


def matches(parts: list[Part], said: Any) -> bool:
    """Whether these are the parts an entry speaks of."""
    return not parts if said is None else bool(said == summary(parts))


# ---- putting together ------------------------------------------------------------------------------------------------


def join(public: dict[str, Any], parts: Iterable[Part]) -> int:
    """Put what is known back into an entry; how many parts are forgotten.

    Raises:
        DecodeError: a part that does not fit into the entry.
    """
    missing = 0
    grown: dict[int, dict[str, Any]] = {}
    for part in parts:
        if part.data is None:
            missing += 1
            continue
        for path, value in part.opened()[1]:
            place = _place(public, path)
            place[path[-1]] = value
            if isinstance(place, dict):
                grown[id(place)] = place
    for place in grown.values():
        members = {key: place[key] for key in ordered(place)}
        place.clear()
        place.update(members)
    return missing


def _place(entry: Any, path: Path) -> Any:
    place = entry
    try:
        for step in path[:-1]:
            place = place[step]
        fits = path[-1] not in place or place[path[-1]] is None if isinstance(place, dict) else place[path[-1]] is None
    except (KeyError, IndexError, TypeError) as error:
        raise DecodeError(f"part: seen path {path}, which the entry does not have") from error
    if not fits:
        raise DecodeError(f"part: seen path {path}, which the entry has itself")
    return place


# ---- beside the log --------------------------------------------------------------------------------------------------


def pack_parts(parts: Iterable[Part]) -> bytes:
    """The parts of one entry as they are kept: count, then each as 1 and its bytes or as 0 and its hash."""
    packed = [_pack_part(part) for part in parts]
    return b"".join((len(packed).to_bytes(4, "big"), *packed))


def _pack_part(part: Part) -> bytes:
    return b"\x00" + part.hash if part.data is None else b"\x01" + len(part.data).to_bytes(4, "big") + part.data


_KINDS: Final = frozenset({b"\x00", b"\x01"})


def unpack_parts(data: bytes, at: int) -> tuple[list[Part], int]:
    """The parts that begin at an offset, and where they end.

    Raises:
        DecodeError: cut off, or of no known kind.
    """
    count, at = int.from_bytes(data[at : at + 4], "big"), at + 4
    if at > len(data) or count > PARTS_MAX:
        raise DecodeError(f"parts: cut off at {len(data)}, or too many ({count})")
    parts = []
    for _ in range(count):
        kind = data[at : at + 1]
        if kind == b"\x01":
            begin = at + 5
            end = begin + int.from_bytes(data[at + 1 : begin], "big")
        else:
            begin, end = at + 1, at + 1 + HASH_BYTES
        content = data[begin:end]
        if kind not in _KINDS or end > len(data) or len(content) > PART_BYTES_MAX:
            raise DecodeError(f"parts: seen {data[at : at + 8].hex()} at {at}, expected a part")
        parts.append(Part(leaf_hash(content), content) if kind == b"\x01" else Part(content, None))
        at = end
    return parts, at


def pack_part_file(packed: Iterable[bytes]) -> bytes:
    """What a bundle's entries have beside the log, as a file: compressed, because neighbours say much the same."""
    squeezed = zlib.compress(b"".join(packed))
    return b"".join((SQUEEZED, zlib.crc32(squeezed).to_bytes(4, "big"), squeezed))


def expanded(data: bytes) -> bytes:
    """The content of such a file; deflate has bits that mean nothing, so its bytes have a checksum of their own.

    Raises:
        DecodeError: damaged.
    """
    if not data.startswith(SQUEEZED):
        return data
    squeezed, inflate = data[5:], zlib.decompressobj()
    if zlib.crc32(squeezed) != int.from_bytes(data[1:5], "big"):
        raise DecodeError("parts: the file's checksum does not fit")
    try:
        found = inflate.decompress(squeezed, FILE_BYTES_MAX)
    except zlib.error as error:
        raise DecodeError(f"parts: {error}") from error
    if not inflate.eof or inflate.unused_data:
        raise DecodeError(f"parts: cut off, too long, or more than {FILE_BYTES_MAX} bytes")
    return found


def unpack_part_file(data: bytes, count: int) -> list[list[Part]]:
    """The parts of so many entries, from a bundle's file.

    Raises:
        DecodeError: not just those.
    """
    data = expanded(data)
    found, at = [], 0
    for _ in range(count):
        parts, at = unpack_parts(data, at)
        found.append(parts)
    if at != len(data):
        raise DecodeError(f"parts: seen {len(data)} bytes, expected {at}")
    return found


def path_of_part(parts: list[Part], index: int) -> list[bytes]:
    """The hashes that lead from a part to the root in its entry."""
    rows = pyramid([part.hash for part in parts])
    return inclusion_proof(index, len(parts), lambda level, at: rows[level][at])
