"""Cyclic garbage is collected between decisions, not inside them.

Python's collector runs when enough objects have been made, which a decision for a hundred customers does by itself: it
would pause in the middle, the longer the more there is to look through. Here what lives since the start is looked
through no more, and the rest on a timer of the loop, in which nothing else runs.
"""

from __future__ import annotations

import gc
from typing import Final

TIDY_S: Final = 1.0
"""[s] Between two collections of what is young."""
WHOLE_EVERY: Final = 60
"""Every so manieth looks through all that was made since the start."""


class Tidy:
    """Takes the collector over from the interpreter, for good."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        self._count = 0

    def __call__(self) -> None:
        """It is a good moment."""
        self._count += 1
        gc.collect(2 if self._count % WHOLE_EVERY == 0 else 1)
