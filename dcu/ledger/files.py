"""The few operations on files that durability rests on, so that a test can fail, cut or reorder each one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

PRIVATE: Final = "private"
"""What lies in a directory of this name is for its owner only; the rest a web server may read."""


class Files(Protocol):
    """Everything the ledger changes on a medium goes through here; reading does not."""

    def create(self, path: Path) -> int:
        """A file, new or emptied, open for appending."""

    def open(self, path: Path) -> int:
        """An existing file, open for appending."""

    def append(self, file: int, data: bytes) -> None:
        """Write all of ``data`` at the end."""

    def sync(self, file: int) -> None:
        """Return when everything written is on the medium."""

    def close(self, file: int) -> None:
        """Give the handle back."""

    def truncate(self, file: int, size: int) -> None:
        """Cut a file off."""

    def replace(self, old: Path, new: Path) -> None:
        """Rename, over whatever was there."""

    def remove(self, path: Path) -> None:
        """Delete a file."""

    def remove_directory(self, path: Path) -> None:
        """Delete an empty directory."""

    def make_directory(self, path: Path) -> None:
        """A directory and its parents, if they are not there."""

    def sync_directory(self, path: Path) -> None:
        """Return when what was made, renamed and removed in a directory is on the medium."""


class RealFiles:
    """The operating system's."""

    def create(self, path: Path) -> int:
        mode = 0o600 if PRIVATE in path.parts else 0o644
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, mode)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def append(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def sync(self, file: int) -> None:
        os.fsync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def replace(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_directory(self, path: Path) -> None:
        path.rmdir()

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(handle)
        finally:
            os.close(handle)


def write_new(files: Files, path: Path, data: bytes) -> None:
    """A file with this content, on the medium; its directory is not synchronised yet."""
    file = files.create(path)
    try:
        files.append(file, data)
        files.sync(file)
    finally:
        files.close(file)


def write_whole(files: Files, path: Path, data: bytes) -> None:
    """A file that appears, or changes, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    write_new(files, fresh, data)
    files.replace(fresh, path)
    files.sync_directory(path.parent)
