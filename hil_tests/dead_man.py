"""How long a relay stays raised when its meter, or its dead man, fails: real processes, real time, the bench's GPIO.

Each run is a meter of its own: the composed daemon with the real guarded relay, an EM330 in memory, and in the place of
the power line somebody who grants what is asked. When its contact has closed it is hurt, and the bench watches the
contact. ``python -m hil_tests.dead_man`` is that meter.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final

import meter.daemon
from hil_tests.enrolment import MeterVault, enrol
from hil_tests.virtual.em330 import Measured, VirtualEm330
from hil_tests.virtual.gpio import SOCKET_VARIABLE, BenchRelay, RelayBoard, Wiring
from hil_tests.world import READ_BACK_PIN, RELAY_PIN
from meter.config import MeterConfig
from meter.core import Event, HouseholdAsked, Output
from meter.deadman import FACTORY_VARIABLE
from meter.guard import GuardedRelay
from meter.outbox import MemoryStore
from prime_plc import sap
from shared.clock import LoopClock
from shared.config import check_config
from shared.cosem import CLIENT_SAP, SERVER_SAP, Pushed, decode_apdu, encode_down
from shared.errors import HeadroomError
from shared.ids import Epoch, MeterId, parse_eui48
from shared.log import set_up_logging
from shared.messages import DecisionId, Grant, NominalLimit, Report, Request
from shared.session import BLOCK, End, InvocationCounter, Own, Session

FALL_S_MAX: Final = 2.0
"""[s] Reliability rule 9."""

RAISE_S_MAX: Final = 30.0
WATCH_S_MAX: Final = 5.0
TOGETHER: Final = 5
"""Meters at a time; more would measure the start of processes."""

SPREAD_S: Final = 1.0
"""[s] A meter is hurt at a random moment of so long, two control ticks."""


class Hurt(Enum):
    """What is done, and to whom."""

    STOP_METER = "SIGSTOP of the meter"
    KILL_METER = "SIGKILL of the meter"
    SPIN_METER = "endless loop in the meter"
    HANG_CORE = "core that never turns again"
    STOP_DEAD_MAN = "SIGSTOP of the dead man"
    KILL_DEAD_MAN = "SIGKILL of the dead man"


class NotRaisedError(HeadroomError):
    """A meter that should be hurt did not even raise its relay."""


def measure(runs: int, seed: int, kinds: tuple[Hurt, ...] = tuple(Hurt)) -> dict[str, Any]:
    """Seconds from the hurt to the open contact, ``runs`` of each kind; median, largest, and the memory of both."""
    return asyncio.run(_measure(runs, random.Random(seed), kinds))


async def _measure(runs: int, draw: random.Random, kinds: tuple[Hurt, ...]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    memory: list[tuple[int, int]] = []
    for hurt in kinds:
        times: list[float] = []
        for first in range(0, runs, TOGETHER):
            count = min(TOGETHER, runs - first)
            moments = [draw.uniform(0.0, SPREAD_S) for _ in range(count)]
            for seconds, kib in await asyncio.gather(*(_run(hurt, moment) for moment in moments)):
                times.append(seconds)
                memory.append(kib)
        rows[hurt.value] = {"runs": runs, "median_s": round(statistics.median(times), 3), "max_s": round(max(times), 3)}
    return {
        "kinds": rows,
        "bar_s": FALL_S_MAX,
        "within": all(row["max_s"] <= FALL_S_MAX for row in rows.values()),
        "meter_pss_kib": max(kib[0] for kib in memory),
        "dead_man_pss_kib": max(kib[1] for kib in memory),
    }


async def _run(hurt: Hurt, moment_s: float) -> tuple[float, tuple[int, int]]:
    """One meter from start to fall: seconds until the contact was open, proportional memory of meter and dead man."""
    moved = asyncio.Event()
    relay = BenchRelay("meter", LoopClock(), lambda _relay: moved.set())
    with tempfile.TemporaryDirectory(prefix="headroom-") as directory:
        board = RelayBoard(Path(directory) / "gpio", [Wiring(relay, RELAY_PIN, read_back_pin=READ_BACK_PIN)])
        await board.open()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hil_tests.dead_man",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {FACTORY_VARIABLE: "headroom-bench", SOCKET_VARIABLE: str(board.path)},
        )  # fmt: skip
        try:
            await _moves(moved, RAISE_S_MAX, "raise its relay")
            _stands(relay, raised=True)
            child = _child(process.pid)
            memory = (_proportional_kib(process.pid), _proportional_kib(child))
            await asyncio.sleep(moment_s)
            moved.clear()
            began_s = time.monotonic()
            _hurt(hurt, process.pid, child)
            await _moves(moved, WATCH_S_MAX, f"lower it after {hurt.value}")
            fell_s = time.monotonic() - began_s
            _stands(relay, raised=False)
        finally:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # asyncio's own kill may reap what its watcher waits for
            await process.wait()
            await asyncio.wait_for(board.released(), WATCH_S_MAX)
            await board.close()
    return fell_s, memory


def _stands(relay: BenchRelay, *, raised: bool) -> None:
    assert relay.raised is raised, "moves of the contact alternate"


async def _moves(moved: asyncio.Event, limit_s: float, what: str) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await moved.wait()
    except TimeoutError as error:
        raise NotRaisedError(f"meter: expected to {what} within {limit_s:g} s") from error


def _hurt(hurt: Hurt, pid: int, child: int) -> None:
    target = child if hurt in {Hurt.STOP_DEAD_MAN, Hurt.KILL_DEAD_MAN} else pid
    number = {
        Hurt.STOP_METER: signal.SIGSTOP,
        Hurt.STOP_DEAD_MAN: signal.SIGSTOP,
        Hurt.KILL_METER: signal.SIGKILL,
        Hurt.KILL_DEAD_MAN: signal.SIGKILL,
        Hurt.SPIN_METER: signal.SIGUSR1,
        Hurt.HANG_CORE: signal.SIGUSR2,
    }[hurt]
    os.kill(target, number)


def _child(pid: int) -> int:
    """The one child of a process: its dead man."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(child)


