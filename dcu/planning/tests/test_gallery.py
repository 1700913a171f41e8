"""The pictures in the documentation show what the examples give today."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dcu.planning.probabilistic_report import settings_sha256
from dcu.planning.reading import read_study
from dcu.planning.run import run
from dcu.planning.settings import Extras, load_study
from dcu.planning.study.outcome import file_sha256
from dcu.planning.study.workers import Progress

DOCS = Path(__file__).parents[3] / "docs"
GALLERY = {
    "probabilistic": ("examples/probabilistic.toml", {"A", "E"}),
    "dcu_export": ("examples/dcu_export/study.toml", {"everybody", "far end"}),
}
"""Picture, example, and the scenarios of it that are played again here, with all their days."""

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="installed without documentation")


def _said(name: str) -> dict[str, Any]:
    text = (DOCS / "figures" / f"{name}.svg").read_text("utf-8")
    found = re.search(r"<dc:description>(.*?)</dc:description>", text, re.DOTALL)
    assert found, "a picture that says what it was made from"
    said: dict[str, Any] = json.loads(html.unescape(found[1]))
    return said


def test_every_picture_belongs_to_an_example() -> None:
    """None is left over, and the page shows each."""
    pictures = {p.stem for p in (DOCS / "figures").glob("*.svg")}
    assert pictures == set(GALLERY)
    page = (DOCS / "studies.md").read_text("utf-8")
    assert all(f"(figures/{name}.svg)" in page for name in pictures)


@pytest.mark.parametrize("name", GALLERY)
def test_a_picture_is_of_the_present_example_and_shows_its_capacities(name: str) -> None:
    """Settings and inputs by their hashes, and the last feasible steps of some scenarios by playing them again. If it
    fails: run the example and copy `capacities.svg`, as docs/studies.md says."""
    example, some = GALLERY[name]
    said = _said(name)
    study = load_study(DOCS / example)
    bare = study.model_copy(
        update={
            "scenarios": [s for s in study.scenarios if s.name in some],
            "extras": Extras(planner_map=False, deterministic=False),
        }
    )
    read = read_study(bare, (DOCS / example).parent)
    assert said["settings"] == settings_sha256(study)
    assert said["inputs"] == {path.name: file_sha256(path) for path in read.files.values()}
    found = run(read, None, 0, Progress(silent=True))
    again = {s: {c.group: c.last_feasible_w for c in cs} for s, cs in found.capacities.items()}
    assert set(again) == some
    assert again == {s: said["last_feasible_w"][s] for s in some}
