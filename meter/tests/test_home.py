"""The household's door: nobody without the token, nothing but small good requests, and every refusal in plain JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meter import home
from meter.core import HouseholdAsked, HouseholdCapped
from meter.home import BODY_BYTES_MAX, CONNECTIONS_MAX, HEADER_BYTES_MAX, HomeSettings, home_door, is_loopback, listen
from shared.errors import DeviceError, Fault

TOKEN = "0123456789abcdef"


class FakeMeter:
    """A household's meter in memory."""

    def __init__(self) -> None:
        self.asked: list[HouseholdAsked] = []
        self.released = 0
        self.caps: list[float | None] = []
        self.objection: Fault | None = None

    def ask(self, wish: HouseholdAsked) -> Fault | None:
        self.asked.append(wish)
        return self.objection

    def cap(self, cap: HouseholdCapped) -> Fault | None:
        self.caps.append(cap.limit_w)
        return self.objection

    def release(self) -> Fault | None:
        self.released += 1
        return self.objection

    def status(self) -> dict[str, Any]:
        return {"limit_w": 1200.0, "why": "No increase is granted."}


class Door:
    """A served door and a client that can be as rude as it likes."""

    def __init__(self, port: int, meter: FakeMeter) -> None:
        self.port = port
        self.meter = meter

    async def raw(self, data: bytes) -> tuple[int, dict[str, Any], bytes]:
        """Status, JSON and head of the answer to these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body), head

    async def ask(
        self, method: str, path: str, body: bytes = b"", token: str | None = TOKEN
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a well-formed request."""
        authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: meter\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
        status, answer, _ = await self.raw(head.encode() + body)
        return status, answer


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    meter = FakeMeter()
    listening = listen_anywhere()
    port = listening.getsockname()[1]
    serving = asyncio.ensure_future(home_door(listening, TOKEN)(meter, lambda: None))
    yield Door(port, meter)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def listen_anywhere() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=2 * CONNECTIONS_MAX)


async def test_the_status_says_who_limits_and_why(door: Door) -> None:
    """One GET with the token."""
    assert await door.ask("GET", "/v1/status") == (200, door.meter.status())


async def test_a_household_asks_and_releases(door: Door) -> None:
    """The minimum is the wish itself unless a smaller one would do."""
    assert await door.ask("POST", "/v1/request", b'{"limit_w": 2400}') == (200, {"taken": True})
    assert await door.ask("POST", "/v1/request", b'{"limit_w": 2400.5, "minimum_limit_w": 1800}') == (
        200,
        {"taken": True},
    )
    assert await door.ask("POST", "/v1/release") == (200, {"taken": True})
    assert door.meter.asked == [HouseholdAsked(2400.0, 2400.0), HouseholdAsked(2400.5, 1800.0)]
    assert door.meter.released == 1


async def test_a_household_caps_itself_and_lifts_that(door: Door) -> None:
    """A number lowers, null lifts; nothing else is a cap."""
    for body in (b'{"limit_w": 800}', b'{"limit_w": 0}', b'{"limit_w": null}'):
        assert await door.ask("PUT", "/v1/cap", body) == (200, {"taken": True})
    for body in (b"{}", b"", b"800", b'{"limit_w": -1}', b'{"limit_w": NaN}', b'{"limit_w": 1, "minimum_limit_w": 1}'):
        assert (await door.ask("PUT", "/v1/cap", body))[0] == 400
    assert (await door.ask("POST", "/v1/cap", b'{"limit_w": 800}'))[0] == 405
    assert door.meter.caps == [800.0, 0.0, None]


@pytest.mark.parametrize("token", [None, "", "0123456789abcdeX", TOKEN + "0", TOKEN[:-1]])
@pytest.mark.parametrize("path", ["/v1/status", "/v1/request", "/v1/cap", "/nowhere"])
async def test_nobody_gets_in_without_the_token(door: Door, token: str | None, path: str) -> None:
    """401 for every path, known or not, and nothing reaches the meter."""
    status, answer = await door.ask("POST", path, b'{"limit_w": 2400}', token)
    assert status == 401
    assert answer["error"]["where"] == "authorization"
    assert TOKEN not in json.dumps(answer)
    assert (door.meter.asked, door.meter.released) == ([], 0)


