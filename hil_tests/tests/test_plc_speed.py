"""The comparison of two checkouts' streets: each has to be run with its own sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.plc_speed import environment


def test_a_checkout_whose_sources_are_not_imported_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands elsewhere on the path would be measured twice, and found the same."""
    elsewhere = tmp_path / "elsewhere" / "prime_plc"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(elsewhere.parent))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    with pytest.raises(SystemExit, match="is imported instead"):
        environment(checkout)
