"""The study file of `headroom-plan probabilistic` and `deterministic`: strict, every fault with its key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dcu.grid.network import PHASES, Conductor
from dcu.planning.draws import Sampling as DrawModel
from dcu.planning.evaluate import Limits as Criteria
from dcu.planning.feeder_case import Control, Existing, Generation, Unit
from shared.config import Section, load_config
from shared.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._ -]{1,40}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Watts = Annotated[float, Field(gt=0.0, le=1e7)]
PhaseText = Literal["L1", "L2", "L3", "L1L2L3"]


class Study(Section):
    """Which study this is; the seed decides every random number of it."""

    name: Name
    kind: Literal["probabilistic"]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    check_table: Literal["flobecq_like"] | None = None


class NetworkFile(Section):
    """The feeder; beside the study file unless the path is absolute."""

    file: Text


class MeterData(Section):
    """Recordings: files of one layout. `timezone` is the local clock that quarter-hours are counted by."""

    files: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    layout: Literal["headroom", "simbench", "low-carbon-london", "cer", "pecan-street"] = "headroom"
    timezone: Text = "UTC"
    mapping: Text | None = None


class Limits(Section):
    """EN 50160 and conductors: highest and lowest voltage [share of nominal], unbalance [%], share of the states that
    must keep them [%], and which quantile of the currents must stay below the rating (1: the largest, as published)."""

    voltage_max_pu: Annotated[float, Field(gt=1.0, le=1.5)] = 1.10
    voltage_min_pu: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.90
    unbalance_max_pct: Annotated[float, Field(gt=0.0, le=20.0)] = 2.0
    percentile: Annotated[float, Field(ge=50.0, le=100.0)] = 95.0
    loading_max: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    current_quantile: Annotated[float, Field(ge=0.5, le=1.0)] = 1.0


class Sampling(Section):
    """How many days are simulated and how. `stop` sequential ends a level when its verdict is certain (3 standard
    errors), fixed never does."""

    days: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    stop: Literal["fixed", "sequential"] = "fixed"
    pool: Literal["year", "month", "season_daytype"] = "year"
    loads: Literal["independent", "own_days", "common_days"] = "independent"
    pv_probability_scope: Literal["state", "day"] = "state"


class Growth(Section):
    """How PV grows: the step of a unit of weight 1, at most so many, until which criteria are violated."""

    step_w: Watts = 1000.0
    levels_max: Annotated[int, Field(ge=1, le=1000)] = 60
    until: Literal["voltage", "current", "unbalance", "all"] = "voltage"
    cap_w: Watts | None = None
    beyond: Annotated[int, Field(ge=0, le=100)] = 0


class Place(Section):
    """A place for new PV."""

    bus: Text
    phase: PhaseText
    weight: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    cap_w: Watts | None = None


class Standing(Section):
    """A PV unit that stands already, and where its generation is known from (`Generation`)."""

    customer: Text
    phase: PhaseText
    rated_w: Watts
    generation: Literal["measured", "estimated", "net", "excluded"] = "measured"


class Reference(Section):
    """The unit whose yield new units have: an existing one with measured PV, or one elsewhere, of that rating, in
    files of the house's layout."""

    customer: Text
    files: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    rated_w: Watts | None = None

    @model_validator(mode="after")
    def _whole(self) -> Reference:
        if (self.files is None) != (self.rated_w is None):
            raise ValueError(f"files and rated_w, or neither (seen {'rated_w' if self.files is None else 'files'})")
        return self


class Scenario(Section):
    """A named set of places with their control; `like` takes the places of another scenario."""

    name: Name
    control: Literal["on-off", "damping", "q-of-u"] = "on-off"
    percentile: Annotated[float, Field(ge=50.0, le=100.0)] | None = None
    places: Annotated[list[Place], Field(max_length=2000)] = Field(default_factory=list)
    like: Name | None = None
    three_phase: bool = False

    @model_validator(mode="after")
    def _somewhere(self) -> Scenario:
        if bool(self.places) == bool(self.like):
            raise ValueError(f"either places or like (seen {'both' if self.places else 'neither'})")
        return self


class Rare(Section):
    """Importance sampling of rare overvoltage for one scenario at one level."""

    scenario: Name
    level: Annotated[int, Field(ge=1, le=1000)]
    states: Annotated[int, Field(ge=1000, le=10_000_000)] = 20_000


class Extras(Section):
    """What is asked beside the capacities. Names are scenarios'."""

    losses: Name | None = None
    losses_month: Annotated[int, Field(ge=1, le=12)] = 7
    losses_from_h: Annotated[float, Field(ge=0.0, lt=24.0)] = 12.0
    losses_to_h: Annotated[float, Field(gt=0.0, le=24.0)] = 18.5
    planner_map: bool = True
    rebalance: Name | None = None
    data_length: Name | None = None
    load_models: Name | None = None
    headroom: Name | None = None
    headroom_factor: Annotated[float, Field(gt=1.0, le=5.0)] = 1.5
    rare: Rare | None = None
    deterministic: bool = True
    pv_hours_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8


