"""Real stacks over virtual modems and a virtual line, in virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TypeVar

import pytest

from hil_tests.virtual.line import Frame, LineSettings, PowerLine
from hil_tests.virtual.loop import run_virtual
from hil_tests.virtual.modem import Framing, VirtualModem, open_memory_port
from prime_plc.link import StackRunner
from prime_plc.modem_host import ModemSettings, TypeAFraming
from prime_plc.sap import DataConfirmed, DataReceived, DataResult, Happened, LinkDown, LinkUp, Output, SendData
from prime_plc.settings import MacSettings
from prime_plc.stack import Stack, StackSettings, base_stack, service_stack
from shared.clock import LoopClock
from shared.ids import Eui48

BASE = Eui48(bytes.fromhex("40402201C79A"))
MAC = MacSettings(control_repeat_s=2.0)
OutputT = TypeVar("OutputT")


def node_eui(number: int) -> Eui48:
    return Eui48(bytes.fromhex("AABBCCDDEE00")[:5] + bytes((number,)))


@dataclass
class End:
    """One station: stack, runner and everything that came out of it."""

    runner: StackRunner
    stack: Stack
    modem: VirtualModem
    outputs: list[Output]

    def of(self, kind: type[OutputT]) -> list[OutputT]:
        return [output for output in self.outputs if isinstance(output, kind)]


class World:
    """A line with a base and some nodes."""

    def __init__(self, nodes: int, seed: int, settings: LineSettings | None = None, framing: str = "stock") -> None:
        self.loop = asyncio.get_running_loop()
        self.draw = random.Random(seed)
        self.line = PowerLine(self.loop, self.draw, settings)
        self.settings = StackSettings(MAC, ModemSettings(TypeAFraming(framing)))
        self.framing = Framing(framing)
        self.tasks: list[asyncio.Task[None]] = []
        self.base = self.add("base", base_stack(self.settings, BASE, self.draw))
        self.nodes = [
            self.add(f"node{number}", service_stack(self.settings, node_eui(number), b"serial%d" % number, self.draw))
            for number in range(1, nodes + 1)
        ]

    def add(self, name: str, stack: Stack) -> End:
        modem = VirtualModem(self.line, self.loop, name, self.draw, self.framing)
        outputs: list[Output] = []
        runner = StackRunner(stack, open_memory_port(modem), LoopClock(self.loop), outputs.append, name)
        self.tasks.append(asyncio.ensure_future(runner.run()))
        return End(runner, stack, modem, outputs)

    async def up(self) -> float:
        """Wait until every node has its connection; the time it took."""
        async with asyncio.timeout(300):
            while not all(node.of(LinkUp) for node in self.nodes):  # noqa: ASYNC110  # virtual time
                await asyncio.sleep(0.1)
        return self.loop.time()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize("parameters", [{0x0100: b"PL360     "}, {0x010C: bytes.fromhex("36000102")}, {0x010C: b""}])
def test_a_node_with_another_modem_stays_away_until_it_is_flashed(parameters: dict[int, bytes]) -> None:
    """The same protocol number, another product or version: nothing is sent by it, and it is said once."""

    async def main() -> tuple[int, list[str], bool]:
        world = World(1, seed=3)
        (node,) = world.nodes
        node.modem.flash(parameters)
        sent: list[Frame] = []
        world.line.on_frame = lambda frame: sent.append(frame) if frame.sender is node.modem else None
        await asyncio.sleep(120.0)
        before = len(sent)
        told = [item.what for item in node.of(Happened) if item.what.startswith("modem")]
        node.modem.flash({})
        await world.up()
        await world.stop()
        return before, told, bool(sent)

    assert run_virtual(main) == (0, ["modem refused"], True)


@pytest.mark.parametrize("framing", ["stock", "transparent"])
def test_two_nodes_register_and_open_within_seconds(framing: str) -> None:
    """Three beacons of the base, registration and connection: a few seconds, with either firmware."""

    async def main() -> tuple[float, list[LinkUp]]:
        world = World(2, seed=1, framing=framing)
        took = await world.up()
        links = world.base.of(LinkUp)
        await world.stop()
        return took, links

    took, links = run_virtual(main)
    assert took < 6.0
    assert {(link.peer, link.serial) for link in links} == {(node_eui(n), b"serial%d" % n) for n in (1, 2)}
    assert {link.address for link in links} == {2, 3}


@pytest.mark.parametrize("seed", range(5))
def test_data_cross_a_bad_line_once_and_in_order(seed: int) -> None:
    """A tenth of all frames is lost each way, both ends talk at once: everything arrives, once, in order."""

    async def main() -> tuple[list[bytes], list[bytes], list[DataResult]]:
        world = World(2, seed)
        await world.up()
        for one, other in (("base", "node1"), ("node1", "base")):
            world.line.set_loss(one, other, 0.1)
        node = world.nodes[0]
        for number in range(10):
            world.base.runner.send(SendData(node_eui(1), 1, 1, bytes((number,)) * (1 + 30 * number), number))
            node.runner.send(SendData(None, 1, 1, bytes((100 + number,)) * 40, 100 + number))
            await asyncio.sleep(2.0)
        await asyncio.sleep(60.0)
        down = [item.data for item in node.of(DataReceived)]
        up = [item.data for item in world.base.of(DataReceived)]
        results = [item.result for end in (world.base, node) for item in end.of(DataConfirmed)]
        await world.stop()
        return down, up, results

    down, up, results = run_virtual(main)
    assert down == [bytes((number,)) * (1 + 30 * number) for number in range(10)]
    assert up == [bytes((100 + number,)) * 40 for number in range(10)]
    assert results == [DataResult.ACKNOWLEDGED] * 20


@pytest.mark.parametrize(("dead_s", "reasons"), [(20.0, []), (150.0, ["no way to the base"])])
def test_a_node_finds_back_after_the_line_was_dead(dead_s: float, reasons: list[str]) -> None:
    """Fifteen seconds of silence are a lost network, two minutes more end the connection; when the line lives again the
    node registers by itself, and goes on with its connection if it still has it."""

    async def main() -> tuple[list[LinkDown], int]:
        world = World(1, seed=3)
        await world.up()
        world.line.dead = True
        await asyncio.sleep(dead_s)
        downs = world.nodes[0].of(LinkDown)
        world.line.dead = False
        await asyncio.sleep(60.0)
        ups = len(world.nodes[0].of(LinkUp))
        await world.stop()
        return downs, ups

    downs, ups = run_virtual(main)
    assert [down.reason for down in downs] == reasons
    assert ups == 1 + len(reasons)


def test_a_base_that_forgot_its_nodes_says_so() -> None:
    """A base that restarts within the beacons' patience answers unknown nodes, and they come back in seconds."""

    async def main() -> tuple[int, float]:
        world = World(1, seed=4)
        await world.up()
        world.tasks[0].cancel()
        await asyncio.sleep(0)
        world.line.detach(world.base.modem)
        again = world.add("base2", base_stack(world.settings, BASE, world.draw))
        await asyncio.sleep(1.5)
        world.nodes[0].runner.send(SendData(None, 1, 1, b"hello"))
        started = world.loop.time()
        async with asyncio.timeout(60):
            while not again.of(LinkUp):  # noqa: ASYNC110  # virtual time
                await asyncio.sleep(0.1)
        took = world.loop.time() - started
        await world.stop()
        return len(again.of(LinkUp)), took

    ups, took = run_virtual(main)
    assert ups == 1
    assert took < 15.0


def test_an_unplugged_modem_is_opened_again() -> None:
    """The port vanishes and comes back: link down, then up again."""

    async def main() -> int:
        world = World(1, seed=5)
        await world.up()
        transport = world.nodes[0].runner._transport
        transport.lose()
        await asyncio.sleep(30.0)
        ups = len(world.nodes[0].of(LinkUp))
        await world.stop()
        return ups

    assert run_virtual(main) == 2


def test_one_seed_is_one_world() -> None:
    """Two runs of a noisy world give the same outputs at every station."""

    async def main() -> list[list[Output]]:
        world = World(2, seed=6, settings=LineSettings(burst_rate_hz=0.2))
        await asyncio.sleep(60.0)
        seen = [list(end.outputs) for end in (world.base, *world.nodes)]
        await world.stop()
        return seen

    assert run_virtual(main) == run_virtual(main)
