"""Asking witnesses to cosign a head (C2SP tlog-witness), from the published tiles.

This runs beside the DCU, not in it: the DCU never waits for a network. What comes back is kept as ``cosigned`` beside
the checkpoint once the policy's quorum is met.
"""

from __future__ import annotations

import base64
import http.client
import re
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from dcu.ledger.audit import COSIGNED
from dcu.ledger.files import RealFiles, write_whole
from dcu.ledger.layout import Place
from dcu.ledger.merkle import HASH_BYTES, consistency_proof
from dcu.ledger.note import Checkpoint, Note, Verifier, open_checkpoint, parse_signatures
from dcu.ledger.policy import Policy, Witness
from dcu.ledger.tiles import TileStore
from shared.errors import ConfigError, DecodeError, Fault

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1 << 16
BODY_BYTES_MAX: Final = 1 << 17
PROOF_LINES_MAX: Final = 63
ADD_CHECKPOINT: Final = "/add-checkpoint"


@dataclass(frozen=True, slots=True)
class Submission:
    """The body of add-checkpoint: the size the witness has, the proof from there, the signed head."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """The request's body."""
        lines = [f"old {self.old}", *(base64.b64encode(hashed).decode() for hashed in self.proof), "", ""]
        return "\n".join(lines).encode() + self.note

    @staticmethod
    def parse(data: bytes) -> Submission:
        """A request's parts.

        Raises:
            DecodeError: malformed.
        """
        front, mark, note = data.partition(b"\n\n")
        first, *lines = front.decode("ascii", "replace").split("\n")
        if not mark or not re.fullmatch(r"old (0|[1-9][0-9]{0,18})", first) or len(lines) > PROOF_LINES_MAX:
            raise DecodeError("submission: expected an old size, at most 63 hashes and an empty line")
        try:
            proof = tuple(base64.b64decode(line, validate=True) for line in lines)
        except ValueError as error:
            raise DecodeError("submission: a proof line that is no base64") from error
        if any(len(hashed) != HASH_BYTES for hashed in proof):
            raise DecodeError("submission: a proof line that is no hash")
        return Submission(int(first[4:]), proof, note)


Ask = Callable[[str, bytes], tuple[int, bytes]]
"""Posts a body to a URL; status and body of the answer. `OSError` if nobody answers."""


@dataclass(slots=True)
class Cosigning:
    """What asking the witnesses came to.

    Attributes:
        signed: when [s, Unix] each witness cosigned the head.
        silent: witnesses that gave nothing usable, and why.
        alarms: witnesses that saw another history of this log.
        quorum: whether the policy is met.
    """

    head: Checkpoint
    signed: dict[str, int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)
    quorum: bool = False


def cosign(place: Place, key: Verifier, policy: Policy, ask: Ask) -> Cosigning:
    """Ask every witness of a policy to cosign the published head; keep it if they are enough.

    Raises:
        DecodeError: the published head or a tile cannot be read.
        ConfigError: a witness without an address.
    """
    _require_addresses(policy.witnesses.values())
    head, note = open_checkpoint(place.checkpoint.read_bytes(), key)
    before = _cosigned_before(place, key)
    found = Cosigning(head)
    store = TileStore(place.public, head.size)
    for name, witness in policy.witnesses.items():
        old = 0 if before is None or witness.verifier.signed(before[1]) is None else before[0].size
        note = _ask_one(found, (name, witness), note, (store, min(old, head.size)), ask)
    found.quorum = policy.met(found.signed) and not found.alarms
    if found.quorum and found.signed:
        write_whole(RealFiles(), place.public / COSIGNED, note.encode())
    return found


def _cosigned_before(place: Place, key: Verifier) -> tuple[Checkpoint, Note] | None:
    try:
        return open_checkpoint((place.public / COSIGNED).read_bytes(), key)
    except (OSError, DecodeError):
        return None


def _ask_one(found: Cosigning, who: tuple[str, Witness], note: Note, tree: tuple[TileStore, int], ask: Ask) -> Note:
    """The note with this witness's cosignature, if it gave one. It may know another size than we think: once."""
    name, witness = who
    store, old = tree
    single = Note(note.text, note.signatures[:1])
    for attempt in range(2):
        body = Submission(old, tuple(consistency_proof(old, found.head.size, store.node)), single.encode()).encode()
        try:
            status, answer = ask(f"{witness.url}{ADD_CHECKPOINT}", body)
        except (OSError, http.client.HTTPException) as error:
            found.silent[name] = str(error) or type(error).__name__
            return note
        if status != 409:
            break
        known = _size(answer)
        if known is None or known > found.head.size or known == old:
            seen = "another head" if known in {None, old} else f"a head of {known} entries"
            found.alarms[name] = f"has cosigned {seen}; this log has {found.head.size}: rolled back or forked"
            return note
        old = known
        if attempt:
            found.silent[name] = f"moved on to {known} entries while asked"
            return note
    return _take_answer(found, who, note, (status, answer))


def _take_answer(found: Cosigning, who: tuple[str, Witness], note: Note, said: tuple[int, bytes]) -> Note:
    name, witness = who
    status, answer = said
    if status == 422:
        found.alarms[name] = "says that this head does not follow from the one it cosigned: forked"
        return note
    if status != 200:
        found.silent[name] = f"answered {status}"
        return note
    try:
        given = parse_signatures(answer.decode())
        mine = tuple(s for s in given if (s.name, s.key_id) == (witness.verifier.name, witness.verifier.key_id))
        at_utc_s = witness.verifier.signed(Note(note.text, mine))
    except (DecodeError, UnicodeDecodeError) as error:
        found.silent[name] = str(error)
        return note
    if at_utc_s is None:
        found.silent[name] = "gave no signature by its key"
        return note
    found.signed[name] = at_utc_s
    return note.with_signatures(mine)


def _size(answer: bytes) -> int | None:
    return int(answer) if re.fullmatch(rb"(0|[1-9][0-9]{0,18})\n", answer) else None


def _require_addresses(witnesses: Iterable[Witness]) -> None:
    faults = [
        Fault(f"witness {witness.name}", str(witness.url), "http:// or https:// and a host")
        for witness in witnesses
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", witness.url or "")
    ]
    if faults:
        raise ConfigError("policy", faults)


def post(url: str, body: bytes) -> tuple[int, bytes]:
    """`Ask` over HTTP or HTTPS."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    link = kind(parts.netloc, timeout=TIMEOUT_S)
    try:
        link.request("POST", parts.path, body)
        answer = link.getresponse()
        data = answer.read(ANSWER_BYTES_MAX + 1)
        if len(data) > ANSWER_BYTES_MAX:
            raise OSError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        return answer.status, data
    finally:
        link.close()
