"""What the utility is told: items, the messages that carry them, their topics. Pure.

An *item* is one JSON object with an ``id`` that stays the same however often it is sent. A *message* carries items of
one class, in order. Names beside ours follow OpenADR 3.1 capacity management, as far as we recall it (the standard's
text was not at hand): EXPORT_CAPACITY_SUBSCRIPTION is the nominal limit, EXPORT_CAPACITY_RESERVATION the grant,
EXPORT_CAPACITY_AVAILABLE the headroom, EXPORT_CAPACITY_LIMIT the limit applied now; all in W.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

SCHEMA: Final = "headroom-utility/1"
PREFIX: Final = "headroom"


class Class(IntEnum):
    """Kinds of items; the smaller number leaves first. Numbers are kept on disk."""

    ANSWER = 1
    ALARM = 2
    DECISION = 3
    CHECKPOINT = 4
    AVAILABLE = 5
    STATISTICS = 6
    REPORT = 7

    @property
    def word(self) -> str:
        """In topics and ids."""
        return self.name.lower()


KEPT: Final = frozenset({Class.ANSWER, Class.DECISION, Class.CHECKPOINT})
"""Never dropped, however long the utility is away."""

DECISIONS: Final = frozenset(
    {
        "start", "quarantine ended", "grant", "renewal", "denial", "lowered", "revoke", "release", "expired", "command",
    }
)  # fmt: skip
"""Entries of the ledger that the utility is told; windows and views stay in the ledger, which it can ask for."""


def up(dcu: str, kind: Class) -> str:
    """Topic of a class."""
    return f"{PREFIX}/{dcu}/up/{kind.word}"


def state_topic(dcu: str) -> str:
    """Where the broker keeps whether this DCU is there."""
    return f"{PREFIX}/{dcu}/up/state"


def command_topic(dcu: str) -> str:
    """Where this DCU listens."""
    return f"{PREFIX}/{dcu}/down/command"


def encode(content: Mapping[str, Any]) -> bytes:
    """JSON without blanks; refuses what JSON does not have."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def message(dcu: str, kind: Class, items: Iterable[bytes]) -> bytes:
    """The message that carries encoded items of one class."""
    head = encode({"schema": SCHEMA, "dcu": dcu, "kind": kind.word})
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"


PLAIN_BYTES_MAX: Final = 2048
"""Longer messages are compressed: backlogs and reports shrink to a sixth, and lines are paid by the byte."""
GZIP: Final = b"\x1f\x8b"
"""How a compressed message begins (RFC 1952); JSON never does."""


def pack(payload: bytes) -> bytes:
    """A message as it is sent: JSON, or the same in gzip if it is long."""
    return payload if len(payload) <= PLAIN_BYTES_MAX else gzip.compress(payload, 6, mtime=0)


def unpack(payload: bytes) -> bytes:
    """The JSON of a message (OSError: damaged); for consumers who trust the DCU."""
    return gzip.decompress(payload) if payload.startswith(GZIP) else payload


MESSAGE_BYTES: Final = 256
"""More than the frame around the items of a message."""


def with_id(name: str, body: bytes) -> bytes:
    """An encoded item with its id."""
    return b'{"id":' + encode_text(name) + b"," + body[1:]


def encode_text(text: str) -> bytes:
    """A JSON text."""
    return json.dumps(text, ensure_ascii=False).encode()


# ---- items -----------------------------------------------------------------------------------------------------------


def decision_name(dcu: str, log: int, position: int) -> str:
    """Stable name of an entry of the ledger; ``log`` counts the logs of a ledger, of which damage may end one."""
    return f"{dcu}/decision/{log}/{position}"


def decision(log: int, position: int, entry: Mapping[str, Any], *, recovered: bool = False) -> dict[str, Any]:
    """An entry of the ledger; ``recovered`` if it was found again at a start."""
    told: dict[str, Any] = {"log": log, "position": position, "entry": dict(entry)}
    return told | ({"recovered": True} if recovered else {})


def checkpoint(note: str) -> dict[str, Any]:
    """A head of the ledger as its signed note."""
    return {"note": note}


def alarm(utc_s: float, source: str, what: str, *, raised: bool) -> dict[str, Any]:
    """A meter's or the DCU's alarm that began or ended."""
    return {"utc_s": round(utc_s, 3), "source": source, "alarm": what, "raised": raised}


def available(made_utc_s: float, intervals: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The forecast of the headroom: OpenADR's AVAILABLE, by customer and quarter of an hour [W]."""
    told = [
        {
            "resource": one["meter"],
            "start_utc_s": round(made_utc_s + one["start_s_from_now"]),
            "duration_s": 900,
            "EXPORT_CAPACITY_AVAILABLE": one["expected_w"],
            "low_w": one["low_w"],
            "high_w": one["high_w"],
        }
        for one in intervals
    ]
    return {"made_utc_s": round(made_utc_s, 3), "intervals": told}


def report(utc_s: float, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The newest readings of some meters."""
    return {"utc_s": round(utc_s, 3), "readings": list(readings)}


def statistics(content: Mapping[str, Any]) -> dict[str, Any]:
    """Voltage figures of a customer and period (EN 50160)."""
    return dict(content)


def answer(number: int | None, sha256: str, outcome: str, **fields: Any) -> dict[str, Any]:
    """What became of a command: accepted, done, failed or refused."""
    return {"number": number, "sha256": sha256, "outcome": outcome, **fields}


def state(utc_s: float, *, online: bool, epoch: int = 0, dropped: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Whether the DCU is there; the broker says no in its place when it is gone."""
    told = {"schema": SCHEMA, "online": online}
    return told | ({"utc_s": round(utc_s, 3), "epoch": epoch, "dropped": dict(dropped or {})} if online else {})
