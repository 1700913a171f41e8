"""The same feeder and states in other people's power flows. Each is optional: what is not installed is not measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcu.grid.network import PHASES, Network


class PowerGridModel:
    """power-grid-model, asymmetric batch calculation; lines by their sequence impedances (its form, exact for
    symmetrical lines), loads single-phase as asymmetric ones."""

    def __init__(self, network: Network) -> None:
        import power_grid_model as pgm  # noqa: PLC0415 an optional peer

        self.pgm = pgm
        assert not network.shunts
        assert not network.switches
        assert all(b.y_s is None for b in network.branches)
        number = {bus.id: k for k, bus in enumerate(network.buses)}
        node = pgm.initialize_array("input", "node", len(number))
        node["id"] = range(len(number))
        node["u_rated"] = [bus.u_nominal_v * 3**0.5 for bus in network.buses]
        line = pgm.initialize_array("input", "line", len(network.branches))
        line["id"] = np.arange(len(line)) + 10**6
        line["from_node"] = [number[b.from_end.bus] for b in network.branches]
        line["to_node"] = [number[b.to_end.bus] for b in network.branches]
        line["from_status"] = line["to_status"] = 1
        own = np.array([np.trace(b.z_ohm) / 3 for b in network.branches])
        mutual = np.array([(b.z_ohm.sum() - np.trace(b.z_ohm)) / 6 for b in network.branches])
        line["r1"], line["x1"] = (own - mutual).real, (own - mutual).imag
        line["r0"], line["x0"] = (own + 2 * mutual).real, (own + 2 * mutual).imag
        line["c1"] = line["c0"] = 0.0
        line["tan1"] = line["tan0"] = 0.0
        line["i_n"] = 1e3
        t = network.transformers[0]
        trafo = pgm.initialize_array("input", "transformer", 1)
        z = complex(t.z_pu[0, 0])
        high, low = t.coils[0].primary, t.coils[0].secondary
        values: dict[str, Any] = {
            "id": 2 * 10**6,
            "from_node": number[high.bus],
            "to_node": number[low.bus],
            "from_status": 1,
            "to_status": 1,
            "u1": high.u_rated_v,
            "u2": low.u_rated_v * 3**0.5,
            "sn": t.coil_s_va * 3,
            "uk": abs(z),
            "pk": z.real * t.coil_s_va * 3,
            "i0": 0.0,
            "p0": 0.0,
            "winding_from": 2,
            "winding_to": 1,
            "clock": int("".join(c for c in t.vector_group if c.isdigit())),
            "tap_side": 0,
            "tap_pos": 0,
            "tap_min": 0,
            "tap_max": 0,
            "tap_size": 0.0,
        }
        for key, value in values.items():
            trafo[key] = value
        source = pgm.initialize_array("input", "source", 1)
        zs = network.source.z_ohm
        z1, z0 = zs[0, 0] - zs[0, 1], zs[0, 0] + 2 * zs[0, 1]
        u_rated = network.bus(network.source.bus).u_nominal_v * 3**0.5
        source["id"], source["node"], source["status"] = 3 * 10**6, number[network.source.bus], 1
        source["u_ref"] = network.source.u_v[0] * 3**0.5 / u_rated
        source["u_ref_angle"] = np.deg2rad(network.source.angle_deg[0])
        source["sk"], source["rx_ratio"] = u_rated**2 / abs(z1), z1.real / z1.imag
        source["z01_ratio"] = abs(z0) / abs(z1)
        ports = network.ports()
        load = pgm.initialize_array("input", "asym_load", len(ports))
        self.load_ids = np.arange(len(ports)) + 4 * 10**6
        load["id"], load["status"], load["type"] = self.load_ids, 1, pgm.LoadGenType.const_power
        load["node"] = [number[p.bus] for p in ports]
        load["p_specified"] = load["q_specified"] = 0.0
        self.phase = np.array([PHASES.index(p.connection.pos) for p in ports])
        self.node_of_port = np.array([number[p.bus] for p in ports])
        self.input = {"node": node, "line": line, "transformer": trafo, "source": source, "asym_load": load}
        self.model = pgm.PowerGridModel(self.input)

    def update(self, p_w: NDArray[np.float64], q_var: NDArray[np.float64]) -> dict[str, Any]:
        """The batch in its own form (made outside the timing)."""
        states, ports = p_w.shape
        update = self.pgm.initialize_array("update", "asym_load", (states, ports))
        update["id"] = self.load_ids
        p, q = np.zeros((states, ports, 3)), np.zeros((states, ports, 3))
        p[:, range(ports), self.phase], q[:, range(ports), self.phase] = p_w, q_var
        update["p_specified"], update["q_specified"] = p, q
        return {"asym_load": update}

    def solve(self, update: dict[str, Any], method: str, tolerance_pu: float) -> Any:
        """Run it on one thread; node voltages only."""
        return self.model.calculate_power_flow(
            symmetric=False,
            error_tolerance=tolerance_pu,
            max_iterations=100,
            calculation_method=getattr(self.pgm.CalculationMethod, method),
            update_data=update,
            threading=-1,
            output_component_types={"node": ["u_pu", "u_angle"]},
        )

    def port_u_pu(self, result: Any) -> NDArray[np.complex128]:
        """Complex port voltages [pu of the bus] (n_state, n_port)."""
        node = result["node"]
        u = node["u_pu"] * np.exp(1j * node["u_angle"])
        found: NDArray[np.complex128] = u[:, self.node_of_port, self.phase]
        return found