def anonymous_kib(pid: int) -> int:
    """Memory that a process shares with nobody, no file's pages either [KiB]."""
    return _memory_kib(pid, "Anonymous:")


def _proportional_kib(pid: int) -> int:
    """Memory of a process, pages shared with others counted by their share [KiB]."""
    return _memory_kib(pid, "Pss:")


def _memory_kib(pid: int, row: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(row))


# ---- the meter that is hurt ------------------------------------------------------------------------------------------

_DCU: Final = parse_eui48("02:48:44:52:00:01")
_METER: Final = MeterId("meter-1")
_RING: Final = enrol({"dcu": _DCU, _METER: parse_eui48("02:48:44:52:01:01")}, "dcu", random.Random(1))
_CONFIG: Final[dict[str, Any]] = {
    "meter": {
        "id": "meter-1",
        "eui48": "02:48:44:52:01:01",
        "state_directory": "none",
        "nominal_limit_w": 1200.0,
        "contract_limit_w": 2400.0,
    },
    "em330": {"url": "tcp://127.0.0.1:9?unit=1"},
    "relay": {"pin": RELAY_PIN, "read_back_pin": READ_BACK_PIN},
    "plc": {"url": "none"},
    "protection": {"key_file": "none"},
    "home": {"port": 1, "token_file": "none"},
}


