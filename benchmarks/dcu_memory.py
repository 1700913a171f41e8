"""What a whole DCU keeps resident: one `headroom-dcu run` with a hundred linked meters, and all that belongs to it.

`python -m benchmarks.dcu_memory [--meters N] [--grants G] [--hold S] [--out DIR]`. The daemon is the real process:
serial port (a pseudo-terminal to a virtual modem), network model, ledger and store on disk, page socket, utility link
(mutual TLS to mosquitto where that is installed, a bench's own broker elsewhere). In this process play the real meter
daemons with virtual EM330s, on one virtual power line with real airtime, in wall-clock time: linking takes minutes.
What the kernel says of the DCU (VmRSS, and VmHWM: the most it ever was) at its start, when all meters are linked
and measured, when so many grants are live, and after a while of that with a page that looks every second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

import meter.daemon
from benchmarks.feeders import tree_feeder
from dcu.grid.compiler import compile_network
from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.grid.port_model import save_model
from hil_tests.enrolment import RING, MeterVault, enrol, write_keys
from hil_tests.jump import NOWHERE, DirectStore
from hil_tests.kept import toml
from hil_tests.mosquitto import HOST, Mosquitto, find_mosquitto
from hil_tests.utility_bench import Commander
from hil_tests.virtual.em330 import Measured, VirtualEm330
from hil_tests.virtual.gpio import BenchRelay, VirtualRelay
from hil_tests.virtual.line import PowerLine
from hil_tests.virtual.modem import Framing, VirtualModem, open_memory_port
from hil_tests.virtual.pty import ModemPty
from hil_tests.wall_utility import WallUtility
from meter.config import MeterConfig
from meter.core import HouseholdAsked
from meter.outbox import MemoryStore
from shared.clock import LoopClock
from shared.config import check_config
from shared.errors import DeviceError
from shared.ids import Eui48, MeterId, format_eui48
from shared.status_socket import ask

DCU: Final = "dcu-1"
FRAMING: Final = Framing.STOCK
NOMINAL_W: Final = 1000.0
CONTRACT_W: Final = 3000.0
REPORT_S: Final = 60.0
WAIT_S: Final = 1500.0
"""[s] Nothing here takes longer on a machine that does nothing else."""
LOOK_S: Final = 1.0
TOGETHER: Final = 4
"""Meters that begin together, and that may still be on their way when the next ones do."""


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meters", type=int, default=100)
    parser.add_argument("--grants", type=int, default=20, help="that have to be live (default 20)")
    parser.add_argument("--hold", type=float, default=60.0, metavar="S", help="hold them for so long (default 60)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-dcu-") as directory:
        found = asyncio.run(measure(Path(directory), options.meters, options.grants, options.hold))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "dcu_memory.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


async def measure(directory: Path, meters: int, grants: int, hold_s: float) -> dict[str, Any]:
    """All of it."""
    began_s = time.monotonic()
    street = Street(directory, meters)
    async with broker(directory) as section, street.served() as em330_url:
        street.configure(em330_url, section)
        with (directory / "dcu.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dcu.cli", "run", "--config", str(directory / "dcu.toml"),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        looking = asyncio.ensure_future(look(directory / "page.sock"))
        try:
            found: dict[str, Any] = {"meters": meters, "utility": str(section["url"]).partition(":")[0]}
            await street.until(lambda _: True)
            found["at_start"] = memory_mib(process.pid)
            await street.start()
            await street.until(lambda told: sum(one["quality"] == "good" for one in told["meters"]) == meters)
            found["all_linked"] = memory_mib(process.pid) | {"after_s": round(time.monotonic() - began_s)}
            street.ask(2 * grants)
            await street.until(lambda told: sum(one["granted_w"] is not None for one in told["meters"]) >= grants)
            found["granted"] = memory_mib(process.pid) | {"after_s": round(time.monotonic() - began_s)}
            await asyncio.sleep(hold_s)
            told = await street.until(lambda _: True)
            found["held"] = memory_mib(process.pid) | {"after_s": round(time.monotonic() - began_s)}
            found["live_grants"] = sum(one["granted_w"] is not None for one in told["meters"])
            found["linked"] = sum(one["linked"] for one in told["meters"])
            found["ledger_entries"] = told["ledger"]["position"]
            found["readings_stored"] = told["store"]["readings"]
            found["utility_items_sent"] = told["utility"]["counters"].get("items sent", 0)
        except TimeoutError:  # a machine too busy to play a hundred meters in step with the clock
            print(f"at most {street.most_linked} linked; {memory_mib(process.pid)}", file=sys.stderr)
            print((directory / "dcu.log").read_text(encoding="utf-8")[-4000:], file=sys.stderr)
            raise
        finally:
            looking.cancel()
            process.terminate()
            await process.wait()
            await street.stop()
    return found


class Street:
    """A hundred meters' daemons on one line, and the modem of the DCU at its end."""

    def __init__(self, directory: Path, meters: int) -> None:
        loop = asyncio.get_running_loop()
        self._directory, self._draw, self._clock = directory, random.Random(1), LoopClock()
        self._model = compile_network(tree_feeder(meters, "service"))
        self._u_v = np.abs(solve(self._model, Injections.of(np.zeros(meters)), engine="port")["port_u_v"][0])
        line = PowerLine(loop, self._draw)
        self._pty = ModemPty(VirtualModem(line, loop, DCU, self._draw, FRAMING), directory / "plc.tty", loop)
        self._names = [f"meter-{k}" for k in range(meters)]
        self._eui48 = {
            name: Eui48(bytes((2, 0x48, 0x44, 0x53)) + k.to_bytes(2, "big")) for k, name in enumerate(self._names)
        }
        self._ring = enrol(self._eui48 | {DCU: Eui48(bytes.fromhex("024844520001"))}, DCU, random.Random("keys"))
        self._modems = {name: VirtualModem(line, loop, name, self._draw, FRAMING) for name in self._names}
        self._daemons: dict[str, meter.daemon.MeterDaemon] = {}
        self._tasks: list[asyncio.Future[int]] = []
        self.most_linked = 0

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The balancing meter's address: everybody draws nothing, so the busbar is as the model has it."""
        busbar = VirtualEm330(jitter=self._draw)
        u_v = float(self._u_v.max())
        busbar.set_reading(Measured(u_v=(u_v, u_v, u_v), i_a=(0.0, 0.0, 0.0), p_w=(0.0, 0.0, 0.0)))
        server = await busbar.serve()
        self._pty.plug()
        try:
            yield server.url
        finally:
            await server.close()
            self._pty.unplug()

    def configure(self, em330_url: str, utility: dict[str, Any]) -> None:
        """The DCU's files."""
        directory = self._directory
        save_model(self._model, directory / "model.npz")
        write_keys(self._ring, directory)
        content: dict[str, Any] = {
            "dcu": {"id": DCU, "eui48": "02:48:44:52:00:01", "state_directory": str(directory / "state")},
            "site": {
                "nominal_voltage_v": float(self._model.u_nominal_v[0]),
                "band_pct": 10.0,
                "reading_age_s_max": 2.5 * REPORT_S,
            },
            "airtime": {"report_interval_s": REPORT_S},
            "model": {"file": str(directory / "model.npz"), "network_sha256": self._model.network_sha256},
            "balancing": {"url": em330_url, "bus": "lv"},
            "plc": {"url": str(directory / "plc.tty"), "framing": FRAMING.value},
            "protection": {"key_file": str(directory / RING)},
            "status": {"socket": str(directory / "dcu.sock"), "page_socket": str(directory / "page.sock")},
            "utility": utility,
            "meters": [
                {
                    "id": name,
                    "eui48": format_eui48(self._eui48[name]),
                    "bus": self._model.port_buses[k],
                    "phases": [self._model.port_labels[k]],
                    "nominal_limit_w": NOMINAL_W,
                    "contract_limit_w": CONTRACT_W,
                }
                for k, name in enumerate(self._names)
            ],
        }
        (directory / "dcu.toml").write_text(toml(content), encoding="utf-8")

    async def start(self) -> None:
        """All meters, some at a time: after a power cut they would crowd the line, and this process, for longer."""
        for k, name in enumerate(self._names):
            self._daemons[name] = self._meter(name, k)
            self._tasks.append(asyncio.ensure_future(self._daemons[name].run()))
            if k % TOGETHER == TOGETHER - 1:
                await self.until(lambda told, k=k: sum(one["linked"] for one in told["meters"]) > k - TOGETHER)  # type: ignore[misc]

    def _meter(self, name: str, k: int) -> meter.daemon.MeterDaemon:
        content = {
            "meter": {
                "id": name,
                "eui48": format_eui48(self._eui48[name]),
                "state_directory": "none",
                "nominal_limit_w": NOMINAL_W,
                "contract_limit_w": CONTRACT_W,
                "nominal_voltage_v": float(self._model.u_nominal_v[0]),
                "report_interval_s": REPORT_S,
                "phases": [self._model.port_labels[k]],
            },
            "em330": {"url": NOWHERE},
            "relay": {"pin": 5, "read_back_pin": 6},
            "plc": {"url": "none", "framing": FRAMING.value},
            "protection": {"key_file": "none"},
            "home": {"port": 1, "token_file": "none"},
        }
        em330 = VirtualEm330(jitter=self._draw)
        em330.set_reading(Measured(u_v=self._of(k, float(self._u_v[k])), i_a=self._of(k, 0.0), p_w=self._of(k, 0.0)))
        vault = MeterVault(self._ring.exported(MeterId(name)))
        vault.start()
        store = MemoryStore()
        ports = meter.daemon.Ports(
            clock=self._clock,
            draw=random.Random(self._draw.getrandbits(64)),
            open_plc=open_memory_port(self._modems[name]),
            registers=em330.port(answer_s=0.0),
            relay=VirtualRelay(BenchRelay(name, self._clock)),
            store=DirectStore(store),
            stored=store.load(),
            vault=vault,
        )
        return meter.daemon.build(check_config(name, content, MeterConfig), ports)

    def _of(self, k: int, value: float) -> tuple[float | None, float | None, float | None]:
        """A value in a customer's one phase."""
        first, second, third = (value if label == self._model.port_labels[k] else None for label in ("L1", "L2", "L3"))
        return first, second, third

    def ask(self, count: int) -> None:
        """So many households want all they may have."""
        for name in self._names[:count]:
            self._daemons[name].put(HouseholdAsked(CONTRACT_W, NOMINAL_W))

    async def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The DCU's status once this holds of it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(DeviceError):
                    told: dict[str, Any] = await asyncio.to_thread(ask, self._directory / "dcu.sock", "DCU")
                    if true(told):
                        return told
                    self.most_linked = max(self.most_linked, sum(one["linked"] for one in told["meters"]))
                    good = sum(one["quality"] == "good" for one in told["meters"])
                    granted = sum(one["granted_w"] is not None for one in told["meters"])
                    linked = sum(one["linked"] for one in told["meters"])
                    print(f"{linked} linked, {good} measured, {granted} granted", end="\r", file=sys.stderr)
                await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """End the meters."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def broker(directory: Path) -> AsyncIterator[dict[str, Any]]:
    """The DCU's `[utility]`, with somebody there."""
    if find_mosquitto() is None:
        utility = WallUtility(Commander(DCU))
        await utility.start()
        try:
            yield utility.section
        finally:
            await utility.stop()
        return
    real = Mosquitto(directory / "mosquitto", names=(DCU, "utility"))
    real.start()
    files = real.files(DCU)
    try:
        yield {
            "url": f"mqtts://{HOST}:{real.port}",
            "ca_file": str(files.authority),
            "certificate_file": str(files.certificate),
            "key_file": str(files.key),
        }
    finally:
        real.kill()


async def look(socket: Path) -> None:
    """What the operator's page does: ask once a second."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            await reader.read()
            writer.close()
        await asyncio.sleep(LOOK_S)


def memory_mib(pid: int) -> dict[str, Any]:
    """Resident memory of a process now and at most [MiB]."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    kib = {name: int(line.split()[1]) for line in lines for name in ("VmRSS", "VmHWM") if line.startswith(name)}
    return {f"{name}_mib": round(value / 1024, 1) for name, value in kib.items()}


if __name__ == "__main__":
    main()
