"""The household's door: HTTP on the loopback interface, with a bearer token.

HTTP rather than MQTT because it needs no broker on the meter, is understood by every energy manager, and answers a
question with an answer. ``GET /v1/status`` says who limits the export now and why; ``POST /v1/request`` asks for more;
``POST /v1/release`` gives it back; ``PUT /v1/cap`` lowers the limit below what others allow. The protocol is parsed by
h11; sizes, times and connections are capped here. One connection carries one request.

Errors are JSON, ``{"error": {"where", "seen", "expected"}}``: 400 content, 401 token, 404 path, 405 method, 409 the
meter objects, 413 body, 431 header, 503 too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

import h11

from meter.core import HouseholdAsked, HouseholdCapped
from shared.daemon import Progress, show
from shared.errors import DeviceError, Fault

BODY_BYTES_MAX: Final = 4096
HEADER_BYTES_MAX: Final = 8192
REQUEST_S_MAX: Final = 10.0
"""[s] From the connection to the last byte of its answer."""

LINGER_BYTES_MAX: Final = 65_536
"""What a refused request may still send before the connection is cut; read so that its answer is not lost."""

CONNECTIONS_MAX: Final = 16
TOKEN_CHARACTERS_MIN: Final = 16
WATTS_MAX: Final = 1e7

JsonObject = dict[str, Any]


class Household(Protocol):
    """What the door needs of a meter (`meter.daemon.MeterDaemon`)."""

    def ask(self, wish: HouseholdAsked) -> Fault | None:
        """Ask for more; why not even asking makes sense, or None."""

    def release(self) -> Fault | None:
        """Give back; why that could not be taken, or None."""

    def cap(self, cap: HouseholdCapped) -> Fault | None:
        """Limit oneself, or no longer; why that could not be taken, or None."""

    def status(self) -> JsonObject:
        """Who limits me now, and why."""


HomeDoor = Callable[[Household, Progress], Awaitable[None]]
"""Serves the household for ever."""


class _RefusedError(Exception):
    """A request that gets an error answer."""

    def __init__(self, status: HTTPStatus, fault: Fault) -> None:
        super().__init__(str(fault))
        self.status = status
        self.fault = fault


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine only; a name is not, for anybody may make it mean something else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class HomeSettings:
    """Where the door is and what opens it."""

    host: str
    port: int
    token: str

    def __post_init__(self) -> None:
        assert is_loopback(self.host), self.host
        assert len(self.token) >= TOKEN_CHARACTERS_MIN, "a token this short can be guessed"


def listen(settings: HomeSettings) -> socket.socket:
    """The listening socket of a door, before anybody is served.

    Raises:
        DeviceError: the port is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise DeviceError(f"home door {settings.host}:{settings.port}: {error.strerror or error}") from error


def home_door(listening: socket.socket, token: str) -> HomeDoor:
    """The door as a worker of the daemon; it owns the socket from its first turn on."""

    async def serve(household: Household, progress: Progress) -> None:
        home = Home(token, household)
        server = await asyncio.start_server(home.serve, sock=listening, limit=HEADER_BYTES_MAX)
        try:
            await show(progress)
        finally:
            server.close()
            await home.close()

    return serve


