"""Moving a log away: it ends where it is, the next one says where, and the old one's files lie in another directory.

What stays of it is its last signed head, so that what the next log says of it can still be held against its signature.
The copy in the archive is a state directory of its own and verifies by itself; that it is the one that ended here, its
head tells (`headroom-ledger verify COPY --from STAYED`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dcu.ledger.audit import Checked, check, check_ended, log_name
from dcu.ledger.files import Files, RealFiles, write_whole
from dcu.ledger.layout import ARCHIVED, LedgerError, Place, current, ended
from dcu.ledger.store import Ledger, lock


@dataclass(frozen=True, slots=True)
class Archived:
    """A log that was moved away: its last state, and where it lies."""

    done: Checked
    copy: Path
    stayed: Path


def archive(directory: Path, dcu: str, destination: Path, files: Files | None = None) -> Archived:
    """End the log that is written, begin the next one, and move the old one's entries to ``destination``.

    Nothing is deleted here before the copy has been written out, read again and verified, and the next log has said
    where this one ended. Interrupted after that, run again with the same destination it does the rest. The DCU must not
    run: a ledger has one writer.

    Raises:
        DeviceError: the DCU runs.
        LedgerError: no ledger, another DCU's, one that does not verify, or a destination that is no new directory.
        OSError: of either medium.
    """
    files = files or RealFiles()
    if not current(directory).base.is_dir():
        raise LedgerError(f"{directory}: no ledger there")
    name = log_name(directory)
    opened = Ledger(directory, dcu, files, origin=name)  # recovers, and publishes a head over every entry
    opened.close()
    if opened.recovered.faults:
        raise LedgerError(f"{directory}: {opened.recovered.faults[0]}; look at that first")
    handle = lock(directory)
    try:
        stayed, done = _move(directory, destination, files)
    finally:
        os.close(handle)
    Ledger(directory, dcu, files, origin=name).close()  # its first entry says where the other one ended
    write_whole(files, stayed.base / ARCHIVED, f"{done.size} entries in {destination.resolve()}\n".encode())
    _empty(stayed, files)
    return Archived(done, destination, stayed.checkpoint)


def _move(directory: Path, destination: Path, files: Files) -> tuple[Place, Checked]:
    """The log that has ended, whose copy is on the other medium; goes on where another run was interrupted."""
    before = ended(directory)
    stayed = Place(directory / f"ended-{1 + len(before)}")
    if not destination.exists():
        done = _copy(current(directory), destination)
    elif before and _is_copy(destination, check_ended(before[-1])):
        return before[-1], check_ended(before[-1])
    else:
        done = check(current(directory))
        if not _is_copy(destination, done):
            raise LedgerError(f"{destination}: is there already, expected a name that is free")
    files.replace(current(directory).base, stayed.base)
    files.sync_directory(directory)
    return stayed, done


def _is_copy(destination: Path, done: Checked) -> bool:
    with contextlib.suppress(LedgerError):
        seen = check(current(destination))
        return not seen.faults and (seen.origin, seen.size, seen.root) == (done.origin, done.size, done.root)
    return False


def _copy(place: Place, destination: Path) -> Checked:
    """A copy that is on the medium and verifies as the original does; half of one is taken away again."""
    done = check(place)
    if done.faults:
        raise LedgerError(f"{place.base}: {done.faults[0]}; only a log that verifies is moved away")
    try:
        shutil.copytree(place.base, current(destination).base)
        for path in (destination, *destination.rglob("*")):
            _sync(path)
        _sync(destination.resolve().parent)
        good = _is_copy(destination, done)
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise
    if not good:
        shutil.rmtree(destination)
        raise LedgerError(f"{destination}: the copy is not what was copied: a bad medium")
    return done


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _empty(place: Place, files: Files) -> None:
    """Only the key and the heads stay of a log that is marked as archived."""
    keep = {place.key, place.checkpoint, place.public / "cosigned", place.base / ARCHIVED}
    for path in sorted(place.base.rglob("*"), reverse=True):
        if path.is_dir():
            if path not in {place.public, place.private}:
                files.remove_directory(path)
        elif path not in keep:
            files.remove(path)
    files.sync_directory(place.base)
