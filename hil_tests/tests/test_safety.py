"""The judge must find nothing wrong with a sound decision, and must find what is wrong with an unsound one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.feeders import four_wire_feeder, tree_feeder
from dcu.grid.network import Conductor, Connection, matrix
from dcu.grid.network_file import save_network
from dcu.grid.tests.golden import MADE_UP, feeder
from dcu.hosting import estimate, residuals, window
from dcu.hosting.predicted import Predicted
from dcu.hosting.site_settings import SiteSettings
from hil_tests import safety, safety_sequences
from hil_tests.cli import main
from hil_tests.safety import CLASS_1, EXACT, Errors, evaluate_safety


def test_no_grant_is_unsafe_and_nearly_all_is_given_when_measurements_are_exact() -> None:
    found = evaluate_safety(feeder("eulv").network, 60, 3, EXACT, sequence_share=0.0)
    assert found.unsafe == 0
    assert found.limited_states > 10
    assert found.granted_fraction > 0.97
    assert found.granted_of_together > 0.9
    assert found.bound_coverage > 0.999


def test_no_grant_is_unsafe_with_errors_inside_the_declared_class() -> None:
    found = evaluate_safety(feeder("eulv").network, 60, 4, CLASS_1)
    assert found.unsafe == 0
    assert found.granted_fraction > 0.8


@pytest.mark.parametrize("errors", [EXACT, CLASS_1])
def test_no_grant_overloads_a_rated_cable(errors: Errors) -> None:
    """Forty amperes everywhere: currents bind before voltages do, also in neutrals, in which phases cancel."""
    network = tree_feeder(20, "each", seed=1)
    rated = tuple(replace(b, rating_a=(40.0,) * len(b.from_end.conductors)) for b in network.branches)
    found = evaluate_safety(replace(network, branches=rated, memo={}), 60, 1, errors, sequence_share=0.0)
    assert found.unsafe == 0
    assert found.limited_states > 30
    assert found.granted_fraction > (0.97 if errors is EXACT else 0.85)


@pytest.mark.parametrize("errors", [EXACT, CLASS_1])
def test_no_grant_is_unsafe_to_customers_who_use_it_on_one_phase(errors: Errors) -> None:
    """All on the same phase, on different ones, some not at all, all evenly."""
    found = evaluate_safety(tree_feeder(20, "three"), 40, 2, errors)
    assert found.unsafe == 0
    assert found.limited_states > 15
    assert found.granted_fraction > (0.97 if errors is EXACT else 0.5)


@pytest.mark.parametrize("seed", [15, 16])
def test_no_grant_overloads_a_neutral_that_turns_with_what_is_absent(seed: int) -> None:
    """On open wires an absent export turns the other phases' currents, and the neutral carries their sum."""
    found = evaluate_safety(four_wire_feeder(seed, 70.0), 100, 77, EXACT, sequence_share=0.0)
    assert found.unsafe == 0
    assert found.limited_states > 30
    assert found.granted_fraction > 0.95


def test_long_lines_bear_as_much_as_is_granted() -> None:
    """Four times the length: voltages move so far that a bound to first order would give up a tenth."""
    network = tree_feeder(14, "each", seed=2)
    long = tuple(replace(b, z_ohm=matrix(4 * b.z_ohm)) for b in network.branches)
    found = evaluate_safety(replace(network, branches=long, memo={}), 80, 5, EXACT, sequence_share=0.0)
    assert found.unsafe == 0
    assert found.limited_states > 40
    assert found.granted_fraction > 0.98


def test_customers_of_one_phase_are_judged_phase_by_phase_beside_those_of_three() -> None:
    """Every choice of phases that are used, by customers of one phase each, with those of three all on each of them."""
    network = tree_feeder(9, "three")
    points = tuple(
        replace(p, connections=p.connections[k % 3 : k % 3 + 1]) if k % 2 else p
        for k, p in enumerate(network.connection_points)
    )
    truth = safety._Truth(replace(network, connection_points=points, memo={}), 10.0)
    assert truth.several
    at = np.arange(len(truth.customers))
    p = np.full(len(truth.phases()), 100.0)
    states = truth.in_some_phases(p, at, np.full((1, len(at)), 5_000.0))
    used = {tuple((state < 0).tolist()) for state in states}
    labels = np.array(truth.phases())
    single = np.array([len(own) == 1 for own in truth.customers for _ in own])
    for phase in ("L1", "L2", "L3"):
        assert tuple((labels == phase).tolist()) in used, "that phase alone"
        for other in {"L1", "L2", "L3"} - {phase}:
            both = (labels == phase) | ((labels == other) & single)
            assert tuple(both.tolist()) in used, "two phases, those of three phases on one of them"


