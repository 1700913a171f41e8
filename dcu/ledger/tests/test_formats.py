"""The published formats, byte by byte: what others have computed, and what must be refused."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcu.ledger.canonical import canonical, number, parse_canonical
from dcu.ledger.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from dcu.ledger.note import (
    Checkpoint,
    KeyKind,
    Signer,
    Verifier,
    open_checkpoint,
    parse_checkpoint,
    parse_note,
)
from dcu.ledger.proof import parse_proof
from dcu.ledger.tests import second_verifier
from dcu.ledger.tiles import number_path, pyramid, tile_path
from shared.errors import DecodeError

# Leaves and roots of the reference implementation of RFC 6962 (Certificate Transparency), for sizes 0 to 8.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES]


def node(level: int, index: int) -> bytes:
    """Of the reference tree."""
    return pyramid(HASHES)[level][index]


def test_roots_are_those_of_the_reference_implementation() -> None:
    """Leaves, empty tree and all sizes up to eight."""
    assert EMPTY_ROOT.hex() == ROOTS[0]
    for size, root in enumerate(ROOTS):
        assert root_of(HASHES[:size]).hex() == root
        assert root_at(size, node).hex() == root
        assert second_verifier.mth(HASHES[:size]).hex() == root


def test_the_example_of_rfc_6962_has_its_proofs() -> None:
    """§2.1.3: seven leaves; the audit paths of d0, d3, d4 and d6, the proofs from 3, 4 and 6 to 7, by their names."""
    a, b, c, d, e, f, j = HASHES[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, left = node_hash(i, j), node_hash(g, h)
    assert inclusion_proof(0, 7, node) == [b, h, k]
    assert inclusion_proof(3, 7, node) == [c, g, k]
    assert inclusion_proof(4, 7, node) == [f, j, left]
    assert inclusion_proof(6, 7, node) == [i, left]
    assert consistency_proof(3, 7, node) == [c, d, g, k]
    assert consistency_proof(4, 7, node) == [k]
    assert consistency_proof(6, 7, node) == [i, j, left]


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 600), st.data())
def test_every_proof_verifies_and_none_does_for_anything_else(size: int, data: st.DataObject) -> None:
    """Trees of any size: inclusion and consistency hold, by the second verifier too; another leaf, place, size, root or
    a changed path does not."""
    hashes = [hashlib.sha256(bytes([n % 251, n // 251])).digest() for n in range(size)]
    rows = pyramid(hashes)
    root = root_of(hashes)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    path = inclusion_proof(index, size, lambda level, at: rows[level][at])
    assert verify_inclusion(hashes[index], index, size, path, root)
    assert second_verifier.path_root(hashes[index], index, size, path) == root
    wrong = bytes(32)
    assert not verify_inclusion(wrong, index, size, path, root)
    assert not verify_inclusion(hashes[index], index, size, path, wrong)
    assert not verify_inclusion(hashes[index], index, size, [*path, wrong], root)
    assert not verify_inclusion(hashes[index], size, size, path, root)
    assert not path or not verify_inclusion(hashes[index], index, size, path[:-1], root)
    for at in range(len(path)):
        assert not verify_inclusion(hashes[index], index, size, [*path[:at], wrong, *path[at + 1 :]], root)
    proof = consistency_proof(old, size, lambda level, at: rows[level][at])
    before = root_of(hashes[:old])
    assert verify_consistency(old, size, proof, before, root)
    assert not verify_consistency(old, size, proof, wrong, root)
    assert not verify_consistency(old, size, [*proof, wrong], before, root)
    for at in range(len(proof)):
        assert not verify_consistency(old, size, [*proof[:at], wrong, *proof[at + 1 :]], before, root)


def test_numbers_are_printed_as_rfc_8785_appendix_b_says() -> None:
    """The bit patterns of the appendix and their text; NaN and infinities have none."""
    known = {
        "0000000000000000": "0",
        "8000000000000000": "0",
        "0000000000000001": "5e-324",
        "8000000000000001": "-5e-324",
        "7fefffffffffffff": "1.7976931348623157e+308",
        "ffefffffffffffff": "-1.7976931348623157e+308",
        "4340000000000000": "9007199254740992",
        "c340000000000000": "-9007199254740992",
        "4430000000000000": "295147905179352830000",
        "44b52d02c7e14af5": "9.999999999999997e+22",
        "44b52d02c7e14af6": "1e+23",
        "44b52d02c7e14af7": "1.0000000000000001e+23",
        "444b1ae4d6e2ef4e": "999999999999999700000",
        "444b1ae4d6e2ef4f": "999999999999999900000",
        "444b1ae4d6e2ef50": "1e+21",
        "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
        "3eb0c6f7a0b5ed8d": "0.000001",
        "41b3de4355555553": "333333333.3333332",
        "41b3de4355555554": "333333333.33333325",
        "41b3de4355555555": "333333333.3333333",
        "41b3de4355555556": "333333333.3333334",
        "41b3de4355555557": "333333333.33333343",
        "becbf647612f3696": "-0.0000033333333333333333",
        "43143ff3c1cb0959": "1424953923781206.2",
    }
    import struct  # noqa: PLC0415

    for bits, text in known.items():
        assert number(struct.unpack(">d", bytes.fromhex(bits))[0]) == text, bits
    for bits in ("7fffffffffffffff", "7ff0000000000000", "fff0000000000000"):
        with pytest.raises(ValueError, match="JSON"):
            number(struct.unpack(">d", bytes.fromhex(bits))[0])


def test_the_examples_of_rfc_8785_have_their_bytes() -> None:
    """§3.2.2 (numbers, texts, literals) and §3.2.3 (keys in the order of UTF-16 code units)."""
    text = '\u20ac$\u000f\nA\'B"\\\\"/'
    value = {"numbers": [333333333.33333329, 1e30, 4.5, 2e-3, 1e-27], "string": text, "literals": [None, True, False]}
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(value) == expected.encode()
    keys = {"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One"}
    keys |= {"\U0001f600": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}
    order = ["Carriage Return", "One", "Control", "Latin Small Letter O With Diaeresis", "Euro Sign"]
    order += ["Emoji: Grinning Face", "Hebrew Letter Dalet With Dagesh"]
    assert list(json.loads(canonical(keys)).values()) == order


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)  # a busy machine is no failure
@given(JSON)
def test_a_value_has_one_form(value: object) -> None:
    """What is read back is equal and has the same bytes; the same value written in another way is refused."""
    data = canonical(value)
    assert parse_canonical(data) == value
    for other in (b" " + data, data + b"\n", json.dumps(value, indent=1).encode()):
        if other != data:
            with pytest.raises(DecodeError):
                parse_canonical(other)


@pytest.mark.parametrize(
    "text",
    [b'{"b":1,"a":2}', b'{"a":1,"a":1}', b"1.0", b"1e5", b"-0", b'"\\u0041"', b'"\\/"', b"01", b"NaN", b"[1,]", b"",
     b'"\\ud800"', b"9007199254740993", b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_another_form_is_refused(text: bytes) -> None:
    """Order, doubled keys, numbers and escapes that RFC 8785 writes otherwise, and what is no JSON."""
    with pytest.raises(DecodeError):
        parse_canonical(text)


# The example of Go's golang.org/x/mod/sumdb/note documentation.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def test_a_note_of_another_implementation_verifies() -> None:
    """By us and by the second verifier; a flipped byte anywhere does not."""
    key = Verifier.parse(PETER)
    assert key.vkey() == PETER
    assert key.signed(parse_note(NOTE)) == 0
    assert second_verifier.verify_note(NOTE, PETER) == NOTE.decode().split("\n\n")[0] + "\n"
    for at in range(len(NOTE)):
        bad = NOTE[:at] + bytes((NOTE[at] ^ 1,)) + NOTE[at + 1 :]
        with pytest.raises(DecodeError):
            assert key.signed(parse_note(bad)) is not None or raise_decode_error()


def raise_decode_error() -> bool:
    """A signature that is ignored is as good as none."""
    raise DecodeError("not signed")


def test_ed25519_of_rfc_8032_is_what_both_verifiers_use() -> None:
    """§7.1, tests 1 and 2."""
    for public, message, signature in (
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"  # noqa: ISC004
            "24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a"  # noqa: ISC004
            "eeb00d291612bb0c00",
        ),
    ):
        key, text, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
        assert second_verifier.ed25519_verify(key, text, signed)
        assert not second_verifier.ed25519_verify(key, text + b"x", signed)


def test_heads_and_cosignatures_verify_with_the_second_verifier() -> None:
    """A log's head with two witnesses' signatures: each key finds its own and ignores the others'."""
    log = Signer("grid.example/dcu1", bytes(range(32)))
    witnesses = [Signer(f"w{n}.example", bytes([n]) * 32, KeyKind.WITNESS) for n in (1, 2)]
    text = Checkpoint(log.verifier.name, 7, bytes.fromhex(ROOTS[7])).text()
    note = log.sign(text).with_signatures(tuple(w.cosign(text, 1_790_000_000) for w in witnesses))
    data = note.encode()
    assert open_checkpoint(data, log.verifier)[0].root.hex() == ROOTS[7]
    assert second_verifier.verify_head(data, log.verifier.vkey()) == (7, bytes.fromhex(ROOTS[7]))
    for witness in witnesses:
        assert witness.verifier.signed(parse_note(data)) == 1_790_000_000
        assert second_verifier.verify_note(data, witness.verifier.vkey()) == text
    stranger = Signer("w1.example", bytes(32), KeyKind.WITNESS).verifier
    assert stranger.signed(parse_note(data)) is None


