"""The ends of a street's wire: a real stack on a virtual modem, pumped by events; meters that report, a DCU that hears.

There are no tasks here: a stack is called when its modem says something or its deadline has come, so that two hundred
of them fit into one core's virtual time. The same stations run on a loop of asyncio in wall-clock time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hil_tests.virtual.events import Scheduler
from hil_tests.virtual.line import PowerLine
from hil_tests.virtual.modem import Framing, VirtualModem
from prime_plc.modem_host import Port
from prime_plc.modem_messages import ModemMessage
from prime_plc.sap import (
    BytesReceived,
    DataConfirmed,
    DataReceived,
    DataResult,
    Input,
    LinkDown,
    LinkUp,
    MessageReceived,
    Output,
    PortOpened,
    ReopenPort,
    SendBytes,
    SendData,
    SendMessage,
)
from prime_plc.stack import Stack, StackSettings
from shared.ids import Eui48

SAP: Final = 1
REOPEN_S: Final = 0.5
RETRY_S: Final = 5.0
"""[s] A report that was not taken, or was lost with its connection, is offered again after this."""

OUTBOX_MAX: Final = 32
"""Reports a meter keeps; the oldest goes first when there are more."""

WAKES_MAX: Final = 1000
"""Of a stack in one instant; more would never end."""


class Pump:
    """One stack and its modem on a line."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = ("_armed_at", "_line", "_loop", "_modem", "_on_output", "_running", "stack")

    def __init__(
        self,
        name: str,
        stack: Stack,
        settings: StackSettings,
        line: PowerLine,
        loop: Scheduler,
        draw: random.Random,
        on_output: Callable[[Output], None],
    ) -> None:
        self.stack = stack
        self._loop = loop
        self._line = line
        self._on_output = on_output
        self._running = True
        self._armed_at = math.inf
        self._modem = VirtualModem(line, loop, name, draw, Framing(settings.modem.framing.value))
        if settings.modem.port is Port.MESSAGES:
            self._modem.on_message = self._told
            self._modem.ignores = stack.ignores
            self._modem.overhears = stack.overhears
        else:
            self._modem.on_bytes = self._fed

    def open(self) -> None:
        """Power: the stack finds its modem."""
        self.put(PortOpened())

    def stop(self) -> None:
        """No power: modem and stack are gone in this instant."""
        self._running = False
        self._modem.unplug()
        self._line.detach(self._modem)

    def put(self, item: Input) -> None:
        """Give the stack an input."""
        if self._running:
            self._perform(self.stack.handle(item, self._loop.time()))

    def _told(self, message: ModemMessage) -> None:
        if self._running:
            outputs = self.stack.handle(MessageReceived(message), self._loop.time())
            if outputs:
                self._perform(outputs)
            else:
                self._arm()

    def _fed(self, data: bytes) -> None:
        self.put(BytesReceived(data))

    def _perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, SendMessage):
                self._modem.tell(output.message)
            elif isinstance(output, SendBytes):
                self._modem.feed(output.data)
            elif isinstance(output, ReopenPort):
                self._loop.call_later(REOPEN_S, self.put, PortOpened())
            else:
                self._on_output(output)
        self._arm()

    def _arm(self) -> None:
        wake_at = self.stack.wake_at
        if wake_at is not None and wake_at < self._armed_at:
            self._armed_at = wake_at
            self._loop.call_at(wake_at, self._wake, wake_at)

    def _wake(self, armed_at: float) -> None:
        if not self._running or armed_at != self._armed_at:
            return None
        self._armed_at = math.inf
        now = self._loop.time()
        for _ in range(WAKES_MAX):
            wake_at = self.stack.wake_at
            if wake_at is None or wake_at > now:
                return self._arm()
            self._perform(self.stack.wake(now))
        raise AssertionError(f"{self._modem.name}: awake {WAKES_MAX} times at {now:g} s")


@dataclass(slots=True)
class Waiting:
    """A report on its way."""

    seq: int
    due_s: float
    offered: bool = False
    offers: int = 0


