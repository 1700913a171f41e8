"""The same feeder and states in other people's power flows. Each is optional: what is not installed is not measured."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcu.grid.network import PHASES, Network

Reals = NDArray[np.float64]


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


def _dss_text(network: Network) -> list[str]:
    """The network as OpenDSS commands: three-phase lines by their matrices, a Dyn1 transformer, single-phase loads."""
    source, t = network.source, network.transformers[0]
    u_kv = source.u_v[0] * 3**0.5 / 1e3
    z = source.z_ohm
    z1, z0 = z[0, 0] - z[0, 1], z[0, 0] + 2 * z[0, 1]
    high, low = t.coils[0].primary, t.coils[0].secondary
    x, r = 100 * t.z_pu[0, 0].imag, 100 * t.z_pu[0, 0].real
    kva = t.coil_s_va * 3e-3
    kv = f"({high.u_rated_v / 1e3} {low.u_rated_v * 3**0.5 / 1e3})"
    windings = f"windings=2 buses=({high.bus} {low.bus}) conns=(delta wye) kvs={kv} kvas=({kva} {kva})"
    lines = [
        "clear",
        f"new circuit.c bus1={source.bus} basekv={u_kv} pu=1 r1={z1.real} x1={z1.imag} r0={z0.real} x0={z0.imag}",
        f"new transformer.t {windings} xhl={x} %r={r / 2} ppm_antifloat=0",
    ]
    for b in network.branches:
        matrices = [
            " | ".join(" ".join(map(repr, row)) for row in part.tolist()) for part in (b.z_ohm.real, b.z_ohm.imag)
        ]
        lines.append(
            f"new line.{b.id} bus1={b.from_end.bus} bus2={b.to_end.bus} phases=3 length=1 "
            f"rmatrix=({matrices[0]}) xmatrix=({matrices[1]}) cmatrix=(0 | 0 0 | 0 0 0)"
        )
    for port in network.ports():
        node = 1 + PHASES.index(port.connection.pos)
        u = network.bus(port.bus).u_nominal_v / 1e3
        lines.append(
            f"new load.{port.name} bus1={port.bus}.{node} phases=1 kv={u} kw=1 kvar=1 model=1 vminpu=0.3 vmaxpu=2"
        )
    return [*lines, "set controlmode=off tolerance=1e-6 maxiterations=100"]


def opendss_rates(
    network: Network, p_w: Reals, q_var: Reals, exact_v: NDArray[np.complex128]
) -> list[tuple[str, float, float]]:
    """Name, states a second and error [pu] of OpenDSS: a Python loop that sets loads and solves, and its own
    time-series mode with one load shape a customer (which keeps no voltages but the last)."""
    from dss import DSS  # noqa: PLC0415 an optional peer

    ports = network.ports()
    base = np.array([network.bus(port.bus).u_nominal_v for port in ports])
    found = []
    looped = 200
    for name in ("opendss_loop", "opendss_time_series"):
        engine = DSS.NewContext()
        engine.AllowForms = False
        for line in _dss_text(network):
            engine.Text.Command = line
        circuit = engine.ActiveCircuit
        states = looped if name == "opendss_loop" else len(p_w)
        if name == "opendss_time_series":
            for k, port in enumerate(ports):
                rows = [" ".join(f"{v:.9g}" for v in column[:, k] / 1e3) for column in (p_w, q_var)]
                engine.Text.Command = (
                    f"new loadshape.s{k} npts={states} minterval=1 useactual=yes mult=({rows[0]}) qmult=({rows[1]})"
                )
                engine.Text.Command = f"edit load.{port.name} daily=s{k}"
            engine.Text.Command = f"set mode=daily stepsize=1m number={states}"
            started = time.perf_counter()
            engine.Text.Command = "solve"
        else:
            loads = circuit.Loads
            started = time.perf_counter()
            for state in range(states):
                for k, port in enumerate(ports):
                    loads.Name = port.name
                    loads.kW, loads.kvar = p_w[state, k] / 1e3, q_var[state, k] / 1e3
                circuit.Solution.Solve()
        seconds = time.perf_counter() - started
        u = np.empty(len(ports), dtype=complex)
        for k, port in enumerate(ports):
            circuit.SetActiveBus(port.bus)
            volts = np.asarray(circuit.ActiveBus.Voltages)
            volts = volts if np.iscomplexobj(volts) else volts[::2] + 1j * volts[1::2]
            u[k] = volts[list(circuit.ActiveBus.Nodes).index(1 + PHASES.index(port.connection.pos))]
        found.append((name, states / seconds, float(np.abs((u - exact_v[states - 1]) / base).max())))
    return found


def pandapower_rate(
    network: Network, p_w: Reals, q_var: Reals, exact_v: NDArray[np.complex128]
) -> list[tuple[str, float, float]]:
    """The same of pandapower's `runpp_3ph`, on the feeder with its chains merged."""
    import pandapower as pp  # noqa: PLC0415 an optional peer

    t, source = network.transformers[0], network.source
    net = pp.create_empty_network()
    place = {b.id: pp.create_bus(net, b.u_nominal_v * 3**0.5 / 1e3, name=b.id) for b in network.buses}
    z = source.z_ohm
    z1, z0 = z[0, 0] - z[0, 1], z[0, 0] + 2 * z[0, 1]
    u = network.bus(source.bus).u_nominal_v * 3**0.5
    pp.create_ext_grid(
        net,
        place[source.bus],
        vm_pu=source.u_v[0] * 3**0.5 / u,
        s_sc_max_mva=u**2 / abs(z1) / 1e6,
        rx_max=z1.real / z1.imag,
        x0x_max=z0.imag / z1.imag,
        r0x0_max=z0.real / z0.imag,
    )
    high, low = t.coils[0].primary, t.coils[0].secondary
    size, r = 100 * abs(t.z_pu[0, 0]), 100 * t.z_pu[0, 0].real
    pp.create_transformer_from_parameters(
        net,
        place[high.bus],
        place[low.bus],
        sn_mva=t.coil_s_va * 3e-6,
        vn_hv_kv=high.u_rated_v / 1e3,
        vn_lv_kv=low.u_rated_v * 3**0.5 / 1e3,
        vk_percent=size,
        vkr_percent=r,
        pfe_kw=0.0,
        i0_percent=0.0,
        shift_degree=30,
        vector_group="Dyn",
        vk0_percent=size,
        vkr0_percent=r,
        mag0_percent=1e6,
        mag0_rx=0,
        si0_hv_partial=0.9,
    )
    for b in network.branches:
        own, mutual = np.trace(b.z_ohm) / 3, (b.z_ohm.sum() - np.trace(b.z_ohm)) / 6
        pp.create_line_from_parameters(
            net,
            place[b.from_end.bus],
            place[b.to_end.bus],
            1.0,
            r_ohm_per_km=(own - mutual).real,
            x_ohm_per_km=(own - mutual).imag,
            c_nf_per_km=0.0,
            max_i_ka=1.0,
            r0_ohm_per_km=(own + 2 * mutual).real,
            x0_ohm_per_km=(own + 2 * mutual).imag,
            c0_nf_per_km=0.0,
        )
    ports = network.ports()
    letters = ["abc"[PHASES.index(port.connection.pos)] for port in ports]
    for port in ports:
        pp.create_asymmetric_load(net, place[port.bus])
    states, total, error = 4, 0.0, 0.0
    for state in range(1, states + 1):
        for k, letter in enumerate(letters):
            net.asymmetric_load.loc[k, [f"p_{letter}_mw", f"q_{letter}_mvar"]] = (
                p_w[state, k] / 1e6,
                q_var[state, k] / 1e6,
            )
        started = time.perf_counter()
        pp.runpp_3ph(net, tolerance_mva=1e-9, max_iteration=100)
        total += time.perf_counter() - started
        got = np.array([net.res_bus_3ph.at[place[p.bus], f"vm_{x}_pu"] for p, x in zip(ports, letters, strict=True)])
        base = np.array([network.bus(port.bus).u_nominal_v for port in ports])
        error = max(error, float(np.abs(got - np.abs(exact_v[state]) / base).max()))
    return [("pandapower_runpp_3ph, chains merged, magnitudes", states / total, error)]
