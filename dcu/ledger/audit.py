"""Reading a ledger: every entry in order, and everything that is wrong with its files.

Nothing here locks or writes. Every file is looked at: bundles hash to tiles, tiles to the tiles above, everything to
the published head and to the signed commits in the journal; parts hash to what their entries say of them. A file that
the log does not need is a fault as well.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from dcu.ledger.entry import epoch_of, parse_leaf, restore
from dcu.ledger.growth import Growth, Tile
from dcu.ledger.journal import journal_path, journals, read_heading, scan
from dcu.ledger.layout import LedgerError, Place, current, ended, origin_of, read_key
from dcu.ledger.merkle import EMPTY_ROOT, HASH_BYTES, Edge, leaf_hash, peaks, root_at
from dcu.ledger.note import Checkpoint, Verifier, open_checkpoint, parse_checkpoint, parse_note
from dcu.ledger.seal import Part, matches, unpack_part_file
from dcu.ledger.tiles import ENTRIES, WIDTH, TileStore, pack_entries, tile_path, unpack_entries
from shared.errors import DecodeError

TRIES: Final = 5
"""A log that is being written may change its journal under the reader."""

COSIGNED: Final = "cosigned"
"""The newest published head with its witnesses' signatures, beside the checkpoint."""

FAULTS_MAX: Final = 100

_TILE: Final = re.compile(
    r"(public/tile/(?P<level>entries|[0-9]+)|private/parts)/(?P<number>(x[0-9]{3}/)*[0-9]{3})(\.p/(?P<width>[0-9]+))?"
)

ItemT = TypeVar("ItemT")
Visit = Callable[[int, bytes, list[Part]], None]
"""Called with position, leaf and parts of each entry that verified."""


@dataclass(slots=True)
class Scan:
    """What a ledger's directory holds, over all its logs.

    Attributes:
        entries: in order.
        head: root of the log that is written.
        faults: what is wrong; empty if nothing is.
        losses: what earlier logs of this ledger lost, as the next one recorded it.
    """

    dcu: str
    origin: str = ""
    entries: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    head: bytes = EMPTY_ROOT
    faults: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Checked:
    """What one log holds.

    Attributes:
        size, root: the longest prefix that is right, and the root over it.
        published: its published head; None if it has none that is signed.
        forgotten: parts that were deleted.
    """

    dcu: str = ""
    origin: str = ""
    size: int = 0
    root: bytes = EMPTY_ROOT
    published: Checkpoint | None = None
    forgotten: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """One more thing that is wrong."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(what)


# ---- the door --------------------------------------------------------------------------------------------------------


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Entries of a ledger in order, without locking it; those of its ended logs first. Damaged ones end a log.

    Raises:
        LedgerError: no ledger there.
    """
    for place in _logs(directory):
        for leaf, parts in read_kept(place):
            try:
                yield restore(leaf, parts)
            except DecodeError:
                break


def verify(directory: Path) -> Scan:
    """Everything a ledger's directory holds, and what is wrong with it. Keeps all entries in memory.

    Raises:
        LedgerError: no ledger there.
    """
    runs: dict[Path, list[dict[str, Any]]] = {}

    def visit_of(place: Place) -> Visit:
        run = runs[place.base] = []  # a log that is read again replaces what was read before
        return lambda _, leaf, parts: run.append(restore(leaf, parts))

    checked, faults, losses = verify_all(directory, visit_of)
    last, entries = checked[-1], [entry for run in runs.values() for entry in run]
    return Scan(last.dcu, last.origin, entries, last.size, last.root, faults, losses)


class Walk:
    """The entries of a ledger one by one, of all its logs in order; everything was verified before the first is given.

    Attributes:
        dcu: whose ledger it is.
        count: entries that are right.
        head: root of the log that is written.
        faults: what is wrong.
    """

    def __init__(self, directory: Path) -> None:
        """Verifies.

        Raises:
            LedgerError: no ledger there.
        """
        checked, self.faults, _ = verify_all(directory)
        self._logs = list(zip(_logs(directory), checked, strict=True))
        self.dcu, self.head = checked[-1].dcu, checked[-1].root
        self.count = sum(one.size for one in checked)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place, done in self._logs:
            for leaf, parts in islice(read_kept(place) if done.size else (), done.size):
                yield restore(leaf, parts)


