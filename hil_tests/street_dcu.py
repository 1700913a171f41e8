"""The DCU of a street of cores: its configuration, its model, its rule, and what days before have taught it.

The configuration is a real one: what a street's DCU does, `headroom-dcu` would do with the same file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dcu.config import DcuConfig
from dcu.grid.port_model import PortModel
from dcu.hosting.decide import Rule
from dcu.hosting.engine import HostingEngine
from dcu.hosting.estimate import Estimate
from dcu.hosting.journal import Journal
from dcu.hosting.learned_rule import Learned
from dcu.hosting.predicted import Predicted
from dcu.hosting.view import GridView, Taught
from dcu.meters import MeterEntry
from dcu.site import load_rule, predicted_rule
from hil_tests.day import Day
from hil_tests.lessons import teach
from hil_tests.queue_line import LineSettings
from hil_tests.safety import EXACT, Errors
from hil_tests.street_flow import StreetFlow
from shared.config import check_config
from shared.errors import ConfigError, Fault
from shared.ids import Epoch, Eui48, MeterId, format_eui48

READING_AGE_S: Final = 40.0
"""[s] Age at which a reading is stale, at least; longer where reports are rarer."""
ASYNCHRONY: Final = 0.05
"""Share of a change that readings half a minute apart may hide from a learning rule."""
MODEL_FILE: Final = "model.npz"
"""Beside the configuration."""
FILE: Final = "dcu.toml"
DCU: Final = "evaluation"
MODELLESS: Final = ("learned", "present")
"""Rules that need no network model."""
NAMEABLE: Final = re.compile(r"[A-Za-z0-9._-]{1,16}")
"""What a configuration takes for a meter's name."""

Keep = Callable[[dict[str, Any]], object]
"""Takes an entry of the ledger."""


@dataclass(frozen=True, slots=True)
class StreetSettings:
    """What the street is built from.

    Attributes:
        nominal_w: export limit without a grant, of every customer.
        nominal_voltage_v, band_pct: the decision's band.
        policy: how capacity is shared.
        errors: of meters, and of the model the DCU decides with.
        seed: of everything drawn.
        reading_s: between two readings of an EM330.
        report_s: between two reports of a meter.
        window_s: of the DCU's decisions.
        rule: predicted, learned, mixed or present.
        before, learn_days: a whole day like those that a learning rule has seen, and how many.
        report_change_w: a draw that has changed by more is reported at once.
    """

    nominal_w: float
    nominal_voltage_v: float
    band_pct: float
    policy: str = "equal"
    errors: Errors = EXACT
    seed: int = 1
    reading_s: float = 2.0
    report_s: float = 30.0
    window_s: float = 1.0
    report_change_w: float = 200.0
    rule: str = "predicted"
    before: Day | None = None
    learn_days: int = 14
    line: LineSettings = LineSettings()


def report_interval_s(customers: int) -> float:
    """Between two reports: 15 s, longer on a large street, so that reports leave most of the air time to others."""
    return max(15.0, 0.5 * customers)


@dataclass(frozen=True, slots=True, eq=False)
class StreetDcu:
    """What the DCU is told, and the model it decides with (None: it has none)."""

    config: DcuConfig
    model: PortModel | None

    @staticmethod
    def of(settings: StreetSettings, flow: StreetFlow, contract_w: dict[str, float]) -> StreetDcu:
        """The DCU of a street whose customers may have so much at most [W].

        Raises:
            ConfigError: a bus whose name no configuration takes, or a number out of range.
        """
        model = None if settings.rule in MODELLESS else flow.decision_model(settings.errors, settings.seed)
        content = _content(settings, flow, contract_w)
        if model is not None:
            error_pct = 100 * settings.errors.model
            content["model"] = {
                "file": MODEL_FILE,
                "network_sha256": model.network_sha256,
                "model_error_pct": error_pct,
            }
        return StreetDcu(check_config(FILE, content, DcuConfig), model)

    def entries(self, names: tuple[MeterId, ...]) -> tuple[MeterEntry, ...]:
        """The meters of a street, in its order.

        Raises:
            ConfigError: a configuration of another street.
        """
        known = {entry.id: entry for entry in self.config.entries}
        missing = [Fault(f"meter {name}", "nothing", "a table in [[meters]]") for name in names if name not in known]
        if missing:
            raise ConfigError(FILE, missing)
        return tuple(known[name] for name in names)

    def rule(self) -> Rule:
        """How it decides; knows nothing yet."""
        return load_rule(self.config) if self.model is None else predicted_rule(self.config, self.model)

    def engine(self, settings: StreetSettings, flow: StreetFlow, keep: Keep, now: float) -> HostingEngine:
        """The engine before its start; a rule that learns has been taught, in an epoch of its own that is kept."""
        rule, epoch = self.rule(), Epoch(1)
        if rule.learns:
            assert settings.before is not None, "a learning street needs a day to learn from"
            assert isinstance(rule, Learned | Predicted)
            pupil, journal = rule.pupil, Journal(epoch, self.config.site.lease_s)

            def lesson(taught: Taught) -> None:
                pupil.teach(taught)
                view = GridView(Estimate(1.0, None, (), ()), (), taught)
                keep(journal.note("view", {"view": view.as_entry()}).entry)

            nominal_w = {entry.id: entry.nominal_limit_w for entry in self.config.entries}
            keep(journal.start(rule, nominal_w).entry)
            teach(lesson, flow, settings.before, settings.nominal_w, settings.learn_days, settings.seed)
            epoch = Epoch(2)
        return HostingEngine(self.config.site_settings, self.config.entries, epoch, now, rule)


def meter_names(customers: tuple[str, ...]) -> tuple[MeterId, ...]:
    """The customers' own names where a configuration takes them, else a number."""
    good = all(NAMEABLE.fullmatch(name) for name in customers)
    return tuple(MeterId(name if good else f"customer-{k}") for k, name in enumerate(customers, 1))


def _content(settings: StreetSettings, flow: StreetFlow, contract_w: dict[str, float]) -> dict[str, Any]:
    """Of the configuration, without the model."""
    nominal_v, errors = settings.nominal_voltage_v, settings.errors
    names = meter_names(flow.customers)
    return {
        "dcu": {"id": DCU, "eui48": "02:00:00:01:00:00", "state_directory": "."},
        "site": {
            "nominal_voltage_v": nominal_v,
            "band_pct": settings.band_pct,
            "decision_window_s": settings.window_s,
            "reading_age_s_max": max(READING_AGE_S, 2.5 * settings.report_s),
        },
        "airtime": {"report_interval_s": settings.report_s},
        "decision": {
            "rule": settings.rule,
            "policy": settings.policy,
            "voltage_class_pct": 100 * errors.voltage,
            "asynchrony": ASYNCHRONY,
            "report_change_w": settings.report_change_w,
        },
        "balancing": {"url": "tcp://192.0.2.1:502?unit=1", "bus": flow.balancing_bus},
        "plc": {"url": "/dev/plc0"},
        "protection": {"key_file": "keys.json"},  # a street of cores has no line to protect
        "status": {"socket": "dcu.sock"},
        "meters": [
            {
                "id": names[k],
                "eui48": format_eui48(Eui48(bytes((2, 0, 0, 0)) + k.to_bytes(2, "big"))),
                "bus": flow.buses[k],
                "phases": [phase.name for phase in flow.phases[k]],
                "nominal_limit_w": settings.nominal_w,
                "contract_limit_w": contract_w[name],
            }
            for k, name in enumerate(flow.customers)
        ],
    }
