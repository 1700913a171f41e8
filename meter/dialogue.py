"""The household's request: asked, repeated, given up, granted, released. Pure.

A wish persists until it is released, denied or revoked. If its grant ends by silence (lease over, a DCU that started
again) the wish is asked anew under a new request id as soon as somebody listens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from typing import Final

from shared.ids import RequestId

REPEAT_S: Final = 5.0
"""[s] To the first repetition; doubles from there."""

REPEAT_S_MAX: Final = 60.0
ASKED_MAX: Final = 8
"""Questions without an answer after which a wish is given up."""


class State(Enum):
    """Where the wish stands."""

    IDLE = "no wish"
    ASKING = "asking"
    GRANTED = "granted"


class Happening(Enum):
    """What can happen to a wish."""

    ASKED = "asked"
    RELEASED = "released"
    GRANTED = "granted"
    DENIED = "denied"
    REVOKED = "revoked"
    ENDED = "grant ended by itself"
    GAVE_UP = "gave up"


class Dialogue:
    """One wish at a time."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.state = State.IDLE
        self.outcome = ""
        self.limit_w = 0.0
        self.minimum_limit_w = 0.0
        self.request_id = RequestId(0)
        self._asked = 0
        self._ask_at: float | None = None

    @property
    def wake_at(self) -> float | None:
        """When to ask (again) [s]."""
        return self._ask_at

    def wish(self, limit_w: float, minimum_limit_w: float, now: float) -> None:
        """The household asks; a new wish replaces an old one."""
        self.limit_w, self.minimum_limit_w = limit_w, minimum_limit_w
        self.happens(Happening.ASKED, now)

    def happens(self, what: Happening, now: float) -> bool:
        """Take what happened; whether it meant anything in this state."""
        action = _TABLE.get((self.state, what))
        if action is None:
            return False
        self.outcome = what.value
        action(self, now)
        return True

    def ask_now(self, now: float) -> bool:
        """Whether a question is due; counts it, or gives up."""
        if self._ask_at is None or now < self._ask_at:
            return False
        if self._asked >= ASKED_MAX:
            self.happens(Happening.GAVE_UP, now)
            return False
        self._ask_at = now + min(REPEAT_S_MAX, REPEAT_S * 2.0**self._asked)
        self._asked += 1
        return True

    def listened(self, now: float) -> None:
        """Somebody listens (again): a pending question goes out at once and counts from the first."""
        if self.state is State.ASKING:
            self._asked = 0
            self._ask_at = now

    def _ask(self, now: float) -> None:
        self.state = State.ASKING
        self.request_id = RequestId(self._draw.getrandbits(32))
        self._asked = 0
        self._ask_at = now

    def _granted(self, _now: float) -> None:
        self.state = State.GRANTED
        self._ask_at = None

    def _over(self, _now: float) -> None:
        self.state = State.IDLE
        self._ask_at = None


_Action = Callable[[Dialogue, float], None]

_TABLE: Final[dict[tuple[State, Happening], _Action]] = {
    (State.IDLE, Happening.ASKED): Dialogue._ask,
    (State.ASKING, Happening.ASKED): Dialogue._ask,
    (State.ASKING, Happening.GRANTED): Dialogue._granted,
    (State.ASKING, Happening.DENIED): Dialogue._over,
    (State.ASKING, Happening.REVOKED): Dialogue._over,
    (State.ASKING, Happening.RELEASED): Dialogue._over,
    (State.ASKING, Happening.GAVE_UP): Dialogue._over,
    (State.GRANTED, Happening.ASKED): Dialogue._ask,
    (State.GRANTED, Happening.REVOKED): Dialogue._over,
    (State.GRANTED, Happening.RELEASED): Dialogue._over,
    (State.GRANTED, Happening.ENDED): Dialogue._ask,
}
"""Every state change of a wish; what is not here changes nothing."""
