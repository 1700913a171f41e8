"""The power line does to every listener what physics does: distance, noise, collisions, bursts; and the same again from
the same seed."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from dcu.grid.network import (
    PHASES,
    Branch,
    BranchEnd,
    Bus,
    Conductor,
    Connection,
    ConnectionPoint,
    Network,
    balanced_source,
    matrix,
    sequence_matrix,
)
from hil_tests.virtual.bursts import Reach
from hil_tests.virtual.channel import (
    bit_error_rate,
    header_error_rate,
    header_errors,
    payload_error_rate,
    symbol_error_rate,
    symbol_survival,
)
from hil_tests.virtual.events import EventHeap
from hil_tests.virtual.line import Frame, LineSettings, PowerLine
from hil_tests.virtual.topology import (
    REACTANCE_OHM_PER_M,
    PathSettings,
    Place,
    Plan,
    Topology,
    cable_band,
    depths,
    plan_of,
    street,
    topology_of,
)
from prime_plc.phy import PhyMode, Scheme, frame_duration_s, payload_symbols

QUIET = LineSettings(level_dbuv=100, attenuation_db=40, noise_dbuv=40, implementation_loss_db=0)
PDU = bytes(126)
"""Twenty symbols of DBPSK_C."""


class Ear:
    """A station that keeps what it hears."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard: list[tuple[str, bytes, float]] = []

    def deliver(self, frame: Frame, pdu: bytes, snr_db: float, level_dbuv: float) -> None:
        self.heard.append((frame.sender.name, pdu, snr_db))


class Bench:
    """Stations with letters for names on one line."""

    def __init__(
        self, names: str, settings: LineSettings = QUIET, seed: int = 1, topology: Topology | None = None
    ) -> None:
        self.loop = EventHeap()
        self.line = PowerLine(self.loop, random.Random(seed), settings, topology)
        self.ears = {name: Ear(name) for name in names}
        for ear in self.ears.values():
            self.line.attach(ear)

    def send(self, name: str, pdu: bytes = PDU, scheme: Scheme = Scheme.DBPSK_C, attenuation_db: float = 0.0) -> Frame:
        return self.line.emit(self.ears[name], pdu, scheme, PhyMode.TYPE_A, attenuation_db)

    def at(self, time_s: float, name: str, **options: object) -> None:
        self.loop.call_at(time_s, lambda: self.send(name, **options))  # type: ignore[arg-type]

    def run(self, until: float = 1.0) -> None:
        self.loop.run_until(until)

    def times(self, name: str, count: int, gap_s: float = 0.002, **options: object) -> list[Frame]:
        """Frames one after the other."""
        frames = []
        for _ in range(count):
            frames.append(self.send(name, **options))  # type: ignore[arg-type]
            self.run(frames[-1].end_s + gap_s)
        return frames


def chain(*lengths_m: float) -> Plan:
    """Buses in a row, station ``a`` at the first, ``b`` at the second and so on, all on one phase."""
    cables = tuple((f"x{k}", f"x{k + 1}", length_m) for k, length_m in enumerate(lengths_m))
    places = {chr(ord("a") + k): Place(f"x{k}", "L1") for k in range(len(lengths_m) + 1)}
    return Plan(cables, places)


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_attenuation_grows_by_distance_taps_branches_and_phase() -> None:
    """A chain of known lengths: metres add up, every house passed costs a tap, a branching its share, a phase once."""
    plain = PathSettings(cable_db_per_m=0.1, tap_db=0.0, branch_db=0.0, phase_db=0.0, noise_spread_db=0.0)

    def band_db(metres: float) -> float:
        return float(cable_band(np.array(0.1 * metres))[0])

    near = topology_of(chain(100, 50, 50), plain, 1)
    assert near.path_db[0, 1] == pytest.approx(band_db(100))
    assert near.path_db[0, 3] == pytest.approx(band_db(200))
    assert near.path_db[3, 0] == near.path_db[0, 3]
    taps = topology_of(chain(100, 50, 50), PathSettings(0.1, 2.0, 0.0, 0.0, 0.0), 1)
    assert taps.path_db[0, 3] == pytest.approx(near.path_db[0, 3] + 2 * 2.0), "two houses are passed"
    assert taps.path_db[0, 1] == pytest.approx(near.path_db[0, 1]), "one's own tap is not passed"
    star = Plan(
        (("m", "p", 10.0), ("m", "q", 10.0), ("m", "r", 10.0), ("r", "s", 10.0), ("p", "t", 1.0), ("q", "u", 1.0)),
        {"a": Place("t", "L1"), "b": Place("u", "L2"), "c": Place("s", None)},
    )
    flat = topology_of(star, PathSettings(0.1, 0.0, 3.5, 9.0, 0.0), 1)
    assert flat.path_db[0, 1] == pytest.approx(band_db(22) + 3.5 + 9.0)
    assert flat.path_db[0, 2] == pytest.approx(band_db(31) + 3.5), "all phases meet any phase"


