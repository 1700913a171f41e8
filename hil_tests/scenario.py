"""A scenario: what happens on the street, when, and what must come of it; one TOML file each."""

from __future__ import annotations

from enum import Enum
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from shared.config import Section, load_config
from shared.messages import LEASE_S_MAX

CLIENTS: Final = ("client1", "client2")
"""The two customers of the testbed's street."""

Seconds = Annotated[float, Field(ge=0.0, le=86_400.0)]
Point = Annotated[list[float], Field(min_length=2, max_length=2)]
Points = Annotated[list[Point], Field(min_length=1, max_length=100_000)]
Client = Literal["client1", "client2"]


class Site(Section):
    """What the DCU is told about the site; the testbed's own values as defaults."""

    nominal_voltage_v: Annotated[float, Field(gt=0.0, le=1000.0)] = 240.0
    band_pct: Annotated[float, Field(gt=0.0, le=20.0)] = 5.0
    persistence_s: Annotated[float, Field(ge=0.0, le=600.0)] = 10.0
    lease_s: Annotated[float, Field(gt=0.0, le=LEASE_S_MAX)] = 20.0
    renew_interval_s: Annotated[float, Field(gt=0.0)] = 5.0
    report_interval_s: Annotated[float, Field(gt=0.0)] = 2.0
    decision_window_s: Annotated[float, Field(gt=0.0)] = 1.0
    nominal_limit_w: Annotated[float, Field(ge=0.0)] = 1200.0
    contract_limit_w: Annotated[float, Field(ge=0.0)] = 2400.0


class Traces(Section):
    """Imposed quantities as points [time s, value], linear in between."""

    busbar_v: Points
    client1_v: Points
    client2_v: Points
    client1_available_a: Points = Field(default_factory=lambda: [[0.0, 10.0]])
    client2_available_a: Points = Field(default_factory=lambda: [[0.0, 5.0]])

    @field_validator("*")
    @classmethod
    def _times_rise(cls, points: list[list[float]]) -> list[list[float]]:
        if any(later[0] < earlier[0] for earlier, later in pairwise(points)):
            raise ValueError("points in order of time")
        return points


class Set(Section):
    """The inverter's two set-points of every customer [A]."""

    nominal_a: Annotated[float, Field(ge=0.0)] = 5.0
    raised_a: Annotated[float, Field(ge=0.0)] = 10.0


class Ask(Section):
    """A household asks for a higher limit."""

    do: Literal["ask"]
    at_s: Seconds
    client: Client
    limit_w: Annotated[float, Field(gt=0.0)]


class Release(Section):
    """A household releases its grant."""

    do: Literal["release"]
    at_s: Seconds
    client: Client


class Line(Section):
    """The power line dies or lives again."""

    do: Literal["line dies", "line lives"]
    at_s: Seconds


class Process(Section):
    """A daemon is killed with SIGKILL, or started again."""

    do: Literal["kill", "start"]
    at_s: Seconds
    who: Literal["dcu", "client1", "client2"]


Action = Annotated[Ask | Release | Line | Process, Field(discriminator="do")]


class Expectation(Section):
    """What must be seen; see `hil_tests.verdict` for the meaning of each word.

    ``after_s`` and ``before_s`` bound the moment on the scenario's clock; ``at_s`` is the moment of a value.
    """

    what: Literal["granted", "denied", "revoked", "export", "lease ended", "quarantined", "nothing sent to"]
    client: Client
    after_s: Seconds = 0.0
    before_s: Seconds = 86_400.0
    at_s: Seconds = 0.0
    reason: str = ""
    binding: str = ""
    current_a: Annotated[float, Field(ge=0.0)] = 0.0


class Scenario(Section):
    """One play on the street."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    numeral: str
    title: str
    duration_s: Annotated[float, Field(gt=0.0, le=86_400.0)]
    site: Site = Field(default_factory=Site)
    plant: Set = Field(default_factory=Set)
    traces: Traces
    action: list[Action] = Field(default_factory=list)
    expect: Annotated[list[Expectation], Field(min_length=1)]

    @model_validator(mode="after")
    def _within_duration(self) -> Scenario:
        late = [item.at_s for item in [*self.action, *self.expect] if item.at_s > self.duration_s]
        if late:
            raise ValueError(f"every at_s within duration_s {self.duration_s:g} (seen {late[0]:g})")
        return self


class Known(Enum):
    """The scenarios that come with the house, in the order they are played."""

    GRANTED = "granted"
    DENIED = "denied"
    REVOKED = "revoked"
    SILENCE = "silence"
    RESTART = "restart"


def load_scenario(name_or_path: str) -> Scenario:
    """A scenario of the house by name, or one's own by path.

    Raises:
        ConfigError: no such scenario, or a file with faults.
    """
    if name_or_path in {known.value for known in Known}:
        with resources.as_file(resources.files("hil_tests") / "scenarios" / f"{name_or_path}.toml") as path:
            return load_config(path, Scenario)
    return load_config(Path(name_or_path), Scenario)
