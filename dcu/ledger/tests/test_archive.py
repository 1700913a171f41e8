"""A log that is moved away: both halves verify, and nothing is lost however it is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.ledger.archive import archive
from dcu.ledger.audit import Walk, key_of, log_name
from dcu.ledger.forget import forget
from dcu.ledger.layout import ARCHIVED, LedgerError, current, ended
from dcu.ledger.store import CONTINUED, Ledger, read, verify
from dcu.ledger.tests import second_verifier
from dcu.ledger.tests.test_seal import DAY
from dcu.ledger.tests.test_store import FailingFiles, Unsynced, numbered, written
from shared.errors import DeviceError


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_an_archived_log_verifies_and_the_next_one_says_where_it_ended(tmp_path: Path) -> None:
    """Entries are in the copy, with the customers' values; what stays here is small, and its head is the copy's."""
    state, copy = tmp_path / "state", tmp_path / "archive"
    written(state, [*DAY, *numbered(600)])
    before, full = list(read(state)), size_of(state)
    moved = archive(state, "dcu", copy, Unsynced())
    assert (moved.done.size, moved.done.origin) == (604, "headroom/dcu")
    assert list(read(copy)) == before
    assert verify(copy).faults == []
    assert second_verifier.read_log(current(copy).public, key_of(current(copy)).vkey())[0] == 604
    assert moved.stayed.read_bytes() == current(copy).checkpoint.read_bytes()
    found = verify(state)
    assert (found.faults, found.origin) == ([], "headroom/dcu/2")
    assert found.losses == ["headroom/dcu: ended at 604 entries, 604 published, archived"]
    (first,) = found.entries
    assert (first["kind"], first["after"]["entries"]) == (CONTINUED, 604)
    assert size_of(state) < full / 20
    walk = Walk(state)
    assert (walk.count, len(list(walk))) == (1, 1)


def test_the_dcu_goes_on_in_the_next_log_and_it_can_be_archived_as_well(tmp_path: Path) -> None:
    """Epochs and the log's numbers go on; a log that is begun by damage later has a number of its own."""
    state = tmp_path / "state"
    written(state, numbered(300))
    archive(state, "dcu", tmp_path / "first", Unsynced())
    ledger = Ledger(state, "dcu", Unsynced())
    assert ledger.epoch == numbered(300)[-1]["epoch"]
    ledger.append_all(numbered(300))
    ledger.close()
    archive(state, "dcu", tmp_path / "second", Unsynced())
    assert [place.base.name for place in ended(state)] == ["ended-1", "ended-2"]
    assert verify(tmp_path / "second").origin == "headroom/dcu/2"
    assert verify(state).origin == "headroom/dcu/3"
    assert verify(state).faults == []


def test_another_name_of_the_log_is_kept_and_known_to_those_who_forget(tmp_path: Path) -> None:
    """`log_origin` stands in the heads, not in the command line."""
    state = tmp_path / "state"
    ledger = Ledger(state, "dcu", Unsynced(), origin="grid.example/dcu")
    ledger.append_all([*DAY, *numbered(300)])
    ledger.close()
    assert forget(state, "dcu", "m1", Unsynced()).own > 0
    archive(state, "dcu", tmp_path / "copy", Unsynced())
    assert verify(state).origin == "grid.example/dcu/2"
    assert log_name(state) == "grid.example/dcu"


def test_what_cannot_be_archived_stays_as_it_was(tmp_path: Path) -> None:
    """A damaged log, another DCU's, one that is written, a destination that is there."""
    state = tmp_path / "state"
    place = written(state, numbered(1600))
    ledger = Ledger(state, "dcu", Unsynced())
    with pytest.raises(DeviceError, match="another process"):
        archive(state, "dcu", tmp_path / "copy", Unsynced())
    ledger.close()
    with pytest.raises(LedgerError, match="expected that of other"):
        archive(state, "other", tmp_path / "copy", Unsynced())
    (tmp_path / "there").mkdir()
    with pytest.raises(LedgerError, match="is there already"):
        archive(state, "dcu", tmp_path / "there", Unsynced())
    bundle = place.public / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b"grant", b"grand", 1))  # an old one: a start does not look there
    with pytest.raises(LedgerError, match="only a log that verifies"):
        archive(state, "dcu", tmp_path / "copy", Unsynced())
    assert ended(state) == []
    assert not (tmp_path / "copy").exists()


def test_the_head_that_stays_is_held_against_what_the_next_log_says(tmp_path: Path) -> None:
    """A byte of it changed, or another log's head in its place: verifying says so."""
    state = tmp_path / "state"
    written(state, numbered(300))
    stayed = archive(state, "dcu", tmp_path / "copy", Unsynced()).stayed
    good = stayed.read_bytes()
    stayed.write_bytes(good.replace(b"300", b"301"))
    assert verify(state).faults
    stayed.write_bytes(good)
    assert verify(state).faults == []
    (stayed.parent.parent / ARCHIVED).unlink()
    assert verify(state).faults


def test_interrupted_anywhere_nothing_is_lost_and_another_run_finishes(tmp_path: Path) -> None:
    """The k-th operation on the medium fails, for every k: all entries are in the state directory or in a copy that
    verifies; the DCU starts; and the command run again ends as if nothing had happened."""
    finished = 0
    for k in range(1, 200):
        state, copy = tmp_path / f"state-{k}", tmp_path / f"copy-{k}"
        written(state, numbered(300))
        files = FailingFiles(k, for_ever=True)
        try:
            archive(state, "dcu", copy, files)
            finished = k
        except (OSError, LedgerError):
            Ledger(state, "dcu", Unsynced()).close()
            kept = [entry["seq"] for entry in read(copy if copy.exists() else state) if entry["seq"] is not None]
            assert kept == list(range(300)), k
            archive(state, "dcu", copy, Unsynced())
        assert [entry["seq"] for entry in read(copy)] == list(range(300)), k
        assert (verify(copy).faults, verify(state).faults) == ([], []), k
        assert len(ended(state)) == 1, k
        assert not list(ended(state)[0].base.rglob("tile")), k
        if finished:
            break
    assert finished > 10
