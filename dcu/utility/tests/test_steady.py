"""Connections that die at the worst moments: nobody waits for what can no longer come, and no other socket suffers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiomqtt import MqttError

from dcu.utility import mqtt
from dcu.utility.broker import Address
from dcu.utility.link import LinkLost
from dcu.utility.mqtt import MqttBroker
from dcu.utility.steady import SteadyClient

CONNACK = bytes.fromhex("20020000")
PATIENCE_S = 60.0
"""[s] What the client itself would wait; a test that needs it has failed."""

Answer = Callable[[int], bytes | None]
"""What the broker says to a packet of a kind; None: it hangs up."""


@contextlib.asynccontextmanager
async def broker(answer: Answer) -> AsyncIterator[int]:
    """The port of a broker that answers each packet so; MQTT 3.1.1."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = await reader.readexactly(2)  # everything here is shorter than 128 bytes
                await reader.readexactly(length)
                if (said := answer(kind >> 4)) is None:
                    break
                writer.write(said)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def client(port: int) -> SteadyClient:
    return SteadyClient("127.0.0.1", port, identifier="dcu", timeout=PATIENCE_S)


async def test_a_broker_that_hangs_up_instead_of_letting_in_is_not_waited_for() -> None:
    """After CONNECT."""
    async with asyncio.timeout(PATIENCE_S / 4), broker(lambda _: None) as port:
        with pytest.raises(MqttError, match="hung up"):
            await client(port).__aenter__()


@pytest.mark.parametrize("what", ["subscribe", "publish"])
async def test_a_connection_that_dies_before_an_acknowledgement_ends_the_wait(what: str) -> None:
    """The broker lets in, and goes when something is asked of it."""
    async with asyncio.timeout(PATIENCE_S / 4), broker(lambda kind: CONNACK if kind == 1 else None) as port:
        subject = client(port)
        await subject.__aenter__()
        with pytest.raises(MqttError, match=r"gone|disconnection|not currently connected"):
            await getattr(subject, what)("topic", qos=1)
        await subject.__aexit__(None, None, None)


async def test_dying_connections_leave_nothing_watched_and_disturb_no_other() -> None:
    """The broker lets in and hangs up, fifty times, while we write: the loop has nothing to complain of, watches as
    many sockets as before, and a good connection that takes their numbers works."""
    loop: Any = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    kinds: list[int] = []

    def dying(kind: int) -> bytes | None:
        kinds.append(kind)
        return CONNACK if kind == 1 and len(kinds) % 3 else None

    async with asyncio.timeout(PATIENCE_S / 2), broker(dying) as port, broker(good) as good_port:
        watched = len(loop._selector.get_map())
        for _ in range(50):
            subject = client(port)
            with contextlib.suppress(MqttError):
                await subject.__aenter__()
                asked = [asyncio.ensure_future(subject.publish("topic", b"x", qos=1)) for _ in range(3)]
                await asyncio.gather(*asked, return_exceptions=True)
            subject._client._sock_close()
            steady = client(good_port)
            await steady.__aenter__()
            await steady.publish("topic", b"x", qos=1)
            await steady.__aexit__(None, None, None)
        while len(loop._selector.get_map()) > watched:  # noqa: ASYNC110  # the broker's ends, one after the other
            await asyncio.sleep(0)
    assert [str(one.get("exception")) for one in complaints if "never retrieved" not in one["message"]] == []
    assert kinds.count(3) > 10


async def test_a_name_that_cannot_be_looked_up_is_a_lost_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """No resolver, or none that knows the broker: said with its reason, and tried again like any other."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LinkLost, match=r"connecting: .*Temporary failure in name resolution"):
        await MqttBroker("dcu", Address("broker.example", 1883, tls=False), None).connect(nothing, nothing)


async def test_a_resolver_that_hangs_holds_up_nothing_and_its_late_answer_connects_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The link gives the attempt up while the thread still waits; what comes of it later is closed at once, so that it
    does not take the session from a newer connection of the same name."""
    kinds: list[int] = []

    def let_in(kind: int) -> bytes:
        kinds.append(kind)
        return good(kind)

    answers = threading.Event()
    look_up = socket.getaddrinfo

    def hang(host: str, *rest: Any, **options: Any) -> Any:
        answers.wait(PATIENCE_S)
        return look_up("127.0.0.1", *rest, **options)

    monkeypatch.setattr(mqtt, "ATTEMPT_S", 0.05)
    async with asyncio.timeout(PATIENCE_S / 2), broker(let_in) as port:
        loop: Any = asyncio.get_running_loop()
        watched = len(loop._selector.get_map())
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        with pytest.raises(LinkLost, match="nothing came of it"):
            await MqttBroker("dcu", Address("broker.example", port, tls=False), None).connect(nothing, nothing)
        answers.set()
        await loop.shutdown_default_executor()  # the thread has had its answer, and has told the loop
        for _ in range(100):
            await asyncio.sleep(0)
        assert kinds == []
        assert len(loop._selector.get_map()) <= watched + 1  # the broker's end of what was closed


def nothing(_what: Any) -> None:
    """Nobody listens."""


def good(kind: int) -> bytes:
    """Lets in, and takes the first message of each connection."""
    return {1: CONNACK, 3: bytes.fromhex("40020001")}.get(kind, b"")


async def test_what_nobody_can_read_ends_the_connection_and_leaves_no_socket() -> None:
    """A topic that is no text: what paho keeps of it must not be offered again with every byte that follows."""
    acknowledged, poison, alive = bytes.fromhex("9003000101"), bytes.fromhex("30050002fffe58"), bytes.fromhex("d000")

    def answer(kind: int) -> bytes:
        return CONNACK if kind == 1 else acknowledged + poison + alive

    lost: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.timeout(PATIENCE_S / 4), broker(answer) as port:
        session: Any = await MqttBroker("dcu", Address("127.0.0.1", port, tls=False), None).connect(
            lambda _: None, lost.put_nowait
        )
        assert "reading" in await lost.get()
        assert session._client._client.socket() is None
        await session.close()
