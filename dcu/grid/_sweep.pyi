"""
Compiled tree sweep; see dcu/grid/cpp/sweep.hpp. Use it through dcu.grid.sweep.
"""

from typing import Annotated

import numpy
from numpy.typing import NDArray

class Plan:
    """A reduced tree, see dcu.grid.tree.TreeModel."""

    def __init__(
        self,
        nodes: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        selects: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        coefficients: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        slots: int,
        port_pos: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        port_neg: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu", writable=False)],
        port_open: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        port_per_nominal: Annotated[
            NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
    ) -> None: ...

class Elements:
    """What draws power, see dcu.grid.injections.Law."""

    def __init__(
        self,
        plain: bool,
        draw_column: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        draw_port: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        draw_zip: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        inverter_column: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        inverter_port: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        inverter_per_nominal: Annotated[
            NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        inverter_s_max: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        p_curve: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        q_curve: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        damper_column: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        damper_port: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        damper_g: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        damper_i_max: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)],
        damper_zero: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)],
    ) -> None: ...

def available() -> list[str]:
    """Instruction sets this processor can run, best first."""

def solve(
    plan: Plan,
    elements: Elements,
    p_w: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order="C", device="cpu", writable=False)],
    q_var: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order="C", device="cpu", writable=False)],
    k_var: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order="C", device="cpu", writable=False)] | None,
    tolerance_pu: float,
    steps_max: int,
    threads: int,
    kernels: str,
    single: bool,
    error_pu: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu")],
    contraction: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu")],
    iterations: Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C", device="cpu")],
    u_v: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order="C", device="cpu")] | None,
    i_a: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order="C", device="cpu")] | None,
    u_min_pu: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu")] | None,
    u_max_pu: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu")] | None,
    start_v: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)] | None = None,
    together: int = 0,
) -> None:
    """
    Solve p_w, q_var, k_var (n_state, n_column), each from start_v (n_port * 2) or no load; write u_v and i_a (n_state, n_port, 2), u_min_pu, u_max_pu, error_pu, contraction and iterations (n_state).
    """
