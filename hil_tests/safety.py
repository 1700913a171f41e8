"""Does the rule keep the grid whole? Random states, grants decided on what meters say, judged by the exact flow.

For each state: draw powers and wishes from the seed; let the meters measure with errors of their class, in the steps of
the register map, and the rule use a model that is wrong within the declared share; answer one window; then solve the
*true* network with every grant fully used, the worst of its states by two engines. A voltage or a rated current beyond
its limit that was not beyond it before is an unsafe grant; so is any grant while a reading is missing, stale or not a
number. Beside it: how much of what was exactly feasible (the common level that an independent bisection on the true
network finds) was granted, and how often the linear prediction's bound covers the exact voltages.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.compiler import compile_network, network_sha256
from dcu.grid.feeder import Engine, Feeder, solve
from dcu.grid.injections import Injections, prepare
from dcu.grid.network import Network, matrix
from dcu.grid.port_model import PortModel
from dcu.grid.sensitivities import linear_step, sensitivity
from dcu.hosting.decide import Act, Question, Standing, Wish
from dcu.hosting.estimate import Accuracy
from dcu.hosting.measurements import SUBSTATION, MeasurementSet, Point, Quality
from dcu.hosting.predicted import Predicted
from dcu.hosting.window import GridSettings
from dcu.meters import MeterEntry
from hil_tests.safety_sequences import FLOW_ERROR, MeterErrors, Minutes
from shared.ids import BusId, Eui48, MeterId, Phase

Reals = NDArray[np.float64]
States = Callable[[Reals, NDArray[np.int64], Reals], Reals]
"""Draws (n_state, n) of now, with some ports' limits (n_level, n_wish) used."""

NOMINAL_W: Final = 500.0
WANTED_W: Final = (2_000.0, 10_000.0)
CLAIMS_MAX: Final = 12
LEVELS, ZOOMS = 17, 5
"""Candidates of one round of the bisection, and rounds; they resolve 10 kW to 0.01 W."""
BOUND_EVERY: Final = 10
"""The bound is looked at in each tenth state; its derivatives cost more than the decision."""
SPOILED_SHARE: Final = 0.02
"""Share of states in which some reading cannot be used."""
LOW_SHARE, HIGH_SHARE = 1.0, 1 / 3
"""Parts of the band below and above the feeder's own no-load voltage."""
UNUSED, EVENLY = -1, -2
LABELS: Final = ("L1", "L2", "L3")
MIXED: Final = ((0, 1), (1, 1), (2, 1), (0, 3), (1, 3), (2, 3), (0, 2), (1, 2))
"""First and step of ways in which customers of several phases use theirs on different ones, or not at all."""
NONE: Final = slice(0)
CHUNK: Final = 500
SEQUENCE_SHARE: Final = 0.02
"""Share of states that are some minutes long; one costs as much as fifty windows."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What separates the decision from the truth: relative errors of voltage and power meters (uniform, within the
    class), of every impedance of the model, and steps of the readings [V], [W]."""

    voltage: float = 0.0
    power: float = 0.0
    model: float = 0.0
    step_v: float = 0.0
    step_w: float = 0.0


EXACT: Final = Errors()
CLASS_1: Final = Errors(voltage=0.005, power=0.01, model=0.05, step_v=0.1, step_w=0.1)


@dataclass(frozen=True, slots=True)
class Safety:
    """Counts of a run; `granted_fraction` and `bound_coverage` are shares."""

    states: int
    unsafe: int
    granted_fraction: float
    """Of the common increase that the true network bears in whichever phases it is used."""
    bound_coverage: float
    granted_of_together: float
    """The same of what it bears if all use theirs, so that those on other phases may count on each other."""
    wishes: int
    limited_states: int
    """States in which the grid, not the wishes, set the level."""
    spoiled_states: int
    """States with a reading that cannot be used; any grant there would be unsafe."""
    sequences: int
    """States that were some minutes of a street (`safety_sequences`), not one window."""
    sequence_windows: int
    """Windows of these in which something was granted, renewed or raised, each judged."""
    worst_excess: float
    """[limit] How far the worst granted state is beyond its limits (negative: inside)."""

    def as_json(self) -> dict[str, float | int]:
        """By name."""
        return asdict(self)


