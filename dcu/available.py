"""Headroom of the next hours, kept up to date beside the decisions and told to whoever asks; never a promise.

Each quarter of an hour the measured draws join the history, and the forecast is made anew, a step at a time so that no
decision waits for it. The history lives in memory: after a start it takes a day to know a day again.

What each customer could have at this moment, if he asked alone, needs no history and is looked at every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from dcu.hosting.engine import HostingEngine
from dcu.hosting.forecast import SLOT_S, STEPS, Available, History, forecast, headroom_now_w
from dcu.hosting.measurements import SUBSTATION
from dcu.hosting.predicted import Predicted
from dcu.hosting.spread import Claim
from dcu.hosting.view import GridView

CUSTOMERS_MAX: Final = 200
"""A forecast for more would hold up decisions; beyond it none is made."""


class Forecaster:
    """History and newest forecast of a DCU that has a network model."""

    def __init__(self, engine: HostingEngine) -> None:
        self._engine = engine
        self._begin()

    def _begin(self) -> None:
        """With the engine's rule of now, and nothing known."""
        engine = self._engine
        self._of, rule = engine.rule, engine.rule
        fits = isinstance(rule, Predicted) and len(engine.table.states()) <= CUSTOMERS_MAX
        self._rule = rule if fits and isinstance(rule, Predicted) else None
        self._history = None if self._rule is None else History(self._rule.port_count)
        self._slot = -1
        self.newest: tuple[Available, ...] = ()
        self.made_utc_s: float | None = None
        self.present_w: dict[str, float] = {}
        """What each customer could have now [W], alone; nobody while the situation is unknown."""

    def work(self, now: float, utc_s: float) -> Iterator[None]:
        """One round, in pieces of some ten milliseconds; nothing to do most of the time."""
        if self._engine.rule is not self._of:
            self._begin()
        slot = int(utc_s // SLOT_S)
        if self._rule is None or self._history is None or slot == self._slot:
            return
        view = self._engine.newest_view  # the rule itself is shown nothing: what it sees, the ledger must keep
        if not isinstance(view, GridView) or view.estimate.situation is None:
            return  # tried again at the next call
        measurements, estimate = self._engine.measurements(now), view.estimate
        busbar = next(p for p in measurements.points if p.name == SUBSTATION)
        volts = [u for u in busbar.u_v if u is not None]
        if not volts:
            return
        self._slot = slot
        busbar_v = float(np.mean(volts))
        self._history.add(utc_s, view.estimate.situation.p_w, busbar_v)
        prospect = self._rule.prospect(estimate)
        claims = tuple(self._claims())
        granted_w = {str(g.meter): g.limit_w for g in self._engine.book.live}
        found: list[Available] = []
        for h in range(1, STEPS + 1):
            yield
            ahead = range(h, h + 1)
            found += forecast(prospect, self._history, claims, utc_s, busbar_v, granted_w=granted_w, ahead=ahead)
        self.newest, self.made_utc_s = tuple(found), utc_s

    def look(self) -> Iterator[None]:
        """What each customer could have now, one customer a step, on the situation that decisions saw last."""
        if self._rule is None:
            return
        estimate = self._rule.newest
        if estimate is None or estimate.situation is None:
            self.present_w = {}
            return
        prospect = self._rule.prospect(estimate)
        held = {str(g.meter): (self._rule.ports_of(g.meter), g.limit_w) for g in self._engine.book.live}
        found: dict[str, float] = {}
        for claim in tuple(self._claims()):
            found[claim.name] = headroom_now_w(prospect, claim, held)
            yield
        self.present_w = found

    def _claims(self) -> Iterator[Claim]:
        assert self._rule is not None
        for state in self._engine.table.states():
            entry = state.entry
            if entry.contract_limit_w > entry.nominal_limit_w:
                ports = self._rule.ports_of(entry.id)
                yield Claim(entry.id, ports, entry.nominal_limit_w, entry.contract_limit_w)

    def as_status(self) -> dict[str, Any]:
        """For `headroom-dcu status`: OpenADR's AVAILABLE, by customer and quarter of an hour."""
        return {"made_utc_s": self.made_utc_s, "intervals": [one.as_entry() for one in self.newest]}
