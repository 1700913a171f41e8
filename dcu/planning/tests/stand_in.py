"""The stand-in feeder for tests, with as few days and extras as a test needs."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

from dcu.planning import flobecq_like_folder
from dcu.planning.probabilistic import Effort, Run, grow_scenario
from dcu.planning.reading import Read, read_study
from dcu.planning.run import _rule, _steps
from dcu.planning.settings import ProbabilisticStudy
from dcu.planning.study.workers import Progress, Workers, drive

FOLDER = flobecq_like_folder()
BARE = {"deterministic": False, "planner_map": False}


def content() -> dict[str, Any]:
    """The study file as it was parsed."""
    return tomllib.loads((FOLDER / "study.toml").read_text("utf-8"))


def study(days: int = 2, scenarios: str = "ABCDEFG", **changes: Any) -> ProbabilisticStudy:
    """A smaller study; `changes` replaces keys of sections."""
    raw = content()
    raw["scenarios"] = [s for s in raw["scenarios"] if s["name"] in scenarios]
    raw["sampling"]["days"] = days
    raw["extras"] = dict(BARE)
    raw["study"].pop("check_table", None)
    for section, values in changes.items():
        raw[section] = raw.get(section, {}) | values
    return ProbabilisticStudy.model_validate(raw)


@cache
def read(days: int = 2, scenarios: str = "ABCDEFG") -> Read:
    """Read once for many tests."""
    return read_study(study(days, scenarios), FOLDER)


def grown(some: Read) -> dict[str, Any]:
    """Logs of all scenarios, in this process."""
    common = Run(some.world, some.study.sampling.days, False, None, Progress(silent=True), Effort())
    steps = _steps(some.study)
    drivers = {p.name: grow_scenario(common, p, _rule(some.study, p.name), steps) for p in some.inputs.plans}
    return drive(Workers(0, lambda _: some.world, None), drivers)
