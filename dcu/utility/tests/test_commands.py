"""Commands: only what a pinned key has signed, for us, in time, with a number of its own, is believed.

Each way to be wrong is tried alone, on a command that is right in every other respect.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dcu.ledger.canonical import canonical
from dcu.utility.commands import (
    BYTES_MAX,
    CLOCK_SET_UTC_S,
    CONTEXT,
    VALID_S_MAX,
    Command,
    Judge,
    Refusal,
    Refused,
    key_id,
    parse_public,
    sign,
)
from shared.errors import DecodeError

NOW = 1_790_000_000
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
ORDER: dict[str, Any] = {"kind": "set_nominal_limits", "limits": {"meter-1": 1000.0}}


def content(**other: Any) -> dict[str, Any]:
    good = {"version": 1, "dcu": "dcu-1", "number": 7, "issued_utc_s": NOW, "expires_utc_s": NOW + 600, "order": ORDER}
    return {**good, **other}


def judge(payload: bytes, *, retained: bool = False, last: int = 6, utc_s: float = NOW + 5.0) -> Command | Refused:
    return Judge("dcu-1", (PUBLIC,)).judge(payload, retained=retained, last=last, utc_s=utc_s)


def refusal(payload: bytes, **other: Any) -> Refused:
    found = judge(payload, **other)
    assert isinstance(found, Refused), found
    return found


def test_a_good_command_is_believed() -> None:
    """The base of everything below."""
    found = judge(sign(content(), KEY))
    assert isinstance(found, Command)
    assert (found.number, found.key) == (7, key_id(PUBLIC))
    assert found.as_entry()["order"] == {"kind": "set_nominal_limits", "limits": {"meter-1": 1000.0}}


@pytest.mark.parametrize(
    "order",
    [
        {"kind": "set_policy", "policy": "proportional"},
        {"kind": "set_band", "band_pct": 4},
        {"kind": "load_model", "sha256": "0" * 64},
        {"kind": "revoke_all", "hold_s": 60.0},
        {"kind": "revoke_all"},
        {"kind": "give_receipt", "position": 0, "meter": "meter-1"},
        {"kind": "give_receipt", "position": 12},
        {"kind": "tell_again", "position": 12, "count": 1000},
    ],
)
def test_every_order_can_be_given(order: dict[str, Any]) -> None:
    """One of each kind."""
    assert isinstance(judge(sign(content(order=order), KEY)), Command)


BYTES: list[tuple[str, bytes, Refusal]] = [
    ("nothing", b"", Refusal.NOT_JSON),
    ("no JSON", b"revoke everything, please", Refusal.NOT_JSON),
    ("half", sign(content(), KEY)[:-20], Refusal.NOT_JSON),
    ("bad UTF-8", b'{"command":"\xff\xfe"}', Refusal.NOT_JSON),
    ("10 MiB", b"[" + b"1," * (5 << 20) + b"1]", Refusal.TOO_LARGE),
    ("depth 10^4", b"[" * 10_000 + b"]" * 10_000, Refusal.TOO_DEEP),
    ("depth of objects", b'{"a":' * 5_000 + b"1" + b"}" * 5_000, Refusal.TOO_DEEP),
    ("doubled key", b'{"command":{},"command":{},"key":"a","signature":"b"}', Refusal.DOUBLE_KEY),
    ("doubled key inside", b'{"command":{"number":1,"number":2},"key":"a","signature":"b"}', Refusal.DOUBLE_KEY),
    ("64 bit and one more", b'{"command":{"number":18446744073709551616},"key":"","signature":""}', Refusal.BAD_NUMBER),
    ("2**53 + 1", b'{"command":{"number":9007199254740993},"key":"","signature":""}', Refusal.BAD_NUMBER),
    ("a million digits", b'{"command":' + b"9" * 60_000 + b"}", Refusal.BAD_NUMBER),
    ("1e309", b'{"command":{"number":1e309},"key":"","signature":""}', Refusal.BAD_NUMBER),
    ("NaN", b'{"command":{"number":NaN},"key":"","signature":""}', Refusal.BAD_NUMBER),
    ("another form", b'{"order":"revoke_all"}', Refusal.BAD_FORM),
    ("a list", b"[1,2]", Refusal.BAD_FORM),
    ("a member more", sign(content(), KEY)[:-1] + b',"and":1}', Refusal.BAD_FORM),
]


@pytest.mark.parametrize(("payload", "why"), [case[1:] for case in BYTES], ids=[case[0] for case in BYTES])
def test_bytes_that_are_no_command_are_refused_and_nobody_is_answered(payload: bytes, why: Refusal) -> None:
    """What anybody could have sent."""
    found = refusal(payload)
    assert (found.why, found.authentic, found.number) == (why, False, None)


def tampered(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A signed command, changed afterwards."""
    envelope = json.loads(sign(content(), KEY))
    change(envelope)
    return canonical(envelope)


