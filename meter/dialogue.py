"""The household's request: asked, repeated, given up, granted, denied, released. Pure.

A wish persists until it is released, denied or revoked, or until this meter falls back to nominal by itself. If its
grant ends by silence (lease over, a DCU that started again) the wish is asked anew under a new request id as soon as
somebody listens. A repetition carries the same request id; the nonce is the limiter's and always fresh.

Who asks for another limit while a grant lives goes over without a gap: the old wish and its grant stay until the new
one is granted, and come back if it is denied or nobody answers. When a DCU is there again after a gap, many meters
notice at once; each waits a random while before it asks, so that they do not all speak in the same second.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.ids import RequestId

RETURN_SPREAD_S_MAX: Final = 600.0
"""[s] Nobody waits longer than ten minutes to ask again."""


@dataclass(frozen=True, slots=True)
class Wish:
    """More export [W], at least so much, and the number of the question."""

    limit_w: float
    minimum_limit_w: float
    request_id: RequestId


@dataclass(frozen=True, slots=True)
class DialogueSettings:
    """How insistent a meter is.

    Attributes:
        repeat_s: to the first repetition of a question; doubles from there.
        repeat_s_max: longest pause between two repetitions.
        attempts_max: questions without an answer after which a wish is given up.
        cool_down_s: after a denial the next question waits so long.
        return_spread_s: after a gap a wish that stands is asked again within so long, at a random moment.
    """

    repeat_s: float = 5.0
    repeat_s_max: float = 60.0
    attempts_max: int = 8
    cool_down_s: float = 5.0
    return_spread_s: float = 30.0

    def __post_init__(self) -> None:
        assert 0 < self.repeat_s <= self.repeat_s_max, (self.repeat_s, self.repeat_s_max)
        assert self.attempts_max > 0, self.attempts_max
        assert self.cool_down_s >= 0, self.cool_down_s
        assert 0 <= self.return_spread_s <= RETURN_SPREAD_S_MAX, self.return_spread_s


class State(Enum):
    """Where the wish stands."""

    IDLE = "no wish"
    ASKING = "asking"
    GRANTED = "granted"
    CHANGING = "granted, and asking for another limit"
    DENIED = "denied"


class Happening(Enum):
    """What can happen to a wish."""

    ASKED = "asked"
    RELEASED = "released"
    GRANTED = "granted"
    DENIED = "denied"
    REVOKED = "revoked"
    LOWERED = "a part of the grant was taken back"
    FELL_BACK = "this meter fell back to nominal"
    ENDED = "grant ended by itself"
    LISTENED = "the substation listens again"
    GREETED = "the first substation of this boot has named its epoch"
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
        self._denied_s = -math.inf
        self._kept: Wish | None = None

    @property
    def wake_at(self) -> float | None:
        """When to ask (again) [s]."""
        return self._ask_at

    @property
    def wished(self) -> bool:
        """Whether the household wants more at present."""
        return self.state in {State.ASKING, State.GRANTED, State.CHANGING}

    @property
    def kept(self) -> Wish | None:
        """The wish whose grant stays while another limit is asked for."""
        return self._kept

    def wishes(self, request_id: RequestId) -> bool:
        """Whether a grant of this question is wanted: the one that is open, or the one that lives meanwhile."""
        kept = self._kept is not None and request_id == self._kept.request_id
        return self.wished and (kept or request_id == self.request_id)

    def wish(self, limit_w: float, minimum_limit_w: float, now: float) -> bool:
        """The household asks; a new wish replaces an old one, the same one again changes nothing."""
        if self.wished and (limit_w, minimum_limit_w) == (self.limit_w, self.minimum_limit_w):
            return False
        if self.state is State.GRANTED:
            self._kept = Wish(self.limit_w, self.minimum_limit_w, self.request_id)
        self.limit_w, self.minimum_limit_w = limit_w, minimum_limit_w
        return self.happens(Happening.ASKED, now)

    def happens(self, what: Happening, now: float) -> bool:
        """Take what happened; whether it meant anything in this state."""
        found = _TABLE.get((self.state, what))
        if found is None:
            return False
        self.state, action = found
        if what not in {Happening.LISTENED, Happening.GREETED}:
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
        """Ask the same at once, and count from the first; a question that waits for its moment goes on waiting."""
        if self._attempts > 0:
            self._attempts = 0
            self._ask_at = now

    def _return(self, now: float) -> None:
        """Somebody is there again: ask within the window, unless a later moment is already chosen."""
        if self._attempts > 0 or self._ask_at is None or self._ask_at <= now:
            self._attempts = 0
            self._ask_at = now + self._draw.uniform(0.0, self._settings.return_spread_s)

    def _deny(self, now: float) -> None:
        self._denied_s = now
        self._ask_at = None

    def _rest(self, _now: float) -> None:
        self._ask_at = None
        self._kept = None

    def _keep_old(self, _now: float) -> None:
        """The other limit is not to be had: the old wish again, and its grant."""
        assert self._kept is not None, "a change keeps what it would change"
        self.limit_w, self.minimum_limit_w = self._kept.limit_w, self._kept.minimum_limit_w
        self.request_id = self._kept.request_id
        self._rest(_now)

    def _keep_old_denied(self, now: float) -> None:
        self._keep_old(now)
        self._deny(now)

    def _lose_old(self, _now: float) -> None:
        """The old grant has ended; the question that is open goes on."""
        self._kept = None


_Action = Callable[[Dialogue, float], None]

_TABLE: Final[dict[tuple[State, Happening], tuple[State, _Action]]] = {
    (State.IDLE, Happening.ASKED): (State.ASKING, Dialogue._ask),
    (State.ASKING, Happening.ASKED): (State.ASKING, Dialogue._ask),
    (State.ASKING, Happening.LISTENED): (State.ASKING, Dialogue._return),
    (State.ASKING, Happening.GREETED): (State.ASKING, Dialogue._insist),
    (State.ASKING, Happening.GRANTED): (State.GRANTED, Dialogue._rest),
    (State.ASKING, Happening.DENIED): (State.DENIED, Dialogue._deny),
    (State.ASKING, Happening.LOWERED): (State.ASKING, Dialogue._insist),
    (State.ASKING, Happening.REVOKED): (State.IDLE, Dialogue._rest),
    (State.ASKING, Happening.RELEASED): (State.IDLE, Dialogue._rest),
    (State.ASKING, Happening.FELL_BACK): (State.IDLE, Dialogue._rest),
    (State.ASKING, Happening.GAVE_UP): (State.IDLE, Dialogue._rest),
    (State.GRANTED, Happening.ASKED): (State.CHANGING, Dialogue._ask_later),
    (State.GRANTED, Happening.GRANTED): (State.GRANTED, Dialogue._rest),
    (State.GRANTED, Happening.LOWERED): (State.GRANTED, Dialogue._rest),
    (State.GRANTED, Happening.ENDED): (State.ASKING, Dialogue._ask),
    (State.GRANTED, Happening.REVOKED): (State.IDLE, Dialogue._rest),
    (State.GRANTED, Happening.RELEASED): (State.IDLE, Dialogue._rest),
    (State.GRANTED, Happening.FELL_BACK): (State.IDLE, Dialogue._rest),
    (State.CHANGING, Happening.ASKED): (State.CHANGING, Dialogue._ask),
    (State.CHANGING, Happening.LISTENED): (State.CHANGING, Dialogue._return),
    (State.CHANGING, Happening.GRANTED): (State.GRANTED, Dialogue._rest),
    (State.CHANGING, Happening.DENIED): (State.GRANTED, Dialogue._keep_old_denied),
    (State.CHANGING, Happening.GAVE_UP): (State.GRANTED, Dialogue._keep_old),
    (State.CHANGING, Happening.LOWERED): (State.CHANGING, Dialogue._insist),
    (State.CHANGING, Happening.ENDED): (State.ASKING, Dialogue._lose_old),
    (State.CHANGING, Happening.REVOKED): (State.IDLE, Dialogue._rest),
    (State.CHANGING, Happening.RELEASED): (State.IDLE, Dialogue._rest),
    (State.CHANGING, Happening.FELL_BACK): (State.IDLE, Dialogue._rest),
    (State.DENIED, Happening.ASKED): (State.ASKING, Dialogue._ask_later),
}
"""Every state change of a wish: ``(state, what happened) -> (state after it, action)``; what is not here changes
nothing."""
