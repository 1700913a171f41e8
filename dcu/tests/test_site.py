"""From a configuration to a rule that decides, and past decisions again from the command line."""

from __future__ import annotations

import json
import tomllib
from asyncio import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcu import status
from dcu.cli import main
from dcu.config import DcuConfig
from dcu.grid.port_model import PortModel, save_model
from dcu.grid.tests.golden import feeder
from dcu.hosting.engine import HostingEngine
from dcu.hosting.exchange import RequestArrived, SendDown
from dcu.hosting.learned_rule import Learned
from dcu.hosting.predicted import NoModel, Predicted
from dcu.hosting.present import PresentVoltages
from dcu.hosting.tests.neighbourhood import CONTRACT_W, NOMINAL_W, Neighbourhood
from dcu.ledger.store import Ledger
from dcu.site import grid_settings, load_rule, recall_lessons, rule_or_nothing
from shared.config import check_config
from shared.errors import ConfigError
from shared.ids import Epoch, MeterId, Nonce, RequestId
from shared.messages import Denial, Reason, Request

MODEL = feeder("eulv").model
EXAMPLE = Path(__file__).parents[2] / "deploy" / "dcu.toml"


class NoLedger:
    """For a status."""

    position, head = 0, bytes(32)

    def append(self, entry: dict[str, Any]) -> Future[int]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "eulv.npz"
    save_model(MODEL, path)
    return path


def content(model: dict[str, Any] | None, **decision: object) -> dict[str, Any]:
    """The shipped example on the European feeder."""
    found = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    found.pop("model", None)
    found["decision"] = decision
    found["site"] |= {"nominal_voltage_v": 240.0, "band_pct": 8.0, "lease_s": 60.0, "renew_interval_s": 15.0}
    found["balancing"]["bus"] = "1"
    found["balancing"]["phases"] = ["L1", "L2", "L3"]
    if model is not None:
        found["model"] = model
    found["meters"] = [
        {
            "id": f"m{k}",
            "eui48": f"02:00:00:00:{k >> 8:02x}:{k & 255:02x}",
            "bus": bus,
            "phases": [label],
            "nominal_limit_w": NOMINAL_W,
            "contract_limit_w": CONTRACT_W,
        }
        for k, (bus, label) in enumerate(zip(MODEL.port_buses, MODEL.port_labels, strict=True))
    ]
    return found


def pinned(model_file: Path, model: PortModel = MODEL) -> dict[str, Any]:
    """A model section with this file of that model."""
    return {"file": str(model_file), "network_sha256": model.network_sha256}


def config(model: dict[str, Any] | None, **decision: object) -> DcuConfig:
    return check_config("dcu.toml", content(model, **decision), DcuConfig)


def toml(value: dict[str, Any]) -> str:
    """Enough of TOML for a configuration."""
    lines: list[str] = []
    for name, table in value.items():
        for one in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(item)}" for key, item in one.items()]
    return "\n".join(lines) + "\n"


def test_the_rule_follows_from_what_there_is(model_file: Path) -> None:
    assert isinstance(load_rule(config(None)), PresentVoltages)
    predicted = load_rule(config(pinned(model_file)))
    assert isinstance(predicted, Predicted)
    assert not predicted.learns
    mixed = load_rule(config(pinned(model_file), rule="mixed"))
    assert isinstance(mixed, Predicted)
    assert mixed.learns
    assert isinstance(load_rule(config(None, rule="learned")), Learned)
    with pytest.raises(ConfigError, match="model"):
        config(None, rule="predicted")


