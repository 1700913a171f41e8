"""The 4-32 connection of a service node: opening it, keeping it open, and the data on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from typing import Final

from prime_plc.connection import Connection
from prime_plc.control import Con, ConnectionType
from prime_plc.lpdu import AddressPair, Lpdu
from prime_plc.sap import DataConfirmed, DataReceived, DataResult, Happened, LinkDown, LinkUp, MacOutput, SendData
from prime_plc.settings import MacSettings
from shared.errors import DecodeError
from shared.ids import Eui48

OPEN_GROWTH_MAX: Final = 6.0

HURRY_S: Final = 10.0
"""[s] Over which the nodes of a tree that is back spread their repetitions."""

LCID_FIRST: Final = 256
"""Connections opened by nodes use 256 to 511."""


class LlcState(Enum):
    """Where the connection stands."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"


Send = Callable[[bytes, float], None]
"""Sends a CON packet to the base."""


class LlcLink:
    """Part of a service node; its owner sends what `packets` gives and calls it when its times have come."""

    def __init__(self, settings: MacSettings, identifier: bytes, draw: random.Random, send: Send) -> None:
        assert 1 <= len(identifier) <= 16, identifier
        self._settings = settings
        self._identifier = identifier
        self._draw = draw
        self._send = send
        self._base = Eui48(b"")
        self._hops = 1
        self._tries = 0
        self.retry_at: float | None = None
        self.hold_until_s: float | None = None
        self.lcid = LCID_FIRST
        self.state = LlcState.CLOSED
        self.connection: Connection | None = None
        self.address: int | None = None
        self.undecodable = 0

    @property
    def data_at(self) -> float | None:
        """When `packets` has something to say without any input [s]."""
        return None if self.connection is None else self.connection.wake_at

    def open(self, base: Eui48, hops: int, now: float) -> None:
        """The node has registered: ask the base for a connection."""
        assert self.state is LlcState.CLOSED, self.state
        self._base = base
        self._hops = hops
        self.lcid = LCID_FIRST
        self.state = LlcState.OPENING
        self._tries = 0
        self._ask(now)

    def hurry(self, now: float) -> None:
        """The way to the base is open again: repeat soon what it may have swallowed, not all nodes at once."""
        if self.connection is not None:
            self.connection.hurry(now + self._draw.uniform(0.0, HURRY_S))

    def hold(self, until_s: float) -> None:
        """The way to the base is lost: another one found in time goes on with the same connection."""
        if self.state is not LlcState.CLOSED and self.hold_until_s is None:
            self.hold_until_s = until_s

    def moved(self, hops: int, now: float) -> None:
        """It is found."""
        self.hold_until_s = None
        self._hops = hops
        if self.connection is None:
            self._tries = 0
            self._ask(now)
        else:
            self.connection.moved(hops)
            self.connection.hurry(now)

    def close(self, reason: str) -> list[MacOutput]:
        """The registration is gone, and with it everything here."""
        outputs = self._down(reason)
        self.state = LlcState.CLOSED
        self.retry_at = self.hold_until_s = None
        return outputs

    def wake(self, now: float) -> tuple[list[MacOutput], bool]:
        """What time demands; True if the base never answers, so that the registration itself must be doubted."""
        if self.retry_at is None or now < self.retry_at:
            return [], False
        self.retry_at = None
        if self._tries > self._settings.open_repeats_max:
            return [], True
        self._ask(now)
        return [], False

    def _ask(self, now: float) -> None:
        self._tries += 1
        pause = min(OPEN_GROWTH_MAX, 1.5 ** (self._tries - 1))
        self.retry_at = now + self._settings.control_repeat_s * pause * self._draw.uniform(0.9, 1.3)
        self._send(Con(False, True, self.lcid, ConnectionType.LLC_4_32, self._identifier).encode(), now)

    # ---- control packets in ------------------------------------------------------------------------------------------

    def control(self, con: Con, now: float) -> list[MacOutput]:
        """The base accepts, rejects or closes; another connection that it opens is refused."""
        if con.type != ConnectionType.LLC_4_32 or con.lcid < LCID_FIRST:
            if not con.negative:
                self._send(Con(True, False, con.lcid, con.type).encode(), now)
            return []
        if con.lcid != self.lcid:
            return []
        action = _CONTROL.get((self.state, con.negative))
        return [] if action is None else action(self, con, now)

    def _accepted(self, con: Con, now: float) -> list[MacOutput]:
        """Unless it is not what was asked for: to this base, with ARQ."""
        if not con.arq or con.direct is not None or con.eui48 is not None:
            self._send(Con(True, False, con.lcid, con.type).encode(), now)
            return self._rejected(con, now)
        try:
            address = AddressPair.decode(con.data)
        except DecodeError:
            self.undecodable += 1
            return []
        self.state = LlcState.OPEN
        self.retry_at = None
        self.address = address.node
        self.connection = Connection(self._settings, self._hops)
        return [LinkUp(self._base, self._identifier, address.node)]

    def _rejected(self, _con: Con, now: float) -> list[MacOutput]:
        self._tries = 0
        wait_s = self._draw.uniform(self._settings.reopen_s_min, self._settings.reopen_s_max)
        self.retry_at = now + wait_s
        return [Happened("connection rejected", f"asking again in {wait_s:.0f} s")]

    def _closed_by_base(self, _con: Con, now: float) -> list[MacOutput]:
        self._send(Con(True, False, self.lcid, ConnectionType.LLC_4_32).encode(), now)
        return self._reopen("closed by the base", now)

    def _reopen(self, reason: str, now: float) -> list[MacOutput]:
        """The connection is gone, the registration is not: open another one."""
        outputs = self._down(reason)
        self.state = LlcState.OPENING
        self.lcid = LCID_FIRST + (self.lcid - LCID_FIRST + 1) % 256
        self._tries = 0
        self.retry_at = now + self._draw.uniform(0.0, self._settings.register_spread_s)
        return outputs

    def _down(self, reason: str) -> list[MacOutput]:
        self.address = None
        if self.connection is None:
            return []
        lost = [DataConfirmed(token, self._base, DataResult.LOST) for token in self.connection.pending_tokens]
        self.connection = None
        return [*lost, LinkDown(self._base, reason)]

    # ---- data --------------------------------------------------------------------------------------------------------

    def send(self, item: SendData) -> list[MacOutput]:
        """Queue one LPDU."""
        if self.connection is None:
            return [DataConfirmed(item.token, item.peer, DataResult.NOT_CONNECTED)]
        if not self.connection.send(Lpdu(item.dsap, item.ssap, item.data).encode(), item.token):
            return [DataConfirmed(item.token, item.peer, DataResult.QUEUE_FULL)]
        return []

    def data(self, lcid: int, payload: bytes, now: float) -> list[MacOutput]:
        """A data packet came in.

        Raises:
            DecodeError: it is none.
        """
        if self.connection is None or lcid != self.lcid:
            return []
        sdus, tokens = self.connection.receive(payload, now)
        outputs: list[MacOutput] = [DataConfirmed(token, self._base, DataResult.ACKNOWLEDGED) for token in tokens]
        return outputs + deliver(sdus, self._base)

    def packets(self, now: float, limit: int) -> tuple[list[bytes], list[MacOutput]]:
        """Payloads to send now; if the base does not acknowledge at all, the connection is opened anew."""
        connection = self.connection
        if connection is None:
            return [], []
        payloads = connection.packets(now, limit)
        if not connection.failed:
            return payloads, []
        self._send(Con(True, False, self.lcid, ConnectionType.LLC_4_32).encode(), now)
        return [], self._reopen("no acknowledgement", now)


_CONTROL: Final[dict[tuple[LlcState, bool], Callable[[LlcLink, Con, float], list[MacOutput]]]] = {
    (LlcState.OPENING, False): LlcLink._accepted,
    (LlcState.OPENING, True): LlcLink._rejected,
    (LlcState.OPEN, True): LlcLink._closed_by_base,
}
"""By state and by whether the packet is negative; the rest is late or doubled and ignored."""


def deliver(sdus: list[bytes], peer: Eui48, *, broadcast: bool = False) -> list[MacOutput]:
    """What came for the owner; an SDU that is no LPDU is dropped."""
    outputs: list[MacOutput] = []
    for sdu in sdus:
        try:
            lpdu = Lpdu.decode(sdu)
        except DecodeError:
            continue
        outputs.append(DataReceived(peer, lpdu.dsap, lpdu.ssap, lpdu.data, broadcast))
    return outputs
