"""The envelope: nothing that was not sealed by the right keys, for this direction, ever opens."""

from __future__ import annotations

import pytest
from dlms_cosem.protocol.xdlms.general_global_cipher import GeneralGlobalCipher
from hypothesis import given
from hypothesis import strategies as st

from shared import protection
from shared.errors import DecodeError
from shared.protection import (
    GENERAL_GLO,
    SERVICES,
    PairKeys,
    Spliced,
    as_dedicated,
    as_global,
    is_protected,
    parse,
    protect,
    protect_group,
    reveal,
)

KEYS = PairKeys(bytes(range(16)), bytes(range(16, 32)))
OTHER = PairKeys(bytes(range(16, 32)), bytes(range(16)))
TITLE = b"HDMabcde"
SET = bytes.fromhex("c101c1000100008003 00ff0200".replace(" ", "")) + bytes(20)
PUSH = bytes.fromhex("0f0000010002") + bytes(30)


def opened(data: bytes, keys: PairKeys = KEYS, title: bytes = TITLE) -> bytes | None:
    """What a receiver makes of these bytes; None for everything it refuses."""
    try:
        return reveal(parse(data), keys, title)
    except DecodeError:
        return None


@given(st.binary(min_size=1, max_size=900), st.integers(0, 2**32 - 1), st.booleans())
def test_an_envelope_gives_back_what_went_in(plain: bytes, counter: int, named: bool) -> None:
    """Any APDU, with the title or without."""
    data = protect(plain, KEYS, TITLE, counter, named=named)
    envelope = parse(data)
    assert envelope.counter == counter
    assert envelope.title == (TITLE if named else b"")
    assert reveal(envelope, KEYS, TITLE) == plain


@pytest.mark.parametrize(("plain", "added"), [(SET, 19), (PUSH, 20), (PUSH + bytes(100), 21)])
def test_an_envelope_costs_nineteen_to_twenty_one_bytes(plain: bytes, added: int) -> None:
    """Tag, length, control, counter and authentication tag; no title."""
    assert len(protect(plain, KEYS, TITLE, 7)) == len(plain) + added


def test_the_library_opens_what_we_seal() -> None:
    """The second opinion: general-glo-ciphering with its title, read by the library's own class."""
    data = protect(PUSH, KEYS, TITLE, 0x01020304, named=True)
    assert GeneralGlobalCipher.from_bytes(data).to_plain_apdu(KEYS.encryption, KEYS.authentication) == PUSH


@pytest.mark.parametrize("data", [protect(SET, KEYS, TITLE, 7), protect(PUSH, KEYS, TITLE, 7, named=True)])
def test_a_bit_flipped_anywhere_closes_the_envelope(data: bytes) -> None:
    """Every bit of every byte, header and tag included."""
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            found = opened(bytes(flipped), title=parse_title(bytes(flipped)))
            assert found is None, (at, bit)
    assert opened(data) is not None


def parse_title(data: bytes) -> bytes:
    """The title a receiver would believe if it believed the envelope."""
    try:
        return parse(data).title or TITLE
    except DecodeError:
        return TITLE


def test_a_truncated_tag_closes_the_envelope() -> None:
    """One to all bytes short, with a length that says so and one that does not."""
    data = protect(SET, KEYS, TITLE, 7)
    for cut in range(1, len(data)):
        short = data[:-cut]
        assert opened(short) is None
        assert len(short) < 2 or opened(bytes((short[0], len(short) - 2)) + short[2:]) is None


def test_other_keys_titles_and_counters_open_nothing() -> None:
    """Encryption key, authentication key, sender and counter are all bound."""
    data = protect(SET, KEYS, TITLE, 7)
    assert opened(data, OTHER) is None
    assert opened(data, PairKeys(KEYS.encryption, OTHER.authentication)) is None
    assert opened(data, PairKeys(OTHER.encryption, KEYS.authentication)) is None
    assert opened(data, title=b"HDCabcde") is None
    assert opened(data[:3] + (8).to_bytes(4, "big") + data[7:]) is None


def test_a_group_envelope_is_no_pairwise_one() -> None:
    """The control byte is authenticated: the key's use cannot be changed on the way."""
    data = protect_group(SET, KEYS, TITLE, 7)
    assert parse(data).group
    assert opened(data) == SET
    assert opened(data.replace(b"\x70", b"\x30", 1)) is None


def test_the_header_of_one_message_does_not_fit_the_content_of_another() -> None:
    """Splices: the envelope of a GET round a SET, and the counter and content of two messages."""
    one, two = protect(SET, KEYS, TITLE, 7), protect(SET[:-1] + b"\x01", KEYS, TITLE, 8)
    with pytest.raises(Spliced):
        reveal(parse(b"\xc8" + one[1:]), KEYS, TITLE)
    assert opened(one[:7] + two[7:]) is None
    assert opened(one[:-12] + two[-12:]) is None


def test_an_envelope_under_a_dedicated_key_differs_in_its_tag() -> None:
    """Each service's own, and the general one; there and back. None of them is an envelope of a session."""
    for service, glo in SERVICES.items():
        for named in (False, True):
            data = protect(bytes((service,)) + SET[1:], KEYS, TITLE, 7, named=named)
            dedicated = as_dedicated(data)
            assert dedicated[0] == (0xDC if named else glo + 8)
            assert dedicated[1:] == data[1:]
            assert as_global(dedicated) == data
            assert as_global(data) is None
            assert not is_protected(dedicated)
            with pytest.raises(DecodeError):
                parse(dedicated)
    assert as_global(b"") is None


@given(st.binary(max_size=64).map(lambda rest: bytes((GENERAL_GLO,)) + rest) | st.binary(max_size=64))
def test_garbage_is_a_decode_error(data: bytes) -> None:
    """Whatever comes, nothing else is raised."""
    assert opened(data) is None


def test_lengths_have_one_form() -> None:
    """A length in a longer form than needed is refused, so that each envelope has one encoding."""
    data = protect(SET, KEYS, TITLE, 7)
    assert opened(data[:1] + b"\x81" + data[1:]) is None
    assert opened(data[:1] + b"\x82\x00" + data[1:]) is None
    long = protect(bytes((0xC1,)) * 300, KEYS, TITLE, 7)
    assert long[1:2] == b"\x82"
    assert opened(long) is not None


def test_a_wrapped_key_comes_back_under_its_master_only() -> None:
    """RFC 3394, with the vector of its section 4.1."""
    master, key = bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff")
    wrapped = bytes.fromhex("1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5")
    assert protection.wrap(master, key) == wrapped
    assert protection.unwrap(master, wrapped) == key
    assert protection.unwrap(bytes(16), wrapped) is None
    assert protection.unwrap(master, wrapped[:-1]) is None
    assert protection.unwrap(master, bytes(24)) is None
