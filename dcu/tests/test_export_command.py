"""`headroom-dcu export` and `forget`: what a person sees when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.cli import main
from dcu.store.database import Database
from dcu.store.schema import EVENTS, TELEMETRY
from dcu.utility.outbox_file import UTILITY


def test_the_command_needs_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration whose DCU has never run: one line, exit code 2. A bad file may name a customer who left."""
    example = (Path(__file__).parents[2] / "deploy" / "dcu.toml").read_text()
    config = tmp_path / "dcu.toml"
    config.write_text(example.replace("/var/lib/headroom-dcu", str(tmp_path / "state")))
    assert main(["export", "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["forget", "--config", str(config), "meter-1"]) == 2
    assert "no store there" in capsys.readouterr().err
    for kind in (EVENTS, TELEMETRY):
        Database(tmp_path / "state" / "store", kind, "substation-1").close()
    outbox = UTILITY.path(tmp_path / "state" / "store")
    outbox.write_bytes(b"meter-1" * 100)
    for _ in range(2):  # what was set aside by this command, and what lay there before
        assert main(["forget", "--config", str(config), "meter-1"]) == 2
        assert f"remove {outbox.with_name('utility.bad-1.sqlite')}" in capsys.readouterr().err
    for path in outbox.parent.glob("utility.bad-1.*"):
        path.unlink()
    assert main(["forget", "--config", str(config), "meter-1"]) == 0
    with pytest.raises(SystemExit) as ended:
        main(["export", "--config", str(config), "--out", "out", "--from", "yesterday"])
    assert ended.value.code == 2
