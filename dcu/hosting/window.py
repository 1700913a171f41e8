"""One window's answer, when the grid is foreseen with every live and candidate grant fully used.

1. *Share.* The policy allocates limits to all wishes, those that last and those that ask, from the nominal limits up.
   An export on another phase that holds a voltage down counts here until its meter shows that it does not happen.
2. *Shed.* If the limits that customers have been told are more than the grid bears, some are lowered at once: by the
   policy, or where that would move everybody a little, few by more (`lowering`). The others come down to their share
   with their renewals, as far as there is a place for these. What has been told, also that a grant is over, counts as
   heard while its acknowledgement is on its way; when that is late, the others make room.
3. *Confirm.* Every grant, renewal and raise is checked by an exact power flow with everything else reserved fully used;
   capacity that another customer still holds is not given twice. Relief counts here only as far as it is measured, and
   half a guard more (`relief`). A wish that must wait for held capacity gets what is there now, or waits while the
   others are lowered, and is raised at its renewals: hand-over without a gap.

Sharing aims a guard below the limits that shedding goes by, and confirming lies half way between: neither the flicker
of a voltage nor the last watt of somebody else's grant tosses grants up and down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.port_model import PortModel
from dcu.hosting.allocate import NO_FLOW, Allocation, Policy, allocate
from dcu.hosting.decide import LEAST_W, Act, Answer, Band, Binding, Question, Standing, Verdict, Verdicts, Wish
from dcu.hosting.estimate import Accuracy, Estimate, PortMap
from dcu.hosting.headroom import Constraint, Prospect
from dcu.hosting.judge import Judge, down, down_each
from dcu.hosting.lowering import TOGETHER, Told, lower_few
from dcu.hosting.relief import Sober
from dcu.hosting.spread import Claim, Spread
from shared.ids import MeterId
from shared.messages import Reason

Reals = NDArray[np.float64]

RISE_W: Final = 50.0
RISE_SHARE: Final = 0.02
"""[W], share of the lower limit: a step by more, up or down, is worth a word before the renewal."""
BELIEVED: Final = 0.5
"""[guard] Relief that is counted on before it is seen: raises are confirmed half a guard inside the band."""
NEVER_W: Final = -math.inf
"""What nobody exports less than."""
DUE, ASKS, MAY_RISE = Standing.DUE, Standing.ASKS, Standing.MAY_RISE
"""A name of one's own is found ten times as fast as a member of an enumeration, and every wish asks."""
IN_TURN: Final = (DUE, ASKS, MAY_RISE)
"""Who is served first, second, third."""

REASONS: Final = {
    "overvoltage": Reason.OVERVOLTAGE,
    "undervoltage": Reason.UNDERVOLTAGE,
    "current": Reason.CURRENT,
    "unbalance": Reason.UNBALANCE,
    "minimum": Reason.BELOW_MINIMUM,
    "power_flow": Reason.NO_POWER_FLOW,
}