def test_a_model_that_cannot_be_used_grants_nothing_and_says_why(model_file: Path, tmp_path: Path) -> None:
    """Another network's hash, no hash, no file, a damaged file, a model without our buses, one of medium voltage
    with all of them: refused by check, denied by a daemon."""
    damaged = tmp_path / "damaged.npz"
    data = bytearray(model_file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    foreign = tmp_path / "foreign.npz"
    other = feeder("four wires").model
    save_model(other, foreign)
    medium = tmp_path / "medium.npz"
    open_circuit = ("u_open_v", "node_open_v", "current_open_a", "source_u_open_v", "source_i_open_a")
    save_model(replace(MODEL, tree=None, **{name: 26 * getattr(MODEL, name) for name in open_circuit}), medium)
    wrong = [
        pinned(model_file) | {"network_sha256": "0" * 64},
        {"file": str(model_file)},
        pinned(tmp_path / "none.npz"),
        pinned(damaged),
        pinned(foreign, other),
        pinned(medium),
    ]
    unpinned = f'nothing, expected network_sha256 = "{MODEL.network_sha256}"'
    why = ["network_sha256: seen [0-9a-f]{16}", unpinned, "file", "file|sha256", "meter m0", "voltage: seen 6[0-9]{3}"]
    for model, fault in zip(wrong, why, strict=True):
        with pytest.raises(ConfigError, match=fault):
            load_rule(config(model))
        rule = rule_or_nothing(config(model))
        assert isinstance(rule, NoModel)
        settings = config(model)
        engine = HostingEngine(settings.site_settings, settings.entries, Epoch(1), 0.0, rule)
        engine.wake(70.0)
        engine.handle(RequestArrived(MeterId("m1"), Request(RequestId(1), Nonce(1), Epoch(1), 2000.0, 0.0)), 70.0)
        (denial,) = (o.message for o in engine.wake(71.0) if isinstance(o, SendDown))
        assert isinstance(denial, Denial)
        assert denial.reason is Reason.MODEL_UNUSABLE
        shown = status.table(status.snapshot(engine, NoLedger(), 71.0, {}, settings))
        assert f"ALARM model: {rule.why}"[:300] in shown
        assert "nothing is granted" in shown


def test_the_check_names_the_model_and_tells_the_line_that_pins_it(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the line nothing is granted, and the check says so, and the line; with it there, it names the model."""
    path = tmp_path / "dcu.toml"
    path.write_text(toml(content({"file": str(model_file)})), encoding="utf-8")
    assert main(["check-config", str(path)]) == 2
    assert f'network_sha256 = "{MODEL.network_sha256}"' in capsys.readouterr().err
    path.write_text(toml(content(pinned(model_file))), encoding="utf-8")
    assert main(["check-config", str(path)]) == 0
    told = capsys.readouterr().out
    assert "rule predicted/" in told
    assert f"network_sha256 {MODEL.network_sha256}" in told


def test_a_ledger_is_decided_again_from_the_command_line(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grants and renewals of a street, written and read back: all the same; with another policy: they differ."""
    made = config(pinned(model_file) | {"model_error_pct": 0.0}, voltage_class_pct=0.0)
    world = Neighbourhood(feeder("eulv"), grid_settings(made), made.site_settings, "1")
    for k in range(0, 55, 3):
        world.houses[MeterId(f"m{k}")].pv_w = 9000.0
        world.ask(f"m{k}", 8000.0)
    world.pass_time(70.0)
    ledger = Ledger(tmp_path / "ledger", "dcu1")
    for entry in world.records:
        ledger.append(entry)
    ledger.close()
    path = tmp_path / "dcu.toml"
    text = content(pinned(model_file) | {"model_error_pct": 0.0}, voltage_class_pct=0.0)
    path.write_text(toml(text), encoding="utf-8")
    assert main(["replay", str(tmp_path / "ledger"), "--config", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == []
    assert found["windows"] >= 3
    assert found["decisions"] > 40
    text["decision"]["policy"] = "max_total"
    path.write_text(toml(text), encoding="utf-8")
    assert main(["replay", str(tmp_path / "ledger"), "--config", str(path)]) == 1
    assert "differ" in capsys.readouterr().out


def test_what_was_learnt_comes_back_from_the_ledger() -> None:
    """A learning rule records its lessons; a fresh one that is told them knows as much, and answers the same."""
    made = config(None, rule="learned")
    world = Neighbourhood(feeder("eulv"), grid_settings(made), made.site_settings, "1", rule=load_rule(made))
    random = np.random.default_rng(3)
    for _ in range(40):
        for house in world.houses.values():
            house.load_w = float(random.lognormal(5.5, 1.0))
        world.pass_time(60.0, every_s=15.0)
    lessons = [entry for entry in world.records if entry["kind"] == "view"]
    assert 30 <= len(lessons) <= 41
    again = load_rule(made)
    assert isinstance(again, Learned)
    assert isinstance(world.rule, Learned)
    assert recall_lessons(again, world.records) == len(lessons)
    view = world.rule.look(world.engine.measurements(world.now), world.now)
    situation = view.estimate.situation
    assert situation is not None
    asked = situation.p_w - 3000.0 * np.eye(len(situation.p_w))
    before, after = (rule.pupil.sensitivity.change(situation, asked) for rule in (world.rule, again))
    assert np.array_equal(before.du_v, after.du_v)
    assert np.array_equal(before.bound_v, after.bound_v)
