"""Some minutes of a street, for the safety evaluation: what one window cannot show.

The real engine decides over meters that report one after the other: houses switch between their reports, one of them
always right after its own, plants follow their limits or stand still, some meters report every other time, one falls
silent. Whenever something is granted, renewed or raised, every reservation is taken as used to the full, in all phases
and in each choice of phases alone (an export on another phase may hold a voltage down, or not come), on the true
network, with everybody else drawing what was last read. Beyond a limit is unsafe, unless the nominal limits or what was
reserved before are as far beyond it in one of these choices; and so is any grant while a reading is stale. With nominal
limits nobody exports more, not even who was granted more and is seen to hold another customer's voltage up with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from dcu.hosting.airtime import Airtime
from dcu.hosting.decide import Rule
from dcu.hosting.engine import HostingEngine
from dcu.hosting.exchange import Output, ReportArrived, RequestArrived, SendDown, SubstationRead
from dcu.hosting.site_settings import SiteSettings
from dcu.meters import MeterEntry
from shared.ids import Epoch, MeterId, Nonce, RequestId
from shared.messages import (
    Alarm,
    DecisionId,
    Grant,
    LimitSource,
    PerPhase,
    Reading,
    RelayState,
    Report,
    Request,
    Revoke,
)

Reals = NDArray[np.float64]

EPOCH: Final = Epoch(1)
ROUND_S: Final = 20.0
"""[s] Everybody, or every other one of those who report less often, reports once in it."""
GROUPS: Final = 4
"""Instants of a round at which some report."""
ROUNDS: Final = 9
ASK_ROUND: Final = 5
"""Round from which households ask: until then the DCU learns how meters and model differ."""
STALE_S: Final = 2.5 * ROUND_S
ASKING_MAX: Final = 6
RARE_SHARE, IDLE_SHARE, SILENT_SHARE, SWITCHING = 0.3, 0.3, 0.2, 3
"""Share of meters that report every other time, of plants that stand still, of sequences in which a meter falls
silent; houses that switch between their reports."""
SWITCH_W: Final = 4_000.0
FLOW_ERROR: Final = 1e-8
"""[limit] By which two power flows of one state may differ: 2 uV. Beyond it a grant is unsafe."""


class TrueStreet(Protocol):
    """What a sequence asks of the true network."""

    entries: tuple[MeterEntry, ...]

    def voltages(self, p: Reals, q: Reals) -> Reals:
        """Magnitudes at all ports (n_state, n) [V]."""

    def beyond(self, p: Reals, q: Reals, judged: slice) -> Reals:
        """How far each limit is exceeded [limit] (n_state, n_constraint); the judged states are looked at twice."""

    def phases(self) -> tuple[str, ...]:
        """Of every port."""


@dataclass(frozen=True, slots=True)
class MeterErrors:
    """Of every meter, for good: factors (n) on voltages and powers; last digits [V], [W] (0: none)."""

    voltage: Reals
    power: Reals
    step_v: float
    step_w: float


@dataclass(slots=True)
class Found:
    """Of one sequence: windows in which something was granted, those that were unsafe, and the worst excess [limit]."""

    windows: int = 0
    unsafe: int = 0
    worst: float = -np.inf


@dataclass(slots=True, eq=False)
class _House:
    """One customer: its draw [W], what its plant gives, and what its meter was told."""

    entry: MeterEntry
    load_w: float
    pv_w: float = 0.0
    other_load_w: float | None = None
    """Draw after its next report, if it switches right after each."""
    every: int = 1
    limit_w: float = 0.0
    ends_s: float = 0.0
    applied: DecisionId | None = None
    silent: bool = False
    read_s: float = -np.inf

    def draw_w(self, now: float) -> float:
        """Import positive, the limit kept [W]."""
        limit_w = self.limit_w if now < self.ends_s else self.entry.nominal_limit_w
        return max(self.load_w - self.pv_w, -limit_w)


@dataclass(slots=True, eq=False)
class Minutes:
    """A street of some minutes; `play` it once."""

    street: TrueStreet
    rule: Rule
    errors: MeterErrors
    p_w: Reals
    q_var: Reals
    random: np.random.Generator
    now: float = 1_000.0
    engine: HostingEngine = field(init=False)
    houses: list[_House] = field(init=False)
    at: dict[MeterId, int] = field(init=False)
    read_p_w: Reals = field(init=False)
    found: Found = field(default_factory=Found)
    seq: int = 0

    def __post_init__(self) -> None:
        draw = self.random
        site = SiteSettings(
            nominal_voltage_v=float(np.median(self.street.voltages(0.0 * self.p_w[None, :], 0.0 * self.q_var))),
            band_pct=50.0,  # what is measured outside the rule's own limits is not looked at
            reading_age_s_max=STALE_S,
            airtime=Airtime(report_s=1e-4, renewal_s=1e-3),
        )
        self.engine = HostingEngine(site, self.street.entries, EPOCH, self.now, self.rule)
        self.engine.start()
        self.houses = [_House(entry, float(p)) for entry, p in zip(self.street.entries, self.p_w, strict=True)]
        self.at = {house.entry.id: k for k, house in enumerate(self.houses)}
        for house in self.houses:
            house.every = 2 if draw.random() < RARE_SHARE else 1
        self.read_p_w = self.p_w.copy()

    def play(self) -> Found:
        """The whole of it."""
        draw, n = self.random, len(self.houses)
        group = draw.integers(0, GROUPS, n)
        silent_from = int(draw.integers(ASK_ROUND, ROUNDS)) if draw.random() < SILENT_SHARE else ROUNDS
        asking, others = np.split(draw.permutation(n), [int(draw.integers(1, min(ASKING_MAX, n) + 1))])
        for house in (self.houses[int(k)] for k in others[:SWITCHING]):
            house.other_load_w = house.load_w + float(draw.uniform(-SWITCH_W, SWITCH_W))
        for k in range(ROUNDS):
            if k == silent_from:
                self.houses[int(draw.integers(n))].silent = True
            if k == ASK_ROUND:
                self._ask(asking)
            for g in range(GROUPS):
                self._pass_time(ROUND_S / GROUPS)
                due = [h for h, mine in zip(self.houses, group, strict=True) if mine == g and k % h.every == 0]
                self._report(due if k else self.houses[g::GROUPS])
        return self.found

    def _ask(self, asking: NDArray[np.int64]) -> None:
        for k in asking:
            house = self.houses[int(k)]
            wanted_w = float(self.random.uniform(house.entry.nominal_limit_w + 100.0, house.entry.contract_limit_w))
            house.pv_w = 0.0 if self.random.random() < IDLE_SHARE else house.load_w + 1.1 * wanted_w
            self.seq += 1
            request = Request(RequestId(self.seq), Nonce(self.seq), EPOCH, wanted_w, 0.0)
            self._perform(self.engine.handle(RequestArrived(house.entry.id, request), self.now), {})

    def _pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.engine.wake_at) is not None and at <= until:
            self.now = max(self.now, at)
            before = self.engine.book.reserved_w()
            self._perform(self.engine.wake(self.now), before)
        self.now = until

    def _report(self, due: Sequence[_House]) -> None:
        """Some meters report what is true now; then those switch that do so right after it."""
        p = np.array([house.draw_w(self.now) for house in self.houses])
        u = self.street.voltages(p[None, :], self.q_var)[0] * self.errors.voltage
        open_v = self.engine.band.low_v / 0.5
        busbar = Reading((open_v, None, None), (0.0, None, None), (0.0, None, None), (0.0, None, None), 50.0, 0, 0)
        self._perform(self.engine.handle(SubstationRead(busbar), self.now), {})
        for house in due:
            if house.silent:
                continue
            k = self.at[house.entry.id]
            self.read_p_w[k], house.read_s = p[k], self.now
            report = self._words(house, k, float(u[k]), float(p[k]))
            before = self.engine.book.reserved_w()
            self._perform(self.engine.handle(ReportArrived(house.entry.id, report), self.now), before)
            if house.other_load_w is not None:
                house.load_w, house.other_load_w = house.other_load_w, house.load_w

    def _words(self, house: _House, k: int, u_v: float, p_w: float) -> Report:
        self.seq += 1
        shown_p = _stepped(p_w * self.errors.power[k], self.errors.step_w)
        shown_q = _stepped(float(self.q_var[k]) * self.errors.power[k], self.errors.step_w)
        reading = Reading(_one(_stepped(u_v, self.errors.step_v)), _one(0.0), _one(shown_p), _one(shown_q), 50.0, 0, 0)
        lives = self.now < house.ends_s
        return Report(
            boot_id=1,
            seq=self.seq,
            nonce=Nonce(self.seq),
            epoch=EPOCH,
            reading=reading,
            reading_age_s=0.0,
            limit_w=house.limit_w if lives else house.entry.nominal_limit_w,
            source=LimitSource.GRANT if lives else LimitSource.NOMINAL,
            relay=RelayState.RAISED if lives else RelayState.NOMINAL,
            lease_left_s=max(0.0, house.ends_s - self.now),
            applied=house.applied,
            alarms=Alarm.NONE,
        )

    def _perform(self, outputs: list[Output], before: dict[MeterId, float]) -> None:
        """Meters obey at once; what was granted is judged."""
        granted = False
        for output in outputs:
            message = output.message if isinstance(output, SendDown) else None
            if isinstance(output, SendDown) and isinstance(message, Grant | Revoke):
                house = self.houses[self.at[output.meter]]
                house.applied = message.decision
                if isinstance(message, Grant):
                    granted = True
                    house.limit_w, house.ends_s = message.limit_w, self.now + message.lease_s
                elif message.limit_w <= house.entry.nominal_limit_w:
                    house.ends_s = 0.0
                else:
                    house.limit_w = min(house.limit_w, message.limit_w)
        if granted:
            self._judge(before)

    def _judge(self, before: dict[MeterId, float]) -> None:
        after = self.engine.book.reserved_w()
        ports = np.array([self.at[meter] for meter in after])
        nominal_w = np.array([self.houses[k].entry.nominal_limit_w for k in ports])
        rows = [
            np.array([max(held.get(m, 0.0), w) for m, w in zip(after, nominal_w, strict=True)])
            for held in (after, before)
        ]
        phases = self.street.phases()
        mine = np.array([phases[k] for k in ports])
        labels = sorted(set(mine))
        choices = [c for size in range(1, len(labels) + 1) for c in combinations(labels, size)]
        without_p_w = np.maximum(self.read_p_w, [-house.entry.nominal_limit_w for house in self.houses])
        states = [self.read_p_w]
        for limits_w, others_p_w in ((rows[0], self.read_p_w), (rows[1], self.read_p_w), (nominal_w, without_p_w)):
            for choice in choices:
                p = others_p_w.copy()
                used = np.isin(mine, choice)
                p[ports[used]] = -limits_w[used]
                states.append(p)
        n = len(choices)
        over = self.street.beyond(np.array(states), self.q_var, slice(1, 1 + n))
        borne = np.maximum(np.concatenate([over[:1], over[1 + n :]]).max(axis=0), 0.0)
        worst = float((over[1 : 1 + n] - borne).max())
        stale = any(house.read_s < self.now - STALE_S for house in self.houses)
        self.found.windows += 1
        self.found.unsafe += bool(stale or worst > FLOW_ERROR)
        self.found.worst = max(self.found.worst, worst)


def _stepped(value: float, step: float) -> float:
    return round(value / step) * step if step else value


def _one(value: float) -> PerPhase:
    return (value, None, None)
