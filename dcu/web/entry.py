"""Who may look: a token, sessions that it opens, a link that opens one once."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

SESSION_S: Final = 12 * 3600.0
SESSIONS_MAX: Final = 64
"""With more the oldest ends."""
LINK_S: Final = 600.0
"""[s] A one-time link not used by then opens nothing."""
FAILURES_MAX: Final = 10
FAILURES_S: Final = 60.0
"""Wrong tokens within this time, from one address; then no token from there is looked at for a while. Sessions go on,
and so does who comes from elsewhere: nobody can keep others out by guessing."""
PEERS_MAX: Final = 256
"""Addresses whose wrong tokens are remembered; with more the one that was heard of first is forgotten."""
COOKIE: Final = "headroom_session"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _network(peer: str) -> str:
    """Whose an address is: itself, or of IPv6 its first 64 bits, of which one machine has all."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    address = getattr(address, "ipv4_mapped", None) or address
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


class Entry:
    """Decides who may look; keeps digests, no token."""

    def __init__(self, token: str | None, now: Callable[[], float]) -> None:
        """``token`` None: whoever came through TLS with a certificate of ours may look."""
        self._token = None if token is None else _digest(token)
        self._now = now
        self._sessions: dict[bytes, float] = {}
        self._links: dict[bytes, float] = {}
        self._failures: dict[str, deque[float]] = {}

    @property
    def needs_token(self) -> bool:
        """Whether a certificate alone is not enough."""
        return self._token is not None

    def admits(self, authorization: str | None, cookie: str | None, peer: str = "") -> bool:
        """Whether a request with these headers from an address may be answered."""
        if self._token is None:
            return True
        if authorization is not None:
            scheme, _, given = authorization.partition(" ")
            if scheme.lower() != "bearer":
                return False
            if self.locks(peer):
                return False
            if self._is_token(given.strip()):
                return True
            self._note_failure(peer)
            return False
        return cookie is not None and self._has_session(cookie)

    def locks(self, peer: str) -> bool:
        """Whether there were too many wrong tokens lately from this address."""
        failures = self._failures.get(_network(peer), deque[float]())
        return len(failures) == FAILURES_MAX and self._now() - failures[0] < FAILURES_S

    def _note_failure(self, peer: str) -> None:
        network = _network(peer)
        if network not in self._failures and len(self._failures) >= PEERS_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures.setdefault(network, deque(maxlen=FAILURES_MAX)).append(self._now())

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(_digest(given), self._token)

    def _has_session(self, given: str) -> bool:
        until = self._sessions.get(_digest(given))
        return until is not None and self._now() < until

    def link(self) -> str:
        """A code that opens one session, once."""
        code = secrets.token_urlsafe(24)
        self._links[_digest(code)] = self._now() + LINK_S
        return code

    def log_in(self, given: str, peer: str = "") -> str | None:
        """The cookie of a new session for the token, or for a code that was not used yet; None for anything else."""
        if self.locks(peer):
            return None
        until = self._links.pop(_digest(given), None)
        if not (self._is_token(given) or (until is not None and self._now() < until)):
            self._note_failure(peer)
            return None
        cookie = secrets.token_urlsafe(32)
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(cookie)] = self._now() + SESSION_S
        return cookie

    def log_out(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(cookie), None)
