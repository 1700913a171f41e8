"""A log of ours under other eyes: the second verifier reads it, and every change of it is noticed."""

from __future__ import annotations

import functools
import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.audit import check, key_of
from dcu.ledger.canonical import canonical
from dcu.ledger.entry import parse_leaf, restore_public
from dcu.ledger.layout import LedgerError, Place, PublicCopy
from dcu.ledger.merkle import consistency_proof, leaf_hash
from dcu.ledger.note import Verifier
from dcu.ledger.proof import parse_proof
from dcu.ledger.receipt import make_receipt
from dcu.ledger.store import Ledger, verify
from dcu.ledger.tests import second_verifier
from dcu.ledger.tests.test_seal import DAY
from dcu.ledger.tests.test_store import Unsynced, numbered, written
from dcu.ledger.tiles import TileStore

SHARES = 16
"""Half a minute of a core is too long for one test on a busy machine."""


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 600])
def test_the_second_verifier_reads_our_logs(tmp_path: Path, size: int) -> None:
    """Head, bundles and every tile of logs of several sizes; it sees the entries we wrote, canonically."""
    place = written(tmp_path, numbered(size))
    found, root, entries = second_verifier.read_log(place.public, key_of(place).vkey())
    assert (found, root) == (size, verify(tmp_path).head)
    assert entries[-1] == canonical(numbered(size)[-1] | {"schema": "headroom-entry/1"})


