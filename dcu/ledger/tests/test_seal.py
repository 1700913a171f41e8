"""Personal values: out of the log, provable one customer at a time, gone when forgotten."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dcu.ledger.audit import key_of, verify_all
from dcu.ledger.canonical import canonical
from dcu.ledger.entry import EntryWriter, restore
from dcu.ledger.forget import KIND, forget
from dcu.ledger.layout import LedgerError, current
from dcu.ledger.policy import Policy
from dcu.ledger.receipt import check_receipt, make_receipt
from dcu.ledger.seal import Part, expanded, pack_part_file, pack_parts, unpack_part_file, unpack_parts
from dcu.ledger.store import Ledger, read, verify
from dcu.ledger.tests.test_store import FailingFiles, Unsynced, written
from shared.errors import DecodeError, DeviceError

START = {"kind": "start", "epoch": 1, "seq": 0, "rule": "r", "facts": {}, "nominal_limit_w": {"m1": 1e3, "grant": 2e3}}
WINDOW: dict[str, Any] = {
    "kind": "window",
    "epoch": 1,
    "seq": None,
    "window": 1,
    "view": {
        "points": [
            {"name": "substation", "u_v": [241.5], "p_w": [-100.0]},
            {"name": "m1", "u_v": [243.25], "p_w": [-777.5]},
            {"name": "grant", "u_v": [244.5], "p_w": [-888.5]},
        ],
        "sha256": "5ea1",
    },
    "question": {"wishes": [{"meter": "m1", "wanted_w": 4321.5}], "reserved_w": {"grant": 2345.5, "m1": 1.5}},
    "answer": {"verdicts": [{"meter": "m1", "act": "grant", "why": None}], "fairness": 0.5},
}
GRANT: dict[str, Any] = {
    "kind": "grant",
    "epoch": 1,
    "seq": 1,
    "window": 1,
    "meter": "m1",
    "request": {"id": 7, "nonce": "0f", "limit_w": 4321.5, "minimum_limit_w": 100.5},
    "limit_w": 3000.5,
    "reason": "GRANTED",
    "kept_by": {"reason": "OVERVOLTAGE", "binding": "grant L1", "value": 252.25},
}
LESSON: dict[str, Any] = {
    "kind": "view",
    "epoch": 1,
    "seq": None,
    "view": {"situation": {"p_w": [-777.5, -888.5]}, "blocked": ["m1"]},
    "readings": {"first": 0, "sets": [[7.0, [["m1", 6.5, "good", [243.25], [-777.5], [0.0]]]]], "sha256": "5ea1"},
}
DAY = [START, WINDOW, GRANT, LESSON]
"""Two customers, one of whom is unluckily called like a kind of entry."""

SECRETS = [b'"m1"', b"777.5", b"888.5", b"4321.5", b"243.25", b"244.5", b"2345.5", b"100.5", b"grant L1", b"5ea1"]


def all_bytes(directory: Path) -> bytes:
    """Of every file, with what is compressed in it."""
    contents = [(path, path.read_bytes()) for path in directory.rglob("*") if path.is_file()]
    return b"".join(expanded(data) if "parts" in path.parts else data for path, data in contents)


def policy_of(directory: Path) -> Policy:
    """Trusts the log that lies there."""
    return Policy.of_log(key_of(current(directory)))


def test_nothing_personal_is_in_the_public_directory(tmp_path: Path) -> None:
    """Names, readings, wishes, ports, and the unsalted hash over readings: none of their bytes; reading gives them
    all back."""
    place = written(tmp_path, DAY)
    public = b"".join(path.read_bytes() for path in place.public.rglob("*") if path.is_file())
    assert [secret for secret in SECRETS if secret in public] == []
    for known in (b"3000.5", b"252.25", b"OVERVOLTAGE", b"241.5", b'"kind":"grant"', b'"act"'):
        assert (known in public) == (known != b'"act"')
    assert list(read(tmp_path)) == DAY


def test_salts_keep_equal_values_apart(tmp_path: Path) -> None:
    """The same entry twice has two different leaves: nobody can tell who it is by hashing all names."""
    written(tmp_path, [START, GRANT, GRANT])
    leaves: list[bytes] = []
    verify_all(tmp_path, lambda _: lambda _position, leaf, _parts: leaves.append(leaf))
    assert leaves[1] != leaves[2]


def test_a_receipt_opens_one_customers_values(tmp_path: Path) -> None:
    """His wish and meter are there, the neighbour's place is not; nobody's receipt opens nothing; a neighbour's opens
    his place only."""
    place = written(tmp_path, DAY)
    mine = make_receipt(place, 2, key_of(place), "m1")
    receipt = check_receipt(mine, policy_of(tmp_path))
    assert (receipt.position, receipt.customer, receipt.closed) == (2, "m1", 1)
    assert receipt.entry == GRANT | {"kept_by": {"reason": "OVERVOLTAGE", "binding": None, "value": 252.25}}
    assert b"grant L1" not in mine
    nobodys = check_receipt(make_receipt(place, 2, key_of(place)), policy_of(tmp_path))
    assert (nobodys.customer, nobodys.closed, nobodys.entry["meter"]) == (None, 2, None)
    theirs = check_receipt(make_receipt(place, 2, key_of(place), "grant"), policy_of(tmp_path))
    assert theirs.entry["meter"] is None
    assert theirs.entry["kept_by"]["binding"] == "grant L1"


def test_every_changed_byte_of_a_receipt_is_detected(tmp_path: Path) -> None:
    """No flipped bit of any byte leaves a receipt that verifies."""
    place = written(tmp_path, DAY)
    good = make_receipt(place, 2, key_of(place), "m1")
    policy = policy_of(tmp_path)
    for at in range(len(good)):
        bad = good[:at] + bytes((good[at] ^ (1 << at % 7),)) + good[at + 1 :]
        with pytest.raises(DecodeError):
            check_receipt(bad, policy)


def test_an_entry_under_no_published_head_has_no_receipt_yet(tmp_path: Path) -> None:
    """It is refused with the size of what is published; a receipt follows once it is."""
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    ledger.append(START)
    place = current(tmp_path)
    with pytest.raises(LedgerError, match="covers 0 entries"):
        make_receipt(place, 0, key_of(place))
    ledger.publish()
    assert check_receipt(make_receipt(place, 0, key_of(place)), policy_of(tmp_path)).position == 0
    ledger.close()


@pytest.mark.parametrize("extra", [0, 255, 300])
def test_what_is_forgotten_is_gone_and_the_log_still_verifies(tmp_path: Path, extra: int) -> None:
    """In the journal and in old bundles: no byte of his is left in any file, the neighbour's own values are, the head
    only grew, and the deletion itself is on record without a name."""
    place = written(tmp_path, [*DAY, *DAY, *[{"n": n} for n in range(extra)]])
    before = verify(tmp_path)
    found = forget(tmp_path, "dcu", "m1", Unsynced())
    assert (found.own, found.shared) == (6, 4)
    everything = all_bytes(place.base)
    for secret in (b'"m1"', b"777.5", b"4321.5", b"243.25", b"100.5", b"5ea1"):
        assert secret not in everything
    for kept in (b"244.5", b"2345.5", b"grant L1"):
        assert kept in everything
    after = verify(tmp_path)
    assert (after.faults, after.size) == ([], before.size + 1)
    assert after.entries[-1] == {"kind": KIND, "epoch": 1, "seq": None, "parts": 10}
    assert after.entries[2]["forgotten"] == 1
    assert after.entries[2]["meter"] is None
    assert after.entries[1]["question"]["reserved_w"] == {"grant": 2345.5}
    assert forget(tmp_path, "dcu", "m1", Unsynced()).own == 0


def test_who_came_later_takes_nothing_of_earlier_days_along(tmp_path: Path) -> None:
    """What is everybody's is deleted from the starts that name the customer on, and left before."""
    later = START | {"epoch": 2, "nominal_limit_w": {"m1": 1e3, "m9": 1e3}}
    written(tmp_path, [*DAY, later, LESSON | {"epoch": 2}, GRANT | {"epoch": 2}])
    found = forget(tmp_path, "dcu", "m9", Unsynced())
    assert (found.own, found.shared) == (1, 1)
    entries = list(read(tmp_path))
    assert entries[3] == LESSON
    assert entries[5]["forgotten"] == 1


