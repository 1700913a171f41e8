"""Relays of the bench and the GPIO pins that move them.

A relay is a coil, a contact that follows it after a moment, and an auxiliary contact to look at; it can be stuck, slow
or bouncing. A daemon reaches it in two ways, with the same relay behind both:

* as a process of its own, through gpiozero: ``GPIOZERO_PIN_FACTORY=headroom-bench`` makes `BenchFactory` its pin
  factory, whose pins talk to the bench's `RelayBoard` over the unix socket named in ``HEADROOM_BENCH_GPIO``;
* in memory, through `VirtualRelay`.

When the process dies its socket closes, and every pin it drove is an input again: the coil lets go, as with the
kernel's ``strict_gpiod`` on a Raspberry Pi.

The socket carries lines. From the pins: ``hello WHO``, ``out PIN LEVEL``, ``in PIN``, ``get NUMBER PIN``. From the
board: ``welcome`` or ``busy`` to the first, ``level NUMBER LEVEL`` to the last.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from gpiozero.exc import PinSetInput
from gpiozero.pins.mock import MockFactory, MockPin

from meter.relay import Level
from shared.clock import Clock, Timer
from shared.messages import RelayState

SOCKET_VARIABLE: Final = "HEADROOM_BENCH_GPIO"
"""Environment variable with the path of the bench's socket."""

READ_S_MAX: Final = 0.2
"""[s] A pin that cannot be read within this time is an error, not a level."""

HELLO_S_MAX: Final = 5.0
"""[s] The bench may be starting many processes at once."""

LINE_BYTES_MAX: Final = 64
"""[byte] Longest line on the socket; a longer one ends the connection."""

COIL_S: Final = 0.010
"""[s] From coil to contact, as a small power relay."""

SLOW_S: Final = 3.0
"""[s] The same for a relay that sticks a while."""

BOUNCES: Final = 3
BOUNCE_S: Final = 0.002
"""How often a bouncing contact opens again, and the time [s] between two of its moves."""


class RelayFault(Enum):
    """What a relay does wrong, one thing at a time."""

    NONE = "none"
    STUCK_OPEN = "contact never closes"
    STUCK_CLOSED = "contact never opens"
    SLOW = "contact follows late"
    BOUNCE = "contact bounces"
    READ_BACK_OPEN = "auxiliary contact never closes"
    READ_BACK_CLOSED = "auxiliary contact never opens"


class BenchRelay:
    """One relay: what its coil is told, what its contact does.

    Attributes:
        name: whose relay it is.
        moves: how often the contact has moved.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        on_change: Callable[[BenchRelay], None] = lambda _relay: None,
        coil_s: float = COIL_S,
    ) -> None:
        """A relay at rest.

        Args:
            name: whose relay it is.
            clock: whose seconds the contact takes.
            on_change: called after each move of the contact.
            coil_s: from coil to contact [s].
        """
        self.name = name
        self.moves = 0
        self._clock = clock
        self._on_change = on_change
        self._coil_s = coil_s
        self._energised = False
        self._raised = False
        self._fault = RelayFault.NONE
        self._timers: list[Timer] = []

    @property
    def energised(self) -> bool:
        """Whether current flows through the coil."""
        return self._energised

    @property
    def raised(self) -> bool:
        """Whether the contact is closed: what the inverter obeys."""
        return self._raised

    @property
    def read_back(self) -> RelayState:
        """What the auxiliary contact shows."""
        if self._fault is RelayFault.READ_BACK_OPEN:
            return RelayState.NOMINAL
        if self._fault is RelayFault.READ_BACK_CLOSED:
            return RelayState.RAISED
        return RelayState.RAISED if self._raised else RelayState.NOMINAL

    @property
    def fault(self) -> RelayFault:
        """What it does wrong now."""
        return self._fault

    @fault.setter
    def fault(self, fault: RelayFault) -> None:
        self._fault = fault
        self._follow()

    def energise(self) -> None:
        """Current through the coil."""
        self._set_coil(True)

    def release(self) -> None:
        """No current through the coil."""
        self._set_coil(False)

    def _set_coil(self, energised: bool) -> None:
        if energised != self._energised:
            self._energised = energised
            self._follow()

    def _follow(self) -> None:
        """Let the contact move to where coil and fault want it."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        target = self._energised
        delay_s = SLOW_S if self._fault is RelayFault.SLOW else self._coil_s
        if self._fault in {RelayFault.STUCK_OPEN, RelayFault.STUCK_CLOSED}:
            target, delay_s = self._fault is RelayFault.STUCK_CLOSED, 0.0
        if target == self._raised:
            return
        if delay_s == 0.0:
            self._move(target)
            return
        now = self._clock.monotonic()
        bounces = BOUNCES if self._fault is RelayFault.BOUNCE else 0
        for move in range(2 * bounces + 1):
            raised = target if move % 2 == 0 else not target
            self._timers.append(
                self._clock.call_at(now + delay_s + move * BOUNCE_S, lambda raised=raised: self._move(raised))  # type: ignore[misc]  # mypy cannot type a lambda with a default
            )

    def _move(self, raised: bool) -> None:
        if raised != self._raised:
            self._raised = raised
            self.moves += 1
            self._on_change(self)


