"""Keys of a virtual street: made at its start, kept in memory or written as the real files; and the ear that has them.

Every street is protected as a real one is; a bystander without keys would see nothing but lengths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Final

from dcu.accusations import Accusation, Numbers
from dcu.keys import KeyRing, new_ring, save_ring
from shared.errors import DecodeError
from shared.ids import Eui48, MeterId
from shared.keys import MeterKeys, meter_content
from shared.protection import PairKeys, is_protected, parse, reveal
from shared.secret_files import save_secret
from shared.session import BLOCK, InvocationCounter

TITLES_MAX: Final = 4
"""Starts of one end that are remembered, to read what is still on its way."""

RING: Final = "keys.json"


def enrol(addresses: dict[str, Eui48], dcu: str, draw: random.Random) -> KeyRing:
    """Keys for everybody at these addresses but the DCU itself."""
    meters = {MeterId(name): eui48 for name, eui48 in addresses.items() if name != dcu}
    return new_ring(addresses[dcu], draw.randbytes).made(meters, draw.randbytes)


def write_keys(ring: KeyRing, directory: Path) -> None:
    """The DCU's file and each meter's, as `headroom-keys` writes them."""
    save_ring(directory / RING, ring)
    for meter in ring.meters:
        save_secret(directory / f"{meter}.key", meter_content(ring.exported(meter)))


class MemoryVault:
    """Counters that survive a daemon, not the world; with a disk that can be set back to what it was.

    Attributes:
        reserved: what stands on the disk.
    """

    def __init__(self) -> None:
        self.reserved = 0
        self._counter = InvocationCounter(0, 0)

    @property
    def counter(self) -> InvocationCounter:
        return self._counter

    def start(self) -> None:
        """A daemon starts on what the disk says."""
        first = self.reserved
        self.reserved = first + BLOCK
        self._counter = InvocationCounter(first, self.reserved)

    async def reserve(self, end: int) -> None:
        self.reserved = end


class MeterVault(MemoryVault):
    """`meter.daemon.VaultPort` in memory."""

    def __init__(self, keys: MeterKeys) -> None:
        super().__init__()
        self.keys = keys

    async def save(self, keys: MeterKeys) -> None:
        self.keys = keys


class DcuVault(MemoryVault):
    """`dcu.daemon.VaultPort` in memory; put another ring in its place and the daemon finds it."""

    def __init__(self, ring: KeyRing) -> None:
        super().__init__()
        self.ring = ring
        self.alarms: dict[MeterId, Accusation] = {}
        self.numbers = Numbers()
        self._given = ring

    def start(self) -> None:
        super().start()
        self._given = self.ring

    def changed(self) -> KeyRing | None:
        if self.ring is self._given:
            return None
        self._given = self.ring
        return self.ring

    async def accuse(self, alarms: Mapping[MeterId, Accusation], numbers: Mapping[MeterId, tuple[int, ...]]) -> None:
        self.alarms, self.numbers = dict(alarms), Numbers(numbers)


class Eavesdropper:
    """Reads what is protected, as nobody on the line can."""

    def __init__(self, ring: KeyRing) -> None:
        self._pairs: dict[str, list[PairKeys]] = {}
        self._titles: dict[tuple[str, bool], list[bytes]] = {}
        self._groups: list[PairKeys] = []
        self.learn(ring)

    def learn(self, ring: KeyRing) -> None:
        """Keys that are used from now on; those before still open what they have closed."""
        self._groups.insert(0, ring.group.newest)
        for meter, entry in ring.meters.items():
            if entry.pair is not None:
                self._pairs.setdefault(meter, []).insert(0, entry.pair)

    def open_to_all(self, data: bytes) -> bytes | None:
        """The same for a frame of the DCU to everybody, under any title it has been heard with."""
        titles = {title for (_, down), known in self._titles.items() if down for title in known}
        try:
            envelope = parse(data)
            opened = (reveal(envelope, group, title) for title, group in product(titles, self._groups))
            found = [plain for plain in opened if plain is not None]
        except DecodeError:
            return None
        return found[0] if envelope.group and found else None

    def open(self, client: str, down: bool, data: bytes) -> bytes | None:
        """The APDU in a frame from or to a client; None if these keys and titles do not open it."""
        if not is_protected(data):
            return data
        try:
            envelope = parse(data)
            known = self._titles.setdefault((client, down), [])
            titles = [envelope.title] if envelope.title else known
            for title, pair in product(titles, self._pairs.get(client, ())):
                plain = reveal(envelope, pair, title)
                if plain is not None:
                    known[:] = [title, *(other for other in known if other != title)][:TITLES_MAX]
                    return plain
        except DecodeError:
            return None
        return None
