"""A witness of transparency logs for the bench (C2SP tlog-witness): one process, one key, one file of state.

`python -m hil_tests.virtual.witness --help`. It remembers the newest head of each log it knows and cosigns another one
only if that follows from it. What it remembers is on disk before it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from dcu.ledger.merkle import EMPTY_ROOT, verify_consistency
from dcu.ledger.note import Checkpoint, KeyKind, Signer, Verifier, parse_checkpoint, parse_note
from dcu.ledger.witness import ADD_CHECKPOINT, BODY_BYTES_MAX, Submission
from shared.errors import DecodeError

TIMEOUT_S: Final = 10.0
SIZE_TYPE: Final = "text/x.tlog.size"
TEXT_TYPE: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and type of an HTTP answer."""

    status: int
    body: bytes
    kind: str = TEXT_TYPE


class WitnessState:
    """The newest head cosigned of each log, by origin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.heads: dict[str, tuple[int, bytes]] = {}
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.heads = {origin: (size, bytes.fromhex(root)) for origin, (size, root) in kept.items()}

    def put(self, head: Checkpoint) -> None:
        """Remember a head, durably."""
        self.heads[head.origin] = (head.size, head.root)
        text = json.dumps({origin: [size, root.hex()] for origin, (size, root) in self.heads.items()})
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


class Witness:
    """Answers add-checkpoint; one request at a time, so that look and remember are one step."""

    def __init__(
        self, signer: Signer, logs: dict[str, Verifier], state: WitnessState, utc: Callable[[], float]
    ) -> None:
        self.signer, self._logs, self._state, self._utc = signer, logs, state, utc
        self._one = threading.Lock()

    def add_checkpoint(self, body: bytes) -> Answer:
        """tlog-witness, "add-checkpoint"."""
        try:
            asked = Submission.parse(body)
            note = parse_note(asked.note)
            head = parse_checkpoint(note.text)
        except DecodeError as error:
            return Answer(400, f"{error}\n".encode())
        log = self._logs.get(head.origin)
        if log is None:
            return Answer(404, b"unknown log\n")
        try:
            if log.signed(note) is None:
                return Answer(403, b"not signed by a key of this log\n")
        except DecodeError as error:
            return Answer(403, f"{error}\n".encode())
        with self._one:
            return self._judge(asked, head, note.text)

    def _judge(self, asked: Submission, head: Checkpoint, text: str) -> Answer:
        size, root = self._state.heads.get(head.origin, (0, EMPTY_ROOT))
        if asked.old > head.size:
            return Answer(400, b"the old size is above the head's\n")
        if asked.old != size or (head.size == size and size and head.root != root):
            return Answer(409, f"{size}\n".encode(), SIZE_TYPE)
        if not verify_consistency(asked.old, head.size, asked.proof, root, head.root):
            return Answer(422, b"the proof does not lead from the old head to this one\n")
        self._state.put(head)
        return Answer(200, self.signer.cosign(text, int(self._utc())).line().encode())


def serve(witness: Witness, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback; call its `serve_forever`."""

    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the library's name
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
                self.close_connection = True
                self._send(Answer(413, b"too long, or of unknown length\n"))
                return
            body = self.rfile.read(int(length))
            known = self.path == ADD_CHECKPOINT
            self._send(witness.add_checkpoint(body) if known else Answer(404, b"add-checkpoint only\n"))

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """Silent."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until interrupted; the key is made on the first start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="directory of key and state")
    parser.add_argument("--name", required=True, help="name it signs by, such as bench.example/w1")
    parser.add_argument("--log", action="append", required=True, metavar="KEY", help="a log to witness, as name+id+key")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    key = options.state / "key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(32))
    signer = Signer(options.name, key.read_bytes(), KeyKind.WITNESS)
    logs = {log.name: log for log in map(Verifier.parse, options.log)}
    server = serve(Witness(signer, logs, WitnessState(options.state / "heads.json"), time.time), options.port)
    host, port = server.server_address[:2]
    print(f"witness {options.name} {signer.verifier.vkey()} http://{host!s}:{port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
