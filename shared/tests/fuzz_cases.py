"""What every room's `test_fuzz` does with its targets: the kept corpus, and what hypothesis makes of it."""

from __future__ import annotations

from hypothesis import strategies as st

from shared.tests.fuzz import Fuzzing, bounded

CASES_MIN = 8
"""Kept for each target at least."""


def run_corpus(fuzzing: Fuzzing, target: str) -> None:
    """Every case that was ever interesting, within the memory a decoder may take."""
    cases = fuzzing.corpus(target)
    assert len(cases) >= CASES_MIN, target
    for case in cases:
        bounded(fuzzing.targets[target], case)


def run_near(fuzzing: Fuzzing, target: str, data: st.DataObject) -> None:
    """A kept case with bytes changed, cut out or put in, or two of them joined."""
    cases = fuzzing.corpus(target)
    case = bytearray(data.draw(st.sampled_from(cases)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(case)))
        case[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        case += data.draw(st.sampled_from(cases))
    bounded(fuzzing.targets[target], bytes(case))
