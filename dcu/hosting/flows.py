"""Rated currents and unbalance: the constraints that are linear in the currents of the ports, in their worst case.

An export beyond what is measured may come or not, and on a neutral, or in an unbalance, one export cancels another. So
each of them is asked for the largest magnitude that any choice of the exports can make of it (a corner of the zonotope
that they span), as it is with all other draws as they are. Whoever then exports less leaves the voltages lower and
turned, and the same power flows with another current: by how much at most is added for the choice that was found, to
first order. So is what meters and model may be wrong by: the measured currents by the class of the meters, their change
by that and by the model's error.

Nomenclature: k rows, n ports, m exports that may not come; values of a row in [A], or [V] of unbalance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.port_model import PortModel
from dcu.hosting.moves import Moved

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]
Choice = NDArray[np.bool_]

NEAR: Final = 0.5
"""[limit] Below it a bound that takes all magnitudes together will do."""
DIRECTIONS: Final = 6
"""In which the largest magnitude is sought at first; each is then turned to where it leads."""
TURNS: Final = 3
CURVED: Final = 0.1
"""Share by which what exports do to voltages may be more than to first order."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Positive- and negative-sequence voltage of each three-phase bus, linear in the port currents, times 3 [V]."""

    names: tuple[str, ...]
    forward_open_v: Complexes
    backward_open_v: Complexes
    forward_h: Complexes
    backward_h: Complexes

    @staticmethod
    def of(model: PortModel) -> Sequences:
        """Kept with the model. A voltage common to the phases, such as the neutral's, is in neither sequence."""
        if "sequences" not in model.memo:
            buses = model.three_phase_buses()
            rows = np.array([at for _, at, _ in buses], dtype=np.int64).reshape(-1, 3).T
            a = np.exp(2j * np.pi / 3)
            h, open_v = model.node_h_ohm, model.node_open_v

            def sequence(turn: complex) -> tuple[Complexes, Complexes]:
                return (
                    open_v[rows[0]] + turn * open_v[rows[1]] + turn**2 * open_v[rows[2]],
                    np.ascontiguousarray(h[rows[0]] + turn * h[rows[1]] + turn**2 * h[rows[2]]),
                )

            (forward_open, forward_h), (backward_open, backward_h) = sequence(a), sequence(a * a)
            names = tuple(bus for bus, _, _ in buses)
            model.memo["sequences"] = Sequences(names, forward_open, backward_open, forward_h, backward_h)
        found: Sequences = model.memo["sequences"]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """What is looked at before anything is measured: rated currents, then unbalances, and how far each may go. An
    unbalance follows impedances, of which the model may be wrong all the way; a current adds up."""

    open: Complexes
    h: Complexes
    reach: Reals
    """Magnitudes of `h` (k, n)."""
    i_max_a: Reals
    vuf_max: float
    buses: Sequences | None

    @staticmethod
    def of(model: PortModel, i_max_a: Reals, rated: Rows, vuf_max: float) -> Linear:
        """The rated ones of a model's currents, and its unbalances if there is a limit to them."""
        n = len(model.ports)
        open_, h = model.current_open_a[rated], np.zeros((0, n), dtype=np.complex128)
        h = model.current_h[rated] if len(rated) else h
        buses = Sequences.of(model) if np.isfinite(vuf_max) else None
        if buses is not None:
            open_, h = np.concatenate([open_, buses.backward_open_v]), np.concatenate([h, buses.backward_h])
        h = np.ascontiguousarray(h)
        return Linear(open_, h, np.abs(h), i_max_a[rated], vuf_max, buses)

    @property
    def forward(self) -> tuple[Complexes, Complexes]:
        """Three times the positive-sequence voltages of the buses, open (b) and by the currents (b, n)."""
        if self.buses is None:
            return np.zeros(0, dtype=np.complex128), np.zeros((0, self.h.shape[1]), dtype=np.complex128)
        return self.buses.forward_open_v, self.buses.forward_h

    @property
    def by_impedance(self) -> Reals:
        """1 for an unbalance (k)."""
        return (np.arange(len(self.open)) >= len(self.i_max_a)).astype(float)

    def most(self, i_a: Complexes) -> Reals:
        """How far each may go with these currents (k)."""
        if self.buses is None:
            return self.i_max_a
        forward = np.abs(self.buses.forward_open_v + self.buses.forward_h @ i_a)
        return np.concatenate([self.i_max_a, self.vuf_max * forward])


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is known now (n): draws [W], the voltages [V] and currents [A] that go with them, the shares by which each
    of the currents may be too small; and those by which any draw and any change may be wrong."""

    p_w: Reals
    u_v: Complexes
    i_a: Complexes
    short: Reals
    power_error: float
    model_error: float


@dataclass(frozen=True, slots=True, eq=False)
class _Worst:
    """Of some rows: the largest value, the exports that make it (n_row, m), and a bound of its magnitude."""

    value: Complexes
    used: Choice
    size: Reals


class Flows:
    """How far currents and unbalance are beyond their limits in a state."""

    def __init__(self, linear: Linear, measured: Measured, moved: Callable[[], Moved], u_nominal_v: Reals) -> None:
        """Of a situation.

        Args:
            linear: what is looked at.
            measured: what is known now.
            moved: gives by how much watts move voltages at most.
            u_nominal_v: (n) [V].
        """
        self._linear, self._measured, self._moved, self._u_nominal_v = linear, measured, moved, u_nominal_v
        wrong = np.abs(measured.i_a) * (measured.power_error + measured.short)
        self.blur = linear.reach @ wrong
        self.blur += linear.by_impedance * measured.model_error * (linear.reach @ np.abs(measured.i_a))
        self.wrong = measured.power_error + measured.model_error

    def excess(self, p_w: Reals, u_v: Complexes, i_a: Complexes) -> Reals:
        """Of each row in one state [limit] (k): above 0 is too far."""
        linear, most = self._linear, self._linear.most(i_a)
        full = linear.open + linear.h @ i_a
        blur = self.blur + self.wrong * (linear.reach @ np.abs(i_a - self._measured.i_a))
        value = np.abs(full) + blur
        unseen = np.flatnonzero(p_w < self._measured.p_w)
        if len(unseen):
            # A bound for all rows; those that it does not settle are looked at one by one.
            share = self._absent(np.maximum(self._measured.p_w - p_w, 0.0), u_v)
            at_now = self._at_now(u_v)
            larger = np.maximum(np.abs(i_a), np.abs(at_now))
            bound = value + linear.reach[:, unseen] @ np.abs(i_a - at_now)[unseen] + linear.reach @ (larger * share)
            rows = np.flatnonzero(bound > NEAR * most)
            value = bound
            if len(rows):
                value[rows] = blur[rows] + self._worst(full[rows], rows, unseen, (p_w, u_v, i_a)).size
        return np.asarray(value / most - 1)

    def slopes(self, p_w: Reals, u_v: Complexes, i_a: Complexes, rows: Rows) -> Reals:
        """About how some of them follow each draw (n_row, n) [1/W]; an export that may not come relieves nothing."""
        linear = self._linear
        most, di = linear.most(i_a)[rows], -1 / np.conj(u_v)
        value = linear.open[rows] + linear.h[rows] @ i_a
        unseen = np.flatnonzero(p_w < self._measured.p_w)
        counts = np.ones((len(rows), len(p_w)), dtype=bool)
        if len(unseen):
            worst = self._worst(value, rows, unseen, (p_w, u_v, i_a))
            value, counts[:, unseen] = worst.value, worst.used
        turn = np.conj(value) / np.maximum(np.abs(value), 1e-12)
        found = np.where(counts, (linear.h[rows] * (turn[:, None] * di)).real, 0.0)
        away = np.where(p_w > self._measured.p_w, 1.0, -1.0)
        found += self.wrong * linear.reach[rows] * (away * np.abs(di))
        return np.asarray(found / most[:, None])

    def _at_now(self, u_v: Complexes) -> Complexes:
        """Currents of what is drawn now, at other voltages (n) [A]."""
        return np.asarray(self._measured.i_a * np.conj(self._measured.u_v / u_v))

    def _worst(self, full: Complexes, rows: Rows, unseen: Rows, state: tuple[Reals, Complexes, Complexes]) -> _Worst:
        """What any choice of exports makes largest of some rows, with the current that others' absence adds."""
        p_w, u_v, i_a = state
        at_now = self._at_now(u_v)
        larger, reach = np.maximum(np.abs(i_a), np.abs(at_now)), self._linear.reach[rows]
        parts = self._linear.h[np.ix_(rows, unseen)] * (i_a - at_now)[unseen]
        without = full - parts.sum(axis=1)
        unseen_w = (self._measured.p_w - p_w)[unseen]
        most = reach @ (larger * self._absent(np.maximum(self._measured.p_w - p_w, 0.0), u_v))  # where all are absent
        best = _Worst(full.copy(), np.ones(parts.shape, dtype=bool), np.abs(full))
        for k in range(DIRECTIONS):
            turn = np.full(len(rows), np.exp(-2j * np.pi * k / DIRECTIONS))
            for _ in range(TURNS):
                used = (parts * turn[:, None]).real > 0
                value = without + np.where(used, parts, 0.0).sum(axis=1)
                turn = np.conj(value) / np.maximum(np.abs(value), 1e-12)
            may = np.flatnonzero(np.abs(value) + most > best.size)
            if not len(may):
                continue
            absent_w = np.zeros((len(may), len(p_w)))
            absent_w[:, unseen] = np.where(used[may], 0.0, unseen_w)
            size = np.abs(value[may]) + (reach[may] * self._absent(absent_w, u_v)) @ larger
            better, size = may[size > best.size[may]], size[size > best.size[may]]
            best.value[better], best.used[better], best.size[better] = value[better], used[better], size
        return best

    def _absent(self, absent_w: Reals, u_v: Complexes) -> Reals:
        """Share by which every current is another at most where so much export does not come (..., n)."""
        moved = (1 + CURVED) * (absent_w @ self._moved().by_port) * (self._u_nominal_v / np.abs(u_v)) ** 2
        return np.asarray(moved / np.maximum(1 - moved, 0.5))
