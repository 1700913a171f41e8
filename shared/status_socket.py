"""Asking a running daemon on its status socket: a unix socket that answers one question with one JSON object.

A question is a line. The empty one asks for the status; a daemon may know more words. Nothing that can be asked there
changes a limit, a configuration, a key or a ledger.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Final

from shared.errors import DeviceError

STATUS: Final = ""
PING: Final = "ping"
"""Followed by a node's EUI-48."""
PIB: Final = "pib"
"""The MAC's management information base."""

TRACE: Final = "trace"
"""What its serial port of the power line has carried lately."""

QUESTION_BYTES_MAX: Final = 64
QUESTION_S: Final = 0.25
"""[s] Who says nothing for so long, and does not end his side either, asks for the status."""

STATUS_S_MAX: Final = 5.0
PING_S_MAX: Final = 20.0
"""[s] Longer than a daemon waits for a node."""

STATUS_BYTES_MAX: Final = 16 << 20


def ask(path: Path, whom: str, question: str = STATUS) -> dict[str, Any]:
    """The answer of a running daemon.

    Args:
        path: its socket.
        whom: what to call the daemon in the error.
        question: what is asked.

    Raises:
        DeviceError: nobody answers there, or something else than an object.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(PING_S_MAX if question else STATUS_S_MAX)
        try:
            link.connect(str(path))
            link.sendall(question.encode())
            link.shutdown(socket.SHUT_WR)
            data = bytearray()
            while len(data) <= STATUS_BYTES_MAX and (more := link.recv(65536)):
                data += more
            status = json.loads(data)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{path}: no answer from a running {whom} ({error})") from error
    if not isinstance(status, dict):
        raise DeviceError(f"{path}: seen {type(status).__name__}, expected the status of a {whom}")
    return status
