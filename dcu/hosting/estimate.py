"""What the model makes of the meters: a level and a margin for the voltage at every port, and draws that add up.

Model and meters check each other. A power flow on the measured draws, raised or lowered to the measured busbar voltage,
gives the model's voltage at each port; `residuals` follows what each meter says beyond it. The level used for decisions
is model plus residual, so that a busbar that moved a second ago moves every port with it, and an inverter that has just
followed its new limit is no surprise. The margin is the class of the meter, plus three times the spread of the residual
(deviation and doubt; or what a reading too new to be judged surprises by, if that reaches further), plus what a model
wrong by its declared share may have made of the load's change since then. What houses do between their reports lasts
minutes and is not foreseen: it is the guard's, and the next report's, to deal with.

What the balancing meter sees and no customer's meter accounts for (`balance`) is spread over the ports without a meter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.one_state import solve_from_idle
from dcu.grid.port_model import PortModel
from dcu.hosting.balance import Balance
from dcu.hosting.decide import Binding, unknown
from dcu.hosting.headroom import FLOW_TOLERANCE_PU, Situation
from dcu.hosting.measurements import BLOCKED_PCT, SUBSTATION, MeasurementSet, Point, Quality
from dcu.hosting.residuals import Residuals, Seen
from dcu.meters import MeterEntry
from shared.errors import ConfigError, Fault
from shared.ids import MeterId
from shared.messages import Reason

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Rows = NDArray[np.int64]

SPREADS: Final = 3.0
"""Standard deviations in a margin."""
SOURCE_MIN, SOURCE_MAX = 0.5, 1.5
OPEN_MIN, OPEN_MAX = 0.8, 1.25
"""[nominal] What a model's ports may show without load: beyond, it is of another feeder or voltage level, and currents
would be taken for other volts than they make."""
SOURCE_STEP: Final = 0.005
"""The model's source follows the busbar in steps; the rest is a factor on the voltages, exact to second order."""
SOURCES_MAX: Final = 8
"""Models kept at hand, one for each step: a busbar wanders over a few."""
MINUTE_S: Final = 60.0
TEN_MINUTES_S: Final = 600.0
KEEP_EVERY_S: Final = 1.0
"""[s] Sets closer together count once in the means."""
INVALID: Final = Quality.INVALID
DECIMALS_V, DECIMALS_W = 4, 3
"""Rounding of what decisions see, so that records of it are exact."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far meters and model may be wrong.

    Attributes:
        voltage_class_pct: of every voltage reading.
        power_class_pct: of every reading of a draw.
        model_error_pct: of every predicted change of a voltage.
        contradiction_pct: a residual beyond this share of nominal is no accuracy any more [%].
        balance_pct: the balancing meter may differ from the sum of the meters, phase by phase, by this share of what
            flows: 1 % each for it and them, 0.5 % each for two voltages, and the angle between these.
        balance_w: and by this much in any case.
        noise_v: of one voltage reading: its last digit and its flicker [V].
        told_w: a draw that has changed by more is reported within seconds, by every meter [W]; None where not all do.
        blocked_pct: no increase where the one-minute mean is above nominal by this (invariant I15).
    """

    voltage_class_pct: float = 0.5
    model_error_pct: float = 5.0
    contradiction_pct: float = 2.0
    balance_pct: float = 4.0
    balance_w: float = 500.0
    noise_v: float = 0.1
    told_w: float | None = None
    blocked_pct: float = BLOCKED_PCT
    power_class_pct: float = 1.0


