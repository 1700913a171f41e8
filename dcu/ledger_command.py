"""`headroom-ledger`: verify, head, show, receipt, check-receipt, replay, forget, cosign, anchor, check-anchors."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dcu.ledger.audit import COSIGNED, Checked, check, first_changed, key_of, read_kept, verify_all
from dcu.ledger.entry import restore
from dcu.ledger.layout import LedgerError, Place, PublicCopy, current, ended
from dcu.ledger.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from dcu.ledger.note import Checkpoint, Verifier, open_checkpoint
from dcu.ledger.page import headline, html, words
from dcu.ledger.policy import NONE, Policy, Trusted, load_policy, trust
from dcu.ledger.proof import PROOF_BYTES_MAX
from dcu.ledger.receipt import check_receipt, make_receipt
from dcu.ledger.tiles import TileStore
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.errors import DecodeError

EXAMPLE: Final = """examples:
  headroom-ledger verify /var/lib/headroom-dcu
  headroom-ledger verify copy-of-public/ --policy policy.txt --from head-of-monday --to head-of-friday
  headroom-ledger show /var/lib/headroom-dcu --last 20
  headroom-ledger receipt /var/lib/headroom-dcu --decision 3.17 --meter meter-1 -o mine.tlog-proof --page mine.html
  headroom-ledger check-receipt mine.tlog-proof --policy policy.txt
  headroom-ledger replay /var/lib/headroom-dcu --config dcu.toml
  headroom-ledger cosign /var/lib/headroom-dcu --policy policy.txt --every 60
  headroom-ledger check-anchors copy-of-public/ --policy policy.txt --rpc URL --sender 0x... --contract 0x...
  headroom-ledger forget /var/lib/headroom-dcu dcu-1 meter-1

Where a DIRECTORY is asked for, the DCU's state directory, one of its ended-N or, for verify and check-anchors, a copy
of ledger/public will do.
"""
CHECKPOINT_BYTES_MAX: Final = 1 << 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-ledger",
        description="The DCU's ledger: verify it, read it, prove entries of it, decide them again.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _reading_parsers(commands)
    _receipt_parsers(commands)
    again = _command(commands, "replay", "make every recorded view and decision again, and compare", _replay)
    again.add_argument("--config", type=Path, required=True, help="the daemon's configuration, its model beside it")
    gone = _command(commands, "forget", "delete a customer's values beside the log; the DCU must not run", _forget)
    gone.add_argument("dcu", help="the DCU's id, as configured")
    gone.add_argument("meter", help="whose values")
    ask = _command(commands, "cosign", "ask the policy's witnesses to cosign the published head", _cosign)
    ask.add_argument("--policy", type=Path, required=True, help="witnesses with their addresses (C2SP tlog-policy)")
    ask.add_argument("--every", type=float, metavar="S", help="go on for ever, once in so many seconds")
    _chain_parsers(commands)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


def _command(commands: Any, name: str, text: str, function: Any, what: str = "directory") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(what, type=Path)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=function)
    return parser


def _trust_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--key", help="the log's key, as name+id+key")
    which.add_argument("--policy", type=Path, help="trusted logs, witnesses and quorum (C2SP tlog-policy)")


def _reading_parsers(commands: Any) -> None:
    verify = _command(commands, "verify", "verify every file of a log, or that one head follows another", _verify)
    _trust_options(verify)
    verify.add_argument("--from", dest="old", type=Path, metavar="HEAD", help="an earlier head that somebody kept")
    verify.add_argument("--to", dest="new", type=Path, metavar="HEAD", help="a later one; default: the published head")
    _command(commands, "head", "the log's key and its published head", _head)
    show = _command(commands, "show", "entries, one to a line", _show)
    show.add_argument("--position", type=_count, help="only this one")
    show.add_argument("--last", type=_count, help="only the last so many")
    show.add_argument("--kind", help="only of this kind")
    show.add_argument("--meter", help="only of this meter")


def _receipt_parsers(commands: Any) -> None:
    make = _command(commands, "receipt", "an entry with the proof that the log has it, in one file", _receipt)
    which = make.add_mutually_exclusive_group(required=True)
    which.add_argument("--position", type=_count)
    which.add_argument("--decision", metavar="EPOCH.SEQ", help="number of the decision, as messages carry it")
    make.add_argument("--meter", help="open this customer's values (and nobody else's)")
    make.add_argument("-o", "--output", type=Path, required=True, help="ends in .tlog-proof by custom")
    make.add_argument("--page", type=Path, help="write it as a page for the customer as well")
    make.add_argument("--policy", type=Path, help="what the page trusts; default: the log's own key")
    look = _command(commands, "check-receipt", "verify a receipt, offline", _check_receipt, "file")
    _trust_options(look)
    look.add_argument("--page", type=Path, help="write it as a page")


def _chain_parsers(commands: Any) -> None:
    for name, text, function in (
        ("anchor", "anchor the published head on an Ethereum-type chain (headroom[chain])", _anchor),
        ("check-anchors", "compare the log with the heads on a chain (headroom[chain])", _check_anchors),
    ):
        parser = _command(commands, name, text, function)
        parser.add_argument("--rpc", required=True, metavar="URL", help="a node's JSON-RPC address")
        parser.add_argument("--contract", metavar="ADDRESS", help="of the anchor contract; anchor makes one without it")
        who = parser.add_mutually_exclusive_group(required=True)
        who.add_argument(
            "--sender", metavar="ADDRESS", help="whose anchors; to make one, an account that the node holds"
        )
        who.add_argument("--key-file", type=Path, help="file with a private key in hexadecimal digits")
    _trust_options(parser)


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"seen {text}, expected a number from 0 on")
    return value


# ---- verify ----------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    place = _place(options.directory)
    policy = _policy(options, place)
    if options.old is not None or options.new is not None:
        return _verify_between(options, place, policy)
    if place == current(options.directory):
        return verify_ledger(
            options.directory, as_json=options.json, policy=policy if options.policy or options.key else None
        )
    last = check(place, None, _log_of(place, policy))
    return _tell_verdict(last, last.faults + ([] if last.faults else _short_of(place, policy)), [], options.json)


def verify_ledger(directory: Path, *, as_json: bool, policy: Policy | None = None) -> int:
    """Verify every file of a ledger, and its head against a policy; the command's exit code."""
    checked, faults, losses = verify_all(directory)
    if policy is not None and not faults:
        faults = _short_of(current(directory), policy)
    return _tell_verdict(checked[-1], faults, losses, as_json)


