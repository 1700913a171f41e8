"""A utility's end over a real broker: it reads everything, remembers ids, and gives commands."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiomqtt import MqttError, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dcu.utility.broker import TlsFiles
from dcu.utility.documents import command_topic
from dcu.utility.steady import SteadyClient
from hil_tests.virtual.broker import MemoryUtility

AGAIN_S: Final = 0.05
"""[s] Between two attempts to connect."""


class _Client(SteadyClient):
    """Takes each message where it arrives: what waits in a queue is gone with the connection."""

    taker: MemoryUtility
    pause_s = 0.0
    _free_s = 0.0

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        del client, userdata
        loop, mid, qos = asyncio.get_running_loop(), message.mid, message.qos
        self.taker.take(message.topic, bytes(message.payload), loop.time())
        if self.pause_s:
            self._free_s = max(loop.time(), self._free_s) + self.pause_s
            loop.call_at(self._free_s, lambda: self._client.ack(mid, qos))


class Consumer:
    """The utility; `run` until cancelled. A slow one acknowledges a message each ``pause_s``, so that the broker keeps
    the rest to itself."""

    def __init__(self, host: str, port: int, files: TlsFiles, pause_s: float = 0.0) -> None:
        self._host, self._port, self._context, self._pause_s = host, port, files.context(), pause_s
        self.utility = MemoryUtility()
        self.client: _Client | None = None
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Connect, listen, connect again."""
        while True:
            with contextlib.suppress(MqttError):
                await self._listen()
            self.ready.clear()
            self.client = None
            await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        client = _Client(
            self._host, self._port, identifier="utility", protocol=ProtocolVersion.V5, clean_start=False,
            tls_context=self._context, properties=properties, timeout=5.0, keepalive=5,
        )  # fmt: skip
        client.taker, client.pause_s = self.utility, self._pause_s
        client._client.manual_ack_set(self._pause_s > 0)
        async with client:
            await client.subscribe("headroom/+/up/#", qos=1)
            self.client = client
            self.ready.set()
            await asyncio.shield(client._disconnected)

    async def command(self, dcu: str, payload: bytes, *, retain: bool = False) -> None:
        """Give a command, once connected."""
        await self.ready.wait()
        assert self.client is not None
        await self.client.publish(command_topic(dcu), payload, qos=1, retain=retain)
