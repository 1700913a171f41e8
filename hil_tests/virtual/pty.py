"""A virtual modem on a pseudo-terminal: a daemon opens it like any serial device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from pathlib import Path
from typing import Final

from hil_tests.virtual.modem import VirtualModem

READ_BYTES: Final = 4096


class ModemPty:
    """A stable path (a link) to the terminal; `unplug` makes it vanish, `plug` brings it back on another terminal."""

    def __init__(self, modem: VirtualModem, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._modem = modem
        self._path = path
        self._loop = loop
        self._master: int | None = None
        self._slave: int | None = None
        modem.on_bytes = self._write

    def plug(self) -> None:
        """Make the device appear."""
        assert self._master is None, "already plugged"
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._path.unlink(missing_ok=True)
        self._path.symlink_to(os.ttyname(self._slave))
        self._loop.add_reader(self._master, self._readable)

    def unplug(self) -> None:
        """Make the device vanish, as when the cable is pulled."""
        if self._master is None or self._slave is None:
            return
        self._loop.remove_reader(self._master)
        self._path.unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = None
        self._modem.unplug()

    def _readable(self) -> None:
        assert self._master is not None
        with contextlib.suppress(BlockingIOError, OSError):
            self._modem.feed(os.read(self._master, READ_BYTES))

    def _write(self, data: bytes) -> None:
        if self._master is not None:
            with contextlib.suppress(BlockingIOError, OSError):  # nobody reads: a real modem's bytes are lost too
                os.write(self._master, data)
