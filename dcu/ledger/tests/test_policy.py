"""Whom a verifier trusts: the policy file, its quorum, and everything that is wrong with one."""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path

import pytest

from dcu.ledger.note import KeyKind, Signer
from dcu.ledger.policy import load_policy
from shared.errors import ConfigError

LOG = Signer("log.example", bytes(32)).verifier.vkey()
KEYS = {
    n: Signer(f"{n}.example", n.encode().ljust(32), KeyKind.WITNESS).verifier.vkey() for n in ("x1", "x2", "x3", "y")
}
WITNESSES = "".join(f"witness {name} {key}\n" for name, key in KEYS.items())


def loaded(directory: Path, text: str):  # type: ignore[no-untyped-def]
    path = directory / "policy"
    path.write_text(text, encoding="utf-8")
    return load_policy(path)


def test_a_quorum_of_groups_is_met_by_just_the_sets_that_meet_it(tmp_path: Path) -> None:
    """The specification's own example: two of three X and any Y; every set of witnesses is tried."""
    groups = "group X 2 x1 x2 x3\ngroup Y any y\ngroup both all X Y\nquorum both\n"
    policy = loaded(tmp_path, f"# trust\n\nlog {LOG}\n\t{WITNESSES}{groups}")
    for some in chain.from_iterable(combinations(KEYS, n) for n in range(5)):
        met = "y" in some and len(set(some) - {"y"}) >= 2
        assert policy.met(dict.fromkeys(some, 1)) == met, some
    assert loaded(tmp_path, f"log {LOG}\nquorum none\n").met({})


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"log {LOG}\n",
        "quorum w\n",
        "quorum none\nquorum none\n",
        f"{WITNESSES}group none all x1\nquorum none\n",
        f"{WITNESSES}group g 0 x1\nquorum g\n",
        f"{WITNESSES}group g 3 x1 x2\nquorum g\n",
        f"{WITNESSES}group g ² x1 x2\nquorum g\n",
        f"{WITNESSES}group g all x1 x1\nquorum g\n",
        f"{WITNESSES}group g all x1\ngroup h all x1\nquorum g\n",
        f"{WITNESSES}group g all h\ngroup h all x1\nquorum g\n",
        f"{WITNESSES}{WITNESSES}quorum x1\n",
        f"log {KEYS['y']}\nquorum none\n",
        f"log {LOG}\nlog {LOG}\nquorum none\n",
        f"witness w {LOG}\nquorum w\n",
        f"log {LOG[:-4]}\nquorum none\n",
        "nonsense\nquorum none\n",
        "quorum none\n" + "#\n" * 2000,
    ],
)
def test_every_wrong_policy_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    """Missing or double quorum, unknown, doubled or self-made names, impossible counts, keys of the wrong kind."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert caught.value.faults


def test_a_policy_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, no UTF-8."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("missing", ".", "bytes"):
        with pytest.raises(ConfigError):
            load_policy(tmp_path / name)
