"""`headroom-plc`: trace, survey."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from prime_plc.survey import Survey
from prime_plc.trace import CAPTURE_BYTES_MAX, Format, Told, as_pcap, read_capture, tell
from prime_plc.tree_picture import picture
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.errors import ConfigError, Fault
from shared.ids import parse_eui48
from shared.status_socket import ask

EXAMPLE: Final = """examples:
  headroom-plc trace capture.hex
  headroom-plc trace --format serial port.bin --json
  headroom-plc trace port.bin --pcap port.pcap
  headroom-plc survey --config /etc/headroom/dcu.toml --svg tree.svg
  cat capture.hex | headroom-plc trace --sna 40:40:22:01:C7:9A -

A capture is text with one PDU in hex on each line (a time in front and # comments are allowed), or the bytes of the
modem's serial port (protocol 22h, or the sniffer's 13h), or a pcap file that --pcap has written (link type 147).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-plc",
        description="PRIME power-line tools.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    trace = commands.add_parser(
        "trace", help="print a capture in words", epilog=EXAMPLE, formatter_class=parser.formatter_class
    )
    trace.add_argument("file", help="the capture; - for standard input")
    trace.add_argument("--format", choices=[kind.value for kind in Format], default=Format.AUTO.value)
    trace.add_argument("--sna", help="subnetwork address, if no beacon is in the capture")
    trace.add_argument("--json", action="store_true", help="one JSON object a line")
    trace.add_argument("--pcap", type=Path, metavar="FILE", help="also write the frames there, for other analysers")
    trace.set_defaults(command=_trace)
    survey = commands.add_parser("survey", help="the tree of nodes and switches of a running DCU, and its links")
    where = survey.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path, help="the DCU's configuration")
    where.add_argument("--socket", type=Path, help="its status socket")
    where.add_argument("--status", metavar="FILE", help="a status it has printed as JSON; - for standard input")
    survey.add_argument("--svg", type=Path, metavar="FILE", help="also draw the tree there")
    survey.add_argument("--json", action="store_true", help="print everything as JSON")
    survey.set_defaults(command=_survey)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _trace(options: argparse.Namespace) -> int:
    sna = None if options.sna is None else parse_eui48(options.sna)
    raws = list(read_capture(_read(options.file), Format(options.format)))
    if options.pcap is not None:
        written, count = as_pcap(raws)
        options.pcap.write_bytes(written)
        print(f"{options.pcap}: {count} frames of {len(raws)}", file=sys.stderr)
    good = bad = 0
    for told in tell(raws, sna):
        print(json.dumps(told.as_json()) if options.json else _line(told))
        good += told.fault is None
        bad += told.fault is not None
    print(f"{good} frames decoded, {bad} not", file=sys.stderr)
    return EXIT_FAILED if bad else EXIT_OK


def _survey(options: argparse.Namespace) -> int:
    survey = Survey.of(_status(options).get("plc") or {})
    if options.svg is not None:
        options.svg.write_text(picture(survey), encoding="utf-8")
    print(json.dumps(survey.as_json(), indent=1) if options.json else survey.table())
    return EXIT_OK


def _status(options: argparse.Namespace) -> dict[str, Any]:
    """The DCU's own status; this room knows of its configuration only where to ask."""
    if options.status is None:
        return ask(options.socket or _socket(options.config), "DCU")
    try:
        found = json.loads(_read(options.status))
    except (ValueError, RecursionError) as error:
        raise ConfigError(options.status, [Fault("status", str(error)[:80], "JSON of headroom-dcu status")]) from error
    if not isinstance(found, dict):
        raise ConfigError(options.status, [Fault("status", type(found).__name__, "an object")])
    return found


def _socket(config: Path) -> Path:
    try:
        found = tomllib.loads(config.read_text(encoding="utf-8"))["status"]["socket"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(str(config), [Fault("status.socket", str(error)[:80], "a path")]) from error
    return Path(str(found))


def _read(name: str) -> bytes:
    if name == "-":
        data = sys.stdin.buffer.read(CAPTURE_BYTES_MAX + 1)
    else:
        with Path(name).open("rb") as file:
            data = file.read(CAPTURE_BYTES_MAX + 1)
    if not data.strip():
        raise ConfigError(name, [Fault("capture", "nothing", "hex lines, serial bytes or the like")])
    if len(data) > CAPTURE_BYTES_MAX:
        raise ConfigError(name, [Fault("capture", f"more than {CAPTURE_BYTES_MAX} bytes", "less")])
    return data


def _line(told: Told) -> str:
    head = " ".join(word for word in (told.raw.where, told.raw.time, told.raw.way) if word)
    return f"{head}: {'BAD ' if told.fault is not None else ''}{told.words}"


if __name__ == "__main__":
    sys.exit(main())
