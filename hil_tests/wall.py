"""The street in wall-clock time: the real daemons as processes of their own, on real sockets and pseudo-terminals."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dcu.ledger.store import verify
from hil_tests.enrolment import RING, write_keys
from hil_tests.jump import street_ready
from hil_tests.observation import Observation
from hil_tests.page import PageProcess, start_page
from hil_tests.player import Ear, StreetError
from hil_tests.scenario import CLIENTS, Scenario
from hil_tests.virtual.em330 import Em330Server
from hil_tests.virtual.feeder import Feeder
from hil_tests.virtual.gpio import SOCKET_VARIABLE, RelayBoard, Wiring
from hil_tests.virtual.line import LineSettings
from hil_tests.virtual.pty import ModemPty
from hil_tests.world import DCU, READ_BACK_PIN, RELAY_PIN, SUBSTATION, World, dcu_config, meter_config
from meter.deadman import FACTORY_VARIABLE
from shared.clock import LoopClock
from shared.errors import DeviceError
from shared.status_socket import ask

if TYPE_CHECKING:
    from hil_tests.wall_utility import WallUtility  # a broker; only for streets that have a utility

STOP_S_MAX: Final = 5.0
HOME_S_MAX: Final = 5.0
_RSS: Final = re.compile(r"ready .*rss_kib=(\d+)")

UTILITY: Final = "utility.jsonl"
"""What the utility heard."""


class WallStreet:
    """`hil_tests.player.Street` of processes."""

    def __init__(
        self,
        scenario: Scenario,
        ear: Ear,
        directory: Path,
        seed: int,
        line: LineSettings | None = None,
        utility: WallUtility | None = None,
        on_page: Callable[[PageProcess], object] | None = None,
    ) -> None:
        """``on_page``: hears of the operator's page once it listens; None: there is none."""
        loop = asyncio.get_running_loop()
        self._scenario = scenario
        self._ear = ear
        self._directory = directory
        self._state = directory / "state"
        # Socket paths are limited to about a hundred characters; the output directory may be anywhere.
        self._short = Path(tempfile.mkdtemp(prefix="headroom-"))
        clock = LoopClock(loop)
        self._world = World(scenario, ear, loop, clock, seed, line)
        self._ptys = {
            name: ModemPty(modem, self._short / f"{name}.tty", loop) for name, modem in self._world.modems.items()
        }
        self._boards = {
            name: RelayBoard(
                self._short / f"{name}.gpio", [Wiring(self._world.relays[name], RELAY_PIN, read_back_pin=READ_BACK_PIN)]
            )
            for name in CLIENTS
        }
        self._servers: dict[str, Em330Server] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ports: dict[str, int] = {}
        self._token = secrets.token_hex(16)
        self._utility = utility
        self._page: PageProcess | None = None
        self._on_page = on_page

    @property
    def feeder(self) -> Feeder:
        return self._world.feeder

    @property
    def world(self) -> World:
        """The physical side, for tests that break things."""
        return self._world

    async def start(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        for name, meter in self._world.meters.items():
            self._servers[name] = await meter.serve()
        for pty in self._ptys.values():
            pty.plug()
        for board in self._boards.values():
            await board.open()
        if self._utility is not None:
            await self._utility.start()
        self._write_configs()
        await asyncio.gather(*(self.launch(name) for name in (DCU, *CLIENTS)))
        if self._on_page is not None:
            await self._show(self._on_page)

    def _write_configs(self) -> None:
        token_file = self._state / "token"
        token_file.write_text(self._token, encoding="ascii")
        token_file.chmod(0o600)
        write_keys(self._world.ring, self._state)
        socket_path = str(self._short / "status.sock")
        contents: dict[str, dict[str, Any]] = {
            DCU: dcu_config(
                self._scenario,
                self._servers[SUBSTATION].url,
                self._tty(DCU),
                str(self._state / DCU),
                socket_path,
                str(self._state / RING),
            )
        }
        if self._utility is not None:
            contents[DCU]["utility"] = self._utility.section
        for name in CLIENTS:
            self._ports[name] = _free_port()
            home = (self._ports[name], str(token_file))
            state = str(self._state / name)
            keys = str(self._state / f"{name}.key")
            contents[name] = meter_config(
                self._scenario, name, self._servers[name].url, self._tty(name), state, home, keys
            )
        for name, content in contents.items():
            self._config(name).write_text(_toml(content), encoding="utf-8")

    def _tty(self, name: str) -> str:
        return str(self._short / f"{name}.tty")

    def _config(self, name: str) -> Path:
        return self._state / f"{name}.toml"

    def _log(self, name: str) -> Path:
        return self._state / f"{name}.log"

    async def launch(self, who: str) -> None:
        module = "dcu.cli" if who == DCU else "meter.cli"
        environment = dict(os.environ)
        if who != DCU:
            environment |= {FACTORY_VARIABLE: "headroom-bench", SOCKET_VARIABLE: str(self._boards[who].path)}
        with self._log(who).open("ab") as log:
            self._processes[who] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, "run", "--config", str(self._config(who)),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    async def ready(self) -> bool:
        for name, process in self._processes.items():
            if process.returncode is not None:
                last = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
                raise StreetError(f"{name}: ended with {process.returncode}: {' '.join(last)}")
        try:
            return street_ready(await asyncio.to_thread(ask, self._short / "status.sock", "DCU"))
        except DeviceError:
            return False

    async def ask(self, client: str, limit_w: float) -> None:
        await self._home(client, "POST", "/v1/request", {"limit_w": limit_w})

    async def release(self, client: str) -> None:
        await self._home(client, "POST", "/v1/release", {})

    async def status(self, client: str) -> dict[str, Any]:
        return await self._home(client, "GET", "/v1/status", None)

    async def _show(self, on_page: Callable[[PageProcess], object]) -> None:
        """Start the operator's page; a street without one is still a street."""
        try:
            self._page = await start_page(self._state, self._short / "status.sock.page", self._state / DCU)
        except DeviceError as error:
            self._ear.note("no page", str(error))
        else:
            on_page(self._page)

    async def _home(self, client: str, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(_http, self._ports[client], self._token, method, path, body)
        except OSError as error:  # a meter that is down cannot be asked; the household sees that
            self._ear.note("home door closed", f"{client}: {error}")
            return {}

    async def kill(self, who: str) -> None:
        process = self._processes.get(who)
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def pid(self, who: str) -> int:
        """The process of a daemon, for tests that hurt it."""
        return self._processes[who].pid

    def set_line(self, alive: bool) -> None:
        self._world.line.dead = not alive

    async def stop(self) -> None:
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._utility is not None:
            await self._utility.stop()
            self._utility.write(self._directory / UTILITY)
        if self._page is not None:
            await self._page.stop()
        for server in self._servers.values():
            await server.close()
        for board in self._boards.values():
            await board.close()
        for pty in self._ptys.values():
            pty.unplug()
        shutil.rmtree(self._short, ignore_errors=True)

    def gather(self, seen: Observation) -> None:
        found = verify(self._state / DCU)
        seen.ledger, seen.ledger_faults = found.entries, found.faults
        for name in (DCU, *CLIENTS):
            sizes = _RSS.findall(self._log(name).read_text(encoding="utf-8", errors="replace"))
            if sizes:
                seen.rss_kib[name] = max(int(size) for size in sizes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _http(port: int, token: str, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HOME_S_MAX)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Authorization": f"Bearer {token}"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def _toml(content: dict[str, object]) -> str:
    """A configuration as TOML: tables of plain values, and arrays of such tables."""
    lines: list[str] = []
    for name, value in content.items():
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            assert isinstance(table, dict), table
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(one)}" for key, one in table.items()]
            lines.append("")
    return "\n".join(lines)
