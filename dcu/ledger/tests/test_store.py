"""The ledger's door: durable on return, recovered to its longest valid prefix, poisoned by the first failure."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.journal import MAGIC, entry_frame, frame, journals
from dcu.ledger.layout import Place, current, ended
from dcu.ledger.store import CONTINUED, Ledger, LedgerError, RealFiles, read, verify
from shared.errors import DeviceError

ENTRIES: list[dict[str, Any]] = [
    {"epoch": 1, "seq": number, "kind": "denial", "text": "ä" * number} for number in range(4)
]


class Unsynced(RealFiles):
    """A medium that is always fast; these tests do not cut its power."""

    def sync(self, file: int) -> None:
        del file


def written(directory: Path, entries: list[dict[str, Any]] | None = None) -> Place:
    """A ledger, closed in order."""
    ledger = Ledger(directory, "dcu", Unsynced())
    content = ENTRIES if entries is None else entries
    for at in range(0, len(content), 200):
        ledger.append_all(content[at : at + 200])
    ledger.close()
    return current(directory)


def numbered(count: int) -> list[dict[str, Any]]:
    """So many entries."""
    return [{"epoch": 1 + number // 100, "seq": number, "kind": "grant"} for number in range(count)]


def reopened(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Entries after another start, which must leave a ledger that verifies; and what had to be put right."""
    ledger = Ledger(directory, "dcu", Unsynced())
    head = ledger.head
    ledger.close()
    found = verify(directory)
    assert found.faults == []
    assert found.head == head
    assert list(read(directory)) == found.entries
    return found.entries, ledger.recovered.faults


def journal_of(place: Place) -> Path:
    """The one journal of a closed log."""
    (path,) = journals(place.private)
    return path


class FailingFiles(Unsynced):
    """The k-th operation fails, once or from then on."""

    def __init__(self, failing: int, *, for_ever: bool) -> None:
        self.left = failing
        self._for_ever = for_ever

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0 or (self._for_ever and self.left < 0):
            raise OSError(5, "Input/output error")

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def append(self, file: int, data: bytes) -> None:
        self._count()
        super().append(file, data)

    def sync(self, file: int) -> None:
        self._count()
        super().sync(file)

    def truncate(self, file: int, size: int) -> None:
        self._count()
        super().truncate(file, size)

    def replace(self, old: Path, new: Path) -> None:
        self._count()
        super().replace(old, new)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)

    def make_directory(self, path: Path) -> None:
        self._count()
        super().make_directory(path)


def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    """Entries come back equal and in order; positions count from zero; the tree goes on; the highest epoch is known
    even if it stands in an old bundle."""
    written(tmp_path)
    assert reopened(tmp_path) == (ENTRIES, [])
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    assert (ledger.position, ledger.epoch) == (4, 1)
    assert ledger.append({"epoch": 2, "seq": 0}) == 4
    assert ledger.append_all([{"kind": "view"}] * 600) == 5
    ledger.close()
    assert verify(tmp_path).faults == []
    again = Ledger(tmp_path, "dcu", Unsynced())
    assert (again.position, again.epoch, again.head) == (605, 2, ledger.head)
    again.close()


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 511, 513])
def test_a_ledger_of_any_size_goes_on_where_it_stopped(tmp_path: Path, count: int) -> None:
    """At the borders of bundles too; nothing of the journal is left over when a bundle is full."""
    place = written(tmp_path, numbered(count))
    assert reopened(tmp_path) == (numbered(count), [])
    assert journal_of(place).name.endswith(f"{count - count % 256:015d}")
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    assert ledger.append({"epoch": 9, "seq": 0}) == count
    ledger.close()
    assert verify(tmp_path).faults == []


