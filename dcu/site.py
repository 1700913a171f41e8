"""The rule of a site from its configuration: with a network model, or without one."""

from __future__ import annotations

from pathlib import Path

from dcu.config import DcuConfig, Model
from dcu.grid.port_model import PortModel, load_model
from dcu.hosting.decide import Rule
from dcu.hosting.estimate import Accuracy
from dcu.hosting.predicted import GridSettings, NoModel, Predicted
from dcu.hosting.present import PresentVoltages
from shared.errors import ConfigError, Fault


def load_rule(config: DcuConfig) -> Rule:
    """The rule that the configuration asks for.

    Raises:
        ConfigError: a model file that is missing, damaged, of another network, or that does not know the meters.
    """
    if config.model is None:
        return PresentVoltages(config.site_settings.band)
    model = load_model(Path(config.model.file))
    return predicted_rule(config, config.model, model)


def rule_or_nothing(config: DcuConfig) -> Rule:
    """The same for a daemon: with a model that cannot be used it runs on, and grants nothing."""
    try:
        return load_rule(config)
    except ConfigError as error:
        return NoModel(error, config.site_settings.band)


def predicted_rule(config: DcuConfig, settings: Model, model: PortModel) -> Predicted:
    """`Predicted` for a loaded model.

    Raises:
        ConfigError: of another network, or it does not know the meters.
    """
    wanted = settings.network_sha256
    if wanted is not None and model.network_sha256 != wanted:
        seen = f"{model.network_sha256[:16]}, network {model.name}"
        raise ConfigError(settings.file, [Fault("network_sha256", seen, f"{wanted[:16]}, as configured")])
    accuracy = Accuracy(voltage_class_pct=settings.voltage_class_pct, model_error_pct=settings.model_error_pct)
    grid = GridSettings(
        policy=settings.policy,
        nominal_voltage_v=config.site.nominal_voltage_v,
        band_pct=config.site.band_pct,
        guard_pct=settings.guard_pct,
        loading_max=settings.loading_max,
        vuf_max_pct=settings.vuf_max_pct,
        balancing_bus=config.balancing.bus,
        accuracy=accuracy,
    )
    return Predicted(model, config.entries, grid)
