"""Configuration of a meter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from meter.core import MeterSettings
from meter.dialogue import RETURN_SPREAD_S_MAX, DialogueSettings
from meter.home import TOKEN_CHARACTERS_MIN, HomeSettings, is_loopback
from meter.relay import Level, RelaySettings
from prime_plc.config import Plc
from shared.config import Section, parsed_by
from shared.em330 import Em330Settings
from shared.errors import ConfigError, Fault
from shared.ids import MeterId, Phase, format_eui48, parse_eui48
from shared.keys import MeterKeys, load_meter_keys
from shared.messages import LEASE_S_MAX
from shared.modbus import ModbusAddress


def _loopback(host: str) -> str:
    if not is_loopback(host):
        raise ValueError("an address of the loopback interface, such as 127.0.0.1")
    return host


Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")]
Eui48Text = Annotated[str, parsed_by(parse_eui48)]
ModbusUrl = Annotated[str, parsed_by(ModbusAddress.parse)]
PhaseName = Literal["L1", "L2", "L3"]
LevelName = Literal["low", "high"]
OVERVOLTAGE_MAX: float = 252.0 / 230.0
"""[nominal] Threshold of the local over-voltage rule: 252 V where 230 V are nominal (invariant I15). A site may be
stricter; nobody may configure the rule away."""


def overvoltage_v_max(nominal_voltage_v: float) -> float:
    """The threshold [V] in the analyzer's resolution, downwards, so that a reading of exactly so much counts."""
    return math.floor(10.0 * OVERVOLTAGE_MAX * nominal_voltage_v + 1e-6) / 10.0


def _wire_resolution(watts: float) -> float:
    if round(10 * watts) / 10 != watts:
        raise ValueError("a multiple of 0.1 W, which is what the power line carries")
    return watts


Watts = Annotated[float, Field(ge=0.0, le=1e7), AfterValidator(_wire_resolution)]
Pin = Annotated[int, Field(ge=0, le=27)]


def _l1() -> list[PhaseName]:
    return ["L1"]


class Meter(Section):
    """Who this meter is and what its customer's contract says.

    ``raised_limit_w`` is what the inverter may export at its raised set-point, unset the limit of the contract: a grant
    of less does not move the relay. ``installation_limit_w`` is what fuse, cable or inverter stand; it only lowers.
    ``overvoltage_v`` is the local ten-second rule; unset it is 252/230 of the nominal voltage (for 230 V: 252 V), and
    set it may only be less.
    """

    id: Word
    eui48: Eui48Text
    state_directory: Annotated[str, Field(min_length=1)]
    nominal_limit_w: Watts
    contract_limit_w: Watts
    raised_limit_w: Watts | None = None
    installation_limit_w: Watts | None = None
    lease_s_max: Annotated[float, Field(gt=0.0, le=LEASE_S_MAX)] = LEASE_S_MAX
    nominal_voltage_v: Annotated[float, Field(gt=0.0, le=1000.0)] = 230.0
    phases: Annotated[list[PhaseName], Field(min_length=1, max_length=3)] = Field(default_factory=_l1)
    overvoltage_v: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    report_interval_s: Annotated[float, Field(ge=1.0, le=60.0)] = 15.0
    report_change_w: Annotated[float, Field(gt=0.0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _limits_in_order(self) -> Meter:
        if self.contract_limit_w < self.nominal_limit_w:
            raise ValueError(
                f"contract_limit_w at least nominal_limit_w {self.nominal_limit_w:g} (seen {self.contract_limit_w:g})"
            )
        raised_w = self.raised_limit_w
        if raised_w is not None and not self.nominal_limit_w <= raised_w <= self.contract_limit_w:
            raise ValueError(
                f"raised_limit_w from nominal_limit_w {self.nominal_limit_w:g} to contract_limit_w "
                f"{self.contract_limit_w:g} (seen {raised_w:g})"
            )
        return self

    @model_validator(mode="after")
    def _phases_once(self) -> Meter:
        if len(set(self.phases)) != len(self.phases):
            raise ValueError(f"each phase once (seen {', '.join(self.phases)})")
        return self

    @model_validator(mode="after")
    def _overvoltage_in_reach(self) -> Meter:
        low_v, high_v = self.nominal_voltage_v, overvoltage_v_max(self.nominal_voltage_v)
        if self.overvoltage_v is not None and not low_v < self.overvoltage_v <= high_v:
            raise ValueError(f"overvoltage_v above {low_v:g} and at most {high_v:g} (seen {self.overvoltage_v:g})")
        return self


class Em330(Section):
    """The analyzer at the connection point."""

    url: ModbusUrl
    serial: Annotated[str, Field(min_length=1, max_length=14)] | None = None
    ct_ratio: Annotated[float, Field(gt=0.0, le=60_000.0)] = 1.0
    vt_ratio: Annotated[float, Field(gt=0.0, le=60_000.0)] = 1.0
    poll_s: Annotated[float, Field(ge=0.5, le=1.0)] = 1.0


class Relay(Section):
    """The relay board; de-energised is nominal and cannot be configured otherwise."""

    pin: Pin
    energised: LevelName = "low"
    read_back_pin: Pin
    read_back_raised: LevelName = "low"

    @model_validator(mode="after")
    def _two_pins(self) -> Relay:
        if self.pin == self.read_back_pin:
            raise ValueError(f"read_back_pin other than pin (seen {self.pin} twice)")
        return self


class Request(Section):
    """How insistently a household's request is put to the substation.

    ``return_spread_s``: after an outage a standing wish is asked again at a random moment within so long, so that a
    street that comes back does not ask in one second.
    """

    repeat_s: Annotated[float, Field(ge=1.0, le=60.0)] = 5.0
    repeat_s_max: Annotated[float, Field(ge=1.0, le=600.0)] = 60.0
    attempts_max: Annotated[int, Field(ge=1, le=100)] = 8
    cool_down_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 5.0
    return_spread_s: Annotated[float, Field(ge=0.0, le=RETURN_SPREAD_S_MAX)] = 30.0

    @model_validator(mode="after")
    def _repeats_in_order(self) -> Request:
        if self.repeat_s_max < self.repeat_s:
            raise ValueError(f"repeat_s_max at least repeat_s {self.repeat_s:g} (seen {self.repeat_s_max:g})")
        return self


class Protection(Section):
    """The keys of this meter: the file that `headroom-keys export` has written. There is no operation without."""

    key_file: Annotated[str, Field(min_length=1)]


class HomeDoor(Section):
    """The household's HTTP door; the token stands in a file of its own."""

    host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)]
    token_file: Annotated[str, Field(min_length=1)]