def test_a_feeder_s_own_lines_make_the_topology() -> None:
    """Lengths come back from a network's impedances; customers stand on their phase, the DCU on all of them."""
    z = sequence_matrix(complex(0.0003, REACTANCE_OHM_PER_M), complex(0.001, 0.0002))
    buses = ("lv", "b1", "b2")
    ends = [BranchEnd(bus, PHASES) for bus in buses]
    network = Network(
        name="two houses",
        source=balanced_source("lv", 230.0, 0.01 * np.eye(3)),
        buses=tuple(Bus(bus, PHASES, 230.0) for bus in buses),
        branches=(Branch("l1", ends[0], ends[1], matrix(80 * z)), Branch("l2", ends[1], ends[2], matrix(120 * z))),
        connection_points=(
            ConnectionPoint("c1", "b1", (Connection(Conductor.L2, Conductor.E),)),
            ConnectionPoint("c2", "b2", tuple(Connection(phase, Conductor.E) for phase in PHASES)),
        ),
    )
    plan = plan_of(network)
    assert [length_m for _, _, length_m in plan.cables] == pytest.approx([80.0, 120.0])
    assert plan.places == {"base": Place("lv", None), "c1": Place("b1", "L2"), "c2": Place("b2", None)}
    found = topology_of(plan, PathSettings(), 1)
    assert found.path_db[0, 2] > found.path_db[0, 1] > 0


def test_a_made_up_street_is_as_deep_as_it_was_asked_to_be() -> None:
    """A tenth of the houses needs the wanted number of hops; nobody is out of reach."""
    for levels in (1, 3, 4):
        _, topology = street(60, levels, 5, 36.0, PathSettings())
        hops = depths(topology, 36.0)
        assert np.isfinite(hops).all()
        assert np.quantile(hops, 0.9, method="lower") == levels
    assert (
        street(60, 4, 5, 36.0, PathSettings())[1].path_db == street(60, 4, 5, 36.0, PathSettings())[1].path_db
    ).all()


def test_signal_to_noise_is_level_less_path_less_the_listener_s_own_noise() -> None:
    """Each end has its own floor: what one hears of the other differs by the difference of the floors."""
    path_db = np.array([[0.0, 30.0], [30.0, 0.0]])
    topology = Topology(("a", "b"), path_db, np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0.0, 12.0]))
    line = Bench("ab", QUIET, topology=topology).line
    assert line.snr_db("b", "a") == pytest.approx(100 - 30 - 1 - 40)
    assert line.snr_db("a", "b") == pytest.approx(100 - 30 - 1 - 52)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "snr_db"),
    [(Scheme.DBPSK_C, 2.5), (Scheme.DBPSK_C, 3.25), (Scheme.DQPSK_C, 6.0), (Scheme.D8PSK_C, 9.5), (Scheme.DQPSK, 13.0)],
)
def test_frame_errors_at_a_listener_follow_the_table(scheme: Scheme, snr_db: float) -> None:
    """1500 frames to four listeners at once: header and payload failures within four standard deviations of the
    table's probability (6000 draws; 0.6 percentage points at 10 %)."""
    bench = Bench("abcde", LineSettings(100, 100 - 40 - snr_db, 40, implementation_loss_db=0))
    frames = bench.times("a", 1500, scheme=scheme)
    assert frames[0].end_s - frames[0].start_s == frame_duration_s(len(PDU), scheme)
    heard = [pdu for ear in bench.ears.values() for _, pdu, _ in ear.heard]
    draws = 4 * len(frames)
    symbols = round((frame_duration_s(len(PDU), scheme) - 6528e-6) / 2240e-6)
    for seen, drawn, expected in (
        (draws - len(heard), draws, header_error_rate(snr_db)),
        (sum(pdu != PDU for pdu in heard), len(heard), payload_error_rate(snr_db, scheme, symbols)),
    ):
        deviation = math.sqrt(expected * (1 - expected) / drawn)
        assert abs(seen / drawn - expected) <= 4 * deviation + 1 / drawn


