"""What the meters say beyond the model: how well it is learnt, how sure of itself, and what does not fool it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from dcu.grid.feeder import solve
from dcu.grid.injections import Injections
from dcu.grid.tests.golden import feeder
from dcu.hosting.moves import rise
from dcu.hosting.residuals import NOISE_MIN_V, Residuals, Seen

Reals = NDArray[np.float64]

NOMINAL_V = 240.0
ALLOWED = 0.02
FEEDER = feeder("eulv")
MODEL = FEEDER.model
N = len(MODEL.ports)
BUSBAR = [k for k, node in enumerate(MODEL.nodes) if node.bus == "1" and node.conductor != "N"]


def draws(seed: int) -> Reals:
    """Of some evening and some sun."""
    random = np.random.default_rng(seed)
    return np.where(random.random(N) < 0.5, -random.uniform(0, 3e3, N), random.uniform(0, 2e3, N))


@dataclass
class World:
    """Meters that report one after the other, every 20 s and soon after a change, in steps of one second."""

    p_w: Callable[[float], Reals]
    error_v: Reals = field(default_factory=lambda: np.zeros(N))
    flicker_v: float = 0.0
    scale: float = 1.0
    noise_v: float = 0.1
    report_change_w: float = 200.0
    every_s: NDArray[np.int64] = field(default_factory=lambda: np.full(N, 20))
    """Between two reports of each."""
    offset_s: NDArray[np.int64] = field(default_factory=lambda: np.arange(N) % 20)
    told_w: float | None = None

    def __post_init__(self) -> None:
        self.residuals = Residuals(np.ones(N, dtype=bool), np.full(N, NOMINAL_V), self.noise_v, self.told_w)
        self.now = 0.0
        self.seen = Seen(np.zeros(N), np.zeros(N), np.full(N, np.nan), np.full(N, -np.inf))
        self._random = np.random.default_rng(9)
        self._p, self._u = np.full(N, np.nan), np.zeros(N)

    def volts(self) -> Reals:
        """True voltages, as far as the model is right; `scale` times the lift of the model where it is not."""
        found = solve(FEEDER, Injections.of(self.p_w(self.now)), results=("port_u_v", "bus_u_v"))
        open_v = np.abs(MODEL.u_open_v)
        self._busbar_v = float(np.abs(found["bus_u_v"][0][BUSBAR]).mean())
        return np.asarray(open_v + self.scale * (np.abs(found["port_u_v"][0]) - open_v))

    def second(self) -> None:
        """Whoever is due reports."""
        self.now += 1.0
        p = self.p_w(self.now)
        if not np.array_equal(p, self._p):
            self._p, self._u = p, self.volts()
        due = ((self.now - self.offset_s) % self.every_s == 0) | (np.abs(p - self.seen.p_w) > self.report_change_w)
        flicker = self._random.normal(0.0, self.flicker_v, N) if self.flicker_v else np.zeros(N)
        shown = np.round(self._u + self.error_v + flicker, 1)
        for table, new in ((self.seen.p_w, p), (self.seen.u_v, shown), (self.seen.taken_s, np.full(N, self.now))):
            table[due] = new[due]
        copy = Seen(self.seen.p_w.copy(), np.zeros(N), self.seen.u_v.copy(), self.seen.taken_s.copy())
        self.residuals.hear(copy, round(self._busbar_v, 1), self.now)
        if np.isfinite(self.seen.u_v).all():
            self.residuals.judge(MODEL, BUSBAR, ALLOWED, (copy.p_w, copy.q_var))

    def play(self, seconds: int) -> None:
        """So long."""
        for _ in range(seconds):
            self.second()

    def spread_v(self) -> Reals:
        """Three standard deviations."""
        return 3 * self.residuals.spread_v


def still(_: float) -> Reals:
    return draws(1)


def busy(now: float) -> Reals:
    """Six houses switch up to 3 kW each half minute, all at once."""
    p = draws(1)
    random = np.random.default_rng(int(now // 30))
    p[random.choice(N, 6, replace=False)] += random.uniform(-3e3, 3e3, 6)
    return p


def shaken(now: float) -> Reals:
    """Sudden clouds: half of all plants lose three quarters of what they give, together, every other half minute."""
    p = draws(1)
    shade = np.where(np.arange(N) % 2 == 0, 0.25, 1.0) if int(now // 30) % 2 else np.ones(N)
    return np.where(p < 0, p * shade, p)


@pytest.mark.parametrize("p_w", [still, busy, shaken])
def test_constant_errors_are_learnt_and_the_margin_covers_what_is_left(p_w: Callable[[float], Reals]) -> None:
    """Each meter off by up to 1 V for good: after ten minutes nine in ten are known to within a tenth of a volt, and
    all within three standard deviations and the last digit."""
    error_v = np.random.default_rng(2).uniform(-1.0, 1.0, N)
    world = World(p_w, error_v)
    world.play(600)
    off = np.abs(world.residuals.mean_v - error_v)
    assert np.quantile(off, 0.9) < 0.1
    assert (off <= world.spread_v() + 0.05).all()
    assert np.median(world.spread_v()) < 0.15
    assert not world.residuals.contradicts.any()


@pytest.mark.parametrize("p_w", [busy, shaken])
def test_meters_that_tell_changes_leave_less_in_doubt(p_w: Callable[[float], Reals]) -> None:
    """Houses switch kilowatts, or clouds take half of the plants at once: if the DCU may rely on their being told, less
    stays in doubt, and the margin still covers what is left."""
    error_v = np.random.default_rng(2).uniform(-1.0, 1.0, N)
    silent, telling = World(p_w, error_v), World(p_w, error_v, told_w=200.0)
    for world in (silent, telling):
        world.play(600)
        assert (np.abs(world.residuals.mean_v - error_v) <= world.spread_v() + 0.05).all()
    assert telling.residuals.spread_v.mean() < silent.residuals.spread_v.mean()


@pytest.mark.parametrize("phase_s", [1, 10, 19])
def test_a_cloud_that_all_houses_see_is_within_the_margin_whenever_it_comes(phase_s: int) -> None:
    """All draws shift by 190 W, for which no meter reports before its turn, and back, every half minute or so, never at
    the same place in the round of reports."""

    def shading(now: float) -> Reals:
        return np.asarray(draws(1) + 190.0 * (int((now - phase_s) // 27) % 2))

    world = World(shading)
    world.play(1200)
    assert (np.abs(world.residuals.mean_v) <= world.spread_v() + 0.05).all()


def test_a_busy_meter_makes_the_others_unsure_by_no_more_than_its_own_changes() -> None:
    """One house switches every 3 s: it reports more often than is remembered of a quiet one's interval. What stays in
    doubt is a part of what its 800 W do to each neighbour, and no reading is lost."""

    def flickering(now: float) -> Reals:
        p = draws(1)
        p[7] += 800.0 * (int(now // 3) % 2)
        return p

    calm, world = World(still), World(flickering)
    calm.play(300)
    world.play(300)
    does_v = np.abs(rise(MODEL)[:, 7] * NOMINAL_V) * 800.0
    others = np.arange(N) != 7
    assert (world.spread_v() <= 1.5 * calm.spread_v() + 0.5 * does_v)[others].all()
    assert np.median(world.spread_v()) < 2 * np.median(calm.spread_v())


def test_a_house_in_step_with_the_reports_does_not_make_anybody_too_sure() -> None:
    """For an hour a house switches by 4 kW right after each of its reports, which it does not send for a change; its
    neighbour reports every other time, soon after, and so sees one of the two draws only, always the one that was not
    reported last. Whenever the draw is as reported, every voltage is within the margin of its level."""
    volts = rise(MODEL) * NOMINAL_V
    np.fill_diagonal(volts, 0.0)
    neighbour, restless = (int(k) for k in np.unravel_index(int(np.abs(volts).argmax()), volts.shape))
    own_s = restless % 20

    def in_step(now: float) -> Reals:
        p = draws(1)
        p[restless] += 4e3 * (int((now - own_s - 1) // 20) % 2)
        return p

    every_s = np.full(N, 20)
    every_s[neighbour] = 40
    world = World(in_step, report_change_w=np.inf, every_s=every_s)
    world.offset_s[neighbour] = own_s + 2
    world.play(3600)
    off_v = np.abs(world.residuals.mean_v)
    assert off_v[neighbour] > 0.5, "it is misled indeed"
    assert (off_v <= world.spread_v() + 0.05).all()


def test_one_surprise_moves_no_level_but_widens_the_margin_to_it_and_a_second_convinces() -> None:
    world = World(still)
    world.play(300)
    port = 24
    before = world.residuals.mean_v[port]
    quiet = world.spread_v()[port]

    world.error_v[port] = 1.5
    while world.seen.u_v[port] < world.volts()[port] + 1.0:
        world.second()
    while world.spread_v()[port] < 1.0:
        world.second()
    assert world.residuals.mean_v[port] == pytest.approx(before, abs=0.01)
    assert world.spread_v()[port] >= 1.5 - 0.1, "the margin reaches it"
    world.play(60)
    assert world.residuals.mean_v[port] == pytest.approx(1.5, abs=0.1)
    assert world.spread_v()[port] < 3 * quiet


def test_a_reading_that_was_odd_once_is_forgotten() -> None:
    world = World(still)
    world.play(300)
    port, before = 24, world.residuals.mean_v[24]
    world.error_v[port] = 1.5
    world.play(20)
    world.error_v[port] = 0.0
    world.play(80)
    assert world.residuals.mean_v[port] == pytest.approx(before, abs=0.05)
    assert world.spread_v()[port] < 0.3


def test_a_liar_beyond_what_a_meter_may_be_off_contradicts_until_it_stops() -> None:
    world = World(still)
    world.play(100)
    world.error_v[3] = 6.0
    world.play(60)
    assert np.flatnonzero(world.residuals.contradicts).tolist() == [3]
    world.error_v[3] = 0.0
    world.play(60)
    assert not world.residuals.contradicts.any()


def test_noise_is_what_readings_scatter_by() -> None:
    """A restless street is less sure than a quiet one, whatever the site declared; nobody is surer than last digits
    allow."""
    quiet, restless = World(still), World(still, flicker_v=0.3)
    quiet.play(400)
    restless.play(400)
    assert NOISE_MIN_V <= quiet.residuals.noise_v < 0.1
    assert restless.residuals.noise_v == pytest.approx(0.3, abs=0.08)
    assert np.median(restless.spread_v()) > 2 * np.median(quiet.spread_v())


def test_the_error_of_a_wrong_model_is_kept_with_the_lift_it_was_learnt_at() -> None:
    """True impedances 4 % above the model's: residuals are 4 % of the lift, and the anchor says at which lift."""
    world = World(still, scale=1.04)
    world.play(400)
    residuals = world.residuals
    assert np.abs(residuals.anchor_v).max() > 2.0
    assert residuals.mean_v == pytest.approx(0.04 * residuals.anchor_v, abs=0.06)


