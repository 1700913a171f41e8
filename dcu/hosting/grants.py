"""Grants and the capacity they hold: a reservation outlives everything the meter can do with its grant."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from shared.ids import MeterId, RequestId
from shared.messages import DecisionId

DRIFT: Final = 2 * 500e-6
"""Two clocks, 500 ppm each."""

RESERVE_MARGIN_S: Final = 2.0
"""[s] Actuation and transport margins of the lease rule, one second each."""

HEARD_S: Final = 10.0
"""[s] A lowering that is not acknowledged after this, counted from the first decision that is not, is not believed to
have been heard: the others make room."""


def reserved_for_s(lease_s: float) -> float:
    """How long capacity is held after a decision [s]; the meter counts from before it, so this always covers it."""
    return lease_s * (1 + DRIFT) + RESERVE_MARGIN_S


@dataclass(frozen=True, slots=True)
class Reservation:
    """Capacity held for one grant decision."""

    decision: DecisionId
    meter: MeterId
    limit_w: float
    until_s: float


@dataclass(frozen=True, slots=True)
class LiveGrant:
    """A grant that is being renewed.

    Attributes:
        decided_at_s: of its newest decision [s].
        expires_s: when the meter has let it go at the latest, if nothing renews it [s].
        wanted_w, minimum_w: what was asked for, and the least of use.
        since_s: of its first decision [s].
        raised_s: when its limit rose while it was seen to be used, or began [s]. What was unused, or unknown, before a
            rise is not taken for used after it.
    """

    meter: MeterId
    request_id: RequestId
    decision: DecisionId
    limit_w: float
    decided_at_s: float
    expires_s: float
    wanted_w: float
    minimum_w: float
    since_s: float
    raised_s: float


def _envelope(held: list[Reservation]) -> list[Reservation]:
    """Those of one meter that hold more than all that last as long, or longer: together they hold what all hold."""
    found: list[Reservation] = []
    for reservation in sorted(held, key=lambda r: (r.until_s, r.limit_w), reverse=True):
        if not found or reservation.limit_w > found[-1].limit_w:
            found.append(reservation)
    return found[::-1]


class GrantBook:
    """Live grants and every reservation, old and new."""

    def __init__(self, reservations_max: int) -> None:
        self._reservations_max = reservations_max
        self._live: dict[MeterId, LiveGrant] = {}
        self._reservations: list[Reservation] = []
        self._newest: dict[MeterId, DecisionId] = {}
        self._told_s: dict[MeterId, float] = {}
        self._fell_s: dict[MeterId, float] = {}

    @property
    def places(self) -> int:
        """Reservations that still fit within the named limit."""
        return max(0, self._reservations_max - len(self._reservations))

    @property
    def live(self) -> tuple[LiveGrant, ...]:
        """Grants that are being renewed."""
        return tuple(self._live.values())

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """Capacity held."""
        return tuple(self._reservations)

    def grant_of(self, meter: MeterId) -> LiveGrant | None:
        """The live grant of a meter."""
        return self._live.get(meter)

    def newest(self, meter: MeterId) -> DecisionId | None:
        """The newest grant or revoke of a meter."""
        return self._newest.get(meter)

    def unheard(self, now: float) -> frozenset[MeterId]:
        """Whose grants live, and whose newest decision should long have been acknowledged."""
        return frozenset(m for m, told_s in self._told_s.items() if m in self._live and now >= told_s + HEARD_S)

    def leaving(self, now: float) -> frozenset[MeterId]:
        """Whose grants were revoked, and who are still believed to hear it: no acknowledgement is late yet."""
        return frozenset(m for m, told_s in self._told_s.items() if m not in self._live and now < told_s + HEARD_S)

    def fell_s(self, meter: MeterId) -> float:
        """When what a meter may export at most sank last [s]; long ago if never."""
        return self._fell_s.get(meter, -math.inf)

    def reserved_w(self) -> dict[MeterId, float]:
        """What each meter may export at most [W], by all its reservations."""
        reserved: dict[MeterId, float] = {}
        for reservation in self._reservations:
            reserved[reservation.meter] = max(reservation.limit_w, reserved.get(reservation.meter, 0.0))
        return reserved

    def newest_held(self, meter: MeterId) -> DecisionId | None:
        """The newest decision that capacity is held for; a revoke holds none."""
        held = [reservation.decision for reservation in self._reservations if reservation.meter == meter]
        return max(held, key=lambda decision: decision.seq, default=None)

    @property
    def wake_at(self) -> float | None:
        """When the next reservation or grant ends [s]."""
        ends = [reservation.until_s for reservation in self._reservations]
        ends += [grant.expires_s for grant in self._live.values()]
        return min(ends, default=None)

    def reserve(self, grant: LiveGrant, lease_s: float) -> None:
        """Hold the capacity of a grant or renewal; to be called before anything is sent."""
        assert self.places, "the caller checks the limit"
        until_s = grant.decided_at_s + reserved_for_s(lease_s)
        self._reservations.append(Reservation(grant.decision, grant.meter, grant.limit_w, until_s))
        self._live[grant.meter] = grant
        self._newest[grant.meter] = grant.decision
        self._told_s[grant.meter] = grant.decided_at_s

    def end(self, meter: MeterId) -> LiveGrant | None:
        """No more renewals; the capacity stays held."""
        self._told_s.pop(meter, None)
        return self._live.pop(meter, None)

    def revoke(self, meter: MeterId, decision: DecisionId, now: float) -> LiveGrant | None:
        """End a grant by a decision of ours; its acknowledgement will free the capacity. Who has not heard the decision
        before is no more believed to hear this one."""
        told_s = self._told_s.get(meter, now)
        ended = self.end(meter)
        self._newest[meter], self._told_s[meter] = decision, told_s
        return ended

    def lower(self, meter: MeterId, decision: DecisionId, limit_w: float, now: float) -> None:
        """Leave a part of a grant by a decision of ours; its acknowledgement will free the rest. Who has not heard the
        one before is no more believed to hear this one."""
        grant = self._live[meter]
        self._newest[meter] = decision
        self._told_s.setdefault(meter, now)
        self._live[meter] = replace(grant, decision=decision, limit_w=min(limit_w, grant.limit_w))
        held = [r for r in self._reservations if r.meter == meter]
        part = Reservation(decision, meter, limit_w, max(r.until_s for r in held))
        # Only the newest decision frees; until it does the others count no further than they hold. The part itself may
        # be one more than the named limit: nothing may keep a lowering.
        self._reservations = [r for r in self._reservations if r.meter != meter] + [*_envelope(held), part]

    def acknowledged(self, meter: MeterId, applied: DecisionId | None, now: float) -> None:
        """A meter names the decision it has applied: only the newest one frees, and only what it superseded."""
        if applied is not None and applied == self._newest.get(meter):
            self._told_s.pop(meter, None)
            self._keep(lambda held: held.meter != meter or held.decision == applied, now)

    def released(self, meter: MeterId, applied: DecisionId | None, now: float) -> None:
        """A meter is at nominal and has voided its nonces; frees everything if it names our newest decision."""
        self.end(meter)
        if applied is not None and applied == self._newest.get(meter):
            self._keep(lambda held: held.meter != meter, now)

    def _keep(self, lasts: Callable[[Reservation], bool], now: float) -> None:
        """Only those reservations that last."""
        kept = [held for held in self._reservations if lasts(held)]
        if len(kept) < len(self._reservations):
            before_w, self._reservations = self.reserved_w(), kept
            after_w = self.reserved_w()
            self._fell_s |= {meter: now for meter, w in before_w.items() if after_w.get(meter, 0.0) < w}

    def expire(self, now: float) -> list[LiveGrant]:
        """Let go what has ended by time alone; the grants that ended."""
        self._keep(lambda held: now < held.until_s, now)
        ended = [grant for grant in self._live.values() if now >= grant.expires_s]
        for grant in ended:
            self.end(grant.meter)
        held = {reservation.meter for reservation in self._reservations}
        self._told_s = {meter: told_s for meter, told_s in self._told_s.items() if meter in held}
        return ended
