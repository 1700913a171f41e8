"""The feeder of a street of cores: who hangs where, and the exact power flow at this instant."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.compiler import compile_network
from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections
from dcu.grid.port_model import PortModel
from hil_tests.day import customer_ports
from hil_tests.safety import Errors, with_wrong_impedances
from shared.errors import HeadroomError
from shared.ids import Phase

Reals = NDArray[np.float64]

FLOW_TOLERANCE_PU: Final = 1e-10


class StreetFlow:
    """Customers in the order of the network, and the present state.

    Attributes:
        u_v: voltage magnitudes at the ports (n) [V].
        i_a: magnitudes of the rated currents (k) [A].
        p_w, q_var: draws at the ports (n).
        solved: how many states were solved.
    """

    def __init__(self, feeder: Feeder, rated: NDArray[np.int64]) -> None:
        self.feeder, self._rated = feeder, rated
        network, model = feeder.network, feeder.model
        ports = customer_ports(network)
        self.customers = tuple(ports)
        self.ports = tuple(ports.values())
        self.buses = tuple(point.bus for point in network.connection_points)
        self.phases = tuple(tuple(Phase[model.port_labels[port]] for port in own) for own in self.ports)
        self.u_v, self.i_a = np.abs(model.u_open_v), np.zeros(len(rated))
        self.p_w, self.q_var = np.zeros(len(self.u_v)), np.zeros(len(self.u_v))
        self.solved = 0
        self._complex_v = model.u_open_v
        transformers = network.transformers
        busbar = transformers[0].secondary_bus if transformers else network.source.bus
        self.balancing_bus = busbar
        self._nodes = {name.conductor: k for k, name in enumerate(model.nodes) if name.bus == busbar}
        wanted = ("transformer", transformers[0].id, "secondary") if transformers else ("source", None, None)
        self._currents = {
            name.conductor: k
            for k, name in enumerate(model.currents)
            if name.kind == wanted[0] and (wanted[1] is None or (name.id, name.end) == wanted[1:])
        }

    def solve(self, p_w: Reals, q_var: Reals) -> bool:
        """The state with these draws; False if it is the one already known."""
        if self.solved and np.array_equal(p_w, self.p_w) and np.array_equal(q_var, self.q_var):
            return False
        found = solve(self.feeder, Injections(p_w[None, :], q_var[None, :]), tolerance_pu=FLOW_TOLERANCE_PU)
        if not found.converged.all():
            raise HeadroomError("street: a state has no power-flow solution; fewer or smaller plants")
        self.p_w, self.q_var = p_w.copy(), q_var.copy()
        self._complex_v = found["port_u_v"][0]
        self.u_v = np.abs(self._complex_v)
        if len(self._rated):
            model = self.feeder.model
            self.i_a = np.abs(model.current_open_a[self._rated] + model.current_h[self._rated] @ self._injected())
        self.solved += 1
        return True

    def decision_model(self, errors: Errors, seed: int) -> PortModel:
        """The compiled feeder the DCU decides with: every impedance off by up to the share of the class."""
        if not errors.model:
            return self.feeder.model
        random = np.random.default_rng([seed, 5])
        return compile_network(with_wrong_impedances(self.feeder.network, errors.model, random))

    def _injected(self) -> NDArray[np.complex128]:
        return np.asarray(-np.conj((self.p_w + 1j * self.q_var) / self._complex_v))

    @property
    def busbar_rows(self) -> list[int]:
        """Rows of the busbar's L1, L2, L3 among the model's nodes."""
        return [self._nodes[phase.name] for phase in Phase]

    def busbar(self) -> dict[Phase, tuple[float, complex]]:
        """Voltage to neutral [V] and power towards the feeder [VA] of each phase at the transformer."""
        model, injected = self.feeder.model, self._injected()

        def volts(conductor: str) -> complex:
            k = self._nodes[conductor]
            return complex(model.node_open_v[k] + model.node_h_ohm[k] @ injected)

        neutral = volts("N") if "N" in self._nodes else 0j
        found = {}
        for phase in Phase:
            if phase.name in self._nodes and phase.name in self._currents:
                u, k = volts(phase.name) - neutral, self._currents[phase.name]
                amps = complex(model.current_open_a[k] + model.current_h[k] @ injected)
                found[phase] = abs(u), u * amps.conjugate()
        return found
