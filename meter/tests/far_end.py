"""The DCU's end of a meter's session, for tests that speak for the DCU."""

from __future__ import annotations

import random

from shared.ids import MeterId, parse_eui48
from shared.keys import ClientKeys, MeterKeys
from shared.protection import PairKeys
from shared.session import BLOCK, End, InvocationCounter, Own, Session

DCU = parse_eui48("02:48:44:52:00:01")
KEYS = MeterKeys(
    MeterId("meter-1"),
    parse_eui48("02:48:44:52:01:01"),
    DCU,
    1,
    bytes(range(64, 80)),
    PairKeys(bytes(range(16)), bytes(range(16, 32))),
    PairKeys(bytes(range(32, 48)), bytes(range(48, 64))),
    ClientKeys(PairKeys(bytes(range(80, 96)), bytes(range(96, 112))), "reading-only"),
)


def counters() -> InvocationCounter:
    """A first block."""
    return InvocationCounter(0, BLOCK)


def far_end(keys: MeterKeys = KEYS, seed: int = 77) -> Session:
    """A DCU that has just started and holds these keys."""
    draw = random.Random(seed)
    return Session(Own.start(End.DCU, counters(), draw), keys.pair, draw, keys.group)


class FakeVault:
    """`meter.daemon.VaultPort` in memory, with a disk that can break.

    Attributes:
        saved: keys that were put on disk.
        reserved: ends of the blocks that were.
        error: what the disk raises, if anything.
    """

    def __init__(self, keys: MeterKeys = KEYS) -> None:
        self.keys = keys
        self.counter = counters()
        self.saved: list[MeterKeys] = []
        self.reserved: list[int] = []
        self.error: Exception | None = None

    async def reserve(self, end: int) -> None:
        if self.error is not None:
            raise self.error
        self.reserved.append(end)

    async def save(self, keys: MeterKeys) -> None:
        if self.error is not None:
            raise self.error
        self.saved.append(keys)