def _tell_verdict(last: Checked, faults: list[str], losses: list[str], as_json: object) -> int:
    if as_json:
        print(json.dumps(_verdict(last, faults, losses)))
    else:
        for loss in losses:
            print(f"earlier log: {loss}")
        more = f", {last.forgotten} parts forgotten" if last.forgotten else ""
        whose = f" of {last.dcu}" if last.dcu else ""
        verdict = "; ".join(faults) or "verified"
        print(f"{last.origin}: ledger{whose}, {last.size} entries{more}, head {last.root.hex()}: {verdict}")
    return EXIT_FAILED if faults else EXIT_OK


def _verdict(last: Checked, faults: list[str], losses: list[str]) -> dict[str, Any]:
    return {
        "dcu": last.dcu,
        "origin": last.origin,
        "entries": last.size,
        "head": last.root.hex(),
        "published": None if last.published is None else last.published.size,
        "forgotten": last.forgotten,
        "faults": faults,
        "losses": losses,
    }


def _short_of(place: Place, policy: Policy) -> list[str]:
    """What keeps the newest witnessed head from being trusted."""
    path = place.public / COSIGNED
    try:
        trust(path.read_bytes() if path.exists() else place.checkpoint.read_bytes(), policy)
    except DecodeError as error:
        return [str(error)]
    return []


def _verify_between(options: argparse.Namespace, place: Place, policy: Policy) -> int:
    """Whether the log leads from one head to another: neither forked, nor rolled back, nor rewritten.

    The log's own signature makes a head evidence, whoever else has signed it; the policy's quorum is asked of the
    witnessed head that lies beside the published one.
    """
    by_log = Policy(policy.logs, quorum=NONE)
    old = None if options.old is None else _read_head(options.old, by_log)
    new = _read_head(options.new or place.checkpoint, by_log)
    fault = _between(place, None if old is None else old.head, new.head)
    if fault is None and options.new is None and policy.quorum != NONE:
        fault = _unwitnessed(place, policy, new.head)
    result = {
        "from": None if old is None else old.head.size,
        "to": new.head.size,
        "origin": new.head.origin,
        "faults": [] if fault is None else [fault],
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['origin']}: from {result['from'] or 0} to {result['to']} entries: {fault or 'verified'}")
    return EXIT_OK if fault is None else EXIT_FAILED


def _unwitnessed(place: Place, policy: Policy, head: Checkpoint) -> str | None:
    """What keeps a log's witnessed head from being trusted, or from being one of the log."""
    for why in _short_of(place, policy):
        return why
    path = place.public / COSIGNED
    return _between(place, _read_head(path, policy).head, head) if path.exists() else None


