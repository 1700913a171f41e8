"""`headroom-plan`: what people type and what they get."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcu.planning.cli import main
from dcu.planning.study.outcome import toml_lines
from dcu.planning.tests.stand_in import FOLDER, content


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of a few days."""
    raw = content()
    raw["network"]["file"] = str(FOLDER / "network.json")
    raw["meter_data"]["files"] = [str(FOLDER / "meters.parquet")]
    raw["sampling"]["days"] = 3
    raw["scenarios"] = [s for s in raw["scenarios"] if s["name"] in "AD"]
    raw["extras"] = {"planner_map": False}
    raw["study"].pop("check_table")
    path = tmp_path / "study.toml"
    path.write_text("\n".join(toml_lines(raw)), "utf-8")
    return path


def test_a_study_from_the_command_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints capacities as JSON and leaves a folder."""
    assert main(["probabilistic", str(study), "-o", str(tmp_path / "out"), "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["A"]["voltage"]["first_infeasible_w"] - found["A"]["voltage"]["last_feasible_w"] == 12_000.0
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert [s["name"] for s in result["scenarios"]] == ["A", "D"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000


def test_the_deterministic_command_tells_three_cases(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the published values of scenario D within the tolerance of 4 kVA."""
    assert main(["deterministic", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for case, published in (("I", 43.63), ("II", 49.63), ("III", 52.63)):
        assert abs(found["D"][case]["voltage"]["last_feasible_w"] / 1000 - published) <= 4.0


def test_the_data_command_says_what_is_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Customers, days, interval, gaps."""
    assert main(["data", str(FOLDER / "meters.parquet")]) == 0
    assert capsys.readouterr().out.startswith("19 customers, 365.0 days of 900 s, 4 with measured PV, 0 with voltage")


@pytest.mark.parametrize(
    "arguments",
    [
        ["probabilistic", "none.toml", "-o", "out"],
        ["probabilistic", "STUDY", "-o", "STUDY"],
        ["probabilistic", "STUDY", "-o", "out", "--workers", "0"],
        ["probabilistic", "STUDY", "-o", "out", "--workers", "-3"],
        ["deterministic", "."],
        ["data", "none.parquet"],
        ["data", "."],
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback, nothing on standard output."""
    monkeypatch.chdir(tmp_path)
    assert main([str(study) if a == "STUDY" else a for a in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err.strip()


@pytest.mark.parametrize("command", ["data", "deterministic", "probabilistic"])
def test_every_command_asks_the_clock_whether_data_are_of_the_future(
    command: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a clock that was never set all of them are."""
    monkeypatch.setattr("dcu.planning.cli.time", SimpleNamespace(time=lambda: 0.0))
    more = ["-o", str(tmp_path / "out")] if command == "probabilistic" else []
    assert main([command, str(FOLDER / "meters.parquet" if command == "data" else study), *more]) == 2
    assert "expected at most a day after now, 1970-01-01T00:00:00Z" in capsys.readouterr().err


def test_the_example_in_the_documentation_is_the_packaged_study() -> None:
    """But for the paths, which lead from another folder."""
    example = Path(__file__).parents[3] / "docs" / "examples" / "probabilistic.toml"
    if not example.exists():
        pytest.skip("installed without documentation")
    text = example.read_text("utf-8").replace("../../dcu/planning/flobecq_like/", "")
    ours = (FOLDER / "study.toml").read_text("utf-8")
    assert text.split("[study]")[1] == ours.split("[study]")[1]