async def test_two_tokens_are_none(door: Door) -> None:
    """A doubled header is not half right."""
    head = f"GET /v1/status HTTP/1.1\r\nHost: m\r\n{f'Authorization: Bearer {TOKEN}' + chr(13) + chr(10)}".encode()
    status, _, answered = await door.raw(head + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert status == 401
    assert b"www-authenticate: Bearer" in answered.lower().replace(b"bearer", b"Bearer")


@pytest.mark.parametrize(
    ("method", "path", "status", "where"),
    [
        ("GET", "/", 404, "path"),
        ("GET", "/v1/../etc/passwd", 404, "path"),
        ("GET", "/v1/request", 405, "method"),
        ("POST", "/v1/status", 405, "method"),
        ("DELETE", "/v1/release", 405, "method"),
    ],
)
async def test_other_paths_and_methods_are_refused_by_name(
    door: Door, method: str, path: str, status: int, where: str
) -> None:
    """404 and 405 say what there is instead."""
    answered, body = await door.ask(method, path)
    assert (answered, body["error"]["where"]) == (status, where)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"2400",
        b"null",
        b'"<script>"',
        b"\xff\xfe",
        b"[" * 4000,
        b"{}",
        b'{"limit_w": "3kW"}',
        b'{"limit_w": true}',
        b'{"limit_w": null}',
        b'{"limit_w": NaN}',
        b'{"limit_w": Infinity}',
        b'{"limit_w": 1e309}',
        b'{"limit_w": -1}',
        b'{"limit_w": 1' + b"0" * 400 + b"}",
        b'{"limit_w": 2400, "limit_w": 2400}',
        b'{"limit_w": 2400, "minimum_limit_w": -1}',
        b'{"limit_w": 2400, "other": 1}',
    ],
)
async def test_a_body_that_makes_no_sense_is_a_400_and_asks_nothing(door: Door, body: bytes) -> None:
    """Where, seen and expected; the meter never hears of it."""
    status, answer = await door.ask("POST", "/v1/request", body)
    assert status == 400
    assert set(answer["error"]) == {"where", "seen", "expected"}
    assert len(json.dumps(answer)) < 400
    assert door.meter.asked == []


async def test_what_the_meter_objects_to_is_a_conflict(door: Door) -> None:
    """The meter's own words come back: above the contract, an alarm, too many at once."""
    door.meter.objection = Fault("limit_w", "9000", "at most 2400 W")
    expected = {"error": {"where": "limit_w", "seen": "9000", "expected": "at most 2400 W"}}
    assert await door.ask("POST", "/v1/request", b'{"limit_w": 9000}') == (409, expected)
    assert await door.ask("POST", "/v1/release") == (409, expected)


async def test_a_large_body_is_refused_and_its_sender_hears_why(door: Door) -> None:
    """413, although the sender is still sending."""
    status, answer = await door.ask("POST", "/v1/request", b" " * (BODY_BYTES_MAX + 1))
    assert (status, answer["error"]["where"]) == (413, "body")


async def test_a_large_header_is_refused(door: Door) -> None:
    """431 for one long header as for ten thousand short ones."""
    for headers in (b"X: " + b"a" * 2 * HEADER_BYTES_MAX, b"\r\n".join([b"X: a"] * 10_000)):
        status, answer, _ = await door.raw(b"GET /v1/status HTTP/1.1\r\nHost: m\r\n" + headers + b"\r\n\r\n")
        assert (status, answer["error"]["where"]) == (431, "request")


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET  HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_plain_400(door: Door, data: bytes) -> None:
    """No trace of our insides, whatever arrives."""
    status, answer, _ = await door.raw(data)
    assert (status, answer["error"]["where"]) == (400, "request")
    assert "Traceback" not in json.dumps(answer)


async def test_a_connection_that_goes_away_leaves_nothing_behind(door: Door) -> None:
    """Half a request, then silence of the dead; the next one is served."""
    for part in (b"", b"POST /v1/req", b"POST /v1/request HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n"):
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(part)
        writer.close()
        await writer.wait_closed()
    assert (await door.ask("GET", "/v1/status"))[0] == 200


async def test_a_slow_request_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not finish in time is closed without an answer."""
    monkeypatch.setattr(home, "REQUEST_S_MAX", 0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET /v1/status HTTP/1.1\r\n")
    assert await reader.read() == b""
    writer.close()


async def test_a_door_that_closes_cuts_what_is_open(caplog: pytest.LogCaptureFixture) -> None:
    """The daemon's end does not wait for a slow household, and nothing is logged about it."""
    listening = listen_anywhere()
    port = listening.getsockname()[1]
    serving = asyncio.ensure_future(home_door(listening, TOKEN)(FakeMeter(), lambda: None))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v1/status HTTP/1.1\r\n")
    assert (await Door(port, FakeMeter()).ask("GET", "/v1/status"))[0] == 200
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert caplog.records == []


async def test_connections_are_limited(door: Door) -> None:
    """While `CONNECTIONS_MAX` are open the next one is told so; afterwards there is room again."""
    waiting = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(CONNECTIONS_MAX)]
    status, answer, _ = await door.raw(b"")
    assert (status, answer["error"]["where"]) == (503, "connections")
    for reader, writer in waiting:
        writer.write_eof()
        await reader.read()
        writer.close()
    assert (await door.ask("GET", "/v1/status"))[0] == 200


def test_a_taken_port_is_one_clear_error() -> None:
    """Before anything of the daemon runs."""
    with listen_anywhere() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=rf"home door 127\.0\.0\.1:{port}: .*in use"):
            listen(HomeSettings("127.0.0.1", port, TOKEN))


def test_the_door_opens_on_the_loopback_interface_only() -> None:
    """By address, not by a name that anybody may redefine."""
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.0.1", "::1")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost", "")] == [False] * 5
    with pytest.raises(AssertionError):
        HomeSettings("0.0.0.0", 8480, TOKEN)
    with pytest.raises(AssertionError):
        HomeSettings("127.0.0.1", 8480, "short")
