"""A whole stack as one machine: serial modem, MAC and 4-32 convergence; `sap.py` is its door."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from prime_plc import modem_host, role
from prime_plc.base_node import BaseNode
from prime_plc.modem_host import (
    FollowBeacons,
    FrameReceived,
    ModemHost,
    ModemLost,
    ModemReady,
    ModemSettings,
    TransmitConfirmed,
    TransmitFrame,
)
from prime_plc.modem_messages import BUFFER_BEACON, Receive, TransmitResult
from prime_plc.phy import PhyMode
from prime_plc.pib import ATTRIBUTES, read_attribute
from prime_plc.sap import (
    LPDU_DATA_BYTES_MAX,
    BytesReceived,
    DataConfirmed,
    DataResult,
    Direction,
    FrameSeen,
    Input,
    MacInput,
    MessageReceived,
    Output,
    SendData,
    SendMessage,
)
from prime_plc.service_node import ServiceNode
from prime_plc.settings import MacSettings
from shared.ids import Eui48


@dataclass(frozen=True, slots=True)
class StackSettings:
    """How a stack is set up; ``trace`` makes it show every frame as `FrameSeen`."""

    mac: MacSettings = field(default_factory=MacSettings)
    modem: ModemSettings = field(default_factory=ModemSettings)
    trace: bool = False


_FROM_PORT: Final = (BytesReceived, MessageReceived)
_FROM_MODEM: Final = (FrameReceived, TransmitConfirmed, ModemReady, ModemLost)

# A name of the module costs a tenth of a look into the class, and these are asked for at every frame.
_TYPE_A: Final = PhyMode.TYPE_A
_READY: Final = modem_host.State.READY


class Stack:
    """Modem driver and node, joined: what one says to the other never leaves this machine."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = ("_in_flight", "_modem", "_node", "_sent_s", "_settings")

    def __init__(self, settings: StackSettings, node: BaseNode | ServiceNode) -> None:
        self._settings = settings
        self._modem = ModemHost(settings.modem)
        self._node = node
        self._in_flight: dict[int, TransmitFrame] = {}
        self._sent_s = {"beacons": 0.0, "other": 0.0}

    @property
    def wake_at(self) -> float | None:
        node, modem = self._node.wake_at, self._modem.wake_at
        if node is None or (modem is not None and modem < node):
            return modem
        return node

    def handle(self, item: Input, now: float) -> list[Output]:
        if isinstance(item, _FROM_PORT):  # most of all inputs
            return self._join(self._modem.handle(item, now), now)
        if isinstance(item, SendData):
            if len(item.data) > LPDU_DATA_BYTES_MAX:
                return [DataConfirmed(item.token, item.peer, DataResult.TOO_LONG)]
            return self._join(self._node.handle(item, now), now)
        if isinstance(item, MacInput):
            return self._join(self._node.handle(item, now), now)
        return self._join(self._modem.handle(item, now), now)

    def ignores(self, mode: PhyMode, pdu: bytes, now: float) -> bool:
        """Whether nothing would come of a frame that comes in now, by its first bytes; then it need not be given.

        For large virtual streets, where most of what is heard concerns somebody else.
        """
        modem = self._modem
        if modem.state is not _READY or mode is not _TYPE_A or self._settings.trace:
            return False
        if not self._node.ignores(pdu):
            return False
        modem.heard_s = now
        return True

    def overhears(self, receive: Receive, now: float) -> bool:
        """Take a beacon that is only to be remembered, and say whether it was one; all else must be given as an input.

        For large virtual streets as well: beside what is ignored these are most of what is heard.
        """
        if self._settings.trace:
            return False
        frame = self._modem.passing(receive, now)
        return frame is not None and self._node.overhears(frame, now)

    def wake(self, now: float) -> list[Output]:
        due = self._modem.wake_at is not None and self._modem.wake_at <= now
        return self._join([*(self._modem.wake(now) if due else ()), *self._node.wake(now)], now)

    @property
    def sna(self) -> bytes:
        """Subnetwork; empty while a service node searches."""
        return self._node.sna

    def summary(self) -> dict[str, object]:
        """State and counters for people."""
        sent_s = {kind: round(seconds, 3) for kind, seconds in self._sent_s.items()}
        modem = {"modem": self._modem.state.value, "faults": self._modem.faults, "sent_s": sent_s}
        return self._node.summary() | modem

    def links(self) -> dict[int, dict[str, object]]:
        """What a service node knows of its neighbours (`ServiceNode.links`); a base says it in its summary."""
        return self._node.links() if isinstance(self._node, ServiceNode) else {}

    def pib(self) -> dict[str, str]:
        """The MAC's management information base: values in hex by their numbers; what a node has not is left out."""
        found = {number: read_attribute(self._node, number) for number in ATTRIBUTES}
        return {f"0x{number:04X}": value.hex() for number, value in found.items() if value is not None}

    def _join(self, begun: Sequence[modem_host.Output | role.Output], now: float) -> list[Output]:
        if len(begun) == 1 and type(begun[0]) is FrameReceived and not self._settings.trace:
            begun = self._node.handle(begun[0], now)  # most frames are nothing of ours
        outputs: list[Output] = []
        if not begun:
            return outputs
        if len(begun) == 1 and type(begun[0]) is SendMessage:  # a question to the modem
            return [begun[0]]
        todo: deque[modem_host.Output | role.Output] = deque(begun)
        while todo:
            output = todo.popleft()
            if isinstance(output, TransmitFrame):
                self._in_flight[output.buffer] = output
                todo.extend(self._modem.handle(output, now))
            elif isinstance(output, FollowBeacons):
                self._modem.handle(output, now)
            elif isinstance(output, _FROM_MODEM):
                if self._settings.trace:
                    outputs += self._seen(output, now)
                self._account(output)
                todo.extend(self._node.handle(output, now))
            else:
                outputs.append(output)
        return outputs

    def _account(self, item: FrameReceived | TransmitConfirmed | ModemReady | ModemLost) -> None:
        """Airtime of our own frames since the modem was ready."""
        if isinstance(item, ModemReady):
            self._sent_s = dict.fromkeys(self._sent_s, 0.0)
        elif isinstance(item, TransmitConfirmed) and item.result is TransmitResult.SUCCESS:
            sent = self._in_flight[item.buffer]
            kind = "beacons" if item.buffer == BUFFER_BEACON else "other"
            self._sent_s[kind] += self._settings.modem.airtime_s(len(sent.pdu), sent.scheme, sent.mode)

    def _seen(self, item: FrameReceived | TransmitConfirmed | ModemReady | ModemLost, now: float) -> list[Output]:
        if isinstance(item, FrameReceived):
            return [FrameSeen(Direction.RECEIVED, item.pdu, item.scheme, item.start_s, item.duration_s, item.snr_db)]
        if isinstance(item, TransmitConfirmed) and item.result is TransmitResult.SUCCESS:
            sent = self._in_flight[item.buffer]
            airtime_s = self._settings.modem.airtime_s(len(sent.pdu), sent.scheme, sent.mode)
            return [FrameSeen(Direction.SENT, sent.pdu, sent.scheme, now - airtime_s, airtime_s, None)]
        return []


def base_stack(settings: StackSettings, eui48: Eui48, draw: random.Random) -> Stack:
    """The stack of a DCU."""
    return Stack(settings, BaseNode(settings.mac, settings.modem, eui48, draw))


def service_stack(
    settings: StackSettings, eui48: Eui48, identifier: bytes, draw: random.Random, base: Eui48 | None = None
) -> Stack:
    """The stack of a meter; ``identifier`` (1 to 16 bytes) is what it calls itself when it opens its connection. It
    registers in the subnetwork of ``base`` alone, in any if None."""
    return Stack(settings, ServiceNode(settings.mac, settings.modem, eui48, identifier, draw, base))
