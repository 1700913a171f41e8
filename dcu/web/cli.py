"""`headroom-web`: run, check-config, token."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dcu.web.config import WebConfig, make_token
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.config import load_config
from shared.errors import DeviceError

EXAMPLE: Final = """examples:
  headroom-web token /etc/headroom/web.token
  headroom-web check-config /etc/headroom/web.toml
  headroom-web run --config /etc/headroom/web.toml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-web",
        description="The operator's page: shows a DCU's street in a browser. Read-only.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="serve the page")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--link", action="store_true", help="print a link that logs in once, within ten minutes")
    run.set_defaults(command=_run)
    check = commands.add_parser("check-config", help="check a configuration file, and what it names")
    check.add_argument("file", type=Path)
    check.set_defaults(command=_check)
    token = commands.add_parser("token", help="make a new token file")
    token.add_argument("file", type=Path)
    token.set_defaults(command=_token)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _load(path: Path) -> WebConfig:
    """The configuration; what it names by a relative path lies beside it."""
    return load_config(path, WebConfig).beside(path.parent)


def _token(options: argparse.Namespace) -> int:
    make_token(options.file)
    print(f"{options.file}: a new token; who knows it may look. It is read at the next start of headroom-web.")
    return EXIT_OK


def _check(options: argparse.Namespace) -> int:
    from dcu.web.page import build  # noqa: PLC0415  # FastAPI

    config = _load(options.file)
    build(config, lambda: 0.0, lambda: 0.0)
    how = " and ".join(
        name
        for name, given in (("token", config.web.token_file), ("client certificate", config.web.client_ca))
        if given
    )
    print(f"{options.file}: good; {address(config, config.web.port)}, opened by {how}")
    return EXIT_OK


def address(config: WebConfig, port: int) -> str:
    """Where a browser finds the page."""
    scheme = "http" if config.web.certificate is None else "https"
    host = f"[{config.web.host}]" if ":" in config.web.host else config.web.host
    return f"{scheme}://{host}:{port}/"


def _run(options: argparse.Namespace) -> int:
    return asyncio.run(serve(_load(options.config), link=options.link))


async def serve(config: WebConfig, *, link: bool) -> int:
    """Serve until stopped.

    Raises:
        ConfigError: token, certificate, key of the log or network that cannot be used.
        DeviceError: the port is taken.
    """
    from dcu.web.page import build  # noqa: PLC0415  # FastAPI
    from shared.clock import LoopClock  # noqa: PLC0415
    from shared.log import set_up_logging  # noqa: PLC0415

    set_up_logging()
    clock = LoopClock()
    page, server = build(config, clock.monotonic, clock.utc_s)
    listening = _listen(config)
    serving = asyncio.create_task(server.serve([listening]))
    await asyncio.wait({serving, asyncio.create_task(server.listening.wait())}, return_when=asyncio.FIRST_COMPLETED)
    where = address(config, server.port)
    print(f"page: {where}", flush=True)
    if link and page.entry.needs_token:
        print(f"link: {where}login#{page.entry.link()}", flush=True)
    await serving
    return EXIT_OK if server.started else EXIT_FAILED


def _listen(config: WebConfig) -> socket.socket:
    host = config.web.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, config.web.port), family=family, backlog=32)
    except OSError as error:
        raise DeviceError(f"page {host}:{config.web.port}: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
