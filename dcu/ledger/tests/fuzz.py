"""Fuzz targets of the ledger: every format that comes from a file or from somebody else, with a corpus that is kept.

    python -m dcu.ledger.tests.fuzz [TARGET ...] [--seconds 600 | --rate]

What can be read is written to the same bytes again, except where a target says otherwise; `shared.tests.fuzz` runs
them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dcu.ledger.canonical import canonical, parse_canonical
from dcu.ledger.entry import parse_leaf, restore
from dcu.ledger.journal import read_heading
from dcu.ledger.note import Verifier, parse_checkpoint, parse_note
from dcu.ledger.policy import _Reader
from dcu.ledger.proof import parse_proof
from dcu.ledger.witness import Submission
from shared.errors import DecodeError
from shared.tests.fuzz import Fuzzing


def fuzz_note(data: bytes) -> None:
    """Notes, the checkpoint in one, and the key that a line may be."""
    try:
        note = parse_note(data)
    except DecodeError:
        return
    assert note.encode() == data
    with contextlib.suppress(DecodeError):
        assert parse_checkpoint(note.text).text() == note.text
    for line in note.text.split("\n"):
        with contextlib.suppress(DecodeError):
            assert Verifier.parse(line).vkey() == line


def fuzz_proof(data: bytes) -> None:
    """Proofs that an entry stands in a log."""
    try:
        proof = parse_proof(data)
    except DecodeError:
        return
    assert proof.encode() == data


def fuzz_submission(data: bytes) -> None:
    """What a witness is sent; base64 with stray bits is taken, and comes back without."""
    try:
        submission = Submission.parse(data)
    except DecodeError:
        return
    assert Submission.parse(submission.encode()) == submission


def fuzz_entry(data: bytes) -> None:
    """Canonical JSON, and an entry of the log."""
    try:
        value = parse_canonical(data)
    except DecodeError:
        return
    assert canonical(value) == data
    with contextlib.suppress(DecodeError):
        parse_leaf(data)
        restore(data, [])


def fuzz_journal(data: bytes) -> None:
    """The heading of a journal."""
    try:
        heading, end = read_heading(data, Path("journal"))
    except DecodeError:
        return
    assert 0 < end <= len(data)
    assert heading.first % 256 == 0


def fuzz_policy(data: bytes) -> None:
    """A policy of trust, line by line."""
    reader = _Reader()
    for line in data.decode("utf-8", "replace").split("\n"):
        with contextlib.suppress(DecodeError):
            reader.take(line)
    if reader.policy.quorum:
        reader.policy.met(dict.fromkeys(reader.policy.witnesses, 1))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "note": fuzz_note,
    "proof": fuzz_proof,
    "submission": fuzz_submission,
    "entry": fuzz_entry,
    "journal": fuzz_journal,
    "policy": fuzz_policy,
}
FUZZING: Final = Fuzzing("dcu.ledger.tests.fuzz", TARGETS, Path(__file__).parent / "corpus")

if __name__ == "__main__":
    sys.exit(FUZZING.main())