def test_the_second_verifier_reads_a_log_of_seventy_thousand(tmp_path: Path) -> None:
    """Three levels of tiles, with the tiles that the specification's own example of 70,000 entries counts."""
    place = written(tmp_path, [{"n": n} for n in range(70_000)])
    tiles = sorted(p.relative_to(place.public).as_posix() for p in place.public.glob("tile/[0-9]*/**/*") if p.is_file())
    assert sum(t.startswith("tile/0/") and ".p" not in t for t in tiles) == 273
    assert {"tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= set(tiles)
    assert second_verifier.read_log(place.public, key_of(place).vkey())[0] == 70_000


def test_an_old_head_stays_provable(tmp_path: Path) -> None:
    """Whoever kept a head of any earlier size can be shown that the log only grew."""
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    heads = []
    for entry in numbered(300):
        ledger.append(entry)
        heads.append((ledger.position, ledger.head))
    ledger.close()
    entries = second_verifier.read_log(tmp_path / "ledger/public", ledger.vkey)[2]
    hashes = [second_verifier.sha(b"\x00", entry) for entry in entries]
    assert all(second_verifier.mth(hashes[:size]) == root for size, root in heads)


def test_a_receipt_verifies_with_the_second_verifier(tmp_path: Path) -> None:
    """Proof, entry and the customer's own values; for entries of full and of unfinished bundles."""
    place = written(tmp_path, [*DAY, *numbered(300)])
    key = key_of(place)
    for position in (0, 1, 4, 255, 256, 303):
        data = make_receipt(place, position, key, "m1")
        entry, opened = second_verifier.read_receipt(data)
        assert second_verifier.verify_proof(data, entry, [key.vkey()]) == position
        assert set(opened) <= {"m1"}
        assert bool(opened) == (position < 4)
        with pytest.raises(ValueError, match="proof"):
            second_verifier.verify_proof(data, entry + b" ", [key.vkey()])


def others_inclusion(index: int, path: list[bytes], like: Any) -> Any:
    """Our path as pymerkle holds one; which hash stands left and which right is its own business."""
    pymerkle = pytest.importorskip("pymerkle")
    return pymerkle.InclusionProof("sha256", True, like.size, index + 1, like.rule, path)


def test_a_verifier_of_others_finds_our_root_and_takes_our_inclusion_proofs(tmp_path: Path) -> None:
    """pymerkle, which shares no code with us, makes its own tree of what stands in our bundles. It believes the paths
    of our receipts, of every kind of position, and none with a hash, a place or an entry changed."""
    pymerkle = pytest.importorskip("pymerkle")
    size = 16_470
    place = written(tmp_path, numbered(size))
    key = key_of(place)
    _, root, entries = second_verifier.read_log(place.public, key.vkey())
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    tree.append_entries(entries)
    assert (tree.get_size(), tree.get_root()) == (size, root)
    draw = random.Random(1)
    for position in (0, 1, 255, 256, 16_383, 16_384, size - 1, *(draw.randrange(size) for _ in range(200))):
        leaf = leaf_hash(entries[position])
        ours = parse_proof(make_receipt(place, position, key))
        like = tree.prove_inclusion(position + 1)
        good = others_inclusion(ours.index, [leaf, *ours.path], like)
        pymerkle.verify_inclusion(leaf, root, good, index=position + 1, size=size, algorithm="sha256")
        turned = ours.path[0][:-1] + bytes((ours.path[0][-1] ^ 1,))
        for bad in (
            others_inclusion(ours.index, [leaf, turned, *ours.path[1:]], like),
            others_inclusion((ours.index + 1) % size, [leaf, *ours.path], like),
            others_inclusion(ours.index, [leaf_hash(b"another"), *ours.path], like),
        ):
            with pytest.raises(pymerkle.InvalidProof):
                pymerkle.verify_inclusion(leaf, root, bad, index=position + 1, size=size, algorithm="sha256")


def test_a_verifier_of_others_sees_that_our_log_only_grew(tmp_path: Path) -> None:
    """Between all heads that were kept. pymerkle goes down to the last old entry, RFC 6962 stops at the last whole
    tree: for odd sizes that is the same, and it verifies our own hashes; for the others its proof joins our heads."""
    pymerkle = pytest.importorskip("pymerkle")
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    heads: dict[int, bytes] = {}
    for entry in numbered(600):
        ledger.append(entry)
        heads[ledger.position] = ledger.head
    ledger.close()
    entries = second_verifier.read_log(tmp_path / "ledger/public", ledger.vkey)[2]
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    tree.append_entries(entries)
    ours_taken = 0
    for old, new in [*pairwise(sorted(heads)), *((old, 600) for old in range(1, 600))]:
        found = tree.prove_consistency(old, new)
        if old % 2 and old > 1:
            first, second, *rest = consistency_proof(old, new, TileStore(tmp_path / "ledger/public", 600).node)
            path = [second, first, *rest]
            found = pymerkle.ConsistencyProof("sha256", True, new, old, found.rule, found.subset, path)
            ours_taken += 1
        pymerkle.verify_consistency(heads[old], heads[new], found, prior_size=old, later_size=new)
        with pytest.raises(pymerkle.InvalidProof):
            pymerkle.verify_consistency(heads[new], heads[new], found, prior_size=old, later_size=new)
    assert ours_taken > 500


@pytest.mark.parametrize(("more", "step"), [(0, 1), (260, 61)])
def test_every_single_byte_that_changes_is_detected(tmp_path: Path, more: int, step: int) -> None:
    """Every byte of every file of a small log, its values beside it included, is flipped once: verifying fails. The
    same for files cut, grown, emptied or gone; of a log with a full bundle every 61st byte."""
    place = written(tmp_path, [DAY[0], DAY[2], *[{"n": n} for n in range(more)]])
    assert verify(tmp_path).faults == []
    count = 0
    for path in sorted(p for p in place.base.rglob("*") if p.is_file()):
        good = path.read_bytes()
        for at in range(count % step, len(good), step):
            path.write_bytes(good[:at] + bytes((good[at] ^ (1 << at % 8),)) + good[at + 1 :])
            assert is_noticed(tmp_path), f"{path} at {at}"
            count += 1
        for bad in (good[:-1], good + b"\x00", b""):
            path.write_bytes(bad)
            assert is_noticed(tmp_path), f"{path}: {len(bad)} bytes"
        path.unlink()
        assert is_noticed(tmp_path), f"{path} gone"
        path.write_bytes(good)
    assert verify(tmp_path).faults == []
    assert count > 300


@pytest.mark.parametrize("share", range(SHARES))
def test_every_byte_of_a_log_with_a_full_bundle_is_vouched_for(
    tmp_path: Path, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a step: every byte of the bundle, of its hashes, of all other public files, as an outsider's copy; then
    of the values beside it. One in `SHARES` in each run; what an entry's text says is worked out once for each text."""
    monkeypatch.setattr("dcu.ledger.audit.parse_leaf", functools.lru_cache(maxsize=1 << 16)(parse_leaf))
    place = written(tmp_path, [DAY[0], DAY[2], *[{"n": n} for n in range(256)]])
    key = key_of(place)
    count = 0
    for subject, root in ((PublicCopy(place.public), place.public), (place, place.private)):
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            good = path.read_bytes()
            for at in range(share, len(good), SHARES):
                overwrite(path, at, good[at] ^ (1 << at // SHARES % 8))
                assert is_noticed_in(subject, key), f"{path} at {at}"
                overwrite(path, at, good[at])
                count += 1
        assert check(subject, None, key).faults == []
    assert count > 18_000 // SHARES


def overwrite(path: Path, at: int, value: int) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        file.write(bytes((value,)))


def is_noticed_in(place: Place, key: Verifier) -> bool:
    """The same as `is_noticed` for one log."""
    try:
        return check(place, None, key).faults != []
    except LedgerError:
        return True


def is_noticed(directory: Path) -> bool:
    """Whether verification says that something is wrong."""
    try:
        return verify(directory).faults != []
    except LedgerError:
        return True


def test_a_file_that_nothing_vouches_for_is_detected(tmp_path: Path) -> None:
    """A tile of another width, a bundle beyond the end of a copy, a stray file."""
    place = written(tmp_path, numbered(600))
    for name in ("tile/0/001.p/3", "tile/5/000", "tile/entries/000.p/2", "notes"):
        path = place.public / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(64))
        assert is_noticed(tmp_path), name
        path.unlink()
    assert verify(tmp_path).faults == []


def test_an_outsider_verifies_a_copy_of_the_public_directory(tmp_path: Path) -> None:
    """With the log's key and nothing else; a changed byte, a cut log and a wrong key are noticed; without a key there
    is nothing to verify with."""
    place = written(tmp_path / "dcu", numbered(600))
    key = key_of(place)
    shutil.copytree(place.public, tmp_path / "copy")
    copy = PublicCopy(tmp_path / "copy")
    positions: list[int] = []
    done = check(copy, lambda position, leaf, _: positions.append(restore_public(leaf)["seq"] - position), key)
    assert (done.faults, done.size, set(positions)) == ([], 600, {0})
    with pytest.raises(LedgerError, match="no key"):
        check(copy)
    stranger = key_of(written(tmp_path / "other", numbered(1)))
    assert check(copy, None, stranger).faults != []
    (tmp_path / "copy/tile/entries/001").write_bytes(b"")
    assert check(copy, None, key).faults != []