def test_a_neighbour_that_swings_hides_no_contradiction() -> None:
    """The house that moves its neighbour most swings by 12 kW between two reports, which it does not send for a
    change; its neighbour's meter, 16 V off, contradicts all the same. Right meters never do."""
    volts = np.abs(rise(MODEL) * NOMINAL_V)
    np.fill_diagonal(volts, 0.0)
    port, restless = np.unravel_index(int(volts.argmax()), volts.shape)

    def swinging(now: float) -> Reals:
        p = draws(1)
        p[restless] = 6e3 if int((now - 2) // 20) % 2 else -6e3
        return p

    world = World(swinging, report_change_w=np.inf)
    world.play(200)
    assert not world.residuals.contradicts.any()
    world.error_v[port] = 16.0
    world.play(60)
    for _ in range(60):
        world.second()
        assert world.residuals.contradicts[port]


def test_what_could_not_be_judged_for_long_is_unknown() -> None:
    """Readings whose power flow has no solution say nothing; after three minutes their ports are unknown, and known
    again with the first that can be judged."""
    world = World(still)
    world.play(60)
    right, world.p_w = world.p_w, lambda _: np.full(N, 1e6)
    nowhere = world.volts
    world.volts = lambda: world._u  # type: ignore[method-assign]
    world.play(100)
    assert not world.residuals.unjudged.any()
    world.play(150)
    assert world.residuals.unjudged.all()
    world.p_w, world.volts = right, nowhere  # type: ignore[method-assign]
    world.play(60)
    assert not world.residuals.unjudged.any()
