"""Files that must not be read by others or lost half-way: keys, and how far counters are reserved.

Each is written to a neighbour, synchronised, and put in its place by a rename that is synchronised too: after a power
cut it is the old one or the new one. A disk that lies about that, or an image restored from last week, is the reason
why nothing else rests on it (`shared.session`).
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from shared.config import Section, check_config
from shared.errors import ConfigError, DeviceError, Fault
from shared.protection import COUNTER_MAX
from shared.session import BLOCK, InvocationCounter

FILE_BYTES_MAX: Final = 4 << 20
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
COUNTERS: Final = "counters.json"

FIRST: Final = 1
"""The first counter of all; readers take 0 for the last one they have seen."""


class SecretFiles(Protocol):
    """The file operations these files rest on; a test can fail, cut or undo each one."""

    def read(self, path: Path) -> bytes:
        """Everything in a file (OSError)."""

    def replace(self, path: Path, data: bytes) -> None:
        """A file of our own with these bytes in the place of what was there, durably (OSError)."""


class DiskFiles:
    """The operating system's."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def replace(self, path: Path, data: bytes) -> None:
        path = path.resolve()  # behind a link it is the file that changes: there shall not be two of it afterwards
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()  # what a power cut has left; its mode is unknown
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            if os.geteuid() == 0 and path.exists():  # the one who reads it keeps it, whoever changes it
                os.fchown(file, path.stat().st_uid, path.stat().st_gid)
            os.fsync(file)
        finally:
            os.close(file)
        beside.replace(path)
        sync_directory(path.parent)

    def put_aside(self, path: Path) -> Path:
        """The file under a name that nothing had before, durably, and that name (OSError)."""
        path = path.resolve()
        names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        path.rename(aside)
        sync_directory(path.parent)
        return aside


def sync_directory(directory: Path) -> None:
    """The names in it, on the medium."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


ModelT = TypeVar("ModelT", bound=Section)


def load_secret(path: Path, model: type[ModelT], remedy: str) -> ModelT:
    """The checked content of a file of keys; ``remedy`` is what to do if there is none.

    Raises:
        ConfigError: missing, open to others, no JSON, or wrong in any entry; no fault shows what an entry holds.
    """
    try:
        mode = path.stat().st_mode
        data = DiskFiles().read(path) if stat.S_ISREG(mode) else b""
    except OSError as error:
        expected = f"a file of keys; make one with {remedy}"
        raise ConfigError(str(path), [Fault("file", error.strerror or str(error), expected)]) from error
    if not stat.S_ISREG(mode):
        raise ConfigError(str(path), [Fault("file", "no regular file", f"a file of keys; make one with {remedy}")])
    if mode & OTHERS:
        raise ConfigError(str(path), [Fault("file", f"mode {stat.S_IMODE(mode):o}", "mode 600: keys are for one user")])
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(str(path), [Fault("file", f"{len(data)} bytes", f"at most {FILE_BYTES_MAX}")])
    try:
        content = json.loads(data, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), [Fault("file", "no JSON", "what headroom-keys has written")]) from error
    try:
        return check_config(str(path), content, model)
    except ConfigError as error:
        hidden = [Fault(fault.where, "something else", fault.expected) for fault in error.faults]
        raise ConfigError(str(path), hidden) from None


def save_secret(path: Path, content: dict[str, Any], files: SecretFiles | None = None) -> None:
    """Replace a file of keys.

    Raises:
        DeviceError: the medium does not obey.
    """
    try:
        (files or DiskFiles()).replace(path, json.dumps(content, indent=1).encode() + b"\n")
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror or error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


class CounterFile:
    """How far a daemon's counters are reserved, on disk."""

    def __init__(self, path: Path, files: SecretFiles | None = None) -> None:
        self._path = path
        self._files = files or DiskFiles()

    def start(self) -> InvocationCounter:
        """The counters of this start: behind everything reserved before, and reserved themselves.

        Raises:
            DeviceError: the file is damaged, cannot be written, or all counters are used up.
        """
        first = self._reserved()
        if first + BLOCK > COUNTER_MAX:
            raise DeviceError(f"{self._path}: all counters are used up; rotate every key, then remove this file")
        try:
            self.reserve(first + BLOCK)
        except OSError as error:
            raise DeviceError(f"{self._path}: {error.strerror or error}") from error
        return InvocationCounter(first, first + BLOCK)

    def reserve(self, end: int) -> None:
        """Counters below ``end`` will not be given out after a restart (OSError: they may)."""
        self._files.replace(self._path, json.dumps({"reserved": end}).encode() + b"\n")

    def _reserved(self) -> int:
        try:
            data = self._files.read(self._path)
        except FileNotFoundError:
            return FIRST
        except OSError as error:
            raise DeviceError(f"{self._path}: {error.strerror or error}") from error
        try:
            reserved = json.loads(data)["reserved"]
        except (ValueError, KeyError, TypeError, RecursionError):
            reserved = None
        if type(reserved) is not int or not 0 <= reserved <= COUNTER_MAX:
            expected = "the number that was written here; rotate the keys, then remove the file"
            raise DeviceError(f"{self._path}: seen something else, expected {expected}")
        return reserved
