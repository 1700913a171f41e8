"""A service node's own requests for registration and unregistration, repeated until they are answered."""

from __future__ import annotations

import random
from enum import Enum

from prime_plc.control import Capabilities, ControlType, Reg
from prime_plc.settings import MacSettings
from prime_plc.uplink import Uplink
from shared.ids import Eui48

CAPABILITIES = (
    Capabilities.SWITCH | Capabilities.AGGREGATION | Capabilities.MULTICAST | Capabilities.ROBUSTNESS | Capabilities.ARQ
)


class Asking(Enum):
    """What the node waits for an answer to."""

    NOTHING = "nothing"
    TO_REGISTER = "register"
    TO_LEAVE = "leave"


class Enrolment:
    """Part of a service node.

    Attributes:
        retry_at: when to ask again, or to give up [s].
    """

    def __init__(self, settings: MacSettings, uplink: Uplink, eui48: Eui48, draw: random.Random) -> None:
        self._settings = settings
        self._uplink = uplink
        self._eui48 = eui48
        self._draw = draw
        self.end()

    def end(self) -> None:
        """The network is gone."""
        self.retry_at: float | None = None
        self.asking = Asking.NOTHING
        self._tries = 0

    def answered(self) -> None:
        """Registered."""
        self.retry_at = None
        self.asking = Asking.NOTHING

    def begin(self, spread_s: float, now: float) -> None:
        """Ask for registration, at a random instant within this time."""
        self.asking = Asking.TO_REGISTER
        self._tries = 0
        self.retry_at = now + self._draw.uniform(0.0, spread_s)

    def leave(self, now: float) -> None:
        """Ask for unregistration."""
        self.asking = Asking.TO_LEAVE
        self._tries = 0
        self._ask_leave(now)

    @property
    def repeats(self) -> int:
        """Requests sent so far."""
        return self._tries

    def again(self, now: float) -> None:
        """Ask once more; each time the instant is spread over twice as long."""
        if self.asking is Asking.TO_LEAVE:
            self._ask_leave(now)
            return
        settings = self._settings
        spread_s = settings.register_spread_s * 2 ** (self._tries + 1)
        wait_s = min(settings.control_repeat_s, settings.register_repeat_s * 1.5**self._tries)
        self._tries += 1
        self.retry_at = now + wait_s * self._draw.uniform(0.8, 1.0) + self._draw.uniform(0.0, spread_s)
        self.say(now)

    def say(self, now: float) -> None:
        """One request, or the acknowledgement of its answer, which looks the same."""
        self._uplink.control(ControlType.REG, self.reg(negative=False), now)

    def reg(self, *, negative: bool) -> bytes:
        """Our REG packet."""
        return Reg(negative, False, 0, CAPABILITIES, self._settings.keep_alive_code, self._eui48).encode()

    def _ask_leave(self, now: float) -> None:
        self._tries += 1
        self.retry_at = now + self._settings.control_repeat_s
        self._uplink.control(ControlType.REG, self.reg(negative=True), now)
