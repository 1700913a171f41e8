"""The strictest of several limits, and whose it is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter.limits import Ceilings, Limit, Limiter, strictest

watts = st.floats(0.0, 1e7)
some = st.none() | watts


@given(st.sampled_from([Limiter.NOMINAL, Limiter.GRANT]), watts, watts, some, some, some)
def test_nothing_but_the_base_raises(
    by: Limiter, base_w: float, contract_w: float, site_w: float | None, own_w: float | None, over_w: float | None
) -> None:
    """The result is never above the base and never above any ceiling, and it is one of them."""
    ceilings = Ceilings(contract_w, site_w, own_w, over_w).limits()
    found = strictest(Limit(by, base_w), ceilings)
    assert found in [Limit(by, base_w), *ceilings]
    assert all(found.limit_w <= limit.limit_w for limit in [Limit(by, base_w), *ceilings])


@pytest.mark.parametrize(
    ("ceilings", "expected"),
    [
        (Ceilings(2400.0), Limit(Limiter.GRANT, 2000.0)),
        (Ceilings(1999.9), Limit(Limiter.CONTRACT, 1999.9)),
        (Ceilings(2400.0, installation_limit_w=1500.0), Limit(Limiter.INSTALLATION, 1500.0)),
        (Ceilings(2400.0, 1500.0, 1499.0), Limit(Limiter.HOUSEHOLD, 1499.0)),
        (Ceilings(2400.0, 1500.0, 0.0), Limit(Limiter.HOUSEHOLD, 0.0)),
        (Ceilings(2400.0, 1500.0, 1300.0, 1200.0), Limit(Limiter.OVERVOLTAGE, 1200.0)),
        (Ceilings(2000.0, 2000.0, 2000.0), Limit(Limiter.GRANT, 2000.0)),
        (Ceilings(2000.0, 2000.0, 2000.0, 2000.0), Limit(Limiter.OVERVOLTAGE, 2000.0)),
    ],
)
def test_the_strictest_is_named(ceilings: Ceilings, expected: Limit) -> None:
    """Of equals the one that explains most."""
    assert strictest(Limit(Limiter.GRANT, 2000.0), ceilings.limits()) == expected


@pytest.mark.parametrize("wild", [math.nan, -1.0, -math.inf])
def test_a_limit_that_makes_no_sense_counts_as_zero(wild: float) -> None:
    """Unknown is no; wherever it stands among the others."""
    found = strictest(Limit(Limiter.NOMINAL, 1200.0), Ceilings(2400.0, wild, 900.0).limits())
    assert found == Limit(Limiter.INSTALLATION, 0.0)
    assert strictest(Limit(Limiter.GRANT, wild), Ceilings(2400.0).limits()).limit_w == 0.0
