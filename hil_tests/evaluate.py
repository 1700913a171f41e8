"""A day on a feeder, played four times: static limits, Headroom, and the optimum that knew everything beforehand,
within the contracts and without.

The optimum comes twice: free to take from one customer's nominal limit what serves another better, and within the
contracts, where nobody is kept below the nominal limit; the second is all that raising limits can reach. All see
the same loads, the same sun and the same grid, and are judged by the same exact power flow. What each number means
stands in `docs/evaluate.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcu.grid.feeder import Feeder, solve
from dcu.grid.injections import Injections
from dcu.grid.network import Network
from dcu.hosting.headroom import GridLimits
from hil_tests.cores import Street, StreetRun
from hil_tests.day import Day, at_no_load_pu, make_day, open_feeder
from hil_tests.kept import Keeper, Reproduced, reproduce
from hil_tests.optimum import Optimum, optimise
from hil_tests.safety import CLASS_1, EXACT
from hil_tests.street_dcu import StreetSettings, report_interval_s
from hil_tests.street_flow import StreetFlow
from shared.errors import ConfigError, Fault, HeadroomError

Reals = NDArray[np.float64]

FORMAT: Final = "headroom-evaluation/1"
ERRORS: Final = {"exact": EXACT, "class1": CLASS_1}
STEP_W: Final = 100.0
"""[W] A nominal limit is a whole number of these."""
PROVEN: Final = 1e-3
"""Share of a minute's generation up to which a gap counts as proven."""
EN_50160_PCT: Final = 10.0
"""Ten-minute means outside nominal plus or minus this are what the standard counts."""
TOUCH_V: Final = 0.05
"""[V] A voltage this little beyond a limit is at it: half the last digit of a meter."""


RULES: Final = ("predicted", "learned", "mixed")


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be evaluated.

    Attributes:
        feeder: a network file, or `eulv`.
        day: `clear`, `broken`, `overcast`, or a CSV file.
        pv_share: share of customers with a plant.
        policy: how Headroom shares.
        hours: first minute of the day, and the one after the last.
        errors: `exact` or `class1` meters (and model).
        band_pct: band of decisions around the nominal voltage.
        no_load_pu: highest voltage without load [share of nominal] that the source is set to; None: as in the file.
        nominal_w: every customer's nominal export limit; None: the largest common one that every minute bears.
        rule: `predicted` by the network model, `learned` from the meters' history, or `mixed`.
        learn_days: days at nominal limits that a learning rule has seen before.
    """

    feeder: str
    day: str = "clear"
    pv_share: float = 0.5
    policy: str = "equal"
    seed: int = 1
    hours: tuple[int, int] = (360, 1200)
    errors: str = "exact"
    band_pct: float = 8.0
    no_load_pu: float | None = 1.05
    nominal_w: float | None = None
    rule: str = "predicted"
    learn_days: int = 14


@dataclass(frozen=True, slots=True)
class Score:
    """One of the ways; energies are exports at the connection points, minutes are of 1-minute and 10-minute means.

    `outside_*`: any port outside the decision band; `by_grants_*`: at a port that the nominal limits alone would have
    left inside; `en_50160_min`: 10-minute means outside nominal plus or minus 10 %; `overloaded_min`: a rated current
    exceeded.
    """

    exported_wh: float
    curtailed_wh: float
    of_exportable: float
    outside_1min: int
    outside_10min: int
    by_grants_1min: int
    by_grants_10min: int
    en_50160_min: int
    overloaded_min: int
    u_max_v: float
    u_min_v: float
    fairness: float


@dataclass(frozen=True, slots=True)
class Customer:
    """What one customer with a plant could have exported and did [Wh]; `share` is Headroom's of the possible."""

    name: str
    bus: str
    phase: str
    peak_w: float
    exportable_wh: float
    static_wh: float
    headroom_wh: float
    contracts_wh: float
    optimum_wh: float
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Everything that was found; series are rows of minutes."""

    question: Question
    network: Network
    day: Day
    limits: GridLimits
    nominal_w: float
    street: StreetRun
    optimum: Optimum
    contracts: Optimum
    scores: dict[str, Score]
    exported_w: dict[str, Reals]
    u_v: dict[str, Reals]
    ten_minute_exported_wh: float
    customers: tuple[Customer, ...]
    reproduced: Reproduced | None = None

    @property
    def captured(self) -> float:
        """Headroom's export over that of the optimum within the contracts."""
        return self.scores["headroom"].exported_wh / max(1e-9, self.scores["contracts"].exported_wh)

    @property
    def captured_of_increase(self) -> float:
        """The same of what is beyond static limits; 1 where there is nothing beyond."""
        best = self.scores["contracts"].exported_wh - self.scores["static"].exported_wh
        found = self.scores["headroom"].exported_wh - self.scores["static"].exported_wh
        return found / best if best > 1.0 else 1.0

    def as_json(self) -> dict[str, Any]:
        """For `result.json`: inputs, figures, events; the same question gives the same bytes."""
        return {
            "format": FORMAT,
            "question": asdict(self.question),
            "feeder": self.network.name,
            "plants": len(self.day.plants),
            "band_v": [float(self.limits.u_low_v.min()), float(self.limits.u_high_v.max())],
            "nominal_limit_w": self.nominal_w,
            "exportable_wh": float(sum(customer.exportable_wh for customer in self.customers)),
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "captured": self.captured,
            "captured_of_increase": self.captured_of_increase,
            "of_free_optimum": self.scores["headroom"].exported_wh / max(1e-9, self.scores["optimum"].exported_wh),
            "optimum": _proof(self.optimum),
            "contracts": _proof(self.contracts),
            "ten_minute_means_exported_wh": self.ten_minute_exported_wh,
            "counts": self.street.counts,
            "reasons": self.street.reasons,
            "line": self.street.line.as_json(),
            "air_time_share": self.street.line.airtime_s / self.street.seconds,
            "ledger": None if self.reproduced is None else self.reproduced.as_json(),
            "customers": [asdict(customer) for customer in self.customers],
            "events": list(self.street.events),
        }


