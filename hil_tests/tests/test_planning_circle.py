"""From a street's meters to its limits and back: store, export, study, configuration, street."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import hil_tests
from dcu.cli import main as dcu_command
from dcu.config import DcuConfig
from dcu.grid.feeder import Feeder
from dcu.grid.port_model import save_model
from hil_tests.cores import Street
from hil_tests.day import Day, make_day, open_feeder
from hil_tests.kept import toml
from hil_tests.street_dcu import FILE, MODEL_FILE, StreetDcu, StreetSettings
from hil_tests.street_flow import StreetFlow
from hil_tests.week import DAYS, MONDAY, days_of, play
from shared.config import load_config

EXAMPLE = Path(hil_tests.__file__).parents[1] / "docs" / "examples" / "dcu_export"
PLANTS = {"house-2": 4000.0, "house-5": 5000.0}
FILES = [f"meter-data-{MONDAY:%Y-%m}-{MONDAY.day + k:02d}.parquet" for k in range(DAYS)]

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="installed without documentation"),
    pytest.mark.timeout(600),
]


@dataclass(frozen=True, slots=True, eq=False)
class Week:
    """What was played, and the folder that it left: configuration, store, export, study, result."""

    folder: Path
    day: Day

    @property
    def result(self) -> dict[str, Any]:
        """What the study found."""
        found: dict[str, Any] = json.loads((self.folder / "out" / "result.json").read_text("utf-8"))
        return found

    @property
    def limits(self) -> list[dict[str, Any]]:
        """The study's nominal limits."""
        found: list[dict[str, Any]] = tomllib.loads((self.folder / "out" / "nominal_limits.toml").read_text("utf-8"))[
            "meters"
        ]
        return found


def _headroom_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcu.planning.cli", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    """Seven days of six houses, exported and studied with the commands that people use."""
    folder = tmp_path_factory.mktemp("week")
    day = play(EXAMPLE / "network.json", PLANTS, DAYS, 1, folder)
    asked = ["export", "--config", str(folder / FILE), "--out", str(folder / "export")]
    assert dcu_command([*asked, "--from", f"{MONDAY:%Y-%m-%d}"]) == 0
    for name in ("network.json", "study.toml"):
        (folder / name).write_text((EXAMPLE / name).read_text("utf-8"), "utf-8")
    done = _headroom_plan("probabilistic", str(folder / "study.toml"), "-o", str(folder / "out"), "--workers", "1")
    assert done.returncode == 0, done.stderr
    return Week(folder, day)


def test_the_export_has_every_quarter_hour_and_no_pv(week: Week) -> None:
    """Energies within a register's step of what flowed, for every customer; and the example shows this very week."""
    assert sorted(p.name for p in (week.folder / "export").iterdir()) == FILES
    tables = [pq.read_table(week.folder / "export" / name) for name in FILES]
    assert all(t["pv_wh"].null_count == len(t) for t in tables)
    net = np.concatenate([np.asarray(t["import_wh"]) - np.asarray(t["export_wh"]) for t in tables])
    customer = np.concatenate([np.asarray(t["customer"]) for t in tables])
    draws = week.day.draws_w(week.day.pv_w)
    for k, name in enumerate(sorted(set(customer))):
        flowed_wh = float(draws[:, k].sum() / 60)
        assert abs(net[customer == name].sum() - flowed_wh) < 0.01 * abs(draws[:, k]).sum() / 60 + 200.0, name
    for name, table in zip(FILES, tables, strict=True):
        shown = pq.read_table(EXAMPLE / "export" / name)
        assert shown["customer"].equals(table["customer"])
        assert np.abs(np.asarray(shown["import_wh"]) - np.asarray(table["import_wh"])).max() < 1.0
    assert (EXAMPLE / "reference.csv").read_bytes() == (week.folder / "reference.csv").read_bytes()


def test_a_study_runs_from_the_export_and_knows_the_loads_behind_the_pv(week: Week) -> None:
    """Nobody measured PV on this street: both units are estimated, and the year's load comes out within 3 % of what the
    houses drew; capacities, tables and report are there."""
    told = week.result["meter_data"]
    assert (told["customers"], told["days"]) == (6, DAYS)
    assert {e["customer"]: e["generation"] for e in told["existing"]} == dict.fromkeys(PLANTS, "estimated")
    drawn_wh = float(week.day.p_w.sum() / 60) / DAYS * 365
    assert told["load_wh_per_year"] == pytest.approx(drawn_wh, rel=0.03)
    given_wh = float(week.day.pv_w.sum() / 60) / DAYS * 365
    assert told["pv_wh_per_year"] == pytest.approx(given_wh, rel=0.03)
    for scenario in week.result["scenarios"]:
        hosted = {c["group"]: c for c in scenario["capacities"]}
        assert hosted["voltage"]["last_feasible_w"] > sum(PLANTS.values())
        assert hosted["voltage"]["violations"]
    report = (week.folder / "out" / "report.html").read_text("utf-8")
    assert "house-5: generation estimated from hall-roof" in report
    assert "only 7 days of meter data" in report


