"""The tree as its writer holds it: unfinished tiles in memory, finished ones handed out to be written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dcu.ledger.merkle import Edge, leaf_hash
from dcu.ledger.tiles import ENTRIES, HEIGHT, WIDTH, TileStore, pyramid, tile_path, unpack_entries
from shared.errors import DecodeError

Tile = tuple[int, int, bytes]
"""Level, number and content."""


class Growth:
    """Rows of hashes, one for each level of tiles: what is in its unfinished tile, and how many full ones precede."""

    def __init__(self) -> None:
        self.edge = Edge()
        self._rows: list[list[bytes]] = [[]]
        self._full: list[int] = [0]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.edge.size

    def push(self, leaf: bytes) -> list[Tile]:
        """One more leaf's hash; the tiles that it fills, lowest first."""
        self.edge.push(leaf)
        self._rows[0].append(leaf)
        return [] if len(self._rows[0]) < WIDTH else self._carry()

    def _carry(self) -> list[Tile]:
        filled = []
        level = 0
        while len(row := self._rows[level]) == WIDTH:
            filled.append((level, self._full[level], b"".join(row)))
            hashed = pyramid(row)[-1][0]
            row.clear()
            self._full[level] += 1
            level += 1
            if level == len(self._rows):
                self._rows.append([])
                self._full.append(0)
            self._rows[level].append(hashed)
        return filled

    def unfinished(self) -> list[Tile]:
        """Every partial tile."""
        return [(level, self._full[level], b"".join(row)) for level, row in enumerate(self._rows) if row]

    def store(self, directory: Path, filled: list[Tile]) -> TileStore:
        """Reads this tree: full tiles from disk but for those just ``filled``, unfinished ones from memory."""
        store = TileStore(directory, self.size)
        for level, number, content in (*filled, *self.unfinished()):
            store.preload(level, number, content)
        return store

    @classmethod
    def load(cls, directory: Path, size: int) -> Growth:
        """The tree of a size (a multiple of `WIDTH`) from its full tiles alone.

        Raises:
            DecodeError: a tile that is missing or too short.
        """
        assert size % WIDTH == 0, size
        store = TileStore(directory, size)
        growth = cls()
        full = growth._full[0] = size // WIDTH
        peaks: list[bytes] = []
        level = 0
        while full:
            roots = [pyramid(store.hashes(level, number))[-1][0] for number in range(full - full % WIDTH, full)]
            growth._rows.append(roots)
            peaks = _peaks(roots) + peaks
            full, level = full // WIDTH, level + 1
            growth._full.append(full)
        growth.edge = Edge.with_peaks(size, peaks)
        return growth


def _peaks(row: list[bytes]) -> list[bytes]:
    """The complete subtrees over an unfinished tile's hashes, largest first."""
    rows, found, at = pyramid(row), [], 0
    for level in range(HEIGHT, -1, -1):
        if len(row) >> level & 1:
            found.append(rows[level][at >> level])
            at += 1 << level
    return found


def tiles_from_bundles(directory: Path, size: int) -> Iterator[tuple[Path, bytes]]:
    """Every full tile as it must be, with its path, recomputed from the bundles.

    Raises:
        DecodeError: a bundle that is missing or damaged.
    """
    growth = Growth()
    for number in range(size // WIDTH):
        path = directory / tile_path(ENTRIES, number)
        try:
            entries = unpack_entries(path.read_bytes(), WIDTH)
        except OSError as error:
            raise DecodeError(f"{path}: {error.strerror}") from error
        for entry in entries:
            for level, at, content in growth.push(leaf_hash(entry)):
                yield directory / tile_path(level, at), content
