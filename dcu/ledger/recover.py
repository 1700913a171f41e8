"""What a log's files say after whatever happened: the journal, the tiles and the published head that agree.

Tiles can be made again from the entries. What a published head covers and nothing gives back ends the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dcu.ledger.entry import parse_leaf
from dcu.ledger.files import Files, write_new
from dcu.ledger.growth import Growth, Tile, tiles_from_bundles
from dcu.ledger.journal import MAGIC, Heading, JournalScan, journals, read_heading, scan
from dcu.ledger.layout import LedgerError, Place
from dcu.ledger.merkle import leaf_hash, root_at
from dcu.ledger.note import Checkpoint, Verifier, open_checkpoint
from dcu.ledger.seal import matches, unpack_part_file
from dcu.ledger.tiles import WIDTH, TileStore
from shared.errors import DecodeError

BAD: Final = ".bad"
"""In the names of what is kept though it is wrong."""


BUNDLES_CHECKED: Final = 4


class EndedError(Exception):
    """This log cannot go on."""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything a log needs to go on: the tree before the journal, the journal, the head; ``why`` these cannot all be
    true."""

    growth: Growth
    journal: JournalScan
    head: Checkpoint | None
    why: str | None


class Finder:
    """Looks, repairs what can be repaired, and keeps aside what is wrong; says so in `faults`."""

    def __init__(self, place: Place, files: Files, faults: list[str]) -> None:
        self._place = place
        self._files = files
        self.faults = faults

    def newest_journal(self, whose: Heading) -> tuple[Path, Heading] | None:
        """The journal to go on with; None if there is none.

        Raises:
            LedgerError: of another DCU, log or format.
        """
        for path in journals(self._place.private):
            data = path.read_bytes()
            try:
                heading, _ = read_heading(data, path)
            except DecodeError as error:
                if _is_other_format(data):
                    raise LedgerError(str(error)) from error
                self.faults.append(str(error))
                self._files.replace(path, aside(path))
                self._files.sync_directory(path.parent)
                continue
            if heading.dcu != whose.dcu:
                raise LedgerError(f"{path}: seen the ledger of {heading.dcu}, expected that of {whose.dcu}")
            if heading.origin != whose.origin:
                raise LedgerError(f"{path}: seen the log {heading.origin}, expected {whose.origin}")
            return path, heading
        return None

    def consistent(self, path: Path, heading: Heading, key: Verifier) -> Found:
        """What agrees, after a repair if need be.

        Raises:
            EndedError: nothing does.
        """
        found: Found | None = None
        trouble = ""
        try:
            found = self._look(path, heading, key)
        except DecodeError as error:
            trouble = str(error)
        if (found is None or found.why or found.journal.faults) and self._heal(heading.first):
            try:
                found = self._look(path, heading, key)
            except DecodeError as error:
                trouble = str(error)
        if found is None or found.why:
            raise EndedError(trouble if found is None else found.why)
        return found

    def _look(self, path: Path, heading: Heading, key: Verifier) -> Found:
        growth = Growth.load(self._place.public, heading.first)
        journal = scan(path, key, growth.edge)
        filled: list[Tile] = []
        for one in journal.kept:
            filled += growth.push(leaf_hash(one.leaf))
        head = self._head(key)
        why = None
        if head is not None and head.size > growth.size:
            why = f"published {head.size} entries, kept {growth.size}"
        elif head is not None and root_at(head.size, growth.store(self._place.public, filled).node) != head.root:
            why = f"the published head of {head.size} entries is not over these entries"
        else:
            why = self._damage_of_bundles(heading.first)
        return Found(Growth.load(self._place.public, heading.first), journal, head, why)

    def _damage_of_bundles(self, size: int) -> str | None:
        """What is wrong with the youngest full bundles and their parts: those that a medium may not have kept though
        it said so. Older ones are looked at by those who verify."""
        store = TileStore(self._place.public, size)
        for number in range(max(0, size // WIDTH - BUNDLES_CHECKED), size // WIDTH):
            try:
                leaves = store.entries(number)
                parts = unpack_part_file(self._place.parts(number).read_bytes(), WIDTH)
                whole = [leaf_hash(leaf) for leaf in leaves] == store.hashes(0, number)
                whole = whole and all(
                    matches(beside, parse_leaf(leaf).get("sealed")) for leaf, beside in zip(leaves, parts, strict=True)
                )
            except (DecodeError, OSError) as error:
                return f"bundle {number}: {error}"
            if not whole:
                return f"bundle {number} is not what its tile says"
        return None

    def _head(self, key: Verifier) -> Checkpoint | None:
        path = self._place.checkpoint
        try:
            return open_checkpoint(path.read_bytes(), key)[0]
        except FileNotFoundError:
            return None
        except DecodeError as error:  # the journal's own heads are as good; this one was for others
            self.faults.append(f"{path}: {error}")
            self._files.replace(path, aside(self._place.private / path.name))
            self._files.sync_directory(path.parent)
            return None

    def _heal(self, size: int) -> bool:
        """Write every full tile again that is not what the entries hash to; whether there was one."""
        healed = False
        try:
            for path, content in tiles_from_bundles(self._place.public, size):
                if not path.exists() or path.read_bytes() != content:
                    self.faults.append(f"{path}: damaged, made again from the entries")
                    self._files.make_directory(path.parent)
                    write_new(self._files, path, content)
                    self._files.sync_directory(path.parent)
                    healed = True
        except DecodeError as error:
            self.faults.append(str(error))
        return healed


def _is_other_format(data: bytes) -> bool:
    """Whether a journal says that it is of another version; a damaged one does not say anything so clearly."""
    words = data[: len(MAGIC) + 8].split(b"\n")[0].split(b" ")
    return words[:-1] == MAGIC.split()[:-1] and words[-1].isdigit() and words[-1] != MAGIC.split()[-1]


def put_tail_aside(files: Files, path: Path, valid_bytes: int) -> None:
    """Keep the bad end of a journal in a file of its own, then cut it off."""
    write_new(files, aside(path), path.read_bytes()[valid_bytes:])
    files.sync_directory(path.parent)
    file = files.open(path)
    try:
        files.truncate(file, valid_bytes)
        files.sync(file)
    finally:
        files.close(file)


def aside(path: Path) -> Path:
    """A name for something bad that is kept."""
    number = 0
    while (other := path.with_name(f"{path.name}{BAD}{number}")).exists():
        number += 1
    return other