class Meter:
    """A meter's end: reports at an interval, kept until the wire says that they arrived."""

    def __init__(
        self,
        number: int,
        eui48: Eui48,
        loop: Scheduler,
        report_bytes: int,
        start: Callable[[Callable[[Output], None]], Pump],
    ) -> None:
        self.number = number
        self.eui48 = eui48
        self._loop = loop
        self._report_bytes = report_bytes
        self._start = start
        self.pump: Pump | None = None
        self.link = False
        self.link_downs: list[tuple[float, str]] = []
        self.waiting: dict[int, Waiting] = {}
        self.dropped = 0
        self.offered_again = 0
        self.seq = 0
        self._retries = False
        self.on_link: Callable[[Meter, bool], None] = lambda _meter, _up: None

    def power_on(self) -> None:
        """Start a fresh stack."""
        assert self.pump is None
        self.pump = self._start(self._hear)
        self.pump.open()

    def power_off(self) -> None:
        """Everything but the reports, which are on disk, is gone."""
        assert self.pump is not None
        self.pump.stop()
        self.pump = None
        self._set_link(up=False, reason="power off")
        for report in self.waiting.values():
            report.offered = False

    def report(self) -> None:
        """A report is due."""
        self.seq += 1
        if len(self.waiting) >= OUTBOX_MAX:
            self.waiting.pop(next(iter(self.waiting)))
            self.dropped += 1
        self.waiting[self.seq] = Waiting(self.seq, self._loop.time())
        self._offer()

    def _offer(self) -> None:
        if not self.link or self.pump is None:
            return
        for report in list(self.waiting.values()):
            if not report.offered:
                report.offered = True
                report.offers += 1
                self.offered_again += report.offers > 1
                data = report_bytes(self.number, report.seq, self._report_bytes)
                self.pump.put(SendData(None, SAP, SAP, data, report.seq))

    def _hear(self, output: Output) -> None:
        if isinstance(output, LinkUp):
            self._set_link(up=True, reason="")
            self._offer()
        elif isinstance(output, LinkDown):
            self._set_link(up=False, reason=output.reason)
        elif isinstance(output, DataConfirmed):
            self._confirmed(output)

    def _confirmed(self, confirmed: DataConfirmed) -> None:
        if confirmed.result is DataResult.ACKNOWLEDGED:
            self.waiting.pop(confirmed.token, None)
            return
        report = self.waiting.get(confirmed.token)
        if report is not None:
            report.offered = False
            if not self._retries:  # one for all that wait
                self._retries = True
                self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retries = False
        self._offer()

    def _set_link(self, *, up: bool, reason: str) -> None:
        if up != self.link:
            self.link = up
            if not up:
                self.link_downs.append((self._loop.time(), reason))
            self.on_link(self, up)


def report_bytes(number: int, seq: int, length: int) -> bytes:
    """A report's content: who, which, and something in the size of the rest."""
    head = number.to_bytes(2, "big") + seq.to_bytes(4, "big")
    return head + random.Random(number << 32 | seq).randbytes(length - len(head))


def read_report(data: bytes) -> tuple[int, int]:
    """Who and which."""
    return int.from_bytes(data[:2], "big"), int.from_bytes(data[2:6], "big")


class Listener:
    """The DCU's end: keeps when each report came first, and answers if it is told to."""

    def __init__(self, loop: Scheduler, answer_bytes: int) -> None:
        self._loop = loop
        self._answer = bytes(answer_bytes)
        self.pump: Pump | None = None
        self.links: set[Eui48] = set()
        self.arrived: dict[tuple[int, int], float] = {}
        self.twice = 0
        self.on_report: Callable[[int, int], None] = lambda _number, _seq: None
        self.on_confirmed: Callable[[DataConfirmed], None] = lambda _confirmed: None

    def hear(self, output: Output) -> None:
        """What the base stack says."""
        if isinstance(output, DataReceived):
            number, seq = key = read_report(output.data)
            self.twice += key in self.arrived
            self.arrived.setdefault(key, self._loop.time())
            if self._answer and self.pump is not None:
                self.pump.put(SendData(output.peer, SAP, SAP, self._answer, seq))
            self.on_report(number, seq)
        elif isinstance(output, LinkUp):
            self.links.add(output.peer)
        elif isinstance(output, LinkDown):
            self.links.discard(output.peer)
        elif isinstance(output, DataConfirmed):
            self.on_confirmed(output)
