"""The routes: the page's files, the data as JSON, the stream, metrics; log in and out. There is nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Query, Request, Response, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.responses import PlainTextResponse, RedirectResponse

from dcu.ledger.layout import LedgerError
from dcu.web import models
from dcu.web.drawing import Drawing
from dcu.web.entry import COOKIE, SESSION_S, Entry
from dcu.web.feed import Feed
from dcu.web.guard import Guard, cookie_of, peer_of
from dcu.web.history import History
from dcu.web.ledger_view import LedgerView
from dcu.web.line import line_of
from dcu.web.metrics import render
from dcu.web.stream import StreetStream, Viewers
from shared.errors import DecodeError

STATIC: Final = Path(__file__).parent / "static"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NOBODY: Final[dict[str, Any]] = {"description": "no token, no session"}
MeterName = Annotated[str | None, Query(max_length=64)]


class _EventStream(Response):
    """What the stream is called in the documentation."""

    media_type = "text/event-stream"


class Page:
    """What the routes need, composed once."""

    def __init__(
        self, feed: Feed, entry: Entry, drawing: Drawing, ledger: LedgerView, history: History, viewers_max: int
    ) -> None:
        self.feed, self.entry, self.drawing, self.ledger, self.history = feed, entry, drawing, ledger, history
        self.viewers = Viewers(viewers_max)
        self.files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in TYPES}

    def feeder(self) -> dict[str, Any]:
        """The drawing with the DCU's customers."""
        return self.drawing.of([(c["id"], c["bus"]) for c in self.feed.street["customers"]])