def _proof(found: Optimum) -> dict[str, Any]:
    return {
        "gap_share": found.gap_share if np.isfinite(found.gap_share) else None,
        "minutes_proven": int((found.gap_w <= PROVEN * found.generated_w.sum(axis=1)).sum()),
        "minutes_bound": found.bound_minutes,
        "programmes": found.steps,
    }


def nominal_limit_w(feeder: Feeder, day: Day, limits: GridLimits) -> float:
    """The largest common export limit of all plants that the feeder bears in every minute of the day, whether the sun
    shines or not and also without any load, in whole hundreds [W].

    Loads count too: what is drawn on one phase lifts the others. A plant smaller than the limit exports what it has.
    The limit is on what a customer exports in all: a plant on one phase of three also feeds what he draws on the
    others.
    """
    peaks = np.array([plant.peak_w for plant in day.plants])
    loads, own_w = np.vstack([np.zeros(day.p_w.shape[1]), day.p_w]), np.maximum(0.0, day.own_w())
    q = np.vstack([np.zeros(day.p_w.shape[1]), *[day.q_var] * 3])
    exporting = day.spread.any(axis=0)
    last = None
    for level in np.arange(0.0, peaks.max() + STEP_W, STEP_W):
        bare = np.where(exporting, 0.0, loads) - np.minimum(level, peaks) @ day.spread
        sunny = day.draws_w(np.minimum(peaks, own_w + level))
        draws = np.vstack([bare, sunny, day.draws_w(day.generated_w(float(level)))])
        found = solve(feeder, Injections(draws, q), tolerance_pu=1e-10)
        if not found.converged.all() or not _inside(feeder, limits, draws, q, found["port_u_v"]):
            break
        last = float(level)
    if last is None:
        seen = f"{np.abs(feeder.model.u_open_v).max():.1f} V without any load, and loads that lift or lower it further"
        expected = f"at most {limits.u_high_v.max():.1f} V: a wider --band-pct or another --no-load-pu"
        raise ConfigError("evaluate", [Fault("feeder", seen, expected)])
    return last


def _inside(feeder: Feeder, limits: GridLimits, draws_w: Reals, q_var: Reals, u_v: NDArray[np.complex128]) -> bool:
    model, rated = feeder.model, np.flatnonzero(np.isfinite(limits.i_max_a))
    injected = -np.conj((draws_w + 1j * q_var) / u_v)
    amps = np.abs(model.current_open_a[rated] + injected @ model.current_h[rated].T)
    u = np.abs(u_v)
    return bool((u <= limits.u_high_v).all() and (amps <= limits.i_max_a[rated]).all())


