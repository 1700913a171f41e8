"""aiomqtt's client on a connection that may die at any moment: nothing is waited for that can no longer come.

aiomqtt 2.5 has its socket watched from the thread that connects, and one turn of the loop after paho asks for it. When
the connection dies in between, the loop watches a number that is closed or another socket's by then: that socket's own
watcher is lost, and nobody reads it until a timeout. Here the loop's thread alone watches, at once, and lets go so.
It also waits for an acknowledgement until its timeout whatever happens to the connection; here no longer than that.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any, Self

from aiomqtt import Client, MqttError


class SteadyClient(Client):
    """`aiomqtt.Client`; its publishing and subscribing end with the connection."""

    _watched: int | None = None
    """Number of the socket that the loop watches."""
    _given_up = False

    async def __aenter__(self) -> Self:
        """As aiomqtt's; a connection that nobody waits for any more does not come about later."""
        self._given_up = False
        try:
            return await super().__aenter__()
        except BaseException:
            self._given_up = True
            self._client._sock_close()
            raise

    async def publish(self, *args: Any, **options: Any) -> None:
        """As aiomqtt's; MqttError as soon as the connection is gone."""
        await self._while_connected(super().publish(*args, **options))

    async def subscribe(self, *args: Any, **options: Any) -> Any:
        """As aiomqtt's; MqttError as soon as the connection is gone."""
        return await self._while_connected(super().subscribe(*args, **options))

    async def _while_connected(self, asking: Coroutine[Any, Any, Any]) -> Any:
        asked = asyncio.ensure_future(asking)
        try:
            await asyncio.wait({asked, self._disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise MqttError("the connection is gone")
            return asked.result()
        finally:
            asked.cancel()

    # ---- in the thread that connects ---------------------------------------------------------------------------------

    def _client_connect(self) -> None:
        super()._client_connect()
        self._loop.call_soon_threadsafe(self._watch)  # done before `__aenter__` goes on: it was queued before

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        """`_watch` will do it, in the loop's thread."""
        del client, userdata, sock

    # ---- in the loop's thread ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        sock: Any = self._client.socket()
        if self._given_up:
            self._client._sock_close()
            return
        if sock is None:
            self._hung_up("the broker hung up")
            return
        self._watched = sock.fileno()
        self._loop.add_reader(self._watched, self._readable)
        if self._client.want_write():
            self._loop.add_writer(self._watched, self._writable)
        self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        del client, userdata, sock
        if self._watched is not None:
            self._loop.add_writer(self._watched, self._writable)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        del client, userdata, sock
        if self._watched is not None:
            self._loop.remove_writer(self._watched)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        del client, userdata, sock
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._loop.remove_writer(self._watched)
            self._watched = None
        if self._misc_task is not None:
            self._loop.call_soon_threadsafe(self._misc_task.cancel)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        """A broker that hangs up instead of an answer (it does not like our certificate) is not waited for."""
        if not self._connected.done():
            self._hung_up(f"the broker hung up: {reason_code}")
        if not self._connected.cancelled():
            super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _readable(self) -> None:
        try:
            self._client.loop_read()
            while isinstance(sock := self._client.socket(), ssl.SSLSocket) and sock.pending():
                self._client.loop_read()
        except Exception as error:  # whatever paho lets through: the connection is of no use any more
            self._hung_up(f"reading: {error}")
            self._client._sock_close()  # else what paho has not digested is offered to it again, for ever

    def _writable(self) -> None:
        try:
            self._client.loop_write()
        except Exception as error:  # as above
            self._hung_up(f"writing: {error}")
            self._client._sock_close()

    def _hung_up(self, why: str) -> None:
        for ending in (self._connected, self._disconnected):
            if not ending.done():
                ending.set_exception(MqttError(why))
                return
