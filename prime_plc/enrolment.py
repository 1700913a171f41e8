"""A service node's own requests for registration and unregistration, repeated until they are answered.

Who is registered and wants another way asks there while it goes on using the old one: the R bit of REG says so (its use
is recalled). Our base keeps connections and switch numbers of who moves, and says so by the same bit in its answer
(ours); a base that does not is one that we register with anew.
"""

from __future__ import annotations

import random
from enum import Enum

from prime_plc.control import Capabilities, ControlType, Pro, Reg
from prime_plc.custody import REG_EUI48
from prime_plc.pdu import SID_NONE, Beacon, Packet, glance
from prime_plc.search import Heard
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
    TO_MOVE = "move"
    TO_LEAVE = "leave"


class Enrolment:
    """Part of a service node.

    Attributes:
        eui48: our own.
        retry_at: when to ask again, or to give up [s].
        chosen: the switch that we want to move to, None if we do not.
        known: whether we are registered, as far as we know, wherever that is; until somebody says that it is over.
    """

    def __init__(self, settings: MacSettings, uplink: Uplink, eui48: Eui48, draw: random.Random) -> None:
        self._settings = settings
        self._uplink = uplink
        self.eui48 = eui48
        self._draw = draw
        self.known = False
        self.end()

    def end(self) -> None:
        """The network is gone."""
        self.retry_at: float | None = None
        self.asking = Asking.NOTHING
        self._tries = 0
        self.chosen: Heard | None = None
        self._beacon: Beacon | None = None

    def answered(self) -> None:
        """Registered."""
        self.known = True
        self.end()

    def begin(self, spread_s: float, now: float) -> None:
        """Ask for registration, at a random instant within this time."""
        self.asking = Asking.TO_REGISTER
        self._tries = 0
        self.retry_at = now + self._draw.uniform(0.0, spread_s)

    def move(self, chosen: Heard, now: float) -> None:
        """Ask for a place behind another switch of the same subnetwork, while we keep ours."""
        self.asking = Asking.TO_MOVE
        self._tries = 0
        self.chosen, self._beacon = chosen, chosen.beacon
        self.retry_at = now + self._draw.uniform(0.0, self._settings.register_spread_s)

    @property
    def moving_to(self) -> int:
        """Number of the switch that we want to move to; 255 if there is none."""
        return SID_NONE if self._beacon is None else self._beacon.sid

    def stay(self) -> None:
        """Do not move after all."""
        if self.asking is Asking.TO_MOVE:
            self.end()

    def awaits(self, data: bytes) -> bool:
        """Whether a generic PDU may be the answer from where we want to move to, by a few of its bytes."""
        if self._beacon is None or data[1] != (0x40 | self._beacon.level):
            return False
        seen = glance(data)
        return not seen.alone or (seen.control == ControlType.REG and seen.sid == self._beacon.sid)

    def is_answer(self, packet: Packet) -> bool:
        """Whether this packet is that answer."""
        if self._beacon is None or not packet.control or packet.lcid != ControlType.REG:
            return False
        return packet.sid == self._beacon.sid and packet.payload[REG_EUI48] == self.eui48

    def leave(self, now: float) -> None:
        """Ask for unregistration."""
        self.end()
        self.asking = Asking.TO_LEAVE
        self._ask_leave(now)

    @property
    def moving(self) -> bool:
        """Whether we want another place."""
        return self.asking is Asking.TO_MOVE

    @property
    def repeats(self) -> int:
        """Requests sent so far."""
        return self._tries

    def again(self, now: float) -> None:
        """Ask once more; each time the instant is spread over twice as long."""
        if self.asking is Asking.TO_LEAVE:
            self._ask_leave(now)
            return
        if self.asking is Asking.TO_MOVE:
            self._ask_move(now)
            return
        settings = self._settings
        spread_s = settings.register_spread_s * 2 ** (self._tries + 1)
        wait_s = min(settings.control_repeat_s, settings.register_repeat_s * 1.5**self._tries)
        self._tries += 1
        self.retry_at = now + wait_s * self._draw.uniform(0.8, 1.0) + self._draw.uniform(0.0, spread_s)
        self._uplink.control(ControlType.REG, self.reg(roaming=self.known), now)

    def acknowledge(self, lsids: list[int], now: float) -> None:
        """The base's answer has come; whoever passes this on learns that these switches are reached through us."""
        self._uplink.controls([(ControlType.REG, self.reg()), *self._reached(lsids)], now)

    def announce(self, lsids: list[int], now: float) -> None:
        """The same of switches that somebody above seems to have forgotten."""
        self._uplink.controls(self._reached(lsids), now)

    def _reached(self, lsids: list[int]) -> list[tuple[ControlType, bytes]]:
        code = self._settings.keep_alive_code
        return [(ControlType.PRO, Pro(False, 0, code, lsid).encode()) for lsid in lsids]

    def reg(self, *, negative: bool = False, roaming: bool = False) -> bytes:
        """Our REG packet."""
        return Reg(negative, roaming, 0, CAPABILITIES, self._settings.keep_alive_code, self.eui48).encode()

    def _ask_move(self, now: float) -> None:
        assert self._beacon is not None
        self._tries += 1
        wait_s = min(self._settings.control_repeat_s, self._settings.move_repeat_s * 1.3 ** (self._tries - 1))
        self.retry_at = now + wait_s * self._draw.uniform(0.8, 1.2)
        self._uplink.through(self._beacon, ControlType.REG, self.reg(roaming=True), now)

    def _ask_leave(self, now: float) -> None:
        self._tries += 1
        self.retry_at = now + self._settings.control_repeat_s
        self._uplink.control(ControlType.REG, self.reg(negative=True), now)
