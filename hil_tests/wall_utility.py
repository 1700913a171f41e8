"""A street's utility in wall-clock time: a broker in this process (amqtt, MQTT 3.1.1 on loopback) and somebody who
listens and commands. A substation has MQTT 5 and TLS; that is what the tests with mosquitto are for."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from amqtt.broker import Broker

from dcu.utility.broker import parse_broker
from dcu.utility.ear import listen, send
from hil_tests.mosquitto import free_port
from hil_tests.utility_bench import Commander

REPORT_INTERVAL_S: Final = 5.0
BROKER: Final = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


@dataclass
class WallUtility:
    """What a street's DCU is linked to; ``items`` is what it heard, in order, each once."""

    commander: Commander
    items: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _broker: Broker | None = field(default=None, init=False)
    _ear: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.address = parse_broker(f"mqtt://127.0.0.1:{free_port()}")

    @property
    def section(self) -> dict[str, object]:
        """The DCU's `[utility]`."""
        return {
            "url": f"mqtt://{self.address.host}:{self.address.port}",
            "command_keys": [base64.b64encode(self.commander.public).decode()],
            "report_interval_s": REPORT_INTERVAL_S,
        }

    async def start(self) -> None:
        """Broker and ear."""
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.ERROR)
        listener = {"default": {"type": "tcp", "bind": f"{self.address.host}:{self.address.port}"}}
        self._broker = Broker({"listeners": listener, "plugins": BROKER})
        await self._broker.start()
        self._ear = asyncio.ensure_future(listen(self.address, None, self._hear))

    def _hear(self, topic: str, item: dict[str, Any]) -> None:
        self.items.append((topic.rpartition("/")[2], item))

    def of(self, word: str) -> list[dict[str, Any]]:
        """Items of one class."""
        return [item for name, item in self.items if name == word]

    async def command(self, order: dict[str, Any], utc_s: float, wait_s: float = 10.0) -> list[dict[str, Any]]:
        """Give an order; the answers."""
        payload = self.commander.command(order, utc_s)
        return await send(self.address, None, self.commander.dcu, payload, wait_s)

    async def stop(self) -> None:
        """End both."""
        if self._ear is not None:
            self._ear.cancel()
            await asyncio.gather(self._ear, return_exceptions=True)
        if self._broker is not None:
            await self._broker.shutdown()

    def write(self, path: Path) -> None:
        """What was heard, one item to a line."""
        lines = [json.dumps({"kind": name, **item}) for name, item in self.items]
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