class VirtualRelay:
    """`meter.relay.RelayPort` in memory."""

    def __init__(self, relay: BenchRelay) -> None:
        self._relay = relay
        self._commanded = RelayState.NOMINAL
        relay.release()

    @property
    def commanded(self) -> RelayState:
        return self._commanded

    def raise_export(self) -> None:
        self._commanded = RelayState.RAISED
        self._relay.energise()

    def to_nominal(self) -> None:
        self._commanded = RelayState.NOMINAL
        self._relay.release()

    def beat(self, turned_s: float) -> None:
        """Nothing: a process that hangs stops this whole world, its relay included."""

    def read_back(self) -> RelayState:
        return self._relay.read_back

    def close(self) -> None:
        self.to_nominal()


# ---- the board's side ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which pins of a meter's header a relay hangs on.

    Attributes:
        relay: the relay.
        pin: GPIO number that drives its coil.
        energised: level of that pin that energises it.
        read_back_pin: GPIO number its auxiliary contact goes to, None if it goes nowhere.
        read_back_raised: level there while the contact is closed.
    """

    relay: BenchRelay
    pin: int
    energised: Level = Level.LOW
    read_back_pin: int | None = None
    read_back_raised: Level = Level.LOW


class RelayBoard:
    """The header of one meter: a socket that one process at a time may claim, and the relays wired to it.

    Attributes:
        path: the socket.
        wirings: the relays and their pins.
        refused: connections turned away because somebody had the board, and lines that made no sense.
    """

    def __init__(self, path: Path, wirings: list[Wiring]) -> None:
        self.path = path
        self.refused = 0
        self.wirings = tuple(wirings)
        self._outputs = {wiring.pin: wiring for wiring in wirings}
        self._inputs = {wiring.read_back_pin: wiring for wiring in wirings if wiring.read_back_pin is not None}
        assert len(self._outputs) + len(self._inputs) == len(self._outputs | self._inputs), "one pin, one wire"
        self._server: asyncio.AbstractServer | None = None
        self._client: asyncio.StreamWriter | None = None
        self._free = asyncio.Event()
        self._free.set()

    @property
    def claimed(self) -> bool:
        """Whether a process has the board."""
        return self._client is not None

    async def released(self) -> None:
        """Return when no process has the board."""
        await self._free.wait()

    async def open(self) -> None:
        """Listen on the socket; a socket left over from an earlier bench is replaced."""
        if self.path.exists() and stat.S_ISSOCK(self.path.stat().st_mode):
            self.path.unlink()
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=LINE_BYTES_MAX)

    async def close(self) -> None:
        """Throw the process off the board and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._client is not None:
            self._client.close()
        await self._free.wait()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._client is not None:
            self.refused += 1
            await reader.readline()  # its hello; closing before it has been sent would break the pipe under it
            writer.write(b"busy\n")
            writer.close()
            return
        self._client = writer
        self._free.clear()
        try:
            while line := await reader.readline():
                self._obey(line.decode("ascii").split(), writer)
        except (OSError, ValueError):
            # A broken connection and a line that makes no sense end alike: nobody drives the pins any more.
            self.refused += 1
        finally:
            self._client = None
            self._release_all()
            writer.close()
            self._free.set()

    def _obey(self, words: list[str], writer: asyncio.StreamWriter) -> None:
        match words:
            case ["hello", _]:
                writer.write(b"welcome\n")
            case ["out", pin, level]:
                self._drive(int(pin), Level(level))
            case ["in", pin]:
                self._drive(int(pin), None)
            case ["get", number, pin]:
                writer.write(f"level {int(number)} {self._level(int(pin)).value}\n".encode("ascii"))
            case _:
                raise ValueError(f"bench GPIO: seen {words!r}, expected hello, out, in or get")

    def _drive(self, pin: int, level: Level | None) -> None:
        wiring = self._outputs.get(pin)
        if wiring is None:
            return
        if level is wiring.energised:
            wiring.relay.energise()
        else:
            wiring.relay.release()

    def _level(self, pin: int) -> Level:
        wiring = self._inputs.get(pin)
        if wiring is None:
            return Level.HIGH
        raised = wiring.relay.read_back is RelayState.RAISED
        low = raised == (wiring.read_back_raised is Level.LOW)
        return Level.LOW if low else Level.HIGH

    def _release_all(self) -> None:
        for wiring in self._outputs.values():
            wiring.relay.release()


