"""The frame of a study: the same bytes with any number of workers, after a stop, and from its own study.toml."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dcu.config import Meter
from dcu.planning.dynamic import dynamic
from dcu.planning.locate import windows
from dcu.planning.nominal import homeless, nominal_toml
from dcu.planning.probabilistic_report import write
from dcu.planning.reading import Read, read_study
from dcu.planning.run import run
from dcu.planning.settings import load_study
from dcu.planning.study.outcome import toml_lines
from dcu.planning.study.partial import FOLDER as UNFINISHED
from dcu.planning.study.partial import Partial
from dcu.planning.study.workers import Progress, Task, Workers
from dcu.planning.tests.stand_in import FOLDER, content, study
from shared.errors import ConfigError

EXTRAS = {"headroom": "A", "rare": {"scenario": "A", "level": 7, "states": 1000}, "losses": "A", "load_models": "A"}


def _read() -> Read:
    return read_study(study(110, "AE", extras=EXTRAS), FOLDER)


def _bytes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with one worker."""
    out = tmp_path_factory.mktemp("studies") / "one"
    read = _read()
    write(read, run(read, out, 1, Progress(silent=True)), out)
    return out


def test_four_workers_leave_the_bytes_of_one(alone: Path) -> None:
    """Every file: results, tables, report, limits and study."""
    read = _read()
    out = alone.parent / "four"
    write(read, run(read, out, 4, Progress(silent=True)), out)
    assert _bytes(out) == _bytes(alone)
    assert set(_bytes(out)) >= {"result.json", "voltages.parquet", "report.html", "study.toml", "nominal_limits.toml"}


