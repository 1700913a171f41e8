"""The shipped example configuration is good."""

from __future__ import annotations

from pathlib import Path

import pytest

from meter.cli import main

EXAMPLE = Path(__file__).parents[2] / "deploy" / "meter.toml"


def test_the_shipped_example_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    """`headroom-meter check-config deploy/meter.toml` says so."""
    assert main(["check-config", str(EXAMPLE)]) == 0
    assert "meter-1" in capsys.readouterr().out
