"""The export relay on gpiozero's mock pins: never a pulse, nominal whenever in doubt, errors in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gpiozero import Device
from gpiozero.pins.mock import MockFactory, MockPin

from meter.deadman import FACTORY_VARIABLE, Wiring
from meter.pins import GpioRelay, ZeroPins, default_factory
from meter.relay import Level, RelaySettings
from shared.errors import DeviceError
from shared.messages import RelayState

WIRED = RelaySettings(pin=5, read_back_pin=6)


class RecordingPin(MockPin):  # type: ignore[misc]  # gpiozero carries no types
    """A pin that remembers every level it drove, and how it became an output; claimed without level it is LOW."""

    def __init__(self, factory: object, info: object) -> None:
        super().__init__(factory, info)
        self.calls: list[tuple[str, object]] = []

    def output_with_state(self, state: object) -> None:
        self.calls.append(("claim", state))
        self._function = "output"
        self._change_state(bool(state))

    def _set_function(self, value: str) -> None:
        if value == "output":
            self.calls.append(("claim", False))
        super()._set_function(value)

    def _set_state(self, value: object) -> None:
        self.calls.append(("drive", value))
        super()._set_state(value)


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    """A header of recording pins."""
    factory = MockFactory(pin_class=RecordingPin)
    yield factory
    factory.reset()


@pytest.mark.parametrize(("energised", "resting"), [(Level.LOW, True), (Level.HIGH, False)])
def test_the_output_is_claimed_with_its_resting_level(factory: MockFactory, energised: Level, resting: bool) -> None:
    """One claim that carries the level: an active-low board sees no LOW pulse at a start."""
    relay = GpioRelay(RelaySettings(pin=5, energised=energised), factory)
    assert factory.pin(5).calls == [("claim", resting)]
    assert relay.commanded is RelayState.NOMINAL
    relay.close()


@pytest.mark.parametrize(("energised", "raised_level"), [(Level.LOW, False), (Level.HIGH, True)])
def test_raising_energises_and_nominal_lets_go(factory: MockFactory, energised: Level, raised_level: bool) -> None:
    """The level at the pin, both ways, twice; a repeated command changes nothing."""
    relay = GpioRelay(RelaySettings(pin=5, energised=energised), factory)
    commanded = []
    for command in [relay.raise_export, relay.raise_export, relay.to_nominal, relay.to_nominal] * 2:
        command()
        commanded.append((relay.commanded, factory.pin(5).state is raised_level))
    raised, nominal = (RelayState.RAISED, True), (RelayState.NOMINAL, False)
    assert commanded == [raised, raised, nominal, nominal] * 2
    relay.close()


@pytest.mark.parametrize("raised_level", list(Level))
def test_the_read_back_is_what_the_contact_shows(factory: MockFactory, raised_level: Level) -> None:
    """Whatever was commanded; the pin is pulled towards the open contact."""
    relay = GpioRelay(RelaySettings(pin=5, read_back_pin=6, read_back_raised=raised_level), factory)
    contact = factory.pin(6)
    assert contact.pull == ("up" if raised_level is Level.LOW else "down")
    assert relay.read_back() is RelayState.NOMINAL
    (contact.drive_low if raised_level is Level.LOW else contact.drive_high)()
    assert relay.read_back() is RelayState.RAISED
    assert relay.commanded is RelayState.NOMINAL
    relay.close()


def test_without_a_read_back_pin_the_state_is_unknown(factory: MockFactory) -> None:
    """A command is not a proof."""
    relay = GpioRelay(RelaySettings(pin=5), factory)
    relay.raise_export()
    assert relay.read_back() is RelayState.UNKNOWN
    relay.close()


def test_closing_lets_go_and_gives_the_pins_back(factory: MockFactory) -> None:
    """The last driven level is the resting one; twice is harmless; another relay may have the pins."""
    relay = GpioRelay(WIRED, factory)
    relay.raise_export()
    relay.close()
    relay.close()
    assert factory.pin(5).calls[-1] == ("drive", True)
    assert factory.pin(5).function == "input"
    GpioRelay(WIRED, factory).close()


@pytest.mark.parametrize("settings", [RelaySettings(pin=5), RelaySettings(pin=4, read_back_pin=5)])
def test_a_pin_of_somebody_else_is_named(factory: MockFactory, settings: RelaySettings) -> None:
    """Coil or read-back; and a coil claimed before the read-back failed is given back."""
    first = GpioRelay(RelaySettings(pin=5), factory)
    with pytest.raises(DeviceError, match="pin GPIO5: already in use"):
        GpioRelay(settings, factory)
    GpioRelay(RelaySettings(pin=4), factory).close()
    first.close()


def test_a_pin_that_does_not_obey_is_an_error_and_not_a_state(
    factory: MockFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was commanded before stays what is known; an unreadable contact is unknown."""
    relay = GpioRelay(WIRED, factory)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(RecordingPin, "_set_state", broken)
        patch.setattr(RecordingPin, "_get_state", broken)
        with pytest.raises(DeviceError, match=r"relay pin GPIO5: .*Input/output error"):
            relay.raise_export()
        assert relay.commanded is RelayState.NOMINAL
        assert relay.read_back() is RelayState.UNKNOWN
        relay.close()
    GpioRelay(WIRED, factory).close()


@pytest.mark.parametrize(("pin", "read_back_pin"), [(28, None), (-1, None), (5, 28), (5, 5)])
def test_a_wiring_that_cannot_be_is_refused(pin: int, read_back_pin: int | None) -> None:
    """Pins exist, and are two."""
    with pytest.raises(AssertionError):
        RelaySettings(pin=pin, read_back_pin=read_back_pin)


# ---- which factory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_factory(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """gpiozero has not chosen yet."""
    monkeypatch.setattr(Device, "pin_factory", None)
    monkeypatch.delenv(FACTORY_VARIABLE, raising=False)
    return monkeypatch


def test_the_environment_chooses_the_factory(no_factory: pytest.MonkeyPatch) -> None:
    """gpiozero's own way."""
    no_factory.setenv(FACTORY_VARIABLE, "mock")
    assert isinstance(default_factory(), MockFactory)


def test_a_machine_without_such_a_library_says_so(no_factory: pytest.MonkeyPatch) -> None:
    """One line; never a quiet fall-back to a library whose pins pulse."""
    no_factory.setenv(FACTORY_VARIABLE, "nonsense")
    with pytest.raises(DeviceError, match="no such pin library"):
        GpioRelay(WIRED)


def test_the_dead_man_drives_them_too(no_factory: pytest.MonkeyPatch, factory: MockFactory) -> None:
    """The same pins behind the dead man's port: coil, contact, and both given back."""
    no_factory.setattr(Device, "pin_factory", factory)
    pins = ZeroPins(Wiring(5, False, 6, False))
    pins.drive(raised=True)
    factory.pin(6).drive_low()
    assert (factory.pin(5).state, pins.contact()) == (False, "raised")
    pins.drive(raised=False)
    assert factory.pin(5).state is True
    pins.close()
    assert factory.pin(5).function == "input"
