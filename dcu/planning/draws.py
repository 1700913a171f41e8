"""Random days: loads and PV of a block of states, from streams that depend on nothing but their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dcu.planning.history import Reals
from dcu.planning.profiles import Profiles
from shared.errors import ConfigError, Fault

LoadModel = Literal["independent", "own_days", "common_days"]
PvScope = Literal["state", "day"]
DAYS_A_BLOCK: Final = 100
"""Simulated days of one block: the unit of work, of random streams and of sequential stopping."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a state is drawn.

    `independent` takes every interval and customer by itself, as published; `own_days` gives each customer whole
    recorded days of its own, `common_days` the same recorded day to all customers and PV units.
    """

    loads: LoadModel = "independent"
    pv_scope: PvScope = "state"

    def days_matter(self, profiles: Profiles) -> bool:
        """Whether the states of a simulated day hang together: by whole days, by their PV, or by the kind of day."""
        return self.loads != "independent" or self.pv_scope != "state" or len(profiles.weights) > 1


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """States of a block: `slot` (n_state), `load_w` (n_state, n_customer), `pv_w` (n_state, n_unit) of existing units
    and `per_w` (n_state) of a new unit of 1 W [W]."""

    slot: NDArray[np.int64]
    load_w: Reals
    pv_w: Reals
    per_w: Reals

    @property
    def day(self) -> NDArray[np.int64]:
        """The simulated day of each state (n_state), counted from 0."""
        return np.asarray(np.arange(len(self.slot)) // (int(self.slot[-1]) + 1))


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The random stream of that seed and those names: the same anywhere, in any order of work."""
    digest = hashlib.sha256("\0".join(str(n) for n in names).encode()).digest()
    words = [int.from_bytes(digest[k : k + 4], "little") for k in range(0, 16, 4)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))


def draw(profiles: Profiles, sampling: Sampling, rng: np.random.Generator, days: int = DAYS_A_BLOCK) -> Draws:
    """States of `days` simulated days, day after day.

    Raises:
        ConfigError: whole days are asked for and none is complete.
    """
    slots = profiles.slots
    slot = np.tile(np.arange(slots), days)
    if sampling.loads != "independent":
        return _whole_days(profiles, sampling, rng, days, slot)
    kind = np.zeros(days, dtype=np.int64)
    if len(profiles.weights) > 1:
        kind = rng.choice(len(profiles.weights), size=days, p=profiles.weights)
    kinds = np.repeat(kind, slots)
    load = profiles.load.at(kinds, slot, rng.random((days * slots, len(profiles.customers))))
    y = rng.random(days * slots) if sampling.pv_scope == "state" else np.repeat(rng.random(days), slots)
    units = np.repeat(y[:, None], len(profiles.pv_customers), axis=1)
    pv = profiles.pv.at(kinds, slot, units)
    return Draws(slot, load, pv, profiles.reference.at(kinds, slot, y[:, None])[:, 0])


def _whole_days(
    profiles: Profiles, sampling: Sampling, rng: np.random.Generator, days: int, slot: NDArray[np.int64]
) -> Draws:
    known = np.isfinite(profiles.pv_days).all(axis=(0, 2)) & np.isfinite(profiles.reference_days[0]).all(axis=1)
    sunny = np.flatnonzero(known)
    complete = np.asarray(np.isfinite(profiles.load_days).all(axis=2))
    _some(sunny, "recorded by all PV units")
    shared = np.flatnonzero(complete.all(axis=0) & np.isin(np.arange(complete.shape[1]), sunny))
    if sampling.loads == "common_days":
        _some(shared, "recorded by all customers")
        chosen = rng.choice(shared, size=days)
        load = profiles.load_days[:, chosen].reshape(len(profiles.customers), -1).T
    else:
        columns = []
        for name, ok, own in zip(profiles.customers, complete, profiles.load_days, strict=True):
            mine = np.flatnonzero(ok)
            _some(mine, f"recorded by {name}")
            columns.append(own[rng.choice(mine, size=days)].ravel())
        load = np.stack(columns, axis=1)
        chosen = rng.choice(sunny, size=days)
    pv = profiles.pv_days[:, chosen].reshape(len(profiles.pv_customers), len(slot)).T
    per_w = profiles.reference_days[0, chosen].ravel()
    return Draws(slot, np.ascontiguousarray(load), np.ascontiguousarray(pv), per_w)


def _some(days: NDArray[np.int64], whose: str) -> None:
    if not len(days):
        raise ConfigError("sampling.loads", [Fault("meter data", f"no complete day {whose}", "at least one")])
