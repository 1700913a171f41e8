"""Asking a running daemon for its status: the unix socket gives one JSON snapshot to whoever connects."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Final

from shared.errors import DeviceError

STATUS_S_MAX: Final = 5.0
STATUS_BYTES_MAX: Final = 16 << 20


def ask(path: Path, whom: str) -> dict[str, Any]:
    """The snapshot a running daemon gives on its status socket.

    Args:
        path: the socket.
        whom: what to call the daemon in the error.

    Raises:
        DeviceError: nobody answers there, or something else than a snapshot.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(STATUS_S_MAX)
        try:
            link.connect(str(path))
            data = bytearray()
            while len(data) <= STATUS_BYTES_MAX and (more := link.recv(65536)):
                data += more
            status = json.loads(data)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{path}: no answer from a running {whom} ({error})") from error
    if not isinstance(status, dict):
        raise DeviceError(f"{path}: seen {type(status).__name__}, expected the status of a {whom}")
    return status