def test_a_signature_that_does_not_fit_is_refused() -> None:
    """A changed number, a changed limit, another's key, no signature at all, one made without our context."""
    other = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    without_context = base64.b64encode(KEY.sign(canonical(content()))).decode()
    cases = [
        tampered(lambda e: e["command"].update(number=8)),
        tampered(lambda e: e["command"]["order"]["limits"].update({"meter-1": 2000})),
        tampered(lambda e: e.update(signature="")),
        tampered(lambda e: e.update(signature="####")),
        tampered(lambda e: e.update(signature=without_context)),
        tampered(lambda e: e.update(key=key_id(PUBLIC), signature=base64.b64encode(bytes(64)).decode())),
    ]
    assert [refusal(payload).why for payload in cases] == [Refusal.BAD_SIGNATURE] * len(cases)
    assert refusal(sign(content(), other)).why is Refusal.UNKNOWN_KEY
    impostor = json.loads(sign(content(), other)) | {"key": key_id(PUBLIC)}
    assert refusal(canonical(impostor)).why is Refusal.BAD_SIGNATURE
    assert isinstance(Judge("dcu-1", ()).judge(sign(content(), KEY), retained=False, last=0, utc_s=NOW), Refused)


def test_a_signature_holds_over_the_canonical_form_however_it_is_written() -> None:
    """Blanks, another order of members, 1000.0 for 1000: the same command."""
    envelope = json.loads(sign(content(), KEY))
    envelope["command"]["order"]["limits"]["meter-1"] = 1000.0
    spaced = json.dumps(dict(reversed(envelope.items())), indent=3).encode()
    assert isinstance(judge(spaced), Command)