def _between(place: Place, old: Checkpoint | None, new: Checkpoint) -> str | None:
    if old is not None and old.origin != new.origin:
        return f"heads of two logs, {old.origin} and {new.origin}"
    if old is not None and old.size > new.size:
        old, new = new, old
    if old is not None and old.size == new.size:
        return None if old.root == new.root else f"FORK: two signed heads of {new.size} entries with different roots"
    store = TileStore(place.public, new.size)
    try:
        if root_at(new.size, store.node) != new.root:
            return f"the log's first {new.size} entries are not those under the signed head: forked or rewritten"
        first = 0 if old is None else old.size
        proof = consistency_proof(first, new.size, store.node)
        if old is not None and not verify_consistency(first, new.size, proof, old.root, new.root):
            return f"FORK: the head of {new.size} entries does not follow from the signed head of {old.size}"
        return first_changed(store, new.root, first)
    except DecodeError as error:
        return f"{error}: the log is shorter than a signed head (truncated), or damaged"


def _read_head(path: Path, policy: Policy) -> Trusted:
    data = path.read_bytes()
    try:
        return trust(data[: CHECKPOINT_BYTES_MAX + 1], policy)
    except DecodeError as error:
        raise LedgerError(f"{path}: {error}") from error


def _place(directory: Path) -> Place:
    place = _log_in(directory)
    if place is not None:
        return place
    copy = PublicCopy(directory)
    if copy.checkpoint.is_file():
        return copy
    raise LedgerError(f"{directory}: no ledger there")


def _policy(options: argparse.Namespace, place: Place | None) -> Policy:
    """Whom to trust: what was said, else the key beside the log."""
    if options.policy is not None:
        return load_policy(options.policy)
    if options.key is not None:
        try:
            return Policy.of_log(Verifier.parse(options.key))
        except DecodeError as error:
            raise LedgerError(f"--key: {error}") from error
    if place is None or isinstance(place, PublicCopy):
        raise LedgerError("whom to trust? say --key or --policy")
    return Policy.of_log(key_of(place))


def _log_of(place: Place, policy: Policy) -> Verifier:
    """The policy's key for the log that lies there."""
    return _read_head(place.checkpoint, Policy(policy.logs, quorum=NONE)).log


# ---- head, show ------------------------------------------------------------------------------------------------------


def _head(options: argparse.Namespace) -> int:
    place = current(options.directory)
    key = key_of(place)
    head, _ = open_checkpoint(place.checkpoint.read_bytes(), key)
    if options.json:
        print(json.dumps({"key": key.vkey(), "origin": head.origin, "entries": head.size, "head": head.root.hex()}))
    else:
        print(f"log {key.vkey()}\n\n{place.checkpoint.read_text(encoding='utf-8')}", end="")
    return EXIT_OK


def _show(options: argparse.Namespace) -> int:
    place = _existing(options.directory)
    found: deque[tuple[int, bytes, dict[str, Any]]] = deque(maxlen=options.last)
    count = 0
    for position, (leaf, parts) in enumerate(read_kept(place)):
        count = position + 1
        if options.position not in {None, position}:
            continue
        entry = restore(leaf, parts)
        if options.kind in {None, entry.get("kind")} and options.meter in {None, entry.get("meter")}:
            found.append((position, leaf, entry))
    for position, _, entry in found:
        if options.json:
            print(json.dumps({"position": position, "entry": entry}, ensure_ascii=False))
        else:
            print(f"{position:>8}  {line_of(entry)}")
    faults = _doubts(place, [(position, leaf) for position, leaf, _ in found], count)
    if options.position is not None and options.position >= count and not faults:
        faults = [f"entry {options.position}: seen {count} entries, expected more than {options.position}"]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_FAILED if faults else EXIT_OK


def _doubts(place: Place, shown: list[tuple[int, bytes]], count: int) -> list[str]:
    """Why entries that were read may not be those of the log: each is looked for under the published head."""
    more = "; headroom-ledger verify says what is wrong"
    try:
        head, _ = open_checkpoint(place.checkpoint.read_bytes(), key_of(place))
        store = TileStore(place.public, head.size)
        for position, leaf in shown:
            if position >= head.size:
                break  # not published yet: a signed commit of the journal has it
            path = inclusion_proof(position, head.size, store.node)
            if not verify_inclusion(leaf_hash(leaf), position, head.size, path, head.root):
                return [f"entry {position} is not the one under the signed head of {head.size} entries: changed{more}"]
    except (DecodeError, OSError) as error:
        return [f"{place.public}: {error}: nothing vouches for these entries{more}"]
    return [f"seen {count} entries, expected {head.size}: the rest cannot be read{more}"] if count < head.size else []


