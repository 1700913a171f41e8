"""The limits in force and the strictest of them. Pure.

One limit is the base: nominal, or a grant that permits more. All others only lower. Nothing but a grant raises, and a
limit that cannot be understood (NaN) counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Limiter(Enum):
    """Who limits; of equals the first in this order is named."""

    OVERVOLTAGE = "local over-voltage"
    NOMINAL = "nominal"
    GRANT = "grant"
    CONTRACT = "contract"
    INSTALLATION = "installation"
    HOUSEHOLD = "household"


_ORDER = {limiter: rank for rank, limiter in enumerate(Limiter)}


@dataclass(frozen=True, slots=True)
class Limit:
    """An export limit [W] and whose it is."""

    by: Limiter
    limit_w: float


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What only lowers; None where there is no such limit.

    Attributes:
        contract_limit_w: what the customer's contract allows at most.
        installation_limit_w: what fuse, cable or inverter stand, by configuration.
        household_limit_w: the household's own cap, set at its door and forgotten at a restart.
        overvoltage_limit_w: while the local voltage has been too high for too long.
    """

    contract_limit_w: float
    installation_limit_w: float | None = None
    household_limit_w: float | None = None
    overvoltage_limit_w: float | None = None

    def limits(self) -> list[Limit]:
        """Those that are there."""
        found = {
            Limiter.OVERVOLTAGE: self.overvoltage_limit_w,
            Limiter.CONTRACT: self.contract_limit_w,
            Limiter.INSTALLATION: self.installation_limit_w,
            Limiter.HOUSEHOLD: self.household_limit_w,
        }
        return [Limit(by, limit_w) for by, limit_w in found.items() if limit_w is not None]


def strictest(base: Limit, others: Iterable[Limit]) -> Limit:
    """The lowest of all, never below zero; of equals the first in the order of `Limiter`."""
    known = [limit if limit.limit_w >= 0 else Limit(limit.by, 0.0) for limit in (base, *others)]
    return min(known, key=lambda limit: (limit.limit_w, _ORDER[limit.by]))
