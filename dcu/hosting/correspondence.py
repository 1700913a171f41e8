"""What meters are owed in words: greetings, acknowledgements of their reports, revokes until they are taken.

Air time is dear: reports in a row share an acknowledgement, and nothing is said twice within `REPEAT_S`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dcu.hosting.exchange import SendDown, Wait
from dcu.meters import Acceptance, MeterEntry
from shared.ids import Epoch, MeterId
from shared.messages import Acknowledgement, DecisionId, NominalLimit, Report, Revoke

REPEAT_S: Final = 2.0
"""[s] A nominal limit or a revoke the meter has not taken is sent again at most this often."""

AGAIN: Final = 2
"""Times a nominal limit that has changed is told once more."""
RESOLUTION_W: Final = 0.1
"""[W] Of a limit on the power line."""

ACKNOWLEDGE_S: Final = 15.0
"""[s] A report is acknowledged within this; several share one frame, as air time is dear."""

ACKNOWLEDGED_MAX: Final = 8
"""Reports in one acknowledgement."""


@dataclass(frozen=True, slots=True)
class _Due:
    """Reports in a row that are not acknowledged yet."""

    seq: int
    count: int
    since_s: float


class Correspondence:
    """Who is owed which word; every method answers with what is to be sent now."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._greeted_s: dict[MeterId, float] = {}
        self._due: dict[MeterId, _Due] = {}
        self._revoked: dict[MeterId, tuple[Revoke, float]] = {}
        self._again: dict[MeterId, int] = {}

    @property
    def wake_at(self) -> float | None:
        """When the next acknowledgement is due [s]."""
        return min((due.since_s + ACKNOWLEDGE_S for due in self._due.values()), default=None)

    def wake(self, now: float) -> list[SendDown]:
        """Acknowledgements that have waited long enough."""
        late = [meter for meter, due in self._due.items() if now >= due.since_s + ACKNOWLEDGE_S]
        return [sent for meter in late for sent in self._flush(meter)]

    def greet(self, meter: MeterEntry, now: float) -> list[SendDown]:
        """Tell a meter our epoch and its nominal limit, not too often."""
        if now < self._greeted_s.get(meter.id, -REPEAT_S) + REPEAT_S:
            return []
        self._greeted_s[meter.id] = now
        return [SendDown(meter.id, NominalLimit(DecisionId(self._epoch, 0), meter.nominal_limit_w))]

    def renamed(self, meter: MeterEntry, now: float) -> list[SendDown]:
        """Its nominal limit is another one now."""
        self._again[meter.id] = AGAIN
        self._greeted_s.pop(meter.id, None)
        return self.greet(meter, now)

    def remind(self, meter: MeterEntry, report: Report, now: float) -> list[SendDown]:
        """The nominal limit once more: of a meter whose report shows that it has not taken it (a limit above it without
        a grant), and `AGAIN` times in any case, because a limit that went up shows nowhere."""
        above = report.lease_left_s <= 0 and report.limit_w > meter.nominal_limit_w + RESOLUTION_W
        left = self._again.get(meter.id, 0)
        if not above and not left:
            return []
        sent = self.greet(meter, now)
        if sent and left:
            self._again[meter.id] = left - 1
        return sent

    def reported(self, meter: MeterId, seq: int, acceptance: Acceptance, now: float) -> list[SendDown]:
        """Gather live reports in a row into one acknowledgement; whatever else comes is acknowledged at once."""
        due = self._due.get(meter)
        if acceptance is not Acceptance.LIVE:
            return [SendDown(meter, Acknowledgement(self._epoch, seq))]
        if due is not None and seq == due.seq + 1:
            self._due[meter] = due = _Due(seq, due.count + 1, due.since_s)
            return self._flush(meter) if due.count >= ACKNOWLEDGED_MAX else []
        sent = self._flush(meter)
        self._due[meter] = _Due(seq, 1, now)
        return sent

    def unlinked(self, meter: MeterId) -> None:
        """Nobody hears us there; what it reported it will report again."""
        self._due.pop(meter, None)

    def revoked(self, meter: MeterId, revoke: Revoke, now: float) -> list[SendDown]:
        """Say less, and again until the meter has taken it."""
        self._revoked[meter] = (revoke, now)
        return [SendDown(meter, revoke, Wait.BRIEFLY)]

    def granted(self, meter: MeterId) -> None:
        """A newer decision stands; what was revoked before it is settled."""
        self._revoked.pop(meter, None)

    def insist(self, meter: MeterId, report: Report, now: float, *, held: bool) -> list[SendDown] | None:
        """The revoke that a meter's report shows it has not taken, if it is time; None if it is owed none.

        ``held``: the report names the grant, and its capacity is held. Where it shows no lease the revoke was heard
        only as it was said to all, or the grant has ended there by itself. Nothing can bring it back, but capacity is
        freed by who acknowledges the newest decision and by nobody else: so he is told once more, to acknowledge it.
        """
        owed = self._revoked.get(meter)
        if owed is None:
            return None
        revoke, sent_s = owed
        if report.applied == revoke.decision:
            del self._revoked[meter]
            return None
        if report.lease_left_s <= 0 and not held:
            return None  # the grant has ended there, or is on its way and comes after this report was sent
        return self.revoked(meter, revoke, now) if now >= sent_s + REPEAT_S else []

    def _flush(self, meter: MeterId) -> list[SendDown]:
        due = self._due.pop(meter, None)
        return [] if due is None else [SendDown(meter, Acknowledgement(self._epoch, due.seq, due.count))]
