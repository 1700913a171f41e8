"""Questions on their way to an answer: which ones make sense, which were answered before, and who asks too often."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from dcu.hosting.correspondence import REPEAT_S
from dcu.hosting.grants import LiveGrant
from dcu.meters import MeterEntry
from shared.ids import MeterId, RequestId
from shared.messages import Denial, Reason, Request

REQUEST_S_MAX: Final = 40.0
"""[s] A request that could not be decided for so long (quarantine) is dropped; its meter repeats it with a fresh
nonce. One that waited for others to let go is denied."""

DENIALS_MAX: Final = 1024
"""Denials remembered, so that the same question gets the same answer."""

REQUESTS_MAX: Final = 60
"""New questions of one meter within `REQUESTS_S`; the next one is refused, what follows is left without an answer."""
REQUESTS_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A question, or a renewal, that waits for its window."""

    request: Request
    since_s: float


class Questions:
    """Every meter's open question."""

    def __init__(self) -> None:
        self.pending: dict[MeterId, Pending] = {}
        """What waits for its window, in the order it came."""
        self.flooded = 0
        """Questions beyond `REQUESTS_MAX` that were left without an answer."""
        self._denied: dict[tuple[MeterId, RequestId], Denial] = {}
        self._told_s: dict[MeterId, float] = {}
        self._asked: dict[MeterId, deque[float]] = {}
        self._voided: dict[MeterId, Pending] = {}

    @property
    def wake_at(self) -> float | None:
        """When the oldest question has waited too long [s]."""
        return min((pending.since_s + REQUEST_S_MAX for pending in self.pending.values()), default=None)

    def take(self, meter: MeterEntry, request: Request, grant: LiveGrant | None, now: float) -> Denial | Reason | None:
        """A meter asks.

        Args:
            meter: who.
            request: what.
            grant: what it lives on.
            now: [s].

        Returns:
            The answer it had before, to be sent again; why it is refused; or None: it waits for its window, or is left
            without an answer.
        """
        name = meter.id
        denied = self._denied.get((name, request.request_id))
        if denied is not None:
            if now < self._told_s.get(name, -math.inf) + REPEAT_S:
                return None
            self._told_s[name] = now
            return denied
        waiting = self.pending.get(name)
        if waiting is not None and waiting.request.request_id == request.request_id:
            self.pending[name] = Pending(request, waiting.since_s)
            return None
        if grant is not None and grant.request_id == request.request_id:
            if now < grant.decided_at_s + REPEAT_S:
                return None  # its grant is still on its way, or else got lost
        elif (place := self._count(name, now)) > REQUESTS_MAX:
            self.flooded += place > REQUESTS_MAX + 1
            return Reason.TOO_MANY_REQUESTS if place == REQUESTS_MAX + 1 else None
        objection = _objection(request, meter)
        if objection is None:
            self.pending[name] = Pending(request, self._since(name, request, now))
        return objection

    def answered(self, meter: MeterId) -> Request:
        """Its question has its answer."""
        return self.pending.pop(meter).request

    def denied(self, meter: MeterId, denial: Denial) -> None:
        """What it gets to hear if it asks the same again."""
        while len(self._denied) >= DENIALS_MAX:
            del self._denied[next(iter(self._denied))]
        self._denied[meter, denial.request_id] = denial

    def withdrawn(self, meter: MeterId, request_id: RequestId) -> None:
        """The household needs it no longer."""
        self._voided.pop(meter, None)
        pending = self.pending.get(meter)
        if pending is not None and pending.request.request_id == request_id:
            del self.pending[meter]

    def voided(self, meter: MeterId) -> None:
        """Its grant is lowered, which voids its nonces: no answer can use this one. The meter asks again at once with
        another; it counts from when it came first."""
        pending = self.pending.pop(meter, None)
        if pending is not None:
            self._voided[meter] = pending

    def _since(self, meter: MeterId, request: Request, now: float) -> float:
        """Since when a question waits [s]."""
        voided = self._voided.pop(meter, None)
        again = voided is not None and voided.request.request_id == request.request_id
        return voided.since_s if voided is not None and again and now < voided.since_s + REQUEST_S_MAX else now

    def overdue(self, now: float) -> list[tuple[MeterId, Request]]:
        """Those that have waited too long; they wait no longer."""
        late = [meter for meter, pending in self.pending.items() if now >= pending.since_s + REQUEST_S_MAX]
        return [(meter, self.answered(meter)) for meter in late]

    def _count(self, meter: MeterId, now: float) -> int:
        """Which number a new question of this meter has within `REQUESTS_S`; counted up to one too many."""
        asked = self._asked.setdefault(meter, deque(maxlen=REQUESTS_MAX + 1))
        while asked and asked[0] <= now - REQUESTS_S:
            asked.popleft()
        if len(asked) > REQUESTS_MAX:
            return len(asked) + 1
        asked.append(now)
        return len(asked)


def _objection(request: Request, entry: MeterEntry) -> Reason | None:
    """Why a question makes no sense whatever the grid bears."""
    if not (math.isfinite(request.limit_w) and math.isfinite(request.minimum_limit_w)):
        return Reason.BAD_REQUEST
    if not 0 <= request.minimum_limit_w <= request.limit_w or request.limit_w <= entry.nominal_limit_w:
        return Reason.BAD_REQUEST
    return Reason.ABOVE_CONTRACT if request.limit_w > entry.contract_limit_w else None