def test_an_interrupted_deletion_is_finished_by_the_next(tmp_path: Path) -> None:
    """The k-th operation on the medium fails, for every k: the log verifies, and another run leaves nothing of his."""
    failing, finished = 0, False
    while not finished:
        failing += 1
        directory = tmp_path / str(failing)
        place = written(directory, [*DAY, *[{"n": n} for n in range(260)], *DAY])
        try:
            forget(directory, "dcu", "m1", FailingFiles(failing, for_ever=True))
            finished = True
        except (OSError, LedgerError):
            forget(directory, "dcu", "m1", Unsynced())
        assert verify(directory).faults == []
        private = all_bytes(place.private)
        assert b"777.5" not in private
    assert failing > 10


def test_nothing_is_forgotten_under_a_running_dcu(tmp_path: Path) -> None:
    """One writer: the deletion is refused and nothing is changed."""
    ledger = Ledger(tmp_path, "dcu", Unsynced())
    ledger.append(START)
    with pytest.raises(DeviceError, match="another process"):
        forget(tmp_path, "dcu", "m1", Unsynced())
    ledger.close()
    assert list(read(tmp_path)) == [START]
    with pytest.raises(LedgerError):
        forget(tmp_path / "nowhere", "dcu", "m1", Unsynced())


def test_an_entry_that_is_too_long_for_a_bundle_keeps_its_decision_in_the_log(tmp_path: Path) -> None:
    """A bundle's length has 16 bits. A window of a thousand meters fits because values are beside the log; what is
    nobody's and too long goes there as well, the kind and numbers of the entry stay."""
    many = {f"c{n}": float(n) for n in range(1000)}
    start = START | {"nominal_limit_w": many}
    window = WINDOW | {"view": {"points": [{"name": name, "u_v": [x], "p_w": [-x]} for name, x in many.items()]}}
    long = {"kind": "note", "epoch": 1, "seq": 1, "text": "x" * 70_000, "more": "y" * 100}
    place = written(tmp_path, [start, window, long])
    assert list(read(tmp_path)) == [start, window, long]
    bundle = (place.public / "tile/entries/000.p/3").read_bytes()
    assert len(bundle) < 20_000
    assert b'"kind":"note"' in bundle
    receipt = check_receipt(make_receipt(place, 2, key_of(place)), policy_of(tmp_path))
    assert receipt.entry == long
    assert forget(tmp_path, "dcu", "c7", Unsynced()).own == 2
    assert list(read(tmp_path))[2] == long


