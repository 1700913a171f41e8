"""The ledger read from the middle, across bundles and through an ended log."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcu.ledger.store import Ledger
from dcu.store.entries import ledger_source, logs, row_of
from dcu.store.tests.test_recorder import METER, MONDAY_S, WINDOW, grant, start


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred entries: two bundles and a tail."""
    directory = tmp_path_factory.mktemp("ledger")
    made = Ledger(directory, "dcu-1")
    made.append_all([start(1), *map(grant, range(1, 600))])
    made.close()
    return directory


@pytest.mark.parametrize("first", [0, 1, 255, 256, 257, 511, 512, 513, 599, 600, 700])
def test_reading_may_begin_anywhere(ledger: Path, first: int) -> None:
    """Positions and entries from there on, none twice and none left out."""
    found = list(ledger_source(ledger)(1, first))
    assert [position for position, _ in found] == list(range(first, 600))
    assert [entry["seq"] for _, entry in found] == list(range(first, 600))


def test_a_ledger_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    """No error: there is nothing to take over."""
    assert logs(tmp_path) == 1
    assert list(ledger_source(tmp_path)(1, 0)) == []


def test_a_row_says_who_when_and_what() -> None:
    """Columns for what is searched, the rest as JSON; windows and renewals are no events."""
    row = row_of(2, 7, grant(3), 0.0)
    body = '{"limit_w":300.0,"reason":"GRANTED"}'
    assert row == (round(1000 * MONDAY_S), "grant", METER, 1, 3, 2, 7, body)
    assert row_of(1, 1, WINDOW, 0.0) is None
    assert row_of(1, 1, grant(1) | {"kind": "renewal"}, 0.0) is None
