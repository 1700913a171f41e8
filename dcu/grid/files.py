"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from shared.errors import ConfigError, Fault


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside the file and put it in its place when it is complete.

    Raises:
        ConfigError: the path is a folder, its folder is missing or may not be written to, or the disk is full.
    """
    if path.is_dir():
        raise ConfigError(str(path), [Fault("output", "a folder", "a file")])
    if not path.parent.is_dir():
        raise ConfigError(str(path), [Fault("output", f"no folder {str(path.parent)!r}", "a folder that exists")])
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(
            str(path), [Fault("output", error.strerror or str(error), "a file that can be written")]
        ) from error
