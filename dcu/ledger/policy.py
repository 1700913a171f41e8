"""Whom a verifier trusts (C2SP tlog-policy): logs, witnesses, and how many of them must have signed a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dcu.ledger.note import Checkpoint, KeyKind, Note, Verifier, parse_checkpoint, parse_note
from shared.errors import ConfigError, DecodeError, Fault

LINES_MAX: Final = 1000
NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness by its name in the policy."""

    name: str
    verifier: Verifier
    url: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses, and groups of them, of which so many are needed."""

    needed: int
    members: tuple[str, ...]


@dataclass(slots=True)
class Policy:
    """Logs, witnesses and the quorum."""

    logs: list[Verifier] = field(default_factory=list)
    witnesses: dict[str, Witness] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str = ""

    @staticmethod
    def of_log(log: Verifier) -> Policy:
        """One log, no witness needed."""
        return Policy([log], quorum=NONE)

    def met(self, signed: Mapping[str, int]) -> bool:
        """Whether these witnesses are enough."""
        return self.quorum == NONE or self._has(self.quorum, signed)

    def _has(self, name: str, signed: Mapping[str, int]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in signed
        return sum(self._has(member, signed) for member in group.members) >= group.needed


@dataclass(frozen=True, slots=True)
class Trusted:
    """A head that a policy accepts: its log, and when [s, Unix] which of the policy's witnesses cosigned it."""

    head: Checkpoint
    note: Note
    log: Verifier
    cosigned_utc_s: dict[str, int]


def trust(data: bytes, policy: Policy) -> Trusted:
    """A head's content, if the policy accepts it.

    Raises:
        DecodeError: malformed, a wrong signature by a known key, an unknown log, or too few witnesses.
    """
    note = parse_note(data)
    head = parse_checkpoint(note.text)
    log = next((log for log in policy.logs if log.name == head.origin and log.signed(note) is not None), None)
    if log is None:
        raise DecodeError(f"head of {head.origin}: not signed by a log that is trusted here")
    times = {name: witness.verifier.signed(note) for name, witness in policy.witnesses.items()}
    signed = {name: at for name, at in times.items() if at is not None}
    if not policy.met(signed):
        raise DecodeError(f"head of {head.origin}: cosigned by {', '.join(signed) or 'nobody'}, short of the quorum")
    return Trusted(head, note, log, signed)


def load_policy(path: Path) -> Policy:
    """A policy file.

    Raises:
        ConfigError: every line that is wrong.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise ConfigError(str(path), [Fault("file", str(error.strerror), "a policy")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Fault("file", "no UTF-8", "a policy")]) from error
    reader = _Reader()
    faults = []
    for number, line in enumerate(lines[:LINES_MAX], 1):
        try:
            reader.take(line)
        except DecodeError as error:
            faults.append(Fault(f"line {number}", str(error), "as C2SP tlog-policy says"))
    if not reader.policy.quorum:
        faults.append(Fault("quorum", "none", "one line"))
    if len(lines) > LINES_MAX:
        faults.append(Fault("lines", str(len(lines)), f"at most {LINES_MAX}"))
    if faults:
        raise ConfigError(str(path), faults)
    return reader.policy


class _Reader:
    def __init__(self) -> None:
        self.policy = Policy()
        self._used: set[str] = set()
        self._keys: set[tuple[KeyKind, bytes]] = set()

    def take(self, line: str) -> None:
        words = line.replace("\t", " ").split(" ")
        match [word for word in words if word]:
            case []:
                pass
            case [word, *_] if word.startswith("#"):
                pass
            case ["log", vkey] | ["log", vkey, _]:
                self.policy.logs.append(self._key(vkey, KeyKind.LOG))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._new(name)
                verifier = self._key(vkey, KeyKind.WITNESS)
                self.policy.witnesses[name] = Witness(name, verifier, url[0] if url else None)
            case ["group", name, needed, *members] if members:
                self._group(name, needed, members)
            case ["quorum", name] if not self.policy.quorum:
                if name != NONE:
                    self._known(name)
                self.policy.quorum = name
            case _:
                raise DecodeError(f"seen {line[:80]!r}")

    def _group(self, name: str, needed: str, members: list[str]) -> None:
        self._new(name)
        for member in members:
            self._known(member)
            if member in self._used:
                raise DecodeError(f"{member} is a member twice")
            self._used.add(member)
        counts = {"all": len(members), "any": 1}
        count = counts.get(needed) or (int(needed) if needed.isdecimal() and needed.isascii() else 0)
        if not 1 <= count <= len(members):
            raise DecodeError(f"seen {needed} of {len(members)} members")
        self.policy.groups[name] = Group(count, tuple(members))

    def _new(self, name: str) -> None:
        if name == NONE or name in self.policy.witnesses or name in self.policy.groups:
            raise DecodeError(f"{name} is defined twice")

    def _known(self, name: str) -> None:
        if name not in self.policy.witnesses and name not in self.policy.groups:
            raise DecodeError(f"{name} is not defined above")

    def _key(self, vkey: str, kind: KeyKind) -> Verifier:
        verifier = Verifier.parse(vkey)
        if verifier.kind is not kind or (kind, verifier.public) in self._keys:
            raise DecodeError(f"key {verifier.name}: of another kind, or named twice")
        self._keys.add((kind, verifier.public))
        return verifier
