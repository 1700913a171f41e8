"""A pandapower net must come out as the network pandapower solves, unbalanced and balanced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcu.grid.feeder import Feeder, solve
from dcu.grid.importers.pandapower import import_pandapower
from dcu.grid.injections import base_injections
from shared.errors import ConfigError

pp = pytest.importorskip("pandapower", reason="needs the extra headroom[pandapower]")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")


def _net(*, zero_sequence: bool, **changes: Any) -> Any:
    """A street behind a transformer; `changes` are cells of the transformer's row."""
    trafo = {"tap_side": "hv", "mag0_percent": 1e6, "vector_group": "Dyn", "shift_degree": 150} | changes
    trafo = {"vk0_percent": 4.0, "pfe_kw": 0.0, "i0_percent": 0.0, "tap_changer_type": "Ratio"} | trafo
    net = pp.create_empty_network(name="street")
    hv = pp.create_bus(net, 10.0, geodata=(0.0, 0.0))
    lv = [pp.create_bus(net, 0.4, geodata=(k + 1.0, 0.0)) for k in range(4)]
    pp.create_ext_grid(net, hv, vm_pu=1.02, s_sc_max_mva=1e7, rx_max=0.1, x0x_max=1.0, r0x0_max=0.1)
    pp.create_transformer_from_parameters(
        net,
        hv,
        lv[0],
        sn_mva=0.4,
        vn_hv_kv=10.0,
        vn_lv_kv=0.4,
        vk_percent=4.0,
        vkr_percent=1.2,
        vkr0_percent=1.2,
        mag0_rx=0,
        si0_hv_partial=0.9,
        tap_neutral=0,
        tap_pos=-1,
        tap_step_percent=2.5,
        **trafo,
    )
    zero = {"r0_ohm_per_km": 1.2, "x0_ohm_per_km": 0.3, "c0_nf_per_km": 200.0} if zero_sequence else {}
    for a, b in ((0, 1), (1, 2)):
        pp.create_line_from_parameters(
            net, lv[a], lv[b], 0.2, r_ohm_per_km=0.32, x_ohm_per_km=0.08, c_nf_per_km=300.0, max_i_ka=0.24, **zero
        )
    pp.create_switch(net, lv[2], lv[3], et="b", closed=True)
    return net


def _save(net: Any, folder: Path) -> Path:
    path = folder / "net.json"
    pp.to_json(net, str(path))
    return path


def _solved(path: Path) -> dict[tuple[str, str], complex]:
    feeder = Feeder(import_pandapower(path).network)
    u = solve(feeder, base_injections(feeder.model), results=("bus_u_v",))["bus_u_v"][0]
    pairs = zip(feeder.model.nodes, u, feeder.model.node_nominal_v, strict=True)
    return {(n.bus, n.conductor): x / base for n, x, base in pairs}


def _judge(net: Any, folder: Path) -> None:
    """The balanced power flow of pandapower is the judge, in magnitude and angle."""
    found = _solved(_save(net, folder))
    pp.runpp(net, tolerance_mva=1e-10, calculate_voltage_angles=True)
    for i, row in net.res_bus.dropna().iterrows():
        wanted = row["vm_pu"] * np.exp(1j * np.deg2rad(row["va_degree"]))
        assert abs(found[f"bus {i}", "L1"] - wanted) < 1e-5, i


@pytest.mark.parametrize(
    ("trafo", "kind"),
    [
        ({}, "wye"),
        ({}, "delta"),
        ({"vk0_percent": 3.0, "tap_side": "lv"}, "wye"),
        ({"mag0_percent": 100.0}, "wye"),
        ({"vector_group": "YNyn", "shift_degree": 0, "mag0_percent": 100.0}, "wye"),
    ],
    ids=["Dyn5", "delta load", "another vk0, tap on the low side", "a low mag0", "YNyn0"],
)
def test_an_unbalanced_net_has_its_voltages(tmp_path: Path, trafo: dict[str, Any], kind: str) -> None:
    net = _net(zero_sequence=True, **trafo)
    pp.create_asymmetric_load(net, 3, p_a_mw=0.012, p_b_mw=0.004, p_c_mw=0.001, q_a_mvar=0.003, type=kind)
    pp.create_asymmetric_sgen(net, 2, p_b_mw=0.006)
    pp.create_load(net, 4, p_mw=0.009, q_mvar=0.003)
    path = _save(net, tmp_path)
    pp.runpp_3ph(net, tolerance_mva=1e-10, calculate_voltage_angles=True)
    found = _solved(path)
    for i, row in net.res_bus_3ph.iterrows():
        for phase, key in (("L1", "a"), ("L2", "b"), ("L3", "c")):
            assert abs(abs(found[f"bus {i}", phase]) - row[f"vm_{key}_pu"]) < 1e-5, (i, phase)


