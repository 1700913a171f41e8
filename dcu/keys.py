"""The keys of a street: one file at the DCU from which every meter's own file is made. Pure but for the file.

A meter's entry has the newest keys and some before them. Under earlier keys nothing is believed; they only carry the
newest ones to a meter that was away when they changed. A revoked meter keeps its entry and has no keys, so that nobody
takes it for one that was forgotten.

The group keys are the same for everybody who is not revoked. When they change, those before are kept to be understood
by who has not taken the new ones yet; two changes before a meter has taken any leave it what is sent to itself.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from shared.config import Section
from shared.errors import DeviceError
from shared.ids import Eui48, MeterId, format_eui48, is_device, parse_eui48
from shared.keys import (
    ClientKeys,
    ClientModel,
    DeviceText,
    Key,
    MeterKeys,
    Name,
    PairModel,
    client_content,
    pair_content,
)
from shared.protection import KEY_BYTES, PairKeys
from shared.secret_files import load_secret, save_secret

FORMAT: Final = "headroom-keys-1"
MAKE: Final = "headroom-keys make"
METERS_MAX: Final = 2000
EARLIER_MAX: Final = 4
"""Rotations that a meter may miss before it has to be given its keys by hand."""

COUNT_MAX: Final = 1_000_000
"""Rotations, and acknowledgements, of one street's life."""