def make_app(page: Page, names: frozenset[str], *, secure: bool) -> Guard:
    """The application behind its guard."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        page.feed.decisions.take(await asyncio.to_thread(page.history.decisions))
        looking = asyncio.create_task(page.feed.run())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    app = FastAPI(
        title="Headroom",
        version="1",
        description="What a DCU knows of its street. Read-only.",
        openapi_url="/api/openapi.json",
        dependencies=[Security(HTTPBearer(auto_error=False)), Security(APIKeyCookie(name=COOKIE, auto_error=False))],
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        lifespan=life,
    )
    guard = Guard(app, page.entry, names)
    _data_routes(app, page)
    _ledger_routes(app, page)
    _other_routes(app, page, guard)
    _entry_routes(app, page, secure=secure)
    return guard


def _json(content: Any) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")


def _told(model: type[models.Answer]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, 401: _NOBODY}


def _data_routes(app: FastAPI, page: Page) -> None:
    feed = page.feed

    @app.get("/api/street", summary="Everything that moves, now", responses=_told(models.Street))
    async def street() -> Response:
        return _json(feed.street)

    @app.get("/api/feeder", summary="The feeder's drawing", responses=_told(models.Feeder))
    async def feeder() -> Response:
        return _json(page.feeder())

    @app.get(
        "/api/traces",
        summary="The last minutes of one customer, or of the street",
        responses=_told(models.Traces) | {404: {"description": "no such meter"}},
    )
    async def traces(meter: MeterName = None) -> Response:
        found = feed.traces.of(meter)
        if found is None:
            raise HTTPException(404, "no such meter")
        return _json(found)

    @app.get("/api/decisions", summary="The newest decisions, newest last", responses=_told_list())
    async def decisions(meter: MeterName = None, count: Annotated[int, Query(ge=1, le=2000)] = 200) -> Response:
        return _json(feed.decisions.newest(count, meter))

    @app.get("/api/line", summary="The tree of the power line", responses=_told(models.Line))
    async def line() -> Response:
        return _json(line_of(feed.snapshot))

    @app.get("/api/quality", summary="EN 50160 statistics", responses=_told(models.Qualities))
    async def quality() -> Response:
        own, phases = feed.quality.as_api(), {c["id"]: c["phases"] for c in feed.street["customers"]}
        utc_s, nominal_v = feed.street["utc_s"], own["nominal_v"]
        stored = None
        if utc_s is not None and nominal_v is not None:
            stored = await asyncio.to_thread(page.history.quality, utc_s, nominal_v, phases)
        return _json(stored or own)

    @app.get("/api/readings", summary="The last hours of one customer, from the store", responses=_readings())
    async def readings(
        meter: Annotated[str, Query(max_length=64)], hours: Annotated[float, Query(gt=0, le=168)] = 24
    ) -> Response:
        now = feed.street["utc_s"]
        found = None if now is None else await asyncio.to_thread(page.history.readings, meter, now, 3600 * hours)
        return _json(found or [])


def _readings() -> dict[int | str, dict[str, Any]]:
    return {200: {"model": list[models.Reading]}, 401: _NOBODY}


def _told_list() -> dict[int | str, dict[str, Any]]:
    return {200: {"model": list[models.Decision]}, 401: _NOBODY}


def _ledger_routes(app: FastAPI, page: Page) -> None:
    @app.get("/api/ledger", summary="The newest published head of the log", responses=_told(models.Ledger))
    async def ledger() -> Response:
        return _json(await asyncio.to_thread(page.ledger.as_api))

    @app.get(
        "/api/receipts/{position}",
        summary="A receipt of one entry (C2SP tlog-proof)",
        response_class=PlainTextResponse,
        responses={
            401: _NOBODY,
            404: {"description": "no such entry, or no published head covers it yet"},
            503: {"description": "the log cannot be read"},
        },
    )
    async def receipt(position: int, meter: MeterName = None) -> Response:
        if not 0 <= position < 1 << 62:
            raise HTTPException(404, "no such entry")
        try:
            data = await asyncio.to_thread(page.ledger.receipt, position, meter)
        except LedgerError as error:
            raise HTTPException(404, str(error)) from None
        except (OSError, DecodeError) as error:
            raise HTTPException(503, f"the log cannot be read: {error.__class__.__name__}") from None
        name = f'attachment; filename="receipt-{position}.tlog-proof"'
        return PlainTextResponse(data, headers={"content-disposition": name})


def _other_routes(app: FastAPI, page: Page, guard: Guard) -> None:
    @app.get(
        "/api/stream",
        summary="The same as /api/street once a second, as server-sent events named street",
        response_class=_EventStream,
        responses={401: _NOBODY, 503: {"description": "as many viewers as there may be"}},
    )
    async def stream() -> Response:
        if page.viewers.open >= page.viewers.most:
            text = f"{page.viewers.most} viewers are all there may be\n"
            return PlainTextResponse(text, 503, headers={"retry-after": "10"})
        return StreetStream(page.feed, page.viewers)

    @app.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse, responses={401: _NOBODY})
    async def metrics() -> Response:
        return Response(render(page.feed, page.viewers, guard.refused), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file(page, "index.html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _file(page, name)


def _file(page: Page, name: str) -> Response:
    data = page.files.get(name)
    if data is None or (name in {"index.html", "login.html"} and not data):
        raise HTTPException(404, "no such file")
    return Response(data, media_type=TYPES[Path(name).suffix])


def _entry_routes(app: FastAPI, page: Page, *, secure: bool) -> None:
    @app.get("/login", include_in_schema=False)
    async def form() -> Response:
        return _file(page, "login.html")

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        given = parse_qs((await _body(request)).decode("latin-1"), max_num_fields=4).get("token", [""])[0]
        peer = peer_of(request.scope)
        cookie = page.entry.log_in(given.strip(), peer)
        if cookie is None:
            again = "/login?locked" if page.entry.locks(peer) else "/login?wrong"
            return RedirectResponse(again, 303)
        answer = RedirectResponse("/", 303)
        ends_s = int(SESSION_S)
        answer.set_cookie(COOKIE, cookie, max_age=ends_s, httponly=True, samesite="strict", secure=secure, path="/")
        return answer

    @app.post("/logout", include_in_schema=False)
    async def log_out(request: Request) -> Response:
        cookie = cookie_of([value for key, value in request.headers.raw if key == b"cookie"])
        if cookie is not None:
            page.entry.log_out(cookie)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=secure, path="/")
        return answer


async def _body(request: Request) -> bytes:
    """Of a form; the guard has capped it."""
    return await request.body()
