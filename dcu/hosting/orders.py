"""What the utility can order of the engine. Nothing here raises anybody's limit beyond what is configured.

Whether a command is to be believed, and whether it fits this site, was judged before; the engine asserts the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcu.hosting.decide import Rule
from shared.ids import MeterId


@dataclass(frozen=True, slots=True)
class NominalLimits:
    """Other nominal limits [W], at most the contract's. Each meter is told; it obeys up to its own configuration."""

    limits_w: Mapping[MeterId, float]


@dataclass(frozen=True, slots=True)
class Sharing:
    """How capacity is shared: the name of a policy."""

    policy: str


@dataclass(frozen=True, slots=True)
class BandWidth:
    """The band for decisions [% of nominal]."""

    band_pct: float


@dataclass(frozen=True, slots=True)
class AnotherRule:
    """Decide by this from now on: another model of the same feeder. What the one before remembered is gone."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class AllRevoked:
    """Every grant ends now, and nobody gets one for ``hold_s`` [s]."""

    hold_s: float


@dataclass(frozen=True, slots=True)
class Nothing:
    """An order about something else, which is recorded here."""


Change = NominalLimits | Sharing | BandWidth | AnotherRule | AllRevoked | Nothing


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order of the utility; ``kind`` and ``about`` go into the ledger, ahead of the effect."""

    change: Change
    kind: str
    about: Mapping[str, Any]
