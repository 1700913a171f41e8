"""The DCU's side of aiomqtt: MQTT 5 over mutual TLS 1.3, and 3.1.1 on a bench's own loopback.

What aiomqtt 2.5 does not offer is taken from the paho client inside it, here and in `steady.py`: acknowledging a
command only once it is durable, and the reason in a PUBACK (a broker that forbids a topic says so there alone).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiomqtt import MqttError, ProtocolVersion, Will
from paho.mqtt.client import MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from dcu.utility.broker import Address
from dcu.utility.commands import BYTES_MAX
from dcu.utility.documents import command_topic, encode, state, state_topic
from dcu.utility.link import Arrival, LinkLost, MessageRefused, Session
from dcu.utility.steady import SteadyClient

CONNECT_S: Final = 10.0
"""[s] From a connection to the broker's answer."""
ATTEMPT_S: Final = 25.0
"""[s] All of it: names, connection, TLS, answer. Nobody bounds how long a name is looked up."""
PUBLISH_S: Final = 20.0
"""[s] Without an acknowledgement for so long the link counts as lost; below what the supervisor calls a stall."""
CLOSE_S: Final = 2.0
KEEPALIVE_S: Final = 30
SESSION_S: Final = 7 * 86_400
"""[s] The broker keeps our subscription, and commands, for a week."""
QUEUE_MAX: Final = 16
FAILED: Final = 0x80
"""Reason codes from here on are refusals (MQTT 5 §2.4)."""
NO_SUBSCRIBERS: Final = 0x10
"""The reason code of what was taken and goes to nobody (MQTT 5 §3.4.2.1); a broker need not say so."""

_LOG: Final = logging.getLogger("headroom.utility.mqtt")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


class MqttBroker:
    """`dcu.utility.link.BrokerPort` over the network."""

    def __init__(self, dcu: str, address: Address, context: ssl.SSLContext | None) -> None:
        """For one DCU; ``context`` for TLS, which is MQTT 5, and None for a bench's loopback, which is 3.1.1."""
        assert (context is not None) == address.tls, address
        self._dcu, self._address, self._context = dcu, address, context

    async def connect(self, arrived: Callable[[Arrival], None], lost: Callable[[str], None]) -> Session:
        client = _Client(self._address, self._context, self._dcu, arrived, lost)
        return await client.open()


class _Client(SteadyClient):
    """An aiomqtt client that calls back: for what arrives, for its end, and that keeps a PUBACK's reason."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        dcu: str,
        arrived: Callable[[Arrival], None],
        lost: Callable[[str], None],
    ) -> None:
        five = context is not None
        super().__init__(
            address.host,
            address.port,
            identifier=f"headroom-{dcu}",
            protocol=ProtocolVersion.V5 if five else ProtocolVersion.V311,
            will=Will(state_topic(dcu), encode(state(0.0, online=False)), 1, retain=True),
            timeout=CONNECT_S,
            keepalive=KEEPALIVE_S,
            tls_context=context,
            logger=_LOG,
            max_queued_incoming_messages=1,
            properties=_connect_properties() if five else None,
            **({"clean_start": False} if five else {"clean_session": False}),  # type: ignore[arg-type]
        )
        self._five, self._dcu, self._arrived, self._on_lost = five, dcu, arrived, lost
        self._reasons: dict[int, str] = {}
        self._heard = True
        self._open = False
        self._client.manual_ack_set(True)

    async def open(self) -> Session:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self.__aenter__()
        except TimeoutError as error:
            raise LinkLost(f"connecting: nothing came of it in {ATTEMPT_S:.0f} s") from error
        except (MqttError, OSError, ValueError) as error:
            raise LinkLost(f"connecting: {error}") from error
        self._open = True
        self._disconnected.add_done_callback(self._ended)
        options = SubscribeOptions(qos=1, retainAsPublished=True) if self._five else None
        try:
            await self.subscribe(command_topic(self._dcu), 1 if options is None else 0, options)
        except (MqttError, ValueError) as error:
            await self.close()
            raise LinkLost(f"subscribing: {error}") from error
        return _Session(self)

    async def publish_once(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        """One message until its acknowledgement; whether it goes to anybody, as far as the broker says."""
        self._reasons.clear()
        self._heard = True
        try:
            await self.publish(topic, payload, 1, retain, timeout=PUBLISH_S)
        except (MqttError, OSError, ValueError) as error:
            raise LinkLost(f"publishing: {error}") from error
        if self._reasons:
            raise MessageRefused(f"{topic}: {next(iter(self._reasons.values()))}")
        return self._heard

    async def close(self) -> None:
        """Leave, and let the broker say so to the others: its copy of our state is what they see."""
        self._open = False
        try:
            with contextlib.suppress(MqttError, OSError, ValueError):
                if self._five and not self._disconnected.done():
                    self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
                    await self._wait_for(self._disconnected, timeout=CLOSE_S)
                await self.__aexit__(None, None, None)
        finally:
            self._client._sock_close()  # whatever went wrong: nobody watches it any more

    # ---- callbacks of the paho client, in the loop's thread ----------------------------------------------------------

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        del client, userdata
        mid, qos = message.mid, message.qos

        def acknowledge() -> None:
            if self._open and self._client.ack(mid, qos) != MQTT_ERR_SUCCESS:
                self._on_lost("acknowledging a command")

        if message.topic == command_topic(self._dcu):
            self._arrived(Arrival(bytes(message.payload), bool(message.retain), acknowledge))
        else:
            acknowledge()

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        code = getattr(reason_code, "value", 0)
        if code >= FAILED:
            self._reasons[mid] = str(reason_code)
        self._heard = code != NO_SUBSCRIBERS
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _ended(self, ended: Any) -> None:
        if self._open:
            error = None if ended.cancelled() else ended.exception()
            self._on_lost("closed by the broker" if error is None else str(error))


class _Session:
    """`dcu.utility.link.Session`."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        return await self._client.publish_once(topic, payload, retain=retain)

    async def close(self) -> None:
        await self._client.close()


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types there
    properties.SessionExpiryInterval = SESSION_S
    properties.MaximumPacketSize = BYTES_MAX + 4096
    properties.ReceiveMaximum = QUEUE_MAX
    return properties
