"""A street for tests: a snapshot as a real engine gives it, a ledger with decisions, and a page that serves both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from dcu.available import Forecaster
from dcu.config import DcuConfig
from dcu.daemon import LedgerPort
from dcu.hosting.engine import HostingEngine
from dcu.hosting.site_settings import SiteSettings
from dcu.ledger.store import Ledger
from dcu.meters import MeterEntry
from dcu.page_facts import Recent, page_facts
from dcu.status import snapshot as status_of
from dcu.web.app import Page, make_app
from dcu.web.config import Web
from dcu.web.drawing import Drawing
from dcu.web.entry import Entry
from dcu.web.feed import Feed
from dcu.web.history import History
from dcu.web.ledger_view import LedgerView
from dcu.web.page import LOOPBACK_NAMES
from dcu.web.server import PageServer, make_server
from shared.ids import BusId, Epoch, Eui48, MeterId, Phase

TOKEN = "test-token-0123456789-abcdefgh"
UTC_S = 1_800_000_000.0
NAMES = ("meter-1", "meter-2", "meter-3")
ENTRIES: list[dict[str, Any]] = [
    {"kind": "start", "epoch": 1, "seq": 0, "rule": "present-voltages/1", "facts": {}, "nominal_limit_w": {}},
    {
        "kind": "grant",
        "epoch": 1,
        "seq": 1,
        "meter": "meter-1",
        "request": {"id": 1, "nonce": "00", "limit_w": 2400.0, "minimum_limit_w": 0.0},
        "limit_w": 2000.0,
        "lease_s": 60.0,
        "reason": "GRANTED",
        "kept_by": {"reason": "OVERVOLTAGE", "binding": "meter-2 L2", "value": None},
    },
    {
        "kind": "denial",
        "epoch": 1,
        "seq": 2,
        "meter": "meter-2",
        "request": {"id": 2, "nonce": "01", "limit_w": 2400.0, "minimum_limit_w": 0.0},
        "reason": "OVERVOLTAGE",
        "binding": "meter-2",
        "value": 243.2,
    },
]


def snapshot(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """What a DCU's page socket says: the real shape, with readings and decisions put in."""
    entries = tuple(
        MeterEntry(MeterId(name), Eui48(bytes((2, 0, 0, 0, 0, k))), BusId(f"bus-{k}"), (Phase(k % 3),), 1200.0, 2400.0)
        for k, name in enumerate(names)
    )
    engine = HostingEngine(SiteSettings(), entries, Epoch(1), 0.0)
    engine.start()
    ledger = cast(LedgerPort, SimpleNamespace(position=3, head=bytes(32)))
    config = cast(DcuConfig, SimpleNamespace(dcu=SimpleNamespace(id="dcu-1")))
    recent = Recent()
    for k, entry in enumerate(ENTRIES):
        recent.note(entry, UTC_S + k)
    told = status_of(engine, ledger, 100.0, {}, config) | page_facts(engine, recent, Forecaster(engine), UTC_S + 60)
    for k, meter in enumerate(told["meters"]):
        meter |= {"quality": "good", "u_v": [236.0 + 3 * k], "age_s": 2.0, "export_w": 800.0 + k, "linked": True}
        meter |= {"limit_w": 1200.0, "source": "NOMINAL"}
    if told["meters"]:
        told["meters"][0] |= {"granted_w": 2000.0, "limit_w": 2000.0, "lease_left_s": 40.0, "source": "GRANT"}
    told["quarantine"] = False
    told["substation"] = {"quality": "good", "u_v": [235.0, 235.1, 235.2], "age_s": 0.5}
    return told


def write_ledger(directory: Path) -> Ledger:
    """A ledger with the decisions, its head published."""
    ledger = Ledger(directory, "dcu-1")
    for k, entry in enumerate(ENTRIES):
        facts = {"nominal_limit_w": dict.fromkeys(NAMES, 1200.0)} if entry["kind"] == "start" else {}
        ledger.append({**entry, **facts, "utc_s": UTC_S + k})
    ledger.publish()
    return ledger


class World:
    """What the page is told; a test changes it between looks."""

    def __init__(self) -> None:
        self.told: dict[str, Any] | Exception = snapshot()
        self.now = 0.0

    async def ask(self) -> dict[str, Any]:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def make_page(
    world: World, ledger: Path | None = None, *, token: str | None = TOKEN, web: Web | None = None, poll_s: float = 0.05
) -> tuple[Page, PageServer]:
    """A page on the world, its server not yet listening."""
    feed = Feed(world.ask, poll_s, lambda: world.now, lambda: UTC_S)
    view = LedgerView(ledger, None, show_parts=True)
    page = Page(feed, Entry(token, lambda: world.now), Drawing(None), view, History(None), viewers_max=2)
    settings = web or Web(token_file="unused")
    return page, make_server(make_app(page, LOOPBACK_NAMES, secure=False), settings)


@contextmanager
def served(world: World, ledger: Path | None = None) -> Iterator[tuple[str, Page]]:
    """A page that listens, on a loop of its own in a thread of its own; gives its address."""
    import socket  # noqa: PLC0415

    listening = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    up = threading.Event()
    made: list[tuple[Page, PageServer]] = []

    async def serve() -> None:
        page, server = make_page(world, ledger, poll_s=1.0)
        made.append((page, server))
        serving = asyncio.create_task(server.serve([listening]))
        await server.listening.wait()
        up.set()
        await serving

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert up.wait(30)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", made[0][0]
    finally:
        made[0][1].should_exit = True
        thread.join(10)
        loop.close()