class _Stopped(Progress):
    """Behaves as if the user pressed Ctrl-C after some levels."""

    def __init__(self, levels: int) -> None:
        super().__init__(silent=True)
        self.left = levels

    def add(self, states: int, text: str, share: float | None) -> None:
        super().add(states, text, share)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_stopped_study_goes_on_where_it_was(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice at different levels, it ends with the same bytes and has solved no finished level again."""
    read = _read()
    out = alone.parent / "stopped"
    for levels in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            run(read, out, 1, _Stopped(levels))
    kept = len(list((out / UNFINISHED).glob("*.npz")))
    assert kept >= 4
    found = run(read, out, 1, Progress(silent=True))
    whole = run(_read(), None, 0, Progress(silent=True))
    assert found.effort.levels <= whole.effort.levels - kept
    write(read, found, out)
    assert _bytes(out) == _bytes(alone)
    assert not (out / UNFINISHED).exists()


def test_pieces_of_another_study_are_not_taken(tmp_path: Path) -> None:
    """A changed study begins anew; a damaged piece is done again."""
    first = Partial(tmp_path, "one")
    first.put("a", {"x": np.arange(3)})
    again = Partial(tmp_path, "one").get("a")
    assert again is not None
    assert again["x"].tolist() == [0, 1, 2]
    for file in (tmp_path / UNFINISHED).glob("*.npz"):
        file.write_bytes(file.read_bytes()[:40])
    assert Partial(tmp_path, "one").get("a") is None
    assert Partial(tmp_path, "two").get("a") is None


def test_the_written_study_repeats_itself(alone: Path) -> None:
    """`study.toml` of the output gives the same results from another folder; a changed input is refused."""
    again = load_study(alone / "study.toml")
    read = read_study(again, alone)
    out = alone.parent / "again"
    write(read, run(read, None, 1, Progress(silent=True)), out)
    assert _bytes(out) == _bytes(alone)
    text = (alone / "study.toml").read_text("utf-8")
    recorded = tomllib.loads(text)["provenance"]["inputs"][0]["sha256"]
    other = alone.parent / "changed.toml"
    other.write_text(text.replace(recorded, "0" * 64), "utf-8")
    with pytest.raises(ConfigError, match="sha256"):
        read_study(load_study(other), alone)


def test_the_report_stands_alone(alone: Path) -> None:
    """No script, no address to load anything from."""
    html = (alone / "report.html").read_text("utf-8")
    assert "<script" not in html
    assert not any(f'{key}="http' in html for key in ("src", "href"))
    assert html.count("<svg") >= 5
    shares = {r["share"] for r in json.loads((alone / "result.json").read_text("utf-8"))["self_sufficiency"]}
    assert shares
    text = html.split("Self-sufficiency")[1].split("</table>")[0]
    assert sum(f"{share:.0%}" in text for share in shares) >= 2


def test_nominal_limits_fit_the_dcu_configuration(alone: Path) -> None:
    """Every table is a meter of the DCU's configuration once it has its address."""
    tables = tomllib.loads((alone / "nominal_limits.toml").read_text("utf-8"))["meters"]
    assert len(tables) == 19
    meters = [Meter.model_validate(t | {"eui48": f"02:00:00:00:00:{k:02x}"}) for k, t in enumerate(tables)]
    assert any(m.nominal_limit_w < m.contract_limit_w for m in meters)


def test_a_planned_unit_belongs_to_who_is_connected_to_its_phases() -> None:
    """In scenario A one stands on L1 where the only customer is on L2: in nobody's contract, which is said."""
    some = read_study(study(2, "A", extras={"headroom": "A"}), FOLDER)
    nominal = dynamic(some.world, "A", 11_000.0, 3)
    text = nominal_toml(some, nominal)
    assert homeless(some) == ["17.L1"]
    assert "# 17.L1: a planned unit where no customer has these phases" in text
    own = {e.customer: e.rated_w for e in some.inputs.existing}
    at_17 = {p.meter or p.id: own.get(p.id, 0.0) for p in some.inputs.network.connection_points if p.bus == "17"}
    limits = {t["id"]: t["contract_limit_w"] for t in tomllib.loads(text)["meters"]}
    assert at_17
    assert {meter: limits[meter] for meter in at_17} == at_17
    assert any(limits[p.meter or p.id] > own.get(p.id, 0.0) for p in some.inputs.network.connection_points)


def test_who_shares_a_port_shares_its_limit() -> None:
    """The limit was found for a bus and phase: two customers with PV there get half of it each, the others all."""
    some = read_study(study(2, "A", extras={"headroom": "A"}), FOLDER)
    nominal = replace(dynamic(some.world, "A", 11_000.0, 3), static_limit_w=3000.0)
    points = some.inputs.network.connection_points
    own = next(p for p in points if p.id == "user_5")
    twin = replace(own, id="twin", meter="twin")
    standing = next(e for e in some.inputs.existing if e.customer == "user_5")
    network = replace(some.inputs.network, connection_points=(*points, twin), memo={})
    inputs = replace(some.inputs, network=network, existing=(*some.inputs.existing, replace(standing, customer="twin")))
    tables = tomllib.loads(nominal_toml(replace(some, inputs=inputs), nominal))["meters"]
    limits = {t["id"]: t["nominal_limit_w"] for t in tables}
    assert limits["twin"] == limits[own.meter or own.id] == 1500.0
    alone = next(p for p in points if p.id == "user_4")
    assert limits[alone.meter or alone.id] == 3000.0


def test_toml_is_read_back_as_it_was_written() -> None:
    """Nested tables, lists of tables, numbers and quotes."""
    raw = content() | {"extra": {"text": 'a "quoted" one', "deep": {"list": [1, 2.5], "flag": True}}}
    assert tomllib.loads("\n".join(toml_lines(raw))) == raw


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["scenarios"][0]["places"].append({"bus": "nowhere", "phase": "L1"}), "a bus of the network"),
        (lambda r: r["existing"][0].update(customer="user_99"), "measured PV"),
        (lambda r: r["existing"].pop(1), "reference.customer among existing"),
        (lambda r: r["existing"].pop(0), "nothing for 'user_4'"),
        (lambda r: r["scenarios"][0].update(control="damping"), "L1L2L3 for damping"),
        (lambda r: r["meter_data"].update(timezone="Mars/Olympus"), "a time zone"),
        (lambda r: r["meter_data"].update(files=["none.parquet"]), r"none\.parquet"),
        (lambda r: r["network"].update(file="none.json"), r"none\.json"),
        (lambda r: r["scenarios"][0]["places"][0].update(phase="L4"), "L1"),
        (lambda r: r["limits"].update(percentile=101.0), "percentile"),
        (lambda r: r["growth"].update(step_w=float("nan")), "step_w"),
        (lambda r: r["study"].update(colour="red"), "no such key"),
        (lambda r: r["scenarios"].append(dict(r["scenarios"][0])), "each scenario once"),
        (lambda r: r["extras"].update(losses="Z"), "extras that name a scenario"),
        (lambda r: r["extras"].update(losses="A", losses_from_h=18.0, losses_to_h=12.0), "losses_from_h before"),
        (lambda r: r["existing"].append(dict(r["existing"][0])), "each existing customer once"),
        (lambda r: r["sampling"].update(pool="month"), "extras.rare with independent loads"),
    ],
)
def test_a_wrong_study_is_refused_with_its_key(tmp_path: Path, change, says: str) -> None:  # type: ignore[no-untyped-def]
    """Unknown places, phases, customers, files and keys: one clear fault, before anything is computed."""
    raw = content()
    raw["network"]["file"] = str(FOLDER / "network.json")
    raw["meter_data"]["files"] = [str(FOLDER / "meters.parquet")]
    change(raw)
    path = tmp_path / "study.toml"
    path.write_text("\n".join(toml_lines(raw)), "utf-8")
    with pytest.raises(ConfigError, match=says):
        read_study(load_study(path), tmp_path)


