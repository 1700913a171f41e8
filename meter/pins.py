"""Pins by gpiozero, when the environment variable ``GPIOZERO_PIN_FACTORY`` names another factory than lgpio: benches.

On a device the dead man drives lgpio itself: it stays small, and claims an output together with its level. Stock
gpiozero 2.0.1 claims it at LOW first and sets the level afterwards; an active-low board would click at every start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from gpiozero import Device, GPIOPinInUse, GPIOZeroError, InputDevice, OutputDevice
from gpiozero.exc import BadPinFactory, PinInvalidPin, PinUnknownPi

from meter.deadman import FACTORY_VARIABLE, Wiring, in_words
from meter.relay import Level, RelaySettings
from shared.errors import DeviceError
from shared.messages import RelayState

_PIN_ERRORS: tuple[type[Exception], ...] = (GPIOZeroError, OSError)
"""What gpiozero raises when a pin cannot be had or does not obey."""


class ZeroPins:
    """`meter.deadman.Pins` by gpiozero."""

    def __init__(self, wiring: Wiring) -> None:
        """Claim the pins, de-energised.

        Raises:
            DeviceError: see `GpioRelay`.
        """
        energised = Level.HIGH if wiring.energised_high else Level.LOW
        raised = Level.HIGH if wiring.raised_high else Level.LOW
        self._relay = GpioRelay(RelaySettings(wiring.pin, energised, wiring.read_back_pin, raised))

    def drive(self, raised: bool) -> None:
        (self._relay.raise_export if raised else self._relay.to_nominal)()

    def contact(self) -> str:
        return self._relay.read_back().name.lower()

    def close(self) -> None:
        self._relay.close()
        if Device.pin_factory is not None:
            Device.pin_factory.close()


class GpioRelay:
    """A relay on two GPIO pins."""

    def __init__(self, settings: RelaySettings, factory: Any = None) -> None:
        """Claim the pins, de-energised.

        Args:
            settings: the wiring.
            factory: a gpiozero pin factory; None for the one this machine and its environment ask for.

        Raises:
            DeviceError: no GPIO here, no permission, a pin that does not exist or belongs to somebody else.
        """
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
        except _PIN_ERRORS as error:
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
        except _PIN_ERRORS:
            return RelayState.UNKNOWN

    def close(self) -> None:
        self._commanded = RelayState.NOMINAL
        # A pin that no longer answers cannot be switched off, but it can still be given back.
        with suppress(*_PIN_ERRORS):
            if not self._coil.closed:
                self._coil.off()
        for device in (self._coil, self._contact):
            if device is not None:
                with suppress(*_PIN_ERRORS):
                    device.close()

    def _set(self, state: RelayState) -> None:
        try:
            if state is RelayState.RAISED:
                self._coil.on()
            else:
                self._coil.off()
        except _PIN_ERRORS as error:
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
    """The pin factory the environment asks for.

    Raises:
        DeviceError: there is none, or it finds no GPIO.
    """
    if Device.pin_factory is None:
        errors: tuple[type[Exception], ...] = (ImportError, *_PIN_ERRORS)
        try:
            Device.ensure_pin_factory()
        except errors as error:
            raise _device_error(f"GPIO by {FACTORY_VARIABLE}={os.environ.get(FACTORY_VARIABLE)}", error) from error
    return Device.pin_factory


def _device_error(where: str, error: Exception) -> DeviceError:
    reason = str(error) or type(error).__name__
    if isinstance(error, GPIOPinInUse):
        return DeviceError(f"{where}: already in use ({reason})")
    if isinstance(error, PinInvalidPin):
        return DeviceError(f"{where}: no such pin on this board ({reason})")
    if isinstance(error, PinUnknownPi):
        return DeviceError(f"{where}: no GPIO chip found ({reason})")
    if isinstance(error, BadPinFactory):
        return DeviceError(f"{where}: no such pin library here ({reason})")
    return DeviceError(in_words(where, error))
