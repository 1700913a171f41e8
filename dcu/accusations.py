"""Alarms of meters' identities on disk: a meter's keys were used from another address. They outlive restarts.

The operator acknowledges one by raising a number in the file of keys (`headroom-keys acknowledge`), which nobody else
may write; an alarm remembers where that number was. So neither end has to write the other's file. An older image of the
file of keys brings at most an alarm back: where its number is lower, alarms that stand are counted on from there. The
newer file may be put back, with its higher number, before or after a restart: that is no word of the operator, so the
numbers that an older file took the place of are on disk too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from shared.config import Section
from shared.errors import DeviceError
from shared.ids import Eui48, MeterId, format_eui48, parse_eui48
from shared.keys import Eui48Text, Name
from shared.log import event, get_logger
from shared.secret_files import DiskFiles

ACCUSATIONS: Final = "identity-alarms.json"
NUMBERS: Final = "acknowledgements.json"

NUMBERS_MAX: Final = 8
"""Numbers kept for each meter: older files of keys in the place of older ones, one after the other."""

_LOG: Final = get_logger("dcu")


@dataclass(frozen=True, slots=True)
class Accusation:
    """Who has used a meter's keys, and how many alarms of that meter had been acknowledged before."""

    eui48: Eui48
    after: int


class Numbers:
    """How often each meter's alarms were acknowledged, by the files of keys that were in use."""

    def __init__(self, rows: Mapping[MeterId, tuple[int, ...]] = MappingProxyType({})) -> None:
        """``rows``: for each meter the numbers that lower ones took the place of, falling; the last is in use."""
        self.rows = dict(rows)

    def take(self, meter: MeterId, number: int) -> bool:
        """This number is in use; whether it is one that a lower one had taken the place of, and tells nothing new."""
        before = self.rows.get(meter, (number,))
        higher = tuple(one for one in before if one > number)[-NUMBERS_MAX:]
        if higher or number:
            self.rows[meter] = (*higher, number)
        return number in before[:-1]


class _Row(Section):
    eui48: Eui48Text
    after: Annotated[int, Field(ge=0)]


_ALARMS: Final = TypeAdapter(dict[Name, _Row])
_NUMBERS: Final = TypeAdapter(
    dict[Name, Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=NUMBERS_MAX + 1)]]
)

RowT = TypeVar("RowT")


class AccusationFile:
    """The alarms that stand, and beside them what was acknowledged."""

    def __init__(self, path: Path, files: DiskFiles | None = None) -> None:
        self._path = path
        self._files = files or DiskFiles()

    def load(self) -> dict[MeterId, Accusation]:
        """Those of earlier starts; none, and a line in the log, if the file cannot be understood: then it is kept under
        another name, for a person.

        Raises:
            DeviceError: the file cannot be read, or not be kept.
        """
        rows = self._understood(self._path, _ALARMS)
        return {MeterId(name): Accusation(parse_eui48(row.eui48), row.after) for name, row in rows.items()}

    def load_numbers(self) -> Numbers:
        """What was acknowledged in earlier starts; none, as `load`, if that cannot be understood.

        Raises:
            DeviceError: as `load`.
        """
        rows = self._understood(self._path.with_name(NUMBERS), _NUMBERS)
        return Numbers({MeterId(name): row for name, row in rows.items()})

    def _understood(self, path: Path, content: TypeAdapter[dict[str, RowT]]) -> dict[str, RowT]:
        try:
            return content.validate_json(self._files.read(path))
        except FileNotFoundError:
            return {}
        except ValidationError:
            return self._put_aside(path)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror or error}") from error

    def _put_aside(self, path: Path) -> dict[str, RowT]:
        try:
            kept = self._files.put_aside(path)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror or error}") from error
        what = "identity alarms of earlier starts cannot be read, their file is kept"
        event(_LOG, logging.ERROR, what, file=str(path), kept=str(kept))
        return {}

    def save(self, alarms: Mapping[MeterId, Accusation]) -> None:
        """Replace them, durably (OSError)."""
        rows = {meter: {"eui48": format_eui48(alarm.eui48), "after": alarm.after} for meter, alarm in alarms.items()}
        self._files.replace(self._path, json.dumps(rows, indent=1).encode() + b"\n")

    def save_numbers(self, numbers: Mapping[MeterId, tuple[int, ...]]) -> None:
        """The same for what was acknowledged; after the alarms that it ends, or a death between would keep them."""
        self._files.replace(self._path.with_name(NUMBERS), json.dumps(numbers, indent=1).encode() + b"\n")
