"""The fixed point `u <- u_open + Z i(u)` for one state with constant power at every port: what a decision asks.

Where the model keeps the feeder's tree and the compiled sweep is there, Z is walked (`sweep.Walker`). Else: the method
and error estimate of `port_engine`, without its preparations: a vector and not a block, complex numbers (half the
memory of stacked parts to read), ports sorted by outgoing line, and a start at a state near by, from which two or three
steps are enough.

Nomenclature: n ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.port_engine import Q_FIRST, QUIET, STEPS_MAX
from dcu.grid.port_model import Lines, PortModel
from dcu.grid.sweep import Walker, available

Complexes = NDArray[np.complex128]
Reals = NDArray[np.float64]

Q_UNKNOWN: Final = 0.5
"""Contraction that is assumed where no ratio of steps is known: a start that good was a solution already."""
Q_MAX: Final = 0.999
ROUGH_PU: Final = 1e-6
"""Steps larger than this are made with single-precision impedances, which are half the memory to read; what they spoil
(a few 1e-8 of nominal) the next step takes away. The last step, which says how good the state is, is always double."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """A model's arrays with the ports in the order of the lines."""

    order: NDArray[np.int64]
    back: NDArray[np.int64]
    u_open_v: Complexes
    per_nominal: Reals
    parts: tuple[tuple[slice, Complexes], ...]
    rough: tuple[tuple[slice, NDArray[np.complex64]], ...]
    """The parts in single precision."""
    common: tuple[Complexes, Complexes] | None
    """What all lines share: (n, conductors) and (conductors, n), whose product is added to the parts."""

    @staticmethod
    def of(model: PortModel) -> _Sorted:
        """Kept with the model."""
        if "sorted" not in model.memo:
            model.memo["sorted"] = _sorted(model)
        found: _Sorted = model.memo["sorted"]
        return found

    def step(self, given: Complexes, u: Complexes, i: Complexes, out: Complexes) -> None:
        """The map itself: `i = conj(given / u)`, `out = u_open + Z i`."""
        np.divide(given, u, out=i)
        np.conjugate(i, out=i)
        for at, part in self.parts:
            np.matmul(part, i[at], out=out[at])
        out += self.u_open_v
        if self.common is not None:
            out += self.common[0] @ (self.common[1] @ i)

    def rough_step(self, given: Complexes, u: Complexes, i: Complexes, out: Complexes) -> None:
        """The same with the lines' own parts of Z in single precision."""
        np.divide(given, u, out=i)
        np.conjugate(i, out=i)
        short = i.astype(np.complex64)
        product = np.empty_like(short)
        for at, part in self.rough:
            np.matmul(part, short[at], out=product[at])
        np.add(product, self.u_open_v, out=out)
        if self.common is not None:
            out += self.common[0] @ (self.common[1] @ i)


def _sorted(model: PortModel) -> _Sorted:
    z = model.z
    if isinstance(z, Lines):
        order = np.concatenate(z.ports)
        ends = np.cumsum([len(at) for at in z.ports])
        parts = tuple(
            (slice(int(end) - len(part), int(end)), np.ascontiguousarray(part))
            for end, part in zip(ends, z.parts, strict=True)
        )
        transfer = np.asarray(z.transfer[order], dtype=np.complex128)
        common = (transfer, np.ascontiguousarray(z.z_busbar_ohm @ transfer.T))
    else:
        order = np.arange(len(z))
        parts, common = ((slice(0, len(z)), z),), None
    rough = tuple((at, part.astype(np.complex64)) for at, part in parts)
    return _Sorted(order, np.argsort(order), model.u_open_v[order], 1 / model.u_nominal_v[order], parts, rough, common)


def _walker(model: PortModel) -> Walker | None:
    """Kept with the model; None where it has no tree, or the compiled sweep is not there."""
    if "walker" not in model.memo:
        model.memo["walker"] = Walker(model.tree) if model.tree is not None and available() else None
    found: Walker | None = model.memo["walker"]
    return found


def solve_one(
    model: PortModel, p_w: Reals, q_var: Reals, tolerance_pu: float, near_u_v: Complexes | None = None
) -> tuple[Complexes, Complexes]:
    """Port voltages [V] and injected currents [A] (n); NaN if the fixed point does not settle.

    Args:
        model: the compiled feeder.
        p_w: draws (n) [W], import positive.
        q_var: the same [var].
        tolerance_pu: estimated error of the voltages at which the state is done [share of nominal].
        near_u_v: voltages (n) [V] of a state near by, where the iteration starts; None for no load.
    """
    u, i = solve_few(model, p_w[None, :], q_var, tolerance_pu, near_u_v)
    return u[0], i[0]