@dataclass(slots=True)
class _Tally:
    states: int = 0
    unsafe: int = 0
    granted_w: float = 0.0
    feasible_w: float = 0.0
    together_w: float = 0.0
    looked: int = 0
    covered: int = 0
    wishes: int = 0
    limited: int = 0
    spoiled: int = 0
    sequences: int = 0
    windows: int = 0
    worst: float = -np.inf

    def add(self, other: _Tally) -> None:
        for name in self.__slots__:
            both = (getattr(self, name), getattr(other, name))
            setattr(self, name, max(both) if name == "worst" else sum(both))


def evaluate_safety(
    network: Network,
    states: int,
    seed: int,
    errors: Errors = EXACT,
    band_pct: float = 10.0,
    jobs: int = 1,
    sequence_share: float = SEQUENCE_SHARE,
) -> Safety:
    """Run `states` random states of a feeder; the same seed gives the same figures, whatever the number of jobs.

    The band lies around the open-circuit voltage of the feeder, so that any published feeder has headroom to share.
    """
    chunks = [
        _Chunk(network, min(CHUNK, states - first), (seed, first // CHUNK), errors, band_pct, sequence_share)
        for first in range(0, states, CHUNK)
    ]
    total = _Tally()
    for found in _map(chunks, jobs):
        total.add(found)
    return Safety(
        total.states,
        total.unsafe,
        total.granted_w / total.feasible_w if total.feasible_w else 1.0,
        total.covered / total.looked if total.looked else 1.0,
        total.granted_w / total.together_w if total.together_w else 1.0,
        total.wishes,
        total.limited,
        total.spoiled,
        total.sequences,
        total.windows,
        float(total.worst),
    )


@dataclass(frozen=True, slots=True)
class _Chunk:
    network: Network
    states: int
    seed: tuple[int, int]
    errors: Errors
    band_pct: float
    sequence_share: float


def _map(chunks: Sequence[_Chunk], jobs: int) -> Sequence[_Tally]:
    if jobs == 1:
        return [_run(chunk) for chunk in chunks]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return pool.map(_run, chunks, chunksize=1)


_TRUTHS: Final[dict[tuple[str, float], _Truth]] = {}
"""One for each process and network: the compilation costs as much as hundreds of states."""


def _run(chunk: _Chunk) -> _Tally:
    network, errors = chunk.network, chunk.errors
    key = (network_sha256(network), chunk.band_pct)
    if key not in _TRUTHS:
        _TRUTHS[key] = _Truth(network, chunk.band_pct)
    truth = _TRUTHS[key]
    random = np.random.default_rng(chunk.seed)
    rule = truth.rule(errors, with_wrong_impedances(network, errors.model, random) if errors.model else None)
    tally = _Tally()
    for state in range(chunk.states):
        if random.random() < chunk.sequence_share and not truth.several:
            _one_sequence(truth, rule, errors, random, tally)
        else:
            _one_state(truth, rule, errors, random, tally, look=state % BOUND_EVERY == 0)
    return tally


def _one_sequence(truth: _Truth, rule: Predicted, errors: Errors, random: np.random.Generator, tally: _Tally) -> None:
    p, q = truth.draw(random)
    n = len(p)
    voltage, power = (1 + random.uniform(-share, share, n) for share in (errors.voltage, errors.power))
    rule.begin()
    found = Minutes(truth, rule, MeterErrors(voltage, power, errors.step_v, errors.step_w), p, q, random).play()
    tally.states += 1
    tally.sequences += 1
    tally.windows += found.windows
    tally.unsafe += found.unsafe > 0
    tally.worst = max(tally.worst, found.worst)


def _one_state(
    truth: _Truth, rule: Predicted, errors: Errors, random: np.random.Generator, tally: _Tally, *, look: bool
) -> None:
    p, q = truth.draw(random)
    wishes = truth.wishes(random)
    u = truth.voltages(p[None, :], q)
    spoiled = random.random() < SPOILED_SHARE
    measured = truth.measure(p, q, u[0], errors, random)
    if spoiled:
        measured = _spoil(measured, random)
    rule.begin()
    answer = rule.answer(rule.view(measured, 0.0), Question(wishes, {}, len(wishes)))
    granted = {v.meter: v.limit_w for v in answer.verdicts if v.act is Act.GRANT}
    limits = np.array([granted.get(w.meter, NOMINAL_W) for w in wishes])
    at = np.array([truth.place[w.meter] for w in wishes])
    after = truth.in_some_phases(p, at, limits[None, :])
    nominal = truth.in_some_phases(p, at, np.full((1, len(wishes)), NOMINAL_W))
    over = truth.beyond(np.concatenate([after, nominal, p[None, :]]), q, slice(len(after)))
    borne = np.maximum(over[len(after) :].max(axis=0), 0.0)
    beyond = float((over[: len(after)] - borne).max())
    tally.states += 1
    tally.wishes += len(wishes)
    tally.worst = max(tally.worst, beyond)
    tally.spoiled += spoiled
    if spoiled:
        tally.unsafe += bool(granted)
        return
    tally.unsafe += beyond > FLOW_ERROR
    level, together = (
        truth.level(p, q, at, wishes[0].wanted_w, states) for states in (truth.in_some_phases, truth.used)
    )
    tally.limited += level < wishes[0].wanted_w - 1.0
    tally.granted_w += max(0.0, min(float(limits.min()), level) - NOMINAL_W)
    tally.feasible_w += max(0.0, level - NOMINAL_W)
    tally.together_w += max(0.0, together - NOMINAL_W)
    if look:
        tally.looked += 1
        tally.covered += _bound_holds(truth.feeder, p, q, after[-1])


def with_wrong_impedances(network: Network, share: float, random: np.random.Generator) -> Network:
    """The network with every branch impedance off by up to `share`."""
    branches = tuple(replace(b, z_ohm=matrix(b.z_ohm * (1 + random.uniform(-share, share)))) for b in network.branches)
    return replace(network, branches=branches, memo={})


def _spoil(measured: MeasurementSet, random: np.random.Generator) -> MeasurementSet:
    """One point, the busbar among them, missing, stale, invalid, or without its powers."""
    points = list(measured.points)
    at = int(random.integers(len(points)))
    kind = int(random.integers(4 if at else 3))
    if kind < 3:
        quality = (Quality.MISSING, Quality.STALE, Quality.INVALID)[kind]
        points[at] = replace(points[at], quality=quality)
    else:
        points[at] = replace(points[at], p_w=(None,) * len(points[at].p_w))
    return MeasurementSet(tuple(points))


def _customers(model: PortModel) -> tuple[tuple[int, ...], ...]:
    """Ports of each: those of a bus together where they are on different phases."""
    at_bus: dict[str, list[int]] = {}
    for k, bus in enumerate(model.port_buses):
        at_bus.setdefault(bus, []).append(k)
    labels, found = model.port_labels, list[tuple[int, ...]]()
    for own in at_bus.values():
        apart = len({labels[k] for k in own} & {"L1", "L2", "L3"}) == len(own)
        found += [tuple(own)] if apart else [(k,) for k in own]
    return tuple(sorted(found))


class _Truth:
    """The real feeder, solved by the sweep where it is radial. As decisions walk its tree too, the worst of the states
    that are judged is solved by products with Z as well."""

    def __init__(self, network: Network, band_pct: float) -> None:
        self.feeder = Feeder(network)
        model = self.feeder.model
        self._n = len(model.ports)
        self._band_pct = band_pct
        self._u_nominal_v = np.abs(model.u_open_v)
        self.u_low_v = self._u_nominal_v * (1 - LOW_SHARE * band_pct / 100)
        self.u_high_v = self._u_nominal_v * (1 + HIGH_SHARE * band_pct / 100)
        self._choices: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        self._rated = np.flatnonzero(np.isfinite(model.rating_a))
        self._rated_h = np.ascontiguousarray(model.current_h[self._rated].T)
        self.customers = _customers(model)
        self.several = any(len(own) > 1 for own in self.customers)
        """Whether some customers are connected to several phases."""
        self.entries = tuple(self._entry(k, own) for k, own in enumerate(self.customers))
        self.place = {entry.id: k for k, entry in enumerate(self.entries)}

    def _entry(self, k: int, ports: tuple[int, ...]) -> MeterEntry:
        model = self.feeder.model
        phases = tuple(Phase[model.port_labels[port]] for port in ports) if len(ports) > 1 else (Phase.L1,)
        bus = BusId(model.port_buses[ports[0]])
        return MeterEntry(MeterId(f"m{k}"), Eui48(k.to_bytes(6, "big")), bus, phases, NOMINAL_W, WANTED_W[1])

    def rule(self, errors: Errors, wrong: Network | None) -> Predicted:
        """The rule under test, with the true model or a wrong one; it is told how wrong things may be."""
        model = self.feeder.model if wrong is None else compile_network(wrong)
        of_port = {
            port: (e, phase)
            for e, own in zip(self.entries, self.customers, strict=True)
            for port, phase in zip(own, e.phases, strict=True)
        }
        owners = [of_port[k] for k in range(self._n)]
        labels, meters = tuple(phase.name for _, phase in owners), tuple(e.id for e, _ in owners)
        model = replace(model, port_labels=labels, port_meters=meters, memo=dict(model.memo))
        step_pct = 100 * errors.step_v / float(self._u_nominal_v.min())
        accuracy = Accuracy(
            voltage_class_pct=100 * errors.voltage + step_pct,
            power_class_pct=100 * errors.power + 100 * errors.step_w / WANTED_W[0],
            model_error_pct=100 * errors.model,
            noise_v=0.0,
            contradiction_pct=100.0,
            blocked_pct=100.0,
        )
        # The limits that count are set port by port; the band of what is measured must not be narrower.
        settings = GridSettings(
            nominal_voltage_v=float(self._u_nominal_v.mean()),
            band_pct=min(2 * self._band_pct, 50.0),
            guard_pct=0.0,
            accuracy=accuracy,
        )
        rule = Predicted(model, self.entries, settings)
        rule.limit_voltages(self.u_low_v, self.u_high_v)
        return rule

    def phases(self) -> tuple[str, ...]:
        """Of every port."""
        return self.feeder.model.port_labels

    def draw(self, random: np.random.Generator) -> tuple[Reals, Reals]:
        """Evening to noon: log-normal draws, some houses already exporting up to their nominal limit."""
        p = random.lognormal(5.6, 1.0, self._n) * random.uniform(0.2, 2.0)
        sun = random.random(self._n) < random.uniform(0.0, 0.5)
        p = np.where(sun, -random.uniform(0, NOMINAL_W, self._n), np.minimum(p, 5e3))
        return p, 0.2 * np.abs(p)

    def wishes(self, random: np.random.Generator) -> tuple[Wish, ...]:
        """One to a dozen customers who all want the same, so that fairness has one level."""
        count = int(random.integers(1, min(CLAIMS_MAX, len(self.customers)) + 1))
        chosen = random.choice(len(self.customers), count, replace=False)
        wanted = float(random.uniform(*WANTED_W))
        return tuple(Wish(MeterId(f"m{k}"), Standing.ASKS, NOMINAL_W, wanted, 0.0) for k in sorted(chosen))

    def measure(self, p: Reals, q: Reals, u: Reals, errors: Errors, random: np.random.Generator) -> MeasurementSet:
        """What the meters show."""

        def read(values: Reals, share: float, step: float) -> Reals:
            seen = values * (1 + random.uniform(-share, share, len(values)))
            return np.asarray(np.round(seen / step) * step if step else seen)

        volts = read(u, errors.voltage, errors.step_v)
        watts, vars_ = (read(x, errors.power, errors.step_w) for x in (p, q))
        busbar = Point(SUBSTATION, Quality.GOOD, (float(self._u_nominal_v[0]),), 0.0, 0.0, (0.0,), (0.0,))
        customers = (
            Point(e.id, Quality.GOOD, _of(volts, own), 0.0, 0.0, _of(watts, own), _of(vars_, own))
            for e, own in zip(self.entries, self.customers, strict=True)
        )
        return MeasurementSet((busbar, *customers))

    def voltages(self, p: Reals, q: Reals) -> Reals:
        """Magnitudes at all ports (n_state, n) [V]."""
        return np.asarray(np.abs(self._solve(p, q)))

    def _solve(self, p: Reals, q: Reals, engine: Engine = "auto") -> NDArray[np.complex128]:
        batch = Injections(p, np.repeat(q[None, :], len(p), axis=0))
        return np.asarray(solve(self.feeder, batch, engine=engine, tolerance_pu=1e-9)["port_u_v"])

    def beyond(self, p: Reals, q: Reals, judged: slice = NONE) -> Reals:
        """How far each voltage and rated current is beyond its limit [limit] (n_state, n_constraint); for the worst of
        the judged states by whichever engine says more."""
        found = self._beyond(p, self._solve(p, q), q)
        if len(found[judged]):
            worst = int(np.arange(len(p))[judged][found[judged].max(axis=1).argmax()])
            again = self._beyond(p[worst : worst + 1], self._solve(p[worst : worst + 1], q, "port"), q)
            found[worst] = np.maximum(found[worst], again[0])
        return found

    def _beyond(self, p: Reals, u: NDArray[np.complex128], q: Reals) -> Reals:
        parts = [np.abs(u) / self.u_high_v - 1, 1 - np.abs(u) / self.u_low_v]
        if len(self._rated):
            model = self.feeder.model
            i = -np.conj((p + 1j * q) / u)
            amps = np.abs(model.current_open_a[self._rated] + i @ self._rated_h)
            parts.append(amps / model.rating_a[self._rated] - 1)
        return np.concatenate(parts, axis=1)

    def used(self, p: Reals, at: NDArray[np.int64], limits_w: Reals) -> Reals:
        """Draws with the limits (n_state, n_wish) of some customers fully used, evenly on their phases (n_state, n)."""
        return self._with_use(p, at, limits_w, np.full((1, len(at)), EVENLY))

    def _with_use(self, p: Reals, at: NDArray[np.int64], limits_w: Reals, uses: NDArray[np.int64]) -> Reals:
        """Draws with all that the limits (n_state, n_wish) allow beyond what is exported now on one phase of each
        customer, on all alike (`EVENLY`), or unused (`UNUSED`), in several ways (n_use, n_wish): state by state
        (n_state * n_use, n)."""
        found = np.repeat(p[None, :], len(limits_w) * len(uses), axis=0).reshape(len(limits_w), len(uses), -1)
        for wish, k in enumerate(at):
            ports = list(self.customers[k])
            more = np.maximum(0.0, limits_w[:, wish] + p[ports].sum())[:, None]
            for slot, port in enumerate(ports):
                share = np.where(uses[:, wish] == EVENLY, 1 / len(ports), uses[:, wish] % len(ports) == slot)
                found[:, :, port] -= more * np.where(uses[:, wish] == UNUSED, 0.0, share)
        return found.reshape(-1, len(p))

    def in_some_phases(self, p: Reals, at: NDArray[np.int64], limits_w: Reals) -> Reals:
        """Draws with the limits (n_state, n_wish) used in one phase, in two, in all, the others as they are: every
        choice of each (n_state * n_choice, n), state by state; in all phases last. Where customers have several phases:
        all on the same one, each on another one, some not at all, all evenly."""
        if self.several:
            order = np.arange(len(at))
            mixed = [(order * step + first) % 4 for first, step in MIXED]
            uses = np.array([*self._through(at), *mixed, 0 * order + EVENLY])
            return self._with_use(p, at, limits_w, np.where(uses == 3, UNUSED, uses))
        labels = sorted({self.phases()[port] for port in at})
        choices = self._in_phases(tuple(labels))[:, at]
        used = np.where(choices[None, :, :], -limits_w[:, None, :], p[at])
        found = np.repeat(p[None, :], len(limits_w) * len(choices), axis=0)
        found[:, at] = used.reshape(len(found), len(at))
        return found

    def _through(self, at: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Ways in which some phases are used: customers of one of them by those on it, customers of several all by the
        same one of them (n_wish)."""
        labels = self.phases()
        own = [[labels[port] for port in self.customers[k]] for k in at]
        found = []
        for size in range(1, len(LABELS) + 1):
            for choice in combinations(LABELS, size):
                found += [
                    np.array([_slot(phases, choice, through) for phases in own], dtype=np.int64) for through in choice
                ]
        return found

    def _in_phases(self, labels: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which ports (n) are on one of some phases, for every choice of them: (n_choice, n), all of them last."""
        if labels not in self._choices:
            mine = np.array(self.phases())
            choices = [c for size in range(1, len(labels) + 1) for c in combinations(labels, size)]
            self._choices[labels] = np.array([np.isin(mine, choice) for choice in choices])
        return self._choices[labels]

    def level(self, p: Reals, q: Reals, at: NDArray[np.int64], wanted_w: float, states: States) -> float:
        """The highest common limit that the true network bears [W], by bisection; `states` says how it is used."""
        low, high = NOMINAL_W, wanted_w
        for _ in range(ZOOMS):
            levels = np.linspace(low, high, LEVELS)
            draws = states(p, at, np.repeat(levels[:, None], len(at), axis=1))
            beyond = self.beyond(draws, q).reshape(LEVELS, len(draws) // LEVELS, -1).max(axis=1)
            good = np.asarray((beyond <= np.maximum(beyond[0], 0.0)).all(axis=1), dtype=bool)
            if good.all():
                return high
            last = int(good.argmin()) - 1
            if last < 0:
                return NOMINAL_W
            low, high = float(levels[last]), float(levels[last + 1])
        return low


def _slot(phases: Sequence[str], used: Sequence[str], through: str) -> int:
    """Where a customer on some phases feeds in, if he does, when some of them are used and one by the customers who
    may choose."""
    if len(phases) > 1:
        return phases.index(through) if through in phases else UNUSED
    return 0 if phases[0] in used or phases[0] not in LABELS else UNUSED


def _of(values: Reals, ports: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(float(values[port]) for port in ports)


def _bound_holds(feeder: Feeder, p: Reals, q: Reals, after: Reals) -> bool:
    model = feeder.model
    before = Injections.of(p, q)
    u = solve(feeder, before, tolerance_pu=1e-12)["port_u_v"][0]
    slope = sensitivity(model, prepare(before, model.u_nominal_v), 0, u)
    changed = Injections.of(after, q)
    step = linear_step(model, slope, prepare(changed, model.u_nominal_v), 0, np.concatenate([after - p, 0 * q]))
    exact = solve(feeder, changed, tolerance_pu=1e-12)["port_u_v"][0]
    return bool((np.abs(exact - step.u_v) <= step.bound_v).all())
