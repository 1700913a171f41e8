"""What draws do to voltages, to first order about no load: by how much, by how much at most, and what exports relieve.

Exports that are not seen may come or not. Which of them push a constraint is told by signs; the choice that is worst
for one voltage is for others of its phase too, but for what it may do to them by exports that come in one and not in
the other. Tables are kept with the model. The loops are compiled (`cpp/moves.cpp`); NumPy does the same where they were
not built.

Nomenclature: n ports, g groups of them, r constraints, of which the first n are upper and the next n lower limits of
voltages.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcu.grid.port_model import PortModel
from dcu.hosting.compiled import share

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]
Singles = NDArray[np.float32]
Choices = NDArray[np.bool_]

CURVED: Final = 0.2
"""Share by which relief may be more than to first order about no load: what relieves may flow at a lower voltage, and
moves the currents of others. It decides little: where it would, flows are made."""
CHOICES_MAX: Final = 6
"""In which different exports come: three phases, lifted and lowered."""
ALIKE: Final = 5e-5
"""[limit] A choice made for another constraint will do for one that it may miss by no more: 12 mV."""


GROUP: Final = 32
"""Ports, of one phase as far as may be, that a bound takes together, for a thirty-second of the sums."""


class Moved(NamedTuple):
    """By how much a watt at each port moves each voltage at most, in size or in angle (n, n) [share of nominal/W]; the
    most that one of a group of ports does (g, n), and which group each is in (n)."""

    by_port: Reals
    by_group: Reals
    group: Rows


def rise(model: PortModel) -> Reals:
    """Of all voltages by each draw (n, n) [share of nominal/W]."""
    if "rise" not in model.memo:
        u = model.u_open_v
        by_draw = along(u, model.z_ohm, np.asarray(-1 / np.conj(u)), 1 / model.u_nominal_v)
        model.memo["rise"] = np.ascontiguousarray(by_draw)
    found: Reals = model.memo["rise"]
    return found


def moved(model: PortModel) -> Moved:
    """Of a model."""
    if "moved" not in model.memo:
        by_port = np.abs(model.z_ohm).T / np.abs(model.u_open_v)[:, None] / model.u_nominal_v
        order = _order(model)
        by_group = np.maximum.reduceat(by_port[order], np.arange(0, len(order), GROUP), axis=0)
        group = np.empty(len(order), dtype=np.int64)
        group[order] = np.arange(len(order)) // GROUP
        model.memo["moved"] = Moved(np.ascontiguousarray(by_port), by_group, group)
    found: Moved = model.memo["moved"]
    return found


def along(value: Complexes, transfer: Complexes, di: Complexes, factor: Reals) -> Reals:
    """Derivative of `|value|` (m) by each draw (n), value being linear in the currents, times a factor (m): (m, n)."""
    turn = np.conj(value) * factor / np.maximum(np.abs(value), 1e-12)
    return np.asarray((transfer * (turn[:, None] * di)).real)


def relieved(model: PortModel, unused_w: Reals, sag: Reals) -> Reals:
    """By how much some exports (n_state, n) [W] lower every voltage, and beside that by how much they lift it, there
    times a factor (n): (n_state, 2n) [share of nominal], in single precision."""
    order, by_draw = _singles(model)
    n = len(order)
    found = np.empty((len(unused_w), 2 * n))
    if share is not None:
        share.relief(by_draw, order, np.ascontiguousarray(unused_w), found)
    else:
        unused = unused_w[:, order].astype(np.float32)
        found[:, :n] = unused @ np.maximum(by_draw, 0.0).T
        found[:, n:] = unused @ np.maximum(-by_draw, 0.0).T
    found *= 1 + CURVED
    found[:, n:] *= sag
    return found


def choices(model: PortModel, unseen_w: Reals, rows: Rows, sag: Reals, moved_by_all: Reals) -> tuple[Choices, Reals]:
    """Choices of exports that push the worst of some constraints, one after the other until all are alike to one of
    them: which come (k, n), and how much more each constraint may be exceeded by another choice (k, r).

    Args:
        model: the compiled feeder.
        unseen_w: exports that may come or not (n) [W].
        rows: the constraints (r), the worst first.
        sag: as in `relieved`.
        moved_by_all: what `relieved` says of all of them (2n).
    """
    assert len(rows), "nothing to choose for"
    if share is not None:
        pushes, otherwise = np.empty((CHOICES_MAX, len(sag)), dtype=bool), np.empty((CHOICES_MAX, len(rows)))
        order, by_draw = _singles(model)
        tables = rise(model), by_draw, order
        limits = CHOICES_MAX, 1 + CURVED, ALIKE
        count = share.choices(*tables, unseen_w, rows, sag, moved_by_all, *limits, pushes, otherwise)
        return pushes[:count], otherwise[:count]
    return _choices(model, unseen_w, rows, sag, moved_by_all)


def _choices(model: PortModel, unseen_w: Reals, rows: Rows, sag: Reals, moved_by_all: Reals) -> tuple[Choices, Reals]:
    n, by_draw = len(sag), rise(model)
    other, lifting = (rows + n) % (2 * n), np.where(rows < n, 1.0, sag[rows % n])
    found: list[tuple[Choices, Reals]] = []
    left = np.arange(len(rows))
    while len(left) and len(found) < CHOICES_MAX:
        row = int(rows[left[0]])
        pushes = by_draw[row % n] > 0 if row >= n else by_draw[row % n] < 0
        (by_used,) = relieved(model, np.where(pushes, unseen_w, 0.0)[None, :], sag)
        # What exports relieve that come, and what others would push that do not: lifting one limit is relieving the
        # other one of the same voltage.
        otherwise = by_used[rows] + lifting * np.maximum(moved_by_all[other] - by_used[other], 0.0)
        found.append((pushes, otherwise))
        left = left[1:][otherwise[left[1:]] > ALIKE]
    pushed, missed = zip(*found, strict=True)
    return np.array(pushed), np.array(missed)


def _order(model: PortModel) -> Rows:
    """Ports with those of one phase together (n)."""
    return np.argsort(np.array(model.port_labels), kind="stable")


def _singles(model: PortModel) -> tuple[Rows, Singles]:
    """Ports in `_order` (n); rises in single precision, with the draws in that order (n, n)."""
    if "singles" not in model.memo:
        order = _order(model)
        model.memo["singles"] = order, np.ascontiguousarray(rise(model)[:, order], dtype=np.float32)
    found: tuple[Rows, Singles] = model.memo["singles"]
    return found
