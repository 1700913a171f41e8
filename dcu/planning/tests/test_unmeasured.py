"""A study from data without measured PV: the reference from elsewhere, and every choice for units nobody measures."""

from __future__ import annotations

import json
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dcu.planning.probabilistic_report import write
from dcu.planning.reading import Read, read_study
from dcu.planning.run import Findings, run
from dcu.planning.settings import ProbabilisticStudy
from dcu.planning.study.workers import Progress
from dcu.planning.tests.stand_in import FOLDER, content, study
from shared.errors import ConfigError

UNITS = ("user_4", "user_5", "user_12", "user_14")
DAYS = 28


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four weeks of spring: `metered.parquet` as it was made, `dcu.parquet` as a DCU would export it, and
    `elsewhere.parquet`, a unit as user_5's with a meter of its own and nothing else; `last-year.parquet` is that a year
    earlier."""
    folder = tmp_path_factory.mktemp("street")
    whole = pq.read_table(FOLDER / "meters.parquet")
    first = pc.min(whole["start_utc"]).as_py() + timedelta(days=100)
    kind = whole["start_utc"].type
    inside = pc.and_(
        pc.greater_equal(whole["start_utc"], pa.scalar(first, kind)),
        pc.less(whole["start_utc"], pa.scalar(first + timedelta(days=DAYS), kind)),
    )
    metered = whole.filter(inside)
    pq.write_table(metered, folder / "metered.parquet")
    blank = pa.nulls(len(metered), pa.float64())
    pq.write_table(_with(metered, "pv_wh", blank), folder / "dcu.parquet")
    own = metered.filter(pc.equal(pc.cast(metered["customer"], pa.string()), "user_5"))
    own = _with(own, "customer", pa.array(["elsewhere"] * len(own)))
    for name in ("import_wh", "export_wh"):
        own = _with(own, name, pa.nulls(len(own), pa.float64()))
    pq.write_table(own, folder / "elsewhere.parquet")
    before = pc.subtract(own["start_utc"], pa.scalar(timedelta(days=364), pa.duration(kind.unit)))
    pq.write_table(_with(own, "start_utc", before), folder / "last-year.parquet")
    return folder


def _study(
    street: Path, generation: dict[str, str], reference: str = "elsewhere", days: int = 3, **more: Any
) -> ProbabilisticStudy:
    """Scenario A from the DCU's data, each unit's generation known as told, those not named not declared."""
    raw = content()
    raw["network"]["file"] = str(FOLDER / "network.json")
    raw["meter_data"]["files"] = [str(street / "dcu.parquet")]
    raw["reference"] = {
        "customer": "elsewhere",
        "files": [str(street / f"{reference}.parquet")],
        "rated_w": 10_000.0,
    }
    raw["existing"] = [
        e | {"generation": generation[e["customer"]]} for e in raw["existing"] if e["customer"] in generation
    ]
    raw["scenarios"] = raw["scenarios"][:1]
    raw["sampling"]["days"] = days
    raw["extras"] = {"planner_map": False, "deterministic": False}
    del raw["study"]["check_table"]
    for section, values in more.items():
        raw[section] = raw[section] | values
    return ProbabilisticStudy.model_validate(raw)


def _found(asked: ProbabilisticStudy, folder: Path) -> tuple[Read, Findings]:
    read = read_study(asked, folder)
    return read, run(read, None, 0, Progress(silent=True))


def _hosted_w(found: Findings) -> float:
    return next(c.last_feasible_w for c in found.capacities["A"] if c.group == "voltage") or 0.0


def test_estimated_generation_is_the_measured_one_where_all_have_one_sun(street: Path) -> None:
    """The stand-in's units have one sun, and yields for each kVA that differ by up to 2 %: loads behind the meters come
    out within 5 % of their mean, that of the reference's twin exactly, and the capacity is the measured study's."""
    data = {"files": [str(street / "metered.parquet")]}
    measured, known = _found(study(3, "A", meter_data=data), FOLDER)
    estimated, found = _found(_study(street, dict.fromkeys(UNITS, "estimated")), street)
    assert estimated.inputs.past.pv_customers == UNITS
    for name in UNITS:
        k = measured.inputs.past.customers.index(name)
        truth, made = (read.inputs.past.load_w[k] for read in (measured, estimated))
        assert np.abs(made - truth).mean() < (0.001 if name == "user_5" else 0.05) * truth.mean(), name
        assert made.min() >= 0.0
    assert _hosted_w(found) == _hosted_w(known) > 100_000.0
    told = " ".join(estimated.notes)
    assert "user_5: generation estimated from elsewhere at 10000 W" in told
    assert "a unit elsewhere, gave on 28 days" in told


def test_a_rating_that_is_too_small_makes_no_negative_load(street: Path) -> None:
    """What was fed in was generated: a unit declared at half its rating keeps its load at zero or above, and the study
    says how often the estimate was too small."""
    asked = _study(street, dict.fromkeys(UNITS, "estimated"))
    half = [e.model_copy(update={"rated_w": e.rated_w / 2}) for e in asked.existing]
    read = read_study(asked.model_copy(update={"existing": half}), street)
    k = read.inputs.past.customers.index("user_5")
    assert read.inputs.past.load_w[k].min() >= 0.0
    sentence = next(note for note in read.notes if note.startswith("user_5"))
    assert int(sentence.split(" in ")[1].split("%")[0]) > 50


def test_who_feeds_in_and_is_not_declared_refuses_the_study(street: Path) -> None:
    """Nobody's PV is overlooked: each customer is named, with the choices there are."""
    for generation in ({"user_4": "estimated"}, {"user_4": "estimated", "user_5": "measured"}):
        with pytest.raises(ConfigError) as refused:
            read_study(_study(street, generation), street)
        assert [fault.where for fault in refused.value.faults] == [
            "customer user_5",
            "customer user_12",
            "customer user_14",
        ]
        assert '"estimated", "net" or "excluded"' in str(refused.value)


