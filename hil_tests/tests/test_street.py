"""The same street twice: in virtual time with every scenario, the published traces and kills; in wall-clock with
processes."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from hil_tests.cli import Played, main, play_virtually
from hil_tests.measure import kill_sweep, measure_latency
from hil_tests.scenario import Ask, Expectation, Known, Process, Scenario, Traces, load_scenario
from hil_tests.verdict import Verdict, judge
from shared.messages import Denial, Grant, Reason, Revoke

TRACES = Path(__file__).parent / "dynamic_hc"


def failures(played: Played) -> list[Verdict]:
    return [verdict for verdict in played.verdicts if not verdict.passed]


@pytest.mark.parametrize("known", list(Known), ids=lambda known: known.value)
def test_every_scenario_holds_in_virtual_time(known: Known, tmp_path: Path) -> None:
    """The five plays of the testbed, real daemons in one process."""
    played = play_virtually(load_scenario(known.value), tmp_path, seed=1)
    assert failures(played) == []


@pytest.mark.parametrize("seed", range(2, 8))
def test_the_scenarios_hold_on_other_lines_too(seed: int, tmp_path: Path) -> None:
    """Another seed is another backoff, another serial latency, another tick count; the outcome is the same."""
    name = random.Random(seed).choice([known.value for known in Known])
    assert failures(play_virtually(load_scenario(name), tmp_path, seed)) == []


def published(name: str) -> tuple[Scenario, list[dict[str, str]]]:
    """A scenario of ours with the published trace as its input."""
    base = load_scenario({"1": "granted", "2": "denied", "3": "revoked"}[name[9]])
    with (TRACES / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [float(row["t_s"]) for row in rows]

    def trace(column: str) -> list[list[float]]:
        return [[time, float(row[column])] for time, row in zip(times, rows, strict=True)]

    traces = Traces(
        busbar_v=trace("v_sub_v"),
        client1_v=trace("v_client1_v"),
        client2_v=trace("v_client2_v"),
        client1_available_a=trace("client1_available_a"),
    )
    asked_s = next(time for time, row in zip(times, rows, strict=True) if row["client1_request"] == "1")
    ask = Ask(do="ask", at_s=asked_s, client="client1", limit_w=base.site.contract_limit_w)
    expect = Expectation(what="export", client="client2", at_s=times[-1], current_a=5.0)
    update = {"traces": traces, "action": [ask], "duration_s": times[-1], "expect": [expect]}
    return base.model_copy(update=update), rows


def test_the_published_traces_have_the_published_outcomes(tmp_path: Path) -> None:
    """Granted to 10 A; denied for client 2's 258 V; granted, then revoked 10 s after client 2 has passed 252 V."""
    expected = json.loads((TRACES / "expected.json").read_text(encoding="utf-8"))
    persistence_s = expected["persistence_s"]["value"]
    decisions: dict[str, list[tuple[float, Grant | Denial | Revoke]]] = {}
    final_a: dict[str, float] = {}
    for name in ("scenario_1_granted", "scenario_2_denied", "scenario_3_revoked"):
        scenario, _ = published(name)
        played = play_virtually(scenario, tmp_path / name, seed=1)
        assert failures(played) == []
        decisions[name] = [
            (frame.end_s, frame.message)
            for frame in played.seen.frames
            if frame.client == "client1" and isinstance(frame.message, Grant | Denial | Revoke)
        ]
        final_a[name] = played.seen.samples[-1].export_a[0]
    (first_s, grant), *renewals = decisions["scenario_1_granted"]
    assert isinstance(grant, Grant)
    assert 20.0 <= first_s <= 22.5
    assert all(isinstance(message, Grant) for _, message in renewals)
    (denied_s, denial), *repeated = decisions["scenario_2_denied"]
    assert isinstance(denial, Denial)
    assert all(message == denial for _, message in repeated), "the wire may lose an acknowledgement"
    assert (denial.reason, denial.binding) == (Reason.OVERVOLTAGE, "client2")
    assert denial.value == pytest.approx(258.0, abs=0.2)
    assert 20.0 <= denied_s <= 22.5
    revokes = [(at_s, message) for at_s, message in decisions["scenario_3_revoked"] if isinstance(message, Revoke)]
    ((revoked_s, revoke),) = revokes
    assert revoke.binding == "client2"
    crossing_s = 62.6  # the trace passes 252 V between its samples at 62 and 63 s
    assert crossing_s + persistence_s <= revoked_s <= crossing_s + persistence_s + 5.0
    assert final_a == pytest.approx(
        {"scenario_1_granted": 10.0, "scenario_2_denied": 5.0, "scenario_3_revoked": 5.0}, abs=0.05
    )


def test_kills_at_any_moment_break_nothing() -> None:
    """Fifty random kills of meter or DCU in scenarios I and III: no export beyond a lease, no decision lost or
    doubled."""
    result = kill_sweep(50, seed=1, jobs=1, virtual=True)
    assert result["violations"] == []
    assert result["of_dcu"] > 10
    assert result["of_meter"] > 10


