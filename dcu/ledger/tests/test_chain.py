"""Anchoring heads: on an in-process chain, if the packages for it are installed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.audit import key_of
from dcu.ledger.layout import Place, current
from dcu.ledger.note import Checkpoint, open_checkpoint
from dcu.ledger.store import Ledger
from dcu.ledger.tests.test_store import Unsynced, numbered, written
from shared.errors import DeviceError

pytest.importorskip("web3", reason="headroom[chain] is not installed")
pytest.importorskip("eth_tester", reason="eth-tester is not installed")


@pytest.fixture
def node() -> Any:
    """An in-process chain."""
    from web3 import EthereumTesterProvider, Web3  # noqa: PLC0415

    return Web3(EthereumTesterProvider())


def head_of(place: Place) -> Checkpoint:
    """The published head."""
    return open_checkpoint(place.checkpoint.read_bytes(), key_of(place))[0]


def grow(directory: Path, count: int) -> None:
    """More entries, published."""
    ledger = Ledger(directory, "dcu", Unsynced())
    ledger.append_all([{"n": n} for n in range(count)])
    ledger.close()


def test_heads_are_anchored_and_another_history_is_noticed(node: Any, tmp_path: Path) -> None:
    """Three heads by an account of the node; the same head twice is one; a truncated and a rewritten log do not fit."""
    from dcu.ledger.chain.anchor import Anchors, Sender, check_anchors, deploy  # noqa: PLC0415

    place = written(tmp_path / "log", numbered(100))
    sender = Sender(node, address=node.eth.accounts[0])
    anchors = Anchors(node, deploy(node, sender), head_of(place).origin)
    assert anchors.newest(sender.address) == 0
    assert anchors.put(sender, head_of(place)) is not None
    assert anchors.put(sender, head_of(place)) is None
    shutil.copytree(tmp_path / "log", tmp_path / "older")
    for _ in range(2):
        grow(tmp_path / "log", 200)
        anchors.put(sender, head_of(place))
    found = anchors.all(sender.address)
    assert [anchor.size for anchor in found] == [100, 300, 500]
    assert check_anchors(place, key_of(place), found) == []
    older = current(tmp_path / "older")
    assert [fault.split(": ")[-1] for fault in check_anchors(older, key_of(older), found)] == ["truncated"] * 2
    grow(tmp_path / "older", 400)
    grow(tmp_path / "older", 100)
    ends = [fault.split(": ")[-1] for fault in check_anchors(older, key_of(older), found)]
    assert ends == ["rewritten"] * len(ends)
    assert anchors.all(node.eth.accounts[1]) == []


def test_a_key_of_our_own_signs_and_a_smaller_head_is_refused_by_the_contract(
    node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is not the node's; what the client would not send, the contract does not take."""
    from dcu.ledger.chain.anchor import Anchors, Sender, deploy  # noqa: PLC0415

    place = written(tmp_path, numbered(100))
    key = "0x" + "11" * 32
    own = Sender(node, key=key)
    node.eth.send_transaction({"from": node.eth.accounts[0], "to": own.address, "value": 10**18})
    anchors = Anchors(node, deploy(node, own), head_of(place).origin)
    assert anchors.put(own, head_of(place)) is not None
    smaller = Checkpoint(head_of(place).origin, 50, bytes(32))
    monkeypatch.setattr(anchors, "newest", lambda _sender: 0)
    with pytest.raises(DeviceError, match="size must rise"):
        anchors.put(own, smaller)


def test_the_contract_is_what_its_source_compiles_to() -> None:
    """Where the compiler is installed: the bytes we ship are the bytes it makes."""
    vyper = pytest.importorskip("vyper", reason="the contract's compiler is not installed")
    from importlib import resources  # noqa: PLC0415

    from dcu.ledger.chain.anchor import _made  # noqa: PLC0415

    source = resources.files("dcu.ledger.chain").joinpath("anchor.vy").read_text(encoding="utf-8")
    settings = vyper.compiler.settings.Settings(evm_version="london")
    made = vyper.compile_code(source, output_formats=["abi", "bytecode"], settings=settings)
    assert (made["abi"], made["bytecode"]) == (_made()["abi"], _made()["bytecode"])