@settings(deadline=None)  # a busy machine is no failure
@example([0.0, "m1"])
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["m1", "m2 L3", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["meter", "name", "m1", "m2", "view", "a"]), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_any_entry_comes_back_equal(value: Any) -> None:
    """Whatever shape an entry has and wherever customers stand in it; the log's part names no customer."""
    entry = {"kind": "any", "value": value, "view": value, "meter": "m1", "request": value}
    kept = EntryWriter(random.Random(1).randbytes, frozenset({"m1", "m2"})).keep(entry)
    assert restore(kept.leaf, kept.parts) == entry
    assert b'"m1"' not in kept.leaf
    packed = pack_parts(kept.parts)
    assert unpack_parts(packed, 0) == (kept.parts, len(packed))
    gone = [Part(part.hash, None) for part in kept.parts]
    assert restore(kept.leaf, gone)["forgotten"] == len(gone)


def test_a_bundle_is_a_fraction_of_its_parts_and_every_flipped_byte_of_it_is_seen() -> None:
    """Windows of a street say much the same; deflate alone would let bits pass that mean nothing. Files that are not
    compressed are read, too."""
    keep = EntryWriter(random.Random(1).randbytes, frozenset({"m1", "grant"})).keep
    parts = [keep({**WINDOW, "window": k}).parts for k in range(20)]
    plain = [pack_parts(those) for those in parts]
    packed = pack_part_file(plain)
    assert unpack_part_file(packed, 20) == unpack_part_file(b"".join(plain), 20) == parts
    assert len(packed) < len(b"".join(plain)) / 3
    for at in range(len(packed)):
        with pytest.raises(DecodeError):
            unpack_part_file(packed[:at] + bytes((packed[at] ^ 1 << at % 8,)) + packed[at + 1 :], 20)
    for other in (packed[:-1], packed + b"x", b""):
        with pytest.raises(DecodeError):
            unpack_part_file(other, 20)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200))
def test_garbage_beside_the_log_is_refused_as_such(data: bytes) -> None:
    """`DecodeError` and nothing else; a part that fits nowhere is refused too."""
    with contextlib.suppress(DecodeError):
        unpack_part_file(data, 3)
    kept = EntryWriter(random.Random(1).randbytes, frozenset({"m1"})).keep({"meter": "m1"})
    strange = Part.of(canonical(["", "m1", [[["nowhere", 3], data.hex()]]]))
    with pytest.raises(DecodeError):
        restore(kept.leaf, [strange])