class GenerousLine:
    """In the place of `StackRunner`: grants what the meter asks and renews what it reports."""

    def __init__(self, _stack: Any, _open: Any, _clock: Any, heard: Callable[[sap.Output], None], _url: str) -> None:
        self._heard = heard
        self._seq = 0
        self._request: Request | None = None
        draw = random.Random(2)
        own = Own.start(End.DCU, InvocationCounter(0, BLOCK), draw)
        self._session = Session(own, _RING.exported(_METER).pair, draw)

    async def run(self, progress: Callable[[], None]) -> None:
        self._heard(sap.LinkUp(_DCU, b"meter-1", 5))
        while True:
            progress()
            await asyncio.sleep(5.0)

    def send(self, item: sap.SendData) -> bool:
        arrival = self._session.receive(item.data, asyncio.get_running_loop().time())
        for answer in arrival.answers:
            self._give(answer)
        if arrival.began:
            self._say(NominalLimit(DecisionId(Epoch(3), 0), 1200.0))
        if arrival.plain is None:
            return True
        apdu = decode_apdu(arrival.plain)
        message = apdu.message if isinstance(apdu, Pushed) else None
        if isinstance(message, Request):
            self._request = message
        if isinstance(message, Request | Report) and message.nonce is not None and self._request is not None:
            self._seq += 1
            decision = DecisionId(Epoch(3), self._seq)
            self._say(Grant(decision, self._request.request_id, message.nonce, 2400.0, 60.0))
        return True

    def _say(self, message: Grant | NominalLimit) -> None:
        self._give(self._session.protect(encode_down(message, 1)) or b"")

    def _give(self, data: bytes) -> None:
        received = sap.DataReceived(_DCU, SERVER_SAP, CLIENT_SAP, data)
        asyncio.get_running_loop().call_soon(self._heard, received)


class _DirectStore:
    def __init__(self) -> None:
        self._store = MemoryStore()

    async def put(self, report: Report) -> None:
        self._store.put(report)

    async def forget(self, seqs: list[int]) -> None:
        self._store.forget(seqs)


def _spin(*_: object) -> None:
    while True:
        pass


async def _meter() -> int:
    config = check_config("meter.toml", _CONFIG, MeterConfig)
    analyzer = VirtualEm330(jitter=random.Random(1))
    analyzer.set_reading(Measured(u_v=(230.0, None, None), i_a=(-5.0, None, None), p_w=(-1150.0, None, None)))
    vars(meter.daemon)["StackRunner"] = GenerousLine  # the one thing here that is not real
    relay = GuardedRelay(config.relay_settings)
    vault = MeterVault(_RING.exported(_METER))
    vault.start()
    ports = meter.daemon.Ports(
        clock=LoopClock(),
        draw=random.Random(1),
        open_plc=_nowhere,
        registers=analyzer.port(answer_s=0.0),
        relay=relay,
        store=_DirectStore(),
        stored=([], 0),
        vault=vault,
    )
    daemon = meter.daemon.build(config, ports)
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGUSR1, _spin)
    loop.add_signal_handler(signal.SIGUSR2, _Deadlock(daemon).begin)
    running = asyncio.ensure_future(daemon.run())
    while not running.done() and daemon.status()["relay"] != "RAISED":
        daemon.ask(HouseholdAsked(2400.0, 2400.0))
        await asyncio.sleep(0.1)
    return await running


class _Deadlock:
    """Makes a core hang in the performance of an output, while everything else goes on."""

    def __init__(self, daemon: meter.daemon.MeterDaemon) -> None:
        self._core: Any = daemon._core
        self._perform = daemon._perform
        self._hangs = False
        vars(daemon)["_perform"] = self.perform

    def perform(self, output: Output) -> Awaitable[Any] | None:
        return asyncio.Event().wait() if self._hangs else self._perform(output)

    def begin(self) -> None:
        self._hangs = True
        self._core.handle = lambda *_: [Event("hangs")]


async def _nowhere(_factory: Callable[[], asyncio.Protocol]) -> tuple[Any, Any]:
    raise OSError("no line here")


if __name__ == "__main__":
    set_up_logging()
    sys.exit(asyncio.run(_meter()))