def test_every_cut_of_the_journal_recovers_the_longest_valid_prefix(tmp_path: Path) -> None:
    """Wherever a power cut tears the journal, whole entries before the tear survive, and the torn tail is kept aside.
    No head was published meanwhile, so the log goes on."""
    ledger = Ledger(tmp_path / "log", "dcu", Unsynced())
    for entry in ENTRIES:
        ledger.append(entry)
    good = journal_of(current(tmp_path / "log")).read_bytes()
    header = good.index(b"H", len(MAGIC)) + 9 + int.from_bytes(good[len(MAGIC) + 1 : len(MAGIC) + 5], "big")
    seen = set()
    for cut in range(header, len(good), 5):
        directory = tmp_path / "cut"
        shutil.copytree(tmp_path / "log", directory)
        path = journal_of(current(directory))
        path.write_bytes(good[:cut])
        entries, faults = reopened(directory)
        assert entries == ENTRIES[: len(entries)]
        tail = b"".join(p.read_bytes() for p in sorted(path.parent.glob("*.bad*")))
        assert good[:cut].endswith(tail)
        assert bool(tail) == bool(faults)
        seen.add(len(entries))
        shutil.rmtree(directory)
    ledger.close()
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("for_ever", [False, True])
def test_a_failing_disk_poisons_the_ledger_and_loses_nothing_acknowledged(tmp_path: Path, *, for_ever: bool) -> None:
    """The k-th operation on the medium fails, for every k of a life of three starts across a full bundle: nothing is
    taken after it, and every entry that was acknowledged is still there after a start on a disk that works."""
    entries = [*numbered(254), *ENTRIES]
    base = tmp_path / "base"
    written(base, entries[:250])
    failing, finished = 0, False
    while not finished:
        failing += 1
        directory = tmp_path / "k"
        shutil.copytree(base, directory)
        acknowledged, finished = life(directory, FailingFiles(failing, for_ever=for_ever), entries)
        found, _ = reopened(directory)
        assert found[:acknowledged] == entries[:acknowledged], failing
        assert found == entries[: len(found)], failing
        assert not ended(directory)
        shutil.rmtree(directory)
    assert failing > 30


def life(directory: Path, files: FailingFiles, entries: list[dict[str, Any]]) -> tuple[int, bool]:
    """Open, append the rest, close; how many entries were acknowledged, and whether nothing failed."""
    acknowledged = 250
    try:
        ledger = Ledger(directory, "dcu", files)
    except OSError:
        return acknowledged, False
    finished = True
    for entry in entries[acknowledged:]:
        try:
            ledger.append(entry)
            acknowledged += 1
        except LedgerError:
            finished = False
            with pytest.raises(LedgerError, match="poisoned"):
                ledger.append(entry)
            break
    try:
        ledger.close()
    except LedgerError:
        finished = False
    return acknowledged, finished


def test_an_entry_that_json_cannot_keep_changes_nothing(tmp_path: Path) -> None:
    """NaN, a number too long to be exact and a stranger's type are refused; the ledger goes on, the good entries of the
    batch were not written."""
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    ledger.append(ENTRIES[0])
    before = (ledger.position, ledger.head)
    for bad in (float("nan"), 2**53 + 1, object(), "\ud800"):
        with pytest.raises((ValueError, TypeError)):
            ledger.append_all([ENTRIES[1], {"epoch": 1, "value": bad}])
        assert (ledger.position, ledger.head) == before
    ledger.append(ENTRIES[1])
    ledger.close()
    assert list(read(tmp_path)) == ENTRIES[:2]


def test_only_the_owner_reads_what_is_private(tmp_path: Path) -> None:
    """Key, journal and values are nobody else's; a web server may read what is public."""
    place = written(tmp_path, numbered(300))
    modes = {path: path.stat().st_mode & 0o777 for path in place.base.rglob("*") if path.is_file()}
    assert all(mode & 0o077 == 0 for path, mode in modes.items() if path.is_relative_to(place.private))
    assert all(mode & 0o444 == 0o444 for path, mode in modes.items() if path.is_relative_to(place.public))
    assert len(modes) > 8


def test_there_is_one_writer(tmp_path: Path) -> None:
    """A second instance gets one clear line; after the first has gone it may write."""
    first = Ledger(tmp_path, "dcu", Unsynced())
    with pytest.raises(DeviceError, match="another process"):
        Ledger(tmp_path, "dcu", Unsynced())
    first.close()
    Ledger(tmp_path, "dcu", Unsynced()).close()