class InputFile(Section):
    """A file that a finished study has read; a re-run refuses another content."""

    file: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Provenance(Section):
    """Written into the output's `study.toml`: what was read and with which versions."""

    inputs: list[InputFile] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)


class ProbabilisticStudy(Section):
    """The whole file."""

    study: Study
    network: NetworkFile
    meter_data: MeterData
    reference: Reference
    existing: Annotated[list[Standing], Field(max_length=2000)] = Field(default_factory=list)
    limits: Limits = Field(default_factory=Limits)
    sampling: Sampling = Field(default_factory=Sampling)
    growth: Growth = Field(default_factory=Growth)
    scenarios: Annotated[list[Scenario], Field(min_length=1, max_length=100)]
    extras: Extras = Field(default_factory=Extras)
    provenance: Provenance = Field(default_factory=Provenance)

    @model_validator(mode="after")
    def _names(self) -> ProbabilisticStudy:
        names = [s.name for s in self.scenarios]
        if len(set(names)) != len(names):
            raise ValueError(
                f"each scenario once (seen {', '.join(sorted(n for n in set(names) if names.count(n) > 1))} twice)"
            )
        with_places = [s.name for s in self.scenarios if s.places]
        for s in self.scenarios:
            if s.like is not None and s.like not in with_places:
                raise ValueError(f"like a scenario with places: {', '.join(with_places) or 'none'} (seen {s.like})")
        e = self.extras
        for asked in (
            e.losses,
            e.rebalance,
            e.data_length,
            e.load_models,
            e.headroom,
            e.rare.scenario if e.rare else None,
        ):
            if asked is not None and asked not in names:
                raise ValueError(f"extras that name a scenario: {', '.join(names)} (seen {asked})")
        if e.losses and not e.losses_from_h < e.losses_to_h:
            raise ValueError(f"extras.losses_from_h before losses_to_h (seen {e.losses_from_h} and {e.losses_to_h})")
        pool, loads = self.sampling.pool, self.sampling.loads
        if e.rare and (pool, loads) != ("year", "independent"):
            raise ValueError(f"extras.rare with independent loads of the pool year (seen {loads}, {pool})")
        standing = [x.customer for x in self.existing]
        if len(set(standing)) != len(standing):
            twice = sorted(c for c in set(standing) if standing.count(c) > 1)
            raise ValueError(f"each existing customer once (seen {', '.join(twice)} twice)")
        measured = [x.customer for x in self.existing if x.generation == "measured"]
        if self.reference.files is None and self.reference.customer not in measured:
            seen = self.reference.customer
            raise ValueError(f"reference.customer among existing with measured PV, or reference.files (seen {seen})")
        return self

    @property
    def seed(self) -> int:
        """The one number that decides every random number."""
        return self.study.seed

    @property
    def check_table(self) -> str | None:
        """Whose published figures the report compares with."""
        return self.study.check_table

    @property
    def criteria(self) -> Criteria:
        """The limits for the power flow's counts."""
        m = self.limits
        return Criteria(m.voltage_max_pu, m.voltage_min_pu, m.unbalance_max_pct / 100, m.loading_max)

    @property
    def draw_model(self) -> DrawModel:
        """How states are drawn."""
        return DrawModel(self.sampling.loads, self.sampling.pv_probability_scope)

    @property
    def reference_rated_w(self) -> float:
        """Rating of the reference unit [W]."""
        own = self.reference.rated_w
        return own or next(x.rated_w for x in self.existing if x.customer == self.reference.customer)

    def percentile(self, scenario: Scenario) -> float:
        """The scenario's own percentile, else the study's."""
        return self.limits.percentile if scenario.percentile is None else scenario.percentile

    def units(self, scenario: Scenario) -> tuple[Unit, ...]:
        """Places of a scenario."""
        own = next(s for s in self.scenarios if s.name == scenario.like) if scenario.like else scenario
        cap = self.growth.cap_w or math.inf
        three = scenario.three_phase
        return tuple(
            Unit(p.bus, PHASES if three else conductors(p.phase), p.weight, min(p.cap_w or math.inf, cap))
            for p in own.places
        )

    def existing_units(self, bus_of: dict[str, str]) -> tuple[Existing, ...]:
        """Units that stand already, at their customers' buses."""
        return tuple(
            Existing(x.customer, bus_of.get(x.customer, ""), conductors(x.phase), x.rated_w, Generation(x.generation))
            for x in self.existing
        )

    def control(self, scenario: Scenario) -> Control:
        """The scenario's control."""
        return Control(scenario.control)


def conductors(phase: str) -> tuple[Conductor, ...]:
    """`L1L2L3` as three conductors."""
    return PHASES if phase == "L1L2L3" else (Conductor(phase),)


def load_study(path: Path) -> ProbabilisticStudy:
    """The checked study in a file.

    Raises:
        ConfigError: as `load_config`.
    """
    return load_config(path, ProbabilisticStudy)


__all__ = ["ConfigError", "ProbabilisticStudy", "Scenario", "load_study"]
