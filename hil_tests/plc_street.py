"""The wire alone at street scale: real stacks of a DCU and of up to two hundred meters on a virtual power line.

Cold start to everybody's connection, an hour of reports, switches that lose power one after the other; all in virtual
time from one seed, or in wall-clock time on a loop of asyncio.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from hil_tests.plc_bound import least_airtime
from hil_tests.plc_stations import SAP, Listener, Meter, Pump
from hil_tests.virtual.bursts import Reach
from hil_tests.virtual.events import EventHeap, Scheduler
from hil_tests.virtual.line import Frame, LineSettings, PowerLine
from hil_tests.virtual.topology import BASE, PathSettings, Topology, depths, street
from prime_plc.control import ControlType
from prime_plc.links import PARENT
from prime_plc.modem_host import ModemSettings, Port, TypeAFraming
from prime_plc.sap import DataConfirmed, DataResult, Output, SendData
from prime_plc.settings import MacSettings
from prime_plc.stack import StackSettings, base_stack, service_stack
from prime_plc.survey import Survey, link_seen
from shared.ids import Eui48, format_eui48

STREET: Final = LineSettings(
    noise_dbuv=72.0,
    noise_wander_db=2.0,
    path_wander_db=1.0,
    impulse_rate_hz=1.0,
    impulse_db=20.0,
    burst_rate_hz=1 / 300,
    burst_s=2.0,
    burst_db=15.0,
    burst_reach=Reach.LOCATION,
)
"""The default street's noise.

