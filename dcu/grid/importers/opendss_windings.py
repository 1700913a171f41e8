"""OpenDSS transformers: how its windings are connected, and coils fitted to the matrix the engine made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dcu.grid.network import ROTATION, Coil, CoilEnd, ComplexMatrix, Conductor

NOISE: Final = 1e-11
"""Relative to the series admittance; a smaller shunt is what rounding leaves of none."""


@dataclass(frozen=True, slots=True, eq=False)
class Element:
    """A circuit element as the engine holds it: node numbers of each terminal, primitive admittance matrix [S]."""

    kind: str
    name: str
    buses: tuple[str, ...]
    nodes: tuple[tuple[int, ...], ...]
    phases: int
    y: ComplexMatrix
    open_ends: tuple[tuple[bool, ...], ...]
    rating_a: float

    @property
    def where(self) -> str:
        return f"{self.kind}.{self.name}"

    @property
    def fully_open(self) -> bool:
        """Whether one terminal is open in all phases, so that no current flows through."""
        return any(all(end[: self.phases]) for end in self.open_ends)

    @property
    def partly_open(self) -> bool:
        return any(any(end[: self.phases]) for end in self.open_ends)


@dataclass(frozen=True, slots=True)
class Winding:
    """One side of a transformer: a delta or a star, rated voltage of a coil [V], earthing of its star [ohm] if any."""

    delta: bool
    rated_v: float
    tap: float
    s_va: float
    neutral_ohm: complex | None


@dataclass(frozen=True, slots=True)
class Fit:
    """Coils as OpenDSS connects them: positions (pos, neg) in each terminal, and what its matrix says of them."""

    pairs: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    z_pu: complex
    shunt_pu: complex
    mismatch: float


def _positions(delta: bool, phase: int, phases: int, turn: int) -> tuple[int, int]:
    """Positions in a terminal that one coil joins; a delta coil goes to the next phase, or to the one before."""
    if not delta or phases == 1:
        return phase, phases
    other = phase + turn
    if phases > 2:
        other %= phases
    return phase, 2 if other < 0 else other  # an open delta of two phases has its third corner behind them


def fit_coils(element: Element, windings: list[Winding], turn: int) -> Fit:
    """Series and magnetising admittance of coils so connected that fit the engine's matrix best (least squares)."""
    n = len(element.nodes[0])
    pairs = tuple(
        (
            _positions(windings[0].delta, k, element.phases, turn),
            _positions(windings[1].delta, k, element.phases, turn),
        )
        for k in range(element.phases)
    )
    turns = np.repeat([w.rated_v * w.tap for w in windings], n)
    y = np.array(element.y)
    for t, w in enumerate(windings):
        if not w.delta and w.neutral_ohm is not None and element.nodes[t][-1] != 0 and w.neutral_ohm != 0:
            y[(t + 1) * n - 1, (t + 1) * n - 1] -= 1 / w.neutral_ohm
    s = windings[0].s_va / element.phases
    seen = y * np.outer(turns, turns) / s
    series, shunt = np.zeros((2 * n, 2 * n)), np.zeros((2 * n, 2 * n))
    for (a, b), (c, d) in pairs:
        first, second = np.zeros(2 * n), np.zeros(2 * n)
        first[[a, b]], second[[n + c, n + d]] = (1, -1), (1, -1)
        series += np.outer(first - second, first - second)
        shunt += np.outer(second, second)
    # A solidly earthed star has an arbitrary large admittance of the engine at its neutral: that entry tells nothing.
    told = np.ones((2 * n, 2 * n), dtype=bool)
    for t, w in enumerate(windings):
        if not w.delta and w.neutral_ohm == 0:
            told[(t + 1) * n - 1, (t + 1) * n - 1] = False
    basis = np.stack([series[told], shunt[told]], axis=1)
    found, *_ = np.linalg.lstsq(basis.astype(np.complex128), seen[told], rcond=None)
    mismatch = float(np.abs(basis @ found - seen[told]).max() / np.abs(seen[told]).max())
    magnetising = complex(found[1]) if abs(found[1]) > NOISE * abs(found[0]) else 0j
    return Fit(pairs, 1 / complex(found[0]), magnetising / windings[1].tap ** 2, mismatch)


def vector_group_of(coils: Sequence[Coil], windings: Sequence[Winding]) -> str:
    """Vector group of a three-phase bank, by the angles of its first coil."""
    if len(coils) != 3:
        return ""
    lead = []
    for end in (coils[0].primary, coils[0].secondary):
        own = np.exp(1j * np.deg2rad(ROTATION.get(end.pos, 0.0)))
        other = np.exp(1j * np.deg2rad(ROTATION[end.neg])) if end.neg in ROTATION else 0.0
        lead.append(float(np.angle(own - other, deg=True)) - ROTATION.get(end.pos, 0.0))
    shift = ROTATION.get(coils[0].secondary.pos, 0.0) - ROTATION.get(coils[0].primary.pos, 0.0)
    clock = round((lead[1] - lead[0] - shift) / 30) % 12
    high, low = ("D" if windings[0].delta else "YN"), ("d" if windings[1].delta else "yn")
    return f"{high}{low}{clock}"


def to_neutral_v(end: CoilEnd) -> float:
    """Phase-to-neutral voltage that a coil's end gives its bus [V]."""
    single = end.neg in (Conductor.E, Conductor.N) or end.pos in (Conductor.E, Conductor.N)
    return end.u_rated_v / (1.0 if single else math.sqrt(3))