def test_a_request_reaches_the_relay_within_three_airtimes_and_a_window() -> None:
    """Fifty grants at random phases of the decision window; the median is within the bar."""
    result = measure_latency(50, seed=1, virtual=True)
    assert result["grants"] >= 45
    assert result["within"], result


def test_a_judge_that_sees_a_wrong_world_says_so(tmp_path: Path) -> None:
    """A scenario whose expectations contradict the physics fails in each of them; nothing passes by default."""
    base = load_scenario("denied")
    wrong = [
        Expectation(what="granted", client="client1", before_s=20.0),
        Expectation(what="denied", client="client1", reason="UNDERVOLTAGE", binding="client1"),
        Expectation(what="revoked", client="client1", reason="OVERVOLTAGE", binding="client2"),
        Expectation(what="export", client="client1", at_s=20.0, current_a=10.0),
        Expectation(what="lease ended", client="client1"),
        Expectation(what="quarantined", client="client1"),
        Expectation(what="nothing sent to", client="client1"),
    ]
    played = play_virtually(base.model_copy(update={"expect": wrong}), tmp_path, seed=1)
    assert [verdict.passed for verdict in played.verdicts] == [False] * 7 + [True, True]


def test_a_judge_catches_export_beyond_the_lease_and_a_ledger_with_holes(tmp_path: Path) -> None:
    """Samples moved above nominal after the lease, a dropped entry and a doubled one: each is a failure."""
    scenario = load_scenario("granted")
    seen = play_virtually(scenario, tmp_path, seed=1).seen
    decided = [entry for entry in seen.ledger if entry["kind"] in {"grant", "renewal"}]
    seen.ledger.remove(decided[1])
    assert [verdict.passed for verdict in judge(scenario, seen)][-1] is False
    seen.ledger[:] = [*seen.ledger, decided[0]]
    assert "twice" in judge(scenario, seen)[-1].observed
    seen.frames = [frame for frame in seen.frames if not isinstance(frame.message, Grant)]
    assert judge(scenario, seen)[-2].passed is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["name", "this key"]),
        ('name = "x"\nnumeral = "I"\ntitle = "t"\nduration_s = -1.0', ["duration_s", "-1.0"]),
        ("[[action]]\ndo = 'explode'\nat_s = 1.0", ["action.0", "explode"]),
    ],
)
def test_a_wrong_scenario_is_refused(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing keys, negative durations, unknown actions: exit code 2 with file, key, seen and expected."""
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["run", "--scenario", str(path), "--out", str(tmp_path / "out"), "--virtual"]) == 2
    err = capsys.readouterr().err
    for word in ["mine.toml", "seen", "expected", *words]:
        assert word in err


def test_the_command_leaves_everything_a_person_wants_to_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Signals, events, figures and the ledger in the output directory; a table and exit code 0; verdicts as JSON."""
    out = tmp_path / "out"
    assert main(["run", "--scenario", "granted", "--virtual", "--out", str(out)]) == 0
    assert "pass" in capsys.readouterr().out
    names = {path.name for path in (out / "granted").iterdir()}
    assert {"signals.csv", "events.jsonl", "scope.svg", "scope.png"} <= names
    with (out / "granted" / "signals.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["request"], rows[-1]["request"], rows[-1]["decision"]) == ("0", "1", "1")
    assert float(rows[-1]["client1_export_a"]) == pytest.approx(10.0, abs=0.05)
    events = [json.loads(line) for line in (out / "granted" / "events.jsonl").read_text().splitlines()]
    assert {"frame", "relay", "bench"} <= {event["event"] for event in events}
    result = json.loads((out / "result.json").read_text())
    assert result[0]["passed"] is True


@pytest.mark.street
def test_the_real_daemons_play_all_five_scenarios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Processes, pseudo-terminals and sockets in wall-clock time; memory at start within its bars."""
    code = main(["run", "--scenario", "all", "--out", str(tmp_path / "out"), "--json"])
    result = json.loads(capsys.readouterr().out)
    wrong = [verdict for item in result for verdict in item["verdicts"] if not verdict["passed"]]
    assert (code, wrong) == (0, [])
    for item in result:
        assert 0 < item["rss_kib"]["dcu"] <= 100 * 1024
        assert all(0 < item["rss_kib"][name] <= 60 * 1024 for name in ("client1", "client2"))


def test_a_process_action_names_who(tmp_path: Path) -> None:
    """Killing a meter in scenario I: it boots at nominal, and the household's wish is gone with its memory."""
    base = load_scenario("granted")
    actions = [
        *base.action,
        Process(do="kill", at_s=10.0, who="client1"),
        Process(do="start", at_s=11.0, who="client1"),
    ]
    expect = [
        Expectation(what="granted", client="client1", after_s=5.0, before_s=8.0),
        Expectation(what="export", client="client1", at_s=20.0, current_a=5.0),
    ]
    played = play_virtually(base.model_copy(update={"action": actions, "expect": expect}), tmp_path, seed=1)
    assert failures(played) == []
    assert played.seen.status["client1"]["source"] == "BOOT"
