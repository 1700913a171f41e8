"""The configuration of a meter: strict, and every mistake named by key, value and expectation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from meter.config import MeterConfig
from meter.relay import Level
from shared.config import check_config, load_config
from shared.errors import ConfigError
from shared.ids import Phase

GOOD: dict[str, dict[str, Any]] = {
    "meter": {
        "id": "meter-1",
        "eui48": "02:48:44:52:01:01",
        "state_directory": "/var/lib/headroom-meter",
        "nominal_limit_w": 1200.0,
        "contract_limit_w": 2400.0,
    },
    "em330": {"url": "tcp://192.168.1.20:502?unit=1"},
    "relay": {"pin": 5, "read_back_pin": 6},
    "plc": {"url": "/dev/plc0"},
    "protection": {"key_file": "/var/lib/headroom-meter/meter.key"},
    "home": {"port": 8480, "token_file": "/etc/headroom/token"},
}


def changed(section: str, key: str, value: object) -> dict[str, dict[str, Any]]:
    content = copy.deepcopy(GOOD)
    content.setdefault(section, {})[key] = value
    return content


def test_a_short_file_is_enough() -> None:
    """Everything else has a default, and the parts get what they need."""
    config = check_config("meter.toml", dict(GOOD), MeterConfig)
    settings = config.meter_settings
    assert (settings.nominal_limit_w, settings.contract_limit_w, settings.raised_limit_w) == (1200.0, 2400.0, None)
    assert settings.overvoltage_v == 252.0
    assert (settings.report_interval_s, settings.lease_s_max, settings.dialogue.repeat_s) == (15.0, 60.0, 5.0)
    assert config.em330_settings.phases == (Phase.L1,)
    assert (config.relay_settings.energised, config.relay_settings.read_back_pin) == (Level.LOW, 6)
    assert config.plc.stack_settings.modem.channel == 1
    assert config.state_directory == Path("/var/lib/headroom-meter")


@pytest.mark.parametrize(("nominal_v", "expected_v"), [(230.0, 252.0), (240.0, 262.9), (127.0, 139.1)])
def test_the_local_overvoltage_rule_obeys_i15_by_itself(nominal_v: float, expected_v: float) -> None:
    """252 V where 230 V are nominal and in proportion elsewhere; a site may only be stricter."""
    content: dict[str, object] = dict(changed("meter", "nominal_voltage_v", nominal_v))
    config = check_config("meter.toml", content, MeterConfig)
    assert config.meter_settings.overvoltage_v == expected_v
    stricter: dict[str, object] = dict(changed("meter", "overvoltage_v", 250.0))
    assert check_config("meter.toml", stricter, MeterConfig).meter_settings.overvoltage_v == 250.0


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("meter", "nominal_limit_w", -1.0),
        ("meter", "installation_limit_w", -1.0),
        ("meter", "installation_limit_w", float("nan")),
        ("request", "return_spread_s", -1.0),
        ("request", "return_spread_s", 600.1),
        ("request", "return_spread_s", float("nan")),
        ("relay", "dead_man", False),
        ("relay", "silence_s", 60.0),
        ("meter", "nominal_limit_w", float("nan")),
        ("meter", "nominal_limit_w", float("inf")),
        ("meter", "nominal_limit_w", "3kW"),
        ("meter", "nominal_limit_w", 1200.04),
        ("meter", "contract_limit_w", 1e309),
        ("meter", "contract_limit_w", 2e7),
        ("meter", "lease_s_max", 61.0),
        ("meter", "lease_s_max", 0.0),
        ("meter", "id", ""),
        ("meter", "id", "a name with blanks"),
        ("meter", "id", "longer-than-sixteen"),
        ("meter", "eui48", "02:48:44:52:01"),
        ("meter", "phases", ["D"]),
        ("meter", "phases", []),
        ("meter", "nominal_voltage_v", 0.0),
        ("meter", "report_interval_s", 0.0),
        ("meter", "report_interval_s", 61.0),
        ("meter", "no_such_key", 1),
        ("em330", "url", "http://192.168.1.20"),
        ("em330", "ct_ratio", 0.0),
        ("em330", "poll_s", 3.0),
        ("em330", "poll_s", 1.1),
        ("relay", "pin", 28),
        ("relay", "pin", "5"),
        ("relay", "energised", "maybe"),
        ("plc", "framing", "other"),
        ("plc", "channel", 9),
        ("home", "host", "0.0.0.0"),
        ("home", "host", "192.168.1.5"),
        ("home", "host", "localhost"),
        ("home", "port", 0),
        ("home", "port", -1),
        ("home", "port", 65536),
        ("request", "repeat_s", 0.1),
        ("request", "attempts_max", 0),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(section: str, key: str, value: object) -> None:
    """File, key, value seen and expectation stand in the one fault."""
    with pytest.raises(ConfigError) as caught:
        check_config("meter.toml", dict(changed(section, key, value)), MeterConfig)
    (fault,) = caught.value.faults
    assert fault.where.startswith(f"{section}.{key}")
    assert caught.value.file == "meter.toml"
    assert fault.expected


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("meter", "contract_limit_w", 1100.0, "contract_limit_w at least nominal_limit_w"),
        ("meter", "raised_limit_w", 2500.0, "raised_limit_w from nominal_limit_w"),
        ("meter", "raised_limit_w", 1100.0, "raised_limit_w from nominal_limit_w"),
        ("meter", "overvoltage_v", 230.0, "overvoltage_v above 230"),
        ("meter", "overvoltage_v", 252.1, "at most 252 "),
        ("meter", "phases", ["L1", "L1"], "each phase once"),
        ("relay", "read_back_pin", 5, "read_back_pin other than pin"),
        ("request", "repeat_s_max", 4.0, "repeat_s_max at least repeat_s"),
    ],
)
def test_values_that_contradict_each_other_are_refused(section: str, key: str, value: object, words: str) -> None:
    """No fail-safe can be configured away, and what belongs together fits together."""
    with pytest.raises(ConfigError, match=words):
        check_config("meter.toml", dict(changed(section, key, value)), MeterConfig)


@pytest.mark.parametrize("section", list(GOOD))
def test_a_missing_section_is_named(section: str) -> None:
    """Nothing of a meter is guessed."""
    content: dict[str, object] = {name: keys for name, keys in GOOD.items() if name != section}
    with pytest.raises(ConfigError, match=f"{section}: seen nothing, expected this key"):
        check_config("meter.toml", content, MeterConfig)


def test_all_faults_come_at_once() -> None:
    """A person corrects a file in one go."""
    content = changed("meter", "nominal_limit_w", -1.0)
    content["relay"]["pin"] = 99
    content["plc"]["chanel"] = 1
    with pytest.raises(ConfigError) as caught:
        check_config("meter.toml", dict(content), MeterConfig)
    assert [fault.where for fault in caught.value.faults] == ["meter.nominal_limit_w", "relay.pin", "plc.chanel"]


@pytest.mark.parametrize("content", [b"", b"[meter", b"[meter]\nid='a'\nid='b'\n", b"\xff\xfe", b"x" * (2 << 20)])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, half-written, a key twice, not UTF-8, far too large."""
    path = tmp_path / "meter.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_config(path, MeterConfig)


@pytest.mark.parametrize(("token", "words"), [(None, "token_file"), ("short", "at least 16"), ("ü" * 20, "token_file")])
def test_the_token_must_be_there_and_long_enough(tmp_path: Path, token: str | None, words: str) -> None:
    """No default, no password that can be guessed."""
    path = tmp_path / "token"
    if token is not None:
        path.write_text(token, encoding="utf-8")
    config = check_config("meter.toml", dict(changed("home", "token_file", str(path))), MeterConfig)
    with pytest.raises(ConfigError, match=words):
        config.home_settings("meter.toml")
    path.write_text("0123456789abcdef\n", encoding="ascii")
    assert config.home_settings("meter.toml").token == "0123456789abcdef"
