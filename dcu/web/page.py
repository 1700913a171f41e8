"""Composes the page from its configuration."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from dcu.web.app import Page, make_app
from dcu.web.config import WebConfig, load_token
from dcu.web.drawing import Drawing
from dcu.web.entry import Entry
from dcu.web.feed import Feed, ask_socket
from dcu.web.history import History
from dcu.web.ledger_view import LedgerView
from dcu.web.server import PageServer, make_server
from shared.errors import ConfigError, DecodeError, Fault

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def build(config: WebConfig, now: Callable[[], float], utc: Callable[[], float]) -> tuple[Page, PageServer]:
    """The page and its server, not yet listening; to be called where an event loop runs, or not at all yet.

    Raises:
        ConfigError: token, certificate, key of the log or network that cannot be used.
    """
    web, source = config.web, config.dcu
    token = None if web.token_file is None else load_token(Path(web.token_file))
    entry = Entry(token, now)
    drawing = Drawing(None if config.feeder.network is None else Path(config.feeder.network))
    try:
        directory = None if source.ledger is None else Path(source.ledger)
        ledger = LedgerView(directory, source.log_key, show_parts=source.show_parts)
    except DecodeError as error:
        raise ConfigError(
            "web", [Fault("dcu.log_key", source.log_key or "", "name+id+key, as headroom-ledger head prints it")]
        ) from error
    feed = Feed(ask_socket(Path(source.socket)), source.poll_s, now, utc)
    history = History(None if source.store is None else Path(source.store), now)
    page = Page(feed, entry, drawing, ledger, history, web.viewers_max)
    app = make_app(page, names_of(config), secure=web.certificate is not None)
    try:
        server = make_server(app, web)
        server.config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("web", [Fault("certificate", str(error), "a certificate and its key, readable")]) from error
    return page, server


def names_of(config: WebConfig) -> frozenset[str]:
    """Hosts by which the page may be called."""
    own = config.web.host if ":" not in config.web.host else f"[{config.web.host.strip('[]')}]"
    return LOOPBACK_NAMES | {own.lower()} | {name.lower() for name in config.web.names}