class CosemDoor(Section):
    """A door for DLMS clients over TCP (IEC 62056-47), on this machine only; none without this section."""

    host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 4059


class MeterConfig(Section):
    """The whole file."""

    meter: Meter
    em330: Em330
    relay: Relay
    plc: Plc
    protection: Protection
    home: HomeDoor
    request: Request = Field(default_factory=Request)
    cosem: CosemDoor | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Connected phases."""
        return tuple(Phase[name] for name in self.meter.phases)

    @property
    def state_directory(self) -> Path:
        """Where the outbox lives."""
        return Path(self.meter.state_directory)

    @property
    def meter_settings(self) -> MeterSettings:
        """For the core."""
        meter = self.meter
        overvoltage_v = overvoltage_v_max(meter.nominal_voltage_v)
        if meter.overvoltage_v is not None:
            overvoltage_v = meter.overvoltage_v
        return MeterSettings(
            MeterId(meter.id),
            self.phases,
            meter.nominal_limit_w,
            meter.contract_limit_w,
            overvoltage_v,
            meter.report_interval_s,
            meter.raised_limit_w,
            meter.lease_s_max,
            DialogueSettings(**self.request.model_dump()),
            meter.installation_limit_w,
            meter.report_change_w,
        )

    @property
    def em330_settings(self) -> Em330Settings:
        """For the reader."""
        em330 = self.em330
        return Em330Settings(
            self.meter.nominal_voltage_v, self.phases, em330.ct_ratio, em330.vt_ratio, serial=em330.serial
        )

    @property
    def relay_settings(self) -> RelaySettings:
        """For the relay."""
        relay = self.relay
        return RelaySettings(relay.pin, Level(relay.energised), relay.read_back_pin, Level(relay.read_back_raised))

    def load_keys(self) -> MeterKeys:
        """The keys of this meter.

        Raises:
            ConfigError: no file of keys, open to others, damaged, or another meter's.
        """
        path = Path(self.protection.key_file)
        keys = load_meter_keys(path)
        own = (self.meter.id, format_eui48(parse_eui48(self.meter.eui48)))
        if (keys.meter, format_eui48(keys.eui48)) != own:
            seen = f"keys of {keys.meter}, {format_eui48(keys.eui48)}"
            raise ConfigError(str(path), [Fault("meter", seen, f"keys of {own[0]}, {own[1]}")])
        return keys

    def home_settings(self, file: str) -> HomeSettings:
        """For the home door; reads the token.

        Raises:
            ConfigError: the token file is missing or its token too short.
        """
        try:
            token = Path(self.home.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(file, [Fault("home.token_file", str(error), "a readable file with a token")]) from error
        if len(token) < TOKEN_CHARACTERS_MIN:
            seen = f"a token of {len(token)} characters"
            raise ConfigError(file, [Fault("home.token_file", seen, f"at least {TOKEN_CHARACTERS_MIN}")])
        return HomeSettings(self.home.host, self.home.port, token)
