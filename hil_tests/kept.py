"""The memory of an evaluated day, as a real DCU leaves it: its ledger, its configuration, its model; decided again.

    <directory>/ledger/, <directory>/dcu.toml, <directory>/model.npz

so that `headroom-ledger replay <directory>/ledger --config <directory>/dcu.toml` and everything else that reads a DCU's
ledger works on it. Two things differ: nobody waits for the disk, as a played day can be played again, and the log's key
and salts are drawn from a seed, so that it comes out the same.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dcu.config import DcuConfig
from dcu.grid.port_model import save_model
from dcu.ledger.store import Ledger, RealFiles
from dcu.site import replay_ledger
from hil_tests import street_dcu
from hil_tests.street_dcu import StreetDcu
from shared.config import load_config

LEDGER: Final = "ledger"
SEED: Final = 1

DIFFERENCES_MAX: Final = 20
"""Told in words; all are counted."""


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What came of deciding a day again: windows, the decisions they made, decisions that no window made (`alone`, not
    decided again); `views` made again from the readings; `near` came out the same but for a last digit; `differing`
    counts what did not come out as recorded, or was damaged."""

    entries: int
    bytes: int
    windows: int
    decisions: int
    alone: int
    views: int
    near: int
    differing: int
    differences: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "all reproduced" if not self.differing else f"{self.differing} NOT reproduced"
        alone = f" ({self.alone} decisions without a window not looked at)" if self.alone else ""
        near = f", {self.near} but for a last digit" if self.near else ""
        return f"{self.windows} windows, {self.decisions} decisions, {verdict}{near}, {self.views} views{alone}"

    @property
    def size(self) -> str:
        """Of the ledger, in words."""
        return f"{self.entries} entries, {self.bytes / 1e6:.1f} MB"

    def as_json(self) -> dict[str, Any]:
        """For `result.json`."""
        return asdict(self) | {"differences": list(self.differences)}


class _NotWaiting(RealFiles):
    def sync(self, file: int) -> None:
        """Nobody waits for the medium."""


class Keeper:
    """Keeps one day in a directory; a day kept there before gives way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        shutil.rmtree(directory / LEDGER, ignore_errors=True)
        (directory / street_dcu.FILE).unlink(missing_ok=True)
        draw = random.Random(SEED).randbytes
        self._ledger = Ledger(directory / LEDGER, street_dcu.DCU, _NotWaiting(), draw=draw)

    def entry(self, entry: dict[str, Any]) -> None:
        """One more."""
        self._ledger.append(entry)

    @property
    def ledger(self) -> Ledger:
        """Where it is kept."""
        return self._ledger

    def close(self, dcu: StreetDcu) -> None:
        """The day is over: what its DCU was told and decided with goes beside its ledger."""
        self._ledger.close()
        if dcu.model is not None:
            save_model(dcu.model, self._directory / street_dcu.MODEL_FILE)
        text = toml(dcu.config.model_dump(mode="json", exclude_none=True))
        (self._directory / street_dcu.FILE).write_text(text, encoding="utf-8")


def reproduce(directory: Path) -> Reproduced:
    """Decide a kept day again, from its files alone."""
    config = load_config(directory / street_dcu.FILE, DcuConfig).beside(directory)
    found = replay_ledger(config, directory / LEDGER)
    return Reproduced(
        found.entries,
        sum(path.stat().st_size for path in (directory / LEDGER).rglob("*") if path.is_file()),
        found.windows,
        found.decisions,
        found.alone,
        found.views,
        found.near,
        len(found.differences),
        tuple(found.differences[:DIFFERENCES_MAX]),
    )


def toml(content: dict[str, Any]) -> str:
    """A configuration of sections and of lists of sections as TOML; its strings and numbers are also JSON's."""
    lines: list[str] = []
    for name, sections in content.items():
        for section in sections if isinstance(sections, list) else [sections]:
            lines += ["", f"[[{name}]]" if isinstance(sections, list) else f"[{name}]"]
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
    return "\n".join(lines[1:]) + "\n"