def test_many_errors_at_once_are_the_errors_one_by_one() -> None:
    """The tables for arrays agree with those for numbers over their whole range."""
    snr_db = np.linspace(-10, 30, 401)
    assert header_errors(snr_db) == pytest.approx(np.array([header_error_rate(x) for x in snr_db.tolist()]))
    for scheme in Scheme:
        alone = np.array([symbol_error_rate(x, scheme) for x in snr_db.tolist()])
        assert 1 - np.exp(symbol_survival(snr_db, scheme) * (4 if scheme.robust else 1)) == pytest.approx(
            alone, rel=1e-6, abs=1e-9
        )


def test_a_sender_s_attenuation_costs_signal() -> None:
    """21 dB less at the sender: a link with 20 dB to spare is deaf."""
    bench = Bench("ab", LineSettings(100, 40, 40))
    loud, soft = bench.times("a", 1)[0], bench.times("a", 1, attenuation_db=21.0)[0]
    assert loud.delivered == ["b"]
    assert soft.delivered == []


# ---- who hears whom --------------------------------------------------------------------------------------------------


def row(*, far_db: float) -> Bench:
    """a and c with b between them; a and c are ``far_db`` apart."""
    bench = Bench("abc")
    bench.line.set_attenuation("a", "c", far_db)
    return bench


def test_hidden_nodes_do_not_see_each_other_s_carrier_and_collide_in_the_middle() -> None:
    """a sends; b sees the carrier after the preamble, c never does; when c sends too, b gets neither."""
    bench = row(far_db=90)
    seen: dict[str, bool] = {}
    bench.at(0.0, "a")
    bench.loop.call_at(0.001, lambda: seen.update(early=bench.line.carrier(bench.ears["b"])))
    bench.loop.call_at(0.004, lambda: seen.update({name: bench.line.carrier(bench.ears[name]) for name in "abc"}))
    bench.at(0.005, "c")
    bench.run()
    assert seen == {"early": False, "a": False, "b": True, "c": False}
    assert all(pdu != PDU for _, pdu, _ in bench.ears["b"].heard)
    near = row(far_db=40)
    near.at(0.0, "a")
    near.loop.call_at(0.004, lambda: seen.update(near=near.line.carrier(near.ears["c"])))
    near.run()
    assert seen["near"] is True


@pytest.mark.parametrize(("gap_s", "winner"), [(0.0, "c"), (0.0015, "c"), (0.004, None)])
def test_the_stronger_of_two_is_captured_if_both_begin_within_a_preamble(gap_s: float, winner: str | None) -> None:
    """c is 20 dB stronger at b than a, and comes later by ``gap_s``: within the preamble b reads c undamaged;
    afterwards b stays with a, whose symbols drown."""
    bench = row(far_db=90)
    bench.line.set_attenuation("c", "b", 20)
    bench.at(0.0, "a")
    bench.at(gap_s, "c")
    bench.run()
    assert [who for who, pdu, _ in bench.ears["b"].heard if pdu == PDU] == ([] if winner is None else [winner])


def test_a_weak_disturber_leaves_the_stronger_frame_alone() -> None:
    """a is being read with 20 dB over c: c's frame in the middle of it changes nothing, and is not read itself."""
    bench = row(far_db=90)
    bench.line.set_attenuation("a", "b", 20)
    bench.at(0.0, "a")
    bench.at(0.010, "c")
    bench.run()
    assert [(who, pdu == PDU) for who, pdu, _ in bench.ears["b"].heard] == [("a", True)]


def test_who_sends_reads_nothing_and_loses_what_it_was_reading() -> None:
    """Half duplex: b begins to send in the middle of a's frame; c, who is far from b, still gets a's."""
    bench = Bench("abc")
    bench.line.set_attenuation("b", "c", 90)
    bench.at(0.0, "a")
    bench.at(0.010, "b", pdu=bytes(20))
    bench.run()
    assert bench.ears["b"].heard == []
    assert [who for who, pdu, _ in bench.ears["c"].heard if pdu == PDU] == ["a"]
    assert bench.ears["a"].heard == [], "a was sending when b's frame began"


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_a_receiver_s_bursts_are_its_own_and_take_their_share() -> None:
    """Two states, 30 % of the time deaf: about that share of short frames is lost at each of two listeners, in runs,
    and one's losses tell nothing about the other's."""
    settings = LineSettings(
        100, 40, 40, burst_rate_hz=0.3 / 0.7 / 0.5, burst_s=0.5, burst_db=60, burst_reach=Reach.RECEIVER
    )
    bench = Bench("abc", settings)
    frames = bench.times("a", 6000, gap_s=0.04, pdu=bytes(20))
    lost = {name: np.array([name not in frame.delivered for frame in frames]) for name in "bc"}
    for name in "bc":
        assert 0.25 < lost[name].mean() < 0.42, "0.3 and what a frame touches at its edges"
        again = (lost[name][1:] & lost[name][:-1]).sum() / lost[name].sum()
        assert again > 0.8, "bursts, not single losses"
    both = (lost["b"] & lost["c"]).mean()
    assert both == pytest.approx(lost["b"].mean() * lost["c"].mean(), abs=0.05)


