"""Configuration: one TOML file, strict models, and *all* its faults at once with key, value seen and expectation.

A file that is wrong anywhere is refused as a whole. No fail-safe has a switch in any model built on `Section`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ConfigError, DecodeError, Fault

FILE_BYTES_MAX: Final = 1 << 20
"""[byte] A configuration is small; a larger file is a mistake."""


class Section(BaseModel):
    """One table of a configuration file: unknown keys, coercions, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    """For a text that must satisfy a parser (one that raises DecodeError and says "expected ...")."""

    def check(text: str) -> str:
        try:
            parse(text)
        except DecodeError as error:
            raise ValueError(str(error).rpartition("expected ")[2]) from error
        return text

    return AfterValidator(check)


ModelT = TypeVar("ModelT", bound=Section)


def load_config(path: Path, model: type[ModelT]) -> ModelT:
    """The checked content of a configuration file.

    Raises:
        ConfigError: the file is missing, too large, no TOML, or wrong in any key; names every fault.
    """
    return check_config(str(path), _read(path), model)


def check_config(file: str, content: dict[str, object], model: type[ModelT]) -> ModelT:
    """The same for content that is already parsed; ``file`` only names it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(file, [_fault(detail) for detail in error.errors(include_url=False)]) from error


def _read(path: Path) -> dict[str, object]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), [Fault("file", error.strerror or str(error), "a readable file")]) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(str(path), [Fault("file", f"{len(data)} bytes", f"at most {FILE_BYTES_MAX}")])
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Fault("file", str(error), "valid TOML in UTF-8")]) from error


def _fault(detail: ErrorDetails) -> Fault:
    where = ".".join(f"{part}" for part in detail["loc"]) or "file"
    if detail["type"] == "missing":
        return Fault(where, "nothing", "this key")
    if detail["type"] == "extra_forbidden":
        return Fault(where, f"{_short(detail['input'])}", "no such key (is it misspelt?)")
    return Fault(where, _short(detail["input"]), _expectation(detail))


def _expectation(detail: ErrorDetails) -> str:
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return text[:1].lower() + text[1:]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