def test_a_balanced_net_without_zero_sequence_data_has_its_voltages(tmp_path: Path) -> None:
    net = _net(zero_sequence=False)
    pp.create_load(net, 3, p_mw=0.03, q_mvar=0.01, const_z_p_percent=20, const_z_q_percent=20)
    pp.create_sgen(net, 2, p_mw=0.01)
    path = _save(net, tmp_path)
    pp.runpp(net, tolerance_mva=1e-10, calculate_voltage_angles=True)
    found = _solved(path)
    for i, row in net.res_bus.iterrows():
        wanted = row["vm_pu"] * np.exp(1j * np.deg2rad(row["va_degree"]))
        assert abs(found[f"bus {i}", "L1"] - wanted) < 1e-5, i
    assert any("zero-sequence" in line for line in import_pandapower(path).account.approximated)


@pytest.mark.parametrize(
    "trafo",
    [
        {"tap_side": "lv", "pfe_kw": 0.6, "i0_percent": 1.0},
        {"vector_group": "Yyn", "shift_degree": 0},
        {"vector_group": "Yd", "shift_degree": 30},
        {"tap_changer_type": None},
    ],
    ids=["no-load branch beside a tap", "Yyn0", "Yd1", "a tap changer of no type"],
)
def test_a_balanced_net_has_its_voltages_and_angles(tmp_path: Path, trafo: dict[str, Any]) -> None:
    net = _net(zero_sequence=False, **trafo)
    pp.create_load(net, 3, p_mw=0.03, q_mvar=0.01)
    _judge(net, tmp_path)


def test_a_switch_with_an_impedance_drops_voltage(tmp_path: Path) -> None:
    net = _net(zero_sequence=False)
    net.switch["z_ohm"] = 0.05
    pp.create_load(net, 4, p_mw=0.02)
    _judge(net, tmp_path)


def test_a_line_open_at_one_end_keeps_its_capacitance(tmp_path: Path) -> None:
    net = _net(zero_sequence=False)
    pp.create_line_from_parameters(net, 1, 4, 0.1, r_ohm_per_km=0.3, x_ohm_per_km=0.08, c_nf_per_km=3e5, max_i_ka=0.2)
    pp.create_switch(net, 4, 2, et="l", closed=False)
    pp.create_load(net, 3, p_mw=0.03)
    _judge(net, tmp_path)


def test_what_is_at_a_dead_bus_is_left_out(tmp_path: Path) -> None:
    net = _net(zero_sequence=False)
    dead = pp.create_bus(net, 0.4, in_service=False)
    pp.create_load(net, dead, p_mw=0.1)
    pp.create_load(net, 3, p_mw=0.03)
    assert "load 0: at a bus out of service" in import_pandapower(_save(net, tmp_path)).account.left_out
    _judge(net, tmp_path)


def test_an_unearthed_star_carries_no_current_to_earth(tmp_path: Path) -> None:
    network = import_pandapower(_save(_net(zero_sequence=True, vector_group="Yd", shift_degree=30), tmp_path)).network
    assert {coil.primary.neg for coil in network.transformers[0].coils} == {"N"}


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("line", "parallel", 0, "line 0 parallel: seen 0"),
        ("line", "length_km", float("nan"), "line 0 length_km: seen nan"),
        ("trafo", "sn_mva", 0.0, "trafo 0 sn_mva: seen 0"),
        ("trafo", "vector_group", "Yzn", "trafo 0 vector_group: seen 'Yzn'"),
        ("trafo", "tap_step_degree", 3.0, "trafo 0 tap: seen a phase shifter"),
        ("load", "bus", 77, "load 0 bus: seen 77"),
        ("load", "scaling", float("nan"), "load 0 scaling: seen nan"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named(
    tmp_path: Path, table: str, column: str, value: object, message: str
) -> None:
    net = _net(zero_sequence=True)
    pp.create_load(net, 3, p_mw=0.03)
    net[table][column] = value
    with pytest.raises(ConfigError, match=message):
        import_pandapower(_save(net, tmp_path))


def test_a_line_switched_off_is_left_out_and_its_island_refused(tmp_path: Path) -> None:
    net = _net(zero_sequence=True)
    pp.create_switch(net, 1, 0, et="l", closed=False)
    with pytest.raises(ConfigError, match="island"):
        import_pandapower(_save(net, tmp_path))


def test_a_generator_is_refused(tmp_path: Path) -> None:
    net = _net(zero_sequence=True)
    pp.create_gen(net, 3, p_mw=0.01)
    with pytest.raises(ConfigError, match="gen: seen 1 in service"):
        import_pandapower(_save(net, tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"_class": "other"}'])
def test_a_file_that_is_no_net_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "net.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"net\.json"):
        import_pandapower(path)
