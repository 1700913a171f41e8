"""The fuzz targets on their kept corpus, and on what hypothesis makes of it: nothing but a value or a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime_plc.tests.fuzz import FUZZING, TARGETS
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
