"""The utility's end of the wire: listens to DCUs and gives them commands. A bench's consumer, and an example of one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable
from typing import Any, Final

from aiomqtt import MqttError, ProtocolVersion

from dcu.utility.broker import Address, TlsFiles
from dcu.utility.documents import Class, command_topic, unpack, up
from dcu.utility.steady import SteadyClient
from shared.errors import DeviceError

Tell = Callable[[str, dict[str, Any]], None]

SEEN_MAX: Final = 1_000_000
"""Ids that are remembered: about a week of a DCU of a hundred meters, twenty of them with grants."""

LAST: Final = frozenset({"done", "failed", "refused"})
"""After these answers there comes no other."""


def _client(address: Address, files: TlsFiles | None) -> SteadyClient:
    return SteadyClient(
        address.host,
        address.port,
        identifier=f"headroom-utility-{secrets.token_hex(4)}",
        protocol=ProtocolVersion.V5 if address.tls else ProtocolVersion.V311,
        tls_context=None if files is None else files.context(),
        timeout=10.0,
    )


async def listen(address: Address, files: TlsFiles | None, tell: Tell, topic: str = "headroom/+/up/#") -> None:
    """Tell every item once, until cancelled; ids that were told are not told again, as far as `SEEN_MAX` reaches.

    Raises:
        DeviceError: the broker is not reached, or goes away.
    """
    seen: dict[str, None] = {}
    try:
        async with _client(address, files) as client:
            await client.subscribe(topic, qos=1)
            async for message in client.messages:
                for item in _items(bytes(message.payload)):
                    if (name := str(item.get("id"))) not in seen or name == "None":
                        seen[name] = None
                        if len(seen) > SEEN_MAX:
                            del seen[next(iter(seen))]
                        tell(str(message.topic), item)
    except MqttError as error:
        raise DeviceError(f"{address.host}:{address.port}: {error}") from error


def _items(payload: bytes) -> list[dict[str, Any]]:
    """Items of a message, or the message itself if it carries none."""
    try:
        content = json.loads(unpack(payload))
    except (ValueError, OSError, EOFError):
        return []
    items = content.get("items") if isinstance(content, dict) else None
    return [content] if items is None else list(items)


async def send(
    address: Address, files: TlsFiles | None, dcu: str, payload: bytes, wait_s: float
) -> list[dict[str, Any]]:
    """Give a command, and the answers that came within ``wait_s``, to the last one.

    Raises:
        DeviceError: the broker is not reached.
    """
    sha256, answers = hashlib.sha256(payload).hexdigest(), list[dict[str, Any]]()
    try:
        async with _client(address, files) as client:
            await client.subscribe(up(dcu, Class.ANSWER), qos=1)
            await client.publish(command_topic(dcu), payload, qos=1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    async for message in client.messages:
                        answers += [one for one in _items(bytes(message.payload)) if one.get("sha256") == sha256]
                        if answers and answers[-1]["outcome"] in LAST:
                            break
    except MqttError as error:
        raise DeviceError(f"{address.host}:{address.port}: {error}") from error
    return answers
