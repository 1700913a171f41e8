"""A power-grid-model data set must come out as the network that program solves: its Newton solution is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcu.grid.feeder import Feeder, solve
from dcu.grid.importers.power_grid_model import import_power_grid_model
from dcu.grid.injections import base_injections
from shared.errors import ConfigError

pgm = pytest.importorskip("power_grid_model", reason="needs the extra headroom[powergridmodel]")
pytest.importorskip("power_grid_model.utils", reason="needs the extra headroom[powergridmodel]")


def _net(**changes: Any) -> dict[str, Any]:
    line = {"from_status": 1, "to_status": 1, "r1": 0.06, "x1": 0.02, "c1": 1e-7, "tan1": 0.01, "i_n": 200.0}
    line |= {"r0": 0.2, "x0": 0.06, "c0": 5e-8, "tan0": 0.0}
    transformer = {
        "id": 20,
        "from_node": 1,
        "to_node": 2,
        "from_status": 1,
        "to_status": 1,
        "u1": 10.5e3,
        "u2": 420.0,
        "sn": 400e3,
        "uk": 0.04,
        "pk": 4.6e3,
        "i0": 0.005,
        "p0": 600.0,
        "winding_from": 2,
        "winding_to": 1,
        "clock": 5,
        "tap_side": 0,
        "tap_pos": 2,
        "tap_min": -4,
        "tap_max": 4,
        "tap_nom": 0,
        "tap_size": 250.0,
    }
    data: dict[str, Any] = {
        "node": [{"id": k, "u_rated": 10e3 if k == 1 else 400.0} for k in (1, 2, 3, 4, 5)],
        "line": [{"id": 10, "from_node": 2, "to_node": 3} | line, {"id": 11, "from_node": 3, "to_node": 4} | line],
        "link": [{"id": 15, "from_node": 4, "to_node": 5, "from_status": 1, "to_status": 1}],
        "transformer": [transformer | changes.pop("transformer", {})],
        "source": [
            {
                "id": 30,
                "node": 1,
                "status": 1,
                "u_ref": 1.02,
                "u_ref_angle": 0.3,
                "sk": 1e8,
                "rx_ratio": 0.2,
                "z01_ratio": 1.5,
            }
        ],
        "shunt": [{"id": 40, "node": 3, "status": 1, "g1": 1e-3, "b1": 0.02, "g0": 0.0, "b0": 0.01}],
        "sym_load": [{"id": 50, "node": 4, "status": 1, "type": 0, "p_specified": 12e3, "q_specified": 4e3}],
        "asym_load": [
            {
                "id": 51,
                "node": 5,
                "status": 1,
                "type": 1,
                "p_specified": [6e3, 1e3, 0.0],
                "q_specified": [1e3, 0.0, 0.0],
            },
            {
                "id": 52,
                "node": 3,
                "status": 1,
                "type": 2,
                "p_specified": [0.0, 9e3, 2e3],
                "q_specified": [0.0, 2e3, 1e3],
            },
        ],
        "asym_gen": [
            {
                "id": 53,
                "node": 4,
                "status": 1,
                "type": 0,
                "p_specified": [0.0, 0.0, 7e3],
                "q_specified": [0.0, 0.0, 0.0],
            }
        ],
    }
    return {"version": "1.0", "type": "input", "is_batch": False, "attributes": {}, "data": data | changes}


def _write(folder: Path, content: object) -> Path:
    path = folder / "input.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "transformer",
    [
        {},
        {"winding_from": 1, "winding_to": 1, "clock": 0},
        {"winding_from": 1, "winding_to": 1, "clock": 6},
        {"winding_from": 2, "winding_to": 1, "clock": 11, "tap_side": 1, "tap_size": 10.0, "tap_pos": -2},
        {"tap_pos": 9},
        {"uk_min": 0.05, "uk_max": 0.03, "pk_min": 5e3, "pk_max": 4e3},
        {"uk_min": 0.05, "uk_max": 0.03, "pk_min": 5e3, "pk_max": 4e3, "tap_min": 4, "tap_max": -4},
    ],
    ids=[
        "Dyn5",
        "YNyn0",
        "YNyn6",
        "Dyn11, tap on the low side",
        "tap beyond its range",
        "uk of the tap",
        "reversed taps",
    ],
)
def test_the_imported_network_has_its_voltages(tmp_path: Path, transformer: dict[str, Any]) -> None:
    _judge(_write(tmp_path, _net(transformer=transformer)))


@pytest.mark.parametrize(
    ("winding_from", "winding_to", "clock"), [(0, 1, 0), (1, 2, 1), (0, 2, 11), (2, 2, 4), (2, 0, 5)]
)
def test_windings_without_earth_have_its_voltages(
    tmp_path: Path, winding_from: int, winding_to: int, clock: int
) -> None:
    content = _net(transformer={"winding_from": winding_from, "winding_to": winding_to, "clock": clock})
    del content["data"]["asym_load"], content["data"]["asym_gen"]  # balanced, since nothing holds the star point
    # Its asymmetric solution is singular without an earth, its symmetric one is the same for a balanced net.
    _judge(_write(tmp_path, content), symmetric=True)


def test_a_line_open_at_one_end_keeps_its_capacitance(tmp_path: Path) -> None:
    content = _net()
    line = content["data"]["line"][0] | {"id": 99, "from_node": 2, "to_node": 4, "to_status": 0, "c1": 1e-5, "c0": 1e-5}
    content["data"]["line"].append(line)
    _judge(_write(tmp_path, content))


def test_the_compact_form_gives_the_same_network(tmp_path: Path) -> None:
    content = _net()
    content["attributes"] = {"node": ["id", "u_rated"]}
    content["data"]["node"] = [[node["id"], node["u_rated"]] for node in content["data"]["node"]]
    _judge(_write(tmp_path, content))


def _judge(path: Path, *, symmetric: bool = False) -> None:
    """Its Newton solution is the judge."""
    data = pgm.utils.json_deserialize_from_file(path)
    wanted = pgm.PowerGridModel(data).calculate_power_flow(symmetric=symmetric, error_tolerance=1e-7)["node"]
    feeder = Feeder(import_power_grid_model(path).network)
    result = solve(feeder, base_injections(feeder.model), results=("bus_u_v",))
    for node, u, base in zip(feeder.model.nodes, result["bus_u_v"][0], feeder.model.node_nominal_v, strict=True):
        if node.conductor == "N":
            continue  # an unearthed star point, which the other program has no node for
        k = ("L1", "L2", "L3").index(node.conductor)
        row = wanted[wanted["id"] == int(node.bus)][0]
        size, angle = np.atleast_1d(row["u_pu"]), np.atleast_1d(row["u_angle"])
        if symmetric:
            size, angle = np.repeat(size, 3), angle - np.deg2rad([0.0, 120.0, -120.0])
        assert abs(u / base - size[k] * np.exp(1j * angle[k])) < 1e-6, node


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ({"version": "1.0"}, "file"),
        (_net() | {"type": "update"}, "no input nodes"),
        (_net(transformer={"sn": 0.0}), "transformer 20 sn: seen 0"),
        (
            _net(transformer_tap_regulator=[{"id": 90, "regulated_object": 20, "status": 1}]),
            "regulator: seen 1 elements",
        ),
        (_net(three_winding_transformer=[{"id": 92, "node_1": 1}]), "three_winding_transformer: seen 1 elements"),
        (_net(sym_load=[{"id": 50, "node": 77, "status": 1, "type": 0}]), "sym_load 50 node: seen 77"),
        (_net(sym_load=[{"id": 50, "node": 4, "status": 1, "type": 7}]), "sym_load 50 type: seen 7"),
        (_net(sym_load=[{"id": 50, "node": 4, "status": 1, "type": 0}]), "p_specified, q_specified: seen nothing"),
        ([1, 2], "file"),
        (_net(source=[]), "0 in service"),
        (_net(transformer={"winding_to": 3}), "zigzag"),
        (_net(transformer={"clock": 4}), "clock"),
    ],
)
def test_what_cannot_be_held_is_refused(tmp_path: Path, content: object, seen: str) -> None:
    with pytest.raises(ConfigError, match=seen):
        import_power_grid_model(_write(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a power-grid-model input file"):
        import_power_grid_model(tmp_path / "none.json")
