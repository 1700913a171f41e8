"""`headroom-meter`: run, check-config, commission."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meter.config import MeterConfig
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.config import load_config

if TYPE_CHECKING:
    from meter.commission import Finding

EXAMPLE: Final = """examples:
  headroom-meter check-config /etc/headroom/meter.toml
  headroom-meter commission --config /etc/headroom/meter.toml --click
  headroom-meter run --config /etc/headroom/meter.toml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-meter",
        description="Smart meter with an export limit that the substation can raise for a while.",
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
    commission = commands.add_parser("commission", help="look at the EM330, and let the relay click once")
    commission.add_argument("--config", type=Path, required=True)
    commission.add_argument(
        "--click",
        action="store_true",
        help="energise the relay for half a second and read it back; the inverter has to be off",
    )
    commission.add_argument("--json", action="store_true")
    commission.set_defaults(command=_commission)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _run(options: argparse.Namespace) -> int:
    from meter.real import run_daemon  # noqa: PLC0415  # GPIO, threads and the serial port; not needed for --help

    return asyncio.run(run_daemon(load_config(options.config, MeterConfig), str(options.config)))


def _check(options: argparse.Namespace) -> int:
    config = load_config(options.file, MeterConfig)
    limits = f"{config.meter.nominal_limit_w:g} W nominal, {config.meter.contract_limit_w:g} W by contract"
    print(f"{options.file}: good; meter {config.meter.id}, {limits}")
    return EXIT_OK


def _commission(options: argparse.Namespace) -> int:
    findings = asyncio.run(_look(load_config(options.config, MeterConfig), click=options.click))
    if options.json:
        rows = [{"what": found.what, "seen": found.seen, "good": found.good} for found in findings]
        print(json.dumps(rows, indent=1))
    else:
        for found in findings:
            print(f"{found.what:28} {found.seen:40} {'' if found.good else '<-- not good'}".rstrip())
    return EXIT_OK if all(found.good for found in findings) else EXIT_FAILED


async def _look(config: MeterConfig, *, click: bool) -> list[Finding]:
    """Everything that can be seen of the devices; refuses while the daemon has them."""
    from meter.commission import click_relay, inspect_em330  # noqa: PLC0415  # only commissioning needs it
    from meter.guard import GuardedRelay  # noqa: PLC0415
    from meter.real import held  # noqa: PLC0415  # GPIO and lock; not needed for --help
    from shared.clock import LoopClock  # noqa: PLC0415
    from shared.modbus import ModbusAddress, PymodbusPort  # noqa: PLC0415

    with held(config.state_directory):
        registers = PymodbusPort(ModbusAddress.parse(config.em330.url))
        findings = await inspect_em330(config, registers, LoopClock())
        if click:
            relay = GuardedRelay(config.relay_settings)
            try:
                findings += await click_relay(relay)
            finally:
                relay.close()
    return findings


if __name__ == "__main__":
    sys.exit(main())