def line_of(entry: dict[str, Any]) -> str:
    """An entry in one line."""
    seq = "" if entry.get("seq") is None else f"{entry.get('epoch')}.{entry['seq']}"
    shown = (
        "meter",
        "limit_w",
        "lease_s",
        "reason",
        "binding",
        "value",
        "window",
        "why",
        "number",
        "outcome",
        "refused",
    )
    said = {name: entry[name] for name in (*shown, "detail", "forgotten") if entry.get(name, "") not in ("", None)}
    if isinstance(order := entry.get("order"), dict):
        said["order"] = json.dumps(order, ensure_ascii=False)
    rest = " ".join(f"{name}={value}" for name, value in said.items())
    return f"{seq:>8}  {entry.get('kind', '?'):<17} {rest}"


def _existing(directory: Path) -> Place:
    place = _log_in(directory)
    if place is None:
        raise LedgerError(f"{directory}: no ledger there")
    return place


def _log_in(directory: Path) -> Place | None:
    """The log that is written in a state directory, or the ended one that the directory is."""
    for place in (current(directory), Place(directory)):
        if place.base.is_dir() and (place.base != directory or place.private.is_dir()):
            return place
    return None


# ---- receipts --------------------------------------------------------------------------------------------------------


def _receipt(options: argparse.Namespace) -> int:
    place = _existing(options.directory)
    key = key_of(place)
    position = options.position if options.decision is None else _position_of(place, options.decision)
    data = make_receipt(place, position, key, options.meter)
    policy = Policy.of_log(key) if options.policy is None else load_policy(options.policy)
    receipt = check_receipt(data, policy)  # what we hand out verifies
    if options.meter is not None and receipt.customer != options.meter:
        raise LedgerError(f"entry {position}: keeps no values of {options.meter} (another's entry, or forgotten)")
    options.output.write_bytes(data)
    if options.page is not None:
        options.page.write_text(html(receipt, data, _policy_text(options.policy, policy)), encoding="utf-8")
    if options.json:
        print(json.dumps({"position": position, "file": str(options.output), "bytes": len(data)}))
    else:
        print(f"{options.output}: entry {position} under the head of {receipt.trusted.head.size} entries")
    return EXIT_OK


def _position_of(place: Place, decision: str) -> int:
    """Where a decision stands; the newest log is searched."""
    epoch, _, seq = decision.partition(".")
    if not (epoch.isdecimal() and seq.isdecimal()):
        raise LedgerError(f"--decision: seen {decision!r}, expected epoch.seq such as 3.17")
    count = 0
    for position, (leaf, _) in enumerate(read_kept(place)):
        count = position + 1
        if b'"epoch":' + epoch.encode() in leaf and b'"seq":' + seq.encode() in leaf:
            entry = json.loads(leaf)
            if (entry.get("epoch"), entry.get("seq")) == (int(epoch), int(seq)):
                return position
    more = "".join(f", nor looked for in {one.base}" for one in ended(place.base.parent))
    raise LedgerError(f"decision {decision}: not among the {count} entries of {place.base} that can be read{more}")


def _policy_text(path: Path | None, policy: Policy) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    return "".join(f"log {log.vkey()}\n" for log in policy.logs) + "quorum none\n"


def _check_receipt(options: argparse.Namespace) -> int:
    policy = _policy(options, None)
    with options.file.open("rb") as file:
        data = file.read(PROOF_BYTES_MAX + 1)
    try:
        receipt = check_receipt(data, policy)
    except DecodeError as error:
        print(json.dumps({"verified": False, "why": str(error)}) if options.json else f"NOT VERIFIED: {error}")
        return EXIT_FAILED
    if options.page is not None:
        options.page.write_text(html(receipt, data, _policy_text(options.policy, policy)), encoding="utf-8")
    if options.json:
        trusted = receipt.trusted
        head = {"origin": trusted.head.origin, "entries": trusted.head.size, "cosigned_utc_s": trusted.cosigned_utc_s}
        found = {"position": receipt.position, "entry": receipt.entry, "closed": receipt.closed}
        print(json.dumps({"verified": True, **found, **head}, ensure_ascii=False))
    else:
        print(f"verified: {headline(receipt)}")
        print("\n".join(f"  {label}: {value}" for label, value in words(receipt)))
    return EXIT_OK


# ---- replay, forget, cosign ------------------------------------------------------------------------------------------


def _replay(options: argparse.Namespace) -> int:
    return replay_again(options.directory, options.config, as_json=options.json)


