"""A configuration is refused as a whole, with every fault named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from shared.config import FILE_BYTES_MAX, Section, load_config
from shared.errors import ConfigError


class Limits(Section):
    nominal_limit_w: Annotated[float, Field(ge=0.0)]
    lease_s: Annotated[float, Field(gt=0.0, le=60.0)] = 60.0


class Example(Section):
    name: str
    limits: Limits


def load(tmp_path: Path, text: str) -> Example:
    path = tmp_path / "site.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, Example)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return "\n".join(f"{caught.value.file}: {fault}" for fault in caught.value.faults)


def test_a_good_file_is_taken(tmp_path: Path) -> None:
    """Values arrive as written; an integer serves as a float."""
    example = load(tmp_path, 'name = "a"\n[limits]\nnominal_limit_w = 1200\n')
    assert example.limits.nominal_limit_w == 1200.0
    assert example.limits.lease_s == 60.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nominal_limit_w = -1.0", ["limits.nominal_limit_w", "-1.0", "greater than or equal to 0"]),
        ("nominal_limit_w = nan", ["limits.nominal_limit_w", "nan"]),
        ("nominal_limit_w = 1e309", ["limits.nominal_limit_w", "inf"]),
        ('nominal_limit_w = "3kW"', ["limits.nominal_limit_w", "'3kW'", "number"]),
        ("nominal_limit_w = 1.0\nlease_s = 61.0", ["limits.lease_s", "61.0", "less than or equal to 60"]),
        ("nominal_limit_w = 1.0\nlimt_w = 2.0", ["limits.limt_w", "no such key"]),
        ("lease_s = 5.0", ["limits.nominal_limit_w", "seen nothing", "this key"]),
    ],
)
def test_a_fault_names_file_key_seen_and_expected(tmp_path: Path, line: str, words: list[str]) -> None:
    """Whatever is wrong with one key, the message says where, what was seen and what was expected."""
    message = refused(tmp_path, f'name = "a"\n[limits]\n{line}\n')
    for word in ["site.toml", "expected", *words]:
        assert word in message


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    """Two wrong keys and a missing one give three faults, not one after the other."""
    assert len(refused(tmp_path, "[limits]\nlease_s = 0.0\nnominal_limit_w = true\n").splitlines()) == 3


@pytest.mark.parametrize("text", ["", "name = ", "name = 'a'\nname = 'b'", "\x00"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    """Empty, half-written, duplicate keys: refused with the file's name."""
    assert "site.toml" in refused(tmp_path, text)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """A missing file, a directory, a huge file and bytes that are no UTF-8 are faults of the file."""
    huge, binary = tmp_path / "huge.toml", tmp_path / "binary.toml"
    huge.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing.toml", tmp_path, huge, binary):
        with pytest.raises(ConfigError, match="file: seen"):
            load_config(path, Example)
