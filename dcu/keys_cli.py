"""`headroom-keys`: make, export, rotate, revoke, acknowledge, list. No key is ever printed."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from dcu.keys import KeyRing, load_ring, locked, new_ring, save_ring
from shared.cli import EXIT_OK, run_cli
from shared.errors import DecodeError, DeviceError
from shared.ids import Eui48, MeterId, format_eui48, parse_eui48
from shared.keys import METER_NAME, client_file, meter_content
from shared.secret_files import save_secret

EXAMPLE: Final = """examples:
  headroom-keys make /etc/headroom/keys.json --config /etc/headroom/dcu.toml
  headroom-keys make keys.json --dcu 02:48:44:52:00:01 --meter meter-1=02:48:44:52:01:01
  headroom-keys export keys.json meter-1 --out meter-1.key
  headroom-keys export keys.json meter-1 --client --out reading-tool.key
  headroom-keys rotate keys.json meter-1
  headroom-keys rotate keys.json --group
  headroom-keys revoke keys.json meter-1
  headroom-keys acknowledge keys.json meter-1
  headroom-keys list keys.json --json

Keys are written to files that only their owner can read, and printed nowhere. Carry a meter's file to its meter, and
remove the copy. A running DCU takes up changes by itself and brings rotated keys to the meters over the power line,
wrapped under each meter's master key. Master keys, and those of reading tools, change on site only: revoke, make,
export, and carry. To revoke a meter changes the street's group keys, which that meter knows, for all the others.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-keys",
        description="Makes, carries, changes and withdraws the keys of a street's meters.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    make = _command(commands, "make", "make keys for meters that have none", _make)
    make.add_argument(
        "--meter", dest="meters", action="append", default=[], metavar="NAME=EUI48", help="a meter; may be repeated"
    )
    make.add_argument("--config", type=Path, help="take DCU and meters from a DCU's configuration")
    make.add_argument("--dcu", metavar="EUI48", help="address of the DCU, for a new file without --config")
    export = _command(commands, "export", "write the file that is carried to a meter", _export)
    export.add_argument("meter")
    export.add_argument("--out", type=Path, required=True, help="the new file; an existing one is not replaced")
    export.add_argument("--client", action="store_true", help="what a reading tool needs for this meter, instead")
    rotate = _command(commands, "rotate", "new keys; the DCU brings them to the meter, or to all", _rotate)
    whose = rotate.add_mutually_exclusive_group(required=True)
    whose.add_argument("meter", nargs="?")
    whose.add_argument("--group", action="store_true", help="the street's group keys, for every meter not revoked")
    revoke = _command(commands, "revoke", "shut meters out, and change the group keys for the others", _revoke)
    revoke.add_argument("meters", nargs="+", metavar="meter")
    acknowledge = _command(commands, "acknowledge", "the alarm that a meter's keys were used elsewhere", _acknowledge)
    acknowledge.add_argument("meter")
    _command(commands, "list", "which meters have keys", _list)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("keys", type=Path, help="the street's file of keys")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=run)
    return parser


def _make(options: argparse.Namespace) -> int:
    dcu, meters = _wanted(options)
    if not meters:
        raise DeviceError("no meters: name them by --meter NAME=EUI48, or all by --config")
    path: Path = options.keys
    _ring_to_be(path, dcu).made(meters, secrets.token_bytes)  # what is refused leaves no lock and no directory behind
    with locked(path):
        ring = _ring_to_be(path, dcu)
        made = ring.made(meters, secrets.token_bytes)
        save_ring(path, made)
    new = [meter for meter in meters if made.meters[meter] is not ring.meters.get(meter)]
    return _told(options, {"made": new, "meters": len(made.meters)}, f"{len(new)} new of {len(made.meters)} meters")


def _ring_to_be(path: Path, dcu: Eui48 | None) -> KeyRing:
    """The keys that are there, or those of a new street."""
    if path.exists():
        ring = load_ring(path)
        if dcu is not None and dcu != ring.eui48:
            raise DeviceError(f"{path}: keys of DCU {format_eui48(ring.eui48)}, asked for {format_eui48(dcu)}")
        return ring
    if dcu is None:
        raise DeviceError(f"{path}: a new file needs the DCU's address, by --dcu or --config")
    return new_ring(dcu, secrets.token_bytes)