def test_an_appliance_s_burst_fades_with_distance() -> None:
    """Bursts begin at a location and lose on their way what a signal loses: the neighbour hears them, the far end does
    not."""
    path_db = np.array([[0.0, 20.0, 20.0], [20.0, 0.0, 40.0], [20.0, 40.0, 0.0]])
    topology = Topology(("a", "b", "c"), path_db, np.zeros((3, 3)), np.array([0.0, 0.0, 0.0]))
    settings = LineSettings(100, 40, 40, burst_rate_hz=1.0, burst_s=1.0, burst_db=70, burst_reach=Reach.LOCATION)
    losses = {}
    for source in "bc":  # only the source of a burst differs: here its neighbour, there itself
        bench = Bench("abc", settings, topology=topology)
        frames = bench.times("a", 1500, pdu=bytes(20))
        losses[source] = sum(source not in frame.delivered for frame in frames) / len(frames)
    assert losses["b"] == pytest.approx(losses["c"], abs=0.1)
    assert 0.3 < losses["b"] < 0.9


def test_who_comes_while_a_frame_is_on_air_may_be_noisy_at_once() -> None:
    """Its bursts are heard like any other's."""
    settings = LineSettings(100, 40, 40, burst_rate_hz=1e6, burst_s=1e3, burst_db=90, burst_reach=Reach.LOCATION)
    bench = Bench("ab", replace(settings, burst_db=0.0))
    assert bench.times("a", 1)[0].delivered == ["b"]
    bench = Bench("ab", settings)
    frame = bench.send("a")
    bench.at(0.01, "a")
    bench.loop.call_at(0.011, bench.line.attach, Ear("c"))
    bench.run()
    assert frame.delivered == []


def test_a_damaged_payload_has_as_many_wrong_bits_as_the_signal_tells() -> None:
    """Never none, none in the header, and on the average the share of the table."""
    path_db = 40 + 20 - 8.0  # DBPSK at 8 dB
    bench = Bench("ab", LineSettings(100, path_db, 40, implementation_loss_db=0))
    frames = bench.times("a", 3000, scheme=Scheme.DBPSK)
    wrong = [bin(int.from_bytes(pdu, "big")).count("1") for _, pdu, _ in bench.ears["b"].heard]
    assert all(not any(pdu[:7]) for _, pdu, _ in bench.ears["b"].heard)
    damaged = [count for count in wrong if count]
    assert len(wrong) - len(damaged) == sum(bool(frame.delivered) for frame in frames)
    bits, rate = 8 * (len(PDU) - 7), bit_error_rate(8.0, Scheme.DBPSK)
    none = (1 - rate) ** bits
    assert sum(damaged) / len(damaged) == pytest.approx(bits * rate + none, rel=0.1)


def test_an_impulse_spoils_one_symbol_s_frame() -> None:
    """Ten impulses a second, each far above the signal: a 51 ms frame survives with probability exp(-0.51)."""
    bench = Bench("ab", LineSettings(100, 40, 40, impulse_rate_hz=10.0, impulse_db=40.0))
    frames = bench.times("a", 1500)
    whole = sum(bool(frame.delivered) for frame in frames) / len(frames)
    assert whole == pytest.approx(math.exp(-10 * frame_duration_s(len(PDU), Scheme.DBPSK_C)), abs=0.05)


