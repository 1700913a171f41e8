"""A DCU's configuration: the shipped example is good, and everything wrong is named."""

from __future__ import annotations

import copy
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dcu.cli import main
from dcu.config import DcuConfig
from dcu.keys import new_ring, save_ring
from shared.config import check_config
from shared.errors import ConfigError
from shared.ids import MeterId, parse_eui48

EXAMPLE = Path(__file__).parents[2] / "deploy" / "dcu.toml"


def example() -> dict[str, Any]:
    return tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))


def test_the_shipped_example_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    """`headroom-dcu check-config deploy/dcu.toml` says so."""
    assert main(["check-config", str(EXAMPLE)]) == 0
    told = capsys.readouterr().out
    assert "good; DCU" in told
    assert "rule present-voltages/1: no network model" in told


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("site", "lease_s", 61.0, ["site.lease_s", "61.0", "60"]),
        ("site", "lease_s", -1.0, ["site.lease_s", "-1.0", "greater than 0"]),
        ("site", "lease_s", float("inf"), ["site.lease_s", "inf"]),
        ("site", "lease_s", float("nan"), ["site.lease_s", "nan"]),
        ("balancing", "bus", "a\x00b", ["balancing.bus"]),
        ("site", "band_pct", -5.0, ["site.band_pct", "-5.0"]),
        ("site", "band_pct", 10.1, ["site.band_pct", "10.1"]),
        ("site", "band_pct", 9.0, ["band of at most 8.69 % for decision.rule present", "9"]),
        ("site", "reading_age_s_max", 3600.0, ["site.reading_age_s_max", "3600", "900"]),
        ("site", "nominal_voltage_v", float("nan"), ["site.nominal_voltage_v", "nan"]),
        ("site", "renew_interval_s", 60.0, ["site", "renew_interval_s below lease_s"]),
        ("site", "bandpct", 5.0, ["site.bandpct", "no such key"]),
        ("balancing", "url", "modbus://x", ["balancing.url", "tcp://"]),
        ("dcu", "eui48", "zz", ["dcu.eui48", "six pairs"]),
        ("dcu", "id", "two words", ["dcu.id", "pattern"]),
        ("plc", "channel", 9, ["plc.channel", "9"]),
    ],
)
def test_a_fault_names_key_seen_and_expected(table: str, key: str, value: object, words: list[str]) -> None:
    """Beyond the maximum, negative, NaN, unknown, malformed: refused with the key and what was expected."""
    content = example()
    content[table][key] = value
    with pytest.raises(ConfigError) as caught:
        check_config("dcu.toml", content, DcuConfig)
    for word in ["dcu.toml", "seen", "expected", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("key", ["id", "eui48"])
def test_the_same_meter_twice_is_refused(key: str) -> None:
    """Two meters cannot share a name or an address."""
    content = example()
    content["meters"].append(copy.deepcopy(content["meters"][0]))
    other = "eui48" if key == "id" else "id"
    content["meters"][-1][other] = "AA:BB:CC:DD:EE:FF" if other == "eui48" else "another"
    with pytest.raises(ConfigError, match=f"each {key} once"):
        check_config("dcu.toml", content, DcuConfig)


def test_a_meter_with_limits_in_the_wrong_order_is_refused() -> None:
    """The contract is never below the nominal limit, and no limit is negative."""
    content = example()
    content["meters"][0]["contract_limit_w"] = 1.0
    content["meters"][1]["nominal_limit_w"] = -1.0
    with pytest.raises(ConfigError) as caught:
        check_config("dcu.toml", content, DcuConfig)
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["check-config", "missing.toml"],
        ["run", "--config", "missing.toml"],
        ["status", "--socket", "nobody.sock"],
        ["verify-ledger", "."],
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing file, no daemon, no ledger: exit code 2, one line on standard error, nothing on standard output."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    ("meters", "dcu", "words"),
    [
        (None, "02:48:44:52:00:01", ["headroom-keys make"]),
        ({"meter-1": "02:48:44:52:01:01"}, "02:48:44:52:00:01", ["meters.meter-2", "headroom-keys make"]),
        ({"meter-1": "02:48:44:52:01:09", "meter-2": "02:48:44:52:01:02"}, "02:48:44:52:00:01", ["meters.meter-1"]),
        ({"meter-1": "02:48:44:52:01:01", "meter-2": "02:48:44:52:01:02"}, "02:48:44:52:00:02", ["eui48"]),
    ],
)
def test_without_keys_for_every_meter_a_dcu_does_not_start(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    meters: dict[str, str] | None,
    dcu: str,
    words: list[str],
) -> None:
    """No file, a meter without keys, another address, another DCU's file: one clear line, nothing touched."""
    keys = tmp_path / "keys.json"
    if meters is not None:
        named = {MeterId(name): parse_eui48(eui48) for name, eui48 in meters.items()}
        save_ring(keys, new_ring(parse_eui48(dcu), random.Random(1).randbytes).made(named, random.Random(2).randbytes))
    config = tmp_path / "dcu.toml"
    text = EXAMPLE.read_text(encoding="utf-8").replace("/etc/headroom/keys.json", str(keys))
    config.write_text(text.replace("/var/lib/headroom-dcu", str(tmp_path / "state")), encoding="utf-8")
    assert main(["run", "--config", str(config)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "expected" in line]
    assert all(word in line for word in words)
    assert not (tmp_path / "state").exists()
