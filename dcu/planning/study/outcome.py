"""What a study leaves: a folder with `result.json`, Parquet tables, `report.html` and a `study.toml` that repeats
it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dcu.grid.files import write_whole
from shared.errors import ConfigError, Fault

PACKAGES = ("headroom", "numpy", "scipy", "pyarrow", "matplotlib")


class Outcome:
    """The folder of one study."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                str(folder), [Fault("out", error.strerror or str(error), "a folder to write to")]
            ) from error
        self.folder = folder

    def result(self, content: Mapping[str, Any]) -> None:
        """`result.json`: numbers as they are, NaN and infinity as null."""
        text = json.dumps(_plain(content), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        self._text("result.json", text)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """`name.parquet`."""
        table = pa.table({key: pa.array(values) for key, values in columns.items()})
        write_whole(self.folder / f"{name}.parquet", lambda f: pq.write_table(table, f, compression="zstd"))

    def report(self, html: str) -> None:
        """`report.html`."""
        self._text("report.html", html)

    def study(self, content: Mapping[str, Any]) -> None:
        """`study.toml`."""
        self._text("study.toml", "\n".join(toml_lines(content)) + "\n")

    def text(self, name: str, text: str) -> None:
        """Any other text file."""
        self._text(name, text)

    def _text(self, name: str, text: str) -> None:
        write_whole(self.folder / name, lambda f: f.write(text.encode()))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def toml_lines(content: Mapping[str, Any], at: str = "") -> list[str]:
    """A nested mapping as TOML; None is left out."""
    lines = [f"{key} = {_toml(value)}" for key, value in content.items() if value is not None and not _is_table(value)]
    for key, value in content.items():
        name = f"{at}{key}"
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *toml_lines(value, f"{name}.")]
        elif _is_table(value):
            for item in value:
                lines += ["", f"[[{name}]]", *toml_lines(item, f"{name}.")]
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)


def file_sha256(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(str(path), [Fault("file", error.strerror or str(error), "a readable file")]) from error


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def relative(path: Path, folder: Path) -> str:
    """How a file is found from a folder."""
    return os.path.relpath(path.resolve(), folder.resolve())
