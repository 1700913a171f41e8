"""Decisions are numbered and written down here: the one place that knows what an entry of the ledger looks like.

Numbers rise without a gap; an entry stands ahead of the message it is about.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from dcu.hosting.decide import Answer, Binding, Question, Rule, Verdict, View
from dcu.hosting.exchange import Record
from dcu.hosting.grants import LiveGrant
from dcu.hosting.measurements import MeasurementSet
from dcu.hosting.readings import SetWriter
from shared.ids import Epoch, MeterId
from shared.messages import DecisionId, Reason, Request

RECENT: Final = 8
"""Decisions kept in words, for people."""

Inputs = Mapping[str, Any]
"""What a decision rests on: the number of its window, or, without one, what was seen."""


class Journal:
    """One epoch's numbers and entries."""

    def __init__(self, epoch: Epoch, lease_s: float) -> None:
        """A journal of a start whose grants all have one lease [s]."""
        self._epoch, self._lease_s = epoch, lease_s
        self._seq = 0
        self._window = 0
        self._sets = SetWriter()
        self.recent: deque[str] = deque(maxlen=RECENT)

    def next_decision(self) -> DecisionId:
        """The number of a new decision, which must be recorded."""
        self._seq += 1
        return DecisionId(self._epoch, self._seq)

    def start(self, rule: Rule, nominal_limit_w: Mapping[MeterId, float]) -> Record:
        """The first entry of an epoch: decision number 0, the nominal limits [W]."""
        facts = {"rule": rule.name, "facts": rule.facts()}
        return Record({"kind": "start", "epoch": self._epoch, "seq": 0, **facts, "nominal_limit_w": nominal_limit_w})

    def note(self, kind: str, fields: dict[str, Any]) -> Record:
        """Something that is no decision of ours."""
        return Record({"kind": kind, "epoch": self._epoch, "seq": None, **fields})

    def saw(self, measurements: MeasurementSet, now: float) -> list[Record]:
        """A set that a rule with a memory sees at ``now`` [s]; it goes into the next entry of a view, unless too much
        waits for that already."""
        self._sets.saw(measurements, now)
        return [self.note("readings", {"readings": self._sets.entry()})] if self._sets.full else []

    def lesson(self, view: dict[str, Any]) -> Record:
        """A view that has taught something."""
        return self.note("view", {"view": view, **self._seen()})

    def _seen(self) -> dict[str, Any]:
        """The sets since the last entry of a view; nothing for a rule without a memory."""
        return {"readings": self._sets.entry()} if self._sets.count else {}

    def window(self, rule: str, view: View, question: Question, answer: Answer) -> tuple[Record, Inputs]:
        """A window with everything its answer depends on; its decisions refer to it."""
        self._window += 1
        inputs = {"window": self._window}
        asked = {"view": view.as_entry(), "question": question.as_entry(), **self._seen()}
        return self.note("window", {**inputs, "rule": rule, **asked, "answer": answer.as_entry()}), inputs

    def granted(self, kind: str, decision: DecisionId, request: Request, verdict: Verdict, inputs: Inputs) -> Record:
        """A grant or a renewal, and what kept it from more."""
        fields = {"request": _asked(request), "limit_w": verdict.limit_w, "lease_s": self._lease_s}
        why = {} if verdict.binding is None else {"kept_by": verdict.binding.as_entry()}
        fields |= {"reason": Reason.GRANTED.name, **why}
        return self._decision(kind, decision, {"meter": verdict.meter, **inputs, **fields})

    def denied(
        self, decision: DecisionId, meter: MeterId, request: Request, binding: Binding, inputs: Inputs
    ) -> Record:
        """A denial, with what bound."""
        fields = {"meter": meter, **inputs, "request": _asked(request), **binding.as_entry()}
        return self._decision("denial", decision, fields)

    def lowered(
        self, decision: DecisionId, grant: LiveGrant, limit_w: float, binding: Binding, inputs: Inputs
    ) -> Record:
        """A grant of which so much [W] is left, or nothing."""
        about = {"meter": grant.meter, **inputs, "revoked": str(grant.decision)}
        fields = {**about, "limit_w": limit_w, **binding.as_entry()}
        return self._decision("lowered" if limit_w else "revoke", decision, fields)

    def _decision(self, kind: str, decision: DecisionId, fields: dict[str, Any]) -> Record:
        why = " ".join(str(fields[key]) for key in ("reason", "binding", "value") if fields.get(key) is not None)
        self.recent.append(f"{decision} {kind} {fields['meter']}: {why}")
        return Record({"kind": kind, "epoch": self._epoch, "seq": decision.seq, **fields})


def _asked(request: Request) -> dict[str, Any]:
    """A request; a number that is none is kept as a word."""

    def number(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    return {
        "id": request.request_id,
        "nonce": f"{request.nonce:016x}",
        "limit_w": number(request.limit_w),
        "minimum_limit_w": number(request.minimum_limit_w),
    }
