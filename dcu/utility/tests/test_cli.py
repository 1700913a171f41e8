"""`headroom-utility`: what it signs a DCU believes, keys are printed nowhere, and bad input is one line and 2."""

from __future__ import annotations

import base64
import json
import ssl
import time
from pathlib import Path

import pytest

from dcu.utility.broker import TlsFiles
from dcu.utility.cli import main
from dcu.utility.commands import Command, Judge, RevokeAll

ORDER = '{"kind": "revoke_all", "hold_s": 60}'


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, bytes]:
    """A key's file and its public half, as printed."""
    path = tmp_path / "command.key"
    assert main(["new-key", str(path), "--json"]) == 0
    return path, base64.b64decode(json.loads(capsys.readouterr().out)["public"])


def test_a_signed_command_is_believed_by_a_dcu_that_pins_the_key(
    key: tuple[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbered by the clock: the next one is higher."""
    path, public = key
    judge, last = Judge("substation-1", (public,)), 0
    for _ in range(2):
        assert main(["sign", str(path), "--dcu", "substation-1", "--order", ORDER]) == 0
        payload = capsys.readouterr().out.strip().encode()
        found = judge.judge(payload, retained=False, last=last, utc_s=time.time())
        assert isinstance(found, Command)
        assert found.order == RevokeAll(kind="revoke_all", hold_s=60.0)
        last = found.number
        time.sleep(0.002)


def test_keys_are_for_one_user_printed_nowhere_and_replace_nothing(
    key: tuple[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's mode, and what the commands print."""
    path, _ = key
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_text(encoding="ascii").strip()
    before = path.read_bytes()
    assert main(["new-key", str(path)]) == 2
    assert main(["sign", str(path), "--dcu", "d", "--order", ORDER]) == 0
    told = capsys.readouterr()
    assert secret not in told.out + told.err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"--order": "revoke everything"}, "expected JSON"),
        ({"--order": '{"kind": "reboot"}'}, "order"),
        ({"--order": '{"kind": "set_band", "band_pct": 50}'}, "band_pct"),
        ({"--valid-s": "999999"}, "--valid-s"),
    ],
)
def test_what_a_dcu_would_not_read_is_not_signed(
    key: tuple[Path, bytes], change: dict[str, str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, nothing on standard output."""
    options = {"--dcu": "substation-1", "--order": ORDER, **change}
    assert main(["sign", str(key[0]), *(part for option in options.items() for part in option)]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert word in told.err


@pytest.mark.parametrize("content", [b"", b"not a key", b"A" * 44, b"\xff" * 200])
def test_a_file_that_is_no_key_is_not_shown(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor one that is missing, or a directory."""
    path = tmp_path / "key"
    path.write_bytes(content)
    for file in (path, tmp_path / "missing", tmp_path):
        assert main(["sign", str(file), "--dcu", "d", "--order", ORDER]) == 2
        assert content.decode(errors="replace") not in (told := capsys.readouterr().err) or not content
        assert told.count("\n") == 1


def test_certificates_of_a_bench_are_made_once_and_fit_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second call adds what is new; strict verification takes all of them."""
    arguments = ["certificates", str(tmp_path), "--broker", "127.0.0.1", "--for", "dcu-1", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"made": ["ca", "broker", "dcu-1"]}
    kept = (tmp_path / "dcu-1.crt").read_bytes()
    assert main([*arguments, "--for", "utility"]) == 0
    assert json.loads(capsys.readouterr().out) == {"made": ["utility"]}
    assert (tmp_path / "dcu-1.crt").read_bytes() == kept
    for name in ("dcu-1", "utility"):
        files = TlsFiles(tmp_path / "ca.crt", tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        context = files.context()
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert len(context.get_ca_certs()) == 1
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


def test_a_broker_that_is_not_there_is_one_line(key: tuple[Path, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens on port 1."""
    assert main(["send", str(key[0]), "--dcu", "d", "--order", ORDER, "--url", "mqtt://127.0.0.1:1"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err
