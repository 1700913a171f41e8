"""Studies, offline: how much a feeder can host, from what its meters have recorded."""

from __future__ import annotations

from pathlib import Path


def flobecq_like_folder() -> Path:
    """Where the stand-in feeder of the published study lies."""
    return Path(__file__).parent / "flobecq_like"
