"""Who may look."""

from __future__ import annotations

from dcu.web.entry import FAILURES_MAX, FAILURES_S, LINK_S, PEERS_MAX, SESSION_S, SESSIONS_MAX, Entry
from dcu.web.tests.world import TOKEN


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_the_token_opens() -> None:
    """As a bearer, or for a session; nothing near it does."""
    entry = Entry(TOKEN, Watch())
    assert entry.admits(f"Bearer {TOKEN}", None)
    assert not entry.admits(f"Bearer {TOKEN[:-1]}", None)
    assert not entry.admits(f"Basic {TOKEN}", None)
    assert not entry.admits(None, None)
    assert not entry.admits(None, TOKEN)
    assert entry.log_in("") is None
    cookie = entry.log_in(TOKEN)
    assert cookie is not None
    assert entry.admits(None, cookie)
    assert not entry.admits("Bearer wrong", cookie)


def test_a_session_ends_by_time_and_by_logging_out() -> None:
    """Twelve hours, or at once."""
    watch = Watch()
    entry = Entry(TOKEN, watch)
    first, second = entry.log_in(TOKEN), entry.log_in(TOKEN)
    assert first is not None
    assert second is not None
    entry.log_out(first)
    assert not entry.admits(None, first)
    watch.now = SESSION_S - 1
    assert entry.admits(None, second)
    watch.now = SESSION_S
    assert not entry.admits(None, second)


def test_a_link_opens_once_and_not_for_long() -> None:
    """Whoever finds it in a log later has nothing."""
    watch = Watch()
    entry = Entry(TOKEN, watch)
    code, late = entry.link(), entry.link()
    assert entry.log_in(code) is not None
    assert entry.log_in(code) is None
    watch.now = LINK_S
    assert entry.log_in(late) is None


def test_guessing_is_stopped_and_sessions_go_on() -> None:
    """After ten wrong tokens in a minute nobody logs in from there for a while, with the right one neither."""
    watch = Watch()
    entry = Entry(TOKEN, watch)
    cookie = entry.log_in(TOKEN)
    for _ in range(FAILURES_MAX):
        assert entry.log_in("wrong") is None
    assert entry.locks("")
    assert entry.log_in(TOKEN) is None
    assert not entry.admits(f"Bearer {TOKEN}", None)
    assert entry.admits(None, cookie)
    watch.now = FAILURES_S
    assert entry.log_in(TOKEN) is not None


def test_who_guesses_keeps_nobody_else_out() -> None:
    """Bearers from one address are refused, those from others looked at; of IPv6 one machine has 64 bits of addresses,
    an IPv4 address is itself in both notations; and what is remembered of strangers is bounded."""
    watch = Watch()
    entry = Entry(TOKEN, watch)
    right = f"Bearer {TOKEN}"
    for n in range(FAILURES_MAX):
        assert not entry.admits("Bearer wrong", None, "192.0.2.7")
        assert not entry.admits("Bearer wrong", None, f"2001:db8::{n:x}")
    assert not entry.admits(right, None, "192.0.2.7")
    assert not entry.admits(right, None, "::ffff:192.0.2.7")
    assert not entry.admits(right, None, "2001:db8::ffff")
    assert entry.admits(right, None, "192.0.2.8")
    assert entry.admits(right, None, "2001:db8:0:1::1")
    assert entry.log_in(TOKEN, "192.0.2.8") is not None
    for n in range(2 * PEERS_MAX):
        entry.admits("Bearer wrong", None, f"10.0.{n >> 8}.{n & 255}")
    assert len(entry._failures) == PEERS_MAX


def test_sessions_are_bounded() -> None:
    """The oldest ends."""
    entry = Entry(TOKEN, Watch())
    cookies = [entry.log_in(TOKEN) for _ in range(SESSIONS_MAX + 1)]
    assert not entry.admits(None, cookies[0])
    assert all(entry.admits(None, cookie) for cookie in cookies[1:])
