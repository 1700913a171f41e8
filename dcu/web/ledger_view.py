"""The ledger as outsiders may see it: the newest head, and receipts that a browser verifies by itself.

Only `ledger/public` is needed. Where the operating system lets this process read the private parts too, and the
configuration says so, a receipt also opens the values of the customer it is made for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcu.ledger.audit import COSIGNED
from dcu.ledger.canonical import canonical
from dcu.ledger.layout import LedgerError, Place, current, read_key
from dcu.ledger.merkle import inclusion_proof
from dcu.ledger.note import NOTE_BYTES_MAX, Checkpoint, Verifier, open_checkpoint, parse_checkpoint, parse_note
from dcu.ledger.proof import Proof
from dcu.ledger.receipt import FORM, make_receipt
from dcu.ledger.tiles import TileStore
from shared.errors import DecodeError


class LedgerView:
    """One DCU's log, read anew each time it is asked for."""

    def __init__(self, directory: Path | None, log_key: str | None, *, show_parts: bool) -> None:
        """The state directory of a DCU, or of a copy of it.

        Raises:
            DecodeError: a key that is none.
        """
        self._place: Place | None = None if directory is None else current(directory)
        self._show_parts = show_parts
        self._key = None if log_key is None else Verifier.parse(log_key)

    def key(self) -> Verifier | None:
        """The log's public key, if somebody has told us or we may read it."""
        if self._key is not None or self._place is None:
            return self._key
        try:
            origin = parse_checkpoint(parse_note(self._head()).text).origin
            return read_key(self._place.key, origin).verifier
        except (OSError, DecodeError):
            return None

    def as_api(self) -> dict[str, Any]:
        """For the API; never fails, says why nothing is known."""
        empty = dict.fromkeys(("origin", "size", "root", "key", "note", "cosigned_size"))
        if self._place is None:
            return {"known": False, "why": "no ledger directory is configured", **empty, "signatures": []}
        try:
            data = self._head()
            note = parse_note(data)
            head = parse_checkpoint(note.text)
        except (OSError, DecodeError) as error:
            return {"known": False, "why": _why(error), **empty, "signatures": []}
        key = self.key()
        return {
            "known": True,
            "why": None,
            "origin": head.origin,
            "size": head.size,
            "root": head.root.hex(),
            "key": None if key is None else key.vkey(),
            "note": data.decode("utf-8", "replace"),
            "signatures": [{"name": s.name, "key_id": s.key_id.hex()} for s in note.signatures],
            "cosigned_size": self._cosigned_size(),
        }

    def _head(self) -> bytes:
        assert self._place is not None
        return self._place.checkpoint.read_bytes()[:NOTE_BYTES_MAX]

    def _cosigned_size(self) -> int | None:
        assert self._place is not None
        try:
            return parse_checkpoint(parse_note((self._place.public / COSIGNED).read_bytes()).text).size
        except (OSError, DecodeError):
            return None

    def receipt(self, position: int, customer: str | None) -> bytes:
        """The receipt of one entry, as a tlog-proof.

        Raises:
            LedgerError: no published head covers it yet, or there is no ledger to read.
            DecodeError: a damaged file of the log.
            OSError: a file that is missing.
        """
        place, key = self._place, self.key()
        if place is None:
            raise LedgerError("no ledger directory is configured")
        if self._show_parts and key is not None:
            try:
                return make_receipt(place, position, key, customer)
            except PermissionError:
                pass  # the parts are not ours to read; what is public is enough for a proof
        note, head = self._covering(position, key)
        store = TileStore(place.public, head.size)
        extra = canonical({"form": FORM, "entry": store.entry(position).decode(), "opened": []})
        path = tuple(inclusion_proof(position, head.size, store.node))
        return Proof(position, path, note, extra).encode()

    def _covering(self, position: int, key: Verifier | None) -> tuple[bytes, Checkpoint]:
        assert self._place is not None
        size = 0
        for path in (self._place.public / COSIGNED, self._place.checkpoint):
            try:
                data = path.read_bytes()[:NOTE_BYTES_MAX]
            except FileNotFoundError:
                continue
            head = parse_checkpoint(parse_note(data).text) if key is None else open_checkpoint(data, key)[0]
            size = max(size, head.size)
            if head.size > position:
                return data, head
        raise LedgerError(f"entry {position}: the published head covers {size} entries; a new one comes every minute")


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no head has been published yet"
    if isinstance(error, OSError):
        return f"the ledger cannot be read: {error.strerror}"
    return str(error)
