"""Alarms of meters' identities on disk: a meter's keys were used from another address. They outlive restarts.

The operator acknowledges one by raising a number in the file of keys (`headroom-keys acknowledge`), which nobody else
may write; an alarm remembers where that number was. So neither end has to write the other's file. An older image of the
file of keys brings at most an alarm back: where its number is lower, alarms that stand are counted on from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from shared.config import Section
from shared.errors import DeviceError
from shared.ids import Eui48, MeterId, format_eui48, parse_eui48
from shared.keys import Eui48Text, Name
from shared.log import event, get_logger
from shared.secret_files import DiskFiles

ACCUSATIONS: Final = "identity-alarms.json"

_LOG: Final = get_logger("dcu")


@dataclass(frozen=True, slots=True)
class Accusation:
    """Who has used a meter's keys, and how many alarms of that meter had been acknowledged before."""

    eui48: Eui48
    after: int


class _Row(Section):
    eui48: Eui48Text
    after: Annotated[int, Field(ge=0)]


_ROWS: Final = TypeAdapter(dict[Name, _Row])


class AccusationFile:
    """The alarms that stand."""

    def __init__(self, path: Path, files: DiskFiles | None = None) -> None:
        self._path = path
        self._files = files or DiskFiles()

    def load(self) -> dict[MeterId, Accusation]:
        """Those of earlier starts; none, and a line in the log, if the file cannot be understood: then it is kept under
        another name, for a person.

        Raises:
            DeviceError: the file cannot be read, or not be kept.
        """
        try:
            rows = self._understood(self._files.read(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DeviceError(f"{self._path}: {error.strerror or error}") from error
        return {MeterId(name): Accusation(parse_eui48(row.eui48), row.after) for name, row in rows.items()}

    def _understood(self, data: bytes) -> dict[str, _Row]:
        try:
            return _ROWS.validate_json(data)
        except ValidationError:
            kept = self._files.put_aside(self._path)
            what = "identity alarms of earlier starts cannot be read, their file is kept"
            event(_LOG, logging.ERROR, what, file=str(self._path), kept=str(kept))
            return {}

    def save(self, alarms: Mapping[MeterId, Accusation]) -> None:
        """Replace them, durably (OSError)."""
        rows = {meter: {"eui48": format_eui48(alarm.eui48), "after": alarm.after} for meter, alarm in alarms.items()}
        self._files.replace(self._path, json.dumps(rows, indent=1).encode() + b"\n")