def replay_again(directory: Path, config: Path, *, as_json: bool) -> int:
    """Decide every recorded window again, say what differs; the command's exit code."""
    from dcu.config import DcuConfig  # noqa: PLC0415  # what follows loads NumPy, which only this command needs
    from dcu.site import replay_ledger  # noqa: PLC0415
    from shared.config import load_config  # noqa: PLC0415

    found = replay_ledger(load_config(config, DcuConfig).beside(config.parent), directory)
    if as_json:
        names = ("windows", "decisions", "unknown", "views", "unseen", "near")
        counts = {name: getattr(found, name) for name in names}
        print(json.dumps({**counts, "differences": found.differences}))
    else:
        wrong = found.differences
        nothing = "nothing to compare" if not found.windows else "all the same"
        verdict = nothing if not wrong else f"{len(wrong)} differ\n" + "\n".join(wrong[:20])
        unknown = f", {found.unknown} whose inputs were deleted" if found.unknown else ""
        unseen = f" ({found.unseen} not: their readings are not there)" if found.unseen else ""
        near = f", {found.near} of them but for a last digit" if found.near else ""
        views = f", {found.views} views made again{unseen}"
        print(f"{found.windows} windows, {found.decisions} decisions{views}{unknown}: {verdict}{near}")
    return EXIT_FAILED if found.differences else EXIT_OK


def _forget(options: argparse.Namespace) -> int:
    from dcu.ledger.forget import forget  # noqa: PLC0415

    found = forget(options.directory, options.dcu, options.meter)
    if options.json:
        print(json.dumps({"own": found.own, "shared": found.shared, "aside": found.aside}))
    else:
        nothing = "" if found.own or found.shared else "; this ledger keeps nothing of such a customer (any more)"
        print(f"{options.meter}: {found.own} parts deleted, {found.shared} that were everybody's with them{nothing}")
    return EXIT_OK


def _cosign(options: argparse.Namespace) -> int:
    from dcu.ledger.witness import cosign, post  # noqa: PLC0415

    place, policy = _existing(options.directory), load_policy(options.policy)
    while True:
        found = cosign(place, key_of(place), policy, post)
        if options.json:
            said = {"entries": found.head.size, "quorum": found.quorum, "cosigned_utc_s": found.signed}
            print(json.dumps({**said, "silent": found.silent, "alarms": found.alarms}), flush=True)
        else:
            told = [f"{name} ALARM {why}" for name, why in found.alarms.items()]
            told += [f"{name} silent ({why})" for name, why in found.silent.items()]
            told += [f"{name} signed" for name in found.signed]
            verdict = "witnessed" if found.quorum else "NOT witnessed"
            print(f"{found.head.origin}: {found.head.size} entries {verdict}; {'; '.join(told)}", flush=True)
        if options.every is None:
            return EXIT_OK if found.quorum else EXIT_FAILED
        time.sleep(options.every)


def _anchor(options: argparse.Namespace) -> int:
    from dcu.ledger.chain.anchor import Anchors, deploy  # noqa: PLC0415

    place = _existing(options.directory)
    head, _ = open_checkpoint(place.checkpoint.read_bytes(), key_of(place))
    node, sender = _chain(options)
    contract = options.contract or deploy(node, sender)
    block = Anchors(node, contract, head.origin).put(sender, head)
    if options.json:
        print(json.dumps({"contract": contract, "entries": head.size, "block": block, "sender": sender.address}))
    else:
        done = "already anchored" if block is None else f"anchored in block {block}"
        print(f"{head.origin}: {head.size} entries {done}, contract {contract}, sender {sender.address}")
    return EXIT_OK


def _check_anchors(options: argparse.Namespace) -> int:
    from dcu.ledger.chain.anchor import Anchors, check_anchors  # noqa: PLC0415

    if options.contract is None:
        raise LedgerError("--contract: which one?")
    place = _place(options.directory)
    key = _log_of(place, _policy(options, place))
    node, sender = _chain(options)
    anchors = Anchors(node, options.contract, key.name).all(sender.address)
    faults = check_anchors(place, key, anchors)
    if options.json:
        print(json.dumps({"anchors": len(anchors), "faults": faults}))
    else:
        print(f"{key.name}: {len(anchors)} heads on the chain: {'; '.join(faults) or 'verified'}")
    return EXIT_FAILED if faults or not anchors else EXIT_OK


def _chain(options: argparse.Namespace) -> tuple[Any, Any]:
    """Node and sender."""
    from dcu.ledger.chain.anchor import Sender, connect  # noqa: PLC0415

    node = connect(options.rpc)
    try:
        key = None if options.key_file is None else options.key_file.read_text(encoding="ascii").strip()
        return node, Sender(node, options.sender, key)
    except ValueError as error:
        raise LedgerError(f"sender: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
