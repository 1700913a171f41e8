"""The export limiter: what this meter may export now, and until when. Pure; the rules of a lease live here.

A grant raises only if it answers a nonce this meter drew in this boot at most 60 s ago and has not used, comes from
the DCU epoch it obeys with a decision number that rises, stays within the contract, and lasts 60 s at most. Its end
counts from the instant the nonce was drawn. A revoke may leave a part of it. Everything else is the nominal limit: at
boot, when the lease ends, on a revoke that leaves nothing, release, a newer epoch, or any fault of our own.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

from meter.limits import Limit, Limiter
from shared.ids import Epoch, Nonce, RequestId
from shared.messages import LEASE_S_MAX, NONCE_AGE_S_MAX, DecisionId, Grant, LimitSource, Revoke

NONCES_MAX: Final = 32
"""Outstanding nonces remembered; drawing more voids the oldest."""

EPOCH_NONE: Final = Epoch(0)
"""No DCU has named its epoch since this meter started; nothing of this epoch is ever obeyed."""


class Answer(Enum):
    """What the limiter does with a grant."""

    APPLIED = "applied"
    OTHER_EPOCH = "from another epoch"
    OLD_DECISION = "decision number does not rise"
    UNKNOWN_NONCE = "nonce unknown, used or void"
    STALE_NONCE = "nonce too old"
    LEASE_OVER = "lease already over"
    BAD_LEASE = "lease not above 0, or longer than allowed here"
    ABOVE_CONTRACT = "limit outside 0 to the contract"
    NOT_WISHED = "nobody here wishes it"
    FAULT = "refused because of an alarm here"


class Lowering(Enum):
    """What a revoke came to."""

    REFUSED = "of a lower epoch"
    PARTIAL = "something is left"
    WHOLE = "nothing is left"


@dataclass(slots=True)
class _Live:
    """The grant in force."""

    decision: DecisionId
    request_id: RequestId
    limit_w: float
    ends_s: float


class ExportLimiter:
    """Nonces, the live grant and its end."""

    def __init__(
        self,
        nominal_limit_w: float,
        contract_limit_w: float,
        draw: random.Random,
        lease_s_max: float = LEASE_S_MAX,
    ) -> None:
        """A limiter at nominal.

        Args:
            nominal_limit_w: what may always be exported [W].
            contract_limit_w: no grant may go beyond it [W].
            draw: source of nonces; unpredictable in the field.
            lease_s_max: longest lease accepted here [s], 60 at most.
        """
        assert 0 <= nominal_limit_w <= contract_limit_w < math.inf, (nominal_limit_w, contract_limit_w)
        assert 0 < lease_s_max <= LEASE_S_MAX, lease_s_max
        self.nominal_limit_w = nominal_limit_w
        self._contract_limit_w = contract_limit_w
        self._lease_s_max = lease_s_max
        self._draw = draw
        self._nonces: dict[Nonce, float] = {}
        self._live: _Live | None = None
        self.epoch = EPOCH_NONE
        self.applied: DecisionId | None = None
        self.source = LimitSource.BOOT

    @property
    def limit_w(self) -> float:
        """Export limit by lease [W]; others may lower it (`meter.limits`)."""
        return self.nominal_limit_w if self._live is None else max(self.nominal_limit_w, self._live.limit_w)

    @property
    def base(self) -> Limit:
        """The limit before anything lowers it, and whether it is a grant's."""
        return Limit(Limiter.GRANT if self.raised else Limiter.NOMINAL, self.limit_w)

    @property
    def raised(self) -> bool:
        """Whether a grant permits more than nominal."""
        return self.limit_w > self.nominal_limit_w

    @property
    def wake_at(self) -> float | None:
        """When the lease ends [s]."""
        return None if self._live is None else self._live.ends_s

    def lease_left_s(self, now: float) -> float:
        """Rest of the lease [s]; 0 without one."""
        return 0.0 if self._live is None else max(0.0, self._live.ends_s - now)

    @property
    def live(self) -> bool:
        """Whether a grant is in force, even one that permits no more than nominal."""
        return self._live is not None

    @property
    def request_id(self) -> RequestId | None:
        """Request the live grant answers."""
        return None if self._live is None else self._live.request_id

    @property
    def decision(self) -> DecisionId | None:
        """Decision of the live grant."""
        return None if self._live is None else self._live.decision

    def draw_nonce(self, now: float) -> Nonce:
        """A fresh nonce, remembered with the instant ``now`` [s] it was drawn at."""
        nonce = Nonce(self._draw.getrandbits(64))
        self._nonces[nonce] = now
        while len(self._nonces) > NONCES_MAX:
            del self._nonces[next(iter(self._nonces))]
        return nonce

    def accept(self, grant: Grant, now: float) -> Answer:
        """Apply a grant, or say why not; a refused one changes nothing."""
        answer = self._judge(grant, now)
        if answer is Answer.APPLIED:
            drawn_s = self._nonces[grant.nonce]
            self._nonces = {nonce: at_s for nonce, at_s in self._nonces.items() if at_s > drawn_s}
            self._live = _Live(grant.decision, grant.request_id, grant.limit_w, drawn_s + grant.lease_s)
            self.applied = grant.decision
            self.source = LimitSource.GRANT
        return answer

    def _judge(self, grant: Grant, now: float) -> Answer:
        drawn_s = self._nonces.get(grant.nonce)
        if grant.decision.epoch != self.epoch or self.epoch == EPOCH_NONE:
            return Answer.OTHER_EPOCH
        if self.applied is not None and grant.decision.seq <= self.applied.seq:
            return Answer.OLD_DECISION
        if drawn_s is None:
            return Answer.UNKNOWN_NONCE
        if not now - drawn_s <= NONCE_AGE_S_MAX:
            return Answer.STALE_NONCE
        if not 0.0 < grant.lease_s <= self._lease_s_max:
            return Answer.BAD_LEASE
        if not 0.0 <= grant.limit_w <= self._contract_limit_w:
            return Answer.ABOVE_CONTRACT
        if not now < drawn_s + grant.lease_s:
            return Answer.LEASE_OVER
        return Answer.APPLIED

    def revoke(self, revoke: Revoke) -> Lowering:
        """Less at once, whatever number the revoke has: lowering may come late, or twice, and never raises.

        What it leaves above nominal stays until the end of the lease; nothing above nominal is the end of the grant.
        """
        if revoke.decision.epoch < self.epoch:
            return Lowering.REFUSED
        self.adopt(revoke.decision.epoch)
        partial = revoke.limit_w > self.nominal_limit_w
        if partial:
            self._nonces.clear()
            if self._live is not None:
                self._live.limit_w = min(self._live.limit_w, revoke.limit_w)
        else:
            self._end(LimitSource.REVOKED)
        if self.applied is None or revoke.decision.seq > self.applied.seq:
            self.applied = revoke.decision
        return Lowering.PARTIAL if partial else Lowering.WHOLE

    def adopt(self, epoch: Epoch) -> bool:
        """Obey a DCU's epoch if it is newer: its predecessor's grants and our nonces are void then."""
        if epoch <= self.epoch:
            return False
        self.epoch = epoch
        self.applied = None
        self._end(LimitSource.NEW_EPOCH)
        return True

    def release(self) -> None:
        """The household gives back."""
        self._end(LimitSource.RELEASED)

    def fault(self) -> None:
        """Something here is wrong: nominal."""
        self._end(LimitSource.LOCAL_FAULT)

    def wake(self, now: float) -> bool:
        """End the lease when its time has come; whether it ended now."""
        if self._live is None or now < self._live.ends_s:
            return False
        self._live = None
        self.source = LimitSource.LEASE_ENDED
        return True

    def _end(self, source: LimitSource) -> None:
        self._nonces.clear()
        if self._live is not None:
            self.source = source
        self._live = None