@dataclass(frozen=True, slots=True)
class GridSettings:
    """How the model is used at a site.

    Attributes:
        policy: how capacity is shared.
        nominal_voltage_v: phase to neutral; what the band is around, whatever the model calls nominal.
        band_pct: voltages allowed for decisions.
        guard_pct: raising stays this far inside [% of nominal].
        loading_max: share of every rating that may be used.
        vuf_max_pct: largest unbalance |U2|/|U1| at three-phase buses; None: not looked at.
        balancing_bus: where the balancing meter sits; None if the model does not say.
        accuracy: what meters and model may be off by.
    """

    policy: Policy = Policy.EQUAL
    nominal_voltage_v: float = 230.0
    band_pct: float = 5.0
    guard_pct: float = 0.01
    loading_max: float = 1.0
    vuf_max_pct: float | None = None
    balancing_bus: str | None = None
    accuracy: Accuracy = Accuracy()

    @property
    def band(self) -> Band:
        """Voltages allowed for decisions, phase to neutral."""
        return Band.around(self.nominal_voltage_v, self.band_pct)

    def limits_v(self, nominal_v: Reals) -> tuple[Reals, Reals]:
        """Voltages to stay within when something is raised [V] (n), for these nominal voltages (n)."""
        inside = (self.band_pct - self.guard_pct) / 100
        return nominal_v * (1 - inside), nominal_v * (1 + inside)

    def adjusted(self, policy: str | None, band_pct: float | None) -> GridSettings:
        """With another policy or band, where one is given."""
        wanted = self.policy if policy is None else Policy(policy)
        return replace(self, policy=wanted, band_pct=self.band_pct if band_pct is None else band_pct)

    def nominal_v(self, model: PortModel) -> Reals:
        """Nominal voltage across each port of a model [V] (n)."""
        between_phases = np.array([len(label) > 2 for label in model.port_labels], dtype=bool)
        return np.asarray(self.nominal_voltage_v * np.where(between_phases, 3**0.5, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Where meters sit, what to call a place (by port name), and how the site decides."""

    ports: PortMap
    meter_at: Mapping[str, MeterId]
    settings: GridSettings


def answer_window(
    prospect: Prospect | None, estimate: Estimate, question: Question, site: Site, outside: tuple[Binding, ...]
) -> Answer:
    """Verdicts on all wishes; without a prospect (something is unknown) all are refused. Who pushes a point that is
    measured ``outside`` the band gets no more than it has."""
    if prospect is None:
        return Answer(refusals(question, estimate.unknown[0]))
    verdicts = Verdicts(question.places)
    high = _high(outside, estimate.blocked, site, prospect)
    return _Window(prospect, high, question, site.ports, site.meter_at, site.settings, verdicts).answer()


def _high(
    outside: tuple[Binding, ...], blocked: tuple[int, ...], site: Site, prospect: Prospect
) -> tuple[tuple[int, Binding], ...]:
    """Constraints that nobody may push any further, and what to call them. First n are the ports' upper limits, the
    next n their lower ones: those that measured points exceed (of all ports, where the point is none of them), and
    those of ports that have been high for long."""
    n, found = len(prospect.now.p_w), list[tuple[int, Binding]]()
    for binding in outside:
        below = n if binding.reason is Reason.UNDERVOLTAGE else 0
        found += [(below + port, binding) for port in site.ports.at(binding) or range(n)]
    for port in blocked:
        place = prospect.names[port].place
        found.append((port, Binding(Reason.OVERVOLTAGE, site.meter_at.get(place, MeterId(place)))))
    return tuple(found)


def refusals(question: Question, why: Binding) -> tuple[Verdict, ...]:
    """No to everybody, for one reason or for their own."""
    verdicts = Verdicts(question.places)
    for wish in question.wishes:
        verdicts.refuse(wish, _objection(wish) or why)
    return tuple(verdicts.found)


def _least(wish: Wish) -> float:
    """What a limit must be to be of use [W]. A renewal goes on below its minimum while others let go; a question, also
    one that replaces a grant, does not."""
    least_w = wish.nominal_w + LEAST_W
    return max(wish.minimum_w, least_w) if wish.standing is ASKS else least_w


@lru_cache
def _watt_more(nominal_w: float) -> float:
    """The least limit above the nominal one [W]; many have the same."""
    return down(nominal_w + LEAST_W)


def _objection(wish: Wish) -> Binding | None:
    return None if wish.objection is None else Binding(wish.objection, wish.meter)


def _worth_a_raise(wish: Wish, to_w: float) -> bool:
    return _worth_a_word(to_w, wish.granted_w or 0.0)


def _worth_a_word(more_w: float, less_w: float) -> bool:
    """Whether the step between two limits cannot wait for a renewal."""
    return more_w > less_w + max(RISE_W, RISE_SHARE * less_w)


@dataclass(slots=True, eq=False)
class _Window:
    """One answer on its way."""

    prospect: Prospect
    high: tuple[tuple[int, Binding], ...]
    """Constraints that nobody may push any further, and what to call them."""
    question: Question
    ports: PortMap
    meter_at: Mapping[str, MeterId]
    settings: GridSettings
    verdicts: Verdicts
    high_slopes: Reals | None = None

    def answer(self) -> Answer:
        question = self.question
        for wish in question.wishes:
            if wish.objection is not None:
                self.verdicts.refuse(wish, Binding(wish.objection, wish.meter))
        wishes = tuple(w for w in question.wishes if w.objection is None)
        if not wishes:
            return Answer(tuple(self.verdicts.found))
        shares, judge, told = self._shares(wishes)
        if shares.exceeded is NO_FLOW:
            return self._nothing(wishes, shares)
        share_w = dict(zip([w.meter for w in wishes], down_each(shares.limits_w).tolist(), strict=True))
        why = self._whys(wishes, shares)
        reserved, guard = question.reserved_w, self.settings.guard_pct / 100
        shed_w = self._shed(wishes, shares.floor, share_w, told)
        due, asking, raising = ([w for w in wishes if w.standing is standing] for standing in IN_TURN)
        movers, rising = due + asking, self._most_raised(raising, share_w)
        target_w = share_w | {meter: min(x, share_w[meter]) for meter, x in shed_w.items()} if shed_w else share_w
        room_w: Mapping[MeterId, float] = target_w
        targets = self._targets(movers + rising, target_w)
        if targets:  # else nothing is reserved that may be too much
            overdrawn = judge.too_much(reserved, guard) or bool(shed_w)
            if not overdrawn:
                movers += rising
            elif rising:
                targets = self._targets(movers, target_w)
            moving = {w.meter for w in movers}
            joint = {m: max(share_w[m] if m in moving else 0.0, reserved.get(m, 0.0)) for m in share_w}
            tolerance = self.settings.guard_pct / 200
            if overdrawn or not judge.bears(joint, reserved, tolerance):
                room_w = judge.raised(targets, reserved, tolerance, self.settings.policy)
        short = False
        for wish in movers:
            got_w, binding = self._step(wish, target_w[wish.meter], room_w, why[wish.meter])
            if wish.standing is MAY_RISE and not (got_w is not None and _worth_a_raise(wish, got_w)):
                continue
            if got_w is not None:
                self.verdicts.accept(wish, got_w, binding)
            elif self._asks_too_much(wish, share_w[wish.meter]):
                self.verdicts.refuse(wish, binding or self._why_not(wish, shares))
            elif wish.standing is ASKS:
                short = True
                self.verdicts.add(wish, Act.WAIT, None, binding)
            elif wish.granted_w is not None:  # its share has shrunk to nothing, but it may grow again
                self._keep_or_end(wish, binding or self._why_not(wish, shares))
        if shed_w or short:
            self._lower(wishes, shed_w, share_w if short else {}, why, shares)
        return Answer(tuple(self.verdicts.found), round(shares.fairness, 6))

    def _nothing(self, wishes: tuple[Wish, ...], shares: Allocation) -> Answer:
        """Not even the nominal limits have a power-flow solution: no to everybody, and what is held ends at once."""
        for wish in wishes:
            why = self._why_not(wish, shares)
            if wish.standing is ASKS:
                self.verdicts.refuse(wish, why)
            if wish.granted_w is not None:
                self.verdicts.add(wish, Act.LOWER, wish.nominal_w, why)
        return Answer(tuple(self.verdicts.found))

    def _shed(
        self, wishes: tuple[Wish, ...], floor: Reals, share_w: Mapping[MeterId, float], judge: Judge
    ) -> dict[MeterId, float]:
        """What is left for those who must have less than they were told, if nobody gets more: neither a newcomer, nor a
        customer on another phase whose export would help."""
        guard, leaving = self.settings.guard_pct / 100, self.question.leaving
        live = tuple(w for w in wishes if w.granted_w is not None)
        if self.question.unheard:
            live = tuple(w for w in live if not self._deaf(w))
        held_w = {m: x for m, x in self.question.reserved_w.items() if m not in leaving}
        granted_w = {w.meter: w.granted_w or 0.0 for w in live}
        renewed = [w.meter for w in wishes if w.standing is DUE][: self.verdicts.places]
        due_w = {m: min(granted_w[m], share_w[m]) for m in renewed if m in granted_w}
        told_w = {**held_w, **granted_w, **due_w}
        if not live or not judge.too_much(told_w, guard):
            return {}
        less_w = self._taken(live, told_w, floor, share_w, judge)
        if not judge.too_much(told_w | less_w, guard):
            return less_w
        above_w = {w.meter: share_w[w.meter] for w in live if share_w[w.meter] < told_w[w.meter] - LEAST_W}
        return {meter: min(x, less_w.get(meter, x)) for meter, x in (less_w | above_w).items()}

    def _deaf(self, wish: Wish) -> bool:
        """Whether a lowering should long have been heard and was not: it is told again by itself, and until then the
        others make room. A grant whose acknowledgement is missing protects nobody from a lowering."""
        reserved_w = self.question.reserved_w.get(wish.meter, 0.0)
        return wish.meter in self.question.unheard and (wish.granted_w or 0.0) < reserved_w - LEAST_W

    def _taken(
        self,
        live: tuple[Wish, ...],
        told_w: dict[MeterId, float],
        floor: Reals,
        share_w: Mapping[MeterId, float],
        judge: Judge,
    ) -> dict[MeterId, float]:
        """What is left of what some hold, by few if that is enough, else by the policy."""
        guard = self.settings.guard_pct / 100
        before_w = np.array([told_w[w.meter] for w in live])
        held_w = np.minimum(before_w, [max(w.wanted_w, w.nominal_w) for w in live])
        claims = self._claims(live, held_w.tolist(), [0.0] * len(live))
        others_p_w = self._others(live, self.question.leaving)
        if self.settings.policy in TOGETHER:
            fair_w, useful_w = np.array([(share_w[w.meter], w.minimum_w) for w in live]).T
            told = Told(claims, fair_w, useful_w, others_p_w, np.maximum(floor, 0.0))
            less_w = self._less(live, before_w, lower_few(judge.prospect, told, guard))
            if not judge.too_much(told_w | less_w, guard):
                return less_w
        shares = allocate(self.prospect, claims, self.settings.policy, others_p_w, self._missing(others_p_w, live))
        less_w = self._less(live, before_w, shares.limits_w)
        return {meter: min(x, share_w[meter]) for meter, x in less_w.items()}

    def _less(self, live: tuple[Wish, ...], before_w: Reals, limits_w: Reals) -> dict[MeterId, float]:
        """The limits of those who lose something of what they were told: who asks for less, what he will not use."""
        loses = (limits_w < before_w - LEAST_W).tolist()
        return {w.meter: x for w, x, less in zip(live, down_each(limits_w).tolist(), loses, strict=True) if less}

    def _shares(self, wishes: tuple[Wish, ...]) -> tuple[Allocation, Judge, Judge]:
        """Where the policy wants to be; who judges what may be reserved on the way, by what is seen, and of what is not
        by no more than keeps everybody inside the band if it does not come; and who judges what has been told, with
        those gone who were told that their grants are over."""
        others_p_w = self._others(wishes, self.question.leaving)
        seen = tuple(w for w in wishes if w.used_w is not None)
        missing = self._missing(others_p_w, seen)
        claims = self._claims(wishes, [w.wanted_w for w in wishes], [w.minimum_w for w in wishes])
        shares = allocate(self.prospect, claims, self.settings.policy, others_p_w, missing)
        judge = told = self._judge(claims, others_p_w, missing, shares.floor)
        if self.question.leaving:
            held_p_w = self._others(wishes)
            judge = self._judge(claims, held_p_w, self._missing(held_p_w, seen), shares.floor)
        return shares, judge, told

    def _judge(self, claims: tuple[Claim, ...], others_p_w: Reals, missing: Reals | None, floor: Reals) -> Judge:
        sober = Sober(self.prospect, missing, BELIEVED * self.settings.guard_pct / 100)
        return Judge(sober, claims, others_p_w, np.maximum(floor, 0.0))

    def _missing(self, others_p_w: Reals, seen: tuple[Wish, ...]) -> Reals | None:
        """What grants of those whose use is seen, where they are not used, take off no other phase's voltage
        (n_case, n_constraint). A reservation that nobody wishes any more is held, but what it relieves is what is
        measured."""
        now_w, p_w = self.prospect.now.p_w, others_p_w
        if seen:
            p_w = self._used({w.meter: w.granted_w or 0.0 for w in seen}, p_w)
        unused_w = np.maximum(0.0, now_w - p_w)
        return self.prospect.relief(unused_w) if unused_w.any() else None

    def _others(self, wishes: tuple[Wish, ...], leaving: frozenset[MeterId] = frozenset()) -> Reals:
        return self._held({*leaving, *(w.meter for w in wishes)})

    def _most_raised(self, raising: list[Wish], share_w: Mapping[MeterId, float]) -> list[Wish]:
        """Who is worth a raise; where there is air time for some of them only, those who gain most."""
        found = [w for w in raising if _worth_a_raise(w, share_w[w.meter])]
        most = len(found) if self.question.raises is None else self.question.raises
        if len(found) <= most:
            return found
        gained = sorted(found, key=lambda w: (w.granted_w or 0.0) - share_w[w.meter])
        chosen = {w.meter for w in gained[:most]}
        return [w for w in found if w.meter in chosen]

    def _keep_or_end(self, wish: Wish, why: Binding) -> None:
        """A grant that is worth nothing now is kept alive by a watt, unless that is below what its owner can use."""
        least_w = _watt_more(wish.nominal_w)
        if least_w >= wish.minimum_w:
            self.verdicts.accept(wish, least_w, why)
        else:
            self.verdicts.add(wish, Act.LOWER, wish.nominal_w, why)

    def _claims(self, wishes: tuple[Wish, ...], wanted_w: list[float], minimum_w: list[float]) -> tuple[Claim, ...]:
        """What each wish may grow to: nothing beyond what it has where a voltage is out of band or long high."""
        ports, phases, beyond_w = self.ports.of_meter, self.ports.phases, self.question.beyond_w
        found = list[Claim]()
        for wish, wanted, minimum in zip(wishes, wanted_w, minimum_w, strict=True):
            meter, nominal = wish.meter, wish.nominal_w
            most, least = wanted if wanted > nominal else nominal, nominal + LEAST_W
            if self.high and self._pushed(meter) is not None:
                most = min(most, max(nominal, wish.granted_w or 0.0))
            least = minimum if minimum > least else least
            least = most if most < least else least
            beyond = beyond_w.get(meter, NEVER_W)
            found.append(Claim(meter, ports[meter], nominal, most, least, phases.get(meter, ()), beyond))
        return tuple(found)

    def _pushed(self, meter: MeterId) -> Binding | None:
        """The first point out of band or long high that a customer's export pushes."""
        if not self.high:
            return None
        ports, free = self.ports.of_meter[meter], meter in self.ports.phases
        if self.high_slopes is None:
            rows = np.array([row for row, _ in self.high], dtype=np.int64)
            self.high_slopes = self.prospect.slopes(self.prospect.now.p_w, rows)
        own = self.high_slopes[:, list(ports)]
        pushes = np.flatnonzero((own.min(axis=1) if free else own.sum(axis=1)) < -1e-9)
        return self.high[int(pushes[0])][1] if len(pushes) else None

    def _held(self, without: set[MeterId]) -> Reals:
        """Draws as measured, with the reservations of all other meters fully used (n_case, n)."""
        known = self.ports.of_meter
        held_w = {m: limit_w for m, limit_w in self.question.reserved_w.items() if m not in without and m in known}
        return self._used(held_w, self.prospect.now.p_w[None, :])

    def _used(self, limits_w: Mapping[MeterId, float], others_p_w: Reals) -> Reals:
        """Draws with some limits fully used, or what is measured, if that is more (n_case, n)."""
        if not limits_w:
            return others_p_w
        now_w = self.prospect.now.p_w
        spread = Spread.at(
            tuple(self.ports.of_meter[meter] for meter in limits_w),
            tuple(self.ports.phases.get(meter, ()) for meter in limits_w),
        )
        at_least_w = np.maximum(list(limits_w.values()), spread.exports_w(now_w))
        return spread.powers(at_least_w, others_p_w, now_w)

    def _targets(self, movers: list[Wish], target_w: Mapping[MeterId, float]) -> tuple[Claim, ...]:
        """Claims of those who would get something of use, up to their targets."""
        ports, phases, found = self.ports.of_meter, self.ports.phases, list[Claim]()
        for wish in movers:
            meter, least_w = wish.meter, _least(wish)
            to_w = target_w[meter]
            if to_w >= least_w:
                found.append(Claim(meter, ports[meter], wish.nominal_w, to_w, least_w, phases.get(meter, ())))
        return tuple(found)

    def _step(
        self, wish: Wish, target_w: float, room_w: Mapping[MeterId, float], why: Binding | None
    ) -> tuple[float | None, Binding | None]:
        """What a wish gets now, on the way to its share; None if nothing of use. The others may not have let go yet:
        then as much of it as there is now, never less than it has."""
        least_w = _least(wish)
        if target_w < least_w:
            return None, why
        now_w = max(room_w[wish.meter], wish.granted_w or 0.0)
        if target_w <= now_w:
            return target_w, why
        got_w = down(now_w)
        return (got_w if got_w >= least_w else None), why or Binding(Reason.SHARED, wish.meter)

    def _asks_too_much(self, wish: Wish, share_w: float) -> bool:
        return wish.standing is ASKS and share_w < max(wish.minimum_w, wish.nominal_w + LEAST_W)

    def _lower(
        self,
        wishes: tuple[Wish, ...],
        shed_w: Mapping[MeterId, float],
        share_w: Mapping[MeterId, float],
        why: Mapping[MeterId, Binding | None],
        shares: Allocation,
    ) -> None:
        """Down with those who must have less; and for those who wait, to their share with those who have so much more
        that it is worth a word. Not who has been answered in this window already, unless he was told nothing."""
        answered = {v.meter for v in self.verdicts.found if v.act not in {Act.WAIT, Act.WITHHOLD}}
        for wish in wishes:
            if wish.granted_w is None or wish.meter in answered:
                continue
            to_w = min(wish.granted_w, shed_w.get(wish.meter, math.inf))
            fair_w = share_w.get(wish.meter, math.inf)
            if _worth_a_word(wish.granted_w, fair_w):
                to_w = min(to_w, fair_w)
            if to_w >= wish.granted_w - LEAST_W:
                continue
            binding = why[wish.meter] or self._why_not(wish, shares)
            if wish.minimum_w <= _watt_more(wish.nominal_w):
                to_w = max(to_w, _watt_more(wish.nominal_w))
            self.verdicts.add(
                wish, Act.LOWER, to_w, binding if wish.meter in shed_w else Binding(Reason.SHARED, wish.meter)
            )

    def _whys(self, wishes: tuple[Wish, ...], shares: Allocation) -> dict[MeterId, Binding | None]:
        """What keeps each wish from more; many share one constraint."""
        keys = list(map(id, shares.binding))
        known = {key: self._why(c) for key, c in dict(zip(keys, shares.binding, strict=True)).items()}
        found = {w.meter: known[key] for w, key in zip(wishes, keys, strict=True)}
        return {m: why or self._pushed(m) for m, why in found.items()} if self.high else found

    def _why(self, constraint: Constraint | None) -> Binding | None:
        if constraint is None:
            return None
        return Binding(REASONS[constraint.kind], self._place(constraint))

    def _why_not(self, wish: Wish, shares: Allocation) -> Binding:
        if shares.exceeded is not None:
            return Binding(REASONS[shares.exceeded.kind], self._place(shares.exceeded))
        return Binding(Reason.NO_CAPACITY, wish.meter)

    def _place(self, constraint: Constraint) -> MeterId:
        """The meter at a port, so that people know it; else the model's own name."""
        return self.meter_at.get(constraint.place, MeterId(constraint.place))
