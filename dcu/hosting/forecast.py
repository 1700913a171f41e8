"""How much each customer could get over the next hours: for information, never a promise (OpenADR `AVAILABLE`).

Draws. What a port will draw is between what it draws now and what it draws at that time of day. With d the departure
from the port's mean at a time of day and c_h the correlation of departures h steps apart, both out of the history,

    p(t + h) = mean(t + h) + c_h d(t) + sqrt(1 - c_h^2) d'

c_h near 1 is persistence, near 0 the profile. d' are not drawn from a distribution: they are the departures of the
whole street at that time on each past day, and a little earlier and later. So clouds that move all PV alike stay
together, kettles stay rare and large, and the same history gives the same answer. The busbar's voltage goes the same
way. d grows with the spread of the time of day; d' is widened for the few days that the mean was taken from.

Headroom. One customer at a time: the largest export limit that keeps every constraint of the outlook, everybody else
drawing as in the scenario or using the grant it holds now. This answers "what could I get if I asked", which is what a
customer wants to know; shares of all asking at once would say how scarce it is, and change with who happens to ask. The
excess is taken as linear in what the customer draws: up to 3 % of a limit, against tens of per cent of spread.

Nothing here looks at the clock for a decision; `utc_s` only tells the time of day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.fill import PUSH_MIN
from dcu.hosting.headroom import Prospect
from dcu.hosting.spread import Claim

Reals = NDArray[np.float64]

SLOT_S: Final = 900
SLOTS_A_DAY: Final = 96
STEPS: Final = 16
"""Four hours: what lies further ahead is the profile alone, which a customer can see in yesterday's curve."""
DAYS_MAX: Final = 14
NEAR_SLOTS: Final = 2
"""Departures are borrowed from this many quarters before and after."""
GROWTH_MAX: Final = 2.0
"""A departure from the mean grows with the spread of the time of day (a cloud at noon), but not more than this."""
SCENARIOS_MIN: Final = 5
"""Of one whole day; with fewer nothing is forecast."""
QUANTILES: Final = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Available:
    """What a customer could get as export limit [W] at `start_s_from_now` [s]: in one case of ten less than `low_w`, in
    one of ten more than `high_w`."""

    meter: str
    start_s_from_now: float
    low_w: float
    expected_w: float
    high_w: float

    def as_entry(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "meter": self.meter,
            "start_s_from_now": self.start_s_from_now,
            "low_w": round(self.low_w),
            "expected_w": round(self.expected_w),
            "high_w": round(self.high_w),
        }