Floor: the residential background spectrum of O. Hooijen, 10**(-8.64 - 3.95e-5 f) W/Hz in 50 ohm, is 72 dBuV over the
band; its spread of half a decade is `PathSettings.noise_spread_db`. Impulses: one a second is the moderately disturbed
line of M. Zimmermann and K. Dostert; a tenth of a millisecond at 33 dB is 20 dB over a symbol. Both are *recalled and
not checked*. Wandering and bursts (an appliance near every meter, two seconds in five minutes) are *ours*.
"""

LINK_MARGIN_DB: Final = 6.0
"""What a hop of the plan has above the noise floor: DBPSK_C's 3 dB, the receiver's loss of 1.5 dB, and 1.5 dB."""

START_SPREAD_S: Final = 5.0
"""[s] Power returns to everybody at once; devices boot within this."""

START_S_MAX: Final = 3600.0
REPORT_AGE_S: Final = 60.0
"""[s] The last reports of a run have this long to arrive."""

RECOVERY_S_MAX: Final = 900.0
"""[s] After a failure; who has not reported again by then is lost."""

PING: Final = bytes(8)
PING_TOKEN: Final = 1 << 32
"""No other message of the base has it."""

PING_S_MAX: Final = 60.0
SETTLE_S: Final = 30.0
SENTINEL_BYTES: Final = 3

CPU_S_MIN: Final = 1e-3
"""[s] Of a core, the least that is told: its speed is a number."""


@dataclass(frozen=True, slots=True)
class PlcStreetSettings:
    """What street, and what happens on it.

    Attributes:
        nodes: meters, 1 to 200.
        levels: hops from the base to the farthest tenth of them, on paper.
        report_interval_s: of each meter.
        report_bytes: of one report; the product's own with one phase has 113.
        answer_bytes: with which the DCU answers each; 0 does not.
        off_s: how long a switch that fails stays without power.
        bytes_on_port: serial framing between stack and modem, or messages as values.
    """

    nodes: int = 100
    levels: int = 4
    seed: int = 1
    report_interval_s: float = 60.0
    report_bytes: int = 113
    answer_bytes: int = 0
    off_s: float = 60.0
    line: LineSettings = STREET
    path: PathSettings = PathSettings()
    mac: MacSettings = MacSettings()
    framing: TypeAFraming = TypeAFraming.STOCK
    port: Port = Port.MESSAGES


def with_burst_loss(line: LineSettings, share: float, mean_s: float) -> LineSettings:
    """A line each of whose receivers is deaf for a share of the time, in bursts of a mean length [s] of its own."""
    rate_hz = share / (1 - share) / mean_s
    return replace(line, burst_rate_hz=rate_hz, burst_s=mean_s, burst_db=60.0, burst_reach=Reach.RECEIVER)


@dataclass(slots=True)
class Started:
    """A cold start."""

    all_s: float | None
    """[s] From power to the last connection; None if somebody never came."""
    median_s: float
    open: int
    missing: list[int]


@dataclass(slots=True)
class Reported:
    """A span of reports."""

    seconds: float
    due: int
    delivered: int
    twice: int
    offered_again: int
    dropped: int
    delay_s_median: float
    delay_s_p99: float
    delay_s_max: float
    links_lost: int
    reasons: dict[str, int]

    @property
    def delivered_fraction(self) -> float:
        """Of those that were due."""
        return self.delivered / self.due if self.due else 1.0


@dataclass(slots=True)
class Failed:
    """Switches that lost power, one after the other."""

    failures: int
    orphans: int
    lost: list[str] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)


class PlcStreet:
    """A street of stacks on one line."""

    def __init__(
        self, settings: PlcStreetSettings, topology: Topology | None = None, loop: Scheduler | None = None
    ) -> None:
        self.settings = settings
        self._heap = EventHeap()
        self.loop: Scheduler = loop or self._heap
        self._draw = random.Random(settings.seed)
        reach_db = settings.line.level_dbuv - settings.line.noise_dbuv - LINK_MARGIN_DB
        if topology is None:
            _, topology = street(settings.nodes, settings.levels, settings.seed, reach_db, settings.path)
        self.topology = topology
        self.plan_hops = depths(topology, reach_db)
        self.line = PowerLine(self.loop, self._draw, settings.line, topology)
        self.line.on_frame = self._on_frame
        self.airtime_s: defaultdict[str, float] = defaultdict(float)
        self.frames: Counter[str] = Counter()
        self._trace = hashlib.blake2b(digest_size=8)
        self._skip = SENTINEL_BYTES if settings.framing is TypeAFraming.STOCK else 0
        self._stack_settings = StackSettings(settings.mac, ModemSettings(settings.framing, port=settings.port))
        self.listener = Listener(self.loop, settings.answer_bytes)
        self.base_eui48 = _eui48(0)
        names = [name for name in topology.names if name != BASE]
        self.meters = [
            Meter(number, _eui48(number), self.loop, settings.report_bytes, self._starter(number, name))
            for number, name in enumerate(names, 1)
        ]
        self._open = 0
        self._first_open_s: dict[int, float] = {}
        for meter in self.meters:
            meter.on_link = self._on_link
        self.due: dict[tuple[int, int], float] = {}
        self.on_frame: Callable[[str], None] = lambda _kind: None

    def _starter(self, number: int, name: str) -> Callable[[Callable[[Output], None]], Pump]:
        def start(on_output: Callable[[Output], None]) -> Pump:
            draw = random.Random(self._draw.getrandbits(64))
            stack = service_stack(self._stack_settings, _eui48(number), b"M%05d" % number, draw)
            return Pump(name, stack, self._stack_settings, self.line, self.loop, draw, on_output)

        return start

    def run_until(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Virtual time up to an instant [s], or until something is so."""
        assert self.loop is self._heap, "a street on another's loop lives as long as that runs"
        self._heap.run_until(until, done)

    # ---- what happens ------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Everything starts, everybody within a few seconds."""
        draw = random.Random(self._draw.getrandbits(64))
        stack = base_stack(self._stack_settings, self.base_eui48, draw)
        settings = self._stack_settings
        self.listener.pump = Pump(BASE, stack, settings, self.line, self.loop, draw, self.listener.hear)
        self.loop.call_later(0.0, self.listener.pump.open)
        for meter in self.meters:
            self.loop.call_later(self._draw.uniform(0.0, START_SPREAD_S), meter.power_on)

    def start(self, limit_s: float = START_S_MAX) -> Started:
        """Run until everybody's connection is open for the first time."""
        began_s = self.loop.time()
        self.power_on()
        self.run_until(began_s + limit_s, lambda: len(self._first_open_s) == len(self.meters))
        came = self._first_open_s
        times = [at_s - began_s for at_s in came.values()]
        missing = [meter.number for meter in self.meters if meter.number not in came]
        return Started(
            None if missing else round(max(times), 1),
            round(float(np.median(times)), 1) if times else math.nan,
            self._open,
            missing,
        )

    def begin_reports(self) -> None:
        """Every meter reports from now on, each at its own phase of the interval."""
        for meter in self.meters:
            self.loop.call_later(self._draw.uniform(0.0, self.settings.report_interval_s), self._report, meter)

    def _report(self, meter: Meter) -> None:
        meter.report()
        self.due[meter.number, meter.seq] = self.loop.time()
        self.loop.call_later(self.settings.report_interval_s, self._report, meter)

    def report_for(self, seconds: float) -> Reported:
        """A span of reports, and time for the last ones to arrive."""
        began_s, ended_s = self.loop.time(), self.loop.time() + seconds
        again, dropped = (sum(getattr(m, what) for m in self.meters) for what in ("offered_again", "dropped"))
        twice = self.listener.twice
        self.run_until(ended_s + REPORT_AGE_S)
        due = {key: at_s for key, at_s in self.due.items() if began_s <= at_s < ended_s}
        arrived = self.listener.arrived
        delays = [arrived[key] - at_s for key, at_s in due.items() if key in arrived]
        downs = [why for m in self.meters for at_s, why in m.link_downs if at_s >= began_s]
        some = delays or [math.nan]
        return Reported(
            seconds=seconds,
            due=len(due),
            delivered=len(delays),
            twice=self.listener.twice - twice,
            offered_again=sum(m.offered_again for m in self.meters) - again,
            dropped=sum(m.dropped for m in self.meters) - dropped,
            delay_s_median=round(float(np.median(some)), 3),
            delay_s_p99=round(float(np.percentile(some, 99)), 3),
            delay_s_max=round(max(some), 3),
            links_lost=len(downs),
            reasons=dict(Counter(downs)),
        )

    def fail_switches(self, count: int) -> Failed:
        """Take a random switch's power for a while, and wait until everybody reports again; so many times."""
        found = Failed(0, 0)
        for _ in range(count):
            switches = [meter for meter in self.meters if _is_switch(meter)]
            if not switches:
                break
            found.failures += 1
            victim = self._draw.choice(switches)
            found.orphans += len(self._below(victim))
            failed_s = self.loop.time()
            victim.power_off()
            self.loop.call_later(self.settings.off_s, victim.power_on)
            silent = {meter.number for meter in self.meters}

            def heard(number: int, seq: int, silent: set[int] = silent, since_s: float = failed_s) -> None:
                if self.due.get((number, seq), since_s) >= since_s:  # reported before it was noted as due: now
                    silent.discard(number)

            self.listener.on_report = heard
            self.run_until(failed_s + RECOVERY_S_MAX, lambda silent=silent: not silent)  # type: ignore[misc]
            found.recovery_s.append(round(self.loop.time() - failed_s, 1))
            found.lost += [f"failure {found.failures} of meter {victim.number}: meter {n}" for n in sorted(silent)]
            self.run_until(self.loop.time() + SETTLE_S)
        return found

    def ping(self, count: int) -> dict[int, list[float | None]]:
        """Round trips [s] from the base to every meter in turn; None for one that did not end well.

        A trip is a short LPDU down the meter's connection until its ARQ acknowledgement is back, through every switch
        on the way; a keep-alive would be the MAC's own, but nobody can ask for one at a given time.
        """
        assert self.listener.pump is not None
        trips: dict[int, list[float | None]] = {meter.number: [] for meter in self.meters}
        for _ in range(count):
            for meter in self.meters:
                trips[meter.number].append(self._ping(meter))
        return trips

    def _ping(self, meter: Meter) -> float | None:
        began_s = self.loop.time()
        ended: list[DataConfirmed] = []

        def confirmed(one: DataConfirmed) -> None:
            if one.token == PING_TOKEN:
                ended.append(one)

        self.listener.on_confirmed = confirmed
        assert self.listener.pump is not None
        self.listener.pump.put(SendData(meter.eui48, SAP, SAP, PING, PING_TOKEN))
        self.run_until(began_s + PING_S_MAX, lambda: bool(ended))
        self.listener.on_confirmed = lambda _one: None
        good = bool(ended) and ended[0].result is DataResult.ACKNOWLEDGED
        return round(self.loop.time() - began_s, 3) if good else None

    # ---- what is seen ------------------------------------------------------------------------------------------------

    def _below(self, switch: Meter) -> list[Meter]:
        """Everybody whose way to the base leads through a switch."""
        parents = {_own_sid(meter): _sid(meter) for meter in self.meters if _is_switch(meter)}
        own = _own_sid(switch)

        def passes(sid: int | None) -> bool:
            for _ in range(len(parents) + 1):
                if sid == own:
                    return True
                sid = parents.get(sid)
            return False

        return [meter for meter in self.meters if meter is not switch and passes(_sid(meter))]

    def levels(self) -> dict[str, int]:
        """Nodes by their hops from the base; who is in no network is 0."""
        hops = [1 + int(_summary(m)["level"]) if _summary(m).get("lnid") else 0 for m in self.meters]
        return {str(hop): count for hop, count in sorted(Counter(hops).items())}

    def plan_levels(self) -> dict[str, int]:
        """The same on paper, with the fewest hops."""
        return {str(int(hop)): n for hop, n in sorted(Counter(self.plan_hops.tolist()).items()) if 0 < hop < math.inf}

    def survey(self) -> Survey:
        """The tree as the base has it, with every link as the switch above it measures it."""
        assert self.listener.pump is not None
        found = Survey.of(self.listener.pump.stack.summary())
        stacks = {format_eui48(meter.eui48): meter.pump.stack for meter in self.meters if meter.pump is not None}
        switches = {node.lsid: stacks[node.eui48] for node in found.nodes if node.lsid and node.eui48 in stacks}
        links = {
            node.eui48: link_seen(seen)
            for node in found.nodes
            if node.sid in switches and (seen := switches[node.sid].links().get(node.lnid)) is not None
        }
        ups = {eui48: link_seen(up) for eui48, stack in stacks.items() if (up := stack.links().get(PARENT))}
        return found.with_links(links, ups)

    def trace(self) -> str:
        """A hash of every frame so far: who sent what when, and who received it."""
        return self._trace.hexdigest()

    def _on_link(self, meter: Meter, up: bool) -> None:  # a callback
        self._open += 1 if up else -1
        if up:
            self._first_open_s.setdefault(meter.number, self.loop.time())

    def _on_frame(self, frame: Frame) -> None:
        kind = frame_kind(frame.pdu[self._skip :])
        self.frames[kind] += 1
        self.airtime_s[kind] += frame.end_s - frame.start_s
        self.on_frame(kind)
        self._trace.update(struct.pack(">dHH", frame.start_s, frame.at, len(frame.delivered)))
        self._trace.update(frame.pdu)


