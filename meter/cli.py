"""`headroom-meter`: run, check-config, commission."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from meter.config import MeterConfig
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.config import load_config

EXAMPLE: Final = """examples:
  headroom-meter check-config /etc/headroom/meter.toml
  headroom-meter commission --config /etc/headroom/meter.toml --click
  headroom-meter run --config /etc/headroom/meter.toml
"""
CLICK_S: Final = 1.0
"""[s] How long `commission --click` holds the relay."""


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
        "--click", action="store_true", help=f"energise the relay for {CLICK_S:g} s and read it back"
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
    config = load_config(options.config, MeterConfig)
    findings = asyncio.run(_look(config, click=options.click))
    if options.json:
        print(json.dumps(findings, indent=1))
    else:
        for what, seen in findings.items():
            print(f"{what:14} {seen}")
    return EXIT_OK if findings["good"] else EXIT_FAILED


async def _look(config: MeterConfig, *, click: bool) -> dict[str, Any]:
    from meter.relay import GpioRelay  # noqa: PLC0415  # only commissioning on the device needs pins here
    from shared.clock import LoopClock  # noqa: PLC0415
    from shared.em330 import Em330Reader, Identity  # noqa: PLC0415
    from shared.messages import Reading, RelayState  # noqa: PLC0415
    from shared.modbus import ModbusAddress, PymodbusPort  # noqa: PLC0415

    reader = Em330Reader(PymodbusPort(ModbusAddress.parse(config.em330.url)), config.em330_settings, LoopClock())
    try:
        reading = await reader.read()
    finally:
        await reader.close()
    identity = reader.identity
    findings: dict[str, Any] = {
        "em330": str(identity) if isinstance(identity, Identity) else "not identified",
        "reading": str(reading),
        "good": isinstance(reading, Reading),
    }
    if click:
        relay = GpioRelay(config.relay_settings)
        try:
            relay.raise_export()
            await asyncio.sleep(CLICK_S)
            raised = relay.read_back()
            relay.to_nominal()
            await asyncio.sleep(CLICK_S)
            nominal = relay.read_back()
        finally:
            relay.close()
        findings["relay"] = f"raised: {raised.name}, nominal: {nominal.name}"
        findings["good"] = findings["good"] and (raised, nominal) == (RelayState.RAISED, RelayState.NOMINAL)
    return findings


if __name__ == "__main__":
    sys.exit(main())
