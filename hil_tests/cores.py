"""A street of cores: the real pure machines of every meter and of the DCU, in virtual time on one heap of events.

What is real: `meter.core.MeterCore` of each customer, `dcu.hosting.engine.HostingEngine`, every message through its
COSEM bytes, and the exact, unbalanced power flow of the feeder. What is modelled: the line (`hil_tests.queue_line`),
the EM330s (`hil_tests.instruments`), relays that follow at once, and households (`hil_tests.household`). Loads and
sun hold for a minute, plants follow their limit within half a second, the physics looks every second.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
from dlms_cosem.enumerations import DataAccessResult
from numpy.typing import NDArray

from dcu.hosting import exchange as hosting
from dcu.hosting.engine import HostingEngine
from hil_tests.day import Day
from hil_tests.household import LOOK_S, Household
from hil_tests.instruments import Instruments
from hil_tests.queue_line import LineCounters, QueueLine
from hil_tests.street_dcu import Keep, StreetDcu, StreetSettings, meter_names
from hil_tests.street_flow import StreetFlow
from meter import core as metering
from meter.config import overvoltage_v_max
from shared.cosem import Pushed, Written, decode_apdu, encode_down, encode_up, encode_write_answer
from shared.messages import RelayState, Release, Report, Request, Upward

Reals = NDArray[np.float64]

LEDGER_S: Final = 0.005
"""[s] From a decision to its durable record; no message leaves before."""
RELAY_S: Final = 0.05
"""[s] A relay's contact follows."""
RAMP_S: Final = 0.5
"""[s] An inverter follows its limit within this."""
KEPT: Final = ("meter", "limit_w", "reason", "binding", "value")
"""What of a ledger's entry is kept as an event."""
WARM_UP_S: Final = 180
"""[s] Of the first minute before the clock starts: everybody links, quarantine ends, the first wishes are answered."""


@dataclass(frozen=True, slots=True, eq=False)
class StreetRun:
    """What came of it, a row a minute: means of generation and of limits (t, n_plant) [W], of the households' wishes
    (t, n_plant) [W, 0 where none]; mean and highest voltages (t, n_port) [V]; highest rated currents (t, k) [A]."""

    generated_w: Reals
    limit_w: Reals
    wish_w: Reals
    u_mean_v: Reals
    u_peak_v: Reals
    i_peak_a: Reals
    counts: dict[str, int]
    reasons: dict[str, int]
    events: tuple[dict[str, Any], ...]
    line: LineCounters
    seconds: float


class _Kind(IntEnum):
    """What is due, in the order of precedence at one instant."""

    SECOND = 0
    READ = 1
    BUSBAR = 2
    RELAY = 3
    LINE = 4
    METER = 5
    ENGINE = 6
    WISH = 7
    SEND = 8


@dataclass(slots=True)
class _Sums:
    """Of the present minute."""

    generated: Reals
    limit: Reals
    wish: Reals
    u: Reals
    u_peak: Reals
    i_peak: Reals


@dataclass(frozen=True, slots=True)
class _Word:
    """An APDU from or to a meter."""

    who: int
    data: bytes


