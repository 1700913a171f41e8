"""Anchoring published heads in a contract on an Ethereum-type chain, for consortia that run one (`headroom[chain]`).

Off unless its command is run. The log's format does not know of it: what is anchored is the SHA-256 of a checkpoint's
text, under the SHA-256 of its origin. ``anchor.vy`` is the contract's source, ``anchor.json`` what the compiler made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from dcu.ledger.layout import Place
from dcu.ledger.merkle import root_at
from dcu.ledger.note import Checkpoint, Verifier, open_checkpoint
from dcu.ledger.tiles import TileStore
from shared.errors import ConfigError, DecodeError, DeviceError, Fault

RECEIPT_S_MAX: Final = 120.0
"""[s] So long may a chain take to include a transaction."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A head that the chain has: how many entries, hash of its text, and the block."""

    size: int
    digest: bytes
    block: int


def digest_of(head: Checkpoint) -> bytes:
    """What is anchored of a head."""
    return hashlib.sha256(head.text().encode()).digest()


def origin_digest(origin: str) -> bytes:
    """What names a log in the contract."""
    return hashlib.sha256(origin.encode()).digest()


def connect(url: str) -> Any:
    """A connection to a node.

    Raises:
        ConfigError: web3 is not installed.
        DeviceError: nobody answers there.
    """
    try:
        from web3 import HTTPProvider, Web3  # noqa: PLC0415  # an optional package
    except ImportError as error:
        raise ConfigError("chain", [Fault("web3", "not installed", "pip install 'headroom[chain]'")]) from error
    node = Web3(HTTPProvider(url))
    if not node.is_connected():
        raise DeviceError(f"{url}: no Ethereum node answers")
    return node


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Whatever goes wrong is the chain's: the library's exceptions have no common base."""
    try:
        yield
    except Exception as error:
        raise DeviceError(f"chain: {type(error).__name__}: {error}") from error


class Sender:
    """Who pays for transactions: a key of ours, or an account that the node holds."""

    def __init__(self, node: Any, address: str | None = None, key: str | None = None) -> None:
        assert (address is None) != (key is None), "one of both"
        self._node = node
        self._account = None if key is None else node.eth.account.from_key(key)
        self.address = node.to_checksum_address(address) if self._account is None else self._account.address

    def send(self, call: Any) -> Any:
        """The receipt of a transaction, once it is in a block.

        Raises:
            DeviceError: the chain refused it, or did not include it in time.
        """
        with _asking():
            if self._account is None:
                sent = call.transact({"from": self.address})
            else:
                nonce = self._node.eth.get_transaction_count(self.address, "pending")
                fields = {"from": self.address, "nonce": nonce, "chainId": self._node.eth.chain_id}
                signed = self._account.sign_transaction(call.build_transaction(fields))
                sent = self._node.eth.send_raw_transaction(signed.raw_transaction)
            receipt = self._node.eth.wait_for_transaction_receipt(sent, timeout=RECEIPT_S_MAX)
        if receipt["status"] != 1:
            raise DeviceError(f"chain: transaction {sent.to_0x_hex()} was reverted")
        return receipt


def deploy(node: Any, sender: Sender) -> str:
    """The address of a new contract."""
    made = _made()
    contract = node.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
    return str(sender.send(contract.constructor())["contractAddress"])


class Anchors:
    """The heads of one log in a contract.

    Raises:
        DeviceError: no such contract, or the node does not answer; so from every method.
    """

    def __init__(self, node: Any, contract: str, origin: str) -> None:
        with _asking():
            self._contract = node.eth.contract(address=node.to_checksum_address(contract), abi=_made()["abi"])
        self._origin = origin_digest(origin)

    def newest(self, sender: str) -> int:
        """Size of a sender's newest head; 0 if there is none."""
        with _asking():
            return int(self._contract.functions.sizes(sender, self._origin).call())

    def put(self, sender: Sender, head: Checkpoint) -> int | None:
        """Anchor a head; the block, or None if the chain has it or a larger one.

        Raises:
            DeviceError: the chain refuses.
        """
        if head.size <= self.newest(sender.address):
            return None
        return int(
            sender.send(self._contract.functions.anchor(self._origin, head.size, digest_of(head)))["blockNumber"]
        )

    def all(self, sender: str) -> list[Anchor]:
        """Every head a sender has anchored, oldest first."""
        self.newest(sender)  # where there is no contract, there are no events and no error either
        with _asking():
            events = self._contract.events.Anchored.get_logs(
                from_block=0, argument_filters={"sender": sender, "origin": self._origin}
            )
        return [Anchor(e["args"]["size"], bytes(e["args"]["head"]), int(e["blockNumber"])) for e in events]


def check_anchors(place: Place, key: Verifier, anchors: list[Anchor]) -> list[str]:
    """Where a log is not what was anchored; nothing if it is.

    Raises:
        DecodeError: the published head cannot be read.
    """
    head, _ = open_checkpoint(place.checkpoint.read_bytes(), key)
    store = TileStore(place.public, head.size)
    faults = []
    for anchor in anchors:
        try:
            if anchor.size > head.size:
                faults.append(f"block {anchor.block}: {anchor.size} entries anchored, {head.size} published: truncated")
            elif digest_of(Checkpoint(head.origin, anchor.size, root_at(anchor.size, store.node))) != anchor.digest:
                faults.append(
                    f"block {anchor.block}: the first {anchor.size} entries are not those anchored: rewritten"
                )
        except DecodeError as error:
            faults.append(f"block {anchor.block}: {error}")
    return faults


def _made() -> dict[str, Any]:
    text = resources.files("dcu.ledger.chain").joinpath("anchor.json").read_text(encoding="utf-8")
    made: dict[str, Any] = json.loads(text)
    return made
