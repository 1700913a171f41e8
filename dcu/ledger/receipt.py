"""A receipt: one file with an entry, the values of one customer in it, and the proof that the log has it.

The file is a tlog-proof. Its ``extra`` is canonical JSON with the entry's bytes and the customer's parts, each with its
path to the root that the entry keeps of its parts. Nothing vouches for ``extra`` by itself; everything in it is checked
against the head.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

from dcu.ledger.audit import COSIGNED, read_at
from dcu.ledger.canonical import canonical, parse_canonical
from dcu.ledger.entry import FORGOTTEN, parse_leaf
from dcu.ledger.layout import LedgerError, Place
from dcu.ledger.merkle import inclusion_proof, verify_inclusion
from dcu.ledger.note import Checkpoint, Verifier, open_checkpoint
from dcu.ledger.policy import Policy, Trusted, trust
from dcu.ledger.proof import Proof, parse_proof
from dcu.ledger.seal import NOBODY, Part, join, path_of_part
from dcu.ledger.tiles import TileStore
from shared.errors import DecodeError

FORM: Final = "headroom-receipt/1"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says once it is verified.

    Attributes:
        position: of the entry in the log.
        entry: what is open of it; members of others are missing or None.
        closed: how many parts of others, or forgotten ones, it does not show.
        customer: whose parts are open; None if nobody's.
        trusted: the head it stands under.
    """

    position: int
    entry: dict[str, Any]
    closed: int
    customer: str | None
    trusted: Trusted


def make_receipt(place: Place, position: int, key: Verifier, customer: str | None = None) -> bytes:
    """The receipt of an entry for a customer; None opens nobody's values.

    Raises:
        LedgerError: no published head covers the entry yet.
        DecodeError: a damaged file of the log.
    """
    note, head = _head_over(place, position, key)
    store = TileStore(place.public, head.size)
    leaf = store.entry(position)
    opened = []
    parts = read_at(place, position)
    for index, part in enumerate(parts):
        if part.data is not None and part.opened()[0] in {customer, NOBODY}:
            path = [base64.b64encode(hashed).decode() for hashed in path_of_part(parts, index)]
            opened.append({"index": index, "part": part.data.decode(), "path": path})
    extra = canonical({"form": FORM, "entry": leaf.decode(), "opened": opened})
    path_up = inclusion_proof(position, head.size, store.node)
    return Proof(position, tuple(path_up), note, extra).encode()


def _head_over(place: Place, position: int, key: Verifier) -> tuple[bytes, Checkpoint]:
    """The witnessed head if it covers a position, else the published one."""
    size = 0
    for path in (place.public / COSIGNED, place.checkpoint):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        head, _ = open_checkpoint(data, key)
        size = max(size, head.size)
        if head.size > position:
            return data, head
    raise LedgerError(f"entry {position}: the published head covers {size} entries; try again in a minute")


def check_receipt(data: bytes, policy: Policy) -> Receipt:
    """What a receipt says, if everything in it holds.

    Raises:
        DecodeError: anything that does not.
    """
    proof = parse_proof(data)
    trusted = trust(proof.note, policy)
    leaf, opened = _content(proof.extra)
    if not proof.proves(leaf, trusted.head):
        raise DecodeError(f"receipt: the entry is not number {proof.index} under the head of {trusted.head.size}")
    entry = parse_leaf(leaf)
    sealed = entry.pop("sealed", None)
    count = _open(entry, sealed, opened)
    owners = {part.opened()[0] for _, part, _ in opened} - {NOBODY}
    if len(owners) > 1:
        raise DecodeError(f"receipt: opens the values of {len(owners)} customers")
    del entry["schema"]
    return Receipt(proof.index, entry, count - len(opened), next(iter(owners), None), trusted)


def _open(entry: dict[str, Any], sealed: Any, opened: list[tuple[int, Part, list[bytes]]]) -> int:
    """Put open parts in; how many parts the entry has."""
    match sealed:
        case None if not opened:
            return 0
        case {"parts": int(count), "root": str(text)}:
            root = base64.b64decode(text)
        case _:
            raise DecodeError(f"receipt: opens {len(opened)} parts of an entry that keeps {sealed}")
    for index, part, path in opened:
        if not verify_inclusion(part.hash, index, count, path, root):
            raise DecodeError(f"receipt: part {index} is not of this entry")
    join(entry, [part for _, part, _ in opened])
    entry.pop(FORGOTTEN, None)
    return count


def _content(extra: bytes | None) -> tuple[bytes, list[tuple[int, Part, list[bytes]]]]:
    match None if extra is None else parse_canonical(extra):
        case {"form": "headroom-receipt/1", "entry": str(entry), "opened": list(opened)}:
            return entry.encode(), [_opened(item) for item in opened]
    raise DecodeError(f"receipt: expected a proof whose extra is {FORM}")


def _opened(item: Any) -> tuple[int, Part, list[bytes]]:
    match item:
        case {"index": int(index), "part": str(part), "path": [*path]} if all(isinstance(step, str) for step in path):
            try:
                return index, Part.of(part.encode()), [base64.b64decode(step, validate=True) for step in path]
            except ValueError as error:
                raise DecodeError("receipt: a path that is no base64") from error
    raise DecodeError(f"receipt: seen {str(item)[:60]}, expected an open part")
