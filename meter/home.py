"""The household's door: HTTP on the loopback interface, with a bearer token.

HTTP rather than MQTT because it needs no broker on the meter, is understood by every energy manager, and answers a
question with an answer. ``GET /v1/status`` says who limits the export now and why; ``POST /v1/request`` asks for more;
``POST /v1/release`` gives it back. The protocol is parsed by h11; sizes, times and connections are capped here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import h11

from meter.core import HouseholdAsked, HouseholdReleased
from shared.daemon import Progress
from shared.errors import DeviceError, Fault

BODY_BYTES_MAX: Final = 4096
HEADER_BYTES_MAX: Final = 8192
REQUEST_S_MAX: Final = 10.0
CONNECTIONS_MAX: Final = 16
PROGRESS_S: Final = 5.0
TOKEN_CHARACTERS_MIN: Final = 16

Put = Callable[[HouseholdAsked | HouseholdReleased], bool]
Status = Callable[[], dict[str, Any]]
HomeDoor = Callable[[Put, Status, Progress], Awaitable[None]]
"""Serves the household for ever."""


class _RefusedError(Exception):
    """A request that gets an error answer."""

    def __init__(self, status: HTTPStatus, fault: Fault) -> None:
        super().__init__(str(fault))
        self.status = status
        self.fault = fault


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class HomeSettings:
    """Where the door is and what opens it."""

    host: str
    port: int
    token: str

    def __post_init__(self) -> None:
        assert is_loopback(self.host), self.host
        assert len(self.token) >= TOKEN_CHARACTERS_MIN, "a token this short can be guessed"


class Home:
    """The HTTP server of one meter."""

    def __init__(self, settings: HomeSettings, put: Put, status: Status) -> None:
        self._settings = settings
        self._put = put
        self._status = status
        self._open = 0

    async def start(self) -> asyncio.Server:
        """Listen.

        Raises:
            DeviceError: the port is taken.
        """
        try:
            return await asyncio.start_server(
                self._serve, self._settings.host, self._settings.port, limit=HEADER_BYTES_MAX
            )
        except OSError as error:
            where = f"{self._settings.host}:{self._settings.port}"
            raise DeviceError(f"home door {where}: {error.strerror or error}") from error

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError, h11.LocalProtocolError):
            pass  # too slow, gone, or an answer that could not be given any more
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        try:
            if self._open > CONNECTIONS_MAX:
                raise _refuse(HTTPStatus.SERVICE_UNAVAILABLE, "connections", f"more than {CONNECTIONS_MAX}", "fewer")
            status, body = HTTPStatus.OK, self._answer(*await self._receive(connection, reader))
        except _RefusedError as refused:
            status = refused.status
            fault = refused.fault
            body = {"error": {"where": fault.where, "seen": fault.seen, "expected": fault.expected}}
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint or 400)
            body = {"error": {"where": "request", "seen": "no valid HTTP", "expected": "HTTP/1.1"}}
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
        for event in (response, h11.Data(data=payload), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
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
        wanted = f"Bearer {self._settings.token}".encode()
        if len(given) != 1 or not hmac.compare_digest(given[0], wanted):
            raise _refuse(
                HTTPStatus.UNAUTHORIZED, "authorization", "no valid token", "Bearer and the token of this meter"
            )

    def _answer(self, request: h11.Request, body: bytes) -> dict[str, Any]:
        routes: dict[bytes, tuple[bytes, Callable[[bytes], dict[str, Any]]]] = {
            b"/v1/status": (b"GET", lambda _: self._status()),
            b"/v1/request": (b"POST", self._ask),
            b"/v1/release": (b"POST", self._release),
        }
        target = request.target.partition(b"?")[0]
        if target not in routes:
            raise _refuse(HTTPStatus.NOT_FOUND, "path", repr(target[:60].decode("latin-1")), "one of the paths of /v1")
        method, action = routes[target]
        if request.method != method:
            raise _refuse(
                HTTPStatus.METHOD_NOT_ALLOWED, "method", repr(request.method[:20].decode("latin-1")), method.decode()
            )
        return action(body)

    def _ask(self, body: bytes) -> dict[str, Any]:
        try:
            wish = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _refuse(HTTPStatus.BAD_REQUEST, "body", "no valid JSON", 'such as {"limit_w": 2400}') from error
        if not isinstance(wish, dict) or not set(wish) <= {"limit_w", "minimum_limit_w"}:
            raise _refuse(HTTPStatus.BAD_REQUEST, "body", "other content", "an object with limit_w and minimum_limit_w")
        limit_w = _watts(wish, "limit_w", None)
        minimum_w = _watts(wish, "minimum_limit_w", limit_w)
        if minimum_w > limit_w:
            raise _refuse(HTTPStatus.BAD_REQUEST, "minimum_limit_w", f"{minimum_w:g}", f"at most limit_w {limit_w:g}")
        return self._taken(HouseholdAsked(limit_w, minimum_w))

    def _release(self, _body: bytes) -> dict[str, Any]:
        return self._taken(HouseholdReleased())

    def _taken(self, item: HouseholdAsked | HouseholdReleased) -> dict[str, Any]:
        if not self._put(item):
            raise _refuse(HTTPStatus.SERVICE_UNAVAILABLE, "meter", "too many requests", "one after the other")
        return {"taken": True}


def _watts(wish: dict[str, Any], key: str, default: float | None) -> float:
    value = wish.get(key, default)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1e7
    if not good:
        raise _refuse(HTTPStatus.BAD_REQUEST, key, repr(value)[:60], "watts from 0 to 10000000")
    assert value is not None
    return float(value)


def _refuse(status: HTTPStatus, where: str, seen: str, expected: str) -> _RefusedError:
    return _RefusedError(status, Fault(where, seen, expected))


def home_door(settings: HomeSettings) -> HomeDoor:
    """The door as a worker of the daemon."""

    async def serve(put: Put, status: Status, progress: Progress) -> None:
        server = await Home(settings, put, status).start()
        try:
            while True:
                progress()
                await asyncio.sleep(PROGRESS_S)
        finally:
            server.close()

    return serve
