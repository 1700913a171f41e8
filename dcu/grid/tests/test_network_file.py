"""A network file is taken whole or refused whole, with every fault and its place; the schema published is the one in
use; what is written reads back the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dcu.grid.importers.case import import_case
from dcu.grid.network_file import json_schema, load_network, network_json, parse_network, read_json, save_network
from dcu.grid.tests.golden import CASES, MADE_UP
from shared.errors import ConfigError

SCHEMA = Path(__file__).parents[1] / "network.schema.json"


def _content(name: str = "four wires") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(network_json(MADE_UP[name]()))
    return found


def _faults(content: object, meters: frozenset[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_network("feeder.json", content, meters)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("name", [*MADE_UP, "eulv", "ieee13"])
def test_a_network_reads_back_the_same_and_fits_the_schema(name: str, tmp_path: Path) -> None:
    network = MADE_UP[name]() if name in MADE_UP else import_case(CASES / name / "feeder.json").network
    save_network(network, tmp_path / "feeder.json")
    again = load_network(tmp_path / "feeder.json")
    assert network_json(again) == network_json(network)
    jsonschema.validate(json.loads(network_json(network)), json_schema())
    assert not (tmp_path / "feeder.json.part").exists()


def test_the_published_schema_is_the_one_in_use() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema(), "headroom-grid schema > network.schema.json"


def _changed(path: str, value: object) -> dict[str, Any]:
    content = copy.deepcopy(_content())
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = content
    for step in way:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("format", "headroom-network/9", "format: seen 'headroom-network/9'"),
        ("branches.0.r_ohm", None, "branches.0.r_ohm: seen nothing"),
        ("branches.0.r_ohm", [[0.1, 0.0], [0.0, 0.1]], "expected a 4 x 4 matrix"),
        ("branches.0.r_ohm.1", [0.1], "seen 4 rows of [1, 4] values"),
        ("branches.0.r_ohm.0.0", -0.1, "branches[a].r_ohm, x_ohm: seen [0][0] = -0.1"),
        ("branches.0.r_ohm.0.1", 7.0, "expected a symmetric matrix"),
        ("branches.0.r_ohm.0.0", 1e9, "magnitude 1e-07 .. 10000 ohm"),
        ("branches.0.x_ohm.0.0", "3 ohm", "branches.0.x_ohm.0.0: seen '3 ohm'"),
        ("branches.0.rating_a", [200.0, -1.0, 200.0, 200.0], "rating_a: seen -1 A, expected above 0"),
        ("branches.0.rating_a", [200.0], "seen 1 values, expected 4"),
        ("branches.0.to_conductors", ["L1", "L2", "L3", "D"], "branches.0.to_conductors.3: seen 'D'"),
        ("branches.0.to_conductors", ["L1", "L2", "L2", "N"], "expected every conductor once"),
        ("branches.0.to_bus", "nowhere", "seen bus 'nowhere', expected a bus of this file"),
        ("branches.0.to_bus", "lv", "both ends at bus 'lv'"),
        ("branches.0.lenght", 3.0, "branches.0.lenght: seen an unknown key"),
        ("buses.1.u_nominal_v", 0.23, "u_nominal_v: seen 0.23 V, expected 20 .. 400000 V"),
        ("buses.1.u_nominal_v", 400.0, "phase to phase and phase to neutral?"),
        ("buses.2.id", "lv", "buses[lv]: seen this id 2 times"),
        ("transformers.0.coil_s_va", 0.0, "coil_s_va: seen 0 VA"),
        ("transformers.0.coils.0.secondary.u_rated_v", 11000.0, "expected near 230.94 V"),
        ("transformers.0.coils.0.primary.tap", 3.0, "tap: seen 3, expected 0.5 .. 1.5"),
        ("transformers.0.coils.0.primary.pos", "E", "pos: seen"),
        ("connection_points.0.connections.0.neg", "L3", None),
        ("connection_points.0.connections.0.neg", "L1", "both ends at L1"),
        ("connection_points.0.connections.0.zip", [0.5, 0.0, 0.0], "expected shares with sum 1"),
        ("connection_points.0.bus", "c", "conductor L1 of bus 'c'"),
        ("earthings.0.r_ohm", -1.0, "expected a resistance >= 0"),
        ("source.u_v", [1.0], "source.u_v: seen 1 values, expected 3"),
        ("source.bus", "gone", "source: seen bus 'gone'"),
    ],
)
def test_one_wrong_thing_is_one_clear_fault(path: str, value: object, fault: str | None) -> None:
    content = _changed(path, value)
    if fault is None:
        parse_network("feeder.json", content)
        return
    if path.endswith("primary.pos"):  # E is allowed for a coil's end; both ends there are not
        content["transformers"][0]["coils"][0]["primary"]["neg"] = "E"
        fault = "both ends at E"
    if path == "connection_points.0.bus":
        content["buses"][[b["id"] for b in content["buses"]].index("c")]["conductors"] = ["L2", "N"]
        content["branches"][2]["to_conductors"] = ["L2", "N"]
    assert any(fault in seen for seen in _faults(content)), _faults(content)


def test_all_faults_are_told_at_once() -> None:
    content = _content()
    content["branches"][0]["r_ohm"][0][0] = -1.0
    content["branches"][1]["to_bus"] = "gone"
    content["connection_points"][0]["id"] = content["connection_points"][1]["id"]
    content["buses"][0]["u_nominal_v"] = 1.0
    text = "\n".join(_faults(content))
    for part in ("[0][0] = -1", "'gone'", "2 times", "1 V"):
        assert part in text


def test_an_island_a_loose_conductor_and_a_forbidden_loop_are_faults() -> None:
    content = _content()
    del content["branches"][0]
    assert any("an island" in fault for fault in _faults(content))
    content = _content()
    content["branches"][0] |= {
        "from_conductors": ["L1", "L2", "L3"],
        "to_conductors": ["L1", "L2", "L3"],
        "rating_a": [1.0] * 3,
    }
    for key in ("r_ohm", "x_ohm"):
        content["branches"][0][key] = [row[:3] for row in content["branches"][0][key][:3]]
    assert any("conductor N joined to nothing" in fault for fault in _faults(content))
    meshed = _content("meshed")
    parse_network("feeder.json", meshed)
    assert any("a loop" in fault for fault in _faults(meshed | {"radial": True}))


def test_an_unknown_meter_is_a_fault() -> None:
    content = _content()
    content["connection_points"][0]["meter"] = "meter-9"
    parse_network("feeder.json", content)
    assert _faults(content, frozenset({"meter-1"})) == [
        "connection_points[p1].meter: seen meter 'meter-9', expected a meter that exists"
    ]
    content["connection_points"][1]["meter"] = "meter-9"
    assert any("at 2 points" in fault for fault in _faults(content))


def test_a_million_buses_are_refused_at_once() -> None:
    assert _faults({"buses": [{}] * 1_000_000}) == ["buses: seen 1000000 buses, expected at most 100000"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "line 1 column 1"),
        (b"{", "expected valid JSON"),
        (b"[1, 2]", "expected a valid dictionary"),
        (b'{"format": 1, "format": 2}', "'format' twice"),
        (b'{"name": NaN}', "number NaN"),
        (b"\xff\xfe{}", "no UTF-8"),
        (b"[" * 100_000, "nesting"),
    ],
)
def test_a_file_that_is_no_network_is_refused_with_the_place(tmp_path: Path, text: bytes, fault: str) -> None:
    path = tmp_path / "feeder.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=fault):
        parse_network(str(path), read_json(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match="expected a readable JSON file"):
            load_network(path)