def verify_all(
    directory: Path, visit_of: Callable[[Place], Visit] | None = None
) -> tuple[list[Checked], list[str], list[str]]:
    """The same without keeping entries: what each log holds, what is wrong, and what earlier logs lost.

    Raises:
        LedgerError: no ledger there.
    """
    *before, last = _logs(directory)
    faults: list[str] = []
    losses: list[str] = []
    checked = [check_ended(place, visit_of and visit_of(place)) for place in before]
    for done, following in zip(checked, [*before, last][1:], strict=True):
        _compare_end((faults, losses), done, following)
    for _ in range(TRIES):
        before_that = _traces(last)
        done = check(last, visit_of and visit_of(last))
        if not done.faults or _traces(last) == before_that:
            break
    return [*checked, done], [*faults, *done.faults], losses


def _traces(place: Place) -> list[tuple[str, int]]:
    """What changes whenever the log is written."""
    with contextlib.suppress(OSError):
        return [(path.name, path.stat().st_size) for path in journals(place.private)]
    return []


def _logs(directory: Path) -> list[Place]:
    place = current(directory)
    if not place.base.is_dir():
        raise LedgerError(f"{directory}: no ledger there")
    return [*ended(directory), place]


def _compare_end(found: tuple[list[str], list[str]], done: Checked, following: Place) -> None:
    """An ended log has just what the one after it says of it: a fault, or a loss that is known."""
    faults, losses = found
    said: dict[str, Any] = {}
    for leaf, parts in read_kept(following):
        said = restore(leaf, parts).get("after") or {}
        break
    seen = {"origin": done.origin, "entries": done.size, "root": base64.b64encode(done.root).decode()}
    if any(said.get(key) != value for key, value in seen.items()):
        faults.append(f"{done.origin}: seen {seen}, expected {said}, as the log after it says")
    else:
        lost = int(said["published"] or 0) - done.size
        worse = f"; {lost} PUBLISHED ENTRIES LOST" if lost > 0 else ""
        losses.append(f"{done.origin}: ended at {done.size} entries, {said['published']} published{worse}")


# ---- one log ---------------------------------------------------------------------------------------------------------


