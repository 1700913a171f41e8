"""The ``[plc]`` table of a configuration, the same for meter and DCU."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prime_plc.modem_host import ModemSettings, TypeAFraming
from prime_plc.settings import MacSettings
from prime_plc.stack import StackSettings
from shared.config import Section


class Plc(Section):
    """The modem and the PRIME subnetwork."""

    url: Annotated[str, Field(min_length=1)]
    framing: Literal["stock", "transparent"] = "stock"
    channel: Annotated[int, Field(ge=1, le=8)] = 1
    attenuation_db: Annotated[int, Field(ge=0, le=21)] = 0
    control_repeat_s: Annotated[float, Field(ge=1.0, le=20.0)] = 5.0

    @property
    def stack_settings(self) -> StackSettings:
        """For the stack."""
        modem = ModemSettings(TypeAFraming(self.framing), self.channel, self.attenuation_db)
        return StackSettings(MacSettings(control_repeat_s=self.control_repeat_s), modem)