class History:
    """One set for each quarter of an hour of the last days: draws of n ports [W] and the busbar's mean voltage [V]."""

    def __init__(self, ports: int) -> None:
        self._n = ports
        self._rows: dict[int, Reals] = {}

    def add(self, utc_s: float, p_w: Reals, busbar_v: float) -> bool:
        """A measured set; the first good one of a quarter of an hour is kept, the others answer False."""
        slot = int(utc_s // SLOT_S)
        row = np.append(p_w, busbar_v)
        if slot in self._rows or row.shape != (self._n + 1,) or not np.isfinite(row).all():
            return False
        self._rows[slot] = row
        for old in [k for k in self._rows if k <= slot - DAYS_MAX * SLOTS_A_DAY or k > slot + SLOTS_A_DAY]:
            del self._rows[old]
        return True

    def at_time_of_day(self, slot: int, before: int) -> Reals:
        """Sets (m, n + 1) of all days at this time of day and a little earlier and later, older than a slot."""
        near = [k for k in sorted(self._rows) if k < before and _distance(k, slot) <= NEAR_SLOTS]
        return np.array([self._rows[k] for k in near]).reshape(-1, self._n + 1)

    def days(self, before: int) -> float:
        """How many days are known."""
        return sum(k < before for k in self._rows) / SLOTS_A_DAY

    def correlations(self, before: int, steps: int) -> Reals:
        """Of the departures from the mean of their time of day, 0 to `steps` quarters apart (steps + 1, n + 1)."""
        slots = [k for k in sorted(self._rows) if k < before]
        table = np.full((max(slots, default=0) - min(slots, default=0) + 1, self._n + 1), np.nan)
        for k in slots:
            table[k - slots[0]] = self._rows[k]
        for time_of_day in range(SLOTS_A_DAY):
            same = table[time_of_day::SLOTS_A_DAY]
            known = np.isfinite(same).all(axis=1)
            if known.any():
                same[known] -= same[known].mean(axis=0)
        found = np.zeros((steps + 1, self._n + 1))
        for h in range(steps + 1):
            a, b = table[: len(table) - h], table[h:]
            both = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
            size = np.sqrt((a[both] ** 2).sum(axis=0) * (b[both] ** 2).sum(axis=0))
            np.divide((a[both] * b[both]).sum(axis=0), size, out=found[h], where=size > 0)
        return np.clip(found, 0.0, 1.0)


def _distance(a: int, b: int) -> int:
    """Slots between two times of day, the short way around."""
    apart = (a - b) % SLOTS_A_DAY
    return min(apart, SLOTS_A_DAY - apart)


def forecast(
    outlook: Prospect,
    history: History,
    claims: tuple[Claim, ...],
    utc_s: float,
    busbar_v: float,
    *,
    granted_w: Mapping[str, float] | None = None,
    ahead: range = range(1, STEPS + 1),
) -> tuple[Available, ...]:
    """What each claim could get at each step, by customer and then by time; nothing before a day is known.

    Args:
        outlook: on the present situation.
        history: of the same ports.
        claims: customers, with their nominal limit and the most they could want [W].
        utc_s: time of the present situation [s].
        busbar_v: mean voltage of the busbar then [V].
        granted_w: export limits [W] held now, by claim; taken as renewed and fully used by everybody but the customer
            asked about.
        ahead: quarters of an hour ahead.
    """
    slot = int(utc_s // SLOT_S)
    correlations = history.correlations(slot, max(ahead))
    now = np.append(outlook.now.p_w, busbar_v)
    usual = history.at_time_of_day(slot, slot)
    days = max(2.0, history.days(slot))
    # Student's interval for one more day, over that of a known normal law, within 2 % from 4 days on.
    wider = (days + 1) / (days - 1)
    found: list[list[Available]] = [[] for _ in claims]
    for h in ahead:
        past = history.at_time_of_day(slot + h, slot)
        if len(past) < SCENARIOS_MIN or len(usual) < SCENARIOS_MIN:
            return ()
        kept = correlations[h]
        mean = past.mean(axis=0)
        usual_spread = usual.std(axis=0)
        grown = np.divide(past.std(axis=0), usual_spread, out=np.zeros(len(mean)), where=usual_spread > 0)
        carried = kept * np.minimum(grown, GROWTH_MAX) * (now - usual.mean(axis=0))
        draws = mean + carried + wider * np.sqrt(1 - kept**2) * (past - mean)
        headroom = _headroom(outlook, claims, draws[:, :-1], draws[:, -1] - busbar_v, granted_w or {})
        for k, claim in enumerate(claims):
            low, middle, high = (float(x) for x in np.quantile(headroom[:, k], QUANTILES, method="weibull"))
            found[k].append(Available(claim.name, float(h * SLOT_S), low, middle, high))
    return tuple(one for row in found for one in row)


def headroom_now_w(outlook: Prospect, claim: Claim, others_w: Mapping[str, tuple[tuple[int, ...], float]]) -> float:
    """Largest export limit [W] of one claim alone, as things are measured: everybody else draws what it draws, or uses
    what it holds (``others_w``: ports and export limit [W] of each grant, by customer)."""
    p = outlook.now.p_w.copy()[None, :]
    for name, (ports, limit_w) in others_w.items():
        if name != claim.name:
            p[:, list(ports)] = np.minimum(p[:, list(ports)], -limit_w / len(ports))
    return float(_headroom(outlook, (claim,), p, np.zeros(1), {})[0, 0])


def _headroom(
    outlook: Prospect, claims: tuple[Claim, ...], p_w: Reals, busbar_rise_v: Reals, granted_w: Mapping[str, float]
) -> Reals:
    """Largest export limit [W] of each claim alone in each scenario (n_scenario, n_claim)."""
    p = p_w.copy()
    for claim in claims:
        if claim.name in granted_w:
            ports = list(claim.ports)
            p[:, ports] = np.minimum(p[:, ports], -granted_w[claim.name] / len(ports))
    middle = np.median(p, axis=0)
    states = np.repeat(middle[None, :], 2 * len(claims) + 1, axis=0)
    for k, claim in enumerate(claims):
        for row, limit_w in ((2 * k + 1, claim.nominal_w), (2 * k + 2, claim.wanted_w)):
            states[row, list(claim.ports)] = -limit_w / len(claim.ports)
    # How a volt at the busbar shows in a constraint: voltages follow it, currents and unbalance do not care.
    sense = np.array([{"overvoltage": 1.0, "undervoltage": -1.0}.get(name.kind, 0.0) for name in outlook.names])
    level = float(np.mean(outlook.now.u_v))
    here = outlook.excess(p) + sense * busbar_rise_v[:, None] / level
    at_middle = outlook.excess(states)
    found = np.empty((len(p), len(claims)))
    for k, claim in enumerate(claims):
        room_w = claim.wanted_w - claim.nominal_w
        slope = (at_middle[2 * k + 2] - at_middle[2 * k + 1]) / room_w if room_w else np.zeros(len(sense))
        # From the scenario's own draw to the nominal limit and on: the excess is a line in what the customer draws.
        drawn = -p[:, list(claim.ports)].sum(axis=1)
        at_nominal = here + slope * (claim.nominal_w - drawn)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            # A constraint that the customer does not push does not keep it from anything.
            reach = np.where(slope > PUSH_MIN, -at_nominal / slope, np.inf)
        found[:, k] = np.clip(claim.nominal_w + reach.min(axis=1), claim.nominal_w, claim.wanted_w)
    return found
