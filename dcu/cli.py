"""`headroom-dcu`: run, check-config, status, verify-ledger, replay, export, readings, forget."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Final

from dcu.config import DcuConfig
from shared.cli import EXIT_OK, run_cli
from shared.config import load_config
from shared.status_socket import ask

EXAMPLE: Final = """examples:
  headroom-dcu check-config /etc/headroom/dcu.toml
  headroom-dcu run --config /etc/headroom/dcu.toml
  headroom-dcu status --config /etc/headroom/dcu.toml
  headroom-dcu replay /var/lib/headroom-dcu --config dcu.toml
  headroom-dcu verify-ledger /var/lib/headroom-dcu
  headroom-dcu export --config dcu.toml --from 2026-11-01 --to 2026-11-07 --out meter-data
  headroom-dcu readings --config dcu.toml --from 2026-11-01 --out readings.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-dcu",
        description="Data concentrator unit: grants export increases on a low-voltage feeder.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="run the daemon")
    run.add_argument("--config", type=Path, required=True)
    run.set_defaults(command=_run)
    check = commands.add_parser("check-config", help="check a configuration file")
    check.add_argument("file", type=Path)
    check.set_defaults(command=_check)
    status = commands.add_parser("status", help="ask a running daemon for meters, voltages, grants and reasons")
    where = status.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path, help="the daemon's configuration")
    where.add_argument("--socket", type=Path, help="its status socket")
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=_status)
    verify = commands.add_parser("verify-ledger", help="verify every entry of a ledger")
    verify.add_argument("directory", type=Path)
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(command=_verify)
    again = commands.add_parser("replay", help="decide every recorded window again and compare, to the byte")
    again.add_argument("directory", type=Path, help="of the ledger")
    again.add_argument("--config", type=Path, required=True, help="the daemon's configuration, its model beside it")
    again.add_argument("--json", action="store_true")
    again.set_defaults(command=_replay)
    export = commands.add_parser("export", help="write meter data for studies: Parquet, a file for each day (UTC)")
    export.add_argument("--config", type=Path, required=True)
    export.add_argument("--from", dest="first", type=date_of, help="first day; the oldest that is kept if left out")
    export.add_argument("--to", dest="last", type=date_of, help="last day; the newest whole one if left out")
    export.add_argument("--out", type=Path, required=True, help="directory; days that are there already are left alone")
    export.add_argument("--json", action="store_true")
    export.set_defaults(command=_export)
    minutes = commands.add_parser("readings", help="write readings for headroom-grid calibrate: a CSV of means")
    minutes.add_argument("--config", type=Path, required=True)
    minutes.add_argument("--from", dest="first", type=date_of, help="first day (UTC); the oldest kept if left out")
    minutes.add_argument("--to", dest="last", type=date_of, help="last day; the newest if left out")
    minutes.add_argument("--step", type=int, default=60, help="length of a mean [s] (default 60)")
    minutes.add_argument("--out", type=Path, required=True, help="the CSV file; it names customers by their meters")
    minutes.set_defaults(command=_readings)
    forget = commands.add_parser(
        "forget", help="delete a customer from the store and from what waits for the utility, the DCU stopped"
    )
    forget.add_argument("--config", type=Path, required=True)
    forget.add_argument("meter")
    forget.set_defaults(command=_forget)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _run(options: argparse.Namespace) -> int:
    from dcu.real import run_daemon  # noqa: PLC0415  # sockets, threads and the serial port; not needed for --help

    return asyncio.run(run_daemon(_load(options.config)))


def _check(options: argparse.Namespace) -> int:
    from dcu.site import load_rule  # noqa: PLC0415  # NumPy

    config = _load(options.file)
    rule = load_rule(config)
    if config.utility is not None:
        from dcu.utility_real import check_utility  # noqa: PLC0415  # TLS; only where there is a utility

        check_utility(config)
    print(f"{options.file}: good; DCU {config.dcu.id}, {len(config.meters)} meters, lease {config.site.lease_s:g} s")
    facts = rule.facts()
    if (network := facts.get("network_sha256")) is not None:
        print(f"rule {rule.name}, model {facts['model']} of network_sha256 {network}")
    else:
        print(f"rule {rule.name}: no network model, nothing is predicted by one")
    return EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from dcu.status import table  # noqa: PLC0415  # pulls in the engine

    path = options.socket or Path(load_config(options.config, DcuConfig).status.socket)
    status = ask(path, "DCU")
    print(json.dumps(status, indent=1) if options.json else table(status))
    return EXIT_OK


def _verify(options: argparse.Namespace) -> int:
    from dcu.ledger_command import verify_ledger  # noqa: PLC0415  # only this command reads the ledger

    return verify_ledger(options.directory, as_json=options.json)


def _replay(options: argparse.Namespace) -> int:
    from dcu.ledger_command import replay_again  # noqa: PLC0415  # NumPy

    return replay_again(options.directory, options.config, as_json=options.json)


def _export(options: argparse.Namespace) -> int:
    from dcu.store.export import Order, export  # noqa: PLC0415  # only this command writes Parquet

    config = _load(options.config)
    names = [entry.id for entry in config.entries]
    order = Order(config.store_directory, config.dcu.id, names, config.store.export_ids == "salted")
    done = export(order, options.first, options.last, options.out)
    print(json.dumps(done.as_json(), indent=1) if options.json else done.as_text())
    return EXIT_OK


def _readings(options: argparse.Namespace) -> int:
    from dcu.hosting.measurements import SUBSTATION  # noqa: PLC0415  # only this command needs its name
    from dcu.store.minutes import write_minutes  # noqa: PLC0415  # the same

    config = _load(options.config)
    names = [*(entry.id for entry in config.entries), SUBSTATION]
    days = options.first, options.last
    print(write_minutes(config.store_directory, names, days, options.step, options.out).as_text())
    return EXIT_OK


def _forget(options: argparse.Namespace) -> int:
    from dcu.store.forget import forget  # noqa: PLC0415  # opens the files for writing
    from dcu.utility.outbox import Outbox  # noqa: PLC0415  # the same
    from dcu.utility.outbox_file import UTILITY  # noqa: PLC0415  # the same

    config = _load(options.config)
    waiting = 0
    if UTILITY.path(config.store_directory).exists():
        with closing(Outbox(config.store_directory, config.dcu.id)) as outbox:
            waiting = outbox.forget(options.meter)
    rows = forget(config.store_directory, config.dcu.id, options.meter)
    told = f"{rows} rows deleted, {waiting} items that wait for the utility emptied"
    print(f"{options.meter}: {told}; the ledger forgets by headroom-ledger forget")
    return EXIT_OK


def date_of(text: str) -> date:
    """A day, for argparse."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a day as in 2026-11-21") from error


def _load(path: Path) -> DcuConfig:
    """The configuration; what it names by a relative path lies beside it."""
    return load_config(path, DcuConfig).beside(path.parent)


if __name__ == "__main__":
    sys.exit(main())
