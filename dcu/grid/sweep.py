"""The compiled engine's Python side: plans and elements kept ready, one call for a batch.

The extension module is part of the wheel; where it is missing, `available` is empty and the door uses the port engine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.injections import Injections, Law, Prepared, prepare
from dcu.grid.tree_model import TreeModel

try:
    from dcu.grid import _sweep as _compiled
except ImportError:  # built without the extension
    _sweep: ModuleType | None = None
else:
    _sweep = _compiled

STEPS_MAX: Final = 60
SINGLE_TOLERANCE_PU: Final = 3e-7
"""What float32 can promise with room for its rounding: 1e-6 in all."""


@cache
def available() -> tuple[str, ...]:
    """Instruction sets of the compiled module that this processor can run, best first; empty without the module."""
    return () if _sweep is None else tuple(_sweep.available())


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """Arrays of a batch; `u_v`, `i_a` (n_state, n_port) and the extremes (n_state) only where asked for."""

    error_pu: NDArray[np.float64]
    contraction: NDArray[np.float64]
    iterations: NDArray[np.int32]
    u_v: NDArray[np.complex128] | None
    i_a: NDArray[np.complex128] | None
    u_min_pu: NDArray[np.float64] | None
    u_max_pu: NDArray[np.float64] | None


def sweep(
    tree: TreeModel,
    prepared: Prepared,
    tolerance_pu: float,
    *,
    voltages: bool = True,
    currents: bool = False,
    extremes: bool = False,
    single: bool = False,
    threads: int = 0,
    kernels: str = "",
) -> Swept:
    """Solve a batch on the tree; a state whose error stays above the tolerance did not converge.

    Args:
        tree: the reduced feeder.
        prepared: the batch.
        tolerance_pu: estimated error of the port voltages at which a state is done [share of nominal].
        voltages, currents, extremes: what to write.
        single: in float32, good for 1e-6; not where a zone is earthed nowhere, whose common mode takes the digits.
        threads: 0 for as many as the process may use; the result is the same for any number.
        kernels: instruction set, best if empty.
    """
    single = single and not tree.floating
    states, ports = len(prepared.p_w), len(tree.ports)
    assert _sweep is not None, "ask available() first"
    assert prepared.law.n_port == ports, "a batch prepared for this feeder"
    error, contraction = np.empty(states), np.empty(states)
    iterations = np.empty(states, dtype=np.int32)
    u = np.empty((states, ports, 2)) if voltages else None
    i = np.empty((states, ports, 2)) if currents else None
    low, high = (np.empty(states), np.empty(states)) if extremes else (None, None)
    _sweep.solve(
        _plan(tree),
        _elements(tree, prepared.law),
        np.ascontiguousarray(prepared.p_w),
        np.ascontiguousarray(prepared.q_var),
        prepared.k_var,
        max(tolerance_pu, SINGLE_TOLERANCE_PU) if single else tolerance_pu,
        STEPS_MAX,
        threads or _threads(states),
        kernels,
        single,
        error,
        contraction,
        iterations,
        u,
        i,
        low,
        high,
    )
    return Swept(error, contraction, iterations, _complex(u), _complex(i), low, high)


ALONE: Final = "baseline"
"""Kernels for a single state, for which wider registers would be empty."""
TOGETHER: Final = 2
"""States that go on while one of them needs it: the lanes of a double in the plainest kernels."""


class Walker:
    """A few states with constant power at every port: what a decision asks, without a batch's preparations.

    By the plainest kernels, or those that do the same sums in wider registers: what comes out is the same on every
    processor of a kind.
    """

    def __init__(self, tree: TreeModel) -> None:
        """For a feeder; ask `available` first."""
        self._plan = _plan(tree)
        law = prepare(Injections.of(np.zeros(len(tree.ports))), tree.u_nominal_v).law
        self._elements = _elements(tree, law)
        self.several = "avx2_plain" if "avx2_plain" in available() else ALONE
        """Kernels for more states than one."""

    def walk(
        self,
        p_w: NDArray[np.float64],
        q_var: NDArray[np.float64],
        tolerance_pu: float,
        near_u_v: NDArray[np.complex128] | None = None,
        steps_max: int = STEPS_MAX,
        *,
        alone: bool = False,
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.bool_]]:
        """Port voltages [V], injected currents [A] (n_state, n), and whether the tolerance was reached (n_state).

        Args:
            p_w: draws (n_state, n) [W], import positive.
            q_var: the same (n) [var], in every state.
            tolerance_pu: as in `sweep`.
            near_u_v: voltages (n) [V] from which every state begins; None for no load.
            steps_max: steps after which it stops.
            alone: each state to the last bit as if it were the only one; else two neighbours go on while one of them
                needs it.
        """
        assert _sweep is not None, "ask available() first"
        p = np.ascontiguousarray(p_w, dtype=np.float64)
        q = np.empty(p.shape)
        q[...] = q_var
        states, ports = p.shape
        u, i = np.empty((states, ports, 2)), np.empty((states, ports, 2))
        error, ratio, steps = np.empty(states), np.empty(states), np.empty(states, dtype=np.int32)
        start = None if near_u_v is None else np.ascontiguousarray(near_u_v).view(np.float64)
        kernels = ALONE if states == 1 else self.several
        law = (self._plan, self._elements, p, q, None, tolerance_pu, steps_max, 1, kernels, False)
        _sweep.solve(*law, error, ratio, steps, u, i, None, None, start, 1 if alone else TOGETHER)
        return u.view(np.complex128)[:, :, 0], i.view(np.complex128)[:, :, 0], error <= tolerance_pu


STATES_A_THREAD: Final = 512
"""States one thread takes at a time; fewer are not worth a second thread."""


def _threads(states: int) -> int:
    return 1 if states <= STATES_A_THREAD else len(os.sched_getaffinity(0))


def _complex(pairs: NDArray[np.float64] | None) -> NDArray[np.complex128] | None:
    return None if pairs is None else pairs.view(np.complex128)[:, :, 0]


def _plan(tree: TreeModel) -> Any:
    assert _sweep is not None
    if "plan" not in tree.memo:
        tree.memo["plan"] = _sweep.Plan(**plan_arrays(tree))
    return tree.memo["plan"]


def plan_arrays(tree: TreeModel) -> dict[str, Any]:
    """The arguments of the compiled `Plan`, by name."""
    return {
        "nodes": tree.nodes.ravel(),
        "selects": tree.selects,
        "coefficients": tree.coefficients,
        "slots": tree.slots,
        "port_pos": tree.port_pos,
        "port_neg": tree.port_neg,
        "port_open": _pairs(tree.u_open_v),
        "port_z": _pairs(tree.port_z_ohm),
        "port_per_nominal": 1 / tree.u_nominal_v,
    }


def _pairs(values: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.stack([values.real, values.imag], axis=-1).ravel()


def _elements(tree: TreeModel, law: Law) -> Any:
    assert _sweep is not None
    kept = tree.memo.get("elements")
    if kept is None or kept[0] is not law:
        kept = tree.memo["elements"] = (law, _sweep.Elements(**element_arrays(law)))
    return kept[1]


def element_arrays(law: Law) -> dict[str, Any]:
    """The arguments of the compiled `Elements`, by name."""
    z, i, p = law.draw_zip
    return {
        "plain": law.plain,
        "draw_column": law.draw_columns,
        "draw_port": law.draw_ports,
        "draw_zip": np.stack([z / law.draw_nominal_v**2, i / law.draw_nominal_v, p], axis=-1).ravel(),
        "inverter_column": law.inverter_columns,
        "inverter_port": law.inverter_ports,
        "inverter_per_nominal": 1 / law.inverter_nominal_v,
        "inverter_s_max": np.minimum(law.inverter_s_max_va, 1e35),
        "p_curve": law.p_curves.ravel(),
        "q_curve": law.q_curves.ravel(),
        "damper_column": law.damper_columns,
        "damper_port": law.damper_ports.ravel(),
        "damper_g": law.damper_g_s,
        "damper_i_max": law.damper_i_max_a,
        "damper_zero": law.damper_zero.astype(np.uint8),
    }
