"""What both roles have in common: what they take and give, and the control packets their tables are keyed by."""

from __future__ import annotations

from typing import Final, TypeVar

from prime_plc.control import Control
from prime_plc.modem_host import (
    FollowBeacons,
    FrameReceived,
    ModemLost,
    ModemReady,
    TransmitConfirmed,
    TransmitFrame,
)
from prime_plc.sap import DataConfirmed, DataResult, MacInput, MacOutput, SendData

Input = ModemReady | ModemLost | FrameReceived | TransmitConfirmed | MacInput
Output = TransmitFrame | FollowBeacons | MacOutput

ControlT = TypeVar("ControlT", bound=Control)
"""The packet for which a table has an action."""

BROADCAST_LCID_IPV4: Final = 1
BROADCAST_LCID_4_32: Final = 2
"""Both reserved for the broadcasts of a convergence."""


def refused(item: Input) -> list[Output]:
    """The answer to an input that a state does not know: data comes back, everything else is ignored."""
    if isinstance(item, SendData):
        return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
    return []