def frame_kind(pdu: bytes) -> str:
    """What a frame is for, by its first packet; nothing is verified."""
    kind = pdu[0] >> 4 & 3
    if kind:
        return "beacon" if kind == 2 else "promotion needed"
    if len(pdu) < 9 or not pdu[3] & 0x02:
        return "data"
    try:
        return ControlType(pdu[4]).name
    except ValueError:
        return "other"


def _eui48(number: int) -> Eui48:
    return Eui48(bytes.fromhex("024844520000")[:4] + number.to_bytes(2, "big"))


def _summary(meter: Meter) -> dict[str, Any]:
    return {} if meter.pump is None else meter.pump.stack.summary()


def _sid(meter: Meter) -> int | None:
    return _summary(meter).get("sid")


def _own_sid(meter: Meter) -> int | None:
    return _summary(meter).get("lsid")


def _is_switch(meter: Meter) -> bool:
    return _own_sid(meter) not in {None, 0xFF}


@dataclass(slots=True)
class PlcResult:
    """Everything a run found."""

    settings: dict[str, Any]
    plan_levels: dict[str, int]
    started: Started
    levels: dict[str, int]
    reported: Reported | None
    failed: Failed | None
    airtime: dict[str, float]
    """Of all senders while reports went, by kind; empty without that time."""
    line: dict[str, float]
    virtual_s: float
    cpu_s: float
    """Never zero: a small street is done sooner than some machines' clocks tick."""
    trace: str
    survey: Survey
    least_airtime: float = 0.0
    """Share of the time that the reports would take at least, see `hil_tests.plc_bound`."""
    pings: dict[int, list[float | None]] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Virtual seconds in one second of one core."""
        return self.virtual_s / self.cpu_s

    def as_json(self) -> dict[str, Any]:
        """By name."""
        found = asdict(self) | {"times_real_time": round(self.speed, 1), "survey": self.survey.as_json()}
        if self.reported is not None:
            found["reported"]["delivered_fraction"] = self.reported.delivered_fraction
        return found


def run_street(
    settings: PlcStreetSettings,
    minutes: float,
    fail_switches: int = 0,
    topology: Topology | None = None,
    pings: int = 0,
) -> PlcResult:
    """Cold start, reports, failures."""
    began = time.process_time()
    street_ = PlcStreet(settings, topology)
    started = street_.start()
    before_s, before = street_.loop.time(), street_.airtime_s.copy()
    reported = failed = None
    if minutes or fail_switches:
        street_.begin_reports()
    if minutes:
        reported = street_.report_for(60 * minutes)
    span_s = street_.loop.time() - before_s
    levels, survey = street_.levels(), street_.survey()
    trips = street_.ping(pings) if pings else {}
    if fail_switches:
        failed = street_.fail_switches(fail_switches)
    shown = {key: value for key, value in asdict(settings).items() if key not in {"mac", "line", "path"}}
    return PlcResult(
        settings={key: getattr(value, "value", value) for key, value in shown.items()},
        plan_levels=street_.plan_levels(),
        started=started,
        levels=levels,
        reported=reported,
        failed=failed,
        airtime={k: round((s - before[k]) / span_s, 4) for k, s in street_.airtime_s.items()} if span_s else {},
        line=asdict(street_.line.counters),
        virtual_s=round(street_.loop.time(), 1),
        cpu_s=max(CPU_S_MIN, round(time.process_time() - began, 3)),
        trace=street_.trace(),
        survey=survey,
        least_airtime=round(
            least_airtime(street_.topology, settings.line, settings.report_bytes, settings.report_interval_s), 4
        ),
        pings=trips,
    )
