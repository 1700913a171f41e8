"""What every request passes before anything of ours sees it: caps, host, method, path, who asks; headers of answers.

An ASGI wrapper. It answers bad requests itself, in a line of plain text that repeats nothing of what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final

from dcu.web.entry import COOKIE, Entry

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS_MAX: Final = 64
HEADER_BYTES_MAX: Final = 8192
PATH_BYTES_MAX: Final = 1024
BODY_BYTES_MAX: Final = 4096
OPEN: Final = frozenset({"/login", "/static/login.js", "/static/page.css", "/static/icon.svg"})
"""What shows nothing of the street."""
WRITES: Final = frozenset({"/login", "/logout"})
"""The only paths that take POST; they change who is logged in, and nothing else."""
STREAM: Final = "/api/stream"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)
TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """Wraps the application."""

    def __init__(self, app: App, entry: Entry, names: frozenset[str]) -> None:
        """``names``: hosts by which browsers may call; others are refused, so that no name made to point here helps."""
        self._app, self._entry, self._names = app, entry, names
        self.refused: dict[int, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        head_only = scope["method"] == "HEAD"
        answer = _Answer(send, head_only=head_only, secure=scope.get("scheme") == "https")
        refusal = self._refusal(scope)
        if refusal is not None:
            status, extra = refusal
            self.refused[status] = self.refused.get(status, 0) + 1
            await answer.plain(status, extra)
            return
        if head_only:
            scope["method"] = "GET"
        await self._app(scope, _capped(receive), answer)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, tuple[tuple[bytes, bytes], ...]] | None:
        """Why a request gets no further, and headers of that answer."""
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        if len(headers) > HEADERS_MAX or sum(len(k) + len(v) for k, v in headers) > HEADER_BYTES_MAX:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, ()
        found: dict[bytes, list[bytes]] = {}
        for key, value in headers:
            found.setdefault(key, []).append(value)
        hosts = found.get(b"host", [])
        if len(hosts) != 1 or _host(hosts[0]) not in self._names:
            return HTTPStatus.MISDIRECTED_REQUEST if len(hosts) == 1 else HTTPStatus.BAD_REQUEST, ()
        path = scope["path"]
        if not _is_plain(scope.get("raw_path") or b"", path):
            return HTTPStatus.BAD_REQUEST, ()
        method = scope["method"]
        allowed = ("POST", "GET", "HEAD") if path == "/login" else ("POST",) if path in WRITES else ("GET", "HEAD")
        if method not in allowed or (method == "HEAD" and path == STREAM):
            return HTTPStatus.METHOD_NOT_ALLOWED, ((b"allow", ", ".join(allowed).encode()),)
        if _has_body(found) and method != "POST":
            return HTTPStatus.BAD_REQUEST, ()
        if _length(found) > BODY_BYTES_MAX:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, ((b"connection", b"close"),)
        if method == "POST" and not _same_origin(found, hosts[0]):
            return HTTPStatus.FORBIDDEN, ()
        return self._stranger(path, found, peer_of(scope))

    def _stranger(
        self, path: str, found: dict[bytes, list[bytes]], peer: str
    ) -> tuple[HTTPStatus, tuple[tuple[bytes, bytes], ...]] | None:
        cookie = cookie_of(found.get(b"cookie", []))
        if path in OPEN or self._entry.admits(_one(found, b"authorization"), cookie, peer):
            return None
        if path == "/" and "text/html" in (_one(found, b"accept") or ""):
            return HTTPStatus.SEE_OTHER, ((b"location", b"/login"),)
        return HTTPStatus.UNAUTHORIZED, ((b"www-authenticate", b'Bearer realm="headroom"'),)


def peer_of(scope: Scope) -> str:
    """The address a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class _Answer:
    """Adds our headers to what the application answers; leaves the body out where only the head was asked for."""

    def __init__(self, send: Send, *, head_only: bool, secure: bool) -> None:
        self._send, self._head_only = send, head_only
        self._more = (*SECURITY, TRANSPORT) if secure else SECURITY

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = {key for key, _ in self._more}
            kept = [(key, value) for key, value in message.get("headers", ()) if key.lower() not in ours]
            message = {**message, "headers": [*kept, *self._more]}
        elif message["type"] == "http.response.body" and self._head_only:
            message = {**message, "body": b""}
        await self._send(message)

    async def plain(self, status: HTTPStatus, extra: tuple[tuple[bytes, bytes], ...]) -> None:
        body = f"{status.value} {status.phrase}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            *extra,
        ]
        await self({"type": "http.response.start", "status": int(status), "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _capped(receive: Receive) -> Receive:
    """Gives no more of a body than we take."""
    left = BODY_BYTES_MAX

    async def capped() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left < 0:
                return {"type": "http.disconnect"}
        return message

    return capped


def cookie_of(headers: list[bytes]) -> str | None:
    """Our session's cookie in a request; None if there is none, or two."""
    pairs = [pair.strip().partition(b"=") for header in headers for pair in header.split(b";")]
    values = [value for key, _, value in pairs if key == COOKIE.encode()]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _one(found: dict[bytes, list[bytes]], name: bytes) -> str | None:
    values = found.get(name, [])
    return values[0].decode("latin-1") if len(values) == 1 else None


def _host(value: bytes) -> str:
    return re.sub(r":[0-9]{1,5}$", "", value.decode("latin-1")).lower()


def _is_plain(raw: bytes, path: str) -> bool:
    """Paths of ours are plain words; whatever else somebody writes is no path of ours."""
    plain = re.fullmatch(r"/[A-Za-z0-9._/-]*", path) is not None and len(raw) <= PATH_BYTES_MAX
    return plain and b"%" not in raw and ".." not in path and "//" not in path


def _has_body(found: dict[bytes, list[bytes]]) -> bool:
    return b"transfer-encoding" in found or _length(found) > 0


def _length(found: dict[bytes, list[bytes]]) -> int:
    value = _one(found, b"content-length")
    return int(value) if value is not None and value.isdigit() and len(value) < 12 else 0 if value is None else 1 << 40


def _same_origin(found: dict[bytes, list[bytes]], host: bytes) -> bool:
    """Browsers say where a form came from; who says nothing is no browser and carries nobody else's cookie."""
    if (_one(found, b"sec-fetch-site") or "none") not in {"same-origin", "none"}:
        return False
    origin = _one(found, b"origin")
    return origin is None or re.sub(r"^https?://", "", origin).encode() == host
