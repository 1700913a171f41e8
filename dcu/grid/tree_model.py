"""The reduced tree as arrays: `tree` makes them of a radial network, the sweep walks them, a model file keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

COORDINATES_MAX: Final = 16
"""Of one node in the compiled sweep; buses joined by switches can have more than four conductors together."""
KIND_MAX: Final = 4
"""Coordinates of a node for which the sweep has a loop of its own."""
SLOT, COUNT, PARENT_SLOT, PARENT_COUNT, SELECT, COEFFICIENTS, KIND = range(7)
"""Columns of `TreeModel.nodes`."""


@dataclass(frozen=True, slots=True, eq=False)
class TreeModel:
    """The reduced tree as the arrays of `dcu/grid/cpp/sweep.hpp`, with the ports in the network's order."""

    nodes: NDArray[np.int32]
    """(n_node, 7): slot, count, parent slot, parent count, select, coefficients, kind."""
    selects: NDArray[np.int32]
    coefficients: NDArray[np.float64]
    slots: int
    port_pos: NDArray[np.int32]
    port_neg: NDArray[np.int32]
    port_z_ohm: NDArray[np.complex128]
    """(n_port) impedance between its slot and the port: the service line of a leaf."""
    u_open_v: NDArray[np.complex128]
    u_nominal_v: NDArray[np.float64]
    ports: tuple[str, ...]
    floating: bool
    """Some zone is joined to earth nowhere."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False)

    def raised(self, source: float) -> TreeModel:
        """With the source's voltage times a factor."""
        return replace(self, u_open_v=source * self.u_open_v, memo={})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps, beside the model's own arrays."""
        return {
            "tree_nodes": self.nodes,
            "tree_selects": self.selects,
            "tree_coefficients": self.coefficients,
            "tree_port_pos": self.port_pos,
            "tree_port_neg": self.port_neg,
            "tree_service_ohm": self.port_z_ohm,
            "tree_size": np.array([self.slots, self.floating], dtype=np.int32),
        }

    @staticmethod
    def of(
        arrays: Mapping[str, NDArray[Any]],
        u_open_v: NDArray[np.complex128],
        u_nominal_v: NDArray[np.float64],
        ports: tuple[str, ...],
    ) -> TreeModel | None:
        """Out of a file's arrays; None if there is no tree among them.

        Raises:
            ValueError: arrays that are no tree, or not one of so many ports.
        """
        if "tree_nodes" not in arrays:
            return None
        nodes, selects, pos, neg, size = (
            np.ascontiguousarray(arrays[f"tree_{name}"], dtype=np.int32)
            for name in ("nodes", "selects", "port_pos", "port_neg", "size")
        )
        coefficients = np.ascontiguousarray(arrays["tree_coefficients"], dtype=np.float64)
        service = np.ascontiguousarray(arrays["tree_service_ohm"], dtype=np.complex128)
        if size.shape != (2,) or coefficients.ndim != 1 or not service.shape == pos.shape == neg.shape == (len(ports),):
            raise ValueError("arrays of a tree that do not fit the ports")
        slots, floating = size.tolist()
        found = TreeModel(
            nodes, selects, coefficients, slots, pos, neg, service, u_open_v, u_nominal_v, ports, bool(floating)
        )
        if not found._walkable():
            raise ValueError("a tree that leads nowhere")
        return found

    def _walkable(self) -> bool:
        """Whether every index stays inside: parents before children, each node's slots after the last one's."""
        nodes = self.nodes
        if nodes.ndim != 2 or nodes.shape[1] != KIND + 1 or not len(nodes) or self.selects.ndim != 1:
            return False
        free = 0
        for at, row in enumerate(nodes.tolist()):
            slot, count, parent, parent_count, select, first, kind = row
            by_kind = at > 0 and kind > 0
            by_select = at > 0 and kind == 0 and select >= 0
            dense = at > 0 and not by_kind and not by_select
            size = 2 * count * (count + (parent_count if dense else 0))
            good = slot == free and 0 < count <= COORDINATES_MAX and 0 <= kind <= KIND_MAX
            good = good and 0 <= first <= len(self.coefficients) - size
            if by_kind:
                good = good and kind == count and 0 <= parent <= slot - count
            elif by_select:
                taken = self.selects[select : select + count]
                good = good and len(taken) == count and bool(((taken >= 0) & (taken < slot)).all())
            elif dense:
                good = good and 0 < parent_count <= COORDINATES_MAX and 0 <= parent <= slot - parent_count
            if not good:
                return False
            free += count
        pos, neg = self.port_pos, self.port_neg
        return free == self.slots and bool(((pos >= 0) & (pos < free) & (neg >= -1) & (neg < free)).all())

    def lift_v(self, i_a: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """By how much currents injected at the ports (n) [A] lift their voltages (n) [V]: what Z does, node by node."""
        d = np.zeros(self.slots, dtype=complex)
        np.add.at(d, self.port_pos, i_a)
        earthed = self.port_neg < 0
        np.subtract.at(d, self.port_neg[~earthed], i_a[~earthed])
        walk = [(slice(row[SLOT], row[SLOT] + row[COUNT]), *self._edge(row)) for row in self.nodes.tolist()]
        for own, above, b, _ in reversed(walk[1:]):
            np.add.at(d, above, b.T @ d[own])
        for at, (own, above, b, c_ohm) in enumerate(walk):
            d[own] = (b @ d[above] if at else 0.0) + c_ohm @ d[own]
        against = np.where(earthed, 0.0, d[self.port_neg])
        return np.asarray(d[self.port_pos] - against + self.port_z_ohm * i_a)

    def _edge(self, row: list[int]) -> tuple[NDArray[np.int64], NDArray[np.complex128], NDArray[np.complex128]]:
        """Slots above a node, and its B and C."""
        count, parent, parent_count, select, first = row[COUNT], *row[PARENT_SLOT:KIND]
        size = count * count
        c_ohm = self.coefficients[first : first + 2 * size].view(complex).reshape(count, count)
        if row[KIND] > 0:
            return parent + np.arange(count), np.eye(count, dtype=complex), c_ohm
        if select >= 0:
            return self.selects[select : select + count].astype(np.int64), np.eye(count, dtype=complex), c_ohm
        if parent < 0:
            return np.zeros(0, dtype=np.int64), np.zeros((count, 0), dtype=complex), c_ohm
        first += 2 * size
        b = self.coefficients[first : first + 2 * count * parent_count].view(complex).reshape(count, parent_count)
        return parent + np.arange(parent_count), b, c_ohm