# ---- the pins' side --------------------------------------------------------------------------------------------------


class BoardLine:
    """A process's connection to its board; blocking, as reading a pin is."""

    def __init__(self, path: str) -> None:
        """Claim the board.

        Raises:
            OSError: no bench there, or the board belongs to another process.
        """
        self._number = 0
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._claim(path)
        except BaseException:
            self._socket.close()
            raise

    def _claim(self, path: str) -> None:
        self._socket.settimeout(HELLO_S_MAX)
        self._socket.connect(path)
        self._send(f"hello {os.getpid()}")
        if self._receive() != ["welcome"]:
            raise OSError(f"bench GPIO {path}: busy, another process has this board")
        self._socket.settimeout(READ_S_MAX)

    def drive(self, pin: int, level: Level) -> None:
        """Make a pin an output of this level."""
        self._send(f"out {pin} {level.value}")

    def release(self, pin: int) -> None:
        """Make a pin an input."""
        self._send(f"in {pin}")

    def level(self, pin: int) -> Level:
        """The level at an input pin.

        Raises:
            OSError: no answer in time.
        """
        self._number += 1
        self._send(f"get {self._number} {pin}")
        while True:
            match self._receive():
                case ["level", number, level] if number == str(self._number):
                    return Level(level)
                case ["level", _, _]:
                    continue  # the late answer to a question given up
                case words:
                    raise OSError(f"bench GPIO: seen {words!r}, expected a level")

    def close(self) -> None:
        """Let the board go."""
        self._socket.close()

    def _send(self, line: str) -> None:
        self._socket.sendall(line.encode("ascii") + b"\n")

    def _receive(self) -> list[str]:
        while b"\n" not in self._buffer:
            data = self._socket.recv(LINE_BYTES_MAX)
            if not data:
                raise OSError("bench GPIO: the bench has closed the board")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("ascii").split()


class BenchPin(MockPin):  # type: ignore[misc]  # gpiozero carries no types
    """A pin whose other end is on the bench."""

    def close(self) -> None:
        """Give the pin back; the bench may have gone first."""
        with suppress(OSError):
            super().close()

    def output_with_state(self, state: object) -> None:
        """Claim the output together with its level, as the house's lgpio pin does."""
        self._function = "output"
        self._set_state(state)

    def _set_function(self, value: str) -> None:
        super()._set_function(value)
        if value == "input":
            self.factory.line.release(self._number)

    def _get_state(self) -> bool:
        if self._function == "output":
            return bool(self._state)
        return bool(self.factory.line.level(self._number) is Level.HIGH)

    def _set_state(self, value: object) -> None:
        if self._function == "input":
            raise PinSetInput(f"cannot set state of pin {self!r}")
        self._state = bool(value)
        self.factory.line.drive(self._number, Level.HIGH if value else Level.LOW)


class BenchFactory(MockFactory):  # type: ignore[misc]  # gpiozero carries no types
    """gpiozero pin factory ``headroom-bench``: a Raspberry Pi whose header is wired to the bench."""

    def __init__(self) -> None:
        """Claim the board named in the environment.

        Raises:
            OSError: it is not named, not there, or belongs to another process.
        """
        path = os.environ.get(SOCKET_VARIABLE)
        if not path:
            raise FileNotFoundError(f"{SOCKET_VARIABLE} does not name the bench's socket")
        super().__init__(pin_class=BenchPin)
        self.line: Any = BoardLine(path)

    def close(self) -> None:
        """Release every pin and the board."""
        super().close()
        self.line.close()
