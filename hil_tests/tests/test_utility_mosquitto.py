"""The link over a real mosquitto: mutual TLS 1.3, everybody's own topics, and a broker that is killed.

Wall-clock time, because the broker is a process; every wait ends with what it waits for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcu.utility.broker import Address, TlsFiles
from dcu.utility.certificates import issue, new_authority
from dcu.utility.cli import main
from dcu.utility.commands import BYTES_MAX, Judge
from dcu.utility.documents import Class, command_topic, up
from dcu.utility.link import Arrival, LinkLost, MessageRefused, UtilityLink
from dcu.utility.mqtt import MqttBroker
from dcu.utility.outbox import Item, Outbox
from hil_tests.mosquitto import HOST, Mosquitto, find_mosquitto
from hil_tests.tests.test_utility_link import Desk
from hil_tests.utility_bench import Commander, DirectOutbox
from hil_tests.utility_consumer import Consumer
from shared.clock import LoopClock

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto; requirements/system.sh installs it")
DCU = "dcu-1"
UP = b"headroom/+/up/#"
WAIT_S = 15.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    subject = Mosquitto(tmp_path / "mosquitto", names=("dcu-1", "dcu-2", "utility"))
    subject.start()
    yield subject
    subject.kill()


@contextlib.asynccontextmanager
async def consumer(broker: Mosquitto, pause_s: float = 0.0) -> AsyncIterator[Consumer]:
    subject = Consumer(HOST, broker.port, broker.files("utility"), pause_s)
    task = asyncio.ensure_future(subject.run())
    async with asyncio.timeout(WAIT_S):
        await subject.ready.wait()
    yield subject
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def port(broker: Mosquitto, name: str = DCU, files: TlsFiles | None = None) -> MqttBroker:
    context = (files or broker.files(name)).context()
    return MqttBroker(name, Address(HOST, broker.port, tls=True), context)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110  # asks another process
            await asyncio.sleep(0.02)


def nothing(_what: Any) -> None:
    """Nobody listens."""


async def test_each_dcu_has_its_own_topics_and_a_forbidden_one_is_refused_aloud(broker: Mosquitto) -> None:
    """The broker says so in its acknowledgement; the link stays."""
    heard: list[Arrival] = []
    session = await port(broker).connect(heard.append, nothing)
    other = await port(broker, "dcu-2").connect(nothing, nothing)
    await session.publish(up(DCU, Class.ALARM), b"{}")
    for topic in (up("dcu-2", Class.ALARM), command_topic(DCU), command_topic("dcu-2"), "anything"):
        with pytest.raises(MessageRefused, match="Not authorized"):
            await session.publish(topic, b"{}")
    async with consumer(broker) as utility:
        await utility.command("dcu-2", b"for the other")
        await utility.command(DCU, b"for us")
        await until(lambda: bool(heard))
    assert [arrival.payload for arrival in heard] == [b"for us"]
    await session.close()
    await other.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho drops a socket in mid-handshake
async def test_nobody_gets_in_without_a_certificate_of_the_pinned_authority(broker: Mosquitto, tmp_path: Path) -> None:
    """No certificate, one of another authority, a broker of another authority, TLS 1.2."""
    now = datetime.datetime.now(datetime.UTC)
    strange = new_authority("strange", now)
    files = {"ca": strange.certificate}
    impostor = issue(strange, DCU, now)
    files |= {"crt": impostor.certificate, "key": impostor.key}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    good = broker.files(DCU)
    wrong_identity = TlsFiles(good.authority, tmp_path / "crt", tmp_path / "key")
    wrong_broker = TlsFiles(tmp_path / "ca", good.certificate, good.key)
    for wrong in (wrong_identity, wrong_broker):
        with pytest.raises(LinkLost):
            await port(broker, files=wrong).connect(nothing, nothing)
    old = good.context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    bare = ssl.create_default_context(cafile=good.authority)
    for context in (old, bare):
        with pytest.raises(LinkLost):
            await MqttBroker(DCU, Address(HOST, broker.port, tls=True), context).connect(nothing, nothing)
    assert good.context().minimum_version is ssl.TLSVersion.TLSv1_3


async def test_a_command_waits_at_the_broker_until_it_is_acknowledged(broker: Mosquitto) -> None:
    """Given while the DCU is away; taken, and dropped with the process; brought again, acknowledged, and not again."""
    heard: list[Arrival] = []
    session = await port(broker).connect(heard.append, nothing)
    await session.close()
    async with consumer(broker) as utility:
        await utility.command(DCU, b"while away")
    for delivery in (1, 2):
        session = await port(broker).connect(heard.append, nothing)
        await until(lambda delivery=delivery: len(heard) == delivery)  # type: ignore[misc]
        if delivery == 2:
            heard[-1].acknowledge()
            await session.publish(up(DCU, Class.ALARM), b"{}")  # so that the acknowledgement is through
        await session.close()
    session = await port(broker).connect(heard.append, nothing)
    async with consumer(broker) as utility:
        await utility.command(DCU, b"the next")
        await until(lambda: heard[-1].payload == b"the next")
    await session.close()
    assert [arrival.payload for arrival in heard] == [b"while away", b"while away", b"the next"]


async def test_a_retained_command_is_known_as_one_whenever_it_comes(broker: Mosquitto) -> None:
    """To a session that listens, and to one that comes later."""
    heard: list[Arrival] = []
    session = await port(broker).connect(heard.append, nothing)
    async with consumer(broker) as utility:
        await utility.command(DCU, b"stale", retain=True)
        await until(lambda: len(heard) == 1)
    heard[0].acknowledge()
    await session.close()
    session = await port(broker).connect(heard.append, nothing)
    await until(lambda: len(heard) == 2)
    await session.close()
    assert [arrival.retained for arrival in heard] == [True, True]


async def test_ten_mebibytes_never_reach_us(broker: Mosquitto) -> None:
    """The broker keeps to the packet size that we name; the session goes on."""
    heard: list[Arrival] = []
    session = await port(broker).connect(heard.append, nothing)
    async with consumer(broker) as utility:
        await utility.command(DCU, b"[" * (10 << 20))
        await utility.command(DCU, b"x" * BYTES_MAX)
        await until(lambda: bool(heard))
    await session.close()
    assert [len(arrival.payload) for arrival in heard] == [BYTES_MAX]


async def test_the_broker_is_killed_and_nothing_is_missing(broker: Mosquitto, tmp_path: Path) -> None:
    """Three times in six hundred decisions, with commands between; `benchmarks/utility.py` kills it twenty times.

    What it has acknowledged and not yet written is lost with it; the DCU offers its own share again. The utility's is
    not: the broker is killed once it has written who listens, and each command that the DCU has not taken.
    """
    commander = Commander(DCU)
    outbox = Outbox(tmp_path, DCU)
    judge, clock = Judge(DCU, (commander.public,)), LoopClock()
    link = UtilityLink(DCU, 1, DirectOutbox(outbox), port(broker), judge, clock, random.Random(1))
    desk = Desk()
    desk.link = link
    desk.position = 10_000
    works = (link.run_outbox, link.run_sender, lambda progress: link.run_desk(desk, progress))
    tasks = [asyncio.ensure_future(work(lambda: None)) for work in works]
    async with consumer(broker) as utility:
        await until(lambda: broker.keeps(command_topic(DCU).encode(), UP))
        for n in range(600):
            if n % 200 == 100:
                broker.kill()
                broker.start()
            link.recorded(n, {"kind": "grant", "seq": n})
            if n % 200 == 150:
                given = commander.command({"kind": "revoke_all"}, clock.utc_s())
                await utility.command(DCU, given)
                await until(lambda given=given: broker.keeps(given) or outbox.accepted(commander.number) is not None)  # type: ignore[misc]
            await asyncio.sleep(0)
        await until(lambda: len(utility.utility.of("decision")) == 603 and outbox.waiting == {})
        assert {d["position"] for d in utility.utility.of("decision")} == {*range(600), 10_000, 10_001, 10_002}
        assert sorted((a["number"], a["outcome"]) for a in utility.utility.of("answer")) == [
            (number, outcome) for number in (1, 2, 3) for outcome in ("accepted", "done")
        ]
        assert utility.utility.states[-1]["online"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: not utility.utility.states[-1]["online"])
    assert desk.done == [1, 2, 3]
    outbox.close()


async def test_the_broker_says_that_nobody_is_there(broker: Mosquitto) -> None:
    """Before anybody has subscribed; then for one who is there, and for one who will come back."""
    session = await port(broker).connect(nothing, nothing)
    heard = [await session.publish(up(DCU, Class.ALARM), b"{}")]
    async with consumer(broker):
        heard.append(await session.publish(up(DCU, Class.ALARM), b"{}"))
    heard.append(await session.publish(up(DCU, Class.ALARM), b"{}"))
    await session.close()
    assert heard == [False, True, True]


async def test_the_broker_is_killed_with_what_a_slow_utility_has_not_taken_and_nothing_is_missing(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Messages of one decision, four times as fast as they are taken; killed once it has acknowledged sixty more. It
    writes what it keeps after it has acknowledged it: one in three of such kills loses the newest of that."""
    outbox = Outbox(tmp_path, DCU)
    outbox.batch_items_max = 1
    link = UtilityLink(DCU, 1, DirectOutbox(outbox), port(broker), Judge(DCU, ()), LoopClock(), random.Random(1))
    tasks = [asyncio.ensure_future(work(lambda: None)) for work in (link.run_outbox, link.run_sender)]
    async with consumer(broker, pause_s=0.01) as utility:
        await until(lambda: broker.keeps(UP))
        for kill in range(4):
            for n in range(100):
                link.recorded(100 * kill + n, {"kind": "grant", "seq": n})
            await until(lambda kill=kill: link.counters["items sent"] >= 100 * kill + 60)  # type: ignore[misc]
            broker.kill()
            broker.start()
        await until(lambda: len(utility.utility.of("decision")) == 400 and outbox.waiting == {})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {decision["position"] for decision in utility.utility.of("decision")} == set(range(400))
    assert link.counters["items sent again"] > 100
    outbox.close()