def test_net_and_excluded_units_are_what_they_say(street: Path, tmp_path: Path) -> None:
    """Net: the rating counts, the port is limited, no self-sufficiency is told. Excluded: neither load nor rating nor
    limit. Both are named in the report."""
    generation = {"user_4": "estimated", "user_5": "net", "user_12": "estimated", "user_14": "excluded"}
    asked = _study(street, generation, extras={"planner_map": False, "deterministic": True, "headroom": "A"})
    read, found = _found(asked, street)
    case = read.world.cases["A"]
    assert "user_14" not in read.inputs.past.customers
    assert case.existing_w == 5000.0 + 10_000.0 + 2630.0
    k = read.inputs.past.customers.index("user_5")
    assert read.inputs.past.load_w[k].min() < -5000.0, "net power: feeding in is negative load"
    assert case.feeder.network.ports()[0] is not None
    assert set(case.existing_ports) > set(np.flatnonzero(case.existing_share.any(axis=0)))
    write(read, found, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert result["self_sufficiency"] == []
    assert {e["customer"]: e["generation"] for e in result["meter_data"]["existing"]} == generation
    text = (tmp_path / "out" / "nominal_limits.toml").read_text("utf-8")
    limits = {m["id"]: m for m in tomllib.loads(text)["meters"]}
    assert len(limits) == 18
    assert "# user_14 was left out of the study" in text
    net = next(p for p in read.inputs.network.connection_points if p.id == "user_5")
    assert limits[net.meter or net.id]["contract_limit_w"] >= 10_000.0
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "user_5: generation unknown" in report
    assert "user_14: left out with load and PV" in report


def test_a_feeder_without_any_pv_needs_the_reference_alone(street: Path, tmp_path: Path) -> None:
    """Nobody feeds in yet: all parts of a study have their answer, deterministic cases included."""
    table = pq.read_table(street / "metered.parquet")
    load = np.asarray(table["import_wh"]) - np.asarray(table["export_wh"]) + np.nan_to_num(np.asarray(table["pv_wh"]))
    table = _with(_with(table, "import_wh", pa.array(np.maximum(load, 0))), "export_wh", pa.array(np.zeros(len(load))))
    pq.write_table(_with(table, "pv_wh", pa.nulls(len(load), pa.float64())), tmp_path / "dark.parquet")
    extras = {"headroom": "A", "load_models": "A", "rare": {"scenario": "A", "level": 7, "states": 1000}}
    asked = _study(
        street,
        {},
        meter_data={"files": [str(tmp_path / "dark.parquet")]},
        extras=extras | {"planner_map": False, "deterministic": True, "rebalance": "A"},
    )
    read, found = _found(asked, street)
    assert found.untold == ()
    assert read.inputs.profiles.pv_customers == ()
    assert len(found.load_models) == 5
    assert {case: bool(cs) for case, cs in found.deterministic["A"].items()} == {"I": True, "II": True, "III": True}
    write(read, found, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert result["self_sufficiency"]
    hosted = {c["group"]: c["last_feasible_w"] for c in result["scenarios"][0]["capacities"]}
    reference = result["meter_data"]["reference"]
    by = {r["group"]: r["share"] for r in result["self_sufficiency"] if r["scenario"] == "A"}
    assert by["voltage"] == pytest.approx(
        hosted["voltage"] * reference["yield_wh_per_w"] / result["meter_data"]["load_wh_per_year"]
    )


def test_a_reference_of_another_year_gives_distributions_and_no_instants(street: Path) -> None:
    """Capacities need the sun's distribution alone and are the same; what needs loads and sun of one instant says that
    it has none, or refuses."""
    dark = dict.fromkeys(UNITS, "net")
    extras = {"planner_map": False, "deterministic": True, "load_models": "A"}
    then, before = (
        _found(_study(street, dark, reference=name, extras=extras), street) for name in ("elsewhere", "last-year")
    )
    assert _hosted_w(then[1]) == _hosted_w(before[1]) > 0.0
    assert then[1].untold == ()
    told = " ".join(before[1].untold)
    assert "no interval with all loads and the sun recorded" in told
    assert "no complete day recorded by all PV units" in told
    with pytest.raises(ConfigError, match="0 intervals in common with elsewhere"):
        read_study(_study(street, dict.fromkeys(UNITS, "estimated"), reference="last-year"), street)
    with pytest.raises(ConfigError, match="no day of class"):
        read_study(_season(street, dark), street)


def _season(street: Path, generation: dict[str, str]) -> ProbabilisticStudy:
    """Pooled by month, with a reference of other months."""
    table = pq.read_table(street / "elsewhere.parquet")
    later = pc.add(table["start_utc"], pa.scalar(timedelta(days=120), pa.duration(table["start_utc"].type.unit)))
    pq.write_table(_with(table, "start_utc", later), street / "summer.parquet")
    return _study(street, generation, reference="summer", sampling={"pool": "month", "days": 3})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["reference"].pop("rated_w"), "files and rated_w, or neither"),
        (lambda r: r["reference"].pop("files"), "files and rated_w, or neither"),
        (lambda r: r["reference"].update(customer="nobody"), "one with measured PV: elsewhere"),
        (lambda r: r["reference"].update(files=["none.csv"]), "none.csv"),
        (lambda r: r["reference"].update(files=["none-*.csv"]), "files that fit the pattern"),
        (lambda r: r["reference"].update(rated_w=-1.0), "rated_w"),
        (lambda r: r["existing"][0].update(generation="guessed"), "generation"),
        (lambda r: r["existing"][0].update(customer="user_99"), "user_99"),
    ],
)
def test_a_wrong_reference_is_refused_with_its_key(street: Path, change, says: str) -> None:  # type: ignore[no-untyped-def]
    """One clear fault before anything is computed."""
    raw = _study(street, dict.fromkeys(UNITS, "net")).model_dump(mode="python", exclude_none=True)
    change(raw)
    with pytest.raises((ConfigError, ValueError), match=says):
        read_study(ProbabilisticStudy.model_validate(raw), street)