def test_an_export_without_a_word_about_its_pv_is_refused(week: Week, tmp_path: Path) -> None:
    """Both customers who feed in are named; nothing is written."""
    text = (week.folder / "study.toml").read_text("utf-8")
    start, end = text.index("[[existing]]"), text.index("[[scenarios]]")
    path = week.folder / "silent.toml"
    path.write_text(text[:start] + text[end:], "utf-8")
    done = _headroom_plan("probabilistic", str(path), "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "house-2" in done.stderr
    assert "house-5" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_limits_found_are_those_that_the_street_then_keeps(week: Week, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported tables, with addresses added, are a DCU's configuration: `headroom-dcu check-config` takes it, its
    meters have these limits, and a street with all the new PV stays within voltage limits on a clear noon: at the
    nominal limits alone, and with grants above them."""
    config = _configured(week)
    assert dcu_command(["check-config", str(config)]) == 0
    assert "6 meters" in capsys.readouterr().out
    known = load_config(config, DcuConfig)
    assert {e.id: (e.nominal_limit_w, e.contract_limit_w) for e in known.entries} == {
        m["id"]: (m["nominal_limit_w"], m["contract_limit_w"]) for m in week.limits
    }
    assert any(0 < m["nominal_limit_w"] < m["contract_limit_w"] for m in week.limits)
    contract_w = {m["id"]: m["contract_limit_w"] for m in week.limits}
    assert contract_w["house-2"] == PLANTS["house-2"], "the new unit at this bus is on the neighbour's phase"
    assert contract_w["house-3"] > 0
    flow, settings, noon = _noon(week)
    street = Street(flow, noon, settings, dcu=StreetDcu(known, flow.feeder.model))
    assert [street.engine.table[m["id"]].entry.nominal_limit_w for m in week.limits] == [
        m["nominal_limit_w"] for m in week.limits
    ]
    run = street.run()
    nominal_w = np.array([{m["id"]: m["nominal_limit_w"] for m in week.limits}[p.customer] for p in noon.plants])
    assert run.counts["grant"] > 0
    assert (run.limit_w >= nominal_w - 1e-6).all()
    assert (run.limit_w > nominal_w + 1.0).any()
    assert run.u_peak_v.max() <= 1.10 * 230.0
    unlimited_v = _voltages(flow, noon, noon.pv_w)
    static_v = _voltages(flow, noon, np.minimum(noon.pv_w, np.maximum(noon.own_w(), 0.0) + nominal_w))
    assert static_v.max() <= 1.10 * 230.0 < unlimited_v.max()


def _configured(week: Week) -> Path:
    """A full configuration of a DCU with a model, its meters' limits from the study."""
    flow, settings, _ = _noon(week)
    made = StreetDcu.of(settings, flow, {m["id"]: m["contract_limit_w"] for m in week.limits})
    content = made.config.model_dump(mode="json", exclude_none=True)
    address = {m["id"]: m["eui48"] for m in content["meters"]}
    content["meters"] = [m | {"eui48": address[m["id"]]} for m in week.limits]
    folder = week.folder / "site"
    folder.mkdir(exist_ok=True)
    save_model(flow.feeder.model, folder / MODEL_FILE)
    (folder / FILE).write_text(toml(content), "utf-8")
    return folder / FILE


def _noon(week: Week) -> tuple[StreetFlow, StreetSettings, Day]:
    """Twenty clear minutes with as much PV at every house as the study's level and what stands there."""
    feeder = Feeder(open_feeder(str(EXAMPLE / "network.json")))
    flow = StreetFlow(feeder, np.flatnonzero(np.isfinite(feeder.model.rating_a)))
    plants = {m["id"]: m["contract_limit_w"] for m in week.limits if m["contract_limit_w"] > 0}
    whole = days_of(feeder.network, plants, 1, 0)
    clear = make_day(feeder.network, "clear", 1.0, 0)
    at = slice(710, 730)
    pv_w = clear.pv_share[at, None] * np.array([p.peak_w for p in whole.plants])
    noon = Day(whole.minute[at], whole.p_w[at], whole.q_var[at], whole.plants, pv_w, clear.pv_share[at], "noon")
    return flow, StreetSettings(1000.0, 230.0, 10.0, report_s=15.0), noon


def _voltages(flow: StreetFlow, noon: Day, generated_w: np.ndarray) -> np.ndarray:
    found = []
    for draws_w, q_var in zip(noon.draws_w(generated_w), noon.q_var, strict=True):
        flow.solve(draws_w, q_var)
        found.append(flow.u_v.copy())
    return np.array(found)