def test_foreign_ledgers_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    """Another DCU's, a later format's, a former format's; nothing at all is no ledger to read."""
    place = written(tmp_path)
    path = journal_of(place)
    good = path.read_bytes()
    with pytest.raises(LedgerError, match="expected that of other"):
        Ledger(tmp_path, "other")
    with pytest.raises(LedgerError, match="expected log-of-mine"):
        Ledger(tmp_path, "dcu", origin="log-of-mine")
    path.write_bytes(good.replace(b"JOURNAL 2", b"JOURNAL 3", 1))
    with pytest.raises(LedgerError, match="JOURNAL 3"):
        Ledger(tmp_path, "dcu", Unsynced())
    path.write_bytes(good)
    (tmp_path / "decisions.ledger").write_bytes(b"HEADROOM LEDGER 1 dcu\n")
    with pytest.raises(LedgerError, match="format 1"):
        Ledger(tmp_path, "dcu", Unsynced())
    (tmp_path / "decisions.ledger").unlink()
    assert reopened(tmp_path) == (ENTRIES, [])
    with pytest.raises(LedgerError, match="no ledger"):
        verify(tmp_path / "nowhere")
    with pytest.raises(LedgerError, match="no ledger"):
        list(read(tmp_path / "nowhere"))


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 2, 3), (0, 1, 1, 2, 3)])
def test_swapped_removed_and_doubled_entries_are_no_prefix_of_the_log(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Each frame is whole and checks by itself, but the signed commit is not over this sequence; a start goes on
    without what nobody signed for, and keeps it aside."""
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    ledger.append_all(ENTRIES)
    path = journal_of(current(tmp_path))
    data = path.read_bytes()
    frames = [entry_frame(kept.leaf, b"\x00" * 4) for kept in (ledger._log.keep(entry) for entry in ENTRIES)]
    ledger._give_back()
    assert data.count(b"".join(frames)) == 1
    path.write_bytes(data.replace(b"".join(frames), b"".join(frames[at] for at in order)))
    assert any("and the root over them" in fault for fault in verify(tmp_path).faults)
    entries, faults = reopened(tmp_path)
    assert (entries, len(faults)) == ([], 1)
    assert frames[3] in b"".join(aside.read_bytes() for aside in path.parent.glob("*.bad*"))


def test_a_log_that_lost_what_it_published_ends_and_another_begins(tmp_path: Path) -> None:
    """A medium that lied loses entries under a published head. The log must never sign another head of that size: it
    is kept, a log of another origin begins with an entry that says where the first ended, epochs do not come twice,
    and everything that was kept is still read."""
    place = written(tmp_path, numbered(300))
    path = journal_of(place)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    assert any("published 300 entries" in fault for fault in ledger.recovered.faults)
    assert ledger.vkey.startswith("headroom/dcu/2+")
    ledger.append({"epoch": ledger.epoch + 1, "seq": 0, "kind": "start"})
    ledger.close()
    found = verify(tmp_path)
    assert (found.faults, len(found.losses), found.size) == ([], 1, 2)
    *kept, continued, start = found.entries
    assert kept == numbered(300)[: len(kept)]
    assert 256 <= len(kept) < 300
    assert continued["kind"] == CONTINUED
    assert continued["after"]["entries"] == len(kept)
    assert continued["after"]["published"] == 300
    assert start["epoch"] > continued["epoch"] >= 3
    assert reopened(tmp_path)[1] == []


class Noting(Unsynced):
    """Counts how often each file is begun."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def create(self, path: Path) -> int:
        self.begun[path.as_posix()] += 1
        return super().create(path)


def test_a_tile_that_was_shown_is_not_written_again(tmp_path: Path) -> None:
    """Its width stays for 256 entries, over a restart too; whoever follows a head would read half of it meanwhile."""
    written(tmp_path, numbered(515))
    files = Noting()
    ledger = Ledger(tmp_path, "dcu", files)
    for number in range(5):
        ledger.append({"epoch": 9, "seq": number})
        ledger.publish()
    ledger.close()
    tiles = {name: count for name, count in files.begun.items() if "/tile/" in name}
    assert tiles
    assert set(tiles.values()) == {1}
    assert not any(name.endswith("tile/1/000.p/2") for name in tiles)
    assert verify(tmp_path).faults == []


def test_half_a_tile_beyond_the_head_is_being_written_and_below_it_is_damage(tmp_path: Path) -> None:
    """A process killed while it publishes leaves the first."""
    log = written(tmp_path, numbered(300)).public
    (log / "tile/0/001.p/44").write_bytes(b"")
    assert any("tile/0/001.p/44" in fault for fault in verify(tmp_path).faults)
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    ledger.append({"epoch": 9, "seq": 0})  # not published yet
    half = log / "tile/0/001.p/45"
    half.write_bytes((log / "tile/0/001.p/44").read_bytes()[:40])
    assert verify(tmp_path).faults == []
    half.write_bytes(b"x")
    assert any("tile/0/001.p/45" in fault for fault in verify(tmp_path).faults)
    ledger.close()
    assert verify(tmp_path).faults == []


@pytest.mark.parametrize("victim", ["key", "journal", "public/tile/entries/000", "private/parts/000"])
def test_a_lost_file_never_stops_the_ledger_for_good(tmp_path: Path, victim: str) -> None:
    """Key, journal, a young bundle or its values gone with entries published: the log ends, there is another one to
    write after the start, and both the start and those who verify say what happened."""
    place = written(tmp_path, numbered(300))
    {"key": place.key, "journal": journal_of(place)}.get(victim, place.base / victim).unlink()
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    assert ledger.recovered.faults != []
    assert ledger.append({"epoch": 500, "seq": 0}) == 1
    ledger.close()
    found = verify(tmp_path)
    assert (found.faults, len(found.losses)) == ([], 1)


def test_an_old_bundle_that_is_lost_does_not_stop_the_log(tmp_path: Path) -> None:
    """Rot in a bundle of long ago is for those who verify; the log itself goes on."""
    place = written(tmp_path, numbered(1600))
    (place.public / "tile/entries/000").unlink()
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    assert ledger.append({"epoch": 500, "seq": 0}) == 1600
    ledger.close()
    assert any("entries/000" in fault for fault in verify(tmp_path).faults)


def test_a_damaged_tile_is_made_again_from_the_entries(tmp_path: Path) -> None:
    """Tiles are derived: one flipped bit in a hash, a tile cut short or gone, and the ledger opens and heals."""
    place = written(tmp_path, numbered(600))
    tile = place.public / "tile/0/001"
    good = tile.read_bytes()
    for bad in (bytes((good[0] ^ 1,)) + good[1:], good[:-32], None):
        if bad is None:
            tile.unlink()
        else:
            tile.write_bytes(bad)
        entries, faults = reopened(tmp_path)
        assert entries == numbered(600)
        assert any("made again" in fault for fault in faults)
        assert tile.read_bytes() == good


def test_a_damaged_head_is_signed_again(tmp_path: Path) -> None:
    """The journal's own signed heads vouch for the entries; the damaged file is kept aside."""
    place = written(tmp_path)
    good = place.checkpoint.read_bytes()
    place.checkpoint.write_bytes(good[:-3])
    entries, faults = reopened(tmp_path)
    assert (entries, len(faults)) == (ENTRIES, 1)
    assert place.checkpoint.read_bytes() == good


def test_a_frame_that_is_too_long_ends_the_prefix(tmp_path: Path) -> None:
    """A length of four gigabytes in the journal is a fault, not an allocation."""
    place = written(tmp_path)
    path = journal_of(place)
    path.write_bytes(path.read_bytes() + b"E\xff\xff\xff\xff" + frame(b"E", b"")[5:])
    assert reopened(tmp_path)[0] == ENTRIES