def evaluate(
    question: Question, tell: Callable[[str], object] = lambda _: None, keep: Path | None = None
) -> Evaluation:
    """Play the day four times: static limits, Headroom, perfect foresight within the contracts, and without.

    Args:
        question: what is to be evaluated.
        tell: hears what is being done.
        keep: directory for the DCU's ledger, configuration and model; the day is then decided again from these.

    Raises:
        ConfigError: a feeder, a file or a number that cannot be.
    """
    _check(question)
    network = open_feeder(question.feeder)
    feeder = Feeder(network)
    if question.no_load_pu is not None:
        network = at_no_load_pu(network, np.abs(feeder.model.u_open_v), feeder.u_nominal_v, question.no_load_pu)
        feeder = Feeder(network)
    model = feeder.model
    day = make_day(network, question.day, question.pv_share, question.seed, question.hours)
    limits = GridLimits.of(model, question.band_pct)
    nominal_w = nominal_limit_w(feeder, day, limits) if question.nominal_w is None else question.nominal_w
    rated = np.flatnonzero(np.isfinite(limits.i_max_a))

    tell("optimum, minute by minute")
    best = optimise(feeder, day, limits, nominal_w)
    tell("optimum within the contracts")
    within = optimise(feeder, day, limits, nominal_w, least_w=nominal_w)
    tell("optimum, ten-minute means")
    looser = optimise(feeder, day, limits, nominal_w, over=10)
    tell(f"street of {len(network.connection_points)} meters")
    settings = StreetSettings(
        nominal_w,
        float(np.median(model.u_nominal_v)),
        question.band_pct,
        question.policy,
        ERRORS[question.errors],
        question.seed,
        report_s=report_interval_s(len(network.connection_points)),
        rule=question.rule,
        before=make_day(network, question.day, question.pv_share, question.seed),
        learn_days=question.learn_days,
    )
    run, reproduced = _play(StreetFlow(feeder, rated), day, settings, tell, keep)

    generated = {
        "static": day.generated_w(nominal_w),
        "headroom": run.generated_w,
        "contracts": within.generated_w,
        "optimum": best.generated_w,
    }
    states = {name: _flow(feeder, day, g, rated) for name, g in generated.items()}
    u = {name: volts for name, (volts, _) in states.items()} | {"headroom": run.u_mean_v}
    amps = {name: a for name, (_, a) in states.items()} | {"headroom": run.i_peak_a}
    own = np.maximum(0.0, day.own_w())
    possible = np.maximum(0.0, day.pv_w - own)
    exported = {name: np.maximum(0.0, g - own) for name, g in generated.items()}
    judge = _Judge(day, limits, rated, model.u_nominal_v, u["static"], possible)
    scores = {name: judge.score(exported[name], u[name], amps[name]) for name in generated}
    return Evaluation(
        question,
        network,
        day,
        limits,
        nominal_w,
        run,
        best,
        within,
        scores,
        exported,
        u,
        float(np.maximum(0.0, looser.generated_w - own).sum() / 60),
        _customers(network, day, model.port_labels, possible, exported),
        reproduced,
    )


def _play(
    flow: StreetFlow, day: Day, settings: StreetSettings, tell: Callable[[str], object], keep: Path | None
) -> tuple[StreetRun, Reproduced | None]:
    """The street's day, and every decision of it once more from what was kept."""
    if keep is None:
        return Street(flow, day, settings).run(), None
    keeper = Keeper(keep)
    street = Street(flow, day, settings, keeper.entry)
    run = street.run()
    keeper.close(street.dcu)
    tell("every decision again, from the ledger")
    return run, reproduce(keep)


def _check(question: Question) -> None:
    faults = []
    if question.rule not in RULES:
        faults.append(Fault("--rule", question.rule, ", ".join(RULES)))
    if not 1 <= question.learn_days <= 14:
        faults.append(Fault("--learn-days", f"{question.learn_days}", "1 to 14"))
    if question.errors not in ERRORS:
        faults.append(Fault("--errors", question.errors, " or ".join(ERRORS)))
    if not 0 < question.band_pct <= 10:
        faults.append(Fault("--band-pct", f"{question.band_pct:g}", "above 0 and at most 10"))
    if question.no_load_pu is not None and not 0.8 <= question.no_load_pu <= 1.2:
        faults.append(Fault("--no-load-pu", f"{question.no_load_pu:g}", "0.8 to 1.2, or file"))
    if question.nominal_w is not None and not 0 <= question.nominal_w <= 100_000:
        faults.append(Fault("--nominal-w", f"{question.nominal_w:g}", "0 to 100000"))
    if faults:
        raise ConfigError("evaluate", faults)


def _flow(feeder: Feeder, day: Day, generated_w: Reals, rated: NDArray[np.int64]) -> tuple[Reals, Reals]:
    """Voltages (t, n) and rated currents (t, k) of a day."""
    draws = day.draws_w(generated_w)
    found = solve(feeder, Injections(draws, day.q_var), tolerance_pu=1e-10)
    if not found.converged.all():
        raise HeadroomError("evaluate: a state of this day has no power-flow solution; fewer or smaller plants")
    u, model = found["port_u_v"], feeder.model
    injected = -np.conj((draws + 1j * day.q_var) / u)
    return np.abs(u), np.abs(model.current_open_a[rated] + injected @ model.current_h[rated].T)


