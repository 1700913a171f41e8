"""The fuzz targets on their kept corpus, and on what hypothesis makes of it: nothing but a value or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tests.fuzz import ALLOCATION_BYTES_MAX, FUZZING, TARGETS, bounded
from shared.tests.fuzz_cases import run_corpus, run_near


@pytest.mark.parametrize("target", TARGETS)
def test_the_kept_corpus_passes(target: str) -> None:
    """Within the memory a decoder may take."""
    run_corpus(FUZZING, target)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_what_is_near_the_corpus_passes_too(target: str, data: st.DataObject) -> None:
    """Within the same memory."""
    run_near(FUZZING, target, data)


def test_a_decoder_that_takes_too_much_memory_is_found() -> None:
    """Also if it gives it back at once."""
    bounded(lambda data: None, b"a")
    with pytest.raises(AssertionError, match="of memory"):
        bounded(lambda _data: bytearray(ALLOCATION_BYTES_MAX).clear(), b"a")
