"""`headroom-dcu export` and `forget`: what a person sees when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.cli import main


def test_the_command_needs_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration whose DCU has never run: one line, exit code 2."""
    example = (Path(__file__).parents[2] / "deploy" / "dcu.toml").read_text()
    config = tmp_path / "dcu.toml"
    config.write_text(example.replace("/var/lib/headroom-dcu", str(tmp_path / "state")))
    assert main(["export", "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["forget", "--config", str(config), "meter-1"]) == 2
    assert "no store there" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["export", "--config", str(config), "--out", "out", "--from", "yesterday"])
    assert ended.value.code == 2
