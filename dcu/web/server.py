"""uvicorn with caps on time and connections, and with our TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dcu.web.config import Web
from dcu.web.guard import BODY_BYTES_MAX, HEADER_BYTES_MAX, Guard

REQUEST_S_MAX: Final = 8.0
"""[s] From the first byte awaited to the last byte of a request."""
HANDSHAKE_S_MAX: Final = 5.0
CHUNK_BYTES_MAX: Final = 2 * HEADER_BYTES_MAX + BODY_BYTES_MAX
"""More than that at once is no request of ours, nor several."""
IDLE_S_MAX: Final = 10.0
CONNECTIONS_SPARE: Final = 32
"""Beside the streams of all viewers."""
GOODBYE_S: Final = 2.0


class CappedProtocol(H11Protocol):
    """HTTP/1.1 that waits for a request no longer than `REQUEST_S_MAX`, byte by byte or not at all."""

    connections_max = 64
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if len(data) > CHUNK_BYTES_MAX:
            self._end(b"431 Request Header Fields Too Large")  # no request of ours is that long; it is not even parsed
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """The clock runs while a request is not whole; between two requests uvicorn's own does."""
        waiting = self.conn.their_state in {h11.IDLE, h11.SEND_BODY} and not self.transport.is_closing()
        if waiting and self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_S_MAX, self._too_slow)
        elif not waiting and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._end(b"408 Request Timeout")

    def _end(self, status: bytes) -> None:
        if not self.transport.is_closing():
            if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


class PageServer(uvicorn.Server):
    """Listens with a cap on handshakes; tells when it does."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.port = 0

    async def startup(self, sockets: list[Any] | None = None) -> None:
        assert sockets is not None
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            self.listening.set()
            return
        config = self.config

        def protocol() -> asyncio.Protocol:
            return CappedProtocol(config, self.server_state, self.lifespan.state)

        shake = HANDSHAKE_S_MAX if config.ssl is not None else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                protocol, sock=socket, ssl=config.ssl, ssl_handshake_timeout=shake, backlog=config.backlog
            )
            for socket in sockets
        ]
        self.port = sockets[0].getsockname()[1]
        self.started = True
        self.listening.set()


def make_server(app: Guard, web: Web) -> PageServer:
    """A server that has not bound yet.

    Raises:
        OSError, ssl.SSLError: certificates that cannot be used.
    """
    CappedProtocol.connections_max = web.viewers_max + CONNECTIONS_SPARE
    config = uvicorn.Config(
        app,
        http=CappedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(IDLE_S_MAX),
        timeout_graceful_shutdown=int(GOODBYE_S),
        h11_max_incomplete_event_size=2 * HEADER_BYTES_MAX,
        backlog=32,
        ssl_context_factory=None if web.certificate is None else lambda _config, _make: context_of(web),
    )
    return PageServer(config)


def context_of(web: Web) -> ssl.SSLContext:
    """TLS 1.3 with our certificate; with ``client_ca`` nobody without one of its certificates gets further."""
    assert web.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(web.certificate, web.key)
    if web.client_ca is not None:
        context.load_verify_locations(web.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
