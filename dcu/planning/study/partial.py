"""Results kept while a study runs, so that it can go on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.files import write_whole

FOLDER: Final = "unfinished"


class Partial:
    """A folder of finished pieces that belongs to one study; another study's pieces are thrown away."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self._folder = out / FOLDER
        mark = self._folder / "study.json"
        try:
            mine = json.loads(mark.read_text("utf-8"))["fingerprint"] == fingerprint
        except (OSError, ValueError, KeyError, TypeError):
            mine = False
        if not mine:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"fingerprint": fingerprint}) + "\n"
        write_whole(mark, lambda file: file.write(text.encode()))

    def _file(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays of a piece; None if it was not finished or is damaged."""
        try:
            with self._file(key).open("rb") as file, np.load(file, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError):
            return None

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a piece, whole or not at all."""
        write_whole(self._file(key), lambda file: np.savez(file, allow_pickle=False, **arrays))

    def end(self) -> None:
        """The study is complete: nothing is left to resume."""
        shutil.rmtree(self._folder, ignore_errors=True)
