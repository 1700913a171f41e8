"""The row "HTTP" of the bad-input catalogue against a real server on loopback: 4xx in time, no echo, no trace."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcu.web import server as serving
from dcu.web import stream
from dcu.web.app import Page
from dcu.web.config import Web
from dcu.web.entry import COOKIE
from dcu.web.server import PageServer
from dcu.web.tests.certificates import write_certificates
from dcu.web.tests.world import TOKEN, World, make_page
from shared.daemon import resident_kib

HEAD = f"host: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n"
ANSWER_S_MAX = 10.0


@dataclass
class Site:
    """A page that listens."""

    page: Page
    server: PageServer
    port: int

    async def say(self, data: bytes, *, tls: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        """Status and all bytes of the answer to these bytes; status 0 if the connection was cut."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, limit=1 << 24)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                try:
                    writer.write(data)
                    await writer.drain()
                    head_only = data.startswith(b"HEAD")
                    answer = await self._whole(reader, head_only=head_only)
                except ConnectionError:
                    answer = b""
        finally:
            writer.close()
        found = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", answer)
        return (int(found[1]) if found else 0), answer

    async def _whole(self, reader: asyncio.StreamReader, *, head_only: bool) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: ([0-9]+)", head)
        return head + (await reader.readexactly(int(length[1])) if length and not head_only else b"")

    async def get(self, path: str, more: str = "", head: str = HEAD) -> tuple[int, bytes]:
        return await self.say(f"GET {path} HTTP/1.1\r\n{head}{more}\r\n".encode("latin-1"))


async def listen(web: Web | None = None, token: str | None = TOKEN) -> tuple[Site, asyncio.Task[None]]:
    page, server = make_page(World(), token=token, web=web)
    server.config.load()
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve([listening]))
    await server.listening.wait()
    return Site(page, server, server.port), task


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made, task = await listen()
    yield made
    made.server.should_exit = True
    await task


async def test_the_server_answers_who_may_look(site: Site) -> None:
    """The control: all the others below fail for their own reason."""
    status, answer = await site.get("/api/street")
    assert status == 200
    assert b'"customers":[{' in answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /api/street HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 401),
        (
            f"GET /api/street HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n",
            400,
        ),
        (f"GET /api/street HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n", 400),
        (f"GET /api/street HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer {TOKEN}\r\n\r\n", 421),
        (f"GET /static/../../config.py HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /static/%2e%2e/config.py HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /static/..%2fconfig.py HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET //etc/passwd HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /static/config.py HTTP/1.1\r\n{HEAD}\r\n", 404),
        (f"GET /{'a' * 3000} HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /api/street\x00 HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /api/traces?meter={'m' * 100} HTTP/1.1\r\n{HEAD}\r\n", 422),
        (f"GET /api/traces?meter=<script> HTTP/1.1\r\n{HEAD}\r\n", 404),
        (f"GET /api/street HTTP/1.1\r\n{HEAD}" + "x-a: b\r\n" * 10_000 + "\r\n", 4),
        (f"GET /api/street HTTP/1.1\r\n{HEAD}" + "x-a: b\r\n" * 100 + "\r\n", 431),
        (f"GET /api/street HTTP/1.1\r\n{HEAD}x: {'y' * 300_000}\r\n\r\n", 4),
        (f"GET /api/street HTTP/1.1\r\n{HEAD}content-length: 5\r\n\r\nhello", 400),
        (f"GET /api/street HTTP/1.1\r\n{HEAD}transfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"DELETE /api/street HTTP/1.1\r\n{HEAD}\r\n", 405),
        (f"POST /api/street HTTP/1.1\r\n{HEAD}content-length: 2\r\n\r\n{{}}", 405),
        (f"PUT / HTTP/1.1\r\n{HEAD}content-length: 0\r\n\r\n", 405),
        (f"TRACE / HTTP/1.1\r\n{HEAD}\r\n", 405),
        (f"HEAD /api/stream HTTP/1.1\r\n{HEAD}\r\n", 405),
        (f"GET /logout HTTP/1.1\r\n{HEAD}\r\n", 405),
        ("POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 999999999\r\n\r\n", 413),
        ("POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n", 400),
        ("POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n", 400),
        (b"\r\n\r\n\r\nnonsense\r\n\r\n", 400),
    ],
)
async def test_a_bad_request_is_refused_in_a_line(site: Site, data: bytes | str, status: int) -> None:
    """No auth, a path that climbs, 10^4 headers, two hosts, another host, a body where none is, another method."""
    raw = data.encode("latin-1") if isinstance(data, str) else data
    seen, answer = await site.say(raw)
    assert seen == status or (status == 4 and seen in {0, 400, 431}), answer[:300]
    body = answer.partition(b"\r\n\r\n")[2]
    assert b"Traceback" not in answer
    assert b"<script>" not in body
    assert len(body) < 400
    assert (await site.get("/api/street"))[0] == 200  # and the next one is served


