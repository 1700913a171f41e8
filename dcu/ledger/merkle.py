"""The Merkle tree of RFC 6962 §2.1: hashes, the growing right edge, proofs and their verification.

A *node* is the hash of a complete subtree: ``node(level, index) = MTH(D[index * 2**level : (index + 1) * 2**level])``.
Proofs are made from a function that gives nodes, wherever they are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()
"""MTH({}) (RFC 6962 §2.1)."""

Node = Callable[[int, int], bytes]
"""Level and index of a complete subtree to its hash."""


def leaf_hash(data: bytes) -> bytes:
    """MTH({d}) = SHA-256(0x00 || d)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Edge:
    """The complete subtrees along the right edge, largest first: all that a growing tree needs to know its root."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        for leaf in leaves:
            self.push(leaf)

    @classmethod
    def with_peaks(cls, size: int, peaks: Sequence[bytes]) -> Edge:
        """The edge of a tree whose complete subtrees are known, largest first."""
        assert len(peaks) == size.bit_count(), (size, len(peaks))
        edge = cls()
        edge.size, edge._peaks = size, list(peaks)
        return edge

    def push(self, leaf: bytes) -> None:
        """One more leaf, by its hash."""
        rest = self.size
        while rest & 1:
            leaf = hashlib.sha256(b"\x01" + self._peaks.pop() + leaf).digest()
            rest >>= 1
        self._peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """MTH of everything pushed."""
        return fold(self._peaks)

    def copy(self) -> Edge:
        """Another one that grows by itself."""
        twin = Edge()
        twin.size, twin._peaks = self.size, list(self._peaks)
        return twin


def peaks(begin: int, size: int) -> list[tuple[int, int]]:
    """Levels and indices of the complete subtrees that ``D[begin:begin + size]`` consists of, left to right;
    ``begin`` is a multiple of a power of two not below ``size``."""
    found = []
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            found.append((level, begin >> level))
            begin += 1 << level
    return found


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees, largest first."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """MTH over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    return node_hash(*leaves) if len(leaves) == 2 else Edge(leaves).root()


def root_at(size: int, node: Node) -> bytes:
    """MTH(D[0:size])."""
    return _range(0, size, node)


def _range(begin: int, size: int, node: Node) -> bytes:
    return fold([node(level, index) for level, index in peaks(begin, size)])


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[size]) (RFC 6962 §2.1.1), from the leaf's sibling upwards."""
    assert 0 <= index < size, (index, size)
    begin, path = 0, []
    while size > 1:
        k = _split(size)
        if index - begin < k:
            path.append(_range(begin + k, size - k, node))
            size = k
        else:
            path.append(_range(begin, k, node))
            begin, size = begin + k, size - k
    return path[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[new]) (RFC 6962 §2.1.2); empty for ``old`` 0 or ``new``."""
    assert 0 <= old <= new, (old, new)
    if old in {0, new}:
        return []
    begin, size, path, whole = 0, new, [], True
    while old - begin != size:
        k = _split(size)
        if old - begin <= k:
            path.append(_range(begin + k, size - k, node))
            size = k
        else:
            path.append(_range(begin, k, node))
            begin, size, whole = begin + k, size - k, False
    if not whole:
        path.append(_range(begin, size, node))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof leads from a leaf's hash to the root (RFC 9162 §2.1.3.2 writes the algorithm down)."""
    if not 0 <= index < size:
        return False
    at, last, hashed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            hashed = node_hash(sibling, hashed)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and hashed == root


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether the tree of ``new`` leaves begins with the tree of ``old`` (RFC 9162 §2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
