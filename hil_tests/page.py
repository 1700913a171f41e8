"""The operator's page beside a street: a process of its own, as in a substation, on a free port of this machine."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dcu.web.config import make_token
from hil_tests.kept import toml
from shared.errors import DeviceError

UP_S_MAX: Final = 60.0
STOP_S_MAX: Final = 5.0


@dataclass(slots=True)
class PageProcess:
    """A page that listens.

    Attributes:
        address: where.
        link: the same with a code that logs in once, within ten minutes.
        token: what logs in for as long as this page runs.
    """

    process: asyncio.subprocess.Process
    address: str
    link: str
    token: str

    async def stop(self) -> None:
        """End it; not yet reaped ones are killed."""
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def start_page(
    directory: Path, socket: Path, ledger: Path, network: Path | None = None, *, port: int = 0, viewers_max: int = 16
) -> PageProcess:
    """Start a page on a DCU's page socket; its files go to a directory that is there.

    Raises:
        DeviceError: it did not come up.
    """
    token_file, config_file = directory / "web.token", directory / "web.toml"
    token_file.unlink(missing_ok=True)
    make_token(token_file)
    store = ledger / "store"
    content: dict[str, Any] = {
        "web": {"port": port, "token_file": str(token_file), "viewers_max": viewers_max},
        "dcu": {"socket": str(socket), "ledger": str(ledger), "store": str(store), "show_parts": True},
    }
    if network is not None:
        content["feeder"] = {"network": str(network)}
    config_file.write_text(toml(content), encoding="utf-8")
    with (directory / "web.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dcu.web.cli", "run", "--config", str(config_file), "--link",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdout is not None
    said: dict[str, str] = {}
    try:
        async with asyncio.timeout(UP_S_MAX):
            while len(said) < 2 and (line := await process.stdout.readline()):
                name, _, value = line.decode().strip().partition(": ")
                said[name] = value
    except TimeoutError:
        process.kill()
    if not {"page", "link"} <= set(said):
        raise DeviceError(f"page: it did not come up; see {directory / 'web.log'}")
    return PageProcess(process, said["page"], said["link"], token_file.read_text(encoding="ascii").strip())
