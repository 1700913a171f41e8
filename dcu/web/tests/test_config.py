"""A page that anybody could open does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dcu.web.cli import main
from dcu.web.config import WebConfig, load_token, make_token
from shared.config import check_config, load_config
from shared.errors import ConfigError

ROOT = Path(__file__).parents[3]
DCU = {"socket": "/run/x.sock"}


@pytest.mark.parametrize(
    ("web", "words"),
    [
        ({}, "no page without authentication"),
        ({"certificate": "c", "key": "k"}, "no page without authentication"),
        ({"token_file": "t", "host": "0.0.0.0"}, "beyond the loopback"),
        ({"token_file": "t", "host": "substation.example"}, "beyond the loopback"),
        ({"client_ca": "ca"}, "certificate and key with client_ca"),
        ({"token_file": "t", "certificate": "c"}, "together"),
        ({"token_file": "t", "viewers_max": 0}, "greater than or equal to 1"),
        ({"token_file": "t", "port": 70000}, "less than or equal to 65535"),
    ],
)
def test_a_door_without_a_lock_is_refused(web: dict[str, Any], words: str) -> None:
    """Neither a forgotten token nor a forgotten certificate opens the street to a network."""
    with pytest.raises(ConfigError) as error:
        check_config("web.toml", {"web": web, "dcu": DCU}, WebConfig)
    assert words in str(error.value)


def test_a_made_token_is_good_and_secret(tmp_path: Path) -> None:
    """What the command makes is what the page takes; it never replaces one."""
    path = tmp_path / "web.token"
    make_token(path)
    token = load_token(path)
    assert len(token) >= 40
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        make_token(path)
    assert load_token(path) == token


@pytest.mark.parametrize("text", ["", "short", "a" * 64, "0123456789 0123456789 0123456789", "ü" * 40])
def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path, text: str) -> None:
    """Too short, one character, blanks, no ASCII."""
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        load_token(path)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """Whoever has a shell on the machine is not whoever may see the street."""
    path = tmp_path / "token"
    make_token(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="640"):
        load_token(path)


def test_the_example_configuration_is_good() -> None:
    """What `deploy/` shows can be used."""
    config = load_config(ROOT / "deploy" / "web.toml", WebConfig)
    assert config.web.host == "127.0.0.1"


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration without a token file, one with a token that is not there."""
    file = tmp_path / "web.toml"
    file.write_text(f'[web]\ntoken_file = "{tmp_path}/none"\n[dcu]\nsocket = "x"\n', encoding="utf-8")
    assert main(["check-config", str(file)]) == 2
    told = capsys.readouterr()
    assert "headroom-web token makes one" in told.err
    assert "Traceback" not in told.err
    make_token(tmp_path / "none")
    assert main(["check-config", str(file)]) == 0
    assert "opened by token" in capsys.readouterr().out