async def test_a_slow_request_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that never ends, and a body that never comes: both end in time, with 408."""
    monkeypatch.setattr(serving, "REQUEST_S_MAX", 0.2)
    for data in (
        b"GET / HTTP/1.1\r\nhost: 127",
        b"POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 20\r\n\r\nto",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(data)
        async with asyncio.timeout(ANSWER_S_MAX):
            answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_silent_connections_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens many and says nothing keeps nobody out for long, and no more are held than are permitted."""
    monkeypatch.setattr(serving, "REQUEST_S_MAX", 0.3)
    most = serving.CappedProtocol.connections_max
    held = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(most + 10)]
    async with asyncio.timeout(ANSWER_S_MAX):
        for reader, writer in held:
            await reader.read()
            writer.close()
    assert len(site.server.server_state.connections) <= most
    assert (await site.get("/api/street"))[0] == 200


async def test_viewers_are_bounded_and_a_closed_stream_makes_room(site: Site) -> None:
    """Two are permitted here; the third is told to come back."""
    open_streams = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(f"GET /api/stream HTTP/1.1\r\n{HEAD}\r\n".encode())
        async with asyncio.timeout(ANSWER_S_MAX):
            await reader.readuntil(b"event: street")
        open_streams.append(writer)
    status, answer = await site.get("/api/stream")
    assert status == 503
    assert b"retry-after" in answer
    open_streams[0].close()
    async with asyncio.timeout(ANSWER_S_MAX):
        while site.page.viewers.open == 2:
            await site.page.feed.next_event(site.page.feed.street["number"])
    assert site.page.viewers.open == 1
    open_streams[1].close()


async def test_a_viewer_who_does_not_read_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not take is not kept for it."""
    monkeypatch.setattr(stream, "STALL_S", 0.2)
    world = World()
    assert isinstance(world.told, dict)
    world.told["dcu"] = "d" * 2_000_000
    site.page.feed._ask = world.ask
    raw = socket.create_connection(("127.0.0.1", site.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.sendall(f"GET /api/stream HTTP/1.1\r\n{HEAD}\r\n".encode())
    async with asyncio.timeout(ANSWER_S_MAX):
        while site.page.viewers.open == 0:
            await site.page.feed.next_event(site.page.feed.street["number"])
        while site.page.viewers.open == 1:
            await site.page.feed.next_event(site.page.feed.street["number"])
    raw.close()


async def test_another_site_cannot_log_in_or_out_for_somebody(site: Site) -> None:
    """CSRF: a form of another origin, by its own word or the browser's."""
    body = f"token={TOKEN}"
    post = f"POST /login HTTP/1.1\r\nhost: 127.0.0.1:{site.port}\r\ncontent-length: {len(body)}\r\n"
    for lie in ("origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"):
        assert (await site.say(f"{post}{lie}\r\n{body}".encode()))[0] == 403
    own = f"origin: http://127.0.0.1:{site.port}\r\nsec-fetch-site: same-origin\r\n"
    status, answer = await site.say(f"{post}{own}\r\n{body}".encode())
    assert status == 303
    assert f"{COOKIE}=".encode() in answer


async def test_a_flood_of_bad_requests_leaves_memory_as_it_was(site: Site) -> None:
    """Three hundred of the worst."""
    bad = f"GET /api/street HTTP/1.1\r\n{HEAD}" + "x-a: b\r\n" * 10_000 + "\r\n"
    for _ in range(30):
        await site.say(bad.encode())
    before = resident_kib()
    for _ in range(270):
        await site.say(bad.encode())
    assert resident_kib() - before < 8 * 1024


async def test_with_an_authority_only_its_certificates_get_through(tmp_path: Path) -> None:
    """TLS 1.3 and a client certificate: without one there is no HTTP at all; with one, no token is needed."""
    write_certificates(tmp_path)
    names = {name: str(tmp_path / f"{name}") for name in ("server.crt", "server.key", "ca.crt")}
    web = Web(certificate=names["server.crt"], key=names["server.key"], client_ca=names["ca.crt"])
    site, task = await listen(web, token=None)
    request = b"GET /api/street HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    known = ssl.create_default_context(cafile=names["ca.crt"])
    known.check_hostname = False
    stranger_status = -1
    try:
        stranger_status, _ = await site.say(request, tls=known)
    except (OSError, asyncio.IncompleteReadError):
        stranger_status = 0
    assert stranger_status == 0
    known.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    status, answer = await site.say(request, tls=known)
    assert status == 200
    assert b"strict-transport-security" in answer
    site.server.should_exit = True
    await task
