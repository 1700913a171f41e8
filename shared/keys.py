"""The keys of one meter, and the file they are carried to it in.

A file is JSON, readable and writable by its owner only, replaced as a whole. Keys are written in hexadecimal and are
printed nowhere: no ``repr``, no log and no message of an error shows one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from shared.config import Section, parsed_by
from shared.ids import Eui48, MeterId, format_eui48, parse_device, parse_eui48
from shared.protection import KEY_BYTES, PairKeys
from shared.secret_files import load_secret

METER_FORMAT: Final = "headroom-meter-key-1"
CLIENT_FORMAT: Final = "headroom-client-key-1"
EXPORT: Final = "headroom-keys export"

Key = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * KEY_BYTES}}}$")]
Eui48Text = Annotated[str, parsed_by(parse_eui48)]
DeviceText = Annotated[str, parsed_by(parse_device)]
METER_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,16}")
Name = Annotated[str, Field(pattern=rf"^{METER_NAME.pattern}$")]


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a reading tool of the utility needs: keys of its own, which open no session, and a password to read with."""

    pair: PairKeys
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MeterKeys:
    """What a meter is known by.

    Attributes:
        generation: rises with every rotation.
        master: wraps new keys on their way.
        pair: protects what the meter and its DCU say.
        group: protects what the DCU says to the whole street, which may only lower.
        client: for reading tools.
    """

    meter: MeterId
    eui48: Eui48
    dcu_eui48: Eui48
    generation: int
    master: bytes = field(repr=False)
    pair: PairKeys
    group: PairKeys
    client: ClientKeys


class PairModel(Section):
    """A pair of keys in a file."""

    encryption: Key
    authentication: Key

    @property
    def keys(self) -> PairKeys:
        """The keys."""
        return PairKeys(bytes.fromhex(self.encryption), bytes.fromhex(self.authentication))


class ClientModel(Section):
    """A reading tool's credentials in a file."""

    encryption: Key
    authentication: Key
    password: Annotated[str, Field(pattern=r"^[!-~]{8,32}$")]

    @property
    def keys(self) -> ClientKeys:
        """The credentials."""
        pair = PairKeys(bytes.fromhex(self.encryption), bytes.fromhex(self.authentication))
        return ClientKeys(pair, self.password)


class _MeterFile(Section):
    format: Literal["headroom-meter-key-1"]
    meter: Name
    eui48: DeviceText
    dcu_eui48: DeviceText
    generation: Annotated[int, Field(ge=1, le=1_000_000)]
    master: Key
    pair: PairModel
    group: PairModel
    client: ClientModel

    @model_validator(mode="after")
    def _two_ends(self) -> _MeterFile:
        if parse_eui48(self.eui48) == parse_eui48(self.dcu_eui48):
            raise ValueError("another address than the DCU's")
        return self


def pair_content(pair: PairKeys) -> dict[str, str]:
    """A pair of keys as a file holds it."""
    return {"encryption": pair.encryption.hex(), "authentication": pair.authentication.hex()}


def client_content(client: ClientKeys) -> dict[str, str]:
    """A reading tool's credentials as a file holds them."""
    return pair_content(client.pair) | {"password": client.password}


def meter_content(keys: MeterKeys) -> dict[str, Any]:
    """A meter's keys as a file holds them."""
    return {
        "format": METER_FORMAT,
        "meter": keys.meter,
        "eui48": format_eui48(keys.eui48),
        "dcu_eui48": format_eui48(keys.dcu_eui48),
        "generation": keys.generation,
        "master": keys.master.hex(),
        "pair": pair_content(keys.pair),
        "group": pair_content(keys.group),
        "client": client_content(keys.client),
    }


def client_file(keys: MeterKeys) -> dict[str, Any]:
    """What a reading tool needs for one meter, as its file holds it."""
    return {"format": CLIENT_FORMAT, "meter": keys.meter} | client_content(keys.client)


def load_meter_keys(path: Path) -> MeterKeys:
    """The keys in a meter's file.

    Raises:
        ConfigError: missing, readable by others, or wrong in any entry.
    """
    found = load_secret(path, _MeterFile, EXPORT)
    return MeterKeys(
        MeterId(found.meter),
        parse_eui48(found.eui48),
        parse_eui48(found.dcu_eui48),
        found.generation,
        bytes.fromhex(found.master),
        found.pair.keys,
        found.group.keys,
        found.client.keys,
    )
