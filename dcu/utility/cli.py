"""`headroom-utility`: the utility's own end. Keys, signed commands, and what a DCU says, over MQTT or by hand."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import datetime
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dcu.utility.broker import TlsFiles, parse_broker
from dcu.utility.certificates import Issued, issue, new_authority
from dcu.utility.commands import VALID_S_MAX, key_id, parse_order, sign
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.errors import DecodeError, DeviceError
from shared.secret_files import DiskFiles

EXAMPLE: Final = """examples:
  headroom-utility new-key command.key
  headroom-utility sign command.key --dcu substation-1 --order '{"kind": "revoke_all", "hold_s": 600}'
  headroom-utility send command.key --dcu substation-1 --url mqtts://broker.example --files tls/utility \\
      --order '{"kind": "set_nominal_limits", "limits": {"meter-1": 800}}'
  headroom-utility send command.key --dcu substation-1 --url mqtts://broker.example --files tls/utility \\
      --order '{"kind": "tell_again", "position": 4711, "count": 20}'
  headroom-utility listen --url mqtts://broker.example --files tls/utility
  headroom-utility certificates tls --broker broker.example --for substation-1 --for utility

A command is numbered by the clock (milliseconds), so that each is higher than the one before; --number gives another.
`certificates` makes a bench's own authority; a utility that has one uses that. Keys are printed nowhere.
"""
VALID_S: Final = 600
ANSWER_S: Final = 30.0
KEY_BYTES: Final = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-utility",
        description="Commands DCUs and listens to them, from the utility's side.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    new = _command(commands, "new-key", "make a key that signs commands; prints its public half", _new_key)
    new.add_argument("key", type=Path)
    for name, text, run in (
        ("sign", "write a signed command to standard output", _sign),
        ("send", "sign a command, send it, and wait for its answers", _send),
    ):
        one = _command(commands, name, text, run)
        one.add_argument("key", type=Path, help="what new-key has made")
        one.add_argument("--dcu", required=True)
        one.add_argument("--order", required=True, help="JSON; docs/utility.md has all of them")
        one.add_argument("--number", type=_positive, help="default: milliseconds of the clock")
        one.add_argument(
            "--valid-s", type=_positive, default=VALID_S, help=f"expires after so long (default {VALID_S})"
        )
        if name == "send":
            _broker_options(one)
            one.add_argument("--wait-s", type=float, default=ANSWER_S, help="for the last answer")
    _broker_options(_command(commands, "listen", "print every item of every DCU, one to a line", _listen))
    make = _command(commands, "certificates", "make a bench's authority and certificates", _certificates)
    make.add_argument("directory", type=Path)
    make.add_argument("--broker", action="append", required=True, metavar="HOST", help="names the broker is reached by")
    make.add_argument("--for", dest="names", action="append", default=[], metavar="NAME", help="a DCU, or utility")
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=run)
    return parser


def _broker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="mqtts://host[:port]")
    parser.add_argument(
        "--files", type=Path, help="certificate and key: FILES.crt and FILES.key, and ca.crt beside them"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"seen {value}, expected more than 0")
    return value


# ---- keys and certificates -------------------------------------------------------------------------------------------


def _new_key(options: argparse.Namespace) -> int:
    if options.key.exists():
        raise DeviceError(f"{options.key}: exists; keys replace no file")
    key = Ed25519PrivateKey.generate()
    DiskFiles().replace(options.key, base64.b64encode(key.private_bytes_raw()) + b"\n")
    public = key.public_key().public_bytes_raw()
    told = {"id": key_id(public), "public": base64.b64encode(public).decode()}
    print(json.dumps(told) if options.json else f'{told["id"]}: command_keys = ["{told["public"]}"]')
    return EXIT_OK


def load_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file.

    Raises:
        DecodeError: no key; says nothing of what is there.
    """
    data = path.read_bytes()[:256]
    seed = b""
    with contextlib.suppress(ValueError):
        seed = base64.b64decode(data.strip(), validate=True)
    if len(seed) != KEY_BYTES:
        raise DecodeError(f"{path}: seen no key, expected what headroom-utility new-key has made")
    return Ed25519PrivateKey.from_private_bytes(seed)


