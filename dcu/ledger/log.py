"""One log as its writer holds it: a journal that is ahead, tiles that follow, heads for others.

An append is one write and one fsync of the journal. A full bundle of 256 entries is written out with its hash tiles and
parts, all of it synchronised, before a new journal takes the place of the old one. Publishing a head writes the
unfinished tiles and then the checkpoint. Whatever is interrupted is done again from the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from dcu.ledger.audit import claimed_size, epoch_before
from dcu.ledger.entry import EntryWriter, Kept, customers_of, epoch_of, restore
from dcu.ledger.files import Files, write_whole
from dcu.ledger.growth import Growth, Tile
from dcu.ledger.journal import FRAME_HEAD, PREFIX, Heading, commit_frame, entry_frame, heading_frame, journal_path
from dcu.ledger.layout import Place, pack_key, read_key
from dcu.ledger.merkle import HASH_BYTES, leaf_hash
from dcu.ledger.note import SEED_BYTES, Checkpoint, Note, Signer
from dcu.ledger.recover import BAD, EndedError, Finder, Found, put_tail_aside
from dcu.ledger.seal import pack_part_file, pack_parts
from dcu.ledger.tiles import ENTRIES, WIDTH, pack_entries, tile_path
from shared.errors import DecodeError

BUNDLES_MAX: Final = 4
"""Full bundles that one commit may make."""

Draw = Callable[[int], bytes]
"""So many random bytes."""


class Durable(Enum):
    """Whether what was written has to be on the medium."""

    NOW = "now"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class _Tailed:
    """An entry of the unfinished bundle, and where its parts stand in the journal."""

    leaf: bytes
    parts_begin: int
    parts_bytes: int


class Log:
    """The writer of one log. Every `OSError` leaves it in an unknown state: open it anew."""

    def __init__(self, place: Place, whose: Heading, files: Files, draw: Draw) -> None:
        """A log that is not open yet; ``whose`` says DCU and origin."""
        self.place = place
        self.size = self.published = self.epoch = 0
        self.faults: list[str] = []
        self._whose, self._files, self._draw = whose, files, draw
        self._growth = Growth()
        self.head = self._growth.edge.root()
        self._filled: list[Tile] = []
        self._tail: list[_Tailed] = []
        self._known: set[Path] = set()
        self._dirty: set[Path] = set()
        self._made: set[Path] = set()
        self._written: list[int] = []
        self._shown: set[Path] = set()
        self._first = self._journal_bytes = 0
        self._file: int | None = None
        self._writer = EntryWriter(draw)
        self.signer: Signer
        self._note: Note

    # ---- writing -----------------------------------------------------------------------------------------------------

    def keep(self, entry: dict[str, object]) -> Kept:
        """The form of an entry that `commit` takes.

        Raises:
            ValueError, TypeError: what JSON cannot keep.
        """
        return self._writer.keep(entry)

    def commit(self, kept: Sequence[Kept]) -> None:
        """Entries and a signed head over them, durable together."""
        edge = self._growth.edge.copy()
        hashes = [leaf_hash(one.leaf) for one in kept]
        for hashed in hashes:
            edge.push(hashed)
        frames = [entry_frame(one.leaf, pack_parts(one.parts)) for one in kept]
        head = edge.root()
        note = self._signed(edge.size, head)
        self._append(b"".join((*frames, commit_frame(note.encode()))))
        for one, hashed, frame in zip(kept, hashes, frames, strict=True):
            self._take(one.leaf, len(frame))
            self._filled += self._growth.push(hashed)
        self._journal_bytes += len(commit_frame(note.encode()))
        self._note, self.size, self.head = note, edge.size, head
        self.epoch = max(self.epoch, *(one.epoch for one in kept))
        if len(self._tail) >= WIDTH:
            self._roll()

    def publish(self) -> None:
        """Unfinished tiles, then the head: whoever sees the head finds the tiles.

        These tiles are not synchronised; a start makes those again that a power cut took. One that an earlier head has
        shown is not touched again, so nobody who follows that head ever reads half a tile.
        """
        unfinished = {
            self.place.public / tile_path(level, number, len(content) // HASH_BYTES): content
            for level, number, content in self._growth.unfinished()
        }
        if self._tail:
            path = self.place.public / tile_path(ENTRIES, self._first // WIDTH, len(self._tail))
            unfinished[path] = pack_entries([one.leaf for one in self._tail])
        for path, content in unfinished.items():
            if path not in self._shown:
                self._write(path, content)
        self._shown = set(unfinished)
        self._release(Durable.LATER)
        write_whole(self._files, self.place.checkpoint, self._note.encode())
        self.published = self.size

    def close(self) -> None:
        """Give files back."""
        self._release(Durable.LATER)
        self._close_journal()

    def _close_journal(self) -> None:
        if self._file is not None:
            self._files.close(self._file)
            self._file = None

    def _append(self, data: bytes) -> None:
        assert self._file is not None, "the log is open"
        self._files.append(self._file, data)
        self._files.sync(self._file)  # a crash before this line loses the entries, and nothing has been sent

    def _take(self, leaf: bytes, frame_bytes: int) -> None:
        """Remember an entry that is in the journal."""
        begin = self._journal_bytes + FRAME_HEAD + 2 + len(leaf)
        self._journal_bytes += frame_bytes
        self._tail.append(_Tailed(leaf, begin, self._journal_bytes - begin))

    def _signed(self, size: int, root: bytes) -> Note:
        return self.signer.sign(Checkpoint(self._whose.origin, size, root).text())

    # ---- tiles -------------------------------------------------------------------------------------------------------

    def _roll(self) -> None:
        """Full bundles leave the journal. Until the new journal is renamed into place the old one has everything."""
        first, count = self._first // WIDTH, len(self._tail) // WIDTH
        journal, public = journal_path(self.place.private, self._first), self.place.public
        parts = self._parts_of_tail(journal)
        for at in range(count):
            these = slice(at * WIDTH, (at + 1) * WIDTH)
            self._write(public / tile_path(ENTRIES, first + at), pack_entries([one.leaf for one in self._tail[these]]))
            self._write(self.place.parts(first + at), pack_part_file(parts[these]))
        for level, number, content in self._filled:
            self._write(public / tile_path(level, number), content)
        self._release(Durable.NOW)  # a crash before this line, and the old journal does it all again
        finished = [tile_path(ENTRIES, first + at) for at in range(count)]
        finished += [tile_path(level, number) for level, number, _ in self._filled]
        rest = [one.leaf for one in self._tail[count * WIDTH :]]
        self._begin_journal((first + count) * WIDTH, rest, parts[count * WIDTH :])
        self._files.remove(journal)
        self.publish()
        for path in finished:
            self._remove_partials(public / (path + ".p"))

    def _parts_of_tail(self, journal: Path) -> list[bytes]:
        """The parts of every entry in the journal, as they stand there."""
        found = []
        with journal.open("rb") as file:
            for one in self._tail:
                file.seek(one.parts_begin)
                found.append(file.read(one.parts_bytes))
                assert len(found[-1]) == one.parts_bytes, "the journal is shorter than what was written"
        return found

    def _begin_journal(self, first: int, leaves: Sequence[bytes], parts: Sequence[bytes]) -> None:
        """A journal with these entries and a signed head over the whole tree takes the place of the one before."""
        heading = heading_frame(Heading(self._whose.dcu, self._whose.origin, first))
        frames = [entry_frame(leaf, beside) for leaf, beside in zip(leaves, parts, strict=True)]
        self._note = self._signed(self._growth.size, self._growth.edge.root())
        commit = commit_frame(self._note.encode())
        path = journal_path(self.place.private, first)
        write_whole(self._files, path, b"".join((heading, *frames, commit)))
        self._close_journal()
        self._file = self._files.open(path)
        self._first, self._journal_bytes, self._tail, self._filled = first, len(heading), [], []
        for leaf, frame in zip(leaves, frames, strict=True):
            self._take(leaf, len(frame))
        self._journal_bytes += len(commit)

    def _write(self, path: Path, data: bytes) -> None:
        """A file with this content; on the medium after `_release`."""
        if path.parent not in self._known:
            new = [path.parent, *path.parent.parents]
            self._made |= {p.parent for p in new if p.is_relative_to(self.place.base) and not p.exists()}
            self._files.make_directory(path.parent)
            self._known.add(path.parent)
        file = self._files.create(path)
        self._written.append(file)
        self._files.append(file, data)
        self._dirty.add(path.parent)

    def _release(self, durable: Durable) -> None:
        """Close what was written, all at once; synchronised first or not."""
        if durable is Durable.NOW:
            for file in self._written:
                self._files.sync(file)
        while self._written:
            self._files.close(self._written.pop())
        if durable is Durable.NOW:
            for directory in sorted(self._dirty | self._made):
                self._files.sync_directory(directory)
            self._made.clear()
        self._dirty.clear()

    def _remove_partials(self, directory: Path) -> None:
        """Partial tiles may go once the full one is there (tlog-tiles, "Partial Tiles")."""
        if directory.is_dir():
            for path in directory.iterdir():
                self._files.remove(path)
            self._files.remove_directory(directory)
            self._known.discard(directory)

    # ---- opening -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin the log, or go on where it stopped.

        Raises:
            EndedError: it cannot go on.
            LedgerError: it is another DCU's, or of another format.
            OSError: of the medium.
        """
        for directory in (self.place.public, self.place.private):
            self._files.make_directory(directory)
        finder = Finder(self.place, self._files, self.faults)
        newest = finder.newest_journal(self._whose)
        if newest is None:
            if claimed_size(self.place.checkpoint) or (self.place.public / "tile").exists():
                raise EndedError("the journal is missing")
            self.begin()
            return
        path, heading = newest
        try:
            self.signer = read_key(self.place.key, self._whose.origin)
        except (OSError, DecodeError) as error:
            raise EndedError(f"the key cannot be used ({error})") from error
        found = finder.consistent(path, heading, self.signer.verifier)
        self._adopt(found)
        if found.journal.faults:
            self.faults += found.journal.faults
            put_tail_aside(self._files, path, found.journal.valid_bytes)
        self._file = self._files.open(path)
        if found.journal.committed < len(found.journal.kept):
            self._append(commit_frame(self._note.encode()))
            self._journal_bytes += len(commit_frame(self._note.encode()))
        self._clean_up(path)
        self._mend_edge(found.head)
        if len(self._tail) >= WIDTH:
            self._roll()
        elif found.head is None or found.head.size != self.size:
            self.publish()

    def begin(self) -> None:
        """An empty log: key, journal, head. Interrupted anywhere, it is begun again."""
        for directory in (self.place.base.parent, self.place.base):
            self._files.sync_directory(directory)
        try:
            self.signer = read_key(self.place.key, self._whose.origin)
        except (OSError, DecodeError):
            write_whole(self._files, self.place.key, pack_key(self._draw(SEED_BYTES)))
            self.signer = read_key(self.place.key, self._whose.origin)
        self._begin_journal(0, [], [])
        self.publish()

    def _adopt(self, found: Found) -> None:
        """What was found becomes the tree."""
        journal, self._growth = found.journal, found.growth
        self._first = journal.heading.first
        epochs = [epoch_before(self.place, self._first)]
        for one, begin in zip(journal.kept, journal.begins, strict=True):
            self._journal_bytes = begin
            self._take(one.leaf, len(entry_frame(one.leaf, pack_parts(one.parts))))
            self._filled += self._growth.push(leaf_hash(one.leaf))
            said = restore(one.leaf, one.parts)
            epochs.append(epoch_of(said))
            self._writer.customers = customers_of(said) or self._writer.customers
        self._journal_bytes = journal.valid_bytes
        self.epoch = max(epochs)
        self.size, self.head = self._growth.size, self._growth.edge.root()
        self.published = 0 if found.head is None else found.head.size
        self._note = self._signed(self.size, self.head)

    def _clean_up(self, journal: Path) -> None:
        """What an interrupted roll has left."""
        place = self.place
        for path in (*place.private.glob(f"{PREFIX}*"), *place.private.glob("*.new"), *place.public.glob("*.new")):
            if path != journal and BAD not in path.name:
                self._files.remove(path)
        for path in self._superfluous():
            self._files.remove(path)

    def _superfluous(self) -> Iterator[Path]:
        """Partial tiles of full ones, and tiles of entries that a medium that lied has lost: nobody was shown a head
        over those."""
        public, width = self.place.public, WIDTH
        for level, rows in ((ENTRIES, 0), *((str(row), row) for row in range(8))):
            size = self.size // width**rows
            for number in range(max(0, size // width - BUNDLES_MAX), size // width + BUNDLES_MAX + 1):
                known = min(width, max(0, size - number * width))
                for path in (public / (tile_path(level, number) + ".p")).glob("*"):
                    if known == width or not path.name.isdigit() or int(path.name) > known:
                        yield path
                if known < width:
                    whole = [
                        public / tile_path(level, number),
                        *([self.place.parts(number)] if level == ENTRIES else []),
                    ]
                    yield from (path for path in whole if path.exists())

    def _mend_edge(self, head: Checkpoint | None) -> None:
        """Partial tiles that were shown are there, and are what they were."""
        leaves = [one.leaf for one in self._tail]
        for level, number, content in self._growth.unfinished():
            shown = 0 if head is None else (head.size >> 8 * level) - number * WIDTH
            for width in self._widths(level, number, shown):
                self._mend(tile_path(level, number, width), content[: width * HASH_BYTES])
        number = self._first // WIDTH
        shown = 0 if head is None else head.size - self._first
        for width in self._widths(ENTRIES, number, shown):
            if width <= len(leaves) < WIDTH:
                self._mend(tile_path(ENTRIES, number, width), pack_entries(leaves[:width]))
        self._release(Durable.NOW)

    def _widths(self, level: int | str, number: int, shown: int) -> set[int]:
        found = {int(path.name) for path in (self.place.public / (tile_path(level, number) + ".p")).glob("*")}
        return found | ({shown} if 0 < shown < WIDTH else set())

    def _mend(self, name: str, content: bytes) -> None:
        path = self.place.public / name
        self._shown.add(path)
        if not path.exists() or path.read_bytes() != content:
            self.faults.append(f"{path}: missing or damaged, made again from the entries")
            self._write(path, content)
