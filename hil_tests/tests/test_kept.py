"""An evaluated day must leave what a real DCU leaves, and be decided again from that alone, to the bit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dcu.cli import main as dcu
from dcu.config import DcuConfig
from dcu.grid.feeder import Feeder
from dcu.grid.network_file import save_network
from dcu.ledger.layout import current
from dcu.ledger.store import Walk
from hil_tests.cli import main
from hil_tests.cores import Street, StreetRun
from hil_tests.day import at_no_load_pu, make_day
from hil_tests.kept import LEDGER, Keeper, reproduce, toml
from hil_tests.street_dcu import StreetSettings, meter_names
from hil_tests.street_flow import StreetFlow
from hil_tests.tests.lane import lane
from shared.config import check_config


def play(directory: Path, minutes: int = 2, rule: str = "predicted") -> StreetRun:
    """A lane of houses from noon on, kept in a directory."""
    first = Feeder(lane())
    feeder = Feeder(at_no_load_pu(first.network, np.abs(first.model.u_open_v), first.u_nominal_v, 1.05))
    flow = StreetFlow(feeder, np.flatnonzero(np.isfinite(feeder.model.rating_a)))
    day = make_day(feeder.network, "broken", 1.0, 1, (720, 720 + minutes))
    before = make_day(feeder.network, "broken", 1.0, 1)
    settings = StreetSettings(1500.0, 230.0, 8.0, report_s=15.0, rule=rule, before=before, learn_days=1)
    keeper = Keeper(directory)
    street = Street(flow, day, settings, keeper.entry)
    run = street.run()
    keeper.close(street.dcu)
    return run


@pytest.mark.parametrize("rule", ["predicted", "learned", "mixed"])
def test_every_window_of_a_street_is_decided_again_from_its_files(rule: str, tmp_path: Path) -> None:
    """With the model, with what the days before taught, and with both: nothing but the directory is used."""
    run = play(tmp_path, rule=rule)
    found = reproduce(tmp_path)
    assert found.differences == ()
    assert found.windows == run.counts["window"] >= 5
    lessons = sum(entry["kind"] == "view" and entry["epoch"] == 2 for entry in Walk(tmp_path / LEDGER))
    assert found.views == found.windows + lessons
    assert found.near == 0
    kinds = ("grant", "renewal", "denial", "lowered", "revoke")
    assert found.decisions + found.alone == sum(run.counts.get(kind, 0) for kind in kinds) >= 10
    assert found.bytes > 10_000
    assert "all reproduced" in str(found)


def other_arithmetic() -> list[dict[str, str]]:
    """Environments in which NumPy and its linear algebra add up in another order: without vector instructions beyond
    the least, on an older processor's kernels, in two threads."""
    plain = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    kernels = {"x86_64": ("Nehalem", "Haswell"), "aarch64": ("CORTEXA53",)}.get(platform.machine(), ())
    found = [{"OPENBLAS_CORETYPE": name, "OPENBLAS_NUM_THREADS": "1"} for name in kernels]
    if plain:
        found.append({"NPY_DISABLE_CPU_FEATURES": " ".join(plain)})
    return [*found, {"OPENBLAS_NUM_THREADS": "2"}]


@pytest.mark.parametrize("rule", ["predicted", "mixed"])
def test_another_processors_arithmetic_makes_the_same_views_and_decisions(rule: str, tmp_path: Path) -> None:
    """In processes of their own: nothing differs by more than a last digit, and next to nothing by that."""
    play(tmp_path, rule=rule)
    here = reproduce(tmp_path)
    command = "import sys; from dcu.ledger_command import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["replay", str(tmp_path / LEDGER), "--config", str(tmp_path / "dcu.toml"), "--json"]
    for more in other_arithmetic():
        run = subprocess.run(
            [sys.executable, "-c", command, *arguments],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{more}: {run.stdout[-500:]} {run.stderr[-500:]}"
        found = json.loads(run.stdout)
        assert (found["windows"], found["views"], found["differences"]) == (here.windows, here.views, [])
        assert found["near"] <= 0.05 * (here.windows + here.views + here.decisions), more


def test_the_real_command_reads_it_and_sees_what_is_not_as_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`headroom-dcu` checks the configuration, verifies the ledger, decides it again; under another band it differs,
    with a flipped byte it is damaged, and both are counted."""
    play(tmp_path)
    told = str(tmp_path / "dcu.toml")
    assert dcu(["check-config", told]) == 0
    assert dcu(["verify-ledger", str(tmp_path / LEDGER)]) == 0
    capsys.readouterr()
    assert dcu(["replay", str(tmp_path / LEDGER), "--config", told, "--json"]) == 0
    good = json.loads(capsys.readouterr().out)
    assert (good["differences"], good["windows"]) == ([], reproduce(tmp_path).windows)
    text = (tmp_path / "dcu.toml").read_text(encoding="utf-8")
    (tmp_path / "dcu.toml").write_text(text.replace("band_pct = 8.0", "band_pct = 7.0"), encoding="utf-8")
    other = reproduce(tmp_path)
    assert other.differing > 1
    assert "NOT reproduced" in str(other)
    (tmp_path / "dcu.toml").write_text(text, encoding="utf-8")
    path = next(current(tmp_path / LEDGER).private.glob("journal-*"))
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert reproduce(tmp_path).differing >= 1


def test_a_day_that_was_kept_before_gives_way(tmp_path: Path) -> None:
    """The same day twice into one directory: the same ledger, not one behind the other."""
    play(tmp_path, minutes=1)
    first = Walk(tmp_path / LEDGER)
    play(tmp_path, minutes=1)
    again = Walk(tmp_path / LEDGER)
    assert (again.count, again.head, again.faults) == (first.count, first.head, [])
    assert next(iter(again))["kind"] == "start"


def test_the_command_keeps_the_ledger_and_says_that_all_came_out_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five minutes of a small feeder: in words, in the result, in the report."""
    feeder, out = tmp_path / "lane.json", tmp_path / "out"
    save_network(lane(), feeder)
    options = ["--feeder", str(feeder), "--pv-share", "1", "--from", "12:00", "--to", "12:05", "--out", str(out)]
    assert main(["evaluate", *options]) == 0
    printed = capsys.readouterr().out
    kept = json.loads((out / "result.json").read_text(encoding="utf-8"))["ledger"]
    words = f"{kept['windows']} windows, {kept['decisions']} decisions, all reproduced"
    assert kept["windows"] > 0
    assert words in printed
    assert words in (out / "report.html").read_text(encoding="utf-8")
    assert dcu(["replay", str(out / LEDGER), "--config", str(out / "dcu.toml")]) == 0


def test_names_that_no_configuration_takes_become_numbers() -> None:
    """A feeder from elsewhere: blanks, or too long."""
    assert meter_names(("house 1", "b")) == ("customer-1", "customer-2")
    assert meter_names(("a", "b" * 17)) == ("customer-1", "customer-2")
    assert meter_names(("a", "b.c-d_e")) == ("a", "b.c-d_e")


def test_a_configuration_survives_being_written(tmp_path: Path) -> None:
    """Numbers to the last bit, names with umlauts and quotes."""
    play(tmp_path, minutes=1)
    content = tomllib.loads((tmp_path / "dcu.toml").read_text(encoding="utf-8"))
    content["meters"][0]["bus"] = 'Straße "7" \\ Ost'
    content["decision"]["voltage_class_pct"] = 0.1 + 0.2
    config = check_config("a", content, DcuConfig)
    again = check_config("b", tomllib.loads(toml(config.model_dump(mode="json", exclude_none=True))), DcuConfig)
    assert again == config
