"""`headroom-meter`: one clear line and exit code 2 on bad input, and a commissioning that says what it saw."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meter import commission, guard
from meter.cli import main
from meter.commission import Finding, click_relay, inspect_em330
from meter.config import MeterConfig
from meter.real import LOCK
from meter.tests.far_end import KEYS
from meter.tests.jumping import run_jumping
from meter.tests.test_config import GOOD
from meter.tests.test_daemon import FakeRegisters, FakeRelay
from shared.clock import LoopClock
from shared.config import check_config
from shared.keys import meter_content
from shared.messages import RelayState
from shared.secret_files import save_secret

CONFIG = check_config("meter.toml", dict(GOOD), MeterConfig)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration whose EM330 nobody answers for, on a port nobody else takes."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    content = {name: dict(keys) for name, keys in GOOD.items()}
    content["meter"]["state_directory"] = str(tmp_path / "state")
    content["em330"]["url"] = "tcp://127.0.0.1:9?unit=1"
    content["plc"]["url"] = str(tmp_path / "no-modem")
    content["home"] = {"port": port, "token_file": str(token)}
    content["protection"]["key_file"] = str(tmp_path / "meter.key")
    save_secret(tmp_path / "meter.key", meter_content(KEYS))
    path = tmp_path / "meter.toml"
    path.write_text(toml(content))
    return path


def toml(content: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, keys in content.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines)


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and a line one can copy."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "headroom-meter run --config" in capsys.readouterr().out


def test_a_good_file_is_said_to_be_good(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the limits it gives."""
    assert main(["check-config", str(file)]) == 0
    assert "good; meter meter-1, 1200 W nominal, 2400 W by contract" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["check-config"], ["run", "--config"], ["commission", "--config"]])
@pytest.mark.parametrize("name", ["missing.toml", "bad.toml", "."])
def test_a_bad_file_is_exit_code_2_and_one_line_for_each_fault(
    command: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """File, key, seen, expected; no traceback, for every command."""
    (tmp_path / "bad.toml").write_text("[meter]\nid = 7\n")
    assert main([*command, str(tmp_path / name)]) == 2
    printed = capsys.readouterr().err
    assert f"{tmp_path / name}: " in printed
    assert "expected" in printed
    assert "Traceback" not in printed


def test_a_second_instance_is_exit_code_2_and_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither daemon nor commissioning starts while another process has the meter."""
    state = file.parent / "state"
    state.mkdir()
    lock = os.open(state / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for command in ("run", "commission"):
        assert main([command, "--config", str(file)]) == 2
        assert capsys.readouterr().err == f"error: state directory {state}: another headroom-meter has this meter\n"
    os.close(lock)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key: key.unlink(), "make one with headroom-keys export"),
        (lambda key: key.chmod(0o644), "mode 600"),
        (lambda key: key.write_text(key.read_text()[:-20]), "no JSON"),
        (lambda key: key.write_text(key.read_text().replace("meter-1", "meter-2")), "seen keys of meter-2"),
        (lambda key: key.write_text(key.read_text().replace(":01:01", ":01:02")), "expected keys of meter-1"),
        (lambda key: key.write_text(key.read_text().replace('"master": "', '"master": "X')), "seen something else"),
    ],
)
def test_without_its_own_keys_a_meter_does_not_start(
    file: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], object], words: str
) -> None:
    """One clear line that names the remedy and shows no key; there is no way round it."""
    key = file.parent / "meter.key"
    change(key)
    assert main(["run", "--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert KEYS.master.hex() not in line


def test_a_taken_home_port_is_exit_code_2_and_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the relay is touched."""
    port = int(next(line for line in file.read_text().splitlines() if line.startswith("port")).split()[-1])
    with socket.create_server(("127.0.0.1", port)):
        assert main(["run", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: home door 127.0.0.1:{port}: ")


def test_commissioning_a_silent_em330_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1: the command worked, the meter did not."""
    assert main(["commission", "--config", str(file), "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["what"], row["good"]) == ("EM330", False)
    assert "no connection" in row["seen"]


def test_commissioning_clicks_a_relay_without_contact_and_finds_out(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contact that never follows: raised is not read back, and the pin is given back de-energised."""

    class Loose(FakeRelay):
        def read_back(self) -> RelayState:
            return RelayState.NOMINAL

    relay = Loose()
    monkeypatch.setattr(commission, "CLICK_S", 0.0)
    monkeypatch.setattr(guard, "GuardedRelay", lambda _settings: relay)
    assert main(["commission", "--config", str(file), "--click"]) == 1
    printed = capsys.readouterr().out
    assert "relay raised                 read back NOMINAL                        <-- not good" in printed
    assert "relay nominal                read back NOMINAL\n" in printed
    assert (relay.closed, relay.commanded) == (True, RelayState.NOMINAL)


def test_commissioning_shows_identity_mode_and_one_reading() -> None:
    """Everything a person compares with the label on the device."""

    async def world() -> list[Finding]:
        return await inspect_em330(CONFIG, FakeRegisters(), LoopClock())

    seen = {found.what: found.seen for found in run_jumping(world)}
    assert seen["EM330"] == "EM330 (150 V)"
    assert seen["measurement mode"] == "B, export is measured"
    assert seen["current transformer ratio"] == "1"
    assert seen["export now"] == "1200 W"
    assert seen["reading L1"].endswith("-5 A  -1200 W  0 var")


def test_commissioning_leaves_the_relay_nominal() -> None:
    """Raised, read back, nominal, read back; and nominal at last if anything goes wrong between."""

    class Broken(FakeRelay):
        def read_back(self) -> RelayState:
            raise RuntimeError("no contact")

    async def world(relay: FakeRelay) -> list[Finding]:
        return await click_relay(relay)

    good = FakeRelay()
    assert [found.good for found in run_jumping(lambda: world(good))] == [True, True]
    broken = Broken()
    with pytest.raises(RuntimeError):
        run_jumping(lambda: world(broken))
    assert broken.commanded is RelayState.NOMINAL