class Home:
    """The HTTP side of one meter."""

    def __init__(self, token: str, household: Household) -> None:
        assert len(token) >= TOKEN_CHARACTERS_MIN, "a token this short can be guessed"
        self._authorization = f"Bearer {token}".encode("ascii")
        self._household = household
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._routes: dict[bytes, tuple[bytes, Callable[[bytes], JsonObject]]] = {
            b"/v1/status": (b"GET", self._status),
            b"/v1/request": (b"POST", self._ask),
            b"/v1/release": (b"POST", self._release),
            b"/v1/cap": (b"PUT", self._cap),
        }

    async def close(self) -> None:
        """Cut what is still being served, and wait until that is noticed."""
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection; whatever the other side does, it ends within `REQUEST_S_MAX`."""
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            # Slow, gone, or an answer that could not be given any more: nobody is left to be told.
            with contextlib.suppress(TimeoutError, OSError, h11.LocalProtocolError):
                async with asyncio.timeout(REQUEST_S_MAX):
                    crowded = len(self._serving) > CONNECTIONS_MAX
                    await self._exchange(reader, writer, crowded=crowded)
                    if not crowded:
                        await _linger(reader, writer)
        finally:
            del self._serving[task]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, crowded: bool) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        try:
            if crowded:
                expected = f"at most {CONNECTIONS_MAX} at a time"
                raise _refuse(HTTPStatus.SERVICE_UNAVAILABLE, "connections", f"{len(self._serving)}", expected)
            status, body = HTTPStatus.OK, self._answer(*await self._receive(connection, reader))
        except _RefusedError as refused:
            status, body = refused.status, _error(refused.fault)
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint or HTTPStatus.BAD_REQUEST)
            body = _error(Fault("request", status.phrase, "one HTTP/1.1 request with Host, within the limits"))
        payload = json.dumps(body).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(payload))),
            ("cache-control", "no-store"),
            ("connection", "close"),
        ]
        if status is HTTPStatus.UNAUTHORIZED:
            headers.append(("www-authenticate", "Bearer"))
        response = h11.Response(status_code=int(status), headers=headers, reason=status.phrase)
        for part in (response, h11.Data(data=payload), h11.EndOfMessage()):
            writer.write(connection.send(part) or b"")
        await writer.drain()

    async def _receive(self, connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request, bytes]:
        request: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(4096))
            elif isinstance(event, h11.Request):
                request = event
                self._authorise(event)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
                if len(body) > BODY_BYTES_MAX:
                    raise _refuse(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", f"{len(body)} bytes", f"at most {BODY_BYTES_MAX}"
                    )
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                return request, body
            else:
                raise h11.RemoteProtocolError("connection closed")

    def _authorise(self, request: h11.Request) -> None:
        given = [value for name, value in request.headers if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._authorization):
            raise _refuse(
                HTTPStatus.UNAUTHORIZED, "authorization", "no valid token", "Bearer and the token of this meter"
            )

    def _answer(self, request: h11.Request, body: bytes) -> JsonObject:
        route = self._routes.get(request.target.partition(b"?")[0])
        if route is None:
            expected = ", ".join(path.decode() for path in self._routes)
            raise _refuse(HTTPStatus.NOT_FOUND, "path", request.target[:60].decode("latin-1"), f"one of {expected}")
        method, action = route
        if request.method != method:
            seen = request.method[:20].decode("latin-1")
            raise _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "method", seen, method.decode())
        return action(body)

    def _status(self, _body: bytes) -> JsonObject:
        return self._household.status()

    def _ask(self, body: bytes) -> JsonObject:
        wish = _parse(body, {"limit_w", "minimum_limit_w"}, '{"limit_w": 2400}')
        limit_w = _watts(wish, "limit_w", None)
        minimum_w = _watts(wish, "minimum_limit_w", limit_w)
        return _taken(self._household.ask(HouseholdAsked(limit_w, minimum_w)))

    def _cap(self, body: bytes) -> JsonObject:
        cap = _parse(body, {"limit_w"}, '{"limit_w": 800} or {"limit_w": null}')
        if "limit_w" in cap and cap["limit_w"] is None:
            return _taken(self._household.cap(HouseholdCapped(None)))
        return _taken(self._household.cap(HouseholdCapped(_watts(cap, "limit_w", None))))

    def _release(self, _body: bytes) -> JsonObject:
        return _taken(self._household.release())


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the other side read its answer: closing with unread bytes would reset the connection under it."""
    writer.write_eof()
    left = LINGER_BYTES_MAX
    while left > 0 and (data := await reader.read(4096)):
        left -= len(data)


def _error(fault: Fault) -> JsonObject:
    return {"error": {"where": fault.where, "seen": fault.seen, "expected": fault.expected}}


def _taken(objection: Fault | None) -> JsonObject:
    if objection is not None:
        raise _RefusedError(HTTPStatus.CONFLICT, objection)
    return {"taken": True}


def _parse(body: bytes, keys: set[str], example: str) -> JsonObject:
    """What stands in a body: one object with known keys, each once."""
    try:
        wish = json.loads(body, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise _refuse(HTTPStatus.BAD_REQUEST, "body", "no valid JSON", f"such as {example}") from error
    if not isinstance(wish, dict) or not set(wish) <= keys:
        raise _refuse(HTTPStatus.BAD_REQUEST, "body", "other content", f"an object with {' and '.join(sorted(keys))}")
    return wish


def _each_key_once(pairs: list[tuple[str, Any]]) -> JsonObject:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _watts(wish: JsonObject, key: str, default: float | None) -> float:
    value = wish.get(key, default)
    # The comparison also refuses NaN, infinities and integers no float can hold.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= WATTS_MAX:
        raise _refuse(HTTPStatus.BAD_REQUEST, key, repr(value)[:60], f"watts from 0 to {WATTS_MAX:.0f}")
    return float(value)


def _refuse(status: HTTPStatus, where: str, seen: str, expected: str) -> _RefusedError:
    return _RefusedError(status, Fault(where, seen, expected))
