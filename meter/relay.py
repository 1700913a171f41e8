"""The export relay: raised while its coil is energised, nominal whenever it is not.

Whatever fails (power, process, board) lets the coil go, so the failing state is the nominal limit. Commanding is not
knowing: what the contactor really does is read back through an auxiliary contact on a second pin.

The pins come from gpiozero's own choice of factory, the environment variable ``GPIOZERO_PIN_FACTORY``; without it (or
with ``lgpio``) the house's lgpio factory is used, which claims an output together with its level. Stock gpiozero 2.0.1
claims it at LOW first and sets the level afterwards: on an active-low board the relay would click at every start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from gpiozero import Device, GPIOPinInUse, GPIOZeroError, InputDevice, OutputDevice
from gpiozero.exc import BadPinFactory, PinInvalidPin, PinUnknownPi

from shared.errors import DeviceError
from shared.messages import RelayState

FACTORY_VARIABLE: Final = "GPIOZERO_PIN_FACTORY"
"""gpiozero's own name for the choice of a pin factory."""

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


class GpioRelay:
    """`RelayPort` on two GPIO pins by gpiozero."""

    def __init__(self, settings: RelaySettings, factory: Any = None) -> None:
        """Claim the pins, de-energised.

        Args:
            settings: the wiring.
            factory: a gpiozero pin factory; None for the one this machine and its environment ask for.

        Raises:
            DeviceError: no GPIO here, no permission, a pin that does not exist or belongs to somebody else.
        """
        self._errors = _pin_errors()
        self._commanded = RelayState.NOMINAL
        self._contact: Any = None
        where = f"relay pin GPIO{settings.pin}"
        factory = factory if factory is not None else default_factory()
        try:
            self._coil: Any = OutputDevice(
                settings.pin, active_high=settings.energised is Level.HIGH, initial_value=False, pin_factory=factory
            )
            if settings.read_back_pin is not None:
                where = f"read-back pin GPIO{settings.read_back_pin}"
                self._contact = self._claim_contact(settings, factory)
        except self._errors as error:
            raise _device_error(where, error) from error
        self._where = f"relay pin GPIO{settings.pin}"

    @property
    def commanded(self) -> RelayState:
        return self._commanded

    def raise_export(self) -> None:
        self._set(RelayState.RAISED)

    def to_nominal(self) -> None:
        self._set(RelayState.NOMINAL)

    def read_back(self) -> RelayState:
        if self._contact is None:
            return RelayState.UNKNOWN
        try:
            return RelayState.RAISED if self._contact.is_active else RelayState.NOMINAL
        except self._errors:
            return RelayState.UNKNOWN

    def close(self) -> None:
        self._commanded = RelayState.NOMINAL
        # A pin that no longer answers cannot be switched off, but it can still be given back.
        with suppress(*self._errors):
            if not self._coil.closed:
                self._coil.off()
        for device in (self._coil, self._contact):
            if device is not None:
                with suppress(*self._errors):
                    device.close()

    def _set(self, state: RelayState) -> None:
        try:
            if state is RelayState.RAISED:
                self._coil.on()
            else:
                self._coil.off()
        except self._errors as error:
            raise _device_error(self._where, error) from error
        self._commanded = state

    def _claim_contact(self, settings: RelaySettings, factory: Any) -> Any:
        try:
            return InputDevice(
                settings.read_back_pin, pull_up=settings.read_back_raised is Level.LOW, pin_factory=factory
            )
        except BaseException:
            self._coil.close()
            raise


def default_factory() -> Any:
    """The pin factory this machine and its environment ask for.

    Raises:
        DeviceError: there is none, or it finds no GPIO.
    """
    if Device.pin_factory is None:
        name = os.environ.get(FACTORY_VARIABLE, "lgpio")
        errors: tuple[type[Exception], ...] = (ImportError, *_pin_errors())
        try:
            if name.lower() == "lgpio":
                Device.pin_factory = level_claim_factory()
            else:
                Device.ensure_pin_factory()
        except errors as error:
            raise _device_error(f"GPIO by {FACTORY_VARIABLE}={name}", error) from error
    return Device.pin_factory


def level_claim_factory() -> Any:
    """gpiozero's lgpio factory, with pins that claim an output and its level in one call.

    Raises:
        ImportError: there is no lgpio on this machine.
    """
    import lgpio  # noqa: PLC0415 - exists on the device only
    from gpiozero.pins.lgpio import LGPIOFactory, LGPIOPin  # noqa: PLC0415 - imports lgpio

    class LevelClaimPin(LGPIOPin):  # type: ignore[misc]  # gpiozero carries no types
        """A pin without the LOW pulse between its claim and its level."""

        def output_with_state(self, state: object) -> None:
            lgpio.gpio_claim_output(self.factory._handle, self._number, int(bool(state)))

    class LevelClaimFactory(LGPIOFactory):  # type: ignore[misc]  # gpiozero carries no types
        """The local GPIO chip with such pins."""

        def __init__(self) -> None:
            super().__init__()
            self.pin_class = LevelClaimPin

    return LevelClaimFactory()


def _pin_errors() -> tuple[type[Exception], ...]:
    """What gpiozero and the library below it raise when a pin cannot be had or does not obey."""
    try:
        import lgpio  # noqa: PLC0415 - exists on the device only
    except ImportError:
        return (GPIOZeroError, OSError)
    return (GPIOZeroError, OSError, lgpio.error)


def _device_error(where: str, error: Exception) -> DeviceError:
    reason = str(error) or type(error).__name__
    if isinstance(error, GPIOPinInUse) or "busy" in reason.lower():
        return DeviceError(f"{where}: already in use ({reason})")
    if isinstance(error, PinInvalidPin):
        return DeviceError(f"{where}: no such pin on this board ({reason})")
    if isinstance(error, PinUnknownPi | FileNotFoundError) or "can not open gpiochip" in reason.lower():
        return DeviceError(f"{where}: no GPIO chip found ({reason})")
    if isinstance(error, PermissionError) or "permission" in reason.lower():
        return DeviceError(f"{where}: permission denied, is the user in group gpio? ({reason})")
    if isinstance(error, BadPinFactory | ImportError):
        return DeviceError(f"{where}: no such pin library here ({reason})")
    return DeviceError(f"{where}: {reason}")
