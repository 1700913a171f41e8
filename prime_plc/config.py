"""The ``[plc]`` table of a configuration, the same for meter and DCU."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from prime_plc.modem_host import FIRMWARE, ModemSettings, TypeAFraming
from prime_plc.settings import SLOT_SYMBOLS_MAX, MacSettings
from prime_plc.stack import StackSettings
from shared.config import Section

STOCK_SLOT_SYMBOLS_MIN: Final = 6
"""A beacon takes 13.25 ms with stock firmware's three bytes, a symbol 2.24 ms."""


Version = Annotated[str, Field(pattern=r"^[0-9A-F]{2}(\.[0-9A-F]{2}){3}$")]
"""Of a modem's firmware: four bytes in hexadecimal."""


class Mac(Section):
    """What a foreign network may have otherwise: values that are recalled from the specification, or that it lets one
    choose, and what we have added to it that others see. Ranges are published ones where there are any; what is left
    out is as `MacSettings` has it and says why."""

    beacon_slot_symbols: Annotated[int, Field(ge=5, le=SLOT_SYMBOLS_MAX)] | None = None
    beacon_slots_max: Annotated[int, Field(ge=1, le=5)] | None = None
    search_s: Annotated[float, Field(ge=16.0, le=32.0)] | None = None
    promotions_max: Annotated[int, Field(ge=1, le=4)] | None = None
    promotion_period_s: Annotated[float, Field(ge=2.0, le=8.0)] | None = None
    promotion_ignore_max: Annotated[int, Field(ge=0, le=15)] | None = None
    missed_beacons_max: Annotated[int, Field(ge=2, le=20)] | None = None
    control_repeats_max: Annotated[int, Field(ge=3, le=5)] | None = None
    transmit_attempts_max: Annotated[int, Field(ge=2, le=5)] | None = None
    ema_smoothing: Annotated[int, Field(ge=0, le=7)] | None = None
    keep_alive_code: Annotated[int, Field(ge=0, le=7)] | None = None
    window_start: Annotated[int, Field(ge=1, le=31)] | None = None

    # Our additions; the least of each is the specification's way.
    hop_repeats_max: Annotated[int, Field(ge=0, le=5)] | None = None
    hop_signs: bool | None = None
    retransmit_hop_s: Annotated[float, Field(ge=0.0, le=8.0)] | None = None
    switch_hold_s: Annotated[float, Field(ge=0.0, le=120.0)] | None = None
    broadcasts: Annotated[int, Field(ge=1, le=3)] | None = None


class Plc(Section):
    """The modem and the PRIME subnetwork."""

    url: Annotated[str, Field(min_length=1)]
    framing: Literal["stock", "transparent"] = "stock"
    firmware: Annotated[list[Version], Field(min_length=1, max_length=8)] = Field(
        default_factory=lambda: list(FIRMWARE)
    )
    channel: Annotated[int, Field(ge=1, le=8)] = 1
    attenuation_db: Annotated[int, Field(ge=0, le=21)] = 0
    control_repeat_s: Annotated[float, Field(ge=1.0, le=20.0)] = 5.0
    mac: Mac = Mac()

    @model_validator(mode="after")
    def _slots_hold_a_beacon(self) -> Plc:
        symbols = self.mac.beacon_slot_symbols
        if symbols is not None and symbols < STOCK_SLOT_SYMBOLS_MIN and self.framing == "stock":
            raise ValueError(f"mac.beacon_slot_symbols of at least {STOCK_SLOT_SYMBOLS_MIN} with stock framing")
        return self

    @property
    def stack_settings(self) -> StackSettings:
        """For the stack."""
        framing, firmware = TypeAFraming(self.framing), tuple(self.firmware)
        modem = ModemSettings(framing, self.channel, self.attenuation_db, firmware=firmware)
        chosen = self.mac.model_dump(exclude_none=True)
        return StackSettings(MacSettings(control_repeat_s=self.control_repeat_s, **chosen), modem)