def _certificates(options: argparse.Namespace) -> int:
    directory: Path = options.directory
    now = datetime.datetime.now(datetime.UTC)
    files = DiskFiles()
    ca, ca_key = directory / "ca.crt", directory / "ca.key"
    if ca.exists() != ca_key.exists():
        raise DeviceError(f"{directory}: ca.crt or ca.key is missing")
    made = []
    if not ca.exists():
        authority = new_authority("Headroom bench", now)
        files.replace(ca_key, authority.key)
        files.replace(ca, authority.certificate)
        made.append("ca")
    else:
        authority = Issued(ca.read_bytes(), ca_key.read_bytes())
    for name, hosts in [("broker", tuple(options.broker)), *((name, ()) for name in options.names)]:
        if (directory / f"{name}.crt").exists():
            continue
        issued = issue(authority, name, now, hosts)
        files.replace(directory / f"{name}.key", issued.key)
        files.replace(directory / f"{name}.crt", issued.certificate)
        made.append(name)
    print(json.dumps({"made": made}) if options.json else f"{directory}: made {', '.join(made) or 'nothing'}")
    return EXIT_OK


# ---- commands --------------------------------------------------------------------------------------------------------


def _signed(options: argparse.Namespace) -> bytes:
    """The command that the options ask for; refused here if the DCU would not read it."""
    try:
        order = json.loads(options.order)
    except ValueError as error:
        raise DecodeError(f"--order: seen {options.order[:60]!r}, expected JSON: {error}") from error
    parse_order(order)
    if options.valid_s > VALID_S_MAX:
        raise DecodeError(f"--valid-s: seen {options.valid_s}, expected at most {VALID_S_MAX}")
    now_s = time.time()
    content = {
        "version": 1,
        "dcu": options.dcu,
        "number": options.number or int(1000 * now_s),
        "issued_utc_s": int(now_s),
        "expires_utc_s": int(now_s) + options.valid_s,
        "order": order,
    }
    return sign(content, load_key(options.key))


def _sign(options: argparse.Namespace) -> int:
    sys.stdout.write(_signed(options).decode() + "\n")
    return EXIT_OK


def _send(options: argparse.Namespace) -> int:
    from dcu.utility.ear import send  # noqa: PLC0415  # MQTT, only where it is needed

    payload = _signed(options)
    address, files = parse_broker(options.url), _files(options.files)
    outcome = "no answer"
    for item in asyncio.run(send(address, files, options.dcu, payload, options.wait_s)):
        outcome = item["outcome"]
        print(json.dumps(item) if options.json else _words(item))
    if outcome == "no answer":
        print("no answer yet; the broker keeps the command until the DCU is back or it expires", file=sys.stderr)
    return EXIT_OK if outcome == "done" else EXIT_FAILED


def _words(item: dict[str, Any]) -> str:
    more = [str(item[key]) for key in ("reason", "detail") if item.get(key)]
    return f"{item['number']}: {': '.join([item['outcome'], *more])}"


def _listen(options: argparse.Namespace) -> int:
    from dcu.utility.ear import listen  # noqa: PLC0415  # the same

    def tell(topic: str, item: dict[str, Any]) -> None:
        print(json.dumps({"topic": topic, **item}), flush=True)

    asyncio.run(listen(parse_broker(options.url), _files(options.files), tell))
    return EXIT_OK


def _files(name: Path | None) -> TlsFiles | None:
    if name is None:
        return None
    return TlsFiles(name.parent / "ca.crt", name.with_name(f"{name.name}.crt"), name.with_name(f"{name.name}.key"))


if __name__ == "__main__":
    sys.exit(main())
