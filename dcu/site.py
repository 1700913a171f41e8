"""The rule of a site from its configuration: with a network model, with what the meters teach, or by the band alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dcu.config import DcuConfig
from dcu.grid.port_model import PortModel, load_model
from dcu.hosting.allocate import Policy
from dcu.hosting.decide import Rule
from dcu.hosting.estimate import Accuracy
from dcu.hosting.learned import Learning
from dcu.hosting.learned_rule import Learned
from dcu.hosting.predicted import NoModel, Predicted
from dcu.hosting.present import PresentVoltages
from dcu.hosting.replay import Replay, replay
from dcu.hosting.window import GridSettings
from dcu.ledger.store import Walk
from shared.errors import ConfigError, Fault


def load_rule(config: DcuConfig) -> Rule:
    """The rule that the configuration asks for.

    Raises:
        ConfigError: a model file that is missing, damaged, not pinned, of another network, or that does not know the
            meters.
    """
    if config.rule == "present":
        return PresentVoltages(config.site_settings.band)
    if config.rule == "learned":
        learning = Learning(asynchrony=config.decision.asynchrony)
        return Learned(config.entries, grid_settings(config), learning)
    assert config.model is not None, "the configuration was checked"
    return predicted_rule(config, load_model(Path(config.model.file)))


def rule_or_nothing(config: DcuConfig) -> Rule:
    """The same for a daemon: with a model that cannot be used it runs on, and grants nothing."""
    try:
        return load_rule(config)
    except ConfigError as error:
        return NoModel(error, config.site_settings.band)


def predicted_rule(config: DcuConfig, model: PortModel) -> Predicted:
    """`Predicted` for a loaded model.

    Raises:
        ConfigError: of another network or of one that nothing pins, or it does not know the meters.
    """
    settings = config.model
    assert settings is not None, "the caller has a model"
    wanted = settings.network_sha256
    if wanted is None:  # by voltages alone a feeder with the same buses is not told from ours before it is too late
        line = f'network_sha256 = "{model.network_sha256}", if network {model.name} is this feeder'
        raise ConfigError(settings.file, [Fault("model.network_sha256", "nothing", line)])
    if model.network_sha256 != wanted:
        seen = f"{model.network_sha256[:16]}, network {model.name}"
        raise ConfigError(settings.file, [Fault("network_sha256", seen, f"{wanted[:16]}, as configured")])
    return Predicted(model, config.entries, grid_settings(config), mixed=config.rule == "mixed")


def grid_settings(config: DcuConfig) -> GridSettings:
    """What a rule that foresees is told."""
    decision, model = config.decision, config.model
    return GridSettings(
        policy=Policy(decision.policy),
        nominal_voltage_v=config.site.nominal_voltage_v,
        band_pct=config.site.band_pct,
        guard_pct=decision.guard_pct,
        loading_max=1.0 if model is None else model.loading_max,
        vuf_max_pct=None if model is None else model.vuf_max_pct,
        balancing_bus=config.balancing.bus,
        accuracy=Accuracy(
            voltage_class_pct=decision.voltage_class_pct,
            power_class_pct=decision.power_class_pct,
            model_error_pct=0.0 if model is None else model.model_error_pct,
            balance_pct=decision.balance_pct,
            balance_w=decision.balance_w,
            told_w=decision.report_change_w,
        ),
    )


def recall_lessons(rule: Rule, entries: Iterable[Mapping[str, Any]]) -> int:
    """Teach a rule what the ledger remembers of earlier runs; how many sets that were."""
    lessons = 0
    if rule.learns:
        for entry in entries:
            if entry.get("kind") == "view" and "view" in entry:  # forgotten ones are gone
                rule.recall(entry["view"])
                lessons += 1
    return lessons


def replay_ledger(config: DcuConfig, directory: Path) -> Replay:
    """Every recorded window of a ledger decided again by the rule of a configuration.

    What is wrong with the ledger counts as a difference.

    Raises:
        ConfigError: as `load_rule`.
        LedgerError: no ledger there.
    """
    rule, walk = load_rule(config), Walk(directory)
    found = replay(rule, walk)
    found.differences[:0] = walk.faults
    return found