@pytest.mark.parametrize("scheme", [Scheme.DBPSK_C, Scheme.D8PSK])
@pytest.mark.parametrize("struck", [[(0, 0)], [(3, 0)], [(0, 1), (3, 1)], [(2, 0), (2, 0)], [(1, 1), (4, 1), (2, 0)]])
def test_single_impulses_are_reckoned_as_noise_of_every_kind_is(scheme: Scheme, struck: list[tuple[int, int]]) -> None:
    """On an otherwise quiet line only the symbols hit are looked at. Header, payload, one symbol twice, two readers:
    the same as from the whole matrix of times and readers."""
    bench = Bench("abc", LineSettings(100, 70, 8, impulse_rate_hz=1.0, impulse_db=6.0))
    frame = bench.send("a", scheme=scheme)
    symbols, stations = payload_symbols(len(PDU), scheme), [1, 2]
    found = bench.line._struck(frame, stations, symbols, struck)
    power = bench.line._spread(frame, symbols, bench.line._links.noise[np.array(stations)], [], struck)
    general = bench.line._disturbed(frame, np.array(stations), power)
    assert set(found) == {stations[column] for _, column in struck}
    for station, values in found.items():
        assert values == pytest.approx(general[station], rel=1e-9)


def test_noise_and_attenuation_wander_around_their_means() -> None:
    """Standard deviation as set, and slower than the time constant: ten seconds change little, hours everything."""
    bench = Bench("ab", LineSettings(100, 40, 40, wander_s=100.0, noise_wander_db=3.0, path_wander_db=2.0))
    seen = []
    for step in range(20000):
        bench.run(10.0 * step)
        seen.append(bench.line.snr_db("a", "b"))
    series = np.array(seen)
    assert series.mean() == pytest.approx(20.0, abs=0.5)
    assert series.std() == pytest.approx(math.sqrt(3**2 + 2 * 2**2), rel=0.1)
    assert np.corrcoef(series[1:], series[:-1])[0, 1] == pytest.approx(math.exp(-0.1), abs=0.03)


# ---- order -----------------------------------------------------------------------------------------------------------


def chatter(seed: int) -> str:
    """Everybody sends at random on a noisy street; a hash of who heard what."""
    _, topology = street(30, 3, seed, 36.0, PathSettings())
    settings = LineSettings(
        noise_dbuv=72,
        noise_wander_db=2,
        path_wander_db=1,
        impulse_rate_hz=1,
        burst_rate_hz=0.01,
        burst_reach=Reach.LOCATION,
    )
    loop = EventHeap()
    line = PowerLine(loop, random.Random(seed), settings, topology)
    ears = [Ear(name) for name in topology.names]
    for ear in ears:
        line.attach(ear)
    talk = random.Random(seed)
    for k in range(800):
        loop.call_at(
            0.05 * k, line.emit, ears[talk.randrange(31)], talk.randbytes(40), Scheme.DBPSK_C, PhyMode.TYPE_A, 0.0
        )
        loop.call_at(
            0.05 * k + talk.random() * 0.1, line.emit, ears[k % 31], bytes(30), Scheme.DQPSK_C, PhyMode.TYPE_A, 0.0
        )
    loop.run_until(60.0)
    assert line.counters.frames == 1600
    assert line.counters.damaged > 0
    return hashlib.sha256(repr([ear.heard for ear in ears]).encode()).hexdigest()


def test_one_seed_is_one_line() -> None:
    """All chance is the seed's: the same seed gives the same receptions to the bit, another one others."""
    assert chatter(1) == chatter(1) != chatter(2)


def test_a_station_may_leave_and_come_back_under_its_name() -> None:
    """Uncoupled it hears nothing; its place on the line, attenuation included, is kept for it."""
    bench = Bench("ab")
    bench.line.set_attenuation("a", "b", 33.0)
    bench.line.detach(bench.ears["b"])
    assert bench.times("a", 1)[0].delivered == []
    bench.line.attach(Ear("b"))
    assert bench.times("a", 1)[0].delivered == ["b"]
    assert bench.line.snr_db("a", "b") == pytest.approx(100 - 33 - 40)


def test_calls_of_one_instant_come_in_the_order_they_were_asked_for() -> None:
    """Many share a place in the heap, others of the same instant come between, one is cancelled, one asks for another,
    and a run that ends in the middle goes on where it stopped."""
    heap, seen = EventHeap(), list[str]()
    for name in "ab":
        heap.call_at(1.0, seen.append, name)
    heap.call_at(2.0, seen.append, "z")
    gone = [heap.call_at(1.0, seen.append, name) for name in "cde"][1]
    gone.cancel()
    heap.call_at(1.0, lambda: heap.call_at(1.0, seen.append, "last"))
    heap.run_until(5.0, lambda: seen[-1:] == ["c"])
    assert (seen, heap.time()) == (["a", "b", "c"], 1.0)
    heap.run_until(5.0)
    assert seen == ["a", "b", "c", "e", "last", "z"]
