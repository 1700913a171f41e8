"""Anchoring heads: on an in-process chain, if the packages for it are installed."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dcu.ledger.audit import key_of
from dcu.ledger.layout import Place, current
from dcu.ledger.note import Checkpoint, open_checkpoint
from dcu.ledger.store import Ledger
from dcu.ledger.tests.test_store import Unsynced, numbered, written
from dcu.ledger_command import main
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


@pytest.fixture
def url(node: Any) -> Iterator[str]:
    """The same chain as a node that speaks JSON-RPC over HTTP."""
    from web3.datastructures import NamedElementOnion  # noqa: PLC0415

    ask = node.provider.request_func(node, NamedElementOnion([]))

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = {**ask(asked["method"], asked["params"]), "id": asked["id"], "jsonrpc": "2.0"}
            data = json.dumps(_on_the_wire(answer)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _on_the_wire(said: Any) -> Any:
    """Bytes and numbers as JSON-RPC has them."""
    if isinstance(said, bytes):
        return "0x" + said.hex()
    if isinstance(said, Mapping):
        return {key: value if key == "id" else _on_the_wire(value) for key, value in said.items()}
    if isinstance(said, list | tuple):
        return [_on_the_wire(one) for one in said]
    return hex(said) if type(said) is int else said


def test_the_command_anchors_by_a_node_over_http_and_refuses_nonsense_in_a_line(
    node: Any, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contract of its own, twice the same head, the check; an address that is none, and one without a contract."""
    written(tmp_path, numbered(100))
    sender = node.eth.accounts[0]
    known = [str(tmp_path), "--rpc", url, "--sender", sender, "--json"]
    assert main(["anchor", *known]) == 0
    contract = json.loads(capsys.readouterr().out)["contract"]
    assert main(["anchor", *known, "--contract", contract]) == 0
    assert json.loads(capsys.readouterr().out)["block"] is None
    assert main(["check-anchors", *known, "--contract", contract]) == 0
    assert json.loads(capsys.readouterr().out) == {"anchors": 1, "faults": []}
    copy = [str(current(tmp_path).public), *known[1:], "--contract", contract]
    assert main(["check-anchors", *copy, "--key", key_of(current(tmp_path)).vkey()]) == 0
    assert json.loads(capsys.readouterr().out) == {"anchors": 1, "faults": []}
    for wrong in ("zz", "0x12", sender):
        for command in ("anchor", "check-anchors"):
            assert main([command, *known, "--contract", wrong]) == 2
            out, err = capsys.readouterr()
            assert (out, len(err.splitlines())) == ("", 1)


def test_the_contract_is_what_its_source_compiles_to() -> None:
    """Where the compiler is installed: the bytes we ship are the bytes it makes."""
    vyper = pytest.importorskip("vyper", reason="the contract's compiler is not installed")
    from importlib import resources  # noqa: PLC0415

    from dcu.ledger.chain.anchor import _made  # noqa: PLC0415

    source = resources.files("dcu.ledger.chain").joinpath("anchor.vy").read_text(encoding="utf-8")
    settings = vyper.compiler.settings.Settings(evm_version="london")
    made = vyper.compile_code(source, output_formats=["abi", "bytecode"], settings=settings)
    assert (made["abi"], made["bytecode"]) == (_made()["abi"], _made()["bytecode"])
