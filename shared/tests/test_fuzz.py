"""The fuzz targets on their kept corpus, and on what hypothesis makes of it: nothing but a value or a refusal."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tests.fuzz import FUZZING, TARGETS

ALLOCATION_BYTES_MAX = 8 << 20


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus_passes(target: str) -> None:
    """Every case that was ever interesting, within the memory a decoder may take."""
    cases = FUZZING.corpus(target)
    assert len(cases) >= 8
    tracemalloc.start()
    try:
        for case in cases:
            TARGETS[target](case)
        assert tracemalloc.get_traced_memory()[1] < ALLOCATION_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_what_is_near_the_corpus_passes_too(target: str, data: st.DataObject) -> None:
    """A kept case with bytes changed, cut out or put in, or two of them joined."""
    cases = FUZZING.corpus(target)
    case = bytearray(data.draw(st.sampled_from(cases)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(case)))
        case[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        case += data.draw(st.sampled_from(cases))
    TARGETS[target](bytes(case))