@dataclass(frozen=True, slots=True)
class PortMap:
    """Which ports each customer's meter sits at, in the order of its phases; the ports that have no meter; the phases
    of those who may use all of a limit on any one of theirs."""

    of_meter: dict[MeterId, tuple[int, ...]]
    unmetered: tuple[int, ...]
    phases: dict[MeterId, tuple[int, ...]] = field(default_factory=dict)

    def at(self, binding: Binding) -> tuple[int, ...]:
        """Where a binding's point is: at one port where it names a phase, at none if it is no customer's."""
        ports = self.of_meter.get(binding.point, ())
        return ports if binding.phase is None else ports[binding.phase : binding.phase + 1]

    def missing(self, measurements: MeasurementSet) -> tuple[Binding, ...]:
        """Points nobody knows, or whose powers nobody knows, in order."""
        return unknown(measurements.points) or tuple(
            Binding(Reason.READING_INVALID, point.name)
            for point in measurements.points[1:]
            if point.name in self.of_meter and not point.powers_known
        )

    def contradicts(self, port: int, u_v: float) -> Binding:
        """A meter's voltage [V] that cannot be right."""
        meter = next(meter for meter, at in self.of_meter.items() if port in at)
        return Binding(Reason.READINGS_CONTRADICT, meter, u_v)

    @staticmethod
    def of(model: PortModel, entries: Sequence[MeterEntry]) -> PortMap:
        """By the meter a port names; else by bus and phase.

        Raises:
            ConfigError: a meter whose port is not in the model, or is somebody else's.
        """
        found: dict[MeterId, tuple[int, ...]] = {}
        faults: list[Fault] = []
        owner: dict[int, MeterId] = {}
        for entry in entries:
            ports = []
            for phase in entry.phases:
                at = _port_of(model, entry, phase.name)
                if len(at) != 1 or at[0] in owner:
                    taken = f", taken by {owner[at[0]]}" if len(at) == 1 else ""
                    seen = f"{len(at)} ports for {entry.id} on {phase.name} of bus {entry.bus}{taken}"
                    faults.append(Fault(f"meter {entry.id}", seen, "one port of the model for each phase"))
                    continue
                owner[at[0]] = entry.id
                ports.append(at[0])
            found[entry.id] = tuple(ports)
        if faults:
            raise ConfigError(f"model {model.name}", faults)
        unmetered = tuple(k for k in range(len(model.ports)) if k not in owner)
        return PortMap(found, unmetered, free_phases(entries))


def free_phases(entries: Sequence[MeterEntry]) -> dict[MeterId, tuple[int, ...]]:
    """The phases of those customers who may use all of a limit on any one of theirs."""
    free = (entry for entry in entries if len(entry.phases) > 1 and not entry.balanced)
    return {entry.id: tuple(int(phase) for phase in entry.phases) for entry in free}


def _port_of(model: PortModel, entry: MeterEntry, phase: str) -> list[int]:
    labels = [k for k, label in enumerate(model.port_labels) if label == phase]
    named = [k for k in labels if model.port_meters[k] == entry.id]
    return named or [k for k in labels if model.port_meters[k] is None and model.port_buses[k] == entry.bus]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """The situation behind a decision, or why there is none.

    Attributes:
        source: factor on the model's source voltage.
        situation: at every port; None if something is unknown.
        unknown: what is, first the most telling.
        blocked: ports where no increase may be given because the voltage has been high for a while.
    """

    source: float
    situation: Situation | None
    unknown: tuple[Binding, ...]
    blocked: tuple[int, ...]


class _Mean:
    """Running mean of the last seconds, port by port."""

    def __init__(self, width_s: float) -> None:
        self._width_s = width_s
        self._kept: deque[tuple[float, Reals]] = deque()
        self._sum: Reals = np.zeros(0)

    def take(self, now: float, u_v: Reals) -> None:
        """One more set; at most one a second is kept."""
        if not self._kept:
            self._sum = np.zeros(len(u_v))
        elif now < self._kept[-1][0] + KEEP_EVERY_S:
            return
        self._kept.append((now, u_v))
        self._sum = self._sum + u_v
        while self._kept[0][0] <= now - self._width_s:
            self._sum = self._sum - self._kept.popleft()[1]

    @property
    def value(self) -> Reals:
        """[V] (n); NaN where a voltage was not known."""
        return self._sum / len(self._kept)


