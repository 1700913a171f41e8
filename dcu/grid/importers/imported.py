"""What every importer gives: the network, and an honest list of what was taken, approximated and left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcu.grid.check import find_faults
from dcu.grid.network import Network
from dcu.grid.network_file import limited
from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Powers over time, import positive: `p_w`, `q_var` (n_step, n_port) [W, var], one step every `step_s` [s]."""

    ports: tuple[str, ...]
    step_s: float
    p_w: NDArray[np.float64]
    q_var: NDArray[np.float64]


@dataclass(slots=True)
class Account:
    """Collected while reading."""

    taken: dict[str, int] = field(default_factory=dict)
    approximated: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def take(self, kind: str, count: int = 1) -> None:
        """Count elements of a kind as taken."""
        self.taken[kind] = self.taken.get(kind, 0) + count

    def lines(self) -> Iterable[str]:
        """The account as a person reads it."""
        yield "taken: " + (", ".join(f"{count} {kind}" for kind, count in self.taken.items() if count) or "nothing")
        for title, entries in (("approximated", self.approximated), ("left out", self.left_out)):
            yield f"{title}: " + ("nothing" if not entries else "")
            yield from (f"  {entry}" for entry in entries)


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A checked network and the account of how it was read."""

    network: Network
    account: Account
    profiles: Profiles | None = None


def finished(origin: str, network: Network, account: Account, profiles: Profiles | None = None) -> Imported:
    """The import, if the network has no fault.

    Raises:
        ConfigError: names every fault of the network that came out.
    """
    faults = find_faults(network)
    if faults:
        raise ConfigError(origin, limited(faults))
    return Imported(network, account, profiles)