AUTHENTIC: list[tuple[str, dict[str, Any], dict[str, Any], Refusal]] = [
    ("retained", {}, {"retained": True}, Refusal.RETAINED),
    ("version 2", {"version": 2}, {}, Refusal.UNKNOWN_VERSION),
    ("no version", {"version": None}, {}, Refusal.UNKNOWN_VERSION),
    ("other DCU", {"dcu": "dcu-2"}, {}, Refusal.OTHER_DCU),
    ("old number", {"number": 6}, {}, Refusal.OLD_NUMBER),
    ("the same number", {}, {"last": 7}, Refusal.OLD_NUMBER),
    ("old number of a version to come", {"version": 2}, {"last": 7}, Refusal.OLD_NUMBER),
    ("old number, bad order", {"order": {"kind": "open_all_relays"}}, {"last": 7}, Refusal.OLD_NUMBER),
    ("old number, a member more", {"comment": "hello"}, {"last": 7}, Refusal.OLD_NUMBER),
    ("number 0", {"number": 0}, {}, Refusal.BAD_FORM),
    ("number as text", {"number": "8"}, {}, Refusal.BAD_FORM),
    ("number true", {"number": True}, {}, Refusal.BAD_FORM),
    ("a member more", {"comment": "hello"}, {}, Refusal.BAD_FORM),
    ("expired", {}, {"utc_s": NOW + 601.0}, Refusal.EXPIRED),
    ("from the future", {"issued_utc_s": NOW + 400}, {}, Refusal.NOT_YET),
    ("valid for ever", {"expires_utc_s": NOW + VALID_S_MAX + 1}, {}, Refusal.BAD_FORM),
    ("expired before it was issued", {"expires_utc_s": NOW - 1}, {}, Refusal.BAD_FORM),
    ("clock of 1970", {}, {"utc_s": 12.0}, Refusal.CLOCK_UNSET),
    ("clock that is none", {}, {"utc_s": float("nan")}, Refusal.CLOCK_UNSET),
    ("unknown order", {"order": {"kind": "open_all_relays"}}, {}, Refusal.UNKNOWN_ORDER),
    ("limit below nothing", {"order": {"kind": "set_nominal_limits", "limits": {"m": -1.0}}}, {}, Refusal.BAD_FORM),
    ("limit as text", {"order": {"kind": "set_nominal_limits", "limits": {"m": "1 kW"}}}, {}, Refusal.BAD_FORM),
    ("nobody's limit", {"order": {"kind": "set_nominal_limits", "limits": {}}}, {}, Refusal.BAD_FORM),
    ("band 0", {"order": {"kind": "set_band", "band_pct": 0}}, {}, Refusal.BAD_FORM),
    ("band 90 %", {"order": {"kind": "set_band", "band_pct": 90}}, {}, Refusal.BAD_FORM),
    ("policy", {"order": {"kind": "set_policy", "policy": "mine_first"}}, {}, Refusal.BAD_FORM),
    ("path as a model", {"order": {"kind": "load_model", "sha256": "../../etc/passwd"}}, {}, Refusal.BAD_FORM),
    ("hold for a year", {"order": {"kind": "revoke_all", "hold_s": 3e7}}, {}, Refusal.BAD_FORM),
]


@pytest.mark.parametrize(("change", "how", "why"), [c[1:] for c in AUTHENTIC], ids=[c[0] for c in AUTHENTIC])
def test_an_authentic_command_that_is_wrong_is_refused_and_answered(
    change: dict[str, Any], how: dict[str, Any], why: Refusal
) -> None:
    """Signed by the right key; a number that is for us is spent, unless the broker alone brought it back."""
    found = refusal(sign(content(**change), KEY), **how)
    assert (found.why, found.authentic) == (why, True)
    if why in {Refusal.RETAINED, Refusal.OTHER_DCU}:
        assert found.number is None


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Whatever comes, an answer comes back."""
    assert not refusal(data).authentic


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_is_never_believed_as_something_else(at: int, byte: int) -> None:
    """Any byte of a good command replaced: the same command, or none."""
    good = sign(content(), KEY)
    changed = bytearray(good)
    changed[at % len(good)] = byte
    found = judge(bytes(changed))
    same = judge(good)
    assert isinstance(same, Command)
    assert isinstance(found, Refused) or found.order == same.order


def test_judging_the_largest_nonsense_takes_milliseconds() -> None:
    """Counted in work, not in time: what is too large is not looked into, what is too deep is not parsed."""
    draw = random.Random(1)
    noise = draw.randbytes(BYTES_MAX + 1)
    assert refusal(noise).why is Refusal.TOO_LARGE
    assert refusal(b"[" * BYTES_MAX).why is Refusal.TOO_DEEP


def test_a_public_key_is_44_characters() -> None:
    """Everything else names what was expected."""
    assert parse_public(base64.b64encode(PUBLIC).decode()) == PUBLIC
    for wrong in ("", "A" * 44, base64.b64encode(bytes(31)).decode(), "no key"):
        with pytest.raises(DecodeError, match="expected an Ed25519 public key"):
            parse_public(wrong)


def test_the_context_is_what_the_documentation_says() -> None:
    """Others sign as well: docs/utility.md names these bytes."""
    assert CONTEXT == b"headroom-command/1\n"
    assert CLOCK_SET_UTC_S == 1_767_225_600