class _Judge:
    """Counts violations, and compares with what the nominal limits alone would have given."""

    def __init__(
        self,
        day: Day,
        limits: GridLimits,
        rated: NDArray[np.int64],
        nominal_v: Reals,
        u_static_v: Reals,
        possible_w: Reals,
    ) -> None:
        self._day, self._limits, self._possible = day, limits, possible_w
        self._i_max_a = limits.i_max_a[rated]
        share = EN_50160_PCT / 100
        self._en_low, self._en_high = nominal_v * (1 - share), nominal_v * (1 + share)
        self._static = u_static_v

    def _means(self, u_v: Reals) -> list[tuple[int, Reals]]:
        """Means over the clock's ten minutes with the minutes each stands for; unfinished ones count as they are."""
        tens = self._day.minute // 10
        return [(int((tens == ten).sum()), u_v[tens == ten].mean(axis=0)) for ten in np.unique(tens)]

    def _outside(self, u_v: Reals) -> NDArray[np.bool_]:
        high, low = self._limits.u_high_v + TOUCH_V, self._limits.u_low_v - TOUCH_V
        return np.asarray((u_v > high) | (u_v < low))

    def score(self, exported_w: Reals, u_v: Reals, i_a: Reals) -> Score:
        """The figures of one of the ways."""
        outside = self._outside(u_v)
        added = outside & ~self._outside(self._static)
        tens = list(zip(self._means(u_v), self._means(self._static), strict=True))
        total, possible = exported_w.sum(), self._possible.sum()
        of_own = exported_w.sum(axis=0) / np.maximum(1e-9, self._possible.sum(axis=0))
        of_own = of_own[self._possible.sum(axis=0) > 0]
        square = float((of_own**2).sum())
        return Score(
            exported_wh=float(total / 60),
            curtailed_wh=float((possible - total) / 60),
            of_exportable=float(total / possible) if possible else 1.0,
            outside_1min=int(outside.any(axis=1).sum()),
            outside_10min=sum(n for (n, u), _ in tens if self._outside(u).any()),
            by_grants_1min=int(added.any(axis=1).sum()),
            by_grants_10min=sum(n for (n, u), (_, s) in tens if (self._outside(u) & ~self._outside(s)).any()),
            en_50160_min=sum(n for (n, u), _ in tens if ((u > self._en_high) | (u < self._en_low)).any()),
            overloaded_min=int((i_a > self._i_max_a * (1 + 1e-6)).any(axis=1).sum()) if i_a.size else 0,
            u_max_v=float(u_v.max()),
            u_min_v=float(u_v.min()),
            fairness=float(of_own.sum() ** 2 / (len(of_own) * square)) if square else 1.0,
        )


def _customers(
    network: Network, day: Day, labels: tuple[str, ...], possible: Reals, exported: dict[str, Reals]
) -> tuple[Customer, ...]:
    buses = {point.id: point.bus for point in network.connection_points}
    wh = {name: w.sum(axis=0) / 60 for name, w in exported.items()}
    could = possible.sum(axis=0) / 60
    return tuple(
        Customer(
            plant.customer,
            buses[plant.customer],
            labels[plant.port],
            plant.peak_w,
            float(could[k]),
            float(wh["static"][k]),
            float(wh["headroom"][k]),
            float(wh["contracts"][k]),
            float(wh["optimum"][k]),
            float(wh["headroom"][k] / could[k]) if could[k] else 1.0,
        )
        for k, plant in enumerate(day.plants)
    )


def write_minutes(path: Path, found: Evaluation) -> None:
    """`minutes.csv`: exports of all plants together and the worst voltages, a row a minute."""
    names = tuple(found.scores)
    own = np.maximum(0.0, found.day.own_w())
    possible = np.maximum(0.0, found.day.pv_w - own).sum(axis=1)
    heads = ["minute", "exportable_w", *(f"{n}_w" for n in names), *(f"{n}_u_max_v" for n in names)]
    columns = [found.day.minute, possible, *(found.exported_w[n].sum(axis=1) for n in names)]
    columns += [found.u_v[n].max(axis=1) for n in names]
    rows = [",".join(heads)]
    rows += [",".join([f"{int(row[0])}", *(f"{value:.3f}" for value in row[1:])]) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
