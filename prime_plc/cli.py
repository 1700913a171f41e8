"""`headroom-plc`: trace, survey, ping, pib."""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from prime_plc.phy import PhyMode
from prime_plc.survey import Survey, trip_words
from prime_plc.telling import Told, tell
from prime_plc.trace import CAPTURE_BYTES_MAX, Format, Raw, as_pcap, read_capture, read_tap
from prime_plc.tree_picture import picture
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.errors import ConfigError, DecodeError, DeviceError, Fault
from shared.ids import format_eui48, parse_eui48
from shared.status_socket import PIB, PING, TRACE, ask

FRAME_TYPES: Final = {"A": PhyMode.TYPE_A, "B": PhyMode.TYPE_B, "BC": PhyMode.TYPE_BC}
PINGS_MAX: Final = 1000
ATTRIBUTE_MAX: Final = 0xFFFF
PAUSE_S: Final = 0.3
BUSY_MAX: Final = 100
"""So often a busy DCU is asked for the same ping again."""

EXAMPLE: Final = """examples:
  headroom-plc trace capture.hex
  headroom-plc trace --format serial port.bin --json
  headroom-plc trace port.bin --pcap port.pcap
  headroom-plc trace --config /etc/headroom/dcu.toml --pcap now.pcap
  headroom-plc survey --config /etc/headroom/dcu.toml --svg tree.svg
  headroom-plc survey --config /etc/headroom/dcu.toml --ping 3
  headroom-plc ping AA:BB:CC:00:00:01 --status-socket /run/headroom-dcu/status.sock
  headroom-plc pib --config /etc/headroom/dcu.toml 0x0023 0x0050
  cat capture.hex | headroom-plc trace --sna 40:40:22:01:C7:9A -

A capture is text with one PDU in hex on each line (a time in front and # comments are allowed), or the bytes of the
modem's serial port (protocol 22h, or the sniffer's 13h), or a pcap file that --pcap has written (link type 147). A
running DCU keeps the last 256 KiB of its port.
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
    trace.add_argument("file", nargs="?", help="the capture; - for standard input")
    _running(trace, required=False)
    trace.add_argument("--format", choices=[kind.value for kind in Format], default=Format.AUTO.value)
    trace.add_argument(
        "--frame-type",
        choices=FRAME_TYPES,
        default="A",
        help="of hex lines, which do not say it: A (v1.3.6), B, BC (v1.4)",
    )
    trace.add_argument("--sna", help="subnetwork address, if no beacon is in the capture")
    trace.add_argument("--json", action="store_true", help="one JSON object a line")
    trace.add_argument("--pcap", type=Path, metavar="FILE", help="also write the frames there, for other analysers")
    trace.set_defaults(command=_trace)
    survey = commands.add_parser("survey", help="the tree of nodes and switches of a running DCU, and its links")
    where = _running(survey)
    where.add_argument("--status", metavar="FILE", help="a status it has printed as JSON; - for standard input")
    survey.add_argument("--svg", type=Path, metavar="FILE", help="also draw the tree there")
    survey.add_argument("--json", action="store_true", help="print everything as JSON")
    survey.add_argument("--ping", type=_count, default=0, metavar="N", help="also ping every node so many times")
    survey.set_defaults(command=_survey)
    ping = commands.add_parser("ping", help="round trip from a running DCU to one node, over all switches between")
    ping.add_argument("eui48", type=_eui48, help="the node's address")
    _running(ping)
    ping.add_argument("--count", type=_count, default=4, metavar="N", help="how many (4), one a second")
    ping.add_argument("--json", action="store_true", help="one JSON object a line")
    ping.set_defaults(command=_ping)
    pib = commands.add_parser("pib", help="attributes of a running DCU's MAC by their numbers, as bytes")
    _running(pib)
    pib.add_argument("numbers", nargs="*", type=_attribute, metavar="NUMBER", help="as 0x0023 (all)")
    pib.add_argument("--json", action="store_true", help="print them as JSON")
    pib.set_defaults(command=_pib)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _running(parser: argparse.ArgumentParser, *, required: bool = True) -> argparse._MutuallyExclusiveGroup:
    """Where the DCU is asked."""
    where = parser.add_mutually_exclusive_group(required=required)
    where.add_argument("--config", type=Path, help="the DCU's configuration")
    where.add_argument("--status-socket", "--socket", dest="socket", type=Path, help="its status socket")
    return where


def _eui48(text: str) -> str:
    try:
        return format_eui48(parse_eui48(text))
    except DecodeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _attribute(text: str) -> str:
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number <= ATTRIBUTE_MAX:
        raise argparse.ArgumentTypeError(f"seen {text!r}, expected a number such as 0x0023")
    return f"0x{number:04X}"


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= PINGS_MAX):
        raise argparse.ArgumentTypeError(f"seen {text!r}, expected 1 to {PINGS_MAX}")
    return int(text)


def _trace(options: argparse.Namespace) -> int:
    sna = None if options.sna is None else parse_eui48(options.sna)
    raws = _captured(options)
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


def _captured(options: argparse.Namespace) -> list[Raw]:
    """Every frame of a file, or of what a running DCU has kept."""
    running = options.config is not None or options.socket is not None
    if running == (options.file is not None):
        seen = "both" if running else "neither"
        raise ConfigError("trace", [Fault("capture", seen, "a file, or a running DCU by --config or --status-socket")])
    if not running:
        return list(read_capture(_read(options.file), Format(options.format), FRAME_TYPES[options.frame_type]))
    path = options.socket or _socket(options.config)
    kept = ask(path, "DCU", TRACE).get("serial")
    try:
        chunks = [(float(utc_s), str(way), bytes.fromhex(data)) for utc_s, way, data in kept or ()]
    except (TypeError, ValueError) as error:
        raise DeviceError(f"{path}: expected the bytes of a serial port ({error})") from error
    if not chunks:
        raise DeviceError(f"{path}: seen no bytes of a serial port (an older DCU, or no modem?)")
    return list(read_tap(chunks))


def _survey(options: argparse.Namespace) -> int:
    survey = Survey.of(_status(options).get("plc") or {})
    if options.ping:
        if options.status is not None:
            raise ConfigError("--ping", [Fault("--status", options.status, "a running DCU")])
        path = options.socket or _socket(options.config)
        survey = survey.with_trips({one.eui48: _trips(path, one.eui48, options.ping) for one in survey.nodes})
    if options.svg is not None:
        options.svg.write_text(picture(survey), encoding="utf-8")
    print(json.dumps(survey.as_json(), indent=1) if options.json else survey.table())
    return EXIT_OK


def _ping(options: argparse.Namespace) -> int:
    path = options.socket or _socket(options.config)
    trips_s: list[float | None] = []
    for told in _pings(path, options.eui48, options.count):
        trips_s.append(told["round_trip_s"])
        trip = "" if told["round_trip_s"] is None else f" after {1000 * told['round_trip_s']:.0f} ms"
        print(json.dumps(told) if options.json else f"{options.eui48}: {told['result']}{trip}", flush=True)
    if not options.json:
        print(trip_words(trips_s))
    return EXIT_OK if any(trip_s is not None for trip_s in trips_s) else EXIT_FAILED


def _pib(options: argparse.Namespace) -> int:
    path = options.socket or _socket(options.config)
    found = ask(path, "DCU", PIB).get("pib")
    if not isinstance(found, dict):
        raise DeviceError(f"{path}: expected the attributes of a MAC (an older DCU?)")
    missing = [number for number in options.numbers if number not in found]
    shown = {number: value for number, value in found.items() if not options.numbers or number in options.numbers}
    print(json.dumps(shown, indent=1) if options.json else "\n".join(f"{key} {value}" for key, value in shown.items()))
    if missing:
        print(f"{path}: no attribute {', '.join(missing)}", file=sys.stderr)
    return EXIT_FAILED if missing else EXIT_OK


def _trips(path: Path, eui48: str, count: int) -> list[float | None]:
    return [told["round_trip_s"] for told in _pings(path, eui48, count)]


def _pings(path: Path, eui48: str, count: int) -> Iterator[dict[str, Any]]:
    """What became of some pings; a DCU that is just busy with one is asked again."""
    for _ in range(count):
        for _again in range(BUSY_MAX):
            told = ask(path, "DCU", f"{PING} {eui48}")
            if not told.get("refused"):
                break
            time.sleep(PAUSE_S)
        if "round_trip_s" not in told:
            raise DeviceError(f"{path}: seen {str(told)[:80]}, expected the answer to a ping (an older DCU?)")
        yield told


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
