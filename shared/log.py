"""One line per transition, readable by a person and by the journal.

A line is ``what key=value ...``. Under systemd the journal adds time and takes the priority from a ``<3>`` prefix;
elsewhere the line carries UTC time and level.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Final, TextIO

_PRIORITY: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class JournalFormatter(logging.Formatter):
    """Priority prefix for the journal, no time (the journal has it)."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{record.name}: {super().format(record)}"


def set_up_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send this process's log to ``stream`` (standard error), once."""
    handler = logging.StreamHandler(stream or sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        formatter = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = _utc
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(max(level, logging.WARNING))
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it reports every unanswered request; we say it once


def get_logger(name: str) -> logging.Logger:
    """The logger of one part of a daemon."""
    return logging.getLogger(name)


def event(logger: logging.Logger, level: int, what: str, **fields: object) -> None:
    """Log one transition: what happened and its named values."""
    if logger.isEnabledFor(level):
        words = [what, *(f"{key}={_word(value)}" for key, value in fields.items())]
        logger.log(level, "%s", " ".join(words))


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).replace("\n", "\\n")
    return f'"{text}"' if " " in text or not text else text


def _utc(seconds: float | None) -> time.struct_time:
    return time.gmtime(seconds)
