"""No decision is interrupted by Python's collector, and what goes in circles is still collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from dcu.garbage import WHOLE_EVERY, Tidy


@pytest.fixture(autouse=True)
def given_back() -> Iterator[None]:
    """The interpreter's collector, afterwards."""
    yield
    gc.unfreeze()
    gc.enable()


class Circle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_circles_go_when_it_is_a_good_moment_and_not_before() -> None:
    """Many more objects than Python would wait for; the young ones go at once, old ones within a minute."""
    tidy = Tidy()
    young = [weakref.ref(Circle()) for _ in range(100_000)]
    assert all(one() is not None for one in young)
    tidy()
    assert all(one() is None for one in young)
    circle: Circle | None = Circle()
    old = weakref.ref(circle)
    tidy()
    tidy()  # it is old now
    circle = None
    for _ in range(WHOLE_EVERY):
        tidy()
    assert old() is None
