"""One line per transition, quoted where needed, and no library beside it that says everything again."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from shared.log import event, get_logger, set_up_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A log of our own; the test run's handlers come back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_transition_is_one_line_of_words(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in UTC, level, who, what, and named values; blanks are quoted, line breaks do not break the line."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up_logging(stream=stream)
    event(get_logger("meter"), logging.WARNING, "no reading", why="two words", limit_w=1200.0, text="a\nb")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('WARNING meter: no reading why="two words" limit_w=1200 text=a\\nb')
    assert line[10] == "T"


def test_under_systemd_the_line_carries_its_priority(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has the time; an error is priority 3."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    set_up_logging(stream=stream)
    event(get_logger("dcu"), logging.ERROR, "alarm")
    assert stream.getvalue() == "<3>dcu: alarm\n"


def test_what_we_say_once_the_library_does_not_say_again(stream: io.StringIO) -> None:
    """pymodbus reports every unanswered request as an error; that is silenced."""
    set_up_logging(stream=stream)
    logging.getLogger("pymodbus.logging").error("No response received")
    assert stream.getvalue() == ""
