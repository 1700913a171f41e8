"""sd_notify: what a service tells systemd, as plain datagrams to ``$NOTIFY_SOCKET`` (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Protocol


class Notify(Protocol):
    """Where a daemon says READY=1, WATCHDOG=1, STATUS=..., STOPPING=1."""

    def __call__(self, state: str, /) -> None: ...


def no_notify(state: str) -> None:
    """Nobody listens."""


class SystemdNotify:
    """Datagrams to systemd; a lost one is never an error of the service."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __call__(self, state: str) -> None:
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError:
            return


def notify_from(environment: Mapping[str, str] = os.environ) -> Notify:
    """systemd's door if this process was started by it, else nobody's."""
    address = environment.get("NOTIFY_SOCKET", "")
    return SystemdNotify(address) if address.startswith(("/", "@")) else no_notify


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Interval [s] at which systemd expects WATCHDOG=1, or None."""
    text = environment.get("WATCHDOG_USEC", "")
    owner = environment.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (owner and owner != str(os.getpid())):
        return None
    return int(text) / 1e6