def solve_few(
    model: PortModel, p_w: Reals, q_var: Reals, tolerance_pu: float, near_u_v: Complexes | None = None
) -> tuple[Complexes, Complexes]:
    """`solve_one` of a few states near each other, draws (n_state, n) [W]: (n_state, n), NaN where one does not
    settle."""
    walker = _walker(model)
    if walker is not None:
        u, i, reached = walker.walk(p_w, q_var, tolerance_pu, near_u_v)
        if not reached.all():
            u[~reached] = i[~reached] = np.nan + 0j
        return u, i
    u, i = np.empty((2, *p_w.shape), dtype=np.complex128)
    for k, p in enumerate(p_w):
        u[k], i[k] = _solve(model, p, q_var, tolerance_pu, near_u_v)
        near_u_v = near_u_v if np.isnan(u[k, 0]) else u[k]
    return u, i


def solve_each(
    model: PortModel, p_w: Reals, q_var: Reals, tolerance_pu: float, near_u_v: Complexes | None = None
) -> tuple[Complexes, Complexes]:
    """`solve_one` of some states, draws (n_state, n) [W], which start alike: (n_state, n), to the last bit as one after
    the other."""
    walker = _walker(model)
    if walker is not None:
        u, i, reached = walker.walk(p_w, q_var, tolerance_pu, near_u_v, alone=True)
        if not reached.all():
            u[~reached] = i[~reached] = np.nan + 0j
        return u, i
    u, i = np.empty((2, *p_w.shape), dtype=np.complex128)
    for k, p in enumerate(p_w):
        u[k], i[k] = _solve(model, p, q_var, tolerance_pu, near_u_v)
    return u, i


def _solve(
    model: PortModel, p_w: Reals, q_var: Reals, tolerance_pu: float, near_u_v: Complexes | None
) -> tuple[Complexes, Complexes]:
    """One state by products with Z."""
    by = _Sorted.of(model)
    given = _given(by, p_w, q_var)
    u = by.u_open_v.copy() if near_u_v is None else near_u_v[by.order]
    new, i, change = np.empty_like(u), np.empty_like(u), np.empty(len(u))
    before, q_before = 0.0, Q_FIRST
    advance, exact = by.rough_step, False
    with np.errstate(all="ignore"):
        for _ in range(STEPS_MAX):
            advance(given, u, i, new)
            u, new = new, u
            new -= u
            np.abs(new, out=change)
            change *= by.per_nominal
            step = float(change.max())
            ratio = min(step / before, Q_MAX) if before > QUIET else Q_UNKNOWN
            q = max(ratio, q_before)
            if exact and step * q <= tolerance_pu * (1 - q):
                return u[by.back], i[by.back]
            if not step < np.inf:
                break
            before, q_before = step, ratio if before else Q_FIRST
            if step <= ROUGH_PU:
                advance, exact = by.step, True
    lost = np.full(len(u), np.nan + 0j)
    return lost, lost


def solve_from_idle(model: PortModel, p_w: Reals, q_var: Reals, tolerance_pu: float) -> tuple[Complexes, Complexes]:
    """`solve_one` from no load; the last is kept with the model: what a view was made from its answer asks again."""
    kept = model.memo.get("from idle")
    if kept is None or kept[2] != tolerance_pu or not (kept[0] == p_w).all() or not (kept[1] == q_var).all():
        kept = (p_w.copy(), q_var.copy(), tolerance_pu, solve_one(model, p_w, q_var, tolerance_pu))
        model.memo["from idle"] = kept
    found: tuple[Complexes, Complexes] = kept[3]
    return found


def _given(by: _Sorted, p_w: Reals, q_var: Reals) -> Complexes:
    """Power into the feeder at every port, in the order of the lines [VA]."""
    given = np.empty(len(p_w), dtype=np.complex128)
    np.negative(p_w, out=given.real)
    np.negative(q_var, out=given.imag)
    return given[by.order]


def step_few(
    model: PortModel, p_w: Reals, q_var: Reals, near_u_v: Complexes | None = None
) -> tuple[Complexes, Complexes]:
    """`solve_few` after a single step: right to first order about the state it starts from."""
    walker = _walker(model)
    if walker is not None:
        u, i, _ = walker.walk(p_w, q_var, 0.0, near_u_v, steps_max=1)
        return u, i
    by = _Sorted.of(model)
    near = by.u_open_v if near_u_v is None else near_u_v[by.order]
    u, i = np.empty((2, *p_w.shape), dtype=np.complex128)
    new, current = np.empty((2, len(near)), dtype=np.complex128)
    for k, p in enumerate(p_w):
        by.rough_step(_given(by, p, q_var), near, current, new)
        u[k], i[k] = new[by.back], current[by.back]
    return u, i