@dataclass(slots=True, eq=False)
class _Memory:
    """Residuals, recent voltages, and when they began [s]."""

    residuals: Residuals
    balance: Balance
    minute: _Mean = field(default_factory=lambda: _Mean(MINUTE_S))
    ten_minutes: _Mean = field(default_factory=lambda: _Mean(TEN_MINUTES_S))
    began_s: float = math.inf


class Estimator:
    """Keeps residuals; turns measurement sets into estimates."""

    def __init__(
        self,
        model: PortModel,
        ports: PortMap,
        nominal_v: Reals,
        accuracy: Accuracy,
        balancing_bus: str | None = None,
    ) -> None:
        """A fresh one.

        Args:
            model: the compiled feeder.
            ports: whose meter is where.
            nominal_v: nominal voltage of each port (n) [V].
            accuracy: what meters and model may be off by.
            balancing_bus: where the balancing meter sits; None if the model does not observe it, then the model's own
                source stays as it is and only differences of it are used.

        Raises:
            ConfigError: a balancing bus that the model does not observe, or a model of another voltage level.
        """
        self._model, self._ports, self._nominal_v, self._accuracy = model, ports, nominal_v, accuracy
        share = np.abs(model.u_open_v) / nominal_v
        odd = np.flatnonzero(~((share >= OPEN_MIN) & (share <= OPEN_MAX)))
        if len(odd):
            k = int(odd[0])
            seen = f"{abs(model.u_open_v[k]):.1f} V without load at {model.ports[k]}, one of {len(odd)}"
            wanted = f"{OPEN_MIN * nominal_v[k]:.1f} to {OPEN_MAX * nominal_v[k]:.1f} V, as site.nominal_voltage_v says"
            raise ConfigError(f"model {model.name}", [Fault("voltage", seen, wanted)])
        self._busbar = [
            k for k, n in enumerate(model.nodes) if n.bus == balancing_bus and n.conductor in {"L1", "L2", "L3"}
        ]
        if balancing_bus is not None and not self._busbar:
            seen = f"{balancing_bus}, not observed by {model.name}"
            raise ConfigError("balancing", [Fault("bus", seen, "a bus of the model, compiled with observables")])
        self._metered = np.zeros(len(model.ports), dtype=bool)
        self._metered[[port for at in ports.of_meter.values() for port in at]] = True
        self._placed: tuple[list[MeterId], Rows, list[int]] | None = None
        self._memory = self._fresh()
        self._by_source: dict[float, PortModel] = {1.0: model}
        self._source = 1.0

    def forget(self) -> None:
        """Residuals of nobody."""
        self._memory = self._fresh()
        self._source = 1.0

    def _fresh(self) -> _Memory:
        accuracy = self._accuracy
        wrong = accuracy.balance_w, accuracy.balance_pct
        balance = Balance(self._model.port_labels, self._ports.unmetered, self._nominal_v, wrong)
        return _Memory(Residuals(self._metered, self._nominal_v, accuracy.noise_v, accuracy.told_w), balance)

    def model_at(self, source: float) -> PortModel:
        """The model with its source's voltage times a factor; those asked for last are kept."""
        if source not in self._by_source:
            if len(self._by_source) >= SOURCES_MAX:
                del self._by_source[next(iter(self._by_source))]
            m = self._model
            scaled = {
                name: source * getattr(m, name)
                for name in ("u_open_v", "node_open_v", "current_open_a", "source_u_open_v", "source_i_open_a")
            }
            tree = None if m.tree is None else m.tree.raised(source)
            self._by_source[source] = replace(m, **scaled, tree=tree, memo={"z": m.z_ohm})
        found = self._by_source[source] = self._by_source.pop(source)
        return found

    def take(self, measurements: MeasurementSet, now: float) -> Estimate:
        """The estimate at ``now`` [s]; remembers residuals of new readings."""
        busbar, *customers = measurements.points
        readable = [point for point in customers if _readable(point)]
        # Who is readable says what he draws: only where somebody is not are all of them asked.
        all_are = len(readable) == len(customers)
        missing = unknown(measurements.points) if all_are else self._ports.missing(measurements)
        if not missing and self._busbar and len(busbar.u_v) != len(self._busbar):
            missing = (Binding(Reason.SUBSTATION_UNKNOWN, SUBSTATION),)
        seen = self._seen(readable, now)
        # Also where nothing can be decided: a report that nobody remembers would make a draw that went and came back
        # look as if it had never changed.
        volts = [v for v in busbar.u_v if v is not None and busbar.quality is not Quality.INVALID]
        measured_v = float(np.mean(volts)) if volts and len(volts) == len(busbar.u_v) else None
        self._memory.residuals.hear(seen, measured_v, now - (busbar.age_s or 0.0))
        if missing or measured_v is None:
            return Estimate(self._source, None, missing, ())
        p, q = seen.p_w, seen.q_var
        solved = self._solve(p, q, measured_v)
        if solved is None:
            return Estimate(self._source, None, (Binding(Reason.NO_POWER_FLOW, SUBSTATION),), ())
        u, _, factor = solved
        contradiction = self._balance(busbar, seen, np.abs(u) * factor, now)
        if contradiction is None and self._ports.unmetered:  # what nobody meters is there too
            solved = self._solve(p, q, measured_v)
            contradiction = Binding(Reason.NO_POWER_FLOW, SUBSTATION) if solved is None else None
        if contradiction is not None or solved is None:
            return Estimate(self._source, None, () if contradiction is None else (contradiction,), ())
        u, i, factor = solved
        memory, accuracy = self._memory, self._accuracy
        allowed = (accuracy.contradiction_pct + accuracy.voltage_class_pct) / 100
        memory.residuals.judge(self.model_at(self._source), self._busbar, allowed, (p, q), (u, i))
        self._note(seen.u_v, now)
        level = np.abs(u) * factor + memory.residuals.mean_v
        news = memory.residuals.now(seen, self.model_at(self._source), level, measured_v, bool(self._busbar), allowed)
        odd = np.flatnonzero(memory.residuals.contradicts | memory.residuals.unjudged | news.contradicts)
        if len(odd):
            return Estimate(
                self._source, None, tuple(self._ports.contradicts(int(k), float(seen.u_v[k])) for k in odd), ()
            )
        lift = factor * (np.abs(u) - np.abs(self.model_at(self._source).u_open_v))
        moved = np.where(self._metered, np.abs(lift - memory.residuals.anchor_v), 0.0)
        margin = (
            accuracy.voltage_class_pct / 100 * level
            + np.maximum(SPREADS * memory.residuals.spread_v, self._reached(news.off_v, level))
            + accuracy.model_error_pct / 100 * moved
        )
        situation = Situation(
            p,
            q,
            np.round(level, DECIMALS_V),
            np.ceil(margin * 10**DECIMALS_V + 0.5) / 10**DECIMALS_V,  # with what rounding took off the level
            accuracy.model_error_pct / 100,
            accuracy.power_class_pct / 100,
        )
        return Estimate(self._source, situation, (), self._blocked(now))

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _seen(self, customers: Sequence[Point], now: float) -> Seen:
        n, of_meter = len(self._model.ports), self._ports.of_meter
        p, q, u, taken_s = read = np.zeros((4, n))
        read[2:] = [[math.nan], [-math.inf]]
        known = [point for point in customers if point.name in of_meter]
        ports, counts = self._places([point.name for point in known])
        p[ports] = _flat([point.p_w for point in known], counts)
        q[ports] = _flat([point.q_var for point in known], counts)
        u[ports] = _flat([point.u_v for point in known], counts)
        taken_s[ports] = (now - np.array([point.age_s or 0.0 for point in known])).repeat(counts)
        _round(read[:2])
        return Seen(p, q, u, taken_s)

    def _places(self, meters: list[MeterId]) -> tuple[Rows, list[int]]:
        """The ports of some meters, one after the other, and how many each has; mostly they are those of last time."""
        if self._placed is None or self._placed[0] != meters:
            at = [self._ports.of_meter[meter] for meter in meters]
            self._placed = meters, np.array(list(chain.from_iterable(at)), dtype=np.int64), list(map(len, at))
        return self._placed[1:]

    def _solve(self, p: Reals, q: Reals, measured_v: float) -> tuple[Complexes, Complexes, float] | None:
        """Voltages [V] and currents [A] (n) with the source near the measured busbar, and the factor that is left to
        it."""
        for _ in range(3):
            model = self.model_at(self._source)
            u, i = solve_from_idle(model, p, q, FLOW_TOLERANCE_PU)
            if not np.isfinite(u).all():
                self._source = 1.0
                return None
            if not self._busbar:
                factor = 1.0
                break
            rows = self._busbar
            modelled = float(np.mean(np.abs(model.node_open_v[rows] + model.node_h_ohm[rows] @ i)))
            factor = measured_v / modelled
            if abs(factor - 1) <= SOURCE_STEP:
                break
            wanted = round(round(self._source * factor / SOURCE_STEP) * SOURCE_STEP, 6)
            self._source = min(max(wanted, SOURCE_MIN), SOURCE_MAX)
        return u, i, factor

    def _balance(self, busbar: Point, seen: Seen, u_v: Reals, now: float) -> Binding | None:
        """Spread what no meter accounts for over the ports without one (in place), or say that sums do not fit. ``u_v``
        are the model's voltages."""
        balance, p, q = self._memory.balance, seen.p_w, seen.q_var
        short = balance.take(busbar, p, q, np.where(self._metered, seen.u_v, u_v), now)
        if short is None:
            return Binding(Reason.SUBSTATION_UNKNOWN, SUBSTATION) if self._ports.unmetered else None
        contradiction = balance.contradicts(short)
        if contradiction is not None:
            return contradiction
        for n, free in enumerate(balance.free):
            if len(free):
                base = np.abs(self._model.base_p_w[free])
                share = base / base.sum() if base.sum() else np.full(len(free), 1 / len(free))
                p[free] += short.p_w[n] * share
                q[free] += short.q_var[n] * share
        _round(p, q)
        return None

    def _reached(self, off_v: Reals, level_v: Reals) -> Reals:
        """What of a surprise must be within the margin (n) [V]: one upwards; one downwards where the voltage that was
        read is below nominal, so that the lower limit is the nearer one."""
        unsafe = (off_v > 0) | (level_v + off_v < self._nominal_v)
        return np.asarray(np.where(unsafe, np.abs(off_v), 0.0))

    def _note(self, u_v: Reals, now: float) -> None:
        memory = self._memory
        memory.minute.take(now, u_v)
        memory.ten_minutes.take(now, u_v)
        memory.began_s = min(memory.began_s, now)

    def _blocked(self, now: float) -> tuple[int, ...]:
        """Ports whose one-minute mean, or ten-minute mean once there is one, is high."""
        memory = self._memory
        high_v = self._nominal_v * (1 + self._accuracy.blocked_pct / 100)
        over = memory.minute.value >= high_v
        if now >= memory.began_s + TEN_MINUTES_S:
            over |= memory.ten_minutes.value >= high_v
        return tuple(int(k) for k in np.flatnonzero(over & self._metered))


def _readable(point: Point) -> bool:
    """Whether a meter's reading says something about the instant it was taken, be it fresh or old."""
    u_v, age_s = point.u_v, point.age_s
    if age_s is None or not age_s >= 0 or not u_v or None in u_v or not point.powers_known:
        return False
    return point.quality is not INVALID


def _round(*draws: Reals) -> None:
    """To what decisions see, in place: the flow of the estimate is then the one that they start from."""
    for values in draws:
        np.round(values, DECIMALS_W, out=values)


def _flat(rows: Sequence[tuple[float | None, ...]], counts: Sequence[int]) -> list[float | None]:
    """The first few of each row, one after the other."""
    if list(map(len, rows)) != counts:
        rows = [row[:count] for row, count in zip(rows, counts, strict=True)]
    return list(chain.from_iterable(rows))
