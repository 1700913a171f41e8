"""The journal: what was appended since the last full bundle, durable before anybody is told.

A magic line, then frames ``kind (1) | length (4) | CRC-32 (4) | payload``; the checksum covers kind, length and
payload. ``H`` opens the journal and says whose it is, ``E`` is an entry with its parts, ``C`` is a signed checkpoint
over everything before it. A commit is some ``E`` and one ``C``, written together and synchronised once. A frame is
whole or it is the end.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dcu.ledger.canonical import canonical, parse_canonical
from dcu.ledger.entry import Kept, restore
from dcu.ledger.merkle import Edge, leaf_hash
from dcu.ledger.note import Verifier, open_checkpoint
from dcu.ledger.seal import unpack_parts
from dcu.ledger.tiles import WIDTH
from shared.errors import DecodeError

MAGIC: Final = b"HEADROOM JOURNAL 2\n"
FORMAT: Final = 2
PREFIX: Final = "journal-"
FRAME_HEAD: Final = 1 + 4 + 4
FRAME_BYTES_MAX: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Heading:
    """Whose journal it is and where it begins."""

    dcu: str
    origin: str
    first: int


@dataclass(slots=True)
class JournalScan:
    """What a journal holds.

    Attributes:
        kept: its entries; those behind the last commit are whole, though nobody was told of them.
        begins: offsets of their frames.
        committed: how many of them a signed checkpoint covers.
        commit: the last of them.
        valid_bytes: length of the prefix that is right.
        faults: what is wrong behind it.
    """

    heading: Heading
    kept: list[Kept] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)
    committed: int = 0
    commit: bytes = b""
    valid_bytes: int = 0
    faults: list[str] = field(default_factory=list)


def journal_path(directory: Path, first: int) -> Path:
    """The journal that begins with an entry."""
    return directory / f"{PREFIX}{first:015d}"


def journals(directory: Path) -> list[Path]:
    """The journals there, newest first."""
    return sorted((p for p in directory.glob(f"{PREFIX}*") if p.name[len(PREFIX) :].isdigit()), reverse=True)


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame."""
    head = kind + len(payload).to_bytes(4, "big")
    return head + zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big") + payload


def heading_frame(heading: Heading) -> bytes:
    """The beginning of a journal."""
    said = {"dcu": heading.dcu, "first": heading.first, "format": FORMAT, "origin": heading.origin}
    return MAGIC + frame(b"H", canonical(said))


def entry_frame(leaf: bytes, parts: bytes) -> bytes:
    """An entry and its packed parts."""
    return frame(b"E", len(leaf).to_bytes(2, "big") + leaf + parts)


def commit_frame(note: bytes) -> bytes:
    """A signed checkpoint."""
    return frame(b"C", note)


def _frames(data: bytes, at: int) -> Any:
    """Offset, kind, payload and end of each frame; a text instead of the payload is the fault that ends it."""
    while at < len(data):
        kind, length = data[at : at + 1], int.from_bytes(data[at + 1 : at + 5], "big")
        payload = data[at + FRAME_HEAD : at + FRAME_HEAD + length]
        if len(data) < at + FRAME_HEAD or len(payload) < length or length > FRAME_BYTES_MAX:
            yield at, kind, f"seen {len(data) - at} bytes, expected {FRAME_HEAD + length}", at
            return
        if zlib.crc32(payload, zlib.crc32(data[at : at + 5])) != int.from_bytes(data[at + 5 : at + 9], "big"):
            yield at, kind, "wrong checksum", at
            return
        yield at, kind, payload, at + FRAME_HEAD + length
        at += FRAME_HEAD + length


def read_heading(data: bytes, path: Path) -> tuple[Heading, int]:
    """Whose journal it is, and where its entries begin.

    Raises:
        DecodeError: no journal of this format.
    """
    if not data.startswith(MAGIC):
        raise DecodeError(f"{path}: seen {data[:32]!r}, expected {MAGIC!r}")
    for _, kind, payload, end in _frames(data, len(MAGIC)):
        if kind != b"H" or isinstance(payload, str):
            break
        said = parse_canonical(payload)
        match said:
            case {"dcu": str(dcu), "origin": str(origin), "first": int(first), "format": 2} if first % WIDTH == 0:
                return Heading(dcu, origin, first), end
        raise DecodeError(f"{path}: seen {said}, expected the heading of a journal of format {FORMAT}")
    raise DecodeError(f"{path}: the heading is damaged")


def scan(path: Path, log: Verifier, before: Edge | None, data: bytes | None = None) -> JournalScan:
    """Read a journal and check every frame.

    Args:
        path: of the journal.
        log: the key its commits must be signed by.
        before: the tree before its first entry; None if that is not known: commits are then not checked against it.
        data: its content, if it was read already.

    Raises:
        DecodeError: its heading is damaged, or it is no journal of this format.
        OSError: it cannot be read.
    """
    data = path.read_bytes() if data is None else data
    heading, at = read_heading(data, path)
    found = JournalScan(heading, valid_bytes=at)
    edge = None if before is None else before.copy()
    begun = at
    for offset, kind, payload, end in _frames(data, at):
        fault = payload if isinstance(payload, str) else _take(found, kind, payload, (log, edge))
        if fault is not None:
            found.faults.append(f"{path.name}, offset {offset}, entry {heading.first + len(found.kept)}: {fault}")
            if kind == b"C" and not isinstance(payload, str):  # whole, and wrong: the entries before it are suspect
                del found.kept[found.committed :], found.begins[found.committed :]
                found.valid_bytes = begun
            break
        if kind == b"E":
            found.begins.append(offset)
        found.valid_bytes = end
        begun = end if kind == b"C" else begun
    return found


def _take(found: JournalScan, kind: bytes, payload: bytes, tree: tuple[Verifier, Edge | None]) -> str | None:
    """Add a frame to what was found; a text if it is wrong."""
    log, edge = tree
    try:
        if kind == b"E":
            kept = unpack_kept(payload)
            restore(kept.leaf, kept.parts)
            found.kept.append(kept)
            if edge is not None:
                edge.push(leaf_hash(kept.leaf))
            return None
        if kind == b"C":
            head, _ = open_checkpoint(payload, log)
            size = found.heading.first + len(found.kept)
            if head.size != size or (edge is not None and head.root != edge.root()):
                return f"seen a commit of {head.size} entries, expected {size} and the root over them"
            found.committed, found.commit = len(found.kept), payload
            return None
    except DecodeError as error:
        return str(error)
    return f"seen kind {kind!r}, expected an entry or a commit"


def unpack_kept(payload: bytes) -> Kept:
    """The entry in an ``E`` frame.

    Raises:
        DecodeError: not just one.
    """
    length = int.from_bytes(payload[:2], "big")
    parts, end = unpack_parts(payload, 2 + length)
    if end != len(payload):
        raise DecodeError(f"frame: seen {len(payload)} bytes, expected {end}")
    return Kept(payload[2 : 2 + length], parts)
