"""`python -m benchmarks.plc`: the wire's own figures: goodput of one link, turn-around of the host, speed of a street.

Goodput is measured over virtual modems with the serial port's real speed, in virtual time. Its limit is what frames of
the same size and modulation would carry back to back: payload over airtime, preamble and header included. Everything
else (channel access, beacon slots, acknowledgements, the serial port at 115200 baud) counts against it. What a sender
alone on the line could reach by the standard's channel access, without any acknowledgement, stands beside it. `ratio`
is from the base down to a node, `up_ratio` the other way; both join short segments as they fit.

Turn-around is processor time, from the bytes of a received frame to the bytes of its answer for the modem, without the
waiting that the protocol demands (backoff, hold of an acknowledgement).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from enum import Enum
from pathlib import Path
from typing import Any, Final

from hil_tests.virtual.line import LineSettings, PowerLine
from hil_tests.virtual.loop import run_virtual
from hil_tests.virtual.modem import Framing, VirtualModem, open_memory_port
from prime_plc.channel import PRIORITY_DATA
from prime_plc.link import StackRunner
from prime_plc.modem_host import ModemSettings, TypeAFraming
from prime_plc.pdu import CRC32_BYTES, GENERIC_HEADER_BYTES, PACKET_HEADER_BYTES
from prime_plc.phy import SYMBOL_S, Scheme, frame_duration_s
from prime_plc.sap import BytesReceived, DataReceived, Input, LinkUp, Output, SendBytes, SendData
from prime_plc.settings import FRAME_S, LADDER, MacSettings
from prime_plc.stack import Stack, StackSettings, base_stack, service_stack
from prime_plc.tests.ether import Ether
from shared.clock import LoopClock
from shared.ids import Eui48

BASE: Final = Eui48(bytes.fromhex("40402201C79A"))
NODE: Final = Eui48(bytes.fromhex("AABBCCDDEE01"))
HEADERS_BYTES: Final = GENERIC_HEADER_BYTES + PACKET_HEADER_BYTES + CRC32_BYTES + 4
"""[byte] Around a segment: PDU, packet, ARQ with window and acknowledgement, SAR."""

LPDU_HEADER_BYTES: Final = 3
SECONDS: Final = 60.0
SEEDS: Final = (1, 2, 3)
"""Goodput is the median over these."""

LPDU_BYTES_MAX: Final = 1024
QUIET_DB: Final = 20.0
TURNS: Final = 2000


def access_share(frame_s: float) -> float:
    """Share of the time that a sender alone fills with frames of one length [s]: each waits its mean backoff, half of
    one is lost at the end of a contention period, and beacons have slots."""
    backoff_s = (2**PRIORITY_DATA + 1) / 2 * SYMBOL_S
    contention_s = FRAME_S - MacSettings().slot_symbols(stock=False) * SYMBOL_S
    return (contention_s / (frame_s + backoff_s) - 0.5) * frame_s / FRAME_S


class Way(Enum):
    """Who has more to send than the line carries; the value is its place among the stacks."""

    DOWN = 0
    UP = 1


async def _carry(scheme: Scheme, segment_bytes: int, way: Way, seed: int) -> float:
    """Bytes a second that arrive at one end when the other always has more to send."""
    loop = asyncio.get_running_loop()
    draw = random.Random(seed)
    line = PowerLine(loop, draw, LineSettings(attenuation_db=QUIET_DB))
    mac = MacSettings(scheme=scheme, schemes=(scheme,), segment_bytes=segment_bytes)
    settings = StackSettings(mac, ModemSettings(TypeAFraming.TRANSPARENT))
    outputs: list[list[Output]] = [[], []]
    stacks = (base_stack(settings, BASE, draw), service_stack(settings, NODE, b"node", draw))
    runners, tasks = [], []
    for index, stack in enumerate(stacks):
        modem = VirtualModem(line, loop, str(index), draw, Framing.TRANSPARENT)
        runner = StackRunner(stack, open_memory_port(modem), LoopClock(loop), outputs[index].append, str(index))
        runners.append(runner)
        tasks.append(asyncio.ensure_future(runner.run()))
    while not any(isinstance(output, LinkUp) for output in outputs[0]):  # noqa: ASYNC110  # virtual time
        await asyncio.sleep(0.5)
    sdu = bytes(LPDU_BYTES_MAX // segment_bytes * segment_bytes - LPDU_HEADER_BYTES)
    started, token = loop.time(), 0
    while loop.time() - started < SECONDS:
        for _ in range(4):
            token += 1
            runners[way.value].send(SendData(NODE if way is Way.DOWN else None, 1, 1, sdu, token))
        await asyncio.sleep(0.2)
    received = sum(len(output.data) for output in outputs[1 - way.value] if isinstance(output, DataReceived))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return received / SECONDS


def goodput() -> list[dict[str, Any]]:
    """Measured and possible bit rate of one link, by modulation and frame size."""
    rows = []
    for scheme in LADDER:
        for segment_bytes in (128, 256, 344):
            frame_s = frame_duration_s(segment_bytes + HEADERS_BYTES, scheme)
            limit_bps = 8 * segment_bytes / frame_s
            down_bps, up_bps = (
                8
                * statistics.median(
                    run_virtual(lambda s=scheme, b=segment_bytes, w=way, k=seed: _carry(s, b, w, k))  # type: ignore[misc]
                    for seed in SEEDS
                )
                for way in Way
            )
            rows.append(
                {
                    "scheme": scheme.name,
                    "segment_bytes": segment_bytes,
                    "goodput_bps": round(down_bps),
                    "limit_bps": round(limit_bps),
                    "ratio": round(down_bps / limit_bps, 3),
                    "access_ratio": round(access_share(frame_s), 3),
                    "up_ratio": round(up_bps / limit_bps, 3),
                }
            )
    return rows


class _Timed:
    """A stack, and the processor time from a received frame to its answer each time."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._pending_s = 0.0
        self.durations: list[float] = []

    @property
    def wake_at(self) -> float | None:
        return self._stack.wake_at

    def handle(self, item: Input, now: float) -> list[Output]:
        started = time.process_time()
        outputs = self._stack.handle(item, now)
        spent = time.process_time() - started
        if isinstance(item, BytesReceived) and len(item.data) > 40:
            self._pending_s = spent
        elif self._pending_s:
            self._pending_s += spent
        return self._noted(outputs)

    def wake(self, now: float) -> list[Output]:
        started = time.process_time()
        outputs = self._stack.wake(now)
        if self._pending_s:
            self._pending_s += time.process_time() - started
        return self._noted(outputs)

    def _noted(self, outputs: list[Output]) -> list[Output]:
        if self._pending_s and any(isinstance(output, SendBytes) and len(output.data) > 30 for output in outputs):
            self.durations.append(self._pending_s)
            self._pending_s = 0.0
        return outputs


