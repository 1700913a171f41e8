"""The three families of errors, and the one shape every fault report has.

A refusal of a request is never one of these: it is a value with a reason (`shared.messages.Denial`).
"""

from __future__ import annotations

from dataclasses import dataclass


class HeadroomError(Exception):
    """Base of every error this house raises on purpose."""


class DecodeError(HeadroomError):
    """Bytes that cannot be right: whatever follows, they will never decode."""


class ProtocolError(HeadroomError):
    """Sense, but not now."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for what the protocol does not allow in this state."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow in this state."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: what, where, seen, expected."""

    where: str
    seen: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: seen {self.seen}, expected {self.expected}"


class ConfigError(HeadroomError):
    """A configuration that is refused; carries *all* its faults, not only the first."""

    def __init__(self, file: str, faults: list[Fault]) -> None:
        assert faults, "a ConfigError names at least one fault"
        self.file = file
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{file}: {fault}" for fault in faults))


class DeviceError(HeadroomError):
    """A device that is missing, busy or not what the configuration says."""
