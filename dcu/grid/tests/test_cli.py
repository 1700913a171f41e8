"""`headroom-grid` from file to file, and every wrong input as one clear line and exit code 2, nothing half-written."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from dcu.grid.cli import main
from dcu.grid.network_file import save_network
from dcu.grid.tests.golden import CASES, MADE_UP, feeder, golden


@pytest.fixture
def eulv(tmp_path: Path) -> Path:
    path = tmp_path / "eulv.json"
    assert main(["import", "case", str(CASES / "eulv" / "feeder.json"), "-o", str(path)]) == 0
    return path


def test_a_case_goes_from_its_file_to_a_solution(
    eulv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.json"
    assert main(["import", "case", str(CASES / "eulv" / "feeder.json"), "-o", str(again)]) == 0
    assert "taken: 1 source, 907 buses, 905 lines" in capsys.readouterr().out
    assert again.read_bytes() == eulv.read_bytes()
    assert main(["check", str(eulv)]) == 0
    assert "good" in capsys.readouterr().out
    model = tmp_path / "eulv.npz"
    assert main(["compile", str(eulv), "-o", str(model)]) == 0
    loads = str(CASES / "eulv" / "minute566_loads.csv")
    wanted = golden("eulv", "minute566")
    for file, engine in ((eulv, "sweep"), (eulv, "port"), (eulv, "helm"), (model, "auto")):
        capsys.readouterr()
        assert main(["solve", str(file), "--loads", loads, "--engine", engine, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["status"] == "converged"
        for row in found["voltages"]:
            base = feeder("eulv").network.bus(row["bus"]).u_nominal_v
            u = complex(row["re_v"], row["im_v"]) / base
            assert abs(u - wanted.u_pu[row["bus"], row["conductor"]]) < 1e-8
        assert found["loss_w"] == pytest.approx(2050.19825, rel=1e-6)
        assert len(found["currents"]) == 3 * 905 + 3 + 3 + 3
        if file == eulv:  # a compiled model no longer knows its branches
            assert sum(row["loss_w"] for row in found["losses"]) == pytest.approx(2050.19825, rel=1e-6)


def test_a_solution_is_a_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.json"
    save_network(MADE_UP["four wires"](), path)
    assert main(["solve", str(path)]) == 0
    text = capsys.readouterr().out
    assert "losses" in text
    assert "transformer t" in text
    assert "of rating" in text


def test_info_draws_the_feeder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, svg = tmp_path / "f.json", tmp_path / "f.svg"
    save_network(MADE_UP["four wires"](), path)
    assert main(["info", str(path), "--svg", str(svg), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["customers"] == 4
    drawing = ET.parse(svg).getroot()
    dots = [
        e
        for e in drawing.iter("{http://www.w3.org/2000/svg}circle")
        if e.find("{http://www.w3.org/2000/svg}title") is not None
    ]
    assert len(dots) == 4


def test_no_solution_is_exit_code_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, loads = tmp_path / "f.json", tmp_path / "loads.csv"
    save_network(MADE_UP["four wires"](), path)
    loads.write_text("port,p_w,q_var\np1,1e7,0\n", encoding="utf-8")
    assert main(["solve", str(path), "--loads", str(loads), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "no solution"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("port,p_w\np1,1\n", "line 1: seen port, p_w"),
        ("port,p_w,q_var\nnobody,1,1\n", "line 2: seen port 'nobody'"),
        ("port,p_w,q_var\np1,3 kW,1\n", "line 2 p_w: seen '3 kW'"),
        ("port,p_w,q_var\np1,nan,1\n", "line 2 p_w: seen 'nan'"),
        ("port,p_w,q_var\np1,1,1\np1,1,1\n", "line 3: seen port 'p1' again"),
        ("", "line 1: seen nothing"),
        ("port,p_w,q_var\np1,6000,5,100\n", "decimals have a point"),
        ("port,p_w,q_var\np1,1_000,5\n", "line 2 p_w: seen '1_000'"),
        ("port;p_w;q_var\np1;1;2\n", "separated by commas"),
    ],
)
def test_wrong_loads_are_named_with_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, fault: str
) -> None:
    path, loads = tmp_path / "f.json", tmp_path / "loads.csv"
    save_network(MADE_UP["four wires"](), path)
    loads.write_text(text, encoding="utf-8")
    assert main(["solve", str(path), "--loads", str(loads)]) == 2
    assert fault in capsys.readouterr().err


def test_meters_of_a_configuration_and_of_the_network_must_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = tmp_path / "f.json", tmp_path / "dcu.toml"
    save_network(MADE_UP["four wires"](), path)
    content = json.loads(path.read_text())
    content["connection_points"][0]["meter"] = "m1"
    path.write_text(json.dumps(content))
    config.write_text('[[meters]]\nid = "m1"\nbus = "b"\n[[meters]]\nid = "m2"\nbus = "c"\n')
    assert main(["check", str(path), "--meters", str(config)]) == 2
    assert "'m2': seen at no connection point" in capsys.readouterr().err
    config.write_text('[[meters]]\nid = "m1"\nbus = "c"\n')
    assert main(["check", str(path), "--meters", str(config)]) == 2
    assert "bus 'c', but 'b' in the network" in capsys.readouterr().err
    config.write_text('[[meters]]\nid = "m1"\nbus = "b"\n')
    assert main(["check", str(path), "--meters", str(config)]) == 0


def test_bad_files_end_with_one_line_each_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{", encoding="utf-8")
    out = tmp_path / "out.npz"
    for arguments in (
        ["check", str(bad)],
        ["check", str(tmp_path / "none.json")],
        ["check", str(tmp_path)],
        ["compile", str(bad), "-o", str(out)],
        ["info", str(bad)],
        ["solve", str(bad)],
        ["solve", str(tmp_path / "none.npz")],
        ["import", "case", str(bad), "-o", str(out)],
        ["import", "tables", str(tmp_path / "none"), "-o", str(out)],
    ):
        assert main(arguments) == 2, arguments
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        assert "expected" in errors
    assert not out.exists()
    assert not list(tmp_path.glob("*.part"))


def test_a_result_never_takes_the_place_of_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.json"
    save_network(MADE_UP["four wires"](), path)
    before = path.read_bytes()
    for arguments in (
        ["compile", str(path), "-o", str(path)],
        ["info", str(path), "--svg", str(path)],
        ["compile", str(path), "-o", str(tmp_path / "model.bin")],
        ["compile", str(path), "-o", str(tmp_path / "none" / "m.npz")],
        ["info", str(path), "--svg", str(tmp_path)],
    ):
        assert main(arguments) == 2
        assert "expected" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_what_a_case_file_holds_beside_the_known_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((CASES / "ieee13" / "feeder.json").read_text(encoding="utf-8"))
    content["earthings"] = [{"bus": "671"}]
    content["loads"][0]["connected"] = "maybe"
    path, out = tmp_path / "case.json", tmp_path / "f.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert main(["import", "case", str(path), "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "key earthings, 1 times" in text
    assert "key loads.connected, 1 times" in text


def test_a_case_file_is_told_from_a_network_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(CASES / "ieee13" / "feeder.json")]) == 2
    assert "headroom-grid import case first" in capsys.readouterr().err


def test_the_radial_check_finds_the_ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.json"
    save_network(MADE_UP["meshed"](), path)
    assert main(["check", str(path)]) == 0
    assert main(["check", str(path), "--radial"]) == 2
    assert "a loop" in capsys.readouterr().err
    assert main(["solve", str(path), "--engine", "sweep"]) == 2
    assert "engine sweep" in capsys.readouterr().err
