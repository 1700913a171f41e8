"""The way from terminal to switch and back, as the node sees it: ask the base, acknowledge what it says, begin and end.

The owner holds the state; the part says what has changed.
"""

from __future__ import annotations

from typing import Final

from prime_plc.calls import CallsHeard
from prime_plc.control import Bsi, ControlType, Pro, PromotionRequest
from prime_plc.links import COST_MAX, PARENT
from prime_plc.pdu import SID_NONE, Beacon
from prime_plc.settings import MacSettings
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink

SWITCH_CAPABILITIES: Final = 0b0111
"""In a promotion request: multicast, robustness, ARQ (captured); no direct connections."""


class Candidate:
    """Part of a service node."""

    def __init__(
        self,
        settings: MacSettings,
        transmitter: Transmitter,
        uplink: Uplink,
        switching: Switching,
        calls: CallsHeard,
    ) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._uplink = uplink
        self._switching = switching
        self._calls = calls
        self._slot_by_s = 0.0

    @property
    def wake_at(self) -> float | None:
        """When a number without a slot is given back [s]."""
        return None if self._switching.lsid is None or self._switching.slot is not None else self._slot_by_s

    def ask(self, parent: Beacon, pna: bytes, quality: int, now: float) -> None:
        """Offer ourselves as the switch of somebody who calls."""
        hop = self._transmitter.links.hop_cost(PARENT)
        request = PromotionRequest(
            pna, min(COST_MAX, parent.up_cost + hop), min(COST_MAX, parent.down_cost + hop), SWITCH_CAPABILITIES
        )
        pro = Pro(False, quality, self._settings.keep_alive_code, SID_NONE, request)
        self._uplink.control(ControlType.PRO, pro.encode(), now)

    def accept(self, pro: Pro, now: float) -> None:
        """The base gives us a number."""
        self._switching.lsid = pro.nsid
        self._switching.level = self._uplink.level + 1
        settings = self._settings  # the base repeats its offer of a slot the longer, the deeper we are
        patience = (settings.control_repeats_max + 1) * (1 + 0.25 * self._uplink.level) * 1.1
        self._slot_by_s = now + settings.control_repeat_s * patience
        self._uplink.control(ControlType.PRO, Pro(False, pro.quality, pro.time, pro.nsid).encode(), now)

    def begin(self, slot: Bsi, now: float) -> bool:
        """The base gives us a beacon slot; False if we have no number for it."""
        if self._switching.lsid is None:
            return False
        self._switching.begin(slot, self._uplink.level + 1, now)
        self._calls.clear()
        self._uplink.control(ControlType.BSI, slot.encode(), now)
        return True

    def refused(self, pro: Pro, now: float) -> bool:
        """The base does not want us, or not any more; whether that ends what we are."""
        if pro.nsid == SID_NONE:
            self._calls.hush(now)  # rejected
            return False
        self._uplink.control(ControlType.PRO, Pro(True, 0, pro.time, pro.nsid).encode(), now)
        return pro.nsid == self._switching.lsid

    def lapse(self, now: float) -> None:
        """A number without a slot is given back after a while: whoever has one never asks for another."""
        at = self.wake_at
        if at is not None and now >= at:
            self.resign(now)
            self._switching.end()

    def resign(self, now: float) -> None:
        """Tell the base that we give it up."""
        self._uplink.control(ControlType.PRO, Pro(True, 0, 0, self._switching.lsid or 0).encode(), now)