@dataclass(slots=True)
class _Seen:
    """What an observer at the ledger and at the meters writes down."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    events: list[dict[str, Any]] = field(default_factory=list)

    def record(self, entry: dict[str, Any], at_s: float) -> None:
        """An entry of the ledger: counted, and kept in short if it is a change for somebody."""
        kind = entry["kind"]
        self.counts[kind] += 1
        if kind in ("denial", "revoke"):
            self.reasons[f"{kind} {entry.get('reason')}"] += 1
        if kind not in ("renewal", "window", "view"):
            event: dict[str, Any] = {"at_s": round(at_s, 3), "kind": kind}
            event |= {key: entry[key] for key in KEPT if key in entry}
            self.events.append(event)


class Street:
    """All machines and the heap; `run` plays the day once."""

    def __init__(
        self,
        flow: StreetFlow,
        day: Day,
        settings: StreetSettings,
        keep: Keep = lambda _: None,
        dcu: StreetDcu | None = None,
    ) -> None:
        """A street; every entry of its DCU's ledger goes to ``keep``. Limits are those of ``dcu``, if it is given."""
        self._flow, self._day, self._settings = flow, day, settings
        draw = random.Random(settings.seed)
        self._draw = draw
        customers = flow.customers
        plants = {plant.customer: k for k, plant in enumerate(day.plants)}
        self._plant_of = [plants.get(name) for name in customers]
        self._meter_of = {name: k for k, name in enumerate(meter_names(customers))}
        self._names = meter_names(customers)
        self.dcu = dcu or StreetDcu.of(settings, flow, {name: self._contract_w(name) for name in customers})
        self._entries = self.dcu.entries(self._names)
        self._cores = [self._core(k, random.Random(draw.getrandbits(64))) for k in range(len(customers))]
        self._households = {
            k: Household(self._entries[k].nominal_limit_w, day.plants[plant].peak_w)
            for k, plant in enumerate(self._plant_of)
            if plant is not None
        }
        self._instruments = Instruments(flow, settings.errors, settings.seed)
        self._line: QueueLine[_Word] = QueueLine(settings.line, random.Random(draw.getrandbits(64)))
        self._keep = keep
        self._ear: Callable[[hosting.Input], object] = lambda _: None
        self._engine = self.dcu.engine(settings, flow, keep, 0.0)
        self._heap: list[tuple[float, int, int, int]] = []
        self._serial = 0
        self._outgoing: dict[int, _Word] = {}
        self._meter_due = [np.inf] * len(customers)
        self._engine_due = self._line_due = np.inf
        self._relays: list[RelayState] = [RelayState.NOMINAL] * len(customers)
        self._seen = _Seen()
        self._invoke = 0
        self._limit_w = np.array(
            [self._entries[customers.index(plant.customer)].nominal_limit_w for plant in day.plants]
        )
        self._moved_s = np.full(len(day.plants), -np.inf)
        self._generated_w = np.zeros(len(day.plants))
        self._own_w = np.maximum(0.0, day.own_w())
        self._minute = 0
        self._still_in = -1

    def _core(self, k: int, draw: random.Random) -> metering.MeterCore:
        settings = metering.MeterSettings(
            id=self._names[k],
            phases=self._flow.phases[k],
            nominal_limit_w=self._entries[k].nominal_limit_w,
            contract_limit_w=self._entries[k].contract_limit_w,
            overvoltage_v=overvoltage_v_max(self._settings.nominal_voltage_v),
            report_interval_s=self._settings.report_s,
            report_change_w=self._settings.report_change_w,
        )
        return metering.MeterCore(settings, draw)

    def _contract_w(self, name: str) -> float:
        peaks = [plant.peak_w for plant in self._day.plants if plant.customer == name]
        return max(self._settings.nominal_w, *peaks, 0.0)

    # ---- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> StreetRun:
        """Warm up, then play every minute."""
        plants, ports, rated = len(self._day.plants), len(self._flow.u_v), len(self._flow.i_a)
        rows: dict[str, list[Reals]] = {name: [] for name in _Sums.__slots__}
        sums: _Sums | None = None
        second = 0
        for second in self.seconds():
            at = second - WARM_UP_S
            if at >= 0 and at % 60 == 0:
                zero = np.zeros(plants)
                sums = _Sums(zero, zero.copy(), zero.copy(), np.zeros(ports), np.zeros(ports), np.zeros(rated))
            if sums is not None:
                self._add(sums)
                if at % 60 == 59:
                    for name, row in rows.items():
                        value = getattr(sums, name)
                        row.append(value if name.endswith("peak") else value / 60)
        found = {name: np.array(values) for name, values in rows.items()}
        return StreetRun(
            found["generated"],
            found["limit"],
            found["wish"],
            found["u"],
            found["u_peak"],
            found["i_peak"],
            dict(sorted(self._seen.counts.items())),
            dict(sorted(self._seen.reasons.items())),
            tuple(self._seen.events),
            self._line.counters,
            float(second + 1),
        )

    def seconds(self) -> Iterator[int]:
        """Play, one second after the other; each is given when its physics is known, for whoever looks on."""
        self._begin()
        self._step(0.0)
        ends_s = WARM_UP_S + 60 * len(self._day.minute)
        for second in range(ends_s):
            self._until(float(second))
            self._minute = max(0, second - WARM_UP_S) // 60
            self._step(float(second))
            yield second
        self._until(float(ends_s))

    def listen(self, ear: Callable[[hosting.Input], object]) -> None:
        """`ear` hears everything that the DCU is told, after the engine."""
        self._ear = ear

    @property
    def day(self) -> Day:
        """What is played."""
        return self._day

    @property
    def engine(self) -> HostingEngine:
        """The DCU's, for whoever looks on."""
        return self._engine

    def _begin(self) -> None:
        self._note(self._engine.start(), 0.0)
        for k in range(len(self._names)):
            self._perform(k, self._cores[k].handle(metering.RelayObserved(RelayState.NOMINAL), 0.0), 0.0)
            self._push(self._settings.reading_s * self._draw.random(), _Kind.READ, k)
            up_s = self._settings.report_s * (k + 1) / len(self._names)
            self._push(up_s, _Kind.SEND, -k - 1)
            if k in self._households:
                self._push(LOOK_S * self._draw.random(), _Kind.WISH, k)
        self._push(self._settings.reading_s * self._draw.random(), _Kind.BUSBAR, 0)

    def _add(self, sums: _Sums) -> None:
        sums.generated += self._generated_w
        sums.limit += self._limit_w
        sums.u += self._flow.u_v
        np.maximum(sums.u_peak, self._flow.u_v, out=sums.u_peak)
        np.maximum(sums.i_peak, self._flow.i_a, out=sums.i_peak)
        for k, household in self._households.items():
            plant = self._plant_of[k]
            assert plant is not None
            sums.wish[plant] += household.wish_w

    def _push(self, at: float, kind: _Kind, who: int) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at, kind, self._serial, who))

    def _until(self, end_s: float) -> None:
        """Everything due before an instant."""
        heap = self._heap
        while heap and heap[0][0] < end_s:
            now, kind, _, who = heapq.heappop(heap)
            self._turn(now, kind, who)

    def _turn(self, now: float, kind: int, who: int) -> None:
        if kind == _Kind.READ:
            self._push(now + self._settings.reading_s, _Kind.READ, who)
            self._meter(who, metering.ReadingTaken(self._instruments.read(who), now), now)
        elif kind == _Kind.LINE:
            self._line_due = np.inf
            for word in self._line.wake(now):
                self._arrived(word, now)
        elif kind == _Kind.METER and now == self._meter_due[who]:
            self._meter_due[who] = np.inf
            self._perform(who, self._cores[who].wake(now), now)
        elif kind == _Kind.ENGINE and now == self._engine_due:
            self._engine_due = np.inf
            self._note(self._engine.wake(now), now)
        elif kind == _Kind.BUSBAR:
            self._push(now + self._settings.reading_s, _Kind.BUSBAR, 0)
            self._hosting(hosting.SubstationRead(self._instruments.busbar()), now)
        elif kind == _Kind.RELAY:
            self._meter(who, metering.RelayObserved(self._relays[who]), now)
        elif kind == _Kind.WISH:
            self._push(now + LOOK_S, _Kind.WISH, who)
            self._wish(who, now)
        elif kind == _Kind.SEND:
            self._leave(who, now)
        if self._line_due == np.inf and self._line.wake_at is not None:
            self._line_due = self._line.wake_at
            self._push(self._line_due, _Kind.LINE, 0)

    def _leave(self, who: int, now: float) -> None:
        """A record is durable and its message goes; or, below 0, a meter's link comes up."""
        if who < 0:
            meter = -who - 1
            self._hosting(hosting.LinkChanged(self._names[meter], up=True), now)
            self._meter(meter, metering.LinkChanged(up=True), now)
        else:
            word = self._outgoing.pop(who)
            self._line.offer(word, len(word.data), now, from_base=True)

    # ---- physics -----------------------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Plants follow their limits; the flow is solved again where anything moved."""
        t = self._minute
        if t == self._still_in:
            return
        target = np.minimum(self._day.pv_w[t], self._own_w[t] + self._limit_w)
        way = np.clip((now - self._moved_s) / RAMP_S, 0.0, 1.0)
        before, self._generated_w = self._generated_w, self._generated_w + way * (target - self._generated_w)
        if way.min(initial=1.0) == 1.0 and np.array_equal(before, self._generated_w):
            self._still_in = t  # until the next minute, or a limit moves
        if self._flow.solve(self._day.p_w[t] - self._generated_w @ self._day.spread, self._day.q_var[t]):
            self._instruments.renew(now)

    def _limited(self, who: int, now: float) -> None:
        plant = self._plant_of[who]
        if plant is not None:
            limit_w = self._cores[who].limiter.limit_w
            if limit_w != self._limit_w[plant]:
                self._limit_w[plant], self._moved_s[plant] = limit_w, now
                self._still_in = -1

    def _wish(self, who: int, now: float) -> None:
        plant, t = self._plant_of[who], self._minute
        assert plant is not None
        core, household = self._cores[who], self._households[who]
        pv_w, own_w = float(self._day.pv_w[t, plant]), float(self._own_w[t, plant])
        wish = household.look(pv_w, own_w, core.dialogue, now)
        if wish is not None:
            self._seen.counts["asked" if isinstance(wish, metering.HouseholdAsked) else "given back"] += 1
            self._meter(who, wish, now)

    # ---- machines ----------------------------------------------------------------------------------------------------

    def _meter(self, who: int, item: metering.Input, now: float) -> None:
        self._perform(who, self._cores[who].handle(item, now), now)

    def _perform(self, who: int, outputs: list[metering.Output], now: float) -> None:
        for output in outputs:
            match output:
                case metering.SendUp():
                    self._send_up(who, output.message, now)
                case metering.SetRelay():
                    self._seen.counts["relay moves"] += self._relays[who] is not output.state
                    self._relays[who] = output.state
                    self._push(now + RELAY_S, _Kind.RELAY, who)
                case metering.Event() if output.what in ("alarm", "fell back to nominal", "grant refused"):
                    self._seen.counts[f"meter: {output.what}"] += 1
                case _:
                    pass
        self._limited(who, now)
        due = self._cores[who].wake_at
        if due is not None and due < self._meter_due[who]:
            self._meter_due[who] = due
            self._push(due, _Kind.METER, who)

    def _send_up(self, who: int, message: Upward, now: float) -> None:
        self._invoke += 1
        data = encode_up(message, self._invoke & 0xFFFFFF)
        self._line.offer(_Word(who, data), len(data), now, from_base=False)

    def _arrived(self, word: _Word, now: float) -> None:
        apdu = decode_apdu(word.data)
        if isinstance(apdu, Written):
            if apdu.confirmed:
                answer = encode_write_answer(apdu.invoke_id, DataAccessResult.SUCCESS)
                self._line.offer(_Word(word.who, answer), len(answer), now, from_base=False)
            self._meter(word.who, metering.MessageArrived(apdu.message), now)
        elif isinstance(apdu, Pushed):
            meter = self._names[word.who]
            match apdu.message:
                case Report():
                    self._hosting(hosting.ReportArrived(meter, apdu.message), now)
                case Request():
                    self._hosting(hosting.RequestArrived(meter, apdu.message), now)
                case Release():
                    self._hosting(hosting.ReleaseArrived(meter, apdu.message), now)

    def _hosting(self, item: hosting.Input, now: float) -> None:
        self._note(self._engine.handle(item, now), now)
        self._ear(item)

    def _note(self, outputs: list[hosting.Output], now: float) -> None:
        for output in outputs:
            if isinstance(output, hosting.Record):
                self._keep(output.entry)
                self._seen.record(output.entry, now - WARM_UP_S + 60.0 * float(self._day.minute[0]))
            elif isinstance(output, hosting.SendDown):
                who = self._meter_of[output.meter]
                self._invoke += 1
                self._outgoing[self._serial] = _Word(who, encode_down(output.message, self._invoke))
                self._push(now + LEDGER_S, _Kind.SEND, self._serial)
            # What is said to all besides is not played here: this line has no broadcasts, and loses nothing.
        due = self._engine.wake_at
        if due is not None and due < self._engine_due:
            self._engine_due = due
            self._push(due, _Kind.ENGINE, 0)
