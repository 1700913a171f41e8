"""The export relay: raised while its coil is energised, nominal whenever it is not.

Whatever fails (power, process, board) lets the coil go, so the failing state is the nominal limit. Commanding is not
knowing: what the contactor really does is read back through an auxiliary contact on a second pin. This is the port and
the wiring; `meter.guard` is the port in the field, where a process of its own (`meter.deadman`) has the pins.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from shared.messages import RelayState

GPIO_MAX: Final = 27
"""Highest GPIO number on the 40-pin header."""


class Level(Enum):
    """Electrical level of a pin."""

    LOW = "low"
    HIGH = "high"


class RelayPort(Protocol):
    """What the export limiter moves and looks at."""

    @property
    def commanded(self) -> RelayState:
        """What was last commanded; NOMINAL before the first command."""
        ...

    def raise_export(self) -> None:
        """Energise the coil.

        Raises:
            DeviceError: the pin does not obey; the state of the relay is unknown.
        """
        ...

    def to_nominal(self) -> None:
        """De-energise the coil; harmless when it already is.

        Raises:
            DeviceError: the pin does not obey; the state of the relay is unknown.
        """
        ...

    def beat(self, turned_s: float) -> None:
        """The core took its last turn at ``turned_s`` [s] of CLOCK_MONOTONIC; said at every control tick. Without beats
        of fresh turns the coil falls, whatever was commanded.

        Raises:
            DeviceError: nobody holds the relay any more; it is nominal, and stays so.
        """
        ...

    def read_back(self) -> RelayState:
        """What the auxiliary contact says; UNKNOWN without one or when it cannot be read."""
        ...

    def close(self) -> None:
        """De-energise and give the pins back; harmless twice."""
        ...


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How the relay board is wired.

    Attributes:
        pin: GPIO number (BCM) of the board's input. Prefer one that is pulled up before Linux runs (0-8).
        energised: level of ``pin`` that energises the coil; LOW for the usual opto-coupled boards.
        read_back_pin: GPIO number of the auxiliary contact, None if there is none.
        read_back_raised: level of ``read_back_pin`` while the contactor is energised. LOW means that the contact
            closes to ground, and the pin is pulled up; HIGH that it closes to 3.3 V, and the pin is pulled down.
    """

    pin: int
    energised: Level = Level.LOW
    read_back_pin: int | None = None
    read_back_raised: Level = Level.LOW

    def __post_init__(self) -> None:
        pins = [self.pin] if self.read_back_pin is None else [self.pin, self.read_back_pin]
        assert all(0 <= pin <= GPIO_MAX for pin in pins), pins
        assert len(set(pins)) == len(pins), pins