@pytest.mark.parametrize(
    "text", ["", "o\n", "o\n1\n", "o\n01\nAA==\n", "o\n-1\n" + base64.b64encode(bytes(32)).decode() + "\n",
             "o\n1\nAA==\n", "\n1\n" + base64.b64encode(bytes(32)).decode() + "\n",
             "o\n1\n" + base64.b64encode(bytes(32)).decode() + "\nmore\n",
             "o\n99999999999999999999\n" + base64.b64encode(bytes(32)).decode() + "\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Missing lines, leading zeros, signs, short roots, sizes beyond 63 bits."""
    with pytest.raises(DecodeError):
        parse_checkpoint(text)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=300))
def test_garbage_is_refused_as_such(data: bytes) -> None:
    """Parsers of bytes from outside raise `DecodeError` and nothing else."""
    for parse in (parse_note, parse_proof, parse_canonical):
        try:
            parse(data)
        except DecodeError:
            continue
    with pytest.raises(DecodeError):
        Verifier.parse(data.decode("latin-1"))


def test_tiles_lie_where_tlog_tiles_says() -> None:
    """The specification's own examples."""
    assert number_path(1234067) == "x001/x234/067"
    assert tile_path(0, 272) == "tile/0/272"
    assert tile_path(1, 1, 17) == "tile/1/001.p/17"
    assert tile_path("entries", 1000) == "tile/entries/x001/000"