def _wanted(options: argparse.Namespace) -> tuple[Eui48 | None, dict[MeterId, Eui48]]:
    """Address of the DCU, and the meters that shall have keys."""
    dcu = None if options.dcu is None else parse_eui48(options.dcu)
    meters: dict[MeterId, Eui48] = {}
    if options.config is not None:
        from dcu.config import DcuConfig  # noqa: PLC0415  # pulls in the engine
        from shared.config import load_config  # noqa: PLC0415

        config = load_config(options.config, DcuConfig)
        configured = parse_eui48(config.dcu.eui48)
        if dcu not in {None, configured}:
            raise DeviceError(
                f"--dcu: seen {options.dcu}, expected {format_eui48(configured)} as {options.config} says"
            )
        dcu = configured
        meters |= {entry.id: entry.eui48 for entry in config.entries}
    for text in options.meters:
        name, _, address = text.partition("=")
        if not METER_NAME.fullmatch(name):
            raise DecodeError(f"meter: seen {text!r}, expected a name such as meter-1=02:48:44:52:01:01")
        eui48 = parse_eui48(address)
        if meters.setdefault(MeterId(name), eui48) != eui48:
            raise DeviceError(f"{name}: seen {address}, {format_eui48(meters[MeterId(name)])} before")
    return dcu, meters


def _export(options: argparse.Namespace) -> int:
    keys = load_ring(options.keys).exported(MeterId(options.meter))
    if os.path.lexists(options.out):
        raise DeviceError(f"{options.out}: exists; keys replace no file")
    if not options.out.parent.is_dir():
        raise DeviceError(f"{options.out.parent}: no such directory (is the stick mounted?); none is made for keys")
    save_secret(options.out, client_file(keys) if options.client else meter_content(keys))
    what = "reading tool" if options.client else "meter"
    words = f"{options.out}: keys of {keys.meter} for its {what}, generation {keys.generation}"
    return _told(options, {"meter": keys.meter, "file": str(options.out), "generation": keys.generation}, words)


def _rotate(options: argparse.Namespace) -> int:
    if options.group:
        group = _change(options.keys, lambda ring: ring.regrouped(secrets.token_bytes)).group.generation
        words = f"group keys: generation {group}; a running DCU brings them to every meter that is not revoked"
        return _told(options, {"group_generation": group}, words)
    ring = _change(options.keys, lambda ring: ring.rotated(MeterId(options.meter), secrets.token_bytes))
    generation = ring.meters[MeterId(options.meter)].generation
    words = f"{options.meter}: generation {generation}; a running DCU brings it to the meter"
    return _told(options, {"meter": options.meter, "generation": generation}, words)


def _revoke(options: argparse.Namespace) -> int:
    meters = [MeterId(name) for name in options.meters]
    group = _change(options.keys, lambda ring: ring.without(meters, secrets.token_bytes)).group.generation
    told = f"group keys: generation {group}, which no revoked meter has; a running DCU brings them to the others"
    words = "\n".join([*(f"{meter}: revoked" for meter in meters), told])
    return _told(options, {"meters": meters, "revoked": True, "group_generation": group}, words)


def _acknowledge(options: argparse.Namespace) -> int:
    ring = _change(options.keys, lambda ring: ring.acknowledged(MeterId(options.meter)))
    number = ring.meters[MeterId(options.meter)].acknowledged
    words = f"{options.meter}: alarm acknowledged, {number} so far; a running DCU ends it and records that"
    return _told(options, {"meter": options.meter, "acknowledged": number}, words)


def _change(path: Path, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
    change(load_ring(path))  # what is refused leaves no lock behind
    with locked(path):
        ring = change(load_ring(path))
        save_ring(path, ring)
    return ring


def _list(options: argparse.Namespace) -> int:
    ring = load_ring(options.keys)
    rows = [
        {"meter": name, "eui48": format_eui48(entry.eui48), "generation": entry.generation, "revoked": entry.revoked}
        for name, entry in ring.meters.items()
    ]
    words = [f"DCU {format_eui48(ring.eui48)}  group keys of generation {ring.group.generation}"]
    for row in rows:
        state = "revoked" if row["revoked"] else f"generation {row['generation']}"
        words.append(f"{row['meter']:16} {row['eui48']}  {state}")
    found = {"dcu": format_eui48(ring.eui48), "group_generation": ring.group.generation, "meters": rows}
    return _told(options, found, "\n".join(words))


def _told(options: argparse.Namespace, found: dict[str, Any], words: str) -> int:
    print(json.dumps(found) if options.json else words)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
