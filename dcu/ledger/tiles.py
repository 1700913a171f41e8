"""The public directory of a log: C2SP tlog-tiles, so that any web server and any tile client can work with it.

``checkpoint``, ``tile/<L>/<N>[.p/<W>]`` with hashes, ``tile/entries/<N>[.p/<W>]`` with entries.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dcu.ledger.merkle import HASH_BYTES
from shared.errors import DecodeError

WIDTH: Final = 256
"""Hashes in a full tile, entries in a full bundle."""

HEIGHT: Final = 8
ENTRY_BYTES_MAX: Final = 0xFFFF
"""A bundle's length prefix has 16 bits."""

CHECKPOINT: Final = "checkpoint"
ENTRIES: Final = "entries"
CACHED_TILES_MAX: Final = 64


def number_path(number: int) -> str:
    """``1234067`` as ``x001/x234/067``."""
    text = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        text = f"x{number % 1000:03d}/{text}"
    return text


def tile_path(level: int | str, number: int, width: int = WIDTH) -> str:
    """Where a tile, or a bundle of `ENTRIES`, is served."""
    part = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{number_path(number)}{part}"


def pack_entries(entries: Sequence[bytes]) -> bytes:
    """A bundle: every entry behind its length."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack_entries(data: bytes, count: int) -> list[bytes]:
    """The entries of a bundle.

    Raises:
        DecodeError: it does not hold just ``count`` entries.
    """
    entries: list[bytes] = []
    at = 0
    for _ in range(count):
        length = int.from_bytes(data[at : at + 2], "big")
        entry = data[at + 2 : at + 2 + length]
        if len(data) < at + 2 or len(entry) < length:
            raise DecodeError(f"bundle: seen {len(data)} bytes, {len(entries)} entries, expected {count} entries")
        entries.append(entry)
        at += 2 + length
    if at != len(data):
        raise DecodeError(f"bundle: seen {len(data)} bytes, expected {at} for {count} entries")
    return entries


def pyramid(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """The complete subtrees over consecutive hashes: themselves, their pairs, the pairs' pairs and so on."""
    rows = [list(hashes)]
    sha256 = hashlib.sha256
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row) - 1, 2)])
    return rows


class TileStore:
    """Reads tiles of a tree of a given size; holds few of them in memory."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        self._tiles: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()
        self._known: dict[tuple[int, int], bytes] = {}

    def preload(self, level: int, number: int, content: bytes) -> None:
        """Know a tile that is not on disk."""
        self._known[level, number] = content

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree (`dcu.ledger.merkle.Node`).

        Raises:
            DecodeError: a tile that is missing or too short.
        """
        tile, within = divmod(level, HEIGHT)
        first = index << within
        rows = self._rows(tile, first // WIDTH)
        return rows[within][first % WIDTH >> within]

    def _rows(self, level: int, number: int) -> list[list[bytes]]:
        key = (level, number)
        rows = self._tiles.get(key)
        if rows is None:
            rows = self._tiles[key] = pyramid(self.hashes(level, number))
            if len(self._tiles) > CACHED_TILES_MAX:
                self._tiles.popitem(last=False)
        return rows

    def hashes(self, level: int, number: int) -> list[bytes]:
        """A tile's hashes, as many as the tree has."""
        width = min(WIDTH, (self.size >> HEIGHT * level) - number * WIDTH)
        if width <= 0:
            raise DecodeError(f"tile {level}/{number}: beyond a tree of {self.size}")
        data = self._known.get((level, number)) or self._read(level, number, width)
        if len(data) < width * HASH_BYTES:
            raise DecodeError(f"tile {level}/{number}: seen {len(data)} bytes, expected {width * HASH_BYTES}")
        return [data[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]

    def entries(self, number: int) -> list[bytes]:
        """A bundle's entries, as many as the tree has."""
        width = min(WIDTH, self.size - number * WIDTH)
        data = self._read(ENTRIES, number, width)
        try:
            return unpack_entries(data, width)
        except DecodeError as error:
            raise DecodeError(f"{self.directory / tile_path(ENTRIES, number, width)}: {error}") from error

    def entry(self, position: int) -> bytes:
        """One entry's bytes."""
        return self.entries(position // WIDTH)[position % WIDTH]

    def _read(self, level: int | str, number: int, width: int) -> bytes:
        path = self.directory / tile_path(level, number, width)
        try:
            return path.read_bytes()
        except OSError as error:
            if width == WIDTH:
                raise DecodeError(f"{path}: {error.strerror}") from error
        try:  # a partial one may go once the full one is there (tlog-tiles, "Partial Tiles")
            whole = (self.directory / tile_path(level, number)).read_bytes()
        except OSError as error:
            raise DecodeError(f"{path}: {error.strerror}") from error
        return whole if level != ENTRIES else pack_entries(unpack_entries(whole, WIDTH)[:width])