def test_the_judge_sees_a_limit_that_is_taken_to_be_used_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "free_phases", lambda _entries: {})
    found = evaluate_safety(tree_feeder(20, "three"), 20, 2, EXACT)
    assert found.unsafe > 5


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


@pytest.mark.parametrize("errors", [EXACT, CLASS_1])
def test_no_grant_is_unsafe_in_minutes_of_a_street(errors: Errors) -> None:
    """Reports one after the other, houses that switch between them, raises, renewals, silence."""
    found = evaluate_safety(feeder("eulv").network, 25, 3, errors, sequence_share=1.0)
    assert found.unsafe == 0
    assert found.sequences == 25
    assert found.sequence_windows > 100


@pytest.mark.parametrize("seed", [(7004, 16), (6004, 18)])
def test_states_that_were_found_to_be_unsafe_are_not(seed: tuple[int, int]) -> None:
    """One in half a million each. In the first what nominal limits exceed was pushed by 7 W more, as of two bounds of
    it the later one was lower; in the second an export by a grant was taken for one that would be there without."""
    found = safety._run(safety._Chunk(tree_feeder(100, "service"), 280, seed, EXACT, 10.0, safety.SEQUENCE_SHARE))
    assert (found.states, found.unsafe) == (280, 0)


def test_sequences_see_relief_that_is_counted_on_before_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that believes a grant to be used at once, as long as nobody sees otherwise."""
    monkeypatch.setattr(window, "BELIEVED", np.inf)
    monkeypatch.setattr(safety._Truth, "rule", _with_guard(safety._Truth.rule))
    found = evaluate_safety(feeder("eulv").network, 60, 5, EXACT, sequence_share=1.0)
    assert found.unsafe >= 3
    assert found.worst_excess > 1e-3


def _with_guard(honest: Callable[..., Predicted]) -> Callable[..., Predicted]:
    """A rule whose guard is not nothing, so that a share of it is something."""

    def rule(*args: object) -> Predicted:
        found = honest(*args)
        found._site = replace(found._site, settings=replace(found._site.settings, guard_pct=1e-9))
        return found

    return rule


def test_sequences_see_a_doubt_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Houses switch right after their reports; readings are taken for surer than they are."""
    for bound in ("_swing", "_furthest"):
        monkeypatch.setattr(residuals, bound, lambda moved_v: 0.0 * moved_v.sum(axis=1))
    found = evaluate_safety(feeder("eulv").network, 60, 5, EXACT, sequence_share=1.0)
    assert found.unsafe >= 1


def test_sequences_see_a_grant_while_a_meter_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site takes readings of any age."""
    monkeypatch.setattr(safety_sequences, "SILENT_SHARE", 1.0)
    monkeypatch.setattr(safety_sequences, "ROUNDS", 12)
    assert evaluate_safety(feeder("eulv").network, 6, 5, EXACT, sequence_share=1.0).unsafe == 0
    monkeypatch.setattr(safety_sequences, "SiteSettings", _ageless)
    assert evaluate_safety(feeder("eulv").network, 6, 5, EXACT, sequence_share=1.0).unsafe >= 2


def _ageless(reading_age_s_max: float, **others: Any) -> SiteSettings:
    return SiteSettings(reading_age_s_max=100 * reading_age_s_max, **others)


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


def test_a_customer_between_two_phases_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = tree_feeder(4, "each")
    first = network.connection_points[0]
    between = replace(first, connections=(Connection(Conductor.L1, Conductor.L2),))
    path = tmp_path / "delta.json"
    save_network(replace(network, connection_points=(between, *network.connection_points[1:]), memo={}), path)
    assert main(["safety", "--feeder", str(path), "--states", "10"]) == 2
    seen = capsys.readouterr().err
    assert "customer c0" in seen
    assert "phase to neutral or earth" in seen
