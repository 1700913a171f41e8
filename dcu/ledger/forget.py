"""Deleting a customer's values and salts beside the log; the log keeps the hashes, and still verifies.

His own parts go, and those that are everybody's from the time he was a customer, because his values are in them.
Decisions of that time can no longer be computed again from their inputs; the decisions themselves stay.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dcu.ledger.audit import key_of, log_name
from dcu.ledger.entry import START, Kept, customers_of, parse_leaf, restore
from dcu.ledger.files import Files, RealFiles, write_whole
from dcu.ledger.journal import commit_frame, entry_frame, heading_frame, journals, scan
from dcu.ledger.layout import Place, current, ended
from dcu.ledger.recover import BAD
from dcu.ledger.seal import EVERYBODY, Part, pack_part_file, pack_parts, unpack_part_file
from dcu.ledger.store import Ledger, LedgerError, lock
from dcu.ledger.tiles import ENTRIES, WIDTH, tile_path, unpack_entries

KIND: Final = "forgotten"
"""Kind of the entry that records a deletion; it does not say whose."""


@dataclass(slots=True)
class Forgotten:
    """How many parts were deleted: his own, and those that were everybody's."""

    own: int = 0
    shared: int = 0
    aside: int = 0


def forget(directory: Path, dcu: str, customer: str, files: Files | None = None) -> Forgotten:
    """Delete what a customer has beside the log, and record that something was deleted.

    Interrupted, it is to be run again. The DCU must not run: a ledger has one writer.

    Raises:
        DeviceError: the DCU runs.
        LedgerError: not this DCU's ledger.
        DecodeError: a file that is damaged.
    """
    files = files or RealFiles()
    if not current(directory).base.is_dir():
        raise LedgerError(f"{directory}: no ledger there")
    with contextlib.closing(Ledger(directory, dcu, files, origin=log_name(directory))) as ledger:  # recovers, too
        ledger.publish()
        found = _Eraser(directory, customer).count()
        if not (found.own or found.shared):
            return found
        ledger.append({"kind": KIND, "epoch": ledger.epoch, "seq": None, "parts": found.own + found.shared})
    handle = lock(directory)
    try:
        return _Eraser(directory, customer).erase(files)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Task:
    """A file with parts, the entries they belong to, and whether the customer was one before them."""

    place: Place
    path: Path
    present: bool


class _Eraser:
    """Looks through all files in order for who the customers were, then erases from the newest file to the oldest: what
    tells that he was a customer goes last, so that an interrupted run can be repeated."""

    def __init__(self, directory: Path, customer: str) -> None:
        self._places = [*ended(directory), current(directory)]
        self._customer = customer
        self._found = Forgotten()

    def count(self) -> Forgotten:
        """What there is to erase."""
        for task in self._tasks():
            self._lessened(task)
        return self._found

    def erase(self, files: Files) -> Forgotten:
        """Do it."""
        for task in reversed(self._tasks()):
            kept, changed = self._lessened(task)
            if changed:
                write_whole(files, task.path, _packed(task, kept))
        for place in self._places:
            for path in place.private.glob(f"*{BAD}*"):
                if json.dumps(self._customer).encode() in path.read_bytes():
                    files.remove(path)
                    self._found.aside += 1
        return self._found

    def _tasks(self) -> list[_Task]:
        tasks, present = [], False
        for place in self._places:
            for path in _files_of(place):
                tasks.append(_Task(place, path, present))
                for one in self._kept(place, path):
                    present = self._is_present(one, before=present)
        return tasks

    def _kept(self, place: Place, path: Path) -> list[Kept]:
        if path.parent == place.private:
            return scan(path, key_of(place), None).kept
        number = int("".join(path.relative_to(place.private / "parts").parts).replace("x", ""))
        leaves = unpack_entries((place.public / tile_path(ENTRIES, number)).read_bytes(), WIDTH)
        return [Kept(*pair) for pair in zip(leaves, unpack_part_file(path.read_bytes(), WIDTH), strict=True)]

    def _is_present(self, one: Kept, *, before: bool) -> bool:
        said = parse_leaf(one.leaf)
        if said.get("kind") != START:
            return before
        return self._customer in customers_of(restore(one.leaf, one.parts))

    def _lessened(self, task: _Task) -> tuple[list[Kept], bool]:
        """A file's entries without what is his, and whether that is a change."""
        present, changed, kept = task.present, False, []
        for one in self._kept(task.place, task.path):
            present = self._is_present(one, before=present)
            parts = [self._less(part, present=present) for part in one.parts]
            changed = changed or parts != one.parts
            kept.append(Kept(one.leaf, parts))
        return kept, changed

    def _less(self, part: Part, *, present: bool) -> Part:
        if part.data is None:
            return part
        owner, _ = part.opened()
        if owner == self._customer:
            self._found.own += 1
        elif owner == EVERYBODY and present:
            self._found.shared += 1
        else:
            return part
        return Part(part.hash, None)


def _files_of(place: Place) -> list[Path]:
    """Every file with parts, oldest first."""
    bundles = sorted((p for p in (place.private / "parts").rglob("*") if p.is_file() and p.name.isdigit()), key=_number)
    return [*bundles, *journals(place.private)]


def _number(path: Path) -> tuple[int, str]:
    return len(path.parts), str(path)


def _packed(task: _Task, kept: list[Kept]) -> bytes:
    """The content of a file with these parts."""
    if task.path.parent != task.place.private:
        return pack_part_file(pack_parts(one.parts) for one in kept)
    old = scan(task.path, key_of(task.place), None)
    frames = [entry_frame(one.leaf, pack_parts(one.parts)) for one in kept]
    return b"".join((heading_frame(old.heading), *frames, commit_frame(old.commit)))