async def _turns() -> list[float]:
    """Seconds of processor time for each frame that a base answers at once."""
    loop = asyncio.get_running_loop()
    draw = random.Random(2)
    line = PowerLine(loop, draw, LineSettings(attenuation_db=QUIET_DB))
    mac = MacSettings(flush_hold_s=0.0)
    settings = StackSettings(mac, ModemSettings(TypeAFraming.TRANSPARENT))
    base = _Timed(base_stack(settings, BASE, draw))
    node = service_stack(settings, NODE, b"node", draw)
    outputs: list[Output] = []
    runners, tasks = [], []
    for name, stack in (("base", base), ("node", node)):
        modem = VirtualModem(line, loop, name, draw, Framing.TRANSPARENT)
        runner = StackRunner(stack, open_memory_port(modem), LoopClock(loop), outputs.append, name)
        runners.append(runner)
        tasks.append(asyncio.ensure_future(runner.run()))
    while not any(isinstance(output, LinkUp) and output.peer == BASE for output in outputs):  # noqa: ASYNC110  # virtual time
        await asyncio.sleep(0.5)
    base.durations.clear()
    for token in range(TURNS):
        runners[1].send(SendData(None, 1, 1, bytes(100), token))
        await asyncio.sleep(0.7)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return base.durations


def turn_around() -> dict[str, Any]:
    """Milliseconds from a frame's bytes to its answer's."""
    durations = sorted(1000 * one for one in run_virtual(_turns))
    return {
        "answers": len(durations),
        "median_ms": round(statistics.median(durations), 3),
        "p99_ms": round(durations[int(0.99 * len(durations))], 3),
        "max_ms": round(durations[-1], 3),
    }


def mac_street(nodes: int = 100, seed: int = 1) -> dict[str, Any]:
    """A street of the MAC alone (modem messages as values): cold start, ten minutes of reports, times real time."""
    draw = random.Random(seed)
    ripple = {(one, other): draw.uniform(0.0, 6.0) for one in range(nodes + 1) for other in range(one)}

    def snr_db(one: str, other: str) -> float | None:
        places = [0 if name == "base" else int(name[1:]) for name in (one, other)]
        level = 36.0 - 26.0 * 4.0 * abs(places[0] - places[1]) / nodes - ripple[max(places), min(places)]
        return level if level > 1.0 else None

    ether = Ether(snr_db, seed=seed, settings=MacSettings(), latency_s=0.008)
    ether.add_base()
    for number in range(1, nodes + 1):
        ether.add_node(number, draw.uniform(0.0, 5.0))
    started = time.process_time()
    took_s = ether.run_until(ether.connected, 1200.0)
    cold = time.process_time() - started
    air_s, from_s, token = sum(ether.airtime_s.values()), ether.now, 0
    started = time.process_time()
    for _ in range(10):
        for number in range(1, nodes + 1):
            ether.put(f"n{number}", SendData(None, 1, 1, token.to_bytes(4, "big") * 30, token))
            ether.run(60.0 / nodes)
            token += 1
    ether.run(60.0)
    spent = time.process_time() - started
    arrived = {item.data[:4] for item in ether.of("base", DataReceived)}
    return {
        "nodes": nodes,
        "hops_max": max(node.hops for node in ether.base().nodes.values()),
        "switches": len(ether.base().slots),
        "cold_start_s": took_s,
        "cold_start_times_real_time": round(took_s / cold),
        "reports": token,
        "delivered": round(len(arrived) / token, 5),
        "airtime_share": round((sum(ether.airtime_s.values()) - air_s) / (ether.now - from_s), 3),
        "times_real_time": round((ether.now - from_s) / spent),
    }


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plc", description=__doc__)
    parser.add_argument("what", nargs="*", help="goodput, turn, street; all without a word")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    result: dict[str, Any] = {}
    what = options.what or ["goodput", "turn", "street"]
    if "goodput" in what:
        result["goodput"] = goodput()
    if "turn" in what:
        result["turn_around"] = turn_around()
    if "street" in what:
        result["mac_street"] = mac_street()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plc.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