def test_a_phase_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A bus without L3 hosts nothing on L3."""
    text = (FOLDER / "network.json").read_text("utf-8").replace("\n", " ")
    raw = content()
    network = json.loads(text)
    network["buses"][19]["conductors"] = ["L1", "N"]
    for branch in network["branches"]:
        if branch["to_bus"] == "19":
            keep = (0, 3)
            for key in ("from_conductors", "to_conductors", "rating_a"):
                branch[key] = [branch[key][k] for k in keep]
            for key in ("r_ohm", "x_ohm"):
                branch[key] = [[branch[key][a][b] for b in keep] for a in keep]
    (tmp_path / "network.json").write_text(json.dumps(network), "utf-8")
    raw["network"]["file"] = "network.json"
    raw["meter_data"]["files"] = [str(FOLDER / "meters.parquet")]
    (tmp_path / "study.toml").write_text("\n".join(toml_lines(raw)), "utf-8")
    with pytest.raises(ConfigError, match="L2 at bus 19"):
        read_study(load_study(tmp_path / "study.toml"), tmp_path)


def test_a_worker_that_fails_says_why() -> None:
    """An error in a worker reaches the caller as it was."""
    workers = Workers(0, lambda _: None, None)
    with pytest.raises(ZeroDivisionError):
        workers.submit(Task("x", lambda _: 1 // 0, ()))


def test_sequential_stopping_changes_no_verdict(alone: Path) -> None:
    """Levels far from their limit end early; the capacity is the one of the fixed number of states."""
    fixed = run(read_study(study(500, "A"), FOLDER), None, 0, Progress(silent=True))
    early_study = study(500, "A", sampling={"days": 500, "stop": "sequential"})
    early = run(read_study(early_study, FOLDER), None, 0, Progress(silent=True))
    assert early.capacities["A"][0].last_feasible == fixed.capacities["A"][0].last_feasible
    states = [level.tally.states for level in early.logs["A"]]
    assert states[3] == 100 * 96
    assert sum(states) < 0.6 * sum(level.tally.states for level in fixed.logs["A"])


def test_an_extra_without_an_answer_spoils_no_study(tmp_path: Path) -> None:
    """Six weeks of winter, one customer on holiday in the second: July's losses and some windows have no answer and are
    named with the reason; capacities and the other windows are there."""
    winter = pq.read_table(FOLDER / "meters.parquet")
    first = pc.min(winter["start_utc"]).as_py()
    winter = winter.filter(
        pc.less(winter["start_utc"], pa.scalar(first + timedelta(days=42), winter["start_utc"].type))
    )
    start = winter["start_utc"].to_pylist()
    away = np.array([first + timedelta(days=7) <= at < first + timedelta(days=21) for at in start])
    away &= np.array([c == "user_1" for c in winter["customer"].to_pylist()])
    power = np.where(away, 0.0, winter["import_wh"].to_numpy())
    at = winter.schema.get_field_index("import_wh")
    pq.write_table(winter.set_column(at, "import_wh", pa.array(power)), tmp_path / "winter.parquet")
    asked = study(
        3, "A", meter_data={"files": [str(tmp_path / "winter.parquet")]}, extras={"losses": "A", "data_length": "A"}
    )
    read = read_study(asked, FOLDER)
    found = run(read, None, 0, Progress(silent=True))
    assert found.capacities["A"][0].last_feasible
    assert found.losses is None
    told = " ".join(found.untold)
    assert "no day of month 7" in told
    assert "a load that varies" in told
    assert 1 < len(found.data_length) < len(windows(42))
    write(read, found, tmp_path / "out")
    assert "no day of month 7" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_feeder_without_ratings_is_judged_by_voltage_alone(tmp_path: Path) -> None:
    """Nothing is known of its conductors: both capacities are the same, and the report does without currents."""
    network = json.loads((FOLDER / "network.json").read_text("utf-8"))
    for branch in network["branches"]:
        del branch["rating_a"]
    (tmp_path / "network.json").write_text(json.dumps(network), "utf-8")
    raw = content()
    raw["network"]["file"] = "network.json"
    raw["meter_data"]["files"] = [str(FOLDER / "meters.parquet")]
    raw["sampling"]["days"] = 3
    raw["scenarios"] = raw["scenarios"][:1]
    raw["extras"] = {"headroom": "A"}
    del raw["study"]["check_table"]
    (tmp_path / "study.toml").write_text("\n".join(toml_lines(raw)), "utf-8")
    read = read_study(load_study(tmp_path / "study.toml"), tmp_path)
    found = run(read, None, 0, Progress(silent=True))
    by = {c.group: c for c in found.capacities["A"]}
    assert by["voltage"].last_feasible == by["current"].last_feasible
    assert not next(iter(read.world.observers.values())).wires
    write(read, found, tmp_path / "out")
    assert "scenario A" in (tmp_path / "out" / "report.html").read_text("utf-8")