def test_a_reference_of_another_interval_is_refused(street: Path, tmp_path: Path) -> None:
    """Half-hours do not say what a quarter-hour was."""
    rows = [f"roof,2013-04-{1 + k // 48:02d}T{k % 48 // 2:02d}:{k % 2 * 30:02d}:00Z,,,{k % 7}," for k in range(48 * 20)]
    head = "customer,start_utc,import_wh,export_wh,pv_wh,u_mean_v"
    (tmp_path / "roof.csv").write_text("\n".join([head, *rows]) + "\n", "utf-8")
    raw = _study(street, dict.fromkeys(UNITS, "net")).model_dump(mode="python", exclude_none=True)
    raw["reference"] = {"customer": "roof", "files": [str(tmp_path / "roof.csv")], "rated_w": 1000.0}
    with pytest.raises(ConfigError, match="1800 s, expected 900 s"):
        read_study(ProbabilisticStudy.model_validate(raw), street)


@pytest.mark.parametrize("scale", [4.0, 0.001], ids=["W for Wh", "kWh for Wh"])
@pytest.mark.parametrize("which", ["reference", "existing"])
def test_generation_that_does_not_fit_its_rating_is_refused(
    street: Path, tmp_path: Path, which: str, scale: float
) -> None:
    """Powers or kWh in the column of Wh are four times or a thousandth: refused with the unit, and nobody's else."""
    file = {"reference": "elsewhere", "existing": "metered"}[which]
    table = pq.read_table(street / f"{file}.parquet")
    who = {"reference": "elsewhere", "existing": "user_12"}[which]
    own = pc.equal(pc.cast(table["customer"], pa.string()), who)
    wrong = pc.if_else(own, pc.multiply(table["pv_wh"], scale), table["pv_wh"])
    pq.write_table(_with(table, "pv_wh", wrong), tmp_path / f"{file}.parquet")
    asked = (
        _study(tmp_path, dict.fromkeys(UNITS, "net"), meter_data={"files": [str(street / "dcu.parquet")]})
        if which == "reference"
        else study(3, "A", meter_data={"files": [str(tmp_path / "metered.parquet")]})
    )
    with pytest.raises(ConfigError, match=r"times its rated .*, expected 0\.1 \.\. 1\.5 times") as refused:
        read_study(asked, FOLDER)
    assert [fault.where for fault in refused.value.faults] == [f"customer {who}"]