async def test_the_command_line_commands_a_dcu(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`headroom-utility send` over TLS: it waits for the last answer; a refusal ends with 1."""
    assert main(["new-key", str(tmp_path / "key"), "--json"]) == 0
    public = base64.b64decode(json.loads(capsys.readouterr().out)["public"])
    outbox = Outbox(tmp_path, DCU)
    judge = Judge(DCU, (public,))
    link = UtilityLink(DCU, 1, DirectOutbox(outbox), port(broker), judge, LoopClock(), random.Random(1))
    desk = Desk()
    desk.link = link
    works = (link.run_outbox, link.run_sender, lambda progress: link.run_desk(desk, progress))
    tasks = [asyncio.ensure_future(work(lambda: None)) for work in works]
    await until(lambda: bool(link.status()["online"]))  # before, the broker knows of nobody who wants commands
    outcomes = []
    for order in ({"kind": "revoke_all"}, {"kind": "set_policy", "policy": "equal"}):
        arguments = ["--url", f"mqtts://{HOST}:{broker.port}", "--files", str(broker.directory / "utility"), "--json"]
        arguments += ["--dcu", DCU, "--order", json.dumps(order), "--wait-s", "10"]
        outcomes.append(await asyncio.to_thread(main, ["send", str(tmp_path / "key"), *arguments]))
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert outcomes == [0, 1], answers
    assert [answer["outcome"] for answer in answers] == ["accepted", "done", "refused"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    outbox.close()


async def test_what_is_told_over_tls_is_json_that_the_utility_reads(broker: Mosquitto, tmp_path: Path) -> None:
    """Also a long message, which travels compressed."""
    outbox = Outbox(tmp_path, DCU)
    link = UtilityLink(DCU, 1, DirectOutbox(outbox), port(broker), Judge(DCU, ()), LoopClock(), random.Random(1))
    tasks = [asyncio.ensure_future(work(lambda: None)) for work in (link.run_outbox, link.run_sender)]
    async with consumer(broker) as utility:
        link.tell(Item(Class.REPORT, {"text": "long " * 10_000}))
        await until(lambda: bool(utility.utility.of("report")))
        assert utility.utility.of("report")[0]["text"] == "long " * 10_000
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    outbox.close()