Random = Callable[[int], bytes]
"""So many unpredictable bytes."""


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """One meter's keys at the DCU.

    Attributes:
        master: wraps new keys; None once the meter is revoked.
        pair: the newest keys; None once the meter is revoked.
        earlier: the keys before, latest first, which may only carry the newest.
        acknowledged: how often the operator has acknowledged an alarm of this meter's identity.
    """

    eui48: Eui48
    generation: int
    master: bytes | None = field(repr=False)
    pair: PairKeys | None
    earlier: tuple[PairKeys, ...]
    client: ClientKeys
    acknowledged: int = 0

    @property
    def revoked(self) -> bool:
        """Whether this meter is shut out."""
        return self.pair is None


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """What the DCU says to the whole street under.

    Attributes:
        generation: 1 for those that every meter has got by its file; rises with every rotation.
        newest: for every meter that is not revoked.
        earlier: those before, if they were ever changed.
    """

    generation: int
    newest: PairKeys
    earlier: PairKeys | None = None


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys of one street."""

    eui48: Eui48
    group: GroupKeys
    meters: Mapping[MeterId, MeterEntry]

    def exported(self, meter: MeterId) -> MeterKeys:
        """A meter's own file.

        Raises:
            DeviceError: unknown or revoked.
        """
        entry = self._entry(meter)
        if entry.master is None or entry.pair is None:
            raise DeviceError(f"{meter}: revoked; make it again to give it new keys")
        return MeterKeys(
            meter, entry.eui48, self.eui48, entry.generation, entry.master, entry.pair, self.group.newest, entry.client
        )

    def made(self, meters: Mapping[MeterId, Eui48], random: Random) -> KeyRing:
        """With keys for these meters, too; those that have keys keep them, revoked ones get new ones.

        Raises:
            DeviceError: a meter that is enrolled with another address, an address that is another meter's or the
                DCU's, or one that no device has; or more meters or generations than a file holds.
        """
        entries = dict(self.meters)
        for meter, eui48 in meters.items():
            if eui48 == self.eui48:
                raise DeviceError(f"{meter}: seen {format_eui48(eui48)}, the address of the DCU")
            _expect_device(meter, eui48)
            old = entries.get(meter)
            if old is not None and not old.revoked and old.eui48 != eui48:
                seen = f"{meter}: enrolled as {format_eui48(old.eui48)}, asked for {format_eui48(eui48)}"
                raise DeviceError(f"{seen}; revoke it first")
            if old is None or old.revoked:
                generation = 1 if old is None else _next(old.generation, f"{meter}'s generation")
                entries[meter] = MeterEntry(
                    eui48,
                    generation,
                    random(KEY_BYTES),
                    new_pair(random),
                    (),
                    new_client(random),
                    0 if old is None else old.acknowledged,
                )
        if len(entries) > METERS_MAX:
            raise DeviceError(f"meters: seen {len(entries)}, revoked ones too, expected at most {METERS_MAX}")
        held: dict[Eui48, MeterId] = {}
        for meter, entry in entries.items():
            if not entry.revoked and held.setdefault(entry.eui48, meter) != meter:
                raise DeviceError(f"{meter}: seen {format_eui48(entry.eui48)}, the address of {held[entry.eui48]}")
        return replace(self, meters=entries)

    def rotated(self, meter: MeterId, random: Random) -> KeyRing:
        """With new keys for a meter; the present ones, and up to `EARLIER_MAX` in all, are kept to carry them.

        Raises:
            DeviceError: unknown or revoked, or rotated too often.
        """
        entry = self._entry(meter)
        if entry.pair is None:
            raise DeviceError(f"{meter}: revoked; nothing to rotate")
        earlier = (entry.pair, *entry.earlier)[:EARLIER_MAX]
        generation = _next(entry.generation, f"{meter}'s generation")
        newest = replace(entry, generation=generation, pair=new_pair(random), earlier=earlier)
        return replace(self, meters={**self.meters, meter: newest})

    def regrouped(self, random: Random) -> KeyRing:
        """With new group keys; the present ones are kept for meters that have not taken the new ones yet (DeviceError
        if they have changed too often)."""
        generation = _next(self.group.generation, "group keys' generation")
        group = GroupKeys(generation, new_pair(random), self.group.newest)
        return replace(self, group=group)

    def without(self, meters: Iterable[MeterId], random: Random) -> KeyRing:
        """With meters revoked, and with group keys that they do not have (DeviceError if one is unknown). They may come
        back under other addresses; who is revoked already changes nothing."""
        shut = {
            meter: replace(entry, master=None, pair=None, earlier=())
            for meter in meters
            if not (entry := self._entry(meter)).revoked
        }
        return replace(self.regrouped(random), meters={**self.meters, **shut}) if shut else self

    def acknowledged(self, meter: MeterId) -> KeyRing:
        """With the alarm that a meter's keys are used elsewhere acknowledged (DeviceError if unknown, or too often)."""
        entry = self._entry(meter)
        number = _next(entry.acknowledged, f"{meter}'s acknowledgements")
        return replace(self, meters={**self.meters, meter: replace(entry, acknowledged=number)})

    def _entry(self, meter: MeterId) -> MeterEntry:
        entry = self.meters.get(meter)
        if entry is None:
            known = ", ".join(sorted(self.meters)[:8]) or "none"
            raise DeviceError(f"{meter}: no such meter among the keys (there are: {known})")
        return entry


def new_pair(random: Random) -> PairKeys:
    """A pair of fresh keys."""
    return PairKeys(random(KEY_BYTES), random(KEY_BYTES))


def new_client(random: Random) -> ClientKeys:
    """Fresh credentials of a reading tool."""
    return ClientKeys(new_pair(random), random(8).hex())


def new_ring(eui48: Eui48, random: Random) -> KeyRing:
    """A street without meters (DeviceError if no device has this address)."""
    _expect_device("DCU", eui48)
    return KeyRing(eui48, GroupKeys(1, new_pair(random)), {})


def _expect_device(whose: str, eui48: Eui48) -> None:
    if not is_device(eui48):
        raise DeviceError(f"{whose}: seen {format_eui48(eui48)}, expected a device's address, of no group and not zero")


def _next(number: int, what: str) -> int:
    """The number after this one (DeviceError if a file of keys holds none)."""
    if number >= COUNT_MAX:
        raise DeviceError(f"{what}: seen {number}, the last that a file of keys holds; make a new file and export it")
    return number + 1


# ---- the file --------------------------------------------------------------------------------------------------------


