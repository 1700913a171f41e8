"""What a power flow gives: a status for each state, and the values that were asked for by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, Fault


class Status(IntEnum):
    """How a state ended."""

    CONVERGED = 0
    NO_SOLUTION = 1
    """Neither the fixed point nor Newton's method found a solution; beyond the nose there is none. The sweep does not
    try Newton above 1,500 ports."""


RESULTS: Final = {
    "port_u_v": "voltage across each port, complex [V] (n_state, n_port)",
    "port_u_magnitude_v": "its magnitude [V] (n_state, n_port)",
    "port_i_a": "current injected at each port, complex [A] (n_state, n_port)",
    "u_min_pu": "lowest port voltage [share of nominal] (n_state)",
    "u_max_pu": "highest port voltage [share of nominal] (n_state)",
    "bus_u_v": "voltage of each observed node to earth, complex [V] (n_state, n_node)",
    "vuf": "voltage unbalance |U2|/|U1| of each three-phase bus, phase to neutral where there is one (n_state, n_bus)",
    "current_a": "currents of branches, transformers and source, complex [A] (n_state, n_current)",
    "source_s_va": "power out of the source's terminals, complex [VA] (n_state)",
    "loss_w": "losses between source terminals and ports [W] (n_state)",
    "cut_off": "whether an inverter's over-voltage protection disconnected it (n_state, n_element)",
}


@dataclass(frozen=True, slots=True, eq=False)
class FlowResult:
    """A batch's result. States that did not converge hold NaN, never a number; see `status`."""

    engine: str
    status: NDArray[np.int8]
    contraction: NDArray[np.float64]
    """(n_state) last ratio of two steps; near 1 close to the nose."""
    iterations: NDArray[np.int32]
    error_pu: NDArray[np.float64]
    """(n_state) estimated error of the port voltages [share of nominal]."""
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def converged(self) -> NDArray[np.bool_]:
        """(n_state)"""
        return np.asarray(self.status == Status.CONVERGED)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A value that was asked for.

        Raises:
            KeyError: it was not.
        """
        return self.values[name]


def check_names(names: tuple[str, ...]) -> None:
    """Refuse a result that does not exist."""
    unknown = [name for name in names if name not in RESULTS]
    if unknown:
        raise ConfigError("solve", [Fault("results", repr(n), ", ".join(RESULTS)) for n in unknown])
