"""The household's request: asked, repeated, given up, granted, denied, released. Pure.

A wish persists until it is released, denied or revoked, or until this meter falls back to nominal by itself. If its
grant ends by silence (lease over, a DCU that started again) the wish is asked anew under a new request id as soon as
somebody listens. A repetition carries the same request id; the nonce is the limiter's and always fresh.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.ids import RequestId


@dataclass(frozen=True, slots=True)
class DialogueSettings:
    """How insistent a meter is.

    Attributes:
        repeat_s: to the first repetition of a question; doubles from there.
        repeat_s_max: longest pause between two repetitions.
        attempts_max: questions without an answer after which a wish is given up.
        cool_down_s: after a denial the next question waits so long.
    """

    repeat_s: float = 5.0
    repeat_s_max: float = 60.0
    attempts_max: int = 8
    cool_down_s: float = 5.0

    def __post_init__(self) -> None:
        assert 0 < self.repeat_s <= self.repeat_s_max, (self.repeat_s, self.repeat_s_max)
        assert self.attempts_max > 0, self.attempts_max
        assert self.cool_down_s >= 0, self.cool_down_s


class State(Enum):
    """Where the wish stands."""

    IDLE = "no wish"
    ASKING = "asking"
    GRANTED = "granted"
    DENIED = "denied"


class Happening(Enum):
    """What can happen to a wish."""

    ASKED = "asked"
    RELEASED = "released"
    GRANTED = "granted"
    DENIED = "denied"
    REVOKED = "revoked"
    FELL_BACK = "this meter fell back to nominal"
    ENDED = "grant ended by itself"
    LISTENED = "the substation listens"
    GAVE_UP = "no answer"


class Dialogue:
    """One wish at a time."""

    def __init__(self, draw: random.Random, settings: DialogueSettings | None = None) -> None:
        self._draw = draw
        self._settings = settings or DialogueSettings()
        self.state = State.IDLE
        self.outcome: Happening | None = None
        self.limit_w = 0.0
        self.minimum_limit_w = 0.0
        self.request_id = RequestId(0)
        self._attempts = 0
        self._ask_at: float | None = None
        self._denied_s = 0.0

    @property
    def wake_at(self) -> float | None:
        """When to ask (again) [s]."""
        return self._ask_at

    @property
    def wished(self) -> bool:
        """Whether the household wants more at present."""
        return self.state in {State.ASKING, State.GRANTED}

    def wish(self, limit_w: float, minimum_limit_w: float, now: float) -> bool:
        """The household asks; a new wish replaces an old one, the same one again changes nothing."""
        if self.wished and (limit_w, minimum_limit_w) == (self.limit_w, self.minimum_limit_w):
            return False
        self.limit_w, self.minimum_limit_w = limit_w, minimum_limit_w
        return self.happens(Happening.ASKED, now)

    def happens(self, what: Happening, now: float) -> bool:
        """Take what happened; whether it meant anything in this state."""
        found = _TABLE.get((self.state, what))
        if found is None:
            return False
        self.state, action = found
        if what is not Happening.LISTENED:
            self.outcome = what
        action(self, now)
        return True

    def ask_now(self, now: float) -> bool:
        """Whether a question is due; counts it, or gives up."""
        if self._ask_at is None or now < self._ask_at:
            return False
        if self._attempts >= self._settings.attempts_max:
            self.happens(Happening.GAVE_UP, now)
            return False
        self._ask_at = now + min(self._settings.repeat_s_max, self._settings.repeat_s * 2.0**self._attempts)
        self._attempts += 1
        return True

    # ---- actions of the table ----------------------------------------------------------------------------------------

    def _ask(self, now: float) -> None:
        self.request_id = RequestId(self._draw.getrandbits(32))
        self._attempts = 0
        self._ask_at = now

    def _ask_later(self, now: float) -> None:
        self._ask(now)
        self._ask_at = max(now, self._denied_s + self._settings.cool_down_s)

    def _insist(self, now: float) -> None:
        """Ask the same at once, and count from the first; a question that waits for its cool-down goes on waiting."""
        if self._attempts > 0:
            self._attempts = 0
            self._ask_at = now

    def _deny(self, now: float) -> None:
        self._denied_s = now
        self._ask_at = None

    def _rest(self, _now: float) -> None:
        self._ask_at = None


_Action = Callable[[Dialogue, float], None]

_TABLE: Final[dict[tuple[State, Happening], tuple[State, _Action]]] = {
    (State.IDLE, Happening.ASKED): (State.ASKING, Dialogue._ask),
    (State.ASKING, Happening.ASKED): (State.ASKING, Dialogue._ask),
    (State.ASKING, Happening.LISTENED): (State.ASKING, Dialogue._insist),
    (State.ASKING, Happening.GRANTED): (State.GRANTED, Dialogue._rest),
    (State.ASKING, Happening.DENIED): (State.DENIED, Dialogue._deny),
    (State.ASKING, Happening.REVOKED): (State.IDLE, Dialogue._rest),
    (State.ASKING, Happening.RELEASED): (State.IDLE, Dialogue._rest),
    (State.ASKING, Happening.FELL_BACK): (State.IDLE, Dialogue._rest),
    (State.ASKING, Happening.GAVE_UP): (State.IDLE, Dialogue._rest),
    (State.GRANTED, Happening.ASKED): (State.ASKING, Dialogue._ask),
    (State.GRANTED, Happening.GRANTED): (State.GRANTED, Dialogue._rest),
    (State.GRANTED, Happening.ENDED): (State.ASKING, Dialogue._ask),
    (State.GRANTED, Happening.REVOKED): (State.IDLE, Dialogue._rest),
    (State.GRANTED, Happening.RELEASED): (State.IDLE, Dialogue._rest),
    (State.GRANTED, Happening.FELL_BACK): (State.IDLE, Dialogue._rest),
    (State.DENIED, Happening.ASKED): (State.ASKING, Dialogue._ask_later),
}
"""Every state change of a wish: ``(state, what happened) -> (state after it, action)``; what is not here changes
nothing."""