class _Entry(Section):
    eui48: DeviceText
    generation: Annotated[int, Field(ge=1, le=COUNT_MAX)]
    master: Key | None
    pair: PairModel | None
    earlier: Annotated[list[PairModel], Field(max_length=EARLIER_MAX)]
    client: ClientModel
    acknowledged: Annotated[int, Field(ge=0, le=COUNT_MAX)] = 0

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, content: Any) -> Any:
        """Files of earlier versions have one ``previous`` pair, or none."""
        if isinstance(content, dict) and "previous" in content and "earlier" not in content:
            before = content["previous"]
            content = {key: value for key, value in content.items() if key != "previous"}
            content["earlier"] = [] if before is None else [before]
        return content

    @model_validator(mode="after")
    def _all_or_nothing(self) -> _Entry:
        if (self.master is None) != (self.pair is None) or (self.pair is None and self.earlier):
            raise ValueError("master and pair, or neither")
        return self


class _RingFile(Section):
    format: Literal["headroom-keys-1"]
    eui48: DeviceText
    group: PairModel
    group_generation: Annotated[int, Field(ge=1, le=COUNT_MAX)] = 1
    group_earlier: PairModel | None = None
    meters: Annotated[dict[Name, _Entry], Field(max_length=METERS_MAX)]

    @model_validator(mode="after")
    def _one_address_each(self) -> _RingFile:
        seen: dict[Eui48, str] = {}
        dcu = parse_eui48(self.eui48)
        for name, entry in self.meters.items():
            eui48 = parse_eui48(entry.eui48)
            if eui48 == dcu:
                raise ValueError(f"{name}: seen {entry.eui48}, the address of the DCU")
            if entry.pair is not None and seen.setdefault(eui48, name) != name:
                raise ValueError(f"{name}: seen {entry.eui48}, the address of {seen[eui48]}")
        return self


def load_ring(path: Path) -> KeyRing:
    """The keys in a street's file.

    Raises:
        ConfigError: missing, readable by others, or wrong in any entry.
    """
    found = load_secret(path, _RingFile, MAKE)
    meters = {
        MeterId(name): MeterEntry(
            parse_eui48(entry.eui48),
            entry.generation,
            None if entry.master is None else bytes.fromhex(entry.master),
            None if entry.pair is None else entry.pair.keys,
            tuple(pair.keys for pair in entry.earlier),
            entry.client.keys,
            entry.acknowledged,
        )
        for name, entry in found.meters.items()
    }
    earlier = None if found.group_earlier is None else found.group_earlier.keys
    return KeyRing(parse_eui48(found.eui48), GroupKeys(found.group_generation, found.group.keys, earlier), meters)


def save_ring(path: Path, ring: KeyRing) -> None:
    """Replace a street's file (DeviceError if the medium does not obey)."""
    save_secret(path, ring_content(ring))


def ring_content(ring: KeyRing) -> dict[str, Any]:
    """A street's keys as the file holds them; what has never happened is left away, as in files of earlier versions."""
    group = ring.group
    content: dict[str, Any] = {
        "format": FORMAT,
        "eui48": format_eui48(ring.eui48),
        "group": pair_content(group.newest),
    }
    if group.generation > 1:
        content["group_generation"] = group.generation
    if group.earlier is not None:
        content["group_earlier"] = pair_content(group.earlier)
    return content | {"meters": {name: _entry_content(entry) for name, entry in ring.meters.items()}}


def _entry_content(entry: MeterEntry) -> dict[str, Any]:
    content = {
        "eui48": format_eui48(entry.eui48),
        "generation": entry.generation,
        "master": None if entry.master is None else entry.master.hex(),
        "pair": None if entry.pair is None else pair_content(entry.pair),
        "earlier": [pair_content(pair) for pair in entry.earlier],
        "client": client_content(entry.client),
    }
    return content | ({"acknowledged": entry.acknowledged} if entry.acknowledged else {})


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else changes this file of keys meanwhile (DeviceError if its directory is not ours)."""
    try:
        path = path.resolve()  # by whatever name others come to it
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DeviceError(f"{path.parent}: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