def read_kept(place: Place, first: int = 0) -> Iterator[tuple[bytes, list[Part]]]:
    """Leaf and parts of a log's entries from ``first``, as far as they can be read; hashes are not compared.

    Raises:
        LedgerError: it has no key.
    """
    key = key_of(place)
    path = next(iter(journals(place.private)), None)
    try:
        tail = None if path is None else scan(path, key, None)
    except (DecodeError, OSError):
        tail = None
    size = claimed_size(place.checkpoint) if tail is None else tail.heading.first
    for number in range(first // WIDTH, size // WIDTH):
        try:
            leaves = unpack_entries((place.public / tile_path(ENTRIES, number)).read_bytes(), WIDTH)
            parts = unpack_part_file(place.parts(number).read_bytes(), WIDTH)
        except (OSError, DecodeError):
            return
        yield from islice(zip(leaves, parts, strict=True), max(0, first - number * WIDTH), None)
    if tail is not None:
        for one in tail.kept[max(0, first - size) :]:
            yield one.leaf, one.parts


def read_at(place: Place, position: int) -> list[Part]:
    """The parts of one entry.

    Raises:
        DecodeError: they cannot be read.
        LedgerError: nobody has them here.
    """
    path = place.parts(position // WIDTH)
    if path.exists():
        return unpack_part_file(path.read_bytes(), WIDTH)[position % WIDTH]
    for journal in journals(place.private):
        tail = scan(journal, key_of(place), None)
        if 0 <= position - tail.heading.first < len(tail.kept):
            return tail.kept[position - tail.heading.first].parts
    raise LedgerError(f"entry {position}: its parts are not here")


def first_changed(store: TileStore, root: bytes, first: int) -> str | None:
    """What is wrong with the entries from ``first`` on under a root; None if they are all as they were.

    The tree of ``first`` leaves is taken from the tiles; who asks has compared it with a head of that size.

    Raises:
        DecodeError: a file that is missing or damaged.
    """
    edge = Edge.with_peaks(first, [store.node(level, index) for level, index in peaks(0, first)])
    changed = None
    for number in range(first // WIDTH, -(-store.size // WIDTH)):
        for position, leaf in enumerate(store.entries(number), number * WIDTH):
            if position < first:
                continue
            hashed = leaf_hash(leaf)
            edge.push(hashed)
            if changed is None and hashed != store.node(0, position):
                changed = position
    if changed is None and edge.root() == root:
        return None
    whose = f"the signed head of {store.size} entries"
    if changed is not None:
        return f"entry {changed} is not the one under {whose}: changed"
    return f"the entries from {first} on are not those under {whose}: changed"


def claimed_size(path: Path) -> int:
    """The size that a checkpoint's file says, whoever signed it; 0 if there is none."""
    try:
        return parse_checkpoint(parse_note(path.read_bytes()).text).size
    except (OSError, DecodeError):
        return 0


def epoch_before(place: Place, position: int) -> int:
    """The highest epoch of the bundles that end at a position; entries of one log never go back in epochs."""
    for number in range(position // WIDTH - 1, -1, -1):
        try:
            leaves = unpack_entries((place.public / tile_path(ENTRIES, number)).read_bytes(), WIDTH)
            epochs = [epoch_of(parse_leaf(leaf)) for leaf in leaves]
        except (OSError, DecodeError):
            continue
        if any(epochs):
            return max(epochs)
    return 0


def key_of(place: Place, key: Verifier | None = None) -> Verifier:
    """The key to verify a log with: the one given, or that of its private directory.

    Raises:
        LedgerError: none is given, and there is none.
    """
    if key is not None:
        return key
    origin = _origin_of(place)
    try:
        return read_key(place.key, origin).verifier
    except (OSError, DecodeError, AssertionError) as error:
        raise LedgerError(f"{place.base}: no key to verify with ({error})") from error


def _origin_of(place: Place) -> str:
    for path in journals(place.private):
        try:
            return read_heading(path.read_bytes(), path)[0].origin
        except (DecodeError, OSError):
            continue
    try:
        return parse_note(place.checkpoint.read_bytes()).text.split("\n")[0]
    except (DecodeError, OSError) as error:
        raise LedgerError(f"{place.base}: neither a journal nor a head ({error})") from error


def check(place: Place, visit: Visit | None = None, key: Verifier | None = None) -> Checked:
    """Verify one log; with its private directory, or without it as outsiders have it (then ``key`` is needed).

    Raises:
        LedgerError: no log there, or no key to verify it with.
    """
    if not place.public.is_dir() and not place.private.is_dir():
        raise LedgerError(f"{place.base}: no log there")
    return _Checker(place, visit, key_of(place, key)).run()


def check_ended(place: Place, visit: Visit | None = None) -> Checked:
    """The same for a log that could not go on, of which even the key may be gone."""
    try:
        return check(place, visit)
    except LedgerError as error:
        return Checked(faults=[str(error)])


def log_name(directory: Path) -> str:
    """What the logs of a ledger are called in their heads, without the number of the one that is written.

    Raises:
        LedgerError: neither journal nor head says.
    """
    origin, number = _origin_of(current(directory)), 1 + len(ended(directory))
    name = origin.removesuffix(f"/{number}")
    return name if origin_of(name, number) == origin else origin


def _unpacked(path: Path, unpack: Callable[[bytes, int], list[ItemT]]) -> list[ItemT]:
    """What is in the file of a full bundle; an error says which file."""
    try:
        return unpack(path.read_bytes(), WIDTH)
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error


class _WrongError(Exception):
    """The prefix that is right ends here."""


class _Checker:
    """Goes once through all files of a log."""

    def __init__(self, place: Place, visit: Visit | None, key: Verifier) -> None:
        self._place, self._visit, self._key = place, visit, key
        self._whole = place.private.is_dir()
        self._left = {p for p in place.base.rglob("*") if p.is_file() and ".bad" not in p.name}
        self._partials = self._find_partials()
        self._growth = Growth()
        self._head: Checkpoint | None = None
        self._root_at_head = EMPTY_ROOT
        self._first = 0
        self._filled: list[Tile] = []
        self.found = Checked(origin=key.name)

    def run(self) -> Checked:
        """Everything that was found."""
        found = self.found
        self._check_key()
        cosigned = self._place.public / COSIGNED
        witnessed = self._read_head(cosigned) if cosigned in self._left else None
        self._head = found.published = self._read_head(self._place.checkpoint)
        try:
            journal = self._find_journal()
            for number in range(self._first // WIDTH):
                self._check_bundle(number)
            if journal is not None:
                self._check_journal(*journal)
            elif self._head is not None and self._head.size > self._first:
                self._check_rest(self._head.size - self._first)
        except (_WrongError, DecodeError, OSError) as error:
            found.fault(str(error))
        for level, number, content in self._growth.unfinished():
            self._check_partials(level, number, content)
        found.size, found.root = self._growth.size, self._growth.edge.root()
        self._check_head()
        self._check_cosigned(witnessed)
        if not found.faults:
            self._check_strangers()
        return found

    def _check_key(self) -> None:
        if not self._whole:
            return
        self._left.discard(self._place.key)
        try:
            own = read_key(self._place.key, self._key.name).verifier
        except (DecodeError, OSError) as error:
            self.found.fault(str(error))
            return
        if own != self._key:
            self.found.fault(f"{self._place.key}: seen the key {own.vkey()}, expected {self._key.vkey()}")

    def _find_journal(self) -> tuple[Path, bytes] | None:
        """The newest journal as it is now; where the full bundles end."""
        size = 0 if self._head is None else self._head.size
        self._first = size - size % WIDTH
        path = next(iter(journals(self._place.private)), None)
        if path is None:
            if self._whole:
                self.found.fault(f"{self._place.private}: the journal is missing")
            return None
        self._left -= set(journals(self._place.private))
        data = path.read_bytes()
        heading, _ = read_heading(data, path)
        if heading.origin != self._key.name:
            raise _WrongError(f"{path}: seen the log {heading.origin}, expected {self._key.name}")
        if path.name != journal_path(self._place.private, heading.first).name:
            raise _WrongError(f"{path}: seen the journal from entry {heading.first} on")
        self.found.dcu, self._first = heading.dcu, heading.first
        return path, data

    # ---- heads -------------------------------------------------------------------------------------------------------

    def _read_head(self, path: Path) -> Checkpoint | None:
        self._left.discard(path)
        try:
            return open_checkpoint(path.read_bytes(), self._key)[0]
        except (DecodeError, OSError) as error:
            self.found.fault(f"{path}: {error}")
            return None

    def _check_head(self) -> None:
        found, head = self.found, self._head
        if head is not None:
            self._check_edge(head.size)
        if head is not None and head.size > found.size:
            found.fault(f"{found.origin}: {head.size} entries published, {found.size} found")
        elif head is not None and head.root != self._root_at_head:
            found.fault(f"{found.origin}: the published head of {head.size} entries is not over these entries")

    def _check_edge(self, size: int) -> None:
        """The unfinished tiles of the published head are there (tlog-tiles, "Partial Tiles")."""
        names = [tile_path(ENTRIES, size // WIDTH, size % WIDTH)] if size % WIDTH else []
        level, rest = 0, size
        while rest:
            if rest % WIDTH:
                names.append(tile_path(level, rest // WIDTH, rest % WIDTH))
            rest, level = rest // WIDTH, level + 1
        for name in names:
            path = self._place.public / name
            if not path.exists() and not path.parent.with_suffix("").exists():
                self.found.fault(f"{path}: missing")

    def _check_cosigned(self, head: Checkpoint | None) -> None:
        """The witnessed head is one this log has had; which witnesses count is the verifier's to know."""
        if head is None or self.found.faults:
            return
        store = self._growth.store(self._place.public, self._filled)
        if head.size > self.found.size or root_at(head.size, store.node) != head.root:
            self.found.fault(f"{COSIGNED}: a head of {head.size} entries that is not over these entries")

    # ---- entries -----------------------------------------------------------------------------------------------------

    def _check_bundle(self, number: int) -> None:
        path = self._place.public / tile_path(ENTRIES, number)
        self._left.discard(path)
        leaves = _unpacked(path, unpack_entries)
        parts: list[list[Part]] = [[]] * WIDTH
        if self._whole:
            beside = self._place.parts(number)
            self._left.discard(beside)
            parts = _unpacked(beside, unpack_part_file)
        self._check_bundle_partials(number, leaves)
        for level, at, content in self._take(leaves, parts):
            tile = self._place.public / tile_path(level, at)
            self._same(tile, content)
            self._check_partials(level, at, content)

    def _check_journal(self, path: Path, data: bytes) -> None:
        tail = scan(path, self._key, self._growth.edge, data)
        for fault in tail.faults:
            self.found.fault(fault)
        if tail.committed < len(tail.kept):
            self.found.fault(f"{path}: {len(tail.kept) - tail.committed} entries that no commit signs")
        leaves = [one.leaf for one in tail.kept]
        self._check_bundle_partials(self._first // WIDTH, leaves)
        self._filled = self._take(leaves, [one.parts for one in tail.kept])

    def _check_rest(self, width: int) -> None:
        """The unfinished bundle, where there is no journal."""
        path = self._place.public / tile_path(ENTRIES, self._first // WIDTH, width)
        if not path.exists():
            path = self._place.public / tile_path(ENTRIES, self._first // WIDTH)
            leaves = unpack_entries(path.read_bytes(), WIDTH)[:width]
        else:
            leaves = unpack_entries(path.read_bytes(), width)
        self._check_bundle_partials(self._first // WIDTH, leaves)
        self._take(leaves, [[]] * width)

    def _take(self, leaves: list[bytes], parts: list[list[Part]]) -> list[Tile]:
        """Take in entries in order; the tiles they fill."""
        growth, found, filled = self._growth, self.found, []
        head_size = -1 if self._head is None else self._head.size
        for leaf, beside in zip(leaves, parts, strict=True):
            position = growth.size
            try:
                sealed = parse_leaf(leaf).get("sealed")
            except DecodeError as error:
                raise _WrongError(f"entry {position}: {error}") from error
            if self._whole and not matches(beside, sealed):
                raise _WrongError(f"entry {position}: its {len(beside)} parts are not those it speaks of")
            filled += growth.push(leaf_hash(leaf))
            found.forgotten += sum(part.data is None for part in beside)
            if self._visit is not None:
                self._visit(position, leaf, beside)
            if position + 1 == head_size:
                self._root_at_head = growth.edge.root()
        return filled

    # ---- files -------------------------------------------------------------------------------------------------------

    def _same(self, path: Path, content: bytes, reaches: int = 0) -> None:
        """A file has this content; one that ``reaches`` beyond the published head may just be written."""
        self._left.discard(path)
        try:
            seen = path.read_bytes()
            unfinished = self._head is None or reaches > self._head.size
            same = seen == content or (unfinished and content.startswith(seen))
        except FileNotFoundError:  # partial ones go when the full one is there, also while we look
            same = path.parent.suffix == ".p" and path.parent.with_suffix("").exists()
        if not same:
            self.found.fault(f"{path}: not what the entries hash to")

    def _find_partials(self) -> dict[str, list[tuple[int, Path]]]:
        """Partial tiles and bundles by the path of the full one."""
        partials: dict[str, list[tuple[int, Path]]] = {}
        for path in self._left:
            whole = self._name(path.parent)
            if whole.endswith(".p") and path.name.isdigit() and str(int(path.name)) == path.name:
                partials.setdefault(whole, []).append((int(path.name), path))
        return partials

    def _name(self, path: Path) -> str:
        """``public/...`` or ``private/...``, wherever the public directory lies."""
        if path.is_relative_to(self._place.public):
            return "public/" + path.relative_to(self._place.public).as_posix()
        return path.relative_to(self._place.base).as_posix()

    def _check_partials(self, level: int, number: int, content: bytes) -> None:
        for width, path in self._partials.get(f"public/{tile_path(level, number)}.p", []):
            if 0 < width <= len(content) // HASH_BYTES:
                reaches = (number * WIDTH + width) * WIDTH**level
                self._same(path, content[: width * HASH_BYTES], reaches)

    def _check_bundle_partials(self, number: int, leaves: list[bytes]) -> None:
        for width, path in self._partials.get(f"public/{tile_path(ENTRIES, number)}.p", []):
            if 0 < width <= len(leaves):
                self._same(path, pack_entries(leaves[:width]), number * WIDTH + width)

    def _check_strangers(self) -> None:
        """Nothing lies there that nothing vouches for; what an interrupted roll has left is written again."""
        for path in sorted(self._left):
            if not self._is_left_over(path):
                self.found.fault(f"{path}: not a file of this log")

    def _is_left_over(self, path: Path) -> bool:
        """Of a roll or a publication that a crash cut off, or done while we looked."""
        found = _TILE.fullmatch(self._name(path))
        if path.name.endswith(".new") or found is None:
            return path.name.endswith(".new")
        level = 0 if found["level"] in {None, ENTRIES} else int(found["level"])
        number = int(found["number"].replace("/", "").replace("x", ""))
        begin: int = number * WIDTH ** (level + 1)
        end: int = begin + int(found["width"] or WIDTH) * WIDTH**level
        return self._first < end <= self._growth.size
