"""The judge must find nothing wrong with a sound decision, and must find what is wrong with an unsound one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.grid.network_file import save_network
from dcu.grid.tests.golden import MADE_UP, feeder
from hil_tests import safety
from hil_tests.cli import main
from hil_tests.safety import CLASS_1, EXACT, Errors, evaluate_safety


def test_no_grant_is_unsafe_and_nearly_all_is_given_when_measurements_are_exact() -> None:
    found = evaluate_safety(feeder("eulv").network, 60, 3, EXACT)
    assert found.unsafe == 0
    assert found.limited_states > 10
    assert found.granted_fraction > 0.97
    assert found.bound_coverage > 0.999


def test_no_grant_is_unsafe_with_errors_inside_the_declared_class() -> None:
    found = evaluate_safety(feeder("eulv").network, 60, 4, CLASS_1)
    assert found.unsafe == 0
    assert found.granted_fraction > 0.8


def test_the_judge_sees_a_decision_without_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same errors, but the rule is told that there are none."""
    honest = safety._Truth.rule
    monkeypatch.setattr(safety._Truth, "rule", lambda truth, _errors, wrong: honest(truth, EXACT, wrong))
    found = evaluate_safety(feeder("eulv").network, 400, 4, Errors(voltage=0.005, power=0.05, model=0.2))
    assert found.unsafe >= 5
    assert found.worst_excess > 0.0005


def test_the_judge_sees_a_grant_on_a_reading_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is shown clean readings where the truth has spoiled ones."""
    monkeypatch.setattr(safety, "SPOILED_SHARE", 0.5)
    assert evaluate_safety(feeder("eulv").network, 40, 4).unsafe == 0
    monkeypatch.setattr(safety, "_spoil", lambda measured, _random: measured)
    assert evaluate_safety(feeder("eulv").network, 40, 4).unsafe > 10


def test_the_same_seed_gives_the_same_figures() -> None:
    network = MADE_UP["switched"]()
    assert evaluate_safety(network, 20, 7) == evaluate_safety(network, 20, 7)


def test_the_figures_do_not_depend_on_the_number_of_jobs() -> None:
    network = MADE_UP["switched"]()
    alone = evaluate_safety(network, 600, 7)
    assert alone.states == 600
    assert evaluate_safety(network, 600, 7, jobs=2) == alone


def test_the_command_prints_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.json"
    save_network(MADE_UP["switched"](), path)
    assert main(["safety", "--feeder", str(path), "--states", "10", "--json"]) == 0
    assert '"unsafe": 0' in capsys.readouterr().out
    assert main(["safety", "--feeder", str(tmp_path / "none.json"), "--states", "10"]) == 2
    assert "expected" in capsys.readouterr().err
