"""The utility's side of a street in virtual time: an outbox without a thread, and somebody who signs commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dcu.config import DcuConfig
from dcu.hosting.decide import Rule
from dcu.ledger.layout import current
from dcu.ledger.note import Verifier
from dcu.ledger.store import Ledger
from dcu.utility.commands import sign
from dcu.utility.outbox import Outbox
from dcu.utility_real import (
    log_number,
    published_head,
    recall,
    receipt_text,
    refill,
    remembered,
    rule_of,
    settings_of,
    tell_again,
)
from dcu.utility_side import ToldAgain, UtilityPorts
from hil_tests.virtual.broker import MemoryBroker

ResultT = TypeVar("ResultT")

UTC_S: Final = 1_790_000_000
"""[s, Unix] September 2026: a clock that is set."""


class DirectOutbox:
    """`dcu.utility.link.OutboxPort` without a thread."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    async def call(self, work: Callable[[Outbox], ResultT]) -> ResultT:
        return work(self.outbox)


def kill_outbox(outbox: Outbox) -> None:
    """As SIGKILL does: what only memory knew is gone."""
    outbox._recent.clear()
    outbox._cursor = outbox._written_cursor()
    outbox.close()


class DirectFiles:
    """`dcu.utility_side.SiteFiles` without a thread."""

    def __init__(self, config: DcuConfig, ledger: Ledger, outbox: Outbox) -> None:
        self._config, self._ledger, self._outbox = config, ledger, outbox
        self._place = current(config.state_directory)
        self.ended: list[dict[str, Any]] = [
            {"meter": meter.id, "start_s": UTC_S - UTC_S % 604_800 - 604_800, "u_95_pct": [231.0]}
            for meter in config.meters
        ]

    async def checkpoint(self) -> str | None:
        self._ledger.publish()
        return published_head(self._place)

    async def receipt(self, position: int, meter: str | None) -> str:
        return receipt_text(self._place, position, Verifier.parse(self._ledger.vkey), meter)

    async def weeks(self, after_s: int) -> list[dict[str, Any]]:
        return [one for one in self.ended if one["start_s"] > after_s]

    async def refill(self) -> bool:
        return refill(self._outbox, self._config, self._ledger.position)

    async def tell_again(self, position: int, count: int) -> ToldAgain:
        return tell_again(self._outbox, self._config, self._ledger.position, position, count)

    async def rule(self, sha256: str) -> Rule:
        return rule_of(self._config, sha256)


def memory_ports(config: DcuConfig, ledger: Ledger, broker: MemoryBroker) -> UtilityPorts:
    """The ports of a DCU in virtual time; the outbox is a real file."""
    directory: Path = config.state_directory
    outbox = Outbox(config.store_directory, config.dcu.id)
    if outbox.fresh:
        recall(outbox, remembered(directory))
    refill(outbox, config, ledger.position)
    files, log = DirectFiles(config, ledger, outbox), log_number(directory)
    return UtilityPorts(DirectOutbox(outbox), broker, files, log, config, settings_of(outbox))


@dataclass
class Commander:
    """Signs commands for one DCU, each with the next number."""

    dcu: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    number: int = 0

    @property
    def public(self) -> bytes:
        """What the DCU's configuration pins."""
        return self.key.public_key().public_bytes_raw()

    def content(self, order: dict[str, Any], issued_utc_s: float, **other: Any) -> dict[str, Any]:
        """A command that expires in ten minutes; ``other`` members replace its own."""
        self.number += 1
        issued = int(issued_utc_s)
        told = {"version": 1, "dcu": self.dcu, "number": self.number, "issued_utc_s": issued, "order": order}
        return {**told, "expires_utc_s": issued + 600, **other}

    def command(self, order: dict[str, Any], issued_utc_s: float, **other: Any) -> bytes:
        """The same signed, as it is sent."""
        return sign(self.content(order, issued_utc_s, **other), self.key)
